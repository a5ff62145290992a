"""`impetusd health`: what it prints and exits with, of a daemon and of a URL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_supervisor import PONG, FakeSupervisor, failed_row, paths_in, row
from probe_server import Server, drips, says, unused_port

from impetusd.cli import health, main
from impetusd.cli.screen.terminal import Screen

ROOT = Path(__file__).parents[2]


@pytest.fixture
def paths(tmp_path):
    return paths_in(tmp_path)


@pytest.fixture
def cli(paths, monkeypatch, capsys):
    """Run `health` in this process; gives (exit code, stdout, stderr)."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["impetusd", "-c", paths.conf, "health", *args])
        code = main.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def check(target, state="healthy", **changes):
    good = {
        "name": "web",
        "target": target,
        "what": "http /health",
        "state": state,
        "reason": "",
        "failures": 0,
        "at": "2026-11-23T09:00:00.000+00:00",
        "latency_ms": 1.9,
        "action": "restart",
    }
    return {**good, **changes}


BAD = {"reason": "GET /health: 503 Service Unavailable: database: connection refused", "failures": 4}


def says_of_all(paths, checks, units=()):
    return FakeSupervisor(paths, health={"checks": list(checks)}, status={**PONG, "units": list(units)})


class TestDaemon:
    def test_0_when_all_is_well(self, paths, cli):
        off = check("db", "unknown", name="db", what="tcp 127.0.0.1:5432", latency_ms=None, reason="db is STOPPED")
        with says_of_all(paths, [check("web:0"), off], [row("web:0"), row("db", want="down", state="STOPPED")]):
            code, out, err = cli()
        assert (code, err) == (0, "")
        assert out.splitlines() == [
            "NAME  TARGET  STATE    LATENCY  ACTION   CHECK",
            "web   web:0   healthy     2 ms  restart  http /health",
            "db    db      unknown        -  restart  tcp 127.0.0.1:5432",
            "",
            "1 healthy, 1 stopped",
        ]

    def test_1_when_a_check_is_not(self, paths, cli):
        with says_of_all(paths, [check("web:0"), check("web:1", "unhealthy", **BAD)], [row("web:0")]):
            code, out, _ = cli()
        assert code == 1
        assert out.splitlines()[-1] == (
            "web:1 is unhealthy, 4 times in a row: GET /health: 503 Service Unavailable: database: connection refused"
        )

    def test_1_as_long_as_nothing_is_known(self, paths, cli):
        with says_of_all(
            paths, [check("web:0", "starting", latency_ms=None, reason="not checked yet")], [row("web:0")]
        ):
            code, out, _ = cli("-q")
        assert (code, out) == (1, "the health of web:0 is unknown: not checked yet\n")

    def test_1_when_something_wanted_is_not_up(self, paths, cli):
        with says_of_all(paths, [check("web:0")], [failed_row("db")]):
            code, out, _ = cli("-q")
        assert (code, out) == (1, "db is BACKOFF: exit 1; retrying in 3.2 s (3 of 16)\n")

    def test_quiet_is_silent_when_all_is_well(self, paths, cli):
        with says_of_all(paths, [check("web:0")], [row("web:0")]):
            assert cli("--quiet") == (0, "", "")

    def test_without_a_check(self, paths, cli):
        with says_of_all(paths, [], [row("web:0")]):
            assert cli() == (0, "no health check is configured\n\nall units that should be up are up\n", "")

    def test_3_when_no_daemon_runs(self, cli):
        code, out, err = cli()
        assert (code, out) == (3, "")
        assert "impetusd is not running" in err
        assert err.endswith(" start\n")

    def test_json(self, paths, cli):
        checks, down = [check("web:0", "unhealthy", **BAD)], [failed_row("db")]
        with says_of_all(paths, checks, [row("web:0"), *down]):
            code, out, _ = cli("--json")
        assert (code, json.loads(out)) == (1, {"ok": False, "checks": checks, "down": down})


class TestScreen:
    LONG = (
        check(
            "web:0", "unhealthy", reason="GET http://127.0.0.1:8080/health: \x1b[2Jno response within 5 s" + 90 * "x"
        ),
        check("a-program-with-a-long-name", what=f"http http://127.0.0.1:8080/{90 * 'x'}"),
    )

    @pytest.mark.parametrize("width", [40, 80, 200])
    def test_no_line_is_wider_and_none_moves_the_cursor(self, width):
        screen = Screen(width=width)
        lines = health.table(self.LONG, screen) + health.wrong(self.LONG, [], screen)
        assert "noresponsewithin5s" + 90 * "x" in "".join(lines).replace(" ", "")  # whole
        assert max(map(len, lines)) <= width
        assert "\x1b" not in "".join(lines)

    def test_the_state_is_coloured_and_nothing_else(self):
        plain = health.table(self.LONG, Screen(width=80))
        coloured = health.table(self.LONG, Screen(width=80, colour=True))
        assert coloured[1] == plain[1].replace("unhealthy", "\x1b[31munhealthy\x1b[0m", 1)
        assert coloured[2] == plain[2].replace("healthy", "\x1b[32mhealthy\x1b[0m", 1)

    def test_a_screen_is_not_flooded(self):
        many = [check(f"web:{index}", "unhealthy", **BAD) for index in range(100)]
        lines = health.wrong(many, [], Screen(width=80))
        assert len(lines) == 13
        assert lines[-1] == "… and 94 more"  # two lines each
        assert len(health.wrong(many, [], Screen())) == 100  # a file takes them all


