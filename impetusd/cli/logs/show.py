"""`impetusd logs`."""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import os
import queue
import re
import sys
import threading
import time
import typing

import click

from impetusd.cli.failure import Failure
from impetusd.cli.options import conf_option, here, names_argument, since_when
from impetusd.cli.screen import reader
from impetusd.core.protocol import EXIT_FAILED

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from impetusd.cli.logs.remote import Remote
    from impetusd.cli.logs.tail import Follower
    from impetusd.cli.place import Place
    from impetusd.core.config.location import Paths
    from impetusd.core.config.model import Group

_OWN = "impetusd"  # the name of the daemon's own log; no unit may have it
LINES = 15  # of each file, by default
_PALETTE, _RED = ("36", "32", "33", "34", "35", "96", "92", "93", "94", "95"), "31"
POLL = 0.2  # seconds between two looks at the files with -f
AGAIN = 2.0  # seconds until a daemon is looked for again with -f


class Source(typing.NamedTuple):
    """A log file: whose it is, which stream ("out", "error", "daemon"), and where."""

    name: str
    stream: str
    path: str


@click.command(short_help="Show log lines of programs.")
@names_argument()
@click.option("-f", "--follow", is_flag=True, help="Keep showing new lines until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), help="Number of lines per file. Default: 15, or all with --since."
)
@click.option(
    "--since", metavar="WHEN", help="Lines written since 10m, 2h or 1d ago, 2026-11-23, or '2026-11-23 10:00'."
)
@click.option("--grep", metavar="REGEX", help="Only lines matching REGEX.")
@click.option("--stderr", is_flag=True, help="Show only stderr.")
@conf_option
def command(
    *, names: tuple[str, ...], follow: bool, lines: int | None, since: str | None, grep: str | None, stderr: bool
) -> int:
    """Show the last log lines of all units, or of each NAME; the name `impetusd` stands for the daemon's own log.

    Files that you may not read are read through the daemon if you have the operator role. Lines with a timestamp (time
    = yes, log_format = json, the daemon's own log) are merged by time. Rotated files are included as needed
    for -n and --since. Works without a running daemon. Into a pipe, bytes are written unchanged; on a terminal, control
    characters other than colors are removed. Exits with 1 if a file could not be read.

    Example: impetusd logs -f --grep 'ERROR|WARN' web
    """
    wanted = _matcher(grep)
    when = since_when(since)
    at = here()
    files = [each for each in sources(at, names) if not stderr or each.stream == "error"]
    if not files:
        of = f" of {', '.join(names)}" if names else ""
        print(f"no log file{of} in {at.paths.log_dir} yet", file=sys.stderr)
        return 0
    fresh = _arrivals(at, names, stderr=stderr) if follow else None
    return 0 if show(at.paths, files, lines, fresh=fresh, since=when, wanted=wanted) else EXIT_FAILED


def _matcher(text: str | None) -> Callable[[bytes], object] | None:
    if text is None:
        return None
    try:
        return re.compile(os.fsencode(text)).search
    except re.error as error:
        raise click.BadParameter(f"{text!r} is not a regular expression: {error}", param_hint="--grep") from None


def sources(at: Place, names: Sequence[str]) -> list[Source]:
    """The log files of `names`, each once: from the daemon, or by looking into the log directory."""
    from impetusd.client import control

    control.require_rest(at.paths, alive=True)  # its own log is read without asking it: it may hang
    own = [Source(_OWN, "daemon", at.paths.log_file)] if _OWN in names else []
    names = [name for name in names if name != _OWN]
    if own and not names:
        return own
    try:
        answer = control.call(at.paths, "logs", {"names": list(names)})
    except control.NotRunning:
        found = _in_directory(at, names)
    else:
        files = [each for each in answer["files"] if each["path"].startswith("/")]  # not standard output
        found = [Source(each["name"], each["stream"], each["path"]) for each in files]
    seen: set[str] = set()
    return own + [each for each in found if not (each.path in seen or seen.add(each.path))]  # type: ignore[func-returns-value]


def _in_directory(at: Place, names: Sequence[str]) -> list[Source]:
    """Without a daemon: what is in the log directory, and the files that the configuration names, if it can be read."""
    from impetusd.cli.names import matches
    from impetusd.core.protocol import EXIT_UNKNOWN_NAME

    units, configured, groups = _configured(at)
    names = [each for name in names for each in (groups[name].members if name in groups else (name,))]
    try:
        files = sorted(each for each in os.listdir(at.paths.log_dir) if each.endswith(".log"))
    except FileNotFoundError:
        files = []
    except OSError as error:
        raise Failure(f"cannot read log_dir {at.paths.log_dir}: {error.strerror}") from None
    found = [_source(os.path.join(at.paths.log_dir, file), units) for file in files] + configured

    def meant(name: str) -> list[Source]:
        return [each for each in found if matches(name, each.name.partition(":")[0], each.name)]

    for name in names:
        if not meant(name) and not any(matches(name, unit, unit) for unit in units):
            raise Failure(
                f"no log of {name} in {at.paths.log_dir}; logs elsewhere can be found only while impetusd is running",
                EXIT_UNKNOWN_NAME,
            )
    return [each for each in found if not names or any(each in meant(name) for name in names)]


