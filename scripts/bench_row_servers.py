"""The rows about servers: see bench_peers."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable

import bench_reload
import bench_servers
from bench_base import percentile
from bench_install import Peers
from bench_managers import Failed
from bench_reload import imported
from bench_row import US, Row
from bench_servers import NAMES, pss, serving

PATIENCE = 15.0  # seconds until a reload counts as one that never ends


def each_server(
    row: Row, peers: Peers, names: tuple[str, ...], measure: Callable[..., float], *, workers: int = 4, keys: str = ""
) -> None:
    for name in names:

        def one(name: str = name) -> float:
            with serving(name, peers, workers, keys if name == US else "") as server:
                return measure(server)

        row.add(name, one)


def workers_killed(peers: Peers) -> list[Row]:
    row = Row("both workers of a pool killed → first answer, ms, median of 5", "?")
    plains: list[float] = []

    def measure(server: bench_servers.Server) -> float:
        took, plain, refused = bench_servers.first_answers(server, 5)
        plains.extend(plain)
        row.notes[server.name] = f"worst {max(took):.1f}, {refused} refused"
        return statistics.median(took)

    each_server(row, peers, NAMES, measure, workers=2)
    row.limit = f"a request with all workers there: {statistics.median(plains):.1f}" if plains else "-"
    return [row]


def reload(peers: Peers, rounds: int = 2, per_second: int = 1000) -> list[Row]:
    took_row = Row(
        f"reload of 4 workers under {per_second} requests/s, s, median of {rounds}", f"import: {imported(0, 3):.2f}"
    )
    failed_row = Row("requests that failed meanwhile", "0")

    def measure(server: bench_servers.Server) -> float:
        took, failed, done = bench_servers.reloaded(server, rounds, per_second)
        if max(took) >= PATIENCE:
            raise Failed(f"a reload was not over after {PATIENCE:g} s")
        failed_row.found[server.name] = float(failed)
        failed_row.notes[server.name] = f"of {done:,}"
        return statistics.median(took)

    bench_reload.PATIENCE = PATIENCE
    each_server(took_row, peers, NAMES, measure, keys="reload_watch = 0")
    return [took_row, failed_row]


def throughput(peers: Peers, rounds: int = 5) -> list[Row]:
    """The same application bare, two processes with SO_REUSEPORT, and in pools of two, by turns."""
    rate = Row(f"requests/s of a pool of 2 ÷ the same application bare, median of {rounds}", "1", max)
    tail = Row("… p99 of a request ÷ bare", "1")
    found: dict[str, list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as stack:
        servers = {"bare": stack.enter_context(serving("bare", peers, 2))}
        for name in (US, "gunicorn"):

            def start(name: str = name) -> float:
                servers[name] = stack.enter_context(serving(name, peers, 2))
                return 0.0

            rate.add(name, start)
        for number in range(rounds):
            for name, server in sorted(servers.items(), reverse=bool(number % 2)):
                per_second, took = bench_servers.requests(server.port)
                found.setdefault(name, []).append((per_second, percentile(took, 0.99)))
    bare = found.pop("bare")
    for name, each in found.items():
        rate.found[name] = statistics.median(one[0] / limit[0] for one, limit in zip(each, bare, strict=True))
        tail.found[name] = statistics.median(one[1] / limit[1] for one, limit in zip(each, bare, strict=True))
        rate.notes[name] = f"{statistics.median(one[0] for one in each):,.0f} /s"
    rate.limit = f"bare: {statistics.median(one[0] for one in bare):,.0f} /s"
    return [rate, tail]


def balance(peers: Peers) -> list[Row]:
    rows = {n: Row(f"{n} keep-alive connections opened at once over 4 workers: most ÷ mean", "1") for n in (8, 64, 256)}

    def measure(server: bench_servers.Server) -> float:
        for count, row in rows.items():
            row.add(server.name, lambda count=count: bench_servers.spread(server, count))
        return 0.0

    each_server(Row("", ""), peers, NAMES, measure)
    return list(rows.values())


def sharing(peers: Peers) -> list[Row]:
    row = Row("PSS of 4 workers ÷ 4 separate processes of the same application", "-")
    with serving("bare", peers, 4) as server:
        bare = pss(server.pids())

    def measure(server: bench_servers.Server) -> float:
        time.sleep(1)
        pids = server.pids()
        row.notes[server.name] = f"{pss(pids) / 4:.1f} MB each"
        return pss(pids) / bare

    each_server(row, peers, (US, "gunicorn"), measure)
    row.limit = f"4 × {bare / 4:.1f} MB"
    return [row]
