"""Missing memory is not missing processes: without a usable table nothing is started twice, and nothing is given up."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal

import pytest
from shim_harness import CGROUPS, Shim, header, lines, runs, state
from waiting import wait_for

from impetusd.client import reaper
from impetusd.core.config.location import Paths
from impetusd.linux import proc
from impetusd.shim import leftovers, table, tableline
from impetusd.shim.state import ShimState

SH = "/bin/sh"
REFUSED = 73
CHILD = {
    "process": 1,
    "invocation": "i",
    "cgroup": "",
    "pid": 5,
    "started": 5,
    "session": 5,
    "pidfd": -1,
    "status": -1,
    "ended": None,
    "acked": False,
    "left": False,
    "doomed": False,
    "killed": False,
    "ours": True,
    "template": False,
    "told": False,
    "failed": None,
}


@pytest.fixture(params=[True, False], ids=["cgroups", "no cgroups"])
def shim(request):
    if request.param and not CGROUPS:
        pytest.skip("no writable cgroup")
    with Shim(cgroups=request.param) as shim:
        yield shim


def dead(shim):
    shim.echo()
    shim.process.kill()
    shim.process.wait()
    shim.supervisor.kill()


def path_of(shim):
    return f"{shim.paths['run_dir']}/{tableline.NAME}"


def paths_of(shim):
    return Paths(log_dir=shim.dir, **shim.paths)


def refused(shim):
    """Start another one, which must not start anything; what it said."""
    before = len(shim.log())
    assert shim.launch().wait(30) == REFUSED, shim.log()
    return shim.log()[before:]


def put(shim, text):
    """Have the table's file hold these bytes; None: there is none."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path_of(shim))
    if text is not None:
        with open(path_of(shim), "wb") as file:
            file.write(text)


