"""`impetusd help`."""

from __future__ import annotations

import os
import sys
from importlib import resources

import click

from impetusd.cli import app


def topics() -> list[str]:
    """The names of the pages of impetusd/help."""
    folder = resources.files("impetusd") / "help"
    return sorted(page.name.removesuffix(".md") for page in folder.iterdir() if page.name.endswith(".md"))


def text(topic: str) -> str:
    """The page, in Markdown."""
    return (resources.files("impetusd") / "help" / f"{topic}.md").read_text(encoding="utf-8")


@click.command(short_help="Show a page of the documentation, or a command's help.")
@click.argument("topic", required=False, metavar="[TOPIC|COMMAND]", type=click.Choice([*topics(), *app.COMMANDS]))
@click.pass_context
def command(ctx: click.Context, topic: str | None) -> int:
    """Show a page of the documentation, or the help of a command. Without TOPIC, list the pages.

    Example: impetusd help deploying
    """
    pages = topics()
    if topic is None:
        width = max(map(len, pages))
        for name in pages:
            print(f"{name:<{width}}  {text(name).split(chr(10), 1)[0].lstrip('# ')}")
        print("\nimpetusd help TOPIC shows a page; impetusd --help lists the commands.")
        return 0
    if topic in pages:
        _show(text(topic))
        return 0
    group = ctx.parent
    assert group is not None  # a command of `cli`
    assert isinstance(group.command, click.Group)
    found = group.command.get_command(group, topic)
    assert found is not None  # it is in the table
    print(found.get_help(click.Context(found, info_name=topic, parent=group, help_option_names=["-h", "--help"])))
    return 0


def _show(page: str) -> None:
    """In the pager where a terminal is too small for it."""
    if sys.stdout.isatty() and page.count("\n") >= os.get_terminal_size(sys.stdout.fileno()).lines:
        click.echo_via_pager(page)
    else:
        print(page, end="")
