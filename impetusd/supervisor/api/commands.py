"""An operator's requests: how each is carried out, and the methods that start, stop and replace what runs.

What their names mean is in `names`, what only asks in `status`; methods with a subject of their own are given by name.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from impetusd.core.config.model import Kind, Unit
from impetusd.core.protocol import EXIT_FAILED, EXIT_USAGE, FAILED, ProtocolError, Request
from impetusd.core.reasons import Reason, because
from impetusd.core.rules import quarantine, tree
from impetusd.core.rules.lifecycle import IDLE, State, Want, is_unkillable
from impetusd.supervisor.api.control import SIGNED, Flow, Progress
from impetusd.supervisor.api.names import Names, disabled
from impetusd.supervisor.api.reloading import Reloading
from impetusd.supervisor.api.rows import Rows
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.entry import ONE_SHOT, Entry, Role
from impetusd.supervisor.start.link import Outbox

BEGIN = frozenset({"start", "restart", "reload", "scale", "trigger", "apply", "enable", "disable", "upgrade"})
CHANGE = frozenset({"apply", "enable", "disable"})


class Commands:
    """The methods, by name. `ending` is set once everything has been ordered to stop for good."""

    def __init__(
        self,
        engine: Engine,
        outbox: Outbox,
        names: Names,
        rows: Rows,
        *,
        saved: Callable[[], Awaitable[None]],
        quiesce: Callable[[Reason], None],
        end: Callable[[], None],
        others: Mapping[str, Callable[[dict[str, Any]], Any]],
        awaited: Callable[[], list[Entry]],
        held: Callable[[], dict[str, Any] | None],
    ) -> None:
        """`saved` waits until all that must survive a reboot is on the disk; `quiesce` stops automatic starts and
        replacements; `end` ends the daemon once the answer is out.

        `others` are the methods that are not here; `awaited`: what a change of the configuration waits for; `held`: why
        nothing is started at all, see `quarantine.facts`.
        """
        self._engine = engine
        self._outbox = outbox
        self._names = names
        self._rows = rows
        self._saved = saved
        self._quiesce = quiesce
        self._end = end
        self._awaited = awaited
        self._held = held
        self._reloading = Reloading(engine, rows, names)
        self._listeners: set[Progress] = set()
        self._methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            "start": self._start,
            "restart": self._restart,
            "reload": self._reloading.reload,
            "stop": self._stop,
            "scale": self._scale,
            "signal": self._signal,
            **others,
        }
        self.ending = False  # everything is being stopped for good: nothing is started any more
        self.over = asyncio.Event()  # and now it is

    def changed(self, change: Change) -> None:
        """A slot has changed: notify clients that wait for an answer."""
        entry, before, after = change
        if before.state is not after.state:
            for progress in self._listeners:
                reason = self._engine.waits.reason(entry, after)
                progress(self._engine.slots.shown(entry), after.state.name, str(reason))
        if before.pid is not None and after.pid != before.pid:
            self._rows.forget(before.pid)

    async def handle(self, request: Request, progress: Progress) -> Mapping[str, Any] | Flow:
        """Carry out one request. Raises ProtocolError for what cannot be done."""
        if self.ending and request.method in BEGIN:
            # A process started now would have no supervisor. The client is disconnected at the end and tries again.
            await self.over.wait()
            raise ConnectionAbortedError
        self.refuse_while_held(request.method, request.params)
        self._listeners.add(progress)
        if request.method in CHANGE:
            for entry in self._awaited():
                progress(self._engine.slots.shown(entry), entry.slot.state.name, str(self._engine.waits.reason(entry)))
        try:
            more: dict[str, Any] = {"by": request.by} if request.method in SIGNED else {}
            if request.method == "give-socket":
                more["pid"] = request.pid
            answer = self._methods[request.method]({**request.params, **more})
            result: Mapping[str, Any] | Flow = await answer if asyncio.iscoroutine(answer) else answer
        finally:
            self._listeners.discard(progress)
        return result

    def refuse_while_held(self, method: str, params: Mapping[str, Any]) -> None:
        """ProtocolError for what would start, replace or change something that is held. What has ended is let go for it."""
        if method not in quarantine.BEGIN:
            return
        if (whole := self._held()) is not None:
            sentence = f"{quarantine.reason(whole)}; run: {quarantine.way_out(quarantine.HOLD_ONLY)}"
            raise ProtocolError(FAILED, sentence, EXIT_FAILED)
        named = params.get("names") or ([params["name"]] if "name" in params else [])
        if not self._engine.slots.held.slots or (method == "start" and not named):
            return
        units = {entry.unit.name for entry in self._names.find(named)} if named and method not in CHANGE else None
        concerned = [e for e in self._engine.slots.entries.values() if units is None or e.unit.name in units]
        if method in {"start", "restart"} and named:
            concerned = self._names.find(named)
        concerned = [entry for entry in concerned if self._engine.slots.holds(entry)]
        for entry in concerned:
            why = self._engine.slots.held_because(entry)
            if why is not None and entry.rec.process is not None:
                name = self._engine.slots.shown(entry)
                sentence = f"{name} is {quarantine.reason(why)}; run: {quarantine.way_out(why['key'], name)}"
                raise ProtocolError(FAILED, sentence, EXIT_FAILED)
        if method not in CHANGE:
            self._engine.machine.release({name for entry in concerned for name in (entry.name, entry.unit.name)})

    # Doing.

    async def _start(self, params: dict[str, Any]) -> dict[str, Any]:
        names = params["names"]
        asked = self._names.lasting(names) if names else self._names.autostarted()
        asked = self._names.with_needs(asked)
        held = any(entry.rec.stopped for entry in asked)
        self._engine.start(asked)
        if held:
            await self._saved()
        return await self._settled(asked, wait=params["wait"])

    async def _settled(self, entries: list[Entry], *, wait: bool) -> dict[str, Any]:
        def present() -> list[Entry]:
            return [entry for entry in entries if entry.name in self._engine.slots.entries]

        if wait:
            await self._engine.waits.until(lambda: all(self._engine.waits.settled(entry) for entry in present()))
        ok = all(entry.slot.state is State.RUNNING or self._is_fine(entry) for entry in present())
        return {"ok": ok or not wait, "units": self._rows.of(present())}

    def _is_fine(self, entry: Entry) -> bool:
        """Not RUNNING and yet as it should be: it has done its work, is an unneeded template, or was scaled away."""
        slot = entry.slot
        return (
            slot.state is State.EXITED
            or entry.dismissed
            or self._engine.versions.puts_away(entry)
            or (entry.role is Role.TEMPLATE and not self._engine.slots.facts.preloads(entry.unit))
        )

    async def _restart(self, params: dict[str, Any]) -> dict[str, Any]:
        names = params["names"]
        active = [e for e in self._engine.slots.entries.values() if e.role not in ONE_SHOT and e.slot.state not in IDLE]
        named = self._names.lasting(names) if names else active
        asked = self._names.with_needs(named)
        reloaded = self._reloading.whole(named) if params["rolling"] else {}
        if params["rolling"]:
            how = self._reloading.roll(reloaded.values(), because("rolling_restart"))
            named = [entry for entry in named if entry.unit.name not in reloaded]
            asked = [entry for entry in asked if entry.unit.name not in reloaded]
            taken = self._engine.roll(named, because("rolling_restart"))
            before = {entry.slot.pid: entry for entry in taken}
        else:
            taken, before = named, {}
            self._engine.restart(named)
        self._engine.start([entry for entry in asked if entry not in taken])
        answer = await self._settled(asked, wait=params["wait"])
        kept = [entry for pid, entry in before.items() if entry.slot.pid == pid and entry.slot.state is State.RUNNING]
        if params["wait"] and answer["ok"] and kept:  # the failed slot was made for this alone and is already removed
            raise ProtocolError(FAILED, f"{kept[0].name} is {self._engine.waits.reason(kept[0])}", EXIT_FAILED)
        if not reloaded:
            return answer
        if not params["wait"]:
            return {**answer, "reloads": []}
        told = await self._reloading.over(list(reloaded.values()), how)
        return {**told, "ok": answer["ok"] and told["ok"], "units": [*answer["units"], *told["units"]]}

    async def _stop(self, params: dict[str, Any]) -> dict[str, Any]:
        names = params["names"]
        asked = self._names.find(names) if names else list(self._engine.slots.entries.values())
        if names:
            self._engine.hold(entry for entry in asked if entry.role not in ONE_SHOT)
        else:
            self.begin_shutdown(because("stop_asked"))
            self._outbox.put("shutdown", "yes")
        killed = await self.stop_in_order(asked)
        if names:
            await self._saved()
        rows = list(self._rows.of(asked))
        if not names:
            self._end()
        return {"ok": not any(map(is_stuck, asked)), "killed": killed, "units": rows}

    def begin_shutdown(self, why: Reason) -> None:
        """From here on refuse all starts, by commands and by rules. `why` is the reason."""
        if not self.ending:
            self.ending = True
            self._quiesce(why)

    async def stop_in_order(self, entries: list[Entry]) -> list[str]:
        """Stop all at once, except that a unit waits until those that depend on it are down. Returns who was killed.

        Processes that even SIGKILL does not end are left behind: neither a command nor the host's shutdown waits for
        them.
        """
        busy = [entry for entry in entries if entry.slot.state not in IDLE]
        graph = {unit.name: unit.depends_on for unit in self._engine.slots.units.values()}
        above = tree.dependents(graph)
        mine: dict[str, list[Entry]] = {}
        for entry in entries:
            mine.setdefault(entry.unit.name, []).append(entry)

        async def stop_unit(name: str) -> None:
            try:
                for dependent in mine.keys() & above[name]:
                    await over[dependent].wait()
                own = mine[name]
                self._engine.stop(own)
                await self._engine.waits.until(lambda: all(is_over(e) or is_stuck(e) for e in own))
            finally:
                over[name].set()  # also if this one raises: the others are stopped all the same

        over = {name: asyncio.Event() for name in mine}
        for outcome in await asyncio.gather(*map(stop_unit, mine), return_exceptions=True):
            if outcome is not None:
                raise outcome
        return [self._engine.slots.shown(entry) for entry in busy if entry.slot.kills]

    async def _scale(self, params: dict[str, Any]) -> dict[str, Any]:
        unit = self._engine.slots.units.get(params["name"])
        if params["name"] in self._names.groups:
            raise ProtocolError(FAILED, f"{params['name']} is a group; scale its members one by one", EXIT_USAGE)
        if unit is None:
            unit = self._names.find([params["name"]])[0].unit
            raise ProtocolError(FAILED, f"{params['name']} is one slot; scale {unit.name} instead", EXIT_USAGE)
        count = self._wanted(unit, params["n"], params["token"])
        self._refuse_scale(unit, count)
        changed = self._engine.scale(unit, count, params["token"])
        await self._engine.waits.until(lambda: all(is_over(e) or is_stuck(e) for e in changed if e.dismissed))
        return await self._settled(self._engine.slots.of_unit(unit), wait=True)

    def _wanted(self, unit: Unit, n: int | str, token: str) -> int:
        """`n` is how many, or as "+1" how many more; not once more, if this was asked before with the same token."""
        present = self._engine.slots.facts.instances(unit)
        if isinstance(n, int):
            return n
        return present if token and self._engine.slots.facts.was_scaled(unit, token) else present + int(n)

    @staticmethod
    def _refuse_scale(unit: Unit, count: int) -> None:
        if not unit.enabled:
            raise ProtocolError(FAILED, disabled(unit.name), EXIT_FAILED)
        if count < 1:
            raise ProtocolError(FAILED, f"{unit.name} needs at least one instance; to run none, stop it", EXIT_USAGE)
        bounded = unit.instances_max > unit.instances or unit.per_instance
        if bounded and count > unit.instances_max:
            most = f"{unit.name} is limited to {unit.instances_max} instances by its INI section (instances)"
            raise ProtocolError(FAILED, f"{most}; to run more, raise that limit", EXIT_USAGE)
        if unit.kind not in {Kind.POOL, Kind.PROGRAM}:
            what = "timer" if unit.kind is Kind.TIMER else "health check"
            raise ProtocolError(FAILED, f"{unit.name} is a {what}; it runs one process at a time", EXIT_USAGE)

    def _signal(self, params: dict[str, Any]) -> dict[str, Any]:
        number = parse_signal(params["signal"])
        sent = [entry for entry in self._names.find(params["names"]) if entry.slot.pid is not None]
        if not sent:
            raise ProtocolError(FAILED, f"no process is running in {', '.join(params['names'])}", EXIT_FAILED)
        self._engine.signal(sent, number)
        return {"ok": True, "signalled": [self._engine.slots.shown(entry) for entry in sent]}


def is_over(entry: Entry) -> bool:
    """Whether its stop is over: nothing runs, or another operator wants it up again."""
    return entry.slot.state is State.STOPPED or entry.slot.want is Want.UP


def is_stuck(entry: Entry) -> bool:
    """Its stop will not be over before the kernel lets go of its process."""
    return entry.slot.state is State.STOPPING and is_unkillable(entry.policy, entry.slot)


def parse_signal(text: str) -> int:
    """HUP, SIGHUP or 1. Raises ProtocolError."""
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    try:
        number = int(text) if text.isascii() and text.isdigit() else signal.Signals[name].value
    except (KeyError, ValueError):  # of too many digits, too
        number = 0
    if number not in signal.valid_signals():
        raise ProtocolError(FAILED, f"unknown signal {text}; kill -l lists all signals", EXIT_USAGE)
    return number
