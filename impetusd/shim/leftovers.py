"""Find processes left by a killed impetusd without its table, which may be missing.

The table in run_dir can be lost (removed, damaged, another instance's). Three things remain: a file in state_dir that says
whether the last life ended in order; the cgroups of the instance, which carry its name; and the mark in the environment of
each process, with all that descends from one or shares its session. Without a cgroup, a program that overwrites its
environment is found as a descendant or not at all.

The file `life` in state_dir:
    version, boot      of this format, and of the host
    life               the mark of the processes of this life (see `shim.table`); it begins with the instance's name
    over               whether that life has ended in order: what still runs was spared on purpose (treekill = no)
"""

from __future__ import annotations

import os
import time

from impetusd import bare
from impetusd.bare import signal
from impetusd.linux import proc
from impetusd.linux.cgroup import cgroup_of
from impetusd.linux.errors import suppress
from impetusd.linux.procfs import boot_id, pids
from impetusd.shim.log import call_it_writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MARK = "IMPETUSD_DAEMON"  # in the environment of each child: the `life` of the shim that started it
NAME = "life"
VERSION = 1
SHOWN = 8  # processes that a message names


def instance(state_dir: str) -> str:
    """The name of the instance that lives in `state_dir`: DEVICE-INODE. Raises OSError."""
    found = os.stat(state_dir)
    return f"{found.st_dev}-{found.st_ino}"


def group_name(state_dir: str) -> str:
    """The name of the cgroup that holds the instance's programs, wherever it is. Raises OSError."""
    return f"impetusd-{instance(state_dir)}"


def new_life(state_dir: str) -> str:
    """A mark that no other life has. It begins with the name of the instance, so whose it is need not be remembered."""
    return f"{instance(state_dir)}-{os.urandom(8).hex()}"


def is_marked(pid: int, life: str) -> bool:
    """Whether a process was started by a shim of this life, or is a descendant of one that was."""
    return proc.variable(pid, MARK) == life


def write(state_dir: str, life: str, *, over: bool) -> None:
    """Remember the life that is under way, or that it has ended in order. Raises OSError."""
    path = f"{state_dir}/{NAME}"
    text = bare.dumps({"version": VERSION, "boot": boot_id(), "life": life, "over": over})
    with suppress(FileNotFoundError):
        os.unlink(f"{path}.new")
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def begin(state_dir: str, life: str) -> None:
    """Remember the life that is under way, unless that is done: a shim that goes on with it waits for no disk. Raises OSError."""
    if marks(state_dir) != (life, ""):
        write(state_dir, life, over=False)


def end(state_dir: str, life: str, lock: int, within: float) -> None:
    """Remember that the life has ended in order, in a process of its own, which is waited for so many seconds.

    Of what is held that one keeps the `lock` alone: while a disk hangs no other life begins, which it would take for over.
    Raises OSError.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        writer = os.fork()
        if writer == 0:
            try:
                os.closerange(3, lock)
                os.closerange(lock + 1, 1 << 20)
                call_it_writer()
                write(state_dir, life, over=True)
            finally:
                os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    until = time.monotonic() + within
    while os.waitpid(writer, os.WNOHANG)[0] == 0 and time.monotonic() < until:
        time.sleep(0.001)


def marks(state_dir: str) -> tuple[str, str]:
    """(mark, beginning of a mark) of processes that may have been left, each "" where that is not looked for.

    Both are "" where the last life ended in order, or before this boot. Only a mark of this instance may be known by its
    beginning: who may write to another's state_dir must not have root look for others.
    """
    try:
        with open(f"{state_dir}/{NAME}", encoding="ascii") as file:
            saved = bare.loads(file.read(4096))
        life, boot, over = saved["life"], saved["boot"], saved["over"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        life, boot, over = "", boot_id(), False  # nothing is remembered: any life
    if boot != boot_id() or over is True:
        return "", ""
    return (life, "") if isinstance(life, str) and life else ("", f"{instance(state_dir)}-")


def search(state_dir: str) -> list[proc.Member]:
    """The processes that the instance's last life has left, without a look at its table. Raises OSError."""
    mark, beginning = marks(state_dir)
    if not (mark or beginning):
        return []
    group = group_name(state_dir)
    owners: dict[str, bool] = {}
    found = set()
    for pid in pids():
        own = proc.variable(pid, MARK)
        if (own and (own == mark or (beginning and own.startswith(beginning)))) or group_of(pid, group, owners):
            found.add(pid)
    return family(found, proc.snapshot()) if found else []


def group_of(pid: int, name: str, owners: dict[str, bool]) -> str:
    """The cgroup called `name` that `pid` is in or below; "" unless root or this user has made it: others may call theirs so.

    `owners` remembers which are.
    """
    before, slash, _ = f"{cgroup_of(pid)}/".partition(f"/{name}/")
    folder = f"{before}/{name}"
    if slash and folder not in owners:
        with suppress(OSError):
            owners[folder] = os.stat(folder).st_uid in {0, os.geteuid()}
    return folder if slash and owners.get(folder) else ""


def family(found: Iterable[int], processes: Mapping[int, proc.Member]) -> list[proc.Member]:
    """Those of `found` that live, all that shares a session with one or descends from one; not this process's own line."""
    own = proc.own_line()
    found = {pid for pid in found if pid in processes and pid not in own}
    sessions = {processes[pid].session for pid in found} - {
        0,
        *(processes[pid].session for pid in own & processes.keys()),
    }
    found |= {member.pid for member in processes.values() if member.session in sessions}
    return list({member.pid: member for member in proc.descendants(found, processes, own)}.values())


def named(members: Iterable[proc.Member]) -> str:
    """The processes, as an operator knows them: `api:0 (pid 12), pid 13 and 5 more`."""
    members = list(members)
    shown = []
    for member in members[:SHOWN]:
        name = proc.variable(member.pid, "IMPETUSD_NAME")
        shown.append(f"{name} (pid {member.pid})" if name.isprintable() and name else f"pid {member.pid}")
    more = len(members) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def counted(number: int) -> str:
    """As "1 process"."""
    return f"{number} process{'' if number == 1 else 'es'}"


def refusal(members: Iterable[proc.Member], why: str, conf: str) -> str:
    """Why nothing is started, and what to do. `why`: what is wrong with the table."""
    members = list(members)
    are = "is" if len(members) == 1 else "are"
    return (
        f"{counted(len(members))} of a killed impetusd {are} still running and cannot be taken over, because {why}: {named(members)}."
        f" Nothing was started. Stop them with: impetusd -c {conf} stop; then start again"
    )
