"""An application whose own import is missing."""

from __future__ import annotations

import no_such_package  # noqa: F401
