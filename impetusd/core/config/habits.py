"""Keys and sections of PM2, supervisord, gunicorn and systemd with their equivalents here, for hints in errors.

One table each, by the name as it is written there. Names with the same meaning here are not listed.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False  # typing takes 2 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable


class Habit(namedtuple("Habit", ("ours", "how"), defaults=("",))):  # noqa: PYI024 (typing)
    """`ours`: the key here, if a key replaces it; `how`: what to write, or why nothing is needed, as a clause."""

    __slots__ = ()
    ours: str
    how: str


def _none(how: str) -> Habit:
    return Habit("", how)


_ENV = _none("write an [env:NAME] with one line per variable, or [env] for all units")
_FOREGROUND = _none("remove it: `impetusd run` stays in the foreground, `impetusd start` does not")
_ROTATION = "applies to both files"
_REMOVE = _none("remove it: impetusd has no such option and does not need one")
_RLIMITS = {f"Limit{name}": Habit("rlimits", f"rlimits = {name.lower()}=…") for name in (
    "NOFILE", "NPROC", "CORE", "AS", "MEMLOCK", "STACK", "FSIZE", "DATA", "CPU", "RSS", "SIGPENDING", "MSGQUEUE", "RTPRIO",
)}  # fmt: skip

PM2 = {
    "script": Habit("command", "including the interpreter: command = python app.py"),
    "exec": Habit("command", "including the interpreter: command = python app.py"),
    "args": Habit("command", "include the arguments in it"),
    "exec_interpreter": Habit("command", "put the interpreter before the script"),
    "node_args": Habit("command", "put them after node"),
    "interpreter_args": Habit("command", "put them after the interpreter"),
    "name": _none("remove it: the section's name is the unit's name"),
    "namespace": _none("write a [group:NAME] with members"),
    "exec_mode": Habit("instances", "all instances of a unit share its listen sockets"),
    "port": Habit("listen", "or set PORT in its [env:NAME]"),
    "error": Habit("error_file"),
    "err_file": Habit("error_file"),
    "err_log": Habit("error_file"),
    "out": Habit("out_file"),
    "output": Habit("out_file"),
    "out_log": Habit("out_file"),
    "log_file": Habit("out_file", "and error_file; use the same path for both to get one file"),
    "log": Habit("out_file", "and error_file; use the same path for both to get one file"),
    "log_type": Habit("log_format"),
    "log_date_format": Habit("time", "time = yes adds a timestamp in a fixed format"),
    "disable_logs": Habit("out_file", "out_file = /dev/null, and the same for error_file"),
    "combine_logs": Habit("merge_logs"),
    "pid_file": _none("remove it: impetusd status --json has the pids"),
    "pid": _none("remove it: impetusd status --json has the pids"),
    "env": _ENV,
    "env_production": _none("write an [env:NAME@production], and run impetusd start with --env production"),
    "env_development": _none("write an [env:NAME@development], and run impetusd start with --env development"),
    "filter_env": _none("remove it: only PATH, HOME and the like are passed on from the caller's environment"),
    "ignore_watch": Habit("watch_ignore"),
    "cron": Habit("cron_restart"),
    "instance_var": _none("remove it: use ${INSTANCE} in any value for the instance's number"),
    "uid": Habit("user"),
    "gid": Habit("group"),
    "username": Habit("user"),
    "shutdown_with_message": Habit("kill_signal", "a program is stopped with a signal"),
    "kill_retry_time": Habit("kill_timeout"),
    "post_update": _none("remove it: run impetusd reload NAME after updating the code"),
    **dict.fromkeys(
        ("vizion", "pmx", "automation", "trace", "disable_trace", "deep_monitoring", "source_map_support", "windowsHide",
         "force", "v8", "event_loop_inspector", "disable_source_map_support", "append_env_to_name", "install_url"),
        _REMOVE,
    ),
}  # fmt: skip
SUPERVISORD = {
    "numprocs": Habit("instances"),
    "numprocs_start": _none("instances are numbered from 0: ${INSTANCE}; with increment_var = N, from the value of N in [env:NAME]"),
    "process_name": _none("remove it: instances are called NAME:0, NAME:1 and so on"),
    "directory": Habit("cwd"),
    "environment": _ENV,
    "startsecs": Habit("min_uptime", "with a unit of time: min_uptime = 1s"),
    "startretries": Habit("max_restarts"),
    "exitcodes": Habit("stop_exit_codes"),
    "stopsignal": Habit("kill_signal"),
    "stopwaitsecs": Habit("kill_timeout", "with a unit of time: kill_timeout = 10s"),
    "stopasgroup": Habit("treekill", "it is yes by default"),
    "killasgroup": Habit("treekill", "it is yes by default"),
    "priority": Habit("depends_on", "units start in the order of their dependencies, and wait until those are ready"),
    "stdout_logfile": Habit("out_file"),
    "stderr_logfile": Habit("error_file"),
    "redirect_stderr": Habit("error_file", "the same path as out_file"),
    "stdout_logfile_maxbytes": Habit("log_max_size", _ROTATION),
    "stderr_logfile_maxbytes": Habit("log_max_size", _ROTATION),
    "stdout_logfile_backups": Habit("log_keep", _ROTATION),
    "stderr_logfile_backups": Habit("log_keep", _ROTATION),
    "stdout_syslog": Habit("out_file", "out_file = stdout, and run impetusd under systemd, which logs to the journal"),
    "stderr_syslog": Habit("error_file", "error_file = stderr, and run impetusd under systemd, which logs to the journal"),
    "programs": Habit("members"),
    "nodaemon": _FOREGROUND,
    "logfile": Habit("log_dir", "impetusd.log is written there"),
    "childlogdir": Habit("log_dir"),
    "pidfile": _REMOVE,
    "minfds": _none("write rlimits = nofile=1024 in a unit"),
    "minprocs": _none("write rlimits = nproc=200 in a unit"),
    **dict.fromkeys(
        ("serverurl", "identifier", "silent", "nocleanup", "strip_ansi", "loglevel", "stdout_capture_maxbytes",
         "stderr_capture_maxbytes", "stdout_events_enabled", "stderr_events_enabled", "logfile_maxbytes", "logfile_backups"),
        _REMOVE,
    ),
}  # fmt: skip
GUNICORN = {
    "workers": Habit("instances"),
    "bind": Habit("listen"),
    "wsgi_app": Habit("app"),
    "worker_class": Habit("protocol", "auto detects the kind of application"),
    "timeout": Habit("watchdog", "with a unit of time: watchdog = 30s"),
    "graceful_timeout": Habit("drain_timeout", "with a unit of time: drain_timeout = 5s"),
    "max_requests_jitter": Habit("max_requests", "impetusd adds 10 % jitter itself"),
    "preload_app": Habit("preload"),
    "chdir": Habit("cwd"),
    "raw_env": _ENV,
    "reload": Habit("watch"),
    "errorlog": Habit("error_file"),
    "pythonpath": _none("set PYTHONPATH in its [env:NAME]"),
    "accesslog": Habit("access_log", "yes: on standard output"),
    "daemon": _FOREGROUND,
}
SYSTEMD = {
    "ExecStart": Habit("command"),
    "ExecStartPre": Habit("depends_on", "on a [program:NAME] with type = oneshot"),
    "ExecReload": _none("remove it: impetusd reload NAME starts new processes, impetusd signal sends a signal"),
    "ExecStop": Habit("kill_signal"),
    "WorkingDirectory": Habit("cwd"),
    "Environment": _ENV,
    "EnvironmentFile": Habit("env_file"),
    "PassEnvironment": Habit("env_pass"),
    "Restart": Habit("autorestart"),
    "RestartSec": Habit("restart_delay", "with a unit of time: restart_delay = 1s"),
    "RestartPreventExitStatus": Habit("stop_exit_codes"),
    "SuccessExitStatus": Habit("stop_exit_codes"),
    "StartLimitBurst": Habit("max_restarts"),
    "StartLimitIntervalSec": Habit("restart_window"),
    "TimeoutStartSec": Habit("listen_timeout"),
    "TimeoutStopSec": Habit("kill_timeout"),
    "RuntimeMaxSec": Habit("max_age"),
    "WatchdogSec": Habit("watchdog"),
    "KillSignal": Habit("kill_signal"),
    "KillMode": Habit("treekill"),
    "Type": Habit("type", "simple or oneshot; for notify: wait_ready = yes"),
    "ListenStream": Habit("listen"),
    "StandardOutput": Habit("out_file"),
    "StandardError": Habit("error_file"),
    "OOMScoreAdjust": Habit("oom_score_adj"),
    "CPUAffinity": Habit("cpu_affinity"),
    "MemoryHigh": Habit("max_memory_restart"),
    "MemoryMax": Habit("max_memory_kill"),
    "CPUQuota": Habit("cpu_max"),
    "NoNewPrivileges": Habit("no_new_privs"),
    "CapabilityBoundingSet": Habit("capabilities"),
    "AmbientCapabilities": Habit("capabilities"),
    **dict.fromkeys(("After", "Requires", "Wants", "BindsTo"), Habit("depends_on")),
    "OnCalendar": Habit("cron", "as five fields: 0 3 * * *"),
    "OnUnitActiveSec": Habit("every"),
    "RandomizedDelaySec": Habit("jitter"),
    "Persistent": Habit("catch_up"),
    "Description": _none("write it as a comment, after a ;"),
    "WantedBy": _none("remove it: impetusd startup makes systemd start impetusd at boot"),
    **_RLIMITS,
}  # fmt: skip
KEYS = {**SYSTEMD, **GUNICORN, **SUPERVISORD, **PM2}

SECTIONS = {
    "supervisord": "move impetusd's own settings to [impetusd]; remove the rest",
    "supervisorctl": "remove it: impetusd finds its socket through this file",
    "unix_http_server": "remove it: impetusd's own socket is in run_dir; for supervisorctl write [gateway] with xmlrpc = unix:PATH",
    "inet_http_server": "write [gateway]; for supervisorctl with xmlrpc = 127.0.0.1:PORT",
    "rpcinterface": "remove it: impetusd's control socket is always available",
    "eventlistener": "remove it: impetusd events -f prints each event",
    "fcgi-program": "write [program:NAME] with listen",
    "watcher": "write [program:NAME]",
    "circus": "move impetusd's own settings to [impetusd]; remove the rest",
    "socket": "set listen in the pool or program",
    "Service": "write [program:NAME]",
    "Unit": "write [program:NAME], with depends_on",
    "Install": "remove it: impetusd startup makes systemd start impetusd at boot",
    "Timer": "write [timer:NAME], with its command",
    "Socket": "set listen in the pool or program",
}


def advice(name: str, known: Iterable[str]) -> str:
    """What to write instead of the key `name` in a section that has the keys `known`, as a clause; "" where nothing is known."""
    habit = KEYS.get(name) or KEYS.get(name.replace("-", "_"))
    if habit is None or (habit.ours and habit.ours not in known):
        return ""
    return f"use {habit.ours}{f' ({habit.how})' if habit.how else ''}" if habit.ours else habit.how
