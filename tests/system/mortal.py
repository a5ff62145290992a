"""impetusd, of which somebody dies of SIGKILL at the supervisor's n-th message to the shim: `mortal.py ARGUMENTS...`.

Each message, of whichever supervisor, becomes a line of `mortal` in the INI file's folder while there is a `mortal.at`; when
it has as many lines as that says, who is named there is killed, once, and `mortal.at` removed:
    n supervisor    just before it sends the message
    n shim          which has got the message, and has done nothing of it
Heartbeats, which come by the clock, do not count.

All else is real: this file stands in the place of the command, and as `shim` and `supervisor` in that of the two processes.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def command() -> None:
    from impetusd.cli.main import main
    from impetusd.client import launch

    whole = launch.shim_argv

    def shim_argv(*arguments, **how):
        *interpreter, _, conf, paths = whole(*arguments, **how)
        return [*interpreter, os.path.abspath(__file__), "shim", conf, paths]

    launch.shim_argv = shim_argv
    sys.exit(main())


def shim() -> None:
    sys.path.append(ROOT)  # as shim/__main__.py does, which runs without site, too
    from impetusd.shim import main, supervision, wire

    *interpreter, _, _ = supervision.SUPERVISOR
    supervision.SUPERVISOR = (*interpreter, os.path.abspath(__file__), "supervisor")
    del sys.argv[1]
    told = os.path.join(os.path.dirname(sys.argv[1]), "mortal")
    recv = wire.recv

    def mortal(sock):
        packet = recv(sock)
        if packet is not None and is_due(told, packet[0], "shim"):
            die(told)
        return packet

    wire.recv = mortal
    sys.exit(main.main())


def is_due(told: str, message, who: str) -> bool:
    """Whether `who` is to die at this message, which is counted."""
    if message.get("ops") == [{"op": "beat"}] or not os.path.exists(f"{told}.at"):
        return False
    with open(told, "r+", encoding="utf-8") as file, open(f"{told}.at", encoding="utf-8") as at:
        number, whom = at.read().split()
        if whom != who:
            return False
        if len(file.readlines()) == int(number):
            return True
        file.write(" ".join(f"{op['op']}:{op.get('key', op.get('process', ''))}" for op in message["ops"]) + "\n")
    return False


def die(told: str) -> None:
    os.unlink(f"{told}.at")
    os.kill(os.getpid(), signal.SIGKILL)


def supervisor() -> None:
    from impetusd.shim import wire

    del sys.argv[1]
    told = os.path.join(os.path.dirname(sys.argv[1]), "mortal")
    send = wire.send

    def mortal(sock, message, fds=()) -> None:
        if is_due(told, message, "supervisor"):
            die(told)
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
