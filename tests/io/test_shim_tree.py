"""What belongs to a child: told, signalled and killed to the last, with a cgroup and without; and a template's forks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from shim_harness import CGROUPS, PROGRAMS, Shim, exists, lines, runs, state
from waiting import wait_for

from impetusd.linux import proc
from impetusd.linux.cgroup import Cgroups

with_cgroup = pytest.param(
    True, id="cgroup", marks=pytest.mark.skipif(not CGROUPS, reason="no cgroup v2 may be written here")
)


@pytest.fixture(params=[with_cgroup, pytest.param(False, id="proc")])
def shim(request):
    with Shim(cgroups=request.param) as shim:
        yield shim


def family(shim, kind, count=2, **fds):
    """Start family.py: its number and {name: pid}."""
    name = f"family:{shim.number()}"
    out = shim.pipe(name)
    process = shim.python("family.py", kind, fds={"0": "", "1": name, "2": "", **fds})
    shim.wait("spawned", process)
    return process, {word: int(pid) for word, pid in (line.split() for line in lines(out, count))}


def template(shim, **fds):
    """Start fake_template.py and wait until it takes requests: its number and its output."""
    name = f"template:{shim.number()}"
    out = shim.pipe(name)
    argv = [sys.executable, "-I", "-S", f"{PROGRAMS}/fake_template.py"]
    process = shim.number()
    spec = shim.spec(argv, fds={"0": "", "1": name, "2": "", **fds}, fork_fd=3, group=f"test-{process}")
    spec["env"]["IMPETUSD_FORK_FD"] = "3"
    shim.say({"op": "spawn", "process": process, "spec": spec})
    shim.wait("spawned", process)
    assert lines(out, 1) == ["ready"]
    return process, out


def fork(shim, via, **env):
    """Ask for a worker: its number and its output."""
    process = shim.number()
    out = shim.pipe(f"worker:{process}")
    name = f"worker:{process}"
    spec = {"env": {"INVOCATION_ID": f"w{process}", **env}, "fds": [name, name, ""], "group": f"test-{process}"}
    shim.say({"op": "fork", "process": process, "via": via, "spec": spec})
    return process, out


def worker(shim, via, **env):
    """A worker that runs: its number and its pid."""
    process, out = fork(shim, via, **env)
    pid = shim.wait("spawned", process)["pid"]
    assert lines(out, 1) == [f"worker {pid}"]
    return process, pid


def refused(shim, process):
    """Why a fork came to nothing: its stage, and the errno, text or key."""
    ended = shim.wait("exited", process)
    assert "code" not in ended, ended
    assert ended["left"] is False
    shim.ack(process)
    facts = ended["cause"]["facts"]
    cause = facts["cause"]
    told = cause["facts"].get("errno") or cause["facts"].get("text") or cause["key"]
    return f"{facts['stage']} {facts['what']}".strip(), told


def kill_tree(shim, process):
    """Kill a child whose main process lives, and all of its tree."""
    shim.signal(process, signal.SIGKILL, "tree")
    if shim.wait("exited", process)["left"]:
        shim.wait("gone", process)
    shim.ack(process)


def kill_rest(shim, process, pid):
    """Kill what is left of a child whose main process has ended; `pid` is the last of it."""
    shim.signal(process, signal.SIGKILL, "rest")
    shim.wait("gone", process)
    wait_for(lambda: not exists(pid), "it to be reaped")


# Descendants.


def test_a_daemon_that_hides_and_ignores_term_is_found_and_killed(shim):
    process, pids = family(shim, "daemon")
    shim.signal(process, signal.SIGTERM)
    assert shim.wait("exited", process)["left"] is True
    shim.ack(process)
    shim.signal(process, signal.SIGTERM, "rest")
    shim.echo()
    assert runs(pids["grandchild"])
    assert not exists(pids["main"])
    shim.signal(process, signal.SIGKILL, "tree")
    shim.wait("gone", process)
    wait_for(lambda: not exists(pids["grandchild"]), "it to be reaped")
    shim.echo()
    shim.supervisor.kill()
    assert shim.next_life().hello["table"] == []


def test_term_reaches_the_rest_after_the_main_process_has_ended(shim):
    process, pids = family(shim, "setsid")
    shim.signal(process, signal.SIGKILL)
    ended = shim.wait("exited", process)
    assert (ended["signal"], ended["left"]) == (signal.SIGKILL, True)
    shim.signal(process, signal.SIGTERM, "rest")
    shim.wait("gone", process)
    wait_for(lambda: not exists(pids["child"]), "it to be reaped")
    assert state(pids["main"]) == "Z"
    shim.ack(process)
    wait_for(lambda: not exists(pids["main"]), "the main process to be reaped")


def test_a_main_process_that_exits_and_leaves_a_child(shim):
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shim.say({"op": "keep", "name": "in"}, fds=[reader])
    os.close(reader)
    process, pids = family(shim, "leave", **{"0": "in"})
    shim.say({"op": "drop", "name": "in"})
    os.close(writer)
    ended = shim.wait("exited", process)
    assert (ended["code"], ended["left"]) == (3, True)
    os.kill(pids["child"], signal.SIGTERM)
    shim.wait("gone", process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_rest_is_signalled_without_the_main_process(shim, number):
    """With a cgroup, SIGKILL once killed the main process, too."""
    process, pids = family(shim, "setsid")
    pidfd = shim.watch(pids["child"])
    shim.signal(process, number, "rest")
    shim.until_ended(pidfd, "the child")
    shim.echo()
    assert runs(pids["main"])
    kill_tree(shim, process)


def test_the_main_process_is_signalled_without_the_rest(shim):
    process, pids = family(shim, "setsid")
    shim.signal(process, signal.SIGTERM)
    assert shim.wait("exited", process)["left"] is True
    assert runs(pids["child"])


def test_a_signal_to_the_tree_reaches_all_of_it(shim):
    process, pids = family(shim, "setsid")
    shim.signal(process, signal.SIGTERM, "tree")
    if shim.wait("exited", process)["left"]:
        shim.wait("gone", process)
    wait_for(lambda: not exists(pids["child"]), "the child to be reaped")


def test_a_tree_that_keeps_forking_is_killed_to_the_last(shim):
    process, pids = family(shim, "storm", count=1)
    wait_for(lambda: len(proc.descendants([pids["main"]], proc.snapshot(), set())) > 5, "the storm to begin")
    kill_tree(shim, process)
    shim.echo()
    wait_for(lambda: shim.children() == [shim.supervisor.pid], "the storm to be reaped")


def test_two_childrens_trees_are_not_mixed(shim):
    one, of_one = family(shim, "daemon")
    two, of_two = family(shim, "daemon")
    shim.signal(one, signal.SIGKILL, "tree")
    if shim.wait("exited", one)["left"]:
        shim.wait("gone", one)
    wait_for(lambda: not any(map(runs, of_one.values())), "the first one's end")
    shim.echo()
    assert all(map(runs, of_two.values()))
    shim.signal(two, signal.SIGKILL)
    assert shim.wait("exited", two)["left"] is True
    shim.signal(two, signal.SIGKILL, "tree")
    shim.wait("gone", two)


@pytest.mark.parametrize("lives", [True, False], ids=["main lives", "main has ended"])
def test_what_was_found_once_stays_its_childs_without_its_environment(shim, lives):
    """Every process is without it while it dies: its sockets were still open when it no longer counted."""
    process, pids = family(shim, "forgets")
    (output,) = shim.pipes.values()
    if not lives:
        shim.signal(process, signal.SIGKILL)
        assert shim.wait("exited", process)["left"] is True
    shim.signal(process, signal.SIGUSR1, "rest")
    assert lines(output, 1) == [f"grandchild {pids['grandchild']}"]
    if lives:
        kill_tree(shim, process)
        wait_for(lambda: not exists(pids["grandchild"]), "it to be reaped")
    else:
        kill_rest(shim, process, pids["grandchild"])


def test_who_has_lost_its_main_thread_alone_has_not_ended(shim):
    process, pids = family(shim, "headless")
    shim.signal(process, signal.SIGKILL)
    assert shim.wait("exited", process)["left"] is True
    kill_rest(shim, process, pids["child"])


def test_the_next_supervisor_is_told_of_what_is_left(shim):
    process, pids = family(shim, "daemon")
    shim.signal(process, signal.SIGKILL)
    shim.wait("exited", process)
    shim.ack(process)
    shim.echo()
    shim.supervisor.kill()
    (row,) = shim.next_life().hello["table"]
    assert (row["process"], row["pid"], row["left"], row["acked"]) == (process, 0, True, True)
    os.kill(pids["grandchild"], signal.SIGKILL)
    shim.wait("gone", process)


@pytest.mark.skipif(not CGROUPS, reason="no cgroup v2 may be written here")
def test_a_cgroup_finds_even_what_has_dropped_its_environment():
    with Shim() as shim:
        process, pids = family(shim, "mute")
        shim.signal(process, signal.SIGKILL)
        assert shim.wait("exited", process)["left"] is True
        shim.signal(process, signal.SIGKILL, "rest")
        shim.wait("gone", process)
        wait_for(lambda: not exists(pids["grandchild"]), "it to be reaped")


@pytest.mark.skipif(not CGROUPS, reason="no cgroup v2 may be written here")
def test_the_cgroup_stays_until_the_tree_is_empty():
    with Shim() as shim:
        process, _ = family(shim, "daemon")
        folder = f"{shim.cgroup}/test-{process}"
        shim.signal(process, signal.SIGKILL)
        shim.wait("exited", process)
        shim.ack(process)
        shim.echo()
        assert os.path.isdir(folder)
        shim.signal(process, signal.SIGKILL, "tree")
        shim.wait("gone", process)
        wait_for(lambda: not os.path.exists(folder), "its cgroup to be removed")


@pytest.mark.skipif(not CGROUPS, reason="no cgroup v2 may be written here")
def test_one_whom_somebody_moved_into_the_cgroup_ends_with_it():
    """Its end is told to its own parent."""
    with Shim() as shim, subprocess.Popen(["/bin/sleep", "1000"]) as foreigner:
        try:
            process, _ = shim.started("/bin/sleep", "1000", group="mine")
            Cgroups.add(f"{shim.cgroup}/mine", foreigner.pid)
            shim.signal(process, signal.SIGKILL)
            assert shim.wait("exited", process)["left"]
            shim.signal(process, signal.SIGTERM, "rest")
            shim.wait("gone", process)
            assert foreigner.wait() == -signal.SIGTERM
        finally:
            foreigner.kill()


@pytest.mark.skipif(not CGROUPS, reason="no cgroup v2 may be written here")
def test_where_there_is_no_clone3_a_child_joins_its_cgroup_by_itself():
    with Shim(setup="def refuse(cgroup): raise OSError(38, 'no clone3')\nspawn.clone.fork = refuse") as shim:
        process, pids = family(shim, "daemon")
        assert sorted(Cgroups.members(f"{shim.cgroup}/test-{process}")) == sorted(pids.values())
        kill_tree(shim, process)


# Templates.


def test_a_forked_worker_is_adopted_with_its_exit(shim):
    via, _ = template(shim)
    process, pid = worker(shim, via)
    assert pid in shim.children()
    shim.signal(process, signal.SIGUSR1)
    assert shim.wait("exited", process)["signal"] == signal.SIGUSR1
    assert state(pid) == "Z"
    shim.ack(process)
    wait_for(lambda: not exists(pid), "the worker to be reaped")


def test_a_worker_that_ended_before_its_answer_is_told_with_its_exit(shim):
    via, _ = template(shim)
    process, _ = fork(shim, via, DO="ended", CODE="42")
    assert shim.wait("spawned", process)["pid"]
    assert shim.wait("exited", process)["code"] == 42


@pytest.mark.skipif(not CGROUPS, reason="no cgroup v2 may be written here")
def test_a_worker_is_moved_into_its_own_cgroup():
    with Shim() as shim:
        via, _ = template(shim)
        process, pid = worker(shim, via)
        own, others = f"{shim.cgroup}/test-{process}", f"{shim.cgroup}/test-{via}"
        wait_for(lambda: Cgroups.members(own) == [pid], "the worker to be moved")
        assert pid not in Cgroups.members(others)
        shim.signal(process, signal.SIGKILL)
        shim.wait("exited", process)
        shim.ack(process)
        wait_for(lambda: not os.path.exists(own), "its cgroup to be removed")


def test_a_worker_is_not_counted_into_its_templates_tree(shim):
    via, _ = template(shim)
    process, pid = worker(shim, via)
    shim.signal(via, signal.SIGKILL)
    assert shim.wait("exited", via)["left"] is False
    shim.ack(via)
    shim.echo()
    assert runs(pid)
    shim.signal(process, signal.SIGTERM)
    assert shim.wait("exited", process)["signal"] == signal.SIGTERM


def test_a_template_killed_with_its_tree_leaves_its_workers_alive():
    """Even one that has not yet been moved out of the template's cgroup: here, none ever is."""
    for cgroups in (True, False):
        with Shim(cgroups=cgroups, setup="forks.move_into_cgroup = lambda child: None") as shim:
            via, _ = template(shim)
            process, pid = worker(shim, via)
            shim.signal(via, signal.SIGKILL, "tree")
            assert shim.wait("exited", via)["left"] is False
            shim.echo()
            assert runs(pid)
            shim.signal(process, signal.SIGTERM)
            assert shim.wait("exited", process)["signal"] == signal.SIGTERM


