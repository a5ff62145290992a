"""Whoever owns a folder of logs or sockets plants links in it, and root touches nothing outside."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from impetusd.core.config.model import Listen
from impetusd.files.folders import address_of, open_file, open_folder
from impetusd.supervisor.logs import logfile, rotation
from impetusd.supervisor.logs.lines import Options
from impetusd.supervisor.logs.logfile import LogFile
from impetusd.supervisor.start.childspec import CannotStart
from impetusd.supervisor.start.sockets import bind_unix, listen_on

BOB = 61001
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it is about files that only root may touch")


class Secret:
    """Files of root's, and a folder, that must stay as they are."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "etc"
        self.folder.mkdir()
        self.file = self.folder / "shadow"
        self.file.write_text("root:secret\n")
        self.file.chmod(0o600)
        self.before = self.state()

    def state(self):
        there = self.file.stat()
        return (
            sorted(os.listdir(self.folder)),
            self.file.read_text(),
            *(there.st_mode, there.st_uid, there.st_gid, there.st_mtime_ns),
        )


@pytest.fixture
def secret(tmp_path):
    secret = Secret(tmp_path)
    yield secret
    assert secret.state() == secret.before


@pytest.fixture
def home(tmp_path, secret):
    """Bob's; the names that he plants are his."""
    home = tmp_path / "bob"
    home.mkdir()
    os.chown(home, BOB, BOB)
    return home


def symlink(target, path):
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    os.lchown(path, BOB, BOB)


def hard_link(target, path):
    path.unlink(missing_ok=True)
    path.hardlink_to(target)


def logged(path, **options):
    """What is told when a line is logged there."""
    file = LogFile(str(path))
    file.options = Options(**options)
    try:
        return file.write(b"a line\n")
    finally:
        file.close()


@pytest.mark.parametrize("plant", [symlink, hard_link])
class TestAFile:
    def test_is_not_written_to_and_that_is_told(self, home, secret, plant):
        plant(secret.file, home / "o")
        (told,) = logged(home / "o")
        assert "link" in told
        plant(secret.folder / "new", home / "o") if plant is symlink else None
        assert "link" in logged(home / "o")[0]

    def test_is_not_emptied(self, home, secret, plant):
        plant(secret.file, home / "o")
        with pytest.raises(OSError, match="link"):
            LogFile(str(home / "o")).empty()

    def test_is_not_opened_when_logs_are_opened_anew(self, home, secret, plant):
        file = LogFile(str(home / "o"))
        assert file.write(b"one\n") == []
        os.rename(home / "o", home / "moved")  # as logrotate
        plant(secret.file, home / "o")
        file.reopen(0.0)
        assert file.write(b"two\n") == []
        assert (home / "moved").read_text() == "one\ntwo\n"  # it stays with the old one, which still has a name
        file.close()

    def test_is_not_read_by_rotation(self, home, secret, plant):
        (home / "o").write_text("x" * 100)
        (home / "o.1").write_text("y" * 100)
        plant(secret.file, home / "o.2")
        plant(secret.file, home / "o.gz.tmp")
        rotation.rotate(str(home / "o"), 5, compress=False)
        with pytest.raises(OSError, match="link"):
            rotation.compress_all(str(home / "o"))
        assert not [name for name in os.listdir(home) if name.endswith(".gz")]

    def test_is_only_a_name_when_it_is_rotated_away(self, home, secret, plant):
        (home / "o").write_text("")
        plant(secret.file, home / "o.1")
        rotation.rotate(str(home / "o"), 1, compress=False)
        assert sorted(os.listdir(home)) == ["o.1"]

    def test_is_not_removed_for_a_socket(self, home, secret, plant):
        plant(secret.file, home / "s")
        with pytest.raises(CannotStart, match="not a socket"):
            listen_on(Listen("", 0, str(home / "s")), 10)
        assert (home / "s").lstat()


class TestOurOwnLink:
    """In a folder where nobody else can make one."""

    def test_is_followed_to_write_and_to_empty(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "o").symlink_to("disk/../disk/real")
        assert logged(tmp_path / "o") == []
        assert (tmp_path / "disk" / "real").read_text() == "a line\n"
        LogFile(str(tmp_path / "o")).empty()
        assert (tmp_path / "disk" / "real").read_text() == ""

    def test_stays_when_what_it_names_is_rotated_or_moved_away(self, tmp_path, monkeypatch):
        monkeypatch.setattr(logfile, "LOOK", 0.0)
        (tmp_path / "disk").mkdir()
        (tmp_path / "o").symlink_to(tmp_path / "disk" / "real")
        file = LogFile(str(tmp_path / "o"))
        file.options = Options(max_size=10, compress=False)
        assert [file.write(b"a line\n") for _ in range(3)] == [[]] * 3
        assert sorted(os.listdir(tmp_path / "disk")) == ["real", "real.1", "real.2"]
        os.rename(tmp_path / "disk" / "real", tmp_path / "disk" / "moved")
        file.write(b"more\n")
        file.close()
        assert (tmp_path / "disk" / "real").read_text() == "more\n"
        assert (tmp_path / "o").is_symlink()

    def test_leads_to_no_link_of_others(self, tmp_path, home, secret):
        symlink(secret.file, home / "o")
        (tmp_path / "o").symlink_to(home / "o")
        assert "symbolic link" in logged(tmp_path / "o")[0]

    def test_is_not_followed_where_others_can_make_one(self, home, secret):
        (home / "o").symlink_to(secret.file)
        assert "symbolic link" in logged(home / "o")[0]


