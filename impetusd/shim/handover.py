"""Upgrade a shim that holds processes: test the new code, then execute it in the same process.

exec(2) keeps the pid, the children (those that died meanwhile, too: a zombie waits), the descriptors that are marked to stay,
the locks on them, and blocked signals. The state goes over as JSON, in a memfd, with descriptors by their numbers. Before
that, a process of its own runs the new code up to the point where it would begin to serve: code that cannot be imported,
or cannot read the state, never takes over.
"""

from __future__ import annotations

import math
import os
import sys
import time

from impetusd import bare
from impetusd.bare import signal, socket
from impetusd.linux.errors import suppress
from impetusd.linux.priority import INFO
from impetusd.shim import spawn
from impetusd.shim.child import Child
from impetusd.shim.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from impetusd.shim.loop import Loop
    from impetusd.shim.state import ShimState

VERSION = 1  # of the state; code that does not know it refuses
WITHIN = 5.0  # seconds that the trial may take; measured: 0.05
# The last argument; the first two with the number of the state's descriptor.
RESUME, CHECK, ORPHANED = "resume:", "check:", "orphaned"
LONGEST = 20_000  # bytes of what a failed trial printed


class Unreadable(Exception):
    """A state that this code cannot go on from."""


def dump(state: ShimState) -> dict[str, Any]:
    """The state as JSON."""
    owners = {id(child.forks): child.process for child in state.children.values() if child.process not in state.forking}
    return {
        "version": VERSION,
        "children": [
            {
                **child.dump(),
                "forks": -1 if child.forks is None or child.process in state.forking else child.forks.fileno(),
                "via": owners.get(id(child.forks)) if child.process in state.forking else None,
            }
            for child in state.children.values()
        ],
        "blobs": state.blobs,
        "kept": state.kept,
        "lost": sorted(state.lost),
        "life": state.life,
        "baseline": state.baseline,
        "shutdown": state.shutdown,
        "quitting": state.quitting,
        "code": state.code,
        "supervisor": state.supervisor.dump() if state.supervisor else None,
        "channel": state.channel.fileno() if state.channel else -1,
        "lifeline": state.lifeline,
        "corpses": [corpse.dump() for corpse in state.corpses],
        "spares": state.spares,
        "outbox": [[event, list(fds)] for event, fds in state.outbox],
        "clock": [state.born, state.due, state.has_reported, state.silent_deaths],  # monotonic times hold over exec
    }


def restore(state: ShimState, saved: dict[str, Any]) -> None:
    """Fill `state`, which is new, with what `dump` of this version or another returned."""
    for each in saved["children"]:
        child = state.children[each["process"]] = Child.load(each)
        if each["forks"] >= 0:
            child.forks = socket.socket(fileno=each["forks"])
    for each in saved["children"]:
        if each["via"] is not None:
            child = state.forking[each["process"]] = state.children[each["process"]]
            child.forks = state.children[each["via"]].forks
    state.forked += [child for child in state.children.values() if child.gate >= 0 and child.pid]
    state.blobs, state.kept, state.lost = saved["blobs"], saved["kept"], set(saved["lost"])
    state.shutdown, state.quitting, state.code = saved["shutdown"], saved["quitting"], saved.get("code", 0)
    if saved["supervisor"] is not None:
        state.supervisor = Child.load(saved["supervisor"])
        state.channel = socket.socket(fileno=saved["channel"])
    state.lifeline = saved.get("lifeline", -1)
    state.corpses = [Child.load(each) for each in saved.get("corpses", ())]
    state.spares = saved.get("spares", False)
    state.outbox.extend((event, fds) for event, fds in saved["outbox"])
    state.born, state.due, state.has_reported, state.silent_deaths = saved["clock"]


def descriptors(saved: dict[str, Any]) -> set[int]:
    """The descriptors that must stay open over the exec."""
    children = [*saved["children"], *([saved["supervisor"]] if saved["supervisor"] else []), *saved.get("corpses", ())]
    found = {saved["channel"], saved.get("lifeline", -1), *saved["kept"].values()}
    for child in children:
        found |= {child["pidfd"], child["status"], child.get("forks", -1), child.get("gate", -1)}
    for _, fds in saved["outbox"]:
        found.update(fds)
    return found - {-1}


def load(memory: int) -> dict[str, Any]:
    """The state in a memfd. Raises Unreadable."""
    try:
        saved = bare.loads(os.pread(memory, os.fstat(memory).st_size, 0))
    except (OSError, ValueError) as error:
        raise Unreadable(f"the state cannot be read: {error}") from None
    if not isinstance(saved, dict) or saved.get("version") != VERSION:
        version = saved.get("version") if isinstance(saved, dict) else None
        raise Unreadable(f"the state has version {version}, but this code supports version {VERSION}")
    return saved


