"""The shim keeps what must survive: exits, descriptors, strings and children, whatever becomes of the supervisor."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys

import pytest
from shim_harness import CGROUPS, PROGRAMS, Ended, Shim, exists, lines, poll, state
from waiting import wait_for

from impetusd.shim import wire

QUIET = {"0": "", "1": "", "2": ""}
SH = "/bin/sh"
FAST = "supervision.SPACING = 0\nsupervision.DELAYS = (0.0, 0.0, 0.01, 0.02)\n"
# Says how each start is planned, and starts at once.
TOLD = """
plan = supervision.Supervision.plan
def plan_and_log(self, now, **how):
    plan(self, now, **how)
    state = shims[0].state
    log.log(f"start {state.silent_deaths} in {state.due - now:.1f} s")
    state.due = now
supervision.Supervision.plan = plan_and_log
supervision.SPACING = 0
"""
# A beat makes the shim impatient until it has killed the supervisor: so no other start is hurried.
IMPATIENT = """
kill, dispatch = supervision.Supervision.kill, main.Shim.dispatch
def patient(self):
    kill(self)
    supervision.SILENCE = 30.0
def hurry(self, op, fds):
    dispatch(self, op, fds)
    if op["op"] == "beat":
        supervision.SILENCE = 0.5
supervision.Supervision.kill, main.Shim.dispatch = patient, hurry
"""


@pytest.fixture
def shim():
    with Shim() as shim:
        yield shim


def put(key, blob):
    return {"op": "put", "key": key, "blob": blob}


def row(life, process):
    return next((row for row in life.hello["table"] if row["process"] == process), None)


def frozen(shim):
    """Stop the shim; what happens until SIGCONT it finds all at once."""
    os.kill(shim.pid, signal.SIGSTOP)
    wait_for(lambda: state(shim.pid) == "T", "the shim to stop")


def dead(shim, life):
    """Kill this life of the supervisor and wait until it is a zombie."""
    pidfd = shim.watch(life.pid)
    life.kill()
    shim.until_ended(pidfd, "the supervisor")


# Exits.


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
def test_an_exit_code_is_told_as_it_is(shim, code):
    ended = shim.wait("exited", shim.spawn(SH, "-c", f"exit {code}"))
    assert (ended.get("code"), ended.get("signal"), ended["left"]) == (code, None, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGRTMIN])
def test_a_signal_that_killed_is_told_as_it_is(shim, number):
    process, _ = shim.started("/bin/sleep", "1000")
    shim.signal(process, number)
    ended = shim.wait("exited", process)
    assert (ended.get("code"), ended.get("signal")) == (None, number)


def test_a_dead_child_keeps_its_pid_until_its_exit_is_acknowledged(shim):
    """So the number cannot be used anew while somebody may still signal it."""
    process, pid = shim.started("/bin/true")
    shim.wait("exited", process)
    shim.signal(process, signal.SIGTERM)
    shim.echo()
    assert state(pid) == "Z"
    shim.ack(process)
    wait_for(lambda: not exists(pid), "the zombie to be reaped")


def test_an_ack_before_the_exit_and_a_second_one_do_nothing(shim):
    process, pid = shim.started("/bin/sleep", "1000")
    shim.ack(process)
    shim.echo()
    assert exists(pid)
    shim.signal(process, signal.SIGKILL)
    assert shim.wait("exited", process)["signal"] == signal.SIGKILL
    shim.ack(process, process)
    shim.signal(process, signal.SIGKILL)
    shim.echo()
    assert not exists(pid)


def test_three_hundred_children_that_die_at_once_are_all_reported(shim):
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shim.say({"op": "keep", "name": "go"}, fds=[reader])
    os.close(reader)
    processes = {}
    ops = []
    for at in range(300):
        process = shim.number()
        processes[process] = at % 200
        spec = shim.spec([SH, "-c", f"read x; exit {at % 200}"], fds={**QUIET, "0": "go"})
        ops.append({"op": "spawn", "process": process, "spec": spec})
    shim.say(*ops)
    for process in processes:
        shim.wait("spawned", process)
    os.close(writer)
    assert {process: shim.wait("exited", process).get("code") for process in processes} == processes
    shim.ack(*processes)
    shim.echo()
    wait_for(lambda: shim.children() == [shim.supervisor.pid], "all to be reaped")


def test_two_hundred_children_leave_no_descriptor_behind(shim):
    shim.run("/bin/true")
    shim.echo()
    before = shim.open_fds()
    for _ in range(200):
        process = shim.spawn("/bin/true", fork_fd=3)
        assert shim.wait("exited", process)["code"] == 0
        shim.ack(process)
    shim.echo()
    assert shim.open_fds() == before


@pytest.mark.skipif(not CGROUPS, reason="no cgroup v2 may be written here")
def test_cgroups_are_removed_with_their_child_and_at_the_end_with_the_shim(shim):
    process, _ = shim.started("/bin/sleep", "1000", group="mine")
    cgroup = shim.cgroup
    assert os.path.isdir(f"{cgroup}/mine")
    shim.signal(process, signal.SIGKILL)
    shim.wait("exited", process)
    shim.ack(process)
    wait_for(lambda: not os.path.exists(f"{cgroup}/mine"), "its cgroup to be removed")
    shim.say({"op": "quit"})
    shim.supervisor.leave()
    assert shim.process.wait(30) == 0
    assert not os.path.exists(cgroup)


# What the supervisor says.


def test_an_operation_that_makes_no_sense_does_not_stop_those_after_it(shim):
    bad = [
        None,
        7,
        {},
        {"op": "none"},
        {"op": "put"},
        {"op": "keep", "name": "nothing"},
        {"op": "drop", "name": "nothing"},
        {"op": "signal", "process": [], "number": 1, "scope": "main"},
        {"op": "signal", "process": 4711, "number": 1, "scope": "main"},
        {"op": "ack", "process": 4711},
        {"op": "spawn", "process": 4711},
    ]
    shim.say(*bad, put("after", "x"))
    shim.echo()
    shim.supervisor.kill()
    life = shim.next_life()
    assert life.hello["blobs"] == {"after": "x"}
    assert life.hello["pid"] == shim.pid


def test_a_signal_that_does_not_exist_is_survived(shim):
    process, pid = shim.started("/bin/sleep", "1000")
    shim.signal(process, 4711)
    shim.signal(process, signal.SIGKILL, "none")
    shim.echo()
    assert exists(pid)


@pytest.mark.parametrize("message", [{}, {"ops": None}, {"ops": "put"}, {"ops": {"op": "quit"}}])
def test_a_message_that_makes_no_sense_is_survived(shim, message):
    """It ended the shim, once."""
    before = len(shim.open_fds())
    wire.send(shim.supervisor.channel, message, [0])
    shim.echo()
    assert len(shim.open_fds()) == before


def test_messages_longer_than_a_packet_go_both_ways(shim):
    blob = "ä" * 3_000_000
    shim.say(put("long", blob))
    shim.echo()
    shim.supervisor.kill()
    assert shim.next_life().hello["blobs"] == {"long": blob}


def test_a_string_is_replaced_and_forgotten(shim):
    shim.say(put("a", "1"), put("b", "2"), put("a", "3"), put("b", None), put("c", None))
    shim.echo()
    shim.supervisor.kill()
    assert shim.next_life().hello["blobs"] == {"a": "3"}


# The next supervisor.


def test_after_a_kill_the_next_supervisor_is_told_everything(shim):
    reader = shim.pipe("pipe")
    lives, pid = shim.started("/bin/sleep", "1000")
    ended, _ = shim.started(SH, "-c", "exit 3")
    shim.wait("exited", ended)
    acked = shim.spawn("/bin/true")
    shim.wait("exited", acked)
    shim.ack(acked)
    shim.say(put("key", "blob"))
    shim.echo()
    before = shim.supervisor
    before.kill()
    life = shim.next_life()
    assert life.pid != before.pid
    assert life.hello["blobs"] == {"key": "blob"}
    assert life.hello["shutdown"] is False
    assert row(life, lives) == {"process": lives, "pid": pid, "ended": None, "left": False, "acked": False}
    assert row(life, ended)["ended"]["code"] == 3
    assert row(life, ended)["acked"] is False
    assert row(life, acked) is None
    assert os.fstat(life.fds["pipe"]).st_ino == os.fstat(reader).st_ino
    shim.signal(lives, signal.SIGTERM)
    assert shim.wait("exited", lives)["signal"] == signal.SIGTERM


def test_an_exit_that_no_supervisor_saw_is_in_the_table_of_the_next(shim):
    process, pid = shim.started("/bin/sleep", "1000")
    pidfd = shim.watch(pid)
    frozen(shim)
    dead(shim, shim.supervisor)
    os.kill(pid, signal.SIGUSR1)
    shim.until_ended(pidfd, "the child")
    os.kill(shim.pid, signal.SIGCONT)
    life = shim.next_life()
    assert row(life, process)["ended"]["signal"] == signal.SIGUSR1
    assert row(life, process)["pid"] == pid
    assert state(pid) == "Z"
    shim.ack(process)
    wait_for(lambda: not exists(pid), "the zombie to be reaped")


def test_what_a_dying_supervisor_had_sent_is_carried_out(shim):
    reader, writer = os.pipe2(os.O_CLOEXEC)
    process = shim.number()
    shim.wait("exited", shim.spawn("/bin/true"))
    frozen(shim)
    shim.say(put("a", "1"))
    shim.say({"op": "keep", "name": "kept"}, fds=[writer])
    shim.say({"op": "spawn", "process": process, "spec": shim.spec(["/bin/sleep", "1000"])}, put("b", "2"))
    dead(shim, shim.supervisor)
    os.kill(shim.pid, signal.SIGCONT)
    life = shim.next_life()
    assert life.hello["blobs"] == {"a": "1", "b": "2"}
    assert row(life, process)["ended"] is None
    assert os.fstat(life.fds["kept"]).st_ino == os.fstat(reader).st_ino
    os.close(reader)
    os.close(writer)


def test_six_hundred_descriptors_come_back_under_their_names(shim):
    """More than the kernel takes with one message."""
    inodes = {}
    for _ in range(3):
        names, fds = [f"fd:{len(inodes) + at}" for at in range(200)], []
        for name in names:
            fds.append(os.open(shim.path(name), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC))
            inodes[name] = os.fstat(fds[-1]).st_ino
        shim.say(*({"op": "keep", "name": name} for name in names), fds=fds)
        for fd in fds:
            os.close(fd)
    shim.say({"op": "drop", "name": "fd:5"})
    del inodes["fd:5"]
    shim.echo()
    shim.supervisor.kill()
    life = shim.next_life()
    assert {name: os.fstat(fd).st_ino for name, fd in life.fds.items()} == inodes


def test_a_descriptor_kept_under_a_name_replaces_the_one_before(shim):
    shim.say({"op": "keep", "name": "x"}, {"op": "keep", "name": "x"}, fds=[0, shim.listening.fileno()])
    shim.echo()
    shim.supervisor.kill()
    life = shim.next_life()
    assert os.fstat(life.fds["x"]).st_ino == os.fstat(shim.listening.fileno()).st_ino


def test_a_supervisor_that_closes_its_channel_and_lives_on_is_killed_and_replaced(shim):
    before = shim.supervisor
    pidfd = shim.watch(before.pid)
    before.hang_up()
    shim.until_ended(pidfd, "the supervisor")
    assert shim.next_life().pid != before.pid
    shim.until_logged("signal 9")


def test_a_supervisor_that_falls_silent_is_replaced():
    with Shim(setup=IMPATIENT) as shim:
        before = shim.supervisor
        process, pid = shim.started("/bin/sleep", "1000")
        os.kill(before.pid, signal.SIGSTOP)
        wait_for(lambda: state(before.pid) == "T", "the supervisor to stop")
        before.say({"op": "beat"})
        life = shim.next_life()
        assert row(life, process)["pid"] == pid
        assert "has not responded for 0.5 s: replacing it" in shim.log()


def test_a_supervisor_of_which_a_thread_cannot_end_is_killed_and_replaced():
    """As when a disk holds up a thread of one that was killed: its main thread has ended then, and the process has not."""
    with Shim(setup="supervision.LATE, supervision.SILENCE = 0.1, 1000.0") as shim:
        before = shim.supervisor
        before.behead()
        wait_for(lambda: state(before.pid) == "Z", "its main thread to end")
        before.say({"op": "beat"})  # its last word; it is looked at when no other has come
        assert shim.next_life().pid != before.pid


def test_a_supervisor_that_never_speaks_is_started_again_by_the_delays():
    with Shim(setup=f"{TOLD}supervision.START_LIMIT = 100", command=["/bin/false"]) as shim:
        shim.until_logged("start 8 in")
        starts = [line.split("shim: ")[1] for line in shim.log().splitlines() if "shim: start" in line][:8]
        delays = [0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0]
        assert starts == [f"start {at} in {delay} s" for at, delay in enumerate(delays, 1)]
        assert "ended: exit 1; restarting it" in shim.log()


def test_a_supervisor_that_cannot_be_executed_is_named_with_the_reason():
    with Shim(setup=TOLD, command=["/none/such"]) as shim:
        shim.until_logged("ended: executing /none/such: no such file; restarting it")


def test_a_supervisor_that_spoke_begins_the_delays_anew():
    with Shim(setup=TOLD) as shim:
        shim.supervisor.kill()
        shim.next_life()
        shim.until_logged("start 1 in")
        for _ in range(3):
            shim.echo()
            shim.supervisor.kill()
            shim.next_life()
        assert shim.log().count("start 0 in 0.0 s") == 3


def test_no_descriptor_left_for_a_supervisor_is_waited_out(shim):
    """It ended the shim, once, and everything with it."""
    process, pid = shim.started("/bin/sleep", "1000")
    limits = resource.prlimit(shim.pid, resource.RLIMIT_NOFILE)
    shim.echo()
    resource.prlimit(shim.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    shim.supervisor.kill()
    shim.until_logged("Too many open files")
    resource.prlimit(shim.pid, resource.RLIMIT_NOFILE, limits)
    assert row(shim.next_life(), process)["pid"] == pid


def lasting_life(shim):
    """The next supervisor, but for one whose start failed: it may have come up before it was ended."""
    while True:
        with contextlib.suppress(Ended):
            return shim.next_life()


def gives_up_a_start_whole(setup, sentence):
    """Under `setup` one start of a supervisor fails: that is logged, the next one works, and nothing is left of the first."""
    with Shim(setup=setup) as shim:
        shim.echo()
        before = shim.open_fds()
        shim.supervisor.kill()
        lasting_life(shim)
        shim.echo()
        assert sentence in shim.log()
        assert len(shim.open_fds()) == len(before)
        wait_for(lambda: shim.children() == [shim.supervisor.pid], "the start that was given up to be reaped")


@pytest.mark.parametrize("spare", range(5))
def test_each_descriptor_of_a_supervisors_start_may_be_the_one_that_is_missing(spare):
    setup = f"""
