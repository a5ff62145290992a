"""The same app under impetusd and under its peers, four workers each, in one run: scripts/bench apps [--rows ROW…].

    aiohttp    gunicorn, with aiohttp's worker
    asgi       uvicorn --workers, granian
    node       PM2's cluster

The peers are installed into a folder of their own, see `bench_peers`. Each figure of ours is for the same app as that of the
peers in its row; all are measured by turns, in the same minutes.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator

import bench_peers
import bench_reload
import bench_servers
from bench_base import percentile
from bench_install import Peers
from bench_managers import Failed, below_us
from bench_row import US, Row
from bench_servers import Server, cpu_seconds, pss, serving

WORKERS = 4
PEERS = {"aiohttp": ("gunicorn",), "asgi": ("uvicorn", "granian"), "node": ("pm2 cluster",)}
PACKAGES = ("gunicorn", "uvicorn", "granian", "pm2")
ROUNDS = 5
PER_SECOND = 400  # requests during a reload
PATIENCE = 20.0  # seconds until a reload counts as one that never ends


def apps(measure: Callable[[str, Peers], list[Row]]) -> Callable[[Peers], Iterator[Row]]:
    """`measure` for each kind of app."""

    def rows(peers: Peers) -> Iterator[Row]:
        for app in PEERS:
            yield from measure(app, peers)

    return rows


def one_by_one(row: Row, app: str, peers: Peers, measure: Callable[[Server], float], keys: str = "") -> None:
    for name in (US, *PEERS[app]):

        def one(name: str = name) -> float:
            with serving(name, peers, WORKERS, keys if name == US else "", app) as server:
                return measure(server)

        row.add(name, one)


def rate(app: str, peers: Peers) -> list[Row]:
    """All at once there, and asked by turns."""
    found_rate = Row(f"{app}: requests/s over 16 keep-alive connections, median of {ROUNDS}", "-", max)
    found_tail = Row("… p99 of a request, ms", "-")
    found_cost = Row("… CPU of the workers a request, µs, least of these: others on the host hardly change it", "-")
    found: dict[str, list[tuple[float, float, float]]] = {}
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in (US, *PEERS[app]):

            def start(name: str = name) -> float:
                servers[name] = stack.enter_context(serving(name, peers, WORKERS, app=app))
                return 0.0

            found_rate.add(name, start)
        pids = {name: server.pids() for name, server in servers.items()}
        for number in range(ROUNDS):
            for name, server in sorted(servers.items(), reverse=bool(number % 2)):
                before = cpu_seconds(pids[name])
                per_second, took = bench_servers.requests(server.port)
                cost = (cpu_seconds(pids[name]) - before) / max(1, len(took)) * 1e6
                found.setdefault(name, []).append((per_second, percentile(took, 0.99), cost))
    for name, each in found.items():
        found_rate.found[name] = statistics.median(one for one, _, _ in each)
        found_tail.found[name] = statistics.median(one for _, one, _ in each)
        found_cost.found[name] = min(one for _, _, one in each)
    return [found_rate, found_tail, found_cost]


def balance(app: str, peers: Peers) -> list[Row]:
    counts = (2 * WORKERS, 16 * WORKERS, 64 * WORKERS)
    rows = {n: Row(f"{app}: {n} keep-alive connections opened at once: most ÷ mean", "1") for n in counts}

    def measure(server: Server) -> float:
        for count, row in rows.items():
            row.add(server.name, lambda count=count: bench_servers.spread(server, count))
        return 0.0

    one_by_one(Row("", ""), app, peers, measure)
    return list(rows.values())


def killed(app: str, peers: Peers) -> list[Row]:
    row = Row(f"{app}: all {WORKERS} workers killed → first answer, ms, median of {ROUNDS}", "-")

    def measure(server: Server) -> float:
        took, _, refused = bench_servers.first_answers(server, ROUNDS)
        row.notes[server.name] = f"worst {max(took):.1f}, {refused} refused"
        return statistics.median(took)

    one_by_one(row, app, peers, measure)
    return [row]


def reload(app: str, peers: Peers) -> list[Row]:
    failed_row = Row(f"{app}: requests that failed during 2 reloads under {PER_SECOND} requests/s", "0")
    took_row = Row("… seconds of a reload", "-")

    def measure(server: Server) -> float:
        took, failed, done = bench_servers.reloaded(server, 2, PER_SECOND)
        if max(took) >= PATIENCE:
            raise Failed(f"a reload was not over after {PATIENCE:g} s")
        took_row.found[server.name] = statistics.median(took)
        failed_row.notes[server.name] = f"of {done:,}"
        return float(failed)

    bench_reload.PATIENCE = PATIENCE
    one_by_one(failed_row, app, peers, measure, "reload_watch = 0")
    return [failed_row, took_row]


def memory(app: str, peers: Peers) -> list[Row]:
    row = Row(f"{app}: memory of {WORKERS} workers, MB of PSS", "-")

    def measure(server: Server) -> float:
        row.notes[server.name] = f"{pss(set(below_us())):.0f} with what looks after them"
        return pss(server.pids())

    one_by_one(row, app, peers, measure)
    return [row]


ROWS = {
    "rate": apps(rate),
    "balance": apps(balance),
    "killed": apps(killed),
    "reload": apps(reload),
    "memory": apps(memory),
}

if __name__ == "__main__":
    try:
        sys.exit(bench_peers.main("apps", __doc__, ROWS, PACKAGES))
    except KeyboardInterrupt:
        sys.exit(130)
