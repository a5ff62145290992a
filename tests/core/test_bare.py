"""JSON without the module json: the same texts, and the same values."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from impetusd import bare

VALUES = [
    {},
    [],
    "",
    None,
    True,
    1 << 80,
    -0.5,
    1e300,
    float("inf"),
    'é\ud800\n"\\\x00',
    (1, [2, {"a": None}]),
    {"a": {"b": []}, "c": 1.5},
    {1: 2, None: 3, False: 4, 1.5: 5},
]
WRONG = ["", " ", "{", "[1,", '{"a"}', "1 2", "nul", "[1]]", '{"a":1,}', '"\n"', b"\xff", "'a'", "[" * 100_000]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_writes_and_reads_what_json_does(value):
    assert bare.dumps(value) == json.dumps(value)
    assert bare.dumps(value, compact=True) == json.dumps(value, separators=(",", ":"))
    for text in (json.dumps(value), f" \r\n\t{json.dumps(value)}\n ", json.dumps(value).encode()):
        assert repr(bare.loads(text)) == repr(json.loads(text))


@pytest.mark.parametrize("value", [each for each in VALUES if isinstance(each, dict) and "a" in each], ids=repr)
def test_writes_the_same_entry_by_entry(value):
    for many in (0, bare.FEW):
        entries = {"c": {}, 7: [None], 'quo"ted': 1.5, **{f"n{number}": number for number in range(many)}}
        whole = {**value, "list": [1, {"b": "é"}, *range(many)], "dict": entries, "none": None}
        assert bare.dumps_by_entry(whole) == json.dumps(whole, separators=(",", ":"))


@pytest.mark.parametrize("text", WRONG, ids=lambda text: repr(text)[:20])
def test_refuses_what_json_does(text):
    with pytest.raises((ValueError, RecursionError)) as theirs:
        json.loads(text)
    with pytest.raises((ValueError, RecursionError)) as ours:
        bare.loads(text)
    assert isinstance(ours.value, RecursionError) == isinstance(theirs.value, RecursionError)


def test_what_is_wrong_is_refused_where_json_was_never_imported():
    code = (
        "import sys; from impetusd import bare\n"
        f"for text in {WRONG!r}:\n"
        "    try: print('taken:', bare.loads(text))\n"
        "    except (ValueError, RecursionError): pass\n"
        "print('json' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert (said.stdout, said.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    "value", [object(), {"a": {1}}, b"x", {(1, 2): 3}], ids=["object", "set", "bytes", "tuple-key"]
)
def test_writes_nothing_that_json_would_not(value):
    with pytest.raises(TypeError) as theirs:
        json.dumps(value)
    with pytest.raises(TypeError) as ours:
        bare.dumps(value)
    assert str(ours.value) == str(theirs.value)


def test_a_constant_that_is_no_json_can_be_refused():
    def refuse(text):
        raise ValueError(text)

    for text in ("NaN", "[Infinity]", '{"a": -Infinity}'):
        with pytest.raises(ValueError, match=r"NaN|Infinity"):
            bare.loads(text, refuse)


@pytest.mark.parametrize("gone", ["sys.modules['_json'] = None", "import _json; del _json.encode_basestring_ascii"])
def test_where_its_c_half_is_another_json_does(gone):
    code = (
        f"import sys; {gone}; from impetusd import bare; "
        "print(bare.loads(bare.dumps([1, {'a': None}], compact=True)), bare.dumps([1, 2]), 'json' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "[1, {'a': None}] [1, 2] True\n"
