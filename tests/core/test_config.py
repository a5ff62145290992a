"""From an INI file to a configuration, or to every problem in it at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impetusd.core import config, schema
from impetusd.core.model import Autorestart, ConfigError, Host, Kind, Listen

USERS = {"nobody", "www-data"}
ROOT = Host(euid=0, cpus=4, user_exists=USERS.__contains__, group_exists=USERS.__contains__)
MORTAL = Host(euid=1000, cpus=4, user_exists=USERS.__contains__, group_exists=USERS.__contains__)
FILE = "/srv/shop/impetusd.ini"
DB = "[program:db]\ncommand = postgres\n"
WEB = "[pool:web]\napp = shop.web:app\nlisten = 127.0.0.1:8080\n"

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
    return config.parse(text, path, environ, host)


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
            (2, "base_dir = ${RUN_DIR}/x: ${RUN_DIR} is not known here yet; write the path")
        ]

    def test_a_path_too_long_for_a_socket_is_told_with_the_key_to_set(self):
        (problem,) = problems(f"[impetusd]\nrun_dir = /{'x' * 200}")
        assert problem[0] == 2
        assert "bytes long, a socket's path may have 107; set run_dir in [impetusd] to a shorter path" in problem[1]

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
        assert config.locate(text, FILE, {}).run_dir == "/srv/shop/r"
        problems(text)

    def test_it_agrees_with_parse(self):
        text = "[impetusd]\nstate_dir = ${S:-s}\n"
        assert config.locate(text, FILE, {}) == parse(text).paths

    def test_it_cannot_overlook_what_leaves_the_place_open(self):
        with pytest.raises(ConfigError) as caught:
            config.locate("[impetusd]\nrun_dir = ${NOWHERE}/run\n", FILE, {})
        assert [problem.line for problem in caught.value.problems] == [2]

    @given(st.text(max_size=200))
    def test_no_text_makes_it_fail_otherwise(self, text):
        try:
            config.locate(text, FILE, {})
        except ConfigError:
            assert "[impetusd]" in text


class TestUnits:
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

    def test_instances_may_be_one_per_cpu(self):
        assert unit(DB + "instances = max").instances == ROOT.cpus

    def test_paths_begin_at_base_dir(self):
        text = "cwd = app\nout_file = out.log\nenv_file = a b.env, /c.env\nlisten = unix:s.sock\nerror_file = /e"
        db = unit("[impetusd]\nbase_dir = /b\n" + DB + text)
        assert (db.cwd, db.out_file, db.error_file) == ("/b/app", "/b/out.log", "/e")
        assert db.env_file == ("/b/a b.env", "/c.env")
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
            DB + "[env:db]\nPASSWORD = s3cret${UNSET}\nX-Y = s3cret\nLISTEN_FDS = s3cret\nPW s3cret\nP = ${P-s3cret}"
        )
        assert [line for line, _ in found] == [4, 5, 6, 7, 8]
        assert "s3cret" not in str(found)

    def test_it_must_belong_to_a_unit(self):
        assert problems(DB + "[env:dbb]\nA = 1\n[env]") == [
            (3, "[env:dbb]: there is no unit 'dbb'; did you mean [env:db]?"),
            (5, "[env] has no name; write [env:NAME] for the unit NAME"),
        ]


class TestProblems:
    @pytest.mark.parametrize(
        ("text", "line", "says"),
        [
            # sections
            ("[worker:web]", 1, "[worker:web] is no section of impetusd; there are [impetusd], [pool:NAME]"),
            ("[progam:db]", 1, "[progam:db] is no section of impetusd; did you mean [program:db]?"),
            ("[impetusd:x]", 1, "[impetusd:x]: this section takes no name; write [impetusd]"),
            ("[pool]", 1, "[pool] has no name; write [pool:NAME]"),
            ("[program:impetusd]\ncommand = x", 1, "[program:impetusd]: impetusd itself has that name; choose another"),
            ("[program:my db]\ncommand = x", 1, "[program:my db]: a name is at most 100 letters, digits"),
            ("[program:..]\ncommand = x", 1, "a name is at most"),
            ("[program:a:b]\ncommand = x", 1, "a name is at most"),
            (DB + WEB.replace("web]", "db]"), 3, "[pool:db]: [program:db] on line 1 has that name; choose another"),
            (DB + DB, 3, "[program:db] is there already, on line 1; merge the two"),
            # keys
            (DB + "kil_timeout = 1s", 3, "'kil_timeout' is no key of [program:NAME]; did you mean kill_timeout?"),
            (DB + "Command = x", 3, "'Command' is no key of [program:NAME]; did you mean command?"),
            (DB + "colour = red", 3, "'colour' is no key of [program:NAME]; `impetusd init` writes a file with all of them"),
            (DB + "app = a:b", 3, "'app' is a key of [pool:NAME], not of [program:NAME]; move or remove it"),
            (WEB + "wait_ready = yes", 4, "'wait_ready' is a key of [program:NAME], not of [pool:NAME]"),
            ("[impetusd]\ninstances = 2", 2, "'instances' is a key of [pool:NAME] and [program:NAME], not of [impetusd]"),
            ("[pool:web]\nlisten = unix:a", 1, "[pool:web] has no app; give it one, like app = "),
            ("[pool:web]\napp = a:b", 1, "[pool:web] has no listen; give it one, like listen = 127.0.0.1:8080"),
            ("[program:p]", 1, "[program:p] has no command; give it one, like command = "),
            ("[program:p]\ncommand = ; later", 2, "[program:p] has no command"),
            # values
            (DB + "kill_timeout = 10x", 3, "kill_timeout = 10x: not a duration; write a number with a unit, like 500ms"),
            (DB + "kill_timeout = ${KT}", 3, "kill_timeout = ${KT} (that is 10x): not a duration;"),
            (DB + "kill_timeout = ${NO}", 3, "kill_timeout = ${NO}: ${NO} is not set; set NO, or give a default: ${NO:-…}"),
            (DB + "instances = 2 # two", 3, "instances = 2 # two: write a whole number from 1 to 10000 or max for one per CPU; a comment behind a value begins with ;"),
            (DB + "instances = 2\n  max_restarts = 3", 3, "instances = 2: goes on in the indented line below; remove its indentation"),
            ("[program:p]\ncommand = sh -c 'exit", 2, "command = sh -c 'exit: the ' is never closed"),
            ("[pool:web]\napp = shop\nlisten = unix:a", 2, "app = shop: not an application; write package.module:name"),
            # what values are to each other
            (WEB + "drain_timeout = 10s", 4, "drain_timeout (10s) must be shorter than kill_timeout (10s)"),
            (WEB + "kill_timeout = 3s", 4, "drain_timeout (5s) must be shorter than kill_timeout (3s)"),
            (DB + "exp_backoff_max_delay = 50ms", 3, "exp_backoff_max_delay (50ms) must not be shorter than exp_backoff_restart_delay (100ms)"),
            (DB + "depends_on = dbb", 3, "depends_on: there is no unit 'dbb'; did you mean db?"),
            (DB + "depends_on = db", 3, "depends_on: db → db is a circle"),
            (DB + "depends_on = api\n[program:api]\ncommand = a\ndepends_on = db", 3, "depends_on: db → api → db is a circle"),
            (WEB + "[program:p]\ncommand = a\nlisten = 127.0.0.1:8080", 6, "listen = 127.0.0.1:8080: web has that address already; choose another"),
            (WEB + "[program:p]\ncommand = a\nlisten = 0.0.0.0:8080", 6, "listen = 0.0.0.0:8080: web has that address already as 127.0.0.1:8080"),
            (DB + "listen = unix:a\n[program:p]\ncommand = a\nlisten = unix:./a", 6, "listen = unix:/srv/shop/a: db has that address already"),
            (DB + f"listen = unix:/{'x' * 107}", 3, "the path is 108 bytes long, a socket's may have 107; set listen to a shorter one"),
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
            (3, f"{key} = nobdy: this host has no such {key}; create it, or write another")
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
        told = config.describe(unit(DB + text))
        assert list(told) == [*schema.keys_of("program"), "env"]
        assert (told["kill_signal"], told["kill_timeout"], told["umask"]) == ("SIGINT", "90s", "022")
        assert (told["rlimits"], told["cpu_affinity"]) == ("core=0:infinity", "0-2")
        assert (told["stop_exit_codes"], told["autorestart"], told["treekill"]) == ("0, 2", "always", "yes")

    def test_what_it_says_can_be_read_back(self):
        text = WEB + "kill_timeout = 90s\nrlimits = nofile=1:2\nlisten_timeout = 1500ms\nnice = -5\n"
        web = unit(text)
        lines = [f"{key} = {value}" for key, value in config.describe(web).items() if key != "env"]
        assert unit("\n".join(["[pool:web]", *lines])) == web

    def test_of_the_environment_it_says_only_the_names(self):
        assert config.describe(unit(DB + "[env:db]\nB = s3cret\nA = s3cret"))["env"] == ["A", "B"]


KEYS = st.sampled_from([key.name for key in schema.KEYS] + ["", "x", "kil_timeout"])
VALUES = st.sampled_from(
    ["", "0", "1", "max", "yes", "10s", "a:b", "${X}", "${X:-", "$$", "unix:a", "a, b", "'", "TERM"]
)
LINES = st.one_of(
    st.builds("{} = {}".format, KEYS, VALUES | st.text(max_size=10)),
    st.sampled_from(
        ["[impetusd]", "[pool:a]", "[program:b]", "[env:a]", "[program:", "[x]", "", "  more", "; c", "\0"]
    ),
    st.text(max_size=10),
)


@given(st.lists(LINES, max_size=20).map("\n".join))
@settings(max_examples=300, deadline=None)
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


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"[x{n}]\n" for n in range(20_000)),
        "[program:p]\n" + "".join(f"kill_timeou{n} = 1\n" for n in range(20_000)),
        "[program:p]\ncommand = " + "${A:-" * 200_000,
        "[program:p]\ncommand = " + "'a b' " * 100_000,
        "[program:p]\n" + "x" * 1_000_000 + " = 1",
    ],
    ids=["sections", "keys", "nesting", "words", "one long key"],
)
def test_a_large_file_that_makes_no_sense_is_refused_soon(text):
    try:  # pytest's timeout is the measure: it takes 0.1 s, and anything quadratic takes minutes
        parse(text)
    except ConfigError:
        pass