def _source(path: str, units: Collection[str]) -> Source:
    """The owner of the log `path`, by its name: `web-0-error.log` is the error stream of web:0, unless a unit is called
    web-0."""
    stem = os.path.basename(path).removesuffix(".log")
    if path.endswith("/impetusd.log"):
        return Source(_OWN, "daemon", path)
    base, _, stream = stem.rpartition("-")
    if not base or stream not in {"out", "error"}:
        return Source(stem, "out", path)
    slot = re.fullmatch(r"(.+?)-([0-9]+|template|standby(?:-[0-9]+)?)", base)
    if slot and base not in units:
        base = f"{slot[1]}:{slot[2].replace('-', ':')}"
    return Source(base, stream, path)


def _configured(at: Place) -> tuple[Collection[str], list[Source], Mapping[str, Group]]:
    """The units, the files that they name themselves (out_file, error_file), each slot's with its suffix, and the groups."""
    import glob

    from impetusd.cli import place

    try:
        config = place.load(at.conf)
    except Failure:
        return (), [], {}
    units = {**config.units, **{name: timer.unit for name, timer in config.timers.items()}}
    found = []
    for unit in units.values():
        for stream, given in (("out", unit.out_file), ("error", unit.error_file)):
            base, extension = os.path.splitext(given)
            given = given if given.startswith("/") else ""
            paths = [given, *glob.glob(f"{glob.escape(base)}-*{glob.escape(extension)}")] if given else []
            found += [Source(unit.name, stream, path) for path in paths if os.path.isfile(path)]
    return units, found, config.groups


def _arrivals(at: Place, names: Sequence[str], *, stderr: bool) -> queue.SimpleQueue[list[Source]]:
    """A queue of the log files to follow after the slots have changed, for as long as a daemon reports changes.

    A thread asks the daemon, so files are followed even while it hangs.
    """
    from impetusd.client import control, watching
    from impetusd.core import stream
    from impetusd.core.stream import Mirror

    fresh: queue.SimpleQueue[list[Source]] = queue.SimpleQueue()

    def ask() -> None:
        mirror, known = Mirror(), set[str]()
        while True:
            try:
                for _ in watching.changes(at.paths, mirror, usage=False):
                    slots = mirror.rows.get(stream.UNIT, {}).keys()
                    if slots - known:
                        fresh.put([each for each in sources(at, names) if not stderr or each.stream == "error"])
                    known = set(slots)
            except control.NotRunning:
                time.sleep(AGAIN)
            except (control.ControlError, Failure):
                return  # it is too old to report them, or this user may not ask

    threading.Thread(target=ask, daemon=True).start()
    return fresh


def show(
    paths: Paths,
    files: Sequence[Source],
    count: int | None,
    *,
    fresh: queue.SimpleQueue[list[Source]] | None = None,
    since: float | None = None,
    wanted: Callable[[bytes], object] | None = None,
) -> bool:
    """Print the last `count` lines of each file, or all since an instant; go on until interrupted if there may be `fresh` files.

    Lines that bear their time are put in its order; the others come file by file, and as they arrive. False if a file
    could not be read.
    """
    _allow_many_files()
    files, follow = list(files), fresh is not None
    prefixes = list(_prefixes(files))
    complained: set[str] = set()
    with contextlib.ExitStack() as opened:
        followers: list[Follower | Remote] = []
        batches: list[Iterable[bytes]] = []
        for source in files:
            follower = opened.enter_context(contextlib.closing(_follower(paths, source, count, since, wanted)))
            followers.append(follower)
            lines = follower.read() if follow else itertools.chain(follower.read(), follower.flush())
            if since is None or count is not None:
                batches.append(collections.deque(lines, count if since is not None else None))
                if not follow:
                    follower.close()  # 500 programs have more files than a process may hold open
            else:
                batches.append(lines)
        _print(prefixes, batches)
        _complain(followers, complained)
        while fresh is not None:
            sys.stdout.buffer.flush()
            reader.expect()
            anything = _print(prefixes, [follower.read() for follower in followers])
            _complain(followers, complained)
            if anything:
                continue
            with contextlib.suppress(queue.Empty):
                known = {each.path for each in files}
                new = [each for each in fresh.get(timeout=POLL) if each.path not in known]
                files += new
                followers += [
                    opened.enter_context(contextlib.closing(_follower(paths, each, None, None, wanted))) for each in new
                ]
                prefixes = list(_prefixes(files))
    return not complained


