"""Answers each HTTP request on the port of its argument, which it binds itself."""

from __future__ import annotations

import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers nothing but 204."""

    def do_GET(self) -> None:
        """Any path."""
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