@pytest.mark.parametrize("do", ["die", "silent"])
def test_a_template_that_dies_with_a_request_pending(shim, do):
    """The fork that it made and did not tell belongs to the template."""
    via, _ = template(shim)
    process, out = fork(shim, via, DO=do)
    assert refused(shim, process) == ("fork", "template_ended")
    ended = shim.wait("exited", via)
    assert (ended["code"], ended["left"]) == (9, do == "silent")
    if do == "silent":
        pid = int(lines(out, 1)[0].split()[1])
        kill_rest(shim, via, pid)


def test_a_template_that_hangs_with_requests_pending_is_ended_and_all_are_told(shim):
    via, out = template(shim)
    hung, _ = fork(shim, via, DO="hang")
    assert lines(out, 1) == ["hangs"]
    behind, _ = fork(shim, via)
    shim.signal(via, signal.SIGKILL)
    for process in (hung, behind):
        assert refused(shim, process) == ("fork", "template_ended")
    assert shim.wait("exited", via)["signal"] == signal.SIGKILL


def test_an_answer_that_a_template_gave_before_it_died_counts(shim):
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shim.say({"op": "keep", "name": "go"}, fds=[reader])
    os.close(reader)
    via, out = template(shim, **{"0": "go"})
    shim.say({"op": "drop", "name": "go"})
    first, _ = fork(shim, via, DO="gone")
    assert lines(out, 1) == ["forked"]
    second, _ = fork(shim, via)
    os.close(writer)
    assert shim.wait("spawned", first)["pid"]
    assert refused(shim, second) == ("fork", "template_ended")
    assert shim.wait("exited", via)["left"] is False
    shim.signal(first, signal.SIGTERM)
    assert shim.wait("exited", first)["signal"] == signal.SIGTERM


