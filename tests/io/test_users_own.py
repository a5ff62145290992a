"""The INI file of an ordinary user, ~/.config/impetusd/impetusd.ini: when it is meant, and where its instance lives."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from fake_supervisor import PONG, FakeSupervisor

from impetusd.cli import place
from impetusd.cli.failure import Failure
from impetusd.core.config import location
from impetusd.core.config.location import Paths, default_dirs
from impetusd.supervisor.api.configuration import Configuration

HOME = {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}
OWN = "/home/u/.config/impetusd/impetusd.ini"
VAR = {"run_dir": "var/run", "state_dir": "var/lib", "log_dir": "var/log"}


@pytest.mark.parametrize(
    ("path", "environ", "dirs"),
    [
        (OWN, HOME, ("/run/user/7/impetusd", "/home/u/.local/state/impetusd", "/home/u/.local/state/log/impetusd")),
        (
            "/home/u/.config/impetusd/api.ini",
            HOME,
            ("/run/user/7/impetusd-api", "/home/u/.local/state/impetusd-api", "/home/u/.local/state/log/impetusd-api"),
        ),
        (
            OWN,
            {"HOME": "/home/u", "XDG_STATE_HOME": "/s"},
            ("/home/u/.local/state/run/impetusd", "/s/impetusd", "/s/log/impetusd"),
        ),
        ("/c/impetusd/impetusd.ini", {**HOME, "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s"}, ("/run/user/7/impetusd", "/s/impetusd", "/s/log/impetusd")),
        (OWN, {**HOME, "XDG_CONFIG_HOME": "relative"}, ("/run/user/7/impetusd", "/home/u/.local/state/impetusd", "/home/u/.local/state/log/impetusd")),
        (OWN, {**HOME, "XDG_CONFIG_HOME": "/c"}, tuple(VAR.values())),
        (OWN, {}, tuple(VAR.values())),
        ("/home/u/.config/impetusd/x/impetusd.ini", HOME, tuple(VAR.values())),
        ("/srv/impetusd/impetusd.ini", HOME, tuple(VAR.values())),
    ],
)  # fmt: skip
def test_its_folders_are_those_that_systemd_gives_user_services(path, environ, dirs):
    assert tuple(default_dirs(path, environ).values()) == dirs
    assert tuple(default_dirs(path, environ, former=True).values()) == tuple(VAR.values())


@pytest.fixture
def tmp_path():
    """A short one: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="imps", dir="/tmp") as path:
        yield Path(path).resolve()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The file, with the home of this test; the current folder is another."""
    monkeypatch.setattr(place, "LOOKED_AT", (*place.LOOKED_AT[:2], f"{tmp_path}/etc/impetusd.ini"))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "IMPETUSD_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "r"))
    file = tmp_path / ".config/impetusd/impetusd.ini"
    file.parent.mkdir(parents=True)
    file.write_text("[program:a]\ncommand = sleep 9\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return file


def test_it_is_meant_when_no_other_is_there(own, tmp_path, monkeypatch):
    monkeypatch.setattr(place.os, "geteuid", lambda: 1000)
    assert place.find_conf(None, os.environ) == str(own)
    assert place.find_conf(None, os.environ, new=True) == str(own)
    for path in (tmp_path / "etc/impetusd.ini", tmp_path / "here/impetusd.ini"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        assert place.find_conf(None, os.environ) == str(path)


def test_root_has_etc(own, monkeypatch):
    monkeypatch.setattr(place.os, "geteuid", lambda: 0)
    with pytest.raises(Failure) as told:
        place.find_conf(None, os.environ)
    assert str(own) not in str(told.value)


def test_a_daemon_in_the_folders_of_former_versions_is_found(own):
    at = place.find(str(own))
    assert at.paths == at.to_be
    assert at.paths.state_dir == f"{os.environ['HOME']}/.local/state/impetusd"
    base = str(own.parent)
    former = Paths(str(own), base, f"{base}/var/run", f"{base}/var/lib", f"{base}/var/log")
    with FakeSupervisor(former, ping={**PONG, "conf": str(own), "file": []}):
        found = place.find(str(own))
    assert (found.paths, found.to_be) == (former, at.to_be)


@pytest.mark.parametrize(
    ("saved", "former"), [({"former": False}, True), ({"former": False, "xdg": True}, False), ({}, True)]
)
def test_what_an_older_version_has_in_force_stays_where_it_is(own, saved, former):
    remembered = {"text": own.read_text(), "environ": dict(os.environ), "disabled": [], "rules": 2, **saved}
    configuration = Configuration(str(own), json.dumps(remembered), in_force=True)
    assert configuration.former is former
    expected = location.locate(own.read_text(), str(own), os.environ, former=former)
    assert configuration.at(0).paths == expected
