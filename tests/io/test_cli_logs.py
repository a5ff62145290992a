"""`logs`: the ends of files, following them through rotation, and finding them without a daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from fake_supervisor import COMMAND, FakeSupervisor
from hypothesis import given
from hypothesis import strategies as st

from impetusd.cli.logs import tail
from impetusd.core import protocol, stream
from impetusd.core.protocol import FAILED, ProtocolError


@pytest.fixture
def paths(paths):
    os.makedirs(paths.log_dir)
    return paths


def write(path, data, mode="ab"):
    with open(path, mode) as file:
        file.write(data)


def files(*triples):
    return {"files": [{"name": name, "stream": stream, "path": str(path)} for name, stream, path in triples]}


class TestLastLines:
    @given(
        st.lists(st.binary(max_size=5).filter(lambda line: b"\n" not in line), max_size=9),
        st.integers(0, 10),
        st.booleans(),
    )
    def test_they_are_what_tail_shows(self, tmp_path_factory, lines, count, finished):
        data = b"\n".join(lines) + (b"\n" if finished and lines else b"")
        path = tmp_path_factory.mktemp("tail") / "f"
        write(path, data)
        follower = tail.Follower(str(path), count)
        found = [*follower.read(), *follower.flush()]
        follower.close()
        expected = data.split(b"\n")
        if expected[-1] == b"":
            expected = expected[:-1]
        if count == 0:
            assert len(found) <= 1  # the beginning of a line that is still to come
        else:
            assert found == expected[-count:]

    def test_only_the_end_of_a_huge_file_is_read(self, tmp_path):
        path = tmp_path / "huge"
        with open(path, "wb") as file:
            file.truncate(50 << 30)  # sparse
            file.seek(0, os.SEEK_END)
            file.write(b"\nlast but one\nlast\n")
        with open(path, "rb") as file:
            assert tail.last_lines(file, 2)[0] == [b"last but one", b"last"]

    def test_a_huge_file_without_a_newline_ends_as_well(self, tmp_path):
        path = tmp_path / "huge"
        with open(path, "wb") as file:
            file.truncate(50 << 30)
        with open(path, "rb") as file:
            assert tail.last_lines(file, 2) == ([], 50 << 30)

    def test_lines_that_span_blocks_are_whole(self, tmp_path):
        path = tmp_path / "f"
        lines = [bytes([65 + i]) * 70_000 for i in range(4)]
        write(path, b"\n".join(lines) + b"\n")
        with open(path, "rb") as file:
            assert tail.last_lines(file, 3)[0] == lines[1:]


class TestFollowing:
    def test_what_is_added_comes_once_it_is_a_line(self, tmp_path):
        path = tmp_path / "f"
        write(path, b"old\nhalf")
        follower = tail.Follower(str(path), 5)
        assert list(follower.read()) == [b"old"]
        write(path, b" a line\nnext")
        assert list(follower.read()) == [b"half a line"]
        assert list(follower.read()) == []
        assert list(follower.flush()) == [b"next"]
        follower.close()

    def test_a_renamed_file_is_read_to_its_end_and_the_new_one_from_its_beginning(self, tmp_path):
        path = tmp_path / "f"
        write(path, b"1\n")
        follower = tail.Follower(str(path), 5)
        assert list(follower.read()) == [b"1"]
        write(path, b"2\n")
        os.rename(path, tmp_path / "f.1")
        write(tmp_path / "f.1", b"3\n")
        assert list(follower.read()) == [b"2", b"3"]
        write(tmp_path / "f.1", b"4\n")
        write(path, b"5\n")
        assert list(follower.read()) == [b"4", b"5"]
        follower.close()

    def test_a_truncated_file_is_read_from_its_beginning(self, tmp_path):
        path = tmp_path / "f"
        write(path, b"a long first line\n")
        follower = tail.Follower(str(path), 5)
        assert list(follower.read()) == [b"a long first line"]
        write(path, b"new\n", "wb")
        assert list(follower.read()) == [b"new"]
        follower.close()

    def test_a_file_that_comes_later_is_shown_from_its_beginning(self, tmp_path):
        path = tmp_path / "f"
        follower = tail.Follower(str(path), 5)
        assert list(follower.read()) == []
        write(path, b"1\n2\n")
        assert list(follower.read()) == [b"1", b"2"]
        follower.close()

    def test_a_file_that_cannot_be_read_is_said(self, tmp_path):
        follower = tail.Follower(str(tmp_path / "f" / "g"), 5)
        assert follower.error == ""
        write(tmp_path / "f", b"")
        assert list(follower.read()) == []
        assert "Not a directory" in follower.error

    def test_an_endless_line_is_given_out_in_pieces(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tail, "_LONGEST_LINE", 100)
        path = tmp_path / "f"
        follower = tail.Follower(str(path), 5)
        write(path, b"x" * 250)
        assert b"".join(follower.read()) == b"x" * 250
        follower.close()


class TestCommand:
    def test_one_file_is_shown_as_it_is(self, paths, cli, tmp_path):
        write(tmp_path / "o", b"".join(b"%d\n" % i for i in range(40)))
        with FakeSupervisor(paths, logs=files(("web", "out", tmp_path / "o"))) as fake:
            assert cli("logs", "web") == (0, "".join(f"{i}\n" for i in range(25, 40)), "")
            assert cli("logs", "-n", "2", "web")[1] == "38\n39\n"
        assert fake.asked[0] == ("logs", {"names": ["web"]})

    def test_several_files_bear_names(self, paths, cli, tmp_path):
        write(tmp_path / "o", b"hello\n")
        write(tmp_path / "e", b"oops\n")
        answer = files(
            ("web:0", "out", tmp_path / "o"), ("db", "error", tmp_path / "e"), ("db", "out", tmp_path / "none")
        )
        with FakeSupervisor(paths, logs=answer):
            assert cli("logs") == (0, "web:0 | hello\ndb    | oops\n", "")

    def test_a_file_that_two_slots_share_is_shown_once(self, paths, cli, tmp_path):
        write(tmp_path / "o", b"hello\n")
        with FakeSupervisor(paths, logs=files(("web:0", "out", tmp_path / "o"), ("web:1", "out", tmp_path / "o"))):
            assert cli("logs", "web")[1] == "hello\n"

    def test_bytes_that_are_no_text_go_through_a_pipe_untouched(self, paths, tmp_path):
        write(tmp_path / "o", b"\xff\x00\x1b[2J\n")
        with FakeSupervisor(paths, logs=files(("web", "out", tmp_path / "o"))):
            end = subprocess.run(
                [sys.executable, "-c", COMMAND, "-c", paths.conf, "logs"], check=False, capture_output=True, timeout=60
            )
        assert (end.returncode, end.stdout) == (0, b"\xff\x00\x1b[2J\n")

    def test_follow_goes_on_until_interrupted(self, paths, tmp_path):
        write(tmp_path / "o", b"first\n")
        with FakeSupervisor(paths, logs=files(("web", "out", tmp_path / "o"))):
            process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "-c", paths.conf, "logs", "-f"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            stuck = threading.Timer(60, process.kill)
            stuck.start()
            try:
                assert process.stdout.readline() == b"first\n"
                write(tmp_path / "o", b"second\n")
                assert process.stdout.readline() == b"second\n"
                process.send_signal(2)
                assert process.communicate() == (b"", b"\n")  # the line that the terminal's ^C began
                assert process.returncode == 130
            finally:
                stuck.cancel()
                process.kill()
                process.communicate()

    def test_what_this_user_may_not_read_is_asked_of_the_daemon(self, paths, tmp_path, cli):
        asked = []

        def tail(params, _):
            asked.append((params["name"], params["stream"], params["offset"], params["file"]))
            return {"lines": ["one", "two", "no"], "offset": 0, "next": 11, "file": "1:2", "more": False}

        unreadable = files(("a", "error", tmp_path))  # no file, for root may read any
        with FakeSupervisor(paths, logs=unreadable, tail=tail):
            assert cli("logs", "-n", "1", "--grep", "o$|t", "a") == (0, "no\n", "")
        assert asked == [("a", "error", None, "")]
        refused = ProtocolError(FAILED, "tail takes the role operator")
        with FakeSupervisor(paths, logs=unreadable, tail=refused):
            code, out, err = cli("logs", "a")
        assert (code, out, err) == (1, "", f"impetusd: cannot read {tmp_path}: it is not a regular file\n")

    def test_slots_that_come_later_are_followed_too(self, paths, tmp_path):
        write(tmp_path / "0", b"first\n")
        answers = [
            files(("a:0", "out", tmp_path / "0")),
            files(*((f"a:{n}", "out", tmp_path / f"{n}") for n in (0, 1))),
        ]
        scaled = threading.Event()

        def row(key):
            return stream.row_line(stream.body(1.0, stream.UNIT, key, "{}"))

        def watch(_, send):
            send(protocol.result_line(2, {"life": "a", "n": 0, "resumed": False}))
            send(row("a:0") + stream.mark_line(stream.COMPLETE, 0))
            scaled.wait(60)
            send(stream.change_line(1, stream.body(1.0, stream.UNIT, "a:1", "{}")))
            fake.closing.wait(60)
            raise ConnectionError

        with FakeSupervisor(paths, logs=lambda *_: answers[scaled.is_set()], watch=watch) as fake:
            process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "-c", paths.conf, "logs", "-f", "a"], stdout=subprocess.PIPE
            )
            stuck = threading.Timer(60, process.kill)
            stuck.start()
            try:
                assert process.stdout.readline() == b"first\n"
                write(tmp_path / "1", b"second\n")
                scaled.set()
                assert process.stdout.readline() == b"a:1 | second\n"
            finally:
                stuck.cancel()
                process.kill()
                process.communicate()

    def test_the_daemons_own_log_has_a_name(self, paths, cli):
        write(paths.log_file, b"it was me\n")
        with FakeSupervisor(paths) as fake:
            assert cli("logs", "impetusd") == (0, "it was me\n", "")
        assert fake.asked == []
        assert cli("logs", "impetusd") == (0, "it was me\n", "")


def replaced_by(kind, path):
    """What the log's owner can put in its place."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        os.mkdir(path)
    elif kind == "hard link":
        os.link(path.parent / "secret", path)
    else:
        os.symlink(path.parent / "secret", path)
        if os.geteuid() == 0:
            os.lchown(path, 65534, 65534)


