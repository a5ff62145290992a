"""Only `core.rules` decides what becomes of a slot: found in the syntax trees.

Outside of it a slot is blank (`Slot()`), read from its record, or what a function of `core.rules` has returned.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from impetusd.core.rules.lifecycle import Slot

ROOT = Path(__file__).parents[2] / "impetusd"
RULES = ROOT / "core" / "rules"
FIELDS = {each.name for each in fields(Slot)}
# Loading and writing a record: every field by its name, as another version wrote it.
RECORD = ROOT / "supervisor" / "slots" / "record.py"


def name_of(node: ast.expr) -> str:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def decisions(source: str) -> Iterator[str]:
    """What makes a slot, or another one of it: a call of `Slot` with anything, `Slot` handed to what could call it,
    `replace` with a field of it, or with what cannot be seen; and assigning to such a field of a slot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            given = {each.arg for each in node.keywords}
            handed = [*node.args, *(each.value for each in node.keywords)]
            makes = name_of(node.func) == "Slot" and (node.args or node.keywords)
            remakes = name_of(node.func) in {"replace", "__replace__"} and (given & FIELDS or None in given)
            if makes or remakes or any(name_of(each) == "Slot" and each is not node.func for each in handed):
                yield f"{node.lineno}: {ast.unparse(node)}"
            if name_of(node.func) == "__setattr__" and "slot" in ast.unparse(node):
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                of = name_of(target.value) if isinstance(target, ast.Attribute) else ""
                if of == "slot" and isinstance(target, ast.Attribute) and target.attr in FIELDS:
                    yield f"{node.lineno}: {ast.unparse(node)}"


def knows_slots(path: Path) -> bool:
    """Whether it is of the supervisor, which alone has slots, or imports what they are made of."""
    return ROOT / "supervisor" in path.parents or "core.rules.lifecycle" in path.read_text(encoding="utf-8")


def test_only_the_rules_decide_what_becomes_of_a_slot():
    found = {
        str(path.relative_to(ROOT)): told
        for path in sorted(ROOT.rglob("*.py"))
        if RULES not in path.parents and path != RECORD and knows_slots(path)
        if (told := list(decisions(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


def test_a_record_is_loaded_and_not_decided_on():
    """What stands there names no state that it would give a slot."""
    assert sorted(each.partition(": ")[2] for each in decisions(RECORD.read_text(encoding="utf-8"))) == [
        "_made(Slot, slot)",
        "_made(Slot, {'restarts': data['restarts'], 'last_exit': _exit(data['last_exit'], data.get('failed'))})",
        "field(default_factory=Slot)",
        "fields(Slot)",
        "fields(Slot)",
    ]


def test_every_way_to_decide_is_seen():
    for source in (
        "Slot(state=State.FATAL)",
        "lifecycle.Slot(pid=1)",
        "Slot(*given)",
        "replace(entry.slot, want=Want.DOWN)",
        "dataclasses.replace(slot, **changes)",
        "made(Slot, data)",
        "field(default_factory=Slot)",
        "object.__setattr__(entry.slot, 'state', State.FATAL)",
        "entry.slot.state = State.FATAL",
        "slot.restarts += 1",
    ):
        assert list(decisions(source)), source
    for source in (
        "Slot()",
        "entry.rec.slot = places.leaving(slot)",
        "isinstance(entry, Entry)",
        "text.replace('a', 'b')",
        "replace(unit, enabled=False)",
        "before: Slot = entry.slot",
    ):
        assert not list(decisions(source)), source
