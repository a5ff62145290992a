"""The shim: parent of everything, owner of every descriptor that must survive, and nothing that could fail.

It starts what the supervisor asks for, reports exits, signals only what it has not reaped (so a pid that is used anew can
never be hit), keeps named descriptors and opaque strings, adopts orphans, and starts the supervisor again when that dies or
falls silent. It decides nothing. `shim.wire` has the messages, `shim.state` what is known.

Here are the loop, and who does what the supervisor asks for. `shim/__main__.py` runs it. Exit status: 0 after an orderly
end (or what the supervisor asks for), 75 when the state directory is held by another shim, 73 when what a killed one has
left cannot be taken over, 1 when it had to give up.
"""

from __future__ import annotations

import math
import os
import sys
import time

from impetusd import bare
from impetusd.bare import signal
from impetusd.linux import proc
from impetusd.linux.cgroup import Cgroups
from impetusd.linux.errors import suppress
from impetusd.linux.priority import ERROR, INFO
from impetusd.shim import (
    descriptors,
    ending,
    handover,
    leftovers,
    orphans,
    startup,
    supervision,
    table,
    tableline,
    upstream,
)
from impetusd.shim.children import Children
from impetusd.shim.log import log, write_waiting
from impetusd.shim.loop import Loop
from impetusd.shim.state import ShimState
from impetusd.shim.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

EX_CANTCREAT, EX_TEMPFAIL = 73, 75
APART = 0.1  # seconds between two rounds while something goes wrong: it may be due all the time, or never wake us
LAST_LINES = 1.0  # seconds that the log may take for the last of them
LOOK_AGAIN = 0.5  # seconds between two sweeps, where no signal comes for what is waited for
HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


