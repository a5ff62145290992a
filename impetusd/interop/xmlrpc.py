"""supervisord's protocol over HTTP: POST /RPC2, and the two paths that `tail -f` and `maintail -f` follow.

It has a listener of its own, a unix socket or a TCP port, and nothing else is served there. On the unix socket the kernel
says who asks; on TCP each request brings a user and a password. What the caller may do the supervisor decides.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import socket
import struct
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from aiohttp import hdrs, web

from impetusd.client.control import ControlError
from impetusd.core import protocol
from impetusd.interop import xmlrpc_text
from impetusd.interop.supervisord import Fault
from impetusd.interop.xmlrpc_asking import Progress, Refused
from impetusd.interop.xmlrpc_methods import OURS, Methods

LONGEST_LOGIN = 1024  # characters of an Authorization header
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
SO_PEERGROUPS = 59  # of asm-generic/socket.h; Python has no name for it


class Caller(Protocol):
    """A user with its role."""

    @property
    def role(self) -> str: ...


class Backend(Protocol):
    """What asks the supervisor in a caller's name. Raises ControlError, Unanswered."""

    def call(
        self, method: str, params: Mapping[str, Any], caller: Any, progress: Progress | None = None
    ) -> Awaitable[dict[str, Any]]: ...


class Peer(NamedTuple):
    """The process at the other end of a unix socket, as the kernel noted it when it connected."""

    uid: int
    gids: frozenset[int]


OfPeer = Callable[[Peer], Awaitable[Any]]  # its Caller; None for one that may not ask anything
OfPassword = Callable[[str, str, str], Awaitable[Any]]  # of whoever guesses, a user and a password: the same
Turn = Callable[[Any, bool], contextlib.AbstractContextManager[None]]


