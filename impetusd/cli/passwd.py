"""`impetusd passwd`."""

from __future__ import annotations

import sys

import click

from impetusd.cli.options import conf_option, here
from impetusd.core.protocol import ADMIN, ROLES


@click.command(short_help="Set the password of a gateway user.")
@click.argument("user", required=False)
@click.option("--role", type=click.Choice(ROLES), help="The user's role. Default for a new user: admin.")
@click.option("--remove", is_flag=True, help="Remove the user.")
@conf_option
def command(user: str | None, role: str | None, remove: bool) -> int:
    """Set the gateway password of USER (default: your user name). The user is created if it does not exist.

    On a terminal, asks for it twice; otherwise reads one line from stdin. Existing sessions of USER are logged out.

    Example: impetusd passwd alice --role operator
    """
    from impetusd.cli import access
    from impetusd.cli.failure import Failure
    from impetusd.gateway import passwords

    at, name = here(), access.name(user or access.me(), "USER")
    if name.startswith("token:"):
        raise click.BadParameter(
            "names that start with token: are reserved for tokens in the ledger", param_hint="USER"
        )
    if remove:
        access.change(at, lambda state: state.remove_user(name))
        return 0
    known = access.read(at).users.get(name)
    password = _asked(name)
    if why := passwords.refusal(password):
        raise Failure(why)
    its = role or (known.role if known is not None else ADMIN)
    kept = passwords.hashed(password)
    access.change(at, lambda state: state.set_user(name, its, kept))
    print(f"{name} can log in as {its}", file=sys.stderr)
    return 0


def _asked(name: str) -> str:
    from impetusd.cli.failure import Failure

    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    import getpass

    password = getpass.getpass(f"New password of {name}: ")
    if password != getpass.getpass("Repeat the password: "):
        raise Failure("the passwords differ; nothing was changed")
    return password
