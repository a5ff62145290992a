"""Known errors: what they mean, and what to type to see for oneself."""

from __future__ import annotations

import errno
import subprocess

import pytest

from impetusd.core.explain import causes
from impetusd.core.reasons import because, not_started, said


@pytest.mark.parametrize(
    ("said", "hint", "command"),
    [
        ('sudo: The "no new privileges" flag is set, which prevents sudo from running as root.', "no_new_privs = no", ""),
        ("ModuleNotFoundError: No module named 'shop.db'", "no module shop.db", ""),
        ("/usr/bin/python3: No module named shop", "no module shop", ""),
        ("bind 127.0.0.1:8080 failed: Address already in use", "its port", "ss -ltnp 'sport = :8080'"),
        ("error while attempting to bind on address ('0.0.0.0', 80): address already in use", "port", "ss -ltnp 'sport = :80'"),
        ("OSError: [Errno 98] Address already in use", "its address", "ss -lnp"),
        ("cp: error writing '/srv/x.tar': No space left on device", "disk is full", "df -h /srv/x.tar"),
        ("OSError: [Errno 28] No space left on device: '/var/x'", "disk is full", "df -h /var/x"),
        ("OSError: [Errno 28] No space left on device", "a disk is full", "df -h"),
        ("PermissionError: [Errno 13] Permission denied: '/etc/shadow'", "", "namei -l /etc/shadow"),
        ("cat: /etc/shadow: Permission denied", "", "namei -l /etc/shadow"),
        ("Connect call failed ('127.0.0.1', 5432)", "nothing is listening on 127.0.0.1, port 5432", "nc -vz 127.0.0.1 5432"),
        (
            'connection to server at "db.example", port 5432 failed: Connection refused',
            "nothing is listening on db.example, port 5432",
            "nc -vz db.example 5432",
        ),
        ("redis:6379: Connection refused", "nothing is listening on redis, port 6379", "nc -vz redis 6379"),
        ("ConnectionRefusedError: [Errno 111] Connection refused", "is not listening", ""),
        ("socket.gaierror: [Errno -2] Name or service not known", "cannot be resolved", "resolvectl status"),
        ("looking up user and group failed: getpwnam(): name not found: 'shop'", "user does not exist", "getent passwd shop"),
        ("fatal: Out of memory, malloc failed", "max_memory_restart", "journalctl -k --grep 'Killed process'"),
        ("OSError: [Errno 24] Too many open files", "rlimits = nofile", ""),
    ],
)  # fmt: skip
def test_what_is_known(said, hint, command):
    found = causes.advice(["first", said, "then it ended"])
    assert hint in found.hint
    assert bool(hint) == bool(found.hint)
    assert [what for what, _ in found.commands] == ([command] if command else [])


def error(number):
    return because("os_error", errno=number, detail="")


@pytest.mark.parametrize(
    ("reason", "hint", "command"),
    [
        (not_started("exec", error(errno.EPERM), "/bin/ping"), "file capabilities", "getcap $(command -v /bin/ping)"),
        (not_started("exec", error(errno.EACCES), "/srv/run"), "not executable", "namei -l /srv/run"),
        (not_started("exec", because("no_interpreter", name="/srv/run"), "/srv/run"), "interpreter", "ls -l /srv/run"),
        (not_started("exec", because("no_program", name="source"), "source"), "source is shell syntax; write sh -c '…'", ""),
        (not_started("exec", because("no_program", name="nosuch"), "nosuch"), "set PATH in its [env:…]", "command -v nosuch"),
        (not_started("exec", error(errno.ENOEXEC), "/srv/run"), "needs a first line like #!/bin/sh", "file /srv/run"),
        (not_started("cwd", error(errno.ENOENT), "/srv/x"), "its cwd does not exist", "namei -l /srv/x"),
        (not_started("cwd", error(errno.EACCES), "/srv/x"), "lacks permission", "namei -l /srv/x"),
        (not_started("env_file", error(errno.ENOENT), "/srv/env"), "", "ls -l /srv/env"),
        (not_started("listen", error(errno.EADDRINUSE), "127.0.0.1:8080"), "its port", "ss -ltnp 'sport = :8080'"),
        (not_started("listen", error(errno.EADDRINUSE), "unix:/x"), "its address", "ss -lnp"),
        (not_started("log_pipes", error(errno.EMFILE)), "rlimits = nofile", ""),
        (not_started("host", said("Name or service not known"), "db"), "cannot be resolved", "resolvectl status"),
        (not_started("account", because("no_user", name="shop")), "user does not exist", "getent passwd shop"),
        (because("killed", signal="SIGKILL", oom="out of memory", core=False), "max_memory_restart", "journalctl -k --grep 'Killed process'"),
        (because("unhealthy", cause=because("bad_answer", question="x", answer="x", at="db:5432", errno=errno.ECONNREFUSED)),
         "nothing is listening on db, port 5432", "nc -vz db 5432"),
        (because("bad_answer", question="GET /", answer="503: redis:6379: Connection refused", at="/", errno=0),
         "nothing is listening on redis, port 6379", "nc -vz redis 6379"),
        (because("ledger_lost", path="/var/x", cause=error(errno.ENOSPC), kept=3), "disk is full", "df -h /var/x"),
        (because("gave_up", end=not_started("exec", error(errno.ENOEXEC), "/x"), restarts=3, window_s=60.0), "#!/bin/sh", "file /x"),
    ],
)  # fmt: skip
def test_what_is_known_of_our_own_reasons_goes_by_key_and_facts(reason, hint, command):
    found = causes.of_reasons([reason])
    assert hint in found.hint
    assert bool(hint) == bool(found.hint)
    assert [what for what, _ in found.commands] == ([command] if command else [])


