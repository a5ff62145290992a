"""A file system that only one instance of impetusd sees, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

from instance import COMMAND, Instance


class CannotMount(Exception):
    """The host does not let us; the text says why."""


@contextlib.contextmanager
def mounted(impetusd: Instance, script: str, *arguments: object) -> Iterator[list[str]]:
    """Runs `script` (sh) in a mount namespace of its own, and the instance's commands there as well, until its stop.

    Gives the beginning of a command that runs there. Raises CannotMount.
    """
    if os.geteuid() != 0:
        raise CannotMount("mounting needs root")
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"{{ {script}; }} && echo up && cat", "sh", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != "up\n":
            raise CannotMount(f"this host refuses it: {holder.communicate()[1].strip()}")
        inside = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", f"--wdns={impetusd.root}"]
        impetusd.command, impetusd.elsewhere = [*inside, *COMMAND], True
        yield inside
        impetusd.run("stop")
    finally:
        impetusd.command, impetusd.elsewhere = COMMAND, False
        if holder.poll() is None:
            holder.communicate()
