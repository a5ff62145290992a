"""An application whose import never ends."""

from __future__ import annotations

import time

print("importing", flush=True)
while True:
    time.sleep(1000)
