"""What `impetusd export` writes, run for real: conf/impetusd.ini and two recipes, in one image, under podman and on a Swarm.

The image is made here, of a Debian by debootstrap. What runs containers is started in namespaces of its own (`inside.py`):
its processes end with the first of them, its mounts and its network go with the namespaces. What the kernel keeps outside of
those, cgroups and files, has a name and a folder of this run, and is removed. Each step prints one line.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
IMPETUSD = str(ROOT / ".venv/bin/impetusd")
NEEDED = ("podman", "runc", "iptables", "debootstrap", "dpkg-deb", "nsenter", "ip")
DEBS = ("docker.io", "containerd", "tini", "catatonit")  # dockerd and docker, its containerd and init; podman's pause
PACKAGES = ("python3", "python3-venv", "postgresql-15", "ca-certificates")  # of the image's base
IMAGE = "localhost/shop:1"
RECIPES = {"Flask": "/srv/flask", "Starlette": "/srv/starlette"}
FLASK = """\
from flask import Flask

def create_app():
    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: "flask")
    return app
"""
STARLETTE = """\
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def home(request):
    return PlainTextResponse("starlette")

app = Starlette(routes=[Route("/", home)])
"""
ENOUGH = 12 << 30  # bytes of memory that are free: then all files are in there
# podman as this host's kernel and cgroups allow it.
CONTAINERS = """\
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=10000:10000"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
events_logger = "file"
cgroup_manager = "cgroupfs"
"""


def run(*argv: str | Path, cwd: Path | None = None, code: int | None = 0, **env: str) -> str:
    """What it printed on standard output. AssertionError with all that it said if it ended otherwise."""
    done = subprocess.run(
        argv, cwd=cwd, check=False, capture_output=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )  # fmt: skip
    assert code is None or done.returncode == code, f"{argv} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def podman(folder: Path) -> list[str | Path]:
    """The command, with all that it keeps in the folder."""
    places = {"root": "podman", "runroot": "run", "network-config-dir": "networks"}
    return ["podman", *(f"--{option}={folder / name}" for option, name in places.items())]


def unpack(folder: Path) -> None:
    """Docker and what podman needs besides, from Debian's packages."""
    debs = folder / "debs"
    debs.mkdir()
    run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *DEBS, cwd=debs)
    for deb in sorted(debs.iterdir()):
        run("dpkg-deb", "-x", deb, folder / "docker")


def project(folder: Path) -> Path:
    """A folder with two apps, an INI file of their recipes' blocks, and what they need. The first serves others, too."""
    srv = folder / "srv"
    for path, text in {
        "flask/shop.py": FLASK,
        "starlette/shop/app.py": STARLETTE,
        "starlette/shop/__init__.py": "",
    }.items():
        (srv / path).parent.mkdir(parents=True, exist_ok=True)
        (srv / path).write_text(text)
    recipes = (ROOT / "impetusd/help/recipes.md").read_text()
    blocks = [re.search(rf"^## {title}\n.*?^```ini\n(.*?)^```", recipes, re.DOTALL | re.MULTILINE) for title in RECIPES]
    assert all(blocks)
    ini = "\n".join(block[1] for block in blocks if block).replace("/srv/", f"{srv}/")
    (srv / "impetusd.ini").write_text(ini.replace("127.0.0.1:8007", "0.0.0.0:8007"))
    (srv / "requirements.txt").write_text("flask\nstarlette\n")
    (srv / ".env").write_text("API_KEY=must-not-get-into-the-image\n")
    (srv / "deploy").mkdir()
    (srv / "deploy" / "x.env").write_text("API_KEY=must-not-get-into-the-image\n")
    return srv


def image(folder: Path, srv: Path, command: list[str | Path], base: Path | None) -> None:
    """The image, as the Containerfile has it, but for its base."""
    if base is None:
        base, root = folder / "base.tar", folder / "base"
        run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", root)
        run("tar", "-C", root, "--exclude=./var/cache/apt", "--exclude=./var/lib/apt/lists", "-cf", base, ".")
        shutil.rmtree(root)
    run(*command, "import", "-q", base, "localhost/base")
    dist = folder / "dist"
    run(ROOT / ".venv/bin/pip", "wheel", "-q", "--no-deps", "-w", dist, ROOT)
    wheel = next(dist.iterdir()).name
    run(IMPETUSD, "-c", srv / "impetusd.ini", "export", "image", "-o", srv)
    given = [path for path in ("/etc/ssl/certs", "/etc/pip.conf", "/etc/xdg/pip") if os.path.exists(path)]
    volumes = [f"--volume={dist}:/dist:ro", *(f"--volume={path}:{path}:ro" for path in given)]
    arguments = ("--build-arg=BASE=localhost/base", f"--build-arg=IMPETUSD=/dist/{wheel}[asgi,wsgi,service]")
    run(
        *command, "build", "-q", "--format=docker", "--isolation=chroot", "--network=host", *volumes, *arguments, "-t", IMAGE,
        "-f", srv / "Containerfile", srv,
    )  # fmt: skip
    shutil.rmtree(dist)


