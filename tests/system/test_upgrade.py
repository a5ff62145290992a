"""`impetusd upgrade`: new code takes over under load and nobody notices; code that cannot leaves everything as it was."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import census
import pytest
from instance import Instance, Status, pool, program
from load import Load
from waiting import PATIENCE, wait_for

import impetusd as package
from impetusd.core import protocol

RAISES = 'raise RuntimeError("half an installation")\n'


def copy(source: Path, target: Path) -> Path:
    """With what was compiled, for else each copy is compiled anew, for 2 s of CPU; not what is only just being written."""
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.pyc.*")))


class Installed:
    """An instance whose impetusd is an installation of its own, with files that a test may change."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        where = instance.root / "venv"
        venv.create(where, symlinks=True)
        site = next(where.glob("lib/python3*/site-packages"))
        (site / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.package = site / "impetusd"
        copy(Path(package.__file__).parent, self.package)
        instance.elsewhere = True
        instance.command = [
            f"{where}/bin/python",
            "-c",
            "import sys; from impetusd.cli.main import main; sys.exit(main())",
        ]

    def refusals(self) -> list[dict[str, object]]:
        """Of upgrades, in the ledger."""
        records = [record for record in self.instance.ledger() if record["kind"] == "daemon"]
        return [record for record in records if "upgrade" in str(record["what"]) and record.get("why")]

    def refused(self) -> str:
        """What an upgrade prints that must fail."""
        process = self.instance.popen("upgrade")
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (1, ""), err
        return err


@pytest.fixture
def installed(impetusd: Instance) -> Installed:
    installed = Installed(impetusd)
    port = impetusd.port()
    impetusd.write(f"""
[pool:web]
{pool(port)}
[program:api]
command = {program("tell_ready", "self")}
wait_ready = yes
[program:numbers]
command = {program("numbers", "n", "100/s")}
wait_ready = yes
""")
    return installed


def test_under_load_no_request_fails_no_line_is_lost_and_every_pid_stays(installed: Installed) -> None:
    impetusd = installed.instance
    impetusd.run("start")
    before = impetusd.settle()
    descriptors = census.descriptors(before.shim)  # which may count one that was just being closed
    port = int(impetusd.conf.read_text().partition("127.0.0.1:")[2].split()[0])
    with Load(port) as load:
        for version in ("9.1", "9.1.2", "9.1.2.3"):  # each of another size: a .pyc goes by that and the second
            told = impetusd.status()
            (installed.package / "__init__.py").write_text(f'__version__ = "{version}"\n')
            out = impetusd.run("upgrade").out
            assert f"→ {version}: the code on disk is now running" in out
            after = impetusd.status()
            assert after.fields["version"] == version
            assert after.supervisor != told.supervisor
            load.go_on(40)
    after = impetusd.settle()
    assert (after.shim, after.pids) == (before.shim, before.pids)
    assert {row.restarts for row in after.rows.values()} == {0}
    wait_for(lambda: not census.difference(census.descriptors(after.shim), descriptors), "the shim to hold no more")
    impetusd.run("stop", "numbers")
    *lines, end = impetusd.log("numbers-out.log").splitlines()
    assert end == f"n end {len(lines)}"
    assert lines == [f"n {number}" for number in range(len(lines))]


BROKEN = [
    ("supervisor/slots/engine.py", RAISES, "RuntimeError: half an installation"),
    ("linux/proc.py", RAISES, "RuntimeError: half an installation"),
    ("supervisor/slots/record.py", "VERSION = 2\n", "recorded by another version"),
    ("shim/handover.py", "VERSION = 2\n", "the state has version 1, but this code supports version 2"),
    ("core/config/schema.py", "def (\n", "SyntaxError"),
]


def test_code_that_cannot_take_over_is_refused_and_everything_stays(installed: Installed) -> None:
    """One after the other, in one daemon: what one of them leaves behind, the next one meets."""
    impetusd = installed.instance
    impetusd.run("start")
    before = impetusd.settle()
    for number, (file, text, said) in enumerate(BROKEN):
        path = installed.package / file
        good = path.read_text()
        path.write_text(good.replace("VERSION = 1", text.strip()) if text.startswith("VERSION") else good + text)
        if file == "core/config/schema.py":  # the command line needs it, too
            process = impetusd.popen("upgrade")
            assert process.wait(PATIENCE) == 1
        else:
            err = installed.refused()
            assert "on disk cannot take over, so nothing was changed" in err
            assert said in err
            refusals = wait_for(lambda number=number: installed.refusals()[number:], f"the refusal of {file}")  # type: ignore[misc]
            assert said in str(refusals[-1]["why"])
        path.write_text(good)
        os.utime(path, (number, number))  # a .pyc goes by size and second, and both versions may have the same
        after = impetusd.settle()
        assert (after.shim, after.supervisor, after.pids) == (before.shim, before.supervisor, before.pids), file
    impetusd.run("upgrade")
    assert impetusd.settle().pids == before.pids


def test_a_supervisor_killed_over_an_upgrade_leaves_nothing_of_it(installed: Installed) -> None:
    """The new code hangs while it proves itself; the next supervisor ends it, and carries out what was asked."""
    impetusd = installed.instance
    impetusd.run("start")
    before = impetusd.settle()
    proof, once = installed.package / "supervisor/proof.py", impetusd.root / "hangs"
    hang = (
        f"import os, time\nif not os.path.exists({str(once)!r}):\n    open({str(once)!r}, 'w')\n    time.sleep(1000)\n"
    )
    proof.write_text(proof.read_text().replace("import asyncio\n", hang + "import asyncio\n", 1))
    upgrading = impetusd.popen("upgrade")
    wait_for(once.exists, "the proof to hang")
    impetusd.kill(before.supervisor)
    impetusd.finish(upgrading)
    after = impetusd.settle(lambda now: now.supervisor != before.supervisor)
    assert (after.shim, after.pids) == (before.shim, before.pids)


def test_no_daemon_is_said_as_such(impetusd: Instance) -> None:
    impetusd.write("[program:p]\ncommand = sleep 1000\n")
    assert "is not running" in impetusd.run("upgrade", code=3).err
    assert not os.path.exists(impetusd.root / "var")


RELEASED = "bba87b9"  # the commit of the first version that is in use, which has no tag
THIS = "this"


def git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *words], cwd=Path(package.__file__).parents[1], capture_output=True, check=False)


