"""What the supervisor has of `typing`, where nothing looks at types while it runs.

`typing` is 0.2 MB, and its NamedTuple compiles each annotation and gives each class its own copy of eight methods: 0.4 MB more
for as long as the supervisor lives. `supervisor.late` says who gets these instead. mypy and every other process see `typing`.
"""

from __future__ import annotations

import sys
from collections import _tuplegetter as _element  # type: ignore[attr-defined]  # what namedtuple itself has

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Written:
    """Stands for what is only written down: an annotation, a base class without code, a variable for types."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __class_getitem__(cls, _: object) -> type[Written]:
        return cls


class _Record(tuple):  # type: ignore[type-arg]
    """The methods that all named tuples share."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def _replace(self, **changes: object) -> _Record:
        return type(self)(**{**self._asdict(), **changes})


class _Named(type):
    """What is derived from NamedTuple is a tuple, whose elements have the names and defaults that the class's body lists."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
        if not bases:
            return super().__new__(cls, name, bases, body)
        fields = tuple(sys.intern(field) for field in body.pop("__annotations__", ()))
        defaults = tuple(body.pop(field) for field in fields if field in body)
        # As in `collections.namedtuple`, so that a value is made as fast.
        code = f"lambda _cls, {', '.join(fields)}: _new(_cls, ({', '.join(fields)},))"
        new: Any = eval(code, {"_new": tuple.__new__, "__builtins__": {}})  # noqa: S307  # names of ours alone
        new.__name__ = "__new__"
        new.__defaults__ = defaults
        elements = {field: _element(number, None) for number, field in enumerate(fields)}
        return type(name, (_Record,), {**body, **elements, "__slots__": (), "_fields": fields, "__new__": new})


class NamedTuple(metaclass=_Named):
    """As in `typing`; of its methods there are _asdict and _replace."""


def _itself(value: Any) -> Any:
    return value


def _cast(_: object, value: Any) -> Any:
    return value


_WRITTEN = (
    *("Any", "Awaitable", "BinaryIO", "Callable", "Final", "IO", "Iterable", "List", "Literal", "NoReturn", "Optional"),
    *("ParamSpec", "Protocol", "Self", "TextIO", "Tuple", "Type", "TypeAlias", "TypeVar", "Union"),
)
NAMES: dict[str, Any] = {
    **dict.fromkeys(_WRITTEN, Written),
    # dataclasses asks whether an annotation is one of these.
    **{name: type(name, (), {}) for name in ("ClassVar", "_GenericAlias")},
    "NamedTuple": NamedTuple,
    "TYPE_CHECKING": False,
    "cast": _cast,
    "final": _itself,
}
