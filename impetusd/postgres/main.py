"""impetusd-postgres: an embedded PostgreSQL in the foreground, for any application, never as root.

    impetusd-postgres --data DIR --socket-dir DIR [--port PORT --password-file FILE]

This process prepares what is missing and then *becomes* the server (exec): one pid, whose signals and exit status are
PostgreSQL's own (SIGINT stops it at once and cleanly, status 0). Clients use the DATABASE_URL that it prints.

- Prepared aside, then renamed: initdb and the first role and database are made in DATA.new, so that a kill at any moment
  leaves either a whole data directory or one that the next start makes anew.
- One user of the data at a time: an flock on the data directory is held by this process, what it runs, and the server
  with all its backends. After a kill -9 the next start so waits exactly until the last old backend has left.
- Root becomes another user first. That user need not be able to reach DATA or SOCKET_DIR by name (a state directory of
  mode 0700, a clone below /root): the server reaches them as /proc/self/fd/N, through descriptors opened before. (Its working
  directory would not do: up to version 15 the tools leave it to find themselves, and cannot come back.)
- Who may connect to the socket is the kernel's knowledge (peer): root, the server's user and each --allow USER as ROLE,
  nobody else. A TCP port is open with --port alone, on the loopback addresses, for ROLE with its password (scram-sha-256).

Exit statuses of our own, before the server runs: 69 no PostgreSQL on this host, 75 another server uses the data,
78 wrong option or host, 1 anything else; each with one sentence on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import sys
import termios
import time
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

from impetusd.postgres.host import (
    EX_TEMPFAIL,
    Account,
    Refusal,
    Server,
    find_account,
    find_server,
    is_initialised,
    server_environment,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

SUPERUSER = "postgres"
PORT = 5432
LONGEST_SOCKET_PATH = 107  # bytes of sun_path, less the closing zero

# A killed server's backends see its death and leave within milliseconds; one that computes does not look.
ASK_AFTER, KILL_AFTER, GIVE_UP_AFTER = 2.0, 6.0, 10.0  # seconds of waiting for the data directory
READY_SEEN_WITHIN = 10.0  # seconds that the notifying process waits for its message to be read
MAX_CONNECTIONS = 200  # ten workers with a full pool each


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Console script; ends as the PostgreSQL server, or exits with a sentence on stderr."""
    options = read_options(argv)
    if options.print_url:
        print(url(options))
        sys.exit(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        _start(options)
    except Refusal as refusal:
        _say(str(refusal))
        sys.exit(refusal.status)
    except OSError as error:
        _say(f"cannot start PostgreSQL on {options.data}: {error.strerror or error}: {error.filename or '-'}")
        sys.exit(1)


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="impetusd-postgres", description="Run an embedded PostgreSQL in the foreground, for one application."
    )
    option = parser.add_argument
    option("--data", metavar="DIR", type=os.path.abspath, default="var/lib/postgres", help="created if missing")
    option("--socket-dir", metavar="DIR", type=os.path.abspath, default="var/run/postgres", help="created if missing")
    option(
        "--bindir",
        metavar="DIR",
        type=os.path.abspath,
        help="directory of `postgres`; default: the system's, otherwise the one from pip",
    )
    option("--user", metavar="NAME", help="for root: run as NAME; default: the owner of DATA, impetus, postgres")
    option(
        "--allow", metavar="USER", action="append", default=[], help="another system user that may connect; repeatable"
    )
    option("--database", metavar="NAME", type=_identifier, default="impetus", help="database, created with DATA")
    option(
        "--role", metavar="NAME", type=_identifier, default="impetus", help="owner of the database, created with DATA"
    )
    option("--port", metavar="PORT", type=_port, help="also listen on 127.0.0.1:PORT; needs --password-file")
    option("--password-file", metavar="FILE", type=os.path.abspath, help="file whose first line is the role's password")
    option("--print-url", action="store_true", help="print the DATABASE_URL for these options and exit")
    options = parser.parse_args(argv)
    if (options.port is None) != (options.password_file is None) and not options.print_url:
        parser.error("--port and --password-file must be used together, because TCP connections need a password")
    return options


