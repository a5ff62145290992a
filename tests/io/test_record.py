"""What is remembered of slots: read whatever version wrote it, and refused where it is not of its kind."""

from __future__ import annotations

import json
import random

import pytest

from impetusd.core.reasons import because, not_started, said
from impetusd.core.rules.lifecycle import Slot, State, Want
from impetusd.core.rules.policy import Exit
from impetusd.supervisor.disk.state import StateFile, write
from impetusd.supervisor.slots import record
from impetusd.supervisor.slots.record import Record

pytestmark = pytest.mark.noise

END = Exit(
    code=3,
    at=1.7e9,
    failed=not_started("exec", because("no_file", name="/x"), "/x"),
    oom="x",
    core=True,
    cpu_s=0.5,
    max_rss=1 << 40,
)
FULL = Record(
    slot=Slot(
        state=State.RUNNING,
        want=Want.UP,
        since=1.5,
        deadline=2.5,
        pid=7,
        started=1.0,
        asked=True,
        failed=because("max_age", limit_s=60.0),
        due=because("max_age", limit_s=3600.0),
        kills=1,
        failures=2,
        recent=(1.0, 2.0),
        restarts=4,
        half_open=True,
        reason=because("backoff", end=END.failed, count=2, most=16),
        last_exit=END,
    ),
    process=3,
    pipe=4,
    generation=5,
    gated=True,
    stopped=True,
    due=because("max_age", limit_s=3600.0),
    asked=True,
    tail=("a", "b"),
)
# The fields that the first version reads, which refuses any other.
READ_BY_0_1_0 = {
    "slot": "state want since deadline pid started asked failed due kills failures restarts recent half_open reason last_exit",
    "last_exit": "code signal stage error at oom core cpu_s max_rss",
    "": "version slot process pipe generation gated stopped due asked tail",
}
# Those of them that it must find: any other that is missing is as in a new slot.
NEEDED_BY_0_1_0 = {"": "version slot", "slot": "state want recent last_exit"}
WRONG = (None, True, 7, -1, 1e300, float("nan"), "x", [], ["x", 1], {}, {"a": 1}, 1 << 70)


def test_what_was_dumped_is_loaded():
    for each in (Record(), FULL):
        text = record.dump(each)
        assert record.load(text, record.dump_reasons(each, text)) == each
    assert record.dump_reasons(Record(), "") is None
    assert record.revive(json.loads(json.dumps(record.durable(FULL)))).slot.last_exit == END


def test_nothing_is_written_that_the_first_version_does_not_read():
    """Else a downgrade is refused, and a supervisor of that version that finds it would die of it again and again."""
    told = json.loads(record.dump(FULL))
    assert set(told) == set(READ_BY_0_1_0[""].split())
    assert set(told["slot"]) == set(READ_BY_0_1_0["slot"].split())
    assert set(told["slot"]["last_exit"]) == set(READ_BY_0_1_0["last_exit"].split())


def test_of_a_new_slot_nothing_is_written_but_what_the_first_version_needs():
    told = json.loads(record.dump(Record()))
    assert set(told) == set(NEEDED_BY_0_1_0[""].split())
    assert set(told["slot"]) - {"since"} == set(NEEDED_BY_0_1_0["slot"].split())


def test_of_a_record_that_another_version_wrote_alone_the_sentences_are_read():
    """An older one leaves the reasons of the record before in their place."""
    text = record.dump(FULL)
    reasons = record.dump_reasons(FULL, text)
    older = json.dumps({**json.loads(text), "generation": 6})
    for stale in (reasons, None, "", "{", "[]", '{"of": 1}'):
        found = record.load(older, stale)
        assert found.slot.reason == said(str(FULL.slot.reason))
        assert found.due == said(str(FULL.due))
        assert found.slot.last_exit is not None
        assert found.slot.last_exit.failed == not_started(
            json.loads(text)["slot"]["last_exit"]["stage"], said(str(END.failed.facts["cause"]))
        )
    assert record.load(text, reasons).slot.reason == FULL.slot.reason


