"""The key table: every kind of value, and the sample file that is made from it."""

from __future__ import annotations

import dataclasses
import re
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impetusd.core.config import agreement, describe, ini, location, parser, sample, schema
from impetusd.core.config.model import (
    Access,
    Action,
    Autorestart,
    Health,
    Host,
    Kind,
    Listen,
    LogAccess,
    Overlap,
    Ready,
    Timer,
    Unit,
)

ROOT = Path(__file__).parents[2]
HOST = Host(euid=0, cpus=4, user_exists=lambda _: True, group_exists=lambda _: True)

GOOD = [
    (schema.parse_duration, "0", 0.0),
    (schema.parse_duration, "0s", 0.0),
    (schema.parse_duration, "500ms", 0.5),
    (schema.parse_duration, "10s", 10.0),
    (schema.parse_duration, "1.5s", 1.5),
    (schema.parse_duration, "1.1s", 1.1),
    (schema.parse_duration, "5 m", 300.0),
    (schema.parse_duration, "1h", 3600.0),
    (schema.parse_duration, "2d", 172800.0),
    (schema.parse_size, "4096", 4096),
    (schema.parse_size, "64K", 65536),
    (schema.parse_size, "512m", 512 << 20),
    (schema.parse_size, "2 G", 2 << 30),
    (schema.parse_limit, "0", 0),
    (schema.parse_limit, "1K", 1024),
    (schema.parse_bool, "yes", True),
    (schema.parse_bool, "True", True),
    (schema.parse_bool, "off", False),
    (schema.parse_autorestart, "on-failure", Autorestart.ON_FAILURE),
    (schema.parse_autorestart, "true", Autorestart.ALWAYS),
    (schema.parse_autorestart, "no", Autorestart.NEVER),
    (schema.parse_instances, "3", (3, 3)),
    (schema.parse_instances, "MAX", (0, 0)),
    (schema.parse_instances, "-1", (-1, -1)),
    (schema.parse_instances, "2 .. 8", (2, 8)),
    (schema.parse_signal, "SIGTERM", signal.SIGTERM),
    (schema.parse_signal, "int", signal.SIGINT),
    (schema.parse_signal, "9", signal.SIGKILL),
    (schema.parse_words, "db, cache  api,db", ("db", "cache", "api")),
    (schema.parse_people, "alice, @wheel  1000,@27", ("alice", "@wheel", "1000", "@27")),
    (schema.parse_exit_codes, "0, 2 143", (0, 2, 143)),
    (schema.parse_paths, "a b.env, c.env\nd.env", ("a b.env", "c.env", "d.env")),
    (schema.parse_app, "shop.web:create_app", "shop.web:create_app"),
    (schema.parse_app, "web:factory.app", "web:factory.app"),
    (schema.parse_umask, "022", 0o022),
    (schema.parse_umask, "0o77", 0o077),
    (schema.parse_cpus, "0, 2-3", (0, 2, 3)),
    (schema.parse_rlimits, "nofile=65536, core=0:infinity", (("nofile", 65536, 65536), ("core", 0, -1))),
    (schema.parse_rlimits, "AS = 2G", (("as", 2 << 30, 2 << 30),)),
    (schema.parse_listen, "127.0.0.1:8080", (Listen("127.0.0.1", 8080),)),
    (schema.parse_listen, "[0:0::1]:80, Localhost:81", (Listen("::1", 80), Listen("localhost", 81))),
    (schema.parse_listen, "[::]:80 v6only=yes", (Listen("::", 80, v6only=True),)),
    (schema.parse_listen, "[::]:80 v6only=no, [::]:81", (Listen("::", 80, v6only=False), Listen("::", 81))),
    (schema.parse_listen, "unix:run/a b.sock", (Listen("", 0, "run/a b.sock"),)),
    (schema.parse_listen, "unix:a=b c mode=0666", (Listen("", 0, "a=b c", 0o666),)),
    (schema.parse_listen, "unix:/x owner=www-data: mode=600", (Listen("", 0, "/x", 0o600, "www-data"),)),
    (schema.parse_listen, "unix:/x owner=:adm, h:1", (Listen("", 0, "/x", owner=":adm"), Listen("h", 1))),
    (schema.parse_status, "200, 204-299", ((200, 200), (204, 299))),
    (schema.parse_http, "/health?deep=1", "/health?deep=1"),
    (schema.parse_http, "https://shop.example/health", "https://shop.example/health"),
    (schema.parse_http, "http://[::1]", "http://[::1]"),
    (schema.parse_http, "http://[::1]:81?x", "http://[::1]:81?x"),
    (schema.parse_peer, "Db:5432", "db:5432"),
    (schema.parse_ready, "http://127.0.0.1:80/x", Ready("http", "http://127.0.0.1:80/x")),
    (schema.parse_ready, "tcp:[::1]:81", Ready("tcp", "[::1]:81")),
    (schema.parse_ready, "log: ^ready: \\d+$", Ready("log", "^ready: \\d+$")),
    (schema.parse_headers, "A-B:  c: d\n\nE:\n", (("A-B", "c: d"), ("E", ""))),
    (schema.parse_cron, "0  3 * * MON-fri", "0 3 * * MON-fri"),
    (schema.parse_cron, "*/10 0 3 1,15 * *", "*/10 0 3 1,15 * *"),
    (schema.parse_cron, "@Daily", "@Daily"),
    (schema.parse_timezone, "Europe/Lisbon", "Europe/Lisbon"),
    (schema.parse_timezone, "UTC", "UTC"),
    (schema.parse_variable, "PORT", "PORT"),
    (schema.OVERLAP.parse, "Queue", Overlap.QUEUE),
    (schema.ACTION.parse, "alert", Action.ALERT),
    (schema.LOG_FORMAT.parse, "json", "json"),
]

