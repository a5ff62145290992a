"""The supervisor's part in alerts: silences, which are kept, requested tests, and the observer's report.

The observer sends the alerts. It sees all this in the row `daemon` of `watch`, as everybody does, under "alerts":
    names        of [alert:NAME] that are enabled
    silences     [{id, name, until, why, by}]; name is that of a unit, timer, group or alert, "" for everything; `until` Unix time
    tests        [{id, name, at, by}] that wait for a report
    report       the observer's last: {"undelivered": number, "recent": [...], "tests": {id: {"ok", "text"}}} and more
    reported     when that came, Unix time; 0: none since this supervisor began
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from impetusd.core.config import schema
from impetusd.core.protocol import EXIT_FAILED, EXIT_UNKNOWN_NAME, FAILED, ProtocolError
from impetusd.core.reasons import Reason, because

BLOB = "silences"  # in the shim's memory, and in state.json
MOST = 200  # silences
MOST_TESTS = 8  # that wait
TESTED_WITHIN = 60.0  # seconds for a test's result


class Alerting:
    """The control methods `silence`, `unsilence`, `alert-test` and `observer-report`."""

    def __init__(
        self,
        alerts: Collection[str],
        known: Callable[[], Collection[str]],
        *,
        runs: Callable[[], bool],
        changed: Callable[[], object],
        keep: Callable[[str], object],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`alerts`: names of those that are enabled. `known`: names that a silence may be about, besides those.

        `runs`: whether the observer does. `changed` has the row published; `keep` has the silences remembered.
        """
        self._alerts = list(alerts)
        self._known = known
        self._runs = runs
        self._changed = changed
        self._keep = keep
        self._now = now
        self._silences: list[dict[str, Any]] = []
        self._tests: dict[str, dict[str, Any]] = {}
        self._results: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._report: dict[str, Any] = {}
        self._reported = 0.0

    def row(self) -> dict[str, Any]:
        """The state that is published."""
        return {
            "names": self._alerts,
            "silences": self.silences(),
            "tests": list(self._tests.values()),
            "report": self._report,
            "reported": self._reported,
        }

    def silences(self) -> list[dict[str, Any]]:
        """The silences that have not expired."""
        now = self._now()
        if any(each["until"] <= now for each in self._silences):
            self._silences = [each for each in self._silences if each["until"] > now]
        return self._silences

    def attention(self) -> list[Reason]:
        """The part of `status` about alerts."""
        count = self._report.get("undelivered")
        return [because("undelivered", count=count)] if isinstance(count, int) and count > 0 else []

    def load(self, text: str) -> None:
        """Load what was remembered, without invalid parts. Raises ValueError."""
        found = json.loads(text)
        self._silences = [
            each
            for each in (found if isinstance(found, list) else ())
            if isinstance(each, dict)
            and all(isinstance(each.get(name), str) for name in ("id", "name", "why", "by"))
            and isinstance(each.get("until"), int | float)
        ][:MOST]

    def silence(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`by` is the requester. Raises ProtocolError."""
        name, now = params["name"], self._now()
        self._require(name, {*self._alerts, *self._known(), ""})
        if len(self.silences()) >= MOST:
            raise ProtocolError(
                FAILED,
                f"{MOST} silences are active, the maximum; end one first: impetusd silence --end ID",
                EXIT_FAILED,
            )
        number = 1 + max([0, *(int(each["id"]) for each in self._silences if each["id"].isdecimal())])
        made = {"id": str(number), "name": name, "until": round(now + params["seconds"], 3)}
        made |= {"why": params["why"], "by": params["by"]}
        self._set([*self._silences, made])
        return {"ok": True, "silence": made}

    def unsilence(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Remove a silence by its id. One that has expired or never existed is not an error."""
        left = [each for each in self.silences() if each["id"] != params["id"]]
        ended = len(left) != len(self._silences)
        self._set(left)
        return {"ok": True, "ended": ended}

    def _set(self, silences: list[dict[str, Any]]) -> None:
        self._silences = silences
        self._keep(json.dumps(silences, separators=(",", ":")))
        self._changed()

    async def test(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what became of it. Raises ProtocolError."""
        name = params["name"]
        self._require(name, self._alerts)
        if not self._runs():
            text = "the observer, which sends alerts, is not running; see: impetusd why observer"
            raise ProtocolError(FAILED, text, EXIT_FAILED)
        if len(self._tests) >= MOST_TESTS:
            raise ProtocolError(
                FAILED, f"too many test alerts in progress (limit: {MOST_TESTS}); try again later", EXIT_FAILED
            )
        now = self._now()
        key = f"{now:.6f}"
        self._tests[key] = {"id": key, "name": name, "at": round(now, 3), "by": params["by"]}
        result = self._results[key] = asyncio.get_running_loop().create_future()
        self._changed()
        try:
            async with asyncio.timeout(TESTED_WITHIN):
                told = await result
        except TimeoutError:
            text = f"alert {name}: no result within {TESTED_WITHIN:g} s; see its log: impetusd logs observer"
            raise ProtocolError(FAILED, text, EXIT_FAILED) from None
        finally:
            del self._tests[key], self._results[key]
            self._changed()
        return {"ok": told.get("ok") is True, "name": name, "text": str(told.get("text", ""))[:1000]}

    def report(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """From the observer: it takes the place of the one before."""
        self._report, self._reported = params["report"], round(self._now(), 3)
        results = self._report.get("tests")
        for key, told in (results if isinstance(results, dict) else {}).items():
            waiting = self._results.get(key)
            if waiting is not None and not waiting.done() and isinstance(told, dict):
                waiting.set_result(told)
        self._changed()
        return {"ok": True}

    @staticmethod
    def _require(name: str, known: Collection[str]) -> None:
        if name not in known:
            names = sorted(filter(None, known))
            near = schema.nearest(name, names)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(names[:50]) or 'none'}"
            raise ProtocolError(FAILED, f"no unit, timer, group or alert '{name}'; {hint}", EXIT_UNKNOWN_NAME)
