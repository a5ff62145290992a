"""The process that imports the application once per generation and forks its workers when asked.

    shim ──{"id", "env", "gate"} + stdout, stderr, channel, …, gate──► template ──fork──► intermediate ──fork──► worker
         ◄─────────────────────{"id", "pid"}────────────────────     waits for ◄──── exits at once
         ───────────────────a line, when the pid is known to whoever comes after the shim─────────────────► goes on

Two forks, so that the worker's parent is the nearest subreaper, the shim, and not this process: a template may end, by
a reload or a crash, and its workers live on. It has one thread and no event loop, so whatever a fork copies is at rest.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from typing import Any

from impetusd.worker.channel import receive
from impetusd.worker.ending import leave
from impetusd.worker.environment import WorkerError, set_title, take_socket
from impetusd.worker.notify import notify_waiting

EX_UNBORN = 79  # the shim that should have adopted the worker is dead
EX_THREADS = 77  # the application has threads or connections at import: it cannot be forked, run each worker afresh

_LARGEST = 1 << 18  # bytes of a request; the kernel's default limit of a message (wmem_default) is lower
_ANSWER = struct.Struct("=i")  # what the intermediate reports: the worker's pid, or minus errno
_STOPS = {signal.SIGTERM, signal.SIGINT}


def run() -> None:
    """Fork workers until ordered to stop. Returns only in a worker, which goes on as if it had just been executed.

    The application is imported before. The template leaves through `leave`, never past here, so no exit handler of the
    application removes what its workers still need.
    """
    requests = take_socket(os.environ, "IMPETUSD_FORK_FD")
    _refuse_threads()
    _refuse_connections()
    gc.collect()
    gc.freeze()  # no collection in a worker touches, and so copies, the pages of what is imported
    for number in _STOPS:
        signal.signal(number, lambda _number, _frame: leave(0))
    notify_waiting("READY=1", f"STATUS=forks workers, pid {os.getpid()}")
    while True:
        try:
            message, fds, flags = receive(requests, _LARGEST, 8)
            if not message:
                leave(0)
            answer = _serve_request(requests, message, fds, complete=not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))
            if answer is None:
                return
            requests.sendall(json.dumps(answer).encode())
        except OSError:
            leave(0)  # the supervisor's end is gone


def _serve_request(requests: socket.socket, message: bytes, fds: list[int], *, complete: bool) -> dict[str, Any] | None:
    """Fork one worker and return the answer; None in the worker itself."""
    slot: object = None
    try:
        if not complete:
            raise ValueError(f"it is larger than {_LARGEST} bytes or has more than 8 descriptors")
        request = json.loads(message)
        slot = request["id"]
        env = {str(name): str(value) for name, value in request["env"].items()}
        stdout, stderr, channel, *carried = fds
        gate = carried.pop() if request.get("gate") else -1  # an older shim has none
        # Held back until the worker has its own handlers: a SIGTERM in between would run the template's.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            pid = _fork_orphan()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            told = f"the template (pid {os.getpid()}) cannot fork {slot}: {error.strerror}"
            return {"id": slot, "error": told, "errno": error.errno}
        if pid == 0:
            try:
                requests.close()
                _wait_at(gate)
                _become_worker(env, stdout, stderr, channel)
                for fd in carried:  # held in case their owners die before us: the pipes' other ends, and the channel's
                    os.dup(fd)
            except BaseException:  # it must never answer as if it were the template
                traceback.print_exc()
                leave(1)
            return None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return {"id": slot, "pid": pid}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return {"id": slot, "error": f"the template cannot read a fork request: {error!r}"}
    finally:
        for fd in fds:
            os.close(fd)


def _fork_orphan() -> int:
    """Fork a grandchild; its pid here, 0 in it. OSError if either fork fails. The child between has been reaped."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or every worker would write what is buffered, again
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        intermediate = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    if intermediate == 0:
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or 1)
        if pid == 0:
            os.close(reader)
            os.close(writer)
            return 0
        os.write(writer, _ANSWER.pack(pid))
        os._exit(0)
    os.close(writer)
    report = os.read(reader, _ANSWER.size)  # not to end of file: the worker may hold the writer a moment longer
    os.close(reader)
    try:
        os.waitpid(intermediate, 0)
    except ChildProcessError:
        pass  # the application ignores SIGCHLD: the kernel reaps
    if len(report) < _ANSWER.size:
        raise OSError(0, "the intermediate process was killed")
    (pid,) = _ANSWER.unpack(report)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return int(pid)


def _wait_at(gate: int) -> None:
    """Begin only when the shim has recorded our pid. If it dies before that, end, because nothing would know of us."""
    if gate >= 0 and not os.read(gate, 1):
        leave(EX_UNBORN)


def _become_worker(env: dict[str, str], stdout: int, stderr: int, channel: int) -> None:
    """Give the fork its own session, streams and environment.

    `random` has reseeded itself at the fork. SIGTERM and SIGINT stay blocked until the worker has its own handlers.
    """
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    own_channel = os.dup(channel)  # the one received is closed with the other two
    os.environ.update(env)
    os.environ["IMPETUSD_CHANNEL_FD"] = str(own_channel)
    if "LISTEN_PID" in os.environ:
        os.environ["LISTEN_PID"] = str(os.getpid())
    set_title(os.environ.get("IMPETUSD_NAME", ""))


def _refuse_threads() -> None:
    """Exit EX_THREADS if this process has more than one thread: a fork would copy their locks, but not them."""
    me = str(os.getpid())
    names = []
    known = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    for tid in os.listdir("/proc/self/task"):
        if tid == me:
            continue
        try:
            with open(f"/proc/self/task/{tid}/comm", encoding="utf-8", errors="replace") as comm:
                names.append(known.get(tid) or comm.read().strip())
        except OSError:
            continue  # it has just ended
    if names:
        raise WorkerError(
            f"the application has started {len(names)} thread(s) at import ({', '.join(sorted(names))}), which would"
            " not survive a fork: each worker imports the application itself (as with preload = no)",
            EX_THREADS,
        )


def _refuse_connections() -> None:
    """Exit EX_THREADS if the application has connected to anything: its workers would talk on one connection at once."""
    peers = sorted(filter(None, (_peer(int(fd)) for fd in os.listdir("/proc/self/fd"))))
    if peers:
        raise WorkerError(
            f"the application has opened {len(peers)} connection(s) at import (to {', '.join(peers)}), which its"
            " workers would share: each worker imports the application itself (as with preload = no)",
            EX_THREADS,
        )


def _peer(fd: int) -> str:
    """The peer of a stream; "" for all else, and for a pair without names, as an event loop has."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return ""
    try:
        name = sock.getpeername() if sock.type == socket.SOCK_STREAM else ""
    except OSError:
        return ""
    finally:
        sock.detach()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else os.fsdecode(name)
