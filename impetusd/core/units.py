"""Format durations: exactly, as in the INI file, or rounded for readers; and counts of things."""

from __future__ import annotations

MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def show_duration(seconds: float) -> str:
    """In the largest unit of which it is a whole number: 10.0 is 10s, 0.1 is 100ms."""
    milliseconds = round(seconds * 1000)
    if not milliseconds:
        return "0"
    unit = max(
        (unit for unit, worth in MILLISECONDS.items() if milliseconds % worth == 0), key=MILLISECONDS.__getitem__
    )
    return f"{milliseconds // MILLISECONDS[unit]}{unit}"


def span(seconds: float) -> str:
    """`250 ms`, `45 s`, `12 min`, `3 h 12 min`, `2 d 4 h`; in its two greatest units, the rest cut off."""
    if 0 < seconds < 1:
        return f"{max(1, int(seconds * 1000))} ms"
    if seconds < 10 and seconds != int(seconds):
        return f"{int(seconds * 10) / 10:g} s"
    whole = int(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for place, (size, unit) in enumerate(units):
        if whole >= size:
            more = whole % size // units[place + 1][0] if size > 1 else 0
            return f"{whole // size} {unit}" + (f" {more} {units[place + 1][1]}" if more else "")
    return "0 s"


def ahead(seconds: float) -> str:
    """`in 3 h 12 min`; `now` for less than a second."""
    return f"in {span(float(int(seconds)))}" if seconds >= 1 else "now"


def ago(seconds: float) -> str:
    """`2 h ago`, in its greatest unit; `just now` for less than a second."""
    return f"{' '.join(span(float(int(seconds))).split()[:2])} ago" if seconds >= 1 else "just now"


def counted(number: int, one: str, more: str = "") -> str:
    """`1 line`, `3 lines`. `more`: the plural, if it is not `one` with an s."""
    return f"{number} {one if number == 1 else more or f'{one}s'}"
