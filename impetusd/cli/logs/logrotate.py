"""`impetusd logrotate`."""

from __future__ import annotations

import os
import re
import shlex
import typing

import click

from impetusd.cli.failure import Failure
from impetusd.cli.options import conf_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Iterable

    from impetusd.core.config.model import Config, Unit

CREATE, TRUNCATE = "create", "copytruncate"


@click.command(short_help="Print a configuration for logrotate.")
@click.option(
    "--copytruncate",
    "way",
    flag_value=TRUNCATE,
    default=CREATE,
    help="Copy and truncate the files. Lines written in between are lost; the default loses nothing.",
)
@conf_option
def command(way: str) -> int:
    """Print a logrotate configuration for all logs of this INI file.

    Units whose logs impetusd rotates (log_max_size, log_max_age) are omitted.

    Example: impetusd logrotate > /etc/logrotate.d/impetusd
    """
    from impetusd.cli import place
    from impetusd.linux.host import group_name, user_name

    at = here()
    config = place.load(at.conf)
    try:
        owner = os.stat(config.paths.log_dir)
    except OSError:  # not started yet: its owner will be the user who starts it
        uid, gid = os.geteuid(), os.getegid()
    else:
        uid, gid = owner.st_uid, owner.st_gid
    user, group = user_name(uid), group_name(gid)
    for what, name in (("user", user), ("group", group)):
        if name.isdecimal():
            raise Failure(
                f"{config.paths.log_dir} belongs to {what} {name}, which has no name on this host, but logrotate"
                " accepts only names; create a name for it, or let impetusd rotate the logs (log_max_size)"
            )
    print(text(config, place.executable(), user, group, way), end="")
    return 0


def text(config: Config, executable: str, user: str, group: str, way: str = CREATE) -> str:
    """The file, for logs that belong to `user` and `group`; `executable` is the absolute path of impetusd."""
    units = [*config.units.values(), *(timer.unit for timer in config.timers.values())]
    patterns = [f'"{pattern}"' for pattern in _patterns(config.paths.log_dir, units)]
    lines = ["daily", "rotate 14", "maxsize 100M", "missingok", "notifempty", "compress", "delaycompress"]
    if user != "root":
        lines.insert(0, f"su {user} {group}")
    if way == TRUNCATE:
        lines.append("copytruncate")
    else:
        lines += [
            f"create {0o640 if config.logs.log_mode is None else config.logs.log_mode:04o} {user} {group}",
            "sharedscripts",
            "postrotate",
        ]
        lines += [
            f"    {shlex.quote(executable)} -c {shlex.quote(config.paths.conf)} reopen-logs >/dev/null",
            "endscript",
        ]
    body = "".join(f"    {line}\n" for line in lines)
    return "\n".join(patterns) + " {\n" + body + "}\n"


def _patterns(log_dir: str, units: Iterable[Unit]) -> list[str]:
    """Globs for everything that nobody else rotates: the whole log_dir, if nothing in it rotates itself."""
    ours: list[Unit] = []
    others: list[Unit] = []
    folder = _literally(log_dir)
    for unit in units:
        itself = bool(unit.log_max_size or unit.log_max_age)
        (others if itself else ours).append(unit)
    patterns = [f"{folder}/*.log"]
    if others:
        patterns = [f"{folder}/impetusd.log"]
        for unit in ours:
            stem = f"{folder}/{unit.name}"
            patterns += [f"{stem}-{stream}.log" for stream in ("out", "error")]
            patterns += [f"{stem}-[0-9t]*-{stream}.log" for stream in ("out", "error") if _has_several(unit)]
    for unit in ours:
        for given in (unit.out_file, unit.error_file):
            base, extension = os.path.splitext(given)
            covered = not others and os.path.dirname(given) == log_dir and extension == ".log"
            if not given.startswith("/") or given == os.devnull or covered:
                continue
            patterns.append(_literally(given))
            if _has_several(unit) and not unit.merge_logs:
                patterns.append(f"{_literally(base)}-*{_literally(extension)}")
    return list(dict.fromkeys(patterns))


def _literally(path: str) -> str:
    """A pattern for this path, as it stands between quotes: there logrotate takes some signs for its own, so ? is put."""
    return re.sub(r"[\[*?]|[\"'\\{}\x00-\x1f]", lambda sign: f"[{sign[0]}]" if sign[0] in "[*?" else "?", path)


def _has_several(unit: Unit) -> bool:
    """Whether its slots' files have numbers in their names."""
    return bool(unit.app) or unit.instances_max > 1


def sample() -> str:
    """conf/logrotate/impetusd: for an instance in /etc that root runs."""
    from impetusd.core.config import parser as config
    from impetusd.linux.host import this_host

    made = config.parse("", "/etc/impetusd/impetusd.ini", {}, this_host())
    return text(made, "/usr/bin/impetusd", "root", "adm")


if __name__ == "__main__":
    print(sample(), end="")
