"""Modules of the standard library that asyncio and dataclasses import at once and here nobody uses, or once in a blue moon.

Together they are 1.4 MB for as long as the supervisor lives. So asyncio gets stand-ins, each of which imports its module
as soon as something of that is used. What cannot be imported then (no descriptor is left, say) raises, and may be tried again.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from impetusd import traces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def iscoroutinefunction(function: object) -> bool:
    """As in `inspect`, for functions and methods: asyncio refuses such a signal handler."""
    code = getattr(function, "__code__", None)
    return bool(code and code.co_flags & 0x80)  # CO_COROUTINE


class Late(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


UNUSED = ("ssl",)  # asyncio does without; `impetusd.probe`, which speaks TLS, imports it when needed
# By module, what asyncio uses of it nevertheless, at once or for each signal that it handles.
SELDOM: dict[str, dict[str, Any]] = {
    "asyncio.sslproto": {},
    "inspect": {"iscoroutinefunction": iscoroutinefunction},
    "logging": {"getLogger": traces.Log, "DEBUG": 10},
    "subprocess": {"PIPE": -1, "STDOUT": -2, "DEVNULL": -3},
    "tokenize": {},
}


class Imports:
    """The context in which asyncio, and all that imports it, is imported. Before that no other thread may run."""

    def __enter__(self) -> None:
        for name in UNUSED:
            sys.modules[name] = None  # type: ignore[assignment]
        for name, used in SELDOM.items():
            if name not in sys.modules:
                sys.modules[name] = Late(name)
                sys.modules[name].__dict__.update(used)

    def __exit__(self, *_: object) -> None:
        for name in UNUSED:
            del sys.modules[name]
        for name in SELDOM:
            if isinstance(sys.modules.get(name), Late):
                del sys.modules[name]
