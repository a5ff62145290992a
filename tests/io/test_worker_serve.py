"""One worker's life: started up, parked, serving, ended; and what an application does wrong in it."""

from __future__ import annotations

import fcntl
import os
import signal
import termios

import pytest
from waiting import wait_for
from worker_harness import Pool, frames


@pytest.mark.parametrize("factory", ["make", "make_async", "application"])
def test_a_worker_parks_until_it_is_told_to_serve(factory):
    with Pool(app=f"app_hello:{factory}") as pool:
        worker = pool.run()
        assert worker.until_told("READY=1") == ["READY=1", "STATUS=parked"]
        worker.serve("web:1")
        assert pool.get() == str(worker.pid)
        with open(f"/proc/{worker.pid}/comm", encoding="ascii") as comm:
            assert comm.read() == "web:1\n"
        assert worker.signal().wait() == 0


def test_told_to_serve_before_it_has_started_up_it_never_parks():
    with Pool() as pool:
        worker = pool.run().serve()
        assert pool.get() == str(worker.pid)
        assert pool.told() == []


def test_told_again_it_says_again_that_it_is_ready():
    with Pool() as pool:
        worker = pool.run().serve().serve("web:7")
        assert worker.signal().wait() == 0


def test_without_a_supervisor_it_serves_on():
    with Pool() as pool:
        worker = pool.run().serve()
        worker.channel.close()
        pool._notified.close()
        assert pool.get() == pool.get() == str(worker.pid)
        assert worker.signal().wait() == 0


def test_an_unknown_command_is_told_and_changes_nothing():
    with Pool() as pool:
        worker = pool.run()
        worker.channel.send(b"no json")
        worker.tell(do="dance")
        worker.serve()
        assert "invalid data on the command channel: b'no json'" in worker.text()
        assert "{'do': 'dance'}" in worker.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_parked_worker_with_its_contexts_left(number):
    with Pool() as pool:
        worker = pool.run()
        worker.until_told("STATUS=parked")
        assert worker.signal(number).wait() == 0
        worker.until_told("STOPPING=1")
        assert worker.text("out") == "context entered\ncontext left\n"
        assert worker.text() == ""


def test_a_signal_while_it_starts_up_ends_it_at_once():
    with Pool(app="app_hello:make_never") as pool:
        worker = pool.run()
        worker.until_written("factory called")
        assert worker.signal().wait() == 0
        assert worker.text() == ""


def test_abstract_notify_socket():
    with Pool(abstract=True) as pool:
        pool.run().serve()


def test_the_unix_socket_file_outlives_its_workers():
    with Pool(unix=True) as pool:
        first = pool.run().serve()
        assert pool.get() == str(first.pid)
        assert first.signal().wait() == 0
        second = pool.run().serve()
        assert pool.get() == str(second.pid)


def test_nothing_of_the_runtime_is_left_for_the_applications_children():
    with Pool() as pool:
        worker = pool.run().serve()
        for fd in (3, 4):
            with open(f"/proc/{worker.pid}/fdinfo/{fd}", encoding="ascii") as info:
                flags = int(next(line.split()[1] for line in info if line.startswith("flags:")), 8)
            assert flags & os.O_CLOEXEC


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("make_failing", "Boom: in the factory"),
        ("make_with_failing_context", "Boom: in a context"),
        ("make_exiting", "RuntimeError: it called sys.exit(5)"),
    ],
)
def test_an_application_that_fails_to_start_shows_its_traceback_and_exits_1(factory, message):
    with Pool(app=f"app_hello:{factory}") as pool:
        worker = pool.run()
        assert worker.wait() == 1
        assert worker.text().rstrip().endswith(message)
        assert "app_hello.py" in frames(worker.text())
        assert not {"serve.py", "appload.py"} & set(frames(worker.text()))


def test_contexts_that_were_entered_are_left_when_a_later_one_fails():
    with Pool(app="app_hello:make_with_failing_context") as pool:
        worker = pool.run()
        assert worker.wait() == 1
        assert worker.text("out") == "context entered\ncontext left\n"


def test_a_factory_that_makes_no_application_is_told_in_a_sentence():
    with Pool(app="app_hello:make_nothing") as pool:
        worker = pool.run()
        assert worker.wait() == 78
        assert worker.text() == (
            "web:standby: app = app_hello:make_nothing returned NoneType, which is not an aiohttp, ASGI or WSGI application\n"
        )


