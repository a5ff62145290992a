"""A page of a list as routes answer it: the rows, how many there are in all, and the cursor of the next page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from impetus_service.db import Company
from impetus_service.paging import Cursor, Page, Paged, Pagination
from impetus_service.queries.listing import COUNTED, Listing

Item = TypeVar("Item", bound=msgspec.Struct)


async def listed(
    company: Company, listing: Listing, given: Mapping[str, Any], page: Page, kind: type[Item]
) -> Paged[Item]:
    """The `page` of what `given` (condition to value, None where there is none) leaves of a company's rows."""
    query, arguments = listing.count(given, COUNTED)
    total = await company.fetchval(query, *arguments)
    rows = []
    exact = total <= COUNTED
    if not exact or total > page.offset:  # else there is nothing to walk over to
        after = (page.after.created_at, page.after.id) if page.after else None
        query, arguments = listing.page(given, after, page.limit + 1, page.offset)  # one more tells whether more follow
        rows = await company.fetch(query, *arguments)
    more, rows = len(rows) > page.limit, rows[: page.limit]
    cursor = str(Cursor(rows[-1]["created_at"], rows[-1]["id"])) if more else None
    return Paged(
        [kind(**row) for row in rows],
        Pagination(min(total, COUNTED), exact, page.limit, page.offset, cursor),
    )
