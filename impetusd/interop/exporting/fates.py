"""What becomes of each key of an INI file: the tables that the export goes by, and that its help page shows.

A rule is the same for both targets, or one for compose and one for Kubernetes. What depends on a value is said in the rule's
text here, and decided where the value is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impetusd.core.config import schema
from impetusd.interop.exporting.model import HOME, Target
from impetusd.interop.importing.model import Rule, kept, lost, translated, unneeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    Both = Rule | tuple[Rule, Rule]


def same(why: str = "", also: str = "") -> Rule:
    """The key is in the container's INI. `also`: what the engine is told besides."""
    return kept(also, why)


_INSIDE = "handled by impetusd in the container"
UNITS: Mapping[str, Both] = {
    "app": same(),
    "protocol": same(),
    "command": same(),
    "type": (
        translated("restart_policy", "oneshot: runs at each deployment until it exits with 0; other services do not wait for it"),
        translated("Job", "oneshot: runs at each deployment; with --before, in an initContainer of the units that depend on it"),
    ),
    "listen": (
        translated("ports", "listens on all addresses of the container; published unless it was a loopback address"),
        translated("Service", "listens on all addresses of the pod"),
    ),
    "instances": (
        translated("deploy.replicas", "the lower end of a range; not scaled automatically"),
        translated("replicas", "a range also becomes a HorizontalPodAutoscaler"),
    ),
    "node": same(),
    "increment_var": same("all instances run in one container, because their settings differ"),
    "interpreter": translated("image", "the image contains one Python, with impetusd and the app's dependencies"),
    "preload": same(),
    "standby": lost("another container takes over the requests; set instances = 2 or more"),
    "threads": same(),
    "root_path": same(),
    "backlog": same(),
    "enabled": same("disabled sections are left out"),
    "autostart": translated("replicas", "no: 0"),
    "depends_on": (
        translated("depends_on", "start order on one host only; Swarm starts all at once and restarts those that fail"),
        translated("readinessProbe", "all start at once, and those that fail are restarted; --before adds initContainers that wait"),
    ),
    "wait_ready": same(),
    "ready": same(),
    "listen_timeout": (same("", "healthcheck.start_period"), same("", "startupProbe")),
    "reload_parallel": (translated("update_config.parallelism"), translated("rollingUpdate.maxSurge")),
    "reload_watch": (translated("update_config.monitor", "at least 5s"), translated("minReadySeconds")),
    "autorestart": same(_INSIDE),
    "stop_exit_codes": same(_INSIDE),
    "min_uptime": same(_INSIDE),
    "max_restarts": same("then the container exits, and the engine starts another"),
    "restart_window": same(_INSIDE),
    "restart_delay": same(_INSIDE),
    "exp_backoff_restart_delay": same(_INSIDE),
    "exp_backoff_max_delay": same(_INSIDE),
    "retry_after": same(_INSIDE),
    "on_fatal": same(),
    "critical": translated("restart_policy", "always yes unless retry_after is set: the engine replaces a container whose unit is FATAL"),
    "cron_restart": same(_INSIDE),
    "timezone": same(),
    "max_age": same(_INSIDE),
    "max_requests": same(_INSIDE),
    "watch": lost("files in an image do not change; deploy a new image instead"),
    "watch_ignore": unneeded("it only affects watch"),
    "watch_delay": unneeded("it only affects watch"),
    "max_memory_restart": same(_INSIDE, "limits.memory"),
    "memory_hold": same(_INSIDE),
    "max_memory_kill": same(_INSIDE, "limits.memory"),
    "memory_max": translated("limits.memory", "for the whole container, including 96M for impetusd"),
    "cpu_max": (translated("limits.cpus"), translated("limits.cpu")),
    "watchdog": same(_INSIDE),
    "header_timeout": same(),
    "body_timeout": same(),
    "kill_signal": same("sent to the program; impetusd itself gets SIGTERM"),
    "kill_timeout": (same("", "stop_grace_period"), same("", "terminationGracePeriodSeconds")),
    "drain_timeout": (same("", "stop_grace_period"), same("", "terminationGracePeriodSeconds")),
    "treekill": same(),
    "cwd": same("base_dir is /app"),
    "user": (translated("user", "numeric IDs are kept; a name becomes the image's user"), translated("runAsUser", "numeric IDs are kept; a name becomes the image's user")),
    "group": (translated("user", "numeric IDs are kept; a name becomes the image's group"), translated("runAsGroup", "numeric IDs are kept; a name becomes the image's group")),
    "no_new_privs": (translated("security_opt", "Swarm ignores it"), translated("allowPrivilegeEscalation")),
    "capabilities": (translated("cap_add", "all others are dropped"), translated("capabilities.add", "all others are dropped")),
    "umask": same(),
    "nice": same("negative values are lost, because impetusd does not run as root in the container"),
    "oom_score_adj": same("negative values are lost, because impetusd does not run as root in the container"),
    "cpu_affinity": lost("CPU numbers differ between nodes; use the engine's cpusets"),
    "rlimits": same("within the container's own limits"),
    "env_file": (translated("secrets", "one file for each unit"), translated("Secret", "one file for each unit, mounted")),
    "env_pass": same("passes on the container's environment"),
    "out_file": translated("log", "goes to the container's log, because a file would be lost with the container"),
    "error_file": translated("log", "goes to the container's log, because a file would be lost with the container"),
    "access_log": same(),
    "merge_logs": unneeded("there are no log files"),
    "time": same(),
    "log_format": same(),
    "log_max_line": same(),
    "log_max_size": (translated("logging.options.max-size"), lost("the kubelet's containerLogMaxSize applies to all containers")),
    "log_max_age": lost("the engine rotates only by size"),
    "log_keep": (translated("logging.options.max-file"), lost("the kubelet's containerLogMaxFiles applies to all containers")),
    "log_compress": (translated("logging.options.compress"), unneeded("the kubelet compresses rotated logs")),
}  # fmt: skip
# Of what the engine starts by itself and that ends: a CronJob, a Job. `impetusd exec` runs its command there.
ENDING: Mapping[str, Both] = {
    "autorestart": (translated("restart_policy", "on-failure"), translated("backoffLimit", "never: 0")),
    "max_restarts": (translated("restart_policy.max_attempts"), translated("backoffLimit")),
    **dict.fromkeys(
        ("stop_exit_codes", "min_uptime", "restart_window", "restart_delay", "exp_backoff_restart_delay", "exp_backoff_max_delay", "retry_after"),
        lost("the engine retries it at its own intervals until it exits with 0"),
    ),
    "listen_timeout": (lost("it may run for any length of time"), translated("activeDeadlineSeconds")),
    "kill_signal": lost("it always gets SIGTERM"),
    **dict.fromkeys(("time", "log_format", "log_max_line"), lost("its output goes to the container's log unchanged")),
    "critical": lost("its failure stops nothing else"),
    "autostart": lost("it always runs at each deployment"),
}  # fmt: skip
TIMERS: Mapping[str, Both] = {
    "command": same(),
    "cron": (same(_INSIDE), translated("schedule", "of a CronJob; with a seconds field, impetusd runs it in a Deployment and all keys are kept")),
    "every": (same(_INSIDE), translated("schedule", "of a CronJob, if it divides an hour or a day evenly; otherwise impetusd runs it in a Deployment and all keys are kept")),
    "timezone": (same(_INSIDE), translated("timeZone")),
    "jitter": (same(_INSIDE), lost("a CronJob has no random delay")),
    "catch_up": (same(_INSIDE), translated("startingDeadlineSeconds", "no: 60, yes: 86400")),
    "overlap": (same(_INSIDE), translated("concurrencyPolicy", "skip: Forbid; replace: Replace; queue: Forbid, so runs are skipped, not queued")),
    "timeout": (same(_INSIDE), translated("activeDeadlineSeconds", "for all attempts together")),
    "retries": (same(_INSIDE), translated("backoffLimit")),
    "retry_delay": (same(_INSIDE), lost("fixed: 10 s, doubling with each attempt, up to 6 minutes")),
}  # fmt: skip
HEALTH: Mapping[str, Both] = {
    "enabled": same("disabled sections are left out"),
    "target": same(),
    "http": (same(_INSIDE), translated("httpGet", "of the first check for each kind of probe; impetusd runs the others in the pod")),
    "tcp": (same(_INSIDE), translated("tcpSocket", "of the first check for each kind of probe; impetusd runs the others in the pod")),
    "exec": same(_INSIDE),
    "status": same("a probe accepts only 200-399; with other values, impetusd runs the check in the pod"),
    "body": same("a probe does not support it; impetusd runs the check in the pod"),
    "headers": (same(_INSIDE), translated("httpHeaders", "with a header that looks secret, impetusd runs the check in the pod")),
    "socket": same("a probe does not support it; impetusd runs the check in the pod"),
    "ca_file": same("a probe does not support it; impetusd runs the check in the pod"),
    "verify": same("a probe cannot verify https; with yes, impetusd runs the check in the pod"),
    "interval": (same(_INSIDE), translated("periodSeconds")),
    "timeout": (same(_INSIDE), translated("timeoutSeconds")),
    "start_period": (same(_INSIDE), translated("startupProbe")),
    "failures": (same(_INSIDE), translated("failureThreshold")),
    "successes": (same(_INSIDE), translated("successThreshold", "only for a readinessProbe")),
    "action": (same(_INSIDE), translated("probe", "of the first check with http or tcp: action = restart becomes a livenessProbe, alert a readinessProbe")),
}  # fmt: skip
_ROLES = (
    lost("everyone with access to Docker's socket has full access"),
    lost("RBAC decides: everyone who may exec into the pod has full access"),
)
OWN: Mapping[str, Both] = {
    "base_dir": translated("/app", "the app's folder in the image"),
    "run_dir": translated(f"{HOME}/run", "in memory"),
    "state_dir": translated(f"{HOME}/lib", "in memory; for units, ${STATE_DIR} is /data, a volume"),
    "log_dir": translated(f"{HOME}/log", "in memory, and mostly empty: output goes to the container's log"),
    "viewers": _ROLES,
    "operators": _ROLES,
    "admins": _ROLES,
    "log_owner": unneeded("there are no log files"),
    "log_mode": unneeded("there are no log files"),
}
GROUPS: Mapping[str, Both] = {"members": lost("name each service in commands")}
INCLUDES: Mapping[str, Both] = {"files": translated("config", "each container gets an INI file with only its own unit")}
_GATEWAY = (
    lost("the page shows one host; for all containers, use docker service ps or a dashboard"),
    lost("the page shows one host; for all pods, use kubectl or the cluster's dashboards"),
)
_ALERT = lost("alert through the engine's monitoring: the container of a FATAL unit exits")
SECTIONS: Mapping[str, Mapping[str, Both]] = {
    schema.IMPETUSD: OWN,
    schema.POOL: UNITS,
    schema.PROGRAM: UNITS,
    schema.TIMER: {**UNITS, **TIMERS},
    schema.HEALTH: {**{key: UNITS[key] for key in ("kill_timeout", "cwd", "umask", "nice", "env_file", "env_pass")}, **HEALTH,
                    **dict.fromkeys(("user", "group", "no_new_privs", "capabilities"), lost("the check runs as its unit's user"))},
    schema.GROUP: GROUPS,
    schema.INCLUDE: INCLUDES,
    schema.GATEWAY: dict.fromkeys(schema.keys_of(schema.GATEWAY), _GATEWAY),
    schema.ALERT: dict.fromkeys(schema.keys_of(schema.ALERT), _ALERT),
    schema.HOST: dict.fromkeys(schema.keys_of(schema.HOST), _GATEWAY),
}  # fmt: skip
LITERAL = (
    translated("environment", "passed to the unit by env_pass"),
    translated("env", "passed to the unit by env_pass"),
)
REFERENCE = (
    same("${…} is read from the container's environment", "environment"),
    same("${…} is read from the container's environment", "secretKeyRef"),
)
SECRET = (translated("secrets", "its value is left out"), translated("secretKeyRef", "its value is left out"))


def rule(target: Target, kind: str, key: str, *, ending: bool = False) -> Rule:
    """Of a key of such a section. `ending`: of a workload that ends. KeyError if there is none."""
    found = ENDING[key] if ending and key in ENDING else SECTIONS[kind][key]
    return pick(target, found)


def pick(target: Target, found: Both) -> Rule:
    """The target's own."""
    if isinstance(found, Rule):
        return found
    return found[0] if target is Target.COMPOSE else found[1]
