"""`dataclass` as in the standard library, whose classes share the methods that are alike in all of them.

There each class gets a __repr__, __eq__, __hash__, __setattr__ and __delattr__ of its own, compiled at each start: 7 KB a class,
0.4 MB of a supervisor's memory for as long as it lives. And its __init__ is compiled inside of another function, with two more
methods where `frozen` is set, which are replaced here anyway: 0.15 MB.
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
            cls = dataclasses.dataclass(cls, init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)
            cls.__init__ = _initializer(dataclasses.fields(cls), cls, frozen=frozen)
            names = [each.name for each in dataclasses.fields(cls) if each.compare] or ["__class__"]
            cls._compared = attrgetter(*names, *names[:1])  # of one name it would be no tuple
            shared = {"__eq__": _equal, "__hash__": _hash if frozen else None, "__repr__": _repr}
            if frozen:
                cls.__setattr__, cls.__delattr__ = _refuse_to_assign, _refuse_to_delete
                cls.__getstate__, cls.__setstate__ = _state, _restore  # copy and pickle assign otherwise
            for name, method in shared.items():
                if name not in own:
                    setattr(cls, name, method)
            return cls

        return made if cls is None else made(cls)


__all__ = ["dataclass"]


def _initializer(fields: tuple[dataclasses.Field[Any], ...], cls: type, *, frozen: bool) -> Any:
    """The class's __init__; of fields with init=False and of InitVar it knows nothing."""
    missing = object()
    made: dict[str, Any] = {"_set": object.__setattr__, "_missing": missing, "_defaults": [], "_factories": []}
    parameters, lines = ["self"], ["pass"]
    for each in sorted(fields, key=lambda each: bool(each.kw_only)):
        parameter = value = each.name
        if each.default is not dataclasses.MISSING:
            parameter = f"{each.name}=_defaults[{len(made['_defaults'])}]"
            made["_defaults"].append(each.default)
        elif each.default_factory is not dataclasses.MISSING:
            parameter = f"{each.name}=_missing"
            value = f"_factories[{len(made['_factories'])}]() if {each.name} is _missing else {each.name}"
            made["_factories"].append(each.default_factory)
        if each.kw_only and "*" not in parameters:
            parameters.append("*")
        parameters.append(parameter)
        lines.append(f'_set(self, "{each.name}", {value})' if frozen else f"self.{each.name} = {value}")
    exec(f"def __init__({', '.join(parameters)}):\n " + "\n ".join(lines), made)  # noqa: S102  # names of ours alone
    del made["_defaults"], made["__builtins__"]
    made["__init__"].__qualname__ = f"{cls.__qualname__}.__init__"
    return made.pop("__init__")


def _equal(self: Any, other: Any) -> Any:
    return self._compared(self) == self._compared(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(self._compared(self))


def _repr(self: Any) -> str:
    shown = (f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _state(self: Any) -> list[Any]:
    return [getattr(self, each.name) for each in dataclasses.fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for each, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)


def _refuse_to_assign(_: object, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