def url(options: argparse.Namespace) -> str:
    """The DATABASE_URL of a server with these options; over TCP without the password, which is a secret."""
    if options.port is not None:
        return f"postgresql://{options.role}@127.0.0.1:{options.port}/{options.database}"
    return f"postgresql:///{options.database}?host={quote(options.socket_dir)}&user={options.role}"


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 1 to 65535")
    return int(text)


def _identifier(text: str) -> str:
    if re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", text) is None or text == SUPERUSER:
        raise argparse.ArgumentTypeError(f"{text!r}: use a-z, 0-9 and _; {SUPERUSER!r} is reserved")
    return text


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """Asked to stop before there is a server: nothing to finish, and what is half made is made anew next time."""
    for number in (signal.SIGINT, signal.SIGTERM):  # once is enough: what prepares is being ended
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


def _say(sentence: str) -> None:
    print(f"impetusd-postgres: {sentence}", file=sys.stderr, flush=True)


def _start(options: argparse.Namespace) -> NoReturn:
    data, socket_dir = options.data, options.socket_dir
    socket_name = f".s.PGSQL.{options.port or PORT}"
    if len(os.fsencode(os.path.join(socket_dir, socket_name))) > LONGEST_SOCKET_PATH:
        raise Refusal(f"--socket-dir {socket_dir}: a unix socket path is limited to 107 bytes; use a shorter directory")
    account = find_account(options.user, data)
    server = find_server(options.bindir, data, account)
    password = _password(options.password_file)
    lock = _claim(data, account)
    if not is_initialised(data):
        _initialise(data, server, account, options, lock)
    if password is not None:
        _remove_stale_lock_file("postmaster.pid", lock)
        literal = password.replace("'", "''")
        _single(server, account, lock, options.database, f"ALTER ROLE \"{options.role}\" PASSWORD '{literal}'")
    os.makedirs(socket_dir, exist_ok=True)
    if account.drop:
        os.chown(socket_dir, account.uid, account.gid)
    socket_fd = os.open(socket_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchmod(socket_fd, 0o755)
    notify = _notify_socket()
    _say(f"PostgreSQL {server.major} of {server.bindir} as {account.name}, data {data}, DATABASE_URL={url(options)}")

    os.chdir("/")
    if account.drop:
        os.setgroups(os.getgrouplist(account.name, account.gid))
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    # From here on nothing is imported: our own modules may lie where this user cannot read.
    _write_access_rules(lock, account.name, options)
    _remove_stale_lock_file("postmaster.pid", lock)
    _remove_stale_lock_file(socket_name + ".lock", socket_fd)
    # A stop that comes from here on is for the server: it stays pending until PostgreSQL has set up its handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    if notify is not None:
        _notify_when_ready(notify, lock)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores the last two
        signal.signal(number, signal.SIG_DFL)
    os.set_inheritable(lock, True)
    os.set_inheritable(socket_fd, account.drop)
    postgres = os.path.join(server.bindir, "postgres")
    argv = [postgres, "-D", _by(lock) if account.drop else data]
    argv += ["-k", _by(socket_fd) if account.drop else socket_dir, "-p", str(options.port or PORT)]
    argv += ["-c", f"listen_addresses={'' if options.port is None else '127.0.0.1'}"]
    argv += ["-c", "unix_socket_permissions=0777"]  # pg_hba.conf decides, by peer
    os.execve(postgres, argv, server_environment())  # noqa: S606 - to become the server is the point


def _by(fd: int) -> str:
    """A path to the directory `fd`, for processes that have inherited it and may not walk there from the root."""
    return f"/proc/self/fd/{fd}"


# -- the data directory: one user at a time, whole or not there


def _claim(data: str, account: Account) -> int:
    """Lock the data directory, or the DATA.new that will become it; returns the descriptor that holds the lock."""
    while True:
        path = data if is_initialised(data) else data + ".new"
        if path != data:
            if os.path.isdir(data) and os.listdir(data):
                raise Refusal(f"--data {data}: not empty, but not a PostgreSQL data directory; use another one")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            if account.drop:
                os.chown(path, account.uid, account.gid)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _wait_for(fd, path, account)
        # While we waited another start may have finished its work and renamed what we have locked.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)) and is_initialised(data) == (path == data):
                return fd
        os.close(fd)


def _wait_for(fd: int, path: str, account: Account) -> None:
    since = time.monotonic()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        waited = time.monotonic() - since
        if waited > GIVE_UP_AFTER:
            raise Refusal(
                f"{path} is in use by another PostgreSQL server, or one that is starting; stop it first", EX_TEMPFAIL
            )
        if waited > ASK_AFTER:
            _end_orphans(fd, account, signal.SIGKILL if waited > KILL_AFTER else signal.SIGQUIT)
        time.sleep(0.02)


def _end_orphans(fd: int, account: Account, number: signal.Signals) -> None:
    """Send `number` to what a dead server left working in the data directory; a living server is left alone.

    Done with the server's own user id: that is enough to see and signal its processes, and can hit no one else's.
    """
    with _acting_as(account):
        workers = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _works_in(pid, fd)]
        if _recorded_pid("postmaster.pid", fd) in workers:
            return
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@contextlib.contextmanager
def _acting_as(account: Account) -> Iterator[None]:
    if account.drop:
        os.setegid(account.gid)  # /proc/PID/cwd is shown to who has both ids
        os.seteuid(account.uid)
    try:
        yield
    finally:
        if account.drop:
            os.seteuid(0)
            os.setegid(0)


