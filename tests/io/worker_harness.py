"""Runs real worker processes: plays the supervisor (notify socket, channels) and the shim (parent of every worker)."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import commanding
from waiting import readable, wait_for

from impetusd.worker import cells

PROGRAMS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "programs")
ROOT = os.path.dirname(os.path.dirname(PROGRAMS))
PATIENCE = 60.0  # seconds until a test that waits for something gives up
_PR_SET_CHILD_SUBREAPER = 36
HOST = commanding.Host(Path(__file__).with_name("worker_host.py"))
# How a pool may be served, as keyword arguments of Pool: with our libraries, and where none of the compiled ones is there.
SERVED = {
    "aiohttp": {},
    "asgi": {"app": "app_asgi:app"},
    "asgi-pure": {"app": "app_asgi:make_async", "hidden": ("httptools", "uvloop")},
}
_UCRED = struct.Struct("=iII")


class Worker:
    """A process with its output and, unless it is a template, its command channel."""

    def __init__(self, pool: Pool, pid: int, out: str, err: str, channel: socket.socket) -> None:
        self.pool, self.pid, self.channel = pool, pid, channel
        self._files = {"out": out, "err": err}
        self.code: int | None = None  # exit code, or minus the signal

    def tell(self, **command) -> None:
        self.channel.send(json.dumps(command).encode())

    def serve(self, name: str = "web:0") -> Worker:
        self.tell(do="serve", name=name)
        self.until_told("STATUS=serving")
        return self

    def until_told(self, line: str) -> list[str]:
        """The lines of the next notification of this process that contains `line`."""
        return self.pool.until_told(self.pid, line)

    def text(self, stream: str = "err") -> str:
        with open(self._files[stream], encoding="utf-8") as file:
            return file.read()

    def until_written(self, text: str, stream: str = "out") -> None:
        wait_for(lambda: text in self.text(stream), f"{text!r} on {stream}")

    def probe(self, *more: int) -> Client:
        """A connection that is handed to this worker alone; `more` are descriptors that go with it."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.channel, [b'{"do": "probe"}'], [theirs.fileno(), *more])
        return Client(ours)

    def descriptors(self) -> int:
        """How many are open, once every command so far has been carried out."""
        self.tell(do="tell")
        self.until_told("READY=1")
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def signal(self, number: int = signal.SIGTERM) -> Worker:
        os.kill(self.pid, number)
        return self

    def wait(self) -> int:
        if self.code is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                assert readable(pidfd, PATIENCE), f"{self.pid} has not ended: {self.text()}"
            finally:
                os.close(pidfd)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self) -> None:
        if self.code is None:
            self.signal(signal.SIGKILL)
            self.wait()


