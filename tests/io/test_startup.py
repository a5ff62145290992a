"""`startup` and `unstartup` as far as they go without systemd; tests/system/test_systemd.py has the rest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from impetusd.cli import place, reap_leftovers
from impetusd.cli.install import systemd, unitfiles
from impetusd.core.config.location import Paths

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "conf" / "systemd"
ETC = Paths(conf="/etc/impetusd/impetusd.ini", base_dir="/etc/impetusd", run_dir="/run/impetusd", state_dir="/var/lib/impetusd", log_dir="/var/log/impetusd")  # fmt: skip


def moved(**changes: str) -> Paths:
    return Paths(
        **{name: getattr(ETC, name) for name in ("conf", "base_dir", "run_dir", "state_dir", "log_dir")} | changes
    )


def values(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


@pytest.fixture
def host(monkeypatch, tmp_path):
    """One that systemd runs, as far as files tell, whoever runs the tests; where its units are."""
    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path))
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", str(tmp_path / "units"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path / "units"


class TestUnits:
    @pytest.mark.parametrize("name", sorted(unitfiles.samples()))
    def test_those_in_conf_are_the_ones_that_are_generated(self, name):
        text = (SHIPPED / name).read_text(encoding="utf-8")
        assert text == unitfiles.samples()[name], "run: python -m impetusd.cli.install.unitfiles conf/systemd"

    def test_there_are_no_others(self):
        assert {path.name for path in SHIPPED.iterdir()} == unitfiles.samples().keys()

    def test_the_sample_is_what_startup_writes_for_the_systems_file(self):
        assert unitfiles.samples()["impetusd.service"] == unitfiles.service("impetusd", "/usr/bin/impetusd", ETC)

    def test_systemd_makes_the_directories_that_are_where_it_has_them(self):
        text = unitfiles.service("x", "/usr/bin/impetusd", moved(run_dir="/run/a/b", log_dir="/srv/log"))
        assert values(text, "RuntimeDirectory") == ["a/b"]
        assert values(text, "StateDirectory") == ["impetusd"]
        assert values(text, "LogsDirectory") == []

    def test_the_mounts_that_it_lives_on_come_first(self):
        text = unitfiles.service("x", "/usr/bin/impetusd", moved(base_dir="/srv/shop", log_dir="/data/log"))
        assert values(text, "RequiresMountsFor") == ["/data/log /srv/shop"]
        assert values(unitfiles.service("x", "/usr/bin/impetusd", ETC), "RequiresMountsFor") == []

    def test_it_may_write_where_the_file_says_though_that_is_in_usr(self):
        text = unitfiles.service("x", "/usr/bin/impetusd", moved(state_dir="/usr/local/shop/lib", log_dir="/srv/log"))
        assert values(text, "ReadWritePaths") == ["-/usr/local/shop/lib"]
        text = unitfiles.drop_in(
            "hardened", "/usr/bin/impetusd", moved(state_dir="/usr/local/shop/lib", log_dir="/srv/log")
        )
        assert values(text, "ReadWritePaths") == ["-/usr/local/shop/lib -/srv/log"]

    def test_a_hardened_one_still_finds_what_is_in_a_home(self, monkeypatch):
        monkeypatch.setattr(unitfiles.sys, "executable", "/usr/bin/python3")
        monkeypatch.setattr(unitfiles.sys, "base_prefix", "/usr")
        assert values(unitfiles.drop_in("hardened", "/usr/bin/impetusd", ETC), "ProtectHome") == ["yes"]
        for command, paths in (("/home/me/bin/impetusd", ETC), ("/usr/bin/impetusd", moved(base_dir="/root/shop"))):
            assert values(unitfiles.drop_in("hardened", command, paths), "ProtectHome") == ["read-only"]

    def test_one_of_a_user_has_nothing_that_only_the_system_has(self):
        text = unitfiles.service("x", "/usr/bin/impetusd", moved(base_dir="/home/me"), user=True)
        assert values(text, "After") == ["x-leftovers.service"]
        for key in ("RuntimeDirectory", "ProtectSystem", "RequiresMountsFor", "User"):
            assert values(text, key) == []
        assert values(text, "WantedBy") == ["default.target"]

    @pytest.mark.parametrize(
        ("path", "word"),
        [
            ("/srv/shop/a.ini", "/srv/shop/a.ini"),
            ("/srv/my shop/a.ini", '"/srv/my shop/a.ini"'),
            ("/srv/100%/$x.ini", "/srv/100%%/$$x.ini"),
            ('/srv/"a"\\b.ini', '"/srv/\\"a\\"\\\\b.ini"'),
        ],
    )
    def test_paths_are_written_so_that_systemd_reads_them_back(self, path, word):
        text = unitfiles.service("x", "/usr/bin/impetusd", moved(conf=path))
        assert values(text, "ExecStart") == [f"/usr/bin/impetusd -c {word} run"]

    @pytest.mark.parametrize("folder", ["my app", "app[1]", "100%i $HOME", "a;b#c", "é"])
    @pytest.mark.parametrize("profile", unitfiles.PROFILES)
    def test_the_real_systemd_finds_the_command_wherever_it_is(self, tmp_path, folder, profile):
        command = tmp_path / folder / "bin" / "impetusd"
        command.parent.mkdir(parents=True)
        command.write_text("#!/bin/sh\n")
        command.chmod(0o755)
        base = str(tmp_path / folder)
        paths = moved(conf=f"{base}/x.ini", base_dir=base, state_dir=f"/var/lib/{folder}", log_dir=f"{base}/log")
        unit = tmp_path / "impetusd.service"
        more = tmp_path / "impetusd.service.d" / "impetusd.conf"
        more.parent.mkdir()
        unit.write_text(unitfiles.service("impetusd", str(command), paths))
        more.write_text(unitfiles.drop_in(profile, str(command), paths))
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        told = [line for line in done.stderr.splitlines() if "impetusd" in line]
        assert (done.returncode, told) == (0, [])

    @pytest.mark.parametrize("folder", ["it's", 'quo"te', "back\\slash"])
    def test_what_systemd_will_not_execute_is_refused(self, cli, monkeypatch, folder):
        monkeypatch.setattr(place, "executable", lambda: f"/srv/{folder}/impetusd")
        code, out, err = cli("startup", "--print")
        assert (code, out) == (1, "")
        assert "systemd cannot execute a path with a quote or backslash" in err

    def test_a_path_of_several_lines_makes_no_lines(self):
        text = unitfiles.service("x", "/usr/bin/impetusd", moved(conf="/srv/a\nExecStart=/bin/b\n.ini"))
        assert len(values(text, "ExecStart")) == 1
        assert text.startswith(unitfiles.mark("/srv/a\nExecStart=/bin/b\n.ini") + "\n")


class TestHelper:
    """The unit that ends what is left, where systemd runs no command of the service's own."""

    @pytest.mark.parametrize(
        ("name", "helper"),
        [("impetusd", "impetusd-leftovers.service"), ("impetusd@shop", "impetusd-leftovers@shop.service")],
    )
    def test_the_service_starts_it_first_and_stops_it_last(self, name, helper):
        text = unitfiles.service(name, "/usr/bin/impetusd", ETC)
        assert values(text, "Wants")[0] == values(text, "After")[0] == helper

    @pytest.mark.parametrize("user", [False, True])
    def test_it_goes_when_the_service_is_down_for_good(self, user):
        text = unitfiles.helper("shop", "/usr/bin/impetusd", moved(base_dir="/srv/my shop"), user=user)
        assert values(text, "StopWhenUnneeded") == ["yes"]
        assert values(text, "ExecStop") == [
            "/usr/bin/impetusd -c /etc/impetusd/impetusd.ini reap-leftovers --after shop.service"
        ]
        assert values(text, "RequiresMountsFor") == ([] if user else ['"/srv/my shop"'])
        assert unitfiles.mark(ETC.conf) not in text  # it is no service of that INI file

    @pytest.mark.parametrize(
        ("state", "result", "status", "restart", "stopped"),
        [
            ("inactive", "success", 0, "on-failure", True),
            ("inactive", "signal", 9, "on-failure", True),  # stopped when it was about to be started again
            ("failed", "signal", 9, "on-failure", True),  # stopped just after it was killed
            ("failed", "watchdog", 6, "on-failure", True),
            ("failed", "exit-code", 1, "on-failure", True),
            ("failed", "exit-code", 2, "on-failure", False),  # no restart helps
            ("failed", "exit-code", 73, "on-failure", False),
            ("failed", "start-limit-hit", 9, "on-failure", False),
            ("failed", "signal", 9, "no", False),
            ("activating", "signal", 9, "on-failure", False),
            ("active", "success", 0, "on-failure", False),
        ],
    )
    def test_it_ends_what_is_left_after_a_stop_and_nothing_after_a_failure(
        self, state, result, status, restart, stopped
    ):
        facts = {"ActiveState": state, "Result": result, "ExecMainStatus": str(status), "Restart": restart}
        assert reap_leftovers.stays_down(facts) is stopped

    def test_a_systemd_that_tells_nothing_ends_nothing(self):
        assert not reap_leftovers.stays_down({})


