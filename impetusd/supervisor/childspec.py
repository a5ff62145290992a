"""From a unit to the spec that the shim starts: argv, environment, identity, limits.

The environment is built, not inherited: a short list of the daemon's own variables, then what the INI gives, then what
the protocols need. So what a program sees does not depend on whose shell started the daemon.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import sys
from collections.abc import Mapping
from typing import Any

from impetusd import vetted
from impetusd.core.agreement import is_number
from impetusd.core.model import Kind, Unit
from impetusd.core.trust import Trust

# What is handed on of the daemon's environment; LC_* too.
HANDED_ON = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
CHANNEL_FD = "IMPETUSD_CHANNEL_FD"
FORK_FD = "IMPETUSD_FORK_FD"
MOST_ENV_FILE = 1 << 20  # bytes; the kernel takes 128 KiB for one variable


class CannotStart(Exception):
    """A start failed before there was a process: `stage` is what was tried, `error` why it failed."""

    def __init__(self, stage: str, error: str) -> None:
        super().__init__(f"{stage} failed: {error}")
        self.stage = stage
        self.error = error


def identity(unit: Unit) -> dict[str, Any]:
    """uid, gid and the explicit list of groups, or none of them when the unit runs as the daemon does.

    Raises CannotStart when the user or group has gone since the configuration was checked.
    """
    if not unit.user and not unit.group:
        return {}
    try:
        person = person_of(unit.user) if unit.user else pwd.getpwuid(os.geteuid())
        gid = gid_of(unit.group) if unit.group else person.pw_gid
    except KeyError as error:
        raise CannotStart("looking up user and group", str(error.args[0])) from None
    groups = sorted(set(os.getgrouplist(person.pw_name, gid))) if unit.user else [gid]
    return {"uid": person.pw_uid, "gid": gid, "groups": groups}


def person_of(user: str) -> pwd.struct_passwd:
    """By name or by number. Raises KeyError."""
    return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)


def gid_of(group: str) -> int:
    """By name or by number. Raises KeyError."""
    return grp.getgrgid(int(group)).gr_gid if group.isdecimal() else grp.getgrnam(group).gr_gid


def environment(
    unit: Unit, name: str, index: int, daemon: Mapping[str, str], extra: Mapping[str, str]
) -> dict[str, str]:
    """The environment of slot `name`: handed on, of the user, from `extra` (its env_file), from the INI, ours.

    Raises CannotStart when increment_var has nothing to count from.
    """
    env = {key: daemon[key] for key in HANDED_ON if key in daemon}
    env.update({key: value for key, value in daemon.items() if key.startswith("LC_")})
    bin_dir = os.path.dirname(sys.executable)
    env["PATH"] = f"{bin_dir}:{env.get('PATH', '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin')}"
    if unit.user:
        person = person_of(unit.user)
        env.update(HOME=person.pw_dir, USER=person.pw_name, LOGNAME=person.pw_name, SHELL=person.pw_shell or "/bin/sh")
    env.update(extra)
    env.update(unit.env)
    if unit.increment_var:
        env[unit.increment_var] = _incremented(unit.increment_var, env, index)
    env.update(
        INVOCATION_ID=os.urandom(16).hex(),
        IMPETUSD_UNIT=unit.name,
        IMPETUSD_NAME=name,
        INSTANCE=str(index),
    )
    return env


def _incremented(variable: str, env: Mapping[str, str], index: int) -> str:
    """Raises CannotStart: an env_file is not known before the start."""
    value = env.get(variable)
    if value is None or not is_number(value):
        fault = "is set nowhere" if value is None else "is no whole number"
        raise CannotStart(f"adding the instance's number to {variable}", f"{variable} {fault}")
    return str(int(value) + index)


def command(unit: Unit, mode: str) -> list[str]:
    """argv of a command, or of the worker runtime in `mode` (template, serve)."""
    if unit.kind is not Kind.POOL:
        return list(unit.command)
    return [unit.interpreter or sys.executable, "-m", "impetusd.worker", mode]


def runtime_settings(unit: Unit) -> str:
    """IMPETUSD_WORKER: what the worker runtime is to know."""
    return json.dumps(
        {
            "pool": unit.name,
            "app": unit.app,
            "drain_timeout": unit.drain_timeout,
            "kill_timeout": unit.kill_timeout,
            "backlog": unit.backlog,
            "watchdog": unit.watchdog,
            "max_requests": unit.max_requests,
        }
    )


def spec(unit: Unit, argv: list[str], env: dict[str, str], fds: list[str], listen: int) -> dict[str, Any]:
    """The whole spec (see `shim.spawn`); `fds` are names in the shim's store, from number 0 on."""
    if listen:
        env = {**env, "LISTEN_FDS": str(listen), "LISTEN_FDNAMES": ":".join([unit.name] * listen)}
    return {
        "argv": argv,
        "env": env,
        "cwd": unit.cwd,
        "fds": {str(number): name for number, name in enumerate(fds)},
        "listen": listen,
        "group": "",
        "umask": unit.umask,
        "nice": unit.nice,
        "oom_score_adj": unit.oom_score_adj,
        "affinity": list(unit.cpu_affinity),
        "rlimits": [list(limit) for limit in unit.rlimits],
        "stop": stop(unit),
        **identity(unit),
    }


def stop(unit: Unit) -> list[Any]:
    """How the shim stops a process of the unit, should there be no supervisor: signal, seconds until SIGKILL, treekill."""
    return [int(unit.kill_signal), unit.kill_timeout, unit.treekill]


def read_env_files(unit: Unit) -> dict[str, str]:
    """NAME=value lines of the unit's env_file, read anew at each start. Raises CannotStart.

    Comments (#), blank lines, `export ` and one pair of quotes around a value are understood, as in systemd and docker.
    """
    found: dict[str, str] = {}
    trust = trust_of(unit) if unit.env_file else None
    for path in unit.env_file:
        try:
            lines = _env_file(path, trust).decode().splitlines()
        except UnicodeDecodeError as error:
            raise CannotStart(f"reading env_file {path}", str(error)) from None
        for number, line in enumerate(lines, 1):
            line = line.strip().removeprefix("export ")
            if not line or line.startswith("#"):
                continue
            name, equals, value = line.partition("=")
            if not equals or not name.strip().isidentifier():
                raise CannotStart(f"reading env_file {path}", f"line {number} is not NAME=value")
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            found[name.strip()] = value
    return found


def trust_of(unit: Unit) -> Trust | None:
    """Whose files root runs this unit by: root's own and those of the unit's user. None where we are not root.

    Raises CannotStart, as `identity`.
    """
    if os.geteuid() != 0:
        return None
    who = identity(unit)
    return Trust(who["uid"], frozenset(who["groups"])) if who.get("uid") else Trust()


def _env_file(path: str, trust: Trust | None) -> bytes:
    """What is in it. Raises CannotStart; also for a file that others may write: LD_PRELOAD in it would be code of theirs."""
    try:
        data, fault = vetted.read(path, MOST_ENV_FILE, trust)
    except OSError as error:
        raise CannotStart(f"reading env_file {path}", error.strerror or str(error)) from None
    if fault is not None:
        told = f"{fault.what}, and LD_PRELOAD in it would be code of theirs; {fault.fix}"
        raise CannotStart(f"reading env_file {path}", told)
    return data
