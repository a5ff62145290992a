"""A child's start: what it finds itself in is what was declared and nothing else; what cannot be done is told by name."""

from __future__ import annotations

import errno
import json
import os
import pwd
import resource
import socket
import sys

import pytest
from shim_harness import CGROUPS, PATH, PROGRAMS, Shim
from waiting import wait_for

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root may become another user, or raise what it may not")
as_user = pytest.mark.skipif(ROOT, reason="root may do what is refused here")
NOBODY = pwd.getpwnam("nobody")
IDENTITY = {"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid, "groups": [NOBODY.pw_gid, 12345]}
DUMP = (sys.executable, "-I", "-S", f"{PROGRAMS}/dump.py")

# What a careless caller leaves: open inheritable descriptors, ignored and blocked signals, a umask.
CARELESS = """
import os, signal
for number in range(5):
    os.dup2(2, 40 + number, inheritable=True)
for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGRTMIN):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.umask(0o777)
"""

# What a plain program finds itself in, in words that are the same each time.
SURROUNDINGS = """
for fd in /proc/self/fd/*; do test -e $fd && echo ${fd##*/}; done
umask; ulimit -a; cat /proc/self/oom_score_adj; grep -E '^(Sig[BIC]|Cap|NoNew|Groups|Uid|Gid)' /proc/self/status
"""


@pytest.fixture
def shim():
    with Shim() as shim:
        yield shim


def script(tmp_path, first_line, mode=0o755):
    path = tmp_path / "script"
    path.write_text(first_line + "\nexit 0\n", encoding="utf-8")
    path.chmod(mode)
    return str(path)


def failure(shim, *argv, **changes):
    """The stage, with what it is about, and the errno, text or key of why it failed."""
    process = shim.spawn(*argv, **changes)
    ended = shim.wait("exited", process)
    assert "code" not in ended, ended
    assert "signal" not in ended, ended
    assert ended["left"] is False
    shim.ack(process)
    facts = ended["cause"]["facts"]
    cause = facts["cause"]
    told = cause["facts"].get("errno") or cause["facts"].get("text") or cause["key"]
    return f"{facts['stage']} {facts['what']}".strip(), told


def status(shim, *argv, **changes):
    """/proc/self/status of a plain program, as numbers and lists of numbers."""
    rows = dict(line.split(":", 1) for line in shim.run("/bin/cat", "/proc/self/status", **changes).splitlines())
    signs = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    return {name: int(value, 16) if name in signs else value.split() for name, value in rows.items()}


# What a child finds.


def test_the_environment_is_exactly_what_was_given(shim):
    env = {
        "PATH": PATH,
        "EMPTY": "",
        "LINES": "one\ntwo",
        "WORDS": " a=b ",
        "BYTES": os.fsdecode(b"\xff\xfe"),
        "Ä": "ö",
    }
    *found, mark = shim.run("/usr/bin/env", "-0", env=env).removesuffix("\0").split("\0")
    assert found == [f"{name}={value}" for name, value in env.items()]
    assert mark.startswith("IMPETUSD_DAEMON=")  # whose it is, should the shim be killed


def test_arguments_are_exactly_what_was_given(shim):
    given = ["", " ", "a b", "'\"$HOME`*", "ö", "--"]
    assert json.loads(shim.run(*DUMP, *given))["argv"] == given


def test_only_declared_descriptors_are_open_whatever_the_caller_had():
    with Shim(setup=CARELESS) as shim:
        for number in range(20):
            shim.pipe(f"other:{number}")
        found = json.loads(shim.run(*DUMP))["fds"]
        assert sorted(found) == ["0", "1", "2"]
        assert found["0"] == "/dev/null"
        assert found["1"] == found["2"]
        assert found["1"].startswith("pipe:")


def test_declared_descriptors_are_at_their_numbers_in_any_order(shim):
    """Also where a number that is to be filled holds, in the shim, what is to go elsewhere."""
    ends = {f"end:{number}": os.readlink(f"/proc/self/fd/{shim.pipe(f'end:{number}')}") for number in range(12)}
    names = list(ends)
    for order in (names, names[::-1], names[3:] + names[:3]):
        fds = {"0": "", "1": "out", "2": "", **{str(3 + at): name for at, name in enumerate(order)}}
        shim.pipe("out")
        process = shim.spawn(*DUMP, fds=fds)
        found = json.loads(shim.output(process, "out"))["fds"]
        assert {number: found[number] for number in fds if int(number) >= 3} == {
            str(3 + at): ends[name] for at, name in enumerate(order)
        }
        assert sorted(found, key=int) == sorted(fds, key=int)
        os.close(shim.pipes.pop("out"))


def test_numbers_between_declared_descriptors_are_closed(shim):
    shim.pipe("out")
    process = shim.spawn(*DUMP, fds={"0": "", "1": "out", "2": "", "9": ""})
    assert sorted(json.loads(shim.output(process, "out"))["fds"]) == ["0", "1", "2", "9"]


def test_no_signal_is_blocked_ignored_or_caught_whatever_the_caller_did():
    with Shim(setup=CARELESS) as shim:
        found = status(shim)
        assert {name: found[name] for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")} == {
            "SigPnd": 0,
            "ShdPnd": 0,
            "SigBlk": 0,
            "SigIgn": 0,
            "SigCgt": 0,
        }


def test_it_leads_a_session_and_a_group_of_its_own(shim):
    found = json.loads(shim.run(*DUMP))
    assert found["session"] == found["group"] == found["pid"]


@pytest.mark.parametrize("umask", [0o022, 0, 0o077, 0o777])
def test_umask(shim, umask):
    assert int(status(shim, umask=umask)["Umask"][0], 8) == umask


def test_working_directory(shim, tmp_path):
    folder = tmp_path / "with space ö"
    folder.mkdir()
    assert json.loads(shim.run(*DUMP, cwd=str(folder)))["cwd"] == str(folder)


def test_limits_nice_and_oom_score(shim):
    limits = [["core", 0, 0], ["nofile", 100, 200], ["cpu", 500, 600]]
    found = json.loads(shim.run(*DUMP, rlimits=limits, nice=7, oom_score_adj=321, affinity=[0]))
    assert found["rlimits"]["RLIMIT_CORE"] == [0, 0]
    assert found["rlimits"]["RLIMIT_NOFILE"] == [100, 200]
    assert found["rlimits"]["RLIMIT_CPU"] == [500, 600]
    assert (found["nice"], found["oom_score_adj"], found["affinity"]) == (7, 321, [0])


def test_what_the_shim_gave_itself_is_not_inherited():
    """It raises its own limit of descriptors and lowers its own oom_score_adj."""
    setup = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (99, hard))"
    )
    with Shim(setup=setup) as shim:
        found = json.loads(shim.run(*DUMP))
        ours = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert found["rlimits"]["RLIMIT_NOFILE"] == [99, ours[1]]
        with open("/proc/self/oom_score_adj", encoding="ascii") as file:
            assert found["oom_score_adj"] == int(file.read())