def test_without_its_template_no_worker_can_be_forked(shim):
    plain, _ = shim.started("/bin/sleep", "1000")
    for via in (plain, 4711):
        process, _ = fork(shim, via)
        assert refused(shim, process) == ("fork", "template_gone")


def test_a_template_that_cannot_fork_says_why(shim):
    via, _ = template(shim)
    process, _ = fork(shim, via, DO="say", ANSWER='{"id": "ID", "error": "no memory"}')
    assert refused(shim, process) == ("fork", "no memory")
    worker(shim, via)


def test_a_template_that_names_another_childs_pid_is_refused(shim):
    other, pid = shim.started("/bin/sleep", "1000")
    via, _ = template(shim)
    process, _ = fork(shim, via, DO="say", ANSWER=json.dumps({"id": "ID", "pid": pid}))
    stage, error = refused(shim, process)
    assert (stage, error) == (
        "adopt",
        f"the template reported pid {pid}, which is another child's",
    )
    assert runs(pid)
    shim.signal(other, signal.SIGTERM)
    assert shim.wait("exited", other)["signal"] == signal.SIGTERM


@pytest.mark.parametrize("whose", ["init", "the test", "the shim", "the supervisor", "nobody", "a group"])
def test_a_template_that_names_a_pid_that_is_no_worker_is_refused(shim, whose):
    """The supervisor is the shim's child; a worker of its pid would have been stopped like any other."""
    pids = {"init": 1, "the test": os.getpid(), "the shim": shim.pid, "the supervisor": shim.supervisor.pid}
    pid = {**pids, "nobody": 1 << 70, "a group": -1}[whose]
    via, _ = template(shim)
    process, _ = fork(shim, via, DO="say", ANSWER=json.dumps({"id": "ID", "pid": pid}))
    stage, error = refused(shim, process)
    assert stage == "adopt"
    assert error == f"the template reported pid {pid}, which is not a child of the shim"
    worker(shim, via)


