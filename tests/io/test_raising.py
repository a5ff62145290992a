"""Whatever is called while a slot is handled may raise: that slot fails and is reported, and all others go on.

The calls are those that are seen when it is handled undisturbed, of Python and of C; each is then made to raise once, in
one and the same supervisor, and the slot has to be whole again after a restart by command.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from supervisor_world import Life, Shim

import impetusd
from impetusd.core.protocol import ProtocolError
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.reloads import Reloads
from impetusd.supervisor.slots.rolling import Rolling

OURS = str(Path(impetusd.__file__).parent)
NEVER = "lock.release"  # it cannot raise; made to, it would leave the lock held for ever
# Of some 400 calls one in so many, from the FIRST on; 1 takes a minute and a half.
EVERY, FIRST = int(os.environ.get("IMPETUSD_RAISE_EVERY", "25")), int(os.environ.get("IMPETUSD_RAISE_FIRST", "0"))
KEYS = "kill_timeout = 100ms\nmin_uptime = 0\nexp_backoff_restart_delay = 10ms\nexp_backoff_max_delay = 10ms\nmax_restarts = 1000000\n"
OTHERS = "".join(f"[program:{name}]\ncommand = sleep 1000\n{KEYS}" for name in ("after", "before"))
PROGRAM = f"[program:bad]\ncommand = sleep 1000\n{KEYS}"

Site = tuple[str, int, str]  # the file and line of a call, and what is called


class Ours(Exception):
    """What is raised."""


class Calls:
    """Sees the calls made while a slot of the unit "bad" is handled; has one of them raise."""

    def __init__(self) -> None:
        self.seen: dict[Site, None] = {}
        self.victim: Site | None = None
        self.raised = False
        self._depth = 0
        handlers: list[Any] = [Engine._guard, Engine._try_to_start, Engine._launch_when_found]
        handlers += [Rolling._advance, Reloads._advance]
        self._handlers: set[CodeType] = {each.__code__ for each in handlers}

    def begin(self, victim: Site | None = None) -> None:
        self.victim, self.raised, self._depth = victim, False, 0
        sys.setprofile(self._look)

    def end(self) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "return":
            self._depth -= frame.f_code in self._handlers and _is_bad(frame)
        elif event in {"call", "c_call"} and self._depth > 0:
            caller = frame.f_back if event == "call" else frame
            if caller is not None and caller.f_code.co_filename.startswith(OURS):
                what = frame.f_code.co_qualname if event == "call" else arg.__qualname__
                if what == NEVER:
                    return
                self._site((caller.f_code.co_filename, caller.f_lineno, what))
        if event == "call":
            self._depth += frame.f_code in self._handlers and _is_bad(frame)

    def _site(self, site: Site) -> None:
        if self.victim is None:
            self.seen[site] = None
        elif site == self.victim:
            self.raised = True
            raise Ours(str(site))  # which ends the profile, too


def _is_bad(frame: FrameType) -> bool:
    found = frame.f_locals.get("entry")
    unit = found.unit if found is not None else frame.f_locals.get("unit")
    return unit is not None and unit.name == "bad"


@pytest.fixture
def shim(tmp_path) -> Iterator[Callable[[str], Shim]]:
    made: list[Shim] = []

    def make(text: str) -> Shim:
        made.append(Shim(str(tmp_path), f"[impetusd]\n{text}"))
        made[-1].ready = True
        return made[-1]

    yield make
    sys.setprofile(None)
    for each in made:
        each.close()


async def try_to(life: Life, method: str, **params: Any) -> None:
    """What comes of it is looked at later."""
    try:
        await asyncio.wait_for(life.ask(method, **params), 10.0)
    except ProtocolError:
        pass
    except TimeoutError:
        rows, log = await life.rows(), life.log().splitlines()
        raise AssertionError(f"{method} does not end: {rows}\n" + "\n".join(log[-60:])) from None


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
def test_what_raises_while_a_slot_is_handled_costs_that_slot_alone(shim: Callable[[str], Shim]) -> None:
    told = shim(PROGRAM + OTHERS)
    calls = Calls()

    async def scenario(life: Life) -> None:
        died: list[int] = []
        faults = life.daemon._faults
        faults.die = died.append
        await life.ask("start")
        await life.until_state("RUNNING")
        slots = set(await life.rows())
        calls.begin()
        await journey(life)
        calls.end()
        await life.until_state("RUNNING")
        assert len(calls.seen) > 100
        for site in [*calls.seen][FIRST::EVERY]:
            calls.begin(site)
            await journey(life)
            calls.end()
            assert not died, site
            if calls.raised:
                status = await life.ask("status")
                reported = [each for each in status["troubles"] if "Ours" in each]
                assert reported, (site, status["troubles"])
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
