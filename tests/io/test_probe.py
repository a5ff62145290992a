"""One GET, one connection: against servers that answer, and against every kind that does not."""

from __future__ import annotations

import contextlib
import errno
import resource
import shutil
import socket
import ssl
import tempfile
import threading
import time
from pathlib import Path

import pytest
from own_certificate import own_certificate
from probe_server import PATIENCE, Server, drips, holds, says, sends, unused_port

from impetusd import probe
from impetusd.probe import Get, connect, get, one_line

SHORT = 1.0  # seconds; where none comes (and what comes before does so on a loaded host, too)


@pytest.fixture
def serving():
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(Server(*args, **kwargs))


class TestGet:
    def test_a_good_answer(self, serving):
        server = serving(says())
        result = get(Get(server.url()), PATIENCE)
        assert (result.ok, result.text, result.blame) == (True, "200 OK", True)
        assert 0 < result.latency < PATIENCE

    def test_what_is_sent(self, serving):
        server = serving(says())
        get(Get(server.url("/a b/%20ü?q=1&r=ü"), headers=(("X-token", "s3cret"), ("host", "shop.example"))), PATIENCE)
        lines = server.asked[0].decode().split("\r\n")
        assert lines[0] == "GET /a%20b/%20%C3%BC?q=1&r=%C3%BC HTTP/1.1"
        assert {"host: shop.example", "X-token: s3cret", "Connection: close"} <= set(lines)
        assert [line for line in lines if line.lower().startswith("host:")] == ["host: shop.example"]

    def test_the_host_is_named(self, serving):
        server = serving(says())
        get(Get(server.url()), PATIENCE)
        assert f"Host: 127.0.0.1:{server.port}" in server.asked[0].decode().split("\r\n")

    @pytest.mark.parametrize(
        ("status", "wanted", "ok"),
        [
            ("204 No Content", ((200, 399),), True),
            ("302 Found", ((200, 399),), True),
            ("404 Not Found", ((200, 399),), False),
            ("404 Not Found", ((200, 299), (404, 404)), True),
            ("200 OK", ((500, 599),), False),
        ],
    )
    def test_the_status_decides(self, serving, status, wanted, ok):
        server = serving(says(status, "" if "204" in status else "so it is", "Location: /elsewhere"))
        assert get(Get(server.url(), status=wanted), PATIENCE).ok is ok
        assert len(server.asked) == 1  # a redirection is an answer; it is not followed

    def test_a_bad_status_is_told_with_what_the_body_says(self, serving):
        server = serving(says("503 Service Unavailable", "database:\n\tconnection \x1b[31mrefused" + 400 * "x"))
        result = get(Get(server.url()), PATIENCE)
        assert result.text.startswith("503 Service Unavailable: database: connection [31mrefusedxxx")
        assert len(result.text) == len("503 Service Unavailable: ") + probe.SHOWN

    def test_a_bad_status_is_told_when_the_body_does_not_come(self, serving):
        server = serving(drips(b"HTTP/1.1 500 Oops\r\nContent-Length: 100000\r\n\r\n"))
        assert get(Get(server.url()), SHORT)[:2] == (False, "500 Oops")

    def test_the_body_must_contain_the_text(self, serving):
        server = serving(says(body="it is\nwell ü"))
        assert get(Get(server.url(), body="well ü"), PATIENCE).ok
        result = get(Get(server.url(), body="very well"), PATIENCE)
        assert result[:2] == (False, "200 OK, but without 'very well' in it: it is well ü")

    def test_no_more_than_a_mebibyte_is_read(self, serving):
        server = serving(drips(b"HTTP/1.1 200 OK\r\n\r\n" + probe.MAX_BODY * b"x" + b"well"))
        result = get(Get(server.url(), body="well"), PATIENCE)
        assert result.text.startswith("200 OK, but without 'well' in it: xxx")

    def test_chunks_are_put_together(self, serving):
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwe\r\n2\r\nll\r\n0\r\n\r\n"
        assert get(Get(serving(sends(data)).url(), body="well"), PATIENCE).ok


