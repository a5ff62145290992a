"""Rotated logs: by logrotate in both of its ways and by ourselves, at a pace, and not a line lost, doubled or split."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from instance import COMMAND, Instance, program, wait_for
from smalldisk import small_disk

PACE = 10_000  # lines a second
ROTATIONS = 20


@pytest.fixture
def logrotate() -> str:
    """The real one."""
    found = shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        pytest.skip("logrotate is not installed")
    return found


def parts(path: Path) -> list[bytes]:
    """What is in a log and its rotated files, the oldest first.

    A supervisor that ends between the two may leave a file beside its compressed form, which is whole then.
    """
    found: dict[int, Path] = {}
    for each in sorted(path.parent.iterdir()):  # o.2 before o.2.gz
        match = re.fullmatch(re.escape(path.name) + r"\.([0-9]+)(\.gz)?", each.name)
        if match:
            found[int(match[1])] = each
    files = [found[number] for number in sorted(found, reverse=True)]
    return [
        *(gzip.decompress(f.read_bytes()) if f.suffix == ".gz" else f.read_bytes() for f in files),
        path.read_bytes(),
    ]


def assert_all_there(pieces: list[bytes], prefix: str) -> None:
    """Every line once, in order, none of them split between two files."""
    assert all(piece.endswith(b"\n") for piece in pieces if piece)
    *lines, last = b"".join(pieces).decode().splitlines()
    words = last.split()
    assert words[:2] == [prefix, "end"]
    assert lines == [f"{prefix} {number}" for number in range(int(words[2]))]


def rotate(impetusd: Instance, logrotate: str, keys: str) -> None:
    """Have logrotate rotate, again and again, while lines come."""
    log = impetusd.root / "var" / "log"
    conf = impetusd.write(f'"{log}/torrent-out.log" {{\nrotate 100\n{keys}\n}}\n', "logrotate.conf")
    conf.chmod(0o600)
    for _ in range(ROTATIONS):
        before = (log / "torrent-out.log").stat().st_size
        wait_for(lambda before=before: (log / "torrent-out.log").stat().st_size > before, "more lines")
        subprocess.run(
            [logrotate, "-f", "-s", impetusd.root / "logrotate.state", conf],
            check=True,
            env=impetusd.environ,
            timeout=60,
        )


def start(impetusd: Instance, keys: str = "") -> Path:
    impetusd.start(f"[program:torrent]\ncommand = {program('torrent', 'line', PACE)}\nwait_ready = yes\n{keys}\n")
    path = impetusd.root / "var" / "log" / "torrent-out.log"
    wait_for(lambda: path.exists() and path.stat().st_size, "lines")
    return path


def test_logrotate_with_create_and_reopen_logs(impetusd: Instance, logrotate: str) -> None:
    path = start(impetusd)
    reopen = f"{COMMAND[0]} -c {impetusd.conf} reopen-logs"
    rotate(impetusd, logrotate, f"create\npostrotate\n{reopen}\nendscript")
    impetusd.run("stop")
    found = parts(path)
    assert len(found) == ROTATIONS + 1
    assert_all_there(found, "line")


@pytest.mark.parametrize("way", ["--copytruncate", ""])
def test_what_impetusd_prints_for_logrotate_is_right(impetusd: Instance, logrotate: str, way: str) -> None:
    """Outside of log_dir, and with a unit that rotates itself beside it, whose files are left alone."""
    path = impetusd.root / "var" / "log" / "elsewhere.txt"
    impetusd.start(f"""
[program:torrent]
command = {program("torrent", "line", PACE)}
wait_ready = yes
out_file = {path}
[program:own]
command = {program("torrent", "own", 100)}
wait_ready = yes
log_max_size = 1G
""")
    conf = impetusd.write(impetusd.run("logrotate", *filter(None, [way])).out, "logrotate.conf")
    conf.chmod(0o600)
    state = impetusd.root / "logrotate.state"
    for _ in range(3):
        before = path.stat().st_size if path.exists() else 0
        wait_for(lambda before=before: path.exists() and path.stat().st_size > before, "more lines")
        done = subprocess.run(
            [logrotate, "-f", "-s", state, conf], env=impetusd.environ, timeout=60, capture_output=True, check=True
        )
        assert (done.stdout, done.stderr) == (b"", b"")
    impetusd.run("stop")
    found = parts(path)
    assert len(found) == 4
    assert not any(b"\0" in piece for piece in found)
    if not way:
        assert_all_there(found, "line")
    assert len(parts(path.with_name("own-out.log"))) == 1
    assert len(parts(path.with_name("impetusd.log"))) > 1


def test_logrotate_that_compresses_at_once(impetusd: Instance, logrotate: str) -> None:
    """Compressed at once: what was written to the old file after reopen-logs returned would be lost."""
    path = start(impetusd)
    rotate(impetusd, logrotate, f"create\ncompress\npostrotate\n{COMMAND[0]} -c {impetusd.conf} reopen-logs\nendscript")
    impetusd.run("stop")
    assert_all_there(parts(path), "line")


def test_logrotate_with_copytruncate_leaves_no_hole(impetusd: Instance, logrotate: str) -> None:
    path = start(impetusd)
    rotate(impetusd, logrotate, "copytruncate")
    impetusd.run("stop")
    found = parts(path)
    assert len(found) == ROTATIONS + 1
    assert not any(b"\0" in piece for piece in found)


def test_a_renamed_file_is_noticed_without_being_told(impetusd: Instance) -> None:
    path = start(impetusd)
    path.rename(f"{path}.1")
    wait_for(lambda: path.exists() and path.stat().st_size, "a new file")
    impetusd.run("stop")
    assert_all_there(parts(path), "line")


def test_sigusr2_has_the_daemon_open_its_files_anew(impetusd: Instance) -> None:
    """Sent to the daemon or to its supervisor. Nothing is printed meanwhile, so nothing but the signal can be the cause."""
    status = impetusd.start("[program:quiet]\ncommand = sh -c 'echo first; exec sleep 300'\nmin_uptime = 0\n")
    path = impetusd.root / "var" / "log" / "quiet-out.log"
    wait_for(lambda: path.exists() and path.read_text() == "first\n", "the line")
    for number, pid in enumerate((status.shim, status.supervisor)):
        path.rename(f"{path}.{number}")
        impetusd.kill(pid, signal.SIGUSR2)
        wait_for(path.exists, "the new file")
        assert path.read_text() == ""
    assert impetusd.settle().pids == status.pids


def test_a_flood_through_rotation_of_our_own(impetusd: Instance) -> None:
    count = 2_000_000
    impetusd.start(f"""
