"""The supervisor, as the shim sees it: started, heard, watched for silence, and started again.

What it says is carried out by who derives from this; what it is told is one message a round.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from itertools import takewhile

from impetusd.linux import proc
from impetusd.shim import spawn, table, wire
from impetusd.shim.child import Child
from impetusd.shim.log import log
from impetusd.shim.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

SUPERVISOR = (sys.executable, "-I", "-X", "utf8", "-m", "impetusd.supervisor")  # its command, before CONF and PATHS
SILENCE = 30.0  # seconds without a message after which the supervisor is taken for hung; it beats every 14
LATE = 16.0  # seconds without one after which the shim looks whether it was killed and cannot end
CORPSE = 2.0  # seconds that a killed one has to end; then a thread of it hangs in the kernel, and nobody waits for it
DELAYS = (0.0, 0.0, 0.1, 0.5, 1.0, 2.0, 5.0)  # seconds before the n-th start in a row of one that does not come up
START_LIMIT = 3  # of them in a row: none is waited for when the end is asked for
LASTING = 10.0  # seconds after which one has come up, whatever ends it
LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
SPACING = 0.2  # seconds between two starts of one that comes up and then dies
# Signals by which a process ends that has gone wrong; the others, SIGKILL above all, are somebody's.
FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP)
MOST_ENDS = 32  # that are remembered


class Supervision(Loop):
    """One supervisor at a time, and the channel to it."""

    def __init__(self, conf: str, paths: dict[str, str], life: str) -> None:
        """`life`: see `shim.table`."""
        super().__init__()
        self.arguments = [conf, json.dumps(paths)]
        self.table = table.Table(paths["run_dir"], paths["state_dir"], life)
        self.kept: dict[str, int] = {}
        self.blobs: dict[str, str] = {}
        self.shutdown = False
        self.quitting = False
        self.channel: socket.socket | None = None
        self.supervisor: Child | None = None
        self.outbox: deque[tuple[dict[str, Any], Sequence[int]]] = deque()
        self.stuck = False  # its channel is full
        self.unheard = False  # a message of it was lost: nothing that follows is carried out
        self.lifeline = -1  # our end of a pipe whose other end goes as soon as the supervisor is killed
        self.corpses: list[Child] = []  # supervisors that were killed and cannot end
        self.dying = math.inf  # when (monotonic) the supervisor, which was killed, is one of them
        self.looked = False  # whether it was looked at since it is late
        self.heard = 0.0
        self.born = 0.0
        self.due: float | None = 0.0  # when to start the supervisor
        self.has_reported = False  # whether this one has said anything yet
        self.silent_deaths = 0  # deaths in a row of one that had not, or went wrong before it had lasted
        self.troubles: dict[str, str] = {}  # what the operator is to know, in a sentence each
        self.told = ""  # how it ended, as the log has it
        self.silent_after: float | None = None  # seconds after its start that it fell silent, and is killed for it

    def _hello(self) -> dict[str, Any]:
        """What a new supervisor is told first."""
        raise NotImplementedError

    def _obey(self, op: dict[str, Any], fds: list[int]) -> None:
        """Carry out one operation, with the descriptors that are left of its message."""
        raise NotImplementedError

    def _reserved(self, more: int) -> int:
        """How many descriptors are to be free still when so many more are kept: for what is to be started again."""
        raise NotImplementedError

    def _make_good(self, op: dict[str, Any], fds: list[int], error: Exception) -> None:
        """Handle an operation that has raised `error`; of its descriptors, `fds` are left."""
        raise NotImplementedError

    def _write_down(self) -> None:
        """A message has been carried out: keep what changed for the shim after this one."""
        raise NotImplementedError

    def _supervisor_deadline(self) -> float:
        """When (monotonic) the supervisor is due: to be started, to have said something, or to have ended."""
        if self.due is not None or self.supervisor is None:
            return math.inf if self.due is None else self.due
        return min(self.dying, self.heard + (SILENCE if self.looked else min(LATE, SILENCE)))

    @property
    def gives_up(self) -> bool:
        """Whether the end, if it was asked for, is to come without a supervisor."""
        return self.supervisor is None and self.silent_deaths >= START_LIMIT

    def _check_supervisor(self) -> None:
        now = time.monotonic()
        if self.due is not None and now >= self.due:
            self.due = None
            self._let_loose()
            self._start_supervisor(now)
            self._hold_back()
        elif self.supervisor is None:
            return
        elif now >= self.dying:
            self._leave_corpse(now)
        elif now - self.heard >= SILENCE:
            log(f"the supervisor (pid {self.supervisor.pid}) has been silent for {SILENCE:g} s: replacing it")
            if self._state_of(self.supervisor.pid) not in {b"T", b"t"}:  # a stop is somebody's doing, as a kill is
                self.silent_after = self.heard - self.born
            self.heard = now
            self._kill_supervisor()
        elif now - self.heard >= LATE and not self.looked:
            self.looked = True
            member = proc.read(self.supervisor.pid)
            if member is not None and member.zombie:  # and it did not end: its threads have not
                self._kill_supervisor()

    def _state_of(self, pid: int) -> bytes:
        return b"".join(self._seeing(lambda: proc.fields(pid))[:1])

    def _kill_supervisor(self) -> None:
        if self.supervisor is not None:
            self.dying = min(self.dying, time.monotonic() + CORPSE)
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.supervisor.pidfd, signal.SIGKILL)

    def _lifeline_ended(self) -> None:
        """It was killed, or has lost the thread that holds the lifeline: either way it has to end."""
        self._close_lifeline()
        self._kill_supervisor()

    def _close_lifeline(self) -> None:
        if self.lifeline >= 0:
            self._unwatch(self.lifeline)
            os.close(self.lifeline)
            self.lifeline = -1

    def _start_supervisor(self, now: float) -> None:
        self.born = self.heard = now
        self.has_reported, self.silent_after, self.unheard = False, None, False
        child, open_here = Child(-1, "", ""), contextlib.ExitStack()
        try:
            with contextlib.ExitStack() as theirs:
                ours, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                open_here.callback(ours.close)
                theirs.callback(channel.close)
                lifeline, end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                open_here.callback(os.close, lifeline)
                theirs.callback(os.close, end)
                spec: dict[str, Any] = {
                    **spawn.PLAIN,
                    "argv": [*SUPERVISOR, *self.arguments],
                    "env": {**os.environ, wire.LIFELINE: "4"},
                    "fds": {"0": self.null, "1": 1, "2": 2, "3": channel.fileno(), "4": end},
                    "oom_score_adj": spawn.oom_score(),
                }
                child.pid, child.status = spawn.start(spec)
                child.pidfd = os.pidfd_open(child.pid)
        except OSError as error:
            log(f"starting the supervisor failed: {error.strerror}")
            open_here.close()
            if child.pid:  # no descriptor was left to watch it with; not reaped, so the number is still its own
                os.kill(child.pid, signal.SIGKILL)
                os.close(child.status)
            self._plan_supervisor(now)
            return
        member = proc.read(child.pid)
        child.started = member.started if member is not None else 0
        self.supervisor, self.channel, self.lifeline = child, ours, lifeline
        self.dying, self.looked = math.inf, False
        self.table.news["supervisor"] = [child.pid, child.started]
        self._watch_supervisor()
        self._blank_page()
        self.emit(self._hello())
        names = list(self.kept)
        for at in range(0, len(names), wire.MOST_FDS):
            part = names[at : at + wire.MOST_FDS]
            self.emit({"event": "fds", "names": part}, [self.kept[name] for name in part])
        self.emit({"event": "begin"})

    def _blank_page(self) -> None:
        """Without a descriptor for it the supervisor does without."""
        with contextlib.suppress(OSError):
            if wire.PAGE not in self.kept:
                fd = self.kept[wire.PAGE] = os.memfd_create(wire.PAGE, os.MFD_CLOEXEC)
                self.table.note("kept", wire.PAGE, table.ident(fd))
            os.ftruncate(self.kept[wire.PAGE], wire.PAGE_SIZE)
            os.pwrite(self.kept[wire.PAGE], bytes(wire.PAGE_SIZE), 0)

    def _note_end(self, **how: Any) -> None:
        """A supervisor has gone wrong: remember how, and what it was at, for the one that judges what follows from that."""
        slot = stage = ""
        with contextlib.suppress(OSError, KeyError):
            slot, stage = wire.noted(os.pread(self.kept[wire.PAGE], wire.PAGE_SIZE, 0))
        try:
            ends = list(json.loads(self.blobs.get(wire.ENDS, "[]")))
        except (ValueError, TypeError):
            ends = []
        at = {"at": round(time.monotonic(), 3), "time": round(time.time(), 3)}
        ends.append({**at, **how, "slot": slot, "stage": stage})
        self.blobs[wire.ENDS] = json.dumps(ends[-MOST_ENDS:])
        self.table.note("blobs", wire.ENDS, self.blobs[wire.ENDS])

    def _watch_supervisor(self) -> None:
        if self.supervisor is not None and self.channel is not None:
            self._watch(self.supervisor.pidfd, self._supervisor_ended)
            self._watch(self.channel.fileno(), self._receive)
            self.stuck = False
            if self.lifeline >= 0:
                self._watch(self.lifeline, self._lifeline_ended)

    def _plan_supervisor(self, now: float, *, failed: bool = False) -> None:
        """`failed`: it went wrong by itself."""
        lasted = now - self.born if self.silent_after is None else self.silent_after
        came_up = lasted >= LASTING or (self.has_reported and not failed)
        self.silent_deaths = 0 if came_up else self.silent_deaths + 1
        if self.silent_after is not None and (self.shutdown or "shutdown" in self.blobs):
            self.silent_deaths = max(
                self.silent_deaths, START_LIMIT
            )  # the end has waited for it, and does not wait for another
        self.due = max(now + DELAYS[min(self.silent_deaths, len(DELAYS) - 1)], self.born + SPACING)

    def _supervisor_ended(self) -> None:
        """Its last messages count; then it is reaped and, unless it had told us to quit, started again."""
        child = self.supervisor
        if child is None or self.channel is None:
            return
        info = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
        if info is None:
            return
        self._receive()
        self._let_go(child, self.channel)
        os.close(child.pidfd)
        failed = spawn.failure(child.status)
        os.close(child.status)
        if not self.quitting:
            exited = info.si_code == os.CLD_EXITED
            how = f"{'exit' if exited else 'signal'} {info.si_status}"
            if failed:
                how = f"{failed['stage']}: {failed['error']}"
            wrong = bool(info.si_status) if exited else info.si_status in FAULTS
            if self.silent_after is not None:
                wrong = True
                self._note_end(silent=True)
            elif exited and info.si_status == os.EX_SOFTWARE and not failed:
                self._note_end(code=info.si_status)
            elif not exited and info.si_status in FAULTS:
                self._note_end(signal=info.si_status)
            self._plan_supervisor(time.monotonic(), failed=wrong)
            self._tell_end(info.si_pid, how)

    def _tell_end(self, pid: int, how: str) -> None:
        """Log an end; of many in a row that end alike, only the first ones."""
        if self.silent_deaths < len(DELAYS) or how != self.told:
            log(f"the supervisor (pid {pid}) ended: {how}; starting it again")
        elif self.silent_deaths == len(DELAYS):
            log(f"no supervisor starts ({how}): retrying every {DELAYS[-1]:g} s; programs keep running")
        self.told = how

    def _let_go(self, child: Child, channel: socket.socket) -> None:
        self._unwatch(channel.fileno())
        self._unwatch(child.pidfd)
        self._close_lifeline()
        channel.close()
        self.supervisor = self.channel = None
        self.dying = math.inf
        self.outbox.clear()

    def _leave_corpse(self, now: float) -> None:
        """Start its successor without waiting for its end. What it had sent is carried out; it cannot send anything more."""
        child = self.supervisor
        if child is None or self.channel is None:
            return
        self._receive()
        self._let_go(child, self.channel)
        self.corpses.append(child)
        self._watch_corpse(child)
        if not self.quitting:
            log(f"the supervisor (pid {child.pid}) was killed and cannot end: it hangs in the kernel; starting another")
            if self.silent_after is not None:
                self._note_end(silent=True)
            self._plan_supervisor(now, failed=self.silent_after is not None)

    def _watch_corpse(self, corpse: Child) -> None:
        self._watch(corpse.pidfd, functools.partial(self._bury, corpse))

    def _bury(self, corpse: Child) -> None:
        if os.waitid(os.P_PIDFD, corpse.pidfd, os.WEXITED | os.WNOHANG) is None:
            return
        self._unwatch(corpse.pidfd)
        os.close(corpse.pidfd)
        os.close(corpse.status)
        self.corpses.remove(corpse)
        log(f"the supervisor (pid {corpse.pid}) that hung in the kernel has ended")

    def trouble(self, what: str, sentence: str) -> None:
        """Have `status` show `sentence` about a part of the shim; "" ends that."""
        if self.troubles.get(what, "") == sentence:
            return
        self.troubles[what] = sentence
        if not sentence:
            del self.troubles[what]
        # `process` for supervisors of an older version, which look for it in every event.
        self.emit({"event": "trouble", "process": 0, "what": what, "sentence": sentence})

    def emit(self, event: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Tell the supervisor, at the end of the round; without one nothing is lost, for the next is told the whole table."""
        if self.channel is not None:
            self.outbox.append((event, fds))

    def _flush(self) -> None:
        """What was emitted, in as few messages as descriptors allow: each costs both sides a turn."""
        if self.channel is None:
            return
        stuck = False
        while self.outbox and not stuck:
            bare = [event for event, _ in takewhile(lambda each: not each[1], self.outbox)]
            events, fds = (bare, ()) if bare else ([self.outbox[0][0]], self.outbox[0][1])
            try:
                self._seeing(functools.partial(wire.send, self.channel, {"events": events}, fds))
            except BlockingIOError:
                stuck = True
            except OSError as error:
                if error.errno in LACKING:
                    raise  # and said again
                self.outbox.clear()  # it is dead; its pidfd will say so
            else:
                for _ in events:
                    self.outbox.popleft()
        if stuck != self.stuck and self.channel.fileno() in self.on:
            self.stuck = stuck
            self.epoll.modify(self.channel.fileno(), select.EPOLLIN | (select.EPOLLOUT if stuck else 0))

    def _carry_out(self, op: dict[str, Any], fds: list[int]) -> None:
        """One that raises, or makes no sense, does not affect those after it."""
        mine = fds[:1] if isinstance(op, dict) and op.get("op") == "keep" else []  # whatever becomes of it, no other's
        del fds[: len(mine)]
        try:
            self._obey(op, mine)
        except Exception as error:
            log(f"carrying out {str(op)[:200]} failed: {error!r}")
            try:
                self._make_good(op, mine, error)
            except Exception as again:
                log(f"and so did handling that: {again!r}")

    def _receive(self) -> None:
        """Carry out what the supervisor says. Where a part of that may be lost, the next one begins with what is known here."""
        try:
            self._read()
        except Exception as error:
            log(f"what the supervisor said may be lost, replacing it: {error!r}")
            self.unheard = True
            self._kill_supervisor()
        self._flush()

    def _read(self) -> None:
        while self.channel is not None and not self.unheard:
            try:
                packet = self._seeing(functools.partial(wire.recv, self.channel))
            except BlockingIOError:
                break
            except (OSError, ValueError) as error:
                log(f"reading from the supervisor failed: {error}")
                break
            if packet is None:  # without a channel it is of no use, if it lives at all
                self._unwatch(self.channel.fileno())
                self._kill_supervisor()
                break
            self.heard, self.looked = time.monotonic(), False
            self.has_reported = True
            message, fds = packet
            while fds and not self._has_room(self._reserved(len(fds))):  # what is missing is told when it is asked for
                os.close(fds.pop())
            ops = message.get("ops")
            for op in ops if isinstance(ops, list) else [message]:
                self._carry_out(op, fds)
            for fd in fds:
                os.close(fd)
            self._survive(self._write_down)  # which each round does again
