"""`add` and `remove`: a unit without an editor, on a daemon that runs, on none, and where something is in the way."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from instance import Instance

FIRST = (
    "; mine\r\n[program:first]\r\ncommand = sleep 300 ; forever\r\nmin_uptime = 0\r\n\r\n; an end without a line end"
)
STAYS = ("--", "sleep", "300")


def read(impetusd: Instance) -> str:
    return impetusd.conf.read_bytes().decode()


def test_from_nothing_to_a_unit_and_back(impetusd: Instance) -> None:
    added = impetusd.run("add", "--name", "api", "-i", 2, "--env", "GREETING=${HOME} ; \"x'", *STAYS)
    assert "api:1  RUNNING" in added.out
    assert "impetusd started" in added.err
    status = impetusd.settle()
    assert set(status.rows) == {"api:0", "api:1"}
    environ = Path(f"/proc/{status['api:0'].pid}/environ").read_bytes().split(b"\0")
    assert b"GREETING=${HOME} ; \"x'" in environ
    assert not status.fields.get("pending")

    again = impetusd.run("add", "-n", "b", *STAYS)
    assert "+ program:b  added" in again.out
    assert impetusd.settle().pids.items() >= status.pids.items()  # nothing else was touched

    before = read(impetusd)
    for arguments, told in (
        (("--name", "api", *STAYS), "[program:api] already exists at"),
        (("--name", "a]\n[program:x", *STAYS), "cannot be a unit's name"),
        (("--name", "x", "--", "slep", "300"), "no program slep in PATH"),
        (("--name", "x", "--", "sleep", "300\n[program:evil]"), "contains a line break; put it into a script"),
        (("--name", "x", "--env", "A=1\n2", *STAYS), "contains a line break; name a file of variables with --env-file"),
        (("--name", "x", "--env", "A]=1", *STAYS), "not NAME=VALUE"),
        (("--name", "x", "--env", "PATH", *STAYS), "not NAME=VALUE"),
        (("--name", "x", "--listen", "1.2.3.4:x\n[a]", *STAYS), "line break"),
        (("--name", "x", "--listen", "nowhere", *STAYS), "has no port from 1 to 65535"),
        (("--name", "x", "-i", "many", *STAYS), "write a whole number from 1"),
        (("--name", "x", "--user", "nosuchuser", *STAYS), "nosuchuser"),
        (("--", "/"), "give one with --name"),
        (("nosuchmodule:app",), "no module nosuchmodule"),
        (("nosuchmodule:app", "-i", "2"), "options must come before the app: impetusd add -i 2 nosuchmodule:app"),
    ):
        refused = impetusd.run("add", *arguments, code=2)
        assert told in refused.err, refused
        assert read(impetusd) == before
    assert impetusd.settle().pids.items() >= status.pids.items()

    removed = impetusd.run("remove", "api")
    assert "[program:api] (line 3), [env:api] (line 7)" in removed.out
    assert set(impetusd.settle().rows) == {"b"}
    assert "api" not in read(impetusd)
    assert "did you mean b?" not in impetusd.run("remove", "nothing", code=4).err
    impetusd.run("remove", "b")
    assert read(impetusd).count("\n") == 1
    impetusd.run("stop")


def test_a_file_that_is_there_is_added_to_and_not_touched_otherwise(impetusd: Instance) -> None:
    real = impetusd.root / "real.ini"
    real.write_bytes(FIRST.encode())
    real.chmod(0o640)
    impetusd.conf.symlink_to("real.ini")
    impetusd.run("add", "--name", "more", "--", "sleep", "300", cwd=Path("/"))
    assert impetusd.conf.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert read(impetusd) == f"{FIRST}\r\n\r\n[program:more]\r\ncommand = sleep 300\r\ncwd     = /\r\n"
    status = impetusd.status()
    assert (status["more"].state, status["first"].state) == ("RUNNING", "STOPPED")  # as by `start more`
    impetusd.run("start")
    impetusd.run("stop")
    impetusd.run("remove", "more")  # without a daemon: only the file
    assert read(impetusd) == f"{FIRST}\r\n"


def test_changes_of_others_are_not_applied_by_the_way(impetusd: Instance) -> None:
    impetusd.start("[program:a]\ncommand = sleep 300\nmin_uptime = 0\n")
    text = "[program:a]\ncommand = sleep 301\nmin_uptime = 0\n[program:b]\ncommand = sleep 1\nenabled = no\n"
    impetusd.write(text)
    for arguments in (("add", "--name", "c", *STAYS), ("remove", "a")):
        refused = impetusd.run(*arguments, code=1).err
        assert (
            "changes that are not applied yet and would be applied as well: program:a; nothing was changed" in refused
        )
    impetusd.write("[program:a]\ncomand = x\n")
    assert "unknown key 'comand'" in impetusd.run("add", "--name", "c", *STAYS, code=2).err
    assert read(impetusd) == "[program:a]\ncomand = x\n"


def test_a_unit_that_others_name_is_not_removed(impetusd: Instance) -> None:
    impetusd.start("[program:a]\ncommand = sleep 300\nmin_uptime = 0\n\n[group:g]\nmembers = a\n")
    refused = impetusd.run("remove", "a", code=2).err
    assert f"{impetusd.conf}:6: members: no unit 'a'" in refused
    assert "a cannot be removed; nothing was changed" in refused
    impetusd.settle()


def test_one_that_does_not_come_up_stays_and_says_what_to_do(impetusd: Instance) -> None:
    # The kernel cannot execute it. What it can may live for longer than min_uptime on a loaded host, and counts as started.
    impetusd.write("\0", "x.sh").chmod(0o755)
    failed = impetusd.run("add", "--name", "x", "--", "./x.sh", code=1)
    assert "x was added to" in failed.err
    assert f"impetusd -c {impetusd.conf} remove x" in failed.err
    impetusd.run("remove", "x")
    impetusd.run("stop")


def test_a_secret_does_not_come_into_a_file_that_others_may_read(impetusd: Instance) -> None:
    impetusd.run("add", "--name", "a", "--env", "DB_PASSWORD=x", *STAYS)
    assert impetusd.conf.stat().st_mode & 0o777 == 0o600
    impetusd.run("add", "--name", "b", "--env", "DB_PASSWORD=x", *STAYS)
    impetusd.conf.chmod(0o644)
    before = read(impetusd)
    refused = impetusd.run("add", "--name", "c", "--env", "DB_PASSWORD=hunter2", *STAYS, code=2).err
    assert "DB_PASSWORD looks secret, but other users can read" in refused
    assert "hunter2" not in refused
    assert read(impetusd) == before
    impetusd.write("DB_PASSWORD=x\n", "secret.env").chmod(0o600)
    impetusd.run("add", "--name", "c", "--env-file", "secret.env", *STAYS)
    assert "hunter2" not in read(impetusd)


def test_several_at_once_are_all_there(impetusd: Instance) -> None:
    commands = [impetusd.popen("add", "--name", f"u{number}", *STAYS) for number in range(4)]
    for each in commands:
        impetusd.finish(each)
    assert set(impetusd.settle().rows) == {"u0", "u1", "u2", "u3"}


@pytest.mark.usefixtures("as_root")
def test_a_file_that_others_may_write_and_a_user_without_the_role(
    impetusd: Instance, command_of_anyone: list[str]
) -> None:
    impetusd.start("[impetusd]\nviewers = 61001\n[program:a]\ncommand = sleep 300\nmin_uptime = 0\n")
    impetusd.root.chmod(0o755)
    before = read(impetusd)

    def viewer() -> str:
        return subprocess.run(
            [*command_of_anyone, "-c", str(impetusd.conf), "add", "--name", "x", *STAYS],
            user=61001,
            group=61001,
            extra_groups=[],
            cwd="/",
            env=impetusd.environ,
            capture_output=True,
            text=True,
            check=False,
        ).stderr

    assert f"cannot write {impetusd.conf}: Permission denied" in viewer()
    impetusd.conf.chmod(0o666)
    assert "every user can write it" in impetusd.run("add", "--name", "x", *STAYS, code=2).err
    assert read(impetusd) == before
    impetusd.conf.chmod(0o644)
    assert set(impetusd.status().rows) == {"a"}


def test_a_path_or_an_app_is_no_unit_to_start_but_one_to_add(impetusd: Instance) -> None:
    impetusd.write("[program:a]\ncommand = sleep 300\n")
    impetusd.write("", "app.py")
    for name, advice in (
        ("./app.py", "-- python3 ./app.py"),
        ("app.py", "-- python3 app.py"),
        ("app:create", "app:create"),
    ):
        assert f"impetusd -c {impetusd.conf} add {advice}\n" in impetusd.run("start", name, code=4).err


FASTAPI = """\
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def hello() -> str:
    return "hello"
