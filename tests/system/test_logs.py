"""What programs print: every line once, whatever is killed, however quickly they end."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest
from instance import Instance, pool, program, wait_for


def numbers_in(text: str, prefix: str) -> list[int]:
    """The numbers of the lines "PREFIX n", in the order of the file; each line must be whole."""
    lines = [line.split() for line in text.splitlines()]
    assert all(words[0] == prefix and words[1].isdigit() for words in lines if words[1:2] != ["end"]), text[:200]
    return [int(words[1]) for words in lines if words[1] != "end"]


def test_a_hundred_thousand_lines_and_an_immediate_end_are_kept(impetusd: Instance) -> None:
    impetusd.write(f"""
[program:flood]
command = {program("numbers", "line", 100_000)}
autorestart = never
""")
    impetusd.run("start")
    impetusd.wait_state("flood", "EXITED")
    wait_for(lambda: impetusd.log("flood-out.log").count("\n") >= 100_000, "the last line")
    assert numbers_in(impetusd.log("flood-out.log"), "line") == list(range(100_000))


def test_all_lines_are_in_the_files_when_stop_returns(impetusd: Instance) -> None:
    impetusd.start(f"""
[program:steady]
command = {program("numbers", "line", "500/s")}
wait_ready = yes
""")
    wait_for(lambda: "line 50\n" in impetusd.log("steady-out.log"), "some lines")
    impetusd.run("stop")
    text = impetusd.log("steady-out.log")
    count = int(text.splitlines()[-1].split()[2])  # "line end N"
    assert numbers_in(text, "line") == list(range(count))


@pytest.mark.parametrize("keys", ["", "time = yes"], ids=["plain", "time"])
def test_nothing_is_lost_or_doubled_when_supervisors_are_killed(impetusd: Instance, keys: str) -> None:
    """Whatever it was doing: a chunk that is on its way from the pipe to the file lies in memory that the shim holds."""
    impetusd.start(f"""
[program:steady]
command = {program("torrent", "line", 10_000)}
wait_ready = yes
{keys}
""")
    for _ in range(5):
        seen = impetusd.log("steady-out.log").count("\n")
        wait_for(lambda seen=seen: impetusd.log("steady-out.log").count("\n") > seen + 50, "more lines")
        impetusd.kill(impetusd.status().supervisor)
    assert impetusd.status()["steady"].restarts == 0
    impetusd.run("stop")
    text = impetusd.log("steady-out.log")
    if keys:
        text = "".join(line.split(" ", 1)[1] for line in text.splitlines(keepends=True))
    count = int(text.splitlines()[-1].split()[2])
    assert numbers_in(text, "line") == list(range(count))


def test_what_is_printed_while_nobody_reads_waits_in_the_pipe(impetusd: Instance) -> None:
    status = impetusd.start(f"""
[program:steady]
command = {program("numbers", "line", "500/s")}
wait_ready = yes
""")
    impetusd.kill(status.supervisor, signal.SIGSTOP)
    seen = impetusd.log("steady-out.log").count("\n")
    impetusd.kill(status["steady"].pid, signal.SIGTERM)
    impetusd.kill(status.supervisor)
    wait_for(lambda: "line end" in impetusd.log("steady-out.log"), "the last line of the first run")
    first = impetusd.log("steady-out.log").partition("line end")[0]
    assert numbers_in(first, "line") == list(range(len(first.splitlines())))
    assert len(first.splitlines()) >= seen


def test_each_slot_has_its_files_and_a_promoted_worker_writes_into_its_new_slots(impetusd: Instance) -> None:
    port = impetusd.port()
    impetusd.start(f"[pool:web]\n{pool(port)}")
    before = impetusd.settle()
    wait_for(lambda: impetusd.log("web-standby-out.log") == "context entered\n", "the standby's line")
    impetusd.kill(before["web:0"].pid)
    impetusd.settle(lambda now: now["web:0"].restarts == 1)
    impetusd.run("stop")
    assert impetusd.log("web-0-out.log") == "context entered\ncontext left\n"
    assert impetusd.log("web-standby-out.log") == "context entered\ncontext entered\ncontext left\n"


def test_merged_logs_and_files_of_ones_own(impetusd: Instance) -> None:
    impetusd.start(f"""
[program:many]
command = {program("numbers", "line", "100/s")}
wait_ready = yes
instances = 3
merge_logs = yes
[program:own]
command = {program("exit_with", 0, "so it was")}
autorestart = never
error_file = deep/own.err
""")
    impetusd.run("stop")
    assert impetusd.log("many-out.log").count("line end") == 3
    assert (impetusd.root / "deep" / "own.err").read_text() == "so it was\n"


def test_lines_of_several_programs_in_one_file_are_whole(impetusd: Instance) -> None:
    impetusd.start(f"""
