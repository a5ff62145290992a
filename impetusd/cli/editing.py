"""Shared code of `add` and `remove`: a change of the INI file is checked, written, applied, and reverted on failure."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, replace

from impetusd.cli import outcome, place, plan
from impetusd.cli.failure import Failure
from impetusd.cli.screen.progress import Live
from impetusd.client import control, reaper
from impetusd.client.control import ControlError
from impetusd.core.config import ini, parser
from impetusd.core.config.include import Source
from impetusd.core.config.problem import ConfigError
from impetusd.core.protocol import EXIT_USAGE
from impetusd.files import rewrite, vetted
from impetusd.linux.host import this_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

    from impetusd.cli.place import Place
    from impetusd.core.config.ini import Section
    from impetusd.core.config.model import Config
    from impetusd.core.config.problem import Problem


class Made(Failure):
    """Another command has made the file meanwhile, and nothing was changed."""


@dataclass
class Editing:
    """The INI file, or one that it includes, while this command alone changes it; and what it meant before."""

    file: rewrite.Rewriting
    at: Place | None  # None: there is no INI file yet
    source: Source
    config: Config
    running: bool

    @property
    def text(self) -> str:
        """The content of the file, including its byte order mark, if any."""
        return (self.file.data or b"").decode("utf-8")

    @property
    def sections(self) -> list[Section]:
        """The sections of all files."""
        return [section for path, text in self.source.texts for section in ini.parse(text, path)[0]]

    def checked(self, text: str) -> tuple[Config, Source]:
        """The configuration with this text in the file. Raises ConfigError."""
        plain = text.removeprefix("\ufeff")
        if self.file.path == os.path.realpath(self.source.path):
            source = replace(self.source, text=plain)
        else:
            included = tuple(
                (path, plain if os.path.realpath(path) == self.file.path else old) for path, old in self.source.included
            )
            source = replace(self.source, included=included)
        return parser.parse_all(source, os.environ, this_host(), profile=self.config.profile), source


@contextlib.contextmanager
def editing(conf: str, given: str | None, path: str = "") -> Iterator[Editing]:
    """`conf`: the INI file, which need not exist; `path`: the file to change, if it is one that it includes.

    Failure if the configuration has mistakes, or changes of others that are not in force: they would be applied, too.
    """
    try:
        with Live("waiting for another add or remove to finish") as live, contextlib.ExitStack() as stack:
            file = stack.enter_context(rewrite.Rewriting(path or conf, vetted.MOST_BYTES, live.hooks.tick))
            kept = stack.pop_all()
    except rewrite.Busy:
        raise Failure(f"another command has been changing {path or conf} for {rewrite.PATIENCE:.0f} s") from None
    except OSError as error:
        raise Failure(f"cannot read {path or conf}: {error.strerror}", EXIT_USAGE) from None
    with kept:
        if file.data is None:
            source = Source(conf, "")
            yield Editing(file, None, source, parser.parse_all(source, os.environ, this_host()), running=False)
            return
        source, profile = place.source_of(conf, os.environ, None)
        try:
            config = parser.parse_all(source, os.environ, this_host(), profile=profile)
        except ConfigError as error:
            raise Failure(error.report(), EXIT_USAGE) from None
        read = {os.path.realpath(each): text for each, text in source.texts}
        if read.get(file.path) != file.data.decode("utf-8-sig"):
            raise Failure(f"{file.path} was just changed by somebody else; try again")
        at = place.find(given)
        yield Editing(file, at, source, config, running=_runs(at))


def _runs(at: Place) -> bool:
    """Whether a daemon runs, with all of the file in force. Raises Failure if not all is, or if a daemon was killed."""
    changes = _pending(at)
    if changes:
        raise Failure(
            f"{at.conf} has changes that are not applied yet and would be applied as well: {_named(changes)};"
            f" nothing was changed. See {at.command} plan, then: {at.command} apply"
        )
    if changes is None and (left := reaper.left_behind(at.paths)).members:
        raise Failure(f"impetusd was killed, and {outcome.live_on(at, left)}; nothing was changed")
    return changes is not None


def _pending(at: Place) -> list[Mapping[str, Any]] | None:
    """The changes that apply would make; None if no daemon runs. Raises ControlError."""
    try:
        changes: list[Mapping[str, Any]] = control.call(at.paths, "plan", {})["changes"]
    except control.NotRunning:
        return None
    return changes


def _named(changes: Collection[Mapping[str, Any]]) -> str:
    return ", ".join(f"{each['kind']}:{each['name']}" if each["name"] else each["kind"] for each in changes)


def write(
    edit: Editing,
    text: str,
    given: str | None,
    names: Collection[str],
    *,
    mode: int = 0o644,
    start: Callable[[Place], int] = lambda _: 0,
) -> tuple[Place, int]:
    """Write the text, which was validated, and apply it, or `start` if no daemon runs. Returns the instance and the
    exit code.

    If it cannot be applied, it is reverted. `names`: the units, timers and checks that it changes; `mode`: of a new
    file.
    """
    before = edit.file.data
    try:
        edit.file.replace(text.encode("utf-8"), mode)
    except FileExistsError:
        raise Made(f"{edit.file.path} was just created by another command; try again") from None
    except OSError as error:
        raise Failure(f"cannot write {edit.file.path}: {error.strerror}") from None
    try:
        at = place.find(given)
        if not edit.running:
            return at, start(at)
        others = [each for each in _pending(at) or () if each["name"] not in names]
        if others:
            raise Failure(f"somebody else has just changed {at.conf}: {_named(others)}; see {at.command} plan")
        return at, outcome.change(at, "applying", "apply", {}, plan.NOTHING)
    except (ControlError, Failure) as error:
        if _is_in_force(given) or not edit.file.is_still(text.encode("utf-8")):
            raise
        try:
            _restore(edit, before)
        except OSError as fault:
            raise Failure(f"{error}; {edit.file.path} could not be restored: {fault.strerror}") from None
        what = "was not written" if before is None else "was restored"
        raise Failure(f"{error}; {edit.file.path} {what}", error.exit) from None


def _is_in_force(given: str | None) -> bool:
    try:
        return _pending(place.find(given)) == []
    except (ControlError, Failure):
        return False


def _restore(edit: Editing, before: bytes | None) -> None:
    if before is None:
        edit.file.remove()
    else:
        edit.file.replace(before)


def mistakes(problems: Collection[Problem], lines: Callable[[Problem], int], what: str) -> Failure:
    """The errors in the result, without the numbers of lines that are in no file: those for which `lines` gives 0."""
    told = [
        f"{each.file}:{line}: {each.text}" if (line := lines(each)) else each.text
        for each in problems
    ]  # fmt: skip
    print("\n".join(dict.fromkeys(told)), file=sys.stderr)
    return Failure(f"{what}; nothing was changed", EXIT_USAGE)
