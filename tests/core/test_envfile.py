"""The text of an env_file: what systemd and Docker read in it, and what is refused, with line and reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impetusd.core.config import envfile

PEM = "-----BEGIN X-----\nabc=\ndef\n-----END X-----"
NOISE = st.text(st.sampled_from(list("AB=\"'\\ \t\n\r#;.$`x1\f\0é")), max_size=60)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1", {"A": "1"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=\nB= \n", {"A": "", "B": ""}),
        (" A = b c \r\n", {"A": "b c"}),
        ("# A=1\n; B=1\n\n  # C=1\nD=1", {"D": "1"}),
        ("\ufeffA=1", {"A": "1"}),
        ("discovery.type=single-node\nA-B=1", {"discovery.type": "single-node", "A-B": "1"}),
        ("export A=1\nexport\tB=2\nexport  \t C=3", {"A": "1", "B": "2", "C": "3"}),
        ("export=1", {"export": "1"}),
        ("A=b=c#d # e", {"A": "b=c#d # e"}),
        ("A='b c'\nB=\"b c\"", {"A": "b c", "B": "b c"}),
        ("A=\"b\" # note\nB='b'#note", {"A": "b", "B": "b"}),
        (r'A="a\"b\\c\$d\`e\nf"', {"A": r'a"b\c$d`e\nf'}),
        (r"A='a\"b\\c'", {"A": r"a\"b\\c"}),
        ('A="a\\\\"\nB=1', {"A": "a\\", "B": "1"}),
        (f'A="{PEM}"\nB=1', {"A": PEM, "B": "1"}),
        (f"A='{PEM}'\r\nB=1".replace("\n", "\r\n"), {"A": PEM, "B": "1"}),
        ('A="one \\\ntwo"', {"A": "one two"}),
        ("A=one \\\n  two\\\nthree\nB=1", {"A": "one   twothree", "B": "1"}),
        ("A=C:\\dir\\x", {"A": "C:\\dir\\x"}),
        ("A=x\\", {"A": "x\\"}),
        ('A=\'tis\nB=say "hi"', {"A": "'tis", "B": 'say "hi"'}),
        ("A=a\fb\nB=a\u2028b\x85\x1c\vc", {"A": "a\fb", "B": "a\u2028b\x85\x1c\vc"}),
        ("A=\"\"\nB=''", {"A": "", "B": ""}),
    ],
)
def test_what_systemd_and_docker_read_in_it(text, found):
    assert envfile.parse(text.encode()) == found


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"A=1\nB\n", 2, "missing '='"),
        (b"=1", 1, "missing name before '='"),
        (b"A B=1", 1, "invalid variable name"),
        (b"\n1A=1", 2, "invalid variable name"),
        (b'A="x\ny\nz" w\n', 3, "unexpected text after the closing quote of the value that starts on line 1"),
        (b"A=1\nB='x' y", 2, "unexpected text after the closing quote; put the whole"),
        (b"A=1\nB=x\0y", 2, "a NUL character"),
        (b"A=1\nB=\xff", 2, "not UTF-8 (byte 0xff)"),
        ("A=1".encode("utf-16"), 1, "UTF-16, not UTF-8"),
        (b'A="x\ny"\nB', 3, "missing '='"),
        (b"A=x\\\ny\nB", 3, "missing '='"),
    ],
)
def test_what_is_refused_is_told_with_its_line(data, line, reason):
    with pytest.raises(envfile.Fault) as caught:
        envfile.parse(data)
    assert caught.value.line == line
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("text", "value"),
    [(r'A="a\"b"', r"a\"b"), ("A='tis\nB='twas", "'tis"), ("A=x\\\nB=1", "x\\"), ('A="b"', "b"), ('A="', '"')],
)
def test_what_runs_is_read_by_the_rules_that_it_was_started_by(text, value):
    assert envfile.parse(text.encode(), rules=1)["A"] == value


@given(NOISE)
def test_any_text_is_variables_or_one_fault(text):
    line, found = 1, {}
    try:
        found = envfile.parse(text.encode())
    except envfile.Fault as fault:
        line = fault.line
    assert 1 <= line <= text.count("\n") + 1
    assert all(envfile.is_name(name) and "\0" not in value for name, value in found.items())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ['"', "'", "\\", "A='", 'A="\\"\n', "A=\\\n", "A", "\n", "A='x'\n", '\\"'])
def test_a_long_text_takes_no_time(piece):
    for text in (f'A="{piece * 200_000}', piece * 200_000):
        try:
            envfile.parse(text.encode())  # pytest's timeout is the measure: it would be hours
        except envfile.Fault:
            continue
