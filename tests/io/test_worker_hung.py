"""A worker whose event loop is stuck: how the supervisor can know, and what SIGABRT makes it write before it dies."""

from __future__ import annotations

import re
import signal
import time

import pytest
from waiting import wait_for
from worker_harness import Pool

# Seconds. A beat is a quarter of it; what is "stuck" for half of it has missed one.
WATCHDOG = 0.4


def test_the_loop_beats_from_ready_until_the_worker_has_left():
    with Pool(watchdog=0.1) as pool, pool.client() as client, pool.client() as other:
        worker = pool.run()
        assert worker.until_told("READY=1") == ["READY=1", "STATUS=parked"]
        for _ in range(3):
            worker.until_told("WATCHDOG=1")
        worker.serve().until_told("WATCHDOG=1")
        client.send("/slow")
        worker.until_written("slow has begun")
        other.get()
        worker.signal().until_told("STOPPING=1")
        pool.told().clear()
        worker.until_told("WATCHDOG=1")
        assert other.get("/release").closes
        assert client.receive().body == "slow"
        assert worker.wait() == 0


def test_told_to_serve_at_once_it_beats_too():
    with Pool(watchdog=0.1) as pool:
        pool.run().serve().until_told("WATCHDOG=1")


@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.parametrize(("path", "written"), [("spin", "spinning"), ("block", "blocking")])
def test_a_stuck_loop_shows_its_threads_and_tasks_and_dies_by_sigabrt(path, written, forked):
    with Pool(watchdog=WATCHDOG) as pool, pool.client() as client, pool.client() as waiting, pool.client() as other:
        worker = (pool.fork(pool.template()) if forked else pool.run()).serve()
        waiting.send("/slow")
        worker.until_written("slow has begun")
        other.get("/tick")
        client.send(f"/{path}")
        worker.until_written(written)
        overdue = time.monotonic() + WATCHDOG
        wait_for(lambda: time.monotonic() > overdue, "the beat to be overdue")
        assert worker.signal(signal.SIGABRT).wait() == -signal.SIGABRT
        text = worker.text()
        assert re.search(rf"^Current thread .*\n  File .*/app_hello.py\", line \d+ in {path}$", text, re.MULTILINE)
        assert re.search(r"^Thread .*\n  File .*/threading.py\", line \d+ in ", text, re.MULTILINE)
        said = re.search(
            r"^web:0: the event loop has been stuck for (\S+) s \(watchdog = 0\.4 s\); "
            r"the stacks of its threads are above\n((?:  .*\n)*)\Z",
            text,
            re.MULTILINE,
        )
        assert said is not None, text
        assert float(said[1]) >= WATCHDOG / 2
        assert re.search(
            r"^  still waiting: wait \(.*locks.py:\d+\) in slow \(.*app_hello.py:\d+\)", said[2], re.MULTILINE
        )


def test_a_loop_stuck_in_c_code_shows_its_stacks():
    with Pool(watchdog=WATCHDOG) as pool, pool.client() as client:
        worker = pool.run().serve()
        client.send("/crunch")
        worker.until_written("crunching")
        worker.signal(signal.SIGABRT).until_written("in crunch", "err")


def test_an_operators_sigabrt_does_the_same_to_a_healthy_worker():
    with Pool() as pool, pool.client() as idle:
        worker = pool.run().serve()
        idle.get()
        assert worker.signal(signal.SIGABRT).wait() == -signal.SIGABRT
        assert "Current thread" in worker.text()
        assert "\nweb:0: killed by SIGABRT while it was serving; the stacks of its threads are above\n" in worker.text()


def test_many_tasks_are_counted_by_place():
    with Pool() as pool:
        worker = pool.run().serve()
        clients = [pool.client() for _ in range(61)]
        for client in clients:
            client.get()  # then all but perhaps the last one wait again
        assert worker.signal(signal.SIGABRT).wait() == -signal.SIGABRT
        for client in clients:
            with client:
                pass
        assert re.search(r"\((60|61) tasks\)$", worker.text(), re.MULTILINE)
        assert worker.text().count("still waiting") < 5


def test_a_template_dies_of_it_too_and_its_workers_do_not():
    with Pool() as pool:
        template = pool.template()
        worker = pool.fork(template).serve()
        assert template.signal(signal.SIGABRT).wait() == -signal.SIGABRT
        assert template.text().endswith("web:template: killed by SIGABRT; the stack traces of its threads are above\n")
        assert worker.text() == ""
        assert pool.get() == str(worker.pid)


@pytest.mark.parametrize("mode", ["template", "serve"])
@pytest.mark.parametrize("enabled", ["", "1"])
def test_an_import_that_hangs_shows_where(mode, enabled):
    with Pool(app="app_stuck_at_import:make") as pool:
        worker = pool.run(mode, "web:0", PYTHONFAULTHANDLER=enabled)
        worker.until_written("importing")
        assert worker.signal(signal.SIGABRT).wait() == -signal.SIGABRT
        assert worker.text().count("Current thread") == 1
        assert "app_stuck_at_import.py" in worker.text()
        assert worker.text().endswith("web:0: killed by SIGABRT; the stack traces of its threads are above\n")