def test_a_low_limit_of_descriptors_is_the_childs_alone():
    """It is set in a process that still holds whatever the shim holds: more than the limit allows, here."""
    with Shim() as shim:
        for number in range(60):
            shim.pipe(f"held:{number}")
        found = json.loads(shim.run(*DUMP, rlimits=[["nofile", 16, 16]]))
        assert found["rlimits"]["RLIMIT_NOFILE"] == [16, 16]
        assert sorted(found["fds"]) == ["0", "1", "2"]


def test_many_starts_while_descriptors_come_and_go_find_only_what_was_declared():
    """A careless shim whose store changes between any two starts, and which leaks nothing."""
    with Shim(setup=CARELESS) as shim:
        one = shim.run("/bin/sh", "-c", SURROUNDINGS)
        shim.echo()
        before = shim.open_fds()
        for turn in range(10):
            churn = [f"churn:{turn}:{number}" for number in range(20)]
            ends = socket.socketpair()
            shim.say(*({"op": "keep", "name": name} for name in churn), fds=[ends[at % 2].fileno() for at in range(20)])
            for end in ends:
                end.close()
            starts = []
            for number, name in enumerate(churn):
                out = f"out:{turn}:{number}"
                shim.pipe(out)
                fds = {"0": "", "1": out, "2": out}
                starts.append((shim.spawn("/bin/sh", "-c", SURROUNDINGS, fds=fds), out))
                shim.say({"op": "drop", "name": name})
            for process, out in starts:
                assert shim.output(process, out) == one
                assert shim.wait("exited", process)["code"] == 0
                os.close(shim.pipes.pop(out))
            shim.ack(*(process for process, _ in starts))
        shim.echo()
        assert shim.open_fds() == before


def test_listen_pid_is_the_childs(shim):
    found = json.loads(shim.run(*DUMP, listen=2, env={"PATH": PATH, "LISTEN_FDS": "2"}))
    assert found["env"]["LISTEN_PID"] == str(found["pid"])
    assert "LISTEN_PID" not in json.loads(shim.run(*DUMP))["env"]


