"""A child that prints as fast as it can: what its output takes, and what others notice of it."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_base import PYTHON, Instance, compile_c, cpu, percentile, show

GIB = 1 << 30
# flood FOLDER BYTES: waits for FOLDER/go, writes the time into FOLDER/mark, then 64 KiB writes to stdout. 0: no end.
FLOOD = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    static char block[65536];
    memset(block, 'x', sizeof block);
    for (size_t at = 127; at < sizeof block; at += 128) block[at] = '\n';
    long long left = atoll(argv[2]), forever = left == 0;
    struct timespec t;
    if (chdir(argv[1])) return 1;
    while (access("go", F_OK)) usleep(500);
    clock_gettime(CLOCK_MONOTONIC, &t);
    FILE *mark = fopen("mark", "w");
    fprintf(mark, "%ld.%09ld", t.tv_sec, t.tv_nsec);
    fclose(mark);
    while (forever || left > 0) {
        ssize_t wrote = write(1, block, sizeof block);
        if (wrote < 0) return 1;
        left -= wrote;
    }
    pause();
}
"""
# says_when FILE: adds its pid and the time of its first instruction to the file.
SAYS_WHEN = r"""
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    dprintf(open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600), "%d %ld.%09ld\n", getpid(), t.tv_sec, t.tv_nsec);
    pause();
}
"""


def arrived(folder: Path, log: Path, spent: Callable[[], float]) -> tuple[float, float]:
    """Let it flow. (MB/s, seconds of CPU) until the GiB is in the file."""
    time.sleep(0.5)  # not counting startup
    before, mark = spent(), folder / "mark"
    (folder / "go").touch()
    while not mark.exists() or not mark.read_text():
        time.sleep(0.001)
    began = float(mark.read_text())
    while not log.exists() or log.stat().st_size < GIB:
        time.sleep(0.002)
    return GIB / 1e6 / (time.monotonic() - began), spent() - before


def through_cat(flood: str, folder: Path) -> tuple[float, float]:
    log = folder / "log"
    with log.open("wb") as file:
        child = subprocess.Popen([flood, folder, str(GIB)], stdout=subprocess.PIPE)
        cat = subprocess.Popen(["cat"], stdin=child.stdout, stdout=file)
        child.stdout.close()
        try:
            return arrived(folder, log, lambda: cpu(cat.pid))
        finally:
            child.kill()
            child.wait()
            cat.wait()


def through_supervisord(flood: str, folder: Path) -> tuple[float, float]:
    log, conf = folder / "log", folder / "supervisord.conf"
    conf.write_text(
        textwrap.dedent(f"""
        [supervisord]
        nodaemon = true
        user = {os.geteuid()}
        logfile = {folder}/supervisord.log
        pidfile = {folder}/supervisord.pid
        [program:flood]
        command = {flood} {folder} {GIB}
        stdout_logfile = {log}
        stdout_logfile_maxbytes = 0
        """)
    )
    command = [str(Path(PYTHON).with_name("supervisord")), "-c", str(conf)]
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (folder / "supervisord.pid").exists():
            time.sleep(0.01)
        return arrived(folder, log, lambda: cpu(daemon.pid))
    finally:
        daemon.terminate()
        daemon.wait()


def through_impetusd(flood: str, folder: Path) -> tuple[float, float]:
    with Instance(f"[program:flood]\ncommand = {flood} {folder} {GIB}\nmin_uptime = 0\n", {}) as instance:
        status = instance.status()
        pids = (status["shim"]["pid"], status["supervisor"]["pid"])
        return arrived(folder, instance.dir / "var/log/flood-out.log", lambda: cpu(*pids))


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ib-") as folder:
        yield Path(folder)


def restarts(flood: str, says_when: str, rounds: int, *, flooding: bool) -> list[float]:
    """Milliseconds from the kill of one program to the first instruction of the next."""
    with scratch() as folder:
        told = folder / "told"
        told.touch()
        (folder / "go").touch()
        ini = f"[program:p]\ncommand = {says_when} {told}\nmin_uptime = 5ms\nmax_restarts = 100000\n"
        if flooding:
            ini += (
                f"[program:flood]\ncommand = {flood} {folder} 0\nlog_max_size = 1G\nlog_keep = 1\nlog_compress = no\n"
            )
        took = []
        with Instance(ini, {}):
            for number in range(1, rounds + 1):
                while len(lines := told.read_text().splitlines()) < number:
                    time.sleep(0.001)
                time.sleep(0.02)  # it has been up for min_uptime then: the next start is not delayed
                began = time.monotonic()
                os.kill(int(lines[-1].split()[0]), signal.SIGKILL)
                while len(lines := told.read_text().splitlines()) <= number:
                    time.sleep(0.001)
                took.append((float(lines[-1].split()[1]) - began) * 1e3)
        return took


def flooding_child(rounds: int, kills: int) -> None:
    """A GiB through each by turns; then kills of another program while the flood goes on."""
    ways = {"impetusd": through_impetusd, "cat > file": through_cat, "supervisord": through_supervisord}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    with scratch() as tools:
        flood, says_when = compile_c(str(tools), "flood", FLOOD), compile_c(str(tools), "says_when", SAYS_WHEN)
        for _ in range(rounds):
            for name, way in ways.items():
                with scratch() as folder:
                    rate, seconds = way(flood, folder)
                rates[name].append(rate)
                spent[name].append(seconds)
        alone = restarts(flood, says_when, kills, flooding=False)
        during = restarts(flood, says_when, kills, flooding=True)
    rate = {name: statistics.median(each) for name, each in rates.items()}
    took = {name: statistics.median(each) for name, each in spent.items()}
    others = "cat > file", "supervisord"
    show(
        f"a child floods its log, 1 GiB in 64 KiB writes (median of {rounds}, by turns)",
        f"{rate['impetusd']:,.0f} MB/s   {took['impetusd']:.2f} s of CPU a GiB",
        "; ".join(f"{name}: {rate[name]:,.0f} MB/s, {took[name]:.2f} s" for name in others),
        "no slower and no more CPU than supervisord",
        rate["impetusd"] >= rate["supervisord"] and took["impetusd"] <= took["supervisord"],
    )
    p99 = percentile(during, 0.99)
    show(
        f"another program killed meanwhile → first instruction of the next ({kills} ×)",
        f"p50 {statistics.median(during):.1f} ms   p99 {p99:.1f}   max {max(during):.1f}",
        f"without the flood: p50 {statistics.median(alone):.1f} ms   p99 {percentile(alone, 0.99):.1f}",
        "p99 ≤ 20 ms",
        p99 <= 20,
    )
