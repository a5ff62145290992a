"""Sockets that this instance binds: its own two, and those that units listen on."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterable

from impetusd.core import access
from impetusd.core.access import Person
from impetusd.core.config.model import ANY_V6, Listen
from impetusd.core.reasons import Reason, because, of_os_error
from impetusd.files.folders import address_of, folder_of, unlink_socket
from impetusd.supervisor.start import childspec
from impetusd.supervisor.start.childspec import NOTHING, CannotStart, Found

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
# linux/bpf_common.h: load a byte, compare bits, return how much of the packet is taken. A TCP socket's filter begins at the
# TCP header, whose byte 13 has the flags.
BPF_LD_B_ABS, BPF_JSET, BPF_RET = 0x30, 0x45, 0x06
TCP_FLAGS, TCP_ACK = 13, 0x10
ONLY_KNOWN = (  # a bare SYN: drop the packet; established peers may go on
    (BPF_LD_B_ABS, 0, 0, TCP_FLAGS),
    (BPF_JSET, 0, 1, TCP_ACK),
    (BPF_RET, 0, 0, 0xFFFFFFFF),
    (BPF_RET, 0, 0, 0),
)


def bind_with_mode(sock: socket.socket, address: str, mode: int) -> None:
    """Bind a unix socket whose file has no more than this mode from the beginning, less what our umask takes. Raises OSError.

    chmod afterwards would leave a moment in which anyone may connect; another umask would be that of all threads, which make
    files and folders meanwhile. On Linux the file is born with the mode of the socket itself.
    """
    os.fchmod(sock.fileno(), mode)
    sock.bind(address)


def bind_unix(path: str, mode: int = 0o600) -> socket.socket:
    """A unix socket bound at `path`, in the place of a stale one. Raises OSError (EADDRINUSE when one is alive)."""
    with address_of(path, make=0o755) as address:
        if _answers(address):
            raise OSError(errno.EADDRINUSE, f"another process is listening on {path}")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                unlink_socket(path)
            bind_with_mode(sock, address, mode)
        except BaseException:
            sock.close()
            raise
    return sock


def set_acl(path: str, people: Iterable[Person]) -> str:
    """Let these connect to the unix socket that we have bound at `path`, besides ourselves and root, and nobody else.

    Done in one step, so that nobody else may connect at any moment: by an access list, which can name them all. If the
    file system has none, a single group becomes the socket's own. Returns why somebody is excluded, as a sentence; ""
    if nobody is.
    """
    people = list(people)
    with folder_of(path) as (folder, name):
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        there = os.fstat(fd)
        if not stat.S_ISSOCK(there.st_mode) or there.st_uid != os.geteuid() or there.st_nlink != 1:
            return f"{path} is no longer the socket that was created there; access to it was not granted to anyone"
        return _admit(f"/proc/self/fd/{fd}", there, path, people)
    finally:
        os.close(fd)


def _admit(opened: str, there: os.stat_result, path: str, people: list[Person]) -> str:
    try:
        os.setxattr(opened, access.ACL, access.acl_of(people, os.geteuid()))
    except OSError as error:
        if error.errno not in {errno.ENOTSUP, errno.EPERM, errno.EINVAL}:
            raise
    else:
        return ""
    if stat.S_IMODE(there.st_mode) != 0o600:
        os.chmod(opened, 0o600)
    gids = {gid for person in people for gid in person.gids if person.uid is None}
    if len(gids) == 1 and all(person.uid in {None, 0, os.geteuid()} for person in people):
        with contextlib.suppress(PermissionError):  # only root, or a member, may give it away
            os.chown(opened, -1, gids.pop())
            os.chmod(opened, 0o660)
            return ""
    if not people:
        return ""
    names = ", ".join(dict.fromkeys(person.said for person in people))
    return (
        f"{path}: its file system has no ACLs, so {names} cannot be given access; use one group for all roles,"
        " or move run_dir to tmpfs or ext4"
    )


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:  # its queue is full: it is alive
            return True
        except OSError:
            return False
    return True


def another(fd: int) -> socket.socket:
    """The socket `fd` on a descriptor of its own. Raises OSError."""
    copy = os.dup(fd)
    try:
        return socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise


def listen_on(address: Listen, backlog: int, found: Found = NOTHING) -> socket.socket:
    """A listening socket for a unit of which `found` is known. Raises CannotStart."""
    try:
        if not address.path:
            return _listen_on_port(address, backlog, found)
        sock = bind_unix(address.path, 0o600 if address.owner else address.mode)
        try:
            dress(address, found)
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        port = address.port if error.errno == errno.EADDRINUSE else 0
        raise CannotStart("listen", _with_hint(error, address), str(address), port=port) from None
    return sock


def _listen_on_port(address: Listen, backlog: int, found: Found) -> socket.socket:
    """Raises OSError, CannotStart."""
    family, kind, proto, where = found.hosts.get(address.host) or childspec.address_of(address.host)
    last = address.port + address.more_ports
    for port in range(address.port, last + 1):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and address.v6only is not None:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.v6only))
            sock.bind((where[0], port, *where[2:]))
            sock.listen(backlog)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE or port == last:
                raise
        else:
            return sock
    raise AssertionError("the last port either listens or raises")


def bound_to(fd: int) -> str:
    """Where a socket listens, as one writes it: HOST:PORT, or unix:PATH. Raises OSError."""
    with another(fd) as sock:
        name = sock.getsockname()
    return str(Listen("", 0, os.fsdecode(name)) if isinstance(name, str | bytes) else Listen(name[0], name[1]))


def drop_new_connections(fd: int) -> None:
    """Keep new connections out of the queue of a TCP socket that will be closed: they would be accepted, then reset.

    A filter drops every SYN. Queued connections stay, and handshakes under way complete; to a new client its packet
    seems lost, and it sends it again after a second: by then nobody listens any more, or somebody does again.
    """
    program = array.array("B", b"".join(struct.pack("HBBI", *each) for each in ONLY_KNOWN))
    with contextlib.suppress(OSError), another(fd) as sock:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(
                socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(ONLY_KNOWN), program.buffer_info()[0])
            )


def refuse(fd: int) -> bool:
    """Make a socket refuse connections although other processes hold it, and close those in its queue. Returns whether
    it now refuses.

    A TCP socket stays bound, and listens again after `let_in`. After shutdown(2) a unix socket never listens again, so
    only its queue is closed: that nobody else gets there is its file's business.
    """
    with contextlib.suppress(OSError), another(fd) as sock:
        if sock.family != socket.AF_UNIX:
            sock.shutdown(socket.SHUT_RD)  # ENOTCONN when it does not listen
            return True
        sock.setblocking(False)
        while True:
            sock.accept()[0].close()
    return False


def let_in(fd: int, address: Listen, backlog: int) -> None:
    """Let a socket accept connections again after `refuse` and `drop_new_connections`. Raises CannotStart."""
    try:
        with another(fd) as sock:
            with contextlib.suppress(FileNotFoundError):  # nobody was shut out
                sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            sock.listen(backlog)
    except OSError as error:
        port = address.port if error.errno == errno.EADDRINUSE else 0  # another has bound it, and listens
        raise CannotStart("listen", of_os_error(error), str(address), port=port) from None


def adjust(fd: int, address: Listen, backlog: int, found: Found = NOTHING, second: str = "") -> None:
    """Set the present values of its keys on a socket that already listens. Raises CannotStart.

    `second`: where the file of a unix socket has its second name, see `supervisor.start.socketfiles`.
    """
    try:
        with another(fd) as sock:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # it may refuse: see `refuse`
                sock.listen(backlog)
        if address.path:
            dress(address, found, second)
    except OSError as error:
        raise CannotStart("listen", of_os_error(error), str(address)) from None


def dress(address: Listen, found: Found, second: str = "") -> None:
    """Set the owner and mode of a unix socket's file. Raises OSError."""
    uid, gid = found.owners.get(address.owner, (os.geteuid(), os.getegid()))
    with folder_of(address.path) as (folder, name):
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return  # somebody has removed it: clients stay connected
    try:
        now = os.fstat(fd)
        names = 1 + (bool(second) and os.path.lexists(second) and os.path.samestat(os.lstat(second), now))
        if not stat.S_ISSOCK(now.st_mode) or now.st_nlink != names:
            raise FileExistsError(errno.EEXIST, "it is not the socket that was created there", address.path)
        if (now.st_uid, now.st_gid) != (uid, gid):
            os.chown(f"/proc/self/fd/{fd}", uid, gid)
        if stat.S_IMODE(now.st_mode) != address.mode:
            os.chmod(f"/proc/self/fd/{fd}", address.mode)
    finally:
        os.close(fd)


def _with_hint(error: OSError, address: Listen) -> Reason:
    cause = of_os_error(error)
    if error.errno == errno.EACCES and 0 < address.port < 1024:
        return because("low_port", cause=cause)
    if error.errno == errno.EADDRINUSE and address.host == ANY_V6 and not address.v6only:
        return because("takes_ipv4", cause=cause)
    return cause
