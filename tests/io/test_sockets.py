"""The sockets that units listen on, as the kernel has them."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from impetusd.core.config.model import Listen
from impetusd.supervisor.start import notify_sockets, sockets
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
        with pytest.raises(CannotStart, match=r"it also accepts IPv4; add v6only=yes to prevent that"):
            listen_on(Listen("::", port, v6only=False), 5)
        listen_on(Listen("::", port, v6only=True), 5).close()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o700])
def test_the_file_of_a_unix_socket_is_born_with_its_mode_and_no_thread_gets_another_umask(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(os, "umask", None)  # it is the whole process's, whose threads make files meanwhile
    with sockets.bind_unix(str(tmp_path / "s"), mode):
        assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_so_is_that_of_a_notify_socket(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(os, "umask", None)
    with notify_sockets.bind(str(tmp_path / "n/s"), os.geteuid(), mode):
        assert stat.S_IMODE(os.stat(tmp_path / "n/s").st_mode) == mode
