"""One daemon for a state directory, whoever starts it how often, and whatever lies around or goes missing."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import census
from instance import Instance, program, wait_for

ONE = f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n"


def shims(instance: Instance) -> list[census.Process]:
    return [each for each in instance.members() if "shim/__main__.py" in each.command]


def test_twenty_starts_at_once_are_one_daemon_and_twenty_true_answers(anyone: Instance) -> None:
    starts = anyone.root / "starts"
    anyone.write(f"[program:p]\ncommand = {program('exit_as_told', anyone.root / 'none', starts)}\nwait_ready = yes\n")
    commands = [anyone.popen("start") for _ in range(20)]
    answers = [anyone.finish(command) for command in commands]
    assert [answer for answer in answers if "1 up" not in answer.out] == []
    assert sum("impetusd started" in answer.err for answer in answers) == 1
    wait_for(lambda: len(shims(anyone)) == 1, "those that came too late to end")
    assert starts.read_text() == "started\n"
    anyone.settle()


def test_starts_and_stops_at_once_end_all_of_them_truthfully(impetusd: Instance) -> None:
    impetusd.start(ONE)
    commands = [impetusd.popen("stop" if number % 2 else "start") for number in range(8)]
    for command in commands:
        impetusd.finish(command, None)
    wait_for(lambda: len(shims(impetusd)) <= 1, "those that came too late to end")
    impetusd.run("start")
    impetusd.settle()


def test_a_stale_control_socket_is_replaced(anyone: Instance) -> None:
    anyone.write(ONE)
    anyone.run("start")
    anyone.run("stop")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(anyone.control_socket))
    if anyone.user is not None:
        shutil.chown(anyone.control_socket, anyone.user)
    anyone.run("status", code=3)
    assert "not running" in anyone.run("stop").out
    anyone.run("start")
    anyone.settle()


def test_a_plain_file_in_the_place_of_the_control_socket_is_no_daemon(impetusd: Instance) -> None:
    impetusd.write(ONE)
    impetusd.run_dir.mkdir(parents=True)
    impetusd.control_socket.write_text("what is this?")
    impetusd.run("status", code=3)
    impetusd.run("start")
    impetusd.settle()


def test_a_pid_file_that_names_a_stranger_harms_nobody(impetusd: Instance) -> None:
    impetusd.write(ONE)
    stranger = impetusd.stranger()
    for name in ("run", "lib", "log"):
        (impetusd.root / "var" / name).mkdir(parents=True)
        (impetusd.root / "var" / name / "impetusd.pid").write_text(f"{stranger.pid}\n")
    impetusd.run("stop")
    impetusd.run("start")
    impetusd.run("stop")
    assert stranger.poll() is None
    (impetusd.run_dir / "impetusd.pid").unlink()


def test_a_removed_control_socket_is_made_again(impetusd: Instance) -> None:
    before = impetusd.start(ONE)
    for _ in range(3):
        impetusd.control_socket.unlink()
        after = impetusd.status()
        assert (after.shim, after.supervisor, after.pids) == (before.shim, before.supervisor, before.pids)
    impetusd.run("start")  # and no second daemon comes up meanwhile
    wait_for(lambda: len(shims(impetusd)) == 1, "the only one")


def test_a_removed_state_file_is_written_anew(impetusd: Instance) -> None:
    before = impetusd.start(ONE)
    impetusd.run("stop", "p")
    saved = impetusd.root / "var" / "lib" / "state.json"
    wait_for(lambda: '"stopped": true' in json.dumps(json.loads(saved.read_text())), "the stop to be saved")
    text = saved.read_text()
    saved.unlink()
    wait_for(saved.exists, "the state file")
    assert json.loads(saved.read_text()) == json.loads(text)
    impetusd.says("state.json was deleted")
    assert "already running" in impetusd.run("run", code=73).err
    assert impetusd.status().shim == before.shim


def test_a_removed_run_directory_is_made_again(impetusd: Instance) -> None:
    before = impetusd.start(ONE)
    # Moved away, which is one step: what is removed piece by piece is made again in between.
    impetusd.run_dir.rename(impetusd.root / "was-run")
    wait_for(impetusd.control_socket.exists, "the control socket")
    assert impetusd.status().pids == before.pids
    impetusd.run("restart", "p")
    impetusd.run_dir.rename(impetusd.root / "was-run-too")  # the new one is watched, too
    wait_for(impetusd.control_socket.exists, "the control socket")
    impetusd.settle()


def test_sockets_that_go_while_no_supervisor_lives_are_made_again(impetusd: Instance) -> None:
    before = impetusd.start(ONE)
    impetusd.kill(before.supervisor, signal.SIGSTOP)
    impetusd.run_dir.rename(impetusd.root / "was-run")  # one step: the shim makes anew what is removed piece by piece
    impetusd.kill(before.supervisor)
    after = impetusd.settle(lambda now: now.supervisor != before.supervisor)
    assert after.pids == before.pids
    impetusd.run("restart", "p")


def test_a_second_daemon_is_refused(impetusd: Instance) -> None:
    before = impetusd.start(ONE)
    refused = impetusd.run("run", code=73)
    assert "already running" in refused.err
    assert "stop" in refused.err
    assert impetusd.settle().pids == before.pids


def test_a_second_shim_says_that_the_directory_is_taken(impetusd: Instance) -> None:
    before = impetusd.start(ONE)
    command = Path(f"/proc/{before.shim}/cmdline").read_bytes().split(b"\0")[:-1]
    second = subprocess.run(command, env={}, cwd="/", capture_output=True, check=False)
    assert (second.returncode, second.stdout, second.stderr) == (75, b"", b"")
    assert impetusd.settle().pids == before.pids


def test_the_same_ini_by_another_name_finds_the_same_daemon(impetusd: Instance) -> None:
    before = impetusd.start(f"[impetusd]\nrun_dir = var/run\nstate_dir = var/lib\nlog_dir = var/log\n{ONE}")
    other = impetusd.root / "other.ini"
    other.symlink_to(impetusd.conf)
    found = impetusd.run("-c", other, "status", "--json")
    assert f'"pid": {before.shim}' in found.out


def test_the_lock_is_let_go_when_the_daemon_is_gone(impetusd: Instance) -> None:
    impetusd.start(ONE)
    state = os.open(impetusd.root / "var" / "lib", os.O_RDONLY)
    try:
        impetusd.run("stop")
        fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(state)


def test_children_hold_neither_lock_nor_sockets_of_the_daemon(impetusd: Instance) -> None:
    status = impetusd.start(ONE)
    expected = ["/dev/null", *["pipe"] * 4]  # its streams, and the other ends of its log pipes
    pid = status["p"].pid
    wait_for(
        lambda: census.descriptors(pid) == expected, lambda: census.descriptors(pid)
    )  # it was still saying READY=1


def test_a_command_waits_for_a_supervisor_that_is_starting(impetusd: Instance) -> None:
    """Whatever is asked in the moment in which no supervisor lives is answered by the next one."""
    for command in (["status"], ["start"], ["describe", "p"], ["logs", "p"], ["stop", "p"], ["start", "p"]):
        status = impetusd.start(ONE)
        impetusd.kill(status.supervisor)
        impetusd.run(*command)
    impetusd.settle()
