"""A Containerfile for the app of an INI file, and what must not get into the image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from posixpath import basename, relpath
from typing import TYPE_CHECKING

from impetusd.core.config import envfile, node
from impetusd.interop.exporting import emit
from impetusd.interop.exporting.model import APP, CONF, DATA, TMP, UID
from impetusd.interop.exporting.ports import STATUS, listening

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from impetusd.core.config.model import Config, Unit

FILE, IGNORED = "Containerfile", ".dockerignore"
VENV = "/opt/venv"
LOCKS = ("requirements.txt", "pyproject.toml")  # what says what the app needs, the first that is there
# Programs that any image with Python has.
_THERE = frozenset({"python", "python3", "pip", "sh", "bash", "env", "sleep", "true", "false", "echo", "impetusd", "impetusd-service"})  # fmt: skip
_IGNORED = """\
# Secrets, and files that each host generates.
**/.env
**/.env.*
**/*.env
**/*.pem
**/*.key
**/id_rsa*
**/id_ed25519*
**/.netrc
**/.git
**/.venv
**/venv
**/__pycache__
**/*.pyc
**/node_modules
**/.*_cache
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known besides the INI file: `files` of base_dir, the version of Python ("3.13") and of impetusd."""

    files: Collection[str]
    python: str
    version: str
    name: str


def containerfile(config: Config, facts: Facts) -> str:
    """The text. The base is an argument of the build, as is what pip installs impetusd from."""
    return "\n".join(_lines(config, facts)) + "\n"


def _lines(config: Config, facts: Facts) -> Iterator[str]:
    lock = next((name for name in LOCKS if name in facts.files), "")
    ports = sorted({port.number for unit in _units(config) for port in listening(unit, "")[1]})
    yield from emit.comment(
        f"Made by impetusd export image. Build it in the folder base_dir:\n\n"
        f"  docker build -t {facts.name} -f {FILE} .        # or podman build --format docker\n\n"
        f"The INI file is mounted by what impetusd export compose or kubernetes writes, or by hand:\n\n"
        f"  docker run --read-only --tmpfs {TMP} -v ./web.ini:{CONF}:ro {facts.name}"
    ).splitlines()
    yield ""
    yield f"ARG BASE=docker.io/library/python:{facts.python}-slim-bookworm"
    yield "FROM $BASE AS build"
    yield f'ARG IMPETUSD="impetusd{_extras(config)}=={facts.version}"'
    yield f"RUN python3 -m venv {VENV}"
    yield "WORKDIR /build"
    if lock == "requirements.txt":  # alone, so that another version of the app installs nothing anew
        yield f"COPY {lock} ./"
        yield f"RUN {VENV}/bin/pip install --no-cache-dir -r {lock}"
    elif lock:
        yield "COPY . ."
        yield f"RUN {VENV}/bin/pip install --no-cache-dir ."
    yield f'RUN {VENV}/bin/pip install --no-cache-dir "$IMPETUSD"'
    yield ""
    yield "FROM $BASE"
    if programs := _programs(config):
        yield f"# The INI file also runs {', '.join(programs)}: install them here, or use another image for their units."
    yield f"RUN useradd --uid {UID} --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin app \\"
    yield f" && install -d -o {UID} -g {UID} -m 0755 {DATA}"
    yield f"COPY --from=build {VENV} {VENV}"
    yield f"WORKDIR {APP}"
    yield f"COPY . {APP}"
    yield f"ENV PATH={VENV}/bin:$PATH HOME={TMP} IMPETUSD_CONF={CONF} PYTHONDONTWRITEBYTECODE=1"
    yield "# A number, so that an orchestrator can see that it is not root. Only /tmp and /data are written to."
    yield f"USER {UID}:{UID}"
    if ports:
        yield f"EXPOSE {' '.join(map(str, ports))}"
    yield "STOPSIGNAL SIGTERM"
    yield f"HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD {json.dumps(list(STATUS))}"
    yield 'ENTRYPOINT ["impetusd"]'
    yield 'CMD ["run"]'


def ignored(config: Config, files: Collection[str]) -> str:
    """What `COPY .` leaves out: what may hold secrets, the INI files too, and the folders of impetusd. `files`: the paths of
    the INI files.
    """
    base = config.paths.base_dir
    units = config.with_jobs()  # the disabled ones, too
    env_files = [envfile.named(path)[0] for unit in units for path in unit.env_file]
    paths = [*files, *env_files, config.paths.run_dir, config.paths.state_dir, config.paths.log_dir]
    inside = sorted({relpath(path, base) for path in paths})
    own = [path for path in inside if not path.startswith("..") and path != "."]
    return (
        _IGNORED
        + "# INI files and env_files, which may contain secrets, and impetusd's folders on this host.\n"
        + "".join(f"{_literal(path)}\n" for path in own)
        + f"{FILE}\n{IGNORED}\n"
    )


def _literal(path: str) -> str:
    """A path in which nothing is a pattern."""
    return "".join(f"\\{char}" if char in "*?[]\\!#" else "?" if not char.isprintable() else char for char in path)


def _units(config: Config) -> Iterator[Unit]:
    yield from (unit for unit in config.units.values() if unit.made is None and unit.enabled)
    yield from (timer.unit for timer in config.timers.values() if timer.enabled)


def _extras(config: Config) -> str:
    """What impetusd is installed with."""
    found = set()
    for unit in _units(config):
        if unit.app:
            found |= {"asgi", "wsgi"} if unit.protocol == "auto" else {unit.protocol} - {"aiohttp"}
        if unit.app.startswith("impetus_service.") or unit.command[:1] == ("impetusd-service",):
            found.add("service")
    return f"[{','.join(sorted(found))}]" if found else ""


def _programs(config: Config) -> list[str]:
    """The commands that the base has not, as far as their names tell."""
    found = dict[str, None]()
    for unit in _units(config):
        name = basename(unit.command[0]) if unit.command else ""
        if name and (node.is_node(unit.command) or name not in _THERE) and name.isprintable():
            found[name] = None
    return list(found)
