"""The shim goes on with new code in the same process: nothing that it holds is lost, and broken code never takes over."""

from __future__ import annotations

import os
import signal

import pytest
from shim_harness import Shim, exists, lines, runs, state
from waiting import wait_for

SH = "/bin/sh"
# What is run instead of the shim's own main() when the state is there: by its kind, new code of some sort.
BROKEN = """
import sys
if sys.argv[-1].startswith(({when!r},)):
    {what}
"""


def upgraded(shim):
    """Have it go on with the code on the disk, and wait for that."""
    shim.say({"op": "upgrade"})
    shim.wait("upgraded")


def refused(shim):
    shim.say({"op": "upgrade"})
    return shim.wait("refused")["error"]


def sleeping(shim):
    """A program that has been started, all of it told: its number and its pid."""
    held = len(shim.open_fds())
    process, pid = shim.started("/bin/sleep", "1000")
    wait_for(lambda: len(shim.open_fds()) == held + 1, "it to be executed")  # its pidfd
    return process, pid


def kinds(shim):
    """What its descriptors are, without the numbers that differ."""
    return [each.partition(":[")[0] for each in shim.open_fds()]


@pytest.fixture
def shim():
    with Shim() as shim:
        yield shim


def test_pid_children_descriptors_and_strings_stay(shim):
    sleeper, pid = sleeping(shim)
    reader = shim.pipe("kept")
    shim.say({"op": "put", "key": "a", "blob": "A"})
    shim.echo()
    before = kinds(shim)
    upgraded(shim)
    wait_for(lambda: kinds(shim) == before, "the same descriptors")
    assert runs(pid)
    life = shim.supervisor
    life.kill()
    after = shim.next_life()
    assert after.hello["pid"] == shim.pid
    assert after.hello["blobs"]["a"] == "A"
    assert [(row["process"], row["pid"]) for row in after.hello["table"]] == [(sleeper, pid)]
    shim.wait("exited", shim.spawn(SH, "-c", "echo still; exit 3", fds={"0": "", "1": "kept", "2": ""}))
    assert lines(reader, 1) == ["still"]
    shim.signal(sleeper, signal.SIGTERM)
    assert shim.wait("exited", sleeper)["signal"] == signal.SIGTERM


def test_the_supervisor_lives_on_and_is_still_the_one(shim):
    upgraded(shim)
    upgraded(shim)
    shim.echo()
    assert shim.supervisor.pid in shim.children()
    pid = shim.supervisor.pid
    shim.supervisor.kill()
    assert shim.next_life().pid != pid
    wait_for(lambda: not exists(pid), "the old one to be reaped")


def test_ends_that_fall_into_the_gap_are_told_exactly():
    """The new code stands still before it looks at anything; children end in every way, and the supervisor gets it all."""
    gap = BROKEN.format(when="resume:", what="import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
    with Shim(setup=gap) as shim:
        go = {}
        for code in range(10):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            name = f"go:{code}"
            shim.say({"op": "keep", "name": name}, fds=[reader])
            os.close(reader)
            how = f"exit {code}" if code % 2 else f"kill -{code + 1} $$"
            go[shim.started(SH, "-c", f"read x; {how}", fds={"0": name, "1": "", "2": ""})] = (writer, code)
        shim.say({"op": "upgrade"})
        wait_for(lambda: state(shim.pid) == "T", "the gap")
        for (_, pid), (writer, _) in go.items():
            os.close(writer)
            wait_for(lambda pid=pid: state(pid) == "Z", "its end")
        os.kill(shim.pid, signal.SIGCONT)
        shim.wait("upgraded")
        for (process, pid), (_, code) in go.items():
            ended = shim.wait("exited", process)
            assert ended.get("code") == (code if code % 2 else None)
            assert ended.get("signal") == (None if code % 2 else code + 1)
            shim.ack(process)
            wait_for(lambda pid=pid: not exists(pid), "the zombie to be reaped")


def test_a_signal_that_falls_into_the_gap_is_heeded():
    gap = BROKEN.format(when="resume:", what="import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
    with Shim(setup=gap) as shim:
        shim.say({"op": "upgrade"})
        wait_for(lambda: state(shim.pid) == "T", "the gap")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
            os.kill(shim.pid, number)
        os.kill(shim.pid, signal.SIGCONT)
        for event in ("upgraded", "shutdown", "apply", "reopen-logs"):
            shim.wait(event)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise ImportError('no module named x')", "ImportError: no module named x"),
        ("handover.VERSION = 99", "the state has version 1, but this code supports version 99"),
        ("import os; os._exit(3)", "it exited with 3 without a message"),
        ("child.Child.load = None", "TypeError"),
    ],
)
def test_code_that_cannot_take_over_is_refused_with_the_reason_and_nothing_is_touched(what, said):
    with Shim(setup=BROKEN.format(when="check:", what=what)) as shim:
        _, pid = sleeping(shim)
        before = shim.open_fds()
        assert said in refused(shim)
        assert "cannot take over" in shim.log()
        assert runs(pid)
        shim.echo()
        assert shim.open_fds() == before


