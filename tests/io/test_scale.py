"""`scale`: as many run as were asked for, whatever was stopped before."""

from __future__ import annotations

from pathlib import Path

import pytest
from supervisor_world import Life, Shim

POOL = "[pool:web]\napp = nosuch:make\ninstances = 2\nstandby = 1\nlisten = unix:web.sock\n"
PROGRAM = "[program:web]\ncommand = /bin/sleep 1000\ninstances = 2\n"


@pytest.mark.parametrize(
    ("text", "rest", "stopped"),
    [(POOL, ["web:template", "web:standby"], "web"), (PROGRAM, [], "web"), (PROGRAM, [], "web:0")],
    ids=["pool", "program", "one of a program"],
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_unit_that_was_stopped_runs_as_many_as_were_asked_for(
    tmp_path: Path, text: str, rest: list[str], stopped: str, count: int
) -> None:
    shim = Shim(str(tmp_path), text)
    shim.ready = True

    async def scenario(life: Life) -> None:
        await life.ask("start")
        await life.ask("stop", names=[stopped])
        await life.ask("scale", name="web", n=count)
        wanted = [*rest, *(f"web:{n}" for n in range(count))] if rest or count > 1 else ["web"]
        assert {name: row["state"] for name, row in (await life.rows()).items()} == dict.fromkeys(wanted, "RUNNING")

    try:
        shim.live(scenario)
    finally:
        shim.close()
