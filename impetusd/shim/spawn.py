"""From a fork to the program: the child's side of a start, one named stage after another.

The order is fixed (groups before gid before uid; privileges last): a stage that fails is reported by
its name through a close-on-exec pipe and the child ends. It never runs with a part of what was asked.

A spec is a dict:
    argv, env, cwd         env is complete: nothing is inherited
    fds                    {number in the child: descriptor in the shim}
    listen                 how many of them, from 3 on, are listening sockets: LISTEN_PID is set
    uid, gid, groups       all three or none
    capabilities           numbers of those that it has, exactly; missing: root's as the shim's, another user's none
    no_new_privs           missing: for another user than root
    stop                   [signal, seconds until SIGKILL, treekill], for the end without a supervisor; may be missing
    terminal               number in the child of the terminal that is to control its session; may be missing
    umask, nice, oom_score_adj, affinity, rlimits [[name, soft, hard]]
    cgroup                 path of a cgroup directory, or ""
    limits                 {file of its cgroup: text}, which are set before it starts; may be missing
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from os import dup2

from impetusd.bare import signal
from impetusd.linux import clone, libc
from impetusd.linux.errors import suppress
from impetusd.shim import failures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, TypeAlias

    Stage: TypeAlias = tuple[str, object, Callable[[], Any]]  # its name in `core.reasons`, what it is about, the deed
    Targets: TypeAlias = list[tuple[int, int]]  # a descriptor of ours, and its number in the child
    Moves: TypeAlias = tuple[int, Targets]

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # what a child ends with whose program cannot be executed: as of a shell
TIOCSCTTY = 0x540E  # of asm-generic/ioctls.h; for one number the module termios need not be imported
PR_SET_CHILD_SUBREAPER = 36
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
CAPABILITY_VERSION_3 = 0x20080522
REPORTED = 6  # fields of what a child reports
SIGNALS = tuple(map(int, signal.valid_signals()))
# Of a spec, for what belongs to impetusd itself.
PLAIN = {"cwd": "/", "umask": 0o022, "nice": 0, "oom_score_adj": 0, "affinity": [], "rlimits": [], "cgroup": ""}

_prctl, _capset = map(libc.function, ("prctl", "capset"))


def prctl(option: int, *arguments: int) -> None:
    """prctl(2). Raises OSError."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if _prctl(option, *(libc.c_ulong(value) for value in padded)) != 0:
        raise libc.error()


def oom_score() -> int:
    """Our oom_score_adj."""
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


def start(spec: dict[str, Any]) -> tuple[int, int]:
    """Fork the child that `spec` describes. Returns (pid, status descriptor).

    The descriptor becomes readable when the child has become the program (end of file) or has failed: see `failure`.
    Raises OSError when there cannot be another process.
    """
    status, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before, pid = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS), 0
    try:
        try:
            stages, moves = _stages(spec), _moves(spec["fds"], report)
            pid, joined = fork(spec["cgroup"])
            if pid == 0:
                try:
                    _child(spec, stages, moves, report, joined=joined)
                finally:
                    os._exit(1)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(report)
    except BaseException:
        if pid:  # whoever asked does not hear of it
            os.kill(pid, signal.SIGKILL)
        os.close(status)
        raise
    return pid, status


def fork(cgroup: str) -> tuple[int, bool]:
    """(pid, whether the child was born in the cgroup). Where clone3 does not go, the child has to join by itself."""
    try:
        return clone.fork(cgroup), True
    except OSError:
        return os.fork(), not cgroup


def failure(status: int) -> dict[str, Any] | None:
    """What a child wrote before it gave up, as `failures.failed`; None when it became the program.

    A shim that has upgraded itself may find what one of the first version wrote: a sentence of the stage, and one of why.
    """
    with suppress(BlockingIOError):
        fields = os.read(status, 16384).decode("utf-8", "replace").split("\0")
        if len(fields) == REPORTED:
            stage, _, key, number, said, what = fields
            if key == "os_error":
                cause = failures.of_errno(int(number), said)
            else:
                cause = failures.because(key, **{"text" if key == "text" else "name": said})
            return failures.failed(stage, cause, what)
        if fields[0]:
            return {"stage": fields[0], "error": "\0".join(fields[1:])}
    return None


