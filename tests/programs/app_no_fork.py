"""An application under which the first fork fails, as on a host that has no process left."""

from __future__ import annotations

import errno
import os

import app_hello

make = app_hello.make
_fork = os.fork


def fail_once() -> int:
    os.fork = _fork
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


os.fork = fail_once
