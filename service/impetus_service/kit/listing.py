"""A page of a list as routes answer it: the rows, how many there are in all, and the cursor of the next page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from impetus_service.kit.db import Company
from impetus_service.kit.paging import Cursor, Page, Paged, Pagination
from impetus_service.kit.problems import Fault
from impetus_service.kit.statements import COUNTED, Listing
from impetus_service.kit.validation import refusal

Item = TypeVar("Item", bound=msgspec.Struct)


async def listed(
    company: Company,
    listing: Listing,
    given: Mapping[str, Any],
    page: Page,
    kind: type[Item],
    *,
    order: str = "",
) -> Paged[Item]:
    """The `page` of what `given` (condition to value, None where there is none) leaves of a company's rows.

    Newest first, or in an `order` of the listing. Raises Problem 422 for a cursor of another order.
    """
    after = _place(listing, page, order)
    query, arguments = listing.count(given, COUNTED)
    total = await company.fetchval(query, *arguments)
    rows = []
    exact = total <= COUNTED
    if not exact or total > page.offset:  # else there is nothing to walk over to
        wanted = page.limit + 1, page.offset  # one more: do others follow?
        if order:
            query, arguments = listing.page(given, after, *wanted, order)
        else:
            query, arguments = listing.weighed_page(given, after, *wanted)
        rows = await company.fetch(query, *arguments)
    there = rows[0]["there"] if rows and listing.weight else len(rows)
    rows = rows[: page.limit]
    more, limit = there > len(rows), len(rows) if there > len(rows) else page.limit
    cursor = str(Cursor(rows[-1]["place" if order else "created_at"], rows[-1]["id"], order)) if more else None
    names = kind.__struct_fields__
    return Paged(
        [kind(**{name: row[name] for name in names}) for row in rows],
        Pagination(min(total, COUNTED), exact, limit, page.offset, cursor),
    )


def _place(listing: Listing, page: Page, order: str) -> tuple[Any, int] | None:
    """What the page comes after."""
    after = page.after
    if after is None:
        return None
    try:
        if after.order != order:
            raise ValueError
        return listing.orders[order].read(str(after.key)) if order else after.key, after.id
    except ValueError:
        raise refusal([Fault("query.cursor", "bad_format", "must belong to a list with the same order")]) from None
