"""Shows progress while programs start or stop: on a terminal one line that rewrites itself, elsewhere nothing.

500 programs that become ready would be 500 lines in a log that nobody reads; the table at the end shows everything,
with the reasons of failures. On a terminal the line appears only when something takes over a second, and names what is
still awaited.
"""

from __future__ import annotations

import os
import sys
import time

from impetusd.cli.screen.terminal import plain, screen_of
from impetusd.client.control import Hooks
from impetusd.core import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self, TextIO

PATIENCE = 1.0  # seconds in which most things are done and a line would only flicker
_SETTLED = protocol.IDLE | {"RUNNING"}


class Live:
    """Use as a context manager around the call; `hooks` go into it. `verb` is what is going on: "starting"."""

    def __init__(self, verb: str, stream: TextIO | None = None) -> None:
        self._verb = verb
        self._stream = stream if stream is not None else sys.stderr
        self._screen = screen_of(self._stream, os.environ)
        self._began = time.monotonic()
        self._awaited: dict[str, str] = {}  # slot: its state, and why
        self._settled: set[str] = set()
        self._waiting = ""
        self._drawn = ""
        self.hooks = Hooks(progress=self._progress, waiting=self._wait, tick=self._tick)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._draw("")
        if kind is KeyboardInterrupt and self.hooks.daemon:
            print(f"{self._verb} continues without this command; follow it with: impetusd status", file=self._stream)

    def line(self, seconds: float) -> str:
        """The line after so many seconds."""
        awaited = ", ".join(f"{name} ({what})" for name, what in self._awaited.items())
        settled = f"{len(self._settled)} done, " if self._settled else ""
        what = self._waiting or (f"{settled}waiting for {awaited}" if awaited else settled.rstrip(", "))
        head = f"{self._verb}, {seconds:.0f} s" + (f": {what}" if what else "")
        return self._screen.cut(head, max(10, (self._screen.width or 80) - 1))

    def _progress(self, params: Mapping[str, Any]) -> None:
        name, state, reason = (plain(str(params.get(key) or "")) for key in ("name", "state", "reason"))
        self._waiting = ""
        if state in _SETTLED:
            self._awaited.pop(name, None)
            self._settled.add(name)
        else:
            self._awaited[name] = f"{state}: {reason}" if reason else state
            self._settled.discard(name)

    def _wait(self, sentence: str) -> None:
        self._waiting = sentence
        if self._screen.width is None:
            print(sentence, file=self._stream, flush=True)

    def _tick(self) -> None:
        seconds = time.monotonic() - self._began
        if self._screen.width is not None and seconds >= PATIENCE:
            self._draw(self.line(seconds))

    def _draw(self, text: str) -> None:
        if text != self._drawn:
            self._drawn = text
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
