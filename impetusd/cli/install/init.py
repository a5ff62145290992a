"""`impetusd init`."""

from __future__ import annotations

import os
import shlex
import typing

import click

if typing.TYPE_CHECKING:
    from impetusd.cli.install import detect

INI = """\
; The units that impetusd keeps running. `impetusd help reference` lists all keys; `impetusd check` finds mistakes.

[pool:web]
app       = {app}
listen    = 127.0.0.1:8080
instances = 2

[health:web]
http     = /
interval = 10s
"""
PROGRAM = """\
; The units that impetusd keeps running. `impetusd help reference` lists all keys; `impetusd check` finds mistakes.

[program:web]
command = {command}

[env:web]
PORT     = 8080
NODE_ENV = production
"""
APP = """\
from aiohttp import web


async def hello(request):
    return web.Response(text="hello\\n")


def create_app():
    app = web.Application()
    app.router.add_get("/", hello)
    return app
"""


@click.command(short_help="Write a new INI file, ready to start.")
@click.argument("directory", metavar="[DIR]", default=".")
@click.option("--app", metavar="MODULE:FACTORY", help="Your application. Default: the one found in DIR.")
@click.option("--all-keys", is_flag=True, help="Write an annotated INI file with every key, for the Impetus service.")
@click.option("--template", type=click.Choice(["service"]), help="Write a new project named after DIR.")
@click.option(
    "--with", "parts", metavar="PART,...", default="", help="With --template service: extra parts (jobs, chat)."
)
def command(directory: str, app: str | None, template: str | None, parts: str, *, all_keys: bool) -> int:
    """Write DIR/impetusd.ini, ready to start, for the application in DIR. FastAPI, Django, Flask, aiohttp and
    package.json are detected by reading files; if there is no application, a sample DIR/app.py is written too. DIR is
    created if needed; nothing is overwritten.

    With --template service, write a project instead, with an entity, its SQL, migrations and tests, and its own
    PostgreSQL. The project is named after DIR and needs impetusd[service].

    Example: impetusd init /srv/shop
    """
    from impetusd.cli.install import detect
    from impetusd.core.config import sample

    if parts and not template:
        raise click.UsageError("--with selects parts of a project; add --template service")
    if template:
        if app or all_keys:
            raise click.UsageError("a project comes with its own application and INI file; omit --app and --all-keys")
        return _project(directory, template, frozenset(filter(None, parts.split(","))))
    if all_keys and app:
        raise click.UsageError("omit --app, because the annotated file is for the Impetus service")
    found = None if app or all_keys else detect.detect(directory)
    wrote = [write(directory, "impetusd.ini", sample.sample() if all_keys else _ini(app, found))]
    if found is not None:
        print(f"found {found.what} in {os.path.join(directory, found.file)}: {found.app or found.command}")
    elif app is None and not all_keys and not os.path.lexists(os.path.join(directory, "app.py")):
        wrote.append(write(directory, "app.py", APP))
    # Without -c the command finds ./impetusd.ini only while IMPETUSD_CONF names no other.
    is_found = os.path.normpath(directory) == "." and not os.environ.get("IMPETUSD_CONF")
    start = f"impetusd {'' if is_found else f'-c {shlex.quote(wrote[0])} '}start"
    print(f"wrote {' and '.join(wrote)}; edit, then: {start}")
    return 0


def _ini(app: str | None, found: detect.Found | None) -> str:
    """The text for this application, or for the one that was found."""
    if found is not None and found.command:
        return PROGRAM.format(command=found.command)
    return INI.format(app=app or (found.app if found else "app:create_app"))


def _project(directory: str, template: str, parts: frozenset[str]) -> int:
    from impetusd.cli.failure import Failure
    from impetusd.cli.install import template as templates

    unknown = sorted(parts.difference(templates.PARTS[template]))
    if unknown:
        raise click.BadParameter(
            f"unknown part {', '.join(unknown)}; parts: {', '.join(templates.PARTS[template])}", param_hint="--with"
        )
    name = os.path.basename(os.path.abspath(directory))
    if problem := templates.problem_of_name(name):
        raise Failure(f"{name!r} is not a valid project name: {problem}", 2)
    found = templates.files(template, name, parts)
    for path in found:
        if os.path.lexists(os.path.join(directory, path)):
            raise Failure(f"{os.path.join(directory, path)} already exists; nothing was written")
    for path, text in found.items():
        write(directory, path, text, 0o600 if path.endswith(".env") else 0o666)
    print(f"wrote {len(found)} files; next: cd {shlex.quote(directory)} && pytest && impetusd start")
    return 0


def write(directory: str, name: str, text: str, mode: int = 0o666) -> str:
    """Make the file `name`, and the folders that it needs; returns its path. Raises Failure, also when it is there."""
    from impetusd.cli.failure import Failure

    path = os.path.join(directory, name)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Failure(f"{path} already exists and was left unchanged") from None
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None
    return path
