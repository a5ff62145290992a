"""Explanations of common errors, with commands that show the facts. Nothing is guessed.

Programs' output is matched as text (`advice`), impetusd's reasons by key and facts (`of_reasons`).
"""

from __future__ import annotations

import errno
import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

from impetusd.core.config import shell
from impetusd.core.reasons import errno_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from impetusd.core.reasons import Reason


class Advice(NamedTuple):
    """`hint` is a sentence, or ""; `commands` are (what to type, what it shows)."""

    hint: str = ""
    commands: tuple[tuple[str, str], ...] = ()


class _Known(NamedTuple):
    pattern: str  # compiled when it is looked for, and kept by `re`
    hint: str = ""
    command: str = ""
    shows: str = ""


PORT_TAKEN = "its port is in use by another process, perhaps a previous instance of the same program"
MAY_NOT = "the user it runs as lacks permission, or the file is not executable"
EACH_STEP = "the permissions of each folder in the path"
NO_DESCRIPTORS = "its limit on open files is too low; set rlimits = nofile=65536"
OUT_OF_MEMORY = Advice(
    "set max_memory_restart below the limit, so that it is restarted before it reaches the limit",
    (("journalctl -k --grep 'Killed process'", "the kernel's record of it"),),
)
NOISE = "Extension modules: "  # what Python writes below the stacks
_PATH = r"(?P<path>/[^\s'\":,;)]+)"
# {names} are those of groups of the pattern. Of a text the last line that is known counts, and there the first row.
KNOWN = (
    _Known(
        r"no module named '?(?P<module>[\w.]+)",
        "its Python has no module {module}; it is not installed there, or the name is misspelt",
    ),
    _Known(
        r"[:,] ?(?P<port>\d{2,5})\b.*address already in use",
        PORT_TAKEN,
        "ss -ltnp 'sport = :{port}'",
        "the process that uses it (run as root)",
    ),
    _Known(
        r"address already in use.*?[:\]](?P<port>\d{2,5})\b",
        PORT_TAKEN,
        "ss -ltnp 'sport = :{port}'",
        "the process that uses it (run as root)",
    ),
    _Known(
        r"address already in use",
        "its address is in use by another process",
        "ss -lnp",
        "all listening processes (run as root)",
    ),
    _Known(
        r"no new privileges|sudo: effective uid is not 0",
        "it executes a program that needs extra privileges, which no_new_privs (auto, because it has its own user)"
        " prevents; set no_new_privs = no in its section, or grant what it needs with capabilities = …",
    ),
    _Known(rf"no space left on device.*?{_PATH}", "the disk is full", "df -h {path}", "disk usage"),
    _Known(rf"{_PATH}.*no space left on device", "the disk is full", "df -h {path}", "disk usage"),
    _Known(r"no space left on device", "a disk is full", "df -h", "which one"),
    _Known(rf"permission denied.*?{_PATH}", "", "namei -l {path}", EACH_STEP),
    _Known(rf"{_PATH}.*permission denied", "", "namei -l {path}", EACH_STEP),
    _Known(
        r"\('(?P<host>[\w.:-]+)', (?P<port>\d+)\).*connection refused"
        r"|connect call failed \('(?P<host2>[\w.:-]+)', (?P<port2>\d+)"
        r'|at "(?P<host3>[\w.:-]+)".*port (?P<port3>\d+) failed: connection refused'
        r"|(?P<host4>[\w.-]+):(?P<port4>\d+): connection refused",
        "nothing is listening on {host}, port {port}",
        "nc -vz {host} {port}",
        "whether it is reachable from here",
    ),
    _Known(r"connection refused", "the server it connects to is not listening; it is down, or at another address"),
    _Known(
        r"(name or service not known|name resolution|nodename nor servname)",
        "a host name cannot be resolved",
        "resolvectl status",
        "the configured name servers",
    ),
    _Known(
        r"name not found: '?(?P<user>[\w.-]+)",
        "the user does not exist",
        "getent passwd {user}",
        "whether it exists",
    ),
    _Known(r"out of memory", OUT_OF_MEMORY.hint, *OUT_OF_MEMORY.commands[0]),
    _Known(r"too many open files", NO_DESCRIPTORS),
)


