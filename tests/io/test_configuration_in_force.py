"""The configuration that is in force, read again by the next supervisor on a host that has changed since."""

from __future__ import annotations

import json

import pytest

from impetusd.core.problem import ConfigError
from impetusd.supervisor.applying import Configuration

TEXT = """
[impetusd]
viewers = nosuchuser, @nosuchgroup
[program:p]
command = true
"""


def remembered(text: str) -> str:
    return json.dumps({"text": text, "environ": {}, "disabled": []})


def test_users_that_are_unknown_are_a_mistake_of_a_new_file():
    with pytest.raises(ConfigError, match="nosuchuser"):
        Configuration("/srv/x.ini", remembered(TEXT), in_force=False)


def test_and_no_reason_to_end_what_runs():
    found = Configuration("/srv/x.ini", remembered(TEXT), in_force=True)
    assert list(found.at(0).units) == ["p"]
    assert found.at(0).access.viewers == ("nosuchuser", "@nosuchgroup")
