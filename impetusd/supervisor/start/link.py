"""The supervisor's end of its channel to the shim.

`Link`: the channel, what it hears is events. `Outbox`: what a round asks for, gathered into one message. `Page`: what
is being handled, for the shim to see if this process ends over it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import mmap
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from impetusd.shim import wire

if TYPE_CHECKING:
    from impetusd.core.rules.lifecycle import Scope
    from impetusd.supervisor.disk.ledger import Ledger

T = TypeVar("T")

BEAT = 14.0  # seconds; the shim's patience is 30
AGAIN = 0.2  # seconds until a message for which the host lacked something is sent again
TRANSIENT = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.ETOOMANYREFS})


class Link:
    """The channel. `table`, `blobs`, `fds`, `shutdown` and `pid` are what the shim sent at the beginning."""

    def __init__(self, sock: socket.socket, hear: Callable[[dict[str, Any]], None]) -> None:
        """`hear` is called with each later event, unless `take` is set."""
        self._sock = sock
        self._outbox: deque[tuple[bytes, Sequence[int], Callable[[], None] | None]] = deque()
        self._spare = _any_descriptor()  # for a long message, if no other is left
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.create_future()
        self._next_beat: asyncio.TimerHandle | None = None
        self._early: list[dict[str, Any]] | None = []  # events until `deliver`
        self.broken: Callable[[str, str, Exception], object] = _raised  # on exceptions: source, stage, error
        self.fatal: Callable[[str, Exception], object] = _fatal  # called for what nothing contains; does not return
        self.lost: Callable[[], object] = lambda: None  # called when the shim is gone, before the end
        # Called with the later events of each message.
        self.take: Callable[[list[dict[str, Any]]], object] = functools.partial(self._each, hear)
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
        self.take(early)

    def send(self, ops: list[dict[str, Any]], fds: Sequence[int] = (), sent: Callable[[], None] | None = None) -> None:
        """Send `ops` to the shim, to be carried out as a whole. `sent` is called once the kernel holds copies of
        `fds`."""
        try:
            # As text: the starts of 500 units, which wait for the shim, were 1 MB that no later allocation could use.
            self._outbox.append((wire.encode({"ops": ops}), fds, sent))
            if len(self._outbox) == 1:
                self._flush()
        except Exception as error:
            # Messages may be lost, or arrive twice: the next supervisor begins with what the shim knows.
            self.fatal("writing to the shim", error)

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
                self._seeing(functools.partial(wire.send_text, self._sock, message, fds))
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
            self.fatal("writing to the shim", error)

    def _readable(self) -> None:
        try:
            self._read()
        except Exception as error:
            self.fatal("reading from the shim", error)

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
            events: list[dict[str, Any]] = []
            self._each(functools.partial(self._sort, fds=fds, later=events), message["events"])
            if self._early is not None:
                self._early += events
            elif events:
                self.take(events)

    def _each(self, hear: Callable[[dict[str, Any]], object], events: list[dict[str, Any]]) -> None:
        """An exception over one event must not lose the others."""
        for event in events:
            try:
                hear(event)
            except Exception as error:
                self.broken("the shim", f"handling its event {event.get('event')}", error)

    def _sort(self, event: dict[str, Any], fds: list[int], later: list[dict[str, Any]]) -> None:
        """Take what the shim sends of itself; the rest goes to `later`."""
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
            case _:
                later.append(event)


class Mark(NamedTuple):
    """How much of each kind a round has gathered."""

    puts: int
    ops: int
    keeps: int


class Outbox:
    """The orders of one round to the shim: records, operations and descriptors, gathered into one message."""

    def __init__(self, link: Link, ledger: Ledger) -> None:
        self._link = link
        self._ledger = ledger
        self._puts: list[tuple[str, str | None]] = []
        self._ops: list[dict[str, Any]] = []
        self._keeps: list[tuple[str, int]] = []
        self._close_when_sent: list[tuple[str, int]] = []
        self.fds = dict(link.fds)  # name → our copy, of what the shim holds

    def put(self, key: str, blob: str | None) -> None:
        """Store `blob` in the shim under `key`; None removes it."""
        self._puts.append((key, blob))

    def ask(self, operation: dict[str, Any]) -> None:
        """Add an operation, after those added before."""
        self._ops.append(operation)

    def signal(self, process: int, number: int, scope: Scope) -> None:
        """Signal a process, its descendants, or both."""
        self.ask({"op": "signal", "process": process, "number": number, "scope": scope.value})

    def ack(self, process: int) -> None:
        """The exit of `process` is written down with this round's records: it may be reaped."""
        self.ask({"op": "ack", "process": process})

    def keep(self, name: str, fd: int, *, ours: bool) -> None:
        """Let the shim hold a descriptor; we keep our copy only if it is `ours`. If this raises, it is still the caller's."""
        self.keep_all({name: fd}, ours=ours)

    def keep_all(self, fds: Mapping[str, int], *, ours: bool) -> None:
        """Let the shim hold these descriptors, or, if this raises, none of them."""
        kept = [*fds.items()]
        keeps = [*self._keeps, *kept]
        if ours:
            self.fds |= fds
        else:
            self._close_when_sent += kept
        self._keeps = keeps  # nothing raises once anything has changed

    def keep_copy(self, name: str, fd: int) -> None:
        """Let the shim hold a copy of a descriptor that stays the caller's. Raises OSError."""
        copy = os.dup(fd)
        try:
            self.keep(name, copy, ours=False)
        except BaseException:
            os.close(copy)
            raise

    def keep_now(self, name: str, fd: int, blob: str) -> None:
        """`keep_copy`, and store `blob` under the same name, whatever happens to the round. Raises OSError."""
        ops = [{"op": "keep", "name": name}, {"op": "put", "key": name, "blob": blob}]
        copy = os.dup(fd)
        try:
            self._link.send(ops, [copy], functools.partial(os.close, copy))
        except BaseException:
            os.close(copy)
            raise

    def take(self, name: str) -> int | None:
        """What the previous supervisor kept under `name`: the descriptor is the caller's from now on."""
        return self.fds.pop(name, None)

    def drop(self, name: str) -> None:
        """Close a descriptor in the shim, and our copy."""
        self.ask({"op": "drop", "name": name})
        if name in self.fds:  # from here on nothing is called that could raise
            self._close_when_sent += [(name, self.fds[name])]
            del self.fds[name]

    def mark(self) -> Mark:
        """The current position in this round, for `roll_back`."""
        return Mark(len(self._puts), len(self._ops), len(self._keeps))

    def roll_back(self, mark: Mark) -> None:
        """Do not send the orders of a start since `mark`. Log pipes stay: they are the slot's, not the process's."""
        del self._puts[mark.puts :], self._ops[mark.ops :]
        undone = [each for each in self._keeps[mark.keeps :] if not each[0].startswith("log:")]
        for each in undone:
            self._keeps.remove(each)
            if each in self._close_when_sent:
                self._close_when_sent.remove(each)
            else:
                self.fds.pop(each[0], None)
            os.close(each[1])

    def flush(self) -> None:
        """Send what was gathered as one message, so that the shim gets all of it or nothing.

        Of more descriptors than one message takes, the first go ahead: see `Starter.continue_from`.
        """
        if self._ledger.due:
            self._puts += self._ledger.puts().items()
        if not (self._puts or self._ops or self._keeps):
            return
        keeps = self._keeps
        messages = []
        while len(keeps) > wire.MOST_FDS:
            ahead, keeps = keeps[: wire.MOST_FDS], keeps[wire.MOST_FDS :]
            messages.append(([{"op": "keep", "name": name} for name, _ in ahead], [fd for _, fd in ahead]))
        ops: list[dict[str, Any]] = [{"op": "keep", "name": name} for name, _ in keeps]
        ops += [{"op": "put", "key": key, "blob": blob} for key, blob in dict(self._puts).items()]
        messages.append((ops + self._ops, [fd for _, fd in keeps]))
        closing = self._close_when_sent

        def sent() -> None:
            for _, fd in closing:
                os.close(fd)

        # An exception before this line leaves everything unchanged; after it, `Link.send` raises nothing.
        self._puts, self._ops, self._keeps, self._close_when_sent = [], [], [], []
        for message, fds in messages[:-1]:
            self._link.send(message, fds)
        self._link.send(*messages[-1], sent)
        self._ledger.sent()

    def quit(self, code: int) -> None:
        """Let the shim exit with `code` after us."""
        self.ask({"op": "quit", "code": code})
        self.flush()

    def close(self) -> None:
        """Let go of our copies of what the shim holds."""
        for fd in (*self.fds.values(), *(fd for _, fd in self._close_when_sent)):
            os.close(fd)
        self.fds.clear()
        self._close_when_sent.clear()


class Page:
    """The page of memory in which this process notes what it is at: if it ends over that, the shim still has it.

    A note is a write into memory: 0.6 µs, and no system call.
    """

    def __init__(self, fds: Mapping[str, int]) -> None:
        """`fds`: what the shim holds, by name. A shim of an older version has no page, and then nothing is noted."""
        self._memory: mmap.mmap | bytearray = bytearray(wire.PAGE_SIZE)
        with contextlib.suppress(KeyError, OSError, ValueError):
            self._memory = mmap.mmap(fds[wire.PAGE], wire.PAGE_SIZE)

    def at(self, slot: str, stage: str) -> None:
        """From here on `slot`, or all those of a unit, is handled. The shim reads it with `wire.noted`."""
        self._memory[:] = f"{slot}\n{stage}".encode()[: wire.PAGE_SIZE].ljust(wire.PAGE_SIZE, b"\0")

    def blank(self) -> None:
        """No slot is handled any more."""
        self._memory[0] = 0


def _fatal(_stage: str, error: Exception) -> None:
    raise error


def _raised(_source: str, _stage: str, error: Exception) -> None:
    raise error


def _any_descriptor() -> int:
    try:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
