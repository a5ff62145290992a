"""Whatever is called while a slot is handled may raise: that slot fails and is reported, and all others go on.

The calls are those that are seen when it is handled undisturbed, of Python and of C; each is then made to raise once, in
one and the same supervisor, and the slot has to be whole again after a restart by command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from raising import EVERY, FIRST, KEYS, OTHERS, Calls, shims, try_to
from supervisor_world import Life, Shim

from impetusd.supervisor.slots.machine import Machine
from impetusd.supervisor.slots.reloads import Reloads
from impetusd.supervisor.slots.rolling import Rolling
from impetusd.supervisor.slots.starts import Starts

PROGRAM = f"[program:bad]\ncommand = sleep 1000\n{KEYS}"


@pytest.fixture
def shim(tmp_path) -> Iterator[Callable[[str], Shim]]:
    with shims(str(tmp_path)) as make:
        yield make


async def journey(life: Life) -> None:
    """A life of the slot: killed together with others, stopped, started, restarted."""
    before = life.shim.pids()
    life.shim.kill("before:0", *([] if "bad:0" not in before else ["bad:0"]), "after:0")

    def others(rows: dict[str, Any]) -> bool:
        return all(rows[name]["state"] == "RUNNING" and rows[name]["pid"] != before[f"{name}:0"] for name in OTHER)

    await life.until(others)
    await settled(life)
    await try_to(life, "stop", names=["bad"])
    await try_to(life, "start", names=["bad"])
    await try_to(life, "restart", names=["bad"])


OTHER = ("before", "after")
AT_REST = {"RUNNING", "FATAL", "STOPPED", "EXITED"}


async def settled(life: Life) -> dict[str, Any]:
    def rests(rows: dict[str, Any]) -> bool:
        return all(row["state"] in AT_REST for name, row in rows.items() if name not in OTHER)

    return await life.until(rests, "bad to come to rest")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", [pytest.param(FIRST, id=f"from {FIRST} each {EVERY}th")])
def test_what_raises_while_a_slot_is_handled_costs_that_slot_alone(shim: Callable[[str], Shim], first: int) -> None:
    told = shim(PROGRAM + OTHERS)
    handlers = [Machine.handle, Starts._attempt, Starts._launch_when_found, Rolling._advance, Reloads._advance]
    calls = Calls(handlers)

    async def scenario(life: Life) -> None:
        died: list[int] = []
        faults = life.daemon.faults
        faults.die = died.append
        await life.ask("start")
        await life.until_state("RUNNING")
        slots = set(await life.rows())
        calls.begin()
        await journey(life)
        calls.end()
        await life.until_state("RUNNING")
        assert len(calls.seen) > 100
        for site in [*calls.seen][first::EVERY]:
            calls.begin(site)
            await journey(life)
            calls.end()
            assert not died, site
            if calls.raised:
                status = await life.ask("status")
                reported = [each for each in status["notices"] if each["key"] == "mistake" and "Ours" in str(each)]
                assert reported, (site, status["notices"])
            await try_to(life, "restart", names=["bad"])
            rows = await life.until(
                lambda rows: set(rows) == slots and all(row["state"] == "RUNNING" for row in rows.values()),
                f"all to run after {site}",
            )
            pids = told.pids()
            assert {row["pid"] for row in rows.values()} == set(pids.values()), (site, rows, pids)
            faults._of.clear()
            faults._logged.clear()

    told.live(scenario)
