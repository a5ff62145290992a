"""Memory ceilings: the trees of the slots that have one are measured, and those that outgrow it are reported.

One pass over the process table serves all of them. Between passes, trees near their ceiling are walked alone. The work
is done in slices of about a millisecond between the loop's other work, and a pass is not repeated before its own CPU
time is SHARE of what has gone by: however many programs sit still just below their ceilings, this stays cheap.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from impetusd.core.reasons import Reason
from impetusd.core.rules.lifecycle import State
from impetusd.core.rules.memory import (
    FAR,
    FIRST,
    Ceiling,
    Process,
    Watch,
    ceiling_of,
    look,
    lowest,
    max_interval,
    next_look,
    trees,
    urgent,
)
from impetusd.linux import processes, procfs
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots.entry import Entry, Role
from impetusd.supervisor.threads import NoAnswer, Threads

SOURCE = "memory ceilings"  # of what raises
SHARE = 0.0025  # of one core, for passes
SLICE = 64  # processes between two turns of the loop: 1 ms
ROLES = frozenset({Role.PROGRAM, Role.WORKER, Role.STANDBY})
MEASURED = ROLES | {Role.NEXT, Role.LEAVING}
SPARING = 50  # times what reading a tree's PSS takes, until it is read again; meanwhile RSS shows its growth
MOST = 4  # threads that read PSS
WITHIN = 2.0  # seconds for it
TOGETHER = 0.02  # seconds; what is due within is looked at in one go


class Tree:
    """A slot's present process with all that belongs to it."""

    __slots__ = ("again", "basis", "ceiling", "due", "entry", "known", "members", "pid", "shared", "watch")

    def __init__(self, entry: Entry, pid: int, ceiling: Ceiling) -> None:
        self.entry = entry
        self.pid = pid
        self.ceiling = ceiling
        self.watch = Watch(entry.slot.started or 0.0, 0)
        self.due = next_look(ceiling, self.watch, FIRST)
        self.members: list[Process] = []
        self.known = False  # whether it was measured at all
        self.shared = 0  # bytes that RSS counts in excess of PSS, when that was last read
        self.basis = ""
        self.again = 0.0  # when PSS is due to be read again


