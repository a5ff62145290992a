"""Servers that answer probes, and that do not, in every way."""

from __future__ import annotations

import contextlib
import socket
import threading

PATIENCE = 60.0  # seconds; where an answer is to come


class Server:
    """Gives each connection to `serve`, in a thread of its own. `asked` has what each one sent first."""

    def __init__(self, serve, listener=None, context=None):
        self.serve = serve
        self.context = context
        self.listener = listener or socket.create_server(("127.0.0.1", 0))
        address = self.listener.getsockname()
        self.port = address[1] if isinstance(address, tuple) else 0  # a unix socket has a path
        self.asked: list[bytes] = []
        self.over = threading.Event()
        self.threads: list[threading.Thread] = []

    def __enter__(self):
        self._thread(self._accept)
        return self

    def __exit__(self, *_):
        self.over.set()
        with contextlib.suppress(OSError):  # a test may have closed it
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self.listener.close()
        for thread in self.threads:
            thread.join(PATIENCE)

    def url(self, path="/health"):
        return f"http://127.0.0.1:{self.port}{path}"

    def _thread(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._thread(self._one, connection)

    def _one(self, connection):
        with connection, contextlib.suppress(OSError):
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            with connection:
                self.asked.append(connection.recv(65536))
                self.serve(self, connection)


def says(status="200 OK", body="fine", *headers):
    """A server that gives one answer."""
    head = "".join(f"{each}\r\n" for each in (f"Content-Length: {len(body.encode())}", *headers))

    def serve(_server, connection):
        connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n{body}".encode())

    return serve


def sends(data):
    return lambda _server, connection: connection.sendall(data)


def drips(first):
    """`first` at once, then a byte every 10 ms without end."""

    def serve(server, connection):
        connection.sendall(first)
        while not server.over.wait(0.01):
            connection.sendall(b"x")

    return serve


def holds(server, _connection):
    server.over.wait(PATIENCE)


@contextlib.contextmanager
def unused_port():
    """A port of 127.0.0.1 at which nobody listens: it stays bound, so nobody gets it but who has SO_REUSEADDR, too."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
