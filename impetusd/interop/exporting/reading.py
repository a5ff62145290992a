"""From an INI file to workloads: pure, of its text and of what the text means."""

from __future__ import annotations

import math
from collections import ChainMap
from dataclasses import replace
from typing import TYPE_CHECKING

from impetusd.core.config import envfile, ini, parser, schema
from impetusd.core.config.environment import HANDED_ON
from impetusd.core.config.model import Action, Autorestart, Kind, number_of, user_and_group
from impetusd.core.config.reading import parts
from impetusd.interop.exporting import fates, ports, times, values
from impetusd.interop.exporting.decisions import decided
from impetusd.interop.exporting.inner import Inner
from impetusd.interop.exporting.model import (
    OVERHEAD,
    PRE_STOP,
    SECRETS,
    UID,
    Exported,
    Options,
    Port,
    Role,
    Target,
    Workload,
    host_name,
)
from impetusd.interop.exporting.values import Places
from impetusd.interop.importing.model import Fate, Row, Rule, lost, translated, unneeded

if TYPE_CHECKING:
    from impetusd.core.config.include import Source
    from impetusd.core.config.ini import Entry, Section
    from impetusd.core.config.model import Config, Health, Timer, Unit

# Keys of a unit that its INI in the container does not have as they are; the engine has them, or they are written anew.
_NOT_INSIDE = frozenset({
    "autostart", "capabilities", "cpu_affinity", "cpu_max", "critical", "depends_on", "enabled", "env_file", "env_pass", "group", "instances", "interpreter", "listen",
    "log_compress", "log_keep", "log_max_age", "log_max_size", "memory_max", "merge_logs", "no_new_privs", "standby", "user", "watch", "watch_delay", "watch_ignore",
})  # fmt: skip
# Variables that impetusd itself, its interpreter or the loader would go by if the container had them.
_ITS_OWN = ("PYTHON", "LD_", "LC_", "IMPETUSD_", "LISTEN_", "NOTIFY_", "JOURNAL_", "MAINPID", "SYSTEMD_", "MALLOC_", "GLIBC_")  # fmt: skip


def exported(source: Source, config: Config, options: Options) -> Exported:
    """Every enabled unit and timer as a workload, and what became of each key."""
    return _Export(source, config, options).whole()


