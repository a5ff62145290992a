"""Who may import whom (impetusd help design): read from the syntax trees, so that no import hides in a function."""

from __future__ import annotations

import ast
import configparser
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("impetusd", "impetus_service")
ANYBODY = {"impetusd", "impetusd.__version__", "impetusd.bare"}
ANYBODY |= {f"impetusd.bare.{name}" for name in ("deque", "once", "partial", "signal", "socket")}

# Module or package -> what of ours its modules may import, besides what anybody may; a package's own modules are named too.
# The nearest name counts. In words: linux and core know nobody; files reads for all; the shim knows linux; the supervisor
# and the client know core, linux, files, and what the shim says or writes down (the supervisor also what workers write into
# the page that it keeps for them); the command line knows the client.
SHIM_LINUX = tuple(
    f"impetusd.linux.{name}"
    for name in ("cgroup", "clone", "errors", "getfd", "inotify", "libc", "priority", "proc", "procfs", "usage")
)
# In the shim, what saves the state and what restores it know the state, and none of the parts that act on it.
SHIM_STATE = tuple(f"impetusd.shim.{name}" for name in ("child", "failures", "leftovers", "log", "state"))
MAY = {
    "impetusd": (),
    "impetusd.bare": (),
    "impetusd.core": ("impetusd.core.protocol", "impetusd.core.units", "impetusd.core.values"),
    "impetusd.core.config": ("impetusd.core",),
    "impetusd.core.rules": (
        "impetusd.core.config",
        "impetusd.core.reasons",
        "impetusd.core.rules",
        "impetusd.core.units",
        "impetusd.core.values",
    ),
    "impetusd.core.explain": ("impetusd.core",),
    "impetusd.linux": ("impetusd.linux",),
    "impetusd.linux.host": ("impetusd.core.access", "impetusd.core.config.model", "impetusd.core.protocol"),
    "impetusd.linux.processes": ("impetusd.core.rules.memory", "impetusd.linux.procfs"),
    "impetusd.files": ("impetusd.core", "impetusd.files"),
    # The page's files alone: what serves them brings no more of ours.
    "impetusd.gateway.pages": ("impetusd.gateway.routes",),
    "impetusd.probe": ("impetusd.core.rules.health",),
    "impetusd.traces": ("impetusd.core.redact",),
    "impetusd.shim": ("impetusd.shim", *SHIM_LINUX),
    "impetusd.shim.state": ("impetusd.shim.child", "impetusd.shim.failures"),
    "impetusd.shim.tableline": (),
    "impetusd.shim.table": (*SHIM_STATE, "impetusd.shim.tableline", *SHIM_LINUX),
    "impetusd.shim.handover": (*SHIM_STATE, "impetusd.shim.loop", "impetusd.shim.spawn", *SHIM_LINUX),
    "impetusd.shim.orphans": (
        *(*SHIM_STATE, "impetusd.shim.descriptors", "impetusd.shim.table", "impetusd.shim.wire", *SHIM_LINUX),
    ),
    "impetusd.supervisor": (
        *("impetusd.core", "impetusd.linux", "impetusd.files", "impetusd.supervisor"),
        *("impetusd.shim.tableline", "impetusd.shim.wire"),
        *("impetusd.client.instance", "impetusd.client.ports", "impetusd.probe", "impetusd.traces"),
        # The pages of memory that workers share with each other, and with the supervisor.
        *("impetusd.worker.cells", "impetusd.worker.measures"),
    ),
    "impetusd.supervisor.disk": (
        *("impetusd.core", "impetusd.files", "impetusd.supervisor.disk", "impetusd.supervisor.faults"),
    ),
    "impetusd.supervisor.logs": (
        *(
            "impetusd.core",
            "impetusd.linux",
            "impetusd.files",
            "impetusd.supervisor.logs",
            "impetusd.supervisor.faults",
        ),
    ),
    "impetusd.client": (
        *("impetusd.client", "impetusd.core", "impetusd.files", "impetusd.linux.inet", "impetusd.linux.procfs"),
        "impetusd.shim.table",
    ),
    "impetusd.client.reaper": (
        *("impetusd.core.config.location", "impetusd.files.folders", "impetusd.linux.cgroup", "impetusd.linux.proc"),
        *("impetusd.shim.leftovers", "impetusd.shim.orphans", "impetusd.shim.table", "impetusd.shim.tableline"),
    ),
    # `impetusd exec` starts a process as the shim does, of what the supervisor would give it.
    "impetusd.client.execute": ("impetusd.core", "impetusd.shim.spawn", "impetusd.supervisor.start.childspec"),
    "impetusd.cli": (
        *("impetusd.cli", "impetusd.client", "impetusd.core", "impetusd.files", "impetusd.linux"),
        *("impetusd.probe", "impetusd.traces", "impetusd.interop.importing"),
        *("impetusd.interop.exporting", "impetusd.interop.takeover"),
        # who may log in is written by both
        *("impetusd.gateway.accessfile", "impetusd.gateway.passwords", "impetusd.gateway.tokens"),
    ),
    # Both are clients of the supervisor; the gateway reads what the observer writes, and takes the supervisor's threads.
    "impetusd.gateway": (
        *("impetusd.gateway", "impetusd.client", "impetusd.core", "impetusd.files", "impetusd.observer"),
        *("impetusd.interop", "impetusd.linux.host", "impetusd.linux.inotify", "impetusd.probe"),
        *("impetusd.supervisor.threads", "impetusd.worker.draining", "impetusd.worker.tls"),
    ),
    "impetusd.observer": (
        *("impetusd.observer", "impetusd.client", "impetusd.core", "impetusd.files"),
        *("impetusd.supervisor.threads", "impetusd.worker.notify"),
    ),
    # Other managers' protocols are clients of the supervisor, served by the gateway.
    "impetusd.interop": ("impetusd.interop", "impetusd.client.again", "impetusd.client.control", "impetusd.core"),
    # Reads other managers' files for the command line; the gateway has nothing of it.
    "impetusd.interop.importing": ("impetusd.interop.importing", "impetusd.core", "impetusd.files.vetted"),
    # Writes other engines' files for the command line; a key's fate is said as an import says it.
    "impetusd.interop.exporting": (
        *("impetusd.interop.exporting", "impetusd.interop.importing.model", "impetusd.interop.importing.rows"),
        "impetusd.core",
    ),
    # Moves what another manager runs, for the command line.
    "impetusd.interop.takeover": (
        *("impetusd.interop.takeover", "impetusd.interop.importing.model", "impetusd.core", "impetusd.linux"),
    ),
    "impetusd.worker": ("impetusd.worker",),
    "impetusd.worker.alone": (),
    "impetusd.postgres": ("impetusd.postgres",),
    "impetus_service": ("impetus_service", "impetusd.worker"),
    "impetus_service.kit": ("impetus_service.kit", "impetusd.worker.draining"),
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


@functools.cache
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
        if name not in ANYBODY and not any(name == allowed or name.startswith(f"{allowed}.") for allowed in may)
    }


