"""A gateway in this process, on a whole supervisor in this process; asked over TCP, as a browser would."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "io"))
