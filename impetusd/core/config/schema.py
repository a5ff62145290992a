"""The one table of keys: name, sections, kind of value, default, documentation, example.

The parser, its messages, the sample INI and `impetusd describe` are all made from it; a fact about a key stands here
and nowhere else. Each kind of value is two small pure functions: `parse` takes what the operator wrote (expanded,
never empty) and raises ValueError with one clause that says what to write instead; `show` writes a parsed value back.
"""

from __future__ import annotations

from impetusd.core.config import capabilities, ini
from impetusd.core.config.location import DEFAULTS, SECTION
from impetusd.core.config.model import ANY_V6, UNIX_MODE, Action, Autorestart, Listen, Overlap, Ready
from impetusd.core.protocol import MAX_INSTANCES, ROLES
from impetusd.core.units import MILLISECONDS, show_duration

TYPE_CHECKING = False  # typing takes 2 ms to import, and `impetusd status` comes by here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

IMPETUSD = SECTION
POOL = "pool"
PROGRAM = "program"
TIMER = "timer"
HEALTH = "health"
GROUP = "group"
INCLUDE = "include"
GATEWAY = "gateway"
ALERT = "alert"
HOST = "host"
ENV = "env"  # [env:NAME] is free-form: its keys are environment variables

# Every kind of section but [env:NAME], in the order in which they are listed, and what it describes.
SECTIONS = {
    IMPETUSD: "Settings of impetusd itself. Optional: needed only to set one of its keys.",
    POOL: "Workers that serve an application (aiohttp, ASGI or WSGI) on shared sockets.",
    PROGRAM: "Any command that stays in the foreground.",
    TIMER: "A command that runs on a schedule and exits.",
    HEALTH: "A check that is run against a unit, and the action to take when it fails.",
    GROUP: "One name for several units, accepted by every command. It must differ from the names of all units and timers.",
    INCLUDE: "Other files to include, as if their text were here. Each section may appear only once across all files. When started as root, impetusd rejects a file that is writable by anyone other than root or the owner of this file.",
    GATEWAY: "The web page, the API and the metrics. With this section, impetusd runs two more units: gateway and observer.",
    ALERT: "Where to send notifications, and about what. With such a section, impetusd runs the unit observer, which sends them.",
    HOST: "Another host, whose overview this gateway's page also shows. Needs [gateway].",
}
UNNAMED = frozenset({IMPETUSD, INCLUDE, GATEWAY})  # there is one of each
# What an alert can be about, in the order in which `events` lists them.
EVENTS = ("fatal", "unhealthy", "memory", "restarts", "timer", "disk", "daemon", "deploy", "recovered")

LONGEST = 3650 * MILLISECONDS["d"]
BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
TRUE = ("yes", "true", "on", "1")
FALSE = ("no", "false", "off", "0")
PER_CPU = {"max": 0, "-1": -1}  # numbers of instances that the number of CPUs is added to, once it is known
MOST_CPUS = 4096
MOST_CRON = 200  # characters
UNIX_PATH_BYTES = 107  # sockaddr_un holds 108, one of them the final NUL


class Value:
    """A kind of value. `lines`: whether it may go on over several lines; `none`: what stands for no value at all."""

    __slots__ = ("lines", "name", "none", "parse", "show")

    def __init__(
        self,
        name: str,
        parse: Callable[[Any], Any],
        show: Callable[[Any], str],
        *,
        lines: bool = False,
        none: str | tuple[()] = "",
    ) -> None:
        self.name = name
        self.parse = parse
        self.show = show
        self.lines = lines
        self.none = none


class Key:
    """One key. `default` is as the operator would write it; '' is none, or what `doc` says."""

    __slots__ = ("default", "doc", "example", "group", "name", "sections", "value")

    def __init__(  # noqa: PLR0917 (KEYS reads as a table, by columns)
        self, name: str, sections: tuple[str, ...], group: str, value: Value, default: str, doc: str, example: str = ""
    ) -> None:
        self.name = name
        self.sections = sections
        self.group = group
        self.value = value
        self.default = default
        self.doc = doc
        self.example = example


def parse_duration(text: str) -> float:
    """Seconds. Whole milliseconds, at most ten years, so that showing and reading back loses nothing."""
    form = "write a number with a unit, like 500ms, 10s, 5m or 1h"
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(number) :]
    number = number.rstrip()
    whole, point, fraction = number.partition(".")
    if not _digits(whole) or (point and not _digits(fraction)):
        raise ValueError(f"not a duration; {form}")
    if not unit and number.strip("0.") == "":
        return 0.0
    if not unit:
        raise ValueError(f"a duration needs its unit; write {number}s or {number}ms")
    if unit not in MILLISECONDS:
        raise ValueError(f"not a duration; {form}")
    if len(whole) > 15 or len(fraction) > 15 or int(whole) * MILLISECONDS[unit] > LONGEST:
        raise ValueError("a duration is limited to 10 years and 15 decimal places; use a shorter one")
    scale: int = 10 ** len(fraction)
    milliseconds, finer = divmod(int(whole + fraction) * MILLISECONDS[unit], scale)
    if finer:
        raise ValueError("too precise; write whole milliseconds, like 500ms")
    return milliseconds / 1000


def parse_positive_duration(text: str) -> float:
    """Seconds, more than none."""
    seconds = parse_duration(text)
    if not seconds:
        raise ValueError("must be longer than 0; write it like 500ms, 10s, 5m or 1h")
    return seconds


def parse_size(text: str) -> int:
    """Bytes: a number alone, or with K, M, G or T (of 1024), which may be written as KB or KiB."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(number) :].upper()
    number = number.rstrip()
    if unit[1:] in {"B", "IB"}:
        unit = unit[0]
    if not _digits(number) or len(number) > 18 or unit not in BYTES:
        raise ValueError("not a size; write a number with a unit, like 64K, 512M or 2G")
    return int(number) * BYTES[unit]


def parse_limit(text: str) -> int:
    """The same, 0 for no limit. So few bytes that a unit must have been forgotten are refused."""
    size = parse_size(text)
    if 0 < size < BYTES["K"]:
        raise ValueError(f"that means {size} bytes; add a unit, like {size}M")
    return size


def show_size(size: int) -> str:
    """In the largest unit of which it is a whole number: 1048576 is 1M."""
    return next(f"{size // BYTES[unit]}{unit}" for unit in reversed(BYTES) if size % BYTES[unit] == 0) if size else "0"


def parse_share(text: str) -> int:
    """Hundredths of a CPU."""
    number = text.removesuffix("%").rstrip()
    if text == "0":
        return 0
    if not text.endswith("%") or not _digits(number) or not 1 <= int(number[:9]) <= 100 * MOST_CPUS:
        raise ValueError("not a share of CPU time; write 50% for half a CPU, 200% for two")
    return int(number)


def show_share(share: int) -> str:
    """0 for any."""
    return f"{share}%" if share else "0"


def parse_bool(text: str) -> bool:
    """Yes or no, in the ways that INI files have written it."""
    word = text.lower()
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise ValueError("not a boolean; write yes or no")


def show_bool(value: bool) -> str:
    """As the sample file writes it."""
    return "yes" if value else "no"


def parse_autorestart(text: str) -> Autorestart:
    """One of three words; PM2's true and false are understood as always and never."""
    word = text.lower()
    if word in TRUE or word in FALSE:
        return Autorestart.ALWAYS if word in TRUE else Autorestart.NEVER
    try:
        return Autorestart(word)
    except ValueError:
        raise ValueError("write always, on-failure or never") from None


