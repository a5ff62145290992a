"""A disk that can be frozen: a file system on a loop device, mounted where only one instance of impetusd sees it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import census
from instance import Instance
from mounts import CannotMount, mounted
from waiting import wait_for

MEGABYTES = 16


class Disk:
    """Mounted at `folder`, in a mount namespace of its own; the instance's commands run in that namespace."""

    def __init__(self, folder: Path, inside: list[str]) -> None:
        self.folder = folder
        self._inside = inside

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Whoever writes there hangs in the kernel meanwhile, and cannot be killed."""
        self._run("fsfreeze", "--freeze", str(self.folder))
        try:
            yield
        finally:
            self._run("fsfreeze", "--unfreeze", str(self.folder))

    @staticmethod
    def has_hung(pid: int) -> None:
        """Wait until a thread of the process is in the kernel, where no signal reaches it."""
        wait_for(lambda: "D" in census.thread_states(pid), f"a thread of {pid} to hang")

    def read(self, name: str) -> str:
        """A file on it; '' when there is none."""
        return self._run("sh", "-c", f"cat {self.folder}/{name} 2>/dev/null || true")

    def _run(self, *command: str) -> str:
        return subprocess.run([*self._inside, *command], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def disk(impetusd: Instance) -> Iterator[Disk]:
    """A disk for an instance that is not started yet, and is stopped with it. Raises CannotMount."""
    folder, image = impetusd.root / "disk", impetusd.root / "image"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(MEGABYTES << 20)
    script = 'mkfs.ext4 -q "$1" && mount -o loop "$1" "$2" && fsfreeze -f "$2" && fsfreeze -u "$2"'
    with mounted(impetusd, script, image, folder) as inside:
        yield Disk(folder, inside)


@contextlib.contextmanager
def disk_or_none(impetusd: Instance) -> Iterator[Disk | None]:
    """The same; None, and a line about it, where there cannot be one."""
    with contextlib.ExitStack() as stack:
        found = None
        try:
            found = stack.enter_context(disk(impetusd))
        except CannotMount as error:
            print(error)
        yield found