class TestNoAnswer:
    @pytest.mark.parametrize(
        ("serve", "text"),
        [
            (holds, "no response within 1 s"),
            (drips(b"HTTP/1.1 200 OK\r\nX: "), "no response within 1 s"),
            (drips(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), "incomplete response within 1 s"),
        ],
    )
    def test_who_is_too_slow_is_left_at_the_deadline(self, serving, serve, text):
        result = get(Get(serving(serve).url()), SHORT)
        assert result[:2] == (False, text)
        assert result.blame

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"", "the connection was closed without a response"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "the response is not HTTP: SSH-2.0-OpenSSH_9.2"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "the response was cut off"),
            (b"HTTP/1.1 200 OK\r\n" + 200 * b"X: y\r\n", "the response is not HTTP: got more than 100 headers"),
        ],
    )
    def test_who_answers_badly(self, serving, data, text):
        result = get(Get(serving(sends(data)).url()), PATIENCE)
        assert result[:2] == (False, text)
        assert result.blame

    def test_who_is_not_there(self):
        with unused_port() as port:
            result = get(Get(f"http://127.0.0.1:{port}/"), PATIENCE)
        assert (result.ok, result.text, result.blame) == (False, "connection refused", True)

    def test_a_full_backlog(self):
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
            for _ in range(3):  # nobody accepts: the queue is full, and further connections are not taken up
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            result = connect(f"127.0.0.1:{listener.getsockname()[1]}", SHORT)
        assert result[:2] == (False, "no connection within 1 s")


