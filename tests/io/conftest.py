"""The command line, run in this process on an instance of its own; shared by all that test it."""

from __future__ import annotations

import gc
import sys
import warnings

import pytest
from fake_supervisor import paths_in

from impetusd.cli import main


@pytest.fixture(scope="module", autouse=True)
def _the_end_of_its_parts():
    """A supervisor closes little at its end, for its process ends: what is left is no matter of a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


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
