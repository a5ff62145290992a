"""Process managers side by side: each runs the same small programs in a folder of its own, by its own commands.

A program's kind determines what it does; it reports itself that it runs: it adds its pid and the time of its first
instruction to a file beside its binary. So no manager is asked, and all are measured alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench_base import IMPETUSD, compile_c
from bench_install import S6_SUPERVISE, Peers

from impetusd.linux import proc

PATIENCE = 30.0  # seconds until something counts as never done
STARTED_WITHIN = 60.0  # 500 programs, by supervisord, on a busy machine
SOURCE = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static void late(int number) { sleep(3); _exit(0); }
static void say(struct timespec t) {
    char path[4096] = {0}, line[40];
    if (readlink("/proc/self/exe", path, sizeof path - 8) < 0) _exit(1);
    int fd = open(strcat(path, ".ran"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    snprintf(line, sizeof line, "%010d %010ld.%09ld\n", getpid(), t.tv_sec, t.tv_nsec);
    if (write(fd, line, 32) != 32) _exit(1);
    close(fd);
}
int main(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    if (KIND == SLOW) signal(SIGTERM, late), signal(SIGINT, late);
    if (KIND == DEAF) signal(SIGTERM, SIG_IGN), signal(SIGINT, SIG_IGN);
    say(t);
    if (KIND == PARENT && fork() == 0) { setsid(); if (fork()) _exit(0); say(t); }
    if (KIND == LEAK) for (;;) { memset(malloc(1 << 20), 1, 1 << 20); usleep(50000); }
    for (;;) pause();
}
"""
KINDS = (
    "IDLE",
    "SLOW",
    "DEAF",
    "PARENT",
    "LEAK",
)  # PARENT: with a daemon of its own, in another session; LEAK: 20 MB/s


class Failed(Exception):
    """A manager did not carry out a request; the text says which."""


def ran(program: Path) -> list[tuple[int, float]]:
    """(pid, monotonic time of its first instruction) of each run so far."""
    with contextlib.suppress(FileNotFoundError):
        return [(int(pid), float(when)) for pid, when in map(str.split, _lines(f"{program}.ran"))]
    return []


def _lines(path: str) -> list[str]:
    with open(path, encoding="ascii") as file:
        text = file.read()
    return text[: len(text) // 32 * 32].splitlines()


def until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Raises Failed when it has not come true in time."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {patience:g} s")
        time.sleep(0.002)


def started(program: Path, count: int) -> float:
    """Wait for that many runs; the monotonic time of the last."""
    until(lambda: _size(f"{program}.ran") >= 32 * count, f"{count} programs started", STARTED_WITHIN)
    return max(when for _, when in ran(program)[:count])


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def descendants(*roots: int) -> list[int]:
    """These processes and all below them that live."""
    processes = proc.snapshot()
    found = proc.descendants([pid for pid in roots if pid in processes], processes, set())
    return [member.pid for member in found]


def below_us() -> list[int]:
    """All live processes that this bench has started: it adopts orphans (PR_SET_CHILD_SUBREAPER)."""
    return [pid for pid in descendants(os.getpid()) if pid != os.getpid()]


def end_all() -> None:
    """Send SIGKILL to all our descendants until none is left."""
    while pids := below_us():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def all_ended(pids: list[int], patience: float = PATIENCE) -> float:
    """Wait until they have ended, zombies included; the monotonic time then. Raises Failed."""
    end = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                stack.callback(os.close, fd)
                if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise Failed(f"not all of {len(pids)} ended within {patience:g} s")
    return time.monotonic()


