"""PM2: ecosystem.config.js (.cjs, .mjs), JSON with comments, YAML, and dump.pm2."""

from __future__ import annotations

import json
import os
import re
import shutil
from posixpath import basename, dirname, splitext
from typing import TYPE_CHECKING, Any

from impetusd.core.config.node import is_node
from impetusd.interop.importing import files, pm2_file
from impetusd.interop.importing.model import (
    EVERY_VARIABLE,
    INSTANCE,
    Fate,
    Imported,
    ImportFault,
    Program,
    Rule,
    absolute,
    lost,
    names,
    reference,
    resolve,
    seconds,
    shown,
    stem,
    unit_name,
    unneeded,
)
from impetusd.interop.importing.pm2_dump import OFF, dumped
from impetusd.interop.importing.pm2_keys import ALIASES, INTERPRETERS, KEYS
from impetusd.interop.importing.scanner import Object
from impetusd.interop.importing.scanner import text as text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from impetusd.interop.importing.model import Options

OF_NODE = frozenset({"npm", "npx", "yarn", "pnpm", "serve", "next"})  # node is what runs them
IN_PATH = OF_NODE | {"bun", "deno", "node", "bash", "sh", "python", "python3", "php", "ruby"}
_WORDS = re.compile(r"""([\w\-]+="[^"]*")|([\w\-]+='[^']*')|"([^"]*)"|'([^']*)'|\s""", re.ASCII)
MOST_APPS = 500
MOST_VARIABLE = 1 << 17  # characters: the kernel takes no longer one


def read(path: str, options: Options) -> Imported:
    """Raises ImportFault."""
    imported = Imported("pm2")
    text = files.text_of(path)
    config, env_files = pm2_file.config(path, text, options, imported)
    _Reader(path, text, options, imported, env_files).all(config)
    return imported


class _Reader:
    def __init__(
        self, path: str, text: str, options: Options, imported: Imported, env_files: dict[str, dict[str, str]]
    ) -> None:
        self.path = path
        self.text = text
        self.imported = imported
        self.folder = options.cwd or dirname(path)
        self.env_files = list(env_files)
        self.held = {name: value for values in reversed(env_files.values()) for name, value in values.items()}
        self.otherwise = pm2_file.otherwise(self.env_files)
        self.taken: set[str] = set()
        self.ports: set[str] = set()
        self.namespaces: dict[str, str] = {}  # as PM2 has it → our group

    def all(self, config: Any) -> None:
        apps = config
        if isinstance(config, Object):
            named = "apps" if "apps" in config else "pm2"  # its older name
            apps = config.get(named, config if "script" in config or "exec" in config else None)
            for key in config:
                if apps is not config and key != named:
                    rule = (
                        lost("impetusd does not deploy with git and ssh; run impetusd reload NAME after a deploy")
                        if key == "deploy"
                        else unneeded("not a key of PM2, which ignores it")
                    )
                    self.imported.row(self.path, self.line(config, key), "", key, "", rule)
        apps = [apps] if isinstance(apps, Object) else apps
        if not isinstance(apps, list) or not apps or not all(isinstance(each, Object) for each in apps):
            raise ImportFault(self.path, 1, "it contains no apps")
        if len(apps) > MOST_APPS:
            raise ImportFault(self.path, 1, f"more than {MOST_APPS} apps")
        if "pm_exec_path" in apps[0] or "pm2_env" in apps[0]:
            apps = dumped(apps)
        for app in apps:
            self.app(app)
        imported = self.imported
        imported.differ(
            "A program gets impetusd's environment (env_pass = *), not that of the shell in which pm2 start was run,"
            " and no pm_* variables."
        )
        imported.differ(
            f"Apps without cwd run in {self.folder}, as if pm2 start had been run there; use --cwd FOLDER for another"
            " folder."
        )
        imported.differ(
            "Readiness, memory and stopping cover all processes of a program; PM2 considers only the first process."
        )

    def line(self, app: Object, key: str) -> int:
        """Where the key stands; of what node computed, the first place that looks like it."""
        if line := app.lines.get(key):
            return line
        match = re.search(rf"(?<![\w]){re.escape(key)}[\"']?\s*:", self.text)
        return self.text.count("\n", 0, match.start()) + 1 if match else 1

    def app(self, app: Object) -> None:
        given: dict[str, Any] = {}
        at: dict[str, int] = {}
        written: dict[str, str] = {}
        for key in app:
            ours = ALIASES.get(key, key)
            if ours not in given:
                given[ours], at[ours], written[ours] = app[key], self.line(app, key), key
        _App(self, given, at, written).make()


