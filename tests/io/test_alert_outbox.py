"""Notices are on the disk before they are sent and until they are delivered, whenever the observer is killed, and on full disks."""

from __future__ import annotations

import os
import signal
import sqlite3
import tempfile
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from smalldisk import small_disk

from impetusd.core.explain.incidents import Problem
from impetusd.core.protocol import check_params
from impetusd.core.reasons import because
from impetusd.observer import channels, outbox, rules
from impetusd.observer.outbox import Damaged, Outbox
from impetusd.observer.rules import Notice
from impetusd.observer.settings import Alert, Settings
from impetusd.observer.text import message

PROBLEM = Problem("fatal", "web", because("exit", code=1), 1.0, ("web",), ("line",))


def notice(number, kind="firing", alert="ops", incident=None):
    ident = f"s-{number}"
    return Notice(
        id=ident, incident=incident or ident, alert=alert, kind=kind, at=1.0, root="web", since=1.0, problems=(PROBLEM,)
    )


def filled(path, *notices):
    box = Outbox(str(path))
    box.state("s").count = len(notices)
    box.add(notices)
    assert box.write(box.image())
    box.release()
    return box


def waiting(box):
    return [each.notice.id for of in box.waiting.values() for each in of]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "alerts.sqlite"


def test_what_waits_and_what_the_rules_remember_come_back(path):
    box = filled(path, notice(1), notice(2, alert="other"))
    box.state("").cases = {"ops": {"web": rules.Case("s-1", "web", 1.0, 2.0, True, {"fatal web": 0.0}, [])}}
    box.delivered(box.waiting["ops"][0], 5.0, "title")
    assert box.write(box.image())
    box.close()
    again = Outbox(str(path))
    assert again.waiting["other"][0].notice == notice(2, alert="other")
    assert waiting(again) == ["s-2"]
    assert again.state("x") == box.state("x")
    assert [(each["id"], each["delivered"]) for each in again.recent] == [("s-1", 5.0)]
    assert again.report()["undelivered"] == 1
    again.close()


def test_what_is_added_is_due_only_once_it_was_written(path):
    box = Outbox(str(path))
    box.add([notice(1)])
    assert box.waiting["ops"][0].due == float("inf")
    box.release()
    assert box.waiting["ops"][0].due == 0.0
    box.close()


def test_a_repetition_takes_the_place_of_the_one_before_and_too_many_are_counted(path):
    box = Outbox(str(path))
    box.add(
        [
            notice(1),
            notice(2, "repeat", incident="s-1"),
            notice(3, "repeat", incident="s-1"),
            notice(4, "repeat", incident="x"),
        ]
    )
    assert waiting(box) == ["s-1", "s-3", "s-4"]
    box.add([notice(number) for number in range(10, 10 + outbox.MOST)])
    assert len(waiting(box)) == outbox.MOST
    assert box.report()["alerts"]["ops"]["dropped"] == 3
    box.close()


def test_a_report_is_one_that_the_supervisor_takes(path):
    box = Outbox(str(path))
    for number in range(200):
        alert = f"alert-{number}-{'x' * 100}"
        box.add([notice(number, alert=alert)])
        box.waiting[alert][0].error = "e" * 5000
    report = box.report()
    assert check_params("observer-report", {"report": report})["report"] == report
    assert report["undelivered"] == 200
    assert len(report["alerts"]) == outbox.REPORTED
    box.close()


def test_what_waits_for_an_alert_that_is_no_more_is_forgotten(path):
    box = filled(path, notice(1), notice(2, alert="old"))
    box.forget(["ops"])
    assert box.write(box.image())
    box.close()
    again = Outbox(str(path))
    assert waiting(again) == ["s-1"]
    again.close()


@pytest.mark.parametrize("how", ["noise", "cut", "state", "notice"])
def test_a_damaged_file_is_named_and_can_be_set_aside(path, how):
    filled(path, *map(notice, range(1, 60))).close()
    if how == "noise":
        path.write_bytes(os.urandom(8192))
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        table, column = {"state": ("memory", "value"), "notice": ("waiting", "notice")}[how]
        with sqlite3.connect(path) as connection:
            connection.execute(f"UPDATE {table} SET {column} = '[1]'")
        connection.close()
    with pytest.raises(Damaged):
        Outbox(str(path))
    assert outbox.aside(str(path)) == f"{path}.damaged"
    fresh = Outbox(str(path))
    assert waiting(fresh) == []
    fresh.close()


