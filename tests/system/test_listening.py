"""Sockets that impetusd keeps for programs: handed over as systemd does it, and alive while processes change."""

from __future__ import annotations

import socket

import pytest
from instance import Instance, pool, program
from load import ask


def pid_from(address: tuple[str, int] | str) -> str:
    """What the program on the other end says."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(30)
        connection.connect(address)
        return connection.recv(100).decode()


def test_a_program_gets_its_sockets_as_systemd_passes_them(anyone: Instance) -> None:
    port = anyone.port()
    status = anyone.start(
        f"[program:p]\ncommand = {program('answer_pid')}\nwait_ready = yes\nlisten = 127.0.0.1:{port}, unix:p.sock\n"
    )
    assert pid_from(("127.0.0.1", port)) == f"{status['p'].pid} p:p"
    assert pid_from(str(anyone.root / "p.sock")) == f"{status['p'].pid} p:p"


def test_a_connection_that_waits_is_answered_by_the_next_process(impetusd: Instance) -> None:
    port = impetusd.port()
    busy = impetusd.root / "busy"
    busy.touch()
    before = impetusd.start(
        f"[program:p]\ncommand = {program('answer_pid', busy)}\nwait_ready = yes\nlisten = 127.0.0.1:{port}\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as waiting:
        impetusd.kill(before["p"].pid)
        impetusd.kill(before.supervisor)
        after = impetusd.settle(lambda now: now["p"].restarts == 1)
        busy.unlink()
        waiting.settimeout(30)
        assert waiting.recv(100).decode() == f"{after['p'].pid} p"


def test_a_connection_survives_a_restart_by_command(impetusd: Instance) -> None:
    port = impetusd.port()
    busy = impetusd.root / "busy"
    busy.touch()
    impetusd.start(
        f"[program:p]\ncommand = {program('answer_pid', busy)}\nwait_ready = yes\nlisten = 127.0.0.1:{port}\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as waiting:
        impetusd.run("restart", "p")
        busy.unlink()
        waiting.settimeout(30)
        assert waiting.recv(100).decode() == f"{impetusd.status()['p'].pid} p"


def test_several_instances_share_one_socket(impetusd: Instance) -> None:
    port = impetusd.port()
    status = impetusd.start(
        f"[program:p]\ncommand = {program('answer_pid')}\nwait_ready = yes\ninstances = 3\nlisten = 127.0.0.1:{port}\n"
    )
    expected = {f"{pid} p" for pid in status.pids.values()}
    assert {pid_from(("127.0.0.1", port)) for _ in range(20)} <= expected


@pytest.mark.parametrize("kind", ["program", "pool"])
def test_a_port_in_use_is_told_with_its_address(impetusd: Instance, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        keys = (
            pool(port)
            if kind == "pool"
            else f"command = {program('answer_pid')}\nwait_ready = yes\nlisten = 127.0.0.1:{port}\n"
        )
        impetusd.write(f"[{kind}:p]\n{keys}max_restarts = 1\nexp_backoff_restart_delay = 10ms\n")
        failed = impetusd.run("start", code=1)
        assert f"127.0.0.1:{port}" in failed.out
        assert "in use" in failed.out
    impetusd.run("start")
    impetusd.settle()


def test_a_stopped_program_refuses_connections_and_its_unix_socket_is_gone(impetusd: Instance) -> None:
    port = impetusd.port()
    impetusd.start(
        f"[program:p]\ncommand = {program('answer_pid')}\nwait_ready = yes\nlisten = 127.0.0.1:{port}, unix:p.sock\n"
    )
    impetusd.run("stop", "p")
    with pytest.raises(ConnectionRefusedError):
        pid_from(("127.0.0.1", port))
    assert not (impetusd.root / "p.sock").exists()
    impetusd.run("start", "p")
    assert pid_from(str(impetusd.root / "p.sock")).split()[0] == str(impetusd.status()["p"].pid)


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(impetusd: Instance) -> None:
    path = impetusd.root / "p.sock"
    ini = f"[program:p]\ncommand = {program('answer_pid')}\nwait_ready = yes\nlisten = unix:p.sock\nmax_restarts = 0\n"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        impetusd.write(ini)
        failed = impetusd.run("start", code=1)
        assert str(path) in failed.out
    impetusd.run("start")  # now it is stale
    assert pid_from(str(path)).split()[0] == str(impetusd.status()["p"].pid)


def test_requests_over_a_unix_socket_of_a_pool(impetusd: Instance) -> None:
    port = impetusd.port()
    status = impetusd.start(f"[pool:web]\n{pool(port, listen=f'127.0.0.1:{port}, unix:web.sock')}")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(impetusd.root / "web.sock"))
        assert ask(connection)[0] in {str(status["web:0"].pid), str(status["web:1"].pid)}
