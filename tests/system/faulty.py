"""impetusd, whose supervisor goes wrong as a file says: `faulty.py ARGUMENTS...`, in the place of the command.

While there is a file `faulty` beside the INI file, with JSON {"how", "slot", "event"}, the supervisor goes wrong as soon as
it handles an event of that kind for that slot; without a slot it does once it has come up, unless that is in hold-only mode.
`how`:
    exit    ends with exit code 70
    raise   raises, where nothing contains it (without a slot)
    fault   dies of SIGSEGV
    hang    does nothing more: the shim waits for SILENCE seconds, which are few here
With {"starts": false} instead no supervisor comes up at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def command() -> None:
    from impetusd.cli.main import main
    from impetusd.client import control, launch

    control.FIRST_BYTE = float(os.environ.get("FAULTY_PATIENCE", control.FIRST_BYTE))
    whole = launch.shim_argv

    def shim_argv(*arguments, **how):
        *interpreter, known_by, conf, paths = whole(*arguments, **how)
        return [*interpreter, os.path.abspath(__file__), "shim", known_by, conf, paths]

    launch.shim_argv = shim_argv
    sys.exit(main())


def shim() -> None:
    sys.path.append(ROOT)  # as shim/__main__.py does, which runs without site, too
    from impetusd.shim import main, supervision

    *interpreter, _, _ = supervision.SUPERVISOR
    supervision.SUPERVISOR = (*interpreter, os.path.abspath(__file__), "supervisor")
    supervision.SILENCE, supervision.DELAYS = 8.0, (0.0,) * 7  # a loaded host lets one wait, too
    del sys.argv[1:3]
    sys.exit(main.main())


def supervisor() -> None:
    del sys.argv[1]
    if found().get("starts") is False:
        sys.exit("it cannot be started")
    from impetusd.supervisor.daemon import Daemon
    from impetusd.supervisor.slots.machine import Machine
    from impetusd.supervisor.start import link

    link.BEAT = 0.3
    begin = Daemon._begin

    def come_up(self) -> None:
        begin(self)
        if self.engine.slots.held.whole is None:
            asyncio.get_running_loop().call_soon(go_wrong, found(), "", "")

    def wrapped(handle):
        def handling(self, entry, event) -> None:
            go_wrong(found(), entry.name, type(event).__name__)
            handle(self, entry, event)

        return handling

    Daemon._begin = come_up
    Machine._handle = wrapped(Machine._handle)
    runpy.run_module("impetusd.supervisor", run_name="__main__")


def found() -> dict:
    """What the file says."""
    try:
        with open(os.path.join(os.path.dirname(sys.argv[1]), "faulty"), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def go_wrong(faulty: dict, slot: str, event: str) -> None:
    if not faulty or (faulty.get("slot", ""), faulty.get("event", "")) != (slot, event):
        return
    match faulty["how"]:
        case "exit":
            os._exit(70)
        case "raise":
            raise RuntimeError("of nobody's")
        case "fault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(1000)


match sys.argv[1:2]:
    case ["shim"]:
        shim()
    case ["supervisor"]:
        supervisor()
    case _:
        command()