@pytest.fixture
def small(tmp_path):
    """A file system of 256 kB."""
    with small_disk(tmp_path / "small", "256k") as folder:
        yield folder


def fill(folder):
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def test_a_full_disk_is_reported_and_memory_goes_on(small):
    box = filled(small / "alerts.sqlite", notice(1))
    fill(small)
    box.add(map(notice, range(2, 150)))
    assert not box.write(box.image())
    assert "full" in box.error
    assert len(waiting(box)) == 149
    (small / "filler").unlink()
    box.delivered(box.waiting["ops"][0], 1.0, "t")
    assert box.write(box.image())
    assert box.error == ""
    box.close()
    again = Outbox(str(small / "alerts.sqlite"))
    assert len(waiting(again)) == 148
    again.close()


def test_a_disk_that_is_full_from_the_start_loses_nothing_of_before(small):
    path = small / "alerts.sqlite"
    filled(path, notice(1)).close()
    fill(small)
    box = Outbox(str(path))  # it cannot make its log
    assert box.error
    box.state("t").count = 7
    box.add([notice(2)])
    assert not box.write(box.image())
    (small / "filler").unlink()
    assert box.write(box.image())
    box.image()
    assert waiting(box) == ["s-1", "s-2"]
    box.close()
    again = Outbox(str(path))
    assert waiting(again) == ["s-1", "s-2"]
    assert again.state("x").count == 7
    again.close()


class Receiver(HTTPServer):
    """Notes the id of each message that it has got whole."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.timeout = 0.02
        self.ids = []
        self.url = f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.ids.append(self.headers["Idempotency-Key"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass  # the sender was killed


class Point:
    """SIGKILL at the n-th of the points that are passed."""

    def __init__(self, last):
        self.left = last

    def __call__(self):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def deliver(path, url, point):
    """An observer's life, as far as the outbox goes: three notices, once, and delivered one after the other."""

    class Counting(sqlite3.Connection):
        def execute(self, *args):
            point()
            return super().execute(*args)

        def executemany(self, *args):
            point()
            return super().executemany(*args)

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **how: connect(*args, factory=Counting, **how)
    alert, settings = Alert(name="ops", type="json", url=url), Settings(folder="/", host="h")
    box = Outbox(str(path))
    state = box.state("s")
    if state.count == 0:
        state.count = 3
        box.add(map(notice, (1, 2, 3)))
        box.write(box.image())
    for each in list(box.waiting.get("ops", ())):
        shown = message(each.notice, settings)
        point()
        channels.send(alert, shown)
        point()
        box.delivered(each, 1.0, shown.title)
        box.write(box.image())


def child(receiver, path, last):
    """Whether it was killed at that point; the receiver serves it meanwhile."""
    pid = os.fork()
    if pid == 0:
        try:
            deliver(path, receiver.url, Point(last))
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        receiver.handle_request()
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            while receiver.timeout and _pending(receiver):
                receiver.handle_request()
            assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
            return os.WIFSIGNALED(status)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("it does not end")


def _pending(receiver):
    import select

    return bool(select.select([receiver], [], [], 0)[0])


def test_killed_at_any_point_nothing_is_lost_and_what_comes_twice_has_one_id():
    # In memory: a killed process, unlike a host that lost its power, leaves what it wrote whether it was synced or not.
    with Receiver() as receiver, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        killed, twice, last = True, 0, 0
        while killed:
            last += 1
            receiver.ids.clear()
            path = os.path.join(folder, f"{last}.sqlite")
            killed = child(receiver, path, last)
            assert not child(receiver, path, -1)
            assert set(receiver.ids) == {"s-1", "s-2", "s-3"}
            assert len(receiver.ids) <= 4
            twice += len(receiver.ids) == 4
    assert last > 40
    assert twice  # else no point lay between a delivery and its record
