"""The composition root: what the supervisor is made of, how it comes up, how it ends.

It comes up the same way after a boot and after its own death: the shim sends what it holds, the configuration in force
is read from there (from the file only the first time), slots are rebuilt from their records, and work continues.

It is longer than other files, for it is the list of parts: `come_up` and `_build` make them, `_subscribe` lists who is
notified of a slot's changes; most of its methods bring two parts together. Each part is described in its own module.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import impetusd
from impetusd import traces
from impetusd.client import instance
from impetusd.core import protocol, redact
from impetusd.core import stream as watching
from impetusd.core.config.gateway import GATEWAY, OBSERVER, public_url
from impetusd.core.config.location import Paths
from impetusd.core.config.model import Config
from impetusd.core.config.problem import ConfigError
from impetusd.core.protocol import EXIT_USAGE, ProtocolError
from impetusd.core.reasons import Reason, because
from impetusd.core.rules import quarantine
from impetusd.core.rules.lifecycle import State, Want
from impetusd.files import ledgerfile
from impetusd.linux.oom import Oom
from impetusd.linux.priority import ERROR, WARNING, is_journal
from impetusd.linux.watch import watch
from impetusd.supervisor import custody, lifeline
from impetusd.supervisor.api import accounts, alerting, audit
from impetusd.supervisor.api.alerting import Alerting
from impetusd.supervisor.api.applying import CONFIG, Applying
from impetusd.supervisor.api.board import Board
from impetusd.supervisor.api.changeover import BEFORE
from impetusd.supervisor.api.commands import Commands, is_stuck
from impetusd.supervisor.api.configuration import Configuration, is_former, keep_file, keep_profile, read
from impetusd.supervisor.api.control import ControlServer
from impetusd.supervisor.api.control_socket import ControlSocket
from impetusd.supervisor.api.environments import Environments
from impetusd.supervisor.api.events import Events
from impetusd.supervisor.api.feed import Feed
from impetusd.supervisor.api.giving import Giving
from impetusd.supervisor.api.inherited import Inherited
from impetusd.supervisor.api.logfiles import LogFiles
from impetusd.supervisor.api.measured import Measured
from impetusd.supervisor.api.names import Names
from impetusd.supervisor.api.rows import Rows
from impetusd.supervisor.api.sampler import Sampler
from impetusd.supervisor.api.searching import Searching
from impetusd.supervisor.api.status import Status
from impetusd.supervisor.api.surroundings import Surroundings
from impetusd.supervisor.api.tailing import Tailing
from impetusd.supervisor.api.upgrading import Upgrading
from impetusd.supervisor.disk.ledger import Ledger
from impetusd.supervisor.disk.saving import Saving
from impetusd.supervisor.disk.state import StateFile
from impetusd.supervisor.ending import Ending
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.holding import Holding
from impetusd.supervisor.logs import stream
from impetusd.supervisor.logs.console import JournalWriter
from impetusd.supervisor.logs.writer import Writer, is_ours
from impetusd.supervisor.observers import Change
from impetusd.supervisor.reporting import Reporting
from impetusd.supervisor.rules.ruleset import Ruleset
from impetusd.supervisor.slots import record
from impetusd.supervisor.slots.adoption import Adoption
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.entry import ONE_SHOT, PASSING, Entry
from impetusd.supervisor.start.link import Link, Page
from impetusd.supervisor.start.notify import Notify
from impetusd.supervisor.start.notify_sockets import NotifySockets
from impetusd.supervisor.start.socketfiles import SocketFiles
from impetusd.supervisor.start.starter import Starter
from impetusd.supervisor.threads import NoAnswer, Threads
from impetusd.supervisor.upstream import Upstream, status_of, stop_within

CHANNEL = 3
MOST = 8  # threads that the supervisor itself waits for
WITHIN = 20.0  # seconds for the disk; the shim's patience is 30
CLOSED_WITHIN = 5.0  # seconds at the end for what is on its way to a disk


class Daemon:
    """The supervisor's parts, which tests look into, and the threads between them."""

    def __init__(
        self,
        conf: str,
        paths: Paths,
        *,
        boot: bool,
        logs: str = "files",
        profile: str | None = None,
        link: Link | None = None,
    ) -> None:
        """`boot`: start what has autostart without being asked, as `impetusd run` wants it; `logs`: files or stdout.

        `profile`: the one to begin with; None is the one that was in force last. `link`: to the shim.
        """
        self._prefix = stream.Prefix(os.environ) if logs == "stdout" else None
        self._profile = profile
        self._conf = conf
        self._paths = paths
        self._boot = boot
        self._link = link or Link(socket.socket(fileno=CHANNEL), self._hear)
        self._link.lost = self._shim_lost
        self._open = contextlib.ExitStack()  # closes what the parts hold open
        self._open.callback(self._link.close)
        self._threads = Threads("supervisor", MOST)
        self._done = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._contain: Callable[..., bool] = BARE.contain  # until the parts are made
        self._hand_down: Callable[[], object] = lambda: None  # what the shim may not have known, where it was killed

    async def run(self) -> None:
        """Run the supervisor until it is ordered to end."""
        await self._link.begin()
        self._paths = instance.present(self._paths, self._link.pid)
        self._lifeline = lifeline.take(self._link.fds)
        blobs = self._link.blobs
        first = CONFIG not in blobs
        self.open_log()
        try:
            configuration = await self._read() if first else None
            self.come_up(configuration)
        except (OSError, ConfigError, NoAnswer) as error:
            self.writer.line(f"impetusd cannot start with {self._conf}:\n{error}", ERROR)
            self.writer.close()
            self._link.send([{"op": "quit", "code": EXIT_USAGE}])
            return
        keep_file(self._paths.state_dir, self._file, self._warn)
        keep_profile(self._paths.state_dir, self._configuration.profile, self._warn)
        self._bind_notify()
        self._inherit()
        self._adopt(self._link.table)
        self._holding.report()
        for unit in self.engine.slots.units.values():
            self.faults.contain(unit.name, "updating its sockets", self.starter.listeners.follow, [unit])
        if self.engine.slots.held.whole is None:
            self.applying.resume(blobs)
        self._upgrading.resume(blobs)
        self._begin()
        self._link.deliver()
        if "hup" in blobs:
            self._hear({"event": "apply"})
        audited = audit.Audit(self._command_given, self._later)
        self.control = ControlServer(self.commands.handle, self.writer.line, self._control_socket.role_of, audited)
        self.control.faults = self.faults
        self.inherited.listen()
        attend = self.faults.attend
        give = functools.partial(self._log_files.give, self._logs, self._paths.log_dir, self._threads)
        self._giving = asyncio.create_task(attend("log files", "granting access to them", give))
        self._control_socket.server, self._control_socket.missing = self.control, self.notify_sockets.restore
        self._control_socket.over = lambda: self._ending.has_begun
        await self._control_socket.open()
        self._open.callback(watch(self._paths.state_dir, {"state.json"}, self._state_gone))
        loop = asyncio.get_running_loop()
        contain = self.faults.contain
        loop.add_signal_handler(signal.SIGUSR2, contain, "log files", "reopening them", self.writer.reopen)
        loop.add_signal_handler(signal.SIGHUP, contain, "SIGHUP", "applying", self._hear, {"event": "apply"})
        self._say("began" if first else "took over", f" (pid {os.getpid()}, shim {self._link.pid})")
        holds = self.engine.slots.held.whole is not None  # then the one that holds nothing begins again
        begins = (first and self._boot) or "booting" in blobs
        if not self._ending.resume() and begins and not holds:
            self.engine.start(entry for entry in self._names.autostarted() if not entry.rec.stopped)
            self.starter.outbox.put("booting", None)
            self.starter.outbox.flush()
        self._ending.look()
        self.starter.outbox.flush()
        self._readiness = asyncio.create_task(attend("the service manager", "sending READY=1", self._report_ready))
        await self._done.wait()
        await self._end()

    async def _read(self) -> Configuration:
        """The files as they are, in a thread: a disk may hang, and so may a lookup of users. Raises any error."""
        threads, conf = self._threads, self._conf

        def look() -> str:
            former = is_former(conf, self._paths, os.environ)
            return read(conf, self._paths.state_dir, os.environ, self._profile, former=former)

        remembered = await threads.run(look, WITHIN)
        try:
            found = await threads.run(functools.partial(Configuration, conf, remembered, in_force=False), WITHIN / 2)
        except NoAnswer as error:
            self._warn(f"supervisor: cannot check whether all users named in {conf} exist: {error}")
            return Configuration(conf, remembered, in_force=True)
        found.accept()
        return found

    def come_up(self, configuration: Configuration | None = None, *, strict: bool = False) -> None:
        """Build every part from the shim's data; `configuration` is the one on the disk, the first time.

        Raises OSError, ConfigError; when `strict`, whatever is wrong with a record.
        """
        blobs = self._link.blobs
        first = configuration is not None
        self._file = self._known_file(blobs.get(instance.NAME))
        self._conf = self._file["conf"]
        self._configuration = configuration or Configuration(self._conf, blobs[CONFIG], in_force=True)
        blobs[CONFIG] = self._configuration.remembered
        before = Configuration(self._conf, blobs[BEFORE], in_force=True) if BEFORE in blobs else None
        path = f"{self._paths.state_dir}/state.json"
        self.state = StateFile(path, self._warn)
        self.saving = Saving(self.state, path, self._lasting, self._warn)
        saved, faults = record.sound(self.state.load() if first else {})
        if faults:
            self.state.faulty(faults)
        ledger = f"{self._paths.state_dir}/{ledgerfile.NAME}"
        self.ledger = Ledger(ledger, blobs, self._soon, self._warn)
        self._events = Events(self.ledger, ledger)
        self.starter = Starter(self._link, self.writer, self.ledger, os.environ, self._paths.log_dir)
        self._open.callback(self.starter.outbox.close)
        self.starter.pipes.prefix = self._prefix
        self._measured = self.starter.channels.measured = Measured(self.starter.outbox.put)
        self._open.callback(self._measured.close)
        self.starter.listeners.files = SocketFiles(self._paths.run_dir, self.writer.line, self._socket_lost)
        self._oom = Oom()
        self._open.callback(self._oom.close)
        self._reporting = Reporting(self.ledger, self.writer, self._link.pid, self._later)
        self.engine = Engine(self.starter, self.writer.line, self._oom.killed, self._reporting.record)
        self._reporting.engine = self.engine
        self.faults = self.engine.faults
        self._contain = self.faults.contain
        self.writer.shared.note = self.faults.note
        self.faults.strict = strict
        for part in (self.state, self.saving, self.starter.pipes, self.starter.listeners.files):
            part.faults = self.faults
        asyncio.get_running_loop().set_exception_handler(self._raised_by_nobody)
        self.engine.slots.page = Page(self._link.fds)
        self._holding = Holding(self.engine.slots, self.starter.outbox, self.ledger, self.writer)
        self._holding.judge(blobs)
        self.engine.rounds.other = self._hear
        self._link.take = self.engine.rounds.receive
        self._link.broken, self._link.fatal = self.faults.note, self.faults.fatal
        self.starter.pipes.instances = self.engine.slots.facts.instances
        self.starter.pipes.shown = self.engine.slots.shown
        self._build(self._configuration.at(0))
        self.engine.reports.others = self._hear_of_upgrade
        self.engine.configure(self._configuration.at, blobs, saved.get("slots", {}), before.at if before else None)
        if self._prefix is not None:
            self._prefix.width = max((len(entry.name) for entry in self.engine.slots.entries.values()), default=0)
        self._remember(blobs, saved, first=first)
        self.starter.outbox.put(instance.NAME, json.dumps(self._file))
        if first:  # sent with the first round and all else that comes from the disk: no successor reads that again
            self.starter.outbox.put(CONFIG, blobs[CONFIG])
            if self._boot:
                self.starter.outbox.put("booting", "yes")  # until the last portion is out: a successor begins again

    def _adopt(self, table: Sequence[Mapping[str, Any]]) -> None:
        for key in self._reporting.pay(self._link.blobs):
            self.starter.outbox.put(key, None)
        Adoption(self.engine, self.starter, self.writer.line).adopt(table, changing=BEFORE in self._link.blobs)

    def _raised_by_nobody(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What was raised in a callback or a task that belongs to no slot, command, connection, timer, check or pipe."""
        error = context.get("exception")
        if not isinstance(error, Exception) or "transport" in context or "protocol" in context:
            loop.default_exception_handler(context)
        else:
            self.faults.fatal(str(context.get("message", "the event loop")), error)

    def _known_file(self, remembered: str | None) -> dict[str, Any]:
        """The INI file in use: one that was replaced may be gone, even if the shim was started with it."""
        if remembered is not None:
            known: dict[str, Any] = json.loads(remembered)
            return known
        return instance.report(self._conf, instance.stamp(self._conf))

    def open_log(self) -> None:
        """With the memory of the supervisor before us: what was on its way into files, and what was dropped."""
        fds = self._link.fds
        held = {name: fds.pop(name) for name in list(fds) if is_ours(name)}

        def keep(name: str, fd: int | None) -> None:
            self._link.send([{"op": "drop" if fd is None else "keep", "name": name}], [] if fd is None else [fd])

        make = JournalWriter if is_journal(os.environ) else Writer
        own = self._paths.log_file if self._prefix is None else stream.STDERR
        self.writer: Writer = make(own, self._soon, held, keep)
        self._open.callback(self.writer.release)

    def _soon(self, call: Callable[[], object]) -> object:
        """From any thread into the loop's."""
        contained = functools.partial(self._contain, "a thread", "handling its result", call)
        return self._loop.call_soon_threadsafe(contained)

    def _later(self, seconds: float, act: Callable[[], object]) -> object:
        return self._loop.call_later(seconds, self._contain, "the log", "counting repeated lines", act)

    def _warn(self, text: str) -> None:
        """Into the daemon's own log, as something that an operator should see."""
        self.writer.line(text, WARNING)

    # The parts, and what they remember.

    def _build(self, configuration: Config) -> None:
        """Everything that acts on slots by itself. Nothing of it does anything before `_begin`."""
        engine, starter, log = self.engine, self.starter, self.writer.line
        slots = engine.slots
        self._logs = configuration.logs
        self._names = names = Names(engine, configuration.groups)
        self._ending = Ending(engine, starter.outbox, self._link, self._done)
        self._log_files = LogFiles(self.writer, names, slots, starter.pipes, self._paths.log_file)
        self._control_socket = ControlSocket(
            self._paths, starter.outbox, self.writer, self.faults, allowed=configuration.access, threads=self._threads
        )
        self._open.callback(self._control_socket.close)
        engine.reloads.record = self._reporting.reload_turned
        self.rules = rules = Ruleset(
            configuration,
            engine,
            starter,
            self.writer,
            self._reporting,
            shim=self._link.pid,
            ours=(self._paths.log_dir, self._paths.run_dir, self._paths.state_dir),
            ending=lambda: self.commands.ending,
            put=self._put,
        )
        self._open.callback(rules.close)
        rows = Rows(engine, starter, configuration, self.rules.memory.of)
        self.applying = Applying(
            self._file,
            self._paths.state_dir,
            self._configuration,
            engine,
            starter,
            hand_over=lambda: self._hand_over("the configuration has changed"),
            needed=names.with_needs,
            rows=rows.of,
            record=self.ledger.add,
        )
        self._upgrading = Upgrading(starter, self._link.pid, hand_over=self._hand_over_to_new, record=self.ledger.add)
        environments = Environments(names.find, slots.shown, self.applying.on_disk)
        surroundings = Surroundings(
            self._configuration.at, names.find, slots.facts.instances, slots.shown, self._link.baseline
        )
        tailing = Tailing(names.find, starter.pipes.log_files, self._paths.log_file)
        self._alerting = Alerting(
            [alert.name for alert in configuration.alerts.values() if alert.values["enabled"]],
            lambda: {*slots.units, *configuration.timers, *configuration.groups},
            runs=lambda: any(e.is_up for e in slots.entries.values() if e.unit.name == OBSERVER),
            changed=lambda: self.feed.stale(watching.DAEMON),
            keep=lambda text: self._put(alerting.BLOB, text),
        )
        searching = Searching(tailing.where)
        self.status = Status(
            engine,
            names,
            rows,
            who={
                "version": impetusd.__version__,
                "protocol": protocol.VERSION,
                "shim": {"pid": self._link.pid},
                "supervisor": {"pid": os.getpid()},
                "profile": configuration.profile,
                **self._file,
                "in_force": self._configuration.in_force,
            },
            attention=lambda: [
                *self.rules.attention(),
                *engine.reports.attention(),
                *self.applying.disabled(),
                *(
                    (unit.name, because("closed_code", name=unit.name, path=unit.made.closed))
                    for unit in slots.units.values()
                    if unit.made is not None and unit.made.closed
                ),
            ],
            troubles=lambda: [
                *starter.pipes.attention(slots.entries.values()),
                *accounts.attention(engine),
                *self.ledger.attention(),
                *(because("shim", what=what, text=text) for what, text in self._link.troubles.items() if text),
                *self.applying.attention(time.time()),
                *self.faults.attention(),
                *self._alerting.attention(),
            ],
            behind=self.applying.behind,
            held=self._holding.whole,
            more=self._of_gateway,
        )
        self.commands = Commands(
            engine,
            starter.outbox,
            names,
            rows,
            saved=self.saving.done,
            quiesce=self._quiesce,
            end=self._done.set,
            others={
                "ping": self.status.ping,
                "status": self.status.status,
                "describe": self.status.describe,
                "places": self.status.places,
                "logs": self._log_files.logs,
                "health": lambda _: {"checks": self.rules.checks.rows()},
                "metrics": lambda _: self._measured.answer(slots.units.values(), slots.entries.values(), slots.shown),
                "timers": lambda _: {"timers": self.rules.rows_of_timers()},
                "trigger": rules.trigger,
                "reopen-logs": self._log_files.reopen,
                "flush": self._log_files.flush,
                "events": self._events.page,
                "tail": tailing.tail,
                "search": searching.search,
                "watch": lambda params: self.feed.watch(params),  # noqa: PLW0108  # it is made below
                "plan": self.applying.plan,
                "env": environments.env,
                "exec": surroundings.exec,
                "give-socket": Giving(lambda: engine.slots.units, engine.slots.of_unit, starter.listeners).give,
                "apply": self.applying.apply,
                "disable": self.applying.disable,
                "enable": self.applying.enable,
                "upgrade": self._upgrading.upgrade,
                "silence": self._alerting.silence,
                "unsilence": self._alerting.unsilence,
                "alert-test": self._alerting.test,
                "observer-report": self._alerting.report,
            },
            awaited=self.applying.awaited,
            held=self._holding.whole,
        )
        self._ending.commands = self.commands
        board = Board(
            engine,
            rows,
            sampler=Sampler(self.rules.memory.of),
            dropped=starter.pipes.dropped,
            lists={
                watching.DAEMON: self.status.state,
                watching.TIMER: lambda: {row["name"]: row for row in self.rules.rows_of_timers()},
                watching.CHECK: lambda: {f"{row['name']} {row['target']}": row for row in self.rules.checks.rows()},
                watching.RELOAD: lambda: accounts.accounts(engine),
            },
        )
        self.feed = Feed(board, log)
        self.feed.faults = self.faults
        self.feed.listen = self.ledger.pass_on
        self._open.callback(self.feed.close)
        self._upstream = Upstream(
            self._notify_upstream if self._boot and "NOTIFY_SOCKET" in os.environ else None,
            lambda: status_of(slots.entries.values(), slots.shown, engine.waits.reason),
        )
        self._upstream.faults = self.faults
        self._subscribe()

    def _subscribe(self) -> None:
        """Subscribe the parts that are notified of each change of a slot, in order."""
        subscribe, rules = self.engine.changes.subscribe, self.rules
        subscribe(self._reporting.record_change, "recording its change", within=True)
        subscribe(self._ending.changed, "stopping everything because of it", within=True, of_held=False)
        if rules.timers is not None:
            subscribe(rules.timers.changed, "notifying its timer", within=True)
        subscribe(self._reporting.log_change, "logging its change")
        subscribe(self._deliver_early, "delivering its early notifications")
        subscribe(self.commands.changed, "answering commands that wait for it")
        subscribe(self._upstream.changed, "notifying the service manager")
        for part in (rules.memory, rules.readiness, rules.checks, rules.ageing):
            subscribe(part.changed, f"notifying {type(part).__name__.lower()} of its change", of_held=False)
        subscribe(self.feed.changed, "notifying watchers")
        subscribe(self._measured.changed, "updating its metrics")
        subscribe(lambda _: self.saving.soon(), "scheduling a save of its state")

    def _of_gateway(self) -> dict[str, Any]:
        """Where the gateway listens, and what is known of alerts; nothing of either without a section that makes it."""
        told: dict[str, Any] = {}
        gateway, observer = (self.engine.slots.units.get(name) for name in (GATEWAY, OBSERVER))
        section = self._configuration.at(0).gateway
        if gateway is not None and gateway.made is not None and gateway.enabled:
            told["gateway"] = {
                "listen": self.starter.listeners.addresses(gateway),
                "tls": bool(gateway.made.settings["tls_cert"][0]),
                "url": public_url(section.values) if section is not None else "",
                "ceiling": gateway.made.settings["ceiling"][0],
            }
        if observer is not None and observer.made is not None and observer.enabled:
            told["alerts"] = self._alerting.row()
        return told

    def _hand_over(self, why: str) -> None:
        """End as by a kill, once the shim has got everything that was said: the next supervisor goes on."""
        self._say("handing over", f": {why}")
        self._upstream.reloading()  # the next one says READY=1
        self.starter.outbox.flush()
        self._link.when_sent(lambda: os._exit(0))

    def _socket_lost(self, name: str, path: str) -> None:
        def renew() -> None:
            self.starter.listeners.let_go(self.engine.slots.units[name], path)
            self.engine.renew(self.engine.slots.units[name], because("socket_removed", path=path))

        if name in self.engine.slots.units:
            self.faults.contain(name, "rebinding its socket", renew)

    def _hand_over_to_new(self, why: str) -> None:
        entries = self.engine.slots.entries.values()
        if self.engine.slots.held != quarantine.Held():
            self.ledger.add("hold", what="released")
            self.engine.machine.release()
        self.notify_sockets.merge([each.rec.process for each in entries if each.rec.process is not None])
        if self.starter.listeners.files:
            self.starter.listeners.files.close()
        self._hand_over(why)

    def _remember(self, blobs: Mapping[str, str], saved: Mapping[str, Any], *, first: bool) -> None:
        """Restore each part's state from the previous supervisor, or from the previous daemon."""
        contain = self.faults.contain
        self.rules.load(blobs, saved.get("timers", {}) if first else None)
        silences = json.dumps(saved.get(alerting.BLOB, [])) if first else blobs.get(alerting.BLOB, "[]")
        contain("metrics", "reading the saved state", self._measured.load, blobs)
        contain("silences", "reading the saved state", self._alerting.load, silences)
        if first:
            self.starter.outbox.put(alerting.BLOB, silences)

    def _begin(self) -> None:
        """The slots are known: follow what runs."""
        if self.engine.slots.held.whole is None:
            self.rules.begin(timers=not self._link.shutdown and "shutdown" not in self._link.blobs)

    def _put(self, key: str, text: str) -> None:
        self.starter.outbox.put(key, text)
        self.engine.rounds.wake()  # at the end of the round, if this is within one
        if key.startswith("timer:"):
            self.feed.stale(watching.TIMER)
        self.saving.soon()

    def _state_gone(self) -> None:
        self.faults.attempt("state.json", "rewriting it", self._state_missing)

    def _state_missing(self) -> None:
        if not self._done.is_set():
            self.saving.restore()

    def _lasting(self) -> dict[str, Any]:
        slots = {e.name: record.durable(e.rec) for e in self.engine.slots.entries.values() if e.role not in PASSING}
        silences = self._alerting.silences()
        return {"slots": slots, "timers": self.rules.dump_timers(), **({alerting.BLOB: silences} if silences else {})}

    def _notify_upstream(self, text: str) -> None:
        self._link.send([{"op": "notify", "text": redact.text(text)}])

    async def _report_ready(self) -> None:
        """READY=1 when `impetusd start` would return; from a supervisor that takes over, too: the one before may not have."""

        def settled() -> bool:
            wanted = (e for e in self.engine.slots.entries.values() if e.slot.want is Want.UP)
            return all(map(self.engine.waits.settled, (e for e in wanted if e.role not in ONE_SHOT | PASSING)))

        if self._upstream.listens:
            await self.engine.waits.until(lambda: self.commands.ending or (settled() and self.applying.idle))
            if not self.commands.ending:
                self._upstream.ready()

    def _shim_lost(self) -> None:
        """Take its place; if somebody has started it in the foreground, that one will start it again."""
        self._contain("the shim", "handing down who is ready", self._hand_down)
        if self._boot:
            self.writer.close()  # write pending output: the next shim may not have our memory
        else:
            self._lifeline.release()
            custody.become_shim(self._link.shim, self._link.command, custody.log)

    def _hand_down_who_is_ready(self) -> None:
        entries = sorted(self.engine.slots.entries.values(), key=lambda entry: entry.slot.since)
        ready = (each for each in entries if each.policy.wait_ready and each.slot.state is State.RUNNING)
        custody.hand_down(self._paths.run_dir, self._notify.early(e.slot.pid for e in ready if e.slot.pid is not None))

    # Our own sockets.

    def _bind_notify(self) -> None:
        engine, log = self.engine, self.writer.line
        self._notify = Notify(
            self._link, engine.slots.of_pid, self._notified, engine.slots.expects, log, faults=self.faults
        )
        self._open.callback(self._notify.close)
        self._hand_down = self._hand_down_who_is_ready
        self.notify_sockets = NotifySockets(self.starter.outbox, self._paths, self._notify)
        self.starter.notify_address = self.notify_sockets.address
        known = {entry.unit.name for entry in engine.slots.entries.values()}
        self.notify_sockets.resume(self._link.blobs, known, [row["process"] for row in self._link.table])
        if self.notify_sockets.old:
            engine.rounds.report = self._report

    def _inherit(self) -> None:
        """The connections of our own units; answered once the control socket is made."""
        self.inherited = Inherited(
            self.starter,
            lambda sock, peer: self.control.serve(sock, peer),  # noqa: PLW0108  # it is made below
            lambda unit: self.control.count(unit),  # noqa: PLW0108
            self._end_all,
        )
        self.inherited.faults = self.faults
        self._open.callback(self.inherited.close)
        gateway = self._configuration.at(0).gateway
        self.inherited.resume(list(self._link.fds), self.engine.slots.units.values(), gateway)

    def _end_all(self, name: str, reason: Reason) -> None:
        """Kill the unit's processes; those that follow are started anew."""
        unit = self.engine.slots.units.get(name)
        for entry in self.engine.slots.of_unit(unit) if unit is not None else ():
            if entry.rec.process is not None:
                self.engine.fail(entry, reason, hard=True)

    # What happens.

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "shutdown":
            self.faults.attempt("SIGTERM", "stopping everything", self._ending.stop_everything)
            return
        if event["event"] == "apply":
            self._on_signal = asyncio.create_task(self._apply_on_signal())
            return
        if event["event"] == "reopen-logs":
            self.writer.reopen()
            return
        self._hear_of_upgrade(event)

    def _hear_of_upgrade(self, event: dict[str, Any]) -> bool:
        """Whether an event that is no slot's was of a new version, or of the process that tries it."""
        try:
            return self._upgrading.hear(event)
        except Exception as error:
            self.faults.note("upgrade", "handling a message from the shim", error)
            return False

    def _report(self, event: dict[str, Any]) -> None:
        """While processes run that a former version has given the notify socket that all shared."""
        self.engine.reports.hear(event)
        ended = event["event"] in {"exited", "gone"} and not event.get("left")
        if ended and event["process"] in self.notify_sockets.old:
            self.notify_sockets.ended(event["process"])

    def _deliver_early(self, change: Change) -> None:
        """READY=1 may have come before the pid that it came from."""
        if change.after.pid not in {None, change.before.pid}:
            self._notify.replay()

    async def _apply_on_signal(self) -> None:
        try:
            self.starter.outbox.put("hup", None)
            self.commands.refuse_while_held("apply", {})
            await self.applying.apply({"token": ""})
        except ProtocolError as error:
            self.writer.line(f"supervisor: SIGHUP: {error.message}", ERROR)
        except ConnectionAbortedError:
            pass  # the next supervisor reports the outcome
        except Exception as error:
            self.faults.note("SIGHUP", "applying", error)

    def _notified(self, entry: Entry, message: dict[str, str]) -> None:
        self.engine.notified(entry, message)
        if "X_IMPETUSD_REQUESTS" in message and not self.engine.slots.holds(entry):
            self.rules.vetting.counted(entry, message)

    def _flush_soon(self) -> None:
        sending = "the engine", "sending a round"
        asyncio.get_running_loop().call_soon(self.faults.attempt, *sending, self.starter.outbox.flush)

    def _say(self, what: str, more: str = "", **why: Reason) -> None:
        self._reporting.say(what, more, **why)
        self._flush_soon()

    def _command_given(self, fields: dict[str, Any]) -> None:
        self.ledger.add("command", **fields)
        self._flush_soon()

    # The end.

    def _quiesce(self, why: Reason) -> None:
        self._upstream.stopping(stop_within(self.engine.slots.units))
        self._say("stopping", f" everything: {why}", why=why)
        self.rules.end()

    async def _end(self) -> None:
        self.rules.memory.close()
        self.commands.over.set()
        self._events.close()
        await self.control.close()
        await self.rules.ended()
        self._control_socket.remove()
        self.notify_sockets.close()
        if self.starter.listeners.files:
            self.starter.listeners.files.close()
        self.saving.now()
        await self.state.close()
        left = [
            f"{entry.name} (pid {entry.slot.pid})" for entry in self.engine.slots.entries.values() if is_stuck(entry)
        ]
        self._say(
            "ended",
            f": left running, because SIGKILL has no effect: {', '.join(left)}" if left else ": everything is stopped",
        )
        self.starter.outbox.flush()
        for close in (self.ledger.close, self.writer.close):
            with contextlib.suppress(NoAnswer):  # writes that a disk has not finished by now are not waited for
                await self._threads.run(close, CLOSED_WITHIN)
        self.starter.outbox.quit(self._ending.code)

    def stop_writing(self) -> None:
        """End the threads that write files. Blocks, 10 s at most."""
        self.ledger.close()
        self.writer.close()

    def close(self) -> None:
        """Let go of every descriptor, clock and watch, once the loop has ended; what was kept is the shim's."""
        self._open.close()


def main() -> NoReturn:
    """Run. The exit status is only for the shim's log; whether to start again is sent over the channel."""
    fields = json.loads(sys.argv[2])
    how = {name: fields.pop(name) for name in ("logs", "profile") if name in fields}
    boot = fields.pop("boot", False)
    paths = Paths(**fields)

    async def run() -> Daemon:
        daemon = Daemon(sys.argv[1], paths, boot=boot, **how)
        try:
            await daemon.run()
        except Exception as error:
            traces.show(error)
            os._exit(os.EX_SOFTWARE)  # at once: no other task is waited for
        return daemon

    traces.install()
    # SIGINT ends it as any other signal does, at once: asyncio would cancel every task first, and each would clean up.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(run()).close()
    os._exit(0)  # as the shim ends: nothing is buffered, and a stop would wait for the interpreter's own end
