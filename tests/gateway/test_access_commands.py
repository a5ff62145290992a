"""`token`, `passwd` and `login-link`, and the file that they write."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
import threading
import time

import pytest
from fake_supervisor import PONG, FakeSupervisor, paths_in
from waiting import PATIENCE

from impetusd.cli import main
from impetusd.gateway import accessfile, passwords, tokens
from impetusd.gateway.accessfile import Refused, State, Token


@pytest.fixture
def paths(tmp_path):
    paths = paths_in(tmp_path)
    os.makedirs(f"{paths.state_dir}/gateway", mode=0o700)
    return paths


@pytest.fixture
def folder(paths):
    return f"{paths.state_dir}/gateway"


@pytest.fixture
def cli(paths, monkeypatch, capsys):
    def run(*args, stdin=""):
        monkeypatch.setattr(sys, "argv", ["impetusd", "-c", paths.conf, *args])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


class TestToken:
    def test_is_printed_once_and_kept_as_a_digest(self, cli, folder):
        code, out, _ = cli("token", "add", "ci", "--role", "operator", "--expires", "90d")
        secret = out.strip()
        assert (code, secret[:5]) == (0, tokens.PREFIX)
        path = f"{folder}/{accessfile.NAME}"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with open(path, encoding="utf-8") as file:
            assert secret not in file.read()
        token = accessfile.read(folder).tokens["ci"]
        assert (token.role, token.digest) == ("operator", tokens.digest(secret))
        assert abs(token.expires - time.time() - 90 * 86400) < 60
        assert (
            cli("token", "list")[1] == "ci  operator  expires in 89 days\n" or "expires in" in cli("token", "list")[1]
        )
        assert json.loads(cli("token", "list", "--json")[1])["tokens"][0]["name"] == "ci"
        assert cli("token", "add", "ci")[0] == 1
        assert cli("token", "remove", "ci")[0] == 0
        assert cli("token", "list")[1] == "there are no tokens\n"
        assert "no token ci" in cli("token", "remove", "ci")[2]

    @pytest.mark.parametrize(
        "arguments",
        [
            ("add",),
            ("list", "x"),
            ("remove",),
            ("add", "a\nb"),
            ("add", "x" * 200),
            ("add", "x", "--expires", "never"),
            ("remove", "x", "--role", "viewer"),
        ],
    )
    def test_wrong_usage_changes_nothing(self, cli, folder, arguments):
        assert cli("token", *arguments)[0] == 2
        assert os.listdir(folder) == []


class TestPasswd:
    def test_sets_one_and_ends_the_sessions(self, cli, folder):
        code, _, err = cli("passwd", "alice", "--role", "operator", stdin="correct horse\n")
        assert (code, err) == (0, "alice can log in as operator\n")
        accessfile.change(folder, lambda state: state.add_session("d", "alice", "operator", time.time()))
        assert cli("passwd", "alice", stdin="another horse\n")[0] == 0
        state = accessfile.read(folder)
        assert (state.users["alice"].role, state.sessions) == ("operator", {})
        assert passwords.is_right("another horse", state.users["alice"].password)
        assert not passwords.is_right("correct horse", state.users["alice"].password)
        assert cli("passwd", "alice", "--remove")[0] == 0
        assert accessfile.read(folder).users == {}

    def test_a_short_one_is_refused(self, cli, folder):
        code, _, err = cli("passwd", "alice", stdin="short\n")
        assert (code, "at least 10 characters" in err) == (1, True)
        assert os.listdir(folder) == []

    def test_without_a_gateway_it_says_so(self, cli, folder, paths):
        os.rmdir(folder)
        code, _, err = cli("passwd", "alice", stdin="correct horse\n")
        assert (code, f"{paths.conf} has no [gateway]" in err) == (1, True)


class TestLink:
    @pytest.mark.parametrize(
        ("gateway", "base"),
        [
            ({"listen": ["127.0.0.1:9616"], "tls": False}, "http://127.0.0.1:9616"),
            ({"listen": ["unix:/run/x", "0.0.0.0:9615"], "tls": True}, "https://127.0.0.1:9615"),
            ({"listen": ["[::]:9615"], "tls": True}, "https://[::1]:9615"),
            (
                {"listen": ["127.0.0.1:9615"], "tls": False, "url": "https://ops.example.com/"},
                "https://ops.example.com",
            ),
        ],
    )
    def test_is_where_the_gateway_listens(self, cli, paths, folder, gateway, base):
        status = {**PONG, "units": [], "attention": [], "gateway": gateway}
        with FakeSupervisor(paths, status=status):
            code, out, _ = cli("login-link", "--role", "viewer")
        assert code == 0
        found = re.fullmatch(r"(.*)/#/login\?code=(.*)\n", out)
        assert found[1] == base
        (grant,) = accessfile.read(folder).links.items()
        assert (grant[0], grant[1].role) == (tokens.digest(found[2]), "viewer")

    @pytest.mark.parametrize(
        ("ceiling", "given", "role"),
        [
            ({"ceiling": "operator"}, [], "operator"),
            ({"ceiling": "operator"}, ["--role", "admin"], "operator"),
            ({"ceiling": "operator"}, ["--role", "viewer"], "viewer"),
            ({"ceiling": "admin"}, [], "admin"),
            ({}, [], "admin"),  # of an older daemon, which does not say it
        ],
    )
    def test_names_the_role_that_one_has_by_it(self, cli, paths, folder, ceiling, given, role):
        gateway = {"listen": ["127.0.0.1:9616"], "tls": False, **ceiling}
        with FakeSupervisor(paths, status={**PONG, "units": [], "attention": [], "gateway": gateway}):
            code, _, err = cli("login-link", *given)
        assert (code, err) == (0, f"It works once, within 15 minutes, with the role {role}.\n")
        assert [grant.role for grant in accessfile.read(folder).links.values()] == [role]

    def test_without_a_gateway_it_says_so(self, cli, paths):
        with FakeSupervisor(paths, status={**PONG, "units": [], "attention": []}):
            assert "no gateway is running" in cli("login-link")[2]


class TestFile:
    def test_two_that_change_it_at_once_both_do(self, tmp_path, monkeypatch):
        monkeypatch.setattr(accessfile, "LOCKED", PATIENCE)  # of twenty who write to the disk, one is the last
        folder = str(tmp_path)

        def add(name):
            accessfile.change(folder, lambda state: state.add_token(name, Token("viewer", name, 1.0, 0.0)))

        threads = [threading.Thread(target=add, args=(f"t{n}",)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(accessfile.read(folder).tokens) == 20
        assert os.listdir(folder) == [accessfile.NAME]

    def test_what_is_refused_leaves_it_as_it_is(self, tmp_path):
        def act(state):
            state.set_user("a", "admin", "x")
            raise Refused("no")

        with pytest.raises(Refused):
            accessfile.change(str(tmp_path), act)
        assert accessfile.read(str(tmp_path)) == State()

    def test_entries_that_make_no_sense_have_no_access(self):
        found = accessfile.parsed(
            json.dumps(
                {
                    "users": {
                        "a": {"role": "god", "password": "x"},
                        "b": {"role": "viewer", "password": "x", "more": 1},
                        "c": 1,
                    },
                    "tokens": {"t": {"role": "viewer", "digest": "d", "made": "x", "expires": 0}},
                    "sessions": [],
                }
            ).encode()
        )
        assert list(found.users) == ["b"]
        assert (found.tokens, found.sessions) == ({}, {})
        assert accessfile.parsed(b"[]") == State()

    @pytest.mark.skipif(os.geteuid() != 0, reason="a folder of somebody else takes root")
    def test_in_the_folder_of_another_user_no_link_is_followed(self, tmp_path):
        folder, target = tmp_path / "gateway", tmp_path / "target"
        folder.mkdir(mode=0o700)
        target.write_text("{}")
        os.chown(folder, 65534, 65534)
        (folder / accessfile.NAME).symlink_to(target)
        with pytest.raises(OSError):
            accessfile.change(str(folder), lambda state: None)
        (folder / accessfile.NAME).unlink()
        (folder / f".{accessfile.NAME}.new").symlink_to(target)
        accessfile.change(str(folder), lambda state: state.add_token("t", Token("viewer", "d", 1.0, 0.0)))
        there = os.stat(folder / accessfile.NAME)
        assert (there.st_uid, stat.S_IMODE(there.st_mode), target.read_text()) == (65534, 0o600, "{}")


def test_passwords_of_nobody_take_as_long():
    """And are never right: what is kept of an unknown user is ""."""
    assert not passwords.is_right("", "")
    assert not passwords.is_right("x", "scrypt$15$8$1$%%%$x")
    assert not passwords.is_right("x", passwords.hashed("y"))
    assert passwords.is_right("\ud800 with a lone surrogate", passwords.hashed("\ud800 with a lone surrogate"))


class TestWhatTheGatewaysUserWrites:
    """Somebody who has broken into the gateway owns the file that root's commands read."""

    def test_names_that_a_terminal_would_obey_are_left_out(self, cli, folder):
        token = {"role": "viewer", "digest": "x", "made": 0, "expires": 0}
        names = dict.fromkeys(("good", "\x1b]0;bad\x07", "two\nlines", "\u202eleft", "", "x" * 129), token)
        with open(f"{folder}/{accessfile.NAME}", "w", encoding="utf-8") as file:
            json.dump({"tokens": names}, file)
        assert cli("token", "list") == (0, "good  viewer    does not expire\n", "")
        assert cli("token", "remove", "bad")[2].strip().endswith("tokens: good")

    @pytest.mark.parametrize("expires", [float("nan"), float("inf"), -1, 1e300])
    def test_times_that_are_none_are_left_out(self, cli, folder, expires):
        token = {"role": "viewer", "digest": "x", "made": 0, "expires": expires}
        with open(f"{folder}/{accessfile.NAME}", "w", encoding="utf-8") as file:
            json.dump({"tokens": {"bad": token}}, file)
        assert cli("token", "list") == (0, "there are no tokens\n", "")

    def test_what_is_nested_without_end_is_an_error_in_one_line(self, cli, folder):
        with open(f"{folder}/{accessfile.NAME}", "w", encoding="utf-8") as file:
            file.write("[" * 500_000)
        code, _, error = cli("token", "list")
        assert code
        assert error.count("\n") == 1
        assert "nested too deeply" in error
