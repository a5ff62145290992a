"""Each callback, task and thread of the supervisor is contained: found in the syntax trees, so that none is forgotten.

Whatever raises in one that is not ends the supervisor with exit code 70, and twice within a minute has everything be held.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [
    *(ROOT / "impetusd" / "supervisor").rglob("*.py"),
    *(ROOT / "impetusd" / "linux" / f"{name}.py" for name in ("watch", "alarm")),
]
# What has something called later, and which of its arguments, or which keyword, that is.
SCHEDULING: dict[str, int | str] = {
    "call_soon": 0,
    "call_soon_threadsafe": 0,
    "call_later": 1,
    "call_at": 1,
    "add_reader": 1,
    "add_writer": 1,
    "add_signal_handler": 1,
    "add_done_callback": 0,
    "create_task": 0,
    "ensure_future": 0,
    "Thread": "target",
}
CONTAINING = {"contain", "_contain", "attempt", "attend", "attended", "hear"}  # see `supervisor.faults`
OUTERMOST = {"Exception", "BaseException"}

# The others, with the reason why nothing has to contain them.
NAMED = {
    "faults.py: act": "of `later`: what it is given is contained",
    "control.py: self._serve(connection, peer)": "contains what raises for its connection",
    "control.py: follow(writer)": "its outcome is taken by `_flow`",
    "control.py: reader.read(1)": "the same",
    "feed.py: self._fill()": "its outcome is taken by `_has_filled` and by who waits for it",
    "ledger.py: self._run": "tries each batch again until it is written, and else only waits for the next",
    "faults.py: self._heard": "it is what contains a reader",
    "threads.py: settle": "sets a future that is not done",
    "prober.py: settle": "sets a future that is not done",
    "prober.py: self._run_job(unit)": "its outcome is taken by who waits for it, or by `_ended`",
    "prober.py: lambda ended: self._ended(check.name, ended)": "takes that outcome",
    "lookups.py: self._ask(question, unit)": "its outcome is taken by the starts that wait for it",
    "lookups.py: lambda done: done.cancelled() or done.exception()": "takes that outcome",
    "starts.py: self._looking_up.discard": "of a set",
    "checks.py: self._tasks.discard": "of a set",
    "memory.py: self._look()": "its outcome is taken by `_ended`",
    "link.py: self._beat": "writing to the shim: what fails there ends the supervisor, its successor begins with what the shim knows",
    "link.py: self._writable": "the same",
    "ending.py: self._stop()": "the end of everything: the next supervisor begins it anew",
    "ending.py: self._has_stopped": "says so",
    "lifeline.py: self._hold": "holds descriptors until the process ends",
    "custody.py: write": "of a process that is about to become another",
    "watch.py: readable": "reads, and calls what it was given: `watch` is one of those that are looked at",
    "alarm.py: self._readable": "the same of `Alarm`",
    "alarm.py: self._ring": "what it was given",
    "rotation.py: _work": "gives up each file that raises",
    "daemon.py: contained": "made of `_contain` one line above",
}
# What is done once, and not again should it raise, with the reason why nothing is lost for ever over that.
ONCE = {
    "control.py: 'sending progress'": "the progress of one command, whose answer comes all the same",
    "daemon.py: 'counting repeated lines'": "one line of the log",
    "daemon.py: 'applying'": "one SIGHUP, as one command",
    "daemon.py: 'reopening them'": "one SIGUSR2",
    "ruleset.py: found": "a start that is not heard to be ready fails at its deadline",
    "feed.py: 'dropping unwatched samples'": "memory, and a later one who watches has it forgotten",
    "filewatch.py: 'watching them'": "the units of then, which others may have taken the place of",
    "filewatch.py: 'handling changed files'": "one change of a file",
    "logfiles.py: 'answering'": "sets a future that is not done",
    "tails.py: 'storing its last lines'": "lines that are waited for until a deadline",
}
# Those that are given such callbacks as well.
GIVEN = {"watch": 2, "alarm": 0, "_make_alarm": 0}


def name_of(node: ast.expr) -> str:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def sites(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Each call that schedules something, and what that is; `functools.partial` of one is one, too."""
    where = SCHEDULING | GIVEN
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, arguments = name_of(node.func), node.args
        if name == "partial" and arguments and name_of(arguments[0]) in SCHEDULING:
            name, arguments = name_of(arguments[0]), arguments[1:]
        at = where.get(name)
        if isinstance(at, str):
            yield from ((node, each.value) for each in node.keywords if each.arg == at)
        elif at is not None and len(arguments) > at:
            yield node, arguments[at]


