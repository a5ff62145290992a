"""`status`: its exit codes, its short way round click, its table on every kind of screen."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading

import pytest
from fake_supervisor import COMMAND, PONG, ROOT, FakeSupervisor, failed_row, row

from impetusd.cli import main
from impetusd.cli.screen import progress, table
from impetusd.cli.screen.terminal import Screen, coloured, plain, screen_of
from impetusd.core.protocol import FAILED, ProtocolError, progress_line

MAIN = f"import sys; sys.path.insert(0, {ROOT!r}); from impetusd.cli.main import main; code = main()"


def status(*rows):
    return {**PONG, "units": list(rows), "attention": []}


class TestExitCode:
    def test_0_when_all_that_is_wanted_is_up(self, paths, cli):
        off = row("off", want="down", state="STOPPED", pid=None)
        with FakeSupervisor(paths, status=status(row("db"), off)):
            code, out, err = cli("status")
        assert (code, err) == (0, "")
        assert out.endswith("\n1 up, 1 stopped\n")

    def test_1_when_something_is_not(self, paths, cli):
        with FakeSupervisor(paths, status=status(row("db"), failed_row("web:0"))):
            code, out, _ = cli("status")
        assert code == 1
        assert "web:0 is BACKOFF: exit 1; retrying in 3.2 s (3 of 16)\n" in out
        assert out.endswith(f"impetusd -c {paths.conf} why web\n")

    def test_3_when_no_daemon_runs(self, paths, cli):
        code, out, err = cli("status")
        assert (code, out) == (3, "")
        assert err == (
            f"impetusd is not running (no daemon for {paths.conf}); to start it: impetusd -c {paths.conf} start\n"
        )

    def test_4_for_an_unknown_name(self, paths, cli):
        with FakeSupervisor(paths, status=ProtocolError(FAILED, "no unit or slot x", exit=4)):
            assert cli("status", "x") == (4, "", "impetusd: no unit or slot x\n")

    def test_2_for_wrong_usage(self, cli):
        code, _, err = cli("status", "--jsn")
        assert code == 2
        assert "--jsn" in err

    def test_a_broken_configuration_does_not_hide_what_runs(self, paths, cli):
        with open(paths.conf, "a", encoding="utf-8") as file:
            file.write("comand = x\n[nonsense]\n")
        with FakeSupervisor(paths, status=status(row("db"))):
            assert cli("status")[0] == 0


class TestShortWay:
    @pytest.mark.parametrize(
        ("args", "expected"),
        [
            (["status"], (None, False, [])),
            (["status", "web", "db:0"], (None, False, ["web", "db:0"])),
            (["-c", "f", "status", "--json"], ("f", True, [])),
            (["status", "--json", "web", "-c", "f"], ("f", True, ["web"])),
            (["--conf=f", "status"], ("f", False, [])),
        ],
    )
    def test_is_taken_for_a_plain_status(self, args, expected):
        assert main.status_asked(args) == expected

    @pytest.mark.parametrize(
        "args",
        [[], ["start"], ["status", "--help"], ["status", "-c"], ["--json", "status"], ["-c", "f"], ["status", "-x"], ["--", "status"]],
    )  # fmt: skip
    def test_is_left_to_click_otherwise(self, args):
        assert main.status_asked(args) is None

    def test_click_comes_to_the_same(self, paths, cli):
        with FakeSupervisor(paths, status=status(row("db"))) as fake:
            short = cli("status", "db")
            assert cli("status", "--", "db") == short
        assert fake.asked == [("status", {"names": ["db"]})] * 2

    def test_imports_neither_click_nor_asyncio(self, paths):
        code = (
            f"{MAIN}; heavy = {{'click', 'asyncio', 'psutil', 'aiohttp', 'logging', 'subprocess', 'impetusd.cli.app'}}"
        )
        code += "; print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
        with FakeSupervisor(paths, status=status(row("db"))):
            end = subprocess.run(
                [sys.executable, "-S", "-c", code, "-c", paths.conf, "status"],
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
            )
        assert (end.returncode, end.stderr) == (0, "[]\n")
        assert "all" not in end.stdout
        assert "1 up" in end.stdout


def test_json_is_the_answer_with_each_reason_in_one_object(paths, cli):
    cause = {"key": "exit", "facts": {"code": 1}}
    answer = status(row("db"), failed_row("web:0", reason="exit 1", cause=cause), failed_row("old", reason="exit 1"))
    with FakeSupervisor(paths, status=answer):
        code, out, _ = cli("status", "--json")
    told = json.loads(out)
    reasons = [each.pop("reason") for each in told["units"]]
    for each in answer["units"]:
        del each["reason"]
        each.pop("cause", None)
    assert (code, told) == (1, answer)
    assert reasons == [
        {"key": "", "facts": {}, "text": ""},
        {**cause, "text": "exit 1"},
        {"key": "text", "facts": {"text": "exit 1"}, "text": "exit 1"},  # of an older daemon
    ]


@contextlib.contextmanager
def on_terminal(args, columns, environ=None):
    """Run the command on a terminal of that width; gives a function that reads on until it has seen some text, or the end."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *args],
        stdin=follower, stdout=follower, stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "PYTHONUTF8": "1", "NO_COLOR": "", **(environ or {})},
    )  # fmt: skip
    os.close(follower)
    written = b""

    def read(until=None):
        nonlocal written
        try:
            while until is None or until.encode() not in written:
                written += os.read(leader, 65536)
        except OSError:
            assert until is None, written  # EIO: the other side has closed it
        return written.decode()

    stuck = threading.Timer(60, process.kill)
    stuck.start()
    try:
        yield read
        read()
        process.wait()
    finally:
        stuck.cancel()
        process.kill()
        process.wait()
        os.close(leader)


