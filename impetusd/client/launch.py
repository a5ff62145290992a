"""Starts the daemon and finds out when it is up and when it is gone.

Any number of `impetusd start` may run at once. They take turns (a lock in the state directory), so that one starts the
daemon and the others find it; and a shim that found the state directory taken ends with status 75, which means "look
again", not "failed".

The daemon is forked twice. The process in the middle stays as a witness until the launcher has its answer: as the
shim's parent, only it can get the shim's exit status. When the launcher is done or killed, the witness exits, and init
adopts the shim.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import stat
import sys
import time

from impetusd.client import control, daemons, instance
from impetusd.client.control import NO_ROOM, ControlError, Hooks, NotRunning
from impetusd.core.protocol import EXIT_FAILED, EXIT_OCCUPIED
from impetusd.files.folders import open_file, open_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from impetusd.core.config.location import Paths

TAKEN = 75  # the shim's exit status when another one holds the state directory: sysexits.h EX_TEMPFAIL
UP_WITHIN = 30.0  # seconds from the launch to the first answer; measured on an idle machine: 0.1
ENDED_WITHIN = 300.0  # seconds from a signal to the end of the shim: the longest kill_timeout is in it
GONE_WITHIN = 10.0  # seconds from the supervisor's last word to the end of the shim
LETTING_GO = 1.0  # seconds that a process which ends may hold its lock after it cannot be recognized any more
_LOOK_AGAIN = 0.02
_TURNS = "start.lock"  # in state_dir: held while a daemon is being started
# Bytes that must be written there before anything runs: the control socket and the table; a lock.
_WRITTEN = {"run_dir": 16384, "state_dir": 0}
_READABLE = 0o044  # bits of a mode: by the group and by others
_MODES = {"run_dir": 0o755, "state_dir": 0o700, "log_dir": 0o750}


def make_directories(paths: Paths) -> None:
    """Make run, state and log directory where they are missing; ControlError says which could not be made, and why."""
    for field, mode in _MODES.items():
        path = getattr(paths, field)
        said = f"set another path with {field} in [impetusd]"
        try:
            folder = open_folder(path, make=mode)
        except OSError as error:
            raise ControlError(f"cannot create {field} {path}: {error.strerror}; {said}") from None
        try:
            if field == "state_dir":
                _close_to_others(folder)
            if field in _WRITTEN:
                _try_writing(folder, _WRITTEN[field])
        except OSError as error:
            raise ControlError(f"cannot write into {field} {path}: {error.strerror}; {said}") from None
        finally:
            os.close(folder)


def _close_to_others(folder: int) -> None:
    """Keep others from opening the folder, because it is what is locked. Its contents can be reached as before."""
    there = os.fstat(folder)
    if there.st_uid == os.geteuid() and there.st_mode & _READABLE:
        os.chmod(f"/proc/self/fd/{folder}", stat.S_IMODE(there.st_mode) & ~_READABLE)


def _try_writing(folder: int, size: int) -> None:
    """Make a file of `size` bytes in the folder, and remove it. Raises OSError."""
    name = f".impetusd-{os.getpid()}"
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            if size:
                os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=folder)
    except OSError as error:
        # A full disk under state_dir is reported in `status`; units still start at boot.
        if size or error.errno not in NO_ROOM:
            raise


def shim_argv(paths: Paths, *, boot: bool = False, logs: str = "files", profile: str | None = None) -> list[str]:
    """The command that is the daemon. Isolated and without site: neither the caller's environment nor cwd can affect
    it.

    `boot`: it starts units with autostart by itself, because nobody sends it `start`. `logs`: files or stdout.
    `profile`: the initial one.
    """
    shim = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "shim", "__main__.py")
    fields: dict[str, object] = {
        name: getattr(paths, name) for name in ("conf", "base_dir", "run_dir", "state_dir", "log_dir")
    }
    if boot:
        fields["boot"] = True
    if logs != "files":
        fields["logs"] = logs
    if profile is not None:
        fields["profile"] = profile
    return [sys.executable, "-I", "-S", "-X", "utf8", shim, paths.conf, json.dumps(fields)]


def run_in_foreground(paths: Paths, logs: str, profile: str | None = None) -> NoReturn:
    """Become the daemon: for containers and systemd; `logs`: files or stdout. Returns only by raising ControlError."""
    require_none(paths)
    make_directories(paths)
    argv = shim_argv(paths, boot=True, logs=logs, profile=profile)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(argv[0], argv)  # noqa: S606  # becoming it is the point
    except OSError as error:
        raise ControlError(f"cannot execute {argv[0]}: {error.strerror}") from None


def require_none(paths: Paths) -> None:
    """ControlError if a daemon lives there, or what one has left that goes by another file.

    With EXIT_OCCUPIED, unless the daemon does not answer: it will not go by itself, and nobody need try again.
    """
    control.require_rest(paths, alive=control.daemon_alive(paths))
    if not control.daemon_alive(paths) or evict_stale(paths):
        return
    pid = _shim_pid(paths)
    code = EXIT_FAILED if pid is None else EXIT_OCCUPIED
    who = "does not answer" if pid is None else f"pid {pid}"
    raise ControlError(
        f"impetusd is already running in {paths.state_dir} ({who}); to stop it: impetusd -c {paths.conf} stop", code
    )


def ensure_running(paths: Paths, hooks: Hooks | None = None, profile: str | None = None) -> bool:
    """Return once a daemon answers: True if this call started it, False if it was there. ControlError if none comes up."""
    hooks = hooks or Hooks()
    if _answers(paths, hooks):
        return False
    make_directories(paths)
    deadline = time.monotonic() + UP_WITHIN
    while True:
        with _Turn(paths, deadline, hooks):
            if _answers(paths, hooks):
                return False
            if _launch(paths, deadline, hooks, profile):
                return True
        evict_stale(paths)
        # Another daemon had the state directory when ours came: it was just ending, or was started by other means.
        # Or another command's probe of the lock was mistaken for one. Either way the next probe decides.
        if time.monotonic() > deadline:
            raise ControlError(f"{paths.state_dir} is locked by another impetusd that does not respond")
        time.sleep(_LOOK_AGAIN)


def evict_stale(paths: Paths) -> bool:
    """End a supervisor left by a killed shim that neither takes the shim's place nor ends; True if there was one.

    ControlError if the state directory is held by a process other than impetusd. Does nothing for a user who may not
    look.
    """
    if not os.access(paths.state_dir, os.R_OK):
        return False
    deadline = time.monotonic() + LETTING_GO
    while control.daemon_alive(paths):
        try:
            if daemons.evict_stale(paths):
                return True
        except OSError as error:
            raise ControlError(
                f"a supervisor without a shim has locked {paths.state_dir} and cannot be stopped: {error.strerror}"
            ) from None
        with daemons.Processes(paths) as found:
            if found or _accepts(paths):
                return False
        if time.monotonic() > deadline:
            locker = daemons.locker(paths.state_dir)
            who = f"process {locker}, which is" if locker else "a process that cannot be seen here, or is"
            raise ControlError(f"{paths.state_dir} is locked by {who} not impetusd; stop it, then try again")
        time.sleep(_LOOK_AGAIN)  # one that ends has no command any more, and the lock still
    return False


def _accepts(paths: Paths) -> bool:
    """True if a process listens on the control socket."""
    reached = control.try_connect(paths)
    if isinstance(reached, int):
        return False
    reached.close()
    return True


def end_by_signal(paths: Paths, hooks: Hooks | None = None) -> int | None:
    """Make the daemon end everything and itself, without its control socket. Its shim's pid; None if there is none."""
    with daemons.Processes(paths) as found:
        shim = next((each for each in found if each.kind == instance.SHIM), None)
        if shim is None:
            return None
        try:
            shim.signal(signal.SIGTERM)
        except OSError as error:
            raise ControlError(f"cannot stop impetusd's process {shim.pid}: {error.strerror}") from None
        end = time.monotonic() + ENDED_WITHIN
        while not shim.has_ended(_LOOK_AGAIN):
            if hooks and hooks.tick:
                hooks.tick()
            if time.monotonic() > end:
                raise ControlError(
                    f"impetusd's process {shim.pid} was sent SIGTERM and is still running after {ENDED_WITHIN:.0f} s; "
                    f"see {paths.log_file}"
                )
        return shim.pid


