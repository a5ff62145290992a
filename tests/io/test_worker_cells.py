"""Who accepts the next connection: the decision, the page that it is taken from, and workers that keep to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from waiting import wait_for
from worker_harness import SERVED, Client, Pool, Worker

from impetusd.worker import cells
from impetusd.worker.accept import Acceptor
from impetusd.worker.cells import CREDIT_LASTS, DRAINING, FREE, PATIENCE, SERVING, Page, lighter, place

NOW = 100.0
TRIES = 10  # on a busy host a worker may not get a CPU for longer than others wait for it


def serving(*counts: int) -> list[cells.Cell]:
    return [(1000 + at, SERVING, count, 1) for at, count in enumerate(counts)]


@pytest.mark.parametrize(
    ("own", "others", "found"),
    [
        (0, [0, 0], []),
        (1, [1, 0, 2], [1]),  # of few, one more is too many
        (8, [7, 6, 8], [1]),
        (16, [14, 13, 16], [1]),
        (64, [61, 60, 64], [1]),
        (1000, [997, 996, 2000], [1]),  # LEAD, of however many
    ],
)
def test_others_are_lighter(own: int, others: list[int], found: list[int]) -> None:
    assert lighter(own, serving(*others), replaces=False) == found


@pytest.mark.parametrize(
    ("own", "others", "found"), [(1, [0], []), (3, [1, 0], [1]), (8, [3, 2], [1]), (64, [31, 30], [1])]
)
def test_one_that_replaces_another_looks_less_closely(own: int, others: list[int], found: list[int]) -> None:
    assert lighter(own, serving(*others), replaces=True) == found


@pytest.mark.parametrize(
    "cell",
    [
        (0, SERVING, 0, 0),
        (-1, SERVING, 0, 0),
        (1000, FREE, 0, 0),
        (1000, DRAINING, 0, 0),
        (1000, 77, 0, 0),
        (1000, SERVING, -1, 0),
        (1000, SERVING, -(2**31), 0),
        (1000, SERVING, 2**31 - 1, 0),
    ],
)
def test_a_cell_that_does_not_serve_or_lies_is_not_lighter(cell: cells.Cell) -> None:
    assert lighter(100, [cell], replaces=False) == []


@pytest.mark.parametrize(
    ("slot", "at"),
    [
        *[("web:0", 0), ("web:0:next", 1), ("web:3", 6), ("web:255:next", 511), ("web:256", None)],
        *[("web:standby", None), ("web:0:leaving", None), ("web", None), ("web:", None), ("web:-1", None)],
    ],
)
def test_the_cell_of_a_slot(slot: str, at: int | None) -> None:
    assert place(slot) == at


class Shared:
    """A page, and views of it by processes that need not exist."""

    def __init__(self) -> None:
        self.fd = cells.make()

    def worker(self, index: int, count: int = 0) -> Page:
        page = Page(self.fd, 1000 + index)
        page.take(f"web:{index}", count)
        return page

    def write(self, at: int, *numbers: int) -> None:
        """Into the cell at `at`; -1: the header."""
        os.pwrite(self.fd, struct.pack("=4i", *numbers), 16 * (1 + at))


@pytest.fixture
def shared() -> Iterator[Shared]:
    made = Shared()
    yield made
    os.close(made.fd)


def test_the_one_with_more_passes_once_and_then_accepts(shared: Shared) -> None:
    full, empty = shared.worker(0, 5), shared.worker(1)
    for _ in range(3):
        assert full.passes(5, NOW)
        assert not full.passes(5, NOW)
        assert not empty.passes(0, NOW)  # a turn: it lives


def test_what_others_show_counts(shared: Shared) -> None:
    one, other = shared.worker(0, 2), shared.worker(1, 2)
    assert not one.passes(2, NOW)
    other.show(1)
    assert one.passes(2, NOW)


@pytest.mark.parametrize("end", ["drains", "is blanked", "moves"])
def test_a_worker_that_does_not_serve_is_not_waited_for(shared: Shared, end: str) -> None:
    full, empty = shared.worker(0, 5), shared.worker(1)
    if end == "drains":
        empty.leave()
    elif end == "moves":
        empty.take("web:standby", 0)
    else:
        cells.blank(shared.fd, 1001)
    assert not full.passes(5, NOW)


def test_a_cell_is_its_next_owners(shared: Shared) -> None:
    before, full = shared.worker(1, 5), shared.worker(0, 5)
    Page(shared.fd, 2000).take("web:1", 0)
    before.show(7)
    before.leave()
    assert full.passes(5, NOW)
    assert not before.passes(5, NOW)  # it has no place among them any more
    cells.blank(shared.fd, 1001)
    assert not full.passes(5, NOW)
    assert full.passes(5, NOW)


def test_the_silent_are_waited_for_the_more_seldom_until_they_have_a_turn(shared: Shared) -> None:
    full, stuck = shared.worker(0, 50), shared.worker(1)
    passed = [full.passes(50, NOW) for _ in range(2 * PATIENCE)]
    assert passed == [True, False] * PATIENCE
    assert sum(full.passes(50, NOW) for _ in range(1000)) < 100
    stuck.passes(0, NOW)
    assert full.passes(50, NOW)


def test_who_has_just_left_may_be_replaced(shared: Shared) -> None:
    one, _ = shared.worker(0, 3), shared.worker(1, 1)
    one.left(2, NOW)
    assert not one.passes(2, NOW)
    assert one.passes(2, NOW)  # that was one
    assert not one.passes(2, NOW)
    one.left(2, NOW)
    assert one.passes(2, NOW + CREDIT_LASTS)


def test_its_size_is_nobodys_to_change(shared: Shared) -> None:
    for size in (0, cells.SIZE - 1, cells.SIZE + 1):
        with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
            os.ftruncate(shared.fd, size)


def test_whatever_stands_there_nobody_passes_twice_running(shared: Shared) -> None:
    chance = random.Random(7)
    page = shared.worker(0)
    for _ in range(300):
        os.pwrite(shared.fd, chance.randbytes(cells.SIZE - 32), 32)
        if chance.random() < 0.5:
            shared.write(-1, chance.randint(-(2**31), 2**31 - 1), 0, 0, 0)
        count = chance.randint(0, 1000)
        assert not (page.passes(count, NOW) and page.passes(count, NOW))


def test_without_a_page_nobody_passes() -> None:
    page = Page(None, 1000)
    page.take("web:0", 0)
    assert not page.passes(100, NOW)
    page.left(99, NOW)
    page.leave()


def test_a_turn_is_passed_for_the_whole_time_even_if_the_timer_is_early(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[float] = []

    class Passing(Page):
        def passes(self, _count: int, _now: float) -> bool:
            turns.append(time.monotonic())
            return len(turns) == 1

    async def accepted() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_later", lambda _seconds, what: loop.call_soon(what))
        there = asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
            acceptor = Acceptor(Passing(None, 1000), lambda: Noting(there), lambda: 0)
            acceptor.begin([listening])
            await there.wait()
            acceptor.stop()

    asyncio.run(accepted())
    assert turns[1] - turns[0] >= cells.PASS


class Noting(asyncio.Protocol):
    """Notes that it is connected, and closes."""

    def __init__(self, there: asyncio.Event) -> None:
        self._there = there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
        self._there.set()


# Real workers.


@contextlib.contextmanager
def opened(pool: Pool, count: int) -> Iterator[list[Client]]:
    """Connections that have been asked on."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(pool.client()) for _ in range(count)]
        for client in clients:
            client.send("/")
        yield clients


