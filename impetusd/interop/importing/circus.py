"""circus.ini: watchers, sockets and environments."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import shlex
from posixpath import dirname
from types import MappingProxyType
from typing import TYPE_CHECKING

from impetusd.interop.importing import files, inifile
from impetusd.interop.importing.model import (
    EVERY_VARIABLE,
    OF_THE_USER,
    Fate,
    Imported,
    ImportFault,
    Program,
    absolute,
    kept,
    lost,
    reference,
    resolve,
    seconds,
    shown,
    signal_name,
    sole,
    translated,
    unit_name,
    unneeded,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.interop.importing.inifile import Sections, Value
    from impetusd.interop.importing.model import Options, Rule

# Of [watcher:NAME].
KEYS: dict[str, Rule] = {
    "cmd": kept("command"),
    "args": translated("command"),
    "shell": translated("command", "sh -c"),
    "working_dir": kept("cwd"),
    "uid": translated("user"),
    "gid": translated("group"),
    "copy_env": translated("env_pass", "yes: all of impetusd's environment; no (the default): only PATH"),
    "copy_path": lost("set PYTHONPATH in [env:NAME]"),
    "virtualenv": translated(
        "[env:NAME]", "PATH starts with its bin/; PYTHONPATH is its site-packages if it exists on this host"
    ),
    "numprocesses": translated("instances"),
    "singleton": unneeded("one instance is the default"),
    "priority": translated("depends_on", "kept as a comment; set depends_on instead"),
    "warmup_delay": lost("a start waits until the unit is ready, not for a fixed time"),
    "autostart": kept("autostart"),
    "respawn": translated("autorestart", "yes: always, no: never"),
    "max_retry": translated("max_restarts"),
    "graceful_timeout": translated("kill_timeout"),
    "stop_signal": translated("kill_signal"),
    "stop_children": translated("treekill"),
    "max_age": translated("max_age"),
    "max_age_variance": unneeded("not all instances are restarted at once"),
    "stdout_stream.class": translated("out_file", "FileStream: its file, StdoutStream: stdout"),
    "stdout_stream.filename": translated("out_file"),
    "stdout_stream.max_bytes": translated("log_max_size"),
    "stdout_stream.backup_count": translated("log_keep"),
    "stderr_stream.class": translated("error_file", "FileStream: its file, StdoutStream: stdout"),
    "stderr_stream.filename": translated("error_file"),
    "stderr_stream.max_bytes": translated("log_max_size"),
    "stderr_stream.backup_count": translated("log_keep"),
    "use_sockets": translated("listen", "$(circus.sockets.NAME) becomes the number of its descriptor, starting at 3"),
    "send_hup": lost("impetusd reload NAME starts new processes; impetusd signal HUP NAME sends a signal"),
    "close_child_stdout": unneeded("output is logged"),
    "close_child_stderr": unneeded("output is logged"),
    "on_demand": lost("impetusd does not keep sockets without a program"),
}
_WID = re.compile(r"\(circus\.wid\)|\$WID\b")
TRUE = ("true", "yes", "on", "1")
_SOCKET = re.compile(r"[(]circus\.sockets\.([\w.-]+)\)", re.ASCII)
_REFERENCE = re.compile(
    r"\$\(circus\.(env\.)?([\w.-]+)\)|\(\(circus\.(env\.)?([\w.]+)\)\)|\$([A-Z_][A-Z0-9_]*)", re.ASCII
)


def read(path: str, options: Options) -> Imported:
    """Raises ImportFault."""
    sections = inifile.read(files.text_of(path), path, lower=False)
    imported = Imported("circus")
    taken: set[str] = set()
    folder = options.cwd or dirname(path)
    for name in sections.found:
        kind, _, its = name.partition(":")
        if kind == "watcher" and its:
            _watchers(sections, name, folder, taken, imported)
        elif kind not in {"env", "DEFAULT"}:
            file, line = sections.at[name]
            rule = (
                unneeded("only for circus's own daemon")
                if kind == "circus"
                else translated("listen", "in the programs that use it")
                if kind == "socket"
                else lost("impetusd has no equivalent")
            )
            imported.row(file, line, name, "", "", rule)
    if not imported.programs:
        raise ImportFault(path, 1, "there is no [watcher:NAME] in it")
    return imported


def _watchers(sections: Sections, section: str, folder: str, taken: set[str], imported: Imported) -> None:
    """The watcher as a program; as one for each of its processes if they differ by $(circus.wid), which begins with 1."""
    values = sections.values(section)
    asked = values.get("numprocesses")
    count = int(asked.text) if asked and re.fullmatch(r"[0-9]{1,3}", asked.text) else 1
    texts = [
        each.text for other, variables in sections.found.items() if other[:3] == "env" for each in variables.values()
    ]
    texts += [value.text for value in values.values()]
    if count == 1 or not any(map(_WID.search, texts)):
        _watcher(sections, section, folder, taken, imported)
        return
    first = len(imported.programs)
    for number in range(1, count + 1):
        _watcher(sections, section, folder, taken, imported, number)
    imported.groups[unit_name(_name(section), taken)] = [program.name for program in imported.programs[first:]]


def _name(section: str) -> str:
    return section.partition(":")[2].strip()


def _watcher(  # noqa: PLR0917
    sections: Sections, section: str, folder: str, taken: set[str], imported: Imported, number: int = 0
) -> None:
    """`number`: of the only process that this program is to be; 0 for all of them."""
    values = sections.values(section)
    file, line = sections.at[section]
    name, wid = _name(section), str(number or 1)
    program = Program(unit_name(f"{name}-{number}" if number else name, taken), file, line)
    keys = program.keys
    new: dict[str, str] = {}
    env: dict[str, str] = {}
    for other, variables in sections.found.items():
        kind, _, its = other.partition(":")
        if kind == "env" and (not its or any(fnmatch.fnmatchcase(name, each.strip()) for each in its.split(","))):
            for key, value in variables.items():
                env[key] = _referred(value, env, wid=wid)
            imported.row(*sections.at[other], other, "", "", translated("[env:NAME]"), f"[env:{program.name}]")
    program.env = env

    wanted = [name for key in ("cmd", "args") if key in values for name in _SOCKET.findall(values[key].text)]
    addresses = {each: address for each in dict.fromkeys(wanted) if (address := _address(sections, each))}
    sockets = {each: 3 + number for number, each in enumerate(addresses)}  # as LISTEN_FDS has them
    if addresses:
        keys["listen"] = ", ".join(addresses.values())
        new["use_sockets"] = f"listen = {keys['listen']}"

    def said(key: str, default: str = "") -> str:
        return _referred(values[key], env, sockets, wid) if key in values else default

    def put(old: str, key: str, value: str) -> None:
        keys[key] = value
        new[old] = f"{key} = {shown(value)}"

    text = f"{said('cmd')} {said('args')}".strip()
    if not text:
        raise ImportFault(file, line, f"[{section}] has no cmd")
    try:
        program.argv = ["sh", "-c", text] if said("shell").lower() in TRUE else shlex.split(text)
    except ValueError as error:
        raise ImportFault(values["cmd"].file, values["cmd"].line, f"cmd cannot be parsed: {error}") from None
    put("working_dir", "cwd", absolute(said("working_dir", folder), folder))
    if said("copy_env").lower() in TRUE:
        program.env_pass = EVERY_VARIABLE
    elif not any(sole(value) == key for key, value in env.items()):
        program.env_pass = f"!{EVERY_VARIABLE}"
    if said("uid") and program.env_pass:
        program.env_pass += OF_THE_USER  # circus leaves those that it has
    if venv := said("virtualenv"):
        program.env["PATH"] = f"{absolute(venv, folder)}/bin:{env.get('PATH', reference('PATH', ''))}"
        new["virtualenv"] = f"PATH = {shown(program.env['PATH'])}"
        packages = glob.glob(f"{glob.escape(resolve(absolute(venv, folder), os.environ))}/lib/python*/site-packages")
        if len(packages) == 1:
            program.env.setdefault("PYTHONPATH", packages[0])
    for old, key in (("uid", "user"), ("gid", "group")):
        if said(old):
            put(old, key, said(old))
    if not number and said("numprocesses", "1") != "1":
        put("numprocesses", "instances", said("numprocesses"))
    for old, key, yes, no in (("autostart", "autostart", "yes", "no"), ("respawn", "autorestart", "always", "never"), ("stop_children", "treekill", "yes", "no")):  # fmt: skip
        if old in values:
            put(old, key, yes if said(old).lower() in TRUE else no)
    for old, key, default in (("graceful_timeout", "kill_timeout", "30"), ("max_age", "max_age", "0")):
        time = said(old, default)
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", time):
            raise ImportFault(values[old].file, values[old].line, f"{old} is not a number of seconds")
        if float(time):
            put(old, key, seconds(float(time)))
    if said("stop_signal"):
        put("stop_signal", "kill_signal", signal_name(said("stop_signal")))
    if said("max_retry") not in {"", "-1"}:
        put("max_retry", "max_restarts", said("max_retry"))
    for stream, key in (("stdout_stream", "out_file"), ("stderr_stream", "error_file")):
        kind = said(f"{stream}.class")
        if said(f"{stream}.filename"):
            put(f"{stream}.filename", key, absolute(said(f"{stream}.filename"), folder))
            if size := said(f"{stream}.max_bytes"):
                put(f"{stream}.max_bytes", "log_max_size", size)
            if count := said(f"{stream}.backup_count"):
                put(f"{stream}.backup_count", "log_keep", count)
        elif kind.endswith("StdoutStream"):
            put(f"{stream}.class", key, "stdout")
    if said("use_sockets").lower() in TRUE and not addresses:
        named = [
            f"{sections.values(each)[key].text}"
            for each in sections.found
            if each.startswith("socket:")
            for key in ("host", "port", "path")
            if key in sections.values(each)
        ]
        program.notes.append(f"listen = {':'.join(named)}")
    limits = [f"{key[7:]}={value.text}" for key, value in values.items() if key.startswith("rlimit_")]
    if limits:
        put("rlimit", "rlimits", ", ".join(limits))
    for key, entry in values.items():
        rule = KEYS.get(key)
        if key.startswith("rlimit_"):
            rule = translated("rlimits")
        elif rule is None:
            rule = (
                lost("hooks run as Python code inside circus; impetusd has none")
                if key.startswith("hooks.")
                else unneeded("not a key of circus, or only for circus itself")
            )
        if rule.fate is Fate.LOST and entry.text.lower() in {"false", "no", "0", "off"}:
            rule = unneeded("it is disabled")
        imported.row(entry.file, entry.line, section, key, entry.text, rule, new.get(key, ""))
    imported.programs.append(program)


def _address(sections: Sections, name: str) -> str:
    """Of a [socket:NAME], as listen has it; "" where it has none."""
    said = {key: value.text for key, value in sections.values(f"socket:{name}").items()}
    if said.get("path"):
        return f"unix:{said['path']}"
    host = said.get("host", "localhost")
    return f"{'127.0.0.1' if host == 'localhost' else host}:{said['port']}" if said.get("port", "0") != "0" else ""


def _referred(
    value: Value, env: Mapping[str, str], sockets: Mapping[str, int] = MappingProxyType({}), wid: str = "1"
) -> str:
    """With $(circus.env.NAME) of `env`, whatever its case, else as a reference, as $NAME; and the descriptors of `sockets`."""
    named = {key.lower(): each for key, each in env.items()}

    def replaced(match: re.Match[str]) -> str:
        name = match[2] or match[4]
        if name == "wid" or match[5] == "WID":
            return wid
        if name is None:
            return reference(match[5], "")
        if (match[1] or match[3]) and re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            return named.get(name.lower()) or reference(name, "")
        if name.removeprefix("sockets.") in sockets:
            return str(sockets[name.removeprefix("sockets.")])
        raise ImportFault(value.file, value.line, f"$(circus.{name}) cannot be converted; write its value")

    return _REFERENCE.sub(replaced, value.text)
