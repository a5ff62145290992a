"""`impetusd describe`."""

from __future__ import annotations

import os
import sys
import typing

import click

from impetusd.cli.options import conf_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from impetusd.cli.screen.terminal import Screen


@click.command(short_help="Show all details of NAME.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@conf_option
def command(name: str, as_json: bool) -> int:
    """Show all details of a unit, slot, timer or group: its state and the reason, its last exit, its log files, its
    configuration.

    Example: impetusd describe web:0
    """
    from impetusd.cli import outcome
    from impetusd.cli.screen.terminal import screen_of
    from impetusd.client import control

    at = here()
    try:
        answer = control.call(at.paths, "describe", {"name": name})
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    if as_json:
        import json

        from impetusd.core.protocol import reason_of

        for row in answer["units"]:
            row["reason"] = reason_of(row)
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(pages(answer, screen_of(sys.stdout, os.environ))))
    return 0


def pages(answer: Mapping[str, typing.Any], screen: Screen) -> Iterator[str]:
    """The slots one after another, then the configuration that they share, once for each unit; first of all a group."""
    rows: Sequence[Mapping[str, typing.Any]] = answer["units"]
    for group in answer.get("groups", ()):
        yield screen.paint(f"{group['name']} (group), configured in {group['where']}", "bold")
        yield f"  members     {', '.join(group['members'])}"
        yield ""
    for row in rows:
        yield from _slot(row, screen)
        yield ""
    told: list[tuple[str, object]] = []
    for row in rows:
        spec = row.get("spec") or {}
        if (row["unit"], spec) in told:
            continue
        told.append((row["unit"], spec))
        profile = f", profile {answer['profile']}" if answer.get("profile") else ""
        yield screen.paint(f"{row['unit']}, configured in {row.get('where', '?')}{profile}", "bold")
        yield from _keys(spec)
        for check in row.get("checks") or ():
            yield ""
            yield screen.paint(f"{row['unit']}, health check {check['name']}", "bold")
            yield from _keys(check)


def _keys(spec: Mapping[str, object]) -> Iterator[str]:
    width = max(map(len, spec), default=0)
    for key, value in spec.items():
        yield f"  {key:<{width}}  {_value(value)}".rstrip()


def _slot(row: Mapping[str, typing.Any], screen: Screen) -> Iterator[str]:
    from impetusd.cli.screen import table
    from impetusd.cli.screen.terminal import plain
    from impetusd.core.units import counted

    yield screen.paint(f"{row['name']} ({row['kind']})", "bold")
    ready = "" if row.get("ready") or row["state"] != "RUNNING" else ", not ready"
    yield f"  state       {row['state']}{ready}, wanted {row['want']}"
    if row.get("reason"):
        yield f"  reason      {plain(row['reason'])}"
    if row.get("pid") is not None:
        cpu = row.get("cpu_percent")
        usage = "" if row.get("memory_bytes") is None else f", {table.memory(row['memory_bytes'])}"
        usage += "" if cpu is None else f", {cpu:.1f}% of a CPU"
        yield f"  process     {row['pid']}, up {table.uptime(row.get('uptime_s'))}{usage}"
    more = row.get("process") or {}
    if more:
        yield f"              {more['threads']} threads, {more['descriptors']} descriptors"
    if more.get("descendants"):
        yield f"  tree        {', '.join(map(str, more['descendants']))}"
    yield f"  generation  {row.get('generation', 0)}"
    end = row.get("last_exit")
    if end:
        yield f"  last end    {table.last_exit(end)} at {end.get('at', 'an unknown time')}"
    ago = [f"{table.uptime(seconds)} ago" for seconds in row.get("history") or ()]
    shown = f" (lately: {', '.join(ago[:8])})" if ago else ""
    yield f"  restarts    {row.get('restarts', 0)} unplanned{shown}"
    for stream, path in (row.get("log_files") or {}).items():
        yield f"  {stream:<10}  {path}"
    if row.get("dropped_lines") or row.get("dropped_bytes"):
        size = table.memory(row["dropped_bytes"])
        yield f"  dropped     {counted(row['dropped_lines'], 'line')} ({size}) that could not be written to its log files"
    if row.get("tail"):
        yield "  last output:"
        for line in row["tail"]:
            yield screen.cut(f"    {plain(line)}")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_value(each)}" for key, each in value.items())
    return "-" if value in {None, ""} else str(value)
