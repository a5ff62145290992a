"""Adds "NAME started" to a file when it starts and "NAME stopped" when SIGTERM ends it; ready in between.

Arguments: FILE, NAME. Each line is one write, so that several programs may share the file.
"""

from __future__ import annotations

import os
import signal
import sys

import behave

path, name = sys.argv[1:3]
fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
os.write(fd, f"{name} started\n".encode())
behave.notify("READY=1")
signal.sigwait({signal.SIGTERM, signal.SIGINT})
os.write(fd, f"{name} stopped\n".encode())
