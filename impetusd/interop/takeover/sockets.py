"""Where the processes of the old manager listen, and which connections they still have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from impetusd.core.config.model import Listen
from impetusd.interop.takeover import share
from impetusd.linux import inet, proc

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# A client that has closed its half waits for its answer still: include/net/tcp_states.h TCP_CLOSE_WAIT.
OPEN = frozenset({inet.ESTABLISHED, 0x08})


@dataclass(frozen=True, slots=True)
class Socket:
    """A listening TCP socket of process `pid`, its descriptor `number`. `refusal`: why it cannot be shared, "" if it can."""

    host: str
    port: int
    v6only: bool
    pid: int
    number: int
    refusal: str = ""

    def __str__(self) -> str:
        return str(Listen(self.host, self.port))


def tree(pids: Iterable[int]) -> list[int]:
    """These processes and everything below them."""
    return [member.pid for member in proc.descendants([pid for pid in pids if pid], proc.snapshot(), set())]


def listening(pids: Iterable[int]) -> list[Socket]:
    """The TCP sockets that these listen on, each once."""
    by_inode = {each.inode: each for each in inet.tcp() if each.state == inet.LISTEN}
    found: dict[int, Socket] = {}
    for pid in pids:
        if not inet.same_network(pid):
            continue
        for inode, number in inet.held(pid).items():
            there = by_inode.get(inode)
            if there is not None and inode not in found:
                why, v6only = share.look(pid, number)
                found[inode] = Socket(there.host, there.port, v6only, pid, number, why)
    return list(found.values())


def ports(pids: Iterable[int]) -> set[int]:
    """The TCP ports that these listen on."""
    held = {inode for pid in pids for inode in inet.held(pid)}
    return {each.port for each in inet.tcp() if each.state == inet.LISTEN and each.inode in held}


def listened_on(ports: Iterable[int]) -> set[int]:
    """On which of these ports anybody listens."""
    wanted = set(ports)
    return {each.port for each in inet.tcp() if each.state == inet.LISTEN and each.port in wanted} if wanted else set()


def chosen_by_the_kernel() -> range:
    """The ports that a program gets which asks for any."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            first, last = map(int, file.read().split())
    except (OSError, ValueError):
        return range(0)
    return range(first, last + 1)


def unanswered(pids: Iterable[int], ports: Collection[int]) -> int:
    """How many connections to these ports the processes have, or have not yet accepted."""
    held = {inode for pid in pids for inode in inet.held(pid)}
    count = 0
    for each in inet.tcp():
        if each.port in ports and each.inode in held:
            count += each.queue if each.state == inet.LISTEN else each.state in OPEN
    return count
