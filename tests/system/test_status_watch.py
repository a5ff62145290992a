"""`status --watch` on a real daemon: a terminal that is redrawn, a pipe with a line for each change, over a killed supervisor."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios

from instance import COMMAND, Instance
from waiting import wait_for


class Terminal:
    """A command on a terminal of 80 x 24; `text` is all that it has written."""

    def __init__(self, impetusd: Instance, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        os.set_blocking(self.master, False)
        environ = {**impetusd.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        words = [*COMMAND, "-c", str(impetusd.conf), *arguments]
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=environ, start_new_session=True
        )
        os.close(slave)
        self.text = ""

    def read(self) -> str:
        with contextlib.suppress(BlockingIOError, OSError):
            while part := os.read(self.master, 65536):
                self.text += part.decode()
        return self.text

    def screen(self) -> list[str]:
        """What is to be seen, by the sequences that the command uses."""
        lines = [""] * 24
        for row, written in re.findall(r"\x1b\[(\d+);1H(.*?)\x1b\[K", self.read(), re.DOTALL):
            lines[int(row) - 1] = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
        return lines

    def close(self) -> None:
        os.close(self.master)


def test_the_status_is_shown_as_it_changes_also_over_a_killed_supervisor(impetusd: Instance) -> None:
    impetusd.start(
        "[program:a]\ncommand = sleep 300\nmin_uptime = 0\n[program:b]\ncommand = sleep 300\nmin_uptime = 0\n"
    )
    before = impetusd.settle()
    terminal = Terminal(impetusd, "status", "--watch")
    lines = impetusd.root / "lines"
    objects = impetusd.root / "objects"
    with lines.open("wb") as out, objects.open("wb") as json_out:
        command = [*COMMAND, "-c", str(impetusd.conf), "status", "--watch", "a"]
        piped = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, env=impetusd.environ)
        told = subprocess.Popen([*command, "--json"], stdout=json_out, stderr=subprocess.PIPE, env=impetusd.environ)
    try:
        wait_for(lambda: "all 2 up" in terminal.screen(), lambda: f"{terminal.screen()}")
        assert terminal.screen()[0].split() == ["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "MEMORY", "CPU"]
        assert str(before["a"].pid) in terminal.screen()[1]
        wait_for(lambda: f"a is RUNNING (pid {before['a'].pid})\n" in lines.read_text(), lines.read_text)
        seen = len(terminal.read())
        impetusd.run("stop", "b")
        wait_for(lambda: terminal.screen()[2].split()[:2] == ["b", "STOPPED"], lambda: f"{terminal.screen()}")
        assert "NAME" not in terminal.read()[seen:]  # what is as before is not written again
        assert max(map(len, terminal.screen())) <= 80

        impetusd.kill(before.supervisor)
        os.kill(before["a"].pid, signal.SIGKILL)
        now = impetusd.wait_status(lambda status: status["a"].pid not in {None, before["a"].pid})
        wait_for(lambda: str(now["a"].pid) in terminal.screen()[1], lambda: f"{terminal.screen()}")
        wait_for(lambda: f"(pid {now['a'].pid})\n" in lines.read_text(), lines.read_text)
        assert "  b" not in lines.read_text()

        def told_as_objects(kind: str) -> list[dict[str, object]]:
            text = objects.read_text().splitlines(keepends=True)
            return [found for line in text if line.endswith("\n") and (found := json.loads(line))["kind"] == kind]

        wait_for(lambda: str(now["a"].pid) in str(told_as_objects("unit")), objects.read_text)
        assert [each["value"] for each in told_as_objects("snapshot")] == [False, True]
        assert {each["key"] for each in told_as_objects("unit")} == {"a:0"}

        for process in (terminal.process, piped, told):
            process.send_signal(signal.SIGINT)
        wait_for(lambda: terminal.read() is not None and terminal.process.poll() is not None)
        errors = [process.communicate(timeout=60)[1] for process in (terminal.process, piped, told)]
        assert [each.strip() for each in errors] == [b"", b"", b""]
        assert [process.returncode for process in (terminal.process, piped, told)] == [130, 130, 130]
        assert terminal.read().endswith("\x1b[?25h\x1b[?1049l")
        assert impetusd.run("status", "--watch", "c", code=4).err.startswith("impetusd: no unit 'c'")
    finally:
        for process in (terminal.process, piped, told):
            process.kill()
            process.communicate()
        terminal.close()
