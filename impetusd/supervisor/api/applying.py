"""Apply a new configuration: `plan` shows the changes, `apply` and SIGHUP carry them out.

The new text and the planned actions go to the shim as one message, after which this supervisor ends. The next
one comes up with the new configuration in the same way as after a kill, and goes on from there. So a kill at any moment
leaves either the old configuration or the new one, entirely.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from impetusd.client import instance
from impetusd.core.config import schema, switches
from impetusd.core.config.model import Config
from impetusd.core.config.problem import ConfigError
from impetusd.core.protocol import EXIT_FAILED, EXIT_UNKNOWN_NAME, EXIT_USAGE, FAILED, ProtocolError
from impetusd.core.reasons import Reason, because
from impetusd.core.rules.plan import Change, Effect, plan, refusal
from impetusd.supervisor.api import behind
from impetusd.supervisor.api.changeover import APPLY, BEFORE, Changeover
from impetusd.supervisor.api.configuration import Configuration, named_by, read
from impetusd.supervisor.disk.state import replace
from impetusd.supervisor.slots.entry import ONE_SHOT, Entry
from impetusd.supervisor.start import childspec, envfiles
from impetusd.supervisor.threads import NoAnswer, Threads

if TYPE_CHECKING:
    from impetusd.supervisor.slots.engine import Engine
    from impetusd.supervisor.start.starter import Starter

MOST = 4  # threads that read
WITHIN = 20.0  # seconds for the disk, and for looking up users
# What the shim remembers of all this.
CONFIG, REFUSED = "config", "config:refused"
PROBLEMS = 12  # of a refused file that are written down


class _Mistaken(ProtocolError):
    """The files have `problems`, as sentences."""

    def __init__(self, error: ConfigError) -> None:
        super().__init__(FAILED, error.report()[:200_000], EXIT_USAGE)
        self.problems = [str(problem)[:2000] for problem in error.problems[:100]]


class Applying:
    """The methods `plan` and `apply`."""

    def __init__(
        self,
        file: Mapping[str, Any],
        state_dir: str,
        present: Configuration,
        engine: Engine,
        starter: Starter,
        *,
        hand_over: Callable[[], None],
        needed: Callable[[list[Entry]], list[Entry]],
        rows: Callable[[list[Entry]], Iterable[dict[str, Any]]],
        record: Callable[..., None],
    ) -> None:
        """`file` is the INI file, as of when it was read last: see `instance.report`.

        `hand_over` ends this supervisor once the shim knows all. `needed` adds what slots depend on. `record`: ledger.
        """
        self._file = file
        self._conf: str = file["conf"]
        self._state_dir = state_dir
        self._present = present
        self._engine = engine
        self._starter = starter
        self._hand_over = hand_over
        self._record = record
        self._state: dict[str, Any] | None = None  # of the last apply
        self._going_over = False
        self._switching = asyncio.Lock()
        self._threads = Threads("configuration", MOST)
        self._refused: dict[str, Any] | None = None  # at, reason: of what the disk has
        former = functools.partial(Configuration, self._conf, in_force=True)
        self._behind = behind.Behind(engine, starter, present.at, lambda remembered: former(remembered).at)
        self._changeover = Changeover(engine, starter, self._behind, needed=needed, rows=rows, record=record)

    async def _read(
        self, profile: str | None, disabled: Collection[str] | None = None, conf: str = ""
    ) -> tuple[Configuration, list[Change]]:
        """The configuration on the disk, and what it would change. ProtocolError with every problem.

        `profile`: another one than is in force. `conf`: another file.

        With `disabled` it is the one in force, with these names disabled.
        """

        conf = conf or self._conf

        def both() -> tuple[Configuration, list[Change]]:
            if disabled is None:
                name = self._present.profile if profile is None else profile
                remembered = read(conf, self._state_dir, self._present.environ, name, former=self._present.former)
            else:
                remembered = self._present.with_disabled(disabled)
            known = named_by(self._present.at(0))
            configuration = Configuration(conf, remembered, in_force=disabled is not None, known=known)
            changes = plan(self._behind.as_it_runs(former), configuration.at, instances)
            if disabled is None:
                changes = envfiles.changes(started, changes, configuration.at, childspec.read_env_files)
            return configuration, changes

        former = self._behind.of() if disabled is None else {}
        started = [
            envfiles.Started(entry.unit.name, entry.index, said)
            for entry in self._engine.slots.entries.values()
            if entry.slot.pid is not None
            and entry.role not in ONE_SHOT
            and (said := self._engine.slots.facts.started_as(entry))
        ]
        instances = self._instances()
        try:
            found, changes = await self._threads.run(both, WITHIN)
        except NoAnswer as error:
            what = "reading the INI file, or looking up its users"
            raise ProtocolError(FAILED, f"{self._conf}: {what}: {error}", EXIT_FAILED) from None
        except OSError as error:
            hint = "" if os.path.lexists(conf) else "; if it was renamed: impetusd -c FILE apply"
            raise ProtocolError(FAILED, f"cannot read {conf}: {error.strerror}{hint}", EXIT_USAGE) from None
        except ConfigError as error:
            raise _Mistaken(error) from None
        refused = refusal(self._present.at(0), found.at(0))
        if refused:
            raise ProtocolError(FAILED, f"{refused}; nothing was changed", EXIT_FAILED)
        return found, changes

    def behind(self) -> list[str]:
        """Units that should have come to run what is in force, and do not: a reload has failed, say."""
        names = self._behind.left(self._instances()) if self.idle else []
        return [name for name in names if not self._engine.versions.active(self._engine.slots.units[name])]

    def _instances(self) -> Callable[[str], int]:
        return {
            name: self._engine.slots.facts.instances(unit) for name, unit in self._engine.slots.units.items()
        }.__getitem__

    async def on_disk(self) -> Callable[[int], Config]:
        """The configuration as the files have it now, as each instance sees it. ProtocolError with every problem."""
        return (await self._read(None))[0].at

    async def plan(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method `plan`."""
        try:
            changes = (await self._read(params["env"]))[1]
        except _Mistaken as error:
            if not params["problems"]:
                raise
            return {"changes": [], "problems": error.problems}
        return {"changes": [change.row() for change in changes], "problems": []}

    async def apply(self, params: dict[str, Any], disabled: Collection[str] | None = None) -> dict[str, Any]:
        """The control method `apply`. A client that lost us over it asks again with the same token."""
        token = params["token"]
        while self._state is not None and (not self._state["done"] or (token and self._state["token"] == token)):
            if self._state["done"]:
                return self._changeover.answer(self._state)
            await self._engine.waits.until(lambda: self._state is None or self._state["done"])
        if self._going_over:
            raise ConnectionAbortedError  # the next supervisor answers
        conf = params.get("conf") or self._conf
        self._refuse_file(conf)
        read_at = instance.stamp(conf)
        try:
            configuration, changes = await self._read(params.get("env"), disabled, conf)
        except ProtocolError as error:
            profile = params.get("env")
            of_the_file = profile is None or profile == self._present.profile
            self._refuse(error.message, getattr(error, "problems", []), of_the_file=of_the_file)
            raise
        self._put_refused(None)
        if self._going_over:
            raise ConnectionAbortedError
        if configuration.remembered == self._present.remembered and conf == self._conf and not changes:
            return {"ok": True, "changes": [], "units": []}
        self._refuse_while_reloading(changes)
        self._going_over = True
        state = {
            "token": token,
            "moved": self._conf if conf != self._conf else "",
            "changes": [change.row() for change in changes],
            "begun": False,
            "done": False,
            "ok": True,
            "pids": {},
        }
        if disabled is None:
            self._starter.outbox.put(instance.NAME, json.dumps(instance.report(conf, read_at)))
        self._starter.outbox.put(CONFIG, configuration.remembered)
        self._starter.outbox.put(BEFORE, self._present.remembered)
        self._starter.outbox.put(APPLY, json.dumps(state))
        anew = {Effect.RELOAD, Effect.RESTART}
        self._behind.note(
            (each.name for each in changes if each.effect in anew), self._present.remembered, time.monotonic()
        )
        for change in changes:
            if change.kind in {"pool", "program"} and any(key.name == "instances" for key in change.keys):
                self._engine.slots.facts.expect(
                    self._engine.slots.units[change.name], configuration.at(0).units[change.name].instances
                )
        self._hand_over()
        raise ConnectionAbortedError

    def _refuse_file(self, conf: str) -> None:
        """Another file may replace one that is gone, and no other."""
        if conf != self._conf and os.path.lexists(self._conf):
            text = f"impetusd was started for {self._conf}, which still exists, not for {conf}; nothing was changed"
            raise ProtocolError(FAILED, text, EXIT_USAGE)

    def _refuse(self, reason: str, problems: list[str], *, of_the_file: bool) -> None:
        """`of_the_file`: the file itself is refused, not, say, the profile that a command named."""
        problems = problems[:PROBLEMS]
        self._record("config", what="refused", changes=[], reason=reason[:2000], problems=problems)
        if of_the_file:
            self._put_refused({"at": time.time(), "reason": reason[:2000], "problems": problems[:1]})

    def _put_refused(self, refused: dict[str, Any] | None) -> None:
        if refused != self._refused:
            self._refused = refused
            self._starter.outbox.put(REFUSED, json.dumps(refused) if refused else None)
            self._starter.outbox.flush()

    def disabled(self) -> list[tuple[str, Reason]]:
        """(name, what to say) for what is disabled and in the INI file; for `status`."""
        present = self._present.at(0)
        known = [name for name in self._present.disabled if name in present.units or name in present.timers]
        return [(name, because("disabled", name=name)) for name in known]

    def attention(self, now: float) -> list[Reason]:
        """The text for `status` if the configuration on the disk was refused at the last attempt."""
        if self._refused is None:
            return []
        problems = self._refused.get("problems") or [self._refused["reason"]]
        problem = problems[0].removeprefix(f"{os.path.dirname(self._conf)}/")
        return [because("ini_refused", ago_s=round(now - self._refused["at"], 3), problem=problem)]

    def _refuse_while_reloading(self, changes: list[Change]) -> None:
        """One thing after the other: what a reload watches is not to become another thing meanwhile."""
        for change in changes:
            unit = self._engine.slots.units.get(change.name)
            if change.effect is not Effect.LIVE and unit is not None and self._engine.versions.active(unit):
                raise ProtocolError(
                    FAILED,
                    f"{change.name} is being reloaded; nothing was changed. "
                    f"Wait for it, or cancel it: impetusd reload --cancel {change.name}",
                    EXIT_FAILED,
                )

    async def disable(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method `disable`: as `enabled = no` in the INI, until `enable`."""
        return await self._switch(params, set(self._present.disabled) | set(self._named(params["names"])))

    async def enable(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method `enable`. Raises ProtocolError, when that is done, if the INI file has one of them disabled."""
        names = self._named(params["names"])
        answer = await self._switch(params, set(self._present.disabled) - set(names))
        present = self._present.at(0)
        for name in names:
            found = present.units.get(name) or present.timers.get(name)
            if found is not None and not found.enabled:
                text = f"{name} stays disabled: {found.where} has enabled = no; remove that, then run: impetusd apply"
                raise ProtocolError(FAILED, text, EXIT_FAILED)
        return answer

    def _named(self, names: list[str]) -> list[str]:
        """Units and timers by their names, and by those of groups."""
        present = self._present.at(0)
        found: list[str] = []
        for name in names:
            if name in present.groups:
                found += present.groups[name].members
            elif name in present.units or name in present.timers:
                found.append(name)
            else:
                near = schema.nearest(name, [*present.units, *present.timers, *present.groups])
                hint = f"; did you mean {near}?" if near else "; use the name of a unit, timer or group in the INI file"
                raise ProtocolError(FAILED, f"no unit, timer or group '{name}'{hint}", EXIT_UNKNOWN_NAME)
        return found

    async def _switch(self, params: dict[str, Any], names: set[str]) -> dict[str, Any]:
        async with self._switching:  # the file is that of the change being carried out
            if self._going_over:
                raise ConnectionAbortedError
            if names != set(self._present.disabled):
                await self._write_disabled(names)
            return await self.apply(params, names)

    async def _write_disabled(self, names: set[str]) -> None:
        path = f"{self._state_dir}/{switches.FILE}"
        try:
            await self._threads.run(functools.partial(replace, path, switches.show(names).encode()), WITHIN)
        except NoAnswer as error:
            raise ProtocolError(FAILED, f"cannot write {path}: {error}", EXIT_FAILED) from None
        except OSError as error:
            raise ProtocolError(
                FAILED, f"cannot write {error.filename}: {error.strerror}; nothing was changed", EXIT_FAILED
            ) from None

    @property
    def idle(self) -> bool:
        """Whether no change is under way."""
        return self._state is None or bool(self._state["done"])

    # The next supervisor.

    def resume(self, blobs: Mapping[str, str]) -> None:
        """Go on where the supervisor before us has handed over, or died."""
        if behind.BLOB in blobs:
            self._behind.load(blobs[behind.BLOB])
        if REFUSED in blobs:
            self._refused = json.loads(blobs[REFUSED])
        if APPLY not in blobs:
            return
        self._state = state = json.loads(blobs[APPLY])
        if state["done"]:
            return
        if not state["begun"]:
            with self._engine.rounds.at_once():
                self._changeover.begin(state)
                state["begun"] = True
                self._starter.outbox.put(APPLY, json.dumps(state))
        self._finishing = asyncio.create_task(
            self._engine.faults.attend(
                "apply", "waiting for it to stop", functools.partial(self._changeover.finish, state)
            )
        )

    def awaited(self) -> list[Entry]:
        """The slots that the change under way waits for."""
        return [] if self._state is None or self._state["done"] else self._changeover.awaited(self._state)
