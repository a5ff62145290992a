"""The supervisor, as the shim sees it: started, listened to, watched for silence, and started again.

What it asks for is carried out by `orders`; what it learns is one message a round.
"""

from __future__ import annotations

import errno
import math
import os
import select
import sys
import time
from itertools import islice, takewhile

from impetusd import bare
from impetusd.bare import partial, signal, socket
from impetusd.linux import proc, procfs
from impetusd.linux.errors import suppress
from impetusd.shim import handover, spawn, store, table, wire
from impetusd.shim.child import Child
from impetusd.shim.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from impetusd.shim.loop import Loop
    from impetusd.shim.state import ShimState

    class Orders(Protocol):
        """The handlers of the supervisor's requests."""

        def perform(self, op: dict[str, Any], fds: list[int]) -> None:
            """Carry out one operation, with the descriptors that are left of its message. Never raises."""

        def write_down(self) -> None:
            """A message has been carried out: write what has changed, for the shim after this one."""


SUPERVISOR = (sys.executable, "-I", "-X", "utf8", "-m", "impetusd.supervisor")  # its command, before CONF and PATHS
SILENCE = 30.0  # seconds without a message after which the supervisor counts as hung; it beats every 14
LATE = 16.0  # seconds without one after which the shim looks whether it was killed and cannot end
CORPSE = 2.0  # seconds that a killed one has to end; then a thread of it hangs in the kernel, and nobody waits for it
DELAYS = (0.0, 0.0, 0.1, 0.5, 1.0, 2.0, 5.0)  # seconds before the n-th start in a row of one that does not come up
START_LIMIT = 3  # of them in a row: none is waited for when the end is asked for
LASTING = 10.0  # seconds after which one has come up, whatever ends it
LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
SPACING = 0.2  # seconds between two starts of one that comes up and then dies
# Signals by which a process ends that has gone wrong; the others, SIGKILL above all, are somebody's doing.
FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP)
AT_ONCE = 50  # events in one message: what the answer to one takes at most is kept for good, here and there
MOST_ENDS = 32  # that are remembered


