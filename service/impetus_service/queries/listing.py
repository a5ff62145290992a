"""Statements of lists: one company's rows that meet conditions, newest first, a page of them or as far as a count goes.

Each combination of conditions is a statement of its own, so PostgreSQL plans each with the index that suits it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from impetus_service.queries import CompanyQuery

PAGE_BYTES = 1_000_000  # of the texts in a page: 500 rows of 100,000 characters would take a worker to hundreds of MB
COUNTED = 10_000  # rows at most, some 2 ms: to count a million takes far longer than the page itself


@dataclass(frozen=True)
class Listing:
    """What lists of `source`, a table or a join that begins with one, may ask. The first table has company_id,
    created_at and id. In `conditions`, name to SQL, {} is the value. `weight` is SQL for the bytes of a row's long texts;
    a list without them needs none."""

    source: str
    columns: str
    conditions: Mapping[str, str]
    weight: str = ""

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
        self, given: Mapping[str, Any], after: tuple[datetime, int] | None, limit: int, offset: int
    ) -> tuple[CompanyQuery, list[Any]]:
        """The statement and its arguments from $2 on, for the rows that come `after` a (created_at, id)."""
        where, arguments = self._where(given)
        table = self.source.split()[0]
        if after is not None:
            arguments += after
            where += f" AND ({table}.created_at, {table}.id) < (${len(arguments)}, ${len(arguments) + 1})"
        arguments += [limit, offset]
        return CompanyQuery(
            f"SELECT {self.columns} FROM {self.source} WHERE {where}"
            f" ORDER BY {table}.created_at DESC, {table}.id DESC LIMIT ${len(arguments)} OFFSET ${len(arguments) + 1}"
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
        for name, value in given.items():
            if value is not None:
                arguments.append(value)
                parts.append(f"{table}.{self.conditions[name].format(f'${len(arguments) + 1}')}")
        return " AND ".join(parts), arguments


def containing(text: str) -> str:
    """A LIKE pattern for texts that contain `text`, whatever % and _ it has."""
    escaped = text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return f"%{escaped}%"
