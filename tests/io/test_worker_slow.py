"""Clients that let a request drip are cut off, and nobody else is."""

from __future__ import annotations

import socket
import time

import pytest
from worker_harness import SERVED, Pool

HEAD = b"GET / HTTP/1.1\r\nHost: test\r\n"
POST = b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n"


def drip(client, text=b"X-A: b\r\n"):
    """Send a little now and then until the connection is closed, which it must be."""
    client.settimeout(0.05)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            client.sendall(text)
            if client.recv(65536) == b"":
                return
        except TimeoutError:
            continue
        except OSError:
            return
    raise AssertionError("it was never cut off")


def answered(client, request):
    client.settimeout(30)
    client.sendall(request)
    said = b""
    while not said.partition(b"\r\n\r\n")[2]:  # its body, which may come by itself
        more = client.recv(65536)
        if not more:
            return False
        said += more
    return said.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("served", SERVED)
def test_who_drips_a_head_or_a_body_or_says_nothing_is_cut_off_and_the_patient_are_not(served):
    with Pool(header_timeout=0.6, body_timeout=0.6, watchdog=0, **SERVED[served]) as pool:
        worker = pool.run()
        worker.until_told("READY=1")
        worker.serve()
        clients = []
        for _ in range(2):  # each speaks as soon as it is connected
            clients.append(socket.create_connection(pool.address))
            assert answered(clients[-1], HEAD + b"\r\n")
        clients += [socket.create_connection(pool.address) for _ in range(3)]
        later, idle, silent, first, body = clients
        first.sendall(HEAD)
        later.sendall(HEAD)
        body.sendall(POST)
        for client, text in ((first, b"X-A: b\r\n"), (later, b"X-A: b\r\n"), (body, b"x")):
            drip(client, text)
        silent.settimeout(30)
        assert silent.recv(1) == b""
        assert answered(idle, HEAD + b"\r\n")  # between two requests it may be silent for as long as it likes
        for client in clients:
            client.close()
        assert "did not arrive within header_timeout" in worker.text()
        assert "did not arrive within body_timeout" in worker.text()


def test_with_none_nobody_is_cut_off():
    with Pool(watchdog=0) as pool:
        worker = pool.run()
        worker.until_told("READY=1")
        worker.serve()
        with socket.create_connection(pool.address) as client:
            client.sendall(HEAD)
            with socket.create_connection(pool.address) as other:
                assert answered(other, HEAD + b"\r\n")
            assert answered(client, b"\r\n")
