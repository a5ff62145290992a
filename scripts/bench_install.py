"""The peers, each from its registry, in a folder of their own; and impetusd beside them, installed as an operator has it.

Nothing of the host is changed: Debian's packages are unpacked into the folder. What cannot be had is named with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_PEERS = ("supervisor", "circus", "gunicorn", "uvicorn", "granian")
DEBIAN_PEERS = ("runit", "s6")
BESIDE = ("aiohttp", "uvloop", "httptools")  # what the peers' servers run
HAVE = {  # a file that proves that a peer is installed
    "supervisor": "py/bin/supervisord",
    "circus": "py/bin/circusd",
    "gunicorn": "py/bin/gunicorn",
    "uvicorn": "py/bin/uvicorn",
    "granian": "py/bin/granian",
    "pm2": "npm/node_modules/.bin/pm2",
    "runit": "debian/usr/bin/runsvdir",
    "s6": "debian/usr/bin/s6-svscan",
}

S6_SUPERVISE = "./.supervise"  # where this s6-svscan looks for s6-supervise


class Missing(Exception):
    """A peer is not there; the text says why."""


class Peers:
    """The path of each command of each peer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.scratch = self.folder  # the parent folder of everything measured
        self.programs: dict[str, str] = {}
        bins = [self.folder / place for place in ("py/bin", "npm/node_modules/.bin", "debian/usr/bin", "debian/bin")]
        self.bins = [*bins, self.folder / "debian/sbin"]
        libs = [str(each) for each in self.folder.glob("debian/usr/lib/*") if each.is_dir()]
        libs += [str(each) for each in self.folder.glob("debian/lib/*") if each.is_dir()]
        self.env = {
            "PATH": ":".join([*map(str, self.bins), os.environ["PATH"]]),
            **({"LD_LIBRARY_PATH": ":".join(libs)} if libs else {}),
        }
        self.missing: dict[str, str] = {}
        stored = self.folder / "missing.json"
        reasons = json.loads(stored.read_text()) if stored.exists() else {}
        for peer, place in HAVE.items():
            if not (self.folder / place).exists():
                self.missing[peer] = reasons.get(peer, f"not installed in {self.folder}")

    def need(self, command: str) -> str:
        """Its path. Raises Missing."""
        for folder in self.bins:
            if (folder / command).exists():
                return str(folder / command)
        raise Missing(f"{command} is not there")


def tried(*command: str, cwd: Path | None = None) -> str:
    """Run it; the last line that it wrote when it failed, or "" when it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return f"{Path(command[0]).name} {' '.join(command[1:3])}: {lines[-1] if lines else f'exit {done.returncode}'}"


def install(folder: Path, only: Collection[str] = tuple(HAVE)) -> None:
    """Install the missing ones of these peers, and impetusd anew. missing.json records why one could not be
    installed."""
    folder.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    wanted = {peer for peer in only if not (folder / HAVE[peer]).exists()}
    pip = [str(folder / "py/bin/python"), "-m", "pip", "install", "-q"]
    python = [peer for peer in PYTHON_PEERS if peer in wanted]
    if python:
        fault = tried(sys.executable, "-m", "venv", str(folder / "py")) or tried(*pip, *BESIDE)
        if fault or tried(*pip, *python):  # all at once, else each by itself
            reasons |= {peer: why for peer in python if (why := fault or tried(*pip, peer))}
    if "pm2" in wanted and (why := _npm(folder / "npm", "pm2")):
        reasons["pm2"] = why
    for peer in DEBIAN_PEERS:
        if peer in wanted and (why := _debian(folder, peer)):
            reasons[peer] = why
    (folder / "missing.json").write_text(json.dumps(reasons))
    _ourselves(folder)


def _npm(folder: Path, package: str) -> str:
    if shutil.which("npm") is None:
        return "there is no npm on this host"
    return tried("npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", package)


def _debian(folder: Path, package: str) -> str:
    """Download a package with the libraries of its own, and unpack them; the host keeps what it has."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return "this host is no Debian"
    depends = ["apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"]
    depends += ["--no-breaks", "--no-replaces", "--no-enhances", package]
    listed = subprocess.run(depends, capture_output=True, text=True, check=False).stdout
    libraries = set(re.findall(r"^(lib(?:skarnet|execline|s6-)\S+)$", listed, re.MULTILINE))
    packages = folder / "deb" / package
    packages.mkdir(parents=True, exist_ok=True)
    if why := tried("apt-get", "download", package, *sorted(libraries), cwd=packages):
        return f"{why} (apt-get update may help)"
    for each in packages.iterdir():
        if why := tried("dpkg", "-x", str(each), str(folder / "debian")):
            return why
    if package == "s6":  # it executes an absolute path, where nothing is: have it follow a link in the scanned folder
        scanner = folder / "debian/usr/bin/s6-svscan"
        there = b"/usr/bin/s6-supervise"
        scanner.write_bytes(scanner.read_bytes().replace(there, S6_SUPERVISE.encode().ljust(len(there), b"\0")))
    return ""


def _ourselves(folder: Path) -> None:
    """Not editable: as it is used. Raises SystemExit when that fails."""
    python = folder / "ours/bin/python"
    why = "" if python.exists() else tried(sys.executable, "-m", "venv", str(folder / "ours"))
    pip = [str(python), "-m", "pip", "install", "-q"]
    why = why or tried(*pip, f"{ROOT}[asgi]") or tried(*pip, "--force-reinstall", "--no-deps", str(ROOT))
    if why:
        raise SystemExit(f"scripts/bench peers: impetusd could not be installed into {folder}: {why}")
