"""`impetusd token`."""

from __future__ import annotations

import json
import time
import typing

import click

from impetusd.cli.options import conf_option, here
from impetusd.core.protocol import ROLES, VIEWER

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from impetusd.gateway.accessfile import Token


@click.command(short_help="Add, list or remove tokens for the gateway's API.")
@click.argument("action", type=click.Choice(("add", "list", "remove")))
@click.argument("name", required=False)
@click.option("--role", type=click.Choice(ROLES), help=f"Role of the new token. Default: {VIEWER}.")
@click.option("--expires", metavar="TIME", help="Validity of the new token: 12h, 90d. Default: it does not expire.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@conf_option
def command(action: str, name: str | None, role: str | None, expires: str | None, as_json: bool) -> int:
    """Add the token NAME and print it, list all tokens, or remove NAME. A program sends its token with each request to the
    gateway: `Authorization: Bearer TOKEN`.

    A token is printed only once; the gateway stores only its digest. When a token is removed, its requests are rejected
    and its open streams end at once.

    Example: impetusd token add ci --role operator --expires 90d
    """
    from impetusd.cli import access

    if (action == "list") is (name is not None):
        raise click.UsageError(
            "token list does not take a NAME" if action == "list" else f"token {action} takes a NAME"
        )
    if action != "add" and (role or expires):
        raise click.UsageError("--role and --expires are for token add")
    if action == "add":
        print(_add(access.name(name, "NAME"), role or VIEWER, expires))
    elif action == "remove":
        access.change(here(), lambda state: state.remove_token(str(name)))
    else:
        tokens = access.read(here()).tokens
        print(_json(tokens) if as_json else "\n".join(_lines(tokens, time.time())))
    return 0


def _add(name: str, role: str, expires: str | None) -> str:
    from impetusd.cli import access
    from impetusd.core.config.schema import parse_positive_duration
    from impetusd.gateway import tokens
    from impetusd.gateway.accessfile import Token

    now = time.time()
    try:
        until = now + parse_positive_duration(expires) if expires is not None else 0.0
    except ValueError as error:
        raise click.BadParameter(f"{expires!r}: {error}", param_hint="--expires") from None
    secret = tokens.new(tokens.PREFIX)
    token = Token(role, tokens.digest(secret), now, until)
    access.change(here(), lambda state: state.add_token(name, token))
    return secret


def _json(tokens: Mapping[str, Token]) -> str:
    rows = [{"name": n, "role": t.role, "made": t.made, "expires": t.expires or None} for n, t in tokens.items()]
    return json.dumps({"tokens": rows}, indent=2)


def _lines(tokens: Mapping[str, Token], now: float) -> Iterator[str]:
    from impetusd.core.units import ahead

    if not tokens:
        yield "there are no tokens"
    width = max(map(len, tokens), default=0)
    for name, token in tokens.items():
        left = token.expires - now
        valid = f"expires {ahead(left)}" if left > 0 else "expired" if token.expires else "does not expire"
        yield f"{name:<{width}}  {token.role:<8}  {valid}"
