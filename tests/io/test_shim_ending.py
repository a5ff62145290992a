"""The end without a supervisor: the shim stops everything by itself, each process in its own way and time."""

from __future__ import annotations

import os
import signal

import pytest
from shim_harness import BREAKABLE, Shim, lines, runs
from waiting import wait_for

from impetusd.linux import proc as tree
from impetusd.shim import leftovers

QUIET = {"0": "", "1": "", "2": ""}
SH = "/bin/sh"
QUICK = "supervision.DELAYS, supervision.SPACING = (0.0,) * 7, 0.0"


@pytest.fixture
def shim():
    """One whose supervisors cannot come up any more once `abandon` is called."""
    with Shim(setup=f"{BREAKABLE}{QUICK}") as shim:
        yield shim


def abandon(shim):
    shim.say({"op": "put", "key": "a", "blob": "b"})
    shim.echo()
    shim.break_supervisors()
    shim.supervisor.kill()


def test_each_process_gets_its_own_signal_and_what_ignores_it_is_killed_with_its_tree(shim):
    out = shim.pipe("out")
    tree = "trap '' TERM; sleep 1000 & echo $!; echo $$; while :; do sleep 1000; done"
    shim.started(SH, "-c", tree, fds={**QUIET, "1": "out"}, stop=[signal.SIGTERM, 0.2, True])
    deaf = [shim.watch(int(pid)) for pid in lines(out, 2)]
    told = shim.pipe("told")
    script = "trap 'echo interrupted; exit' INT; echo up; while :; do sleep 0.01; done"
    shim.started(SH, "-c", script, fds={**QUIET, "1": "told"}, stop=[signal.SIGINT, 30.0, True])
    assert lines(told, 1) == ["up"]
    abandon(shim)
    os.kill(shim.pid, signal.SIGTERM)
    assert lines(told, 1) == ["interrupted"]
    assert shim.process.wait(30) == 1
    for pidfd in deaf:
        shim.until_ended(pidfd, "what ignored its signal, and its child")
    assert "stopping everything without it" in shim.log()
    assert "everything is stopped" in shim.log()
    assert not os.path.exists(f"{shim.dir}/table")


def test_a_daemon_that_is_to_be_spared_is_spared(shim):
    out = shim.pipe("out")
    _, pid = shim.started(
        SH, "-c", "setsid sleep 1000 & echo $!; exec sleep 1000", fds={**QUIET, "1": "out"}, stop=[15, 10.0, False]
    )
    (spared,) = lines(out, 1)
    main = shim.watch(pid)
    abandon(shim)
    os.kill(shim.pid, signal.SIGTERM)
    assert shim.process.wait(30) == 1
    shim.until_ended(main, "the main process")
    os.kill(int(spared), signal.SIGKILL)


def test_told_to_end_before_the_supervisors_fail_it_ends_once_they_do(shim):
    _, pid = shim.started("/bin/sleep", "1000")
    ended = shim.watch(pid)
    os.kill(shim.pid, signal.SIGTERM)
    shim.wait("shutdown")
    abandon(shim)
    assert shim.process.wait(30) == 1
    shim.until_ended(ended, "the program")


def test_what_runs_goes_on_while_no_supervisor_comes_up_and_it_is_told_once(shim):
    _, pid = shim.started("/bin/sleep", "1000")
    abandon(shim)
    shim.until_logged("the supervisor cannot be started (exit 1): retrying every 0 s; programs keep running")
    here, seen = shim.log().count("\n"), set()
    wait_for(lambda: seen.update(shim.children()) or len(seen) > 10, "many more tries")
    assert shim.log().count("\n") == here
    assert runs(pid)


def test_with_nothing_to_hold_it_gives_up():
    with Shim(setup="supervision.SPACING = 0", command=["/bin/false"]) as shim:
        assert shim.process.wait(30) == 1
        assert "no programs are running: exiting" in shim.log()


