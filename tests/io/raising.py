"""Has each call that is seen in some handlers raise, once."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from supervisor_world import Life, Shim

import impetusd
from impetusd.core.protocol import ProtocolError

OURS = str(Path(impetusd.__file__).parent)
# They cannot raise: made to, one would leave a lock held for ever, and what begins or ends a `with` block leaves a socket, a
# file or a descriptor to the collector. close(2) lets go of a descriptor whatever it says. What hears an event, or
# attempts something until it is done, contains all that it does; what sends a round ends the supervisor when that fails.
NEVER = {
    *("lock.release", "lock.__exit__", "close", "socket.__enter__", "socket.__exit__", "socket.detach"),
    *("TextIOWrapper.__exit__", "_GeneratorContextManager.__exit__", "WeakSet.__init__.<locals>._remove"),
    *("Reports.hear", "Faults.attempt", "Link.send"),
}
# Of some 400 calls one in so many, from the FIRST on; 1 takes a minute and a half.
EVERY, FIRST = int(os.environ.get("IMPETUSD_RAISE_EVERY", "25")), int(os.environ.get("IMPETUSD_RAISE_FIRST", "0"))

KEYS = "kill_timeout = 100ms\nmin_uptime = 0\nexp_backoff_restart_delay = 10ms\nexp_backoff_max_delay = 10ms\nmax_restarts = 1000000\n"
OTHERS = "".join(f"[program:{name}]\ncommand = sleep 1000\n{KEYS}" for name in ("after", "before"))

Site = tuple[str, int, str]  # the file and line of a call, and what is called


@contextmanager
def shims(folder: str) -> Iterator[Callable[[str], Shim]]:
    """Makes shims of an INI file's text, under which whatever is started is ready. At its end no call raises any more."""
    made: list[Shim] = []

    def make(text: str) -> Shim:
        made.append(Shim(folder, f"[impetusd]\n{text}"))
        made[-1].ready = True
        return made[-1]

    yield make
    sys.setprofile(None)
    for each in made:
        each.close()


class Ours(Exception):
    """What is raised."""


class Calls:
    """Sees the calls made in `handlers` for the unit "bad", or for none in particular; has one of them raise."""

    def __init__(self, handlers: Iterable[Any]) -> None:
        self.seen: dict[Site, None] = {}
        self.victim: Site | None = None
        self.raised = False
        self._within: set[FrameType] = set()
        self._handlers: set[CodeType] = {each.__code__ for each in handlers}

    def begin(self, victim: Site | None = None) -> None:
        self.victim, self.raised, self._within = victim, False, set()
        sys.setprofile(self._look)

    def end(self) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "return":
            self._within.discard(frame)
        elif event in {"call", "c_call"} and self._within:
            caller = frame.f_back if event == "call" else frame
            if caller is not None and caller.f_code.co_filename.startswith(OURS):
                what = frame.f_code.co_qualname if event == "call" else arg.__qualname__
                if what in NEVER:
                    return
                self._site((caller.f_code.co_filename, caller.f_lineno, what))
        if event == "call" and frame.f_code in self._handlers and _is_bad(frame):
            self._within.add(frame)

    def _site(self, site: Site) -> None:
        if self.victim is None:
            self.seen[site] = None
        elif site == self.victim:
            self.raised = True
            raise Ours(str(site))  # which ends the profile, too


def _is_bad(frame: FrameType) -> bool:
    found = frame.f_locals.get("entry")
    unit = found.unit if found is not None else frame.f_locals.get("unit")
    name = getattr(unit, "name", unit)
    return name == "bad" or (
        unit is None and not {"entry", "unit"} & {*frame.f_code.co_varnames[: frame.f_code.co_argcount]}
    )


async def try_to(life: Life, method: str, **params: Any) -> None:
    """What comes of it is looked at later."""
    try:
        await asyncio.wait_for(life.ask(method, **params), 60.0)
    except (ProtocolError, Ours):  # the command fails, as `ControlServer` says it to who asked
        pass
    except TimeoutError:
        rows, log = await life.rows(), life.log().splitlines()
        raise AssertionError(f"{method} does not end: {rows}\n" + "\n".join(log[-60:])) from None
