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

from aiohttp import web

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
            f"app = {app} cannot be imported: there is no module {missing} in {os.getcwd()} nor among the packages of "
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
    if not (isinstance(found, web.Application) or callable(found)):
        raise WorkerError(f"app = {app} is of type {type(found).__name__}, not an aiohttp Application nor its factory")
    return found


async def build(target: object, app: str) -> web.Application:
    """The application that `target` is or makes. What the factory raises passes through."""
    if isinstance(target, web.Application):
        return target
    made = target() if callable(target) else None
    if inspect.isawaitable(made):
        made = await cast("Awaitable[object]", made)
    if not isinstance(made, web.Application):
        raise WorkerError(f"app = {app} returned {type(made).__name__}, not an aiohttp.web.Application")
    return made


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