def test_what_a_newer_version_says_besides_means_nothing():
    told = json.loads(record.dump(FULL))
    told["colour"] = told["slot"]["mood"] = told["slot"]["last_exit"]["weather"] = "blue"
    text = json.dumps(told)
    assert record.load(text, record.dump_reasons(FULL, text)) == FULL
    kept = {**record.durable(FULL), "colour": 1}
    kept["last_exit"]["mood"] = 2
    assert record.revive(kept).slot.restarts == 4


def test_what_an_older_version_does_not_say_is_as_at_first():
    told = json.loads(record.dump(FULL))
    del told["tail"], told["slot"]["half_open"], told["slot"]["recent"], told["slot"]["last_exit"]["max_rss"]
    found = record.load(json.dumps(told))
    assert (found.tail, found.slot.recent, found.slot.half_open) == ((), (), False)
    assert found.slot.last_exit is not None
    assert found.slot.last_exit.max_rss == 0


@pytest.mark.parametrize("of", ["", "slot", "last_exit"])
def test_what_is_not_of_its_kind_is_refused(of):
    good = json.loads(record.dump(FULL))
    for name in READ_BY_0_1_0[of].split():
        for value in WRONG:
            told = json.loads(json.dumps(good))
            at = {"": told, "slot": told["slot"], "last_exit": told["slot"]["last_exit"]}[of]
            at[name] = value
            try:
                found = record.load(json.dumps(told))
            except (KeyError, TypeError, ValueError, AttributeError):
                continue
            text = record.dump(found)
            assert record.load(text, record.dump_reasons(found, text)) == found  # of its kind after all


def mutated(rng, value):
    """The same JSON with one thing in it replaced, dropped or renamed."""
    told = json.loads(json.dumps(value))
    at = told
    while isinstance(at, (dict, list)) and at:
        key = rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if not isinstance(at[key], (dict, list)) or not at[key] or rng.random() < 0.4:
            match rng.randrange(3):
                case 0:
                    at[key] = rng.choice(WRONG)
                case 1:
                    del at[key]
                case 2:
                    at[key] = json.loads(json.dumps(at[key]), parse_int=str)
            break
        at = at[key]
    return told


def test_a_thousand_damaged_state_files_are_told_set_aside_and_gone_on_without(tmp_path):
    rng = random.Random(9)
    path = str(tmp_path / "state.json")
    slots = {f"web:{n}": record.durable(FULL) for n in range(3)}
    good = {"version": 1, "slots": slots, "timers": {"t": "{}"}, "of a newer version": 1}
    damaged = 0
    for _ in range(1000):
        told: list[str] = []
        (tmp_path / "state.json").write_text(json.dumps(mutated(rng, good)))
        file = StateFile(path, told.append)
        saved, faults = record.sound(file.load())
        if faults:
            file.faulty(faults)
        for entry in saved["slots"].values():
            assert record.revive(entry)
        assert all(isinstance(text, str) for text in saved["timers"].values())
        if told:
            damaged += 1
            assert len(told) == 1
            assert "\n" not in told[0]
            assert (tmp_path / "state.json.bad").exists()
            (tmp_path / "state.json.bad").unlink()
    assert damaged > 300


def test_one_damaged_entry_costs_no_other(tmp_path):
    told: list[str] = []
    path = str(tmp_path / "state.json")
    write(path, {"slots": {"a:0": record.durable(FULL), "b:0": {"restarts": "many"}}, "timers": []})
    file = StateFile(path, told.append)
    saved, faults = record.sound(file.load())
    file.faulty(faults)
    assert list(saved["slots"]) == ["a:0"]
    assert saved["timers"] == {}
    assert told == [
        f"{path} is damaged (b:0 in slots: KeyError('last_exit'); timers is []): ignored the damaged part and kept the file as {path}.bad"
    ]
