"""What a take-over does with each unit, by what is known of it: pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from impetusd.core.config import parser
from impetusd.interop.importing.model import Fate, Imported, Program, Row
from impetusd.interop.importing.writer import ANYWHERE
from impetusd.interop.takeover import found, plan
from impetusd.interop.takeover.manager import Process, Was
from impetusd.interop.takeover.plan import How, Known
from impetusd.interop.takeover.sockets import Socket


def unit(name="x", *listen):
    keys = f"listen = {', '.join(listen)}" if listen else ""
    text = f"[program:{name}]\ncommand = x\n{keys}\n"
    return parser.parse(text, "/x/impetusd.ini", {"HOME": "/root"}, ANYWHERE).units[name]


def process(was=Was.RUNNING, number="0", **more):
    return Process("x", number, was, was.value, 100, **more)


def sock(host="::", port=3000, refusal="", *, v6only=False):
    return Socket(host, port, v6only, 100, 5, refusal)


def only(known):
    (step,), refused = plan.steps([known], "PM2")
    assert not refused
    return step


RUNS, STOPPED = (process(),), (process(Was.STOPPED),)
ANY = "[::]:3000"


class TestBeside:
    def test_where_both_listen_on_the_same_address(self):
        step = only(Known(unit("x", ANY), RUNS, (sock(), sock(port=9229))))
        assert (step.how, step.shares, step.ids, step.ports) == (How.BESIDE, (sock(),), ("0",), (3000, 9229))

    @pytest.mark.parametrize(
        ("listen", "sockets", "why"),
        [
            ((), (), "does not listen on a TCP port"),
            ((), (sock(),), "binds its port itself, because its section has no listen"),
            ((ANY,), (sock("0.0.0.0"),), "it listens on 0.0.0.0:3000 in PM2, but on [::]:3000 here"),
            ((ANY,), (sock(port=1),), "it does not listen on [::]:3000 in PM2"),
            ((ANY,), (sock(), sock("127.0.0.1")), "it listens on port 3000 with several sockets"),
            (("[::]:3000 v6only=yes",), (sock(),), "it listens on [::]:3000 in PM2, but on [::]:3000 v6only=yes here"),
            (("unix:/run/x.sock",), (sock(),), "a unix socket cannot be shared"),
            ((ANY,), (sock(refusal="Yama"),), "Yama"),
            ((ANY, "[::]:3001"), (sock(),), "it does not listen on [::]:3001 in PM2"),
        ],
    )  # fmt: skip
    def test_else_it_is_stopped_first(self, listen, sockets, why):
        step = only(Known(unit("x", *listen), RUNS, sockets))
        assert (step.how, step.why, step.shares) == (How.AFTER, why, ())


class TestContinuing:
    """After a take-over that was interrupted."""

    def test_what_runs_here_alone_is_moved(self):
        assert only(Known(unit(), STOPPED, runs=True, up=True, was=("0",))).how is How.MOVED
        assert only(Known(unit(), (), runs=True, up=True)).how is How.MOVED

    def test_what_was_stopped_there_and_is_not_up_here_is_started(self):
        step = only(Known(unit(), STOPPED, was=("0",)))
        assert (step.how, step.ids, step.again) == (How.RESUME, ("0",), False)
        assert only(Known(unit(), STOPPED, runs=True, was=("0",))).again

    def test_its_numbers_may_be_others_after_a_restart_of_the_old_manager(self):
        assert only(Known(unit(), (process(Was.STOPPED, "7"),), was=("0",))).ids == ("7",)

    def test_what_runs_in_both_is_moved_anew(self):
        step = only(Known(unit(), RUNS, runs=True, up=True, was=("0",)))
        assert (step.how, step.again) == (How.AFTER, True)

    @pytest.mark.parametrize("was", [Was.STOPPED, Was.ENDED])
    def test_what_did_not_run_stays_stopped(self, was):
        assert only(Known(unit(), (process(was),))).how is How.IDLE

    def test_what_is_nowhere_is_left_alone(self):
        assert only(Known(unit())).how is How.ABSENT


def test_of_several_processes_those_that_run_are_stopped():
    step = only(Known(unit(), (process(), process(Was.STOPPED, "1"), process(number="2"))))
    assert step.ids == ("0", "2")
    assert len(step.theirs) == 3


@pytest.mark.parametrize("was", [Was.UNSETTLED, Was.FAILED])
def test_what_neither_runs_nor_is_stopped_is_refused(was):
    _, refused = plan.steps([Known(unit("a"), RUNS), Known(unit("b"), (process(was),))], "PM2")
    assert refused == [f"b is {was.value} in PM2; wait, fix it, or stop it there"]


def test_what_others_need_comes_first():
    needs = {"a": ("c", "elsewhere"), "b": (), "c": ("b",)}
    units = [replace(unit(name), depends_on=its) for name, its in needs.items()]
    steps, _ = plan.steps([Known(each, RUNS) for each in units], "PM2")
    assert [step.unit for step in steps] == ["b", "c", "a"]


def test_ports_that_the_kernel_may_have_chosen_are_not_awaited_unless_they_are_named():
    chosen = range(32768, 61000)
    assert plan.required({80, 40000, 50000}, ["run", "--port=50000"], chosen) == {80, 50000}


class TestListenOfNode:
    """What running processes show and the file does not say."""

    @staticmethod
    def imported(**keys):
        program = Program("x", "f", 1, argv=["node", "x.js"], keys=dict(keys), theirs=["x"])
        rows = [Row("f", 1, "x", key, "4", Fate.LOST) for key in ("instances", "wait_ready")]
        return Imported("pm2", [program], rows=rows, todo=["x: write listen = [::]:PORT and instances = 4."])

    def test_its_own_socket(self):
        imported = self.imported()
        found.add_listen(imported, {"x": RUNS}, {"x": [sock()]}, [])
        assert imported.programs[0].keys == {"listen": "[::]:3000", "wait_ready": "yes"}
        assert [row.key for row in imported.rows] == ["instances"]
        assert "[::]:3000" in imported.differs[0]

    def test_that_of_the_only_cluster(self):
        imported, its = self.imported(), [process(shared=True), process(number="1", shared=True)]
        found.add_listen(imported, {"x": its}, {"x": []}, [sock()])
        assert imported.programs[0].keys == {"listen": "[::]:3000", "wait_ready": "yes", "instances": "2"}
        assert (imported.rows, imported.todo) == ([], [])

    @pytest.mark.parametrize(
        ("keys", "processes", "sockets", "shared"),
        [
            ({"listen": "[::]:1"}, RUNS, [sock()], []),
            ({}, RUNS, [sock(), sock(port=9229)], []),
            ({}, [process(), process(number="1")], [sock()], []),
            ({}, STOPPED, [], []),
            ({}, [process(shared=True)], [], [sock(), sock(port=1)]),
        ],
    )
    def test_nothing_is_guessed(self, keys, processes, sockets, shared):
        imported = self.imported(**keys)
        found.add_listen(imported, {"x": processes}, {"x": sockets}, shared)
        assert imported.programs[0].keys == keys

    def test_only_of_node(self):
        imported = self.imported()
        imported.programs[0].argv = ["python3", "x.py"]
        found.add_listen(imported, {"x": RUNS}, {"x": [sock()]}, [])
        assert imported.programs[0].keys == {}