def pack(saved: dict[str, Any]) -> int:
    """A memfd with the state."""
    memory = os.memfd_create("state", os.MFD_CLOEXEC)
    view = memoryview(bare.dumps(saved, compact=True).encode())
    while view:
        view = view[os.write(memory, view) :]
    return memory


def command(*mode: str) -> list[str]:
    """This program's own command, in another mode."""
    own = [word for word in sys.orig_argv[1:] if not word.startswith((RESUME, CHECK, ORPHANED))]
    return [sys.executable, *own, *mode]


class Upgrade:
    """Replaces this code with the code on disk, if that can take over."""

    def __init__(self, state: ShimState, loop: Loop, settle: Callable[[], None]) -> None:
        """`settle`: called with signals blocked; deals with all that must not be left to the new code."""
        self._state = state
        self._loop = loop
        self._settle = settle
        self._trial: Trial | None = None

    @property
    def due(self) -> float:
        """When (monotonic) `check` has something to do."""
        return self._trial.deadline if self._trial is not None else math.inf

    def check(self, now: float) -> None:
        """End a trial that has had its time."""
        if now >= self.due and self._trial is not None:
            self._trial.kill()

    def begin(self) -> None:
        """Have the code prove itself; the answer decides whether it takes over."""
        if self._trial is None:
            try:
                self._trial = Trial(dump(self._state), self._loop.null)
            except OSError as error:
                self._state.emit({"event": "refused", "error": f"it cannot be tested: {error.strerror}"})
            else:
                self._state.trial_pid = self._trial.pid
                self._loop.watch(self._trial.pidfd, self._tried)

    def _tried(self) -> None:
        trial, self._trial, self._state.trial_pid = self._trial, None, 0
        if trial is None:
            return
        self._loop.unwatch(trial.pidfd)
        why = trial.verdict()
        if not why:
            log("continuing with the code on disk", INFO)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, spawn.SIGNALS)
            self._settle()
            try:
                become(dump(self._state))
            except OSError as error:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                why = f"executing it failed: {error.strerror}"
        log(f"the code on disk cannot take over: {why}")
        self._state.emit({"event": "refused", "error": why})


class Trial:
    """A test run of the code on disk, in a separate process with copies of all held descriptors."""

    def __init__(self, saved: dict[str, Any], null: int) -> None:
        """Raises OSError when it cannot be started."""
        memory = pack(saved)
        self._out = os.memfd_create("trial", os.MFD_CLOEXEC)
        try:
            spec = {
                **spawn.PLAIN,
                "argv": command(f"{CHECK}{memory}"),
                "env": dict(os.environ),
                "fds": {str(fd): fd for fd in (*descriptors(saved), memory)}
                | {"0": null, "1": self._out, "2": self._out},
            }
            self.pid, self._status = spawn.start(spec)
        except OSError:
            os.close(self._out)
            raise
        finally:
            os.close(memory)
        self.pidfd = os.pidfd_open(self.pid)
        self.deadline = time.monotonic() + WITHIN

    def kill(self) -> None:
        """It has had its time."""
        self.deadline = math.inf
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def verdict(self) -> str:
        """After its end: '' if the new code can take over, else why it cannot."""
        info = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        failed = spawn.failure(self._status)
        text = os.pread(self._out, LONGEST, max(0, os.fstat(self._out).st_size - LONGEST)).decode("utf-8", "replace")
        for fd in (self.pidfd, self._status, self._out):
            os.close(fd)
        if failed:
            return f"{failed['stage']}: {failed['error']}"
        if info is not None and info.si_code == os.CLD_EXITED and info.si_status == 0:
            return ""
        if self.deadline == math.inf:
            return f"it did not respond within {WITHIN:g} s"
        return (
            text.strip()
            or f"it exited with {info.si_status if info is not None else 'unknown status'} without a message"
        )


def become(saved: dict[str, Any]) -> NoReturn:
    """Execute the code on disk in this process. Returns only by raising OSError, with nothing changed.

    The caller blocks signals: the new code finds those that come meanwhile.
    """
    memory = pack(saved)
    fds = descriptors(saved) | {memory}
    argv = command(f"{RESUME}{memory}")
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execv(argv[0], argv)  # noqa: S606  # no shell is wanted
    except OSError:
        os.close(memory)
        for fd in fds - {memory}:
            with suppress(OSError):
                os.set_inheritable(fd, False)
        raise
