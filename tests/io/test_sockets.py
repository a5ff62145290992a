"""The sockets that units listen on, as the kernel has them."""

from __future__ import annotations

import socket

import pytest

from impetusd.core.config.model import Listen
from impetusd.supervisor.start.childspec import CannotStart
from impetusd.supervisor.start.sockets import listen_on


def v6only(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@pytest.mark.parametrize("said", [None, True, False])
def test_the_ipv6_wildcard_takes_ipv4_as_it_is_told_or_as_the_host_has_it(said):
    with open("/proc/sys/net/ipv6/bindv6only", encoding="ascii") as file:
        host = int(file.read())
    with listen_on(Listen("::", 0, v6only=said), 5) as sock:
        assert v6only(sock) == (host if said is None else int(said))


def test_one_that_takes_ipv4_too_says_so_when_it_finds_its_port_taken():
    with listen_on(Listen("127.0.0.1", 0), 5) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=r"it takes IPv4, too, unless you add v6only=yes"):
            listen_on(Listen("::", port, v6only=False), 5)
        listen_on(Listen("::", port, v6only=True), 5).close()
