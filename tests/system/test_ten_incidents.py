"""Ten incidents staged on a real daemon: of each, the first screen of the page and one alert name the cause and what to do.

IMPETUSD_PICTURES=FOLDER keeps a picture of each, wide and light, and of a telephone's in dark.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chromium import PROGRAM, Browser, Loop, Tab
from instance import PYTHON, Instance, pool, program, wait_for
from lending import Lend
from serving import serving
from smalldisk import small_disk
from test_alerts import Receiver
from test_incidents import cramped

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no chromium in PATH")

ELSEWHERE = "127.0.0.11"  # an address that other tests leave alone
PICTURES = os.environ.get("IMPETUSD_PICTURES", "")
QUICK = "max_restarts = 1\nexp_backoff_restart_delay = 10ms\nexp_backoff_max_delay = 20ms\nmin_uptime = 5s"
MAILER = """
import os, sys, time

def connect(environ):
    return environ["SMTP_HOST"]

if os.path.exists(sys.argv[1]):
    connect({})
time.sleep(300)
"""
SEARCH = """
import asyncio, os, time
from aiohttp import web

def read_index():
    time.sleep(1000)

async def look(app):
    while True:
        await asyncio.sleep(0.05)
        if os.path.exists("hang"):
            os.remove("hang")
            read_index()

async def begin(app):
    app["task"] = asyncio.create_task(look(app))

def make():
    app = web.Application()
    app.on_startup.append(begin)
    return app
"""
WEB = """
from aiohttp import web

def make():
    return web.Application()
"""
BACKUP = """
import os, sys, time

folder, go = sys.argv[1:]
print("waits", flush=True)
while not os.path.exists(go):
    time.sleep(0.05)
try:
    with open(folder + "/backup.tar", "ab", buffering=0) as file:
        while True:
            file.write(bytes(65536))
finally:
    print("x" * 80 * 1000, flush=True)
"""
INI = """
[gateway]
listen = 127.0.0.1:{page}
ceiling = admin
[alert:ops]
url = {receiver}
[program:mailer]
command = {python} mailer.py mailer-ill
{quick}
[program:importer]
command = {importer}
max_memory_restart = 60M
[pool:search]
app = search:make
cwd = {root}
listen = 127.0.0.1:{search}
instances = 1
standby = 0
watchdog = 10s
[program:db]
command = {db}
wait_ready = yes
{quick}
[pool:shop]
{shop}
[env:shop]
DATABASE_PORT = {db_port}
[health:shop]
http = /health
interval = 1s
timeout = 1s
failures = 8
action = alert
[program:backup]
command = {python} backup.py {disk} backup-go
out_file = {disk}/backup.log
{quick}
[program:front]
command = sleep 300
listen = {front}
{quick}
[pool:web]
app = web:make
cwd = {root}
listen = 127.0.0.1:{web}
instances = 1
standby = 0
[timer:nightly]
command = true
cron = 0 * * * *
"""
READER = """
[program:reader]
command = {}
"""


class World:
    """The daemon, the page's first screen, and who receives the alerts. `staged`: the roots of what went wrong so far."""

    def __init__(self, impetusd: Instance, receiver: Receiver, loop: Loop, tab: Tab, disk: Path, taken: int) -> None:
        self.impetusd, self.receiver, self.loop, self.tab = impetusd, receiver, loop, tab
        self.disk, self.taken = disk, taken
        self.ends = ExitStack()  # what holds a port
        self.staged: list[str] = []

    def touch(self, name: str) -> None:
        (self.impetusd.root / name).touch()

    def kill(self, unit: str) -> None:
        self.impetusd.kill(self.impetusd.status()[unit].pid)

    def until(self, script: str) -> Any:
        return self.loop.run(self.tab.until(script))

    def card(self, root: str, *words: str) -> str:
        """What the card of a root says, as soon as it says all that."""
        try:
            return self._card(root, *words)
        except RuntimeError:
            texts = self.loop.run(self.tab.run("[...document.querySelectorAll('.card')].map((card) => card.innerText)"))
            raise AssertionError(f"no card of {root} says {words}, but {texts}") from None

    def _card(self, root: str, *words: str) -> str:
        each = f"""[...document.querySelectorAll(".card")].find((card) =>
            card.querySelector("h2 .names").innerText === {json.dumps(root)} && {json.dumps(words)}.every((word) => card.innerText.includes(word)))"""
        return str(self.until(f"{each}?.innerText"))

    def alerts(self, root: str) -> list[dict[str, Any]]:
        return [each for each in self.receiver.got if each["root"] == root]

    def picture(self, name: str) -> None:
        """Twice, alone on the screen."""
        if not PICTURES:
            return
        self.until("document.querySelectorAll('.card').length === 1")
        for width, height, mode in ((1280, 900, "light"), (390, 844, "dark")):
            self.loop.run(self.tab.be(width, height, mode))
            self.loop.run(self.tab.picture(Path(PICTURES, f"{name}-{width}.png")))
        self.loop.run(self.tab.be())


