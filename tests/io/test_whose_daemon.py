"""An INI file and the daemon that goes by it: no command acts on another's, and nothing is started twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from fake_supervisor import PONG, FakeSupervisor, row

from impetusd.cli import app, main, place
from impetusd.client import control, instance
from impetusd.core.config.location import default_dirs, locate

INI = "[program:web]\ncommand = sleep 1000\n"
# Commands that neither act on a daemon nor on what one has left.
ALONE = {
    "init",
    "check",
    "run",
    "startup",
    "unstartup",
    "completion",
    "version",
    "doctor",
    "help",
    "logrotate",
    "import",
    "export",
    "rollout",  # on other hosts
}
# What the others are given besides their names.
ARGUMENTS = {
    "scale": ["web", "2"],
    "exec": ["web", "--", "true"],
    "signal": ["HUP", "web"],
    **{name: ["web"] for name in ("reload", "enable", "disable", "describe", "env", "trigger", "remove")},
    "token": ["list"],
    "alert": ["test", "ops"],
    "add": ["--name", "x", "--", "sleep", "9"],
}


@pytest.fixture
def files(tmp_path):
    """Two INI files that name the same folders."""
    dirs = "".join(f"{key} = {tmp_path}/{key}\n" for key in instance.DIRS)
    for name in ("api.ini", "worker.ini"):
        (tmp_path / name).write_text(f"[impetusd]\n{dirs}{INI}")
    return tmp_path / "api.ini", tmp_path / "worker.ini"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process; gives (exit code, stdout, stderr)."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["impetusd", *map(str, args)])
        code = main.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def lives(conf, text=INI):
    return locate(text, str(conf), {})


def daemon(conf, file=None, **handlers):
    """A daemon that goes by `conf`; its file is as it is now unless `file` says otherwise."""
    paths = place.find(str(conf)).paths
    pong = {**PONG, **instance.report(str(conf), instance.stamp(str(conf)) if file is None else file)}
    return FakeSupervisor(paths, ping=pong, status={**pong, "units": [row("web")], "attention": []}, **handlers)


def commands():
    return [[name, *ARGUMENTS.get(name, [])] for name in app.COMMANDS if name not in ALONE]


class TestIsMeant:
    """One daemon, that goes by api.ini."""

    @pytest.fixture
    def told(self, tmp_path):
        file = tmp_path / "api.ini"
        file.write_text(INI)
        return instance.report(str(file), instance.stamp(str(file)))

    def test_its_own_file_and_another(self, told, tmp_path):
        other = tmp_path / "worker.ini"
        other.write_text(INI)
        assert instance.is_meant(told["conf"], told)
        assert instance.is_meant(f"{tmp_path}/./x/../api.ini", told)
        assert not instance.is_meant(str(other), told)

    def test_edited_replaced_and_relinked(self, told, tmp_path):
        file = tmp_path / "api.ini"
        file.write_text(f"{INI}# more\n")
        assert instance.is_meant(told["conf"], told)
        (tmp_path / "new").write_text(INI)
        os.rename(tmp_path / "new", file)
        assert instance.is_meant(told["conf"], told)
        file.unlink()
        (tmp_path / "..data").mkdir()
        (tmp_path / "..data" / "api.ini").write_text(INI)
        file.symlink_to("..data/api.ini")
        assert instance.is_meant(told["conf"], told)
        assert instance.is_meant(f"{tmp_path}/..data/api.ini", told)

    @pytest.mark.parametrize("link", [os.link, os.symlink])
    def test_another_name_of_it(self, told, tmp_path, link):
        link(told["conf"], tmp_path / "again.ini")
        assert instance.is_meant(f"{tmp_path}/again.ini", told)
        (tmp_path / "new").write_text(INI)
        os.rename(tmp_path / "new", told["conf"])
        assert instance.is_meant(f"{tmp_path}/again.ini", told)  # that is what it has read

    def test_moved_and_edited_there(self, told, tmp_path):
        os.rename(told["conf"], tmp_path / "moved.ini")
        assert instance.is_meant(f"{tmp_path}/moved.ini", told)
        (tmp_path / "moved.ini").write_text(f"{INI}# more\n")
        assert instance.is_meant(f"{tmp_path}/moved.ini", told)

    def test_a_file_that_has_got_the_number_of_one_that_was_replaced(self, told, tmp_path):
        other = tmp_path / "worker.ini"
        other.write_text(INI)
        device, inode, written = instance.stamp(str(other))
        assert not instance.is_meant(str(other), {**told, "file": [device, inode, written - 1]})

    @pytest.mark.parametrize("told", [{}, {"conf": None}, {"conf": 7}])
    def test_where_nothing_is_told_nothing_is_refused(self, tmp_path, told):
        assert instance.is_meant(f"{tmp_path}/api.ini", told)

    @pytest.mark.parametrize("file", [None, [], [1], "x", {}])
    def test_what_is_told_may_be_anything(self, tmp_path, file):
        (tmp_path / "a.ini").write_text(INI)
        assert not instance.is_meant(f"{tmp_path}/a.ini", {"conf": "/nowhere/b.ini", "file": file})


class TestAnothersDaemon:
    @pytest.mark.parametrize("words", commands(), ids=lambda words: words[0])
    def test_each_command_is_refused_with_both_names(self, files, run, words):
        api, worker = files
        with daemon(api) as fake:
            code, out, err = run("-c", worker, *words)
        assert (code, out) == (2, "")
        assert str(api) in err
        assert str(worker) in err
        assert [asked for asked in fake.asked if asked[0] != "status"] == []

    @pytest.mark.parametrize("words", commands(), ids=lambda words: words[0])
    def test_nor_may_it_touch_what_a_daemon_has_left(self, files, run, words):
        api, worker = files
        state = lives(api, api.read_text()).state_dir
        os.makedirs(state)
        with open(f"{state}/{instance.NAME}", "w", encoding="utf-8") as file:
            json.dump(instance.report(str(api), instance.stamp(str(api))), file)
        code, out, err = run("-c", worker, *words)
        assert (code, out) == (2, "")
        assert str(api) in err
        assert str(worker) in err
        api.unlink()  # nobody's any more
        control.require_rest(lives(worker, worker.read_text()))

    def test_a_copy_of_a_whole_folder_is_nobodys(self, tmp_path):
        """As of a backup, or for a second stage on one host."""
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "impetusd.ini").write_text(INI)
        there = lives(tmp_path / "a" / "impetusd.ini")
        os.makedirs(there.state_dir)
        told = instance.report(there.conf, instance.stamp(there.conf))
        with open(f"{there.state_dir}/{instance.NAME}", "w", encoding="utf-8") as file:
            json.dump(instance.record(told, there.state_dir), file)
        assert instance.of_state(there)["conf"] == there.conf
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        control.require_rest(lives(tmp_path / "b" / "impetusd.ini"))

    def test_nor_run_as_the_daemon(self, files, run, monkeypatch):
        monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it was started"))
        api, worker = files
        with daemon(api):
            instance_file = f"{lives(api, api.read_text()).state_dir}/{instance.NAME}"
            with open(instance_file, "w", encoding="utf-8") as file:
                json.dump(instance.report(str(api), instance.stamp(str(api))), file)
            code, _, err = run("-c", worker, "run")
        assert code == 2
        assert str(api) in err

    def test_with_its_run_dir_only(self, files, run):
        api, worker = files
        worker.write_text(worker.read_text().replace("/state_dir", "/other"))
        with daemon(api) as fake:
            assert run("-c", worker, "stop")[0] == 2
            assert run("-c", worker, "start")[0] == 2
            assert run("-c", api, "status")[0] == 0
        assert {method for method, _ in fake.asked} == {"status"}

    def test_one_of_an_older_version_tells_by_its_command_line(self, files, run, shim):
        api, worker = files
        with FakeSupervisor(place.find(str(api)).paths, ping={**PONG, "shim": {"pid": shim(api).pid}}) as fake:
            code, _, err = run("-c", worker, "stop")
            assert (code, fake.asked) == (2, [])
            assert str(api) in err
            control.call(place.find(str(api)).paths, "ping", {})


@pytest.fixture
def shim(tmp_path):
    """Start what /proc shows as a shim, of whatever version: it holds the state directory, and does nothing."""
    code = tmp_path / "impetusd" / "shim" / "__main__.py"
    code.parent.mkdir(parents=True)
    code.write_text(
        "import fcntl, json, os, signal, sys\n"
        "lock = os.open(json.loads(sys.argv[2])['state_dir'], os.O_RDONLY)\n"
        "if 'locked' in sys.argv[3:]: fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print(flush=True)\n"
        "signal.pause()\n"
    )
    started = []

    def start(conf, paths=None, *more):
        paths = paths or place.find(str(conf)).paths
        os.makedirs(paths.state_dir, exist_ok=True)
        fields = {name: getattr(paths, name) for name in ("conf", "base_dir", *instance.DIRS)}
        argv = [sys.executable, "-IS", str(code), paths.conf, json.dumps(fields), *more]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


class TestFolders:
    @pytest.mark.parametrize(
        ("conf", "state_dir"),
        [
            ("/srv/a/impetusd.ini", "/srv/a/var/lib"),
            ("/srv/a/api.ini", "/srv/a/var/api/lib"),
            ("/srv/a/api", "/srv/a/var/api/lib"),
            ("/srv/a/api.conf", "/srv/a/var/api.conf/lib"),
            ("/etc/impetusd/impetusd.ini", "/var/lib/impetusd"),
            ("/etc/impetusd/api.ini", "/var/lib/impetusd-api"),
        ],
    )
    def test_each_file_has_its_own(self, conf, state_dir):
        assert locate("", conf, {}).state_dir == state_dir

    def test_what_is_said_is_not_changed(self):
        paths = locate("[impetusd]\nstate_dir = s\n", "/srv/api.ini", {})
        assert (paths.run_dir, paths.state_dir) == ("/srv/var/api/run", "/srv/s")
        former = default_dirs("/srv/api.ini", {}, former=True)
        assert former == {"run_dir": "var/run", "state_dir": "var/lib", "log_dir": "var/log"}

    def test_one_that_runs_in_former_folders_is_its_own_files_alone(self, tmp_path, shim):
        api, worker = tmp_path / "api.ini", tmp_path / "worker.ini"
        for file in (api, worker):
            file.write_text(INI)
        former = locate(INI, str(api), {}, former=True)
        with FakeSupervisor(former, ping={**PONG, "shim": {"pid": shim(api, former).pid}}):
            assert place.find(str(api)).paths == former
            assert place.find(str(worker)).paths == lives(worker)
            assert place.load(str(api)).paths == former
            assert place.load(str(api), former=False).paths == lives(api)


class TestFormerState:
    """What lies in var/lib, where no daemon runs."""

    @pytest.fixture
    def api(self, tmp_path):
        (tmp_path / "api.ini").write_text(INI)
        state = tmp_path / "var" / "lib"
        state.mkdir(parents=True)
        (state / "state.json").write_text(json.dumps({"slots": {"web:0": {}}}))
        (state / "ledger.jsonl").write_text("1\n")
        (state / "postgres").mkdir()
        log = tmp_path / "var" / "log"
        log.mkdir()
        for name in ("impetusd.log", "impetusd.log.1", "web-out.log", "web-0-error.log.2.gz", "other-out.log"):
            (log / name).touch()
        return tmp_path / "api.ini"

    @staticmethod
    def there(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def test_it_is_used_and_moved_by_a_start(self, api, tmp_path):
        at = place.find(str(api))
        assert at.paths.state_dir == f"{tmp_path}/var/lib"
        assert place.for_a_start(at).paths == lives(api)
        assert self.there(tmp_path / "var/api/lib") == ["ledger.jsonl", "state.json"]
        assert self.there(tmp_path / "var/lib") == ["postgres"]
        logs = ["impetusd.log", "impetusd.log.1", "web-0-error.log.2.gz", "web-out.log"]
        assert self.there(tmp_path / "var/api/log") == logs
        assert place.find(str(api)).paths == lives(api)

    def test_with_all_that_programs_keep_there(self, api, tmp_path):
        api.write_text(f"{INI}[env:web]\nDATA = ${{STATE_DIR}}/postgres\n")
        assert place.for_a_start(place.find(str(api))).paths == lives(api)
        assert self.there(tmp_path / "var/api/lib") == ["ledger.jsonl", "postgres", "state.json"]

    def test_or_nothing_of_it(self, api, tmp_path):
        (tmp_path / "var/api/lib/state.json").mkdir(parents=True)  # in the way of the last one
        at = place.find(str(api))
        assert place.for_a_start(at).paths.state_dir == f"{tmp_path}/var/lib"
        assert self.there(tmp_path / "var/lib") == ["ledger.jsonl", "postgres", "state.json"]
        assert len(self.there(tmp_path / "var/log")) == 5

    def test_it_goes_on_where_it_was_killed(self, api, tmp_path):
        (tmp_path / "var/api/lib").mkdir(parents=True)
        os.rename(tmp_path / "var/lib/ledger.jsonl", tmp_path / "var/api/lib/ledger.jsonl")
        assert place.for_a_start(place.find(str(api))).paths == lives(api)
        assert self.there(tmp_path / "var/api/lib") == ["ledger.jsonl", "state.json"]

    def test_another_files_stays(self, api, tmp_path):
        other = tmp_path / "worker.ini"
        other.write_text("[program:worker]\ncommand = true\n")
        assert place.find(str(other)).paths == lives(other)
        other.write_text(INI)
        told = instance.report(str(api), instance.stamp(str(api)))
        (tmp_path / "var/lib" / instance.NAME).write_text(json.dumps(told))
        assert place.find(str(other)).paths == lives(other)
        assert place.find(str(api)).paths.state_dir == f"{tmp_path}/var/lib"

    def test_what_may_be_that_of_impetusd_ini_stays(self, api, tmp_path):
        (tmp_path / "impetusd.ini").write_text(INI)
        assert place.find(str(api)).paths == lives(api)

    def test_where_systemd_gave_it_that_folder_it_lives_on_there(self, api, tmp_path, monkeypatch):
        monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/var/lib")
        at = place.for_a_start(place.find(str(api)))
        assert at.paths.state_dir == f"{tmp_path}/var/lib"
        assert self.there(tmp_path / "var/lib") == ["ledger.jsonl", "postgres", "state.json"]

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"slots": 7}', "\0"])
    def test_what_cannot_be_read_is_nobodys(self, api, tmp_path, text):
        (tmp_path / "var/lib/state.json").write_text(text)
        assert place.find(str(api)).paths == lives(api)


class TestLinks:
    @pytest.fixture
    def current(self, tmp_path):
        """current -> releases/1, with the INI file."""
        for release in ("1", "2"):
            (tmp_path / "releases" / release).mkdir(parents=True)
            (tmp_path / "releases" / release / "impetusd.ini").write_text(INI)
        (tmp_path / "current").symlink_to("releases/1")
        return tmp_path / "current" / "impetusd.ini"

    def test_where_it_is_refused_and_what_to_write(self, current, tmp_path):
        told = instance.behind_link(lives(current))
        assert f"the symbolic link {tmp_path}/current -> releases/1" in told
        assert f"\n    run_dir = {tmp_path}/var/run\n    state_dir = {tmp_path}/var/lib\n" in told

    def test_where_it_is_not(self, current, tmp_path):
        assert instance.behind_link(lives(tmp_path / "releases/1/impetusd.ini")) == ""
        outside = "".join(f"{key} = {tmp_path}/{key}\n" for key in instance.DIRS)
        assert instance.behind_link(lives(current, f"[impetusd]\n{outside}")) == ""
        (tmp_path / "impetusd.ini").symlink_to(current)  # a ConfigMap's: the file is behind links, its folder is not
        assert instance.behind_link(lives(tmp_path / "impetusd.ini")) == ""

    def test_what_the_host_has_links_for_is_firm(self, current, tmp_path, monkeypatch):
        monkeypatch.setattr(instance, "FIRM", {str(tmp_path)})
        assert instance.behind_link(lives(current)) == ""

    def test_the_way_of_the_shell_counts(self, current, monkeypatch):
        monkeypatch.chdir(current.parent)
        monkeypatch.setenv("PWD", str(current.parent))
        assert place.find(None).conf == str(current)
        monkeypatch.setenv("PWD", "/")  # of another shell
        assert place.find(None).conf == os.path.realpath(current)

    def test_one_that_lives_behind_a_link_is_found_where_it_is(self, current, tmp_path, shim):
        shim(current, None, "locked")
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("releases/2")
        there = place.find(str(current)).paths
        assert there.state_dir == f"{tmp_path}/releases/1/var/lib"
        assert there.run_dir == f"{tmp_path}/releases/1/var/run"
        assert control.daemon_alive(there)

    def test_one_whose_file_was_moved_is_found_by_what_it_has_read(self, tmp_path, shim):
        """Its default folders bear the former name."""
        api = tmp_path / "api.ini"
        api.write_text(INI)
        shim(api, None, "locked")
        there = lives(api)
        told = instance.report(str(api), instance.stamp(str(api)))
        with open(f"{there.state_dir}/{instance.NAME}", "w", encoding="utf-8") as file:
            json.dump(told, file)
        os.link(api, tmp_path / "web.ini")
        assert place.find(f"{tmp_path}/web.ini").paths.state_dir == f"{tmp_path}/var/web/lib"
        api.unlink()
        assert place.find(f"{tmp_path}/web.ini").paths == there._replace(conf=f"{tmp_path}/web.ini")

    def test_what_other_users_processes_say_is_no_reason_for_anything(self, tmp_path, shim, monkeypatch):
        (tmp_path / "api.ini").write_text(INI)
        process = shim(tmp_path / "api.ini", None, "locked")
        assert process.pid in {found.pid for found in instance.daemons()}
        monkeypatch.setattr(instance, "_uid", lambda _: 61001)
        assert list(instance.daemons()) == []

    def test_one_by_the_same_file_is_not_doubled(self, tmp_path, shim, run):
        (tmp_path / "api.ini").write_text(INI)
        shim(tmp_path / "api.ini", None, "locked")
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc" / "api.ini").symlink_to(tmp_path / "api.ini")
        code, _, err = run("-c", tmp_path / "etc" / "api.ini", "start")
        assert code == 2
        assert f"runs for this file as {tmp_path}/api.ini" in err
