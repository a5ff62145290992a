"""`impetusd import --take-over`: what PM2 or supervisord runs is moved to impetusd, one unit after another."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import typing
from collections import Counter

import click

from impetusd.cli import lacking, moving, outcome, place, tryout
from impetusd.cli.failure import Failure
from impetusd.cli.screen.progress import Live
from impetusd.client import control, launch, reaper
from impetusd.client.control import ControlError
from impetusd.core.config import parser
from impetusd.core.config.include import Source
from impetusd.core.config.problem import ConfigError
from impetusd.core.protocol import EXIT_USAGE
from impetusd.core.units import counted
from impetusd.files import rewrite
from impetusd.interop.takeover import found, plan, sockets
from impetusd.interop.takeover.manager import ManagerFault, Was
from impetusd.interop.takeover.plan import ACTING, How, Known, Step
from impetusd.interop.takeover.pm2 import Pm2
from impetusd.interop.takeover.supervisord import Supervisord
from impetusd.linux.host import this_host

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from impetusd.cli.place import Place
    from impetusd.core.config.model import Config
    from impetusd.interop.importing.model import Imported
    from impetusd.interop.takeover.manager import Manager, Process

RECORD = "take-over.json"  # in state_dir, from the first step to the last: which processes ran under the old manager
MOST_RECORD = 1 << 20  # bytes


class TakeOver:
    """One call. `output`: the INI file as it was typed, which is made if it is not there; `again`: this call, as typed."""

    def __init__(self, imported: Imported, target: str, output: str, again: str) -> None:
        """Asks the old manager for all that it has. Raises Failure."""
        self._imported = imported
        self._target = target
        self._output = output
        self._again = again
        _require_programs(imported)
        try:
            self._manager = _manager(imported)
            there = _settled(self._manager)
        except ManagerFault as fault:
            raise Failure(f"nothing was done: {fault}", EXIT_USAGE) from None
        names = {each: program.name for program in imported.programs for each in program.theirs}
        self._theirs: dict[str, list[Process]] = {program.name: [] for program in imported.programs}
        self._others = [each for each in there if each.name not in names]
        for each in there:
            if each.name in names:
                self._theirs[names[each.name]].append(each)
        self._sockets = {
            name: sockets.listening(sockets.tree(each.pid for each in its)) for name, its in self._theirs.items()
        }
        cluster = any(each.shared for each in there)
        self._shared = sockets.listening([self._manager.pid]) if cluster else []

    def add_listen(self) -> None:
        """What the running processes show, for an INI that is yet to be written."""
        found.add_listen(self._imported, self._theirs, self._sockets, self._shared)

    def carry_out(self, text: str | None, write: Callable[[str], None], *, dry: bool, yes: bool) -> int:
        """`text`: of an INI that `write` writes before anything is moved; None where it is there. `dry`: only show the plan.

        Returns the exit code. Raises Failure, ControlError.
        """
        config, source = self._config(text)
        self._require(config, source)
        at = place.find(self._output) if text is None else None
        was = _recorded(at)
        steps = self._plan(config, at, was)
        self._show(steps)
        if dry:
            return 0
        acting = [step for step in steps if step.how in ACTING]
        if acting and not yes:
            if not sys.stdin.isatty():
                raise Failure(
                    "nothing was done: cannot ask for confirmation without a terminal; add --yes to skip the question",
                    EXIT_USAGE,
                )
            if not click.confirm("Continue?"):
                raise Failure("nothing was done")
        if text is not None:
            write(text)
        at = _running(place.find(self._output))
        _running_here(at, [])
        ran = {step.unit: list(step.ids) for step in acting}
        try:
            with moving.Interrupts() as interrupts, _record(at) as record:
                self._require_unchanged()
                _write(record, {**was, **ran})
                ours = moving.Ours(at)
                # A reboot does not start what is not moved yet.
                ours.stop([step.unit for step in steps if step.how is not How.MOVED and not step.again])
                self._move(at, steps, moving.Mover(self._manager, ours, config.units, interrupts))
                interrupts.hold()
                self._finish(steps)
                with contextlib.suppress(
                    OSError
                ):  # a disk that fails: nothing runs in the old manager, and no call reads it
                    record.remove()
        except KeyboardInterrupt:  # between two units
            raise Failure(f"interrupted; to continue: {self._again}", 130) from None
        return 0

    def _require_unchanged(self) -> None:
        """Failure if the old manager's processes are others than those of the plan."""
        before = {each.id: (each.was, each.pid) for its in self._theirs.values() for each in its}
        names = {each for program in self._imported.programs for each in program.theirs}
        try:
            now = {each.id: (each.was, each.pid) for each in self._manager.processes() if each.name in names}
        except ManagerFault as fault:
            raise Failure(f"nothing was moved: {fault}") from None
        if now != before:
            raise Failure(
                f"nothing was moved: the programs of {self._manager.title} changed in the meantime; run the command"
                " again"
            )

    def _config(self, text: str | None) -> tuple[Config, Source]:
        try:
            if text is not None:
                source = Source(self._target, text)
                return parser.parse_all(source, os.environ, this_host()), source
            source, profile = place.source_of(self._target, os.environ, None)
            return parser.parse_all(source, os.environ, this_host(), profile=profile), source
        except ConfigError as error:
            raise Failure(error.report(), EXIT_USAGE) from None

    def _require(self, config: Config, source: Source) -> None:
        """Failure unless every unit is there, and this host has what it needs."""
        absent = [each.name for each in self._imported.programs if each.name not in config.units]
        if absent:
            raise Failure(
                f"nothing was done: {self._output} has no unit {', '.join(absent)}; add what impetusd import prints"
                " for it, or choose a new file",
                EXIT_USAGE,
            )
        off = [each.name for each in self._imported.programs if not config.units[each.name].enabled]
        if off:
            raise Failure(f"nothing was done: {', '.join(off)} is not enabled in {self._output}", EXIT_USAGE)
        faults, lacks = lacking.lacking(config, source, os.environ)
        lacks += [] if faults or lacks else tryout.tryouts(config, source, os.environ)
        if faults or lacks:
            told = "\n".join(map(str, [*faults, *lacks]))
            raise Failure(f"nothing was done, because this host lacks what the units need:\n{told}", EXIT_USAGE)

    def _plan(self, config: Config, at: Place | None, was: Mapping[str, Sequence[str]]) -> list[Step]:
        names = [program.name for program in self._imported.programs]
        runs, up = _running_here(at, names)
        known = []
        for name in names:
            unit = config.units[name]
            its = self._sockets[name]
            if any(each.shared for each in self._theirs[name]):
                ports = {address.port for address in unit.listen}
                its = [*its, *(each for each in self._shared if each.port in ports)]
            ran = tuple(was.get(name, ()))
            known.append(Known(unit, tuple(self._theirs[name]), tuple(its), name in runs, name in up, ran))
        steps, refused = plan.steps(known, self._manager.title)
        if refused:
            raise Failure("nothing was done: " + "\n".join(refused))
        return steps

    def _show(self, steps: Sequence[Step]) -> None:
        print(f"Take over from {self._manager.title} (pid {self._manager.pid}):")
        width = max(len(step.unit) for step in steps)
        for step in steps:
            print(f"  {step.unit:<{width}}  {step.how.value:<16}  {step.why}".rstrip())
        if self._others:
            print(f"{self._manager.title} keeps: {', '.join(each.name for each in self._others)}")
        print(f"Then they are removed from the list of {self._manager.title}.", flush=True)

    def _move(self, at: Place, steps: Sequence[Step], mover: moving.Mover) -> None:
        moved = [step for step in steps if step.how is How.MOVED]
        for step in steps:
            if step.how not in ACTING:
                continue
            began = time.monotonic()
            try:
                said = mover.move(step)
            except KeyboardInterrupt:
                raise Failure(self._stopped(at, steps, moved, step, ["interrupted", *mover.troubles]), 130) from None
            except (moving.NotMoved, ControlError, ManagerFault, OSError) as error:
                raise Failure(self._stopped(at, steps, moved, step, [str(error), *mover.troubles])) from None
            moved.append(step)
            self._forget_recurring(step)
            print(f"{step.unit}: moved ({step.how.value}, {time.monotonic() - began:.1f} s{said})", flush=True)

    def _forget_recurring(self, step: Step) -> None:
        """What a clock would start there again is not left in the list until the end."""
        if recurring := [each for each in step.theirs if each.recurs]:
            try:
                self._manager.forget(recurring)
            except ManagerFault as fault:
                raise Failure(f"{step.unit} was moved, but {fault}; to continue: {self._again}") from None

    def _stopped(self, at: Place, steps: Sequence[Step], moved: Sequence[Step], step: Step, why: Sequence[str]) -> str:
        """Why it stopped at this step, and what to type. `why`: first the reason, then what went wrong in restoring."""
        lines = [f"{step.unit} was not moved: {why[0]}"]
        lines += why[1:] or [f"{step.unit} still runs under {self._manager.title}"]
        lines += self._manager.notes
        rest = [each.unit for each in steps if each.how in ACTING and each not in moved]
        lines.append(f"moved: {', '.join(each.unit for each in moved) or 'none'}; not moved: {', '.join(rest)}")
        lines.append(f"to continue: {self._again}")
        if back := [each for each in moved if each.theirs and not any(one.recurs for one in each.theirs)]:
            last = back[-1]
            ids = last.ids or tuple(each.id for each in last.theirs)
            lines.append(f"to move one back: {at.command} stop {last.unit} && {self._manager.by_hand(ids)}")
        return "\n".join(lines)

    def _finish(self, steps: Sequence[Step]) -> None:
        """Take them out of the old manager's list. Failure if it still runs one."""
        title = self._manager.title
        theirs = [each for step in steps for each in step.theirs]
        names = {each.name for each in theirs}
        try:
            there = self._manager.processes()
            ran = [each for each in there if each.name in names and each.was not in {Was.STOPPED, Was.ENDED}]
            if ran:
                raise Failure(
                    f"{', '.join(each.name for each in ran)} was started in {title} again; to continue: {self._again}"
                )
            self._manager.forget([each for each in there if each.name in names])
            left = self._manager.processes()
        except ManagerFault as fault:
            raise Failure(
                f"everything runs under impetusd, but {title} still lists it: {fault}; to continue: {self._again}"
            ) from None
        print(all_moved(title, len(left)))
        todo = [*self._manager.at_the_end(empty=not left), "impetusd startup, to start impetusd at boot"]
        print("\n".join(f"to do: {each}" for each in todo))


