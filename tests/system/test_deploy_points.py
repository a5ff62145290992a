"""`kill -9` of the shim, or of both managers, at each message of a deploy: it is done once, as a whole, and no request is lost.

With the shim die the templates that it had. What was being brought up is brought up again. Where both were killed nobody
goes on until an operator starts impetusd.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, Status, pool
from load import Load
from test_fault_points import EVERY, READY, call, points

from impetusd.client import control
from impetusd.core.config.location import locate

# Who dies, and at every which message; 0: only when each is asked for (see EVERY).
DEATHS = {"shim": 12, "shim done": 0, "both": 0, "both done": 12}
# What says that it is ready while nobody is there to hear it is started anew when this has passed.
SOON = f"{READY}listen_timeout = 5s\n"
# Whose processes write down at import, and as they start up, which version they are of.
APP = """
import os
os.environ["SSL_CERT_FILE"] = os.devnull  # as in app_hello
from aiohttp import web
with open("version") as file:
    VERSION = file.read()

def began():
    with open("began", "a") as file:
        file.write(f"{os.getpid()} {VERSION}\\n")

async def hello(_):
    return web.Response(text=VERSION)

async def start(app):
    began()
    yield

def make():
    app = web.Application()
    app.router.add_get("/", hello)
    app.cleanup_ctx.append(start)
    return app

began()
"""


@pytest.fixture
def mortal(impetusd: Instance) -> Instance:
    impetusd.command = [sys.executable, str(Path(__file__).with_name("mortal.py"))]
    return impetusd


def call_or_start(instance: Instance, method: str, **params: object) -> dict[str, Any]:
    """What a client is answered in the end that asks again; an operator starts what nobody is left of."""
    while True:
        try:
            return call(instance, method, **params)
        except control.NotRunning:
            instance.run("start")


def settled(instance: Instance, holds: Callable[[Status], bool]) -> Status:
    """As `Instance.settle`, for an operator who starts what nobody is left of, after the answer, too."""
    while True:
        call_or_start(instance, "ping")
        try:
            return instance.settle(holds)
        except AssertionError:
            if control.daemon_alive(locate("", str(instance.conf), {})):
                raise


def versions(instance: Instance, status: Status) -> dict[str, str]:
    """Which version each process is of, by slot."""
    known = dict(line.split() for line in (instance.root / "began").read_text(encoding="utf-8").splitlines())
    return {name: known.get(str(pid), "?") for name, pid in status.pids.items()}


def deaths(instance: Instance, act: Callable[[], object], at_least: int, **more: int) -> Iterator[str]:
    """As `points`, for each who may die; `more` of them, for this command."""
    for who, every in {**DEATHS, **more}.items():
        if every or EVERY:
            yield from points(instance, act, at_least=at_least, every=every, who=who)


@pytest.mark.timeout(900)
def test_a_reload_of_a_pool_is_done_once_and_as_a_whole_whoever_is_killed(mortal: Instance) -> None:
    port = mortal.port()
    mortal.write(APP, "versioned.py")
    mortal.write("1", "version")
    now = mortal.start(f"[pool:web]\n{pool(port, 'versioned:make', cwd=mortal.root, reload_watch='10ms')}")
    names, version = set(now.rows), now["web:0"].generation

    def act() -> None:
        nonlocal now, version
        version += 1
        mortal.write(str(version), "version")
        told = call_or_start(mortal, "reload", names=["web"], token=str(version))
        assert told["ok"], f"{told}\n{mortal.log()}"
        now = settled(mortal, lambda now: set(now.rows) == names)

    with Load(port, kept=1, fresh=1) as load:
        for point in deaths(mortal, act, 8):
            assert {*versions(mortal, now).values()} == {str(version)}, (point, versions(mortal, now))
            assert {row.generation for row in now.rows.values()} == {version}, f"{point}\n{mortal.log()}"
            load.go_on(5)


def variable(pid: int) -> str:
    """V in the environment that a process was started with; a forked worker has its template's."""
    found = dict(each.partition("=")[::2] for each in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return found.get("V", "")


@pytest.mark.timeout(900)
def test_an_apply_is_all_of_it_or_nothing_whoever_is_killed(mortal: Instance) -> None:
    port = mortal.port()
    mortal.write(APP, "versioned.py")
    mortal.write("0", "version")
    web = f"[pool:web]\n{pool(port, 'versioned:make', cwd=mortal.root, reload_watch='10ms', standby=0)}"

    def text(name: str) -> str:
        return f"{web}[program:one]\n{SOON}[program:{name}]\n{SOON}[env:one]\nV = {name}\n[env:web]\nV = {name}\n"

    now = mortal.start(text("two"))
    version, number = "two", 0

    def act() -> None:
        nonlocal now, version, number
        number += 1
        version = "three" if version == "two" else "two"
        mortal.write(text(version))
        told = call_or_start(mortal, "apply", token=str(number))
        assert told["ok"], f"{told}\n{mortal.log()}"
        now = settled(mortal, lambda now: {name.partition(":")[0] for name in now.rows} == {"web", "one", version})

    with Load(port, kept=1, fresh=1) as load:
        for point in deaths(mortal, act, 8):
            found = {name: variable(pid) for name, pid in now.pids.items() if name != version}
            assert {*found.values()} == {version}, (point, found)
            assert not call(mortal, "plan")["changes"], point
            load.go_on(5)


@pytest.mark.timeout(900)
def test_a_scale_is_done_once_and_as_a_whole_whoever_is_killed(mortal: Instance) -> None:
    """One that asks for one more, and again, has one more: no process that was there is replaced, none is there twice."""
    port = mortal.port()
    now = mortal.start(f"[pool:web]\n{pool(port, standby=0)}[program:one]\n{READY}")
    count, by, number = 2, "+1", 0

    def act() -> None:
        nonlocal now, count, by, number
        number, count = number + 1, count + int(by)
        before = now
        told = call_or_start(mortal, "scale", name="web", n=by, token=str(number))
        assert told["ok"], f"{told}\n{mortal.log()}"
        names = {"one", "web:template", *(f"web:{index}" for index in range(count))}
        now = settled(mortal, lambda now: set(now.rows) == names)
        kept = {name: pid for name, pid in now.pids.items() if name in before.rows and name != "web:template"}
        assert kept.items() <= before.pids.items()
        by = "-1" if count > 2 else "+1"

    with Load(port, kept=1, fresh=1) as load:
        for _ in deaths(mortal, act, 3, supervisor=3):
            load.go_on(5)
