"""What holds for every test: `--may-skip FILE` fails the run for a test that was skipped and is not in FILE.

A line of FILE is a test's id, in which * stands for anything, and what its host lacks; # begins a comment.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--may-skip", type=Path, metavar="FILE", help="fail for skipped tests that are not in FILE")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    path: Path | None = session.config.getoption("--may-skip")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if path is None or reporter is None:  # no list, or a process of pytest-xdist: the one that gathers decides
        return
    lines = [line.partition("#")[0].split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines()]
    allowed = [words[0] for words in lines if words]
    others = [
        (report.nodeid, report.longrepr[2] if isinstance(report.longrepr, tuple) else "")
        for report in reporter.stats.get("skipped", [])
        if not any(fnmatch.fnmatchcase(report.nodeid.replace("[", "("), each.replace("[", "(")) for each in allowed)
    ]
    for nodeid, reason in others:
        reporter.write_line(f"{nodeid} was skipped, and is not in {path}: {reason}", red=True)
    if others and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
