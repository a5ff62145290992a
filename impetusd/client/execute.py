"""Runs a command with the settings of a unit, on the caller's terminal: see `impetusd exec`.

It is started as the shim starts processes (`shim.spawn`), in a session of its own. It does not get the caller's terminal,
through which a process of another user could type into the caller's shell (ioctl_tty(2), TIOCSTI), but one of its own
instead. Standard streams that are not terminals are passed on; every other descriptor of ours is closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import termios
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from impetusd.core.reasons import read_start
from impetusd.shim import spawn
from impetusd.supervisor.start import childspec
from impetusd.supervisor.start.childspec import CannotStart

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit

HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
SIZE = 1 << 16  # bytes that are copied at once
LAST_READS = 64  # of what was printed, once the command has ended: a terminal keeps less than that


class NotExecuted(Exception):
    """The command was not started: the text says what failed, and `exit` is 127, 126, or 1 for what is not its fault."""

    def __init__(self, message: str, exit: int) -> None:  # noqa: A002  # the word for it
        super().__init__(message)
        self.exit = exit


def named(at: Callable[[int], Mapping[str, Unit]], name: str) -> tuple[Unit, int] | None:
    """A unit or an instance of it, as that instance sees it, and the instance's number; None if there is none.

    `at`: the units as an instance sees them.
    """
    found = childspec.named(at(0), name)
    return None if found is None else (at(found[1])[found[0]], found[1])


def resolve(at: Callable[[int], Mapping[str, Unit]], name: str) -> dict[str, Any] | None:
    """The spec that the daemon would give, for when none runs; None if there is no such unit or instance.

    Raises NotExecuted.
    """
    found = named(at, name)
    if found is None:
        return None
    unit, instance = found
    try:
        return childspec.beside(unit, instance, os.environ, childspec.LookUp(unit)())
    except CannotStart as error:
        raise NotExecuted(f"{name} cannot be started now: {error}", 1) from None


def execute(spec: Mapping[str, Any], argv: list[str], limits: Sequence[Sequence[Any]] = ()) -> int:
    """Run it to its end. Its exit code, 128 + n if signal n ended it. Raises NotExecuted.

    `limits`: those of the daemon's other processes, taken as far as we may; what `spec` says of them comes first.
    """
    _keep_to_ourselves()
    terminals = [fd for fd in range(3) if os.isatty(fd)]
    with contextlib.ExitStack() as undo:
        woken = undo.enter_context(_signals())
        terminal = undo.enter_context(_terminal(terminals, spec.get("uid"))) if terminals else None
        whole = {**spec, "argv": argv, "cgroup": "", "rlimits": [*map(_attainable, limits), *spec["rlimits"]]}
        whole["fds"] = {str(fd): terminal.slave if terminal and fd in terminals else fd for fd in range(3)}
        if terminal:
            whole["terminal"] = terminals[0]
            whole["env"] = {**({"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}), **spec["env"]}
        try:
            pid, status = spawn.start(whole)
        except OSError as error:
            raise NotExecuted(f"cannot create a process: {error.strerror}", 1) from None
        if terminal:
            terminal.started()
        code = _wait(pid, woken, terminal)
        failed = spawn.failure(status)
        os.close(status)
    if failed is not None:
        raise NotExecuted(str(read_start(failed.get("cause"), failed["stage"], failed["error"])), code)
    return code


def _keep_to_ourselves() -> None:
    """Also close descriptors that our caller left open."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that the folder was read with is closed again
            if int(name) > 2:
                os.set_inheritable(int(name), False)


