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


_INSIDE = "impetusd does it in the container"
UNITS: Mapping[str, Both] = {
    "app": same(),
    "protocol": same(),
    "command": same(),
    "type": (
        translated("restart_policy", "oneshot: it runs at each deployment until it has exited with 0, and nobody waits for that"),
        translated("Job", "oneshot: it runs at each deployment; with --before in an initContainer of who depends on it"),
    ),
    "listen": (
        translated("ports", "on every address of the container; published unless it was a loopback address"),
        translated("Service", "on every address of the pod"),
    ),
    "instances": (
        translated("deploy.replicas", "the least of a range; nothing scales it"),
        translated("replicas", "a range also becomes a HorizontalPodAutoscaler"),
    ),
    "node": same(),
    "increment_var": same("all instances are in one container, for they differ"),
    "interpreter": translated("image", "the image has one Python, with impetusd and what the app needs"),
    "preload": same(),
    "standby": lost("another container answers meanwhile: write instances = 2 or more"),
    "threads": same(),
    "root_path": same(),
    "backlog": same(),
    "enabled": same("what is disabled is left out"),
    "autostart": translated("replicas", "no: none"),
    "depends_on": (
        translated("depends_on", "in this order on one host; Swarm has none: what is too early fails and is started again"),
        translated("readinessProbe", "nothing waits: what is too early fails and is started again; --before adds initContainers"),
    ),
    "wait_ready": same(),
    "ready": same(),
    "listen_timeout": (same("", "healthcheck.start_period"), same("", "startupProbe")),
    "reload_parallel": (translated("update_config.parallelism"), translated("rollingUpdate.maxSurge")),
    "reload_watch": (translated("update_config.monitor", "at least 5s"), translated("minReadySeconds")),
    "autorestart": same(_INSIDE),
    "stop_exit_codes": same(_INSIDE),
    "min_uptime": same(_INSIDE),
    "max_restarts": same("then the container ends, and the engine starts another"),
    "restart_window": same(_INSIDE),
    "restart_delay": same(_INSIDE),
    "exp_backoff_restart_delay": same(_INSIDE),
    "exp_backoff_max_delay": same(_INSIDE),
    "retry_after": same(_INSIDE),
    "on_fatal": same(),
    "critical": translated("restart_policy", "yes for all but what has retry_after: the engine replaces a container whose unit is FATAL"),
    "cron_restart": same(_INSIDE),
    "timezone": same(),
    "max_age": same(_INSIDE),
    "max_requests": same(_INSIDE),
    "watch": lost("an image does not change: a new one is a deployment"),
    "watch_ignore": unneeded("it is for watch"),
    "watch_delay": unneeded("it is for watch"),
    "max_memory_restart": same(_INSIDE, "limits.memory"),
    "memory_hold": same(_INSIDE),
    "max_memory_kill": same(_INSIDE, "limits.memory"),
    "memory_max": translated("limits.memory", "of the container, 96M for impetusd included"),
    "cpu_max": (translated("limits.cpus"), translated("limits.cpu")),
    "watchdog": same(_INSIDE),
    "header_timeout": same(),
    "body_timeout": same(),
    "kill_signal": same("to the program; impetusd gets SIGTERM"),
    "kill_timeout": (same("", "stop_grace_period"), same("", "terminationGracePeriodSeconds")),
    "drain_timeout": (same("", "stop_grace_period"), same("", "terminationGracePeriodSeconds")),
    "treekill": same(),
    "cwd": same("base_dir is /app"),
    "user": (translated("user", "a number; by name it is the image's user"), translated("runAsUser", "a number; by name it is the image's user")),
    "group": (translated("user", "a number; by name it is the image's group"), translated("runAsGroup", "a number; by name it is the image's group")),
    "no_new_privs": (translated("security_opt", "Swarm ignores it"), translated("allowPrivilegeEscalation")),
    "capabilities": (translated("cap_add", "all others are dropped"), translated("capabilities.add", "all others are dropped")),
    "umask": same(),
    "nice": same("below 0 it is lost: impetusd is not root there"),
    "oom_score_adj": same("below 0 it is lost: impetusd is not root there"),
    "cpu_affinity": lost("each node has its own CPUs; see the engine's cpusets"),
    "rlimits": same("as far as the container's own limits allow it"),
    "env_file": (translated("secrets", "one file for each unit"), translated("Secret", "one file for each unit, mounted")),
    "env_pass": same("of the container's environment"),
    "out_file": translated("log", "the container's: a file would be lost with it"),
    "error_file": translated("log", "the container's: a file would be lost with it"),
    "access_log": same(),
    "merge_logs": unneeded("there are no files"),
    "time": same(),
    "log_format": same(),
    "log_max_line": same(),
    "log_max_size": (translated("logging.options.max-size"), lost("kubelet's containerLogMaxSize holds for all")),
    "log_max_age": lost("the engine rotates by size alone"),
    "log_keep": (translated("logging.options.max-file"), lost("kubelet's containerLogMaxFiles holds for all")),
    "log_compress": (translated("logging.options.compress"), unneeded("the kubelet does so")),
}  # fmt: skip
# Of what the engine starts by itself and that ends: a CronJob, a Job. `impetusd exec` runs its command there.
ENDING: Mapping[str, Both] = {
    "autorestart": (translated("restart_policy", "on-failure"), translated("backoffLimit", "never: 0")),
    "max_restarts": (translated("restart_policy.max_attempts"), translated("backoffLimit")),
    **dict.fromkeys(
        ("stop_exit_codes", "min_uptime", "restart_window", "restart_delay", "exp_backoff_restart_delay", "exp_backoff_max_delay", "retry_after"),
        lost("the engine tries it again by its own rule, until it exits with 0"),
    ),
    "listen_timeout": (lost("it may take any time"), translated("activeDeadlineSeconds")),
    "kill_signal": lost("it gets SIGTERM"),
    **dict.fromkeys(("time", "log_format", "log_max_line"), lost("its output is the container's log as it is")),
    "critical": lost("nothing else ends with it"),
    "autostart": lost("it runs at each deployment"),
}  # fmt: skip
TIMERS: Mapping[str, Both] = {
    "command": same(),
    "cron": (same(_INSIDE), translated("schedule", "of a CronJob; with seconds a Deployment runs it, and all keys are kept")),
    "every": (same(_INSIDE), translated("schedule", "where it divides an hour or a day; otherwise a Deployment runs it, and all keys are kept")),
    "timezone": (same(_INSIDE), translated("timeZone")),
    "jitter": (same(_INSIDE), lost("a CronJob starts on time")),
    "catch_up": (same(_INSIDE), translated("startingDeadlineSeconds", "no: 60, yes: 86400")),
    "overlap": (same(_INSIDE), translated("concurrencyPolicy", "skip: Forbid, replace: Replace; queue: Forbid, and it is lost")),
    "timeout": (same(_INSIDE), translated("activeDeadlineSeconds", "of all tries together")),
    "retries": (same(_INSIDE), translated("backoffLimit")),
    "retry_delay": (same(_INSIDE), lost("10 s, which doubles with each try, up to 6 minutes")),
}  # fmt: skip
HEALTH: Mapping[str, Both] = {
    "enabled": same("what is disabled is left out"),
    "target": same(),
    "http": (same(_INSIDE), translated("httpGet", "of the first check for each kind of probe; impetusd does others in the pod")),
    "tcp": (same(_INSIDE), translated("tcpSocket", "of the first check for each kind of probe; impetusd does others in the pod")),
    "exec": same(_INSIDE),
    "status": same("other than 200-399, no probe can ask it, and impetusd does"),
    "body": same("no probe can ask it, and impetusd does"),
    "headers": (same(_INSIDE), translated("httpHeaders", "what looks secret: no probe has it, and impetusd asks")),
    "socket": same("no probe can ask it, and impetusd does"),
    "ca_file": same("no probe can ask it, and impetusd does"),
    "verify": same("yes with https: no probe can ask it, and impetusd does"),
    "interval": (same(_INSIDE), translated("periodSeconds")),
    "timeout": (same(_INSIDE), translated("timeoutSeconds")),
    "start_period": (same(_INSIDE), translated("startupProbe")),
    "failures": (same(_INSIDE), translated("failureThreshold")),
    "successes": (same(_INSIDE), translated("successThreshold", "of a readinessProbe")),
    "action": (same(_INSIDE), translated("probe", "of the first check with http or tcp: action = restart is livenessProbe, alert readinessProbe")),
}  # fmt: skip
_ROLES = (
    lost("whoever may use Docker's socket may do everything"),
    lost("RBAC decides: who may exec into the pod may do everything"),
)
OWN: Mapping[str, Both] = {
    "base_dir": translated("/app", "where the image has it"),
    "run_dir": translated(f"{HOME}/run", "in memory"),
    "state_dir": translated(f"{HOME}/lib", "in memory; what ${STATE_DIR} is to a unit is /data, a volume"),
    "log_dir": translated(f"{HOME}/log", "in memory, and mostly empty: logs go to the container's"),
    "viewers": _ROLES,
    "operators": _ROLES,
    "admins": _ROLES,
    "log_owner": unneeded("there are no files"),
    "log_mode": unneeded("there are no files"),
}
GROUPS: Mapping[str, Both] = {"members": lost("commands name each service")}
INCLUDES: Mapping[str, Both] = {"files": translated("config", "each container has an INI of its unit alone")}
_GATEWAY = (
    lost("the page is of one host; docker service ps and a dashboard of the engine show the same of all"),
    lost("the page is of one host; kubectl and the cluster's dashboards show the same of all"),
)
_ALERT = lost("alert by the engine's monitoring: a unit that is FATAL ends its container")
SECTIONS: Mapping[str, Mapping[str, Both]] = {
    schema.IMPETUSD: OWN,
    schema.POOL: UNITS,
    schema.PROGRAM: UNITS,
    schema.TIMER: {**UNITS, **TIMERS},
    schema.HEALTH: {**{key: UNITS[key] for key in ("kill_timeout", "cwd", "umask", "nice", "env_file", "env_pass")}, **HEALTH,
                    **dict.fromkeys(("user", "group", "no_new_privs", "capabilities"), lost("it is run as its unit is"))},
    schema.GROUP: GROUPS,
    schema.INCLUDE: INCLUDES,
    schema.GATEWAY: dict.fromkeys(schema.keys_of(schema.GATEWAY), _GATEWAY),
    schema.ALERT: dict.fromkeys(schema.keys_of(schema.ALERT), _ALERT),
    schema.HOST: dict.fromkeys(schema.keys_of(schema.HOST), _GATEWAY),
}  # fmt: skip
LITERAL = (
    translated("environment", "the unit gets it by env_pass"),
    translated("env", "the unit gets it by env_pass"),
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
