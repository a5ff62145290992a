"""Which INI file is meant, and where the instance that it describes lives."""

from __future__ import annotations

import os

from impetusd.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.core.config.include import Source
    from impetusd.core.config.location import Paths
    from impetusd.core.config.model import Config

LOOKED_AT = ("impetusd.ini", "conf/impetusd.ini", "/etc/impetusd/impetusd.ini")


class Place:
    """One instance of impetusd. `command` is what the operator types to reach it again, for hints.

    `paths`: where it lives; `to_be`: where its next start has it live.
    """

    __slots__ = ("command", "conf", "paths", "to_be")

    def __init__(self, conf: str, paths: Paths, command: str, to_be: Paths | None = None) -> None:
        self.conf = conf
        self.paths = paths
        self.command = command
        self.to_be = to_be or paths


def find(given: str | None) -> Place:
    """The instance that `-c given` (or its absence) means. Works with a broken INI file, too, if its paths can be
    read."""
    conf = find_conf(given, os.environ)
    from impetusd.core.config.problem import ConfigError

    try:
        to_be, former = _homes(read(conf), conf, os.environ)
    except ConfigError as error:
        raise Failure(error.report(), 2) from None
    return Place(conf, _residence(to_be, former), command_for(given), to_be)


def _residence(to_be: Paths, former: Paths) -> Paths:
    from impetusd.client import control, instance

    return instance.residence(to_be, former, control.ping)


def _homes(text: str, conf: str, environ: Mapping[str, str]) -> tuple[Paths, Paths]:
    """Where the instance of this file lives, and where it did in former versions. Raises ConfigError."""
    from impetusd.core.config import location

    paths = location.locate(text, conf, environ)
    if os.path.basename(conf) == location.PLAIN and not location.is_users_own(conf, environ):
        return paths, paths
    return paths, location.locate(text, conf, environ, former=True)


def _is_at_home_formerly(conf: str, environ: Mapping[str, str]) -> bool:
    """Whether the instance of this file still lives where it did in former versions. Raises ConfigError."""
    to_be, former = _homes(read(conf), conf, environ)
    return to_be != former and _residence(to_be, former) == former


def for_a_start(at: Place) -> Place:
    """The instance, which does not run, where a daemon may be started: what lies in former folders is moved.

    Failure if a switched link could put the daemon out of reach, or if one runs already under another name of the file.
    """
    from impetusd.client import instance
    from impetusd.core.config import location
    from impetusd.files import source

    if behind := instance.behind_link(at.to_be):
        raise Failure(behind, 2)
    if at.to_be.state_dir == location.locate("", at.conf, os.environ).state_dir:
        for found in instance.by_same_file(at.conf):
            if instance.is_in(found, at.paths.state_dir) or instance.is_in(found, at.to_be.state_dir):
                continue  # it has been started this moment
            raise Failure(
                f"impetusd already runs for this file as {found.conf} (pid {found.pid}, state_dir"
                f" {found.paths.state_dir}); a second one would start everything twice. Use: impetusd -c {found.conf}",
                2,
            )
    if at.paths == at.to_be:
        return at
    everything = any("${STATE_DIR" in text for _, text in source.read(at.conf, os.environ).texts)
    moved = instance.move(at.to_be, at.paths, everything=everything)
    return Place(at.conf, at.to_be if moved else at.paths, at.command)


def command_for(given: str | None) -> str:
    """`impetusd`, with the -c that was given."""
    if given is None:
        return "impetusd"
    import shlex

    return f"impetusd -c {shlex.quote(given)}"


def find_conf(given: str | None, environ: Mapping[str, str], *, new: bool = False) -> str:
    """The absolute path of the INI file: `given`, else $IMPETUSD_CONF, else the first of LOOKED_AT that is there, else the
    user's own.

    `new`: it need not be there; of LOOKED_AT it is the first then.
    """
    if given is not None:
        return _named(given, f"-c {given}", new=new)
    from_environment = environ.get("IMPETUSD_CONF")
    if from_environment:
        return _named(from_environment, f"IMPETUSD_CONF={from_environment}", new=new)
    looked_at = [*LOOKED_AT, *_users_own(environ)]
    for path in looked_at:
        if os.path.isfile(path):
            return absolute(path)
    if new:
        return absolute(LOOKED_AT[0])
    looked = ", ".join(path if path.startswith("/") else f"./{path}" for path in looked_at)
    raise Failure(
        f"no INI file found: IMPETUSD_CONF is not set, and none of {looked} exists; use -c FILE, or create one with:"
        " impetusd init",
        2,
    )


