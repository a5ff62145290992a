"""What a worker has answered: counted, told when asked, and told when it is enough."""

from __future__ import annotations

import pytest
from worker_harness import SERVED, Pool


@pytest.mark.parametrize("served", SERVED)
def test_answers_are_counted_and_those_of_500_and_above_besides(served):
    with Pool(**SERVED[served]) as pool:
        worker = pool.run().serve()
        for path, status in (("/", 200), ("/nowhere", 404), ("/broken", 503), ("/bug", 500)):
            with pool.client() as client:
                client.send(path)
                assert client.receive().status == status
        with pool.client() as client:
            client.socket.sendall(b"no request at all\r\n\r\n")
            assert client.receive_head().status == 400
        worker.tell(do="count")
        assert worker.until_told("X_IMPETUSD_REQUESTS=5") == ["X_IMPETUSD_REQUESTS=5", "X_IMPETUSD_ERRORS=2"]


def test_what_is_no_response_counts_as_the_500_that_it_becomes():
    with Pool() as pool:
        worker = pool.run().serve()
        with pool.client() as client:
            client.send("/nothing")
            assert client.receive_head().status == 500
        worker.tell(do="count")
        assert worker.until_told("X_IMPETUSD_REQUESTS=1") == ["X_IMPETUSD_REQUESTS=1", "X_IMPETUSD_ERRORS=1"]


@pytest.mark.parametrize("served", SERVED)
def test_with_max_requests_it_says_when_they_are_spent_and_goes_on(served):
    with Pool(max_requests=20, **SERVED[served]) as pool:
        worker = pool.run().serve()
        for _ in range(17):
            pool.get()
        assert not [lines for _, lines in pool.told() if "X_IMPETUSD_SPENT=1" in lines], "18 at the earliest"
        for _ in range(5):
            pool.get()
        worker.until_told("X_IMPETUSD_SPENT=1")
        for _ in range(2):
            pool.get()
        worker.until_told("X_IMPETUSD_SPENT=1")
