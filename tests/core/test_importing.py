"""What an import reads of literal JavaScript, JSON, INI text and YAML, and what the writer makes of a model."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from impetusd.core.config import habits, ini, schema
from impetusd.interop.importing import gunicorn_keys, inifile, literal, modules, node, tables, writer, yamltext
from impetusd.interop.importing.model import (
    Fate,
    Imported,
    ImportFault,
    Program,
    reference,
    resolve,
    seconds,
    shown,
    unit_name,
)
from impetusd.interop.importing.scanner import Dynamic, Object

FILE = "/srv/app/ecosystem.config.js"


def exported(text):
    return modules.parse_module(text, FILE)[0]


class TestLiterals:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (
                "{a: 1, 'b-c': [true, null, -2.5, 0x10, 1_000,], d: `x`,}",
                {"a": 1, "b-c": [True, None, -2.5, 16, 1000], "d": "x"},
            ),
            ("'it\\'s ' + \"\\u00e9\\x41\" + 3", "it's éA3"),
            ("__dirname + '/x'", "/srv/app/x"),
            ("5 * 1024 * 1024 - 1", 5242879),
            ("(1 + 2) / 2", 1.5),
            ("[...['a'], 'b']", ["a", "b"]),
            ("{...{a: 1, b: 2}, b: 3}", {"a": 1, "b": 3}),
            ("undefined || 'x'", "x"),
            ("0 ?? 7", 0),
            ("!0", True),
            ("Number('12')", 12),
        ],
    )
    def test_a_value(self, text, value):
        assert exported(f"module.exports = {text}") == value

    def test_constants_and_modules_that_compute_paths(self):
        text = """
        #!/usr/bin/env node
        'use strict';
        const path = require('path'), { join: glue } = require('node:path')
        const base = { cwd: path.join(__dirname, 'app', '..', 'web'), logs: path.resolve('logs') } // where it is
        /** @type {import('pm2').StartOptions} */
        module.exports = { apps: [{ ...base, script: glue('a', 'b.js'), cwd2: base.cwd }] };
        """
        app = exported(text)["apps"][0]
        assert app == {"cwd": "/srv/app/web", "logs": "/srv/app/logs", "script": "a/b.js", "cwd2": "/srv/app/web"}
        assert app.lines["script"] == 7

    def test_es_modules(self):
        assert exported("import path from 'path'\nimport { join } from 'node:path'\nexport default { a: join('x', 'y'), b: path.dirname('/q/r') }") == {"a": "x/y", "b": "/q"}  # fmt: skip

    def test_variables_of_the_environment_become_references(self):
        found = exported(
            "module.exports = { a: process.env.PORT || 3000, b: `http://${process.env.HOST}:1`, c: process.env['KEY'] ?? '' }"
        )
        assert {key: shown(value) for key, value in found.items()} == {
            "a": "${PORT:-3000}",
            "b": "http://${HOST:-}:1",
            "c": "${KEY:-}",
        }

    def test_dotenv_is_noticed(self):
        assert modules.parse_module("require('dotenv').config(); module.exports = {}", FILE)[1]

    @pytest.mark.parametrize(
        "text",
        [
            "module.exports = () => ({})",
            "module.exports = { a() { return 1 } }",
            "module.exports = require('./other')",
            "module.exports = process.env.X ? 1 : 2",
            "for (;;) {}",
            "module.exports = os.cpus().length",
            "const x = { a: f(1) }; module.exports = x",
        ],
    )
    def test_what_computes_is_not_guessed(self, text):
        with pytest.raises(Dynamic):
            exported(text)

    @pytest.mark.parametrize("text", ["{'a': 'b", '{"a": }', "[" * 500, "{a: 1} x", "{,}", ""])
    def test_what_is_no_value_is_said_with_its_line(self, text):
        with pytest.raises(ImportFault):
            literal.parse_value(text, FILE)

    def test_what_doubles_and_doubles_is_refused(self):
        text = "const a0 = 'x'\n" + "".join(f"const a{n + 1} = a{n} + a{n}\n" for n in range(40))
        with pytest.raises(ImportFault):
            exported(text + "module.exports = a40")

    @settings(max_examples=150, deadline=None)
    @given(st.text(alphabet="{}[]():,.'\"`$\\/*+-|?!= \nabcmodule.exports=process.env_dirname0123"))
    @example("module.exports = `${`${`")
    def test_nothing_else_is_raised(self, text):
        for how in (modules.parse_module, literal.parse_value):
            for each in (text, f"module.exports = {text}"):
                try:
                    how(each, FILE)
                except (ImportFault, Dynamic):
                    pass


class TestIniText:
    TEXT = """[DEFAULT]