import os, resource
start, calls = supervision.Supervision.start, []
def scarce(self, now):
    calls.append(1)
    if len(calls) != 2:
        return start(self, now)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(0)  # the lowest that is free
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + {spare}, limits[1]))
    start(self, now)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
supervision.Supervision.start = scarce
supervision.SPACING = 0
"""
    gives_up_a_start_whole(setup, "Too many open files")


@pytest.mark.parametrize("call", ["spawn.start", "os.pidfd_open", "proc.read"])
def test_whatever_fails_in_a_supervisors_start_it_is_started_again_and_nothing_is_left_of_it(call):
    setup = f"""
import os
start, calls = supervision.Supervision.start, []
def once(self, now):
    calls.append(1)
    if len(calls) != 2:
        return start(self, now)
    def fails(*_):
        raise RuntimeError("raised by the test")
    real, {call} = {call}, fails
    start(self, now)
    {call} = real
supervision.Supervision.start = once
supervision.SPACING = 0
"""
    gives_up_a_start_whole(setup, "starting the supervisor failed: RuntimeError('raised by the test')")


def test_events_wait_for_a_supervisor_that_does_not_read(shim):
    """The shim goes on meanwhile, and nothing is lost."""
    text = "x" * 60_000
    processes = [shim.spawn(f"/none/{text}") for _ in range(40)]
    poll(shim.supervisor.channel, select.POLLIN, "the first event")
    for process in processes:
        shim.wait("spawned", process)
        assert "stage" in shim.wait("exited", process)


# The end.


def test_sigterm_is_told_and_the_next_supervisor_knows(shim):
    os.kill(shim.pid, signal.SIGTERM)
    shim.wait("shutdown")
    os.kill(shim.pid, signal.SIGINT)
    shim.echo()
    assert [event for event in shim.supervisor.heard if event["event"] == "shutdown"] == []
    shim.supervisor.kill()
    assert shim.next_life().hello["shutdown"] is True


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_other_signals_are_nothing_to_it(shim, number):
    os.kill(shim.pid, number)
    shim.echo()
    assert shim.process.poll() is None


def test_it_ends_when_told_once_the_supervisor_has_left(shim):
    shim.say({"op": "quit"})
    shim.echo()
    assert shim.process.poll() is None
    shim.supervisor.leave(0)
    assert shim.process.wait(30) == 0


def test_a_second_shim_on_the_same_state_directory_gives_way(shim):
    assert shim.launch().wait(30) == 75
    shim.run("/bin/true")


# Orphans.


def test_an_orphan_is_adopted_and_reaped(shim):
    out = shim.pipe("out")
    process = shim.python("family.py", "orphan", fds={**QUIET, "1": "out"})
    pids = dict(line.split() for line in lines(out, 2))
    wait_for(lambda: not exists(int(pids["grandchild"])), "the orphan to be reaped")
    shim.echo()
    assert shim.supervisor.heard == [event for event in shim.supervisor.heard if event["event"] == "spawned"]
    assert exists(int(pids["main"]))
    shim.signal(process, signal.SIGKILL)
    assert shim.wait("exited", process)["left"] is False


def test_it_needs_nothing_but_the_standard_library(shim):
    assert shim.process.args[:3] == [sys.executable, "-I", "-S"]
    with open(f"/proc/{shim.pid}/maps", encoding="utf-8") as file:
        assert "site-packages" not in file.read()
    assert os.path.isdir(PROGRAMS)
