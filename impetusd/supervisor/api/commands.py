"""An operator's requests and their answers: the implementation of each method of the control protocol."""

from __future__ import annotations

import asyncio
import fnmatch
import signal
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any

import impetusd
from impetusd.core import protocol
from impetusd.core.config.model import Config, Kind, Unit
from impetusd.core.protocol import (
    EXIT_FAILED,
    EXIT_UNKNOWN_NAME,
    EXIT_USAGE,
    FAILED,
    ProtocolError,
    Request,
    is_pattern,
)
from impetusd.core.reasons import Reason, because
from impetusd.core.rules import quarantine, tree
from impetusd.core.rules.lifecycle import State, Want, is_unkillable
from impetusd.supervisor.api.control import SIGNED, Flow, Progress
from impetusd.supervisor.api.reloading import Reloading
from impetusd.supervisor.api.rows import Rows
from impetusd.supervisor.logs.stream import STDOUT
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.entry import IDLE, ONE_SHOT, Entry, Role
from impetusd.supervisor.start.starter import Starter

BEGIN = frozenset({"start", "restart", "reload", "scale", "trigger", "apply", "enable", "disable", "upgrade"})
CHANGE = frozenset({"apply", "enable", "disable"})
MOST_TOLD = 50  # units listed for an unknown name


def disabled(name: str) -> str:
    """Why it is disabled and how to re-enable it, depending on which of the two disabled it."""
    return f"{name} is disabled; run: impetusd enable {name} (or remove enabled = no from the INI file and apply)"


