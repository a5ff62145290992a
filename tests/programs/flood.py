"""Floods the socket that its first argument names ("-": its own notify socket) with messages of as many bytes as the second says.

`orphan` as the third has that done by a process that is nobody's child, while this one says READY=1 and holds on.
"""

from __future__ import annotations

import os
import socket
import sys

import behave

address = os.environ["NOTIFY_SOCKET"] if sys.argv[1] == "-" else sys.argv[1]
address = "\0" + address[1:] if address.startswith("@") else address
if "orphan" in sys.argv:
    if os.fork():
        behave.notify("READY=1")
        behave.hold()
    os.setsid()
    if os.fork():
        os._exit(0)
message = b"STATUS=" + b"x" * int(sys.argv[2])
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
    while True:
        try:
            sock.sendto(message, address)
        except BlockingIOError:
            os.sched_yield()
