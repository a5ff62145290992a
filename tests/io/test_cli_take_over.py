"""`impetusd import --take-over` where nothing is done: each refusal says why, and leaves no INI file behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from impetusd.cli import take_over

PROGRAM = "[program:x]\ncommand=sleep 1000\n"


@pytest.fixture
def refused(tmp_path, cli, monkeypatch):
    """Write the file, run the command; it must exit with 2, and make no INI. Gives what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PM2_HOME", str(tmp_path / "pm2"))

    def run(name, text, *words):
        Path(name).write_text(text)
        code, out, err = cli("import", name, "--take-over", *words)
        assert code == 2, out + err
        assert "Traceback" not in err
        assert not os.path.exists("made.ini")
        return err

    return run


def test_no_ini_file_named(refused):
    assert "--take-over needs -o FILE" in refused("s.conf", PROGRAM)


def test_neither_is_meant_for_another_import(cli, tmp_path):
    (tmp_path / "s.conf").write_text(PROGRAM)
    assert "are for --take-over" in cli("import", str(tmp_path / "s.conf"), "--dry-run")[2]


def test_supervisord_without_a_server(refused):
    assert "neither [unix_http_server] nor" in refused("s.conf", PROGRAM, "-o", "made.ini")


@pytest.mark.parametrize(
    "server", ["[unix_http_server]\nfile=/nonexistent/s.sock\n", "[inet_http_server]\nport=127.0.0.1:1\n"]
)
def test_no_supervisord_answers(refused, server):
    said = refused("s.conf", PROGRAM + server, "-o", "made.ini")
    assert said.startswith("impetusd: nothing was done: supervisord cannot be reached: ")


def test_no_pm2_runs(refused):
    said = refused("apps.json", json.dumps({"apps": [{"name": "x", "script": "x.js"}]}), "-o", "made.ini")
    assert "nothing was done: no PM2 is running for PM2_HOME" in said


def test_another_managers_file(refused):
    assert "only PM2 and supervisord can be taken over" in refused("Procfile", "web: sleep 1\n", "-o", "made.ini")


def test_two_apps_of_one_name(refused):
    apps = {"apps": [{"name": "x", "script": "x.js"}, {"name": "x", "script": "y.js"}]}
    assert "several programs are called x;" in refused("apps.json", json.dumps(apps), "-o", "made.ini")


@pytest.mark.parametrize(("left", "said"), [(0, "no programs"), (1, "1 program"), (2, "2 programs")])
def test_what_the_old_manager_still_has_is_counted(left, said):
    assert take_over.all_moved("PM2", left) == f"Everything was moved. PM2 has {said} left."


def test_no_program(refused):
    assert "the file has no programs" in refused("s.conf", "[supervisord]\n", "-o", "made.ini")