def all_moved(title: str, left: int) -> str:
    """What is said at the end. `left`: how many other programs the old manager still has."""
    return f"Everything was moved. {title} has {counted(left, 'program') if left else 'no programs'} left."


def _require_programs(imported: Imported) -> None:
    """Failure if it is another manager's file, has no program, or two of one name: whose processes are whose is not known
    then.
    """
    if imported.source not in {"pm2", "supervisord"}:
        raise Failure(
            f"nothing was done: only PM2 and supervisord can be taken over, not {imported.source}",
            EXIT_USAGE,
        )
    called = Counter(each for program in imported.programs for each in program.theirs)
    if not called:
        raise Failure("nothing was done: the file has no programs", EXIT_USAGE)
    if twice := sorted(each for each, count in called.items() if count > 1):
        raise Failure(
            f"nothing was done: several programs are called {', '.join(twice)}; their processes cannot be told apart;"
            " give each a unique name, there and in the file",
            EXIT_USAGE,
        )


def _manager(imported: Imported) -> Manager:
    if imported.source == "pm2":
        return Pm2(os.environ.get("PM2_HOME") or os.path.expanduser("~/.pm2"))
    url, user, password = imported.asked_at
    if not url:
        raise ManagerFault(
            "the file has neither [unix_http_server] nor [inet_http_server], which are needed to connect to supervisord"
        )
    return Supervisord(url, user, password)