class Supervision:
    """One supervisor at a time, and the channel to it."""

    def __init__(self, state: ShimState, loop: Loop, orders: Orders, arguments: Sequence[str]) -> None:
        """`arguments`: of the supervisor's command."""
        self._state = state
        self._loop = loop
        self._orders = orders
        self._arguments = arguments
        self._is_full = False  # its channel
        self._has_lost = False  # a message of it was lost: nothing that follows is carried out
        self._dying = math.inf  # when (monotonic) the supervisor, which was killed, counts as a corpse
        self._heard = 0.0  # when (monotonic) its last message came
        self._looked = False  # whether it was looked at since it is late
        self._silent_after: float | None = None  # seconds after its start that it fell silent, and is killed for it
        self._logged_end = ""  # how the last one ended, as the log has it

    @property
    def due(self) -> float:
        """When (monotonic) `check` has something to do: start the supervisor, or find it silent, or unable to end."""
        if self._state.due is not None or self._state.supervisor is None:
            return math.inf if self._state.due is None else self._state.due
        return min(self._dying, self._heard + (SILENCE if self._looked else min(LATE, SILENCE)))

    @property
    def is_hopeless(self) -> bool:
        """True if no supervisor can be started: a requested stop must then be done without one."""
        return self._state.supervisor is None and self._state.silent_deaths >= START_LIMIT

    def check(self) -> None:
        """Start the supervisor if that is due, and kill one that is silent."""
        state, now = self._state, time.monotonic()
        if state.due is not None and now >= state.due:
            state.due = None
            self._loop.release()
            self.start(now)
            self._loop.reserve()
        elif state.supervisor is None:
            return
        elif now >= self._dying:
            self._leave_corpse(now)
        elif now - self._heard >= SILENCE:
            log(f"the supervisor (pid {state.supervisor.pid}) has not responded for {SILENCE:g} s: replacing it")
            if self._run_state(state.supervisor.pid) not in {b"T", b"t"}:  # a stop is somebody's doing, as a kill is
                self._silent_after = self._heard - state.born
            self._heard = now
            self.kill()
        elif now - self._heard >= LATE and not self._looked:
            self._looked = True
            member = proc.read(state.supervisor.pid)
            if member is not None and member.headless:  # killed, perhaps, and a thread of it hangs
                self.kill()

    def _run_state(self, pid: int) -> bytes:
        return b"".join(self._loop.with_spares(lambda: procfs.fields(pid))[:1])

    def kill(self) -> None:
        """Kill the supervisor; its end is seen later."""
        if self._state.supervisor is not None:
            self._dying = min(self._dying, time.monotonic() + CORPSE)
            with suppress(OSError):
                signal.pidfd_send_signal(self._state.supervisor.pidfd, signal.SIGKILL)

    def _lifeline_ended(self) -> None:
        """It was killed, or has lost the thread that holds the lifeline: either way it has to end."""
        self._close_lifeline()
        self.kill()

    def _close_lifeline(self) -> None:
        if self._state.lifeline >= 0:
            self._loop.unwatch(self._state.lifeline)
            os.close(self._state.lifeline)
            self._state.lifeline = -1

    # A start.

    def start(self, now: float) -> None:
        """Start a supervisor, and send it the state. If that fails, the next try is planned."""
        state = self._state
        state.born = self._heard = now
        state.has_reported, self._silent_after, self._has_lost = False, None, False
        child = Child(-1, "", "")
        here: list[int] = []  # our ends of the channel and the lifeline
        there: list[int] = []  # the supervisor's
        try:
            for make in (_channel, _lifeline):
                ours, its = make()
                here.append(ours)
                there.append(its)
            child.pid, child.status = spawn.start(self._spec(*there))
            child.pidfd = os.pidfd_open(child.pid)
            member = proc.read(child.pid)
            channel = socket.socket(fileno=here[0])
        except Exception as error:
            log(f"starting the supervisor failed: {getattr(error, 'strerror', None) or repr(error)}")
            _abandon(child, here)
            self.plan(now)
            return
        finally:
            for fd in there:
                os.close(fd)
        child.started = member.started if member is not None else 0
        state.supervisor, state.channel, state.lifeline = child, channel, here[1]
        self._dying, self._looked = math.inf, False
        state.changes["supervisor"] = [child.pid, child.started]
        self.watch(now)
        self._clear_page()
        state.emit(hello(state))
        names = list(state.kept)
        for at in range(0, len(names), wire.MOST_FDS):
            part = names[at : at + wire.MOST_FDS]
            state.emit({"event": "fds", "names": part}, [state.kept[name] for name in part])
        state.emit({"event": "begin"})

    def _spec(self, channel: int, lifeline: int) -> dict[str, Any]:
        return {
            **spawn.PLAIN,
            "argv": [*SUPERVISOR, *self._arguments],
            "env": {**os.environ, wire.LIFELINE: "4"},
            "fds": {"0": self._loop.null, "1": 1, "2": 2, "3": channel, "4": lifeline},
            "oom_score_adj": spawn.oom_score(),
        }

    def watch(self, now: float) -> None:
        """Watch the supervisor that the state has, if it has one. It counts as heard `now`."""
        state = self._state
        self._heard = now
        if state.supervisor is not None and state.channel is not None:
            self._loop.watch(state.supervisor.pidfd, self._ended)
            self._loop.watch(state.channel.fileno(), self.receive)
            self._is_full = False
            if state.lifeline >= 0:
                self._loop.watch(state.lifeline, self._lifeline_ended)

    def watch_corpses(self) -> None:
        """Watch those that the state has."""
        for corpse in self._state.corpses:
            self._watch_corpse(corpse)

    def plan(self, now: float, *, failed: bool = False) -> None:
        """Schedule the start of the next one. `failed`: the last one crashed."""
        state = self._state
        lasted = now - state.born if self._silent_after is None else self._silent_after
        came_up = lasted >= LASTING or (state.has_reported and not failed)
        state.silent_deaths = 0 if came_up else state.silent_deaths + 1
        if self._silent_after is not None and state.is_stop_requested:
            # The end has waited for this one, and does not wait for another.
            state.silent_deaths = max(state.silent_deaths, START_LIMIT)
        state.due = max(now + DELAYS[min(state.silent_deaths, len(DELAYS) - 1)], state.born + SPACING)

    def _clear_page(self) -> None:
        """Have it begin with a blank page; without a descriptor for that, with none."""
        kept = self._state.kept
        with suppress(OSError):
            if wire.PAGE not in kept:
                fd = kept[wire.PAGE] = os.memfd_create(wire.PAGE, os.MFD_CLOEXEC)
                self._state.note("kept", wire.PAGE, table.ident(fd))
            os.ftruncate(kept[wire.PAGE], wire.PAGE_SIZE)
            os.pwrite(kept[wire.PAGE], bytes(wire.PAGE_SIZE), 0)

    # An end.

    def _note_end(self, **how: Any) -> None:
        """Remember how a supervisor has gone wrong, and what it was at. Its successor judges what follows from that."""
        slot = stage = ""
        blobs = self._state.blobs
        with suppress(OSError, KeyError):
            slot, stage = wire.noted(os.pread(self._state.kept[wire.PAGE], wire.PAGE_SIZE, 0))
        try:
            ends = list(bare.loads(blobs.get(wire.ENDS, "[]")))
        except (ValueError, TypeError):
            ends = []
        at = {"at": round(time.monotonic(), 3), "time": round(time.time(), 3)}
        ends.append({**at, **how, "slot": slot, "stage": stage})
        blobs[wire.ENDS] = bare.dumps(ends[-MOST_ENDS:])
        self._state.note("blobs", wire.ENDS, blobs[wire.ENDS])

    def _ended(self) -> None:
        """Read its last messages, which count; then reap it and, unless it had said `quit`, plan the next start."""
        child, channel = self._state.supervisor, self._state.channel
        if child is None or channel is None:
            return
        info = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
        if info is None:
            return
        self.receive()
        self._let_go(child, channel)
        os.close(child.pidfd)
        failed = spawn.failure(child.status)
        os.close(child.status)
        if not self._state.quitting:
            exited = info.si_code == os.CLD_EXITED
            how = f"{'exit' if exited else 'signal'} {info.si_status}"
            if failed:
                how = f"{failed['stage']}: {failed['error']}"
            wrong = bool(info.si_status) if exited else info.si_status in FAULTS
            if self._silent_after is not None:
                wrong = True
                self._note_end(silent=True)
            elif exited and info.si_status == os.EX_SOFTWARE and not failed:
                self._note_end(code=info.si_status)
            elif not exited and info.si_status in FAULTS:
                self._note_end(signal=info.si_status)
            self.plan(time.monotonic(), failed=wrong)
            self._log_end(info.si_pid, how)

    def _log_end(self, pid: int, how: str) -> None:
        """Log an end; of many in a row that end alike, only the first ones."""
        deaths = self._state.silent_deaths
        if deaths < len(DELAYS) or how != self._logged_end:
            log(f"the supervisor (pid {pid}) ended: {how}; restarting it")
        elif deaths == len(DELAYS):
            log(f"the supervisor cannot be started ({how}): retrying every {DELAYS[-1]:g} s; programs keep running")
        self._logged_end = how

    def _let_go(self, child: Child, channel: socket.socket) -> None:
        self._loop.unwatch(channel.fileno())
        self._loop.unwatch(child.pidfd)
        self._close_lifeline()
        channel.close()
        self._state.supervisor = self._state.channel = None
        self._dying = math.inf
        self._state.outbox.clear()

    def _leave_corpse(self, now: float) -> None:
        """Start its successor without waiting for its end. What it had sent is carried out; it cannot send anything more."""
        child, channel = self._state.supervisor, self._state.channel
        if child is None or channel is None:
            return
        self.receive()
        self._let_go(child, channel)
        self._state.corpses.append(child)
        self._watch_corpse(child)
        if not self._state.quitting:
            log(f"the supervisor (pid {child.pid}) was killed but is stuck in the kernel; starting another one")
            if self._silent_after is not None:
                self._note_end(silent=True)
            self.plan(now, failed=self._silent_after is not None)

    def _watch_corpse(self, corpse: Child) -> None:
        self._loop.watch(corpse.pidfd, partial(self._corpse_ended, corpse))

    def _corpse_ended(self, corpse: Child) -> None:
        if os.waitid(os.P_PIDFD, corpse.pidfd, os.WEXITED | os.WNOHANG) is None:
            return
        self._loop.unwatch(corpse.pidfd)
        os.close(corpse.pidfd)
        os.close(corpse.status)
        self._state.corpses.remove(corpse)
        log(f"the supervisor (pid {corpse.pid}) that was stuck in the kernel has ended")

    # The channel.

    def flush(self) -> None:
        """Send the outbox, in as few messages as descriptors and AT_ONCE allow: each costs both sides a turn."""
        channel, outbox = self._state.channel, self._state.outbox
        if channel is None:
            return
        full = False
        while outbox and not full:
            bare = [event for event, _ in islice(takewhile(lambda each: not each[1], outbox), AT_ONCE)]
            events, fds = (bare, ()) if bare else ([outbox[0][0]], outbox[0][1])
            try:
                self._loop.with_spares(partial(wire.send, channel, {"events": events}, fds))
            except BlockingIOError:
                full = True
            except OSError as error:
                if error.errno in LACKING:
                    raise  # and sent again
                outbox.clear()  # it is dead; its pidfd will say so
            else:
                for _ in events:
                    outbox.popleft()
        if full != self._is_full and channel.fileno() in self._loop.watched:
            self._is_full = full
            self._loop.epoll.modify(channel.fileno(), select.EPOLLIN | (select.EPOLLOUT if full else 0))

    def receive(self) -> None:
        """Carry out what the supervisor asks for. Where a part of that may be lost, it is replaced: the next one gets the state."""
        try:
            self._read()
        except Exception as error:
            log(f"a message from the supervisor may be lost; replacing the supervisor: {error!r}")
            self._has_lost = True
            self.kill()
        self.flush()

    def _read(self) -> None:
        state, loop = self._state, self._loop
        while state.channel is not None and not self._has_lost:
            try:
                packet = loop.with_spares(partial(wire.recv, state.channel))
            except BlockingIOError:
                break
            except (OSError, ValueError) as error:
                log(f"reading from the supervisor failed: {error}")
                break
            if packet is None:  # without a channel it is of no use, if it lives at all
                loop.unwatch(state.channel.fileno())
                self.kill()
                break
            self._heard, self._looked = time.monotonic(), False
            state.has_reported = True
            message, fds = packet
            while fds and not loop.has_room(store.missing(state, len(fds))):  # reported when one of them is asked for
                os.close(fds.pop())
            ops = message.get("ops")
            for op in ops if isinstance(ops, list) else [message]:
                self._orders.perform(op, fds)
            for fd in fds:
                os.close(fd)
            loop.attempt(self._orders.write_down)  # which each round does again


def _channel() -> tuple[int, int]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.detach(), its.detach()


def _lifeline() -> tuple[int, int]:
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


def _abandon(child: Child, here: list[int]) -> None:
    """A start has failed: end what there is of it, which is a stray from now on."""
    if child.pid:  # not reaped, so the number is still its own
        with suppress(OSError):
            os.kill(child.pid, signal.SIGKILL)
    for fd in (*here, child.status, child.pidfd):
        if fd >= 0:
            os.close(fd)


def hello(state: ShimState) -> dict[str, Any]:
    """The first message to a new supervisor."""
    return {
        "event": "hello",
        "pid": os.getpid(),
        "shutdown": state.shutdown,
        "table": [child.row() for child in state.children.values()],
        "blobs": state.blobs,
        "command": handover.command(),
        "troubles": state.troubles,
        "baseline": state.baseline,
    }
