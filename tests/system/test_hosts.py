"""`-H` and `rollout`: commands on other hosts, each a real sshd with an instance of its own behind it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import COMMAND, PROGRAMS, Instance, Result, pool
from lending import Lend
from sshd import Hosts
from waiting import wait_for

NAMES = ("alpha", "beta", "gamma")


class Here:
    """Commands typed on a host that runs nothing itself, and the instances of the others."""

    def __init__(self, instances: dict[str, Instance], hosts: Hosts) -> None:
        self.on = instances
        self._hosts = hosts

    def run(self, *words: str, code: int = 0) -> Result:
        process = self.begin(*words)
        out, err = process.communicate(timeout=60)
        result = Result(process.returncode, out, err)
        assert result.code == code, result
        return result

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *words],
            env={"PATH": "/usr/bin:/bin", **self._hosts.environ},
            cwd=self._hosts.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def generations(self) -> list[int]:
        return [instance.status()["web:0"].fields["generation"] for instance in self.on.values()]


def commands(instance: Instance) -> list[int]:
    """Pids of what ssh has started on this host."""
    mark = f"IMPETUSD_CONF={instance.conf}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def here(lend: Lend) -> Iterator[Here]:
    with lend(None) as alpha, lend(None) as beta, lend(None) as gamma:
        instances = dict(zip(NAMES, (alpha, beta, gamma), strict=True))
        hosts = Hosts(instances)
        try:
            for instance in instances.values():
                app = instance.root / "app"
                app.mkdir()
                (app / "shop.py").write_text((PROGRAMS / "app_hello.py").read_text())
                port = instance.port()
                instance.start(f"[pool:web]\n{pool(port, 'shop:make', cwd=app, instances=1, standby=0)}")
            yield Here(instances, hosts)
        finally:
            hosts.close()


def test_one_host_is_as_if_typed_there(here: Here) -> None:
    there = here.run("-H", "beta", "status", "--json")
    assert json.loads(there.out)["supervisor"]["pid"] == here.on["beta"].status().supervisor
    odd = here.run("-H", "beta", "exec", "web", "--", "printf", "%s|", "a  b", "$HOME", "'")
    assert odd.out == "a  b|$HOME|'|"
    assert here.run("-H", "beta", "status", "nosuch", code=4).err.count("nosuch") == 1
    assert here.run("-H", "gone", "status", code=255).out == ""


def test_the_ledger_there_names_who_it_was(here: Here) -> None:
    here.run("-H", "root@alpha", "reload", "web")
    events = here.on["alpha"].run("events", "--json").out.splitlines()
    assert [event for event in map(json.loads, events) if event["kind"] == "command" and "reload" in json.dumps(event)]


def test_several_are_one_table(here: Here) -> None:
    shown = here.run("-H", "alpha,beta", "status")
    assert [line.split()[0] for line in shown.out.splitlines() if "RUNNING" in line] == [
        f"{host}/web:{slot}" for host in ("alpha", "beta") for slot in ("template", "0")
    ]
    assert "all 4 up, on 2 hosts" in shown.out
    part = here.run("-H", "alpha,gone", "status", code=1)
    assert "alpha/web:0" in part.out
    assert "gone: " in part.out
    found = json.loads(here.run("-H", "alpha,gone", "status", "--json", code=1).out)
    assert found["alpha"]["units"]
    assert found["gone"]["error"]
    versions = here.run("-H", "alpha,beta", "version").out.splitlines()
    assert [line.partition(": ")[0] for line in versions if "impetusd" in line] == ["alpha", "beta"]


@pytest.mark.parametrize(
    "words",
    [["status", "--watch", "--json"], ["events", "-f", "--since", "1h"], ["logs", "-f", "impetusd"]],
    ids=" ".join,
)
def test_following_several_ends_everywhere(here: Here, words: list[str]) -> None:
    """Each line is behind its host's name; Ctrl-C here leaves nothing running there."""
    process = here.begin("-H", "alpha,beta", *words)
    assert process.stdout is not None
    hosts = set()
    while hosts != {"alpha", "beta"}:
        hosts.add(process.stdout.readline().partition(": ")[0])
    assert all(commands(here.on[name]) for name in hosts)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    for name in hosts:
        wait_for(lambda of=here.on[name]: not commands(of), "no command to be left there")


def test_what_changes_something_is_for_one_host(here: Here) -> None:
    before = here.generations()
    assert "one host at a time" in here.run("-H", "alpha,beta", "restart", "web", code=2).err
    assert here.generations() == before


def test_a_rollout_stops_at_the_first_host_that_fails(here: Here) -> None:
    before = here.generations()
    assert "serves on alpha, beta, gamma" in here.run("rollout", "-H", "alpha,beta,gamma", "web").out
    after = here.generations()
    assert [new - old for old, new in zip(before, after, strict=True)] == [1, 1, 1]

    app = here.on["beta"].root / "app" / "shop.py"
    good = app.read_text()
    app.write_text("raise RuntimeError('half a release')\n")
    failed = here.run("rollout", "-H", "alpha,beta,gamma", "web", code=1)
    assert "half a release" in failed.out
    assert "the new version failed on beta" in failed.err
    assert "web was reloaded on alpha; not touched: gamma" in failed.err
    assert here.generations() == [after[0] + 1, after[1], after[2]]
    app.write_text(good)
    here.on["beta"].settle()


def test_a_rollout_touches_nothing_while_a_host_is_not_well(here: Here) -> None:
    before = here.generations()
    refused = here.run("rollout", "-H", "alpha,gone", "web", code=1)
    assert "nothing was reloaded" in refused.err
    assert "gone: " in refused.err
    assert here.generations() == before
