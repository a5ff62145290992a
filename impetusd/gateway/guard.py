"""What every request passes before anything looks at it, on every listener; and what every answer carries.

In this order: the Host header (else a page of somebody else could reach us under a name of its own, by DNS rebinding), the
Origin and where the browser says that the request comes from, the route and its method, the type of the body, the login, the
role, how many requests of this user there were lately. There is no CORS: no other origin is ever allowed anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from impetusd.client.control import ControlError, Unanswered
from impetusd.core.protocol import ROLES, ProtocolError
from impetusd.gateway import forwarded, routes, tokens
from impetusd.gateway.access import Access, TooMany, Unavailable
from impetusd.gateway.caller import Caller
from impetusd.gateway.problems import OF_EXIT, Problem
from impetusd.gateway.routes import BEGUN, CALLER, OPEN
from impetusd.gateway.turns import Turns

LARGEST_BODY = 1 << 16  # bytes; whoever is not logged in can have so many held for each connection
X_FORWARDED_FOR, X_FORWARDED_PROTO = "X-Forwarded-For", "X-Forwarded-Proto"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "impetusd",
}
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE | re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,128})", re.IGNORECASE)

ACCESS = web.AppKey("impetusd.access", Access)
_log = logging.getLogger("impetusd.gateway")


@dataclass(frozen=True, slots=True)
class Rules:
    """`hosts`: names, or addresses, that the gateway may be called by besides its own address and localhost.

    `tls`: it speaks TLS itself; `proxy`: a proxy does so before it, at its unix socket, or at `proxies`.
    """

    hosts: frozenset[str] = frozenset()
    tls: bool = False
    proxy: bool = False
    proxies: tuple[forwarded.Network, ...] = ()

    @property
    def secure(self) -> bool:
        """Whether browsers speak TLS."""
        return self.tls or self.proxy

    def cookie(self, request: web.Request) -> str:
        """The name of the session's cookie. Browsers keep cookies apart by host, not by port: so the port is in it."""
        local = _local(request)
        port = f"-{local[1]}" if local else ""
        return f"{'__Host-' if self.secure else ''}impetusd{port}"

    def client(self, request: web.Request) -> forwarded.Address | None:
        """From where somebody asks; None where that is not known."""
        trusts = self.proxy and request.remote is not None
        given = request.headers.getall(X_FORWARDED_FOR, []) if trusts else []
        return forwarded.client(_peer(request), given, self.proxies)

    def scheme(self, request: web.Request) -> str:
        """What the browser speaks: https, http, or "" where that is not known, as of what comes past the proxy."""
        if self.tls:
            return "https"
        trusts = self.proxy and request.remote is not None
        if not trusts or not forwarded.is_trusted(_peer(request), self.proxies):
            return ""
        return forwarded.scheme(request.headers.getall(X_FORWARDED_PROTO, [])) or "https"


RULES = web.AppKey("impetusd.rules", Rules)
TURNS = web.AppKey("impetusd.turns", Turns)


def install(app: web.Application, rules: Rules, access: Access) -> None:
    """Have every request pass, and every answer carry its headers."""
    app[RULES], app[ACCESS] = rules, access
    app[TURNS] = Turns()
    app.middlewares.append(guard)
    app.on_response_prepare.append(_complete)
    app.cleanup_ctx.append(_follow_access)
    logging.getLogger("aiohttp.server").addFilter(_is_mistake)


