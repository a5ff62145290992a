"""What all commands share: `-c FILE`, which may precede or follow the command's name, and NAME arguments."""

from __future__ import annotations

import typing

import click

from impetusd.cli import place

if typing.TYPE_CHECKING:
    from collections.abc import Callable

_KEY = "impetusd.conf"
_F = typing.TypeVar("_F", bound="Callable[..., object]")


def conf_option(function: _F) -> _F:
    """Give a command the option -c; `here()` is what it means."""
    return click.option(
        "-c",
        "--conf",
        metavar="FILE",
        expose_value=False,
        callback=_remember,
        help="The INI file. Also allowed before the command.",
    )(function)


def env_option(function: _F) -> _F:
    """Give a command the option --env, as `env`: the profile, "" for none, None for the one in force."""
    return click.option(
        "--env",
        metavar="PROFILE",
        envvar="IMPETUSD_ENV",
        help="Use PROFILE ([env:NAME@PROFILE] overrides [env:NAME]) until another is chosen; '' for none.",
    )(function)


def names_argument(*, required: bool = False) -> Callable[[_F], _F]:
    """Give a command its NAME arguments, as `names`."""
    return click.argument("names", metavar="NAME..." if required else "[NAME]...", nargs=-1, required=required)


def since_when(text: str | None) -> float | None:
    """The value of --since, in Unix seconds."""
    import time

    from impetusd.cli.logs.when import instant

    try:
        return None if text is None else instant(text, time.time())
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is not a time; use 10m, 2h, 1d, 2026-11-23 or '2026-11-23 10:00'", param_hint="--since"
        ) from None


def given() -> str | None:
    """The FILE of -c, or None."""
    return typing.cast("str | None", click.get_current_context().find_root().meta.get(_KEY))


def here() -> place.Place:
    """The instance that the command line means."""
    return place.find(given())


def _remember(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.find_root().meta[_KEY] = value
