"""What raises outside of the handling of one program's slot: in a pool's slots, timers, health checks and commands.

As in `test_raising`, the calls are those that are seen undisturbed; each is made to raise once, and the smallest thing fails:
all others go on, nothing is started twice, `status` answers, and the supervisor does not end over it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from raising import EVERY, FIRST, KEYS, OTHERS, Calls, shims, try_to
from supervisor_world import Life, Shim

from impetusd.core.rules.lifecycle import State
from impetusd.supervisor.api.commands import Commands
from impetusd.supervisor.rules.checks import Checks
from impetusd.supervisor.rules.timer_job import Job
from impetusd.supervisor.rules.timers import Timers
from impetusd.supervisor.slots.machine import Machine
from impetusd.supervisor.slots.reloads import Reloads
from impetusd.supervisor.slots.rolling import Rolling
from impetusd.supervisor.slots.starts import Starts

POOL = f"[pool:bad]\napp = x:y\nlisten = unix:w.sock\ninstances = 2\nstandby = 1\nreload_watch = 0\ndrain_timeout = 50ms\n{KEYS}"
TIMER = "[timer:bad]\ncommand = true\nevery = 1h\n[health:probe]\ntarget = after\ntcp = 127.0.0.1:1\ninterval = 1h\n"
OF_SLOTS = [Machine.handle, Starts._attempt, Starts._launch_when_found, Rolling._advance, Reloads._advance]
ABOUT_SLOTS = {"lifecycle.py"} | {
    f"{name}.py" for name in ("engine", "machine", "places", "reports", "rounds", "starts", "tails", "waits")
}
OF_TIMERS = [Job.look, Job.plan, Timers.changed, Timers.trigger]
OF_CHECKS = [Checks._conclude, Checks.changed]

Act = Callable[[Life], Awaitable[None]]


@pytest.fixture
def shim(tmp_path) -> Iterator[Callable[[str], Shim]]:
    with shims(str(tmp_path)) as make:
        yield make


def living(life: Life) -> dict[int, str]:
    return {child.pid: child.name for child in life.shim.children.values() if child.ended is None}


async def whole(life: Life, slots: set[str], site: object) -> None:
    """Everything runs, once, and nothing else does."""
    rows = await life.until(
        lambda rows: set(rows) == slots and all(row["state"] == "RUNNING" for row in rows.values()),
        f"all to run after {site}",
    )
    pids = {row["pid"] for row in rows.values()}
    assert pids == set(living(life)), (site, rows, living(life))


async def say_ready(life: Life) -> None:
    """A parked worker that is put to work says so."""
    engine = life.daemon.engine
    while True:
        for entry in list(engine.slots.entries.values()):
            if entry.slot.state is State.STARTING and entry.slot.pid is not None:
                engine.reports.ready(entry.slot.pid)
        await asyncio.sleep(0.005)


async def a_pool(life: Life) -> None:
    """A worker and the template are killed, it is rolled, reloaded, stopped and started."""
    rows = await life.rows()
    for name in ("bad:0", "bad:template", "before"):
        child = next((each for each in life.shim.children.values() if each.pid == rows[name]["pid"]), None)
        if child is not None and child.ended is None:
            life.shim.end(child, signal=9)
    life.shim.tell()
    await life.until(lambda now: now["before"]["pid"] not in {None, rows["before"]["pid"]})
    await try_to(life, "reload", names=["bad"])
    await try_to(life, "restart", names=["bad"], rolling=True)
    await try_to(life, "stop", names=["bad"])
    await try_to(life, "start", names=["bad"])


async def afresh(life: Life) -> None:
    await try_to(life, "restart", names=["bad"])


async def timers_and_checks(life: Life) -> None:
    """A run is due, one is triggered, one is stopped; a check is asked, and what it asks for is restarted."""
    timers, checks = life.daemon.rules.timers, life.daemon.rules.checks
    job = timers._jobs["bad"]
    job.rests_until, job.at = 0.0, replace(job.at, due=0.0)
    timers._ring()
    await job_ends(life)
    await try_to(life, "trigger", name="bad", wait=False)
    await try_to(life, "stop", names=["bad"])
    for subject in list(checks._subjects.values()):
        if subject.active and not subject.queued:
            before = subject.serial, subject.at
            checks._due(subject)
            await life.until(
                lambda _, subject=subject, before=before: (
                    (subject.serial, subject.at) != before or subject.check.target not in checks._busy
                )
            )
    await try_to(life, "restart", names=["after"])


async def job_ends(life: Life) -> None:
    def ended(rows: dict[str, Any]) -> bool:
        for child in list(life.shim.children.values()):
            if child.name == "bad" and child.ended is None:
                life.shim.end(child, code=0)
        life.shim.tell()
        return "bad" not in rows and life.daemon.rules.timers._jobs["bad"].at.run is None

    await life.until(ended, "the end of the run")


async def timer_runs(life: Life) -> None:
    """Whatever was raised, the next run begins and ends as it should."""
    await try_to(life, "stop", names=["bad"])
    await job_ends(life)
    await life.ask("trigger", name="bad", wait=False)
    await job_ends(life)
    (row,) = (await life.ask("timers"))["timers"]
    assert (row["state"], row["runs"][0]["ok"]) == ("waiting", True), row


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("status", {}),
    ("describe", {"name": "after"}),
    ("logs", {}),
    ("env", {"name": "after", "diff": True}),
    ("plan", {}),
    ("events", {}),
    ("health", {}),
    ("timers", {}),
    ("signal", {"names": ["after"], "signal": "USR1"}),
    ("scale", {"name": "after", "n": 1}),
    ("start", {}),
    ("restart", {"names": ["after"]}),
    ("reload", {"names": ["after"]}),
    ("stop", {"names": ["after"]}),
    ("start", {"names": ["after"]}),
]


async def commands(life: Life) -> None:
    """Each is answered, or fails by itself."""
    for method, params in ASKED:
        await try_to(life, method, **params)


async def start_all(life: Life) -> None:
    await life.ask("start")


def world(what: str, thinly: int, text: str, handlers: list[Any], act: Act, again: Act) -> Any:
    """In a sample, one site in `thinly` times EVERY is made to raise."""
    every = EVERY if EVERY == 1 else thinly * EVERY
    return pytest.param(text, handlers, act, again, every, id=f"{what}: from {FIRST} each {every}th")


WORLDS = [
    world("a pool's slots", 3, POOL, OF_SLOTS, a_pool, afresh),
    world("timers and checks", 1, TIMER, [*OF_TIMERS, *OF_CHECKS], timers_and_checks, timer_runs),
    world("commands", 4, "", [Commands.handle], commands, start_all),
]


@pytest.mark.timeout(1800)
# Of a call that is to take a coroutine, and raises instead: nothing of that has begun, so nothing of it is lost.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize(("text", "handlers", "act", "again", "every"), WORLDS)
def test_the_smallest_thing_fails(
    shim: Callable[[str], Shim], text: str, handlers: list[Any], act: Act, again: Act, every: int
) -> None:
    """One site in `every` (IMPETUSD_RAISE_EVERY=1: all of them)."""
    told = shim(text + OTHERS)
    calls = Calls(handlers)

    async def scenario(life: Life) -> None:
        died: list[int] = []
        serving = asyncio.create_task(say_ready(life))
        faults = life.daemon.faults
        faults.die = died.append
        await life.ask("start")
        await life.until_state("RUNNING")
        slots = set(await life.rows())
        await act(life)
        await again(life)
        await whole(life, slots, "nothing")
        calls.begin()
        await act(life)
        calls.end()
        await again(life)
        await whole(life, slots, "nothing")
        assert len(calls.seen) > 50
        # What is lost between the two processes ends the supervisor: its successor begins with what the shim knows. And what
        # is done for a slot is walked above, and in `test_raising`.
        apart = {"link.py", "wire.py", "bare.py", *(() if handlers is OF_SLOTS else ABOUT_SLOTS)}
        seen = [site for site in calls.seen if os.path.basename(site[0]) not in apart]
        for site in seen[FIRST::every]:
            try:
                calls.begin(site)
                await act(life)
                calls.end()
                assert not died
                await life.ask("status")
                await again(life)
            except AssertionError as error:
                raise AssertionError(f"after {site}: {error}") from error
            await whole(life, slots, site)
            faults._of.clear()
            faults._logged.clear()
        serving.cancel()

    told.live(scenario)
