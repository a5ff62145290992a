"""From the text of an INI file to a `Config`, or to every problem in it at once.

`parse` is the one door: `impetusd check`, `start` and a reload all come through it, and it does nothing but read. The
machine it needs to know about is an argument (`Host`), as are the environment and the file's name.
"""

from __future__ import annotations

from impetusd.core.config import agreement, envfile, gateway, habits, ini, schema
from impetusd.core.config.include import Source, included
from impetusd.core.config.location import names_instance
from impetusd.core.config.logpaths import collisions
from impetusd.core.config.model import Config, Group, Health, Kind, Timer, Unit
from impetusd.core.config.problem import Problem, error_of
from impetusd.core.config.reading import Values, is_unit_name, parts, place
from impetusd.core.config.relations import members_of, relations
from impetusd.core.config.schema import header

TYPE_CHECKING = False  # typing takes 2 ms to import, and `impetusd status` comes by here
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from impetusd.core.config.ini import Entry, Section
    from impetusd.core.config.model import Host

UNITS = (schema.POOL, schema.PROGRAM)
NOTHING: frozenset[str] = frozenset()  # one for all: each empty one takes 0.2 KB
OF_A_TIMER = ("cron", "timezone", "every", "timeout", "retries", "retry_delay", "overlap", "jitter", "catch_up")


def parse(text: str, path: str, environ: Mapping[str, str], host: Host, instance: int = 0) -> Config:
    """As `parse_all`, of one file alone."""
    return parse_all(Source(path, text), environ, host, instance=instance)


def parse_all(
    source: Source,
    environ: Mapping[str, str],
    host: Host,
    *,
    profile: str = "",
    instance: int = 0,
    rules: int = ini.RULES,
) -> Config:
    """The configuration that the files describe, with the sections of `profile` laid over the others.

    Raises ConfigError with every problem, by line, including those of instances other than the first.

    With another `instance` it raises nothing and returns only the units that use ${INSTANCE}, with this instance's
    values. Units that cannot have such an instance are left out.

    `rules`: those that the text was first read by, see `ini.RULES`.
    """
    sections: list[Section] = []
    problems = list(source.problems)
    headers: dict[str, tuple[str, int]] = {}
    for path, text in source.texts:
        more, faults = ini.parse(text, path, headers)
        sections += more
        problems += faults
    reading = _Sections(source.path, environ, problems, host, instance, rules=rules, former=source.former)
    paths = reading.paths(sections)
    reading.environments(sections, profile)
    if instance:
        return Config(paths=paths, units=reading.instance_of(sections))
    reading.socket_path(sections, paths)
    access = reading.roles = reading.access(sections)
    logs = reading.log_access(sections)
    reading.parse_sections(sections)
    relations(reading, sections)
    if rules > 1:
        collisions(reading, paths.log_dir)
    if reading.problems:
        raise error_of(reading.problems, [path for path, _ in source.texts])
    return Config(
        paths=paths,
        access=access,
        logs=logs,
        units=reading.units,
        timers=reading.timers,
        health=reading.checks,
        groups=reading.groups,
        gateway=reading.gateway,
        alerts=reading.alerts,
        profile=profile,
        warnings=tuple(sorted((*source.warnings, *reading.warnings))),
    )


