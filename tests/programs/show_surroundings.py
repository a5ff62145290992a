"""Writes what it was started with, as JSON, into the file that is its first argument; then says READY=1 and holds."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

# Before anything else is imported or opened: what is open now was handed over.
fds = {}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[name] = os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        continue  # the descriptor of the listing itself
with open("/proc/self/status", encoding="utf-8") as file:
    status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
with open("/proc/self/oom_score_adj", encoding="ascii") as file:
    oom = int(file.read())
before = os.umask(0)
os.umask(before)
found = {
    "argv": sys.argv[1:],
    "env": dict(os.environ),
    "cwd": os.getcwd(),
    "uid": os.getresuid(),
    "gid": os.getresgid(),
    "groups": sorted(os.getgroups()),
    "caps": {name: status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
    "no_new_privs": status["NoNewPrivs"].strip(),
    "masks": {name: status[name].strip() for name in ("SigBlk", "SigIgn")},
    "umask": before,
    "nice": os.nice(0),
    "oom_score_adj": oom,
    "affinity": sorted(os.sched_getaffinity(0)),
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "session": os.getsid(0) == os.getpid(),
    "fds": fds,
}

import behave  # noqa: E402

with open(f"{sys.argv[1]}.new", "w", encoding="utf-8") as out:
    json.dump(found, out)
os.replace(f"{sys.argv[1]}.new", sys.argv[1])
behave.notify("READY=1")
signal.signal(signal.SIGTERM, signal.SIG_DFL)
behave.hold()
