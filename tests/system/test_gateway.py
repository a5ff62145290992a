"""The gateway and the observer as they run: who they are, that they outlive what is killed, and that they harm nobody."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import urllib.request
from pathlib import Path

import pytest
from instance import Instance, program
from waiting import PATIENCE, wait_for

from impetusd.core.config.gateway import own_user

INI = f"""
[gateway]
{{}}
[program:p]
command = {program("ignore_term")}
kill_timeout = 100ms
"""


def health(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/health", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def listens(impetusd: Instance) -> str:
    """The one address of the gateway."""
    (address,) = impetusd.status().fields["gateway"]["listen"]
    return str(address)


def start(impetusd: Instance, keys: str = "") -> None:
    impetusd.root.chmod(0o755)  # nobody gets to its folders
    impetusd.start(INI.format(keys or f"listen = 127.0.0.1:{impetusd.port()}"))


def as_nobody(*command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, user="nobody", group="nogroup", extra_groups=(), capture_output=True, check=False)


def reported(impetusd: Instance) -> float:
    return float(impetusd.status().fields["alerts"]["reported"])


def test_they_run_unprivileged_with_a_folder_each_and_outlive_supervisor_and_shim(impetusd: Instance) -> None:
    start(impetusd)
    status = impetusd.status()
    pids = {name: status[name].pid for name in ("gateway:0", "observer", "p")}
    own = int(own_user(f"{impetusd.root}/var/lib")) if os.geteuid() == 0 else os.geteuid()
    if os.geteuid() == 0:
        for name in ("gateway:template", "gateway:0", "observer"):
            ids = Path(f"/proc/{status[name].pid}/status").read_text(encoding="utf-8")
            assert next(line for line in ids.splitlines() if line.startswith("Uid:")).split()[1:] == [str(own)] * 4
            assert next(line for line in ids.splitlines() if line.startswith("Groups:")).split()[1:] == [str(own)]
            assert as_nobody("cat", f"/proc/{status[name].pid}/environ").returncode  # where their secrets are
            assert "NoNewPrivs:\t1" in ids
            assert "CapEff:\t0000000000000000" in ids
    for name in ("gateway", "observer"):
        there = (impetusd.root / "var/lib" / name).stat()
        assert stat.S_IMODE(there.st_mode) == 0o700
        assert there.st_uid == own
    address = listens(impetusd)
    assert health(address) == "ok\n"
    for victims in (("supervisor",), ("shim",), ("shim", "supervisor")):
        status = impetusd.status()
        before = reported(impetusd)
        for name in victims:
            os.kill(getattr(status, name), signal.SIGKILL)
        if len(victims) == 2:
            wait_for(lambda: impetusd.run("start", code=None).code == 0, "another daemon")
        assert health(address) == "ok\n"
        wait_for(lambda before=before: reported(impetusd) > before, f"the observer, after {victims} were killed")
        now = impetusd.status()
        assert {name: now[name].pid for name in pids} == pids
    impetusd.run("restart", "observer")
    assert impetusd.status()["observer"].pid != pids["observer"]
    impetusd.run("reload", "gateway")
    assert health(address) == "ok\n"
    assert impetusd.status()["p"].pid == pids["p"]


def test_where_its_port_is_in_use_the_next_one_is_taken_and_told(impetusd: Instance) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 9615))
            taken.listen()
        except OSError:
            pass  # somebody else has it
        start(impetusd, "; without listen")
        address = listens(impetusd)
        port = int(address.rpartition(":")[2])
        assert 9615 < port <= 9624
        assert health(address) == "ok\n"
        impetusd.says(f"127.0.0.1:9615 is in use; listening on {address} instead")
        assert f"gateway http://{address}/" in impetusd.run("status").out
    impetusd.run("restart", "gateway")  # it keeps what it has
    assert listens(impetusd) == address


def test_an_address_that_is_written_is_the_only_one(impetusd: Instance) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        impetusd.root.chmod(0o755)
        impetusd.write(INI.format(f"listen = 127.0.0.1:{taken.getsockname()[1]}"))
        impetusd.run("start", "p")
        starting = impetusd.popen("start", "gateway")
        wait_for(lambda: "listening on" in impetusd.status()["gateway:template"].reason, "the reason")
        starting.kill()  # it would wait until all tries are made
        starting.wait()


@pytest.mark.usefixtures("as_root")
def test_where_nobody_gets_to_its_folder_it_says_what_to_type(impetusd: Instance) -> None:
    impetusd.root.chmod(0o700)
    impetusd.write(INI.format(f"listen = 127.0.0.1:{impetusd.port()}"))
    impetusd.run("start", "p")
    starting = impetusd.popen("start", "observer")
    own = own_user(f"{impetusd.root}/var/lib")
    said = f"{own} cannot enter {impetusd.root}; run: chmod o+x {impetusd.root}"
    wait_for(lambda: said in impetusd.status()["observer"].reason, "the reason")
    starting.kill()
    starting.wait()
    impetusd.root.chmod(0o755)
    wait_for(lambda: impetusd.run("start", code=None).code == 0, "the start")