DAEMON = "(setsid sleep 1000 & echo $!); exec sleep 1000"


def named(shim, *, before=False, **changes):
    """A daemon of another unit, whose parent is the shim; its pid, and why a template that names it is refused."""
    go = f"go:{shim.number()}"
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shim.say({"op": "keep", "name": go}, fds=[reader])
    os.close(reader)
    via, _ = template(shim, **{"0": go})
    out = f"daemon:{shim.number()}"
    shim.pipe(out)

    def start():
        shim.started("/bin/sh", "-c", DAEMON, fds={"0": "", "1": out, "2": ""}, **changes)
        return lines(shim.pipes[out], 1)[0]

    if before:
        pid = start()
        wait_for(lambda: proc.now() > proc.read(int(pid)).started, "the clock that the kernel counts starts by")
    process, _ = fork(shim, via, DO="read")
    if not before:
        pid = start()
    orphan = (shim.pid, int(pid))
    wait_for(lambda: ((it := proc.read(int(pid))).parent, it.session) == orphan, "the daemon to be an orphan")
    os.write(writer, f"{pid}\n".encode())
    os.close(writer)
    stage, error = refused(shim, process)
    assert stage == "adopt"
    assert runs(int(pid))
    worker(shim, via)
    return pid, error


def test_a_template_that_names_another_units_daemon_is_refused(shim):
    """Its session is its own, and its parent is the shim: so it looks as a forked worker does."""
    pid, error = named(shim, before=True)
    assert error == f"the template reported pid {pid}, which is older than the request"
    pid, error = named(shim)
    of = "not in the template's cgroup" if shim.cgroup else "from the invocation of another child"
    assert error == f"the template reported pid {pid}, which is {of}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs programs as others")
