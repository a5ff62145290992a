"""The ledger as the command line reads it: asked of the daemon, which has what its disk has not taken yet, too; where none
runs, from the files.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from impetusd.cli.failure import Failure
from impetusd.client import control
from impetusd.files import ledgerfile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from impetusd.core.config.location import Paths
    from impetusd.files.ledgerfile import Page, Query

AGAIN = 0.5  # seconds between two looks at the files, while no daemon runs


def ask(paths: Paths, query: Query, *, wait: bool = False) -> tuple[Page, bool]:
    """One page, and whether a daemon gave it. With `wait` it waits a while for a record after number `query.after`."""
    params: dict[str, Any] = {"names": list(query.names), "after": query.after, "since": int(query.since)}
    try:
        answer = control.call(paths, "events", {**params, "last": query.last, "wait": wait})
    except control.NotRunning:
        return from_files(paths, query), False
    page = ledgerfile.Page(answer["records"], answer["last"], answer["more"], answer.get("damaged", 0))
    return page, True


def from_files(paths: Paths, query: Query) -> Page:
    """One page out of state_dir. Failure if it may not be read."""
    path = f"{paths.state_dir}/{ledgerfile.NAME}"
    try:
        return ledgerfile.page(path, query)
    except OSError as error:
        raise Failure(f"cannot read the ledger {path}: {error.strerror}") from None


def records(paths: Paths, query: Query, *, follow: bool = False) -> Iterator[list[dict[str, Any]]]:
    """Everything that `query` asks for, page by page; with `follow` what comes next, too, for ever."""
    page, running = ask(paths, query)
    if page.damaged:
        print(f"impetusd: {page.damaged} damaged lines of the ledger were skipped", file=sys.stderr)
    yield page.records
    while page.more or follow:
        query = query._replace(after=page.last, last=0)
        if not (page.more or running):
            time.sleep(AGAIN)
        page, running = ask(paths, query, wait=not page.more)
        yield page.records
