"""Rows as a file: CSV, or a JSON object a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec

CONTENT_TYPES = {"jsonl": "application/x-ndjson", "csv": "text/csv"}  # text/csv is UTF-8 (RFC 7111)


def as_jsonl(rows: Iterable[Any]) -> bytes:
    """Each row, a mapping, as an object on a line of its own."""
    return msgspec.json.Encoder().encode_lines([dict(row) for row in rows])


def as_csv(rows: Iterable[tuple[Any, ...]]) -> bytes:
    """RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe in front, and is shown as it is."""
    file = io.StringIO()
    csv.writer(file).writerows([_cell(value) for value in row] for row in rows)
    return file.getvalue().encode()


FORMATS: dict[str, Callable[[Iterable[Any]], bytes]] = {"csv": as_csv, "jsonl": as_jsonl}


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and value.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")):
        return f"'{value}"
    return value