@dataclass
class Manager:
    """One manager with `count` copies of a program. `stop_s`: seconds after SIGTERM until SIGKILL."""

    peers: Peers
    folder: Path
    count: int = 1
    stop_s: int = 10
    keys: str = ""  # more for each program, in the manager's own words
    name = ""
    process: subprocess.Popen[bytes] | None = None

    def prepare(self, program: str) -> None:
        """`program`: one of KINDS, or the text of a script that says itself that it runs."""
        self.program = self.folder / "program"
        if program in KINDS:
            shutil.copy(self.peers.programs[program], self.program)
        else:
            self.program.write_text(program)
            self.program.chmod(0o755)

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, env=self.env(), capture_output=True, text=True, timeout=PATIENCE * 4, check=False, cwd=self.folder
        )
        if check and done.returncode:
            raise Failed(f"{Path(command[0]).name} exited {done.returncode}: {(done.stderr or done.stdout)[-200:]}")
        return done.stdout

    def env(self) -> dict[str, str]:
        return {**self.peers.env, "HOME": str(self.folder)}

    def daemon(self, *command: str) -> None:
        """In the foreground as our child."""
        with open(self.folder / "daemon.log", "wb") as log:
            self.process = subprocess.Popen(command, env=self.env(), cwd=self.folder, stdout=log, stderr=log, stdin=-3)

    def root(self) -> int:
        """The pid of the daemon."""
        assert self.process is not None
        return self.process.pid

    def own(self) -> list[int]:
        """The manager's own processes."""
        programs = {pid for pid, _ in ran(self.program)}
        return [pid for pid in descendants(self.root()) if pid not in programs]

    def start(self) -> None:
        """The daemon and all programs; need not wait for them."""
        raise NotImplementedError

    def stop(self) -> None:
        """All programs and the daemon; need not wait for them."""
        assert self.process is not None
        self.process.terminate()

    def clear(self) -> None:
        """Once nothing of it runs: what only it knows of outside of its folder."""

    def status(self) -> list[str]:
        """The command that shows all."""
        raise NotImplementedError


class Impetusd(Manager):
    name = "impetusd"

    def env(self) -> dict[str, str]:
        return {**super().env(), "IMPETUSD_CONF": str(self.folder / "impetusd.ini")}

    def start(self) -> None:
        each = f"command = {self.program}\nkill_timeout = {self.stop_s}s\nmax_restarts = 100000\nmin_uptime = 0\n{self.keys}\n"
        ini = "".join(f"[program:p{number}]\n{each}" for number in range(self.count))
        (self.folder / "impetusd.ini").write_text(ini)
        self.run(IMPETUSD, "start")

    def root(self) -> int:
        return int(json.loads(self.run(IMPETUSD, "status", "--json", check=False))["shim"]["pid"])

    def stop(self) -> None:
        self.run(IMPETUSD, "stop", check=False)

    def clear(self) -> None:
        self.run(IMPETUSD, "reap-leftovers", check=False)  # removes its cgroups

    def status(self) -> list[str]:
        return [IMPETUSD, "status"]


class Supervisord(Manager):
    name = "supervisord"

    def start(self) -> None:
        here = self.folder
        head = f"""
[unix_http_server]
file = {here}/sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{here}/sock
[supervisord]
nodaemon = true
user = {os.geteuid()}
logfile = {here}/supervisord.log
pidfile = {here}/supervisord.pid
minfds = 4096
"""
        each = f"command = {self.program}\nautorestart = true\nstopwaitsecs = {self.stop_s}\nkillasgroup = true\n{self.keys}\n"
        text = head + "".join(f"[program:p{number}]\n{each}" for number in range(self.count))
        (here / "supervisord.conf").write_text(text)
        self.daemon(self.peers.need("supervisord"), "-c", f"{here}/supervisord.conf")

    def status(self) -> list[str]:
        return [self.peers.need("supervisorctl"), "-c", f"{self.folder}/supervisord.conf", "status"]


class Circus(Manager):
    name = "circus"

    def start(self) -> None:
        ends = [f"endpoint = ipc://{self.folder}/e\npubsub_endpoint = ipc://{self.folder}/p\n"]
        each = f"cmd = {self.program}\ngraceful_timeout = {self.stop_s}\nstop_children = true\n{self.keys}\n"
        watchers = [f"[watcher:p{number}]\n{each}" for number in range(self.count)]
        (self.folder / "circus.ini").write_text("".join(["[circus]\n", *ends, *watchers]))
        self.daemon(self.peers.need("circusd"), f"{self.folder}/circus.ini")

    def status(self) -> list[str]:
        return [self.peers.need("circusctl"), "--endpoint", f"ipc://{self.folder}/e", "status"]