def parse_instances(text: str) -> tuple[int, int]:
    """The number and its maximum; a number below 1 is a value of `PER_CPU`."""
    special = PER_CPU.get(text.lower())
    if special is not None:
        return special, special
    least, dots, most = (part.strip() for part in text.partition(".."))
    other = "or max for one per CPU, -1 for one less, or a range like 2..8"
    low = _number(least, 1, MAX_INSTANCES, other)
    high = _number(most, 1, MAX_INSTANCES, other) if dots else low
    if high < low:
        raise ValueError(f"the range runs backwards; write {high}..{low}")
    return low, high


def show_instances(ends: tuple[int, int]) -> str:
    """A range where it is one."""
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}..{ends[1]}"


def parse_signal(text: str) -> int:
    """A signal's number, from TERM, SIGTERM or 15. Those that end no process are refused."""
    import signal

    name = text.upper().removeprefix("SIG")
    number = int(signal.Signals.__members__.get(f"SIG{name}", 0))
    if _digits(name) and len(name) < 4 and int(name) in signal.valid_signals():
        number = int(name)
    if not number:
        near = nearest(name, [member.name[3:] for member in signal.Signals])
        raise ValueError(
            f"not a Linux signal; {f'did you mean SIG{near}?' if near else 'write one like SIGTERM or SIGINT'}"
        )
    if number in {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT, signal.SIGCHLD}:
        raise ValueError("this signal does not terminate a process; use one that does, like SIGTERM or SIGINT")
    return number


def show_signal(number: int) -> str:
    """Its name; a real-time signal between the named ends has its number only."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def parse_words(text: str) -> tuple[str, ...]:
    """Names, separated by commas or blanks; each once."""
    return tuple(dict.fromkeys(text.replace(",", " ").split()))


def parse_env_pass(text: str) -> tuple[str, ...]:
    """Names of variables, or patterns of such; with ! in front, of those that are left out."""
    words = parse_words(text)
    for word in words:
        name = word.removeprefix("!")
        if not name or not name.isascii() or not all(char.isalnum() or char in "_.-*?[]" for char in name):
            raise ValueError(
                f"{ini.brief(word)} is not a variable name or pattern; write names or patterns like *, !AWS_*"
            )
    return words


def parse_capabilities(text: str) -> tuple[str, ...]:
    """Names of capabilities(7), with CAP_ in front or not, in any case."""
    names = tuple(word.lower().removeprefix("cap_") for word in parse_words(text))
    for name in names:
        if name not in capabilities.NAMES:
            near = nearest(name, capabilities.NAMES)
            raise ValueError(
                f"unknown capability {ini.brief(name)}; {f'did you mean {near}?' if near else 'see capabilities(7)'}"
            )
    return tuple(dict.fromkeys(names))


def parse_people(text: str) -> tuple[str, ...]:
    """Users, and groups behind @, by name or number."""
    words = parse_words(text)
    for word in words:
        name = word.removeprefix("@")
        if word.startswith(("%", "+", "&")):
            raise ValueError(f"a group name starts with @; write @{word[1:]}")
        if _digits(name) and (len(name) > 10 or int(name) >= (1 << 32) - 1):
            raise ValueError(f"{ini.brief(word)} is out of range for a user or group ID")
        if not name or not name.isprintable() or set(name) & set(":/@") or name.startswith("-"):
            raise ValueError(
                f"{ini.brief(word)} is neither a user nor an @group; write names or numbers, like alice, @wheel"
            )
    return words


def parse_exit_codes(text: str) -> tuple[int, ...]:
    """Exit codes, separated by commas or blanks."""
    return tuple(_number(word, 0, 255, "for each code, like 0, 2") for word in parse_words(text))


def parse_paths(text: str) -> tuple[str, ...]:
    """Paths, separated by commas or on lines of their own; blanks belong to them."""
    return tuple(_list(text))


def parse_env_files(text: str) -> tuple[str, ...]:
    """The same, each with - before it if it may be missing."""
    return tuple(f"-{path[1:].lstrip()}" if path[:1] == "-" else path for path in _list(text))


def parse_app(text: str) -> str:
    """Checked for its form; importing it is the template's business."""
    module, colon, name = text.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        return text
    raise ValueError("not an application; write package.module:name, like shop.web:create_app")


def parse_root_path(text: str) -> str:
    """The path of a URL; without the / at its end."""
    if not text.startswith("/") or "?" in text:
        raise ValueError("not a URL path; start it with /, like /shop")
    return _path(text.rstrip("/"))


def parse_command(pieces: Iterable[ini.Piece]) -> tuple[str, ...]:
    """The argument list, from an expanded value in pieces."""
    argv = ini.words(pieces)
    if not argv or not argv[0]:
        raise ValueError("no program given; write the program and its arguments")
    return tuple(argv)


def show_command(argv: Sequence[str]) -> str:
    """Quoted for a shell; what looks secret is not shown."""
    import shlex

    from impetusd.core import redact

    shown = zip(argv, redact.argv(argv), strict=True)
    return " ".join(new if old != new and new.split() == [new] else shlex.quote(new) for old, new in shown)


def parse_umask(text: str) -> int:
    """Octal, with or without a leading 0 or 0o."""
    digits = text.lower().removeprefix("0o")
    if not digits or len(digits) > 4 or digits.strip("01234567") or int(digits, 8) > 0o777:
        raise ValueError("not a umask; write three octal digits, like 022 or 077")
    return int(digits, 8)


def parse_log_mode(text: str) -> int:
    """Permissions of log files: octal."""
    digits = text.lower().removeprefix("0o")
    mode = int(digits, 8) if digits and len(digits) <= 4 and not digits.strip("01234567") else 0
    if mode & ~0o664 or mode & 0o600 != 0o600:
        raise ValueError(
            "write 0600, 0640, 0660, 0644 or 0664: the owner can read and write the logs, and others cannot write them"
        )
    return mode


def parse_owner(text: str) -> str:
    """USER, USER:GROUP or :GROUP, each by name or by number."""
    user, colon, group = text.partition(":")
    if not (user or group) or (colon and not group) or ":" in group or len(text.split()) != 1:
        raise ValueError("no user or group given; write USER, USER:GROUP or :GROUP")
    return text


def parse_cpus(text: str) -> tuple[int, ...]:
    """CPU numbers in order, from numbers and ranges."""
    ranges = _ranges(text, 0, MOST_CPUS, "or a range, like 0, 2-3")
    return tuple(sorted({cpu for low, high in ranges for cpu in range(low, high + 1)}))


def show_cpus(cpus: Sequence[int]) -> str:
    """With ranges where there are any."""
    ranges: list[tuple[int, int]] = []
    for cpu in cpus:
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1] = ranges[-1][0], cpu
        else:
            ranges.append((cpu, cpu))
    return show_ranges(ranges)


def parse_status(text: str) -> tuple[tuple[int, int], ...]:
    """Ranges of HTTP status codes, ends included."""
    return tuple(_ranges(text, 100, 599, "or a range, like 200-299, 404"))


def show_ranges(ranges: Iterable[tuple[int, int]]) -> str:
    """A single number where both ends are one."""
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ranges)


def parse_rlimits(text: str) -> tuple[tuple[str, int, int], ...]:
    """(name, soft, hard) for each `name=both` or `name=soft:hard`; -1 is infinity."""
    import resource

    known = {name[7:].lower() for name in dir(resource) if name.startswith("RLIMIT_")}
    limits: dict[str, tuple[str, int, int]] = {}
    for item in _list(text):
        name, equals, value = (part.strip() for part in item.partition("="))
        name = name.lower()
        if not equals:
            raise ValueError(f"{ini.brief(item)} has no '='; write limits like nofile=65536, core=0:infinity")
        if name not in known:
            near = nearest(name, known)
            raise ValueError(
                f"unknown limit {ini.brief(name)}; {f'did you mean {near}?' if near else 'see setrlimit(2)'}"
            )
        if name in limits:
            raise ValueError(f"{name} is given twice; keep one")
        soft, colon, hard = (part.strip() for part in value.partition(":"))
        low = _rlimit(name, soft)
        high = _rlimit(name, hard) if colon else low
        if high != -1 and (low == -1 or low > high):
            raise ValueError(f"the soft limit of {name} is above its hard limit; write {name}=soft:hard")
        limits[name] = (name, low, high)
    return tuple(limits.values())


