"""GET /metrics in Prometheus's text format, from `watch` and the control method `metrics`.

Written by hand: 7,500 lines take 5 ms. Nothing in it waits for a program; of a pool's worker that is stuck there is what it had
measured. Values are in seconds and bytes, names as Prometheus wants them; `promtool check metrics` is the judge in the tests.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import web

from impetusd.client.control import Unanswered
from impetusd.core.protocol import VIEWER
from impetusd.core.rules.lifecycle import State
from impetusd.core.stream import CHECK, DAEMON, TIMER, UNIT
from impetusd.gateway.backend import Backend
from impetusd.gateway.caller import Caller
from impetusd.gateway.keys import SETTINGS
from impetusd.gateway.routes import CALLER, Route

if TYPE_CHECKING:
    from impetusd.core.stream import Rows

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FRESH = 0.5  # seconds
Samples: TypeAlias = Iterable[tuple[str, float | int | None]]  # labels as they are written, and the value

_STATES = tuple(state.name for state in State)
_PROBED = {"healthy": 1, "failing": 0, "unhealthy": 0}  # states of a check that was answered


class Metrics:
    """What is asked for again within FRESH seconds is not made again: a page that many ask for costs as one."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._turn = asyncio.Lock()
        self._made = (float("-inf"), "")  # monotonic

    async def page(self, caller: Caller | None) -> str:
        """For `caller`, None where they are open. Raises ControlError where the supervisor does not answer, or the watch is lost."""
        async with self._turn:
            if time.monotonic() - self._made[0] > FRESH:
                counted = await self._backend.call("metrics", {}, caller)
                if not self._backend.live:
                    raise Unanswered("the gateway has lost its connection to the supervisor and is reconnecting")
                self._made = time.monotonic(), text(self._backend.mirror.rows, counted)
            return self._made[1]


METRICS = web.AppKey("impetusd.metrics", Metrics)


def install(app: web.Application, backend: Backend) -> None:
    """Have the app know them."""
    app[METRICS] = Metrics(backend)


async def handle(request: web.Request) -> web.Response:
    """GET /metrics."""
    return web.Response(
        body=(await request.app[METRICS].page(request.get(CALLER))).encode(), headers={"Content-Type": CONTENT_TYPE}
    )


def is_open(request: web.Request) -> bool:
    """Whether whoever asks may have them without a token: metrics = open, of a loopback address; not by way of a proxy."""
    settings = request.app[SETTINGS]
    if settings.metrics != "open" or (settings.behind_proxy and not settings.socket):
        return False
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return isinstance(name, tuple) and ipaddress.ip_address(name[0]).is_loopback


def text(rows: Rows, counted: Mapping[str, Any]) -> str:
    """Everything. `rows` as of a `Mirror`, `counted` as the method `metrics` answers."""
    return "".join(_all(rows, counted))


def _all(rows: Rows, counted: Mapping[str, Any]) -> Iterator[str]:
    daemon: Mapping[str, Any] = rows.get(DAEMON, {}).get("", {})
    units = sorted(rows.get(UNIT, {}).values(), key=lambda row: str(row["name"]))
    known = [(_labels(unit=row["unit"], slot=row["name"]), row) for row in units]
    slots = [(_labels(unit=each["unit"], slot=name), each) for name, each in sorted(counted["slots"].items())]
    version = daemon.get("version", "")
    yield from _family("build_info", "gauge", "Always 1; the version of impetusd.", [(_labels(version=version), 1)])
    yield from _family(
        "up", "gauge", "Whether the slot is running.", ((labels, row["state"] == "RUNNING") for labels, row in known)
    )
    yield from _family(
        "want", "gauge", "Whether the slot should be running.", ((labels, row["want"] == "up") for labels, row in known)
    )
    yield from _family(
        "state",
        "gauge",
        "The state of the slot: 1 for the current state, else 0.",
        ((f'{labels},state="{each}"', row["state"] == each) for labels, row in known for each in _STATES),
    )
    yield from _family(
        "starts_total",
        "counter",
        "Processes started, by reason.",
        (
            (f"{labels},{_labels(reason=why)}", number)
            for labels, each in slots
            for why, number in each["starts"].items()
        ),
    )
    yield from _family(
        "exits_total",
        "counter",
        "Processes ended, by exit code or signal; both are empty if the start failed or the exit status is unknown.",
        _exits(slots),
    )
    yield from _family(
        "start_time_seconds",
        "gauge",
        "Start time of its process, Unix time.",
        ((labels, None if row["uptime_s"] is None else round(row["at"] - row["uptime_s"], 2)) for labels, row in known),
    )
    yield from _family(
        "memory_pss_bytes",
        "gauge",
        "Memory of its process with all descendants (PSS) if a limit is set; otherwise of the process alone (RSS).",
        ((labels, row["memory_bytes"]) for labels, row in known),
    )
    yield from _family(
        "memory_limit_bytes",
        "gauge",
        "max_memory_restart, or else max_memory_kill; missing if neither is set.",
        ((labels, each["limit_bytes"]) for labels, each in slots),
    )
    yield from _family(
        "cpu_seconds_total",
        "counter",
        "CPU time of its process and of the children it has waited for.",
        ((labels, each["cpu_s"]) for labels, each in slots),
    )
    yield from _family(
        "log_lines_dropped_total",
        "counter",
        "Lines of its log that could not be written.",
        ((labels, row["dropped_lines"]) for labels, row in known),
    )
    yield from _of_checks(rows)
    yield from _family(
        "timer_last_success_timestamp_seconds",
        "gauge",
        "End of the timer's last successful run, Unix time.",
        ((_labels(timer=name), _last_success(row)) for name, row in sorted(rows.get(TIMER, {}).items())),
    )
    undelivered = daemon.get("alerts", {}).get("report", {}).get("undelivered")
    yield from _family(
        "alert_undelivered",
        "gauge",
        "Alerts that could not be delivered so far.",
        [("", undelivered if isinstance(undelivered, int) else 0)],
    )
    refused = any(notice.get("key") == "ini_refused" for notice in daemon.get("notices", ()))
    yield from _family(
        "config_last_apply_successful",
        "gauge",
        "Whether the last apply of the INI file succeeded.",
        [("", not refused)],
    )
    yield from _of_pools(counted)


