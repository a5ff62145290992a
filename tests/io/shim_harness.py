"""Runs a real shim and plays its supervisor: the test itself speaks on the channel.

The shim starts `shim_stand_in.py`, which passes the channel on over a unix socket. As a context manager a Shim leaves
nothing behind, whatever the test did: no process, zombie, cgroup or descriptor.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable
from typing import Any, Self

from waiting import PATIENCE, wait_for

from impetusd.linux import proc, procfs
from impetusd.linux.cgroup import Cgroups, own_cgroup
from impetusd.shim import leftovers, table, wire

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = os.path.join(os.path.dirname(HERE), "programs")
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_PR_SET_CHILD_SUBREAPER = 36

# Of a `setup`: supervisors come up until `break_supervisors` is called.
BREAKABLE = """
import json, sys
broken = json.loads(sys.argv[2])["base_dir"] + "/broken"
supervision.SUPERVISOR = ("/bin/sh", "-c", 'test -e "$0" && exit 1; exec "$@"', broken, *supervision.SUPERVISOR)
"""

CGROUPS = bool(own_cgroup()) and os.access(f"{own_cgroup()}/cgroup.procs", os.W_OK)


class Ended(AssertionError):
    """The shim closed the channel."""


class Supervisor:
    """One life of the supervisor: its process, and its channel as the test holds it. Ended, if that is over at once."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link  # to the stand-in
        link.settimeout(PATIENCE)
        message, fds, _, _ = socket.recv_fds(link, 64, 1)
        if not message:
            link.close()
            raise Ended("a supervisor ended before it had passed its channel on")
        self.pid = int(message)
        self.channel = socket.socket(fileno=fds[0])
        self.fds: dict[str, int] = {}
        self.page = -1  # where a supervisor notes what it is at
        self.locks: list[int] = []  # a copy of the instance lock, which would outlive the shim
        self.heard: list[dict[str, Any]] = []  # events that nobody waited for yet
        try:
            self.hello = self.wait("hello")
            self.begin = self.wait("begin")
        except Ended:
            self.close()
            raise

    def say(self, *ops: Any, fds: Iterable[int] = ()) -> None:
        """One message. Waits while the channel is full."""
        fds = list(fds)
        while True:
            try:
                wire.send(self.channel, {"ops": list(ops)}, fds)
                return
            except BlockingIOError:
                poll(self.channel, select.POLLOUT, "the shim to read")

    def wait(self, event: str, process: int | None = None) -> dict[str, Any]:
        """The next event of that name (of that process); the others are kept."""
        while True:
            for index, heard in enumerate(self.heard):
                if heard["event"] == event and (process is None or heard["process"] == process):
                    return self.heard.pop(index)
            self._receive(f"{event} of {process}" if process is not None else event)

    def _receive(self, what: str) -> None:
        while True:
            try:
                packet = wire.recv(self.channel)
                break
            except BlockingIOError:
                poll(self.channel, select.POLLIN, f"{what}; heard {self.heard}")
        if packet is None:
            raise Ended(f"the shim closed the channel while the test waited for {what}")
        message, fds = packet
        for event in message["events"]:
            if event["event"] == "fds":
                self.fds.update(zip(event["names"], fds, strict=True))
                self.page = self.fds.pop(wire.PAGE, self.page)
                if "lock" in self.fds:
                    self.locks.append(self.fds.pop("lock"))
            else:
                self.heard.append(event)

    def hang_up(self) -> None:
        """Close every copy of the channel, and live on."""
        self.channel.close()
        self.link.send(b"hang up")

    def behead(self) -> None:
        """End the main thread alone."""
        self.link.send(b"behead")

    def leave(self, code: int = 0) -> None:
        """Exit."""
        self.channel.close()
        self.link.send(str(code).encode())

    def kill(self) -> None:
        """kill -9: nothing that it had not read is ever read."""
        self.unlock()
        self.channel.close()
        os.kill(self.pid, signal.SIGKILL)

    def unlock(self) -> None:
        """Let go of the instance lock."""
        while self.locks:
            os.close(self.locks.pop())

    def close(self) -> None:
        self.unlock()
        self.channel.close()
        self.link.close()
        if self.page >= 0:
            os.close(self.page)
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()


