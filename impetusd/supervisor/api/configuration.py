"""A configuration with its inputs: the text, the environment, the profile and the disabled units.

It is one string, which the shim remembers: a successor parses that, and never reads the files again by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from impetusd.client import instance
from impetusd.core.config import include, ini, parser, pending, switches
from impetusd.core.config.include import Source
from impetusd.core.config.location import is_users_own, locate
from impetusd.core.config.model import Config, user_and_group
from impetusd.files.source import PROFILE, remembered_profile
from impetusd.files.source import read as read_source
from impetusd.linux.host import this_host
from impetusd.supervisor.disk.state import replace

if TYPE_CHECKING:
    from impetusd.core.config.location import Paths


class Configuration:
    """One text with all that it was read with, and what it means to each instance."""

    def __init__(self, conf: str, remembered: str, *, in_force: bool, known: Collection[str] = ()) -> None:
        """`remembered` is what `read` returned. Raises ConfigError.

        `in_force`: it was valid before. A user deleted since must not end anything that runs. `known`: users and groups
        that were valid before; if one of them is missing, the file is not at fault.
        """
        self.remembered = remembered
        self._conf = conf
        self._host = host = this_host()
        if known:
            user_exists, group_exists = host.user_exists, host.group_exists
            self._host = dataclasses.replace(
                host,
                user_exists=lambda name: name in known or user_exists(name),
                group_exists=lambda name: name in known or group_exists(name),
            )
        if in_force:
            self.accept()
        self._saved = json.loads(remembered)
        self.at = functools.cache(self._parse)
        self.at(0)

    def accept(self) -> None:
        """It was valid: the users in it are not looked up again."""
        self._host = dataclasses.replace(self._host, user_exists=lambda _: True, group_exists=lambda _: True)

    def _parse(self, instance: int) -> Config:
        saved = self._saved
        included = tuple((path, text) for path, text in saved.get("included", ()))  # none, says an older impetusd
        source = Source(self._conf, saved["text"], included, former=self.former)
        parsed = parser.parse_all(
            source,
            saved["environ"],
            self._host,
            profile=self.profile,
            instance=instance,
            rules=saved.get("rules", 1),  # an older impetusd says nothing of them
        )
        return switches.without(parsed, saved["disabled"])

    @property
    def environ(self) -> dict[str, str]:
        """The values for `${VAR}` in it: the environment that the daemon was started with."""
        environ: dict[str, str] = self._saved["environ"]
        return environ

    @property
    def profile(self) -> str:
        """The profile in force; "" for none."""
        name: str = self._saved.get("profile", "")
        return name

    @functools.cached_property
    def in_force(self) -> dict[str, Any]:
        """What it was read from, for comparison: see `core.config.pending`."""
        saved = self._saved
        patterns = include.patterns(saved["text"], self._conf, saved["environ"], former=self.former)
        texts = ((self._conf, saved["text"]), *saved.get("included", ()))
        return pending.report(texts, [pattern.glob for pattern in patterns])

    @property
    def former(self) -> bool:
        """Whether it uses the folders from before each file had its own, as an older impetusd states."""
        if self._saved.get("former", True):
            return True
        return not self._saved.get("xdg") and is_users_own(self._conf, self.environ)

    def with_disabled(self, names: Collection[str]) -> str:
        """What would be remembered with these disabled."""
        return json.dumps({**self._saved, "disabled": sorted(names)})

    @property
    def disabled(self) -> list[str]:
        """Units and timers that an operator has disabled."""
        names: list[str] = self._saved["disabled"]
        return names


def named_by(configuration: Config) -> set[str]:
    """The users and groups that it names."""
    access = configuration.access
    names = {word.removeprefix("@") for word in (*access.viewers, *access.operators, *access.admins)}
    names.update(user_and_group(configuration.logs.log_owner))
    for unit in configuration.with_jobs():
        owners = (each.owner.split(":") for each in unit.listen)
        names.update(user_and_group(unit.user), (unit.group,), *owners)
    return names - {""}


def read(conf: str, state_dir: str, environ: Mapping[str, str], profile: str | None, *, former: bool = False) -> str:
    """The files as they are on the disk, the names that are switched off, the profile, and what references see.

    All of it is remembered, so that nothing that comes later depends on the disk. `profile`: None is the one that was in
    force last. `former`: see `location.default_dirs`. Raises OSError, ConfigError.
    """
    if profile is None:
        profile = remembered_profile(state_dir)
    source = read_source(conf, environ, former=former)
    if source.problems:
        parser.parse_all(source, environ, this_host(), profile=profile)  # which reports these with all others
    try:
        with open(f"{state_dir}/{switches.FILE}", encoding="utf-8", errors="replace") as file:
            disabled = switches.parse(file.read())
    except FileNotFoundError:
        disabled = []
    kept = {"text": source.text, "included": source.included, "former": former, "xdg": True, "profile": profile}
    return json.dumps({**kept, "rules": ini.RULES, "environ": dict(environ), "disabled": disabled})


def keep_file(state_dir: str, file: Mapping[str, Any], log: Callable[[str], None]) -> None:
    """Record in state_dir which INI file its state belongs to."""
    path, text = f"{state_dir}/{instance.NAME}", json.dumps(instance.record(file, state_dir))
    try:
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as known:
            if known.read() == text:
                return
        replace(path, text.encode())
    except OSError as error:
        log(
            f"{path} cannot be written: {error.strerror}; without it, impetusd may mistake another INI file for this one"
        )


def keep_profile(state_dir: str, profile: str, log: Callable[[str], None]) -> None:
    """Save to the disk which profile is in force, for the next daemon."""
    if profile == remembered_profile(state_dir):
        return
    try:
        replace(f"{state_dir}/{PROFILE}", f"{profile}\n".encode())
    except OSError as error:
        told = f"the profile {profile or '(none)'} will not be remembered after impetusd stops"
        log(f"{told}: cannot write {error.filename}: {error.strerror}")


def is_former(conf: str, paths: Paths, environ: Mapping[str, str]) -> bool:
    """Whether these paths are those of former versions for this file. Raises OSError, ConfigError."""
    with open(conf, encoding="utf-8-sig", errors="replace") as file:
        text = file.read()
    where = (locate(text, conf, environ, former=former) for former in (False, True))
    to_be, was = ([getattr(each, name) for name in instance.DIRS] for each in where)
    return to_be != was and was == [getattr(paths, name) for name in instance.DIRS]
