"""The control client against every way in which a daemon can be there, half there, or not there."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from fake_supervisor import PONG, FakeSupervisor, HangUp, paths_in, row
from waiting import PATIENCE

from impetusd.client import control
from impetusd.client.control import ControlError, Hooks, NotRunning
from impetusd.core.protocol import FAILED, ProtocolError, progress_line

STATUS = {**PONG, "units": [row("web:0")]}


@pytest.fixture
def paths(tmp_path):
    return paths_in(tmp_path)


def test_a_question_is_answered(paths):
    with FakeSupervisor(paths, status=STATUS) as fake:
        assert control.call(paths, "status", {"names": ["web"]}) == STATUS
    assert fake.asked == [("status", {"names": ["web"]})]


def test_a_refusal_carries_its_sentence_and_exit_code(paths):
    with (
        FakeSupervisor(paths, status=ProtocolError(FAILED, "there is no unit x", exit=4)),
        pytest.raises(ControlError, match="there is no unit x") as caught,
    ):
        control.call(paths, "status", {"names": ["x"]})
    assert caught.value.exit == 4


def test_progress_is_passed_on_before_the_result(paths):
    def start(_params, send):
        send(progress_line("web:0", "STARTING", ""))
        send(progress_line("web:0", "RUNNING", ""))
        return {"ok": True, "units": []}

    seen = []
    with FakeSupervisor(paths, start=start):
        control.call(paths, "start", {"names": []}, Hooks(progress=lambda params: seen.append(params["state"])))
    assert seen == ["STARTING", "RUNNING"]


class TestNothingRuns:
    def test_without_any_directory(self, paths):
        with pytest.raises(NotRunning, match="is not running") as caught:
            control.call(paths, "status", {})
        assert caught.value.exit == 3

    def test_with_a_stale_socket(self, paths):
        os.makedirs(paths.run_dir)
        os.makedirs(paths.state_dir)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(paths.control_socket)
        with pytest.raises(NotRunning):
            control.call(paths, "status", {})

    def test_where_run_dir_is_a_file(self, paths):
        os.makedirs(os.path.dirname(paths.run_dir))
        with open(paths.run_dir, "w", encoding="utf-8"):
            pass
        with pytest.raises(NotRunning):
            control.call(paths, "status", {})


class TestTheDaemonIsComingBack:
    def test_a_removed_socket_is_waited_for_and_said(self, paths):
        fake = FakeSupervisor(paths, status=STATUS)
        with fake:
            fake.unlisten()
            told = []

            def waiting(sentence):
                told.append(sentence)
                fake.listen()

            assert control.call(paths, "status", {}, Hooks(waiting=waiting)) == STATUS
        assert "waiting for its control socket" in told[0]

    def test_a_connection_nobody_accepts_yet_is_answered_later(self, paths):
        fake = FakeSupervisor(paths, status=STATUS)
        fake.lock()
        fake.bind()
        told = []

        def waiting(sentence):
            told.append(sentence)
            fake.listen()

        try:
            assert control.call(paths, "status", {}, Hooks(waiting=waiting)) == STATUS
        finally:
            fake.__exit__()
        assert told == ["impetusd is running; waiting for its supervisor to respond"]

    def test_a_full_queue_of_connections_is_waited_out(self, paths):
        fake = FakeSupervisor(paths, status=STATUS)
        fake.lock()
        fake.bind(backlog=0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(paths.control_socket)
            try:
                hooks = Hooks(waiting=lambda _: fake.listen())
                assert control.call(paths, "status", {}, hooks) == STATUS
            finally:
                first.close()
                fake.__exit__()

    def test_a_socket_that_stays_away_is_an_error_with_the_log(self, paths, monkeypatch):
        monkeypatch.setattr(control, "SOCKET_BACK", 0.1)
        fake = FakeSupervisor(paths)
        fake.lock()
        with pytest.raises(ControlError, match="did not appear within") as caught:
            control.call(paths, "status", {})
        fake.unlock()
        assert not isinstance(caught.value, NotRunning)

    def test_a_daemon_that_never_answers_is_an_error(self, paths, monkeypatch):
        monkeypatch.setattr(control, "FIRST_BYTE", 0.1)
        fake = FakeSupervisor(paths)
        fake.lock()
        fake.bind()
        try:
            with pytest.raises(ControlError, match="did not answer within"):
                control.call(paths, "status", {})
        finally:
            fake.__exit__()

    def test_a_long_stop_is_not_taken_for_silence(self, paths, monkeypatch):
        """The pong comes first, so only a supervisor that is not there runs into the limit for the first byte."""
        monkeypatch.setattr(control, "FIRST_BYTE", 2.0)
        ticks = threading.Event()
        count = 0

        def tick():
            nonlocal count
            count += 1
            if count > 24:  # x 0.1 s: over the limit
                ticks.set()

        def stop(_params, _send):
            assert ticks.wait(PATIENCE)
            return {"ok": True, "killed": [], "units": []}

        with FakeSupervisor(paths, stop=stop):
            assert control.call(paths, "stop", {"names": ["web"]}, Hooks(tick=tick))["ok"]


class TestTheSupervisorDiesOverARequest:
    @staticmethod
    def dies_once(result):
        left = [HangUp()]

        def handler(_params, _send):
            if left:
                raise left.pop()
            return result

        return handler

    @pytest.mark.parametrize(
        ("method", "params"),
        [
            ("status", {}),
            ("describe", {"name": "web"}),
            ("start", {}),
            ("stop", {}),
            ("scale", {"name": "web", "n": 2}),
        ],
    )
    def test_what_may_be_asked_twice_is_asked_again(self, paths, method, params):
        with FakeSupervisor(paths, **{method: self.dies_once({"ok": True})}) as fake:
            assert control.call(paths, method, params) == {"ok": True}
        assert [asked for asked, _ in fake.asked] == [method, method]

    @pytest.mark.parametrize(
        ("method", "params"), [("restart", {"names": ["web"]}), ("signal", {"names": ["web"], "signal": "HUP"})]
    )
    def test_of_the_others_the_outcome_is_said_to_be_unknown(self, paths, method, params):
        with (
            FakeSupervisor(paths, **{method: self.dies_once({"ok": True})}) as fake,
            pytest.raises(ControlError, match=f"broke during {method}; it is unknown whether it was executed"),
        ):
            control.call(paths, method, params)
        assert [asked for asked, _ in fake.asked] == [method]

    def test_what_was_never_begun_is_asked_again_whatever_it_is(self, paths):
        pong = self.dies_once(PONG)
        with FakeSupervisor(paths, ping=pong, restart={"ok": True, "units": []}) as fake:
            assert control.call(paths, "restart", {"names": ["web"]})["ok"]
        assert len(fake.asked) == 1

    def test_one_that_dies_each_time_is_given_up(self, paths):
        def dies(_params, _send):
            raise HangUp

        with (
            FakeSupervisor(paths, status=dies),
            pytest.raises(ControlError, match="repeatedly closed the connection during status"),
        ):
            control.call(paths, "status", {})


def test_a_socket_path_longer_than_the_kernel_takes_is_told(tmp_path):
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    with pytest.raises(ControlError, match="path too long"):
        control.call(paths_in(deep), "status", {})


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_may_not_look_is_told_whose_it_is(paths, tmp_path):
    os.makedirs(paths.run_dir)
    os.chmod(paths.run_dir, 0o700)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and str(parent) not in {"/", "/tmp"}:
            parent.chmod(0o755)
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            control.call(paths, "status", {})
        except ControlError as error:
            os._exit(0 if "belongs to root" in str(error) and "sudo" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_no_descriptor_is_left(paths):
    with FakeSupervisor(paths, status=STATUS):
        control.call(paths, "status", {})
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            control.call(paths, "status", {})
        assert control.daemon_alive(paths)
    # The server's side of a connection is closed by its thread, which the end of `with` has waited for.
    assert len(os.listdir("/proc/self/fd")) <= before
