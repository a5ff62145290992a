"""A file that a command makes: all of it or nothing."""

from __future__ import annotations

import os

from impetusd.cli.failure import Failure


def write(path: str, text: str, said: str, *, force: bool, mode: int = 0o666) -> None:
    """Make it, in the place of what is there only if `force`. `said`: what the operator calls it. Raises Failure."""
    new = f"{path}.{os.getpid()}.new"
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            if force:
                os.replace(new, path)
            else:
                os.link(new, path)
                os.unlink(new)
        except BaseException:
            os.unlink(new)
            raise
    except OSError as error:
        raise Failure(f"cannot write {said}: {error.strerror}", 2) from None
