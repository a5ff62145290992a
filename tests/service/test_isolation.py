"""No request reads or changes what belongs to another company: each route is tried with another company's ids."""

from __future__ import annotations

import json
import re

import pytest
from queries_modules import QUERIES
from served import PASSWORD, served
from server import run

from impetus_service.app import APIS
from impetus_service.kit.db import DATABASE
from impetus_service.kit.statements import CompanyQuery, Listing, statements

IDS = re.compile(r"\{(\w+)\}")
OPERATIONS = [operation for api in APIS for operation in api.operations]
WITH_IDS = {operation.name for operation in OPERATIONS if IDS.search(operation.path)}
BODIES = {
    "update_user": {"name": "taken over", "password": PASSWORD},
    "update_role": {"name": "taken over", "level": 100},
    "update_communication": {"subject": "taken over"},
}


def test_ids_of_another_company_lead_nowhere(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            mine, theirs = await service.administrator(), await service.administrator()
            colleague = await service.colleague(theirs)
            _, message = await theirs("POST", "/api/communications", json={"subject": "secret", "body": "secret"})
            _, role = await theirs("POST", "/api/roles", json={"name": "director", "level": 70})
            _, job = await theirs("POST", "/api/jobs/embeddings", json={"texts": ["secret"]})
            ids = {"user": colleague.id, "communication": message["id"], "role": role["id"]}
            ids |= {"job": job["id"], "job_file": job["id"]}
            ids["session"] = (await colleague("GET", "/api/auth/sessions"))[1]["items"][0]["id"]
            for operation in OPERATIONS:
                if operation.name in WITH_IDS:
                    assert operation.entity in ids, f"{operation.name}: give this test one of another company"
                    entity = "user" if operation.path.startswith("/api/users/") else operation.entity
                    path = operation.path.format(id=ids[entity], session=ids["session"])
                    status, answer = await mine(operation.method, path, json=BODIES.get(operation.name))
                    assert status == 404, (operation.name, answer)
            assert (await theirs("GET", f"/api/users/{colleague.id}"))[1]["name"] == "Bob"
            await service.log_in(colleague.email)
            assert (await theirs("GET", "/api/roles"))[1]["pagination"]["total"] == 4

    run(main())


def test_lists_and_exports_show_the_own_company_alone(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            mine, theirs = await service.administrator(), await service.administrator()
            await theirs("POST", "/api/communications", json={"subject": "secret", "body": "secret"})
            for operation in OPERATIONS:
                if operation.method != "GET" or IDS.search(operation.path) or not operation.authenticated:
                    continue
                filters = operation.hints["query"].__struct_encode_fields__ if "query" in operation.hints else ()
                query = {name: theirs.id for name in ("author", "user") if name in filters}
                status, answer = await mine("GET", operation.path, params=query)
                assert status == 200, (operation.name, answer)
                assert theirs.email not in str(answer)
                assert "secret" not in str(answer)
            assert (await mine("GET", "/api/communications"))[1]["items"] == []

    run(main())


def test_a_statement_about_a_company_says_which():
    with pytest.raises(ValueError, match="neither company_id"):
        CompanyQuery("SELECT * FROM users WHERE id = $1")
    with pytest.raises(ValueError, match="neither company_id"):
        CompanyQuery("SELECT * FROM users WHERE company_id = $2")


def company_queries():
    """(name, statement) of all, those that lists put together included."""
    for module in QUERIES:
        names = vars(module)
        for name, statement in statements(names):
            if isinstance(statement, CompanyQuery):
                yield f"{module.__name__}.{name}", statement.sql
        for name, found in names.items():
            for listing in found.values() if isinstance(found, dict) else [found]:
                if isinstance(listing, Listing):
                    given = dict.fromkeys(listing.conditions, "x")
                    yield f"{module.__name__}.{name}.page", listing.page(given, (0, 0), 1, 0)[0].sql
                    yield f"{module.__name__}.{name}.count", listing.count(given)[0].sql


def scans(plan: dict) -> list[dict]:
    """Every node of a plan that reads a table."""
    found = [plan] if "Relation Name" in plan and plan["Node Type"] != "ModifyTable" else []
    return found + [scan for below in plan.get("Plans", []) for scan in scans(below)]


def test_postgresql_reads_no_row_of_another_company(shared_postgres):
    """Each table in the plan of each statement is read by company_id, or by the id of the company's own row."""

    async def main() -> None:
        async with served(shared_postgres.url) as service, service.app[DATABASE].session() as connection:
            checked = 0
            for name, sql in company_queries():
                async with connection.transaction():
                    await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                    await connection.execute(f"PREPARE tried AS {sql}")
                    count = max(int(number) for number in re.findall(r"\$(\d+)", sql))
                    nulls = ", ".join(["NULL"] * count)
                    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE tried ({nulls})")
                    await connection.execute("DEALLOCATE tried")
                for scan in scans(json.loads(plan)[0]["Plan"]):
                    bound = "company_id" if scan["Relation Name"] != "companies" else "id"
                    conditions = " ".join(str(scan.get(key, "")) for key in ("Index Cond", "Filter", "Recheck Cond"))
                    conditions += " ".join(str(below.get("Index Cond", "")) for below in scan.get("Plans", []))
                    assert re.search(rf"\b{bound} = ", conditions), (name, scan)
                    checked += 1
            assert checked > 20

    run(main())
