"""What a client sends, checked against the struct that a route declares: every mistake is found, each with a code and its place.

msgspec converts, and stops at the first mistake. Only then, or where U+0000 may be in it, the value is walked through beside
the type, and each field is looked at by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, Self, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import inspect

from impetus_service.kit.problems import Fault, Problem

FAULTS_MAX = 50  # that an answer names
NAMED = 100  # characters of an unknown field's name that an answer repeats

T = TypeVar("T")


class Input(msgspec.Struct, forbid_unknown_fields=True):
    """What a client sends. A field that is not declared is a mistake, as it would be without effect."""


class TimeText(str):
    """A date, or a time of ISO 8601, as it was sent. ValueError for anything else."""

    __slots__ = ("_said",)

    def __new__(cls, text: str) -> Self:
        self = super().__new__(cls, text)
        if len(text) == len("2026-01-31"):
            self._said = date.fromisoformat(text)
        else:
            # A plus sign that was not escaped in the URL has become a space.
            plus = text.replace(" ", "+") if text.count(" ") == 1 and "T" in text else text
            self._said = datetime.fromisoformat(plus)
        if not 1 < self._said.year < 9999:  # what can be moved to any time zone
            raise ValueError("the year is out of range")
        return self

    _said: date | datetime

    def within(self, zone: tzinfo) -> tuple[datetime, datetime]:
        """The instant, twice; of a date its first one, and the first of the next day, as days begin in `zone`."""
        if not isinstance(self._said, datetime):
            days = self._said, self._said + timedelta(days=1)
            # Where a day begins with a change of the clocks, and has no midnight: at what would have been it.
            begin, end = (datetime.combine(day, time(tzinfo=zone)).astimezone(UTC) for day in days)
            return begin, end
        instant = (self._said if self._said.tzinfo else self._said.replace(tzinfo=zone)).astimezone(UTC)
        return instant, instant


class ZoneText(str):
    """The name of a time zone. ValueError for what is none."""

    __slots__ = ("zone",)

    def __new__(cls, text: str) -> Self:
        self = super().__new__(cls, text)
        self.zone = _zone(text)
        return self

    zone: tzinfo


@lru_cache(maxsize=1000)
def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # also on a host without the data of time zones
    # Not localtime, posixrules and right/…: which the database does not know, or takes for something else.
    if re.fullmatch(r"(?!localtime|posix|right)[A-Za-z][A-Za-z0-9_+/-]{0,63}", name) is None:
        raise ValueError("no such time zone")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError):  # OSError for a folder of zones
        raise ValueError("no such time zone") from None


Instant = Annotated[
    TimeText,
    msgspec.Meta(
        description="a date like 2026-01-31, or a time like 2026-01-31T12:00:00Z; in time_zone if it has no zone of its own",
        examples=["2026-01-31"],
    ),
]
Zone = Annotated[
    ZoneText,
    msgspec.Meta(
        description="the name of a time zone, like America/Sao_Paulo",
        examples=["America/Sao_Paulo"],
    ),
]


# A time that we give, in UTC: JSON Schema calls it a date-time.
Moment = Annotated[datetime, msgspec.Meta(tz=True, examples=["2026-01-31T12:00:00Z"])]


def from_builtins(kind: Any, value: Any) -> Any:
    """msgspec's dec_hook for the types of this module."""
    if kind in {TimeText, ZoneText} and isinstance(value, str):
        return kind(value)
    raise ValueError(f"not a {kind.__name__}")


def to_builtins(value: Any) -> Any:
    """msgspec's enc_hook."""
    if isinstance(value, TimeText | ZoneText):
        return str(value)
    raise NotImplementedError