@pytest.fixture(scope="module")
def world(lend: Lend) -> Iterator[World]:
    """One daemon with everything that is to go wrong, and a browser that looks at it."""
    with ExitStack() as stack:
        procs = stack.enter_context(cramped())  # empty only once impetusd is gone
        impetusd = stack.enter_context(lend(None))
        root = impetusd.root
        root.chmod(0o755)  # nobody gets to its folders
        disk = stack.enter_context(small_disk(root / "disk", "1m", held=True))
        receiver = Receiver()
        stack.enter_context(serving(receiver.server))
        loop = Loop()
        stack.callback(loop.close)
        for name, text in (("mailer", MAILER), ("search", SEARCH), ("web", WEB), ("backup", BACKUP)):
            impetusd.write(text, f"{name}.py")
        with socket.create_server((ELSEWHERE, 0)) as sock:
            taken = sock.getsockname()[1]
        db_port = impetusd.port()
        ini = INI.format(
            page=impetusd.port(),
            receiver=receiver.url,
            python=PYTHON,
            quick=QUICK,
            importer=program("leak_memory", "--once", root / "leak", "--from", 20, "--to", 200, 80),
            root=root,
            search=impetusd.port(),
            db=program("database", db_port, root / "db-ill"),
            db_port=db_port,
            shop=pool(impetusd.port(), "app_database:make", depends_on="db", instances=1, standby=0),
            disk=disk,
            front=f"{ELSEWHERE}:{taken}",
            web=impetusd.port(),
        )
        if procs:
            ini += READER.format(program("leak_memory", "--cgroup", procs, "--once", root / "oom", 500))
        _miss_a_run(impetusd, ini.partition("[timer:nightly]")[1:])
        impetusd.start(ini)
        impetusd.settle()
        tab = loop.enter(loop.enter(Browser).tab)
        loop.run(tab.goto(impetusd.run("login-link").out.strip()))
        made = World(impetusd, receiver, loop, tab, disk, taken)
        stack.enter_context(made.ends)
        yield made


def _miss_a_run(impetusd: Instance, timer: tuple[str, ...]) -> None:
    """As if impetusd had been down for a day."""
    impetusd.start("".join(timer).partition("[program:")[0])
    impetusd.run("stop")
    path = impetusd.root / "var" / "lib" / "state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    for name, text in state["timers"].items():
        record = json.loads(text)
        state["timers"][name] = json.dumps({**record, "seen": record["seen"] - 86400})
    path.write_text(json.dumps(state), encoding="utf-8")


@dataclass(frozen=True)
class Incident:
    """`says`: what the first screen has of it; `offers`: the button, or else the command to type; `alert`: what its title says."""

    root: str
    stage: Callable[[World], object]
    says: tuple[str, ...]
    offers: str
    alert: str
    heal: Callable[[World], object]


def again(*words: str) -> Callable[[World], object]:
    return lambda world: world.impetusd.run(*words)


def fall_ill(name: str) -> Callable[[World], None]:
    """A program dies, and does not come up again while its file says so."""

    def stage(world: World) -> None:
        world.touch(f"{name}-ill")
        world.kill(name)

    return stage


def get_well(name: str) -> Callable[[World], None]:
    def heal(world: World) -> None:
        (world.impetusd.root / f"{name}-ill").unlink()
        world.impetusd.run("start", name)

    return heal


def end_full(world: World) -> None:
    (world.impetusd.root / "backup-go").unlink()
    (world.disk / "backup.tar").unlink()
    world.impetusd.run("start", "backup")


def take_port(world: World) -> None:
    world.impetusd.run("stop", "front")
    world.ends.enter_context(socket.create_server((ELSEWHERE, world.taken)))
    world.impetusd.run("start", "front", code=1)


def end_port(world: World) -> None:
    world.ends.close()
    world.impetusd.run("start", "front")


def deploy(world: World) -> None:
    world.impetusd.write("import nosuchmodule\n", "web.py")
    world.impetusd.run("reload", "web", code=1)


def end_deploy(world: World) -> None:
    world.impetusd.write(WEB, "web.py")
    world.impetusd.run("reload", "web")


def out_of_memory(world: World) -> None:
    if "[program:reader]" not in world.impetusd.conf.read_text():
        pytest.skip("this host gives no memory cgroup, or its kernel's log may not be read")
    world.touch("oom")