class Shim:
    """The parts around one state, and the loop that calls them."""

    def __init__(self, conf: str, paths: dict[str, str], state: ShimState) -> None:
        self.state = state
        self._loop = Loop()
        # One that went to the background is not the main process of whatever service started it.
        self._upstream = upstream.Upstream(os.environ if paths.get("boot") else {})
        self._table = table.Table(paths["run_dir"], paths["state_dir"])
        self.store = Store(state, self._upstream, self._loop.null)
        self._cgroups = Cgroups(leftovers.group_name(paths["state_dir"]))
        self._children = Children(state, self._loop, self.store, self._cgroups)
        self._supervision = supervision.Supervision(state, self._loop, self, [conf, bare.dumps(paths)])
        self._upgrade = handover.Upgrade(state, self._loop, self._settle)
        self._ending: ending.Ending | None = None  # of everything, without a supervisor
        self._last: ending.Last | None = None  # of what is left after the supervisor's own end
        self._is_over = False
        self._signals = -1  # becomes readable when a signal has come
        self._control = f"{paths['run_dir']}/control.sock"

    # The loop.

    def run(self) -> int:
        """Serve until the supervisor says quit. Returns the exit status."""
        self._listen_to_signals()
        parts = (self._supervision.check, self._supervision.flush, self.beat, self.write_down)
        each_round = (*parts, self._children.remove_emptied, write_waiting)
        if self.state.supervisor is not None:  # it was there before this code was
            self.state.emit({"event": "upgraded"})
        self._supervision.flush()
        failed = ""
        while True:
            try:
                code = self._round(each_round)
            except Exception as error:  # between the acts; they do not come to nothing with it
                if repr(error) != failed:
                    failed = repr(error)
                    log(f"an event loop round failed (continuing): {failed}")
                time.sleep(APART)
            else:
                if code is not None:
                    return code

    def _round(self, each_round: Iterable[Callable[[], None]]) -> int | None:
        """Wait, then handle what is due. Returns the exit status at the end, else None."""
        state, loop = self.state, self._loop
        # Whatever failed while it had signals blocked: without SIGCHLD no stray is reaped, and SIGTERM ends nothing.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        events = loop.epoll.poll(self.patience())
        loop.reserve()  # as soon as there is room again
        for fd, _ in events:
            loop.serve(fd)
        loop.resume(time.monotonic())
        if state.sweep_due:
            loop.attempt(self.sweep)
        loop.attempt(self.end_alone)
        if self._is_over:
            return 1
        for act in each_round:
            loop.attempt(act)
        if state.quitting and state.supervisor is None:
            if self._last is None:
                self._last = ending.Last(state, self._children.strays, time.monotonic())
            if self._last.is_over(time.monotonic()):
                self._clear_away()
                return state.code
        return None

    def patience(self) -> float:
        """Seconds to wait for events."""
        loop = self._loop
        due = min(
            *(self._supervision.due, self._upgrade.due, self._upstream.due, self._table.due),
            *(each.due if each is not None else math.inf for each in (self._ending, self._last)),
            *loop.aside.values(),
        )
        wait = max(APART if loop.aside else 0.0, due - time.monotonic())
        wait = min(wait, APART) if loop.faults else wait
        return min(wait, LOOK_AGAIN) if self.state.sweep_due else wait

    def beat(self) -> None:
        """Run periodic work."""
        now = time.monotonic()
        self._upgrade.check(now)
        self._upstream.beat(now)

    def write_down(self) -> None:
        """Write what has changed for the shim after this one, which then knows what was forked: that may begin."""
        self._table.write(self.state)
        self._children.forks.open_gates()

    def sweep(self) -> None:
        """See what became of strays and trees: see `Strays.sweep`."""
        self._children.strays.sweep(self._children.check_end)

    def watch_again(self) -> None:
        """Watch everything that was restored; events that happened meanwhile are reported at once."""
        for child in self.state.children.values():
            if child.process not in self.state.forking:
                self._children.watch(child)
        self._supervision.watch(time.monotonic())
        self._supervision.watch_corpses()
        self.state.sweep_due = True

    # Signals.

    def _listen_to_signals(self) -> None:
        self._signals, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        self._loop.watch(self._signals, self._read_signals)
        if self._table.watched.fd >= 0:
            self._loop.watch(self._table.watched.fd, self._table.noticed)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # a caller that blocks SIGTERM must not make us deaf

    def _read_signals(self) -> None:
        with suppress(BlockingIOError):
            self._handle_signals(os.read(self._signals, 4096))

    def _handle_signals(self, numbers: bytes) -> None:
        state = self.state
        for number in numbers:
            if number == signal.SIGCHLD:
                state.sweep_due = True
            elif number == signal.SIGUSR2:  # a supervisor that is only just coming up opens them anew anyway
                state.emit({"event": "reopen-logs"})
            elif number == signal.SIGHUP:  # remembered until the supervisor, this one or the next, forgets it
                state.blobs["hup"] = "yes"
                state.note("blobs", "hup", "yes")
                state.emit({"event": "apply"})
            elif not state.shutdown:
                log(f"{'SIGTERM' if number == signal.SIGTERM else 'SIGINT'}: ending", INFO)
                state.shutdown = True
                state.note("blobs", "shutdown", "yes")
                state.emit({"event": "shutdown"})

    def _settle(self) -> None:
        self._read_signals()  # those that had come before they were blocked
        self._children.remove_emptied()

    # What the supervisor asks for.

    def perform(self, op: dict[str, Any], fds: list[int]) -> None:
        """Carry out one operation, taking its descriptor off `fds`. One that raises, or makes no sense, affects none after it."""
        mine = fds[:1] if isinstance(op, dict) and op.get("op") == "keep" else []  # whatever becomes of it, no other's
        del fds[: len(mine)]
        try:
            self.dispatch(op, mine)
        except Exception as error:
            log(f"executing {str(op)[:200]} failed: {error!r}")
            try:
                self._make_good(op, mine, error)
            except Exception as again:
                log(f"handling that failed as well: {again!r}")

    def dispatch(self, op: dict[str, Any], fds: list[int]) -> None:
        """Carry out one operation: see `shim.wire`. Raises all sorts of errors."""
        state = self.state
        match op["op"]:
            case "put":
                state.note("blobs", op["key"], op["blob"])
                if op["blob"] is None:
                    state.blobs.pop(op["key"], None)
                else:
                    state.blobs[op["key"]] = op["blob"]
            case "keep":
                self.store.keep(op["name"], fds.pop(0) if fds else -1)
            case "drop":
                self.store.drop(op["name"])
            case "spawn":
                self._children.spawn(op["process"], op["spec"])
            case "fork":
                self._children.fork(op["process"], op["via"], op["spec"])
            case "signal":
                child = state.children.get(op["process"])
                if child is not None:
                    self._children.strays.signal(child, op["number"], op["scope"])
            case "ack":
                self._children.ack(op["process"])
            case "snapshot":
                self.store.drop(op["name"])
                self.store.hold(op["name"], handover.pack(supervision.hello(state)))
            case "upgrade":
                self._upgrade.begin()
            case "notify":
                self._upstream.say(op["text"])
            case "quit":
                state.quitting, state.code = True, op.get("code", 0)
            case "beat":
                pass

    def _make_good(self, op: dict[str, Any], fds: list[int], error: Exception) -> None:
        """An operation has raised: do it once more, or report that it has failed."""
        match op["op"]:
            case "spawn" | "fork":
                self._children.fail(op["process"], error)
            case "keep" if op["name"] in self.state.kept and not fds:
                self.store.hold(op["name"], self.state.kept[op["name"]])
            case "keep":
                self.store.keep(op["name"], fds.pop() if fds else -1)
            case "put" | "drop" | "signal" | "ack" | "quit":
                self.dispatch(op, [])

    # The end.

    def end_alone(self) -> None:
        """Stop everything, if that was asked for and no supervisor comes up to do it."""
        state, now = self.state, time.monotonic()
        if self._ending is None:
            if not self._supervision.is_hopeless:
                return
            if not (state.children or state.blobs):
                log("the supervisor cannot be started and no programs are running: exiting")
                self._is_over = True
                self._clear_away()
                return
            if not state.is_stop_requested:
                return
            log("the supervisor cannot be started and a stop was requested: stopping everything without it")
            state.due = None
            self._ending = ending.Ending(state, self._children.strays, now)
        if not self._ending.is_over(now):
            return
        self._is_over = True
        left = self._ending.left()
        log(f"left running, because SIGKILL has no effect: {left}" if left else "everything is stopped")
        self._clear_away()
        with suppress(OSError):
            os.unlink(self._control)

    def _clear_away(self) -> None:
        self._table.remove(self.state)
        self._cgroups.close()
        write_waiting(LAST_LINES)

    # The beginning, where another shim was killed.

    def take_over(self, saved: dict[str, Any], given: Iterable[int], strays: list[proc.Member]) -> None:
        """Go on with what the table has: see `orphans`. `strays` were started in the instant in which that shim was killed, and
        the table does not know them: they are killed.
        """
        search = orphans.take_over(self.state, saved, given)
        for child in self.state.children.values():
            if child.ended is not None and not child.acked:
                child.left = self._children.strays.has_rest(child)
        for member in strays:
            proc.send(member, signal.SIGKILL)
        orphans.report(self.state, saved, search, strays)
        self.watch_again()


