"""scripts/bench peers: a row is printed with what is there, what is missing is reported, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts/bench_peers.py"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_row_without_any_peer(tmp_path):
    command = [sys.executable, str(BENCH), "--as-is", "--folder", str(tmp_path / "none"), "--rows", "one"]
    with tempfile.TemporaryDirectory() as scratch:  # a path that is short enough for a socket in it
        env = {**os.environ, "TMPDIR": scratch}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
        assert os.listdir(scratch) == []  # so nothing of it can run: its folder is gone
    assert done.returncode == 0, done.stdout + done.stderr
    for peer in ("supervisor", "circus", "gunicorn", "uvicorn", "granian", "pm2", "runit", "s6"):
        assert f"missing: {peer}: not installed in {tmp_path}/none" in done.stdout
    row = done.stdout.partition("status at 1 program")[2]
    assert float(row.partition("impetusd")[2].split()[0]) > 1
    assert "supervisord  supervisord is not there" in row
    assert "no peer to compare with" in row


def test_one_app_without_any_peer(tmp_path):
    command = [sys.executable, str(BENCH.with_name("bench_apps.py")), "--as-is", "--folder", str(tmp_path / "none")]
    with tempfile.TemporaryDirectory() as scratch:
        env = {**os.environ, "TMPDIR": scratch}
        done = subprocess.run([*command, "--rows", "memory"], capture_output=True, text=True, check=False, env=env)
        assert os.listdir(scratch) == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing: granian: not installed" in done.stdout
    assert "missing: runit" not in done.stdout  # it runs no app
    row = done.stdout.partition("aiohttp: memory of 4 workers")[2]
    assert float(row.partition("impetusd")[2].split()[0]) > 1
    assert "gunicorn     gunicorn is not there" in row


def test_a_row_names_who_is_behind_equal_and_ahead(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH.parent))
    from bench_row import Row

    def fails() -> float:
        raise ValueError("no figure\nat all")

    row = Row("requests/s", "-", max, {"impetusd": 100.0, "slower": 90.0, "as fast": 102.0, "faster": 125.0})
    row.add("none", fails)
    *_, why, verdict = row.show().splitlines()
    assert why.split(maxsplit=1) == ["none", "no figure at all"]
    assert verdict == "    => behind faster (0.80 × its figure); equal to as fast; ahead of slower"
    nothing = Row("failed", "0", min, {"impetusd": 0.0, "also": 0.0, "more": 3.0}).show()
    assert nothing.endswith("=> equal to also; ahead of more")