@as_root
def test_as_another_user_nothing_of_root_is_left(shim):
    found = status(shim, **IDENTITY)
    assert found["Uid"] == [str(NOBODY.pw_uid)] * 4
    assert found["Gid"] == [str(NOBODY.pw_gid)] * 4
    assert sorted(found["Groups"]) == sorted({str(NOBODY.pw_gid), "12345"})
    capabilities = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {name: found[name] for name in capabilities} == dict.fromkeys(capabilities, 0)
    assert found["NoNewPrivs"] == ["1"]
    assert [found[name] for name in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]


# The daemon of a careless root: capabilities that are inherited over setuid and exec.
CAPABLE = """
import ctypes
libc = ctypes.CDLL(None)
every = (1 << 41) - 1
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
with open("/proc/self/status") as file:
    permitted = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm"))
low, high = permitted & 0xFFFFFFFF, permitted >> 32
assert libc.capset(header, (ctypes.c_uint32 * 6)(low, low, low, high, high, high)) == 0
for capability in range(41):
    if permitted >> capability & 1:
        spawn.prctl(47, 2, capability)  # raise the ambient one
spawn.prctl(28, 0b101)  # PR_SET_SECUREBITS: no capability is dropped by setuid
"""


@as_root
def test_as_another_user_no_capability_is_left_that_the_caller_had_made_inheritable():
    with Shim(setup=CAPABLE) as shim:
        found = status(shim, **IDENTITY)
        capabilities = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        assert {name: found[name] for name in capabilities} == dict.fromkeys(capabilities, 0)


@as_root
def test_root_with_another_group_is_still_root(shim):
    before = status(shim)
    found = status(shim, uid=0, gid=12345, groups=[12345])
    assert found["Uid"] == ["0"] * 4
    assert (found["Gid"], found["Groups"]) == (["12345"] * 4, ["12345"])
    assert (found["CapEff"], found["CapBnd"]) == (before["CapEff"], before["CapBnd"])


@as_root
def test_it_may_enter_a_directory_only_if_its_user_may(shim, tmp_path):
    """chdir happens with the shim's rights, as systemd's does: what the user may not read, it still cannot."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "secret").write_text("x", encoding="utf-8")
    process = shim.spawn("/bin/cat", "secret", cwd=str(closed), **IDENTITY)
    assert shim.wait("exited", process)["code"] == 1


# Starts that fail.


def test_missing_directory(shim, tmp_path):
    stage, error = failure(shim, "/bin/true", cwd=str(tmp_path / "none"))
    assert (stage, error) == (f"cwd {tmp_path}/none", errno.ENOENT)


@pytest.mark.parametrize("argv", [["/none/such"], ["no-such-command"]])
def test_missing_executable(shim, argv):
    stage, error = failure(shim, *argv)
    assert stage == f"exec {argv[0]}"
    assert error == ("no_file" if "/" in argv[0] else "no_program")


def test_script_whose_interpreter_is_missing(shim, tmp_path):
    path = script(tmp_path, "#!/none/such -x")
    assert failure(shim, path) == (f"exec {path}", "no_interpreter")
    env = {"PATH": str(tmp_path)}
    assert failure(shim, "script", env=env)[1] == "no_interpreter"


def test_file_that_is_not_executable(shim, tmp_path):
    path = script(tmp_path, "#!/bin/sh", mode=0o644)
    assert failure(shim, path) == (f"exec {path}", errno.EACCES)


def test_file_that_is_no_program(shim, tmp_path):
    path = script(tmp_path, "no first line")
    assert failure(shim, path) == (f"exec {path}", errno.ENOEXEC)


def test_directory_as_a_program(shim, tmp_path):
    assert failure(shim, str(tmp_path)) == (f"exec {tmp_path}", errno.EACCES)


def test_names_that_are_no_utf8_are_told_and_end_the_child(shim):
    """The report is written by a process that would otherwise go on as a second shim."""
    name = os.fsdecode(b"/none/\xff")
    assert failure(shim, "/bin/true", cwd=name)[0].startswith("cwd /none/")
    assert failure(shim, name)[0].startswith("exec /none/")
    wait_for(lambda: shim.children() == [shim.supervisor.pid], "the failed children to be reaped")


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        (["nofile", 10, 5], "nofile=10:5"),
        (["nofile", 10, 1 << 40], f"nofile=10:{1 << 40}"),
        (["core", 1 << 70, 1 << 70], "core="),
        (["none", 1, 1], "none"),
    ],
)
def test_limit_that_cannot_be_set(shim, limit, error):
    process = shim.spawn("/bin/true", rlimits=[limit])
    ended = shim.wait("exited", process)
    shim.ack(process)
    facts = ended["cause"]["facts"]
    assert facts["stage"] == "rlimits"
    assert error in facts["cause"]["facts"]["detail"]  # the host's words, with the limit


def test_processor_that_does_not_exist(shim):
    assert failure(shim, "/bin/true", affinity=[4095]) == ("cpu_affinity", errno.EINVAL)


def test_oom_score_out_of_range(shim):
    assert failure(shim, "/bin/true", oom_score_adj=2000) == ("oom_score_adj 2000", errno.EINVAL)


@as_user
def test_nice_without_the_right(shim):
    assert failure(shim, "/bin/true", nice=-5) == ("nice -5", errno.EACCES)


@as_user
def test_another_user_without_the_right(shim):
    """Also one's own: what was asked for includes the groups, which only root may set."""
    for uid in (0, os.geteuid()):
        stage, error = failure(shim, "/bin/true", uid=uid, gid=os.getegid(), groups=[os.getegid()])
        assert (stage, error) == (f"groups [{os.getegid()}]", errno.EPERM)