"""


def test_two_commands_from_an_empty_folder_with_a_fastapi_file(impetusd: Instance) -> None:
    """In a venv of its own, which has what this one has, as after the first command: pip install. The second is `add`."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package)
    venv = impetusd.root / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    here = next(each for each in sys.path if each.endswith("site-packages"))
    (site / "tested.pth").write_text(f"{here}\n{Path(__file__).parents[2]}\n")
    command = venv / "bin" / "impetusd"
    command.write_text(f"#!{venv}/bin/python\nimport sys\nfrom impetusd.cli.main import main\nsys.exit(main())\n")
    command.chmod(0o755)
    folder = impetusd.root / "shop"
    folder.mkdir()
    (folder / "main.py").write_text(FASTAPI)
    impetusd.conf = folder / "impetusd.ini"
    impetusd.elsewhere = True
    port = impetusd.port()

    def run(*words: object) -> str:
        done = subprocess.run(
            [str(command), *map(str, words)], cwd=folder, env={**impetusd.environ, "PWD": str(folder)},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done
        return done.stdout + done.stderr

    try:
        told = run("add", "--listen", f"127.0.0.1:{port}", "main:app")
        assert "all 3 up" in told
        answer = subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True)
        assert answer.stdout == '"hello"'
        (folder / "main.py").write_text(FASTAPI.replace('"hello"', '"once again"'))  # a .pyc goes by size and second
        run("reload", "main")
        answer = subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True)
        assert answer.stdout == '"once again"'
        assert (folder / "impetusd.ini").read_text().count("\n") == 5
    finally:
        run("stop")
        shutil.rmtree(venv)
