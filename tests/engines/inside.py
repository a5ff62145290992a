"""Podman and a Swarm of three nodes, in the namespaces that `exporting.py` has made: the first process of them is this one.

A node is a network, mount, PID and UTS namespace of its own below these, so that all of it ends at once, as with a power cut.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path

from exporting import IMAGE, podman, run
from waiting import wait_for

NODES = (1, 2, 3)
LONG = 180.0  # seconds; only a failure waits for it
INITDB = "export PATH=/usr/lib/postgresql/15/bin:$PATH; initdb -D /tmp/db -A trust >/dev/null && echo 'host all all all trust' >> /tmp/db/pg_hba.conf && exec postgres -D /tmp/db -h 0.0.0.0 -k /tmp"  # fmt: skip
FETCH = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


def prepare() -> None:
    """Mounts of our own: /run with what engines put there, and a network that has nothing but a loopback."""
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    os.makedirs("/run/netns")
    run("ip", "link", "set", "lo", "up")


def answer(url: str) -> str:
    """What is answered there; "" if nothing is."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return str(response.read(4096).decode())
    except (OSError, urllib.error.HTTPError):
        return ""


class Podman:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = list(map(str, podman(folder)))

    def run(self, *argv: str | Path, code: int | None = 0) -> str:
        return run(*self.command, *argv, code=code)

    def __call__(self) -> Iterator[str]:
        parent = f"--cgroup-parent=/{self.folder.name}"
        self.run("network", "create", "podman-default-kube-network")
        network = "--network=podman-default-kube-network"
        self.run("run", "-d", "--name=db", network, parent, "--user=postgres", "--entrypoint=sh", IMAGE, "-c", INITDB)
        address = self.run(
            "inspect", '--format={{(index .NetworkSettings.Networks "podman-default-kube-network").IPAddress}}', "db"
        ).strip()
        url = f"postgresql://postgres@{address}/postgres"
        secret = self.folder / "secret.json"
        for name in ("web", "jobs", "maintenance"):
            secret.write_text(json.dumps({"DATABASE_URL": b64encode(url.encode()).decode()}))
            self.run("secret", "create", f"{name}-secret", secret)
        begun = time.monotonic()
        for name in ("impetus", "recipes"):
            self.run("kube", "play", self.folder / f"{name}.yaml")
        played = time.monotonic() - begun
        pods = ("web", "jobs", "flask", "starlette")

        def healthy() -> bool:
            return all(self.status(name) for name in pods)

        wait_for(healthy, lambda: self.run("ps", "-a") + "".join(self.logs(name) for name in pods), LONG, 0.2)
        took = time.monotonic() - begun
        wait_for(lambda: '"ready":true' in answer("http://127.0.0.1:8080/health/ready"), "its database", LONG)
        assert (answer("http://127.0.0.1:8007/"), answer("http://127.0.0.1:8003/")) == ("flask", "starlette")
        yield f"podman kube play: {len(pods)} pods in {played:.1f} s, all healthy after {took:.1f} s, as uid 10001 on a read-only file system"
        first = self.run("inspect", "--format={{.State.Pid}}", "flask-pod-0-flask").strip()
        os.kill(int(first), 9)
        begun = time.monotonic()
        wait_for(lambda: answer("http://127.0.0.1:8007/") == "" or self.pid() != first, "it to be gone", LONG)
        wait_for(
            lambda: self.pid() not in {first, "0"} and answer("http://127.0.0.1:8007/") == "flask",
            "flask to be there again",
            LONG,
        )
        yield f"podman: PID 1 of a pod killed, it answers again after {time.monotonic() - begun:.1f} s"
        self.run("pod", "rm", "-af", "-t", "5")
        self.run("rm", "-af", "-t", "1")

    def pid(self) -> str:
        return self.run("inspect", "--format={{.State.Pid}}", "flask-pod-0-flask", code=None).strip()

    def status(self, name: str) -> bool:
        """Whether all that is wanted is up in this pod."""
        argv = [*self.command, "exec", f"{name}-pod-0-{name}", "impetusd", "status"]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    def logs(self, name: str) -> str:
        return f"\n{name}:\n" + self.run("logs", "--tail=20", f"{name}-pod-0-{name}", code=None)


