"""impetusd-postgres, as the supervisor sees it: one process that becomes the server."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from server import Postgres, run
from waiting import until

import impetusd.postgres
from impetusd.postgres import host
from impetusd.postgres import main as entry
from impetusd.postgres.temporary import NotStarted, temporary_server

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def port() -> Iterator[int]:
    """A free one that nobody else gets: it is bound, and the server may listen there all the same."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def ask(server: Postgres, sql: str, user: str = "impetus") -> Any:
    async def main() -> Any:
        connection = await asyncpg.connect(f"postgresql:///impetus?host={server.sockets}&user={user}")
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return run(main())


def in_use(data: Path) -> bool:
    """Whether a process holds the lock of a data directory, which everything that works there inherits."""
    fd = os.open(data, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def account_of(server: Postgres) -> pwd.struct_passwd:
    return pwd.getpwuid(server.data.stat().st_uid)


def test_first_start_makes_role_and_database(shared_postgres):
    assert ask(shared_postgres, "SELECT current_user || ' ' || current_database()") == "impetus impetus"
    assert ask(shared_postgres, "SHOW server_encoding") == "UTF8"
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'impetus'"
    assert ask(shared_postgres, owner) == "impetus"
    assert ask(shared_postgres, "SELECT rolsuper FROM pg_roles WHERE rolname = 'impetus'") is False


def test_statements_are_counted_for_the_slow_query_report(shared_postgres):
    if ask(shared_postgres, "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'") == 0:
        pytest.skip("this PostgreSQL comes without pg_stat_statements")
    assert ask(shared_postgres, "SELECT count(*) FROM pg_stat_statements") >= 0


def test_listens_on_the_unix_socket_only(shared_postgres):
    assert ask(shared_postgres, "SHOW listen_addresses") == ""


def test_on_a_port_the_role_needs_its_password_which_each_start_sets(postgres, port):
    secret = postgres.root / "secret"

    def over_tcp(password: str) -> Any:
        async def main() -> Any:
            url = f"postgresql://impetus@127.0.0.1:{port}/impetus"
            connection = await asyncpg.connect(url, password=password)
            try:
                return await connection.fetchval("SELECT current_user")
            finally:
                await connection.close()

        return run(main())

    for password in ("it's \\ one", "another"):
        secret.write_text(f"{password}\nnot this\n")
        postgres.start("--port", str(port), "--password-file", str(secret))
        assert f"DATABASE_URL=postgresql://impetus@127.0.0.1:{port}/impetus" in postgres.log.read_text()
        assert over_tcp(password) == "impetus"
        with pytest.raises(asyncpg.InvalidPasswordError):
            over_tcp("wrong")
        assert postgres.stop() == 0
    assert "another" not in postgres.log.read_text()


def test_a_port_without_a_password_is_refused(new_postgres):
    status, said = new_postgres.refused("--port", "5433")
    assert (status, "--port and --password-file must be used together" in said) == (2, True)
    (new_postgres.root / "empty").write_text("\n")
    status, said = new_postgres.refused("--port", "5433", "--password-file", str(new_postgres.root / "empty"))
    assert (status, "the first line is empty" in said) == (host.EX_CONFIG, True)
    assert not new_postgres.data.exists()


def test_the_url_of_a_server_is_printed(postgres, capfd):
    with pytest.raises(SystemExit, match="0"):
        entry.main(["--socket-dir", "/run/a shop", "--database", "shop", "--role", "me", "--print-url"])
    assert capfd.readouterr().out == "postgresql:///shop?host=/run/a%20shop&user=me\n"
    postgres.start()
    assert f"DATABASE_URL={postgres.url}\n" in postgres.log.read_text()


def test_a_server_for_tests_comes_and_goes(monkeypatch):
    with temporary_server("shop") as url:
        folder = Path(url.partition("host=")[2].partition("&")[0]).parent

        async def main() -> Any:
            connection = await asyncpg.connect(url)
            found = await connection.fetchval("SELECT current_user || ' ' || current_database()")
            await connection.close()
            return found

        assert run(main()) == "shop shop"
    assert not folder.exists()
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(NotStarted, match="ended with exit code 1"), temporary_server():
        pass


def test_ready_comes_from_a_child_of_the_main_process(shared_postgres):
    assert shared_postgres.ready[1] == shared_postgres.process.pid


def test_main_process_is_the_server(shared_postgres):
    recorded = (shared_postgres.data / "postmaster.pid").read_text().split()[0]
    assert int(recorded) == shared_postgres.process.pid


@as_root
def test_root_becomes_another_user_who_cannot_reach_the_directories_by_name(shared_postgres):
    assert shared_postgres.root.stat().st_uid == 0
    assert shared_postgres.root.stat().st_mode & 0o777 == 0o700
    expected = account_of(shared_postgres)
    assert expected.pw_uid != 0
    status = Path(f"/proc/{shared_postgres.process.pid}/status").read_text()
    assert re.search(r"^Uid:(.*)$", status, re.MULTILINE)[1].split() == [str(expected.pw_uid)] * 4
    assert re.search(r"^Gid:(.*)$", status, re.MULTILINE)[1].split() == [str(expected.pw_gid)] * 4
    groups = os.getgrouplist(expected.pw_name, expected.pw_gid)
    assert set(map(int, re.search(r"^Groups:(.*)$", status, re.MULTILINE)[1].split())) == set(groups)
    assert int(re.search(r"^CapEff:\s*(\w+)$", status, re.MULTILINE)[1], 16) == 0


def test_the_helper_that_notifies_leaves_and_nothing_is_left_at_the_end(postgres):
    postgres.start()
    helper = Path(f"/proc/{postgres.ready[0]}")
    run(until(lambda: not helper.exists()))
    assert ask(postgres, "SELECT 1") == 1  # PostgreSQL took its leaving for no crash
    assert "terminating any other active server processes" not in postgres.log.read_text()
    assert postgres.stop(signal.SIGINT) == 0
    assert postgres.processes() == []
    assert list(postgres.sockets.iterdir()) == []


def test_data_survive_a_stop_and_ten_kills(postgres):
    postgres.start()
    ask(postgres, "CREATE TABLE kept (n int)")
    assert postgres.stop() == 0
    for number in range(10):
        postgres.start()
        ask(postgres, f"INSERT INTO kept VALUES ({number})")
        assert postgres.stop(signal.SIGKILL) == -signal.SIGKILL
    postgres.start()
    assert ask(postgres, "SELECT count(*) FROM kept") == 10


def test_a_killed_server_whose_backend_still_computes_does_not_hold_up_the_next(postgres):
    postgres.start()

    async def main() -> None:
        connection = await asyncpg.connect(postgres.url)
        busy = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 1000000000000)"))
        watch = await asyncpg.connect(postgres.url)
        both = "SELECT count(*) = 2 FROM pg_stat_activity WHERE state = 'active'"
        await until(lambda: watch.fetchval(both))
        await watch.close()
        postgres.stop(signal.SIGKILL)
        await asyncio.to_thread(postgres.start)
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await busy
        connection.terminate()

    run(main())
    assert ask(postgres, "SELECT 1") == 1


