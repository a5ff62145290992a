"""Log lines: JSON, without a secret, and nobody waits for whoever reads them."""

from __future__ import annotations

import json
import logging
import os
import threading

import pytest
from served import PASSWORD, served
from server import run

from impetus_service.kit import logs
from impetus_service.kit.request_id import REQUEST_ID
from impetus_service.sessions import new_token


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def record(message: str, **kwargs) -> logging.LogRecord:
    return logging.getLogger("impetus.test").makeRecord(
        "impetus.test", logging.INFO, "", 0, message, (), None, **kwargs
    )


def test_a_line_is_an_object(pipe):
    reading, writing = pipe
    writer = logs.Writer(writing)
    token = REQUEST_ID.set("r-1")
    writer.emit(record("two\nlines", extra={"fields": {"status": 200}}))
    REQUEST_ID.reset(token)
    writer.stop()
    (line,) = os.read(reading, 4096).decode().splitlines()
    parsed = json.loads(line)
    assert parsed.pop("time").endswith("Z")
    assert parsed == {
        "level": "INFO", "logger": "impetus.test", "message": "two\nlines", "request_id": "r-1", "status": 200
    }  # fmt: skip


def test_nobody_waits_for_a_reader_and_what_is_dropped_is_counted(pipe, monkeypatch):
    monkeypatch.setattr(logs, "MAX_WAITING", 10)
    reading, writing = pipe
    writer = logs.Writer(writing)
    long = "x" * 100_000  # more than a pipe holds
    for _ in range(30):
        writer.emit(record(long))
    text = bytearray()

    def read() -> None:
        while chunk := os.read(reading, 1 << 20):
            text.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    writer.stop()
    writer.emit(record("after the end"))
    os.close(writing)
    reader.join()
    lines = [json.loads(line)["message"] for line in text.decode().splitlines()]
    kept = lines.count(long)
    assert f"{30 - kept} log lines were dropped" in lines
    assert 10 <= kept < 30
    assert lines[-1] == "after the end"


def test_a_pipe_that_does_not_block_is_waited_for_however_long_it_is_full(pipe, monkeypatch):
    """Each try was a call within the one before: after a thousand of them, 50 s, the thread ended."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    os.write(writing, b"x" * 65536)
    waits = []

    def wait(_seconds: float) -> None:
        waits.append(1)
        if len(waits) == 3000:
            os.read(reading, 65536)

    monkeypatch.setattr(logs.time, "sleep", wait)
    writer = logs.Writer(writing)
    writer.emit(record("in the end"))
    writer.stop()
    assert json.loads(os.read(reading, 4096))["message"] == "in the end"


def test_a_reader_that_has_gone_ends_nothing(pipe):
    reading, writing = pipe
    os.close(reading)
    writer = logs.Writer(writing)
    writer.emit(record("nobody reads"))
    writer.stop()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("token imp_" + "aB3_-" * 8 + "!", "token ***!"),
        ("Authorization: Bearer abcdef.ghi-jkl", "Authorization: Bearer ***"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("postgresql://joe:hunter2@host/db", "postgresql://***@host/db"),
        ("postgresql:///db?user=joe&password=hunter2&x=1", "postgresql:///db?user=joe&password=***&x=1"),
        ('{"password": "hunter2", "a": 1}', '{"password": ***, "a": 1}'),
        ("sk-proj-abcdefghijklmnopqrstuv", "***"),
        ("http://host:80/path and a@b", "http://host:80/path and a@b"),
        (
            "an ordinary line: 5 of 7, http://127.0.0.1:8080/health",
            "an ordinary line: 5 of 7, http://127.0.0.1:8080/health",
        ),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text, shown):
    assert logs.redact(text) == shown


def test_every_token_is_hidden():
    assert {logs.redact(f"<{new_token()}>") for _ in range(50)} == {"<***>"}


def test_what_is_known_as_a_secret_is_hidden_wherever_it_is(monkeypatch):
    monkeypatch.setattr(logs, "_known", set())
    logs.hide("correct-horse", "short")
    assert logs.redact("x=correct-horse; short") == "x=***; short"


def test_no_secret_is_in_any_line_of_a_service(shared_postgres, capfd):
    async def main() -> list[str]:
        async with served(shared_postgres.url, OPENAI_API_KEY="some-unusual-key", LOG_LEVEL="DEBUG") as service:
            admin = await service.administrator()
            member = await service.colleague(admin)
            body = {"current": PASSWORD, "new": "a much better one"}
            await member("POST", "/api/auth/password", json=body)
            await service("POST", "/api/auth/login", json={"email": admin.email, "password": "wrong-hunter2"})
            await service("GET", f"/api/auth/me?token={admin.token}")
            await service("GET", f"/nowhere/{admin.token}", admin.token)
            await service("POST", "/api/auth/login", data=b'{"password": "hunter2-broken"')
            logging.getLogger("impetus.test").error("failed with %s and %s", admin.token, "some-unusual-key")
            try:
                raise ValueError(admin.token)
            except ValueError:
                logging.getLogger("impetus.test").exception("it failed")
            return [admin.token, member.token, PASSWORD, "a much better one", "hunter2", "some-unusual-key"]

    secrets = run(main())
    logs.stop()
    written = "".join(capfd.readouterr())
    assert written.count('"logger":"impetus.access"') >= 8
    assert "it failed" in written
    for line in written.splitlines():
        assert isinstance(json.loads(line), dict)
    assert [secret for secret in secrets if secret in written] == []
