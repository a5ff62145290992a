"""Trees of real processes that grow, measured from a real event loop."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from waiting import until

from impetusd.core.rules.lifecycle import Slot, State
from impetusd.core.rules.memory import MB
from impetusd.linux import processes, procfs
from impetusd.supervisor.rules import memory
from impetusd.supervisor.rules.memory import Memory
from impetusd.supervisor.slots.entry import Role

PROGRAMS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "programs")
PATIENCE = 60.0
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


class Bench:
    """A Memory, the processes that it measures, and what it has asked for."""

    def __init__(self):
        self.asked, self.told, self.kept = [], [], []
        self.memory = Memory(
            os.getpid(),
            lambda entries, reason: self.asked.extend(("recycle", each.name, reason) for each in entries),
            lambda entry, reason: self.asked.append(("fail", entry.name, reason)),
            self.told.append,
            self.kept.append,
        )
        self.processes = []

    def run(self, program, *arguments, **ceiling):
        """Start a program in a slot with this ceiling (MB), and return its entry once it has printed its first line."""
        process = subprocess.Popen(
            [sys.executable, "-ES", f"{PROGRAMS}/{program}.py", *map(str, arguments)],
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        self.processes.append(process)
        line = process.stdout.readline()
        return self.entry(process.pid, line, **ceiling)

    def entry(self, pid, line="", *, restart=0, hold=0.0, kill=0, state=State.RUNNING, role=Role.PROGRAM):
        unit = SimpleNamespace(
            max_memory_restart=restart * MB,
            memory_hold=hold,
            max_memory_kill=kill * MB,
            preload=role is not Role.PROGRAM,
        )
        slot = Slot(state=state, pid=pid, started=0.0)  # long ago: it is looked at at once
        entry = SimpleNamespace(name=f"p{len(self.processes)}", unit=unit, role=role, slot=slot, line=line)
        self.memory.follow(entry)
        return entry

    async def until(self, condition):
        await until(condition, lambda: (self.asked, self.told))

    def end(self):
        self.memory.close()
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
            while True:  # what it left behind is ours, as a subreaper's
                try:
                    os.waitpid(-process.pid, 0)
                except ChildProcessError:
                    break


@pytest.fixture
def bench():
    """Runs a coroutine function with a Bench, whose process inherits the strays as the shim does."""

    def run(scenario):
        async def main():
            bench = Bench()
            try:
                await scenario(bench)
            finally:
                bench.end()

        asyncio.run(main())

    libc = ctypes.CDLL(None)
    libc.prctl(SUBREAPER, 1)
    yield run
    libc.prctl(SUBREAPER, 0)


@pytest.mark.parametrize("how", [[], ["--in-child"], ["--astray"]], ids=["itself", "its child", "its orphan"])
def test_a_tree_that_outgrows_its_ceiling_is_recycled_soon(bench, how):
    async def scenario(bench):
        # 5 MB a second, and so 2 s for a busy host to stay within 10 MB; core/test_memory_ceiling.py has the faster ones.
        bench.run("leak_memory", *how, "--from", 40, 5, restart=64)
        await bench.until(lambda: bench.asked)
        what, name, reason = bench.asked[0]
        size = reason.facts["used"] >> 20
        assert (what, name, reason.key, reason.facts["limit"]) == ("recycle", "p1", "max_memory_restart", 64 << 20)
        assert 64 <= size <= 74
        assert bench.told == []

    bench(scenario)


def test_over_max_memory_kill_it_is_killed_though_the_other_ceiling_is_held(bench):
    async def scenario(bench):
        bench.run("leak_memory", "--from", 50, "--to", 60, 5, restart=30, hold=3600.0, kill=55)
        await bench.until(lambda: bench.asked)
        assert {each[0] for each in bench.asked} == {"fail"}
        assert (bench.asked[0][2].key, bench.asked[0][2].facts["limit"]) == ("max_memory_kill", 55 * MB)

    bench(scenario)


def test_what_is_still_starting_is_not_recycled_before_it_runs(bench, monkeypatch):
    monkeypatch.setattr("impetusd.core.rules.memory.HELD", 0.1)

    async def scenario(bench):
        entry = bench.run("leak_memory", "--from", 60, 0, restart=30, state=State.STARTING)
        await bench.until(lambda: bench.memory.of("p1") is not None)
        looked = bench.memory._trees["p1"].watch.at
        await bench.until(lambda: bench.memory._trees["p1"].watch.at > looked)
        assert bench.asked == []
        entry.slot = Slot(state=State.RUNNING, pid=entry.slot.pid, started=0.0)
        await bench.until(lambda: bench.asked)

    bench(scenario)


def test_shared_pages_count_once(bench):
    async def scenario(bench):
        bench.run("leak_share", 60, 3, restart=150)
        await bench.until(lambda: bench.memory.of("p1") is not None)
        members = bench.memory._trees["p1"].members
        assert len(members) == 4
        assert sum(each.rss for each in members) > 240 * MB
        assert 60 * MB < bench.memory.of("p1") < 110 * MB
        assert bench.asked == []

    bench(scenario)


def test_a_pools_worker_is_counted_without_what_it_shares_with_the_others(bench):
    async def scenario(bench):
        holder = bench.run("leak_share", 60, 3, restart=10_000)
        one = bench.entry(int(holder.line.split()[1]), restart=50, role=Role.WORKER)
        one.name = "web:0"
        bench.memory.follow(one)
        await bench.until(lambda: bench.memory.of("web:0") is not None)
        assert 15 * MB < bench.memory.of("web:0") < 45 * MB

    bench(scenario)


def test_pss_is_read_seldom_and_always_before_a_verdict(bench, monkeypatch):
    real, reads = processes.proportional, []

    def counted(members):
        reads.append(real(members))
        return reads[-1]

    monkeypatch.setattr(processes, "proportional", counted)
    monkeypatch.setattr(memory, "SPARING", 1e9)

    async def scenario(bench):
        entry = bench.run("leak_share", 60, 3, restart=150)
        await bench.until(lambda: bench.memory.of("p1") is not None)
        tree = bench.memory._trees["p1"]
        for _ in range(3):
            looked, tree.due = tree.watch.at, 0.0
            bench.memory._arm()
            await bench.until(lambda at=looked: tree.watch.at > at)
        assert len(reads) == 1
        assert abs(tree.watch.used - reads[0][0]) < 20 * MB
        entry.unit.max_memory_restart = 0
        tree.ceiling, tree.due = memory.Ceiling(50 * MB, 0.0, 0), 0.0
        bench.memory._arm()
        await bench.until(lambda: bench.asked)
        assert len(reads) == 2

    bench(scenario)


def test_where_sharing_cannot_be_told_apart_the_reason_says_so(bench, monkeypatch):
    def refused(pid):
        raise PermissionError(13, "Permission denied", f"/proc/{pid}/smaps_rollup")

    monkeypatch.setattr(processes, "_pss", refused)

    async def scenario(bench):
        bench.run("leak_share", 60, 3, restart=150)
        await bench.until(lambda: bench.asked)
        facts = bench.asked[0][2].facts
        assert facts["used"] > 240 * MB
        assert facts["basis"] == "rss"

    bench(scenario)


@pytest.mark.parametrize(
    ("state", "role"),
    [(State.STOPPING, Role.PROGRAM), (State.STARTING, Role.NEXT), (State.RUNNING, Role.LEAVING)],
)
def test_max_memory_kill_holds_in_every_state_and_for_what_comes_and_goes(bench, state, role):
    async def main(b):
        entry = b.run("leak_memory", "--from", 30, 0)
        entry = b.entry(b.processes[0].pid, restart=10, kill=20, state=state, role=role)
        await b.until(lambda: b.asked)
        assert {(what, name) for what, name, _ in b.asked} == {("fail", entry.name)}

    bench(main)


def test_while_everything_is_stopped_only_max_memory_kill_holds(bench):
    async def main(b):
        b.memory.end()
        soft = b.run("leak_memory", "--from", 30, 0, restart=20)
        hard = b.run("leak_memory", "--from", 30, 0, kill=20)
        await b.until(lambda: b.asked)
        assert {(what, name) for what, name, _ in b.asked} == {("fail", hard.name)}
        assert soft.name != hard.name

    bench(main)


def test_without_a_ceiling_nothing_is_looked_at(bench, monkeypatch):
    monkeypatch.setattr(procfs, "pids", None)

    async def scenario(bench):
        bench.run("leak_memory", 0)
        assert bench.memory._timer is None
        assert bench.memory.of("p1") is None

    bench(scenario)


def test_of_a_slot_that_is_down_nothing_is_known(bench):
    async def scenario(bench):
        entry = bench.run("leak_memory", "--from", 40, 0, restart=100)
        await bench.until(lambda: (bench.memory.of("p1") or 0) > 40 * MB)
        entry.slot = Slot(state=State.STOPPING, pid=entry.slot.pid, started=0.0)
        bench.memory.follow(entry)
        assert bench.memory.of("p1") is None
        assert bench.memory._timer is None or not bench.memory._trees

    bench(scenario)


def test_once_closed_nothing_is_looked_at(bench):
    async def scenario(bench):
        bench.memory.close()
        bench.run("leak_memory", "--from", 40, 0, restart=30)
        assert bench.memory._timer is None

    bench(scenario)


def test_how_long_it_has_been_over_survives_a_supervisor(bench):
    async def scenario(bench):
        entry = bench.run("leak_memory", "--from", 60, 0, restart=30, hold=3600.0)
        await bench.until(lambda: bench.kept)
        bench.memory.close()
        text = bench.kept[-1].replace(str(bench.memory._over["p1"][1]), "0.5")
        successor = Bench()
        successor.memory.load(text)
        successor.memory.follow(entry)
        entry.unit.memory_hold = 0.0
        await bench.until(lambda: successor.memory.of("p1") is not None)
        assert successor.memory._trees["p1"].watch.over == 0.5
        successor.memory.close()

    bench(scenario)


def test_a_measurement_that_fails_is_told_and_tried_again(bench, monkeypatch):
    monkeypatch.setattr(memory, "FAR", 0.05)
    real, failed = procfs.pids, []

    def failing():
        if not failed:
            failed.append(True)
            raise OSError(24, "Too many open files")
        return real()

    monkeypatch.setattr(procfs, "pids", failing)

    async def scenario(bench):
        bench.run("leak_memory", "--from", 60, 0, restart=30)
        await bench.until(lambda: bench.asked)
        assert bench.told == ["memory could not be measured: OSError(24, 'Too many open files'); retrying in 0.05 s"]

    bench(scenario)


def test_many_that_sit_still_just_below_their_ceilings_wait_for_the_next_pass(bench, monkeypatch):
    passes = []

    async def scenario(bench):
        entry = bench.run("leak_memory", "--from", 40, 0, restart=1000)
        await bench.until(lambda: bench.memory.of("p1") is not None)
        measure = bench.memory._pass

        async def counted(now):
            passes.append(now)
            await measure(now)

        bench.memory._pass = counted
        tree = bench.memory._trees["p1"]
        tree.ceiling = memory.Ceiling(tree.watch.used + MB, 0.0, 0)
        tree.members *= 1000  # as if it were the whole host
        tree.due, bench.memory._earliest = 0.0, time.monotonic() + 1000.0
        bench.memory._arm()
        await bench.until(lambda: tree.due == bench.memory._earliest)
        assert passes == []
        tree.watch = memory.replace(tree.watch, growth=5.0 * MB)  # unless it grows
        tree.due = 0.0
        bench.memory._arm()
        await bench.until(lambda: 0.0 < tree.due < bench.memory._earliest)
        assert passes == []
        assert entry.slot.state is State.RUNNING

    bench(scenario)


def test_the_process_table_is_read_as_psutil_reads_it():
    import psutil

    me, theirs = processes.read(os.getpid()), psutil.Process()
    assert (me.pid, me.parent, me.group, me.session) == (os.getpid(), theirs.ppid(), os.getpgrp(), os.getsid(0))
    assert abs(me.rss - theirs.memory_info().rss) < 8 * MB
    assert set(procfs.pids()) & set(psutil.pids()) >= {1, os.getpid()}
    total, whole = processes.proportional([me])
    assert whole
    assert 0.5 < total / theirs.memory_full_info().pss < 2.0


def test_of_a_process_that_is_gone_nothing_is_read():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.read(child.pid) is None  # a zombie
    child.wait()
    assert processes.read(child.pid) is None
    assert processes.children(child.pid) == []
    gone = memory.Process(child.pid, 1, 1, 1, 1, 7 * MB)
    assert processes.proportional([gone]) == (0, True)
