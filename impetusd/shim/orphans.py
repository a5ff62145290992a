"""Take over processes of a killed shim, which are no longer children of this process.

They are found by the table that it wrote (`shim.table`), each by pid and start time, and held by a pidfd: no signal can hit a
stranger. The kernel says how one of them ended (PIDFD_GET_INFO, Linux 6.15), once whoever adopted it has reaped it.
Descriptors were passed on to this process (by the supervisor that has become it, or by systemd's store), or are found in
the survivors: see `shim.descriptors`.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time

from impetusd.bare import signal
from impetusd.linux import proc, procfs
from impetusd.linux.cgroup import Cgroups
from impetusd.linux.errors import suppress
from impetusd.shim import descriptors, leftovers, table, wire
from impetusd.shim.child import Child
from impetusd.shim.leftovers import MARK
from impetusd.shim.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from impetusd.shim.state import ShimState

REAPED_WITHIN = 1.5  # seconds after an end in which whoever adopted the process should have reaped it: an init may poll
GONE_WITHIN = 2.0  # seconds that the supervisor of a dead shim has to end by itself
JUST_NOW = 0.05  # seconds by which two clocks, and a start time in ticks, may differ
# linux/pidfd.h: struct pidfd_info of 64 bytes, _IOWR(0xFF, 11), and in it the mask and the status of wait(2).
SHUT = -2  # a gate that the death of its shim has closed, unless it had been opened just before
WORKER = [b"impetusd.worker", b"template"]  # the end of a template's command line
EX_UNBORN = 79  # the exit of a worker that waits there; worker/template.py has it, too
_INFO = struct.Struct("=Q52xi")
_GET_INFO = 0xC0000000 | _INFO.size << 16 | 0xFF << 8 | 11
_EXIT = 1 << 3


def take_over(state: ShimState, saved: dict[str, Any], given: Iterable[int]) -> descriptors.Search:
    """Fill `state`, which is new, with the table's content `saved`, and hold what is left. `given` are descriptors that were passed on.

    Those of `given` that the table does not know are closed. Returns what was found of the descriptors.
    """
    state.blobs, state.shutdown = saved["blobs"], saved["shutdown"]
    saved["kept"].pop("lock", None)  # it has been taken
    for each in saved["children"].values():
        child = state.children[each["process"]] = Child.load(each)
        child.is_child, child.pidfd, child.status = False, -1, -1
        child.gate = SHUT if child.gate >= 0 else -1
        _find(child)
    search = descriptors.Search(saved["kept"])
    search.among(given)
    search.within(child for child in state.children.values() if child.pidfd >= 0)
    state.kept.update(search.found)
    return search


def report(state: ShimState, saved: dict[str, Any], search: descriptors.Search, killed: Iterable[proc.Member]) -> None:
    """Log what was taken over, what is lost, and what was killed: see `unknown`."""
    alive = sum(child.pidfd >= 0 for child in state.children.values())
    lost = ", ".join(sorted(saved["kept"].keys() - search.found.keys() - {wire.PAGE}))
    barred = f" (not permitted without CAP_SYS_PTRACE: {', '.join(map(str, search.barred))})" if search.barred else ""
    pids = ", ".join(str(member.pid) for member in killed)
    log(
        f"the previous shim (pid {saved['shim'][0]}) was killed: {leftovers.counted(alive)} {'is' if alive == 1 else 'are'} still running"
        + (f"; lost: {lost}{barred}" if lost else "")
        + (f"; killed processes whose start was not complete: {pids}" if pids else "")
    )


def _find(child: Child) -> None:
    """Open the process's pidfd, if it is still there; else it has ended, and how is not known."""
    pid, child.pid = child.pid, 0
    if child.ended is not None:
        return
    if pid:
        with suppress(OSError):
            pidfd = os.pidfd_open(pid)
            member = proc.read(pid)
            if member is not None and member.started == child.started:
                child.pid, child.pidfd = pid, pidfd
                return
            os.close(pidfd)
    child.ended = ended()


def ended(status: int | None = None) -> dict[str, Any]:
    """An `exited` event for a process; without the `status` of wait(2), its exit status is unknown."""
    how: dict[str, Any]
    if status is None:
        how = {"unknown": True}
    elif os.WIFEXITED(status):
        how = {"code": os.WEXITSTATUS(status)}
    else:
        how = {"signal": os.WTERMSIG(status), "core": os.WCOREDUMP(status)}
    return {**how, "at": time.time()}


def ends_with_shim(child: Child, status: int | None) -> bool:
    """Whether it has ended because the shim had that started it."""
    unborn = child.gate == SHUT and status is not None and os.WIFEXITED(status) and os.WEXITSTATUS(status) == EX_UNBORN
    return child.template or unborn


