"""A real PostgreSQL, started by our own entry point, and the event loop of the pool to talk to it on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Coroutine

DEADLINE = 60  # seconds; generous, since only a failure ever waits for it


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the pool's event loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


class Postgres:
    """An impetusd-postgres below `root`, which is closed to others like an instance's state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.sockets = root / "s"
        self.command = [sys.executable, "-m", "impetusd.postgres.main"]
        self.environment: dict[str, str] = {}
        self.user: str | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.log = root / "log"
        self.ready: tuple[int, int] = (0, 0)  # pid and parent of the process that sent READY=1

    @property
    def url(self) -> str:
        return f"postgresql:///impetus?host={self.sockets}&user=impetus"

    def spawn(self, *options: str) -> subprocess.Popen[bytes]:
        """Start it without waiting; its output goes to `log`."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "--data", self.data, "--socket-dir", self.sockets, *options],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **self.environment},
                cwd="/",
                user=self.user,
                group=self.user and "nogroup",
                extra_groups=[] if self.user else None,
                stdout=log,
                stderr=log,
            )
        return self.process

    def start(self, *options: str) -> None:
        """Start it and wait for READY=1, as the supervisor does."""
        address = f"@impetus-test-{os.getpid()}-{id(self)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            notify.bind("\0" + address[1:])
            notify.settimeout(0.05)
            self.environment["NOTIFY_SOCKET"] = address
            process = self.spawn(*options)
            for _ in range(DEADLINE * 20):
                with contextlib.suppress(TimeoutError):
                    # Its sender stays until it is read.
                    message, ancillary, _, _ = notify.recvmsg(100, 100, socket.MSG_PEEK)
                    assert message == b"READY=1"
                    pid = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
                    stat = Path(f"/proc/{pid}/stat").read_text()
                    self.ready = (pid, int(stat.rpartition(")")[2].split()[1]))
                    notify.recv(100)
                    return
                assert process.poll() is None, self.log.read_text()
        raise AssertionError(self.log.read_text())

    def refused(self, *options: str) -> tuple[int, str]:
        """Start it; it must end by itself: its exit status and what it said."""
        before = self.log.stat().st_size if self.log.exists() else 0
        status = self.spawn(*options).wait(DEADLINE)
        return status, self.log.read_text()[before:]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Signal the server and wait for its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def processes(self) -> list[int]:
        """Every process that works in the data directory."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "cwd").samefile(self.data):
                    found.append(int(entry.name))
        return found

    def destroy(self) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop(signal.SIGQUIT)  # at once, without a checkpoint
            except subprocess.TimeoutExpired:
                self.stop(signal.SIGKILL)
        wait_for(self._none_left, "what was left to be killed")
        shutil.rmtree(self.root)

    def _none_left(self) -> bool:
        left = self.processes() if self.data.exists() else []
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left
