"""`impetusd logrotate`: which files are whose."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from impetusd.cli.logs import logrotate
from impetusd.core.config import parser
from impetusd.linux import host
from impetusd.linux.host import group_name, this_host, user_name

ROOT = Path(__file__).resolve().parent.parent.parent


def patterns(text):
    made = parser.parse(text, "/srv/a b/impetusd.ini", {}, this_host())
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


AWKWARD = ("my app", "app[1]", "star*", "it's", 'quo"te', "back\\slash", "bra{c}e", "#a $b")


def test_the_real_logrotate_finds_the_logs_wherever_they_are(tmp_path):
    units = []
    for number, name in enumerate(AWKWARD):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.log").write_text("a line\n")
        written = f"{tmp_path}/{name}/x.log".replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
        units.append(f'[program:p{number}]\ncommand = x\nout_file = "{written}"\n')
    conf = tmp_path / "conf's dir" / "impetusd.ini"
    conf.parent.mkdir()
    made = parser.parse("".join(units), str(conf), {}, this_host())
    reopen = tmp_path / "bin dir" / "impetusd"
    reopen.parent.mkdir()
    reopen.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$(dirname "$0")/said"\n')
    reopen.chmod(0o755)
    written = tmp_path / "logrotate.conf"
    written.write_text(logrotate.text(made, str(reopen), user_name(os.geteuid()), group_name(os.getegid())))
    written.chmod(0o644)
    done = subprocess.run(
        ["/usr/sbin/logrotate", "--force", "--state", str(tmp_path / "state"), str(written)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [(tmp_path / name / "x.log.1").exists() for name in AWKWARD] == [True] * len(AWKWARD)
    assert (reopen.parent / "said").read_text().splitlines() == ["-c", str(conf), "reopen-logs"]


def test_a_user_without_a_name_is_refused_for_logrotate_knows_names_only(cli, monkeypatch):
    monkeypatch.setattr(host, "user_name", lambda _: "12345")
    code, out, err = cli("logrotate")
    assert (code, out) == (1, "")
    assert "belongs to user 12345, which has no name on this host, but logrotate accepts only names" in err