def show_rlimits(limits: Iterable[tuple[str, int, int]]) -> str:
    """As `name=both` where soft and hard are the same."""

    def one(limit: int) -> str:
        return "infinity" if limit == -1 else str(limit)

    return ", ".join(f"{n}={one(s)}" if s == h else f"{n}={one(s)}:{one(h)}" for n, s, h in limits)


def parse_listen(text: str) -> tuple[Listen, ...]:
    """Addresses, separated by commas; a unix path is as written."""
    return tuple(dict.fromkeys(_address(item) for item in _list(text)))


def parse_url(text: str) -> str:
    """An http or https URL, as written."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in {"http", "https"}:
        raise ValueError("not a URL; write it like http://127.0.0.1:8080/health")
    host = rest.replace("?", "/").partition("/")[0]
    if "@" in host:
        raise ValueError("a password in a URL would be visible in `status`; put it in headers")
    port = host.rpartition("]")[2].partition(":")
    _peer(host if port[1] else f"{host}:80", "127.0.0.1:8080")
    return _path(text)


def parse_base_url(text: str) -> str:
    """The URL that others are relative to; it ends with /."""
    url = parse_url(text)
    if "?" in url:
        raise ValueError("the URL of a page must not contain a query; write it like https://web2.example.com/")
    return url if url.endswith("/") else f"{url}/"


def parse_token(text: str) -> str:
    """What an Authorization header can carry."""
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > 128:
        raise ValueError("not a token; use the one that `impetusd token add` printed")
    return text


def parse_http(text: str) -> str:
    """A URL, or a path alone."""
    return _path(text) if text.startswith("/") else parse_url(text)


def show_secret_url(url: str) -> str:
    """Its scheme and host only: anybody who knows the path of a webhook may write to it."""
    from impetusd.core import redact

    scheme, _, rest = url.partition("://")
    host, slash, path = rest.replace("?", "/", 1).partition("/")
    return f"{scheme}://{host}/{redact.HIDDEN}" if path else f"{scheme}://{host}{slash}"


def show_secret(_: str) -> str:
    """Not at all."""
    from impetusd.core import redact

    return redact.HIDDEN


def parse_address(text: str) -> Listen:
    """One address to listen on."""
    found = parse_listen(text)
    if len(found) > 1:
        raise ValueError("more than one address; write one")
    return found[0]


def parse_socket(text: str) -> Listen:
    """The path of a unix socket, with who may connect to it."""
    return _unix_address(text.removeprefix("unix:").strip())


def parse_hosts(text: str) -> tuple[str, ...]:
    """Names of hosts, as a browser's Host header has them, without a port."""
    try:
        return tuple(dict.fromkeys(_host(word, "443") for word in parse_words(text)))
    except ValueError:
        raise ValueError("not a list of host names; write them without port or path, like ops.example.com") from None


def parse_networks(text: str) -> tuple[str, ...]:
    """Addresses and networks of the internet protocol, as `ipaddress.ip_network` reads them."""
    import ipaddress

    found = []
    for word in parse_words(text):
        try:
            found.append(str(ipaddress.ip_network(word)))
        except ValueError as error:
            raise ValueError(f"{error}; write addresses and networks, like 10.0.0.7 or 10.0.0.0/24") from None
    return tuple(found)


def parse_events(text: str) -> tuple[str, ...]:
    """Some of EVENTS."""
    words = parse_words(text.lower())
    for word in words:
        if word not in EVENTS:
            near = nearest(word, EVENTS)
            raise ValueError(
                f"unknown event {ini.brief(word)}; {f'did you mean {near}?' if near else 'write ' + ', '.join(EVENTS)}"
            )
    return words


def parse_mail(text: str) -> str:
    """One mail address."""
    name, at, host = text.rpartition("@")
    if not at or not name or not host or not text.isascii() or not text.isprintable() or set(text) & set(' ,;<>\\"()'):
        raise ValueError("not a mail address; write it like ops@example.com")
    return text


def parse_mails(text: str) -> tuple[str, ...]:
    """Mail addresses, separated by commas or blanks."""
    return tuple(map(parse_mail, parse_words(text)))


def parse_peer(text: str) -> str:
    """HOST:PORT to connect to, in its shortest form."""
    return _peer(text, "127.0.0.1:5432")


def parse_ready(text: str) -> Ready:
    """One of four ways of being ready."""
    kind, _, value = text.partition(":")
    value = value.strip()
    if kind in {"http", "https"}:
        return Ready("http", parse_url(text))
    if kind == "tcp":
        return Ready("tcp", parse_peer(value))
    if kind == "log" and value:
        import re
        import warnings

        try:
            with warnings.catch_warnings():  # of what a later version of Python may read in another way
                warnings.simplefilter("ignore")
                re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"invalid regular expression ({error}); write one like log:listening on") from None
        return Ready("log", value)
    if text == "listen":
        return Ready("listen", "")
    raise ValueError("write http://HOST:PORT/path, tcp:HOST:PORT, log:REGEX or listen")


def pattern_fault(ready: Ready) -> str:
    """Why its regular expression, which `parse_ready` has compiled, is refused; "" if it is accepted."""
    import re

    from impetusd.core.config.linepattern import LinePattern

    try:
        if ready.kind == "log":
            LinePattern(ready.value.encode())
    except (re.error, ValueError, RecursionError) as error:
        return f"unsupported regular expression ({error}); write one like log:listening on"
    return ""


def parse_headers(text: str) -> tuple[tuple[str, str], ...]:
    """(name, value) of each line."""
    headers: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError("not a header; write one Name: value per line")
        if not value.isprintable() or not value.isascii():
            raise ValueError(
                f"the value of {ini.brief(name)} contains a character that is not allowed in a header; remove it"
            )
        headers.append((name, value))
    return tuple(headers)


def show_headers(headers: Iterable[tuple[str, str]]) -> str:
    """One on each line. What looks secret is not shown."""
    from impetusd.core import redact

    return "\n  ".join(f"{name}: {redact.value(name, value)}" for name, value in headers)


def show_url(url: object) -> str:
    """A URL, or what has one in it, without its secrets."""
    from impetusd.core import redact

    return redact.text(str(url))


def parse_cron(text: str) -> str:
    """A cron expression, as written but for its blanks."""
    from impetusd.core.rules import schedule

    expression = " ".join(text.split())
    fault = schedule.check(expression) if len(expression) <= MOST_CRON else "too long for a cron expression"
    if fault:
        raise ValueError(f"{fault}; write minute, hour, day of month, month, day of week, like 30 3 * * 1-5, or @daily")
    return expression


def parse_timezone(text: str) -> str:
    """The name of a time zone that this host has."""
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("unknown time zone on this host; write one like Europe/Lisbon or UTC") from None
    return text


def parse_variable(text: str) -> str:
    """The name of an environment variable."""
    if not ini.is_name(text):
        raise ValueError("not a valid variable name; use letters, digits and _, not starting with a digit")
    return text


def parse_text(text: str) -> str:
    """Anything on one line."""
    return text


