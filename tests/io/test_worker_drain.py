"""No request is lost that could have been served: what a worker does with its connections before it ends."""

from __future__ import annotations

import contextlib
import threading

import pytest
from worker_harness import SERVED, Pool


@pytest.fixture(params=SERVED)
def served(request):
    return SERVED[request.param]


def _draining(worker):
    """Tell `worker` to stop and return when it has begun to."""
    worker.signal().until_told("STOPPING=1")


@pytest.mark.parametrize("unix", [False, True])
def test_the_drain_of_one_worker_leaves_the_shared_socket_to_the_other(unix, served):
    with Pool(unix=unix, **served) as pool:
        first, second = pool.run().serve(), pool.run().serve("web:1")
        assert first.signal().wait() == 0
        assert {pool.get() for _ in range(20)} == {str(second.pid)}


def test_an_idle_connection_gets_one_more_answer_that_says_close(served):
    with Pool(**served) as pool, pool.client() as client:
        worker = pool.run().serve()
        assert not client.get().closes
        _draining(worker)
        answer = client.get()
        assert answer.body == str(worker.pid)
        assert answer.closes
        assert client.at_end()
        assert worker.wait() == 0


def test_an_answer_under_way_says_close_and_new_connections_wait_for_another_worker(served):
    with Pool(**served) as pool, pool.client() as client, pool.client() as other:
        worker = pool.run().serve()
        assert not other.get().closes
        client.send("/slow")
        worker.until_written("slow has begun")
        _draining(worker)
        with pool.client() as late:
            late.send("/")
            assert other.get("/release").closes
            answer = client.receive()
            assert answer.body == "slow"
            assert answer.closes
            assert worker.wait() == 0
            second = pool.run().serve()
            assert late.receive().body == str(second.pid)


def test_an_answer_whose_headers_are_out_leaves_the_connection_one_more_request(served):
    with Pool(**served) as pool, pool.client() as client, pool.client() as other:
        worker = pool.run().serve()
        assert not other.get().closes
        client.send("/stream")
        head = client.receive_head()
        _draining(worker)
        assert other.get("/release").closes
        assert client.receive_body(head).body == "begun ended"
        assert client.get().closes
        assert worker.wait() == 0


def test_an_upload_under_way_is_received_to_its_end(served):
    with Pool(**served) as pool, pool.client() as client:
        worker = pool.run().serve()
        client.get()
        client.send("/upload", "POST", "Content-Length: 200000")
        client.socket.sendall(b"x" * 100_000)
        _draining(worker)
        client.socket.sendall(b"x" * 100_000)
        answer = client.receive()
        assert answer.body == "200000"
        assert answer.closes
        assert worker.wait() == 0


def test_pipelined_requests_are_all_answered_and_the_last_says_close(served):
    with Pool(**served) as pool, pool.client() as client, pool.client() as other:
        worker = pool.run().serve()
        assert not other.get().closes
        client.socket.sendall(
            b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in ("/slow", "/", "/"))
        )
        worker.until_written("slow has begun")
        _draining(worker)
        assert other.get("/release").closes
        assert [client.receive().closes for _ in range(3)] == [False, False, True]
        assert worker.wait() == 0


def test_a_handler_whose_client_has_gone_is_waited_for(served):
    with Pool(**served) as pool, pool.client() as other:
        worker = pool.run().serve()
        other.get()
        with pool.client() as client:
            client.send("/slow")
            worker.until_written("slow has begun")
        _draining(worker)
        assert other.get("/release").closes
        assert worker.wait() == 0
        assert worker.text("out").endswith("slow has ended\ncontext left\n")


def test_one_whose_client_had_gone_before_the_drain_is_waited_for_and_no_longer(served, tmp_path):
    may_end = tmp_path / "may_end"
    with Pool(**served) as pool:
        worker = pool.run().serve()
        with pool.client() as client:
            client.send(f"/until?{may_end}")
            worker.until_written("until has begun")
        assert pool.get() == str(worker.pid)  # by then it knows that the client has gone, and no other is left
        _draining(worker)
        may_end.touch()
        assert worker.wait() == 0


def test_connections_that_nobody_ends_are_closed_at_drain_timeout(served):
    with Pool(drain_timeout=0.2, **served) as pool, pool.client() as client, pool.client() as busy:
        worker = pool.run().serve()
        client.get()
        busy.send("/slow")
        worker.until_written("slow has begun")
        assert worker.signal().wait() == 0
        assert client.at_end()
        assert "context left" in worker.text("out")


