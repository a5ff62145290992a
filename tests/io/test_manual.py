"""The manual pages: they are those of these commands and keys, and man shows them without a complaint."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from impetusd import __version__
from impetusd.cli import app
from impetusd.cli.install import completion, manual
from impetusd.core import protocol
from impetusd.core.config import parser, schema
from impetusd.core.config.environment import HANDED_ON
from impetusd.linux.host import this_host

ROOT = Path(__file__).parents[2]
PAGES = manual.pages()


def run(*command, **environ):
    """What a command printed; it must succeed, and say nothing on stderr."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environ}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def shown():
    """A page as `man` shows it, its lines joined."""
    texts = {}

    def show(page):
        if page not in texts:
            text = run("man", "-l", str(ROOT / "conf" / "man" / page), MANWIDTH="100")
            texts[page] = " ".join(text.split())
        return texts[page]

    return show


@pytest.mark.parametrize("page", PAGES)
class TestEveryPage:
    def test_is_what_the_program_is_now(self, page):
        text = (ROOT / "conf" / "man" / page).read_text(encoding="utf-8")
        assert text == PAGES[page], "run: python -m impetusd.cli.install.manual conf/man"

    def test_has_no_fault_for_groff(self, page):
        run("groff", "-man", "-ww", "-z", "-Tutf8", str(ROOT / "conf" / "man" / page))

    def test_has_no_fault_for_man(self, page):
        assert "NAME" in run("man", "--warnings=all", "-l", str(ROOT / "conf" / "man" / page), MANWIDTH="80")

    def test_has_no_fault_for_mandoc(self, page):
        run("mandoc", "-Tlint", "-Wwarning", str(ROOT / "conf" / "man" / page))

    def test_is_found_by_what_it_is_about(self, page):
        """`whatis` and `apropos` read the line under NAME."""
        said = run("lexgrog", str(ROOT / "conf" / "man" / page))
        assert said.split('"')[1].startswith(f"{page[:-2]} - ")


def test_the_changelog_has_this_version_of_this_day():
    """One number and one date, from which the packages, the pages and the tag are made."""
    newest = re.search(r"^## \[([0-9.]+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest.groups() == (__version__, manual.DATE)


class TestCommands:
    @pytest.mark.parametrize("name", app.COMMANDS)
    def test_each_is_there_with_its_options_and_its_example(self, shown, name):
        text = shown("impetusd.1")
        _, found, part = text.partition(f" impetusd {name} ")
        assert found
        command = app.cli.get_command(click.Context(app.cli), name)
        assert all(
            option in text for param in command.params if isinstance(param, click.Option) for option in param.opts
        )
        (example,) = re.findall(r"^Example: (.*)", inspect.cleandoc(command.help), re.MULTILINE)
        assert f"Example: {' '.join(example.split())}" in part
        assert f"impetusd {name}" in example

    def test_every_exit_code_is_explained(self):
        codes = {value for name, value in vars(protocol).items() if name.startswith("EXIT_")}
        assert codes < {code for code, _ in manual.EXITS}

    @pytest.mark.parametrize("name", manual.VARIABLES)
    def test_every_variable_is_one_that_is_read(self, name):
        assert any(
            f'"{name}"' in path.read_text()
            for path in (ROOT / "impetusd" / "cli").rglob("*.py")
            if path.stem != "manual"
        )


class TestIniFile:
    def test_each_key_is_there_with_its_default(self, shown):
        text = shown("impetusd.ini.5")
        for key in schema.KEYS:
            default = f"Default: {key.default}. " if key.default else ""
            example = f"Example: {key.example}. " if key.example else ""
            doc = " ".join(f"{key.doc.replace('`', '')} {default}{example}In [{key.sections[0]}".split())
            assert f"{key.name} = {key.value.name} {doc}" in text

    def test_each_kind_of_value_is_explained(self):
        assert set(manual.VALUES) == {key.value.name for key in schema.KEYS}

    def test_each_section_is_explained(self):
        assert set(manual.SECTIONS) == {section for key in schema.KEYS for section in key.sections}

    def test_the_example_may_be_started(self):
        text = "".join(f"{line}\n" for line in manual.EXAMPLE.splitlines() if not line.startswith("user"))
        assert set(parser.parse(text, "/srv/impetusd.ini", {}, this_host()).units) == {"web", "queue"}

    def test_every_variable_that_is_handed_on_is_named(self):
        named = set(re.findall(r"[A-Z_]{2,}", manual.ENV))
        assert named >= set(HANDED_ON)


@pytest.mark.parametrize(
    "text", ["a-b -c --json", "'it' `x y` \"z\"", ".hidden", "back\\slash", "^caret ~tilde", "Ünïcode … →"]
)
def test_text_is_shown_as_it_is(text, tmp_path):
    page = tmp_path / "t.1"
    page.write_text(f"{manual.head('T', 1)}.SH NAME\nt \\- t\n.SH TEXT\n{manual.literal(text)}", encoding="utf-8")
    assert text in run("man", "--warnings=all", "-l", str(page))


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_the_completion_in_conf_is_what_the_program_prints(shell):
    text = (ROOT / "conf" / "completion" / completion.FILES[shell]).read_text(encoding="utf-8")
    assert text == completion.SCRIPTS[shell], "run: python -m impetusd.cli.install.completion conf/completion"
