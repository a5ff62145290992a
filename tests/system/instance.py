"""One real impetusd in a folder of its own, driven from outside as an operator drives it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import census
import commanding
from commanding import COMMAND
from waiting import PATIENCE, wait_for

from impetusd.cli import pending
from impetusd.cli.place import Place
from impetusd.client import control, launch
from impetusd.core.config.location import locate
from impetusd.core.config.problem import ConfigError
from impetusd.core.reasons import Reason, of_record, read

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
LOOKS_APART = 0.02  # seconds; a look at the status costs the daemon 1 ms
PYTHON = f"{shlex.quote(sys.executable)} -ES"  # -S: a misbehaving program needs no site-packages, and starts in half the time


def program(name: str, *arguments: object) -> str:
    """The command line of a program in tests/programs."""
    return " ".join([PYTHON, *(shlex.quote(str(word)) for word in (PROGRAMS / f"{name}.py", *arguments))])


def in_all_log_modes(keys: str) -> str:
    """Programs with these keys, one for each way in which lines become a log."""
    more = {"plain": "", "time": "time = yes", "json": "log_format = json", "many": "instances = 3\nmerge_logs = yes"}
    return "".join(f"[program:{name}]\n{keys}\n{own}\n" for name, own in more.items())


def pool(port: int, app: str = "app_hello:make", **keys: object) -> str:
    """The keys of a pool of two workers on `port`; `keys` come last."""
    own: dict[str, object] = {"app": app, "cwd": PROGRAMS, "listen": f"127.0.0.1:{port}", "instances": 2, **keys}
    return "".join(f"{key} = {value}\n" for key, value in own.items())


# Of what is asked in this process, as it is of what is waited for.
control.FIRST_BYTE = control.SOCKET_BACK = PATIENCE


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Row:
    """One slot of `status --json`, its keys as attributes."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def reason(self) -> str:
        """The sentence: of `status --json`, or as the daemon says it."""
        reason = self.fields["reason"]
        return str(reason if isinstance(reason, str) else reason["text"])

    @property
    def why(self) -> Reason:
        """Key and facts."""
        reason = self.fields["reason"]
        return of_record(self.fields) if isinstance(reason, str) else read(reason)

    def __repr__(self) -> str:
        return f"<{self.name} {self.state} {self.pid} {self.reason!r}>"


