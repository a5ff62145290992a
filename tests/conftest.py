"""What holds for every test: what takes long is begun first, and `--may-skip FILE` fails the run for a test that was skipped
and is not in FILE.

`--noise` has every sentence that is made of a reason be noise: outside of tests/words, where wording is pinned, nothing may
depend on it. Tests marked `noise` run so in any case, once more. It reaches what runs in the process of the tests.

A line of FILE is a test's id, in which * stands for anything, and what its host lacks; # begins a comment.
"""

from __future__ import annotations

import fnmatch
import gc
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No wall clock in a verdict: how long an example takes says what else the machine does.
settings.register_profile("impetusd", deadline=None)
settings.load_profile("impetusd")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--may-skip", type=Path, metavar="FILE", help="fail for skipped tests that are not in FILE")
    parser.addoption("--noise", action="store_true", help="make noise of every sentence that is made of a reason")
    parser.addoption("--golden", action="store_true", help="write the files of expected wording anew")


# Files that take 10 to 70 seconds, the longest first: begun last, one of them would be waited for with the other cores idle.
LONG = (
    "chaos/test_soak",
    "system/test_reload",
    "gateway/test_page",
    "system/test_deploy_points",
    "system/test_supervisorctl",
    "service/test_jobs",
    "system/test_fault_points",
    "system/test_health_checks",
    "system/test_alerts",
    "chaos/test_chaos",
    "system/test_survive",
    "system/test_kill",
    "system/test_hosts",
    "system/test_upgrade",
    "system/test_gateway",
    "system/test_apply",
    "system/test_metrics",
    "system/test_balance",
    "system/test_add",
    "system/test_commands",
    "system/test_gateway_page",
    "system/test_gateway_access",
    "system/test_service",
    "system/test_listening",
    "system/test_recipes",
    "system/test_node",
    "system/test_pool",
    "system/test_among_many",
    "core/test_mutated",
)
FOLDERS = ("system", "service", "gateway", "io", "core")  # the rest, whose files are the shorter the later they come


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


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs the tests with & has it ignored, and their programs would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "noise: runs once more with noise for every sentence that is made of a reason")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    by_hypothesis = getattr(metafunc.function, "is_hypothesis_test", False)  # which minds a second run of one method
    if metafunc.definition.get_closest_marker("noise") is not None and not by_hypothesis:
        metafunc.parametrize("wording", ["plain", "noise"], indirect=True)


@pytest.fixture(autouse=True)
def wording(request: pytest.FixtureRequest) -> Iterator[None]:
    """The sentences of reasons: as they are, or noise."""
    asked = request.config.getoption("--noise") and "words" not in request.path.parts
    if not asked and getattr(request, "param", "plain") == "plain":
        yield
        return
    from impetusd.core import reasons

    def noise(reason: reasons.Reason) -> str:
        return f"{zlib.crc32(repr(reason).encode()):x}" if reason else ""

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reasons, "render", noise)
        patched.setattr(reasons, "parts", lambda reason: (noise(reason), ""))
        yield


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
