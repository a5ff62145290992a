"""Whatever raises between the making of a descriptor and the order to the shim to hold it: it is closed, and not ordered."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from impetusd.core.config.model import Listen
from impetusd.supervisor.api.inherited import Inherited
from impetusd.supervisor.api.measured import Measured
from impetusd.supervisor.slots.entry import Role
from impetusd.supervisor.start.link import Link
from impetusd.supervisor.start.starter import Starter

LEDGER: Any = SimpleNamespace(puts=dict, sent=lambda: None)
WRITER: Any = SimpleNamespace(add=lambda *_: None, forget=lambda *_: None, losses=None)
UNIT: Any = SimpleNamespace(name="web", listen=(Listen("127.0.0.1", 0),), backlog=8)
ENTRY: Any = SimpleNamespace(name="web:0", unit=UNIT, role=Role.WORKER, index=0, rec=SimpleNamespace(pipe=None))
MADE: Any = SimpleNamespace(name="gateway", made=object())


class Mistake(Exception):
    pass


class Stubborn(dict[Any, Any]):
    """Raises when something is taken out."""

    def pop(self, *_: Any) -> Any:
        raise Mistake


@contextmanager
def failing(place: Any, name: str, good: int = 0) -> Iterator[None]:
    """`place.name` raises when it has been called so often."""
    real, count = getattr(place, name), [0]

    def act(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] > good:
            raise Mistake
        return real(*args, **kwargs)

    with patch.object(place, name, act):
        yield


def channel(starter: Starter) -> None:
    starter.channels.open(1)


def page(starter: Starter) -> None:
    starter.channels.measured = Measured(lambda *_: None)
    starter.channels.put_to_work(1, "web:0")


def stubborn_page(starter: Starter) -> None:
    starter.channels.measured = Measured(lambda *_: None)
    starter.channels.measured._pages = Stubborn()
    starter.channels.put_to_work(1, "web:0")


def connection(starter: Starter) -> None:
    starter.channels.connect(1)


def pipes(starter: Starter) -> None:
    starter.pipes.make(ENTRY)


def listener(starter: Starter) -> None:
    starter.listeners.bind(UNIT, SimpleNamespace(hosts={}))  # type: ignore[arg-type]


def cells(starter: Starter) -> None:
    starter.listeners.page(UNIT)


def pair(starter: Starter) -> None:
    Inherited(starter, lambda *_: None, lambda _: 0, lambda *_: None).resume((), [MADE], None)


def now(starter: Starter) -> None:
    with socket.socket() as sock:
        starter.outbox.keep_now("notify:web", sock.fileno(), "")


CASES: dict[str, tuple[Callable[[Starter], None], Callable[[Starter], tuple[Any, ...]]]] = {
    "a channel's first end": (channel, lambda starter: (starter.outbox, "keep")),
    "a channel's second end": (channel, lambda starter: (starter.outbox, "keep", 1)),
    "a page that is sent": (page, lambda starter: (starter.channels, "send")),
    "a page in another's place": (stubborn_page, lambda _: (Stubborn, "pop")),
    "a connection": (connection, lambda starter: (starter.channels, "send")),
    "log pipes": (pipes, lambda starter: (starter.outbox, "keep_all")),
    "a listener": (listener, lambda starter: (starter.outbox, "keep")),
    "the page of a pool": (cells, lambda starter: (starter.outbox, "keep")),
    "a unit's pair": (pair, lambda starter: (starter.outbox, "keep", 1)),
    "one that does not wait for the round": (now, lambda starter: (starter.outbox._link, "send")),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_open(case: str) -> None:
    act, where = CASES[case]

    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link = Link(ours, lambda _event: None)
        starter = Starter(link, WRITER, LEDGER, {}, "/nowhere")
        before, mark = os.listdir("/proc/self/fd"), starter.outbox.mark()
        with failing(*where(starter)), pytest.raises(Mistake):
            act(starter)
        starter.roll_back(mark)
        if starter.channels.measured is not None:
            starter.channels.measured.close()
        assert os.listdir("/proc/self/fd") == before
        assert not starter.outbox.fds
        assert not starter.outbox._keeps
        assert ENTRY.rec.pipe is None
        link.close()
        theirs.close()

    asyncio.run(main())


def test_of_several_all_are_kept_or_none() -> None:
    """A round that cannot be added to is as it was."""

    class Full(dict[str, int]):
        def __ior__(self, _: Any) -> Any:
            raise MemoryError

    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            starter = Starter(Link(ours, lambda _event: None), WRITER, LEDGER, {}, "")
            starter.outbox.fds = Full()
            with pytest.raises(MemoryError):
                starter.outbox.keep_all({"a": 0, "b": 1}, ours=True)
            assert not starter.outbox._keeps
            starter.outbox._link.close()

    asyncio.run(main())
