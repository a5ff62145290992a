"""`impetusd login-link`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from impetusd.cli.options import conf_option, here
from impetusd.core.protocol import ADMIN, ROLES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from impetusd.cli.place import Place


@click.command("login-link", short_help="Print a link that logs you in to the web page, once.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default=ADMIN,
    help="The role of the link. Default and upper limit: ceiling in [gateway].",
)
@conf_option
def command(role: str) -> int:
    """Print a link to the gateway's web page. It logs in once, within 15 minutes; no password is needed.

    Example: impetusd login-link
    """
    from impetusd.cli import outcome
    from impetusd.client import control

    at = here()
    try:
        status = control.call(at.paths, "status", {"names": []})
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    print(made(at, status, role))
    print(f"It works once, within 15 minutes, with the role {_at_most(status, role)}.", file=sys.stderr)
    return 0


def made(at: Place, status: Mapping[str, Any], role: str = ADMIN) -> str:
    """A new link. `status`: what the daemon says. Failure if it has no gateway."""
    from impetusd.cli import access
    from impetusd.cli.failure import Failure
    from impetusd.gateway import tokens

    gateway = status.get("gateway")
    if not gateway:
        raise Failure(f"no gateway is running; add [gateway] to {at.conf}, then: {at.command} apply")
    code = tokens.new()
    access.change(
        at, lambda state: state.add_link(tokens.digest(code), access.me(), _at_most(status, role), time.time())
    )
    return f"{_base(gateway)}/#/login?code={code}"


def _at_most(status: Mapping[str, Any], role: str) -> str:
    """The role, or the ceiling that the gateway has; an older daemon does not say which."""
    ceiling = (status.get("gateway") or {}).get("ceiling")
    return min(role, ceiling, key=ROLES.index) if ceiling in ROLES else role


def _base(gateway: Mapping[str, Any]) -> str:
    """The page's URL for a browser on this host."""
    if url := gateway.get("url"):
        return str(url).rstrip("/")
    tcp = [address for address in gateway["listen"] if not address.startswith("unix:")]
    address = tcp[0] if tcp else "localhost"
    for everywhere, here_ in (("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:"), (":::", "[::1]:")):
        if address.startswith(everywhere):
            address = here_ + address[len(everywhere) :]
    return f"{'https' if gateway.get('tls') else 'http'}://{address}"
