"""A PostgreSQL for tests: of an empty folder, gone afterwards.

with temporary_server() as url:
    ...  # DATABASE_URL, of an empty database whose owner the role is
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from impetusd.postgres import main

READY_WITHIN = 60.0  # seconds
STOPPED_WITHIN = 10.0  # seconds


class NotStarted(Exception):
    """The server did not start: what it said."""


@contextlib.contextmanager
def temporary_server(database: str = "impetus") -> Iterator[str]:
    """Run an impetusd-postgres; gives its DATABASE_URL. `database` is the role's name as well. Raises NotStarted."""
    folder = tempfile.mkdtemp(prefix="impg")  # short: a unix socket's path has at most 107 bytes
    options = ["--database", database, "--role", database]
    options += ["--data", os.path.join(folder, "data"), "--socket-dir", os.path.join(folder, "s")]
    command = [sys.executable, "-m", "impetusd.postgres.main", *options]
    try:
        with (
            open(os.path.join(folder, "log"), "w+", encoding="utf-8", errors="replace") as log,
            _listening() as (notify, address),
        ):
            server = subprocess.Popen(command, stderr=log, env={**os.environ, "NOTIFY_SOCKET": address})
            try:
                _until_ready(server, notify)
                yield main.url(main.read_options(options))
            except NotStarted as failure:
                log.seek(0)
                raise NotStarted(f"{failure}: {log.read().strip()}") from None
            finally:
                _stop(server)
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _listening() -> Iterator[tuple[socket.socket, str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind("")  # the kernel picks a free abstract address
        notify.settimeout(0.1)
        yield notify, "@" + notify.getsockname()[1:].decode()


def _until_ready(server: subprocess.Popen[bytes], notify: socket.socket) -> None:
    for _ in range(round(READY_WITHIN * 10)):
        with contextlib.suppress(TimeoutError):
            notify.recv(100)
            return
        if server.poll() is not None:
            raise NotStarted(f"impetusd-postgres ended with exit code {server.returncode}")
    raise NotStarted(f"impetusd-postgres was not ready within {READY_WITHIN:g} s")


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOPPED_WITHIN)
            return
