"""Probes: connections that the supervisor hands to one worker, and what must not come of them."""

from __future__ import annotations

import os
import socket

import pytest
from waiting import wait_for
from worker_harness import SERVED, Client, Pool, Worker


def _parked(pool: Pool) -> Worker:
    """A worker that has had a probe: libuv opens a descriptor for itself with the first connection, and keeps it."""
    worker = pool.run()
    worker.until_told("STATUS=parked")
    before = worker.descriptors()
    with worker.probe() as probe:
        probe.get()
    wait_for(lambda: worker.descriptors() == before + 1, "the probe to be closed")
    return worker


def test_parked_and_serving_it_answers_probes_as_any_request():
    with Pool() as pool:
        other = pool.run().serve("web:1")
        worker = pool.run()
        worker.until_told("STATUS=parked")
        with worker.probe() as probe:
            assert [probe.get().body for _ in range(3)] == [str(worker.pid)] * 3
            worker.serve()
            assert probe.get("/remote").body in {"None", "''"}
        with worker.probe() as probe, other.probe() as another:
            assert probe.get().body == str(worker.pid)
            assert another.get().body == str(other.pid)
        assert worker.signal().wait() == 0
        assert worker.text() == ""


def test_a_probe_over_tcp_is_served_too():
    with Pool() as pool, socket.create_server(("127.0.0.1", 0)) as server:
        worker = pool.run()
        worker.until_told("STATUS=parked")
        sock = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with accepted, Client(sock) as probe:
            socket.send_fds(worker.channel, [b'{"do": "probe"}'], [accepted.fileno()])
            accepted.close()
            assert probe.get().body == str(worker.pid)


@pytest.mark.parametrize("served", SERVED)
def test_probes_hold_no_drain(served):
    with Pool(**SERVED[served]) as pool:
        worker = pool.run().serve()
        with worker.probe() as idle, worker.probe() as busy, worker.probe() as silent:
            idle.get()
            busy.send("/hang")
            worker.until_written("hang has begun")
            assert worker.signal().wait() == 0
            assert idle.at_end()
            assert busy.at_end()
            assert silent.at_end()
        assert worker.text("out").endswith("hang has ended\ncontext left\n")
        assert worker.text() == ""


@pytest.mark.parametrize("served", SERVED)
def test_a_draining_worker_serves_no_probe(served):
    with Pool(**SERVED[served]) as pool, pool.client() as client, pool.client() as other:
        worker = pool.run().serve()
        early = worker.probe()
        early.get()
        client.send("/slow")
        worker.until_written("slow has begun")
        other.get()
        worker.signal().until_told("STOPPING=1")
        with early, worker.probe() as late:
            assert early.at_end()
            assert late.at_end()
        assert other.get("/release").closes
        assert client.receive().body == "slow"
        assert worker.wait() == 0


@pytest.mark.parametrize("served", SERVED)
def test_what_a_prober_no_longer_waits_for_is_cancelled(served):
    with Pool(**SERVED[served]) as pool:
        worker = pool.run().serve()
        with worker.probe() as probe:
            probe.send("/hang")
            worker.until_written("hang has begun")
        worker.until_written("hang has ended")


@pytest.mark.parametrize("served", ["aiohttp", "asgi"])  # with libuv, see _parked
def test_descriptors_that_make_no_sense_are_closed(served):
    with Pool(**SERVED[served]) as pool, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        worker = _parked(pool)
        before = worker.descriptors()
        with open(os.devnull, "rb") as null:
            fd = null.fileno()
            with worker.probe(fd, fd) as probe:  # more than one
                assert probe.get().body == str(worker.pid)
            for message in (b"no json", b'{"do": "dance"}', b'{"do": "tell"}', b'{"do": "quit"}'):
                socket.send_fds(worker.channel, [message], [fd] * 3)
            socket.send_fds(worker.channel, [b'{"do": "tell"}'], [fd] * 20)  # more than the channel takes
            socket.send_fds(worker.channel, [b'{"do": "probe"}'], [fd])
            socket.send_fds(worker.channel, [b'{"do": "probe"}'], [datagrams.fileno()])
            worker.tell(do="probe")
        worker.until_written("is not a socket", "err")
        worker.until_written("cannot be served", "err")
        wait_for(lambda: worker.descriptors() == before, "every descriptor to be closed")


def test_a_probe_is_not_inherited_by_the_applications_children():
    with Pool() as pool:
        worker = _parked(pool)
        before = set(os.listdir(f"/proc/{worker.pid}/fd"))
        with worker.probe() as probe:
            probe.get()
            (fd,) = set(os.listdir(f"/proc/{worker.pid}/fd")) - before
            with open(f"/proc/{worker.pid}/fdinfo/{fd}", encoding="ascii") as info:
                flags = int(next(line.split()[1] for line in info if line.startswith("flags:")), 8)
            assert flags & os.O_CLOEXEC


@pytest.mark.parametrize("served", ["aiohttp", "asgi"])  # with libuv, see _parked
def test_probes_leave_nothing_behind(served):
    with Pool(**SERVED[served]) as pool:
        worker = _parked(pool)
        before = worker.descriptors()
        for _ in range(50):
            with worker.probe() as probe:
                assert probe.get().body == str(worker.pid)
        wait_for(lambda: worker.descriptors() == before, "every descriptor to be closed")
