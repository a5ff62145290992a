"""Which file each slot's output goes to, and which slots would share one by mistake."""

from __future__ import annotations

import re
from posixpath import join, splitext

from impetusd.core.config import ini
from impetusd.core.config.model import Kind
from impetusd.core.config.reading import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from impetusd.core.config.model import Unit
    from impetusd.core.config.reading import Values

KEYS = {"out": "out_file", "error": "error_file"}


class _Path:
    """A file that a unit writes. `meant`: the INI file names it literally. `most`: the number of instances with their
    numbers in it."""

    __slots__ = ("meant", "most", "path", "unit")

    def __init__(self, unit: Unit, path: str, *, meant: bool = False, most: int = 0) -> None:
        self.unit = unit
        self.path = path
        self.meant = meant
        self.most = most


def log_file(unit: Unit, stream: str, suffix: str, log_dir: str) -> str:
    """The file of one slot, or stdout or stderr: `suffix` distinguishes the unit's slots, "" if there is only one.
    `stream`: out or error."""
    key = KEYS[stream]
    given: str = getattr(unit, key)
    if given and (not given.startswith("/") or key in unit.per_instance or not suffix):
        return given
    if not given:
        return f"{log_dir}/{unit.name.replace(':', '-')}{suffix}-{stream}.log"
    base, extension = splitext(given)
    return f"{base}{suffix}{extension}"


def collisions(reading: Values, log_dir: str) -> None:
    """Report units whose slots would write to another unit's file although the INI file does not say so."""
    units = [unit for unit in reading.units.values() if unit.enabled]
    units += [timer.unit for timer in reading.timers.values() if timer.enabled]
    paths = [path for unit in units for path in _paths(unit, log_dir)]
    single = {path.path: path for path in reversed(paths) if not path.most}
    numbered = {path.path: path for path in reversed(paths) if path.most}
    own = join(log_dir, "impetusd.log")
    told = set()
    for path in paths:
        if path.most:
            continue
        others = [single[path.path]]
        match = re.fullmatch(r"(.*)-(0|[1-9][0-9]{0,8})(-(?:out|error)\.log|\.[^./]*)?", path.path, re.DOTALL)
        if match and (family := numbered.get(f"{match[1]}{{}}{match[3] or ''}")) and int(match[2]) < family.most:
            others.append(family)
        whose = next(
            (_shown(each.unit) for each in others if each.unit is not path.unit and not _meant(each, path)), ""
        )
        whose = "impetusd itself" if path.path == own else whose
        if whose and path.unit.name not in told:
            told.add(path.unit.name)
            header = reading.headers[path.unit.name]
            text = f"{whose} writes to the same log file {ini.brief(path.path, 200)}; rename one of the units, or set different"
            reading.problem(place(header, *KEYS.values()), f"{_shown(path.unit)}: {text} out_file and error_file")


def _meant(one: _Path, other: _Path) -> bool:
    return one.meant and other.meant


def _shown(unit: Unit) -> str:
    return f"[{unit.kind.value}:{ini.brief(unit.name)}]"


def _paths(unit: Unit, log_dir: str) -> Iterator[_Path]:
    """Those of each stream; `{}` stands in the place of the numbers."""
    alone = unit.merge_logs or unit.kind is Kind.TIMER
    few = alone or (unit.kind is Kind.PROGRAM and unit.instances == 1)
    suffixes = [""] if few else []
    if unit.kind is Kind.POOL and not alone:
        suffixes += ["-template"] if unit.preload else []
        suffixes += ["-standby" if index == 0 else f"-standby-{index}" for index in range(unit.standby)]
    many = 0 if alone or (few and unit.instances_max == 1) else unit.instances_max
    for stream, key in KEYS.items():
        if key in unit.per_instance or getattr(unit, key)[:1] not in {"", "/"}:
            continue  # each is named by the INI
        for suffix in suffixes:
            meant = bool(getattr(unit, key)) and not suffix
            yield _Path(unit, log_file(unit, stream, suffix, log_dir), meant=meant)
        if many:
            yield _Path(unit, log_file(unit, stream, "{}", log_dir), most=many)
