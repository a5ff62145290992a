"""Another host on the overview of this one's page: two real instances, over TLS, in a real browser."""

from __future__ import annotations

import os

import pytest
from chromium import PROGRAM, Loop, Tab
from instance import Instance, program, wait_for
from lending import Lend
from own_certificate import own_certificate

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no chromium in PATH")

FAR = """
[gateway]
listen = 127.0.0.1:{port}
tls_cert = {cert}
tls_key = {key}

[program:ends]
command = {ends}
max_restarts = 1
exp_backoff_restart_delay = 1ms

[program:runs]
command = {runs}
kill_timeout = 100ms
"""
NEAR = """
[gateway]
listen = 127.0.0.1:{}

[host:far]
url = https://localhost:{}/
token = {}
ca_file = {}

[host:gone]
url = http://127.0.0.1:{}/
token = x

[program:own]
command = {}
kill_timeout = 100ms
"""


def test_what_is_wrong_on_another_host_is_on_the_page_of_this_one(
    impetusd: Instance, lend: Lend, loop: Loop, tab: Tab
) -> None:
    with lend(None) as far:
        cert, key = own_certificate(far.root)
        os.chmod(key, 0o644)  # for nobody; a real one is the gateway's user's alone
        for instance in (far, impetusd):
            instance.root.chmod(0o755)
        port = far.port()
        ends, runs = program("exit_with", 3), program("ignore_term")
        far.write(FAR.format(port=port, cert=cert, key=key, ends=ends, runs=runs))
        far.run("start", code=None)
        wait_for(lambda: far.status()["ends"].state == "FATAL", "the end of its restarts")
        token = far.run("token", "add", "near").out.split()[-1]
        impetusd.start(NEAR.format(impetusd.port(), port, token, cert, impetusd.port(), runs))
        secrets = [impetusd.run(*command).out for command in (("describe", "gateway"), ("env", "gateway"), ("plan",))]
        assert not any(token in text for text in secrets)

        loop.run(tab.goto(impetusd.run("login-link").out.strip()))
        for words in ("1 of ", "ends: ", "exit 3", "connection refused", "never seen"):
            loop.run(tab.until(f"document.querySelector('.hosts')?.innerText.includes({words!r})"))
        links = loop.run(tab.run("[...document.querySelectorAll('.hosts a')].map((each) => each.href)"))
        assert max(links) == f"https://localhost:{port}/"
        assert token not in loop.run(tab.run("fetch('api/v1/hosts').then((answer) => answer.text())"))
        assert not any(f":{port}/" in url for url in tab.bytes), "nothing of the other host is loaded"
        assert [each for each in tab.troubles if "status of 401" not in each and "/api/v1/history" not in each] == []