def _asked_for(paths: Paths, source: Source, count: int, wanted: Callable[[bytes], object] | None) -> Remote | None:
    """The daemon's lines of a file that cannot be read here; None if it gives none."""
    from impetusd.cli.logs.remote import Remote
    from impetusd.client.control import ControlError

    try:
        return Remote(paths, source.name, source.stream, count, wanted)
    except ControlError:
        return None


def _follower(
    paths: Paths, source: Source, count: int | None, since: float | None, wanted: Callable[[bytes], object] | None
) -> Follower | Remote:
    """`source`, from where to show it. One without timestamps cannot be cut at `since`: its last lines are shown."""
    from impetusd.cli.logs import history
    from impetusd.cli.logs.tail import Follower, open_log

    last = LINES if count is None else count
    if since is None:
        follower = Follower(source.path, last, wanted=wanted)
        return _asked_for(paths, source, last, wanted) or follower if follower.error else follower
    try:
        with open_log(source.path) as file:
            changed, timed = os.fstat(file.fileno()).st_mtime, history.bears_times(source.path, file)
    except OSError:
        changed, timed = since, True
    if timed:
        return Follower(source.path, since=since, wanted=wanted)
    if changed < since:
        return Follower(source.path, 0, wanted=wanted)
    lines = "line" if last == 1 else f"{last} lines"
    print(
        f"impetusd: {source.path} has no timestamps (set time = yes to add them); showing its last {lines}",
        file=sys.stderr,
    )
    return Follower(source.path, last, wanted=wanted)


def _print(prefixes: Sequence[bytes], batches: Sequence[Iterable[bytes]]) -> bool:
    """Print each source's lines behind its prefix. Whether there were any."""
    from impetusd.cli.screen.terminal import screen_of

    screen = screen_of(sys.stdout, os.environ)
    anything = False
    if len(batches) == 1:
        merged: Iterable[tuple[float, bytes, bytes]] = _timed(prefixes[0], batches[0])
    else:
        sources = itertools.starmap(_timed, zip(prefixes, batches, strict=True))
        merged = heapq.merge(*sources, key=lambda each: each[0])
    for _, prefix, line in merged:
        anything = True
        sys.stdout.buffer.write(prefix + _shown(line, terminal=screen.width is not None, colour=screen.colour))
    return anything


def _timed(prefix: bytes, lines: Iterable[bytes]) -> Iterator[tuple[float, bytes, bytes]]:
    """Each line with its time: its own, else that of the one before it; what begins without one comes first."""
    from impetusd.files.rotated import time_of

    at = float("-inf")
    for line in lines:
        own = time_of(line)
        at = at if own is None else own
        yield at, prefix, line


def _prefixes(files: Sequence[Source]) -> Iterator[bytes]:
    """The prefix of each file's lines: none if there is only one file. On a terminal each name has its colour."""
    from impetusd.cli.screen.terminal import screen_of

    screen = screen_of(sys.stdout, os.environ)
    width = max(len(each.name) for each in files)
    colours = {
        name: _PALETTE[number % len(_PALETTE)] for number, name in enumerate(dict.fromkeys(f.name for f in files))
    }
    for each in files:
        head = f"{each.name:<{width}} | "
        if screen.colour:
            head = f"\x1b[{_RED if each.stream == 'error' else colours[each.name]}m{head}\x1b[0m"
        yield head.encode(errors="backslashreplace") if len(files) > 1 else b""


def _complain(followers: Sequence[Follower | Remote], complained: set[str]) -> None:
    """Report each file that cannot be read, once."""
    errors = {follower.error for follower in followers}.union(*(follower.unreadable for follower in followers))
    for error in sorted(errors - complained - {""}):
        complained.add(error)
        print(f"impetusd: {error}", file=sys.stderr)


def _allow_many_files() -> None:
    """Following holds every file open: take what the hard limit gives."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _shown(line: bytes, *, terminal: bool, colour: bool) -> bytes:
    """The line as it goes out: untouched into a pipe, without anything that a terminal would obey on a terminal."""
    if terminal:
        from impetusd.cli.screen.terminal import coloured, plain

        text = line.decode(errors="replace")
        encoding = sys.stdout.encoding or "ascii"
        line = (coloured(text) if colour else plain(text)).encode(encoding, "backslashreplace")
    return line + b"\n"