def _settled(manager: Manager) -> list[Process]:
    """All that it has, once nothing is just being started or stopped, or after a while."""
    there = manager.processes()

    def settled() -> bool:
        there[:] = manager.processes()
        return not any(each.was is Was.UNSETTLED for each in there)

    if any(each.was is Was.UNSETTLED for each in there):
        with contextlib.suppress(moving.NotMoved):
            moving.until(settled, moving.BACK, lambda: "")
    return there


def _running_here(at: Place | None, names: Sequence[str]) -> tuple[set[str], set[str]]:
    """As `moving.Ours.running`. Failure if the daemon has not all of the INI file in force."""
    if at is None:
        return set(), set()
    try:
        changes = control.call(at.paths, "plan", {})["changes"]
    except control.NotRunning:
        if (left := reaper.left_behind(at.paths)).members:
            raise Failure(f"nothing was done: impetusd was killed, and {outcome.live_on(at, left)}") from None
        return set(), set()
    if changes:
        raise Failure(f"nothing was done: {at.conf} has changes that are not applied; first run: {at.command} apply")
    return moving.Ours(at).running(names)


def _running(at: Place) -> Place:
    """See that a daemon runs. Of a new one nothing is started."""
    launch.evict_stale(at.paths)
    with Live("starting impetusd") as live:
        try:
            control.call(at.paths, "ping", {}, live.hooks)
        except control.NotRunning:
            at = place.for_a_start(at)
            launch.ensure_running(at.paths, live.hooks)
    return at


def _recorded(at: Place | None) -> dict[str, list[str]]:
    """The units of an interrupted take-over, and the ids that ran; {} where there was none."""
    if at is None:
        return {}
    try:
        with open(f"{at.paths.state_dir}/{RECORD}", "rb") as file:
            told = json.loads(file.read(MOST_RECORD))
        return {str(name): [str(each) for each in ids] for name, ids in told["units"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


@contextlib.contextmanager
def _record(at: Place) -> typing.Iterator[rewrite.Rewriting]:
    path = f"{at.paths.state_dir}/{RECORD}"
    try:
        with contextlib.ExitStack() as stack:
            record = stack.enter_context(rewrite.Rewriting(path, MOST_RECORD))
            kept = stack.pop_all()
    except (rewrite.Busy, OSError) as error:
        raise Failure(f"nothing was done: {path} cannot be locked: {error}") from None
    with kept:
        yield record


def _write(record: rewrite.Rewriting, units: Mapping[str, Sequence[str]]) -> None:
    try:
        record.replace(json.dumps({"units": units}).encode(), 0o600)
    except OSError as error:
        raise Failure(f"nothing was moved: cannot write {record.path}: {error.strerror}") from None