def test_a_template_that_names_another_users_process_is_refused(shim):
    pid, error = named(shim, uid=65534, gid=65534, groups=[])
    assert error == f"the template reported pid {pid}, which is not owned by the template's user"


def test_a_worker_is_adopted_also_when_the_kernels_list_of_children_leaves_it_out():
    with Shim(setup="proc.children = list") as shim:
        via, _ = template(shim)
        worker(shim, via)


def test_a_pid_that_was_refused_and_is_adopted_later_does_not_hold_the_shim_up(shim):
    """Its ack once waited for that process to end."""
    other, pids = family(shim, "setsid")
    via, _ = template(shim)
    process, _ = fork(shim, via, DO="say", ANSWER=json.dumps({"id": "ID", "pid": pids["child"]}))
    assert shim.wait("exited", process)["cause"]["facts"]["stage"] == "adopt"
    shim.signal(other, signal.SIGKILL)
    assert shim.wait("exited", other)["left"] is True
    assert pids["child"] in shim.children()
    shim.ack(process)
    shim.echo()
    assert runs(pids["child"])


@pytest.mark.parametrize(
    "answer",
    [
        "x",
        "null",
        "[1]",
        "{}",
        '{"pid": 1}',
        '{"id": "x", "pid": 1}',
        '{"id": "ID", "pid": null}',
        '{"id": "ID", "pid": "x"}',
        '{"id": ["ID"], "pid": 1}',
        "[" * 5000,
    ],
    ids=lambda answer: answer[:30],
)
def test_an_answer_that_makes_no_sense_ends_only_the_templates_forking(shim, answer):
    """It ended the shim, once. The template sees its fork socket closed and ends."""
    via, _ = template(shim)
    lives, _ = worker(shim, via)
    process, _ = fork(shim, via, DO="say", ANSWER=answer)
    assert refused(shim, process) == ("fork", "template_senseless")
    assert "code" in shim.wait("exited", via)
    shim.signal(lives, signal.SIGTERM)
    assert shim.wait("exited", lives)["signal"] == signal.SIGTERM
    assert "sent an invalid response" in shim.log()