def _works_in(pid: int, fd: int) -> bool:
    """Whether `pid` is a PostgreSQL process whose working directory is the data directory `fd`."""
    try:
        return _is_postgres(pid) and os.path.samestat(os.stat(f"/proc/{pid}/cwd"), os.fstat(fd))
    except OSError:
        return False


def _is_postgres(pid: int) -> bool:
    with open(f"/proc/{pid}/comm", "rb") as file:
        return file.read() == b"postgres\n"


def _password(path: str | None) -> str | None:
    """The first line of a file. Raises Refusal without one."""
    if path is None:
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        password = file.readline().rstrip("\n")
    if not password or "\0" in password:
        raise Refusal(f"--password-file {path}: the first line is empty or not text; write the role's password there")
    return password


def _run(server: Server, account: Account, lock: int, program: str, *arguments: str, feed: str = "") -> None:
    """Run one of the server's programs on the data directory that `lock` holds. Raises Refusal."""
    done = account.run([os.path.join(server.bindir, program), *arguments], feed=feed, keep_fds=(lock,))
    if done.returncode != 0:
        said = " ".join(line for line in done.stderr.splitlines() if line)
        where = os.readlink(f"/proc/self/fd/{lock}")
        raise Refusal(f"{program} could not prepare {where} (status {done.returncode}): {said}", 1)


def _single(server: Server, account: Account, lock: int, database: str, *lines: str, preload: str = "") -> None:
    """Run statements, one a line, without a server. Raises Refusal."""
    strict = ("-c", "exit_on_error=on", "-c", "shared_preload_libraries=" + preload)
    feed = "".join(line + "\n" for line in lines)
    _run(server, account, lock, "postgres", "--single", "-D", _by(lock), *strict, database, feed=feed)