def _is_mistake(record: logging.LogRecord) -> bool:
    """Not what is malformed: each would be a traceback in the log, which anybody could fill so."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


async def _follow_access(app: web.Application) -> Any:
    await app[ACCESS].open()
    yield
    await app[ACCESS].close()


async def _complete(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")


@web.middleware
async def guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let a request through to its handler, or answer what is wrong with it."""
    try:
        _check(request)
        with _turn(request):
            return _revalidated(request, await handler(request))
    except Problem as problem:
        return _unless_begun(request, problem)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kept = {str(name): error.headers[name] for name in (hdrs.ALLOW, hdrs.RETRY_AFTER) if name in error.headers}
        return _unless_begun(request, Problem(error.status, error.text or error.reason, kept))
    except (ControlError, ProtocolError) as error:
        return _unless_begun(request, of_refusal(error))
    except Unavailable as error:
        return _unless_begun(request, Problem(503, str(error)))
    except TooMany:
        return _unless_begun(request, Problem(429, "too many streams are open", {hdrs.RETRY_AFTER: "5"}))
    except (ConnectionError, TimeoutError):
        raise
    except Exception:
        _log.exception("%s %s failed", request.method, request.match_info.route.resource)
        return _unless_begun(request, Problem(500, "this is a bug in impetusd; see the gateway's log"))


