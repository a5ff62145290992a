"""The prober: questions in threads, commands as jobs, and a loop that waits for none of them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from health_harness import check, unit
from probe_server import PATIENCE, Server, holds, says, unused_port
from waiting import turns, until, wait_for

from impetusd.core.config.model import Kind
from impetusd.core.reasons import because, not_started
from impetusd.core.rules.health import Result
from impetusd.core.rules.policy import Exit
from impetusd.supervisor.rules import prober
from impetusd.supervisor.rules.prober import Prober, in_thread
from impetusd.supervisor.slots.entry import Entry, Role

ROOT = Path(__file__).parents[2]


async def no_job(_unit):
    raise AssertionError


NO_PROGRAM = not_started("exec", because("no_file", name="x"), "x")


def asks(connect=lambda _worker: None, run_job=no_job):
    return Prober(connect=connect, run_job=run_job)


def command(*argv, **changes):
    job = unit("health:web", Kind.HEALTH)
    object.__setattr__(job, "command", argv)
    return check(http="", unit=job, **changes)


class TestThread:
    def test_the_loop_goes_on_while_a_server_hangs(self):
        """The loop itself lets the server go: it could not, did it wait for the answer."""
        with Server(holds) as server:

            async def scenario():
                asyncio.get_running_loop().call_later(0.05, server.over.set)
                return await asks().ask(check(http=server.url(), timeout=PATIENCE), None)

            result = asyncio.run(scenario())
        assert result[:2] == (False, "the connection was closed without a response")

    def test_a_look_up_that_hangs_is_given_up(self, monkeypatch):
        released = threading.Event()
        monkeypatch.setattr(prober, "LOOK_UP", 0.05)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: released.wait(PATIENCE) and [])
        try:
            result = asyncio.run(asks().ask(check(http="http://slow.example/", timeout=0.05), None))
        finally:
            released.set()
        assert (result.ok, result.text, result.blame) == (False, "DNS lookup took longer than 0.05 s", False)

    def test_no_thread_can_be_had(self, monkeypatch):
        def refuse(_thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        result = asyncio.run(asks().ask(check(http="http://127.0.0.1/"), None))
        assert (result.text, result.blame) == ("cannot send the check: can't start new thread", False)

    def test_a_mistake_of_ours_is_an_answer(self):
        def mistake():
            raise KeyError("ours")

        assert asyncio.run(in_thread(mistake, PATIENCE)) == Result(
            False, "cannot send the check: KeyError('ours')", blame=False
        )

    def test_the_end_of_the_loop_is_not_held_up(self):
        released, finished = threading.Event(), threading.Event()

        def ask():
            released.wait(PATIENCE)
            finished.set()
            return Result(True, "late")

        async def scenario():
            asyncio.get_running_loop().create_task(in_thread(ask, PATIENCE))
            await turns()

        asyncio.run(scenario())
        assert not finished.is_set()
        released.set()
        assert finished.wait(PATIENCE)

    def test_nothing_is_left_between_two_questions(self):
        with Server(says()) as server:
            asyncio.run(asks().ask(check(http=server.url()), None))
        wait_for(lambda: all(thread.name != "probe" for thread in threading.enumerate()), "the end of its threads")


class TestWays:
    def test_http_with_everything_that_is_configured(self):
        with Server(says("404 Not Found", "well")) as server:
            good = check(http=server.url(), status=((404, 404),), body="well", headers=(("X-A", "b"),))
            assert asyncio.run(asks().ask(good, None))[:2] == (True, "404 Not Found")
        assert b"\r\nX-A: b\r\n" in server.asked[0]

    def test_tcp(self):
        with Server(holds) as server:
            assert asyncio.run(asks().ask(check(http="", tcp=f"127.0.0.1:{server.port}"), None)).ok
            server.over.set()
        with unused_port() as port:
            result = asyncio.run(asks().ask(check(http="", tcp=f"127.0.0.1:{port}"), None))
        assert result[:2] == (False, "connection refused")

    def test_a_worker_over_a_connection_of_its_own(self):
        worker = Entry(unit("web", Kind.POOL), Role.WORKER, 0)
        ours, theirs = socket.socketpair()
        given = []

        def connect(whom):
            given.append(whom)
            return ours

        def serve():
            with theirs:
                theirs.recv(65536)
                says("503 Service Unavailable", "no database")(None, theirs)

        thread = threading.Thread(target=serve)
        thread.start()
        result = asyncio.run(asks(connect).ask(check(), worker))
        thread.join(PATIENCE)
        assert (result.ok, result.text, given) == (False, "503 Service Unavailable: no database", [worker])

    def test_a_worker_that_there_is_no_way_to(self):
        result = asyncio.run(asks().ask(check(), Entry(unit("web", Kind.POOL), Role.WORKER, 0)))
        assert (result.text, result.blame) == ("cannot send the check: no channel to the worker", False)


class TestExec:
    @pytest.mark.parametrize(
        ("end", "tail", "expected"),
        [
            (Exit(code=0), ["accepting connections"], (True, "exit 0", True)),
            (Exit(code=2), ["trying", "no response", ""], (False, "exit 2: no response", True)),
            (Exit(signal=11), [], (False, "killed by SIGSEGV", True)),
            (Exit(failed=NO_PROGRAM), [], (False, str(NO_PROGRAM), False)),
        ],
    )
    def test_how_it_ends_is_the_answer(self, end, tail, expected):
        async def run_job(_unit):
            return end, tail

        result = asyncio.run(asks(run_job=run_job).ask(command("x"), None))
        assert (result.ok, result.text, result.blame) == expected

    def test_what_cannot_be_run(self):
        async def run_job(_unit):
            raise OSError("the shim is gone")

        result = asyncio.run(asks(run_job=run_job).ask(command("x"), None))
        assert (result.ok, result.text, result.blame) == (
            False,
            "cannot run its command: the shim is gone",
            False,
        )

    def test_at_its_timeout_it_is_ended_and_until_then_not_run_again(self):
        running, most = 0, 0
        may_end = asyncio.Event()

        async def run_job(_unit):
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await asyncio.Event().wait()
            finally:
                await may_end.wait()
                running -= 1

        async def scenario():
            ask, slow = asks(run_job=run_job), command("x", timeout=0.02)
            texts = [(await ask.ask(slow, None)).text, (await ask.ask(slow, None)).text]
            may_end.set()
            await until(lambda: not running)
            texts.append((await ask.ask(slow, None)).text)
            return texts

        late = "timed out after 0.02 s"
        assert asyncio.run(scenario()) == [late, "not checked: the previous run of its command has not ended", late]
        assert most == 1


def test_what_a_probe_needs_is_imported_when_one_is_made():
    """http.client is 2 MB: a supervisor without health checks does without."""
    code = (
        "import sys; from impetusd.supervisor.rules import checks, prober, readiness;"
        "print(sorted({'http.client', 'email', 'urllib.request', 'click', 'aiohttp'} & set(sys.modules)))"
    )
    end = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert end.stdout == "[]\n"