def of_reasons(reasons: Iterable[Reason]) -> Advice:
    """The advice for the last reason that is known."""
    found = (_of_reason(reason) for reason in reversed(list(reasons)))
    return next((each for each in found if each != Advice()), Advice())


def _of_reason(reason: Reason) -> Advice:
    failed = reason.find("start_failed")
    if failed is not None:
        return _of_start(str(failed.facts["stage"]), str(failed.facts["what"]), failed.facts["cause"])
    killed = reason.find("killed")
    if killed is not None and killed.facts["oom"]:
        return OUT_OF_MEMORY
    answer = reason.find("bad_answer")
    if answer is not None and answer.facts["errno"] == errno.ECONNREFUSED:
        return _refused(str(answer.facts["at"]))
    if answer is not None and not answer.facts["errno"]:  # the answer of the server that was asked
        return advice([str(answer.facts["answer"])])
    return _of_errno(errno_of(reason), str(reason.facts.get("path") or reason.facts.get("where") or ""))


def _refused(at: str) -> Advice:
    host, colon, port = at.rpartition(":")
    if not (colon and port.isdecimal() and "/" not in host):
        return Advice("the server it connects to is not listening; it is down, or at another address")
    reach = (f"nc -vz {host} {port}", "whether it is reachable from here")
    return Advice(f"nothing is listening on {host}, port {port}", (reach,))


def _of_errno(number: int, path: str) -> Advice:
    if number == errno.ENOSPC and path:
        return Advice("the disk is full", ((f"df -h {path}", "disk usage"),))
    if number == errno.ENOSPC:
        return Advice("a disk is full", (("df -h", "which one"),))
    if number == errno.EACCES and path:
        return Advice("", ((f"namei -l {path}", EACH_STEP),))
    return Advice(NO_DESCRIPTORS) if number in {errno.EMFILE, errno.ENFILE} else Advice()


def _of_start(stage: str, what: str, cause: Reason) -> Advice:
    """Why a start failed, at which stage."""
    number, is_path = errno_of(cause), what.startswith("/")
    if stage == "exec":
        return _of_exec(what, cause, number)
    if stage == "cwd" and number == errno.ENOENT:
        return Advice(
            "its cwd does not exist; create it, or set another one",
            ((f"namei -l {what}", "which part of the path exists"),),
        )
    if stage == "cwd" and number == errno.EACCES:
        return Advice(MAY_NOT, ((f"namei -l {what}", EACH_STEP),))
    if stage == "env_file":
        return Advice("", ((f"ls -l {what}", "whether it exists, and its permissions"),))
    if stage == "listen" and number == errno.EADDRINUSE:
        port = what.rpartition(":")[2]
        if port.isdecimal():
            return Advice(PORT_TAKEN, ((f"ss -ltnp 'sport = :{port}'", "the process that uses it (run as root)"),))
        return Advice(
            "its address is in use by another process", (("ss -lnp", "all listening processes (run as root)"),)
        )
    if stage in {"host", "listen_host"}:
        return Advice("a host name cannot be resolved", (("resolvectl status", "the configured name servers"),))
    if stage == "account" and cause.key == "no_user":
        return Advice("the user does not exist", ((f"getent passwd {cause.facts['name']}", "whether it exists"),))
    return _of_errno(number, what if is_path else "")