class Commands:
    """The methods, by name. `ending` is set once everything has been ordered to stop for good."""

    def __init__(
        self,
        engine: Engine,
        starter: Starter,
        rows: Rows,
        *,
        configuration: Config,
        file: Mapping[str, Any],
        pids: tuple[int, int],
        saved: Callable[[], Awaitable[None]],
        quiesce: Callable[[Reason], None],
        end: Callable[[], None],
        others: Mapping[str, Callable[[dict[str, Any]], Any]],
        attention: Callable[[], list[tuple[str, Reason]]],
        troubles: Callable[[], list[Reason]],
        awaited: Callable[[], list[Entry]],
        behind: Callable[[], list[str]],
        held: Callable[[], dict[str, Any] | None],
        more: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """`file`: the INI file, see `instance.report`. `pids` are the shim's and ours.

        `saved` waits until all that must survive a reboot is on the disk; `quiesce` stops automatic starts and
        replacements; `end` ends the daemon once the answer is out.

        `others` are methods that are not about slots; `attention` gives (unit, what to say) that `status` is to show,
        `troubles` those of impetusd itself; `awaited` what a change of the configuration waits for; `behind` units
        where a change of the configuration has not taken effect. `held`: why nothing is started at all, see
        `quarantine.facts`. `more`: what `status` says besides.
        """
        self._others = others
        self._attention = attention
        self._troubles = troubles
        self._awaited = awaited
        self._behind = behind
        self._held = held
        self._more = more
        self._engine = engine
        self._starter = starter
        self._paths = configuration.paths
        self._file = file
        self._profile = configuration.profile
        self._groups = configuration.groups
        self._shim_pid, self._own_pid = pids
        self._saved = saved
        self._quiesce = quiesce
        self._end = end
        self._rows = rows
        self.reloading = Reloading(engine, rows, self._lasting, self.with_needs)
        self._listeners: set[Progress] = set()
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
        methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            "ping": self._ping,
            "status": self._status,
            "describe": self._describe,
            "places": self._places,
            "logs": self._logs,
            "start": self._start,
            "restart": self._restart,
            "reload": self.reloading.reload,
            "stop": self._stop,
            "scale": self._scale,
            "signal": self._signal,
            **self._others,
        }
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
            answer = methods[request.method]({**request.params, **more})
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
        units = {entry.unit.name for entry in self.find(named)} if named and method not in CHANGE else None
        concerned = [e for e in self._engine.slots.entries.values() if units is None or e.unit.name in units]
        if method in {"start", "restart"} and named:
            concerned = self.find(named)
        concerned = [entry for entry in concerned if self._engine.slots.holds(entry)]
        for entry in concerned:
            why = self._engine.slots.held_because(entry)
            if why is not None and entry.rec.process is not None:
                name = self._engine.slots.shown(entry)
                sentence = f"{name} is {quarantine.reason(why)}; run: {quarantine.way_out(why['key'], name)}"
                raise ProtocolError(FAILED, sentence, EXIT_FAILED)
        if method not in CHANGE:
            self._engine.machine.release({name for entry in concerned for name in (entry.name, entry.unit.name)})

    # Names.

    def find(self, patterns: Iterable[str]) -> list[Entry]:
        """The slots that `patterns` name: units, slots, groups, or globs over them. ProtocolError for an unknown one."""
        found: dict[str, Entry] = {}
        known = self._names()
        for pattern in patterns:
            matching = fnmatch.filter(known, pattern) if is_pattern(pattern) else [pattern]
            named = [entry for name in matching for entry in known.get(name, ())]
            if not named and pattern not in self._engine.slots.units and pattern not in self._groups:
                raise ProtocolError(FAILED, f"no unit '{pattern}'{self._near(pattern)}", EXIT_UNKNOWN_NAME)
            if not named:
                raise ProtocolError(FAILED, disabled(pattern), EXIT_FAILED)
            found.update({entry.name: entry for entry in named})
        return [entry for entry in self._engine.slots.entries.values() if entry.name in found]

    def _names(self) -> dict[str, list[Entry]]:
        """The slots that each name stands for: a unit, a slot (by its own or its displayed name), or a group."""
        known: dict[str, list[Entry]] = {}
        of_unit: dict[str, list[Entry]] = {}
        for entry in self._engine.slots.entries.values():
            of_unit.setdefault(entry.unit.name, []).append(entry)
            for name in {entry.unit.name, entry.name, self._engine.slots.shown(entry)}:
                known.setdefault(name, []).append(entry)
        for group in self._groups.values():
            members = [entry for name in group.members for entry in of_unit.get(name, ())]
            known[group.name] = [*known.get(group.name, ()), *members]
        return known

    def _near(self, pattern: str) -> str:
        import difflib

        names = list(
            dict.fromkeys(
                [
                    *self._engine.slots.units,
                    *self._groups,
                    *map(self._engine.slots.shown, self._engine.slots.entries.values()),
                ]
            )
        )
        near = difflib.get_close_matches(pattern, names, 1)
        units = list(self._engine.slots.units)
        more = f" and {len(units) - MOST_TOLD} more" if len(units) > MOST_TOLD else ""
        if near:
            return f"; did you mean {near[0]}?"
        all_of_them = "; for everything, give no name" if pattern == "all" else ""
        return f"; units: {', '.join(units[:MOST_TOLD]) or 'none'}{more}{all_of_them}"

    # Asking.

    def _ping(self, _: dict[str, Any]) -> dict[str, Any]:
        return {**self._who(), "ready": True}

    def _who(self) -> dict[str, Any]:
        return {
            "version": impetusd.__version__,
            "protocol": protocol.VERSION,
            "shim": {"pid": self._shim_pid},
            "supervisor": {"pid": self._own_pid},
            "profile": self._profile,
            "behind": self._behind(),
            **self._file,
        }

    def _status(self, params: dict[str, Any]) -> dict[str, Any]:
        names = params["names"]
        entries = self.find(names) if names else self._rows.shown()
        groups = {group.name: group.members for group in self._groups.values()}
        answer = {**self._who(), **self._more(), "units": self._rows.of(entries), "groups": groups}
        return {**answer, **self.attention({entry.unit.name for entry in entries} if names else None)}

    def attention(self, units: Collection[str] | None = None) -> dict[str, Any]:
        """What needs attention, apart from slots: of these units (None: all), and of impetusd itself."""
        troubles, held = self._troubles(), self._held()
        told = [*(said for unit, said in self._attention() if units is None or unit in units), *troubles]
        if held is not None:
            out = quarantine.way_out(quarantine.HOLD_ONLY)
            told.insert(0, because("way_out", cause=quarantine.reason(held), what=out))
        notices = [{**reason.shown(), "own": at >= len(told) - len(troubles)} for at, reason in enumerate(told)]
        attention = [notice["text"] for notice in notices]
        own = [notice["text"] for notice in notices if notice["own"]]
        return {"attention": attention, "troubles": own, "notices": notices, "held": held}

    def state(self) -> dict[str, dict[str, Any]]:
        """The one row for `watch` of state that belongs to no unit."""
        return {"": {**self._who(), **self._more(), **self.attention()}}

    def _describe(self, params: dict[str, Any]) -> dict[str, Any]:
        name = params["name"]
        groups = [group for group in self._groups.values() if fnmatch.fnmatchcase(group.name, name)]
        return {
            "units": [self._rows.details(entry) for entry in self.find([name])],
            "groups": [{"name": each.name, "members": each.members, "where": each.where} for each in groups],
            "profile": self._profile,
        }

    def _places(self, params: dict[str, Any]) -> dict[str, Any]:
        units = self._engine.slots.units
        found = [units[name] for name in params["names"] if name in units]
        return {"units": {each.name: {"where": each.where, "needs": list(each.depends_on)} for each in found}}

    def _logs(self, params: dict[str, Any]) -> dict[str, Any]:
        own = "impetusd"
        names = [name for name in params["names"] if name != own]
        files = []
        for entry in self.find(names) if params["names"] else self._engine.slots.entries.values():
            for stream, path in zip(("out", "error"), self._starter.pipes.log_files(entry), strict=True):
                if path != STDOUT:
                    files.append({"name": self._engine.slots.shown(entry), "stream": stream, "path": path})
        if self._starter.pipes.prefix is not None:
            if not files:
                text = "what programs print goes to the standard output of `impetusd run`, and its own log to standard error"
                raise ProtocolError(
                    FAILED, f"{text}: see the log of the container, or of whatever started it", EXIT_FAILED
                )
        elif not params["names"] or own in params["names"]:
            files.append({"name": own, "stream": "daemon", "path": self._paths.log_file})
        return {"files": files}

    # Doing.

    async def _start(self, params: dict[str, Any]) -> dict[str, Any]:
        names = params["names"]
        asked = self._lasting(names) if names else self.autostarted()
        asked = self.with_needs(asked)
        held = any(entry.rec.stopped for entry in asked)
        self._engine.start(asked)
        if held:
            await self._saved()
        return await self._settled(asked, wait=params["wait"])

    def _lasting(self, names: list[str]) -> list[Entry]:
        """The slots named, without those of one-shot processes: a timer's is started by its timer."""
        found = self.find(names)
        lasting = [entry for entry in found if entry.role not in ONE_SHOT]
        if found and not lasting:
            name = found[0].unit.name
            what = f"a timer; to run it now: impetusd trigger {name}"
            if found[0].role is Role.CHECK:
                what = "the command of a health check, which runs by itself; impetusd health tells what it says"
            raise ProtocolError(FAILED, f"{name} is {what}", EXIT_USAGE)
        return lasting

    def autostarted(self) -> list[Entry]:
        """The slots of each unit that starts with the daemon."""
        return [entry for entry in self._engine.slots.entries.values() if entry.unit.autostart and not is_done(entry)]

    def with_needs(self, entries: list[Entry]) -> list[Entry]:
        """Those, the units that they depend on, and their templates: what has to run for them to run."""
        units = self._engine.slots.units
        wanted = {entry.name for entry in entries}
        needed: set[str] = set()
        queue = [name for entry in entries for name in entry.unit.depends_on]
        while queue:
            name = queue.pop()
            if name not in needed and units[name].enabled:
                needed.add(name)
                queue += units[name].depends_on
        pools = {entry.unit.name for entry in entries}
        return [
            entry
            for entry in self._engine.slots.entries.values()
            if entry.name in wanted
            or (entry.unit.name in needed and not is_done(entry))
            or (
                entry.role is Role.TEMPLATE
                and entry.unit.name in pools
                and self._engine.slots.facts.preloads(entry.unit)
            )
        ]

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
        named = self._lasting(names) if names else active
        asked = self.with_needs(named)
        reloaded = self.reloading.whole(named) if params["rolling"] else {}
        if params["rolling"]:
            how = self.reloading.roll(reloaded.values(), because("rolling_restart"))
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
        told = await self.reloading.over(list(reloaded.values()), how)
        return {**told, "ok": answer["ok"] and told["ok"], "units": [*answer["units"], *told["units"]]}

    async def _stop(self, params: dict[str, Any]) -> dict[str, Any]:
        names = params["names"]
        asked = self.find(names) if names else list(self._engine.slots.entries.values())
        if names:
            self._engine.hold(entry for entry in asked if entry.role not in ONE_SHOT)
        else:
            self.begin_shutdown(because("stop_asked"))
            self._starter.outbox.put("shutdown", "yes")
        killed = await self.stop_in_order(asked)
        if names:
            await self._saved()
        rows = self._rows.of(asked)
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
        if params["name"] in self._groups:
            raise ProtocolError(FAILED, f"{params['name']} is a group; scale its members one by one", EXIT_USAGE)
        if unit is None:
            unit = self.find([params["name"]])[0].unit
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
            raise ProtocolError(FAILED, f"{unit.name} needs one instance at least; to have none: stop it", EXIT_USAGE)
        bounded = unit.instances_max > unit.instances or unit.per_instance
        if bounded and count > unit.instances_max:
            most = f"{unit.name} has {unit.instances_max} instances at most, as its INI section says (instances)"
            raise ProtocolError(FAILED, f"{most}; for more, raise it there", EXIT_USAGE)
        if unit.kind not in {Kind.POOL, Kind.PROGRAM}:
            what = "timer" if unit.kind is Kind.TIMER else "health check"
            raise ProtocolError(FAILED, f"{unit.name} is a {what}; it runs one process at a time", EXIT_USAGE)

    def _signal(self, params: dict[str, Any]) -> dict[str, Any]:
        number = parse_signal(params["signal"])
        sent = [entry for entry in self.find(params["names"]) if entry.slot.pid is not None]
        if not sent:
            raise ProtocolError(FAILED, f"nothing runs in {', '.join(params['names'])}", EXIT_FAILED)
        self._engine.signal(sent, number)
        return {"ok": True, "signalled": [self._engine.slots.shown(entry) for entry in sent]}


def is_done(entry: Entry) -> bool:
    """Whether it is oneshot and has done its work: it is run again only if named."""
    return entry.is_up and entry.slot.state is State.EXITED


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
        raise ProtocolError(FAILED, f"there is no signal {text}; kill -l lists them", EXIT_USAGE)
    return number
