"""Prints numbered lines: "PREFIX 0", "PREFIX 1", …

Arguments: PREFIX, then either a count (that many at once, then it ends) or a pace in lines a second (`200/s`): then
until SIGTERM, on which it prints `PREFIX end N` and ends with 0.
"""

from __future__ import annotations

import signal
import sys
import time

import behave

prefix, how = sys.argv[1:3]
if how.endswith("/s"):
    number = 0
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    behave.notify("READY=1")
    while (
        signal.SIGTERM not in signal.sigpending()
    ):  # sigtimedwait() of Python 3.11 returns a signal after a SIGSTOP, too
        print(prefix, number, flush=True)
        number += 1
        time.sleep(1 / int(how[:-2]))
    print(prefix, "end", number, flush=True)
else:
    sys.stdout.writelines(f"{prefix} {number}\n" for number in range(int(how)))
