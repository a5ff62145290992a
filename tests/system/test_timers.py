"""Timers with real processes: what runs, what it prints, how it ends, and that nothing of it is lost."""

from __future__ import annotations

import json
from typing import Any

import census
from instance import Instance, program, wait_for

NEVER = "every = 1d\n"


def ini(**timers: str) -> str:
    """Timers by name, each with its keys."""
    return "".join(f"[timer:{name}]\n{keys}\n" for name, keys in timers.items())


def told(impetusd: Instance, name: str = "go") -> str:
    """The command of a job that runs until `tell`."""
    return f"command = {program('job_until_told', impetusd.root / name)}\n"


def tell(impetusd: Instance, text: object = 0, name: str = "go") -> None:
    """Have that job print the words after the number, and exit with it."""
    impetusd.write(f"{text}\n", name)


def row(impetusd: Instance, name: str = "job") -> dict[str, Any]:
    """What the daemon says of one."""
    rows = impetusd.ask("timers")["timers"]
    found: dict[str, Any] = next(each for each in rows if each["name"] == name)
    return found


def results(impetusd: Instance, name: str = "job") -> list[tuple[str, str]]:
    """(why, result), newest first."""
    return [(run["why"], run["result"]) for run in row(impetusd, name)["runs"]]


def running(impetusd: Instance, name: str = "job") -> int:
    """Wait until the job runs; the pid that it printed last."""

    def pid() -> int:
        lines = impetusd.log(f"{name}-out.log").split()
        process = census.read(int(lines[-1])) if lines else None
        return process.pid if process is not None and not process.zombie else 0

    found: int = wait_for(pid, f"{name} to run")
    return found


def test_a_job_runs_again_and_again_and_is_told(impetusd: Instance) -> None:
    impetusd.start(ini(job="command = echo done\nevery = 300ms\n", other="command = true\ncron = 0 3 * * *\n"))

    def ran() -> list[tuple[str, str]]:
        """Without those that were skipped, for on a loaded host the one before still ran."""
        return [each for each in results(impetusd) if not each[1].startswith("skipped")]

    wait_for(lambda: len(ran()) >= 3, "three runs")
    assert set(ran()) == {("schedule", "exit 0")}
    wait_for(lambda: impetusd.log("job-out.log").startswith("done\ndone\ndone\n"), "what they print")

    def between_two_runs() -> list[str] | None:
        table = impetusd.run("timers").out.splitlines()
        return table if "exit 0" in table[1] else None

    table = wait_for(between_two_runs, "a look at the table between two runs")
    assert table[0].split() == ["NAME", "SCHEDULE", "LAST", "NEXT"]
    assert table[1].startswith("job    every 300 ms")
    assert table[2].startswith("other  at 03:00 every day  -")
    assert all(len(line) <= 80 for line in table)


def test_trigger_follows_a_run_and_exits_as_it_does(impetusd: Instance) -> None:
    impetusd.start(ini(job=told(impetusd) + NEVER))
    followed = impetusd.popen("trigger", "job")
    pid = running(impetusd)
    assert row(impetusd)["state"] == "running"
    tell(impetusd, "3 the disk is full")
    result = impetusd.finish(followed, code=3)
    assert result.out == f"{pid}\n"
    lines = result.err.splitlines()
    assert lines[0] == "the disk is full"
    assert lines[1].startswith("job: exit 3 after ")
    assert results(impetusd) == [("trigger", "exit 3")]
    attention = impetusd.run("status", code=None).out
    assert "job failed" in attention
    assert "exit 3" in attention
    tell(impetusd)
    assert impetusd.run("trigger", "job").err.startswith("job: exit 0 after ")
    assert "failed" not in impetusd.run("status").out


def test_trigger_without_waiting_and_refused(impetusd: Instance) -> None:
    impetusd.start(ini(job=told(impetusd) + NEVER, off="command = true\nenabled = no\n" + NEVER))
    impetusd.run("trigger", "job", "--no-wait")
    running(impetusd)
    refused = impetusd.run("trigger", "job", code=1)
    assert refused.err == "impetusd: job was not run: it is still running; wait, or stop it: impetusd stop job\n"
    impetusd.run("trigger", "nosuch", code=4)
    impetusd.run("trigger", "off", "--no-wait", code=1)
    tell(impetusd)
    wait_for(lambda: results(impetusd) == [("trigger", "exit 0")], "the result")


def test_a_job_that_does_not_end_in_time_is_ended_with_its_children(impetusd: Instance) -> None:
    stubborn = f"command = {program('ignore_term')}\ntimeout = 300ms\nkill_timeout = 300ms\n"
    impetusd.start(ini(job=stubborn + NEVER))
    result = impetusd.run("trigger", "job", code=1)
    assert "job: timed out after 300 ms after " in result.err
    assert results(impetusd) == [("trigger", "timed out after 300 ms")]
    status = impetusd.status()
    assert sorted(each.pid for each in impetusd.members()) == sorted([status.shim, status.supervisor])


def test_failures_are_tried_again(impetusd: Instance) -> None:
    impetusd.start(ini(job=f"command = sh -c 'exit 4'\nretries = 2\nretry_delay = 50ms\n{NEVER}"))
    impetusd.run("trigger", "job", code=4)
    wait_for(lambda: len(results(impetusd)) == 3, "two retries")
    assert results(impetusd) == [("retry", "exit 4"), ("retry", "exit 4"), ("trigger", "exit 4")]
    assert row(impetusd)["state"] == "waiting"


