"""The watchdog: who hangs says where and is replaced, who is well is left alone, also by a supervisor that slept."""

from __future__ import annotations

import signal
import socket
import time

from instance import Instance, pool, program, wait_for
from load import fetch

APP = """
import os, time
from aiohttp import web

async def hello(request):
    return web.Response(text=str(os.getpid()))

async def hang(request):
    time.sleep(1000)

def make():
    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/hang", hang)
    return app
"""


def test_a_worker_whose_loop_hangs_writes_its_stacks_and_is_replaced(impetusd: Instance) -> None:
    impetusd.write(APP, "hanging.py")
    port = impetusd.port()
    before = impetusd.start(f"[pool:web]\n{pool(port, 'hanging:make', cwd=impetusd.root, watchdog='10s')}")
    with socket.create_connection(("127.0.0.1", port), 60.0) as client:
        client.sendall(b"GET /hang HTTP/1.1\r\nHost: test\r\n\r\n")
        after = impetusd.settle(lambda now: sum(row.restarts for row in now.rows.values()) == 1)
        assert client.recv(1) == b""
    (hung,) = [name for name in ("web:0", "web:1") if after[name].restarts == 1]
    other = "web:1" if hung == "web:0" else "web:0"
    assert after[other].pid == before[other].pid
    assert after[hung].last_exit["signal"] == "SIGABRT"
    impetusd.says("event loop blocked for 10 s (watchdog)")
    said = impetusd.log(f"{hung.replace(':', '-')}-error.log")
    assert "in hang" in said
    assert "the event loop has been stuck for" in said
    fetch(port)


def test_a_program_that_stops_giving_signs_of_life_is_ended_by_sigabrt(impetusd: Instance) -> None:
    command = program("tell_ready", "self")
    impetusd.start(f"[program:api]\ncommand = {command}\nwait_ready = yes\nwatchdog = 1s\n")
    row = wait_for(lambda: (now := impetusd.status()["api"]).restarts and now, "it to be replaced")
    assert row.last_exit["signal"] == "SIGABRT"


def test_a_supervisor_that_slept_blames_nobody(impetusd: Instance) -> None:
    before = impetusd.start(f"[pool:web]\n{pool(impetusd.port(), watchdog='6s')}")
    impetusd.kill(before.supervisor, signal.SIGSTOP)
    end = time.monotonic() + 7.0
    wait_for(lambda: time.monotonic() > end, "the watchdog to pass")
    impetusd.kill(before.supervisor, signal.SIGCONT)
    impetusd.run("status")
    end = time.monotonic() + 6.5
    wait_for(lambda: time.monotonic() > end, "the watchdog to have had its turn")
    assert impetusd.status().pids == before.pids


def test_a_range_of_instances_bounds_scale_and_each_has_its_own_values(impetusd: Instance) -> None:
    command = "sh -c 'echo port $$PORT of ${INSTANCE}; exec sleep 300'"
    impetusd.start(
        f"[program:api]\ncommand = {command}\ninstances = 2..3\nincrement_var = PORT\n[env:api]\nPORT = 9000\n"
    )
    refused = impetusd.run("scale", "api", 4, code=2)
    assert "api is limited to 3 instances" in refused.err
    impetusd.kill(impetusd.status().supervisor)
    impetusd.run("scale", "api", 3)
    impetusd.settle()
    for index in range(3):
        wait_for(lambda index=index: impetusd.log(f"api-{index}-out.log"), "its first line")
        assert impetusd.log(f"api-{index}-out.log") == f"port {9000 + index} of {index}\n"
