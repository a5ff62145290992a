"""The control protocol, without I/O: the format of lines, the methods, and errors for invalid requests.

JSON-RPC 2.0, one object a line, UTF-8, ended by "\\n", over the unix stream socket `Paths.control_socket`. The
supervisor and the control client both use this file and nothing else, so they cannot disagree. While a request is under
way the supervisor may send notifications with the method "progress"; every request has an id, because every request is
answered.

Nothing else is imported: `impetusd status` imports this module, whose whole budget is 50 ms.
"""

from __future__ import annotations

from impetusd import __version__, bare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

MAX_LINE = 1 << 20  # bytes, the newline included; of an answer what is sent where it can be cut to that
MAX_ANSWER = 1 << 26  # bytes of one that cannot: 100,000 slots
MAX_DEPTH = 16  # of arrays and objects in a request; our own need 3
MAX_NAMES = 10_000  # in one request
MAX_PATTERNS = 32  # of these names: each with *, ? or [ is held against every slot
MAX_NAME = 256  # characters
MAX_ADDRESS = 64  # characters of an address of the internet protocol
MAX_PATH = 4095
MAX_SECONDS = 7 * 86400  # the longest watch of a reload
MAX_SILENCE = 366 * 86400  # seconds
MAX_REPORT = 1 << 16  # bytes of what the observer reports
MAX_LOGS = 32  # that are searched at once
MAX_LOG_LINES = 2000  # of a log in one answer
LATEST = 253_370_764_800  # Unix time: the year 9999
MAX_COMMAND = 1000  # characters of a command, as it is shown
MAX_INSTANCES = 10_000  # `scale`; configuration and memory set the real limit, this one catches a slip of the finger

VERSION = 1  # of this protocol; higher once a peer could misunderstand. One that states none speaks as if it were 1
OLDEST = 1  # that is still spoken
STATED = {"protocol": VERSION, "version": __version__}  # as "client" of a request, and as "server" of its answer
BEHALF, ADDRESS = "on_behalf_of", "at_address"  # beside "client"; see `Behalf`. An older supervisor ignores the address
CONNECT, TAKE, FULL = b"connect", b"take", b"full"  # of `supervisor.api.inherited`: what is asked, and the answers
OPTIONAL = "?"  # at the end of a parameter's name: a peer that does not know it may ignore it

# The standard's codes, and the one for a request that was understood and did not succeed.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
FAILED = -32000

# Roles in ascending order: each may do what those before it may.
VIEWER, OPERATOR, ADMIN = ROLES = ("viewer", "operator", "admin")
NOBODY = "nobody"  # of a method that is for one of our own units alone
OBSERVER = "observer"  # that unit, see core.config.gateway

# What the command line exits with, as `data.exit` of an error.
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_UNKNOWN_NAME = 4
EXIT_CRITICAL = 69  # of `impetusd run`: a critical unit was given up; sysexits.h EX_UNAVAILABLE
EXIT_OCCUPIED = 73  # of `impetusd run`: another one runs there, or has left programs; sysexits.h EX_CANTCREAT

UNKNOWN = "ended while impetusd was down; exit status unknown"  # of a process


class ProtocolError(Exception):
    """A line or a request that is refused. `message` is a sentence; `exit` the exit code that the command line takes.

    `id` is the request's, where it could be read, so that the refusal can be sent as its answer.
    """

    def __init__(self, code: int, message: str, exit: int = EXIT_USAGE, id: int | str | None = None) -> None:  # noqa: A002  # the protocol's own words
        super().__init__(message)
        self.code = code
        self.message = message
        self.exit = exit
        self.id = id


class Behalf:
    """The user for whom one of our own units asks, with that user's role, and the address that the user is at; "" if that
    is not known. See `supervisor.api.inherited`."""

    __slots__ = ("address", "role", "user")

    def __init__(self, user: str, role: str, address: str = "") -> None:
        self.user = user
        self.role = role
        self.address = address


