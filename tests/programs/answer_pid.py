"""Answers each connection on the listening sockets that it was handed (LISTEN_FDS) with its pid, one by one.

With a file as its argument it accepts nothing while that file exists.
"""

from __future__ import annotations

import os
import select
import socket
import sys

import behave

assert os.environ["LISTEN_PID"] == str(os.getpid())
listeners = [socket.socket(fileno=3 + number) for number in range(int(os.environ["LISTEN_FDS"]))]
behave.notify("READY=1")
while True:
    behave.until(lambda: len(sys.argv) == 1 or not os.path.exists(sys.argv[1]))
    for listener in select.select(listeners, [], [], 0.05)[0]:
        connection, _ = listener.accept()
        connection.sendall(f"{os.getpid()} {os.environ['LISTEN_FDNAMES']}".encode())
        connection.close()
