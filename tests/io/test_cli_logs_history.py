"""`logs` over several programs and over time: merging, --since, --grep, --stderr, rotated files, following rotation."""

from __future__ import annotations

import gzip
import os
import time

import pytest
from fake_supervisor import FakeSupervisor
from hypothesis import given
from hypothesis import strategies as st

from impetusd.cli.logs import history, tail, when
from impetusd.files import rotated
from impetusd.supervisor.logs.lines import Options, dress, stamp

NOW = 1_800_000_000.0


@pytest.fixture
def paths(paths):
    os.makedirs(paths.log_dir)
    return paths


def files(*triples):
    return {"files": [{"name": name, "stream": stream, "path": str(path)} for name, stream, path in triples]}


def timed(*pairs, **how):
    return b"".join(dress(text, Options(time=not how, **how), at) for at, text in pairs)


class TestInstants:
    @given(st.floats(0, 4e9))
    def test_what_the_writer_puts_is_read(self, at):
        for line in (dress(b"text", Options(time=True), at), dress(b"text", Options(json=True), at)):
            assert rotated.time_of(line) == pytest.approx(at, abs=0.0011)

    @pytest.mark.parametrize("line", [b"", b"text", b"2026-13-45T99:00:00.000+0000 x", b"2026-11-23 10:00 x", b"{}"])
    def test_other_lines_have_none(self, line):
        assert rotated.time_of(line) is None

    @pytest.mark.parametrize(
        ("text", "ago"), [("10m", 600), ("2h", 7200), ("1.5d", 129600), ("30s", 30), ("1w", 604800)]
    )
    def test_ago(self, text, ago):
        assert when.instant(text, NOW) == NOW - ago

    @pytest.mark.parametrize("text", ["2026-11-23", "2026-11-23 10:00", "2026-11-23T10:00:05"])
    def test_dates_are_local(self, text):
        shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(when.instant(text, NOW)))
        assert shown.startswith(text.replace(" ", "T"))

    @pytest.mark.parametrize("text", ["", "yesterday", "10", "10x", "2026-02-30"])
    def test_anything_else_is_refused(self, text):
        with pytest.raises(ValueError):
            when.instant(text, NOW)


