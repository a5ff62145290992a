"""`-H` and `rollout` without a host: what the words mean, what is run, and how an ending is put."""

from __future__ import annotations

import shlex

import pytest

from impetusd.cli import elsewhere, rollout
from impetusd.cli.failure import Failure
from impetusd.cli.main import hosts_asked
from impetusd.cli.screen.terminal import Screen

WIDE = Screen()


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["-H", "a", "status"], ("a", ["status"])),
        (["-Ha,b", "status"], ("a,b", ["status"])),
        (["--hosts=a", "-c", "x.ini", "stop"], ("a", ["-c", "x.ini", "stop"])),
        (["-c", "-H", "status"], None),
        (["-c", "x.ini", "--hosts", "a", "why"], ("a", ["-c", "x.ini", "why"])),
        (["exec", "web", "--", "curl", "-H", "Host: x"], None),
        (["rollout", "-H", "a,b", "web"], None),
        (["-H"], None),
    ],
)
def test_it_precedes_the_command(args: list[str], found: tuple[str, list[str]] | None) -> None:
    assert hosts_asked(args) == found


@pytest.mark.parametrize("text", ["", "a,", "-oProxyCommand=x", "a,-x", "a b", "a\nb", "a,b,a"])
def test_what_is_no_host_never_reaches_ssh(text: str) -> None:
    with pytest.raises(Failure) as refused:
        elsewhere.hosts_of(text)
    assert refused.value.exit == 2


def test_each_word_arrives_as_it_is() -> None:
    words = ["exec", "web", "--", "sh", "-c", "echo $HOME; it's `x`", ""]
    *ssh, host, there = elsewhere.argv("me@a", words, "-T")
    assert (ssh, host) == (["ssh", "-T", "--"], "me@a")
    assert shlex.split(there) == ["impetusd", *words]


@pytest.mark.parametrize("name", ["stop", "restart", "reload", "apply", "delete", "update", ""])
def test_several_hosts_are_not_changed_at_once(name: str) -> None:
    said = {"": "a command", "update": "apply"}.get(name, name)
    with pytest.raises(Failure, match=f"-H a,b: {said} works on one host at a time"):
        elsewhere.run("a,b", ["-c", "x.ini", *([name] if name else [])])


def test_ssh_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(elsewhere.VARIABLE, "/no/such/ssh -4")
    for host in ("a", "a,b"):
        with pytest.raises(Failure, match="/no/such/ssh"):
            elsewhere.run(host, ["status"])


def test_one_table_shows_what_is_wrong_where() -> None:
    row = {"unit": "web", "want": "up", "pid": 1, "uptime_s": 1.0, "restarts": 0, "memory_bytes": 1, "cpu_percent": 0.0}
    up = {**row, "name": "web:0", "state": "RUNNING", "reason": None}
    down = {**row, "name": "web:0", "state": "FATAL", "reason": {"key": "x", "facts": {}, "text": "exit 1"}}
    lines = elsewhere.merged({"a": {"units": [up]}, "b": {"units": [down]}, "c": {"error": "no route\nto it"}}, WIDE)
    text = "\n".join(lines)
    assert [line.split()[:2] for line in lines[1:3]] == [["a/web:0", "RUNNING"], ["b/web:0", "FATAL"]]
    assert "b/web:0 is FATAL: exit 1" in text
    assert "impetusd -H b why web" in text
    assert lines[-2:] == ["c: no route", "c: to it"]
    assert elsewhere.merged({"a": {"units": [up]}, "b": {"units": [up]}}, WIDE)[-1] == "all 2 up, on 2 hosts"


def test_an_ended_rollout_says_where_it_stands() -> None:
    hosts, names = ["a", "b", "c"], ("web",)
    assert rollout.ending(hosts, ["a"], names, lost=False) == (
        "the new version failed on b, as shown above; web was reloaded on a; not touched: c"
    )
    assert rollout.ending(hosts, [], names, lost=True) == (
        "the connection to a broke during its reload, which continues there; see: impetusd -H a status web; not touched: b, c"
    )


def test_a_host_that_fails_without_a_word_is_named(tmp_path, monkeypatch, capfd) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexit 7\n")
    ssh.chmod(0o755)
    monkeypatch.setenv(elsewhere.VARIABLE, str(ssh))
    with pytest.raises(Failure, match="nothing was reloaded"):
        rollout.command.main(["-H", "a", "web"], standalone_mode=False)
    assert "a: impetusd status exited with code 7" in capfd.readouterr().err
