"""Each problem has a code that stands in CODES with its status: programs rely on it, and the description lists it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

import impetus_service
from impetus_service.kit.problems import CODES, Problem, code_of

SOURCES = sorted(Path(impetus_service.__file__).parent.rglob("*.py"))


def raised() -> Iterator[tuple[str, int, str]]:
    """(where, status, code) of each Problem that is made with constants."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            constants = [argument.value if isinstance(argument, ast.Constant) else None for argument in node.args]
            where = f"{source.name}:{node.lineno}"
            if None in (constants[0:1] or [None]) + constants[2:3]:
                continue
            if node.func.id == "Problem":
                code = constants[2] if len(constants) > 2 else code_of(constants[0])
                yield where, constants[0], code
            elif node.func.id == "unavailable" and len(constants) > 1:
                yield where, 503, constants[1]


RAISED = list(raised())


@pytest.mark.parametrize(("where", "status", "code"), RAISED, ids=[each[0] for each in RAISED])
def test_a_problem_has_a_code_of_its_status(where, status, code):
    assert CODES[code] == status, where


def test_every_code_is_used_and_of_an_error():
    text = "".join(source.read_text() for source in SOURCES)
    used = {code for _, _, code in RAISED}
    for code, status in CODES.items():
        assert HTTPStatus(status) >= 400
        assert code in used or text.count(f'"{code}"') > 1 or code == code_of(status), code


def test_of_another_status_too_there_is_a_code():
    assert (Problem(418, "").code, Problem(501, "").code) == ("bad_request", "internal")
