"""XML-RPC as text: a request is read within bounds and without entities; an answer is well-formed whatever a program wrote.

`xmlrpc.client.loads` is not for untrusted data: it expands entities, and knows no depth. So requests are read here.
"""

from __future__ import annotations

import base64
import re
import xmlrpc.client
from typing import Any
from xml.parsers import expat

MAX_BODY = 1 << 20  # bytes
MAX_DEPTH = 40  # elements in each other; a call within system.multicall needs 14
MAX_ELEMENTS = 50_000
MAX_NAME = 256  # characters of a method's name

# Sequences that a terminal obeys; then what XML 1.0 has no place for, and lone surrogates.
_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]")
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_SCALARS = frozenset({"int", "i4", "i8", "boolean", "string", "double", "dateTime.iso8601", "base64", "nil"})
_HOLDS = {  # element -> the elements that it may stand in
    "methodCall": ("",),
    "methodName": ("methodCall",),
    "params": ("methodCall",),
    "param": ("params",),
    "value": ("param", "data", "member"),
    "array": ("value",),
    "data": ("array",),
    "struct": ("value",),
    "member": ("struct",),
    "name": ("member",),
    **dict.fromkeys(_SCALARS, ("value",)),
}


class Malformed(ValueError):
    """It is no XML-RPC request, or exceeds a bound; the text says how."""


def inert(text: str) -> str:
    """`text` without what a terminal would obey, and without what XML has no place for; tabs and newlines stay."""
    return _FORBIDDEN.sub("", _SEQUENCE.sub("", text))


def request(body: bytes) -> tuple[str, list[Any]]:
    """(method, parameters) of a request: None, bool, int, float, str, and lists and dicts of these. Raises Malformed."""
    if len(body) > MAX_BODY:
        raise Malformed(f"a request must not exceed {MAX_BODY} bytes")
    reader = _Reader()
    try:
        reader.parser.Parse(body, True)
    except expat.ExpatError as error:
        raise Malformed(f"not well-formed: {error}") from None
    except LookupError as error:  # an encoding that nobody knows
        raise Malformed(str(error)) from None
    method = reader.method
    if not method or len(method) > MAX_NAME:
        raise Malformed(f"a request needs a methodName of at most {MAX_NAME} characters")
    return method, reader.params


class _Reader:
    """Builds the values of one request while expat reads it."""

    def __init__(self) -> None:
        self.method = ""
        self.params: list[Any] = []
        self._open: list[tuple[str, list[Any]]] = []  # elements, and the values in them
        self._text: list[str] = []
        self._count = 0
        self.parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse

    def _refuse(self, *_: object) -> None:
        raise Malformed("a request must not contain a document type or entities")

    def _start(self, tag: str, _attributes: dict[str, str]) -> None:
        self._count += 1
        outer = self._open[-1][0] if self._open else ""
        if outer not in _HOLDS.get(tag, ()):
            raise Malformed(f"<{tag[:30]}> is not allowed {f'in <{outer}>' if outer else 'there'}")
        if len(self._open) >= MAX_DEPTH or self._count > MAX_ELEMENTS:
            raise Malformed(f"a request is limited to {MAX_DEPTH} nesting levels and {MAX_ELEMENTS} elements")
        self._open.append((tag, []))
        self._text.clear()

    def _end(self, tag: str) -> None:
        _, inner = self._open.pop()
        text = "".join(self._text)
        self._text.clear()
        outer = self._open[-1][1] if self._open else []
        if tag == "methodName":
            self.method = text.strip()
        elif tag == "params":
            self.params = inner
        elif tag == "value":
            if len(inner) > 1:
                raise Malformed("a value must contain exactly one element")
            outer.append(inner[0] if inner else text)
        elif tag == "member":
            if len(inner) != 2 or not isinstance(inner[0], str):
                raise Malformed("a member must have a name and a value")
            outer.append((inner[0], inner[1]))
        elif tag == "struct":
            outer.append(dict(inner))
        elif tag in {"param", "array"}:
            if len(inner) != 1:
                raise Malformed(f"<{tag}> must contain exactly one element")
            outer.append(inner[0])
        elif tag == "data":
            outer.append(inner)
        elif tag == "name":
            outer.append(text)
        elif tag in _SCALARS:
            outer.append(_scalar(tag, text))


def _scalar(tag: str, text: str) -> Any:
    try:
        if tag in {"int", "i4", "i8"}:
            if len(text) > 30:
                raise ValueError
            return int(text)
        if tag == "double":
            return float(text)
        if tag == "base64":
            return base64.b64decode("".join(text.split()), validate=True).decode("utf-8", "replace")
    except ValueError:
        raise Malformed(f"{text[:30]!r} is not a valid {tag}") from None
    if tag == "boolean":
        if text not in {"0", "1"}:
            raise Malformed(f"{text[:30]!r} is not a valid boolean")
        return text == "1"
    return None if tag == "nil" else text


def answer(value: Any) -> bytes:
    """The response with this value."""
    return xmlrpc.client.dumps((_sendable(value),), methodresponse=True).encode()


def fault(code: int, text: str) -> bytes:
    """The response that says why there is no value."""
    return xmlrpc.client.dumps(xmlrpc.client.Fault(code, inert(text)), methodresponse=True).encode()


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return inert(value)
    if isinstance(value, dict):
        return {inert(str(key)): _sendable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sendable(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):  # XML-RPC's integers have 32 bits
        return min(max(value, xmlrpc.client.MININT), xmlrpc.client.MAXINT)
    return "" if value is None else value