class Pm2(Manager):
    name = "pm2"

    def env(self) -> dict[str, str]:
        return {**super().env(), "PM2_HOME": f"{self.folder}/pm2", "PM2_DISCRETE_MODE": "true"}

    def start(self) -> None:
        each = {"script": str(self.program), "interpreter": "none", "kill_timeout": self.stop_s * 1000}
        more = json.loads(self.keys or "{}")
        apps = [{"name": f"p{number}", **each, **more} for number in range(self.count)]
        (self.folder / "apps.json").write_text(json.dumps({"apps": apps}))
        self.run(self.peers.need("pm2"), "start", f"{self.folder}/apps.json")

    def root(self) -> int:
        return int((self.folder / "pm2/pm2.pid").read_text())

    def stop(self) -> None:
        self.run(self.peers.need("pm2"), "kill")

    def status(self) -> list[str]:
        return [self.peers.need("pm2"), "list"]


class ByFolder(Manager):
    """Runit and s6: a folder for each program, with what to execute in it."""

    def services(self) -> list[Path]:
        return [self.folder / f"scan/p{number}" for number in range(self.count)]

    def lay_out(self) -> None:
        for service in self.services():
            service.mkdir(parents=True)
            (service / "run").symlink_to(self.program)


class Runit(ByFolder):
    name = "runit"

    def start(self) -> None:
        self.lay_out()
        self.daemon(self.peers.need("runsvdir"), "-P", f"{self.folder}/scan")

    def stop(self) -> None:
        """As its stage 3 does it: each down, killed at the deadline; then the one that would start them again."""
        assert self.process is not None
        self.process.kill()
        command = [self.peers.need("sv"), "-w", str(self.stop_s), "force-shutdown", *map(str, self.services())]
        self.run(*command, check=False)

    def status(self) -> list[str]:
        return [self.peers.need("sv"), "status", *map(str, self.services())]


class S6(ByFolder):
    name = "s6"

    def start(self) -> None:
        self.lay_out()
        for service in self.services():
            (service / "timeout-kill").write_text(f"{self.stop_s * 1000}\n")
        (self.folder / "scan" / S6_SUPERVISE).symlink_to(self.peers.need("s6-supervise"))
        self.daemon(self.peers.need("s6-svscan"), "-c", "1000", f"{self.folder}/scan")

    def status(self) -> list[str]:
        ask = f'for each in {self.folder}/scan/p*; do "$0" "$each"; done'
        return ["/bin/sh", "-c", ask, self.peers.need("s6-svstat")]


MANAGERS: tuple[type[Manager], ...] = (Impetusd, Supervisord, Circus, Pm2, Runit, S6)


def compile_programs(folder: Path) -> dict[str, str]:
    """The path of each kind of program. Raises SystemExit without a C compiler."""
    numbers = "".join(f"#define {kind} {number}\n" for number, kind in enumerate(KINDS))
    if shutil.which("cc") is None:
        raise SystemExit("scripts/bench peers: there is no C compiler (cc); install one, for example Debian's gcc")
    return {
        kind: compile_c(str(folder), kind.lower(), f"#define _GNU_SOURCE\n{numbers}#define KIND {kind}\n{SOURCE}")
        for kind in KINDS
    }


@contextlib.contextmanager
def running(kind: type[Manager], peers: Peers, program: str = "IDLE", **more: object) -> Iterator[Manager]:
    """A started manager, in a folder that is removed afterwards; processes it left are ended."""
    folder = peers.scratch / f"{kind.name}-{time.monotonic_ns()}"
    folder.mkdir()
    manager = kind(peers, folder, **more)  # type: ignore[arg-type]
    before = set(below_us())
    try:
        manager.prepare(program)
        manager.start()
        yield manager
    finally:
        end_new(before)
        manager.clear()
        shutil.rmtree(folder, ignore_errors=True)


def end_new(before: set[int]) -> None:
    """SIGKILL to what has come to be below us since, until nothing is left of it."""
    while pids := [pid for pid in below_us() if pid not in before]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)
