"""A drain when nobody takes over: idle connections are not waited for, and nobody who was let in goes without an answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from waiting import until

from impetusd.worker import drain
from impetusd.worker.accept import Acceptor
from impetusd.worker.aiohttp_server import Connections
from impetusd.worker.cells import Page

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class Place:
    """One application on a socket of ours, and the drain that ends it."""

    def __init__(self, runner: web.AppRunner, listener: socket.socket) -> None:
        assert runner.server is not None
        self.server = server = runner.server
        self.listener = listener
        self.acceptor = Acceptor(Page(None, 0), server, lambda: len(server.connections))
        self.acceptor.begin([listener.dup()])
        self.drain = drain.Drain()
        self.release = asyncio.Event()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(*self.listener.getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def accepted(self, count: int) -> None:
        await until(lambda: len(self.server.connections) == count, f"{count} connections")

    def begin(self) -> asyncio.Task[None]:
        self.drain.hurry()
        self.connections = Connections(self.server, self.acceptor)
        return asyncio.create_task(self.drain.run(self.connections, 60.0, [self.listener]))

    async def began(self) -> None:
        await until(lambda: not self.acceptor.accepts, "it to stop accepting")


@contextlib.asynccontextmanager
async def placed() -> AsyncIterator[Place]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="answered")

    async def wait(_: web.Request) -> web.Response:
        await place.release.wait()
        return web.Response(text="waited")

    app = web.Application()
    app.router.add_get("/", answer)
    app.router.add_get("/wait", wait)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place(runner, listener)
        try:
            yield place
        finally:
            await runner.cleanup()


@pytest.fixture(autouse=True)
def _the_classes_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain changes aiohttp's classes for the rest of a worker's life."""
    for name in ("prepare", "write_eof"):
        monkeypatch.setattr(web.StreamResponse, name, getattr(web.StreamResponse, name))


def test_a_connection_that_was_just_accepted_gets_its_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client has sent nothing yet, and could not know that it came too late."""
    monkeypatch.setattr(drain, "_IDLE", 3600.0)

    async def play() -> bytes:
        async with asyncio.timeout(20), placed() as place, place.connect() as (reader, writer):
            await place.accepted(1)
            ending = place.begin()
            await place.began()
            writer.write(GET)
            said = await reader.read()
            await ending
            return said

    said = asyncio.run(play())
    assert said.endswith(b"answered")
    assert b"Connection: close" in said


def test_a_connection_that_stays_idle_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_IDLE", 0.01)

    async def play() -> bytes:
        async with asyncio.timeout(20), placed() as place, place.connect() as (reader, _):
            await place.accepted(1)
            await place.begin()
            return await reader.read()

    assert asyncio.run(play()) == b""


def test_who_came_into_the_queue_while_others_were_answered_is_answered_too() -> None:
    """A handshake may be under way when the socket is shut."""

    async def play() -> tuple[bytes, bytes]:
        async with asyncio.timeout(20), placed() as place, place.connect() as (reader, writer):
            writer.write(GET.replace(b"/ ", b"/wait ", 1))
            await place.accepted(1)
            ending = place.begin()
            await place.began()
            async with place.connect() as (late_reader, late_writer):
                late_writer.write(GET)
                place.release.set()
                said = await reader.read(), await late_reader.read()
                await ending
            return said

    first, late = asyncio.run(play())
    assert first.endswith(b"waited")
    assert late.endswith(b"answered")
