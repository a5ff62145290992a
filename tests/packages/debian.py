"""A .deb of impetusd from its first installation to its purge, under a real systemd, with requests all the while.

The host's own files, in an overlay in memory, are the Debian that it is installed on (systemd_namespace). Each step prints one
line. The first that is not as it should be ends the run with what was seen.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from instance import Status
from systemd_namespace import ROOT, Failed, Missing, Namespace
from waiting import wait_for

PORT = 8080
POLICY = "/usr/sbin/policy-rc.d"  # by which images of containers forbid packages to start services
INI = f"""
[pool:web]
app = main:app
cwd = /srv/shop
listen = 127.0.0.1:{PORT}
instances = 2
[program:api]
command = sleep infinity
user = impetusd
"""
APP = """import os
from aiohttp import web
async def pid(request: web.Request) -> web.Response:
    return web.Response(text=str(os.getpid()))
app = web.Application()
app.router.add_get("/", pid)
"""
RATE, CLIENTS = 700, 64  # requests a second; half of the clients keep their connections
BROKEN = '\nraise RuntimeError("half an installation")\n'


class Load:
    """What clients that never try a request again have seen; see tests/chaos/client.py."""

    def __init__(self, client: subprocess.Popen[str]) -> None:
        self._client = client
        self._asked = 0.0  # time.monotonic()
        self.answered = 0
        self.failed: list[object] = []
        wait_for(lambda: self.rate() or self.failed, "answers")
        self.answered = 0

    def rate(self) -> int:
        """Answers a second since this was called before."""
        assert self._client.stdin is not None
        print(file=self._client.stdin, flush=True)
        answered = self._seen()
        since, self._asked = self._asked, time.monotonic()
        return round(answered / (self._asked - since))

    def end(self) -> None:
        """Returns when every request has had its answer or has failed."""
        assert self._client.stdin is not None
        self._client.stdin.close()
        self._seen()

    def _seen(self) -> int:
        assert self._client.stdout is not None
        line = self._client.stdout.readline()
        assert line.startswith("{"), f"the clients ended: {line}{self._client.stdout.read()}"
        seen = json.loads(line)
        self.answered += seen["answered"]
        self.failed += seen["failed"]
        return int(seen["answered"])


class Debian:
    """The booted host, and what an administrator types there."""

    def __init__(self, host: Namespace, folder: Path) -> None:
        self.host = host
        self._folder = folder

    def run(self, *argv: str, code: int | None = 0) -> str:
        return self.host.run(*argv, code=code)

    def install(self, deb: Path) -> str:
        """What dpkg printed."""
        shutil.copy(deb, self.host.path("/srv/impetusd.deb"))
        return self.run("dpkg", "--install", "/srv/impetusd.deb")

    def status(self) -> Status:
        return Status(json.loads(self.run("impetusd", "status", "--json", code=None)))

    @contextlib.contextmanager
    def load(self) -> Iterator[Load]:
        """Requests to PORT while the block lasts."""
        client = f"{ROOT}/tests/chaos/client.py", *map(str, (PORT, RATE, CLIENTS))
        with self.host.popen(f"{ROOT}/.venv/bin/python", *client, stdin=subprocess.PIPE) as process:
            load = Load(process)
            yield load
            load.end()

    def ours(self) -> dict[int, str]:
        """Processes inside that run what the package has installed, or what its INI file names."""
        marks = ("/usr/lib/impetusd", "sleep infinity")
        return {pid: line for pid, line in self.host.processes().items() if any(mark in line for mark in marks)}

    def files(self) -> set[str]:
        """Paths that have the package's name."""
        roots = ("/etc", "/lib/systemd", "/run", "/usr", "/var")
        out = self.run("find", *roots, "-xdev", "-iname", "*impetusd*", "-not", "-path", "/var/lib/dpkg/info/*")
        return set(out.split())


