"""Through the gateway as it runs: from the first start's link to who did it in the ledger; over TLS; and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import urllib.error
import urllib.request

import pytest
from instance import Instance, program
from own_certificate import own_certificate
from waiting import PATIENCE, wait_for

INI = f"""
[gateway]
{{}}
[program:p]
command = {program("ignore_term")}
kill_timeout = 100ms
"""


class Browser:
    """Asks with the cookies that it was given; `ca`: the certificate that it trusts."""

    def __init__(self, base: str, ca: str = "") -> None:
        self.base = base
        self.cookies: dict[str, str] = {}
        self._context = ssl.create_default_context(cafile=ca) if ca else None

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}{path}", data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if self.cookies:
            request.add_header("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self._context) as answer:
                for cookie in answer.headers.get_all("Set-Cookie", []):
                    name, _, value = cookie.partition(";")[0].partition("=")
                    self.cookies[name] = value
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def code_in(text: str) -> tuple[str, str]:
    """Of a link: where the gateway is, and the code."""
    found = re.search(r"(https?://[^/\s]+)/#/login\?code=(\S+)", text)
    assert found is not None, text
    return found[1], found[2]


def test_from_the_first_link_to_the_ledger_and_killed_in_between(impetusd: Instance) -> None:
    impetusd.root.chmod(0o755)
    impetusd.write(INI.format(f"listen = 127.0.0.1:{impetusd.port()}"))
    base, code = code_in(impetusd.run("start").err)
    browser = Browser(base)
    assert browser.ask("GET", "/api/v1/me")[0] == 401
    assert browser.ask("POST", "/api/v1/login", {"code": code})[0] == 204
    assert Browser(base).ask("POST", "/api/v1/login", {"code": code})[0] == 401
    status, text = browser.ask("GET", "/api/v1/me")
    me = json.loads(text)
    assert (status, me["role"]) == (200, "operator")  # the ceiling, whatever the link said
    status, text = browser.ask("POST", "/api/v1/units/p/stop", {})
    assert (status, json.loads(text.splitlines()[-1])["result"]["ok"]) == (200, True)
    assert impetusd.status()["p"].state == "STOPPED"
    assert browser.ask("POST", "/api/v1/units/p/start", {})[0] == 200

    def stops() -> list[dict[str, object]]:
        records = json.loads(browser.ask("GET", "/api/v1/events?unit=p&last=20")[1])["events"]
        return [each for each in records if each["kind"] == "command" and each["method"] == "stop"]

    (stop,) = wait_for(stops, "the command in the ledger")
    assert (stop["user"], stop["role"], stop["outcome"]) == (me["user"], "operator", "done")
    assert f"by {me['user']} via gateway" in impetusd.run("events", "p").out
    assert browser.ask("POST", "/api/v1/units/p/disable", {})[0] == 403
    (lines,) = [json.loads(browser.ask("GET", "/api/v1/logs?unit=gateway&last=5")[1])["lines"]]
    assert isinstance(lines, list)

    before = impetusd.status()
    os.kill(before["gateway:0"].pid, signal.SIGKILL)
    wait_for(lambda: impetusd.status()["gateway:0"].pid not in {None, before["gateway:0"].pid}, "another gateway")
    wait_for(lambda: impetusd.status()["gateway:0"].state == "RUNNING", "it serves")
    assert browser.ask("GET", "/api/v1/me")[0] == 200  # still logged in
    after = impetusd.status()
    assert (after["p"].pid, after.supervisor, after.shim) == (before["p"].pid, before.supervisor, before.shim)

    impetusd.run("token", "add", "ci", "--role", "viewer")
    assert "login?code" in impetusd.run("login-link").out


def test_over_tls(impetusd: Instance) -> None:
    impetusd.root.chmod(0o755)
    cert, key = own_certificate(impetusd.root, names="DNS:localhost,IP:127.0.0.1")
    os.chmod(key, 0o644)  # for nobody; a real one is the gateway's user's alone
    keys = f"listen = 127.0.0.1:{impetusd.port()}\ntls_cert = {cert}\ntls_key = {key}\nceiling = admin"
    impetusd.write(INI.format(keys))
    base, code = code_in(impetusd.run("start").err)
    assert base.startswith("https://127.0.0.1:")
    browser = Browser(base, cert)
    assert browser.ask("POST", "/api/v1/login", {"code": code})[0] == 204
    assert all(name.startswith("__Host-") for name in browser.cookies)
    assert browser.ask("GET", "/api/v1/snapshot")[0] == 200
    plain = base.replace("https", "http")
    with pytest.raises((OSError, ValueError)):
        Browser(plain).ask("GET", "/health")
    impetusd.write(INI.format(keys) + f"[program:more]\ncommand = {program('ignore_term')}\nkill_timeout = 100ms\n")
    assert [each["name"] for each in json.loads(browser.ask("GET", "/api/v1/plan")[1])["changes"]] == ["more"]
    status, text = browser.ask("POST", "/api/v1/apply", {"token": "once"})
    assert (status, json.loads(text.splitlines()[-1])["result"]["ok"]) == (200, True)
    assert impetusd.status()["more"].state == "RUNNING"
    impetusd.run("reload", "gateway")
    assert browser.ask("GET", "/health")[0] == 200
