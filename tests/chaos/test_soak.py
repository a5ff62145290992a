"""A minute of `scripts/chaos --soak`: random commands and faults, after each of which everything must be as it should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = Path(__file__).with_name("main.py")
SEED = 12


@pytest.mark.timeout(600)
def test_a_minute_of_random_faults_violates_nothing() -> None:
    paths = os.pathsep.join(
        map(str, (MAIN.parents[2], MAIN.parents[2] / "service", MAIN.parents[1] / "system", MAIN.parent))
    )
    command = [sys.executable, str(MAIN), "--soak", "1", "--seed", str(SEED)]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
