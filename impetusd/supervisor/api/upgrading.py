"""`impetusd upgrade`: the code on disk replaces the running code, after a test that it can take over.

A supervisor of the new code comes up beside this one, on a copy of what the shim knows (`supervisor.proof`); the shim
tries its own new code and goes on with it in place (`shim.handover`); then this supervisor hands over to the next. Up
to the shim's exec nothing has changed, and any failure by then is the answer. If one is killed meanwhile, it restarts
from the new code anyway, and the next supervisor answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import impetusd
from impetusd.core.protocol import EXIT_FAILED, FAILED, ProtocolError
from impetusd.core.rules.lifecycle import Scope
from impetusd.core.rules.policy import signal_name

if TYPE_CHECKING:
    from impetusd.supervisor.start.starter import Starter

UPGRADE = "upgrade"  # what the shim remembers of it
PROVE_WITHIN = 10.0  # seconds for the new supervisor to prove itself; measured: 0.2
ANSWER_WITHIN = 10.0  # seconds for the shim to go on with its new code, or to say why not
LONGEST = 20_000  # bytes of what the proof printed


class Upgrading:
    """The method `upgrade`."""

    def __init__(
        self,
        starter: Starter,
        shim: int,
        *,
        hand_over: Callable[[str], None],
        record: Callable[..., None],
    ) -> None:
        """`shim` is its pid. `hand_over(why)` ends this supervisor once the shim knows all. `record`: the ledger."""
        self._starter = starter
        self._shim = shim
        self._hand_over = hand_over
        self._record = record
        self._done: dict[str, Any] | None = None  # the last upgrade, which a supervisor before this one began
        self._under_way = False
        self._process: int | None = None  # the shim's number of the proof
        self._ended: asyncio.Future[Mapping[str, Any]]
        self._answer: asyncio.Future[str]

    async def upgrade(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method. A client that lost us over it asks again with the same token."""
        token = params["token"]
        if self._done is not None and token and self._done["token"] == token:
            return self._result(self._done)
        if self._under_way:
            raise ProtocolError(FAILED, "another upgrade is in progress; nothing was changed", EXIT_FAILED)
        self._under_way = True
        try:
            why = await self._prove()
            what = "supervisor"
            if not why:
                what, why = "shim", await self._exec_shim()
        finally:
            self._under_way = False
        if why:
            own = {"pid": os.getpid(), "shim": self._shim, "version": impetusd.__version__}
            self._record("daemon", what="refused an upgrade", why=why[-2000:], **own)
            self._starter.outbox.flush()
            raise ProtocolError(
                FAILED, f"the {what} on disk cannot take over, so nothing was changed: {why}", EXIT_FAILED
            )
        self._starter.outbox.put(
            UPGRADE, json.dumps({"token": token, "from": impetusd.__version__, "pid": os.getpid()})
        )
        self._hand_over("to the code on disk")
        raise ConnectionAbortedError  # the next supervisor answers

    def resume(self, blobs: Mapping[str, str]) -> None:
        """Know of what the supervisor before us has begun."""
        if UPGRADE in blobs:
            self._done = json.loads(blobs[UPGRADE])

    def hear(self, event: Mapping[str, Any]) -> bool:
        """Whether this event from the shim concerns the upgrade."""
        match event["event"]:
            case "upgraded" | "refused" if self._under_way and not self._answer.done():
                self._answer.set_result(event.get("error", ""))
            case "upgraded" | "refused":
                pass  # nobody waits any more
            case "exited" if event["process"] == self._process:
                self._ended.set_result(event)
            case "spawned" | "gone" if event["process"] == self._process:
                pass
            case _:
                return False
        return True

    async def _prove(self) -> str:
        """Test a supervisor of the new code. Returns '' or why it cannot take over."""
        loop = asyncio.get_running_loop()
        self._ended, self._answer = loop.create_future(), loop.create_future()
        out = os.memfd_create("proof", os.MFD_CLOEXEC)
        argv = [sys.executable, "-I", "-X", "utf8", "-m", "impetusd.supervisor", *sys.argv[1:3], "prove"]
        self._process = process = self._starter.spawn_helper(argv, out)
        why = ""
        try:
            async with asyncio.timeout(PROVE_WITHIN):
                event = await asyncio.shield(self._ended)
        except TimeoutError:
            why = f"it was not ready within {PROVE_WITHIN:g} s"
            self._starter.outbox.signal(process, signal.SIGKILL, Scope.TREE)
            self._starter.outbox.flush()
            event = await self._ended
        printed = os.pread(out, LONGEST, max(0, os.fstat(out).st_size - LONGEST)).decode("utf-8", "replace").strip()
        self._process = None
        self._starter.end_helper(process)
        if why or event.get("code") == 0:
            return "\n".join(filter(None, [why, printed])) if why else ""
        how = f"exit {event.get('code')}" if "signal" not in event else f"killed by {signal_name(event['signal'])}"
        if "stage" in event:
            how = f"{event['stage']} failed: {event['error']}"
        return f"{how}\n{printed}" if printed else how

    async def _exec_shim(self) -> str:
        self._starter.upgrade_shim()
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await asyncio.shield(self._answer)
        except TimeoutError:
            return f"it did not answer within {ANSWER_WITHIN:g} s"

    def _result(self, done: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "ok": True,
            "from": done["from"],
            "to": impetusd.__version__,
            "shim": {"pid": self._shim},
            "supervisor": {"pid": os.getpid(), "before": done["pid"]},
        }
