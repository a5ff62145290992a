"""Whatever goes wrong in the shim while it handles one process costs that process, and nothing else.

An error is raised at each call that is made meanwhile, one after the other: found by the interpreter's own account of
calls, so that no list of them has to be kept.
"""

from __future__ import annotations

import os
import signal

import pytest
import raising
from shim_harness import CGROUPS, Shim
from waiting import wait_for

# `aim` says what is to be hit next: the handling of that operation, or of that event of the process, at the n-th call.
ARMED = """
import sys
aim = {}
fired = []

def raising(count):
    left = [count]
    def profile(frame, event, arg):
        if event in ("call", "c_call") and getattr(arg, "__name__", "") != "setprofile":
            left[0] -= 1
            if left[0] < 0:
                sys.setprofile(None)
                fired.append(getattr(arg, "__name__", frame.f_code.co_name))
                raise ERROR
    return profile

def armed(real, kind, process):
    def act(self, *arguments):
        target = process(*arguments)
        if aim.get("kind") != kind or aim.get("process") != target:
            return real(self, *arguments)
        me, profile = os.getpid(), raising(aim.pop("count"))
        aim.clear()
        try:
            sys.setprofile(profile)
            return real(self, *arguments)
        finally:
            sys.setprofile(None)
            if os.getpid() == me:
                fire = {"event": "fired", "process": target, "call": fired.pop() if fired else ""}
                shims[0].state.emit(fire)
    return act

import os
Shim, Children = main.Shim, children.Children
dispatch = armed(Shim.dispatch, "op", lambda op, fds: op.get("process", op.get("name")) if op["op"] == KIND else None)
Children.check_end = armed(Children.check_end, "event", lambda child: child.process)

def aimed(self, op, fds):
    if op["op"] == "aim":
        aim.update(op["at"])
        self.state.emit({"event": "aimed"})
    else:
        dispatch(self, op, fds)
Shim.dispatch = aimed
"""
ERRORS = {"mistake": "RuntimeError('raised by the test')", "host": "OSError(5, 'raised by the test')"}


def armed(kind, error, cgroups):
    text = ARMED.replace("ERROR", ERRORS[error]).replace("KIND", repr(kind))
    return Shim(setup=text, cgroups=cgroups)


