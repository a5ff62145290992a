"""The control socket's server: lines in, lines out, bounded in every direction. What a request means is `commands`.

Who may ask is what the kernel says of the peer (SO_PEERCRED): root and the user that impetusd runs as. Others are
closed without an answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from impetusd.core import protocol
from impetusd.core.protocol import ProtocolError, Request

CONNECTIONS = 64
IDLE = 10.0  # seconds that a connection may be silent between two requests
BACKLOG = 1024

Progress = Callable[[str, str, str], None]
Handle = Callable[[Request, Progress], Awaitable[Mapping[str, Any]]]


class ControlServer:
    """Answers on one listening socket."""

    def __init__(self, handle: Handle, complain: Callable[[str], None]) -> None:
        """`complain` is told of mistakes of ours: a request that failed for no reason of the caller's."""
        self._handle = handle
        self._complain = complain
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[asyncio.Task[None]] = set()  # those with a request under way

    async def listen(self, sock: socket.socket) -> None:
        """Answer on `sock`, in the place of the one before."""
        if self._server is not None:
            self._server.close()
        self._server = await asyncio.start_unix_server(
            self._serve, sock=sock, backlog=BACKLOG, limit=protocol.MAX_LINE + 1
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a connection is served in a task")
        self._tasks.add(task)
        try:
            if len(self._tasks) <= CONNECTIONS and may_ask(writer.get_extra_info("socket")):
                await self._converse(task, reader, writer)
        except (ConnectionError, TimeoutError):
            pass
        except Exception as error:
            self._complain(f"control: {error!r}")
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), IDLE)
            except ValueError:  # longer than the limit: what follows cannot be told from it
                error = ProtocolError(protocol.PARSE_ERROR, f"a line may have at most {protocol.MAX_LINE} bytes")
                writer.write(protocol.error_line(error))
                await asyncio.wait_for(writer.drain(), IDLE)
                return
            if not line.endswith(b"\n"):
                return
            self._busy.add(task)
            try:
                writer.write(await self._answer(line, writer))
                await asyncio.wait_for(writer.drain(), IDLE)
            finally:
                self._busy.discard(task)

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> bytes:
        news: list[bytes] = []

        def progress(name: str, state: str, reason: str) -> None:
            if not news:  # 500 programs that end in one round are one write
                asyncio.get_running_loop().call_soon(pass_on)
            news.append(protocol.progress_line(name, state, reason))

        def pass_on() -> None:
            if not writer.is_closing() and writer.transport.get_write_buffer_size() < protocol.MAX_LINE:
                writer.write(b"".join(news))
            news.clear()

        try:
            request = protocol.parse_request(line)
        except ProtocolError as error:
            return protocol.error_line(error)
        try:
            result = await self._handle(request, progress)
            pass_on()  # the answer comes last
            return protocol.result_line(request.id, result)
        except ProtocolError as error:
            pass_on()
            error.id = request.id
            return protocol.error_line(error)
        except ConnectionError:
            raise
        except Exception as error:
            self._complain(f"control: {request.method} failed: {error!r}")
            sentence = f"{request.method} failed inside impetusd ({type(error).__name__}: {error}); its log has more"
            return protocol.error_line(ProtocolError(protocol.INTERNAL_ERROR, sentence, 1, request.id))

    async def close(self) -> None:
        """Take no more connections, and let the answers that are under way reach their clients."""
        if self._server is not None:
            self._server.close()
        if self._busy:
            await asyncio.wait(self._busy, timeout=1.0)
        for task in self._tasks:
            task.cancel()


def may_ask(sock: socket.socket) -> bool:
    """Whether the peer is root or runs as we do."""
    pid_uid_gid = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", pid_uid_gid)[1] in {0, os.geteuid()}
