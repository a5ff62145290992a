"""What becomes of each key and section of supervisord.conf."""

from __future__ import annotations

from impetusd.interop.importing.model import Rule, kept, lost, translated, unneeded

# Of [program:x].
KEYS: dict[str, Rule] = {
    "command": kept("command"),
    "process_name": unneeded("slots are called NAME:0, NAME:1 and so on"),
    "numprocs": translated("instances"),
    "numprocs_start": translated(
        "", "instances are numbered from 0; if a value uses another number, each process becomes a unit"
    ),
    "priority": translated(
        "depends_on", "kept as a comment; set depends_on, so that a start waits until those units are ready"
    ),
    "autostart": kept("autostart"),
    "startsecs": translated("min_uptime"),
    "startretries": translated("max_restarts", "counts every restart within restart_window, not only failed starts"),
    "autorestart": translated("autorestart", "true: always; unexpected: on-failure; false: never"),
    "exitcodes": translated("stop_exit_codes"),
    "stopsignal": translated("kill_signal"),
    "stopwaitsecs": translated("kill_timeout"),
    "stopasgroup": translated("treekill"),
    "killasgroup": translated("treekill"),
    "user": kept("user"),
    "directory": translated("cwd"),
    "umask": kept("umask"),
    "environment": translated("[env:NAME]"),
    "redirect_stderr": translated("error_file", "the same file as out_file"),
    "stdout_logfile": translated("out_file"),
    "stderr_logfile": translated("error_file"),
    "stdout_logfile_maxbytes": translated("log_max_size", "applies to both files"),
    "stderr_logfile_maxbytes": translated("log_max_size", "applies to both files"),
    "stdout_logfile_backups": translated("log_keep", "applies to both files"),
    "stderr_logfile_backups": translated("log_keep", "applies to both files"),
    "stdout_syslog": lost("write out_file = stdout and run impetusd under systemd, which logs to the journal"),
    "stderr_syslog": lost("write error_file = stderr and run impetusd under systemd, which logs to the journal"),
    "stdout_events_enabled": lost("impetusd has no event listeners; impetusd logs -f prints new output"),
    "stderr_events_enabled": lost("impetusd has no event listeners; impetusd logs -f prints new output"),
    "stdout_capture_maxbytes": lost("impetusd has no capture mode"),
    "stderr_capture_maxbytes": lost("impetusd has no capture mode"),
    "serverurl": unneeded("impetusd sets no SUPERVISOR_SERVER_URL"),
}
# Of [supervisord].
DAEMON: dict[str, Rule] = {
    "logfile": unneeded("impetusd.log is in log_dir"),
    "logfile_maxbytes": unneeded("only for supervisord's own log"),
    "logfile_backups": unneeded("only for supervisord's own log"),
    "loglevel": unneeded("only for supervisord's own log"),
    "silent": unneeded("only for supervisord's own log"),
    "pidfile": unneeded("impetusd finds its daemon through the INI file"),
    "nodaemon": translated("", "true: impetusd run; false: impetusd start"),
    "nocleanup": unneeded("old log files stay where they are"),
    "strip_ansi": lost("output is logged unchanged"),
    "identifier": unneeded("only for XML-RPC"),
    "childlogdir": translated("log_dir", "kept as a comment; only for programs without their own log file"),
    "umask": translated("umask", "for each program"),
    "minfds": translated("rlimits", "kept as a comment; programs inherit the daemon's own limit"),
    "minprocs": translated("rlimits", "kept as a comment; programs inherit the daemon's own limit"),
    "user": translated("user", "for each program"),
    "directory": translated("cwd", "for each program"),
    "environment": translated("[env:NAME]", "for each program"),
}
# Other sections, by their kind.
SECTIONS: dict[str, Rule] = {
    "group": kept("[group:NAME]"),
    "include": translated("", "the included files were merged into the INI file"),
    "unix_http_server": translated(
        "xmlrpc of [gateway]", "needed only to keep using supervisorctl; see impetusd help from-supervisord"
    ),
    "inet_http_server": translated(
        "xmlrpc of [gateway]", "needed only to keep using supervisorctl; see impetusd help from-supervisord"
    ),
    "rpcinterface": unneeded("XML-RPC is available if [gateway] has xmlrpc"),
    "supervisorctl": unneeded("impetusd finds its socket through the INI file"),
    "ctlplugin": lost("impetusd has no equivalent of supervisorctl's plug-ins"),
    "eventlistener": lost("impetusd has no event listeners; see impetusd help from-supervisord for alternatives"),
    "fcgi-program": lost(
        "its socket would be descriptor 0, but impetusd's start at 3; run a FastCGI server that opens its own socket"
    ),
}