def versions() -> list[str]:
    """What is upgraded from: the first version and each tag; where git knows of none, as in a shallow clone, a copy of this
    version.
    """
    if not shutil.which("git") or git("rev-parse", "--show-prefix").stdout != b"\n":  # no repository, or another one
        return [THIS]
    known = [] if git("cat-file", "-e", f"{RELEASED}^{{commit}}").returncode else [RELEASED]
    return [*known, *git("tag", "--list").stdout.decode().split()] or [THIS]


def goes_back(version: str) -> bool:
    """Whether this version can be exchanged for that one: by one MINOR, as `help/stability.md` promises."""
    own, other = (tuple(map(int, re.findall(r"[0-9]+", each)[:2])) for each in (package.__version__, version))
    return version in {RELEASED, THIS} or (own[0] == other[0] and own[1] - other[1] <= 1)


@pytest.fixture
def released(tmp_path: Path, version: str) -> Path:
    """The package as that version had it."""
    if version == THIS:
        return copy(Path(package.__file__).parent, tmp_path / "impetusd")
    archive = git("archive", version, "impetusd")
    assert archive.returncode == 0, archive.stderr
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive.stdout, check=True)
    return tmp_path / "impetusd"


@pytest.mark.parametrize("version", versions())
def test_each_version_is_upgraded_and_this_one_downgraded_whoever_is_killed_on_the_way(
    installed: Installed, released: Path, version: str
) -> None:
    """In place, under load, there and back: what either writes down the other one reads."""
    impetusd, own = installed.instance, released.with_name("own")

    def have(source: Path) -> None:
        """Moved, with what is compiled of it; what runs may be importing."""
        installed.package.rename(released if source is own else own)
        source.rename(installed.package)

    def lasting(status: Status) -> dict[str, int]:
        return {name: pid for name, pid in status.pids.items() if name != "web:template"}

    def survive_kills() -> None:
        for who in ("supervisor", "shim"):
            now = impetusd.status()
            impetusd.kill(getattr(now, who))
            after = impetusd.settle(lambda then, now=now, who=who: getattr(then, who) != getattr(now, who))
            assert lasting(after) == lasting(before)
            load.go_on(20)

    have(released)
    impetusd.run("start")
    before = impetusd.settle()
    port = int(impetusd.conf.read_text().partition("127.0.0.1:")[2].split()[0])
    with Load(port) as load:
        for source in (own, released, own) if goes_back(version) else (own,):
            have(source)
            told = impetusd.status()
            impetusd.run("upgrade")
            after = impetusd.settle(lambda then, told=told: then.supervisor != told.supervisor)
            assert lasting(after) == lasting(before)
            if version == RELEASED or source is own:
                assert after.fields.get("protocol") == (protocol.VERSION if source is own else None)
            load.go_on(20)
            survive_kills()
    assert {row.restarts for row in impetusd.settle().rows.values()} == {0}
    impetusd.run("stop", "numbers")
    *lines, end = impetusd.log("numbers-out.log").splitlines()
    assert end == f"n end {len(lines)}"
    assert lines == [f"n {number}" for number in range(len(lines))]
