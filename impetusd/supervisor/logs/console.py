"""The daemon's own log, on stderr as well where that is systemd's journal: `impetusd run` as a unit's main process."""

from __future__ import annotations

import os
import select

from impetusd.core import redact
from impetusd.linux.priority import INFO
from impetusd.supervisor.logs.writer import Writer

LONGEST = select.PIPE_BUF  # bytes of one line: a stream that has room takes so much at once


class JournalWriter(Writer):
    """Each line of the daemon's own log goes to stderr, too, with a priority in place of the time."""

    def line(self, text: str, level: str = INFO) -> None:
        """As Writer.line; what the journal does not take at once is only in the file."""
        text = redact.text(text)
        super().line(text)
        reader = select.poll()
        reader.register(2, select.POLLOUT)
        for line in text.splitlines():
            try:
                if reader.poll(0):
                    os.write(2, f"{level}{line}".encode("utf-8", "backslashreplace")[: LONGEST - 1] + b"\n")
            except OSError:
                return
