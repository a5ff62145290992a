"""Needs a while to stop, and makes a file when it has done so.

Arguments: how many seconds, or the path of a file that is waited for; then the file to make.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import behave

until, done = sys.argv[1:3]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
behave.notify("READY=1")
signal.sigwait({signal.SIGTERM})
if until.startswith("/"):
    behave.until(lambda: os.path.exists(until))
else:
    time.sleep(float(until))
with open(done, "w", encoding="ascii") as file:
    file.write("done\n")