class TestStartup:
    def test_print_shows_the_unit_of_this_file_to_anybody_anywhere(self, cli, paths, monkeypatch, tmp_path):
        monkeypatch.setattr(systemd, "BOOTED", str(tmp_path / "none"))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        code, out, err = cli("startup", "--print")
        assert (code, err) == (0, "")
        own, _, helper = out.partition("\n# And in ")
        assert own == unitfiles.service("impetusd", place.executable(), paths)
        folder, _, text = helper.partition(":\n\n")
        assert folder == "/etc/systemd/system/impetusd-leftovers.service"
        assert text == unitfiles.helper("impetusd", place.executable(), paths)
        code, out, _ = cli("startup", "--print", "--profile", "compatible", "--name", "shop")
        assert code == 0
        assert out.endswith(
            f"/etc/systemd/system/shop.service.d/impetusd-compatible.conf:\n\n{unitfiles.COMPATIBLE_TEXT}"
        )

    def test_the_executable_is_the_one_of_this_interpreter(self):
        said = subprocess.run([place.executable(), "version"], capture_output=True, text=True, check=True)
        assert said.stdout.startswith("impetusd ")

    def test_who_is_not_root_is_told_what_to_do(self, cli, host, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        code, out, err = cli("startup")
        assert (code, out) == (1, "")
        assert err.startswith("impetusd: only root can install a system service: ")
        assert err.endswith(" startup --user\n")

    def test_a_host_without_systemd_is_told_and_the_way_out(self, cli, host, monkeypatch, tmp_path):
        monkeypatch.setattr(systemd, "BOOTED", str(tmp_path / "none"))
        code, out, err = cli("startup")
        assert (code, out) == (1, "")
        assert "does not use systemd" in err
        assert "startup --print" in err
        assert not host.exists()

    def test_a_file_with_mistakes_gets_no_service(self, cli, paths, host):
        with open(paths.conf, "a", encoding="utf-8") as file:
            file.write("comand = x\n")
        assert cli("startup")[0] == 2
        assert not host.exists()

    def test_a_service_of_somebody_else_is_left_as_it_is(self, cli, host):
        host.mkdir()
        (host / "impetusd.service").write_text("[Service]\nExecStart=/bin/true\n")
        code, _, err = cli("startup")
        assert code == 1
        assert "was not written by `impetusd startup`" in err
        assert (host / "impetusd.service").read_text() == "[Service]\nExecStart=/bin/true\n"

    @pytest.mark.parametrize("args", [("--name", "a/b"), ("--user", "--profile", "hardened"), ("--profile", "tight")])
    def test_wrong_usage(self, cli, host, args):
        code, out, err = cli("startup", *args)
        assert (code, out) == (2, "")
        assert err
        assert not host.exists()

    def test_a_second_name_is_refused(self, cli, paths, host):
        host.mkdir()
        (host / "shop.service").write_text(f"{unitfiles.mark(paths.conf)}\n")
        code, _, err = cli("startup", "--name", "other")
        assert code == 1
        assert "already has a service, shop.service" in err


class TestUnstartup:
    def test_where_there_is_nothing_it_says_so(self, cli, paths, host, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert cli("unstartup") == (0, f"{paths.conf} has no service in {host}; nothing to undo\n", "")

    def test_services_of_others_are_not_found(self, cli, paths, host):
        host.mkdir()
        (host / "impetusd.service").write_text(f"{unitfiles.mark(paths.conf)}.old\n")
        (host / "other.service").write_text("[Service]\n")
        assert "nothing to undo" in cli("unstartup")[1]

    def test_who_is_not_root_is_told(self, cli, paths, host, monkeypatch):
        host.mkdir()
        unit = host / "impetusd.service"
        unit.write_text(f"{unitfiles.mark(paths.conf)}\n")
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        code, _, err = cli("unstartup")
        assert (code, unit.exists()) == (1, True)
        assert err.startswith("impetusd: only root can remove")
