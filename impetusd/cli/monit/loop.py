"""`impetusd monit` on a terminal: curses writes what changed, and nothing else; keys and events come in, `draw` decides."""

from __future__ import annotations

import contextlib
import curses
import locale
import os
import select
import signal
import sys
import time

from impetusd.cli.failure import Failure
from impetusd.cli.monit import feeds, view
from impetusd.cli.monit.draw import draw
from impetusd.cli.monit.view import View
from impetusd.client import control
from impetusd.core import stream
from impetusd.core.protocol import EXIT_USAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

    from impetusd.cli.place import Place

BEAT = 1.0  # seconds between two drawings while only clocks, memory and CPU change
APART = 0.1  # seconds between two drawings at least
ESCAPE_MS = 25  # for the rest of an escape sequence; after that it is the key Esc
KEYS = {
    "\n": view.ENTER,
    "\r": view.ENTER,
    "\t": view.TAB,
    "\x1b": view.ESCAPE,
    "\x7f": view.BACKSPACE,
    "\b": view.BACKSPACE,
    "\x06": view.PAGE_DOWN,
    "\x02": view.PAGE_UP,
    curses.KEY_ENTER: view.ENTER,
    curses.KEY_BACKSPACE: view.BACKSPACE,
    curses.KEY_UP: view.UP,
    curses.KEY_DOWN: view.DOWN,
    curses.KEY_PPAGE: view.PAGE_UP,
    curses.KEY_NPAGE: view.PAGE_DOWN,
    curses.KEY_HOME: view.HOME,
    curses.KEY_END: view.END,
}
REDRAW = "\x0c"  # Ctrl-L


