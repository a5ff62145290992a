"""Detect out-of-memory kills from the kernel's messages in /dev/kmsg.

The file is kept open from the start, at the end of earlier messages, and read only when a process of ours has ended
by a SIGKILL that we did not send. Needs CAP_SYSLOG (root), and pids that mean the same to the kernel as to us. Without
these, nothing is reported: a SIGKILL alone proves nothing.
"""

from __future__ import annotations

import os
import re
import time

KMSG = "/dev/kmsg"
FIRST_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO: the one whose pids the kernel logs
KERNEL = 8  # record prefixes below are of facility 0, which is the kernel's alone: what users write there gets another
DRIFT = 2e-4  # by which the log's clock may part from the monotonic one, which NTP steers
KEPT = 256  # kills remembered
KILLED = re.compile(rb"^(Memory cgroup out|Out) of memory.*: Killed process (\d+) \(.*\) .*anon-rss:(\d+)kB")
CHOSEN = re.compile(rb"^oom-kill:constraint=(\w+),.*,pid=(\d+),uid=\d+$")


class Oom:
    """The kernel's log, from now on."""

    def __init__(self, path: str = KMSG) -> None:
        """Never fails: where the log may not be read, nothing is known."""
        self._kills: dict[int, tuple[float, str]] = {}  # pid → (when, the sentence)
        self._fd = -1
        try:
            if os.readlink("/proc/self/ns/pid") == FIRST_NAMESPACE:
                self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self.close()

    def killed(self, pid: int, since: float) -> str | None:
        """The kernel's message about killing `pid`, which was started at `since` (monotonic); None if there is none."""
        self._read()
        at, text = self._kills.get(pid, (0.0, ""))
        return text if text and at >= since - 1.0 - time.monotonic() * DRIFT else None

    def close(self) -> None:
        """Know nothing more."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _read(self) -> None:
        """All that was logged since the last time: 1.3 us a record, of which the kernel's buffer holds some thousands."""
        while self._fd >= 0:
            try:
                record = os.read(self._fd, 8192)
            except BlockingIOError:
                return
            except BrokenPipeError:  # the next messages were overwritten; the oldest one left follows
                continue
            except OSError:
                return
            if not record:
                return
            self._note(record)

    def _note(self, record: bytes) -> None:
        head, _, text = record.partition(b";")
        fields, text = head.split(b","), text.partition(b"\n")[0]
        if b"of memory" not in text and not text.startswith(b"oom-kill:"):
            return
        if int(fields[0]) >= KERNEL:
            return
        at = int(fields[2]) / 1e6
        if found := KILLED.match(text):
            where = " in its cgroup" if found[1] != b"Out" else ""
            rss = f" (anon-rss {int(found[3]) / 1024:.0f} MB)"
        elif found := CHOSEN.match(text):  # comes first, and alone when the other has not been written yet
            where, rss = " in its cgroup" if found[1] == b"CONSTRAINT_MEMCG" else "", ""
        else:
            return
        self._kills.pop(int(found[2]), None)
        self._kills[int(found[2])] = at, f"out of memory{where}: the kernel killed it{rss}"
        if len(self._kills) > KEPT:
            del self._kills[next(iter(self._kills))]
