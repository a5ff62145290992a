"""The template: imports once, forks when asked, and is not needed by what it has forked."""

from __future__ import annotations

import json
import os
import signal
import socket

import census
import pytest
from waiting import wait_for
from worker_harness import Pool


def _ppid(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def _waits_to_tell(pid: int) -> bool:
    """Whether it sleeps with a socket more than the two that it was given."""
    links = census.links(pid).values()
    return _state(pid) == "S" and sum(link.startswith("socket:") for link in links) == 3 and len(links) == 7


def test_a_forked_worker_belongs_to_the_subreaper_and_serves():
    with Pool() as pool:
        template = pool.template()
        worker = pool.fork(template)
        assert worker.until_told("READY=1") == ["READY=1", "STATUS=parked"]
        assert _ppid(worker.pid) == os.getpid()
        assert os.getsid(worker.pid) == worker.pid
        worker.serve()
        assert pool.get() == str(worker.pid)
        assert worker.signal().wait() == 0
        assert worker.text("out") == "context entered\ncontext left\n"
        assert template.text("out") == template.text() == ""


def test_workers_live_on_when_the_template_ends():
    with Pool() as pool:
        template = pool.template()
        worker = pool.fork(template).serve()
        template.channel.close()
        assert template.wait() == 0
        assert pool.get() == str(worker.pid)
        assert worker.signal().wait() == 0


def test_a_template_waits_until_it_can_tell_that_it_is_ready():
    with Pool() as pool:
        pool.fill_notify_queue()
        template = pool.run("template", "web:template")
        wait_for(lambda: _waits_to_tell(template.pid), "the template to wait")
        template.until_told("READY=1")
        pool.fork(template).serve()


def test_a_template_that_waits_to_be_heard_can_be_stopped():
    with Pool() as pool:
        pool.fill_notify_queue()
        template = pool.run("template", "web:template")
        wait_for(lambda: _waits_to_tell(template.pid), "the template to wait")
        assert template.signal().wait() == 0


def test_sigterm_ends_the_template_and_only_it():
    with Pool() as pool:
        template = pool.template()
        worker = pool.fork(template).serve()
        assert template.signal().wait() == 0
        assert pool.get() == str(worker.pid)


def test_a_worker_holds_nothing_of_the_templates():
    with Pool() as pool:
        template = pool.template()
        fork_socket = os.readlink(f"/proc/{template.pid}/fd/4")
        worker = pool.fork(template)
        worker.until_told("STATUS=parked")
        held = census.links(worker.pid).values()
        assert fork_socket not in held
        assert pool.path("0.out") not in held
        assert pool.path("0.err") not in held


def test_the_template_keeps_nothing_of_its_workers():
    with Pool() as pool:
        template = pool.template()
        pool.fork(template)
        before = len(os.listdir(f"/proc/{template.pid}/fd"))
        for _ in range(3):
            pool.fork(template).until_told("STATUS=parked")
        assert len(os.listdir(f"/proc/{template.pid}/fd")) == before
        with open(f"/proc/{template.pid}/task/{template.pid}/children", encoding="ascii") as children:
            assert children.read() == ""


def test_workers_have_random_numbers_of_their_own():
    with Pool() as pool:
        template = pool.template()
        numbers = []
        for _ in range(2):
            worker = pool.fork(template).serve()
            numbers.append(json.loads(pool.get("/numbers")))
            worker.kill()
        assert numbers[0]["import"] == numbers[1]["import"]
        assert numbers[0]["now"] != numbers[1]["now"]


def test_the_environment_of_the_request_is_the_workers():
    with Pool() as pool:
        worker = pool.fork(pool.template(), "web:3")
        worker.until_told("STATUS=parked")
        with open(f"/proc/{worker.pid}/comm", encoding="ascii") as comm:
            assert comm.read() == "web:3\n"


@pytest.mark.parametrize("known", [True, False])
def test_a_worker_begins_when_the_shim_has_written_down_who_it_is(known):
    with Pool() as pool:
        template = pool.template()
        gate, ours = os.pipe2(os.O_CLOEXEC)
        worker = pool.fork(template, gate=gate)
        os.close(gate)
        with open(ours, "wb", buffering=0) as ours:
            wait_for(lambda: _state(worker.pid) == "S", "it to wait")
            assert worker.text("out") == ""
            if known:
                ours.write(b"\n")
        if known:
            worker.until_told("READY=1")
        else:
            assert worker.wait() == 79
            assert (worker.text("out"), worker.text()) == ("", "")


def test_a_signal_right_after_the_fork_is_not_lost():
    with Pool() as pool:
        template = pool.template()
        for _ in range(10):
            assert pool.fork(template).signal().wait() == 0


def test_a_fork_that_fails_is_told_and_the_next_one_works():
    with Pool(app="app_no_fork:make") as pool:
        template = pool.template()
        with open(os.devnull, "wb") as null:
            answer = pool.ask(template, b'{"id": "web:0", "env": {}}', [null.fileno()] * 3)
        assert answer["id"] == "web:0"
        assert answer["error"].endswith("cannot fork web:0: Resource temporarily unavailable")
        pool.fork(template).serve()


def test_a_request_that_makes_no_sense_is_told_and_the_next_one_works():
    with Pool() as pool:
        template = pool.template()
        with open(os.devnull, "wb") as null:
            assert "error" in pool.ask(template, b"dance", [null.fileno()] * 3)
            before = len(os.listdir(f"/proc/{template.pid}/fd"))
            assert pool.ask(template, b'{"id": "web:0", "env": {}}', [null.fileno()])["id"] == "web:0"
            assert "error" in pool.ask(template, b'{"id": "web:0"}', [null.fileno()] * 3)
        assert len(os.listdir(f"/proc/{template.pid}/fd")) == before
        pool.fork(template).serve()


def test_threads_at_import_are_named_and_refused():
    with Pool(app="app_threads:make") as pool:
        template = pool.run("template", "web:template")
        assert template.wait() == 77
        assert template.text() == (
            "web:template: the application has started 1 thread(s) at import (ticker), which would not survive a fork: "
            "each worker imports the application itself (as with preload = no)\n"
        )
        assert pool.run().serve().signal(signal.SIGTERM).wait() == 0


def test_connections_at_import_are_named_and_refused():
    with Pool(app="app_connects:make") as pool, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        template = pool.run("template", "web:template", DATABASE_PORT=str(port))
        assert template.wait() == 77
        assert template.text() == (
            f"web:template: the application has opened 1 connection(s) at import (to 127.0.0.1:{port}), which its workers "
            "would share: each worker imports the application itself (as with preload = no)\n"
        )
        pool.run(DATABASE_PORT=str(port)).serve()


def test_an_event_loop_that_is_made_at_import_is_no_connection():
    with Pool(app="app_connects:make") as pool:
        pool.fork(pool.template()).serve()
