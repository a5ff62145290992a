"""impetusd, of which somebody dies of SIGKILL at the supervisor's n-th message to the shim: `mortal.py ARGUMENTS...`.

Each message, of whichever supervisor, becomes a line of `mortal` in the INI file's folder while there is a `mortal.at`; when
it has as many lines as that says, who is named there is killed, once, and `mortal.at` removed:
    n supervisor    just before it sends the message
    n shim          which has got the message, and has done nothing of it
    n shim done     which has done all that the message asks for, and has not written it down
    n both          as `shim`, and the supervisor with it; so `both done`
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
    recv, write_down = wire.recv, main.Shim.write_down
    done = False  # what it was to do before it dies

    def mortal(sock):
        nonlocal done
        packet = recv(sock)
        if packet is not None and is_due(told, packet[0], {"shim", "both"}):
            done = "done" in whom(told)
            if not done:
                die(told, holder)
        return packet

    def last_words(self) -> None:
        if done:
            die(told, self)
        write_down(self)

    class Mortal(main.Shim):
        def __init__(self, *arguments) -> None:
            nonlocal holder
            super().__init__(*arguments)
            holder = self

    holder = None
    main.Shim, main.Shim.write_down, wire.recv = Mortal, last_words, mortal
    sys.exit(main.main())


def whom(told: str) -> list[str]:
    """The words of `mortal.at`; none when it is not there."""
    try:
        with open(f"{told}.at", encoding="utf-8") as at:
            return at.read().split()
    except FileNotFoundError:
        return []


def is_due(told: str, message, who: set[str]) -> bool:
    """Whether one of `who` is to die at this message, which is counted."""
    words = whom(told)
    if message.get("ops") == [{"op": "beat"}] or not who.intersection(words):
        return False
    with open(told, "r+", encoding="utf-8") as file:
        if len(file.readlines()) == int(words[0]):
            return True
        file.write(" ".join(f"{op['op']}:{op.get('key', op.get('process', ''))}" for op in message["ops"]) + "\n")
    return False


def die(told: str, shim=None) -> None:
    """Be killed; `shim`: with its supervisor, if that is to die, too."""
    both = "both" in whom(told)
    os.unlink(f"{told}.at")
    if both and shim.state.supervisor is not None:
        os.kill(shim.state.supervisor.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def supervisor() -> None:
    from impetusd import bare
    from impetusd.shim import wire

    del sys.argv[1]
    told = os.path.join(os.path.dirname(sys.argv[1]), "mortal")
    send = wire.send_text

    def mortal(sock, text, fds=()) -> None:
        if is_due(told, bare.loads(text.decode()), {"supervisor"}):
            die(told)
        send(sock, text, fds)

    wire.send_text = mortal
    runpy.run_module("impetusd.supervisor", run_name="__main__")


match sys.argv[1:2]:
    case ["shim"]:
        shim()
    case ["supervisor"]:
        supervisor()
    case _:
        command()
