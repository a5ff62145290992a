"""An /etc/passwd of the instance's own, in a mount namespace: its user "ghost" may leave it; the host's is never touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from instance import Instance

GHOST = "ghost:x:61234:61234::/:/bin/sh\n"
WITH_ITS_PASSWD = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'


class Passwd:
    """Has `impetusd`, which runs as root, read the file in its folder."""

    def __init__(self, impetusd: Instance) -> None:
        if shutil.which("unshare") is None:
            pytest.skip("there is no unshare(1)")
        self._path = impetusd.root / "passwd"
        self._host = Path("/etc/passwd").read_text(encoding="utf-8")
        private = ["unshare", "--mount", "--propagation", "private"]
        impetusd.command = [*private, "sh", "-c", WITH_ITS_PASSWD, "sh", str(self._path), *impetusd.command]
        self.write(GHOST)

    def write(self, more: str = "") -> None:
        """In place, for it is mounted."""
        self._path.write_text(self._host + more, encoding="utf-8")
