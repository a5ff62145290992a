"""impetusd/help/reference.md, made from what the programs themselves go by, like the manual pages.

python -m impetusd.cli.install.reference impetusd/help
"""

from __future__ import annotations

import inspect
import textwrap
import typing

import click

from impetusd.cli import app
from impetusd.cli.install import generated, manual
from impetusd.core.config import schema

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WIDTH = 79  # of a line: it is read in terminals of 80 columns
HEAD = """\
# Reference

Every section and key of the INI file, and every command. The manual pages
impetusd(1) and impetusd.ini(5) have the same contents.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield HEAD
    yield "## The INI file\n"
    for paragraph in manual.SYNTAX.strip().split("\n\n"):
        yield _wrapped(paragraph) + "\n"
    yield "### Sections\n"
    for section, meaning in manual.SECTIONS.items():
        yield from _item(f"`{schema.header(section)}`", meaning)
    yield from _item("`[env]`", manual.ENV_OF_ALL)
    yield from _item("`[env:NAME]`", manual.ENV)
    yield from _item("`[env:NAME@PROFILE]`", manual.PROFILE)
    for group in dict.fromkeys(key.group for key in schema.KEYS):
        yield f"\n### Keys: {group}\n"
        for key in schema.KEYS:
            if key.group == group:
                default = f" Default: `{key.default}`." if key.default else ""
                example = f" Example: `{key.example}`." if key.example and not key.default else ""
                sections = " ".join(f"[{each}]" for each in key.sections)
                yield from _item(f"`{key.name}` ({key.value.name}; {sections})", f"{key.doc}{default}{example}")
    yield "\n### Values\n"
    for name, meaning in manual.VALUES.items():
        yield from _item(name, meaning)
    yield "\n## Commands\n"
    yield from _commands()
    for title, table in (
        ("Exit codes", {str(code): meaning for code, meaning in manual.EXITS}),
        ("Environment", manual.VARIABLES),
        ("Signals to the daemon", manual.SIGNALS),
    ):
        yield f"\n## {title}\n"
        for term, meaning in table.items():
            yield from _item(f"`{term}`", meaning)


def _commands() -> Iterator[str]:
    top = click.Context(app.cli, info_name="impetusd", help_option_names=["-h", "--help"])
    for title, names in app.GROUPS.items():
        yield f"### {title}\n"
        for name in names:
            command = app.cli.get_command(top, name)
            assert command is not None  # it is in the table
            ctx = click.Context(command, info_name=name, parent=top)
            yield f"#### impetusd {' '.join([name, *command.collect_usage_pieces(ctx)])}\n"
            for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
                yield _paragraph(paragraph) + "\n"
            options = [each for each in command.get_params(ctx) if isinstance(each, click.Option)]
            records = [each.get_help_record(ctx) for each in options if not {"--conf", "--help"} & set(each.opts)]
            for record in filter(None, records):
                yield from _item(f"`{record[0]}`", record[1])
            if any(records):
                yield ""


def _paragraph(text: str) -> str:
    example = text.removeprefix("Example: ")
    if example != text:
        return f"Example:\n\n{textwrap.indent(example, '    ')}"
    if text.startswith("\b"):
        return textwrap.indent(textwrap.dedent(text.removeprefix("\b\n")), "    ")
    return _wrapped(text)


def _item(term: str, meaning: str) -> Iterable[str]:
    yield textwrap.fill(
        f"- {term}: {' '.join(meaning.split())}", WIDTH, subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    generated.write({"reference.md": page()})
