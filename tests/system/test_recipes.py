"""The recipes, each with a real app in its framework, in one daemon: started, killed, reloaded, and a bad version refused."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from instance import PROGRAMS, Instance, wait_for
from load import Load, fetch

PAGE = (Path(__file__).parents[2] / "impetusd" / "help" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```ini\n(\[pool:.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
SHOPS = ("aiohttp", "fastapi", "starlette", "litestar", "django-asgi", "django-wsgi", "flask")
WITH_WEBSOCKETS = ("aiohttp", "fastapi", "starlette", "litestar")


def block(name: str) -> str:
    (found,) = [each for each in BLOCKS if each.startswith(f"[pool:{name}]")]
    return found


@pytest.mark.parametrize("name", SHOPS)
def test_a_recipe_is_short(name: str) -> None:
    assert block(name).count("\n") <= 10


def test_every_recipe_is_true(impetusd: Instance) -> None:
    folders = {name: impetusd.root / name.partition("-")[0] for name in SHOPS}
    for folder in set(folders.values()):
        shutil.copytree(PROGRAMS / "shops" / folder.name, folder)
        os.mkfifo(folder / "go")
    ports = {name: impetusd.port() for name in SHOPS}
    ini = "\n".join(map(block, SHOPS)).replace("/srv/", f"{impetusd.root}/")
    for name, recipe in zip(SHOPS, re.findall(r"127\.0\.0\.1:80\d\d", ini), strict=True):
        ini = ini.replace(recipe, f"127.0.0.1:{ports[name]}")
    ini = re.sub(r"(?m)^(\[pool:.*\])$", r"\1\nreload_watch = 100ms\nreload_parallel = 2", ini)
    impetusd.start(ini)
    before = impetusd.settle()
    assert {fetch(port).isdecimal() for port in ports.values()} == {True}

    for name in SHOPS:
        impetusd.kill(before[f"{name}:0"].pid)
    healed = impetusd.settle(lambda now: all(now[f"{name}:0"].restarts == 1 for name in SHOPS))
    for name in SHOPS:
        assert fetch(ports[name]) in {str(healed[f"{name}:{number}"].pid) for number in (0, 1)}

    with ExitStack() as stack:
        loads = {name: stack.enter_context(Load(port, kept=1, fresh=1)) for name, port in ports.items()}
        streams = {name: stack.enter_context(streaming(ports[name])) for name in SHOPS if name != "django-wsgi"}
        sockets = {name: stack.enter_context(talking(ports[name])) for name in WITH_WEBSOCKETS}
        reloads = [impetusd.popen("reload", name) for name in SHOPS]
        for name in as_they_drain(impetusd, {*streams, *sockets}):
            if name in sockets:
                sockets[name].sendall(b"\x81\x82\0\0\0\0ho")
                assert sockets[name].recv(4) == b"\x81\x02ho", f"{name}: the drain lets a conversation go on"
            if name in streams:
                (folders[name] / "go").write_bytes(b"")
                assert read_all(streams[name]).endswith(b"5\r\nended\r\n0\r\n\r\n"), name
        for name, sock in sockets.items():
            assert goodbye(sock) == 1001, name
        for reload in reloads:
            impetusd.finish(reload)
        for load in loads.values():
            load.go_on(10)
    after = impetusd.settle()
    assert not set(after.pids.values()) & set(healed.pids.values())

    for name in SHOPS:
        module = re.search(r"app\s*= ([\w.]+)", block(name))
        assert module
        path = folders[name] / module[1].replace(".", "/")
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).write_text(
            "raise RuntimeError('a bad deploy')\n"
        )
    refused = [impetusd.popen("reload", name) for name in SHOPS]
    for name, reload in zip(SHOPS, refused, strict=True):
        assert "a bad deploy" in str(impetusd.finish(reload, code=1)), name
        assert fetch(ports[name]) in {str(after[f"{name}:{number}"].pid) for number in (0, 1)}


def as_they_drain(impetusd: Instance, left: set[str]) -> Iterator[str]:
    """Each shop, as soon as an old worker of it drains; one of them is held by something that does not end by itself."""

    def next_ones() -> set[str]:
        rows = impetusd.status().rows.items()
        stopping = {slot.partition(":")[0] for slot, row in rows if row.state == "STOPPING"}
        return stopping & left

    while left:
        found = wait_for(next_ones, "old workers to drain")
        left -= found
        yield from found


@contextmanager
def connected(port: int, path: str, until: bytes, *headers: str) -> Iterator[socket.socket]:
    """A connection that has asked for `path`, and read as far as `until`."""
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: shop", *headers, "", ""]).encode())
        said = b""
        while not said.endswith(until):
            more = sock.recv(1)
            assert more, said
            said += more
        yield sock


def streaming(port: int) -> AbstractContextManager[socket.socket]:
    return connected(port, "/stream", b"6\r\nbegun \r\n")


def talking(port: int) -> AbstractContextManager[socket.socket]:
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
    )
    return connected(port, "/ws", b"\r\n\r\n", *upgrade)


def read_all(sock: socket.socket) -> bytes:
    """As far as the last chunk."""
    said = b""
    while not said.endswith(b"0\r\n\r\n"):
        more = sock.recv(4096)
        assert more, said
        said += more
    return said


def goodbye(sock: socket.socket) -> int:
    """The code that a WebSocket is closed with."""
    head = sock.recv(2)
    assert head[:1] == b"\x88", head
    return int.from_bytes(sock.recv(head[1])[:2], "big")
