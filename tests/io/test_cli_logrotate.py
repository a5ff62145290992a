"""`impetusd logrotate`: which files are whose."""

from __future__ import annotations

from pathlib import Path

from impetusd.cli import logrotate
from impetusd.core import config
from impetusd.host import this_host

ROOT = Path(__file__).resolve().parent.parent.parent


def patterns(text):
    made = config.parse(text, "/srv/a b/impetusd.ini", {}, this_host())
    head, _, rest = logrotate.text(made, "/usr/bin/impetusd", "shop", "shop").partition(" {\n")
    return [line.strip('"') for line in head.splitlines()], rest


def test_the_sample_is_what_is_printed():
    assert (ROOT / "conf/logrotate/impetusd").read_text() == logrotate.sample()


def test_one_pattern_serves_a_directory_in_which_nothing_rotates_itself():
    found, rest = patterns("[program:p]\ncommand = x\nout_file = ${LOG_DIR}/mine.log\n")
    assert found == ["/srv/a b/var/log/*.log"]
    assert "    su shop shop\n" in rest
    assert "    /usr/bin/impetusd -c '/srv/a b/impetusd.ini' reopen-logs >/dev/null\n" in rest


def test_files_elsewhere_are_named_and_so_are_those_of_instances():
    found, _ = patterns("[program:p]\ncommand = x\ninstances = 1..3\nout_file = /var/log/p.txt\n")
    assert found == ["/srv/a b/var/log/*.log", "/var/log/p.txt", "/var/log/p-*.txt"]


def test_what_rotates_itself_is_left_out():
    found, _ = patterns("[program:p]\ncommand = x\n[program:own]\ncommand = x\nlog_max_size = 1M\n")
    assert found == [f"/srv/a b/var/log/{name}.log" for name in ("impetusd", "p-out", "p-error")]
