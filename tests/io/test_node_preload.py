"""impetusd/node/preload.cjs in a real Node, without a daemon: sockets are handed over as a program of impetusd gets them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from impetusd.core.config import node

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node in PATH")
WAIT = 60.0
SLOW = """
const http = require('http')
const server = http.createServer((request, response) => {
  if (request.url === '/slow') {
    console.log('asked')
    process.stdin.once('data', () => { response.end('slow') })
  } else response.end('quick')
})
"""


class Program:
    """A Node with the socket of `listen`, and one to say READY=1 at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.notify.settimeout(WAIT)
        self.child: subprocess.Popen[str] | None = None

    def run(self, script: str, *, ready: str = "listen", gone: bool = False, command: tuple[str, ...] = ()) -> None:
        """Node with `script`, or `command`, and `ready` as the preload knows it. `gone`: the notify socket was made anew."""
        (self.folder / "server.cjs").write_text(script)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.connect(str(self.folder / "notify"))
            if gone:
                self.notify.close()
                (self.folder / "notify").unlink()
                self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self.notify.bind(str(self.folder / "notify"))
                self.notify.settimeout(WAIT)
            fds = self.listener.fileno(), to.fileno()
            listen = {"fd": fds[0], "inode": os.fstat(fds[0]).st_ino, "host": "127.0.0.1", "port": self.port}
            told = {
                "listen": [listen],
                "notify": {"fd": fds[1], "inode": os.fstat(fds[1]).st_ino},
                "ready": ready,
                "signal": "SIGTERM",
                "linger": WAIT,
                "python": sys.executable,
            }
            env = {
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "NODE_OPTIONS": node.options(""),
                "NOTIFY_SOCKET": str(self.folder / "notify"),
                "IMPETUSD_NODE": json.dumps(told),
            }
            self.child = subprocess.Popen(
                command or (str(NODE), "server.cjs"),
                cwd=self.folder,
                env=env,
                pass_fds=fds,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def line(self) -> str:
        """The next that it prints."""
        assert self.child is not None
        assert self.child.stdout is not None
        return self.child.stdout.readline().strip()

    def say(self) -> None:
        assert self.child is not None
        assert self.child.stdin is not None
        self.child.stdin.write("go\n")
        self.child.stdin.flush()

    def stop(self) -> None:
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        assert self.child is not None
        return self.child.wait(WAIT)

    def ask(self, path: str = "/") -> socket.socket:
        """A connection that has sent a request and is kept."""
        sock = socket.create_connection(("127.0.0.1", self.port), WAIT)
        request(sock, path)
        return sock

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
        self.listener.close()
        self.notify.close()


def request(sock: socket.socket, path: str = "/") -> None:
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())


