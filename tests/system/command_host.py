"""Runs commands of impetusd for tests/system/commanding.py.

Each is a fork of this process, which has imported what they need: 5 to 12 ms of CPU instead of 40 to 170. All else is as if it had
been executed by whoever asks: that process is its parent, and its environment, folder, arguments and streams are as asked.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys

import fork_host

import impetusd.cli
from impetusd.cli.main import command
from impetusd.client import control

MORE = ("click", "impetusd.core.config.parser")
# Seconds. On a loaded host a supervisor may answer later than an operator would wait, or be told why he waits; the harness
# itself waits for a minute.
control.FIRST_BYTE = control.SOCKET_BACK = control.QUIET = 50.0

if __name__ == "__main__":
    for each in pkgutil.iter_modules(impetusd.cli.__path__, "impetusd.cli."):
        importlib.import_module(each.name)
    for name in MORE:
        importlib.import_module(name)
    sys.path[0] = os.path.dirname(sys.executable)
    fork_host.serve()
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write("impetusd")
    command()
