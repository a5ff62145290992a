"""Clients that stay: they hold a connection to a worker that is to leave, and look how it lets go of them.

Each begins before a stimulus and is settled after it: `settle` returns what was wrong, '' if nothing.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
from typing import Protocol

from waiting import PATIENCE

HEAD = "GET {path} HTTP/1.1\r\nHost: chaos\r\n{more}\r\n"
GOING_AWAY = 1001  # RFC 6455, 7.4.1


class Guest(Protocol):
    """One connection."""

    def settle(self) -> str:
        """Once whatever it is a guest of has begun to leave."""


def connect(port: int) -> socket.socket:
    """A connection that waits as long as a test does."""
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


class Slow:
    """Sends its request in two halves, the second when told to settle, and is answered all the same."""

    def __init__(self, port: int) -> None:
        self._socket = connect(port)
        self._request = HEAD.format(path="/", more="Connection: close\r\n").encode()
        self._socket.sendall(self._request[:9])

    def settle(self) -> str:
        with self._socket as sock:
            try:
                sock.sendall(self._request[9:])
                data = _rest(sock)
            except OSError as error:
                return f"a slow client: {error!r}"
        return "" if data.startswith(b"HTTP/1.1 200 ") else f"a slow client: {data[:60]!r}"


class EventStream:
    """Reads events; its stream ends, at the latest when the drain does, and is not cut."""

    def __init__(self, port: int) -> None:
        self._socket = connect(port)
        self._socket.sendall(HEAD.format(path="/sse", more="").encode())
        self._data = b""
        while b"data: hello" not in self._data:
            self._data += self._socket.recv(4096)

    def settle(self) -> str:
        with self._socket as sock:
            try:
                _rest(sock)
            except OSError as error:
                return f"an event stream: {error!r}"
        return ""


class WebSocket:
    """Is closed with 1001 when its worker goes."""

    def __init__(self, port: int) -> None:
        self._socket = connect(port)
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = (
            f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        )
        self._socket.sendall(HEAD.format(path="/ws", more=upgrade).encode())
        while not self._socket.recv(4096).endswith(b"\r\n\r\n"):
            pass

    def settle(self) -> str:
        with self._socket as sock:
            try:
                frame = sock.recv(4096)
                code = struct.unpack("!H", frame[2:4])[0] if len(frame) >= 4 and frame[0] == 0x88 else None
                if code != GOING_AWAY:
                    return f"a WebSocket was ended with {frame[:20]!r}"
                mask = os.urandom(4)  # a client answers a close with one, masked
                sock.sendall(b"\x88\x82" + mask + bytes(a ^ b for a, b in zip(frame[2:4], mask, strict=False)))
                _rest(sock)
            except OSError as error:
                return f"a WebSocket: {error!r}"
        return ""


def _rest(sock: socket.socket) -> bytes:
    data = b""
    while part := sock.recv(65536):
        data += part
    return data
