"""A Writer, pipes into it, and ways to wait until it has done something."""

from __future__ import annotations

import os
import threading

from impetusd.supervisor.logs import logpipe
from impetusd.supervisor.logs.writer import Options, Writer

DEADLINE = 60.0  # seconds; only a failure waits that long


class Bench:
    """A writer whose own log is in `root`. `pipe` gives a write end; what is written there comes out in a file."""

    def __init__(self, root, **how):
        self.root = root
        self.writer = Writer(f"{root}/impetusd.log", **how)
        self.ends = {}
        self.closed = False

    def pipe(self, name, path, options=None):
        reader, end = os.pipe2(os.O_CLOEXEC)
        self.ends[name] = (reader, end)
        self.writer.add(name, reader, str(path), options or Options(name=name))
        return end

    def file(self, name):
        """The file that a pipe goes to."""
        pipe = self.writer._pipes[name]
        return self.writer._lane(pipe.place).outlets.file_of(pipe)

    def begin_run(self, name, pattern=None):
        logpipe.begin_run([self.writer._pipes[name]], pattern)

    def ask(self, method, *arguments):
        """What `method` hands to its callback."""
        came, value = threading.Event(), []

        def answer(*values):
            value.extend(values)
            came.set()

        method(*arguments, answer)
        assert came.wait(DEADLINE)
        return value[0] if value else None

    def tail(self, name):
        self.writer.end_run(name)
        return self.ask(self.writer.tail, name)

    def settle(self, *names):
        """Wait until all that was written is where it belongs."""
        for name in names or tuple(self.ends):
            self.tail(name)

    def log(self):
        """The daemon's own log, all of it."""
        self.ask(self.writer.flush_files, [])
        self.ask(self.writer.flush_files, [])  # what a lane said on the way here is a call of its own
        return read(f"{self.root}/impetusd.log").decode()

    def close(self):
        if not self.closed:
            self.closed = True
            self.writer.close()
            self.writer.release()
            for pair in self.ends.values():
                for fd in pair:
                    os.close(fd)
            self.ends = {}


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
