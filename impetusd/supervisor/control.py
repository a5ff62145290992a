"""The control socket's server: lines in, lines out, bounded in every direction. What a request means is `commands`.

Who asks is what the kernel says of the peer (SO_PEERCRED), and what it may ask for is its role, in the one table of
`core.protocol`. Who has none is closed without an answer.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from impetusd.core import protocol, redact
from impetusd.core.protocol import ProtocolError, Request

CONNECTIONS = 64
IDLE = 10.0  # seconds that a connection may be silent between two requests
BACKLOG = 1024

SO_PEERGROUPS = 59  # of asm-generic/socket.h; Python has no name for it
MOST_GROUPS = 65536  # that a process may be in: NGROUPS_MAX

Progress = Callable[[str, str, str], None]
Handle = Callable[[Request, Progress], Awaitable[Mapping[str, Any]]]


class Peer:
    """The process at the other end."""

    __slots__ = ("gid", "groups", "pid", "role", "uid")

    def __init__(self, sock: socket.socket) -> None:
        # What the kernel noted when it connected: nothing that the peer does afterwards changes it.
        self.pid, self.uid, self.gid = struct.unpack("i2I", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self.groups = frozenset({self.gid, *_groups(sock)})
        self.role = ""


def _groups(sock: socket.socket) -> tuple[int, ...]:
    """The peer's supplementary groups (Linux 4.13)."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
    except OSError as error:
        if error.errno != errno.ERANGE:
            return ()
        raw = _long_option(sock, SO_PEERGROUPS, MOST_GROUPS * 4)
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _long_option(sock: socket.socket, option: int, size: int) -> bytes:
    """As getsockopt, which takes no more than 1024 bytes; b"" where it fails."""
    import ctypes

    buffer, length = ctypes.create_string_buffer(size), ctypes.c_uint32(size)
    getsockopt = ctypes.CDLL(None).getsockopt
    failed = getsockopt(sock.fileno(), socket.SOL_SOCKET, option, buffer, ctypes.byref(length))
    return b"" if failed else buffer.raw[: length.value]


class ControlServer:
    """Answers on one listening socket."""

    def __init__(
        self,
        handle: Handle,
        complain: Callable[[str], None],
        role_of: Callable[[Peer], str],
        audit: Callable[[Peer, Request, str, str], None],
    ) -> None:
        """`complain` is told of mistakes of ours: a request that failed for no reason of the caller's.

        `role_of` gives one of ROLES, or "" for who may ask nothing. `audit` hears of each request for more than to look:
        its outcome ("done", "failed", "refused") and the error, if there was one.
        """
        self._handle = handle
        self._complain = complain
        self._role_of = role_of
        self._audit = audit
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
            peer = Peer(writer.get_extra_info("socket"))
            peer.role = self._role_of(peer)
            if len(self._tasks) <= CONNECTIONS and peer.role:
                await self._converse(task, peer, reader, writer)
        except (ConnectionError, TimeoutError):
            pass
        except Exception as error:
            self._complain(f"control: {error!r}")
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(
        self, task: asyncio.Task[None], peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
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
                writer.write(await self._answer(line, peer, writer))
                await asyncio.wait_for(writer.drain(), IDLE)
            finally:
                self._busy.discard(task)

    async def _answer(self, line: bytes, peer: Peer, writer: asyncio.StreamWriter) -> bytes:
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
            request.at = time.monotonic()
        except ProtocolError as error:
            return protocol.error_line(error)
        needed = protocol.METHODS[request.method].role
        if not protocol.may(peer.role, request.method):
            sentence = (
                f"{request.method} takes the role {needed}, and yours is {peer.role}: see [impetusd] in the INI file"
            )
            self._audit(peer, request, "refused", sentence)
            return protocol.error_line(ProtocolError(protocol.FAILED, sentence, protocol.EXIT_FAILED, request.id))
        try:
            result = await self._handle(request, progress)
            pass_on()  # the answer comes last
            if needed != protocol.VIEWER:
                self._audit(peer, request, "done" if result.get("ok", True) else "failed", "")
            return protocol.result_line(request.id, redact.everything(result))
        except ProtocolError as error:
            pass_on()
            if needed != protocol.VIEWER:
                self._audit(peer, request, "failed", error.message)
            error.id, error.message = request.id, redact.text(error.message)
            return protocol.error_line(error)
        except ConnectionError:
            raise
        except Exception as error:
            self._complain(f"control: {request.method} failed: {error!r}")
            self._audit(peer, request, "failed", repr(error))
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
