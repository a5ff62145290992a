"""Changes in the INI file that are not in force: shown by every command that starts, restarts or reloads, and by
`status`.

Imports stay few: `impetusd status` imports this.
"""

from __future__ import annotations

import os
import sys

from impetusd.client import control
from impetusd.core import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from impetusd.cli.place import Place


def notice(at: Place, told: Mapping[str, Any]) -> tuple[str, str] | None:
    """A sentence and what to type, from a daemon's report; None if the file is in force, or cannot be read."""
    changed, mistakes = compared(at, told)
    if mistakes:
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        first = mistakes[0].removeprefix(f"{os.path.dirname(at.conf)}/")
        return (
            f"the INI file has a mistake, and impetusd could not restart with it: {first}{more}",
            f"{at.command} check",
        )
    return ("the INI file has changes that are not applied", f"{at.command} plan") if changed else None


def compared(at: Place, told: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether applying the file would change anything, and its mistakes.

    The daemon is asked only if the file was edited, or did not come into effect when it was applied: a reload has failed.
    """
    try:
        if not (told.get("behind") or _differs(at, told)):  # an older impetusd says nothing of it
            return False, []
        answer = control.call(at.paths, "plan", {"problems": True})
    except OSError:
        return False, []
    except control.ControlError:
        return True, []
    return bool(answer["changes"]), answer["problems"]


def _said(at: Place, told: Mapping[str, Any]) -> str:
    return " → ".join(notice(at, told) or ())


def _differs(at: Place, told: Mapping[str, Any]) -> bool:
    from impetusd.core.config import pending

    return pending.differs(told.get("in_force") or {}, at.conf, _read, _listed)


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode("utf-8-sig", "replace")


def _listed(pattern: str) -> list[str]:
    """As `source.read` finds them."""
    if not any(char in pattern for char in "*?["):
        return [pattern]
    import glob

    return [path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)]


def mistakes(at: Place) -> list[str]:
    """Every mistake in the INI file, read where no daemon can be asked; none if it cannot be read."""
    from impetusd.cli.failure import Failure
    from impetusd.cli.place import parsed
    from impetusd.core.config.problem import ConfigError

    try:
        parsed(at.conf, os.environ)
    except ConfigError as error:
        return list(map(str, error.problems))
    except Failure:
        return []
    return []


def report(at: Place, hooks: control.Hooks) -> None:
    """Print it below the answer to a command."""
    said = _said(at, hooks.daemon)
    if said:
        print(f"impetusd: {said}", file=sys.stderr)


class UnknownNames:
    """A context for a command: if the daemon does not know a name, say whether the file has changes that are not in force."""

    def __init__(self, at: Place, hooks: control.Hooks) -> None:
        self._at = at
        self._hooks = hooks

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, control.ControlError) and error.exit == protocol.EXIT_UNKNOWN_NAME:
            said = _said(self._at, self._hooks.daemon)
            if said:
                raise control.ControlError(f"{error}; {said}", error.exit) from None
