"""What the tests of health checks share: a clock that jumps to the next timer, and the parts of a configuration."""

from __future__ import annotations

import asyncio
import selectors

from impetusd.core.config.model import Action, Health, Unit


class _Jumps(selectors.DefaultSelector):
    """Waits for nothing: the loop's clock moves on instead."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing would ever happen again"
            self.now += max(0.0, timeout)
        return ready


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once, and the same in every run."""

    def __init__(self):
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self):
        return self._jumps.now


def simulated(scenario):
    """Run the coroutine function over such a loop."""
    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(scenario())


async def passes(seconds):
    """So much of that loop's time goes by, and what is due meanwhile happens."""
    await asyncio.sleep(seconds)


def check(**changes):
    fields = {
        "name": "web",
        "where": "impetusd.ini:1",
        "enabled": True,
        "target": "web",
        "http": "/health",
        "tcp": "",
        "unit": None,
        "status": ((200, 399),),
        "body": "",
        "headers": (),
        "socket": "",
        "ca_file": "",
        "verify": True,
        "interval": 10.0,
        "timeout": 2.0,
        "start_period": 0.0,
        "failures": 3,
        "successes": 1,
        "action": Action.RESTART,
    }
    return Health(**{**fields, **changes})


def unit(name, kind):
    return Unit(
        name=name, kind=kind, where="impetusd.ini:1", enabled=True, kill_timeout=1.0, cwd="/", user="", group="",
        umask=0o22, nice=0, env={}, env_file=(),
    )  # fmt: skip
