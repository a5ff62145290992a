"""A gateway of the page's contract with staged data, for tests of the page alone. Time is fixed, so that pictures are the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import time
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from impetusd.gateway import guard, pages, routes

MB = 1 << 20
MINUTE, HOUR, DAY = 60, 3600, 86400


def iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}+00:00"


def unit(
    name: str, kind: str = "program", *, up: float = 3 * DAY, memory: float = 80, cpu: float = 0.4, **more: Any
) -> dict[str, Any]:
    """A row as the supervisor makes it."""
    runs = more.get("state", "RUNNING") in {"RUNNING", "STARTING", "STOPPING"}
    return {
        "name": name,
        "unit": name.partition(":")[0],
        "kind": kind,
        "state": "RUNNING",
        "want": "up",
        "ready": runs,
        "pid": 20000 + sum(map(ord, name)) if runs else None,
        "uptime_s": up if runs else None,
        "restarts": 0,
        "memory_bytes": int(memory * MB) if runs else None,
        "memory_limit_bytes": None,
        "cpu_percent": cpu if runs else None,
        "generation": 3,
        "last_exit": None,
        "reason": "",
        "cause": {"key": "", "facts": {}},
        "held": None,
        "dropped_lines": 0,
        "dropped_bytes": 0,
        "tail": [],
        **more,
    }


def other_host(
    name: str,
    state: str,
    *rows: dict[str, Any],
    incidents: Sequence[dict[str, Any]] = (),
    more: int = 0,
    version: str = "2.4.0",
    **changes: Any,
) -> dict[str, Any]:
    """Another host as GET /api/v1/hosts has it; without rows, one that has never answered."""
    overview = {
        "version": version,
        "live": True,
        "all": len(rows),
        "wrong": sum(row["wrong"] for row in rows),
        "units": rows,
        "incidents": incidents,
        "more": more,
    }
    return {
        "name": name,
        "url": f"https://{name}.example.com/",
        "state": state,
        "since": time.time() - 3 * HOUR,
        "seen": time.time() - 4 if rows else None,
        "trouble": "",
        "overview": overview if rows else None,
        **changes,
    }


def other_row(name: str, state: str = "RUNNING", reason: str = "", want: str = "up") -> dict[str, Any]:
    return {"name": name, "state": state, "want": want, "wrong": bool(reason), "reason": reason}


def other_hosts() -> list[dict[str, Any]]:
    """One in each state."""
    shop = [other_row(f"web:{number}") for number in range(8)]
    away = "its certificate is not trusted: certificate has expired"
    gave_up = [
        other_row("search", "FATAL", "exit 1; gave up after 16 restarts in 60 s"),
        other_row("sync", "BACKOFF", "exit 3"),
    ]
    cards = [
        {
            "text": "no route to host 10.0.0.5:5432",
            "units": ["search", "sync", "mailer"],
            "all": 5,
            "since": time.time() - 660,
            "error": True,
        },
        {"text": "uses 480 MB of 512 MB", "units": ["web:0"], "all": 1, "since": time.time() - 60, "error": False},
    ]
    return [
        other_host("shop-02", "well", *shop),
        other_host("shop-03", "well", *gave_up, *shop, incidents=cards, more=3),
        other_host("backup.internal", "away", *shop[:3], trouble=away, seen=time.time() - 3 * HOUR),
        other_host("shop-04", "lost", *shop[:2]),
        other_host("shop-05", "asking", since=None),
        other_host("nowhere", "away", trouble="cannot resolve nowhere.example.com: Name or service not known"),
    ]


def because(key: str, text: str, **facts: Any) -> dict[str, Any]:
    return {"cause": {"key": key, "facts": facts}, "reason": text}


class World:
    """What the gateway knows. `change` tells everybody who listens."""

    def __init__(self, *, troubled: bool = True, many: int = 0, now: float = 0.0) -> None:
        self.now = now or time.time()
        self.random = random.Random(7)
        self.life, self.n = "5f2c9a1e", 4100
        self.role, self.user = "admin", "alice"
        self.logged_in = True
        self.rows: dict[str, dict[str, Any]] = {
            "unit": {},
            "timer": {},
            "check": {},
            "reload": {},
            "daemon": {"": {}},
            "usage": {},
        }
        self.incidents: list[dict[str, Any]] = []
        self.snapshot_may_come = asyncio.Event()
        self.snapshot_may_come.set()
        self.listeners: set[asyncio.Queue[tuple[str, str, Any]]] = set()  # of the stream
        self.readers: set[asyncio.Queue[tuple[str, str, Any]]] = set()  # of logs
        self.asked: list[tuple[str, str, Any]] = []  # method, path and body of what was asked for
        self.silences: list[dict[str, Any]] = []
        self.undelivered = 0
        self.hosts: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        self.records: list[dict[str, Any]] = []
        self.marks: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self.answered: dict[str, dict[str, Any]] = {}  # of slots that measure
        self.ask_code = "one-time-code"
        if many:
            for index in range(many):
                row = unit(f"svc-{index:03d}", memory=40 + index % 60, cpu=index % 7, memory_limit_bytes=200 * MB)
                self.rows["unit"][row["name"]] = row
        else:
            self._shop(troubled=troubled)

    def _put(self, row: dict[str, Any]) -> None:
        row["at"] = self.now
        self.rows["unit"][row["name"]] = row

    def _shop(self, *, troubled: bool) -> None:
        now = self.now
        self._put(unit("web:template", "template", up=1.4 * DAY, memory=41, cpu=0.0))
        for index, (memory, cpu) in enumerate([(183, 11.8), (176, 12.4), (191, 10.9), (452, 14.2)]):
            self._put(unit(f"web:{index}", "worker", up=1.4 * DAY, memory=memory, cpu=cpu, memory_limit_bytes=512 * MB))
        self._put(unit("web:standby", "standby", up=1.4 * DAY, memory=92, cpu=0.0, memory_limit_bytes=512 * MB))
        self._put(unit("postgres", up=41 * DAY, memory=612, cpu=6.1))
        self._put(unit("redis", up=41 * DAY, memory=88, cpu=1.2, memory_limit_bytes=256 * MB))
        self._put(unit("api", up=9.2 * HOUR, memory=143, cpu=3.3, memory_limit_bytes=400 * MB, restarts=1))
        self._put(unit("jobs:0", up=9.2 * HOUR, memory=118, cpu=21.7, memory_limit_bytes=300 * MB))
        self._put(unit("jobs:1", up=9.2 * HOUR, memory=109, cpu=18.2, memory_limit_bytes=300 * MB))
        self._put(unit("mailer", up=12.5 * DAY, memory=37, cpu=0.2, memory_limit_bytes=128 * MB))
        self._put(unit("caddy", up=41 * DAY, memory=54, cpu=2.4))
        self._put(unit("old-import", state="STOPPED", want="down"))
        checks = [
            ("web", "web", "healthy", 4.1, "GET /health"),
            ("api", "api", "healthy", 11.8, "GET /healthz"),
            ("postgres", "postgres", "healthy", 0.7, "pg_isready"),
            ("redis", "redis", "healthy", 0.3, "redis-cli ping"),
        ]
        for name, target, state, latency, what in checks:
            self.rows["check"][f"{name} {target}"] = {
                "name": name,
                "target": target,
                "what": what,
                "state": state,
                "reason": "",
                "cause": {"key": "", "facts": {}},
                "failures": 0,
                "threshold": 3,
                "interval_s": 10,
                "at": iso(now - 3),
                "latency_ms": latency,
                "action": "restart",
            }
        self._timer("backup", "30 3 * * *", "at 03:30", 38 * MINUTE, [(0.97, True, "exit 0", 41.2)])
        self._timer("session-cleanup", "every 900s", "every 15 min", 4 * MINUTE, [(0.01, True, "exit 0", 0.8)] * 6)
        self._timer(
            "sales-report", "0 6 * * 1-5", "at 06:00 on Monday to Friday", 3.1 * HOUR, [(0.9, True, "exit 0", 12.9)]
        )
        self.records = self._history()
        self.marks = self._marks()
        self.lines = self._log()
        if troubled:
            self._trouble()

    def _timer(
        self, name: str, schedule: str, words: str, wait: float, runs: list[tuple[float, bool, str, float]]
    ) -> None:
        self.rows["timer"][name] = {
            "name": name,
            "schedule": schedule,
            "words": words,
            "enabled": True,
            "state": "waiting",
            "next": iso(self.now + wait),
            "next_in_s": wait,
            "running_s": None,
            "runs": [
                {
                    "at": iso(self.now - ago * DAY - index * 900),
                    "duration_s": took,
                    "ok": ok,
                    "result": result,
                    "why": "schedule",
                    "code": 0 if ok else 1,
                    "cause": {"key": "exit", "facts": {"code": 0 if ok else 1}},
                    "skipped": False,
                }
                for index, (ago, ok, result, took) in enumerate(runs)
            ],
        }

    def _trouble(self) -> None:
        now = self.now
        at = time.strftime("%H:%M:%S", time.localtime(now - 11.2 * MINUTE))
        self._put(
            unit(
                "search",
                state="FATAL",
                restarts=16,
                last_exit={"code": 1, "at": iso(now - 11.2 * MINUTE)},
                tail=[],
                memory_limit_bytes=1024 * MB,
                **because("gave_up", "exit 1; gave up after 16 restarts in 60 s", times=16),
            )
        )
        self._put(
            unit(
                "imap-sync",
                state="BACKOFF",
                restarts=5,
                last_exit={"signal": "SIGKILL", "oom": "memory.max", "at": iso(now - 40)},
                memory_limit_bytes=256 * MB,
                **because("killed", "killed by SIGKILL: out of memory", signal="SIGKILL"),
            )
        )
        self.rows["timer"]["backup"]["runs"].insert(
            0,
            {
                "at": iso(now - 0.2 * HOUR),
                "duration_s": 61.0,
                "ok": False,
                "result": "exit 2",
                "why": "schedule",
                "code": 2,
                "cause": {"key": "exit", "facts": {"code": 2}},
                "skipped": False,
            },
        )
        self.rows["unit"]["imap-sync"]["dropped_lines"] = 214
        self.undelivered = 1
        self.silences = [
            {"id": "7", "name": "mailer", "until": now + 48 * MINUTE, "why": "provider moves its relays", "by": "bob"}
        ]
        self.incidents = [
            {
                "id": "search:gave_up",
                "units": ["search"],
                "since": now - 11.2 * MINUTE,
                "severity": "error",
                "cause": {
                    "key": "gave_up",
                    "facts": {},
                    "text": "exit 1 after 0.4 s: cannot open index: lock file /var/lib/search/index/.lock is held by PID 31377",
                },
                "rule": {
                    "key": "max_restarts = 16 within restart_window = 1 min",
                    "file": "/etc/impetusd/shop.ini",
                    "line": 84,
                },
                "next": None,
                "stderr": [
                    f"{at} INFO  opening index /var/lib/search/index",
                    f"{at} ERROR lock file .lock is held by PID 31377 (search-reindex)",
                    "Traceback (most recent call last):",
                    '  File "/srv/search/server.py", line 212, in open_index',
                    "IndexLocked: cannot open index: lock file /var/lib/search/index/.lock is held by PID 31377",
                ],
                "command": "impetusd start search",
                "action": {"method": "start", "name": "search"},
            },
            {
                "id": "imap-sync:oom",
                "units": ["imap-sync"],
                "since": now - 9 * MINUTE,
                "severity": "warning",
                "cause": {
                    "key": "killed",
                    "facts": {},
                    "text": "killed for memory: it reached its ceiling of 256 MB, 5 times in 9 min",
                },
                "rule": {"key": "max_memory_kill = 256M", "file": "/etc/impetusd/shop.ini", "line": 112},
                "next": {"at": now + 22, "what": "start"},
                "stderr": [
                    "fetched 48,112 of 211,540 messages (ada@example.org)",
                    "fetched 48,640 of 211,540 messages (ada@example.org)",
                    "warning: message 48,655 has an attachment of 231 MB",
                ],
                "command": "impetusd why imap-sync",
                "action": {"method": "restart", "name": "imap-sync"},
            },
        ]

    def _history(self) -> list[dict[str, Any]]:
        now, found = self.now, []

        def add(ago: float, kind: str, **fields: Any) -> None:
            found.append({"n": 0, "at": now - ago, "kind": kind, **fields})

        who = {
            "uid": 1000,
            "gid": 1000,
            "peer_pid": 41822,
            "comm": "impetusd",
            "tty": "pts/3",
            "role": "admin",
            "outcome": "done",
        }
        add(22 * HOUR, "command", method="scale", names=["web"], params={"n": 4}, took_s=1.2, user="bob", **who)
        add(9.3 * HOUR, "reload", unit="web", what="began", generation=3, reason="reload")
        add(9.2 * HOUR, "reload", unit="web", what="done", generation=3, took_s=6.1, reason="")
        add(
            9.2 * HOUR,
            "command",
            method="reload",
            names=["web", "api", "jobs"],
            params={"canaries": 1, "watch": 60.0},
            took_s=66.0,
            user="alice",
            **who,
        )
        add(
            1.1 * HOUR,
            "timer",
            unit="session-cleanup",
            ok=True,
            code=0,
            duration_s=0.8,
            why="schedule",
            reason="exit 0",
            attempt=1,
            retries=0,
        )
        add(0.4 * HOUR, "command", method="apply", names=[], params={}, took_s=0.4, user="alice", login="", **who)
        add(
            0.4 * HOUR,
            "config",
            what="applied",
            changes=[
                {
                    "kind": "program",
                    "name": "search",
                    "effect": "restart",
                    "keys": [{"key": "env INDEX", "from": "(set)", "to": "(set)"}],
                }
            ],
            ok=False,
        )
        for turn in range(4):
            ago = 11.3 * MINUTE + (3 - turn) * 2
            add(ago, "start", unit="search", slot="search", pid=31400 + turn, why="autorestart")
            add(
                ago - 0.4,
                "exit",
                unit="search",
                slot="search",
                pid=31400 + turn,
                ran_s=0.4,
                code=1,
                asked=False,
                state="BACKOFF" if turn < 3 else "FATAL",
                decision="given up" if turn == 3 else "started again",
                rule="max_restarts",
            )
            add(
                ago - 0.4,
                "stderr",
                unit="search",
                slot="search",
                pid=31400 + turn,
                lines=[
                    "Traceback (most recent call last):",
                    '  File "/srv/search/server.py", line 212, in open_index',
                    "\x1b[31mIndexLocked\x1b[0m: cannot open index: lock file /var/lib/search/index/.lock is held by PID 31377",
                ],
            )
        for turn in range(5):
            add(
                (5 - turn) * 100,
                "exit",
                unit="imap-sync",
                slot="imap-sync",
                pid=32000 + turn,
                ran_s=62.0,
                signal="SIGKILL",
                oom="memory.max",
                asked=False,
                state="BACKOFF",
                decision="restarting in 25 s",
                rule="max_memory_kill",
                max_rss=256 * MB,
            )
        add(
            3 * MINUTE,
            "command",
            method="tail",
            names=["search"],
            params={},
            took_s=0.0,
            user="carol",
            **{**who, "role": "viewer", "outcome": "refused", "comm": "curl", "tty": ""},
            error="viewer may not tail",
        )
        found.sort(key=lambda each: each["at"])
        for n, record in enumerate(found, 311):
            record["n"] = n
        return found

    def _marks(self) -> list[dict[str, Any]]:
        now = self.now
        marks = [
            {"at": now - ago * HOUR, "kind": kind, "unit": name, "text": text}
            for ago, kind, name, text in [
                (22, "command", "web", "scale web 4 (bob)"),
                (18.2, "exit", "mailer", "exit 1"),
                (18.19, "restart", "mailer", "autorestart"),
                (14.5, "command", "redis", "restart redis (bob)"),
                (9.2, "deploy", "web", "reload web, generation 3"),
                (9.2, "command", "web", "reload web api jobs (alice)"),
                (5.1, "exit", "api", "killed by SIGSEGV"),
                (5.09, "restart", "api", "autorestart"),
                (3.3, "restart", "web:2", "max_memory_restart"),
                (0.4, "deploy", "search", "apply: search restart"),
                (0.4, "command", "", "apply (alice)"),
            ]
        ]
        marks += [
            {
                "at": now - (9 - 2 * n) * MINUTE,
                "kind": "exit",
                "unit": "imap-sync",
                "text": "killed by SIGKILL (out of memory)",
            }
            for n in range(5)
        ]
        marks += [{"at": now - 11.2 * MINUTE, "kind": "exit", "unit": "search", "text": "exit 1; given up"}]
        return sorted(marks, key=lambda each: each["at"])

    def _log(self) -> list[dict[str, Any]]:
        paths = ["/", "/cart", "/p/4711", "/search?q=lamp", "/api/v1/orders", "/checkout", "/static/app.css"]
        lines = []
        for index in range(400):
            at = self.now - (400 - index) * 0.9
            pick = self.random.random()
            if pick < 0.62:
                worker = self.random.randrange(4)
                status = self.random.choices([200, 304, 404, 500], [80, 12, 6, 2])[0]
                colour = {200: 32, 304: 36, 404: 33, 500: 31}[status]
                text, name, stream = (
                    f"\x1b[{colour}m{status}\x1b[0m GET {self.random.choice(paths)} {self.random.randrange(2, 90)} ms",
                    f"web:{worker}",
                    "out",
                )
            elif pick < 0.82:
                text, name, stream = (
                    f"job {self.random.randrange(10**6):06x} \x1b[1mdone\x1b[0m in {self.random.randrange(40, 900)} ms",
                    f"jobs:{self.random.randrange(2)}",
                    "out",
                )
            elif pick < 0.93:
                text, name, stream = f"fetched {48112 + index * 128:,} of 211,540 messages", "imap-sync", "out"
            else:
                text, name, stream = (
                    "\x1b[31mERROR\x1b[0m lock file .lock is held by PID 31377 (search-reindex)",
                    "search",
                    "err",
                )
            lines.append({"unit": name, "stream": stream, "at": at, "text": text, "id": f"l{index}"})
        return lines

    # What is asked.

    def snapshot(self) -> dict[str, Any]:
        return {"life": self.life, "n": self.n, "at": time.time(), "live": True, "rows": self.rows}

    def change(self, kind: str, key: str, value: Any) -> None:
        self.n += 1
        if kind in self.rows and kind != "usage":
            if value is None:
                self.rows[kind].pop(key, None)
            else:
                self.rows[kind][key] = value
        data = {"n": self.n, "at": time.time(), "kind": kind, "key": key, "value": value}
        self.say("change", data, f"{self.life}:{self.n}")

    def say(self, event: str, data: Any, id_: str = "") -> None:
        for listener in self.listeners:
            listener.put_nowait((event, id_, data))

    def series(
        self, name: str, slots: list[str], since: float, until: float, step: float
    ) -> dict[str, list[list[float | None]]]:
        found: dict[str, list[list[float | None]]] = {}
        for index, slot in enumerate(slots):
            draw = random.Random(f"{name}{slot}")
            points: list[list[float | None]] = []
            level = 0.0
            at = math.ceil(since / step) * step
            while at < until:
                part = (at - since) / max(1.0, until - since)
                level = 0.94 * level + draw.gauss(0, 0.3)
                wave = math.sin(at / 5200) + 0.3 * math.sin(at / 1700 + index)
                match name:
                    case "memory":
                        leak = 270 * part if slot.endswith(":3") else 0
                        value = max(10.0, 178 + 4 * level + leak + index * 5) * MB
                    case "cpu":
                        value = max(0.1, 11 + 1.6 * level + 4 * wave)
                    case "requests":
                        value = max(0.0, 46 + 3 * level + 16 * wave + index)
                    case "latency":
                        value = max(0.002, 0.017 + 0.0012 * level + 0.004 * wave)
                    case "lag":
                        value = max(0.0002, 0.0011 + 0.0002 * level + 0.0003 * wave)
                    case _:
                        value = max(0, round(24 + 2 * level + 8 * wave))
                points.append([at, value])
                at += step
            found[slot] = points
        return found


CONFIG = [
    ("app", "shop.main:app"), ("protocol", "asgi"), ("listen", "127.0.0.1:8080"), ("instances", "4"), ("standby", "1"), ("user", "shop"),
    ("max_memory_restart", "512M"), ("max_memory_kill", ""), ("max_requests", "200000"), ("kill_timeout", "10s"), ("drain_timeout", "30s"),
    ("restart_window", "1m"), ("max_restarts", "16"), ("reload_watch", "60s"), ("depends_on", "postgres, redis"),
]  # fmt: skip
ROUTES = web.RouteTableDef()
WORLD: web.AppKey[World] = web.AppKey("world", World)
BODY: web.RequestKey[dict[str, Any]] = web.RequestKey("body", dict)


def problem(status: int, title: str, detail: str = "") -> web.Response:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return web.json_response(body, status=status, content_type="application/problem+json")


@web.middleware
async def login(request: web.Request, handler: Any) -> web.StreamResponse:
    world = request.app[WORLD]
    if request.method != "GET":
        body = await request.json()
        world.asked.append((request.method, request.path_qs.removeprefix("/api/v1/"), body))
        request[BODY] = body
    if request.path.startswith("/api/") and not request.path.endswith("/login") and not world.logged_in:
        return problem(401, "Not logged in")
    return await handler(request)


@ROUTES.get("/api/v1/me")
async def me(request: web.Request) -> web.Response:
    world = request.app[WORLD]
    instance = {
        "conf": "/etc/impetusd/shop.ini",
        "version": "2.4.0",
        "host": "shop-01",
        "pid": 812,
        "started": world.now - 41 * DAY,
    }
    return web.json_response(
        {
            "user": world.user,
            "role": world.role,
            "instance": instance,
            "server_time": time.time(),
            "alerts": True,
            "history": True,
            "hosts": bool(world.hosts),
        }
    )


@ROUTES.get("/api/v1/hosts")
async def hosts(request: web.Request) -> web.Response:
    world = request.app[WORLD]
    world.asked.append(("GET", "hosts", None))
    return web.json_response({"hosts": world.hosts})


@ROUTES.post("/api/v1/login")
async def logging_in(request: web.Request) -> web.Response:
    world, body = request.app[WORLD], request[BODY]
    if body.get("code") != world.ask_code and (body.get("user"), body.get("password")) != ("alice", "correct"):
        return problem(401, "Login failed")
    world.logged_in = True
    return web.Response(status=204)


@ROUTES.post("/api/v1/logout")
async def logout(request: web.Request) -> web.Response:
    request.app[WORLD].logged_in = False
    return web.Response(status=204)


async def events(request: web.Request, first: list[tuple[str, str, Any]], listeners: set[Any]) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await answer.prepare(request)
    queue: asyncio.Queue[tuple[str, str, Any]] = asyncio.Queue()
    for each in first:
        queue.put_nowait(each)
    listeners.add(queue)
    try:
        while True:
            try:
                event, id_, data = await asyncio.wait_for(queue.get(), 5)
            except TimeoutError:
                event, id_, data = "alive", "", {"n": 0, "at": time.time()}
            if event == "close":
                break
            head = f"id: {id_}\n" if id_ else ""
            await answer.write(f"{head}event: {event}\ndata: {json.dumps(data)}\n\n".encode())
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        listeners.discard(queue)
    return answer


@ROUTES.get("/api/v1/snapshot")
async def snapshot(request: web.Request) -> web.Response:
    await request.app[WORLD].snapshot_may_come.wait()
    return web.json_response(request.app[WORLD].snapshot())


@ROUTES.get("/api/v1/stream")
async def stream(request: web.Request) -> web.StreamResponse:
    world = request.app[WORLD]
    world.asked.append(("GET", request.path_qs.removeprefix("/api/v1/"), request.headers.get("Last-Event-ID")))
    last = request.headers.get("Last-Event-ID") or request.query.get("last")
    first = (
        ("resumed", "", {})
        if last == f"{world.life}:{world.n}"
        else ("snapshot", f"{world.life}:{world.n}", world.snapshot())
    )
    return await events(request, [first], world.listeners)


@ROUTES.get("/api/v1/incidents")
async def incidents(request: web.Request) -> web.Response:
    return web.json_response({"incidents": request.app[WORLD].incidents})


@ROUTES.get("/api/v1/events")
async def ledger(request: web.Request) -> web.Response:
    world = request.app[WORLD]
    name = request.query.get("unit")
    found = [each for each in world.records if not name or name in {each.get("unit"), *each.get("names", ())}]
    return web.json_response({"events": found[-int(request.query.get("last", 200)) :]})


@ROUTES.get("/api/v1/history")
async def history(request: web.Request) -> web.Response:
    world, asked = request.app[WORLD], request.query
    since, until = float(asked.get("from", world.now - HOUR)), float(asked.get("to", world.now))
    step = 60 if until - since <= 2 * DAY else 900
    names = asked.getall("unit", [])
    slots = [row["name"] for row in world.rows["unit"].values() if row["pid"] and (not names or row["unit"] in names)]
    slots = [name for name in slots if not names or ":" not in name or name.rpartition(":")[2].isdecimal()]
    kinds = [each for part in asked.getall("series", []) for each in part.split(",")]
    marks = [
        each
        for each in world.marks
        if since <= each["at"] <= until and (not names or each["unit"].partition(":")[0] in names)
    ]
    return web.json_response(
        {
            "step": step,
            "from": since,
            "to": until,
            "series": {kind: world.series(kind, slots, since, until, step) for kind in kinds},
            "marks": marks,
        }
    )


@ROUTES.get("/api/v1/alerts")
async def alerts(request: web.Request) -> web.Response:
    world = request.app[WORLD]
    return web.json_response(
        {"names": ["ops-slack", "oncall"], "undelivered": world.undelivered, "silences": world.silences, "recent": []}
    )


@ROUTES.post("/api/v1/silences")
async def silence(request: web.Request) -> web.Response:
    world, body = request.app[WORLD], request[BODY]
    world.silences.append(
        {
            "id": str(len(world.silences) + 10),
            "name": body["name"],
            "until": world.now + body["for"],
            "why": body["why"],
            "by": world.user,
        }
    )
    return web.Response(status=204)


@ROUTES.delete("/api/v1/silences/{id}")
async def unsilence(request: web.Request) -> web.Response:
    world = request.app[WORLD]
    world.silences = [each for each in world.silences if each["id"] != request.match_info["id"]]
    return web.Response(status=204)


@ROUTES.get("/api/v1/timers")
async def timers(request: web.Request) -> web.Response:
    return web.json_response({"timers": list(request.app[WORLD].rows["timer"].values())})


@ROUTES.get("/api/v1/plan")
async def plan(request: web.Request) -> web.Response:
    return web.json_response({"changes": request.app[WORLD].changes, "problems": []})


@ROUTES.get("/api/v1/units/{name}")
async def describe(request: web.Request) -> web.Response:
    world, name = request.app[WORLD], request.match_info["name"]
    found = [row for row in world.rows["unit"].values() if row["unit"] == name]
    if not found:
        return problem(404, "Not found", f"No unit '{name}'.")
    config = [
        {"key": key, "value": value, "origin": f"/etc/impetusd/shop.ini:{31 + index}" if index % 3 else "default"}
        for index, (key, value) in enumerate(CONFIG)
    ]
    spec = dict(CONFIG)
    return web.json_response({
        "units": [{**row, "spec": spec, "checks": [], "log_files": {"out": f"/var/log/shop/{row['name']}.log", "error": f"/var/log/shop/{row['name']}.err"}, "where": "/etc/impetusd/shop.ini:30", "process": {}, "history": [], "answered": world.answered.get(row["name"])} for row in found],
        "groups": [], "profile": "production", "config": config,
    })  # fmt: skip


@ROUTES.get("/api/v1/units/{name}/why")
async def why(request: web.Request) -> web.Response:
    return web.json_response({"running": True, "findings": []})


@ROUTES.get("/api/v1/units/{name}/env")
async def env(request: web.Request) -> web.Response:
    world, name = request.app[WORLD], request.match_info["name"]
    if world.role != "admin":
        return problem(403, "Forbidden", "env requires the role admin.")
    variables = {
        "DATABASE_URL": "postgres://shop:***@127.0.0.1/shop",
        "LANG": "C.UTF-8",
        "PATH": "/srv/shop/.venv/bin:/usr/bin:/bin",
        "REDIS_URL": "redis://127.0.0.1:6379/0",
        "SECRET_KEY": "***",
    }
    found = [row for row in world.rows["unit"].values() if row["unit"] == name and row["pid"]]
    return web.json_response(
        {
            "slots": [
                {
                    "name": row["name"],
                    "unit": name,
                    "pid": row["pid"],
                    "variables": [{"name": key, "value": value} for key, value in variables.items()],
                }
                for row in found
            ]
        }
    )


@ROUTES.post("/api/v1/units/{name}/{method}")
@ROUTES.post("/api/v1/apply")
async def command(request: web.Request) -> web.StreamResponse:
    world, name = request.app[WORLD], request.match_info.get("name", "")
    if world.role == "viewer":
        return problem(
            403, "Forbidden", f"{request.match_info.get('method', 'apply')} takes the role operator; you are a viewer."
        )
    answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await answer.prepare(request)
    found = [key for key, row in world.rows["unit"].items() if row["unit"] == name]
    for key in found:
        await answer.write(
            json.dumps({"progress": {"name": key, "state": "STARTING", "reason": "not ready yet"}}).encode() + b"\n"
        )
        await answer.write(json.dumps({"progress": {"name": key, "state": "RUNNING", "reason": ""}}).encode() + b"\n")
    await answer.write(json.dumps({"result": {"ok": True, "units": [], "changes": world.changes}}).encode() + b"\n")
    return answer


def chosen(world: World, request: web.Request) -> list[dict[str, Any]]:
    names, streams = request.query.getall("unit", []), request.query.getall("stream", [])
    return [
        each
        for each in world.lines
        if (not names or each["unit"].partition(":")[0] in names or each["unit"] in names)
        and (not streams or each["stream"] in streams)
    ]


@ROUTES.get("/api/v1/logs")
async def logs(request: web.Request) -> web.Response:
    return web.json_response(
        {"lines": chosen(request.app[WORLD], request)[-int(request.query.get("last", 200)) :], "lost": 0}
    )


@ROUTES.get("/api/v1/logs/stream")
async def following(request: web.Request) -> web.StreamResponse:
    world = request.app[WORLD]
    return await events(request, [], world.readers)


@ROUTES.get("/api/v1/logs/search")
async def search(request: web.Request) -> web.Response:
    world, asked = request.app[WORLD], request.query
    found = [each for each in chosen(world, request) if asked.get("q", "").lower() in each["text"].lower()]
    limit = int(asked.get("limit", 500))
    return web.json_response({"lines": found[-limit:], "lost": 0, "more": len(found) > limit})


@ROUTES.get("/api/v1/logs/context")
async def context(request: web.Request) -> web.Response:
    world, asked = request.app[WORLD], request.query
    place = next((index for index, each in enumerate(world.lines) if each["id"] == asked["id"]), None)
    if place is None:
        return problem(404, "Not found", "This line has been rotated away.")
    unit_ = world.lines[place]["unit"]
    same = [each for each in world.lines if each["unit"] == unit_]
    at = same.index(world.lines[place])
    return web.json_response(
        {"lines": same[max(0, at - int(asked["before"])) : at + int(asked["after"]) + 1], "lost": 0}
    )


async def headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(guard.HEADERS)


def application(world: World) -> web.Application:
    app = web.Application(middlewares=[login])
    app[WORLD] = world
    app.add_routes(ROUTES)
    routes.add(app, pages.ROUTES)
    app.on_response_prepare.append(headers)
    return app


@contextlib.asynccontextmanager
async def served(world: World, port: int = 0) -> Any:
    """Gives the address."""
    runner = web.AppRunner(application(world), shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        host, found = runner.addresses[0][:2]
        yield f"http://{host}:{found}/"
    finally:
        for listener in [*world.listeners, *world.readers]:
            listener.put_nowait(("close", "", None))
        await runner.cleanup()


if __name__ == "__main__":  # to look at it in a browser: python tests/gateway/page_server.py

    async def main() -> None:
        async with served(World(), 9616) as address:
            print(address)
            await asyncio.Event().wait()

    asyncio.run(main())
