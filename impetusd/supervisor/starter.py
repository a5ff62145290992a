"""How a decision reaches the shim: records, operations and descriptors, gathered into one message a round.

Descriptors in the shim's store go by these names:
    log:7:out:r  log:7:out:w  log:7:err:r  log:7:err:w   the pipes of one slot, which outlive its processes
    chan:12                                              our end of the command channel of worker process 12
    listen:web:127.0.0.1:8080                            a unit's listening socket
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from impetusd.core.lifecycle import Scope
from impetusd.core.model import Kind, Unit
from impetusd.shim.wire import MOST_FDS
from impetusd.supervisor import childspec
from impetusd.supervisor.childspec import CannotStart
from impetusd.supervisor.entry import Entry, Role, log_files
from impetusd.supervisor.link import Link
from impetusd.supervisor.logs import Writer
from impetusd.supervisor.sockets import listen_on

STREAMS = ("out", "err")


class Starter:
    """Gathers what one round of the engine asks for, and sends it."""

    def __init__(
        self, link: Link, writer: Writer, environ: Mapping[str, str], log_dir: str, notify_socket: str
    ) -> None:
        """`environ` is the daemon's environment, of which a few variables are handed on."""
        self._link = link
        self._writer = writer
        self._environ = environ
        self._log_dir = log_dir
        self._notify_socket = notify_socket
        self._puts: dict[str, str | None] = {}
        self._ops: list[dict[str, Any]] = []
        self._keeps: list[tuple[str, int]] = []
        self._close_when_sent: list[int] = []
        self._held = dict(link.fds)  # name → our copy, of what the shim holds
        self._next_process = 1
        self._next_pipe = 1 + max([0, *(int(name.split(":")[1]) for name in self._held if name.startswith("log:"))])
        self.instances: Callable[[Unit], int] = lambda unit: unit.instances

    # Gathering and sending.

    def put(self, key: str, blob: str | None) -> None:
        """Have `blob` remembered under `key`; None forgets it."""
        self._puts[key] = blob

    def signal(self, process: int, number: int, scope: Scope) -> None:
        """Signal a process, its descendants, or both."""
        self._ops.append({"op": "signal", "process": process, "number": number, "scope": scope.value})

    def ack(self, process: int) -> None:
        """The exit of `process` is written down with this round's records: it may be reaped."""
        self._ops.append({"op": "ack", "process": process})

    def keep(self, name: str, fd: int, *, ours: bool) -> None:
        """Have the shim hold a descriptor; we keep our copy only when it is `ours`."""
        self._keeps.append((name, fd))
        if ours:
            self._held[name] = fd
        else:
            self._close_when_sent.append(fd)

    def held(self, name: str) -> int | None:
        """What the supervisor before us had kept under `name`, for good: the descriptor is the caller's now."""
        return self._held.pop(name, None)

    def drop(self, name: str) -> None:
        """Have the shim close a descriptor, and close our copy."""
        self._ops.append({"op": "drop", "name": name})
        fd = self._held.pop(name, None)
        if fd is not None:
            self._close_when_sent.append(fd)

    def flush(self) -> None:
        """Send what was gathered: descriptors first, then records and operations as one message."""
        if not (self._puts or self._ops or self._keeps):
            return
        for at in range(0, len(self._keeps), MOST_FDS):
            part = self._keeps[at : at + MOST_FDS]
            self._link.send([{"op": "keep", "name": name} for name, _ in part], [fd for _, fd in part])
        puts = [{"op": "put", "key": key, "blob": blob} for key, blob in self._puts.items()]
        closing = self._close_when_sent

        def sent() -> None:
            for fd in closing:
                os.close(fd)

        self._link.send(puts + self._ops, (), sent)
        self._puts, self._ops, self._keeps, self._close_when_sent = {}, [], [], []

    def quit(self) -> None:
        """Have the shim end once we have."""
        self._ops.append({"op": "quit"})
        self.flush()

    # Processes.

    def continue_from(self, process: int, pipes: set[int]) -> None:
        """Begin with `process`, the first number that was never used, and close what the records do not name.

        A supervisor that died between two messages may have left descriptors that no record speaks of.
        """
        self._next_process = process
        for name in list(self._held):
            kind, _, rest = name.partition(":")
            number = rest.partition(":")[0]
            if (kind == "log" and int(number) not in pipes) or (kind == "chan" and rest.endswith(":theirs")):
                self.drop(name)

    def launch(self, entry: Entry, extra: Mapping[str, str], template: int | None) -> int:
        """Start the slot's process, forked from `template` if one is given. Returns its number. Raises CannotStart."""
        unit = entry.unit
        process = self._next_process
        name = entry.name
        env = childspec.environment(unit, name, entry.index, self._environ, extra)
        if entry.policy.wait_ready:
            env["NOTIFY_SOCKET"] = self._notify_socket
        listeners = self._listeners(unit)
        pipe = self._pipe(entry)
        stdio = ["", f"log:{pipe}:out:w", f"log:{pipe}:err:w"]
        self._writer.begin_run(f"{pipe}:err")
        if entry.role in {Role.WORKER, Role.STANDBY}:
            self._open_channel(process)
            self.put_to_work(process, name, serve=entry.role is Role.WORKER)
        if template is not None:
            spec: dict[str, Any] = {
                "env": {key: env[key] for key in ("INVOCATION_ID", "IMPETUSD_NAME", "INSTANCE", "NOTIFY_SOCKET")},
                "fds": [*stdio[1:], f"chan:{process}:theirs"],
            }
            operation = {"op": "fork", "process": process, "via": template}
        else:
            spec = self._exec_spec(entry, process, env, stdio, listeners)
            operation = {"op": "spawn", "process": process}
        spec["group"] = f"{unit.name}-{process}"
        self._ops.append({**operation, "spec": spec})
        if entry.role in {Role.WORKER, Role.STANDBY}:
            self.drop(f"chan:{process}:theirs")
        self._next_process += 1
        return process

    def _exec_spec(
        self, entry: Entry, process: int, env: dict[str, str], stdio: list[str], listeners: list[str]
    ) -> dict[str, Any]:
        unit = entry.unit
        fds = stdio + listeners
        if unit.kind is Kind.PROGRAM:
            return childspec.spec(unit, childspec.command(unit, ""), env, fds, len(listeners))
        env["IMPETUSD_WORKER"] = childspec.runtime_settings(unit)
        env["PYTHONUNBUFFERED"] = "1"
        if entry.role is Role.TEMPLATE:
            env[childspec.FORK_FD] = str(len(fds))
            argv = childspec.command(unit, "template")
            return {**childspec.spec(unit, argv, env, fds, len(listeners)), "fork_fd": len(fds)}
        env[childspec.CHANNEL_FD] = str(len(fds))
        argv = childspec.command(unit, "serve")
        return childspec.spec(unit, argv, env, [*fds, f"chan:{process}:theirs"], len(listeners))

    async def env_files(self, unit: Unit) -> dict[str, str]:
        """The unit's env_file, read in a thread. Raises CannotStart."""
        return await asyncio.to_thread(childspec.read_env_files, unit)

    # Channels to workers.

    def _open_channel(self, process: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.keep(f"chan:{process}", ours.detach(), ours=True)
        self.keep(f"chan:{process}:theirs", theirs.detach(), ours=False)

    def put_to_work(self, process: int | None, name: str, *, serve: bool) -> None:
        """Have a worker accept requests as slot `name`; said twice, it is done once. A standby is told nothing yet."""
        if serve and process is not None:
            self.tell(process, {"do": "serve", "name": name})

    def tell(self, process: int, message: Mapping[str, str]) -> None:
        """Send a command to a worker; one that does not listen any more is about to be noticed."""
        fd = self._held.get(f"chan:{process}")
        if fd is not None:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as channel:
                channel.send(json.dumps(message).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def forget_channel(self, process: int) -> None:
        """The worker is gone."""
        if f"chan:{process}" in self._held:
            self.drop(f"chan:{process}")

    # Log pipes.

    def _routes(self, entry: Entry) -> dict[str, str]:
        return {f"{entry.rec.pipe}:{stream}": path for stream, path in zip(STREAMS, self.log_files(entry), strict=True)}

    def log_files(self, entry: Entry) -> tuple[str, str]:
        """Where the slot's stdout and stderr go."""
        return log_files(entry.unit, entry.role, entry.index, self.instances(entry.unit), self._log_dir)

    def _pipe(self, entry: Entry) -> int:
        """The slot's pair of pipes, made when there is none yet."""
        if entry.rec.pipe is not None:
            return entry.rec.pipe
        pipe = entry.rec.pipe = self._next_pipe
        self._next_pipe += 1
        try:
            ends = [os.pipe2(os.O_CLOEXEC) for _ in STREAMS]
        except OSError as error:
            entry.rec.pipe = None
            raise CannotStart("making log pipes", error.strerror or str(error)) from None
        for stream, (reader, writer) in zip(STREAMS, ends, strict=True):
            self.keep(f"log:{pipe}:{stream}:r", reader, ours=True)
            self.keep(f"log:{pipe}:{stream}:w", writer, ours=False)
        self._attach(entry)
        return pipe

    def _attach(self, entry: Entry) -> None:
        for (name, path), stream in zip(self._routes(entry).items(), STREAMS, strict=True):
            self._writer.add(name, self._held[f"log:{entry.rec.pipe}:{stream}:r"], path)

    def adopt_pipe(self, entry: Entry) -> None:
        """Go on where the supervisor before us stopped reading."""
        for stream in STREAMS:  # the shim passed the write ends too; only it needs them
            writer = self._held.pop(f"log:{entry.rec.pipe}:{stream}:w", None)
            if writer is not None:
                os.close(writer)
        self._attach(entry)

    def swap_pipes(self, one: Entry, other: Entry) -> None:
        """A process moved from slot to slot: its pipes go with it, and what it prints goes to its new slot's files."""
        one.rec.pipe, other.rec.pipe = other.rec.pipe, one.rec.pipe
        routes = [self._routes(entry) for entry in (one, other) if entry.rec.pipe is not None]
        self._writer.redirect({pipe: path for route in routes for pipe, path in route.items()})

    def forget_pipe(self, entry: Entry) -> None:
        """The slot is gone: write what it printed last, then close its pipes."""
        pipe = entry.rec.pipe
        if pipe is None:
            return
        entry.rec.pipe = None
        loop = asyncio.get_running_loop()
        for stream in STREAMS:
            close = functools.partial(self._close_pipe, pipe, stream)
            self._writer.forget(f"{pipe}:{stream}", functools.partial(loop.call_soon_threadsafe, close))

    def _close_pipe(self, pipe: int, stream: str) -> None:
        self.drop(f"log:{pipe}:{stream}:r")
        self._ops.append({"op": "drop", "name": f"log:{pipe}:{stream}:w"})
        self.flush()

    def tail(self, pipe: int, answer: Callable[[bytes], None]) -> None:
        """Call `answer`, in the writer's thread, with the last of what the present run wrote to stderr."""
        self._writer.tail(f"{pipe}:err", answer)

    # Listening sockets.

    def _listeners(self, unit: Unit) -> list[str]:
        """The names of the unit's listening sockets, each bound when it is not yet. Raises CannotStart."""
        names = []
        for address in unit.listen:
            name = f"listen:{unit.name}:{address}"
            if name not in self._held:
                self.keep(name, listen_on(address, unit.backlog).detach(), ours=True)
            names.append(name)
        return names

    def close_listeners(self, unit: Unit) -> None:
        """Nobody will accept any more: clients are to be refused, not kept waiting."""
        for address in unit.listen:
            if f"listen:{unit.name}:{address}" in self._held:
                self.drop(f"listen:{unit.name}:{address}")
                if address.path:
                    with contextlib.suppress(OSError):
                        os.unlink(address.path)
