"""Values as an INI file has them, on their way into another INI: their references stay, their secrets go.

A value is never expanded with the environment of whoever exports: a password in a shell would be in the output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from posixpath import dirname, relpath
from typing import TYPE_CHECKING

from impetusd.core import redact
from impetusd.core.config import ini
from impetusd.core.config.location import DIRECTORIES, refers_to
from impetusd.interop.exporting.model import APP, DATA, HOME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.core.config.location import Paths

GIVEN = frozenset({"HOME", "HOSTNAME", "IMPETUSD_CONF", "PATH", "PWD"})  # variables that each container has
_BUILT_IN = dict.fromkeys((*DIRECTORIES.values(), "CONF_DIR", "INSTANCE"), "/")
_LOOPBACK = re.compile(r"(?<![\w.:-])(?:127\.0\.0\.1|localhost|\[::1\]):(\d{1,5})(?!\d)")
_BEFORE, _BEHIND = r"(?<![\w./-])", r"(?=[/\s\"':;,&?)]|$)"  # a path begins and ends there


class _Asked(dict[str, str]):
    """An environment without any variable, which knows what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, None] = {}

    def get(self, key: str, default: object = None) -> None:  # type: ignore[override]  # noqa: ARG002
        self.names[key] = None


def references(raw: str) -> dict[str, bool]:
    """The variables of the environment that a value names → whether it can be read without."""
    asked = _Asked()
    ini.expand(raw, asked, _BUILT_IN)
    names = list(asked.names)
    return {name: not ini.expand(raw, {other: "x" for other in names if other != name}, _BUILT_IN)[1] for name in names}


def _hidden(raw: str) -> tuple[dict[str, str], dict[str, str]]:
    """HIDDEN for each variable that the value names, and for those alone that it cannot be read without."""
    names = references(raw)
    return dict.fromkeys(names, redact.HIDDEN), {
        name: redact.HIDDEN for name, optional in names.items() if not optional
    }


def masked(raw: str) -> tuple[str, str]:
    """What a value is with HIDDEN for each variable, and what it is with its defaults."""
    text = ini.unquoted(raw)
    full, least = (ini.joined(ini.expand(text, environ, _BUILT_IN)[0]) for environ in _hidden(raw))
    return full, least


def has_secret(raw: str) -> bool:
    """Whether a secret is written out in the value."""
    return any(redact.text(text) != text for text in masked(raw))


def is_secret(name: str, raw: str) -> bool:
    """The same of a variable's value, which may be known as one by the name alone."""
    said = any(text.replace(redact.HIDDEN, "") for text in masked(raw))
    return (said and redact.is_secret(name)) or has_secret(raw)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things were, and where they are in a container. `ports`: of each port the host that it is another unit's."""

    paths: Paths
    ports: Mapping[int, str]

    def moved(self, raw: str) -> str:
        """The value with the folders of a container, and with hosts in the place of this one's loopback address."""
        paths = self.paths
        conf = relpath(dirname(paths.conf), paths.base_dir)
        conf = APP if conf == "." else f"{APP}/{conf}"
        known = {"STATE_DIR": DATA, "CONF_DIR": conf}
        text = re.sub(r"\$\$|\$\{(STATE_DIR|CONF_DIR)\}", lambda found: known[found[1]] if found[1] else found[0], raw)
        new = {paths.state_dir: DATA, paths.run_dir: f"{HOME}/run", paths.log_dir: f"{HOME}/log", paths.base_dir: APP}
        for old in sorted(new, key=len, reverse=True):
            if old != "/":
                text = re.sub(f"{_BEFORE}{re.escape(old)}{_BEHIND}", new[old], text)
        return _LOOPBACK.sub(self._host, text)

    def uses_state(self, raw: str) -> bool:
        """Whether the value is in state_dir."""
        return self._names(raw, "STATE_DIR", self.paths.state_dir)

    def uses_run(self, raw: str) -> bool:
        """Whether the value is in run_dir."""
        return self._names(raw, "RUN_DIR", self.paths.run_dir)

    @staticmethod
    def _names(raw: str, variable: str, folder: str) -> bool:
        return refers_to(raw, variable) or (
            folder != "/" and re.search(f"{_BEFORE}{re.escape(folder)}{_BEHIND}", raw) is not None
        )

    def _host(self, found: re.Match[str]) -> str:
        host = self.ports.get(int(found[1]))
        return f"{host}:{found[1]}" if host else found[0]


def without_secrets(unit: str, raw: str) -> tuple[str, dict[str, str]]:
    """A command with references in the place of words that look secret, and those variables → what each was.

    ValueError where that cannot be done.
    """
    spans = _spans(raw)
    words = _words(raw)
    shown = redact.argv(words)
    if shown == words:
        return raw, {}
    if len(spans) != len(words):
        raise ValueError("it contains a secret")
    found: dict[str, str] = {}
    parts: list[str] = []
    end = 0
    for number, (word, new) in enumerate(zip(words, shown, strict=True)):
        if word == new:
            continue
        option, equals, _ = word.partition("=")
        if not (equals and option.startswith("-")):
            before = words[number - 1] if number else ""
            option, equals = (before if before.startswith("-") and "=" not in before else ""), ""
        name = variable(unit, option.lstrip("-") or f"argument {number}")
        found[name] = f"the value of {option}" if option else f"argument {number} of its command"
        parts += [raw[end : spans[number][0]], f'"{option if equals else ""}{equals}${{{name}}}"']
        end = spans[number][1]
    text = "".join([*parts, raw[end:]])
    if redact.argv(_words(text)) != _words(text):
        raise ValueError("it contains a secret")
    return text, found


def _words(raw: str) -> list[str]:
    """A command's, with HIDDEN for what is referred to, and for each default that looks secret."""
    words, others = (ini.words(ini.expand(raw, environ, _BUILT_IN)[0]) for environ in _hidden(raw))
    return others if redact.argv(others) != others else words


def variable(unit: str, what: str) -> str:
    """The name of a variable for something of a unit."""
    name = re.sub(r"[^A-Z0-9]+", "_", f"{unit} {what}".upper()).strip("_")
    return name if not name[:1].isdigit() else f"_{name}"


def _spans(raw: str) -> list[tuple[int, int]]:
    """Where each word of a command begins and ends, quotes included."""
    found: list[tuple[int, int]] = []
    start, quote, depth, at = -1, "", 0, 0
    while at < len(raw):
        char = raw[at]
        if char in " \t\r\n" and not quote and not depth:
            if start >= 0:
                found.append((start, at))
            start = -1
        elif start < 0:
            start = at
        if raw.startswith("$$", at) or (char == "\\" and quote != "'"):
            at += 1
        elif raw.startswith("${", at):
            depth += 1
        elif char == "}" and depth:
            depth -= 1
        elif char == quote:
            quote = ""
        elif char in "\"'" and not quote and not depth:
            quote = char
        at += 1
    return [*found, (start, len(raw))] if start >= 0 else found
