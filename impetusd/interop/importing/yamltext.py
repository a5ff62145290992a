"""YAML 1.2's core schema (on, yes and 12:30 are text), with the line of each key. PyYAML reads the form: impetusd[import]."""

from __future__ import annotations

import re
from typing import Any

from impetusd.interop.importing.literal import DEEPEST
from impetusd.interop.importing.model import ImportFault
from impetusd.interop.importing.scanner import Object

MOST_NODES = 20_000  # aliases counted each time
_INTEGER = re.compile(r"[-+]?[0-9]{1,15}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")


def parse(text: str, file: str) -> Any:
    """Raises ImportFault."""
    try:
        import yaml
    except ImportError:
        raise ImportFault(file, 1, "YAML needs the package PyYAML; run: pip install 'impetusd[import]'") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, IndexError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        raise ImportFault(
            file, line, f"this is not YAML: {getattr(error, 'problem', None) or 'it cannot be parsed'}"
        ) from None
    return _Reader(file).value(root, 0) if root is not None else None


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.count = 0

    def value(self, node: Any, depth: int) -> Any:
        self.count += 1
        if depth > DEEPEST or self.count > MOST_NODES:
            raise ImportFault(self.file, node.start_mark.line + 1, "it is nested too deeply, or too large")
        if node.id == "sequence":
            return [self.value(each, depth + 1) for each in node.value]
        if node.id == "scalar":
            return scalar(node.value) if node.style is None else node.value
        found = Object()
        merged: list[Any] = []
        for key, value in node.value:
            if key.id != "scalar":
                raise ImportFault(self.file, key.start_mark.line + 1, "a key that is not a plain string")
            if key.value == "<<" and key.style is None:
                merged.append(self.value(value, depth + 1))
            else:
                found.put(key.value, self.value(value, depth + 1), key.start_mark.line + 1)
        for each in merged:
            for one in each if isinstance(each, list) else [each]:
                for name in one if isinstance(one, Object) else ():
                    if name not in found:
                        found.put(name, one[name], one.lines[name])
        return found


def scalar(text: str) -> Any:
    """What a scalar without quotes is, by YAML 1.2."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text.lower() in {"true", "false"} and text in {text.lower(), text.title(), text.upper()}:
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