def count(least: int, most: int) -> Value:
    """A whole number from `least` to `most`."""
    return Value("count", lambda text: _number(text, least, most), str)


def size(least: int, most: int) -> Value:
    """Bytes, from `least` to `most`."""

    def parse(text: str) -> int:
        number = parse_size(text)
        if not least <= number <= most:
            raise ValueError(f"must be between {show_size(least)} and {show_size(most)}")
        return number

    return Value("size", parse, show_size)


def choice(*options: Any) -> Value:
    """One of these words, or of the members of an enumeration."""
    known = {str(getattr(option, "value", option)): option for option in options}
    words = list(known)

    def parse(text: str) -> Any:
        if text.lower() not in known:
            raise ValueError(f"write {', '.join(words[:-1])} or {words[-1]}")
        return known[text.lower()]

    return Value("choice", parse, lambda option: str(getattr(option, "value", option)))


def show_words(words: Iterable[object]) -> str:
    """Separated by commas."""
    return ", ".join(map(str, words))


DURATION = Value("duration", parse_duration, show_duration)
POSITIVE_DURATION = Value("duration", parse_positive_duration, show_duration)
BOOL = Value("yes or no", parse_bool, show_bool)
AUTORESTART = Value("choice", parse_autorestart, lambda value: str(value.value))
INSTANCES = Value("count", parse_instances, show_instances)
SIGNAL = Value("signal", parse_signal, show_signal)
WORDS = Value("names", parse_words, show_words, lines=True, none=())
PEOPLE = Value("users and @groups", parse_people, show_words, lines=True, none=())
EXIT_CODES = Value("exit codes", parse_exit_codes, show_words, none=())
PATH = Value("path", parse_text, str)
LOG_FILE = Value("path", parse_text, str)
PATHS = Value("paths", parse_paths, show_words, lines=True, none=())
ENV_FILES = Value("paths", parse_env_files, show_words, lines=True, none=())
GLOBS = Value("patterns", parse_paths, show_words, lines=True, none=())
INTERPRETER = Value("path or name", parse_text, str)
TEXT = Value("text", parse_text, str)
APP = Value("application", parse_app, str)
COMMAND = Value("command", parse_command, show_command, lines=True, none=())
UMASK = Value("umask", parse_umask, lambda mask: f"{mask:03o}")
LOG_MODE = Value("file mode", parse_log_mode, lambda mode: f"{mode:04o}")
OWNER = Value("owner", parse_owner, str)
CPUS = Value("CPUs", parse_cpus, show_cpus, none=())
RLIMITS = Value("limits", parse_rlimits, show_rlimits, lines=True, none=())
LISTEN = Value("addresses", parse_listen, show_words, lines=True, none=())
LIMIT = Value("size", parse_limit, show_size)
SHARE = Value("percentage", parse_share, show_share)
READY = Value("readiness check", parse_ready, show_url)
CRON = Value("cron expression", parse_cron, str)
TIMEZONE = Value("time zone", parse_timezone, str)
VARIABLE = Value("variable", parse_variable, str)
OVERLAP = choice(*Overlap)
ACTION = choice(*Action)
LOG_FORMAT = choice("plain", "json")
NO_NEW_PRIVS = choice("auto", "yes", "no")
ENV_PASS = Value("variables", parse_env_pass, show_words, none=())
CAPABILITIES = Value("capabilities", parse_capabilities, show_words, none=())
ON_FATAL = choice("refuse", "hold")
PROTOCOL = choice("auto", "aiohttp", "asgi", "wsgi")
ROOT_PATH = Value("path", parse_root_path, str)
PROGRAM_TYPE = choice("simple", "oneshot")
NODE = choice("auto", "yes", "no")
HTTP = Value("URL or path", parse_http, show_url)
PEER = Value("address", parse_peer, str)
STATUS = Value("status codes", parse_status, show_ranges, none=())
HEADERS = Value("headers", parse_headers, show_headers, lines=True, none=())
ADDRESS = Value("address or socket", parse_address, str)
SOCKET = Value("socket", parse_socket, lambda address: str(address).removeprefix("unix:"))
URL = Value("URL", parse_url, show_url)
SECRET_URL = Value("URL", parse_url, show_secret_url)
SECRET = Value("text", parse_text, show_secret)
BASE_URL = Value("URL", parse_base_url, show_url)
TOKEN = Value("text", parse_token, show_secret)
HOSTS = Value("host names", parse_hosts, show_words, lines=True, none=())
NETWORKS = Value("addresses and networks", parse_networks, show_words, lines=True, none=())
EVENT_NAMES = Value("events", parse_events, show_words, lines=True, none=())
MAIL = Value("mail address", parse_mail, str)
MAILS = Value("mail addresses", parse_mails, show_words, lines=True, none=())
CEILING = choice(*ROLES)
ALERT_TYPE = choice("slack", "json", "ntfy", "email", "command")
METRICS = choice("token", "open")

# Values that a log file's path may have instead, and programs' names for them: opened as files they would be our pipes.
LOG_STREAMS = {
    name: stream
    for number, stream in ((1, "stdout"), (2, "stderr"))
    for name in (stream, f"/dev/{stream}", f"/dev/fd/{number}", f"/proc/self/fd/{number}")
}

_OWN = (IMPETUSD,)
_POOL = (POOL,)
_PROGRAM = (PROGRAM,)
_BOTH = (POOL, PROGRAM)
_TIMER = (TIMER,)
_HEALTH = (HEALTH,)
_GATEWAY = (GATEWAY,)
_ALERT = (ALERT,)
_HOST = (HOST,)
_JOBS = (*_BOTH, TIMER)
_EVERY = (*_JOBS, HEALTH)

