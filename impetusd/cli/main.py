"""Where the command `impetusd` begins: `status` goes a short way of its own, the rest through click.

Whatever goes wrong ends here: one sentence on stderr and an exit code for an operator's mistake, a traceback only for
ours.
"""

from __future__ import annotations

import os
import sys

from impetusd import traces
from impetusd.cli.failure import Failure
from impetusd.control import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> int:
    """Run the command in sys.argv; returns the exit code."""
    traces.install()
    for stream in (sys.stdout, sys.stderr):
        # None when the descriptor was closed; a name that the terminal's encoding lacks is shown escaped, not raised.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
    except (ControlError, Failure) as error:
        return complain(str(error), error.exit)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`impetusd status | head -1`). What is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    return code


def complain(message: str, code: int) -> int:
    """Tell the operator, after what was printed so far; returns `code`."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        prefix = "" if message.startswith("impetusd ") else "impetusd: "
        print(prefix + message, file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody listens; the exit code still tells
    return code


def _run(args: list[str]) -> int:
    asked = status_asked(args)
    if asked is not None:
        from impetusd.cli import status

        return status.show(asked[0], asked[2], as_json=asked[1])
    from impetusd.cli import app

    return app.run(args)


def status_asked(args: Sequence[str]) -> tuple[str | None, bool, list[str]] | None:
    """(-c FILE, --json, names) if `args` is a plain `status`; None if click has to look at it, its mistakes included."""
    conf: str | None = None
    words: list[str] = []
    as_json = False
    rest = iter(args)
    for arg in rest:
        if arg in {"-c", "--conf"}:
            conf = next(rest, None)
            if conf is None:
                return None
        elif arg.startswith("--conf="):
            conf = arg[len("--conf=") :]
        elif arg == "--json" and words:
            as_json = True
        elif arg.startswith("-"):
            return None
        else:
            words.append(arg)
            if words[0] != "status":
                return None
    return (conf, as_json, words[1:]) if words else None
