"""What `apply`, `enable` and `disable` wait for: named slots, to a bound, whatever happens to them meanwhile."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from pathlib import Path

import pytest
from taken_over import APPLY, changes, configuration, row, slot, taken_over

from impetusd.core import protocol
from impetusd.core.config import switches
from impetusd.core.reasons import because
from impetusd.core.rules.lifecycle import State, Want

TIMERS = """
[timer:a]
command = sleep 0.15
every = 1d
[timer:b]
command = sleep 0.25
every = 1d
"""
CLEAN = {"code": 0, "at": time.time()}
FAILED = {"code": 1, "at": time.time()}
NEVER = {"stage": "starting a process", "error": "no", "at": time.time()}


def is_done(link) -> bool:
    return bool(json.loads(link.blob(APPLY) or "{}").get("done"))


def in_a_loop(test):
    """Run an async test; the parameters are the fixtures."""

    @functools.wraps(test)
    def run(**fixtures):
        asyncio.run(test(**fixtures))

    return run


async def until(daemon, condition):
    async with asyncio.timeout(60):
        await daemon.engine.waits.until(condition)


def job(process, state=State.RUNNING, want=Want.UP):
    return slot(process, state, want, since=1.0, started=None if state is State.STARTING else 1.0)


@pytest.mark.parametrize("ended", [CLEAN, FAILED, NEVER], ids=["clean", "failed", "never lived"])
@pytest.mark.parametrize("state", [State.RUNNING, State.STARTING, State.STOPPING], ids=lambda each: each.name)
@pytest.mark.parametrize("want", list(Want), ids=lambda each: each.value)
def test_a_job_that_ends_while_it_is_being_disabled_does_not_hold_it_up(paths, ended, state, want):
    """Its end came with the table, was on its way, or comes after the order to end; both jobs, in every order."""

    async def rounds():
        for a_told in (True, False):
            for b_told in (True, False):
                blobs = {
                    "slot:a": job(1, state, want),
                    "slot:b": job(2, state, want),
                    APPLY: changes("removed", "a", "b"),
                }
                table = [row(1, ended if a_told else None), row(2, ended if b_told else None)]
                off, on = configuration(TIMERS, "a", "b"), configuration(TIMERS)
                async with taken_over(paths, off, on, blobs, table) as (daemon, link):
                    for process, told in ((1, a_told), (2, b_told)):
                        if not told:
                            await asyncio.sleep(0)
                            daemon.engine.rounds.receive(
                                [{"event": "exited", "process": process, "left": False, **ended}]
                            )
                    await until(daemon, lambda: is_done(link))
                    assert daemon.engine.slots.entries == {}
                    assert link.blob("slot:a") is None
                    assert json.loads(link.blob(APPLY) or "")["ok"] is True

    asyncio.run(rounds())


@in_a_loop
async def test_what_never_moves_is_named_and_given_up(paths, monkeypatch):
    """The shim never tells how the job ended: as if the kernel did not let go of it."""
    monkeypatch.setattr("impetusd.supervisor.api.changeover.SLACK", -29.95)  # listen_timeout is 30 s
    blobs = {"slot:a": job(1), APPLY: changes("removed", "a")}
    text = TIMERS.replace("[timer:b]\ncommand = sleep 0.25\nevery = 1d\n", "")
    async with taken_over(paths, configuration(text, "a"), configuration(text), blobs, [row(1)]) as (daemon, link):
        assert [entry.name for entry in daemon.applying.awaited()] == ["a"]
        await until(daemon, lambda: is_done(link))
        answer = await daemon.applying.apply({"token": "t"})
    assert (answer["ok"], [each["name"] for each in answer["unfinished"]]) == (False, ["a"])
    assert daemon.applying.awaited() == []


@in_a_loop
async def test_a_job_that_has_begun_meanwhile_does_not_hold_up_what_switched_it_on(paths):
    blobs = {"slot:a": job(1, State.STARTING), "slot:b": job(2), APPLY: changes("added", "a", "b")}
    on, off = configuration(TIMERS), configuration(TIMERS, "a", "b")
    async with taken_over(paths, on, off, blobs, [row(1), row(2)]) as (daemon, link):
        await until(daemon, lambda: is_done(link))


@in_a_loop
async def test_who_waits_hears_at_once_for_what(paths):
    """A client that the supervisor before has let go asks the next one, where nothing moves for a while."""
    heard, anything = [], asyncio.Event()

    def progress(*told):
        heard.append(told)
        anything.set()

    blobs = {"slot:a": job(1, State.STOPPING, Want.DOWN), APPLY: changes("removed", "a")}
    off, on = configuration(TIMERS, "a"), configuration(TIMERS)
    async with taken_over(paths, off, on, blobs, [row(1)]) as (daemon, _):
        request = protocol.Request(1, "disable", {"names": ["a"], "token": "t"})
        asked = asyncio.ensure_future(daemon.commands.handle(request, progress))
        await asyncio.wait_for(anything.wait(), 60)
        daemon.engine.rounds.receive([{"event": "exited", "process": 1, "left": False, **CLEAN}])
        assert (await asked)["ok"] is True
    assert heard[0] == ("a", "STOPPING", "")


@in_a_loop
async def test_only_what_is_wrong_with_the_file_is_remembered_as_its_refusal(paths):
    """A mistyped --env is the command's mistake."""
    async with taken_over(paths, configuration(TIMERS), None, {}, []) as (daemon, _):
        applying = daemon.applying
        Path(paths.conf).write_text(TIMERS, encoding="utf-8")
        with pytest.raises(protocol.ProtocolError, match="no section uses the profile typo"):
            await applying.apply({"token": "t", "env": "typo"})
        assert applying.attention(time.time()) == []
        Path(paths.conf).write_text(f"{TIMERS}[program:a]\n", encoding="utf-8")
        with pytest.raises(protocol.ProtocolError, match="problem"):
            await applying.apply({"token": "t"})
        (told,) = applying.attention(time.time())
        assert told.find("ini_refused")
        with pytest.raises(protocol.ProtocolError, match="problem"):
            await applying.apply({"token": "t", "env": "typo"})
        (again,) = applying.attention(time.time())
        assert again.facts["problem"] == told.facts["problem"]