def _child(spec: dict[str, Any], stages: list[Stage], moves: Moves, report: int, *, joined: bool) -> NoReturn:
    """Never returns: a child that returned would continue as a second shim."""
    stage: str = "descriptors"
    what: object = ""
    code = 1
    try:
        ceiling, targets = moves
        if ceiling:
            report, targets = _move_aside(ceiling, targets, report)
        for fd, number in targets:
            dup2(fd, number)
        if not joined:
            stage, what = "cgroup", spec["cgroup"]
            _join(spec["cgroup"])
        for stage, what, act in stages:  # noqa: B007  # for the one that fails
            act()
    except BaseException as error:
        if stage == stages[-1][0]:
            code = NOT_FOUND if isinstance(error, FileNotFoundError | NotADirectoryError) else NOT_EXECUTABLE
        with suppress(BaseException):
            text = f"{stage}\0\0{_cause(error, stage, spec)}\0{what}"
            os.write(report, text.encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)


def _cause(error: BaseException, stage: str, spec: dict[str, Any]) -> str:
    """Key, errno, and what is said of it, each ended by a zero but the last."""
    number = (isinstance(error, OSError) and error.errno) or 0
    if stage == "exec" and number in {errno.ENOENT, errno.ENOTDIR}:
        name = spec["argv"][0]
        if any(os.path.exists(place) for place in _places(name, spec["env"])):
            return f"no_interpreter\0{number}\0{name}"
        return f"{'no_file' if '/' in name else 'no_program'}\0{number}\0{name}"
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
    return f"{'os_error' if number else 'text'}\0{number}\0{said}"


def _stages(spec: dict[str, Any]) -> list[Stage]:
    """What is to be done after the fork, each with its name, in the order in which it must happen.

    Made before the fork: whatever a child touches for the first time is a page fault, 2 µs each and 400 of them before.
    """
    env, argv, limits = spec["env"], spec["argv"], spec["rlimits"]
    umask, nice, cpus, cwd, score = (spec[key] for key in ("umask", "nice", "affinity", "cwd", "oom_score_adj"))
    places = _places(argv[0], env)
    handled = [number for number in SIGNALS if signal.getsignal(number) not in {signal.SIG_DFL, None}]
    stages: list[Stage] = [("session", "", os.setsid)]
    if "terminal" in spec:
        terminal = spec["terminal"]
        stages.append(("terminal", "", lambda: fcntl.ioctl(terminal, TIOCSCTTY, 0)))
    stages += [
        ("oom_score_adj", score, lambda: _set_oom_score(score)),
        ("umask", "", lambda: os.umask(umask)),
    ]
    if nice:
        stages.append(("nice", nice, lambda: os.setpriority(os.PRIO_PROCESS, 0, nice)))
    if cpus:
        stages.append(("cpu_affinity", "", lambda: os.sched_setaffinity(0, cpus)))
    return [
        *stages,
        ("rlimits", "", lambda: _set_rlimits(limits)),
        ("cwd", cwd, lambda: os.chdir(cwd)),
        *_identity(spec),
        ("signals", "", lambda: _reset_signals(handled)),
        ("exec", argv[0], lambda: _execute(places, argv, env, spec.get("listen", 0))),
    ]


def _identity(spec: dict[str, Any]) -> list[Stage]:
    """Set the child's user, groups and privileges. Groups before gid before uid: the first needs what the last gives
    up.

    Another user than root gets no capabilities and no new privileges, unless the spec says so: `capabilities` are exactly those
    that it has, and `no_new_privs` false leaves it what sudo, ping and the like need.
    """
    uid = spec.get("uid")
    other = uid not in {None, 0}
    kept, bound = spec.get("capabilities"), spec.get("no_new_privs")
    stages: list[Stage] = []
    if uid is not None:
        groups = spec["groups"]
        stages.append(("groups", groups, lambda: os.setgroups(groups)))
    if bound is not False if other else kept is not None:
        last, keep = _last_capability(), frozenset(kept or ())
        stages.append(("drop_capabilities", "", lambda: _drop_bounding_set(last, keep)))
    if uid is not None:
        gid = spec["gid"]
        if kept and other:
            stages.append(("keep_capabilities", "", lambda: prctl(PR_SET_KEEPCAPS, 1)))
        stages += [
            ("gid", gid, lambda: os.setresgid(gid, gid, gid)),
            ("uid", uid, lambda: os.setresuid(uid, uid, uid)),
        ]
    if kept is not None or other:  # inheritable ones outlive a change of uid
        stages.append(("capabilities", "", lambda: _set_capabilities(kept or (), ambient=other)))
    if bound or (bound is None and other):
        stages.append(("no_new_privs", "", lambda: prctl(PR_SET_NO_NEW_PRIVS, 1)))
    return stages


