"""Every stop ends: all at once, in order, at the deadline by force, grandchildren included, and the report names whom."""

from __future__ import annotations

import signal
from pathlib import Path

import census
import pytest
from instance import Instance, program, wait_for


def alone(instance: Instance, *names: str) -> bool:
    """Only shim, supervisor and the processes of the slots `names` are left."""
    status = instance.status()
    left = {each.pid for each in instance.members()}
    return left == {status.shim, status.supervisor, *(status[name].pid for name in names)}


def connections(instance: Instance) -> int:
    """How many clients the daemon has."""
    # Number, references, protocol, flags, type, state (3: connected), inode, path.
    lines = [line.split() for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()]
    return sum(words[5] == "03" and words[7:] == [str(instance.control_socket)] for words in lines)


def grandchild(file: Path) -> int:
    pid = int(wait_for(lambda: file.exists() and file.read_text(), "the grandchild's pid"))
    assert census.read(pid) is not None
    return pid


def test_twenty_programs_that_need_a_while_stop_at_the_same_time(impetusd: Instance) -> None:
    may_end, files = impetusd.root / "may_end", [impetusd.root / f"done-{number}" for number in range(20)]
    impetusd.start("".join(
        f"[program:s{number}]\ncommand = {program('slow_stop', may_end, file)}\nwait_ready = yes\nkill_timeout = 1h\n"
        for number, file in enumerate(files)
    ))  # fmt: skip
    stopping = impetusd.popen("stop")
    impetusd.wait_status(lambda now: {row.state for row in now.rows.values()} == {"STOPPING"})
    may_end.touch()
    impetusd.finish(stopping)
    assert all(file.exists() for file in files)


def test_a_program_that_ignores_sigterm_is_killed_at_the_deadline_and_named(anyone: Instance) -> None:
    anyone.start(f"""
[program:deaf]
command = {program("ignore_term")}
wait_ready = yes
kill_timeout = 1s
[program:meek]
command = {program("tell_ready", "self")}
wait_ready = yes
""")
    stopped = anyone.run("stop", "deaf", "meek")
    assert "killed after kill_timeout" in stopped.out
    assert "deaf" in stopped.out.splitlines()[0]
    assert "meek" not in stopped.out.splitlines()[0]
    assert alone(anyone)
    rows = anyone.status()
    assert (rows["deaf"].last_exit["signal"], rows["meek"].last_exit["signal"]) == ("SIGKILL", "SIGTERM")
    anyone.run("start", "deaf")
    assert "deaf" in anyone.run("stop").out


def test_a_program_that_is_stopped_hears_its_sigterm(anyone: Instance) -> None:
    status = anyone.start(f"[program:p]\ncommand = {program('freeze')}\nwait_ready = yes\n")
    wait_for(lambda: census.read(status["p"].pid).state == "T", "it to stand still")
    stopped = anyone.run("stop", "p")
    assert "killed" not in stopped.out
    assert anyone.status()["p"].last_exit["signal"] == "SIGTERM"


def test_a_program_that_stops_itself_again_and_again_is_killed(anyone: Instance) -> None:
    status = anyone.start(f"[program:p]\ncommand = {program('freeze', 'deaf')}\nwait_ready = yes\nkill_timeout = 1s\n")
    wait_for(lambda: census.read(status["p"].pid).state == "T", "it to stand still")
    assert "killed after kill_timeout" in anyone.run("stop", "p").out
    assert alone(anyone)


def test_a_grandchild_in_its_own_session_that_ignores_sigterm_is_killed_and_named(anyone: Instance) -> None:
    file = anyone.root / "pid"
    anyone.start(f"[program:p]\ncommand = {program('double_fork', file)}\nwait_ready = yes\nkill_timeout = 1s\n")
    pid = grandchild(file)
    stopped = anyone.run("stop", "p")
    assert "killed after kill_timeout: p" in stopped.out
    assert census.read(pid) is None
    assert alone(anyone)


def test_a_grandchild_that_obeys_is_asked_and_not_killed(anyone: Instance) -> None:
    file = anyone.root / "pid"
    anyone.start(f"[program:p]\ncommand = {program('double_fork', file, 'meek')}\nwait_ready = yes\n")
    pid = grandchild(file)
    assert "killed" not in anyone.run("stop", "p").out
    assert census.read(pid) is None


