"""From "package.module:factory" to the object itself, and from what goes wrong there to what its author needs.

A module that is not there, or a factory that is not in it, is the operator's slip: one sentence. A module that fails
by itself is the author's: its own traceback, without the frames of this runtime, which explain nothing.
"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
import traceback
from collections.abc import Awaitable
from typing import cast

from impetusd.worker.environment import WorkerError

_HERE = os.path.dirname(__file__) + os.sep


def load(app: str) -> object:
    """The object that `app` names: an application or its factory, not called. WorkerError says why it cannot be."""
    module_name, colon, attribute = app.partition(":")
    if not (colon and module_name and attribute):
        raise WorkerError(f"app = {app} is not of the form package.module:factory")
    try:
        # Not importlib.import_module: the frames of its machinery would stand in the traceback.
        __import__(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not (module_name == missing or module_name.startswith(f"{missing}.")):
            raise WorkerError(_import_failed(app, error)) from None
        raise WorkerError(
            f"app = {app} cannot be imported: no module {missing} in {os.getcwd()} nor among the packages of "
            f"{sys.executable}"
        ) from None
    except (Exception, SystemExit) as error:
        raise WorkerError(_import_failed(app, error)) from None
    found: object = sys.modules[module_name]
    for name in attribute.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, [each for each in dir(found) if not each.startswith("__")], n=3)
            hint = f"; it has {', '.join(near)}" if near else ""
            raise WorkerError(f"app = {app}: {module_name} has no {name}{hint}")
        found = getattr(found, name)
    if not (_is_aiohttp(found) or callable(found)):
        raise WorkerError(
            f"app = {app} is of type {type(found).__name__}, which is neither an application nor a factory"
        )
    return found


def protocol_of(target: object, protocol: str) -> str:
    """ "aiohttp", "asgi" or "wsgi" if `target` is such an application; "" for a factory, and for all else.

    `protocol` is the operator's choice, or "auto". Only an application whose signature shows nothing, as under a
    decorator that takes *args, needs it.
    """
    if _is_aiohttp(target):
        return "aiohttp"
    if not callable(target) or protocol == "aiohttp":
        return ""
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # of a builtin
        return ""
    if protocol != "auto":
        return protocol if _takes(signature, 3 if protocol == "asgi" else 2) else ""
    if tuple(signature.parameters)[:3] == ("scope", "receive", "send"):
        return "asgi"
    if inspect.isclass(target) or _takes(signature, 0):
        return ""
    coroutine = inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(type(target).__call__)
    if coroutine:
        return "asgi" if _takes(signature, 3) else ""
    return "wsgi" if _takes(signature, 2) else ""


async def build(target: object, app: str, protocol: str) -> tuple[object, str]:
    """The application that `target` is or makes, and its protocol. What the factory raises passes through."""
    found = protocol_of(target, protocol)
    if found:
        _require(app, protocol, found)
        return target, found
    if not callable(target) or not _makes(target):
        raise WorkerError(
            f"app = {app} is neither an application of a known type nor a function without arguments that returns"
            " one; set protocol = asgi or wsgi"
        )
    made: object = target()
    if inspect.isawaitable(made):
        made = await cast("Awaitable[object]", made)
    found = protocol_of(made, protocol)
    if not found:
        what = (
            "which is not an aiohttp, ASGI or WSGI application"
            if protocol == "auto"
            else f"which is not a valid {protocol} application"
        )
        raise WorkerError(f"app = {app} returned {type(made).__name__}, {what}")
    _require(app, protocol, found)
    return made, found


def likely(target: object, protocol: str) -> str:
    """The protocol that `target` will most likely turn out to have, before it has been called; "" if unknown."""
    found = protocol_of(target, protocol)
    if found or protocol != "auto":
        return found or protocol
    return "aiohttp" if "aiohttp.web" in sys.modules else ""


def _require(app: str, protocol: str, found: str) -> None:
    if protocol not in {"auto", found}:
        raise WorkerError(f"app = {app} uses {found}, but protocol = {protocol} is set")


def _is_aiohttp(target: object) -> bool:
    """Without importing aiohttp: if there is an Application, it is already imported."""
    web = sys.modules.get("aiohttp.web")
    return web is not None and isinstance(target, web.Application)


def _takes(signature: inspect.Signature, count: int) -> bool:
    """Whether it can be called with this number of positional arguments."""
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _makes(target: object) -> bool:
    """Whether `target` can be called without arguments; if unknown, assume so."""
    try:
        return callable(target) and _takes(inspect.signature(target), 0)
    except (ValueError, TypeError):
        return True


def report(error: BaseException) -> str:
    """`error` with its traceback from the application's first frame on, and with its causes."""
    each: BaseException | None = error
    while each is not None:
        frames = each.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_HERE):
            frames = frames.tb_next
        each.__traceback__ = frames
        each = each.__cause__ or each.__context__
    return "".join(traceback.format_exception(error)).rstrip()


def _import_failed(app: str, error: BaseException) -> str:
    return f"app = {app} cannot be imported:\n{report(error)}"
