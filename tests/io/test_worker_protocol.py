"""What kind of application it is: told by the application itself, or by the operator; and what each fails with."""

from __future__ import annotations

import asyncio
import functools

import pytest
from aiohttp import web
from worker_harness import Pool, frames

from impetusd.worker import appload
from impetusd.worker.environment import WorkerError


async def asgi(scope, receive, send): ...


def wsgi(environ, start_response): ...


class Asgi:
    async def __call__(self, scope, receive, send): ...


class AsgiAwaited:
    def __call__(self, scope, receive, send): ...


class Wsgi:
    def __call__(self, environ, start_response): ...


def hidden(function):
    """A decorator that takes anything, and does not say what it wraps."""

    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def make_asgi():
    return asgi


async def make_wsgi():
    return Wsgi()


KINDS = [
    (web.Application(), "aiohttp"),
    (asgi, "asgi"),
    (Asgi(), "asgi"),
    (AsgiAwaited(), "asgi"),
    (functools.partial(lambda _, scope, receive, send: None, 1), "asgi"),
    (wsgi, "wsgi"),
    (Wsgi(), "wsgi"),
    (Wsgi().__call__, "wsgi"),
    (make_asgi, ""),
    (make_wsgi, ""),
    (Asgi, ""),
    (hidden(asgi), ""),
    (lambda scope: None, ""),
    (5, ""),
]


@pytest.mark.parametrize(("target", "kind"), KINDS)
def test_an_application_is_known_by_its_signature(target, kind):
    assert appload.protocol_of(target, "auto") == kind


@pytest.mark.parametrize(
    ("target", "protocol", "found"),
    [
        (asgi, "auto", (asgi, "asgi")),
        (make_asgi, "auto", (asgi, "asgi")),
        (make_asgi, "asgi", (asgi, "asgi")),
        (KINDS[0][0], "aiohttp", (KINDS[0][0], "aiohttp")),
    ],
)
def test_what_a_factory_makes_is_looked_at_too(target, protocol, found):
    assert asyncio.run(appload.build(target, "shop:app", protocol)) == found
    assert asyncio.run(appload.build(make_wsgi, "shop:app", "wsgi"))[1] == "wsgi"


def test_what_hides_its_arguments_is_what_the_operator_says():
    wrapped = hidden(asgi)
    assert asyncio.run(appload.build(wrapped, "shop:app", "asgi")) == (wrapped, "asgi")


@pytest.mark.parametrize(
    ("target", "protocol", "says"),
    [
        (KINDS[0][0], "wsgi", "app = shop:app uses aiohttp, but protocol = wsgi is set"),
        (lambda scope: None, "auto", "set protocol = asgi or wsgi"),
        (lambda: 5, "auto", "app = shop:app returned int, which is not an aiohttp, ASGI or WSGI application"),
        (lambda: wsgi, "asgi", "app = shop:app returned function, which is not a valid asgi application"),
    ],
)
def test_what_it_is_not_is_said_in_a_sentence(target, protocol, says):
    with pytest.raises(WorkerError, match=says):
        asyncio.run(appload.build(target, "shop:app", protocol))


@pytest.mark.parametrize("mode", ["serve", "template"])
def test_a_library_that_is_not_there_is_named_with_what_installs_it(mode):
    with Pool(app="app_asgi:app", hidden=("uvicorn",)) as pool:
        worker = pool.run(mode)
        assert worker.wait() == 78
        assert "protocol = asgi needs uvicorn, which cannot be imported (" in worker.text()
        assert worker.text().endswith("; pip install 'impetusd[asgi]'\n")


def test_a_lifespan_that_fails_ends_the_start_with_its_reason():
    with Pool(app="app_asgi:failing") as pool:
        worker = pool.run()
        assert worker.wait() == 1
        assert "Boom: in the lifespan" in worker.text()
        assert "its lifespan startup failed" in worker.text()
        assert not {"serve.py", "asgi_server.py"} & set(frames(worker.text()))


def test_a_parked_worker_has_entered_its_lifespan_and_leaves_it():
    with Pool(app="app_asgi:app") as pool:
        worker = pool.run()
        worker.until_told("STATUS=parked")
        assert worker.text("out") == "context entered\n"
        assert worker.signal().wait() == 0
        assert worker.text("out") == "context entered\ncontext left\n"


def test_root_path_and_forwarded_headers_reach_an_asgi_application():
    with Pool(app="app_asgi:app", root_path="/shop") as pool, pool.client() as client:
        pool.run().serve()
        client.send("/seen", "GET", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https")
        assert client.receive().body == (
            '{"client": ["192.0.2.7", 0], "scheme": "https", "root_path": "/shop", "path": "/shop/seen"}'
        )


def test_root_path_is_nothing_for_aiohttp():
    with Pool(root_path="/shop") as pool:
        worker = pool.run()
        assert worker.wait() == 78
        assert "root_path is for ASGI and WSGI" in worker.text()
