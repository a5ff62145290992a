"""impetusd beside its peers, row by row, in one run: scripts/bench peers [--rows ROW…] [--folder DIR] [--as-is].

The peers are installed into a folder of their own (var/peers unless another is given) and kept there for the next run. Each row
has the limit (what the machine takes for the same without any manager), each peer and impetusd, all measured in the same
minutes. The machine may be busy with other work: compare within a row, not between runs, and CPU, memory and counts rather than
times: Linux gives each session a share of a busy CPU (sched_autogroup), and each of impetusd's workers has its own.
A peer that is missing or fails is reported with the reason. Whatever is started is below this process, and is ended with it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import bench_install
import bench_row_managers as managers
import bench_row_servers as servers
from bench_install import Peers
from bench_managers import compile_programs, end_all
from bench_row import WHAT_FAILS, Row, reason

from impetusd.shim import spawn

MOST = 15 * 60.0  # seconds, after which the remaining rows are named and left out; the last takes 4 minutes

ROWS: dict[str, Callable[[Peers], Iterable[Row]]] = {
    "workers": servers.workers_killed,
    "program": managers.program_killed,
    "one": managers.at_one,  # status and memory at 1
    "leak": managers.leak,
    "stop": managers.stopping,
    "reload": servers.reload,
    "killed": managers.manager_killed,
    "flood": managers.flood,
    "throughput": servers.throughput,
    "balance": servers.balance,
    "sharing": servers.sharing,
    "many": managers.at_many,  # started, stopped, status, idle, memory at 500
}


def main(
    program: str = "peers",
    text: str | None = __doc__,
    rows: Mapping[str, Callable[[Peers], Iterable[Row]]] = ROWS,
    only: Collection[str] = tuple(bench_install.HAVE),
) -> int:
    """Install the peers that are named in `only`, and measure the rows that the command line asks for."""
    parser = argparse.ArgumentParser(prog=f"scripts/bench {program}", description=text)
    parser.add_argument(
        "--rows", nargs="+", choices=rows, default=list(rows), metavar="ROW", help=f"of {', '.join(rows)}"
    )
    parser.add_argument(
        "--folder", type=Path, default=bench_install.ROOT / "var/peers", help="where the peers are installed"
    )
    parser.add_argument(
        "--as-is", action="store_true", help="install nothing: what is there is measured, with this impetusd"
    )
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    if not options.as_is:
        bench_install.install(folder, only)
        python = str(folder / "ours/bin/python")  # and impetusd as it is used: not editable
        os.execv(python, [python, sys.argv[0], "--as-is", "--folder", str(folder), "--rows", *options.rows])
    spawn.prctl(spawn.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # then started processes are ended, too
    peers = Peers(folder)
    for name in only:
        if name in peers.missing:
            print(f"missing: {name}: {peers.missing[name]}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ib-peers-") as scratch:
        peers.scratch = Path(scratch)
        peers.programs = compile_programs(peers.scratch)
        try:
            for name in options.rows:
                if time.monotonic() - began > MOST:
                    print(f"\n[{name}: not measured, {MOST / 60:g} minutes are over; --rows {name} measures it]")
                    continue
                load, cpus = os.getloadavg()[0], os.cpu_count() or 1
                busy = f" on {cpus} CPUs: times and rates are those of the scheduler" if load > cpus else ""
                print(f"\n[{name}: load average {load:.1f}{busy}]", flush=True)
                row_began = time.monotonic()
                try:
                    for row in rows[name](peers):
                        print(row.show(), flush=True)
                except WHAT_FAILS as error:  # outside of any one figure
                    print(f"    => not measured: {reason(error)}", flush=True)
                print(f"[{time.monotonic() - row_began:.0f} s]", flush=True)
        finally:
            end_all()
    print(f"\nmeasured in {(time.monotonic() - began) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
