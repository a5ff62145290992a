"""`timers` and `trigger`: the table on every kind of screen, the job's output and its exit code."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys

import pytest
from fake_supervisor import FakeSupervisor, paths_in

from impetusd.cli import main
from impetusd.cli.screen.terminal import Screen
from impetusd.cli.timers import report
from impetusd.core.protocol import FAILED, ProtocolError

NOW = 1_800_000_000.0


@pytest.fixture
def paths(tmp_path):
    return paths_in(tmp_path)


@pytest.fixture
def cli(paths, monkeypatch, capfdbinary):
    """Run a command in this process; gives (exit code, stdout, stderr)."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["impetusd", "-c", paths.conf, *args])
        code = main.main()
        captured = capfdbinary.readouterr()
        return code, captured.out, captured.err

    return run


def run(ago=7200.0, **changes):
    at = dt.datetime.fromtimestamp(NOW - ago).astimezone().isoformat(timespec="milliseconds")
    own = {"at": at, "duration_s": 12.4, "ok": True, "result": "exit 0", "why": "schedule", "code": 0}
    return own | changes


def row(name="maintenance", **changes):
    own = {
        "name": name,
        "schedule": "0 3 * * *",
        "words": "at 03:00 every day",
        "enabled": True,
        "state": "waiting",
        "next": "2027-01-15T03:00:00+00:00",
        "next_in_s": 11520.0,
        "running_s": None,
        "runs": [run()],
    }
    return own | changes


def lines(*rows, width=80, colour=False):
    return report(rows, Screen(width=width, colour=colour), "impetusd", NOW)


class TestTable:
    def test_what_it_shows(self):
        failed = run(65.0, ok=False, result="exit 3", code=3, duration_s=1.26)
        late = run(ok=False, result="timed out after 5 s", cause={"key": "timed_out"}, duration_s=5.0)
        assert lines(
            row(),
            row("backup", words="every 30 s", state="running", running_s=3.2, next_in_s=27.0),
            row("fails", words="every 1 h", runs=[failed, run()], state="retrying", next_in_s=9.5),
            row("late", runs=[late, run()]),
            row("new", runs=[], next_in_s=0.4),
            row("off", enabled=False, next_in_s=None),
        ) == [
            "NAME         SCHEDULE            LAST                          NEXT",
            "maintenance  at 03:00 every day  exit 0 in 12 s, 1 h ago       in 3 h 12 min",
            "backup       every 30 s          running for 3.2 s             in 27 s",
            "fails        every 1 h           exit 3 in 1.2 s, 1 min ago    retry in 9 s",
            "late         at 03:00 every day  timed out after 5 s, 1 h ago  in 3 h 12 min",
            "new          at 03:00 every day  -                             now",
            "off          at 03:00 every day  exit 0 in 12 s, 1 h ago       off",
            "",
            "→ impetusd why fails late",
        ]

    @pytest.mark.parametrize("width", [60, 80, 100, 200])
    def test_it_fits(self, width):
        words = "at minute 0 past every hour from 9 through 17 on Monday through Friday, Europe/Lisbon"
        result = "skipped: the previous run is still running, and another is queued (12 times)"
        skipped = run(ok=False, result=result, skipped=True, code=None)
        shown = lines(row(words=words, schedule="0 9-17 * * 1-5", runs=[skipped, run()]), row("b"), width=width)
        assert max(map(len, shown)) <= width
        assert (words in shown[1]) == (width == 200)
        assert ("0 9-17 * * 1-5" in shown[1]) == (60 < width < 200)
        assert len(shown) == 3  # to be skipped is no failure

    def test_into_a_pipe_it_keeps_to_80_columns(self):
        shown = lines(row(words="x" * 70), width=None)
        assert max(map(len, shown)) <= 80

    def test_a_failure_is_red(self):
        shown = lines(row(runs=[run(ok=False, result="exit 3")]), colour=True)
        assert "\x1b[31mexit 3" in shown[1]
        assert "\x1b[31m" not in lines(row(), colour=True)[1]

    def test_one_more_that_waits(self):
        assert "running for 1 min, 1 queued" in lines(row(state="queued", running_s=60.0))[1]

    def test_without_timers(self):
        assert lines() == ["no timers are configured"]


