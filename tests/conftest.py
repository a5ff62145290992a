"""What holds for every test: what takes long is begun first, and `--may-skip FILE` fails the run for a test that was skipped
and is not in FILE.

A line of FILE is a test's id, in which * stands for anything, and what its host lacks; # begins a comment.
"""

from __future__ import annotations

import fnmatch
import gc
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--may-skip", type=Path, metavar="FILE", help="fail for skipped tests that are not in FILE")


# Files that take 10 to 70 seconds, the longest first: begun last, one of them would be waited for with the other cores idle.
LONG = (
    "chaos/test_soak",
    "system/test_deploy_points",
    "service/test_jobs",
    "system/test_fault_points",
    "chaos/test_chaos",
    "system/test_reload",
    "system/test_survive",
    "system/test_kill",
    "io/test_logs_kill",
    "system/test_upgrade",
    "system/test_service",
    "system/test_listening",
    "system/test_recipes",
    "system/test_pool",
    "system/test_among_many",
    "core/test_mutated",
)
FOLDERS = ("system", "service", "io", "core")  # the rest, whose files are the shorter the later they come


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        folder, name = item.path.parent.name, item.path.stem
        long = f"{folder}/{name}"
        if long in LONG:
            return LONG.index(long)
        return len(LONG) + (FOLDERS.index(folder) if folder in FOLDERS else 0)

    items.sort(key=place)  # a file's tests stay together, in their order


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """6,000 collected tests are there to stay: not to be looked through by each garbage collection, for 0.16 s of CPU."""
    gc.collect()
    gc.freeze()


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