INCIDENTS = {
    "missed-timer": Incident(
        "nightly",
        lambda _: None,  # it is there from the beginning
        ("run missed", "because impetusd was down", "runs in"),
        "Run now nightly",
        "a run of timer nightly was skipped: missed because impetusd was down",
        again("trigger", "nightly"),
    ),
    "crash-loop": Incident(
        "mailer",
        fall_ill("mailer"),
        ("given up", "exit 1: KeyError: 'SMTP_HOST'", "max_restarts", "impetusd.ini:", "until you act", "mailer.py"),
        "Restart mailer",
        "mailer is FATAL: exit 1; gave up after 1 restart in 60 s: KeyError: 'SMTP_HOST'",
        get_well("mailer"),
    ),
    "leak": Incident(
        "importer",
        lambda world: world.touch("leak"),
        ("runs again", "above max_memory_restart = 60 MB", "impetusd.ini:", "unless it happens again"),
        "why importer",
        "importer was restarted because of its memory use: uses",
        again("restart", "importer"),
    ),
    "hang": Incident(
        "search:0",
        lambda world: world.touch("hang"),
        ("runs again", "event loop blocked for 10 s (watchdog): in read_index,", "search.py line 6", "watchdog"),
        "why search",
        "search is unhealthy: event loop blocked for 10 s (watchdog): in read_index,",
        again("restart", "search"),
    ),
    "database-away": Incident(
        "db",
        fall_ill("db"),
        ("given up", "exit 1: FATAL: data directory is damaged", "shop:0"),
        "Restart db",
        "db is FATAL: exit 1; gave up after 1 restart in 60 s: FATAL: data directory is damaged",
        get_well("db"),
    ),
    "disk-full": Incident(
        "backup",
        lambda world: world.touch("backup-go"),
        ("given up", "No space left on device", "the disk is full", "disk/backup.log"),
        "Restart backup",
        "backup is FATAL: exit 1; gave up after 1 restart in 60 s: OSError: [Errno 28] No space left on device",
        end_full,
    ),
    "port-taken": Incident(
        "front",
        take_port,
        ("given up", "Address already in use by pid", "ss -ltnp 'sport = :"),
        "Restart front",
        f"front is FATAL: listening on {ELSEWHERE}:",
        end_port,
    ),
    "bad-deploy": Incident(
        "web",
        deploy,
        ("deploy failed", "the old version keeps serving", "No module named 'nosuchmodule'", "not installed there"),
        "Reload web",
        "Reload of web failed; the old version keeps serving:",
        end_deploy,
    ),
    "out-of-memory": Incident(
        "reader",
        out_of_memory,
        ("runs again", "killed by SIGKILL", "the kernel killed it", "journalctl -k"),
        "why reader",
        "reader was restarted because of its memory use: killed by SIGKILL",
        again("restart", "reader"),
    ),
    "killed-supervisor": Incident(
        "impetusd",
        lambda world: world.impetusd.kill(world.impetusd.status().supervisor),
        ("supervisor", "crashed and was restarted; programs were not affected", "unless it happens again"),
        "logs impetusd",
        "impetusd: impetusd's supervisor crashed and was restarted",
        again("start"),
    ),
}


@pytest.mark.parametrize("name", INCIDENTS)
def test_the_first_screen_and_an_alert_name_the_cause_and_what_to_do(world: World, as_root: None, name: str) -> None:
    incident = INCIDENTS[name]
    if PICTURES:
        world.until(f"document.querySelectorAll('.card').length === {int(name == 'missed-timer')}")
    incident.stage(world)
    unit = incident.root.partition(":")[0]
    world.staged.append(unit)
    card = world.card(incident.root, *incident.says, incident.offers)
    assert f"{incident.offers}\n" in card
    wait_for(lambda: world.alerts(unit), f"an alert, not {world.receiver.told()}")
    (alert,) = world.alerts(unit)
    assert alert["kind"] == "firing"
    assert incident.alert in alert["title"]
    world.picture(name)
    incident.heal(world)


def test_each_was_one_alert_and_one_recovery_and_then_all_is_well(world: World) -> None:
    wait_for(lambda: len(world.receiver.got) >= 2 * len(world.staged), lambda: str(world.receiver.told()))
    for unit in world.staged:
        alerts = world.alerts(unit)
        assert [each["kind"] for each in alerts] == ["firing", "recovered"], "\n".join(
            each["title"] for each in world.receiver.got
        )
        assert len({each["id"] for each in alerts}) == 2
        assert len({each["incident"] for each in alerts}) == 1
    assert len(world.receiver.got) == 2 * len(world.staged)
    world.until("!document.querySelector('.card') && document.querySelector('h1').innerText.includes('OK')")
    # An answer may be an error before the login, and while there is no supervisor.
    assert [each for each in world.tab.troubles if not each.startswith("Failed to load resource")] == []
