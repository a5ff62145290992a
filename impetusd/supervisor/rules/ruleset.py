"""All rules that act on slots: timers, checks, memory limits, ages, watched files, readiness.

Each part is described in its own module. They are made before the slots are known, and do nothing until `begin`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from impetusd.core.protocol import EXIT_UNKNOWN_NAME, FAILED, ProtocolError
from impetusd.core.rules.health import Turn
from impetusd.linux.procfs import boot_id
from impetusd.supervisor.rules.ageing import Ageing
from impetusd.supervisor.rules.checks import Checks
from impetusd.supervisor.rules.jobs import Jobs
from impetusd.supervisor.rules.memory import Memory
from impetusd.supervisor.rules.prober import Prober
from impetusd.supervisor.rules.readiness import Readiness
from impetusd.supervisor.rules.vetting import Vetting

if TYPE_CHECKING:
    import socket

    from impetusd.core.config.model import Config, Health, Unit
    from impetusd.core.reasons import Reason
    from impetusd.supervisor.logs.writer import Writer
    from impetusd.supervisor.reporting import Reporting
    from impetusd.supervisor.rules.filewatch import FileWatch
    from impetusd.supervisor.rules.timers import Timers
    from impetusd.supervisor.slots.engine import Engine
    from impetusd.supervisor.slots.entry import Entry
    from impetusd.supervisor.start.starter import Starter


class Ruleset:
    """The parts by name; those in `following` follow each process from its start."""

    def __init__(
        self,
        configuration: Config,
        engine: Engine,
        starter: Starter,
        writer: Writer,
        reporting: Reporting,
        *,
        shim: int,
        ours: Sequence[str],
        ending: Callable[[], bool],
        put: Callable[[str, str], None],
    ) -> None:
        """`shim`: its pid. `ours`: folders that are not watched. `ending`: whether everything is being stopped. `put`
        keeps a text under a key for the next supervisor.
        """
        self._engine = engine
        self._starter = starter
        self._writer = writer
        self._reporting = reporting
        log, slots = writer.line, engine.slots
        jobs = Jobs(engine, ending)
        prober = Prober(connect=self._connect, run_job=jobs.run)
        self.timers = self._timers(configuration, jobs, put) if configuration.timers else None
        self.checks = Checks(
            configuration.health.values(),
            ask=prober.ask,
            slots=lambda name: slots.of_unit(slots.units[name]),
            shown=slots.shown,
            fail=engine.fail,
            turned=self._check_turned,
            save=lambda: put("checks", self.checks.dump()),
        )
        engine.reloads.vetting = self.vetting = Vetting(
            configuration.health.values(),
            ask=prober.ask,
            count=lambda process: starter.channels.send(process, {"do": "count"}),
            slots=slots.of_unit,
            fail=engine.fail,
            wake=engine.rounds.wake,
        )
        self.readiness = Readiness(ready=engine.reports.ready, watch_line=self._watch_line)
        self.memory = Memory(
            shim,
            engine.recycle,
            lambda entry, reason: engine.fail(entry, reason, hard=True),
            log,
            lambda text: put("memory", text),
        )
        self.ageing = Ageing(engine.recycle)
        self._ours = ours
        self._files: FileWatch | None = None  # once `begin` has found any to watch
        for part in (self.checks, self.ageing, self.memory, self.readiness, self.vetting):
            part.faults = engine.faults
        self.following = (self.memory, self.readiness, self.ageing)

    def _timers(self, configuration: Config, jobs: Jobs, put: Callable[[str, str], None]) -> Timers:
        """Imported where there are any: 0.1 MB."""
        from impetusd.supervisor.rules.timer_job import Effects
        from impetusd.supervisor.rules.timers import Timers

        effects = Effects(
            start=jobs.start,
            stop=jobs.stop,
            keep=lambda name, text: put(f"timer:{name}", text),
            log=self._writer.line,
            record=lambda name, outcome, attempt: self._reporting.timer_ran(
                configuration.timers[name].retries, name, outcome, attempt
            ),
            boot_id=boot_id(),
            faults=self._engine.faults,
        )
        return Timers(configuration.timers, effects)

    def load(self, blobs: Mapping[str, str], saved: Mapping[str, Any] | None) -> None:
        """What the previous supervisor remembered; `saved`: timers of the daemon before, if this is a daemon's first."""
        contain = self._engine.faults.contain
        if self.timers is not None:
            of_timers = {key.partition(":")[2]: text for key, text in blobs.items() if key.startswith("timer:")}
            records = of_timers if saved is None else saved
            contain("timers", "reading its saved state", self.timers.load, records, anew=saved is not None)
            for name, text in self.timers.dump().items() if saved is not None else ():
                self._starter.outbox.put(f"timer:{name}", text)
        if "checks" in blobs:
            contain("health checks", "reading its saved state", self.checks.load, blobs["checks"])
        if "memory" in blobs:
            contain("memory ceilings", "reading its saved state", self.memory.load, blobs["memory"])

    def begin(self, *, timers: bool) -> None:
        """The slots are known: follow what runs. `timers`: not while everything is being stopped."""
        slots, contain = self._engine.slots, self._engine.faults.contain
        for entry in list(slots.entries.values()):
            if slots.holds(entry):
                continue
            if entry.slot.pid is not None:
                slots.page.at(entry.name, "following it")
                for part in self.following:
                    contain(entry.name, f"handling its change in {type(part).__name__.lower()}", part.follow, entry)
            if entry.serves and entry.rec.process is not None:
                go_on = self._starter.channels.go_on_measuring
                contain(entry.name, "resuming its measurement", go_on, entry.rec.process, entry.name)
        slots.page.blank()
        contain("health checks", "starting", self.checks.begin)
        watched = [unit for unit in slots.units.values() if unit.enabled and unit.watch]
        if watched:
            contain("watched files", "starting", self._watch_files, watched)
        if timers and self.timers is not None:
            self._engine.faults.attempt("timers", "starting", self._begin, self.timers)

    def _watch_files(self, units: Sequence[Unit]) -> None:
        """Imported where there are any."""
        from impetusd.supervisor.rules.filewatch import FileWatch

        self._files = FileWatch(self._engine.renew, self._writer.line, self._ours)
        self._files.faults = self._engine.faults
        self._files.watch(units)

    def _begin(self, timers: Timers) -> None:
        timers.begin({entry.unit.name: entry.slot for entry in self._engine.slots.entries.values()})

    async def trigger(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method: run a timer now."""
        if self.timers is None:
            raise ProtocolError(FAILED, f"no timer {params['name']}: no timers are configured", EXIT_UNKNOWN_NAME)
        slots = self._engine.slots
        run = await self.timers.trigger(params["name"], wait=params["wait"])
        (entry,) = slots.of_unit(slots.units[params["name"]])
        if params["wait"]:
            await self._engine.waits.until(lambda: not entry.tail_due)  # its last words are in its log then
        out, error = self._starter.pipes.log_files(entry)
        return {"ok": run is None or run["ok"], "run": run, "log_files": {"out": out, "error": error}}

    def rows_of_timers(self) -> list[dict[str, Any]]:
        """The answer to `timers`."""
        return self.timers.rows() if self.timers is not None else []

    def attention(self) -> list[tuple[str, Reason]]:
        """(name, what to say) for each target that a check finds unhealthy, and each timer whose last run failed."""
        return [*self.checks.attention(), *(self.timers.attention() if self.timers is not None else ())]

    def dump_timers(self) -> dict[str, str]:
        """The record of each timer, for the next daemon."""
        return self.timers.dump() if self.timers is not None else {}

    def end(self) -> None:
        """Everything is about to be stopped: start and replace nothing any more."""
        if self.timers is not None:
            self.timers.close()
        self.ageing.close()
        self._engine.changes.unsubscribe(self.ageing.changed)
        self.memory.end()
        if self._files is not None:
            self._files.watch(())

    async def ended(self) -> None:
        """Wait for what `end` has ended."""
        if self._files is not None:
            await self._files.close()

    def close(self) -> None:
        """Let go of clocks and descriptors."""
        for part in (self.ageing, self.memory, self.timers):
            if part is not None:
                part.close()

    def _check_turned(self, check: Health, target: str, turn: Turn, failures: int, reason: Reason) -> None:
        self._reporting.check_turned(check, target, turn, failures, reason)
        if turn is Turn.ILL:
            self._engine.reloads.turned(check.target, target, reason)

    def _connect(self, worker: Entry) -> socket.socket | None:
        return self._starter.channels.connect(worker.rec.process) if worker.rec.process is not None else None

    def _watch_line(self, entry: Entry, pattern: str, found: Callable[[], None]) -> Callable[[], object]:
        """Call `found` at the first line of the slot's present run that the pattern is found in."""
        source, loop = (entry.name, "handling its readiness"), asyncio.get_running_loop()
        soon = functools.partial(loop.call_soon_threadsafe, self._engine.faults.contain, *source, found)
        pipes = self._starter.pipes.names(entry)
        for pipe in pipes:
            self._writer.watch_line(pipe, pattern.encode(), soon)

        def end() -> None:
            for pipe in pipes:
                self._writer.unwatch(pipe)

        return end
