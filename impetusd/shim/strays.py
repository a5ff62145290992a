"""The other processes of a child: find them, signal them, and wait for their end.

With a cgroup that is whatever is in it; without one, descendants: see `linux.proc`. A *stray* is a child of the shim that
nobody asked for: an orphan that it adopted as a subreaper, or a fork whose template has not answered yet.
"""

from __future__ import annotations

import os

from impetusd.bare import signal
from impetusd.linux import proc
from impetusd.linux.cgroup import Cgroups
from impetusd.linux.errors import suppress
from impetusd.shim import leftovers
from impetusd.shim.log import writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from impetusd.shim.child import Child
    from impetusd.shim.loop import Loop
    from impetusd.shim.state import ShimState


class Strays:
    """Looks at the kernel's list of processes, and at `children` of the state."""

    def __init__(self, state: ShimState, loop: Loop) -> None:
        self._state = state
        self._loop = loop
        proc.children()  # opens the file that it needs

    def known(self) -> set[int]:
        """The pids of all that we have started, and have not reaped."""
        state = self._state
        supervisors = {each.pid for each in (state.supervisor, *state.corpses) if each is not None}
        return state.mains() | supervisors | {state.trial_pid, writer()}

    def pids(self) -> list[int]:
        """Those of the strays."""
        known = self.known()
        return [pid for pid in proc.children() if pid not in known]

    def has_rest(self, child: Child) -> bool:
        """Whether anything of its tree lives. Where that cannot be seen, True: another sweep looks again."""
        try:
            return self._loop.with_spares(lambda: self._lives_on(child))
        except OSError:
            self._state.sweep_due = True
            return True

    def _lives_on(self, child: Child) -> bool:
        if child.cgroup:
            return Cgroups.populated(child.cgroup) and not self._state.mains().issuperset(Cgroups.members(child.cgroup))
        return bool(self.pids() or not child.is_child) and bool(self._rest(child))

    def _rest(self, child: Child) -> list[proc.Member]:
        """The descendants of a child without a cgroup."""
        processes = proc.snapshot()
        mains = self._state.mains()
        main = processes.get(child.pid)
        # Of a killed shim's child somebody else reaps the main process: the pid may be a stranger's then.
        is_its = main is not None and (child.is_child or main.started == child.started)
        own = [member.pid for member in processes.values() if is_its and member.parent == child.pid]
        own += [pid for pid, started in child.known.items() if pid in processes and processes[pid].started == started]
        # Orphans are children of the shim, unless another shim was killed: then anybody may have adopted them.
        life = self._state.life
        strays = self.pids() if child.is_child else [pid for pid in processes if leftovers.is_marked(pid, life)]
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
        found = {member.pid: member for member in proc.descendants(own, processes, mains)}
        # While it dies, a process has no environment any more, and its sockets are still open: with much memory, for a second.
        child.known = {member.pid: member.started for member in found.values()}
        return list(found.values())

    def signal(self, child: Child, number: int, scope: str) -> None:
        """Signal a process (`main`), its descendants (`rest`), or both (`tree`)."""
        if number == signal.SIGKILL:
            child.kill_tree = child.kill_tree or scope == "tree"
            self._state.touch(child)
        if child.ended is None and child.pid and not child.cgroup:  # by its parent alone some are known
            child.known = self._loop.with_spares(lambda: _known(child))
        if scope in {"main", "tree"} and child.ended is None and child.pidfd >= 0:
            with suppress(ProcessLookupError):  # somebody else has reaped it
                signal.pidfd_send_signal(child.pidfd, number)
            child.killed = child.killed or number == signal.SIGKILL
        if scope in {"rest", "tree"}:
            child.tree_signalled = self._state.sweep_due = True
            self._signal_rest(child, number)

    def _signal_rest(self, child: Child, number: int) -> None:
        self._loop.with_spares(lambda: self._signal_found(child, number))

    def _signal_found(self, child: Child, number: int) -> None:
        if child.cgroup:
            mains = self._state.mains()  # also of a worker that was not moved out of its template's cgroup yet
            if child.kill_tree:
                mains.discard(child.pid)
            pids = Cgroups.members(child.cgroup)
            killed = number == signal.SIGKILL and mains.isdisjoint(pids) and Cgroups.kill(child.cgroup)
            found = [member for pid in pids if pid not in mains and (member := proc.read(pid))]
            if killed:
                found = [member for member in found if member.headless]  # Linux 6.18 leaves these out
        else:
            found = self._rest(child)
        for member in found:
            proc.send(member, number)

    def sweep(self, check_end: Callable[[Child], None]) -> None:
        """After SIGCHLD: reap strays, and see whose tree has become empty.

        `check_end` looks whether a child has ended that the kernel does not have as a child of ours.
        """
        state = self._state
        failed: Exception | None = None
        state.sweep_due = False
        try:
            strays = self.pids() if not state.forking else []
        except OSError:  # nothing is left to look with
            state.sweep_due = True
            return
        for pid in strays:
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                pass
            except Exception as error:
                state.sweep_due, failed = True, error
        for child in list(state.children.values()):
            try:
                if child.seen and child.ended is None:
                    check_end(child)
                if child.left:
                    self._sweep_tree(child)
            except Exception as error:  # the others have their turn
                state.sweep_due = True
                failed = failed or error
        if failed is not None:
            raise failed

    def _sweep_tree(self, child: Child) -> None:
        state = self._state
        if self.has_rest(child):
            if child.kill_tree:
                self._signal_rest(child, signal.SIGKILL)
            # No SIGCHLD comes when one ends that was moved into the cgroup, or that another process has adopted.
            state.sweep_due = state.sweep_due or child.tree_signalled or not child.is_child
            return
        state.touch(child)
        state.emit({"event": "gone", "process": child.process})
        child.left = False
        state.forget_if_done(child)


def _known(child: Child) -> dict[int, int]:
    """Of a child that lives: what is below it, and what was found of its tree before and lives. Start times by pid."""
    below = {member.pid: member.started for member in proc.below(child.pid)}
    before = {pid: started for pid, started in child.known.items() if pid not in below and proc.lives((pid, started))}
    return {**before, **below}