def answer(sock: socket.socket) -> str:
    said = b""
    while b"\r\n\r\n" not in said or not said.endswith((b"0\r\n\r\n", b"slow", b"quick")):
        more = sock.recv(4096)
        assert more, said
        said += more
    return said.decode()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    found = Program(tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize(
    "arguments",
    [
        "PORT",
        "String(PORT)",
        "PORT, '0.0.0.0'",
        "{ port: PORT, host: '::' }",
        "PORT, 'localhost', 5, () => {}",
        "{ fd: FD }",
    ],
)
def test_it_takes_the_socket_of_its_port_and_says_that_it_listens(program: Program, arguments: str) -> None:
    fd = program.listener.fileno()
    program.run(f"{SLOW}const PORT = {program.port}, FD = {fd}; server.listen({arguments})")
    assert program.notify.recv(64) == b"READY=1"
    with program.ask() as sock:
        assert "quick" in answer(sock)


def test_the_only_socket_is_for_another_port_too_and_that_is_told(program: Program) -> None:
    program.run(f"{SLOW}server.listen(1)")
    assert program.line() == (f"impetusd: the server requested port 1 but gets 127.0.0.1:{program.port} from listen")
    assert program.notify.recv(64) == b"READY=1"
    with program.ask() as sock:
        assert "quick" in answer(sock)


def test_a_port_that_the_kernel_chooses_stays_so(program: Program) -> None:
    program.run(f"{SLOW}server.listen(0, () => console.log(server.address().port !== {program.port}))")
    assert program.line() == "true"


def test_a_second_server_on_the_same_socket_is_refused(program: Program) -> None:
    program.run(
        f"{SLOW}server.listen({program.port}); const other = http.createServer()\n"
        f"other.on('error', (error) => console.log(error.code)).listen({program.port}, '::1')"
    )
    assert program.line() == "EADDRINUSE"


def test_with_wait_ready_it_says_itself_that_it_is_ready(program: Program) -> None:
    program.run(
        f"{SLOW}server.listen({program.port}, () => console.log('listens'))\n"
        "process.stdin.once('data', () => process.send('ready'))",
        ready="told",
    )
    assert program.line() == "listens"
    program.notify.setblocking(False)
    with pytest.raises(BlockingIOError):
        program.notify.recv(64)
    program.notify.settimeout(WAIT)
    program.say()
    assert program.notify.recv(64) == b"READY=1"


def test_a_notify_socket_that_was_made_anew_is_found(program: Program) -> None:
    program.run(f"{SLOW}server.listen({program.port})", gone=True)
    assert program.notify.recv(64) == b"READY=1"


@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", "true; node server.cjs; true"),
        ("node", "-e", "require('child_process').spawn('node', ['server.cjs'], { stdio: 'inherit' })"),
    ],
)
def test_what_stands_between_hands_the_sockets_on(program: Program, command: tuple[str, ...]) -> None:
    program.run(f"{SLOW}server.listen({program.port}, () => console.log(process.pid))", command=command)
    pid = int(program.line())
    assert program.notify.recv(64) == b"READY=1"
    os.kill(pid, signal.SIGTERM)
    program.ended()


@pytest.mark.parametrize("repeats", [False, True])
def test_a_stop_lets_requests_end_and_the_server_dies_of_the_signal(program: Program, repeats: bool) -> None:
    """Also where a package like signal-exit listens only to repeat the signal."""
    exit_emitter = """
      const repeat = () => { if (process.listeners('SIGTERM').length === 1) { process.off('SIGTERM', repeat); process.kill(process.pid, 'SIGTERM') } }
      process.__signal_exit_emitter__ = { count: 1 }; process.on('SIGTERM', repeat)
    """
    program.run(f"{SLOW}{exit_emitter if repeats else ''}server.listen({program.port})")
    assert program.notify.recv(64) == b"READY=1"
    with program.ask() as idle, program.ask("/slow") as slow:
        assert "connection: keep-alive" in answer(idle).lower()
        assert program.line() == "asked"
        program.stop()
        while "connection: close" not in (request(idle), answer(idle))[1].lower():
            pass  # the signal was not heard yet
        assert idle.recv(64) == b""
        program.say()
        assert "connection: close" in answer(slow).lower()
    assert program.ended() == -signal.SIGTERM


def test_without_a_server_the_signal_ends_it_at_once(program: Program) -> None:
    program.run(
        f"{SLOW}setInterval(() => {{}}, 1000); server.listen({program.port}, () => server.close(() => console.log('closed')))"
    )
    assert program.line() == "closed"
    program.stop()
    assert program.ended() == -signal.SIGTERM


def test_an_error_of_the_server_that_nobody_handles_still_ends_it(program: Program) -> None:
    program.run(f"{SLOW}server.listen({program.port}, () => server.emit('error', new Error('lost')))")
    assert program.ended() == 1


def test_an_application_with_a_handler_stops_itself(program: Program) -> None:
    """What it closes loses no request on a connection that is idle just then."""
    program.run(
        f"{SLOW}server.listen({program.port})\n"
        "process.on('SIGTERM', () => { console.log('stops'); server.close(() => process.exit(7)) })"
    )
    assert program.notify.recv(64) == b"READY=1"
    with program.ask() as idle:
        answer(idle)
        program.stop()
        assert program.line() == "stops"
        request(idle)
        assert "connection: close" in answer(idle).lower()
    assert program.ended() == 7


def test_one_that_listens_to_messages_is_told_to_shut_down(program: Program) -> None:
    program.run(
        f"{SLOW}server.listen({program.port}); process.on('message', (message) => process.exit(message === 'shutdown' ? 7 : 1))"
    )
    assert program.notify.recv(64) == b"READY=1"
    program.stop()
    assert program.ended() == 7