class Shim:
    """A shim in a state directory of its own. `setup` is run in it first (see shim_host.py)."""

    def __init__(self, *, setup: str = "", cgroups: bool = True, command: list[str] | None = None) -> None:
        self._setup = setup if cgroups else f"cgroup.own_cgroup = lambda: ''\n{setup}"
        self._command = command
        self._lives: list[Supervisor] = []
        self.pipes: dict[str, int] = {}
        self._fds: list[int] = []
        self._next = 1

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self.dir = self._folder.name
        # A pipe, into which the shim writes by itself: of a file, which a process of its own writes, lines may be missing yet.
        self._logged, self._errors = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._logged, False)
        self._log = b""
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening.bind(self.path("test.sock"))
        self.listening.listen(16)
        self.listening.settimeout(PATIENCE)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._before = set(proc.children())
        self.paths = {
            "conf": "x.ini",
            "base_dir": self.dir,
            "run_dir": self.path("run"),
            "state_dir": self.path("state"),
        }
        for folder in ("run_dir", "state_dir"):
            os.mkdir(self.paths[folder])
        self.process = self.launch(self._setup)
        self.pid = self.process.pid
        if self._command is None:
            try:
                self.next_life()
            except BaseException:
                self.__exit__()
                raise
        return self

    def succeed(self, *, mode: str = "", fds: Iterable[int] = ()) -> Supervisor:
        """Another shim in the place of one that is dead, with descriptors that are passed on: its first supervisor."""
        self.process.wait(PATIENCE)
        self.process = self.launch(self._setup, mode, fds)
        self.pid = self.process.pid
        return self.next_life()

    def launch(self, setup: str = "", mode: str = "", fds: Iterable[int] = ()) -> subprocess.Popen[bytes]:
        """A shim process on this state directory."""
        command = self._command or [sys.executable, "-I", "-S", f"{HERE}/shim_stand_in.py", self.path("test.sock")]
        setup = f"supervision.SUPERVISOR = {command!r}\n{setup}"
        return subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-X", "utf8", f"{HERE}/shim_host.py", setup, "x.ini"),
                *(json.dumps(self.paths), *([mode] if mode else [])),
            ],
            pass_fds=list(fds),
            env={"PATH": PATH, "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            cwd="/",
        )

    def __exit__(self, *_exc: object) -> None:
        """End everything, children of children of the shim included: they become this process's by adoption."""
        roots = [self.pid]
        while roots:
            for member in proc.descendants(roots, proc.snapshot(), set()):
                proc.send(member, signal.SIGKILL)
            self.process.poll()
            for pid in roots:
                if pid != self.pid:
                    os.waitpid(pid, 0)
            self.process.wait(PATIENCE)
            roots = [pid for pid in proc.children() if pid not in self._before]
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for life in self._lives:
            life.close()
        for fd in [*self.pipes.values(), *self._fds]:
            os.close(fd)
        self.listening.close()
        os.close(self._logged)
        os.close(self._errors)
        if self.cgroup:
            Cgroups.remove(self.cgroup)
        self._folder.cleanup()

    @property
    def cgroup(self) -> str:
        """The shim's cgroup, or '' where it has none."""
        held = os.stat(self.paths["state_dir"])
        path = f"{own_cgroup()}/impetusd-{held.st_dev}-{held.st_ino}"
        return path if own_cgroup() and os.path.isdir(path) else ""

    def path(self, name: str) -> str:
        return os.path.join(self.dir, name)

    def log(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._logged, 65536):
                self._log += part
        return self._log.decode()

    def until_logged(self, text: str) -> None:
        wait_for(lambda: text in self.log(), f"{text!r} in the shim's log")

    # The supervisor's part.

    @property
    def supervisor(self) -> Supervisor:
        return self._lives[-1]

    def next_life(self) -> Supervisor:
        """The supervisor that the shim starts next."""
        try:
            link, _ = self.listening.accept()
        except TimeoutError:
            raise AssertionError(f"the shim started no supervisor: {self.log()}") from None
        self._lives.append(Supervisor(link))
        return self.supervisor

    def break_supervisors(self) -> None:
        """No supervisor comes up any more: see BREAKABLE."""
        open(self.path("broken"), "w").close()

    def unlock(self) -> None:
        """Let go of what every life of the supervisor has of the instance lock."""
        for life in self._lives:
            life.unlock()

    def say(self, *ops: Any, fds: Iterable[int] = ()) -> None:
        self.supervisor.say(*ops, fds=fds)

    def wait(self, event: str, process: int | None = None) -> dict[str, Any]:
        return self.supervisor.wait(event, process)

    def echo(self) -> None:
        """Return when the shim has carried out everything said before: an unstartable child is told of at once."""
        process = self.number()
        self.say({"op": "fork", "process": process, "via": -5, "spec": {"env": {}, "fds": [], "group": "echo"}})
        self.wait("exited", process)
        self.say({"op": "ack", "process": process})

    def number(self) -> int:
        self._next += 1
        return self._next - 1

    def spec(self, argv: list[str], **changes: Any) -> dict[str, Any]:
        return {
            "argv": argv,
            "env": {"PATH": PATH, "INVOCATION_ID": uuid.uuid4().hex},
            "cwd": "/",
            "fds": {"0": "", "1": "", "2": ""},
            "listen": 0,
            "group": f"test-{self._next - 1}",
            "umask": 0o022,
            "nice": 0,
            "oom_score_adj": 0,
            "affinity": [],
            "rlimits": [],
            **changes,
        }

    def spawn(self, *argv: str, **changes: Any) -> int:
        """Start a child; returns its number. `changes` are of its spec."""
        process = self.number()
        self.say({"op": "spawn", "process": process, "spec": self.spec(list(argv), **changes)})
        return process

    def python(self, program: str, *arguments: str, **changes: Any) -> int:
        """Start a program of tests/programs."""
        return self.spawn(sys.executable, "-I", "-S", f"{PROGRAMS}/{program}", *arguments, **changes)

    def started(self, *argv: str, **changes: Any) -> tuple[int, int]:
        """Start a child and wait: its number and its pid."""
        process = self.spawn(*argv, **changes)
        return process, self.wait("spawned", process)["pid"]

    def signal(self, process: int, number: int, scope: str = "main") -> None:
        self.say({"op": "signal", "process": process, "number": number, "scope": scope})

    def ack(self, *processes: int) -> None:
        self.say(*({"op": "ack", "process": process} for process in processes))

    def pipe(self, name: str) -> int:
        """Keep the write end of a new pipe as `name` in the shim's store; returns the read end."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.pipes[name] = reader
        self.say({"op": "keep", "name": name}, fds=[writer])
        os.close(writer)
        return reader

    def output(self, process: int, name: str) -> str:
        """All that a child wrote to the pipe `name`, which must have ended or given the pipe up."""
        self.say({"op": "drop", "name": name})
        text = b""
        while part := read(self.pipes[name], f"the end of what {process} writes"):
            text += part
        return text.decode("utf-8", "surrogateescape")

    def run(self, *argv: str, **changes: Any) -> str:
        """Run a command to its end; its output, which may not be empty unless it succeeded."""
        name = f"out:{self._next}"
        self.pipe(name)
        process = self.spawn(*argv, **{"fds": {"0": "", "1": name, "2": name}, **changes})
        text = self.output(process, name)
        ended = self.wait("exited", process)
        assert ended.get("code") == 0, (ended, text)
        self.ack(process)
        return text

    def watch(self, pid: int) -> int:
        """A pidfd that becomes readable when `pid` has ended."""
        pidfd = os.pidfd_open(pid)
        self._fds.append(pidfd)
        return pidfd

    def until_ended(self, pidfd: int, what: str) -> None:
        poll(pidfd, select.POLLIN, f"the end of {what}")

    # What the kernel shows of the shim.

    def open_fds(self) -> list[str]:
        """Without those that it has open only while it looks at a cgroup, at the end of a round."""
        folder = f"/proc/{self.pid}/fd"
        while True:
            try:
                found = sorted(os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder))
            except FileNotFoundError:  # it closed one between the two calls
                continue
            if not any(each.startswith("/sys/fs/cgroup/") for each in found):
                return found

    def children(self) -> list[int]:
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]


def header(state_dir: object, **parts: Any) -> dict[str, Any]:
    """The first line of a table of the instance in `state_dir`, as a shim of this version writes it."""
    return {
        "version": table.VERSION,
        "boot": procfs.boot_id(),
        "life": "x",
        "instance": leftovers.instance(str(state_dir)),
        "shim": [1, 1],
        "supervisor": None,
        "baseline": {"oom_score": 0, "nofile": [1024, 4096]},
        "shutdown": False,
        **{part: {} for part in table.PARTS},
        **parts,
    }


def poll(source: Any, mask: int, what: str) -> None:
    """Wait until a descriptor is ready."""
    poller = select.poll()
    poller.register(source, mask)
    assert poller.poll(PATIENCE * 1000), f"waited {PATIENCE:g} s for {what}"


def read(fd: int, what: str) -> bytes:
    """What a pipe has next."""
    poll(fd, select.POLLIN, what)
    return os.read(fd, 65536)


def lines(fd: int, count: int) -> list[str]:
    """`count` lines from a pipe."""
    text = b""
    while text.count(b"\n") < count:
        part = read(fd, f"{count} lines; have {text!r}")
        assert part, f"the pipe ended after {text!r}"
        text += part
    return text.decode().split("\n")[:count]


def exists(pid: int) -> bool:
    """Whether there is a process of this number, be it a zombie."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def state(pid: int) -> str:
    """The letter that ps shows: R, S, Z …; '' when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def runs(pid: int) -> bool:
    """Whether there is such a process, and it has not ended: X is a zombie that is just being reaped.

    One that sleeps is R for moments, and D while a page of its file is read.
    """
    return state(pid) not in {"", "Z", "X"}
