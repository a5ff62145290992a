"""`impetusd import --take-over` of a real PM2 and a real supervisord: under load, undone where a unit fails, and gone on with."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import census
import pytest
from instance import PROGRAMS, Instance
from load import Load, ask
from waiting import wait_for

from impetusd.interop.takeover.manager import ManagerFault, Was
from impetusd.interop.takeover.supervisord import Supervisord

PACKAGES = Path(__file__).parents[2] / ".node" / "node_modules"
PM2 = PACKAGES / ".bin" / "pm2"
SUPERVISORD = f"{os.path.dirname(sys.executable)}/supervisord"
PATIENCE = 300.0  # seconds for a whole take-over on a busy machine

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node in PATH")
needs_pm2 = pytest.mark.skipif(not PM2.exists(), reason="the packages are not there: scripts/setup-node")


class TakeOver:
    """The command, again and again with the same words."""

    def __init__(self, impetusd: Instance, file: Path, **env: str) -> None:
        self._impetusd = impetusd
        self._words = ("import", file, "-o", impetusd.conf, "--take-over", "--yes")
        self._env = env

    def begin(self) -> subprocess.Popen[str]:
        return self._impetusd.popen(*self._words, env=self._env)

    def end(self, process: subprocess.Popen[str], code: int) -> str:
        """What it says on both streams."""
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"{out}{err}\n{self._impetusd.log()}"
        assert "Traceback" not in err, err
        return out + err

    def __call__(self, code: int = 0) -> str:
        return self.end(self.begin(), code)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Of the old manager: a marker of its own, for what it starts is no part of the instance yet."""
    with tempfile.TemporaryDirectory(prefix="imps-old", dir="/tmp") as name:
        yield Path(name)


