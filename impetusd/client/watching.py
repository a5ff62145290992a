"""`watch` for a command line: what changes, one change after the other, over supervisors that die and come back.

Imports stay few, as in `control`.
"""

from __future__ import annotations

import select
import time

from impetusd.client import control
from impetusd.core import protocol, stream
from impetusd.core.stream import Change, Mirror

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from impetusd.core.config.location import Paths

SILENT = 20.0  # seconds without a word, after which the connection is given up: `alive` comes every 5
ATTEMPTS = 10  # connections in a row over which nothing came


def changes(
    paths: Paths, mirror: Mirror, hooks: control.Hooks | None = None, *, beat: float = 1.0, usage: bool = True
) -> Iterator[Change | None]:
    """Each change, once `mirror` has it; None after those that came together, and when nothing has come for `beat` seconds.

    A lost connection is one of kind "lost"; then comes "resumed", or "snapshot" with whether changes may be missing. `usage`:
    memory and CPU, too. Raises NotRunning once no daemon runs, AnotherFile, ControlError; never ends otherwise.
    """
    hooks = hooks or control.Hooks()
    fruitless = 0
    while fruitless < ATTEMPTS:
        time.sleep(0.02 * fruitless)
        fruitless += 1
        connection = control.connect(paths, hooks, mine=True)
        try:
            control.require_daemon(paths, control.converse(connection, protocol.request_line(1, "ping", {}), hooks))
            for change in _changes(connection, mirror, beat, usage=usage):
                fruitless = 0
                yield change
        except (control.Dropped, stream.OutOfStep) as error:
            if not fruitless:
                yield Change(mirror.n, time.time(), "lost", "", str(error))
                yield None
        finally:
            connection.close()
    raise control.Unanswered(f"impetusd repeatedly closed the connection during watch; see {paths.log_file}")


def _changes(connection: socket.socket, mirror: Mirror, beat: float, *, usage: bool) -> Iterator[Change | None]:
    """The changes of one connection, until it ends. Raises Dropped, OutOfStep."""
    lines = protocol.LineBuffer(protocol.MAX_ANSWER)
    params = {"life": mirror.life, "since": mirror.n, "usage": usage}
    connection.setblocking(True)
    connection.settimeout(SILENT)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    begun, heard = False, time.monotonic()
    try:
        connection.sendall(protocol.request_line(2, "watch", params))
        while True:
            if not poll.poll(beat * 1000):
                if time.monotonic() - heard > SILENT:
                    raise control.Dropped("no data for too long")
                if begun:
                    yield None
                continue
            data, heard = connection.recv(1 << 18), time.monotonic()
            if not data:
                raise control.Dropped("the supervisor closed it")
            for line in lines.feed(data):
                answer = protocol.parse_answer(line)
                if answer.error is not None:
                    raise control.refused(answer.error)
                change = None
                if answer.result is not None:
                    change = mirror.begin(answer.result)
                elif answer.notice is not None:
                    change = mirror.take(*answer.notice)
                if change is not None:
                    begun = True
                    yield change
            if begun:
                yield None
    except protocol.ProtocolError as error:
        raise stream.OutOfStep(error.message) from None
    except OSError as error:
        raise control.Dropped(error.strerror or str(error)) from None