def preparing(server: Postgres) -> str:
    """The directory of a server whose preparation does not come to its end as long as the process lives that began it."""
    server.root.chmod(0o755)
    real = Path(host.find_server(None, str(server.data), account()).bindir)
    bindir = server.root / "bin"
    bindir.mkdir()
    for program in real.iterdir():
        if program.name != "initdb":
            (bindir / program.name).symlink_to(program)
    wait = "while [ -d /proc/$PPID ]; do sleep 0.02; done"
    (bindir / "initdb").write_text(f'#!/bin/sh\n"{real}/initdb" "$@" && {wait}\n')
    (bindir / "initdb").chmod(0o755)
    return str(bindir)


def test_killed_in_the_middle_of_its_preparation_it_begins_anew(new_postgres):
    new_postgres.spawn("--bindir", preparing(new_postgres))
    new = Path(f"{new_postgres.data}.new")
    run(until((new / "global").exists))
    new_postgres.stop(signal.SIGKILL)
    assert not new_postgres.data.exists()
    new_postgres.start()
    assert ask(new_postgres, "SELECT 1") == 1
    assert not new.exists()


def test_a_stop_during_the_preparation_is_obeyed(new_postgres):
    new_postgres.spawn("--bindir", preparing(new_postgres))
    run(until(lambda: Path(f"{new_postgres.data}.new", "global").exists()))
    assert new_postgres.stop(signal.SIGINT) == 0
    assert not new_postgres.data.exists()
    assert not in_use(Path(f"{new_postgres.data}.new"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_all_that_prepares_before_it_ends_itself(new_postgres, number):
    new_postgres.root.chmod(0o755)
    bindir = Path(fake_server(new_postgres.root / "bin", "18.0"))
    (bindir / "initdb").write_text('#!/bin/sh\ntrap "" INT TERM\nsleep 600 &\necho > "$2/begun"\nwait\n')
    (bindir / "initdb").chmod(0o755)
    new = Path(f"{new_postgres.data}.new")
    new_postgres.spawn("--bindir", str(bindir))
    run(until((new / "begun").exists))
    assert in_use(new)
    assert new_postgres.stop(number) == 0
    assert not in_use(new)


def test_two_starts_at_once_make_one_data_directory(new_postgres):
    second = Postgres(new_postgres.root)
    second.sockets = new_postgres.root / "s2"
    second.log = new_postgres.root / "log2"
    impatient = "from impetusd.postgres import main; main.GIVE_UP_AFTER = 0.2; main.main()"
    new_postgres.command = second.command = [sys.executable, "-c", impatient]
    starts = {one.spawn(): one for one in (new_postgres, second)}
    try:
        run(until(lambda: any(process.poll() is not None for process in starts)))
        (refused,) = (process for process in starts if process.poll() is not None)
        (server,) = (process for process in starts if process is not refused)
        assert refused.returncode == host.EX_TEMPFAIL
        assert "is in use" in starts[refused].log.read_text()
        run(until((starts[server].sockets / ".s.PGSQL.5432").exists))
        assert server.poll() is None
    finally:
        for one in (new_postgres, second):
            one.stop()


def test_lock_files_of_a_killed_server_whose_pid_is_another_programs_now(postgres):
    postgres.start()
    postgres.stop(signal.SIGKILL)
    account = account_of(postgres)
    other = subprocess.Popen(["sleep", "600"], user=account.pw_uid if os.geteuid() == 0 else None)
    try:
        for lock in (postgres.data / "postmaster.pid", postgres.sockets / ".s.PGSQL.5432.lock"):
            lines = lock.read_text().splitlines()
            lock.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        postgres.start()
        assert ask(postgres, "SELECT 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_data_of_another_major_are_refused_and_left_alone(postgres):
    postgres.start()
    postgres.stop()
    (postgres.data / "PG_VERSION").write_text("13\n")
    status, said = postgres.refused()
    assert status == host.EX_CONFIG
    assert f"{postgres.data} was created by PostgreSQL 13, but " in said
    assert "install PostgreSQL 13" in said
    assert "Traceback" not in said


def test_a_directory_that_is_no_data_directory_is_left_alone(new_postgres):
    new_postgres.data.mkdir()
    (new_postgres.data / "letter").write_text("mine")
    status, said = new_postgres.refused()
    assert status == host.EX_CONFIG
    assert "not empty, but not a PostgreSQL data directory" in said
    assert [file.name for file in new_postgres.data.iterdir()] == ["letter"]


def test_an_empty_directory_is_taken(new_postgres):
    new_postgres.data.mkdir()
    new_postgres.start()
    assert ask(new_postgres, "SELECT 1") == 1


def test_too_long_a_socket_path_is_told(new_postgres):
    new_postgres.sockets = new_postgres.root / ("s" * 100)
    status, said = new_postgres.refused()
    assert status == host.EX_CONFIG
    assert "limited to 107 bytes" in said


@pytest.mark.parametrize("option", [["--role", "postgres"], ["--database", 'a"; DROP'], ["--role", ""]])
def test_names_that_are_none_are_refused(new_postgres, option):
    status, said = new_postgres.refused(*option)
    assert status == 2
    assert "is reserved" in said


def test_bindir_without_a_server_is_told(new_postgres):
    status, said = new_postgres.refused("--bindir", str(new_postgres.root))
    assert status == host.EX_CONFIG
    assert f"{new_postgres.root}/postgres" in said


@as_root
@pytest.mark.parametrize(
    ("user", "why"), [("root", "refuses to run as root"), ("no-such-user", "no such user on this host")]
)
def test_a_user_that_cannot_run_it_is_told(new_postgres, user, why):
    status, said = new_postgres.refused("--user", user)
    assert status == host.EX_CONFIG
    assert why in said


@as_root
def test_the_owner_of_existing_data_runs_it(new_postgres):
    new_postgres.start("--user", "nobody")
    new_postgres.stop()
    new_postgres.start()
    assert account_of(new_postgres).pw_name == "nobody"
    new_postgres.stop()
    status, said = new_postgres.refused("--user", "postgres") if has_user("postgres") else (78, "belongs to nobody")
    assert status == host.EX_CONFIG
    assert "belongs to nobody" in said


def has_user(name: str) -> bool:
    return any(entry.pw_name == name for entry in pwd.getpwall())


@as_root
def test_only_allowed_system_users_get_in(postgres):
    postgres.root.chmod(0o755)
    postgres.start()

    def as_nobody() -> Any:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            return ask(postgres, "SELECT current_user")
        finally:
            os.seteuid(0)

    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        as_nobody()
    postgres.stop()
    postgres.start("--allow", "nobody")
    assert as_nobody() == "impetus"


def test_an_ordinary_user_runs_it_as_itself(new_postgres):
    if os.geteuid() == 0:
        interpreter = shutil.which("python3", path="/usr/bin:/usr/local/bin")
        if interpreter is None or subprocess.call(
            [interpreter, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        ):
            pytest.skip("no python 3.11 that another user may execute")
        package = new_postgres.root / "impetusd"
        shutil.copytree(Path(impetusd.postgres.__file__).parents[1], package)
        shutil.chown(new_postgres.root, "nobody")
        new_postgres.user = "nobody"
        new_postgres.command = [interpreter, "-B", "-m", "impetusd.postgres.main"]
        new_postgres.environment["PYTHONPATH"] = str(new_postgres.root)
        subprocess.check_call(["chmod", "-R", "a+rX", package])
    new_postgres.start()
    us = account_of(new_postgres)
    assert us.pw_uid == (pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid())
    assert ask(new_postgres, "SELECT current_user") == "impetus"
    assert new_postgres.stop() == 0
    status, said = new_postgres.refused("--user", "postgres")
    assert status == host.EX_CONFIG
    assert "only root can start the server as another user" in said


def account() -> host.Account:
    us = pwd.getpwuid(os.geteuid())
    return host.Account(us.pw_name, us.pw_uid, us.pw_gid, drop=False)


def fake_server(directory: Path, version: str) -> str:
    directory.mkdir(parents=True)
    program = directory / "postgres"
    program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
    program.chmod(0o755)
    return str(directory)


def test_the_highest_version_of_the_system_comes_first_and_data_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "SYSTEM_BINDIRS", (f"{tmp_path}/pg/*/bin",))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    nine, seventeen, fifteen = (
        fake_server(tmp_path / "pg" / major / "bin", f"{major}.1 (Debian)") for major in ("9", "17", "15")
    )
    data = tmp_path / "data"
    assert host.find_server(None, str(data), account()) == host.Server(seventeen, 17)
    data.mkdir()
    (data / "PG_VERSION").write_text("15\n")
    assert host.find_server(None, str(data), account()) == host.Server(fifteen, 15)
    with pytest.raises(host.Refusal, match="is PostgreSQL 9; 15 or newer is needed"):
        host.find_server(nine, str(tmp_path / "none"), account())


def test_without_any_server_the_sentence_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "SYSTEM_BINDIRS", ())
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(host, "find_spec", lambda _name: None)
    with pytest.raises(host.Refusal, match=r"apt-get install postgresql.*impetusd\[postgres\]") as refusal:
        host.find_server(None, str(tmp_path / "data"), account())
    assert refusal.value.status == host.EX_UNAVAILABLE


@as_root
def test_binaries_that_the_user_may_not_execute_are_told(tmp_path):
    bindir = fake_server(tmp_path / "closed" / "bin", "18.0")
    (tmp_path / "closed").chmod(0o700)
    nobody = pwd.getpwnam("nobody")
    with pytest.raises(host.Refusal, match="user nobody cannot execute"):
        host.find_server(
            bindir, str(tmp_path / "data"), host.Account("nobody", nobody.pw_uid, nobody.pw_gid, drop=True)
        )


def test_data_in_use_are_given_up_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(entry, "GIVE_UP_AFTER", 0.05)
    holder, waiter = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(host.Refusal, match="is in use") as refusal:
            entry._wait_for(waiter, str(tmp_path), account())
        assert refusal.value.status == host.EX_TEMPFAIL
    finally:
        os.close(holder)
        os.close(waiter)
