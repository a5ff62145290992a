"""Ten incidents, each made for real: what `status` and `why` say of it is a golden file, so that every change of it is read.

Made anew by: GOLDEN=write python -m pytest tests/system/test_incidents.py; then read the difference.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import COMMAND, Instance, program, wait_for
from lending import Lend
from smalldisk import small_disk

REPOSITORY = Path(__file__).parents[2]
ROOT = "/srv/shop/current"  # as many characters as a folder of the harness has
SPAN = r"(\d+ ms|[\d.]+ s|\d+ min( \d+ s)?)"
NORMAL = (
    (r"(?m)^(\S+ +[A-Z]+)  .*$", r"\1  …"),  # the numbers of the table
    (r"\b\d\d:\d\d:\d\d\b", "12:00:00"),
    (rf"{SPAN} ago|just now", "1 s ago"),
    (rf"after {SPAN}( to {SPAN})?", "after 1 s"),
    (r"pid(\s+)\d+", r"pid\g<1>4711"),
    (r"0x[0-9a-f]+", "0x0000"),
    (r"python3\.\d+", "python3"),
    (r'(File "/opt[^"]*", line|/opt[\w/.-]*:|locks.py:) ?\d+', r"\1 1"),
    (r"Extension modules: .*", "Extension modules: …"),
    (r"anon-rss \d+ MB", "anon-rss 60 MB"),
    (r"\d+ (lines dropped|records in)", r"9 \1"),
    (r"stuck for [\d.]+ s", "stuck for 1.0 s"),
)
GOLDEN = Path(__file__).with_name("golden")
MB = 1 << 20
FAST = "max_restarts = 3\nexp_backoff_restart_delay = 10ms\n"

HANGS = """
import asyncio, time
from aiohttp import web

def look_something_up():
    time.sleep(1000)

async def hang(app):
    asyncio.get_running_loop().call_later(0.1, look_something_up)

def make():
    app = web.Application()
    app.on_startup.append(hang)
    return app
