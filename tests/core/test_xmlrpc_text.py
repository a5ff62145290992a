"""XML-RPC as text: what is read, what is refused, and that every answer can be read."""

from __future__ import annotations

import datetime as dt
import random
import xmlrpc.client

import pytest

from impetusd.interop import xmlrpc_text
from impetusd.interop.xmlrpc_text import Malformed

CALL = "<methodCall><methodName>a.b</methodName>{}</methodCall>"


def one(value):
    return CALL.format(f"<params><param><value>{value}</value></param></params>").encode()


@pytest.mark.parametrize(
    "params",
    [
        (),
        ("web:0", True),
        (["é", -1, 2.5, {"methodName": "x", "params": [[], {}]}],),
        ({"a": {"b": ["c"]}}, None, False, ""),
    ],
)
def test_what_a_client_writes_is_read(params):
    body = xmlrpc.client.dumps(params, "supervisor.x", allow_none=True).encode()
    assert xmlrpc_text.request(body) == ("supervisor.x", list(params))


def test_other_ways_to_write_it():
    assert xmlrpc_text.request(one("plain")) == ("a.b", ["plain"])
    assert xmlrpc_text.request(one("<i8>5</i8>")) == ("a.b", [5])
    assert xmlrpc_text.request(one("<base64>aGkA/w==</base64>")) == ("a.b", ["hi\0\ufffd"])
    assert xmlrpc_text.request(CALL.format("").encode()) == ("a.b", [])
    stamp = xmlrpc.client.dumps((dt.datetime(2026, 11, 30),), "a.b").encode()
    assert xmlrpc_text.request(stamp) == ("a.b", ["20261130T00:00:00"])
    latin = '<?xml version="1.0" encoding="iso-8859-1"?>' + one("é").decode()
    assert xmlrpc_text.request(latin.encode("latin-1")) == ("a.b", ["é"])


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>'
    "<methodCall><methodName>&b;</methodName></methodCall>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><methodCall><methodName>&a;</methodName></methodCall>'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff\xfe\x00",
        b"<methodCall>",
        b"<methodCall/>",
        b"<methodCall><methodName/></methodCall>",
        b"<methodResponse><params/></methodResponse>",
        b"<methodCall><methodName>x</methodName></methodCall><more/>",
        b'<?xml version="1.0" encoding="no-such"?><methodCall/>',
        BOMB.encode(),
        OUTSIDE.encode(),
        b"<!DOCTYPE methodCall><methodCall><methodName>x</methodName></methodCall>",
        one("&undefined;"),
        one("<int>1</int><int>2</int>"),
        one("<int>x</int>"),
        one(f"<int>{'9' * 5000}</int>"),
        one("<double>x</double>"),
        one("<boolean>yes</boolean>"),
        one("<base64>!</base64>"),
        one("<array/>"),
        one("<array><data/><data/></array>"),
        one("<struct><member><name>a</name></member></struct>"),
        one("<struct><member><value>a</value><name>b</name></member></struct>").replace(
            b"<value>a", b"<value><int>1</int>"
        ),
        one("<struct><value>a</value></struct>"),
        one("<script/>"),
        one("<array><data>" * 30 + "</data></array>" * 30),
        one("<array><data><value>" * 30 + "</value></data></array>" * 30),
        one("<array><data>" + "<value/>" * 60_000 + "</data></array>"),
        one("a" * (1 << 20)),
        CALL.format("<params><param/></params>").encode(),
        b"<methodCall><methodName>" + b"x" * 300 + b"</methodName></methodCall>",
    ],
)
def test_what_is_no_call_is_refused(body):
    with pytest.raises(Malformed):
        xmlrpc_text.request(body)


def test_whatever_comes_is_a_call_or_malformed():
    """10,000 requests, each damaged somewhere."""
    chance = random.Random(7)
    whole = xmlrpc.client.dumps(([{"methodName": "a", "params": ["é", 1, True]}], 2.5), "system.multicall").encode()
    calls = 0
    for _ in range(10_000):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(body))
            body[at : at + chance.randint(0, 9)] = chance.randbytes(chance.randint(0, 3))
        try:
            xmlrpc_text.request(bytes(body))
            calls += 1
        except Malformed:
            pass
    assert calls < 5_000


@pytest.mark.parametrize("value", ["\x1b[31mred\x1b[0m\x07", "\0\x08\x0b\x7f\x9b1m", "\udc80 \ufffe", "tab\tline\n"])
def test_what_a_program_wrote_is_inert_and_can_be_read(value):
    ((read,), _) = xmlrpc.client.loads(xmlrpc_text.answer(value).decode())
    assert read == xmlrpc_text.inert(value)
    assert not any(ord(char) < 32 and char not in "\t\n" for char in read)
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(xmlrpc_text.fault(30, value).decode())
    assert caught.value.faultString == read


def test_an_answer_holds_what_the_protocol_can():
    value = {"a": None, "big": 1 << 40, "b": True, "list": ("x", 1.5)}
    ((read,), _) = xmlrpc.client.loads(xmlrpc_text.answer(value).decode())
    assert read == {"a": "", "big": (1 << 31) - 1, "b": True, "list": ["x", 1.5]}
