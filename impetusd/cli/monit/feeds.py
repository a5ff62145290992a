"""What `impetusd monit` receives from the daemon: each source has its own thread, and all put events into one inbox.

So keys work even while the daemon hangs or restarts.
"""

from __future__ import annotations

import collections
import contextlib
import os
import socket
import threading
import time

from impetusd.cli.screen import table
from impetusd.cli.screen.terminal import Screen
from impetusd.client import control, watching
from impetusd.core import protocol, stream
from impetusd.core.stream import Mirror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from impetusd.cli.monit.view import Action
    from impetusd.cli.place import Place
    from impetusd.core.config.location import Paths

AGAIN = 0.5  # seconds before a log is requested again after its supervisor has closed the connection


class Inbox:
    """Events, and a descriptor that can be read from when there are some."""

    def __init__(self) -> None:
        self._events: collections.deque[tuple[Any, ...]] = collections.deque()
        self.fd, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def put(self, *event: Any) -> None:
        """Put an event in the inbox; may be called from any thread."""
        self._events.append(event)
        self.wake()

    def wake(self) -> None:
        """Make `fd` readable."""
        with contextlib.suppress(OSError):  # it is full, so it is readable; or it is closed
            os.write(self._wake, b"\0")

    def take(self) -> Iterator[tuple[Any, ...]]:
        """The events received."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        while self._events:
            yield self._events.popleft()

    def close(self) -> None:
        """Threads may still put something: nobody hears of it."""
        wake, self._wake = self._wake, -1
        for fd in (self.fd, wake):
            os.close(fd)


def begin(name: str, inbox: Inbox, act: Callable[..., None], *args: Any) -> None:
    """Run `act` in a thread. What it raises is the event ("failed", error) if it is an operator's matter, else ("ended", error)."""

    def run() -> None:
        try:
            act(*args)
        except control.ControlError as error:
            inbox.put("failed", name, error)
        except Exception as error:
            inbox.put("ended", error)

    threading.Thread(target=run, name=name, daemon=True).start()


def watch(paths: Paths, inbox: Inbox) -> None:
    """("snapshot", rows), ("change", kind, key, value, at), ("lost", why), ("resumed",).

    The rows belong to the receiver: this keeps its own mirror.
    """
    mirror = Mirror()
    hooks = control.Hooks(waiting=lambda _: inbox.put("lost", "waiting for impetusd"))
    for change in watching.changes(paths, mirror, hooks):
        if change is None:
            continue
        if change.kind == "snapshot":
            inbox.put(
                "snapshot", {kind: {key: dict(row) for key, row in rows.items()} for kind, rows in mirror.rows.items()}
            )
        elif change.kind in {"lost", "resumed"}:
            inbox.put(change.kind, change.value)
        elif change.kind != stream.LEDGER:
            inbox.put("change", change.kind, change.key, change.value, change.at)


class Log:
    """Follows one log: ("lines", this, lines) for each page."""

    def __init__(self, paths: Paths, name: str, of: str, inbox: Inbox) -> None:
        """`of` is the stream: out or error."""
        self._paths = paths
        self._of = {"name": name, "stream": of, "follow": True}
        self._inbox = inbox
        self._connection: socket.socket | None = None
        self._over = False
        begin("log", inbox, self._run)

    def close(self) -> None:
        """Nobody looks any more."""
        self._over = True
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        where: dict[str, Any] = {}
        while not self._over:
            with contextlib.closing(control.connect(self._paths, control.Hooks(), mine=True)) as connection:
                self._connection = connection
                with contextlib.suppress(OSError):
                    for page in self._pages(connection, where):
                        if page["file"]:
                            where = {"file": page["file"], "offset": page["next"]}
                        if not self._over:
                            self._inbox.put("lines", self, page["lines"])
            time.sleep(0 if self._over else AGAIN)

    def _pages(self, connection: socket.socket, where: dict[str, Any]) -> Iterator[dict[str, Any]]:
        lines = protocol.LineBuffer(protocol.MAX_ANSWER)
        connection.setblocking(True)
        connection.sendall(protocol.request_line(1, "tail", {**self._of, **where}))
        while data := connection.recv(1 << 18):
            for line in lines.feed(data):
                answer = protocol.parse_answer(line)
                if answer.error is not None:
                    raise control.refused(answer.error)
                page = answer.result or (answer.notice[1] if answer.notice is not None else None)
                if page is not None:
                    yield page


def carry_out(paths: Paths, action: Action, inbox: Inbox) -> None:
    """A control method: ("said", sentence, whether it failed) as it goes on, and how it ended."""
    said = f"{action.what} {action.name}"

    def progress(params: Any) -> None:
        reason = f": {params['reason']}" if params.get("reason") else ""
        inbox.put("said", f"{said} ... {params['name']} is {params['state']}{reason}", False)

    inbox.put("said", f"{said} ...", False)
    params: dict[str, Any] = {"names": [action.name]}
    if "token" in protocol.METHODS[action.what].params:
        params["token"] = os.urandom(8).hex()
    try:
        answer = control.call(paths, action.what, params, control.Hooks(progress=progress))
    except control.ControlError as error:
        inbox.put("said", f"{said}: {error}", True)
        return
    if answer.get("ok", True):
        inbox.put("said", f"{said}: done", False)
        return
    why = [f"the old version keeps serving: {each['reason']}" for each in answer.get("reloads", ()) if each["reason"]]
    why = why or [table.sentence(row) for row in answer["units"] if not protocol.as_wanted(row)]
    inbox.put("said", f"{said} failed: {'; '.join(why)}", True)


def explain(here: Place, name: str, width: int, inbox: Inbox, *, utf8: bool) -> None:
    """("why", name, lines): what `impetusd why NAME` prints."""
    from impetusd.cli import why
    from impetusd.core.explain.why import explain as found_of

    facts = why.gather(here, (name,))
    screen = Screen(width=width, utf8=utf8)
    inbox.put("why", name, list(why.text(facts, found_of(facts, (name,)), screen, whole=True)))
