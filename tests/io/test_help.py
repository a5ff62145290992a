"""The documentation: its commands and INI blocks are those of this version, and a terminal of 80 columns has room for it."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import click
import pytest

from impetusd.cli import app
from impetusd.cli import help as help_command
from impetusd.cli.install import reference

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "impetusd" / "help"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = {name: (FOLDER / name).read_text(encoding="utf-8") for name in PAGES} | {"README.md": README}


def blocks(kind):
    for name, text in TEXTS.items():
        for number, (found, body) in enumerate(BLOCK.findall(text)):
            if found == kind:
                yield pytest.param(body, id=f"{name}-{number}")


def typed():
    """Each command of ours that a text shows on a line of its own: its words."""
    for text in TEXTS.values():
        for line in text.splitlines():
            if not re.match(r"    (\$ )?(\.venv/bin/)?impetusd (?!started;)", line):
                continue
            lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            for _, words in itertools.groupby(lexer, key=lambda word: set(word) <= set("();<>|&")):
                command = list(words)
                if command[0].endswith("impetusd") and len(command) > 1:
                    yield command[1:]


@pytest.mark.parametrize("text", list(blocks("ini")))
def test_an_ini_block_is_one_that_check_accepts(cli, paths, text):
    Path(paths.conf).write_text(text, encoding="utf-8")
    code, out, _ = cli("check")
    assert code == 0, out


def test_a_command_is_one_of_this_version():
    top = click.Context(app.cli, info_name="impetusd")
    commands = list(typed())
    assert commands
    for words in commands:
        if words[0] in {"-c", "--conf"}:
            words = words[2:]
        if words[0].startswith("-"):
            continue
        command = app.cli.get_command(top, words[0])
        assert command is not None, words
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
        before = itertools.takewhile(lambda word: word != "--", words[1:])
        assert {word.partition("=")[0] for word in before if re.match(r"--?[a-z]", word)} <= known, words


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_terminal(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    tables = ("|", "http")
    assert [line for line in text.splitlines() if len(line) > 80 and not line.startswith(tables)] == []
    assert text.startswith("# ")


def test_the_reference_is_what_the_program_is_now():
    text = (FOLDER / "reference.md").read_text(encoding="utf-8")
    assert text == reference.page(), "run: python -m impetusd.cli.install.reference impetusd/help"


def test_links_between_pages_lead_somewhere():
    for name, text in TEXTS.items():
        base = ROOT if name == "README.md" else FOLDER
        for target in re.findall(r"\]\(([^)#]+)", text):
            assert target.startswith("http") or (base / target).exists(), f"{name}: {target}"


def test_help_lists_the_pages_and_shows_one(cli):
    code, out, _ = cli("help")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[: len(PAGES)]] == [name.removesuffix(".md") for name in PAGES]
    assert cli("help", "faq") == (0, help_command.text("faq"), "")


def test_help_shows_that_of_a_command(cli):
    code, out, _ = cli("help", "reload")
    assert (code, out.startswith("Usage: impetusd reload")) == (0, True)


def test_what_is_neither_is_told(cli):
    code, _, err = cli("help", "nonsense")
    assert code == 2
    assert "'nonsense' is not one of" in err
