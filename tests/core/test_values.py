"""Our `dataclass` against the one of the standard library: whatever can be seen of the values is the same."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from impetusd.core import values


def made(decorate):
    @decorate(frozen=True, slots=True)
    class Point:
        """A point."""

        x: float
        y: float = 0.0
        note: str = dataclasses.field(default="", compare=False)

    @decorate(frozen=True, slots=True, kw_only=True)
    class One:
        """Of one field."""

        only: list[int]

    @decorate(frozen=True, slots=True)
    class Nothing:
        """Of no field."""

    @decorate(slots=True)
    class Open:
        """It may be changed."""

        a: int = 1

    @decorate(slots=True)
    class Mixed:
        """With all that a field may be."""

        a: int
        names: list[str] = dataclasses.field(default_factory=list)
        b: int = dataclasses.field(kw_only=True)
        c: dict[str, int] = dataclasses.field(default_factory=dict, kw_only=True)
        d: str = ""

    return Point, One, Nothing, Open, Mixed


OURS, THEIRS = made(values.dataclass), made(dataclasses.dataclass)


@pytest.mark.parametrize(("point", "one", "nothing", "open_"), [OURS[:4], THEIRS[:4]], ids=["ours", "theirs"])
def test_values_are_those_of_the_standard_library(point, one, nothing, open_):
    assert repr(point(1, note="n")) == "made.<locals>.Point(x=1, y=0.0, note='n')"
    assert repr(nothing()) == "made.<locals>.Nothing()"
    assert point(1, note="n") == point(1.0, 0.0)
    assert point(1) != point(2)
    assert nothing() == nothing()
    assert point(1) != (1, 0.0, "")
    nan = float("nan")
    assert point(nan) == point(nan)  # as tuples are
    assert one(only=[nan]) == one(only=[nan])
    assert hash(point(1, note="n")) == hash(point(1.0))
    assert {point(1), point(1), point(2)} == {point(2), point(1)}
    assert open_() == open_(1)
    for value in (open_(), one(only=[1])):
        with pytest.raises(TypeError, match="unhashable"):
            hash(value)
    for change in (lambda: setattr(point(1), "x", 2), lambda: delattr(point(1), "x")):
        with pytest.raises(dataclasses.FrozenInstanceError, match="field 'x'"):
            change()
    with pytest.raises((AttributeError, TypeError)):
        open_().other = 1
    changed = open_()
    changed.a = 2
    assert (changed.a, dataclasses.replace(point(1), y=2).y) == (2, 2)
    assert [each.name for each in dataclasses.fields(point)] == ["x", "y", "note"]
    assert (point.__match_args__, dataclasses.asdict(one(only=[1]))) == (("x", "y", "note"), {"only": [1]})
    assert copy.copy(point(1)) == copy.deepcopy(point(1)) == point(1)


@pytest.mark.parametrize("mixed", [OURS[4], THEIRS[4]], ids=["ours", "theirs"])
def test_a_value_takes_the_arguments_of_one_of_the_standard_library(mixed):
    one, other = mixed(1, b=2), mixed(1, b=2)
    one.names.append("a")
    assert (one.names, other.names, mixed(1, ["x"], "d", b=2).d) == (["a"], [], "d")
    assert one.c is not other.c
    assert mixed(1, b=2, c=None).c is None
    assert mixed.__init__.__qualname__ == "made.<locals>.Mixed.__init__"
    for wrong in ((1,), (), (1, [], "", 4)):
        with pytest.raises(TypeError, match=r"made\.<locals>\.Mixed\.__init__\(\)"):
            mixed(*wrong)
    with pytest.raises(TypeError, match="unexpected keyword argument 'e'"):
        mixed(1, b=2, e=3)


def test_a_value_can_be_pickled():
    from impetusd.core.rules.policy import Policy

    assert pickle.loads(pickle.dumps(Policy(kill_timeout=3.0))) == Policy(kill_timeout=3.0)
