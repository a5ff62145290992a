"""Lends instances to tests and to `scripts/chaos`, and proves afterwards that nothing of them was left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from instance import Instance

Lend = Callable[[str | None], AbstractContextManager[Instance]]


@contextmanager
def lender() -> Iterator[Lend]:
    """Makes an instance for a user and destroys it afterwards; a guard does so should this process be killed."""
    guard = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("guard.py")], stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    assert guard.stdin is not None
    told = guard.stdin

    @contextmanager
    def lent(user: str | None) -> Iterator[Instance]:
        instance = Instance(user)
        print(f"+{instance.root}", file=told, flush=True)
        try:
            yield instance
        finally:
            left = instance.destroy()
            print(f"-{instance.root}", file=told, flush=True)
        assert not left, "\n".join(left)

    try:
        yield lent
    finally:
        told.close()
        guard.wait()
