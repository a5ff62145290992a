"""The configuration that is in force, read again by the next supervisor on a host that has changed since."""

from __future__ import annotations

import json

import pytest

from impetusd.core.config.problem import ConfigError
from impetusd.core.rules.plan import Effect, plan
from impetusd.supervisor.api.configuration import Configuration, read

TEXT = """
[impetusd]
viewers = nosuchuser, @nosuchgroup
[program:p]
command = true
"""


def remembered(text: str, **more: int) -> str:
    return json.dumps({"text": text, "environ": {}, "disabled": [], **more})


def test_users_that_are_unknown_are_a_mistake_of_a_new_file():
    with pytest.raises(ConfigError, match="nosuchuser"):
        Configuration("/srv/x.ini", remembered(TEXT), in_force=False)


def test_and_no_reason_to_end_what_runs():
    found = Configuration("/srv/x.ini", remembered(TEXT), in_force=True)
    assert list(found.at(0).units) == ["p"]
    assert found.at(0).access.viewers == ("nosuchuser", "@nosuchgroup")


MEANT_OTHERWISE = r"""
[program:p]
command = yes | head
  user = x
[env:p]
PW = "a\"b"
"""


def test_what_was_read_by_older_rules_keeps_their_meaning_until_it_is_applied(tmp_path):
    before = Configuration("/srv/x.ini", remembered(MEANT_OTHERWISE), in_force=True)
    assert before.at(0).units["p"].env == {"PW": r'"a\"b"'}
    assert before.at(0).units["p"].command == ("yes", "|", "head", "user", "=", "x")
    assert json.loads(before.with_disabled([])).get("rules") is None
    good = MEANT_OTHERWISE.replace(" | head\n  user = x", "")
    conf = tmp_path / "x.ini"
    conf.write_text(good)
    text = read(str(conf), str(tmp_path), {}, None)
    before = Configuration(str(conf), remembered(good), in_force=True)
    after = Configuration(str(conf), text, in_force=False)
    assert after.at(0).units["p"].env == {"PW": 'a"b'}
    (change,) = plan(before.at, after.at, lambda _: 1)
    assert (change.name, change.effect, [key.name for key in change.keys]) == ("p", Effect.RESTART, ["env PW"])
