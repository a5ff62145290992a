"""The INI file: mistakes told whole, a broken one harms nothing, and text is text in any locale."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from instance import Instance, program

GOOD = f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n"
BAD = """[impetusd]
run_dri = var/run
[program:one]
command = sleep 1000
kill_timeout = 10
[program:two]
comand = sleep 1000
[program:three]
command = sleep 1000
autorestart = sometimes
depends_on = four
[program:six]
command = sleep "1000
umask = 999
[pool:web]
app = app_hello
listen = 8080
instances = none
[timr:x]
every = 1s
"""
# Where the problems are, and a word of what each is about.
PROBLEMS = {
    2: "run_dir", 5: "10s", 6: "command", 7: "command", 10: "autorestart", 11: "four", 13: "never closed", 14: "umask",
    16: "app", 17: "8080", 18: "instances", 19: "timr",
}  # fmt: skip


def told(text: str, path: Path) -> dict[int, str]:
    """The problems by line."""
    found: dict[int, str] = {}
    for line in text.splitlines():
        if line.startswith(f"{path}:"):
            number, _, said = line.removeprefix(f"{path}:").partition(":")
            found[int(number)] = f"{found.get(int(number), '')} {said}"
    return found


def test_ten_mistakes_are_ten_problems_each_with_its_line(impetusd: Instance) -> None:
    impetusd.write(BAD)
    refused = impetusd.run("check", code=2)
    found = told(refused.out, impetusd.conf)
    assert set(found) == set(PROBLEMS), refused
    for number, word in PROBLEMS.items():
        assert word in found[number], (number, found[number])
    assert "12 problems" in refused.err
    assert impetusd.run("check", impetusd.conf, code=2).out == refused.out


def test_a_start_with_mistakes_starts_no_daemon_and_tells_them_all(impetusd: Instance) -> None:
    impetusd.write(BAD)
    refused = impetusd.run("start", code=2)
    assert set(told(refused.err, impetusd.conf)) == set(PROBLEMS)
    assert impetusd.members() == []
    assert not (impetusd.root / "var").exists()


def test_a_start_with_a_file_that_broke_changes_nothing_that_runs(impetusd: Instance) -> None:
    before = impetusd.start(GOOD)
    impetusd.write(BAD)
    for command in ("start", "run"):
        refused = impetusd.run(command, code=2)
        assert set(told(refused.err, impetusd.conf)) == set(PROBLEMS)
    after = impetusd.settle()
    assert (after.shim, after.supervisor, after.pids) == (before.shim, before.supervisor, before.pids)
    impetusd.run("status")
    impetusd.run("logs", "p")
    impetusd.kill(after.supervisor)  # the next one goes on with what was in force
    assert impetusd.settle(lambda now: now.supervisor != before.supervisor).pids == before.pids
    impetusd.run("stop")


def test_a_file_that_was_removed_changes_nothing_that_runs(impetusd: Instance) -> None:
    before = impetusd.start(GOOD)
    text = impetusd.conf.read_text()
    impetusd.conf.unlink()
    impetusd.kill(before.supervisor)
    impetusd.run("start", code=2)
    impetusd.write(text)
    assert impetusd.settle(lambda now: now.supervisor != before.supervisor).pids == before.pids


def test_check_of_a_good_file_says_what_is_in_it(impetusd: Instance) -> None:
    impetusd.write(GOOD)
    assert "is OK: 1 unit (p)" in impetusd.run("check").out
    assert impetusd.members() == []


def test_a_variable_that_is_not_set_is_a_problem_and_a_default_is_none(impetusd: Instance) -> None:
    impetusd.write("[program:p]\ncommand = sleep ${HOW_LONG}\ncwd = ${WHERE:-/}\n")
    refused = impetusd.run("start", code=2)
    assert told(refused.err, impetusd.conf).keys() == {2}
    assert "HOW_LONG" in refused.err
    impetusd.run("check", env={"HOW_LONG": "1"})


def test_what_variables_were_is_kept_over_a_killed_supervisor(impetusd: Instance) -> None:
    file = impetusd.root / "seen"
    impetusd.write(f"[program:p]\ncommand = {program('show_surroundings', file)} ${{WORD}}\nwait_ready = yes\n")
    impetusd.run("start", env={"WORD": "once"})
    before = impetusd.status()
    impetusd.kill(before.supervisor)
    impetusd.settle(lambda now: now.supervisor != before.supervisor)
    file.unlink()
    impetusd.run("restart", "p", env={"WORD": "twice"})
    assert json.loads(file.read_text())["argv"][1:] == ["once"]


def test_text_beyond_ascii_in_the_c_locale(anyone: Instance) -> None:
    file = anyone.root / "gesehen-größe"
    anyone.write(
        f"""
