"""Logs of several slots as one, asked as a browser asks."""

from __future__ import annotations

import json
from pathlib import Path

from gateway_world import run

from impetusd.gateway import logs

INI = "[impetusd]\n[program:a]\ncommand = x\n[program:b]\ncommand = x\ninstances = 2\n"


def stamped(second, text):
    return f"2025-11-30T00:00:{second:02d}.000+0000 {text}\n"


def write(gateway, name, *lines):
    with Path(gateway.life.shim.paths.log_dir, name).open("a", encoding="utf-8") as file:
        file.writelines(lines)


def lines_at(found):
    return found["lines"][-1]["at"]


async def asked(gateway, path, headers):
    async with gateway.get(f"/api/v1/logs{path}", headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


def words(lines):
    return [(line["unit"], line["stream"], line["text"].rpartition(" ")[2]) for line in lines]


def test_several_logs_as_one_and_what_is_around_a_line():
    async def scenario(gateway):
        operator = await gateway.bearer("operator")
        write(gateway, "a-out.log", stamped(1, "one"), stamped(4, "four"))
        write(gateway, "a-error.log", stamped(2, "two"))
        write(gateway, "b-1-out.log", stamped(3, "three"))
        found = await asked(gateway, "?unit=a&unit=b", operator)
        names = [("a:0", "out", "one"), ("a:0", "err", "two"), ("b:1", "out", "three"), ("a:0", "out", "four")]
        assert words(found["lines"]) == names
        assert (found["lost"], found["problems"], found["more"]) == (0, [], False)
        found = await asked(gateway, "?unit=a&unit=b&last=2", operator)
        assert (words(found["lines"]), found["more"]) == (names[2:], True)
        assert words((await asked(gateway, "", operator))["lines"]) == names
        assert words((await asked(gateway, f"/search?from={lines_at(found)}", operator))["lines"]) == names[3:]
        assert words((await asked(gateway, "?unit=a&stream=err", operator))["lines"]) == names[1:2]
        (line,) = (await asked(gateway, "/search?unit=a&unit=b&q=FOUR", operator))["lines"]
        assert words([line]) == names[3:]
        async with gateway.get("/api/v1/logs/context", operator, params={"id": line["id"], "before": 5}) as answer:
            around = (await answer.json())["lines"]
        assert [(each["text"][-4:], each["match"]) for each in around] == [(" one", False), ("four", True)]
        at = line["at"]
        found = await asked(gateway, f"/search?unit=a&unit=b&q=2025&from={at - 2}&to={at - 1}", operator)
        assert words(found["lines"]) == names[1:3]
        for wrong in ("0-0:0-out-a", "x", "1-1:1-out-", "1-1:1-err-../x", "1-1:1-out-*"):
            async with gateway.get("/api/v1/logs/context", operator, params={"id": wrong}) as answer:
                assert answer.status in {400, 404}
        async with gateway.get("/api/v1/logs?unit=nobody", operator) as answer:
            assert answer.status == 404

    run(scenario, INI)


def test_no_more_logs_are_followed_than_the_supervisor_gives_connections(monkeypatch):
    monkeypatch.setattr(logs, "FOLLOWED", 4)

    async def scenario(gateway):
        operator = await gateway.bearer("operator")
        async with gateway.get("/api/v1/logs/stream?unit=a", operator) as answer:
            assert answer.status == 200
            async with gateway.get("/api/v1/logs/stream?unit=b", operator) as other:
                assert other.status == 429
        async with gateway.get("/api/v1/logs/stream?unit=b", operator) as answer:
            assert answer.status in {200, 429}  # the one before is noticed to have gone with its next event

    run(scenario, INI)


def test_what_comes_is_streamed_and_a_line_has_the_same_id_everywhere():
    async def scenario(gateway):
        operator = await gateway.bearer("operator")
        write(gateway, "a-out.log", stamped(1, "one"))
        async with gateway.get("/api/v1/logs/stream?unit=a&unit=b&last=5", operator) as answer:
            events = gateway.events(answer)
            name, data, id_ = await anext(events)
            first = json.loads(data)
            assert (name, words([first]), first["id"]) == ("line", [("a:0", "out", "one")], id_)
            write(gateway, "b-0-error.log", stamped(2, "two"))
            write(gateway, "a-out.log", stamped(3, "three"))
            seen = {}
            while len(seen) < 2:
                name, data, _ = await anext(events)
                if name == "line":
                    line = json.loads(data)
                    seen[line["text"].rpartition(" ")[2]] = line
            assert (seen["two"]["unit"], seen["two"]["stream"]) == ("b:0", "err")
            for task in gateway.life.daemon._control._tasks:  # as a supervisor's death does
                task.cancel()
            write(gateway, "a-out.log", stamped(4, "four"))
            async for name, data, _ in events:
                if name == "line":
                    assert words([json.loads(data)]) == [("a:0", "out", "four")]  # none is missed, and none comes twice
                    break
        lines = (await asked(gateway, "?unit=a", operator))["lines"]
        assert [line["id"] for line in lines[:2]] == [first["id"], seen["three"]["id"]]

    run(scenario, INI)
