"""A WSGI application in a worker: its environment, what it reads and writes, its threads, and its end."""

from __future__ import annotations

import json
import re
import signal
import time

import pytest
from waiting import wait_for
from worker_harness import Pool, frames

HIDDEN = ("httptools", "uvloop")


def test_the_environment_is_pep_3333s():
    with Pool(app="app_wsgi:app", root_path="/shop") as pool:
        pool.run().serve()
        with pool.client() as client:
            client.send(
                "/s%65en?a=1&b=%C3%A9", "GET", "X-One: 1", "X-One: 2", "X_One: spoofed", "Cookie: a=1", "Cookie: b=2"
            )
            seen = json.loads(client.receive().body)
    assert seen["PATH_INFO"] == "/seen"
    assert (seen["SCRIPT_NAME"], seen["QUERY_STRING"], seen["REQUEST_METHOD"]) == ("/shop", "a=1&b=%C3%A9", "GET")
    assert (seen["HTTP_X_ONE"], seen["HTTP_COOKIE"]) == ("1,2", "a=1; b=2")
    assert (seen["REMOTE_ADDR"], seen["SERVER_PORT"]) == ("127.0.0.1", str(pool.address[1]))
    assert (seen["SERVER_PROTOCOL"], seen["wsgi.url_scheme"]) == ("HTTP/1.1", "http")


def test_what_a_trusted_proxy_says_of_the_client_is_believed():
    with Pool(app="app_wsgi:app") as pool:
        pool.run().serve()
        with pool.client() as client:
            client.send("/seen", "GET", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https")
            seen = json.loads(client.receive().body)
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("192.0.2.7", "https")


def test_over_a_unix_socket_it_has_a_name_and_a_port():
    with Pool(app="app_wsgi:app", unix=True) as pool:
        pool.run().serve()
        seen = json.loads(pool.get("/seen"))
    assert (seen["REMOTE_ADDR"], seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("", "localhost", "80")


@pytest.mark.parametrize("hidden", [(), HIDDEN])
def test_bodies_large_and_in_parts_are_read_by_line(hidden):
    with Pool(app="app_wsgi:make", hidden=hidden) as pool, pool.client() as client:
        pool.run().serve()
        lines = 30_000
        client.send("/upload", "POST", f"Content-Length: {lines * 10}")
        for part in (b"123456789\n1234", b"56789\n" + b"123456789\n" * (lines - 3), b"1234567", b"89\n"):
            client.socket.sendall(part)
        assert client.receive().body == f"{lines * 10} bytes in {lines} lines"
        client.send("/upload", "POST", "Transfer-Encoding: chunked")
        client.socket.sendall(b"4\r\nab\nc\r\n1\r\nd\r\n0\r\n\r\n")
        assert client.receive().body == "5 bytes in 2 lines"
        assert client.get("/upload").body == "0 bytes in 0 lines"


@pytest.mark.parametrize("hidden", [(), HIDDEN])
def test_what_is_written_is_sent_at_once_and_closed_at_the_end(hidden):
    with Pool(app="app_wsgi:app", hidden=hidden) as pool, pool.client() as client, pool.client() as other:
        worker = pool.run().serve()
        client.send("/stream")
        head = client.receive_head()
        assert client._reader.read(11) == b"6\r\nbegun \r\n"
        other.get("/release")
        assert client.receive_body(head).body == "ended"
        worker.until_written("stream is closed")
        assert client.get("/written").body == "written returned"
        client.send("/changed")
        answer = client.receive()
        assert (answer.status, answer.body, answer.headers.get("x-a")) == (503, "later", None)


def test_a_client_that_goes_ends_its_stream_and_tells_who_reads_its_body():
    with Pool(app="app_wsgi:app", threads=1) as pool:
        worker = pool.run().serve()
        with pool.client() as client:
            client.send("/endless")
            client.receive_head()
        worker.until_written("endless has ended")
        with pool.client() as client:
            client.send("/cut_upload", "POST", "Content-Length: 10000000")
            client.socket.sendall(b"x" * 1_000_000)
            worker.until_written("the rest is waited for")
        worker.until_written("told: ConnectionAbortedError")
        assert pool.get() == str(worker.pid)
        assert worker.text() == ""


def test_an_error_is_its_traceback_in_the_log_and_500_or_a_cut_answer():
    with Pool(app="app_wsgi:app") as pool:
        worker = pool.run().serve()
        with pool.client() as client:
            client.send("/bug")
            assert client.receive().status == 500
        with pool.client() as client:
            client.send("/late_bug")
            assert client.receive_head().status == 200
            assert client._reader.read() == b"5\r\nbegun\r\n"
        worker.until_written("Boom: in a stream", "err")
        assert "Boom: in a handler" in worker.text()
        assert "app_wsgi.py" in frames(worker.text())


def test_requests_beyond_the_threads_wait_for_one():
    with Pool(app="app_wsgi:app", threads=2) as pool, pool.client() as one, pool.client() as two:
        worker = pool.run().serve()
        one.send("/slow")
        worker.until_written("slow has begun")
        two.send("/")
        assert two.receive().body == str(worker.pid)
        with pool.client() as three:
            three.send("/release")
            assert three.receive().body == "released"
        assert one.receive().body == "slow"


def test_a_drain_waits_for_threads_and_cuts_those_that_do_not_end():
    with Pool(app="app_wsgi:app", drain_timeout=0.3) as pool, pool.client() as client, pool.client() as other:
        worker = pool.run().serve()
        assert not client.get().closes
        other.send("/stuck")
        worker.until_written("stuck")
        worker.signal().until_told("STOPPING=1")
        assert client.get().closes
        worker.until_told("X_IMPETUSD_CUT=1")
        assert worker.wait() == 0, "no thread is waited for"
        assert worker.text("out").endswith("exit handlers have run\n")


def test_the_watchdog_beats_while_a_thread_is_free_or_waits_for_its_client_and_not_when_all_are_stuck():
    with Pool(app="app_wsgi:app", threads=2, watchdog=0.4) as pool, pool.client() as stuck, pool.client() as other:
        worker = pool.run().serve()
        with pool.client() as client:
            client.send("/endless")
            client.receive_head()
            stuck.send("/stuck")
            worker.until_written("stuck")
            for _ in range(6):
                worker.until_told("WATCHDOG=1")
        worker.until_written("endless has ended")
        other.send("/stuck")
        wait_for(lambda: worker.text("out").count("stuck") == 2, "both threads to be stuck")
        overdue = time.monotonic() + 0.8
        wait_for(lambda: time.monotonic() > overdue, "the beat to be overdue")
        assert worker.signal(signal.SIGABRT).wait() == -signal.SIGABRT
        text = worker.text()
        assert re.search(
            r"^web:0: each of the 2 threads has been stuck for \S+ s \(watchdog = 0\.4 s\)", text, re.MULTILINE
        )
        assert len(re.findall(r'app_wsgi\.py", line \d+ in stuck$', text, re.MULTILINE)) == 2