def test_an_exception_in_a_task_is_logged_and_the_worker_goes_on():
    with Pool() as pool:
        worker = pool.run().serve()
        assert pool.get("/task") == "started"
        worker.until_written("Boom: in a task", "err")
        assert "ERROR asyncio: Task exception was never retrieved" in worker.text()
        assert "app_hello.py" in frames(worker.text())
        assert pool.get() == str(worker.pid)
        assert worker.signal().wait() == 0


def test_an_exception_in_a_thread_ends_the_worker_gracefully_with_1():
    with Pool() as pool:
        worker = pool.run().serve()
        assert pool.get("/thread") == "started"
        assert worker.wait() == 1
        assert "unhandled exception in thread careless" in worker.text()
        assert "Boom: in a thread" in worker.text()
        assert worker.text("out") == "context entered\ncontext left\n"


def test_sys_exit_in_a_handler_ends_the_worker_gracefully_with_1():
    with Pool() as pool, pool.client() as waiting, pool.client() as idle:
        worker = pool.run().serve()
        idle.get()
        waiting.send("/slow")
        worker.until_written("slow has begun")
        with pool.client() as client:
            client.send("/leave")
            worker.until_told("STOPPING=1")
        assert idle.get("/release").closes
        assert waiting.receive().body == "slow"
        assert worker.wait() == 1
        assert "SystemExit: 3" in worker.text()
        assert worker.text("out").endswith("context left\n")


def test_the_forced_exit_says_what_was_under_way():
    with Pool(kill_timeout=2) as pool:
        worker = pool.run().serve()
        assert pool.get("/stick") == "will not clean up"
        assert worker.signal().wait() == 1
        assert "web:0: forced exit" in worker.text()
        assert "it was cleaning up, 0 connections open" in worker.text()
        assert " in marks (" in worker.text()
        assert "app_hello.py:" in worker.text()


def test_a_blocked_loop_is_ended_too_and_shows_where_it_is_stuck():
    with Pool(kill_timeout=2) as pool, pool.client() as client:
        worker = pool.run().serve()
        client.send("/block")
        worker.until_written("blocking")
        assert worker.signal().wait() == 1
        assert "in block" in worker.text()


def test_a_second_signal_changes_nothing():
    with Pool() as pool, pool.client() as waiting, pool.client() as idle:
        worker = pool.run().serve()
        idle.get()
        waiting.send("/slow")
        worker.until_written("slow has begun")
        worker.signal().until_told("STOPPING=1")
        worker.signal().signal(signal.SIGINT)
        assert idle.get("/release").closes
        assert waiting.receive().body == "slow"
        assert worker.wait() == 0


def test_a_full_notify_queue_delays_but_loses_nothing():
    with Pool() as pool, pool.client() as client, pool.client() as other:
        worker = pool.run()
        worker.until_told("STATUS=parked")
        pool.fill_notify_queue()
        worker.tell(do="serve", name="web:0")
        client.send("/slow")
        worker.until_written("slow has begun")
        other.get()
        worker.signal()
        worker.until_told("READY=1")
        worker.until_told("STOPPING=1")
        assert other.get("/release").closes
        assert client.receive().body == "slow"
        assert worker.wait() == 0


def test_asked_to_tell_it_repeats_its_state():
    with Pool() as pool:
        worker = pool.run()
        assert worker.until_told("READY=1") == ["READY=1", "STATUS=parked"]
        worker.tell(do="tell")
        assert worker.until_told("READY=1") == ["READY=1", "STATUS=parked"]
        worker.serve().tell(do="tell")
        assert worker.until_told("READY=1") == ["READY=1", "STATUS=serving"]


def test_while_it_starts_up_it_tells_nothing_and_serves_no_probe():
    with Pool(app="app_hello:make_never", watchdog=0.01) as pool:
        worker = pool.run()
        worker.until_written("factory called")
        worker.tell(do="tell")
        with worker.probe() as probe:
            assert probe.at_end()
        worker.signal().until_told("STOPPING=1")
        assert pool.told() == []
        assert worker.wait() == 0


def test_an_application_that_replaces_its_streams_still_ends_as_it_should():
    with Pool(app="app_own_streams:make") as pool:
        worker = pool.run().serve()
        assert worker.signal().wait() == 0
        assert worker.text() == ""


def _waiting(fd: int) -> int:
    """Bytes that can be read."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), "little")


def test_a_signal_within_a_write_to_a_full_pipe_ends_an_import():
    reader, writer = os.pipe()
    with Pool(app="app_prints_much:make") as pool:
        worker = pool.run(stdout=writer)
        os.close(writer)
        wait_for(lambda: _waiting(reader) == fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ), "the pipe to fill")
        assert worker.signal().wait() == 0
    os.close(reader)
