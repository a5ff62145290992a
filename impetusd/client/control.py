"""The control client: one request to the supervisor, one answer, over its unix socket; blocking, retrying.

"No daemon runs" and "the daemon is restarting" look alike at first: a stale socket file, a removed one, a
connection that nobody answers yet. The lock on the state directory distinguishes them: the shim holds it for as
long as it lives, and it keeps the listening socket while it starts the supervisor anew. So with the lock held this
client waits, and with the lock free it says at once that nothing runs.

Imports stay few: a command line that asks for the status pays for each of them.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import time

from impetusd.bare import socket
from impetusd.client import instance
from impetusd.core import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from impetusd.core.config.location import Paths

FIRST_BYTE = 10.0  # seconds until a connection must have been answered: a supervisor needs 0.5 to come back
SOCKET_BACK = 5.0  # seconds until a removed control socket must be there again
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})  # what a full disk, or one's part of it, answers
QUIET = 0.5  # seconds of waiting before the operator sees the reason


class ControlError(Exception):
    """The request did not succeed. The text is a sentence for the operator, `exit` what the command line exits with."""

    def __init__(self, message: str, exit: int = protocol.EXIT_FAILED) -> None:  # noqa: A002  # the word for it
        super().__init__(message)
        self.exit = exit


class NotRunning(ControlError):
    """No daemon runs on this state directory."""

    def __init__(self, paths: Paths) -> None:
        super().__init__(f"impetusd is not running (no daemon for {paths.conf})", protocol.EXIT_NOT_RUNNING)


class AnotherFile(ControlError):
    """The daemon in these folders, or its leftovers, belongs to another INI file."""

    def __init__(self, paths: Paths, other: str, where: str, *, alive: bool) -> None:
        gone = not os.path.lexists(other)
        if alive:
            who = f"the impetusd running in {where} was started for {other}, not for {paths.conf}"
        else:
            who = f"{where} belongs to {other}, not to {paths.conf}"
        if gone and alive:
            hint = f"{other} no longer exists; if {paths.conf} replaces it: impetusd -c {paths.conf} apply"
        else:
            hint = (
                f"To use that one: -c {other}. To run both, give {paths.conf} its own"
                " run_dir, state_dir and log_dir in [impetusd]"
            )
        super().__init__(f"{who}; nothing was done. {hint}", protocol.EXIT_USAGE)


class Unanswered(ControlError):
    """A daemon runs on this state directory, and does not answer."""


class Dropped(Exception):
    """The connection ended before the answer: the supervisor died, ended, or has no room for another connection.

    `begun`: something had been answered, so the request itself may have been under way.
    """

    def __init__(self, how: str = "", *, begun: bool = True) -> None:
        super().__init__(how)
        self.begun = begun


def refused(error: protocol.ProtocolError) -> ControlError:
    """The exception for the supervisor's refusal."""
    if error.code == protocol.METHOD_NOT_FOUND:
        return ControlError("the running impetusd is older and does not support this command; run: impetusd upgrade")
    return ControlError(error.message, error.exit)


