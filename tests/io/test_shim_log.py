"""Where the shim's own log goes. Most tests give it a pipe; a disk that hangs is in tests/system/test_frozen_disk.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WRITES = """
import sys
sys.path.append(sys.argv[1])
from impetusd.shim import log
log.log("first")
log.log("second")
while log.writer():
    log.write_waiting()
"""


def test_every_line_arrives_in_a_file_whose_writer_may_take_as_long_as_it_likes(tmp_path):
    with open(tmp_path / "log", "wb") as file:
        subprocess.run([sys.executable, "-I", "-S", "-c", WRITES, ROOT], stderr=file, check=True)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["shim: first", "shim: second"]