def test_a_module_imports_only_what_it_may():
    unruly = {}
    for module, is_package, path in modules():
        may = rule(module)
        assert may is not None, f"{module} has no rule; give it one in MAY"
        found = imported(path.read_text(encoding="utf-8"), module, is_package=is_package)
        unruly[module] = broken(found, may)
    assert {module: names for module, names in unruly.items() if names} == {}


def test_the_shim_needs_the_standard_library_alone():
    """And what it uses of `linux`: it runs with -S, without site-packages."""
    for module, _, path in modules():
        if module in SHIM_LINUX or f"{module}.".startswith("impetusd.shim."):
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            found = {
                alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names
            }
            found |= {(node.module or "").partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
            assert found <= {"impetusd", *sys.stdlib_module_names}, module
            if module in SHIM_LINUX:
                assert not broken(imported(path.read_text(encoding="utf-8"), module), SHIM_LINUX), module


def test_the_shim_loads_no_module_that_would_cost_it_memory_for_as_long_as_it_lives():
    """Nor do those of the standard library that it uses."""
    code = f"import sys; sys.path.append({str(ROOT)!r}); import impetusd.shim.main; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert {"typing", "dataclasses", "contextlib", "asyncio"} & {*found.stdout.split()} == set()


def test_only_its_entry_point_imports_the_shims_main():
    found = {
        module
        for module, is_package, path in modules()
        for name in imported(path.read_text(encoding="utf-8"), module, is_package=is_package)
        if f"{name}.".startswith("impetusd.shim.main.")
    }
    assert found == {"impetusd.shim.__main__"}


def test_a_package_that_is_imported_brings_nothing_along():
    for module, is_package, path in modules():
        # `alone` stands for the whole package, in a Python that has none; it looks which one that is.
        if is_package and module.partition(".")[0] == "impetusd" and module != "impetusd.worker.alone.impetusd":
            found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in found), module


