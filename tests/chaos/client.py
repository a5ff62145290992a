"""A steady load in a process of its own, which never tries a request again: client.py PORT REQUESTS_PER_SECOND CLIENTS

Half of the clients keep their connections, the others open one for each request. For each line on stdin one JSON object on
stdout tells what came since the one before:
    {"answered": 1000, "slowest_ms": 12.3, "failed": [{"kept": true, "why": "…", "pid": 4711}]}
`pid` is the worker that had answered on the connection before (null on a new one), so that what a killed worker had under
way can be told from what was lost. At the end of stdin it awaits the requests under way, and prints the last object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

PATIENCE = 30.0  # seconds for an answer; only a lost request takes that long


class Load:
    """The clients and what they have seen."""

    def __init__(self, port: int, per_second: int, clients: int) -> None:
        self._port = port
        self._clients = clients
        self._interval = clients / per_second
        self._over = False
        self._clear()

    def _clear(self) -> None:
        self._answered, self._slowest = 0, 0.0
        self._failed: list[dict[str, Any]] = []

    def seen(self) -> dict[str, Any]:
        """What there was since this was asked before."""
        seen = {"answered": self._answered, "slowest_ms": round(self._slowest * 1e3, 1), "failed": self._failed}
        self._clear()
        return seen

    def end(self) -> None:
        """Begin no further request; `run` returns when those under way have ended."""
        self._over = True

    async def run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self._clients)))

    async def _client(self, number: int) -> None:
        keep = number % 2 == 0
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        pid: int | None = None
        due = time.monotonic() + self._interval * number / self._clients
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._over:
                return
            due = max(due + self._interval, time.monotonic())
            began = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    if streams is None:
                        streams, pid = await asyncio.open_connection("127.0.0.1", self._port), None
                    answered, ends = await _ask(*streams, keep=keep)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                self._failed.append({"kept": keep, "why": repr(error), "pid": pid})
                answered, ends = None, True
            else:
                self._answered += 1
                self._slowest = max(self._slowest, time.monotonic() - began)
            pid = answered
            if ends and streams is not None:
                streams[1].close()
                streams = None


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keep: bool) -> tuple[int, bool]:
    """One request: the pid of who answered, and whether the connection ends with it. ValueError when it is no 200."""
    manner = b"keep-alive" if keep else b"close"
    writer.write(b"GET / HTTP/1.1\r\nHost: chaos\r\nConnection: " + manner + b"\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
    if not head.startswith(b"http/1.1 200 "):
        raise ValueError(head[:40].decode("latin-1"))
    return int(body), not keep or b"\r\nconnection: close" in head


async def main() -> None:
    """Load until stdin ends."""
    load = Load(*map(int, sys.argv[1:4]))
    running = asyncio.create_task(load.run())
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        print(json.dumps(load.seen()), flush=True)
    load.end()
    await running
    print(json.dumps(load.seen()))


if __name__ == "__main__":
    uvloop.run(main())
