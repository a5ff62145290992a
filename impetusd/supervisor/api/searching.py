"""The control method `search`: lines of logs and their rotated files, by text and time, or around one line.

The role that may `tail` may search. It runs in one of a few threads and has a time limit: the answer is what it has
found by then. What looks secret is hidden and cannot be found by searching for it either: only lines that match once
redacted are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from impetusd.core import redact
from impetusd.core.protocol import EXIT_FAILED, EXIT_UNKNOWN_NAME, EXIT_USAGE, FAILED, ProtocolError
from impetusd.files import logsearch
from impetusd.files.logsearch import Found, Gone, Line, Query
from impetusd.supervisor.threads import NoAnswer, Threads

MOST = 2  # threads
WITHIN = 15.0  # seconds for the disk
ENOUGH = 8.0  # seconds after which what was found is the answer
LONGEST = 8192  # characters of a line that are shown
ANSWER = 2 << 20  # bytes of lines in an answer


class Searching:
    """`where` gives the file of a slot's stream, and what must not be seen of it: see `Tailing.where`."""

    def __init__(self, where: Callable[[str, str], tuple[str, tuple[str, ...]]]) -> None:
        self._where = where
        self._threads = Threads("search", MOST)

    async def search(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method: {"logs": [{"name", "stream", "path", "lines", "more", "written"}, or with "error" for the last
        four]}. `written`: when the log was written last, Unix time.

        A file that several slots write into is searched once. ProtocolError if nothing can be searched.
        """
        logs: list[dict[str, Any]] = []
        todo: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {}
        failed: ProtocolError | None = None
        for name in params["names"]:
            for stream in params["streams"]:
                log: dict[str, Any] = {"name": name, "stream": stream}
                try:
                    path, secrets = self._where(name, stream)
                except ProtocolError as error:
                    logs.append({**log, "error": error.message})
                    failed = error
                    continue
                if path not in todo:
                    todo[path] = log, secrets
                    logs.append(log)
        if not todo and failed is not None:
            raise failed
        if params["offset"] is not None and len(todo) > 1:
            raise ProtocolError(FAILED, "a line belongs to a single log; specify one name and one stream", EXIT_USAGE)
        try:
            await self._threads.run(lambda: self._look(params, todo), WITHIN)
        except Gone:
            sentence = f"the line is no longer in {next(iter(todo))}: its file was removed, or compressed since"
            raise ProtocolError(FAILED, sentence, EXIT_UNKNOWN_NAME) from None
        except NoAnswer as error:
            raise ProtocolError(FAILED, f"logs cannot be searched: {error}", EXIT_FAILED) from None
        return {"logs": [dict(log) for log in logs]}

    @staticmethod
    def _look(params: Mapping[str, Any], todo: Mapping[str, tuple[dict[str, Any], tuple[str, ...]]]) -> None:
        deadline = time.monotonic() + ENOUGH
        until = params["until"] or float("inf")
        query = Query(params["text"], params["since"], until, params["limit"], params["before"], params["after"])
        left = ANSWER
        for path, (log, secrets) in todo.items():
            try:
                if params["offset"] is None:
                    found = logsearch.search(path, query, lambda: time.monotonic() > deadline)
                else:
                    at = logsearch.around(path, params["file"], params["offset"], query.before, query.after)
                    found = Found(at, more=False)
            except OSError as error:
                log["error"] = f"cannot read {path}: {error.strerror}"
                continue
            lines, more, size = _shown(found, query.text, secrets, left)
            left -= size
            log.update(path=path, lines=lines, more=more, written=found.written)


def _shown(found: Found, text: str, secrets: Iterable[str], left: int) -> tuple[list[dict[str, Any]], bool, int]:
    """The lines that may be seen, whether there are more, and their size; the newest, where not all of them have room."""
    lines: list[dict[str, Any]] = []
    more, size = found.more, 0
    for line in reversed(found.lines):
        row = _row(line, secrets)
        if line.match and text.lower() not in row["text"].lower():
            continue  # what was found is hidden
        if size + len(row["text"]) > left:
            more = True
            break
        size += len(row["text"])
        lines.append(row)
    return lines[::-1], more, size


def _row(line: Line, secrets: Iterable[str]) -> dict[str, Any]:
    text = redact.text(line.data.decode("utf-8", "backslashreplace"), secrets)
    return {"at": line.at, "text": text[:LONGEST], "file": line.file, "offset": line.offset, "match": line.match}
