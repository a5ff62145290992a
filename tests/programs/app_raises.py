"""An application that fails while it is imported."""

from __future__ import annotations


def read_settings() -> None:
    raise KeyError("SECRET_KEY")


read_settings()
