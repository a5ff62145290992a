"""The text of an INI file: sections with lines, comments, continuation, `${}` references, words."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impetusd.core.config import ini

# What a broken file is made of: mostly the characters that mean something.
NOISE = st.text(st.sampled_from(list("[]=;#:$\"'\\{}-+ \t\n\r\0abAB01\ufeff\u2028é")), max_size=80)


def read(text):
    sections, problems = ini.parse(text, "f.ini")
    return {s.name: {k: e.value for k, e in s.entries.items()} for s in sections}, [(p.line, p.text) for p in problems]


def expand(text, **environ):
    pieces, complaints = ini.expand(text, environ, {"RUN_DIR": "/run/my app"})
    return ini.joined(pieces), complaints


def words(text, **environ):
    pieces, complaints = ini.expand(text, environ, {"RUN_DIR": "/run/my app"})
    assert not complaints
    return ini.words(pieces)


class TestSections:
    def test_keys_stand_under_their_section_with_their_lines(self):
        (section,), problems = ini.parse("\n[a]\nx = 1\n\ny=2\n", "f.ini")
        assert (section.name, section.file, section.line) == ("a", "f.ini", 2)
        assert [(k, e.value, e.line) for k, e in section.entries.items()] == [("x", "1", 3), ("y", "2", 5)]
        assert problems == []

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("x = 1", "1"),
            ("x=1", "1"),
            ("x = a = b", "a = b"),
            ("x =", ""),
            ("x = a:b%c%(d)s", "a:b%c%(d)s"),
            ("x = 1 ; a comment", "1"),
            ("x = 1\t;a comment", "1"),
            ("x = ; a comment", ""),
            ("x = a;b", "a;b"),
            ("x = 1 # part of the value", "1 # part of the value"),
            ("x = 'a ; b' ; c", "'a ; b'"),
            ('x = "a \\" ; b" ; c', '"a \\" ; b"'),
            ("x = don't ; it's a comment", "don't"),
            ("x = it's 'a ; b", "it's 'a"),
            ("x = a\n  b\n\tc", "a\nb\nc"),
            ("x = a ; one\n  b ; two", "a\nb"),
            ("x = a\n; no part of it\n  ; nor this\n  b", "a\nb"),
            ("x = 'a ;\n  b' ; c", "'a ;\nb'"),
            ("  x = a\n     b\n  ; c", "a\nb"),
        ],
    )
    def test_a_value_is_what_is_neither_key_nor_comment(self, text, value):
        assert read(f"[a]\n{text}\n") == ({"a": {"x": value}}, [])

    def test_indented_keys_are_keys(self):
        assert read("[a]\n  x = 1\n  y = 2\n") == ({"a": {"x": "1", "y": "2"}}, [])

    def test_a_blank_line_ends_a_value(self):
        assert read("[a]\nx = 1\n\n  y = 2\n") == ({"a": {"x": "1", "y": "2"}}, [])

    def test_byte_order_mark_and_carriage_returns_are_no_part_of_anything(self):
        assert read("\ufeff[a]\r\nx = 1\r\n  2\r\n") == ({"a": {"x": "1\n2"}}, [])

    def test_lines_are_counted_as_editors_count_them(self):
        sections, _ = ini.parse("[a]\nx = \x0b\x0c\x85\u2028\ny = 1\n", "f.ini")
        assert sections[0].entries["y"].line == 3

    def test_keys_keep_their_case(self):
        assert read("[env:a]\nPath = 1\nPATH = 2")[0] == {"env:a": {"Path": "1", "PATH": "2"}}

    @pytest.mark.parametrize(
        ("text", "line", "says"),
        [
            ("x = 1", 1, "x comes before the first [section]"),
            ("[a]\nwhat is this", 2, "missing '='"),
            ("[a]\n= 1", 2, "missing key before '='"),
            ("[a\nx = 1", 1, "[a has no closing ]"),
            ("[]\nx = 1", 1, "empty section name"),
            ("[a] x = 1", 1, "unexpected x = 1 after a section header"),
            ("[a]\n[b]\n[a]", 3, "[a] already exists on line 1"),
            ("[a]\nx = 1\nx = 2\n  3", 3, "x is already set on line 2"),
            ("[a]\nx = 1\0", 2, "NUL"),
        ],
    )
    def test_a_mistake_is_told_with_its_line(self, text, line, says):
        (problem,) = read(text)[1]
        assert problem[0] == line
        assert problem[1].startswith(says) or says in problem[1]

    def test_of_a_key_set_twice_the_first_counts(self):
        assert read("[a]\nx = 1\nx = 2\n  3\ny = 4")[0] == {"a": {"x": "1", "y": "4"}}

    def test_a_faulty_header_still_names_its_section(self):
        assert read("[a ; b\nx = 1\n[b] c\ny = 2")[0] == {"a": {"x": "1"}, "b": {"y": "2"}}

    @given(NOISE | st.text(max_size=80))
    @settings(max_examples=300)
    def test_no_text_makes_it_raise(self, text):
        sections, problems = ini.parse(text, "f.ini")
        lines = text.count("\n") + 1
        assert all(1 <= p.line <= lines for p in problems)
        assert all(1 <= e.line <= lines for s in sections for e in s.entries.values())

    @pytest.mark.parametrize(
        "text", ["[a]\nx = " + "' ;" * 100_000, "[a]\nx = " + '"' * 100_000 + " ;", "[\n" * 50_000]
    )
    def test_a_large_file_costs_no_more_than_its_size(self, text):
        ini.parse(text, "f.ini")  # pytest's timeout is the measure: quadratic would be minutes


class TestQuotes:
    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ('" a "', " a "),
            ("'a ; b'", "a ; b"),
            ('""', ""),
            ('"', '"'),
            ("'a' 'b'", "'a' 'b'"),
            ("\"a'", "\"a'"),
            ('{"a": "b"}', '{"a": "b"}'),
            (r'"a\"b"', 'a"b'),
            (r'"C:\\x\y"', r"C:\x\y"),
            (r'"a\\"', "a\\"),
            (r'"a\"', r'"a\"'),
            (r'"a" and \"b"', r'"a" and \"b"'),
            (r"'a\"\\b'", r"a\"\\b"),
        ],
    )
    def test_one_pair_around_the_whole_value_is_dropped(self, written, meant):
        assert ini.unquoted(written) == meant

    @pytest.mark.parametrize(
        ("written", "meant"), [(r'"a\"b"', r'"a\"b"'), (r'"C:\\x"', r"C:\\x"), ("'a b'", "a b"), (r'"a\"', "a\\")]
    )
    def test_under_the_former_rules_a_backslash_is_itself(self, written, meant):
        assert ini.unquoted(written, rules=1) == meant

    def test_a_comment_begins_behind_the_quote_that_closes(self):
        assert read('[a]\nx = "a\\\\" ; b "c"') == ({"a": {"x": '"a\\\\"'}}, [])


class TestReferences:
    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("plain", "plain"),
            ("${A}", "a"),
            ("x${A}y${A}", "xaya"),
            ("${EMPTY}", ""),
            ("${A:-b}", "a"),
            ("${EMPTY:-b}", "b"),
            ("${UNSET:-b}", "b"),
            ("${UNSET:-}", ""),
            ("${A:+b}", "b"),
            ("${EMPTY:+b}", ""),
            ("${UNSET:+b}", ""),
            ("${UNSET:-${A}}", "a"),
            ("${UNSET:-x${ALSO:-y${A}z}}", "xyaz"),
            ("${A:-${UNSET}}", "a"),
            ("${UNSET:+${ALSO}}b", "b"),
            ("$${A}", "${A}"),
            ("$$$$", "$$"),
            ("${UNSET:-$$}", "$"),
            ("a$", "a$"),
            ("$1 $(x) $", "$1 $(x) $"),
            ("${RUN_DIR}/s", "/run/my app/s"),
            ("}", "}"),
        ],
    )
    def test_they_mean_what_they_mean_to_a_shell(self, text, meant):
        assert expand(text, A="a", EMPTY="") == (meant, [])

    def test_built_in_names_come_before_the_environment(self):
        assert expand("${RUN_DIR}", RUN_DIR="/tmp")[0] == "/run/my app"

    @pytest.mark.parametrize(
        ("text", "complaints"),
        [
            ("${B}", ["${B} is not set; set B, or give a default: ${B:-…}"]),
            ("${B}${B}", ["${B} is not set; set B, or give a default: ${B:-…}"]),
            ("${A:+${B}}", ["${B} is not set; set B, or give a default: ${B:-…}"]),
            (
                "${A",
                [
                    "a ${ is never closed by }; write ${NAME}, ${NAME:-default} or ${NAME:+other}; for a literal dollar, write $$"
                ],
            ),
            ("${A:-b", ["${A:- is never closed; add the }"]),
            ("${A:-${B:-", ["${B:- is never closed; add the }"]),
            (
                "${A-b}",
                [
                    "${A… is not a reference; write ${NAME}, ${NAME:-default} or ${NAME:+other}; for a literal dollar, write $$"
                ],
            ),
            (
                "${}",
                [
                    "${… is not a reference; write ${NAME}, ${NAME:-default} or ${NAME:+other}; for a literal dollar, write $$"
                ],
            ),
            (
                "${1}",
                [
                    "${… is not a reference; write ${NAME}, ${NAME:-default} or ${NAME:+other}; for a literal dollar, write $$"
                ],
            ),
            ("$HOME/x", ["$HOME is ambiguous; write ${HOME} for the variable, or $$HOME for a literal dollar"]),
            ("${A:-" * 10_000, ["references are nested more than 20 levels deep; use fewer"]),
        ],
    )
    def test_what_cannot_be_meant_is_told(self, text, complaints):
        assert expand(text, A="a")[1] == complaints

    @given(st.text())
    def test_doubled_dollars_are_the_text_itself(self, text):
        assert expand(text.replace("$", "$$")) == (text, [])

    @given(NOISE | st.text(st.sampled_from(list("${}:-+A_1")), max_size=60))
    @settings(max_examples=300)
    def test_no_text_makes_it_raise(self, text):
        expand(text, A="a")


class TestWords:
    @pytest.mark.parametrize(
        ("text", "argv"),
        [
            ("a b  c", ["a", "b", "c"]),
            ("a 'b c' \"d e\"", ["a", "b c", "d e"]),
            ("a\nb", ["a", "b"]),
            ("sh -c 'exit 1'", ["sh", "-c", "exit 1"]),
            ("a ''", ["a", ""]),
            ("--x=${TWO}", ["--x=1", "2"]),
            ('"${TWO}"', ["1 2"]),
            ("a ${EMPTY} b", ["a", "b"]),
            ('a "${EMPTY}" b', ["a", "", "b"]),
            ("${NASTY}", ["it's", '"', "\\"]),
            ("${EMPTY:+--flag} a", ["a"]),
            ("${TWO:+--flag x} a", ["--flag", "x", "a"]),
            ("--dir ${RUN_DIR}/s ${UNSET:-${RUN_DIR}}", ["--dir", "/run/my app/s", "/run/my app"]),
        ],
    )
    def test_a_command_is_split_as_by_a_shell_and_our_directories_never(self, text, argv):
        assert words(text, TWO="1 2", EMPTY="", NASTY="it's \" \\") == argv

    @given(st.text(st.sampled_from(list("ab \t\n'\"\\")), max_size=30))
    @settings(max_examples=500)
    def test_without_references_it_agrees_with_shlex(self, text):
        def outcome(split):
            try:
                return split(text)
            except ValueError:
                return "refused"

        assert outcome(words) == outcome(shlex.split)