class Pool:
    """A pool with one listening socket. As a context manager it leaves no process, zombie or descriptor behind."""

    def __init__(
        self,
        *,
        app: str = "app_hello:make",
        unix: bool = False,
        abstract: bool = False,
        hidden: tuple[str, ...] = (),
        **settings,
    ) -> None:
        """`hidden`: modules that its workers cannot import, as if they were not installed."""
        self._hidden = hidden
        self.settings = {
            "app": app,
            "drain_timeout": 1000,
            "kill_timeout": 2000,
            "backlog": 512,
            "pool": "web",
            **settings,
        }
        self._unix, self._abstract = unix, abstract
        self._workers: list[Worker] = []
        self._sockets: list[socket.socket] = []
        self._told: list[tuple[int, list[str]]] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self.page = cells.make()
        # Forked workers become ours when their first parent ends, as they become the shim's.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.listening = self._keep(socket.socket(socket.AF_UNIX if self._unix else socket.AF_INET))
        self.listening.bind(self.path("web.sock") if self._unix else ("127.0.0.1", 0))
        self.listening.listen(self.settings["backlog"])
        self.address = self.listening.getsockname()
        self._notified = self._keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._notified.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notified.settimeout(PATIENCE)
        self.notify_path = f"@impetusd-test-{os.getpid()}-{id(self)}" if self._abstract else self.path("notify.sock")
        self._notified.bind("\0" + self.notify_path[1:] if self._abstract else self.notify_path)
        return self

    def __exit__(self, *_exc: object) -> None:
        for worker in self._workers:
            worker.kill()
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for sock in self._sockets:
            sock.close()
        os.close(self.page)
        self._folder.cleanup()

    def path(self, name: str) -> str:
        return os.path.join(self._folder.name, name)

    def cells(self) -> dict[int, tuple[int, int]]:
        """What stands in the page: pid → phase and count."""
        page = os.pread(self.page, cells.SIZE, 16)
        return {pid: (phase, count) for pid, phase, count, _ in struct.iter_unpack("=4i", page) if pid}

    def run(self, mode: str = "serve", name: str = "web:standby", stdout: int | None = None, **env: str) -> Worker:
        """`python -m impetusd.worker MODE`; executed, unless nobody can tell a fork of worker_host from that."""
        ours, theirs = self._pair()
        out, err = self._output()
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{self._hide()}{ROOT}",
            "IMPETUSD_WORKER": json.dumps(self.settings),
            "IMPETUSD_NAME": name,
            "IMPETUSD_FORK_FD" if mode == "template" else "IMPETUSD_CHANNEL_FD": "4",
            "IMPETUSD_CELLS_FD": "5",
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "web",
            "NOTIFY_SOCKET": self.notify_path,
            **env,
        }
        own = self._hidden or mode not in {"serve", "template"} or "PYTHONFAULTHANDLER" in env
        start = self._execute if own else self._fork
        with open(out, "wb") as out_file, open(err, "wb") as err_file, open(os.devnull, "rb") as nothing, theirs:
            streams = [nothing.fileno(), out_file.fileno() if stdout is None else stdout, err_file.fileno()]
            pid = start(mode, env, [*streams, self.listening.fileno(), theirs.fileno(), self.page])
        return self._add(Worker(self, pid, out, err, ours))

    def _fork(self, mode: str, env: dict[str, str], fds: list[int]) -> int:
        return HOST.fork(dict(enumerate(fds)), argv=["impetusd.worker", mode], cwd=PROGRAMS, env=env)

    def _execute(self, mode: str, env: dict[str, str], fds: list[int]) -> int:
        # Above what the shell and the numbers 3 to 5 need; moved into place by the shell, whose pid stays.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in fds[3:]]
        moves = " ".join([*(f"{at}<&{fd}" for at, fd in enumerate(high, 3)), *(f"{fd}<&-" for fd in high)])
        process = subprocess.Popen(
            ["bash", "-c", f'export LISTEN_PID=$$; exec "$0" -m impetusd.worker "$1" {moves}', sys.executable, mode],
            cwd=PROGRAMS,
            env=env,
            stdin=fds[0],
            stdout=fds[1],
            stderr=fds[2],
            pass_fds=high,
        )
        process.returncode = 0  # reaped here, by its pid, like the forked ones
        for fd in high:
            os.close(fd)
        return process.pid

    def _hide(self) -> str:
        for name in self._hidden:
            os.makedirs(self.path("hidden"), exist_ok=True)
            with open(self.path(f"hidden/{name}.py"), "w", encoding="ascii") as module:
                module.write("raise ImportError(f'{__name__} is not installed here')\n")
        return f"{self.path('hidden')}:" if self._hidden else ""

    def template(self, **env: str) -> Worker:
        template = self.run("template", "web:template", **env)
        template.until_told("READY=1")
        return template

    def ask(self, template: Worker, message: bytes, fds: list[int]) -> dict:
        socket.send_fds(template.channel, [message], fds)
        return json.loads(template.channel.recv(65536))

    def fork(self, template: Worker, name: str = "web:standby", gate: int = -1, **env: str) -> Worker:
        """`gate`: what the worker waits at."""
        ours, theirs = self._pair()
        out, err = self._output()
        request = {"id": name, "env": {"IMPETUSD_NAME": name, **env}, "gate": gate >= 0}
        with open(out, "wb") as out_file, open(err, "wb") as err_file, theirs:
            fds = [out_file.fileno(), err_file.fileno(), theirs.fileno()]
            answer = self.ask(template, json.dumps(request).encode(), [*fds, gate] if gate >= 0 else fds)
        assert answer == {"id": name, "pid": answer.get("pid")}, answer
        return self._add(Worker(self, answer["pid"], out, err, ours))

    def until_told(self, pid: int, line: str) -> list[str]:
        while True:
            for index, (sender, lines) in enumerate(self._told):
                if sender == pid and line in lines:
                    del self._told[index]
                    return lines
            self._receive()

    def fill_notify_queue(self) -> None:
        """Until what we are told next is read, nobody can tell us more."""
        while True:
            # A new one each time: the limit of the sender's buffer may be reached before that of the queue.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                try:
                    sock.sendto(b"X=1", socket.MSG_DONTWAIT, self._notified.getsockname())
                except BlockingIOError:
                    return

    def told(self) -> list[tuple[int, list[str]]]:
        """Every notification that has come and was not waited for."""
        while readable(self._notified, 0):
            self._receive()
        return self._told

    def _receive(self) -> None:
        message, ancillary, _, _ = self._notified.recvmsg(4096, socket.CMSG_SPACE(_UCRED.size))
        self._told.append((_UCRED.unpack(ancillary[0][2])[0], message.decode().split("\n")))

    def client(self) -> Client:
        sock = socket.socket(socket.AF_UNIX if self._unix else socket.AF_INET)
        sock.connect(self.address)
        return Client(sock)

    def get(self, path: str = "/") -> str:
        with self.client() as client:
            return client.get(path).body

    def _add(self, worker: Worker) -> Worker:
        self._workers.append(worker)
        return worker

    def _keep(self, sock: socket.socket) -> socket.socket:
        self._sockets.append(sock)
        return sock

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        return self._keep(ours), theirs

    def _output(self) -> tuple[str, str]:
        number = len(self._workers)
        return self.path(f"{number}.out"), self.path(f"{number}.err")


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: str) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Client:
    """One keep-alive connection that never tries anything again: what fails, fails the test."""

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is connected, and closed with the client."""
        self.socket = sock
        self.socket.settimeout(PATIENCE)
        self._reader = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._reader.close()
        self.socket.close()

    def send(self, path: str, method: str = "GET", *headers: str) -> None:
        self.socket.sendall("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())

    def receive_head(self) -> Answer:
        head = self._reader.readline()
        if not head:
            raise ConnectionError("closed without a response")
        headers = {}
        while (line := self._reader.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return Answer(int(head.split()[1]), headers, "")

    def receive_body(self, answer: Answer) -> Answer:
        body = b""
        if "content-length" in answer.headers:
            body = self._reader.read(int(answer.headers["content-length"]))
        else:
            while size := int(self._reader.readline(), 16):
                body += self._reader.read(size)
                self._reader.readline()
            self._reader.readline()
        answer.body = body.decode()
        return answer

    def receive(self) -> Answer:
        return self.receive_body(self.receive_head())

    def get(self, path: str = "/") -> Answer:
        self.send(path)
        return self.receive()

    def at_end(self) -> bool:
        """Whether the server closes the connection without another byte."""
        try:
            return self._reader.read(1) == b""
        except ConnectionResetError:  # what a unix socket says when something sent was not read
            return True


def frames(text: str) -> list[str]:
    """The files of the tracebacks in `text`."""
    return [os.path.basename(path) for path in re.findall(r'File "([^"]+)"', text)]