def _of_exec(name: str, cause: Reason, number: int) -> Advice:
    if number == errno.EPERM:
        hint = (
            f"{name} has file capabilities, which no_new_privs = auto disables; set no_new_privs = no in its section,"
            " or grant what it needs with capabilities = …"
        )
        return Advice(hint, ((f"getcap $(command -v {name})", "its file capabilities"),))
    if name in shell.BUILT_IN:
        return Advice(f"commands are not run by a shell, but {name} is shell syntax; write sh -c '…'")
    if cause.key == "no_program":
        hint = f"{name} is not in its PATH; write the program's full path, or set PATH in its [env:…]"
        return Advice(hint, ((f"command -v {name}", "where your shell finds it"),))
    if number == errno.EACCES and name.startswith("/"):
        return Advice(MAY_NOT, ((f"namei -l {name}", EACH_STEP),))
    if number == errno.ENOEXEC:
        hint = "the kernel cannot execute this file; a script needs a first line like #!/bin/sh"
        return Advice(hint, ((f"file {name}", "its file type"),))
    if cause.key in {"no_file", "no_interpreter"}:
        hint = "the file, or the interpreter named in its first line, does not exist"
        return Advice(hint, ((f"ls -l {name}", "whether it exists"),))
    return _of_errno(number, "")


def advice(lines: Iterable[str]) -> Advice:
    """The advice for the last known line among those that a program wrote."""
    for line in reversed(list(lines)):
        for known in KNOWN:
            match = re.search(known.pattern, line, re.IGNORECASE)
            if match is not None:
                return _filled(known, match)
    return Advice()


def _filled(known: _Known, match: re.Match[str]) -> Advice:
    # A name with a number at its end is another way to the same.
    found = {name.rstrip("234"): text for name, text in match.groupdict().items() if text is not None}
    command = known.command.format(**found)
    return Advice(known.hint.format(**found), ((command, known.shows),) if command else ())


def of_exit_code(code: int | None) -> str:
    """The shell's meaning of this exit code, as a sentence; "" for other codes."""
    return {
        126: "the shell found the command but cannot execute it",
        127: "the shell did not find the command",
    }.get(code if code is not None else -1, "")


def error_line(lines: Iterable[str]) -> str:
    """The line that names the error, of those that a process wrote last; "" if none does.

    Where a runtime (Node, Python, Java, Ruby, Go, PHP, Rust) reports an uncaught error, that error's own line. Else the
    last line that is not indented: what most programs say before they go. A record below the level of a warning is none.
    """
    written = [line.rstrip() for line in lines if line.strip() and not _A_LOW_RECORD.match(line)]
    while len(written) > 1 and _AFTERWARDS.match(written[-1]) and not written[-1].startswith("Node.js"):
        del written[-1]
    found = max((of_runtime(written) for of_runtime in _RUNTIMES), default=-1)
    if found < 0:
        found = next((at for at in reversed(range(len(written))) if not written[at][0].isspace()), len(written) - 1)
    return written[found].strip() if written else ""


def kept(lines: Sequence[str], most: int) -> list[str]:
    """The last `most` lines, and before them the one that names the error, if a long stack has come between."""
    last = list(lines[-most:])
    named = error_line(lines)
    return last if len(lines) <= most or named == error_line(last) else [named, *last[1:]]


# Lines that follow an error, from the runtime or its parent.
_AFTERWARDS = re.compile(
    r"Node\.js v\d|\(Use `node |\}$|npm (?:ERR!|error|notice)|.?ELIFECYCLE|error Command failed with exit code|info Visit "
    r"|exit status \d+$|note: (?:run with|Some details)|sys:1: "
)
_A_LOG_LINE = re.compile(
    r"\W*(?:\d{4}-\d\d|\d\d?:\d\d|(?:debug|info|warn\w*|error|critical|fatal)\b[\]:| ])", re.IGNORECASE
)
# As pino (10 to 30), winston, structlog and Google's severity write it in JSON, and Go's slog in key=value.
_A_LOW_RECORD = re.compile(
    r"""\{.*"(?:level|levelname|severity)":\s*(?:"(?:trace|debug|info|notice)"|[1-3]0\b)|(?:\S.*\s)?level=(?:trace|debug|info)\b""",
    re.IGNORECASE,
)
_NAMED = re.compile(r"(?:Uncaught )?\[?(?:[A-Za-z_$][\w$.:]*)?(?:Error|Exception|Rejection)\b")


