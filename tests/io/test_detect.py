"""`init` in a folder with an application: what it is, is read from its files, and nothing of them runs."""

from __future__ import annotations

import json
import sys

import pytest

from impetusd.cli import main
from impetusd.cli.install.detect import Found, detect
from impetusd.core.config.parser import parse
from impetusd.linux.host import this_host

BOOM = "import os\nos.mkdir('ran')\n"
SEEN = [
    ({"main.py": f"{BOOM}from fastapi import FastAPI\napp = FastAPI()\n"}, ("FastAPI", "main:app", "", "main.py")),
    ({"shop/api.py": "import fastapi as f\nservice: object = f.FastAPI(title='x')\n"}, ("FastAPI", "shop.api:service", "", "shop/api.py")),
    ({"wsgi.py": "", "hello.py": "import flask\nsite = flask.Flask(__name__)\n"}, ("Flask", "hello:site", "", "hello.py")),
    (
        {"app.py": "from flask import Flask\ndef create_app(test=None):\n    app = Flask('x')\n    return app\n"},
        ("Flask", "app:create_app", "", "app.py"),
    ),
    (
        {"manage.py": "", "site1/wsgi.py": "from django.core.wsgi import get_wsgi_application as g\napplication = g()\n",
         "site1/asgi.py": "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n"},
        ("Django", "site1.asgi:application", "", "site1/asgi.py"),
    ),
    ({"app.py": "from aiohttp import web\nasync def make_app():\n    return web.Application()\n"}, ("aiohttp", "app:make_app", "", "app.py")),
    ({"package.json": json.dumps({"scripts": {"start": "node server.js --x=1"}})}, ("Node", "", "node server.js --x=1", "package.json")),
    ({"package.json": json.dumps({"scripts": {"start": "next start && rm -rf /"}})}, ("Node", "", "npm start", "package.json")),
    ({"package.json": json.dumps({"main": "lib/x.js"}), "lib/x.js": ""}, ("Node", "", "node lib/x.js", "package.json")),
]  # fmt: skip
UNSEEN = [
    {},
    {"app.py": "FastAPI = print\napp = FastAPI()\n"},
    {"app.py": "from .x import FastAPI\napp = FastAPI()\n"},
    {"app.py": "from fastapi import FastAPI\ndef create_app(settings):\n    return FastAPI()\n"},
    {"app.py": "def (:\n"},
    {"app.py": "\0"},
    {"app.py": "(" * 100_000},
    {"tests/app.py": "from fastapi import FastAPI\napp = FastAPI()\n"},
    {"package.json": "{"},
    {"package.json": "[" * 100_000},
    {"package.json": json.dumps({"main": "x\n[program:evil]", "scripts": [1]})},
    {"package.json": json.dumps({"scripts": {"start": 1}})},
]


def fill(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(("files", "found"), SEEN)
def test_an_application_is_found_and_proposed(tmp_path, monkeypatch, capsys, files, found):
    fill(tmp_path, files)
    assert detect(str(tmp_path)) == Found(*found)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["impetusd", "init"])
    before = set(tmp_path.rglob("*"))
    assert main.main() == 0
    assert f"found {found[0]} in ./{found[3]}: {found[1] or found[2]}\n" in capsys.readouterr().out
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "impetusd.ini"}
    text = (tmp_path / "impetusd.ini").read_text()
    assert len(text.splitlines()) <= 20
    unit = parse(text, str(tmp_path / "impetusd.ini"), {}, this_host()).units["web"]
    assert (unit.app, " ".join(unit.command)) == found[1:3]


@pytest.mark.parametrize("files", UNSEEN)
def test_what_is_none_is_not_taken_for_one(tmp_path, files):
    fill(tmp_path, files)
    assert detect(str(tmp_path)) is None


def test_a_fifo_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "main.py")
    os.mkfifo(tmp_path / "package.json")
    assert detect(str(tmp_path)) is None
