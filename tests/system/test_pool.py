"""The pool: applications that do not come up, that cannot be forked, and workers that come and go under load."""

from __future__ import annotations

import json
import signal
import socket

import pytest
from instance import Instance, pool, program, wait_for
from load import Load, Lost, ask, fetch

from impetusd.core.reasons import NONE, because


def serving(instance: Instance, **keys: object) -> int:
    port = instance.port()
    instance.start(f"[pool:web]\n{pool(port, **keys)}")
    return port


def workers(port: int, tries: int = 60) -> set[str]:
    """The pids that answer."""
    return {fetch(port) for _ in range(tries)}


@pytest.mark.parametrize(
    ("app", "words", "tracebacks"),
    [
        ("app_broken:make", "ModuleNotFoundError: No module named 'no_such_package'", 1),
        ("app_raises:make", "KeyError: 'SECRET_KEY'", 1),
        ("app_sys_no_such_module:make", "app_sys_no_such_module", 0),  # there is no frame of theirs to show
        ("app_sys_no_factory:make", "make", 0),
    ],
)
def test_an_application_that_cannot_be_imported_is_told_once_and_whole(
    impetusd: Instance, app: str, words: str, tracebacks: int
) -> None:
    impetusd.write(f"[pool:web]\n{pool(impetusd.port(), app)}")
    failed = impetusd.run("start", code=1)
    assert words in failed.out
    assert failed.out.count("Traceback") == tracebacks, failed
    assert "impetusd/worker" not in failed.out  # the operator's frames, not ours
    status = impetusd.status()
    template = status["web:template"]
    assert (template.state, template.restarts) == ("FATAL", 0)
    assert {key: template.last_exit[key] for key in template.last_exit if key != "at"} == {"code": 78}
    assert words in "\n".join(template.tail)
    assert status["web:0"].why == because("waits_for", name="web:template", state="FATAL", cause=NONE)
    assert words in impetusd.run("logs", "web").out
    assert words in impetusd.run("status", "--json", code=1).out or words.replace("'", "\\u0027") in str(status.fields)


def test_a_repaired_application_comes_up_with_start(impetusd: Instance) -> None:
    module = impetusd.write("import no_such_package\n", "repairable.py")
    port = impetusd.port()
    impetusd.write(f"[pool:web]\n{pool(port, 'repairable:make', cwd=impetusd.root)}")
    impetusd.run("start", code=1)
    module.write_text(
        "import os\nfrom aiohttp import web\n\n\nasync def hello(request):\n    return web.Response(text=str(os.getpid()))\n\n\n"
        "def make():\n    app = web.Application()\n    app.router.add_get('/', hello)\n    return app\n"
    )
    impetusd.run("start")
    assert fetch(port) in {str(pid) for pid in impetusd.settle().pids.values()}


def test_an_application_that_starts_threads_at_import_is_run_without_a_template(impetusd: Instance) -> None:
    port = serving(impetusd, app="app_threads:make")
    status = impetusd.status()
    assert (status["web:template"].state, status["web:template"].pid) == ("STOPPED", None)
    assert status["web:template"].why == because("threads")
    assert [status[name].state for name in ("web:0", "web:1", "web:standby")] == ["RUNNING"] * 3
    wait_for(lambda: "ticker" in impetusd.log("web-template-error.log"), "the name of the thread")
    impetusd.run("status")
    assert workers(port) <= {str(status["web:0"].pid), str(status["web:1"].pid)}
    impetusd.kill(status["web:0"].pid)
    wait_for(lambda: impetusd.status()["web:0"].pid == status["web:standby"].pid, "the standby to take over")
    wait_for(lambda: impetusd.status()["web:standby"].state == "RUNNING", "another standby")
    fetch(port)


def test_without_preload_each_worker_is_executed(impetusd: Instance) -> None:
    port = serving(impetusd, preload="no")
    status = impetusd.settle()
    assert list(status.rows) == ["web:0", "web:1", "web:standby"]
    impetusd.kill(status["web:1"].pid)
    after = impetusd.settle(lambda now: now["web:1"].restarts == 1)
    assert after["web:1"].pid == status["web:standby"].pid
    fetch(port)


