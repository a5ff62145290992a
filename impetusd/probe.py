"""Asks a server whether it is there and well: one GET, or one connection. Blocking, and over at its deadline.

The deadline is one for all of it: each read gets what is left of it, so a server that drips a byte a second gains
nothing. Only the look-up of a host's name may take longer (getaddrinfo(3) knows no deadline); a literal address or a
unix socket needs none.

Importing http.client costs 2 MB and 60 ms, so it is imported when the first GET is made.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import socket
import time

from impetusd import __version__
from impetusd.core.rules.health import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    import http.client
    import ssl
    from collections.abc import Callable
    from typing import Any, TypeAlias
    from urllib.parse import SplitResult

MAX_BODY = 1 << 20  # bytes that are read of an answer
SHOWN = 200  # characters of it that are shown when it is not as it should be

# What says nothing about the server: something of ours ran out, is forbidden, or leads nowhere.
# Keys under which a JSON answer says what is wrong; RFC 9457 has detail and title.
_WRONG = frozenset({"error", "errors", "message", "detail", "reason", "title", "output"})
_OURS = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL),
        *(errno.EPERM, errno.EACCES, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH),
    }
)
_KEPT = "%/:@!$&'()*+,;=~-._"  # of a path, besides letters and digits (RFC 3986)


class Get:
    """One GET. `url` may be a path alone for a unix socket or a connection that is there already.

    `status`: ranges, both ends included; `body`: text that the answer must contain; `socket`: path of a unix socket to
    ask; `ca_file`: whose signature is trusted (else the system's); `verify`: whether the certificate matters at all.
    """

    __slots__ = ("body", "ca_file", "headers", "socket", "status", "url", "verify")

    def __init__(
        self,
        url: str,
        *,
        status: tuple[tuple[int, int], ...] = ((200, 399),),
        body: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        socket: str = "",
        ca_file: str = "",
        verify: bool = True,
    ) -> None:
        self.url = url
        self.status = status
        self.body = body
        self.headers = headers
        self.socket = socket
        self.ca_file = ca_file
        self.verify = verify


class _Unasked(Exception):
    """Nothing was asked, for a reason that is not the server's."""


class _Deadline:
    """When it has to be over, and what is under way."""

    __slots__ = ("_at", "_timeout", "began", "stage")

    def __init__(self, timeout: float) -> None:
        self.began = time.monotonic()
        self._at = self.began + timeout
        self._timeout = timeout
        self.stage = "no connection"

    def over(self) -> bool:
        """Whether there is no time left."""
        return time.monotonic() >= self._at

    def left(self) -> float:
        """Seconds, more than 0; TimeoutError when there are none."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def passed(self) -> str:
        """What did not happen in time."""
        return f"{self.stage} within {self._timeout:g} s"


if TYPE_CHECKING:
    Judge: TypeAlias = Callable[[Get, http.client.HTTPResponse, _Deadline], tuple[bool, str]]


def get(what: Get, timeout: float, connection: socket.socket | None = None) -> Result:
    """Ask, over `connection` if one is given (it is closed afterwards). Takes `timeout` seconds at most; raises nothing."""
    import http.client  # noqa: F401  # the first time it takes a while, which is not the server's

    try:
        return _answer(lambda deadline: _get(what, deadline, connection, _judge), timeout)
    finally:
        if connection is not None:
            connection.close()


def fetch(what: Get, timeout: float, most: int) -> tuple[int, bytes, str]:
    """(status, body, trouble): the body if the status is 200 and it has at most `most` bytes, else why there is none, as a clause.

    The status is 0 where nothing answered. Takes as long as `get`; follows nothing; raises nothing.
    """
    import http.client

    status, body = 0, b""

    def take(_: Get, answer: http.client.HTTPResponse, deadline: _Deadline) -> tuple[bool, str]:
        nonlocal status, body
        status = answer.status
        if status != http.client.OK:
            return False, f"unexpected status {status}"
        deadline.stage = "incomplete response"
        data = _whole(answer, most + 1)
        if len(data) > most:
            raise ConnectionError(f"the response is larger than {most >> 20} MB")
        body = data
        return True, ""

    result = _answer(lambda deadline: _get(what, deadline, None, take), timeout)
    return status, body, "" if result.ok else result.text


def connect(address: str, timeout: float) -> Result:
    """Whether somebody accepts connections at `host:port`. Takes `timeout` seconds at most; raises nothing."""

    def attempt(deadline: _Deadline) -> tuple[bool, str]:
        host, _, port = address.rpartition(":")
        _open(host.strip("[]"), int(port), deadline).close()
        return True, "connected"

    return _answer(attempt, timeout)


def one_line(text: str) -> str:
    """The first SHOWN characters of `text` that can be printed, as one line."""
    printable = "".join(each if each.isprintable() else " " for each in text[: 10 * SHOWN])
    return " ".join(printable.split())[:SHOWN]


def excerpt(body: str) -> str:
    """What a JSON object says of what is wrong, as `database.error: no route to host`; else the whole text."""
    import json

    def find(value: object, name: str) -> list[str]:
        if isinstance(value, dict):
            return [each for key, under in value.items() for each in find(under, f"{name}.{key}".strip("."))]
        if isinstance(value, list):
            return [each for under in value for each in find(under, name)]
        told = name.rpartition(".")[2].lower() in _WRONG
        return [f"{name}: {value}"] if told and isinstance(value, str) and value else []

    try:
        return "; ".join(find(json.loads(body), "")) or body
    except (ValueError, RecursionError):
        return body


def _answer(attempt: Callable[[_Deadline], tuple[bool, str]], timeout: float) -> Result:
    """What came of `attempt`, every way in which it can fail made a sentence."""
    deadline = _Deadline(timeout)
    blame, number = True, 0
    try:
        ok, text = attempt(deadline)
    except TimeoutError:
        ok, text = False, deadline.passed()
    except _Unasked as error:
        ok, text, blame = False, str(error), False
    except OSError as error:
        ok, text, blame, number = False, _failure(error), error.errno not in _OURS, error.errno or 0
    except (ValueError, OverflowError) as error:  # http.client and idna say what cannot be an address or a header
        ok, text, blame = False, f"invalid request: {one_line(str(error))}", False
    return Result(ok, text, time.monotonic() - deadline.began, blame, number)


def _failure(error: OSError) -> str:
    if not error.errno:  # one of our own sentences
        return str(error)
    text = os.strerror(error.errno)
    return text[:1].lower() + text[1:]


def _open(host: str, port: int, deadline: _Deadline) -> socket.socket:
    """A connection to the first address of `host` that accepts one; each gets its share of the time that is left."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise _Unasked(f"cannot resolve {host}: {error.strerror}") from None
    if deadline.over():
        raise _Unasked(f"resolving {host} timed out")
    failed: OSError = TimeoutError()
    for at, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(deadline.left() / (len(found) - at))
            sock.connect(address)
            if sock.getsockname() == sock.getpeername():
                # Nobody listens, and the kernel gave the port itself to this end: TCP's simultaneous open.
                raise ConnectionRefusedError(errno.ECONNREFUSED, "")
        except OSError as error:
            failed = error
            sock.close()
        else:
            return sock
    raise failed


def _open_unix(path: str, deadline: _Deadline) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(deadline.left())
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def _tls(what: Get) -> ssl.SSLContext:
    """The settings of a TLS connection, made again when the certificates that they trust have changed on disk."""
    import ssl

    if not what.verify:
        return _tls_settings("", False, ())
    default = ssl.get_default_verify_paths()
    trusted = (what.ca_file,) if what.ca_file else (default.cafile, default.capath)
    try:
        return _tls_settings(what.ca_file, True, tuple(os.stat(path).st_mtime_ns for path in trusted if path))
    except OSError as error:  # SSLError is one
        raise _Unasked(f"ca_file {what.ca_file} cannot be used: {error.strerror or error}") from None


@functools.lru_cache(maxsize=16)
def _tls_settings(ca_file: str, verify: bool, _changed: tuple[int, ...]) -> ssl.SSLContext:
    """Kept, for reading the system's certificates takes 60 ms of CPU."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file:
        context.load_verify_locations(cafile=ca_file)
    else:
        context.load_default_certs()
    return context


def _over_tls(what: Get, url: SplitResult, sock: socket.socket, deadline: _Deadline, judge: Judge) -> tuple[bool, str]:
    import ssl

    context = _tls(what)
    deadline.stage = "TLS handshake not completed"
    sock.settimeout(deadline.left())
    try:
        with context.wrap_socket(sock, server_hostname=url.hostname) as secure:
            return _speak(what, url, secure, deadline, judge)
    except ssl.SSLCertVerificationError as error:
        raise ConnectionError(f"its certificate is not trusted: {error.verify_message}") from None
    except ssl.SSLError as error:  # its errno is none of the system's
        raise ConnectionError(f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}") from None


class _Reader(io.RawIOBase):
    """What a connection sends, each read with what is left of the time."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        super().__init__()
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)


