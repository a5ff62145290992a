"""The supervisor's end of its channel to the shim: what it says is queued, what it hears is an event."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from impetusd.shim import wire

T = TypeVar("T")

BEAT = 14.0  # seconds; the shim's patience is 30
AGAIN = 0.2  # seconds until a message for which the host lacked something is sent again
TRANSIENT = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.ETOOMANYREFS})


class Link:
    """The channel. `table`, `blobs`, `fds`, `shutdown` and `pid` are what the shim sent at the beginning."""

    def __init__(self, sock: socket.socket, hear: Callable[[dict[str, Any]], None]) -> None:
        """`hear` is called with each later event."""
        self._sock = sock
        self._hear = hear
        self._outbox: deque[tuple[dict[str, Any], Sequence[int], Callable[[], None] | None]] = deque()
        self._spare = _any_descriptor()  # for a long message, if no other is left
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.create_future()
        self._next_beat: asyncio.TimerHandle | None = None
        self._early: list[dict[str, Any]] | None = []  # events until `deliver`
        self.broken: Callable[[str, str, Exception], object] = _raised  # on exceptions: source, stage, error
        self.fatal: Callable[[str, Exception], object] = _fatal  # called for what nothing contains; does not return
        self.lost: Callable[[], object] = lambda: None  # called when the shim is gone, before the end
        self.gather: Callable[[], AbstractContextManager[None]] = (
            contextlib.nullcontext
        )  # around the events of one message
        self._shim = os.pidfd_open(os.getppid())
        self.pid = 0
        self.command: list[str] = []  # the shim's own
        self.table: list[dict[str, Any]] = []
        self.blobs: dict[str, str] = {}
        self.fds: dict[str, int] = {}
        self.shutdown = False
        self.troubles: dict[str, str] = {}  # the shim's own, in a sentence each
        self.baseline: dict[str, Any] = {}  # see `shim.startup.measured`; an older shim does not report it

    async def begin(self) -> None:
        """Wait until the shim has sent what it holds. Later events are kept until `deliver`."""
        self._loop.add_reader(self._sock, self._readable)
        await self._begun
        self._beat()

    def deliver(self) -> None:
        """The past is taken over: hand on what has happened since, and from now on each event at once."""
        early, self._early = self._early or [], None
        for event in early:
            self._one(event, self._hear)

    def send(self, ops: list[dict[str, Any]], fds: Sequence[int] = (), sent: Callable[[], None] | None = None) -> None:
        """Send `ops` to the shim, to be carried out as a whole. `sent` is called once the kernel holds copies of
        `fds`."""
        try:
            self._outbox.append(({"ops": ops}, fds, sent))
            if len(self._outbox) == 1:
                self._flush()
        except Exception as error:
            # Messages may be lost, or arrive twice: the next supervisor begins with what the shim knows.
            self.fatal("talking to the shim", error)

    def when_sent(self, act: Callable[[], None]) -> None:
        """Call `act` once the shim is sure to get all earlier messages, whatever happens to this process."""
        if self._outbox:
            self.send([], (), act)
        else:
            act()

    @property
    def shim(self) -> int:
        """A pidfd of it."""
        return self._shim

    def close(self) -> None:
        """Hear and say nothing more."""
        for forget in (self._loop.remove_reader, self._loop.remove_writer):
            forget(self._sock)
        self._sock.close()
        if self._next_beat is not None:
            self._next_beat.cancel()
        for fd in (self._shim, self._spare):
            if fd >= 0:
                os.close(fd)
        self._shim = self._spare = -1

    def _beat(self) -> None:
        self.send([{"op": "beat"}])
        self._next_beat = self._loop.call_later(BEAT, self._beat)

    def _flush(self) -> None:
        while self._outbox:
            message, fds, sent = self._outbox[0]
            try:
                self._seeing(functools.partial(wire.send, self._sock, message, fds))
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._writable)
                return
            except OSError as error:
                if error.errno not in TRANSIENT:
                    return  # it is dead, which is what is read next
                self._loop.call_later(AGAIN, self._flush_again)
                return
            self._outbox.popleft()
            if sent is not None:
                sent()

    def _seeing(self, act: Callable[[], T]) -> T:
        """`act()`; when no descriptor is left for a long message, once more with the one that is held back for it."""
        try:
            return act()
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE} or self._spare < 0:
                raise
        os.close(self._spare)
        try:
            return act()
        finally:
            self._spare = _any_descriptor()

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._flush_again()

    def _flush_again(self) -> None:
        try:
            self._flush()
        except Exception as error:
            self.fatal("talking to the shim", error)

    def _readable(self) -> None:
        try:
            self._read()
        except Exception as error:
            self.fatal("hearing the shim", error)

    def _read(self) -> None:
        while True:
            try:
                packet = self._seeing(functools.partial(wire.recv, self._sock))
            except BlockingIOError:
                return
            except ValueError as error:
                self.broken("the shim", "reading a message", error)
                continue
            if packet is None:
                try:
                    self.lost()
                finally:
                    os._exit(1)  # the shim is gone, and with it everything that there is to decide
            message, fds = packet
            with self.gather():
                for event in message["events"]:
                    self._one(event, functools.partial(self._take, fds=fds))

    def _one(self, event: dict[str, Any], hear: Callable[[dict[str, Any]], object]) -> None:
        """An exception over one event must not lose the others."""
        try:
            hear(event)
        except Exception as error:
            self.broken("the shim", f"hearing of its event {event.get('event')}", error)

    def _take(self, event: dict[str, Any], fds: list[int]) -> None:
        match event["event"]:
            case "hello":
                self.pid, self.shutdown = event["pid"], event["shutdown"]
                self.command = event["command"]
                self.table, self.blobs = event["table"], event["blobs"]
                self.troubles = event.get("troubles", {})
                self.baseline = event.get("baseline", {})
            case "trouble":
                self.troubles[event["what"]] = event["sentence"]
            case "fds":
                # Without a descriptor number left for them, the last ones are missing.
                self.fds.update(zip(event["names"], fds, strict=False))
            case "begin":
                self._begun.set_result(None)
            case _ if self._early is not None:
                self._early.append(event)
            case _:
                self._hear(event)


def _fatal(_stage: str, error: Exception) -> None:
    raise error


def _raised(_source: str, _stage: str, error: Exception) -> None:
    raise error


def _any_descriptor() -> int:
    try:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