def of_program(path: Path) -> list[int]:
    """Every process on the host that runs this file."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes()
                if os.fsencode(path) in words and b"import\0" not in words:
                    found.append(int(name))
    return sorted(found)


class Pm2:
    """A PM2 of its own home."""

    def __init__(self, root: Path) -> None:
        self.env = {
            "PATH": f"{PM2.parent}:/usr/local/bin:/usr/bin:/bin",
            "PM2_HOME": f"{root}/pm2",
            "PM2_DISCRETE_MODE": "true",
            "HOME": str(root),
            "TMPDIR": str(root),
        }

    def run(self, *words: object) -> str:
        done = subprocess.run(
            [PM2, *map(str, words)], env=self.env, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE
        )
        return done.stdout

    def apps(self) -> dict[str, list[tuple[str, int]]]:
        """name → state and pid of each."""
        found: dict[str, list[tuple[str, int]]] = {}
        for each in json.loads(self.run("jlist").splitlines()[-1]):
            found.setdefault(each["name"], []).append((each["pm2_env"]["status"], each["pid"]))
        return found

    @property
    def pid(self) -> int:
        return int(Path(self.env["PM2_HOME"], "pm2.pid").read_text())


@pytest.fixture
def pm2() -> Iterator[Pm2]:
    with folder() as root:
        found = Pm2(root)
        try:
            yield found
        finally:
            found.run("kill")


@pytest.mark.timeout(900)  # each command of PM2's is a Node of its own
@needs_node
@needs_pm2
def test_a_pm2_under_load(impetusd: Instance, pm2: Pm2) -> None:
    server = impetusd.root / "server.cjs"
    shutil.copy(PROGRAMS / "take_over" / "server.cjs", server)
    ports = {name: impetusd.port() for name in ("api", "web", "shop", "bare")}
    of_node: dict[str, Any] = {"script": str(server), "kill_timeout": 30000}
    cluster = {**of_node, "exec_mode": "cluster", "instances": 2}
    apps = [
        {"name": "worker", "script": "sleep", "args": "1000", "interpreter": "none"},
        {"name": "api", **of_node, "env": {"PORT": ports["api"]}},
        {"name": "web", **cluster, "env": {"PORT": ports["web"]}},
        {"name": "shop", **cluster, "env": {"PORT": ports["shop"]}},
        {
            "name": "bare",
            "script": str(PROGRAMS / "take_over" / "bare.py"),
            "args": str(ports["bare"]),
            "interpreter": sys.executable,
        },
        {"name": "idle", "script": "sleep", "args": "1000", "interpreter": "none", "autostart": False},
    ]
    file = impetusd.write(json.dumps({"apps": apps}), "ecosystem.json")
    pm2.run("start", file)
    pm2.run("save")
    for port in ports.values():
        wait_for(functools.partial(_asks, port), "every server", apart=0.05)
    before = pm2.apps()
    take_over = TakeOver(impetusd, file, **{name: pm2.env[name] for name in ("PATH", "PM2_HOME")})
    loads = [Load(ports[name], kept=1, fresh=1) for name in ("api", "web", "shop")]
    with contextlib.ExitStack() as stack:
        for load in loads:
            stack.enter_context(load)

        (impetusd.root / f"broken-{ports['shop']}").touch()
        said = take_over(1)
        assert "shop was not moved: " in said, said
        assert "moved: worker, api, web; not moved: shop, bare" in said, said
        after = pm2.apps()
        assert after["shop"] == before["shop"], "it was never stopped"
        assert after["bare"] == before["bare"]
        assert {name: {state for state, _ in after[name]} for name in ("worker", "api", "web", "idle")} == {
            name: {"stopped"} for name in ("worker", "api", "web", "idle")
        }
        rows = {row.name: row.state for row in impetusd.status().rows.values()}
        assert {name for name, state in rows.items() if state == "RUNNING"} == {"worker", "api", "web:0", "web:1"}

        (impetusd.root / f"broken-{ports['shop']}").unlink()
        said = take_over()
        assert "Everything was moved. PM2 has no programs left." in said, said
        for load in loads:
            load.go_on(20)
    assert pm2.apps() == {}
    assert census.children(pm2.pid) == []
    assert json.loads(Path(pm2.env["PM2_HOME"], "dump.pm2").read_text()) == []
    status = impetusd.status()
    rows = {row.name: row.state for row in status.rows.values()}
    assert rows == {
        **dict.fromkeys(("worker", "api", "web:0", "web:1", "shop:0", "shop:1", "bare"), "RUNNING"),
        "idle": "STOPPED",
    }
    assert of_program(server) == sorted(
        pid for name, pid in status.pids.items() if name.split(":")[0] in {"api", "web", "shop"}
    )
    assert impetusd.discrepancy(status) == ""


class OldSupervisord:
    """A supervisord with these programs."""

    def __init__(self, root: Path, programs: str) -> None:
        self.file = root / "supervisord.conf"
        self.file.write_text(
            f"[supervisord]\nlogfile={root}/supervisord.log\npidfile={root}/supervisord.pid\nchildlogdir={root}\n"
            f"[unix_http_server]\nfile={root}/supervisor.sock\nusername=u\npassword=secret-word\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n" + programs
        )
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(root), "TMPDIR": str(root)}
        self.process = subprocess.Popen(
            [SUPERVISORD, "-n", "-c", str(self.file)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self._answers, "supervisord", apart=0.05)

    def _answers(self) -> bool:
        try:
            self.client = Supervisord(f"unix://{self.file.parent}/supervisor.sock", "u", "secret-word")
        except ManagerFault:
            return False
        return True

    def states(self) -> dict[str, Was]:
        return {each.id: each.was for each in self.client.processes()}

    def pids(self) -> dict[str, int]:
        return {each.id: each.pid for each in self.client.processes()}

    def settle(self) -> dict[str, int]:
        wait_for(lambda: set(self.states().values()) == {Was.RUNNING}, self.states, apart=0.05)
        return self.pids()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


@pytest.fixture
def supervisord() -> Iterator[Callable[[str], OldSupervisord]]:
    with contextlib.ExitStack() as stack:

        def run(programs: str) -> OldSupervisord:
            found = OldSupervisord(stack.enter_context(folder()), programs)
            stack.callback(found.end)
            return found

        yield run


def program(name: str, command: str, *keys: str) -> str:
    return "\n".join([f"[program:{name}]", f"command={command}", "startsecs=0", *keys, ""])


@pytest.mark.timeout(600)
@needs_node
def test_a_supervisord_of_twelve_programs(impetusd: Instance, supervisord: Callable[[str], OldSupervisord]) -> None:
    server = impetusd.root / "server.cjs"
    shutil.copy(PROGRAMS / "take_over" / "server.cjs", server)
    port, own = impetusd.port(), impetusd.port()
    programs = [
        program("site", f"node {server}", f"environment=PORT={port}", f"directory={impetusd.root}"),
        program("pair", "sleep 1000", "numprocs=2", "process_name=%(program_name)s_%(process_num)02d"),
        program("bare", f"{sys.executable} {PROGRAMS / 'take_over' / 'bare.py'} {own}"),
        program(
            "fussy",
            "sh -c 'test ! -e broken -o -z \"$IMPETUSD_NAME\" && exec sleep 1000'",
            "startsecs=1",
            f"directory={impetusd.root}",
        ),
        *(program(f"job{number}", "sleep 1000") for number in range(8)),
        "[group:jobs]\nprograms=job0,job1\n",
    ]
    old = supervisord("".join(programs))
    before = old.settle()
    assert len(before) == 13
    for each in (port, own):
        wait_for(functools.partial(_asks, each), "both servers", apart=0.05)
    take_over = TakeOver(impetusd, old.file)
    with Load(port, kept=1, fresh=1) as load:
        (impetusd.root / "broken").touch()
        said = take_over(1)
        assert "moved: site, pair, bare; not moved: fussy, job0, " in said, said
        now = old.pids()
        assert old.states()["fussy:fussy"] is Was.RUNNING
        assert now["fussy:fussy"] != before["fussy:fussy"], "it was stopped, and started again"
        assert {name: pid for name, pid in now.items() if "job" in name} == {
            name: pid for name, pid in before.items() if "job" in name
        }
        assert {name for name, was in old.states().items() if was is Was.STOPPED} == {
            "site:site",
            "pair:pair_00",
            "pair:pair_01",
            "bare:bare",
        }
        assert impetusd.status()["fussy"].state == "STOPPED"

        (impetusd.root / "broken").unlink()
        said = take_over()
        assert "Everything was moved. supervisord has no programs left." in said, said
        load.go_on(20)
    assert old.states() == {}
    assert census.children(old.process.pid) == []
    status = impetusd.settle()
    assert len(status.rows) == 13
    assert of_program(server) == [status["site"].pid]
    assert "secret-word" not in impetusd.log()


class Door:
    """A port that a unit's readiness asks for, open or not."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._sock: socket.socket | None = None

    def open(self) -> None:
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind(("127.0.0.1", self.port))
        self._sock.listen(100)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()


