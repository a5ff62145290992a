"""Which part of a list a request wants: `limit` and `offset`, which are never an error, or a cursor for deep pages.

An offset makes the server walk over all the rows that it skips; a cursor, the `next` of the page before, goes straight
to its place, and no row is seen twice when others are added meanwhile.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec

from impetus_service.kit.problems import Fault, Problem

NAMES = ("limit", "offset", "cursor")  # of the query parameters
LIMIT_DEFAULT, LIMIT_MAX = 100, 500
YEARS = (1970, 9998)  # of a row that can be there: what the driver can move to any time zone
OFFSET_MAX = 2**63 - 1  # what PostgreSQL's bigint holds

Item = TypeVar("Item")


def clamp(text: str | None, default: int, lowest: int, highest: int) -> int:
    """The number in `text`, cut to a whole one and moved into lowest…highest; `default` for what is no number."""
    try:
        return int(min(max(float(text or "nan"), lowest), highest))
    except ValueError:  # also int()'s about nan
        return default


@dataclass(frozen=True)
class Cursor:
    """The place right after a row: in a list ordered by created_at and id, newest first, or in another `order`, whose value
    is `key`."""

    key: datetime | str
    id: int
    order: str = ""

    def __str__(self) -> str:
        key = self.key.isoformat() if isinstance(self.key, datetime) else self.key
        text = msgspec.json.encode([self.order, key, self.id]) if self.order else f"{key}/{self.id}".encode()
        return base64.urlsafe_b64encode(text).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> Cursor:
        """From what str() gave. Raises ValueError for anything else."""
        padded = text + "=" * (-len(text) % 4)
        try:
            decoded = base64.b64decode(padded, altchars=b"-_", validate=True)
            if decoded.startswith(b"["):
                order, key, number = msgspec.json.decode(decoded, type=tuple[str, str, int])
                cursor, usable = cls(key, number, order), order != "" and "\0" not in key
            else:
                created_at, _, digits = decoded.decode().partition("/")
                instant = datetime.fromisoformat(created_at)
                cursor = cls(instant, int(digits))
                usable = instant.tzinfo is not None and YEARS[0] <= instant.astimezone(UTC).year <= YEARS[1]
        except (ValueError, OverflowError, binascii.Error, msgspec.MsgspecError):
            raise ValueError("must be the `next` of an earlier response") from None
        if not usable or not 0 < cursor.id < 2**63 or str(cursor) != text:
            raise ValueError("must be the `next` of an earlier response")
        return cursor


@dataclass(frozen=True)
class Page:
    """The part that is wanted. With a cursor `after`, the offset counts from there."""

    limit: int = LIMIT_DEFAULT
    offset: int = 0
    after: Cursor | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Page:
        """From a request's query, where the first of several counts. Raises Problem 422 for a cursor that is none."""
        text = query.get("cursor")
        try:
            after = Cursor.read(text) if text else None
        except ValueError as error:
            fault = Fault("query.cursor", "bad_format", str(error))
            raise Problem(422, f"the request has a mistake: query.cursor: {error}", errors=[fault]) from None
        return cls(
            clamp(query.get("limit"), LIMIT_DEFAULT, 1, LIMIT_MAX),
            clamp(query.get("offset"), 0, 0, OFFSET_MAX),
            after,
        )


class Pagination(msgspec.Struct):
    """`total` counts all rows that match, up to a bound: beyond it, `total` is that bound and `exact` false. `limit`
    is that of this page: less than was asked for when its texts are long (PAGE_BYTES), so an offset goes on from offset +
    limit. `next` is the cursor of the page that follows; null on the last one."""

    total: int
    exact: bool
    limit: int
    offset: int
    next: str | None


class Paged(msgspec.Struct, Generic[Item]):
    """One page of a list, newest first unless another order was asked for."""

    items: list[Item]
    pagination: Pagination


def parameters() -> list[dict[str, Any]]:
    """What OpenAPI says of the query parameters that every list takes."""
    return [
        {
            "name": "limit",
            "in": "query",
            "description": "Values out of range are replaced by the nearest allowed value; invalid values by the default.",
            "schema": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
        },
        {
            "name": "offset",
            "in": "query",
            "description": "Same rules as for limit. For deep pages, use cursor.",
            "schema": {"type": "integer", "minimum": 0, "default": 0},
        },
        {
            "name": "cursor",
            "in": "query",
            "description": "The `next` of the previous page.",
            "schema": {"type": "string"},
        },
    ]
