"""A shim that is killed leaves its processes to the next: each found for certain, none started or signalled by mistake."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from types import SimpleNamespace

import pytest
from shim_harness import Shim, header, lines, read, runs, state
from waiting import wait_for

from impetusd.linux import proc
from impetusd.shim import leftovers, orphans, table, tableline
from impetusd.shim.child import Child
from impetusd.shim.state import ShimState
from impetusd.shim.strays import Strays

SH = "/bin/sh"
QUIET = {"0": "", "1": "", "2": ""}


@pytest.fixture
def shim():
    with Shim() as shim:
        yield shim


def dead(shim):
    """kill -9 of shim and supervisor, in the order in which no other supervisor is started."""
    shim.process.kill()
    shim.process.wait()
    shim.supervisor.kill()


def both_killed(shim):
    """kill -9 of both, and the next shim's first supervisor."""
    dead(shim)
    return shim.succeed()


def rows(life):
    """Of what the supervisor is told, without the harness's own `echo`."""
    told = [row for row in life.hello["table"] if (row["ended"] or {}).get("stage") != "forking a worker"]
    return {row["process"]: row for row in told}


def edited(shim, change, written=None):
    """Kill both, change what the table says (as if it had been `written` then), and start the next."""
    shim.echo()
    dead(shim)
    path = f"{shim.paths['run_dir']}/{tableline.NAME}"
    told = table.read(shim.paths["run_dir"], shim.paths["state_dir"])
    change(told)
    with open(path, "w", encoding="ascii") as file:
        file.write(json.dumps(told) + "\n")
    if written is not None:
        os.utime(path, (written, written))
    return shim.succeed()


def test_processes_strings_and_the_next_numbers_are_as_before(shim):
    sleeper, pid = shim.started("/bin/sleep", "1000")
    shim.say({"op": "put", "key": "a", "blob": "A"}, {"op": "put", "key": "b", "blob": "B"})
    shim.say({"op": "put", "key": "b", "blob": None})
    shim.echo()
    for _ in range(3):
        life = both_killed(shim)
        assert life.hello["blobs"] == {"a": "A"}
        assert rows(life) == {sleeper: {"process": sleeper, "pid": pid, "ended": None, "left": False, "acked": False}}
        shim.echo()
    assert runs(pid)
    shim.signal(sleeper, signal.SIGTERM)
    wait_for(lambda: state(pid) == "Z", "its end")
    os.waitpid(pid, 0)  # as init does
    assert shim.wait("exited", sleeper)["signal"] == signal.SIGTERM
    shim.ack(sleeper)
    shim.echo()
    assert sleeper not in rows(both_killed(shim))


@pytest.mark.parametrize(("command", "how"), [("exit 7", {"code": 7}), ("kill -USR1 $$", {"signal": signal.SIGUSR1})])
def test_how_an_orphan_ends_is_told_exactly_once_somebody_has_reaped_it(shim, command, how):
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shim.say({"op": "keep", "name": "go"}, fds=[reader])
    os.close(reader)
    process, pid = shim.started(SH, "-c", f"read x; {command}", fds={**QUIET, "0": "go"})
    shim.echo()
    both_killed(shim)
    os.close(writer)
    wait_for(lambda: state(pid) == "Z", "its end")
    os.waitpid(pid, 0)
    if orphans.status_of(shim.watch(os.getpid())) is None and os.uname().release < "6.15":
        pytest.skip("Linux 6.15 tells")
    ended = shim.wait("exited", process)
    assert {key: ended[key] for key in how} == how
    assert "unknown" not in ended


@pytest.mark.parametrize(
    ("command", "how"),
    [("exit 7", {"code": 7}), ("exit 0", {"code": 0}), ("kill -USR1 $$", {"signal": signal.SIGUSR1})],
)
def test_how_an_orphan_ends_is_told_at_once_whoever_reaps_it_when(shim, command, how):
    """Its init may poll for zombies, and what ended is to be started again before that."""
    process, pid = shim.started(SH, "-c", f"trap '{command}' TERM; while :; do sleep 0.01; done")
    shim.echo()
    both_killed(shim)
    os.kill(pid, signal.SIGTERM)
    ended = shim.wait("exited", process)
    assert state(pid) == "Z"
    assert {key: ended[key] for key in how} == how
    os.waitpid(pid, 0)