def test_queue_runs_one_after_the_other(impetusd: Instance) -> None:
    impetusd.start(ini(job=f"{told(impetusd)}overlap = queue\n{NEVER}"))
    impetusd.run("trigger", "job", "--no-wait")
    first = running(impetusd)
    second = impetusd.popen("trigger", "job")
    wait_for(lambda: row(impetusd)["state"] == "queued", "the second to be queued")
    assert "another run is queued" in impetusd.run("trigger", "job", code=1).err
    tell(impetusd, 1)
    wait_for(lambda: running(impetusd) != first, "the second")
    tell(impetusd, 2)
    impetusd.finish(second, code=2)
    assert results(impetusd) == [("trigger", "exit 2"), ("trigger", "exit 1")]


def test_replace_ends_the_one_that_runs(impetusd: Instance) -> None:
    impetusd.start(ini(job=f"{told(impetusd)}overlap = replace\n{NEVER}"))
    impetusd.run("trigger", "job", "--no-wait")
    first = running(impetusd)
    second = impetusd.popen("trigger", "job")
    wait_for(lambda: running(impetusd) != first, "the second")
    assert census.read(first) is None
    tell(impetusd)
    impetusd.finish(second)
    assert results(impetusd) == [("trigger", "exit 0"), ("trigger", "stopped: replaced by the next run")]


def test_a_job_outlives_the_supervisor_and_its_result_is_noted(impetusd: Instance) -> None:
    impetusd.start(ini(job=told(impetusd) + NEVER))
    impetusd.run("trigger", "job", "--no-wait")
    pid = running(impetusd)
    impetusd.kill(impetusd.status().supervisor)
    assert row(impetusd)["state"] == "running"
    assert running(impetusd) == pid
    status = impetusd.status()
    impetusd.kill(status.supervisor)
    tell(impetusd, 5)  # it ends while nobody is there, or just after
    wait_for(lambda: results(impetusd) == [("trigger", "exit 5")], "the result")
    assert impetusd.log("job-out.log") == f"{pid}\n"


def test_runs_are_not_lost_nor_doubled_while_supervisors_are_killed(impetusd: Instance) -> None:
    impetusd.start(ini(job="command = echo done\nevery = 200ms\n"))
    for _ in range(5):
        before = len(impetusd.log("job-out.log"))
        wait_for(lambda before=before: len(impetusd.log("job-out.log")) > before, "a run")
        impetusd.kill(impetusd.status().supervisor)
    before = len(impetusd.log("job-out.log"))
    wait_for(lambda: len(impetusd.log("job-out.log")) > before, "a run after the last death")
    runs = row(impetusd)["runs"]
    assert {run["why"] for run in runs} == {"schedule"}
    assert len({run["at"] for run in runs}) == len(runs)


def test_history_and_grid_survive_a_stop_and_a_missed_run_is_made_up_for_once(impetusd: Instance) -> None:
    jobs = ini(job="command = true\ncron = 0 * * * *\ncatch_up = yes\n", lazy="command = true\ncron = 0 * * * *\n")
    impetusd.start(jobs)
    impetusd.run("trigger", "job")
    impetusd.run("stop")
    path = impetusd.root / "var" / "lib" / "state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    for name, text in state["timers"].items():  # as if it had been down for a day
        record = json.loads(text)
        state["timers"][name] = json.dumps({**record, "seen": record["seen"] - 86400})
    path.write_text(json.dumps(state), encoding="utf-8")
    impetusd.run("start")
    wait_for(lambda: len(results(impetusd)) == 2, "the run that is made up for")
    wait_for(lambda: row(impetusd)["state"] == "waiting", "its end")
    assert results(impetusd) == [("catch-up", "exit 0"), ("trigger", "exit 0")]
    assert [why for why, _ in results(impetusd, "lazy")] == ["schedule"]
    assert results(impetusd, "lazy")[0][1].startswith("skipped: missed")


def test_everything_that_a_job_prints_is_shown(impetusd: Instance) -> None:
    impetusd.start(ini(job="command = seq 1 300000\n" + NEVER))
    for _ in range(3):
        assert impetusd.run("trigger", "job").out == "".join(f"{number}\n" for number in range(1, 300001))


def test_stop_ends_what_runs_and_starts_nothing_more(impetusd: Instance) -> None:
    slow = f"[program:slow]\ncommand = {program('slow_stop', 0.5, impetusd.root / 'stopped')}\nwait_ready = yes\n"
    quick = ini(quick="command = true\nevery = 50ms\n")
    impetusd.start(slow + quick + ini(job="command = sleep 300\nevery = 100ms\noverlap = queue\n"))
    wait_for(lambda: row(impetusd)["state"] == "queued", "one that runs and one that waits")
    impetusd.run("stop")
    assert impetusd.members() == []
    since = impetusd.log().partition("slow:0: STOPPING")[2]
    assert "slow:0: STOPPED" in since
    assert "STARTING" not in since


def test_without_a_daemon_a_timer_is_known_and_so_is_its_log(impetusd: Instance) -> None:
    impetusd.write("[timer:job]\ncommand = true\nevery = 1d\nout_file = own.log\n")
    impetusd.write("it ran\n", "own.log")
    assert impetusd.run("logs", "job").out == "it ran\n"
    refused = impetusd.run("start", "job", code=2)
    assert refused.err == "impetusd: job is a timer; to run it now: impetusd trigger job\n"
