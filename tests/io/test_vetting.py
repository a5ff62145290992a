"""The comparison of new workers with old ones: who does not report."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from impetusd.core.config.model import Kind
from impetusd.core.reasons import NONE, because
from impetusd.core.rules.lifecycle import State
from impetusd.core.rules.reload import Phase, Reload
from impetusd.supervisor.rules import vetting
from impetusd.supervisor.rules.vetting import Vetting
from impetusd.supervisor.slots.entry import Role

UNIT = SimpleNamespace(name="web", kind=Kind.POOL)
WATCHED = Reload(phase=Phase.WATCH, generation=2, began=0.0, reason=because("reload"), canaries=1)
OLD, NEW = 1, 2  # numbers of processes


def worker(process: int, role: Role) -> SimpleNamespace:
    slot = SimpleNamespace(pid=1 << 30, state=State.RUNNING)  # a pid that is none
    return SimpleNamespace(
        name=f"web:{process}", unit=UNIT, role=role, slot=slot, works=True, rec=SimpleNamespace(process=process)
    )


def compared(*reporting: int) -> tuple[object, list[object]]:
    """The verdict where only these report, and who was failed."""
    workers = {OLD: worker(OLD, Role.WORKER), NEW: worker(NEW, Role.NEXT)}
    failed: list[object] = []

    async def compare() -> object:
        awake = asyncio.Event()

        def fail(entry: SimpleNamespace, why: object) -> None:
            failed.append((entry.name, why))
            awake.set()

        def asked(process: int) -> bool:
            count = {"X_IMPETUSD_REQUESTS": "10", "X_IMPETUSD_ERRORS": "0"}
            if process in reporting:
                loop.call_soon(made.counted, workers[process], count)
            return True

        loop = asyncio.get_running_loop()
        made = Vetting([], ask=None, count=asked, slots=lambda _: [*workers.values()], fail=fail, wake=awake.set)
        assert made.verdict(UNIT, WATCHED) is None
        await asyncio.wait_for(awake.wait(), 60)
        return made.verdict(UNIT, WATCHED)

    return asyncio.run(compare()), failed


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vetting, "PATIENCE", 0.05)


def test_all_report_and_are_compared():
    assert compared(OLD, NEW) == (NONE, [])


def test_a_new_worker_that_does_not_report_is_broken():
    """Its event loop stands still; that is no reason to give it the other places."""
    verdict, failed = compared(OLD)
    assert failed == [("web:2", because("no_count", within_s=0.05))]
    assert verdict is None


def test_an_old_worker_that_does_not_report_is_left_out():
    assert compared(NEW) == (NONE, [])
