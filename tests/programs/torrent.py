"""Prints numbered lines at a pace: "PREFIX 0", "PREFIX 1", … until SIGTERM, on which it prints "PREFIX end N".

Arguments: PREFIX, lines a second (a multiple of 100). They are printed in bursts, 100 a second; a late one is made up for.
"""

from __future__ import annotations

import signal
import sys
import time

import behave

prefix, pace = sys.argv[1], int(sys.argv[2]) // 100
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
behave.notify("READY=1")
number, begun, bursts = 0, time.monotonic(), 0
while signal.SIGTERM not in signal.sigpending():  # sigtimedwait() of Python 3.11 returns a signal after a SIGSTOP, too
    sys.stdout.write("".join(f"{prefix} {n}\n" for n in range(number, number + pace)))
    sys.stdout.flush()
    number += pace
    bursts += 1
    time.sleep(max(0.0, begun + bursts / 100 - time.monotonic()))
print(prefix, "end", number, flush=True)
