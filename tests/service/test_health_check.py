"""`impetusd-service health-check`: a real server that is well, is not, hangs or talks nonsense."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner
from server import run

from impetus_service import command
from impetus_service.health_check import url_of

WELL = {"status": "ok", "database": {"ok": True, "latency_ms": 0.3, "error": None}}
ILL = {"status": "unavailable", "database": {"ok": False, "latency_ms": None, "error": "connection refused"}}


async def asked(handler, *options):
    """(exit code, stdout, HOST:PORT)."""
    application = web.Application()
    application.router.add_get("/health", handler)
    async with TestServer(application) as server:
        host = f"127.0.0.1:{server.port}"
        arguments = ["health-check", host, "--timeout", "60", *options]
        result = await asyncio.to_thread(CliRunner().invoke, command.main, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, host


async def hang(_request):
    await asyncio.sleep(60)


def answers(**how):
    async def answer(_request):
        return web.Response(**how) if "text" in how else web.json_response(**how)

    return answer


@pytest.mark.parametrize(
    ("handler", "options", "code", "said"),
    [
        (answers(data=WELL), (), 0, "{host} is healthy: answered in {took} ms, database 0.3 ms\n"),
        (answers(data=WELL), ("-q",), 0, ""),
        (answers(data=ILL, status=503), ("-q",), 1, "{host} is unhealthy (503): database: connection refused\n"),
        (answers(data=ILL), (), 1, "{host} is unhealthy (200): database: connection refused\n"),
        (answers(text="fine", status=200), (), 0, "{host} is healthy: answered in {took} ms\n"),
        (answers(text="[" * 100_000, status=200), (), 0, "{host} is healthy: answered in {took} ms\n"),
        (answers(text="Bad\x1b[31m Gateway", status=502), (), 1, "{host} is unhealthy (502): Bad[31m Gateway\n"),
        (answers(text="", status=404), (), 1, "{host} is unhealthy (404): an empty response\n"),
        (hang, ("--timeout", "0.2"), 1, "{host}: no response within 0.2 s\n"),
    ],
)
def test_one_sentence_and_an_exit_code(handler, options, code, said):
    async def main():
        found, out, host = await asked(handler, *options)
        took = out.partition("answered in ")[2].partition(" ms")[0]
        assert (found, out) == (code, said.format(host=host, took=took))

    run(main())


def test_json_has_all_that_was_answered():
    async def main():
        code, out, host = await asked(answers(data=ILL, status=503), "--json")
        told = json.loads(out)
        assert (code, told["ok"], told["status"], told["url"]) == (1, False, 503, f"http://{host}/health")
        assert told["health"] == ILL

    run(main())


def test_who_does_not_answer_is_not_healthy():
    result = CliRunner().invoke(command.main, ["health-check", "127.0.0.1:1", "--json"])
    assert (result.exit_code, json.loads(result.stdout)["reason"]) == (1, "no response: Connection refused")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("shop.example", "http://shop.example/health"),
        ("shop.example:8080", "http://shop.example:8080/health"),
        ("[::1]:8080", "http://[::1]:8080/health"),
        ("https://shop.example/", "https://shop.example/health"),
        ("https://shop.example/health/ready?a=b", "https://shop.example/health/ready?a=b"),
    ],
)
def test_health_is_asked_where_no_path_is_named(host, url):
    assert url_of(host) == url


@pytest.mark.parametrize("host", ["", "a b", "ftp://x", "http://", "x:99999", "[::1", "http://u:p@x"])
def test_what_is_no_host_is_wrong_usage(host):
    result = CliRunner().invoke(command.main, ["health-check", host])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"impetusd-service: health-check: {host!r}: must be HOST, HOST:PORT or http(s)://HOST[:PORT]\n"
    )
