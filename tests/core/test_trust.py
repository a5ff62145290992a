"""Whose files and folders count, by their numbers alone."""

from __future__ import annotations

import pytest

from impetusd.core.access import writers
from impetusd.core.trust import distrusted

FILE, DIR, STICKY = 0o100644, 0o40755, 0o41777


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((0, 0, FILE, 0), ""),
        ((500, 500, FILE, 500), ""),
        ((500, 500, FILE, 0), "belongs to user 500"),
        ((0, 0, 0o100646, 0), "every user can write"),
        ((0, 7, 0o100664, 0), "group 7 can write"),
        ((0, 0, 0o100664, 0), ""),
        ((500, 500, 0o100664, 500), ""),  # nobody else's group
        ((0, 500, 0o40775, 500), ""),
        ((0, 7, 0o40775, 500, {7}), ""),
        ((0, 7, 0o40775, 500, {8}), "group 7 can write"),
        ((0, 0, STICKY, 0), ""),  # what others may write to, but not rename in
        ((500, 500, STICKY, 0), "belongs to user 500"),
        ((0, 0, DIR | 0o002, 0), "every user can write"),
    ],
)
def test_who_could_write(numbers, says):
    assert distrusted(*numbers) == says


def test_an_access_list_that_is_none_names_nobody():
    assert writers(b"") == (set(), set())
    assert writers(b"\x02\0\0\0odd") == (set(), set())
