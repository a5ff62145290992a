"""`impetusd-service`: what an operator does with the service's database. Reads the same environment as the service.

By hand that is the shell's, which need not be what the INI file gives the service: so it says what it goes by, and how to
have a unit's environment. Exit codes are those of `impetusd`: 0 done, 1 not done, 2 wrong usage or settings.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from impetus_service.settings import Settings


class Commands(click.Group):
    """All commands, which need the packages of the extra `service`."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            import impetus_service.kit  # noqa: F401
        except ImportError as error:
            fail(str(error))
        return super().main(*arguments, **options)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Maintain the database of the Impetus service (DATABASE_URL)."""


@main.command()
@click.option("--dry-run", is_flag=True, help="Count the rows that would be deleted, and change nothing.")
def maintenance(*, dry_run: bool) -> None:
    """Delete expired data and vacuum tables that change often.

    Exits with 1 if a step failed (the others are run anyway) or another maintenance is running.
    """
    from impetus_service.maintenance import Busy, maintain

    async def run() -> bool:
        well = True
        show = Table(("STEP", "ROWS", "TIME", ""), widths=(32, 9, 8, 0))
        async for outcome in maintain(settings(), dry_run=dry_run):
            rows = "-" if outcome.rows is None else str(outcome.rows)
            note = f"FAILED: {outcome.note}" if outcome.failed else outcome.note
            show.row((outcome.step, rows, f"{outcome.seconds:.2f} s", note))
            well = well and not outcome.failed
        return well

    try:
        sys.exit(0 if run_with_database(run()) else 1)
    except Busy as busy:
        fail(str(busy))


@main.command("health-check")
@click.argument("host", default="127.0.0.1:8080")
@click.option("--timeout", default=5.0, show_default=True, type=click.FloatRange(0.1, 600), help="Timeout in seconds.")
@click.option("-q", "--quiet", is_flag=True, help="Print only problems.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def health_check(host: str, *, timeout: float, quiet: bool, as_json: bool) -> None:
    """Request /health of the service at HOST, HOST:PORT or https://HOST[:PORT], for cron and uptime monitors.

    Exits with 0 if it is healthy, 1 if it is unhealthy or does not respond, 2 for wrong usage.
    """
    from impetus_service.health_check import ask, url_of

    try:
        url = url_of(host)
    except ValueError as error:
        fail(f"health-check: {host!r}: {error}", 2)
    answer = asyncio.run(ask(url, timeout))
    if as_json:
        print(answer.as_json())
    elif not (answer.ok and quiet):
        print(answer.sentence())
    sys.exit(0 if answer.ok else 1)


@main.command()
def migrate() -> None:
    """Migrate the schema now, as the next worker to start would do. Useful before a reload if migrations take long."""
    import asyncpg

    from impetus_service.kit.migrate import default_path, migrate
    from impetus_service.schema import shipped

    given = settings()

    async def run() -> int:
        connection = await asyncpg.connect(given.database_url)
        try:
            applied = await migrate(connection, shipped(), given.db_schema, lambda: default_path(given.database_url))
        finally:
            connection.terminate()
        for each in applied:
            print(f"applied {each}")
        return len(applied)

    if not run_with_database(run()):
        print(f"the schema {given.db_schema} is up to date")


@main.command()
def jobs() -> None:
    """Process jobs until SIGTERM. The program `jobs` in the INI file runs this command in each instance."""
    from impetus_service.job_kinds import KINDS
    from impetus_service.kit import job_worker
    from impetus_service.schema import shipped

    sys.exit(job_worker.main(settings(), shipped(), KINDS))


@main.command("slow-queries")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many.")
def slow_queries(limit: int) -> None:
    """Show the statements with the highest average duration, from pg_stat_statements."""
    from impetus_service.database_report import NotRecorded, slow_queries

    try:
        lines = run_with_database(slow_queries(settings().database_url, limit))
    except NotRecorded as missing:
        fail(str(missing))
    print("\n".join(lines))


@main.command()
def db() -> None:
    """Show size, connections, dead rows, last vacuum, unused indexes and the last maintenance."""
    from impetus_service.database_report import database

    given = settings()
    print("\n".join(run_with_database(database(given.database_url, given.db_schema))))


@main.command("create-admin")
@click.option("--company", required=True, help="The company's name; the company is created if it does not exist.")
@click.option("--email", required=True, help="The administrator's email address, used to log in.")
@click.option("--name", required=True, help="The administrator's name.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of prompting.")
def create_admin(company: str, email: str, name: str, *, password_stdin: bool) -> None:
    """Add the first administrator of a company, who can then add other users."""
    from impetus_service.administrators import AdministratorError, create_administrator
    from impetus_service.kit.db import Database, Unavailable
    from impetus_service.schema import shipped

    given = settings()
    logging.getLogger("impetus").addHandler(logging.NullHandler())  # what is wrong is said once, at the end
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)

    async def run() -> bool:
        database = Database(given, shipped())
        await database.start()
        try:
            return await create_administrator(database, company, email, name, password)
        finally:
            await database.stop()

    try:
        new = run_with_database(run())
    except (AdministratorError, Unavailable) as error:
        fail(str(error))
    print(f"{email} is an administrator of {'the new company' if new else 'the company'} {company}")


class Table:
    """Columns of text; all but the first and the last align to the right. The headings come with the first row."""

    def __init__(self, headings: Sequence[str], widths: Sequence[int]) -> None:
        self._headings: Sequence[str] | None = headings
        self._widths = widths

    def row(self, cells: Sequence[str]) -> None:
        """Print a row at once: who watches sees how far it is."""
        if self._headings is not None:
            headings, self._headings = self._headings, None
            self.row(headings)
        first, *middle, last = cells
        widths = self._widths[1:-1]
        middle = [f"{cell:>{width}}" for cell, width in zip(middle, widths, strict=True)]
        print("  ".join([f"{first:<{self._widths[0]}}", *middle, last]).rstrip(), flush=True)


def settings() -> Settings:
    """The settings of the environment; ends the command when they are wrong. Says which, unless they are a unit's."""
    from impetus_service.settings import Settings, SettingsError

    by_hand = not os.environ.get("IMPETUSD_UNIT")
    name = click.get_current_context().info_name
    instead = f"with a unit's settings: impetusd exec UNIT -- impetusd-service {name}"
    try:
        found = Settings.from_environment(os.environ)
    except SettingsError as error:
        fail(f"{error}; {instead}" if by_hand else str(error), 2)
    if by_hand:
        days = ("AUDIT_LOG_RETENTION_DAYS", "JOB_RESULT_DAYS") if name == "maintenance" else ()
        used = [
            found.database(),
            f"schema {found.db_schema}",
            *(f"{each}={getattr(found, each.lower())}" for each in days),
        ]
        print(
            f"impetusd-service: uses this shell's environment, not the INI file: {', '.join(used)}; {instead}",
            file=sys.stderr,
        )
    return found


def run_with_database(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work`; ends the command with a sentence when the database is away or refuses."""
    import asyncpg

    from impetus_service.kit.ownership import MigrationError

    try:
        return asyncio.run(work)
    except MigrationError as error:
        fail(str(error))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        text = " ".join(str(error).split())
        fail(f"the database of DATABASE_URL cannot be used: {text or type(error).__name__}")


def fail(sentence: str, status: int = 1) -> NoReturn:
    """End the command."""
    print(f"impetusd-service: {sentence}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
