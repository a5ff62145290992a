"""Who speaks to the proxy in front of us: what X-Forwarded-For and X-Forwarded-Proto say, where the proxy itself wrote it.

Anybody can send these headers, and a proxy puts what it knows behind what it was sent. So they are read from their end, and
only as far as whoever wrote the next value is trusted: whoever may connect to the unix socket, and `trusted_proxies`. A
value that is no address ends the reading, for what stands before it may be anybody's. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
SCHEMES = frozenset({"http", "https"})


def client(peer: Address | None, given: Iterable[str], trusted: Sequence[Network]) -> Address | None:
    """Who asks. `peer` has connected to us, None by the unix socket; `given`: each X-Forwarded-For. None: not known."""
    at, hops = peer, _values(given)
    while hops and is_trusted(at, trusted):
        found = address(hops.pop())
        if found is None:
            break
        at = found
    return at


def scheme(given: Iterable[str]) -> str:
    """What the client speaks, of each X-Forwarded-Proto of a trusted peer: http, https, or "" where it is not said."""
    last = (_values(given) or [""])[-1].strip().lower()
    return last if last in SCHEMES else ""


def is_trusted(at: Address | None, trusted: Sequence[Network]) -> bool:
    """Whether what this one says of whom it speaks for is taken for true."""
    return at is None or any(at in network for network in trusted)


def address(text: str) -> Address | None:
    """Of 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1] and [2001:db8::1]:80, without a zone; None for all else."""
    text = text.strip()
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        port = port.removeprefix(":") if bracket and (not port or port[0] == ":") else "-"
    else:
        text, port = text.split(":") if text.count(":") == 1 else (text, "")
    if port and not (port.isascii() and port.isdecimal() and len(port) <= 5):
        return None
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _values(given: Iterable[str]) -> list[str]:
    return [value for line in given for value in line.split(",")]