def _users_own(environ: Mapping[str, str]) -> list[str]:
    """Where the INI file of an ordinary user is; root has /etc."""
    from impetusd.core.config import location

    folder = location.users_own_folder(environ) if os.geteuid() else ""
    return [f"{folder}/{location.PLAIN}"] if folder else []


def _named(path: str, said: str, *, new: bool = False) -> str:
    path = absolute(path)
    if os.path.isdir(path):
        raise Failure(f"{said}: this is a directory; use the path of the INI file in it", 2)
    if not new and not os.path.exists(path):
        raise Failure(f"{said}: no such file; `impetusd init` creates one", 2)
    return path


def absolute(path: str) -> str:
    """As os.path.abspath, but through the links in the shell's $PWD: they may be switched, and the way through them is meant."""
    if path.startswith("/"):
        return os.path.abspath(path)
    by_shell = os.path.normpath(os.path.join(os.environ.get("PWD", ""), path))
    try:
        if by_shell.startswith("/") and os.path.samefile(by_shell, path):
            return by_shell
    except OSError:
        pass  # $PWD is from another shell, or there is no such file
    try:
        return os.path.abspath(path)
    except OSError:
        raise Failure(f"{path}: the current folder was removed; use an absolute path", 2) from None


def executable() -> str:
    """The absolute path of the command impetusd that belongs to this interpreter."""
    import shutil
    import sys

    beside = os.path.join(os.path.dirname(sys.executable), "impetusd")
    for path in (beside, os.path.abspath(sys.argv[0]), shutil.which("impetusd") or ""):
        if os.path.basename(path) == "impetusd" and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise Failure(f"cannot find the command impetusd: it is neither {beside} nor in PATH")


def read(path: str) -> str:
    """The text of an INI file, as far as it can be read, whoever may have written it. Raises Failure if it cannot."""
    from impetusd.files import vetted

    try:
        return vetted.read(path, vetted.MOST_BYTES, None)[0].decode("utf-8-sig", "replace")
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", 2) from None


def load(path: str, profile: str | None = None, *, former: bool | None = None) -> Config:
    """The checked configuration in `path` and what it includes; Failure that holds every problem, one a line.

    `profile`: "" for none, None for the one that was in force last. `former`: as if the instance lived where it did in
    former versions; None if it does.
    """
    from impetusd.core.config.problem import ConfigError

    try:
        return parsed(path, os.environ, profile, former=former)
    except ConfigError as error:
        raise Failure(error.report(), 2) from None


def parsed(
    path: str,
    environ: Mapping[str, str],
    profile: str | None = None,
    *,
    judged: bool = True,
    former: bool | None = None,
) -> Config:
    """The same; raises ConfigError, and Failure where there is nothing to read. `judged`: as in source.read."""
    from impetusd.core.config import parser
    from impetusd.linux.host import this_host

    found, profile = source_of(path, environ, profile, judged=judged, former=former)
    return parser.parse_all(found, environ, this_host(), profile=profile)


def source_of(
    path: str, environ: Mapping[str, str], profile: str | None, *, judged: bool = True, former: bool | None = None
) -> tuple[Source, str]:
    """The text in `path` with all that it includes, and the profile to read it with; raises as `parsed` does."""
    from impetusd.core.config import location
    from impetusd.files import source

    try:
        former = _is_at_home_formerly(path, environ) if former is None else former
        found = source.read(path, environ, judged=judged, former=former)
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", 2) from None
    if profile is None:
        paths = location.locate(found.text, path, environ, former=former)
        profile = source.remembered_profile(paths.state_dir)
    return found, profile