def test_the_last_line_that_is_known_counts():
    assert "port" in causes.advice(["No module named 'x'", "bind: 127.0.0.1:80: address already in use"]).hint


def test_of_what_nobody_knows_nothing_is_guessed():
    assert causes.advice(["ValueError: no"]) == causes.Advice()


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([], ""),
        (["", "  "], ""),
        (["Traceback:", '  File "x"', "ValueError: no", ""], "ValueError: no"),
        (["panic: oh", "  goroutine 1"], "panic: oh"),
        (["  only this"], "only this"),
        (["Traceback (most recent call last):", '  File "x"', "    1/0", "    ~^~", "KeyError: one", "two", "a note"], "KeyError: one"),
        (["Traceback (most recent call last):", '  File "x"', "OSError: handled", "INFO: going on", "bye"], "bye"),
        (["Traceback (most recent call last):", '  File "x"', "OSError: handled", "2026-01-01 12:00 fatal: no disk"], "2026-01-01 12:00 fatal: no disk"),
        (["  + Exception Group Traceback (most recent call last):", '  |   File "x"', "  | ExceptionGroup: all (2 sub-exceptions)", "  +-+---- 1 ----",
          "    | ValueError: no"], "| ExceptionGroup: all (2 sub-exceptions)"),
        (['  File "/a.py", line 1', "    x = = 1", "        ^", "SyntaxError: invalid syntax"], "SyntaxError: invalid syntax"),
        (["ruby.rb:1:in `f': boom (RuntimeError)", "\tfrom ruby.rb:3:in `<main>'"], "ruby.rb:1:in `f': boom (RuntimeError)"),
        (["<internal:x>:85:in 'Kernel#require': cannot load such file -- rack (LoadError)", "\tfrom x:1:in 'y'"],
         "<internal:x>:85:in 'Kernel#require': cannot load such file -- rack (LoadError)"),
        (["panic: boom", "", "goroutine 1 [running]:", "main.main()", "\t/srv/a.go:4 +0x1d", "exit status 2"], "panic: boom"),
        (["fatal error: all goroutines are asleep - deadlock!", "", "goroutine 1 [chan receive]:", "main.main()", "\t/a.go:4 +0x1d"],
         "fatal error: all goroutines are asleep - deadlock!"),
        (["2026/01/02 15:04:05 listen tcp :80: bind: permission denied", "exit status 1"],
         "2026/01/02 15:04:05 listen tcp :80: bind: permission denied"),
        (["PHP Fatal error:  Uncaught Exception: boom in /a.php:3", "Stack trace:", "#0 {main}", "  thrown in /a.php on line 3"],
         "PHP Fatal error:  Uncaught Exception: boom in /a.php:3"),
        (["thread 'main' panicked at src/main.rs:2:5:", "boom", "note: run with `RUST_BACKTRACE=1` environment variable"], "boom"),
        (["thread 'main' panicked at 'boom', src/main.rs:2:5"], "thread 'main' panicked at 'boom', src/main.rs:2:5"),
        (['Exception in thread "main" java.lang.IllegalStateException: outer', "\tat A.main(A.java:3)",
          "Caused by: java.net.BindException: Address already in use", "\tat A.f(A.java:9)", "\t... 1 more"],
         "Caused by: java.net.BindException: Address already in use"),
        (["Error: handled", "    at f (/a.js:1:2)", "    at g (/a.js:1:2) {", "  code: 'X'", "}"], "Error: handled"),
        (["Error: handled", "    at f (/a.js:1:2)", "shutting down"], "shutting down"),
        (["Error: boom", "    at f (/a.js:1:2)", "", "Node.js v20.20.2", "npm ERR! code ELIFECYCLE", "npm ERR! errno 1"], "Error: boom"),
        (["Node.js v20.20.2"], "Node.js v20.20.2"),
        (['{"level":"INFO","msg":"answered"}'], ""),
        (['{"time":1,"level":"error","msg":"no disk"}', '{"time":2,"level":"debug","msg":"bye"}'], '{"time":1,"level":"error","msg":"no disk"}'),
        (['{"level":50,"msg":"no disk"}', '{"level":30,"msg":"bye"}'], '{"level":50,"msg":"no disk"}'),
        (['{"level":300,"msg":"no disk"}'], '{"level":300,"msg":"no disk"}'),
        (["listen: in use", "time=2026-01-02T15:04:05Z level=INFO msg=bye"], "listen: in use"),
    ],
)  # fmt: skip
def test_the_line_that_names_the_error(lines, line):
    assert causes.error_line(lines) == line


