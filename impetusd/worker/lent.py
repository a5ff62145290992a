"""Libraries of impetusd's own for a Python that lacks them: the application's venv needs to have nothing but the application.

They are found after all that is there, and only those named here, so nothing of the application's changes: what it has goes
first, and what it tries to import and does not have, it still does not have. What is compiled for another Python fails to
import as if it were not there; uvicorn then takes h11, and the loop is asyncio's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_ALONE = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "alone"
)  # the folder where such a Python finds impetusd itself
_LENT = frozenset({"click", "h11", "httptools", "uvicorn", "uvloop", "websockets"})


class Lender:
    """A finder of modules, the last in the row. `folders`: where they are installed."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = list(folders)

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A hook of the import system."""
        return PathFinder.find_spec(fullname, self._folders, target) if fullname in _LENT else None


def lend(folders: Sequence[str]) -> None:
    """From here on this Python finds them in `folders`. How it has found impetusd is nothing for the application."""
    if folders:
        sys.meta_path.append(Lender(folders))
    sys.path[:] = [each for each in sys.path if each != _ALONE]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if _ALONE in given:
        given.remove(_ALONE)
        os.environ["PYTHONPATH"] = os.pathsep.join(given)
        if not os.environ["PYTHONPATH"]:
            del os.environ["PYTHONPATH"]
