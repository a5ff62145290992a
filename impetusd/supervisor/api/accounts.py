"""How reloads stand, and have ended: for whoever asked for one, for `status`, and for who watches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from impetusd.core.reasons import Reason, because
from impetusd.core.rules import reload as core
from impetusd.core.rules.lifecycle import State
from impetusd.core.rules.reload import Phase, Reload
from impetusd.supervisor.slots.entry import SERVING

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit
    from impetusd.supervisor.slots.engine import Engine


def account(engine: Engine, unit: Unit, how: str = "reload") -> dict[str, Any]:
    """How the unit's last one ended, for the operator; `how` it was carried out: reload, restart, start or cancel."""
    reload = engine.versions.last(unit)
    failed = reload is not None and reload.phase is Phase.FAILED and how in {"reload", "cancel"}
    down = [e for e in engine.slots.of_unit(unit) if e.role in SERVING and e.slot.state is not State.RUNNING]
    return {
        "name": unit.name,
        "how": "cancel" if reload is not None and failed and reload.failed.key == "cancelled" else how,
        "ok": not failed and not down,
        **({"reason": "", "stuck": ""} if reload is None or not failed else _causes(reload)),
        "lines": list(reload.lines) if reload is not None and failed else [],
        "note": str(core.why_not(unit)) if how == "restart" else "",
        "took_s": round(reload.took, 3) if reload is not None else 0.0,
        "cut": engine.versions.cut.get(unit.name, 0),
        "drain_timeout_s": unit.drain_timeout,
        "generation": engine.slots.facts.generation(unit),
    }


def accounts(engine: Engine) -> dict[str, dict[str, Any]]:
    """By unit, how the reload under way stands, or the last one ended."""
    units = engine.slots.units
    known = ((units[name], reload) for name, reload in engine.versions.of.items() if name in units)
    return {unit.name: {**account(engine, unit), "phase": reload.phase.value} for unit, reload in known}


def attention(engine: Engine) -> list[Reason]:
    """The report on each unit whose last reload has failed, or whose present one waits on purpose."""
    told: list[Reason] = []
    for name, reload in engine.versions.of.items():
        if reload.phase in {Phase.BACK, Phase.FAILED} and reload.failed.key != "cancelled":
            told.append(because("not_reloaded", unit=name, cause=reload.failed))
        elif reload.phase is Phase.WATCH and reload.deadline is not None:
            left = max(0.0, reload.deadline - time.monotonic())
            told.append(because("being_watched", unit=name, left_s=round(left, 3)))
    return told


def _causes(reload: Reload) -> dict[str, Any]:
    """Why it failed, for the protocol: a sentence, and the reason."""
    told = {"reason": str(reload.failed), "cause": reload.failed.data(), "stuck": str(reload.stuck)}
    return {**told, "stuck_cause": reload.stuck.data()} if reload.stuck else told