def test_what_a_program_leaves_behind_when_it_ends_is_ended_before_it_starts_again(anyone: Instance) -> None:
    file = anyone.root / "pid"
    status = anyone.start(
        f"[program:p]\ncommand = {program('double_fork', file)}\nwait_ready = yes\nkill_timeout = 1s\nmin_uptime = 0\n"
    )
    pid = grandchild(file)
    anyone.kill(status["p"].pid)
    wait_for(lambda: census.read(pid) is None, "the grandchild to be killed")
    wait_for(lambda: anyone.status()["p"].state == "RUNNING", "it to be started again")
    row = anyone.status()["p"]
    assert (row.last_exit["signal"], row.restarts) == ("SIGKILL", 1)
    second = grandchild(file)  # who is ready has written it
    wait_for(
        lambda: (
            {each.pid for each in anyone.members()}
            == {row.pid, second, anyone.status().shim, anyone.status().supervisor}
        ),
        "nobody else",
    )
    anyone.run("stop")


def test_the_grandchild_of_a_killed_program_is_ended_although_the_supervisor_was_killed_too(anyone: Instance) -> None:
    file = anyone.root / "pid"
    status = anyone.start(f"""
[program:p]
command = {program("double_fork", file)}
wait_ready = yes
kill_timeout = 1s
autorestart = never
stop_exit_codes = 0
""")
    pid = grandchild(file)
    anyone.kill(status.supervisor)
    anyone.kill(status["p"].pid)
    wait_for(lambda: census.read(pid) is None, "the grandchild to be killed")
    assert anyone.wait_state("p", "FATAL").last_exit["signal"] == "SIGKILL"


def test_a_program_that_leaves_a_daemon_behind_and_ends_is_told_so(impetusd: Instance) -> None:
    file = impetusd.root / "pid"
    impetusd.write(
        f"[program:p]\ncommand = {program('double_fork', file, 'leave')}\nautorestart = on-failure\nkill_timeout = 1s\n"
    )
    impetusd.run("start", code=None)
    impetusd.wait_state("p", "EXITED")
    assert alone(impetusd)


def test_without_treekill_descendants_are_left_alone(impetusd: Instance) -> None:
    file = impetusd.root / "pid"
    impetusd.start(f"[program:p]\ncommand = {program('double_fork', file, 'meek')}\nwait_ready = yes\ntreekill = no\n")
    pid = grandchild(file)
    impetusd.run("stop", "p")
    assert census.read(pid) is not None
    impetusd.kill(pid)
    wait_for(lambda: alone(impetusd), "the grandchild to be reaped")


def test_a_slow_program_holds_up_nobody_elses_stop(impetusd: Instance) -> None:
    slow, may_end = impetusd.root / "slow", impetusd.root / "may_end"
    impetusd.start(f"""
[program:slow]
command = {program("slow_stop", may_end, slow)}
kill_timeout = 1h
wait_ready = yes
[program:quick]
command = {program("tell_ready", "self")}
wait_ready = yes
""")
    stopping = impetusd.popen("stop", "slow")
    impetusd.wait_state("slow", "STOPPING")
    impetusd.run("stop", "quick")
    assert impetusd.status()["slow"].state == "STOPPING"
    may_end.touch()
    impetusd.finish(stopping)
    assert slow.exists()


def test_a_start_during_the_stop_is_carried_out_after_it(impetusd: Instance) -> None:
    slow, may_end = impetusd.root / "slow", impetusd.root / "may_end"
    before = impetusd.start(
        f"[program:p]\ncommand = {program('slow_stop', may_end, slow)}\nwait_ready = yes\nkill_timeout = 1h\n"
    )
    stopping = impetusd.popen("stop", "p")
    impetusd.wait_state("p", "STOPPING")
    starting = impetusd.popen("start", "p")
    impetusd.wait_status(lambda now: now["p"].want == "up")
    may_end.touch()
    impetusd.finish(starting)
    assert slow.exists()
    after = impetusd.settle()
    assert after["p"].pid != before["p"].pid
    assert after["p"].restarts == 0
    impetusd.finish(stopping, None)