def test_an_end_that_nobody_reaps_or_that_came_while_nobody_was_there_is_said_to_be_unknown():
    blind = "orphans.status_of_zombie = lambda child: None"
    with Shim(setup=f"orphans.REAPED_WITHIN = 0.1\nmain.LOOK_AGAIN = 0.05\n{blind}") as shim:
        kept, pid = shim.started("/bin/sleep", "1000")
        gone, other = shim.started("/bin/sleep", "1000")
        shim.echo()
        dead(shim)
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
        life = shim.succeed()
        assert rows(life)[gone]["ended"]["unknown"] is True
        os.kill(pid, signal.SIGKILL)
        assert shim.wait("exited", kept)["unknown"] is True


def test_what_was_told_of_an_end_before_is_still_known(shim):
    process = shim.spawn(SH, "-c", "exit 9")
    shim.wait("exited", process)
    shim.echo()
    assert rows(both_killed(shim))[process]["ended"]["code"] == 9


def test_a_number_that_was_used_anew_is_not_signalled(shim):
    """The table says of a process that lives that it began at another time: that one is not this one."""
    process, pid = shim.started("/bin/sleep", "1000")

    def another(told):
        told["children"][str(process)]["started"] -= 1

    life = edited(shim, another)
    assert rows(life)[process]["ended"]["unknown"] is True
    shim.signal(process, signal.SIGKILL, "main")
    shim.echo()
    assert runs(pid)


def test_pipes_and_sockets_are_found_in_the_survivors(shim):
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shim.say(*({"op": "keep", "name": name} for name in ("l", "r", "w")), fds=[listener.fileno(), reader, writer])
    for each in (reader, writer, listener.detach()):
        os.close(each)
    count = "i=0; while sleep 0.01; do echo $i; i=$((i+1)); done"
    process, pid = shim.started(SH, "-c", count, fds={"0": "", "1": "w", "2": "w", "3": "l", "4": "r"})
    shim.echo()
    dead(shim)
    queued = socket.create_connection(address)
    # Nobody reads for a while, and the program does not notice, for it holds the other end as well.
    wait_for(lambda: pending(pid) > 20, "some lines in the pipe")
    assert runs(pid)
    life = shim.succeed()
    found = {}
    while {"l", "r", "w"} - found.keys():
        found.update(life.fds)
    first = [int(line) for line in lines(life.fds["r"], 20)]
    assert first == list(range(20))
    with socket.socket(fileno=os.dup(life.fds["l"])) as again:
        again.settimeout(30)
        served, _ = again.accept()
        served.close()
        assert again.getsockname() == address
    queued.close()
    shim.say(
        {"op": "spawn", "process": 99, "spec": shim.spec([SH, "-c", "echo new"], fds={"0": "", "1": "w", "2": "w"})}
    )
    text = b""
    while b"new" not in text:
        text += read(life.fds["r"], "what a new process prints")
    shim.signal(process, signal.SIGKILL)


def pending(pid):
    """Bytes in the pipe that a process prints into."""
    import array
    import fcntl
    import termios

    fd = os.open(f"/proc/{pid}/fd/1", os.O_RDONLY | os.O_NONBLOCK)
    try:
        count = array.array("i", [0])
        fcntl.ioctl(fd, termios.FIONREAD, count)
        return count[0]
    finally:
        os.close(fd)


def test_what_cannot_be_found_is_said_and_not_offered(shim):
    shim.pipe("nobody")
    shim.echo()
    life = both_killed(shim)
    assert set(life.fds) == set()
    assert "lost: nobody" in shim.log()


