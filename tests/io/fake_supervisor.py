"""A daemon as the control client sees it: a lock on the state directory, and a thread that speaks the protocol."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

from impetusd.core import protocol
from impetusd.core.config.location import Paths

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Who asks it in a process of its own: `python -c COMMAND WORD...`, as the console script does.
COMMAND = f"import sys; sys.path.insert(0, {ROOT!r}); from impetusd.cli import main; main.command()"


def paths_in(directory: object) -> Paths:
    """An instance in `directory`, with an INI file of two programs, and without a daemon."""
    base = str(directory)
    conf = os.path.join(base, "impetusd.ini")
    with open(conf, "w", encoding="utf-8") as file:
        file.write("[impetusd]\n\n[program:web]\ncommand = sleep 1000\n\n[program:db]\ncommand = sleep 1000\n")
    return Paths(
        conf=conf, base_dir=base, run_dir=f"{base}/var/run", state_dir=f"{base}/var/lib", log_dir=f"{base}/var/log"
    )


def row(name: str, **changes: Any) -> dict[str, Any]:
    """A status row of a slot that is up and well."""
    return {
        "name": name,
        "unit": name.partition(":")[0],
        "kind": "worker",
        "state": "RUNNING",
        "want": "up",
        "ready": True,
        "pid": 4242,
        "uptime_s": 754.2,
        "restarts": 0,
        "memory_bytes": 48 << 20,
        "cpu_percent": 0.3,
        "generation": 1,
        "last_exit": None,
        "reason": "",
        "dropped_lines": 0,
        "dropped_bytes": 0,
        "tail": [],
        **changes,
    }


def failed_row(name: str, **changes: Any) -> dict[str, Any]:
    """A status row of a slot that keeps dying."""
    failed = {
        "state": "BACKOFF",
        "ready": False,
        "pid": None,
        "uptime_s": None,
        "memory_bytes": None,
        "cpu_percent": None,
        "restarts": 3,
        "last_exit": {"code": 1, "at": "2026-11-23T09:00:00+00:00"},
        "reason": "exit 1; retrying in 3.2 s (3 of 16)",
        "tail": ["Traceback (most recent call last):", '  File "app.py", line 1, in <module>', "ValueError: no"],
    }
    return row(name, **(failed | changes))


PONG = {"version": "0.1.0", "shim": {"pid": 1}, "supervisor": {"pid": 2}, "ready": True}
Handler = Callable[[Mapping[str, Any], Callable[[bytes], None]], "Mapping[str, Any]"]


class HangUp(Exception):
    """Raised by a handler: the supervisor dies before it answers."""


class FakeSupervisor:
    """Use as a context manager. `asked` has every request so far as (method, params), pings left out."""

    def __init__(self, paths: Paths, **handlers: Handler | Mapping[str, Any] | protocol.ProtocolError) -> None:
        self.paths = paths
        self.handlers = {"ping": PONG, **handlers}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._lock = -1

    def __enter__(self) -> Self:
        self.lock()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.unlisten()
        for thread in self._threads:
            thread.join(10)
        self.unlock()

    def lock(self) -> None:
        """Hold the state directory, as the shim does."""
        for directory in (self.paths.run_dir, self.paths.state_dir, self.paths.log_dir):
            os.makedirs(directory, exist_ok=True)
        self._lock = os.open(self.paths.state_dir, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(self) -> None:
        """Let go of it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def bind(self, backlog: int = 16) -> None:
        """Make the socket, as the shim keeps it: connections queue, nobody answers."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.paths.control_socket)
        self._listener.listen(backlog)

    def listen(self) -> None:
        """Answer."""
        if self._listener is None:
            self.bind()
        self._thread(self._accept)

    def unlisten(self) -> None:
        """Close the socket and remove its file."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            self._listener.close()
            self._listener = None
            os.unlink(self.paths.control_socket)

    def _thread(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        listener = self._listener
        while listener is not None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._thread(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        lines = protocol.LineBuffer()
        with connection:
            try:
                while data := connection.recv(65536):
                    for line in lines.feed(data):
                        connection.sendall(self._answer(protocol.parse_request(line), connection.sendall))
            except (HangUp, ConnectionError):
                return

    def _answer(self, request: protocol.Request, send: Callable[[bytes], None]) -> bytes:
        if request.method != "ping":
            self.asked.append((request.method, request.params))
        handler = self.handlers[request.method]
        try:
            result = handler(request.params, send) if callable(handler) else handler
            if isinstance(result, protocol.ProtocolError):
                raise result
        except protocol.ProtocolError as error:
            error.id = request.id
            return protocol.error_line(error)
        return protocol.result_line(request.id, result)
