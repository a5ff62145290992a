"""The method `give-socket`: a process passes a listening socket to a stopped unit, for its next start.

`impetusd import --take-over` calls it: its socket shares a port with the one of the manager before. A socket that the
unit would bind by itself could not, as long as that one listens.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from impetusd.core.config.model import Listen, Unit
from impetusd.core.protocol import EXIT_FAILED, EXIT_UNKNOWN_NAME, FAILED, ProtocolError
from impetusd.core.rules.lifecycle import IDLE
from impetusd.linux import getfd, inet
from impetusd.supervisor.slots.entry import Entry
from impetusd.supervisor.start.sockets import another

if TYPE_CHECKING:
    from impetusd.supervisor.start.listeners import Listeners


class Giving:
    """`units` are those in force, `slots` those of a unit."""

    def __init__(
        self, units: Callable[[], Mapping[str, Unit]], slots: Callable[[Unit], list[Entry]], listeners: Listeners
    ) -> None:
        self._units = units
        self._slots = slots
        self._listeners = listeners

    def give(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method. `pid`: the process that asks; the descriptor is its own, so it gives nobody else's."""
        unit = self._units().get(params["name"])
        if unit is None:
            raise ProtocolError(FAILED, f"no unit {params['name']!r}", EXIT_UNKNOWN_NAME)
        if any(entry.slot.state not in IDLE for entry in self._slots(unit)):
            raise _refused(unit, "it is running and already has its sockets")
        if params["fd"] is None:
            self._listeners.take_back(unit)
            return {"ok": True}
        if not params["pid"]:
            raise _refused(unit, "a socket can be passed only over a direct connection")
        try:
            fd = getfd.of(params["pid"], params["fd"])
        except OSError as error:
            raise _refused(unit, f"cannot take it from process {params['pid']}: {error.strerror}") from None
        try:
            address = _address(unit, fd)
            self._listeners.give(unit, address, fd)
        except BaseException:
            os.close(fd)
            raise
        return {"ok": True, "address": str(address)}


def _refused(unit: Unit, why: str) -> ProtocolError:
    return ProtocolError(FAILED, f"{unit.name} was not given the socket: {why}", EXIT_FAILED)


def _address(unit: Unit, fd: int) -> Listen:
    """Which of the unit's addresses the socket is bound to. Raises ProtocolError."""
    try:
        with another(fd) as sock:
            if not (sock.type == socket.SOCK_STREAM and sock.family in {socket.AF_INET, socket.AF_INET6}):
                raise _refused(unit, "it is not a TCP socket")
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            host, port = sock.getsockname()[:2]
            v6only = inet.is_v6only(sock)
    except OSError as error:
        raise _refused(unit, f"it is not a TCP socket: {error.strerror}") from None
    if not listens:
        raise _refused(unit, "it is not listening")
    for address in unit.listen:
        if (address.host, address.port, address.path) == (host, port, "") and address.v6only in {None, v6only}:
            return address
    raise _refused(unit, f"it is bound to {Listen(host, port)}, which the unit's listen does not contain")
