"""Answers GET on 127.0.0.1:PORT with 200, or with 503 and the text of the file ILL while there is one.

PORT ILL         as above; it says that it accepts connections
PORT ILL GATE    listens only once the file GATE exists
"""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import behave

port, ill, *gate = sys.argv[1:]


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        try:
            with open(ill, "rb") as file:
                status, body = 503, file.read()
        except FileNotFoundError:
            status, body = 200, b"well"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


behave.until(lambda: not gate or os.path.exists(gate[0]))
server = ThreadingHTTPServer(("127.0.0.1", int(port)), Answer)
print("accepting connections on", port, flush=True)
server.serve_forever()
