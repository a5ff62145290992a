"""`impetusd init`."""

from __future__ import annotations

import os
import shlex

import click

INI = """\
; What impetusd keeps running here. `impetusd help reference` has every key, `impetusd check` finds mistakes.

[pool:web]
app       = {app}
listen    = 127.0.0.1:8080
instances = 2

[health:web]
http     = /
interval = 10s
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
@click.option("--app", metavar="MODULE:FACTORY", help="Your application. Default: app:create_app, written if missing.")
@click.option("--all-keys", is_flag=True, help="Write the annotated INI file with every key, for the Impetus service.")
def command(directory: str, app: str | None, *, all_keys: bool) -> int:
    """Write DIR/impetusd.ini and a first DIR/app.py (DIR is made if needed), ready to start. Overwrites nothing.

    Example: impetusd init /srv/shop
    """
    from impetusd.core.config import sample

    if all_keys and app:
        raise click.UsageError("--all-keys writes the application of the Impetus service: omit --app")
    wrote = [write(directory, "impetusd.ini", sample.sample() if all_keys else INI.format(app=app or "app:create_app"))]
    if app is None and not all_keys and not os.path.lexists(os.path.join(directory, "app.py")):
        wrote.append(write(directory, "app.py", APP))
    # Without -c the command finds ./impetusd.ini only while IMPETUSD_CONF names no other.
    found = os.path.normpath(directory) == "." and not os.environ.get("IMPETUSD_CONF")
    start = f"impetusd {'' if found else f'-c {shlex.quote(wrote[0])} '}start"
    print(f"wrote {' and '.join(wrote)}; edit, then: {start}")
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
        raise Failure(f"{path} is there already and was left as it is") from None
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None
    return path
