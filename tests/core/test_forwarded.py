"""Whom a proxy speaks for: what its headers say, read from their end and no farther than whoever wrote them is trusted."""

from __future__ import annotations

import ipaddress

import pytest

from impetusd.gateway import forwarded

PROXIES = [ipaddress.ip_network(each) for each in ("10.0.0.0/24", "127.0.0.1", "2001:db8:ffff::/48")]
UNIX = None


def client(peer, *given):
    found = forwarded.client(ipaddress.ip_address(peer) if peer else None, given, PROXIES)
    return str(found) if found is not None else None


@pytest.mark.parametrize(
    ("peer", "given", "who"),
    [
        # By the socket, and by addresses in the list: whom the proxy names.
        (UNIX, ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.7", ["203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["2001:db8::9"], "2001:db8::9"),
        # From anybody else nothing is taken.
        ("203.0.113.9", ["10.0.0.7"], "203.0.113.9"),
        ("10.0.1.7", ["198.51.100.1"], "10.0.1.7"),
        ("::1", ["198.51.100.1"], "::1"),
        # What a client sent itself stands before what the proxy wrote.
        (UNIX, ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (UNIX, ["127.0.0.1, 10.0.0.7, 203.0.113.9"], "203.0.113.9"),
        # ... in a header of its own, too.
        (UNIX, ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (UNIX, ["198.51.100.1, 198.51.100.2", "203.0.113.9"], "203.0.113.9"),
        # Of several proxies one after the other as far as each is in the list.
        (UNIX, ["198.51.100.1, 203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9, 2001:db8:ffff::1, 10.0.0.7"], "203.0.113.9"),
        ("127.0.0.1", ["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
        # A value that is no address ends it: what stands before may be anybody's.
        (UNIX, ["198.51.100.1, unknown"], None),
        ("127.0.0.1", ["198.51.100.1, _hidden"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1, 203.0.113.9, nonsense, 10.0.0.7"], "10.0.0.7"),
        ("127.0.0.1", ["198.51.100.1,"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        (UNIX, [], None),
        # The same proxy over an IPv6 socket.
        (UNIX, ["198.51.100.1, 203.0.113.9, ::ffff:10.0.0.7"], "203.0.113.9"),
    ],
)
def test_who_asks(peer, given, who):
    assert client(peer, *given) == who


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1\t", "192.0.2.1"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
        *(
            (bad, None)
            for bad in (
                "",
                "unknown",
                "_gateway",
                "localhost",
                "127.1",
                "0x7f.0.0.1",
                "010.0.0.1",
                "2130706433",
                "192.0.2.1:x",
                "192.0.2.1:123456",
                "192.0.2.1 evil",
                "[2001:db8::1",
                "[2001:db8::1]x",
                "[2001:db8::1]:x",
                '"192.0.2.1"',
                "١٩٢.0.2.1",
                "192.0.2.1/24",
                "<script>",
            )
        ),
    ],
)
def test_an_address_has_these_forms(text, address):
    found = forwarded.address(text)
    assert (str(found) if found is not None else None) == address


@pytest.mark.parametrize(
    ("given", "scheme"),
    [
        (["https"], "https"),
        (["HTTPS "], "https"),
        (["http"], "http"),
        (["https, http"], "http"),
        (["https", "http"], "http"),
        (["http, https"], "https"),
        (["wss"], ""),
        ([""], ""),
        ([], ""),
    ],
)
def test_what_the_client_speaks(given, scheme):
    assert forwarded.scheme(given) == scheme
