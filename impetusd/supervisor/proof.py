"""Check that a supervisor from the code on disk could take over: `impetusd.supervisor CONF PATHS prove`.

It reads from descriptor 3 what the shim would send it, and starts up with that as far as possible without changing
anything: every module is imported, the configuration in force is parsed, each record is read, every part is built. Exit
status 0 means yes; else stderr says why not.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from impetusd import traces
from impetusd.core.config.location import Paths
from impetusd.core.config.problem import ConfigError
from impetusd.supervisor.daemon import Daemon
from impetusd.supervisor.start.link import Link

SNAPSHOT = 3  # the descriptor at which the shim's `hello` is


class DryRunLink(Link):
    """A dummy channel: it has received `hello`, and drops all that is sent."""

    def __init__(self, hello: dict[str, Any]) -> None:
        self.pid, self.shutdown = hello["pid"], hello["shutdown"]
        self.command = hello["command"]
        self.table, self.blobs, self.fds = hello["table"], hello["blobs"], {}
        self.troubles, self.baseline = {}, hello.get("baseline", {})

    def send(self, ops: list[dict[str, Any]], fds: Sequence[int] = (), sent: Callable[[], None] | None = None) -> None:
        """Sends nothing."""

    def close(self) -> None:
        """Closes nothing, because nothing was opened."""


async def prove(conf: str, paths: Paths, boot: bool, folder: str) -> None:
    """Start up, with `folder` in place of the directories that are written to. Raises any error."""
    hello = json.loads(os.pread(SNAPSHOT, os.fstat(SNAPSHOT).st_size, 0))
    aside = Paths(conf=paths.conf, base_dir=paths.base_dir, run_dir=folder, state_dir=folder, log_dir=folder)
    daemon = Daemon(conf, aside, boot=boot, link=DryRunLink(hello))
    daemon.open_log()
    daemon.come_up(strict=True)
    daemon.stop_writing()


def main() -> NoReturn:
    """Prove it, or say why not."""
    fields = json.loads(sys.argv[2])
    boot, _ = fields.pop("boot", False), fields.pop("logs", "")
    fields.pop("profile", None)  # the one in force is in the configuration
    code = 0
    with tempfile.TemporaryDirectory(prefix="impetusd-", ignore_cleanup_errors=True) as folder:
        try:
            asyncio.run(prove(sys.argv[1], Paths(**fields), boot, folder))
        except (OSError, ConfigError) as error:
            print(error, file=sys.stderr)
            code = 1
        except BaseException as error:
            traces.show(error)
            code = 1
    sys.stderr.flush()
    os._exit(code)  # its threads have nothing to finish