@pytest.mark.parametrize(("env", "argv"), [({"A": "b\0c"}, []), ({"A=B": "c"}, []), ({}, ["\0"])])
def test_what_exec_cannot_take(shim, env, argv):
    stage, error = failure(shim, "/bin/echo", *argv, env={"PATH": PATH, **env})
    assert stage == "exec /bin/echo"
    assert error


def test_too_much_for_exec(shim):
    assert failure(shim, "/bin/true", "x" * 200_000) == ("exec /bin/true", errno.E2BIG)


def test_descriptor_that_is_not_kept(shim):
    stage, error = failure(shim, "/bin/true", fds={"0": "", "1": "none", "2": ""})
    assert (stage, error) == ("process", "no descriptor is stored as none")


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": []},
        {"argv": None},
        {"fds": []},
        {"fds": {"x": ""}},
        {"rlimits": [["nofile"]]},
        {"env": None},
        {"cwd": None},
        {"fds": {}},
        {"umask": "x"},
        {"group": "../../x"},
        {"group": ""},
        {"uid": 1},
    ],
    ids=repr,
)
def test_spec_that_makes_no_sense_is_an_exit_like_any_other(shim, changes):
    """Nobody writes such a one; but a supervisor that waits for ever would be worse than one that is told."""
    process = shim.number()
    shim.say({"op": "spawn", "process": process, "spec": {**shim.spec(["/bin/true"]), **changes}})
    ended = shim.wait("exited", process)
    assert ended.get("stage") or ended.get("code") == 0
    shim.ack(process)
    shim.run("/bin/true")


def test_a_stage_that_fails_is_the_last(shim, tmp_path):
    """Nothing after it happens: least of all the program."""
    witness = tmp_path / "ran"
    for changes in ({"rlimits": [["nofile", 10, 5]]}, {"affinity": [4095]}, {"cwd": "/none"}, {"oom_score_adj": 2000}):
        failure(shim, "/bin/touch", str(witness), **changes)
    assert not witness.exists()


def test_no_process_left_to_fork():
    """As on a host where the user's processes are at their limit: every second fork fails."""
    setup = """
import errno, os
fork, calls = spawn.fork, []
def sometimes(cgroup):
    calls.append(1)
    if len(calls) % 2:
        return fork(cgroup)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
spawn.fork = sometimes
"""
    with Shim(setup=setup) as shim:
        for _ in range(3):
            shim.echo()
            before = shim.open_fds()
            assert failure(shim, "/bin/true") == ("process", errno.EAGAIN)
            shim.echo()
            assert shim.open_fds() == before
            assert shim.run("/bin/echo", "again") == "again\n"


@as_user
def test_a_process_limit_is_told_and_survived(shim):
    limit = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.prlimit(shim.pid, resource.RLIMIT_NPROC, (1, limit[1]))
    assert failure(shim, "/bin/true") == ("process", errno.EAGAIN)
    resource.prlimit(shim.pid, resource.RLIMIT_NPROC, limit)
    assert shim.run("/bin/echo", "again") == "again\n"


def lacks_a_descriptor(ended):
    return "cause" in ended and ended["cause"]["facts"]["cause"]["facts"].get("errno") == errno.EMFILE


