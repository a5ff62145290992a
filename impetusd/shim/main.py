"""The shim: parent of everything, owner of every descriptor that must survive, and nothing that could fail.

It spawns what it is told to, reports exits, signals only what it has not reaped (so a pid that is used anew can never
be hit), keeps named descriptors and opaque strings, adopts orphans, and starts the supervisor again when that dies or
falls silent. It decides nothing. `shim.wire` has the messages.

`shim/__main__.py` runs it. Exit status: 0 after an orderly end (or what the supervisor asks for), 75 when the state
directory is held by another shim, 73 when what a killed one has left cannot be taken over, 1 when it had to give up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time

from impetusd.linux import proc, usage
from impetusd.linux.cgroup import Cgroups
from impetusd.linux.priority import ERROR, INFO
from impetusd.shim import descriptors, ending, failures, handover, leftovers, orphans, spawn, table, upstream, wire
from impetusd.shim.child import Child
from impetusd.shim.log import log, write_waiting, writer
from impetusd.shim.supervision import Supervision

TYPE_CHECKING = False  # `typing` and `dataclasses` would be 2 MB for as long as we live
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

EX_CANTCREAT, EX_TEMPFAIL = 73, 75
LOOKS = 5  # tries to take the instance lock, 10 ms apart
FLOOR = -900  # our own oom_score_adj, where we may set it: children go first
APART = 0.1  # seconds between two rounds while something goes wrong: it may be due all the time, or never wake us
MOST_ERRNO = 4096  # of the kernel's: MAX_ERRNO in linux/err.h
PIPES = 4  # descriptors that are kept for one process, at least
LAST_LINES = 1.0  # seconds that the log may take for the last of them
LOOK_AGAIN = 0.5  # seconds, when it could not even so


class Shim(Supervision):
    """All that is held, and what happens to it."""

    def __init__(self, conf: str, paths: dict[str, str], baseline: dict[str, Any], life: str = "") -> None:
        """`baseline`: see `measured`; `life`: see `shim.table`."""
        super().__init__(conf, paths, life)
        self.baseline = baseline
        self.trial: handover.Trial | None = None
        self.ending: ending.Ending | None = None  # under way
        self.spares = False  # there was a process whose descendants are let be
        self.last: ending.Last | None = None  # after the supervisor's own
        self.over = False
        self.run_dir = paths["run_dir"]
        self.children: dict[int, Child] = {}
        self.forking: dict[int, Child] = {}  # asked of a template, not answered yet
        self.forked: list[Child] = []  # answered, and not let go on yet
        self.lost: set[str] = set()  # names for which no descriptor came: there was none left to take it
        self.code = 0  # what to exit with then
        self.sweep_due = False
        self.emptied: list[str] = []  # cgroups that are to be removed
        proc.children()  # has it open the file that it needs
        self.cgroups = Cgroups(leftovers.group_name(paths["state_dir"]))
        # One that went to the background is not the main process of whatever service started it.
        self.upstream = upstream.Upstream(os.environ if paths.get("boot") else {})

    # The loop.

    def run(self) -> int:
        """Serve until told to quit. Returns the exit status."""
        self._listen_to_signals()
        each_round = (
            *(self._check_supervisor, self._flush, self._beat, self._write_down, self._remove_emptied),
            write_waiting,
        )
        if self.supervisor is not None:  # it was there before this code was
            self.emit({"event": "upgraded"})
        self._flush()
        failed = ""
        while True:
            try:
                code = self._round(each_round)
            except Exception as error:  # between the acts; they do not come to nothing with it
                if repr(error) != failed:
                    failed = repr(error)
                    log(f"a round failed, going on: {failed}")
                time.sleep(APART)
            else:
                if code is not None:
                    return code

    def _round(self, each_round: Iterable[Callable[[], None]]) -> int | None:
        """Wait, and do what is due. The exit status when that was all."""
        # Whatever failed while it had signals blocked: without SIGCHLD no stray is reaped, and SIGTERM ends nothing.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        events = self.epoll.poll(self._patience())
        self._hold_back()  # as soon as there is room again
        for fd, _ in events:
            act = self.on.get(fd)  # an earlier one of this round may have closed it
            if act is not None:
                self._survive(act, fd)
        self._take_up_again(time.monotonic())
        if self.sweep_due:
            self._survive(self._sweep)
        self._survive(self._end_alone)
        if self.over:
            return 1
        for act in each_round:
            self._survive(act)
        if self.quitting and self.supervisor is None:
            if self.last is None:
                self.last = ending.Last(self, time.monotonic())
            if self.last.is_over(time.monotonic()):
                self._clear_away()
                return self.code
        return None

    def _beat(self) -> None:
        now = time.monotonic()
        if self.trial is not None and now >= self.trial.deadline:
            self.trial.kill()
        self.upstream.beat(now)

    def _end_alone(self) -> None:
        """Stop everything, if that was asked for and no supervisor comes up to do it."""
        now = time.monotonic()
        if self.ending is None:
            if not self.gives_up:
                return
            if not (self.children or self.blobs):
                log("no supervisor comes up, and nothing runs that would have to be held: giving up")
                self.over = True
                self._clear_away()
                return
            if not (
                self.shutdown or "shutdown" in self.blobs
            ):  # a supervisor that was asked to stop everything says so
                return
            log("no supervisor comes up, and the end was asked for: stopping everything without one")
            self.due = None
            self.ending = ending.Ending(self, now)
        if not self.ending.is_over(now):
            return
        self.over = True
        left = self.ending.left()
        log(f"left behind, for SIGKILL does not end it: {left}" if left else "everything is stopped")
        self._clear_away()
        with contextlib.suppress(OSError):
            os.unlink(f"{self.run_dir}/control.sock")

    def _clear_away(self) -> None:
        self.table.remove(self.kept["lock"])
        self.cgroups.remove(self.cgroups.root)
        write_waiting(LAST_LINES)

    def _listen_to_signals(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

        def wake() -> None:
            with contextlib.suppress(BlockingIOError):
                handle_signals(os.read(reader, 4096))

        def handle_signals(numbers: bytes) -> None:
            for number in numbers:
                if number == signal.SIGCHLD:
                    self.sweep_due = True
                elif number == signal.SIGUSR2:  # a supervisor that is only just coming up opens them anew anyway
                    self.emit({"event": "reopen-logs"})
                elif number == signal.SIGHUP:  # remembered until the supervisor, this one or the next, forgets it
                    self.blobs["hup"] = "yes"
                    self.table.note("blobs", "hup", "yes")
                    self.emit({"event": "apply"})
                elif not self.shutdown:
                    log(f"{signal.Signals(number).name}: ending", INFO)
                    self.shutdown = True
                    self.table.note("blobs", "shutdown", "yes")
                    self.emit({"event": "shutdown"})

        self._wake = wake
        self._watch(reader, wake)
        if self.table.watched.fd >= 0:
            self._watch(self.table.watched.fd, self.table.noticed)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # a caller that blocks SIGTERM must not make us deaf

    def _patience(self) -> float:
        now = time.monotonic()
        due = self._supervisor_deadline()
        others = (
            self.table.due,
            self.trial.deadline if self.trial else due,
            self.ending.due if self.ending else due,
            self.last.due if self.last else due,
            min(self.aside.values(), default=due),
        )
        wait = max(APART if self.aside else 0.0, min(due, self.upstream.due, *others) - now)
        wait = min(wait, APART) if self.faults else wait
        return min(wait, LOOK_AGAIN) if self.sweep_due else wait

    # The supervisor, and what it says.

    def _hello(self) -> dict[str, Any]:
        return {
            "event": "hello",
            "pid": os.getpid(),
            "shutdown": self.shutdown,
            "table": [child.row() for child in self.children.values()],
            "blobs": self.blobs,
            "command": handover.command(),
            "troubles": self.troubles,
            "baseline": self.baseline,
        }

    # What the supervisor says.

    def _write_down(self) -> None:
        self.table.write(self)
        self._let_go_on()

    def _let_go_on(self) -> None:
        """What was forked begins only now, when whoever comes after us will know it: see `worker.template`."""
        while self.forked:
            self._shut(self.forked.pop(), b"\n")

    @staticmethod
    def _shut(child: Child, word: bytes = b"") -> None:
        """Close its gate; a worker that still waits there ends, unless it was given a `word`."""
        if child.gate >= 0:
            gate, child.gate = child.gate, -1
            with contextlib.suppress(OSError):  # it has ended
                os.write(gate, word)
            os.close(gate)

    def _obey(self, op: dict[str, Any], fds: list[int]) -> None:
        match op["op"]:
            case "put":
                self.table.note("blobs", op["key"], op["blob"])
                if op["blob"] is None:
                    self.blobs.pop(op["key"], None)
                else:
                    self.blobs[op["key"]] = op["blob"]
            case "keep":
                self._keep(op["name"], fds.pop(0) if fds else -1)
            case "drop":
                self._drop(op["name"])
            case "spawn":
                self._spawn(op["process"], op["spec"])
            case "fork":
                self._fork(op["process"], op["via"], op["spec"])
            case "signal":
                child = self.children.get(op["process"])
                if child is not None:
                    self.signal(child, op["number"], op["scope"])
            case "ack":
                self._ack(op["process"])
            case "snapshot":
                self._drop(op["name"])
                self._hold(op["name"], handover.pack(self._hello()))
            case "upgrade":
                self._try_code()
            case "notify":
                self.upstream.say(op["text"])
            case "quit":
                self.quitting, self.code = True, op.get("code", 0)
            case "beat":
                pass

    def _make_good(self, op: dict[str, Any], fds: list[int], error: Exception) -> None:
        """An operation has raised, or makes no sense: try it once more, or report that it has failed."""
        match op["op"]:
            case "spawn" | "fork":
                self._fail_start(op["process"], error)
            case "keep" if op["name"] in self.kept and not fds:
                self._hold(op["name"], self.kept[op["name"]])
            case "keep":
                self._keep(op["name"], fds.pop() if fds else -1)
            case "put" | "drop" | "signal" | "ack" | "quit":
                self._obey(op, [])

    def _fail_start(self, process: int, error: Exception) -> None:
        child = self.children.get(process)
        if child is None:
            child = self.children[process] = Child(process, "", "")
        self.forking.pop(process, None)
        if child.ended is None:
            self._abandon(child)
            child.ended = {**failures.failed("process", failures.of_error(error)), "at": time.time()}
        self._tell_exit(child)

    def _abandon(self, child: Child) -> None:
        """End what was started of it; as a stray it is reaped."""
        if child.pid:  # not reaped, so the number is still its own
            with contextlib.suppress(OSError):
                os.kill(child.pid, signal.SIGKILL)
        child.pid = 0
        for fd in (child.pidfd, child.status):
            if fd >= 0:
                self._unwatch(fd)
                os.close(fd)
        child.pidfd = child.status = -1
        self._shut(child)
        if child.forks is not None and child.template:
            self._unwatch(child.forks.fileno())
            child.forks.close()
        child.forks = None

    def _keep(self, name: str, fd: int) -> None:
        """`fd` is ours from now on; -1: there was none left to take it."""
        try:
            self._drop(name)
            if fd >= 0:
                self._hold(name, fd)
            else:
                self.lost.add(name)
        except Exception:
            if fd >= 0 and self.kept.get(name) != fd:
                self.lost.add(name)
                os.close(fd)
            raise

    def _hold(self, name: str, fd: int) -> None:
        self.kept[name] = fd
        ident = table.ident(fd)
        self.table.note("kept", name, ident)
        self.upstream.store(upstream.name_of(ident), fd)

    def _drop(self, name: str) -> None:
        self.lost.discard(name)
        fd = self.kept.pop(name, None)
        if fd is not None:
            self.upstream.discard(upstream.name_of(table.ident(fd)))
            os.close(fd)
            self.table.note("kept", name, None)

    def _spawn(self, process: int, spec: dict[str, Any]) -> None:
        child = self._new(process, spec)
        theirs: socket.socket | None = None
        try:
            spec["env"] = {**spec["env"], leftovers.MARK: self.table.life}
            spec["fds"] = {number: self._fd(name) for number, name in spec["fds"].items()}
            if spec.get("fork_fd"):
                child.template = True
                child.forks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                spec["fds"][str(spec["fork_fd"])] = theirs.fileno()
            spec["cgroup"] = child.cgroup
            spec["oom_score_adj"] = spec["oom_score_adj"] or self.baseline["oom_score"]
            if not any(name == "nofile" for name, _, _ in spec["rlimits"]):
                spec["rlimits"] = [("nofile", *self.baseline["nofile"]), *spec["rlimits"]]
            child.pid, child.status = self._seeing(lambda: spawn.start(spec))
            child.pidfd = self._seeing(lambda: os.pidfd_open(child.pid))
        except Exception as error:  # whatever is wrong with the spec, the supervisor is told of an end
            self._fail_start(process, error)
            return
        finally:
            if theirs is not None:
                theirs.close()
        self._register(child)

    def _reserved(self, more: int) -> int:
        """A pidfd for each process that is down: whoever has its pipes, two a stream, is to be started again."""
        alive = sum(child.pidfd >= 0 for child in self.children.values())
        return max(0, (len(self.kept) + more) // PIPES - alive)

    def _new(self, process: int, spec: dict[str, Any]) -> Child:
        if process in self.children:
            raise ValueError(f"process {process} is there already")
        cgroup = self.cgroups.make(spec.get("group", ""))
        child = self.children[process] = Child(process, (spec.get("env") or {}).get("INVOCATION_ID", ""), cgroup)
        child.stop = list(spec.get("stop") or child.stop)
        self.table.touch(child)
        return child

    def _fd(self, name: str) -> int:
        if name in self.lost:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if name and name not in self.kept:
            raise ValueError(f"no descriptor is kept as {name}")
        return self.kept[name] if name else self.null

    def _started(self, child: Child) -> None:
        """The start has told how it went, which is the end of its status descriptor."""
        if child.status >= 0:
            child.failed = spawn.failure(child.status)
            fd, child.status = child.status, -1
            self._unwatch(fd)
            os.close(fd)

    def _register(self, child: Child) -> None:
        child.session = child.pid
        member = None
        with contextlib.suppress(OSError):  # with no descriptor left to look with it is watched all the same
            member = self._seeing(lambda: proc.read(child.pid))
        child.started = member.started if member is not None else 0
        self._watch_child(child)
        self.table.touch(child)
        self.emit({"event": "spawned", "process": child.process, "pid": child.pid})

    def _watch_child(self, child: Child) -> None:
        if child.status >= 0:
            self._watch(child.status, lambda: self._started(child))
        if child.forks is not None:
            self._watch(child.forks.fileno(), lambda: self._fork_answers(child))
        if child.pidfd >= 0 and child.ended is None:
            self._watch(child.pidfd, lambda: self._ended(child))

    def _spawn_failed(self, child: Child, stage: str, cause: dict[str, Any]) -> None:
        self._shut(child)
        child.ended = {**failures.failed(stage, cause), "at": time.time()}
        self._tell_exit(child)

    def _fork(self, process: int, via: int, spec: dict[str, Any]) -> None:
        child = self._new(process, spec)
        template = self.children.get(via)
        if template is None or template.forks is None:
            self._spawn_failed(child, "fork", failures.because("template_gone"))
            return
        theirs = -1
        try:
            asked = proc.now()
            fds = [self._fd(name) for name in spec["fds"]]
            theirs, child.gate = self._seeing(lambda: os.pipe2(os.O_CLOEXEC))
            request = json.dumps({"id": str(process), "env": spec["env"], "gate": True}).encode()
            fds.append(theirs)
            socket.send_fds(template.forks, [request], fds, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            self._spawn_failed(child, "fork", failures.because("template_ended"))
            return
        except OSError as error:
            self._spawn_failed(child, "fork", failures.because("template_mute", cause=failures.of_error(error)))
            return
        except Exception as error:  # whatever is wrong with the spec, the supervisor is told of an end
            self._spawn_failed(child, "fork", failures.of_error(error))
            return
        finally:
            if theirs >= 0:
                os.close(theirs)
        child.forks = template.forks  # until the answer: marks whose answer it is
        child.asked = asked
        self.forking[process] = child

    def _fork_answers(self, template: Child) -> None:
        """Register what the template forked; it is the shim's child by adoption when the answer comes."""
        while template.forks is not None:
            try:
                answer = template.forks.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:  # said once by a peer that died, ahead of what it had sent
                continue
            except OSError:
                answer = b""
            if not answer:
                self._no_more_forks(template)
                return
            try:
                self._adopt(template, json.loads(answer))
            except Exception as error:  # whatever a template is made to say must not end all that is held here
                log(
                    f"process {template.process} answered {answer[:200]!r}, which makes no sense ({error!r}): no more forks"
                )
                self._no_more_forks(template, "template_senseless")

    def _adopt(self, template: Child, answer: dict[str, Any]) -> None:
        process = int(answer["id"])
        child = self.forking.get(process)
        if child is None or child.forks is not template.forks:
            return
        pid = int(answer["pid"]) if "pid" in answer else 0
        del self.forking[process]
        child.forks = None
        self.sweep_due = True  # strays are not reaped while a fork is under way
        if not pid:
            self._spawn_failed(child, "fork", _cause_of(answer))
            return
        try:
            # Not looked up in the kernel's list of our children: that leaves some out while others end.
            foreign = self._seeing(lambda: self._foreign(pid, template, child))
            if foreign:
                raise ChildProcessError(0, f"the template named pid {pid}, which is {foreign}")
            child.pidfd = os.pidfd_open(pid)
        except OSError as error:
            self._spawn_failed(child, "adopt", failures.of_error(error))
            return
        child.pid = pid
        self.forked.append(child)
        self._move(child)
        self._register(child)

    def _foreign(self, pid: int, template: Child, child: Child) -> str:
        """Why `pid` cannot be what `template` forked for `child`; "" if it can. It may have ended: a zombie of ours stays.

        Nobody can say who forked a process whose parent is gone. But it has the template's user and cgroup, it is younger
        than the request, and it bears no sign of another child.
        """
        member = proc.read(pid)
        if member is None or member.parent != os.getpid() or pid in self._known():
            return "another child's" if pid in self.mains() else "no child of the shim's"
        if member.started < child.asked:
            return "older than the request"
        if proc.rights(pid) != proc.rights(template.pid):
            return "not of the template's user"
        if template.cgroup:
            place, own = proc.place(pid), proc.place(template.pid)
            return "" if place == own or place.startswith(own + b"/") else "not in the template's cgroup"
        invocation = proc.invocation(pid)
        for other in self.children.values():
            if other not in {template, child} and other.session and other.session in {member.session, member.group}:
                return "of another child's session"
            if invocation and other.invocation == invocation != template.invocation:
                return "of another child's invocation"
        return ""

    def _move(self, child: Child) -> None:
        """Have a forked worker moved into its cgroup by a process of its own, for a move takes 10 ms: see `linux.clone`."""
        try:
            mover = os.fork() if child.cgroup else -1
        except OSError:
            self.cgroups.remove(child.cgroup)
            child.cgroup = ""
            return
        if mover == 0:
            try:
                gone = select.poll()
                gone.register(child.pidfd, select.POLLIN)
                if not gone.poll(0):  # a pid whose process has ended may soon be somebody else's
                    self.cgroups.add(child.cgroup, child.pid)
            finally:
                os._exit(0)

    def _no_more_forks(self, template: Child, why: str = "template_ended") -> None:
        if template.forks is None:
            return
        for process, child in list(self.forking.items()):
            if child.forks is template.forks:
                del self.forking[process]
                child.forks = None
                self._spawn_failed(child, "fork", failures.because(why))
        self._unwatch(template.forks.fileno())
        template.forks.close()
        template.forks = None
        self.sweep_due = True  # a fork that was made and not told is a stray now

    def signal(self, child: Child, number: int, scope: str) -> None:
        """Signal a process (`main`), its descendants (`rest`), or both (`tree`)."""
        if number == signal.SIGKILL:
            child.kill_tree = child.kill_tree or scope == "tree"
            self.table.touch(child)
        if child.ended is None and child.pid and not child.cgroup:  # by its parent alone some are known
            child.known = {member.pid: member.started for member in self._seeing(lambda: proc.below(child.pid))}
        if scope in {"main", "tree"} and child.ended is None and child.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # somebody else has reaped it
                signal.pidfd_send_signal(child.pidfd, number)
            child.killed = child.killed or number == signal.SIGKILL
        if scope in {"rest", "tree"}:
            child.tree_signalled = self.sweep_due = True
            self._signal_rest(child, number)

    def _signal_rest(self, child: Child, number: int) -> None:
        self._seeing(lambda: self._signal_found(child, number))

    def _signal_found(self, child: Child, number: int) -> None:
        if child.cgroup:
            mains = self.mains()  # of a worker, too, that its template's cgroup has not let go of yet
            if child.kill_tree:
                mains.discard(child.pid)
            pids = self.cgroups.members(child.cgroup)
            if number == signal.SIGKILL and mains.isdisjoint(pids) and self.cgroups.kill(child.cgroup):
                return
            found = [member for pid in pids if pid not in mains and (member := proc.read(pid))]
        else:
            found = self._rest(child)
        for member in found:
            proc.send(member, number)

    def _ack(self, process: int) -> None:
        child = self.children.get(process)
        if child is None or child.ended is None:
            return
        child.acked = True
        self.table.touch(child)
        if child.pidfd >= 0:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
            os.close(child.pidfd)
            child.pidfd, child.pid = -1, 0
        self._forget_if_done(child)

    def _forget_if_done(self, child: Child) -> None:
        if child.acked and not child.left:
            self.table.note("children", child.process, None)
            if child.cgroup:
                self.emptied.append(child.cgroup)
            self.spares = self.spares or not child.stop[2]
            del self.children[child.process]

    def _remove_emptied(self) -> None:
        """At the end of a round: what is to be started in the place of what was there does not wait for it."""
        while self.emptied:
            self._seeing(lambda: self.cgroups.remove(self.emptied[-1]))
            self.emptied.pop()

    # What the kernel says.

    def _ended(self, child: Child) -> None:
        """The exit is read and kept as a zombie (WNOWAIT) until the supervisor has written it down.

        Its pidfd is watched until the exit is emitted: if this raises, it is called again.
        """
        if child.ended is None:
            how = self._how(child) if child.is_child else self._exit_status_via_pidfd(child)
            if how is None:
                return
            if child.forks is not None:
                self._fork_answers(child)
                self._no_more_forks(child)
            self._started(child)
            if child.failed is not None:
                how = {**child.failed, "at": how["at"]}
            if how.get("signal") == signal.SIGKILL and not child.killed and self._lacked_memory(child):
                how["oom"] = True
            child.left = self.has_rest(child)
            child.ended = how
        self._tell_exit(child)
        self._unwatch(child.pidfd)

    @staticmethod
    def _how(child: Child) -> dict[str, Any] | None:
        info = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if info is None:
            return None
        if info.si_code == os.CLD_EXITED:
            how: dict[str, Any] = {"code": info.si_status}
        else:
            how = {"signal": info.si_status, "core": info.si_code == os.CLD_DUMPED}
        return {**how, **usage.of_zombie(child.pidfd), "at": time.time()}

    def _exit_status_via_pidfd(self, child: Child) -> dict[str, Any] | None:
        """Of one that somebody else has to reap: the kernel tells before that, or afterwards, if that comes soon."""
        status = self._seeing(lambda: orphans.status_of_zombie(child))
        if status is None:
            status = orphans.status_of(child.pidfd)
        now = time.monotonic()
        if status is None and not child.seen:
            child.seen = now
            self.epoll.modify(child.pidfd, 0)  # EPOLLHUP, which is always told: it is reaped
        if status is None and now - child.seen < orphans.REAPED_WITHIN:
            self.sweep_due = True
            return None
        return orphans.ended(None if orphans.ends_with_shim(child, status) else status)

    @staticmethod
    def _lacked_memory(child: Child) -> bool:
        """Whether the kernel says that it has killed for memory in the child's own cgroup."""
        return bool(child.cgroup) and Cgroups.oom_kills(child.cgroup) > 0

    def _tell_exit(self, child: Child) -> None:
        if not child.exit_told:
            self.table.touch(child)
            self.emit({"event": "exited", "process": child.process, **(child.ended or {}), "left": child.left})
            child.exit_told = True

    def mains(self) -> set[int]:
        return {child.pid for child in self.children.values() if child.pid}

    def _known(self) -> set[int]:
        """All that we have started, and have not reaped."""
        others = (self.supervisor, self.trial, *self.corpses)
        return self.mains() | {each.pid for each in others if each is not None} | {writer()}

    def strays(self) -> list[int]:
        """Our children that nobody asked for: orphans that we adopted, and forks whose answer is on its way."""
        known = self._known()
        return [pid for pid in proc.children() if pid not in known]

    def has_rest(self, child: Child) -> bool:
        """Whether anything of it lives. Where that cannot be seen it does: to be looked at again."""
        try:
            return self._seeing(lambda: self._lives_on(child))
        except OSError:
            self.sweep_due = True
            return True

    def _lives_on(self, child: Child) -> bool:
        if child.cgroup:
            return self.cgroups.populated(child.cgroup) and not self.mains().issuperset(
                self.cgroups.members(child.cgroup)
            )
        return bool(self.strays() or not child.is_child) and bool(self._rest(child))

    def _rest(self, child: Child) -> list[proc.Member]:
        """The descendants of a child without a cgroup; see `linux.proc` for how they are told."""
        processes = proc.snapshot()
        mains = self.mains()
        own = [member.pid for member in processes.values() if child.pid and member.parent == child.pid]
        own += [pid for pid, started in child.known.items() if pid in processes and processes[pid].started == started]
        # Nobody's children are the shim's, unless another shim was killed: then they are anybody's.
        strays = self.strays() if child.is_child else [pid for pid in processes if orphans.marked(pid, self.table.life)]
        for pid in strays:  # one may have been forked since the snapshot
            if pid not in processes and (member := proc.read(pid)):
                processes[pid] = member
        adopted = proc.descendants(strays, processes, mains)
        own += [
            member.pid
            for member in adopted
            if child.session in (member.session, member.group)
            or (child.invocation and member.session not in mains and proc.invocation(member.pid) == child.invocation)
        ]
        found = proc.descendants(own, processes, mains)
        return list({member.pid: member for member in found}.values())

    def _sweep(self) -> None:
        """After SIGCHLD: reap strays, and see whose tree has become empty."""
        failed: Exception | None = None
        self.sweep_due = False
        try:
            strays = self.strays() if not self.forking else []
        except OSError:  # nothing is left to look with
            self.sweep_due = True
            return
        for pid in strays:
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                pass
            except Exception as error:
                self.sweep_due, failed = True, error
        for child in list(self.children.values()):
            try:
                self._sweep_child(child)
            except Exception as error:  # the others have their turn
                self.sweep_due = True
                failed = failed or error
        if failed is not None:
            raise failed

    def _sweep_child(self, child: Child) -> None:
        if child.seen and child.ended is None:
            self._ended(child)
        if not child.left:
            return
        if self.has_rest(child):
            if child.kill_tree:
                self._signal_rest(child, signal.SIGKILL)
            # No SIGCHLD tells of what becomes of it: of whom somebody moved into its cgroup, or another shim's child.
            self.sweep_due = self.sweep_due or child.tree_signalled or not child.is_child
            return
        self.table.touch(child)
        self.emit({"event": "gone", "process": child.process})
        child.left = False
        self._forget_if_done(child)

    # New code.

    def _try_code(self) -> None:
        """Have the code that is now on the disk prove itself; the answer decides whether it takes over."""
        if self.trial is None:
            try:
                self.trial = handover.Trial(handover.dump(self), self.null)
            except OSError as error:
                self.emit({"event": "refused", "error": f"it cannot be tried: {error.strerror}"})
            else:
                self._watch(self.trial.pidfd, self._tried)

    def _tried(self) -> None:
        trial, self.trial = self.trial, None
        if trial is None:
            return
        self._unwatch(trial.pidfd)
        why = trial.verdict()
        if not why:
            log("going on with the code that is now on the disk", INFO)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, spawn.SIGNALS)
            self._wake()  # what had come before
            self._remove_emptied()
            try:
                handover.become(handover.dump(self))
            except OSError as error:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                why = f"executing it failed: {error.strerror}"
        log(f"the code that is now on the disk cannot take over: {why}")
        self.emit({"event": "refused", "error": why})

    def watch_again(self) -> None:
        """Watch all that was restored; what has happened meanwhile is seen at once."""
        for child in self.children.values():
            if child.process not in self.forking:
                self._watch_child(child)
        self._watch_supervisor()
        for corpse in self.corpses:
            self._watch_corpse(corpse)
        self.sweep_due = True

    def store_again(self, stored: list[str]) -> None:
        """The manager's store had these names, of a shim before: have it hold what is held now, and nothing else."""
        for name in set(stored) - {""}:
            self.upstream.discard(name)
        for name, fd in self.kept.items():
            if name in {"lock", wire.PAGE}:  # the one is free when the shim is dead, the other means nothing then
                continue
            self.upstream.store(upstream.name_of(table.ident(fd)), fd)


