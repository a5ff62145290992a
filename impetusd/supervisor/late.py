"""Modules of the standard library that asyncio and others import at once and here nobody uses, or once in a blue moon.

Together they are 2.6 MB for as long as the supervisor lives. So there are stand-ins, each of which imports its module as
soon as something of that is used. What cannot be imported then (no descriptor is left, say) raises, and may be tried again.
"""

from __future__ import annotations

import gc
import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from impetusd import bare, traces
from impetusd.supervisor import typeless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def iscoroutinefunction(function: object) -> bool:
    """As in `inspect`, for functions and methods: asyncio refuses such a signal handler."""
    code = getattr(function, "__code__", None)
    return bool(code and code.co_flags & 0x80)  # CO_COROUTINE


class Late(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # `from … import` asks whether it is a package; none of them is
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def indent(text: str, prefix: str, predicate: Callable[[str], object] = str.strip) -> str:
    """As in `textwrap`: every traceback goes through it, and must not need a descriptor for an import."""
    return "".join(prefix + line if predicate(line) else line for line in text.splitlines(keepends=True))


def dumps(value: object, **how: Any) -> str:
    """As `json.dumps`, in the two forms that are in use here."""
    if how.keys() <= {"separators"} and how.get("separators", (",", ":")) == (",", ":"):
        return bare.dumps(value, compact=bool(how))
    return str(importlib.import_module("json").dumps(value, **how))


def half_of(name: str) -> dict[str, Any]:
    """What the C half of a module has."""
    return {key: value for key, value in vars(importlib.import_module(f"_{name}")).items() if not key.startswith("__")}


UNUSED = ("ssl",)  # asyncio does without; `impetusd.probe`, which speaks TLS, imports it when needed
# By module, what is used of it nevertheless, at once or often.
SELDOM: dict[str, dict[str, Any]] = {
    "asyncio.base_subprocess": {"BaseSubprocessTransport": object},
    "asyncio.sslproto": {},
    "asyncio.staggered": {},
    # Their classes are not in `asyncio` then: the supervisor has no use for Queue, TaskGroup and subprocesses.
    **{f"asyncio.{name}": {"__all__": ()} for name in ("queues", "subprocess", "taskgroups")},
    "concurrent.futures": {name: name for name in ("FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED")},
    "glob": {},
    "inspect": {"iscoroutinefunction": iscoroutinefunction},
    "json": {"dumps": dumps, "loads": bare.loads, "JSONDecodeError": ValueError},
    "logging": {"getLogger": traces.Log, "DEBUG": 10},
    "shlex": {},
    "subprocess": {"PIPE": -1, "STDOUT": -2, "DEVNULL": -3},
    "textwrap": {"indent": indent},
    "tokenize": {},
    "typing": typeless.NAMES,
    # What is used of these is their half in C: the other is the same in Python once more, or other classes.
    **{name: half_of(name) for name in ("datetime", "heapq", "queue")},
}


class Imports:
    """The context in which asyncio, and all that imports it, is imported. Before that no other thread may run.

    No garbage is collected meanwhile: what is imported is there to stay, and looking through it 51 times was 7 % of a start.
    """

    def __init__(self) -> None:
        self._left = {*SELDOM}  # one that is used now is imported after all

    def __enter__(self) -> None:
        gc.disable()
        for name in UNUSED:
            sys.modules[name] = None  # type: ignore[assignment]
        sys.meta_path.insert(0, self)

    def __exit__(self, *_: object) -> None:
        gc.enable()
        sys.meta_path.remove(self)
        for name in UNUSED:
            del sys.modules[name]
        for name in SELDOM:
            if isinstance(sys.modules.get(name), Late):
                del sys.modules[name]

    # What the import system asks for, so that a package has its stand-ins as attributes.

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """As importlib.abc.MetaPathFinder has it."""
        return ModuleSpec(name, self) if name in self._left else None  # type: ignore[arg-type]  # a loader has more methods

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """As importlib.abc.Loader has it."""
        self._left.remove(spec.name)
        module = Late(spec.name)
        module.__dict__.update(SELDOM[spec.name])
        return module

    def exec_module(self, _: ModuleType) -> None:
        """It is made."""