class Request:
    """One checked request: `params` has every parameter of the method, defaults filled in. `at`: when it came,
    monotonic.

    `behalf`: None if the peer asks for itself. `by` and `pid`: the peer's name and process, once the supervisor knows
    them; 0 if it does not.
    """

    __slots__ = ("at", "behalf", "by", "id", "method", "params", "pid", "stated")

    def __init__(  # the protocol's own words
        self,
        id: int | str,  # noqa: A002
        method: str,
        params: dict[str, Any],
        *,
        stated: bool = False,
        behalf: Behalf | None = None,
    ) -> None:
        self.behalf = behalf
        self.by = ""
        self.pid = 0
        self.id = id
        self.method = method
        self.params = params
        self.at = 0.0
        self.stated = stated  # the client has stated its version and expects ours


class Answer:
    """What the client reads: a notification (`progress` of that method, else `notice`: method and parameters), a result
    (`result`) or a refusal (`error`). `server`: what the supervisor has stated, {"protocol", "version"}; None: nothing.
    """

    __slots__ = ("error", "id", "notice", "progress", "result", "server")

    def __init__(
        self,
        id: int | str | None = None,  # noqa: A002  # the protocol's own words
        *,
        progress: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        error: ProtocolError | None = None,
        notice: tuple[str, dict[str, Any]] | None = None,
        server: dict[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.progress = progress
        self.result = result
        self.error = error
        self.notice = notice
        self.server = server


# --- Parameters: each kind is a function from a JSON value to its checked value; ValueError carries what was expected ---


def is_pattern(name: str) -> bool:
    """True if a name is a pattern."""
    return any(char in name for char in "*?[")


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > MAX_NAME:
        raise ValueError(f"a name: a string of 1 to {MAX_NAME} characters")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise ValueError(f"a string of at most {MAX_NAME} characters")
    return value


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise ValueError(f"a list of at most {MAX_NAMES} names")
    names = list(dict.fromkeys(map(_name, value)))
    if sum(map(is_pattern, names)) > MAX_PATTERNS:
        raise ValueError(f"a list of names with at most {MAX_PATTERNS} patterns (*, ? or [)")
    return names


def _some_names(value: Any) -> list[str]:
    names = _names(value)
    if not names:
        raise ValueError("a list of at least one name")
    return names


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004  # the message goes on as "must be true or false"
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INSTANCES:
        raise ValueError(f"a whole number from 0 to {MAX_INSTANCES}")
    return value


def _instances(value: Any) -> int | str:
    """A number of instances, or a change: "+1", "-2"."""
    if isinstance(value, str) and value[:1] in {"+", "-"} and value[1:].isascii() and value[1:].isdecimal():
        _count(int(value[1:]))
        return value
    return _count(value)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise ValueError("a whole number, 0 or more")
    return value


def _few_names(value: Any) -> list[str]:
    names = _some_names(value)
    if len(names) > MAX_LOGS:
        raise ValueError(f"a list of at most {MAX_LOGS} names")
    return names


def _streams(value: Any) -> list[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= 2 or len({*map(_stream, value)}) != len(value):
        raise ValueError("a list of out, error or both")
    return value


def _lines(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_LOG_LINES:
        raise ValueError(f"a whole number from 0 to {MAX_LOG_LINES}")
    return value


def _instant(value: Any) -> float:
    """0: none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LATEST:
        raise ValueError("Unix time in seconds")
    return float(value)


def _profile(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise ValueError(f"the name of a profile, or '' for none: a string of at most {MAX_NAME} characters")
    return value


def _stream(value: Any) -> str:
    if value not in {"out", "error"}:
        raise ValueError("out or error")
    return str(value)


def _offset(value: Any) -> int | None:
    """None: the last page."""
    return None if value is None else _size(value)


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or len(value) > MAX_PATH or "\0" in value:
        raise ValueError(f"an absolute path of at most {MAX_PATH} characters")
    return value


def _words(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value) or _length(value) > MAX_COMMAND:
        raise ValueError(f"a list of strings of at most {MAX_COMMAND} characters in total")
    return value


def _length(words: Iterable[str]) -> int:
    return sum(len(word) + 1 for word in words)


def shortened_command(words: Iterable[str]) -> list[str]:
    """A command as `exec` reports it: as many words as fit, "..." for the rest."""
    told: list[str] = []
    for word in words:
        if _length(told) + len(word) + 1 > MAX_COMMAND - len("...") - 1:
            return [*told, "..."]
        told.append(word)
    return told


def _seconds(value: Any) -> float | None:
    """None: as configured."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_SECONDS:
        raise ValueError(f"a number of seconds up to {MAX_SECONDS}")
    return float(value)


def _silence(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_SILENCE:
        raise ValueError(f"a number of seconds above 0 and up to {MAX_SILENCE}")
    return float(value)


def _why(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_COMMAND or not all(map(str.isprintable, value)):
        raise ValueError(f"a line of at most {MAX_COMMAND} characters")
    return value


def _report(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(bare.dumps(value)) > MAX_REPORT:
        raise ValueError(f"an object of at most {MAX_REPORT} bytes as JSON")
    return value


class Param:
    """One parameter: how it is checked, and its value when it is left out (`required` when it may not be)."""

    __slots__ = ("check", "default", "required")

    def __init__(self, check: Callable[[Any], Any], default: Any = None, *, required: bool = False) -> None:
        self.check = check
        self.default = default
        self.required = required


class Method:
    """A method and the role it requires.

    `idempotent`: asking twice leaves what asking once does, so a client whose connection dropped may ask again.
    `looks`: it changes nothing, so the ledger records it only when refused; all that a viewer may call are such.
    `slow`: the answer may take as long as programs take to start or stop; the others are answered at once.
    `secrets`: the answer contains secrets in clear, so only the daemon's own user may call it, whatever role others
    have. `unit`: the one of our own units that may call it too, for itself. With the role NOBODY nobody else may.
    """

    __slots__ = ("idempotent", "looks", "params", "role", "secrets", "slow", "unit")

    def __init__(
        self,
        role: str,
        *,
        idempotent: bool,
        slow: bool,
        secrets: bool = False,
        looks: bool = False,
        unit: str = "",
        **params: Param,
    ) -> None:
        self.role = role
        self.unit = unit
        self.looks = looks or role == VIEWER
        self.idempotent = idempotent
        self.slow = slow
        self.secrets = secrets
        self.params = params


_ANY_NAMES = Param(_names, ())
_NAMED = Param(_some_names, required=True)
_WAIT = Param(_flag, True)
_TOKEN = Param(_name, "")
_ENV = Param(_profile)  # None: the profile that is in force
_SIZE = Param(_size, 0)

METHODS: Mapping[str, Method] = {
    "ping": Method(VIEWER, idempotent=True, slow=False),
    "status": Method(VIEWER, idempotent=True, slow=False, names=_ANY_NAMES),
    "describe": Method(VIEWER, idempotent=True, slow=False, name=Param(_name, required=True)),
    # Of each of these units that there is: where its section is, and the units it depends on.
    "places": Method(VIEWER, idempotent=True, slow=False, names=_ANY_NAMES),
    "logs": Method(VIEWER, idempotent=True, slow=False, names=_ANY_NAMES),
    # A page of a slot's log, and with `follow` each that comes after it: from `offset` of `file` on, both as given by
    # an earlier page. What looks secret is hidden, as everywhere; but program output is not for every viewer.
    "tail": Method(
        OPERATOR,
        idempotent=True,
        slow=True,
        looks=True,
        unit=OBSERVER,
        name=Param(_name, required=True),
        stream=Param(_stream, "out"),
        offset=Param(_offset),
        file=Param(_text, ""),
        follow=Param(_flag, False),
    ),
    # Lines of slots' logs, rotated files included: of each the last `limit` with `text` (in any case) from `since` to `until`,
    # Unix time, with so many around each; or, of one where `offset` is given, those around the one that begins there in `file`.
    "search": Method(
        OPERATOR,
        idempotent=True,
        slow=True,
        looks=True,
        names=Param(_few_names, required=True),
        streams=Param(_streams, ("out",)),
        text=Param(_text, ""),
        since=Param(_instant, 0.0),
        until=Param(_instant, 0.0),
        limit=Param(_lines, 200),
        before=Param(_lines, 0),
        after=Param(_lines, 0),
        file=Param(_text, ""),
        offset=Param(_offset),
    ),
    "start": Method(OPERATOR, idempotent=True, slow=True, names=_ANY_NAMES, wait=_WAIT),
    "stop": Method(OPERATOR, idempotent=True, slow=True, names=_ANY_NAMES),
    # `token`: of one that is relative, by which the next supervisor knows that it was carried out.
    "scale": Method(
        OPERATOR,
        idempotent=True,
        slow=True,
        name=Param(_name, required=True),
        n=Param(_instances, required=True),
        token=_TOKEN,
    ),
    "restart": Method(OPERATOR, idempotent=False, slow=True, names=_ANY_NAMES, wait=_WAIT, rolling=Param(_flag, False)),
    # A client that lost its supervisor meanwhile asks again: `token` identifies it to the next one as the same request.
    "reload": Method(
        OPERATOR,
        idempotent=True,
        slow=True,
        names=_NAMED,
        canaries=Param(_count, 0),
        watch=Param(_seconds, None),
        cancel=Param(_flag, False),
        token=_TOKEN,
    ),
    # Everything as it is, then what changes, for as long as the connection lasts: see `core.stream`. `since`: the number
    # of the last change that the client has, of the supervisor's life `life`. `usage`: memory and CPU, too.
    "watch": Method(VIEWER, idempotent=True, slow=True, life=Param(_text, ""), since=_SIZE, usage=Param(_flag, True)),
    "health": Method(VIEWER, idempotent=True, slow=False),
    "metrics": Method(VIEWER, idempotent=True, slow=False),
    "timers": Method(VIEWER, idempotent=True, slow=False),
    "trigger": Method(OPERATOR, idempotent=False, slow=True, name=Param(_name, required=True), wait=_WAIT),
    "reopen-logs": Method(OPERATOR, idempotent=True, slow=True),
    # The ledger: what is after number `after` and since Unix time `since`, or the `last` so many of it.
    "events": Method(
        VIEWER,
        idempotent=True,
        slow=True,
        names=_ANY_NAMES,
        after=_SIZE,
        since=_SIZE,
        last=_SIZE,
        wait=Param(_flag, False),
    ),
    # `problems`: those of the file are a part of the answer, not an error.
    "plan": Method(VIEWER, idempotent=True, slow=True, env=_ENV, problems=Param(_flag, False)),
    # Over it the supervisor is replaced by another, which is asked again: `token` identifies the same request.
    # `conf`: the file to use from now on, if the current one is gone.
    "apply": Method(ADMIN, idempotent=True, slow=True, token=_TOKEN, env=_ENV, conf=Param(_path, "")),
    "disable": Method(ADMIN, idempotent=True, slow=True, names=_NAMED, token=_TOKEN),
    "enable": Method(ADMIN, idempotent=True, slow=True, names=_NAMED, token=_TOKEN),
    # What looks secret is hidden, but that is a net with holes, so only those who may read the files anyway may call
    # it.
    "env": Method(ADMIN, idempotent=True, slow=True, name=Param(_name, required=True), diff=Param(_flag, False)),
    # What a process of the unit would be started with; the client starts it. `command`: for the record.
    "exec": Method(
        ADMIN,
        idempotent=True,
        slow=True,
        secrets=True,
        name=Param(_name, required=True),
        command=Param(_words, required=True),
    ),
    "upgrade": Method(ADMIN, idempotent=True, slow=True, token=_TOKEN),
    # A listening socket of the process that asks, its descriptor `fd`, for the next start of the unit `name`, which listens there.
    # Without `fd`, those that it was given are closed.
    "give-socket": Method(ADMIN, idempotent=False, slow=False, name=Param(_name, required=True), fd=Param(_offset)),
    "flush": Method(OPERATOR, idempotent=True, slow=True, names=_ANY_NAMES),
    # Without a name nothing is signalled: a forgotten argument must not hang up everything.
    "signal": Method(
        OPERATOR,
        idempotent=False,
        slow=False,
        names=Param(_some_names, required=True),
        signal=Param(_name, required=True),
    ),
    # No alerts about a unit, a timer, a group, or by an alert (`name`; "": none at all) for so many seconds.
    "silence": Method(
        OPERATOR,
        idempotent=False,
        slow=False,
        name=Param(_text, ""),
        seconds=Param(_silence, required=True),
        why=Param(_why, ""),
    ),
    "unsilence": Method(OPERATOR, idempotent=True, slow=False, id=Param(_name, required=True)),
    # Send an alert marked as a test. The answer comes when the observer knows the outcome.
    "alert-test": Method(ADMIN, idempotent=False, slow=True, name=Param(_name, required=True)),
    # The outcome of alerts; published unchanged to all watchers.
    "observer-report": Method(
        NOBODY, idempotent=True, slow=False, looks=True, unit=OBSERVER, report=Param(_report, required=True)
    ),
}


def may(role: str, method: str, unit: str = "") -> bool:
    """Whether a peer with `role` may ask for `method`, which exists; `unit`: the one of our own that it is, for itself."""
    known = METHODS[method]
    return (unit != "" and unit == known.unit) or (known.role in ROLES and ROLES.index(role) >= ROLES.index(known.role))


def check_params(method: str, params: Any) -> dict[str, Any]:
    """The parameters of `method`, checked and completed; ProtocolError with METHOD_NOT_FOUND or INVALID_PARAMS else."""
    known = METHODS.get(method)
    if known is None:
        raise ProtocolError(METHOD_NOT_FOUND, f"unknown method {method[:MAX_NAME]!r}; methods: {', '.join(METHODS)}")
    if not isinstance(params, dict):
        raise ProtocolError(INVALID_PARAMS, f"{method}: params must be an object")
    given: dict[str, Any] = {}
    for written, value in params.items():
        name = written.removesuffix(OPTIONAL)
        if name in given:
            raise ProtocolError(INVALID_PARAMS, f"{method}: {name} is given twice")
        if name in known.params:
            given[name] = value
        elif name == written:
            allowed = ", ".join(known.params) or "none"
            raise ProtocolError(INVALID_PARAMS, f"{method}: unknown parameter {name[:MAX_NAME]!r} (allowed: {allowed})")
    checked = {}
    for name, param in known.params.items():
        if name in given:
            try:
                checked[name] = param.check(given[name])
            except ValueError as error:
                raise ProtocolError(INVALID_PARAMS, f"{method}: {name} must be {error}") from None
        elif param.required:
            raise ProtocolError(INVALID_PARAMS, f"{method}: {name} is missing")
        else:
            checked[name] = list(param.default) if isinstance(param.default, tuple) else param.default
    return checked


# --- Lines ---


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def decode(line: bytes, most: int = MAX_LINE) -> dict[str, Any]:
    """The JSON object on one line (its newline may be there or not); ProtocolError with PARSE_ERROR or INVALID_REQUEST."""
    if len(line) > most:
        raise ProtocolError(PARSE_ERROR, f"a line must not exceed {most} bytes")
    try:
        message = bare.loads(line.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ProtocolError(PARSE_ERROR, f"the line is not JSON: {reason}") from None
    if not isinstance(message, dict):
        what = "batches are not supported" if isinstance(message, list) else "it must be an object"
        raise ProtocolError(INVALID_REQUEST, f"the line is not a JSON-RPC object: {what}")
    return message


def encode(message: Mapping[str, Any], most: int = MAX_LINE) -> bytes:
    """One object as one line. ASCII only, so that a lone surrogate from a file name passes. ValueError if over `most`."""
    return _line(bare.dumps(message, compact=True), most)


def _line(text: str, most: int) -> bytes:
    return _bounded(f"{text}\n".encode(), most)


def _bounded(line: bytes, most: int) -> bytes:
    if len(line) > most:
        raise ValueError(f"a control line of {len(line)} bytes is over the limit of {most}")
    return line


class LineBuffer:
    """Cuts a byte stream into lines and refuses one that outgrows `most` bytes before it has been kept in memory."""

    __slots__ = ("_most", "_pending")

    def __init__(self, most: int = MAX_LINE) -> None:
        self._most = most
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newlines. ProtocolError: the stream cannot be read on."""
        searched = len(self._pending)
        self._pending += data
        if self._pending.find(b"\n", searched) < 0:
            lines = []
        else:
            *lines, rest = bytes(self._pending).split(b"\n")
            self._pending = bytearray(rest)
        if len(self._pending) >= self._most or any(len(line) >= self._most for line in lines):
            raise ProtocolError(PARSE_ERROR, f"a line must not exceed {self._most} bytes")
        return lines


def _depth_within(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        if not inner:
            return True
        level = inner
    return False


# --- The supervisor's side ---


def parse_request(line: bytes) -> Request:
    """The request on one line; ProtocolError (with the request's id where it could be read) says what is wrong with it."""
    message = decode(line)
    id_ = message.get("id")
    if isinstance(id_, bool) or not isinstance(id_, (int, str)):
        raise ProtocolError(INVALID_REQUEST, "a request needs an id that is a number or a string")
    method = message.get("method")
    try:
        if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
            raise ProtocolError(INVALID_REQUEST, 'a request needs "jsonrpc": "2.0" and a method')
        if not _depth_within(message, MAX_DEPTH):
            raise ProtocolError(INVALID_REQUEST, f"a request must not be nested more than {MAX_DEPTH} levels deep")
        if refused := refusal(message.get("client")):
            raise ProtocolError(INVALID_REQUEST, refused, EXIT_FAILED)
        behalf = _behalf(message[BEHALF], message.get(ADDRESS, "")) if BEHALF in message else None
        params = check_params(method, message.get("params", {}))
    except ProtocolError as error:
        error.id = id_
        raise
    return Request(id_, method, params, stated="client" in message, behalf=behalf)


def _behalf(value: Any, address: Any) -> Behalf:
    form = f'{BEHALF} must be {{"user": a name of at most {MAX_NAME} characters, "role": one of {", ".join(ROLES)}}}'
    if not isinstance(value, dict) or value.keys() != {"user", "role"}:
        raise ProtocolError(INVALID_REQUEST, form)
    user, role = value["user"], value["role"]
    if not isinstance(user, str) or not user.isprintable() or not 0 < len(user) <= MAX_NAME or role not in ROLES:
        raise ProtocolError(INVALID_REQUEST, form)
    if not isinstance(address, str) or not address.isprintable() or len(address) > MAX_ADDRESS:
        raise ProtocolError(INVALID_REQUEST, f"{ADDRESS} must be a string of at most {MAX_ADDRESS} characters")
    return Behalf(user, role, address)


def refusal(client: Any) -> str:
    """Why a client with this statement about itself is rejected; "" if accepted. None: it made no statement."""
    if client is None:
        return ""
    spoken = client.get("protocol") if isinstance(client, dict) else None
    if isinstance(spoken, bool) or not isinstance(spoken, int):
        return 'must be {"protocol": a whole number, "version": the version of the client}'
    if spoken < OLDEST:
        return (
            f"impetusd {__version__} supports control protocol version {OLDEST} and later, but the client uses"
            f" version {spoken}"
        )
    return ""


def result_line(
    id: int | str,  # noqa: A002  # the protocol's own words
    result: Mapping[str, Any],
    *,
    stated: bool = False,
    shown: Callable[[Any], Any] = lambda value: value,
) -> bytes:
    """The answer to request `id`. Where it would outgrow a line, the tails of its rows are shortened, oldest lines first.

    500 failing programs with 40 long lines each are 4 MB; what each is and why still fits then. 4,000 slots do not fit
    without any: then the line is as long as it takes. `shown`: each value passes through it. One row after another does, and
    becomes text: copies and texts of the parts of 500 rows at once would be 3 MB. Rows may be an iterator that makes them.
    """
    units = result.get("units")
    rows = None if units is None or isinstance(units, dict) else units  # of `places` they are no rows
    rest = shown({name: value for name, value in result.items() if name != "units" or rows is None})
    head = bare.dumps(
        {"jsonrpc": "2.0", "id": id, **({"server": STATED} if stated else {}), "result": rest}, compact=True
    )
    if rows is None:
        return _line(head, MAX_ANSWER)
    head = f'{head[:-2]}{"," if rest else ""}"units":['
    line = _with_rows(head, map(shown, rows))
    for keep in (10, 3, 0):
        if len(line) <= MAX_LINE:
            break
        line = _with_rows(head, [_with_short_tail(row, keep) for row in bare.loads(line)["result"]["units"]])
    return _bounded(line, MAX_ANSWER)


def _with_rows(head: str, rows: Iterable[dict[str, Any]]) -> bytes:
    line = bytearray(head.encode())
    before = b""
    for row in rows:
        line += before + bare.dumps(row, compact=True).encode()
        before = b","
    return bytes(line + b"]}}\n")


def _with_short_tail(row: dict[str, Any], keep: int) -> dict[str, Any]:
    """A row with at most `keep` lines in its tail, each line cut at 200 characters."""
    if not row.get("tail"):
        return row
    return {**row, "tail": [text[:200] for text in row["tail"][-keep:]] if keep else []}


def error_line(error: ProtocolError) -> bytes:
    """The refusal of request `error.id` (null where the request's id could not be read)."""
    body = {"code": error.code, "message": error.message, "data": {"exit": error.exit}}
    return encode({"jsonrpc": "2.0", "id": error.id, "server": STATED, "error": body})


def progress_line(name: str, state: str, reason: str) -> bytes:
    """The notification that slot `name` is now in `state`; `reason` is a sentence or ""."""
    params = {"name": name, "state": state, "reason": reason}
    return encode({"jsonrpc": "2.0", "method": "progress", "params": params})


# --- The client's side ---


def request_line(
    id: int | str,  # noqa: A002  # the protocol's own words
    method: str,
    params: Mapping[str, Any],
    behalf: Behalf | None = None,
) -> bytes:
    """A request. ProtocolError if the method or a parameter is wrong, so a mistake is reported without a round trip."""
    check_params(method, params)
    more: dict[str, Any] = {} if behalf is None else {BEHALF: {"user": behalf.user, "role": behalf.role}}
    if behalf is not None and behalf.address:
        more[ADDRESS] = behalf.address
    try:
        return encode({"jsonrpc": "2.0", "id": id, "client": STATED, **more, "method": method, "params": params})
    except ValueError as error:
        raise ProtocolError(INVALID_PARAMS, f"{method}: too many names: {error}") from None


def parse_answer(line: bytes) -> Answer:
    """Parse one line from the supervisor; ProtocolError if it is not one of the three allowed kinds."""
    message = decode(line, MAX_ANSWER)
    id_ = message.get("id")
    method, params = message.get("method"), message.get("params")
    if isinstance(method, str) and isinstance(params, dict):
        return Answer(progress=params) if method == "progress" else Answer(notice=(method, params))
    server = message["server"] if isinstance(message.get("server"), dict) else None
    if isinstance(message.get("result"), dict):
        return Answer(id_, result=message["result"], server=server)
    error = message.get("error")
    if isinstance(error, dict) and isinstance(error.get("code"), int):
        data = error.get("data")
        exit_ = data.get("exit") if isinstance(data, dict) else None
        text = str(error.get("message") or "refused without a reason")
        refused = ProtocolError(error["code"], text, exit_ if isinstance(exit_, int) else EXIT_FAILED, id_)
        return Answer(id_, error=refused, server=server)
    raise ProtocolError(INVALID_REQUEST, "the response is not a result, an error or progress", EXIT_FAILED)


# --- What a row means ---

IDLE = frozenset({"STOPPED", "EXITED", "FATAL"})  # `lifecycle.IDLE` by name: nothing runs, or is about to


def as_wanted(row: Mapping[str, Any]) -> bool:
    """True if a status row is in the desired state: wanted up and serving, or wanted down.

    An EXITED program has ended as it should (otherwise it would be FATAL), which is as wanted, too. A held one (`held`)
    is not, although it runs.
    """
    return row["want"] != "up" or (row["state"] in {"RUNNING", "EXITED"} and not row.get("held"))


def reason_of(row: dict[str, Any]) -> dict[str, Any]:
    """The reason of a row, for `--json`: {"key", "facts", "text"}. Of a daemon that says the sentence alone, key `text`."""
    text = row.get("reason") or ""
    cause = row.pop("cause", None) or ({"key": "text", "facts": {"text": text}} if text else {"key": "", "facts": {}})
    return {**cause, "text": text}


def all_as_wanted(rows: Iterable[Mapping[str, Any]]) -> bool:
    """True if `status` exits with 0 for these rows."""
    return all(map(as_wanted, rows))
