"""What becomes of each key and section of supervisord.conf."""

from __future__ import annotations

from impetusd.interop.importing.model import Rule, kept, lost, translated, unneeded

# Of [program:x].
KEYS: dict[str, Rule] = {
    "command": kept("command"),
    "process_name": unneeded("slots are called NAME:0, NAME:1 and so on"),
    "numprocs": translated("instances"),
    "numprocs_start": translated(
        "", "instances are numbered from 0 on; where a value uses another number, each is a unit"
    ),
    "priority": translated(
        "depends_on", "in a comment: say what a unit needs, and its start waits until that is ready"
    ),
    "autostart": kept("autostart"),
    "startsecs": translated("min_uptime"),
    "startretries": translated("max_restarts", "counts every restart within restart_window, not failed starts alone"),
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
    "stdout_logfile_maxbytes": translated("log_max_size", "of both files"),
    "stderr_logfile_maxbytes": translated("log_max_size", "of both files"),
    "stdout_logfile_backups": translated("log_keep", "of both files"),
    "stderr_logfile_backups": translated("log_keep", "of both files"),
    "stdout_syslog": lost("write out_file = stdout and run impetusd under systemd: the journal has it"),
    "stderr_syslog": lost("write error_file = stderr and run impetusd under systemd: the journal has it"),
    "stdout_events_enabled": lost("there are no event listeners; impetusd logs -f prints what is written"),
    "stderr_events_enabled": lost("there are no event listeners; impetusd logs -f prints what is written"),
    "stdout_capture_maxbytes": lost("there is no capture mode"),
    "stderr_capture_maxbytes": lost("there is no capture mode"),
    "serverurl": unneeded("no variable names a server here"),
}
# Of [supervisord].
DAEMON: dict[str, Rule] = {
    "logfile": unneeded("impetusd.log is in log_dir"),
    "logfile_maxbytes": unneeded("of supervisord's own log"),
    "logfile_backups": unneeded("of supervisord's own log"),
    "loglevel": unneeded("of supervisord's own log"),
    "silent": unneeded("of supervisord's own log"),
    "pidfile": unneeded("impetusd finds its daemon by the INI file"),
    "nodaemon": translated("", "true is impetusd run, false is impetusd start"),
    "nocleanup": unneeded("old log files stay where they are"),
    "strip_ansi": lost("output is logged as it comes"),
    "identifier": unneeded("for XML-RPC alone"),
    "childlogdir": translated("log_dir", "in a comment: of programs without a log file of their own"),
    "umask": translated("umask", "of each program"),
    "minfds": translated("rlimits", "in a comment: the daemon's own limit is what programs have by default"),
    "minprocs": translated("rlimits", "in a comment: the daemon's own limit is what programs have by default"),
    "user": translated("user", "of each program"),
    "directory": translated("cwd", "of each program"),
    "environment": translated("[env:NAME]", "of each program"),
}
# Other sections, by their kind.
SECTIONS: dict[str, Rule] = {
    "group": kept("[group:NAME]"),
    "include": translated("", "what it includes is in this INI"),
    "unix_http_server": translated(
        "xmlrpc of [gateway]", "only if supervisorctl is to go on: see impetusd help from-supervisord"
    ),
    "inet_http_server": translated(
        "xmlrpc of [gateway]", "only if it is still asked for: see impetusd help from-supervisord"
    ),
    "rpcinterface": unneeded("XML-RPC is there where [gateway] has xmlrpc"),
    "supervisorctl": unneeded("impetusd finds its socket by the INI file"),
    "ctlplugin": lost("supervisorctl's plug-ins have no counterpart"),
    "eventlistener": lost("there are no event listeners: see impetusd help from-supervisord for what replaces them"),
    "fcgi-program": lost(
        "its socket would be descriptor 0, and ours begin at 3; run a FastCGI server that listens by itself"
    ),
}
