"""The same app under impetusd and under its peers, four workers each, in one run: scripts/bench apps [--rows ROW…].

    aiohttp    gunicorn, with aiohttp's worker
    asgi       uvicorn --workers, granian
    node       PM2's cluster

The client shares the CPUs with the servers: on a host with few, the CPU a request shows what a server costs, not its rate. It is
less where many requests come at once, as to the fullest of unevenly loaded workers; on a busy host it differed by half between runs.
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
from bench_base import cpu, percentile
from bench_install import Peers
from bench_managers import Failed, below_us
from bench_row import US, WHAT_FAILS, Row, figure, reason
from bench_servers import Server, pss, serving

WORKERS = 4
PEERS = {"aiohttp": ("gunicorn",), "asgi": ("uvicorn", "granian"), "node": ("pm2 cluster",)}
PACKAGES = ("gunicorn", "uvicorn", "granian", "pm2")
LIMITS = {"aiohttp": ("bare",)}  # the same app in as many processes with SO_REUSEPORT, and nothing else
ROUNDS = 5
RATES = 9  # rounds of a second each
ROUNDS_OF_BALANCE = 15
CLIENTS = 64
TAKE = (statistics.median, statistics.median, min)  # of the rounds' rates, tails and costs
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
    found_rate = Row(f"{app}: requests/s over {CLIENTS} keep-alive connections, median of {RATES}", "-", max)
    found_tail = Row("… p99 of a request, ms", "-")
    found_cost = Row("… CPU of the workers a request, µs, least of these", "-")
    rows = (found_rate, found_tail, found_cost)
    found: dict[str, list[tuple[float, float, float]]] = {}
    with contextlib.ExitStack() as stack:
        servers: dict[str, tuple[Server, set[int]]] = {}
        for name in (*LIMITS.get(app, ()), US, *PEERS[app]):
            try:
                server = stack.enter_context(serving(name, peers, WORKERS, app=app))
                servers[name] = server, server.pids()
            except WHAT_FAILS as error:
                for row in rows:
                    row.found[name] = reason(error)
        for number in range(RATES):
            for name, (server, pids) in sorted(servers.items(), reverse=bool(number % 2)):
                try:
                    before = cpu(*pids)
                    per_second, took = bench_servers.requests(server.port, 1.0, CLIENTS)
                    cost = (cpu(*pids) - before) / max(1, len(took)) * 1e6
                except WHAT_FAILS as error:
                    for row in rows:
                        row.found[name] = reason(error)  # unless another round has a figure
                else:
                    found.setdefault(name, []).append((per_second, percentile(took, 0.99), cost))
    for name, each in found.items():
        figures = [take(one) for take, one in zip(TAKE, zip(*each, strict=True), strict=True)]
        for row, value in zip(rows, figures, strict=True):
            if name in LIMITS.get(app, ()):
                row.limit = f"{name}: {figure(value)}"
            else:
                row.found[name] = value
    return list(rows)


def balance(app: str, peers: Peers) -> list[Row]:
    counts = (2 * WORKERS, 16 * WORKERS, 64 * WORKERS)
    rows = {n: Row(f"{app}: {n} keep-alive connections opened at once: most ÷ mean", "1") for n in counts}

    def measure(server: Server) -> float:
        for count, row in rows.items():
            row.add(server.name, lambda count=count: bench_servers.spread(server, count, ROUNDS_OF_BALANCE))
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
    "memory": apps(memory),
    "killed": apps(killed),
    "reload": apps(reload),
}

if __name__ == "__main__":
    try:
        sys.exit(bench_peers.main("apps", __doc__, ROWS, PACKAGES))
    except KeyboardInterrupt:
        sys.exit(130)