def _revalidated(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """A JSON answer with its tag; without its body, if the client has it already."""
    if request.method != hdrs.METH_GET or not isinstance(response, web.Response) or response.status != 200:
        return response
    if response.content_type != routes.JSON or not isinstance(response.body, bytes):
        return response
    tag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    if request.headers.get(hdrs.IF_NONE_MATCH) == tag:
        response = web.Response(status=304)
    response.headers[hdrs.ETAG] = tag
    return response


def _unless_begun(request: web.Request, problem: Problem) -> web.Response:
    """An answer that has begun cannot become another one: its connection is cut."""
    if request.get(BEGUN):
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError(problem.detail)
    return problem.response()


def of_refusal(error: ControlError | ProtocolError) -> Problem:
    """What the supervisor refused, or would have: as a problem with the status that fits its exit code."""
    if isinstance(error, Unanswered):
        return Problem(503, str(error), {hdrs.RETRY_AFTER: "1"})
    _, status = OF_EXIT.get(error.exit, OF_EXIT[1])
    return Problem(status, str(error))


def _check(request: web.Request) -> None:
    rules = request.app[RULES]
    host = _host(request)
    if not is_allowed(host, rules.hosts, _local(request)):
        raise Problem(421, f"the gateway does not accept requests for the host {host!r}; see hosts in [gateway]")
    _check_origin(request, rules)
    route = routes.route_of(request)
    if route is None:
        error = getattr(request.match_info, "http_exception", None)
        raise error if isinstance(error, web.HTTPException) else Problem(404, "no such resource")
    if route.body is not None:
        _check_type(request)
    elif request.body_exists:
        raise Problem(400, f"{request.method} {route.path} does not accept a body")
    if route.role != OPEN and not route.opened(request):
        caller = replace(_caller(request, rules), address=str(rules.client(request) or ""))
        if ROLES.index(caller.role) < ROLES.index(route.role):
            raise Problem(
                403, f"{route.method} {route.path} requires the role {route.role}, but yours is {caller.role}"
            )
        request[CALLER] = caller


def _turn(request: web.Request) -> contextlib.AbstractContextManager[None]:
    """While it is answered, of whoever is logged in. A stream counts among streams: see `Access.stream`."""
    route = routes.route_of(request)
    if CALLER not in request or route is None:
        return contextlib.nullcontext()
    now = asyncio.get_running_loop().time()
    return request.app[TURNS].take(request[CALLER].user, now, lasts=route.answer == routes.EVENTS)


def _host(request: web.Request) -> str:
    """What the Host header says, without the port. 400 for none, several, or one that is no host."""
    given = request.headers.getall(hdrs.HOST, [])
    if len(given) != 1:
        raise Problem(400, "a request needs one Host header")
    host, port = split_host(given[0])
    if not host or (port and not _PORT.fullmatch(port)):
        raise Problem(400, "the Host header is not a valid host")
    scheme, full, rest = request.raw_path.partition("://")
    if full and "/" not in scheme and rest.partition("/")[0].lower() != given[0].lower():
        raise Problem(400, "the request's URL and its Host header name different hosts")
    return host


def split_host(text: str) -> tuple[str, str]:
    """Host and port, both as text; ("", "") for what is neither an address nor a name."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        is_v6 = bracket and _address(address) is not None and ":" in address
        return (address, rest[1:]) if is_v6 and (not rest or rest[0] == ":") else ("", "")
    host, colon, port = text.partition(":")
    if not _NAME.fullmatch(host) or (colon and not port):
        return "", ""
    return host, port


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_allowed(host: str, hosts: Iterable[str], local: tuple[str, int] | None) -> bool:
    """Whether a request for this host is meant for us. `local`: where its connection has arrived; None: at a unix socket.

    An address is held against addresses, as one: `127.evil.com` is a name, and no name is allowed but localhost and `hosts`.
    """
    address, here = _address(host), _address(local[0]) if local else None
    mapped = getattr(here, "ipv4_mapped", None)
    here = mapped or here
    if address is None:
        name = host.lower().removesuffix(".")
        at_home = here is None or here.is_loopback
        return (name == "localhost" and at_home) or name in {each.lower().removesuffix(".") for each in hosts}
    return address == here or any(address == _address(each.strip("[]")) for each in hosts)


def _local(request: web.Request) -> tuple[str, int] | None:
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return (str(name[0]).partition("%")[0], int(name[1])) if isinstance(name, tuple) else None


def _peer(request: web.Request) -> forwarded.Address | None:
    """Who has connected; None at a unix socket, and also where `request.remote` is: the client was gone before it was asked
    for. It stays as it was when the client goes later.
    """
    return forwarded.address(request.remote or "")


def _check_origin(request: web.Request, rules: Rules) -> None:
    """A browser says where a request comes from: it must be a page of ours, or the person who typed the address."""
    origins = request.headers.getall(hdrs.ORIGIN, [])
    host = request.headers[hdrs.HOST].lower()
    scheme = rules.scheme(request)
    schemes = (scheme,) if scheme else ("http", "https")
    if len(origins) > 1 or any(
        origin.lower() not in {f"{scheme}://{host}" for scheme in schemes} for origin in origins
    ):
        raise Problem(403, "requests from pages of other origins are rejected")
    site = request.headers.get("Sec-Fetch-Site", "none").lower()
    is_page = request.method == hdrs.METH_GET and request.headers.get("Sec-Fetch-Mode", "").lower() == "navigate"
    if site not in {"none", "same-origin"} and (request.path.startswith("/api/") or not is_page):
        raise Problem(403, "requests from pages of other origins are rejected")


def _check_type(request: web.Request) -> None:
    """What changes something is JSON, which no form of a foreign page can send."""
    if len(request.headers.getall(hdrs.CONTENT_TYPE, [])) != 1 or request.content_type != routes.JSON:
        raise Problem(415, "the body must be of Content-Type: application/json")
    if (request.charset or "utf-8").lower() != "utf-8" or hdrs.CONTENT_ENCODING in request.headers:
        raise Problem(415, "the body must be in UTF-8, and not compressed")
    if (request.content_length or 0) > LARGEST_BODY:
        raise Problem(413, f"the body must not exceed {LARGEST_BODY} bytes")


def _caller(request: web.Request, rules: Rules) -> Caller:
    access = request.app[ACCESS]
    given = request.headers.getall(hdrs.AUTHORIZATION, [])
    if given:
        found = _BEARER.fullmatch(given[0])
        caller = access.of_token(found[1]) if len(given) == 1 and found else None
    else:
        secret = request.cookies.get(rules.cookie(request), "")
        caller = access.of_session(secret) if 0 < len(secret) <= tokens.LONGEST else None
    if caller is None:
        raise Problem(401, "log in first, or send a valid token", {hdrs.WWW_AUTHENTICATE: 'Bearer realm="impetusd"'})
    return caller
