"""`impetusd doctor`."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import typing

import click

from impetusd.cli.options import conf_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from impetusd.cli.screen.terminal import Screen
    from impetusd.core.explain.doctor import Finding

WIDTH = 80
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
COLUMN = 20  # where the sentences begin


@click.command(short_help="Examine this host: limits, kernel, ports, disks, permissions, roles.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@conf_option
def command(as_json: bool) -> int:
    """Check this host for current and upcoming problems of impetusd and its programs. Changes nothing.

    Each line is ok, warn or fail; a warning or failure is followed by why it matters and how to fix it. Works whether
    impetusd is running or not; some checks need root. Exits with 0 if nothing fails, otherwise 1.

    Example: impetusd doctor
    """
    from impetusd.cli import facts
    from impetusd.cli.screen.terminal import screen_of
    from impetusd.core.explain import doctor

    at = here()
    findings = doctor.examine(facts.of(at))
    if as_json:
        print(json.dumps(doctor.report(findings), indent=2))
    else:
        print("\n".join(lines(findings, screen_of(sys.stdout, os.environ))))
    return 1 if doctor.worst(findings) == doctor.FAIL else 0


def lines(findings: Sequence[Finding], screen: Screen) -> Iterator[str]:
    """A paragraph each."""
    width = min(WIDTH, screen.width or WIDTH)
    for finding in findings:
        head = f"{finding.level:<5} {finding.subject:<{COLUMN - 6}}"
        first, *rest = _wrapped("", finding.what, width)
        yield screen.paint(head, COLOURS[finding.level]) + first
        yield from (" " * COLUMN + line for line in rest)
        for label, text in (("why", finding.why), ("fix", finding.fix)):
            if text:
                yield from (" " * COLUMN + line for line in _wrapped(f"{label}: ", text, width))
    counts = {level: sum(finding.level == level for finding in findings) for level in COLOURS}
    yield ""
    told = [f"{counts[level]} {level}" for level in ("fail", "warn", "ok") if counts[level]]
    yield ", ".join(told)


def _wrapped(label: str, text: str, width: int) -> list[str]:
    room = max(20, width - COLUMN)
    return textwrap.wrap(
        label + text, room, subsequent_indent=" " * len(label), break_long_words=False, break_on_hyphens=False
    )