def status_of(pidfd: int) -> int | None:
    """The status of wait(2) of a process that was reaped by somebody else; None: not reaped yet, or not to be known."""
    buffer = bytearray(_INFO.pack(_EXIT, 0))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, buffer)
    except OSError:
        return None
    mask, status = _INFO.unpack(buffer)
    return status if mask & _EXIT else None


def status_of_zombie(child: Child) -> int | None:
    """The status of wait(2) of one that nobody has reaped yet; None: it has been, or we may not know.

    As the last field of /proc/PID/stat, which is 0 for whoever might not trace the process.
    """
    fields = procfs.fields(child.pid)
    if fields[:1] != [b"Z"] or int(fields[19]) != child.started or len(fields) < 50:
        return None
    status = int(fields[49])
    return status if status or proc.is_our_equal(child.pid) or proc.may_trace() else None


def unknown(saved: dict[str, Any], state_dir: str) -> list[proc.Member]:
    """Processes that the dead shim had started, as their environment says, and that its table does not know.

    A forked worker has the environment of its template, which may be gone from the table, or be there without it: it counts
    by what it is. A table of a life before the last one knows nobody. A child of the shim's has an INVOCATION_ID, and is in no other's
    cgroup: what a program starts may have lost that one's, or have another.
    """
    lives = {saved["life"], leftovers.marks(state_dir)[0]} - {""}
    children = list(saved["children"].values())
    templates = {child["invocation"] for child in children if child.get("template")}
    invocations, sessions = ({child[key] for child in children} for key in ("invocation", "session"))
    processes = proc.snapshot()
    known = {member.pid for member in proc.descendants([child["pid"] for child in children], processes, set())}
    for child in children:  # the cgroup of one that has ended may be its successor's
        member = processes.get(child["pid"])
        if child["cgroup"] and member is not None and member.started == child["started"] and not member.zombie:
            known.update(Cgroups.members(child["cgroup"]))
    return [
        member
        for member in processes.values()
        if member.pid not in known
        and member.session not in sessions
        and proc.variable(member.pid, MARK) in lives
        and ((own := proc.invocation(member.pid)) not in {*invocations, ""} or (own in templates and is_worker(member)))
    ]


def is_worker(member: proc.Member) -> bool:
    """Whether it is a worker that a template has forked: its command line is still the template's, its session its own."""
    return member.session == member.pid and proc.command_line(member.pid)[-2:] == WORKER


def overlooked(found: table.Found, strays: Iterable[proc.Member]) -> list[proc.Member]:
    """Those of `strays` (see `unknown`) that show that the table is not whole: older than its last line, or of a later life."""
    if found.saved is None:
        return []
    written, life = time.time() - found.written, found.saved["life"]
    return [
        member
        for member in strays
        if proc.age(member) > written + JUST_NOW or not leftovers.is_marked(member.pid, life)
    ]


def forgotten(found: table.Found, state_dir: str) -> list[proc.Member]:
    """Processes of a shim that was killed, where its table cannot be used; those in a dead shim's of another instance, too."""
    left = {member.pid: member for member in leftovers.search(state_dir)}
    if found.other is not None and not proc.lives(found.other["shim"]):
        left |= {member.pid: member for member in of_table(found.other, proc.snapshot())}
    return list(left.values())


def of_table(saved: dict[str, Any], processes: dict[int, proc.Member]) -> list[proc.Member]:
    """The processes that are in a dead shim's table, in its cgroups or marked by its life, and what belongs to them."""
    pids = {pid for pid in processes if leftovers.is_marked(pid, saved["life"])}
    for child in saved["children"].values():
        member = processes.get(child["pid"])
        if member is not None and member.started == child["started"]:
            pids.add(member.pid)
        pids.update(Cgroups.members(child["cgroup"]) if child["cgroup"] else ())
    return leftovers.family(pids, processes)


def evict_stale_supervisor(saved: dict[str, Any]) -> None:
    """The lock is held though the shim is dead: by its supervisor, which ends when it sees that. One that hangs is killed."""
    shim, supervisor = saved["shim"], saved["supervisor"]
    if proc.lives(shim) or not supervisor or supervisor[0] == os.getpid() or not proc.lives(supervisor):
        return  # it may have become this process
    with suppress(OSError):
        pidfd = os.pidfd_open(supervisor[0])
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(GONE_WITHIN * 1000) and proc.lives(supervisor):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll.poll(GONE_WITHIN * 1000)
        finally:
            os.close(pidfd)
