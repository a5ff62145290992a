"""A real impetusd for each test, in a folder of its own, and the proof afterwards that nothing of it was left."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from instance import PROGRAMS, Instance
from systemd_namespace import Namespace
from systemd_service import Service, as_nobody, booted, served

Lend = Callable[[str | None], Iterator[Instance]]


@pytest.fixture(scope="session")
def lend() -> Iterator[Lend]:
    """Makes an instance for a user and destroys it afterwards; the guard does so should this process be killed."""
    guard = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("guard.py")], stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    assert guard.stdin is not None
    told = guard.stdin

    def lent(user: str | None) -> Iterator[Instance]:
        instance = Instance(user)
        print(f"+{instance.root}", file=told, flush=True)
        yield instance
        left = instance.destroy()
        print(f"-{instance.root}", file=told, flush=True)
        assert not left, "\n".join(left)

    yield lent
    told.close()
    guard.wait()


@pytest.fixture
def impetusd(lend: Lend) -> Iterator[Instance]:
    """An instance as the user that runs the tests."""
    yield from lend(None)


@pytest.fixture(params=["self", "nobody"])
def anyone(request: pytest.FixtureRequest, lend: Lend) -> Iterator[Instance]:
    """An instance as the user that runs the tests and, when that is root, another one as an ordinary user."""
    yield from lend(None if request.param == "self" else _ordinary_user())


@pytest.fixture
def ordinary(lend: Lend) -> Iterator[Instance]:
    """An instance as an ordinary user."""
    yield from lend(_ordinary_user() if os.geteuid() == 0 else None)


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
