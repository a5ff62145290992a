"""Detect secrets and remove them from text. Everything that is shown, sent or recorded passes through here.

Secrets are known by the names they go by (`is_secret`), and in free text by what stands around them: the password of a
URL, the value in NAME=value, behind --name, in a header; and by the form of well-known tokens. It is a net and no
proof: a password without a name is text like any other. Hiding too much costs a look into the file; hiding too little
exposes the secret.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

HIDDEN = "***"
SHORTEST = 6  # characters of a secret that is looked for as such: a shorter one is a word of many lines

# The key env_pass, written like that and with nothing around it, has names alone.
_FIRST = r"pass(?!(?<=(?<![\w.-])(?-i:env_pass))(?![\w.-]))"
_WORD = rf"(?:{_FIRST}|secret|token|key|dsn|credential|auth(?!ors?(?![a-z]))|cookie|private|signature|pwd|salt)"
_SECRET = re.compile(_WORD, re.IGNORECASE)
_NO_SECRET = frozenset({"PWD", "OLDPWD", "SSH_AUTH_SOCK", "XAUTHORITY"})  # what every login shell has
# All that [gateway], [alert:NAME] and [host:NAME] say, as JSON.
_HAVE_SECRETS = frozenset({"IMPETUSD_GATEWAY", "IMPETUSD_OBSERVER"})
# Bounded, and from the beginning of a word on: each word is looked through once, however long a line is.
_NAME = rf"(?<![\w.-])[\w.-]{{0,100}}?{_WORD}[\w.-]{{0,100}}"
_VALUE = (
    r"(?:\"[^\"\n]*\"|'[^'\n]*'|\S+?(?=[\"')\]}>,;]*(?:\s|$)))"  # what closes a bracket or a sentence is not part of it
)
_RULES = (
    # scheme://user:password@host: the password may hold an @ or a /, and the port of host:port/path@x is none
    (r"(://[^\s:/@?#'\"<>]{0,200}:)(?!\d{1,5}(?:[/?#]|$))[^\s'\"<>]{0,500}@", rf"\1{HIDDEN}@"),
    (r"(https?://)[^\s:/@?#'\"<>]{1,200}@", rf"\1{HIDDEN}@"),
    (rf"([?&][\w.%-]{{0,100}}?{_WORD}[\w.%-]{{0,100}}=)[^&\s#'\"<>]+", rf"\1{HIDDEN}"),
    (rf"^([ \t]*(?:export[ \t]+)?{_NAME}[ \t]*=[ \t]*)\S.*$", rf"\1{HIDDEN}"),  # a line of its own, with its blanks
    (rf"(?<![?&])({_NAME}[ \t]*=[ \t]*){_VALUE}", rf"\1{HIDDEN}"),
    (rf"((['\"]){_NAME}\2[ \t]*:[ \t]*)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s,}}\]]+)", rf"\1{HIDDEN}"),
    (rf"((?<!\S)--?[\w-]{{0,100}}?{_WORD}[\w-]{{0,100}}[ \t]+)(?!-){_VALUE}", rf"\1{HIDDEN}"),
    (
        rf"((?<![\w-])(?:(?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]{{0,60}}?{_WORD}[\w-]{{0,60}})[ \t]*:[ \t]*)[^'\"\n]+",
        rf"\1{HIDDEN}",
    ),
    (r"(\bbearer[ \t]+)[\w.~+/=-]{8,}", rf"\1{HIDDEN}"),
    # of AWS, GitHub, our own gateway, GitLab, Slack, Stripe, Google; a JSON web token; a private key
    (
        (
            r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_\w{20,}|impd_[\w-]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
            r"|[rs]k_(?:live|test)_\w{10,}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]+)|-----BEGIN [^\n]*"
        ),
        HIDDEN,
    ),
)
# Without one of these no rule can match: most text skips the rules.
_HINT = re.compile(
    rf"://|{_WORD}|bearer|AKIA|ASIA|gh[pousr]_|impd_|glpat|xox|[rs]k_|AIza|eyJ|-----BEGIN", re.IGNORECASE
)


def is_secret(name: str) -> bool:
    """True if the value of this name (a variable, header or parameter) must be hidden."""
    return name in _HAVE_SECRETS or (name not in _NO_SECRET and _SECRET.search(name) is not None)


def text(line: str, known: Iterable[str] = ()) -> str:
    """The text with HIDDEN in the place of what looks secret, and of what is `known` to be."""
    for secret in known:
        if secret in line:
            line = line.replace(secret, HIDDEN)
    if _HINT.search(line):
        for pattern, shown in _rules():
            line = pattern.sub(shown, line)
    return line


@functools.cache
def _rules() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Compiled for the first text that may match: it takes 3 ms, which few processes ever need."""
    return tuple((re.compile(pattern, re.IGNORECASE | re.MULTILINE), shown) for pattern, shown in _RULES)


def value(name: str, written: str) -> str:
    """The value of a variable or header as it may be shown."""
    return HIDDEN if written and is_secret(name) else text(written)


def argv(words: Iterable[str]) -> list[str]:
    """A command's arguments as they may be shown: what follows --password is one word, blanks and all."""
    shown: list[str] = []
    awaited = False
    for word in words:
        name, sign, written = _named(word)
        if awaited and not word.startswith("--"):
            shown.append(HIDDEN)
        elif sign and written and is_secret(name):
            shown.append(f"{name}{sign}{HIDDEN}")
        else:
            shown.append(text(word))
        awaited = word.startswith("-") and not sign and is_secret(word)
    return shown


def _named(word: str) -> tuple[str, str, str]:
    """NAME=value or NAME: value in its parts; no sign where it is neither."""
    found = re.match(r"(-{0,2}[\w.-]+)(=|:[ \t]*)(?!//)(.*)", word, re.DOTALL)
    return (found[1], found[2], found[3]) if found else (word, "", "")


def secrets(env: Iterable[tuple[str, str]], command: Sequence[str] = ()) -> tuple[str, ...]:
    """The secret values among a process's variables, the longest first."""
    found: set[str] = set()
    for name, written in env:
        found.update([written] if is_secret(name) else (match[1] for match in _PASSWORD.finditer(written)))
    for word, shown in zip(command, argv(command), strict=True):
        found.update(match[1] for match in _PASSWORD.finditer(word))
        if shown.endswith(HIDDEN):
            found.add(word[len(shown) - len(HIDDEN) :])
    return tuple(sorted((each for each in found if len(each) >= SHORTEST), key=len, reverse=True))


_PASSWORD = re.compile(r"://[^\s:/@?#'\"<>]{0,200}:(?!\d{1,5}(?:[/?#]|$))([^\s'\"<>]{0,500})@")


def everything(told: Any) -> Any:
    """The same of every text in a JSON value; keys of objects stay."""
    if isinstance(told, str):
        return text(told)
    if isinstance(told, dict):
        return {key: everything(each) for key, each in told.items()}
    if isinstance(told, list | tuple):
        return [everything(each) for each in told]
    return told
