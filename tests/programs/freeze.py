"""Says READY=1, then stops itself with SIGSTOP; a SIGTERM that reaches it is fatal as usual."""

from __future__ import annotations

import os
import signal
import sys

import behave

if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
behave.notify("READY=1")
while True:
    os.kill(os.getpid(), signal.SIGSTOP)
