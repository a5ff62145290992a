"""`impetusd monit` on a terminal of its own, whose other end is held here."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from waiting import wait_for

COMMAND = [f"{os.path.dirname(sys.executable)}/impetusd"]


class Terminal:
    """`written` is all that the command has written."""

    def __init__(self, conf, *, width=80, height=24, **environ):
        self.master, slave = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(slave)
        os.set_blocking(self.master, False)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *COMMAND, "-c", conf, "monit"],
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environ},
        )
        self.slave = slave
        self.written = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        os.close(self.master)
        os.close(self.slave)

    def resize(self, width, height):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))

    def read(self):
        with contextlib.suppress(BlockingIOError, OSError):
            while part := os.read(self.master, 65536):
                self.written += part
        return self.written

    def until(self, text, since=0):
        """Until it was written behind the offset `since`. Where that is over."""
        wait_for(lambda: text.encode() in self.read()[since:], lambda: f"{text!r} in {self.written[since:]}")
        return len(self.written)

    def press(self, keys):
        os.write(self.master, keys.encode())

    def end(self):
        """Its exit code, and what it wrote to stderr."""
        wait_for(
            lambda: self.read() is not None and self.process.poll() is not None, lambda: f"its end: {self.written}"
        )
        return self.process.returncode, self.process.stderr.read().decode()
