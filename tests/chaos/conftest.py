"""The instances of tests/system, for the short form of the chaos run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lending import Lend, lender


@pytest.fixture(scope="session")
def lend() -> Iterator[Lend]:
    """Makes an instance and destroys it afterwards."""
    with lender() as lend:
        yield lend
