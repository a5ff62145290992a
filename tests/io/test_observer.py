"""The observer on a supervisor in this process: what happens becomes alerts, once, over every restart of either."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from serving import serving
from supervisor_world import in_a_folder
from waiting import until

from impetusd.client import async_control
from impetusd.client.async_control import AsyncControl
from impetusd.core.explain import happened
from impetusd.observer import history, program, rules
from impetusd.observer.program import Observer
from impetusd.observer.settings import Alert, Settings

INI = """[impetusd]
[program:web]
command = sleep 1000
max_restarts = 1
exp_backoff_restart_delay = 10ms
exp_backoff_max_delay = 10ms
[program:db]
command = sleep 1000
"""


class Receiver:
    """Takes notices as JSON; `status` is its answer."""

    def __init__(self):
        self.got, self.status, self.headers = [], 200, {}
        self.hold = threading.Event()
        self.hold.set()
        of = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                of.got.append(message)
                of.hold.wait(20)
                self.send_response(of.status)
                for name, value in of.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def do_GET(self):
                of.got.append({"kind": "ping"})
                self.send_response(of.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def kinds(self):
        return [(each["kind"], each["root"]) for each in self.got]


@pytest.fixture
def receiver():
    made = Receiver()
    with serving(made.server):
        yield made
        made.hold.set()


@pytest.fixture
def shim():
    with in_a_folder(INI) as made:
        yield made


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(rules, "GATHER", 0.1)
    monkeypatch.setattr(rules, "RECOVERY", 0.1)
    monkeypatch.setattr(happened, "RESTARTS", 1000)  # how often it is killed until it is given up depends on the clock
    monkeypatch.setattr(program, "FIRST_AGAIN", 0.05)
    monkeypatch.setattr(program, "APART", 0.0)
    monkeypatch.setattr(program, "MINUTE", 1e12)  # whether one begins during a test is not the test's business


@asynccontextmanager
async def observing(shim, folder, *alerts, **keys):
    settings = Settings(folder=str(folder), host="h", alerts={alert.name: alert for alert in alerts}, **keys)
    made = Observer(settings, AsyncControl(async_control.at(shim.paths.control_socket)))
    task = asyncio.create_task(made.run())
    try:
        await until(lambda: task.done() or made._ready, "the observer")
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.close()


def hook(receiver, **keys):
    return Alert(name="ops", type="json", url=receiver.url, **keys)


async def fail(life, name="web"):
    """Have it be given up."""

    async def given_up():
        if f"{name}:0" in life.shim.pids():
            life.shim.kill(f"{name}:0")
        return (await life.rows())[name]["state"] == "FATAL"

    await life.ask("start", names=[name])
    await until(given_up, f"{name} to be given up")


async def mend(life, name="web"):
    await life.ask("start", names=[name])
    await life.until_state("RUNNING", name)


def test_a_failure_and_its_recovery_are_delivered_once_each(shim, tmp_path, receiver):
    async def scenario(life):
        async with observing(shim, tmp_path, hook(receiver)) as observer:
            await fail(life)
            await until(lambda: receiver.kinds() == [("firing", "web")], receiver.kinds)
            await mend(life)
            await until(lambda: receiver.kinds()[1:] == [("recovered", "web")], receiver.kinds)
            await until(lambda: observer.outbox.report()["undelivered"] == 0)
        first, last = receiver.got
        assert first["problems"][0]["cause"]["key"] == "gave_up"
        assert first["id"] == first["incident"] == last["incident"] != last["id"]

    shim.live(scenario)


def test_what_happens_while_it_is_away_is_sent_and_what_was_sent_is_not_again(shim, tmp_path, receiver):
    async def scenario(life):
        async with observing(shim, tmp_path, hook(receiver)):
            pass
        await fail(life)
        async with observing(shim, tmp_path, hook(receiver)) as observer:
            await until(lambda: observer.outbox.recent)
        async with observing(shim, tmp_path, hook(receiver)) as observer:
            await until(lambda: observer._saved)
        await mend(life)
        async with observing(shim, tmp_path, hook(receiver)):
            await until(lambda: receiver.kinds() == [("firing", "web"), ("recovered", "web")], receiver.kinds)

    shim.live(scenario)


def test_one_that_ends_while_it_asks_for_the_last_lines_has_lost_nothing(shim, tmp_path, receiver, monkeypatch):
    asked = asyncio.Event()
    call = AsyncControl.call

    async def hang(self, method, *args, **how):
        if method == "tail":
            asked.set()
            await asyncio.Event().wait()
        return await call(self, method, *args, **how)

    async def scenario(life):
        with monkeypatch.context() as patched:
            patched.setattr(AsyncControl, "call", hang)
            patched.setattr(program, "TAIL", 60.0)
            async with observing(shim, tmp_path, hook(receiver)):
                await fail(life)
                await asked.wait()
        assert receiver.got == []
        async with observing(shim, tmp_path, hook(receiver)) as observer:
            await until(lambda: observer.outbox.recent)
        assert receiver.kinds() == [("firing", "web")]

    shim.live(scenario)


def test_restarts_that_the_ledger_alone_knows_of_are_seen(shim, tmp_path, receiver, monkeypatch):
    monkeypatch.setattr(happened, "RESTARTS", 3)

    async def scenario(life):
        async with observing(shim, tmp_path, hook(receiver)):
            pass
        await mend(life, "db")
        for _ in range(happened.RESTARTS):
            before = shim.child("db:0")
            shim.kill("db:0")
            await until(lambda before=before: shim.pids().get("db:0", before.pid) != before.pid)
        async with observing(shim, tmp_path, hook(receiver)):
            await until(lambda: receiver.kinds() == [("firing", "db")], receiver.kinds)
        assert receiver.got[0]["problems"][0]["cause"]["key"] == "restarted_often"

    shim.live(scenario)


def test_what_is_not_taken_is_tried_again_and_reported_until_it_is(shim, tmp_path, receiver):
    async def scenario(life):
        receiver.status = 500
        async with observing(shim, tmp_path, hook(receiver)) as observer:
            await fail(life)
            await until(lambda: len(receiver.got) >= 3)
            report = observer.outbox.report()
            assert report["undelivered"] == 1
            assert report["alerts"]["ops"]["error"] == "127.0.0.1 answered 500"
        receiver.status = 200
        async with observing(shim, tmp_path, hook(receiver)) as observer:  # and over a restart of the observer
            await until(lambda: observer.outbox.report()["undelivered"] == 0)
        assert len({each["id"] for each in receiver.got}) == 1

    shim.live(scenario)


def test_a_receiver_that_wants_to_be_left_alone_is(shim, tmp_path, receiver):
    async def scenario(life):
        receiver.status, receiver.headers = 429, {"Retry-After": "3000"}
        async with observing(shim, tmp_path, hook(receiver)) as observer:
            await fail(life)
            await until(lambda: observer.outbox.report()["alerts"].get("ops", {}).get("error"))
            (waiting,) = observer.outbox.waiting["ops"]
            loop = asyncio.get_running_loop()
            assert waiting.due - loop.time() > 2900
            assert observer._sent_at["ops"] - loop.time() > 2900
        assert len(receiver.got) == 1

    shim.live(scenario)


def test_one_that_hangs_holds_up_no_other(shim, tmp_path, receiver):
    async def scenario(life):
        other = Receiver()
        receiver.hold.clear()
        alerts = (hook(receiver), Alert(name="other", type="json", url=other.url))
        with serving(other.server):
            async with observing(shim, tmp_path, *alerts):
                await fail(life)
                await until(lambda: other.kinds() == [("firing", "web")])
                await mend(life)
                await until(lambda: other.kinds()[1:] == [("recovered", "web")])
                assert len(receiver.got) == 1
                receiver.hold.set()
                await until(lambda: len(receiver.got) == 2)

    shim.live(scenario)


def test_a_supervisor_that_stays_away_is_a_problem(shim, tmp_path, receiver, monkeypatch):
    monkeypatch.setattr(program, "SILENT", 0.3)

    async def away():
        settings = Settings(folder=str(tmp_path), host="h", alerts={"ops": hook(receiver)})
        made = Observer(settings, AsyncControl(async_control.at(shim.paths.control_socket)))
        made._ready = True  # it was there before
        task = asyncio.create_task(made.run())
        await until(lambda: receiver.kinds() == [("firing", "impetusd")], receiver.kinds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.close()
        assert receiver.got[0]["problems"][0]["cause"]["key"] == "supervisor_silent"

    asyncio.run(away())


def test_a_heartbeat_beats_while_all_is_well(shim, tmp_path, receiver):
    beats = []  # how many had come at each time that a beat was due

    class Every(float):
        def __le__(self, other):  # asyncio.sleep compares it, once
            beats.append(len(receiver.got))
            return super().__le__(other)

    async def scenario(life):
        alert = Alert(name="dead", heartbeat=receiver.url, heartbeat_every=Every(0.01))
        async with observing(shim, tmp_path, alert) as observer:
            await until(lambda: len(receiver.got) >= 3)
            observer._lost = 1.0
            so_far = len(beats)
            await until(lambda: len(beats) >= so_far + 4)
            assert len(set(beats[so_far:])) == 1  # the first may have been under way

    shim.live(scenario)


def test_samples_and_marks_become_history(shim, tmp_path, receiver):
    async def scenario(life):
        async with observing(shim, tmp_path) as observer:
            await mend(life)
            shim.kill("web:0")
            await until(lambda: any(mark[2] == "restart" for mark in observer._marks))
            await observer.sample()
        found = history.read(str(tmp_path / "history.sqlite"), "web", ["restarts"], 0, 1 << 40)
        assert list(found["series"]["restarts"]) == ["web"]
        assert {mark["kind"] for mark in found["marks"]} == {"restart"}

    shim.live(scenario)


def test_damaged_files_are_set_aside_and_reported(shim, tmp_path, receiver):
    for name in ("alerts.sqlite", "history.sqlite"):
        (tmp_path / name).write_bytes(b"no database, and long enough to be taken for one" * 100)

    async def scenario(life):
        async with observing(shim, tmp_path, hook(receiver)) as observer:
            await observer.sample()
            await until(lambda: len(receiver.got) == 2, receiver.kinds)
        assert {each["problems"][0]["cause"]["key"] for each in receiver.got} == {"set_aside"}
        assert (tmp_path / "history.sqlite.damaged").exists()

    shim.live(scenario)


def test_a_folder_that_cannot_be_written_keeps_no_alert_back(shim, tmp_path, receiver, monkeypatch):
    monkeypatch.setattr(program, "MINUTE", 0.05)
    gone = tmp_path / "gone"
    files = {str(gone / name) for name in ("alerts.sqlite", "history.sqlite")}

    def roots(kind):
        return {each["root"] for each in receiver.got if each["kind"] == kind}

    async def scenario(life):
        async with observing(shim, gone, hook(receiver)):
            await fail(life)
            await until(lambda: roots("firing") == {"web", *files}, receiver.kinds)
            causes = {each["root"]: each["problems"][0]["cause"]["key"] for each in receiver.got}
            assert causes == {"web": "gave_up", **dict.fromkeys(files, "not_kept")}
            gone.mkdir()  # from the next minute on it can
            await until(lambda: roots("recovered") == files, receiver.kinds)
        assert all(os.path.getsize(each) for each in files)

    shim.live(scenario)


def test_a_mistake_in_one_part_is_logged_and_the_others_go_on(shim, tmp_path, receiver, monkeypatch, capfd):
    monkeypatch.setattr(program, "AFTER_MISTAKE", 0.01)
    monkeypatch.setattr(Observer, "_remember", lambda _: 1 / 0)

    async def scenario(life):
        async with observing(shim, tmp_path, hook(receiver)):
            await fail(life)
            await until(lambda: receiver.kinds() == [("firing", "web")], receiver.kinds)

    shim.live(scenario)
    assert "ZeroDivisionError" in capfd.readouterr().err
