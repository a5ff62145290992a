"""What a process finds among the descriptors that were passed on when it becomes the shim."""

from __future__ import annotations

import contextlib
import fcntl
import os

import pytest

from impetusd.linux import proc
from impetusd.shim import orphans, startup


@pytest.fixture
def opened(tmp_path):
    """Opens the state directory, once more each time."""
    with contextlib.ExitStack() as stack:

        def open_it():
            fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, fd)
            return fd

        yield open_it


@pytest.mark.parametrize("place", [0, 1, 2])
def test_of_several_copies_of_the_state_directory_the_one_that_has_the_lock_is_taken(tmp_path, opened, place):
    """A thread of the supervisor may have had it open, to write a file there, when that was executed as the shim."""
    given = [opened() for _ in range(3)]
    holder = os.dup(given[place])
    fcntl.flock(given[place], fcntl.LOCK_EX)
    lock = startup.lock_of(str(tmp_path), left := list(given))
    assert (lock, sorted([*left, lock])) == (given[place], given)
    assert startup.take(lock)
    os.close(holder)


def test_without_a_copy_it_is_opened(tmp_path, opened):
    other = opened()
    fcntl.flock(other, fcntl.LOCK_EX)
    lock = startup.lock_of(str(tmp_path), [])
    assert not startup.take(lock)
    os.close(lock)


def test_what_was_the_supervisor_does_not_evict_itself():
    me = proc.read(os.getpid())
    orphans.evict_stale_supervisor({"shim": [2**22, 1], "supervisor": [me.pid, me.started]})
