"""supervisord, by its XML-RPC: the socket, the user and the password are those of its configuration."""

from __future__ import annotations

import http.client
import os
import re
import socket
import xmlrpc.client
from typing import TYPE_CHECKING, Any

from impetusd.interop.takeover.manager import ManagerFault, Process, Was

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LONGEST = 120.0  # seconds for an answer: a stop waits for stopwaitsecs
STATES = {
    **dict.fromkeys(("STARTING", "STOPPING"), Was.UNSETTLED),
    "RUNNING": Was.RUNNING,
    "STOPPED": Was.STOPPED,
    "EXITED": Was.ENDED,
}
NOT_RUNNING, ALREADY_STARTED, BAD_NAME = 70, 60, 10  # supervisor.xmlrpc.Faults


class Supervisord:
    """The one that answers at `url`, unix:///PATH or http://HOST:PORT."""

    title = "supervisord"

    def __init__(self, url: str, user: str = "", password: str = "") -> None:
        """Raises ManagerFault where none answers, or one that runs as somebody else."""
        self.notes: list[str] = []
        self._proxy = _proxy(url, user, password)
        self.pid = int(self._ask("cannot be reached", "getPID"))
        try:
            uid = os.stat(f"/proc/{self.pid}").st_uid
            with open(f"/proc/{self.pid}/cgroup", encoding="utf-8") as file:
                unit = re.search(r"/([^/\n]+\.service)$", file.read(), re.MULTILINE)
        except OSError:
            raise ManagerFault(f"the supervisord of {url} runs in another container or PID namespace") from None
        self._service = unit[1] if unit else ""
        if uid != os.geteuid():
            raise ManagerFault(
                f"the supervisord of {url} runs as user {uid}, but this command runs as {os.geteuid()}; run it as"
                " that user"
            )

    def _ask(self, what: str, method: str, *arguments: str, but: int = 0) -> Any:
        """The answer; None for the fault `but`. `what`: the sentence for any other."""
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == but:
                return None
            raise ManagerFault(f"supervisord {what}: {fault.faultString}") from None
        except xmlrpc.client.ProtocolError as error:
            raise ManagerFault(f"supervisord {what}: {error.errcode} {error.errmsg}") from None
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ValueError) as error:
            raise ManagerFault(f"supervisord {what}: {getattr(error, 'strerror', None) or error}") from None
        finally:
            self._proxy("close")()

    def processes(self) -> list[Process]:
        """All that it has."""
        return [
            Process(name, name, STATES.get(each["statename"], Was.FAILED), each["statename"], int(each["pid"]))
            for each in self._ask("cannot list its processes", "getAllProcessInfo")
            if (name := f"{each['group']}:{each['name']}")
        ]

    def stop(self, ids: Sequence[str]) -> None:
        """Stop these; they stay in its list."""
        for each in ids:
            self._ask(f"cannot stop {each}", "stopProcess", each, but=NOT_RUNNING)

    def start(self, ids: Sequence[str]) -> None:
        """Start these again, each for startsecs."""
        for each in ids:
            self._ask(f"cannot start {each}", "startProcess", each, but=ALREADY_STARTED)

    def forget(self, processes: Iterable[Process]) -> None:
        """Take out the groups of which nothing else is left; its configuration still has them."""
        gone = {each.id for each in processes}
        groups: dict[str, set[str]] = {}
        for each in self.processes():
            groups.setdefault(each.id.partition(":")[0], set()).add(each.id)
        for name, members in groups.items():
            if members <= gone:
                self._ask(f"cannot remove {name}", "removeProcessGroup", name, but=BAD_NAME)

    def by_hand(self, ids: Sequence[str]) -> str:
        """What an operator types."""
        return f"supervisorctl start {' '.join(ids)}"

    def at_the_end(self, *, empty: bool) -> list[str]:
        """What is left to do."""
        if not empty:
            return [
                (
                    "remove the moved programs from supervisord's configuration; otherwise a restart of supervisord"
                    " starts them again"
                )
            ]
        if self._service:
            return [f"systemctl disable --now {self._service}: its next start would start the programs again"]
        return ["supervisorctl shutdown, and make sure that nothing starts it again: it would start the programs again"]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=LONGEST)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(LONGEST)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    """Over connections that `connection` makes."""

    def __init__(self, connection: Callable[[], http.client.HTTPConnection], headers: list[tuple[str, str]]) -> None:
        super().__init__(headers=headers)
        self._make = connection

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        self._extra_headers: list[tuple[str, str]] = []
        connection = self._connection[1] or self._make()
        self._connection = host, connection
        return connection


def _proxy(url: str, user: str, password: str) -> Any:
    import base64

    headers = []
    if user:
        token = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        headers.append(("Authorization", f"Basic {token}"))
    if url.startswith("unix://"):
        transport = _Transport(lambda: _UnixConnection(url.removeprefix("unix://")), headers)
    else:
        host = url.removeprefix("http://").rstrip("/")
        transport = _Transport(lambda: http.client.HTTPConnection(host, timeout=LONGEST), headers)
    return xmlrpc.client.ServerProxy("http://localhost/RPC2", transport)
