"""What becomes of a key whose fate depends on its value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impetusd.core.config import schema
from impetusd.core.config.model import Autorestart, Overlap
from impetusd.interop.exporting import fates
from impetusd.interop.exporting.model import Role, Target
from impetusd.interop.importing.model import Fate, Rule, lost, translated

if TYPE_CHECKING:
    from impetusd.core.config.model import Timer, Unit
    from impetusd.interop.exporting.model import Workload


def decided(
    key: str, rule: Rule, unit: Unit, work: Workload, target: Target, *, timer: Timer | None
) -> tuple[Rule, str]:
    """The rule for this value, and what stands for it; "" for what the rule says."""
    compose = target is Target.COMPOSE
    match key:
        case "type" if unit.type != "oneshot":
            return fates.same(), ""
        case "listen" if work.ports:
            return rule, ", ".join(
                f"{each.number}{'' if each.published or not compose else ' (not published)'}" for each in work.ports
            )
        case "instances":
            return _instances(rule, unit, work, compose=compose)
        case "standby" if not unit.standby:
            return fates.same(), ""
        case "critical" if unit.retry_after:
            return fates.same("retry_after retries it inside the container"), ""
        case "autostart" if unit.autostart and work.role is Role.SERVICE:
            return fates.same(), ""
        case "nice" | "oom_score_adj" if getattr(unit, key) < 0:
            return lost("negative values need root, but impetusd does not run as root in the container"), ""
        case "user" | "group":
            return rule, str(work.uid if key == "user" else work.gid)
        case "out_file" | "error_file" if getattr(unit, key) in {"stdout", "stderr", "/dev/null"}:
            return fates.same(), ""
        case "env_file":
            return rule, work.env_file
        case "memory_max":
            return rule, f"limits.memory {schema.show_size(work.memory_max)}"
        case "max_memory_restart" | "max_memory_kill" if work.memory_max:
            return rule, f"{rule.ours} {schema.show_size(work.memory_max)}"
        case "kill_timeout" | "drain_timeout" if work.role is Role.SERVICE:
            return rule, f"{rule.ours} {work.grace}s"
        case "overlap" if work.role is Role.CRON and timer is not None and timer.overlap is Overlap.QUEUE:
            return lost("a run that comes due while another is running is skipped"), ""
        case "autorestart" if work.role is Role.ONCE and unit.autorestart is Autorestart.NEVER:
            return translated(rule.ours, "it is not retried"), f"{rule.ours} {'none' if compose else 0}"
        case "cron" | "every" if work.schedule is not None:
            return Rule(Fate.TRANSLATED, "", ""), f"schedule {work.schedule.cron}"
    if timer is not None and work.role is Role.SERVICE and key in fates.TIMERS:
        return fates.same("impetusd runs the timer in a separate container"), ""
    return rule, ""


def _instances(rule: Rule, unit: Unit, work: Workload, *, compose: bool) -> tuple[Rule, str]:
    if unit.per_instance or unit.increment_var:
        return translated(
            "", "all instances run in one container, because their settings differ"
        ), f"instances {unit.instances}"
    new = f"{rule.ours} {work.replicas}"
    if work.replicas_max <= work.replicas:
        return translated(rule.ours), new
    if compose:
        return lost("it is not scaled automatically; use docker service scale"), new
    return translated(rule.ours, "scaled by CPU usage"), f"{new}, HorizontalPodAutoscaler to {work.replicas_max}"