BAD = [
    (schema.parse_duration, "10x", "not a duration; write a number with a unit, like 500ms, 10s, 5m or 1h"),
    (schema.parse_duration, "10", "a duration needs its unit; write 10s or 10ms"),
    (schema.parse_duration, "-1s", "not a duration"),
    (schema.parse_duration, "inf", "not a duration"),
    (schema.parse_duration, "nans", "not a duration"),
    (schema.parse_duration, "1e9s", "not a duration"),
    (schema.parse_duration, "s", "not a duration"),
    (schema.parse_duration, ".5s", "not a duration"),
    (schema.parse_duration, "٣s", "not a duration"),
    (schema.parse_duration, "0.5ms", "write whole milliseconds"),
    (schema.parse_duration, "9" * 400 + "s", "limited to 10 years and 15 decimal places"),
    (schema.parse_duration, "4000d", "limited to 10 years and 15 decimal places"),
    (schema.parse_positive_duration, "0", "must be longer than 0"),
    (schema.parse_size, "1.5G", "not a size"),
    (schema.parse_size, "G", "not a size"),
    (schema.parse_limit, "200", "that means 200 bytes; add a unit, like 200M"),
    (schema.parse_bool, "maybe", "not a boolean; write yes or no"),
    (schema.parse_autorestart, "sometimes", "write always, on-failure or never"),
    (schema.parse_instances, "0", "write a whole number from 1 to 10000 or max for one per CPU"),
    (schema.parse_instances, "-2", "write a whole number"),
    (schema.parse_instances, "8..2", "the range runs backwards; write 2..8"),
    (schema.parse_instances, "2..", "write a whole number"),
    (schema.parse_instances, "2..max", "write a whole number"),
    (schema.parse_instances, "1..2..3", "write a whole number"),
    (schema.parse_instances, "²", "write a whole number"),
    (schema.parse_signal, "SIGTREM", "did you mean SIGTERM?"),
    (schema.parse_signal, "0", "not a Linux signal"),
    (schema.parse_signal, "999", "not a Linux signal"),
    (schema.parse_signal, "STOP", "does not terminate a process"),
    (schema.parse_people, "%wheel", "a group name starts with @; write @wheel"),
    (schema.parse_people, "@", "is neither a user nor an @group"),
    (schema.parse_people, "a:b", "is neither a user nor an @group"),
    (schema.parse_people, "@4294967295", "out of range"),
    (schema.parse_exit_codes, "0, 256", "write a whole number from 0 to 255"),
    (schema.parse_app, "shop.web", "write package.module:name"),
    (schema.parse_app, "shop/web.py:app", "write package.module:name"),
    (schema.parse_app, "shop.web:create_app()", "write package.module:name"),
    (schema.parse_app, ":app", "write package.module:name"),
    (schema.parse_umask, "8", "not a umask"),
    (schema.parse_umask, "1777", "not a umask"),
    (schema.parse_cpus, "3-1", "runs backwards; write 1-3"),
    (schema.parse_cpus, "0-99999999", "write a whole number from 0 to 4096"),
    (schema.parse_rlimits, "nofile", "nofile has no '='"),
    (schema.parse_rlimits, "nofiles=1", "did you mean nofile?"),
    (schema.parse_rlimits, "nofile=2:1", "the soft limit of nofile is above its hard limit"),
    (schema.parse_rlimits, "nofile=infinity:1", "the soft limit of nofile is above its hard limit"),
    (schema.parse_rlimits, "nofile=many", "nofile takes a number or infinity"),
    (schema.parse_rlimits, "nofile=1, nofile=2", "nofile is given twice"),
    (schema.parse_listen, "8080", "8080 has no host; write 127.0.0.1:8080 for this machine only, 0.0.0.0:8080"),
    (schema.parse_listen, "*:80", "has no host"),
    (schema.parse_listen, "127.0.0.1", "127.0.0.1 has no port"),
    (schema.parse_listen, "127.0.0.1:0", "has no port from 1 to 65535"),
    (schema.parse_listen, "127.0.0.1:65536", "has no port from 1 to 65535"),
    (schema.parse_listen, "300.0.0.1:80", "300.0.0.1 is not an address"),
    (schema.parse_listen, "::1:80", "needs brackets; write [::1]:80"),
    (schema.parse_listen, "[x]:80", "is not an address"),
    (schema.parse_listen, "a b:80", "a b is not a host"),
    (schema.parse_listen, "/run/x.sock", "write unix:/run/x.sock"),
    (schema.parse_listen, "[::1]:80 v6only=no", "v6only applies only to [::]; write [::1]:80"),
    (schema.parse_listen, "[::]:80 v6only=x", "not a boolean; write yes or no"),
    (schema.parse_listen, "unix:", "a unix socket needs a path"),
    (schema.parse_listen, "unix:mode=0660", "a unix socket needs a path"),
    (schema.parse_listen, "unix:/x mode=rw", "mode=rw is not a mode; write octal digits, like mode=0660"),
    (schema.parse_listen, "unix:/x mode=1777", "mode=1777 is not a mode"),
    (schema.parse_listen, "unix:/x owner=:", "owner is empty; write owner=USER, owner=USER:GROUP or owner=:GROUP"),
    (schema.parse_status, "200-", "write a whole number from 100 to 599"),
    (schema.parse_status, "299-200", "runs backwards; write 200-299"),
    (schema.parse_status, "99", "write a whole number from 100 to 599 or a range, like 200-299, 404"),
    (schema.parse_http, "health", "not a URL; write it like http://127.0.0.1:8080/health"),
    (schema.parse_http, "ftp://x/", "not a URL"),
    (schema.parse_http, "http:///x", "has no host"),
    (schema.parse_http, "http://me:pw@x/", "a password in a URL would be visible in `status`; put it in headers"),
    (schema.parse_http, "http://x:0/", "x:0 has no port from 1 to 65535"),
    (schema.parse_http, "http://x:y/", "x:y has no port from 1 to 65535"),
    (schema.parse_http, "http://::1/", "is not an address; write HOST:PORT"),
    (schema.parse_http, "/a b", "a URL must be ASCII without blanks"),
    (schema.parse_http, "/é", "must be ASCII without blanks or #; percent-encode such characters, like %20"),
    (schema.parse_http, "http://x/#top", "or #"),
    (schema.parse_peer, "5432", "5432 has no host; write it like 127.0.0.1:5432"),
    (schema.parse_peer, "unix:/x", "has no port from 1 to 65535; write HOST:PORT"),
    (schema.parse_ready, "yes", "write http://HOST:PORT/path, tcp:HOST:PORT, log:REGEX or listen"),
    (schema.parse_ready, "log:", "write http://HOST:PORT/path, tcp:HOST:PORT, log:REGEX or listen"),
    (schema.parse_ready, "log:(", "invalid regular expression (missing ), unterminated subpattern"),
    (schema.parse_ready, "log:" + "(" * 5000, "invalid regular expression"),
    (schema.parse_ready, "tcp:8080", "8080 has no host"),
    (schema.parse_headers, "Host shop", "not a header; write one Name: value per line"),
    (schema.parse_headers, "A: b\nB c: d", "not a header"),
    (schema.parse_headers, "A: é", "the value of A contains a character that is not allowed in a header"),
    (schema.parse_cron, "* * *", "has 5 fields, or 6 with seconds first; this one has 3"),
    (schema.parse_cron, "60 * * * *", "its minute field is invalid"),
    (schema.parse_cron, "0 24 * * *", "its hour field is invalid"),
    (schema.parse_cron, "0 0 32 * *", "its day-of-month field is invalid"),
    (schema.parse_cron, "0 0 * 13 *", "its month field is invalid"),
    (schema.parse_cron, "0 0 * * mondays", "its day-of-week field is invalid"),
    (schema.parse_cron, "x 0 0 * * *", "its second field is invalid"),
    (schema.parse_cron, "0 0 30 2 *", "day"),
    (schema.parse_cron, "@reboot", "@reboot is not one of @yearly, "),
    (schema.parse_cron, "9" * 5000 + " * * * *", "too long for a cron expression"),
    (schema.parse_timezone, "Europe/Lisboa", "unknown time zone on this host; write one like Europe/Lisbon or UTC"),
    (schema.parse_timezone, "Europe", "unknown time zone on this host"),
    (schema.parse_timezone, "/etc/passwd", "unknown time zone on this host"),
    (schema.parse_timezone, "../../../etc/passwd", "unknown time zone on this host"),
    (schema.parse_variable, "1X", "not a valid variable name"),
    (schema.OVERLAP.parse, "wait", "write skip, queue or replace"),
    (schema.LOG_FORMAT.parse, "xml", "write plain or json"),
]


