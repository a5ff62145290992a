"""The control client for an event loop: requests, each on its own connection, and `watch` as an async iterator.

The caller chooses the daemon: `connect` opens the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from impetusd.client.control import ControlError, Unanswered, refused
from impetusd.client.inherited import Inherited
from impetusd.core import protocol, stream
from impetusd.core.stream import Change, Mirror

ANSWER = 10.0  # seconds for what is answered at once
SILENT = 20.0  # seconds without a word, after which a watched connection is given up: `alive` comes every 5
FIRST_AGAIN, LAST_AGAIN = 0.05, 2.0  # seconds until the next try to connect; doubled each time

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


def at(path: str) -> Connect:
    """Connections to the control socket at `path`."""
    return functools.partial(asyncio.open_unix_connection, path, limit=protocol.MAX_ANSWER)


def through(fd: int) -> Connect:
    """Connections over the descriptor that one of our own units inherits: see `client.inherited`."""
    return Inherited(fd)


class AsyncControl:
    """One supervisor after the other, behind the same socket. `server` is what the last one has stated; {} for nothing."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self.server: Mapping[str, Any] = {}

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        progress: Callable[[Mapping[str, Any]], None] | None = None,
        behalf: protocol.Behalf | None = None,
    ) -> dict[str, Any]:
        """Send one request; `behalf`: the user it is for, over a connection of `through`. Raises ControlError with the
        supervisor's own sentence and exit code; Unanswered if there is no answer.

        Methods that take as long as programs take to start or stop have no deadline here.
        """
        line = protocol.request_line(1, method, params or {}, behalf)
        try:
            async with asyncio.timeout(None if protocol.METHODS[method].slow else ANSWER):
                reader, writer = await self._connect()
                try:
                    writer.write(line)
                    while True:
                        answer = await self._read(reader)
                        if answer.progress is not None and progress is not None:
                            progress(answer.progress)
                        if answer.error is not None:
                            raise refused(answer.error)
                        if answer.result is not None:
                            return answer.result
                finally:
                    writer.close()
        except TimeoutError:
            raise Unanswered(f"impetusd did not answer {method} within {ANSWER:g} s") from None
        except OSError as error:
            raise Unanswered(f"impetusd did not answer {method}: {error.strerror or error}") from None

    async def follow(
        self, method: str, params: Mapping[str, Any], behalf: protocol.Behalf | None = None
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """The answer to a question that goes on after it (`tail` with follow), then the parameters of each notification.

        Ends when the supervisor ends the connection. ControlError as of `call`; Unanswered before there is an answer.
        """
        line, answered = protocol.request_line(1, method, params, behalf), False
        try:
            reader, writer = await self._connect()
            try:
                writer.write(line)
                while True:
                    answer = await self._read(reader)
                    if answer.error is not None:
                        raise refused(answer.error)
                    if answer.result is not None:
                        answered = True
                        yield answer.result
                    elif answer.notice is not None:
                        yield answer.notice[1]
            finally:
                writer.close()
        except OSError as error:
            if not answered:
                raise Unanswered(f"impetusd did not answer {method}: {error.strerror or error}") from None

    async def _read(self, reader: asyncio.StreamReader) -> protocol.Answer:
        try:
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionResetError("the supervisor closed the connection")
            answer = protocol.parse_answer(line)
        except ValueError as error:  # longer than any answer may be
            raise ControlError(f"impetusd's answer cannot be read: {error}") from None
        except protocol.ProtocolError as error:
            raise ControlError(f"impetusd's answer cannot be read: {error.message}") from None
        self.server = answer.server or self.server
        return answer

    async def watch(
        self, mirror: Mirror | None = None, *, usage: bool = True, heard: Callable[[], object] = lambda: None
    ) -> AsyncGenerator[Change, None]:
        """Each change, once `mirror` has it, for ever: over lost connections and other supervisors. `heard` is called
        for each line received, including keep-alives.

        A lost connection, or one that cannot be made, is one of kind "lost" with the reason as `value`, once; then comes
        "resumed", or "snapshot", whose value is whether changes may be missing. Raises ControlError if a retry cannot
        help: the role does not allow it, or the daemon is too old to be watched.
        """
        mirror = mirror or Mirror()
        again, lost = FIRST_AGAIN, False
        while True:
            try:
                async with contextlib.aclosing(self._watch_once(mirror, heard, usage=usage)) as changes:
                    async for change in changes:
                        again, lost = FIRST_AGAIN, False
                        yield change
            except (OSError, stream.OutOfStep) as error:
                if not lost:
                    lost = True
                    yield Change(mirror.n, time.time(), "lost", "", str(error) or type(error).__name__)
                await asyncio.sleep(again)
                again = min(2 * again, LAST_AGAIN)

    async def _watch_once(
        self, mirror: Mirror, heard: Callable[[], object], *, usage: bool
    ) -> AsyncGenerator[Change, None]:
        reader, writer = await self._connect()
        try:
            params = {"life": mirror.life, "since": mirror.n, "usage": usage}
            writer.write(protocol.request_line(1, "watch", params))
            while True:
                async with asyncio.timeout(SILENT):  # wait_for of Python 3.11 may lose a cancellation (gh-86296)
                    answer = await self._read(reader)
                heard()
                change = None
                if answer.error is not None:
                    raise refused(answer.error)
                if answer.result is not None:
                    change = mirror.begin(answer.result)
                elif answer.notice is not None:
                    change = mirror.take(*answer.notice)
                if change is not None:
                    yield change
        finally:
            writer.close()
