"""/metrics of a real gateway: what pools have measured survives who is killed, and a real Prometheus scrapes it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, pool
from test_gateway import listens
from waiting import PATIENCE, wait_for

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "conf/grafana/impetusd.json"
needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="needs prometheus: apt-get install prometheus"
)


def asked(address: str, path: str, token: str = "") -> tuple[int, str]:
    """Status and body."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def get(address: str, path: str = "/") -> str:
    status, body = asked(address, path)
    assert status == 200, (status, body)
    return body


def metrics(address: str) -> dict[str, float]:
    return parsed(get(address, "/metrics"))


def parsed(text: str) -> dict[str, float]:
    lines = text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def answered(address: str) -> int:
    """How many requests the pool web has answered."""
    return requests(metrics(address))


def requests(found: dict[str, float]) -> int:
    return int(sum(value for name, value in found.items() if name.startswith('impetusd_requests_total{pool="web"')))


@pytest.fixture
def running(impetusd: Instance) -> tuple[Instance, int, str]:
    """With a pool at a port, and the gateway's address."""
    port = impetusd.port()
    impetusd.root.chmod(0o755)
    impetusd.start(
        f"[gateway]\nlisten = 127.0.0.1:{impetusd.port()}\nmetrics = open\n[pool:web]\n{pool(port, standby=0)}"
        "max_memory_restart = 1G\n[health:web]\nhttp = /\ninterval = 1s\ntimeout = 1s\naction = alert\n"
    )
    return impetusd, port, listens(impetusd)


def test_what_a_pool_has_measured_outlives_workers_and_supervisors_and_none_that_hangs_is_waited_for(
    running: tuple[Instance, int, str],
) -> None:
    impetusd, port, address = running
    for _ in range(20):
        get(f"127.0.0.1:{port}")
    assert asked(f"127.0.0.1:{port}", "/nothing/there")[0] == 404
    wait_for(lambda: answered(address) >= 21, "21 answers to be counted")  # each is a moment after it was given
    found = metrics(address)
    assert found['impetusd_requests_total{pool="web",status="404"}'] == 1
    count = found['impetusd_request_duration_seconds_count{pool="web"}']
    assert found['impetusd_request_duration_seconds_bucket{pool="web",le="+Inf"}'] == count >= 21
    assert found['impetusd_memory_limit_bytes{unit="web",slot="web:0"}'] == 1 << 30
    assert found['impetusd_up{unit="web",slot="web:0"}'] == 1

    status = impetusd.status()
    impetusd.kill(status["web:0"].pid, signal.SIGSTOP)  # it answers nobody any more
    try:
        wait_for(lambda: answered(address) >= count, "the numbers of one that is stopped")
    finally:
        os.kill(status["web:0"].pid, signal.SIGKILL)
    impetusd.wait_status(lambda now: now["web:0"].state == "RUNNING" and now["web:0"].pid != status["web:0"].pid)
    assert answered(address) >= count
    name = 'impetusd_exits_total{unit="web",slot="web:0",code="",signal="SIGKILL"}'
    wait_for(lambda: metrics(address).get(name) == 1, "its end")

    before = answered(address)
    os.kill(status.supervisor, signal.SIGKILL)
    get(f"127.0.0.1:{port}")

    def counted() -> bool:
        status, text = asked(address, "/metrics")
        assert status in {200, 503}  # while there is no supervisor
        return status == 200 and requests(parsed(text)) > before

    wait_for(counted, "the numbers of the next supervisor")


def test_they_take_a_token_unless_they_are_open(impetusd: Instance) -> None:
    impetusd.root.chmod(0o755)
    impetusd.start(f"[gateway]\nlisten = 127.0.0.1:{impetusd.port()}\n")
    address = listens(impetusd)
    assert asked(address, "/metrics")[0] == 401
    assert asked(address, "/metrics", "nonsense")[0] == 401
    token = impetusd.run("token", "add", "prometheus").out.split()[-1]
    wait_for(lambda: asked(address, "/metrics", token)[0] == 200, "the gateway to know it")
    assert "impetusd_build_info" in asked(address, "/metrics", token)[1]


class Prometheus:
    """A real one."""

    def __init__(self, folder: Path, target: str, port: int) -> None:
        shutil.copy(ROOT / "conf/prometheus/impetusd.rules.yml", folder / "impetusd.rules.yml")
        (folder / "prometheus.yml").write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": ["impetusd.rules.yml"],
                    "scrape_configs": [{"job_name": "impetusd", "static_configs": [{"targets": [target]}]}],
                }
            )
        )
        self.port = port
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    "--config.file=prometheus.yml",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    f"--storage.tsdb.path={folder}/data",
                ],
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    def ask(self, what: str, **query: str) -> Any:
        answer = json.loads(get(f"127.0.0.1:{self.port}", f"/api/v1/{what}?{urllib.parse.urlencode(query)}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, expression: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def has_scraped(self) -> bool:
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        with contextlib.suppress(ConnectionError, AssertionError):  # it is not up, or not ready
            return len(self.value('count_over_time(up{job="impetusd"}[1m]) > 3')) == 1
        return False


@pytest.fixture
def prometheus(tmp_path: Path, running: tuple[Instance, int, str]) -> Iterator[Prometheus]:
    it = Prometheus(tmp_path, running[2], running[0].port())
    try:
        yield it
    finally:
        it.process.terminate()
        it.process.wait(PATIENCE)


@needs_prometheus
def test_a_real_prometheus_scrapes_it_and_evaluates_every_rule_and_panel(
    running: tuple[Instance, int, str], prometheus: Prometheus
) -> None:
    impetusd, port, _ = running
    wait_for(prometheus.has_scraped, "a scrape")
    began = time.time()
    get(f"127.0.0.1:{port}")
    impetusd.run("restart", "web")
    # One that takes longer than its second, on a loaded host, is followed by others.
    wait_for(lambda: prometheus.value(f'timestamp(impetusd_up{{slot="web:0"}} == 1) > {began + 3}'), "a later scrape")

    def states() -> list[tuple[str, str]]:
        return [(each["health"], each["lastError"]) for each in prometheus.ask("targets")["activeTargets"]]

    wait_for(lambda: states() == [("up", "")], states)
    for group in prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))

    def silent() -> set[str]:
        found = set()
        for panel in board["panels"]:
            for each in panel["targets"]:
                expression = each["expr"].replace("$__rate_interval", "1m")
                expression = re.sub(r"\$(instance|unit)\b", ".*", expression)
                if not prometheus.value(expression):
                    found.add(panel["title"])
        return found

    # There is no timer here; and the checks of the new workers are there after their first answer only.
    wait_for(lambda: silent() <= {"Since a timer succeeded"}, silent, apart=0.2)
    for each in board["annotations"]["list"]:
        assert prometheus.value(re.sub(r"\$(instance|unit)\b", ".*", each["expr"])) is not None
