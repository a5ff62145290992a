"""Every SQL statement of the service, by subject, and nowhere else.

There are two kinds, and a type for each. A CompanyQuery is about one company's rows: its $1 is the company's id, which
`db.Company` puts in and no caller can leave out. A Query is about no company: logging in, maintenance, health.
`statements` finds all of them, for the tests that ask PostgreSQL how it would run each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_BOUND = re.compile(
    r"\b(?:company_id|companies\.id) = \$1\b|\((?:company_id|company_id, [\w, ]+)\)\s+(?:VALUES|SELECT)\s*\(?\s*\$1\b"
)


@dataclass(frozen=True)
class Query:
    """A statement about no company in particular."""

    sql: str


@dataclass(frozen=True)
class CompanyQuery:
    """A statement about the rows of the company $1. ValueError for one that does not say so."""

    sql: str

    def __post_init__(self) -> None:
        if not _BOUND.search(self.sql):
            raise ValueError(f"neither company_id = $1 nor an INSERT of company_id from $1: {self.sql}")


def statements(module: Mapping[str, Any]) -> Iterator[tuple[str, Query | CompanyQuery]]:
    """(name, statement) of each in a module's namespace."""
    for name, value in module.items():
        if isinstance(value, Query | CompanyQuery):
            yield name, value