class _App:
    """One app on its way to a program."""

    def __init__(self, reader: _Reader, given: dict[str, Any], at: dict[str, int], written: dict[str, str]) -> None:
        self.reader = reader
        self.given = given
        self.at = at
        self.written = written
        self.new: dict[str, str] = {}
        self.fates: dict[str, Rule] = {}
        self.python = False  # whether that is its interpreter
        name = self.said("name") or stem(self.said("script").split(" ")[0]) or "app"
        line = min(at.values(), default=1)
        theirs = resolve(name, {})
        self.program = Program(unit_name(theirs, reader.taken), reader.path, line, env_pass=EVERY_VARIABLE)
        self.program.theirs.append(theirs)
        self.cwd = absolute(self.said("cwd"), reader.folder) if self.said("cwd") else reader.folder

    def said(self, key: str) -> str:
        value = self.given.get(key)
        if isinstance(value, Object | list):
            raise self.fault(key, "is neither a string nor a number")
        return "" if value is None or isinstance(value, bool) else text_of(value)

    def without(self, key: str) -> str:
        """The same, of what the environment decides as it is without any."""
        text = self.said(key)
        if names(text):
            self.reader.imported.differ(
                f"{key} of {self.program.name} no longer depends on {', '.join(names(text))}; it is fixed to the"
                f" value without them: {resolve(text, {}) or 'empty'}."
            )
        return resolve(text, {})

    def fault(self, key: str, what: str) -> ImportFault:
        return ImportFault(
            self.reader.path, self.at.get(key, self.program.line if hasattr(self, "program") else 1), f"{key} {what}"
        )

    def put(self, old: str, key: str, value: str) -> None:
        self.program.keys[key] = value
        self.new[old] = f"{key} = {value}"

    def lose(self, key: str, why: str) -> None:
        self.fates[key] = lost(why)

    def make(self) -> None:
        reader, program = self.reader, self.program
        self.program.argv = self.command()
        program.keys["cwd"] = self.cwd
        self.new["cwd"] = f"cwd = {self.cwd}"
        self.environment()
        self.policy()
        self.instances()
        self.logs()
        self.watching()
        if (namespace := self.said("namespace")) and namespace != "default":
            group = reader.namespaces.get(namespace) or unit_name(resolve(namespace, {}), reader.taken)
            reader.namespaces[namespace] = group
            reader.imported.groups.setdefault(group, []).append(program.name)
            self.new["namespace"] = f"[group:{group}]"
        if reader.env_files:
            # Of dotenv's files the first counts, of env_file's the last.
            program.keys["env_file"] = ", ".join(f"-{path}" for path in reversed(reader.env_files))
            program.env = reader.otherwise | program.env
            reader.imported.differ(
                f"The file reads {', '.join(reader.env_files)} through dotenv; env_file reads it at each start, if it"
                " exists."
            )
            if reader.otherwise:
                reader.imported.differ(
                    f"{', '.join(reader.otherwise)}: env_file would read a different value, so [env:NAME] sets it."
                )
        for key, value in self.given.items():
            self.row(key, value)
        reader.imported.programs.append(program)

    def row(self, key: str, value: Any) -> None:
        profile = key.startswith("env_") and len(key) > 4
        rule = self.fates.get(key) or KEYS.get("env_*" if profile else key)
        if rule is None:
            rule = unneeded("not a key of PM2, which ignores it")
        elif rule.fate is Fate.LOST and value in OFF:
            rule = unneeded("it is disabled")
        old = (
            ""
            if isinstance(value, Object) or key == "env"
            else text_of(value)
            if not isinstance(value, list)
            else " ".join(text_of(each) for each in value if not isinstance(each, Object | list))
        )
        self.reader.imported.row(
            self.reader.path,
            self.at[key],
            self.program.name,
            self.written[key],
            old,
            rule,
            shown(self.new.get(key, rule.ours)),
        )

    def words(self, key: str) -> list[str]:
        """A list of words, or a text that PM2 splits in its own way."""
        value = self.given.get(key)
        if value is None or isinstance(value, bool):
            return []
        if isinstance(value, list):
            if any(isinstance(each, Object | list) for each in value):
                raise self.fault(key, "contains values other than strings")
            return [text_of(each) for each in value if each is not None]
        if isinstance(value, Object):
            raise self.fault(key, "is neither a string nor a list")
        return [part for part in _WORDS.split(text_of(value)) if part and part.strip()]

    def command(self) -> list[str]:
        script = self.said("script").strip()
        if not script:
            raise self.fault("script", "is missing, so the app has nothing to run")
        interpreter, args = self.said("exec_interpreter"), self.words("args")
        if " " in script:
            return [_found("bash"), "-c", script]  # as PM2 does it, whatever args says
        path = absolute(script, self.cwd)
        extension = splitext(script)[1].lower()
        in_path = (
            not os.path.exists(path) and "/" not in script and (script in IN_PATH or extension not in INTERPRETERS)
        )
        program = path if not in_path else script if script in OF_NODE else _found(script)
        if interpreter == "none" or (
            not interpreter and (in_path or (extension not in INTERPRETERS and not _is_text(path)))
        ):
            if interpreter != "none" and not in_path and not os.path.exists(path):
                self.reader.imported.todo.append(
                    f"{self.program.name}: {shown(path)} does not exist here and is assumed to be an executable; if"
                    " it is a script, put its interpreter before it."
                )
            return [program, *args]
        if interpreter == "node" and in_path:
            return [program, *args]  # npm and the like: scripts of node, with it in their first line
        how = interpreter or INTERPRETERS.get(extension, "node")
        if how == "python" and not interpreter and not shutil.which("python"):
            how = "python3"  # as PM2 does it
        self.python = "python" in how
        if how == "bun" and not interpreter:
            self.reader.imported.differ(f"{self.program.name}: TypeScript is run by bun, as in PM2.")
        return [how, *self.words("node_args"), program, *args]

    def environment(self) -> None:
        env, program = self.program.env, self.program
        instance = self.said("instance_var") or "NODE_APP_INSTANCE"
        env.update(self.variables("env"))
        if port := self.said("port"):
            env["PORT"] = port
        if self.python:
            env["PYTHONUNBUFFERED"] = "1"  # as PM2 does it
        env[instance] = INSTANCE
        self.new["instance_var"] = f"{instance} = ${{INSTANCE}}"
        for key in self.given:
            if key.startswith("env_") and len(key) > 4:
                if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", key[4:]):
                    self.lose(key, "not a valid profile name")
                    continue
                program.profiles[key[4:]] = self.variables(key)
                self.new[key] = f"[env:{program.name}@{key[4:]}]"
        filtered = self.given.get("filter_env")
        if filtered is True:
            program.env_pass = ""
        elif filtered not in OFF:
            wanted = [re.sub(r"[^A-Za-z0-9_]", "", each) for each in self.words("filter_env")]
            program.env_pass = ", ".join(["*", *(f"!{each}*" for each in wanted if each)])
        if variable := self.said("increment_var"):
            if re.fullmatch(r"-?[0-9]{1,9}", env.get(variable, "")):
                self.put("increment_var", "increment_var", variable)
            else:
                self.lose("increment_var", "its variable in env is not a number")

    def variables(self, key: str) -> dict[str, str]:
        value = self.given.get(key)
        if not isinstance(value, Object):
            if value not in OFF:
                self.lose(key, "it is not an object of variables")
            return {}
        try:
            held = self.reader.held
            found = {
                name: _json(each) if isinstance(each, Object | list) else text_of(each) for name, each in value.items()
            }
            return {
                name: each for name, each in found.items() if name not in held or each != reference(name, held[name])
            }
        except ValueError:
            raise self.fault(key, "has a variable that is too long") from None

    def policy(self) -> None:
        keys = self.program.keys
        for key, default in (("autostart", True), ("treekill", True)):
            if key in self.given:
                self.put(key, key, "yes" if self.flag(key, default=default) else "no")
        if "autorestart" in self.given:
            self.put("autorestart", "autorestart", "always" if self.flag("autorestart", default=True) else "never")
        if codes := re.findall(r"[0-9]+", " ".join(self.words("stop_exit_codes"))):
            self.put("stop_exit_codes", "stop_exit_codes", ", ".join(codes))
        keys["kill_signal"] = "SIGINT"
        keys["kill_timeout"] = "1600ms"
        times: tuple[tuple[str, Callable[[float], bool]], ...] = (
            ("kill_timeout", lambda number: number > 0),
            ("min_uptime", lambda _: True),
            ("restart_delay", lambda number: number > 0),
            ("exp_backoff_restart_delay", lambda number: number > 0),
            ("watch_delay", lambda number: number > 0),
        )
        for key, wanted in times:
            if (value := self.time(key)) is not None and wanted(value):
                self.put(key, key, seconds(value))
        if "exp_backoff_restart_delay" in keys:
            keys["exp_backoff_max_delay"] = seconds(max(15.0, self.time("exp_backoff_restart_delay") or 0.0))
        if "watch_delay" in keys and self.given.get("watch") in OFF:
            del keys["watch_delay"]
        if restarts := self.without("max_restarts"):
            self.put("max_restarts", "max_restarts", restarts)
        if (cron := self.said("cron_restart")) and cron != "0":
            self.put("cron_restart", "cron_restart", cron)
        memory = self.without("max_memory_restart")
        if memory and memory != "0":
            match = re.fullmatch(r"([0-9]+)(\.[0-9]+)?\s*([KMGkmg]?)[bB]?", memory)
            if match is None:
                self.lose("max_memory_restart", "it is not a size like 300M")
            elif match[2]:
                size = int(
                    float(match[1] + match[2]) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[match[3].upper()]
                )
                self.put("max_memory_restart", "max_memory_restart", f"{size >> 10}K")
            else:
                self.put("max_memory_restart", "max_memory_restart", match[1] + match[3].upper())
        for old, key in (("uid", "user"), ("gid", "group")):
            if whose := self.said(old):
                self.put(old, key, whose)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.given.get(key)
        if value is None:
            return default
        return value.lower() not in {"false", "0", "no", ""} if isinstance(value, str) else bool(value)

    def time(self, key: str) -> float | None:
        """Seconds, of milliseconds or a text like 10s."""
        value = self.without(key)
        if not value:
            return None
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|)", value.strip().lower())
        if match is None or len(match[1]) > 12:
            self.lose(key, "it is not a time like 10s or 3000 (ms)")
            return None
        return float(match[1]) * {"ms": 0.001, "": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]]

    def instances(self) -> None:
        program = self.program
        text = self.said("instances")
        cluster = self.said("exec_mode").startswith("cluster") or (
            not self.said("exec_mode") and bool(text) and os.path.basename(program.argv[0]) in {"node", "nodejs"}
        )
        asked, text = text, resolve(text, {}) or "1"
        match = re.match(r"\s*([-+]?[0-9]{1,6})", text)  # as parseInt: 4 of "4,"
        number = 0 if text == "max" else int(match[1]) if match else 1
        if not match and text != "max":
            self.lose("instances", "it is not a number")
        wanted = "max" if number == 0 else "-1" if number == -1 else str(number)
        if names(asked) and text == wanted:
            wanted = asked  # the same word means the same here
        if number < -1:
            self.lose("instances", "only one less than the number of CPUs is supported; set to -1")
            wanted = "-1"
        port = program.env.get("PORT") or next(
            (each["PORT"] for each in program.profiles.values() if "PORT" in each), ""
        )
        ready = self.flag("wait_ready", default=False)
        if cluster and is_node(program.argv):
            varies = any(each.get("PORT", port) != port for each in program.profiles.values()) and program.env.get(
                "PORT"
            )
            if port.isdecimal() and port not in self.reader.ports and not varies and not self.said("increment_var"):
                self.reader.ports.add(port)
                self.put("exec_mode", "listen", f"[::]:{port}")
                if ready:
                    self.put("wait_ready", "wait_ready", "yes")
                    ready = False
            elif wanted != "1":
                program.notes.append(f"instances = {wanted}, and listen = [::]:PORT with the port that they share")
                self.lose(
                    "instances",
                    "their port is unknown, and instances would conflict over it; write listen = [::]:PORT and"
                    " instances",
                )
                self.reader.imported.todo.append(f"{program.name}: write listen = [::]:PORT and instances = {wanted}.")
                wanted = "1"
        if ready:
            program.notes.append(f"ready = tcp:127.0.0.1:{port if port.isdecimal() else 'PORT'}")
            self.lose(
                "wait_ready", "process.send('ready') works only with listen; otherwise write ready = tcp:HOST:PORT"
            )
        if "listen_timeout" in self.given and (value := self.time("listen_timeout")):
            if "wait_ready" in program.keys or "listen" in program.keys:
                self.put("listen_timeout", "listen_timeout", seconds(max(value, 1.0)))
            else:
                self.fates["listen_timeout"] = unneeded("a start does not wait for it")
        if self.flag("shutdown_with_message", default=False) and "listen" not in program.keys:
            self.lose(
                "shutdown_with_message", "programs are stopped with a signal; Node with listen also gets the message"
            )
        if wanted != "1":
            self.put("instances", "instances", wanted)

    def logs(self) -> None:
        keys = self.program.keys
        if self.flag("disable_logs", default=False):
            keys.update(out_file="/dev/null", error_file="/dev/null")
        both = self.said("log_file") if not isinstance(self.given.get("log_file"), bool) else ""
        for key in ("out_file", "error_file"):
            path = self.said(key) or both
            if path.lower() in {"null", "/dev/null"}:
                path = "/dev/null"
            if path and "out_file" not in self.fates:
                path = {
                    "/dev/stdout": "stdout",
                    "/dev/stderr": "stderr",
                    "/dev/fd/1": "stdout",
                    "/dev/fd/2": "stderr",
                }.get(path) or absolute(
                    path.replace("~/", "\ufdd1HOME\ufdd2\ufdd3/") if path.startswith("~/") else path, self.cwd
                )
                self.put(key, key, path)
        if both and (self.said("out_file") or self.said("error_file")):
            self.lose("log_file", "there is no third file beside out_file and error_file")
        if self.flag("merge_logs", default=False) and self.program.keys.get("instances", "1") != "1":
            self.put("merge_logs", "merge_logs", "yes")
        if self.flag("time", default=False) or self.said("log_date_format"):
            self.put("time", "time", "yes")
        if self.said("log_type") == "json":
            self.put("log_type", "log_format", "json")

    def watching(self) -> None:
        watch = self.given.get("watch")
        folders = (
            ["."]
            if watch is True
            else []
            if watch in OFF
            else self.words("watch")
            if isinstance(watch, list)
            else [self.said("watch")]
        )
        if not folders:
            return
        self.put("watch", "watch", ", ".join(absolute(each, self.cwd) for each in folders))
        ignored = (
            self.words("ignore_watch")
            if isinstance(self.given.get("ignore_watch"), list)
            else [self.said("ignore_watch")]
        )
        patterns = [
            each.strip().strip("/").removeprefix("./").removesuffix("/**").removesuffix("/*") for each in ignored
        ]
        patterns = [each for each in patterns if each and "," not in each]
        if not patterns:
            patterns = ["node_modules", ".*"]  # as PM2 does it
        self.put(
            "ignore_watch", "watch_ignore", ", ".join(basename(each) if "**" in each else each for each in patterns)
        )


def _found(program: str) -> str:
    """The program by its path, as PM2 starts it, if every host has that path; else by its name."""
    path = shutil.which(program) or ""
    return path if dirname(path) in {"/bin", "/usr/bin", "/usr/local/bin"} else program


def _is_text(path: str) -> bool:
    """Whether there is a file without NUL bytes in its beginning: PM2 gives such a one to node."""
    try:
        with open(path, "rb") as file:
            return os.path.isfile(path) and b"\0" not in file.read(4096)
    except (OSError, ValueError):
        return False


def _json(value: Any) -> str:
    """As JavaScript has it; ValueError where arrays of arrays of the same would make it endless."""
    made, size = [], 0
    for part in json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).iterencode(value):
        made.append(part)
        size += len(part)
        if size > MOST_VARIABLE:
            raise ValueError("too long")
    return "".join(made)