def test_a_supervisor_that_goes_wrong_again_and_again_is_started_ever_more_slowly():
    """Although each says something before: it spoke, and that made the shim start five a second."""
    setup = """
plan = supervision.Supervision.plan
def plan_and_log(self, now, **how):
    plan(self, now, **how)
    log.log(f"start {shims[0].state.silent_deaths}")
supervision.Supervision.plan = plan_and_log
supervision.SPACING = 0
"""
    with Shim(setup=setup) as shim:
        shim.say({"op": "put", "key": "a", "blob": "b"})
        for number in range(1, 4):
            shim.echo()
            shim.supervisor.leave(1)
            shim.until_logged(f"start {number}")
            shim.next_life()
        shim.echo()
        shim.supervisor.kill()  # somebody's kill is nobody's fault
        shim.next_life()
        shim.until_logged("start 0")


# A descendant that has a session, a group and an environment of its own, and ends on nothing but SIGKILL.
HIDDEN = "env -i setsid sh -c 'trap : TERM HUP; echo $$; while :; do sleep 0.1; done' &"


def hidden(shim, **changes):
    """A program that has such a descendant, and ends with its input: its number, the pid of that one, and a pidfd."""
    out = shim.pipe("out")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shim.say({"op": "keep", "name": "go"}, fds=[reader])
    os.close(reader)
    process, _ = shim.started(SH, "-c", f"{HIDDEN} read x", fds={"0": "go", "1": "out", "2": ""}, **changes)
    shim.say({"op": "drop", "name": "go"})
    (pid,) = map(int, lines(out, 1))
    wait_for(lambda: tree.variable(pid, leftovers.MARK) == "", "it to have lost its environment")
    return process, pid, shim.watch(pid), writer


def test_a_descendant_that_hides_is_known_by_its_parent_when_that_is_stopped():
    with Shim(cgroups=False) as shim:
        process, pid, pidfd, writer = hidden(shim)
        shim.signal(process, signal.SIGTERM)
        shim.echo()  # or it may have ended before the shim looks who is below it
        os.close(writer)
        assert shim.wait("exited", process)["left"]
        assert runs(pid)
        shim.signal(process, signal.SIGKILL, "tree")
        shim.until_ended(pidfd, "what hides")
        shim.wait("gone", process)


def test_what_no_unit_has_a_say_about_ends_with_all_of_them():
    """Its parent ended before anybody looked."""
    with Shim(cgroups=False, setup="ending.GRACE = 0.1") as shim:
        process, _, pidfd, writer = hidden(shim)
        os.close(writer)
        assert shim.wait("exited", process)["left"] is False
        shim.ack(process)
        shim.echo()
        shim.say({"op": "quit"})
        shim.supervisor.leave()
        shim.until_ended(pidfd, "what hides")
        assert shim.process.wait(30) == 0
        assert "still running, but its unit is unknown" in shim.log()


@pytest.mark.parametrize(
    ("stop", "upgraded"),
    [([15, 10.0, False], False), ([15, 10.0, False], True), ([15, 10.0, True], False)],
    ids=["spared", "spared over an upgrade", "left"],
)
def test_unless_it_may_be_what_a_unit_spares(stop, upgraded):
    with Shim(cgroups=False) as shim:
        process, pid, _, writer = hidden(shim, stop=stop)
        os.close(writer)
        shim.wait("exited", process)
        if stop[2]:  # a daemon of another program that was not ended with it
            other = shim.spawn(SH, "-c", "sleep 1000 & exit 0", fds=QUIET)
            assert shim.wait("exited", other)["left"]
            shim.ack(other)
        shim.ack(process)
        shim.echo()
        if upgraded:
            shim.say({"op": "upgrade"})
            shim.wait("upgraded")
        shim.say({"op": "quit"})
        shim.supervisor.leave()
        assert shim.process.wait(30) == 0
        assert runs(pid)
