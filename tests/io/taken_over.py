"""A supervisor that takes over, in this process: what the shim tells it is given, what it says to the shim is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from impetusd.core.config.location import Paths
from impetusd.core.rules.lifecycle import Slot, State, Want
from impetusd.supervisor.api.applying import CONFIG
from impetusd.supervisor.api.changeover import APPLY, BEFORE
from impetusd.supervisor.daemon import Daemon
from impetusd.supervisor.proof import DryRunLink
from impetusd.supervisor.slots import record

RAN = 1_000_000.0  # far from the present on every clock


def configuration(text: str, *disabled: str) -> str:
    """As the shim remembers it."""
    return json.dumps({"text": text, "included": [], "profile": "", "environ": {}, "disabled": sorted(disabled)})


def slot(process: int | None, state: State = State.RUNNING, want: Want = Want.UP, **fields: Any) -> str:
    """The record of a slot with a process, as the shim remembers it."""
    pid = 100_000_000 + process if process is not None and state is not State.STARTING else None
    return record.dump(record.Record(slot=Slot(state=state, want=want, pid=pid, **fields), process=process))


def row(process: int, ended: Mapping[str, Any] | None = None, *, acked: bool = False) -> dict[str, Any]:
    """A process as the shim holds it; the pid is above every one that the kernel gives."""
    pid = 0 if ended else 100_000_000 + process
    return {"process": process, "pid": pid, "ended": ended, "left": False, "acked": acked}


def changes(effect: str, *names: str, kind: str = "timer") -> str:
    """What `apply` hands over."""
    rows = [{"kind": kind, "name": name, "effect": effect, "keys": []} for name in names]
    state = {"token": "t", "changes": rows, "begun": False, "done": False, "ok": True, "pids": {}}
    return json.dumps(state)


class Heard(DryRunLink):
    """A channel on which nothing goes wrong; `ops` is all that was said on it."""

    def __init__(self, hello: dict[str, Any]) -> None:
        super().__init__(hello)
        self.ops: list[dict[str, Any]] = []

    def send(self, ops: list[dict[str, Any]], fds: Sequence[int] = (), sent: Any = None) -> None:
        self.ops += ops
        if sent is not None:
            sent()

    def blob(self, key: str) -> str | None:
        """What the shim remembers under `key` now."""
        for op in self.ops:
            if op["op"] == "put":
                self.blobs[op["key"]] = op["blob"]
        return self.blobs.get(key)


@asynccontextmanager
async def taken_over(paths: Paths, now: str, before: str | None, blobs: dict[str, str], table: list[dict[str, Any]]):
    """The daemon and its channel, with everything taken over, and the change under way that `blobs` tells of."""
    for folder in (paths.run_dir, paths.state_dir, paths.log_dir):
        os.makedirs(folder, exist_ok=True)
    told = {CONFIG: now, **({BEFORE: before} if before is not None else {}), **blobs}
    link = Heard({"pid": 1, "shutdown": False, "command": [], "table": table, "blobs": told})
    daemon = Daemon(paths.conf, paths, boot=False, link=link)
    daemon.open_log()
    daemon.come_up()
    try:
        daemon._bind_notify()
        daemon._adopt(table)
        daemon.applying.resume(dict(told))
        daemon._begin()
        yield daemon, link
    finally:
        daemon.notify_sockets.close()
        daemon.starter.listeners.files.close()
        daemon.saving.now()
        await daemon.state.close()
        daemon.ledger.close()
        daemon.writer.close()
        daemon.close()


__all__ = ["APPLY", "BEFORE", "CONFIG", "changes", "configuration", "row", "slot", "taken_over"]
