"""Searching a log with its rotated files: by text and time, from the end, around one line; bounded."""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervisor_world import in_a_folder

from impetusd.core.protocol import ProtocolError
from impetusd.files import logsearch
from impetusd.files.logsearch import Gone, Query, around, search

DAY = 1_764_460_800.0  # 2025-11-30T00:00:00Z


def never():
    return False


def stamped(minute, text):
    return f"2025-11-30T00:{minute:02d}:00.000+0000 {text}\n"


def texts(found):
    return [line.data.decode() for line in found]


@pytest.fixture
def log(tmp_path):
    """Three files: minutes 0 to 19 compressed, 20 to 39 rotated, 40 to 59 present."""
    path = tmp_path / "app.log"
    with gzip.open(f"{path}.2.gz", "wt") as file:
        file.writelines(stamped(n, f"line {n}") for n in range(20))
    (tmp_path / "app.log.1").write_text("".join(stamped(n, f"line {n}") for n in range(20, 40)))
    path.write_text("".join(stamped(n, f"line {n}") for n in range(40, 60)) + "half")
    return str(path)


class TestSearch:
    def test_the_last_that_match_over_all_files(self, log):
        found = search(log, Query("LINE 1", limit=5), never)
        assert [text[-7:] for text in texts(found.lines)] == [f"line {n}" for n in range(15, 20)]
        assert found.more
        found = search(log, Query("line 1"), never)
        assert (len(found.lines), found.more) == (11, False)
        assert [line.at for line in found.lines][:1] == [DAY + 60]
        assert search(log, Query("half"), never).lines == []  # it is not whole yet

    def test_between_two_times(self, log):
        found = search(log, Query("", since=DAY + 38 * 60, until=DAY + 41 * 60), never)
        assert [text[-7:] for text in texts(found.lines)] == ["line 38", "line 39", "line 40", "line 41"]
        assert not found.more

    def test_with_what_is_around(self, log):
        found = search(log, Query("line 45", before=2, after=1), never)
        assert [(line.data.decode()[-7:], line.match) for line in found.lines] == [
            ("line 43", False),
            ("line 44", False),
            ("line 45", True),
            ("line 46", False),
        ]

    @pytest.mark.parametrize("number", [0, 7, 19, 25, 39, 40, 59])
    def test_a_line_is_found_again_by_its_place(self, log, number):
        (line,) = search(log, Query(f"line {number}", since=DAY + number * 60, until=DAY + number * 60), never).lines
        found = around(log, line.file, line.offset, 1, 1)
        assert [each.data for each in found if each.match] == [line.data]
        assert len(found) == 3 - (number in {0, 20, 40}) - (number in {19, 39, 59})

    def test_one_that_is_gone_is_reported(self, log):
        (line,) = search(log, Query("line 25"), never).lines
        os.unlink(f"{log}.1")
        with pytest.raises(Gone):
            around(log, line.file, line.offset, 1, 1)
        with pytest.raises(Gone):
            around(log, line.file, 1 << 50, 1, 1)

    def test_gives_up_when_asked_to_and_reports_it(self, log):
        assert search(log, Query("line"), lambda: True).more

    def test_reads_no_more_than_a_bound(self, log, monkeypatch):
        monkeypatch.setattr(logsearch, "SCANNED", 100)
        found = search(log, Query("line 1"), never)
        assert (found.lines, found.more) == ([], True)

    def test_a_broken_compressed_file_gives_what_it_has(self, log, tmp_path):
        data = (tmp_path / "app.log.2.gz").read_bytes()
        (tmp_path / "app.log.2.gz").write_bytes(data[: len(data) - 12])
        assert len(search(log, Query("line 1"), never).lines) > 1

    def test_no_file_is_no_line(self, tmp_path):
        assert search(str(tmp_path / "none"), Query("x"), never).lines == []


@given(st.lists(st.text("ab\u00e9", max_size=30), max_size=40), st.integers(1, 5), st.integers(1, 64))
def test_blocks_cut_lines_anywhere(lines, limit, block):
    data = "".join(f"{line}\n" for line in lines).encode()
    before, logsearch._BLOCK = logsearch._BLOCK, block
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/log"
            with open(path, "wb") as file:
                file.write(data)
            found = search(path, Query("a", limit=limit), never)
            wanted = [line for line in lines if "a" in line]
            assert texts(found.lines) == wanted[-limit:]
            for line in found.lines:
                assert data[line.offset :].startswith(line.data + b"\n")
            with gzip.open(f"{path}.1.gz", "wb") as file:
                file.write(data)
            os.unlink(path)
            assert texts(search(path, Query("a", limit=limit), never).lines) == wanted[-limit:]
    finally:
        logsearch._BLOCK = before


INI = "[impetusd]\n[env:a]\nTOKEN = hunter22hunter\n[program:a]\ncommand = x\n[program:b]\ncommand = x\ninstances = 2\n"


def test_the_method_hides_secrets_from_those_who_look_for_them():
    with in_a_folder(INI) as shim:
        Path(f"{shim.paths.log_dir}/a-out.log").write_text("password=abc\nit is hunter22hunter\nplain\n")

        async def scenario(life):
            async def lines(**params):
                (log,) = (await life.ask("search", names=["a"], **params))["logs"]
                return log["lines"]

            assert [line["text"] for line in await lines()] == ["password=***", "it is ***", "plain"]
            for secret in ("hunter", "abc", "22"):
                assert await lines(text=secret) == []
            (line,) = await lines(text="PLAIN")
            found = await lines(file=line["file"], offset=line["offset"], before=1)
            assert [each["text"] for each in found] == ["it is ***", "plain"]
            with pytest.raises(ProtocolError, match="no longer in") as caught:
                await lines(file="0:0", offset=0)
            assert caught.value.exit == 4
            with pytest.raises(ProtocolError, match="several slots"):
                await life.ask("search", names=["b"])
            logs = (await life.ask("search", names=["a", "b:0", "b"], streams=["out", "error"]))["logs"]
            found = [(log["name"], "error" in log) for log in logs]
            assert found == [("a", False)] * 2 + [("b:0", False)] * 2 + [("b", True)] * 2
            with pytest.raises(ProtocolError, match="a line belongs to a single log"):
                await life.ask("search", names=["a", "b:0"], file="0:0", offset=0)

        shim.live(scenario)
