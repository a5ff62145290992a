"""The daemon's own log, on stderr as well where that is systemd's journal: `impetusd run` as a unit's main process."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping

from impetusd.core import redact
from impetusd.supervisor.logs import Writer

# Of the sentences about a slot, those that an operator should see first; sd-daemon(3) has the numbers.
ERROR, WARNING, INFO = "<3>", "<4>", "<6>"
WORSE = {": FATAL": ERROR, ": BACKOFF": WARNING}
LONGEST = select.PIPE_BUF  # bytes of one line: a stream that has room takes so much at once


class JournalWriter(Writer):
    """Each line of the daemon's own log goes to stderr, too, with a priority in place of the time."""

    def line(self, text: str) -> None:
        """As Writer.line; what the journal does not take at once is only in the file."""
        text = redact.text(text)
        super().line(text)
        level = next((level for mark, level in WORSE.items() if mark in text.partition("\n")[0]), INFO)
        reader = select.poll()
        reader.register(2, select.POLLOUT)
        for line in text.splitlines():
            try:
                if reader.poll(0):
                    os.write(2, f"{level}{line}".encode("utf-8", "backslashreplace")[: LONGEST - 1] + b"\n")
            except OSError:
                return


def is_journal(environ: Mapping[str, str]) -> bool:
    """Whether stderr is what systemd connected to the journal: JOURNAL_STREAM names its device and inode."""
    try:
        stream = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"
