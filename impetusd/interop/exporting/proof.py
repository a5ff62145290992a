"""The INI of each container is read back, as the container will read it, before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impetusd.core.config import ini, parser, schema
from impetusd.core.config.model import Host
from impetusd.core.config.problem import ConfigError
from impetusd.core.config.reading import parts
from impetusd.interop.exporting import values
from impetusd.interop.exporting.model import CONF

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from impetusd.core.config.model import Config, Timer, Unit
    from impetusd.interop.exporting.model import Exported, Workload

SOMETHING = "http://127.0.0.1:1/"  # a text, a URL, and as a header it would do
_PATHS = frozenset({schema.PATH, schema.PATHS, schema.LOG_FILE, schema.INTERPRETER, schema.LISTEN})
_CHANGED = frozenset({"instances", "critical", "standby", "env_pass", "env_file"})


def differences(made: Exported, config: Config, environ: Mapping[str, str]) -> list[str]:
    """Why nothing is to be written, each a sentence. `environ`: with which `config` was read."""
    return [fault for work in made.containers() for fault in _of(work, config, environ)]


def _of(work: Workload, config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    given = {
        name: environ.get(name, SOMETHING) for name, optional in work.needs.items() if not optional or name in environ
    }
    there = Host(euid=work.uid, cpus=1, user_exists=lambda _: True, group_exists=lambda _: True, has_watch=False)
    try:
        found = parser.parse(work.ini, CONF, {**dict.fromkeys(values.GIVEN, "/"), **given}, there)
    except ConfigError as error:
        yield from (f"the INI of {work.name}: {problem.text}" for problem in error.problems)
        return
    section = next(each for each in ini.parse(work.ini, CONF)[0] if parts(each)[0] in {*parser.UNITS, schema.TIMER})
    kind = parts(section)[0]
    old, new = (each.timers[work.unit] if kind == schema.TIMER else each.units[work.unit] for each in (config, found))
    for key, entry in section.entries.items():
        known = schema.keys_of(kind)[key]
        if key in _CHANGED or known.value in _PATHS or "${" in entry.value or "/" in entry.value:
            continue
        if _value(old, key) != _value(new, key):
            yield f"the INI of {work.name}: {key} would not be read back unchanged"


def _value(each: Unit | Timer, key: str) -> object:
    return getattr(each, key) if hasattr(each, key) else getattr(each.unit, key)  # type: ignore[union-attr]
