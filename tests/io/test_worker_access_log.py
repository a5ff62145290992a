"""access_log: a line for each answer, whole, and nobody waits for whoever reads them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import select

import pytest
from worker_harness import SERVED, Pool

from impetusd.worker import accesslog
from impetusd.worker.accesslog import AccessLog

ALL = {**SERVED, "wsgi": {"app": "app_wsgi:app"}}
LINE = re.compile(r'^(\S+) - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "(.*)" (\d{3}) (\d+|-)$')


def lines(text: str) -> list[tuple[str, ...]]:
    found = [LINE.match(line) for line in text.splitlines()]
    return [each.groups() for each in found if each is not None]


@pytest.mark.parametrize("served", ALL.values(), ids=ALL)
def test_each_answer_has_a_line(served: dict) -> None:
    with Pool(**served, access_log=True) as pool:
        worker = pool.run().serve()
        with pool.client() as client:
            size = len(client.get("/").body)
            for path in ('/?a=1&b="x', "/no%0Asuch"):
                client.send(path)
                client.receive()
            client.get("/broken" if "wsgi" not in served.get("app", "") else "/?" + "x" * 3000)
        assert worker.signal().wait() == 0
        found = lines(worker.text("out"))
    assert found[0] == ("127.0.0.1", "GET / HTTP/1.1", "200", str(size))
    assert found[1][1:3] == ("GET /?a=1&b=%22x HTTP/1.1", "200")
    assert found[2][1:3] == ("GET /no%0Asuch HTTP/1.1", "404")
    assert len(found) == 4
    assert all(len(request) <= 2000 for _, request, *_ in found)


@pytest.mark.parametrize("target", ["x" * 9000, '"' * 9000, "\xff" * 9000])
def test_a_line_is_shorter_than_a_pipe_takes_without_waiting(target: str) -> None:
    line = accesslog._line(("2001:db8::1", f"GET /{target} HTTP/1.1", 200, 15), accesslog._clock(0))
    assert LINE.match(line)
    assert len(line.encode()) < select.PIPE_BUF


def test_without_the_key_there_is_none() -> None:
    with Pool() as pool:
        worker = pool.run().serve()
        pool.get()
        assert worker.signal().wait() == 0
        assert lines(worker.text("out")) == []


def test_what_nobody_reads_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> int:
        written = AccessLog()
        for number in range(20_000):
            written.add(("192.0.2.7", f"GET /{number} HTTP/1.1", 200, 15))
        written.flush()
        dropped = [line for line in os.read(reader, 1 << 20).decode().splitlines() if not LINE.match(line)]
        assert dropped == []
        caplog.clear()
        written.add((None, "GET /again HTTP/1.1", 200, None))
        written.flush()
        return len(os.read(reader, 1 << 20).decode().splitlines())

    reader, writer = os.pipe()
    monkeypatch.setattr(accesslog, "_STDOUT", writer)
    try:
        with caplog.at_level(logging.WARNING):
            assert asyncio.run(play()) == 1
    finally:
        os.close(reader)
        os.close(writer)
    (said,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"\d+ lines of the access log were lost, because they were not read in time", said)
