"""Reloads that are under way: `core.rules.reload` decides, this carries it out on the engine's slots.

A reload is one record in the shim beside those of the slots, sent with them in the same message: whenever the supervisor
dies, the next one finds how far it had come, and goes on or back from there. The record of the last one is kept, for
`status` and for a client that asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.rules import reload as core
from impetusd.core.rules.lifecycle import HandOver, Restart, Slot, Start, State, Stop, Taken, Want, has_budget
from impetusd.core.rules.reload import Do, Order, Part, Phase, Reload, Seen, View
from impetusd.supervisor.slots.entry import IDLE, PASSING, SERVING, Entry, Role, serving, slot_name

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit
    from impetusd.supervisor.rules.vetting import Vetting
    from impetusd.supervisor.slots.engine import Engine
    from impetusd.supervisor.start.starter import Starter

PARTS = {
    Role.TEMPLATE: Part.TEMPLATE,
    Role.NEXT_TEMPLATE: Part.NEXT_TEMPLATE,
    Role.WORKER: Part.SERVING,
    Role.PROGRAM: Part.SERVING,
    Role.NEXT: Part.NEXT,
    Role.STANDBY: Part.PARKED,
    Role.LEAVING: Part.LEAVING,
}
LINES = 40  # of the last words of a process that failed


class Reloads:
    """The reloads of all units, at most one of each. Called in the event loop's thread; nothing waits."""

    def __init__(
        self,
        engine: Engine,
        starter: Starter,
        clock: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        """`tell` is for the daemon's log."""
        self._engine = engine
        self._starter = starter
        self._faults = engine.faults
        self._clock = clock
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._of: dict[str, Reload] = {}  # by unit: the one under way, or the last
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.cut: dict[str, int] = {}  # by unit: requests cut off since its last reload began
        # Both are there before anything is adopted. `record(unit, **fields)` writes into the ledger.
        self.vetting: Vetting | None = None
        self.record: Callable[..., None] = lambda _unit, **_fields: None

    # What is remembered.

    def load(self, blobs: Mapping[str, str]) -> None:
        """What the supervisor before us knew."""
        for key, text in blobs.items():
            if key.startswith("reload:"):
                self._faults.contain(key.partition(":")[2], "reading how its reload stands", self._load, key, text)

    def _load(self, key: str, text: str) -> None:
        self._of[key.partition(":")[2]] = core.load(text)

    def forget(self, unit: Unit) -> None:
        """The unit is no more."""
        if self._of.pop(unit.name, None) is not None:
            self._starter.put(f"reload:{unit.name}", None)

    def _set(self, unit: Unit, reload: Reload) -> None:
        before = self._of.get(unit.name)
        self._of[unit.name] = reload
        self._starter.put(f"reload:{unit.name}", core.dump(reload))
        if before is not None and reload.forward and not before.forward:
            self._tell(
                f"{unit.name}: reload: the template of the old version has ended: it can no longer be rolled back"
            )
        if before is not None and before.phase is not reload.phase:
            self._turned(unit, reload)

    def _turned(self, unit: Unit, reload: Reload) -> None:
        """It has gone over into another phase."""
        match reload.phase:
            case Phase.WATCH:
                self._tell(f"{unit.name}: reload: the new version is ready; watching it for {reload.watch:g} s")
            case Phase.BACK:
                self._tell(f"{unit.name}: reload: {reload.failed}; going back to the old version")
                self.record(unit, what="failed", generation=reload.generation, reason=reload.failed)
            case Phase.FAILED:
                self._tell(f"{unit.name}: reload: back to the old version{f'; {reload.stuck}' if reload.stuck else ''}")
                lines = [line[:500] for line in reload.lines[-20:]]
                reason = reload.failed
                if reload.stuck:
                    reason = because("and_stuck", cause=reason, stuck=reload.stuck)
                told = {"reason": reason, "lines": lines, "took_s": round(reload.took, 3)}
                self.record(unit, what="rolled back", generation=reload.generation, **told)
            case Phase.DONE:
                self._tell(f"{unit.name}: reload: done in {reload.took:.2f} s")
                self.record(unit, what="done", generation=reload.generation, took_s=round(reload.took, 3))

    # What is to be known.

    def last(self, unit: Unit) -> Reload | None:
        """The reload under way, or the one before."""
        return self._of.get(unit.name)

    def active(self, unit: Unit) -> Reload | None:
        """The reload under way."""
        reload = self._of.get(unit.name)
        return reload if reload is not None and reload.phase not in core.OVER else None

    def attention(self) -> list[Reason]:
        """What to say of each unit whose last reload has failed, or whose present one waits on purpose."""
        told: list[Reason] = []
        for name, reload in self._of.items():
            if reload.phase in {Phase.BACK, Phase.FAILED} and reload.failed.key != "cancelled":
                told.append(because("not_reloaded", unit=name, cause=reload.failed))
            elif reload.phase is Phase.WATCH and reload.deadline is not None:
                left = max(0.0, reload.deadline - self._clock())
                told.append(because("being_watched", unit=name, left_s=round(left, 3)))
        return told

    def account(self, unit: Unit, how: str = "reload") -> dict[str, Any]:
        """How the last one ended, for the operator; `how` it was carried out: reload, restart, start or cancel."""
        reload = self.last(unit)
        failed = reload is not None and reload.phase is Phase.FAILED and how in {"reload", "cancel"}
        down = [e for e in self._engine.of_unit(unit) if e.role in SERVING and e.slot.state is not State.RUNNING]
        return {
            "name": unit.name,
            "how": "cancel" if reload is not None and failed and reload.failed.key == "cancelled" else how,
            "ok": not failed and not down,
            **({"reason": "", "stuck": ""} if reload is None or not failed else _told(reload)),
            "lines": list(reload.lines) if reload is not None and failed else [],
            "note": str(core.why_not(unit)) if how == "restart" else "",
            "took_s": round(reload.took, 3) if reload is not None else 0.0,
            "cut": self.cut.get(unit.name, 0),
            "drain_timeout_s": unit.drain_timeout,
            "generation": self._engine.generation(unit),
        }

    def accounts(self) -> dict[str, dict[str, Any]]:
        """By unit, how the reload under way stands, or the last one ended."""
        known = ((self._engine.units[name], reload) for name, reload in self._of.items() if name in self._engine.units)
        return {unit.name: {**self.account(unit), "phase": reload.phase.value} for unit, reload in known}

    def unfinished(self) -> set[str]:
        """The units of which old processes run, or may run again."""
        return {name for name, reload in self._of.items() if reload.phase is not Phase.DONE}

    def generation(self, entry: Entry) -> int:
        """Of which generation a process is that starts in this slot now."""
        present, reload = self._engine.generation(entry.unit), self.active(entry.unit)
        if reload is None or reload.phase is Phase.BACK:
            return present
        new = (
            entry.role in {Role.NEXT, Role.NEXT_TEMPLATE}
            or entry.rec.generation == reload.generation
            or (entry.role is Role.STANDBY and reload.phase in {Phase.PARKING, Phase.ENDING})
        )
        return reload.generation if new else present

    def puts_away(self, entry: Entry) -> bool:
        """Whether it is a template that is to end for good: a start of the unit is none of it."""
        reload = self.active(entry.unit)
        return entry.role is Role.TEMPLATE and reload is not None and reload.phase is Phase.ENDING

    def parent(self, entry: Entry) -> Entry | None:
        """The template that a worker in this slot is forked from; None when it is executed."""
        unit, entries = entry.unit, self._engine.entries
        if not entry.works:
            return None
        reload = self.active(unit)
        if reload is not None and self.generation(entry) == reload.generation:
            if not _forks(unit, reload):
                return None
            following = entries.get(slot_name(unit, Role.NEXT_TEMPLATE, 0))
            if following is not None:
                return following
        return entries[slot_name(unit, Role.TEMPLATE, 0)] if self._engine.preloads(unit) else None

    # What is asked for.

    def begin(
        self, unit: Unit, reason: Reason, *, asked: bool, canaries: int = 0, watch: float | None = None, token: str = ""
    ) -> None:
        """Have the version on the disk take over in a unit that `overlaps`, of which something runs."""
        template = self._engine.entries.get(slot_name(unit, Role.TEMPLATE, 0))
        reload = Reload(
            generation=self._engine.generation(unit) + 1,
            began=self._clock(),
            reason=reason,
            asked=asked,
            canaries=canaries,
            watch=unit.reload_watch if watch is None else watch,
            token=token,
            base=template.rec.process if template is not None and self._engine.preloads(unit) else None,
        )
        self._tell(f"{unit.name}: {reason}: the next version is brought up beside the present one")
        self.cut.pop(unit.name, None)
        self.record(unit, what="began", generation=reload.generation, reason=reason)
        self._set(unit, reload)

    def note(self, unit: Unit, how: str, token: str) -> None:
        """Its reload is a start or a restart; a client that asks again by `token` is not to get another."""
        generation, now = self._engine.generation(unit), self._clock()
        self._set(unit, Reload(phase=Phase.DONE, generation=generation, began=now, reason=because(how), token=token))

    def renew(self, unit: Unit, reason: Reason) -> list[Entry]:
        """A rule of the INI wants the version on the disk, within the budget of restarts. Returns whom it acts on."""
        reload = self.active(unit)
        if reload is not None:
            self._set(unit, replace(reload, again=reason))
            return []
        running = [e for e in self._engine.of_unit(unit) if e.role in SERVING and e.slot.state is State.RUNNING]
        if not any(has_budget(entry.policy, entry.slot, self._clock()) for entry in running):
            return []
        self.begin(unit, reason, asked=False)
        return running

    def cancel(self, unit: Unit, why: Reason) -> bool:
        """Have the old version back. False when that is not possible any more, or nothing is under way."""
        reload = self.active(unit)
        if reload is None or reload.forward or reload.phase not in core.REVERSIBLE | {Phase.BACK}:
            return False
        self._set(unit, replace(core.fail(reload, why), again=NONE))
        return True

    # What happens.

    def changed(self, entry: Entry, before: Slot) -> None:
        """A slot has changed; what follows for it is still to be carried out."""
        after, reload = entry.slot, self.active(entry.unit)
        begun = after.last_exit is not before.last_exit or before.state is not State.STOPPED
        if reload is not None and not begun and after.state is State.FATAL and entry.role in PASSING:
            # Its start could not even be decided on, and no process of it will end.
            self._set(entry.unit, core.fail(reload, because("slot_failed", slot=entry.name, cause=after.reason)))
            return
        if reload is None or before.want is Want.DOWN or before.asked or entry.role is Role.LEAVING:
            return
        ended = after.last_exit is not before.last_exit
        if not ended and (not after.failed or before.failed):
            return
        if entry.role is Role.NEXT_TEMPLATE and reload.afresh:
            return
        end = after.last_exit.reason if after.last_exit is not None else NONE
        why = because("slot_failed", slot=entry.name, cause=after.failed or end)
        if entry.rec.generation == reload.generation:
            self._set(entry.unit, core.fail(reload, why))
        elif entry.role is Role.NEXT and reload.phase is Phase.BACK:
            self._set(entry.unit, replace(reload, stuck=because("not_restored", cause=why)))

    def judged(self, entry: Entry, why: Reason) -> bool:
        """A slot is judged to be broken. Whether that is the end of a reload, which then sees to it."""
        reload = self.active(entry.unit)
        if reload is None or entry.rec.generation != reload.generation or reload.phase not in core.REVERSIBLE:
            return False
        self._set(entry.unit, core.fail(reload, because("slot_failed", slot=entry.name, cause=why)))
        return True

    def turned(self, name: str, target: str, why: Reason) -> None:
        """A health check of unit `name` has turned unhealthy; at the unit's address the new ones answer, too."""
        unit = self._engine.units.get(name)
        reload = self.active(unit) if unit is not None else None
        if unit is not None and reload is not None and reload.phase in {Phase.WATCH, Phase.ROLLING} and target == name:
            self._set(unit, core.fail(reload, because("unhealthy", cause=why)))
            self._engine.wake()

    def notified(self, entry: Entry, message: Mapping[str, str]) -> None:
        """A worker has told how many requests it has answered: when asked, or since that are as many as it may."""
        if message.get("X_IMPETUSD_SPENT") == "1" and entry.unit.max_requests:
            self._engine.recycle([entry], because("max_requests", limit=entry.unit.max_requests))
        cut = message.get("X_IMPETUSD_CUT", "")
        if cut.isascii() and cut.isdigit() and len(cut) < 10 and entry.unit.app:
            self._engine.cut_off(entry, int(cut))
            self.cut[entry.unit.name] = self.cut.get(entry.unit.name, 0) + int(cut)
        if self.vetting is not None and "X_IMPETUSD_REQUESTS" in message:
            self.vetting.counted(entry, message)

    def told(self, entry: Entry, lines: Iterable[str]) -> None:
        """The last words of a process that has ended."""
        reload = self.last(entry.unit)
        if reload is not None and not reload.lines and reload.failed.facts.get("slot") == entry.name:
            self._set(entry.unit, replace(reload, lines=tuple(lines)[-LINES:]))

    def starts_threads(self, entry: Entry) -> None:
        """The next version starts threads at import, which no fork survives: its workers are executed."""
        reload = self.active(entry.unit)
        if reload is not None:
            self._set(entry.unit, replace(reload, afresh=True))

    # Going on.

    def advance(self) -> None:
        """Take every step that can be taken. Called when the inbox is empty."""
        for name, reload in list(self._of.items()):
            if reload.phase in core.OVER or name not in self._engine.units or self._faults.rests(f"reload of {name}"):
                continue
            if self._engine.holds_any(self._engine.units[name]):
                continue
            try:
                self._engine.page.at(name, f"going on with its reload from {reload.phase.value}")
                self._advance(self._engine.units[name])
            except Exception as error:
                why = self._faults.note(f"reload of {name}", f"going on from {reload.phase.value}", error)
                self._faults.contain(f"reload of {name}", "calling it off", self._call_off, name, why)

    def _call_off(self, name: str, why: Reason) -> None:
        """What raises on the way forth goes back, while that is possible; and is tried again where it is not."""
        reload = self._of[name]
        if reload.phase in core.REVERSIBLE:
            self._set(self._engine.units[name], core.fail(reload, why))

    def _advance(self, unit: Unit) -> None:
        while True:
            before = self._of[unit.name]
            now = self._clock()
            after, orders = core.decide(before, self._view(unit, before), now)
            if after.phase is Phase.ENDING and before.phase is not Phase.ENDING:
                self._engine.commit(unit, after.generation, afresh=after.afresh)
            if after is not before:
                self._set(unit, after)
            for order in orders:
                self._obey(unit, after, order)
            if after.phase in core.OVER:
                self._end(unit, after)
                return
            forgotten = [order for order in orders if order.do is Do.FORGET]
            if len(forgotten) < len(orders) or (not orders and after.phase is before.phase):
                break  # it is asked again when the events that these have made are through
        self._time(unit, after, now)
        if self.vetting is not None:
            self.vetting.follow(unit, after)

    def _end(self, unit: Unit, reload: Reload) -> None:
        if self.vetting is not None:
            self.vetting.leave(unit)
        if reload.phase is Phase.DONE:
            self._engine.drop_listeners()
        if reload.again:
            self.renew(unit, reload.again)

    def _time(self, unit: Unit, reload: Reload, now: float) -> None:
        """Decide again at its deadline, unless that had passed `now`, when it was decided on."""
        timer = self._timers.pop(unit.name, None)
        if timer is not None:
            timer.cancel()
        if reload.deadline is not None and reload.deadline > now:
            self._timers[unit.name] = self._loop.call_at(
                reload.deadline, self._engine.faults.contain, unit.name, "going on with its reload", self._engine.wake
            )

    def _view(self, unit: Unit, reload: Reload) -> View:
        template = self._engine.entries.get(slot_name(unit, Role.TEMPLATE, 0))
        verdict: Reason | None = NONE
        if reload.phase is Phase.WATCH and self.vetting is not None:
            verdict = self.vetting.verdict(unit, reload)
        return View(
            slots=tuple(self._seen(each, reload) for each in self._engine.of_unit(unit) if not each.dismissed),
            parallel=unit.reload_parallel,
            forks=_forks(unit, reload),
            parent=template.rec.process if template is not None else None,
            verdict=verdict,
        )

    def _seen(self, entry: Entry, reload: Reload) -> Seen:
        state, generation = entry.slot.state, entry.rec.generation
        if state is State.STARTING and entry.slot.pid is None and entry.rec.process is None:
            generation = self.generation(entry)  # that it will have
            state = State.BACKOFF if entry.waits is not None and entry.role in SERVING else state
        return Seen(
            part=PARTS[entry.role],
            index=entry.index,
            state=state,
            up=entry.slot.want is Want.UP,
            new=generation == reload.generation,
            well=self.vetting is None or self.vetting.well(entry),
            told=not entry.tail_due,
        )

    def _obey(self, unit: Unit, reload: Reload, order: Order) -> None:
        role = {Part.SERVING: serving(unit), Part.PARKED: Role.STANDBY}.get(order.part) or Role(order.part.value)
        entry = self._engine.entries.get(slot_name(unit, role, order.slot))
        if order.do is Do.START:
            self._engine.post(entry or self._engine.make_passing(unit, role, order.slot), Start())
        elif entry is None:
            return
        elif order.do is Do.STOP:
            self._engine.post(entry, Stop())
        elif order.do is Do.AGAIN:
            self._engine.post(entry, Restart())
        elif order.do is Do.FORGET:
            self._engine.dismiss(entry)
        elif order.do is Do.TAKE_OVER:
            self._take_over(entry, reload)
        else:
            self._adopt(entry)

    def _take_over(self, entry: Entry, reload: Reload) -> None:
        heir = self._engine.entries[slot_name(entry.unit, Role.NEXT, entry.index)]
        self._engine.rolling.done(entry)
        self._tell(f"{entry.name}: pid {heir.slot.pid} takes over from pid {entry.slot.pid}")
        if entry.slot.state is State.RUNNING:
            event = HandOver(heir.slot.pid or 0, reload.reason, reload.asked, serves=True)
            self._engine.hand_over(entry, heir, event)
        else:  # nothing runs there: its start finds the heir
            entry.rec.generation = heir.rec.generation
            self._engine.touch(entry)
            self._engine.post(entry, Restart())

    def _adopt(self, template: Entry) -> None:
        following = self._engine.entries[slot_name(template.unit, Role.NEXT_TEMPLATE, 0)]
        if following.slot.state is State.RUNNING:
            self._engine.rename(following, template)
            self._engine.post(following, Taken(again=False))
        elif following.slot.state in IDLE:  # it has died since, and is needed no more for this
            self._engine.post(template, Restart())
            self._engine.dismiss(following)


def _told(reload: Reload) -> dict[str, Any]:
    """Why it failed, for the protocol: a sentence, and the reason."""
    told = {"reason": str(reload.failed), "cause": reload.failed.data(), "stuck": str(reload.stuck)}
    return {**told, "stuck_cause": reload.stuck.data()} if reload.stuck else told


def _forks(unit: Unit, reload: Reload) -> bool:
    return unit.preload and not reload.afresh
