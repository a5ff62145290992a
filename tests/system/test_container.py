"""impetusd as PID 1 of a namespace, as in a container; and the end that a critical unit makes of all."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import census
import yaml
from instance import COMMAND, Instance, program, wait_for

from impetusd.postgres.temporary import temporary_server

FOLDER = Path(__file__).parents[2] / "conf/container"
IN_OPEN = 0x20  # inotify(7)


class Container:
    """One with nothing but impetusd in it."""

    def __init__(self, instance: Instance, namespace: list[str], *arguments: str) -> None:
        self.out = instance.root / "stdout"
        with open(self.out, "w", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                [*namespace, *COMMAND, "-c", str(instance.conf), "run", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=instance.environ,
            )
        instance._commands.append(self.process)  # type: ignore[arg-type]  # it is cleared away with it
        self.first = wait_for(lambda: [each.pid for each in census.children(self.process.pid)], "PID 1")[0]

    def lines(self) -> list[str]:
        """What was printed, without impetusd's own log."""
        return [line for line in self.out.read_text(encoding="utf-8").splitlines() if " | " in line]

    def wait_line(self, line: str) -> None:
        wait_for(lambda: line in self.lines(), f"{line!r} in {self.out.read_text(encoding='utf-8')}")

    def wait(self) -> int:
        return self.process.wait(45)


def test_pid_1_reaps_strays_prints_what_programs_print_and_obeys_signals(
    impetusd: Instance, namespace: list[str]
) -> None:
    done = [impetusd.root / f"stray-{number}" for number in range(3)]
    strays = " ".join(f"(setsid sh -c 'exec touch {path}' &);" for path in done)
    ini = f"""
[program:parent]
command = sh -c "{strays} echo done; echo trouble >&2; printf unfinished; exec sleep 1000"
[program:json]
command = sh -c "echo as an object; exec sleep 1000"
log_format = json
[program:filed]
command = sh -c "echo into a file; exec sleep 1000"
out_file = ${{BASE_DIR}}/filed.log
"""
    impetusd.write(ini)
    container = Container(impetusd, namespace)
    container.wait_line("parent | done")
    container.wait_line("parent | trouble")
    wait_for(lambda: all(path.exists() for path in done), "the strays' work")
    wait_for(lambda: not [each for each in census.children(container.first) if each.zombie], "the strays to be reaped")
    wait_for((impetusd.root / "filed.log").exists, "the file that the INI names")
    told = wait_for(
        lambda: [line for line in container.out.read_text().splitlines() if line.startswith("{")], "a line of JSON"
    )
    assert [(each["name"], each["line"]) for each in map(json.loads, told)] == [("json", "as an object")]
    assert "container" in impetusd.run("logs", "parent", code=1).err
    impetusd.write(ini + "[program:new]\ncommand = sh -c 'echo here I am; exec sleep 1000'\n")
    os.kill(container.first, signal.SIGHUP)
    container.wait_line("new | here I am")
    os.kill(container.first, signal.SIGTERM)
    assert container.wait() == 0
    assert "parent | unfinished" in container.lines()
    assert not [line for line in container.lines() if line.startswith("filed")]
    assert [path.name for path in (impetusd.root / "var/log").iterdir()] == []


def test_a_signal_that_comes_while_it_is_only_starting_is_not_lost(impetusd: Instance, namespace: list[str]) -> None:
    """The kernel drops what PID 1 has no handler for; it is kept from when the INI file is read."""
    impetusd.write("[program:p]\ncommand = sleep 1000\n")
    libc = ctypes.CDLL(None, use_errno=True)
    opened = libc.inotify_init1(os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(opened, os.fsencode(impetusd.conf), IN_OPEN) >= 0
        container = Container(impetusd, namespace)
        os.read(opened, 4096)
        os.kill(container.first, signal.SIGTERM)
        assert container.wait() == 0
    finally:
        os.close(opened)


def test_the_configuration_of_the_container_is_fine(impetusd: Instance) -> None:
    said = impetusd.run("check", FOLDER / "impetusd.ini", env={"DATABASE_URL": "postgresql://db/shop"}).out
    assert "2 units (web, jobs), 1 timer (maintenance), 1 health check (web-ready)" in said


def test_a_container_runs_the_pool_the_jobs_and_the_timers(impetusd: Instance, namespace: list[str]) -> None:
    """As in the image: PID 1, the same INI file but for its paths and port, a database that is another's."""
    port = impetusd.port()
    ini = (FOLDER / "impetusd.ini").read_text()
    ini = ini.replace("/var/impetusd", str(impetusd.root / "var")).replace("0.0.0.0:8080", f"127.0.0.1:{port}")
    impetusd.write(ini)
    with temporary_server() as url:
        impetusd.environ["DATABASE_URL"] = url
        container = Container(impetusd, namespace)

        def migrated() -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20) as response:
                return bool(json.loads(response.read())["database"]["migrated"])

        for unit in ("web:0", "jobs:0"):
            wait_for(lambda unit=unit: f"{unit}: RUNNING" in container.out.read_text(), container.out.read_text)
        wait_for(migrated, "the schema to be made")
        assert "maintenance: " in impetusd.run("trigger", "maintenance").err
        wait_for(lambda: "maintenance | vacuum sessions" in container.out.read_text(), container.out.read_text)
        os.kill(container.first, signal.SIGTERM)
        assert container.wait() == 0


def test_the_compose_file_fits_the_image() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    image = (FOLDER / "Containerfile").read_text()
    app, db = services["app"], services["db"]
    assert int(db["image"].rpartition(":")[2]) >= 15
    assert (FOLDER.parents[1] / app["build"]["dockerfile"]).samefile(FOLDER / "Containerfile")
    assert app["environment"]["DATABASE_URL"].endswith(f"@db/{db['environment']['POSTGRES_DB']}")
    assert f"VOLUME {app['volumes'][0].partition(':')[2]}\n" in image
    assert f"EXPOSE {app['ports'][0].rpartition(':')[2]}\n" in image
    assert json.dumps(app["healthcheck"]["test"][1:]) in image


CRITICAL = """
[program:heart]
command = {}
critical = yes
max_restarts = 0
depends_on = base
[program:base]
command = {}
wait_ready = yes
kill_timeout = 1h
"""


def test_a_critical_unit_that_is_given_up_ends_all_of_it_with_a_status_of_its_own(impetusd: Instance) -> None:
    notes = impetusd.root / "notes"
    impetusd.write(CRITICAL.format("false", program("note_times", notes, "base")))
    impetusd.finish(impetusd.popen("run"), 69)
    assert notes.read_text().split() == ["base", "started", "base", "stopped"]
    impetusd.says("stopping everything: heart:0 is FATAL and has critical = yes")


def test_the_status_outlives_a_supervisor_that_dies_over_it(impetusd: Instance) -> None:
    slow, may_end = impetusd.root / "slow", impetusd.root / "may_end"
    impetusd.write(CRITICAL.format("sleep 1000", program("slow_stop", may_end, slow)))
    process = impetusd.popen("run")
    impetusd.wait_state_of_daemon("heart", "RUNNING")
    status = impetusd.status()
    impetusd.kill(status["heart"].pid)
    impetusd.says("base:0: STOPPING")
    os.kill(status.supervisor, signal.SIGKILL)
    may_end.touch()
    impetusd.finish(process, 69)
    assert slow.exists()


def test_what_is_critical_is_not_tried_again(impetusd: Instance) -> None:
    impetusd.write("[program:p]\ncommand = false\ncritical = yes\nretry_after = 1h\n")
    assert "keep one of them" in impetusd.run("check", code=2).out
