"""What a pool worker gets at its start: environment variables and the descriptors that they name.

IMPETUSD_WORKER      JSON: app, pool, drain_timeout, kill_timeout, watchdog (seconds; 0 or no key: none), backlog, max_requests, header_timeout, body_timeout (0: any), protocol, threads, root_path, access_log, lend (folders)
IMPETUSD_NAME        the slot, "web:0"
IMPETUSD_CHANNEL_FD  serve: the SOCK_SEQPACKET socket that commands come from
IMPETUSD_FORK_FD     template: the SOCK_SEQPACKET socket that fork requests come from
IMPETUSD_CELLS_FD    the page of memory that the pool's workers share, see `worker.cells`; none of an older impetusd's
LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES, NOTIFY_SOCKET: systemd's protocols
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from impetusd.worker.cells import Page

EX_CONFIG = 78  # sysexits.h: trying again does not help until somebody has changed something
_FIRST_FD = 3  # SD_LISTEN_FDS_START


class WorkerError(Exception):
    """The worker cannot go on, and why, in words for the operator. `code` is what the process exits with."""

    def __init__(self, message: str, code: int = EX_CONFIG) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Settings:
    """The pool's settings that its workers need. Durations are seconds."""

    app: str  # "package.module:factory"
    pool: str
    drain_timeout: float
    kill_timeout: float
    backlog: int
    watchdog: float = 0.0
    max_requests: int = 0
    header_timeout: float = 0.0
    body_timeout: float = 0.0
    protocol: str = "auto"  # or aiohttp, asgi, wsgi
    threads: int = 8
    root_path: str = ""
    access_log: bool = False
    lend: tuple[str, ...] = ()


def settings(environ: MutableMapping[str, str]) -> Settings:
    """The settings in IMPETUSD_WORKER. Raises WorkerError if it is missing or invalid."""
    text = environ.get("IMPETUSD_WORKER")
    if text is None:
        raise WorkerError("impetusd.worker is started by impetusd for a [pool:…]; IMPETUSD_WORKER is not set", 2)
    try:
        given = json.loads(text)
        return Settings(
            app=str(given["app"]),
            pool=str(given["pool"]),
            drain_timeout=float(given["drain_timeout"]),
            kill_timeout=float(given["kill_timeout"]),
            backlog=int(given["backlog"]),
            watchdog=float(given.get("watchdog", 0)),
            max_requests=int(given.get("max_requests", 0)),
            header_timeout=float(given.get("header_timeout", 0)),
            body_timeout=float(given.get("body_timeout", 0)),
            protocol=str(given.get("protocol", "auto")),
            threads=int(given.get("threads", 8)),
            root_path=str(given.get("root_path", "")),
            access_log=bool(given.get("access_log", False)),
            lend=tuple(map(str, given.get("lend", ()))),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WorkerError(f"IMPETUSD_WORKER cannot be read ({error!r}): {text}") from None


def take_socket(environ: MutableMapping[str, str], variable: str) -> socket.socket:
    """The socket whose number stands in `variable`; neither the variable nor the socket goes to the app's children."""
    number = environ.pop(variable, None)
    try:
        taken = socket.socket(fileno=int(number if number is not None else ""))
    except (ValueError, OSError) as error:
        raise WorkerError(f"{variable} = {number} does not name an open socket: {error}") from None
    taken.set_inheritable(False)
    return taken


class Passed(NamedTuple):
    """The descriptors that a worker was given."""

    sockets: list[socket.socket]
    channel: socket.socket
    page: Page

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Self:
        """Neither they nor the variables that name them go to the app's children. Raises WorkerError."""
        return cls(take_listening_sockets(environ), take_socket(environ, "IMPETUSD_CHANNEL_FD"), take_page(environ))


def take_page(environ: MutableMapping[str, str]) -> Page:
    """The page of IMPETUSD_CELLS_FD; an unshared one if there is none."""
    number = environ.pop("IMPETUSD_CELLS_FD", "")
    if not number.isdecimal():
        return Page(None, os.getpid())
    try:
        return Page(int(number), os.getpid())
    finally:
        with contextlib.suppress(OSError):
            os.close(int(number))


def take_listening_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets of LISTEN_FDS, from descriptor 3 on. They and the variables stay out of the app's children."""
    count = environ.pop("LISTEN_FDS", "0")
    pid = environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid not in {"", str(os.getpid())}:
        raise WorkerError(
            f"LISTEN_PID = {pid} means that the listening sockets are for another process, not for {os.getpid()}"
        )
    if not count.isdecimal():
        raise WorkerError(f"LISTEN_FDS = {count} is not a number of sockets")
    taken = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        try:
            sock = socket.socket(fileno=fd)
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise WorkerError(f"LISTEN_FDS = {count}, but descriptor {fd} is not a socket: {error}") from None
        if not listens:
            raise WorkerError(f"LISTEN_FDS = {count}, but descriptor {fd} is not listening")
        sock.set_inheritable(False)
        taken.append(sock)
    return taken


def set_cloexec() -> None:
    """Keep inherited descriptors, also those only held in case others die before us, from the app's children."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                pass  # of the listing itself


def set_title(name: str) -> None:
    """Show the slot in `ps` and `top`; the kernel keeps 15 bytes."""
    try:
        with open("/proc/self/comm", "w", encoding="utf-8") as comm:
            comm.write(name[:15])
    except OSError:
        pass  # /proc is not there or not ours: the title is a convenience