class _Export:
    def __init__(self, source: Source, config: Config, options: Options) -> None:
        self.config = config
        self.options = options
        self.made = Exported(options)
        self.sections = [section for path, text in source.texts for section in ini.parse(text, path)[0]]
        self.of = {f"{each.file}:{each.line}": each for each in self.sections}
        self.envs = self._environments()
        self.names: dict[str, str] = {}
        units = [unit for unit in config.units.values() if unit.made is None and unit.enabled]
        for name in [*(unit.name for unit in units), *(each.name for each in config.timers.values() if each.enabled)]:
            self.names[name] = host_name(name, self.names.values())
        self.listens = {unit.name: self._ports(unit) for unit in units}
        self.owners: dict[int, str] = {}
        for name, (_, found) in self.listens.items():
            for port in found:
                self.owners.setdefault(port.number, name)

    def whole(self) -> Exported:
        """The workloads first, and then the sections that are not any."""
        for section in self.sections:
            kind, _, name = parts(section)
            if kind in parser.UNITS:
                self._unit(section, self.config.units[name])
            elif kind == schema.TIMER:
                self._timer(section, self.config.timers[name])
            elif kind in {schema.IMPETUSD, schema.GROUP, schema.INCLUDE, schema.GATEWAY, schema.ALERT, schema.HOST}:
                self._other(section, kind)
        self._before()
        self._general()
        self._rest()
        return self.made

    def _environments(self) -> dict[str, dict[str, Entry]]:
        """The entries of each [env:NAME], "" for all, with the profile's over them."""
        found: dict[str, dict[str, Entry]] = {}
        ours = [each for each in self.sections if parts(each)[0] == schema.ENV]
        for each in ours:
            name = parts(each)[2]
            if "@" not in name:
                for variable, entry in each.entries.items():
                    found.setdefault(name, {}).setdefault(variable, entry)
        for each in ours:
            name, at, profile = (part.strip() for part in parts(each)[2].partition("@"))
            if at and profile == self.config.profile:
                found.setdefault(name, {}).update(each.entries)
        return found

    def _ports(self, unit: Unit) -> tuple[str, tuple[Port, ...]]:
        entry = self.of[unit.where].entries.get("listen")
        listen, found = ports.listening(unit, entry.value if entry else "")
        checks = [check for check in self.config.health.values() if check.target == unit.name]
        return listen, found or ports.asked(unit, checks)

    def _places(self, unit: str) -> Places:
        others = {port: self.names[owner] for port, owner in self.owners.items() if owner != unit}
        return Places(self.config.paths, others)

    def _row(self, section: Section, key: str, rule: Rule, new: str = "") -> None:
        entry = section.entries.get(key)
        line, file = (entry.line, entry.file) if entry else (section.line, section.file)
        self.made.row(file, line, section.name, key, entry.value if entry else "", rule, new)

    def _left_out(self, section: Section) -> None:
        self._row(section, "enabled" if "enabled" in section.entries else "", lost("it is disabled, so it is left out"))

    # Units.

    def _unit(self, section: Section, unit: Unit) -> None:
        if not unit.enabled:
            self._left_out(section)
            return
        role = Role.ONCE if unit.type == "oneshot" else Role.SERVICE
        work = self._common(section, unit, role)
        inner = Inner(section.name)
        together = bool(unit.per_instance or unit.increment_var)
        inside = unit.instances if together else min(self.options.per_container, unit.instances)
        if role is Role.SERVICE:
            most = unit.instances if together else unit.instances_max
            work.replicas = math.ceil(unit.instances / inside) if unit.autostart else 0
            work.replicas_max = math.ceil(most / inside) if unit.autostart else 0
            inner.put("instances", str(inside))
            inner.put("critical", "no" if unit.retry_after else "yes")
            if unit.kind is Kind.POOL:
                inner.put("standby", "0")
                if "standby" not in section.entries and unit.standby:
                    self.made.differ(
                        "a pool has no standby worker (default: standby = 1), because another container takes over the requests"
                    )
            listen, work.ports = self.listens[unit.name]
            if listen:
                inner.put("listen", listen)
            work.parallel, work.settle = unit.reload_parallel, math.ceil(unit.reload_watch)
        else:
            never = unit.autorestart is Autorestart.NEVER and "autorestart" in unit.lines
            work.tries, work.timeout = 0 if never else unit.max_restarts, math.ceil(unit.listen_timeout)
        self._resources(work, unit, inside)
        work.depends_on = tuple(self.names[each] for each in unit.depends_on if each in self.names)
        self._keys(section, unit, work, inner)
        checks = [
            (each, self.of[each.where])
            for each in self.config.health.values()
            if each.target == unit.name and each.enabled
        ]
        self._probes(unit, work, checks, inner)
        self._environment(unit, work, inner, checks)
        work.ini = inner.text()
        self.made.workloads.append(work)

    def _timer(self, section: Section, timer: Timer) -> None:
        if not timer.enabled:
            self._left_out(section)
            return
        schedule = times.schedule(timer) if self.options.target is Target.KUBERNETES else None
        work = self._common(section, timer.unit, Role.CRON if schedule else Role.SERVICE)
        work.schedule = schedule
        inner = Inner(section.name)
        self._resources(work, timer.unit, 1)
        if schedule and not timer.timezone and timer.cron:
            self.made.differ("a CronJob without timezone uses the time zone of the cluster's controller, usually UTC")
        self._keys(section, timer.unit, work, inner, timer=timer)
        if not schedule:
            work.timer = True
            work.startup = work.readiness = ports.ASKED
        self._environment(timer.unit, work, inner, [])
        work.ini = inner.text()
        self.made.workloads.append(work)

    def _common(self, section: Section, unit: Unit, role: Role) -> Workload:
        ending = role is not Role.SERVICE
        name = self.names[unit.name]
        work = Workload(unit=unit.name, name=name, role=role)
        if ending:
            work.argv = ("exec", "--own", unit.name)
        if name != unit.name:
            self.made.rows.append(_renamed(section, unit.name, name))
        user, group = user_and_group(unit.user)
        group = unit.group or group
        for said in (user, group):
            if said and number_of(said) is None:
                self.made.do(
                    f"{unit.name} runs as {said} here, but as {UID} in its container; to keep {said}, write its"
                    " numeric ID in the INI file"
                )
        uid, gid = number_of(user), number_of(group)
        work.uid = UID if uid is None else uid
        work.gid = work.uid if gid is None else gid
        if work.uid == 0:
            self.made.do(f"{unit.name} runs as root; if it does not need to, set user")
        work.capabilities = tuple(unit.capabilities)
        work.privileges = unit.no_new_privs == "no"
        work.log_size, work.log_keep, work.log_compress = unit.log_max_size, unit.log_keep, unit.log_compress
        work.start_period = math.ceil(unit.listen_timeout) or 30
        kubernetes = self.options.target is Target.KUBERNETES
        stop = PRE_STOP if kubernetes and unit.listen and not ending else 0
        work.grace = math.ceil(unit.kill_timeout + unit.drain_timeout) + stop + 5
        return work

    def _resources(self, work: Workload, unit: Unit, inside: int) -> None:
        usual = unit.max_memory_restart or unit.max_memory_kill or unit.memory_max
        most = unit.max_memory_kill or (unit.max_memory_restart * 5 + 3) // 4
        most = max(most, unit.memory_max)
        work.memory = usual * inside + OVERHEAD if usual else 0
        work.memory_max = most * inside + OVERHEAD if most else 0
        work.cpu_max = unit.cpu_max * inside

    def _keys(
        self,
        section: Section,
        unit: Unit,
        work: Workload,
        inner: Inner,
        *,
        timer: Timer | None = None,
    ) -> None:
        kind = parts(section)[0]
        ending = work.role is not Role.SERVICE
        for key, entry in section.entries.items():
            rule = fates.rule(
                self.options.target, kind, key, ending=ending and (timer is None or key not in fates.TIMERS)
            )
            rule, new = decided(key, rule, unit, work, self.options.target, timer=timer)
            if key not in _NOT_INSIDE and not (key in {"out_file", "error_file"} and rule.fate is not Fate.KEPT):
                moved = self._inside(section, key, work)
                inner.put(key, moved)
                if moved != entry.value and rule.fate is Fate.KEPT and not new:
                    rule, new = translated(key, "folders and hosts were changed to those of the containers"), moved
            self._row(section, key, rule, new)

    def _inside(self, section: Section, key: str, work: Workload) -> str:
        """The key's value in the container's INI."""
        entry, unit = section.entries[key], work.unit
        raw = self._moved(work, key, entry, shared=key not in {"listen", "socket"})
        if key in {"command", "exec"}:
            try:
                raw, found = values.without_secrets(work.name, raw)
            except ValueError as error:
                raise ValueError(f"{entry.file}:{entry.line}: {key}: {error}; write it as ${{NAME}}") from None
            for name, what in found.items():
                work.needs = {**work.needs, name: False}
                self.made.do(f"{unit}: provide the secret {name}, which is not written: {what}")
        elif values.has_secret(raw):
            name = values.variable(
                work.name, f"{section.name.rpartition(':')[2]} {key}" if parts(section)[0] == schema.HEALTH else key
            )
            raw = f"${{{name}}}"
            work.needs = {**work.needs, name: False}
            self.made.do(
                f"{unit}: provide the secret {name}, which is not written: the value of {key} in [{section.name}]"
            )
        _need(work, raw)
        return raw

    def _moved(self, work: Workload, key: str, entry: Entry, *, shared: bool = True) -> str:
        """The value with the folders and hosts of the containers. `shared`: what it names there is for other units, too."""
        places = self._places(work.unit)
        work.data = work.data or places.uses_state(entry.value)
        if shared and places.uses_run(entry.value):
            self.made.do(f"{work.unit}: {key} uses ${{RUN_DIR}}, which containers do not share; set another value")
        return places.moved(entry.value)

    def _probes(self, unit: Unit, work: Workload, checks: list[tuple[Health, Section]], inner: Inner) -> None:
        taken: set[str] = set()
        if work.role is Role.SERVICE:
            longest = max((each.start_period for each, _ in checks), default=0.0)
            work.start_period = math.ceil(unit.listen_timeout + longest)
            if self.options.target is Target.KUBERNETES:
                work.startup, work.readiness, work.liveness, taken = ports.probes(work.start_period, checks, work.ports)
            else:
                work.readiness = replace(ports.ASKED, every=5)
        for check, section in checks:
            by_kubelet = check.name in taken
            if not by_kubelet:
                inner.begin(section.name)
            for key in section.entries:
                rule = fates.rule(self.options.target, schema.HEALTH, key)
                new = ""
                if by_kubelet and rule.fate is Fate.TRANSLATED:
                    new = (
                        rule.ours
                        if rule.ours != "probe"
                        else ("livenessProbe" if check.action is Action.RESTART else "readinessProbe")
                    )
                elif not by_kubelet:
                    rule = (
                        fates.same("impetusd runs the check in the container") if rule.fate is Fate.TRANSLATED else rule
                    )
                    if key not in _NOT_INSIDE:
                        inner.put(key, self._inside(section, key, work))
                self._row(section, key, rule, new)
            if not by_kubelet and "target" not in section.entries:
                inner.put("target", unit.name)
        for each in self.config.health.values():
            if each.target == unit.name and not each.enabled:
                self._left_out(self.of[each.where])

    # What a process finds in its environment.

    def _environment(self, unit: Unit, work: Workload, inner: Inner, checks: list[tuple[Health, Section]]) -> None:
        target = self.options.target
        entries = ChainMap(self.envs.get(unit.name, {}), self.envs.get("", {}))
        env: dict[str, str] = {}
        inside: dict[str, str] = {}
        secret: list[str] = []
        for name, entry in sorted(entries.items(), key=lambda each: (each[1].file, each[1].line)):
            raw = self._moved(work, name, entry)
            section = "env" if name not in self.envs.get(unit.name, {}) else f"env:{unit.name}"
            if values.is_secret(name, raw):
                secret.append(name)
                rule, new = (
                    fates.pick(target, fates.SECRET),
                    work.env_file if target is Target.COMPOSE else work.secret_name,
                )
            elif (names := values.references(raw)) or "${" in raw.replace("$$", "") or _stays(name, raw):
                inside[name] = raw
                _need(work, raw)
                rule, new = (fates.pick(target, fates.REFERENCE), "") if names else (fates.same(), "")
            else:
                env[name] = self._places(unit.name).moved(unit.env[name])
                rule, new = fates.pick(target, fates.LITERAL), ""
            old = "" if rule.fate is Fate.TRANSLATED and name in secret else entry.value
            self.made.row(entry.file, entry.line, section, name, old, rule, new)
        work.env, work.secret = env, tuple(secret)
        work.env_files = tuple(envfile.named(path)[0] for path in unit.env_file)
        files = bool(work.env_files) or (bool(secret) and target is Target.COMPOSE)
        passed = [*env, *(secret if target is Target.KUBERNETES else [])]
        for header in (
            inner.own,
            *(section.name for check, section in checks if check.unit is not None and inner.has(section.name)),
        ):
            given = inner.get(header, "env_pass") or self._given(header)
            pattern = ", ".join(filter(None, (given, *passed)))
            if pattern:
                inner.put("env_pass", pattern, header)
            if files:
                inner.put("env_file", f"{SECRETS}/{work.env_file}", header)
        if inside:
            inner.begin(f"env:{unit.name}")
            for name, raw in inside.items():
                inner.put(name, raw)
        self._secrets(unit, work)

    def _given(self, header: str) -> str:
        section = next(each for each in self.sections if each.name == header)
        entry = section.entries.get("env_pass")
        return ini.unquoted(entry.value) if entry else ""

    def _secrets(self, unit: Unit, work: Workload) -> None:
        """What somebody must provide."""
        if self.options.target is Target.COMPOSE and (work.secret or work.env_files):
            what = [", ".join(f"{name}=…" for name in work.secret)] if work.secret else []
            what += [f"the contents of {path}" for path in work.env_files]
            self.made.do(
                f"{unit.name}: create {work.env_file} next to the compose file, readable only by uid {work.uid}, with"
                f" {' and '.join(what)}"
            )
        elif self.options.target is Target.KUBERNETES:
            names = [*work.secret, *(name for name, optional in work.needs.items() if not optional)]
            if names:
                self.made.do(
                    f"{unit.name}: create the Secret {work.secret_name} with {', '.join(dict.fromkeys(names))}"
                )
            if work.env_files:
                self.made.do(
                    f"{unit.name}: create the Secret {work.file_secret_name}, with the contents of"
                    f" {', '.join(work.env_files)} as its key {work.env_file}"
                )

    # The rest.

    def _other(self, section: Section, kind: str) -> None:
        if not section.entries and kind in {schema.GATEWAY, schema.ALERT}:
            self._row(section, "", fates.rule(self.options.target, kind, "enabled"))
        for key in section.entries:
            rule = fates.rule(self.options.target, kind, key)
            old = section.entries[key]
            if schema.keys_of(kind)[key].value in {schema.SECRET, schema.SECRET_URL}:
                self.made.row(old.file, old.line, section.name, key, "***", rule)
            else:
                self._row(section, key, rule)

    def _before(self) -> None:
        """What is done before a pod's own container, where that is wanted."""
        if not self.options.before:
            return
        by_name = {each.name: each for each in self.made.workloads}
        once: set[str] = set()
        for work in self.made.workloads:
            for name in work.depends_on:
                other = by_name[name]
                if other.role is Role.ONCE:
                    work.before.append(other)
                    once.add(name)
                elif other.ports:
                    work.waits = (*work.waits, (name, other.ports[0].number))
        self.made.workloads = [each for each in self.made.workloads if each.name not in once]

    def _rest(self) -> None:
        """Keys of what is in no container; and each row once."""
        said = {(row.file, row.line) for row in self.made.rows}
        for section in self.sections:
            for key, entry in section.entries.items():
                if (entry.file, entry.line) not in said:
                    self._row(
                        section,
                        key,
                        unneeded("no container uses this: its unit was left out, or its profile is not active"),
                    )
        self.made.rows = list(dict.fromkeys(self.made.rows))

    def _general(self) -> None:
        """What is the same for every unit, and what is to be said of several."""
        made = self.made
        data = list(made.with_data())
        if len(data) > 1 or any(each.replicas_max > 1 for each in data):
            names = ", ".join(each.unit for each in data)
            made.do(
                f"the containers of {names} share the files in ${{STATE_DIR}}: on several nodes, the volume data must"
                " be on a network file system (NFS, CephFS)"
            )
        for work in data:
            if work.is_alone and not work.timer and work.role is Role.SERVICE:
                made.differ(
                    f"{work.unit} keeps files in ${{STATE_DIR}}: its old container stops before a new one starts"
                )
        for name, (listen, found) in self.listens.items():
            if found and not listen:
                numbers = ", ".join(str(each.number) for each in found)
                made.do(
                    f"{name} opens port{'s' * (len(found) > 1)} {numbers} itself: it must listen on 0.0.0.0, not on 127.0.0.1"
                )
        if self.options.target is Target.COMPOSE:
            for work in made.workloads:
                if work.replicas > 1 and any(each.published for each in work.ports):
                    made.do(
                        f"{work.unit} has {work.replicas} containers and one published port; for docker compose"
                        f" without Swarm, use --per-container {work.replicas * self.options.per_container}"
                    )
        made.differ(
            "each unit runs in its own container, as uid 10001 unless it sets another, on a file system that is"
            " read-only except for /tmp and /data"
        )


def _need(work: Workload, raw: str) -> None:
    """The container must be given what the value refers to."""
    for name, optional in values.references(raw).items():
        if name not in values.GIVEN:
            work.needs = {**work.needs, name: work.needs.get(name, True) and optional}


def _stays(name: str, raw: str) -> bool:
    """Whether a variable is for the unit alone: it would change what impetusd itself does, or Swarm takes it for a template."""
    return name in HANDED_ON or name.startswith(_ITS_OWN) or "{{" in raw


def _renamed(section: Section, old: str, new: str) -> Row:
    """That a unit has another name there."""
    return Row(
        section.file,
        section.line,
        section.name,
        "",
        old,
        Fate.TRANSLATED,
        new,
        "host names consist of lowercase letters, digits and -",
    )
