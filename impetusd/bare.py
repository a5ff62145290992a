"""Sockets, signals, JSON, `deque` and `partial` as C has them, without their Python halves, which import `enum` and `re`.

For the shim those are 1.4 MB for as long as it lives, 0.5 of it for `collections` and `functools`; for `impetusd status` 4.5 ms of 27; and `signal` makes an enum of each
signal that it returns, 0.4 of the 2 ms of a start. The public modules import the C halves by these names. Only how `json`
calls its own is not documented: where that is not as it is known here, `json` takes its place.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
    from collections import deque
    from collections.abc import Callable
    from functools import partial
    from typing import Any, TypeVar

    T = TypeVar("T")
else:
    import _signal as signal
    import _socket as socket
    from _collections import deque
    from _functools import partial

__all__ = ["deque", "dumps", "dumps_by_entry", "loads", "once", "partial", "pieces", "signal", "socket"]


def once(function: Callable[[], T]) -> Callable[[], T]:
    """As functools.cache, for a function without parameters."""
    results: list[T] = []

    def call() -> T:
        if not results:
            results.append(function())
        return results[0]

    return call


FEW = 10
_BLANKS = " \t\n\r"


class _Rules:
    """What the scanner asks for: as `json.JSONDecoder` has it."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int

    def __init__(self, parse_constant: Callable[[str], Any] = float) -> None:
        self.parse_constant = parse_constant


def _unknown(value: object) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _encoder(colon: str, comma: str) -> Callable[[Any, int], tuple[str, ...]]:
    made: Callable[[Any, int], tuple[str, ...]] = _json.make_encoder(
        None, _unknown, _json.encode_basestring_ascii, None, colon, comma, False, False, True
    )
    return made


try:
    import _json

    _scanner: Callable[[Any], Callable[[str, int], tuple[Any, int]]] = _json.make_scanner

    _compact, _spaced = _encoder(":", ","), _encoder(": ", ", ")
    _scan = _scanner(_Rules())
    if "".join(_compact({"a": [None, 1.5, "é"]}, 0)) != '{"a":[null,1.5,"\\u00e9"]}' or _scan("[1]", 0) != ([1], 3):
        raise ImportError("_json is not as it is known here")
except (ImportError, AttributeError, TypeError):
    import json

    def _pieces(value: Any, _: int) -> tuple[str, ...]:
        return (dumps(value, compact=True),)

    pieces: Callable[[Any, int], tuple[str, ...]] = _pieces

    def dumps(value: Any, *, compact: bool = False) -> str:
        """As below."""
        return json.dumps(value, separators=(",", ":") if compact else None)

    def loads(text: str | bytes, parse_constant: Callable[[str], Any] = float) -> Any:
        """As below."""
        return json.loads(text, parse_constant=parse_constant)

else:
    pieces = _compact  # of `dumps`, compact, with 0 as second argument: by C alone

    def dumps(value: Any, *, compact: bool = False) -> str:
        """As `json.dumps`, in ASCII; `compact`: without blanks. Raises TypeError; RecursionError for what contains itself."""
        return "".join((_compact if compact else _spaced)(value, 0))

    def loads(text: str | bytes, parse_constant: Callable[[str], Any] = float) -> Any:
        """As `json.loads`, of a text in UTF-8. `parse_constant` is called for NaN, Infinity and -Infinity. Raises ValueError."""
        text = (text if isinstance(text, str) else bytes(text).decode("utf-8", "surrogatepass")).strip(_BLANKS)
        try:
            value, end = (_scan if parse_constant is float else _scanner(_Rules(parse_constant)))(text, 0)
        except StopIteration as stopped:
            raise ValueError(f"no JSON value at character {stopped.value}") from None
        except SystemError:  # 3.11 raises its error only if `json.decoder` is imported, and else none at all
            raise ValueError("it is not JSON, or was cut off") from None
        if end != len(text):
            raise ValueError(f"more than one JSON value: another begins at character {end}")
        return value


def dumps_by_entry(value: dict[str, Any]) -> str:
    """As `dumps`, compact, of an object whose lists and dicts are encoded entry by entry; keys are strings or int.

    The encoder makes a string of each token before it joins them: of 500 slots 1 MB at once, which a process keeps for good.
    With FEW entries it is `dumps`, in half the time: what is on the way from an exit to a start has no more.
    """
    if all(len(each) <= FEW for each in value.values() if type(each) in {dict, list}):
        return _text(value)
    return f"{{{','.join(f'{_text(key)}:{_by_entry(each)}' for key, each in value.items())}}}"


def _by_entry(value: Any) -> str:
    if type(value) is dict:
        return f"{{{','.join(f'{_text(str(key))}:{_text(each)}' for key, each in value.items())}}}"
    return f"[{','.join(map(_text, value))}]" if type(value) is list else _text(value)


def _text(value: Any) -> str:
    return dumps(value, compact=True)
