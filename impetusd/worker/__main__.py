"""`python -m impetusd.worker template|serve|check`: what impetusd starts for a `[pool:…]`; not for people."""

from __future__ import annotations

import os
import signal
import sys

from impetusd.worker import appload
from impetusd.worker.abort import on_sigabrt
from impetusd.worker.ending import leave
from impetusd.worker.environment import WorkerError, set_cloexec, set_title, settings
from impetusd.worker.lent import lend

_MODES = ("template", "serve", "check")


def main(arguments: list[str]) -> int:
    """Run one mode; returns a worker's exit code. Earlier failures are reported here by a sentence on stderr."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: leave(0))  # there is nothing to clean up until the app is built
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # it is a pipe, yet each line is wanted now
    set_cloexec()
    name = os.environ.get("IMPETUSD_NAME", "impetusd.worker")
    set_title(name)
    on_sigabrt(
        lambda: [
            f"{os.environ.get('IMPETUSD_NAME', name)}: killed by SIGABRT; the stack traces of its threads are above"
        ]
    )
    try:
        if len(arguments) != 1 or arguments[0] not in _MODES:
            raise WorkerError(
                "usage: python -m impetusd.worker template|serve|check; impetusd starts it for a [pool:…]", 2
            )
        wanted = settings(os.environ)
        lend(wanted.lend)
        from impetusd.worker import serve, server, template  # with what has just been lent

        target = appload.load(wanted.app)
        server.prepare_likely(appload.likely(target, wanted.protocol))
        if arguments[0] == "check":  # of an operator: does all of this fit together here?
            leave(0)
        if arguments[0] == "template":
            template.run()  # returns in each forked worker
        return serve.run(wanted, target)
    except WorkerError as error:
        print(f"{name}: {error}", file=sys.stderr)
        leave(error.code)  # not by sys.exit: threads of the application, if any, would be waited for
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
