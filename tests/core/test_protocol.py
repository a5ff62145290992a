"""The control protocol: what is accepted, what each wrong line is told, and that nothing outgrows its limits."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impetusd.core import protocol
from impetusd.core.protocol import METHODS, LineBuffer, ProtocolError
from impetusd.core.rules import lifecycle

GOOD_PARAMS = {
    "ping": {},
    "status": {"names": ["web"]},
    "describe": {"name": "web"},
    "places": {"names": ["web"]},
    "logs": {"names": []},
    "start": {"names": ["web"], "wait": False},
    "stop": {"names": []},
    "restart": {"names": ["web:0"], "wait": True, "rolling": True},
    "reload": {"names": ["web"], "canaries": 1, "watch": 60.0, "cancel": False, "token": "t"},
    "watch": {"life": "5eed", "since": 7, "usage": False},
    "search": {
        "names": ["web:0"],
        "streams": ["error"],
        "text": "x",
        "since": 1.5,
        "until": 2.5,
        "limit": 9,
        "before": 1,
        "after": 2,
        "file": "1:2",
        "offset": 7,
    },
    "tail": {"name": "web:0", "stream": "error", "offset": 7, "file": "1:2", "follow": True},
    "health": {},
    "metrics": {},
    "timers": {},
    "trigger": {"name": "maintenance", "wait": True},
    "reopen-logs": {},
    "flush": {"names": ["web"]},
    "scale": {"name": "web", "n": 4, "token": "1f"},
    "events": {"names": ["web"], "after": 7, "since": 1764100000, "last": 20, "wait": True},
    "plan": {"env": "staging", "problems": True},
    "apply": {"token": "1f", "env": "", "conf": "/srv/x.ini"},
    "disable": {"names": ["web"], "token": "1f"},
    "enable": {"names": ["web"], "token": "1f"},
    "env": {"name": "web", "diff": True},
    "exec": {"name": "web", "command": ["env", "-0"]},
    "upgrade": {"token": "1f"},
    "signal": {"names": ["web"], "signal": "HUP"},
    "silence": {"name": "web", "seconds": 3600.0, "why": "maintenance"},
    "unsilence": {"id": "1"},
    "alert-test": {"name": "ops"},
    "give-socket": {"name": "web", "fd": 3},
    "observer-report": {"report": {"undelivered": 0}},
}


def request(**fields):
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", **fields}).encode()


@pytest.mark.parametrize("method", protocol.METHODS)
def test_every_method_passes_from_client_to_supervisor(method):
    parsed = protocol.parse_request(protocol.request_line(7, method, GOOD_PARAMS[method]))
    assert (parsed.id, parsed.method, parsed.params) == (7, method, GOOD_PARAMS[method])


def test_what_is_left_out_takes_its_default():
    assert protocol.parse_request(request(method="start")).params == {"names": [], "wait": True}


def test_a_default_list_is_not_shared():
    protocol.parse_request(request(method="status")).params["names"].append("web")
    assert protocol.parse_request(request(method="status")).params["names"] == []


def test_only_what_acts_anew_each_time_is_not_idempotent():
    assert {name for name, method in protocol.METHODS.items() if not method.idempotent} == {
        "restart",
        "signal",
        "silence",
        "give-socket",
        "alert-test",
        "trigger",
    }


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        (b"{", protocol.PARSE_ERROR, "not JSON"),
        (b"\xff{}", protocol.PARSE_ERROR, "not JSON"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}', protocol.PARSE_ERROR, "NaN"),
        (b"[" * 100_000, protocol.PARSE_ERROR, "nested too deeply"),
        (b"9" * 10_000, protocol.PARSE_ERROR, "not JSON"),
        (b" " * (protocol.MAX_LINE + 1), protocol.PARSE_ERROR, "must not exceed"),
        (b"[]", protocol.INVALID_REQUEST, "batches"),
        (b"null", protocol.INVALID_REQUEST, "object"),
        (request(id=None), protocol.INVALID_REQUEST, "id"),
        (request(id=True), protocol.INVALID_REQUEST, "id"),
        (request(jsonrpc="1.0"), protocol.INVALID_REQUEST, "2.0"),
        (request(method=3), protocol.INVALID_REQUEST, "method"),
        (request(method="reboot"), protocol.METHOD_NOT_FOUND, "reboot"),
        (request(params=[]), protocol.INVALID_PARAMS, "object"),
        (request(params={"x": 1}), protocol.INVALID_PARAMS, "unknown parameter 'x' (allowed: none)"),
        (request(method="status", params={"names": "web"}), protocol.INVALID_PARAMS, "list"),
        (request(method="status", params={"names": [""]}), protocol.INVALID_PARAMS, "name"),
        (request(method="status", params={"names": ["x" * 257]}), protocol.INVALID_PARAMS, "name"),
        (request(method="start", params={"wait": 1}), protocol.INVALID_PARAMS, "true or false"),
        (request(method="scale", params={"name": "web"}), protocol.INVALID_PARAMS, "n is missing"),
        (request(method="scale", params={"name": "web", "n": True}), protocol.INVALID_PARAMS, "whole number"),
        (request(method="scale", params={"name": "web", "n": -1}), protocol.INVALID_PARAMS, "whole number"),
        (request(method="signal", params={"names": [], "signal": "HUP"}), protocol.INVALID_PARAMS, "at least one"),
        (request(method="events", params={"after": -1}), protocol.INVALID_PARAMS, "whole number"),
        (request(method="events", params={"last": 1.5}), protocol.INVALID_PARAMS, "whole number"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(line, code, told):
    with pytest.raises(ProtocolError) as caught:
        protocol.parse_request(line)
    assert caught.value.code == code
    assert told in caught.value.message


def test_deep_nesting_is_refused_before_anything_looks_at_it():
    deep = []
    for _ in range(protocol.MAX_DEPTH):
        deep = [deep]
    with pytest.raises(ProtocolError, match="nested"):
        protocol.parse_request(request(params={"names": deep}))


def test_a_refusal_carries_the_id_of_its_request():
    with pytest.raises(ProtocolError) as caught:
        protocol.parse_request(request(id="seven", method="reboot"))
    assert json.loads(protocol.error_line(caught.value))["id"] == "seven"


def test_the_client_tells_a_wrong_request_without_sending_it():
    with pytest.raises(ProtocolError, match="n must be a whole number"):
        protocol.request_line(1, "scale", {"name": "web", "n": "four"})


def test_units_that_are_no_rows_are_answered_as_they_are():
    told = {"units": {"web": {"where": "x.ini:3", "needs": ["db"]}}}
    assert protocol.parse_answer(protocol.result_line(3, told)).result == told


def test_the_three_answers_are_told_apart():
    progress = protocol.parse_answer(protocol.progress_line("web:0", "STARTING", "waits for db"))
    assert progress.progress == {"name": "web:0", "state": "STARTING", "reason": "waits for db"}
    result = protocol.parse_answer(protocol.result_line(3, {"ok": True}))
    assert (result.id, result.result) == (3, {"ok": True})
    error = protocol.parse_answer(protocol.error_line(ProtocolError(protocol.FAILED, "no unit x", exit=4, id=3))).error
    assert error is not None
    assert (error.code, error.message, error.exit) == (protocol.FAILED, "no unit x", 4)


def test_an_error_without_our_data_fails_plainly():
    error = protocol.parse_answer(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"oops"}}').error
    assert error is not None
    assert error.exit == protocol.EXIT_FAILED


def test_anything_else_is_no_answer():
    with pytest.raises(ProtocolError, match="not a result"):
        protocol.parse_answer(b'{"jsonrpc":"2.0","id":1}')


def test_an_answer_that_outgrows_a_line_loses_the_beginnings_of_tails_only():
    rows = [{"name": f"web:{i}", "tail": [f"{j} {'x' * 200}" for j in range(40)]} for i in range(500)]
    line = protocol.result_line(1, {"version": "1", "units": rows})
    assert len(line) <= protocol.MAX_LINE
    assert protocol.result_line(1, {"version": "1", "units": iter(rows)}) == line  # each row is asked for once
    result = json.loads(line)["result"]
    assert [row["name"] for row in result["units"]] == [row["name"] for row in rows]
    assert result["version"] == "1"
    assert result["units"][0]["tail"][-1].startswith("39 ")
    assert len(rows[0]["tail"]) == 40


def test_an_answer_that_cannot_fit_is_an_error():
    with pytest.raises(ValueError, match="over the limit"):
        protocol.result_line(1, {"blob": "x" * protocol.MAX_ANSWER})


def test_as_many_rows_as_there_are_slots_reach_the_client():
    """Three units of as many instances as `scale` allows; a reader that gets the answer piece by piece."""
    rows = [{"name": f"web:{i}", "reason": "", "tail": ["x"] * 3} for i in range(3 * protocol.MAX_INSTANCES)]
    stream = protocol.result_line(1, {"units": rows})
    assert len(stream) > protocol.MAX_LINE
    buffer, lines = LineBuffer(protocol.MAX_ANSWER), []
    for at in range(0, len(stream), 1 << 18):
        lines += buffer.feed(stream[at : at + (1 << 18)])
    (line,) = lines
    found = protocol.parse_answer(line).result
    assert found is not None
    assert [row["name"] for row in found["units"]] == [row["name"] for row in rows]


@pytest.mark.parametrize(("n", "good"), [("+1", True), ("-3", True), ("+10001", False), ("1", False), ("+", False), ("+²", False), ("+1 ", False)])  # fmt: skip
def test_scale_takes_a_difference(n, good):
    try:
        assert protocol.check_params("scale", {"name": "web", "n": n})["n"] == n
    except ProtocolError:
        assert not good
    else:
        assert good


def test_a_name_that_is_no_unicode_passes():
    assert protocol.parse_answer(protocol.progress_line("\udcff", "RUNNING", "")).progress["name"] == "\udcff"


@given(
    st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=8),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_lines_come_out_as_they_went_in_however_they_are_cut(lines, cuts):
    stream = b"".join(line + b"\n" for line in lines)
    buffer, found, at, i = LineBuffer(), [], 0, 0
    while at < len(stream):
        step = cuts[i % len(cuts)]
        found += buffer.feed(stream[at : at + step])
        at, i = at + step, i + 1
    assert found == lines


def test_an_endless_line_is_refused_before_it_fills_the_memory():
    buffer = LineBuffer()
    buffer.feed(b"x" * (protocol.MAX_LINE - 1))
    with pytest.raises(ProtocolError, match="must not exceed"):
        buffer.feed(b"x")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"want": "up", "state": "RUNNING", "ready": True}, True),
        ({"want": "up", "state": "STARTING", "ready": False}, False),
        ({"want": "up", "state": "BACKOFF", "ready": False}, False),
        ({"want": "up", "state": "FATAL", "ready": False, "last_exit": {"code": 0}}, False),
        ({"want": "up", "state": "EXITED", "ready": False, "last_exit": {"code": 0}}, True),
        ({"want": "down", "state": "STOPPED", "ready": False}, True),
        ({"want": "down", "state": "FATAL", "ready": False}, True),
    ],
)
def test_what_counts_as_wanted(row, expected):
    assert protocol.as_wanted(row) is expected


def test_importing_it_brings_nothing_along():
    code = (
        "import sys, __future__; before = set(sys.modules); import impetusd.core.protocol;"
        "print(*sorted(set(sys.modules) - before))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    c_halves = {"_collections", "_functools", "_json", "_socket"}
    assert set(said) <= c_halves | {"impetusd", "impetusd.bare", "impetusd.core", "impetusd.core.protocol"}


def test_ten_thousand_random_lines_are_requests_or_refused():
    chance = random.Random(5)
    words = [
        "status",
        "names",
        "jsonrpc",
        "2.0",
        "id",
        "method",
        "params",
        "*",
        "\ud800",
        "\0",
        1,
        -1,
        1e308,
        None,
        True,
        [],
        {},
    ]

    def value(depth):
        kind = chance.randrange(6)
        if kind == 0 and depth:
            return [value(depth - 1) for _ in range(chance.randrange(5))]
        if kind == 1 and depth:
            return {str(chance.choice(words)): value(depth - 1) for _ in range(chance.randrange(5))}
        return chance.choice(words)

    for _ in range(10_000):
        message = {
            "jsonrpc": "2.0",
            "id": chance.choice([1, "a", value(1)]),
            "method": chance.choice([*METHODS, value(1)]),
        }
        message["params"] = value(4)
        line = json.dumps(chance.choice([message, value(4)])).encode()
        line = chance.choice([line, line, line[: chance.randrange(len(line) + 1)], chance.randbytes(60)])
        try:
            request = protocol.parse_request(line)
        except ProtocolError as error:
            protocol.error_line(error)
        else:
            assert request.method in METHODS


def test_a_long_command_is_told_as_far_as_there_is_room():
    assert protocol.shortened_command(["psql", "-c", "select 1"]) == ["psql", "-c", "select 1"]
    told = protocol.shortened_command(["echo", *["word"] * 1000])
    assert (told[:2], told[-1]) == (["echo", "word"], "...")
    assert protocol.shortened_command(["x" * 10_000]) == ["..."]
    for words in (told, ["..."], ["", ""]):
        assert protocol.check_params("exec", {"name": "web", "command": words})["command"] == words
    with pytest.raises(ProtocolError):
        protocol.check_params("exec", {"name": "web", "command": ["x" * 10_000]})


def test_a_row_is_idle_in_the_states_in_which_a_slot_is():
    assert {state.name for state in lifecycle.IDLE} == protocol.IDLE