def _join(cgroup: str) -> None:
    """As _set_oom_score: a text file may import its encoding, and nothing is to be imported here."""
    fd = os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


def _set_oom_score(score: int) -> None:
    """Raw calls, for this is on the way of each start: a text file costs ten times as much."""
    fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    try:
        if int(os.read(fd, 16)) != score:
            os.write(fd, str(score).encode())
    finally:
        os.close(fd)


def _set_rlimits(limits: list[tuple[str, int, int]]) -> None:
    for name, soft, hard in limits:
        limit = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if limit is None:
            raise OSError(errno.EINVAL, f"{name} is not a resource limit of this system")
        try:
            resource.setrlimit(limit, (soft, hard))
        except (OSError, ValueError, OverflowError) as error:
            raise OSError(errno.EPERM, f"{name}={soft}:{hard}: {error}") from error


def _moves(fds: dict[str, int], report: int) -> Moves:
    """What to put at which number. All others close by themselves when the program is executed: the shim has none that is not
    close-on-exec.

    The ceiling is the number above all of them if something lies below, which `_move_aside` has to copy first; else 0. That
    happens to the first few descriptors of a shim alone, and is a third of what a child would touch for the first time.
    """
    targets = [(fd, int(number)) for number, fd in fds.items()]
    ceiling = 1 + max(number for _, number in targets)
    return 0 if min(report, *(fd for fd, _ in targets)) >= ceiling else ceiling, targets


def _move_aside(ceiling: int, targets: Targets, report: int) -> tuple[int, Targets]:
    """Copy what lies below the ceiling above it, so that no dup2 overwrites one that is still to be moved."""

    def aside(fd: int) -> int:
        return fd if fd >= ceiling else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, ceiling)

    return aside(report), [(aside(fd), number) for fd, number in targets]


def _last_capability() -> int:
    """The highest that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def _drop_bounding_set(last: int, keep: frozenset[int]) -> None:
    for capability in range(last + 1):
        if capability not in keep:
            prctl(PR_CAPBSET_DROP, capability)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def _set_capabilities(kept: Sequence[int], *, ambient: bool) -> None:
    """Exactly these. `ambient`: also over the execution of a program of a user that is not root."""
    header = (libc.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    low, high = (sum(1 << number % 32 for number in kept if number // 32 == half) for half in (0, 1))
    if _capset(header, (libc.c_uint32 * 6)(low, low, low, high, high, high)) != 0:
        raise libc.error()
    for capability in kept if ambient else ():
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _reset_signals(handled: list[int]) -> None:
    """Ignored and blocked signals are inherited over exec: the program starts with none.

    Handlers end with exec, but a signal that has come meanwhile must find none: the shim's would swallow it.
    """
    for number in handled:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _places(name: str, env: dict[str, str]) -> list[str]:
    """The paths at which a program is searched."""
    return [name] if "/" in name else [os.path.join(folder, name) for folder in env.get("PATH", os.defpath).split(":")]


def _execute(places: list[str], argv: list[str], env: dict[str, str], listen: int) -> NoReturn:
    """As os.execvpe, which imports a module first: that may lie where the child's user may not read."""
    if listen:
        env = {**env, "LISTEN_PID": str(os.getpid())}
    failure: OSError | None = None
    for place in places:
        try:
            os.execve(place, argv, env)  # noqa: S606  # no shell is wanted
        except (FileNotFoundError, NotADirectoryError) as error:
            failure = failure or error
        except PermissionError as error:  # reported rather than that another place does not have it
            failure = error if failure is None or not isinstance(failure, PermissionError) else failure
    raise failure or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
