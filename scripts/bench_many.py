"""Five hundred programs: what starting, stopping, asking about and keeping them takes."""

from __future__ import annotations

import statistics
import subprocess
import time
from pathlib import Path

from bench_base import PYTHON, Instance, cpu, show

COUNT = 500
# The same by nothing but fork + exec, in an interpreter of its own: how long until all have executed, and have ended.
BARE = """
import os, sys, time
began = time.monotonic()
executed, report = os.pipe2(os.O_CLOEXEC)
pids = []
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        os.execv("/bin/sleep", ["sleep", "100000"])
    pids.append(pid)
os.close(report)
os.read(executed, 1)
up = time.monotonic()
for pid in pids:
    os.kill(pid, 15)
for pid in pids:
    os.waitpid(pid, 0)
print(up - began, time.monotonic() - up)
"""


def many(keys: str = "") -> Instance:
    return Instance("".join(f"[program:p{n}]\ncommand = /bin/sleep 100000\n{keys}\n" for n in range(COUNT)), {})


def seconds(instance: Instance, *args: str) -> float:
    began = time.monotonic()
    instance.run(*args)
    return time.monotonic() - began


def many_started_and_stopped(rounds: int) -> None:
    """The commands as they are given, from fork to exit, by turns with 500 × fork + exec."""
    starts, stops, asks, bare_starts, bare_stops = [], [], [], [], []
    for _ in range(rounds):
        text = subprocess.run([PYTHON, "-ISc", BARE, str(COUNT)], check=True, capture_output=True, text=True).stdout
        up, down = map(float, text.split())
        bare_starts.append(up)
        bare_stops.append(down)
        instance = many("min_uptime = 0")  # else the command waits a second to see that they stay up
        try:
            starts.append(seconds(instance, "start"))
            asks += [seconds(instance, "status") for _ in range(5)]
        finally:
            stops.append(seconds(instance, "stop"))
        instance.remove()
    ratios = [ours / bare for ours, bare in zip(starts, bare_starts, strict=True)]
    ratio, stop, ask = (statistics.median(each) for each in (ratios, stops, asks))
    show(
        f"{COUNT} programs started ({rounds} ×), the daemon's own start included",
        f"p50 {statistics.median(starts):.2f} s   ratio p50 {ratio:.1f} ×   from {min(ratios):.1f} to {max(ratios):.1f}",
        f"{COUNT} × fork + exec: p50 {statistics.median(bare_starts):.2f} s",
        "≤ 3 ×",
        ratio <= 3,
    )
    show(
        f"{COUNT} programs stopped, and the daemon",
        f"p50 {stop:.2f} s   max {max(stops):.2f}",
        f"{COUNT} × kill + wait: p50 {statistics.median(bare_stops):.3f} s",
        "≤ 0.3 s",
        stop <= 0.3,
    )
    bare = []
    for _ in range(len(asks)):
        began = time.monotonic()
        subprocess.run([PYTHON, "-c", "pass"], check=True)
        bare.append(time.monotonic() - began)
    show(
        f"impetusd status at {COUNT} programs ({len(asks)} ×)",
        f"p50 {ask * 1e3:.0f} ms   max {max(asks) * 1e3:.0f}",
        f"python -c pass: p50 {statistics.median(bare) * 1e3:.0f} ms",
        "≤ 80 ms",
        ask <= 0.08,
    )


def pss(pid: int) -> float:
    """MB of memory, shared pages counted by share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


def many_idle(window: float = 60.0) -> None:
    """Both processes over a minute in which nothing happens; first without ceilings, then with one on each program."""
    for keys, what in (("", "no ceilings"), ("max_memory_restart = 100M", "a memory ceiling on each")):
        with many(keys) as instance:
            instance.settle()
            status = instance.status()
            pids = (status["shim"]["pid"], status["supervisor"]["pid"])
            time.sleep(10)  # the first looks are closer together
            before = [cpu(pid) for pid in pids]
            time.sleep(window)
            shim, supervisor = ((cpu(pid) - was) * 60e3 / window for pid, was in zip(pids, before, strict=True))
            sizes = [pss(pid) for pid in pids]
        took = f"shim {shim:.1f} + supervisor {supervisor:.1f} ms of CPU a minute"
        if not keys:
            show(f"{COUNT} idle programs, {what}", took, "0", "≤ 5 ms", shim + supervisor <= 5)
        else:
            share = (shim + supervisor) / 600
            show(f"{COUNT} idle programs, {what}", f"{took}: {share:.2f} % of a core", "0", "≤ 0.5 %", share <= 0.5)
        show(
            f"their memory (PSS), {what}",
            f"shim {sizes[0]:.1f} + supervisor {sizes[1]:.1f} = {sum(sizes):.1f} MB",
            f"two bare interpreters of {bare_pss():.1f} MB each",
            "≤ 26 MB",
            sum(sizes) <= 26,
        )


def bare_pss() -> float:
    child = subprocess.Popen([PYTHON, "-ISc", "print(flush=True); input()"], stdin=-1, stdout=-1)
    try:
        child.stdout.readline()
        return pss(child.pid)
    finally:
        child.communicate(b"\n")
