"""From an INI file to a configuration, or to every problem in it at once."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impetusd.core.config import agreement, describe, ini, location, parser, reading, schema
from impetusd.core.config.include import Source
from impetusd.core.config.model import Action, Autorestart, Host, Kind, Listen, Overlap, Ready
from impetusd.core.config.problem import ConfigError
from impetusd.core.rules import plan

USERS = {"nobody", "www-data"}
ROOT = Host(euid=0, cpus=4, user_exists=USERS.__contains__, group_exists=USERS.__contains__)
MORTAL = Host(euid=1000, cpus=4, user_exists=USERS.__contains__, group_exists=USERS.__contains__)
FILE = "/srv/shop/impetusd.ini"
DB = "[program:db]\ncommand = postgres\n"
WEB = "[pool:web]\napp = shop.web:app\nlisten = 127.0.0.1:8080\n"
TIDY = "[timer:tidy]\ncommand = tidy\ncron = @daily\n"

TEN_MISTAKES = """\
[impetusd]
run_dirs = /run/shop ; wrong

[pool:web]
app = shop.web ; wrong
listen = 8080 ; wrong
depends_on = database ; wrong
kill_timeout = 10 ; wrong

[program:db ; wrong
command = postgres -D '/data ; wrong
user = nobody ; wrong
env_file ${X} ; wrong

[env:api] ; wrong
A = 1
"""


def parse(text, *, path=FILE, host=MORTAL, **environ):
    return parser.parse(text, path, environ, host)


def unit(text, **more):
    (found,) = parse(text, **more).units.values()
    return found


def problems(text, **more):
    """(line, text) of each."""
    with pytest.raises(ConfigError) as caught:
        parse(text, **more)
    assert all(str(problem).startswith(f"{FILE}:{problem.line}: ") for problem in caught.value.problems)
    return [(problem.line, problem.text) for problem in caught.value.problems]


class TestDirectories:
    def test_anywhere_they_are_in_var_beside_the_file(self):
        paths = parse("").paths
        assert (paths.conf, paths.base_dir) == (FILE, "/srv/shop")
        assert paths.run_dir == "/srv/shop/var/run"
        assert paths.state_dir == "/srv/shop/var/lib"
        assert paths.log_dir == "/srv/shop/var/log"

    def test_for_a_file_in_etc_they_are_the_systems(self):
        paths = parse("", path="/etc/impetusd/impetusd.ini").paths
        assert paths.base_dir == "/etc/impetusd"
        assert (paths.run_dir, paths.state_dir, paths.log_dir) == (
            "/run/impetusd",
            "/var/lib/impetusd",
            "/var/log/impetusd",
        )

    def test_relative_ones_begin_at_base_dir_and_that_at_the_files_folder(self):
        paths = parse("[impetusd]\nbase_dir = ../x\nrun_dir = r\nlog_dir = /l\n").paths
        assert (paths.base_dir, paths.run_dir, paths.log_dir) == ("/srv/x", "/srv/x/r", "/l")

    def test_each_may_refer_to_those_before_it(self):
        text = "[impetusd]\nbase_dir = ${CONF_DIR}/${X}\nrun_dir = ${BASE_DIR}/r\nlog_dir = ${RUN_DIR}/l"
        assert parse(text, X="x").paths.log_dir == "/srv/shop/x/r/l"

    def test_and_not_to_those_after_it(self):
        assert problems("[impetusd]\nbase_dir = ${RUN_DIR}/x", RUN_DIR="/tmp") == [
            (2, "base_dir = ${RUN_DIR}/x: ${RUN_DIR} is not available here; write the path")
        ]

    def test_a_path_too_long_for_a_socket_is_told_with_the_key_to_set(self):
        (problem,) = problems(f"[impetusd]\nrun_dir = /{'x' * 200}")
        assert problem[0] == 2
        assert (
            "bytes long, but a socket path is limited to 107; set run_dir in [impetusd] to a shorter path" in problem[1]
        )

    def test_bytes_count_not_characters(self):
        fits = f"/{'x' * (107 - len('/control.sock') - 1)}"
        parse(f"[impetusd]\nrun_dir = {fits}")
        problems(f"[impetusd]\nrun_dir = {fits[:-1]}é")

    def test_the_files_path_must_be_absolute(self):
        with pytest.raises(ValueError, match="absolute"):
            parse("", path="impetusd.ini")


class TestLocate:
    def test_it_overlooks_mistakes_that_are_elsewhere(self):
        text = "junk\n[impetusd]\nrun_dir = r\nnonsense = 1\nrun_dir = s\n[pool:web\nkill_timeout = ten\n[what]\n"
        assert location.locate(text, FILE, {}).run_dir == "/srv/shop/r"
        problems(text)

    def test_it_agrees_with_parse(self):
        text = "[impetusd]\nstate_dir = ${S:-s}\n"
        assert location.locate(text, FILE, {}) == parse(text).paths

    def test_it_cannot_overlook_what_leaves_the_place_open(self):
        with pytest.raises(ConfigError) as caught:
            location.locate("[impetusd]\nrun_dir = ${NOWHERE}/run\n", FILE, {})
        assert [problem.line for problem in caught.value.problems] == [2]

    @given(st.text(max_size=200))
    def test_no_text_makes_it_fail_otherwise(self, text):
        try:
            location.locate(text, FILE, {})
        except ConfigError:
            assert "[impetusd]" in text


class TestUnits:
    def test_where_each_key_is_written_is_known_and_makes_no_other_unit_of_it(self):
        db = unit("[program:db]\ncommand = postgres\n\n; how long\nkill_timeout = 30s\n")
        assert describe.origins(db) == {"command": f"{FILE}:2", "kill_timeout": f"{FILE}:5"}
        assert db == unit("[program:db]\ncommand = postgres\nkill_timeout = 30s\n")

    def test_what_units_have_in_common_is_kept_once(self):
        each = "command = sleep 1000\nkill_timeout = 41.5s\nmax_restarts = 100000\n"
        text = f"[env]\nA = 1\n[env:c]\nB = 2\n[program:a]\n{each}[program:b]\n{each}[program:c]\n{each}"
        a, b, c = parse(text).units.values()
        for name in ("command", "kill_timeout", "max_restarts", "lines", "env"):
            assert getattr(a, name) is getattr(b, name), name
        assert (b.command, b.kill_timeout, b.max_restarts) == (("sleep", "1000"), 41.5, 100000)
        assert (a.env, b.env, c.env) == ({"A": "1"}, {"A": "1"}, {"A": "1", "B": "2"})
        lines = text.splitlines()
        for one in (a, b, c):
            at = {key: int(place.rpartition(":")[2]) for key, place in describe.origins(one).items()}
            assert at.keys() == {"command", "kill_timeout", "max_restarts"}
            assert all(lines[line - 1].startswith(key) for key, line in at.items())
        assert len({tuple(describe.origins(one).items()) for one in (a, b, c)}) == 3

    def test_a_program_needs_a_command_and_has_defaults_for_the_rest(self):
        db = unit(DB)
        assert (db.name, db.kind, db.where) == ("db", Kind.PROGRAM, f"{FILE}:1")
        assert (db.command, db.app, db.standby, db.drain_timeout) == (("postgres",), "", 0, 0.0)
        assert (db.enabled, db.autostart, db.instances, db.wait_ready) == (True, True, 1, False)
        assert (db.autorestart, db.min_uptime, db.max_restarts, db.restart_window) == (Autorestart.ALWAYS, 1, 16, 60)
        assert (db.restart_delay, db.exp_backoff_restart_delay, db.exp_backoff_max_delay) == (0, 0.1, 5)
        assert (db.kill_signal, db.kill_timeout, db.treekill, db.listen_timeout) == (15, 10, True, 30)
        assert (db.cwd, db.user, db.umask, db.env, db.out_file) == ("/srv/shop", "", 0o022, {}, "")

    def test_a_pool_needs_an_app_and_an_address_and_always_waits_until_it_is_ready(self):
        web = unit(WEB)
        assert (web.kind, web.command, web.app) == (Kind.POOL, (), "shop.web:app")
        assert web.listen == (Listen("127.0.0.1", 8080),)
        assert (web.wait_ready, web.preload, web.standby, web.backlog, web.drain_timeout) == (True, True, 1, 65535, 5)

    def test_units_are_in_the_files_order(self):
        assert list(parse(WEB + DB + "[program:a]\ncommand = a\n").units) == ["web", "db", "a"]

    @pytest.mark.parametrize(
        ("written", "cpus", "least", "most"),
        [("3", 4, 3, 3), ("max", 4, 4, 4), ("-1", 4, 3, 3), ("-1", 1, 1, 1), ("max", 0, 1, 1), ("2..8", 4, 2, 8)],
    )
    def test_instances_are_a_number_or_of_the_cpus_or_a_range(self, written, cpus, least, most):
        db = unit(f"{DB}instances = {written}", host=dataclasses.replace(MORTAL, cpus=cpus))
        assert (db.instances, db.instances_max) == (least, most)

    def test_what_watches_over_it_is_off_but_for_a_pools_watchdog(self):
        web, db = parse(WEB + DB).units.values()
        assert (web.watchdog, db.watchdog) == (30, 0)
        for one in (web, db):
            assert (one.retry_after, one.cron_restart, one.timezone, one.max_age, one.watch) == (0, "", "", 0, ())
            assert (one.max_memory_restart, one.memory_hold, one.max_memory_kill, one.ready) == (0, 0, 0, None)
            assert (one.time, one.log_format, one.log_max_size, one.log_max_age) == (False, "plain", 0, 0)
            assert (one.log_keep, one.log_compress, one.increment_var, one.per_instance) == (7, True, "", frozenset())

    def test_and_is_what_it_is_set_to(self):
        text = "max_memory_restart = 200M\nmax_memory_kill = 1G\nready = log:up$\nwatch = src, /a b\nwatch_ignore = *.log\n"
        db = unit(DB + text + "cron_restart = 0  3 * * *\ntimezone = Europe/Lisbon\nlog_format = json\ntime = yes")
        assert (db.max_memory_restart, db.max_memory_kill, db.ready) == (200 << 20, 1 << 30, Ready("log", "up$"))
        assert (db.watch, db.watch_ignore) == (("/srv/shop/src", "/a b"), ("*.log",))
        assert (db.cron_restart, db.timezone, db.log_format, db.time) == ("0 3 * * *", "Europe/Lisbon", "json", True)

    def test_paths_begin_at_base_dir(self):
        text = "cwd = app\nout_file = out.log\nenv_file = a b.env, /c.env, - d.env, -/e.env\nlisten = unix:s.sock\nerror_file = /e"
        db = unit("[impetusd]\nbase_dir = /b\n" + DB + text)
        assert (db.cwd, db.out_file, db.error_file) == ("/b/app", "/b/out.log", "/e")
        assert db.env_file == ("/b/a b.env", "/c.env", "-/b/d.env", "-/e.env")
        assert db.listen == (Listen("", 0, "/b/s.sock"),)

    @pytest.mark.parametrize(
        ("written", "meant"), [("python3.12", "python3.12"), ("v/bin/python", "/srv/shop/v/bin/python")]
    )
    def test_an_interpreter_is_a_path_or_a_name_to_look_up(self, written, meant):
        assert unit(WEB + f"interpreter = {written}").interpreter == meant

    def test_a_value_that_expands_to_nothing_takes_its_default(self):
        db = unit(DB + "kill_timeout = ${KT}\nuser =\nenabled = ${URL:+no}\nmax_restarts = 0", KT="")
        assert (db.kill_timeout, db.user, db.enabled, db.max_restarts) == (10, "", True, 0)
        assert not unit(DB + "enabled = ${URL:+no}", URL="x").enabled

    def test_quotes_around_a_value_are_no_part_of_it(self):
        assert unit(DB + "cwd = '/a ; b'").cwd == "/a ; b"
        assert unit("[program:p]\ncommand = '/a b/c'").command == ("/a b/c",)
        assert unit("[program:p]\ncommand = 'a' 'b c'").command == ("a", "b c")

    def test_a_command_may_go_on_over_lines_and_keeps_our_directories_whole(self):
        text = "[impetusd]\nbase_dir = /my app\n[program:p]\ncommand = run --dir ${STATE_DIR}/p\n    --more ${ARGS} ; not this"
        assert unit(text, ARGS="a b").command == ("run", "--dir", "/my app/var/lib/p", "--more", "a", "b")


class TestEnvironment:
    def test_a_units_environment_is_its_env_section_wherever_that_stands(self):
        env = "[env:db]\nA = 1 ; one\nb = ${X:-y}\nC =\nD = ' d '\nE = 50$$\n"
        for text in (DB + env, env + DB):
            assert unit(text).env == {"A": "1", "b": "y", "C": "", "D": " d ", "E": "50$"}

    def test_it_may_hold_a_variable_called_as_a_key(self):
        assert unit(DB + "[env:db]\ncommand = 'x'").env == {"command": "x"}

    def test_its_values_are_in_no_message(self):
        found = problems(
            DB + "[env:db]\nPASSWORD = s3cret${UNSET}\nX+Y = s3cret\nLISTEN_FDS = s3cret\nPW s3cret\nP = ${P-s3cret}"
        )
        assert [line for line, _ in found] == [4, 5, 6, 7, 8]
        assert "s3cret" not in str(found)

    def test_it_must_belong_to_a_unit(self):
        assert problems(DB + "[env:dbb]\nA = 1\n[env:]") == [
            (3, "[env:dbb]: no unit 'dbb'; did you mean [env:db]?"),
            (5, "[env:] has no name; write [env:NAME] for the unit NAME, or [env] for all"),
        ]

    def test_of_all_is_laid_under_that_of_each(self):
        text = "[env]\nA = all\nB = all ${INSTANCE}\n" + DB + "[env:db]\nA = own\n[health:db]\nexec = ask\n"
        config = parse(text)
        assert config.units["db"].env == {"A": "own", "B": "all 0"}
        assert config.units["db"].per_instance == {"B"}
        assert config.health["db"].unit.env == {"A": "own", "B": "all 0"}
        assert parse(TIDY + "[env]\nA = all\n").timers["tidy"].unit.env == {"A": "all"}

    def test_what_increment_var_counts_from_may_be_that_of_all(self):
        assert parse("[env]\nPORT = 8000\n" + DB + "increment_var = PORT\n").units["db"].env == {"PORT": "8000"}
        assert problems("[env]\nPORT = x\n" + DB + "increment_var = PORT\n") == [
            (2, "PORT must be a whole number, because increment_var of [program:db] adds to it; write one")
        ]

    @pytest.mark.parametrize("word", ["!", "A=1", "$HOME", "ä", "*/"])
    def test_what_is_handed_on_is_named(self, word):
        ((line, said),) = problems(DB + f"env_pass = *, {word.replace('$', '$$')}\n")
        assert line == 3
        assert f"{word} is not a variable name or pattern; write names or patterns like *, !AWS_*" in said

    def test_a_name_may_have_dots_and_dashes_as_docker_has_them(self):
        assert unit(DB + "[env:db]\ndiscovery.type = x\nX-Y = z").env == {"discovery.type": "x", "X-Y": "z"}


class TestIpv6Wildcard:
    def listen(self, value, rules=ini.RULES):
        text = f"[program:p]\ncommand = p\nlisten = {value}\n"
        found = parser.parse_all(Source(FILE, text), {}, MORTAL, rules=rules)
        return [str(each) for each in found.units["p"].listen], [each.place for each in found.units["p"].listen]

    def test_it_is_as_the_host_has_it_unless_it_is_told_or_stands_beside_that_of_ipv4(self):
        assert self.listen("[::]:80") == (["[::]:80"], ["[::]:80 v6only=host"])
        assert self.listen("[::]:80 v6only=no") == (["[::]:80 v6only=no"], ["[::]:80 v6only=no"])
        assert self.listen("0.0.0.0:80, [::]:80") == (["0.0.0.0:80", "[::]:80 v6only=yes"], ["0.0.0.0:80", "[::]:80"])
        assert self.listen("0.0.0.0:81, [::]:80")[0] == ["0.0.0.0:81", "[::]:80"]

    def test_what_runs_keeps_a_socket_of_ipv6_alone_until_it_is_applied(self):
        text = "[program:p]\ncommand = p\nlisten = [::]:80\n"
        old, new = (parser.parse_all(Source(FILE, text), {}, MORTAL, rules=rules) for rules in (1, ini.RULES))
        (change,) = plan.plan(lambda _: old, lambda _: new, lambda _: 1)
        assert change.effect is plan.Effect.RESTART
        assert [(key.name, key.old, key.new) for key in change.keys] == [("listen", "[::]:80 v6only=yes", "[::]:80")]

    @pytest.mark.parametrize(
        ("one", "other", "clash"),
        [
            ("[::]:80", "0.0.0.0:80", True),
            ("[::]:80", "127.0.0.1:80", True),
            ("[::]:80", "[::1]:80", True),
            ("[::]:80", "127.0.0.1:81", False),
            ("[::]:80 v6only=yes", "0.0.0.0:80", False),
            ("[::]:80 v6only=yes", "[::1]:80", True),
            ("0.0.0.0:80", "[::1]:80", False),
        ],
    )
    def test_which_addresses_are_in_its_way(self, one, other, clash):
        for first, second in ((one, other), (other, one)):
            text = f"[program:p]\ncommand = p\nlisten = {first}\n[program:q]\ncommand = q\nlisten = {second}\n"
            told = []
            try:
                parse(text)
            except ConfigError as error:
                told = [problem.text for problem in error.problems]
            assert bool(told) == clash
            assert all("uses the same address" in each for each in told)

    def test_there_are_no_sockets_in_the_abstract_namespace(self):
        text = "[program:p]\ncommand = p\nlisten = unix:@web"
        assert "any user could connect; write a path without @" in problems(text)[0][1]


class TestOneshot:
    ONESHOT = "[program:p]\ncommand = p\ntype = oneshot\n"

    def test_it_is_not_started_again_and_may_take_any_time_unless_it_is_told(self):
        found = unit(self.ONESHOT)
        assert (found.autorestart, found.listen_timeout) == (Autorestart.NEVER, 0.0)
        found = unit(self.ONESHOT + "autorestart = on-failure\nlisten_timeout = 5m")
        assert (found.autorestart, found.listen_timeout) == (Autorestart.ON_FAILURE, 300.0)

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("autorestart = always", "exits when its work is done; write on-failure or never"),
            ("wait_ready = yes", "wait_ready does not apply to type = oneshot; remove it"),
            ("max_age = 1h", "max_age does not apply to type = oneshot"),
            ("cron_restart = @daily", "cron_restart does not apply to type = oneshot"),
        ],
    )
    def test_what_is_for_others_is_refused(self, line, told):
        assert told in problems(self.ONESHOT + line)[0][1]


class TestProtocols:
    POOL = "[pool:w]\napp = a:b\nlisten = unix:s\n"

    def test_root_path_is_that_of_a_url(self):
        assert unit(self.POOL + "root_path = /shop/").root_path == "/shop"
        assert "start it with /" in problems(self.POOL + "root_path = shop")[0][1]

    @pytest.mark.parametrize(
        ("lines", "told"),
        [
            ("protocol = asgi\nthreads = 4", "threads applies only to wsgi, but protocol = asgi; remove one of them"),
            (
                "protocol = aiohttp\nroot_path = /a",
                "root_path applies only to asgi and wsgi, but protocol = aiohttp; remove one of them",
            ),
            ("protocol = http", "write auto, aiohttp, asgi or wsgi"),
        ],
    )
    def test_what_is_for_another_is_refused(self, lines, told):
        assert told in problems(self.POOL + lines)[0][1]

    def test_where_the_application_tells_all_may_be_given(self):
        assert unit(self.POOL + "threads = 4\nroot_path = /a").protocol == "auto"


class TestIndentedKeys:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[program:p]\ncommand = x\n  user = bob", "sets user, is indented and would become part of command"),
            ("[program:p]\ncommand = x 'a\n  nice = 1'\n  --b\n  nice=1", "sets nice, is indented"),
            (
                "[program:p]\ncommand = x\nenv_file = a\n  cwd = /",
                "sets cwd, is indented and would become part of env_file",
            ),
            ("[timer:t]\nevery = 1h\ncommand = x\n  cron = @daily", "sets cron, is indented"),
        ],
    )
    def test_they_are_told(self, text, told):
        ((_, found),) = [each for each in problems(text) if "indented" in each[1]]
        assert told in found

    @pytest.mark.parametrize(
        "text",
        [
            "[program:p]\ncommand = awk '\n  user = $$1\n  '",
            "[program:p]\ncommand = x\n  'user = bob'\n  --user=bob\n  app=1\n  a user = b",
            "[program:p]\ncommand = x\nrlimits = nofile=1\n  nice=20",
        ],
    )
    def test_what_is_meant_so_is_not(self, text):
        assert unit(text).command

    def test_in_an_environment_it_is_a_warning(self):
        found = parse(DB + "[env:db]\nA = 1\n  B = 2\nC = '{\n  D = 1}'\n  E\n")
        assert [str(each) for each in found.warnings] == [
            f"{FILE}:4: B is on an indented line, which continues A; remove the indentation if that is not intended"
        ]
        assert found.units["db"].env["A"] == "1\nB = 2"


class TestTimers:
    def test_a_timer_is_a_schedule_and_a_job_that_nothing_restarts(self):
        text = "user = nobody\nkill_timeout = 2s\ntimeout = 1m\nretries = 3\noverlap = queue\ncatch_up = yes\n"
        tidy = parse(TIDY + text + "[env:tidy]\nA = 1\n", host=ROOT).timers["tidy"]
        assert (tidy.cron, tidy.every, tidy.timezone, tidy.timeout) == ("@daily", 0, "", 60)
        assert (tidy.retries, tidy.retry_delay, tidy.overlap, tidy.jitter) == (3, 10, Overlap.QUEUE, 0)
        assert (tidy.enabled, tidy.catch_up, tidy.where) == (True, True, f"{FILE}:1")
        job = tidy.unit
        assert (job.name, job.kind, job.command, job.env) == ("tidy", Kind.TIMER, ("tidy",), {"A": "1"})
        assert (job.user, job.kill_timeout, job.kill_signal, job.cwd) == ("nobody", 2, 15, "/srv/shop")
        assert (job.autorestart, job.autostart, job.min_uptime, job.instances) == (Autorestart.NEVER, False, 0, 1)

    def test_it_may_run_every_so_often(self):
        tidy = parse("[timer:tidy]\ncommand = tidy\nevery = 90s\nenabled = no").timers["tidy"]
        assert (tidy.cron, tidy.every, tidy.enabled, tidy.unit.enabled) == ("", 90, False, False)

    def test_it_is_no_unit(self):
        found = parse(TIDY + DB)
        assert (list(found.units), list(found.timers)) == (["db"], ["tidy"])


class TestHealth:
    def test_it_asks_the_unit_of_its_name(self):
        check = parse(WEB + "[health:web]\nhttp = /health\n").health["web"]
        assert (check.name, check.target, check.http, check.tcp, check.unit) == ("web", "web", "/health", "", None)
        assert (check.status, check.body, check.headers) == (((200, 399),), "", ())
        assert (check.socket, check.ca_file, check.verify, check.action) == ("", "", True, Action.RESTART)
        assert (check.interval, check.timeout, check.start_period) == (30, 5, 0)
        assert (check.failures, check.successes, check.enabled, check.where) == (3, 1, True, f"{FILE}:4")

    def test_or_another_one_that_may_stand_below_it(self):
        text = (
            "[health:front]\ntarget = web\nhttp = http://127.0.0.1/\nstatus = 200, 301-302\nheaders = Host: a\n  B: c\n"
        )
        check = parse(text + WEB).health["front"]
        assert (check.target, check.status) == ("web", ((200, 200), (301, 302)))
        assert check.headers == (("Host", "a"), ("B", "c"))

    def test_a_program_is_asked_a_path_by_way_of_a_socket(self):
        check = parse(DB + "[health:db]\nhttp = /health\nsocket = db.sock").health["db"]
        assert (check.http, check.socket) == ("/health", "/srv/shop/db.sock")

    def test_a_command_is_a_unit_with_a_name_of_its_own_and_the_environment_of_the_target(self):
        text = "[health:up]\ntarget = db\nexec = pg_isready -q\nkill_timeout = 1s\n[env:db]\nPGPORT = 1\n"
        job = parse(DB + text).health["up"].unit
        assert (job.kind, job.command, job.env, job.kill_timeout) == (
            Kind.HEALTH,
            ("pg_isready", "-q"),
            {"PGPORT": "1"},
            1,
        )
        assert (job.autorestart, job.autostart, job.min_uptime, job.enabled) == (Autorestart.NEVER, False, 0, True)
        assert not reading.is_unit_name(job.name)  # so that no section can have it

    def test_what_a_header_says_is_in_no_message(self):
        text = DB + "[health:db]\nhttp = http://x/\nheaders = "
        for header in ("Bearer s3cret", "A: ${PW}", "A: s3cret\x01", "A: ${PW}é"):
            with pytest.raises(ConfigError) as caught:
                parse(f"{text}{header}\nbody = ${{UNSET}}", PW="s3cret")
            assert "s3cret" not in str(caught.value)


PORTS = "[program:api]\ncommand = api --port 900${INSTANCE}\ninstances = 3\n"


class TestInstances:
    def test_each_sees_its_number_in_any_value(self):
        text = (
            PORTS
            + "cwd = /api/${INSTANCE}\nlisten = 127.0.0.1:808${INSTANCE}\n[env:api]\nA = ${INSTANCE}\nB = b\n"
            + DB
        )
        first = parse(text).units["api"]
        assert first.per_instance
        third = parser.parse(text, FILE, {}, MORTAL, instance=2).units["api"]
        assert (first.command[-1], third.command[-1]) == ("9000", "9002")
        assert (first.cwd, third.cwd, third.listen) == ("/api/0", "/api/2", (Listen("127.0.0.1", 8082),))
        assert (first.env, third.env) == ({"A": "0", "B": "b"}, {"A": "2", "B": "b"})

    def test_the_environment_alone_makes_a_unit_of_instances(self):
        text = DB + "[env:db]\nA = ${INSTANCE:-x}"
        assert unit(text).per_instance
        assert parser.parse(text, FILE, {}, MORTAL, instance=5).units["db"].env == {"A": "5"}

    def test_a_value_of_the_environment_does_not_count_and_a_doubled_dollar_is_none(self):
        db = unit(DB + "cwd = /${INSTANCE_NO}/$${INSTANCE}", INSTANCE_NO="x", INSTANCE="7")
        assert (db.cwd, db.per_instance) == ("/x/${INSTANCE}", frozenset())
        assert unit(DB + "cwd = /$$${INSTANCE}", INSTANCE="7").cwd == "/$0"

    @pytest.mark.parametrize("own", ["[env:web]\nA = ${INSTANCE}", "increment_var = A\n[env:web]\nA = 1"])
    def test_a_parked_worker_cannot_take_a_place_that_differs(self, own):
        ((line, text),) = problems(WEB + own)
        assert (line, text.partition(":")[0]) == (1, "standby = 1")
        assert parse(WEB + "standby = 0\n" + own).units["web"].standby == 0

    def test_another_instance_is_told_of_what_it_has_alone(self):
        assert set(parser.parse(PORTS + DB + WEB + TIDY, FILE, {}, MORTAL, instance=1).units) == {"api"}

    def test_and_is_not_there_if_it_cannot_be(self):
        text = "[program:a]\ncommand = a\nlisten = h:6553${INSTANCE}\n" + PORTS
        assert set(parser.parse(text, FILE, {}, MORTAL, instance=5).units) == {"a", "api"}
        assert set(parser.parse(text, FILE, {}, MORTAL, instance=6).units) == {"api"}

    @pytest.mark.parametrize("instances", ["7", "2..7"])
    def test_a_mistake_of_a_later_instance_is_told_once(self, instances):
        text = (
            f"[program:a]\ncommand = a\ninstances = {instances}\nlisten = h:6553${{INSTANCE}}\nnice = ${{INSTANCE}}9\n"
        )
        found = problems(text)
        assert [line for line, _ in found] == [4, 5]
        assert found[0][1].startswith("in instance 6, listen = h:6553${INSTANCE} (that is h:65536): ")
        assert found[1][1].startswith("in instance 2, nice = ${INSTANCE}9 (that is 29): ")

    def test_a_mistake_of_the_first_is_not_told_for_the_others_too(self):
        assert len(problems(DB + "instances = 3\nnice = x${INSTANCE}")) == 1

    def test_addresses_that_do_not_depend_on_it_are_shared(self):
        text = "instances = 3\nlisten = 127.0.0.1:8080, 127.0.0.1:900${INSTANCE}\n"
        parse(DB + text)
        assert problems(DB + text + "[program:p]\ncommand = p\nlisten = 127.0.0.1:9002") == [
            (7, "listen = 127.0.0.1:9002: db:2 uses the same address; choose another")
        ]

    def test_addresses_that_two_instances_would_take_are_told(self):
        text = "instances = 10\nlisten = 127.0.0.1:90${INSTANCE}2, 127.0.0.1:901${INSTANCE}\n"
        assert problems(DB + text) == [(4, "listen = 127.0.0.1:9012: db:1 uses the same address; choose another")]

    @pytest.mark.parametrize(
        ("text", "line", "said"),
        [
            ("[impetusd]\nrun_dir = /run/${INSTANCE}", 2, "run_dir = /run/${INSTANCE}"),
            (TIDY + "cwd = /${INSTANCE}", 4, "cwd = /${INSTANCE}"),
            (DB + "[health:db]\nhttp = http://x:808${INSTANCE}/", 4, "http = http://x:808${INSTANCE}/"),
        ],
    )
    def test_elsewhere_there_is_no_instance(self, text, line, said):
        places = "[pool:NAME], [program:NAME] and their [env:NAME]"
        expected = [(line, f"{said}: ${{INSTANCE}} is available only in {places}; write the value")]
        assert problems(text, INSTANCE="7") == expected

    def test_nor_is_there_in_a_timers_environment(self):
        (problem,) = problems(TIDY + "[env:tidy]\nA = s3cret${INSTANCE}")
        assert problem == (5, "A: a timer's job has no ${INSTANCE}; write the value")

    def test_what_is_of_all_instances_cannot_be_of_one(self):
        (problem,) = problems(DB + "depends_on = db-${INSTANCE}")
        assert problem[1].endswith("it applies to all instances of the unit; omit the instance number")

    def test_units_without_it_are_read_once_however_many_instances_they_have(self, monkeypatch):
        expanded = []
        real = ini.expand
        monkeypatch.setattr(ini, "expand", lambda *args: expanded.append(args[0]) or real(*args))
        parse("".join(f"[program:p{n}]\ncommand = p\ninstances = 50\ncwd = /c\n" for n in range(20)))
        assert expanded.count("/c") == 20
        expanded.clear()
        parse(
            "".join(f"[program:p{n}]\ncommand = p\ninstances = 5\ncwd = /c\nnice = ${{INSTANCE}}\n" for n in range(20))
        )
        assert (expanded.count("/c"), expanded.count("${INSTANCE}")) == (20, 100)


OF_INSTANCES = st.lists(
    st.sampled_from([
        "nice = ${INSTANCE}", "nice = 1${INSTANCE}", "nice = ${INSTANCE}0", "umask = ${INSTANCE}", "cpu_affinity = ${INSTANCE}-3",
        "max_memory_restart = 2M", "max_age = ${INSTANCE:+}", "max_memory_kill = ${INSTANCE}M", "listen = h:6553${INSTANCE}", "kill_timeout = 1${INSTANCE}s",
        "exp_backoff_max_delay = ${INSTANCE:+}",
    ]),
    max_size=3, unique_by=lambda line: line.split()[0],
).map("\n".join)  # fmt: skip


@given(OF_INSTANCES, st.integers(1, 12))
def test_an_instance_is_what_it_would_be_if_its_number_were_written(text, instances):
    text = f"{DB}instances = {instances}\n{text}\n"
    written = []
    for index in range(instances):
        try:
            written.append(unit(text.replace("${INSTANCE}", str(index)).replace("${INSTANCE:+}", "")))
        except ConfigError:
            written.append(None)
    if not all(written):
        assert problems(text)
    elif unit(text).per_instance:
        found = [unit(text), *(parser.parse(text, FILE, {}, MORTAL, n).units["db"] for n in range(1, instances))]
        assert [dataclasses.replace(each, per_instance=frozenset()) for each in found] == written


class TestIncrement:
    def test_it_names_a_variable_that_is_a_number(self):
        db = unit(DB + "increment_var = PORT\n[env:db]\nPORT = 8000")
        assert (db.increment_var, db.per_instance) == ("PORT", frozenset())

    def test_which_may_come_from_an_env_file(self):
        assert unit(DB + "increment_var = PORT\nenv_file = a.env").increment_var == "PORT"

    @pytest.mark.parametrize(
        ("text", "line", "says"),
        [
            ("", 3, "increment_var = PORT: this variable is not set; set PORT in [env:db]"),
            (
                "[env:db]\nPORT = s3cret",
                5,
                "PORT must be a whole number, because increment_var of [program:db] adds to it",
            ),
            ("instances = 2\n[env:db]\nPORT = ${INSTANCE}x", 6, "PORT must be a whole number"),
            ("instances = 2\n[env:db]\nPORT = ${PORTS:-1${INSTANCE}}x", 6, "PORT must be a whole number"),
        ],
    )
    def test_and_is_refused_otherwise(self, text, line, says):
        (problem,) = problems(f"{DB}increment_var = PORT\n{text}")
        assert problem[0] == line
        assert problem[1].startswith(says)
        assert "s3cret" not in problem[1]

    def test_and_is_none_of_ours(self):
        assert problems(DB + "increment_var = INSTANCE") == [
            (3, "increment_var = INSTANCE: impetusd sets this variable itself; choose another")
        ]


class TestProblems:
    @pytest.mark.parametrize(
        ("text", "line", "says"),
        [
            # sections
            ("[worker:web]", 1, "unknown section [worker:web]; sections: [impetusd], [pool:NAME], [program:NAME]"),
            ("[timers:x]", 1, "unknown section [timers:x]; did you mean [timer:x]?"),
            ("[progam:db]", 1, "unknown section [progam:db]; did you mean [program:db]?"),
            ("[impetusd:x]", 1, "[impetusd:x]: this section takes no name; write [impetusd]"),
            ("[pool]", 1, "[pool] has no name; write [pool:NAME]"),
            ("[program:impetusd]\ncommand = x", 1, "[program:impetusd]: impetusd itself uses that name; choose another"),
            ("[program:my db]\ncommand = x", 1, "[program:my db]: a name has at most 100 letters, digits"),
            ("[program:..]\ncommand = x", 1, "a name has at most"),
            ("[program:a:b]\ncommand = x", 1, "a name has at most"),
            (DB + WEB.replace("web]", "db]"), 3, "[pool:db]: [program:db] on line 1 already has that name; choose another"),
            (DB + DB, 3, "[program:db] already exists on line 1; merge the two"),
            # keys
            (DB + "kil_timeout = 1s", 3, "unknown key 'kil_timeout' in [program:db]; did you mean kill_timeout?"),
            (DB + "Command = x", 3, "unknown key 'Command' in [program:db]; did you mean command?"),
            (DB + "colour = red", 3, "unknown key 'colour' in [program:db]; `impetusd init` writes a file with all keys"),
            (DB + "app = a:b", 3, "'app' is a key of [pool:NAME], not of [program:NAME]; move or remove it"),
            (WEB + "wait_ready = yes", 4, "'wait_ready' is a key of [program:NAME], not of [pool:NAME]"),
            ("[impetusd]\ninstances = 2", 2, "'instances' is a key of [pool:NAME] and [program:NAME], not of [impetusd]"),
            ("[pool:web]\nlisten = unix:a", 1, "[pool:web] has no app; add one, like app = "),
            ("[pool:web]\napp = a:b", 1, "[pool:web] has no listen; add one, like listen = 127.0.0.1:8080"),
            ("[program:p]", 1, "[program:p] has no command; add one, like command = "),
            ("[program:p]\ncommand = ; later", 2, "[program:p] has no command"),
            # values
            (DB + "kill_timeout = 10x", 3, "kill_timeout = 10x: not a duration; write a number with a unit, like 500ms"),
            (DB + "kill_timeout = ${KT}", 3, "kill_timeout = ${KT} (that is 10x): not a duration;"),
            (DB + "kill_timeout = ${NO}", 3, "kill_timeout = ${NO}: ${NO} is not set; set NO, or give a default: ${NO:-…}"),
            (DB + "instances = 2 # two", 3, "instances = 2 # two: write a whole number from 1 to 10000 or max for one per CPU, -1 for one less, or a range like 2..8; a comment after a value starts with ;"),
            (DB + "instances = 2\n  max_restarts = 3", 3, "instances = 2: continues in the indented line below; remove its indentation"),
            ("[program:p]\ncommand = sh -c 'exit", 2, "command = sh -c 'exit: the ' is never closed"),
            ("[pool:web]\napp = shop\nlisten = unix:a", 2, "app = shop: not an application; write package.module:name"),
            # what values are to each other
            (WEB + "drain_timeout = 10s", 4, "drain_timeout (10s) must be shorter than kill_timeout (10s)"),
            (WEB + "kill_timeout = 3s", 4, "drain_timeout (5s) must be shorter than kill_timeout (3s)"),
            (DB + "exp_backoff_max_delay = 50ms", 3, "exp_backoff_max_delay (50ms) must not be shorter than exp_backoff_restart_delay (100ms)"),
            (DB + "depends_on = dbb", 3, "depends_on: no unit 'dbb'; did you mean db?"),
            (DB + "depends_on = db", 3, "depends_on: db → db is a cycle"),
            (DB + "depends_on = api\n[program:api]\ncommand = a\ndepends_on = db", 3, "depends_on: db → api → db is a cycle"),
            (WEB + "[program:p]\ncommand = a\nlisten = 127.0.0.1:8080", 6, "listen = 127.0.0.1:8080: web uses the same address; choose another"),
            (WEB + "[program:p]\ncommand = a\nlisten = 0.0.0.0:8080", 6, "listen = 0.0.0.0:8080: web uses the same address as 127.0.0.1:8080"),
            (DB + "listen = unix:a\n[program:p]\ncommand = a\nlisten = unix:./a", 6, "listen = unix:/srv/shop/a: db uses the same address"),
            (DB + f"listen = unix:/{'x' * 107}", 3, "the path is 108 bytes long, but a socket path is limited to 107; set listen to a shorter one"),
            (DB + "listen = unix:/x owner=postgres", 3, "listen: owner=postgres needs impetusd to run as root; remove it, or start"),
            (DB + "listen = unix:/x owner=:nobodyy", 3, "listen: no group nobodyy on this host; create it, or use another"),
            (DB + "max_memory_restart = 1G\nmax_memory_kill = 512M", 4, "max_memory_kill (512M) must be above max_memory_restart (1G)"),
            (DB + "ready = tcp:x:1\nwait_ready = yes", 3, "ready and wait_ready = yes are mutually exclusive; keep one of them"),
            (WEB + "ready = tcp:x:1", 4, "'ready' is a key of [program:NAME], not of [pool:NAME]"),
            (DB + "timezone = UTC", 3, "timezone has no effect without cron_restart; set that too, or remove timezone"),
            (DB + "log_keep = 30", 3, "log_keep has no effect without log_max_size or log_max_age"),
            (DB + "memory_hold = 3s", 3, "memory_hold has no effect without max_memory_restart"),
            (DB + "watch_delay = 3s", 3, "watch_delay has no effect without watch"),
            (DB + "cron_restart = 0 25 * * *", 3, "cron_restart = 0 25 * * *: its hour field is invalid"),
            # timers
            ("[timer]", 1, "[timer] has no name; write [timer:NAME]"),
            ("[timer:t]\ncron = @daily", 1, "[timer:t] has no command; add one"),
            ("[timer:t]\ncommand = t", 1, "[timer:t] has none of cron, every; add one, like cron = 0 3 * * *"),
            ("[timer:t]\ncommand = t\nevery = 5m\ncron = @daily", 3, "[timer:t] has cron and every; keep one of them"),
            ("[timer:t]\ncommand = t\nevery = 5m\ntimezone = UTC", 4, "timezone has no effect without cron"),
            (TIDY + "retry_delay = 1s", 4, "retry_delay has no effect without retries"),
            (TIDY + "instances = 2", 4, "'instances' is a key of [pool:NAME] and [program:NAME], not of [timer:NAME]"),
            (TIDY + DB.replace("db", "tidy"), 4, "[program:tidy]: [timer:tidy] on line 1 already has that name; choose another"),
            (TIDY + "user = nobody", 4, "user = nobody needs impetusd to run as root"),
            (TIDY + DB + "depends_on = tidy", 6, "depends_on: no unit 'tidy'"),
            # health checks
            ("[health]", 1, "[health] has no name; write [health:NAME]"),
            (DB + "[health:db]", 3, "[health:db] has none of http, tcp, exec; add one, like http = http://"),
            (DB + "[health:db]\ntcp = x:1\nhttp = http://x/", 4, "[health:db] has http and tcp; keep one of them"),
            (DB + "[health:db]\nhttp = /health", 4, "http = /health: a path without a host works only for a pool; write a URL, like http://127.0.0.1:8080/health"),
            (DB + "[health:dbb]\ntcp = x:1", 3, "[health:dbb]: no unit 'dbb'; did you mean [health:db], or target = db?"),
            (DB + "[health:x]\ntcp = x:1\ntarget = dbb", 5, "target: no unit 'dbb'; did you mean db?"),
            (DB + "[health:x]\ntcp = x:1", 3, "[health:x]: no unit 'x'; set target to the name of a pool or program"),
            (TIDY + "[health:tidy]\ntcp = x:1", 4, "[health:tidy]: a timer cannot be checked; set target"),
            (DB + "[health:db]\ntcp = x", 4, "tcp = x: x has no port from 1 to 65535; write HOST:PORT"),
            (DB + "[health:db]\ntcp = x:1\nstatus = 200", 5, "status applies only to http, but this check uses tcp; remove it"),
            (DB + "[health:db]\ntcp = x:1\nuser = nobody", 5, "user applies only to exec, but this check uses tcp; remove it"),
            (DB + "[health:db]\nexec = x\nuser = nobody", 5, "user = nobody needs impetusd to run as root"),
            (DB + "[health:db]\nhttp = http://x/\nverify = no", 5, "verify applies only to https; remove it, or use an https URL"),
            (DB + "[health:db]\ntcp = x:1\ninterval = 3s", 5, "timeout (5s) must not be longer than interval (3s); change one of them"),
            (DB + f"[health:db]\nhttp = /\nsocket = /{'x' * 107}", 5, "socket: the path is 108 bytes long, but a socket path is limited to 107"),
            (DB + "[health:db]\nhttp = http://x/\nheaders = Host x", 5, "headers: not a header; write one Name: value per line"),
            (DB + "[env:health]\nA = 1\n[health:db]\ntcp = x:1", 3, "[env:health]: no unit 'health'"),
            (DB + "user = nobody", 3, "user = nobody needs impetusd to run as root; remove it, or start impetusd as root"),
            (DB + "group = nobody", 3, "group = nobody needs impetusd to run as root"),
        ],
    )  # fmt: skip
    def test_a_mistake_is_one_problem_with_its_line(self, text, line, says):
        (problem,) = problems(text, KT="10x")
        assert problem[0] == line
        assert says in problem[1]

    @pytest.mark.parametrize("key", ["user", "group"])
    def test_as_root_the_user_must_exist(self, key):
        assert getattr(unit(DB + f"{key} = nobody", host=ROOT), key) == "nobody"
        assert problems(DB + f"{key} = nobdy", host=ROOT) == [
            (3, f"{key} = nobdy: no such {key} on this host; create it, or use another")
        ]

    def test_a_key_that_another_must_give_a_meaning_may_have_its_default_without_it(self):
        parse(DB + "log_keep = 7\nlog_compress = yes\nwatch_delay = 500ms\nmemory_hold = 0")

    def test_watching_needs_a_package(self):
        assert unit(DB + "watch = src").watch
        assert problems(DB + "watch = src", host=dataclasses.replace(MORTAL, has_watch=False)) == [
            (3, "watch needs the package watchfiles, which is not installed; run: pip install 'impetusd[watch]'")
        ]

    def test_a_disabled_unit_must_be_valid_too(self):
        problems(DB + "enabled = no\nkill_timeout = 10x")

    def test_one_may_depend_on_a_disabled_unit(self):
        parse(DB + "enabled = no\n" + WEB + "depends_on = db")

    def test_of_two_units_with_an_address_one_may_be_disabled(self):
        parse(WEB + "[program:p]\ncommand = a\nenabled = no\nlisten = 127.0.0.1:8080")

    def test_addresses_of_different_families_do_not_collide(self):
        parse(WEB + "[program:p]\ncommand = a\nlisten = [::1]:8080, 127.0.0.1:8081, 127.0.0.2:8080")

    def test_secrets_from_the_environment_are_not_shown_with_a_command(self):
        assert "s3cret" not in str(problems("[program:p]\ncommand = 'run ${PW}", PW="s3cret"))

    def test_ten_mistakes_are_ten_problems_each_with_its_line(self):
        found = problems(TEN_MISTAKES)
        marked = [number for number, line in enumerate(TEN_MISTAKES.split("\n"), 1) if line.endswith("; wrong")]
        assert len(marked) == 10
        assert [line for line, _ in found] == marked


class TestDescribe:
    def test_it_says_each_key_as_one_would_write_it(self):
        text = "kill_signal = INT\nrlimits = core=0:unlimited\ncpu_affinity = 0,1,2\nstop_exit_codes = 0 2\nkill_timeout = 90s"
        told = describe.unit(unit(DB + text))
        assert list(told) == [*schema.keys_of("program"), "env"]
        assert (told["kill_signal"], told["kill_timeout"], told["umask"]) == ("SIGINT", "90s", "022")
        assert (told["rlimits"], told["cpu_affinity"]) == ("core=0:infinity", "0-2")
        assert (told["stop_exit_codes"], told["autorestart"], told["treekill"]) == ("0, 2", "always", "yes")

    def test_what_it_says_can_be_read_back(self):
        text = WEB + "kill_timeout = 90s\nrlimits = nofile=1:2\nlisten_timeout = 1500ms\nnice = -5\n"
        web = unit(text)
        lines = [f"{key} = {value}" for key, value in describe.unit(web).items() if key != "env"]
        assert unit("\n".join(["[pool:web]", *lines])) == web

    def test_of_a_program_that_has_all_of_it_too(self):
        text = (
            "instances = 2..8\nready = log:up\ncron_restart = @daily\ntimezone = UTC\nmax_memory_restart = 200M\n"
            "watch = /a, /b\nlog_max_size = 64K\nlog_format = json\nmax_age = 7d\nwatchdog = 5s\n"
        )
        db = unit(DB + text)
        told = describe.unit(db)
        assert (told["instances"], told["ready"], told["max_memory_restart"]) == ("2..8", "log:up", "200M")
        assert (
            unit("\n".join(["[program:db]", *(f"{key} = {value}" for key, value in told.items() if key != "env")]))
            == db
        )

    @pytest.mark.parametrize("schedule", ["every = 15m", "cron = 0 3 * * *\ntimezone = UTC"])
    def test_of_a_timer_its_job_too(self, schedule):
        text = "[timer:t]\ncommand = t 'a b'\noverlap = replace\nretries = 2\nnice = 5\n"
        timer = parse(text + schedule).timers["t"]
        told = describe.timer(timer)
        assert list(told) == [*schema.keys_of("timer"), "env"]
        lines = [f"{key} = {value}" for key, value in told.items() if key != "env"]
        assert parse("\n".join(["[timer:t]", *lines])).timers["t"] == timer
        job = describe.unit(timer.unit)
        assert job["command"] == told["command"]
        assert "cron" not in job

    @pytest.mark.parametrize(
        "asks", ["tcp = x:1", "exec = a 'b c'\nuser = nobody", "http = http://x/\nheaders = A: b\n  C: d"]
    )
    def test_of_a_check_its_command_too(self, asks):
        check = parse(f"{DB}[health:db]\n{asks}\naction = alert\ninterval = 1h", host=ROOT).health["db"]
        lines = [f"{key} = {value}" for key, value in describe.health(check).items() if key != "env"]
        if not asks.startswith("http"):  # these would not be for it
            lines = [line for line in lines if line.partition(" ")[0] not in agreement.OF_HTTP]
        found = parse("\n".join([DB, "[health:db]", *lines]), host=ROOT).health["db"]
        where = check.where
        assert check.unit is None or describe.unit(check.unit)["exec"] == "a 'b c'"
        assert dataclasses.replace(found, where=where, unit=check.unit) == check
        assert found.unit is check.unit or dataclasses.replace(found.unit, where=where) == check.unit

    def test_of_the_environment_it_says_only_the_names(self):
        assert describe.unit(unit(DB + "[env:db]\nB = s3cret\nA = s3cret"))["env"] == ["A", "B"]


KEYS = st.sampled_from([key.name for key in schema.KEYS] + ["", "x", "kil_timeout"])
VALUES = st.sampled_from([
    "", "0", "1", "max", "-1", "2..8", "yes", "10s", "a:b", "${X}", "${X:-", "$$", "unix:a", "a, b", "'", "TERM", "a",
    "${INSTANCE}", "h:6553${INSTANCE}", "64M", "@daily", "*/5 * * * *", "60 * * * *", "UTC", "/health", "http://h/", "tcp:h:1",
    "log:(", "A: b", "200-299", "queue", "alert", "json", "50%%", "%(x)s",
])  # fmt: skip
LINES = st.one_of(
    st.builds("{} = {}".format, KEYS, VALUES | st.text(max_size=10)),
    st.sampled_from([
        "[impetusd]", "[pool:a]", "[program:b]", "[timer:c]", "[timer:a]", "[health:a]", "[health:d]", "[env:a]", "[env:c]",
        "[program:", "[x]", "", "  more", "; c", "\0", "command = a", "app = a:b", "http = /health", "every = 1s",
    ]),
    st.text(max_size=10),
    # as a file in Latin-1 is read (surrogateescape), where every byte is a character
    st.binary(max_size=10).map(lambda raw: f"cwd = {raw.decode('utf-8', 'surrogateescape')}"),
)  # fmt: skip
FILES = st.builds(
    lambda mark, lines, end: mark + end.join(lines), st.sampled_from(["", "\ufeff"]), st.lists(LINES, max_size=20),
    st.sampled_from(["\n", "\r\n"]),
)  # fmt: skip


@given(FILES)
@settings(max_examples=500)
def test_a_file_is_a_configuration_or_a_list_of_problems_and_never_anything_else(text):
    told = ()
    try:
        found = parse(text)
    except ConfigError as error:
        told = error.problems
    lines = [problem.line for problem in told]
    assert lines == sorted(lines)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines)
    assert len(set(told)) == len(told)
    assert told or all(name == unit.name for name, unit in found.units.items())
    third = parser.parse(text, FILE, {}, MORTAL, instance=2)  # whatever there is, it is no exception
    if not told:
        wanted = {name for name, unit in found.units.items() if unit.per_instance and unit.instances_max > 2}
        assert wanted <= set(third.units)


# Of each kind of value one key, and the section that takes it.
KIND_OF_VALUE = {
    key.value: (kind, key.name) for kind in ("program", "timer", "health") for key in schema.keys_of(kind).values()
}
LARGE = {  # made when they are asked for: 160 MB in each process that collects this
    "sections": lambda: "".join(f"[x{n}]\n" for n in range(20_000)),
    "keys": lambda: "[program:p]\n" + "".join(f"kill_timeou{n} = 1\n" for n in range(20_000)),
    "braces": lambda: "[program:p]\ncommand = " + "${A:-" * 200_000,
    "words": lambda: "[program:p]\ncommand = " + "'a b' " * 100_000,
    "a key": lambda: "[program:p]\n" + "x" * 1_000_000 + " = 1",
    "instances": lambda: "[program:p]\ncommand = p\ninstances = 10000\nnice = ${INSTANCE}\nlisten = h:${INSTANCE}\n",
    **{
        f"{kind} {name} {piece}": lambda key=f"[{kind}:x]\n{name} = ", piece=piece: (
            f"{key}{piece * (1_000_000 // len(piece))}\n"
        )
        for kind, name in KIND_OF_VALUE.values()
        for piece in ("1", "a:b, ")
    },
}


@pytest.mark.parametrize("large", LARGE)
def test_a_large_file_that_makes_no_sense_is_refused_soon(large):
    text = LARGE[large]()
    try:  # pytest's timeout is the measure: it takes 0.1 s, and anything quadratic takes minutes
        parse(text)
    except ConfigError:
        pass
