"""The control socket's server: nobody keeps root out, nobody costs more than a share, and refusals fill no ledger."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
import time
from types import SimpleNamespace

import pytest
from waiting import until

from impetusd.core import protocol
from impetusd.core.config.model import Group
from impetusd.core.protocol import MAX_NAMES, MAX_PATTERNS, ProtocolError, Request
from impetusd.supervisor.api import audit, control
from impetusd.supervisor.api.audit import MOST_FAILED, MOST_NAMES, MOST_REFUSED, Audit
from impetusd.supervisor.api.commands import parse_signal
from impetusd.supervisor.api.control import OF_ONE_USER, ControlServer
from impetusd.supervisor.api.names import Names

BOB, CAROL = 61001, 61002
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it is about other users")


class Server:
    """A ControlServer on a socket that everybody reaches; Bob and Carol are viewers. `handle` answers."""

    def __init__(self, handle=None):
        self.refused = []
        self._handle = handle or self._nothing

    @staticmethod
    async def _nothing(request, _progress):
        return {"method": request.method}

    async def __aenter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="impc", dir="/tmp")
        os.chmod(self._folder.name, 0o711)
        self.path = f"{self._folder.name}/s"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(self.path)
        os.chmod(self.path, 0o666)
        self.told = []
        roles = {0: protocol.ADMIN, os.geteuid(): protocol.ADMIN, BOB: protocol.VIEWER, CAROL: protocol.VIEWER}
        self.server = ControlServer(
            self._handle,
            self.told.append,
            lambda peer: roles.get(peer.uid, ""),
            lambda *what: self.refused.append(what),
        )
        await self.server.listen(sock)
        return self

    async def __aexit__(self, *_):
        await self.server.close()
        await until(lambda: not self.server._tasks)
        self._folder.cleanup()
        assert self.told == []

    async def ask(self, method="ping", **params):
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_unix_connection(self.path)
            writer.write(line(method, **params))
            answer = json.loads(await reader.readline())
            writer.close()
            return answer


def line(method="ping", **params):
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


class User:
    """A process of this user that connects so many times, says `message` on each connection, and reads what comes."""

    def __init__(self, uid, path, count, message=b""):
        self.reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                socks = []
                for _ in range(count):
                    socks.append(socket.socket(socket.AF_UNIX))
                    socks[-1].connect(path)
                    socks[-1].sendall(message)
                os.write(writer, b"connected\n")
                if message:
                    os.write(writer, socks[0].recv(100_000))
                signal.pause()
            finally:
                os._exit(0)
        os.close(writer)
        os.set_blocking(self.reader, False)
        self.text = b""

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.reader)

    def said(self, what):
        """Whether it has told this by now."""
        try:
            self.text += os.read(self.reader, 100_000)
        except BlockingIOError:
            pass
        return what in self.text


@needs_root
def test_idle_connections_of_others_keep_neither_root_nor_each_other_out():
    async def main():
        async with Server() as server:
            users = [User(BOB, server.path, 64)]
            try:
                await until(lambda: users[0].said(b"connected"))
                await until(lambda: server.server._open[BOB] == OF_ONE_USER)
                assert (await server.ask("stop"))["result"] == {"method": "stop"}
                users.append(User(CAROL, server.path, 1, line()))
                await until(lambda: users[1].said(b"result"))
            finally:
                for user in users:
                    user.close()
            await until(lambda: not server.server._open)

    asyncio.run(main())


@needs_root
def test_who_has_used_up_its_share_waits_and_nobody_else_does(monkeypatch):
    monkeypatch.setattr(control, "SHARE", 1e-6)
    monkeypatch.setattr(control, "BURST", 1e-3)

    async def burn(request, _progress):
        if request.params.get("names"):
            end = time.thread_time() + 0.05
            while time.thread_time() < end:
                pass
        return {}

    async def main():
        async with Server(burn) as server:
            first = User(BOB, server.path, 1, line("status", names=["x"]))
            second = None
            try:
                await until(lambda: first.said(b"result"))
                second = User(BOB, server.path, 1, line("ping"))
                await until(lambda: second.said(b"connected"))
                await until(lambda: server.server._open[BOB] == 2)
                for _ in range(3):
                    assert (await server.ask("status", names=["x"]))["result"] == {}
                assert not second.said(b"result")
            finally:
                first.close()
                if second is not None:
                    second.close()

    asyncio.run(main())


class TestNames:
    def test_are_taken_once_and_of_patterns_only_so_many(self):
        asked = protocol.check_params("status", {"names": ["many:*"] * MAX_NAMES})
        assert asked["names"] == ["many:*"]
        patterns = [f"{n}*" for n in range(MAX_PATTERNS + 1)]
        with pytest.raises(ProtocolError, match="at most 32 patterns"):
            protocol.check_params("status", {"names": patterns})
        protocol.check_params("status", {"names": [*patterns[1:], *(f"p{n}" for n in range(9000))]})

    def test_are_looked_up_and_not_searched_for(self):
        entries = {}
        for number in range(2000):
            unit = SimpleNamespace(name=f"u{number % 500}")
            entries[f"u{number % 500}:{number}"] = SimpleNamespace(unit=unit, name=f"u{number % 500}:{number}")
        looked = []
        slots = SimpleNamespace(
            entries=entries,
            units={f"u{n}": None for n in range(501)},
            shown=lambda entry: looked.append(1) or entry.name,
        )
        names = Names(SimpleNamespace(slots=slots), {"some": Group("some", "x.ini:1", ("u1", "u2"))})
        assert len(names.find(list(entries) * 5)) == 2000
        assert len(looked) == 2000
        assert [entry.unit.name for entry in names.find(["some"])] == ["u1", "u2"] * 4
        assert len(names.find(["so*"])) == 8
        assert len(names.find(["u1", "u1:*", "u1:1"])) == 4
        with pytest.raises(ProtocolError, match="u500 is disabled; run: impetusd enable u500"):
            names.find(["u500"])
        with pytest.raises(ProtocolError, match=r"no unit 'all'; .* more; for everything, omit the name$"):
            names.find(["all"])
        with pytest.raises(ProtocolError, match=r"no unit 'zz'; units: u0, .*, u49 and 451 more"):
            names.find(["zz"])

    @pytest.mark.parametrize("text", ["²", "٣", "9" * 5000, "SIG", "", "-1", "HUP\0", "ſ", "KILL "])
    def test_what_is_no_signal_is_told_so(self, text):
        with pytest.raises(ProtocolError, match="unknown signal"):
            parse_signal(text)


class TestTheAudit:
    def test_a_record_is_bounded_and_refusals_are_counted(self):
        records, due = [], []
        given = Audit(records.append, lambda seconds, act: due.append((seconds, act)))
        viewer = SimpleNamespace(uid=BOB, who=BOB, via="", gid=BOB, pid=os.getpid(), role="viewer")
        request = Request(1, "stop", {"names": [f"name{n}" for n in range(9800)]})
        for _ in range(1000):
            given(viewer, request, "refused", "x" * 5000)
        assert len(records) == MOST_REFUSED
        assert all(len(json.dumps(record)) < 2500 for record in records)
        assert (len(records[0]["names"]), records[0]["more"]) == (MOST_NAMES, 9800 - MOST_NAMES)
        given(SimpleNamespace(uid=0, who=0, via="", gid=0, pid=os.getpid(), role="admin"), request, "failed", "no")
        assert records[-1]["uid"] == 0
        ((seconds, act),) = due
        assert seconds == audit.MINUTE
        act()
        assert (records[-1]["uid"], records[-1]["times"]) == (BOB, 1000 - MOST_REFUSED)
        given(viewer, request, "refused", "no")
        assert "times" not in records[-1]  # a new minute

    def test_what_is_done_is_always_written_down(self):
        records = []
        given = Audit(records.append, lambda *_: None)
        operator = SimpleNamespace(uid=BOB, who=BOB, via="", gid=BOB, pid=os.getpid(), role="operator")
        for _ in range(100):
            given(operator, Request(1, "restart", {"names": ["web"]}), "done", "")
            given(operator, Request(1, "restart", {"names": ["wbe"]}), "failed", "no unit 'wbe'")
        assert [record["outcome"] for record in records].count("done") == 100
        assert [record["outcome"] for record in records].count("failed") == MOST_FAILED