def wait_gone(paths: Paths, shim_pid: int | None, hooks: Hooks | None = None) -> None:
    """Return once the daemon whose shim was `shim_pid` has let go of the state directory; ControlError if it does not."""
    deadline = time.monotonic() + GONE_WITHIN
    pause = 0.001
    while control.daemon_alive(paths):
        if time.monotonic() > deadline:
            if _shim_pid(paths) not in {None, shim_pid}:
                return  # somebody has started the next one meanwhile
            if shim_pid is not None and not os.path.exists(f"/proc/{shim_pid}"):
                raise ControlError(
                    "everything has stopped and impetusd has exited, but a process that writes its last record still"
                    f" has {paths.state_dir} locked, because the disk does not respond. Until it does, impetusd"
                    " cannot be started"
                )
            raise ControlError(
                f"impetusd reported that everything has stopped, but its process {shim_pid or ''} still holds "
                f"{paths.state_dir} after {GONE_WITHIN:.0f} s; see {paths.log_file}"
            )
        if hooks and hooks.tick:
            hooks.tick()
        time.sleep(pause)
        pause = min(pause * 2, _LOOK_AGAIN)


def _answers(paths: Paths, hooks: Hooks) -> bool:
    try:
        control.call(paths, "ping", {}, hooks)
    except NotRunning:
        return False
    return True


def _shim_pid(paths: Paths) -> int | None:
    try:
        pid = control.call(paths, "ping", {})["shim"]["pid"]
    except (ControlError, KeyError, TypeError):
        return None
    return pid if isinstance(pid, int) else None


class LeftBehind(ControlError):
    """Processes left by a killed impetusd cannot be taken over; nothing was started."""


