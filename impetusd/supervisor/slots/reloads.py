"""Reloads that are under way: `core.rules.reload` decides, this carries it out on the slots; `versions` keeps how they stand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.rules import reload as core
from impetusd.core.rules.lifecycle import IDLE, HandOver, Restart, Start, State, Stop, Want, has_budget
from impetusd.core.rules.reload import Do, Order, Part, Phase, Reload, Seen, View
from impetusd.supervisor.slots.entry import PARTS, PASSING, SERVING, Entry, Role, serving, slot_name
from impetusd.supervisor.slots.versions import forks

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit
    from impetusd.supervisor.observers import Change
    from impetusd.supervisor.slots.places import Places
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.slots.rounds import Rounds
    from impetusd.supervisor.slots.versions import Versions
    from impetusd.supervisor.start.starter import Starter


class Vetting(Protocol):
    """Tests whether new processes work: see `supervisor.rules.vetting`."""

    def well(self, entry: Entry) -> bool:
        """Whether its health checks, if any, pass."""

    def verdict(self, unit: Unit, reload: Reload) -> Reason | None:
        """On the new processes at the end of WATCH; None: not known yet."""

    def follow(self, unit: Unit, reload: Reload) -> None:
        """It has come so far."""

    def leave(self, unit: Unit) -> None:
        """Its reload is over."""


class Reloads:
    """The reloads of all units, at most one of each. Called in the event loop's thread; nothing waits."""

    def __init__(
        self,
        slots: Slots,
        rounds: Rounds,
        versions: Versions,
        places: Places,
        *,
        starter: Starter,
        log: Callable[[str], None],
    ) -> None:
        """`log` is for the daemon's log."""
        self._slots = slots
        self._rounds = rounds
        self._versions = versions
        self._places = places
        self._starter = starter
        self._faults = slots.faults
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        # Both are there before anything is adopted. `record(unit, **fields)` writes into the ledger.
        self.vetting: Vetting | None = None
        self.record: Callable[..., None] = lambda _unit, **_fields: None

    def _set(self, unit: Unit, reload: Reload) -> None:
        before = self._versions.last(unit)
        self._versions.keep(unit, reload)
        if before is not None and reload.forward and not before.forward:
            self._log(f"{unit.name}: reload: the old version's template process exited: rollback is no longer possible")
        if before is not None and before.phase is not reload.phase:
            self._turned(unit, reload)

    def _turned(self, unit: Unit, reload: Reload) -> None:
        """It has entered another phase."""
        match reload.phase:
            case Phase.WATCH:
                self._log(f"{unit.name}: reload: the new version is ready; watching it for {reload.watch:g} s")
            case Phase.BACK:
                self._log(f"{unit.name}: reload: {reload.failed}; rolling back to the old version")
                self.record(unit, what="failed", generation=reload.generation, reason=reload.failed)
            case Phase.FAILED:
                self._log(
                    f"{unit.name}: reload: rolled back to the old version{f'; {reload.stuck}' if reload.stuck else ''}"
                )
                lines = [line[:500] for line in reload.lines[-20:]]
                reason = reload.failed
                if reload.stuck:
                    reason = because("and_stuck", cause=reason, stuck=reload.stuck)
                told = {"reason": reason, "lines": lines, "took_s": round(reload.took, 3)}
                self.record(unit, what="rolled back", generation=reload.generation, **told)
            case Phase.DONE:
                self._log(f"{unit.name}: reload: done in {reload.took:.2f} s")
                self.record(unit, what="done", generation=reload.generation, took_s=round(reload.took, 3))

    # Requests.

    def begin(
        self, unit: Unit, reason: Reason, *, asked: bool, canaries: int = 0, watch: float | None = None, token: str = ""
    ) -> None:
        """Let the version on the disk take over in a running unit that `overlaps`."""
        template = self._slots.entries.get(slot_name(unit, Role.TEMPLATE, 0))
        reload = Reload(
            generation=self._slots.facts.generation(unit) + 1,
            began=time.monotonic(),
            reason=reason,
            asked=asked,
            canaries=canaries,
            watch=unit.reload_watch if watch is None else watch,
            token=token,
            base=template.rec.process if template is not None and self._slots.facts.preloads(unit) else None,
        )
        self._log(f"{unit.name}: {reason}: starting the next version next to the current one")
        self._versions.cut.pop(unit.name, None)
        self.record(unit, what="began", generation=reload.generation, reason=reason)
        self._set(unit, reload)

    def note(self, unit: Unit, how: str, token: str) -> None:
        """Its reload is a start or a restart; a client that asks again by `token` is not to get another."""
        generation, now = self._slots.facts.generation(unit), time.monotonic()
        self._set(unit, Reload(phase=Phase.DONE, generation=generation, began=now, reason=because(how), token=token))

    def renew(self, unit: Unit, reason: Reason) -> list[Entry]:
        """A rule of the INI file requests the version on the disk, within the budget of restarts. Returns the slots it
        acts on."""
        reload = self._versions.active(unit)
        if reload is not None:
            self._set(unit, replace(reload, again=reason))
            return []
        running = [e for e in self._slots.of_unit(unit) if e.role in SERVING and e.slot.state is State.RUNNING]
        if not any(has_budget(entry.policy, entry.slot, time.monotonic()) for entry in running):
            return []
        self.begin(unit, reason, asked=False)
        return running

    def cancel(self, unit: Unit, why: Reason) -> bool:
        """Roll back to the old version. False if that is no longer possible, or nothing is under way."""
        reload = self._versions.active(unit)
        if reload is None or reload.forward or reload.phase not in core.REVERSIBLE | {Phase.BACK}:
            return False
        self._set(unit, replace(core.fail(reload, why), again=NONE))
        return True

    # What happens.

    def changed(self, change: Change) -> None:
        """A slot has changed; what follows for it is still to be carried out."""
        entry, before, after = change
        reload = self._versions.active(entry.unit)
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
        reload = self._versions.active(entry.unit)
        if reload is None or entry.rec.generation != reload.generation or reload.phase not in core.REVERSIBLE:
            return False
        self._set(entry.unit, core.fail(reload, because("slot_failed", slot=entry.name, cause=why)))
        return True

    def turned(self, name: str, target: str, why: Reason) -> None:
        """A health check of unit `name` has turned unhealthy; at the unit's address the new ones answer, too."""
        unit = self._slots.units.get(name)
        reload = self._versions.active(unit) if unit is not None else None
        if unit is not None and reload is not None and reload.phase in {Phase.WATCH, Phase.ROLLING} and target == name:
            self._set(unit, core.fail(reload, because("unhealthy", cause=why)))
            self._rounds.wake()

    def drop_listeners(self) -> None:
        """Close what nobody listens on any more."""
        listening = (entry.unit for entry in self._slots.entries.values())
        self._starter.listeners.drop_but(listening, self._versions.unfinished())

    # Going on.

    def advance(self) -> None:
        """Take every step that can be taken. Called when the inbox is empty."""
        for name, reload in list(self._versions.of.items()):
            if reload.phase in core.OVER or name not in self._slots.units or self._faults.rests(f"reload of {name}"):
                continue
            if self._slots.holds_any(self._slots.units[name]):
                continue
            try:
                self._slots.page.at(name, f"continuing its reload from {reload.phase.value}")
                self._advance(self._slots.units[name])
            except Exception as error:
                why = self._faults.note(f"reload of {name}", f"continuing from {reload.phase.value}", error)
                self._faults.contain(f"reload of {name}", "cancelling it", self._call_off, name, why)

    def _call_off(self, name: str, why: Reason) -> None:
        """An exception on the way forward rolls back while that is possible, and is retried if it is not."""
        reload = self._versions.of[name]
        if reload.phase in core.REVERSIBLE:
            self._set(self._slots.units[name], core.fail(reload, why))

    def _advance(self, unit: Unit) -> None:
        while True:
            before = self._versions.of[unit.name]
            now = time.monotonic()
            after, orders = core.decide(before, self._view(unit, before), now)
            if after is not before:
                self._set(unit, after)
            if after.phase in {Phase.ENDING, Phase.DONE} and self._slots.facts.generation(unit) < after.generation:
                self._slots.facts.commit(unit, after.generation, afresh=after.afresh)
            if orders:
                self._rounds.step(f"reload of {unit.name}")
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
            self.drop_listeners()
        if reload.again:
            self.renew(unit, reload.again)

    def _time(self, unit: Unit, reload: Reload, now: float) -> None:
        """Decide again at its deadline, unless that had passed `now`, when it was decided on."""
        timer = self._timers.pop(unit.name, None)
        if timer is not None:
            timer.cancel()
        if reload.deadline is not None and reload.deadline > now:
            self._timers[unit.name] = self._loop.call_at(
                reload.deadline, self._faults.attempt, unit.name, "continuing its reload", self._rounds.wake
            )

    def _view(self, unit: Unit, reload: Reload) -> View:
        template = self._slots.entries.get(slot_name(unit, Role.TEMPLATE, 0))
        verdict: Reason | None = NONE
        if reload.phase is Phase.WATCH and self.vetting is not None:
            verdict = self.vetting.verdict(unit, reload)
        return View(
            slots=tuple(self._seen(each, reload) for each in self._slots.of_unit(unit) if not each.dismissed),
            parallel=unit.reload_parallel,
            forks=forks(unit, reload),
            parent=template.rec.process if template is not None else None,
            verdict=verdict,
        )

    def _seen(self, entry: Entry, reload: Reload) -> Seen:
        state, generation = entry.slot.state, entry.rec.generation
        if state is State.STARTING and entry.slot.pid is None and entry.rec.process is None:
            generation = self._versions.generation(entry)  # that it will have
            state = State.BACKOFF if entry.waits is not None and entry.role in SERVING else state
        return Seen(
            part=PARTS[entry.role],
            index=entry.index,
            state=state,
            up=entry.slot.want is Want.UP,
            new=generation == reload.generation,
            well=self.vetting is None or self.vetting.well(entry),
            told=not entry.tail_due,
            failed=self._why_down(entry, reload) if entry.role in PASSING and state in IDLE else NONE,
        )

    def _why_down(self, entry: Entry, reload: Reload) -> Reason:
        """As `changed` has it, should that have been lost."""
        slot = entry.slot
        if entry.role is Role.LEAVING or slot.want is Want.DOWN or entry.rec.generation != reload.generation:
            return NONE
        if entry.role is Role.NEXT_TEMPLATE and not forks(entry.unit, reload):
            return NONE
        end = slot.last_exit.reason if slot.last_exit is not None else NONE
        return because("slot_failed", slot=entry.name, cause=slot.reason or end)

    def _obey(self, unit: Unit, reload: Reload, order: Order) -> None:
        role = {Part.SERVING: serving(unit), Part.PARKED: Role.STANDBY}.get(order.part) or Role(order.part.value)
        entry = self._slots.entries.get(slot_name(unit, role, order.slot))
        if order.do is Do.START:
            if entry is None:
                entry = self._slots.make_passing(unit, role, order.slot)
                entry.rec.generation = self._versions.generation(entry)  # its start may fail before it has begun
            self._rounds.post(entry, Start())
        elif entry is None:
            return
        elif order.do is Do.STOP:
            self._rounds.post(entry, Stop())
        elif order.do is Do.AGAIN:
            self._rounds.post(entry, Restart())
        elif order.do is Do.FORGET:
            self._slots.dismiss(entry)
        elif order.do is Do.TAKE_OVER:
            self._take_over(entry, reload)
        else:
            self._adopt(entry)

    def _take_over(self, entry: Entry, reload: Reload) -> None:
        heir = self._slots.entries[slot_name(entry.unit, Role.NEXT, entry.index)]
        self._slots.end_due(entry)
        self._log(f"{entry.name}: pid {heir.slot.pid} takes over from pid {entry.slot.pid}")
        if entry.slot.state is State.RUNNING:
            event = HandOver(heir.slot.pid or 0, reload.reason, reload.asked, serves=True)
            self._places.hand_over(entry, heir, event)
        else:  # nothing runs there: its start finds the heir
            entry.rec.generation = heir.rec.generation
            self._slots.touch(entry)
            self._rounds.post(entry, Restart())

    def _adopt(self, template: Entry) -> None:
        following = self._slots.entries[slot_name(template.unit, Role.NEXT_TEMPLATE, 0)]
        if following.slot.state is State.RUNNING:
            self._places.rename(following, template)
        elif following.slot.state in IDLE:  # it has died since and is no longer needed for this
            self._rounds.post(template, Restart())
            self._slots.dismiss(following)
