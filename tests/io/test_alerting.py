"""What the supervisor knows of alerts: silences that are kept, tests, and what the observer reports."""

from __future__ import annotations

import asyncio
import json

import pytest
from supervisor_world import in_a_folder
from waiting import until

from impetusd.core.protocol import EXIT_UNKNOWN_NAME, ProtocolError
from impetusd.supervisor.api import alerting
from impetusd.supervisor.api.alerting import MOST, Alerting

INI = """
[alert:ops]
url = https://hooks.slack.com/services/x
[alert:off]
url = https://hooks.slack.com/services/x
enabled = no
[program:web]
command = serve
[timer:tidy]
command = tidy
every = 1h
"""


class World:
    """Alerting by itself."""

    def __init__(self, *, runs=True):
        self.now = 1000.0
        self.kept, self.changes = [], 0
        self.it = Alerting(
            ["ops"],
            lambda: ["web", "tidy"],
            runs=lambda: runs,
            changed=self._changed,
            keep=self.kept.append,
            now=lambda: self.now,
        )

    def _changed(self):
        self.changes += 1

    def silence(self, name="", seconds=60.0, why="", by="root"):
        return self.it.silence({"name": name, "seconds": seconds, "why": why, "by": by})["silence"]


def test_a_silence_is_published_kept_and_over_by_itself():
    world = World()
    first = world.silence("web", 60.0, "a deploy", "alice via gateway")
    assert first == {"id": "1", "name": "web", "until": 1060.0, "why": "a deploy", "by": "alice via gateway"}
    second = world.silence("", 10.0)
    assert world.it.row()["silences"] == [first, second]
    assert json.loads(world.kept[-1]) == [first, second]
    assert world.changes == 2
    world.now = 1010.0
    assert world.it.row()["silences"] == [first]
    assert world.silence("ops")["id"] == "2"


def test_a_silence_is_ended_by_its_number():
    world = World()
    world.silence("web")
    assert world.it.unsilence({"id": "1"}) == {"ok": True, "ended": True}
    assert world.it.unsilence({"id": "1"}) == {"ok": True, "ended": False}
    assert json.loads(world.kept[-1]) == world.it.silences() == []


def test_what_is_silenced_has_to_be_there():
    with pytest.raises(ProtocolError, match="no unit, timer, group or alert 'weeb'; did you mean web") as raised:
        World().silence("weeb")
    assert raised.value.exit == EXIT_UNKNOWN_NAME


def test_there_are_only_so_many():
    world = World()
    for _ in range(MOST):
        world.silence()
    with pytest.raises(ProtocolError, match=f"{MOST} silences are active"):
        world.silence()
    world.now += 61
    assert world.silence()["id"] == "1"


@pytest.mark.parametrize(
    "text", ["7", "{}", "[7]", '[{"id": 1}]', '[{"id":"1","name":"web","why":"","by":"","until":"x"}]']
)
def test_what_makes_no_sense_of_what_was_kept_is_left_out(text):
    world = World()
    world.it.load(text)
    assert world.it.silences() == []


def test_silences_outlive_supervisors_and_daemons():
    asked = {}

    async def make(life):
        asked.update(await life.ask("silence", name="tidy", seconds=3600.0, why="it is known"))

    async def look(life):
        assert (await life.ask("status"))["alerts"]["silences"] == [asked["silence"]]
        await life.daemon.saving.done()

    with in_a_folder(INI) as shim:
        shim.live(make)
        shim.live(look)
        with open(f"{shim.paths.state_dir}/state.json", encoding="utf-8") as file:
            assert json.load(file)["silences"] == [asked["silence"]]
        shim.blobs.clear()  # as after a reboot
        shim.live(look)
        shim.live(look)


def test_a_test_is_seen_by_the_observer_whose_report_answers_it():
    async def scenario():
        world = World()
        asked = asyncio.create_task(world.it.test({"name": "ops", "by": "root"}))
        await until(lambda: world.it.row()["tests"], "the test")
        (test,) = world.it.row()["tests"]
        assert (test["name"], test["by"]) == ("ops", "root")
        world.it.report({"report": {"undelivered": 0, "tests": {"other": {"ok": True}, test["id"]: 7}}})
        assert not asked.done()
        world.it.report({"report": {"undelivered": 0, "tests": {test["id"]: {"ok": False, "text": "404 Not Found"}}}})
        assert await asked == {"ok": False, "name": "ops", "text": "404 Not Found"}
        assert world.it.row()["tests"] == []

    asyncio.run(scenario())


def test_a_test_without_a_result_says_where_to_look(monkeypatch):
    monkeypatch.setattr(alerting, "TESTED_WITHIN", 0.01)
    world = World()
    with pytest.raises(ProtocolError, match=r"no result within .* impetusd logs observer"):
        asyncio.run(world.it.test({"name": "ops", "by": "root"}))
    assert world.it.row()["tests"] == []


def test_only_an_alert_can_be_tested_and_only_while_the_observer_runs():
    with pytest.raises(ProtocolError, match="no unit, timer, group or alert 'web'; there are ops"):
        asyncio.run(World().it.test({"name": "web", "by": "root"}))
    with pytest.raises(ProtocolError, match="the observer, which sends alerts, is not running"):
        asyncio.run(World(runs=False).it.test({"name": "ops", "by": "root"}))


@pytest.mark.parametrize(
    ("count", "says"), [(0, []), (1, ["1 alert could not"]), (7, ["7 alerts could not"]), ("x", []), (None, [])]
)
def test_undelivered_ones_are_shown(count, says):
    world = World()
    world.it.report({"report": {"undelivered": count}})
    told = world.it.attention()
    assert len(told) == len(says)
    assert all(str(reason).startswith(start) for reason, start in zip(told, says, strict=True))


def test_only_alerts_that_are_on_are_named():
    async def look(life):
        assert (await life.ask("status"))["alerts"]["names"] == ["ops"]

    with in_a_folder(INI) as shim:
        shim.live(look)
