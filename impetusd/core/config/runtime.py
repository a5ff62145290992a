"""The worker runtime of a pool: its command and environment variables.

With `interpreter`, it is a Python that need not have impetusd installed: PYTHONPATH leads it to the package, and `lend`
names the folders of our libraries, which it falls back on (see `worker.lent`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from impetusd.core.config.model import Unit

_ALONE = os.path.join(os.path.dirname(os.path.abspath(__file__)).removesuffix("/core/config"), "worker", "alone")


def command(unit: Unit, mode: str) -> list[str]:
    """argv in `mode`: template, serve or check."""
    return [unit.interpreter or sys.executable, "-m", "impetusd.worker", mode]


def variables(unit: Unit, env: Mapping[str, str]) -> dict[str, str]:
    """The variables to set besides `env`."""
    told = {"IMPETUSD_WORKER": json.dumps(_settings(unit))}
    if unit.interpreter:
        told["PYTHONPATH"] = os.pathsep.join(filter(None, (_ALONE, env.get("PYTHONPATH"))))
    return told


def without(env: dict[str, str]) -> None:
    """Remove from a process's environment what PYTHONPATH was given here."""
    ours, separator, rest = env.get("PYTHONPATH", "").partition(os.pathsep)
    if ours == _ALONE:
        del env["PYTHONPATH"]
        if separator:
            env["PYTHONPATH"] = rest


def _settings(unit: Unit) -> dict[str, object]:
    import sysconfig  # 4 ms, and most commands have no use for it

    paths = sysconfig.get_paths()
    return {
        "pool": unit.name,
        "app": unit.app,
        "protocol": unit.protocol,
        "threads": unit.threads,
        "root_path": unit.root_path,
        "drain_timeout": unit.drain_timeout,
        "kill_timeout": unit.kill_timeout,
        "backlog": unit.backlog,
        "watchdog": unit.watchdog,
        "max_requests": unit.max_requests,
        "header_timeout": unit.header_timeout,
        "body_timeout": unit.body_timeout,
        "access_log": unit.access_log,
        **({"lend": sorted({paths["purelib"], paths["platlib"]})} if unit.interpreter else {}),
    }
