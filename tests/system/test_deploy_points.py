"""`kill -9` of the shim at each message of a deploy: it is done once, as a whole, and no request is lost.

With the shim die the templates that it had. What was being brought up is brought up again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from instance import Instance, Status, pool
from load import Load
from test_fault_points import READY, call, points

from impetusd.client import control

# Whose processes write down at import, and as they start up, which version they are of.
APP = """
import os
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


def ask_until_answered(instance: Instance, method: str, **params: object) -> None:
    """Ask as a client does that asks again, and be answered well in the end.

    The supervisor ends to hand over: a shim that is killed in that instant leaves no manager, and an operator starts one.
    """
    while True:
        try:
            told = call(instance, method, **params)
            break
        except control.NotRunning:
            instance.run("start")
    assert told["ok"], f"{told}\n{instance.log()}"


def versions(instance: Instance, status: Status) -> dict[str, str]:
    """Which version each process is of, by slot."""
    known = dict(line.split() for line in (instance.root / "began").read_text(encoding="utf-8").splitlines())
    return {name: known.get(str(pid), "?") for name, pid in status.pids.items()}


@pytest.mark.timeout(400)
def test_a_reload_of_a_pool_is_done_once_and_as_a_whole_whenever_the_shim_is_killed(mortal: Instance) -> None:
    port = mortal.port()
    mortal.write(APP, "versioned.py")
    mortal.write("1", "version")
    now = mortal.start(f"[pool:web]\n{pool(port, 'versioned:make', cwd=mortal.root, reload_watch='10ms')}")
    names, version = set(now.rows), now["web:0"].generation

    def act() -> None:
        nonlocal now, version
        version += 1
        mortal.write(str(version), "version")
        told = call(mortal, "reload", names=["web"], token=str(version))
        assert told["ok"], f"{told}\n{mortal.log()}"
        now = mortal.settle(lambda now: set(now.rows) == names)

    with Load(port, kept=1, fresh=1) as load:
        for point in points(mortal, act, at_least=8, who="shim"):
            assert {*versions(mortal, now).values()} == {str(version)}, (point, versions(mortal, now))
            assert {row.generation for row in now.rows.values()} == {version}, point
            load.go_on(5)


def variable(pid: int) -> str:
    """V in the environment that a process was started with; a forked worker has its template's."""
    found = dict(each.partition("=")[::2] for each in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return found.get("V", "")


@pytest.mark.timeout(400)
def test_an_apply_is_all_of_it_or_nothing_whenever_the_shim_is_killed(mortal: Instance) -> None:
    port = mortal.port()
    mortal.write(APP, "versioned.py")
    mortal.write("0", "version")
    web = f"[pool:web]\n{pool(port, 'versioned:make', cwd=mortal.root, reload_watch='10ms', standby=0)}"

    def text(name: str) -> str:
        return f"{web}[program:one]\n{READY}[program:{name}]\n{READY}[env:one]\nV = {name}\n[env:web]\nV = {name}\n"

    now = mortal.start(text("two"))
    version, number = "two", 0

    def act() -> None:
        nonlocal now, version, number
        number += 1
        version = "three" if version == "two" else "two"
        mortal.write(text(version))
        ask_until_answered(mortal, "apply", token=str(number))
        now = mortal.settle(lambda now: {name.partition(":")[0] for name in now.rows} == {"web", "one", version})

    with Load(port, kept=1, fresh=1) as load:
        for point in points(mortal, act, at_least=8, who="shim"):
            found = {name: variable(pid) for name, pid in now.pids.items() if name != version}
            assert {*found.values()} == {version}, (point, found)
            assert not call(mortal, "plan")["changes"], point
            load.go_on(5)
