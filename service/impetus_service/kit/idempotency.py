"""A POST that may be sent twice and is done once: by an Idempotency-Key, which a client chooses for each thing that it wants.

The key, what was asked for and the answer are written in the transaction that does it. So whoever sends the same again, as
its answer was lost, gets that answer, also while the first is still under way; and one that failed can be tried again. A key
is of one user. After IDEMPOTENCY_HOURS it is forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from impetus_service.kit.caller import Caller
from impetus_service.kit.db import Change
from impetus_service.kit.problems import Fault, Problem
from impetus_service.kit.statements import CompanyQuery
from impetus_service.kit.validation import Input, refusal, to_builtins

LIFETIME = web.AppKey("impetus.idempotency", timedelta)  # of a key
REPLAYED = "Idempotent-Replayed"  # header of an answer that is given again

Made = TypeVar("Made", bound=msgspec.Struct)

# Nothing where the key is one of a request of before; that one may just be under way: then it is waited for.
TAKE = CompanyQuery("""
INSERT INTO idempotency_keys AS known (company_id, user_id, key, request, expires_at)
VALUES ($1, $2, $3, $4, now() + $5::interval)
ON CONFLICT (company_id, user_id, key) DO UPDATE
    SET request = excluded.request, answer = NULL, expires_at = excluded.expires_at WHERE known.expires_at <= now()
RETURNING key
""")
KEPT = CompanyQuery("""
SELECT request = $4 AS same, answer FROM idempotency_keys WHERE company_id = $1 AND user_id = $2 AND key = $3
""")
KEEP = CompanyQuery("UPDATE idempotency_keys SET answer = $4 WHERE company_id = $1 AND user_id = $2 AND key = $3")


class IdempotencyHeaders(Input, rename={"key": "Idempotency-Key"}):
    """Two requests of a user with the same key are one."""

    key: (
        Annotated[
            str,
            Meta(pattern=r"^[ -~]{1,200}$", description="1 to 200 printable characters of ASCII", examples=["order-7"]),
        ]
        | None
    ) = None


async def once(
    request: web.Request, me: Caller, key: str | None, asked: Input, do: Callable[[Change], Awaitable[Made]]
) -> Made | web.Response:
    """What `do` makes in a transaction of its own, or what it has made for the `key` before, as an answer with status 201.

    Raises Problem 422 when the key was used for something else.
    """
    async with me.company.transaction() as change:
        if key is None:
            return await do(change)
        wanted = f"{request.method} {request.path}\n".encode() + msgspec.json.encode(asked, enc_hook=to_builtins)
        digest, lifetime = hashlib.sha256(wanted).digest(), request.app[LIFETIME]
        if await change.fetchval(TAKE, me.user_id, key, digest, lifetime) is not None:
            made = await do(change)
            await change.execute(KEEP, me.user_id, key, msgspec.json.encode(made))
            return made
        kept = await change.fetchrow(KEPT, me.user_id, key, digest)
    if kept is None:
        raise Problem(409, "the record of that Idempotency-Key has just expired; send the request again")
    if not kept["same"]:
        raise key_in_use()
    return web.Response(body=kept["answer"], status=201, content_type="application/json", headers={REPLAYED: "true"})


def key_in_use() -> Problem:
    """The 422 for a key that stands for another request."""
    message = "already belongs to another request; use a new one"
    return refusal([Fault("headers.Idempotency-Key", "key_in_use", message)])
