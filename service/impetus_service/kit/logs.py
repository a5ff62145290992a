"""JSON lines: the application's on stderr, one for each request on stdout. Secrets are hidden, and nobody waits.

Lines are written by a thread: a pipe that nobody empties would stop the event loop. What waits is bounded to MAX_WAITING
lines; what does not fit is dropped, counted, and the count is logged when there is room again.

A line has time, level, logger, message and, where there is one, request_id, job_id and exception; that of a request has method,
path (without the query, which may hold anything), status, ms, bytes, address, user_id and company_id.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

import msgspec

from impetus_service.kit.request_id import JOB_ID, REQUEST_ID

MAX_WAITING = 20_000  # lines
_BATCH = 500  # lines in one write
# Seconds that a line waits for others: to wake the thread for each costs the event loop more than the line itself, as the
# two then contend for the interpreter.
_GATHER = 0.02
_LAST_WORDS = 2.0  # seconds that the end of the process waits for what is not written yet

access = logging.getLogger("impetus.access")

_encode = msgspec.json.Encoder().encode
# Our session tokens, bearer tokens and keys of OpenAI's form, credentials in URLs, and what is named like a secret.
_SECRETS = re.compile(
    r"imp_[\w-]{16,}|sk-[\w-]{16,}"
    r"|(?<=://)[^\s/@'\"]*:[^\s@'\"]*(?=@)"
    r"|(?i:(?<=bearer )|(?<=basic ))[\w.~+/=-]{8,}"
    r"|(?i:(?<=password=)|(?<=passwd=)|(?<=secret=)|(?<=token=)|(?<=api_key=)|(?<=apikey=))[^\s&;,'\"]+"
    r"|(?i:(?<=\"password\": )|(?<=\"password\":)|(?<='password': )|(?<=\"token\":)|(?<=\"token\": )|(?<='token': ))['\"][^'\"]*['\"]"
)
_HIDDEN = "***"
_known: set[str] = set()


def hide(*secrets: str) -> None:
    """From now on these texts are in no line, wherever they would turn up. Ones below 6 characters are left alone."""
    _known.update(secret for secret in secrets if len(secret) >= 6)


def redact(text: str) -> str:
    """`text` without what is, or looks like, a secret."""
    for secret in _known:
        text = text.replace(secret, _HIDDEN)
    return _SECRETS.sub(_HIDDEN, text)


def redact_path(path: str) -> str:
    """As redact, for a URL's path, of which each request has one: only a token or a key can be in it."""
    return redact(path) if "imp_" in path or "sk-" in path else path


class JsonLines(logging.Formatter):
    """A record as one JSON object. The fields of `extra={"fields": {…}}` come last and are not searched for secrets."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
        }
        message = record.getMessage()
        if message:
            line["message"] = redact(message)
        request_id = REQUEST_ID.get()
        if request_id:
            line["request_id"] = request_id
        job_id = JOB_ID.get()
        if job_id:
            line["job_id"] = job_id
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        line |= getattr(record, "fields", None) or {}
        return _encode(line).decode()


class Writer(logging.Handler):
    """Writes lines to a descriptor in a thread of its own; after `stop`, and in a forked child, at once."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self._fd = fd
        self._waiting: deque[str] = deque()
        self._some = threading.Event()
        self._dropped = 0
        self._stop = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"impetus.logs.{fd}", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if self._stop.is_set() or os.getpid() != self._pid:
            self._write(line + "\n")
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(line)
            if not self._some.is_set():
                self._some.set()
        else:
            self._dropped += 1

    def stop(self) -> None:
        """Write what waits; lines that come later are written at once. Takes at most _LAST_WORDS seconds."""
        self._stop.set()
        self._some.set()
        self._thread.join(_LAST_WORDS)

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._stop.wait(_GATHER)
            self._some.clear()
            while self._waiting:
                lines = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                if self._dropped and not self._waiting:
                    dropped, self._dropped = self._dropped, 0
                    record = logging.LogRecord(
                        "impetus.logs", logging.WARNING, "", 0, "%d log lines were dropped", (dropped,), None
                    )
                    lines.append(self.format(record))
                self._write("\n".join(lines) + "\n")
            if self._stop.is_set():
                return

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(errors="replace"))
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody has made the pipe so, and nobody empties it
                time.sleep(0.05)
            except OSError:
                return  # nobody reads any more


def configure(level: str) -> None:
    """Lines of `level` and above from now on, as the module says. A second call in one process replaces the first."""
    _end()
    for logger, fd in ((logging.getLogger(), 2), (access, 1)):
        writer = Writer(fd)
        _writers.append((logger, writer))
        logger.addHandler(writer)
    access.propagate = False
    logging.getLogger("aiohttp.access").propagate = False  # where it is on, it would say everything a second time
    access.setLevel(logging.INFO)
    logging.getLogger("impetus").setLevel(level)
    logging.getLogger().setLevel(logging.INFO)
    logging.captureWarnings(capture=True)


def stop() -> None:
    """Write what waits. Lines of a process that goes on all the same are written at once."""
    for _, writer in _writers:
        writer.stop()


def _end() -> None:
    stop()
    for logger, writer in _writers:
        logger.removeHandler(writer)
    _writers.clear()


_writers: list[tuple[logging.Logger, Writer]] = []
atexit.register(stop)
