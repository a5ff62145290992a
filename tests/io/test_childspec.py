"""What a process is given: its environment, its command."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys

import pytest

from impetusd.core.config import parser, runtime
from impetusd.core.config.problem import ConfigError
from impetusd.linux.host import this_host
from impetusd.supervisor.start import childspec
from impetusd.supervisor.start.childspec import CannotStart, Found

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it is about other users")


def unit(text):
    (found,) = parser.parse(text, "/srv/impetusd.ini", {}, this_host()).units.values()
    return found


def environment(text, index=0, extra=()):
    return of_unit(unit(f"[program:p]\ncommand = p\n{text}"), index, {}, Found(env_file=dict(extra)))


def of_unit(program, index=0, daemon=None, found=childspec.NOTHING):
    passed = childspec.passed_on(DAEMON if daemon is None else daemon, program.env_pass)
    return childspec.environment(program, f"p:{index}", index, passed, found)


class TestIncrementVar:
    def test_each_instance_adds_its_number(self):
        text = "increment_var = PORT\n[env:p]\nPORT = 8000"
        assert [environment(text, index)["PORT"] for index in (0, 1, 12)] == ["8000", "8001", "8012"]

    def test_to_what_the_env_file_says_where_the_section_says_nothing(self):
        text = "increment_var = PORT\nenv_file = a.env\n"
        assert environment(text, 3, {"PORT": "-1"})["PORT"] == "2"
        assert environment(f"{text}[env:p]\nPORT = 10", 3, {"PORT": "99"})["PORT"] == "13"

    @pytest.mark.parametrize(
        ("extra", "says"),
        [
            ({"PORT": "s3cret"}, "adding the instance's number to PORT failed: PORT is not a whole number"),
            ({}, "adding the instance's number to PORT failed: PORT is not set"),
        ],
    )
    def test_or_the_process_cannot_start(self, extra, says):
        with pytest.raises(childspec.CannotStart) as caught:
            environment("increment_var = PORT\nenv_file = a.env", 0, extra)
        assert str(caught.value) == says

    def test_without_it_a_variable_stays_as_it_is(self):
        assert environment("[env:p]\nPORT = 8000", 3)["PORT"] == "8000"


DAEMON = {
    "PATH": "/home/me/bin:/usr/bin", "LANG": "C.UTF-8", "LC_TIME": "C", "AWS_KEY": "a", "AWS_REGION": "b", "TOKEN": "c", "PORT": "9",
    "INSTANCE": "7", "NOTIFY_SOCKET": "@x", "LISTEN_FDS": "3", "IMPETUSD_LIFELINE": "4", "IMPETUSD_CONF": "/x.ini", "JOURNAL_STREAM": "8:1",
}  # fmt: skip
ALWAYS = {"PATH", "LANG", "LC_TIME"}
OWN = {"INVOCATION_ID", "IMPETUSD_UNIT", "IMPETUSD_NAME", "INSTANCE"}


class TestEnvPass:
    @pytest.mark.parametrize(
        ("env_pass", "handed_on"),
        [
            ("", ALWAYS),
            ("TOKEN, NO_SUCH", ALWAYS | {"TOKEN"}),
            ("AWS_*", ALWAYS | {"AWS_KEY", "AWS_REGION"}),
            ("*", ALWAYS | {"AWS_KEY", "AWS_REGION", "TOKEN", "PORT"}),
            ("!AWS_*, *", ALWAYS | {"TOKEN", "PORT"}),
            ("*, !AWS_K??, !LC_*", {"PATH", "LANG", "AWS_REGION", "TOKEN", "PORT"}),
            ("!LANG", {"PATH", "LC_TIME"}),
        ],
    )
    def test_says_what_is_handed_on(self, env_pass, handed_on):
        env = of_unit(unit(f"[program:p]\ncommand = p\nenv_pass = {env_pass}\n"))
        assert env.keys() == handed_on | OWN
        assert env["INSTANCE"] == "0"

    @pytest.mark.parametrize(("env_pass", "ours"), [("", True), ("TOKEN", True), ("PATH", False), ("*", False)])
    def test_has_the_path_as_it_is_when_it_is_among_them(self, env_pass, ours):
        env = of_unit(unit(f"[program:p]\ncommand = p\nenv_pass = {env_pass}\n"))
        assert env["PATH"] == (f"{os.path.dirname(sys.executable)}:" if ours else "") + DAEMON["PATH"]

    def test_names_outright_what_the_user_would_have_otherwise(self):
        home = {"HOME": "/home/bob", "USER": "bob", "SHELL": "/bin/sh"}
        daemon = {"HOME": "/root", "USER": "root"}
        for env_pass, meant in (("*", home), ("*, HOME, SHELL", {"HOME": "/root", "USER": "bob"}), ("H*", home)):
            program = unit(f"[program:p]\ncommand = p\nenv_pass = {env_pass}\n")
            env = of_unit(program, daemon=daemon, found=Found(home=home))
            assert {name: env[name] for name in home if name in env} == meant

    def test_goes_behind_all_that_the_file_says(self):
        own = unit("[env]\nTOKEN = all\nPORT = all\n[env:p]\nPORT = own\n[program:p]\ncommand = p\nenv_pass = *\n")
        env = of_unit(own, found=Found(env_file={"TOKEN": "file", "AWS_KEY": "file"}))
        assert [env[name] for name in ("TOKEN", "PORT", "AWS_KEY", "AWS_REGION")] == ["all", "own", "file", "b"]


def test_the_worker_runtime_is_told_its_watchdog():
    pool = unit("[pool:w]\napp = a:b\nlisten = unix:s\nwatchdog = 1500ms\n")
    assert json.loads(runtime.variables(pool, {})["IMPETUSD_WORKER"])["watchdog"] == 1.5


def test_a_python_of_the_applications_own_is_led_to_the_package_and_to_nothing_beside_it():
    pool = unit("[pool:w]\napp = a:b\nlisten = unix:s\ninterpreter = /srv/venv/bin/python\n")
    assert runtime.command(pool, "serve") == ["/srv/venv/bin/python", "-m", "impetusd.worker", "serve"]
    told = runtime.variables(pool, {"PYTHONPATH": "/srv/lib"})
    (ours, given) = told["PYTHONPATH"].split(":")
    assert (os.listdir(ours), given) == (["impetusd"], "/srv/lib")
    env = {"A": "1", "PYTHONPATH": told["PYTHONPATH"]}
    runtime.without(env)
    assert env == {"A": "1", "PYTHONPATH": "/srv/lib"}


def test_what_is_ours_cannot_be_set_for_a_process():
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID", "INSTANCE", "NOTIFY_SOCKET"):
        with pytest.raises(ConfigError, match="is set by impetusd itself"):
            environment(f"[env:p]\n{name} = 1")
    assert environment("[env:p]\nA = 1", 4)["INSTANCE"] == "4"


def test_this_host_knows_whether_files_can_be_watched(monkeypatch, tmp_path):
    (tmp_path / "watchfiles.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert this_host().has_watch
    monkeypatch.setattr("sys.path", [os.fspath(tmp_path / "none")])
    monkeypatch.delitem(__import__("sys").modules, "watchfiles", raising=False)
    assert not this_host().has_watch


class TestIdentity:
    @pytest.mark.parametrize(
        ("keys", "is_"),
        [
            ("user = 12345", {"uid": 12345, "gid": 12345, "groups": [12345]}),
            ("user = 12345:678", {"uid": 12345, "gid": 678, "groups": [678]}),
            ("user = 12345\ngroup = 678", {"uid": 12345, "gid": 678, "groups": [678]}),
            ("user = 12345:daemon", {"uid": 12345, "gid": 1, "groups": [1]}),
            ("user = nobody:0", {"uid": 65534, "gid": 0, "groups": [0]}),
            ("group = 678", {"uid": 0, "gid": 678, "groups": [678]}),
        ],
    )
    def test_needs_no_name(self, keys, is_):
        if os.geteuid() != 0:
            pytest.skip("needs root")
        assert childspec.identity(unit(f"[program:p]\ncommand = p\n{keys}")) == is_

    def test_without_a_name_has_a_home_and_nothing_of_roots(self):
        if os.geteuid() != 0:
            pytest.skip("needs root")
        told = childspec.home_of(unit("[program:p]\ncommand = p\nuser = 12345"))
        assert told == {"HOME": "/", "USER": "12345", "LOGNAME": "12345", "SHELL": "/bin/sh"}

    @pytest.mark.parametrize(
        ("keys", "says"),
        [
            ("user = nobody:no-such", "user = nobody:no-such: no such group on this host"),
            ("user = ghost-of:0", "user = ghost-of:0: no such user on this host"),
            ("user = 1:2\ngroup = 3", "group = 3: user already sets a group after the colon"),
        ],
    )
    def test_that_cannot_be_is_told(self, keys, says):
        if os.geteuid() != 0:
            pytest.skip("needs root")
        with pytest.raises(ConfigError, match=says):
            unit(f"[program:p]\ncommand = p\n{keys}")


def test_what_node_is_to_load_must_be_readable_by_its_user(tmp_path):
    open_to_all, closed = tmp_path / "open.cjs", tmp_path / "closed.cjs"
    for path, mode in ((open_to_all, 0o644), (closed, 0o640)):
        path.touch()
        path.chmod(mode)
    childspec.refuse_unreadable(str(closed), "")
    with pytest.raises(
        childspec.CannotStart, match=r"www-data cannot read it because of the permissions of .*closed\.cjs"
    ):
        childspec.refuse_unreadable(str(closed), "www-data")
    tmp_path.chmod(0o700)
    with pytest.raises(childspec.CannotStart, match=f"because of the permissions of {tmp_path}"):
        childspec.refuse_unreadable(str(open_to_all), "www-data")


class TestTheFolderOfAUnitOfOurOwn:
    """It is made by a thread, and others of this process change its umask meanwhile."""

    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "lib").mkdir(mode=0o700)
        return str(tmp_path / "lib/observer")

    @pytest.mark.parametrize("mask", [0o022, 0o177, 0o777])
    def test_it_is_there_for_its_user_alone_whatever_the_umask_is(self, path, mask):
        before = os.umask(mask)
        try:
            childspec.own_folder(path, None, "")
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        os.chmod(path, 0o755)
        childspec.own_folder(path, None, "")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700

    @needs_root
    def test_another_user_gets_it_with_its_files_and_nothing_that_is_elsewhere_too(self, path, monkeypatch):
        monkeypatch.setattr(childspec.host, "closed_to_others", lambda *_: "")  # this test's own folder is
        childspec.own_folder(path, 61001, "alice")
        names = {name: os.path.join(path, name) for name in ("own", "link", "second", "roots")}
        elsewhere = os.path.join(os.path.dirname(path), "elsewhere")
        for each in (names["own"], names["roots"], elsewhere):
            with open(each, "w", encoding="utf-8"):
                pass
        os.chown(names["own"], 61001, -1)
        os.chown(elsewhere, 61001, -1)
        os.symlink(elsewhere, names["link"])
        os.link(elsewhere, names["second"])
        childspec.own_folder(path, 61002, "bob")
        owners = {name: os.lstat(each).st_uid for name, each in names.items()}
        assert owners == {"own": 61002, "link": 0, "second": 61001, "roots": 0}
        assert os.stat(path).st_uid == 61002
        assert os.stat(os.path.dirname(path)).st_mode & stat.S_IXOTH

    @pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
    def test_where_there_are_no_other_users_it_says_what_to_write(self, path, monkeypatch, number):
        """As in a container with one user number, or without CAP_CHOWN."""

        def refuse(*_args, **_more):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(childspec.os, "chown", refuse)
        with pytest.raises(
            CannotStart, match=r"without user ID 61002, or without CAP_CHOWN.* set user = root in \[gateway\]"
        ):
            childspec.own_folder(path, 61002, "61002")

    @needs_root
    def test_a_user_who_does_not_get_there_is_named_with_what_is_closed(self, path, tmp_path):
        os.chmod(tmp_path, 0o700)
        with pytest.raises(CannotStart, match=rf"bob cannot enter {tmp_path}; run: chmod o\+x {tmp_path}$"):
            childspec.own_folder(path, 61002, "bob")