def main() -> int:
    """Take the instance lock and hold; or go on where another shim stopped: see `handover` and `orphans`."""
    conf, paths, mode = sys.argv[1], bare.loads(sys.argv[2]), "".join(sys.argv[3:])
    if mode.startswith((handover.RESUME, handover.CHECK)):
        return resume(conf, paths, mode)
    state_dir = paths["state_dir"]
    stored = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    given = startup.passed_on(everything=mode == handover.ORPHANED)
    found = table.examine(paths["run_dir"], state_dir)
    saved = found.saved
    baseline = saved["baseline"] if saved else startup.measured()
    if saved is not None and mode == handover.ORPHANED:
        given = descriptors.sift(given, [*saved["kept"].values(), table.ident_of(state_dir)])
    startup.prepare(set(given))
    lock = startup.lock_of(state_dir, given)
    if not startup.take(lock):
        if saved is not None:
            orphans.evict_stale_supervisor(saved)
            found = table.examine(paths["run_dir"], state_dir)  # which that supervisor has added to
            saved = found.saved
        if saved is None or not startup.take(lock):
            if mode == handover.ORPHANED:  # whoever starts a daemon reports it by itself
                log(f"cannot replace the shim: another process has locked {state_dir}", ERROR)
            return EX_TEMPFAIL
    strays = orphans.unknown(saved, state_dir) if saved is not None else orphans.forgotten(found, state_dir)
    if refused := startup.refusal(found, strays, conf):
        log(refused, ERROR)
        return EX_CANTCREAT
    if found.fault:
        aside = table.set_aside(tableline.path_in(paths["run_dir"]))
        log(f"{found.fault}: {aside}; no process of a previous impetusd is left")
    shim = Shim(conf, paths, ShimState(saved["life"] if saved else leftovers.new_life(state_dir), baseline))
    shim.state.kept["lock"] = lock
    if saved is not None:
        shim.take_over(saved, given, strays)
    for fd in given if saved is None else ():  # of a store that nothing is known of
        os.close(fd)
    shim.store.replace_copies(stored)
    return shim.run()


def resume(conf: str, paths: dict[str, str], mode: str) -> int:
    """Go on with the state that the code before this one passed on; or, in the mode CHECK, only see whether that can be."""
    memory = int(mode.partition(":")[2])
    saved = handover.load(memory)
    os.close(memory)
    if mode.startswith(handover.RESUME):
        startup.prepare(handover.descriptors(saved))
    shim = Shim(conf, paths, ShimState(saved["life"], saved["baseline"]))
    handover.restore(shim.state, saved)
    shim.watch_again()
    return shim.run() if mode.startswith(handover.RESUME) else 0