def test_an_answer_that_nobody_asked_for_is_nothing(shim):
    """Also one to what another template was asked."""
    via, out = template(shim)
    other, _ = template(shim)
    hung, _ = fork(shim, via, DO="hang")
    assert lines(out, 1) == ["hangs"]
    fork(shim, other, DO="say", ANSWER=json.dumps({"id": hung, "error": "a lie"}))
    fork(shim, other, DO="say", ANSWER='{"id": 4711, "pid": 1}')
    worker(shim, other)
    assert [event for event in shim.supervisor.heard if event["process"] == hung] == []
    shim.signal(via, signal.SIGKILL)
    assert refused(shim, hung) == ("fork", "template_ended")


@pytest.mark.parametrize("changes", [{"fds": ["none"]}, {"fds": None}, {"env": {1: {}}, "fds": [["x"]]}], ids=repr)
def test_a_fork_that_makes_no_sense_is_an_exit_like_any_other(shim, changes):
    """The supervisor was never told of one whose descriptor is not kept."""
    via, _ = template(shim)
    process = shim.number()
    spec = {"env": {}, "fds": [], "group": f"test-{process}", **changes}
    shim.say({"op": "fork", "process": process, "via": via, "spec": spec})
    stage, error = refused(shim, process)
    assert stage == "fork"
    assert error
    worker(shim, via)


def test_orphans_are_reaped_after_a_fork_that_was_under_way_when_they_ended(shim):
    via, out = template(shim)
    hung, _ = fork(shim, via, DO="hang")
    assert lines(out, 1) == ["hangs"]
    process, pids = family(shim, "daemon")
    shim.signal(process, signal.SIGKILL)
    shim.wait("exited", process)
    shim.signal(process, signal.SIGKILL, "tree")
    shim.wait("gone", process)
    shim.signal(via, signal.SIGKILL)
    assert refused(shim, hung) == ("fork", "template_ended")
    wait_for(lambda: state(pids["grandchild"]) == "", "the orphan to be reaped")


ORPHANS = """
import os
for _ in range(400):
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            os.read(0, 1)
            os._exit(3)
        os._exit(0)
    os.wait()
os.write(1, b"there\\n")
os.read(0, 1)
os._exit(7)
"""


def zombies(shim):
    return {pid for pid in shim.children() if state(pid) == "Z"}


def test_hundreds_of_orphans_that_die_at_once_are_reaped_and_no_child_of_ours_with_them(shim):
    """Nobody asks the shim for anything meanwhile, and nothing else happens that would have it look."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shim.say({"op": "keep", "name": "go"}, fds=[reader])
    os.close(reader)
    out = shim.pipe("o")
    living, pid = shim.started("/bin/sleep", "1000")
    ended, dead = shim.started("/bin/sh", "-c", "exit 5")
    assert shim.wait("exited", ended)["code"] == 5  # and not acknowledged: it is kept
    others = set(shim.children())
    parent, main = shim.started(sys.executable, "-I", "-S", "-c", ORPHANS, fds={"0": "go", "1": "o", "2": ""})
    assert lines(out, 1) == ["there"]
    assert len(shim.children()) >= 400
    shim.say({"op": "drop", "name": "go"})
    os.close(writer)
    told = shim.wait("exited", parent)
    assert (told["code"], told["left"]) in {(7, True), (7, False)}
    wait_for(lambda: set(shim.children()) == {*others, main}, lambda: f"{len(shim.children())} to be {len(others) + 1}")
    assert zombies(shim) == {dead, main}
    assert runs(pid)
    shim.ack(ended, parent)
    shim.echo()
    assert zombies(shim) == set()
    shim.signal(living, signal.SIGKILL)
    assert shim.wait("exited", living)["signal"] == signal.SIGKILL
