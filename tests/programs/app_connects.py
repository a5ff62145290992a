"""Has an event loop at import and, if DATABASE_PORT says where to, a connection that is kept."""

import asyncio
import os
import socket

from app_hello import make

__all__ = ["make"]

loop = asyncio.new_event_loop()
if "DATABASE_PORT" in os.environ:
    database = socket.create_connection(("127.0.0.1", int(os.environ["DATABASE_PORT"])))
