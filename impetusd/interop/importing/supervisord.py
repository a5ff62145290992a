"""supervisord.conf, with what it includes."""

from __future__ import annotations

import glob
import os
import re
import shlex
import socket
from posixpath import basename, dirname, isabs, join, normpath
from typing import TYPE_CHECKING

from impetusd.interop.importing import files, inifile
from impetusd.interop.importing.model import (
    BARE,
    EVERY_VARIABLE,
    INSTANCE,
    MOST_FILES,
    MOST_PROGRAMS,
    OF_THE_USER,
    OPEN,
    Imported,
    ImportFault,
    Program,
    absolute,
    lost,
    reference,
    resolve,
    seconds,
    shown,
    signal_name,
    unit_name,
    unneeded,
)
from impetusd.interop.importing.supervisord_keys import DAEMON, KEYS, SECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.interop.importing.inifile import Sections, Value
    from impetusd.interop.importing.model import Options, Rule

DEVICES = {
    **dict.fromkeys(("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/1/fd/1"), "stdout"),
    **dict.fromkeys(("/dev/stderr", "/dev/fd/2", "/proc/self/fd/2", "/proc/1/fd/2"), "stderr"),
}
MOST_INSTANCES = 200
DEFAULT_PRIORITY = 999
_EXPANSION = re.compile(r"%(?:%|\((\w+)\)([-#0 +]*\d*)([sdi]))", re.ASCII)
TRUE, FALSE = ("true", "yes", "on", "t", "y", "1"), ("false", "no", "off", "f", "n", "0")


def read(path: str, options: Options) -> Imported:
    """Raises ImportFault."""
    sections = inifile.read(files.text_of(path), path)
    imported = Imported("supervisord")
    _include(sections, path, options, imported)
    _Reader(sections, path, options, imported).all()
    return imported


def _include(sections: Sections, path: str, options: Options, imported: Imported) -> None:
    entry = sections.found.get("include", {}).get("files")
    if entry is None:
        return
    seen = {path}
    for pattern in _expanded(entry, entry.text, _here(path)).split():
        wanted = normpath(join(dirname(path), pattern))
        places = [options.root.rstrip("/") + wanted, wanted] if isabs(pattern) and options.root else [wanted]
        if isabs(pattern):  # a checkout has such files beside this one
            places.append(join(dirname(path), *pattern.split("/")[-2:]))
            places.append(join(dirname(path), "*superv*", basename(pattern)))
        found = next((names for place in places if (names := sorted(glob.glob(place)))), [])
        if not found:
            imported.row(
                entry.file,
                entry.line,
                "include",
                "files",
                shown(pattern),
                lost("no file matches it here; set the host's root folder with --root"),
            )
        for name in found:
            if name in seen:
                continue
            seen.add(name)
            if len(seen) > MOST_FILES:
                raise ImportFault(entry.file, entry.line, f"more than {MOST_FILES} files are included")
            inifile.read(files.text_of(name, (entry.file, entry.line)), name, sections)


def _here(path: str) -> dict[str, str]:
    return {"here": dirname(path), "host_node_name": socket.gethostname()}


def _expanded(entry: Value, text: str, known: Mapping[str, str]) -> str:
    """With supervisord's %(…)s replaced. Raises ImportFault for what supervisord would refuse."""

    def value(match: re.Match[str]) -> str:
        name, form = match[1], match[2]
        if name is None:
            return "%"
        if name.startswith("ENV_") and len(name) > 4 and not name[4].isdigit():
            return reference(name[4:], "")
        found = known.get(name)
        if found is None:
            raise ImportFault(entry.file, entry.line, f"%({name}) is not defined here")
        if form and found.isdecimal() and len(form) < 5:
            return f"%{form}d" % int(found)
        return found

    left = _EXPANSION.sub("", text)
    if "%" in left:
        raise ImportFault(entry.file, entry.line, "a single %, which supervisord rejects; write %%")
    return _EXPANSION.sub(value, text)


