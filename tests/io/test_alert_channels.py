"""Each channel against a real receiver: what it sends, and what it does of every answer."""

from __future__ import annotations

import dataclasses
import email
import email.policy
import json
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from probe_server import unused_port
from serving import serving

from impetusd.core.explain.incidents import Problem
from impetusd.core.reasons import because
from impetusd.observer import channels
from impetusd.observer.channels import PartlyDelivered, Undelivered
from impetusd.observer.rules import Notice
from impetusd.observer.settings import Alert, Settings
from impetusd.observer.text import brief_json, message

PROBLEM = Problem("fatal", "wéb", because("exit", code=1), 1.0, ("web",), ("<!channel> & \x1b[31mred",))
NOTICE = Notice(
    id="s-1", incident="s-1", alert="ops", kind="firing", at=1.0, root="web", since=1.0, error=True, problems=(PROBLEM,)
)
MESSAGE = message(NOTICE, Settings(folder="/", host="box", link="https://ops.example.com/"))


class Web:
    """Answers as `answers` says, one after the other, and keeps what it got."""

    def __init__(self):
        self.got, self.answers = [], []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                web.got.append((self.command, self.path, dict(self.headers), body))
                status, headers = web.answers.pop(0) if web.answers else (200, {})
                self.send_response(status)
                for name, value in {"Content-Length": "2", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"ok")

            do_GET = do_POST  # noqa: N815  # the server's own name for it

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/secret"


@pytest.fixture
def web():
    made = Web()
    with serving(made.server):
        yield made


def http(kind, url):
    return Alert(name="ops", type=kind, url=url)


def test_slack_gets_text_that_calls_nobody(web):
    channels.send(http("slack", web.url), MESSAGE)
    _, path, headers, body = web.got[0]
    text = json.loads(body)["text"]
    assert (path, headers["Idempotency-Key"], headers["Content-Type"]) == ("/hook/secret", "s-1", "application/json")
    assert "&lt;!channel&gt; &amp; red" in text
    assert "<" not in text
    assert text.endswith("id s-1")


def test_a_json_webhook_gets_the_facts(web):
    channels.send(http("json", web.url), MESSAGE)
    data = json.loads(web.got[0][3])
    assert (data["id"], data["root"], data["problems"][0]["event"]) == ("s-1", "web", "fatal")
    assert web.got[0][2]["Idempotency-Key"] == "s-1"


def test_ntfy_gets_title_priority_and_link(web):
    channels.send(http("ntfy", web.url), MESSAGE)
    _, _, headers, body = web.got[0]
    title = str(email.header.make_header(email.header.decode_header(headers["Title"])))
    assert title == MESSAGE.title
    assert (headers["Priority"], headers["Click"]) == ("high", "https://ops.example.com/")
    assert body.decode() == MESSAGE.text


@pytest.mark.parametrize(
    ("answer", "words", "again"),
    [
        ((500, {}), "127.0.0.1 answered 500", 0.0),
        ((404, {}), "127.0.0.1 answered 404", 0.0),
        ((429, {"Retry-After": "17"}), "127.0.0.1 answered 429", 17.0),
        ((503, {"Retry-After": "999999"}), "127.0.0.1 answered 503", channels.LONGEST),
        ((503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), "127.0.0.1 answered 503", 0.0),
    ],
)
@pytest.mark.parametrize("kind", ["slack", "json", "ntfy"])
def test_what_a_receiver_does_not_take_is_undelivered(web, kind, answer, words, again):
    web.answers = [answer]
    with pytest.raises(Undelivered, match=words) as caught:
        channels.send(http(kind, web.url), MESSAGE)
    assert caught.value.again == again
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(web, status):
    web.answers = [(status, {"Location": web.url + "/other"})]
    with pytest.raises(Undelivered, match=f"answered {status}; redirects are not followed"):
        channels.send(http("json", web.url), MESSAGE)
    assert len(web.got) == 1


def test_a_heartbeat_is_a_get(web):
    channels.ping(web.url)
    assert [(method, path) for method, path, _, _ in web.got] == [("GET", "/hook/secret")]
    web.answers = [(500, {})]
    with pytest.raises(Undelivered):
        channels.ping(web.url)


