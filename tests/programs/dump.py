"""Prints what a process finds itself in, as one JSON object. Signals are left out: Python changes them at its start
(read /proc/PID/status of a plain program instead)."""

import json
import os
import resource
import sys


def read(path):
    with open(path, encoding="ascii") as file:
        return file.read()


status = dict(line.split(":", 1) for line in read("/proc/self/status").splitlines())
umask = os.umask(0)
os.umask(umask)
fds = {}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[name] = os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        pass  # the one that listed the folder
limits = [name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"]
print(
    json.dumps(
        {
            "pid": os.getpid(),
            "fds": fds,
            "umask": umask,
            "rlimits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "oom_score_adj": int(read("/proc/self/oom_score_adj")),
            "affinity": sorted(os.sched_getaffinity(0)),
            "cgroup": read("/proc/self/cgroup"),
            "uid": os.getresuid(),
            "gid": os.getresgid(),
            "groups": os.getgroups(),
            "capabilities": {
                name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
            },
            "no_new_privs": int(status["NoNewPrivs"]),
            "session": os.getsid(0),
            "group": os.getpgid(0),
            "env": dict(os.environ),
            "cwd": os.getcwd(),
            "argv": sys.argv[1:],
        }
    )
)
