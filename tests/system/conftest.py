"""A real impetusd for each test, in a folder of its own, and the proof afterwards that nothing of it was left."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from instance import COMMAND, PROGRAMS, Instance
from lending import Lend, lender
from systemd_namespace import Namespace
from systemd_service import Service, as_nobody, booted, served

if TYPE_CHECKING:
    from chromium import Loop, Tab  # few tests have a browser

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture
def namespace() -> list[str]:
    """The command that makes what follows PID 1."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare(1)")
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"a pid namespace cannot be made here: {tried.stderr.strip()}")
    return UNSHARE


@pytest.fixture(scope="session")
def lend() -> Iterator[Lend]:
    """Makes an instance for a user and destroys it afterwards."""
    with lender() as lend:
        yield lend


@pytest.fixture
def impetusd(lend: Lend) -> Iterator[Instance]:
    """An instance as the user that runs the tests."""
    with lend(None) as instance:
        yield instance


@pytest.fixture(params=["self", "nobody"])
def anyone(request: pytest.FixtureRequest, lend: Lend) -> Iterator[Instance]:
    """An instance as the user that runs the tests and, when that is root, another one as an ordinary user."""
    with lend(None if request.param == "self" else _ordinary_user()) as instance:
        yield instance


@pytest.fixture
def ordinary(lend: Lend) -> Iterator[Instance]:
    """An instance as an ordinary user."""
    with lend(_ordinary_user() if os.geteuid() == 0 else None) as instance:
        yield instance


@pytest.fixture
def as_root() -> None:
    """For what only root can do."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def python_of_nobody(as_root: None) -> str:
    """An interpreter that the user nobody may execute, for programs that run as that user."""
    programs = str(PROGRAMS / "behave.py")
    if not _may_read("nobody", programs):
        pytest.skip(f"nobody may not read {programs}")
    for path in (sys.executable, "/usr/bin/python3"):
        if _may_read("nobody", path):
            return path
    pytest.skip("there is no python that nobody may execute")


@pytest.fixture
def command_of_anyone(as_root: None) -> list[str]:
    """The command, where any user of this host may execute it."""
    for path in (sys.executable, *COMMAND):
        if not _may_read("nobody", path):
            pytest.skip(f"nobody may not read {path}")
    return COMMAND


@pytest.fixture
def loop() -> Iterator[Loop]:
    """For a browser, in a test that is no coroutine."""
    from chromium import Loop

    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def tab(loop: Loop) -> Tab:
    """The tab of a browser."""
    from chromium import Browser

    tab: Tab = loop.enter(loop.enter(Browser).tab)
    return tab


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    """A systemd that has just booted, one for each module."""
    yield from booted()


@pytest.fixture
def service(host: Namespace, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service of impetusd on it."""
    yield from served(host, request)


@pytest.fixture
def nobody(host: Namespace) -> Iterator[Callable[..., str]]:
    """Runs a command on it as an ordinary user."""
    yield from as_nobody(host)


def _ordinary_user() -> str:
    if os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user already")
    for path in (sys.executable, str(PROGRAMS / "behave.py")):
        if not _may_read("nobody", path):
            pytest.skip(f"nobody may not read {path}")
    return "nobody"


def _may_read(user: str, path: str) -> bool:
    person = pwd.getpwnam(user)
    tried = subprocess.run(["test", "-r", path], user=person.pw_uid, group=person.pw_gid, extra_groups=[], check=False)
    return tried.returncode == 0
