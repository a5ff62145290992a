"""Match lines against regular expressions in time linear in the line's length.

`re` backtracks: `(a+)+$` on forty `a` takes it half a minute, with the interpreter's lock held throughout. Here the
expression, as `re` parses it, becomes an automaton whose states are made when they are first reached, and each byte is
one step. What no automaton can do is refused: backreferences, lookaround, and what forbids backtracking.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Final

MOST_STEPS = 500  # of an expression, its repetitions written out; a state not met before takes 0.1 µs for each
MOST_STATES = 500  # kept at once; a state and its steps take some 2 KB
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_NEWLINE = 10
_AT = {
    "AT_BEGINNING": "begin",
    "AT_BEGINNING_STRING": "begin",
    "AT_END": "end",
    "AT_END_STRING": "end",
    "AT_BOUNDARY": "boundary",
    "AT_NON_BOUNDARY": "no boundary",
}
_REFUSED = {
    **dict.fromkeys(("ASSERT", "ASSERT_NOT", "FAILURE"), "lookahead or lookbehind, like (?=…), (?!…) or (?<=…)"),
    **dict.fromkeys(("GROUPREF", "GROUPREF_EXISTS"), "a reference to a group, like \\1 or (?(1)…)"),
    **dict.fromkeys(
        ("ATOMIC_GROUP", "POSSESSIVE_REPEAT"), "an atomic group or possessive repetition, like (?>…) or a++"
    ),
}


class State(dict[int, "State"]):
    """The state of a search. Its items are the steps taken from here so far, by byte class."""

    __slots__ = ("after", "at", "pattern")

    def __init__(self, pattern: LinePattern | None, at: frozenset[int], after: str) -> None:
        """`at`: steps of the program; `after`: "begin" of a line, a "word" character or an "other" one."""
        self.pattern = pattern
        self.at = at
        self.after = after

    def __missing__(self, kind: int) -> State:
        if self.pattern is None:
            return self
        to = self[kind] = self.pattern._step(self, kind)  # noqa: SLF001  # one machine in two classes
        return to


FOUND: Final = State(None, frozenset(), "")  # it stays found, whatever comes


class LinePattern:
    """A regular expression over the bytes of lines, to be used by one thread."""

    def __init__(self, pattern: bytes, *, lenient: bool = False) -> None:
        """Raises re.error, OverflowError, RecursionError where `re` does, and ValueError for what is refused.

        `lenient`: nothing is refused, and more may match: lookaround is taken to hold, a reference to a group to be any
        text, and what may be repeated to be so any number of times.
        """
        self._lenient = lenient
        self._program: list[tuple[str, Any]] = []  # ("set", bytes), ("at", where), ("jump", places) or ("found", None)
        self._sets: dict[Any, frozenset[int]] = {}
        self._parser = importlib.import_module("re._parser")
        self._compiler = importlib.import_module("re._compiler")
        with warnings.catch_warnings():  # of what a later version of Python may read in another way
            warnings.simplefilter("ignore")
            parsed = self._parser.parse(pattern)
        self._add_all(parsed, parsed.state.flags)
        self._add("found", None)
        self._states: dict[tuple[frozenset[int], str], State] = {}
        self._classify()
        self.begin = State(self, frozenset(), "begin")

    def feed(self, state: State, data: bytes) -> State:
        """The state after `data`, some bytes of lines: FOUND once a line has matched, at the latest at its end."""
        for kind in data.translate(self._kinds):
            state = state[kind]
        return state

    # Making the program.

    def _add(self, op: str, what: Any) -> int:
        if len(self._program) >= MOST_STEPS and not self._lenient:
            raise ValueError(f"it expands to more than {MOST_STEPS} steps")
        self._program.append((op, what))
        return len(self._program) - 1

    def _add_all(self, nodes: Iterable[tuple[Any, Any]], flags: int) -> None:
        for op, value in nodes:
            name = str(op)
            if name in _REFUSED and not self._lenient:
                raise ValueError(f"{_REFUSED[name]}, could take unlimited time")
            match name:
                case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY":
                    self._add("set", self._set(op, value, flags))
                case "AT":
                    self._add("at", _AT[str(value)])
                case "SUBPATTERN":
                    _, add, remove, inner = value
                    self._add_all(inner, (flags | add) & ~remove)
                case "BRANCH":
                    self._add_branches(value[1], flags)
                case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                    least, most, inner = value
                    self._add_repeat(least, most, inner, flags)
                case "ATOMIC_GROUP":
                    self._add_all(value, flags)
                case "GROUPREF":
                    self._add_repeat(0, self._parser.MAXREPEAT, [(self._parser.ANY, None)], flags)
                case "GROUPREF_EXISTS":
                    self._add_branches([value[1], value[2] or []], flags)
                case "ASSERT" | "ASSERT_NOT" | "FAILURE":
                    pass
                case _:
                    raise ValueError(f"{name.lower()} is not supported")

    def _add_branches(self, branches: Sequence[Any], flags: int) -> None:
        fork = self._add("jump", ())
        starts, ends = [], []
        for branch in branches:
            starts.append(len(self._program))
            self._add_all(branch, flags)
            ends.append(self._add("jump", ()))
        self._program[fork] = ("jump", tuple(starts))
        for end in ends:
            self._program[end] = ("jump", (len(self._program),))

    def _add_repeat(self, least: int, most: int, nodes: Any, flags: int) -> None:
        if self._lenient and most > 1:
            least, most = min(least, 1), self._parser.MAXREPEAT
        for _ in range(least):
            before = len(self._program)
            self._add_all(nodes, flags)
            if len(self._program) == before:  # however often, it is nothing
                return
        if most == self._parser.MAXREPEAT:
            fork = self._add("jump", ())
            self._add_all(nodes, flags)
            self._add("jump", (fork,))
            self._program[fork] = ("jump", (fork + 1, len(self._program)))
            return
        forks = []
        for _ in range(most - least):
            forks.append(self._add("jump", ()))
            self._add_all(nodes, flags)
        for fork in forks:
            self._program[fork] = ("jump", (fork + 1, len(self._program)))

    def _set(self, op: Any, value: Any, flags: int) -> frozenset[int]:
        """The bytes that a node for one of them takes, but for the newline: `re` itself is asked."""
        key = (op, repr(value), flags)
        if key not in self._sets:
            state = self._parser.State()
            state.flags = flags
            one: re.Pattern[bytes] = self._compiler.compile(self._parser.SubPattern(state, [(op, value)]), flags)
            self._sets[key] = frozenset(byte for byte in range(256) if byte != _NEWLINE and one.match(bytes((byte,))))
        return self._sets[key]

    def _classify(self) -> None:
        """Group bytes that no set distinguishes into classes. A newline, which ends a line, has its own class."""
        sets = [_WORD, *set(self._sets.values())]
        classes: dict[object, int] = {}
        kinds = [
            classes.setdefault("end" if byte == _NEWLINE else tuple(byte in each for each in sets), len(classes))
            for byte in range(256)
        ]
        self._kinds = bytes(kinds)
        self._end = kinds[_NEWLINE]
        self._byte_of = {kind: byte for byte, kind in enumerate(kinds)}

    # Running it.

    def _step(self, state: State, kind: int) -> State:
        """The next state after a byte of this class."""
        byte = self._byte_of[kind]
        to = set()
        seen, todo = {0, *state.at}, [0, *state.at]  # a match may begin anywhere: 0 is tried at each byte
        while todo:
            here = todo.pop()
            op, what = self._program[here]
            following: Sequence[int] = ()
            if op == "found":
                return FOUND
            if op == "set":
                if byte in what:
                    to.add(here + 1)
            elif op == "jump":
                following = what
            elif self._holds(what, state.after, byte):
                following = (here + 1,)
            for each in following:
                if each not in seen:
                    seen.add(each)
                    todo.append(each)
        if kind == self._end:
            return self.begin
        return self._state(frozenset(to), "word" if byte in _WORD else "other")

    @staticmethod
    def _holds(where: str, after: str, byte: int) -> bool:
        if where in {"begin", "end"}:
            return after == "begin" if where == "begin" else byte == _NEWLINE
        return ((after == "word") != (byte in _WORD)) == (where == "boundary")

    def _state(self, at: frozenset[int], after: str) -> State:
        known = self._states.get((at, after))
        if known is None:
            if len(self._states) >= MOST_STATES:
                for each in self._states.values():
                    each.clear()
                self._states.clear()
                self.begin.clear()
            known = self._states[at, after] = State(self, at, after)
        return known
