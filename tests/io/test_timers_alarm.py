"""The alarm: a real timerfd."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct

import pytest
from waiting import turns

from impetusd.linux.alarm import Alarm

ADJ_SETOFFSET, ADJ_NANO = 0x100, 0x2000


def step_the_clock(nanoseconds):
    """Set the wall clock forward or back by a nanosecond (adjtimex(2)), which nobody will notice but who asked to."""
    seconds, nanoseconds = divmod(nanoseconds, 10**9)
    step = struct.pack("@I4li3l2l", ADJ_SETOFFSET | ADJ_NANO, 0, 0, 0, 0, 0, 0, 0, 0, seconds, nanoseconds)
    timex = ctypes.create_string_buffer(step, 512)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(timex) < 0:
        pytest.skip(f"may not set the clock: {os.strerror(ctypes.get_errno())}")


def run(scenario):
    async def main():
        rung = asyncio.Event()
        alarm = Alarm(rung.set)
        try:
            async with asyncio.timeout(20):
                await scenario(alarm, rung)
        finally:
            alarm.close()

    asyncio.run(main())


def test_it_rings_and_not_before():
    async def scenario(alarm, rung):
        loop = asyncio.get_running_loop()
        began = loop.time()
        alarm.set(0.05)
        await rung.wait()
        assert loop.time() - began >= 0.049

    run(scenario)


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_what_is_due_rings_at_once(seconds):
    async def scenario(alarm, rung):
        alarm.set(seconds)
        await rung.wait()

    run(scenario)


@pytest.mark.parametrize("instead", [None, 3600.0, 1e9])
def test_what_was_set_before_is_forgotten(instead):
    async def scenario(alarm, rung):
        alarm.set(0.0)
        alarm.set(instead)
        await turns(2)
        assert not rung.is_set()

    run(scenario)


def test_it_rings_when_the_clock_is_set():
    async def scenario(alarm, rung):
        alarm.set(3600.0)
        step_the_clock(1)
        await rung.wait()
        rung.clear()
        alarm.set(3600.0)
        await turns()
        step_the_clock(-1)
        alarm.set(3600.0)  # before anybody has looked
        await rung.wait()

    run(scenario)


def test_a_closed_one_holds_nothing():
    before = len(os.listdir("/proc/self/fd"))

    async def main():
        inside = len(os.listdir("/proc/self/fd"))
        alarm = Alarm(lambda: None)
        alarm.set(3600.0)
        alarm.close()
        assert len(os.listdir("/proc/self/fd")) == inside

    asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == before
