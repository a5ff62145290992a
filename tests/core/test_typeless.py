"""The supervisor's NamedTuple against the one of `typing`, and what stands for the other names of that."""

from __future__ import annotations

import copy
import typing
from typing import Any

import pytest

from impetusd.supervisor import typeless


def made(base):
    class Point(base):
        """A point."""

        x: float
        y: float = 0.0
        notes: list[str] | None = None

        @property
        def far(self) -> bool:
            return self.x > 9

        @classmethod
        def origin(cls) -> Any:
            return cls(0.0)

    return Point


@pytest.mark.parametrize("point", [made(typeless.NamedTuple), made(typing.NamedTuple)], ids=["ours", "theirs"])
def test_named_tuples_are_those_of_the_standard_library(point):
    assert point(1, y=2) == (1, 2, None)
    assert point(1) == point(1.0, 0.0)
    assert hash(point(1)) == hash((1, 0.0, None))
    x, *rest = point(3, 4)
    assert (x, rest) == (3, [4, None])
    assert (point(3).x, point(3)[0], point(3).notes) == (3, 3, None)
    assert repr(point(1, notes=["a"])) == "Point(x=1, y=0.0, notes=['a'])"
    assert point(1)._asdict() == {"x": 1, "y": 0.0, "notes": None}
    assert list(point(1)._asdict()) == [*point._fields] == ["x", "y", "notes"]
    assert point(1)._replace(y=5) == (1, 5, None)
    assert type(point(1)._replace(y=5)) is point
    assert point(10).far
    assert not point.origin().far
    assert point.__doc__ == "A point."
    assert copy.copy(point(1, 2)) == point(1, 2)
    assert type(copy.deepcopy(point(1, 2))) is point
    for wrong in ({}, {"x": 1, "z": 2}, {"x": 1, "y": 2, "notes": 3, "more": 4}):
        with pytest.raises(TypeError):
            point(**wrong)
    with pytest.raises(AttributeError):
        point(1).x = 2
    with pytest.raises(AttributeError):
        point(1).other = 2
    assert not hasattr(point(1), "__dict__")


def test_what_is_only_written_down_may_be_written_like_types():
    names = typeless.NAMES
    assert names["Optional"][names["Literal"]["a"]] | None
    assert dict[str, names["Any"]] | None
    assert names["TypeVar"]("T", bound=int) is not None

    class Vetting(names["Protocol"]):
        def vet(self) -> None: ...

    assert Vetting.__mro__[1:] == (typeless.Written, object)
    assert names["cast"](int, "a") == "a"
    assert names["final"](Vetting) is Vetting


def test_each_name_is_one_of_typing():
    assert {name for name in typeless.NAMES if not hasattr(typing, name)} == set()