def _attainable(limit: Sequence[Any]) -> tuple[str, int, int]:
    """The limit as far as we may set it."""
    name, soft, hard = limit
    most = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
    if os.geteuid() == 0 or most == resource.RLIM_INFINITY:
        return name, soft, hard

    def within(value: int) -> int:
        return most if value == resource.RLIM_INFINITY else min(value, most)

    return name, within(soft), within(hard)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """A descriptor from which the numbers of signals for us are read; none of them ends us."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.signal(number, lambda *_: None) for number in (*HANDED_ON, signal.SIGWINCH)}
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


class _Terminal:
    """The command's terminal, and the caller's that it stands for."""

    def __init__(self, outer: Sequence[int], uid: int | None) -> None:
        """`outer`: those of our standard descriptors that are the caller's terminal. `uid`: the command's user."""
        self._from, self._to = outer[0], outer[-1]
        self.master, self.slave = os.openpty()
        os.set_blocking(self.master, False)
        settings = termios.tcgetattr(self._from)
        self.types = outer[0] == 0 and _in_front()  # whether typed input goes to the command
        if not self.types:
            settings[1] &= ~termios.OPOST  # the outer one makes its line ends
        termios.tcsetattr(self.slave, termios.TCSANOW, settings)
        if uid is not None:
            with contextlib.suppress(PermissionError):  # it is the caller's own user then
                os.fchown(self.slave, uid, -1)
        self._typed = b""  # and not yet taken
        self.resize()

    def resize(self) -> None:
        """As large as the outer one."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, fcntl.ioctl(self._from, termios.TIOCGWINSZ, bytes(8)))

    def started(self) -> None:
        """The command has its side."""
        os.close(self.slave)
        self.slave = -1

    def watch(self, poll: select.poll) -> None:
        """Let `poll` report what can be copied."""
        if self.master >= 0:
            poll.register(self.master, select.POLLIN | (select.POLLOUT if self._typed else 0))
        if self.types and not self._typed:
            poll.register(0, select.POLLIN)

    def copy(self, ready: Mapping[int, int]) -> None:
        """Forward input and output."""
        if ready.get(0) and self.types and not self._typed:
            with contextlib.suppress(OSError):
                self._typed = os.read(0, SIZE)
            self.types = bool(self._typed)  # it has hung up
        if self._typed and self.master >= 0:
            with contextlib.suppress(BlockingIOError):
                self._typed = self._typed[os.write(self.master, self._typed) :]
        if ready.get(self.master, 0) & ~select.POLLOUT:
            self.show()

    def show(self) -> bool:
        """Copy what was printed; False if there is nothing more."""
        try:
            data = os.read(self.master, SIZE) if self.master >= 0 else b""
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the other side any more
            data = b""
        if not data and self.master >= 0:
            os.close(self.master)
            self.master = -1
        with contextlib.suppress(OSError):  # the caller's terminal has hung up, and SIGHUP reports it
            while data:
                try:
                    data = data[os.write(self._to, data) :]
                except BlockingIOError:
                    select.select([], [self._to], [])
        return self.master >= 0

    def close(self) -> None:
        """Both sides."""
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)


@contextlib.contextmanager
def _terminal(outer: Sequence[int], uid: int | None) -> Iterator[_Terminal]:
    """Until the end each key, Ctrl-C too, is the command's."""
    before = termios.tcgetattr(outer[0])
    terminal = _Terminal(outer, uid)
    raw = terminal.types
    try:
        if raw:
            tty.setraw(0)
        yield terminal
    finally:
        terminal.close()
        if raw:
            with contextlib.suppress(termios.error):  # it has hung up
                termios.tcsetattr(0, termios.TCSADRAIN, before)


def _in_front() -> bool:
    """Whether we may read the terminal: not in a shell's background job."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return True  # of a session without one; then nobody stops us


def _wait(pid: int, woken: int, terminal: _Terminal | None) -> int:
    """Copy until the process ends; how it did."""
    child = os.pidfd_open(pid)
    try:
        while True:
            poll = select.poll()
            poll.register(child, select.POLLIN)
            poll.register(woken, select.POLLIN)
            if terminal:
                terminal.watch(poll)
            ready = dict(poll.poll())
            for number in os.read(woken, 1024) if woken in ready else b"":
                if number in HANDED_ON:
                    _send(pid, number)
                elif terminal:
                    terminal.resize()
            if terminal:
                terminal.copy(ready)
            if child in ready:
                break
    finally:
        os.close(child)
    for _ in range(LAST_READS):  # processes left in the background may print for ever
        if not terminal or not terminal.show():
            break
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def _send(pid: int, number: int) -> None:
    """Signal all processes of the command, which has its own session once it has started one."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        os.kill(pid, number)
    except PermissionError:
        pass  # it has become somebody else, by sudo say; what is typed on its terminal reaches it
