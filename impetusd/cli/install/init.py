"""`impetusd init`."""

from __future__ import annotations

import os
import shlex

import click


@click.command(short_help="Write a new INI file, ready to edit.")
@click.argument("directory", metavar="[DIR]", default=".")
def command(directory: str) -> int:
    """Write DIR/impetusd.ini (DIR is made if needed), ready to edit and to start. Never overwrites one.

    Example: impetusd init /srv/shop
    """
    from impetusd.cli.failure import Failure
    from impetusd.core.config import sample

    path = os.path.join(directory, "impetusd.ini")
    text = sample.sample()
    try:
        os.makedirs(directory, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Failure(f"{path} is there already and was left as it is") from None
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None
    # Without -c the command finds ./impetusd.ini only while IMPETUSD_CONF names no other.
    found = os.path.normpath(directory) == "." and not os.environ.get("IMPETUSD_CONF")
    print(f"wrote {path}; edit it, then: impetusd {'' if found else f'-c {shlex.quote(path)} '}start")
    return 0
