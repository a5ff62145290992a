"""A daemon as `impetusd.client.launch` starts it: argv is CONF PATHS_JSON, then how to behave, then a file to
count starts in.

Behaviours: "serve" answers until it is told to stop everything; "fail" ends with a sentence; "mute" never answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from fake_supervisor import PONG, FakeSupervisor, row

from impetusd.core.config.location import Paths


def main() -> int:
    conf, fields, behaviour, starts = sys.argv[1:]
    given = json.loads(fields)
    boot = given.pop("boot", False)
    paths = Paths(**given)
    assert paths.conf == conf
    if behaviour == "fail":
        print("impetusd: the supervisor cannot be started: no module named x", flush=True)
        return 3
    ended = threading.Event()
    pong = {**PONG, "shim": {"pid": os.getpid()}}
    up = {"ok": True, "units": [row("web"), row("db")]}

    def stop(_params, _send):
        ended.set()
        return {"ok": True, "killed": ["web"], "units": []}

    fake = FakeSupervisor(paths, ping=pong, start=up, status={**pong, "units": up["units"]}, stop=stop)
    try:
        fake.lock()
    except BlockingIOError:
        return 75
    with open(starts, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {int(boot)} {os.getsid(0)}\n")
    if behaviour == "mute":
        signal.pause()
    fake.bind()
    fake.listen()
    ended.wait()
    time.sleep(0.05)  # the shim outlives the supervisor's last answer; the client must wait for its end
    return 0


if __name__ == "__main__":
    sys.exit(main())
