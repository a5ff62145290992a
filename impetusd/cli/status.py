"""`impetusd status`, without click: the command that people type most must answer at once.

Measured on the reference machine: a bare python takes 10 ms, socket and json 10 more, click another 25.
"""

from __future__ import annotations

import os
import sys

from impetusd.cli import pending, place
from impetusd.cli.screen.terminal import plain, screen_of
from impetusd.client import control
from impetusd.core import protocol

LAST_WORDS = 6  # lines of what a failed slot wrote last; `start`, `describe` and `logs` show more

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from impetusd.cli.screen.terminal import Screen


def show(given: str | None, names: Sequence[str], *, as_json: bool) -> int:
    """Print the status; returns the exit code: 0 all wanted is up, 1 something is not (3, 4: raised by the client)."""
    here = place.find(given)
    screen = screen_of(sys.stdout, os.environ)
    hooks = control.Hooks(waiting=_waiting)
    try:
        answer = control.call(here.paths, "status", {"names": list(names)}, hooks)
    except control.NotRunning as error:
        from impetusd.cli import outcome

        raise outcome.not_running(here, error) from None
    noticed = pending.notice(here, answer)
    if answer.pop("in_force", None) is not None:
        answer["pending"] = noticed is not None
    if as_json:
        import json

        for row in answer["units"]:
            row["reason"] = protocol.reason_of(row)
        print(json.dumps(answer, indent=2 if screen.width is not None else None))
    else:
        from impetusd.cli.screen import table

        rows = answer["units"]
        lines = table.report(rows, screen, here.command, tails=LAST_WORDS)
        below = notes(answer, noticed, screen, here.command, lines)
        print("\n".join([*lines, *below]))
    return 0 if protocol.all_as_wanted(answer["units"]) and not answer.get("held") else 1


def notes(
    answer: Mapping[str, Any], noticed: tuple[str, str] | None, screen: Screen, command: str, lines: list[str]
) -> list[str]:
    """The lines below the table, after its own `lines`; the last of these is dropped if it would point to `why`
    twice."""
    told = [screen.paint(line, "yellow") for sentence in answer["attention"] for line in screen.wrap(plain(sentence))]
    if told:
        if lines and lines[-1].startswith(screen.arrow):  # the command to type is last
            del lines[-1]
        told.append(f"{screen.arrow} {command} why")
    if noticed:
        told += [screen.paint(line, "yellow") for line in screen.wrap(plain(noticed[0]))]
        told.append(f"{screen.arrow} {noticed[1]}")
    below = [f"profile {plain(answer['profile'])}"] if answer.get("profile") else []
    if gateway := answer.get("gateway"):
        scheme = "https" if gateway["tls"] else "http"
        tcp = [f"{scheme}://{address}/" for address in gateway["listen"] if not address.startswith("unix:")]
        below += [f"gateway {url}" for url in ([gateway["url"]] if gateway.get("url") else tcp)]
    return told + ([""] if below else []) + [screen.paint(screen.cut(plain(line)), "dim") for line in below]


def _waiting(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