def test_a_start_during_the_stop_of_everything_begins_anew(impetusd: Instance) -> None:
    """Whoever asks last gets what they asked for, and no process is left to nobody."""
    slow, may_end = impetusd.root / "slow", impetusd.root / "may_end"
    before = impetusd.start(
        f"[program:p]\ncommand = {program('slow_stop', may_end, slow)}\nwait_ready = yes\nkill_timeout = 1h\n"
    )
    stopping = impetusd.popen("stop")
    impetusd.wait_state("p", "STOPPING")
    starting = impetusd.popen("start")
    wait_for(lambda: connections(impetusd) > 1, "both to be there")
    may_end.touch()
    impetusd.finish(stopping, None)  # it may find the next daemon instead of none
    impetusd.finish(starting)
    assert slow.exists()
    assert impetusd.settle()["p"].pid != before["p"].pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_to_the_daemon_stops_everything_in_order(impetusd: Instance, number: int) -> None:
    notes = impetusd.root / "notes"
    status = impetusd.start(f"""
[program:db]
command = {program("note_times", notes, "db")}
wait_ready = yes
[program:web]
command = {program("note_times", notes, "web")}
wait_ready = yes
depends_on = db
""")
    impetusd.kill(status.shim, number)
    wait_for(lambda: not impetusd.members(), "everything to end")
    assert notes.read_text().split("\n") == ["db started", "web started", "web stopped", "db stopped", ""]
    impetusd.run("status", code=3)


def test_a_supervisor_killed_during_the_stop_of_everything_does_not_keep_it_from_ending(anyone: Instance) -> None:
    slow, may_end = anyone.root / "slow", anyone.root / "may_end"
    status = anyone.start(f"""
[program:slow]
command = {program("slow_stop", may_end, slow)}
wait_ready = yes
kill_timeout = 1h
[program:deaf]
command = {program("ignore_term")}
wait_ready = yes
kill_timeout = 1s
[program:last]
command = {program("note_signals")}
wait_ready = yes
""")
    stopping = anyone.popen("stop")
    anyone.wait_state("slow", "STOPPING")
    anyone.kill(status.supervisor)
    may_end.touch()
    anyone.finish(stopping)
    assert anyone.members() == []
    assert slow.exists()
    anyone.run("status", code=3)


def test_the_deadline_of_a_stop_outlives_the_supervisor(impetusd: Instance) -> None:
    """Were it begun anew by each next one, this would not end while they are killed."""
    before = impetusd.start(
        f"[program:deaf]\ncommand = {program('ignore_term')}\nwait_ready = yes\nkill_timeout = 8s\n"
    )
    stopping = impetusd.popen("stop", "deaf")
    impetusd.wait_state("deaf", "STOPPING")

    def gone() -> bool:
        status = impetusd.status()
        if status["deaf"].pid is not None:
            impetusd.kill(status.supervisor)
        return status["deaf"].pid is None

    wait_for(gone, "it to be killed at its deadline", apart=0.4)
    impetusd.finish(stopping, None)
    after = impetusd.status()
    assert (after["deaf"].state, after["deaf"].last_exit["signal"]) == ("STOPPED", "SIGKILL")
    assert after.supervisor != before.supervisor


def test_a_stop_with_another_signal_and_its_own_patience(impetusd: Instance) -> None:
    impetusd.start(f"[program:p]\ncommand = {program('note_times', impetusd.root / 'notes', 'p')}\nwait_ready = yes\n"
                   "kill_signal = SIGINT\n[program:q]\n"
                   f"command = {program('ignore_term')}\nwait_ready = yes\nkill_signal = SIGUSR1\n")  # fmt: skip
    impetusd.run("stop")
    assert (impetusd.root / "notes").read_text() == "p started\np stopped\n"


def test_with_no_patience_at_all_it_is_killed_at_once(impetusd: Instance) -> None:
    impetusd.start(f"[program:p]\ncommand = {program('ignore_term')}\nwait_ready = yes\nkill_timeout = 0\n")
    assert "killed after kill_timeout" in impetusd.run("stop").out
