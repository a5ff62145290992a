"""`add` and `remove` where the daemon refuses, or somebody else is quicker: the file was restored."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_supervisor import FakeSupervisor

from impetusd.core.protocol import FAILED, ProtocolError

OURS = {"kind": "program", "name": "x", "effect": "added", "keys": []}
THEIRS = {"kind": "program", "name": "other", "effect": "restart", "keys": []}
REFUSED = ProtocolError(FAILED, "apply takes the role admin, and yours is viewer: ask for it", 1)


def read(paths):
    return Path(paths.conf).read_text()


def plans(*answers):
    """A handler of `plan` that gives these in turn, and the last one from then on."""
    left = list(answers)

    def answer(_params, _send):
        return {"changes": left.pop(0) if len(left) > 1 else left[0], "problems": []}

    return answer


@pytest.mark.parametrize(
    ("arguments", "name"), [(("add", "--name", "x", "--", "sleep", "9"), "x"), (("remove", "db"), "db")]
)
def test_what_the_daemon_refuses_is_taken_back(paths, cli, arguments, name):
    before = read(paths)
    with FakeSupervisor(paths, plan=plans([], [{**OURS, "name": name}]), apply=REFUSED) as fake:
        code, _, err = cli(*arguments)
    assert (code, err) == (1, f"impetusd: {REFUSED.message}; {paths.conf} was restored\n")
    assert [method for method, _ in fake.asked] == ["plan", "plan", "apply", "plan"]
    assert read(paths) == before


def test_what_somebody_else_changed_in_between_is_not_applied(paths, cli):
    before = read(paths)
    with FakeSupervisor(paths, plan=plans([], [OURS, THEIRS])) as fake:
        code, _, err = cli("add", "--name", "x", "--", "sleep", "9")
    assert code == 1
    assert f"somebody else has just changed {paths.conf}: program:other; see" in err
    assert "apply" not in [method for method, _ in fake.asked]
    assert read(paths) == before


def test_what_is_in_force_stays_whatever_the_answer_was(paths, cli):
    with FakeSupervisor(paths, plan=plans([], [OURS], []), apply=REFUSED):
        code, _, err = cli("add", "--name", "x", "--", "sleep", "9")
    assert (code, err) == (1, f"impetusd: {REFUSED.message}\n")
    assert "[program:x]" in read(paths)


def test_an_edit_of_somebody_else_is_not_undone(paths, cli):
    def refuse(_params, _send):
        with open(paths.conf, "a") as file:
            file.write("; theirs\n")
        raise REFUSED

    with FakeSupervisor(paths, plan=plans([], [OURS]), apply=refuse):
        assert cli("add", "--name", "x", "--", "sleep", "9")[0] == 1
    assert read(paths).endswith("; theirs\n")
