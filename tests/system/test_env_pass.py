"""env_pass: what was in the environment of `impetusd start` is handed on, and running units keep what they have."""

from __future__ import annotations

import os
from pathlib import Path

from instance import Instance, pool, program

GIVEN = {"SHOP_REGION": "lisbon", "SHOP_TOKEN": "h1dden-value", "AWS_KEY": "h1dden-key"}


def environ(pid: int | None) -> dict[str, str]:
    text = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes())
    return dict(each.split("=", 1) for each in text.split("\0") if each)


def test_it_is_handed_on_and_a_change_waits_for_apply(impetusd: Instance) -> None:
    one = f"[program:one]\ncommand = {program('ignore_term')}\nkill_timeout = 100ms\n"
    web = f"[pool:web]\n{pool(impetusd.port(), standby=0)}"
    own = "[env]\nFOR_ALL = 1\nSHOP_REGION = ${SHOP_REGION:-none} by the file\n"
    impetusd.write(f"{one}env_pass = *, !AWS_*\n{web}")
    impetusd.run("start", env=GIVEN)
    status = impetusd.settle()
    found, of_pool = environ(status["one"].pid), environ(status["web:template"].pid)
    assert [found.get(name) for name in GIVEN] == ["lisbon", "h1dden-value", None]
    assert found["PATH"] == impetusd.environ["PATH"]
    assert not of_pool.keys() & GIVEN.keys()
    assert of_pool["PATH"].endswith(f":{impetusd.environ['PATH']}")
    for command in (("env", "one"), ("describe", "one"), ("env", "one", "--json")):
        shown = impetusd.run(*command).out
        assert "h1dden" not in shown, command
    assert "lisbon" in impetusd.run("env", "one").out

    impetusd.write(f"{own}{one}env_pass = SHOP_*\n{web}")
    plan = impetusd.run("plan", code=None).out
    assert "env_pass" in plan
    assert "SHOP_*" in plan
    assert environ(impetusd.status()["one"].pid) == found
    impetusd.run("apply")
    after = impetusd.settle()
    assert [environ(after["one"].pid).get(name) for name in (*GIVEN, "FOR_ALL")] == [
        "lisbon by the file",
        "h1dden-value",
        None,
        "1",
    ]
    assert environ(after["web:template"].pid)["FOR_ALL"] == "1"
