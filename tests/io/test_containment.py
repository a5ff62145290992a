"""What raises or hangs for one slot costs that slot alone: no event of another is lost, nothing is started twice."""

from __future__ import annotations

import asyncio
import os
import pwd
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from supervisor_world import Life, Shim
from waiting import until

from impetusd.core.protocol import ProtocolError
from impetusd.core.reasons import NONE, because, mentions, not_started, of_record
from impetusd.core.rules import lifecycle, repeats
from impetusd.core.rules.lifecycle import State
from impetusd.core.rules.reload import Do, Order, Part, Reload
from impetusd.files import vetted
from impetusd.supervisor.observers import Publisher
from impetusd.supervisor.slots import reloads
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.entry import Entry, Role
from impetusd.supervisor.slots.registry import Slots
from impetusd.supervisor.slots.rounds import Rounds
from impetusd.supervisor.slots.starts import Starts
from impetusd.supervisor.slots.waits import Waits
from impetusd.supervisor.start import childspec, lookups

BACKOFF = "min_uptime = 0\nexp_backoff_restart_delay = 20ms\nexp_backoff_max_delay = 20ms\nmax_restarts = 1000000\n"
GHOST = f"[program:ghost]\ncommand = sleep 1000\nuser = ghost\n{BACKOFF}"
OTHERS = "".join(f"[program:{name}]\ncommand = sleep 1000\nmin_uptime = 0\n" for name in ("after", "before"))
LATE, OURS = because("no_answer", within_s=0.2), because("internal", error="ZeroDivisionError('of ours')")

DEADLINE = 60.0  # seconds; only a failure waits that long

MakeShim = Callable[[str], Shim]


@pytest.fixture
def shim(tmp_path) -> Iterator[MakeShim]:
    made: list[Shim] = []

    def make(text: str) -> Shim:
        made.append(Shim(str(tmp_path), f"[impetusd]\n{text}"))
        return made[-1]

    yield make
    for each in made:
        each.close()


def why(row):
    return of_record(row)


class Passwd:
    """The host's users, of whom one comes and goes: "ghost"."""

    def __init__(self) -> None:
        self.there = True
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0
        self._real = pwd.getpwnam

    def getpwnam(self, name: str) -> pwd.struct_passwd:
        if name != "ghost":
            return self._real(name)
        self.asked += 1
        self.answers.wait()
        if not self.there:
            raise KeyError(f"getpwnam(): name not found: {name!r}")
        return pwd.getpwuid(os.geteuid())


@pytest.fixture
def passwd(monkeypatch) -> Iterator[Passwd]:
    if os.geteuid() != 0:
        pytest.skip("needs root, for only root starts programs as others")
    found = Passwd()
    monkeypatch.setattr(pwd, "getpwnam", found.getpwnam)
    yield found
    found.answers.set()  # no thread is left


async def started(life: Life) -> dict[str, int]:
    await life.ask("start")
    await life.until_state("RUNNING")
    return life.shim.pids()