def test_without_a_standby_a_killed_worker_is_forked_anew(impetusd: Instance) -> None:
    port = serving(impetusd, standby=0)
    status = impetusd.settle()
    impetusd.kill(status["web:0"].pid)
    after = impetusd.settle(lambda now: now["web:0"].restarts == 1)
    assert after["web:1"].pid == status["web:1"].pid
    fetch(port)


def test_two_standbys_have_names_of_their_own(impetusd: Instance) -> None:
    serving(impetusd, standby=2)
    assert list(impetusd.settle().rows) == ["web:template", "web:0", "web:1", "web:standby", "web:standby:1"]


def test_a_factory_that_fails_is_retried_and_told(impetusd: Instance) -> None:
    impetusd.write(
        f"[pool:web]\n{pool(impetusd.port(), 'app_hello:make_failing', max_restarts=2, exp_backoff_restart_delay='10ms')}"
    )
    failed = impetusd.run("start", code=1)
    assert "Boom: in the factory" in failed.out
    row = impetusd.wait_state("web:0", "FATAL")
    assert row.last_exit["code"] == 1
    assert (row.why.key, row.why.facts["restarts"]) == ("gave_up", 2)
    assert impetusd.status()["web:template"].state == "RUNNING"


def test_no_request_fails_while_the_pool_is_scaled_up_and_down(impetusd: Instance) -> None:
    port = serving(impetusd)
    before = impetusd.settle()
    with Load(port) as load:
        impetusd.run("scale", "web", 4)
        load.go_on(100)
        assert list(impetusd.settle().rows) == ["web:template", "web:0", "web:1", "web:2", "web:3", "web:standby"]
        impetusd.run("scale", "web", 1)
        load.go_on(100)
        impetusd.run("scale", "web", 2)
        load.go_on(100)
    after = impetusd.settle()
    assert list(after.rows) == list(before.rows)
    assert after["web:0"].pid == before["web:0"].pid
    assert {row.restarts for row in after.rows.values()} == {0}


def test_the_scale_holds_over_a_killed_supervisor(impetusd: Instance) -> None:
    serving(impetusd)
    impetusd.run("scale", "web", 3)
    before = impetusd.settle()
    impetusd.kill(before.supervisor)
    after = impetusd.settle(lambda now: now.supervisor != before.supervisor)
    assert after.pids == before.pids


def test_a_killed_worker_fails_only_what_it_was_answering(impetusd: Instance) -> None:
    port = serving(impetusd)
    status = impetusd.settle()
    load = Load(port, kept=0, fresh=2)
    with pytest.raises(StopIteration), load:
        load.go_on(50)
        for number in (signal.SIGSTOP, signal.SIGKILL):  # a client that the one has lost is not to ask the other
            for name in ("web:0", "web:1"):
                impetusd.kill(status[name].pid, number)
        impetusd.settle(lambda now: now["web:0"].restarts == now["web:1"].restarts == 1)
        load.failures, failures = [], load.failures
        load.go_on(50)
        raise StopIteration  # out of the load without its verdict: here some may fail
    assert len(failures) <= 2, failures  # what each client was asking at that moment
    assert not any("Refused" in failure for failure in failures), failures


def test_a_restarted_pool_has_new_workers_and_queues_who_comes_meanwhile(impetusd: Instance) -> None:
    port = serving(impetusd)
    before = impetusd.settle()
    with Load(port, kept=0) as load:
        impetusd.run("restart", "web")
        load.go_on(100)
    after = impetusd.settle()
    assert not set(before.pids.values()) & set(after.pids.values())
    assert {row.restarts for row in after.rows.values()} == {0}
    assert {row.generation for row in after.rows.values()} == {2}


