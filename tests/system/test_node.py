"""Node servers that know nothing of impetusd, each started, killed, reloaded under load, and a bad version refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from instance import PROGRAMS, Instance, Status, wait_for
from load import Load, fetch

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / ".node"
PAGE = (ROOT / "impetusd" / "help" / "recipes.md").read_text(encoding="utf-8")
RECIPES = {
    name: ini for ini, name in re.findall(r"^```ini\n(\[program:(\w+)\]\n.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
}
PLAIN = """
[program:http]
command   = node server.cjs
cwd       = /srv/node
listen    = 127.0.0.1:8001
instances = 2

[program:pm2]
command    = node server.mjs
cwd        = /srv/node
listen     = 127.0.0.1:8002
wait_ready = yes
instances  = 2

[env:pm2]
NODE_OPTIONS = --no-warnings
"""
FILES = {
    "http": "server.cjs",
    "pm2": "server.mjs",
    "express": "express.js",
    "fastify": "fastify.mjs",
    "next": ".next/standalone/server.js",
    "npm": "server.cjs",
}

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node in PATH")
needs_packages = pytest.mark.skipif(
    not (PACKAGES / "stamp").exists(), reason="the packages are not there: scripts/setup-node"
)


def make(root: Path) -> Path:
    """The folder of the shop, with its packages."""
    folder = root / "node"
    shutil.copytree(PROGRAMS / "shops" / "node", folder)
    (folder / "node_modules").symlink_to(PACKAGES / "node_modules")
    shutil.copytree(PACKAGES / ".next" / "standalone", folder / ".next" / "standalone", symlinks=True)
    return folder


def answers(port: int, count: int = 2) -> set[str]:
    """The pids of those who answer there, when there are so many."""
    found: set[str] = set()

    def all_of_them() -> bool:
        found.add(fetch(port))
        return len(found) >= count

    wait_for(all_of_them, f"{count} to answer")
    return found


def settle(impetusd: Instance, holds: Callable[[Status], bool] = lambda _: True) -> Status:
    """As `Instance.settle`; but npm has processes of its own."""

    def running() -> Status | None:
        status = impetusd.status()
        return status if status.all_running and holds(status) else None

    return wait_for(running, "everything to run")


@needs_node
@needs_packages
def test_every_recipe_is_true(impetusd: Instance) -> None:
    assert all(RECIPES[name].count("\n") <= 10 for name in FILES if name in RECIPES)
    folder = make(impetusd.root)
    ports = {name: impetusd.port() for name in FILES}
    ini = PLAIN + "\n".join(RECIPES[name] for name in FILES if name in RECIPES)
    ini = ini.replace("/srv/", f"{impetusd.root}/")
    for name, recipe in zip(FILES, re.findall(r"127\.0\.0\.1:80\d\d", ini), strict=True):
        ini = ini.replace(recipe, f"127.0.0.1:{ports[name]}")
    ini = re.sub(r"(?m)^(\[program:.*\])$", r"\1\nreload_watch = 100ms\nreload_parallel = 2", ini)
    impetusd.start(ini)
    before = settle(impetusd)
    first = {name: answers(port) for name, port in ports.items()}

    for name in FILES:
        impetusd.kill(before[f"{name}:0"].pid)
    settle(impetusd, lambda now: all(now[f"{name}:0"].restarts == 1 for name in FILES))
    healed = {name: answers(port) for name, port in ports.items()}
    assert all(len(healed[name] & first[name]) == 1 for name in FILES)

    with ExitStack() as stack:
        loads = [stack.enter_context(Load(port, kept=2, fresh=1)) for port in ports.values()]
        for reload in [impetusd.popen("reload", name) for name in FILES]:
            impetusd.finish(reload)
        for load in loads:
            load.go_on(10)
    settle(impetusd)
    after = {name: answers(port) for name, port in ports.items()}
    assert not any(after[name] & healed[name] for name in FILES)
    assert "asked to shut down" in impetusd.run("logs", "pm2").out

    for file in FILES.values():
        (folder / file).write_text("throw new Error('a bad deploy')\n")
    refused = [impetusd.popen("reload", name) for name in FILES]
    for name, reload in zip(FILES, refused, strict=True):
        assert "a bad deploy" in str(impetusd.finish(reload, code=1)), name
        assert answers(ports[name]) == after[name], name
