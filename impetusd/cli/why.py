"""`impetusd why`."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
import typing

import click

from impetusd.cli.options import conf_option, here, names_argument

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from impetusd.cli.place import Place
    from impetusd.cli.screen.terminal import Screen
    from impetusd.core.explain.finding import Facts, Finding
    from impetusd.core.explain.story import Line
    from impetusd.core.reasons import Reason

OF_NAMES, OF_ALL = 400, 300  # records that are looked at
WIDTH = 80  # columns where the output goes to no terminal
WIDEST = 100
LATELY = 86400.0  # seconds
NOTABLE = {"exit", "rule", "health", "timer", "config", "command", "reload", "lost"}


@click.command(short_help="Explain problems, or the state of NAME.")
@names_argument()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@conf_option
def command(names: tuple[str, ...], as_json: bool) -> int:
    """Explain the state of each NAME (a unit, slot, group, timer or health check): since when, the cause, the INI key
    that decided, how often it happened, what happens next, its last lines on stderr, and which commands help.

    Without NAME, explain every problem, or list recent events if there are none. Works without a running daemon, from
    the ledger.

    Example: impetusd why web
    """
    from impetusd.cli.names import require, with_members
    from impetusd.cli.screen.terminal import screen_of
    from impetusd.core.explain import ledger, why

    at = here()
    names = tuple(with_members(at, names))
    facts = gather(at, names)
    known = {row[key] for row in facts.rows for key in ("unit", "name")} | set(facts.known)
    known |= {row["name"] for row in (*facts.timers, *facts.checks)}
    known |= {name for record in facts.records if record["kind"] != "command" for name in ledger.subjects(record)}
    require(names, sorted(known))
    found = why.explain(facts, names)
    if as_json:
        print(json.dumps({"running": facts.running, "findings": [finding.data() for finding in found]}, indent=2))
        return 0
    screen = screen_of(sys.stdout, os.environ)
    print("\n".join(text(facts, found, screen, whole=bool(names))))
    return 0


def gather(at: Place, names: Sequence[str]) -> Facts:
    """Everything that is known: from the daemon, and where none runs from the ledger's files."""
    from impetusd.cli import past, pending
    from impetusd.cli.names import loaded, names_in
    from impetusd.client import control, reaper
    from impetusd.core.explain.finding import Facts
    from impetusd.files.ledgerfile import Query

    asked: dict[str, typing.Any] = {}
    status: typing.Mapping[str, typing.Any] = {}
    try:
        status = control.call(at.paths, "status", {"names": []})
        asked = {"rows": status["units"], "troubles": _troubles(status), "held": status.get("held")}
        asked["checks"] = control.call(at.paths, "health", {})["checks"]
        asked["timers"] = control.call(at.paths, "timers", {})["timers"]
        running = True
    except control.NotRunning:
        asked, running = {}, False
    own, _ = past.ask(at.paths, Query(last=OF_ALL))
    records = own.records
    if names:
        targets = [check["target"] for check in asked.get("checks", ()) if check["name"] in names]
        needed = [row["unit"] for row in asked.get("rows", ()) if row["state"] == "STARTING"]
        wanted = [*names, *targets, *needed, *_behind(asked.get("rows", ()))]
        units = [name.partition(":")[0] for name in names if ":" in name]
        records = past.ask(at.paths, Query([*wanted, *units], last=OF_NAMES))[0].records
    mistakes = pending.compared(at, status)[1] if running else pending.mistakes(at)
    config = loaded(at)
    left = reaper.Left([], "") if running else reaper.left_behind(at.paths)
    return Facts(
        now=time.time(),
        running=running,
        records=records,
        own=own.records,
        known=names_in(config),
        programs={name: unit.command for name, unit in config.units.items()} if config is not None else {},
        command=at.command,
        mistakes=mistakes,
        changed_at=_written(at.conf) if mistakes else 0.0,
        left=len(left.members),
        lost=left.why,
        **asked,
    )