class _Stream:
    """The part of a socket that http.client uses. It stays open: who made it closes it."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.left())
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._sock, self._deadline))

    def close(self) -> None:
        """Nothing yet."""


def _get(what: Get, deadline: _Deadline, connection: socket.socket | None, judge: Judge) -> tuple[bool, str]:
    from urllib.parse import urlsplit

    url = urlsplit(what.url)
    with connection or _connection(what, url, deadline) as sock:
        if url.scheme == "https":
            return _over_tls(what, url, sock, deadline, judge)
        return _speak(what, url, sock, deadline, judge)


def _connection(what: Get, url: SplitResult, deadline: _Deadline) -> socket.socket:
    if what.socket:
        return _open_unix(what.socket, deadline)
    return _open(url.hostname or "", url.port or (443 if url.scheme == "https" else 80), deadline)


def _speak(what: Get, url: SplitResult, sock: socket.socket, deadline: _Deadline, judge: Judge) -> tuple[bool, str]:
    import http.client

    deadline.stage = "no response"
    connection = http.client.HTTPConnection("localhost")
    connection.sock = _Stream(sock, deadline)
    try:
        connection.putrequest("GET", _target(url), skip_host=True, skip_accept_encoding=True)
        for name, value in _headers(what, url):
            connection.putheader(name, value)
        connection.endheaders()
        return judge(what, connection.getresponse(), deadline)
    except http.client.RemoteDisconnected:
        raise ConnectionError("the connection was closed without a response") from None
    except http.client.IncompleteRead:
        raise ConnectionError("the response was cut off") from None
    except http.client.InvalidURL as error:
        raise ValueError(str(error)) from None
    except http.client.HTTPException as error:
        raise ConnectionError(f"the response is not HTTP: {one_line(str(error))}") from None


def _judge(what: Get, answer: http.client.HTTPResponse, deadline: _Deadline) -> tuple[bool, str]:
    said = f"{answer.status} {one_line(answer.reason)}".rstrip()
    if not any(low <= answer.status <= high for low, high in what.status):
        return False, _with_body(said, answer)
    deadline.stage = "incomplete response"
    body = _whole(answer, MAX_BODY).decode("utf-8", "replace")
    if what.body not in body:
        return False, f"{said}, but without {what.body!r} in it: {one_line(body) or '(nothing)'}"
    return True, said


def _whole(answer: http.client.HTTPResponse, most: int) -> bytes:
    """Its body, or the first `most` bytes of it."""
    import http.client

    data = answer.read(most)
    if answer.length and len(data) < most:
        raise http.client.IncompleteRead(data, answer.length)  # as http.client does it when no size is given
    return data


def _with_body(said: str, answer: http.client.HTTPResponse) -> str:
    """What failed is known; the body says more, if it comes in time."""
    import http.client

    try:
        body = one_line(excerpt(answer.read(MAX_BODY).decode("utf-8", "replace")))
    except (OSError, http.client.HTTPException):
        body = ""
    return f"{said}: {body}" if body else said


def _target(url: SplitResult) -> str:
    from urllib.parse import quote

    # What cannot stand in a request line is escaped; what is escaped already stays.
    path = quote(url.path or "/", safe=_KEPT)
    query = quote(url.query, safe=f"{_KEPT}?")
    return f"{path}?{query}" if query else path


def _headers(what: Get, url: SplitResult) -> list[tuple[str, str]]:
    """Ours, unless they are given, and those that are."""
    ours = {
        "Host": url.netloc or "localhost",
        "User-Agent": f"impetusd/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    given = {name.lower() for name, _ in what.headers}
    return [*((name, value) for name, value in ours.items() if name.lower() not in given), *what.headers]