class TestAMissingUser:
    def test_costs_its_unit_alone_and_no_other_event_of_the_message(self, shim: MakeShim, passwd: Passwd) -> None:
        told = shim(GHOST + OTHERS)

        async def scenario(life: Life) -> None:
            before = await started(life)
            passwd.there = False
            told.kill("before:0", "ghost:0", "after:0")
            rows = await life.until(
                lambda rows: (
                    rows["ghost"]["state"] == "BACKOFF"
                    and all(rows[name]["state"] == "RUNNING" for name in ("before", "after"))
                )
            )
            assert why(rows["ghost"]).find("no_user") == because("no_user", name="ghost")
            assert rows["ghost"]["pid"] is None
            assert set(told.pids()) == {"after:0", "before:0"}
            assert not set(told.pids().values()) & set(before.values())
            assert "Traceback" not in life.log()
            assert not (await life.ask("restart", names=["ghost"]))["ok"]  # returns
            passwd.there = True
            await life.until_state("RUNNING")

        told.live(scenario)

    def test_costs_its_unit_alone_in_a_take_over(self, shim: MakeShim, passwd: Passwd) -> None:
        told = shim(GHOST + OTHERS)
        pids: dict[str, int] = {}

        async def first(life: Life) -> None:
            pids.update(await started(life))

        async def second(life: Life) -> None:
            rows = await life.until(lambda rows: rows["ghost"]["state"] == "BACKOFF")
            assert why(rows["ghost"]).find("no_user") == because("no_user", name="ghost")
            await life.until_state("RUNNING", "after", "before")
            assert told.pids()["before:0"] == pids["before:0"]
            assert told.pids()["after:0"] != pids["after:0"]

        told.live(first)
        passwd.there = False
        for name in ("ghost:0", "after:0"):  # while there is no supervisor
            told.end(told.child(name), signal=9)
        told.live(second)
        assert set(told.pids()) == {"after:0", "before:0"}

    def test_is_no_reason_to_refuse_an_apply(self, shim: MakeShim, passwd: Passwd) -> None:
        told = shim(GHOST + OTHERS)

        async def scenario(life: Life) -> None:
            await started(life)
            passwd.there = False
            told.write(f"[impetusd]\n{GHOST}{OTHERS}[program:new]\ncommand = sleep 1000\n")
            assert [each["name"] for each in (await life.ask("plan"))["changes"]] == ["new"]
            with pytest.raises(ConnectionAbortedError):  # the next supervisor goes on
                await life.ask("apply")

        async def second(life: Life) -> None:
            await life.until_state("RUNNING")
            assert set(told.pids()) == {"ghost:0", "after:0", "before:0", "new:0"}
            assert len(told.started) == 4

        told.live(scenario)
        told.live(second)

    def test_that_is_new_is_refused_by_name(self, shim: MakeShim, passwd: Passwd) -> None:
        told = shim(OTHERS)

        async def scenario(life: Life) -> None:
            await started(life)
            passwd.there = False
            told.write(f"[impetusd]\n{GHOST}{OTHERS}")
            with pytest.raises(ProtocolError, match="no such user"):
                await life.ask("apply")

        told.live(scenario)

    def test_lets_scale_start_what_it_can(self, shim: MakeShim, passwd: Passwd) -> None:
        told = shim(GHOST + OTHERS)

        async def scenario(life: Life) -> None:
            await started(life)
            passwd.there = False
            answer = await life.ask("scale", name="ghost", n=2)
            assert not answer["ok"]
            assert {row["name"]: row["state"] for row in answer["units"]} == {
                "ghost:0": "RUNNING",
                "ghost:1": "BACKOFF",
            }

        told.live(scenario)


async def everything_else_goes_on(life: Life) -> None:
    """All that asks a disk or a thread for something, and a restart, while some look-up hangs."""
    for method in ("status", "plan", "events", "health", "timers"):
        await life.ask(method)
    await life.ask("env", name="after", diff=True)
    before = life.shim.pids()["after:0"]
    life.shim.kill("after:0")
    await life.until(lambda rows: rows["after"]["pid"] not in {None, before})
    assert (await life.ask("restart", names=["before"]))["ok"]


