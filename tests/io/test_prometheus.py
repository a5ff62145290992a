"""What Prometheus itself says of our metrics, rules and dashboard: promtool is the judge of each text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from impetusd.gateway import metrics
from impetusd.supervisor.api import measured

ROOT = Path(__file__).parents[2]
RULES = ROOT / "conf/prometheus/impetusd.rules.yml"
DASHBOARD = ROOT / "conf/grafana/impetusd.json"
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: apt-get install prometheus")

HELD = 'b"l\\ack\nsheep'


def promtool(*arguments, text=""):
    done = subprocess.run(["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def row(name, unit, **more):
    fields = {"state": "RUNNING", "want": "up", "uptime_s": 10.0, "at": 1000.0, "memory_bytes": 7, "dropped_lines": 0}
    return {"name": name, "unit": unit, **fields, **more}


def pool(**more):
    return {"workers": 1, **measured.nothing(), **more}


ROWS = {
    "unit": {
        "web:0": row("web:0", "web"),
        "odd": row(HELD, HELD, state="FATAL", uptime_s=None, memory_bytes=None, dropped_lines=3),
    },
    "check": {
        "web web:0": {"name": "web", "target": "web:0", "state": "failing", "latency_ms": 12.5},
        "new new": {"name": "new", "target": "new", "state": "starting", "latency_ms": None},
    },
    "timer": {
        "tidy": {
            "runs": [
                {"ok": False, "at": "2026-11-30T12:00:00+00:00", "duration_s": 1.0},
                {"ok": True, "at": "2026-11-30T11:00:00+00:00", "duration_s": 30.0},
                {"ok": True, "at": "2026-11-30T10:00:00+00:00", "duration_s": 30.0},
            ]
        },
        "never": {"runs": []},
    },
    "daemon": {
        "": {
            "version": "1.2",
            "alerts": {"report": {"undelivered": 2}},
            "notices": [{"key": "ini_refused", "text": "no"}],
        }
    },
}
COUNTED = {
    "slots": {
        "web:0": {
            "unit": "web",
            "starts": {"asked": 1, "exit": 2},
            "exits": {"code:1": 2, "signal:SIGKILL": 1, "stage:exec": 4, "unknown:": 1},
            "cpu_s": 1.25,
            "limit_bytes": 100,
        },
        HELD: {"unit": HELD, "starts": {}, "exits": {}, "cpu_s": None, "limit_bytes": None},
    },
    "pools": {
        "web": pool(
            connections=3,
            requests={"200": 9, "503": 1},
            durations={"sum": 0.5, "counts": [2, 0, 3, *[0] * 11, 5]},
            lags={"sum": 0.25, "counts": [1, *[0] * 12, 1]},
        )
    },
    "bounds": {name: list(bounds) for name, bounds in measured.BOUNDS.items()},
}


def samples(text):
    """The value of each sample, by name and labels."""
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def expressions():
    """Each expression of the dashboard, as it is for all hosts and units."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    found += [each["expr"] for each in board["annotations"]["list"]]
    values = {"$__rate_interval": "1m", "$instance": ".*", "$unit": ".*"}
    for name, value in values.items():
        found = [each.replace(name, value) for each in found]
    assert not any("$" in each for each in found)
    return found


def names_in(text):
    """Names of metrics in an expression, without what a histogram and a recording rule add to them."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bimpetusd_[a-z_]+", text)}


def test_the_text_says_what_rows_and_counts_say():
    found = samples(metrics.text(ROWS, COUNTED))
    web, odd = 'unit="web",slot="web:0"', 'unit="b\\"l\\\\ack\\nsheep",slot="b\\"l\\\\ack\\nsheep"'
    expected = {
        'impetusd_build_info{version="1.2"}': "1",
        f"impetusd_up{{{web}}}": "1",
        f"impetusd_up{{{odd}}}": "0",
        f'impetusd_state{{{odd},state="FATAL"}}': "1",
        f'impetusd_state{{{odd},state="RUNNING"}}': "0",
        f'impetusd_starts_total{{{web},reason="exit"}}': "2",
        f'impetusd_exits_total{{{web},code="1",signal=""}}': "2",
        f'impetusd_exits_total{{{web},code="",signal="SIGKILL"}}': "1",
        f'impetusd_exits_total{{{web},code="",signal=""}}': "5",
        f"impetusd_start_time_seconds{{{web}}}": "990.0",
        f"impetusd_memory_pss_bytes{{{web}}}": "7",
        f"impetusd_memory_limit_bytes{{{web}}}": "100",
        f"impetusd_cpu_seconds_total{{{web}}}": "1.25",
        f"impetusd_log_lines_dropped_total{{{odd}}}": "3",
        'impetusd_probe_success{check="web",target="web:0"}': "0",
        'impetusd_probe_duration_seconds{check="web",target="web:0"}': "0.0125",
        'impetusd_timer_last_success_timestamp_seconds{timer="tidy"}': "1796036430.0",
        "impetusd_alert_undelivered": "2",
        "impetusd_config_last_apply_successful": "0",
        'impetusd_connections{pool="web"}': "3",
        'impetusd_requests_total{pool="web",status="503"}': "1",
        'impetusd_request_duration_seconds_bucket{pool="web",le="0.001"}': "2",
        'impetusd_request_duration_seconds_bucket{pool="web",le="0.005"}': "5",
        'impetusd_request_duration_seconds_bucket{pool="web",le="+Inf"}': "10",
        'impetusd_request_duration_seconds_sum{pool="web"}': "0.5",
        'impetusd_request_duration_seconds_count{pool="web"}': "10",
        'impetusd_event_loop_lag_seconds_count{pool="web"}': "2",
    }
    assert {name: found.get(name) for name in expected} == expected
    missing = ("start_time_seconds", "memory_pss_bytes", "memory_limit_bytes", "cpu_seconds_total")
    assert not any(f"impetusd_{name}{{{odd}}}" in found for name in missing)
    assert not any("never" in name or 'check="new"' in name for name in found)


def test_before_anything_is_known_every_metric_is_there_all_the_same():
    names = re.findall(r"# TYPE (\w+)", metrics.text(ROWS, COUNTED))
    empty = metrics.text({}, {"slots": {}, "pools": {}, "bounds": COUNTED["bounds"]})
    assert re.findall(r"# TYPE (\w+)", empty) == names


@needs_promtool
def test_promtool_has_nothing_to_say_against_it():
    promtool("check", "metrics", text=metrics.text(ROWS, COUNTED))


@needs_promtool
def test_each_rule_fires_for_what_it_is_about_and_for_nothing_else():
    promtool("check", "rules", RULES)
    promtool("test", "rules", ROOT / "tests/prometheus/rules.test.yml")


@needs_promtool
def test_each_expression_of_the_dashboard_is_one(tmp_path):
    rules = [{"record": f"panel:{at}", "expr": each} for at, each in enumerate(expressions())]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    promtool("check", "rules", path)


def test_rules_and_dashboard_name_only_what_there_is():
    known = set(re.findall(r"# TYPE (\w+)", metrics.text(ROWS, COUNTED)))
    rules = RULES.read_text(encoding="utf-8").partition("groups:")[2]
    assert names_in(rules) <= known
    shown = set().union(*map(names_in, expressions()))
    assert shown <= known
    # Each is in one of them, but for what names the program.
    assert known - shown - names_in(rules) <= {"impetusd_build_info"}


def test_the_panels_of_the_dashboard_lie_beside_each_other():
    taken = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