[program:flood]
command = {program("numbers", "line", count)}
autorestart = never
log_max_size = 1M
log_keep = 1000
""")
    impetusd.wait_state("flood", "EXITED")
    path = impetusd.root / "var" / "log" / "flood-out.log"
    last = f"line {count - 1}\n"
    wait_for(lambda: impetusd.log(path.name).endswith(last), "the last line")  # it may be renamed at any moment
    impetusd.run("stop")
    found = parts(path)
    assert len(found) > 20
    assert all(len(piece) <= 1 << 20 for piece in found)
    assert all(piece.endswith(b"\n") for piece in found)
    assert b"".join(found) == b"".join(b"line %d\n" % number for number in range(count))


def test_rotation_goes_on_over_killed_supervisors(impetusd: Instance) -> None:
    path = start(impetusd, "log_max_size = 20K\nlog_keep = 1000")
    for _ in range(5):
        before = len(parts_there(path))
        wait_for(lambda before=before: len(parts_there(path)) > before + 2, "rotations")
        impetusd.kill(impetusd.status().supervisor)
    impetusd.run("stop")
    assert_all_there(parts(path), "line")


def parts_there(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}*"))


def test_following_over_rotation(impetusd: Instance) -> None:
    path = start(impetusd, "log_max_size = 200K\nlog_keep = 1000\nlog_compress = no")
    following = impetusd.popen("logs", "-f", "-n", "0", "--grep", "^line [0-9]+$", "torrent")
    assert following.stdout is not None
    first = int(following.stdout.readline().split()[-1])
    before = len(parts_there(path))
    number = first
    while len(parts_there(path)) < before + 3:
        for _ in range(1000):
            number += 1
            assert following.stdout.readline().endswith(f" line {number}\n")
    following.terminate()
    following.communicate()


def test_logs_reads_rotated_files(impetusd: Instance) -> None:
    impetusd.start(f"""
[program:count]
command = {program("numbers", "line", 2000)}
autorestart = never
time = yes
log_max_size = 5K
log_keep = 1000
""")
    impetusd.wait_state("count", "EXITED")
    wait_for(lambda: "line 1999" in impetusd.log("count-out.log"), "the last line")
    shown = impetusd.run("logs", "-n", "1500", "count").out
    assert [int(line.split()[-1]) for line in shown.splitlines()] == list(range(500, 2000))
    everything = impetusd.run("logs", "--since", "1h", "--grep", "line [0-9]+$", "count").out
    assert [int(line.split()[-1]) for line in everything.splitlines()] == list(range(2000))


def test_flush_empties_the_files(impetusd: Instance) -> None:
    path = start(impetusd)
    wait_for(lambda: path.stat().st_size > 100_000, "a hundred kilobytes")
    impetusd.run("flush", "torrent")
    wait_for(lambda: path.stat().st_size > 0, "lines to come after it")
    impetusd.run("stop")
    text = path.read_text()
    assert "\0" not in text
    assert not text.startswith("line 0\n")


def test_what_a_full_disk_takes_is_counted_and_writing_resumes(impetusd: Instance, as_root: None) -> None:
    """With a supervisor killed while the disk is full."""
    with small_disk(impetusd.root / "disk", "64k", held=True) as disk:
        impetusd.start(
            f"[program:torrent]\ncommand = {program('torrent', 'line', 1000)}\nwait_ready = yes\n"
            "out_file = disk/out.log\nlog_format = json\n"
        )
        sentence = "a log file cannot be written (No space left on device), "
        wait_for(lambda: sentence in impetusd.run("status").out, "the full disk")
        impetusd.kill(impetusd.status().supervisor)
        wait_for(lambda: sentence in impetusd.run("status").out, "the next supervisor to know of it")
        seen = impetusd.status()["torrent"]
        assert seen.dropped_lines > 0
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        impetusd.says("disk/out.log works again")
        before = (disk / "out.log").stat().st_size
        wait_for(lambda: (disk / "out.log").stat().st_size > before, "lines")
        assert sentence not in impetusd.run("status").out
        counted = impetusd.status()["torrent"].dropped_lines
        assert f"dropped     {counted} lines" in impetusd.run("describe", "torrent").out
        impetusd.run("stop")
        lines = [json.loads(line) for line in (disk / "out.log").read_bytes().splitlines()]
    told = [line["line"] for line in lines if line["name"] == "impetusd"]
    dropped = sum(int(re.search(r"bytes, (\d+) lines", text)[1]) for text in told)  # type: ignore[index]
    *kept, last = [line["line"] for line in lines if line["name"] != "impetusd"]
    count = int(last.split()[2])
    numbers = [int(text.split()[1]) for text in kept]
    assert numbers == sorted(set(numbers))
    assert dropped == counted >= seen.dropped_lines
    assert len(kept) + dropped == count
    failures = impetusd.log().count("; dropping output")
    assert failures == impetusd.log().count("disk/out.log works again") == len(told)
