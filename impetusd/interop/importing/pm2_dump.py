"""dump.pm2: what PM2 has saved of its processes."""

from __future__ import annotations

from typing import Any

from impetusd.interop.importing.pm2_keys import KEYS
from impetusd.interop.importing.scanner import Object
from impetusd.interop.importing.scanner import text as text_of

OFF = (None, False, 0, "")


def dumped(apps: list[Any]) -> list[Any]:
    """dump.pm2, which has each process: apps as an ecosystem file has them, equal names as instances of one."""
    found: dict[str, Object] = {}
    for each in apps:
        source = each.get("pm2_env", each)
        if not isinstance(source, Object):
            continue
        name = text_of(source.get("name", "app"))
        if name in found:
            found[name].put("instances", found[name]["instances"] + 1, found[name].lines["instances"])
            continue
        app = Object()
        line = source.lines.get("name", 1)
        for key, theirs in (("name", "name"), ("script", "pm_exec_path"), ("cwd", "pm_cwd"), ("args", "args"), ("exec_interpreter", "exec_interpreter"), ("node_args", "node_args"), ("exec_mode", "exec_mode"), ("out_file", "pm_out_log_path"), ("error_file", "pm_err_log_path")):  # fmt: skip
            if source.get(theirs) not in OFF:
                app.put(key, source[theirs], source.lines.get(theirs, line))
        for key in KEYS:
            if key in source and key not in app and key not in {"instances", "env", "pid_file", "username"}:
                app.put(key, source[key], source.lines.get(key, line))
        app.put("instances", 1, line)
        env = Object()
        if isinstance(source.get("env"), Object):
            for key, value in source["env"].items():
                if key not in SHELL and not isinstance(value, Object | list) and key != name:
                    env.put(key, value, source["env"].lines.get(key, line))
        app.put("env", env, line)
        found[name] = app
    return list(found.values())


# What every login shell has, and PM2 adds: no variables of the app.
SHELL = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PWD", "OLDPWD", "SHLVL", "_", "TERM", "MAIL", "LS_COLORS", "LESSOPEN", "LESSCLOSE",
    "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "XDG_SESSION_ID", "XDG_RUNTIME_DIR", "XDG_SESSION_TYPE", "XDG_SESSION_CLASS",
    "XDG_DATA_DIRS", "DBUS_SESSION_BUS_ADDRESS", "MOTD_SHOWN", "PM2_HOME", "PM2_USAGE", "PM2_JSON_PROCESSING", "unique_id",
    "NODE_APP_INSTANCE", "SUDO_USER", "SUDO_UID", "SUDO_GID", "SUDO_COMMAND",
})  # fmt: skip