def run_on_terminal(args, columns, environ=None):
    """What the command writes on a terminal of that width."""
    with on_terminal(args, columns, environ) as read:
        return read()


class TestOnATerminal:
    def test_there_are_colours(self, paths):
        with FakeSupervisor(paths, status=status(row("db"))):
            assert "\x1b[32mRUNNING\x1b[0m" in run_on_terminal(["-c", paths.conf, "status"], 80)

    def test_no_color_is_honoured(self, paths):
        with FakeSupervisor(paths, status=status(row("db"))):
            assert "\x1b" not in run_on_terminal(["-c", paths.conf, "status"], 80, {"NO_COLOR": "1"})

    def test_a_terminal_without_utf8_gets_ascii(self, paths):
        environ = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "iso8859-1"}
        with FakeSupervisor(paths, status=status(failed_row("web:0", reason="ein Fehler — schlimm " * 9))):
            out = run_on_terminal(["-c", paths.conf, "status"], 80, environ)
        assert out.isascii()
        assert "-> impetusd" in out
        assert "ValueError: no" in out, "what a failed slot wrote last is shown"

    def test_what_takes_long_is_shown_while_it_lasts_and_leaves_no_trace(self, paths):
        seen = threading.Event()

        def start(_params, send):
            send(progress_line("db", "RUNNING", ""))
            send(progress_line("web:0", "STARTING", "waits for db"))
            assert seen.wait(60)
            return {"ok": True, "units": [row("db"), row("web:0")]}

        with FakeSupervisor(paths, start=start), on_terminal(["-c", paths.conf, "start"], 80) as read:
            shown = read(until="s: 1 done, waiting for web:0 (STARTING: waits for db)")
            seen.set()
            assert "\r\x1b[K" in shown
            assert read(until="all 2 up").rpartition("\r\x1b[K")[2].startswith("\x1b[1mNAME")

    def test_the_line_never_wraps(self):
        live = progress.Live("starting")
        for i in range(100):
            live.hooks.progress({"name": f"web:{i}", "state": "STARTING", "reason": "waits for db"})
        assert len(live.line(4.2)) < 80


ROWS = [
    row("db", uptime_s=3 * 86400 + 4 * 3600, restarts=12, memory_bytes=1300 << 20, cpu_percent=100.0),
    row("web:template", pid=4194304),
    row("web:0"),
    failed_row("web:1"),
    row("a-rather-long-name-of-a-program-that-somebody-chose:12"),
]


