"""Who may import whom (impetusd help design): read from the syntax trees, so that no import hides in a function."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("impetusd", "impetus_service")
VERSION = "impetusd.__version__"  # everybody may

# Module or package -> what of ours its modules may import, besides the version; a package's own modules are named too.
MAY = {
    "impetusd": (),
    "impetusd.core": ("impetusd.core",),
    "impetusd.shim": ("impetusd.shim", "impetusd.priority"),
    "impetusd.supervisor": (
        *(
            "impetusd.supervisor",
            "impetusd.host",
            "impetusd.folders",
            "impetusd.priority",
            "impetusd.source",
            "impetusd.vetted",
            "impetusd.traces",
            "impetusd.probe",
            "impetusd.ledgerfile",
            "impetusd.instance",
            "impetusd.ports",
            "impetusd.core",
            "impetusd.shim.wire",
        ),
    ),
    "impetusd.probe": ("impetusd.core.health",),
    "impetusd.ledgerfile": ("impetusd.core",),
    "impetusd.ports": ("impetusd.instance",),
    "impetusd.host": ("impetusd.core",),
    "impetusd.reaper": (
        *("impetusd.shim.leftovers", "impetusd.shim.orphans", "impetusd.shim.table", "impetusd.shim.tree"),
        "impetusd.folders",
        "impetusd.core.location",
    ),
    "impetusd.folders": ("impetusd.vetted",),
    "impetusd.priority": (),
    "impetusd.source": ("impetusd.core", "impetusd.vetted"),
    "impetusd.vetted": ("impetusd.core",),
    "impetusd.traces": ("impetusd.core.redact",),
    "impetusd.instance": (
        "impetusd.core.ini",
        "impetusd.core.location",
        "impetusd.folders",
        "impetusd.shim.table",
        "impetusd.reaper",
    ),
    "impetusd.control": ("impetusd.instance", "impetusd.core.protocol", "impetusd.core.location"),
    "impetusd.daemons": ("impetusd.instance", "impetusd.core.location"),
    "impetusd.launch": (
        *("impetusd.control", "impetusd.daemons", "impetusd.instance", "impetusd.folders", "impetusd.core.location"),
        "impetusd.core.protocol",
    ),
    "impetusd.cli": (
        *("impetusd.cli", "impetusd.control", "impetusd.launch", "impetusd.host", "impetusd.source", "impetusd.traces"),
        *("impetusd.probe", "impetusd.ledgerfile", "impetusd.reaper", "impetusd.instance", "impetusd.vetted"),
        *("impetusd.ports", "impetusd.folders", "impetusd.priority"),
        "impetusd.core",
    ),
    "impetusd.worker": ("impetusd.worker",),
    "impetusd.postgres": ("impetusd.postgres",),
    "impetus_service": ("impetus_service", "impetusd.worker"),
    "impetus_service.postgres": ("impetusd.postgres",),
}


def modules():
    """(dotted name, whether it is a package's __init__, path) of every module we ship."""
    for base in (ROOT, ROOT / "service"):
        for package in OURS:
            for path in sorted((base / package).rglob("*.py")):
                parts = path.relative_to(base).with_suffix("").parts
                is_package = parts[-1] == "__init__"
                yield ".".join(parts[:-1] if is_package else parts), is_package, path


def imported(source, module, *, is_package=False):
    """Every name of ours that `source` imports, as far down as it says: `from impetusd.core import ini` is
    impetusd.core.ini. Whatever the import stands under counts, TYPE_CHECKING too."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{stem}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] in OURS}


def rule(module):
    """The rule of the nearest package that has one; None where there is none."""
    if module in MAY:
        return MAY[module]
    package = module.rpartition(".")[0]
    # impetusd's own rule is for its __init__ alone: a new module or package beside core must get its own
    return rule(package) if package and package != "impetusd" else None


def broken(names, may):
    return {
        name
        for name in names
        if name not in {VERSION, "impetusd"}
        and not any(name == allowed or name.startswith(f"{allowed}.") for allowed in may)
    }


@pytest.mark.parametrize(("module", "is_package", "path"), [pytest.param(*found, id=found[0]) for found in modules()])
def test_a_module_imports_only_what_it_may(module, is_package, path):
    may = rule(module)
    assert may is not None, f"{module} has no rule; give it one in MAY"
    found = imported(path.read_text(encoding="utf-8"), module, is_package=is_package)
    assert broken(found, may) == set()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import impetusd.core.ini", {"impetusd.core.ini"}),
        ("from impetusd.core import ini, tree", {"impetusd.core.ini", "impetusd.core.tree"}),
        ("from impetusd import __version__", {"impetusd.__version__"}),
        ("from . import ini", {"impetusd.core.ini"}),
        ("from ..shim import wire", {"impetusd.shim.wire"}),
        ("def f():\n    from impetusd.cli.main import main", {"impetusd.cli.main.main"}),
        ("import supervisor.states, os", set()),
    ],
)
def test_every_way_to_import_is_seen(source, names):
    assert imported(source, "impetusd.core.config") == names


def test_what_is_not_allowed_is_found():
    assert broken({"impetusd.shim.wire.pack"}, MAY["impetusd.supervisor"]) == set()
    assert broken({"impetusd.shim.spawn"}, MAY["impetusd.supervisor"]) == {"impetusd.shim.spawn"}
    assert broken({"impetusd.corex"}, MAY["impetusd.core"]) == {"impetusd.corex"}
    assert rule("impetusd.gateway.http") is None