KEYS: tuple[Key, ...] = (
    # where impetusd itself lives
    Key("base_dir", _OWN, "Paths", PATH, DEFAULTS["base_dir"], "The folder that relative paths start from. Default: the folder of this file.", "/srv/shop"),
    Key("run_dir", _OWN, "Paths", PATH, DEFAULTS["run_dir"], "Folder for sockets. For api.ini: var/api/run. For a file in /etc: /run/impetusd, /run/impetusd-api; in ~/.config/impetusd: $XDG_RUNTIME_DIR/impetusd."),
    Key("state_dir", _OWN, "Paths", PATH, DEFAULTS["state_dir"], "Folder for data that must survive a reboot; only one impetusd can use a state_dir. For api.ini: var/api/lib. For a file in /etc: /var/lib/impetusd, /var/lib/impetusd-api; in ~/.config/impetusd: ~/.local/state/impetusd."),
    Key("log_dir", _OWN, "Paths", PATH, DEFAULTS["log_dir"], "Folder for logs. For api.ini: var/api/log. For a file in /etc: /var/log/impetusd, /var/log/impetusd-api; in ~/.config/impetusd: ~/.local/state/log/impetusd."),
    # who may use it
    Key("viewers", _OWN, "Access", PEOPLE, "", "Users and @groups, by name or ID, with read-only access: status, describe, health, timers, plan. root and the user that runs impetusd have full access; users without a role have none.", "@adm, nagios"),
    Key("operators", _OWN, "Access", PEOPLE, "", "Users and @groups that may also start, stop, restart, scale, signal and trigger existing units.", "@web-team"),
    Key("admins", _OWN, "Access", PEOPLE, "", "Users and @groups with full access. They can run programs as the user that runs impetusd.", "alice, 1001"),
    Key("log_owner", _OWN, "Access", OWNER, "", "Owner of all log files (units' and impetusd's own, rotated ones included), as USER, USER:GROUP or :GROUP, by name or ID. USER alone implies the user's primary group. The group, and everyone that log_mode admits, may list log_dir if impetusd owns it. Setting a different user requires root. Default: the user that runs impetusd.", ":adm"),
    Key("log_mode", _OWN, "Access", LOG_MODE, "", "Permissions of log files: 0600, 0640, 0660, 0644 or 0664. Default: 0640 for new files; existing files keep theirs.", "0640"),
    # other files
    Key("files", (INCLUDE,), "Paths", GLOBS, "", "Files to include: names or patterns, separated by blanks or commas (quote a name that contains a blank), relative to the folder of this file. [impetusd] and [include] must stay in this file. A name without wildcards must exist.", "conf.d/*.ini"),
    # what runs
    Key("app", _POOL, "What runs", APP, "", "The application, as package.module:name: aiohttp, ASGI (FastAPI, Starlette, Django, Litestar) or WSGI (Django, Flask), or a function that returns one. Required.", "shop.web:create_app"),
    Key("protocol", _POOL, "What runs", PROTOCOL, "auto", "The kind of application: aiohttp, asgi (needs impetusd[asgi]) or wsgi (needs impetusd[wsgi]). auto detects it.", "asgi"),
    Key("command", (PROGRAM, TIMER), "What runs", COMMAND, "", "The program and its arguments, quoted as for a shell; no shell runs it. Found in PATH. It must stay in the foreground. Required.", "redis-server --port 6380"),
    Key("type", _PROGRAM, "What runs", PROGRAM_TYPE, "simple", "simple: runs until it is stopped. oneshot: does its work and exits, like a migration. A oneshot counts as started once it has exited with 0 (or one of stop_exit_codes); units that depend on it wait for that and do not start if it fails. It runs each time impetusd starts and when it is named in a command; autostart and depends_on alone do not run it again. Its defaults differ: autorestart = never, and no listen_timeout."),
    Key("listen", _BOTH, "What runs", LISTEN, "", "Sockets that impetusd opens and keeps open across restarts: HOST:PORT, [IPV6]:PORT or unix:PATH. After a path, mode=0660 (who may connect) and owner=USER:GROUP are allowed. [::] accepts IPv4 too if net.ipv6.bindv6only is 0; [::]:PORT v6only=yes (or no) overrides that; the default is yes if 0.0.0.0 with the same port is also listed. A program receives them the way systemd passes sockets (LISTEN_FDS).", "127.0.0.1:8080"),
    Key("instances", _BOTH, "What runs", INSTANCES, "1", "How many processes to run: a number, max (one per CPU), -1 (one fewer), or a range like 2..8: the initial number and the most that `impetusd scale` allows. ${INSTANCE} in any value is the instance's number, starting at 0."),
    Key("node", _PROGRAM, "What runs", NODE, "auto", "Whether a program with listen is a Node program. If so, its server.listen(PORT) uses impetusd's socket for that port, or its only socket. Values: yes, no, or auto (yes if command is node, npm, npx, yarn, pnpm, next or similar, is in node_modules/.bin, or ends in .js, .mjs, .cjs or .ts). impetusd loads a file of its own into it through NODE_OPTIONS, ahead of existing options, and sets PORT if it is not set. On kill_signal, a program without its own handler finishes its current requests.", "yes"),
    Key("increment_var", _BOTH, "What runs", VARIABLE, "", "The environment variable to which each instance adds its number.", "PORT"),
    Key("interpreter", _POOL, "What runs", INTERPRETER, "", "The Python that runs the pool, 3.11 or newer, such as the application's venv; impetusd need not be installed there. Default: the Python that runs impetusd.", ".venv/bin/python"),
    Key("preload", _POOL, "What runs", BOOL, "yes", "yes: import the application once, then fork the workers from it. no: each worker imports it itself, which is also what happens if the import starts threads or opens connections."),
    Key("standby", _POOL, "What runs", count(0, 100), "1", "Spare workers, kept ready to replace one that dies."),
    Key("threads", _POOL, "What runs", count(1, 1000), "8", "How many requests a WSGI worker handles at a time."),
    Key("root_path", _POOL, "What runs", ROOT_PATH, "", "The URL prefix that a proxy strips: ASGI's root_path, WSGI's SCRIPT_NAME.", "/shop"),
    Key("backlog", _POOL, "What runs", count(1, 65535), "65535", "How many connections may wait to be accepted; the kernel caps it at net.core.somaxconn."),
    # when
    Key("enabled", (*_EVERY, GATEWAY, ALERT), "When it runs", BOOL, "yes", "no: ignore this section; units that depend on it do not wait for it."),
    Key("autostart", _BOTH, "When it runs", BOOL, "yes", "Start it together with impetusd."),
    Key("depends_on", _BOTH, "When it runs", WORDS, "", "Units that must be ready before this one starts; it is stopped before them.", "db"),
    Key("wait_ready", _PROGRAM, "When it runs", BOOL, "no", "yes: it counts as started once it sends READY=1 (sd_notify), not as soon as it runs."),
    Key("ready", _PROGRAM, "When it runs", READY, "", "It counts as started once http://HOST:PORT/path answers with 2xx or 3xx, tcp:HOST:PORT accepts connections, or a line of its output matches log:REGEX (Python's re syntax, without lookaround and group references). listen is for Node only (see node): once its server listens, or it calls process.send('ready'). Default: none; for Node with listen and without wait_ready: listen.", "log:listening on port"),
    Key("listen_timeout", _BOTH, "When it runs", POSITIVE_DURATION, "30s", "How long a start may take to become ready; after that it has failed."),
    Key("members", (GROUP,), "When it runs", WORDS, "", "The group's members: pools and programs, by name or pattern. Required.", "web, db"),
    # reload
    Key("reload_parallel", _BOTH, "Reloads", count(1, 1000), "1", "How many new processes a reload starts at a time; each replaces an old one."),
    Key("reload_watch", _BOTH, "Reloads", DURATION, "1s", "During a reload, the first new process serves alongside all the old ones for this long; if it exits or fails its health checks, the old ones stay."),
    # restart policy
    Key("autorestart", _BOTH, "Restarts", AUTORESTART, "always", "Whether to restart it when it exits on its own: always, on-failure or never."),
    Key("stop_exit_codes", _BOTH, "Restarts", EXIT_CODES, "", "Exit codes after which it is not restarted.", "0, 2"),
    Key("min_uptime", _BOTH, "Restarts", DURATION, "1s", "A run shorter than this counts as failed, and the delay grows with each failed run in a row. A program without a readiness check counts as started after this time, or after 1s if that is shorter."),
    Key("max_restarts", _BOTH, "Restarts", count(0, 1_000_000), "16", "Give up (FATAL) after this many restarts within restart_window."),
    Key("restart_window", _BOTH, "Restarts", POSITIVE_DURATION, "60s", "The period over which max_restarts is counted."),
    Key("restart_delay", _BOTH, "Restarts", DURATION, "0", "How long to wait before each restart."),
    Key("exp_backoff_restart_delay", _BOTH, "Restarts", DURATION, "100ms", "How long to wait after the second failed run in a row; it doubles with each further one."),
    Key("exp_backoff_max_delay", _BOTH, "Restarts", DURATION, "5s", "The upper limit of backoff_initial's doubling."),
    Key("retry_after", _BOTH, "Restarts", DURATION, "0", "Try a FATAL unit again after this time; 0: never."),
    Key("on_fatal", _POOL, "Restarts", ON_FATAL, "refuse", "What happens to new connections while it is FATAL. refuse: they are refused, so that a proxy tries another server. hold: clients wait until it runs again."),
    Key("critical", _BOTH, "Restarts", BOOL, "no", "yes: when it becomes FATAL, impetusd stops everything in order and exits with 69, so that the container runtime or systemd can act."),
    # restarts of what is healthy
    Key("cron_restart", _BOTH, "Planned restarts", CRON, "", "When to restart it: a cron expression, or @daily and the like.", "30 3 * * 1"),
    Key("timezone", _JOBS, "Planned restarts", TIMEZONE, "", "The time zone of cron_restart (for a timer: of cron). Default: the host's.", "Europe/Lisbon"),
    Key("max_age", _BOTH, "Planned restarts", DURATION, "0", "Restart a process after it has run for this long; instances are staggered; 0: never."),
    Key("max_requests", _POOL, "Planned restarts", count(0, 1_000_000_000), "0", "Replace a worker after about this many requests (varied by 10 %, so that they do not all restart at once); 0: never."),
    Key("watch", _BOTH, "Planned restarts", PATHS, "", "Restart it when one of these files or folders changes. Needs impetusd[watch].", "src, conf/app.toml"),
    Key("watch_ignore", _BOTH, "Planned restarts", GLOBS, "", "Patterns of file names that watch ignores.", "*.log, tmp"),
    Key("watch_delay", _BOTH, "Planned restarts", DURATION, "500ms", "How long to wait for further changes before restarting."),
    # what it may use and when it counts as hung
    Key("max_memory_restart", _BOTH, "Limits", LIMIT, "0", "Restart it gracefully when it and its descendants use more memory than this; 0: never."),
    Key("memory_hold", _BOTH, "Limits", DURATION, "0", "How long its memory must stay above max_memory_restart before it is restarted."),
    Key("max_memory_kill", _BOTH, "Limits", LIMIT, "0", "Kill it at once when it and its descendants use more memory than this; 0: never."),
    Key("memory_max", _JOBS, "Limits", LIMIT, "0", "Memory limit for each process with its descendants, including shared pages and files in memory. The kernel enforces it, and kills them all when they exceed it. Needs a writable cgroup v2 with the memory controller, as in a container whose PID 1 is impetusd; status warns if it is missing. 0: no limit.", "512M"),
    Key("cpu_max", _JOBS, "Limits", SHARE, "0", "CPU limit for each process with its descendants, as a percentage of one CPU: 50% is half a CPU, 200% two. Needs a writable cgroup v2 with the cpu controller. 0: no limit.", "150%"),
    Key("watchdog", _POOL, "Limits", DURATION, "30s", "A worker whose event loop (WSGI: all of its threads) is blocked for this long writes its stack traces to its log and is replaced; 0: never."),
    Key("header_timeout", _POOL, "Limits", DURATION, "60s", "Close a connection if the head of its request is not complete within this time; 0: no limit."),
    Key("body_timeout", _POOL, "Limits", DURATION, "60s", "Close a connection if less than 16 KB of a request's body arrives within this time while the application is reading; 0: no limit."),
    Key("watchdog", _PROGRAM, "Limits", DURATION, "0", "Restart it when it has not sent WATCHDOG=1 (sd_notify) for this long; 0: never. The program must support that protocol."),
    # stopping
    Key("kill_signal", _JOBS, "Stopping", SIGNAL, "SIGTERM", "The signal that asks it to stop."),
    Key("kill_timeout", _EVERY, "Stopping", DURATION, "10s", "How long a process has to exit after kill_signal; then it is killed."),
    Key("drain_timeout", _POOL, "Stopping", DURATION, "5s", "How long a stopping worker waits for its connections to close; must be shorter than kill_timeout."),
    Key("treekill", _JOBS, "Stopping", BOOL, "yes", "Stop its descendants too, including daemonized ones."),
    # surroundings
    Key("cwd", _EVERY, "Execution environment", PATH, "${BASE_DIR}", "The working directory."),
    Key("user", _EVERY, "Execution environment", TEXT, "", "Run as this user, by name or ID (an ID needs no passwd entry); UID:GID sets the group as well. impetusd must run as root. Default: the user that runs impetusd.", "www-data"),
    Key("group", _EVERY, "Execution environment", TEXT, "", "Run as this group; impetusd must run as root. Default: the user's own.", "www-data"),
    Key("no_new_privs", _EVERY, "Execution environment", NO_NEW_PRIVS, "auto", "yes: neither it nor its children can gain privileges by executing a setuid program or one with file capabilities, such as sudo or ping. auto: yes unless it runs as root."),
    Key("capabilities", _EVERY, "Execution environment", CAPABILITIES, "", "The only capabilities it has; impetusd must run as root. Default: impetusd's own if it runs as root, none if it runs as another user.", "net_bind_service"),
    Key("umask", _EVERY, "Execution environment", UMASK, "022", "Permission bits that are cleared on files it creates."),
    Key("nice", _EVERY, "Execution environment", count(-20, 19), "0", "CPU priority, from -20 (highest) to 19 (lowest)."),
    Key("oom_score_adj", _JOBS, "Execution environment", count(-1000, 1000), "0", "How likely the kernel is to kill it when memory runs out, from -1000 (never) to 1000 (first); 0: as for impetusd itself."),
    Key("cpu_affinity", _JOBS, "Execution environment", CPUS, "", "The CPUs it may run on. Default: all.", "0, 2-3"),
    Key("rlimits", _JOBS, "Execution environment", RLIMITS, "", "Limits of setrlimit(2), as name=both or name=soft:hard. Default: impetusd's own.", "nofile=65536, core=0:infinity"),
    Key("env_file", _EVERY, "Execution environment", ENV_FILES, "", "Files of NAME=value lines in the syntax of systemd and Docker, read at each start; [env:NAME] overrides them. One with - before its path may be missing.", "web.env, -local.env"),
    Key("env_pass", _EVERY, "Execution environment", ENV_PASS, "", "Variables to pass on from impetusd's own environment, besides PATH, HOME and the like: names or shell patterns; ! excludes, as in *, !AWS_*. Unset variables are skipped. If PATH is included, it is passed unchanged, without the folder of impetusd's Python in front. HOME, USER, LOGNAME and SHELL, if listed by name, are impetusd's own even if `user` has different ones. Variables that impetusd sets itself are never passed on. `impetusd env NAME` shows the result.", "*, !AWS_*"),
    # logs
    Key("out_file", _JOBS, "Logs", LOG_FILE, "", "Where its standard output goes: a file, or stdout or stderr of `impetusd run` (after `impetusd start`, both are impetusd's own log). Default: a file in log_dir.", "${LOG_DIR}/out.log"),
    Key("error_file", _JOBS, "Logs", LOG_FILE, "", "Where its standard error goes, with the same choices as out_file. Default: a file in log_dir.", "${LOG_DIR}/error.log"),
    Key("access_log", _POOL, "Logs", BOOL, "no", "Write a line per request to standard output (and so to out_file) in the common log format: client, time, request, status, response size."),
    Key("merge_logs", _BOTH, "Logs", BOOL, "no", "yes: one log file for all instances. no: one per instance, with its number in the name (out-0.log)."),
    Key("time", _JOBS, "Logs", BOOL, "no", "Put a timestamp before each line."),
    Key("log_format", _JOBS, "Logs", LOG_FORMAT, "plain", "plain: lines unchanged. json: each line as an object with its time and origin."),
    Key("log_max_line", _JOBS, "Logs", size(4 << 10, 1 << 20), "256K", 'Split lines longer than this where impetusd writes whole lines (time, log_format = json, merge_logs, run --logs stdout): every part but the last ends with …, or has "partial": true in JSON. The parts of a line stay together, unless another process writes to the same file and the rest takes longer than a second.'),
    Key("log_max_size", _JOBS, "Logs", LIMIT, "0", "Rotate a log file when it reaches this size; 0: never, for use with logrotate."),
    Key("log_max_age", _JOBS, "Logs", DURATION, "0", "Rotate a log file when it is this old; 0: never."),
    Key("log_keep", _JOBS, "Logs", count(0, 10_000), "7", "How many rotated files to keep."),
    Key("log_compress", _JOBS, "Logs", BOOL, "yes", "Compress rotated files with gzip."),
    # when a timer's command runs
    Key("cron", _TIMER, "When it runs", CRON, "", "A cron expression (with six fields, the first is seconds), or @hourly, @daily, @weekly, @monthly, @yearly. Either cron or every is required.", "0 3 * * *"),
    Key("every", _TIMER, "When it runs", POSITIVE_DURATION, "", "The interval between runs, instead of cron.", "15m"),
    Key("jitter", _TIMER, "When it runs", DURATION, "0", "Delay each run by a random time up to this, so that hosts do not all run it at once."),
    Key("catch_up", _TIMER, "When it runs", BOOL, "no", "yes: if runs were missed because impetusd was down, the host was asleep or its clock changed, run it once afterwards."),
    Key("overlap", _TIMER, "When it runs", OVERLAP, "skip", "What to do when the previous run is still going: skip this run, queue it, or replace the previous one."),
    Key("timeout", _TIMER, "When it runs", DURATION, "0", "Stop a run that takes longer, and count it as failed; 0: no limit."),
    Key("retries", _TIMER, "When it runs", count(0, 1000), "0", "How many times to retry a failed run."),
    Key("retry_delay", _TIMER, "When it runs", DURATION, "10s", "How long to wait before the first retry; it doubles with each further one, up to an hour."),
    # what a health check asks, and what follows
    Key("target", _HEALTH, "Check", TEXT, "", "The unit to check. Default: the unit with the name of this section.", "web"),
    Key("http", _HEALTH, "Check", HTTP, "", "The URL to request. For a pool, a path alone checks each worker. One of http, tcp and exec is required.", "http://127.0.0.1:8080/health"),
    Key("tcp", _HEALTH, "Check", PEER, "", "HOST:PORT that must accept connections.", "127.0.0.1:5432"),
    Key("exec", _HEALTH, "Check", COMMAND, "", "A command that must exit with 0. It runs with the environment of the target.", "pg_isready -q"),
    Key("status", _HEALTH, "Check", STATUS, "200-399", "The status codes that count as success."),
    Key("body", _HEALTH, "Check", TEXT, "", "Text that the response must contain.", "ok"),
    Key("headers", _HEALTH, "Check", HEADERS, "", "Request headers, one Name: value per line.", "Host: shop.example"),
    Key("socket", _HEALTH, "Check", PATH, "", "The unix socket to send the HTTP request through.", "${RUN_DIR}/web.sock"),
    Key("ca_file", _HEALTH, "Check", PATH, "", "CA certificates to trust for https. Default: the host's.", "conf/ca.pem"),
    Key("verify", _HEALTH, "Check", BOOL, "yes", "no: accept any certificate for https."),
    Key("interval", _HEALTH, "Timing and action", POSITIVE_DURATION, "30s", "How often to run the check."),
    Key("timeout", _HEALTH, "Timing and action", POSITIVE_DURATION, "5s", "How long to wait for a response; after that the check has failed."),
    Key("start_period", _HEALTH, "Timing and action", DURATION, "0", "Ignore failures for this long after a start."),
    Key("failures", _HEALTH, "Timing and action", count(1, 1000), "3", "How many failures in a row make it unhealthy."),
    Key("successes", _HEALTH, "Timing and action", count(1, 1000), "1", "How many successes in a row make it healthy again."),
    Key("action", _HEALTH, "Timing and action", ACTION, "restart", "What to do when it is unhealthy: restart it, or alert (only report it)."),
    # the web page, the API and the metrics
    Key("listen", _GATEWAY, "The gateway", LISTEN, "", "The address to listen on: HOST:PORT or [IPV6]:PORT. Any address other than loopback requires tls_cert or behind_proxy. Default: 127.0.0.1:9615, or the next free port up to 9624; none if socket is set.", "127.0.0.1:9615"),
    Key("socket", _GATEWAY, "The gateway", SOCKET, "", "A unix socket for a proxy; the path may be followed by mode=0660 (who may connect) and owner=USER:GROUP.", "${RUN_DIR}/gateway.sock owner=:www-data"),
    Key("tls_cert", _GATEWAY, "The gateway", PATH, "", "The certificate with its chain (PEM); it makes listen use HTTPS. It is read again when the file is replaced. The gateway's user must be able to read it.", "/etc/ssl/ops.pem"),
    Key("tls_key", _GATEWAY, "The gateway", PATH, "", "The private key of tls_cert (PEM), unencrypted. The gateway's user must be able to read it.", "/etc/ssl/ops.key"),
    Key("behind_proxy", _GATEWAY, "The gateway", BOOL, "no", "yes: a proxy in front of it terminates HTTPS and sets X-Forwarded-For and X-Forwarded-Proto. These headers are trusted on connections to socket and from trusted_proxies."),
    Key("trusted_proxies", _GATEWAY, "The gateway", NETWORKS, "", "Addresses and networks of proxies that connect to listen; their X-Forwarded-For and X-Forwarded-Proto are trusted. A loopback address trusts every user of this host.", "10.0.0.7"),
    Key("hosts", _GATEWAY, "The gateway", HOSTS, "", "The host names that browsers use to reach it, without port; the host's own name and those in listen are always included. Requests for other names are refused.", "ops.example.com"),
    Key("url", _GATEWAY, "The gateway", URL, "", "The URL to use in links in alerts. Default: derived from hosts or listen.", "https://ops.example.com/"),
    Key("ceiling", _GATEWAY, "The gateway", CEILING, "operator", "The highest role that anyone has through the gateway, whatever their own role: viewer, operator or admin."),
    Key("metrics", _GATEWAY, "The gateway", METRICS, "token", "Who may read /metrics. token: anyone with a token of any role. open: anyone who can connect."),
    Key("xmlrpc", _GATEWAY, "The gateway", ADDRESS, "", "Where to serve supervisord's XML-RPC API, for supervisorctl and similar tools: a loopback address, or unix:PATH, which may be followed by mode=0660 and owner=USER:GROUP. Default: off.", "unix:${RUN_DIR}/supervisor.sock"),
    Key("user", _GATEWAY, "The gateway", TEXT, "", "Run the gateway and the observer as this user, by name or ID; impetusd must run as root. Default: if impetusd runs as root, a user ID that nothing else uses; otherwise the user that runs impetusd.", "impetusd"),
    # whom to notify of what
    Key("type", _ALERT, "Alerts", ALERT_TYPE, "", "How to send: slack (a webhook of Slack, Mattermost, Rocket.Chat or Discord's /slack), json (a webhook that accepts JSON), ntfy, email or command. Default: email if to is set, command if command is set, otherwise slack, ntfy or json depending on the host in url.", "slack"),
    Key("url", _ALERT, "Alerts", SECRET_URL, "", "The URL of the webhook, or of the ntfy topic.", "https://hooks.slack.com/***"),
    Key("to", _ALERT, "Alerts", MAILS, "", "The recipients of the mail.", "ops@example.com"),
    Key("from", _ALERT, "Alerts", MAIL, "", "The sender of the mail. Default: impetusd@HOSTNAME.", "impetusd@example.com"),
    Key("smtp", _ALERT, "Alerts", PEER, "127.0.0.1:25", "The mail server. Any server other than the local one must offer STARTTLS with a certificate valid for its name; port 465 uses TLS from the start."),
    Key("smtp_user", _ALERT, "Alerts", TEXT, "", "The user name for the mail server.", "impetusd"),
    Key("smtp_password", _ALERT, "Alerts", SECRET, "", "The password for the mail server.", "***"),
    Key("command", _ALERT, "Alerts", COMMAND, "", "A command to run as the gateway's user, with the alert's text on standard input and IMPETUSD_ALERT_ID, …_KIND, …_TITLE and …_JSON in its environment. It must exit with 0.", "/usr/local/bin/page-me"),
    Key("events", _ALERT, "Alerts", EVENT_NAMES, "", "The events to report: fatal, unhealthy, memory, restarts (many in a short time), timer (failed or missed), disk, daemon (impetusd itself), deploy and recovered. Default: all.", "fatal, unhealthy, recovered"),
    Key("units", _ALERT, "Alerts", GLOBS, "", "The units and timers to report on, by name or pattern. Default: all.", "web, db*"),
    Key("for", _ALERT, "Alerts", DURATION, "0", "Send only if the problem has lasted this long."),
    Key("repeat", _ALERT, "Alerts", DURATION, "4h", "Send again after this time while the problem lasts; 0: only once."),
    Key("heartbeat", _ALERT, "Alerts", SECRET_URL, "", "A URL to request (GET) regularly while impetusd is healthy; a dead man's switch service at that URL raises the alarm when the requests stop.", "https://hc-ping.com/***"),
    Key("heartbeat_every", _ALERT, "Alerts", POSITIVE_DURATION, "1m", "How often."),
    # other hosts
    Key("url", _HOST, "Other hosts", BASE_URL, "", "The URL of the page of its gateway. It must be https, except for a loopback address, such as an ssh tunnel. Required.", "https://web2.example.com/"),
    Key("token", _HOST, "Other hosts", TOKEN, "", "A token of that gateway, created there with `impetusd token add NAME`; the role viewer is enough. Required.", "***"),
    Key("ca_file", _HOST, "Other hosts", PATH, "", "CA certificates (PEM) to verify its certificate. The gateway's user must be able to read the file. Default: the host's.", "/etc/ssl/ops-ca.pem"),
)  # fmt: skip

