"""A bounded in-memory cache: when it is full, the entry that was used longest ago makes room."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class Cache:
    """At most `max_entries` values by name, for one worker."""

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self._values: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str) -> Any:
        """The value of `name`, now the one used last; None when it is not there."""
        if name not in self._values:
            return None
        self._values.move_to_end(name)
        return self._values[name]

    def set(self, name: str, value: Any) -> None:
        """Keep `value` under `name`."""
        self._values[name] = value
        self._values.move_to_end(name)
        if len(self._values) > self.max_entries:
            self._values.popitem(last=False)