"""
INI = """
[pool:shop]
app = shop:make
cwd = {root}
listen = 127.0.0.1:{ports[0]}
[program:front]
command = sleep 1000
listen = 127.0.0.11:{taken}
{fast}
[program:mailer]
command = true
{fast}
[program:report]
command = {report}
{fast}
[pool:service]
app = impetus_service.app:create_app
listen = 127.0.0.1:{ports[1]}
instances = 1
standby = 0
[env:service]
DATABASE_URL = postgresql://shop@127.0.0.1:{database}/shop
[health:service]
http = /health
interval = 6s
timeout = 6s
failures = 2
action = alert
[pool:slow]
app = slow:make
cwd = {root}
listen = 127.0.0.1:{ports[2]}
instances = 1
standby = 0
watchdog = 5s
max_restarts = 1
[program:site]
command = {server}
[health:site]
http = http://127.0.0.1:{site}/
interval = 6s
timeout = 6s
failures = 1
""".replace("{fast}", "max_restarts = 3\nexp_backoff_restart_delay = 10ms\n")


@pytest.fixture(scope="module")
def incidents(lend: Lend) -> Iterator[Instance]:
    """One daemon, in which most of it goes wrong at once."""
    with lend(None) as instance, socket.create_server(("127.0.0.11", 0)) as taken, cramped() as procs:
        instance.write("import nosuchmodule\n\n\ndef make():\n    pass\n", "shop.py")
        instance.write(HANGS, "slow.py")
        report = instance.write("#!/bin/sh\necho report\n", "report.sh")
        report.chmod(0o644)
        site, ill = instance.port(), instance.write("the queue is away", "ill")
        instance.write(
            INI.format(
                root=instance.root,
                ports=[instance.port() for _ in range(3)],
                taken=taken.getsockname()[1],
                report=report,
                database=instance.port(),
                site=site,
                server=program("health_server", site, ill),
            )
            + (
                f"[program:reader]\ncommand = {program('leak_memory', '--cgroup', procs, 500)}\nautorestart = never\n"
                if procs
                else ""
            )
        )
        instance.run("start", code=1)
        yield instance


@contextlib.contextmanager
def cramped() -> Iterator[str]:
    """The cgroup.procs of a memory cgroup of 60 MB, where the host gives one and its kernel tells us of its kills; else ""."""
    path = f"/sys/fs/cgroup/memory/impetusd-incidents-{os.getpid()}"
    try:
        if os.readlink("/proc/self/ns/pid") != "pid:[4026531836]" or not os.access("/dev/kmsg", os.R_OK):
            raise OSError("the kernel's log is not ours to read")
        os.mkdir(path)
        Path(path, "memory.limit_in_bytes").write_text(str(60 << 20))
    except OSError:
        yield ""
        return
    try:
        yield f"{path}/cgroup.procs"
    finally:
        wait_for(lambda: not Path(path, "cgroup.procs").read_text(), "the cgroup to be empty")
        os.rmdir(path)


def on_terminal(instance: Instance, *words: str) -> str:
    """What a command writes to a terminal of 80 columns, typed in the folder of the INI file."""
    leader, follower = pty.openpty()
    environ = {**instance.environ, "COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1", "PYTHONUTF8": "1", "TZ": "UTC"}
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=instance.root, env=environ, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    data = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while more := os.read(leader, 65536):
            data += more
    os.close(leader)
    assert process.wait(60) in {0, 1}
    return data.decode().replace("\r\n", "\n")


def shown(instance: Instance, name: str) -> str:
    """What an operator sees who types these two."""
    words = [name] if name else []
    commands = [[command, *words] for command in ("status", "why")]
    told = [f"$ {' '.join(['impetusd', *each])}\n{on_terminal(instance, *each)}" for each in commands]
    return normal("\n".join(told), instance)


def normal(text: str, instance: Instance) -> str:
    """Without what is another each time, and as wide as before: paths, ports, pids, times, sizes."""
    assert len(str(instance.root)) == len(ROOT)
    text = text.replace(str(instance.root), ROOT).replace(str(REPOSITORY), "/opt/impetusd")
    for pattern, instead in NORMAL:
        text = re.sub(pattern, instead, text)
    for number, port in enumerate(dict.fromkeys(re.findall(r"\b[3-6][0-9]{4}\b", text))):
        text = text.replace(port, str(18080 + number))
    return text


def compare(name: str, text: str) -> None:
    """Hold it against the golden file."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "unit", "settled"),
    [
        ("missing-module", "shop", "shop:template is FATAL"),
        ("port-in-use", "front", "front is FATAL"),
        ("exit-0-loop", "mailer", "mailer is FATAL"),
        ("unreadable-file", "report", "report is FATAL"),
        ("hung-loop", "slow", "slow:0 is FATAL"),
        ("database-away", "service", "service:0 is unhealthy"),
        ("failing-probe", "site", "not restarted yet"),
        ("out-of-memory", "reader", "reader is FATAL"),
    ],
)
def test_an_incident_is_explained(incidents: Instance, name: str, unit: str, settled: str) -> None:
    if f"[program:{unit}]" not in incidents.conf.read_text() and f"[pool:{unit}]" not in incidents.conf.read_text():
        pytest.skip("this host gives no memory cgroup, or its kernel's log may not be read")
    wait_for(lambda: settled in incidents.run("status", unit, code=None).out, settled)
    compare(name, shown(incidents, unit))


def test_a_full_disk_is_explained_with_all_of_impetusd_on_it(lend: Lend, as_root: None) -> None:
    with lend(None) as instance, small_disk(instance.root / "disk", "1m", held=True) as disk:
        instance.write(f"""
[impetusd]
state_dir = {disk}/lib
log_dir = {disk}/log
[program:backup]
command = dd if=/dev/zero of={disk}/backup.tar bs=4k oflag=append conv=notrunc status=none
exp_backoff_restart_delay = 10ms
exp_backoff_max_delay = 10ms
""")
        instance.run("start", code=1)
        for what in ("backup is FATAL", "records in memory"):
            wait_for(lambda what=what: what in instance.run("status", code=None).out, what)
        compare("full-disk", shown(instance, "backup"))
        instance.run("stop")


def test_a_bad_user_is_explained_and_changes_nothing(impetusd: Instance, as_root: None) -> None:
    before = impetusd.start("[program:site]\ncommand = sleep 1000\n")
    impetusd.write("[program:site]\ncommand = sleep 1000\nuser = deploi\n")
    impetusd.run("apply", code=2)
    assert impetusd.status().pids == before.pids
    wait_for(lambda: "s ago; the previous one" in impetusd.run("status").out, "a second to pass")  # as wide each time
    compare("bad-user", shown(impetusd, ""))
    impetusd.write("[program:site]\ncommand = sleep 1000\n")
    impetusd.run("apply")
    assert "rejected" not in impetusd.run("status").out
