"""How supervisord's methods ask the supervisor: in the caller's name, over its successors, and what of its answers they share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from impetusd.client.again import persistently
from impetusd.client.control import ControlError, Unanswered
from impetusd.core import protocol
from impetusd.interop import supervisord
from impetusd.interop.supervisord import Fault, Faults, Processes

Progress = Callable[[Mapping[str, Any]], None]
Call = Callable[[str, Mapping[str, Any], Progress | None], Awaitable[dict[str, Any]]]

PATIENCE = 15.0  # seconds without a supervisor: clients of this protocol take a fault for the end of it
BEGUN = 2.0  # seconds in which a request that is not waited for must have begun, or is taken for begun
UNITS = ("pool", "program")  # kinds of sections whose names are groups; others are shown as [KIND:NAME]


class Refused(Exception):
    """The caller's role does not allow it; the text is the supervisor's sentence."""


class Asking:
    """On behalf of one caller. `background`: where what is not waited for is kept until it is done."""

    def __init__(self, call: Call, role: str, background: set[asyncio.Task[Any]], applied: dict[str, bool]) -> None:
        """`call` asks the supervisor in the caller's name. `applied`: groups that an `apply` has put into force, all at
        once, and whose turn has not come yet, for supervisorctl removes and adds them one by one; whether it has removed it.
        """
        self._call = call
        self._role = role
        self._background = background
        self._applied = applied

    async def _ask(self, method: str, params: Mapping[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        """The supervisor's answer; of the next one's, where one was replaced or died over it. ControlError, Refused."""
        try:
            return await persistently(method, lambda: self._call(method, params, progress), PATIENCE)
        except Unanswered:
            raise
        except ControlError as error:
            if not protocol.may(self._role, method):
                raise Refused(str(error)) from None
            raise

    async def _begin(
        self, method: str, params: Mapping[str, Any], then: Callable[[], Awaitable[Any]] | None = None
    ) -> None:
        """Ask, and wait only until it has begun: a refusal is raised, its end is not awaited."""
        begun = asyncio.Event()

        async def whole() -> None:
            await self._ask(method, params, lambda _: begun.set())
            if then is not None:
                begun.set()
                with contextlib.suppress(ControlError, Refused):  # it is in the ledger, and nobody waits
                    await then()

        task = asyncio.create_task(whole())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        waiting = asyncio.create_task(begun.wait())
        done, _ = await asyncio.wait({task, waiting}, timeout=BEGUN, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task in done:
            task.result()
        else:
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # which nobody waits for

    async def _processes(self) -> Processes:
        status = await self._ask("status", {"names": []})
        return Processes(status["units"], status.get("groups", {}))

    async def _plan(self) -> list[dict[str, Any]]:
        """What the INI file would change. Fault CANT_REREAD with its mistakes."""
        answer = await self._ask("plan", {"problems": True})
        if answer["problems"]:
            raise Fault(Faults.CANT_REREAD, "; ".join(answer["problems"]))
        return list(answer["changes"])

    async def _changed(self) -> dict[str, list[str]]:
        """The same, as groups: added, changed, removed."""
        changes, processes = await self._plan(), await self._processes()
        found: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
        for change in changes:
            name = change["name"]
            if change["kind"] not in UNITS or name in supervisord.OWN:
                found["changed"].append(section_name(change["kind"], name))
            elif change["effect"] in {"added", "removed"} and processes.group_of(name) == name:
                found[change["effect"]].append(name)
            else:
                found["changed"].append(processes.group_of(name))
        return {what: list(dict.fromkeys(names)) for what, names in found.items()}


def section_name(kind: str, name: str) -> str:
    """What stands for a section of which there are no processes to show; of our own units: what makes them."""
    return f"[{name}]" if name in supervisord.OWN else f"[{':'.join(filter(None, (kind, name)))}]"
