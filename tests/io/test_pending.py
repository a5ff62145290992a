"""What the INI file has and what is in force: said by each command that starts something, by `status` and by `why`."""

from __future__ import annotations

import os

import pytest
from fake_supervisor import PONG, FakeSupervisor, row

from impetusd.core.config import pending

CHANGES = [{"kind": "program", "name": "new", "effect": "added", "keys": []}]
MORE = "\n[program:new]\ncommand = sleep 1000\n"
# Each command that starts, restarts or reloads, and what the daemon answers.
BEGIN = {
    "start": {"ok": True, "units": [row("web")]},
    "restart": {"ok": True, "units": [row("web")]},
    "restart --rolling": {"ok": True, "units": [row("web")]},
    "reload web": {"ok": True, "units": [row("web")], "reloads": []},
    "scale web 2": {"ok": True, "units": [row("web")]},
    "enable web": {"ok": True, "units": [], "changes": []},
}


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def daemon(paths, problems=(), changes=CHANGES, **handlers):
    """A daemon that has read the file as it is now."""
    in_force = pending.report([(paths.conf, read(paths.conf))], [])
    pong = {**PONG, "in_force": in_force}
    status = {**pong, "units": [row("web")], "attention": []}
    plan = {"changes": changes, "problems": list(problems)}
    return FakeSupervisor(paths, ping=pong, status=status, plan=plan, **handlers)


def append(paths, text):
    with open(paths.conf, "a", encoding="utf-8") as file:
        file.write(text)


class TestDiffers:
    def told(self, tmp_path, *globs):
        (tmp_path / "a.ini").write_text("[program:a]\ncommand = a\n")
        (tmp_path / "b.ini").write_text("[program:b]\ncommand = b\n")
        texts = [(str(path), path.read_text()) for path in (tmp_path / "a.ini", *map(tmp_path.joinpath, globs))]
        return pending.report(texts, [str(tmp_path / each) for each in globs])

    def differs(self, told, tmp_path, present=()):
        listing = lambda pattern: [str(tmp_path / each) for each in present] if present else [pattern]  # noqa: E731
        return pending.differs(told, str(tmp_path / "a.ini"), read, listing)

    def test_a_comment_does_not_count_and_a_key_does(self, tmp_path):
        told = self.told(tmp_path)
        assert not self.differs(told, tmp_path)
        (tmp_path / "a.ini").write_text("# x\n\n[program:a]\n; y\ncommand = a\n")
        assert not self.differs(told, tmp_path)
        (tmp_path / "a.ini").write_text("[program:a]\ncommand = a\nnice = 1\n")
        assert self.differs(told, tmp_path)

    def test_what_is_included_counts(self, tmp_path):
        told = self.told(tmp_path, "b.ini")
        assert not self.differs(told, tmp_path)
        (tmp_path / "b.ini").write_text("[program:b]\ncommand = c\n")
        assert self.differs(told, tmp_path)
        assert self.differs(told, tmp_path, ["c.ini"])

    def test_of_an_older_daemon_nothing_is_known(self, tmp_path):
        assert not self.differs({}, tmp_path)

    def test_the_numbers_tell_nothing_of_the_text(self, tmp_path):
        assert "command" not in repr(self.told(tmp_path)["files"][0][1:])


class TestCommands:
    @pytest.mark.parametrize("words", BEGIN)
    def test_each_that_starts_something_says_so(self, paths, cli, words):
        name = words.split()[0]
        with daemon(paths, **{name: BEGIN[words]}):
            assert "not applied" not in cli(*words.split())[2]
            append(paths, MORE)
            code, _, err = cli(*words.split())
        assert code == 0
        assert f"the INI file has changes that are not applied → impetusd -c {paths.conf} plan\n" in err

    @pytest.mark.parametrize("words", BEGIN)
    def test_or_that_the_file_has_a_mistake(self, paths, cli, words):
        with daemon(paths, [f"{paths.conf}:9: no"], **{words.split()[0]: BEGIN[words]}):
            append(paths, MORE)
            err = cli(*words.split())[2]
        assert "has a mistake, and impetusd could not restart with it: impetusd.ini:9: no" in err

    def test_status_says_it_too(self, paths, cli):
        with daemon(paths):
            assert '"pending": false' in cli("status", "--json")[1]
            append(paths, MORE)
            code, out, _ = cli("status")
            assert code == 0
            assert "changes that are not applied" in out
            assert out.endswith(f"impetusd -c {paths.conf} plan\n")
            code, out, _ = cli("status", "--json")
            assert '"pending": true' in out
            assert "in_force" not in out

    def test_where_applying_would_change_nothing_nothing_is_said(self, paths, cli):
        with daemon(paths, changes=[]):
            append(paths, "\n[impetusd]\n")
            assert "not applied" not in cli("status")[1]

    def test_the_daemon_is_asked_only_if_the_file_was_edited(self, paths, cli):
        with daemon(paths) as fake:
            append(paths, "# comment\n")
            cli("status")
        assert [method for method, _ in fake.asked] == ["status"]


class TestWithoutADaemon:
    def test_status_and_why_tell_what_keeps_it_from_starting(self, paths, cli):
        os.makedirs(paths.state_dir)
        assert "to start it:" in cli("status")[2]
        append(paths, "comand = x\n")
        code, _, err = cli("status")
        assert code == 3
        assert f"cannot start because of a mistake in the INI file: {paths.conf}:8:" in err
        _, out, _ = cli("why")
        assert "impetusd cannot start: its INI file has mistakes since" in out
        assert "impetusd.ini:8:" in out.replace("\n           ", "")