def show(here: Place) -> int:
    """Until q, Ctrl-C, or until no daemon runs any more, which is raised."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        with contextlib.suppress(OSError):  # it does not answer, or may not be asked
            control.ping(here.paths, mine=True)  # of another file's daemon there is nothing to watch on any terminal
        raise Failure("monit needs a terminal; into a pipe, use: impetusd status --watch", EXIT_USAGE)
    locale.setlocale(locale.LC_ALL, "")
    try:
        curses.setupterm()
    except curses.error:
        raise Failure(f"monit does not support TERM={os.environ.get('TERM', '')!r}", EXIT_USAGE) from None
    inbox = feeds.Inbox()
    feeds.begin("watch", inbox, feeds.watch, here.paths, inbox)
    try:
        return Monit(here, inbox).run()
    except control.NotRunning as error:
        from impetusd.cli import outcome

        raise outcome.not_running(here, error) from None
    finally:
        inbox.close()


class Monit:
    """One terminal."""

    def __init__(self, here: Place, inbox: feeds.Inbox) -> None:
        self._here = here
        self._inbox = inbox
        self._view = View(here.conf)
        self._log: feeds.Log | None = None
        self._utf8 = locale.nl_langinfo(locale.CODESET) == "UTF-8"
        self._size = (0, 0)
        self._due = 0.0  # when to draw next, monotonic
        self._drawn = 0.0

    def run(self) -> int:
        """Take the terminal, and give it back as it was."""
        before = {each: signal.signal(each, self._end) for each in (signal.SIGTERM, signal.SIGHUP)}
        before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: self._inbox.wake())
        self._screen = screen = curses.initscr()
        try:
            curses.noecho()
            curses.cbreak()
            curses.set_escdelay(ESCAPE_MS)
            screen.keypad(True)
            screen.nodelay(True)
            try:
                curses.curs_set(0)
            except curses.error:
                pass  # it cannot be hidden
            self._styles = _styles()
            return self._loop()
        finally:
            curses.endwin()
            if self._log is not None:
                self._log.close()
            for each, handler in before.items():
                signal.signal(each, handler)

    @staticmethod
    def _end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _loop(self) -> int:
        poll = select.poll()
        poll.register(sys.stdin, select.POLLIN)
        poll.register(self._inbox.fd, select.POLLIN)
        while True:
            now = time.monotonic()
            if now >= self._due:
                self._draw()
                now = self._drawn = time.monotonic()
                self._due = now + BEAT
            for fd, event in poll.poll(max(0.0, self._due - now) * 1000):
                if fd == self._inbox.fd:
                    self._hear()
                elif event & (select.POLLHUP | select.POLLERR):
                    return 1  # the terminal is gone
                elif any(self._press(key) for key in self._keys()):
                    return 0

    def _soon(self) -> None:
        self._due = min(self._due, self._drawn + APART)

    # Input.

    def _keys(self) -> Iterator[str]:
        while True:
            try:
                key = self._screen.get_wch()
            except curses.error:  # nothing more
                return
            if key == REDRAW:
                self._screen.redrawwin()
            elif isinstance(key, str) or key in KEYS:
                yield KEYS.get(key, str(key))

    def _press(self, key: str) -> bool:
        """Whether it ends the program."""
        self._due = 0.0
        action = self._view.press(key)
        if action is None:
            return False
        if action.what == "quit":
            return True
        if action.what in {"leave", view.LOGS} and self._log is not None:
            self._log.close()
            self._log = None
        if action.what == view.LOGS:
            self._log = feeds.Log(self._here.paths, action.name, action.stream, self._inbox)
        elif action.what == view.WHY:
            columns, utf8, inbox = self._size[0], self._utf8, self._inbox
            feeds.begin("why", inbox, lambda: feeds.explain(self._here, action.name, columns, inbox, utf8=utf8))
        elif action.what != "leave":
            feeds.begin("command", self._inbox, feeds.carry_out, self._here.paths, action, self._inbox)
        return False

    def _hear(self) -> None:
        for what, *rest in self._inbox.take():
            getattr(self, f"_{what}")(*rest)

    def _snapshot(self, rows: stream.Rows) -> None:
        self._view.rows = rows
        self._view.live()
        self._due = 0.0

    def _change(self, kind: str, key: str, value: Any, at: float) -> None:
        stream.put(self._view.rows, at, kind, key, value)
        self._view.live()
        if kind != stream.USAGE:
            self._soon()

    def _lost(self, why: str) -> None:
        self._view.live(why if why.startswith("waiting") else "connection lost")
        self._soon()

    def _resumed(self, _: object) -> None:
        self._view.live()
        self._soon()

    def _lines(self, log: feeds.Log, lines: list[str]) -> None:
        if log is self._log:
            self._view.more(lines)
            self._soon()

    def _why(self, name: str, lines: list[str]) -> None:
        if self._view.mode == view.WHY and self._view.of == name:
            self._view.explain(lines)
            self._soon()

    def _said(self, text: str, failed: bool) -> None:
        self._view.say(text, failed=failed)
        self._soon()

    def _failed(self, name: str, error: control.ControlError) -> None:
        if name == "watch":
            raise error
        self._view.say(str(error), failed=True)
        self._soon()

    def _ended(self, error: Exception) -> None:
        raise error

    # Output.

    def _draw(self) -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        if size != self._size:
            self._size = size
            curses.resizeterm(size.lines, size.columns)
            self._screen.clearok(True)
        picture = draw(self._view, size.columns, size.lines, time.time(), utf8=self._utf8)
        self._view.placed(picture.total, picture.room, picture.top)
        self._screen.erase()
        for y, line in enumerate(picture.lines):
            self._screen.move(y, 0)
            for text, style in line:
                try:
                    self._screen.addstr(text, self._styles[style])
                except curses.error:
                    pass  # the cursor has no place behind the last cell of all
        self._screen.refresh()


def _styles() -> dict[str, int]:
    """Each of draw.STYLES, with colours where the terminal has them and the user wants them."""
    styles = {
        "": curses.A_NORMAL,
        "bold": curses.A_BOLD,
        "dim": curses.A_DIM,
        "selected": curses.A_REVERSE,
        "bar": curses.A_REVERSE | curses.A_BOLD,
        **dict.fromkeys(("red", "yellow"), curses.A_BOLD),
        "green": curses.A_NORMAL,
    }
    if not os.environ.get("NO_COLOR"):
        curses.start_color()
        if curses.has_colors():
            curses.use_default_colors()
            for number, (name, colour) in enumerate(
                (("red", curses.COLOR_RED), ("yellow", curses.COLOR_YELLOW), ("green", curses.COLOR_GREEN)), 1
            ):
                curses.init_pair(number, colour, -1)
                styles[name] = curses.color_pair(number)
    return styles
