"""impetusd, whose supervisor dies of SIGKILL just before it sends the shim its n-th message: `mortal.py ARGUMENTS...`.

Each message, of whichever supervisor, becomes a line of `mortal` in the INI file's folder while there is a `mortal.at`; when
it has as many lines as that says, the supervisor is killed, once, and `mortal.at` removed. Heartbeats, which come by the clock, do not count.

All else is real: this file stands in the place of the command, and as `shim` and `supervisor` in that of the two processes.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def command() -> None:
    from impetusd import launch
    from impetusd.cli.main import main

    whole = launch.shim_argv

    def shim_argv(*arguments, **how):
        *interpreter, _, conf, paths = whole(*arguments, **how)
        return [*interpreter, os.path.abspath(__file__), "shim", conf, paths]

    launch.shim_argv = shim_argv
    sys.exit(main())


def shim() -> None:
    sys.path.append(ROOT)  # as shim/__main__.py does, which runs without site, too
    from impetusd.shim import main, supervision

    *interpreter, _, _ = supervision.SUPERVISOR
    supervision.SUPERVISOR = (*interpreter, os.path.abspath(__file__), "supervisor")
    del sys.argv[1]
    sys.exit(main.main())


def supervisor() -> None:
    from impetusd.shim import wire

    del sys.argv[1]
    told = os.path.join(os.path.dirname(sys.argv[1]), "mortal")
    send = wire.send

    def count(message) -> None:
        with open(told, "r+", encoding="utf-8") as file, open(f"{told}.at", encoding="utf-8") as at:
            if len(file.readlines()) == int(at.read()):
                os.unlink(f"{told}.at")
                os.kill(os.getpid(), signal.SIGKILL)
            file.write(" ".join(f"{op['op']}:{op.get('key', op.get('process', ''))}" for op in message["ops"]) + "\n")

    def mortal(sock, message, fds=()) -> None:
        if message["ops"] != [{"op": "beat"}] and os.path.exists(f"{told}.at"):
            count(message)
        send(sock, message, fds)

    wire.send = mortal
    runpy.run_module("impetusd.supervisor", run_name="__main__")


match sys.argv[1:2]:
    case ["shim"]:
        shim()
    case ["supervisor"]:
        supervisor()
    case _:
        command()
