"""Another user locks the instance's folders: that keeps nobody from starting, and where it does it is said who it is."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance

ONE = "[program:p]\ncommand = sleep 300\n"
NOBODY = 65534


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """`nobody` has a lock on it; gives the pid."""
    process = subprocess.Popen(
        ["flock", "--no-fork", folder, "sh", "-c", "echo up; exec sleep 300"],
        stdout=subprocess.PIPE,
        text=True,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def open_to_all(impetusd: Instance, as_root: None) -> Instance:
    """Its folders were there before, and anybody may read them."""
    impetusd.root.chmod(0o755)
    for name in ("run", "lib"):
        (impetusd.root / "var" / name).mkdir(parents=True, mode=0o755)
    impetusd.write(ONE)
    return impetusd


def test_a_lock_on_the_run_dir_is_nothing_to_start(open_to_all: Instance) -> None:
    with locked(open_to_all.run_dir):
        open_to_all.run("start")
        open_to_all.settle()
    state_dir = open_to_all.root / "var" / "lib"
    assert state_dir.stat().st_mode & 0o777 == 0o711
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    tried = subprocess.run(["flock", "-n", state_dir, "true"], **who, capture_output=True, text=True, check=False)
    assert "Permission denied" in tried.stderr


@pytest.mark.parametrize("command", ["start", "run"])
def test_a_lock_on_the_state_dir_that_was_there_before_is_named(open_to_all: Instance, command: str) -> None:
    with locked(open_to_all.root / "var" / "lib") as pid:
        refused = open_to_all.run(command, code=1)
        assert f"{open_to_all.root}/var/lib is locked by process {pid}, which is not impetusd" in refused.err
    open_to_all.run("start")