def test_code_that_hangs_is_refused_in_time():
    setup = BROKEN.format(when="check:", what="import time; time.sleep(1000)") + "handover.WITHIN = 0.2\n"
    with Shim(setup=setup) as shim:
        assert refused(shim) == "it did not respond within 0.2 s"
        shim.echo()


def test_an_exec_that_fails_leaves_everything_as_it_was():
    """Between the trial and the exec the interpreter goes away."""
    setup = """
import os
def execv(path, argv):
    raise FileNotFoundError(2, "No such file or directory")
handover.os = type("os", (), {**vars(os), "execv": staticmethod(execv)})
"""
    with Shim(setup=setup) as shim:
        _, pid = sleeping(shim)
        assert refused(shim) == "executing it failed: No such file or directory"
        before = shim.open_fds()
        assert "No such file" in refused(shim)
        assert shim.open_fds() == before
        # What it starts now inherits none of what was to stay open.
        text = shim.run("/bin/ls", "-l", "/proc/self/fd")
        assert len(text.splitlines()) == 5, text
        assert runs(pid)


def test_the_lock_is_held_all_the_while(shim):
    upgraded(shim)
    second = shim.launch()
    assert second.wait(30) == 75


def test_what_it_had_to_say_to_a_supervisor_that_does_not_listen_is_said(shim):
    """The channel is full when the code changes: the rest waits in the outbox and goes over."""
    processes = [shim.spawn(SH, "-c", "exit 7") for _ in range(20)]
    big = "x" * 60_000
    shim.say({"op": "put", "key": "big", "blob": big})
    for process in processes:
        shim.wait("exited", process)
    upgraded(shim)
    shim.ack(*processes)
    shim.echo()
    shim.supervisor.kill()
    assert shim.next_life().hello["blobs"]["big"] == big


def test_a_template_that_is_about_to_answer_answers_the_new_code():
    gap = BROKEN.format(when="resume:", what="import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
    with Shim(setup=gap) as shim:
        name = "template"
        reader = shim.pipe(name)
        env = {"PATH": "/usr/bin:/bin", "IMPETUSD_FORK_FD": "3"}
        template = shim.python("fake_template.py", fork_fd=3, fds={"0": "", "1": name, "2": name}, env=env)
        shim.wait("spawned", template)
        lines(reader, 1)
        worker = shim.number()
        shim.say(
            {"op": "upgrade"},
            {"op": "fork", "process": worker, "via": template, "spec": {"env": {}, "fds": [name], "group": "w"}},
        )
        wait_for(lambda: state(shim.pid) == "T", "the gap")
        os.kill(shim.pid, signal.SIGCONT)
        pid = shim.wait("spawned", worker)["pid"]
        assert pid in shim.children()
        assert lines(reader, 1) == [f"worker {pid}"]
        shim.signal(worker, signal.SIGKILL)
        assert shim.wait("exited", worker)["signal"] == signal.SIGKILL


def test_a_snapshot_is_what_a_new_supervisor_would_be_told(shim):
    sleeper, pid = shim.started("/bin/sleep", "1000")
    shim.say({"op": "put", "key": "a", "blob": "A"}, {"op": "snapshot", "name": "now"})
    shim.pipe("told")
    told = shim.output(shim.spawn("/bin/cat", "/dev/fd/3", fds={"0": "", "1": "told", "2": "told", "3": "now"}), "told")
    assert f'"process":{sleeper},"pid":{pid}' in told
    assert '"blobs":{"a":"A"}' in told
