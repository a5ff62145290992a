"""`dataclass` as in the standard library, whose classes share the methods that are alike in all of them.

There each class gets a __repr__, __eq__, __hash__, __setattr__ and __delattr__ of its own, compiled at each start: 7 KB a class,
0.4 MB of a supervisor's memory for as long as it lives.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass
    from typing import Any
else:

    def dataclass(
        cls: type | None = None, /, *, frozen: bool = False, slots: bool = False, kw_only: bool = False
    ) -> Any:
        """As in `dataclasses`, with these of its parameters."""

        def made(cls: type) -> type:
            own = {name for name in ("__eq__", "__hash__", "__repr__") if name in cls.__dict__}
            cls = dataclasses.dataclass(cls, repr=False, eq=False, frozen=frozen, slots=slots, kw_only=kw_only)
            names = [each.name for each in dataclasses.fields(cls) if each.compare] or ["__class__"]
            cls._compared = attrgetter(*names, *names[:1])  # of one name it would be no tuple
            shared = {"__eq__": _equal, "__hash__": _hash if frozen else None, "__repr__": _repr}
            if frozen:
                cls.__setattr__, cls.__delattr__ = _refuse_to_assign, _refuse_to_delete
            for name, method in shared.items():
                if name not in own:
                    setattr(cls, name, method)
            return cls

        return made if cls is None else made(cls)


__all__ = ["dataclass"]


def _equal(self: Any, other: Any) -> Any:
    return self._compared(self) == self._compared(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(self._compared(self))


def _repr(self: Any) -> str:
    shown = (f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _refuse_to_assign(_: object, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
