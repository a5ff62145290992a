"""Random numbers, to spread delays."""

from __future__ import annotations

import _random

# Somewhere in [0, 1). The module `random` would be 0.1 MB for this alone, for as long as the supervisor lives.
fraction = _random.Random().random
