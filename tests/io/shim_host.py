"""Runs a shim as its launcher does, with another command in the supervisor's place: HOST SETUP CONF PATHS.

SETUP is Python, run before the shim's main(): it replaces the command, shortens a patience, takes cgroups away, or
leaves behind what a careless caller leaves (open descriptors, ignored and blocked signals).
"""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from impetusd.linux import cgroup, proc
from impetusd.shim import leftovers, main, spawn, supervision

setup = sys.argv.pop(1)
spawn.prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: a test that is killed leaves no shim behind
exec(
    setup,
    {"leftovers": leftovers, "main": main, "spawn": spawn, "supervision": supervision, "proc": proc, "cgroup": cgroup},
)
sys.exit(main.main())
