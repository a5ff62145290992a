"""The shim notes how a supervisor has ended by itself, and what it was at. What follows from that it does not decide."""

from __future__ import annotations

import json
import os
import signal

import pytest
from shim_harness import BREAKABLE, Shim

from impetusd.shim import wire

QUICK = "supervision.SILENCE, supervision.SPACING, supervision.DELAYS = 0.3, 0.0, (0.0,) * 7"


@pytest.fixture
def shim():
    with Shim(setup="supervision.SPACING, supervision.DELAYS = 0.0, (0.0,) * 7") as shim:
        yield shim


def at(shim, slot, stage="deciding"):
    os.pwrite(shim.supervisor.page, f"{slot}\n{stage}\0".encode(), 0)


def ends(shim):
    return [
        {key: value for key, value in each.items() if key not in {"at", "time"}}
        for each in json.loads(shim.supervisor.hello["blobs"].get(wire.ENDS, "[]"))
    ]


NOTE = {"slot": "web:0", "stage": "deciding"}
FAULTS = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT")


@pytest.mark.parametrize("how", [70, *FAULTS])
def test_exit_70_and_fault_signals_are_noted(shim, how):
    at(shim, "web:0")
    if isinstance(how, int):
        shim.supervisor.leave(how)
    else:
        os.kill(shim.supervisor.pid, signal.Signals[how])
    shim.next_life()
    assert ends(shim) == [{"code": 70} | NOTE if how == 70 else {"signal": int(signal.Signals[how])} | NOTE]


@pytest.mark.parametrize("how", [0, 1, "SIGKILL", "SIGTERM", "SIGINT"])
def test_any_other_end_is_somebodys(shim, how):
    at(shim, "web:0")
    if isinstance(how, int):
        shim.supervisor.leave(how)
    else:
        os.kill(shim.supervisor.pid, signal.Signals[how])
    shim.next_life()
    assert ends(shim) == []


def test_one_that_is_killed_for_its_silence_is_noted():
    with Shim(setup=QUICK) as shim:
        at(shim, "web:0")
        shim.next_life()
        assert ends(shim)[:1] == [{"silent": True} | NOTE]


def test_one_that_somebody_has_stopped_is_not():
    with Shim(setup=QUICK) as shim:
        at(shim, "web:0")
        os.kill(shim.supervisor.pid, signal.SIGSTOP)
        shim.next_life()
        assert ends(shim) == []


def test_each_begins_with_a_blank_page_and_what_was_noted_is_kept(shim):
    for number in range(40):
        if number % 2:
            at(shim, f"web:{number}", "x" * 2000)
        shim.supervisor.leave(70)
        shim.next_life()
        assert os.pread(shim.supervisor.page, wire.PAGE_SIZE, 0) == bytes(wire.PAGE_SIZE)
    found = ends(shim)
    assert [each["slot"] for each in found][-3:] == ["web:37", "", "web:39"]
    assert len(found) == 32  # and not ever more


def test_who_judges_may_strike_out_what_has_counted(shim):
    shim.supervisor.leave(70)
    shim.next_life()
    assert len(ends(shim)) == 1
    shim.say({"op": "put", "key": wire.ENDS, "blob": None})
    shim.echo()
    shim.supervisor.kill()
    shim.next_life()
    assert ends(shim) == []


def test_page_and_ends_outlive_the_shim_and_new_code_in_it(shim):
    at(shim, "web:0")
    shim.supervisor.leave(70)
    shim.next_life()
    first = os.fstat(shim.supervisor.page).st_ino
    at(shim, "web:1")
    shim.say({"op": "upgrade"})
    shim.wait("upgraded")
    shim.supervisor.leave(70)
    shim.next_life()
    assert os.fstat(shim.supervisor.page).st_ino == first
    given = [os.dup(shim.supervisor.page)]
    os.kill(shim.pid, signal.SIGKILL)
    shim.supervisor.kill()
    shim.unlock()
    shim.succeed(mode="orphaned", fds=given)
    os.close(given[0])
    assert os.fstat(shim.supervisor.page).st_ino == first
    assert [each["slot"] for each in ends(shim)] == ["web:0", "web:1"]
    assert "; lost: " not in shim.log()


def test_a_supervisor_that_always_hangs_does_not_hold_up_an_end_that_was_asked_for():
    """It is silent from its start on, and each lives as long as the shim has patience."""
    with Shim(setup="supervision.SILENCE, supervision.LASTING = 0.3, 0.1") as shim:
        _, pid = shim.started("/bin/sleep", "1000", stop=[15, 5.0, True])
        ended = shim.watch(pid)
        os.kill(shim.pid, signal.SIGTERM)
        assert shim.process.wait(30) == 1
        assert "stopping everything without it" in shim.log()
        shim.until_ended(ended, "the program")


def test_an_end_that_a_supervisor_was_asked_for_is_carried_out_without_it_if_none_comes_up():
    with Shim(setup=f"{BREAKABLE}supervision.DELAYS, supervision.SPACING = (0.0,) * 7, 0.0") as shim:
        _, pid = shim.started("/bin/sleep", "1000")
        ended = shim.watch(pid)
        shim.say({"op": "put", "key": "shutdown", "blob": "yes"})
        shim.echo()
        shim.break_supervisors()
        shim.supervisor.kill()
        assert shim.process.wait(30) == 1
        shim.until_ended(ended, "the program")
