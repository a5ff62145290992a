"""The recipes of programs that serve by themselves, each with the real program, in one daemon: started, killed, reloaded."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from instance import PROGRAMS, Instance, wait_for
from lending import Lend
from load import Load, fetch
from waiting import PATIENCE

PAGE = (Path(__file__).parents[2] / "impetusd" / "help" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = {name: ini for ini, name in re.findall(r"^```ini\n(\[\w+:(\w+)\]\n.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)}
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
NEEDS = {  # of Debian, besides what the extra "test" brings
    "gunicorn": (),
    "uvicorn": (),
    "errors": ("bash",),
    "redis": ("redis-server",),
    "celery": ("redis-server",),
    "nginx": ("nginx",),
    "php": ("nginx", "php-fpm8.2"),
}
FOLDERS = ("flask", "starlette", "celery", "nginx", "php")
PORTS = {  # as the recipes and their configurations have them
    "gunicorn": "127.0.0.1:8012",
    "uvicorn": "127.0.0.1:8013",
    "nginx": "127.0.0.1:8014",
    "php": "127.0.0.1:8016",
    "fastcgi": "127.0.0.1:9000",
    "redis": "--port 6379",
}


def lacking(name: str) -> list[str]:
    return [program for program in NEEDS[name] if shutil.which(program, path=PATH) is None]


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(lacking(name)), reason=f"this host has no {' and no '.join(lacking(name))}")


class Town:
    """The daemon, and where its programs answer."""

    def __init__(self, impetusd: Instance) -> None:
        self.impetusd = impetusd
        impetusd.environ["PATH"] = PATH
        impetusd.root.chmod(0o755)  # nginx and php-fpm look into it as www-data
        self.ports = {name: impetusd.port() for name in PORTS}
        for name in FOLDERS:
            shutil.copytree(PROGRAMS / "shops" / name, impetusd.root / name)
        for name in ("redis", "pipeline"):
            (impetusd.root / name).mkdir()
        for file in ("nginx/nginx.conf", "php/fpm.conf"):
            path = impetusd.root / file
            path.write_text(self.here(path.read_text()))
        self.log = impetusd.root / "pipeline" / "app.log"
        self.log.touch()
        os.mkfifo(impetusd.root / "celery" / "go")
        self.broker = f"redis://127.0.0.1:{self.ports['redis']}/0"
        there = [BLOCKS[name] for name in NEEDS if not lacking(name)]
        ini = self.here("\n".join(there))
        if not lacking("celery"):
            ini = ini.replace("[program:celery]\n", "[program:celery]\ndepends_on = redis\n")
            ini += f"[env:celery]\nBROKER = {self.broker}\n"
        impetusd.start(re.sub(r"(?m)^(listen .*)$", r"\1\nreload_watch = 100ms", ini))

    def here(self, text: str) -> str:
        """With this instance's folder and ports."""
        for name, written in PORTS.items():
            text = text.replace(written, re.sub(r"\d+$", str(self.ports[name]), written))
        return text.replace("/srv/", f"{self.impetusd.root}/")

    def kill(self, name: str) -> None:
        """Kill its main process, and wait until it runs again."""
        before = self.impetusd.status()[name]
        assert before.pid is not None
        self.impetusd.kill(before.pid)
        self.runs_again(name, before.restarts)

    def runs_again(self, name: str, restarts: int) -> None:
        self.impetusd.wait_status(lambda now: now[name].state == "RUNNING" and now[name].restarts == restarts + 1)


@pytest.fixture(scope="module", name="town")
def _town(lend: Lend) -> Iterator[Town]:
    with lend(None) as impetusd:
        yield Town(impetusd)


def other_than(port: int, before: set[str]) -> str:
    """The answer of a process that is none of `before`."""
    seen: list[str] = []

    def another() -> bool:
        seen[:] = [fetch(port)]
        return seen[0] not in before

    wait_for(another, "a new process to answer")
    return seen[0]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_recipe_is_short(name: str) -> None:
    assert BLOCKS[name].count("\n") <= 10


@pytest.mark.parametrize(
    ("name", "app"), [("gunicorn", "flask/shop/__init__.py"), ("uvicorn", "starlette/shop/app.py")]
)
def test_a_server_takes_our_socket(town: Town, name: str, app: str) -> None:
    impetusd, port = town.impetusd, town.ports[name]
    slot = f"{name}:0" if name == "uvicorn" else name
    first = fetch(port)
    if name == "gunicorn":
        town.kill(slot)
        other_than(port, {first})
        with Load(port, kept=0, fresh=3) as load:  # its workers keep no connection
            impetusd.run("reload", name)
            load.go_on(10)
    else:
        town.kill(slot)
        impetusd.run("reload", name)
    serves = fetch(port)
    assert serves != first
    before = {slot: pid for slot, pid in impetusd.status().pids.items() if slot.startswith(name)}
    (impetusd.root / app).write_text("raise RuntimeError('a bad deploy')\n")
    assert "a bad deploy" in str(impetusd.run("reload", name, code=1))
    assert before.items() <= impetusd.status().pids.items()
    assert fetch(port).isdecimal()


