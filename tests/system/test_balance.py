"""A pool's connections are spread evenly over its workers, however many are opened at once, and whoever of them ends."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
from collections import Counter
from collections.abc import Iterator

import census
import pytest
from instance import Instance, pool, wait_for
from load import fetch

APPS = {"aiohttp": "app_hello:make", "asgi": "app_asgi:app", "wsgi": "app_wsgi:app"}
WORKERS = 3
TRIES = 50  # on a busy host a worker may not get a CPU for longer than others wait for it


@contextlib.contextmanager
def opened(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Keep-alive connections, all at once."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in made:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        for sock in made:
            sock.settimeout(60.0)
        yield made


def owner(sock: socket.socket) -> int:
    """The pid of the worker that has accepted it."""
    sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    with sock.makefile("rb") as reader:
        length = 0
        while (line := reader.readline().strip().lower()) != b"":
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return int(reader.read(length))


def owners(socks: list[socket.socket]) -> Counter[int]:
    return Counter(map(owner, socks))


def cells(shim: int) -> list[int]:
    """The pids that stand in the page that the shim keeps for the only pool."""
    (page,) = [name for name, target in census.links(shim).items() if "impetusd-cells" in target]
    with open(f"/proc/{shim}/fd/{page}", "rb") as file:
        return [pid for pid, *_ in list(struct.iter_unpack("=4i", file.read()))[1:] if pid]


@pytest.fixture(scope="module", name="ports")
def _ports() -> Iterator[dict[str, int]]:
    instance = Instance()
    try:
        ports = {name: instance.port() for name in APPS}
        sections = (
            f"[pool:{name}]\n{pool(ports[name], app, instances=WORKERS, standby=0)}" for name, app in APPS.items()
        )
        instance.start("\n".join(sections))
        yield ports
    finally:
        assert instance.destroy() == []


@pytest.mark.parametrize("each", [2, 16, 64])
@pytest.mark.parametrize("protocol", APPS)
def test_connections_that_are_opened_at_once_are_spread_evenly(ports: dict[str, int], protocol: str, each: int) -> None:
    seen = []
    for _ in range(TRIES):
        with opened(ports[protocol], each * WORKERS) as socks:
            found = owners(socks)
        seen.append(sorted(found.values()))
        most, least = max(found.values()), min(found.values()) if len(found) == WORKERS else 0
        if most - least <= 2 if each == 2 else most / each <= 1.15:
            return
    pytest.fail(f"most ÷ mean is too high in each of {TRIES} tries: {seen}")


def test_the_connections_of_a_killed_worker_go_to_its_successor(impetusd: Instance) -> None:
    port = impetusd.port()
    before = impetusd.start(f"[pool:web]\n{pool(port, instances=WORKERS, standby=1)}")
    with opened(port, 16 * WORKERS) as socks:
        held = owners(socks)
        killed = before["web:0"].pid
        assert killed is not None
        impetusd.kill(killed)
        after = impetusd.settle(lambda now: now["web:0"].restarts == 1)
        assert sorted(cells(after.shim)) == sorted(after[f"web:{number}"].pid or 0 for number in range(WORKERS))
        seen = []
        for _ in range(TRIES):
            with opened(port, held[killed]) as more:
                seen.append(owners(more))
            if seen[-1][after["web:0"].pid or 0] >= 0.6 * held[killed]:
                return
    pytest.fail(f"others took what was the killed worker's: {held}, {seen}")


def test_a_worker_that_is_stopped_or_scaled_away_has_no_cell(impetusd: Instance) -> None:
    port = impetusd.port()
    impetusd.start(f"[pool:web]\n{pool(port, instances=WORKERS, standby=1, watchdog=0)}")
    impetusd.run("scale", "web", 1)
    status = impetusd.settle()
    assert cells(status.shim) == [status["web:0"].pid]
    impetusd.kill(status.supervisor)
    status = impetusd.settle(lambda now: now.supervisor != status.supervisor)
    impetusd.run("scale", "web", 2)
    status = impetusd.settle()
    assert sorted(cells(status.shim)) == sorted((status["web:0"].pid or 0, status["web:1"].pid or 0))
    impetusd.run("reload", "web")
    status = impetusd.settle()
    assert sorted(cells(status.shim)) == sorted((status["web:0"].pid or 0, status["web:1"].pid or 0))


def test_a_frozen_worker_takes_no_share_of_new_connections(impetusd: Instance) -> None:
    port = impetusd.port()
    status = impetusd.start(f"[pool:web]\n{pool(port, instances=WORKERS, standby=0, watchdog=0)}")
    frozen = status["web:1"].pid
    assert frozen is not None
    impetusd.kill(frozen, signal.SIGSTOP)
    try:
        with opened(port, 16 * WORKERS) as socks:
            found = owners(socks)
    finally:
        impetusd.kill(frozen, signal.SIGCONT)
    assert frozen not in found
    wait_for(lambda: fetch(port) == str(frozen), "it to serve again")
