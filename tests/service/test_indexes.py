"""Every statement of a route, a job or a maintenance step finds its rows by an index, whatever the tables grow to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from pgqueuer.queries import Queries
from queries_modules import QUERIES
from server import run

from impetus_service.kit.statements import Listing, statements

# Read from one end to the other, on purpose: each is an index of just the rows that are meant.
WHOLE = {"jobs_open", "jobs_failed", "pgqueuer_unique_dedupe_key"}
# A command's, once in a company's life.
ONCE = "impetus_service.queries.accounts.ADD_ADMINISTRATOR"
# A company has a handful of them.
FEW = "impetus_service.queries.accounts.ROLES["
# PostgreSQL's own, of which there is nothing to plan.
SYSTEM = "impetus_service.queries.database."


def all_statements() -> Iterator[tuple[str, str]]:
    for module in QUERIES:
        names = vars(module)
        for name, statement in statements(names):
            yield f"{module.__name__}.{name}", statement.sql
        for name, found in names.items():
            for key, listing in found.items() if isinstance(found, dict) else [("", found)]:
                if isinstance(listing, Listing):
                    for condition in (None, *listing.conditions):
                        given = dict.fromkeys((*listing.required, *([condition] if condition else [])), "x")
                        where = f"{module.__name__}.{name}{key and f'[{key}]'}[{condition}]"
                        yield f"{where}.page", listing.page(given, None, 1, 0)[0].sql
                        yield f"{where}.weighed", listing.weighed_page(given, (0, 0), 1, 0)[0].sql
                        yield f"{where}.after", listing.page(given, (0, 0), 1, 0)[0].sql
                        yield f"{where}.count", listing.count(given)[0].sql
                        for order in listing.orders:
                            yield f"{where}.{order}.page", listing.page(given, None, 1, 0, order)[0].sql
                            yield f"{where}.{order}.after", listing.page(given, ("", 0), 1, 0, order)[0].sql


STATEMENTS = dict(all_statements())


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


@pytest.fixture(scope="module")
def plans(shared_postgres, _template) -> dict[str, dict[str, Any]]:
    """How PostgreSQL would run each, if reading a whole table cost more than anything else."""

    async def main() -> dict[str, dict[str, Any]]:
        name = "indexes"
        connection = await asyncpg.connect(_template)
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template OWNER impetus")
        await connection.close()
        connection = await asyncpg.connect(shared_postgres.url.replace("/impetus?", f"/{name}?"))
        await Queries.from_asyncpg_connection(connection).install()
        await connection.execute(
            "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_sort = off"
        )
        found = {}
        for where, sql in STATEMENTS.items():
            await connection.execute(f"PREPARE tried AS {sql}")
            count = max((int(number) for number in re.findall(r"\$(\d+)", sql)), default=0)
            arguments = f"({', '.join(['NULL'] * count)})" if count else ""
            plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE tried{arguments}")
            await connection.execute("DEALLOCATE tried")
            found[where] = json.loads(plan)[0]["Plan"]
        await connection.close()
        return found

    return run(main())


def test_rows_are_found_by_an_index(plans):
    for where in (where for where in STATEMENTS if not where.startswith((SYSTEM, ONCE))):
        for node in nodes(plans[where]):
            assert node["Node Type"] != "Seq Scan", (where, node)
            if node["Node Type"] in {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}:
                assert "Index Cond" in node or node["Index Name"] in WHOLE, (where, node)


PAGES = [where for where in STATEMENTS if where.endswith((".page", ".after")) and not where.startswith(FEW)]


def test_a_page_is_read_in_its_order(plans):
    assert [(where, node) for where in PAGES for node in nodes(plans[where]) if "Sort" in node["Node Type"]] == []


def test_the_last_maintenance_is_found_by_an_index(plans):
    indexes = {node.get("Index Name") for node in nodes(plans[f"{SYSTEM}LAST_MAINTENANCE"])}
    assert "audit_logs_action" in indexes


def test_there_is_something_to_look_at():
    assert len(STATEMENTS) > 80
