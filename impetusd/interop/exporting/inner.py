"""The text of a container's INI: sections whose values are as another INI file writes them."""

from __future__ import annotations

from impetusd.core.config import edit
from impetusd.interop.exporting.model import APP, HOME


class Inner:
    """One unit's, with its checks and variables. `own` is its section's header."""

    def __init__(self, own: str) -> None:
        self.own = own
        self._sections: dict[str, dict[str, str]] = {}
        self.begin("impetusd")
        for key, value in (
            ("base_dir", APP),
            ("run_dir", f"{HOME}/run"),
            ("state_dir", f"{HOME}/lib"),
            ("log_dir", f"{HOME}/log"),
        ):
            self.put(key, value)
        self.begin(own)

    def begin(self, header: str) -> None:
        """Another section; what is put from here on is in it."""
        self._at = header
        self._sections.setdefault(header, {})

    def put(self, key: str, raw: str, header: str = "") -> None:
        """A value as it is to stand there, but for the indentation of its further lines."""
        self._sections[header or self._at][key] = raw

    def get(self, header: str, key: str) -> str:
        """What was put; "" for nothing."""
        return self._sections[header].get(key, "")

    def has(self, header: str) -> bool:
        """Whether there is such a section."""
        return header in self._sections

    def text(self) -> str:
        """The whole of it."""
        blocks = [
            edit.block(header, {key: raw.replace("\n", "\n    ") for key, raw in keys.items()})
            for header, keys in self._sections.items()
        ]
        return "\n".join(blocks)
