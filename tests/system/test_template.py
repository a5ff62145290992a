"""`impetusd init --template service`: what it writes is used as it is, then changed as its owner would change it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest
from instance import COMMAND, Instance, wait_for


class Project:
    """A project in an instance's folder, and its service over HTTP."""

    def __init__(self, instance: Instance, *options: str) -> None:
        self.instance = instance
        self.root = instance.root / "shop"
        instance.run("init", "--template", "service", "shop", *options)
        instance.conf = self.root / "impetusd.ini"
        self.port = instance.port()
        ini = instance.conf.read_text()
        instance.conf.write_text(ini.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}"))
        self.token = (self.root / "shop.env").read_text().partition("API_TOKEN=")[2].strip()

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def change(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.mark.parametrize("parts", ["", "jobs,chat"])
def test_the_tests_of_a_project_pass_as_it_is_written(tmp_path, parts):
    options = ["--with", parts] if parts else []
    new = [*COMMAND, "init", "--template", "service", "shop", *options]
    said = subprocess.run(new, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "cd shop && pytest && impetusd start" in said
    assert ((tmp_path / "shop/shop/job_kinds.py").exists(), "chat" in (tmp_path / "shop/shop/app.py").read_text()) == (
        bool(parts),
        bool(parts),
    )
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(tests, cwd=tmp_path / "shop", check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_a_project_runs_reloads_with_a_migration_and_survives_a_failing_one(impetusd: Instance) -> None:
    project = Project(impetusd, "--with", "jobs")
    impetusd.run("start")
    status, item = project("POST", "/api/items", {"name": "bread"})
    assert (status, item["name"]) == (201, "bread")
    status, job = project("POST", "/api/jobs/item-reports", {})
    assert status == 202
    wait_for(lambda: project("GET", f"/api/jobs/{job['id']}")[1]["state"] == "succeeded", "the job to be done")

    before = impetusd.status()
    project.change("shop/__init__.py", "0.1.0", "0.2.0")
    project.change("shop/queries.py", '"id, name, done, created_at"', '"id, name, done, price, created_at"')
    project.change("shop/items.py", "    done: bool\n", "    done: bool\n    price: int\n")
    migration = project.root / "shop/migrations/0004_price.sql"
    migration.write_text("ALTER TABLE items ADD COLUMN price integer NOT NULL DEFAULT 7;\n")
    impetusd.run("reload", "web")
    assert impetusd.status()["web:0"].pid != before["web:0"].pid
    assert project("GET", f"/api/items/{item['id']}")[1]["price"] == 7
    assert project("GET", "/health")[1]["version"] == "0.2.0"

    before = impetusd.status()
    project.change("shop/__init__.py", "0.2.0", "0.3.0")
    project.change("impetusd.ini", "start_period = 10s", "start_period = 1s")
    impetusd.run("apply")
    (project.root / "shop/migrations/0005_broken.sql").write_text("ALTER TABLE items DROP COLUMN colour;\n")
    refused = impetusd.run("reload", "web", code=1)
    assert "0005 broken failed" in str(refused)
    assert [impetusd.status()[slot].pid for slot in ("web:0", "web:1")] == [
        before[slot].pid for slot in ("web:0", "web:1")
    ]
    assert project("GET", "/health")[1]["version"] == "0.2.0"
    assert project("GET", f"/api/items/{item['id']}")[1]["price"] == 7


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["Shop"], "'Shop' is not a valid project name: use a-z, 0-9 and _"),
        (["json"], "it would hide Python's module json"),
        (["class"], "is reserved"),
        (["shop", "--with", "jobs,mail"], "unknown part mail; parts: jobs, chat"),
        (["shop", "--all-keys"], "omit --app and --all-keys"),
    ],
)
def test_a_project_that_cannot_be_is_refused(impetusd: Instance, arguments: list[str], told: str) -> None:
    refused = impetusd.run("init", "--template", "service", *arguments, code=2)
    assert told in refused.err
    assert not (impetusd.root / arguments[0]).exists()


def test_nothing_is_overwritten(impetusd: Instance) -> None:
    (impetusd.root / "shop").mkdir()
    (impetusd.root / "shop/README.md").write_text("mine")
    refused = impetusd.run("init", "--template", "service", "shop", code=1)
    assert "shop/README.md already exists; nothing was written" in refused.err
    assert [path.name for path in (impetusd.root / "shop").iterdir()] == ["README.md"]
