"""Who waits for whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impetusd.core.rules import tree

NAMES = "abcdef"


@st.composite
def acyclic(draw):
    """Each name depends on some of those before it; the mapping's own order is any."""
    graph = {
        name: draw(st.lists(st.sampled_from(NAMES[:place]), unique=True)) if place else []
        for place, name in enumerate(NAMES)
    }
    return {name: graph[name] for name in draw(st.permutations(NAMES))}


@pytest.mark.parametrize(
    ("graph", "order"),
    [
        ({}, []),
        ({"b": [], "a": []}, ["b", "a"]),
        ({"web": ["db"], "api": [], "db": []}, ["db", "web", "api"]),
        ({"c": ["b"], "b": ["a"], "a": []}, ["a", "b", "c"]),
        ({"d": ["b", "c"], "b": ["a"], "c": ["a"], "a": []}, ["a", "b", "c", "d"]),
        ({"a": ["elsewhere"]}, ["a"]),
    ],
)
def test_start_order_keeps_the_files_order_where_it_may(graph, order):
    assert tree.start_order(graph) == order


@given(acyclic())
def test_start_order_has_every_name_once_and_after_what_it_needs(graph):
    order = tree.start_order(graph)
    assert sorted(order) == sorted(graph)
    assert all(order.index(needed) < order.index(name) for name in graph for needed in graph[name])


def test_a_long_chain_is_no_matter_of_recursion():
    graph = {str(n): [str(n + 1)] for n in range(20_000)} | {"20000": []}
    assert tree.start_order(graph)[0] == "20000"


@pytest.mark.parametrize(
    ("graph", "circles"),
    [
        ({"a": ["b"], "b": []}, []),
        ({"a": ["a"]}, [("a",)]),
        ({"a": ["b"], "b": ["a"]}, [("a", "b")]),
        ({"a": ["c"], "b": ["c"], "c": ["b"]}, [("b", "c")]),
        ({"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]}, [("a", "b"), ("c", "d")]),
        ({"a": ["b", "c"], "b": ["a"], "c": ["a"]}, [("a", "b"), ("a", "c")]),
    ],
)
def test_circles_are_found_by_name(graph, circles):
    assert tree.circles(graph) == circles


@given(st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES))))
def test_either_there_is_an_order_or_there_is_a_circle(graph):
    circles = tree.circles(graph)
    for circle in circles:
        assert all(needed in graph[name] for name, needed in zip(circle, circle[1:] + circle[:1], strict=True))
    if circles:
        with pytest.raises(ValueError, match="is a cycle"):
            tree.start_order(graph)
    else:
        assert sorted(tree.start_order(graph)) == sorted(graph)


def test_a_circle_reads_as_one():
    assert tree.show(("db", "api")) == "db → api → db"


def test_dependents_are_those_that_must_stop_first():
    graph = {"web": ["db", "cache"], "api": ["db"], "db": [], "cache": ["db", "db"]}
    assert tree.dependents(graph) == {"web": (), "api": (), "db": ("web", "api", "cache"), "cache": ("web",)}
