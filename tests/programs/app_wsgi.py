"""The same for WSGI, without a framework."""

from __future__ import annotations

import atexit
import json
import os
import threading

RELEASED = threading.Event()
STUCK = threading.Lock()
STUCK.acquire()


atexit.register(print, "exit handlers have run", flush=True)


class Boom(Exception):
    pass


def app(environ, start_response):
    return HANDLERS.get(environ["PATH_INFO"], missing)(environ, start_response)


def answer(start_response, text, status="200 OK"):
    body = str(text).encode()
    start_response(status, [("Content-Length", str(len(body))), ("Content-Type", "text/plain")])
    return [body]


def missing(environ, start_response):
    return answer(start_response, "no such page", "404 Not Found")


def hello(environ, start_response):
    return answer(start_response, os.getpid())


def slow(environ, start_response):
    print("slow has begun", flush=True)
    RELEASED.wait()
    print("slow has ended", flush=True)
    return answer(start_response, "slow")


def release(environ, start_response):
    RELEASED.set()
    return answer(start_response, "released")


class Stream:
    """A chunk at once, the rest after /release; says when it is closed."""

    def __iter__(self):
        yield b"begun "
        RELEASED.wait()
        yield b""
        yield b"ended"

    def close(self):
        print("stream is closed", flush=True)


def stream(environ, start_response):
    start_response("200 OK", [])
    return Stream()


def endless(environ, start_response):
    """As much as the client takes."""
    start_response("200 OK", [])
    try:
        while True:
            yield b"x" * 65536
    finally:
        print("endless has ended", flush=True)


def upload(environ, start_response):
    lines = size = 0
    for line in environ["wsgi.input"]:
        lines += 1
        size += len(line)
    return answer(start_response, f"{size} bytes in {lines} lines")


def cut_upload(environ, start_response):
    environ["wsgi.input"].read(1)
    print("the rest is waited for", flush=True)
    try:
        environ["wsgi.input"].read()
    except ConnectionError as error:
        print(f"told: {type(error).__name__}", flush=True)
        raise
    return answer(start_response, "read")


def written(environ, start_response):
    write = start_response("200 OK", [])
    write(b"written ")
    return [b"returned"]


def changed(environ, start_response):
    start_response("200 OK", [("X-A", "b")])
    try:
        raise Boom("before anything was sent")
    except Boom:
        import sys

        start_response("503 Later", [("Content-Length", "5")], sys.exc_info())
    return [b"later"]


def bug(environ, start_response):
    raise Boom("in a handler")


def late_bug(environ, start_response):
    start_response("200 OK", [])
    yield b"begun"
    raise Boom("in a stream")


def stuck(environ, start_response):
    print("stuck", flush=True)
    STUCK.acquire()
    return answer(start_response, "not stuck")


def seen(environ, start_response):
    plain = {name: value for name, value in environ.items() if isinstance(value, str)}
    return answer(start_response, json.dumps(plain))


HANDLERS = {
    f"/{each.__name__}": each
    for each in (
        *(slow, release, stream, endless, upload, cut_upload, written, changed),
        *(bug, late_bug, stuck, seen),
    )
} | {"/": hello}


def make():
    return app