class TestAHostThatDoesNotAnswer:
    def test_for_a_user_holds_up_its_unit_alone(self, shim: MakeShim, passwd: Passwd, monkeypatch) -> None:
        monkeypatch.setattr(lookups, "WITHIN", 0.2)
        told = shim(GHOST + OTHERS)

        async def scenario(life: Life) -> None:
            await started(life)
            passwd.answers.clear()
            passwd.asked = 0
            told.kill("ghost:0")
            told.write(f"[impetusd]\n{OTHERS}{GHOST}")
            await everything_else_goes_on(life)
            rows = await life.until(lambda rows: rows["ghost"]["restarts"] > 2 and rows["ghost"]["state"] == "BACKOFF")
            assert why(rows["ghost"]).find("start_failed") == not_started("account", LATE)
            assert passwd.asked == 1  # one thread hangs, and not one more for each try
            passwd.answers.set()
            await life.until_state("RUNNING")

        told.live(scenario)

    def test_for_eight_env_files_holds_up_their_unit_alone(self, shim: MakeShim, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(lookups, "WITHIN", 0.2)
        path, thawed = tmp_path / "env", threading.Event()
        path.write_text("A=1\n")
        real = vetted.read

        def read(name, *rest):
            if name == str(path):  # its disk hangs
                thawed.wait()
            return real(name, *rest)

        monkeypatch.setattr(vetted, "read", read)
        told = shim(f"[program:x]\ncommand = sleep 1000\ninstances = 8\nenv_file = {path}\n{BACKOFF}{OTHERS}")

        async def scenario(life: Life) -> None:
            await life.ask("start", wait=False)
            await life.until_state("RUNNING", "after", "before")
            await everything_else_goes_on(life)
            xs = [f"x:{number}" for number in range(8)]
            rows = await life.until(lambda rows: all(rows[x]["restarts"] > 1 for x in xs))
            assert {rows[x]["state"] for x in xs} <= {"BACKOFF", "STARTING"}
            rows = await life.until(lambda rows: rows["x:3"]["state"] == "BACKOFF")
            assert why(rows["x:3"]).find("start_failed") == not_started("env_file", LATE, str(path))
            assert sum(thread.name == "look-up" for thread in threading.enumerate()) == 1
            await life.ask("stop", names=["x"])

        async def thaws(life: Life) -> None:
            await life.ask("start", names=["x"], wait=False)
            await life.until(lambda rows: why(rows["x:0"]).find("no_answer"))
            thawed.set()
            await life.until_state("RUNNING")
            assert {told.child(f"x:{number}").spec["env"]["A"] for number in range(8)} == {"1"}

        told.live(scenario)  # ends, though a thread hangs
        told.live(thaws)


def test_what_raises_in_a_start_is_that_slots_failed_start_and_nothing_of_it_reaches_the_shim(
    shim: MakeShim, monkeypatch
) -> None:
    told = shim(f"[program:bad]\ncommand = sleep 1000\n{BACKOFF}{OTHERS}")
    real = childspec.environment
    broken = True

    def environment(unit, *rest):
        if unit.name == "bad" and broken:
            raise ZeroDivisionError("of ours")
        return real(unit, *rest)

    monkeypatch.setattr(childspec, "environment", environment)

    async def scenario(life: Life) -> None:
        nonlocal broken
        answer = await life.ask("start")
        assert not answer["ok"]
        rows = await life.until_state("RUNNING", "after", "before")
        rows = await life.until(lambda rows: rows["bad"]["state"] == "BACKOFF" and rows["bad"]["restarts"] > 3)
        assert why(rows["bad"]).find("start_failed") == not_started("prepare", OURS)
        assert set(told.pids()) == {"after:0", "before:0"}
        assert not [name for name in told.kept if name.startswith("chan:")]
        await until(lambda: "Traceback" in life.log(), "the log")
        assert life.log().count("Traceback") == 1
        status = await life.ask("status")
        (notice,) = [each for each in status["notices"] if each["own"] and each["facts"]["source"] == "bad:0"]
        assert notice["key"] == "mistake"
        broken = False
        await life.until_state("RUNNING")

    told.live(scenario)


def test_an_event_that_cannot_be_decided_costs_its_slot_alone(shim: MakeShim, monkeypatch) -> None:
    told = shim(f"[program:bad]\ncommand = sleep 1000\n{BACKOFF}{OTHERS}")
    real = lifecycle.step
    broken = False

    def step(policy, slot, event, now, jitter):
        if broken and policy.max_restarts == 1000000:
            raise ZeroDivisionError("of ours")
        return real(policy, slot, event, now, jitter)

    monkeypatch.setattr(lifecycle, "step", step)

    async def scenario(life: Life) -> None:
        nonlocal broken
        await started(life)
        broken = True
        told.kill("before:0", "bad:0", "after:0")
        await life.until(
            lambda rows: (
                rows["bad"]["state"] == "BACKOFF"
                and why(rows["bad"]).find("internal") == OURS
                and all(rows[name]["state"] == "RUNNING" for name in ("before", "after"))
            )
        )
        broken = False
        assert (await life.ask("restart", names=["bad"]))["ok"]

    told.live(scenario)
    assert len(told.started) == 6


class TestOneCauseForMany:
    KEYS = f"command = sleep 1000\ninstances = 12\n{BACKOFF}"

    def test_is_one_line_in_the_log_and_all_of_it_is_in_the_ledger(self, shim: MakeShim, monkeypatch) -> None:
        monkeypatch.setattr(repeats, "WINDOW", 3600)
        told = shim(f"[program:many]\n{self.KEYS}")
        told.cannot = {f"many:{index}": "Too many open files" for index in range(12)}

        async def scenario(life: Life) -> None:
            assert not (await life.ask("start"))["ok"]
            rows = await life.until(lambda rows: all(row["restarts"] > 2 for row in rows.values()))
            ended = [each for each in (await life.ask("events", last=500))["records"] if each["kind"] == "exit"]
            assert all(mentions(of_record(each, "error"), "Too many open files") for each in ended)
            assert all(count > 2 for count in Counter(each["slot"] for each in ended).values())
            assert {each["slot"] for each in ended} == set(rows)
            told.cannot.clear()
            await life.until_state("RUNNING", *rows)
            await life.until(lambda _: life.log().count("RUNNING") == 12, "their lines")
            assert life.log().count(": BACKOFF") == 1
            assert life.log().count("STARTING") == 12  # as asked, and no more for each try

        told.live(scenario)

    def test_is_counted_in_one_line_for_each_second(self, shim: MakeShim, monkeypatch) -> None:
        monkeypatch.setattr(repeats, "WINDOW", 0.05)
        told = shim(f"[program:many]\n{self.KEYS}")
        told.cannot = {f"many:{index}": "Too many open files" for index in range(12)}

        async def scenario(life: Life) -> None:
            await life.ask("start")
            await life.until(lambda _: "more times: many:" in life.log(), "the count")

        told.live(scenario)


def once(real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, which raises first."""
    calls = []

    def act(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise ZeroDivisionError("of ours")
        return real(*args, **kwargs)

    return act


class TestWhatIsLostOverOneException:
    """Is found again, or costs the command alone that it was done for."""

    def test_a_look_at_who_waits(self, shim: MakeShim, monkeypatch) -> None:
        told = shim(OTHERS)

        async def scenario(life: Life) -> None:
            await started(life)
            monkeypatch.setattr(Waits, "_look", once(Waits._look))
            async with asyncio.timeout(DEADLINE):
                assert (await life.ask("restart", names=["after"]))["ok"]

        told.live(scenario)

    def test_a_replacement_that_was_asked_for(self, shim: MakeShim, monkeypatch) -> None:
        told = shim(OTHERS)

        async def scenario(life: Life) -> None:
            await started(life)
            with monkeypatch.context() as patched:
                patched.setattr(Slots, "touch", once(Slots.touch))
                with pytest.raises(ZeroDivisionError):
                    await life.ask("restart", names=["after"], rolling=True)
            async with asyncio.timeout(DEADLINE):  # it is not said to wait for a turn that never comes
                assert (await life.ask("start", names=["after"]))["ok"]
            assert why((await life.rows())["after"]) == NONE

        told.live(scenario)

    def test_the_stop_of_a_unit_that_another_waits_for(self, shim: MakeShim, monkeypatch) -> None:
        told = shim(OTHERS + "[program:top]\ncommand = sleep 1000\nmin_uptime = 0\ndepends_on = after\n")

        async def scenario(life: Life) -> None:
            await started(life)
            monkeypatch.setattr(Engine, "stop", once(Engine.stop))
            with pytest.raises(ZeroDivisionError):
                async with asyncio.timeout(DEADLINE):
                    await life.ask("stop", names=["top", "after"])
            await life.until_state("STOPPED", "after")
            await life.until_state("RUNNING", "top")
            async with asyncio.timeout(DEADLINE):
                assert (await life.ask("stop", names=["top", "after"]))["ok"]

        told.live(scenario)


POOL = f"[pool:web]\napp = x:y\nlisten = unix:w.sock\ninstances = 2\nstandby = 1\nreload_watch = 0\ndrain_timeout = 50ms\n{BACKOFF}"


class TestAReload:
    """Ends, whatever raises for one of its new processes, again and again."""

    @pytest.mark.parametrize("role", [Role.NEXT_TEMPLATE, Role.NEXT])
    def test_whose_new_process_cannot_begin_to_start(self, shim: MakeShim, monkeypatch, role: Role) -> None:
        told = shim(POOL + OTHERS)
        told.ready = True
        real = Starts._gate

        def gate(starts: Starts, entry: Entry) -> object:
            if entry.role is role:
                raise ZeroDivisionError("of ours")
            return real(starts, entry)

        async def scenario(life: Life) -> None:
            before = await started(life)
            monkeypatch.setattr(Starts, "_gate", gate)
            async with asyncio.timeout(DEADLINE):
                answer = await life.ask("reload", names=["web"])
            assert not answer["ok"]
            assert life.shim.pids() == before

        told.live(scenario)

    def test_whose_new_process_ends_unheard(self, shim: MakeShim, monkeypatch) -> None:
        told = shim(POOL + OTHERS)
        told.ready = True

        async def scenario(life: Life) -> None:
            before = await started(life)
            life.daemon.engine.machine.reloading = lambda _: 1 / 0  # type: ignore[assignment]
            told.cannot["web:template:next"] = "ENOENT"
            async with asyncio.timeout(DEADLINE):
                answer = await life.ask("reload", names=["web"])
            assert not answer["ok"]
            assert life.shim.pids() == before

        told.live(scenario)

    @pytest.mark.parametrize(
        ("part", "name", "whom"), [(Rounds, "put", Role.NEXT), (Publisher, "publish", Role.TEMPLATE)]
    )
    def test_in_which_a_process_moves_and_what_follows_raises(
        self, shim: MakeShim, monkeypatch, part: type, name: str, whom: Role
    ) -> None:
        """A slot that waits for the end of a process which is not its own any more would wait for ever."""
        told = shim(POOL + OTHERS)
        told.ready = True
        real, raised = getattr(part, name), []

        def act(self: Any, *what: Any) -> object:
            entry = what[0] if name == "publish" else what[0][0]
            moved = entry.role is whom and (name == "put" or entry.slot.state is State.RUNNING)
            if moved and not raised:
                raised.append(entry)
                raise ZeroDivisionError("of ours")
            return real(self, *what)

        async def scenario(life: Life) -> None:
            await started(life)
            with monkeypatch.context() as patched:
                patched.setattr(part, name, act)
                async with asyncio.timeout(DEADLINE):
                    await life.ask("reload", names=["web"])
            async with asyncio.timeout(DEADLINE):
                assert (await life.ask("reload", names=["web"]))["ok"]
            rows = await life.until_state("RUNNING")
            assert {row["pid"] for row in rows.values()} == set(life.shim.pids().values())

        told.live(scenario)

    def test_that_goes_round_in_circles_costs_its_unit_alone(self, shim: MakeShim, monkeypatch) -> None:
        told = shim(POOL + OTHERS)
        told.ready = True

        def decide(reload: Reload, _view: object, _now: float) -> tuple[Reload, tuple[Order, ...]]:
            return reload, (Order(Do.FORGET, Part.NEXT, 0),)  # of which there is none

        async def scenario(life: Life) -> None:
            before = await started(life)
            with monkeypatch.context() as patched:
                patched.setattr(reloads.core, "decide", decide)
                reload = asyncio.create_task(life.ask("reload", names=["web"]))
                await until(lambda: told_of(life, "reload of web"), "the report")
                told.kill("before:0")
                await life.until(lambda rows: rows["before"]["pid"] not in {None, before["before:0"]})
            async with asyncio.timeout(DEADLINE):
                assert (await reload)["reloads"]
            await life.until_state("RUNNING")

        told.live(scenario)


def told_of(life: Life, source: str) -> bool:
    return any(notice.facts["source"] == source for notice in life.daemon.faults.attention())
