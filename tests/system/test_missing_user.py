"""A user that leaves the host's passwd while its program runs, as in an outage of LDAP: that program alone is down."""

from __future__ import annotations

import os
import signal

import census
import pytest
from instance import Instance, wait_for
from own_passwd import GHOST, Passwd

from impetusd.core.reasons import because


@pytest.fixture
def passwd(impetusd: Instance, as_root: None) -> Passwd:
    return Passwd(impetusd)


@pytest.mark.parametrize("others", [3, 200])
def test_costs_its_program_alone_whatever_is_killed_meanwhile(impetusd: Instance, passwd: Passwd, others: int) -> None:
    ghost = "[program:ghost]\ncommand = /bin/sleep 1000\nuser = ghost\nmin_uptime = 0\nexp_backoff_max_delay = 1s\nmax_restarts = 1000\n"
    rest = f"[program:other]\ncommand = /bin/sleep 1000\ninstances = {others}\nmin_uptime = 0\n"
    impetusd.start(ghost + rest)
    before = impetusd.settle()
    passwd.write()
    # The shim stands still meanwhile, so that it finds all these ends at once.
    impetusd.kill(before.shim, signal.SIGSTOP)
    victims = {"ghost", *(f"other:{number}" for number in range(0, others, 2))}
    processes = [process for process in census.children(before.shim) if process.pid in before.pids.values()]
    for name in victims:
        os.kill(before.pids[name], signal.SIGKILL)
    dead = [each for each in processes if each.pid in {before.pids[name] for name in victims}]
    wait_for(lambda: all((now := census.read(each.pid)) and now.zombie for each in dead), "the last death")
    impetusd.kill(before.shim, signal.SIGCONT)

    def as_wanted() -> bool:
        now = impetusd.status()
        up = {name: row.pid for name, row in now.rows.items() if row.state == "RUNNING"}
        return set(up) == set(now.rows) - {"ghost"} and not any(
            up[name] == before.pids[name] for name in victims & set(up)
        )

    def only_the_ghost_is_down() -> str:
        wait_for(as_wanted, lambda: f"all but ghost: {impetusd.status()}")
        row = impetusd.wait_state("ghost", "BACKOFF")
        assert row.why.find("no_user") == because("no_user", name="ghost")
        assert len([each for each in impetusd.members() if "/bin/sleep" in each.command]) == others
        return row.reason

    only_the_ghost_is_down()
    first = impetusd.status()
    for _ in range(2):
        impetusd.kill(impetusd.status().supervisor)
        only_the_ghost_is_down()
    impetusd.write(f"{ghost}{rest}[program:new]\ncommand = /bin/sleep 1000\n")
    impetusd.run("apply")
    assert impetusd.status()["new"].state == "RUNNING"
    impetusd.run("stop", "new")
    impetusd.write(ghost + rest)
    impetusd.run("apply")
    only_the_ghost_is_down()
    failed = impetusd.run("restart", "ghost", code=1)
    assert "user ghost does not exist on this host" in failed.out + failed.err
    passwd.write(GHOST)
    impetusd.run("restart", "ghost")
    after = impetusd.settle()
    assert {name: pid for name, pid in after.pids.items() if name != "ghost"} == {
        name: pid for name, pid in first.pids.items() if name != "ghost"
    }
    assert after.shim == before.shim
    assert "Traceback" not in impetusd.log()
