"""Needs some seconds to stop, and writes down when it began and when it had finished.

Arguments: SECONDS, FILE. FILE gets one line: both instants on the monotonic clock.
"""

from __future__ import annotations

import signal
import sys
import time

import behave

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
behave.notify("READY=1")
signal.sigwait({signal.SIGTERM})
began = time.monotonic()
time.sleep(float(sys.argv[1]))
with open(sys.argv[2], "w", encoding="ascii") as file:
    file.write(f"{began} {time.monotonic()}\n")
