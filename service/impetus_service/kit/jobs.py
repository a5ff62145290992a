"""Jobs over HTTP: to ask for one, to see how far it is, to fetch what it has made, to cancel it, to have it tried again.

A web worker only writes rows: job workers (job_worker.py) take them up. Of a company's jobs its administrators see all, the
others their own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from aiohttp import web

from impetus_service.kit import job_queries as queries
from impetus_service.kit.api import Api, Id, Identified
from impetus_service.kit.caller import Caller, Rank
from impetus_service.kit.db import Database
from impetus_service.kit.formats import CONTENT_TYPES
from impetus_service.kit.idempotency import IdempotencyHeaders, key_in_use
from impetus_service.kit.job_kinds import Kind
from impetus_service.kit.listing import listed
from impetus_service.kit.paging import Page, Paged
from impetus_service.kit.problems import Problem, not_found
from impetus_service.kit.request_id import JOB_ID, REQUEST_ID
from impetus_service.kit.validation import Input, Moment, to_builtins

ENDED = frozenset({"succeeded", "failed", "cancelled"})
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FOLDER = web.AppKey("impetus.jobs.folder", str)  # where the files are that jobs make

api = Api("jobs")


class JobSummary(Identified, kw_only=True):
    """`progress` is in percent. `has_file` says that /file has what it has made."""

    user_id: int | None
    kind: str
    state: State
    progress: int
    attempt: int
    error: str | None
    has_file: bool
    request_id: str | None
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None


class Job(JobSummary, kw_only=True):
    """With what was asked for, but for lists, which may be long, and the result once it has succeeded."""

    parameters: msgspec.Raw
    result: msgspec.Raw


class JobPath(Input):
    id: Id


def api_of(kinds: Mapping[str, Kind]) -> Api:
    """All routes of jobs, where there are these kinds of them."""
    of_kinds = Api("jobs")
    for kind in kinds.values():
        _declare(of_kinds, kind)
    filters = msgspec.defstruct(
        "JobFilters",
        [("state", State | None, None), ("kind", Literal[tuple(kinds)] | None, None)],
        bases=(Input,),
        forbid_unknown_fields=True,
    )

    async def list_jobs(me: Caller, query: Any, page: Page) -> Paged[JobSummary]:
        """Jobs, newest first. The dead letters are those of state=failed."""
        given = {"user": _only(me), "state": query.state, "kind": query.kind}
        return await listed(me.company, queries.LISTING, given, page, JobSummary)

    list_jobs.__annotations__["query"] = filters
    of_kinds.get("/api/jobs", entity="job")(list_jobs)
    of_kinds.operations += api.operations
    return of_kinds


def _declare(of_kinds: Api, kind: Kind) -> None:
    """The route that takes jobs of a kind."""

    async def start(me: Caller, body: Input, headers: IdempotencyHeaders) -> Job | web.Response:
        return await _add(me, headers.key, kind.name, body)

    start.__name__, start.__doc__ = f"start_{kind.name}", kind.do.__doc__
    start.__annotations__["body"] = kind.parameters
    of_kinds.post(
        kind.path,
        status=202,
        rank=kind.rank,
        entity="job",
        raises=(409,),
        body_max=kind.body_max,
        headers=("Location",),
    )(start)


@api.get("/api/jobs/{id}", entity="job", raises=(404,))
async def get_job(me: Caller, path: JobPath) -> Job:
    """How far a job is, and its result or error."""
    row = await me.company.fetchrow(queries.GET, path.id, _only(me))
    if row is None:
        raise not_found("job")
    return _job(row)


@api.get(
    "/api/jobs/{id}/file",
    entity="job_file",
    raises=(404, 410),
    content_types=tuple(CONTENT_TYPES.values()),
    headers=("Content-Disposition",),
)
async def get_job_file(me: Caller, path: JobPath, request: web.Request) -> web.StreamResponse:
    """The file that a job has made; Range is understood."""
    row = await me.company.fetchrow(queries.FILE, path.id, _only(me))
    if row is None:
        raise not_found("file of a job")
    name = row["file"]
    suffix = name.rpartition(".")[2]
    place = os.path.join(request.app[FOLDER], name)
    if not await asyncio.to_thread(os.path.exists, place):
        raise Problem(410, "the file no longer exists")
    response = web.FileResponse(place, chunk_size=262_144)
    response.content_type = CONTENT_TYPES[suffix]
    response.headers["Content-Disposition"] = f'attachment; filename="{row["kind"]}-{path.id}.{suffix}"'
    return response


@api.post("/api/jobs/{id}/cancel", entity="job", action="job.cancel", raises=(404, 409))
async def cancel_job(me: Caller, path: JobPath) -> Job:
    """Cancel what waits or runs; a worker that is at it stops within seconds."""
    async with me.company.transaction() as change:
        row = await change.fetchrow(queries.CANCEL, path.id, _only(me))
        if row is not None:
            change.record(path.id, f"at {row['progress']} %", severity="warning")
            JOB_ID.set(path.id)
    return _job(row) if row is not None else await _as_it_is(me, path, "cancelled")


@api.post("/api/jobs/{id}/requeue", entity="job", action="job.requeue", raises=(404, 409))
async def requeue_job(me: Caller, path: JobPath) -> Job:
    """Have a job that failed tried again, from the beginning."""
    async with me.company.transaction() as change:
        row = await change.fetchrow(queries.REQUEUE, path.id, _only(me))
        if row is not None:
            change.record(path.id)
            JOB_ID.set(path.id)
    return _job(row) if row is not None else await _as_it_is(me, path, "queued")


class Backlog(msgspec.Struct):
    """Of all companies. `oldest_s` is how long the first in line has waited, in seconds; 0 when nobody waits."""

    queued: int
    running: int
    failed: int
    oldest_s: float


async def backlog(database: Database) -> Backlog:
    """What there is to do, for /health."""
    return Backlog(**await database.fetchrow(queries.BACKLOG))


async def _add(me: Caller, key: str | None, kind: str, body: Input) -> web.Response:
    """202 with the job: a new one, or the one that has the Idempotency-Key `key` already."""
    parameters = msgspec.json.encode(body, enc_hook=to_builtins).decode()
    async with me.company.transaction() as change:
        row = await change.fetchrow(queries.ADD, me.user_id, kind, parameters, key, REQUEST_ID.get() or None)
        if row is not None:
            change.record(row["id"], f"kind {kind}")
    if row is None:
        row = await me.company.fetchrow(queries.BY_KEY, me.user_id, key, kind, parameters)
        if row is None:
            raise Problem(409, "the job of that Idempotency-Key has just been removed; send the request again")
        if not row["same"]:
            raise key_in_use()
    job = _job(row)
    JOB_ID.set(job.id)
    return web.Response(
        body=msgspec.json.encode(job),
        status=202,
        content_type="application/json",
        headers={"Location": f"/api/jobs/{job.id}"},
    )


async def summary_of(me: Caller, job: int) -> JobSummary:
    """The job as a list shows it. Raises Problem 404."""
    row = await me.company.fetchrow(queries.SUMMARY, job, _only(me))
    if row is None:
        raise not_found("job")
    return JobSummary(**row)


async def _as_it_is(me: Caller, path: JobPath, wanted: State) -> Job:
    """A job that could not be changed, since it is as wanted already. Raises Problem 404 or 409."""
    row = await me.company.fetchrow(queries.GET, path.id, _only(me))
    if row is None:
        raise not_found("job")
    if row["state"] != wanted:
        raise Problem(409, f"the job is {row['state']}", "job_state")
    return _job(row)


def _only(me: Caller) -> int | None:
    """The user whose jobs are all that the caller sees; None for an administrator."""
    return None if me.level >= Rank.ADMINISTRATOR else me.user_id


def _job(row: Any) -> Job:
    fields = {name: row[name] for name in Job.__struct_fields__}
    for name in ("parameters", "result"):
        fields[name] = msgspec.Raw((fields[name] or "null").encode())
    return Job(**fields)
