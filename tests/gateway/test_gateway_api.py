"""The API as its clients use it."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from gateway_world import run
from waiting import until

from impetusd.worker.draining import DRAINING


class TestLooking:
    def test_who_one_is_and_everything_there_is(self):
        async def scenario(gateway):
            viewer = await gateway.bearer("viewer", "ci")
            async with gateway.get("/api/v1/me", viewer) as answer:
                shown = await answer.json()
            assert (shown["user"], shown["role"], shown["live"]) == ("token:ci", "viewer", True)
            assert shown["instance"]["conf"] == gateway.life.shim.conf
            async with gateway.get("/api/v1/snapshot", viewer) as answer:
                rows = (await answer.json())["rows"]
            assert set(rows["unit"]) == {"api:0", "db:0"}
            assert list(rows["timer"]) == ["clean"]
            assert set(rows["usage"][""]) == {"api:0", "db:0"}
            async with gateway.get("/api/v1/units/api", viewer) as answer:
                shown = await answer.json()
            assert shown["units"][0]["name"] == "api"
            origins = {each["key"]: each["origin"] for each in shown["config"]}
            assert origins["command"] == f"{gateway.life.shim.conf}:4"
            assert origins["autorestart"] == "default"
            for path, key in (("timers", "timers"), ("plan", "changes"), ("events?last=5&unit=api", "events")):
                async with gateway.get(f"/api/v1/{path}", viewer) as answer:
                    assert answer.status == 200, await answer.text()
                    assert key in await answer.json()
            async with gateway.get("/api/v1/units/nobody", viewer) as answer:
                assert (answer.status, answer.content_type) == (404, "application/problem+json")
                assert "nobody" in (await answer.json())["detail"]

        run(scenario)

    def test_what_the_client_has_already_is_not_sent_again(self):
        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")
            async with gateway.get("/api/v1/units/api", viewer) as answer:
                tag = answer.headers["ETag"]
            async with gateway.get("/api/v1/units/api", {**viewer, "If-None-Match": tag}) as answer:
                assert (answer.status, answer.headers["ETag"], await answer.read()) == (304, tag, b"")
            await gateway.life.ask("start", names=["api"])
            async with gateway.get("/api/v1/units/api", {**viewer, "If-None-Match": tag}) as answer:
                assert answer.status == 200

        run(scenario)


class TestDoing:
    def test_progress_then_the_result(self):
        async def scenario(gateway):
            operator = await gateway.bearer("operator")
            async with gateway.post("/api/v1/units/api/start", {}, operator) as answer:
                assert answer.content_type == "application/x-ndjson"
                lines = [json.loads(line) async for line in answer.content]
            assert [line["progress"]["state"] for line in lines[:-1]] == ["STARTING", "RUNNING"]
            assert lines[-1]["result"]["ok"] is True
            async with gateway.post("/api/v1/units/api/signal", {"signal": "HUP"}, operator) as answer:
                assert json.loads(await answer.text())["result"]["signalled"] == ["api"]
            async with gateway.post("/api/v1/units/api/scale", {"n": "+1"}, operator) as answer:
                assert json.loads((await answer.text()).splitlines()[-1])["result"]["ok"] is True
            method, params, caller = gateway.backend.asked[-1]
            assert (method, params["n"], caller.role) == ("scale", "+1", "operator")

        run(scenario)

    def test_a_refusal_before_any_progress_is_a_problem(self):
        async def scenario(gateway):
            operator = await gateway.bearer("operator")
            async with gateway.post("/api/v1/units/nobody/stop", {}, operator) as answer:
                assert (answer.status, (await answer.json())["status"]) == (404, 404)
            async with gateway.post("/api/v1/units/api/signal", {"signal": "NONE"}, operator) as answer:
                assert answer.status == 400
            async with gateway.post("/api/v1/units/a*/stop", {}, operator) as answer:
                assert answer.status == 400  # one unit, never a pattern

        run(scenario)


class TestStream:
    def test_everything_then_each_change_and_on_from_the_last_one(self):
        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")
            async with gateway.get("/api/v1/stream", viewer) as answer:
                assert answer.content_type == "text/event-stream"
                events = gateway.events(answer)
                name, data, _ = await anext(events)
                assert (name, set(json.loads(data)["rows"]["unit"])) == ("snapshot", {"api:0", "db:0"})
                await gateway.life.ask("start", names=["api"])
                last = await _state(events, "api:0", "RUNNING")
            await gateway.life.ask("stop", names=["api"])
            async with gateway.get("/api/v1/stream", {**viewer, "Last-Event-ID": last}) as answer:
                events = gateway.events(answer)
                await _state(events, "api:0", "STOPPED", never="snapshot")
            async with gateway.get("/api/v1/stream", viewer, params={"last": last}) as answer:
                await _state(gateway.events(answer), "api:0", "STOPPED", never="snapshot")
            async with gateway.get("/api/v1/stream", {**viewer, "Last-Event-ID": "beef:1"}) as answer:
                assert (await anext(gateway.events(answer)))[0] == "snapshot"

        run(scenario)

    def test_a_lost_supervisor_is_reported_and_followed_by_a_resumption(self):
        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")
            async with gateway.get("/api/v1/stream", viewer) as answer:
                events = gateway.events(answer)
                await anext(events)
                for task in gateway.life.daemon.control._tasks:
                    task.cancel()
                seen = []
                async for name, _, _ in events:
                    if name in {"lost", "resumed"}:
                        seen.append(name)
                    if name == "resumed":
                        break
                assert seen == ["lost", "resumed"]

        run(scenario)

    def test_who_goes_on_learns_at_once_whether_the_supervisor_is_lost(self):
        """It may have been lost, or have come back, while nobody had the stream."""

        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")

            async def first():
                mirror = gateway.backend.mirror
                last = {"Last-Event-ID": f"{mirror.life}:{mirror.n}"}
                async with gateway.get("/api/v1/stream", {**viewer, **last}) as answer:
                    return await anext(gateway.events(answer))

            assert (await first())[0] == "resumed"
            gateway.backend.live = False
            name, data, _ = await first()
            assert (name, json.loads(data)["live"]) == ("snapshot", False)

        run(scenario)

    def test_ends_when_its_worker_leaves(self):
        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")
            async with gateway.get("/api/v1/stream", viewer) as answer:
                await anext(gateway.events(answer))
                gateway.app[DRAINING].set()
                with pytest.raises(aiohttp.ClientError):
                    while True:
                        await answer.content.readany()

        run(scenario)

    def test_silence_is_filled(self, monkeypatch):
        from impetusd.gateway import stream

        monkeypatch.setattr(stream, "ALIVE", 0.01)

        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")
            async with gateway.get("/api/v1/stream", viewer) as answer:
                async for name, data, _ in gateway.events(answer):
                    if name == "alive":
                        assert json.loads(data)["n"] == gateway.backend.mirror.n
                        break

        run(scenario)

    def test_a_slow_reader_is_disconnected(self, monkeypatch):
        from impetusd.core.stream import Change
        from impetusd.gateway import stream

        monkeypatch.setattr(stream, "KEPT", 1 << 16)
        monkeypatch.setattr(stream, "STALLED", 0.2)

        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")
            async with gateway.get("/api/v1/stream", viewer) as answer:
                hub = gateway.app[stream.HUB]
                await until(lambda: gateway.access._streams, "the stream")
                for n in range(4000):  # 16 MB: more than the sockets hold
                    hub.take(Change(n, 0.0, "unit", "big", "x" * 4096))
                    if n % 16 == 0:
                        await asyncio.sleep(0)
                await until(lambda: not gateway.access._streams, "disconnected")
                answer.close()
            assert hub.end - hub.begin < 20

        run(scenario)


async def _state(events, key, state, never=None):
    """Until a unit has come to this state; the id of that event."""
    async for name, data, id_ in events:
        assert name != never
        shown = json.loads(data)
        if name == "change" and (shown["kind"], shown["key"]) == ("unit", key) and shown["value"]["state"] == state:
            return id_
    raise pytest.fail.Exception("the stream has ended")
