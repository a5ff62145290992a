"""Listens at the port (first argument), unless the file (second argument) is there: then it says so, and ends with 1."""

from __future__ import annotations

import os
import socket
import sys

import behave

if os.path.exists(sys.argv[2]):
    print("FATAL: data directory is damaged", file=sys.stderr)
    sys.exit(1)
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1000)
behave.notify("READY=1")
behave.hold()