class TestNotTheServersFault:
    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("http://no-such-host.invalid/", "cannot resolve no-such-host.invalid"),
            ("http://127.0.0.1:99999/", "invalid request"),
            (f"http://{300 * 'x'}/", "invalid request"),
        ],
    )
    def test_what_cannot_be_asked(self, url, words):
        result = get(Get(url), PATIENCE)
        assert not result.ok
        assert not result.blame
        assert result.text.startswith(words)

    def test_a_look_up_that_took_all_the_time(self, monkeypatch):
        look_up = socket.getaddrinfo

        def slowly(*args, **kwargs):
            time.sleep(0.02)
            return look_up(*args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        result = connect("127.0.0.1:81", 0.01)
        assert (result.ok, result.text, result.blame) == (False, "resolving 127.0.0.1 timed out", False)

    def test_a_header_that_cannot_be_sent(self, serving):
        result = get(Get(serving(says()).url(), headers=(("X", "a\r\nb"),)), PATIENCE)
        assert (result.ok, result.blame) == (False, False)
        assert "Invalid header value" in result.text

    def test_no_descriptor_left(self, serving):
        server = serving(says())
        get(Get(server.url()), PATIENCE)  # everything is imported
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            result = get(Get(server.url()), PATIENCE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (result.ok, result.text, result.blame) == (False, "too many open files", False)


class TestOtherWays:
    def test_a_unix_socket(self, serving):
        directory = Path(tempfile.mkdtemp(dir="/tmp"))
        path = str(directory / "s")
        try:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen()
            with Server(says(), listener) as server:
                assert get(Get("/health", socket=path), PATIENCE).ok
                assert server.asked[0].startswith(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
            assert get(Get("/health", socket=path), PATIENCE)[:2] == (False, "connection refused")
            Path(path).unlink()
            gone = get(Get("/health", socket=path), PATIENCE)
            assert (gone.ok, gone.text, gone.blame) == (False, "no such file or directory", True)
        finally:
            shutil.rmtree(directory)

    def test_a_connection_that_is_there_already(self):
        ours, theirs = socket.socketpair()
        with theirs:
            thread = threading.Thread(target=lambda: (theirs.recv(65536), says()(None, theirs)))
            thread.start()
            assert get(Get("/health"), PATIENCE, ours).ok
            thread.join(PATIENCE)
            assert theirs.recv(10) == b""  # it was closed
        assert ours.fileno() == -1

    def test_a_connection_that_nobody_reads_is_closed_as_well(self):
        ours, theirs = socket.socketpair()
        with theirs:
            assert get(Get("/health"), SHORT, ours)[:2] == (False, "no response within 1 s")
        assert ours.fileno() == -1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate, key) of a server called localhost."""
    return own_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(serving, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return serving(says(), context=context)


class TestTls:
    def test_a_trusted_certificate(self, secure, certificate):
        assert get(Get(f"https://localhost:{secure.port}/", ca_file=certificate[0]), PATIENCE)[:2] == (True, "200 OK")

    def test_an_unknown_one_is_refused(self, secure):
        result = get(Get(f"https://localhost:{secure.port}/"), PATIENCE)
        assert result[:2] == (False, "its certificate is not trusted: self-signed certificate")
        assert result.blame

    def test_one_of_another_name_is_refused(self, secure, certificate):
        result = get(Get(f"https://127.0.0.1:{secure.port}/", ca_file=certificate[0]), PATIENCE)
        assert not result.ok
        assert "not valid for '127.0.0.1'" in result.text

    def test_without_verification_any_will_do(self, secure):
        assert get(Get(f"https://127.0.0.1:{secure.port}/", verify=False), PATIENCE).ok

    def test_a_missing_ca_file_is_not_the_servers_fault(self, secure):
        result = get(Get(f"https://localhost:{secure.port}/", ca_file="/nonexistent/ca"), PATIENCE)
        assert result[:2] == (False, "ca_file /nonexistent/ca cannot be used: No such file or directory")
        assert not result.blame

    def test_a_server_without_tls(self, serving):
        result = get(Get(f"https://localhost:{serving(says()).port}/", verify=False), PATIENCE)
        assert not result.ok
        assert result.text.startswith("TLS failed: ")
        assert result.blame

    def test_a_handshake_that_is_never_answered(self, serving):
        result = get(Get(f"https://localhost:{serving(holds).port}/", verify=False), SHORT)
        assert result[:2] == (False, "TLS handshake not completed within 1 s")

    def test_a_dripping_answer(self, serving, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server = serving(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), context=context)
        result = get(Get(f"https://localhost:{server.port}/", verify=False), 2.0)
        assert result[:2] == (False, "incomplete response within 2 s")


class TestConnect:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_somebody_listens(self, serving, host):
        assert connect(f"{host}:{serving(holds).port}", PATIENCE)[:2] == (True, "connected")

    def test_nobody_listens(self):
        with unused_port() as port:
            result = connect(f"127.0.0.1:{port}", PATIENCE)
        assert (result.ok, result.text, result.blame) == (False, "connection refused", True)

    def test_ipv6_in_brackets(self, serving):
        try:
            listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError as error:
            if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                pytest.skip("this host has no IPv6")
            raise
        server = serving(holds, listener)
        assert connect(f"[::1]:{server.port}", PATIENCE).ok

    def test_to_itself_does_not_count(self, monkeypatch):
        """The kernel may give a connection its own target as source port: then nobody listens, and it 'connects'."""

        class Bound(socket.socket):
            def connect(self, address):
                self.bind(address)
                super().connect(address)

        with unused_port() as port:
            pass
        monkeypatch.setattr(probe.socket, "socket", Bound)
        assert connect(f"127.0.0.1:{port}", PATIENCE)[:2] == (False, "connection refused")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\r\n\tb  c", "a b c"), ("\x1b]0;title\x07x\u202ey", "]0;title x y"), (300 * "x", 200 * "x"), ("", "")],
)
def test_what_is_shown_is_one_printable_line(text, shown):
    assert one_line(text) == shown


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("no database", "no database"),
        ('{"status": "ill"}', '{"status": "ill"}'),
        ('{"ok": false, "database": {"ok": false, "error": "no route"}, "cache": {"error": null}}', "database.error: no route"),
        ('{"title": "Not well", "detail": "queue is full"}', "title: Not well; detail: queue is full"),
        ('{"errors": ["a", "b"]}', "errors: a; errors: b"),
        ('{"error": {"message": "no"}}', "error.message: no"),
        ("[" * 100_000, "[" * 100_000),
        ("3", "3"),
    ],
    ids=range(8),
)  # fmt: skip
def test_of_a_json_answer_what_is_wrong_is_told(body, said):
    assert probe.excerpt(body) == said