class TestWhatIsNoLog:
    """A program's user owns the folder that its logs are in."""

    @pytest.fixture
    def folder(self, tmp_path):
        if os.geteuid() != 0:
            pytest.skip("needs root, whom the rights of others do not bind")
        folder = tmp_path / "theirs"
        folder.mkdir()
        write(folder / "secret", b"root's alone\n")
        os.chown(folder, 65534, 65534)
        return folder

    @pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder"])
    @pytest.mark.parametrize("name", ["o", "o.1"])
    @pytest.mark.parametrize("how", [(), ("--since", "1h")], ids=["last", "since"])
    def test_it_is_neither_shown_nor_waited_for(self, paths, cli, folder, kind, name, how):
        replaced_by(kind, folder / name)
        if name != "o":
            write(folder / "o", b"2026-11-23T09:00:00.123+0100 well\n")
        with FakeSupervisor(paths, logs=files(("web", "out", folder / "o"))):
            code, out, err = cli("logs", *how)
        assert "root's alone" not in out
        assert code == 1
        assert err.count(f"impetusd: cannot read {folder / name}: ") == 1

    def test_a_link_that_root_has_made_on_the_way_is_followed(self, paths, cli, tmp_path):
        (tmp_path / "real").mkdir()
        write(tmp_path / "real" / "o", b"well\n")
        os.symlink(tmp_path / "real", tmp_path / "way")
        with FakeSupervisor(paths, logs=files(("web", "out", tmp_path / "way" / "o"))):
            assert cli("logs") == (0, "well\n", "")

    def test_the_null_device_has_no_lines(self, paths, cli):
        with FakeSupervisor(paths, logs=files(("web", "out", "/dev/null"))):
            assert cli("logs") == (0, "", "")

    def test_what_is_put_in_its_place_while_it_is_followed_is_not_followed(self, folder):
        write(folder / "o", b"well\n")
        follower = tail.Follower(str(folder / "o"), 5)
        assert list(follower.read()) == [b"well"]
        os.unlink(folder / "o")
        replaced_by("link", folder / "o")
        assert list(follower.read()) == []
        assert "symbolic link" in follower.error


