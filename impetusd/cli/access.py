"""Shared code of the commands for the gateway's users, tokens and links."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, TypeVar

import click

from impetusd.cli.failure import Failure
from impetusd.gateway import accessfile

if TYPE_CHECKING:
    from collections.abc import Callable

    from impetusd.cli.place import Place

T = TypeVar("T")


def folder(at: Place) -> str:
    """The gateway's own folder. Raises Failure if there is none, AnotherFile if a daemon uses it for another INI
    file."""
    from impetusd.client import control

    with contextlib.suppress(OSError):  # one that does not answer now
        control.ping(at.paths, mine=True)
    path = f"{at.paths.state_dir}/gateway"
    if not os.path.isdir(path):
        raise Failure(
            f"{path} does not exist: {at.conf} has no [gateway], or it was added and not yet applied; run:"
            f" {at.command} start"
        )
    return path


def read(at: Place) -> accessfile.State:
    """The content of the access file. Raises Failure if it cannot be read."""
    return _attempt(at, lambda: accessfile.read(folder(at)))


def change(at: Place, act: Callable[[accessfile.State], T]) -> T:
    """As `accessfile.change`; Failure with what is in the way."""
    return _attempt(at, lambda: accessfile.change(folder(at), act))


def _attempt(at: Place, act: Callable[[], T]) -> T:
    try:
        return act()
    except accessfile.Refused as error:
        raise Failure(str(error)) from None
    except PermissionError:
        owner = _owner(at.paths.state_dir)
        raise Failure(f"only root and {owner} may manage access to this impetusd; use sudo") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise Failure(f"cannot use {at.paths.state_dir}/gateway/{accessfile.NAME}: {why}") from None


def _owner(path: str) -> str:
    import pwd

    try:
        return pwd.getpwuid(os.stat(path).st_uid).pw_name
    except (OSError, KeyError):
        return "its owner"


def name(given: str | None, what: str) -> str:
    """A user's or token's name that is checked: it is stated to the supervisor, and recorded."""
    if given is None or not accessfile.is_name(given):
        raise click.BadParameter(f"it must be 1 to {accessfile.LONGEST} printable characters", param_hint=what)
    return given


def me() -> str:
    """The user who types: behind sudo, too."""
    import pwd

    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
