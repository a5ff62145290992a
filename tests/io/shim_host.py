"""Runs a shim as its launcher does, with another command in the supervisor's place: HOST SETUP CONF PATHS.

SETUP is Python, run before the shim's main(): it replaces the command, shortens a patience, takes cgroups away, or
leaves behind what a careless caller leaves (open descriptors, ignored and blocked signals). It has the shim's modules by
their names, and a list `shims` in which the shim is, once it is made.
"""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from impetusd.linux import cgroup, proc
from impetusd.shim import (
    child,
    children,
    ending,
    forks,
    handover,
    leftovers,
    log,
    loop,
    main,
    orphans,
    spawn,
    state,
    supervision,
    table,
)

MODULES = (
    *(cgroup, proc, child, children, ending, forks, handover, leftovers, log, loop, main, orphans, spawn, state),
    *(supervision, table),
)
shims = []


class Shim(main.Shim):
    """Says that it is made."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        shims.append(self)


main.Shim = Shim
setup = sys.argv.pop(1)
spawn.prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: a test that is killed leaves no shim behind
exec(setup, {"shims": shims, **{each.__name__.rpartition(".")[2]: each for each in MODULES}})
sys.exit(main.main())