_OF_SECTION = {section: {key.name: key for key in KEYS if section in key.sections} for section in SECTIONS}


def header(kind: str) -> str:
    """The header's beginning for a section of this kind."""
    return f"[{kind}]" if kind in UNNAMED else f"[{kind}:NAME]"


def keys_of(section: str) -> dict[str, Key]:
    """The keys that a kind of section takes, in the table's order."""
    return _OF_SECTION[section]


def nearest(word: str, known: Iterable[str]) -> str:
    """What a misspelt `word` most likely meant, or ''."""
    import difflib

    matches = difflib.get_close_matches(word[:40], known, 1, 0.7) if len(word) <= 40 else []
    return matches[0] if matches else ""


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str, least: int, most: int, other: str = "") -> int:
    digits = text.removeprefix("-")
    if _digits(digits) and len(digits) < 10 and least <= int(text) <= most:
        return int(text)
    raise ValueError(f"write a whole number from {least} to {most}{' ' + other if other else ''}")


def _ranges(text: str, least: int, most: int, other: str) -> Iterator[tuple[int, int]]:
    for word in parse_words(text):
        first, dash, last = word.partition("-")
        low = _number(first, least, most, other)
        high = _number(last, least, most, other) if dash else low
        if high < low:
            raise ValueError(f"the range {ini.brief(word)} runs backwards; write {high}-{low}")
        yield low, high


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.replace("\n", ",").split(",") if item.strip()]


