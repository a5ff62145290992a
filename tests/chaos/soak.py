"""`scripts/chaos --soak MINUTES`: random units, commands, clients and faults, and after each step what must always hold.

Each step is drawn from the seed and its own number alone, and victims are drawn from the INI file, not from what happens to
run: so the same seed does the same things in the same order, whatever the host is busy with. Where that can be had, the
instance lives in a mount namespace of its own, with a disk that fills, one that freezes, and a passwd file that loses a user.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import census
from instance import PROGRAMS, Instance, Result, pool, program
from mounts import CannotMount, mounted

ANSWER = 60.0  # seconds that a command may take: the slowest waits for a start with listen_timeout and its retries
CALM = 45.0  # seconds after a step within which everything must be as it should: a hung supervisor is noticed after 30
ZOMBIE = 1.0  # seconds that one may stay one, once the supervisor answers
MORE_DESCRIPTORS = 24  # than at the beginning: log files are opened with their first line
MORE_MEMORY = 24 << 20  # bytes of resident memory more than at the beginning, of each of the two
USER = "impsoak"  # only in the soak's own passwd
OURS = f"{USER}:x:64123:64123::/:/bin/sh\n"
EXIT_CODES = frozenset(range(8))
NOT_STARTED = 1
# $1 is the instance's folder.
SURROUNDINGS = """\
mount --bind "$1/passwd" /etc/passwd && mount -t tmpfs -o size=256k tmpfs "$1/small" &&
mkfs.ext4 -q "$1/image" && mount -o loop "$1/image" "$1/cold" && fsfreeze -f "$1/cold" && fsfreeze -u "$1/cold"\
"""
KEPT_STEPS = 12  # that are shown with a violation

ALWAYS = "max_restarts = 1000000\nmin_uptime = 100ms\nkill_timeout = 1s\nrestart_delay = 200ms\n"
PROGRAMS_OF = {
    "quiet": "command = sleep 100000\n",
    "printer": f"command = {program('torrent', 'line', 200)}\ntime = yes\n",
    "family": f"command = {program('family', 'setsid')}\n",
    "deaf": f"command = {program('ignore_term')}\nwait_ready = yes\n",
    "faulty": 'command = sh -c "sleep 0.4; exit 3"\n',
    "json": f"command = {program('torrent', 'row', 100)}\nlog_format = json\nmerge_logs = yes\ninstances = 2\n",
}
TIMERS = {"tick": ("1s", "0.15"), "tock": ("1s", "0.25")}


class Violation(Exception):
    """Something that must always hold does not."""


@dataclass
class Setup:
    """What the INI file says: which programs there are, and a number that changes their environment."""

    programs: list[str] = field(default_factory=list)
    version: int = 0

    def ini(self, kinds: dict[str, str], port: int, *, mistakes: bool = False) -> str:
        """The text; with `mistakes`, one that must be refused."""
        parts = [
            f"[program:{name}]\n{kinds[name]}{ALWAYS}[env:{name}]\nVERSION = {self.version}\n" for name in self.programs
        ]
        parts.append(
            f"[pool:web]\n{pool(port, cwd=PROGRAMS, reload_watch='100ms', drain_timeout='500ms', listen_timeout='10s')}{ALWAYS}"
        )
        for name, (every, takes) in TIMERS.items():
            parts.append(f'[timer:{name}]\nevery = {every}\ncommand = sh -c "sleep {takes}"\n')
        if "quiet" in self.programs:
            parts.append('[health:alive]\nexec = sh -c "exit 0"\ntarget = quiet\ninterval = 2s\ntimeout = 2s\n')
        if mistakes:
            parts.append("[program:broken]\nno_such_key = 1\n")
        return "".join(parts)


class Soak:
    """One instance, what is done to it (one of `deeds` a step), and what must hold. `tell` prints a line of the journal."""

    def __init__(self, impetusd: Instance, seed: int, tell: Callable[[str], None], deeds: Sequence[Deed]) -> None:
        self.impetusd = impetusd
        self.root = impetusd.root
        self._seed = seed
        self._tell = tell
        self._deeds = deeds
        self.random = random.Random(seed)
        self.port = impetusd.port()
        self.setup = Setup()
        self.step = 0
        self._journal: list[str] = []
        self._surroundings = contextlib.ExitStack()
        self.inside: list[str] = []  # the beginning of a command that sees them; [] where they cannot be had
        self.ended = False  # this step may have ended all of impetusd
        self._faults = contextlib.ExitStack()  # of this step: closed at its end
        self.kinds = dict(PROGRAMS_OF)
        self._since: dict[tuple[int, int], float] = {}  # zombies, and when they were first seen
        self._baseline: dict[str, dict[str, int]] = {}

    def __enter__(self) -> Self:
        self._make_surroundings()
        self.setup.programs = sorted(self.kinds)
        self.write()
        if (started := self.command("start")).code not in {0, 1}:
            raise Violation(f"the first start: {started}")
        self.calm()
        self._baseline = self._size()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.impetusd.run("stop", code=None)
        self._surroundings.close()
        (self.impetusd.run_dir / "table.bad").unlink(missing_ok=True)  # a damaged table is kept for who wants to know

    def _make_surroundings(self) -> None:
        """Disks and a passwd file of its own, and units that use them."""
        self.others = Path("/etc/passwd").read_text()
        (self.root / "passwd").write_text(self.others + OURS)
        for name in ("small", "cold"):
            (self.root / name).mkdir()
        with (self.root / "image").open("wb") as file:
            file.truncate(16 << 20)
        try:
            self.inside = self._surroundings.enter_context(mounted(self.impetusd, SURROUNDINGS, self.root))
        except CannotMount as error:
            self._tell(f"without disks and users of its own: {error}")
            return
        self.kinds["printer"] += "out_file = small/printer.log\nlog_max_size = 64k\nlog_keep = 1\n"
        self.kinds["json"] += "out_file = cold/json.log\n"
        self.kinds["user"] = f"command = /bin/sleep 100000\nuser = {USER}\n"

    def within(self, *command: str) -> None:
        """Run a command that sees the surroundings."""
        subprocess.run([*self.inside, *command], check=False, capture_output=True)

    def write(self, *, mistakes: bool = False) -> None:
        """Write the INI file, aside and renamed, as an editor does."""
        aside = self.root / "impetusd.ini.new"
        aside.write_text(self.setup.ini(self.kinds, self.port, mistakes=mistakes))
        aside.rename(self.impetusd.conf)

    # Commands.

    def command(self, *words: str, conf: Path | None = None) -> Result:
        """Run one to its end."""
        return self.finish(self.begin(words, conf))

    def commands(self, *several: tuple[str, ...]) -> list[Result]:
        """Run several clients' commands at the same time."""
        begun = [self.begin(words, None) for words in several]
        return [self.finish(each) for each in begun]

    def begin(self, words: tuple[str, ...], conf: Path | None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.impetusd.command, "-c", str(conf or self.impetusd.conf), *words],
            env=self.impetusd.environ,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def finish(self, process: subprocess.Popen[str]) -> Result:
        words = " ".join(process.args[2:])  # type: ignore[index,arg-type]
        try:
            out, err = process.communicate(timeout=ANSWER)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise Violation(f"impetusd {words}: no end within {ANSWER:g} s\n{out}\n{err}") from None
        result = Result(process.returncode, out, err)
        if "Traceback" in out + err or result.code not in EXIT_CODES:
            raise Violation(f"impetusd {words}: {result}")
        return result

    # What holds.

    def calm(self) -> dict[str, Any]:
        """Wait until all laws hold, and return what `status` says then. Violation when they do not in time."""
        begun = time.monotonic()
        while True:
            trouble, status = self._trouble()
            if not trouble and status is not None:
                return status
            if (waited := time.monotonic() - begun) > CALM:
                raise Violation(f"{trouble}\nstatus: {json.dumps(status)[:4000]}")
            time.sleep(max(0.05, min(waited / 8, ZOMBIE / 2)))  # a look is a command, of 0.1 s of CPU

    def _trouble(self) -> tuple[str, dict[str, Any] | None]:
        """What is wrong now, and what `status` says."""
        self.never_twice()
        result = self.command("status", "--json")
        if result.code not in {0, 1}:
            tried = self.revive() if self.ended else ""
            return f"status: {result}{tried}", None
        if not result.out:
            raise Violation(f"status: {result}")
        status: dict[str, Any] = json.loads(result.out)
        pids = {row["name"]: row["pid"] for row in status["units"] if row["pid"]}
        managers = {status["shim"]["pid"], status["supervisor"]["pid"]}
        members = self.members()
        gone = {name: pid for name, pid in pids.items() if (found := census.read(pid)) is None or found.zombie}
        if gone:  # since it was asked, or is it not known?
            again = {row["name"]: row["pid"] for row in self.told()["units"]}
            if known := [name for name, pid in gone.items() if again.get(name) == pid]:
                return f"status shows these as running, and they are gone: {known}", status
        for row in status["units"]:
            if row["state"] in {"STARTING", "STOPPING"}:
                return f"{row['name']} is {row['state']}: {row['reason']}", status
            if row["state"] == "RUNNING" and not row["pid"]:
                return f"{row['name']} is RUNNING without a pid", status
        known = managers | set(pids.values())
        runs = {run for pid in pids.values() if (run := self._of(pid, "INVOCATION_ID"))}
        unknown = [
            each
            for each in members
            if each.pid not in known
            and self._of(each.pid, "INVOCATION_ID") not in runs
            and self._of(each.pid, "IMPETUSD_UNIT") not in {*TIMERS, "alive"}
        ]
        if unknown:
            return f"processes that status does not know: {unknown}", status
        return self._zombies(status["shim"]["pid"]), status

    def never_twice(self) -> None:
        """No slot of a program has processes of two runs. Violation, at once."""
        found = self._runs()
        if any(len(runs) > 1 for runs in found.values()):
            for name, runs in self._runs().items():  # /proc is not read in one instant: both must be seen again
                again = {run: pids & found.get(name, {}).get(run, set()) for run, pids in runs.items()}
                again = {run: pids for run, pids in again.items() if pids}
                if len(again) > 1:
                    raise Violation(f"{name} runs {len(again)} times: {again}")

    def _runs(self) -> dict[str, dict[str, set[int]]]:
        """Slot → run → pids, of programs; a pool's workers overlap on purpose."""
        found: dict[str, dict[str, set[int]]] = {}
        for each in self.members():
            unit, name, run = (self._of(each.pid, key) for key in ("IMPETUSD_UNIT", "IMPETUSD_NAME", "INVOCATION_ID"))
            if unit in self.kinds:
                found.setdefault(name, {}).setdefault(run, set()).add(each.pid)
        return found

    def members(self) -> list[census.Process]:
        own = {os.getpid()}
        return [
            each
            for each in census.members(self.root)
            if each.pid not in own and each.parent not in own and "-m impetusd.cli" not in each.command
        ]

    @staticmethod
    def _of(pid: int, variable: str) -> str:
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return ""
        found = re.search(rb"(?:^|\0)" + variable.encode() + rb"=([^\0]*)", environ)
        return os.fsdecode(found[1]) if found else ""

    def _zombies(self, shim: int) -> str:
        now = time.monotonic()
        seen = {(each.pid, each.started): each for each in census.children(shim) if each.zombie}
        self._since = {key: self._since.get(key, now) for key in seen}
        old = [seen[key] for key, since in self._since.items() if now - since > ZOMBIE]
        return f"zombies: {old}" if old else ""

    def _size(self) -> dict[str, dict[str, int]]:
        status = self.told()
        found = {}
        for who in ("shim", "supervisor"):
            pid = status[who]["pid"]
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            found[who] = {
                "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
                "memory": pages * resource.getpagesize(),
            }
        return found

    def flat(self) -> None:
        """Neither of the two has grown. Violation."""
        for who, now in self._size().items():
            before = self._baseline[who]
            if now["descriptors"] > before["descriptors"] + MORE_DESCRIPTORS:
                raise Violation(
                    f"the {who} has {now['descriptors']} descriptors, {before['descriptors']} at the beginning"
                )
            if now["memory"] > before["memory"] + MORE_MEMORY:
                raise Violation(f"the {who} has {now['memory']} bytes, {before['memory']} at the beginning")

    # The play.

    def go(self, seconds: float) -> int:
        """Do steps until the time is over. Returns how many. Raises Violation, with what was done before it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step += 1
            self.random = random.Random(f"{self._seed}:{self.step}")
            deed = self.random.choices(self._deeds, [each.weight for each in self._deeds])[0]
            try:
                self._do(deed)
            except (Violation, AssertionError, OSError) as error:
                told = "\n".join(self._journal[-KEPT_STEPS:])
                log = "\n".join(self.impetusd.log().splitlines()[-60:])
                raise Violation(f"seed {self._seed}, step {self.step}: {error!s}\n\n{told}\n\n{log}") from error
        return self.step

    def _do(self, deed: Deed) -> None:
        began = time.monotonic()
        self.ended = False
        try:
            said = deed.act(self) or ""
        finally:
            self._faults.close()
        line = f"{self.step:5} {deed.name} {said}"
        self._journal.append(line)
        self.calm()
        if self.step % 10 == 0:
            self.flat()
        self._tell(f"{line} ({time.monotonic() - began:.1f} s)")

    def revive(self) -> str:
        """An operator sees that nothing runs, and starts it; what cannot be taken over he ends first, as he is told to.

        Returns what he is told.
        """
        told = f"\nstart: {(started := self.command('start'))}"
        if started.code == NOT_STARTED and self.command("status").code not in {0, 1}:
            told += f"\nstop: {self.command('stop')}\nstart: {self.command('start')}"
        return told

    def meanwhile(self, end: Callable[[], object]) -> None:
        """Have `end` called at the end of the step, whatever happens."""
        self._faults.callback(end)

    def pids(self) -> dict[str, int]:
        """shim and supervisor."""
        status = self.told()
        return {who: status[who]["pid"] for who in ("shim", "supervisor")}

    def pid_of(self, name: str) -> int | None:
        """The main process of a slot."""
        result = self.command("status", "--json", name)
        if result.code and not result.out:  # it is disabled, or not in this INI file
            return None
        return next((row["pid"] for row in self._parsed(result)["units"] if row["pid"]), None)

    def told(self) -> dict[str, Any]:
        """What `status` says, which must answer. Violation."""
        return self._parsed(self.command("status", "--json"))

    @staticmethod
    def _parsed(result: Result) -> dict[str, Any]:
        try:
            said: dict[str, Any] = json.loads(result.out)
        except ValueError:
            raise Violation(f"status --json: {result}") from None
        return said

    def reachable(self) -> None:
        """Wait for the control socket. Violation if it does not come."""
        end = time.monotonic() + CALM
        while not self.impetusd.control_socket.exists():
            if time.monotonic() > end:
                raise Violation("the control socket does not come back")
            time.sleep(0.01)

    def slots(self) -> list[str]:
        """Names that are in the INI file."""
        return [*self.setup.programs, "web:0", "web:1", "web:template", "web:standby"]


@dataclass(frozen=True)
class Deed:
    """What a step may be; `act` returns what it chose, for the journal."""

    name: str
    weight: int
    act: Callable[[Soak], str | None]