class TestTable:
    @pytest.mark.parametrize("width", [80, 79, 60, 40, 30, 20])
    @pytest.mark.parametrize("utf8", [True, False])
    def test_no_line_is_wider_than_the_screen(self, width, utf8):
        lines = table.report(ROWS, Screen(width=width, utf8=utf8), "impetusd")
        assert [line for line in lines if len(line) > width] == []

    def test_80_columns_show_every_column(self):
        header = table.table(ROWS, Screen(width=80))[0]
        assert header.split() == ["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "MEMORY", "CPU"]

    def test_a_cut_name_keeps_its_number(self):
        assert "a-rather-long-name-of-a-…:12" in table.table(ROWS, Screen(width=80))[-1]

    def test_a_pipe_gets_every_name_whole(self):
        assert ROWS[-1]["name"] in table.table(ROWS, Screen())[-1]

    def test_500_failures_do_not_push_the_table_out_of_sight(self):
        rows = [failed_row(f"web:{i}") for i in range(500)]
        lines = table.below(rows, Screen(width=80), "impetusd")
        assert len(lines) < 20
        assert "… and 488 more: impetusd status --json" in lines

    @pytest.mark.parametrize("state", ["FATAL", "RUNNING"])
    @pytest.mark.parametrize("width", [80, 40, 20])
    def test_a_long_reason_is_told_whole_below_its_row(self, state, width):
        reason = " ".join(f"word{i}" for i in range(40))
        rows = [row("db"), row("web", state=state, reason=reason, last_exit=None)]
        lines = table.report(rows, Screen(width=width), "impetusd")
        assert " ".join(" ".join(lines).split()).count(f"web is {state}: {reason}") == 1
        assert max(map(len, lines)) <= width
        assert f"web is {state}: {reason}" in table.report(rows, Screen(), "impetusd")

    def test_long_reasons_do_not_push_the_table_out_of_sight_either(self):
        rows = [failed_row(f"web:{i}", reason="word " * 60) for i in range(500)]
        lines = table.below(rows, Screen(width=80), "impetusd")
        assert len(lines) < 20
        assert "… and 498 more: impetusd status --json" in lines

    def test_what_is_to_be_typed_is_never_cut(self):
        command = f"impetusd -c /srv/{'x' * 80}/impetusd.ini"
        assert f"→ {command} why web" in table.report([failed_row("web:0")], Screen(width=80), command)

    def test_what_a_running_slot_went_through_is_noted(self):
        lines = table.report([row("web:0", reason="killed by SIGKILL; restarted")], Screen(), "impetusd")
        assert lines[-2:] == ["web:0 is RUNNING: killed by SIGKILL; restarted", "1 up"]

    def test_what_has_done_its_work_is_well(self):
        done = row("migrate", state="EXITED", ready=False, pid=None, last_exit={"code": 0})
        lines = table.report([row("a"), row("b"), done], Screen(), "impetusd")
        assert lines[-1] == "all 2 up, 1 done"

    def test_nothing_configured(self):
        assert table.report([], Screen(), "impetusd") == ["nothing is configured to run"]

    def test_not_ready_needs_attention(self):
        assert table.sentence(row("web:0", ready=False)) == "web:0 is RUNNING, but not ready"

    def test_without_a_reason_the_last_end_is_told(self):
        assert table.sentence(failed_row("web:0", reason="", last_exit={"signal": "SIGKILL"})) == (
            "web:0 is BACKOFF: killed by SIGKILL"
        )

    def test_what_a_program_wrote_cannot_steer_the_terminal(self):
        lines = table.report(
            [failed_row("web", reason="\x1b[2Jboo\r\nx", tail=["\x1b]0;t\x07ok"])], Screen(), "i", tails=True
        )
        assert "web is BACKOFF: boox" in lines
        assert "    ok" in lines

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [(None, "-"), (-1, "0s"), (0.9, "0s"), (59, "59s"), (60, "1m"), (754, "12m"), (3600, "1h 0m"), (86399, "23h 59m"), (273600, "3d 4h")],
    )  # fmt: skip
    def test_uptime(self, seconds, shown):
        assert table.uptime(seconds) == shown

    @pytest.mark.parametrize(
        ("size", "shown"),
        [(None, "-"), (0, "0 kB"), (1 << 19, "512 kB"), (48 << 20, "48 MB"), (999 << 20, "999 MB"), (1300 << 20, "1.3 GB"), (300 << 30, "300 GB")],
    )  # fmt: skip
    def test_memory(self, size, shown):
        assert table.memory(size) == shown