@pytest.mark.parametrize(
    ("plant", "why"),
    [(symlink, "symbolic link owned by user 61001"), (hard_link, "second hard link"), (None, "it is a folder")],
)
def test_check_refuses_what_would_be_refused(home, secret, tmp_path, cli, plant, why):
    if plant:
        plant(secret.file, home / "o")
    else:
        (home / "o").mkdir()
    (tmp_path / "i.ini").write_text(f"[program:p]\ncommand = true\nout_file = {home}/o\nerror_file = {home}/e\n")
    code, out, _ = cli("check", str(tmp_path / "i.ini"))
    assert code == 2
    assert out.count(f"i.ini:3: out_file = {home}/o: ") == out.count("_file = ") == 1
    assert why in out


class TestAFolder:
    def test_is_not_followed_to_write_or_bind_or_remove(self, home, secret):
        symlink(secret.folder, home / "logs")
        assert "symbolic link owned by user 61001" in logged(home / "logs" / "new")[0]
        with pytest.raises(OSError, match="symbolic link owned by user 61001"):
            bind_unix(str(home / "logs" / "s"))
        with pytest.raises(OSError, match="symbolic link"):
            rotation.rotate(str(home / "logs" / "shadow"), 3, compress=True)
        with pytest.raises(OSError, match="symbolic link"):
            open_folder(str(home / "logs" / "deeper"), make=0o755)

    def test_that_is_swapped_on_the_way_does_not_bend_a_socket(self, home, secret):
        """Between the look at the way and the bind."""
        (home / "run").mkdir()
        with address_of(str(home / "run" / "s")) as address, socket.socket(socket.AF_UNIX) as sock:
            os.rename(home / "run", home / "away")
            symlink(secret.folder, home / "run")
            sock.bind(address)
        assert stat.S_ISSOCK((home / "away" / "s").lstat().st_mode)


class TestWhatIsOurs:
    def test_links_of_root_are_followed(self, home, secret, tmp_path):
        (tmp_path / "big").mkdir()
        (tmp_path / "logs").symlink_to("./big/../big")
        assert logged(tmp_path / "logs" / "o") == []
        assert (tmp_path / "big" / "o").read_text() == "a line\n"

    def test_a_socket_on_a_way_of_our_own_has_its_own_name(self, home, secret, tmp_path):
        for parent in (tmp_path, *tmp_path.parents):
            if str(parent).startswith("/tmp/"):
                assert parent.stat().st_uid == 0
        with bind_unix(str(tmp_path / "s")) as sock:
            assert sock.getsockname() == str(tmp_path / "s")

    def test_a_second_name_in_a_folder_of_our_own_is_our_own_doing(self, home, secret, tmp_path):
        (tmp_path / "o").write_text("")
        (tmp_path / "p").hardlink_to(tmp_path / "o")
        tmp_path.chmod(0o755)
        assert logged(tmp_path / "o") == []
        tmp_path.chmod(0o775)
        assert "second hard link" in logged(tmp_path / "o")[0]

    def test_what_is_missing_is_made(self, home, secret, tmp_path):
        os.close(open_file(str(tmp_path / "a" / "b" / "o"), os.O_WRONLY | os.O_CREAT, make=0o750))
        modes = [stat.S_IMODE((tmp_path / each).stat().st_mode) for each in ("a", "a/b", "a/b/o")]
        assert modes == [0o755, 0o750, 0o640]

    def test_a_circle_of_links_ends(self, home, secret, tmp_path):
        (tmp_path / "x").symlink_to("y")
        (tmp_path / "y").symlink_to("x")
        with pytest.raises(OSError) as caught:
            open_folder(str(tmp_path / "x"))
        assert caught.value.errno == errno.ELOOP

    def test_a_file_on_the_way_is_no_folder(self, home, secret):
        with pytest.raises(NotADirectoryError):
            open_folder(str(secret.file / "x"))
