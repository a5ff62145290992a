"""Files that change, and what is made of it; with real files, and whatever the kernel tells of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from types import SimpleNamespace

import pytest
from waiting import until, wait_for

from impetusd.core.reasons import because
from impetusd.supervisor.rules import filewatch
from impetusd.supervisor.rules.filewatch import FileWatch, ignored, log_glob

pytest.importorskip("watchfiles")

PATIENCE = 60.0


class Bench:
    """A FileWatch on a folder, and what it has called."""

    def __init__(self, root):
        self.root = str(root)
        self.changes, self.told = [], []
        self.heard = set()
        self.files = FileWatch(lambda unit, reason: self.changes.append(reason), self.told.append, [f"{root}/var"])
        hear = self.files._hear
        self.files._hear = lambda watcher, paths, text: (self.heard.update(paths or ()), hear(watcher, paths, text))

    def unit(self, *paths, **keys):
        own = {
            "name": "web",
            "enabled": True,
            "watch": tuple(f"{self.root}/{path}" for path in paths),
            "cwd": self.root,
        }
        rest = {"watch_ignore": (), "watch_delay": 0.05, "out_file": "", "error_file": ""}
        return SimpleNamespace(**{**own, **rest, **keys})

    async def until(self, condition, meanwhile=lambda: None):
        """Wait for `condition`; `meanwhile` is done again and again, until the watching has begun and sees it."""
        await until(lambda: condition() or meanwhile(), lambda: (self.changes, self.told))

    async def until_seen(self, path):
        """Write to a file until a change of it is told."""
        self.changes.clear()
        await self.until(lambda: any(path in reason.facts["path"] for reason in self.changes), lambda: self.write(path))

    def write(self, path):
        with open(f"{self.root}/{path}", "a", encoding="utf-8") as file:
            file.write("x\n")


@pytest.fixture
def bench(tmp_path):
    """Runs a coroutine function with a Bench; at the end no thread of it is left."""

    def run(scenario):
        async def main():
            bench = Bench(tmp_path)
            try:
                await scenario(bench)
            finally:
                await bench.files.close()

        before = set(threading.enumerate())
        asyncio.run(main())
        wait_for(lambda: set(threading.enumerate()) == before, threading.enumerate)

    return run


def test_a_changed_file_is_told_as_seen_from_cwd(bench, tmp_path):
    (tmp_path / "app").mkdir()

    async def scenario(bench):
        bench.files.watch([bench.unit("app")])
        await bench.until_seen("app/views.py")
        assert set(bench.changes) == {because("watch", path="app/views.py", more=0)}
        assert bench.told == []

    bench(scenario)


def test_changes_in_quick_succession_are_one(bench, tmp_path):
    (tmp_path / "app").mkdir()

    async def scenario(bench):
        bench.files.watch([bench.unit("app", watch_delay=0.4)])

        def several():
            for name in "abc":
                bench.write(f"app/{name}.py")

        # Written every 0.2 s, it never comes to rest; it is told all the same, after LONGEST times watch_delay.
        await bench.until(lambda: bench.changes, several)
        assert len(bench.changes) == 1
        assert bench.changes[0] == because("watch", path="app/a.py", more=2)

    bench(scenario)


def test_what_is_ignored_is_no_change(bench, tmp_path):
    for name in ("app/__pycache__", "app/static", "var"):
        (tmp_path / name).mkdir(parents=True)

    async def scenario(bench):
        out_file = f"{bench.root}/app/web.log"
        bench.files.watch([bench.unit(".", "app", watch_ignore=("static", "*.tmp"), out_file=out_file)])
        await bench.until_seen("app/views.py")
        for name in (
            "app/__pycache__/a.pyc",
            "app/static/x.css",
            "app/x.tmp",
            "var/x",
            "app/web.log",
            "app/web-0.log.1.gz",
        ):
            bench.write(name)
        await bench.until_seen("app/other.py")
        assert bench.heard == {f"{bench.root}/app/views.py", f"{bench.root}/app/other.py"}

    bench(scenario)


def test_a_directory_that_is_missing_is_told_once_and_looked_for(bench, monkeypatch):
    monkeypatch.setattr(filewatch, "LOOK", 50)

    async def scenario(bench):
        bench.files.watch([bench.unit("app")])
        await bench.until(lambda: bench.told)
        os.mkdir(f"{bench.root}/app")
        await bench.until(lambda: bench.changes)
        assert bench.changes == [because("watch", path="app", more=0)]
        await bench.until_seen("app/views.py")
        assert bench.told == [f"web: cannot watch {bench.root}/app, which does not exist; checking every 0.05 s"]

    bench(scenario)


def test_a_directory_deployed_anew_is_a_change_and_goes_on_being_watched(bench, tmp_path):
    (tmp_path / "app").mkdir()

    async def scenario(bench):
        bench.files.watch([bench.unit("app")])
        await bench.until_seen("app/views.py")
        bench.heard.clear()
        shutil.rmtree(f"{bench.root}/app")
        os.mkdir(f"{bench.root}/app")  # often with the inode of the one before
        await bench.until(lambda: f"{bench.root}/app" in bench.heard)
        await bench.until_seen("app/models.py")

    bench(scenario)


def test_while_a_directory_is_gone_nothing_is_restarted(bench, tmp_path):
    (tmp_path / "app").mkdir()

    async def scenario(bench):
        bench.files.watch([bench.unit("app", watch_delay=1000.0)])
        waiting = bench.files._resting["web"]._paths
        await bench.until(lambda: waiting, lambda: bench.write("app/views.py"))
        shutil.rmtree(f"{bench.root}/app")
        await bench.until(lambda: bench.told and not waiting)  # there is nothing that could be started
        os.mkdir(f"{bench.root}/app")
        await bench.until(lambda: list(waiting) == [f"{bench.root}/app"])

    bench(scenario)


def test_a_symlink_that_is_switched_is_a_change(bench, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "current").symlink_to("one")

    async def scenario(bench):
        bench.files.watch([bench.unit("current")])
        await bench.until_seen("current/views.py")
        bench.changes.clear()
        os.symlink("two", f"{bench.root}/next")
        os.replace(f"{bench.root}/next", f"{bench.root}/current")
        await bench.until(lambda: because("watch", path="current", more=0) in bench.changes)
        await bench.until_seen("current/models.py")

    bench(scenario)


def test_a_file_that_an_editor_replaces_is_a_change_each_time(bench, tmp_path):
    (tmp_path / "settings.py").write_text("1")

    async def scenario(bench):
        bench.files.watch([bench.unit("settings.py")])
        await bench.until_seen("settings.py")
        for _ in range(2):
            bench.changes.clear()

            def replace():
                bench.write("aside")
                os.replace(f"{bench.root}/aside", f"{bench.root}/settings.py")

            await bench.until(lambda: because("watch", path="settings.py", more=0) in bench.changes, replace)

    bench(scenario)


def test_another_configuration_is_watched_instead(bench, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()

    async def scenario(bench):
        bench.files.watch([bench.unit("one")])
        await bench.until_seen("one/a.py")
        bench.files.watch([bench.unit("two")])
        bench.heard.clear()
        bench.write("one/b.py")
        await bench.until_seen("two/a.py")
        assert bench.heard == {f"{bench.root}/two/a.py"}

    bench(scenario)


def test_without_the_package_it_is_told_what_to_install(bench, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "watchfiles", None)

    async def scenario(bench):
        bench.files.watch([bench.unit("app")])
        await bench.until(lambda: bench.told)
        assert bench.told == ["web: watch needs the package watchfiles: pip install 'impetusd[watch]'"]

    bench(scenario)


def test_watching_that_fails_is_told_and_tried_again(bench, monkeypatch, tmp_path):
    (tmp_path / "app").mkdir()
    monkeypatch.setattr(filewatch, "RETRY", 0.05)
    import watchfiles

    real, tried = watchfiles.watch, []

    def failing(*paths, **how):
        tried.append(paths)
        if len(tried) < 3:
            raise OSError("OS file watch limit reached")
        return real(*paths, **how)

    monkeypatch.setattr(watchfiles, "watch", failing)

    async def scenario(bench):
        bench.files.watch([bench.unit("app")])
        await bench.until_seen("app/a.py")
        assert bench.told == [f"web: cannot watch {bench.root}/app: OS file watch limit reached; retrying every 0.05 s"]

    bench(scenario)


@pytest.mark.parametrize(
    ("path", "is_ignored"),
    [
        ("/srv/app/views.py", False),
        ("/srv/app", False),
        ("/srv/app/.git/index", True),
        ("/srv/app/lib/node_modules/x/y.js", True),
        ("/srv/app/views.py~", True),
        ("/srv/app/.views.py.swp", True),
        ("/srv/app/doc/a.txt", True),
        ("/srv/app/lib/doc/a.txt", False),
        ("/srv/app/lib/tmp", True),
        ("/var/log/web.log", True),
        ("/var/log", False),
    ],
)
def test_patterns_match_a_part_of_the_path_or_all_of_it_below_the_root(path, is_ignored):
    assert ignored(path, ["/srv/app", "/var"], ["doc/*", "tmp"], ["/var/log/*"]) is is_ignored


def test_a_root_within_an_ignored_name_is_watched_all_the_same():
    assert not ignored("/srv/node_modules/mine/a.js", ["/srv/node_modules/mine"], [], [])


@pytest.mark.parametrize(
    ("log", "path", "is_ignored"),
    [
        ("/srv/app/app.log", "/srv/app/app.log", True),
        ("/srv/app/app.log", "/srv/app/app-2.log.3.gz", True),
        ("/srv/app/app.log", "/srv/app/app.py", False),
        ("/srv/app/log", "/srv/app/log", True),
        ("/srv/app/log", "/srv/app/login.py", False),
        ("", "/srv/app/a.py", False),
    ],
)
def test_a_units_own_logs_are_no_change(log, path, is_ignored):
    assert ignored(path, ["/srv/app"], [], [log_glob(log)]) is is_ignored