; Übergröße
[program:p]
command = {program("show_surroundings", file, "schöne Grüße ☃")}
wait_ready = yes
cwd = {anyone.root}
[env:p]
GRÖSSE = 12 €
NAME = Ærøskøbing
""".replace("GRÖSSE", "SIZE")
    )
    for locale in ({"LC_ALL": "C", "LANG": "C"}, {"LC_ALL": "POSIX"}, {"LANG": "xx_YY.nonsense"}):
        anyone.run("start", env=locale)
        seen = json.loads(file.read_text(encoding="utf-8"))
        assert seen["argv"][1] == "schöne Grüße ☃"
        assert (seen["env"]["SIZE"], seen["env"]["NAME"]) == ("12 €", "Ærøskøbing")
        anyone.run("describe", "p", env=locale)
        anyone.run("status", env=locale)
        anyone.run("stop", env=locale)


def test_a_file_from_another_editor_with_bom_and_crlf(impetusd: Instance) -> None:
    impetusd.conf.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    impetusd.run("start")
    before = impetusd.settle()
    impetusd.kill(before.supervisor)
    impetusd.settle(lambda now: now.supervisor != before.supervisor)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(impetusd: Instance) -> None:
    impetusd.conf.write_bytes(GOOD.encode() + b"; gr\xf6\xdfe\n")
    refused = impetusd.run("start", code=2)
    assert f"{impetusd.conf}:4" in refused.err


def test_the_daemon_does_not_need_the_folder_that_it_was_started_from(impetusd: Instance) -> None:
    folder = impetusd.root / "passing"
    folder.mkdir()
    impetusd.write(GOOD)
    impetusd.run("start", cwd=folder)
    folder.rmdir()
    before = impetusd.settle()
    impetusd.kill(before["p"].pid)
    impetusd.kill(before.supervisor)
    impetusd.settle(lambda now: now["p"].restarts == 1)


def test_a_command_from_a_folder_that_was_deleted_works_too(impetusd: Instance) -> None:
    impetusd.start(GOOD)
    folder = impetusd.root / "passing"
    folder.mkdir()
    command = f"rmdir {folder} && {os.path.dirname(sys.executable)}/impetusd -c {impetusd.conf} status"
    asked = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=impetusd.environ, capture_output=True, text=True, check=False
    )
    assert (asked.returncode, asked.stderr) == (0, "")


def test_relative_paths_are_relative_to_the_file(impetusd: Instance) -> None:
    below = impetusd.root / "conf"
    below.mkdir()
    shutil.copy(impetusd.write(GOOD), below / "impetusd.ini")
    impetusd.conf.unlink()
    impetusd.conf = below / "impetusd.ini"
    impetusd.write("[impetusd]\nbase_dir = ..\n" + GOOD + "out_file = logs/own.log\n", "conf/impetusd.ini")
    impetusd.run("start", cwd=Path("/"))
    assert (impetusd.root / "var" / "run" / "control.sock").exists()


def test_the_file_is_found_where_it_is_said_to_be_looked_for(impetusd: Instance) -> None:
    impetusd.start(GOOD)
    command = [f"{os.path.dirname(sys.executable)}/impetusd", "status"]
    for cwd, env in ((impetusd.root, {}), (Path("/"), {"IMPETUSD_CONF": str(impetusd.conf)})):
        asked = subprocess.run(
            command, cwd=cwd, env={**impetusd.environ, **env}, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 0, asked
    nowhere = subprocess.run(command, cwd="/proc", env=impetusd.environ, capture_output=True, text=True, check=False)
    assert nowhere.returncode in {2, 3}
