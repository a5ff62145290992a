"""supervisord's protocol over HTTP: who asks, what is refused before anybody is asked, and that a role is the supervisor's."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import random
import tempfile
import xmlrpc.client
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from fake_supervisor import row
from waiting import until

from impetusd.client import again
from impetusd.client.control import ControlError, Unanswered
from impetusd.core import protocol
from impetusd.interop import xmlrpc_asking, xmlrpc_methods
from impetusd.interop.xmlrpc import Peer, Supervisord

PAGE = {
    "path": "/l",
    "lines": ["one", "\x1b[31mtwo\x1b[0m"],
    "offset": 0,
    "next": 17,
    "file": "1:1",
    "anew": False,
    "more": False,
}
ANSWERS = {
    "status": {"units": [row("web:0"), row("db", kind="program", state="STOPPED", pid=None)], "groups": {}},
    "logs": {"files": []},
    "ping": {"shim": {"pid": 77}},
    "start": {"ok": True, "units": [row("db", kind="program")]},
    "stop": {"ok": True, "units": [row("web:0", state="STOPPED")]},
    "signal": {"ok": True},
    "flush": {"ok": True, "failed": []},
    "plan": {"changes": [], "problems": []},
    "describe": {"units": []},
    "tail": PAGE,
    "apply": {"ok": True, "changes": []},
    "restart": {"ok": True, "units": []},
    "enable": {"ok": True, "changes": [1]},
    "disable": {"ok": True, "changes": [1]},
}


class Backend:
    """A supervisor that refuses by role, as the real one does."""

    def __init__(self):
        self.asked = []
        self.silent = 0

    async def call(self, method, params, caller, progress=None):
        protocol.check_params(method, params)
        self.asked.append((caller.user, method))
        if self.silent:
            self.silent -= 1
            raise Unanswered("it is replaced")
        if not protocol.may(caller.role, method):
            raise ControlError(f"{method} takes another role\nthan yours")
        if progress is not None:
            progress({})
        return ANSWERS[method]


def caller(role, user="alice"):
    return SimpleNamespace(user=user, role=role, session="")


class World:
    """The listener on a unix socket and on a port; `peer` is who connects to the first."""

    def __init__(self):
        self.backend = Backend()
        self.peer = caller("admin")
        self.over = asyncio.Event()
        self.seen = []

        async def of_peer(peer):
            self.seen.append(peer)
            return self.peer

        async def of_password(_, user, password):
            return caller(user, user) if password == "right" else None

        self.server = Supervisord(self.backend, of_peer, of_password, hosts=["Panel.Example"], over=self.over)

    async def __aenter__(self):
        @web.middleware
        async def everything(request, handler):
            return await self.server.handle(request)

        self.folder = tempfile.TemporaryDirectory(prefix="imps", dir="/tmp")
        self.path = f"{self.folder.name}/s"
        self.runner = web.AppRunner(web.Application(middlewares=[everything]), access_log=None, shutdown_timeout=1)
        await self.runner.setup()
        await web.UnixSite(self.runner, self.path).start()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        self.unix = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self.path))
        self.tcp = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_):
        self.over.set()
        await self.unix.close()
        await self.tcp.close()
        await self.runner.cleanup()
        self.folder.cleanup()

    async def post(self, data, *, tcp=False, path="/RPC2", **headers):
        session, at = (self.tcp, f"http://127.0.0.1:{self.port}") if tcp else (self.unix, "http://localhost")
        sent = {"Content-Type": "text/xml", **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with session.post(at + path, data=data, headers=sent) as answer:
            return answer.status, await answer.text(), answer

    async def call(self, method, *params, **how):
        """The value, or the status of what is no answer."""
        status, text, _ = await self.post(xmlrpc.client.dumps(params, method), **how)
        return xmlrpc.client.loads(text)[0][0] if status == 200 else status


def run(scenario):
    async def whole():
        async with World() as world:
            await scenario(world)

    asyncio.run(whole())


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_the_kernel_says_who_asks_on_the_unix_socket():
    async def scenario(world):
        assert await world.call("supervisor.getPID") == 77
        (peer,) = world.seen
        assert peer == Peer(os.getuid(), frozenset({os.getgid(), *os.getgroups()}))
        world.peer = None
        assert await world.call("supervisor.getPID") == 403
        assert len(world.backend.asked) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (basic("viewer", "right"), 200),
        (basic("viewer", "wrong"), 401),
        (basic("", "right"), 401),
        ("", 401),
        ("Bearer x", 401),
        ("Basic !!", 400),
        ("Basic " + "A" * 5000, 400),
        ("Basic /w==", 400),
    ],
)
def test_on_tcp_it_is_a_user_with_a_password(authorization, status):
    async def scenario(world):
        found, _, answer = await world.post(
            xmlrpc.client.dumps((), "supervisor.getPID"),
            tcp=True,
            **({"Authorization": authorization} if authorization else {}),
        )
        assert found == status
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        assert not world.seen
        assert world.backend.asked == ([("viewer", "ping")] if status == 200 else [])

    run(scenario)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:9001", 200),
        ("[::1]:9001", 200),
        ("panel.example", 200),
        ("127.0.0.2", 421),
        ("127.evil.com", 421),
        ("localhost.evil.com:9001", 421),
        ("evil.com", 421),
        ("", 421),
    ],
)
def test_it_is_for_names_of_this_host(host, status):
    async def scenario(world):
        sent = {"Authorization": basic("viewer", "right"), "Host": host}
        assert (await world.post(xmlrpc.client.dumps((), "supervisor.getPID"), tcp=True, **sent))[0] == status
        assert (await world.post(xmlrpc.client.dumps((), "supervisor.getPID"), Host=host))[0] == (
            status if host else 200
        )

    run(scenario)


def test_no_page_gets_through():
    async def scenario(world):
        call = xmlrpc.client.dumps((), "supervisor.getPID")
        assert (await world.post(call, Origin="http://localhost"))[0] == 403
        assert (await world.post(call, Origin="null"))[0] == 403
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json",
        ):
            assert (await world.post(call, Content_Type=kind))[0] == 415
        assert (await world.post(call, Content_Encoding="gzip"))[0] in {400, 415}
        assert not world.backend.asked

    run(scenario)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/RPC2", 405),
        ("OPTIONS", "/RPC2", 405),
        ("PUT", "/RPC2", 405),
        ("POST", "/", 404),
        ("POST", "/RPC2/x", 404),
        ("GET", "/", 404),
        ("GET", "/api/v1/me", 404),
        ("GET", "/metrics", 404),
        ("GET", "/index.html", 404),
        ("GET", "/mainlogtail/x", 404),
        ("POST", "/mainlogtail", 405),
        ("GET", "/logtail/nope/stdout", 404),
        ("GET", "/logtail/web:0/stdin", 404),
        ("GET", "/logtail/web:0/stdout/x", 404),
        ("GET", "/logtail/../../etc/passwd", 404),
        ("GET", "/logtail/%2e%2e%2fetc%2fpasswd", 404),
    ],
)
def test_nothing_else_is_served_here(method, path, status):
    async def scenario(world):
        async with world.unix.request(method, aiohttp.client.URL(f"http://localhost{path}", encoded=True)) as answer:
            assert answer.status == status

    run(scenario)


def test_malformed_requests_are_4xx_and_reach_nobody():
    chance = random.Random(3)
    whole = xmlrpc.client.dumps((1, "a", [True]), "no.such").encode()

    async def scenario(world):
        assert (await world.post(io.BytesIO(b"<methodCall>" + b" " * (1 << 20))))[0] == 413
        for count in range(300):
            body = bytearray(whole)
            for _ in range(chance.randint(1, 5)):
                body[chance.randrange(len(body))] = chance.randrange(256)
            status, text, _ = await world.post(bytes(body))
            if status == 200:
                with pytest.raises(xmlrpc.client.Fault):
                    xmlrpc.client.loads(text)
            else:
                assert 400 <= status < 500, (count, status, text)
        assert not world.backend.asked

    run(scenario)


NEEDS = {  # method -> parameters, and the role that it takes
    "supervisor.addProcessGroup": (("new",), "admin"),
    "supervisor.clearAllProcessLogs": ((), "operator"),
    "supervisor.clearProcessLog": (("db",), "operator"),
    "supervisor.clearProcessLogs": (("db",), "operator"),
    "supervisor.readLog": ((0, 0), "operator"),
    "supervisor.readMainLog": ((0, 0), "operator"),
    "supervisor.readProcessLog": (("db", 0, 0), "operator"),
    "supervisor.readProcessStderrLog": (("db", 0, 0), "operator"),
    "supervisor.readProcessStdoutLog": (("db", 0, 0), "operator"),
    "supervisor.removeProcessGroup": (("db",), "admin"),
    "supervisor.restart": ((), "operator"),
    "supervisor.shutdown": ((), "operator"),
    "supervisor.signalAllProcesses": (("HUP",), "operator"),
    "supervisor.signalProcess": (("web:0", "HUP"), "operator"),
    "supervisor.signalProcessGroup": (("web", "HUP"), "operator"),
    "supervisor.startAllProcesses": ((), "operator"),
    "supervisor.startProcess": (("db",), "operator"),
    "supervisor.startProcessGroup": (("db",), "operator"),
    "supervisor.stopAllProcesses": ((), "operator"),
    "supervisor.stopProcess": (("web:0",), "operator"),
    "supervisor.stopProcessGroup": (("web", False), "operator"),
    "supervisor.tailProcessLog": (("db", 0, 9), "operator"),
    "supervisor.tailProcessStderrLog": (("db", 0, 9), "operator"),
    "supervisor.tailProcessStdoutLog": (("db", 0, 9), "operator"),
}
LOOKS = {
    "supervisor.sendProcessStdin": ("db", "x"),
    "supervisor.getProcessInfo": ("db",),
    "system.methodHelp": ("system.multicall",),
    "system.methodSignature": ("system.multicall",),
}
LOOKS["system.multicall"] = ([],)


def test_every_method_is_for_the_role_that_ours_takes():
    async def scenario(world):
        for name in xmlrpc_methods.METHODS:
            params, least = NEEDS.get(name, (LOOKS.get(name, ()), "viewer"))
            for role in protocol.ROLES:
                world.peer = caller(role)
                allowed = protocol.ROLES.index(role) >= protocol.ROLES.index(least)
                status, text, answer = await world.post(xmlrpc.client.dumps(params, name))
                assert status == (200 if allowed else 403), (name, role, text)
                if name == "supervisor.sendProcessStdin":  # nobody is refused by role, and nobody can
                    with pytest.raises(xmlrpc.client.Fault, match="NO_FILE: db reads /dev/null, so that fg only shows"):
                        xmlrpc.client.loads(text)
                elif allowed:
                    xmlrpc.client.loads(text)
                else:
                    assert answer.reason.endswith("takes another role?than yours")
                    calls = [{"methodName": name, "params": list(params)}]
                    ((found,), _) = xmlrpc.client.loads(
                        (await world.post(xmlrpc.client.dumps((calls,), "system.multicall")))[1]
                    )
                    assert found[0]["faultCode"] == 30
        assert not world.server._background

    run(scenario)


def test_a_restart_that_has_to_apply_changes_takes_the_role_for_that(monkeypatch):
    change = {"kind": "program", "name": "db", "effect": "restart", "keys": []}
    monkeypatch.setitem(ANSWERS, "plan", {"changes": [change], "problems": []})

    async def scenario(world):
        world.peer = caller("operator")
        assert await world.call("supervisor.restart") == 403
        assert {method for _, method in world.backend.asked} == {"plan", "status"}
        world.peer = caller("admin")
        assert await world.call("supervisor.restart") is True
        await until(lambda: not world.server._background)
        assert [method for _, method in world.backend.asked][-2:] == ["restart", "apply"]

    run(scenario)


def test_a_log_needs_the_role_also_where_it_is_followed():
    async def scenario(world):
        for path in ("/logtail/db", "/mainlogtail"):
            world.peer = caller("viewer")
            async with world.unix.get(f"http://localhost{path}") as answer:
                assert answer.status == 403
            world.peer = caller("operator")
            async with world.unix.get(f"http://localhost{path}") as answer:
                assert answer.status == 200
                assert await answer.content.readline() == b"one\n"
                assert await answer.content.readline() == b"two\n"
        async with world.unix.get("http://localhost/mainlogtail") as answer:
            await answer.content.readline()
            world.over.set()  # the gateway is replaced
            await answer.content.read()

    run(scenario)


def test_a_supervisor_that_is_replaced_is_asked_again(monkeypatch):
    monkeypatch.setattr(again, "FIRST_AGAIN", 0.0)

    async def scenario(world):
        world.backend.silent = 3
        assert await world.call("supervisor.startProcess", "db") is True
        monkeypatch.setattr(xmlrpc_asking, "PATIENCE", 0.0)
        world.backend.silent = 1000
        with pytest.raises(xmlrpc.client.Fault, match="FAILED: it is replaced"):
            await world.call("supervisor.getPID")

    run(scenario)
