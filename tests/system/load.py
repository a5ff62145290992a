"""A client that never retries: every refused, reset or cut-off request is a failure, and is kept.

Some load generators repeat a request in silence when its connection breaks, and so hide what is to be shown here.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from types import TracebackType
from typing import Self

from instance import wait_for

TIMEOUT = 30.0  # seconds a request may take; nothing here waits that long unless it is lost
# Seconds between two requests of one client: 4 of them ask at most 250 times a second. The shorter one is for whole walks.
PACE = 0.002 if os.environ.get("IMPETUSD_KILL_EVERY") else 0.016


class Lost(Exception):
    """A request that got no whole answer."""


class Cut(Lost):
    """It got none at all."""


class Load:
    """Clients that ask for / again and again, some over kept connections and some over a new one each time.

    `crashes`: how many processes will crash while they serve. What such a process has accepted is cut off, whoever
    supervises it: at most one request of each client.
    """

    def __init__(self, port: int, kept: int = 2, fresh: int = 2, crashes: int = 0) -> None:
        self._cut = crashes * (kept + fresh)  # how many may still be
        self._port = port
        self._over = threading.Event()
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()  # the body (the worker's pid) and how often it came
        self._threads = [threading.Thread(target=self._client, args=(True,)) for _ in range(kept)]
        self._threads += [threading.Thread(target=self._client, args=(False,)) for _ in range(fresh)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.go_on(20)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if kind is None:
            assert not self.failures, f"{len(self.failures)} of {self.answers.total()}: {self.failures[:5]}"

    def go_on(self, count: int) -> None:
        """Wait until so many further requests have been answered."""
        before = self.answers.total()
        wait_for(lambda: self.failures or self.answers.total() >= before + count, f"{count} more answers")
        assert not self.failures, self.failures[:5]

    def _client(self, keep: bool) -> None:
        connection: socket.socket | None = None
        while not self._over.wait(PACE):
            try:
                if connection is None:
                    connection = socket.create_connection(("127.0.0.1", self._port), TIMEOUT)
                body, closed = ask(connection, keep=keep)
            except (OSError, Lost) as error:
                if self._cut and isinstance(error, (ConnectionResetError, Cut)):
                    self._cut -= 1
                else:
                    self.failures.append(f"{'kept' if keep else 'fresh'}: {error!r}")
                closed = True
            else:
                self.answers[body] += 1
            if closed and connection is not None:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


def ask(connection: socket.socket, path: str = "/", *, keep: bool = False) -> tuple[str, bool]:
    """One GET: the body, and whether the server closes the connection. Lost when the answer is not a whole 200."""
    manner = "keep-alive" if keep else "close"
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: {manner}\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection, data)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    while len(body) < int(headers["content-length"]):
        body += _more(connection, data)
    if not lines[0].startswith("http/1.1 200 "):
        raise Lost(lines[0])
    return body.decode(), headers.get("connection") == "close" or not keep


def fetch(port: int, path: str = "/") -> str:
    """One GET over a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        return ask(connection, path)[0]


def _more(connection: socket.socket, so_far: bytes) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise (Lost if so_far else Cut)(f"the connection ended after {so_far!r}")
    return data
