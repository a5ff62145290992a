"""The notifications of `watch` and `tail`, one JSON-RPC notification per line. Pure; used by both sides.

The answer to `watch` is {"life", "n", "resumed"}. Unless it is a resumed one, "row" lines follow with the present state
of everything, then "complete" with the number `n` that it is as of. From there on "change" lines, numbered without a
gap: `n`, `at` (Unix time), `kind`, `key` and `value` (null: it is gone). "alive" is sent when nothing else was sent for
a while.

Kinds: unit (a row as in `status`; the key is the slot's own name), timer, check, reload (rows as in `timers`, `health`
and `reload`), daemon (attention, troubles, held, behind, profile), ledger (a record; never part of a snapshot), usage
(by slot: bytes of memory, percent of a core). A row is sent when more than a clock or a probe's duration has changed in
it.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeAlias

    Rows: TypeAlias = dict[str, dict[str, Any]]  # by kind, then by key

ROW, COMPLETE, CHANGE, ALIVE, LINES = "row", "complete", "change", "alive", "lines"
UNIT, TIMER, CHECK, RELOAD, DAEMON, LEDGER, USAGE = "unit", "timer", "check", "reload", "daemon", "ledger", "usage"
_HEAD = b'{"jsonrpc":"2.0","method":"%s","params":{%s'


class OutOfStep(Exception):
    """The stream is inconsistent: a number is missing, or `watch` does not send such a line."""


def body(at: float, kind: str, key: str, value: str) -> bytes:
    """The common end of a row's line and a change's line; `value` is JSON already."""
    form = b'"at":%.3f,"kind":"%b","key":%b,"value":%b}}\n'
    return form % (at, kind.encode(), json.dumps(key).encode(), value.encode())


def row_line(common: bytes) -> bytes:
    """A row of a snapshot."""
    return _HEAD % (ROW.encode(), common)


def change_line(n: int, common: bytes) -> bytes:
    """Change number `n`."""
    return _HEAD % (CHANGE.encode(), b'"n":%d,%s' % (n, common))


def mark_line(what: str, n: int) -> bytes:
    """COMPLETE or ALIVE, as of number `n`."""
    return _HEAD % (what.encode(), b'"n":%d}}\n' % n)


def lines_line(page: Mapping[str, Any]) -> bytes:
    """What `tail` sends to one who follows: as its answer, without the path."""
    return json.dumps({"jsonrpc": "2.0", "method": LINES, "params": page}, separators=(",", ":")).encode() + b"\n"


class Change:
    """One change, or what a client adds: "snapshot", that everything was sent anew (`value`: whether changes may have been
    missed), "lost" (the connection; `value`: how) and "resumed".
    """

    __slots__ = ("at", "key", "kind", "n", "value")

    def __init__(self, n: int, at: float, kind: str, key: str, value: Any) -> None:
        self.n = n
        self.at = at
        self.kind = kind
        self.key = key
        self.value = value


def put(rows: Rows, at: float, kind: str, key: str, value: Any) -> None:
    """Bring `rows` up to date with one row or change. Raises KeyError, TypeError, AttributeError for what is neither."""
    if kind == USAGE:
        units = rows.get(UNIT, {})
        for name, (memory, cpu) in value.items():
            if name in units:
                units[name]["memory_bytes"], units[name]["cpu_percent"] = memory, cpu
    elif value is None:
        rows.get(kind, {}).pop(key, None)
    elif kind != LEDGER:
        rows.setdefault(kind, {})[key] = {**value, "at": at} if kind == UNIT else value


class Mirror:
    """A watcher's state: `rows` by kind and key, as of number `n` of the supervisor's life `life`.

    Rows of units carry `at`, as of when their `uptime_s` is; memory and CPU are brought up to date in them.
    """

    def __init__(self) -> None:
        self.life, self.n = "", 0
        self.rows: Rows = {}
        self._coming: tuple[str, Rows] | None = None  # a snapshot that is not complete yet, and of which life
        self._seen = False  # whether there was one before

    def begin(self, result: Mapping[str, Any]) -> Change | None:
        """A connection's answer to `watch`; of kind "resumed" if it goes on where the one before has ended."""
        resumed = bool(result.get("resumed"))
        if resumed and (result.get("life"), result.get("n")) != (self.life, self.n):
            raise OutOfStep("resumed at the wrong position")
        self._coming = None if resumed else (str(result.get("life")), {})
        return Change(self.n, 0.0, "resumed", "", None) if resumed else None

    def take(self, method: str, params: Mapping[str, Any]) -> Change | None:
        """Apply one notification; return its change, if any. OutOfStep: reconnect."""
        try:
            if method == ROW and self._coming is not None:
                put(self._coming[1], params["at"], params["kind"], params["key"], params["value"])
            elif method == COMPLETE and self._coming is not None:
                (self.life, self.rows), self._coming, self.n = self._coming, None, params["n"]
                missed, self._seen = self._seen, True
                return Change(self.n, 0.0, "snapshot", "", missed)
            elif method == CHANGE and self._coming is None:
                return self._change(params)
            elif method != ALIVE:
                raise OutOfStep(f"{method} was not expected here")
        except (KeyError, TypeError, AttributeError) as error:
            raise OutOfStep(f"{method} cannot be read: {error!r}") from None
        return None

    def _change(self, params: Mapping[str, Any]) -> Change:
        if params["n"] != self.n + 1:
            raise OutOfStep(f"message number {params['n']} came after {self.n}")
        change = Change(params["n"], params["at"], params["kind"], params["key"], params["value"])
        put(self.rows, change.at, change.kind, change.key, change.value)
        self.n = change.n
        return change
