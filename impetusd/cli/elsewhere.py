"""`impetusd -H HOST,... COMMAND`: a command on other hosts, by OpenSSH, as if it were typed there.

It is run by that host's own impetusd, on that host's INI file, as ssh's user: roles and the ledger hold as for anybody who
has logged in there, and the versions need not be the same. What ssh's configuration says of a host (user, port, jump host,
ControlMaster) applies. One host gets this terminal; several are asked at once, and only for what changes nothing.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import typing
from concurrent.futures import ThreadPoolExecutor

from impetusd.cli.failure import Failure
from impetusd.cli.screen import table
from impetusd.cli.screen.terminal import plain, screen_of
from impetusd.core.protocol import all_as_wanted

if typing.TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from impetusd.cli.screen.terminal import Screen

LOOKS = frozenset(
    ["check", "describe", "doctor", "env", "events", "health", "logs", "plan", "status", "timers", "version", "why"]
)
FOLLOWS = frozenset({"-f", "--follow", "--watch"})
AT_ONCE = 16  # connections
UNATTENDED = ("-T", "-oBatchMode=yes")  # for `ssh`: no terminal, and no question that nobody would answer
UNREACHABLE = 255  # ssh's own exit code
VARIABLE = "IMPETUSD_SSH"  # the words to use for `ssh`, as in RSYNC_RSH


def hosts_of(text: str) -> list[str]:
    """The hosts in `a,user@b`. Raises Failure."""
    hosts = text.split(",")
    for host in hosts:
        if not host or host.startswith("-") or not host.isprintable() or any(each.isspace() for each in host):
            raise Failure(
                f"-H {text}: {host!r} is not a valid ssh host; write HOST or USER@HOST, separated by commas", 2
            )
    twice = sorted({host for host in hosts if hosts.count(host) > 1})
    if twice:
        raise Failure(f"-H {text}: {twice[0]} is listed twice", 2)
    return hosts


def run(text: str, args: Sequence[str]) -> int:
    """Run `impetusd ARGS` on the hosts that `text` names; returns the exit code. Does not return for one host."""
    hosts = hosts_of(text)
    if len(hosts) == 1:
        _become(hosts[0], args)
    name = _command(args)
    if name not in LOOKS:
        raise Failure(
            f"-H {text}: {name or 'a command'} works on one host at a time; several hosts are allowed for read-only"
            f" commands ({', '.join(sorted(LOOKS))}), and `impetusd rollout` reloads host by host",
            2,
        )
    if FOLLOWS & set(args):
        return _follow(hosts, args)
    if name == "status":
        return _status(hosts, args)
    code = 0
    for host, ended in zip(hosts, on_each(hosts, args), strict=True):
        for stream, lines in ((sys.stdout, ended.stdout), (sys.stderr, ended.stderr)):
            stream.writelines(f"{host}: {plain(line)}\n" for line in lines.splitlines())
            stream.flush()
        code = max(code, _own(ended.returncode))
    return code


def argv(host: str, args: Sequence[str], *options: str) -> list[str]:
    """What runs `impetusd ARGS` on `host`. Raises Failure if there is no ssh."""
    words = shlex.split(os.environ.get(VARIABLE, "")) or ["ssh"]
    if shutil.which(words[0]) is None:
        raise Failure(f"-H needs {words[0]}, which is not installed; install the OpenSSH client")
    return [*words, *options, "--", host, shlex.join(["impetusd", *args])]


def on_each(hosts: Sequence[str], args: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
    """How `impetusd ARGS` ended on each of `hosts`, in their order. Nothing asks for a password. Raises Failure."""
    import subprocess

    def on(host: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv(host, args, *UNATTENDED),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(on, hosts))


def _become(host: str, args: Sequence[str]) -> typing.NoReturn:
    """Be ssh from here on, on this terminal: with keys, size and Ctrl-C, if there is one."""
    import signal

    on_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    command = argv(host, args, "-t" if on_terminal else "-T", *(("-oLogLevel=ERROR",) if on_terminal else ()))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and ssh would inherit that
    os.execvp(command[0], command)  # noqa: S606  # no shell is wanted here; ssh's far side has one, and is quoted for it


def _follow(hosts: Sequence[str], args: Sequence[str]) -> int:
    """Each line as it comes, behind the name of its host, until all have ended."""
    import subprocess

    running = [
        subprocess.Popen(
            argv(host, args, *UNATTENDED),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        for host in hosts
    ]

    def pass_on(host: str, process: subprocess.Popen[str]) -> int:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{host}: {plain(line.rstrip())}", flush=True)
        return process.wait()

    with ThreadPoolExecutor(len(hosts)) as threads:
        try:
            return max(map(_own, threads.map(pass_on, hosts, running)))
        finally:
            for process in running:
                process.terminate()


def _status(hosts: Sequence[str], args: Sequence[str]) -> int:
    """One table of all hosts; a name is HOST/NAME. Exits as `status` does: 1 if anything is not as wanted anywhere."""
    as_json = "--json" in args
    ended = on_each(hosts, [*args, *([] if as_json else ["--json"])])
    found: dict[str, typing.Any] = {}
    for host, each in zip(hosts, ended, strict=True):
        try:
            found[host] = json.loads(each.stdout)
        except ValueError:
            found[host] = {
                "error": each.stderr.strip() or f"ssh exited with {each.returncode}",
                "exit": _own(each.returncode),
            }
    code = max(_own(each.returncode) for each in ended)
    screen = screen_of(sys.stdout, os.environ)
    if as_json:
        print(json.dumps(found, indent=2 if screen.width is not None else None))
    else:
        print("\n".join(merged(found, screen)))
    return code


def merged(found: typing.Mapping[str, typing.Any], screen: Screen) -> list[str]:
    """The lines of one table: of each host what `status --json` printed there, or {"error"}."""
    rows = {host: [_as_row(host, row) for row in answer.get("units", ())] for host, answer in found.items()}
    every = [row for each in rows.values() for row in each]
    lines = table.table(every, screen) if every else []
    silent = {host: answer["error"] for host, answer in found.items() if "error" in answer}
    wrong = {host: each for host, each in rows.items() if not all_as_wanted(each)}
    for host, each in wrong.items():
        lines += table.below(each, screen, f"impetusd -H {host}")
    if silent or wrong:
        lines += [
            "",
            *(
                screen.paint(f"{host}: {plain(line)}", "red")
                for host, text in silent.items()
                for line in text.splitlines()
            ),
        ]
    elif every:
        lines += ["", screen.paint(f"{table.all_well(every)}, on {len(found)} hosts", "dim")]
    return lines


def _as_row(host: str, row: dict[str, typing.Any]) -> dict[str, typing.Any]:
    reason = row.get("reason")
    return {**row, "name": f"{host}/{row['name']}", "reason": reason["text"] if isinstance(reason, dict) else reason}


def _command(args: Sequence[str]) -> str:
    """The name of the command in `args`, as it is called here; "" if there is none."""
    from impetusd.cli.app import WORDS

    rest = iter(args)
    for word in rest:
        if word in {"-c", "--conf"}:
            next(rest, None)
        elif not word.startswith("-"):
            return WORDS.get(word, word).split()[0]
    return ""


def _own(code: int) -> int:
    return 1 if code == UNREACHABLE or code < 0 else code
