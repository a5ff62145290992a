"""`impetusd startup` and `unstartup` on a host that systemd runs; and that such a host leaves nothing on this one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from instance import PROGRAMS, Status
from systemd_namespace import Namespace
from systemd_service import ETC, HOME, IMPETUSD, NOBODY, SLEEPER, Service, shipped
from waiting import wait_for


class TestStartup:
    """The commands `startup` and `unstartup` on a host that systemd runs."""

    @pytest.fixture
    def shop(self, host: Namespace) -> Iterator[Service]:
        """An INI file of one's own, and the service that it is to have."""
        own = Service(host, "shop", "shop.service", "/srv/shop/impetusd.ini")
        host.write(own.conf, SLEEPER)
        yield own
        with contextlib.suppress(Exception):
            own.run("unstartup", "--now")
        with contextlib.suppress(Exception):
            own.run("stop")
        assert [path for path in self.files(host) if "shop" in path] == []

    @staticmethod
    def files(host: Namespace) -> list[str]:
        return sorted(host.run("find", ETC, "-name", "*.service*").split())

    def test_it_installs_enables_and_starts_and_is_undone(self, shop: Service) -> None:
        before = self.files(shop.host)
        out = shop.run("startup", "--name", "shop", "--profile", "hardened")
        unit, drop_in = f"{ETC}/shop.service", f"{ETC}/shop.service.d/impetusd-hardened.conf"
        helper = f"{ETC}/shop-leftovers.service"
        assert out.splitlines() == [
            f"wrote {unit}",
            f"wrote {helper}",
            f"wrote {drop_in}",
            "enabled shop.service: it starts at boot",
            "to start it now: systemctl start shop",
        ]
        assert sorted({*self.files(shop.host)} - {*before}) == sorted(
            [f"{ETC}/multi-user.target.wants/shop.service", unit, helper, os.path.dirname(drop_in)]
        )
        assert shop.systemctl("is-enabled").strip() == "enabled"
        out = shop.run("startup", "--now")  # of the default profile, and under the name that it has
        assert out.splitlines() == [
            f"{unit} is up to date",
            f"{helper} is up to date",
            f"removed {drop_in}",
            "shop.service is already enabled",
            "started shop.service: 1 of 1 up",
        ]
        assert shop.status().shim == int(shop.show("MainPID"))
        shop.run("unstartup", code=1)
        assert shop.show("ActiveState") == "active"
        out = shop.run("unstartup", "--now")
        removed = [f"removed {unit}", f"removed {helper}"]
        assert out.splitlines() == ["stopped shop.service", "disabled shop.service", *removed]
        assert self.files(shop.host) == before
        assert shop.show("LoadState") == "not-found"
        assert shop.run("status", code=3)
        assert "nothing to undo" in shop.run("unstartup")

    def test_twice_is_once(self, shop: Service) -> None:
        shop.run("startup", "--name", "shop", "--now")
        before = shop.show("MainPID")
        out = shop.run("startup", "--now")
        assert out.splitlines() == [
            f"{ETC}/shop.service is up to date",
            f"{ETC}/shop-leftovers.service is up to date",
            "shop.service is already enabled",
            "shop.service is already running",
        ]
        assert shop.show("MainPID") == before

    def test_a_name_that_is_taken_is_left_alone(self, shop: Service) -> None:
        """impetusd.service is there for another INI file."""
        out = shop.run("startup", code=1)
        assert "is for /etc/impetusd/impetusd.ini" in out
        assert "--name" in out
        assert shop.host.path(f"{ETC}/impetusd.service").read_text(encoding="utf-8") == shipped("impetusd.service")

    def test_one_that_runs_by_hand_is_not_started_a_second_time(self, shop: Service) -> None:
        shop.run("start")
        before = shop.status().shim
        assert "impetusd is already running" in shop.run("startup", "--name", "shop", "--now", code=1)
        assert shop.status().shim == before
        out = shop.run("startup")
        assert f"impetusd -c {shop.conf} stop && systemctl start shop" in out

    def test_variables_that_only_the_shell_has_are_named(self, shop: Service) -> None:
        shop.host.write(shop.conf, f"{SLEEPER}cwd = ${{SHOP}}\n")
        out = shop.host.run(IMPETUSD, "-c", shop.conf, "startup", "--name", "shop", env={"SHOP": "/srv"})
        assert "/etc/default/shop" in out
        assert "SHOP is not set" in out or "${SHOP}" in out
        shop.host.write("/etc/default/shop", "SHOP=/srv\n")
        shop.systemctl("start")
        assert shop.show("StatusText") == "1 of 1 up"

    def test_an_ordinary_user_is_told_what_to_do(self, shop: Service, nobody: Callable[..., str]) -> None:
        out = nobody(IMPETUSD, "-c", shop.conf, "startup", "--name", "shop", code=1)
        assert out.startswith("impetusd: only root can install")
        assert "startup --user" in out
        assert out.count("\n") == 1

    def test_a_service_of_ones_own(self, host: Namespace, nobody: Callable[..., str]) -> None:
        """With a systemd --user, as logging in starts one."""
        command = [IMPETUSD, "-c", "/srv/home/impetusd.ini"]
        out = nobody(*command, "startup", "--user", code=1)
        assert "loginctl enable-linger" in out
        login = [
            "--property=Delegate=yes",
            "--service-type=notify",
            *(f"--setenv={name}={path}" for name, path in HOME.items()),
        ]
        host.run(
            "systemd-run",
            "--unit=login",
            f"--uid={NOBODY}",
            f"--gid={NOBODY}",
            *login,
            "/lib/systemd/systemd",
            "--user",
        )
        try:
            out = nobody(*command, "startup", "--user", "--now")
            assert "/srv/home/.config/systemd/user/impetusd.service" in out
            assert "started impetusd.service: 1 of 1 up" in out
            assert "loginctl enable-linger nobody" in out
            main = nobody("systemctl", "--user", "show", "--value", "--property=MainPID", "impetusd").strip()
            assert str(Status(json.loads(nobody(*command, "status", "--json"))).shim) == main
            nobody(*command, "unstartup", "--user", "--now")
            assert "nothing to undo" in nobody(*command, "unstartup", "--user")
            nobody(*command, "status", code=3)
        finally:
            host.run("systemctl", "stop", "login")


def test_nothing_of_a_namespace_is_left_on_the_host() -> None:
    """Even when whoever made it is killed."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from systemd_namespace import Missing, Namespace\n"
        "try:\n    host = Namespace({}).__enter__()\nexcept Missing as why:\n    print('missing', why)\n    sys.exit()\n"
        "print(host.pid, host._keeper.pid, host._seed, flush=True)\nsys.stdin.read()\n"
    )
    made = subprocess.Popen(
        [sys.executable, "-c", script, str(PROGRAMS.parent / "system")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert made.stdout is not None
    line = made.stdout.readline()
    made.kill()
    made.communicate()
    if line.startswith("missing"):
        pytest.skip(line.strip())
    pid, keeper, seed = line.split()
    wait_for(lambda: not Path(f"/proc/{keeper}").exists(), "the keeper to end")
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(seed).exists()
    mounts = [
        fields.split() for fields in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in fields
    ]
    assert not Path(mounts[0][4], f"impetusd-test-{keeper}").exists()
