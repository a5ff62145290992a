"""Nobody gets an answer above the role, by any route; whatever is malformed is refused, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import os
import random
import string

from gateway_world import run
from waiting import until

from impetusd.core import protocol
from impetusd.core.protocol import ROLES
from impetusd.gateway import routes

BODIES = {
    "scale": {"n": 1},
    "signal": {"signal": "HUP"},
    "login": {"code": "nobody has this"},
    "silences": {"name": "", "for": 60, "why": "x"},
}
QUERIES = {
    "/api/v1/logs": "?unit=api",
    "/api/v1/logs/stream": "?unit=api",
    "/api/v1/logs/search": "?unit=api&q=x",
    "/api/v1/logs/context": "?id=0-0:0-out-api:0",
}


def test_every_route_by_every_role():
    async def scenario(gateway):
        gateway.backend.dry = True
        who = {
            "none": {},
            "expired": gateway.token("admin", "old", expires=1.0),
            "wrong": {"Authorization": "Bearer impd_x"},
        }
        who |= {role: await gateway.bearer(role) for role in ROLES}
        for (method, path), route in gateway.app[routes.ROUTES].items():
            word = path.rpartition("/")[2]
            at = path.replace("{name}", "api").replace("{id}", "1") + QUERIES.get(path, "")
            for name, headers in who.items():
                gateway.backend.asked.clear()
                body = json.dumps(BODIES.get(word, {})) if route.body is not None else None
                more = {"Content-Type": "application/json"} if body else {}
                async with gateway.http.request(method, at, data=body, headers={**headers, **more}) as answer:
                    what = f"{method} {path} as {name}: {answer.status}"
                    if route.role == routes.OPEN:
                        assert answer.status in {200, 204, 401, 404}, what
                    elif name not in ROLES:
                        assert answer.status == 401, what
                    elif ROLES.index(name) < ROLES.index(route.role):
                        assert answer.status == 403, what
                    else:
                        assert answer.status in {200, 204, 404, 409}, f"{what} {await answer.text()}"
                for asked, _, caller in gateway.backend.asked:
                    assert protocol.may(caller.role, asked), f"{what} asked for {asked}"
                    assert caller.role == name

    run(scenario)


def test_each_route_takes_the_role_of_what_it_asks_for():
    """Else the supervisor would refuse what the table allows, or the table forbid what the supervisor would not."""
    from impetusd.gateway import rest

    for route in rest.ROUTES:
        method = rest.ACTIONS.get(route.path.rpartition("/")[2], ("",))[0]
        if route.method == "POST" and method:
            assert route.role == protocol.METHODS[method].role


# Malformed requests: deterministic, of many kinds.

GOOD = "Host: 127.0.0.1\r\nAuthorization: {token}\r\n"
JSON = "Content-Type: application/json\r\n"


def malformed(random):
    """Bytes of one request that must be refused."""
    junk = "".join(random.choice(string.printable[:94]) for _ in range(random.randint(1, 30))).replace(" ", "_")
    number = random.randint(0, 1 << 20)
    kind = random.randint(0, 17)
    path = random.choice(["/api/v1/me", "/api/v1/units/api/start", "/api/v1/stream", "/api/v1/login", "/api/v1/events"])
    get, post = (
        f"GET {path} HTTP/1.1\r\n",
        f"POST {random.choice(['/api/v1/login', '/api/v1/units/api/stop'])} HTTP/1.1\r\n",
    )

    def body(data):
        return f"{post}{GOOD}{JSON}Content-Length: {len(data)}\r\n\r\n{data}"

    match kind:
        case 0:
            return f"{get}Host: {junk}.evil.com\r\n\r\n"
        case 1:
            return f"{get}Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n"
        case 2:
            return f"GET /{number}/{junk.replace('#', '').replace('?', '')} HTTP/1.1\r\n{GOOD}\r\n"
        case 3:
            return (
                f"{random.choice(['PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'HEAD'])} {path} HTTP/1.1\r\n{GOOD}\r\n"
            )
        case 4:
            return body(
                random.choice(
                    ["{", "[]", "nul", '"x"', '{"a":NaN}', "{'a':1}", "[" * 5000, '{"a":' * 3000, "1e999", "\xff\xfe"]
                )
            )
        case 5:
            return body(json.dumps({junk: number}))
        case 6:
            return body(json.dumps({"user": random.choice([number, None, [], {}, True]), "password": [junk]}))
        case 7:
            return f"{post}{GOOD}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}"
        case 8:
            return f"{post}{GOOD}{JSON}Content-Length: {random.choice(['-1', 'x', '1, 2', '0x10', '99999999999999999999'])}\r\n\r\n"
        case 9:
            return f"{post}{GOOD}{JSON}Transfer-Encoding: {random.choice(['gzip', 'chunked, gzip', 'x'])}\r\n\r\n"
        case 10:
            return f"{post}{GOOD}{JSON}Transfer-Encoding: chunked\r\n\r\n{random.choice(['zz', '-5', 'g0'])}\r\n"
        case 11:
            return f"GET /api/v1/events?{random.choice(['last=-1', 'last=x', 'after=1&after=2', f'{number}=1', 'last=999999999', 'unit=', 'unit=%00', 'unit=a*'])} HTTP/1.1\r\n{GOOD}\r\n"
        case 12:
            return f"{get}{GOOD}X-Long: {'x' * 20000}\r\n\r\n"
        case 13:
            return f"{get}Host: 127.0.0.1\r\nAuthorization: {random.choice(['Bearer', 'Basic YTpi', f'Bearer {number}', 'Bearer impd_' + 'x' * 500])}\r\n\r\n"
        case 14:
            return f"{get}{GOOD}Origin: http://{number}.evil.com\r\n\r\n"
        case 15:
            return f"{random.choice(['GET', 'G@T', ''])} {random.choice(['me', 'http:/', '', chr(1)])} {random.choice(['HTTP/9.9', 'HTTP', ''])}\r\n\r\n"
        case 16:
            return f"{post}{GOOD}{JSON}Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"
        case _:
            return f"GET /api/v1/units/{random.choice(['%00', '*', 'a%0ab', '%ff', 'x' * 300, '%5b', '..%2f'])} HTTP/1.1\r\n{GOOD}\r\n"


class Wire(asyncio.Transport):
    """A connection of 127.0.0.1 without sockets: what the server writes is kept, and `head` is set with its first line."""

    def __init__(self, server, port):
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", port)})
        self.head = asyncio.get_running_loop().create_future()
        self._written = b""
        self._server = server()
        self._server.connection_made(self)

    def request(self, data):
        self._server.data_received(data)

    def write(self, data):
        if not self.head.done():
            self._written += data
            line, end, _ = self._written.partition(b"\r\n")
            if end:
                self.head.set_result(line)

    def is_closing(self):
        return self._server is None

    def close(self):
        if self._server is not None:
            server, self._server = self._server, None
            if not self.head.done():
                self.head.set_result(b"")
            asyncio.get_running_loop().call_soon(server.connection_lost, None)

    abort = close

    def pause_reading(self):
        pass

    resume_reading = pause_reading


def test_ten_thousand_malformed_requests():
    """The first of them over sockets, the rest without: what refuses them is the same."""

    async def scenario(gateway):
        token = (await gateway.bearer("admin"))["Authorization"]
        port = int(gateway.url.rpartition(":")[2])
        numbers = random.Random(20261130)
        seen = collections.Counter()

        async def over_sockets(request):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            try:
                return await reader.readline()
            except ConnectionError:
                return b""
            finally:
                writer.transport.abort()

        async def without(request):
            wire = Wire(gateway.server, port)
            wire.request(request)
            try:
                return await wire.head
            finally:
                wire.close()

        async def some(count, answer):
            for _ in range(count):
                request = malformed(numbers).replace("{token}", token).encode("latin-1")
                head = await answer(request)
                status = head.split()[1] if head.split()[1:] else b"none"
                seen[status] += 1
                assert status[:1] == b"4" or status == b"none", (request[:300], head)

        def held():
            gc.collect()
            return len(os.listdir("/proc/self/fd")), len(gc.get_objects())

        await some(500, over_sockets)
        await some(500, without)
        await asyncio.sleep(0)
        descriptors, objects = held()
        await some(500, over_sockets)
        await asyncio.gather(*(some(500, without) for _ in range(17)))
        await until(lambda: not gateway.server.connections, "the end of the last connection")
        now = held()
        assert now[0] <= descriptors + 5
        assert now[1] < objects + 5000
        assert seen.total() == 10_000
        assert seen[b"none"] < 200, seen
        async with gateway.get("/api/v1/me", await gateway.bearer("admin")) as answer:
            assert answer.status == 200

    run(scenario)
