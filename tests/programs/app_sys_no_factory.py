"""An application module in which the factory that the INI names is missing."""

from __future__ import annotations

from app_hello import make as make_another

__all__ = ["make_another"]
