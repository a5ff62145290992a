"""What a supervisor does that finds slots in quarantine, or itself in hold-only mode: to each command and to each event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from supervisor_world import Life, Shim
from waiting import PATIENCE

from impetusd.core.protocol import ProtocolError
from impetusd.core.reasons import because
from impetusd.core.rules import quarantine
from impetusd.shim import wire

KEYS = "kill_timeout = 100ms\nmin_uptime = 0\nexp_backoff_restart_delay = 10ms\n"
TEXT = "".join(f"[program:{name}]\ncommand = sleep 1000\n{KEYS}" for name in ("bad", "good"))
POOL = f"[pool:web]\napp = x:y\nlisten = unix:w.sock\ninstances = 2\ndrain_timeout = 50ms\n{KEYS}"
MakeShim = Callable[[str], Shim]
OLD, CHANGED = because("max_age", limit_s=1.0), because("watch", path="x", more=0)


@pytest.fixture
def shim(tmp_path) -> Iterator[MakeShim]:
    made: list[Shim] = []

    def make(text: str = TEXT) -> Shim:
        made.append(Shim(str(tmp_path), f"[impetusd]\n{text}"))
        return made[-1]

    yield make
    for each in made:
        each.close()


def end_over(told: Shim, slot: str, *, times: int = 2) -> None:
    """What a shim notes when so many supervisors have ended over a slot; "" is none."""
    ends = json.loads(told.blobs.get(wire.ENDS, "[]"))
    note = {"time": 1e9, "signal": 11, "slot": slot, "stage": "deciding on Ready" if slot else ""}
    told.blobs[wire.ENDS] = json.dumps(ends + [{"at": 100.0 + len(ends), **note}] * times)


async def begin(life: Life) -> None:
    await life.ask("start")
    await life.until_state("RUNNING")


async def refused(life: Life, method: str, **params: Any) -> str:
    with pytest.raises(ProtocolError) as caught:
        await asyncio.wait_for(life.ask(method, **params), PATIENCE)
    assert caught.value.exit == 1
    return caught.value.message


async def records(life: Life, kind: str) -> list[dict[str, Any]]:
    return [each for each in (await life.ask("events", last=500))["records"] if each["kind"] == kind]


OF_A_SLOT: list[tuple[str, dict[str, Any]]] = [
    ("start", {"names": ["bad"]}),
    ("restart", {"names": ["bad"]}),
    ("restart", {"names": []}),
    ("reload", {"names": ["bad"]}),
    ("scale", {"name": "bad", "n": 2}),
    ("apply", {}),
    ("disable", {"names": ["good"]}),
]


class TestASlotInQuarantine:
    def quarantined(self, told: Shim, scenario: Callable[[Life], Any], slot: str = "bad:0") -> None:
        told.live(begin)
        end_over(told, slot)
        told.live(scenario)

    def test_is_held_and_shown_with_the_reason_as_data_and_the_others_live_as_before(self, shim: MakeShim) -> None:
        told = shim()

        async def scenario(life: Life) -> None:
            rows, pids = await life.rows(), told.pids()
            assert (rows["bad"]["state"], rows["bad"]["pid"]) == ("RUNNING", pids["bad:0"])
            assert (rows["bad"]["cause"]["key"], rows["bad"]["cause"]["facts"]["within_s"]) == ("quarantined", 60.0)
            assert rows["bad"]["held"] == {
                "key": "quarantined",
                "how": "killed by SIGSEGV",
                "stage": "deciding on Ready",
                "at": 1e9,
                "times": 2,
                "within_s": 60.0,
            }
            assert rows["good"]["held"] is None
            assert (await life.ask("describe", name="bad"))["units"][0]["held"]["key"] == "quarantined"
            (record,) = await records(life, "hold")
            assert (record["slot"], record["what"]) == ("bad:0", "quarantined")
            await life.until(lambda _: "impetusd stop bad:0, then impetusd start bad:0" in life.log(), "the line")
            told.kill("good:0")
            await life.until(lambda rows: rows["good"]["pid"] not in {None, pids["good:0"]})
            assert told.pids()["bad:0"] == pids["bad:0"]

        self.quarantined(told, scenario)

    @pytest.mark.parametrize(("method", "params"), OF_A_SLOT, ids=lambda each: each if isinstance(each, str) else "")
    def test_refuses_what_would_start_or_replace_it(self, shim: MakeShim, method, params) -> None:
        told = shim()

        async def scenario(life: Life) -> None:
            pids = told.pids()
            message = await refused(life, method, **params)
            assert message.startswith("bad is ")
            assert message.endswith("run: impetusd stop bad, then impetusd start bad")
            for other, its in (("restart", {"names": ["good"]}), ("start", {}), ("scale", {"name": "good", "n": 2})):
                assert (await life.ask(other, **its))["ok"]
            assert told.pids()["bad:0"] == pids["bad:0"]
            assert (await life.ask("signal", names=["bad"], signal="USR1"))["ok"]

        self.quarantined(told, scenario)

    def test_is_stopped_as_told_and_then_started_as_any_other(self, shim: MakeShim) -> None:
        told = shim()

        async def scenario(life: Life) -> None:
            told.deaf.add("bad:0")
            answer = await life.ask("stop", names=["bad"])
            assert answer["ok"]
            assert answer["killed"] == ["bad"]
            signals = [
                (op["number"], op["scope"]) for message in told.messages for op in message if op["op"] == "signal"
            ]
            assert signals == [(15, "tree"), (18, "tree"), (9, "tree")]
            row = (await life.rows())["bad"]
            assert (row["state"], row["held"], row["reason"]) == ("STOPPED", None, "")
            assert quarantine.HELD not in told.blobs
            assert (await life.ask("start", names=["bad"]))["ok"]
            before = told.pids()["bad:0"]
            told.kill("bad:0")
            await life.until(lambda rows: rows["bad"]["pid"] not in {None, before})

        self.quarantined(told, scenario)

    def test_that_ends_is_recorded_and_not_started_again_until_it_is_asked_for(self, shim: MakeShim) -> None:
        told = shim()

        async def scenario(life: Life) -> None:
            told.kill("bad:0")
            rows = await life.until(lambda rows: rows["bad"]["pid"] is None)
            assert rows["bad"]["last_exit"]["signal"] == "SIGKILL"
            assert rows["bad"]["held"]["key"] == "quarantined"
            assert [each["signal"] for each in await records(life, "exit")] == ["SIGKILL"]
            await life.ask("restart", names=["good"])
            assert set(told.pids()) == {"good:0"}

        async def asked(life: Life) -> None:
            assert set(told.pids()) == {"good:0"}
            assert (await life.ask("start", names=["bad"]))["ok"]
            assert set(told.pids()) == {"bad:0", "good:0"}

        self.quarantined(told, scenario)
        told.live(asked)  # held by the next supervisor, too

    def test_that_takes_supervisors_down_all_the_same_has_everything_held(self, shim: MakeShim) -> None:
        told = shim()

        async def nothing(life: Life) -> None:
            assert (await life.ask("status"))["held"] is None

        async def scenario(life: Life) -> None:
            assert (await life.ask("status"))["held"]["key"] == "hold-only"

        self.quarantined(told, nothing)
        end_over(told, "bad:0", times=1)
        told.live(nothing)
        end_over(told, "bad:0", times=1)
        told.live(scenario)

    def test_of_a_pool_has_its_unit_neither_reloaded_nor_rolled(self, shim: MakeShim) -> None:
        told = shim(f"{POOL}preload = no\n{TEXT}")
        told.ready = True

        async def scenario(life: Life) -> None:
            pids = told.pids()
            assert (await life.rows())["web:0"]["held"]["key"] == "quarantined"
            assert "impetusd stop web:0" in await refused(life, "reload", names=["web"])
            life.daemon.engine.recycle(life.daemon.engine.slots.of_unit(life.daemon.engine.slots.units["web"]), OLD)
            life.daemon.engine.renew(life.daemon.engine.slots.units["web"], CHANGED)
            told.kill("web:1")
            await life.until(lambda rows: rows["web:1"]["pid"] not in {None, pids["web:1"]})
            assert told.pids()["web:0"] == pids["web:0"]
            assert (await life.ask("stop", names=["web"]))["ok"]
            assert (await life.ask("start", names=["web"]))["ok"]

        self.quarantined(told, scenario, "web:0")

    def test_of_a_timer_fails_its_runs(self, shim: MakeShim) -> None:
        told = shim(f"[timer:job]\ncommand = true\ncron = 0 3 * * *\n{TEXT}")

        async def first(life: Life) -> None:
            await begin(life)
            await life.ask("trigger", name="job", wait=False)
            await life.until(lambda _: "job" in told.pids())

        async def scenario(life: Life) -> None:
            assert "impetusd stop job" in await refused(life, "trigger", name="job", wait=True)
            assert (await life.ask("stop", names=["job"]))["ok"]
            await life.ask("trigger", name="job", wait=False)
            await life.until(lambda _: "job" in told.pids())

        told.live(first)
        end_over(told, "job")
        told.live(scenario)


class TestHoldOnly:
    def held(self, told: Shim, *scenarios: Callable[[Life], Any]) -> None:
        told.live(begin)
        end_over(told, "")
        for scenario in scenarios:
            told.live(scenario)

    def test_says_so_and_starts_restarts_and_changes_nothing(self, shim: MakeShim) -> None:
        told = shim(f"[timer:job]\ncommand = true\nevery = 1s\n{TEXT}")
        count = 0

        async def scenario(life: Life) -> None:
            nonlocal count
            count = count or len(told.started)
            status = await life.ask("status")
            assert status["held"]["key"] == "hold-only"
            notice = status["notices"][0]
            assert (notice["key"], notice["facts"]["cause"]["key"]) == ("way_out", "hold-only")
            assert notice["facts"]["what"].startswith("impetusd upgrade")
            for method, params in [
                *OF_A_SLOT,
                ("trigger", {"name": "job"}),
                ("start", {}),
                ("enable", {"names": ["bad"]}),
            ]:
                assert "run: impetusd upgrade" in await refused(life, method, **params)
            life.daemon._hear({"event": "apply"})  # SIGHUP
            for method in ("logs", "events", "health", "timers", "plan", "ping"):
                await life.ask(method)
            if "good:0" in told.pids():
                told.kill("good:0")
            rows = await life.until(lambda rows: rows["good"]["pid"] is None)
            assert (rows["good"]["state"], rows["good"]["last_exit"]["signal"]) == ("BACKOFF", "SIGKILL")
            assert rows["good"]["cause"]["key"] == "not_while_held"
            assert [each["signal"] for each in await records(life, "exit") if each["slot"] == "good"] == ["SIGKILL"]
            assert [each["what"] for each in await records(life, "hold")] == ["hold-only"]
            assert len(told.started) == count
            assert (await life.rows())["bad"]["pid"] == told.pids()["bad:0"]

        self.held(told, scenario, scenario)  # whoever takes over from it holds, too

    def test_stop_works(self, shim: MakeShim) -> None:
        told = shim()

        async def one(life: Life) -> None:
            assert (await life.ask("stop", names=["bad"]))["ok"]
            assert set(told.pids()) == {"good:0"}

        async def all_of_them(life: Life) -> None:
            assert (await life.ask("stop"))["ok"]
            assert not told.pids()

        self.held(told, one, all_of_them)

    def test_is_left_by_an_upgrade_which_starts_what_has_ended_meanwhile(self, shim: MakeShim) -> None:
        told = shim()

        async def scenario(life: Life) -> None:
            told.kill("good:0")
            await life.until(lambda rows: rows["good"]["pid"] is None)
            life.daemon._hand_over_to_new("test")  # as `upgrade` does once the new code has proved itself

        async def after(life: Life) -> None:
            assert (await life.ask("status"))["held"] is None
            await life.until_state("RUNNING")
            assert set(told.pids()) == {"good:0", "bad:0"}
            assert wire.ENDS not in told.blobs

        self.held(told, scenario, after)

    def test_a_pool_in_the_middle_of_a_reload_is_held_as_it_is_and_stopped(self, shim: MakeShim) -> None:
        told = shim(f"{POOL}standby = 1\n")
        told.ready = True

        async def first(life: Life) -> None:
            await begin(life)
            told.ready = False
            asked = asyncio.ensure_future(life.ask("reload", names=["web"]))
            await life.until(lambda rows: "web:template:next" in rows and rows["web:template:next"]["pid"])
            asked.cancel()

        async def scenario(life: Life) -> None:
            count = len(told.started)
            assert "web:template:next" in await life.rows()
            told.kill("web:0", "web:template")
            await life.until(lambda rows: rows["web:0"]["pid"] is None and rows["web:template"]["pid"] is None)
            assert len(told.started) == count
            assert (await life.ask("stop"))["ok"]
            assert not told.pids()

        told.live(first)
        end_over(told, "")
        told.live(scenario)


def test_what_was_noted_of_others_still_counts(shim: MakeShim) -> None:
    told = shim()

    async def nothing(life: Life) -> None:
        await life.ask("status")

    told.live(begin)
    end_over(told, "good:0", times=1)
    end_over(told, "bad:0")
    told.live(nothing)
    assert [each["slot"] for each in json.loads(told.blobs[wire.ENDS])] == ["good:0"]
    assert set(quarantine.load(told.blobs[quarantine.HELD]).slots) == {"bad:0"}


def test_records_that_make_no_sense_hold_nothing(shim: MakeShim) -> None:
    told = shim()

    async def scenario(life: Life) -> None:
        assert (await life.ask("status"))["held"] is None
        await life.ask("restart", names=["bad"])

    told.live(begin)
    told.blobs |= {wire.ENDS: '{"a":', quarantine.HELD: "[]"}
    told.live(scenario)