def variant(deb: Path, folder: Path, version: str, broken: str = "") -> Path:
    """The package as another version, which is the same but for its number, and for code that cannot start if `broken`."""
    root = folder / version
    subprocess.run(["dpkg-deb", "--raw-extract", deb, root], check=True)
    package = next(root.glob("usr/lib/impetusd/lib/python3.*/site-packages/impetusd"))
    changed = [package / "__init__.py"]
    changed[0].write_text(f'__version__ = "{version}"\n')
    if broken:
        changed.append(package / broken)
        changed[-1].write_text(changed[-1].read_text() + BROKEN)
    subprocess.run(
        ["/usr/bin/python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", *changed],
        check=True,
    )
    control = root / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text(
        "\n".join(f"Version: {version}-1" if line.startswith("Version:") else line for line in lines) + "\n"
    )
    out = folder / f"{version}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", "-Zgzip", "-z1", root, out], check=True, stdout=subprocess.DEVNULL
    )
    return out


def steps(debian: Debian, deb: Path, folder: Path) -> Iterator[str]:
    """Do one step after another; what each has shown. Raises AssertionError, Failed."""
    newer, broken = variant(deb, folder, "99.1"), variant(deb, folder, "99.2", broken="supervisor/slots/engine.py")
    before = debian.files()
    debian.install(deb)
    assert debian.run("systemctl", "is-enabled", "impetusd").strip() == "enabled"
    assert debian.run("systemctl", "is-active", "impetusd").strip() == "active"
    assert debian.run("dpkg", "--verify", "impetusd") == ""
    assert debian.run("impetusd", "check").startswith("/etc/impetusd/impetusd.ini is OK")
    assert debian.run("getent", "passwd", "impetusd")
    yield "installed: enabled and running under systemd, every file as packed, a user of its own"

    debian.host.write("/srv/shop/main.py", APP)
    conf = debian.host.path("/etc/impetusd/impetusd.ini")
    conf.write_text(conf.read_text() + INI)
    debian.run("systemctl", "reload", "impetusd")
    first = debian.status()
    assert first.all_running, first
    assert set(first.rows) >= {"web:0", "web:1", "api"}, first
    yield f"configured: {len(first.rows)} processes run"

    rates = []
    with debian.load() as load:
        out = debian.install(newer)
        rates.append(load.rate())
        second = debian.status()
        assert "→ 99.1: the code on disk is now running" in out, out
        assert second.fields["version"] == "99.1"
        assert (second.shim, second.pids) == (first.shim, first.pids), (first, second)
        assert second.supervisor != first.supervisor
        assert "[pool:web]" in conf.read_text()
        yield "upgraded: the new code is in charge, every process has its pid, the INI file is the administrator's"

        load.rate()
        out = debian.install(broken)
        rates.append(load.rate())
        third = debian.status()
        assert "/etc/impetusd/impetusd.ini still runs the code of 99.1-1" in out, out
        assert "half an installation" in out, out
        assert (third.fields["version"], third.supervisor, third.pids) == ("99.1", second.supervisor, first.pids), third
        yield "upgraded to code that cannot start: dpkg is done, the code of before goes on, the reason is on the screen"

        load.rate()
        debian.install(deb)
        rates.append(load.rate())
        fourth = debian.status()
        assert fourth.supervisor != third.supervisor
        assert (fourth.shim, fourth.pids) == (first.shim, first.pids), (first, fourth)
        yield "downgraded: the code of before is in charge, every process has its pid"
    assert not load.failed, f"{len(load.failed)} of {load.answered} requests failed: {load.failed[:5]}"
    yield f"requests meanwhile: {load.answered} answered, 0 failed; a second: {', '.join(map(str, rates))}"

    debian.run("dpkg", "--remove", "impetusd")
    assert not debian.ours(), debian.ours()
    assert not debian.host.path("/usr/lib/impetusd").exists()
    assert conf.exists()
    yield "removed: all is stopped, no file is left in /usr, the INI file stays"

    debian.install(deb)
    wait_for(lambda: debian.status().all_running, "what the INI file names to run again")
    yield "installed again: it runs what the INI file names"

    debian.run("dpkg", "--purge", "impetusd")
    assert not debian.ours(), debian.ours()
    assert debian.files() == before, debian.files() ^ before
    yield "purged: no process and no file is left"


def main(deb: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Namespace({POLICY: "#!/bin/sh\nexit 0\n"}) as host:
                for line in steps(Debian(host, Path(folder)), deb, Path(folder)):
                    print(line, flush=True)
        except Missing as why:
            print(f"try-package: {why}", file=sys.stderr)
            return 1
        except (AssertionError, Failed) as error:
            print(f"try-package: {error or 'an assertion failed'}", file=sys.stderr)
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
