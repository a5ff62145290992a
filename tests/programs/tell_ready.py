"""Says READY=1 in the way that its first argument names.

self         by itself
child        a child says it, as a helper of a shell script does
never        nobody does
when FILE    by itself, once FILE exists
other NAME   by itself, but with another program's name in the message
"""

from __future__ import annotations

import os
import sys

import behave

match sys.argv[1]:
    case "self":
        behave.notify("READY=1")
    case "child":
        if os.fork() == 0:
            behave.notify("READY=1")
            behave.hold()
    case "when":
        behave.until(lambda: os.path.exists(sys.argv[2]))
        behave.notify("READY=1")
behave.hold()