class Supervisord:
    """The listener. `handle` answers whatever comes there; it raises web.HTTPException for what is no call."""

    def __init__(
        self,
        backend: Backend,
        of_peer: OfPeer,
        of_password: OfPassword,
        *,
        hosts: Iterable[str] = (),
        ceiling: str = protocol.ADMIN,
        over: asyncio.Event | None = None,
        turn: Turn = lambda _caller, _lasts: contextlib.nullcontext(),
    ) -> None:
        """`hosts`: names besides those of the loopback that a request may be for. `ceiling`: the highest role that the
        supervisor lets anybody have here. `over`: set once whoever follows a log is to be let go. `turn`: entered while a
        caller is answered, or raises; of one who follows a log it `lasts`.
        """
        self._backend = backend
        self._of_peer = of_peer
        self._of_password = of_password
        self._hosts = LOOPBACK | {host.lower() for host in hosts}
        self._ceiling = ceiling
        self._over = over or asyncio.Event()
        self._turn = turn
        self._background: set[asyncio.Task[Any]] = set()
        self._applied: dict[str, bool] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self._check_origin(request)
        path = urllib.parse.unquote(request.rel_url.raw_path)
        caller = await self._caller(request)
        with self._turn(caller, path != "/RPC2"):
            return await self._answer(request, path, self._methods(caller))

    async def _answer(self, request: web.Request, path: str, methods: Methods) -> web.StreamResponse:
        if path == "/RPC2":
            if request.method != hdrs.METH_POST:
                raise web.HTTPMethodNotAllowed(request.method, [hdrs.METH_POST])
            return await self._rpc(request, methods)
        words = path.removeprefix("/").split("/")
        if words[0] not in {"logtail", "mainlogtail"} or len(words) > (3 if words[0] == "logtail" else 1):
            raise web.HTTPNotFound
        if request.method != hdrs.METH_GET:
            raise web.HTTPMethodNotAllowed(request.method, [hdrs.METH_GET])
        return await self._follow(request, methods, words[1:])

    # Who asks.

    def _check_origin(self, request: web.Request) -> None:
        """No browser asks here: not from another page, nor by a name that somebody made point here."""
        if hdrs.ORIGIN in request.headers:
            raise web.HTTPForbidden(text="this API is for supervisord clients, not for web pages")
        host = request.headers.get(hdrs.HOST, "").lower()
        if _is_unix(request) and not host:  # of a unix socket supervisorctl gives none
            return
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        if name not in self._hosts and name != _own_address(request):
            raise web.HTTPMisdirectedRequest(
                text=f"{name[:100]!r} is not a known name of this host; see hosts in [gateway]"
            )

    def _methods(self, caller: Any) -> Methods:
        def call(method: str, params: Mapping[str, Any], progress: Progress | None) -> Awaitable[dict[str, Any]]:
            return self._backend.call(method, params, caller, progress)

        role = min(caller.role, self._ceiling, key=protocol.ROLES.index)
        return Methods(call, role, self._background, self._applied)

    async def _caller(self, request: web.Request) -> Any:
        if _is_unix(request):
            caller = await self._of_peer(_peer(request))
            if caller is None:
                raise _forbidden("your user has no role: see [impetusd] in the INI file")
            return caller
        user, password = _basic(request)
        caller = await self._of_password(request.remote or "", user, password) if user else None
        if caller is None:
            raise web.HTTPUnauthorized(headers={hdrs.WWW_AUTHENTICATE: 'Basic realm="impetusd"'})
        return caller

    # What is asked.

    async def _rpc(self, request: web.Request, methods: Methods) -> web.Response:
        name, params = await _call(request)
        try:
            body = xmlrpc_text.answer(await methods.run(name, params))
        except Fault as fault:
            body = xmlrpc_text.fault(fault.code, str(fault))
        except Refused as error:
            raise _forbidden(str(error)) from None
        return web.Response(body=body, content_type="text/xml")

    async def _follow(self, request: web.Request, methods: Methods, words: list[str]) -> web.StreamResponse:
        channel = words[1] if len(words) > 1 else "stdout"
        if channel not in {"stdout", "stderr"}:
            raise web.HTTPNotFound
        try:
            log = await methods.log_of(words[0], channel) if words else methods.log(OURS, channel)
            lines = log.follow()
            first = await anext(lines)
        except Refused as error:
            raise _forbidden(str(error)) from None
        except (Fault, ControlError) as error:
            raise web.HTTPNotFound(text=str(error)) from None
        response = web.StreamResponse(
            headers={hdrs.CONTENT_TYPE: "text/plain; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        await response.write(first.encode())
        over = asyncio.create_task(self._over.wait())
        writing = asyncio.create_task(_write(request, response, lines))
        try:
            await asyncio.wait({over, writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (over, writing):
                task.cancel()
            await asyncio.gather(over, writing, return_exceptions=True)
        return response


async def _write(request: web.Request, response: web.StreamResponse, lines: AsyncIterator[str]) -> None:
    """Until the client goes, or the log can no longer be read."""
    try:
        async for text in lines:
            if request.transport is None or request.transport.is_closing():
                return
            if text:
                await response.write(text.encode())
    except (ControlError, Fault, Refused, ConnectionError):
        return


async def _call(request: web.Request) -> tuple[str, list[Any]]:
    """The method and its parameters; 4xx for what is no call."""
    if request.content_type not in {"text/xml", "application/xml"}:
        raise web.HTTPUnsupportedMediaType(text="a call needs the Content-Type text/xml")
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType(text="a call must not be compressed")
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > xmlrpc_text.MAX_BODY:
            raise web.HTTPRequestEntityTooLarge(xmlrpc_text.MAX_BODY, len(body))
    try:
        return xmlrpc_text.request(bytes(body))
    except xmlrpc_text.Malformed as error:
        raise web.HTTPBadRequest(text=str(error)) from None


def _forbidden(sentence: str) -> web.HTTPForbidden:
    """Clients show the first line of such an answer, and of most faults the number alone."""
    reason = "".join(char if " " <= char <= "~" else "?" for char in sentence)[:300]
    return web.HTTPForbidden(reason=reason, text=sentence)


def _socket(request: web.Request) -> socket.socket:
    sock: socket.socket | None = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None:
        raise web.HTTPBadRequest(text="the connection was closed")
    return sock


def _own_address(request: web.Request) -> str:
    """That the connection was made to, as a URL has it; "" of a unix socket."""
    name = _socket(request).getsockname()
    if not isinstance(name, tuple):
        return ""
    return f"[{name[0]}]" if ":" in name[0] else str(name[0])


def _is_unix(request: web.Request) -> bool:
    return _socket(request).family == socket.AF_UNIX


def _peer(request: web.Request) -> Peer:
    sock = _socket(request)
    _, uid, gid = struct.unpack("i2I", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
    except OSError:  # more than 256 groups: the first one counts
        raw = b""
    return Peer(uid, frozenset({gid, *struct.unpack(f"{len(raw) // 4}I", raw)}))


def _basic(request: web.Request) -> tuple[str, str]:
    """User and password of HTTP basic authentication; "" where there is none."""
    header = request.headers.get(hdrs.AUTHORIZATION, "")
    scheme, _, coded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        if len(header) > LONGEST_LOGIN:
            raise binascii.Error
        user, _, password = base64.b64decode(coded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise web.HTTPBadRequest(text="the Authorization header cannot be read") from None
    return user, password