def schema(kind: type) -> dict[str, Any]:
    """msgspec's schema_hook."""
    if kind is ZoneText:
        return {"type": "string"}
    if kind is TimeText:
        return {"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}]}
    raise NotImplementedError


def read_json(text: bytes, kind: type[T]) -> tuple[T | None, list[Fault]]:
    """A body, or its faults. Raises msgspec.DecodeError, RecursionError and UnicodeDecodeError for what is not JSON."""
    faults = []
    converted = error = None
    try:
        converted = msgspec.json.decode(text, type=kind, dec_hook=from_builtins)
    except msgspec.ValidationError as raised:
        error = str(raised)
    if error is not None or b"\\u0000" in text:
        faults = _first(_walk(msgspec.json.decode(text), inspect.type_info(kind), "body", strict=True))
    return converted, faults or _unexplained(error, "body")


def read_texts(values: Mapping[str, str], kind: type[T], where: str) -> tuple[T | None, list[Fault]]:
    """The fields of a query, a path or headers, where all are texts, or their faults."""
    faults = []
    converted = error = None
    try:
        converted = msgspec.convert(dict(values), kind, strict=False, dec_hook=from_builtins)
    except msgspec.ValidationError as raised:
        error = str(raised)
    if error is not None or any("\0" in text for text in values.values()):
        faults = _first(_walk(dict(values), inspect.type_info(kind), where, strict=False))
    return converted, faults or _unexplained(error, where)


def unknown_names(names: Sequence[str], where: str, known: Sequence[str] = ()) -> list[Fault]:
    """A fault for each of `names`, none of which is known."""
    allowed = f"allowed: {', '.join(known)}" if known else "no parameters are allowed"
    return [Fault(f"{where}.{name[:NAMED]}", "unknown", f"is unknown; {allowed}") for name in names[:FAULTS_MAX]]


def refusal(faults: Sequence[Fault]) -> Problem:
    """The 422 that names every fault."""
    first = f"{faults[0].at}: {faults[0].message}"
    if len(faults) == 1:
        return Problem(422, f"the request has a mistake: {first}", errors=faults)
    count = f"{len(faults)}" if len(faults) < FAULTS_MAX else f"{FAULTS_MAX} or more"
    return Problem(422, f"the request has {count} mistakes, the first: {first}", errors=faults[:FAULTS_MAX])


def _first(faults: Iterator[Fault]) -> list[Fault]:
    return list(islice(faults, FAULTS_MAX))


def _unexplained(error: str | None, where: str) -> list[Fault]:
    return [Fault(where, "invalid", error)] if error is not None else []


def _walk(value: Any, kind: inspect.Type, at: str, *, strict: bool, meaning: str = "") -> Iterator[Fault]:
    """The faults of `value`, which is at `at`. `strict`: it is of JSON, and no text stands for a number."""
    match kind:
        case inspect.Metadata():
            described = (kind.extra_json_schema or {}).get("description", meaning)
            yield from _walk(value, kind.type, at, strict=strict, meaning=described)
        case inspect.UnionType():
            # A parameter that is there is not null, which no text can say.
            kinds = [each for each in kind.types if strict or not isinstance(each, inspect.NoneType)]
            fitting = [each for each in kinds if not _misfits(value, each, strict=strict)]
            if fitting:
                yield from _walk(value, fitting[0], at, strict=strict, meaning=meaning)
            else:
                names = [_name(each) for each in kinds]
                yield _wrong_type(at, " or ".join(names), value, strict=strict)
        case _ if _misfits(value, kind, strict=strict):
            yield _wrong_type(at, meaning or _name(kind), value, strict=strict)
        case inspect.StructType():
            yield from _walk_fields(value, kind, at, strict=strict)
        case inspect.ListType():
            wrong = list(_length(len(value), kind, at, "items"))
            yield from wrong
            for index, each in enumerate([] if wrong else value):
                yield from _walk(each, kind.item_type, f"{at}[{index}]", strict=strict)
        case inspect.StrType():
            yield from _walk_text(value, kind, at, meaning)
        case inspect.IntType() | inspect.FloatType():
            number = msgspec.convert(value, int if isinstance(kind, inspect.IntType) else float, strict=strict)
            if kind.ge is not None and number < kind.ge:
                yield Fault(at, "too_small", f"must be at least {kind.ge}")
            if kind.le is not None and number > kind.le:
                yield Fault(at, "too_large", f"must be at most {kind.le}")
        case inspect.LiteralType() if value not in kind.values:
            yield Fault(at, "not_allowed", f"must be one of {', '.join(map(str, kind.values))}")
        case inspect.CustomType():
            try:
                from_builtins(kind.cls, value)
            except ValueError as error:
                yield Fault(at, "bad_format", f"must be {meaning or error}")


def _wrong_type(at: str, wanted: str, value: Any, *, strict: bool) -> Fault:
    # In a URL everything is a text, so that is not what is wrong.
    return Fault(at, "wrong_type", f"must be {wanted}, not {_name_of(value)}" if strict else f"must be {wanted}")


def _walk_fields(value: dict[str, Any], kind: inspect.StructType, at: str, *, strict: bool) -> Iterator[Fault]:
    known = {each.encode_name: each for each in kind.fields}
    if kind.forbid_unknown_fields:
        yield from unknown_names([name for name in value if name not in known], at, list(known))
    for name, each in known.items():
        if name in value:
            yield from _walk(value[name], each.type, f"{at}.{name}", strict=strict)
        elif each.required:
            yield Fault(f"{at}.{name}", "missing", "is required")


def _walk_text(value: str, kind: inspect.StrType, at: str, meaning: str) -> Iterator[Fault]:
    wrong = list(_length(len(value), kind, at, "characters"))
    yield from wrong
    if "\0" in value:
        yield Fault(at, "bad_character", "must not contain the character U+0000, which cannot be stored")
    elif not wrong and kind.pattern is not None:
        try:
            msgspec.convert(value, Annotated[str, msgspec.Meta(pattern=kind.pattern)])
        except msgspec.ValidationError:
            yield Fault(at, "bad_format", f"must be {meaning or f'a text like {kind.pattern}'}")


def _length(length: int, kind: inspect.StrType | inspect.ListType, at: str, of: str) -> Iterator[Fault]:
    if length == 0 and kind.min_length == 1:
        yield Fault(at, "too_short", "must not be empty")
    elif length < (kind.min_length or 0):
        yield Fault(at, "too_short", f"must have at least {kind.min_length} {of}; it has {length}")
    if kind.max_length is not None and length > kind.max_length:
        yield Fault(at, "too_long", f"must have at most {kind.max_length} {of}; it has {length}")


_PLAIN: dict[type[inspect.Type], tuple[Any, str]] = {
    inspect.StructType: (dict, "an object"),
    inspect.DictType: (dict, "an object"),
    inspect.ListType: (list, "a list"),
    inspect.StrType: (str, "a text"),
    inspect.CustomType: (str, "a text"),
    inspect.BoolType: (bool, "true or false"),
    inspect.IntType: (int, "a whole number"),
    inspect.FloatType: (float, "a number"),
    inspect.NoneType: (None, "null"),
}


def _misfits(value: Any, kind: inspect.Type, *, strict: bool) -> bool:
    """Whether it is of another JSON type altogether."""
    if isinstance(kind, inspect.Metadata):
        return _misfits(value, kind.type, strict=strict)
    if type(kind) not in _PLAIN:
        return False
    try:
        msgspec.convert(value, _PLAIN[type(kind)][0], strict=strict)
    except msgspec.ValidationError:
        return True
    return False


def _name(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata):
        return _name(kind.type)
    if isinstance(kind, inspect.LiteralType):
        return f"one of {', '.join(map(str, kind.values))}"
    return _PLAIN[type(kind)][1] if type(kind) in _PLAIN else "something else"


def _name_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
