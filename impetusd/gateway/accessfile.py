"""`<state_dir>/gateway/access.json`: users, tokens, one-time links, sessions and known browsers, in one file, mode 0600.

The gateway and the command line both write it: each change is made under a lock on the folder, and puts a new file in the
place of the old one. The folder belongs to the gateway's unprivileged user, so root, when it writes there, follows no link
and hands the file over to that user. Numbers of everything are bounded; where there is one too many of what comes by itself
(links, sessions, browsers), the oldest goes. Times are Unix time, secrets are kept as digests.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from impetusd.core.protocol import ROLES
from impetusd.files.folders import open_folder

NAME = "access.json"
LARGEST = 1 << 20  # bytes of the file
USERS, TOKENS = 100, 100  # beyond which no more are taken
LINKS, SESSIONS, OF_ONE_USER, BROWSERS = 8, 200, 20, 64
LINK, SESSION, BROWSER = 15 * 60.0, 7 * 86400.0, 90 * 86400.0  # seconds that one is valid
LONGEST = 128  # characters of a name
LATEST = 1e12  # Unix time
LOCKED = 5.0  # seconds to wait for another one who writes
_AGAIN = 0.02  # seconds

T = TypeVar("T")


class Refused(Exception):
    """A change that cannot be made; the message is a sentence for the operator."""


@dataclass(slots=True)
class User:
    """`password` as in `passwords`."""

    role: str
    password: str


@dataclass(slots=True)
class Token:
    """`expires` 0: never."""

    role: str
    digest: str
    made: float
    expires: float


@dataclass(slots=True)
class Grant:
    """A link, a session or a browser, by the digest of its secret."""

    user: str
    role: str
    expires: float


@dataclass(slots=True)
class State:
    """What the file says."""

    users: dict[str, User] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    links: dict[str, Grant] = field(default_factory=dict)
    sessions: dict[str, Grant] = field(default_factory=dict)
    browsers: dict[str, Grant] = field(default_factory=dict)  # that have logged in before

    # Changes.

    def set_user(self, name: str, role: str, password: str) -> None:
        """A new user, or another password or role: whoever was logged in as this user is logged out."""
        if name not in self.users and len(self.users) >= USERS:
            raise Refused(f"there are {USERS} users already; remove one first")
        self.users[name] = User(role, password)
        self.log_out(name)

    def remove_user(self, name: str) -> None:
        """The user is logged out, too. Refused if there is none."""
        if name not in self.users:
            raise Refused(f"there is no user {name}; users: {', '.join(self.users) or 'none'}")
        del self.users[name]
        self.log_out(name)

    def log_out(self, name: str) -> None:
        """End each session of a user, and forget links and browsers."""
        for grants in (self.links, self.sessions, self.browsers):
            for key in [key for key, grant in grants.items() if grant.user == name]:
                del grants[key]

    def add_token(self, name: str, token: Token) -> None:
        """Refused if there is one of this name, or too many."""
        if name in self.tokens:
            raise Refused(f"a token {name} already exists; remove it first, or choose another name")
        if len(self.tokens) >= TOKENS:
            raise Refused(f"there are {TOKENS} tokens already; remove one first")
        self.tokens[name] = token

    def remove_token(self, name: str) -> None:
        """Refused if there is none."""
        if self.tokens.pop(name, None) is None:
            raise Refused(f"there is no token {name}; tokens: {', '.join(self.tokens) or 'none'}")

    def add_session(self, digest: str, user: str, role: str, now: float) -> None:
        """One more session."""
        own = [key for key, grant in self.sessions.items() if grant.user == user]
        for key in own[: len(own) - OF_ONE_USER + 1]:
            del self.sessions[key]
        _add(self.sessions, digest, Grant(user, role, now + SESSION), SESSIONS)

    def add_link(self, digest: str, user: str, role: str, now: float) -> None:
        """One more one-time link."""
        _add(self.links, digest, Grant(user, role, now + LINK), LINKS)

    def add_browser(self, digest: str, user: str, role: str, now: float) -> None:
        """A browser in which this user has logged in."""
        _add(self.browsers, digest, Grant(user, role, now + BROWSER), BROWSERS)

    def tidy(self, now: float) -> None:
        """Forget what has expired; expired tokens stay to be listed."""
        for grants in (self.links, self.sessions, self.browsers):
            for key in [key for key, grant in grants.items() if grant.expires <= now]:
                del grants[key]


def _add(grants: dict[str, Grant], key: str, grant: Grant, most: int) -> None:
    while len(grants) >= most:
        del grants[next(iter(grants))]
    grants[key] = grant


_KINDS: dict[str, type[User | Token | Grant]] = {
    "users": User,
    "tokens": Token,
    "links": Grant,
    "sessions": Grant,
    "browsers": Grant,
}


def parsed(data: bytes) -> State:
    """What a file holds; entries that make no sense are left out, and so have no access."""
    state = State()
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    for name, kind in _KINDS.items():
        given = found.get(name) if isinstance(found, dict) else None
        for key, each in given.items() if isinstance(given, dict) else ():
            if not is_name(key):
                continue
            with contextlib.suppress(KeyError, TypeError):
                getattr(state, name)[key] = _entry(kind, each)
    return state


def is_name(given: str) -> bool:
    """Whether it can be a name: root's terminal shows those that the gateway's user may have written."""
    return given.isprintable() and 0 < len(given) <= LONGEST


def _entry(kind: type[User | Token | Grant], each: dict[str, Any]) -> User | Token | Grant:
    values = {one.name: each[one.name] for one in fields(kind)}
    wanted = {one.name: float if one.type == "float" else str for one in fields(kind)}
    if values["role"] not in ROLES or not all(
        isinstance(value, (int, float)) and 0 <= value < LATEST if wanted[name] is float else isinstance(value, str)
        for name, value in values.items()
    ):
        raise TypeError(kind.__name__)
    return kind(**values)


def read(folder: str) -> State:
    """What the file says; nothing if there is none. Raises OSError, or ValueError for what is no JSON."""
    with contextlib.ExitStack() as stack:
        try:
            fd = open_folder(folder)
            stack.callback(os.close, fd)
            return _read(fd)
        except FileNotFoundError:
            return State()


def change(folder: str, act: Callable[[State], T]) -> T:
    """Have `act` change what the file says, and write it. What `act` raises leaves the file as it is. Raises OSError."""
    with _locked(folder) as fd:
        state = _read(fd)
        result = act(state)
        state.tidy(time.time())
        _write(fd, json.dumps(asdict(state), separators=(",", ":")).encode())
        return result


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[int]:
    path = open_folder(folder)
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=path)
    finally:
        os.close(path)
    try:
        deadline = time.monotonic() + LOCKED
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, f"another process has locked it for {LOCKED:g} s") from None
                time.sleep(_AGAIN)
        yield fd
    finally:
        os.close(fd)


def _read(folder: int) -> State:
    try:
        fd = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return State()
    with open(fd, "rb") as file:
        there = os.fstat(fd)
        if not stat.S_ISREG(there.st_mode) or there.st_size > LARGEST:
            raise OSError(errno.EINVAL, "it is not a regular file, or too large")
        return parsed(file.read(LARGEST))


def _write(folder: int, data: bytes) -> None:
    new = f".{NAME}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=folder)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with open(fd, "wb") as file:
        owner = os.fstat(folder)
        if os.geteuid() == 0:
            os.fchown(fd, owner.st_uid, owner.st_gid)
        file.write(data)
        file.flush()
        os.fsync(fd)
    os.rename(new, NAME, src_dir_fd=folder, dst_dir_fd=folder)