def _rlimit(name: str, text: str) -> int:
    if text.lower() in {"infinity", "unlimited"}:
        return -1
    if name in {"as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack"}:
        number = parse_size(text)
    elif _digits(text) and len(text) < 19:
        number = int(text)
    else:
        raise ValueError(f"{name} takes a number or infinity; write it like {name}=1024")
    if number >= 1 << 63:
        raise ValueError(f"{name} is too large for the kernel; write {name}=infinity")
    return number


def _address(text: str) -> Listen:
    shown = ini.brief(text)
    if text.startswith("unix:"):
        return _unix_address(text.removeprefix("unix:").strip())
    if text.startswith("/"):
        raise ValueError(f"for a unix socket write unix:{shown}")
    text, _, only = text.partition(" v6only=")
    host, port = _host_and_port(text.rstrip(), "127.0.0.1:8080, or unix:PATH")
    if not host or host == "*":
        raise ValueError(
            f"{shown} has no host; write 127.0.0.1:{port} for this machine only, 0.0.0.0:{port} for all networks"
        )
    found = Listen(_host(host, port), int(port))
    if not only:
        return found
    if found.host != ANY_V6:
        raise ValueError(f"v6only applies only to [::]; write {found}")
    return Listen(found.host, found.port, v6only=parse_bool(only.strip()))