def owners(clients: list[Client]) -> Counter[str]:
    return Counter(client.receive().body for client in clients)


@pytest.mark.parametrize("served", SERVED.values(), ids=SERVED)
def test_a_worker_shows_what_it_is_and_how_many_it_has(served: dict) -> None:
    with Pool(**served) as pool:
        worker = pool.run()
        worker.until_told("STATUS=parked")
        assert pool.cells() == {}
        worker.serve("web:0:next")
        assert pool.cells() == {worker.pid: (SERVING, 0)}
        with opened(pool, 3) as clients:
            owners(clients)
            assert pool.cells() == {worker.pid: (SERVING, 3)}
            worker.serve("web:0")
            assert sorted(os.pread(pool.page, 32, 16)[:4]) == sorted(struct.pack("=i", worker.pid))
        wait_for(lambda: pool.cells()[worker.pid] == (SERVING, 0), "nobody to be there")
        with pool.client() as client:
            client.send("/")
            client.receive()
            worker.signal()
            wait_for(lambda: pool.cells()[worker.pid][0] == DRAINING, "it to drain")
            client.get()
        assert worker.wait() == 0


def test_a_stopped_worker_takes_no_share_and_keeps_nobody() -> None:
    with Pool() as pool:
        one, other, stopped = workers(pool, 3)
        stopped.signal(signal.SIGSTOP)
        seen = []
        while not seen or abs(seen[-1][0] - seen[-1][1]) > 2 * cells.LEAD:
            assert len(seen) < TRIES, seen
            with opened(pool, 40) as clients:
                found = owners(clients)
            assert found.keys() <= {str(one.pid), str(other.pid)}
            seen.append((found[str(one.pid)], found[str(other.pid)]))


def test_a_worker_that_writes_nonsense_harms_nobody() -> None:
    with Pool() as pool:
        workers(pool, 2)
        hostile = struct.pack("=4i", os.getpid(), SERVING, 0, 0)
        for turn in range(40):
            os.pwrite(pool.page, struct.pack("=4i", 2**31 - 1, 0, 0, 0) + hostile * 400, 16 * 10)
            os.pwrite(pool.page, struct.pack("=i", 2**31 - 1 - turn), 0)
            with opened(pool, 3) as clients:
                assert owners(clients).total() == 3


def workers(pool: Pool, count: int) -> list[Worker]:
    made = [pool.run(name=f"web:{index}") for index in range(count)]
    return [worker.serve(f"web:{index}") for index, worker in enumerate(made)]


def test_without_room_for_a_descriptor_it_waits_and_goes_on() -> None:
    with Pool(app="app_hello:make") as pool:
        (worker,) = workers(pool, 1)
        import resource

        before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (worker.descriptors(), before[1]))
        with pool.client() as client:
            client.send("/")
            worker.until_written("a connection cannot be accepted: Too many open files", "err")
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)
            assert client.receive().body == str(worker.pid)
        assert worker.text("err").count("cannot be accepted") == 1
