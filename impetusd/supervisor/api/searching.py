"""The control method `search`: lines of a slot's log and its rotated files, by text and time, or around one line.

Whoever may `tail` may search. It goes on in a thread, of which there are few, and gives up in time: what it has found by then
is the answer. What looks secret is hidden, and cannot be found out by looking for it either: only lines that have the text
after that are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from impetusd.core import redact
from impetusd.core.protocol import EXIT_FAILED, EXIT_UNKNOWN_NAME, FAILED, ProtocolError
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
        """The control method."""
        path, secrets = self._where(params["name"], params["stream"])
        deadline = time.monotonic() + ENOUGH
        until = params["until"] or float("inf")
        query = Query(params["text"], params["since"], until, params["limit"], params["before"], params["after"])

        def look() -> dict[str, Any]:
            if params["offset"] is None:
                found = logsearch.search(path, query, lambda: time.monotonic() > deadline)
            else:
                at = logsearch.around(path, params["file"], params["offset"], query.before, query.after)
                found = Found(at, more=False)
            return {"path": path, **_shown(found, query.text, secrets)}

        try:
            return await self._threads.run(look, WITHIN)
        except Gone:
            sentence = f"the line is no longer in {path}: its file was removed, or compressed since"
            raise ProtocolError(FAILED, sentence, EXIT_UNKNOWN_NAME) from None
        except NoAnswer as error:
            raise ProtocolError(FAILED, f"cannot search {path}: {error}", EXIT_FAILED) from None
        except OSError as error:
            raise ProtocolError(FAILED, f"cannot read {path}: {error.strerror}", EXIT_FAILED) from None


def _shown(found: Found, text: str, secrets: Iterable[str]) -> dict[str, Any]:
    lines: list[dict[str, Any]] = []
    left, more = ANSWER, found.more
    for line in reversed(found.lines):
        row = _row(line, secrets)
        if line.match and text.lower() not in row["text"].lower():
            continue  # what was found is hidden
        left -= len(row["text"])
        if left < 0:
            more = True
            break
        lines.append(row)
    return {"lines": lines[::-1], "more": more}


def _row(line: Line, secrets: Iterable[str]) -> dict[str, Any]:
    text = redact.text(line.data.decode("utf-8", "backslashreplace"), secrets)
    return {"at": line.at, "text": text[:LONGEST], "file": line.file, "offset": line.offset, "match": line.match}
