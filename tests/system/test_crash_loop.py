"""Programs that end by themselves: tried again, with growing patience, given up, and always explained."""

from __future__ import annotations

from pathlib import Path

from instance import Instance, Row, program, wait_for

from impetusd.core.reasons import NONE, because

QUICK = "exp_backoff_restart_delay = 10ms\nexp_backoff_max_delay = 20ms\nmin_uptime = 5s"
SLOW = "exp_backoff_restart_delay = 1h\nexp_backoff_max_delay = 1h\nmin_uptime = 5s\nwait_ready = yes"


def as_told(instance: Instance, keys: str, *, told: str | None = None) -> tuple[Path, Path]:
    """Write an INI whose program `p` ends as the first file says; the second has a line for each of its starts."""
    file, starts = instance.root / "told", instance.root / "starts"
    if told is not None:
        file.write_text(told)
    instance.write(f"[program:p]\ncommand = {program('exit_as_told', file, starts)}\n{keys}\n")
    return file, starts


def count(starts: Path) -> int:
    return starts.read_text().count("\n")


def end_of(row: Row) -> dict[str, object]:
    return {key: value for key, value in row.last_exit.items() if key != "at"}


def test_a_program_that_ends_at_once_is_given_up_after_max_restarts(impetusd: Instance) -> None:
    impetusd.write(f"""
[program:bad]
command = {program("exit_with", 7, "first words", "the reason why")}
max_restarts = 3
wait_ready = yes
{QUICK}
""")
    failed = impetusd.run("start", code=1)
    assert "the reason why" in failed.out + failed.err
    assert "exit 7" in failed.out + failed.err
    row = impetusd.wait_state("bad", "FATAL")
    assert row.why == because("gave_up", end=because("exit", code=7), restarts=3, window_s=60.0)
    assert row.restarts == 3
    assert (row.want, row.ready, row.pid) == ("up", False, None)
    assert row.tail == ["first words", "the reason why"]
    assert end_of(row) == {"code": 7}
    wait_for(lambda: impetusd.log("bad-error.log").count("the reason why") == 4, "each run's words in the log")
    shown = impetusd.run("status", code=1).out
    assert "bad is FATAL: exit 7; gave up after 3 restarts in 60 s" in shown


def test_twenty_that_fail_at_once_are_each_given_up_and_told_once(impetusd: Instance) -> None:
    """With quick keys; `core/test_lifecycle.py` has it with the default ones and a clock of its own."""
    starts = impetusd.root / "starts"
    (impetusd.root / "told").write_text("1")
    impetusd.write(f"""
[program:bad]
command = {program("exit_as_told", impetusd.root / "told", starts)}
instances = 20
max_restarts = 3
wait_ready = yes
{QUICK}
[program:good]
command = sleep 300
min_uptime = 0
""")
    impetusd.run("start", code=1)
    wait_for(
        lambda: sum(row.state == "FATAL" for row in impetusd.status().rows.values()) == 20, "the last to be given up"
    )
    status = impetusd.status()
    assert status["good"].state == "RUNNING"
    assert {row.restarts for name, row in status.rows.items() if name != "good"} == {3}
    assert count(starts) == 20 * 4
    impetusd.says(": FATAL", 20)
    ledger = impetusd.root / "var" / "lib" / "ledger.jsonl"
    wait_for(lambda: ledger.read_text().count('"kind":"exit"') == 20 * 4, "each end to be in the ledger")


def test_a_program_in_backoff_says_why_and_until_when(impetusd: Instance) -> None:
    impetusd.write(f"""
[program:bad]
command = {program("exit_with", 7, "the reason why")}
{SLOW}
[program:good]
command = {program("tell_ready", "self")}
wait_ready = yes
""")
    failed = impetusd.run("start", code=1)
    assert "the reason why" in failed.out + failed.err
    row = impetusd.status()["bad"]
    assert row.state == "BACKOFF"
    assert row.why.find("exit") == because("exit", code=7)
    assert row.why.key == "retrying"
    assert row.why.find("backoff").facts["most"] == 16
    assert row.tail == ["the reason why"]
    assert impetusd.status()["good"].state == "RUNNING"
    impetusd.run("status", code=1)


def test_a_stop_during_backoff_is_obeyed(impetusd: Instance) -> None:
    _, starts = as_told(impetusd, SLOW, told="1")
    impetusd.run("start", code=1)
    impetusd.wait_state("p", "BACKOFF")
    before = count(starts)
    impetusd.run("stop", "p")
    row = impetusd.status()["p"]
    assert (row.state, row.want) == ("STOPPED", "down")
    assert count(starts) == before
    impetusd.run("status", code=0)


