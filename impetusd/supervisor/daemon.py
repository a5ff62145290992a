"""The composition root: what the supervisor is made of, how it comes up, how it ends.

It comes up the same way after a boot and after its own death: the shim tells what it holds, the configuration that was
in force is read from there (from the file only the first time), slots are rebuilt from their records, and life goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any, NoReturn

from impetusd.core import config
from impetusd.core.lifecycle import Slot
from impetusd.core.model import Config, ConfigError, Paths
from impetusd.host import this_host
from impetusd.supervisor.commands import Commands
from impetusd.supervisor.control import ControlServer
from impetusd.supervisor.engine import Engine
from impetusd.supervisor.entry import Entry
from impetusd.supervisor.link import Link
from impetusd.supervisor.logs import Writer
from impetusd.supervisor.notify import Notify
from impetusd.supervisor.sockets import bind_unix
from impetusd.supervisor.starter import Starter
from impetusd.supervisor.watch import watch

CHANNEL = 3
CONTROL, NOTIFY = "control", "notify"  # our two sockets' names in the shim's store


class Daemon:
    """The supervisor's parts and the threads between them."""

    def __init__(self, conf: str, paths: Paths, *, boot: bool) -> None:
        """`boot`: start what has autostart without being asked, as `impetusd run` wants it."""
        self._conf = conf
        self._paths = paths
        self._boot = boot
        self._writer = Writer(paths.log_file, asyncio.get_running_loop().call_soon_threadsafe)
        self._link = Link(socket.socket(fileno=CHANNEL), self._hear)
        self._done = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Be the supervisor until told to end."""
        await self._link.begin()
        first = "config" not in self._link.blobs
        try:
            configuration = self._configuration()
        except (OSError, ConfigError) as error:
            self._writer.line(f"impetusd cannot start with {self._conf}:\n{error}")
            self._writer.close()
            self._link.send([{"op": "quit"}])
            return
        self._starter = Starter(self._link, self._writer, os.environ, self._paths.log_dir, self._paths.notify_socket)
        self._engine = Engine(self._starter, self._publish)
        self._starter.instances = self._engine.instances
        self._commands = Commands(
            self._engine, self._starter, self._paths, (self._link.pid, os.getpid()), self._done.set
        )
        self._engine.configure(configuration, self._link.blobs)
        self._bind_notify()
        self._engine.adopt(self._link.table)
        self._link.deliver()
        self._control = ControlServer(self._commands.handle, self._writer.line)
        await self._bind_control()
        watch(self._paths.run_dir, {"control.sock", "notify.sock"}, self._sockets_missing)
        self._writer.line(f"supervisor: {'began' if first else 'took over'} (pid {os.getpid()}, shim {self._link.pid})")
        if self._link.shutdown or "shutdown" in self._link.blobs:
            self._shut_down()
        elif first and self._boot:
            self._engine.start(self._commands.autostarted())
        await self._done.wait()
        await self._end()

    def _configuration(self) -> Config:
        """The configuration in force: what the shim remembers, or, the first time, what the file says.

        The environment that `${VAR}` saw is remembered with it: a restart must not mean another configuration.
        """
        remembered = self._link.blobs.get("config")
        if remembered is None:
            with open(self._conf, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
            remembered = json.dumps({"text": text, "environ": dict(os.environ)})
            self._link.send([{"op": "put", "key": "config", "blob": remembered}])
        saved = json.loads(remembered)
        return config.parse(saved["text"], self._conf, saved["environ"], this_host())

    # Our own sockets.

    def _own_socket(self, name: str, path: str, kind: int, mask: int) -> socket.socket:
        """The socket that the supervisor before us had, unless its file was removed; else a new one."""
        fd = self._starter.held(name)
        if fd is not None and os.path.exists(path):
            return socket.socket(fileno=fd)
        if fd is not None:
            os.close(fd)
        sock = bind_unix(path, kind, mask)
        self._starter.keep(name, os.dup(sock.fileno()), ours=False)
        self._starter.flush()
        return sock

    def _bind_notify(self) -> None:
        sock = self._own_socket(NOTIFY, self._paths.notify_socket, socket.SOCK_DGRAM, 0o111)
        self._notify = Notify(sock, self._link.pid, self._engine.of_pid, self._notified)

    async def _bind_control(self) -> None:
        await self._control.listen(self._own_socket(CONTROL, self._paths.control_socket, socket.SOCK_STREAM, 0o177))

    def _sockets_missing(self) -> None:
        """Somebody removed a socket (a cleaner of temporary files, say): it is made again."""
        if self._ending is not None or self._done.is_set():
            return
        if not os.path.exists(self._paths.notify_socket):
            self._writer.line(f"{self._paths.notify_socket} was removed: made again")
            self._notify.close()
            self._bind_notify()
        if not os.path.exists(self._paths.control_socket):
            self._writer.line(f"{self._paths.control_socket} was removed: made again")
            self._rebinding = asyncio.ensure_future(self._bind_control())

    # What happens.

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "shutdown":
            self._shut_down()
            return
        self._engine.hear(event)
        if event["event"] == "spawned":
            self._notify.replay(event["pid"])

    def _notified(self, entry: Entry, message: dict[str, str]) -> None:
        if message.get("READY") == "1" and entry.slot.pid is not None:
            self._engine.ready(entry.slot.pid)

    def _publish(self, entry: Entry, before: Slot) -> None:
        """Each change is told once: to the daemon's log, and to those who wait for an answer."""
        after = entry.slot
        if after.state is not before.state or after.kills != before.kills:
            pid = after.pid or before.pid
            reason = self._engine.reason(entry)
            process = f" (pid {pid})" if pid else ""
            self._writer.line(f"{entry.name}: {after.state.name}{process}{f': {reason}' if reason else ''}")
        self._commands.changed(entry, before)

    # The end.

    def _shut_down(self) -> None:
        if self._ending is None:
            self._commands.ending = True
            self._writer.line("supervisor: stopping everything")
            self._ending = asyncio.create_task(self._stop_everything())

    async def _stop_everything(self) -> None:
        await self._commands.stop_in_order(list(self._engine.entries.values()))
        self._done.set()

    async def _end(self) -> None:
        self._commands.over.set()
        await self._control.close()
        for path in (self._paths.control_socket, self._paths.notify_socket):
            if os.path.exists(path):
                os.unlink(path)
        self._writer.line("supervisor: everything is stopped")
        await asyncio.to_thread(self._writer.close)
        self._starter.quit()


def main() -> NoReturn:
    """Run. The exit status only tells the shim's log; whether to start again is said over the channel."""
    fields = json.loads(sys.argv[2])
    boot = fields.pop("boot", False)
    paths = Paths(**fields)

    async def run() -> None:
        await Daemon(sys.argv[1], paths, boot=boot).run()

    asyncio.run(run())
    sys.exit(0)