def _initialise(data: str, server: Server, account: Account, options: argparse.Namespace, lock: int) -> None:
    """Make role, database and cluster in DATA.new (locked by `lock`), then give it its name."""
    new = data + ".new"
    for entry in os.scandir(new):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)

    _run(server, account, lock, "initdb", "-D", _by(lock), "-U", SUPERUSER, "--encoding=UTF8", "--locale=C.UTF-8",
         "--lc-messages=C", "--auth=peer", "--no-instructions")  # fmt: skip
    _single(
        server,
        account,
        lock,
        "postgres",
        f'CREATE ROLE "{options.role}" LOGIN',
        f'CREATE DATABASE "{options.database}" OWNER "{options.role}"',
        f"ALTER SYSTEM SET max_connections = {MAX_CONNECTIONS}",
    )
    library = "pg_stat_statements"
    try:
        _single(
            server,
            account,
            lock,
            options.database,
            f"CREATE EXTENSION {library}",
            f"ALTER SYSTEM SET shared_preload_libraries = {library}",
            preload=library,
        )
    except Refusal as reason:
        _say(f"{library} is not available, so slow queries are not recorded: {reason}")
    os.rename(new, data)
    parent = os.open(os.path.dirname(data), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(parent)
    os.close(parent)


# -- in the data directory, as the server's user


def _write_access_rules(directory: int, server_user: str, options: argparse.Namespace) -> None:
    """Write pg_hba.conf and pg_ident.conf anew, so that the options of this start decide."""
    notice = "# Written by impetusd-postgres at every start; see its option --allow.\n"
    trusted = dict.fromkeys(["root", server_user])
    lines = [f'impetusd "{user}" "{options.role}"\n' for user in dict.fromkeys([*trusted, *options.allow])]
    lines += [f'impetusd "{user}" "{SUPERUSER}"\n' for user in trusted]
    for name, text in (
        (
            "pg_hba.conf",
            "local all all peer map=impetusd\nlocal replication all peer map=impetusd\n"
            + (f'host all "{options.role}" 127.0.0.1/32 scram-sha-256\n' if options.port is not None else ""),
        ),
        ("pg_ident.conf", "".join(lines)),
    ):
        fd = os.open(name + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=directory)
        os.write(fd, (notice + text).encode())
        os.close(fd)
        os.rename(name + ".new", name, src_dir_fd=directory, dst_dir_fd=directory)


def _remove_stale_lock_file(name: str, directory: int) -> None:
    """Remove the lock file of a killed server if its pid is now another program's, which PostgreSQL takes for a server.

    We hold the flock, so a server of ours that still lives is excluded; one started by hand is a `postgres` process
    and its file is left, for PostgreSQL to refuse.
    """
    pid = _recorded_pid(name, directory)
    if pid is None:
        return
    try:
        stranger = pid == os.getpid() or not _is_postgres(pid)
    except OSError:
        return  # no such process, which PostgreSQL sees by itself
    if stranger:
        os.unlink(name, dir_fd=directory)


def _recorded_pid(name: str, directory: int) -> int | None:
    try:
        return int(_lines_of(name, directory)[0])
    except (OSError, IndexError, ValueError):
        return None


def _lines_of(name: str, directory: int) -> list[bytes]:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(fd, 4096).splitlines()
    finally:
        os.close(fd)


# -- readiness


def _notify_socket() -> socket.socket | None:
    """A socket connected to $NOTIFY_SOCKET, while we may still reach it; None when nobody wants to know."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return None
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError as error:
        _say(f"cannot notify {address} when the server is ready: {error.strerror}")
        return None
    return notify


def _notify_when_ready(notify: socket.socket, directory: int) -> None:
    """Fork a child of the server that sends READY=1 once the server accepts connections, and then leaves.

    Not every PostgreSQL notifies by itself (Debian's does, the wheel's does not), and none could use a socket that only
    root may reach. The server writes `ready` in line 8 of postmaster.pid, which is what `pg_ctl --wait` reads. The child
    must exit with status 0 in any case: PostgreSQL takes a failing child for a crash of its own.
    """
    server = os.getpid()
    if os.fork() != 0:
        return
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        while os.getppid() == server and not _is_ready(directory, server):
            time.sleep(0.01)
        if os.getppid() == server:
            notify.send(b"READY=1")
            # Its reader identifies us by our place in the process tree, so stay until it has looked.
            deadline = time.monotonic() + READY_SEEN_WITHIN
            while os.getppid() == server and _unread(notify) and time.monotonic() < deadline:
                time.sleep(0.02)
            deadline = time.monotonic() + 0.5
            while os.getppid() == server and time.monotonic() < deadline:
                time.sleep(0.02)
    finally:
        os._exit(0)


def _is_ready(directory: int, server: int) -> bool:
    try:
        lines = _lines_of("postmaster.pid", directory)
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == b"%d" % server and lines[7].strip() == b"ready"


def _unread(notify: socket.socket) -> int:
    """Bytes sent and not yet received by the other side (SIOCOUTQ, which is TIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(notify, termios.TIOCOUTQ, b"\0" * 4))[0])


if __name__ == "__main__":
    main()