def circles(package):
    """The sets of modules of a package that import each other in a circle, under TYPE_CHECKING too."""
    arrows = {}
    known = {module for module, _, _ in modules()}
    for module, is_package, path in modules():
        if module.startswith(f"{package}."):
            found = imported(path.read_text(encoding="utf-8"), module, is_package=is_package)
            arrows[module] = {name if name in known else name.rpartition(".")[0] for name in found} - {module}
    reached = {module: set(to) & set(arrows) for module, to in arrows.items()}
    while True:
        further = {module: to.union(*(reached[each] for each in to)) for module, to in reached.items()}
        if further == reached:
            break
        reached = further
    found = {frozenset({each for each in to if module in reached[each]}) for module, to in reached.items()}
    return {frozenset(name.removeprefix(f"{package}.") for name in each) for each in found if each}


@pytest.mark.parametrize(
    ("package", "known"),
    [
        ("impetusd.client", set()),
        ("impetusd.core", set()),
        ("impetusd.files", set()),
        ("impetusd.linux", set()),
        ("impetusd.shim", set()),
        ("impetusd.supervisor.slots", set()),
        ("impetusd.supervisor", set()),
    ],
)
def test_no_modules_import_each_other_in_a_circle(package, known):
    assert circles(package) == known


def test_setup_cfg_names_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert {module for module, is_package, _ in modules() if is_package} == {*setup["options"]["packages"].split()}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import impetusd.core.config.ini", {"impetusd.core.config.ini"}),
        ("from impetusd.core import access, trust", {"impetusd.core.access", "impetusd.core.trust"}),
        ("from impetusd import __version__", {"impetusd.__version__"}),
        ("from . import ini", {"impetusd.core.config.ini"}),
        ("from ...shim import wire", {"impetusd.shim.wire"}),
        ("def f():\n    from impetusd.cli.main import main", {"impetusd.cli.main.main"}),
        ("import supervisor.states, os", set()),
    ],
)
def test_every_way_to_import_is_seen(source, names):
    assert imported(source, "impetusd.core.config.parser") == names


def test_what_is_not_allowed_is_found():
    assert broken({"impetusd.shim.wire.pack"}, MAY["impetusd.supervisor"]) == set()
    assert broken({"impetusd.shim.spawn"}, MAY["impetusd.supervisor"]) == {"impetusd.shim.spawn"}
    assert broken({"impetusd.corex"}, MAY["impetusd.core.config"]) == {"impetusd.corex"}
    assert rule("impetusd.linux.host") == MAY["impetusd.linux.host"]
    assert rule("impetusd.nowhere.http") is None


# What each process has of the standard library for as long as it lives, besides what Python itself has; for `status` it is
# what every call waits for. A module that is new here has its price in memory or time: 0.1 to 1 MB, 1 to 20 ms.
OF_THE_SHIM = "errno fcntl gc genericpath itertools math os posixpath resource select stat struct"
OF_THE_SUPERVISOR = (
    f"{OF_THE_SHIM} array asyncio bisect collections concurrent contextlib contextvars copy copyreg dataclasses enum fnmatch"
    " functools grp importlib keyword linecache mmap operator pwd re reprlib selectors signal socket supervisor threading"
    " traceback types warnings weakref zlib"
)
OF_STATUS = "collections copyreg enum errno fcntl functools genericpath itertools keyword operator os posixpath re reprlib select stat types zlib"
THE_SHIM = "import impetusd.shim.main"
# As in its __main__, and what it does first: a signal handler of the loop, and something for asyncio to log.
THE_SUPERVISOR = """
from impetusd.supervisor.late import Imports
with Imports():
    from impetusd import traces
    from impetusd.supervisor import daemon
import asyncio
async def main():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(1, print)
    loop.default_exception_handler({"message": "said", "exception": ValueError("why")})
traces.install()
asyncio.run(main())
"""
STATUS = "import impetusd.cli.main, impetusd.cli.status, impetusd.cli.screen.table, impetusd.core.config.pending"


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="what the standard library itself imports differs by version"
)
@pytest.mark.parametrize(
    ("code", "known"),
    [
        pytest.param(THE_SHIM, OF_THE_SHIM, id="shim"),
        pytest.param(THE_SUPERVISOR, OF_THE_SUPERVISOR, id="supervisor"),
        pytest.param(STATUS, OF_STATUS, id="status"),
    ],
)
def test_no_process_imports_more_of_the_standard_library_than_is_known(code, known):
    lines = [
        f"import sys; sys.path[:0] = {sys.path!r}; before = {{*sys.modules}}",
        code,
        "print(*(name for name in {*sys.modules} - before if sys.modules[name] is not None))",
    ]
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "\n".join(lines)], check=True, capture_output=True, encoding="utf-8"
    )
    found = {name.partition(".")[0] for name in said.stdout.split()}
    assert {name for name in found if not name.startswith("_")} - {"impetusd"} - {*known.split()} == set()
    assert ("ValueError: why" in said.stderr) == (code is THE_SUPERVISOR)
