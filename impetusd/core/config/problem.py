"""Problems of an INI file, as the operator reads them.

No dataclass, here and in `core.config.location`: that module and its imports take 10 ms, and each command imports this.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False  # typing takes 2 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Problem(namedtuple("Problem", ("file", "line", "text"))):  # noqa: PYI024 (typing)
    """One mistake."""

    __slots__ = ()
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class ConfigError(Exception):
    """The configuration has problems; `problems` holds every one of them, in the file's order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems

    def report(self) -> str:
        """Every problem, a line each, under a sentence that counts them."""
        from impetusd.core.units import counted

        return f"{counted(len(self.problems), 'problem')} in the configuration; nothing was changed:\n{self}"


def error_of(problems: Iterable[Problem], files: Sequence[str] = ()) -> ConfigError:
    """Each problem once, file by file in the order of `files`, by line, without what looks secret in them."""
    from impetusd.core import redact

    problems = (Problem(each.file, each.line, redact.text(each.text)) for each in problems)
    order = {file: number for number, file in enumerate(files)}
    return ConfigError(tuple(sorted(dict.fromkeys(problems), key=lambda each: (order.get(each.file, 0), each.line))))