def blocked(pid):
    """The mask of the signals that a process blocks. One that blocks SIGCHLD never learns that a child of a child is to be reaped."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk:"))


def put(key):
    return {"op": "put", "key": key, "blob": "x"}


@pytest.mark.parametrize(("error", "cgroups"), [("mistake", CGROUPS), ("host", False)])
def test_a_start_that_goes_wrong_anywhere_is_told_and_costs_no_other_operation(error, cgroups):
    with armed("spawn", error, cgroups) as shim:
        lives, pid = shim.started("/bin/sleep", "1000")
        for count in range(1000):
            victim, other = shim.number(), shim.number()
            spawns = [
                {"op": "spawn", "process": process, "spec": shim.spec(["/bin/sleep", "1000"], group=f"g{process}")}
                for process in (victim, other)
            ]
            aim = {"op": "aim", "at": {"kind": "op", "process": victim, "count": count}}
            shim.say(aim, put(f"before:{count}"), *spawns, put(f"after:{count}"))
            call = shim.wait("fired", victim)["call"]
            shim.wait("spawned", other)
            shim.signal(victim, signal.SIGKILL, "tree")  # it lives, or has failed
            ended = shim.wait("exited", victim)
            assert ended.get("stage") or ended["signal"] == signal.SIGKILL, call
            shim.signal(other, signal.SIGKILL, "tree")
            assert shim.wait("exited", other)["signal"] == signal.SIGKILL
            shim.ack(victim, other)
            wait_for(lambda: set(shim.children()) == {pid, shim.supervisor.pid}, f"nothing to be left after {call}")
            wait_for(lambda: blocked(shim.pid) == 0, f"it to hear signals after {call}")
            if not call:
                break
        assert count > 50
        assert [event for event in shim.supervisor.heard if event["event"] == "exited"] == []
        shim.supervisor.kill()
        hello = shim.next_life().hello
        assert set(hello["blobs"]) == {
            f"{when}:{number}" for when in ("before", "after") for number in range(count + 1)
        }
        alive = {"process": lives, "pid": pid, "ended": None, "left": False, "acked": False}
        assert hello["table"] == [alive]


@pytest.mark.parametrize("error", ERRORS)
def test_an_end_whose_handling_goes_wrong_anywhere_is_told_all_the_same(error):
    with armed("none", error, CGROUPS) as shim:
        for count in range(1000):
            processes = [shim.started("/bin/sleep", "1000") for _ in range(3)]
            victim = processes[1][0]
            shim.say({"op": "aim", "at": {"kind": "event", "process": victim, "count": count}})
            shim.echo()
            for _, pid in processes:
                os.kill(pid, signal.SIGUSR1)
            for process, _ in processes:
                assert shim.wait("exited", process)["signal"] == signal.SIGUSR1
            call = shim.wait("fired", victim)["call"]
            shim.echo()
            assert [event for event in shim.supervisor.heard if event["event"] == "exited"] == []
            shim.ack(*(process for process, _ in processes))
            wait_for(lambda: shim.children() == [shim.supervisor.pid], f"nothing to be left after {call}")
            if not call:
                break
        assert count > 10


@pytest.mark.parametrize("kind", ["keep", "drop", "signal", "ack"])
def test_any_other_operation_that_goes_wrong_is_done_once_more(kind):
    """But for a descriptor that cannot be kept: whoever needs it is told."""
    with armed(kind, "host", False) as shim:
        for count in range(1000):
            name, (process, _) = f"pipe:{count}", shim.started("/bin/sleep", "1000")
            target = process if kind in {"signal", "ack"} else name
            aim = {"op": "aim", "at": {"kind": "op", "process": target, "count": count}}
            reader, writer = os.pipe2(os.O_CLOEXEC)
            kept = [{"op": "keep", "name": each} for each in (name, f"{name}:too")]
            shim.say(aim, *kept, fds=[reader, writer])
            after = shim.number()
            spec = shim.spec(["/bin/true"], fds={"0": name, "1": f"{name}:too", "2": ""})
            shim.say({"op": "spawn", "process": after, "spec": spec})
            ended = shim.wait("exited", after)
            assert ended.get("code") == 0 or (kind, ended.get("error")) == ("keep", "Too many open files")
            shim.say(*({"op": "drop", "name": each["name"]} for each in kept))
            shim.signal(process, signal.SIGUSR1)
            assert shim.wait("exited", process)["signal"] == signal.SIGUSR1
            shim.ack(after, process)
            call = shim.wait("fired", target)["call"]
            wait_for(lambda: shim.children() == [shim.supervisor.pid], f"nothing to be left after {call}")
            os.close(writer)
            assert os.read(reader, 1) == b"", call  # the shim has let go of both ends
            os.close(reader)
            if not call:
                break
        assert count > 3
        shim.supervisor.kill()
        assert shim.next_life().hello["table"] == []
        assert shim.supervisor.fds == {}


ACTS = (
    *("supervision.Supervision.check", "supervision.Supervision.flush", "main.Shim.beat", "main.Shim.write_down"),
    *("children.Children.remove_emptied", "main.Shim.sweep", "main.Shim.end_alone", "main.Shim.patience"),
    *("loop.Loop.resume", "loop.Loop.reserve"),
)
RECEIVE = "supervision.Supervision.receive"
EVERY = 1 if raising.EVERY == 1 else 4  # of the calls of one act one in so many


def armed_act(act):
    arm = f"\n{act} = armed({act}, 'act', lambda *_: {act!r})\nsupervision.SPACING = 0.0\n"
    return Shim(setup=ARMED.replace("ERROR", ERRORS["mistake"]).replace("KIND", "'none'") + arm)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: f"{act}-each {EVERY}th of its calls")
def test_what_goes_wrong_anywhere_in_its_loop_loses_nothing_and_starts_nothing_twice(act):
    with armed_act(act) as shim:
        _, pid = shim.started("/bin/sleep", "1000")
        for count in range(0, 2000, EVERY):
            victim, its = shim.started("/bin/sleep", "1000")
            shim.say({"op": "aim", "at": {"kind": "act", "process": act, "count": count}})
            shim.wait("aimed")
            other, _ = shim.started("/bin/sleep", "1000")
            os.kill(its, signal.SIGUSR1)
            assert shim.wait("exited", victim)["signal"] == signal.SIGUSR1
            shim.signal(other, signal.SIGKILL)
            shim.wait("exited", other)
            shim.ack(victim, other)
            wait_for(lambda: set(shim.children()) == {pid, shim.supervisor.pid}, f"nothing to be left after {count}")
            if not shim.wait("fired", act)["call"]:
                break
        assert count >= EVERY


def test_of_a_supervisor_of_which_a_message_is_lost_nothing_that_follows_is_carried_out():
    """It is replaced: the next one begins with what is known here."""
    replaced = 0
    with armed_act(RECEIVE) as shim:
        _, pid = shim.started("/bin/sleep", "1000")
        for count in range(0, 200, EVERY):
            shim.say({"op": "aim", "at": {"kind": "act", "process": RECEIVE, "count": count}})
            shim.wait("aimed")
            try:
                shim.say(put(f"{count}:lost"))
                shim.say(put(f"{count}:next"))
                shim.echo()
                call = shim.wait("fired", RECEIVE)["call"]
            except (AssertionError, ConnectionError):
                replaced += 1
                told = shim.next_life().hello
                assert [row["pid"] for row in told["table"]] == [pid]
                assert {f"{count}:lost", f"{count}:next"} & told["blobs"].keys() != {f"{count}:next"}
                continue
            if not call:
                break
        assert replaced
        assert set(shim.children()) == {pid, shim.supervisor.pid}


def test_a_source_that_goes_wrong_again_and_again_is_set_aside_and_told_twice():
    setup = """
check_end = children.Children.check_end
def bad(self, child):
    if child.process == 1 and "mended" not in shims[0].state.blobs:
        raise OSError(5, "raised by the test")
    check_end(self, child)
children.Children.check_end = bad
"""
    with Shim(setup=setup) as shim:
        bad, good = shim.started("/bin/sleep", "1000"), shim.started("/bin/sleep", "1000")
        assert bad[0] == 1
        os.kill(bad[1], signal.SIGUSR1)
        shim.until_logged("keeps failing; retrying every 5 s")
        os.kill(good[1], signal.SIGUSR1)
        assert shim.wait("exited", good[0])["signal"] == signal.SIGUSR1
        shim.say(put("mended"))
        assert shim.wait("exited", 1)["signal"] == signal.SIGUSR1
        assert shim.log().count("raised by the test") == 1
