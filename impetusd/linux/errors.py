"""Kernel errors in the shim: ignore errors that are expected results."""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


def unless_blind(error: OSError) -> None:
    """Ignore an error that means that something is gone. Raises `error` if it means that nothing can be read."""
    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
        raise error


class suppress:  # noqa: N801  # stands in its place
    """As contextlib.suppress; that module would be 0.1 MB for as long as the shim lives."""

    __slots__ = ("_errors",)

    def __init__(self, *errors: type[BaseException]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> bool:
        return kind is not None and issubclass(kind, self._errors)