@needs("nginx")
def test_nginx(town: Town) -> None:
    port = town.ports["nginx"]
    first = fetch(port)
    town.kill("nginx")
    second = other_than(port, {first})
    with Load(port, kept=0, fresh=3) as load:
        town.impetusd.run("signal", "HUP", "nginx")
        other_than(port, {second})
        load.go_on(10)
    assert set(load.answers) >= {second}


@needs("php")
def test_php_fpm(town: Town) -> None:
    port = town.ports["php"]
    first = fetch(port)
    town.kill("php")
    second = other_than(port, {first})
    with Load(port, kept=0, fresh=3) as load:
        town.impetusd.run("signal", "USR2", "php")
        wait_for(lambda: len(load.answers) > 2, "two processes more than before to answer")
        load.go_on(10)
    assert second in load.answers


def redis(port: int, *words: str) -> bytes:
    """The answer to one command."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        return connection.recv(4096)


@needs("redis")
def test_redis_has_its_data_again(town: Town) -> None:
    port = town.ports["redis"]
    assert redis(port, "SET", "kept", "for-ever") == b"+OK\r\n"
    files = town.impetusd.root / "redis" / "appendonlydir"
    wait_for(lambda: any(b"for-ever" in each.read_bytes() for each in files.glob("*.incr.aof")), "it to be written")
    town.kill("redis")
    assert redis(port, "GET", "kept") == b"$8\r\nfor-ever\r\n"


@needs("celery")
def test_celery_ends_its_task_before_it_restarts(town: Town) -> None:
    from celery import Celery  # takes half a second

    impetusd, folder = town.impetusd, town.impetusd.root / "celery"
    with Celery("client", broker=town.broker, backend=town.broker) as client:

        def ask(task: str) -> Callable[[], object]:
            sent = client.send_task(f"shop.celery.{task}")
            return lambda: sent.get(timeout=PATIENCE)

        first = ask("pid")()
        town.kill("celery")
        assert ask("pid")() != first
        under_way = ask("held")
        wait_for((folder / "begun").exists, "the task to begin")
        restart = impetusd.popen("restart", "celery")
        impetusd.wait_state("celery", "STOPPING")
        (folder / "go").write_text("ended")
        impetusd.finish(restart)
        assert under_way() == "ended"
        assert isinstance(ask("pid")(), int)


@needs("errors")
def test_a_pipeline_is_one_thing(town: Town) -> None:
    def write(lines: str) -> None:
        with town.log.open("a") as log:
            log.write(lines)

    def comes_through(word: str) -> None:
        def written() -> bool:
            write(f"INFO {word}\nERROR {word}\n")
            return f"ERROR {word}\n" in town.impetusd.log("errors-out.log")

        wait_for(written, f"{word} to come through")

    comes_through("first")
    town.kill("errors")
    comes_through("second")
    before = town.impetusd.status()["errors"]
    (grep,) = [each for each in town.impetusd.members() if each.command.startswith("grep")]
    town.impetusd.kill(grep.pid)
    write("INFO tail notices\n")
    town.runs_again("errors", before.restarts)
    comes_through("third")
    assert "INFO" not in town.impetusd.log("errors-out.log")


def test_a_migration_runs_before_the_web(impetusd: Instance) -> None:
    port = impetusd.port()
    folder = impetusd.root / "django"
    shutil.copytree(PROGRAMS / "shops" / "django", folder)
    script = folder / "manage.py"
    migrates = script.read_text()
    ini = BLOCKS["migrate"].replace("/srv/", f"{impetusd.root}/").replace("8015", str(port))
    impetusd.write(f"{ini}reload_watch = 100ms\ninstances = 1\nstandby = 0\n")
    script.write_text("raise SystemExit('it cannot')\n")
    assert "it cannot" in str(impetusd.run("start", code=1))
    assert impetusd.status()["web:0"].pid is None
    script.write_text(migrates)
    impetusd.run("start", "migrate")
    impetusd.wait_state("web:0", "RUNNING")
    first = fetch(port)
    assert (folder / "db.sqlite3").stat().st_size > 0

    (folder / "db.sqlite3").unlink()
    with Load(port, kept=1, fresh=2) as load:
        impetusd.run("start", "migrate")
        assert (folder / "db.sqlite3").exists()
        impetusd.run("reload", "web")
        load.go_on(10)
    assert fetch(port) != first
    script.write_text("raise SystemExit('it cannot')\n")
    assert "it cannot" in str(impetusd.run("start", "migrate", code=1))
    assert impetusd.status()["web:0"].state == "RUNNING"