def _cause_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Why a template could not fork, as far as it says."""
    said, number = str(answer.get("error")), answer.get("errno")
    if type(number) is int and 0 < number < MOST_ERRNO:
        return failures.of_errno(number, said)
    return failures.because("text", text=said)


def measured() -> dict[str, Any]:
    """What children get, whatever we give ourselves: to be looked at before that."""
    return {"oom_score": spawn.oom_score(), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)}


def prepare(keep: set[int]) -> None:
    """Make this process fit to hold others: subreaper, many descriptors, last in line for the OOM killer.

    Descriptors other than those in `keep` are closed: whatever the caller's shell had open.
    """
    while (lowest := os.open("/dev/null", os.O_RDWR)) < 3:  # a caller without stdin, stdout or stderr
        os.set_inheritable(lowest, True)
    spawn.prctl(spawn.PR_SET_CHILD_SUBREAPER, 1)
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(min(FLOOR, spawn.oom_score())))
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        os.set_inheritable(fd, False)
        low = fd + 1
    os.closerange(low, 1 << 30)
    gc.collect()
    gc.freeze()  # a fork copies fewer pages


def main() -> int:
    """Take the instance lock and hold; or go on where another shim stopped: see `handover` and `orphans`."""
    conf, paths, mode = sys.argv[1], json.loads(sys.argv[2]), "".join(sys.argv[3:])
    if mode.startswith((handover.RESUME, handover.CHECK)):
        memory = int(mode.partition(":")[2])
        state = handover.load(memory)
        os.close(memory)
        if mode.startswith(handover.RESUME):
            prepare(handover.descriptors(state))
        shim = Shim(conf, paths, state["baseline"], state["life"])
        handover.restore(shim, state)
        return shim.run() if mode.startswith(handover.RESUME) else 0
    stored = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    given = passed_on(everything=mode == handover.ORPHANED)
    found = table.examine(paths["run_dir"], paths["state_dir"])
    told = found.told
    baseline = told["baseline"] if told else measured()
    if told is not None and mode == handover.ORPHANED:
        given = descriptors.sift(given, [*told["kept"].values(), table.ident_of(paths["state_dir"])])
    prepare(set(given))
    lock = lock_of(paths["state_dir"], given)
    if not take(lock):
        if told is not None:
            orphans.evict_stale_supervisor(told)
        if told is None or not take(lock):
            return EX_TEMPFAIL
    strays = (
        orphans.unknown(told, paths["state_dir"]) if told is not None else orphans.forgotten(found, paths["state_dir"])
    )
    if refused := refusal(found, strays, conf):
        log(refused, ERROR)
        return EX_CANTCREAT
    if found.fault:
        log(
            f"{found.fault}: {table.set_aside(table.path_in(paths['run_dir']))}; no process is left of an impetusd before"
        )
    shim = Shim(conf, paths, baseline, told["life"] if told else "")
    shim.kept["lock"] = lock
    if told is not None:
        orphans.take_over(shim, told, given, strays)
        shim.watch_again()
    for fd in given if told is None else ():  # of a store that nothing is known of
        os.close(fd)
    shim.store_again(stored)
    return shim.run()


def refusal(found: table.Found, strays: list[proc.Member], conf: str) -> str:
    """Why nothing may be started: what a killed shim has left cannot be taken over as it was, or is not ours. "" if it may.

    Of a table that is whole, strays are what was started in the instant in which the shim was killed. Those that are older
    than its last line show that it is not whole.
    """
    if found.other is not None and proc.lives(found.other["shim"]):
        return f"{found.fault}, and that one runs: give each its own run_dir. Nothing was started"
    why = found.fault or "its table is missing"
    if found.told is not None:
        strays, why = orphans.overlooked(found, strays), "its table does not know them"
    return leftovers.refusal(strays, why, conf) if strays else ""


def passed_on(*, everything: bool) -> list[int]:
    """Descriptors that are to be looked through: systemd's store, or all that the supervisor had which is now this process."""
    count, pid = os.environ.pop("LISTEN_FDS", "0"), os.environ.pop("LISTEN_PID", "")
    if everything:
        return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and is_open(fd)]
    return list(range(3, 3 + int(count))) if pid == str(os.getpid()) else []


def is_open(fd: int) -> bool:
    """The listing of the descriptors had one of its own."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def lock_of(state_dir: str, given: list[int]) -> int:
    """The state directory, opened; the copy that was passed on, if there is one, for that may have the lock already."""
    there = os.stat(state_dir)
    for fd in given:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
            given.remove(fd)
            return fd
    return os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def take(lock: int) -> bool:
    """The instance lock. Who only looks whether an impetusd runs holds it for a moment: that is waited for."""
    for _ in range(LOOKS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return True
    return False