def exported(folder: Path, srv: Path) -> None:
    """What the engines are given: two compose folders, and two files of Kubernetes."""
    sample = ROOT / "conf/impetusd.ini"
    database = {"DATABASE_URL": "postgresql://postgres@db/postgres"}
    # What podman runs shares one host's ports, so all instances of a unit are in one container there.
    for name, conf, env in (("impetus", sample, database), ("recipes", srv / "impetusd.ini", {})):
        said = ("--name", name, "--image", IMAGE)
        code = 1 if name == "impetus" else 0  # its web page is of one host
        run(IMPETUSD, "-c", conf, "export", "compose", "--dnsrr", "-o", folder / name, *said, code=code, **env)
        out = run(IMPETUSD, "-c", conf, "export", "kubernetes", "--per-container=9", *said, code=code, **env)
        (folder / f"{name}.yaml").write_text(out)


def steps(folder: Path, base: Path | None) -> Iterator[str]:
    """Do one step after another; what each has shown. Raises AssertionError."""
    (folder / "containers.conf").write_text(CONTAINERS)
    os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")
    command = podman(folder)
    unpack(folder)
    srv = project(folder)
    image(folder, srv, command, base)
    size = int(run(*command, "image", "inspect", "--format={{.Size}}", IMAGE)) >> 20
    found = run(
        *command,
        "run",
        "--rm",
        "--network=none",
        "--entrypoint=/usr/bin/find",
        IMAGE,
        "/app",
        "-type",
        "f",
    )
    files = {line.removeprefix("/app/") for line in found.splitlines()}
    assert files == {"flask/shop.py", "starlette/shop/app.py", "starlette/shop/__init__.py", "requirements.txt"}, files
    yield f"image: built of export image's Containerfile, {size} MB with Debian and PostgreSQL, no secret and no INI file in it"
    exported(folder, srv)
    yield "exported: conf/impetusd.ini and two recipes, for compose and for Kubernetes"
    run(*command, "save", "-q", "-o", folder / "image.tar", IMAGE)
    alone = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", sys.executable]
    with subprocess.Popen([*alone, Path(__file__).with_name("inside.py"), folder], stdout=subprocess.PIPE, stdin=subprocess.PIPE, encoding="utf-8") as inner:  # fmt: skip
        assert inner.stdout is not None
        try:
            for line in inner.stdout:
                yield line.rstrip("\n")
        finally:
            inner.kill()
    assert inner.returncode == 0, f"it ended with {inner.returncode}"


def clear(folder: Path) -> None:
    """Remove what outlives the namespaces: the cgroups, once the kernel has let go of the last process, and the files."""
    groups = Path("/sys/fs/cgroup")
    for top in (*groups.glob(folder.name), *groups.glob(f"*/{folder.name}")):
        for each, _, _ in os.walk(top, topdown=False):
            wait_for(lambda each=each: _removed(each), each)
    for pods in groups.glob(
        "*/libpod_parent"
    ):  # podman's name for those of pods; who else has processes there keeps it
        for each, _, _ in os.walk(pods, topdown=False):
            if not Path(each, "cgroup.procs").read_text() and not next(os.walk(each))[1]:
                wait_for(lambda each=each: _removed(each), each)
    # podman's storage is a mount, and the whole folder is one if it is in memory.
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount == str(folder) or mount.startswith(f"{folder}/"):
            run("umount", "-l", mount)
    shutil.rmtree(folder)


def _removed(group: str | Path) -> bool:
    try:
        os.rmdir(group)
    except OSError:
        return not os.path.isdir(group)
    return True


def main(base: Path | None) -> int:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if os.geteuid() or missing:
        said = (
            f"this host lacks {', '.join(missing)}: apt-get install podman runc iptables debootstrap"
            if missing
            else "run it as root"
        )
        print(f"try-export: {said}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of what clears up
    folder = Path(tempfile.mkdtemp(prefix="impetusd-try-export-"))
    try:
        memory = re.search(r"^MemAvailable: +(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if memory and int(memory[1]) << 10 > ENOUGH:  # five copies of the image are written, and removed
            run("mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", folder)
        for line in steps(folder, base):
            print(line, flush=True)
    except AssertionError as error:
        print(f"try-export: {error}", file=sys.stderr)
        return 1
    finally:
        clear(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if sys.argv[1:] else None))
