"""`impetusd logs`."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
import time
import typing

import click

from impetusd.cli.options import conf_option, here, names_argument

if typing.TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from impetusd.cli.place import Place
    from impetusd.cli.tail import Follower

_OWN = "impetusd"  # the name of the daemon's own log; no unit may have it
POLL = 0.2  # seconds between two looks at the files with -f


class Source(typing.NamedTuple):
    """A log file: whose it is, which stream ("out", "error", "daemon"), and where."""

    name: str
    stream: str
    path: str


@click.command(short_help="Show what programs wrote.")
@names_argument()
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is added; Ctrl-C ends it.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=15, show_default=True, help="How many lines of each file."
)
@conf_option
def command(names: tuple[str, ...], follow: bool, lines: int) -> int:
    """Show the last lines that everything, or each NAME, wrote; `impetusd` is the daemon's own log.

    Works also when no daemon runs. Through a pipe the bytes are shown as they were written; on a terminal control
    characters other than colours are left out.

    Example: impetusd logs -f web
    """
    at = here()
    files = sources(at, names)
    if not files:
        of = f" of {', '.join(names)}" if names else ""
        print(f"there is no log file{of} in {at.paths.log_dir} yet", file=sys.stderr)
        return 0
    show(files, lines, follow=follow)
    return 0


def sources(at: Place, names: Sequence[str]) -> list[Source]:
    """The log files of `names`, each once: from the daemon, or by looking into the log directory."""
    from impetusd import control

    own = [Source(_OWN, "daemon", at.paths.log_file)] if _OWN in names else []
    names = [name for name in names if name != _OWN]
    if own and not names:
        return own
    try:
        answer = control.call(at.paths, "logs", {"names": list(names)})
    except control.NotRunning:
        found = _in_directory(at, names)
    else:
        found = [Source(each["name"], each["stream"], each["path"]) for each in answer["files"]]
    seen: set[str] = set()
    return own + [each for each in found if not (each.path in seen or seen.add(each.path))]  # type: ignore[func-returns-value]


def _in_directory(at: Place, names: Sequence[str]) -> list[Source]:
    """Without a daemon: what is in the log directory, and the files that the configuration names, if it can be read."""
    from impetusd.cli.failure import Failure
    from impetusd.cli.names import matches
    from impetusd.core.protocol import EXIT_UNKNOWN_NAME

    units, configured = _configured(at)
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
                f"there is no log of {name} in {at.paths.log_dir}, and impetusd is not running to be asked for others",
                EXIT_UNKNOWN_NAME,
            )
    return [each for each in found if not names or any(each in meant(name) for name in names)]


def _source(path: str, units: Collection[str]) -> Source:
    """Whose log `path` is by its name: `web-0-error.log` is the error stream of web:0, unless a unit is called web-0."""
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


def _configured(at: Place) -> tuple[Collection[str], list[Source]]:
    """The units, and the files that they name themselves (out_file, error_file), each slot's with its suffix."""
    import glob

    from impetusd.cli import place
    from impetusd.cli.failure import Failure

    try:
        units = place.load(at.conf).units
    except Failure:
        return (), []
    found = []
    for unit in units.values():
        for stream, given in (("out", unit.out_file), ("error", unit.error_file)):
            base, extension = os.path.splitext(given)
            paths = [given, *glob.glob(f"{glob.escape(base)}-*{glob.escape(extension)}")] if given else []
            found += [Source(unit.name, stream, path) for path in paths if os.path.isfile(path)]
    return units, found


def show(files: Sequence[Source], count: int, *, follow: bool) -> None:
    """Print the last `count` lines of each file; with `follow` go on until interrupted."""
    from impetusd.cli.tail import Follower

    with contextlib.ExitStack() as opened:
        followed = []
        if follow:
            _allow_many_files()
        for prefix, source in zip(_prefixes(files), files, strict=True):
            follower = opened.enter_context(contextlib.closing(Follower(source.path, count)))
            if follow:
                followed.append((prefix, follower))
            else:  # one at a time: 500 programs have more files than a process may hold open
                _print_new(prefix, follower, at_end=True)
                _complain([follower], set())
                opened.close()
        complained: set[str] = set()
        while followed:
            anything = [_print_new(prefix, follower, at_end=False) for prefix, follower in followed]
            sys.stdout.buffer.flush()
            _complain([follower for _, follower in followed], complained)
            if not any(anything):
                time.sleep(POLL)


def _prefixes(files: Sequence[Source]) -> Iterator[bytes]:
    """What stands before each line of each file: nothing if there is but one."""
    from impetusd.cli.terminal import screen_of

    screen = screen_of(sys.stdout, os.environ)
    width = max(len(each.name) for each in files)
    for each in files:
        head = screen.paint(f"{each.name:<{width}} | ", "red" if each.stream == "error" else "dim")
        yield head.encode(errors="backslashreplace") if len(files) > 1 else b""


def _print_new(prefix: bytes, follower: Follower, *, at_end: bool) -> bool:
    """Print what came since the last look; `at_end`: an unfinished line, too. Whether there was anything."""
    from impetusd.cli.terminal import screen_of

    screen = screen_of(sys.stdout, os.environ)
    anything = False
    for line in itertools.chain(follower.read(), follower.flush() if at_end else ()):
        anything = True
        sys.stdout.buffer.write(prefix + _shown(line, terminal=screen.width is not None, colour=screen.colour))
    return anything


def _complain(followers: Sequence[Follower], complained: set[str]) -> None:
    """Tell once of each file that cannot be read."""
    for error in {follower.error for follower in followers} - complained - {""}:
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
        from impetusd.cli.terminal import coloured, plain

        text = line.decode(errors="replace")
        encoding = sys.stdout.encoding or "ascii"
        line = (coloured(text) if colour else plain(text)).encode(encoding, "backslashreplace")
    return line + b"\n"