class TestRotated:
    @pytest.fixture
    def log(self, tmp_path):
        """Lines 0 to 11, three in each of four files."""
        path = tmp_path / "o"
        for number, name in enumerate(["o.3.gz", "o.2.gz", "o.1", "o"]):
            data = timed(*((NOW + n, b"line %d\n" % n) for n in range(3 * number, 3 * number + 3)))
            (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
            os.utime(tmp_path / name, (NOW, NOW + 3 * number + 2))
        return path

    def shown(self, path, *args, **how):
        follower = tail.Follower(str(path), *args, **how)
        found = [line.split()[-1].decode() for line in [*follower.read(), *follower.flush()]]
        follower.close()
        return " ".join(found)

    @pytest.mark.parametrize("count", range(14))
    def test_last_lines_come_from_as_many_files_as_it_takes(self, log, count):
        assert self.shown(log, count) == " ".join(map(str, range(12)[12 - min(count, 12) :]))

    def test_an_unfinished_line_is_one_of_them(self, log):
        with open(log, "ab") as file:
            file.write(b"half")
        assert self.shown(log, 3) == "10 11 half"
        assert self.shown(log, 4) == "9 10 11 half"
        assert self.shown(log, 5) == "8 9 10 11 half"

    @pytest.mark.parametrize("first", range(13))
    def test_since(self, log, first):
        assert self.shown(log, since=NOW + first) == " ".join(map(str, range(first, 12)))

    def test_grep_is_applied_before_lines_are_counted(self, log):
        assert self.shown(log, 3, wanted=lambda line: line.endswith((b"0", b"1", b"5"))) == "5 10 11"

    def test_what_is_half_done_is_read_once(self, log, tmp_path):
        (tmp_path / "o.2").write_bytes(gzip.decompress((tmp_path / "o.2.gz").read_bytes()))
        os.utime(tmp_path / "o.2", (NOW, NOW + 5))
        assert self.shown(log, 100) == " ".join(map(str, range(12)))

    def test_what_is_compressed_since_it_was_seen_is_read(self, log, tmp_path, monkeypatch):
        """Also where its new file has the inode of one that was read before it."""
        (tmp_path / "o.2.gz").write_bytes(gzip.decompress((tmp_path / "o.2.gz").read_bytes()))
        (tmp_path / "o.2.gz").rename(tmp_path / "o.2")
        names = list(map(str, [tmp_path / "o.1", tmp_path / "o.2", tmp_path / "o.3.gz"]))

        def older(path):
            assert path == str(log)
            for name in names:
                yield name
                if name.endswith("o.1"):  # it was read, and is removed
                    (tmp_path / "o.1").rename(tmp_path / "inode")
                    packed = gzip.compress((tmp_path / "o.2").read_bytes())
                    (tmp_path / "inode").write_bytes(packed)
                    (tmp_path / "inode").rename(tmp_path / "o.2.gz")
                    (tmp_path / "o.2").unlink()
                    os.utime(tmp_path / "o.2.gz", (NOW, NOW + 5))

        monkeypatch.setattr(history, "older", older)
        assert self.shown(log, 100) == " ".join(map(str, range(12)))

    def test_names_of_logrotates_dateext(self, tmp_path):
        for name in ("o", "o-20261122.gz", "o-20261123", "o-20261121.gz", "o.1", "other", "o-x", "o.gz"):
            (tmp_path / name).write_bytes(b"")
        found = [os.path.basename(path) for path in rotated.older(str(tmp_path / "o"))]
        assert found == ["o.1", "o-20261123", "o-20261122.gz", "o-20261121.gz"]

    def test_a_line_without_a_time_goes_with_the_one_before_it(self, tmp_path):
        path = tmp_path / "o"
        path.write_bytes(timed((NOW, b"1")) + b"more of 1\n" + timed((NOW + 9, b"2")) + b"more of 2\n")
        os.utime(path, (NOW + 9, NOW + 9))
        follower = tail.Follower(str(path), since=NOW + 5)
        assert [line[-9:] for line in follower.read()] == [timed((NOW + 9, b"2"))[-10:-1], b"more of 2"]
        follower.close()


class TestFollowing:
    def test_several_rotations_between_two_looks(self, tmp_path):
        path = tmp_path / "o"
        path.write_bytes(b"1\n")
        follower = tail.Follower(str(path), 5)
        assert list(follower.read()) == [b"1"]
        with open(path, "ab") as file:
            file.write(b"2\n")
        os.rename(path, tmp_path / "o.3")
        (tmp_path / "o.2").write_bytes(b"3\n")
        (tmp_path / "o.1").write_bytes(b"4\n")
        path.write_bytes(b"5\n")
        assert list(follower.read()) == [b"2", b"3", b"4", b"5"]
        follower.close()

    def test_only_what_is_wanted(self, tmp_path):
        path = tmp_path / "o"
        path.write_bytes(b"yes 1\nno 2\n")
        follower = tail.Follower(str(path), 5, wanted=lambda line: line.startswith(b"yes"))
        assert list(follower.read()) == [b"yes 1"]
        with open(path, "ab") as file:
            file.write(b"no 3\nyes 4\n")
        assert list(follower.read()) == [b"yes 4"]
        follower.close()


class TestCommand:
    @pytest.fixture
    def three(self, paths, tmp_path):
        (tmp_path / "a").write_bytes(timed((NOW, b"one"), (NOW + 2, b"three")))
        (tmp_path / "b").write_bytes(timed((NOW + 1, b"two"), (NOW + 3, b"four"), name="b", json=True))
        (tmp_path / "c").write_bytes(b"x\ny\n")
        answer = files(("a", "out", tmp_path / "a"), ("b", "error", tmp_path / "b"), ("c", "out", tmp_path / "c"))
        with FakeSupervisor(paths, logs=answer) as fake:
            yield fake

    def test_lines_that_bear_a_time_are_merged_by_it(self, cli, three):
        code, out, err = cli("logs")
        assert (code, err) == (0, "")
        assert [
            next(w for w in ("x", "y", "one", "two", "three", "four") if w in line) for line in out.splitlines()
        ] == [
            "x",
            "y",
            "one",
            "two",
            "three",
            "four",
        ]

    def test_since(self, cli, three, tmp_path):
        for name in "abc":
            os.utime(tmp_path / name, (NOW + 3, NOW + 3))
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW + 2))
        code, out, err = cli("logs", "--since", date)
        assert code == 0
        assert [line[0] for line in out.splitlines()] == ["c", "c", "a", "b"]
        assert err == (
            f"impetusd: {tmp_path / 'c'} has no timestamps (set time = yes to add them); showing its last 15 lines\n"
        )
        _, out, err = cli("logs", "--since", date, "-n", "1")
        assert (len(out.splitlines()), err.endswith("showing its last line\n")) == (3, True)
        later = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW + 60))
        assert cli("logs", "--since", later) == (0, "", "")

    def test_stderr_and_grep(self, cli, three):
        assert "two" in cli("logs", "--stderr")[1]
        assert "one" not in cli("logs", "--stderr")[1]
        assert cli("logs", "--grep", "^x|thr.e")[1].split() == ["c", "|", "x", "a", "|", stamp(NOW + 2), "three"]

    def test_a_wrong_option_is_told(self, cli, three):
        code, _, err = cli("logs", "--grep", "(")
        assert (code, "is not a regular expression" in err) == (2, True)
        code, _, err = cli("logs", "--since", "soon")
        assert (code, "'soon' is not a time; use 10m" in err) == (2, True)
        assert three.asked == []


class TestFlushAndReopen:
    def test_flush(self, paths, cli):
        with FakeSupervisor(paths, flush={"ok": True, "files": ["/var/log/o"], "failed": []}) as fake:
            assert cli("flush", "web") == (0, "1 log file emptied\n", "")
        assert fake.asked == [("flush", {"names": ["web"]})]
        code, _, err = cli("flush")
        assert (code, "not running" in err) == (3, True)

    def test_flush_that_fails(self, paths, cli):
        answer = {"ok": False, "files": ["/o", "/p", "/q"], "failed": ["cannot empty /o: Permission denied"]}
        with FakeSupervisor(paths, flush=answer):
            assert cli("flush") == (1, "2 log files emptied\n", "impetusd: cannot empty /o: Permission denied\n")

    def test_reopen(self, paths, cli):
        with FakeSupervisor(paths, **{"reopen-logs": {"ok": True, "files": 3}}):
            assert cli("reopen-logs") == (0, "3 log files reopened\n", "")
        code, out, _ = cli("reopen-logs")
        assert (code, "not running" in out) == (0, True)