class Module:
    """One file, and the functions in it by name."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.functions = {
            node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }

    def uncontained(self) -> list[str]:
        """What is scheduled and not contained, as the source has it."""
        return [ast.unparse(given) for _, given in sites(self.tree) if not self.is_contained(given)]

    def is_contained(self, given: ast.expr) -> bool:
        if isinstance(given, ast.Call):
            if name_of(given.func) == "partial":
                return self.is_contained(given.args[0])
            if name_of(given.func) in CONTAINING:
                return True
            return self._contains(given.func)
        if isinstance(given, ast.Lambda):
            return isinstance(given.body, ast.Call) and self.is_contained(given.body.func)
        return name_of(given) in CONTAINING or self._contains(given)

    def _contains(self, called: ast.expr) -> bool:
        """Whether it is a function of this file that contains all that it does."""
        function = self.functions.get(name_of(called))
        return function is not None and all(map(self._is_harmless, function.body))

    def _is_harmless(self, statement: ast.stmt) -> bool:
        match statement:
            case ast.Expr(ast.Constant()) | ast.Return(None) | ast.Nonlocal() | ast.Pass():
                return True
            case ast.Expr(ast.Call() as call):
                return name_of(call.func) in CONTAINING
            case ast.Assign(_, ast.Constant() | ast.Name() | ast.Attribute() | ast.Tuple()):
                return not any(isinstance(node, ast.Call | ast.Subscript) for node in ast.walk(statement))
            case ast.While(_, body, []):
                return all(map(self._is_harmless, body))
            case ast.Try([ast.Expr(ast.Call() as call)], _, [], []) | ast.With(
                [ast.withitem(ast.Call())], [ast.Expr(ast.Call() as call)]
            ) if name_of(call.func) == "call_soon_threadsafe":
                return True  # raises when the loop is closed; its callback is one of those that are looked at
            case ast.Try(_, handlers, _, _):
                return any(handler.type is not None and name_of(handler.type) in OUTERMOST for handler in handlers)
            case _:
                return False


def only_once(tree: ast.AST) -> list[str]:
    """By its stage, what is scheduled to be contained, and not to be attempted until it is done."""
    given = [
        (call.args, call.args.index(each))
        for call, each in sites(tree)
        if each in call.args and name_of(each) in {"contain", "_contain"}
    ]
    return [ast.unparse(next(iter(arguments[at + 2 :] or arguments[at + 1 :]))) for arguments, at in given]


def found() -> dict[str, list[str]]:
    return {path.name: Module(path.read_text(encoding="utf-8")).uncontained() for path in FILES}


def test_each_callback_task_and_thread_is_contained_or_named_with_the_reason():
    there = {f"{name}: {each}" for name, several in found().items() for each in several}
    assert sorted(there - NAMED.keys()) == []
    assert sorted(NAMED.keys() - there) == []  # those that are contained by now, or gone


def test_what_is_not_done_again_when_it_raises_is_named_with_the_reason():
    """All else is attempted until it is done: nobody else would ask for it, and it would be lost for ever."""
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    assert {f"{name}: {each}" for name, tree in trees.items() for each in only_once(tree)} == ONCE.keys()


def test_nothing_is_waited_for_by_what_may_lose_a_cancellation():
    """wait_for of Python 3.11 can swallow it, and lose what was waited for (gh-86296); timeout() does neither."""
    ours = [*(ROOT / "impetusd").rglob("*.py"), *(ROOT / "service").rglob("*.py")]
    callers = [str(path) for path in ours if "asyncio.wait_for(" in path.read_text(encoding="utf-8")]
    assert callers == []


def uncontained(source: str) -> list[str]:
    return Module(source).uncontained()


def test_every_way_to_schedule_is_seen():
    assert uncontained("loop.call_soon(f)\nloop.call_later(1, self.g, x)\nloop.call_at(t, h)") == ["f", "self.g", "h"]
    assert uncontained("loop.add_reader(fd, self._readable)\nloop.create_task(work())") == ["self._readable", "work()"]
    assert uncontained("threading.Thread(target=self._run, daemon=True).start()") == ["self._run"]
    assert uncontained("soon = functools.partial(loop.call_soon_threadsafe, close)") == ["close"]
    assert uncontained("watch(folder, names, self._missing)") == ["self._missing"]


def test_what_is_contained_is_known():
    assert (
        uncontained("loop.call_soon(self.faults.contain, 'a', 'b', f)\nloop.create_task(faults.attend('a', 'b', f))")
        == []
    )
    assert (
        uncontained("loop.call_soon(f)\ndef f():\n    self.x = None\n    try:\n        g()\n    except Exception: pass")
        == []
    )
    assert uncontained("loop.call_soon(f)\ndef f():\n    g()\n    try:\n        g()\n    except Exception: pass") == [
        "f"
    ]
    assert uncontained("loop.call_soon(f)\ndef f():\n    try:\n        g()\n    except OSError: pass") == ["f"]
    assert uncontained("loop.call_soon(f)\ndef f():\n    '''Says what.'''\n    self.faults.attempt('a', 'b', g)") == []
