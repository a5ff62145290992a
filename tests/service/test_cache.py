"""The cache never holds more than it may, and forgets what was used longest ago."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from impetus_service.cache import Cache


def test_the_entry_used_longest_ago_makes_room():
    cache = Cache(2)
    cache.set("a", 1)
    cache.set("b", 2)
    assert cache.get("a") == 1
    cache.set("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_setting_again_replaces():
    cache = Cache(2)
    cache.set("a", 1)
    cache.set("a", 2)
    assert (len(cache), cache.get("a")) == (1, 2)


@given(st.integers(1, 5), st.lists(st.text("abcdefgh", min_size=1, max_size=1)))
def test_it_holds_the_latest_names_up_to_its_bound(bound, names):
    cache = Cache(bound)
    for name in names:
        cache.set(name, name)
    latest = list(dict.fromkeys(reversed(names)))[:bound]
    assert len(cache) == len(latest)
    assert all(cache.get(name) == name for name in latest)
