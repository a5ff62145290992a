"""Reading a configuration from the disk: the INI file and all that it includes, and whether others could have written it."""

from __future__ import annotations

import errno
import glob
import os

from impetusd.core.config.include import MOST, Source, patterns
from impetusd.core.config.problem import Problem
from impetusd.core.trust import Fault, Trust
from impetusd.files import vetted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PROFILE = "profile"  # in state_dir: the name of the profile that was in force last


def read(path: str, environ: Mapping[str, str], *, judged: bool = True, former: bool = False) -> Source:
    """Everything that the INI file at the absolute `path` consists of. Raises OSError if it cannot be read itself.

    Root trusts only its own files, and does not even read what other users' files include; unless `judged` is false,
    for read-only use. `former`: see `location.default_dirs`.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    trust = Trust() if judged and os.geteuid() == 0 else None  # others run programs as themselves alone
    data, fault = vetted.read(path, vetted.MOST_BYTES, trust)
    text, room = _checked(path, data, fault, problems), vetted.MOST_BYTES - len(data)
    found: dict[str, str] = {}
    for pattern in patterns(text, path, environ, former=former) if fault is None else ():
        names = [pattern.glob] if pattern.is_path else sorted(glob.glob(pattern.glob, recursive=True))
        if not names:
            warnings.append(Problem(path, pattern.line, f"files: nothing matches {pattern.glob}"))
        for name in names:
            if name in found or name == path or (not pattern.is_path and os.path.isdir(name)):
                continue
            if len(found) == MOST:
                problems.append(
                    Problem(path, pattern.line, f"files: more than {MOST} files match; use narrower patterns")
                )
                return Source(path, text, tuple(found.items()), tuple(problems), tuple(warnings), former)
            try:
                data, fault = vetted.read(name, room, trust)
            except OSError as error:
                what = f"files: cannot read {name}: {error.strerror}"
                fix = "use narrower patterns" if error.errno == errno.EFBIG else "fix that, or remove it from files"
                problems.append(Problem(path, pattern.line, f"{what}; {fix}"))
            else:
                found[name] = _checked(name, data, fault, problems)
                room -= len(data)
    return Source(path, text, tuple(found.items()), tuple(problems), tuple(warnings), former)


def _checked(path: str, data: bytes, fault: Fault | None, problems: list[Problem]) -> str:
    """The text; what is wrong with the file as a file is added to `problems`."""
    if fault:
        problems.append(
            Problem(path, 1, f"{fault.what}, but impetusd runs the commands in this file as root; {fault.fix}")
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(Problem(path, line, f"this is not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8"))
        return data.decode("utf-8-sig", "replace")


def remembered_profile(state_dir: str) -> str:
    """The profile that was in force last in this state directory; "" for none, or where none can be read."""
    try:
        with open(os.path.join(state_dir, PROFILE), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
