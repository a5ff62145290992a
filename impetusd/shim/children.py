"""The children: started for the supervisor, watched until they end, and reaped once the supervisor has their exit.

An exit is read without reaping (WNOWAIT): the zombie keeps the pid, so no signal can hit another process, until `ack`.
"""

from __future__ import annotations

import os
import time

from impetusd import bare
from impetusd.bare import signal, socket
from impetusd.linux import proc, usage
from impetusd.linux.cgroup import Cgroups
from impetusd.linux.errors import suppress
from impetusd.shim import failures, leftovers, orphans, spawn
from impetusd.shim.child import STOP, Child
from impetusd.shim.forks import Forks
from impetusd.shim.strays import Strays

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from impetusd.shim.loop import Loop
    from impetusd.shim.state import ShimState
    from impetusd.shim.store import Store


class Children:
    """Changes `children` of the state. `forks` and `strays` are parts of it."""

    def __init__(self, state: ShimState, loop: Loop, store: Store, cgroups: Cgroups) -> None:
        """`cgroups`: where each child gets one."""
        self._state = state
        self._loop = loop
        self._store = store
        self._cgroups = cgroups
        self.strays = Strays(state, loop)
        self._check_end = self.check_end  # one bound method for all
        self.forks = Forks(state, loop, store, self.strays)

    # A start.

    def spawn(self, process: int, spec: dict[str, Any]) -> None:
        """Start a child. `spec`: see `shim.spawn`; its descriptors are names in the store."""
        child = self._new(process, spec)
        baseline = self._state.baseline
        theirs: socket.socket | None = None
        try:
            spec["env"] = {**spec["env"], leftovers.MARK: self._state.life}
            spec["fds"] = {number: self._store.find(name) for number, name in spec["fds"].items()}
            if spec.get("fork_fd"):
                child.template = True
                child.forks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                spec["fds"][str(spec["fork_fd"])] = theirs.fileno()
            spec["cgroup"] = child.cgroup
            spec["oom_score_adj"] = spec["oom_score_adj"] or baseline["oom_score"]
            if not any(name == "nofile" for name, _, _ in spec["rlimits"]):
                spec["rlimits"] = [("nofile", *baseline["nofile"]), *spec["rlimits"]]
            child.pid, child.status = self._loop.with_spares(lambda: spawn.start(spec))
            child.pidfd = self._loop.with_spares(lambda: os.pidfd_open(child.pid))
        except Exception as error:  # whatever is wrong with the spec, the supervisor learns of an end
            self.fail(process, error)
            return
        finally:
            if theirs is not None:
                theirs.close()
        self._register(child)

    def fork(self, process: int, via: int, spec: dict[str, Any]) -> None:
        """Have the template `via` fork a child. `spec` has its `env`, and `fds`: a list of names in the store."""
        self.forks.request(self._new(process, spec), self._state.children.get(via), spec)

    def _new(self, process: int, spec: dict[str, Any]) -> Child:
        if process in self._state.children:
            raise ValueError(f"process {process} already exists")
        cgroup = self._cgroups.make(spec.get("group", ""))
        invocation = (spec.get("env") or {}).get("INVOCATION_ID", "")
        child = self._state.children[process] = Child(process, invocation, cgroup)
        stop = list(spec.get("stop") or STOP)
        child.stop = STOP if stop == STOP else stop  # most have the same, which is kept once
        if spec.get("limits"):
            child.limits = bare.dumps(self._limit(cgroup, spec["limits"]))
        self._state.touch(child)
        return child

    def _limit(self, cgroup: str, limits: dict[str, str]) -> dict[str, Any]:
        """Set the limits of a child that is about to start. Returns the causes, by file, of those that cannot be set, without
        which it starts all the same.
        """
        causes = {}
        for file, value in limits.items():
            try:
                if cgroup:
                    self._cgroups.limit(cgroup, file, value)
                else:
                    causes[file] = failures.because("no_cgroup")
            except LookupError as missing:
                causes[file] = failures.because("no_controller", name=str(missing.args[0]))
            except Exception as error:
                causes[file] = failures.of_error(error)
        return causes

    def _register(self, child: Child) -> None:
        child.session = child.pid
        member = None
        with suppress(OSError):  # with no descriptor left to look with it is watched all the same
            member = self._loop.with_spares(lambda: proc.read(child.pid))
        child.started = member.started if member is not None else 0
        self.watch(child)
        self._state.touch(child)
        self._state.emit({"event": "spawned", "process": child.process, "pid": child.pid, **child.limited()})

    def watch(self, child: Child) -> None:
        """Watch what `child` has: its start, its forks, its end."""
        if child.status >= 0:
            self._loop.watch(child.status, lambda: self._read_status(child))
        if child.forks is not None:
            self._loop.watch(child.forks.fileno(), lambda: self.forks.read_answers(child, self._register))
        if child.pidfd >= 0 and child.ended is None:
            self._loop.watch(child.pidfd, self._check_end, child)

    def _read_status(self, child: Child) -> None:
        """Read how the start went: its status descriptor has come to its end."""
        if child.status >= 0:
            child.failed = spawn.failure(child.status)
            fd, child.status = child.status, -1
            self._loop.unwatch(fd)
            os.close(fd)

    def fail(self, process: int, error: Exception) -> None:
        """Starting `process` has raised: end what there is of it, and report a failed start."""
        state = self._state
        child = state.children.get(process)
        if child is None:
            child = state.children[process] = Child(process, "", "")
        state.forking.pop(process, None)
        if child.ended is None:
            self._abandon(child)
            state.fail_start(child, "process", failures.of_error(error))
        state.report_exit(child)

    def _abandon(self, child: Child) -> None:
        """Kill what was started of it. It is reaped as a stray from now on."""
        if child.pid:  # not reaped, so the number is still its own
            with suppress(OSError):
                os.kill(child.pid, signal.SIGKILL)
        child.pid = 0
        for fd in (child.pidfd, child.status):
            if fd >= 0:
                self._loop.unwatch(fd)
                os.close(fd)
        child.pidfd = child.status = -1
        child.close_gate()
        if child.forks is not None and child.template:
            self._loop.unwatch(child.forks.fileno())
            child.forks.close()
        child.forks = None

    # An end.

    def check_end(self, child: Child) -> None:
        """If it has ended: read how, keep the zombie, and report the exit.

        Its pidfd is watched until then: if this raises, it is called again.
        """
        if child.ended is None:
            how = self._exit(child) if child.is_child else self._exit_via_pidfd(child)
            if how is None:
                return
            if child.forks is not None:
                self.forks.read_answers(child, self._register)
                self.forks.close(child)
            self._read_status(child)
            if child.failed is not None:
                how = {**child.failed, "at": how["at"]}
            if how.get("signal") == signal.SIGKILL and not child.killed and self._lacked_memory(child):
                how["oom"] = True
                if Cgroups.over_limit(child.cgroup):
                    how["over_limit"] = True
            child.left = self.strays.has_rest(child)
            child.ended = how
        self._state.report_exit(child)
        self._loop.unwatch(child.pidfd)

    @staticmethod
    def _exit(child: Child) -> dict[str, Any] | None:
        found = usage.of_zombie(child.pidfd)
        if found is None:
            return None
        code, status, used = found
        how: dict[str, Any] = {"signal": status, "core": code == os.CLD_DUMPED}
        return {**({"code": status} if code == os.CLD_EXITED else how), **used, "at": time.time()}

    def _exit_via_pidfd(self, child: Child) -> dict[str, Any] | None:
        """The exit of one that somebody else has to reap: the kernel shows it before that, or afterwards, if that comes soon."""
        status = self._loop.with_spares(lambda: orphans.status_of_zombie(child))
        if status is None:
            status = orphans.status_of(child.pidfd)
        now = time.monotonic()
        if status is None and not child.seen:
            child.seen = now
            self._loop.epoll.modify(child.pidfd, 0)  # leaves EPOLLHUP, which always comes: it is reaped
        if status is None and now - child.seen < orphans.REAPED_WITHIN:
            self._state.sweep_due = True
            return None
        return orphans.ended(None if orphans.ends_with_shim(child, status) else status)

    @staticmethod
    def _lacked_memory(child: Child) -> bool:
        """Whether the kernel says that it has killed for memory in the child's own cgroup."""
        return bool(child.cgroup) and Cgroups.oom_kills(child.cgroup) > 0

    def ack(self, process: int) -> None:
        """The supervisor has written down how it ended: reap it."""
        child = self._state.children.get(process)
        if child is None or child.ended is None:
            return
        child.acked = True
        self._state.touch(child)
        if child.pidfd >= 0:
            with suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
            os.close(child.pidfd)
            child.pidfd, child.pid = -1, 0
        self._state.forget_if_done(child)

    def remove_emptied(self) -> None:
        """Remove cgroups, at the end of a round: what is to be started in the place of an ended child does not wait for it."""
        emptied = self._state.emptied
        while emptied:
            self._loop.with_spares(lambda: Cgroups.remove(emptied[-1]))
            emptied.pop()
