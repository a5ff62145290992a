"""Workers that a template forks: requested on its socket, adopted when it answers, and let go once they are written down.

A worker waits at its *gate*, a pipe, until the table has its pid: if the shim is killed before that, nobody would know the
worker, so it ends instead of beginning. See `worker.template`.
"""

from __future__ import annotations

import os
import select

from impetusd import bare
from impetusd.bare import socket
from impetusd.linux import proc, procfs
from impetusd.linux.cgroup import Cgroups
from impetusd.shim import failures, wire
from impetusd.shim.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from impetusd.shim.child import Child
    from impetusd.shim.loop import Loop
    from impetusd.shim.state import ShimState
    from impetusd.shim.store import Store
    from impetusd.shim.strays import Strays

MOST_ERRNO = 4096  # of the kernel's: MAX_ERRNO in linux/err.h


class Forks:
    """Changes `forking` and `forked` of the state."""

    def __init__(self, state: ShimState, loop: Loop, store: Store, strays: Strays) -> None:
        self._state = state
        self._loop = loop
        self._store = store
        self._strays = strays

    def request(self, child: Child, template: Child | None, spec: dict[str, Any]) -> None:
        """Ask `template` to fork `child`. If that cannot be, `child` is a failed start."""
        if template is None or template.forks is None:
            self._state.fail_start(child, "fork", failures.because("template_gone"))
            return
        theirs = -1
        try:
            asked = proc.now()
            fds = [self._store.find(name) for name in spec["fds"]]
            theirs, child.gate = self._loop.with_spares(lambda: os.pipe2(os.O_CLOEXEC))
            request = bare.dumps({"id": str(child.process), "env": spec["env"], "gate": True}).encode()
            fds.append(theirs)
            wire.send_packet(template.forks, request, fds)
        except (BrokenPipeError, ConnectionResetError):
            self._state.fail_start(child, "fork", failures.because("template_ended"))
            return
        except OSError as error:
            cause = failures.because("template_mute", cause=failures.of_error(error))
            self._state.fail_start(child, "fork", cause)
            return
        except Exception as error:  # whatever is wrong with the spec, the supervisor learns of an end
            self._state.fail_start(child, "fork", failures.of_error(error))
            return
        finally:
            if theirs >= 0:
                os.close(theirs)
        child.forks = template.forks  # until the answer: marks whose answer it is
        child.asked = asked
        self._state.forking[child.process] = child

    def read_answers(self, template: Child, register: Callable[[Child], None]) -> None:
        """Adopt what the template forked, and pass each to `register`. When the answer comes, it is the shim's child."""
        while template.forks is not None:
            try:
                answer = template.forks.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:  # once from a peer that died, ahead of what it had sent
                continue
            except OSError:
                answer = b""
            if not answer:
                self.close(template)
                return
            try:
                self._adopt(template, bare.loads(answer), register)
            except Exception as error:  # whatever a template is made to send must not end all that is held here
                log(
                    f"template {template.process} sent an invalid response {answer[:200]!r} ({error!r}); not using it"
                    " for forks any more"
                )
                self.close(template, "template_senseless")

    def _adopt(self, template: Child, answer: dict[str, Any], register: Callable[[Child], None]) -> None:
        state = self._state
        process = int(answer["id"])
        child = state.forking.get(process)
        if child is None or child.forks is not template.forks:
            return
        pid = int(answer["pid"]) if "pid" in answer else 0
        del state.forking[process]
        child.forks = None
        state.sweep_due = True  # strays are not reaped while a fork is under way
        if not pid:
            state.fail_start(child, "fork", _cause_of(answer))
            return
        try:
            # Not looked up in the kernel's list of our children: that leaves some out while others end.
            foreign = self._loop.with_spares(lambda: self._why_foreign(pid, template, child))
            if foreign:
                raise ChildProcessError(0, f"the template reported pid {pid}, which is {foreign}")
            child.pidfd = os.pidfd_open(pid)
        except OSError as error:
            state.fail_start(child, "adopt", failures.of_error(error))
            return
        child.pid = pid
        state.forked.append(child)
        move_into_cgroup(child)
        register(child)

    def _why_foreign(self, pid: int, template: Child, child: Child) -> str:
        """Why `pid` cannot be what `template` forked for `child`; "" if it can. It may have ended: a zombie of ours stays.

        Nobody can say who forked a process whose parent is gone. But it has the template's user and cgroup, it is younger
        than the request, and it bears no sign of another child.
        """
        member = proc.read(pid)
        if member is None or member.parent != os.getpid() or pid in self._strays.known():
            return "another child's" if pid in self._state.mains() else "not a child of the shim"
        if member.started < child.asked:
            return "older than the request"
        if procfs.rights(pid) != procfs.rights(template.pid):
            return "not owned by the template's user"
        if template.cgroup:
            place, own = proc.place(pid), proc.place(template.pid)
            return "" if place == own or place.startswith(own + b"/") else "not in the template's cgroup"
        invocation = proc.invocation(pid)
        for other in self._state.children.values():
            if other not in {template, child} and other.session and other.session in {member.session, member.group}:
                return "in the session of another child"
            if invocation and other.invocation == invocation != template.invocation:
                return "from the invocation of another child"
        return ""

    def close(self, template: Child, why: str = "template_ended") -> None:
        """No more forks of this template: those without an answer are failed starts."""
        if template.forks is None:
            return
        for process, child in list(self._state.forking.items()):
            if child.forks is template.forks:
                del self._state.forking[process]
                child.forks = None
                self._state.fail_start(child, "fork", failures.because(why))
        self._loop.unwatch(template.forks.fileno())
        template.forks.close()
        template.forks = None
        self._state.sweep_due = True  # one that was forked without an answer is a stray now

    def open_gates(self) -> None:
        """The table has the pids of what was forked: let them begin."""
        while self._state.forked:
            self._state.forked.pop().close_gate(b"\n")


def move_into_cgroup(child: Child) -> None:
    """Have a forked worker moved by a process of its own, since a move takes 10 ms: see `linux.clone`."""
    try:
        mover = os.fork() if child.cgroup else -1
    except OSError:
        Cgroups.remove(child.cgroup)
        child.cgroup = ""
        return
    if mover == 0:
        try:
            gone = select.poll()
            gone.register(child.pidfd, select.POLLIN)
            if not gone.poll(0):  # a pid whose process has ended may soon be somebody else's
                Cgroups.add(child.cgroup, child.pid)
        finally:
            os._exit(0)


def _cause_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The cause that a template's answer gives for a fork that failed."""
    said, number = str(answer.get("error")), answer.get("errno")
    if type(number) is int and 0 < number < MOST_ERRNO:
        return failures.of_errno(number, said)
    return failures.because("text", text=said)
