"""Logs as supervisord's clients read them: by bytes from an offset on, the last so many, or followed.

They come from the control method `tail`, which hides what looks secret; so a line may have another length than in the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from impetusd.interop.supervisord import Fault, Faults
from impetusd.interop.xmlrpc_text import inert

Ask = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]

MOST = 1 << 20  # bytes in one answer
FIRST = 1024  # bytes of what was written before, for one who follows
AGAIN = 0.5  # seconds until one who follows is given what has come meanwhile


class Log:
    """One stream of a slot, or (`impetusd`) the daemon's own log. What cannot be read raises ControlError."""

    def __init__(self, ask: Ask, slot: str, stream: str) -> None:
        """`stream` is stdout or stderr."""
        self._ask = ask
        self._of = {"name": slot, "stream": "error" if stream == "stderr" else "out"}

    async def last(self, count: int) -> str:
        """The last `count` bytes of complete lines. Fault NO_FILE if there is no file yet."""
        page = await self._page()
        if not page["file"]:
            raise Fault(Faults.NO_FILE, str(page["path"]))
        count = min(count, MOST)
        if count <= page["next"] - page["offset"] or not page["offset"]:
            return _ending(_text(page), count)
        text, _ = await self._between(max(0, page["next"] - count), page["next"], page["file"])
        return _ending(text, count)

    async def read(self, offset: int, length: int) -> str:
        """As `readProcessStdoutLog`: `length` bytes (0: all) from `offset` on; of a negative offset, the last so many."""
        if length < 0 or (offset < 0 and length):
            raise Fault(Faults.BAD_ARGUMENTS)
        if offset < 0:
            return await self.last(-offset)
        page = await self._page()
        if not page["file"]:
            raise Fault(Faults.NO_FILE, str(page["path"]))
        end = min(page["next"], offset + min(length or MOST, MOST))
        text, _ = await self._between(offset, end, page["file"])
        return _beginning(text, end - offset)

    async def tail(self, offset: int, length: int) -> list[Any]:
        """As `tailProcessStdoutLog`: [text, the log's size, whether more than `length` bytes lie behind `offset`]."""
        page = await self._page()
        if not page["file"]:
            return ["", 0, False]
        size, length = page["next"], min(max(length, 0), MOST)
        if size > max(offset, 0) + length:
            return [await self.last(length) if length else "", size, True]
        text, size = await self._between(max(offset, 0), size, page["file"]) if offset < size else ("", size)
        return [text, size, False]

    async def follow(self) -> AsyncIterator[str]:
        """The last FIRST bytes, then what comes, for ever; "" whenever nothing has come for AGAIN seconds."""
        page = await self._page()
        yield _ending(_text(page), FIRST)
        while True:
            where = {"file": page["file"], "offset": page["next"]} if page["file"] else {}
            more = await self._page(where)
            if more["file"]:
                page = more
            yield _text(more)
            if not more["lines"]:
                await asyncio.sleep(AGAIN)

    async def _page(self, where: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return await self._ask("tail", {**self._of, **(where or {})})

    async def _between(self, offset: int, end: int, file: str) -> tuple[str, int]:
        """What lies between two offsets of this file, in whole lines, and where it ends."""
        texts = []
        while offset < end:
            page = await self._page({"file": file, "offset": offset})
            if not page["lines"] or page["anew"]:
                break
            texts.append(_text(page))
            offset = page["next"]
        return "".join(texts), offset


def _text(page: Mapping[str, Any]) -> str:
    return "".join(f"{inert(line)}\n" for line in page["lines"])


def _ending(text: str, count: int) -> str:
    return text.encode()[-count:].decode("utf-8", "ignore") if count else ""


def _beginning(text: str, count: int) -> str:
    return text.encode()[: max(0, count)].decode("utf-8", "ignore")