def _last(lines: Sequence[str], pattern: str, before: int | None = None) -> int:
    """The place of the last line that begins so; -1 if none does."""
    return next((at for at in reversed(range(len(lines))[:before]) if re.match(pattern, lines[at])), -1)


def _of_python(lines: Sequence[str]) -> int:
    """The first line behind the last traceback, unless the program went on and logged something else."""
    traceback = _last(lines, r"\s*(?:\+ Exception Group )?Traceback \(most recent call last\):")
    frames = range(traceback + 1, len(lines)) if traceback >= 0 else range(0)
    found = next((at for at in frames if re.match(r"[^\s|+]|  \| \S", lines[at])), -1)
    return found if found >= 0 and not any(map(_A_LOG_LINE.match, lines[found + 1 :])) else -1


def _of_node(lines: Sequence[str]) -> int:
    """Below the source line with its caret; where that is cut off, the last line that begins with an error's name."""
    uncaught = _last(lines, r"Node\.js v\d")
    caret = _last(lines, r"\s*\^+$", max(uncaught, 0))
    if 0 <= caret < uncaught - 1:
        return caret + 1
    end = uncaught if uncaught >= 0 else _last(lines, r"    at \S")
    mine = end >= 0 and all(line[0].isspace() or _AFTERWARDS.match(line) for line in lines[end + 1 :])
    return next((at for at in reversed(range(end)) if _NAMED.match(lines[at])), -1) if mine else -1


def _of_java(lines: Sequence[str]) -> int:
    """The root cause: a wrapped exception is printed below the one that wraps it."""
    thread = _last(lines, r'Exception in thread "')
    cause = _last(lines, r"Caused by: ")
    found = max(thread, cause)
    return (
        found
        if found >= 0 and all(re.match(r"\s+(?:at |\.\.\. |Suppressed: )", each) for each in lines[found + 1 :])
        else -1
    )


def _of_ruby(lines: Sequence[str]) -> int:
    found = _last(lines, r"\S+:\d+:in .+ \([A-Z][\w:]*\)$")
    return found if found >= 0 and all(re.match(r"\s+(?:from|\d+:) ", each) for each in lines[found + 1 :]) else -1


def _of_go(lines: Sequence[str]) -> int:
    frame = _last(lines, r"goroutine \d+ \[|\s+/\S+\.(?:go|s):\d+")
    return _last(lines, r"(?:panic|fatal error): ", frame) if frame > 0 else -1


def _of_php(lines: Sequence[str]) -> int:
    found = _last(lines, r"(?:PHP )?(?:Fatal|Parse) error: ")
    return found if all(re.match(r"#\d+ |Stack trace:|\s+thrown in ", each) for each in lines[found + 1 :]) else -1


def _of_rust(lines: Sequence[str]) -> int:
    """Since 1.73 the message has a line of its own."""
    found = _last(lines, r"thread '.*'.* panicked at ")
    return found + (found >= 0 and lines[found].endswith(":") and found + 1 < len(lines))


_RUNTIMES = (_of_python, _of_node, _of_java, _of_ruby, _of_go, _of_php, _of_rust)


def hang_stack(lines: Sequence[str]) -> list[str]:
    """The stack of the hung thread among those that a process wrote, innermost call first; [] if there is none."""
    first = _last(lines, r"Current thread .*most recent call first")
    if first < 0:
        return []
    frames = list(itertools.takewhile(lambda line: line[:1].isspace() and line.strip(), lines[first + 1 :]))
    return [lines[first], *frames]


def hang_location(lines: Iterable[str]) -> str:
    """Where a process hung, from the stacks that it wrote: `in look_up, /srv/shop.py line 6`; "" if unknown."""
    text = "\n".join(lines)
    match = re.search(r'^Current thread .*\n\s*File "([^"]+)", line (\d+) in (.+)$', text, re.MULTILINE)
    return f"in {match[3]}, {match[1]} line {match[2]}" if match is not None else ""