class TestTimers:
    def test_a_table(self, paths, cli):
        with FakeSupervisor(paths, timers={"timers": [row()]}):
            code, out, err = cli("timers")
        assert (code, err) == (0, b"")
        assert out.startswith(b"NAME")
        assert b"maintenance  at 03:00 every day  exit 0" in out

    def test_json(self, paths, cli):
        with FakeSupervisor(paths, timers={"timers": [row()]}):
            code, out, _ = cli("timers", "--json")
        assert code == 0
        assert json.loads(out) == {"timers": [row()]}

    def test_without_a_daemon(self, cli):
        code, out, err = cli("timers")
        assert (code, out) == (3, b"")
        assert b"impetusd is not running" in err


class TestTrigger:
    @pytest.fixture
    def files(self, paths):
        os.makedirs(paths.log_dir)
        out, error = f"{paths.log_dir}/job-out.log", f"{paths.log_dir}/job-error.log"
        with open(out, "wb") as file:
            file.write(b"of an earlier run\n")
        return out, error

    @staticmethod
    def answers(files, result, *printed):
        """What the supervisor answers; `printed` is (file, bytes) that the job writes meanwhile."""
        out, error = files

        def trigger(params, send):
            for path, data in printed:
                with open(path, "ab") as file:
                    file.write(data)
            return {"ok": result["ok"], "run": result, "log_files": {"out": out, "error": error}}

        named = [{"name": "job", "stream": "out", "path": out}, {"name": "job", "stream": "error", "path": error}]
        return {"logs": {"files": named}, "trigger": trigger}

    def test_it_prints_what_the_job_prints_and_nothing_older(self, paths, cli, files):
        out, error = files
        printed = [(out, b"one\n\xff\xfe\n"), (error, b"warning\n"), (out, b"unfinished")]
        with FakeSupervisor(paths, **self.answers(files, run(), *printed)) as supervisor:
            code, shown, told = cli("trigger", "job")
        assert (code, shown) == (0, b"one\n\xff\xfe\nunfinished\n")
        assert told == b"warning\njob: exit 0 after 12 s\n"
        assert supervisor.asked == [("logs", {"names": ["job"]}), ("trigger", {"name": "job", "wait": True})]

    def test_one_file_for_both_is_shown_once(self, paths, cli, files):
        out, _ = files
        with FakeSupervisor(paths, **self.answers((out, out), run(), (out, b"one\n"))):
            assert cli("trigger", "job")[1] == b"one\n"

    @pytest.mark.parametrize(
        ("result", "code"),
        [
            (run(ok=False, result="exit 3", code=3), 3),
            (run(ok=False, result="exit 125", code=125), 125),
            (run(ok=False, result="exit 200", code=200), 1),
            (run(ok=False, result="killed by SIGKILL", code=None), 1),
            (run(ok=False, result="timed out after 5 s", code=None), 1),
            (run(ok=True, result="exit 7", code=7), 0),  # one of stop_exit_codes
        ],
    )
    def test_its_exit_code(self, paths, cli, files, result, code):
        with FakeSupervisor(paths, **self.answers(files, result)):
            ended, _, told = cli("trigger", "job")
        assert ended == code
        assert told == f"job: {result['result']} after 12 s\n".encode()

    def test_without_waiting(self, paths, cli):
        with FakeSupervisor(paths, trigger={"ok": True, "run": None, "log_files": {}}) as supervisor:
            code, out, _ = cli("trigger", "job", "--no-wait")
        assert (code, out.startswith(b"job was started")) == (0, True)
        assert supervisor.asked == [("trigger", {"name": "job", "wait": False})]

    def test_a_refusal_is_a_sentence(self, paths, cli):
        refusal = ProtocolError(FAILED, "job was not run: it is still running", exit=1)
        with FakeSupervisor(paths, logs={"files": []}, trigger=refusal):
            assert cli("trigger", "job") == (1, b"", b"impetusd: job was not run: it is still running\n")

    def test_without_a_daemon(self, cli):
        assert cli("trigger", "job")[0] == 3