class TestUrl:
    def test_0_when_it_answers(self, cli):
        with Server(says(body="well")) as server:
            code, out, err = cli(server.url(), "--body", "well", "--header", "X-Token: s3cret", "--header", "X-B: c")
        assert (code, err) == (0, "")
        assert out.startswith(f"GET {server.url()}: 200 OK in ")
        assert out.endswith(" ms\n")
        assert b"\r\nX-Token: s3cret\r\nX-B: c\r\n" in server.asked[0]

    def test_quiet_is_silent_when_it_does(self, cli):
        with Server(says()) as server:
            assert cli("-q", server.url()) == (0, "", "")

    def test_1_and_one_line_when_it_does_not(self, cli):
        with unused_port() as port:
            url = f"http://127.0.0.1:{port}/health"
            assert cli("-q", url) == (1, f"GET {url}: connection refused\n", "")

    def test_the_status_decides(self, cli):
        with Server(says("503 Service Unavailable", "database:\nconnection refused")) as server:
            assert cli(server.url()) == (
                1,
                f"GET {server.url()}: 503 Service Unavailable: database: connection refused\n",
                "",
            )
            assert cli(server.url(), "--status", "200, 500-599")[0] == 0

    def test_a_server_that_drips_is_left_in_time(self, cli):
        with Server(drips(b"HTTP/1.1 200 OK\r\n\r\n")) as server:
            code, out, _ = cli(server.url(), "--timeout", "1s")
        assert (code, out) == (1, f"GET {server.url()}: incomplete response within 1 s\n")

    def test_json(self, cli):
        with Server(says()) as server:
            code, out, _ = cli(server.url(), "--json")
        answer = json.loads(out)
        assert (code, answer["ok"], answer["result"], answer["url"]) == (0, True, "200 OK", server.url())

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (["/health"], "not a URL; write it like http://127.0.0.1:8080/health"),
            (["http://127.0.0.1/", "--timeout", "5"], "a duration needs its unit; write 5s or 5ms"),
            (["http://127.0.0.1/", "--header", "X"], "Name: value"),
            (["http://127.0.0.1/", "--status", "2xx"], "like 200-299, 404"),
        ],
    )
    def test_2_for_wrong_usage(self, cli, args, words):
        code, _, err = cli(*args)
        assert code == 2
        assert words in err

    def test_no_daemon_and_no_configuration_is_needed(self, tmp_path):
        with Server(says()) as server:
            end = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "from impetusd.cli.main import main; raise SystemExit(main())",
                    "health",
                    server.url(),
                ],
                check=False,
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            )
        assert (end.returncode, end.stderr) == (0, "")


class TestScript:
    def test_it_is_the_command(self, tmp_path):
        """A clone of which the environment is a stand-in that tells what it was called with."""
        (tmp_path / "scripts").mkdir()
        script = tmp_path / "scripts" / "health-check"
        script.write_bytes((ROOT / "scripts" / "health-check").read_bytes())
        script.chmod(0o755)
        end = subprocess.run([script, "-q"], check=False, capture_output=True, text=True, cwd="/")
        assert (end.returncode, end.stdout) == (3, "")
        assert end.stderr == (
            f"scripts/health-check: this clone is not set up yet ({tmp_path}/.venv/bin/impetusd does not exist); "
            f"run {tmp_path}/scripts/start\n"
        )
        stand_in = tmp_path / ".venv" / "bin" / "impetusd"
        stand_in.parent.mkdir(parents=True)
        stand_in.write_text('#!/bin/sh\necho "$PWD" "$@"\nexit 1\n')
        stand_in.chmod(0o755)
        end = subprocess.run([script, "-q", "http://x/a b"], check=False, capture_output=True, text=True, cwd="/")
        assert (end.returncode, end.stdout, end.stderr) == (1, f"{tmp_path} health -q http://x/a b\n", "")
        of_service = stand_in.with_name("impetusd-service")
        of_service.write_text('#!/bin/sh\necho service "$@"\nexit 1\n')
        of_service.chmod(0o755)
        for arguments, said in (
            ([], f"{tmp_path} health"),
            (["shop.example:8080"], "service health-check shop.example:8080"),
            (["--json", "https://shop.example/"], "service health-check --json https://shop.example/"),
            (["http://x/y", "--timeout", "5s"], f"{tmp_path} health http://x/y --timeout 5s"),
        ):
            end = subprocess.run([script, *arguments], check=False, capture_output=True, text=True, cwd="/")
            assert (end.returncode, end.stdout, end.stderr) == (1, f"{said}\n", "")
