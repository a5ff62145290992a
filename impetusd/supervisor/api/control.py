"""The control socket's server: lines in, lines out, bounded in every direction. `commands` implements the requests.

The kernel identifies the peer (SO_PEERCRED), and its role decides what it may request, by the one table of
`core.protocol`. A peer without a role is disconnected without an answer.

Nobody can lock out root and the owner: other users' connections are limited for each user and in all. A peer that is
not an admin has a share of the processor, beyond which its requests wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from impetusd.core import protocol, redact
from impetusd.core.config.gateway import GATEWAY
from impetusd.core.protocol import ProtocolError, Request
from impetusd.linux import libc
from impetusd.linux.host import user_name
from impetusd.supervisor.budget import Budget
from impetusd.supervisor.faults import BARE

CONNECTIONS = 64  # of all users together but root and the owner
OF_ONE_USER = 16  # of these
OF_OURS = 256  # of root and the owner
SHARE, BURST = 0.04, 1.0  # of a core, and seconds of it at once: 50 times `status` of 500 units
OF_GATEWAY, BURST_OF_GATEWAY = 0.12, 3.0  # the same of one of our own units, which asks for many people
SLOW = 0.02  # seconds that are taken for what a thread does in a request that is answered slowly
IDLE = 10.0  # seconds that a connection may be silent between two requests
BACKLOG = 1024
AT_ONCE = 64  # connections that are accepted before anything else has its turn
AGAIN = 0.5  # seconds before a connection is accepted after the descriptors had run out

SIGNED = frozenset({"silence", "alert-test"})  # methods that remember the requester

SO_PEERGROUPS = 59  # of asm-generic/socket.h; Python has no name for it
MOST_GROUPS = 65536  # that a process may be in: NGROUPS_MAX

Progress = Callable[[str, str, str], None]
Follow = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Flow(NamedTuple):
    """The answer to a request that goes on after it: `follow` writes until it has nothing more to say, or is cancelled."""

    result: Mapping[str, Any]
    follow: Follow


Handle = Callable[[Request, Progress], Awaitable[Mapping[str, Any] | Flow]]


class Peer:
    """Who is at the other end: a process, or one of our own units (`via`), for itself or for the user `user`.

    `who` distinguishes peers, to limit the cost of each. For a unit, `ceiling` is the highest role that it may act in,
    and pid and uid are unknown: its requests are not made by a uid.
    """

    __slots__ = ("address", "ceiling", "gid", "groups", "pid", "role", "uid", "user", "via", "who")

    def __init__(self) -> None:
        self.pid, self.uid, self.gid = 0, -1, -1
        self.groups: frozenset[int] = frozenset()
        self.role = self.ceiling = self.via = self.user = self.address = ""
        self.who: int | str = ""

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        """The process at the other end of a connection."""
        peer = cls()
        # Recorded by the kernel at connect(): nothing that the peer does afterwards changes it.
        peer.pid, peer.uid, peer.gid = struct.unpack("i2I", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        peer.groups = frozenset({peer.gid, *_groups(sock)})
        peer.who = peer.uid
        return peer

    @classmethod
    def unit(cls, name: str, ceiling: str) -> Peer:
        """One of our own units, for itself."""
        peer = cls()
        peer.via = peer.who = name
        peer.role, peer.ceiling = protocol.VIEWER, ceiling
        return peer

    def acting(self, request: Request) -> Peer:
        """The peer that this request is for. Raises ProtocolError if this peer may not act for others."""
        if request.behalf is None:
            return self
        if self.via != GATEWAY:
            text = f"{protocol.BEHALF} is allowed only on the connections that impetusd's own gateway inherits"
            raise ProtocolError(protocol.INVALID_REQUEST, text, protocol.EXIT_FAILED, request.id)
        peer = copy.copy(self)
        peer.user, peer.address = request.behalf.user, request.behalf.address
        peer.role = min(request.behalf.role, self.ceiling, key=protocol.ROLES.index)
        return peer

    @property
    def unit_itself(self) -> str:
        """The unit, where it asks for itself."""
        return "" if self.user else self.via

    @property
    def name(self) -> str:
        """The peer's name, for display."""
        return f"{self.user} via {self.via}" if self.user else self.via or user_name(self.uid)


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
    """As getsockopt, which takes no more than 1024 bytes; b"" if it fails."""
    buffer, length = (libc.c_uint32 * (size // 4))(), libc.c_uint32(size)
    getsockopt = libc.function("getsockopt")
    failed = getsockopt(sock.fileno(), socket.SOL_SOCKET, option, buffer, libc.byref(length))
    return b"" if failed else bytes(buffer)[: length.value]


class ControlServer:
    """Answers on one listening socket."""

    def __init__(
        self,
        handle: Handle,
        complain: Callable[[str], None],
        role_of: Callable[[Peer], str],
        audit: Callable[[Peer, Request, str, str], None],
    ) -> None:
        """`complain` is called for bugs of ours: a request that failed through no fault of the caller.

        `role_of` gives one of ROLES, or "" for a peer without access. `audit` is called for each request that is not
        read-only: its outcome ("done", "failed", "refused") and the error, if there was one.
        """
        self._handle = handle
        self._complain = complain
        self._role_of = role_of
        self._audit = audit
        self._sock: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: Counter[int | str] = Counter()  # connections, by user
        self._budgets: dict[int | str, Budget] = {}  # of users who are not admins
        self.faults = BARE
        self._busy: set[asyncio.Task[None]] = set()  # those with a request under way

    async def listen(self, sock: socket.socket) -> None:
        """Answer on `sock`, in the place of the one before."""
        self._stop_listening()
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._sock = sock
        self._hear(sock)

    def _hear(self, sock: socket.socket) -> None:
        if self._sock is sock:
            self.faults.hear(sock, "the control socket", "accepting connections", self._accept, sock)

    def _stop_listening(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _accept(self, sock: socket.socket) -> None:
        """Accept a peer that has a role and not too many connections: decided before anything else is done for it."""
        for _ in range(AT_ONCE):
            try:
                connection, _ = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._complain_of_accept(error)
                return
            try:
                self._let_in(connection)
            except Exception as error:  # this connection's, and no other's
                connection.close()
                self._complain(f"control: a connection could not be accepted: {error!r}")

    def _let_in(self, connection: socket.socket) -> None:
        peer = Peer.of(connection)
        peer.role = self._role_of(peer)
        if not peer.role or self._is_too_many(connection, peer):
            connection.close()
            return
        self.serve(connection, peer)

    def serve(self, connection: socket.socket, peer: Peer) -> None:
        """Answer the peer."""
        task = asyncio.get_running_loop().create_task(self._serve(connection, peer))
        self._open[peer.who] += 1
        self._tasks.add(task)

    def count(self, who: int | str) -> int:
        """How many connections of a user, or of one of our own units, are open."""
        return self._open[who]

    def _is_too_many(self, connection: socket.socket, peer: Peer) -> bool:
        ours = {0, os.geteuid()}
        if peer.uid in ours:
            many = self._open[peer.uid] >= OF_OURS
        else:
            others = sum(count for uid, count in self._open.items() if isinstance(uid, int) and uid not in ours)
            many = self._open[peer.uid] >= OF_ONE_USER or others >= CONNECTIONS
        if many:
            error = ProtocolError(
                protocol.FAILED, "too many connections are open; try again later", protocol.EXIT_FAILED
            )
            with contextlib.suppress(OSError):
                connection.send(protocol.error_line(error), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return many

    def _complain_of_accept(self, error: OSError) -> None:
        """Without a descriptor to spare nobody can be let in: again in a moment."""
        sock, loop = self._sock, asyncio.get_running_loop()
        if sock is None or error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
            return
        self._complain(f"control: connections cannot be accepted: {error.strerror}; retrying in {AGAIN:g} s")
        loop.remove_reader(sock)
        loop.call_later(AGAIN, self.faults.attempt, "the control socket", "listening again", self._hear, sock)

    async def _serve(self, connection: socket.socket, peer: Peer) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a connection is handled in a task")
        writer = None
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=protocol.MAX_LINE + 1)
            await self._converse(task, peer, reader, writer)
        except (ConnectionError, TimeoutError):
            pass
        except Exception as error:
            self._complain(f"control: {error!r}")
        finally:
            self._tasks.discard(task)
            self._open[peer.who] -= 1
            if not self._open[peer.who]:
                del self._open[peer.who]
            (writer or connection).close()

    async def _wait_for_turn(self, peer: Peer) -> None:
        """Until what the peer's user has cost is within its share."""
        loop = asyncio.get_running_loop()
        budget = self._budgets.get(peer.who)
        while budget is not None and (pause := budget.spend(0.0, loop.time())):  # noqa: ASYNC110  # it is time alone
            await asyncio.sleep(pause)

    def _charge(self, peer: Peer, seconds: float) -> None:
        if peer.role == protocol.ADMIN and not peer.via:
            return
        now = asyncio.get_running_loop().time()
        for who in [who for who, budget in self._budgets.items() if budget.full(now)]:
            del self._budgets[who]
        share = (OF_GATEWAY, BURST_OF_GATEWAY) if peer.via else (SHARE, BURST)
        self._budgets.setdefault(peer.who, Budget(*share, now)).spend(seconds, now)

    async def _converse(
        self, task: asyncio.Task[None], peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE):
                    line = await reader.readline()
            except ValueError:  # longer than the limit: its end cannot be found
                error = ProtocolError(protocol.PARSE_ERROR, f"a line must not exceed {protocol.MAX_LINE} bytes")
                await _send(writer, protocol.error_line(error))
                return
            if not line.endswith(b"\n"):
                return
            await self._wait_for_turn(peer)
            self._busy.add(task)
            try:
                answer, follow = await self._answer(line, peer, writer)
                await _send(writer, answer)
            finally:
                self._busy.discard(task)
            if follow is not None:
                await self._flow(follow, reader, writer)
                return

    @staticmethod
    async def _flow(follow: Follow, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The rest of the connection belongs to this answer: any input from the client, or its disconnection, ends
        it."""
        flowing, heard = asyncio.ensure_future(follow(writer)), asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({flowing, heard}, return_when=asyncio.FIRST_COMPLETED)
            if flowing.done():
                flowing.result()
        finally:
            for task in (flowing, heard):
                task.cancel()
            await asyncio.gather(flowing, heard, return_exceptions=True)
            writer.transport.abort()  # data that it has not read by now is dropped

    async def _answer(self, line: bytes, peer: Peer, writer: asyncio.StreamWriter) -> tuple[bytes, Follow | None]:
        news: list[bytes] = []

        def progress(name: str, state: str, reason: str) -> None:
            if not news:  # 500 programs that end in one round are one write
                asyncio.get_running_loop().call_soon(self.faults.contain, "a client", "sending progress", pass_on)
            news.append(protocol.progress_line(name, state, reason))

        def pass_on() -> None:
            if not writer.is_closing() and writer.transport.get_write_buffer_size() < protocol.MAX_LINE:
                writer.write(b"".join(news))
            news.clear()

        begun, besides, slow = time.thread_time(), 0.0, False
        try:
            request = protocol.parse_request(line)
            request.at = time.monotonic()
            method = protocol.METHODS[request.method]
            peer = peer.acting(request)
            if not protocol.may(peer.role, request.method, peer.unit_itself):
                role = method.role if method.role in protocol.ROLES else f"of impetusd's own {method.unit}"
                sentence = (
                    f"{request.method} requires the role {role}, but yours is {peer.role}; see"
                    f" {'[gateway]' if peer.via else '[impetusd]'} in the INI file"
                )
                self._audit(peer, request, "refused", sentence)
                raise ProtocolError(protocol.FAILED, sentence, protocol.EXIT_FAILED, request.id)
            if method.secrets and peer.uid != os.geteuid():
                sentence = f"{request.method} must be run as the user that impetusd runs as (user ID {os.geteuid()})"
                self._audit(peer, request, "refused", sentence)
                raise ProtocolError(protocol.FAILED, sentence, protocol.EXIT_FAILED, request.id)
            request.by = peer.name if request.method in SIGNED else ""
            request.pid = peer.pid
            slow = method.slow
            besides = time.thread_time() - begun + SLOW if slow else 0.0
            return await self._carry_out(request, peer, method, progress, pass_on)
        except ProtocolError as error:
            return protocol.error_line(error), None
        finally:
            self._charge(peer, besides + (0.0 if slow else time.thread_time() - begun))

    async def _carry_out(
        self,
        request: Request,
        peer: Peer,
        method: protocol.Method,
        progress: Progress,
        pass_on: Callable[[], None],
    ) -> tuple[bytes, Follow | None]:
        """The answer, and how it goes on. `pass_on` sends the progress so far: the answer comes after it."""
        try:
            answer = await self._handle(request, progress)
            result, follow = answer if isinstance(answer, Flow) else (answer, None)
            pass_on()
            if not method.looks:
                self._audit(peer, request, "done" if result.get("ok", True) else "failed", "")
            how = {} if method.secrets else {"shown": redact.everything}
            return protocol.result_line(request.id, result, stated=request.stated, **how), follow
        except ProtocolError as error:
            pass_on()
            if not method.looks:
                self._audit(peer, request, "failed", error.message)
            error.id, error.message = request.id, redact.text(error.message)
            return protocol.error_line(error), None
        except ConnectionError:
            raise
        except Exception as error:
            self._complain(f"control: {request.method} failed: {error!r}")
            self._audit(peer, request, "failed", repr(error))
            sentence = f"{request.method} failed inside impetusd ({type(error).__name__}: {error}); see its log"
            return protocol.error_line(ProtocolError(protocol.INTERNAL_ERROR, sentence, 1, request.id)), None

    async def close(self) -> None:
        """Stop accepting connections, and let pending answers reach their clients."""
        self._stop_listening()
        if self._busy:
            await asyncio.wait(self._busy, timeout=1.0)
        for task in self._tasks:
            task.cancel()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Raises TimeoutError when the client takes nothing for IDLE seconds."""
    writer.write(data)
    async with asyncio.timeout(IDLE):
        await writer.drain()
