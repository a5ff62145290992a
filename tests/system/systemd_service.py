"""One service of impetusd under the systemd of a namespace, driven as an administrator drives it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from instance import COMMAND, Status
from systemd_namespace import ROOT, Missing, Namespace
from waiting import wait_for

from impetusd.client import control
from impetusd.core.config.location import Paths

SHIPPED = ROOT / "conf" / "systemd"
ETC = "/etc/systemd/system"
IMPETUSD = "/usr/bin/impetusd"  # what the shipped units execute
NOBODY = "65534"
HOME = {"HOME": "/srv/home", "XDG_RUNTIME_DIR": "/run/home"}
SLEEPER = "[program:p]\ncommand = sleep 300\nmin_uptime = 10ms\n"


def shipped(name: str) -> str:
    return (SHIPPED / name).read_text(encoding="utf-8")


def booted() -> Iterator[Namespace]:
    """A host that has just booted, with the shipped units; skips the test where there cannot be one. For a fixture."""
    files = {
        IMPETUSD: Path(COMMAND[0]).read_text(encoding="utf-8"),
        "/etc/impetusd/impetusd.ini": SLEEPER,
        f"{ETC}/impetusd.service": shipped("impetusd.service"),
        f"{ETC}/impetusd@.service": shipped("impetusd@.service"),
        f"{ETC}/impetusd-leftovers.service": shipped("impetusd-leftovers.service"),
        f"{ETC}/impetusd-leftovers@.service": shipped("impetusd-leftovers@.service"),
    }
    try:
        with Namespace(files, wants=["impetusd.service"]) as host:
            yield host
    except Missing as why:
        pytest.skip(str(why))


class Service:
    """One service of impetusd, its INI file and its unit."""

    def __init__(self, host: Namespace, name: str, unit: str, conf: str) -> None:
        self.host = host
        self.name = name
        self.unit = unit
        self.conf = conf
        self.folder = f"/srv/{name}"  # what its programs write

    def write(self, ini: str) -> None:
        """Write its INI, with the directories that the template makes."""
        own = {"run_dir": "/run/impetusd", "state_dir": "/var/lib/impetusd", "log_dir": "/var/log/impetusd"}
        head = "".join(f"{key} = {path}-{self.name}\n" for key, path in own.items())
        self.host.write(self.conf, f"[impetusd]\n{head}{ini}")
        self.host.path(self.folder).mkdir(parents=True, exist_ok=True)
        self.host.path(self.folder).chmod(0o777)

    def drop_in(self, text: str) -> None:
        """Change its unit as an administrator does."""
        self.host.write(f"{ETC}/{self.unit}.d/test.conf", text)
        self.host.run("systemctl", "daemon-reload")

    def systemctl(self, verb: str, code: int = 0) -> str:
        return self.host.run("systemctl", verb, self.unit, code=code)

    def start(self, ini: str) -> Status:
        self.write(ini)
        self.systemctl("start")
        return self.status()

    def run(self, *words: str, code: int | None = 0) -> str:
        """A command of impetusd on its INI, typed as root on this host."""
        return self.host.run(IMPETUSD, "-c", self.conf, *words, code=code)

    def status(self) -> Status:
        """Asked in this process, as Instance.status is; by the command where nobody answers at once."""
        run, state, log = (
            f"{self.host.path(f'/{each}/impetusd-{self.name}')}" for each in ("run", "var/lib", "var/log")
        )
        try:
            return Status(control.call(Paths(self.conf, "/", run, state, log), "status", {"names": []}))
        except control.ControlError:
            text = self.run("status", "--json", code=None)
            return Status(json.loads(text[text.find("{") :]))  # it may say first what it waits for

    def all_running(self) -> bool:
        """Whether a daemon answers, and everything runs."""
        try:
            return self.status().all_running
        except ValueError:  # the command had nothing to show
            return False

    def show(self, name: str) -> str:
        """A property, as systemd has it."""
        return self.host.run("systemctl", "show", "--value", f"--property={name}", self.unit).strip()

    def wait_shown(self, name: str, value: str) -> None:
        wait_for(lambda: self.show(name) == value or not self.show(name), f"{name} of {self.unit} to be {value}")
        assert self.show(name) == value

    def kill(self, pid: int, number: int) -> None:
        self.host.run("kill", f"-{number}", str(pid))

    def written(self, name: str) -> str:
        """A file in its folder; "" while there is none."""
        try:
            return self.host.path(f"{self.folder}/{name}").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def environ(self, pid: int) -> dict[str, str]:
        text = self.host.path(f"/proc/{pid}/environ").read_text(encoding="utf-8")
        return dict(each.split("=", 1) for each in text.split("\0") if each)  # type: ignore[misc]  # each has a "="

    def cgroup(self, pid: int) -> str:
        """The cgroup of a process, as it is seen from out here."""
        text = self.host.path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
        return next(line[3:] for line in text.splitlines() if line.startswith("0::"))

    def journal(self) -> list[dict[str, Any]]:
        text = self.host.run("journalctl", "--sync", "--quiet") + self.host.run(
            "journalctl", "--no-pager", "-o", "json", "--unit", self.unit
        )
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def leftovers(self) -> list[str]:
        """What there still is of it though it should have gone: processes, cgroups, sockets."""
        texts = [
            text for text in self.host.processes().values() if "reap-leftovers --after" not in text
        ]  # looks itself
        found = [text for text in texts if self.conf in text or self.folder in text]
        # Walked, not globbed: cgroups go while one looks, and os.walk passes over what is gone.
        below = [path for path, _, _ in os.walk(self.host.path("/sys/fs/cgroup")) if Path(path).name == self.unit]
        files = self.host.path(f"/run/impetusd-{self.name}").glob("*")
        return found + [str(path) for path in (*below, *files)]


def served(host: Namespace, request: pytest.FixtureRequest) -> Iterator[Service]:
    """An instance of the shipped template with a name of its own; stopped afterwards, and nothing of it left. For a fixture."""
    name = f"t{zlib.crc32(request.node.nodeid.encode()):08x}"
    own = Service(host, name, f"impetusd@{name}.service", f"/etc/impetusd/{name}.ini")
    yield own
    with contextlib.suppress(Exception):
        own.systemctl("stop")
    assert own.leftovers() == [], own.journal()


def as_nobody(host: Namespace) -> Iterator[Callable[..., str]]:
    """Runs a command as an ordinary user, with a home of its own. For a fixture."""
    for folder in Path(sys.base_prefix).parents:  # root's own folder, say: theirs is a copy
        if folder.stat().st_dev == os.stat("/").st_dev:
            host.run("chmod", "o+x", str(folder))
    for folder in HOME.values():
        host.run("install", "-d", "-o", NOBODY, "-g", NOBODY, folder)
    host.write("/srv/home/impetusd.ini", SLEEPER)
    identity = [
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--inh-caps=-all",
        "--ambient-caps=-all",
    ]

    def run(*words: str, code: int = 0) -> str:
        return host.run("setpriv", *identity, *words, code=code, env=HOME)

    yield run
    host.run("rm", "-r", *HOME.values())