class Node:
    """A host with a Docker of its own. `address` is that of its only network card."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"node{number}"
        self.address = f"10.99.0.{number}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self.bin = folder / "docker/usr"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "link", "set", f"v{number}", "master", "br0", "up")
        inside = ("ip", "-n", self.name)
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", "10.99.0.254")
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # which nobody answers, at once
        script = (
            f"hostname {self.name}; mount --bind {self.folder}/resolv.conf /etc/resolv.conf;"
            f" exec {self.bin}/bin/docker-init -- {self.bin}/sbin/dockerd --host=unix://{self.folder}/sock --data-root={self.folder}/data"
            f" --exec-root={self.folder}/exec --pidfile={self.folder}/pid --exec-opt=native.cgroupdriver=cgroupfs"
            f" --cgroup-parent=/{folder.name} --shutdown-timeout=5"
        )
        with open(self.folder / "log", "w", encoding="utf-8") as log:
            # Not `ip netns exec`, which hides the cgroups.
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child=KILL", "--mount-proc", "sh", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PATH": f"{self.bin}/bin:{self.bin}/sbin:{os.environ['PATH']}"},
            )  # fmt: skip

    def run(self, *argv: str | Path, code: int | None = 0, **env: str) -> str:
        return run(self.bin / "bin/docker", f"--host=unix://{self.folder}/sock", *argv, code=code, **env)

    def is_up(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
        return self.run("version", "--format={{.Server.Version}}", code=None) != ""

    def cut_power(self) -> None:
        self.process.kill()  # unshare, whose child is killed with it, and with that one all of its namespace
        self.process.wait()


class Swarm:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "addr", "add", "10.99.0.254/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        self.nodes = [Node(number, folder) for number in NODES]
        self.first = self.nodes[0]

    def __call__(self) -> Iterator[str]:
        for node in self.nodes:
            wait_for(node.is_up, f"{node.name}'s Docker", LONG, 0.1)
        loads = [subprocess.Popen([node.bin / "bin/docker", f"--host=unix://{node.folder}/sock", "load", "-q", "-i", self.folder / "image.tar"], stdout=subprocess.DEVNULL) for node in self.nodes]  # fmt: skip
        assert [each.wait(LONG) for each in loads] == [0, 0, 0]
        self.first.run("swarm", "init", f"--advertise-addr={self.first.address}", "--default-addr-pool=10.98.0.0/16")
        token = self.first.run("swarm", "join-token", "-q", "manager").strip()
        for node in self.nodes[1:]:
            node.run(
                "swarm", "join", f"--advertise-addr={node.address}", f"--token={token}", f"{self.first.address}:2377"
            )
        yield f"swarm: {len(self.nodes)} nodes in namespaces of their own"

        begun = time.monotonic()
        self.deploy("impetus", DATABASE_URL="postgresql://postgres@db/postgres")
        self.first.run(
            "service", "create", "-d", "--name=db", "--network=impetus_default", "--endpoint-mode=dnsrr", "--constraint=node.hostname==node1",
            "--user=postgres", "--entrypoint=sh", "--no-healthcheck", IMAGE, "-c", INITDB,
        )  # fmt: skip
        self.deploy("recipes")
        wait_for(self.all_there, self.shown, LONG, 0.2)
        took = time.monotonic() - begun
        wait_for(self.is_ready, "the service to have its database", LONG, 0.2)
        assert self.ask("recipes", "http://starlette:8003/") == "starlette"
        wait_for(lambda: self.published() == "flask", "the published port", LONG)
        yield f"stacks deployed: {len(self.running())} containers of {len(self.counts())} services, all healthy after {took:.1f} s"

        asked, failed = 0, 0
        self.first.run("service", "update", "-d", "--args=run -c /none", "recipes_starlette")
        begun = time.monotonic()
        while (
            self.first.run("service", "inspect", "--format={{.UpdateStatus.State}}", "recipes_starlette").strip()
            != "rollback_completed"
        ):
            assert time.monotonic() - begun < LONG, self.shown()
            asked += 1
            failed += self.ask("recipes", "http://starlette:8003/") != "starlette"
        yield f"a version that cannot start: rolled back after {time.monotonic() - begun:.1f} s, {failed} of {asked} requests failed meanwhile"

        before = self.on(self.nodes[2])
        begun = time.monotonic()
        self.nodes[2].cut_power()
        wait_for(lambda: not self.on(self.nodes[2]) and self.all_there(), self.shown, LONG, 0.2)
        took = time.monotonic() - begun
        assert self.ask("recipes", "http://starlette:8003/") == "starlette"
        wait_for(self.is_ready, "the service to have its database", LONG, 0.2)
        yield f"node3 killed, with {len(before)} of the containers: all healthy on the others after {took:.1f} s"

    def deploy(self, stack: str, **env: str) -> None:
        self.first.run("stack", "deploy", "-c", self.folder / stack / "compose.yaml", stack, **env)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Of each service, how many containers run and are healthy, and how many are wanted."""
        out = self.first.run("service", "ls", "--format={{.Name}} {{.Replicas}}")
        rows = [line.split()[:2] for line in out.splitlines()]
        return {name: (int(count.partition("/")[0]), int(count.partition("/")[2])) for name, count in rows}

    def all_there(self) -> bool:
        return all(there == wanted for there, wanted in self.counts().values())

    def running(self) -> list[list[str]]:
        """[name, node] of each task that runs, as the Swarm sees it."""
        services = self.first.run("service", "ls", "-q").split()
        out = self.first.run(
            "service",
            "ps",
            "--filter=desired-state=running",
            "--format={{.Name}} {{.Node}} {{.CurrentState}}",
            *services,
        )
        return [line.split()[:2] for line in out.splitlines() if line.split()[2] == "Running"]

    def on(self, node: Node) -> list[str]:
        return [name for name, where in self.running() if where == node.name]

    def ask(self, stack: str, url: str) -> str:
        """What another container of the stack is answered, on a node that goes on."""
        labels = (f"--filter=label=com.docker.stack.namespace={stack}", "--filter=health=healthy")
        for node in self.nodes[:2]:
            if found := node.run("ps", "-q", *labels).split():
                return node.run("exec", found[0], "python3", "-c", FETCH, url, code=None)
        return ""

    def is_ready(self) -> bool:
        """Whether the service's pool gets requests, which it does once it has migrated the database."""
        return '"ready":true' in self.ask("impetus", "http://web:8080/health/ready")

    def published(self) -> str:
        """What a node that has flask answers to others."""
        return next(filter(None, (answer(f"http://{node.address}:8007/") for node in self.nodes)), "")

    def shown(self) -> str:
        services = self.first.run("service", "ls", "-q").split()
        said = self.first.run(
            "service",
            "ps",
            "--no-trunc",
            "--format={{.Name}} {{.Node}} {{.CurrentState}} {{.Error}}",
            *services,
            code=None,
        )
        logs = [
            f"\n{each}\n" + self.first.run("service", "logs", "--tail=8", each, code=None)
            for each, (there, wanted) in self.counts().items()
            if there != wanted
        ]
        return said + "".join(logs)


def main(folder: Path, engines: Sequence[type[Podman | Swarm]] = ()) -> int:
    """Try each engine, all of them by default."""
    os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")
    os.environ["PATH"] = f"{folder}/docker/usr/bin:{os.environ['PATH']}"  # catatonit
    prepare()
    # All of the namespace ends with this process, and that with whoever holds the other end of its stdin.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    try:
        for engine in engines or (Podman, Swarm):
            for line in engine(folder)():
                print(line, flush=True)
    except AssertionError as error:
        print(f"try-export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