@pytest.mark.timeout(600)
def test_interrupted_and_killed_in_the_middle(impetusd: Instance, supervisord: Callable[[str], OldSupervisord]) -> None:
    door = Door(impetusd.port())
    old = supervisord(program("first", "sleep 1000") + program("slow", "sleep 1000") + program("last", "sleep 1000"))
    before = old.settle()
    impetusd.run("import", old.file, "-o", impetusd.conf, code=None)
    text = impetusd.conf.read_text().replace(
        "[program:slow]", f"[program:slow]\nready = tcp:127.0.0.1:{door.port}\nlisten_timeout = 10m"
    )
    impetusd.conf.write_text(text)
    take_over = TakeOver(impetusd, old.file)

    def begin() -> subprocess.Popen[str]:
        """Wait until slow is stopped there, and starts here."""
        process = take_over.begin()
        wait_for(
            lambda: process.poll() is not None or old.states()["slow:slow"] is Was.STOPPED,
            "a stop",
            PATIENCE,
            apart=0.05,
        )
        assert process.poll() is None, take_over.end(process, 0)
        impetusd.wait_state("slow", "STARTING")
        return process

    process = begin()
    process.send_signal(signal.SIGINT)
    said = take_over.end(process, 130)
    assert "slow was not moved: interrupted\n" in said, said
    assert old.states() == {"first:first": Was.STOPPED, "slow:slow": Was.RUNNING, "last:last": Was.RUNNING}
    assert impetusd.status()["slow"].state == "STOPPED"

    process = begin()
    process.kill()
    process.communicate()
    assert impetusd.status()["slow"].state == "STARTING", "nobody has stopped it"
    door.open()
    said = take_over()
    door.close()
    assert "Everything was moved." in said, said
    assert old.states() == {}
    assert len(impetusd.settle().rows) == len(before)


@pytest.mark.timeout(600)
@needs_node
def test_killed_while_both_serve(impetusd: Instance, supervisord: Callable[[str], OldSupervisord]) -> None:
    server = impetusd.root / "server.cjs"
    shutil.copy(PROGRAMS / "take_over" / "server.cjs", server)
    port = impetusd.port()
    old = supervisord(program("site", f"node {server}", f"environment=PORT={port}", f"directory={impetusd.root}"))
    pid = old.settle()["site:site"]
    take_over = TakeOver(impetusd, old.file)
    wait_for(lambda: _asks(port), "the old server", apart=0.05)
    with Load(port, kept=0, fresh=2) as load, socket.create_connection(("127.0.0.1", port)) as kept:
        assert ask(kept, keep=True)[0] == str(pid)
        process = take_over.begin()
        # For as long as this connection is open, up to some seconds, both run; killed later, it is another place.
        wait_for(lambda: process.poll() is not None or set(load.answers) - {str(pid)}, "ours to answer", PATIENCE)
        process.kill()
        process.communicate()
        kept.close()
        take_over()
        load.go_on(20)
    assert old.states() == {}
    assert of_program(server) == [impetusd.settle()["site"].pid]


def _asks(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.recv(5) == b"HTTP/"
    return False
