"""Whether the app of each pool can be imported on this host, by its Python and as its user: for `check --host`."""

from __future__ import annotations

import os
import subprocess
import typing

from impetusd.core.config import envfile, ini, runtime
from impetusd.core.config.model import Kind, user_and_group
from impetusd.core.config.problem import Problem
from impetusd.core.config.reading import place
from impetusd.linux.host import account, gid_of, groups_of

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.core.config.include import Source
    from impetusd.core.config.model import Config, Unit


def tryouts(config: Config, source: Source, environ: Mapping[str, str]) -> list[Problem]:
    """The error of each failed import, at the line of `app`. Runs the app's own code, as a start would."""
    sections = {
        f"{section.file}:{section.line}": section for path, text in source.texts for section in ini.parse(text, path)[0]
    }
    found = []
    for unit in config.units.values():
        if unit.kind is not Kind.POOL or not unit.enabled:
            continue
        fault = _try(unit, environ)
        if fault:
            at = place(sections[unit.where], "app")
            found.append(Problem(at.file, at.line, fault))
    return found


def _try(unit: Unit, environ: Mapping[str, str]) -> str:
    argv = runtime.command(unit, "check")
    env = {**environ, **_of_files(unit), **unit.env}
    env |= {**runtime.variables(unit, env), "IMPETUSD_NAME": unit.name, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        tried = subprocess.run(
            argv,
            cwd=unit.cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=unit.listen_timeout,
            check=False,
            umask=unit.umask,
            **_identity(unit),
        )
    except subprocess.TimeoutExpired:
        return f"app = {unit.app} could not be imported by {argv[0]} within listen_timeout"
    except OSError as error:
        return f"app = {unit.app}: {argv[0]} cannot be run here: {error.strerror}"
    if tried.returncode == 0:
        return ""
    lines = tried.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {tried.returncode}"]
    last = lines[-1].removeprefix(f"{unit.name}: ")
    return last if last.startswith("app = ") else f"app = {unit.app} cannot be imported by {argv[0]}: {last}"


def _identity(unit: Unit) -> dict[str, typing.Any]:
    """The user arguments for subprocess; empty for our own user, or if we may not switch."""
    user, group = user_and_group(unit.user)
    if not user or os.geteuid() != 0:
        return {}
    person = account(user)
    gid = gid_of(unit.group or group) if unit.group or group else person.gid
    return {"user": person.uid, "group": gid, "extra_groups": groups_of(person, gid)}


def _of_files(unit: Unit) -> dict[str, str]:
    found: dict[str, str] = {}
    for path, optional in map(envfile.named, unit.env_file):
        if optional and not os.path.exists(path):
            continue
        with open(path, "rb") as file:  # `lacking` has found nothing wrong with it
            found.update(envfile.parse(file.read(), unit.rules))
    return found
