"""Which INI file is meant, and where the instance that it describes lives."""

from __future__ import annotations

import os

from impetusd.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.core.location import Paths
    from impetusd.core.model import Config

LOOKED_AT = ("impetusd.ini", "conf/impetusd.ini", "/etc/impetusd/impetusd.ini")


class Place:
    """One instance of impetusd. `command` is what the operator types to reach it again, for hints."""

    __slots__ = ("command", "conf", "paths")

    def __init__(self, conf: str, paths: Paths, command: str) -> None:
        self.conf = conf
        self.paths = paths
        self.command = command


def find(given: str | None) -> Place:
    """The instance that `-c given` (or its absence) means. Works with a broken INI file, too, if its paths can be told."""
    conf = find_conf(given, os.environ)
    from impetusd.core import location
    from impetusd.core.problem import ConfigError

    try:
        paths = location.locate(read(conf), conf, os.environ)
    except ConfigError as error:
        raise Failure(error.told(), 2) from None
    return Place(conf, paths, command_for(given))


def command_for(given: str | None) -> str:
    """`impetusd`, with the -c that was given."""
    if given is None:
        return "impetusd"
    import shlex

    return f"impetusd -c {shlex.quote(given)}"


def find_conf(given: str | None, environ: Mapping[str, str]) -> str:
    """The absolute path of the INI file: `given`, else $IMPETUSD_CONF, else the first of LOOKED_AT that is there."""
    if given is not None:
        return _named(given, f"-c {given}")
    from_environment = environ.get("IMPETUSD_CONF")
    if from_environment:
        return _named(from_environment, f"IMPETUSD_CONF={from_environment}")
    for path in LOOKED_AT:
        if os.path.isfile(path):
            return os.path.abspath(path)
    looked = ", ".join(path if path.startswith("/") else f"./{path}" for path in LOOKED_AT)
    raise Failure(
        f"there is no configuration: IMPETUSD_CONF is not set, and none of {looked} is there; "
        "name one with -c FILE, or make one with: impetusd init",
        2,
    )


def _named(path: str, said: str) -> str:
    path = os.path.abspath(path)
    if os.path.isdir(path):
        raise Failure(f"{said}: this is a directory; name the INI file in it", 2)
    if not os.path.exists(path):
        raise Failure(f"{said}: there is no such file; `impetusd init` makes one", 2)
    return path


def executable() -> str:
    """The absolute path of the command impetusd that belongs to this interpreter."""
    import shutil
    import sys

    beside = os.path.join(os.path.dirname(sys.executable), "impetusd")
    for path in (beside, os.path.abspath(sys.argv[0]), shutil.which("impetusd") or ""):
        if os.path.basename(path) == "impetusd" and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise Failure(f"cannot find the command impetusd: neither {beside} nor anything in PATH is it")


def read(path: str) -> str:
    """The text of an INI file, as far as it can be read, whoever may have written it; Failure if it cannot."""
    from impetusd import vetted

    try:
        return vetted.read(path, vetted.MOST_BYTES, None)[0].decode("utf-8-sig", "replace")
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", 2) from None


def load(path: str, profile: str | None = None) -> Config:
    """The checked configuration in `path` and what it includes; Failure that holds every problem, one a line.

    `profile`: "" for none, None for the one that was in force last.
    """
    from impetusd.core.problem import ConfigError

    try:
        return parsed(path, os.environ, profile)
    except ConfigError as error:
        raise Failure(error.told(), 2) from None


def parsed(path: str, environ: Mapping[str, str], profile: str | None = None, *, judged: bool = True) -> Config:
    """The same; raises ConfigError, and Failure where there is nothing to read. `judged`: as in source.read."""
    from impetusd import source
    from impetusd.core import config, location
    from impetusd.host import this_host

    try:
        found = source.read(path, environ, judged=judged)
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", 2) from None
    if profile is None:
        paths = location.locate(found.text, path, environ)
        profile = source.remembered_profile(paths.state_dir)
    return config.parse_all(found, environ, this_host(), profile=profile)
