"""The progress of a job as server-sent events, over HTTP, while a worker does it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from served import Person, served
from server import run
from test_jobs import EXPORT, working
from waiting import until

from impetus_service.job_kinds import KINDS
from impetus_service.kit import job_events
from impetus_service.kit.job_kinds import Run
from impetusd.worker.draining import DRAINING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import ClientResponse


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setattr(job_events, "LOOK_EVERY", 0.01)
    monkeypatch.setattr("impetus_service.kit.job_kinds.PROGRESS_EVERY", 0.0)
    monkeypatch.setenv("JOB_FILES_DIR", str(tmp_path))


@asynccontextmanager
async def watching(person: Person, job: int) -> AsyncIterator[ClientResponse]:
    headers = {"Authorization": f"Bearer {person.token}"}
    async with person.served.client.get(f"/api/jobs/{job}/events", headers=headers) as response:
        yield response


async def event(response: ClientResponse) -> tuple[str, Any] | None:
    """The next (name, data); None at the end."""
    name = ""
    async for line in response.content:
        if line.startswith(b"event: "):
            name = line[7:].decode().strip()
        elif line.startswith(b"data: "):
            return name, json.loads(line[6:])
    return None


async def export_job(person: Person) -> int:
    return (await person("POST", "/api/jobs/exports", json=EXPORT))[1]["id"]


def test_each_change_is_an_event_and_the_last_says_that_it_has_ended(database, monkeypatch):
    async def main() -> None:
        steps = asyncio.Queue[int]()

        async def by_steps(run: Run, _wanted: Any) -> str:
            while (percent := await steps.get()) < 100:
                await run.progress(percent, 100)
            return "done"

        monkeypatch.setitem(KINDS, "export", replace(KINDS["export"], do=by_steps))
        async with served(database) as service:
            admin = await service.administrator()
            job = await export_job(admin)
            async with watching(admin, job) as response:
                assert (response.status, response.content_type) == (200, "text/event-stream")
                assert response.headers["X-Accel-Buffering"] == "no"
                name, first = await event(response)
                assert (name, first["id"], first["state"], first["progress"]) == ("progress", job, "queued", 0)
                async with working():
                    assert (await event(response))[1]["state"] == "running"
                    for percent in (30, 60):
                        steps.put_nowait(percent)
                        assert (await event(response))[1]["progress"] == percent
                    async with watching(admin, job) as late:  # comes later, and misses nothing
                        assert (await event(late))[1]["progress"] == 60
                        steps.put_nowait(100)
                        for stream in (response, late):
                            name, last = await event(stream)
                            assert (name, last["state"], last["progress"]) == ("end", "succeeded", 100)
                            assert await event(stream) is None
            async with watching(admin, job) as response:
                assert (await event(response))[0] == "end"
                assert await event(response) is None

    run(main())


def test_a_stream_ends_with_its_session_and_when_the_worker_drains(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            job, other = await export_job(admin), await service.log_in(admin.email)
            async with watching(admin, job) as response, watching(other, job) as second:
                assert await event(response)
                assert await event(second)
                assert (await admin("POST", "/api/auth/logout"))[0] == 204
                assert await event(response) is None
                assert (await other("POST", f"/api/jobs/{job}/cancel"))[0] == 200
                assert (await event(second))[1]["state"] == "cancelled"
            job = await export_job(other)
            async with watching(other, job) as response:
                assert await event(response)
                service.app[DRAINING].set()
                assert await event(response) is None

    run(main())


def test_a_stream_is_for_who_may_see_the_job_and_its_number_is_bounded(database, monkeypatch):
    async def main() -> None:
        monkeypatch.setattr(job_events, "STREAMS", asyncio.Semaphore(1))
        async with served(database) as service:
            admin, stranger = await service.administrator(), await service.administrator()
            job = await export_job(admin)
            member = await service.colleague(admin)
            for person in (stranger, member):
                assert (await person("GET", f"/api/jobs/{job}/events"))[0] == 404
            async with watching(admin, job) as response:
                assert await event(response)
                async with watching(admin, job) as refused:
                    assert (refused.status, "Retry-After" in refused.headers) == (503, True)
            await until(lambda: not job_events.STREAMS.locked())  # the client that has left is found

    run(main())