@in_a_loop
async def test_of_two_that_switch_at_once_the_second_asks_the_next_supervisor(paths, monkeypatch):
    """Its own file would take back what the first has switched."""
    monkeypatch.setattr("impetusd.supervisor.daemon.Daemon._hand_over", lambda *_: None)
    async with taken_over(paths, configuration(TIMERS), None, {}, []) as (daemon, _):
        asked = [daemon.applying.disable({"names": [name], "token": name}) for name in ("a", "b")]
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in told] == [ConnectionAbortedError] * 2
        text = Path(f"{paths.state_dir}/{switches.FILE}").read_text(encoding="utf-8")
        assert switches.parse(text) == ["a"]


@in_a_loop
async def test_a_relative_scale_is_done_once_though_it_is_asked_for_again(paths):
    """Its supervisor died over it: the client asks the next one with the same token."""
    pool = "[program:web]\ncommand = sleep 1000\ninstances = 2\n"
    blobs = {f"slot:web:{index}": job(index + 1) for index in range(2)}
    async with taken_over(paths, configuration(pool), None, blobs, [row(1), row(2)]) as (daemon, link):
        unit = daemon.engine.slots.units["web"]
        commands = daemon.commands
        assert commands._wanted(unit, "+1", "t") == 3
        daemon.engine.scale(unit, commands._wanted(unit, "+1", "t"), "t")
        assert commands._wanted(unit, "+1", "t") == 3
        assert commands._wanted(unit, "-1", "u") == 2
        facts = json.loads(link.blob("unit:web") or "")
        assert (facts["instances"], facts["scaled"]) == (3, "t")


@in_a_loop
async def test_what_was_disabled_and_then_removed_is_spoken_of_no_more(paths):
    async with taken_over(paths, configuration(TIMERS, "a", "gone"), None, {}, []) as (daemon, _):
        assert daemon.applying.disabled() == [("a", because("disabled", name="a"))]
        (notice,) = daemon.status.status({"names": []})["notices"]
        assert (notice["key"], notice["facts"]) == ("disabled", {"name": "a"})


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("stop", {"names": ["web:1"]}),
        ("stop", {"names": ["web"]}),
        ("scale", {"name": "web", "n": 1, "token": ""}),
        ("restart", {"names": ["web:1"], "wait": True, "rolling": False}),
        ("start", {"names": ["web:1"], "wait": True}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
@in_a_loop
async def test_no_command_waits_for_what_the_kernel_does_not_let_go(paths, method, params):
    """It has had SIGKILL for long; the other slot ends as it should."""
    pool = "[program:web]\ncommand = sleep 1000\ninstances = 2\n"
    hung = slot(2, State.STOPPING, Want.DOWN, since=1.0, started=1.0, kills=9)
    async with taken_over(
        paths, configuration(pool), None, {"slot:web:0": job(1), "slot:web:1": hung}, [row(1), row(2)]
    ) as (
        daemon,
        _,
    ):
        request = protocol.Request(1, method, params)
        asked = asyncio.ensure_future(daemon.commands.handle(request, lambda *_: None))
        if params.get("names") == ["web"]:
            await until(daemon, lambda: daemon.engine.slots.entries["web:0"].slot.state is State.STOPPING)
            daemon.engine.rounds.receive([{"event": "exited", "process": 1, "left": False, **CLEAN}])
        answer = await asyncio.wait_for(asked, 60)
        (left,) = [each for each in answer["units"] if each["state"] == "STOPPING"] or [{"pid": 100_000_002}]
        assert left["pid"] == 100_000_002
        if method != "scale":  # of what is scaled away nothing is told but in status
            assert answer["ok"] is False


@in_a_loop
async def test_what_may_take_any_time_is_waited_for(paths, monkeypatch):
    """A migration; and whoever waits for it."""
    monkeypatch.setattr("impetusd.supervisor.api.changeover.SLACK", -29.95)
    text = (
        "[program:migrate]\ncommand = sleep 1\ntype = oneshot\n[program:web]\ncommand = sleep 1\ndepends_on = migrate\n"
    )
    waits = slot(None, State.STARTING, since=1.0)
    blobs = {"slot:migrate:0": slot(1, State.STARTING, since=1.0), "slot:web:0": waits}
    blobs[APPLY] = changes("added", "web", kind="program")
    now, before = configuration(text), configuration(text.partition("[program:web]")[0])
    async with taken_over(paths, now, before, blobs, [row(1)]) as (daemon, link):
        assert daemon.engine.slots.entries["migrate:0"].slot.pid is not None
        assert daemon.applying._changeover.patience(daemon.applying.awaited()) is None
        daemon.engine.rounds.receive([{"event": "exited", "process": 1, "left": False, "code": 1, "at": time.time()}])
        assert daemon.applying._changeover.patience(list(daemon.engine.slots.entries.values())) is not None
        await until(daemon, lambda: is_done(link))