@pytest.mark.parametrize(("parse", "text", "value"), GOOD)
def test_a_value_is_understood(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text", "says"), BAD)
def test_a_wrong_value_is_told_what_to_write_instead(parse, text, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        parse(text)


def test_a_command_is_an_argument_list():
    assert schema.parse_command([("redis-server --port '6 380'", ini.Origin.FILE)]) == (
        "redis-server",
        "--port",
        "6 380",
    )
    with pytest.raises(ValueError, match="is never closed; close it"):
        schema.parse_command([("sh -c 'exit", ini.Origin.FILE)])
    with pytest.raises(ValueError, match="no program given"):
        schema.parse_command([("''", ini.Origin.FILE)])


def test_passwords_in_urls_are_not_shown_with_a_command():
    assert schema.show_command(["psql", "postgres://me:s3cret@db/x"]) == "psql postgres://me:***@db/x"


@given(st.integers(0, schema.LONGEST))
def test_durations_are_read_back_as_they_were_shown(milliseconds):
    seconds = milliseconds / 1000
    assert schema.parse_duration(schema.show_duration(seconds)) == seconds


@given(st.integers(0, 10**18 - 1) | st.integers(0, 1 << 30).map((1 << 40).__mul__))
def test_sizes_are_read_back_as_they_were_shown(size):
    assert schema.parse_size(schema.show_size(size)) == size


def test_what_may_be_a_secret_in_a_header_is_not_shown():
    headers = (("Authorization", "Bearer s3cret"), ("X-Api-Key", "s3cret"), ("Host", "x"))
    assert schema.show_headers(headers) == "Authorization: ***\n  X-Api-Key: ***\n  Host: x"


WORDS_OF_CRON = st.text(st.sampled_from("0123456789*/-,#LW MONFEB@"), max_size=30)


@given(
    WORDS_OF_CRON
    | st.lists(
        st.sampled_from(
            ["*", "0", "59", "*/5", "1-5", "1,2", "L", "LW", "5#2", "5L", "0/0", "1-0", "MON", "²", "9999"]
        ),
        min_size=4,
        max_size=7,
    ).map(" ".join)
)
def test_a_cron_expression_is_understood_or_refused(text):  # and 30 February is not looked for forever
    try:
        assert schema.parse_cron(text).split() == text.split()
    except ValueError as error:
        assert "; write" in str(error)  # noqa: PT017


@given(st.sets(st.integers(0, 40)).map(sorted).map(tuple))
def test_cpus_are_read_back_as_they_were_shown(cpus):
    assert not cpus or schema.parse_cpus(schema.show_cpus(cpus)) == cpus


@given(st.text(max_size=40), st.sampled_from(sorted({parse for parse, *_ in GOOD}, key=lambda parse: parse.__name__)))
def test_no_text_makes_a_parser_fail_otherwise(parse_text, parse):
    try:
        parse(parse_text)
    except ValueError as error:
        assert ";" in str(error) or str(error).startswith(("write", "for a unix socket write"))  # noqa: PT017


class TestTable:
    def test_a_key_is_documented_in_sentences(self):
        assert [key.name for key in schema.KEYS if not key.doc.endswith(".")] == []

    def test_a_default_and_an_example_are_values_of_their_kind(self):
        for key in schema.KEYS:
            for text in filter(None, (key.default, key.example)):
                value = key.value.parse([(text, ini.Origin.FILE)] if key.value is schema.COMMAND else text)
                shown = key.value.show(value)
                again = key.value.parse([(shown, ini.Origin.FILE)] if key.value is schema.COMMAND else shown)
                assert again == value, key.name

    def test_a_key_is_a_field_of_what_it_configures(self):
        fields = {
            kind.value: {field.name for field in dataclasses.fields(of)}
            for kind, of in {Kind.POOL: Unit, Kind.PROGRAM: Unit, Kind.TIMER: Timer, Kind.HEALTH: Health}.items()
        }
        fields[schema.IMPETUSD] = {
            *location.DIRECTORIES,
            *(field.name for of in (Access, LogAccess) for field in dataclasses.fields(of)),
        }
        fields["timer"] |= fields["program"]  # of its job
        fields["health"] |= {"exec", *agreement.OF_EXEC}
        fields |= {"group": {"members"}, "include": {"files"}}
        fields |= {
            section: {*schema.keys_of(section)} for section in (schema.GATEWAY, schema.ALERT, schema.HOST)
        }  # kept by name
        assert [
            (section, key.name) for key in schema.KEYS for section in key.sections if key.name not in fields[section]
        ] == []

    def test_where_there_is_no_default_there_is_an_example(self):
        assert [key.name for key in schema.KEYS if not key.default and not key.example] == []


@pytest.mark.parametrize(
    ("of", "others"),
    [
        (Unit, {"name", "kind", "where", "lines", "env", "instances_max", "per_instance", "rules", "made"}),
        (Timer, {"name", "where", "unit"}),
        (Health, {"name", "where", "unit"}),
    ],
)
def test_every_field_is_a_key_or_comes_from_the_section(of, others):
    fields = {field.name for field in dataclasses.fields(of)}
    assert fields - {key.name for key in schema.KEYS} == others


def test_no_key_is_there_twice_for_a_section():
    for kind in schema.SECTIONS:
        assert len(schema.keys_of(kind)) == sum(kind in key.sections for key in schema.KEYS)


HEADER = re.compile(r";?\[(\w+)(:\w+)?]$")
OPTIONAL = {
    "group": ";[group:shop]",
    "include": ";[include]",
    "alert": ";[alert:ops]",
    "host": ";[host:web2]",
}  # sections that are commented out
# What the sample sets, so that the default below it is not in force.
LIVE = {("pool", "instances"), ("program", "wait_ready"), ("pool", "kill_signal"), ("pool", "enabled")}
LIVE |= {("health", "interval"), ("health", "action"), ("timer", "timeout")}
# Keys that need another, and keys that cannot be with another.
TOGETHER = {
    "increment_var": ("env_file = web.env", "standby = 0"),
    "timezone": ("cron_restart = @daily",),
    "watch_ignore": ("watch = src",),
    "ca_file": ("http = https://127.0.0.1/",),
    "tls_cert": ("tls_key = ops.key",),
    "tls_key": ("tls_cert = ops.pem",),
    "behind_proxy": ("hosts = ops.example.com",),
    "trusted_proxies": ("behind_proxy = yes", "hosts = ops.example.com"),
    "from": ("to = ops@example.com",),
    "smtp": ("to = ops@example.com",),
    "smtp_user": ("smtp_password = x", "to = ops@example.com"),
    "smtp_password": ("smtp_user = x", "to = ops@example.com"),
    "heartbeat_every": ("heartbeat = https://hc-ping.com/x",),
}
# Of another host: the keys that it cannot be without, unless the key is that itself.
REQUIRED = {"url": "url = https://web2.example.com/", "token": "token = x"}
# Of an alert: what it needs besides, unless the key is that itself.
REACHES = ("url = https://hooks.slack.com/x",)
ALONE = {"tcp": {"http"}, "exec": {"http"}, "every": {"cron"}, "ready": {"wait_ready"}}


def keys_in(text):
    """(section, key, line) of each line that is a key behind a semicolon, in the form of the key table."""
    section, found = "", []
    for line in text.splitlines():
        if header := HEADER.match(line):
            section = header[1]
        elif re.match(r";[a-z_]+ *= ", line):
            found.append((section, line[1:].partition("=")[0].strip(), line))
    return found


class TestSample:
    def test_the_one_in_conf_is_the_one_that_is_generated(self):
        text = (ROOT / "conf" / "impetusd.ini").read_text(encoding="utf-8")
        assert text == sample.sample(".."), "run: python -m impetusd.core.config.sample > conf/impetusd.ini"

    def test_it_fits_a_terminal(self):
        assert max(map(len, sample.sample("..").splitlines())) <= sample.WIDTH

    def test_in_a_clone_everything_lives_in_var(self):
        paths = parser.parse(sample.sample(".."), "/srv/my app/conf/impetusd.ini", {}, HOST).paths
        assert (paths.base_dir, paths.run_dir) == ("/srv/my app", "/srv/my app/var/run")

    @pytest.mark.parametrize("path", ["/etc/impetusd/impetusd.ini", "/srv/my app/impetusd.ini"])
    def test_it_starts_the_service_with_a_database_of_its_own(self, path):
        found = parser.parse(sample.sample(), path, {}, HOST)
        web, db = found.units["web"], found.units["db"]
        assert db.enabled
        assert db.wait_ready
        assert db.command[1:] == (
            "--data", f"{found.paths.state_dir}/postgres", "--socket-dir", f"{found.paths.run_dir}/postgres",
        )  # fmt: skip
        assert web.app == "impetus_service.app:create_app"
        assert web.env["DATABASE_URL"] == f"postgresql:///impetus?host={found.paths.run_dir}/postgres&user=impetus"

    def test_it_looks_after_the_database_every_night(self):
        found = parser.parse(sample.sample(), "/srv/impetusd.ini", {}, HOST)
        timer = found.timers["maintenance"]
        assert timer.unit.command[1:] == ("maintenance",)
        assert describe.timer(timer)["cron"] == "0 3 * * *"
        assert timer.unit.env["DATABASE_URL"] == found.units["web"].env["DATABASE_URL"]

    def test_it_asks_each_worker_and_restarts_none_for_a_database_that_is_away(self):
        check = parser.parse(sample.sample(), "/srv/impetusd.ini", {}, HOST).health["web"]
        assert (check.http, check.target, check.interval, check.action) == ("/health", "web", 30, Action.ALERT)

    def test_with_a_database_in_the_environment_it_starts_none(self):
        found = parser.parse(sample.sample(), "/srv/impetusd.ini", {"DATABASE_URL": "postgres://elsewhere/x"}, HOST)
        assert not found.units["db"].enabled
        assert found.units["web"].env["DATABASE_URL"] == "postgres://elsewhere/x"

    def test_every_key_stands_in_it_once(self):
        written = [(section, name) for section, name, _ in keys_in(sample.sample())]
        assert len(set(written)) == len(written)
        # A key that several sections take stands where the first of them is, its default being the same for all.
        assert sorted(written) == sorted((key.sections[0], key.name) for key in schema.KEYS)

    @pytest.mark.parametrize(
        ("section", "name", "line"),
        [pytest.param(*found, id="-".join(found[:2])) for found in keys_in(sample.sample())],
    )
    def test_removing_its_semicolon_sets_it(self, section, name, line):
        wanted = [line[1:], *TOGETHER.get(name, ())]
        if section == "alert" and not any(each.startswith(("url", "to ", "command", "heartbeat ")) for each in wanted):
            wanted += REACHES
        if section == "host":
            wanted = [line[1:], *(text for key, text in REQUIRED.items() if key != name)]
        names = {each.partition("=")[0].strip() for each in wanted} | ALONE.get(name, set())
        lines, here = [], ""
        for each in sample.sample().splitlines():
            each = each[1:] if each == OPTIONAL.get(section) else each
            if header := HEADER.match(each):
                here = header[1]
            # a key that the sample sets already is moved, not doubled
            if here != section or each.partition("=")[0].strip() not in names:
                lines.append(each)
            if header and here == section:
                lines += wanted
        parser.parse("\n".join(lines), "/srv/impetusd.ini", {}, HOST)

    def test_what_it_shows_as_defaults_are_the_defaults(self):
        text = sample.sample().replace(OPTIONAL["alert"], f"[alert:ops]\n{REACHES[0]}")
        before = parser.parse(text, "/srv/impetusd.ini", {}, HOST)
        defaults = {(key.sections[0], key.name) for key in schema.KEYS if key.default}
        shown = {line for section, name, line in keys_in(sample.sample()) if (section, name) in defaults - LIVE}
        lines = [line[1:] if line in shown else line for line in text.splitlines()]
        after = parser.parse("\n".join(lines), "/srv/impetusd.ini", {}, HOST)
        assert after.paths == before.paths
        for name, unit in before.units.items():
            assert dataclasses.replace(after.units[name], where=unit.where) == unit
        assert dataclasses.replace(after.health["web"], where=before.health["web"].where) == before.health["web"]
        for name, timer in before.timers.items():
            assert describe.timer(after.timers[name]) == describe.timer(timer)