def _unix_address(text: str) -> Listen:
    """PATH mode=0660 owner=USER:GROUP; blanks belong to the path."""
    mode, owner = UNIX_MODE, ""
    while (words := text.rsplit(maxsplit=1))[1:]:
        key, equals, value = words[1].partition("=")
        if not equals or key not in {"mode", "owner"}:
            break
        if key == "mode":
            mode = _mode(value)
        elif value.strip(":") and value.count(":") < 2:
            owner = value.removesuffix(":")
        else:
            raise ValueError("owner is empty; write owner=USER, owner=USER:GROUP or owner=:GROUP")
        text = words[0]
    if not text or text.startswith(("mode=", "owner=")):
        raise ValueError("a unix socket needs a path; write unix:run/web.sock")
    return Listen("", 0, text, mode, owner)


def _mode(text: str) -> int:
    if not text or len(text) > 4 or text.strip("01234567") or int(text, 8) > 0o777:
        raise ValueError(f"mode={ini.brief(text)} is not a mode; write octal digits, like mode=0660 or mode=0666")
    return int(text, 8)


def _peer(text: str, example: str) -> str:
    host, port = _host_and_port(text, example)
    if not host:
        raise ValueError(f"{ini.brief(text)} has no host; write it like {example}")
    return str(Listen(_host(host, port), int(port)))


def _path(text: str) -> str:
    """`text` if a request's first line can hold it, as a URL or a path alone. Raises ValueError."""
    if not text.isascii() or not text.isprintable() or " " in text or "#" in text:
        raise ValueError("a URL must be ASCII without blanks or #; percent-encode such characters, like %20")
    return text


def _host_and_port(text: str, example: str) -> tuple[str, str]:
    host, _, port = text.rpartition(":")
    if not _digits(port) or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise ValueError(f"{ini.brief(text)} has no port from 1 to 65535; write HOST:PORT, like {example}")
    return host, port


def _host(host: str, port: str) -> str:
    """A name as it is, an address in its shortest form."""
    import ipaddress

    bracketed = host.startswith("[") and host.endswith("]")
    inner = host[1:-1] if bracketed else host
    try:
        if bracketed:
            return str(ipaddress.IPv6Address(inner))
        if ":" in host:
            ipaddress.IPv6Address(inner)
            raise ValueError(f"an IPv6 address needs brackets; write [{inner}]:{port}")
        if not inner.strip("0123456789."):
            return str(ipaddress.IPv4Address(inner))
    except ipaddress.AddressValueError:
        raise ValueError(
            f"{ini.brief(host)} is not an address; write HOST:PORT, like 127.0.0.1:8080 or [::1]:8080"
        ) from None
    labels = inner.split(".")
    if len(inner) > 253 or not all(label and label.replace("-", "").isalnum() and label.isascii() for label in labels):
        raise ValueError(f"{ini.brief(host)} is not a host; write HOST:PORT, like 127.0.0.1:8080 or [::1]:8080")
    return inner.lower()
