"""Supervisors that have nothing but a writer, for tests that kill them: forks of this process (see commanding.Host), which has
imported what they need. Arguments: one JSON object.

{"log": its own log, "held": {"journal:0": fd, "lost": fd, "lines": fd}, "pipes": [[name, fd, path, options]…], "fault": "" or where to
be killed, "skip": how often that point is passed before}. It ends in order when its standard input ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "system"))
import fork_host

from impetusd.supervisor.logs import journal, logfile, lost, unfinished
from impetusd.supervisor.logs import writer as logs

fork_host.serve()
told = json.loads(sys.argv[1])
left = told["skip"]


def killed_here(point):
    global left  # noqa: PLW0603
    if told["fault"] == point:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def around(owner, name, point):
    real = getattr(owner, name)

    def patched(*arguments):
        killed_here(f"before {point}")
        answer = real(*arguments)
        killed_here(f"after {point}")
        return answer

    setattr(owner, name, patched)


def write_some(self, out, end, size):
    """What a kill within a write leaves: some of it."""
    if told["fault"] == "within write" and left == 0 and end - self._at > 1:
        real_append(self, out, self._at + (end - self._at) // 2, size)
    killed_here("within write")
    real_append(self, out, end, size)


class Os:
    """os, with a kill before and after a read into the journal."""

    def __getattr__(self, name):
        return getattr(os, name)

    def readv(self, fd, views):
        killed_here("before read")
        count = os.readv(fd, views)
        killed_here("after read")
        return count


real_append = logfile.LogFile._append
logfile.LogFile._append = write_some
around(journal.Journal, "take", "take")
around(journal.Journal, "mark", "mark")
around(journal.Journal, "done", "done")
around(logfile.LogFile, "_append", "write")
around(lost.Losses, "put", "count")
around(unfinished.Beginning, "_put", "hold")
journal.os = Os()

writer = logs.Writer(told["log"], None, told["held"])
for name, fd, path, options in told["pipes"]:
    writer.add(name, fd, path, logs.Options(**options))
sys.stdin.read()
writer.close()