UNCAUGHT = [
    ("node", "throw new Error('boom')", "Error: boom"),
    ("node", "throw new Error('one\\ntwo')", "Error: one"),
    ("node", "throw 'just text'", "just text"),
    ("node", "(async () => { throw new TypeError('rejected') })()", "TypeError: rejected"),
    ("node", "Promise.reject({a: 1})", "UnhandledPromiseRejection: This error originated"),
    ("node", "const e = new Error('outer', {cause: new Error('inner')}); e.code = 'X'; throw e", "Error: outer"),
    ("node", "const h = require('http'), s = h.createServer(); s.listen(0, () => h.createServer().listen(s.address().port))",
     "Error: listen EADDRINUSE: address already in use :::"),
    ("node", "require('./nothere')", "Error: Cannot find module './nothere'"),
    ("node", "let a = ;", "SyntaxError: Unexpected token ';'"),
    ("python3", "def f(n):\n  1/0 if n == 0 else f(n - 1)\nf(30)", "ZeroDivisionError: division by zero"),
    ("python3", "try:\n  1/0\nexcept Exception as e:\n  raise ValueError('a\\nb') from e", "ValueError: a"),
    ("python3", "x = = 1", "SyntaxError: invalid syntax"),
]  # fmt: skip


@pytest.mark.parametrize(("runtime", "program", "error"), UNCAUGHT)
def test_of_what_a_real_runtime_says_at_its_end(runtime, program, error, tmp_path):
    file = tmp_path / ("a.js" if runtime == "node" else "a.py")
    file.write_text(program)
    done = subprocess.run([runtime, str(file)], capture_output=True, text=True, check=False, cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode
    assert causes.error_line(lines).startswith(error)
    for most in (20, 8, 5):  # as the ledger keeps it
        last = causes.kept(lines, most)
        assert len(last) <= most
        assert causes.error_line(last).startswith(error), last


def test_the_port_that_node_could_not_have_is_looked_up():
    assert "ss -ltnp 'sport = :8080'" in str(
        causes.advice(["Error: listen EADDRINUSE: address already in use :::8080"])
    )
    assert "ss -ltnp 'sport = :80'" in str(
        causes.advice(["Error: listen EADDRINUSE: address already in use 127.0.0.1:80"])
    )


def test_where_it_hung_is_the_first_frame_of_the_main_thread():
    stacks = ["Fatal Python error: Aborted", "", "Thread 0x1 (most recent call first):", '  File "/a.py", line 1 in other', "",
              "Current thread 0x2 (most recent call first):", '  File "/b.py", line 6 in look_up', '  File "/c.py", line 9 in main']  # fmt: skip
    assert causes.hang_location(stacks) == "in look_up, /b.py line 6"
    assert causes.hang_location(["nothing"]) == ""


def test_what_the_shell_means():
    assert "not find" in causes.of_exit_code(127)
    assert causes.of_exit_code(1) == causes.of_exit_code(None) == ""
