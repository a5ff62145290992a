"""Apply a new configuration to what runs: `plan` shows what it would change, `apply` and SIGHUP carry it out.

The new text and the planned actions go to the shim as one message, after which this supervisor ends. The next
one comes up with the new configuration in the same way as after a kill, and goes on from there. So a kill at any moment
leaves either the old configuration or the new one, entirely.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from impetusd.client import instance
from impetusd.core.config import include, ini, parser, pending, schema, switches
from impetusd.core.config.include import Source
from impetusd.core.config.location import is_users_own, locate
from impetusd.core.config.model import Config, Unit, user_and_group
from impetusd.core.config.problem import ConfigError
from impetusd.core.protocol import EXIT_FAILED, EXIT_UNKNOWN_NAME, EXIT_USAGE, FAILED, ProtocolError
from impetusd.core.reasons import Reason, because
from impetusd.core.rules.lifecycle import State, Want
from impetusd.core.rules.plan import Change, Effect, plan, refusal
from impetusd.core.rules.reload import overlaps
from impetusd.files.source import PROFILE, remembered_profile
from impetusd.files.source import read as read_source
from impetusd.linux.host import this_host
from impetusd.supervisor.api import behind
from impetusd.supervisor.api.commands import is_stuck
from impetusd.supervisor.disk.state import replace
from impetusd.supervisor.slots.entry import IDLE, ONE_SHOT, PASSING, Entry, Role, with_jobs
from impetusd.supervisor.start import childspec, envfiles
from impetusd.supervisor.threads import NoAnswer, Threads

if TYPE_CHECKING:
    from impetusd.core.config.location import Paths
    from impetusd.supervisor.slots.engine import Engine
    from impetusd.supervisor.start.starter import Starter

MOST = 4  # threads that read
WITHIN = 20.0  # seconds for the disk, and for looking up users
# What the shim remembers of all this.
CONFIG, BEFORE, APPLY, REFUSED = "config", "config:before", "apply", "config:refused"
SLACK = 10.0  # seconds beyond what a slot's own keys allow


class Configuration:
    """One text with all that it was read with, and what it means to each instance."""

    def __init__(self, conf: str, remembered: str, *, in_force: bool, known: Collection[str] = ()) -> None:
        """`remembered` is what `read` returned. Raises ConfigError.

        `in_force`: it was valid before. A user deleted since must not end anything that runs. `known`: users and groups
        that were valid before; if one of them is missing, the file is not at fault.
        """
        self.remembered = remembered
        self._conf = conf
        self._host = host = this_host()
        if known:
            user_exists, group_exists = host.user_exists, host.group_exists
            self._host = dataclasses.replace(
                host,
                user_exists=lambda name: name in known or user_exists(name),
                group_exists=lambda name: name in known or group_exists(name),
            )
        if in_force:
            self.accept()
        self._saved = json.loads(remembered)
        self.at = functools.cache(self._parse)
        self.at(0)

    def accept(self) -> None:
        """It was valid: the users in it are not looked up again."""
        self._host = dataclasses.replace(self._host, user_exists=lambda _: True, group_exists=lambda _: True)

    def _parse(self, instance: int) -> Config:
        saved = self._saved
        included = tuple((path, text) for path, text in saved.get("included", ()))  # none, says an older impetusd
        source = Source(self._conf, saved["text"], included, former=self.former)
        parsed = parser.parse_all(
            source,
            saved["environ"],
            self._host,
            profile=self.profile,
            instance=instance,
            rules=saved.get("rules", 1),  # an older impetusd says nothing of them
        )
        return switches.without(parsed, saved["disabled"])

    @property
    def environ(self) -> dict[str, str]:
        """The values for `${VAR}` in it: the environment that the daemon was started with."""
        environ: dict[str, str] = self._saved["environ"]
        return environ

    @property
    def profile(self) -> str:
        """The profile in force; "" for none."""
        name: str = self._saved.get("profile", "")
        return name

    @functools.cached_property
    def in_force(self) -> dict[str, Any]:
        """What it was read from, for comparison: see `core.config.pending`."""
        saved = self._saved
        patterns = include.patterns(saved["text"], self._conf, saved["environ"], former=self.former)
        texts = ((self._conf, saved["text"]), *saved.get("included", ()))
        return pending.report(texts, [pattern.glob for pattern in patterns])

    @property
    def former(self) -> bool:
        """Whether it uses the folders from before each file had its own, as an older impetusd states."""
        if self._saved.get("former", True):
            return True
        return not self._saved.get("xdg") and is_users_own(self._conf, self.environ)

    def with_disabled(self, names: Collection[str]) -> str:
        """What would be remembered with these disabled."""
        return json.dumps({**self._saved, "disabled": sorted(names)})

    @property
    def disabled(self) -> list[str]:
        """Units and timers that an operator has disabled."""
        names: list[str] = self._saved["disabled"]
        return names


def named_by(configuration: Config) -> set[str]:
    """The users and groups that it names."""
    access = configuration.access
    names = {word.removeprefix("@") for word in (*access.viewers, *access.operators, *access.admins)}
    names.update(user_and_group(configuration.logs.log_owner))
    for unit in with_jobs(configuration):
        owners = (each.owner.split(":") for each in unit.listen)
        names.update(user_and_group(unit.user), (unit.group,), *owners)
    return names - {""}


def read(conf: str, state_dir: str, environ: Mapping[str, str], profile: str | None, *, former: bool = False) -> str:
    """The files as they are on the disk, the names that are switched off, the profile, and what references see.

    All of it is remembered, so that nothing that comes later depends on the disk. `profile`: None is the one that was in
    force last. `former`: see `location.default_dirs`. Raises OSError, ConfigError.
    """
    if profile is None:
        profile = remembered_profile(state_dir)
    source = read_source(conf, environ, former=former)
    if source.problems:
        parser.parse_all(source, environ, this_host(), profile=profile)  # which reports these with all others
    try:
        with open(f"{state_dir}/{switches.FILE}", encoding="utf-8", errors="replace") as file:
            disabled = switches.parse(file.read())
    except FileNotFoundError:
        disabled = []
    kept = {"text": source.text, "included": source.included, "former": former, "xdg": True, "profile": profile}
    return json.dumps({**kept, "rules": ini.RULES, "environ": dict(environ), "disabled": disabled})


def keep_file(state_dir: str, file: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    """Record in state_dir which INI file its state belongs to."""
    path, text = f"{state_dir}/{instance.NAME}", json.dumps(instance.record(file, state_dir))
    try:
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as known:
            if known.read() == text:
                return
        replace(path, text.encode())
    except OSError as error:
        tell(f"{path} cannot be written: {error.strerror}; without it, impetusd may take another INI file for this one")


def keep_profile(state_dir: str, profile: str, tell: Callable[[str], None]) -> None:
    """Save to the disk which profile is in force, for the next daemon."""
    if profile == remembered_profile(state_dir):
        return
    try:
        replace(f"{state_dir}/{PROFILE}", f"{profile}\n".encode())
    except OSError as error:
        told = f"the profile {profile or '(none)'} is not remembered over the end of impetusd"
        tell(f"{told}: cannot write {error.filename}: {error.strerror}")


def is_former(conf: str, paths: Paths, environ: Mapping[str, str]) -> bool:
    """Whether these paths are those of former versions for this file. Raises OSError, ConfigError."""
    with open(conf, encoding="utf-8-sig", errors="replace") as file:
        text = file.read()
    where = (locate(text, conf, environ, former=former) for former in (False, True))
    to_be, was = ([getattr(each, name) for name in instance.DIRS] for each in where)
    return to_be != was and was == [getattr(paths, name) for name in instance.DIRS]


PROBLEMS = 12  # of a refused file that are written down


class _Mistaken(ProtocolError):
    """The files have `problems`, as sentences."""

    def __init__(self, error: ConfigError) -> None:
        super().__init__(FAILED, error.told()[:200_000], EXIT_USAGE)
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
        rows: Callable[[list[Entry]], list[dict[str, Any]]],
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
        self._needed = needed
        self._rows = rows
        self._record = record
        self._state: dict[str, Any] | None = None  # of the last apply
        self._going_over = False
        self._switching = asyncio.Lock()
        self._threads = Threads("configuration", MOST)
        self._refused: dict[str, Any] | None = None  # at, reason: of what the disk has
        former = functools.partial(Configuration, self._conf, in_force=True)
        self._behind = behind.Behind(engine, starter, present.at, lambda remembered: former(remembered).at)

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
            and (said := self._engine.slots.started_as(entry))
        ]
        instances = self._instances()
        try:
            found, changes = await self._threads.run(both, WITHIN)
        except NoAnswer as error:
            what = "reading it, or looking up the users that it names"
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
        return {name: self._engine.slots.instances(unit) for name, unit in self._engine.slots.units.items()}.__getitem__

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
                return self._answer(self._state)
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
                self._engine.slots.expect(
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
                    f"Wait for it, or end it: impetusd reload --cancel {change.name}",
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
                hint = f"; did you mean {near}?" if near else "; name a unit, a timer or a group, as the INI file does"
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
                self._begin(state)
                state["begun"] = True
                self._starter.outbox.put(APPLY, json.dumps(state))
        self._finishing = asyncio.create_task(
            self._engine.faults.attend("apply", "waiting for its end", functools.partial(self._finish, state))
        )

    def _begin(self, state: dict[str, Any]) -> None:
        """Replace processes where the plan says so, and start new units."""

        def lasting(unit: Unit) -> list[Entry]:
            return [entry for entry in engine.slots.of_unit(unit) if not entry.dismissed and entry.role not in PASSING]

        engine, afresh, new, reloaded = self._engine, [], [], set()
        for change in state["changes"]:
            unit = engine.slots.units.get(change["name"])
            if unit is None or change["kind"] not in {"pool", "program"}:
                continue
            entries = lasting(unit)
            if change["effect"] == Effect.ADDED.value:
                new += entries if unit.autostart else []
            elif change["effect"] in {Effect.RELOAD.value, Effect.RESTART.value}:
                if change["effect"] == Effect.RELOAD.value and any(e.slot.state is State.RUNNING for e in entries):
                    reloaded.add(unit.name)
                    engine.reloads.begin(unit, because("new_configuration"), asked=True)
                    continue
                if change["effect"] == Effect.RESTART.value:
                    self._starter.listeners.drop_former(unit)
                # Not one after another where one of the new would meet what the old ones have.
                moved = any(key["key"] == "listen" for key in change["keys"])
                gently = change["kind"] == "program" and not overlaps(unit) and not moved
                afresh += [(gently, entry) for entry in entries if entry.slot.want is Want.UP]
        rolled = [entry for gently, entry in afresh if gently and entry.slot.state is State.RUNNING]
        ended = [entry for _, entry in afresh if entry not in rolled]
        state["pids"] = {entry.name: entry.slot.pid for entry in rolled}
        engine.roll(rolled, because("new_configuration"))
        engine.restart(ended)
        for unit in engine.slots.units.values():  # more instances, or parked workers, of what runs
            entries = lasting(unit)
            if any(entry.slot.want is Want.UP for entry in entries):
                # It has no record: it is new. What a reload brings is not to be started of the files now.
                new += [
                    e
                    for e in entries
                    if e.slot.since == 0.0 and not (e.role is Role.TEMPLATE and unit.name in reloaded)
                ]
        engine.start([entry for entry in self._needed(new) if entry.slot.want is Want.DOWN])

    async def _finish(self, state: dict[str, Any]) -> None:
        await self._wait(state)
        given_up = {
            entry.name: entry for entry in (*self._awaited(state), *self._dismissed()) if entry.slot.state not in IDLE
        }
        state["unfinished"] = list(map(self._engine.slots.shown, given_up.values()))
        kept = [e for e in self._touched(state) if e.slot.pid is not None and state["pids"].get(e.name) == e.slot.pid]
        reloaded = [change["name"] for change in state["changes"] if change["effect"] == Effect.RELOAD.value]
        reloads = [
            self._engine.reloads.account(self._engine.slots.units[name])
            for name in reloaded
            if name in self._engine.slots.units
        ]
        failed = [f"{each['name']} runs as before: {each['reason']}" for each in reloads if each["reason"]]
        down = [
            e
            for e in self._touched(state)
            if e.slot.want is Want.UP and e.slot.state not in {State.RUNNING, State.EXITED} and e.role not in ONE_SHOT
        ]
        state["done"], state["reloads"] = True, reloads
        state["ok"] = not (kept or down or failed or given_up)
        self._starter.outbox.put(APPLY, json.dumps(state))
        self._starter.outbox.put(BEFORE, None)
        self._behind.tidy()
        self._engine.reloads.drop_listeners()
        told = {entry.name: entry for entry in (*kept, *given_up.values())}.values()
        reasons = (f"{entry.name} is {entry.slot.state.name}: {self._engine.waits.reason(entry)}" for entry in told)
        reason = "; ".join([*failed, *reasons])
        self._record("config", what="applied", changes=state["changes"], ok=state["ok"], reason=reason)
        self._engine.rounds.wake()

    async def _wait(self, state: dict[str, Any]) -> None:
        """Return once nothing is awaited, or no awaited slot has changed for as long as its own keys allow."""

        def seen() -> list[tuple[str, State, int | None]]:
            return [(entry.name, entry.slot.state, entry.slot.pid) for entry in self._awaited(state)]

        def changed_since(before: list[tuple[str, State, int | None]]) -> Callable[[], bool]:
            return lambda: seen() != before

        while awaited := self._awaited(state):
            try:
                async with asyncio.timeout(self._patience(awaited)):
                    await self._engine.waits.until(changed_since(seen()))
            except TimeoutError:
                return

    def awaited(self) -> list[Entry]:
        """The slots that the change under way waits for."""
        return [] if self._state is None or self._state["done"] else self._awaited(self._state)

    def _awaited(self, state: dict[str, Any]) -> list[Entry]:
        """The slots to stop for good and those to wait for. A job runs at its time and is not waited for."""
        leaving = [entry for entry in self._dismissed() if not is_stuck(entry)]
        return leaving + [
            entry
            for entry in self._touched(state)
            if (entry.role not in ONE_SHOT and not self._engine.waits.settled(entry))
            or self._engine.versions.active(entry.unit)
        ]

    def _dismissed(self) -> list[Entry]:
        return [entry for entry in self._engine.slots.entries.values() if entry.dismissed]

    def _touched(self, state: dict[str, Any]) -> list[Entry]:
        names = {change["name"] for change in state["changes"] if change["effect"] != Effect.LIVE.value}
        return [
            entry for entry in self._engine.slots.entries.values() if entry.unit.name in names and not entry.dismissed
        ]

    def _answer(self, state: dict[str, Any]) -> dict[str, Any]:
        touched = [entry for entry in self._touched(state) if entry.role not in {Role.JOB, Role.CHECK}]
        return {
            "ok": state["ok"],
            "changes": state["changes"],
            "units": self._rows(touched),
            "reloads": state["reloads"],
            "moved": state.get("moved", ""),
            "unfinished": [*self._rows(self._unfinished(state))],
        }

    def _unfinished(self, state: dict[str, Any]) -> list[Entry]:
        """Slots that it stopped waiting for and that have still not ended."""
        names = state.get("unfinished", ())
        return [
            e
            for e in self._engine.slots.entries.values()
            if self._engine.slots.shown(e) in names and e.slot.state not in IDLE
        ]

    def _patience(self, awaited: list[Entry]) -> float | None:
        """Seconds within which one of them should change its state; None while a oneshot without listen_timeout runs."""

        def due(entry: Entry) -> float:
            policy, slot = entry.policy, entry.slot
            keys = (policy.kill_timeout, policy.listen_timeout, policy.min_uptime, entry.unit.reload_watch)
            return max(*keys, (slot.deadline or 0.0) - time.monotonic())

        slots = [entry.slot for entry in self._engine.slots.entries.values()]
        if any(slot.state is State.STARTING and slot.pid is not None and slot.deadline is None for slot in slots):
            return None
        return SLACK + max(map(due, awaited))
