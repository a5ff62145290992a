"""`impetusd health`."""

from __future__ import annotations

import json
import os
import sys
import typing

import click

from impetusd.cli.options import conf_option, here
from impetusd.cli.screen.terminal import plain, screen_of

if typing.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from impetusd.cli.screen.terminal import Screen
    from impetusd.core.rules.health import Result
    from impetusd.probe import Get

    Row: typing.TypeAlias = Mapping[str, typing.Any]

HEAD = ("NAME", "TARGET", "STATE", "LATENCY", "ACTION", "CHECK")
_COLOUR = {"healthy": "green", "starting": "yellow", "unhealthy": "red", "unknown": "dim"}


def _checked(ctx: click.Context, param: click.Parameter, value: typing.Any) -> typing.Any:  # noqa: ARG001  # click's signature
    """As the INI file would have it."""
    from impetusd.core.config import schema

    parse: Mapping[str | None, typing.Callable[[str], typing.Any]] = {
        "url": schema.parse_url,
        "timeout": schema.parse_positive_duration,
        "status": schema.parse_status,
        "headers": lambda lines: schema.parse_headers("\n".join(lines)),
    }
    try:
        return None if value is None else parse[param.name](value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(short_help="Check health, or probe a URL (for monitors).")
@click.argument("url", required=False, callback=_checked)
@click.option(
    "--timeout",
    default="5s",
    metavar="DURATION",
    show_default=True,
    callback=_checked,
    help="Time limit for the complete response of URL.",
)
@click.option("--body", default="", metavar="TEXT", help="Text that the response must contain.")
@click.option(
    "--status", default="200-399", metavar="RANGES", show_default=True, callback=_checked, help="Accepted status codes."
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="HEADER",
    callback=_checked,
    help="Request header to send: 'Name: value'.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only problems.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@conf_option
def command(
    url: str | None,
    *,
    timeout: float,
    body: str,
    status: tuple[tuple[int, int], ...],
    headers: tuple[tuple[str, str], ...],
    quiet: bool,
    as_json: bool,
) -> int:
    """Check health, or probe URL with one GET (works without a daemon).

    Exits with 0 if all checks are healthy and all units that should be up are up (for URL: if it responds as expected),
    1 if not, 3 if no daemon is running.

    Example: impetusd health -q http://127.0.0.1:8080/health
    """
    screen = screen_of(sys.stdout, os.environ)
    if url is not None:
        from impetusd.probe import Get

        result = _answer(Get(url, body=body, status=status, headers=headers), timeout)
        _print_result(url, result, screen, quiet=quiet, as_json=as_json)
        return 0 if result.ok else 1
    from impetusd.cli import outcome
    from impetusd.client import control
    from impetusd.core.protocol import as_wanted

    at = here()
    try:
        checks = control.call(at.paths, "health", {})["checks"]
        units = control.call(at.paths, "status", {"names": []})["units"]
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    down = [row for row in units if not as_wanted(row)]
    ok = not down and all(map(_is_fine, checks))
    if as_json:
        answer = {"ok": ok, "checks": checks, "down": down}
        print(json.dumps(answer, indent=2 if screen.width is not None else None))
        return 0 if ok else 1
    lines = wrong(checks, down, screen)
    if not quiet:
        lines = [*table(checks, screen), "", *(lines or [screen.paint(_summary(checks), "dim")])]
    if lines:
        print("\n".join(lines))
    return 0 if ok else 1


def _answer(what: Get, timeout: float) -> Result:
    """In a thread, because a name lookup has no deadline."""
    import threading

    from impetusd.core.rules.health import Result
    from impetusd.probe import get

    answers: list[Result] = []
    thread = threading.Thread(target=lambda: answers.append(get(what, timeout)), daemon=True)
    thread.start()
    thread.join(timeout + 1.0)  # it has answered by then, or it hangs in the look-up
    return answers[0] if answers else Result(False, f"DNS lookup took longer than {timeout:g} s", timeout)


def _print_result(url: str, result: Result, screen: Screen, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        latency = round(result.latency * 1000, 1)
        answer = {"ok": result.ok, "url": url, "result": result.text, "latency_ms": latency}
        print(json.dumps(answer, indent=2 if screen.width is not None else None))
    elif not result.ok:
        print(f"GET {url}: {plain(result.text)}")
    elif not quiet:
        print(f"GET {url}: {plain(result.text)} in {result.latency * 1000:.0f} ms")


def table(rows: Sequence[Row], screen: Screen) -> list[str]:
    """A header and a line for each check."""
    if not rows:
        return ["no health check is configured"]
    cells = [[plain(cell) for cell in _cells(row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(HEAD, *cells, strict=True)]
    lines = [screen.paint(_line(HEAD, widths, screen), "bold")]
    for row, fields in zip(rows, cells, strict=True):
        line = _line(fields, widths, screen)
        state = len("  ".join(fields[at].ljust(widths[at]) for at in range(2))) + 2
        end = state + len(fields[2])
        painted = screen.paint(line[state:end], _COLOUR.get(row["state"], "")) if line[state:end] else ""
        lines.append(line[:state] + painted + line[end:])
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    latency = "-" if row["latency_ms"] is None else f"{row['latency_ms']:.0f} ms"
    return row["name"], row["target"], row["state"], latency, row["action"], row["what"]


def _line(fields: Sequence[str], widths: Sequence[int], screen: Screen) -> str:
    """LATENCY stands to the right; CHECK is what a narrow screen cuts."""
    cells = [
        field.rjust(width) if at == 3 else field.ljust(width)
        for at, (field, width) in enumerate(zip(fields, widths, strict=True))
    ]
    return screen.cut("  ".join(cells).rstrip())


def wrong(checks: Sequence[Row], down: Sequence[Row], screen: Screen) -> list[str]:
    """A sentence for each check that is not healthy, and for each slot that is not up, though wanted."""
    from impetusd.cli.screen.table import fitting, sentence

    told = [(_sentence(row), _COLOUR[row["state"]]) for row in checks if not _is_fine(row)]
    told += [(sentence(row), "red") for row in down]
    shown = fitting((said for said, _ in told), screen)
    lines = [screen.paint(line, colour) for said, (_, colour) in zip(shown, told, strict=False) for line in said]
    more = len(told) - len(shown)
    return [*lines, f"{screen.ellipsis} and {more} more"] if more else lines


def _sentence(row: Row) -> str:
    reason = plain(row["reason"])
    if row["state"] == "starting":
        return f"the health of {plain(row['target'])} is unknown: {reason}"
    times = f", {row['failures']} times in a row" if row["failures"] > 1 else ""
    return f"{plain(row['target'])} is unhealthy{times}: {reason}"


def _is_fine(row: Row) -> bool:
    """Whether it is healthy, or not probed because it is not wanted up."""
    return row["state"] in {"healthy", "unknown"}


def _summary(checks: Sequence[Row]) -> str:
    if not checks:
        return "all units that should be up are up"
    healthy = sum(row["state"] == "healthy" for row in checks)
    rest = len(checks) - healthy
    return f"{healthy} healthy" + (f", {rest} stopped" if rest else "")
