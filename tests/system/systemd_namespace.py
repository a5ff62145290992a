"""The host's own systemd as PID 1 of fresh namespaces, over a throw-away copy of the host's files: up in a second.

Nothing that is done in there reaches the host: files change in an overlay in memory, the network is a loopback of its own,
and every process is below one that takes all of them with it. A keeper process does the making and the clearing away. It
ends when its stdin does, so also when the process of the tests is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from waiting import wait_for

SYSTEMD = "/lib/systemd/systemd"
ROOT = Path(__file__).resolve().parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 60.0  # seconds; only a failure ever waits for it
NEEDED = (SYSTEMD, *(f"/usr/bin/{name}" for name in ("unshare", "nsenter", "setpriv", "systemctl", "journalctl")))

# What would look for hardware, terminals or a network that is not there, and what takes a while.
MASKED = """
getty@tty1.service serial-getty@ttyS0.service systemd-udevd.service systemd-udev-trigger.service systemd-logind.service
systemd-timesyncd.service systemd-networkd.service systemd-resolved.service systemd-udevd-control.socket
systemd-udevd-kernel.socket systemd-tmpfiles-setup.service systemd-journal-flush.service systemd-sysctl.service
systemd-modules-load.service systemd-firstboot.service ldconfig.service dev-hugepages.mount dev-mqueue.mount
sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount sys-kernel-config.mount
"""

# Runs as PID 1 of the new namespaces and becomes systemd: $1 is a folder to work in, $2 one that is copied over the host's
# files, $3 the units to mask, then what is to be visible as it is outside, though it may be on another file system than /.
INSIDE = """
set -eu
work=$1 seed=$2 masked=$3; shift 3
mount -t tmpfs tmpfs "$work"; mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
cd "$work/root"
for path; do mkdir -p ".$path"; mount --rbind "$path" ".$path"; done
mount -t proc proc proc; mount -t tmpfs tmpfs run; mount -t sysfs -o ro sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs dev; mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts; mount -t tmpfs tmpfs dev/shm
for name in null zero full random urandom tty; do : > "dev/$name"; mount --bind "/dev/$name" "dev/$name"; done
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd; ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
: > etc/fstab; : > etc/machine-id; rm -rf var/log/journal
for unit in $masked; do ln -sf /dev/null "etc/systemd/system/$unit"; done
rm -rf etc/systemd/system/*.wants lib/systemd/system/multi-user.target.wants # what the host itself runs
cp -r "$seed/." .
ip link set lo up 2>/dev/null || :
mkdir -p old; pivot_root . old; umount -l old
echo begun
exec env -i container=sandbox "PATH=$PATH" SYSTEMD --unit=multi-user.target --log-target=journal --show-status=no \\
    </dev/null >/dev/null 2>&1
""".replace("SYSTEMD", SYSTEMD)


class Missing(Exception):
    """This host cannot have such a namespace; says why."""


class Failed(Exception):
    """A command inside did not end as it should have."""


class Namespace:
    """A booted host. A context manager, which leaves nothing behind. Raises Missing where it cannot be."""

    def __init__(self, files: Mapping[str, str], wants: Iterable[str] = ()) -> None:
        """`files` are written before it boots, by their paths, scripts as executables; `wants` are units that are enabled."""
        self._files = {**files, **{f"/etc/systemd/system/multi-user.target.wants/{unit}": "" for unit in wants}}
        if os.geteuid() != 0:
            raise Missing("needs root, to make namespaces and mounts")
        lacks = [path for path in NEEDED if not os.access(path, os.X_OK)]
        if lacks:
            raise Missing(f"needs {', '.join(lacks)}")

    def __enter__(self) -> Self:
        self._seed = Path(tempfile.mkdtemp(prefix="impn", dir="/tmp"))
        for inside, text in self._files.items():
            path = self._seed / inside[1:]
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent.suffix == ".wants":
                path.symlink_to(f"../{path.name}")
            else:
                path.write_text(text, encoding="utf-8")
                path.chmod(0o755 if text.startswith("#!") else 0o644)
        self._keeper = subprocess.Popen(
            [sys.executable, __file__, str(self._seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._keeper.stdout is not None
        word, _, rest = self._keeper.stdout.readline().strip().partition(" ")
        if word != "pid":
            self.__exit__()
            raise Missing(f"systemd cannot be PID 1 of a namespace here: {rest or 'the keeper ended'}")
        self.pid = int(rest)
        try:
            wait_for(
                lambda: self.run("systemctl", "is-system-running", code=None).strip() == "running", "systemd to be up"
            )
        except BaseException:
            print(self.run("systemctl", "--failed", code=None), self.run("journalctl", "-n50", code=None))
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        left = self._keeper.stdout.read()
        self._keeper.stdout.close()
        code = self._keeper.wait()
        assert not left, left
        assert code == 0, f"the keeper ended with {code}"

    def popen(
        self, *argv: str, env: dict[str, str] | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        """Start a command inside, as root, in an environment of its own."""
        variables = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **(env or {})}
        given = [f"{name}={value}" for name, value in variables.items()]
        enter = [
            "nsenter",
            f"--target={self.pid}",
            *(f"--{each}" for each in ("mount", "uts", "ipc", "net", "pid", "cgroup")),
        ]
        command = [*enter, "env", "--ignore-environment", "--chdir=/", *given, *argv]
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *argv: str, code: int | None = 0, env: dict[str, str] | None = None) -> str:
        """Run a command inside; what it printed. Failed if it does not exit with `code`, unless that is None."""
        process = self.popen(*argv, env=env)
        try:
            out, _ = process.communicate(timeout=PATIENCE)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if code is not None and process.returncode != code:
            raise Failed(f"{' '.join(argv)}: exit {process.returncode}, not {code}:\n{out}")
        return out

    def path(self, inside: str) -> Path:
        """A path of theirs, as it is reached from out here. Absolute links in it lead elsewhere."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, inside: str, text: str) -> None:
        """Write a file inside, with its folder."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def processes(self) -> dict[int, str]:
        """The command lines of all processes inside, by the pids that they have inside."""
        found = {}
        for folder in self.path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    command = (folder / "cmdline").read_bytes()
                except OSError:
                    continue
                if command:
                    found[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
        return found


# The keeper.


def keep(seed: str) -> None:
    """Make the namespace, say `pid N` or `missing WHY`, wait for the end of stdin, clear away."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    work = Path(tempfile.mkdtemp(prefix="impn", dir="/tmp"))
    group: Path | None = None
    outer: subprocess.Popen[str] | None = None
    try:
        group = _cgroup()
        outer = _unshare(work, seed, group)
        print(f"pid {_begun(outer)}", flush=True)
        sys.stdin.read()
    except Missing as why:
        print(f"missing {why}", flush=True)
        sys.stdin.read()
    finally:
        if outer is not None:
            outer.kill()  # unshare takes PID 1 with it, and that everything else
            outer.communicate()
        if group is not None:
            _remove_cgroups(group)
        shutil.rmtree(work)
        shutil.rmtree(seed)


def _cgroup() -> Path:
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line]
    if not mounts:
        raise Missing("no cgroup v2 is mounted")
    group = Path(mounts[0][4]) / f"impetusd-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise Missing(f"{group} cannot be made: {error.strerror}") from None
    return group


def _unshare(work: Path, seed: str, group: Path) -> subprocess.Popen[str]:
    """systemd must not take the host's cgroups for its own, so it is born in one of ours."""
    unshare = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--net", "--fork", "--kill-child"]
    inside = ["sh", "-c", INSIDE, "sh", str(work), seed, " ".join(MASKED.split()), *_elsewhere()]
    return subprocess.Popen(
        [
            *("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec setpriv --pdeathsig KILL "$@"', str(group)),
            *(*unshare, "--propagation", "private", "--", *inside),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": PATH},
    )


def _elsewhere() -> list[str]:
    """The project and the interpreter, where they are on other file systems than /: the overlay has that one only."""
    here = os.stat("/").st_dev
    wanted = [str(ROOT), sys.prefix, sys.base_prefix]
    return list(dict.fromkeys(path for path in wanted if os.stat(path).st_dev != here))


def _begun(outer: subprocess.Popen[str]) -> int:
    """The pid of PID 1, once it is about to become systemd."""
    assert outer.stdout is not None
    said = []
    for line in outer.stdout:
        if line == "begun\n":
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
            return int(children[0])
        said.append(line.strip())
    raise Missing(" ".join(said) or f"unshare ended with {outer.wait()}")


def _remove_cgroups(group: Path) -> None:
    """Empty in a moment: the last processes are on their way out."""

    def gone() -> bool:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not group.exists()

    try:
        wait_for(gone, f"{group} to be empty", PATIENCE)
    except AssertionError:
        print(f"left over: {group}")


if __name__ == "__main__":
    keep(sys.argv[1])
