"""Reading a configuration from the disk: the INI file and all that it includes, and whether others could have written it."""

from __future__ import annotations

import glob
import os

from impetusd.core.include import MOST, Source, patterns
from impetusd.core.problem import Problem
from impetusd.core.trust import distrusted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PROFILE = "profile"  # in state_dir: the name of the profile that was in force last


def read(path: str, environ: Mapping[str, str]) -> Source:
    """Everything that the INI file at the absolute `path` consists of. Raises OSError if it cannot be read itself."""
    problems: list[Problem] = []
    with open(path, "rb") as file:
        text = _checked(path, file.fileno(), file.read(), os.fstat(file.fileno()).st_uid, problems)
        owner = os.fstat(file.fileno()).st_uid
    found: dict[str, str] = {}
    for pattern in patterns(text, path, environ):
        names = [pattern.glob] if pattern.is_path else sorted(glob.glob(pattern.glob, recursive=True))
        for name in names:
            if name in found or name == path or (not pattern.is_path and os.path.isdir(name)):
                continue
            if len(found) == MOST:
                problems.append(Problem(path, pattern.line, f"files: more than {MOST} match; write narrower patterns"))
                return Source(path, text, tuple(found.items()), tuple(problems))
            try:
                with open(name, "rb") as file:
                    found[name] = _checked(name, file.fileno(), file.read(), owner, problems)
            except OSError as error:
                what = f"files: cannot read {name}: {error.strerror}"
                problems.append(Problem(path, pattern.line, f"{what}; mend that, or take it out of files"))
    return Source(path, text, tuple(found.items()), tuple(problems))


def _checked(path: str, fd: int, data: bytes, owner: int, problems: list[Problem]) -> str:
    """The text; what is wrong with the file as a file is added to `problems`."""
    status = os.fstat(fd)
    fault = distrusted(status.st_uid, status.st_gid, status.st_mode, owner) if os.geteuid() == 0 else ""
    if fault:
        text = f"{fault}, and impetusd runs as root what this file says; run: "
        problems.append(Problem(path, 1, text + f"{'chown root' if 'belongs' in fault else 'chmod go-w'} {path}"))
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
