"""SQL statements as values, and those of lists: rows that meet conditions, newest first, a page of them or a bounded count.

There are two kinds, and a type for each. A CompanyQuery is about one company's rows: its $1 is the company's id, which
`db.Company` puts in and no caller can leave out. A Query is about no company: logging in, maintenance, health.
`statements` finds all of them, for the tests that ask PostgreSQL how it would run each.

Each combination of a list's conditions is a statement of its own, so PostgreSQL plans each with the index that suits it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

PAGE_BYTES = 1_000_000  # of the texts in a page: 500 rows of 100,000 characters would take a worker to hundreds of MB
COUNTED = 10_000  # rows at most, some 2 ms: to count a million takes far longer than the page itself

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


@dataclass(frozen=True)
class Order:
    """What a list may be sorted by: SQL, and how to `read` its value from the text in a cursor (ValueError for none)."""

    key: str
    descending: bool = False
    read: Callable[[str], Any] = str


def instant(text: str) -> datetime:
    """The value of an Order by time, from a cursor."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None or not 1970 <= found.year <= 9998:
        raise ValueError(text)
    return found


@dataclass(frozen=True)
class Listing:
    """What lists of `source`, a table or a join that begins with one, may ask. The first table has company_id,
    created_at and id. In `conditions`, name to SQL, {} is the value; the `required` ones are never left out. `weight` is
    SQL for the bytes of a row's long texts; a list without them needs none. `orders` are those besides newest first."""

    source: str
    columns: str
    conditions: Mapping[str, str]
    weight: str = ""
    orders: Mapping[str, Order] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    def weighed_page(
        self, given: Mapping[str, Any], after: tuple[datetime, int] | None, limit: int, offset: int
    ) -> tuple[CompanyQuery, list[Any]]:
        """As page, but the rows end with the one that reaches PAGE_BYTES; `there` of each row is how many there were.

        octet_length reads a long text's size from its head: what is left out is not read.
        """
        page, arguments = self.page(given, after, limit, offset)
        if not self.weight:
            return page, arguments
        return CompanyQuery(
            f"SELECT {self.columns}, there FROM (SELECT *, count(*) OVER () AS there, sum({self.weight}) OVER ("
            "ORDER BY created_at DESC, id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before"
            f" FROM ({page.sql}) AS page) AS weighed WHERE before IS NULL OR before < {PAGE_BYTES}"
            " ORDER BY created_at DESC, id DESC"
        ), arguments

    def page(
        self, given: Mapping[str, Any], after: tuple[Any, int] | None, limit: int, offset: int, order: str = ""
    ) -> tuple[CompanyQuery, list[Any]]:
        """The statement and its arguments from $2 on, for the rows that come `after` a (created_at, id).

        With an `order` of the listing, `after` has its value in the place of created_at, and each row has it as `place`.
        """
        where, arguments = self._where(given)
        table = self.source.split()[0]
        by = self.orders[order] if order else Order(f"{table}.created_at", descending=True)
        if after is not None:
            arguments += after
            sign = "<" if by.descending else ">"
            where += f" AND ({by.key}, {table}.id) {sign} (${len(arguments)}, ${len(arguments) + 1})"
        arguments += [limit, offset]
        columns = f"{self.columns}, {by.key} AS place" if order else self.columns
        way = "DESC" if by.descending else "ASC"
        return CompanyQuery(
            f"SELECT {columns} FROM {self.source} WHERE {where}"
            f" ORDER BY {by.key} {way}, {table}.id {way} LIMIT ${len(arguments)} OFFSET ${len(arguments) + 1}"
        ), arguments

    def count(self, given: Mapping[str, Any], at_most: int = COUNTED) -> tuple[CompanyQuery, list[Any]]:
        """The statement and its arguments from $2 on, for how many there are; it stops after `at_most` + 1."""
        where, arguments = self._where(given)
        table = self.source.split()[0]
        return CompanyQuery(
            f"SELECT count(*) FROM (SELECT FROM {table} WHERE {where} LIMIT ${len(arguments) + 2}) AS counted"
        ), [*arguments, at_most + 1]

    def _where(self, given: Mapping[str, Any]) -> tuple[str, list[Any]]:
        table = self.source.split()[0]
        parts, arguments = [f"{table}.company_id = $1"], []
        if missing := [name for name in self.required if given.get(name) is None]:
            raise ValueError(f"a list of {table} needs {', '.join(missing)}")
        for name, value in given.items():
            if value is not None:
                arguments.append(value)
                condition = self.conditions[name].format(f"${len(arguments) + 1}")
                parts.append(condition if condition.startswith("(") else f"{table}.{condition}")
        return " AND ".join(parts), arguments


def containing(text: str) -> str:
    """A LIKE pattern for texts that contain `text`, whatever % and _ it has."""
    escaped = text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return f"%{escaped}%"