def test_a_supervisor_that_becomes_the_shim_passes_on_all_that_it_has(shim):
    """Its descriptors come without names: they are known again by what they are, and the others are closed."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shim.say({"op": "keep", "name": "r"}, {"op": "keep", "name": "w"}, fds=[reader, writer])
    shim.echo()
    stranger = os.open("/dev/null", os.O_RDONLY)
    lock = os.open(shim.paths["state_dir"], os.O_RDONLY)
    dead(shim)
    life = shim.succeed(mode="orphaned", fds=[reader, stranger, lock])  # one end of a pipe is enough for both
    assert set(life.fds) == {"r", "w"}
    os.write(life.fds["w"], b"x\n")
    assert lines(reader, 1) == ["x"]
    assert shim.open_fds().count(os.path.realpath(shim.paths["state_dir"])) == 1
    for fd in (reader, writer, stranger, lock):
        os.close(fd)


def test_a_process_that_is_in_nobodys_books_is_ended_before_anything_is_started(shim):
    """The shim was killed between a fork and the line about it."""
    process, pid = shim.started("/bin/sleep", "1000")
    known, other = shim.started("/bin/sleep", "1000")

    def forget(told):
        del told["children"][str(process)]

    life = edited(shim, forget, written=time.time() - proc.age(proc.read(pid)))
    os.waitpid(pid, 0)
    assert f"killed processes whose start was not complete: {pid}" in shim.log()
    assert list(rows(life)) == [known]
    assert runs(other)


def test_what_another_life_has_left_is_spared(shim):
    """A daemon that treekill = no has spared, from before an orderly end."""
    process, pid = shim.started("/bin/sleep", "1000")

    def forget(told):
        del told["children"][str(process)]
        told["life"] = "another"
        leftovers.write(shim.paths["state_dir"], "another", over=False)

    edited(shim, forget)
    assert runs(pid)


def test_an_orphans_descendants_are_still_its_own():
    for cgroups in (False, True):
        with Shim(cgroups=cgroups) as shim:
            out = shim.pipe("o")
            script = "sleep 1000 & sh -c 'setsid sleep 1000 & echo $!' ; echo $!; exec sleep 1000"
            process, pid = shim.started(SH, "-c", script, fds={"0": "", "1": "o", "2": ""})
            below = [int(line) for line in lines(out, 2)]
            shim.echo()
            both_killed(shim)
            shim.signal(process, signal.SIGKILL, "main")
            wait_for(lambda pid=pid: state(pid) == "Z", "its end")
            os.waitpid(pid, 0)
            assert shim.wait("exited", process)["left"] is True
            shim.signal(process, signal.SIGKILL, "tree")
            for each in below:
                wait_for(lambda each=each: state(each) == "Z", "its descendants to be killed")
                os.waitpid(each, 0)
            shim.wait("gone", process)


def test_a_supervisor_that_hangs_with_the_lock_is_ended():
    with Shim(setup="orphans.GONE_WITHIN = 0.1") as shim:
        _, pid = shim.started("/bin/sleep", "1000")
        hangs = subprocess.Popen(["/bin/sleep", "1000"], pass_fds=shim.supervisor.locks)
        try:
            began = proc.read(hangs.pid).started
            life = edited(shim, lambda told: told.update(supervisor=[hangs.pid, began]))
            assert hangs.wait(30) == -signal.SIGKILL
        finally:
            hangs.kill()
            hangs.wait()
        assert [row["pid"] for row in rows(life).values()] == [pid]


def test_whoever_else_holds_the_lock_is_left_alone(shim):
    """It may be a shim that has just begun: only the supervisor that the table names can be left over."""
    shim.echo()
    other = subprocess.Popen(["/bin/sleep", "1000"], pass_fds=shim.supervisor.locks)
    try:
        dead(shim)
        assert shim.launch().wait(30) == 75
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_second_shim_still_ends_at_once(shim):
    shim.echo()
    assert shim.launch().wait(30) == 75


def test_after_an_orderly_end_there_is_no_table(shim):
    assert os.stat(f"{shim.paths['run_dir']}/{tableline.NAME}").st_mode & 0o777 == 0o600
    shim.say({"op": "quit"})
    shim.supervisor.leave()
    assert shim.process.wait(30) == 0
    assert not os.path.exists(f"{shim.paths['run_dir']}/{tableline.NAME}")


def test_a_table_that_was_removed_is_made_again():
    with Shim(setup="table.AGAIN = 0.0") as shim:
        path = f"{shim.paths['run_dir']}/{tableline.NAME}"
        _, pid = shim.started("/bin/sleep", "1000")
        os.unlink(path)
        shim.say({"op": "beat"})
        wait_for(lambda: os.path.exists(path), "the table to be there again")
        assert [row["pid"] for row in rows(both_killed(shim)).values()] == [pid]


def test_a_table_that_cannot_be_written_is_told_once_and_made_later():
    with Shim(setup="table.AGAIN = 0.0\ntable.GROWTH = 0") as shim:
        path = f"{shim.paths['run_dir']}/{tableline.NAME}"
        os.mkdir(f"{path}.new")  # in the way
        for text in ("x" * 100_000, "y"):  # the first is written, and so large that the second begins the table anew
            shim.say({"op": "put", "key": "a", "blob": text})
            shim.echo()
        shim.until_logged("cannot be written")
        sentence = shim.wait("trouble")["sentence"]
        assert sentence.startswith(f"{path} cannot be written: Is a directory")
        shim.supervisor.kill()
        assert shim.next_life().hello["troubles"] == {"table": sentence}
        os.rmdir(f"{path}.new")
        shim.say({"op": "put", "key": "a", "blob": "last"})
        wait_for(
            lambda: (
                (table.read(shim.paths["run_dir"], shim.paths["state_dir"]) or {}).get("blobs", {}).get("a") == "last"
            ),
            "the last word",
        )
        assert shim.log().count("cannot be written") == 1
        assert shim.wait("trouble")["sentence"] == ""


def test_a_file_cut_off_anywhere_tells_of_whole_rounds_only(tmp_path):
    first = header(tmp_path, blobs={"a": "0"})
    news = [{"blobs": {"a": str(n), f"n{n}": "x", f"n{n - 1}": None}} for n in range(1, 4)]
    whole = "".join(json.dumps(line) + "\n" for line in (first, *news)).encode()
    told = []
    for size in range(len(whole) + 1):
        (tmp_path / tableline.NAME).write_bytes(whole[:size])
        found = table.read(str(tmp_path), str(tmp_path))
        told.append(None if found is None else found["blobs"])
    assert [each for at, each in enumerate(told) if at == 0 or each != told[at - 1]] == [
        None,
        {"a": "0"},
        {"a": "1", "n1": "x"},
        {"a": "2", "n2": "x"},
        {"a": "3", "n3": "x"},
    ]


@pytest.mark.parametrize("cut", [b"", b'{"blobs": {"a": "1'])
def test_what_a_supervisor_adds_follows_the_last_whole_line(tmp_path, cut):
    (tmp_path / tableline.NAME).write_bytes(json.dumps(header(tmp_path, blobs={"a": "0"})).encode() + b"\n" + cut)
    tableline.add(str(tmp_path), {"blobs": {"b": "2"}})
    assert table.read(str(tmp_path), str(tmp_path))["blobs"] == {"a": "0", "b": "2"}


def test_who_has_the_pid_of_one_that_was_reaped_is_none_of_its_tree():
    held = ShimState("a life", {})
    child = held.children[1] = Child(1, "", "")
    child.is_child, child.pid, child.started = False, os.getpid(), 1
    strays = Strays(held, SimpleNamespace(with_spares=lambda call: call()))
    with subprocess.Popen(["sleep", "1000"]) as below:
        try:
            assert not strays.has_rest(child)
            child.started = proc.read(os.getpid()).started
            assert strays.has_rest(child)
        finally:
            below.kill()
