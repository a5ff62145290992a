"""What is written into a cgroup for the limits of a unit, in a folder that looks like a hierarchy, and what if it cannot be."""

from __future__ import annotations

import errno
import os

import pytest

from impetusd.linux import cgroup
from impetusd.linux.cgroup import Cgroups
from impetusd.shim.children import Children
from impetusd.supervisor.start import childspec

CONTROLLERS = "cpuset cpu io memory pids"


class Tree:
    """A hierarchy that this process is in. The kernel's part: `deal` out the files of controllers that are switched on."""

    def __init__(self, folder, monkeypatch):
        self.own = folder / "own"
        self.others = []  # pids in our own cgroup, beside ours
        self.busy = False
        (self.own / "units").mkdir(parents=True)
        for name in ("cgroup.procs", "cgroup.subtree_control", "units/cgroup.kill", "units/cgroup.subtree_control"):
            (self.own / name).touch()
        (self.own / "cgroup.controllers").write_text(f"{CONTROLLERS}\n")
        self.written = []
        self._write = cgroup._write
        monkeypatch.setattr(cgroup, "own_cgroup", lambda: str(self.own))
        monkeypatch.setattr(cgroup, "_is_init", lambda: True)
        monkeypatch.setattr(cgroup, "_write", self.write)
        monkeypatch.setattr(cgroup, "_pids", lambda path: [os.getpid(), *self.others] if path == str(self.own) else [])
        self.cgroups = Cgroups("units")
        self.path = self.cgroups.make("web-1")

    def write(self, path, text):
        folder, _, file = path.rpartition("/")
        name = folder.removeprefix(f"{self.own}").lstrip("/") or "."
        if file == "cgroup.subtree_control" and name == "." and self.busy:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if file == "cgroup.procs" and name == "units.main":
            self.busy = False
        elif file != "cgroup.subtree_control":
            self._write(path, text)
        elif name == "units" and text.startswith("+"):
            for each in ("max", "oom.group"):
                with open(f"{self.path}/{text[1:]}.{each}", "w", encoding="ascii"):
                    pass
        self.written.append((name, file, text))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    return Tree(tmp_path, monkeypatch)


def unit(**keys):
    return type("U", (), {"memory_max": 0, "cpu_max": 0, **keys})


def limit(tree, limits):
    """As the shim does before a start."""
    children = Children.__new__(Children)
    children._cgroups = tree.cgroups
    return children._limit(tree.path, limits)


def test_what_the_keys_come_to():
    assert childspec.limits(unit()) == {}
    assert childspec.limits(unit(memory_max=1 << 20)) == {"memory.max": "1048576", "memory.oom.group": "1"}
    assert childspec.limits(unit(cpu_max=150)) == {"cpu.max": "150000 100000"}


def test_each_file_is_written_once_its_controller_is_switched_on(tree):
    assert limit(tree, childspec.limits(unit(memory_max=4096, cpu_max=50))) == {}
    assert tree.written == [
        (".", "cgroup.subtree_control", "+memory"),
        ("units", "cgroup.subtree_control", "+memory"),
        ("units/web-1", "memory.max", "4096"),
        ("units/web-1", "memory.oom.group", "1"),
        (".", "cgroup.subtree_control", "+cpu"),
        ("units", "cgroup.subtree_control", "+cpu"),
        ("units/web-1", "cpu.max", "50000 100000"),
    ]


def test_where_it_lives_itself_it_moves_with_its_children_and_back_at_its_end(tree):
    child = os.fork()
    if child == 0:
        os.read(os.pipe()[0], 1)
    try:
        tree.busy = True
        tree.others = [child]
        assert limit(tree, {"memory.max": "4096"}) == {}
        moved = [(name, text) for name, file, text in tree.written if file == "cgroup.procs"]
        assert moved == [("units.main", str(os.getpid())), ("units.main", str(child))]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    del tree.written[:]
    tree.cgroups.close()
    assert [each for each in tree.written if each[0] == "."] == [
        (".", "cgroup.subtree_control", "-cpu"),
        (".", "cgroup.subtree_control", "-memory"),
        (".", "cgroup.procs", "0"),
    ]
    assert not (tree.own / "units.main").exists()


def test_after_an_upgrade_it_is_still_that_one_that_it_was_started_in(tree, monkeypatch):
    (tree.own / "units.main").mkdir()
    monkeypatch.setattr(cgroup, "own_cgroup", lambda: f"{tree.own}/units.main")
    assert Cgroups("units").root == f"{tree.own}/units"


@pytest.mark.parametrize("others", [[1], [os.getppid()]])
def test_with_others_in_its_cgroup_it_moves_nobody(tree, others):
    tree.busy, tree.others = True, others
    cause = limit(tree, {"memory.max": "4096"})["memory.max"]
    assert (cause["key"], cause["facts"]["errno"]) == ("os_error", errno.EBUSY)
    assert not any(file == "cgroup.procs" for _, file, _ in tree.written)


def test_where_a_service_manager_may_start_it_again_it_moves_nobody(tree, monkeypatch):
    monkeypatch.setattr(cgroup, "_is_init", lambda: False)
    tree.busy = True
    cause = limit(tree, {"memory.max": "4096"})["memory.max"]
    assert cause["facts"]["detail"] == f"{tree.own} itself has processes, so it cannot distribute memory"
    assert not any(file == "cgroup.procs" for _, file, _ in tree.written)


def test_a_missing_controller_takes_nothing_from_the_others(tree):
    (tree.own / "cgroup.controllers").write_text("cpu pids\n")
    causes = limit(tree, childspec.limits(unit(memory_max=4096, cpu_max=50)))
    assert causes["memory.max"] == {"key": "no_controller", "facts": {"name": "memory"}}
    assert "cpu.max" not in causes
    assert ("units/web-1", "cpu.max", "50000 100000") in tree.written


def test_a_folder_that_was_removed_is_a_cause(tree):
    limit(tree, {"memory.max": "4096"})
    for each in os.listdir(tree.path):
        os.unlink(f"{tree.path}/{each}")
    os.rmdir(tree.path)
    tree.path = f"{tree.own}/gone"
    tree._write = cgroup._write = lambda path, text: os.close(os.open(path, os.O_WRONLY))
    assert limit(tree, {"memory.max": "4096"})["memory.max"]["facts"]["errno"] == errno.ENOENT


def test_without_a_cgroup_that_is_the_cause(tree):
    tree.path = ""
    assert limit(tree, {"memory.max": "4096"}) == {"memory.max": {"key": "no_cgroup", "facts": {}}}


def test_what_can_be_used_is_what_the_tree_has(tree, monkeypatch):
    monkeypatch.setattr(cgroup, "cgroup_mount", lambda: ("/", str(tree.own)))
    assert {"memory", "cpu"} <= cgroup.offered()
    monkeypatch.setattr(cgroup, "own_cgroup", lambda: f"{tree.own}/units.main")
    assert {"memory", "cpu"} <= cgroup.offered()
    monkeypatch.setattr(cgroup, "own_cgroup", lambda: f"{tree.own}/system.slice/x.service")
    assert cgroup.offered() == frozenset()
    monkeypatch.setattr(cgroup, "own_cgroup", lambda: str(tree.own))
    (tree.own / "cgroup.controllers").write_text("")
    assert cgroup.offered() == frozenset()
    monkeypatch.setattr(cgroup, "own_cgroup", lambda: "")
    assert cgroup.offered() == frozenset()
