"""Program output as text that a terminal or mail program displays without interpreting it."""

from __future__ import annotations

import re

# Escape sequences (CSI, OSC and the other strings, two-byte ones), then every control character but the tab.
ESCAPE = (
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]"
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)


def plain(text: str) -> str:
    """`text` as one line that cannot move the cursor, ring, retitle or colour."""
    return text if text.isprintable() else re.sub(ESCAPE, "", text)  # hardly ever: to compile it takes 1 ms
