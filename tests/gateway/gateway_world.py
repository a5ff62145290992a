"""A gateway in front of a supervisor: both real, in this process, with a backend over the control socket."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import fields as fields_of
from unittest.mock import patch

import aiohttp
from aiohttp import web
from supervisor_world import in_a_folder
from waiting import PATIENCE, until

from impetusd.client import async_control
from impetusd.client.async_control import AsyncControl
from impetusd.client.control import ControlError
from impetusd.core import protocol
from impetusd.core.stream import Mirror
from impetusd.gateway import access, accessfile, guard, login, passwords, tokens
from impetusd.gateway.accessfile import Token
from impetusd.gateway.app import assembled
from impetusd.gateway.keys import BACKEND
from impetusd.gateway.settings import Settings

INI = """[impetusd]

[program:api]
command = sleep 1000 --password=hunter2hunter2

[env:api]
API_KEY = topsecret-9c2

[program:db]
command = sleep 1000

[timer:clean]
command = true
every = 1d
"""
PASSWORD = "correct horse battery"


class OverSocket:
    """As the backend over the channel: what the role does not allow is refused by who is asked."""

    def __init__(self, path):
        self._control = AsyncControl(async_control.at(path))
        self.mirror = Mirror()
        self.live = False
        self._queues = []
        self.asked = []
        self.heard = collections.Counter()  # answers to what is followed, by slot
        self.dry = False  # nothing is carried out

    async def run(self):
        async for change in self._control.watch(self.mirror):
            self.live = change.kind != "lost"
            for queue in self._queues:
                queue.put_nowait(change)

    async def subscribe(self):
        queue = asyncio.Queue()
        self._queues.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.remove(queue)

    async def follow(self, method, params, caller):
        self.asked.append((method, dict(params), caller))
        if not protocol.may(caller.role, method) or self.dry:
            raise ControlError(f"{method} is not carried out")
        async for part in self._control.follow(method, params):
            self.heard[params.get("name")] += 1
            yield part

    async def call(self, method, params, caller=None, progress=None):
        if caller is None:  # the gateway's own question
            return await self._control.call(method, params, progress)
        self.asked.append((method, dict(params), caller))
        if not protocol.may(caller.role if caller is not None else protocol.VIEWER, method):
            raise ControlError(f"{method} takes the role {protocol.METHODS[method].role}")
        if self.dry:
            raise ControlError("nothing is carried out here")
        return await self._control.call(method, params, progress)


class Gateway:
    """`url` of it, and ways to log in; each gives the headers for requests."""

    def __init__(self, life, folder, app, url):
        self.life, self.folder, self.app, self.url = life, folder, app, url
        self.backend = app[BACKEND]
        self.access = app[guard.ACCESS]
        self.path = ""  # of its socket, if it is a unix socket
        self.server = None  # aiohttp's: makes what serves one connection
        self.http = aiohttp.ClientSession(base_url=url, cookie_jar=aiohttp.DummyCookieJar())

    def token(self, role, name=None, expires=0.0):
        secret = tokens.new(tokens.PREFIX)
        made = Token(role, tokens.digest(secret), time.time(), expires)
        accessfile.change(self.folder, lambda state: state.add_token(name or secret[-8:], made))
        return {"Authorization": f"Bearer {secret}"}

    async def bearer(self, role, name=None, expires=0.0):
        headers = self.token(role, name, expires)
        digest = tokens.digest(headers["Authorization"].partition(" ")[2])
        await until(lambda: any(each.digest == digest for each in self.access.state.tokens.values()), "the token")
        return headers

    async def user(self, name, role, password=PASSWORD):
        await self.access.change(lambda state: state.set_user(name, role, passwords.hashed(password)))

    async def cookie(self, name, password=PASSWORD):
        async with self.post("/api/v1/login", {"user": name, "password": password}) as answer:
            assert answer.status == 204, await answer.text()
            return {"Cookie": "; ".join(f"{each.key}={each.value}" for each in answer.cookies.values())}

    def get(self, path, headers=(), **more):
        return self.http.get(path, headers=dict(headers), **more)

    def post(self, path, body=None, headers=(), **more):
        return self.http.post(path, json={} if body is None else body, headers=dict(headers), **more)

    async def events(self, response):
        """Of an SSE answer: (event, data, id) each."""
        fields = {}
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif fields:
                yield fields.get("event"), fields.get("data"), fields.get("id")
                fields = {}


def settings(folder, **given):
    none = {
        each.name: ()
        if each.name in {"alerts", "listen", "hosts", "remotes", "trusted_proxies"}
        else False
        if each.name == "behind_proxy"
        else ""
        for each in fields_of(Settings)
    }
    return Settings(**{**none, "folder": folder, "metrics": "token", **given})


@contextlib.asynccontextmanager
async def serving(life, *, ceiling=protocol.ADMIN, listen=None, **given) -> AsyncIterator[Gateway]:
    folder = f"{life.shim.paths.state_dir}/gateway"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    backend = OverSocket(life.shim.paths.control_socket)
    watchers = life.daemon.feed._watchers
    app = assembled(settings(folder, ceiling=ceiling, **given), backend)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    site = web.UnixSite(runner, listen) if listen else web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = "http://localhost" if listen else f"http://127.0.0.1:{runner.addresses[0][1]}"
    gateway = Gateway(life, folder, app, url)
    gateway.path, gateway.server = listen or "", runner.server
    try:
        await until(lambda: backend.live, "the backend's snapshot")
        yield gateway
    finally:
        await gateway.http.close()
        await runner.cleanup()
        await until(lambda: life.daemon.feed._watchers <= watchers, "the watcher has gone")


def run(scenario, ini=INI, **how):
    """One life of a supervisor with a gateway in front of it."""
    with in_a_folder(ini) as shim:

        async def live(life):
            async with asyncio.timeout(240), serving(life, **how) as gateway:
                await scenario(gateway)

        with contextlib.ExitStack() as stack:
            for where, name, value in (
                (passwords, "_N", 4),  # what a password costs is not of interest here: 76 ms, each time
                (access, "WITHIN", PATIENCE),
                (async_control, "ANSWER", PATIENCE),
                (accessfile, "LOCKED", PATIENCE),
                (login, "WITHIN", PATIENCE),
                (login, "EACH", 1e6),  # no failed login is forgotten, however long the others take
            ):
                stack.enter_context(patch.object(where, name, value))
            shim.live(live)
