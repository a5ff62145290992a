"""A service of systemd, with its drop-ins (NAME.service.d/*.conf)."""

from __future__ import annotations

import glob
import os
import re
import shlex
from dataclasses import dataclass
from posixpath import basename, dirname, join
from typing import TYPE_CHECKING

from impetusd.core.config import envfile
from impetusd.interop.importing import files, systemd_words
from impetusd.interop.importing.model import (
    MOST_FILES,
    Fate,
    Imported,
    ImportFault,
    Program,
    lost,
    reference,
    seconds,
    signal_name,
    stem,
    translated,
    unit_name,
    unneeded,
)
from impetusd.interop.importing.systemd_keys import FOLDERS, KEYS

if TYPE_CHECKING:
    from impetusd.interop.importing.model import Options, Rule

TRUE = ("1", "yes", "y", "true", "t", "on")
LIMITS = {"NOFILE": "nofile", "NPROC": "nproc", "CORE": "core", "AS": "as", "MEMLOCK": "memlock", "STACK": "stack", "FSIZE": "fsize", "DATA": "data", "CPU": "cpu"}  # fmt: skip
RESTART = {"no": "never", "always": "always", "on-success": "always", "on-failure": "on-failure", "on-abnormal": "on-failure", "on-abort": "on-failure", "on-watchdog": "on-failure"}  # fmt: skip
_UNITS = {"us": 1e-6, "usec": 1e-6, "ms": 0.001, "msec": 0.001, "": 1, "s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "minute": 60, "minutes": 60, "h": 3600, "hr": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400, "w": 604800, "week": 604800}  # fmt: skip
_KILL = re.compile(r"[-@:+!]*(?:/usr)?/bin/kill\s+(?:(?:-s\s*|-)(?:SIG)?([A-Z]+|[0-9]{1,2})\s+)?\$\{?MAINPID\}?")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # what systemd gives a service
STANDARD = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG")  # variables that a service has from its manager


@dataclass(frozen=True, slots=True)
class _Line:
    key: str
    value: str
    file: str
    line: int


def read(path: str, options: Options) -> Imported:
    """Raises ImportFault."""
    template = join(dirname(path), re.sub(r"@.*\.", "@.", basename(path)))
    source = path if os.path.lexists(path) else template
    lines = _lines(files.text_of(source), source)
    names = [
        found
        for each in dict.fromkeys((template, path))
        for found in sorted(glob.glob(f"{glob.escape(each)}.d/*.conf"))
    ]
    if len(names) > MOST_FILES:
        raise ImportFault(path, 1, f"more than {MOST_FILES} drop-ins")
    for name in names:
        lines += _lines(files.text_of(name), name)
    imported = Imported("systemd")
    _Service(path, lines, options, imported).make()
    imported.differ(
        "Output goes to files, not to the journal; to keep the journal, set out_file = stdout and run impetusd under"
        " systemd."
    )
    imported.differ("HOME, USER and LANG are set as by systemd, but without User=, HOME is impetusd's own.")
    return imported


def _lines(text: str, path: str) -> list[_Line]:
    found: list[_Line] = []
    section, joined, begun = "", "", 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        stripped = line.strip()
        if (not stripped and not joined) or stripped[:1] in {"#", ";"}:
            continue
        begun = begun or number
        if line.endswith("\\"):
            joined += line[:-1].strip() + " "
            continue
        whole, at = (joined + stripped).strip(), begun
        joined, begun = "", 0
        if whole[:1] == "[" and whole[-1:] == "]":
            section = whole
            continue
        key, equals, value = whole.partition("=")
        if not equals or not section:
            raise ImportFault(path, at, "neither a [Section] nor a Key=value")
        found.append(_Line(key.strip(), value.strip(), path, at))
    return found


class _Service:
    def __init__(self, path: str, lines: list[_Line], options: Options, imported: Imported) -> None:
        self.path = path
        self.imported = imported
        self.options = options
        self.taken: set[str] = set()
        name = stem(basename(path))
        prefix, at, instance = name.partition("@")
        self.template = prefix if at and not instance else ""
        self.known = systemd_words.specifiers(basename(path), name, prefix, instance)
        self.program = Program(unit_name(name.replace("@", "-"), self.taken), path, 1)
        self.lines = lines
        self.set: dict[str, list[_Line]] = {}
        for each in lines:  # an empty value takes back what was said before
            if each.value:
                self.set.setdefault(each.key, []).append(each)
            else:
                self.set[each.key] = []
        self.new: dict[str, str] = {}
        self.fates: dict[str, Rule] = {}

    def make(self) -> None:
        program, imported = self.program, self.imported
        starts = self.set.get("ExecStart", [])
        if not starts:
            raise ImportFault(self.path, 1, "it has no ExecStart=")
        self.environment()
        self.policy()
        self.surroundings()
        if len(starts) > 1 and program.keys.get("type") == "oneshot":
            lines = [(shlex.join(self.command(each)), "-" in _prefix(each.value)) for each in starts]
            joined = [f"{{ {line} || true; }}" if may_fail else line for line, may_fail in lines]
            program.argv = ["/bin/sh", "-c", " && ".join(joined)]
            self.fates["ExecStart"] = translated("command", "run one after another by sh -c")
        else:
            program.argv = self.command(starts[0])
            if len(starts) > 1:
                self.fates["ExecStart"] = lost(
                    "more than one command; only the first is used; put them into one script"
                )
        if (
            (stopping := self.value("ExecStop"))
            and (match := _KILL.fullmatch(stopping))
            and not self.value("KillSignal")
        ):
            self.put("ExecStop", "kill_signal", signal_name(match[1] or "TERM"))
            self.fates["ExecStop"] = translated("kill_signal")
        self.folders()
        for number, each in enumerate(self.set.get("ExecStartPre", ()), 1):
            prefix = _prefix(each.value)
            argv = self.command(each)
            if "-" in prefix:
                argv = ["/bin/sh", "-c", '"$@" || true', "sh", *argv]
            own = set(prefix) & {"+", "!"} or self.value("PermissionsStartOnly").lower() in TRUE
            self.before(
                f"pre-{number}" if number > 1 else "pre",
                each,
                argv,
                ("cwd", "env_file") if own else ("user", "group", "cwd", "env_file"),
            )
        wanted = [
            word
            for key in ("Requires", "Wants", "BindsTo", "After")
            for each in self.set.get(key, ())
            for word in each.value.split()
            if word.endswith(".service")
        ]
        if wanted:
            program.notes.append(
                "depends_on = " + ", ".join(dict.fromkeys(word.removesuffix(".service") for word in wanted))
            )
        if described := self.value("Description"):
            program.notes.insert(0, described)
        for each in self.lines:
            rule = self.fates.get(each.key) or KEYS.get(each.key)
            if rule is None and each.key.startswith("Limit") and each.key[5:] in LIMITS:
                rule = translated("rlimits")
            if rule is None and each.key[:2] == "X-":
                rule = unneeded("systemd ignores it, too")
            if rule is None:
                rule = lost("impetusd has no equivalent")
            if each.key == "StandardInput" and each.value != "null":
                rule = lost("standard input is /dev/null")
            if rule.fate is Fate.LOST and each.value.lower() in {"no", "false", "0", "off"}:
                rule = unneeded("it is disabled")
            imported.row(
                each.file, each.line, program.name, each.key, each.value, rule, self.new.get(each.key, rule.ours)
            )
        imported.programs.append(program)

    def before(self, suffix: str, each: _Line, argv: list[str], keys: tuple[str, ...]) -> None:
        """Adds a command that is run to its end before the service starts. `keys`: which it shares with the service."""
        program = self.program
        first = Program(
            unit_name(f"{program.name}-{suffix}", self.taken), each.file, each.line, argv, dict(program.env)
        )
        first.env_pass = program.env_pass
        first.keys = {"type": "oneshot"} | {key: program.keys[key] for key in keys if key in program.keys}
        if others := program.keys.get("depends_on"):  # they are run one after the other
            first.keys["depends_on"] = others.rpartition(", ")[2]
        self.imported.programs.append(first)
        program.keys["depends_on"] = f"{others}, {first.name}" if others else first.name

    def folders(self) -> None:
        """A command that makes RuntimeDirectory= and its like, and the variables that name them."""
        made: list[str] = []
        asked: _Line | None = None
        for kind, folder in FOLDERS.items():
            lines = self.set.get(f"{kind}Directory", [])
            paths = [f"{folder}/{word}" for each in lines for word in self.specifiers(each, each.value).split()]
            if not paths:
                continue
            asked = asked or lines[0]
            mode = self.value(f"{kind}DirectoryMode") or "0755"
            whose = ["-o", self.program.keys["user"]] if "user" in self.program.keys else []
            whose += ["-g", self.program.keys["group"]] if "group" in self.program.keys else []
            made.append(shlex.join(["install", "-d", "-m", mode, *whose, *paths]))
            self.program.env.setdefault(f"{kind.upper()}_DIRECTORY", ":".join(paths))
        if asked is not None:
            self.before("folders", asked, ["/bin/sh", "-c", " && ".join(made)], ())

    def value(self, key: str) -> str:
        found = self.set.get(key)
        return found[-1].value if found else ""

    def put(self, old: str, key: str, value: str) -> None:
        self.program.keys[key] = value
        self.new[old] = f"{key} = {value}"

    def specifiers(self, each: _Line, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            found = self.known.get(match[1])
            if found is None:
                raise ImportFault(
                    each.file, each.line, f"{each.key}: the specifier %{match[1]} cannot be converted; write its value"
                )
            if self.template and match[1] in "iIf":
                self.fates[each.key] = lost(
                    f"%{match[1]} is empty in a template; import {self.template}@INSTANCE.service instead (the file"
                    " need not exist)"
                )
            return found

        return re.sub(r"%(.)", value, text)

    def environment(self) -> None:
        program = self.program
        for each in self.set.get("Environment", ()):
            for word in self.words(each, each.value):
                name, equals, value = word.partition("=")
                if not equals:
                    raise ImportFault(each.file, each.line, "Environment= contains a word without =")
                program.env[name] = self.specifiers(each, value)
        named = [self.specifiers(each, each.value) for each in self.set.get("EnvironmentFile", ())]
        if named:
            self.put("EnvironmentFile", "env_file", ", ".join(named))
        if self.overridden(named):
            program.env.setdefault("PATH", PATH)
        else:
            self.imported.differ("PATH is impetusd's own unless an EnvironmentFile sets it.")
        passed = [word for each in self.set.get("PassEnvironment", ()) for word in each.value.split()]
        program.env_pass = ", ".join(passed)
        self.new["PassEnvironment"] = f"env_pass = {program.env_pass}"

    def overridden(self, named: list[str]) -> bool:
        """Leave out what an EnvironmentFile says otherwise: there it counts more, and env_file counts less than [env:NAME].
        Returns whether none of them sets PATH.
        """
        free = True
        for path, _ in map(envfile.named, named):
            found = files.variables_of(self.options.root.rstrip("/") + path)
            free = free and found is not None and "PATH" not in found
            for name in found or ():
                self.program.env.pop(name, None)
            if found is None and self.program.env:
                self.imported.differ(
                    f"{path} could not be read; variables that Environment= also sets were converted from Environment=."
                )
        return free

    def words(self, each: _Line, text: str) -> list[str]:
        try:
            return systemd_words.split(text)
        except ValueError as error:
            raise ImportFault(each.file, each.line, f"{each.key}= cannot be parsed: {error}") from None

    def command(self, each: _Line) -> list[str]:
        prefix = _prefix(each.value)
        if "@" in prefix:
            self.fates[each.key] = lost("impetusd cannot set argv[0] (the @ prefix)")
        words = [self.specifiers(each, word) for word in self.words(each, each.value[len(prefix) :])]
        if not words:
            raise ImportFault(each.file, each.line, f"{each.key}= does not name a program")
        if ";" in words:
            self.fates[each.key] = lost("the command after ; was left out")
            words = words[: words.index(";")]
        env = self.program.env
        if "env_file" in self.program.keys or self.program.env_pass:
            line, needed = systemd_words.script(words)
            if needed:
                return ["/bin/sh", "-c", f"set -f; exec {line}"]
        known = {name: reference(name, "") for name in STANDARD} | env
        for name in systemd_words.variables(words):
            if name not in known:
                self.imported.todo.append(f"{self.program.name}: {name} is not set, so it is empty in {each.key}.")
        return systemd_words.expanded(words, known) or words[:1]

    def time(self, key: str) -> float | None:
        text = self.value(key)
        if not text:
            return None
        if text in {"infinity", "0"}:
            return 0.0
        parts = re.findall(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([a-z]*)", text)
        if not parts or not all(unit in _UNITS for _, unit in parts):
            self.fates[key] = lost("impetusd does not understand this time")
            return None
        return sum(float(number) * _UNITS[unit] for number, unit in parts)

    def policy(self) -> None:
        keys = self.program.keys
        kind = self.value("Type") or "simple"
        if kind == "oneshot":
            self.put("Type", "type", "oneshot")
        elif kind == "notify":
            self.put("Type", "wait_ready", "yes")
        elif kind in {"forking", "dbus"}:
            self.fates["Type"] = lost(
                "it must stay in the foreground; add the option for that to its command"
                if kind == "forking"
                else "write ready = tcp:HOST:PORT, or omit it"
            )
            self.imported.todo.append(f"{self.program.name}: make it stay in the foreground (Type={kind}).")
        restart = RESTART.get(self.value("Restart") or "no", "on-failure")
        if kind == "oneshot" and restart == "always":
            restart = "on-failure"
        self.put("Restart", "autorestart", restart)
        if (delay := self.time("RestartSec")) is not None:
            self.put("RestartSec", "restart_delay", seconds(delay))
        codes = " ".join(self.value(key) for key in ("RestartPreventExitStatus", "SuccessExitStatus")).split()
        if codes:
            keys["stop_exit_codes"] = ", ".join(
                code for code in codes if code.isdecimal() and int(code) < 256 and len(code) < 4
            )
            if not keys["stop_exit_codes"]:
                del keys["stop_exit_codes"]
        if burst := self.value("StartLimitBurst"):
            self.put("StartLimitBurst", "max_restarts", burst)
        for key in ("StartLimitIntervalSec", "StartLimitInterval"):
            if window := self.time(key):
                self.put(key, "restart_window", seconds(window))
        stop = next((found for key in ("TimeoutStopSec", "TimeoutSec") if (found := self.time(key)) is not None), 90.0)
        keys["kill_timeout"] = seconds(stop or 86400 * 365)
        for key, ours in (("RuntimeMaxSec", "max_age"), ("WatchdogSec", "watchdog")):
            if kind != "oneshot" and (value := self.time(key)):
                self.put(key, ours, seconds(value))
        if (start := self.time("TimeoutStartSec")) and "wait_ready" in keys:
            self.put("TimeoutStartSec", "listen_timeout", seconds(start))
        if signal := self.value("KillSignal"):
            self.put("KillSignal", "kill_signal", signal_name(signal))
        if self.value("KillMode") in {"process", "none"}:
            self.put("KillMode", "treekill", "no")

    def surroundings(self) -> None:
        keys = self.program.keys
        for old, ours in (("User", "user"), ("Group", "group"), ("UMask", "umask"), ("Nice", "nice"), ("OOMScoreAdjust", "oom_score_adj"), ("CPUAffinity", "cpu_affinity")):  # fmt: skip
            if value := self.value(old):
                self.put(old, ours, self.specifiers(self.set[old][-1], value))
        if folder := self.value("WorkingDirectory"):
            if folder.removeprefix("-") == "~":
                self.fates["WorkingDirectory"] = lost("write the user's home")
            else:
                self.put(
                    "WorkingDirectory",
                    "cwd",
                    self.specifiers(self.set["WorkingDirectory"][-1], folder.removeprefix("-")),
                )
        keys.setdefault("cwd", self.options.cwd or "/")
        if self.value("NoNewPrivileges").lower() in TRUE:
            self.put("NoNewPrivileges", "no_new_privs", "yes")
        for old, ours in (("MemoryHigh", "max_memory_restart"), ("MemoryMax", "max_memory_kill")):
            if (value := self.value(old)) and value != "infinity":
                self.put(old, ours, _size(value))
        limits = []
        for key, lines in self.set.items():
            if key.startswith("Limit") and key[5:] in LIMITS and lines:
                limits.append(f"{LIMITS[key[5:]]}={lines[-1].value}")
                self.new[key] = f"rlimits = {limits[-1]}"
        if limits:
            keys["rlimits"] = ", ".join(limits)
        for old, ours in (("StandardOutput", "out_file"), ("StandardError", "error_file")):
            how, colon, path = self.value(old).partition(":")
            if how == "null":
                self.put(old, ours, "/dev/null")
            elif colon and how in {"file", "append", "truncate"}:
                self.put(old, ours, self.specifiers(self.set[old][-1], path))


def _prefix(command: str) -> str:
    """The characters before a command that say how it is run."""
    return command[: len(command) - len(command.lstrip("-@:+!"))]


def _size(text: str) -> str:
    """A size that may have a fraction, without one."""
    match = re.fullmatch(r"([0-9]{1,9}\.[0-9]{1,9})([KMGT])", text)
    return f"{int(float(match[1]) * 1024 ** ('KMGT'.index(match[2])))}K" if match else text