class TestWithoutADaemon:
    def test_the_log_directory_is_looked_through(self, paths, cli):
        for name in ("web-0-out.log", "web-standby-1-error.log", "db-out.log", "impetusd.log", "notes.txt"):
            write(f"{paths.log_dir}/{name}", name.encode() + b"\n")
        code, out, _ = cli("logs")
        assert code == 0
        assert sorted(out.splitlines()) == [
            "db            | db-out.log",
            "impetusd      | impetusd.log",
            "web:0         | web-0-out.log",
            "web:standby:1 | web-standby-1-error.log",
        ]
        assert cli("logs", "db")[1] == "db-out.log\n"
        assert cli("logs", "web:0")[1] == "web-0-out.log\n"

    def test_a_unit_whose_name_looks_like_a_slot_keeps_it(self, paths, cli):
        with open(paths.conf, "a", encoding="utf-8") as file:
            file.write("[program:job-1]\ncommand = true\n")
        write(f"{paths.log_dir}/job-1-out.log", b"done\n")
        assert cli("logs", "job-1") == (0, "done\n", "")

    def test_files_that_the_configuration_names_are_found(self, paths, cli):
        with open(paths.conf, "a", encoding="utf-8") as file:
            file.write("[program:job]\ncommand = true\nout_file = own/job.txt\n")
        os.mkdir(f"{paths.base_dir}/own")
        write(f"{paths.base_dir}/own/job.txt", b"done\n")
        assert cli("logs", "job") == (0, "done\n", "")

    def test_no_log_of_that_name(self, cli):
        code, _, err = cli("logs", "wbe")
        assert code == 4
        assert "no log of wbe" in err

    def test_a_unit_that_has_written_nothing_yet_is_no_error(self, paths, cli):
        write(f"{paths.log_dir}/db-out.log", b"x\n")
        assert cli("logs", "web") == (0, "", f"no log file of web in {paths.log_dir} yet\n")

    def test_no_log_at_all(self, paths, cli):
        assert cli("logs") == (0, "", f"no log file in {paths.log_dir} yet\n")