[program:many]
command = {program("torrent", "line", 2000)}
wait_ready = yes
instances = 4
merge_logs = yes
time = yes
""")
    wait_for(lambda: impetusd.log("many-out.log").count("\n") > 5000, "lines")
    impetusd.run("stop")
    text = impetusd.log("many-out.log")
    lines = [
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} line( end)? (\d+)", line)
        for line in text.splitlines()
    ]
    assert all(lines)
    count = sum(int(line[2]) for line in lines if line and line[1])
    assert len(lines) == count + 4


def test_json_lines(impetusd: Instance) -> None:
    impetusd.write(f"""
[program:talk]
command = {program("exit_with", 0, "one", 'with "quotes"')}
autorestart = never
log_format = json
""")
    impetusd.run("start")
    wait_for(lambda: impetusd.log("talk-error.log").count("\n") == 2, "both lines")
    lines = [json.loads(line) for line in impetusd.log("talk-error.log").splitlines()]
    assert [(line["stream"], line["line"]) for line in lines] == [("error", "one"), ("error", 'with "quotes"')]


def test_a_last_line_without_its_end_is_written_when_the_program_ends(impetusd: Instance) -> None:
    impetusd.write("""
[program:raw]
command = printf 'whole\\nhalf'
autorestart = never
time = yes
""")
    impetusd.run("start")
    wait_for(lambda: impetusd.log("raw-out.log").count("\n") == 2, "both lines")
    assert [line.split()[1] for line in impetusd.log("raw-out.log").splitlines()] == ["whole", "half"]


def test_a_removed_log_file_is_not_written_for_ever_into_the_void(impetusd: Instance) -> None:
    """Nor a removed directory: both are made again without anybody's help."""
    impetusd.start(f"""
[program:steady]
command = {program("numbers", "line", "200/s")}
wait_ready = yes
out_file = logs/steady.log
""")
    path = impetusd.root / "logs" / "steady.log"
    wait_for(path.exists, "the log file")
    path.unlink()
    wait_for(path.exists, "the log file to be there again")
    path.parent.rename(impetusd.root / "gone")
    wait_for(path.exists, "its directory to be there again")


def test_bytes_that_are_no_text_are_kept_as_they_are(impetusd: Instance) -> None:
    impetusd.start("""
[program:raw]
command = printf '\\377\\000\\033[31m\\n'
autorestart = never
""")
    path = impetusd.root / "var" / "log" / "raw-out.log"
    wait_for(lambda: path.exists() and path.read_bytes(), "the bytes")
    assert path.read_bytes() == b"\xff\x00\x1b[31m\n"


def test_logs_shows_streams_of_units_and_of_the_daemon(impetusd: Instance) -> None:
    impetusd.start(f"""
[program:talk]
command = {program("exit_with", 0, "one", "two", "three")}
autorestart = never
[program:count]
command = {program("numbers", "line", 30)}
autorestart = never
""")
    wait_for(lambda: "line 29" in impetusd.log("count-out.log"), "all lines")
    wait_for(lambda: "three" in impetusd.log("talk-error.log"), "all lines")
    shown = impetusd.run("logs", "talk").out
    assert all(word in shown for word in ("one", "two", "three"))
    assert "line" not in shown
    last = impetusd.run("logs", "-n", "2", "count").out
    assert "line 29" in last
    assert "line 28" in last
    assert "line 27" not in last
    assert "supervisor: began" in impetusd.run("logs", "-n", "100", "impetusd").out
    everything = impetusd.run("logs", "-n", "100").out
    assert "three" in everything
    assert "line 0" in everything
    impetusd.run("logs", "tlak", code=4)
    impetusd.run("stop")
    assert "three" in impetusd.run("logs", "talk").out  # also with no daemon


def test_logs_can_be_followed(impetusd: Instance) -> None:
    impetusd.start(f"""
[program:steady]
command = {program("numbers", "line", "100/s")}
wait_ready = yes
""")
    following = impetusd.popen("logs", "-f", "-n", "0", "steady")
    assert following.stdout is not None
    first = following.stdout.readline()
    second = following.stdout.readline()
    assert "line" in first
    assert "line" in second
    following.terminate()
    following.communicate()


def test_a_program_of_another_user_may_open_its_standard_streams_by_name(impetusd: Instance) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to run a program as another user")
    impetusd.start("""
[program:server]
command = /bin/sh -c 'echo out >/dev/stdout; echo error >/dev/stderr; exec sleep 1000'
user = nobody
cwd = /
[program:own]
command = /bin/sh -c 'echo error >/dev/stderr; exec sleep 1000'
""")
    for name in ("server-out.log", "server-error.log", "own-error.log"):
        stream = name.rpartition("-")[2].removesuffix(".log")
        wait_for(lambda name=name, stream=stream: impetusd.log(name) == f"{stream}\n", f"a line in {name}")
    impetusd.write(impetusd.conf.read_text().replace("user = nobody\n", ""))  # the slot keeps its pipes
    impetusd.run("apply")
    wait_for(lambda: impetusd.log("server-error.log") == "error\n" * 2, "the line of the next")
