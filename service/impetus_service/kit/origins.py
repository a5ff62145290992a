"""Pages of other origins: which may ask us (CORS), and whether a request that bears our cookie comes from one that may.

CORS is off unless CORS_ORIGINS names origins; there is no "all". A browser adds our cookie to whatever any page sends us, so
an unsafe request with it is done only when the browser says that the page is of our own origin, or of one that is named. (By
Sec-Fetch-Site, which no page can set; a browser that does not send it, by Origin and Host.)
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_AGE = 600  # seconds that a browser may keep the answer to a preflight
SENT = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Range, X-Request-ID"
READ = (
    "Allow, Content-Disposition, Idempotent-Replayed, Location, Retry-After, WWW-Authenticate,"
    " X-Export-Limit, X-Export-Truncated, X-Request-ID"
)


@dataclass(frozen=True)
class Origins:
    """`allowed` are those of CORS_ORIGINS; `own` that of PUBLIC_URL, "" where the Host header says it."""

    allowed: frozenset[str] = frozenset()
    own: str = ""


ORIGINS = web.AppKey("impetus.origins", Origins)


def may_use_cookie(request: web.Request) -> bool:
    """Whether what the request's cookie allows may be done."""
    origin = request.headers.get("Origin", "")
    known = request.app[ORIGINS]
    if request.method in SAFE or origin in known.allowed or (origin and origin == known.own):
        return True
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    return bool(origin) and origin.partition("://")[2] == request.headers.get("Host")


def preflight(request: web.Request) -> web.Response | None:
    """The answer to a browser that asks whether it may send a request; None for every other request."""
    refusal = request.match_info.http_exception
    if (
        request.method != "OPTIONS"
        or "Access-Control-Request-Method" not in request.headers
        or _allowed(request) is None
        or not isinstance(refusal, web.HTTPMethodNotAllowed)  # there is a route, and no OPTIONS of it
    ):
        return None
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": ", ".join(sorted(refusal.allowed_methods)),
            "Access-Control-Allow-Headers": SENT,
            "Access-Control-Max-Age": str(MAX_AGE),
        },
    )


def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Let the page read the response, if it is of an origin that may."""
    if not request.app.get(ORIGINS, Origins()).allowed:
        return
    response.headers["Vary"] = ", ".join(filter(None, (response.headers.get("Vary"), "Origin")))
    origin = _allowed(request)
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
        response.headers["Access-Control-Expose-Headers"] = READ


def _allowed(request: web.Request) -> str | None:
    origin = request.headers.get("Origin")
    return origin if origin in request.app.get(ORIGINS, Origins()).allowed else None
