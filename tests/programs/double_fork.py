"""Leaves a grandchild in a session of its own (a double fork) that ignores SIGTERM, and writes its pid.

Arguments: FILE for the grandchild's pid; then any of
    leave   the main process ends with 0 once the grandchild is there
    meek    the grandchild ends on SIGTERM
"""

from __future__ import annotations

import os
import signal
import sys

import behave

reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        signal.alarm(behave.LIFETIME)
        if "meek" not in sys.argv:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writer, str(os.getpid()).encode())
        os.close(writer)
        behave.hold()
    os._exit(0)
os.wait()
os.close(writer)
pid = os.read(reader, 20)
with open(f"{sys.argv[1]}.new", "wb") as file:
    file.write(pid)
os.replace(f"{sys.argv[1]}.new", sys.argv[1])
behave.notify("READY=1")
if "leave" not in sys.argv:
    behave.hold()