def _written(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _behind(rows: Sequence[typing.Mapping[str, typing.Any]]) -> list[str]:
    """What it waits for."""
    from impetusd.core.reasons import waited_for

    return [name.partition(":")[0] for row in rows if (name := waited_for(row))]


def _troubles(status: typing.Mapping[str, typing.Any]) -> list[Reason]:
    """The report on impetusd itself; an older version sends only sentences."""
    from impetusd.core.reasons import read, said

    if "notices" not in status:
        return [said(trouble) for trouble in status.get("troubles", ())]
    return [read(notice, notice["text"]) for notice in status["notices"] if notice["own"]]


def text(facts: Facts, found: Sequence[Finding], screen: Screen, *, whole: bool) -> Iterator[str]:
    """As lines. `whole`: everything of each; else, of several, what a glance needs."""
    width = min(screen.width or WIDTH, WIDEST)
    wrong = [finding for finding in found if not finding.ok]
    if not found:
        yield from _all_is_well(facts, screen, width)
        return
    brief = not whole and len(wrong) > 1
    for number, finding in enumerate(found):
        if number:
            yield ""
        yield from _finding(facts, finding, screen, width, brief=brief)


def _finding(facts: Facts, finding: Finding, screen: Screen, width: int, *, brief: bool) -> Iterator[str]:
    from impetusd.cli.screen.terminal import plain

    head = textwrap.wrap(plain(finding.headline), width, break_on_hyphens=False)
    yield from (screen.paint(line, "bold" if finding.ok else "red") for line in head)
    margin = max((len(label) for label, _ in finding.facts), default=0) + 4
    for label, sentence in finding.facts:
        yield from _wrapped(f"  {label:<{margin - 4}}  ", plain(sentence), width, margin)
    if brief:
        if finding.name == "impetusd":
            yield from _commands(finding.commands, screen)
        else:
            yield f"{screen.arrow} {facts.command} why {finding.name}"
        return
    if finding.happened:
        yield ""
        for line in finding.happened:
            yield from _happened(facts, line, width)
    if finding.words:
        yield ""
        at = f" at {facts.clock(finding.words_at)}" if finding.words_at else ""
        yield f"Last lines on stderr{at}:"
        yield from (f"    {plain(line)}".rstrip() for line in finding.words)
    if finding.more:
        yield ""
        for sentence in finding.more:
            yield from textwrap.wrap(plain(sentence), width, break_on_hyphens=False)
    if finding.commands:
        yield ""
        yield from _commands(finding.commands, screen)


def _happened(facts: Facts, line: Line, width: int) -> Iterator[str]:
    from impetusd.cli.screen.terminal import plain

    stamp = f"{facts.clock(line.at)}  "
    times = f", {line.times} times since {facts.clock(line.since)}" if line.times > 1 else ""
    yield from _wrapped(stamp, f"{plain(line.text)}{times}", width, len(stamp))


def _wrapped(first: str, words: str, width: int, margin: int) -> list[str]:
    return textwrap.wrap(
        words,
        width,
        initial_indent=first,
        subsequent_indent=" " * margin,
        break_on_hyphens=False,
        break_long_words=False,
    ) or [first.rstrip()]


def _commands(commands: Sequence[tuple[str, str]], screen: Screen) -> Iterator[str]:
    column = max((len(what) for what, _ in commands), default=0)
    yield from (f"{screen.arrow} {what:<{column}}  {purpose}".rstrip() for what, purpose in commands)


def _all_is_well(facts: Facts, screen: Screen, width: int) -> Iterator[str]:
    from impetusd.cli.screen import table
    from impetusd.core.explain import story

    yield screen.paint(table.all_well(facts.rows) if facts.rows else "nothing is configured to run", "bold")
    late = [r for r in facts.own if r["at"] > facts.now - LATELY and r["kind"] in NOTABLE and not r.get("asked")]
    lines = story.summarize(late, 10, named=True)
    if not lines:
        yield "Nothing unplanned has happened in the last 24 hours."
        return
    yield ""
    yield "Lately:"
    for line in lines:
        yield from _happened(facts, line, width)
