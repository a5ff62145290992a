"""What becomes of each key of a service of systemd."""

from __future__ import annotations

from impetusd.interop.importing.model import Rule, kept, lost, translated, unneeded

FOLDERS = {"Runtime": "/run", "State": "/var/lib", "Cache": "/var/cache", "Logs": "/var/log", "Configuration": "/etc"}
_SANDBOX = lost("impetusd has no sandbox, only capabilities and no_new_privs")
_ORDER = translated("depends_on", "kept as a comment; set depends_on instead")
KEYS: dict[str, Rule] = {
    "ExecStart": kept("command", "run by sh -c if it uses variables and there is an EnvironmentFile"),
    "ExecStartPre": translated("depends_on", "each is a [program:NAME-pre] with type = oneshot"),
    "ExecStartPost": lost("use a unit that depends on it"),
    "ExecReload": lost("impetusd reload NAME starts new processes; impetusd signal HUP NAME sends a signal"),
    "ExecStop": lost("set kill_signal; a plain kill -SIGNAL $MAINPID is converted to it"),
    "ExecStopPost": lost("impetusd has no such hook"),
    "Type": translated("type", "oneshot: type = oneshot; notify: wait_ready = yes; simple and exec: the default"),
    "RemainAfterExit": unneeded("a oneshot counts as started once it has exited"),
    "WorkingDirectory": translated("cwd"),
    "User": kept("user"),
    "Group": kept("group"),
    "Environment": translated("[env:NAME]"),
    "EnvironmentFile": translated("env_file"),
    "PassEnvironment": translated("env_pass"),
    "Restart": translated("autorestart", "always: always; on-failure and on-abnormal: on-failure; no: never"),
    "RestartSec": translated("restart_delay"),
    "RestartPreventExitStatus": translated("stop_exit_codes"),
    "SuccessExitStatus": translated("stop_exit_codes"),
    "StartLimitBurst": translated("max_restarts"),
    "StartLimitIntervalSec": translated("restart_window"),
    "StartLimitInterval": translated("restart_window"),
    "TimeoutStartSec": translated("listen_timeout"),
    "TimeoutStopSec": translated("kill_timeout"),
    "TimeoutSec": translated("kill_timeout"),
    "RuntimeMaxSec": translated("max_age", "impetusd restarts it, while systemd treats this as a failure"),
    "WatchdogSec": translated("watchdog"),
    "KillSignal": translated("kill_signal"),
    "KillMode": translated("treekill", "process: no; otherwise yes"),
    "UMask": translated("umask"),
    "Nice": translated("nice"),
    "OOMScoreAdjust": translated("oom_score_adj"),
    "CPUAffinity": translated("cpu_affinity"),
    "MemoryHigh": translated("max_memory_restart", "impetusd restarts it, while systemd throttles it"),
    "MemoryMax": translated("max_memory_kill"),
    "NoNewPrivileges": translated("no_new_privs"),
    "StandardInput": unneeded("always null"),
    "StandardOutput": translated("out_file"),
    "StandardError": translated("error_file"),
    "SyslogIdentifier": unneeded("each unit has its own files"),
    "PIDFile": unneeded("impetusd started it and knows its pid"),
    "NotifyAccess": unneeded("every process of the unit may send notifications"),
    "GuessMainPID": unneeded("impetusd started it and knows its pid"),
    "Description": unneeded("kept as a comment"),
    "Documentation": unneeded("kept as a comment"),
    **dict.fromkeys(("After", "Before", "Requires", "Wants", "BindsTo", "PartOf", "Requisite"), _ORDER),
    **dict.fromkeys(("WantedBy", "RequiredBy", "Alias", "Also"), unneeded("impetusd startup has systemd start impetusd at boot")),
    **dict.fromkeys(
        ("PrivateTmp", "ProtectSystem", "ProtectHome", "PrivateDevices", "ReadWritePaths", "ReadOnlyPaths", "ProtectKernelTunables",
         "ProtectKernelModules", "ProtectControlGroups", "RestrictNamespaces", "SystemCallFilter", "InaccessiblePaths", "DynamicUser",
         "RestrictAddressFamilies", "LockPersonality", "MemoryDenyWriteExecute", "RestrictRealtime", "RestrictSUIDSGID"),
        _SANDBOX,
    ),
    **dict.fromkeys(
        tuple(f"{each}Directory{mode}" for mode in ("", "Mode") for each in FOLDERS),
        translated("depends_on", "created by a [program:NAME-folders] with type = oneshot"),
    ),
    "PermissionsStartOnly": translated("user", "applies only to the command itself, not to [program:NAME-pre]"),
}  # fmt: skip