def test_when_nobody_takes_over_idle_connections_are_closed_at_once(served):
    with Pool(**served) as pool, pool.client() as client, pool.client() as busy:
        worker = pool.run().serve()
        client.get()
        busy.get()
        busy.send("/upload", "POST", "Content-Length: 2")
        busy.socket.sendall(b"x")
        worker.tell(do="quit")
        _draining(worker)
        assert client.at_end()
        busy.socket.sendall(b"x")
        answer = busy.receive()
        assert answer.body == "2"
        assert answer.closes
        assert worker.wait() == 0


def test_hurried_answers_under_way_end_their_connections(served):
    with Pool(**served) as pool, pool.client() as client, pool.client() as streaming, pool.client() as other:
        worker = pool.run().serve()
        streaming.send("/stream")
        head = streaming.receive_head()
        client.send("/slow")
        worker.until_written("slow has begun")
        other.send("/upload", "POST", "Content-Length: 1")
        worker.tell(do="quit")
        _draining(worker)
        other.socket.sendall(b"xGET /release HTTP/1.1\r\nHost: x\r\n\r\n")
        assert other.receive().body == "1"
        assert other.receive().body == "released"
        assert client.receive().closes
        assert streaming.receive_body(head).body == "begun ended"
        assert streaming.at_end()
        assert worker.wait() == 0


def test_no_request_fails_while_workers_are_replaced_under_load(served):
    failed: list[str] = []
    answered = [0] * 8
    done = threading.Event()

    def ask_on_and_on(number: int) -> None:
        """Keep-alive, no retries; every 50 answers a connection of its own will."""
        try:
            while not done.is_set():
                with pool.client() as client:
                    for _ in range(50):
                        answer = client.get()
                        assert answer.status == 200
                        answered[number] += 1
                        if answer.closes or done.is_set():
                            break
        except Exception as error:
            failed.append(f"client {number} after {answered[number]} answers: {error!r}")

    with Pool(**served) as pool:
        template = pool.template()
        workers = [pool.fork(template).serve("web:0"), pool.fork(template).serve("web:1")]
        clients = [threading.Thread(target=ask_on_and_on, args=(each,)) for each in range(8)]
        for client in clients:
            client.start()
        for replaced in range(12):
            slot = replaced % 2
            before = sum(answered)
            successor = pool.fork(template).serve(f"web:{slot}")
            assert workers[slot].signal().wait() == 0
            workers[slot] = successor
            while sum(answered) < before + 200 and not failed:
                done.wait(0.01)
        done.set()
        for client in clients:
            client.join()
        assert failed == []
        assert all(answered)
        assert sum(answered) > 2000


def test_the_application_knows_that_its_worker_drains(served):
    with Pool(**served) as pool, pool.client() as client:
        worker = pool.run().serve()
        assert client.get("/ready").body == "yes"
        _draining(worker)
        assert client.get("/ready").body == "no"
        assert worker.wait() == 0


UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
)
GOING_AWAY = b"\x03\xe9"  # 1001


def test_websockets_are_served_to_the_deadline_and_closed_with_1001(served):
    with Pool(drain_timeout=2, **served) as pool, contextlib.ExitStack() as stack:
        worker = pool.run().serve()
        clients = [stack.enter_context(pool.client()) for _ in range(25)]
        for client in clients:
            client.send("/ws", "GET", *UPGRADE)
            assert client.receive_head().status == 101
        _draining(worker)
        clients[0].socket.sendall(b"\x81\x82\0\0\0\0hi")
        assert clients[0].socket.recv(4) == b"\x81\x02hi", "the drain lets a conversation go on"
        for client in clients:
            head = client.socket.recv(2)
            assert head[0] == 0x88
            assert client.socket.recv(head[1])[:2] == GOING_AWAY
            client.socket.sendall(b"\x88\x82\0\0\0\0" + GOING_AWAY)
            assert client.at_end()
        assert worker.wait() == 0
        assert worker.text("out").count("closed with ") == 25  # each handler has come to its end


def test_a_websocket_client_that_does_not_answer_and_endless_answers_do_not_hold_up_the_end(served):
    with Pool(drain_timeout=0.2, **served) as pool, contextlib.ExitStack() as stack:
        worker = pool.run().serve()
        clients = [stack.enter_context(pool.client()) for _ in range(25)]
        for number, client in enumerate(clients):
            client.send(*(("/ws", "GET", *UPGRADE) if number % 2 else ("/sse",)))
            client.receive_head()
        assert worker.signal().wait() == 0, "not by its kill_timeout, which would be 1"
        for client in clients:
            while client._reader.read(4096):
                pass  # what was written, and then the end
