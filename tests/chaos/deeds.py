"""What a step of `scripts/chaos --soak` may do. Each returns what it chose, for the journal."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import time
from typing import Any

from soak import ALWAYS, CALM, OURS, TIMERS, Deed, Soak, Violation

REFUSED = 2  # a command's exit code when the INI file has mistakes


def _kill(pid: int | None, number: int = signal.SIGKILL) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _unit(soak: Soak) -> str:
    return soak.random.choice([*soak.setup.programs, "web"])


def some_commands(soak: Soak) -> str:
    """Up to three clients at once."""
    chosen = [_command(soak) for _ in range(soak.random.randint(1, 3))]
    soak.commands(*chosen)
    return " | ".join(" ".join(words) for words in chosen)


def _command(soak: Soak) -> tuple[str, ...]:
    unit = _unit(soak)
    timer = soak.random.choice(sorted(TIMERS))
    return soak.random.choice(
        [
            ("status",),
            ("start",),
            ("start", unit),
            ("stop", unit),
            ("restart", unit),
            ("restart", "--rolling", "web"),
            ("reload", "web"),
            ("scale", "web", str(soak.random.randint(1, 3))),
            ("scale", "quiet", str(soak.random.randint(1, 3))),
            ("plan",),
            ("apply",),
            ("disable", unit, timer),
            ("enable", unit, timer),
            ("disable", *TIMERS),
            ("enable", *TIMERS),
            ("trigger", timer),
            ("why", unit),
            ("events",),
            ("describe", unit),
            ("env", unit),
            ("timers",),
            ("logs", "--lines", "5", unit),
            ("flush", unit),
            ("reopen-logs",),
            ("signal", "USR2", "family"),
            ("upgrade",),
        ]
    )


def switch_timers(soak: Soak) -> str:
    """Their jobs end while they are switched."""
    for _ in range(6):
        soak.commands(("disable", *TIMERS), ("status",))
        soak.command("enable", *TIMERS)
    return ""


def kill_slots(soak: Soak) -> str:
    """Processes die, one or several in one instant."""
    names = soak.random.sample(soak.slots(), soak.random.randint(1, 4))
    pids = [soak.pid_of(name) for name in names]
    number = soak.random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
    for pid in pids:
        _kill(pid, number)
    return f"{signal.Signals(number).name} {' '.join(names)}"


def kill_supervisor(soak: Soak) -> str:
    """Perhaps while a command is under way."""
    pid = soak.pids()["supervisor"]
    if soak.random.random() < 0.5:
        words = _command(soak)
        begun = soak.begin(words, None)
        time.sleep(soak.random.uniform(0.0, 0.5))
        _kill(pid)
        soak.finish(begun)
        return " ".join(words)
    _kill(pid)
    return ""


def kill_shim(soak: Soak) -> str:
    """The supervisor becomes the next one."""
    _kill(soak.pids()["shim"])
    return ""


def kill_both(soak: Soak) -> str:
    """Nothing of impetusd is left but what it had started."""
    soak.ended = True
    pids = soak.pids()
    _kill(pids["supervisor"], signal.SIGSTOP)
    _kill(pids["shim"])
    _kill(pids["supervisor"])
    return ""


def lose_table(soak: Soak) -> str:
    """What the shim has written down is gone or damaged; then the shim, or both, are killed."""
    how = soak.random.choice(["removed", "emptied", "nuls", "cut"])
    path = soak.impetusd.run_dir / "table"
    soak.ended = True
    pids = soak.pids()
    both = soak.random.random() < 0.5
    _kill(pids["shim"], signal.SIGSTOP)  # so that it does not mend it first
    with contextlib.suppress(FileNotFoundError):
        data = path.read_bytes()
        match how:
            case "removed":
                path.unlink()
            case "emptied":
                path.write_bytes(b"")
            case "nuls":
                path.write_bytes(bytes(len(data)))
            case "cut":
                path.write_bytes(data[: soak.random.randrange(len(data) + 1)])
    if both:
        _kill(pids["supervisor"], signal.SIGSTOP)
    _kill(pids["shim"])
    if both:
        _kill(pids["supervisor"])
    return f"{how}, {'both' if both else 'the shim'} killed"


def freeze_process(soak: Soak) -> str:
    """A slot's process, or the shim, stands still for a moment."""
    name = soak.random.choice([*soak.slots(), "shim"])
    pid = soak.pids()["shim"] if name == "shim" else soak.pid_of(name)
    if pid:
        _kill(pid, signal.SIGSTOP)
        soak.meanwhile(lambda: _kill(pid, signal.SIGCONT))
    if name != "shim":
        other = soak.random.choice(soak.slots())
        _kill(soak.pid_of(other))
        return f"{name}, and {other} killed"
    time.sleep(0.5)
    return name


def remove_socket(soak: Soak) -> str:
    """Somebody tidies up."""
    with contextlib.suppress(FileNotFoundError):
        soak.impetusd.control_socket.unlink()
    soak.reachable()
    return ""


def remove_run_dir(soak: Soak) -> str:
    """Somebody tidies up thoroughly; then perhaps the supervisor is killed."""
    pid = soak.pids()["supervisor"]
    shutil.rmtree(soak.impetusd.run_dir, ignore_errors=True)  # a part of it may be made again meanwhile
    if soak.random.random() < 0.5:
        _kill(pid)
        return "supervisor killed"
    soak.reachable()
    return ""


