"""The unit files: what systemd says of them, and that their profiles do what they are for."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable

import pytest
from instance import pool, program
from systemd_namespace import ROOT, Namespace
from systemd_service import IMPETUSD, NOBODY, SLEEPER, Service, shipped
from waiting import wait_for

# Hardened hides /tmp and the homes; what is tested may have been cloned there.
CHECKOUT = f"BindReadOnlyPaths={ROOT}\n"


class TestProfiles:
    def test_hardened_runs_pools_and_programs_as_other_users(self, service: Service, python_of_nobody: str) -> None:
        service.write(SLEEPER)
        _, _, text = service.run("startup", "--print", "--profile=hardened").partition("/impetusd-hardened.conf:\n\n")
        service.drop_in(f"{text}{CHECKOUT}ReadWritePaths={service.folder}\n")
        command = program("show_surroundings", f"{service.folder}/seen").split(" ", 1)[1]
        before = service.start(
            f"[program:other]\ncommand = {python_of_nobody} {command}\nuser = nobody\nwait_ready = yes\n"
            f"max_memory_restart = 500M\n[pool:web]\n{pool(8080)}"
        )
        assert {row.state for row in before.rows.values()} == {"RUNNING"}, before
        seen = json.loads(service.written("seen"))
        assert seen["no_new_privs"] == "1"
        assert set(seen["uid"]) != {0}
        assert all(row.memory_bytes for row in before.rows.values())
        assert len({service.cgroup(pid) for pid in before.pids.values()}) == len(before.pids)
        service.kill(before["web:0"].pid, signal.SIGKILL)
        wait_for(lambda: service.status()["web:0"].restarts == 1, "another worker")
        service.systemctl("stop")
        assert service.show("Result") == "success"

    def test_hardened_needs_no_privilege_with_a_user_of_its_own(
        self, service: Service, nobody: Callable[..., str]
    ) -> None:
        service.write(SLEEPER)
        _, _, text = service.run("startup", "--print", "--profile=hardened").partition("/impetusd-hardened.conf:\n\n")
        service.drop_in(f"{text}{CHECKOUT}User={NOBODY}\nGroup={NOBODY}\nCapabilityBoundingSet=\n")
        status = service.start(f"{SLEEPER}[pool:web]\n{pool(8081)}")
        assert {row.state for row in status.rows.values()} == {"RUNNING"}, status
        for pid in (status.shim, *status.pids.values()):
            lines = service.host.path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
            facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)  # type: ignore[misc]  # two parts
            assert facts["Uid"].split() == [NOBODY] * 4
            assert int(facts["CapPrm"], 16) == int(facts["CapBnd"], 16) == 0
        assert len({service.cgroup(pid) for pid in status.pids.values()}) == len(status.pids)

    def test_compatible_lifts_every_restriction_of_the_unit(self) -> None:
        """Each setting that the shipped unit makes below its comment on restrictions is unmade."""
        _, _, part = shipped("impetusd.service").partition("# These also apply to programs")
        made = re.findall(r"^(\w+)=(?:yes|full)$", part, re.MULTILINE)
        assert made
        assert re.findall(r"^(\w+)=no$", shipped("compatible.conf"), re.MULTILINE) == made


class TestAnalyze:
    """systemd's own opinion of the unit files."""

    @pytest.mark.parametrize("profile", [None, "hardened", "compatible"])
    @pytest.mark.parametrize("unit", ["impetusd", "impetusd@"])
    def test_verify_prints_nothing(self, host: Namespace, unit: str, profile: str | None) -> None:
        folder = f"/verify/{profile}"
        stem, at, _ = unit.partition("@")
        for name in (unit, f"{stem}-leftovers{at}"):
            host.write(f"{folder}/{name}.service", shipped(f"{name}.service"))
        if profile:
            host.write(f"{folder}/{unit}.service.d/x.conf", shipped(f"{profile}.conf"))
        assert host.run("systemd-analyze", "verify", "--man=no", f"{folder}/{unit}.service") == ""

    @pytest.mark.parametrize("folder", ["plain", "50 % of $HOME; a \"b\" 'c'"])
    @pytest.mark.parametrize("manager", ["--system", "--user"])
    def test_verify_prints_nothing_for_what_startup_writes(self, host: Namespace, folder: str, manager: str) -> None:
        conf = f"/srv/{folder}/impetusd.ini"
        host.write(conf, SLEEPER)
        user = ["--user"] if manager == "--user" else []
        text = host.run(IMPETUSD, "-c", conf, "startup", "--print", *user)
        own, _, helper = text.partition("\n# And in ")
        paths = [f"/verify{manager}/{name}.service" for name in ("impetusd", "impetusd-leftovers")]
        host.write(paths[0], own)
        host.write(paths[1], helper.partition(":\n\n")[2])
        environ = {"XDG_RUNTIME_DIR": "/run"}
        said = host.run("systemd-analyze", manager, "verify", "--man=no", *paths, env=environ)
        assert said == ""

    @pytest.mark.parametrize(
        ("profile", "told"), [(None, "as shipped"), ("hardened", "hardened"), ("compatible", "compatible")]
    )
    def test_the_documentation_has_the_figures_of_security(
        self, host: Namespace, profile: str | None, told: str
    ) -> None:
        if "systemd 252 " not in host.run("systemctl", "--version"):
            pytest.skip("the documented figures are those of systemd 252; each version counts anew")
        folder = f"/security/{profile}"
        host.write(f"{folder}/impetusd.service", shipped("impetusd.service"))
        if profile:
            host.write(f"{folder}/impetusd.service.d/x.conf", shipped(f"{profile}.conf"))
        said = host.run("systemd-analyze", "security", "--offline=true", "--no-pager", f"{folder}/impetusd.service")
        figure = re.search(r"Overall exposure level for impetusd.service: ([\d.]+)", said)
        assert figure is not None, said
        page = " ".join((ROOT / "impetusd" / "help" / "operations.md").read_text(encoding="utf-8").split())
        assert f"{figure[1]} {told}" in page
