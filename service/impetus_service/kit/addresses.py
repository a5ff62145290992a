"""Where a request comes from, also behind proxies."""

from __future__ import annotations

from ipaddress import ip_address

from aiohttp import web

PROXY_HOPS = web.AppKey("impetus.proxy_hops", int)


def address(request: web.Request) -> str | None:
    """The client's address: the peer's, or what the outermost of the proxies that we trust saw. None on a unix socket.

    Each proxy appends to X-Forwarded-For who it was asked by: with PROXY_HOPS of them, what counts is the entry so many
    from the end, and nothing that a client may have put in front of it.
    """
    found = request.remote
    hops = request.app[PROXY_HOPS]
    if hops:
        seen = [each.strip() for line in request.headers.getall("X-Forwarded-For", ()) for each in line.split(",")]
        found = seen[-hops] if len(seen) >= hops else found
    try:
        return str(ip_address((found or "").partition("%")[0]))  # without the interface of a link-local address
    except ValueError:
        return None
