"""The manual pages, made from what the programs themselves go by: the commands of `--help`, and the table of keys.

    python -m impetusd.cli.install.manual conf/man

writes impetusd.1 and impetusd.ini.5, in the macros of man(7).
"""

from __future__ import annotations

import inspect
import re
import textwrap
import typing

import click

from impetusd import __version__
from impetusd.cli import app, place
from impetusd.cli.install import generated
from impetusd.core import protocol
from impetusd.core.config import location, schema

if typing.TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

WIDTH = 100  # of a line of the source
ABOUT = "keeps services up on a Linux host"
DATE = "2026-11-30"  # of the version that the pages are of

EXITS = (
    (
        0,
        "Success, including starting what already runs and stopping what is already stopped. For `status`: all units that should be up are up.",
    ),
    (
        protocol.EXIT_FAILED,
        "Failure, or not everything came up; the reason is printed. For `status`: not all units that should be up are up.",
    ),
    (protocol.EXIT_USAGE, "Wrong usage, or the INI file has problems."),
    (protocol.EXIT_NOT_RUNNING, "impetusd is not running, but the command needs it."),
    (protocol.EXIT_UNKNOWN_NAME, "Unknown name."),
    (
        protocol.EXIT_OCCUPIED,
        "For `run`: another impetusd already runs there, or a killed one left programs that cannot be taken over.",
    ),
    (protocol.EXIT_CRITICAL, "For `run`: a unit with critical = yes became FATAL; everything else was stopped first."),
    (130, "Interrupted by Ctrl-C."),
)
VARIABLES = {
    "IMPETUSD_CONF": "The INI file, if -c is not given.",
    "IMPETUSD_ENV": "The profile, if --env is not given.",
    "NO_COLOR": "Any value disables colors.",
    "TERM": "dumb disables colors.",
    "COLUMNS": "Width of the terminal, if it differs from what the terminal reports.",
}
SIGNALS = {
    "SIGTERM, SIGINT": "Stop everything in order and exit.",
    "SIGHUP": "Same as `impetusd apply`: apply the INI file.",
    "SIGUSR2": "Same as `impetusd reopen-logs`: reopen log files after logrotate has renamed them.",
}
SYNTAX = """\
An INI file in UTF-8. A line that starts with ; or # is a comment, and so is text after a value that follows a blank and a ;.
A list, a command or headers may continue on lines that are indented further than the key. Quotes around
a whole value are removed; quotes in a command work as in a shell, but no shell runs it.

${NAME}, ${NAME:-default} and ${NAME:+other} in a value expand variables of impetusd's environment and its folders: ${BASE_DIR},
${RUN_DIR}, ${STATE_DIR}, ${LOG_DIR}, ${CONF_DIR} (the folder of this file). For a literal dollar, write $$. In a pool or program and
its env, ${INSTANCE} is the instance's number, starting at 0.

`impetusd check` reports every mistake with its line; a file with a mistake changes nothing. `impetusd plan` shows what the
file would change, `impetusd apply` applies it. `impetusd init` writes a first file.
"""
SECTIONS = schema.SECTIONS
ENV = (
    "Environment variables of the unit NAME; each key is a variable. The unit also gets the variables of [env]; PATH,"
    " HOME, USER, LOGNAME, SHELL, LANG, LC_*, TZ, TMPDIR, SSL_CERT_FILE and SSL_CERT_DIR from impetusd (with `user`:"
    " as for that user), and others with env_pass; the contents of env_file (as root, impetusd rejects one that other"
    " users can write); and IMPETUSD_UNIT, IMPETUSD_NAME, INSTANCE and INVOCATION_ID."
)
ENV_OF_ALL = "Environment variables of all units, timers and health checks in the file; [env:NAME] overrides them."
PROFILE = (
    "The same for one profile: its variables override those of [env:NAME] while the profile is active. start, run and"
    " apply activate it with --env PROFILE (or IMPETUSD_ENV); it stays active, even after reboots, until another one"
    " is chosen."
)
VALUES = {
    "duration": "A number with its unit: 500ms, 10s, 5m, 1h, 1d. Only 0 needs none.",
    "size": "Bytes, or a number with K, M, G or T (of 1024; KB and KiB are the same): 512M.",
    "percentage": "Hundredths of one CPU, with a % sign: 50%, 200%. Only 0 needs none.",
    "yes or no": "yes, true, on or 1; no, false, off or 0.",
    "count": "A whole number.",
    "choice": "One of the words listed with the key.",
    "signal": "SIGTERM, TERM or 15.",
    "names": "Names of units, separated by commas or blanks.",
    "users and @groups": "Names or IDs, groups with a leading @, separated by commas or blanks.",
    "exit codes": "Numbers from 0 to 255, separated by commas or blanks.",
    "path": "Relative paths start from base_dir.",
    "paths": "Separated by commas, or one per line.",
    "patterns": "Shell patterns, separated by commas, or one per line.",
    "path or name": "A path if it contains a /, otherwise found in PATH.",
    "text": "Taken literally.",
    "application": "package.module:name.",
    "command": "A program and its arguments, quoted as for a shell; may continue in indented lines.",
    "umask": "Three octal digits.",
    "file mode": "Octal digits, as in 0640.",
    "owner": "USER, USER:GROUP or :GROUP, by name or by number.",
    "variables": "Names or patterns of environment variables, separated by commas or blanks.",
    "capabilities": "Names of capabilities(7), separated by commas or blanks, with or without the prefix CAP_.",
    "CPUs": "Numbers and ranges, as in 0, 2-3.",
    "limits": "name=both or name=soft:hard, separated by commas, as in nofile=65536.",
    "addresses": "HOST:PORT, [IPV6]:PORT or unix:PATH, separated by commas.",
    "address": "HOST:PORT or [IPV6]:PORT.",
    "readiness check": "http://HOST:PORT/path, tcp:HOST:PORT or log:REGEX.",
    "cron expression": "Minute, hour, day of month, month, day of week; or @daily and the like.",
    "time zone": "A name like Europe/Lisbon.",
    "variable": "The name of an environment variable.",
    "URL or path": "http://HOST:PORT/path, or /path alone.",
    "status codes": "Numbers and ranges, as in 200-299, 404.",
    "headers": "Name: value, one per line.",
    "address or socket": "A single HOST:PORT, [IPV6]:PORT or unix:PATH.",
    "socket": "The path of a unix socket, optionally followed by mode=0660 and owner=USER:GROUP.",
    "URL": "http:// or https://, a host, and a path.",
    "host names": "Separated by commas or blanks.",
    "addresses and networks": "Separated by commas or blanks; a network is written as 10.0.0.0/24.",
    "events": "Words listed with the key, separated by commas or blanks.",
    "mail address": "NAME@HOST.",
    "mail addresses": "The same, separated by commas or blanks.",
}
EXAMPLE = """\
[pool:web]
app       = shop.web:create_app
instances = 2
listen    = 127.0.0.1:8080
user      = www-data
max_memory_restart = 512M

[program:queue]
command = /usr/bin/redis-server --port 6380
ready   = tcp:127.0.0.1:6380

[timer:nightly]
command = /usr/local/bin/tidy --older-than 7
cron    = 0 3 * * *

[health:web]
http = /health

[env:web]
QUEUE = redis://127.0.0.1:6380
"""


