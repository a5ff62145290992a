"""TCP sockets of this host as /proc shows them, and which process holds which. Reads much of /proc: not for an event loop."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass

ESTABLISHED, SYN_RECV, LISTEN = 0x01, 0x03, 0x0A  # include/net/tcp_states.h
_FAMILIES = (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6))


@dataclass(frozen=True, slots=True)
class Tcp:
    """A line of /proc/net/tcp or tcp6. `queue`: of one that listens, connections that nobody has accepted yet; `uid`: its owner."""

    family: int
    host: str
    port: int
    state: int
    queue: int
    uid: int
    inode: int


def tcp() -> list[Tcp]:
    """Every TCP socket of this network namespace. Raises OSError."""
    found = []
    for name, family in _FAMILIES:
        try:
            with open(f"/proc/net/{name}", encoding="ascii") as file:
                next(file, "")
                found += [_read(line.split(), family) for line in file]
        except FileNotFoundError:
            continue  # a host without IPv6
    return found


def _read(fields: list[str], family: int) -> Tcp:
    address, _, port = fields[1].partition(":")
    # 32 bits at a time, in the host's order of bytes.
    raw = b"".join(int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8))
    queue = int(fields[4].partition(":")[2], 16)
    host, state, uid, inode = socket.inet_ntop(family, raw), int(fields[3], 16), int(fields[7]), int(fields[9])
    return Tcp(family, host, int(port, 16), state, queue, uid, inode)


def held(pid: int) -> dict[int, int]:
    """The sockets that a process has open: inode → descriptor. None of a process that is gone, or may not be looked at."""
    found = {}
    folder = f"/proc/{pid}/fd"
    try:
        for number in os.listdir(folder):
            try:
                link = os.readlink(f"{folder}/{number}")
            except OSError:
                continue  # it is closed by now
            if link.startswith("socket:["):
                found[int(link[8:-1])] = int(number)
    except OSError:
        return {}
    return found


def is_v6only(sock: socket.socket) -> bool:
    """Whether it takes IPv6 alone. Raises OSError."""
    return sock.family == socket.AF_INET6 and bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def same_network(pid: int) -> bool:
    """True if a process is in our network namespace; False if that cannot be read."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    except OSError:
        return False
