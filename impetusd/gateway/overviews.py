"""What another host's gateway has answered, as its overview: counts, the units, worst first, and what is wrong. Pure.

The answers are hostile until they are read: their values are counted before anything is made of them, numbers must be such as
JSON can say, texts become one line of what can be printed, and of everything a bounded number is kept.
"""

from __future__ import annotations

import json
from typing import Any

from impetusd.core.protocol import as_wanted
from impetusd.probe import one_line

VALUES = 250_000  # of one answer: reading so many takes 25 MB and 40 ms; 500 units have 15,000
UNITS, INCIDENTS, NAMES = 100, 5, 3  # that are kept of one host, and of one incident
LATEST = 1e11  # Unix time
WORST = ("FATAL", "BACKOFF", "STARTING", "STOPPING", "STOPPED", "RUNNING", "EXITED")  # of what is not as wanted
FOREIGN = "the response is not from an impetusd gateway"


class Unreadable(Exception):
    """It is no overview; the message is a clause."""


def overview(snapshot: bytes) -> dict[str, Any]:
    """{"version", "live", "all", "wrong", "units"} of the answer to /api/v1/snapshot. Raises Unreadable.

    `wrong` of `all` slots are not as wanted; `units` are the first of them, worst first, each {"name", "state", "want",
    "wrong", "reason"}.
    """
    try:
        found = _read(snapshot)
        slots = [_slot(row) for row in found["rows"]["unit"].values()]
        version = _line(found["rows"]["daemon"].get("", {}).get("version", ""))
        live = found["live"] is True
    except (LookupError, TypeError, AttributeError):
        raise Unreadable(FOREIGN) from None
    slots.sort(key=lambda slot: (not slot["wrong"], WORST.index(slot["state"]) if slot["wrong"] else 0, slot["name"]))
    wrong = sum(slot["wrong"] for slot in slots)
    return {"version": version, "live": live, "all": len(slots), "wrong": wrong, "units": slots[:UNITS]}


def cards(incidents: bytes) -> dict[str, Any]:
    """{"incidents", "more"} of the answer to /api/v1/incidents. Raises Unreadable.

    The first ones, each {"text", "units", "all", "since", "error"}, and how many there are besides; `units` are the first of
    `all` that it concerns.
    """
    try:
        found = _read(incidents)["incidents"]
        return {"incidents": list(map(_incident, found[:INCIDENTS])), "more": max(0, len(found) - INCIDENTS)}
    except (LookupError, TypeError, AttributeError):
        raise Unreadable(FOREIGN) from None


def _read(data: bytes) -> dict[str, Any]:
    if sum(map(data.count, (b",", b"[", b"{"))) > VALUES:
        raise Unreadable("the response has too many values")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable("the response is not JSON") from None
    if not isinstance(found, dict):
        raise TypeError
    return found


def _slot(row: dict[str, Any]) -> dict[str, Any]:
    name, state, want = _line(row["name"]), row["state"], row["want"]
    if state not in WORST or want not in {"up", "down"} or not name:
        raise TypeError
    wrong = not as_wanted(row)
    return {"name": name, "state": state, "want": want, "wrong": wrong, "reason": _line(row["reason"] if wrong else "")}


def _incident(card: dict[str, Any]) -> dict[str, Any]:
    since = card["since"]
    sane = isinstance(since, int | float) and not isinstance(since, bool) and 0 < since < LATEST
    return {
        "text": _line(card["cause"]["text"]),
        "units": list(map(_line, card["units"][:NAMES])),
        "all": len(card["units"]),
        "since": since if sane else None,
        "error": card["severity"] == "error",
    }


def _line(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError
    return one_line(text)