class _Reader:
    def __init__(self, sections: Sections, path: str, options: Options, imported: Imported) -> None:
        self.sections = sections
        self.path = path
        self.options = options
        self.imported = imported
        self.daemon = sections.values("supervisord")
        self.cwd = options.cwd
        self.env: dict[str, str] = {}
        self.taken: set[str] = set()
        self.units: dict[str, list[str]] = {}  # program → names of its units
        self.priorities: dict[str, int] = {}

    def all(self) -> None:
        """Every section."""
        self.of_daemon()
        for name in self.sections.found:
            kind, _, its = name.partition(":")
            if kind == "program" and its:
                self.program(name, its.strip())
            elif kind not in {"supervisord", "DEFAULT"}:
                self.other(name, kind)
        self.groups()
        self.order()
        self.server()
        imported = self.imported
        if not imported.programs:
            imported.row(self.path, 1, "", "", "", lost("it and its included files contain no program"))
        else:
            imported.differ(
                "A program gets impetusd's environment (env_pass = *), as it got supervisord's, but without"
                " SUPERVISOR_* variables."
            )
            if any("user" in each.keys for each in imported.programs):
                imported.differ(
                    "In programs with user, HOME, USER, LOGNAME and SHELL are impetusd's, as they were supervisord's;"
                    " to get the user's, remove their names from env_pass."
                )
            imported.differ("Descendants are stopped with their program (treekill), even if stopasgroup is not set.")
            imported.differ(
                "The delay between restarts grows if a program keeps failing; it becomes FATAL after max_restarts"
                " within restart_window."
            )
            if not self.cwd and any("cwd" not in each.keys for each in imported.programs):
                imported.differ(
                    "Programs without directory run in the INI file's folder, not in supervisord's; use --cwd FOLDER"
                    " for another folder."
                )

    def of_daemon(self) -> None:
        for key, value in self.daemon.items():
            rule = DAEMON.get(key)
            if rule is None:
                rule = unneeded("not a key of supervisord, which ignores it")
            self.row(value, "supervisord", key, rule)
        here = _here(self.path)
        if entry := self.daemon.get("directory"):
            self.cwd = self.cwd or absolute(_expanded(entry, entry.text, here), dirname(self.path))
        if entry := self.daemon.get("environment"):
            self.env = self.environment(entry, here)

    def row(self, entry: Value, section: str, key: str, rule: Rule, new: str = "") -> None:
        self.imported.row(entry.file, entry.line, section, key, entry.text, rule, shown(new))

    def other(self, name: str, kind: str) -> None:
        file, line = self.sections.at[name]
        rule = SECTIONS.get(kind)
        if rule is None:
            rule = unneeded("not a section of supervisord, which ignores it")
        if kind != "group":
            self.imported.row(file, line, name, "", "", rule)
        if kind.endswith("http_server"):
            self.imported.todo.append(
                "For supervisorctl: write [gateway] with xmlrpc = unix:PATH (impetusd help from-supervisord)."
            )

    def environment(self, entry: Value, known: Mapping[str, str]) -> dict[str, str]:
        """As supervisord's own dict_of_key_value_pairs reads it."""
        text = _expanded(entry, entry.text, known)
        lexer = shlex.shlex(text)
        lexer.wordchars += "/.+-():\ufdd1\ufdd2\ufdd3"
        try:
            tokens = list(lexer)
        except ValueError:
            raise ImportFault(entry.file, entry.line, "environment: a quote is never closed") from None
        found: dict[str, str] = {}
        at = 0
        while at < len(tokens):
            if len(tokens) < at + 3 or tokens[at + 1] != "=" or not tokens[at].strip():
                raise ImportFault(entry.file, entry.line, 'environment is not KEY="value",KEY="value"')
            found[tokens[at]] = tokens[at + 2].strip("'\"")
            if at + 3 < len(tokens) and tokens[at + 3] != ",":
                raise ImportFault(
                    entry.file, entry.line, 'environment is not KEY="value",KEY="value"; quote the values'
                )
            at += 4
        return found

    def program(self, section: str, name: str) -> None:
        values = self.sections.values(section)
        known = {**_here(self.path), "program_name": name, "group_name": self.group_of(name) or name}
        count, start = (self.number(values, key, default) for key, default in (("numprocs", 1), ("numprocs_start", 0)))
        if not 0 < count <= MOST_INSTANCES:
            raise ImportFault(*self.place(section, values, "numprocs"), f"numprocs must be from 1 to {MOST_INSTANCES}")
        numbered = [
            each.text for key, each in values.items() if key != "process_name" and "%(process_num)" in each.text
        ]
        plain = all(not re.search(r"%\(process_num\)(?![ds])", text) for text in numbered)
        if count > 1 and numbered and (start or not plain):
            members = [
                self.unit(section, f"{name}-{number}", values, {**known, "process_num": str(number)}, [number])
                for number in range(start, start + count)
            ]
            self.units[name] = members
            self.imported.groups[unit_name(name, self.taken)] = members
        else:
            numbers = list(range(start, start + count))
            known["process_num"] = INSTANCE if count > 1 else str(start)
            self.units[name] = [self.unit(section, name, values, known, numbers)]

    def unit(
        self, section: str, name: str, values: dict[str, Value], known: Mapping[str, str], numbers: list[int]
    ) -> str:
        """Adds the unit, which stands for the processes of these `numbers`; gives its name."""
        file, line = self.sections.at[section]
        count = len(numbers)
        if len(self.imported.programs) == MOST_PROGRAMS:
            raise ImportFault(file, line, f"more than {MOST_PROGRAMS} programs")
        program = Program(unit_name(name, self.taken), file, line, env_pass=EVERY_VARIABLE, env=dict(self.env))
        program.theirs = [self.process(values, {**known, "process_num": str(number)}) for number in numbers]
        texts: dict[str, str] = {}
        for key, entry in values.items():
            if key in KEYS and key not in {"environment", "process_name"}:
                texts[key] = _expanded(
                    entry, entry.text, {**known, "numprocs": str(count), "here": dirname(entry.file)}
                )
        at = self.place(section, values, "command")
        if not texts.get("command"):
            raise ImportFault(*at, f"[{section}] has no command")
        program.argv = _split(texts["command"], at)
        if "environment" in values:
            entry = values["environment"]
            program.env.update(self.environment(entry, {**known, "here": dirname(entry.file)}))
        if count > 1:
            program.keys["instances"] = str(count)
        new: dict[str, str] = {"command": "command", "environment": f"[env:{program.name}]"}
        self.policy(program, texts, values, section, new)
        self.surroundings(program, texts, values, new)
        self.logs(program, texts, values, section, new)
        self.priorities[program.name] = self.number(values, "priority", DEFAULT_PRIORITY)
        for key, entry in values.items():
            rule = KEYS.get(key) or unneeded("not a key of supervisord, which ignores it")
            if rule.fate is lost("").fate and entry.text.lower() in {*FALSE, "0b"}:
                rule = unneeded("it is disabled")
            self.row(entry, section, key, rule, new.get(key, ""))
        self.imported.programs.append(program)
        return program.name

    @staticmethod
    def process(values: dict[str, Value], known: Mapping[str, str]) -> str:
        """What supervisord calls one process of a program: GROUP:PROCESS."""
        entry = values.get("process_name")
        own = _expanded(entry, entry.text, known) if entry else known["program_name"]
        return f"{known['group_name']}:{own}"

    def policy(
        self, program: Program, texts: dict[str, str], values: dict[str, Value], section: str, new: dict[str, str]
    ) -> None:
        keys = program.keys

        def put(old: str, key: str, value: str) -> None:
            keys[key] = value
            new[old] = f"{key} = {value}"

        if "autostart" in texts:
            put("autostart", "autostart", "yes" if self.flag(values, "autostart", texts) else "no")
        word = texts.get("autorestart", "unexpected").lower()
        codes = [code.strip() for code in texts.get("exitcodes", "0").split(",") if code.strip()]
        if not all(code.isdecimal() and len(code) < 4 and int(code) < 256 for code in codes):
            raise ImportFault(
                *self.place(section, values, "exitcodes"), "exitcodes are numbers from 0 to 255, separated by commas"
            )
        if word in TRUE:
            put("autorestart", "autorestart", "always")
            new["exitcodes"] = ""
        elif word in FALSE:
            put("autorestart", "autorestart", "never")
        elif word == "unexpected":
            put("autorestart", "autorestart", "on-failure" if "0" in codes else "always")
            if others := [code for code in codes if code != "0"]:
                put("exitcodes", "stop_exit_codes", ", ".join(others))
        else:
            raise ImportFault(*self.place(section, values, "autorestart"), "autorestart is true, false or unexpected")
        if "startsecs" in texts:
            put("startsecs", "min_uptime", seconds(self.number(values, "startsecs", 1, texts)))
        if "startretries" in texts:
            tries = self.number(values, "startretries", 3, texts)
            put("startretries", "max_restarts", str(min(max(tries, 1), 1_000_000)))
        if "stopsignal" in texts:
            put("stopsignal", "kill_signal", signal_name(texts["stopsignal"].strip()))
        if "stopwaitsecs" in texts:
            put("stopwaitsecs", "kill_timeout", seconds(self.number(values, "stopwaitsecs", 10, texts)))

    def surroundings(
        self, program: Program, texts: dict[str, str], values: dict[str, Value], new: dict[str, str]
    ) -> None:
        keys = program.keys
        user = texts.get("user", "")
        if not user and (entry := self.daemon.get("user")):
            user = _expanded(entry, entry.text, _here(self.path))
        if user:
            keys["user"] = user
            new["user"] = f"user = {user}"
            program.env_pass += OF_THE_USER  # supervisord leaves those of its own user
        umask = texts.get("umask", "")
        if not umask and (entry := self.daemon.get("umask")):
            umask = entry.text
        if umask:
            keys["umask"] = umask
            new["umask"] = f"umask = {umask}"
        if "directory" in texts:
            keys["cwd"] = absolute(texts["directory"], self.cwd or dirname(self.path))
            new["directory"] = f"cwd = {keys['cwd']}"
        elif self.cwd:
            keys["cwd"] = self.cwd
        limits = [
            f"{ours}={self.daemon[key].text}"
            for key, ours in (("minfds", "nofile"), ("minprocs", "nproc"))
            if key in self.daemon
        ]
        if limits:
            program.notes.append(f"rlimits = {', '.join(limits)}")
        if "numprocs" in values:
            new["numprocs"] = f"instances = {keys.get('instances', '1')}"

    def logs(
        self, program: Program, texts: dict[str, str], values: dict[str, Value], section: str, new: dict[str, str]
    ) -> None:
        keys = program.keys
        out = self.log_file(texts.get("stdout_logfile", "AUTO"), "stdout")
        error = self.log_file(texts.get("stderr_logfile", "AUTO"), "stderr")
        if self.flag(values, "redirect_stderr", texts):
            out = out or f"${{LOG_DIR}}/{program.name}.log"
            error = out
        for old, key, path in (("stdout_logfile", "out_file", out), ("stderr_logfile", "error_file", error)):
            if path:
                keys[key] = path.replace("${LOG_DIR}", "\ufdd1LOG_DIR\ufdd3")
                new[old] = f"{key} = {path}"
        if "redirect_stderr" in texts:
            new["redirect_stderr"] = f"error_file = {error}" if keys.get("error_file") else "error_file"
        if int(keys.get("instances", "1")) > 1 and (out or error) and INSTANCE not in out:
            keys["merge_logs"] = "yes"
        if any(path not in {"stdout", "stderr", "/dev/null"} for path in (out, error)):
            first = "stdout" if out not in {"stdout", "stderr", "/dev/null"} else "stderr"
            size = self.size(section, values, f"{first}_logfile_maxbytes", texts)
            if size:
                backups = self.number(values, f"{first}_logfile_backups", 10, texts)
                keys.update(
                    log_max_size=str(size) if size % 1024 else f"{size // 1024}K",
                    log_keep=str(min(backups, 10_000)),
                    log_compress="no",
                )
                if not size % (1 << 20):
                    keys["log_max_size"] = f"{size >> 20}M"
                for stream in ("stdout", "stderr"):
                    new[f"{stream}_logfile_maxbytes"] = f"log_max_size = {keys['log_max_size']}"
                    new[f"{stream}_logfile_backups"] = f"log_keep = {keys['log_keep']}"

    def log_file(self, text: str, stream: str) -> str:
        word = text.lower()
        if word in {"auto", ""}:
            return ""
        if word == "none":
            return "/dev/null"
        if word == "syslog":
            return stream
        return DEVICES.get(text) or absolute(text, self.cwd or dirname(self.path))

    def place(self, section: str, values: Mapping[str, Value], key: str) -> tuple[str, int]:
        entry = values.get(key)
        return (entry.file, entry.line) if entry else self.sections.at[section]

    def flag(self, values: Mapping[str, Value], key: str, texts: Mapping[str, str]) -> bool:
        word = texts.get(key, "false").lower()
        if word not in {*TRUE, *FALSE}:
            raise ImportFault(values[key].file, values[key].line, f"{key} is neither true nor false")
        return word in TRUE

    def number(
        self, values: Mapping[str, Value], key: str, default: int, texts: Mapping[str, str] | None = None
    ) -> int:
        entry = values.get(key)
        if entry is None:
            return default
        text = (texts or {}).get(key, entry.text).strip()
        if not re.fullmatch(r"[-+]?[0-9]{1,9}", text):
            raise ImportFault(entry.file, entry.line, f"{key} is not a whole number")
        return int(text)

    def size(self, section: str, values: Mapping[str, Value], key: str, texts: Mapping[str, str]) -> int:
        match = re.fullmatch(r"([0-9]{1,9})\s*(|kb|mb|gb|k|m|g)", texts.get(key, "50MB").lower())
        if match is None:
            raise ImportFault(*self.place(section, values, key), f"{key} is not a size like 50MB")
        return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2][:1]]

    def group_of(self, program: str) -> str:
        for name, values in self.sections.found.items():
            kind, _, its = name.partition(":")
            if (
                kind == "group"
                and "programs" in values
                and program in [each.strip() for each in values["programs"].text.split(",")]
            ):
                return its
        return ""

    def groups(self) -> None:
        for name in self.sections.found:
            kind, _, its = name.partition(":")
            if kind != "group":
                continue
            entry = self.sections.values(name).get("programs")
            file, line = (entry.file, entry.line) if entry else self.sections.at[name]
            known = [each.strip() for each in entry.text.split(",")] if entry else []
            members = [unit for each in known for unit in self.units.get(each, ())]
            ours = unit_name(its, self.taken)
            self.imported.groups[ours] = members
            self.imported.row(
                file, line, name, "programs", entry.text if entry else "", SECTIONS["group"], f"[group:{ours}]"
            )
            if entry2 := self.sections.values(name).get("priority"):
                self.row(entry2, name, "priority", KEYS["priority"])

    def server(self) -> None:
        """Where it answers supervisorctl; the unix socket counts more."""
        for section, key, scheme in (("inet_http_server", "port", "http://"), ("unix_http_server", "file", "unix://")):
            values = self.sections.values(section)
            if section not in self.sections.found or key not in values:
                continue
            texts = {name: _expanded(each, each.text, _here(self.path)) for name, each in values.items()}
            where = resolve(texts[key], os.environ).split(" ")[0]
            if scheme == "http://":
                host, _, port = where.rpartition(":")
                where = f"{'127.0.0.1' if host in {'', '*', '0.0.0.0'} else host}:{port}"  # noqa: S104  # not bound here
            else:
                where = absolute(where, dirname(self.path))
            user, password = (resolve(texts.get(name, ""), os.environ) for name in ("username", "password"))
            self.imported.asked_at = (scheme + where, user, password)

    def order(self) -> None:
        """Propose an order where priorities give one."""
        by_rank: dict[int, list[str]] = {}
        for name, rank in self.priorities.items():
            by_rank.setdefault(rank, []).append(name)
        before: list[str] = []
        notes: dict[int, list[str]] = {}
        for rank in sorted(by_rank):
            notes[rank], before = before, by_rank[rank]
        for program in self.imported.programs:
            if needed := notes[self.priorities[program.name]]:
                program.notes.append(f"depends_on = {', '.join(needed[:10])}")


def _marked(text: str) -> str:
    """The command with each reference marked that stands outside of quotes: supervisord splits what it holds."""
    parts: list[str] = []
    quote, at = "", 0
    while at < len(text):
        char = text[at]
        if char == "\\" and quote != "'":
            char = text[at : at + 2]
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == OPEN:
            parts.append(BARE)
        parts.append(char)
        at += len(char)
    return "".join(parts)


def _split(text: str, at: tuple[str, int]) -> list[str]:
    try:
        words = shlex.split(_marked(text))
    except ValueError as error:
        raise ImportFault(*at, f"command cannot be parsed: {error}") from None
    if not words:
        raise ImportFault(*at, "command is empty")
    return words
