"""Prints the name of each signal that reaches it; SIGTERM ends it."""

from __future__ import annotations

import signal

import behave

watched = {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, watched)
behave.notify("READY=1")
number = None
while number != signal.SIGTERM:
    number = signal.sigwait(watched)
    print(signal.Signals(number).name, flush=True)