class _Sections(Values):
    """The sections of a file, one after another."""

    def environments(self, sections: list[Section], profile: str) -> None:
        """Read [env] and every [env:NAME], and over them every [env:NAME@profile]. Of the other profiles only the names are."""
        ours = [section for section in sections if parts(section)[0] == schema.ENV]
        for section in ours:
            if "@" not in section.name:
                self.environment(section, parts(section)[2])
        profiles: set[str] = set()
        for section in ours:
            name, at, its = (part.strip() for part in parts(section)[2].partition("@"))
            if at and not (its and is_unit_name(its)):
                self.problem(
                    section,
                    f"[{ini.brief(section.name)}]: {ini.brief(its) or 'nothing'} is not a profile; write"
                    f" [env:{name}@production]",
                )
            elif at:
                profiles.add(its)
                self.environment(section, name, laid_over=True, in_force=its == profile)
        if profile and profile not in profiles and not self.index:
            known = f"profiles: {', '.join(sorted(profiles))}" if profiles else f"write [env:NAME@{profile}]"
            self.problem(
                None,
                f"no section uses the profile {ini.brief(profile)} (--env); {known}, or use --env '' for no profile",
            )

    def environment(self, section: Section, name: str, *, laid_over: bool = False, in_force: bool = True) -> None:
        """Read one [env:…]; what is `laid_over` counts over what is known, if it is `in_force`."""
        self.instance = str(self.index)
        env = self.envs.setdefault(name, {})
        entries = self.env_entries.setdefault(name, {})
        for variable, entry in section.entries.items():
            said = ini.brief(variable)
            if not (variable.isascii() and envfile.is_name(variable)):
                form = "letters, digits, _, . and -, not starting with a digit"
                self.problem(entry, f"'{said}' is not a valid variable name; use {form}")
            elif variable in agreement.OWN_VARIABLES:
                self.problem(entry, f"{said} is set by impetusd itself; remove it")
            elif in_force and (laid_over or variable not in env):
                env[variable] = ini.joined(self.expand(variable, entry) or ())
                entries[variable] = entry
                self.warn_of_indented(said, entry)
        self.instance = ""

    def warn_of_indented(self, said: str, entry: Entry) -> None:
        """A variable may have a value with lines like NAME = value; more often their indentation is a slip."""
        for line in ini.continuations(entry.value) if "\n" in entry.value else ():
            name, equals, _ = line.partition("=")
            if equals and envfile.is_name(name.strip()):
                text = f"{ini.brief(name.strip())} is on an indented line, which continues {said}"
                self.warnings.append(
                    Problem(entry.file, entry.line, f"{text}; remove the indentation if that is not intended")
                )
                return

    def parse_sections(self, sections: list[Section]) -> None:
        """Read [impetusd], every unit, timer and check; refuse sections of no known kind."""
        told = {(problem.file, problem.line) for problem in self.problems}
        for section in sections:
            kind, colon, name = parts(section)
            shown = f"[{ini.brief(section.name)}]"
            if kind in schema.UNNAMED and colon:
                self.problem(section, f"{shown}: this section takes no name; write [{kind}]")
            if kind in {schema.IMPETUSD, schema.INCLUDE}:
                self.of_the_main_file(section, kind, colon)
            elif kind in UNITS:
                self.unit(section, Kind(kind), name)
            elif kind == schema.TIMER:
                self.timer(section, name)
            elif kind not in {schema.ENV, *schema.SECTIONS} and (section.file, section.line) not in told:
                near = self.nearest(kind, (*schema.SECTIONS, schema.ENV))
                if kind in habits.SECTIONS:
                    hint = habits.SECTIONS[kind]
                elif near:
                    hint = f"did you mean [{near}{':' + name if colon and near not in schema.UNNAMED else ''}]?"
                else:
                    hint = f"sections: {', '.join(map(header, schema.SECTIONS))}, [env] and [env:NAME]"
                self.problem(section, f"unknown section {shown}; {hint}")
        gateway.gateway(self, sections)
        for section in sections:  # when all units are known
            kind, _, name = parts(section)
            if kind == schema.HEALTH:
                self.check(section, name)
            elif kind == schema.GROUP:
                self.group(section, name)

    def of_the_main_file(self, section: Section, kind: str, colon: str) -> None:
        """[impetusd] and [include]."""
        shown = f"[{ini.brief(section.name)}]"
        if section.file != self.path:
            what = (
                "an included file cannot include others"
                if kind == schema.INCLUDE
                else "it configures impetusd as a whole"
            )
            self.problem(section, f"{shown} belongs in {self.path}, because {what}; move its keys there")
            return
        self.unknown_keys(section, kind)
        if kind == schema.INCLUDE and not colon:
            included(self, section)

    def group(self, section: Section, name: str) -> None:
        """Read one [group:…], when all units are known."""
        self.unknown_keys(section, schema.GROUP)
        fresh = self.name(section, schema.GROUP, name, self.headers)
        key, entry = schema.keys_of(schema.GROUP)["members"], section.entries.get("members")
        words = self.value(key, entry) if entry else ()
        if words is None or not fresh:
            return
        self.headers[name] = section
        members = members_of(self, place(section, "members"), words)
        if not words:
            self.problem(
                place(section, "members"),
                f"[{section.name}] has no members; add some, like members = {key.example}",
            )
        self.groups[name] = Group(name, f"{section.file}:{section.line}", members)

    def unit(self, section: Section, kind: Kind, name: str) -> None:
        """Read one [pool:…] or [program:…]."""
        self.instance = str(self.index)
        found = self.named_section(section, kind.value, name, self.headers)
        if found is None:
            self.instance = ""
            return
        values, faulty = found
        for required in ("app", "listen") if kind is Kind.POOL else ("command",):
            self.required(section, kind.value, required, values, faulty)
        env = self.env_of(name)
        agreement.identity(self, section, values)
        agreement.agreement(self, section, kind, values, faulty)
        agreement.increment(self, name, env, values)
        per_instance = self.varying(section, name)
        agreement.parked(self, section, per_instance, values)
        if per_instance and not self.index:
            self.other_instances(section, kind, name, values, faulty)
        self.instance = ""
        least, most = values.pop("instances")
        where = f"{section.file}:{section.line}"
        if kind is Kind.POOL:
            values["wait_ready"] = True
            values["on_fatal"] = values["on_fatal"] if self.rules > 1 else "hold"
        else:
            values["ready"] = values["ready"] or None
        self.units[name] = Unit(
            name=name,
            kind=kind,
            where=where,
            lines=self.lines(section),
            env=env,
            instances=least,
            instances_max=most,
            per_instance=per_instance,
            rules=self.rules,
            **values,
        )

    def one_of(
        self, section: Section, kind: Kind, keys: tuple[str, ...], values: dict[str, Any], faulty: set[str]
    ) -> str:
        """The one of these keys that the section sets; "" after a problem."""
        given = [key for key in keys if values[key] or key in faulty]
        if len(given) == 1:
            return given[0]
        shown = f"[{ini.brief(section.name)}]"
        if given:
            self.problem(place(section, given[1]), f"{shown} has {' and '.join(given)}; keep one of them")
        else:
            example = schema.keys_of(kind.value)[keys[0]].example
            self.problem(section, f"{shown} has none of {', '.join(keys)}; add one, like {keys[0]} = {example}")
        return ""

    def varying(self, section: Section, name: str) -> frozenset[str]:
        """The keys of the section and the variables of its [env:…] that use ${INSTANCE}."""
        written = (section.entries, self.env_entries_of(name))
        found = {key for entries in written for key, entry in entries.items() if names_instance(entry.value)}
        return frozenset(found) if found else NOTHING

    def other_instances(
        self, section: Section, kind: Kind, name: str, values: dict[str, Any], faulty: set[str]
    ) -> None:
        """Check the values of every instance but the first: a line is reported once, with the first instance it fails
        for."""
        varying = {key for key, entry in section.entries.items() if key in values and names_instance(entry.value)}
        entries = self.env_entries_of(name)
        varying_env = {variable for variable, entry in entries.items() if names_instance(entry.value)}
        here, told = self.problems, {(problem.file, problem.line) for problem in self.problems}
        keys, env = schema.keys_of(kind.value), self.env_of(name)
        listens = [values["listen"]]
        for index in range(1, values["instances"][1]):
            self.instance, self.problems = str(index), []
            own = {key: self.value(keys[key], section.entries[key]) for key in varying}
            bad = faulty | {key for key, value in own.items() if value is None}
            its = values | {key: self.or_default(kind.value, keys[key], value) for key, value in own.items()}
            if varying & {"user", "group"}:
                agreement.identity(self, section, its)
            agreement.agreement(self, section, kind, its, bad)
            its_env = {key: ini.joined(self.expand(key, entries[key]) or ()) for key in varying_env}
            agreement.increment(self, name, env | its_env, its)
            listens.append(its["listen"] if "listen" not in bad else ())
            for problem in self.problems:
                if (problem.file, problem.line) not in told:
                    told.add((problem.file, problem.line))
                    here.append(Problem(problem.file, problem.line, f"in instance {index}, {problem.text}"))
        self.problems = here
        if "listen" in varying:
            self.listens[name] = listens

    def instance_of(self, sections: list[Section]) -> dict[str, Unit]:
        """The units that use ${INSTANCE}, without those that cannot have this one."""
        for section in sections:
            kind, _, name = parts(section)
            if kind in UNITS and self.varying(section, name):
                self.problems = []
                self.unit(section, Kind(kind), name)
                if self.problems:
                    self.units.pop(name, None)
        return self.units

    def timer(self, section: Section, name: str) -> None:
        """Read one [timer:…]."""
        kind = Kind.TIMER
        found = self.named_section(section, kind.value, name, self.headers)
        if found is None:
            return
        values, faulty = found
        self.required(section, kind.value, "command", values, faulty)
        self.one_of(section, kind, ("cron", "every"), values, faulty)
        agreement.identity(self, section, values)
        agreement.companions(self, section, kind.value, values, faulty)
        for variable, entry in self.env_entries_of(name).items():
            if names_instance(entry.value):
                self.problem(entry, f"{variable}: a timer's job has no ${{INSTANCE}}; write the value")
        own = {key: values.pop(key) for key in OF_A_TIMER}
        own["every"] = own["every"] or 0.0
        where = f"{section.file}:{section.line}"
        env = self.env_of(name)
        unit = Unit(name=name, kind=kind, where=where, lines=self.lines(section), env=env, rules=self.rules, **values)
        self.timers[name] = Timer(name=name, where=where, unit=unit, enabled=unit.enabled, **own)

    def check(self, section: Section, name: str) -> None:
        """Read one [health:…]."""
        kind = Kind.HEALTH
        found = self.named_section(section, kind.value, name, self.check_headers)
        if found is None:
            return
        values, faulty = found
        values["target"] = target = values["target"] or name
        agreement.target(self, section, target, values["http"] if not values["socket"] else "")
        way = self.one_of(section, kind, ("http", "tcp", "exec"), values, faulty)
        agreement.asking(self, section, way, values, faulty)
        if way == "exec":
            agreement.identity(self, section, values)
        where = f"{section.file}:{section.line}"
        surroundings = {key: values.pop(key) for key in agreement.OF_EXEC}
        command, unit = values.pop("exec"), None
        if command:  # its name is one that no section can have
            unit = Unit(
                name=f"{name}~{kind.value}",
                kind=kind,
                where=where,
                command=command,
                enabled=values["enabled"],
                env=self.env_of(target),
                rules=self.rules,
                **surroundings,
            )
        self.checks[name] = Health(name=name, where=where, unit=unit, **values)
