"""Detects the kind of application in a folder by reading its files; nothing of it is run or imported."""

from __future__ import annotations

import ast
import json
import os
import re
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES = 1 << 20  # of a file; a longer one is generated
MOST_FILES = 200
# Usual places of an application, the likeliest first; other files come after.
USUAL = ("main", "app", "asgi", "wsgi", "server", "web", "application", "api", "run")
SKIPPED = frozenset({"venv", "env", "node_modules", "tests", "test", "docs", "build", "dist", "migrations", "var"})
FRAMEWORKS = {"fastapi.FastAPI": "FastAPI", "flask.Flask": "Flask", "aiohttp.web.Application": "aiohttp"}
DJANGO = {
    "django.core.asgi.get_asgi_application": "Django",
    "django.core.wsgi.get_wsgi_application": "Django",
}
FACTORY = re.compile(r"(create|make|build|get)_?(app|application)|app_factory|init_app")


class Found(namedtuple("Found", ("what", "app", "command", "file"))):  # noqa: PYI024 (as elsewhere in cli)
    """`what`: the framework; `app`: MODULE:NAME of a pool, else the `command` of a program; `file`: where it was
    found."""

    __slots__ = ()
    what: str
    app: str
    command: str
    file: str


def detect(folder: str) -> Found | None:
    """The likeliest application in the folder; None if none is known."""
    for path in _python_files(folder):
        tree = _parsed(os.path.join(folder, path))
        if tree is not None and (found := _in_module(tree)) is not None:
            what, name = found
            return Found(what, f"{path.removesuffix('.py').replace('/', '.')}:{name}", "", path)
    return _of_package_json(folder)


def _python_files(folder: str) -> Iterator[str]:
    """Paths relative to the folder: its own modules, then those of its packages, two levels deep."""

    def rank(path: str) -> tuple[int, int, str]:
        stem = os.path.basename(path).removesuffix(".py")
        return path.count("/"), USUAL.index(stem) if stem in USUAL else len(USUAL), path

    found: list[str] = []
    for level in ("", *_packages(folder)):
        names = _listed(os.path.join(folder, level))
        found += [os.path.join(level, name) for name in names if name.endswith(".py") and _is_module(name[:-3])]
    yield from sorted(found, key=rank)[:MOST_FILES]


def _packages(folder: str) -> list[str]:
    names = [name for name in _listed(folder) if _is_module(name) and name not in SKIPPED]
    return [name for name in names if os.path.isdir(os.path.join(folder, name))]


def _is_module(name: str) -> bool:
    return name.isidentifier() and not name.startswith(("test_", "_")) and name != "conftest"


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read(path: str) -> bytes:
    """The content of a regular file; b"" if there is none, or it is too long."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > MOST_BYTES:
            return b""
        with open(path, "rb") as file:
            return file.read(MOST_BYTES)
    except OSError:
        return b""


def _parsed(path: str) -> ast.Module | None:
    import warnings

    try:
        with warnings.catch_warnings():  # of somebody else's escapes
            warnings.simplefilter("ignore")
            return ast.parse(_read(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _in_module(tree: ast.Module) -> tuple[str, str] | None:
    """(framework, name) of an application at the module's top, or of a function there that returns one."""
    names = _imported(tree)
    for node in tree.body:
        target, value = _assigned(node)
        what = _made(value, names, {**FRAMEWORKS, **DJANGO})
        if target and what:
            return what, target
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _takes_nothing(node):
            made = {_made(getattr(each, "value", None), names, FRAMEWORKS) for each in ast.walk(node)} - {""}
            if made and FACTORY.fullmatch(node.name):
                return made.pop(), node.name
    return None


def _imported(tree: ast.Module) -> dict[str, str]:
    """The full name that each top-level name of the module stands for."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                found[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _assigned(node: ast.stmt) -> tuple[str, ast.expr | None]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, node.value
    return "", None


def _made(value: object, names: dict[str, str], known: dict[str, str]) -> str:
    """The framework whose application this expression makes; "" for none."""
    if not isinstance(value, ast.Call):
        return ""
    dotted: list[str] = []
    function: ast.expr = value.func
    while isinstance(function, ast.Attribute):
        dotted.insert(0, function.attr)
        function = function.value
    if not isinstance(function, ast.Name):
        return ""
    return known.get(".".join([names.get(function.id, function.id), *dotted]), "")


def _takes_nothing(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = node.args
    return len(arguments.posonlyargs + arguments.args) == len(arguments.defaults) and all(arguments.kw_defaults)


def _of_package_json(folder: str) -> Found | None:
    """A Node application: what `npm start` would run, or its main file."""
    try:
        told = json.loads(_read(os.path.join(folder, "package.json")) or b"null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    scripts, main = told.get("scripts"), told.get("main")
    start = scripts.get("start") if isinstance(scripts, dict) else None
    if isinstance(start, str) and re.fullmatch(r"node( [\w./=-]+)+", start):
        return Found("Node", "", start, "package.json")
    if isinstance(start, str):
        return Found("Node", "", "npm start", "package.json")
    for name in (main, "index.js", "server.js"):
        if isinstance(name, str) and re.fullmatch(r"[\w./-]+", name) and os.path.isfile(os.path.join(folder, name)):
            return Found("Node", "", f"node {name}", "package.json")
    return None
