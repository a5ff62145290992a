"""Listening sockets: bound once for a unit, kept over its processes, closed when nobody listens on them any more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from impetusd.core.config.model import Kind
from impetusd.files.folders import unlink_socket
from impetusd.linux.priority import WARNING
from impetusd.supervisor.start.sockets import adjust, bound_to, drop_new_connections, let_in, listen_on, refuse
from impetusd.worker import cells

if TYPE_CHECKING:
    from impetusd.core.config.model import Listen, Unit
    from impetusd.supervisor.logs.writer import Writer
    from impetusd.supervisor.start.childspec import Found
    from impetusd.supervisor.start.link import Outbox
    from impetusd.supervisor.start.socketfiles import SocketFiles


class Listeners:
    """By unit and address; with the page of memory by which a pool's workers share its connections."""

    def __init__(self, outbox: Outbox, writer: Writer) -> None:
        self._outbox = outbox
        self._writer = writer
        self.files: SocketFiles | None = None
        self._names = {name for name in outbox.fds if name.startswith("listen:")}

    def bind(self, unit: Unit, found: Found) -> list[str]:
        """The names of the unit's listening sockets, each bound when it is not yet. Raises CannotStart."""
        names = []
        for address in unit.listen:
            name = f"listen:{unit.name}:{address.place}"
            if name not in self._outbox.fds:
                self._names.add(name)
                with listen_on(address, unit.backlog, found) as sock:
                    fd = sock.fileno()
                    if address.more_ports and (elsewhere := bound_to(fd)) != str(address):
                        what = f"{unit.name}: {address} is in use; listening on {elsewhere} instead"
                        self._writer.line(what, WARNING)
                    self._outbox.keep(name, fd, ours=True)
                    sock.detach()
            else:
                second = self.files.second_name(address.path) if self.files and address.path else ""
                adjust(self._outbox.fds[name], address, unit.backlog, found, second)
            names.append(name)
        self._follow(unit)
        return names

    def give(self, unit: Unit, address: Listen, fd: int) -> None:
        """A socket that listens there already, `fd`, is the unit's from now on, in the place of the one before."""
        name = f"listen:{unit.name}:{address.place}"
        if name in self._outbox.fds:
            self._outbox.drop(name)
            self._outbox.flush()  # by itself: of one round what is kept comes before what is dropped
        self._names.add(name)
        self._outbox.keep(name, fd, ours=True)
        self._outbox.flush()

    def take_back(self, unit: Unit) -> None:
        """The unit, of which nothing runs, does not start with the sockets that it was given."""
        self.close(unit)
        self._outbox.flush()

    def addresses(self, unit: Unit) -> list[str]:
        """Where it listens, or will listen if not bound yet."""
        found = []
        for address in unit.listen:
            fd = self._outbox.fds.get(f"listen:{unit.name}:{address.place}")
            found.append(bound_to(fd) if fd is not None and address.more_ports else str(address))
        return found

    def has_to_bind(self, unit: Unit) -> bool:
        """Whether a start of the unit binds an address, which a process that has not ended may have."""
        return any(f"listen:{unit.name}:{address.place}" not in self._outbox.fds for address in unit.listen)

    def follow(self, units: Iterable[Unit]) -> None:
        """Restore the files of unix sockets bound before our time whenever somebody removes them."""
        for unit in units:
            self._follow(unit)

    def _follow(self, unit: Unit) -> None:
        for address in unit.listen:
            if self.files and address.path and f"listen:{unit.name}:{address.place}" in self._outbox.fds:
                self.files.follow(address.path, unit.name)

    def refuse(self, unit: Unit) -> bool:
        """Nobody can serve, and processes of the unit hold its sockets: have those refuse. Whether any did not."""
        changed = False
        for name in sorted(name for name in self._names if name.split(":")[1] == unit.name):
            path = name.split(":", 2)[2]
            if self.files and path.startswith("unix:"):
                changed = self.files.hide(path.removeprefix("unix:"), unit.name) or changed
            changed = refuse(self._outbox.fds[name]) or changed
        return changed

    def let_in(self, unit: Unit) -> None:
        """A process is about to serve: have the unit's sockets accept connections again. Raises CannotStart."""
        for address in unit.listen:
            name = f"listen:{unit.name}:{address.place}"
            if name in self._outbox.fds:
                if self.files and address.path:
                    self.files.show(address.path)
                let_in(self._outbox.fds[name], address, unit.backlog)

    def drop_new_connections(self, unit: Unit) -> None:
        """The unit's processes have no successor: they serve the queued clients, and no others are queued."""
        for name in [name for name in self._names if name.split(":")[1] == unit.name]:
            drop_new_connections(self._outbox.fds[name])

    # Closing.

    def let_go(self, unit: Unit, path: str) -> None:
        """The unix socket at `path` can no longer be reached: the unit's next process gets another one."""
        for address in unit.listen:
            name = f"listen:{unit.name}:{address.place}"
            if address.path == path and name in self._outbox.fds:
                self._outbox.drop(name)
                self._names.discard(name)
        self._outbox.flush()  # by itself: of one round what is kept comes before what is dropped

    def drop_but(self, units: Iterable[Unit], busy: Collection[str]) -> None:
        """Close what no unit has as its address any more. Units named in `busy` have processes that listen there still."""
        units = list(units)
        wanted = {f"listen:{unit.name}:{address.place}" for unit in units for address in unit.listen}
        for name in sorted(self._names):
            if name not in wanted and name.split(":")[1] not in busy:
                self._drop(name)
        pools = {unit.name for unit in units if unit.kind is Kind.POOL}
        for name in [name for name in self._outbox.fds if name.startswith("cells:")]:
            if name.partition(":")[2] not in {*pools, *busy}:
                self._outbox.drop(name)

    def drop_former(self, unit: Unit) -> None:
        """Close what the unit does not listen on any more, before its next process binds that, or what is in its way."""
        wanted = {f"listen:{unit.name}:{address.place}" for address in unit.listen}
        for name in sorted(self._names - wanted):
            if name.split(":")[1] == unit.name:
                self._drop(name)

    def close(self, unit: Unit) -> None:
        """Nobody will accept any more: refuse clients instead of keeping them waiting."""
        for name in [name for name in self._names if name.split(":")[1] == unit.name]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._outbox.drop(name)
        self._names.discard(name)
        path = name.split(":", 2)[2]
        if path.startswith("unix:"):
            if self.files:
                self.files.forget(path.removeprefix("unix:"))
            with contextlib.suppress(OSError):
                unlink_socket(path.removeprefix("unix:"))

    def roll_back(self) -> None:
        """Forget sockets bound for a cancelled start: they are closed already."""
        self._names.intersection_update(self._outbox.fds)

    # Sharing.

    def page(self, unit: Unit) -> str:
        """The name of the page that the workers of a pool share; "" where none can be made: it serves less evenly then."""
        name = f"cells:{unit.name}"
        if name not in self._outbox.fds:
            try:
                fd = cells.make()
            except OSError:
                return ""
            try:
                self._outbox.keep(name, fd, ours=True)
            except BaseException:
                os.close(fd)
                raise
        return name

    def blank_cell(self, unit: Unit, pid: int) -> None:
        """A worker has ended: it takes no share of the connections."""
        page = self._outbox.fds.get(f"cells:{unit.name}")
        if page is not None:
            cells.blank(page, pid)
