"""What the documentation says of the code is made from the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location("state_diagram", Path(__file__).with_name("state_diagram.py"))
assert spec
assert spec.loader
state_diagram = importlib.util.module_from_spec(spec)
spec.loader.exec_module(state_diagram)


def test_the_state_diagram_is_the_machine_that_runs():
    text = state_diagram.PAGE.read_text(encoding="utf-8")
    assert state_diagram.BEGIN in text
    assert state_diagram.renewed(text) == text, "renew it: python tests/core/state_diagram.py"