def test_no_descriptor_left_is_told_and_survived(shim):
    shim.run("/bin/true")
    shim.echo()
    before = shim.open_fds()
    limits = resource.prlimit(shim.pid, resource.RLIMIT_NOFILE)
    for spare in range(8):  # so that each of the descriptors that a start takes is once the one that is missing
        highest = max(int(fd) for fd in os.listdir(f"/proc/{shim.pid}/fd"))
        resource.prlimit(shim.pid, resource.RLIMIT_NOFILE, (highest + 1 + spare, limits[1]))
        process = shim.spawn("/bin/true", fork_fd=3)
        ended = shim.wait("exited", process)
        assert lacks_a_descriptor(ended) or ended.get("code") == 0, ended
        resource.prlimit(shim.pid, resource.RLIMIT_NOFILE, limits)
        shim.ack(process)
        shim.echo()
        wait_for(lambda: shim.children() == [shim.supervisor.pid], "the child that was given up to be reaped")
        assert shim.open_fds() == before
    assert shim.run("/bin/echo", "again") == "again\n"


# Rights.

NET_BIND_SERVICE, NET_RAW = 10, 13


@as_root
def test_another_user_has_the_capabilities_that_it_was_given_and_no_others(shim):
    given = {"capabilities": [NET_BIND_SERVICE]}
    found = status(shim, **IDENTITY, **given)
    only = 1 << NET_BIND_SERVICE
    assert {name: found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), only
    )
    assert found["NoNewPrivs"] == ["1"]
    assert found["Uid"] == [str(NOBODY.pw_uid)] * 4


@as_root
def test_root_has_no_more_than_it_was_given(shim):
    found = status(shim, capabilities=[NET_RAW])
    assert (found["CapEff"], found["CapBnd"], found["CapAmb"], found["NoNewPrivs"]) == (
        1 << NET_RAW,
        1 << NET_RAW,
        0,
        ["0"],
    )


@as_root
def test_without_no_new_privs_a_setuid_program_works_as_for_everybody(shim):
    found = status(shim, **IDENTITY, no_new_privs=False)
    assert (found["CapEff"], found["CapPrm"], found["CapInh"], found["NoNewPrivs"]) == (0, 0, 0, ["0"])
    assert found["CapBnd"] == status(shim)["CapBnd"]


def test_no_new_privs_alone_needs_no_other_user(shim):
    assert status(shim, no_new_privs=True)["NoNewPrivs"] == ["1"]


# What the child's user may not read is not needed: nothing is imported after the fork.

NOTHING_IMPORTED = """
import os, sys
class Never:
    parent = os.getpid()
    def find_spec(self, name, path=None, target=None):
        if os.getpid() != self.parent:
            raise ImportError(f"{name} is imported after the fork")
sys.meta_path.insert(0, Never())
"""


@pytest.mark.parametrize("identity", [pytest.param(IDENTITY, marks=as_root), {}])
def test_nothing_is_imported_between_fork_and_program(tmp_path, identity):
    os.chmod(tmp_path, 0o755)
    with Shim(setup=NOTHING_IMPORTED) as shim:
        assert shim.run("cat", "/dev/null", **identity) == ""
        changes = {**identity, "nice": 1, "affinity": [min(os.sched_getaffinity(0))], "rlimits": [["core", 0, 0]]}
        assert shim.run("cat", "/dev/null", **changes) == ""
        stage, error = failure(shim, "no-such-program", **changes)
        assert (stage, error) == ("exec no-such-program", "no_program")
        assert failure(shim, script(tmp_path, "", 0o644), **identity)[1] == errno.EACCES


# What Python does in a child after a fork: here it ends it, before it could report anything.
HOOK = "import os\nos.register_at_fork(after_in_child=lambda: os._exit(9))\n"


@pytest.mark.parametrize(
    "group",
    ["", pytest.param("mine", marks=pytest.mark.skipif(not CGROUPS, reason="no cgroup v2 may be written here"))],
)
def test_a_start_runs_no_hook_of_python(group):
    with Shim(setup=HOOK) as shim:
        assert shim.run("/bin/echo", "here", group=group) == "here\n"


def test_where_there_is_no_clone3_a_start_is_a_fork():
    refuse = "def refuse(cgroup): raise OSError(38, 'no clone3')\nspawn.clone.fork = refuse\n"
    with Shim(setup=refuse) as shim:
        assert shim.run("/bin/echo", "here") == "here\n"


def test_a_program_is_looked_for_in_path_as_execvp_does(shim, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, mode in ((first, 0o644), (second, 0o755)):
        folder.mkdir()
        (folder / "tool").write_text("#!/bin/sh\necho found in $0\n")
        (folder / "tool").chmod(mode)
    env = {"PATH": f"/nowhere:{first}:{tmp_path}/first/tool:{second}:/bin"}
    assert shim.run("tool", env=env) == f"found in {second}/tool\n"
    assert failure(shim, "tool", env={"PATH": f"/nowhere:{first}"}) == ("exec tool", errno.EACCES)
    assert shim.run("tool", env={"PATH": ":/bin"}, cwd=str(second)).startswith("found in")
