"""Tracebacks of our own mistakes, without what looks secret in them: an exception's message may quote what it was given."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    import threading
    from types import TracebackType
    from typing import Any


def install() -> None:
    """Have every traceback that this process writes to stderr go through `core.redact`; asyncio's too, if it has `logging`."""
    sys.excepthook = _uncaught
    if "threading" in sys.modules:
        import threading

        threading.excepthook = _in_thread
    if "logging" in sys.modules:
        import logging

        class Formatter(logging.Formatter):
            def format(self, record: logging.LogRecord) -> str:
                return _without_secrets(super().format(record))

        if logging.lastResort is not None:  # what nobody has configured goes there: we configure nothing
            logging.lastResort.setFormatter(Formatter())


class Log:
    """What asyncio logs with in a process that does not import `logging`: the same lines on stderr."""

    def __init__(self, _name: str) -> None:
        pass

    def error(self, message: str, *args: object, exc_info: Any = None, **_: object) -> None:
        """`exc_info`: True for what is being handled, the exception, or the triple of `sys.exc_info`."""
        print(_without_secrets(message % args if args else message), file=sys.stderr, flush=True)
        error = sys.exc_info() if exc_info is True else exc_info
        error = error[1] if isinstance(error, tuple) else error
        if error is not None:
            show(error)

    def exception(self, message: str, *args: object) -> None:
        """With what is being handled."""
        self.error(message, *args, exc_info=True)

    def debug(self, _message: str, *_args: object) -> None:
        """Nobody reads that."""

    warning = critical = error
    info = debug


def show(error: BaseException) -> None:
    """Write the traceback of `error`."""
    import traceback

    print(_without_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)


def _without_secrets(text: str) -> str:
    from impetusd.core import redact

    return redact.text(text)


def _uncaught(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    if not isinstance(error, KeyboardInterrupt):  # Python ends by the signal itself then, as a shell expects
        show(error)


def _in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        show(args.exc_value)
