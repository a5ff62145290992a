"""Logs of several slots as one, asked as a browser asks."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gateway_world import run
from waiting import until

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
            for task in gateway.life.daemon.control._tasks:  # as a supervisor's death does
                task.cancel()
            write(gateway, "a-out.log", stamped(4, "four"))
            async for name, data, _ in events:
                if name == "line":
                    assert words([json.loads(data)]) == [("a:0", "out", "four")]  # none is missed, and none comes twice
                    break
        lines = (await asked(gateway, "?unit=a", operator))["lines"]
        assert [line["id"] for line in lines[:2]] == [first["id"], seen["three"]["id"]]

    run(scenario, INI)


def test_what_slots_write_that_appear_later_comes_too():
    async def scenario(gateway):
        operator = await gateway.bearer("operator")
        await gateway.life.ask("start")
        write(gateway, "b-2-out.log", "of an earlier life\n")
        os.utime(Path(gateway.life.shim.paths.log_dir, "b-2-out.log"), (1.7e9, 1.7e9))
        async with gateway.get("/api/v1/logs/stream?unit=b&stream=out", operator) as answer:
            events = gateway.events(answer)

            async def line():
                async for name, data, _ in events:
                    assert name in {"line", "alive"}, data
                    if name == "line":
                        return words([json.loads(data)])[0]
                raise AssertionError("the stream has ended")

            async def scale(n):
                await gateway.life.ask("scale", name="b", n=n)
                slots = [f"b:{index}" for index in range(n)]
                mirror = gateway.backend.mirror  # which has other rows after a snapshot
                await until(lambda: sorted(key for key in mirror.rows["unit"] if key[0] == "b") == slots, "the slots")

            followed = gateway.app[logs.FOLLOWING]
            write(gateway, "b-3-out.log", "as it starts\n")  # before anybody can follow it
            await scale(4)
            assert await line() == ("b:3", "out", "starts")
            await until(lambda: followed.total == 4 and gateway.backend.heard["b:2"], "the end of what was there")
            write(gateway, "b-2-out.log", "new\n")
            assert await line() == ("b:2", "out", "new")
            # It goes and comes back, and another supervisor is asked meanwhile.
            await scale(2)
            for task in gateway.life.daemon.control._tasks:
                task.cancel()
            await until(lambda: followed.total == 2, "the logs that are left")
            await scale(4)
            await until(lambda: followed.total == 4, "all of them again")
            seen = set()
            write(gateway, "b-2-out.log", "once more\n")
            write(gateway, "b-0-out.log", "last\n")
            while ("b:0", "out", "last") not in seen or ("b:2", "out", "more") not in seen:
                seen.add(await line())
        await until(lambda: not followed.total, "nothing is followed any more")

    run(scenario, INI)


def test_too_many_that_appear_are_said_once(monkeypatch):
    monkeypatch.setattr(logs, "FOLLOWED", 3)

    async def scenario(gateway):
        operator = await gateway.bearer("operator")
        async with gateway.get("/api/v1/logs/stream?unit=b&stream=out", operator) as answer:
            events = gateway.events(answer)
            await gateway.life.ask("scale", name="b", n=4)
            async for name, data, _ in events:
                if name == "problem":
                    assert json.loads(data)["text"] == "too many logs are already being followed"
                    break
            write(gateway, "b-0-out.log", "on\n")
            async for name, data, _ in events:
                assert name in {"line", "alive"}, data
                if name == "line":
                    assert words([json.loads(data)]) == [("b:0", "out", "on")]
                    break

    run(scenario, INI)


def test_logs_without_times_are_in_the_order_in_which_they_were_written():
    async def scenario(gateway):
        operator = await gateway.bearer("operator")
        folder = Path(gateway.life.shim.paths.log_dir)
        for name, at in (("a-out.log", 1.7e9 + 20), ("b-0-out.log", 1.7e9), ("b-1-out.log", 1.7e9 + 40)):
            write(gateway, name, "first\n", f"{name}\n")
            os.utime(folder / name, (at, at))
        write(gateway, "a-error.log", "2023-11-14T22:13:50.000+0000 between\n")  # 1.7e9 + 30
        names = ["b:0", "b:0", "a:0", "a:0", "a:0", "b:1", "b:1"]
        found = await asked(gateway, "?unit=a&unit=b", operator)
        assert [line["unit"] for line in found["lines"]] == names
        assert found["lines"][4]["stream"] == "err"
        seen = []
        async with gateway.get("/api/v1/logs/stream?unit=a&unit=b&last=50", operator) as answer:
            async for _, data, _ in gateway.events(answer):
                seen.append(json.loads(data))
                if len(seen) == len(names):
                    break
        assert seen == [{name: value for name, value in line.items() if name != "match"} for line in found["lines"]]

    run(scenario, INI)
