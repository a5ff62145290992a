"""The command line, run in this process on an instance of its own; shared by all that test it."""

from __future__ import annotations

import sys

import pytest
from fake_supervisor import paths_in

from impetusd.cli import main


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