class TestScreen:
    @pytest.mark.parametrize(
        "text", ["\x1b[2J", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x1bc", "\x1b(0", "\x07", "\r", "\x9b2J", "\x1b[?1049h", "\x1bP1$r\x1b\\"]
    )  # fmt: skip
    def test_what_steers_a_terminal_is_taken_out(self, text):
        assert plain(f"a{text}b") == "ab"
        assert coloured(f"a{text}b") == "ab"

    def test_colours_may_stay_and_end_with_the_line(self):
        assert coloured("\x1b[31mred") == "\x1b[31mred\x1b[0m"
        assert plain("\x1b[31mred\tx") == "red\tx"

    def test_a_file_is_no_terminal(self, tmp_path):
        with open(tmp_path / "f", "w", encoding="utf-8") as file:
            screen = screen_of(file, {"COLUMNS": "40"})
        assert (screen.width, screen.colour) == (None, False)


class TestEndings:
    def test_nobody_reads_what_click_prints(self):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb") as unread:
            words = [sys.executable, "-c", COMMAND, "--help"]
            end = subprocess.run(words, check=False, stdout=unread, stderr=subprocess.PIPE, timeout=60)
        assert (end.returncode, end.stderr) == (141, b"")

    def test_a_reader_that_leaves_is_no_error(self, paths):
        rows = [row(f"web:{i}") for i in range(2000)]
        with FakeSupervisor(paths, status=status(*rows)):
            words = [sys.executable, "-c", COMMAND, "-c", paths.conf, "status"]
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                process.stdout.readline()
                process.stdout.close()
                told = process.stderr.read()  # that it waits for an answer, perhaps
                assert process.wait(60) == 141
        assert b"Traceback" not in told
        assert b"pipe" not in told.lower()

    def test_ctrl_c_exits_130_without_a_traceback(self, cli, monkeypatch):
        def interrupted(*_args, **_kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr("impetusd.cli.place.find", interrupted)
        assert cli("status") == (130, "", "")
        assert cli("start")[0] == 130

    @pytest.mark.parametrize("closes", ["", "sys.stdout.close(); "])
    def test_what_was_printed_until_a_ctrl_c_is_not_lost(self, closes):
        fails = f"def fails(_):\n print('half a table')\n {closes}raise KeyboardInterrupt\nmain._run = fails\n"
        words = [sys.executable, "-c", COMMAND.replace("main.command()", f"\n{fails}main.command()")]
        end = subprocess.run(words, check=False, capture_output=True, timeout=60)
        assert (end.returncode, end.stdout, end.stderr) == (130, b"half a table\n", b"")

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("words", [["--help"], ["status"]], ids=["by click", "without it"])
    def test_output_that_cannot_be_written_is_one_sentence(self, paths, monkeypatch, words, unbuffered):
        monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
        with FakeSupervisor(paths, status=status(row("web"))), open("/dev/full", "wb") as full:
            words = [sys.executable, "-c", COMMAND, "-c", paths.conf, *words]
            end = subprocess.run(words, check=False, stdout=full, stderr=subprocess.PIPE, timeout=60)
        assert end.returncode == 1
        assert end.stderr == b"impetusd: cannot write the output: No space left on device\n"

    def test_a_name_outside_the_terminals_encoding_is_shown_escaped(self, paths):
        with FakeSupervisor(paths, status=status(row("wéb"))):
            end = subprocess.run(
                [sys.executable, "-c", COMMAND, "-c", paths.conf, "status"],
                check=False, capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": "ascii"},
            )  # fmt: skip
        assert end.returncode == 0
        assert b"w\\xe9b" in end.stdout