class Status:
    """What `status --json` said."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.shim: int = fields["shim"]["pid"]
        self.supervisor: int = fields["supervisor"]["pid"]
        self.rows = {each["name"]: Row(each) for each in fields["units"]}

    def __getitem__(self, name: str) -> Row:
        return self.rows[name]

    @property
    def pids(self) -> dict[str, int]:
        return {name: row.pid for name, row in self.rows.items() if row.pid is not None}

    @property
    def all_running(self) -> bool:
        return all(row.state == "RUNNING" for row in self.rows.values())

    def __repr__(self) -> str:
        return f"<status shim {self.shim} supervisor {self.supervisor} {list(self.rows.values())}>"


class Instance:
    """An INI file, the commands on it, and the daemon that they start.

    `user`: run everything as this user (the harness is root then); None: as the user that runs the tests.
    """

    def __init__(self, user: str | None = None) -> None:
        # Not tmp_path: a unix socket's path has at most 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="imps", dir="/tmp")).resolve()
        self.user = user
        self.command = COMMAND
        self.elsewhere = False  # its commands see other files than we do, or are of another version
        self.conf = self.root / "impetusd.ini"
        self._reserved: list[socket.socket] = []
        self._commands: list[subprocess.Popen[str]] = []
        self._strangers: list[subprocess.Popen[bytes]] = []
        self._seen: dict[int, census.Process] = {}  # by pid, at the last look
        self.environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(self.root), "HOME": str(self.root)}
        if user is not None:
            person = pwd.getpwnam(user)
            os.chown(self.root, person.pw_uid, person.pw_gid)

    # Preparing.

    def write(self, text: str, name: str = "impetusd.ini") -> Path:
        """Write a file of the instance; the INI, if no other is named."""
        path = self.root / name
        path.write_text(text, encoding="utf-8")
        return path

    def port(self) -> int:
        """A TCP port of 127.0.0.1 that nobody else gets.

        It stays bound, without listening: with SO_REUSEADDR on both sides impetusd may still listen there, while the
        kernel hands it to nobody who asks for any port.
        """
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        self._reserved.append(sock)
        port: int = sock.getsockname()[1]
        return port

    def stranger(self) -> subprocess.Popen[bytes]:
        """A process that is none of impetusd's business."""
        process = subprocess.Popen(["sleep", "300"], env={})
        self._strangers.append(process)
        return process

    # Commands.

    def popen(
        self,
        *arguments: object,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        stdout: int | BinaryIO = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a command on this instance's INI; it is cleared away with the instance."""
        process = commanding.popen(
            [*self.command, "-c", str(self.conf), *map(str, arguments)],
            {**self.environ, **(env or {})},
            cwd=cwd or self.root,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            encoding="utf-8",
            user=self.user,
            group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
            extra_groups=None if self.user is None else [],
        )
        self._commands.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], code: int | None = 0) -> Result:
        """Wait for a command; it must end with `code`, unless that is None."""
        out, err = process.communicate(timeout=PATIENCE)
        result = Result(process.returncode, out or "", err)
        if code is not None:
            assert result.code == code, f"{process.args}: {result}\n{self.log()}"
        assert "Traceback" not in err, result
        return result

    def run(self, *arguments: object, code: int | None = 0, **how: Any) -> Result:
        """Run a command to its end."""
        return self.finish(self.popen(*arguments, **how), code)

    def start(self, ini: str | None = None) -> Status:
        """Write the INI, if one is given, and `start`, which must succeed."""
        if ini is not None:
            self.write(ini)
        self.run("start")
        return self.status()

    def status(self, *names: str) -> Status:
        """`status --json`, whatever it exits with. Asked in this process: tests look often, and an interpreter is costly."""
        at = self._place()
        if at is None:
            result = self.run("status", "--json", *names, code=None)
            assert result.code in {0, 1}, f"{result}\n{self.log()}"
            return Status(json.loads(result.out))
        try:
            answer = control.call(at.paths, "status", {"names": list(names)})
        except control.ControlError as error:
            raise AssertionError(f"status: {error}\n{self.log()}") from None
        answer["pending"] = pending.notice(at, answer) is not None
        answer.pop("in_force", None)
        return Status(answer)

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """What the daemon answers; asked in this process, too."""
        return control.call(locate("", str(self.conf), self.environ), method, params)

    def _place(self) -> Place | None:
        """Where the daemon is to be asked; None if only a command can tell."""
        if self.elsewhere or self.conf.name != "impetusd.ini":
            return None
        try:
            text = self.conf.read_text(encoding="utf-8-sig", errors="replace")
            return Place(str(self.conf), locate(text, str(self.conf), self.environ), "impetusd")
        except (OSError, ConfigError):
            return None

    # Looking.

    def log(self, name: str = "impetusd.log") -> str:
        """A file in the log directory; '' when there is none yet."""
        try:
            return (self.root / "var" / "log" / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def says(self, text: str, times: int | None = None) -> None:
        """Wait for `text` in the daemon's log, which is written a moment after what it tells of; so often, and no more."""
        wait_for(lambda: self.log().count(text) >= (times or 1), lambda: f"{text!r} in the log:\n{self.log()}")
        assert times is None or self.log().count(text) == times, self.log()

    def ledger(self) -> list[dict[str, Any]]:
        """The records that are whole; they are written a moment after what they tell of."""
        path = self.root / "var" / "lib" / "ledger.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    @property
    def run_dir(self) -> Path:
        return self.root / "var" / "run"

    @property
    def control_socket(self) -> Path:
        return self.run_dir / "control.sock"

    def notify_address(self, pid: int) -> str:
        """The socket that a process was told to notify through."""
        environ = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
        address = next(each for each in environ if each.startswith("NOTIFY_SOCKET=")).partition("=")[2]
        return "\0" + address[1:] if address.startswith("@") else address

    def members(self) -> list[census.Process]:
        """The daemon and all that it started, without the commands that the harness runs.

        Who was seen once is one until it has ended: a process on its way out has no environment left, but still its files
        and their locks.
        """
        own = {process.pid for process in self._commands if process.poll() is None}  # an ended one's pid is given again
        found = {each.pid: each for each in census.members(self.root)}
        for pid, process in self._seen.items():
            now = census.read(pid)
            if pid not in found and now is not None and now.started == process.started and not now.zombie:
                found[pid] = replace(now, command=process.command)
        self._seen = found
        # `impetusd run` becomes the daemon.
        return [each for each in found.values() if each.pid not in own or "shim/__main__.py" in each.command]

    def wait_status(self, holds: Callable[[Status], bool]) -> Status:
        """Wait until what `status` says `holds`."""
        seen: list[Status] = []

        def reached() -> bool:
            seen[:] = [self.status()]
            return holds(seen[0])

        wait_for(reached, lambda: f"another status than {seen}\n{self.log()}", apart=LOOKS_APART)
        return seen[0]

    def wait_state(self, name: str, *states: str) -> Row:
        """Wait until a slot is in one of `states`."""
        self.seen: Status

        def reached() -> bool:
            self.seen = self.status()
            return self.seen[name].state in states

        try:
            wait_for(reached, f"{name} to be {' or '.join(states)}", apart=LOOKS_APART)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.seen}\n{self.log()}") from None
        return self.seen[name]

    def wait_state_of_daemon(self, name: str, *states: str) -> Row:
        """The same, for a daemon that is only just being started by another command."""

        def answers() -> bool:
            with contextlib.suppress(AssertionError):
                return bool(self.status().rows)
            return False

        wait_for(answers, lambda: f"a daemon; {self._ended()}\n{self.log()}", apart=LOOKS_APART)
        return self.wait_state(name, *states)

    def _ended(self) -> str:
        """What the commands that have ended printed, with their exit codes: why no daemon is there."""
        ended = [each for each in self._commands if each.poll() is not None]
        return "\n".join(f"{each.args}: {each.returncode} {each.communicate()}" for each in ended)

    def settle(self, holds: Callable[[Status], bool] = lambda _: True) -> Status:
        """Wait until every slot is RUNNING, `holds`, and the host shows exactly those processes: none twice, no zombie."""
        trouble = ""
        status = self.status()

        def whole() -> bool:
            nonlocal status, trouble
            status = self.status()
            if not status.all_running or not holds(status):
                trouble = "not everything is RUNNING, or not as expected"
                return False
            trouble = self.discrepancy(status)
            return not trouble

        try:
            wait_for(whole, "everything to run, once", apart=LOOKS_APART)
        except AssertionError:
            raise AssertionError(f"{trouble}: {status}\n{self.log()}") from None
        return status

    def discrepancy(self, status: Status) -> str:
        """How the host differs from what `status` says; '' if it does not."""
        wanted = sorted([status.shim, status.supervisor, *status.pids.values()])
        there = sorted(process.pid for process in self.members())
        if there != wanted:
            return f"processes {[census.read(pid) for pid in there]} instead of {wanted}"
        zombies = [process for process in census.children(status.shim) if process.zombie]
        if zombies:
            return f"zombies: {zombies}"
        crowded = {
            path.name: pids for path in census.cgroups(self.root) if len(pids := census.cgroup_members(path)) > 1
        }
        if crowded:
            return f"several processes in one cgroup: {crowded}"
        return ""

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Signal a process of this instance, and no other. One that is to stop stands still afterwards."""
        process = census.read(pid)
        assert process is not None, f"{pid} is not there"
        # While a process executes another program, its environment, by which it is known, is empty for a moment.
        wait_for(lambda: pid in {each.pid for each in self.members()}, f"{process} to be ours")
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            wait_for(lambda: set(census.thread_states(pid)) <= {"T"}, f"{process} to stand still")

    # The end.

    def destroy(self) -> list[str]:
        """Stop the daemon, kill what is left, remove the folder. Returns what had been left over, which is a failure."""
        found: list[str] = []
        for process in self._strangers:
            process.kill()
            process.wait()
        if self.members() and self.conf.exists():
            try:
                self._stop()
            except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
                found.append(f"stop: {error}")
        for command in self._commands:
            if command.poll() is None:
                found.append(f"still running: {command.args}")
                command.kill()
            command.communicate()
        for sock in self._reserved:
            sock.close()
        # A process that has let go of everything may still be on its way out.
        try:
            wait_for(lambda: not self.members(), "every process to be gone")
        except AssertionError:
            found += [f"left over: {process}" for process in self.members()]
        wait_for(self._none_left, "what was left to be killed")
        found += [f"left over: {path}" for path in self.root.glob("var/run/*")]
        for path in reversed(census.cgroups(self.root)):
            try:
                os.rmdir(path)
                found.append(f"left over: {path}")
            except FileNotFoundError:
                continue  # it went by itself meanwhile
        shutil.rmtree(self.root, ignore_errors=True)
        return found

    def _stop(self) -> None:
        """`stop`, likewise in this process; by the command where no daemon answers."""
        at = self._place()
        try:
            pong = control.ping(at.paths) if at is not None else None
            if at is None or pong is None:
                self.run("stop")
                return
            answer = control.call(at.paths, "stop", {"names": []})
            launch.wait_gone(at.paths, pong["shim"]["pid"])
        except (OSError, control.ControlError):
            self.run("stop")
        else:
            left = [row for row in answer["units"] if row["pid"] is not None]
            assert not left, left

    def _none_left(self) -> bool:
        left = self.members()
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return not left