def _exits(slots: Sequence[tuple[str, Mapping[str, Any]]]) -> Samples:
    for labels, each in slots:
        found: dict[tuple[str, str], int] = {}
        for how, number in each["exits"].items():
            kind, _, value = how.partition(":")
            key = (value if kind == "code" else "", value if kind == "signal" else "")
            found[key] = found.get(key, 0) + number
        for (code, signal), number in found.items():
            yield f"{labels},{_labels(code=code, signal=signal)}", number


def _of_checks(rows: Rows) -> Iterator[str]:
    checks = sorted(rows.get(CHECK, {}).values(), key=lambda row: (str(row["name"]), str(row["target"])))
    probed = [(_labels(check=row["name"], target=row["target"]), row) for row in checks]
    yield from _family(
        "probe_success",
        "gauge",
        "Whether the last health check succeeded; missing before the first one.",
        ((labels, _PROBED.get(row["state"])) for labels, row in probed),
    )
    yield from _family(
        "probe_duration_seconds",
        "gauge",
        "Response time of the last health check.",
        ((labels, None if row["latency_ms"] is None else row["latency_ms"] / 1000) for labels, row in probed),
    )


def _last_success(row: Mapping[str, Any]) -> float | None:
    ends = [_unix(run["at"]) + run["duration_s"] for run in row["runs"] if run["ok"]]
    return round(max(ends), 3) if ends else None


def _unix(at: str | float) -> float:
    return dt.datetime.fromisoformat(at).timestamp() if isinstance(at, str) else at


def _of_pools(counted: Mapping[str, Any]) -> Iterator[str]:
    pools = sorted(counted["pools"].items())
    yield from _family(
        "connections",
        "gauge",
        "Open connections of the pool's workers.",
        ((_labels(pool=name), pool["connections"]) for name, pool in pools),
    )
    yield from _family(
        "workers",
        "gauge",
        "Serving workers of the pool.",
        ((_labels(pool=name), pool["workers"]) for name, pool in pools),
    )
    yield from _family(
        "requests_total",
        "counter",
        "Requests answered by the pool, by status code.",
        (
            (_labels(pool=name, status=status), number)
            for name, pool in pools
            for status, number in sorted(pool["requests"].items())
        ),
    )
    for family, key, what in (
        (
            "request_duration_seconds",
            "durations",
            "Duration of requests, until the response started or the handler ended.",
        ),
        (
            "event_loop_lag_seconds",
            "lags",
            "Event loop lag of the pool's workers, sampled every second.",
        ),
    ):
        yield f"# HELP impetusd_{family} {what}\n# TYPE impetusd_{family} histogram\n"
        for name, pool in pools:
            yield from _histogram(f"impetusd_{family}", name, pool[key], counted["bounds"][key])


def _histogram(name: str, pool: str, found: Mapping[str, Any], bounds: Sequence[float]) -> Iterator[str]:
    label, total = _labels(pool=pool), 0
    for bound, number in zip((*map(str, bounds), "+Inf"), found["counts"], strict=True):
        total += number
        yield f'{name}_bucket{{{label},le="{bound}"}} {total}\n'
    yield f"{name}_sum{{{label}}} {_number(found['sum'])}\n{name}_count{{{label}}} {total}\n"


def _family(name: str, kind: str, what: str, samples: Samples) -> Iterator[str]:
    """The samples with a value, below what they are."""
    yield f"# HELP impetusd_{name} {what}\n# TYPE impetusd_{name} {kind}\n"
    for labels, value in samples:
        if value is not None:
            yield f"impetusd_{name}{{{labels}}} {_number(value)}\n" if labels else f"impetusd_{name} {_number(value)}\n"


def _labels(**labels: object) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in labels.items()])


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:d}"  # of a bool, too
    return repr(value) if math.isfinite(value) else "NaN"


def _escaped(value: object) -> str:
    text = str(value)
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return text


ROUTES = (
    Route(
        "GET", "/metrics", VIEWER, handle, "All metrics in Prometheus's format.", answer="text/plain", opened=is_open
    ),
)
