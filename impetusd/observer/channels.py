"""How a message gets to people: a webhook in Slack's shape, a JSON webhook, ntfy, e-mail, a command; and the dead man's ping.

Each call takes a thread and DEADLINE seconds at most. No redirect is followed, no answer is repeated to anybody, and no
value stands in a command line: a command gets the text on stdin and the facts in its environment.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.header import Header
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any
from urllib.parse import urlsplit

from impetusd import __version__
from impetusd.core.inert import plain
from impetusd.observer.settings import Alert
from impetusd.observer.text import Message, brief_json

TIMEOUT = 10.0  # seconds for each step with the network
DEADLINE = 30.0  # seconds for all
LONGEST = 3600.0  # seconds that are waited at most because a receiver asks for it
TLS_PORT = 465  # of mail, TLS from the start
SLACK = 3500  # characters of one message
VARIABLE = 100_000  # bytes of one in the environment; the kernel takes no command with one of 128 kB or more: execve(2)


class Undelivered(Exception):
    """The receiver has not taken it. The text says why, without the address's path; `again`: seconds it asks to wait."""

    def __init__(self, text: str, again: float = 0.0) -> None:
        super().__init__(text)
        self.again = again


class PartlyDelivered(Undelivered):
    """Some recipients have it. It is not to be sent again, for it would be doubled for them."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        """None: the answer is what it is."""


def send(alert: Alert, message: Message) -> None:
    """Deliver it. Undelivered if that cannot be."""
    match alert.type:
        case "slack":
            _slack(alert, message)
        case "json":
            _post(alert.url, json.dumps(message.data).encode(), _headers(message, "application/json"))
        case "ntfy":
            _ntfy(alert, message)
        case "email":
            _email(alert, message)
        case "command":
            _command(alert, message)


def ping(url: str) -> None:
    """Tell a dead man's switch that we live. Undelivered if that cannot be."""
    _open(urllib.request.Request(url, headers={"User-Agent": _AGENT}))  # noqa: S310  # the scheme was checked


_AGENT = f"impetusd/{__version__}"


def _headers(message: Message, kind: str) -> dict[str, str]:
    """The id stands in a header, too: a receiver that gets it twice can tell."""
    return {"Content-Type": kind, "Idempotency-Key": message.id, "User-Agent": _AGENT}


def _slack(alert: Alert, message: Message) -> None:
    text = message.text if len(message.text) <= SLACK else f"{message.text[:SLACK]} …\nid {message.id}"
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # or <!channel> in a log line wakes everybody
        text = text.replace(char, entity)
    _post(alert.url, json.dumps({"text": text}).encode(), _headers(message, "application/json"))


def _ntfy(alert: Alert, message: Message) -> None:
    headers = _headers(message, "text/plain; charset=utf-8")
    headers["Title"] = Header(message.title, "utf-8", maxlinelen=10_000).encode()
    headers["Priority"] = "high" if message.error and message.kind != "recovered" else "default"
    headers["Tags"] = {"recovered": "white_check_mark", "test": "wrench"}.get(message.kind, "warning")
    if message.link:
        headers["Click"] = message.link
    _post(alert.url, message.text.encode()[:4000], headers)


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    _open(urllib.request.Request(url, body, dict(headers), method="POST"))  # noqa: S310  # the scheme was checked


def _open(request: urllib.request.Request) -> None:
    host = urlsplit(request.full_url).hostname or ""
    if request.type not in {"http", "https"}:
        raise Undelivered(f"its URL starts with {request.type}, not with http or https")
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT) as answer:
            answer.read(1 << 16)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            again = error.headers.get("Retry-After", "") if error.headers else ""
            moved = "; redirects are not followed" if 300 <= error.code < 400 else ""
            wait = min(float(again), LONGEST) if again.isascii() and again.isdigit() else 0.0
            raise Undelivered(f"{host} answered {error.code}{moved}", wait) from None
    except urllib.error.URLError as error:
        raise Undelivered(f"{host}: {_why(error.reason)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Undelivered(f"{host}: {_why(error)}") from None


def _why(error: object) -> str:
    """In one line that nothing obeys."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was rejected: {error.verify_message}"
    text = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    return plain(text)[:200]


def _email(alert: Alert, message: Message) -> None:
    mail = EmailMessage()
    mail["From"] = alert.from_ or f"impetusd@{socket.getfqdn()}"
    mail["To"] = ", ".join(alert.to)
    mail["Subject"] = message.title
    mail["Date"] = formatdate(localtime=True)
    mail["Message-ID"] = f"<{message.id}@impetusd.invalid>"  # the same for each try
    mail["X-Impetusd-Alert"] = message.id
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.text)
    at = urlsplit(f"//{alert.smtp}")
    host, port = at.hostname or "localhost", at.port or 25
    try:
        secure = ssl.create_default_context()
        if is_own := _is_loopback(host):  # it has no name that a certificate could be valid for
            secure.check_hostname, secure.verify_mode = False, ssl.CERT_NONE
        if port == TLS_PORT:
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=TIMEOUT, context=secure)
        else:
            server = smtplib.SMTP(host, port, timeout=TIMEOUT)
        with contextlib.closing(server):
            server.ehlo()
            if port != TLS_PORT and (server.has_extn("starttls") or not is_own):
                server.starttls(context=secure)
            if alert.smtp_user:
                server.login(alert.smtp_user, alert.smtp_password)
            refused = server.send_message(mail)
            with contextlib.suppress(smtplib.SMTPException, OSError):  # it is delivered, whatever is said to that
                server.quit()
    except smtplib.SMTPResponseException as error:
        raise Undelivered(f"{host} answered {error.smtp_code}") from None
    except smtplib.SMTPRecipientsRefused as error:
        raise Undelivered(f"{host} refused {', '.join(error.recipients)}") from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise Undelivered(f"{host}: {_why(error)}") from None
    if refused:
        raise PartlyDelivered(f"{host} refused {', '.join(refused)}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _command(alert: Alert, message: Message) -> None:
    environment = {
        **os.environ,
        "IMPETUSD_ALERT": alert.name,
        "IMPETUSD_ALERT_ID": message.id,
        "IMPETUSD_ALERT_KIND": message.kind,
        "IMPETUSD_ALERT_TITLE": message.title.replace("\0", ""),
        "IMPETUSD_ALERT_JSON": brief_json(message.data, VARIABLE),
    }
    for name in ("IMPETUSD_OBSERVER", "IMPETUSD_CHANNEL", "NOTIFY_SOCKET"):  # not for others: secrets, and our rights
        environment.pop(name, None)
    name = alert.command[0]
    try:
        process = subprocess.Popen(
            alert.command,
            stdin=subprocess.PIPE,  # what it prints goes to our log
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise Undelivered(f"{name} cannot be run: {_why(error)}") from None
    with process:
        try:
            process.communicate(f"{message.text}\n".encode(), timeout=DEADLINE - 5.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise Undelivered(f"{name} did not exit within {DEADLINE - 5.0:g} s and was killed") from None
    if process.returncode:
        raise Undelivered(f"{name} exited with {process.returncode}")