class Memory:
    """Measures while anything has a ceiling; without one it does nothing at all."""

    def __init__(
        self,
        shim: int,
        recycle: Callable[[Iterable[Entry], Reason], None],
        fail: Callable[[Entry, Reason], None],
        log: Callable[[str], None],
        keep: Callable[[str], None],
    ) -> None:
        """`shim`: the pid that strays have for a parent. `fail` kills at once. `keep` stores what `load` is given again."""
        self._shim = shim
        self._recycle = recycle
        self._fail = fail
        self._log = log
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._trees: dict[str, Tree] = {}
        self._over: dict[str, tuple[int, float]] = {}  # slot → pid, since when: what survives a supervisor
        self._timer: asyncio.TimerHandle | None = None
        self._round: asyncio.Task[None] | None = None
        self._host = 0  # processes that the last pass saw
        self._passed = float("-inf")
        self._earliest = 0.0  # of the next pass
        self._closed = self._ending = False
        self._threads = Threads("memory", MOST)
        self.faults = BARE
        self.cost = 0.0  # seconds of CPU in all

    def changed(self, change: Change) -> None:
        """The slot has another state or another process."""
        self.follow(change.entry)

    def follow(self, entry: Entry) -> None:
        """As the slot is now."""
        slot, tree = entry.slot, self._trees.get(entry.name)
        lasting = slot.state in {State.STARTING, State.RUNNING} and entry.role in ROLES
        if slot.pid is None or not (lasting or entry.unit.max_memory_kill):  # which holds for all live processes
            self._forget(entry.name)
            return
        if (tree is not None and tree.pid == slot.pid) or entry.role not in MEASURED or self._closed:
            return
        ceiling = ceiling_of(entry.unit)
        if ceiling is None:
            return
        tree = self._trees[entry.name] = Tree(entry, slot.pid, ceiling)
        pid, over = self._over.pop(entry.name, (0, 0.0))
        if pid == slot.pid:
            self._over[entry.name] = (pid, over)
            tree.watch = replace(tree.watch, over=over)
        self._arm()

    def _forget(self, name: str) -> None:
        self._trees.pop(name, None)
        if self._over.pop(name, None) is not None:
            self._loop.call_soon(
                self.faults.attempt, SOURCE, "keeping them", self._store
            )  # not amid the engine's round, which goes to the shim as a whole

    def _store(self) -> None:
        self._keep(self.dump())

    def of(self, name: str) -> int | None:
        """Bytes that the slot's tree had at the last look, as its ceiling counts them; None when there was none."""
        tree = self._trees.get(name)
        return tree.watch.used if tree is not None and tree.known else None

    def dump(self) -> str:
        """Since when which slots have been over their ceilings."""
        return json.dumps(self._over)

    def load(self, text: str) -> None:
        """What `dump` wrote, before the first `changed`."""
        self._over = {name: (pid, over) for name, (pid, over) in json.loads(text).items()}

    def end(self) -> None:
        """Everything is being stopped: nothing is recycled any more, and max_memory_kill still holds."""
        self._ending = True

    def close(self) -> None:
        """Stop looking, whatever still changes."""
        self._closed = True
        self._trees.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._round is not None:
            self._round.cancel()

    def _arm(self) -> None:
        """Set the one timer for what is due first; none during a round, which ends here."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._trees and self._round is None:
            due = min(tree.due for tree in self._trees.values())
            self._timer = self._loop.call_at(due, self.faults.attempt, SOURCE, "measuring", self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._round is None and not self._closed:
            self._round = self._loop.create_task(self._look())
            self._round.add_done_callback(lambda over: self.faults.contain(SOURCE, "measuring", self._ended, over))

    def _ended(self, round_: asyncio.Task[None]) -> None:
        self._round = None
        if round_.cancelled():
            return
        if (error := round_.exception()) is not None:
            for tree in self._trees.values():
                tree.due = time.monotonic() + FAR
            self._arm()
            if not isinstance(error, OSError):
                raise error
            self._log(f"memory could not be measured: {error!r}; retrying in {FAR:g} s")
        self._arm()

    async def _look(self) -> None:
        """Measure what is due, in the cheaper of the two ways."""
        now = time.monotonic()
        due = [tree for tree in self._trees.values() if tree.due <= now + TOGETHER]
        many = 3 * sum(max(1, len(tree.members)) for tree in due) > self._host  # a walk costs 3 times a pass's share
        if now >= self._earliest and (many or now - self._passed >= FAR):
            await self._pass(now)
            return
        for tree in due:
            if many and not urgent(tree.watch):
                tree.due = self._earliest
                continue
            began = time.thread_time()
            tree.members = self._walk(tree)
            self.cost += time.thread_time() - began
            await self._try_to_judge(tree)
            await asyncio.sleep(0)

    async def _pass(self, now: float) -> None:
        """Measure every tree from one reading of the process table."""
        began, spent = time.thread_time(), 0.0
        table: dict[int, Process] = {}
        for count, pid in enumerate(procfs.pids(), 1):
            process = processes.read(pid)
            if process is not None:
                table[pid] = process
            if count % SLICE == 0:
                spent += time.thread_time() - began
                await asyncio.sleep(0)
                began = time.thread_time()
        current = list(self._trees.values())
        known = {(each.pid, each.started): tree.pid for tree in current for each in tree.members}
        found = trees(table, {tree.pid for tree in current}, self._shim, known)
        spent += time.thread_time() - began
        self._host, self._passed = len(table), now
        for count, tree in enumerate(current, 1):
            began = time.thread_time()
            tree.members = found[tree.pid]
            await self._try_to_judge(tree)
            spent += time.thread_time() - began
            if count % SLICE == 0:
                await asyncio.sleep(0)
        self._earliest = now + spent / SHARE
        self.cost += spent

    @staticmethod
    def _walk(tree: Tree) -> list[Process]:
        """The tree read alone: down from its process, and from every member that the last look has seen."""
        found: dict[int, Process] = {}
        queue = [(tree.pid, 0), *((each.pid, each.started) for each in tree.members)]
        while queue:
            pid, started = queue.pop()
            process = processes.read(pid) if pid not in found else None
            if process is not None and started in {0, process.started}:
                found[pid] = process
                queue += [(child, 0) for child in processes.children(pid)]
        return list(found.values())

    @staticmethod
    def _matters(tree: Tree, at: float, used: int) -> bool:
        """Whether `used`, if it is right, is over a ceiling and was not, or the reverse, or calls for something."""
        after, verdict = look(tree.ceiling, tree.watch, at, used)
        return verdict is not None or (after.over is None) is not (tree.watch.over is None)

    async def _try_to_judge(self, tree: Tree) -> None:
        """An exception for one tree does not keep the others from being looked at."""
        try:
            await self._judge(tree)
        except Exception as error:
            if self.faults.strict:
                raise
            self.faults.note(tree.entry.name, "measuring its memory", error)
            tree.due = time.monotonic() + FAR

    async def _judge(self, tree: Tree) -> None:
        """Count the tree's members, and act on what that means."""
        at, entry, members, basis = time.monotonic(), tree.entry, tree.members, ""
        rss = used = sum(each.rss for each in members)
        shares = len(members) > 1 or (entry.role is not Role.PROGRAM and entry.unit.preload)
        if shares and rss > lowest(tree.ceiling) / 2:
            used = max(0, rss - tree.shared)
            if at >= tree.again or self._matters(tree, at, used):
                try:
                    used, whole = await self._threads.run(lambda: processes.proportional(members), WITHIN)
                except NoAnswer:  # the map of one that hangs in the kernel cannot be read
                    used, whole = rss, False
                tree.shared, tree.again = rss - used, at + (time.monotonic() - at) * SPARING
                tree.basis = "" if whole else "rss"
            basis = tree.basis
        if self._trees.get(entry.name) is not tree:
            return  # it has ended meanwhile
        tree.known = bool(members)
        tree.watch, verdict = look(tree.ceiling, tree.watch, at, used, basis)
        tree.due = next_look(tree.ceiling, tree.watch, max_interval(len(self._trees)))
        over = None if tree.watch.over is None else (tree.pid, tree.watch.over)
        if over != self._over.get(entry.name):
            if over is None:
                del self._over[entry.name]
            else:
                self._over[entry.name] = over
            self._store()
        if verdict is None:
            return
        if verdict.hard:
            self._fail(entry, verdict.reason)
        elif entry.slot.state is State.RUNNING and entry.role in ROLES and not self._ending:
            self._recycle([entry], verdict.reason)
        else:  # still starting: it may come down again, and is asked about again in HELD
            tree.watch = replace(tree.watch, told=None)