def test_start_revives_what_was_given_up(impetusd: Instance) -> None:
    told, _ = as_told(impetusd, f"max_restarts = 1\nwait_ready = yes\n{QUICK}", told="1")
    impetusd.run("start", code=1)
    impetusd.wait_state("p", "FATAL")
    impetusd.run("start", "p", code=1)  # still broken
    impetusd.wait_state("p", "FATAL")
    told.unlink()
    impetusd.run("start", "p")
    row = impetusd.status()["p"]
    assert (row.state, row.tail, row.why) == ("RUNNING", [], NONE)
    assert row.generation == 3


def test_restart_ends_a_backoff_at_once(impetusd: Instance) -> None:
    told, _ = as_told(impetusd, SLOW, told="1")
    impetusd.run("start", code=1)
    impetusd.wait_state("p", "BACKOFF")
    told.unlink()
    impetusd.run("restart", "p")
    assert impetusd.status()["p"].state == "RUNNING"


def test_on_failure_leaves_a_success_alone_and_tries_a_failure_again(impetusd: Instance) -> None:
    told, starts = as_told(impetusd, f"autorestart = on-failure\n{QUICK}", told="0")
    impetusd.run("start")
    row = impetusd.status()["p"]
    assert (row.state, row.want, end_of(row), row.restarts) == ("EXITED", "up", {"code": 0}, 0)
    impetusd.run("status")  # done is not wrong
    assert count(starts) == 1
    told.write_text("4")
    impetusd.run("start", "p", code=None)
    wait_for(lambda: count(starts) >= 4, "it to be tried again")


def test_never_leaves_also_a_failure_alone(impetusd: Instance) -> None:
    told, starts = as_told(impetusd, f"autorestart = never\n{QUICK}", told="4")
    impetusd.run("start", code=None)
    row = impetusd.wait_state("p", "FATAL")
    assert (end_of(row), row.restarts, row.why) == ({"code": 4}, 0, because("exit", code=4))
    assert count(starts) == 1
    impetusd.run("status", code=1)  # whoever looks is to know
    told.write_text("0")
    impetusd.run("start", "p")
    assert impetusd.status()["p"].state == "EXITED"


def test_stop_exit_codes_are_ends_and_others_are_not(impetusd: Instance) -> None:
    told, starts = as_told(impetusd, f"stop_exit_codes = 3, 5\n{QUICK}", told="5")
    impetusd.run("start", code=None)
    assert impetusd.wait_state("p", "EXITED").restarts == 0
    assert count(starts) == 1
    told.write_text("0")
    impetusd.run("start", "p", code=None)
    wait_for(lambda: count(starts) >= 4, "it to be tried again")


def test_a_program_that_is_not_there_is_told_by_its_name(impetusd: Instance) -> None:
    impetusd.write(f"[program:p]\ncommand = /no/such/program --at all\nmax_restarts = 1\n{QUICK}\n")
    failed = impetusd.run("start", code=None)
    assert failed.code != 0
    assert "/no/such/program" in failed.out + failed.err


def test_each_kind_of_end_is_recorded_exactly(impetusd: Instance) -> None:
    told, _ = as_told(impetusd, "wait_ready = yes\nmin_uptime = 0")
    impetusd.run("start")
    for number, name in (
        (15, "SIGTERM"),
        (6, "SIGABRT"),
        (11, "SIGSEGV"),
        (9, "SIGKILL"),
        (10, "SIGUSR1"),
        (1, "SIGHUP"),
    ):
        before = impetusd.settle()["p"]
        impetusd.kill(before.pid, number)
        row = impetusd.settle(lambda now, before=before: now["p"].restarts == before.restarts + 1)["p"]
        assert end_of(row) == {"signal": name}
    assert impetusd.status()["p"].restarts == 6
    assert told.exists() is False


def test_the_counting_goes_on_over_a_killed_supervisor(impetusd: Instance) -> None:
    _, starts = as_told(impetusd, f"max_restarts = 5\n{SLOW}", told="1")
    impetusd.run("start", code=1)
    before = impetusd.wait_state("p", "BACKOFF")
    old = impetusd.status().supervisor
    impetusd.kill(old)
    wait_for(lambda: impetusd.status().supervisor != old, "the next supervisor")
    row = impetusd.status()["p"]
    assert (row.state, row.restarts, row.last_exit) == ("BACKOFF", before.restarts, before.last_exit)
    assert row.tail == before.tail
    assert row.why.find("backoff").facts["most"] == 5
    assert count(starts) == before.restarts  # the first and all that followed, but for the one that is waited for


def test_a_backoff_ends_in_time_although_the_supervisor_was_killed(impetusd: Instance) -> None:
    told, _ = as_told(impetusd, "wait_ready = yes\nrestart_delay = 1s\nmin_uptime = 0")
    impetusd.run("start")
    status = impetusd.settle()
    impetusd.kill(status["p"].pid)
    impetusd.wait_state("p", "BACKOFF", "RUNNING")
    impetusd.kill(status.supervisor)
    after = impetusd.settle(lambda now: now["p"].pid != status["p"].pid)
    assert after["p"].restarts == 1
    assert told.exists() is False
