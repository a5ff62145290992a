"""PM2, by its own command of the same version: what it says of its processes is its own JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

from impetusd.interop.takeover.manager import ManagerFault, Process, Was
from impetusd.linux.proc import command_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LONGEST = 120.0  # seconds for one command of PM2's; it stops two processes at a time
STATES = {
    **dict.fromkeys(("online", "one-launch-status"), Was.RUNNING),
    **dict.fromkeys(("stopping", "launching"), Was.UNSETTLED),
    "stopped": Was.STOPPED,
}
TITLE = re.compile(rb"PM2 v(\S+): God Daemon")


class Pm2:
    """The PM2 of PM2_HOME."""

    title = "PM2"

    def __init__(self, home: str) -> None:
        """Raises ManagerFault where none runs, or one that this command cannot speak for."""
        self._home = home
        self.notes: list[str] = []
        self._watched: dict[str, bool] = {}  # id → whether it watches its folder; else a list, which a stop forgets
        try:
            with open(f"{home}/pm2.pid", encoding="ascii") as file:
                self.pid = int(file.read())
            uid = os.stat(f"/proc/{self.pid}").st_uid
            title = TITLE.match(b" ".join(command_line(self.pid)))
        except (OSError, ValueError):
            title = None
        if title is None:
            raise ManagerFault(f"no PM2 is running for PM2_HOME {home}; start it, or set PM2_HOME")
        if uid != os.geteuid():
            raise ManagerFault(
                f"the PM2 of {home} runs as user {uid}, but this command runs as {os.geteuid()}; run it as that user"
            )
        command = shutil.which("pm2")
        if command is None:
            raise ManagerFault("PM2 is running, but pm2 is not in PATH")
        self._command = command
        self._require_version(title[1].decode("ascii", "replace"))

    def _require_version(self, runs: str) -> None:
        """Another version's command starts a new daemon, or speaks past the one that runs."""
        package = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(self._command))), "package.json")
        try:
            with open(package, encoding="utf-8") as file:
                installed = json.load(file)["version"]
        except (OSError, ValueError, LookupError, TypeError):
            return  # a wrapper: what it prints is checked
        if installed != runs:
            raise ManagerFault(
                f"PM2 {runs} runs, and {self._command} is {installed}: put that version into PATH"
                " (pm2 update restarts every app)"
            )

    def _run(self, *words: str) -> str:
        # A file, for PM2 may exit before a pipe has taken all.
        with tempfile.TemporaryFile() as out:
            try:
                done = subprocess.run(
                    [self._command, *words],
                    env={**os.environ, "PM2_HOME": self._home, "PM2_DISCRETE_MODE": "true", "NO_COLOR": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.PIPE,
                    timeout=LONGEST,
                    start_new_session=True,  # Ctrl-C is for the take-over, which restores what it has begun
                    check=False,
                )
            except OSError as error:
                raise ManagerFault(f"cannot run {self._command}: {error.strerror}") from None
            except subprocess.TimeoutExpired:
                raise ManagerFault(f"pm2 {' '.join(words)} did not finish within {LONGEST:.0f} s") from None
            out.seek(0)
            said = out.read().decode("utf-8", "replace")
        if done.returncode:
            lines = [*said.splitlines(), *done.stderr.decode("utf-8", "replace").splitlines()]
            last = next((line.strip() for line in reversed(lines) if "ERROR" in line), f"exit code {done.returncode}")
            raise ManagerFault(f"pm2 {' '.join(words)} failed: {last[:300]}")
        return said

    def processes(self) -> list[Process]:
        """All that it has."""
        said = self._run("jlist")
        text = next((line for line in reversed(said.splitlines()) if line.startswith("[")), "")
        try:
            told = json.loads(text)
            for each in told:
                if watch := each["pm2_env"].get("watch"):
                    self._watched[str(each["pm_id"])] = watch is True
            return [_process(each) for each in told]
        except (ValueError, LookupError, TypeError):
            raise ManagerFault("cannot parse the output of pm2 jlist") from None

    def stop(self, ids: Sequence[str]) -> None:
        """Stop these; they stay in its list."""
        self._run("stop", *ids)

    def start(self, ids: Sequence[str]) -> None:
        """With the environment that PM2 has of each, not with ours. A stop has switched watching off."""
        watching = [each for each in ids if self._watched.get(each)]
        if watching:
            self._run("restart", *watching, "--watch")
        others = [each for each in ids if each not in watching]
        if others:
            self._run("restart", *others)
        lists = [each for each in others if each in self._watched]
        if lists:
            self.notes.append(
                f"PM2 no longer watches the folders of {', '.join(lists)}; to watch them again, start it from its file"
            )

    def forget(self, processes: Iterable[Process]) -> None:
        """Also of what PM2 starts at boot, if it has saved its list."""
        if ids := [each.id for each in processes]:
            self._run("delete", *ids)
        if os.path.exists(f"{self._home}/dump.pm2"):
            self._run("save", "--force")

    def by_hand(self, ids: Sequence[str]) -> str:
        """What an operator types."""
        return f"pm2 restart {' '.join(ids)}"

    def at_the_end(self, *, empty: bool) -> list[str]:
        """What is left to do."""
        return ["pm2 unstartup (if you had used pm2 startup), then pm2 kill"] if empty else []


def _process(told: Any) -> Process:
    env = told["pm2_env"]
    said = str(env["status"])
    return Process(
        name=str(told["name"]),
        id=str(int(told["pm_id"])),
        was=STATES.get(said, Was.FAILED),
        said=said,
        pid=int(told.get("pid") or 0),
        shared=str(env.get("exec_mode", "")).startswith("cluster"),
        recurs=env.get("cron_restart") not in {None, "", "0", 0},
    )