class _Turn:
    """Held while one command starts the daemon; the others wait. Ends with its holder, however that ends."""

    def __init__(self, paths: Paths, deadline: float, hooks: Hooks) -> None:
        self._path = f"{paths.state_dir}/{_TURNS}"
        self._deadline = deadline
        self._hooks = hooks
        self._fd = -1

    def __enter__(self) -> None:
        try:
            self._fd = open_file(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno in NO_ROOM:
                return  # the shims' own lock is enough: one more comes up, and ends
            raise ControlError(f"cannot open {self._path}: {error.strerror}") from None
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > self._deadline:
                    os.close(self._fd)
                    raise ControlError(
                        f"another `impetusd start` has been starting the daemon for {UP_WITHIN:.0f} s"
                    ) from None
                if self._hooks.tick:
                    self._hooks.tick()
                time.sleep(_LOOK_AGAIN)
            else:
                return

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _launch(paths: Paths, deadline: float, hooks: Hooks, profile: str | None) -> bool:
    """Start the shim and wait for the supervisor's first answer. False if the shim found the state directory taken."""
    try:
        log = open_file(paths.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    except OSError as error:
        raise ControlError(f"cannot write impetusd's log {paths.log_file}: {error.strerror}") from None
    try:
        written_before = os.fstat(log).st_size
        witness = _Witness(shim_argv(paths, profile=profile), log)
    finally:
        os.close(log)
    try:
        while True:
            status = witness.status()
            if status == TAKEN:
                return False
            if status == EXIT_OCCUPIED:
                raise LeftBehind(f"impetusd did not start{_said(paths.log_file, written_before)}")
            if status is not None:
                how = f"killed by signal {-status}" if status < 0 else f"exit {status}"
                raise ControlError(f"impetusd did not start: {how}{_said(paths.log_file, written_before)}")
            # The lock is looked at through the witness only: a probe could be in the way of the shim's own.
            reached = control.try_connect(paths)
            if not isinstance(reached, int):
                reached.close()
                if _answers(paths, hooks):
                    return True
            if time.monotonic() > deadline:
                raise ControlError(
                    f"impetusd was started but has not responded after {UP_WITHIN:.0f} s"
                    f"{_said(paths.log_file, written_before)}"
                )
            if hooks.tick:
                hooks.tick()
            witness.wait(_LOOK_AGAIN)
    finally:
        witness.dismiss()


def _said(log_file: str, since: int) -> str:
    """The last lines that were added to the log since it had `since` bytes, as the end of an error sentence."""
    try:
        with open(log_file, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if size >= since else 0, size - 16384))
            lines = file.read().decode(errors="replace").splitlines()[-20:]
    except OSError:
        lines = []
    if not lines:
        return f"; {log_file} does not say why"
    return "; from " + log_file + ":" + "".join(f"\n    {line}" for line in lines)


class _Witness:
    """The process between launcher and daemon; see the module's docstring."""

    def __init__(self, argv: list[str], log: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._news, news = os.pipe()  # its end of file, or the status as text
        hold, self._hold = os.pipe()  # its end of file: the launcher is done
        # A Ctrl-C is for the launcher alone: until it has a session of its own, the daemon would hear it, too.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._pid = os.fork()
        if self._pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if self._pid == 0:
            keep = {0, log, news, hold}
            _child(lambda: _bear_witness(argv, log, news, hold, keep))
        os.close(news)
        os.close(hold)
        self._status: int | None = None

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or earlier when the daemon has ended."""
        if self._status is None:
            select.select([self._news], [], [], seconds)

    def status(self) -> int | None:
        """The daemon's exit status (negative: a signal), or None while it lives."""
        if self._status is None and select.select([self._news], [], [], 0)[0]:
            text = os.read(self._news, 16)
            self._status = int(text) if text else 70  # the witness itself was killed: EX_SOFTWARE
        return self._status

    def dismiss(self) -> None:
        """Detach from the daemon, which continues to run."""
        os.close(self._hold)
        os.close(self._news)
        os.waitpid(self._pid, 0)


def _child(body: Callable[[], None]) -> NoReturn:
    """Run `body` in a forked process, which never returns into the launcher's code."""
    try:
        body()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(71)  # sysexits.h EX_OSERR


def _bear_witness(argv: list[str], log: int, news: int, hold: int, keep: set[int]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which forgets one that came meanwhile
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.chdir("/")
    os.umask(0o022)  # file modes do not depend on the shell it was started from
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # The turn's lock is among the rest: a copy here would hold it on behalf of a launcher that is gone.
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                continue  # the descriptor of the listing itself
    daemon = os.fork()
    if daemon == 0:
        _child(lambda: os.execv(argv[0], argv))  # noqa: S606  # no shell is wanted
    ended = os.pidfd_open(daemon)
    ready, _, _ = select.select([ended, hold], [], [])
    if ended in ready:
        os.write(news, str(os.waitstatus_to_exitcode(os.waitpid(daemon, 0)[1])).encode())
