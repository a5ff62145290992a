"""Other hosts on the overview: what a real gateway says of itself, and that one which is away or hostile costs nobody anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import ssl

import pytest
from gateway_world import run, serving
from own_certificate import own_certificate
from waiting import PATIENCE, until

from impetusd.core.protocol import ROLES
from impetusd.gateway import overviews, remotes
from impetusd.gateway.overviews import Unreadable, cards, overview
from impetusd.gateway.remotes import Host, Remote

ROW = {"name": "web:0", "state": "RUNNING", "want": "up", "reason": "", "held": None, "unit": "web", "kind": "worker"}
CARD = {"units": ["web:0"], "cause": {"text": "exit 1"}, "since": 1.0, "severity": "error"}


def snapshot(*rows, version="1.2.3", live=True):
    named = {str(number): {**ROW, **row} for number, row in enumerate(rows)}
    return json.dumps({"live": live, "rows": {"unit": named, "daemon": {"": {"version": version}}}}).encode()


def incidents(*cards):
    return json.dumps({"incidents": [{**CARD, **card} for card in cards]}).encode()


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    monkeypatch.setattr(remotes, "WITHIN", PATIENCE)
    monkeypatch.setattr(remotes, "LOOKED_UP", PATIENCE)


class TestReading:
    def test_counts_and_units_worst_first(self):
        rows = (
            {"name": "b", "state": "STOPPED", "want": "down", "reason": "stopped by alice"},
            {"name": "a"},
            {"name": "starts", "state": "STARTING", "reason": "was killed"},
            {"name": "gave-up", "state": "FATAL", "reason": "exit 1"},
            {"name": "held", "held": {"key": "x"}, "reason": "quarantine"},
        )
        found = overview(snapshot(*rows))
        assert (found["version"], found["live"], found["all"], found["wrong"]) == ("1.2.3", True, 5, 3)
        assert [each["name"] for each in found["units"]] == ["gave-up", "starts", "held", "a", "b"]
        assert found["units"][0] == {
            "name": "gave-up",
            "state": "FATAL",
            "want": "up",
            "wrong": True,
            "reason": "exit 1",
        }
        assert found["units"][4]["reason"] == ""  # of what is as it should be there is nothing to explain
        found = cards(incidents({}))
        assert found["incidents"] == [{"text": "exit 1", "units": ["web:0"], "all": 1, "since": 1.0, "error": True}]
        assert found["more"] == 0

    def test_of_many_some_are_kept(self):
        rows = [{"name": f"u{number}"} for number in range(overviews.UNITS + 7)]
        found = overview(snapshot(*rows))
        assert (found["all"], len(found["units"])) == (overviews.UNITS + 7, overviews.UNITS)
        found = cards(incidents(*[{"units": [f"u{number}" for number in range(5000)]}] * 9))
        assert (len(found["incidents"]), found["more"]) == (overviews.INCIDENTS, 4)
        assert (len(found["incidents"][0]["units"]), found["incidents"][0]["all"]) == (overviews.NAMES, 5000)

    def test_texts_are_one_short_line_that_obeys_nobody(self):
        evil = "\x1b[2J<script>\u202e\r\n\x00\ud800" + "x" * 1000
        found = overview(snapshot({"name": f"n{evil}", "state": "FATAL", "reason": evil}, version=evil))
        (card,) = cards(incidents({"cause": {"text": evil}, "units": [evil]}))["incidents"]
        for text in (found["version"], found["units"][0]["reason"], card["text"], card["units"][0]):
            assert text.isprintable()
            assert text.startswith("[2J<script>")
            assert len(text) <= 200

    @pytest.mark.parametrize(
        "since", [None, "yesterday", 1e999, math.nan, True, -1, 10**400, [], 0], ids=lambda each: str(each)[:9]
    )
    def test_a_time_that_is_none_is_not_shown(self, since):
        found = cards(incidents({"since": since}))
        assert found["incidents"][0]["since"] is None
        json.dumps(found, allow_nan=False)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b'{"rows": []}',
            b'{"rows": {"unit": []}}',
            b'{"live": true, "rows": {"unit": {}}}',
            b'{"live": true, "rows": {"unit": {"a": null}, "daemon": {}}}',
            b'{"live": true, "rows": {"unit": {"a": {}}, "daemon": {}}}',
            b'{"live": true, "rows": {"unit": {}, "daemon": []}}',
            b'{"live": true, "rows": {"unit": {}, "daemon": {"": {"version": 7}}}}',
            b"<html>",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"9" * 100_000,
            snapshot({"state": "<b>"}),
            snapshot({"state": ["RUNNING"]}),
            snapshot({"want": {}}),
            snapshot({"name": ""}),
            snapshot({"name": 7}),
            snapshot({"state": "FATAL", "reason": None}),
        ],
    )
    def test_what_is_no_answer_of_a_gateway_is_refused(self, data):
        with pytest.raises(Unreadable, match="the response is not"):
            overview(data)

    @pytest.mark.parametrize(
        "data",
        [
            b"{}",
            b'{"incidents": {}}',
            b'{"incidents": [7]}',
            b'{"incidents": 7}',
            incidents({"units": 7}),
            incidents({"units": [[]]}),
            incidents({"cause": None}),
            incidents({"cause": {"text": {}}}),
        ],
    )
    def test_of_incidents_too(self, data):
        with pytest.raises(Unreadable, match="the response is not from an impetusd gateway"):
            cards(data)

    @pytest.mark.parametrize("part", [b"[],", b"0,", b'{"a":0},'])
    def test_how_much_is_made_of_an_answer_is_known_before_it_is_made(self, part):
        data = b"[" + part * overviews.VALUES + b"0]"
        assert len(data) < remotes.LARGEST
        for read in (overview, cards):
            with pytest.raises(Unreadable, match="too many values"):
                read(data)


# A peer that answers what the test says.


class Peer:
    """`answer` gets (reader, writer) once the head of a request is read; `heads` are those that came."""

    def __init__(self, answer, context=None):
        self._answer, self._context = answer, context
        self.heads = []
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        scheme = "https://localhost" if self._context else "http://127.0.0.1"
        self.url = f"{scheme}:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader, writer):
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await self._answer(self.heads[-1], writer)
            writer.close()


def head(status, length=None, more=""):
    size = f"Content-Length: {length}\r\n" if length is not None else ""
    return f"HTTP/1.1 {status} X\r\n{size}{more}\r\n".encode()


def says(status, body=b"{}", more=""):
    async def answer(_, writer):
        writer.write(head(status, len(body), more) + body)
        await writer.drain()

    return answer


def without_end(begin, part, every=0.0):
    async def answer(_, writer):
        writer.write(begin)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(every)

    return answer


async def silent(*_):
    await asyncio.Event().wait()


def looked_at(answer):
    """The host as it is shown after one look, and the peer."""

    async def scenario():
        async with Peer(answer) as peer:
            host = Host(Remote("web2", peer.url, "impd_x"))
            await host.look()
            return host.shown(), peer

    return asyncio.run(scenario())


async def well(request, writer):
    body = (
        incidents() if "/incidents " in request else snapshot({}, {"name": "db", "state": "FATAL", "reason": "exit 1"})
    )
    await says(200, body)(request, writer)


def test_two_questions_each_with_the_token_and_what_is_shown_of_the_answers():
    shown, peer = looked_at(well)
    assert [each.split()[1] for each in peer.heads] == ["/api/v1/snapshot", "/api/v1/incidents"]
    assert all("\r\nAuthorization: Bearer impd_x\r\n" in each for each in peer.heads)
    assert (shown["state"], shown["trouble"], shown["url"]) == ("well", "", peer.url)
    assert shown["seen"] == shown["since"] > 0
    assert (shown["overview"]["all"], shown["overview"]["wrong"]) == (2, 1)
    assert "impd_x" not in json.dumps(shown)


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (says(401, b'{"detail": "<b>evil</b>"}'), "token rejected (401); create another one there"),
        (says(404), "no gateway at this URL (404)"),
        (says(421), "its gateway refuses the host name in url (421); add it to hosts in its [gateway]"),
        (says(429), "too many requests (429)"),
        (says(503), "its gateway has no supervisor (503)"),
        (says(500, b"<script>"), "unexpected status 500"),
        (says(204, b""), "unexpected status 204"),
        (says(200, b"<html>"), "the response is not JSON"),
        (says(200, b"\x1f\x8b", "Content-Encoding: gzip\r\n"), "the response is not JSON"),
        (says(200, b"{}"), "the response is not from an impetusd gateway"),
        (without_end(head(200), b" " * 65536), "the response is larger than 4 MB"),
        (
            without_end(head(200, more="Transfer-Encoding: chunked\r\n"), b"8000\r\n" + b" " * 32768 + b"\r\n"),
            "than 4 MB",
        ),
        (says(200, b" " * (remotes.LARGEST + 1)), "the response is larger than 4 MB"),
        (without_end(b"HTTP/1.1 200 X\r\n", b"X: y\r\n"), "the response is not HTTP"),
        (without_end(b"HTTP/1.1 200 X\r\nX: ", b"y" * 4096), "the response is not HTTP"),
        (without_end(b"", b"SSH-2.0-OpenSSH\r\n"), "the response is not HTTP"),
    ],
)
def test_what_is_wrong_with_a_host_is_said_and_nothing_that_it_says(answer, trouble):
    shown, _ = looked_at(answer)
    assert shown["state"] == "away"
    assert trouble in shown["trouble"]
    assert (shown["seen"], shown["overview"]) == (None, None)
    assert not {"script", "evil"} & set(shown["trouble"].replace("<", " ").replace(">", " ").split())


@pytest.mark.parametrize(
    "answer",
    [
        silent,
        without_end(head(200, 1000), b" ", 0.01),
        without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    ],
)
def test_who_does_not_come_to_an_end_is_left(monkeypatch, answer):
    monkeypatch.setattr(remotes, "WITHIN", 0.3)
    shown, _ = looked_at(answer)
    assert shown["state"] == "away"
    assert "within 0.3 s" in shown["trouble"] or "in time" in shown["trouble"]


def test_a_name_that_is_looked_up_without_end_keeps_nobody_waiting(monkeypatch):
    monkeypatch.setattr(remotes, "WITHIN", 0.1)
    monkeypatch.setattr(remotes, "LOOKED_UP", 0.1)
    released = []

    async def scenario():
        loop = asyncio.get_running_loop()
        free = asyncio.Event()
        asked = []

        def hang(remote):
            asked.append(remote)
            asyncio.run_coroutine_threadsafe(free.wait(), loop).result()
            raise remotes.Away("at last")

        monkeypatch.setattr(remotes, "_ask", hang)
        host = Host(Remote("web2", "https://web2/", "x"))
        await host.look()
        await host.look()  # its one thread is not free yet
        await until(lambda: asked, "the thread's turn")
        assert len(asked) == 1
        assert (host.state, "within 0.3 s" in host.trouble) == ("away", True)
        free.set()
        await until(lambda: not host._threads._free.locked(), "the thread")
        released.append(True)

    asyncio.run(scenario())
    assert released


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed_and_the_token_goes_nowhere_else(status):
    async def scenario():
        async with Peer(well) as other, Peer(says(status, b"", f"Location: {other.url}\r\n")) as peer:
            host = Host(Remote("web2", peer.url, "impd_x"))
            await host.look()
            assert host.state == "away"
            assert f"redirects ({status}) are not followed" in host.trouble
            assert other.url not in json.dumps(host.shown())
            assert (len(peer.heads), other.heads) == (1, [])

    asyncio.run(scenario())


def served_with(folder, name, host="localhost"):
    """The file of a certificate for `host`, and what a server needs to show it."""
    cert, key = own_certificate(folder, name, f"DNS:{host}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


def test_only_who_has_the_right_certificate_gets_the_token(tmp_path):
    good, context = served_with(tmp_path, "good")
    other, of_another_name = served_with(tmp_path, "other", "evil.example.com")

    async def scenario():
        async with Peer(well, context) as peer, Peer(well, of_another_name) as wrong:
            for url, ca_file, trouble in (
                (peer.url, "", "its certificate is not trusted: self-signed certificate"),
                (peer.url, other, "its certificate is not trusted"),
                (wrong.url, other, "its certificate is not trusted: Hostname mismatch"),
                (peer.url, str(tmp_path / "none.pem"), "ca_file"),
                (peer.url.replace("https", "http"), good, "the connection was closed"),
            ):
                host = Host(Remote("web2", url, "impd_x", ca_file))
                await host.look()
                assert host.state == "away"
                assert trouble in host.trouble, host.trouble
            assert (peer.heads, wrong.heads) == ([], [])
            host = Host(Remote("web2", peer.url, "impd_x", good))
            await host.look()
            assert (host.state, host.trouble) == ("well", "")

    asyncio.run(scenario())


def test_since_when_it_is_so_and_what_was_known_before_stays():
    now = iter([100.0, 110.0, 120.0, 130.0, 140.0])
    answers = iter(
        [well] * 2 + [says(401)] * 2 + [well] * 2 + [says(200, snapshot(live=False)), says(200, incidents())]
    )

    async def scenario():
        async def answer(request, writer):
            await next(answers)(request, writer)

        async with Peer(answer) as peer:
            host = Host(Remote("web2", peer.url, "x"), lambda: next(now))
            assert (host.shown()["state"], host.shown()["since"], host.shown()["seen"]) == ("asking", None, None)
            seen = []
            for _ in range(5):
                await host.look()
                shown = host.shown()
                seen.append((shown["state"], shown["since"], shown["seen"], shown["overview"]["all"]))
            assert seen == [
                ("well", 100.0, 100.0, 2),
                ("away", 110.0, 100.0, 2),
                ("away", 110.0, 100.0, 2),
                ("well", 130.0, 130.0, 2),
                ("lost", 140.0, 140.0, 0),
            ]

    asyncio.run(scenario())


class Looked:
    """Remotes of one host that is never asked: `looks` has an item for each time that it would have been."""

    def __init__(self, monkeypatch):
        self.all = remotes.Remotes([Remote("a", "http://127.0.0.1:1/", "x")])
        self.looks = asyncio.Queue()

        async def look():
            await self.looks.put(None)

        monkeypatch.setattr(self.all.hosts[0], "look", look)
        monkeypatch.setattr(remotes, "EVERY", 0.0)
        monkeypatch.setattr(remotes, "REST", 1e6)

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.all.run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_while_nobody_looks_it_is_asked_seldom_and_at_once_when_somebody_does(monkeypatch):
    async def scenario():
        looked = Looked(monkeypatch)
        looked.all._asked = -1e6
        async with looked.running():
            for _ in range(3):
                await looked.looks.get()
                await until(lambda: looked.all._wanted._waiters, "its rest")
                assert looked.looks.empty()
                looked.all.shown()
                looked.all._asked = -1e6

    asyncio.run(scenario())


def test_while_somebody_looks_it_is_asked_again_and_again(monkeypatch):
    async def scenario():
        looked = Looked(monkeypatch)
        looked.all._asked = asyncio.get_running_loop().time() + 1e6
        async with looked.running():
            for _ in range(3):
                await looked.looks.get()

    asyncio.run(scenario())
    assert remotes.EVERY < remotes.REST


# Two real gateways.


def with_another(scenario, **more):
    """Two gateways in front of one supervisor: the second shows the first as web2, behind `more`: urls by name."""

    async def both(first):
        token = (await first.bearer("viewer"))["Authorization"].partition(" ")[2]
        named = {**more, "web2": f"{first.url}/"}
        others = tuple({"name": name, "url": url, "token": token, "ca_file": ""} for name, url in named.items())
        async with serving(first.life, remotes=others) as second:
            await scenario(first, second)

    return both


async def of_hosts(gateway, headers):
    async with gateway.get("/api/v1/hosts", headers) as answer:
        assert answer.status == 200
        return {each["name"]: each for each in (await answer.json())["hosts"]}


def test_a_real_gateway_is_shown_as_it_shows_itself():
    async def scenario(first, second):
        viewer = await second.bearer("viewer")
        await first.life.ask("start", names=["db"])
        hosts = second.app[remotes.REMOTES]

        async def shown():
            await hosts.hosts[0].look()
            return (await of_hosts(second, viewer))["web2"]

        async def known():
            found = await shown()
            return found if found["overview"] and found["overview"]["units"][1]["state"] == "RUNNING" else None

        found = await until(known, "the units of the first")
        assert found["state"] == "well"
        names = {each["name"]: (each["state"], each["want"], each["wrong"]) for each in found["overview"]["units"]}
        assert names == {"api": ("STOPPED", "down", False), "db": ("RUNNING", "up", False)}
        assert found["overview"]["version"]
        assert "topsecret" not in json.dumps(found)
        async with second.get("/api/v1/me", viewer) as answer:
            assert (await answer.json())["hosts"] is True
        async with first.get("/api/v1/me", viewer) as answer:
            assert (await answer.json())["hosts"] is False
        assert await of_hosts(first, viewer) == {}
        for role in ROLES:
            assert await of_hosts(second, await second.bearer(role))
        async with second.get("/api/v1/hosts") as answer:
            assert answer.status == 401

    run(with_another(scenario))


def test_hosts_that_are_hostile_cost_the_others_and_the_own_page_nothing(monkeypatch):
    """One is asked, and has not answered, all the while."""

    async def scenario(first, second):
        viewer = await second.bearer("viewer")

        async def apart():
            found = await of_hosts(second, viewer)
            return found if (found["web2"]["state"], found["endless"]["state"]) == ("well", "away") else None

        found = await until(apart, "an answer of one, and the end of another")
        assert found["endless"]["trouble"] == "the response is larger than 4 MB"
        assert (found["mute"]["state"], list(found)) == ("asking", ["mute", "endless", "web2"])
        async with second.get("/api/v1/snapshot", viewer) as answer:
            assert (await answer.json())["live"] is True

    async def beside(first):
        async with Peer(silent) as mute, Peer(without_end(head(200), b"[" * 65536)) as endless:
            await with_another(scenario, mute=mute.url, endless=endless.url)(first)

    monkeypatch.setattr(remotes, "WITHIN", 1e4)
    run(beside)
