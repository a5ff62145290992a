"""The priority of a log line for systemd's journal: sd-daemon(3) has the numbers. The shim imports it, too: keep it small."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ERROR, WARNING, INFO = "<3>", "<4>", "<6>"


def is_journal(environ: Mapping[str, str]) -> bool:
    """Whether stderr is the stream that systemd connected to the journal: JOURNAL_STREAM names its device and inode."""
    try:
        stream = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"
