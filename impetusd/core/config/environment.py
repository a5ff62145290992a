"""Compare a process's environment with the one it would be started with now, without what looks secret."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from impetusd.core import redact
from impetusd.core.config.agreement import OWN_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

# Set by impetusd, with another value in each process.
LEFT_OUT = OWN_VARIABLES | {"PYTHONUNBUFFERED"}


# Variables of impetusd's own environment that are passed on regardless of env_pass; LC_* too.
HANDED_ON = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
# Variables about impetusd's own process, set by its parent for it alone.
_OF_THE_DAEMON = ("IMPETUSD_", "LISTEN_", "NOTIFY_SOCKET", "JOURNAL_STREAM", "MAINPID", "SYSTEMD_EXEC_PID")


def handed_on(daemon: Mapping[str, str], env_pass: Sequence[str]) -> dict[str, str]:
    """The part of impetusd's environment that a process is given."""
    if not env_pass:  # as nearly always, at each start
        return {name: value for name, value in daemon.items() if name in HANDED_ON or name.startswith("LC_")}
    wanted = [pattern for pattern in env_pass if pattern[0] != "!"]
    refused = [pattern[1:] for pattern in env_pass if pattern[0] == "!"]

    def is_for_it(name: str) -> bool:
        if any(fnmatchcase(name, pattern) for pattern in refused):
            return False
        if name in HANDED_ON or name.startswith("LC_"):
            return True
        own = name in OWN_VARIABLES or name.startswith(_OF_THE_DAEMON)
        return not own and any(fnmatchcase(name, pattern) for pattern in wanted)

    return {name: value for name, value in daemon.items() if is_for_it(name)}


def passes_path(env_pass: Sequence[str]) -> bool:
    """Whether the caller's PATH is used."""
    return any(pattern[0] != "!" and fnmatchcase("PATH", pattern) for pattern in env_pass)


def parse(environ: bytes) -> dict[str, str] | None:
    """Parse /proc/PID/environ, the environment at the start; None where the process has written over it, as PostgreSQL
    does.
    """
    pairs = (part.partition("=") for part in environ.decode("utf-8", "surrogateescape").split("\0"))
    found = {name: value for name, sign, value in pairs if sign}
    return found if "INVOCATION_ID" in found else None


def shown(env: Mapping[str, str]) -> list[dict[str, str]]:
    """A row for each variable, by name."""
    return [{"name": name, "value": redact.value(name, env[name])} for name in sorted(env.keys() - LEFT_OUT)]


def differing(started: Mapping[str, str], anew: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each variable that would differ; None for a missing one."""

    def side(env: Mapping[str, str], name: str) -> str | None:
        return redact.value(name, env[name]) if name in env else None

    names = sorted((started.keys() | anew.keys()) - LEFT_OUT)
    return [
        {"name": name, "from": side(started, name), "to": side(anew, name)}
        for name in names
        if started.get(name) != anew.get(name)
    ]
