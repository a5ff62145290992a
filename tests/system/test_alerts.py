"""Alerts of a real daemon: one for each incident, with its cause, over everything that is killed; silences and tests."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from instance import Instance, pool, program, wait_for
from serving import serving

QUICK = "max_restarts = 2\nexp_backoff_restart_delay = 10ms\nexp_backoff_max_delay = 20ms\nmin_uptime = 5s"


class Receiver:
    """A webhook. While `open` is not set it has got a message, and does not answer."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.open = threading.Event()
        self.open.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                receiver.open.wait(40)
                try:
                    self.send_response(204)
                    self.end_headers()
                except ConnectionError:
                    pass  # who sent it was killed

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def told(self) -> list[tuple[str, str]]:
        return [(each["kind"], each["root"]) for each in self.got]

    def wait(self, *expected: tuple[str, str]) -> None:
        wait_for(lambda: len(self.got) >= len(expected), lambda: f"{expected}, not {self.told()}")
        assert self.told() == list(expected)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    with serving(made.server):
        yield made
        made.open.set()


def undelivered(impetusd: Instance) -> int:
    return int(impetusd.status().fields["alerts"]["report"].get("undelivered", -1))


def test_a_crash_loop_is_one_alert_with_its_cause_and_then_a_recovery(impetusd: Instance, receiver: Receiver) -> None:
    """Although supervisor, shim and observer are killed meanwhile."""
    impetusd.root.chmod(0o755)  # nobody gets to its folders
    broken = impetusd.root / "broken"
    broken.touch()
    impetusd.write(f"""
[alert:ops]
url = {receiver.url}
[program:db]
command = {program("database", impetusd.port(), broken)}
wait_ready = yes
{QUICK}
""")
    receiver.open.clear()
    impetusd.run("start", code=1)
    impetusd.wait_state("db", "FATAL")
    receiver.wait(("firing", "db"))
    impetusd.kill(impetusd.status()["observer"].pid)  # in the middle of the delivery
    wait_for(lambda: len(receiver.got) == 2, "it to be sent again")
    wait_for(lambda: undelivered(impetusd) == 1, "it to be reported")
    assert "1 alert" in impetusd.run("status", code=1).out
    receiver.open.set()
    wait_for(lambda: undelivered(impetusd) == 0, "it to be delivered")
    assert len({each["id"] for each in receiver.got}) == 1
    first = receiver.got[0]
    assert first["problems"][0]["cause"]["facts"]["end"] == {"key": "exit", "facts": {"code": 1}}
    assert first["problems"][0]["lines"] == ["FATAL: data directory is damaged"]
    assert first["command"] == f"impetusd -c {impetusd.conf} why db"
    del receiver.got[1:]
    for victim in ("supervisor", "shim"):
        impetusd.kill(getattr(impetusd.status(), victim), signal.SIGKILL)
        wait_for(lambda: impetusd.run("status", code=None).code == 1, "the next one")
    broken.unlink()
    impetusd.run("start", "db")
    wait_for(lambda: ("recovered", "db") in receiver.told(), receiver.told)
    of_db = [each for each in receiver.got if each["root"] == "db"]
    assert [each["kind"] for each in of_db] == ["firing", "recovered"]
    assert of_db[1]["states"] == ["db RUNNING"]
    # That the supervisor was killed is an incident of its own.
    wait_for(lambda: ("firing", "impetusd") in receiver.told(), receiver.told)
    assert receiver.told().count(("firing", "impetusd")) == 1


def test_a_database_that_is_away_is_one_alert_for_all_that_need_it(impetusd: Instance, receiver: Receiver) -> None:
    impetusd.root.chmod(0o755)
    broken, port = impetusd.root / "broken", impetusd.port()
    impetusd.start(f"""
[alert:ops]
url = {receiver.url}
for = 10s
[alert:quiet]
url = {receiver.url}
events = daemon
[program:db]
command = {program("database", port, broken)}
wait_ready = yes
{QUICK}
[pool:web]
{pool(impetusd.port(), "app_database:make", depends_on="db")}
[env:web]
DATABASE_PORT = {port}
[health:web]
http = /health
interval = 1s
timeout = 1s
failures = 1
action = alert
[program:report]
command = {program("exit_as_told", impetusd.root / "told")}
depends_on = db
""")
    impetusd.settle()
    broken.touch()
    (impetusd.root / "told").write_text("1", encoding="utf-8")
    impetusd.kill(impetusd.status()["report"].pid)
    impetusd.kill(impetusd.status()["db"].pid)
    receiver.wait(("firing", "db"))
    alert = receiver.got[0]
    keys = [f"{each['event']} {each['name']}" for each in alert["problems"]]
    assert keys[0] == "fatal db"
    assert "unhealthy web" in keys
    assert "report" in alert["waiting"] or any(key.endswith(" report") for key in keys)
    asked = impetusd.run("alert", "test", "quiet")
    assert "delivered, id" in asked.out
    receiver.wait(("firing", "db"), ("test", ""))
    assert f"{port}" not in asked.err
    broken.unlink()
    (impetusd.root / "told").unlink()
    impetusd.run("start")
    receiver.wait(("firing", "db"), ("test", ""), ("recovered", "db"))


def test_a_silence_is_kept_over_kills_and_delays_what_lasts(impetusd: Instance, receiver: Receiver) -> None:
    impetusd.root.chmod(0o755)
    told = impetusd.root / "told"
    impetusd.start(f"""
[alert:ops]
url = {receiver.url}
[program:p]
command = {program("exit_as_told", told)}
{QUICK}
""")
    assert impetusd.run("silence").out == "no alerts are silenced\n"
    assert impetusd.run("silence", "q", "1h", code=4).err
    made = impetusd.run("silence", "p", "1h", "--why", "it is moved").out
    assert "silence 1: alerts about p for" in made
    assert "it is moved" in made
    impetusd.kill(impetusd.status().supervisor)
    told.write_text("3", encoding="utf-8")
    impetusd.kill(impetusd.status()["p"].pid)
    impetusd.wait_state("p", "FATAL")
    wait_for(lambda: ("firing", "impetusd") in receiver.told(), receiver.told)  # which is not silenced
    assert ("firing", "p") not in receiver.told()
    assert json.loads(impetusd.run("silence", "--json").out)[0]["name"] == "p"
    impetusd.run("silence", "--end", "1")
    wait_for(lambda: ("firing", "p") in receiver.told(), receiver.told)
    impetusd.run("silence", "--end", "1", code=1)
    impetusd.run("alert", "test", "nowhere", code=4)
