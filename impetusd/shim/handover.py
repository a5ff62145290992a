"""New code for a shim that holds processes: tried first, then executed in its place.

exec(2) keeps the pid, the children (those that died meanwhile, too: a zombie waits), the descriptors that are said to stay,
the locks on them, and blocked signals. What the code itself knows goes over as JSON, in a memfd, with descriptors by their
numbers. Before that, a process of its own runs the new code up to the point where it would begin to serve: code that
cannot be imported, or cannot read the state of this one, never takes over.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time

from impetusd.shim import spawn
from impetusd.shim.child import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from impetusd.shim.main import Shim

VERSION = 1  # of the state; code that does not know it refuses
WITHIN = 5.0  # seconds that the trial may take; measured: 0.05
# The last argument; the first two with the number of the state's descriptor.
RESUME, CHECK, ORPHANED = "resume:", "check:", "orphaned"
LONGEST = 20_000  # bytes of what a failed trial printed


class Unreadable(Exception):
    """A state that this code cannot go on from."""


def dump(shim: Shim) -> dict[str, Any]:
    """All that this shim knows."""
    owners = {id(child.forks): child.process for child in shim.children.values() if child.process not in shim.forking}
    return {
        "version": VERSION,
        "children": [
            {
                **child.dump(),
                "forks": -1 if child.forks is None or child.process in shim.forking else child.forks.fileno(),
                "via": owners.get(id(child.forks)) if child.process in shim.forking else None,
            }
            for child in shim.children.values()
        ],
        "blobs": shim.blobs,
        "kept": shim.kept,
        "lost": sorted(shim.lost),
        "life": shim.table.life,
        "baseline": shim.baseline,
        "shutdown": shim.shutdown,
        "quitting": shim.quitting,
        "code": shim.code,
        "supervisor": shim.supervisor.dump() if shim.supervisor else None,
        "channel": shim.channel.fileno() if shim.channel else -1,
        "lifeline": shim.lifeline,
        "corpses": [corpse.dump() for corpse in shim.corpses],
        "outbox": [[event, list(fds)] for event, fds in shim.outbox],
        "clock": [shim.born, shim.due, shim.has_reported, shim.silent_deaths],  # monotonic times hold over exec
    }


def restore(shim: Shim, state: dict[str, Any]) -> None:
    """Have `shim`, which is new, know what `state` tells, and watch what is to be watched."""
    for saved in state["children"]:
        child = shim.children[saved["process"]] = Child.load(saved)
        if saved["forks"] >= 0:
            child.forks = socket.socket(fileno=saved["forks"])
    for saved in state["children"]:
        if saved["via"] is not None:
            child = shim.forking[saved["process"]] = shim.children[saved["process"]]
            child.forks = shim.children[saved["via"]].forks
    shim.forked += [child for child in shim.children.values() if child.gate >= 0 and child.pid]
    shim.blobs, shim.kept, shim.lost = state["blobs"], state["kept"], set(state["lost"])
    shim.shutdown, shim.quitting, shim.code = state["shutdown"], state["quitting"], state.get("code", 0)
    if state["supervisor"] is not None:
        shim.supervisor = Child.load(state["supervisor"])
        shim.channel = socket.socket(fileno=state["channel"])
    shim.lifeline = state.get("lifeline", -1)
    shim.corpses = [Child.load(saved) for saved in state.get("corpses", ())]
    shim.outbox.extend((event, fds) for event, fds in state["outbox"])
    shim.born, shim.due, shim.has_reported, shim.silent_deaths = state["clock"]
    shim.heard = time.monotonic()
    shim.watch_again()


def descriptors(state: dict[str, Any]) -> set[int]:
    """The numbers that are to stay open."""
    children = [*state["children"], *([state["supervisor"]] if state["supervisor"] else []), *state.get("corpses", ())]
    found = {state["channel"], state.get("lifeline", -1), *state["kept"].values()}
    for child in children:
        found |= {child["pidfd"], child["status"], child.get("forks", -1), child.get("gate", -1)}
    for _, fds in state["outbox"]:
        found.update(fds)
    return found - {-1}


def load(memory: int) -> dict[str, Any]:
    """The state in a memfd. Raises Unreadable."""
    try:
        state = json.loads(os.pread(memory, os.fstat(memory).st_size, 0))
    except (OSError, ValueError) as error:
        raise Unreadable(f"the state cannot be read: {error}") from None
    if not isinstance(state, dict) or state.get("version") != VERSION:
        version = state.get("version") if isinstance(state, dict) else None
        raise Unreadable(f"the state is of version {version}, and this code knows version {VERSION}")
    return state


def pack(state: dict[str, Any]) -> int:
    """A memfd with the state."""
    memory = os.memfd_create("state", os.MFD_CLOEXEC)
    view = memoryview(json.dumps(state, separators=(",", ":")).encode())
    while view:
        view = view[os.write(memory, view) :]
    return memory


def command(*mode: str) -> list[str]:
    """This program's own command, in another mode."""
    own = [word for word in sys.orig_argv[1:] if not word.startswith((RESUME, CHECK, ORPHANED))]
    return [sys.executable, *own, *mode]


class Trial:
    """The code on the disk, in a process of its own that holds copies of all that is held here."""

    def __init__(self, state: dict[str, Any], null: int) -> None:
        """Raises OSError when it cannot be started."""
        memory = pack(state)
        self._out = os.memfd_create("trial", os.MFD_CLOEXEC)
        try:
            spec = {
                **spawn.PLAIN,
                "argv": command(f"{CHECK}{memory}"),
                "env": dict(os.environ),
                "fds": {str(fd): fd for fd in (*descriptors(state), memory)}
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
        self.deadline = float("inf")
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
        if self.deadline == float("inf"):
            return f"it did not answer within {WITHIN:g} s"
        return text.strip() or f"it ended with {info.si_status if info is not None else 'no status'} and said nothing"


def become(state: dict[str, Any]) -> NoReturn:
    """Execute the code on the disk in this process. Comes back only by raising OSError, with everything as it was.

    Signals are to be blocked by the caller: those that come meanwhile are found by the new code.
    """
    memory = pack(state)
    fds = descriptors(state) | {memory}
    argv = command(f"{RESUME}{memory}")
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execv(argv[0], argv)  # noqa: S606  # no shell is wanted
    except OSError:
        os.close(memory)
        for fd in fds - {memory}:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
        raise
