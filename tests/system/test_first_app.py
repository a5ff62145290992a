"""The first page of the documentation, done as it says: from an empty folder to a reload and a changed INI file."""

from __future__ import annotations

import os
import re
import signal
import urllib.request
from pathlib import Path

from instance import Instance, wait_for

PAGE = (Path(__file__).parents[2] / "impetusd" / "help" / "first-app.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found, kind
    return found[1]


def test_the_page_is_true(impetusd: Instance) -> None:
    port = impetusd.port()

    def answer() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answered:
            return str(answered.read().decode())

    impetusd.write(block("python"), "shop.py")
    impetusd.write(block("ini").replace("8000", str(port)))
    assert "is OK" in impetusd.run("check").out
    impetusd.run("start")
    assert set(impetusd.status().rows) == {"web:template", "web:0", "web:1", "web:standby"}
    assert answer() == "hello\n"

    killed = impetusd.status()["web:0"].pid
    os.kill(killed, signal.SIGKILL)
    assert answer() == "hello\n"
    wait_for(lambda: "killed by SIGKILL" in impetusd.run("why", "web").out, "why to tell of it")
    impetusd.settle()

    impetusd.write(block("python").replace("hello\\n", "hello again\\n"), "shop.py")
    impetusd.run("reload", "web")
    assert answer() == "hello again\n"
    impetusd.write("import nothing_of_the_kind\n", "shop.py")
    assert "nothing_of_the_kind" in str(impetusd.run("reload", "web", code=1))
    assert answer() == "hello again\n"

    impetusd.write(block("ini").replace("8000", str(port)).replace("instances = 2", "instances = 3"))
    assert "instances: 2 → 3" in impetusd.run("plan", code=1).out
    impetusd.run("apply")
    assert "web:2" in impetusd.status().rows
    impetusd.run("stop", "web")
    impetusd.run("stop")