class Hooks:
    """Callbacks while waiting; each is optional.

    `progress(params)`: a slot moved on. `waiting(sentence)`: no answer for QUIET seconds, with what it waits for.
    `tick()`: some time has passed (about ten times a second), for a display that moves.

    `daemon` is what the daemon has answered to `ping`, and `uid` its user (None: not asked yet).
    """

    __slots__ = ("daemon", "progress", "tick", "uid", "waiting")

    def __init__(
        self,
        progress: Callable[[Mapping[str, Any]], None] | None = None,
        waiting: Callable[[str], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> None:
        self.progress = progress
        self.waiting = waiting
        self.tick = tick
        self.daemon: Mapping[str, Any] = {}
        self.uid: int | None = None


def daemon_alive(paths: Paths) -> bool:
    """Whether a daemon holds the state directory. ControlError if this user may not look."""
    try:
        return instance.is_locked(paths.state_dir)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise _unseen(paths) from None


def require_daemon(paths: Paths, pong: Mapping[str, Any]) -> None:
    """AnotherFile if the daemon that gives this answer to `ping` or `status` was started for another file."""
    theirs = instance.of_daemon(pong)
    if not instance.is_meant(paths.conf, theirs):
        raise AnotherFile(paths, theirs["conf"], paths.run_dir, alive=True)


def require_rest(paths: Paths, *, alive: bool = False) -> None:
    """AnotherFile if what a stopped or killed daemon has left in the folders belongs to another file that still exists.

    `alive`: a daemon holds the folders and cannot be asked; then it counts also if its file is gone.
    """
    for where, of in ((paths.state_dir, instance.of_state), (paths.run_dir, instance.of_leftovers)):
        theirs = of(paths)
        if not instance.is_meant(paths.conf, theirs) and (alive or os.path.lexists(theirs["conf"])):
            raise AnotherFile(paths, theirs["conf"], where, alive=alive)


def _has_taken_its_place(paths: Paths, pong: Mapping[str, Any]) -> bool:
    """True if the daemon's file no longer exists, so that `paths.conf` may replace it."""
    other = instance.of_daemon(pong).get("conf")
    return isinstance(other, str) and not instance.is_path(paths.conf, other) and not os.path.lexists(other)


def ping(paths: Paths, *, mine: bool = False) -> dict[str, Any] | None:
    """The answer to `ping` of the daemon in these folders; None if none runs. Raises OSError if it cannot be asked.

    `mine`: AnotherFile if it was started for another file.
    """
    try:
        return _ask(paths, "ping", {}, Hooks(), mine=mine)
    except NotRunning:
        return None
    except AnotherFile:
        raise
    except ControlError as error:
        raise OSError(str(error)) from None


def call(paths: Paths, method: str, params: Mapping[str, Any], hooks: Hooks | None = None) -> dict[str, Any]:
    """Ask the supervisor of `paths`, and return the result.

    Raises NotRunning, AnotherFile, or ControlError with the supervisor's own sentence and exit code, or one that says what failed.
    A request that may be sent twice is sent again when the supervisor dies over it; for the others the outcome is said
    to be unknown.
    """
    return _ask(paths, method, params, hooks or Hooks(), mine=True)


def _ask(
    paths: Paths,
    method: str,
    params: Mapping[str, Any],
    hooks: Hooks,
    *,
    mine: bool,
) -> dict[str, Any]:
    known = protocol.METHODS[method]
    question = protocol.request_line(1, "ping", {})
    request = protocol.request_line(1, method, params)
    at_once = method in {"ping", "status"}  # harmless, and the answer identifies the daemon
    for attempt in range(10):  # distinguishes a supervisor that dies at every request from one that died once
        if attempt:
            time.sleep(0.02 * attempt)  # 0 would give way to others
        connection = connect(paths, hooks, mine=mine)
        begun = False
        try:
            # The listener's pid, uid and gid, 4 bytes each, as recorded by the kernel.
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            hooks.uid = int.from_bytes(credentials[4:8], sys.byteorder)
            if not at_once:
                hooks.daemon = pong = converse(connection, question, hooks)
                if method == "apply" and _has_taken_its_place(paths, pong):
                    request = protocol.request_line(1, method, {**params, "conf": paths.conf})
                else:
                    require_daemon(paths, pong)
                begun = True
            # After the pong, silence is work.
            answer = converse(connection, request, hooks, heard=begun and (known.slow or not known.idempotent))
            if mine and at_once:
                require_daemon(paths, answer)
            return answer
        except Dropped as dropped:
            if begun and dropped.begun and not known.idempotent:
                raise ControlError(
                    f"the connection to impetusd broke during {method}; it is unknown whether it was executed; see"
                    " impetusd status"
                ) from None
        finally:
            connection.close()
    if _has_no_role(paths):
        raise ControlError(
            f"impetusd closed the connection without a response, probably because {_user_name(os.geteuid())} has no"
            f" role; roles are set in [impetusd] of {paths.conf} (viewers, operators, admins)"
        )
    raise Unanswered(f"impetusd repeatedly closed the connection during {method}; see {paths.log_file}")


def connect(paths: Paths, hooks: Hooks, *, mine: bool) -> socket.socket:
    """`mine`: a daemon that was started for another file than `paths.conf` is refused."""
    began = time.monotonic()
    told = looked = False
    while True:
        reason = try_connect(paths)
        if isinstance(reason, socket.socket):
            return reason
        waited = time.monotonic() - began
        if reason != errno.EAGAIN and not daemon_alive(paths):
            if mine:
                require_rest(paths)
            raise NotRunning(paths)
        if mine and waited > QUIET and not looked:
            looked = True
            require_rest(paths, alive=True)
        if waited > SOCKET_BACK:
            raise Unanswered(
                f"impetusd is running (it has locked {paths.state_dir}), but {paths.control_socket} did not appear"
                f" within {SOCKET_BACK:.0f} s: {os.strerror(reason)}; see {paths.log_file}"
            )
        if hooks.waiting and waited > QUIET and not told:
            told = True
            hooks.waiting(f"impetusd is running; waiting for its control socket {paths.control_socket}")
        if hooks.tick:
            hooks.tick()
        time.sleep(0.02)


def try_connect(paths: Paths) -> socket.socket | int:
    """A connection, or the errno of an error worth waiting for."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Non-blocking: with a full backlog a blocking connect would wait for ever, and this one says EAGAIN.
    connection.setblocking(False)
    try:
        connection.connect(paths.control_socket)
    except OSError as error:
        connection.close()
        if isinstance(error, PermissionError):
            raise _denied(paths.control_socket) from None
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED, errno.EAGAIN}:
            return error.errno
        raise ControlError(f"cannot connect to {paths.control_socket}: {error.strerror or error}") from None
    return connection


def _has_no_role(paths: Paths) -> bool:
    """Whether that may be why there was no answer: the daemon knows root and its own user, to whom the socket
    belongs."""
    try:
        owner = os.lstat(paths.control_socket).st_uid
    except OSError:
        return False
    return os.geteuid() not in {0, owner}


def _denied(path: str) -> ControlError:
    """The message for a user who is denied access by file permissions."""
    owner = ""
    probe = path
    while probe != "/" and not owner:
        probe = os.path.dirname(probe)
        try:
            owner = _user_name(os.stat(probe).st_uid)
        except OSError:
            continue
    hint = "use sudo" if owner == "root" else f"run this command as {owner}"
    return ControlError(
        f"this impetusd belongs to {owner}, and you have no access to {path}; {hint}, or request a role"
        " ([impetusd] in the INI file: viewers, operators, admins)"
    )


def _unseen(paths: Paths) -> ControlError:
    """Nothing answers, and this user may not look whether a daemon holds the state directory."""
    error = _denied(paths.state_dir)
    return ControlError(f"no response on {paths.control_socket}: impetusd is not running, or is restarting; {error}")


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def converse(connection: socket.socket, request: bytes, hooks: Hooks, *, heard: bool = False) -> dict[str, Any]:
    """Send, then read up to the answer with id 1. Dropped if the connection ends first."""
    lines = protocol.LineBuffer(protocol.MAX_ANSWER)
    began = time.monotonic()
    to_send = memoryview(request)
    told = False
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLOUT)
    while True:
        events = poll.poll(100 if hooks.tick or hooks.waiting else 1000)
        if hooks.tick:
            hooks.tick()
        try:
            if to_send and events and events[0][1] & select.POLLOUT:
                to_send = to_send[connection.send(to_send) :]
                if not to_send:
                    poll.modify(connection, select.POLLIN)
            data = connection.recv(1 << 18) if events else None
        except BlockingIOError:
            data = None
        except ConnectionError:
            raise Dropped(begun=heard) from None
        if data == b"":
            raise Dropped(begun=heard)
        if data is None:
            waited = time.monotonic() - began
            if not heard and waited > FIRST_BYTE:
                raise Unanswered(
                    f"impetusd accepted the connection but did not answer within {FIRST_BYTE:.0f} s; "
                    "its supervisor may be restarting; try again"
                )
            if hooks.waiting and not heard and not told and waited > QUIET:
                told = True
                hooks.waiting("impetusd is running; waiting for its supervisor to respond")
            continue
        heard = True
        try:
            for line in lines.feed(data):
                answer = protocol.parse_answer(line)
                if answer.progress is not None:
                    if hooks.progress:
                        hooks.progress(answer.progress)
                elif answer.error is not None:
                    raise refused(answer.error)
                elif answer.id == 1 and answer.result is not None:
                    return answer.result
        except protocol.ProtocolError as error:
            raise ControlError(f"impetusd's answer cannot be read: {error.message}") from None