def edit(soak: Soak) -> str:
    """Another environment, fewer or more programs; applied, or not yet."""
    everything = sorted(soak.kinds)
    soak.setup.version = soak.step
    soak.setup.programs = sorted(
        soak.random.sample(everything, soak.random.randint(len(everything) - 2, len(everything)))
    )
    soak.write()
    words = soak.random.choice([("apply",), ("apply",), ("plan",), ("status",)])
    results = [soak.command(*words)]
    if words != ("apply",):
        results.append(soak.command("apply"))
    if refused := [each for each in results if each.code == REFUSED]:
        raise Violation(f"a file without mistakes was refused: {refused}")
    return f"{' '.join(soak.setup.programs)}; {words[0]}"


def _lasting(status: dict[str, Any]) -> set[str]:
    """The slots but those of jobs and of health checks' commands, which come and go."""
    return {row["name"] for row in status["units"] if row["kind"] not in {"timer", "health"}}


def edit_with_mistakes(soak: Soak) -> str:
    """It must be refused, and change nothing."""
    before = _lasting(soak.calm())
    soak.write(mistakes=True)
    soak.meanwhile(soak.write)
    result = soak.command("apply")
    if result.code == 0:
        raise Violation(f"apply took a file with mistakes: {result}")
    after = _lasting(soak.told())
    if before != after:
        raise Violation(f"a file with mistakes changed the slots: {before} {after}")
    return ""


def other_file(soak: Soak) -> str:
    """Another INI file in the same folder, with folders of its own by default, or with ours: it never reaches ours."""
    other = soak.root / "other.ini"
    ours = soak.random.random() < 0.5
    folders = "[impetusd]\nrun_dir = var/run\nstate_dir = var/lib\nlog_dir = var/log\n" if ours else ""
    other.write_text(f"{folders}[program:stranger]\ncommand = sleep 100000\n{ALWAYS}")
    pids = soak.pids()
    words = soak.random.choice([("stop",), ("status",), ("apply",), ("restart",), ("reap-leftovers",), ("start",)])
    result = soak.command(*words, conf=other)
    if not ours:  # its own daemon, if it has one now
        soak.command("stop", conf=other)
    if soak.command("status").code not in {0, 1} or soak.pids() != pids:
        raise Violation(f"impetusd -c other.ini {words[0]} reached the daemon of impetusd.ini: {result}")
    return f"{words[0]}, {'our folders' if ours else 'its own folders'}"


def lose_user(soak: Soak) -> str:
    """The user of a unit is gone for a while, and its process dies meanwhile."""
    if not soak.inside:
        return "not here"
    passwd = soak.root / "passwd"
    passwd.write_text(soak.others)
    soak.meanwhile(lambda: passwd.write_text(soak.others + OURS))
    _kill(soak.pid_of("user"))
    _kill(soak.pid_of("quiet"))
    if soak.random.random() < 0.5:
        _kill(soak.pids()["supervisor"])
    soak.command("restart", "quiet")
    return ""


def fill_disk(soak: Soak) -> str:
    """The disk of a log file is full for a while."""
    if not soak.inside:
        return "not here"
    soak.within("sh", "-c", "cat /dev/zero > small/ballast")
    soak.meanwhile(lambda: soak.within("rm", "-f", "small/ballast"))
    return some_commands(soak)


def freeze_disk(soak: Soak) -> str:
    """The disk of a log file stands still; everything else goes on, also when the supervisor is killed then."""
    if not soak.inside:
        return "not here"
    before = soak.pid_of("quiet")
    killed = soak.random.random() < 0.5
    soak.within("fsfreeze", "--freeze", "cold")
    soak.meanwhile(lambda: soak.within("fsfreeze", "--unfreeze", "cold"))
    if killed:
        _kill(soak.pids()["supervisor"])
    _kill(before)
    end = time.monotonic() + CALM
    while before and soak.pid_of("quiet") in {None, before}:
        if time.monotonic() > end:
            raise Violation("a program that was killed is not started again while another one's disk is frozen")
    return "supervisor killed" if killed else ""


def few_descriptors(soak: Soak) -> str:
    """One of the two has almost none left."""
    who = soak.random.choice(["shim", "supervisor"])
    pid = soak.pids()[who]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 2, before[1]))

    def restore() -> None:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    soak.meanwhile(restore)
    _kill(soak.pid_of("quiet"))
    soak.command("status")
    return who


def stop_all(soak: Soak) -> str:
    """Nothing is left afterwards; then it is started again."""
    result = soak.command("stop")
    left = soak.members()
    if result.code == 0 and left:
        raise Violation(f"stop has left {left}")
    soak.command("start")
    return ""


DEEDS = (
    Deed("commands", 30, some_commands),
    Deed("timers switched", 6, switch_timers),
    Deed("processes killed", 14, kill_slots),
    Deed("supervisor killed", 8, kill_supervisor),
    Deed("shim killed", 5, kill_shim),
    Deed("both killed", 5, kill_both),
    Deed("table lost", 6, lose_table),
    Deed("process frozen", 5, freeze_process),
    Deed("control socket removed", 3, remove_socket),
    Deed("edit", 8, edit),
    Deed("edit with mistakes", 3, edit_with_mistakes),
    Deed("other file", 6, other_file),
    Deed("user lost", 4, lose_user),
    Deed("disk full", 4, fill_disk),
    Deed("disk frozen", 3, freeze_disk),
    Deed("run_dir removed", 2, remove_run_dir),
    Deed("few descriptors", 4, few_descriptors),
    Deed("all stopped", 2, stop_all),
)