user = app
[program:x]
Command = /bin/x --a=1 ; a comment
    --b   # another
environment=A="1;2",
  B="3"

autostart : false
autostart = true
[program:y]
command=y
[program:x]
numprocs=2
"""

    def test_it_is_read_as_supervisord_reads_it(self):
        theirs = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
        theirs.read_string(self.TEXT)
        ours = inifile.read(self.TEXT, "f")
        for section in theirs.sections():
            assert {key: value.text for key, value in ours.values(section).items()} == dict(theirs[section])
        assert ours.found["program:x"]["numprocs"].line == 14

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                ["[a]", "[b]", "k = v", "  more ; x", "", "k: w", "#c", "k", "\tx # y", "[a] z", " = x", "K=1"]
            ),
            max_size=12,
        )
    )
    def test_of_any_text_it_is_what_configparser_finds(self, lines):
        text = "\n".join(lines)
        theirs = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
        try:
            theirs.read_string(text)
        except (configparser.Error, AttributeError):
            return  # and ours may raise its own error
        try:
            ours = inifile.read(text, "f")
        except ImportFault:
            return
        assert {name: {key: each.text for key, each in ours.values(name).items()} for name in theirs.sections()} == {
            name: dict(theirs[name]) for name in theirs.sections()
        }


class TestYaml:
    def test_scalars_are_those_of_version_1_2(self):
        text = "apps:\n  - &a\n    name: on\n    time: 12:30\n    n: 010\n    yes: true\n    q: '1'\n  - <<: *a\n    name: b\n"
        apps = yamltext.parse(text, "f")["apps"]
        assert apps[0] == {"name": "on", "time": "12:30", "n": 10, "yes": True, "q": "1"}
        assert apps[1]["name"] == "b"
        assert apps[1]["q"] == "1"
        assert apps[1].lines["name"] == 9

    @pytest.mark.parametrize("text", ["a: [", "a: b: c", "? [a]\n: b", "\x01", "a: &a [*a, *a]", "- " * 100])
    def test_what_is_none_is_said(self, text):
        with pytest.raises(ImportFault):
            yamltext.parse(text, "f")


class TestTwoRuns:
    def test_what_differs_becomes_a_reference(self):
        plain, marked, notes = Object(), Object(), []
        for key, one, other in (
            ("port", 3000, "\ufdd1PORT\ufdd2\ufdd3"),
            ("url", "http://undefined", "http://\ufdd1HOST\ufdd2\ufdd3"),
            ("same", "x", "x"),
            ("mode", "dev", "prod"),
        ):
            plain.put(key, one, 0)
            marked.put(key, other, 0)
        found = node.merged(plain, marked, notes)
        assert {key: shown(value) for key, value in found.items() if isinstance(value, str)} == {
            "port": "${PORT:-3000}",
            "url": "http://${HOST:-}",
            "same": "x",
            "mode": "dev",
        }
        assert notes == ["mode"]


class TestWriter:
    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.text(alphabet="ab ;#$'\"\\{}=&|%é\t()`-"), min_size=1, max_size=5).filter(
            lambda words: words[0] != ""
        )
    )
    def test_a_command_is_read_back_as_it_was(self, argv):
        text = writer.command(argv)
        value = ini.parse(f"[s]\nk = {text}\n", "")[0][0].entries["k"].value
        assert ini.words(ini.expand(value, {}, {})[0]) == argv

    @settings(max_examples=200, deadline=None)
    @given(st.text(alphabet="ab ;#$'\"\\{}=é\t"), st.text(alphabet="ab1:/ $"))
    def test_so_is_a_value_with_a_reference(self, literal_text, default):
        value = literal_text + reference("PORT", default)
        try:
            text = writer.written(value)
        except ValueError:
            return
        read = ini.unquoted(ini.parse(f"[s]\nk = {text}\n", "")[0][0].entries["k"].value)
        for environ in ({}, {"PORT": "80"}):
            assert ini.joined(ini.expand(read, environ, {})[0]) == resolve(value, environ)

    def test_words_of_a_shell_stay_words(self):
        for argv in (["A=b", "x"], ["x", "&&", "y"], ["exec", "x"], ["x", ">", "y"]):
            program = Program("p", "f", 1, argv=argv)
            imported = Imported("pm2", [program])
            text, problems = writer.without_faults(imported, "/srv/impetusd.ini")
            assert problems == [], text

    def test_a_script_of_several_lines_is_read_back_as_it_was(self):
        argv = ["bash", "-c", "if true\nthen echo '$HOME'; fi\nexec x"]
        program = Program("p", "f", 1, argv=argv, env_pass="A")
        text, problems = writer.without_faults(Imported("supervisord", [program]), "/srv/impetusd.ini")
        assert problems == []
        assert "enabled" not in text

    def test_what_cannot_be_written_is_lost_and_nothing_else(self):
        program = Program(
            "p",
            "f",
            7,
            argv=["x"],
            env={"A": "1\n2", "B": "b", "INSTANCE": "3"},
            keys={"cwd": "/x", "kill_signal": "SIGWHAT"},
        )
        imported = Imported("pm2", [program])
        text, problems = writer.without_faults(imported, "/srv/impetusd.ini")
        assert problems == []
        assert "B = b" in text
        assert "SIGWHAT" not in text
        assert {row.key for row in imported.rows} >= {"A", "INSTANCE", "kill_signal"}

    def test_a_variable_that_is_itself_is_handed_on(self):
        program = Program("p", "f", 1, argv=["x"], env={"TOKEN": reference("TOKEN", "")})
        assert "env_pass = TOKEN" in writer.text_of(Imported("pm2", [program]))

    def test_a_changed_meaning_is_found(self):
        imported = Imported("pm2", [Program("p", "f", 1, argv=["x", "y"], env={"A": "b"}, keys={"cwd": "/x"})])
        text = writer.text_of(imported)
        assert writer.differences(text, "/srv/i.ini", imported) == []
        for old, new in (("x y", "x z"), ("A = b", "A = c"), ("/x", "/y")):
            assert writer.differences(text.replace(old, new), "/srv/i.ini", imported)


def test_names_are_those_that_a_unit_may_have():
    taken = set()
    assert [unit_name(each, taken) for each in ("my app", "my app", "@scope/x", "", "impetusd", "-..é")] == [
        "my-app",
        "my-app-2",
        "scope-x",
        "program",
        "impetusd-1",
        "program-2",
    ]


def test_durations():
    assert [seconds(each) for each in (0, 1.6, 10, 0.0001)] == ["0", "1600ms", "10s", "0"]


@pytest.mark.parametrize("page", sorted(tables.PAGES))
def test_the_help_pages_have_the_tables_of_keys(page):
    text = (Path(tables.__file__).parents[2] / "help" / page).read_text(encoding="utf-8")
    assert text == tables.written(text, page), "run: python -m impetusd.interop.importing.tables impetusd/help"


def test_what_check_says_of_gunicorns_settings_is_what_the_table_says():
    told = {key: habit.ours for key, habit in habits.GUNICORN.items() if habit.ours}
    assert {key: gunicorn_keys.KEYS[key].ours for key in told} == told


def test_every_key_of_ours_in_the_tables_is_one():
    kinds = (schema.POOL, schema.PROGRAM, schema.TIMER, schema.IMPETUSD)
    known = {"", *(key for kind in kinds for key in schema.keys_of(kind))}
    for pages in tables.PAGES.values():
        for rules in pages.values():
            for key, rule in rules.items():
                assert rule.ours in known or rule.ours[:1] == "[" or " of [" in rule.ours, key
                assert rule.why or rule.fate is Fate.KEPT or rule.ours, key
