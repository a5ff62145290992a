"""The app's own venv, of each Python that this host has: nothing of impetusd's is installed there, and nothing gets before it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from instance import PROGRAMS, Instance
from load import fetch

from impetusd import __version__

SHOWS = """
import importlib.util, json, os, sys

import uvloop  # the venv's own
import impetusd
import uvicorn

WHAT = {
    "python": sys.version_info[:2],
    "prefix": sys.prefix,
    "uvloop": uvloop.__file__,
    "version": impetusd.__version__,
    "not ours": [name for name in ("aiohttp", "msgspec", "psutil") if importlib.util.find_spec(name)],
    "PYTHONPATH": os.environ.get("PYTHONPATH"),
    "path": sys.path,
}


async def app(scope, receive, send):
    body = json.dumps(WHAT).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


def pythons() -> dict[str, str]:
    """Those that this host has of the versions that a worker runs with."""
    found = {}
    for minor in range(11, 15):
        name = f"python3.{minor}"
        elsewhere = Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}")
        for path in filter(None, (shutil.which(name), *map(str, elsewhere))):
            if subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
                found[name] = path
                break
    return found


def venv(impetusd: Instance, python: str, name: str) -> Path:
    folder = impetusd.root / name
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "uvloop.py").write_text("from asyncio import new_event_loop\n")
    return folder


def test_it_needs_nothing_but_the_app(impetusd: Instance) -> None:
    impetusd.write(SHOWS, "shows.py")
    ports, ini = {}, ""
    for name, python in pythons().items():
        folder = venv(impetusd, python, name)
        for kind, app in (("asgi", "shows:app"), ("wsgi", "app_wsgi:app")):
            pool = f"{kind}{name.rpartition('.')[2]}"
            ports[pool] = impetusd.port()
            where = impetusd.root if kind == "asgi" else PROGRAMS
            ini += f"[pool:{pool}]\napp = {app}\ninterpreter = {folder}/bin/python\ncwd = {where}\n"
            ini += f"listen = 127.0.0.1:{ports[pool]}\nstandby = 0\n"
    impetusd.write(ini)
    impetusd.run("check", "--host")
    impetusd.run("start")
    for name in pythons():
        minor = int(name.rpartition(".")[2])
        seen = json.loads(fetch(ports[f"asgi{minor}"]))
        assert seen["python"] == [3, minor]
        assert seen["prefix"] == str(impetusd.root / name)
        assert seen["uvloop"].startswith(str(impetusd.root / name)), "what the venv has goes first"
        assert seen["not ours"] == []
        assert seen["PYTHONPATH"] is None
        assert not [each for each in seen["path"] if "impetusd/worker" in each]
        assert seen["version"] == __version__
        assert fetch(ports[f"wsgi{minor}"]).isdecimal()
        assert impetusd.run("env", f"asgi{minor}", "--diff").out.count("PYTHONPATH") == 0


def test_what_does_not_fit_is_found_by_check(impetusd: Instance) -> None:
    folder = venv(impetusd, sys.executable, "venv")
    impetusd.write("import aiohttp\n", "needs_more.py")
    impetusd.write("import time\ntime.sleep(100)\n", "slow.py")
    keys = f"interpreter = {folder}/bin/python\n"
    impetusd.write(
        "".join(
            f"[pool:{name}]\napp = {name}:app\nlisten = 127.0.0.1:{impetusd.port()}\n{keys}{more}"
            for name, more in (("needs_more", ""), ("slow", "listen_timeout = 1s\n"), ("missing", ""))
        )
    )
    assert "is OK" in impetusd.run("check").out, "without --host nothing is imported"
    err = impetusd.run("check", "--host", code=1).err
    assert f"cannot be imported by {folder}/bin/python: ModuleNotFoundError: No module named 'aiohttp'" in err
    assert f"app = slow:app could not be imported by {folder}/bin/python within listen_timeout" in err
    assert "app = missing:app cannot be imported: no module missing in" in err
    assert "3 warnings for this host" in err


@pytest.mark.usefixtures("as_root")
def test_the_import_is_tried_as_the_user_of_the_pool(impetusd: Instance) -> None:
    impetusd.write("import os\nraise RuntimeError(f'tried by {os.getuid()}, {os.getgroups()}')\n", "who.py")
    impetusd.root.chmod(0o755)
    listen = f"listen = 127.0.0.1:{impetusd.port()}\ninterpreter = /usr/bin/python3\n"
    impetusd.write(f"[pool:web]\napp = who:app\nuser = 65534:65533\n{listen}")
    assert "RuntimeError: tried by 65534, [65533]" in impetusd.run("check", "--host", code=1).err
