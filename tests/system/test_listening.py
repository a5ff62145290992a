"""Sockets that impetusd keeps for programs: handed over as systemd does it, and alive while processes change."""

from __future__ import annotations

import errno
import os
import pwd
import select
import signal
import socket
import stat
import sys

import pytest
from instance import Instance, pool, program
from load import Load, ask
from waiting import PATIENCE, wait_for


def pid_from(address: tuple[str, int] | str) -> str:
    """What the program on the other end says."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(30)
        connection.connect(address)
        return connection.recv(100).decode()


def test_a_program_gets_its_sockets_as_systemd_passes_them(impetusd: Instance) -> None:
    port = impetusd.port()
    status = impetusd.start(
        f"[program:p]\ncommand = {program('answer_pid')}\nwait_ready = yes\nlisten = 127.0.0.1:{port}, unix:p.sock\n"
    )
    assert pid_from(("127.0.0.1", port)) == f"{status['p'].pid} p:p"
    assert pid_from(str(impetusd.root / "p.sock")) == f"{status['p'].pid} p:p"


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


def mode_and_owner(path: object) -> tuple[str, int, int]:
    now = os.stat(str(path))
    return oct(stat.S_IMODE(now.st_mode)), now.st_uid, now.st_gid


def test_a_unix_socket_has_the_mode_and_the_owner_that_it_is_given(impetusd: Instance) -> None:
    text = f"[program:p]\ncommand = {program('answer_pid')}\nwait_ready = yes\nreload_watch = 0\nlisten = unix:p.sock"
    impetusd.start(text)
    path = impetusd.root / "p.sock"
    assert mode_and_owner(path) == ("0o660", os.geteuid(), os.getegid())
    with socket.socket(socket.AF_UNIX) as kept:
        impetusd.write(f"{text} mode=0604\n")
        assert "mode=0604" in impetusd.run("plan", code=1).out
        impetusd.run("apply")
        assert mode_and_owner(path) == ("0o604", os.geteuid(), os.getegid())
        kept.connect(str(path))
    assert pid_from(str(path)).split()[0] == str(impetusd.status()["p"].pid)


def test_a_unix_socket_belongs_to_whom_it_is_given(impetusd: Instance) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a file away")
    nobody = pwd.getpwnam("nobody")
    impetusd.start(
        f"[program:p]\ncommand = {program('answer_pid')}\nwait_ready = yes\n"
        f"listen = unix:p.sock mode=0600 owner=nobody, unix:q.sock owner=:{nobody.pw_gid}\n"
    )
    assert mode_and_owner(impetusd.root / "p.sock") == ("0o600", nobody.pw_uid, nobody.pw_gid)
    assert mode_and_owner(impetusd.root / "q.sock") == ("0o660", 0, nobody.pw_gid)


@pytest.mark.parametrize("kind", ["pool", "program"])
def test_another_address_is_open_before_the_old_one_closes(impetusd: Instance, kind: str) -> None:
    """Whoever asks finds one of the two open at any time, and in the end only the new one."""
    old, new = impetusd.port(), impetusd.port()

    def ini(port: int) -> str:
        if kind == "pool":
            return f"[pool:p]\n{pool(port, reload_watch=0)}"
        command = program("answer_pid")
        return f"[program:p]\ncommand = {command}\nwait_ready = yes\nreload_watch = 0\nlisten = 127.0.0.1:{port}\n"

    impetusd.start(ini(old))
    impetusd.write(ini(new))
    assert "reload" in impetusd.run("plan", code=1).out
    applying = impetusd.popen("apply")

    def is_open(port: int) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    def only_the_new_one() -> bool:
        was = is_open(old)
        assert was or is_open(new)
        return not was

    wait_for(only_the_new_one, "the old address to be closed")
    impetusd.finish(applying)
    impetusd.settle()
    assert is_open(new)


SERVER = """
import os, socket, sys
passed = int(os.environ.get("LISTEN_FDS", 0))
server = socket.socket(fileno=3) if passed else socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    address = os.environ["NOTIFY_SOCKET"]
    notify.sendto(b"READY=1", "\\0" + address[1:] if address[0] == "@" else address)
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(str(passed).encode())
"""


@pytest.mark.parametrize("instances", [1, 3])
def test_who_binds_a_port_is_changed_by_a_restart_that_leaves_it_to_one_at_a_time(
    impetusd: Instance, instances: int
) -> None:
    """From a program that binds it itself to impetusd, and back: the two cannot have it side by side."""
    port = impetusd.port()
    server = impetusd.root / "server.py"
    server.write_text(SERVER)
    keys = f"command = {sys.executable} {server} {port}\nwait_ready = yes\ninstances = {instances}\n"
    ours, its_own = (f"[program:p]\n{keys}{listen}" for listen in (f"listen = 127.0.0.1:{port}\n", ""))

    def passed() -> str:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            return connection.recv(8).decode()

    before = impetusd.start(its_own)
    for ini, said in ((ours, "1"), (its_own, "0")):
        impetusd.write(ini)
        assert "program:p  restart:" in impetusd.run("plan", code=1).out
        impetusd.run("apply")
        after = impetusd.settle()
        assert set(after.pids.values()).isdisjoint(before.pids.values())
        assert said == "0" or [row.restarts for row in after.rows.values()] == [0] * instances
        assert passed() == said
        before = after


def test_a_pool_moves_from_one_address_to_another_that_is_in_its_way(impetusd: Instance) -> None:
    port = impetusd.port()
    before = impetusd.start(f"[pool:web]\n{pool(port, instances=2)}")
    impetusd.write(f"[pool:web]\n{pool(port, instances=2)}".replace("127.0.0.1", "0.0.0.0"))
    assert "pool:web  restart:" in impetusd.run("plan", code=1).out
    impetusd.run("apply")
    after = impetusd.settle()
    assert set(after.pids.values()).isdisjoint(before.pids.values())
    assert sum(row.restarts for row in after.rows.values()) == 0


def test_an_address_that_cannot_be_had_changes_nothing(impetusd: Instance) -> None:
    port = impetusd.port()
    before = impetusd.start(f"[pool:web]\n{pool(port, reload_watch=0)}")
    with socket.create_server(("127.0.0.1", 0)) as stranger, Load(port) as load:
        taken = stranger.getsockname()[1]
        impetusd.write(f"[pool:web]\n{pool(taken, reload_watch=0)}")
        failed = impetusd.run("apply", code=1)
        load.go_on(20)
    assert f"listening on 127.0.0.1:{taken}" in failed.out + failed.err
    impetusd.settle(lambda now: now.pids == before.pids)


def test_no_queued_connection_is_lost_when_a_socket_activated_program_is_killed(impetusd: Instance) -> None:
    port = impetusd.port()
    busy = impetusd.root / "busy"
    busy.touch()
    before = impetusd.start(
        f"[program:p]\ncommand = {program('answer_pid', busy)}\nwait_ready = yes\n"
        f"listen = 127.0.0.1:{port}\nmax_restarts = 100\n"
    )
    waiting = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(50)]
    impetusd.kill(before["p"].pid)
    after = impetusd.settle(lambda now: now["p"].restarts == 1)
    busy.unlink()
    answers = set()
    for connection in waiting:
        with connection:
            answers.add(connection.recv(100).decode())
    assert answers == {f"{after['p'].pid} p"}


def test_who_waits_in_the_queue_of_a_pool_that_is_stopped_is_answered(impetusd: Instance) -> None:
    """And whoever comes later is not let in: he would be accepted by nobody, and reset."""
    port = impetusd.port()
    before = impetusd.start(f"[pool:web]\n{pool(port, drain_timeout='60s', kill_timeout='90s')}")
    for name in ("web:0", "web:1"):  # they accept nobody until the stop has them go on
        impetusd.kill(before[name].pid, signal.SIGSTOP)
    request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
    waiting = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(50)]
    for connection in waiting:
        connection.sendall(request)
    impetusd.run("stop", "web")
    for connection in waiting:
        with connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    impetusd.run("start", "web")
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        assert ask(connection)[1]


def test_a_queue_that_was_shut_is_open_again_when_the_stop_is_taken_back(impetusd: Instance) -> None:
    port = impetusd.port()
    leaves = "trap 'until [ -e may_end ]; do sleep 0.02; done; exit' TERM; touch up; while :; do sleep 0.02; done"
    before = impetusd.start(f'[program:p]\ncommand = sh -c "{leaves}"\ncwd = .\nlisten = 127.0.0.1:{port}\n')
    wait_for((impetusd.root / "up").exists, "it to expect its signal")
    stop = impetusd.popen("stop", "p")
    impetusd.wait_state("p", "STOPPING")
    with socket.socket() as late:
        late.setblocking(False)
        late.connect_ex(("127.0.0.1", port))
        assert not select.select([], [late], [], 0.2)[1]
        start = impetusd.popen("start", "p")
        wait_for(lambda: impetusd.status()["p"].want == "up", "the stop to be taken back")
        (impetusd.root / "may_end").touch()
        impetusd.finish(stop, code=None)
        impetusd.finish(start)
        assert impetusd.status()["p"].pid != before["p"].pid
        assert select.select([], [late], [], PATIENCE)[1]
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_unix_socket_that_somebody_removes_is_there_again_with_its_queue(impetusd: Instance, how: str) -> None:
    hold = impetusd.root / "hold"
    hold.touch()
    path = impetusd.root / "s" / "p.sock"
    keys = f"command = {program('answer_pid', hold)}\nwait_ready = yes\nlisten = unix:{path} mode=0666\n"
    before = impetusd.start(f"[program:p]\n{keys}")
    inode = path.stat().st_ino
    with socket.socket(socket.AF_UNIX) as early, socket.socket(socket.AF_UNIX) as late:
        early.connect(str(path))
        if how == "folder":
            gone = path.parent.rename(impetusd.root / "gone")
            (gone / path.name).unlink()
        else:
            path.unlink()
        wait_for(path.exists, "the socket")
        assert (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == (inode, 0o666)
        late.connect(str(path))
        hold.unlink()
        assert {early.recv(100), late.recv(100)} == {f"{before.pids['p']} p".encode()}
    impetusd.says("was deleted; restored")
    assert impetusd.settle().pids == before.pids

    path.unlink()
    path.touch()
    wait_for(lambda: "was replaced by another file" in impetusd.log() or path.is_socket(), "it to be told")
    path.unlink(missing_ok=True)
    wait_for(path.is_socket, "the socket")

    impetusd.kill(before.supervisor)  # the next one looks after it, too
    wait_for(lambda: impetusd.status().supervisor != before.supervisor, "the next supervisor")
    path.unlink()
    wait_for(path.exists, "the socket")
    impetusd.run("restart", "p")
    assert pid_from(str(path)) == f"{impetusd.settle().pids['p']} p"
    impetusd.run("stop", "p")
    assert not path.exists()
    assert list((impetusd.run_dir / "sockets").iterdir()) == []


@pytest.mark.parametrize("kind", ["pool", "program"])
def test_one_that_has_no_second_name_is_bound_anew_for_new_processes(impetusd: Instance, kind: str) -> None:
    path = impetusd.root / "p.sock"
    if kind == "pool":
        keys = f"{pool(0)}".replace("127.0.0.1:0", f"unix:{path}") + "reload_watch = 0\n"
    else:
        keys = f"command = {program('answer_pid')}\nwait_ready = yes\nreload_watch = 0\nlisten = unix:{path}\n"
    before = impetusd.start(f"[{kind}:p]\n{keys}")
    impetusd.kill(before.supervisor, signal.SIGSTOP)  # which would restore the one from the other
    for each in (impetusd.run_dir / "sockets").iterdir():
        each.unlink()
    path.unlink()
    os.kill(before.supervisor, signal.SIGCONT)
    wait_for(path.exists, "the socket")
    after = impetusd.settle(lambda now: set(now.pids.values()).isdisjoint(before.pids.values()))
    impetusd.says("created a new one and starting new processes for it")
    if kind == "program":
        assert pid_from(str(path)) == f"{after.pids['p']} p"


@pytest.mark.parametrize("how", ["at its start", "while it serves", "held"])
def test_a_pool_that_is_given_up_refuses_connections_until_it_is_tried_again(impetusd: Instance, how: str) -> None:
    port, broken = impetusd.port(), impetusd.root / "broken"
    app = "import os\nfrom aiohttp import web\n\nasync def hello(_):\n    return web.Response(text='hello')\n\n"
    app += f"async def startup(_):\n    if os.path.exists({str(broken)!r}):\n        os._exit(3)\n\n"
    app += "def make():\n    app = web.Application()\n    app.router.add_get('/', hello)\n    app.on_startup.append(startup)\n    return app\n"
    impetusd.write(app if how == "while it serves" else "import nosuch\n", "shop.py")
    keys = {"app": "shop:make", "cwd": impetusd.root, "max_restarts": 1, "exp_backoff_restart_delay": "10ms"}
    impetusd.write(f"[pool:web]\n{pool(port, **keys)}on_fatal = {'hold' if how == 'held' else 'refuse'}\n")
    impetusd.run("start", code=None)
    if how == "while it serves":
        broken.touch()
        for row in impetusd.status().rows.values():
            if row.pid is not None and row.name != "web:template":
                impetusd.kill(row.pid)

    def refused() -> bool:
        with socket.socket() as connection:
            connection.settimeout(PATIENCE)
            return connection.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED

    if how == "held":
        assert impetusd.status()["web:template"].state == "FATAL"
        assert not refused()
    else:
        wait_for(refused, "connections to be refused")
    broken.unlink(missing_ok=True)
    impetusd.write(app, "shop.py")
    impetusd.run("restart", "web")
    assert not refused()
    assert "web:standby" in impetusd.settle().rows