def quoted(text: str) -> str:
    """`text` as roff shows it unchanged: every quote, dash and accent as it is typed."""
    signs = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
    text = "".join(signs.get(each) or (each if each.isascii() else f"\\[u{ord(each):04X}]") for each in text)
    return f"\\&{text}" if text.startswith(".") else text


def prose(text: str) -> str:
    """A paragraph's lines; what stands in `backquotes` is bold."""
    lines = textwrap.wrap(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
    return re.sub(r"\\\(ga(.+?)\\\(ga", r"\\fB\1\\fR", "\n".join(map(quoted, lines)), flags=re.DOTALL) + "\n"


def bold(text: str) -> str:
    """On a line of its own."""
    return f"\\fB{quoted(text)}\\fR\n"


def listed(items: Iterable[tuple[str, str]]) -> str:
    """Each term, bold, and what it means."""
    return "".join(f".TP\n{bold(term)}{prose(meaning)}" for term, meaning in items)


def literal(text: str) -> str:
    """Lines as they are."""
    lines = "\n".join(f"    {quoted(line)}" if line else "" for line in text.rstrip("\n").split("\n"))
    return f".EX\n{lines}\n.EE\n"


def head(title: str, section: int) -> str:
    """The beginning of a page."""
    made = '.\\" Made by `python -m impetusd.cli.install.manual conf/man`; do not edit.'
    whole_words = ".nh\n.nr HY 0\n.ad l"  # a name that is hyphenated is not found
    return f'{made}\n.TH {title} {section} "{DATE}" "impetusd {__version__}" "impetusd"\n{whole_words}\n'


def commands() -> str:
    """impetusd(1)."""
    return "".join(_commands())


def _commands() -> Iterator[str]:
    top = click.Context(app.cli, info_name="impetusd", help_option_names=["-h", "--help"])
    yield head("IMPETUSD", 1)
    yield f".SH NAME\nimpetusd \\- {ABOUT}\n"
    yield ".SH SYNOPSIS\n.B impetusd\n[\\fB\\-c\\fR \\fIFILE\\fR] \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fINAME\\fR]...\n"
    yield ".SH DESCRIPTION\n"
    yield _help(app.cli).replace(".IP\n", ".PP\n")
    yield ".SH OPTIONS\n" + prose("Every command accepts -c and --help; --help prints the text of this page.")
    yield _options(app.cli, top)
    yield ".SH COMMANDS\n"
    for title, names in app.GROUPS.items():
        yield f'.SS "{title}"\n'
        for name in names:
            command = app.cli.get_command(top, name)
            assert command is not None  # it is in the table
            ctx = click.Context(command, info_name=name, parent=top)
            usage = " ".join(command.collect_usage_pieces(ctx))
            yield f".TP\n\\fBimpetusd {quoted(name)}\\fR {quoted(usage)}\n".replace(" \n", "\n")
            options = _options(command, ctx, ("--conf", "--help"))
            yield _help(command) + (f".RS\n{options}.RE\n" if options else "")
    yield ".SH EXIT STATUS\n" + listed((str(code), meaning) for code, meaning in EXITS)
    yield ".PP\n" + prose("`trigger` exits with the job's own code, `exec` with the command's.")
    yield ".SH ENVIRONMENT\n" + listed(VARIABLES.items())
    yield ".SH FILES\n" + listed(_files())
    yield ".SH SIGNALS\nFor the daemon:\n" + listed(SIGNALS.items())
    yield ".SH SEE ALSO\n\\fBimpetusd.ini\\fR(5), \\fBsystemd.service\\fR(5), \\fBlogrotate\\fR(8)\n"


def _help(command: click.Command) -> str:
    """The paragraphs of `--help`, with the example as it is typed."""
    parts = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        example = paragraph.removeprefix("Example: ")
        if example != paragraph:
            parts.append(f"Example:\n{literal(example)}")
        elif paragraph.startswith("\b"):
            parts.append(literal(textwrap.dedent(paragraph.removeprefix("\b\n"))))
        else:
            parts.append(prose(paragraph))
    return "".join(f".IP\n{part}" if index else part for index, part in enumerate(parts))


def _options(command: click.Command, ctx: click.Context, without: Collection[str] = ()) -> str:
    options = (each for each in command.get_params(ctx) if isinstance(each, click.Option))
    records = (each.get_help_record(ctx) for each in options if set(without).isdisjoint(each.opts))
    return listed(record for record in records if record)


def _files() -> Iterator[tuple[str, str]]:
    looked = [path if path.startswith("/") else f"./{path}" for path in place.LOOKED_AT]
    yield ", ".join(looked), "The INI file: the first that exists."
    keys = schema.keys_of(schema.IMPETUSD)
    for name, path in location.SYSTEM_DIRS.items():
        yield f"{path}, {keys[name].default}", f"{name}. {keys[name].doc}"
    yield (
        "run_dir/control.sock",
        "The control socket, through which commands reach the daemon. It accepts root and the user that the daemon runs as.",
    )
    yield "log_dir/impetusd.log", "The daemon's own log."


def ini_file() -> str:
    """impetusd.ini(5)."""
    return "".join(_ini_file())


def _ini_file() -> Iterator[str]:
    yield head("IMPETUSD.INI", 5)
    yield ".SH NAME\nimpetusd.ini \\- what impetusd keeps running\n"
    yield ".SH DESCRIPTION\n" + ".PP\n".join(map(prose, SYNTAX.split("\n\n")))
    yield ".SH SECTIONS\n"
    for section, meaning in SECTIONS.items():
        names = ", ".join(dict.fromkeys(key.name for key in schema.KEYS if section in key.sections))
        yield f".TP\n{bold(schema.header(section))}{prose(meaning)}.IP\n{prose(f'Keys: {names}.')}"
    yield listed(
        [(f"[{schema.ENV}]", ENV_OF_ALL), (schema.header(schema.ENV), ENV), (f"[{schema.ENV}:NAME@PROFILE]", PROFILE)]
    )
    yield ".SH KEYS\n" + prose("The kind of value is given after each key and explained below.")
    for group in dict.fromkeys(key.group for key in schema.KEYS):
        yield f'.SS "{quoted(group)}"\n'
        for key in schema.KEYS:
            if key.group == group:
                yield _key(key)
    yield ".SH VALUES\n" + listed(VALUES.items())
    yield f".SH EXAMPLE\n{literal(EXAMPLE)}"
    yield ".SH SEE ALSO\n\\fBimpetusd\\fR(1), \\fBcrontab\\fR(5), \\fBsetrlimit\\fR(2)\n"


def _key(key: schema.Key) -> str:
    term = f".TP\n\\fB{quoted(key.name)}\\fR = \\fI{quoted(key.value.name)}\\fR\n"
    more = f"Default: {key.default}. " if key.default else ""
    more += f"Example: {key.example}. " if key.example else ""
    return f"{term}{prose(key.doc)}.IP\n{prose(more + 'In ' + ', '.join(map(schema.header, key.sections)) + '.')}"


def pages() -> dict[str, str]:
    """Each page by its file name."""
    return {"impetusd.1": commands(), "impetusd.ini.5": ini_file()}


if __name__ == "__main__":
    generated.write(pages())