def damages(whole):
    """(what was done, the file that is there then) for a table of these bytes."""
    first, *rest = whole.splitlines(keepends=True)
    told = json.loads(first)
    yield "removed", None
    yield "emptied", b""
    yield "zeros", bytes(len(whole))
    yield "zeros at the end", whole[:-20] + bytes(19) + b"\n"
    yield "zeros in the middle", first[:50] + bytes(20) + first[70:] + b"".join(rest)
    yield "another format", json.dumps({**told, "version": 99}).encode() + b"\n"
    yield "another boot", json.dumps({**told, "boot": "another"}).encode() + b"\n"
    yield "another instance", json.dumps({**told, "instance": "1-2", "life": "1-2-x"}).encode() + b"\n"
    yield "another life", json.dumps({**told, "life": "x", "children": {}}).encode() + b"\n"
    for size in {0, 1, len(first) // 2, len(first) - 1, len(first)}:
        yield f"cut off after {size} bytes", whole[:size]
    for each in (
        b"[]",
        b"1",
        b"null",
        b'"x"',
        b"{}",
        b'{"version":1}',
        b"[" * 2000,
        json.dumps(told["kept"]).encode(),
    ):
        yield f"{each[:20]!r}", each + b"\n"
    for key in ("blobs", "kept", "children", "baseline", "shim", "life"):
        for value in ([], 1, "x", None, {"a": {}}, {"1": {"process": "x"}}):
            if value != told.get(key) and not (key == "life" and value == "x"):
                yield f"{key} is {value!r}", json.dumps({**told, key: value}).encode() + b"\n"


def test_whatever_became_of_the_table_nothing_is_started_twice_nor_given_up(shim):
    process, pid = shim.started("/bin/sleep", "1000", env={"IMPETUSD_NAME": "api:0", "INVOCATION_ID": "1"})
    wait_for(lambda: proc.variable(pid, leftovers.MARK), "it to be executed")
    wait_for(lambda: proc.age(proc.read(pid)) > 0.2, "it to have run for a while")
    dead(shim)
    with open(path_of(shim), "rb") as file:
        whole = file.read()
    for what, left in damages(whole):
        put(shim, left)
        found = reaper.left_behind(paths_of(shim))
        assert [member.pid for member in found.members] == [pid], what
        assert found.why, what
    # The decision is a shim's own as well, not only that of the command that starts it.
    for left in (None, b"", bytes(100), b"{}\n"):
        put(shim, left)
        said = refused(shim)
        assert "1 process of a killed impetusd" in said
        assert f"pid {pid}" in said
        assert runs(pid)
    put(shim, whole)
    assert [row["pid"] for row in shim.succeed().hello["table"] if row["process"] == process] == [pid]


def test_what_is_left_is_named_and_can_be_ended_and_then_there_is_a_start_again(shim):
    env = {"IMPETUSD_NAME": "api:0", "INVOCATION_ID": "1"}
    _, pid = shim.started("/bin/sleep", "1000", env=env)
    dead(shim)
    os.unlink(path_of(shim))
    assert f"because its table is missing: api:0 (pid {pid})" in refused(shim)
    assert reaper.reap(paths_of(shim)).ended == [pid]
    os.waitpid(pid, 0)
    assert reaper.left_behind(paths_of(shim)).members == []
    assert shim.succeed().hello["table"] == []


def test_a_program_that_has_lost_its_environment_is_found_by_its_cgroup_its_parent_or_its_session(shim):
    """As PostgreSQL's processes, which write their titles over it."""
    out = shim.pipe("o")
    script = "env -i sleep 1000 & echo $!; sleep 1000 & echo $!; exec sleep 1000"
    process, pid = shim.started(SH, "-c", script, fds={"0": "", "1": "o", "2": ""})
    below = [int(line) for line in lines(out, 2)]
    shim.signal(process, signal.SIGKILL, "main")
    shim.wait("exited", process)
    shim.ack(process)
    wait_for(lambda: proc.variable(below[0], "PATH") == "", "the environment to be lost")
    dead(shim)
    os.unlink(path_of(shim))
    assert {member.pid for member in reaper.left_behind(paths_of(shim)).members} == set(below)
    assert "2 processes" in refused(shim)
    assert not os.path.exists(f"/proc/{pid}")


def test_what_an_orderly_end_has_spared_is_nobodys_leftover(shim):
    """A daemon under treekill = no, which lives on after a stop."""
    out = shim.pipe("o")
    process, _ = shim.started(SH, "-c", "sleep 1000 & echo $!", fds={"0": "", "1": "o", "2": ""})
    spared = int(lines(out, 1)[0])
    shim.wait("exited", process)
    shim.ack(process)
    shim.echo()
    shim.say({"op": "quit"})
    shim.supervisor.unlock()
    shim.supervisor.leave()
    assert shim.process.wait(30) == 0
    assert reaper.left_behind(paths_of(shim)).members == []
    shim.succeed()
    assert runs(spared)


def test_a_table_that_is_not_whole_kills_nobody():
    """Cut off between two lines it is well-formed: what it does not know is older than its last word."""
    with Shim() as shim:
        known, other = shim.started("/bin/sleep", "1000")
        shim.echo()
        with open(path_of(shim), "rb") as file:
            early = file.read()
        _, pid = shim.started("/bin/sleep", "1000")
        wait_for(lambda: proc.age(proc.read(pid)) > 0.2, "it to have run for a while")
        dead(shim)
        put(shim, early)
        assert f"because its table does not list them: pid {pid}" in refused(shim)
        assert all(map(runs, (pid, other)))
        assert reaper.left_behind(paths_of(shim)).why
        assert sorted(reaper.reap(paths_of(shim)).ended) == sorted([pid, other])
        assert known


@pytest.mark.parametrize(("cgroups", "change"), [(False, "-u INVOCATION_ID"), (True, "INVOCATION_ID=other")])
def test_what_a_program_starts_without_its_own_environment_hinders_no_take_over(cgroups, change):
    if cgroups and not CGROUPS:
        pytest.skip("no writable cgroup")
    with Shim(cgroups=cgroups) as shim:
        out = shim.pipe("o")
        script = f"env {change} setsid sleep 1000 & echo $!; wait"
        _, pid = shim.started(SH, "-c", f"({script}) & exec sleep 1000", fds={"0": "", "1": "o", "2": ""})
        daemon = int(lines(out, 1)[0])
        middle = proc.read(daemon).parent
        wait_for(lambda: proc.variable(daemon, "INVOCATION_ID") in {"", "other"}, "the environment to be changed")
        os.kill(middle, signal.SIGKILL)
        wait_for(lambda: proc.read(daemon).parent == shim.pid, "it to be the shim's by adoption")
        _, other = shim.started("/bin/sleep", "1000")
        wait_for(lambda: proc.age(proc.read(other)) > 0.2, "the last word to be a while ago")
        shim.process.kill()  # with no `echo` before it, which is a child without an INVOCATION_ID
        shim.process.wait()
        shim.supervisor.kill()
        assert not reaper.left_behind(paths_of(shim)).why
        assert {row["pid"] for row in shim.succeed().hello["table"]} >= {pid, other}
        assert runs(daemon)


def test_another_instances_folder_is_not_taken_while_that_one_runs():
    with Shim() as shim:
        _, pid = shim.started("/bin/sleep", "1000")
        shim.echo()
        own = shim.paths["state_dir"]
        shim.paths["state_dir"] = shim.path("second")
        os.mkdir(shim.paths["state_dir"])
        try:
            assert "which is running; give each instance its own run_dir" in refused(shim)
            assert reaper.left_behind(paths_of(shim)).members == []
            assert reaper.reap(paths_of(shim)).ended == []
            assert table.read(shim.paths["run_dir"], own)
        finally:
            shim.paths["state_dir"] = own
        assert runs(pid)


def test_what_a_living_daemon_holds_is_not_reaped():
    with Shim() as shim:
        _, pid = shim.started("/bin/sleep", "1000")
        shim.echo()
        with pytest.raises(reaper.Held, match=rf"impetusd \(pid {shim.pid}\) is running in"):
            reaper.reap(paths_of(shim))
        assert runs(pid)


def removed(path):
    os.unlink(path)


def renamed(path):
    os.rename(path, f"{path}.elsewhere")


def emptied(path):
    with open(path, "wb"):
        pass


def zeros(path):
    with open(path, "r+b") as file:
        file.write(bytes(os.stat(path).st_size))


def touched(path):
    with open(path, "w") as file:
        return os.stat(file.fileno()).st_mtime_ns


def appended(path):
    with open(path, "ab") as file:
        file.write(b"{}\n")


@pytest.mark.parametrize("inotify", [True, False])
@pytest.mark.parametrize("damage", [removed, renamed, emptied, zeros, appended])
def test_a_table_that_is_damaged_while_the_shim_lives_is_written_anew_without_a_word_from_anybody(damage, inotify):
    setup = "" if inotify else "table.Inotify.add = lambda *_: None\ntable.AGAIN = 0.1"
    with Shim(setup=setup) as shim:
        _, pid = shim.started("/bin/sleep", "1000")
        shim.echo()
        before = os.stat(path_of(shim))
        if damage is zeros and not inotify:  # all that tells then is the time, and the clock of files is coarse
            wait_for(lambda: touched(shim.path("clock")) > before.st_mtime_ns, "the next tick")
        damage(path_of(shim))
        shim.until_logged("rewritten")  # its inode may be that of the file before

        def known():
            told = table.read(shim.paths["run_dir"], shim.paths["state_dir"])
            return told and pid in [child["pid"] for child in told["children"].values()]

        wait_for(known, "the table")
        assert os.path.exists(f"{path_of(shim)}{table.DAMAGED}") == (damage not in {removed, renamed})


def nothing_held():
    return ShimState("a life", {"oom_score": 0, "nofile": [1, 1]})


@pytest.fixture
def logged(monkeypatch):
    """What the table logs."""
    found = []
    monkeypatch.setattr(table, "log", found.append)
    return found


def test_a_folder_that_is_removed_again_and_again_is_watched_each_time(tmp_path, logged):
    """Also where it is made anew before the kernel's word that it had gone is read."""
    held, folder = nothing_held(), tmp_path / "run"
    written = table.Table(str(folder), str(tmp_path))
    written.write(held)
    for _ in range(3):
        os.unlink(tableline.path_in(str(folder)))
        written.noticed()
        folder.rmdir()
        for _ in range(3):
            written.write(held)
            written.noticed()
        written.write(held)
        assert (written.due, os.path.exists(tableline.path_in(str(folder)))) == (math.inf, True)
    written.close()


def test_a_folder_that_goes_while_the_table_is_made_is_made_once_more(tmp_path, monkeypatch, logged):
    folder, rename = tmp_path / "run", os.rename
    written = table.Table(str(folder), str(tmp_path))

    def gone_before(source, target):
        if target == tableline.path_in(str(folder)):
            monkeypatch.setattr(os, "rename", rename)
            shutil.rmtree(folder)
        rename(source, target)

    monkeypatch.setattr(os, "rename", gone_before)
    written.write(nothing_held())
    assert os.rename is rename
    assert table.read(str(folder), str(tmp_path)) is not None
    assert logged == []
    written.close()


@pytest.mark.parametrize("damage", [removed, renamed, emptied, zeros, appended])
def test_what_is_told_late_of_a_damaged_table_does_not_count_against_the_one_that_took_its_place(
    damage, tmp_path, logged
):
    """The next line finds the damage before the kernel's word of it is read."""
    held = nothing_held()
    written = table.Table(str(tmp_path), str(tmp_path))
    written.write(held)
    path = tableline.path_in(str(tmp_path))
    wait_for(lambda: touched(tmp_path / "clock") > os.stat(path).st_mtime_ns, "the next tick")
    for _ in range(2):
        damage(path)
        for number in range(3):
            held.note("blobs", "a", str(number))
            written.write(held)
            written.noticed()
    assert len(logged) == 2
    assert table.read(str(tmp_path), str(tmp_path))["blobs"] == {"a": "2"}
    written.close()


FROZEN = """
import os, time
write = leftovers.write
def hang(state_dir, life, *, over):
    while os.path.exists(f"{state_dir}.frozen"):
        time.sleep(0.01)
    write(state_dir, life, over=over)
leftovers.write = hang
"""


def test_for_the_disk_of_the_state_directory_nothing_waits_but_the_next_start():
    with Shim(setup=FROZEN) as shim:
        shim.echo()
        frozen, state_dir = f"{shim.paths['state_dir']}.frozen", shim.paths["state_dir"]
        touched(frozen)
        os.unlink(path_of(shim))
        wait_for(lambda: os.path.exists(path_of(shim)), "the table")
        _, pid = shim.started("/bin/sleep", "1000")
        shim.echo()
        shim.process.kill()
        shim.supervisor.unlock()
        shim.succeed()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        shim.say({"op": "quit"})
        shim.supervisor.unlock()
        shim.supervisor.leave()
        assert shim.process.wait(30) == 0
        with opened(state_dir) as folder:
            with pytest.raises(BlockingIOError):
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(frozen)
            fcntl.flock(folder, fcntl.LOCK_EX)
        assert leftovers.marks(state_dir) == ("", "")


@contextlib.contextmanager
def opened(folder):
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def test_the_folder_itself_comes_back_with_the_table():
    with Shim() as shim:
        shim.echo()
        os.rename(shim.paths["run_dir"], f"{shim.paths['run_dir']}.gone")
        try:
            for _ in range(2):
                wait_for(lambda: os.path.exists(path_of(shim)), "the table")
                os.unlink(path_of(shim))
            wait_for(lambda: os.path.exists(path_of(shim)), "the table")
        finally:
            os.kill(shim.pid, signal.SIGSTOP)  # or it makes the folder anew while this one goes
            wait_for(lambda: state(shim.pid) == "T", "the shim to stop")
            shutil.rmtree(shim.paths["run_dir"], ignore_errors=True)
            os.rename(f"{shim.paths['run_dir']}.gone", shim.paths["run_dir"])
            os.kill(shim.pid, signal.SIGCONT)


class TestTheFileItself:
    """What is read of a table."""

    def found(self, folder, *told):
        (folder / tableline.NAME).write_text("".join(f"{json.dumps(line)}\n" for line in told))
        return table.examine(str(folder), str(folder))

    def test_what_a_newer_version_says_besides_means_nothing(self, tmp_path):
        child = {**CHILD, "colour": "blue"}
        told = header(tmp_path, children={"1": child}, mood="good", blobs={"a": "b"})
        found = self.found(tmp_path, told, {"children": {"1": {**child, "acked": True}}, "weather": [1]})
        assert found.fault == ""
        assert found.saved["children"]["1"]["acked"] is True

    def test_what_an_older_version_does_not_say_is_as_at_first(self, tmp_path):
        child = {key: value for key, value in CHILD.items() if key not in {"template", "told", "killed"}}
        told = header(tmp_path, children={"1": child})
        del told["instance"]
        assert self.found(tmp_path, told).saved["children"]["1"]["pid"] == 5

    @pytest.mark.parametrize("key", CHILD)
    def test_each_field_of_a_child_is_checked(self, tmp_path, key):
        for value in ("x" if key not in {"invocation", "cgroup"} else 1, [], {"a": 1} if key != "ended" else 7, 1.5):
            told = header(tmp_path, children={"1": {**CHILD, key: value}})
            if not (key == "failed" and value == []):
                assert "is damaged" in self.found(tmp_path, told).fault, value

    def test_it_is_the_users_own(self, tmp_path, monkeypatch):
        self.found(tmp_path, header(tmp_path))
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        assert "belongs to another user" in table.examine(str(tmp_path), str(tmp_path)).fault


class TestTheMark:
    """`life` in state_dir: which marks are looked for."""

    def test_of_a_life_that_is_under_way_exactly_its_own(self, tmp_path):
        life = leftovers.new_life(str(tmp_path))
        leftovers.write(str(tmp_path), life, over=False)
        assert leftovers.marks(str(tmp_path)) == (life, "")

    def test_none_after_an_orderly_end(self, tmp_path):
        leftovers.write(str(tmp_path), "x", over=True)
        assert leftovers.marks(str(tmp_path)) == ("", "")

    @pytest.mark.parametrize("text", [None, "", "[]", "{}", "x", '{"life": 1}', "[" * 4000, "\0" * 50])
    def test_any_of_the_instance_where_nothing_is_remembered(self, tmp_path, text):
        if text is not None:
            (tmp_path / leftovers.NAME).write_text(text)
        assert leftovers.marks(str(tmp_path)) == ("", f"{leftovers.instance(str(tmp_path))}-")

    def test_none_of_another_boot(self, tmp_path, monkeypatch):
        leftovers.write(str(tmp_path), "x", over=False)
        monkeypatch.setattr(leftovers, "boot_id", lambda: "another")
        assert leftovers.marks(str(tmp_path)) == ("", "")