def test_nobody_there_and_what_is_no_http_is_undelivered(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        monkeypatch.setattr(channels, "TIMEOUT", 0.1)
        with pytest.raises(Undelivered, match="timed out"):
            channels.send(http("json", url), MESSAGE)
    with unused_port() as port, pytest.raises(Undelivered, match="refused"):
        channels.send(http("json", f"http://127.0.0.1:{port}/"), MESSAGE)
    with pytest.raises(Undelivered, match="starts with file"):
        channels.send(http("json", "file:///etc/passwd"), MESSAGE)


# Mail.


class Mailbox:
    """Keeps mails; refuses the recipients in `refused`."""

    def __init__(self):
        self.mails, self.tls, self.refused = [], [], set()

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802  # aiosmtpd's name
        if address in self.refused:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802  # aiosmtpd's name
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        self.tls.append(session.ssl is not None)
        return "250 OK"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mail.test"),
            *("-addext", "subjectAltName=DNS:mail.test", "-keyout", folder / "key", "-out", folder / "cert"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


class AnyPort(Controller):
    """Which asks itself at the port that it was given, to know that it serves."""

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def mail_server(box, **how):
    controller = AnyPort(box, hostname="127.0.0.1", port=0, **how)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop(no_assert=True)


def tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert", certificate / "key")
    return context


def mail(host, port, **keys):
    return Alert(name="ops", type="email", to=("a@example.com", "b@example.com"), smtp=f"{host}:{port}", **keys)


def test_a_mail_has_the_id_as_its_message_id_and_cannot_be_given_headers():
    box = Mailbox()
    nasty = message(
        Notice(**{**{each: getattr(NOTICE, each) for each in NOTICE.__slots__}, "root": "x\r\nBcc: c@example.com"}),
        Settings(folder="/", host="box\r\nX-Bad: 1"),
    )
    with mail_server(box) as port:
        channels.send(mail("127.0.0.1", port, from_="me@example.com"), MESSAGE)
        channels.send(mail("127.0.0.1", port), nasty)
    first, second = box.mails
    assert (first["Message-ID"], first["From"]) == ("<s-1@impetusd.invalid>", "me@example.com")
    assert first["Subject"] == MESSAGE.title
    assert first["To"] == "a@example.com, b@example.com"
    assert "id s-1" in first.get_content()
    assert (second["Bcc"], second["X-Bad"]) == (None, None)
    assert "\x1b" not in first.get_content()


def test_a_server_of_this_host_may_offer_starttls_with_any_certificate(certificate):
    box = Mailbox()
    with mail_server(box, tls_context=tls(certificate)) as port:
        channels.send(mail("127.0.0.1", port), MESSAGE)
    assert box.tls == [True]


@pytest.fixture
def elsewhere(monkeypatch):
    """mail.test and other.test are servers of another host."""
    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda at, *args, **how: connect(("127.0.0.1", at[1]), *args, **how)
    )


def test_another_host_must_offer_starttls(elsewhere):
    box = Mailbox()
    with mail_server(box) as port, pytest.raises(Undelivered, match="STARTTLS"):
        channels.send(mail("mail.test", port), MESSAGE)
    assert box.mails == []


def test_with_a_certificate_that_is_valid_for_its_name(elsewhere, certificate, monkeypatch):
    box = Mailbox()

    def login(server, session, envelope, mechanism, data):
        return AuthResult(success=(data.login, data.password) == (b"me", b"pw"), handled=False)

    with mail_server(box, tls_context=tls(certificate), authenticator=login, auth_required=True) as port:
        with pytest.raises(Undelivered, match="its certificate was rejected"):
            channels.send(mail("mail.test", port, smtp_user="me", smtp_password="pw"), MESSAGE)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert"))
        with pytest.raises(Undelivered, match="its certificate was rejected"):
            channels.send(mail("other.test", port, smtp_user="me", smtp_password="pw"), MESSAGE)
        with pytest.raises(Undelivered, match=r"mail\.test answered 535"):
            channels.send(mail("mail.test", port, smtp_user="me", smtp_password="no"), MESSAGE)
        assert box.mails == []
        channels.send(mail("mail.test", port, smtp_user="me", smtp_password="pw"), MESSAGE)
    assert box.tls == [True]


def test_a_refused_recipient_keeps_it_from_nobody_else():
    box = Mailbox()
    box.refused = {"b@example.com"}
    with mail_server(box) as port:
        with pytest.raises(PartlyDelivered, match=r"refused b@example\.com"):
            channels.send(mail("127.0.0.1", port), MESSAGE)
        box.refused = {"a@example.com", "b@example.com"}
        with pytest.raises(Undelivered, match=r"refused a@example\.com, b@example\.com") as caught:
            channels.send(mail("127.0.0.1", port), MESSAGE)
    assert not isinstance(caught.value, PartlyDelivered)
    assert len(box.mails) == 1


# Commands.


def command(*words):
    return Alert(name="ops", type="command", command=words)


def test_a_command_gets_the_text_on_stdin_and_no_rights_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPETUSD_OBSERVER", "secret")
    monkeypatch.setenv("IMPETUSD_CHANNEL", "7")
    to = tmp_path / "out"
    channels.send(command("sh", "-c", 'cat > "$0"; env >> "$0"; ls /proc/self/fd | wc -l > "$0.fds"', str(to)), MESSAGE)
    told = to.read_text()
    assert told.startswith(MESSAGE.text)
    assert "IMPETUSD_ALERT_ID=s-1\n" in told
    assert "secret" not in told
    assert "IMPETUSD_CHANNEL" not in told


def test_no_shell_sees_a_value(tmp_path):
    to = tmp_path / "out"
    shown = message(
        Notice(id="$(touch /tmp/never)", incident="x", alert="ops", kind="test", at=1.0, by="`id`; $HOME"),
        Settings(folder="/", host="h"),
    )
    channels.send(command(sys.executable, "-c", f"import sys; open({str(to)!r}, 'w').write(sys.stdin.read())"), shown)
    assert "`id`; $HOME" in to.read_text()


def test_a_command_that_fails_hangs_or_is_not_there_is_undelivered(monkeypatch):
    with pytest.raises(Undelivered, match="false exited with 1"):
        channels.send(command("false"), MESSAGE)
    with pytest.raises(Undelivered, match="/nowhere cannot be run: No such file"):
        channels.send(command("/nowhere"), MESSAGE)
    monkeypatch.setattr(channels, "DEADLINE", 5.1)
    began = time.monotonic()
    with pytest.raises(Undelivered, match=r"did not exit within 0\.1 s and was killed"):
        channels.send(command("sh", "-c", "sleep 60; true"), MESSAGE)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("wide", ["x", "\U0001f980"])
def test_an_alert_about_everything_gets_to_a_command_too(tmp_path, wide):
    """More of it than the environment of a process takes: what is there is JSON, cut, and the text is whole."""
    to = tmp_path / "got"
    problems = [
        {"name": f"unit-{number}", "slots": [f"unit-{number}:{slot}" for slot in range(50)], "lines": [wide * 300] * 5}
        for number in range(500)
    ]
    data = {
        **MESSAGE.data,
        "problems": problems,
        "waiting": [f"w{number}" for number in range(9999)],
        "text": wide * 200_000,
    }
    shown = dataclasses.replace(MESSAGE, data=data, text=wide * 200_000)
    script = f"import os, sys; open({str(to)!r}, 'w').write(os.environ['IMPETUSD_ALERT_JSON']); sys.exit(len(sys.stdin.read()) != 200_001)"
    channels.send(command(sys.executable, "-c", script), shown)
    text = to.read_text()
    got = json.loads(text)
    assert len(text) <= channels.VARIABLE
    assert got["shortened"] is True
    assert got.keys() == {*data, "shortened"}
    assert (got["id"], got["root"], got["title"]) == (data["id"], data["root"], data["title"])
    assert [each["name"] for each in got["problems"]] == [each["name"] for each in problems[: len(got["problems"])]]
    assert len(got["problems"]) > 1
    assert wide * 300 in got["text"]


def test_of_what_fits_nothing_is_cut():
    assert json.loads(brief_json(MESSAGE.data, channels.VARIABLE)) == json.loads(json.dumps(MESSAGE.data))


def test_a_command_that_reads_nothing_is_no_failure():
    channels.send(command("true"), MESSAGE)
