"""The command line, run in this process on an instance of its own; shared by all that test it."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from commanding import Host
from fake_supervisor import paths_in
from waiting import wait_for

from impetusd.cli import main
from impetusd.linux import proc


@pytest.fixture(scope="module", autouse=True)
def _leaves_what_it_found():
    """A module leaves no more descriptors, threads and children than there were: else it is that one that fails.

    What nobody refers to any more is collected here, so that a ResourceWarning, too, is raised where it belongs.
    """
    proc.children()  # keeps a descriptor from the first time on
    before = _held()
    yield
    Host.close_all()
    gc.collect()
    wait_for(lambda: not _held() - before, lambda: f"it leaves {dict(_held() - before)}")


def _held():
    """What this process has open, the threads it has and the children, and how many of each."""
    found = Counter(f"thread {thread.name}" for thread in threading.enumerate())
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder itself, as it was opened for this look
            found[os.readlink(path)] += 1
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):
            found.update(f"child {pid}" for pid in path.read_text().split())
    return found


@pytest.fixture
def paths(tmp_path):
    return paths_in(tmp_path)


@pytest.fixture
def cli(paths, monkeypatch, capsys):
    """Run a command in this process; gives (exit code, stdout, stderr)."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["impetusd", "-c", paths.conf, *args])
        code = main.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