def test_one_worker_can_be_restarted_and_stopped_alone(impetusd: Instance) -> None:
    port = serving(impetusd)
    before = impetusd.settle()
    impetusd.run("restart", "web:0")
    after = impetusd.settle()
    assert after["web:0"].pid != before["web:0"].pid
    assert after["web:1"].pid == before["web:1"].pid
    impetusd.run("stop", "web:0")
    assert workers(port) == {str(after["web:1"].pid)}
    impetusd.run("start", "web:0")
    impetusd.settle()


def test_a_stopped_pool_refuses_connections(impetusd: Instance) -> None:
    port = serving(impetusd)
    impetusd.run("stop", "web")
    with pytest.raises(ConnectionRefusedError):
        fetch(port)
    impetusd.run("start", "web")
    fetch(port)


def test_a_request_under_way_is_finished_by_a_stop(impetusd: Instance) -> None:
    port = serving(impetusd, instances=1, drain_timeout="60s", kill_timeout="90s")
    with (
        socket.create_connection(("127.0.0.1", port), 30) as upload,
        socket.create_connection(("127.0.0.1", port)) as idle,
    ):

        def is_leaving() -> bool:
            try:
                return ask(idle, keep=True)[1]
            except (OSError, Lost):  # it was idle for a while, for this process had no turn
                return True

        assert not is_leaving()
        upload.sendall(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nab")
        assert not is_leaving()  # answered after it, so the upload has been seen
        stopping = impetusd.popen("stop", "web")
        wait_for(is_leaving, "the worker to leave")
        upload.sendall(b"cd")
        head, _, body = upload.recv(4096).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == b"4"
        assert b"connection: close" in head.lower()
    impetusd.finish(stopping)


def test_a_worker_whose_loop_stands_still_is_killed_at_the_deadline(impetusd: Instance) -> None:
    port = serving(impetusd, instances=1, standby=0, kill_timeout="2s", drain_timeout="1s")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /block HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_for(lambda: "blocking" in impetusd.log("web-0-out.log"), "the loop to stand still")
        stopped = impetusd.run("stop", "web")
    assert [each.command for each in impetusd.members() if "impetusd.worker" in each.command] == []
    assert "stopped" in stopped.out


def test_a_pool_and_a_program_do_not_mix_their_sockets(impetusd: Instance) -> None:
    one, two = impetusd.port(), impetusd.port()
    status = impetusd.start(f"""
[pool:web]
{pool(one)}
[program:answer]
command = {program("answer_pid")}
listen = 127.0.0.1:{two}
wait_ready = yes
""")
    with socket.create_connection(("127.0.0.1", two)) as connection:
        assert connection.recv(100).decode() == f"{status['answer'].pid} answer"
    assert workers(one) <= {str(status["web:0"].pid), str(status["web:1"].pid)}


def test_a_template_that_stands_still_is_replaced_and_the_pool_answers_again(impetusd: Instance) -> None:
    port = serving(impetusd, instances=1, standby=1, listen_timeout="15s")  # a third of it, or 5 s, for a fork
    before = impetusd.settle()
    template = before["web:template"].pid
    impetusd.kill(template, signal.SIGSTOP)
    for name in ("web:standby", "web:0"):
        impetusd.kill(before[name].pid)
    after = impetusd.settle(
        lambda now: now.pids.keys() == before.pids.keys() and not {*now.pids.values()} & {*before.pids.values()}
    )
    assert fetch(port) == str(after["web:0"].pid)
    told = "it did not fork web:"
    assert told in impetusd.run("why", "web:template").out
    impetusd.says(told)
    records = map(json.loads, impetusd.run("events", "--json", "web:template").out.splitlines())
    assert [each["rule"] for each in records if each["kind"] == "rule"] == ["listen_timeout"]
    # The same while a worker is stopped whose fork is under way.
    impetusd.kill(after["web:template"].pid, signal.SIGSTOP)
    impetusd.kill(after["web:0"].pid)
    impetusd.kill(after["web:standby"].pid)
    impetusd.wait_state("web:0", "STARTING")
    impetusd.run("stop", "web:0", "web:standby")
    assert impetusd.status()["web:0"].state == "STOPPED"
