"""access_log: a line for each answered request, in the common log format, on standard output.

    192.0.2.7 - - [30/Nov/2026:12:59:01 +0000] "GET /cart?id=7 HTTP/1.1" 200 15

An answer's fields are kept as text, since what the libraries have of a request would keep the garbage collector busy; a few times
a second the lines are made and written. A write never waits: while
nobody reads the pipe, because a disk hangs, say, lines are dropped and counted. What is written at once are whole lines of at
most PIPE_BUF bytes, so those of the application do not get between.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import time
from collections.abc import Iterable, Iterator

_EVERY = 0.25  # seconds, by which the time of a line may be wrong
_MOST = 500  # answers that wait
_LONGEST = 2000  # characters of a request
_STDOUT = 1
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# The fields of a line: client, "GET /path HTTP/1.1", status, and bytes of the body if they are known. A plain tuple: a named
# one takes as long to make as the line.
Answer = tuple[str | None, str, int, int | str | None]

log = logging.getLogger("impetusd.worker")


class AccessLog:
    """The lines of one worker. `add` is called in the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(_STDOUT, select.POLLOUT)
        self._answers: list[Answer] = []
        self._timer: asyncio.TimerHandle | None = None
        self._lost = 0

    def add(self, answer: Answer) -> None:
        """One answer."""
        answers = self._answers
        answers.append(answer)
        if len(answers) == 1:
            self._timer = self._loop.call_later(_EVERY, self.flush)
        elif len(answers) > _MOST:
            self.flush()

    def flush(self) -> None:
        """Write what has been gathered, as far as it can be without waiting."""
        if self._timer is not None:
            self._timer.cancel()
        answers, self._answers = self._answers, []
        when = _clock(int(time.time()))
        lines = [_line(each, when) for each in answers]
        written = 0
        for some in _parts(lines, select.PIPE_BUF):
            if not self._write("".join(some).encode()):
                self._lost += len(lines) - written
                return
            written += len(some)
        if written and self._lost:
            log.warning("%d lines of the access log were lost, because they were not read in time", self._lost)
            self._lost = 0

    def _write(self, data: bytes) -> bool:
        """Whether there was room for it: a pipe reported writable has PIPE_BUF bytes of room."""
        try:
            return any(what & select.POLLOUT for _, what in self._poll.poll(0)) and os.write(_STDOUT, data) > 0
        except OSError:
            return False


def _line(answer: Answer, when: str) -> str:
    client, request, status, size = answer
    if not request.isascii():
        request = request.encode("ascii", "backslashreplace").decode()
    if '"' in request or len(request) > _LONGEST:
        request = request.replace('"', "%22")[:_LONGEST]  # so that a line has less than PIPE_BUF bytes
    return f'{client or "-"} - - [{when}] "{request}" {status} {"-" if size is None else size}\n'


def _parts(lines: Iterable[str], most: int) -> Iterator[list[str]]:
    """The lines in groups of at most so many characters."""
    some: list[str] = []
    length = 0
    for line in lines:
        if length + len(line) > most and some:
            yield some
            some, length = [], 0
        some.append(line)
        length += len(line)
    if some:
        yield some


def _clock(now: int) -> str:
    local = time.localtime(now)
    minutes = local.tm_gmtoff // 60
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
    day = f"{local.tm_mday:02}/{_MONTHS[local.tm_mon - 1]}/{local.tm_year}"
    return f"{day}:{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02} {zone}"
