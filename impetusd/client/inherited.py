"""Connections to the supervisor for the units that impetusd makes itself, over the descriptor that their processes inherit.

All processes of a unit share it, and connections are interchangeable: any waiter takes the next one, whoever requested
it. See `supervisor.api.inherited` for the other end.
"""

from __future__ import annotations

import array
import asyncio
import os
import select
import socket
from typing import TYPE_CHECKING

from impetusd.core import protocol
from impetusd.core.config.gateway import CHANNEL
from impetusd.core.protocol import CONNECT, FULL

if TYPE_CHECKING:
    from collections.abc import Mapping

AGAIN = 0.05  # seconds until what was full is tried again
ANCILLARY = 256  # bytes: a descriptor, and what a process before has asked for besides (SO_PASSCRED)
WITHIN = 10.0  # seconds for a connection: a supervisor needs 0.5 to come back


def number(environ: Mapping[str, str]) -> int:
    """The descriptor. Raises KeyError, ValueError in a process that inherits none."""
    return int(environ[CHANNEL])


class Inherited:
    """As `async_control.at`, of the descriptor `fd`, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=os.dup(fd))
        self._sock.setblocking(False)
        self._turn = asyncio.Lock()

    async def __call__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection. Raises OSError; TimeoutError where no supervisor answers."""
        async with asyncio.timeout(WITHIN), self._turn:
            sock = await self._connection()
        return await asyncio.open_unix_connection(sock=sock, limit=protocol.MAX_ANSWER)

    async def _connection(self) -> socket.socket:
        asked = False
        while True:
            answer = take(self._sock)
            if isinstance(answer, socket.socket):
                return answer
            if answer == FULL:
                asked = False
                await asyncio.sleep(AGAIN)
            elif not asked:
                asked = ask(self._sock)
                if not asked:
                    await asyncio.sleep(AGAIN)
            else:
                await self._readable()

    async def _readable(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._sock, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._sock)

    def close(self) -> None:
        """Stop asking."""
        self._sock.close()


def connect(fd: int, within: float = WITHIN) -> socket.socket:
    """The same for a program without an event loop: blocks, `within` seconds at most. Raises OSError, TimeoutError."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        asked = False
        for _ in range(round(within / AGAIN)):
            answer = take(sock)
            if isinstance(answer, socket.socket):
                answer.setblocking(True)
                return answer
            asked = (asked and answer != FULL) or ask(sock)
            poll.poll(AGAIN * 1000)
    raise TimeoutError("the supervisor does not answer")


def ask(sock: socket.socket) -> bool:
    """Ask for a connection. False: too much was asked that nobody has answered yet."""
    try:
        sock.send(CONNECT, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return False
    return True


def take(sock: socket.socket) -> socket.socket | bytes:
    """A connection that has come and that a supervisor still holds the other end of; FULL; b"" for nothing."""
    while True:
        try:
            message, ancillary, _, _ = sock.recvmsg(16, ANCILLARY, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return b""
        if not message:
            raise ConnectionResetError("the other end was closed")
        rights = [data for _, kind, data in ancillary if kind == socket.SCM_RIGHTS]
        fds = [fd for data in rights for fd in array.array("i", data)]
        if message == FULL or not fds:
            return FULL
        found = socket.socket(fileno=fds[0])
        found.setblocking(False)
        poll = select.poll()
        poll.register(found, 0)  # it says POLLHUP unasked: one that the supervisor before had given
        if not poll.poll(0):
            return found
        found.close()
