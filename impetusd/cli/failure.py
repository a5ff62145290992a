"""An operator's mistake, or an obstacle: reported in one sentence, without a traceback."""

from __future__ import annotations


class Failure(Exception):
    """The text goes to stderr after "impetusd: "; `exit` is the exit code (2: the command line or the configuration)."""

    def __init__(self, message: str, exit: int = 1) -> None:  # noqa: A002  # the word for it
        super().__init__(message)
        self.exit = exit
