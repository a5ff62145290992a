"""The web page of a real gateway on a real impetusd, in a real browser: a link logs in, a crash shows, a command works."""

from __future__ import annotations

import os
import signal

import pytest
from chromium import PROGRAM, Loop, Tab
from instance import PYTHON, Instance, pool, program, wait_for

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no chromium in PATH")

INI = """
[gateway]
listen = 127.0.0.1:{}
ceiling = admin

[program:quiet]
command = {}
kill_timeout = 100ms
max_memory_restart = 200M

[program:talker]
command = {}

[pool:web]
{}
[timer:tidy]
command = true
every = 1d
"""
WORDS = (
    "import sys, time\nfor n in range(10**6):\n print(f'\\x1b[32mline {n}\\x1b[0m <b>', flush=True)\n time.sleep(0.2)"
)


def test_the_page_of_a_real_gateway(impetusd: Instance, loop: Loop, tab: Tab) -> None:
    def until(script: str) -> None:
        loop.run(tab.until(script))

    def says(text: str, selector: str = "body") -> None:
        until(f"document.querySelector({selector!r})?.innerText.includes({text!r})")

    def press(text: str, within: str) -> None:
        until(
            f"""(() => {{ const found = [...document.querySelectorAll({within + " button"!r})].find((each) => each.innerText.trim() === {text!r});
            if (!found || found.disabled) return false; found.click(); return true; }})()"""
        )

    def go(where: str) -> None:
        loop.run(tab.run(f"location.hash = {where!r}"))

    impetusd.root.chmod(0o755)
    (impetusd.root / "talk.py").write_text(WORDS, encoding="utf-8")
    talker = f"{PYTHON} {impetusd.root}/talk.py"
    impetusd.start(INI.format(impetusd.port(), program("ignore_term"), talker, pool(impetusd.port())))
    loop.run(tab.goto(impetusd.run("login-link").out.strip()))
    says("All", "h1")
    assert loop.run(tab.run("location.hash")) == "#/"
    says("200 MB", ".slots")
    says("live", ".top .live")

    # A crash, and what brings it back.
    impetusd.run("stop", "talker")
    says("down", ".slots")
    impetusd.run("start", "talker")
    os.kill(impetusd.status()["quiet"].pid, signal.SIGKILL)
    until("[...document.querySelectorAll('.c-restarts')].some((each) => each.innerText === '1')")
    go("#/unit/quiet")
    says("killed by SIGKILL", "main")
    press("Stop", ".headline")
    press("Stop", "dialog")
    says("Done", ".deeds")
    says("impetusd stop quiet", ".deeds")
    wait_for(lambda: impetusd.status()["quiet"].state == "STOPPED", "the stop")
    record = impetusd.run("events", "--json").out
    assert "gateway" in record

    # The other views, with what a real supervisor says.
    for where, text in (
        ("#/unit/web", "app_hello:make"),
        ("#/timers", "tidy"),
        ("#/plan", "already applied"),
        ("#/audit", "impetusd stop quiet"),
        ("#/reload/web", "web:1"),
        ("#/", "quiet"),
    ):
        go(where)
        says(text, "main")
    go("#/unit/web")
    says("impetusd.ini:", "[aria-labelledby=config]")
    press("Show, with secrets hidden", "main")
    says("PATH", "[aria-labelledby=env]")
    go("#/reload/web")
    press("Reload", "main")
    says("Last reload", "main")
    says("responses since you opened this page; errors: 0", "main")

    # Logs: as they come, filtered, in their context, and searched.
    go("#/logs?unit=talker&q=line")
    until("document.querySelectorAll('.line .a2').length > 3")
    before = loop.run(tab.run("document.querySelector('main.logs [role=status]').innerText"))
    until(f"document.querySelector('main.logs [role=status]').innerText !== {before!r}")
    loop.run(tab.run("document.querySelector('.line a').click()"))
    press("Context", ".chosen-line")
    until("document.querySelectorAll('.chosen-line pre > span').length > 2")
    go("#/logs?unit=talker&past=1&q=LINE+1")
    says("line 1 <b>", ".lines")
    # Not logged in before the link was used; and no history is there before the observer has written its first.
    answers = ("status of 401", "/api/v1/history")
    assert [each for each in tab.troubles if not any(answer in each for answer in answers)] == []
