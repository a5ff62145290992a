"""Incidents, why, history, alerts, and the description of the API."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3

import pytest
from gateway_world import run
from waiting import until

from impetusd.client.control import ControlError
from impetusd.core.explain import happened
from impetusd.core.explain.happened import Past
from impetusd.core.protocol import METHODS, ROLES
from impetusd.core.reasons import because
from impetusd.gateway import incidents, openapi, routes
from impetusd.gateway.incidents import Known
from impetusd.observer import history as histories
from impetusd.observer.history import Writer

NOW = 1_800_000_000.0
END = {"code": 1, "at": "2027-01-15T08:00:00+00:00"}


def row(name, state="RUNNING", reason=None, **more):
    shown = (
        {"cause": reason.data(), "reason": str(reason)} if reason else {"cause": {"key": "", "facts": {}}, "reason": ""}
    )
    unit = name.partition(":")[0]
    return {
        "name": name,
        "unit": unit,
        "kind": "worker",
        "state": state,
        "want": "up",
        "restarts": 0,
        "tail": [],
        **shown,
        **more,
    }


def rows(*units, **kinds):
    return {"unit": {each["name"]: each for each in units}, "timer": {}, "check": {}, "daemon": {}, **kinds}


def explained(rows, past=None, **more):
    past = past or Past()
    found = happened.problems(past, rows, NOW)
    until = {key: mark.until for key, mark in past.marks.items()}
    known = Known(rows=rows, standing=found, until=until, now=NOW, command="impetusd -c x.ini", **more)
    return incidents.explained(known)


def ended(unit, n=1, **more):
    return {
        "n": n,
        "at": NOW - 10,
        "kind": "exit",
        "unit": unit,
        "slot": f"{unit}:0",
        "pid": 9,
        "code": 1,
        "asked": False,
        **more,
    }


class TestIncidents:
    def test_all_is_well(self):
        assert explained(rows(row("web:0"), row("db:0"))) == []

    def test_the_database_comes_first_and_what_needs_it_is_folded_in(self):
        waits = because("waits_for", name="db", state="FATAL", cause=because("exit", code=1))
        found = explained(
            rows(
                row("web:0", "STARTING", waits),
                row("web:1", "STARTING", waits),
                row(
                    "db:0",
                    "FATAL",
                    because("gave_up", end=because("exit", code=1), restarts=3, window_s=60.0),
                    last_exit=END,
                    tail=["no disk"] * 9,
                ),
            ),
            records=[ended("db", state="FATAL", rule="max_restarts", decision="", retry_s=None)],
            where={"db": "/etc/x.ini:7"},
        )
        (card,) = found
        assert (card["id"], card["units"], card["severity"]) == ("fatal:db", ["db:0", "web"], "error")
        assert (card["cause"]["key"], card["cause"]["facts"]) == ("exit", {"code": 1})
        assert card["rule"] == {"key": "max_restarts", "file": "/etc/x.ini", "line": 7}
        assert (card["next"], len(card["stderr"])) == (None, 5)
        assert (card["action"], card["command"]) == (
            {"method": "restart", "name": "db"},
            "impetusd -c x.ini restart db",
        )

    def test_what_a_rule_put_right_is_shown_for_a_while_with_nothing_to_press(self):
        leak = because("max_memory_restart", used=90 << 20, limit=60 << 20, hold_s=0.0, basis="")
        shown = {"cause": leak.data(), "reason": str(leak)}
        past = Past()
        happened.take(
            past,
            {
                "n": 1,
                "at": NOW - 60,
                "kind": "rule",
                "unit": "api",
                "slot": "api:0",
                "rule": "max_memory_restart",
                **shown,
            },
        )
        (card,) = explained(rows(row("api:0", restarts=1)), past, where={"api": "/etc/x.ini:7"})
        assert (card["event"], card["root"], card["units"]) == ("memory", "api", ["api:0"])
        assert card["cause"]["text"] == "uses 90 MB, above max_memory_restart = 60 MB"
        assert card["rule"] == {"key": "max_memory_restart", "file": "/etc/x.ini", "line": 7}
        assert card["next"] == {"at": NOW - 60 + happened.LASTS["memory"], "what": "well"}
        assert (card["action"], card["command"]) == (None, "impetusd -c x.ini why api")
        assert card["severity"] == "warning"
        (card,) = explained(rows(row("api:0", "FATAL", last_exit=END)), past)
        assert (card["event"], card["next"], card["severity"]) == ("fatal", None, "error")

    def test_one_that_hung_is_named_with_the_place_where_it_hung(self):
        hung = because("watchdog", within_s=1.0)
        past = Past()
        words = ["Current thread 0x1 (most recent call first):", '  File "/srv/a.py", line 6 in look', "", "stuck"]
        about = {"at": NOW - 60, "unit": "api", "slot": "api:0"}
        shown = {"cause": hung.data(), "reason": str(hung)}
        happened.take(past, {**about, "n": 1, "kind": "rule", "rule": "watchdog", **shown})
        happened.take(past, {**about, "n": 2, "kind": "stderr", "lines": ["Fatal Python error: Aborted", *words]})
        (card,) = explained(rows(row("api:0")), past)
        assert card["cause"]["text"] == "event loop blocked for 1 s (watchdog): in look, /srv/a.py line 6"
        assert card["stderr"] == words[:2]

    def test_what_is_tried_again_counts_down(self):
        retrying = because("retrying", end=because("exit", code=1), wait_s=30.0)
        records = [
            ended("web", n, at=NOW - 40 + 10 * n, state="BACKOFF", rule="max_restarts", retry_s=30.0) for n in (1, 2)
        ]
        (card,) = explained(rows(row("web:0", "BACKOFF", retrying, restarts=2)), records=records)
        assert card["next"] == {"at": NOW + 10, "what": "start"}
        assert card["since"] == NOW - 30
        assert card["severity"] == "error"

    def test_what_is_tried_again_is_said_to_be_where_the_ledger_is_behind(self):
        retrying = because("retrying", end=because("exit", code=1), wait_s=30.0)
        records = [ended("web", at=NOW - 40, state="BACKOFF", rule="max_restarts", retry_s=30.0)]
        for known in (records, []):
            (card,) = explained(rows(row("web:0", "BACKOFF", retrying, restarts=2)), records=known)
            assert card["next"] == {"at": None, "what": "start"}

    def test_a_stopped_database_is_offered_to_be_started(self):
        waits = because("waits_for", name="db", state="STOPPED", cause=because("stopped_as_asked"))
        failed = because("gave_up", end=because("exit", code=1), restarts=3, window_s=60.0)
        found = explained(
            rows(
                row("db:0", "STOPPED", want="down"),
                row("api:0", "FATAL", failed, last_exit=END),
                row("web:0", "STARTING", waits),
            ),
            needs={"api": ["db"]},
        )
        (card,) = found
        assert card["action"] == {"method": "start", "name": "db"}
        assert card["cause"]["key"] == "is_state"
        assert set(card["units"]) == {"db", "api:0", "web"}

    def test_an_unhealthy_unit_since_the_ledger_says_so(self):
        check = {
            "name": "ping",
            "target": "web",
            "state": "unhealthy",
            "cause": because("no_answer", within_s=2.0).data(),
            "reason": "",
        }
        turned = {
            "n": 3,
            "at": NOW - 99,
            "kind": "health",
            "check": "ping",
            "unit": "web",
            "slot": "web",
            "state": "unhealthy",
        }
        (card,) = explained(rows(row("web:0"), check={"ping": check}), records=[turned])
        assert (card["id"], card["since"], card["rule"]["key"]) == ("unhealthy:web", NOW - 99, "health")

    def test_a_failed_timer_names_its_next_run(self):
        timer = {
            "name": "clean",
            "state": "waiting",
            "next": "2027-01-15T09:00:00+00:00",
            "runs": [
                {
                    "ok": False,
                    "at": "2027-01-15T08:00:00+00:00",
                    "duration_s": 1.0,
                    "cause": because("exit", code=2).data(),
                    "result": "",
                }
            ],
        }
        (card,) = explained(rows(timer={"clean": timer}))
        assert (card["action"]["method"], card["next"]["what"]) == ("trigger", "run")

    @pytest.mark.parametrize(
        ("reason", "event", "command"),
        [
            (because("not_reloaded", unit="web", cause=because("not_ready", within_s=3.0)), "deploy", "reload web"),
            (because("ini_refused", ago_s=3.0, problem="x"), "deploy", "check"),
            (
                because("ledger_lost", path="/v/l", cause=because("os_error", errno=28, detail=""), kept=1),
                "disk",
                "df -h /v/l",
            ),
            (
                because("mistake", source="s", stage="t", cause=because("text", text="c"), count=1, ago_s=1.0),
                "daemon",
                "logs impetusd",
            ),
        ],
    )
    def test_what_impetusd_itself_suffers_from(self, reason, event, command):
        (card,) = explained(rows(daemon={"": {"notices": [reason.shown()]}}))
        assert card["id"].startswith(event)
        assert card["command"].endswith(command)

    def test_a_first_start_is_no_incident(self):
        assert explained(rows(row("web:0", "STARTING", because("waits_for_listen")))) == []


class TestApi:
    def test_incidents_and_why_of_a_unit_that_crashed(self):
        ini = "[impetusd]\n[program:api]\ncommand = x\nmax_restarts = 1\nrestart_delay = 0\n[program:db]\ncommand = x\n"

        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")
            await gateway.life.ask("start", wait=False)
            await gateway.life.until_state("RUNNING")
            for _ in range(2):
                await until(lambda: "api:0" in gateway.life.shim.pids(), "api")
                gateway.life.shim.kill("api:0")
            await gateway.life.until_state("FATAL", "api")
            await until(lambda: gateway.backend.mirror.rows["unit"]["api:0"]["state"] == "FATAL", "the mirror")
            async with gateway.get("/api/v1/incidents", viewer) as answer:
                (card,) = (await answer.json())["incidents"]
            assert (card["id"], card["units"]) == ("fatal:api", ["api"])
            assert (card["rule"]["file"], card["rule"]["line"]) == (gateway.life.shim.conf, 2)
            assert card["cause"]["key"] == "killed"
            assert card["command"].endswith("restart api")
            async with gateway.get("/api/v1/units/api/why", viewer) as answer:
                (finding,) = (await answer.json())["findings"]
            assert (finding["name"], finding["ok"]) == ("api", False)
            async with gateway.get("/api/v1/units/nobody/why", viewer) as answer:
                assert answer.status == 404

        run(scenario, ini)

    def test_incidents_of_many_units_are_two_questions(self):
        ini = "[impetusd]\n" + "".join(
            f"[program:p{n}]\ncommand = x\nmax_restarts = 0\n{'depends_on = p0' if n else ''}\n" for n in range(60)
        )

        async def scenario(gateway):
            gateway.life.shim.cannot.update({f"p{n}:0": "no such file" for n in range(1, 60)})
            viewer = await gateway.bearer("viewer")
            await gateway.life.ask("start", wait=False)
            await gateway.life.until_state("FATAL", *(f"p{n}" for n in range(1, 60)))
            await until(
                lambda: sum(row["state"] == "FATAL" for row in gateway.backend.mirror.rows["unit"].values()) == 59,
                "the mirror",
            )
            gateway.backend.asked.clear()
            async with gateway.get("/api/v1/incidents", viewer) as answer:
                cards = (await answer.json())["incidents"]
            assert sorted(method for method, _, _ in gateway.backend.asked) == ["events", "places"]
            lines = {card["id"]: card["rule"]["line"] for card in cards if card["rule"]}
            assert all(line for line in lines.values()), lines

        run(scenario, ini)

    def test_incidents_of_a_supervisor_that_does_not_know_places(self):
        ini = "[impetusd]\n[program:api]\ncommand = x\nmax_restarts = 0\n"

        async def scenario(gateway):
            real = gateway.backend.call

            async def call(method, params, caller, progress=None):
                if method == "places":
                    raise ControlError("unknown method 'places'")
                return await real(method, params, caller, progress)

            gateway.backend.call = call
            gateway.life.shim.cannot["api:0"] = "no such file"
            await gateway.life.ask("start", names=["api"], wait=False)
            await gateway.life.until_state("FATAL", "api")
            await until(lambda: gateway.backend.mirror.rows["unit"]["api:0"]["state"] == "FATAL", "the mirror")
            async with gateway.get("/api/v1/incidents", await gateway.bearer("viewer")) as answer:
                assert [card["units"] for card in (await answer.json())["incidents"]] == [["api"]]

        run(scenario, ini)

    def test_history_of_a_unit_and_marks_of_all(self, tmp_path):
        minute = NOW // 900 * 900
        writer = Writer(str(tmp_path / "history.sqlite"), minute)
        writer.write(
            {"web:0": {"memory": 5.0, "cpu": 1.0}, "db:0": {"memory": 7.0}}, [(minute, 1, "exit", "web", "x")], minute
        )
        writer.close()

        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")

            async def asked(query, status=200):
                async with gateway.get(f"/api/v1/history?{query}", viewer) as answer:
                    assert answer.status == status, await answer.text()
                    return await answer.json()

            span = f"from={minute - 60}&to={minute + 60}"
            found = await asked(f"unit=web&series=memory,cpu&{span}")
            assert found["series"] == {"memory": {"web:0": [[minute, 5.0]]}, "cpu": {"web:0": [[minute, 1.0]]}}
            found = await asked(span)
            assert (found["series"], [mark["unit"] for mark in found["marks"]]) == ({}, ["web"])
            found = await asked(f"series=memory&{span}")
            assert set(found["series"]["memory"]) == {"web:0", "db:0"}
            for wrong in ("series=nonsense", "from=5&to=4", "series=cpu,memory", "unit=a&from=1&to=99999999"):
                await asked(wrong, 400)

        run(scenario, history=str(tmp_path))

    def test_as_long_as_there_is_no_history_there_are_no_samples(self, tmp_path):
        """From before the file is there until the observer has made the last of its tables."""
        path = tmp_path / "history.sqlite"

        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")

            async def nothing():
                async with gateway.get("/api/v1/history?unit=web&series=memory", viewer) as answer:
                    assert answer.status == 200, await answer.text()
                    found = await answer.json()
                    assert not any(found["series"].values())
                    assert found["marks"] == []

            await nothing()
            path.touch()
            await nothing()
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode=WAL").fetchall()
                for table in histories._TABLES:
                    await nothing()
                    connection.execute(table)
                await nothing()
            path.write_bytes(b"not a database" * 100)
            async with gateway.get("/api/v1/history?unit=web", viewer) as answer:
                assert answer.status == 503

        run(scenario, history=str(tmp_path))

    def test_6_silences_and_a_test_of_configured_alerts_only(self):
        ini = "[impetusd]\n[program:api]\ncommand = x\n[alert:ops]\nurl = http://127.0.0.1:9/hook\n"

        async def scenario(gateway):
            operator, admin = await gateway.bearer("operator"), await gateway.bearer("admin")
            body = {"name": "api", "for": 3600, "why": "deploying"}
            async with gateway.post("/api/v1/silences", body, operator) as answer:
                made = await answer.json()
                assert (answer.status, made["name"], made["why"]) == (201, "api", "deploying")
            await until(lambda: gateway.backend.mirror.rows["daemon"][""]["alerts"]["silences"], "the silence")
            async with gateway.get("/api/v1/alerts", operator) as answer:
                shown = await answer.json()
            assert (shown["names"], shown["undelivered"], [each["id"] for each in shown["silences"]]) == (
                ["ops"],
                0,
                [made["id"]],
            )
            async with gateway.http.delete(f"/api/v1/silences/{made['id']}", json={}, headers=operator) as answer:
                assert answer.status == 204
            assert (await gateway.life.ask("status"))["alerts"]["silences"] == []
            for name in ("http:%2f%2fevil.com", "nobody"):
                async with gateway.post(f"/api/v1/alerts/{name}/test", {}, admin) as answer:
                    assert answer.status in {404, 409}
            for body in ({"url": "http://evil.com"}, {"to": "a@b"}):
                async with gateway.post("/api/v1/alerts/ops/test", body, admin) as answer:
                    assert answer.status == 400
            async with gateway.post("/api/v1/alerts/ops/test", {}, operator) as answer:
                assert answer.status == 403
            real = gateway.backend.call

            async def call(method, params, caller, progress=None):
                if method == "alert-test":
                    return {"ok": False, "name": "ops", "text": "500 <what the receiver answered>"}
                return await real(method, params, caller, progress)

            gateway.backend.call = call
            async with gateway.post("/api/v1/alerts/ops/test", {}, admin) as answer:
                text = await answer.text()
            assert json.loads(text)["ok"] is False
            assert "receiver answered" not in text

        run(scenario, ini)


class TestDescription:
    def test_is_of_each_route_and_of_nothing_else(self):
        async def scenario(gateway):
            async with gateway.get("/api/v1/openapi.json") as answer:
                document = await answer.json()
            table = {key: each for key, each in gateway.app[routes.ROUTES].items() if openapi.is_api(each)}
            described = {(method.upper(), path) for path, each in document["paths"].items() for method in each}
            assert described == set(table)
            ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
            assert len(ids) == len(set(ids))
            for (method, path), route in table.items():
                shown = document["paths"][path][method.lower()]
                assert shown["x-role"] == (route.role or None)
                assert {each["name"] for each in shown["parameters"]} == {
                    *re.findall(r"{(\w+)}", path),
                    *(param.name for param in route.query),
                }
                assert ("requestBody" in shown) is (route.body is not None)
            assert {route.role for route in table.values()} <= {routes.OPEN, *ROLES}

        run(scenario)

    @pytest.mark.parametrize(
        ("schema", "good", "bad"),
        [
            (routes.NAME, ["web:0", "a b", "é"], ["", "a*", "a\n", "x" * 300, 1, None, "[a"]),
            (routes.count(1, 5), [1, 5], [0, 6, True, 1.0, "1"]),
            (routes.TIME, [0, 1.5], [-1, float("nan"), float("inf"), True, "1"]),
            (routes.one_of("a", "b"), ["a"], ["c", 1]),
            (
                {"anyOf": [routes.count(0, 3), {"type": "string", "maxLength": 3, "pattern": "^[+][0-9]$"}]},
                [3, "+1"],
                ["+10", 4],
            ),
        ],
    )
    def test_a_schema_is_what_is_checked(self, schema, good, bad):
        for value in good:
            assert routes.checked(schema, value) == value
        for value in bad:
            with pytest.raises(ValueError):
                routes.checked(schema, value)


def test_every_control_method_is_reached_or_left_out_for_a_reason():
    from impetusd.gateway import app, explaining, logs, rest

    reached = {method for method, _ in rest.ACTIONS.values()}
    for module in (app, explaining, logs, rest):
        with open(module.__file__, encoding="utf-8") as file:
            reached |= set(re.findall(r'(?:ask|follow|_carry_out)\(\s*(?:[\w.\[\]]+, )?"([a-z-]+)"', file.read()))
    left_out = {
        "ping",  # of a client that looks whose daemon it is
        "logs",  # paths of files, which no web client can read
        "watch",  # the stream is made of it
        "exec",  # answers with secrets
        "give-socket",  # a process gives one of its own
        "flush",  # empties logs; reopen-logs, upgrade: of the host's administration
        "reopen-logs",
        "upgrade",
        "observer-report",
        "metrics",  # /metrics asks for it
    }
    assert reached | left_out >= set(METHODS), set(METHODS) - reached - left_out
    assert not reached & left_out
