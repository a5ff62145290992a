"""[gateway], [alert:NAME] and [host:NAME]: the units that they make, every mistake in them, and that no secret of them is shown."""

from __future__ import annotations

import json

import pytest

from impetusd.core import redact
from impetusd.core.config import describe, environment, gateway, parser
from impetusd.core.config.model import Host, Kind, Listen
from impetusd.core.config.problem import ConfigError

ROOT = Host(euid=0, cpus=4, user_exists=lambda _: True, group_exists=lambda _: True)
ALICE = Host(euid=1000, cpus=4, user_exists=lambda _: True, group_exists=lambda _: True)
CLOSED = Host(euid=0, cpus=4, user_exists=lambda _: True, group_exists=lambda _: True, closed="/root")
WEBHOOK = "https://hooks.slack.com/services/T0/B0/s3cr3t"


def parse(text, host=ROOT):
    return parser.parse(text, "/srv/impetusd.ini", {}, host)


def problems(text, host=ROOT):
    with pytest.raises(ConfigError) as raised:
        parse(text, host)
    return [(each.line, each.text) for each in raised.value.problems]


def told(config, name):
    return json.loads(config.units[name].env[gateway.SETTINGS[name]])


class TestUnits:
    def test_without_the_sections_there_are_none(self):
        assert not parse("[program:x]\ncommand = x\n").units.keys() & {"gateway", "observer"}

    def test_a_gateway_is_a_pool_of_our_own_beside_the_observer(self):
        found = parse("[gateway]\n")
        pool, program = found.units["gateway"], found.units["observer"]
        assert (pool.kind, pool.app, pool.instances) == (Kind.POOL, "impetusd.gateway.app:create_app", 1)
        assert (program.kind, program.command[1:]) == (Kind.PROGRAM, ("-m", "impetusd.observer"))
        for unit in (pool, program):
            assert unit.user == gateway.own_user("/srv/var/lib")
            assert unit.enabled
            assert unit.autostart
            assert unit.cwd == unit.made.folder == f"/srv/var/lib/{unit.name}"
            assert told(found, unit.name)["folder"] == unit.cwd

    def test_an_alert_alone_makes_the_observer_alone(self):
        assert set(parse(f"[alert:ops]\nurl = {WEBHOOK}\n").units) == {"observer"}

    def test_as_root_they_run_as_a_number_that_no_other_service_and_no_other_instance_has(self):
        first, second = gateway.own_user("/a/var/lib"), gateway.own_user("/b/var/lib")
        assert first != second
        assert all(60578 <= int(user) <= 61183 for user in (first, second))
        assert {unit.user for unit in parse("[gateway]\nuser = alice\n").units.values()} == {"alice"}

    def test_of_an_ordinary_user_they_run_as_that(self):
        assert {unit.user for unit in parse("[gateway]\n", ALICE).units.values()} == {""}

    def test_by_default_it_takes_the_next_port_that_is_free(self):
        (address,) = parse("[gateway]\n").units["gateway"].listen
        assert (address.host, address.port, address.more_ports) == ("127.0.0.1", 9615, 9)
        (address,) = parse("[program:x]\ncommand = x\nlisten = 127.0.0.1:9615\n[gateway]\n").units["gateway"].listen
        assert (address.port, address.port + address.more_ports) == (9616, 9624)

    def test_an_address_that_is_written_is_meant(self):
        assert parse("[gateway]\nlisten = 127.0.0.1:9615\n").units["gateway"].listen == (Listen("127.0.0.1", 9615),)

    def test_with_a_socket_it_has_no_port_unless_that_is_written(self):
        text = "[gateway]\nsocket = run/gate.sock mode=0600 owner=:www-data\nxmlrpc = unix:run/x.sock\n"
        first, second = parse(text).units["gateway"].listen
        assert first == Listen("", 0, "/srv/run/gate.sock", 0o600, ":www-data")
        assert second.path == "/srv/run/x.sock"
        assert len(parse(f"{text}listen = 127.0.0.1:1\n").units["gateway"].listen) == 3

    def test_where_nobody_gets_to_our_code_it_is_not_started_and_that_is_said(self):
        found = parse("[gateway]\n", CLOSED)
        assert not any(unit.enabled for unit in found.units.values())
        assert "chmod o+rX /root" in found.warnings[0].text
        assert {unit.made.closed for unit in found.units.values()} == {"/root"}
        assert not parse("[gateway]\nenabled = no\n", CLOSED).warnings
        assert parse("[gateway]\nuser = alice\n", CLOSED).units["gateway"].enabled

    def test_a_pattern_of_a_group_is_for_what_the_file_describes(self):
        text = "[program:a]\ncommand = x\n[gateway]\n[group:all]\nmembers = *\n[group:both]\nmembers = a, gateway\n"
        groups = parse(text).groups
        assert groups["all"].members == ("a",)
        assert groups["both"].members == ("a", "gateway")

    def test_its_own_health_can_be_checked(self):
        assert parse("[gateway]\n[health:gateway]\nhttp = /health\n").health["gateway"].target == "gateway"


@pytest.mark.parametrize(
    ("keys", "line", "says"),
    [
        ("listen = 0.0.0.0:9615", 2, "passwords would cross the network unencrypted"),
        ("listen = [::]:9615", 2, "set tls_cert and tls_key, or behind_proxy = yes"),
        ("listen = ops:9615", 2, "passwords would cross the network"),
        ("listen = unix:/run/x", 2, "for a unix socket, write socket = /run/x"),
        ("tls_cert = a.pem", 2, "tls_cert has no effect without tls_key"),
        ("behind_proxy = yes", 2, "set hosts to the host name"),
        ("trusted_proxies = 10.0.0.7", 2, "trusted_proxies has no effect without behind_proxy"),
        ("behind_proxy = yes\nhosts = a\ntrusted_proxies = 10.0.0.7/8", 4, "10.0.0.7/8 has host bits set"),
        ("behind_proxy = yes\nhosts = a\ntrusted_proxies = proxy.lan", 4, "write addresses and networks"),
        ("xmlrpc = 10.0.0.1:9001", 2, "use a loopback address, or unix:PATH"),
        ("xmlrpc = 127.0.0.1:1, 127.0.0.1:2", 2, "more than one address"),
        (
            "listen = 10.0.0.1:1\ntls_cert = a\ntls_key = b\nmetrics = open",
            5,
            "metrics = open is allowed only on loopback addresses",
        ),
        ("hosts = ops.example.com/x", 2, "write them without port or path"),
        ("ceiling = root", 2, "write viewer, operator or admin"),
        ("lissen = 127.0.0.1:1", 2, "did you mean listen?"),
        ("instances = 2", 2, "'instances' is a key of [pool:NAME] and [program:NAME], not of [gateway]"),
    ],
)
def test_a_mistake_in_the_gateway(keys, line, says):
    ((at, text),) = problems(f"[gateway]\n{keys}\n")
    assert at == line
    assert says in text


@pytest.mark.parametrize(
    "keys", ["listen = 10.0.0.1:1\ntls_cert = a\ntls_key = b", "listen = [::]:1\nbehind_proxy = yes\nhosts = a"]
)
def test_another_address_than_loopback_needs_one_of_two(keys):
    assert parse(f"[gateway]\n{keys}\n").units["gateway"].listen


@pytest.mark.parametrize(
    ("keys", "line", "says"),
    [
        ("", 1, "has no destination; set url, to or command"),
        (f"url = {WEBHOOK}\nto = a@example.com", 3, "has url and to; keep one of them"),
        ("type = email\nurl = https://a/b", 2, "type = email does not work with url"),
        ("type = ntfy\nto = a@example.com", 2, "type = ntfy does not work with to"),
        ("to = a@b, nobody", 2, "not a mail address"),
        ("to = a@b\nfrom = x\\r@b", 3, "not a mail address"),
        ("to = a@b\nsmtp_user = u", 3, "smtp_user has no effect without smtp_password"),
        (f"url = {WEBHOOK}\nsmtp = mail:25", 3, "smtp has no effect without to"),
        (f"url = {WEBHOOK}\nevents = fatl", 3, "did you mean fatal?"),
        (f"url = {WEBHOOK}\nunits = weeb", 3, "units: weeb matches no unit; did you mean web?"),
        (f"url = {WEBHOOK}\nheartbeat_every = 5s", 3, "heartbeat_every has no effect without heartbeat"),
        ("url = ftp://x", 2, "not a URL"),
    ],
)
def test_a_mistake_in_an_alert(keys, line, says):
    ((at, text),) = problems(f"[alert:ops]\n{keys}\n[program:web]\ncommand = x\n")
    assert at == line
    assert says in text
    assert "s3cr3t" not in text


HOST = "[gateway]\n[host:web2]\nurl = https://web2.example.com/ops\ntoken = impd_s3cr3t\nca_file = ca.pem\n"


def test_what_is_shown_of_another_host_is_asked_for_by_the_gateway():
    found = parse(HOST)
    assert told(found, "gateway")["remotes"] == [
        {
            "name": "web2",
            "url": "https://web2.example.com/ops/",
            "token": "impd_s3cr3t",
            "ca_file": "/srv/ca.pem",
        }
    ]
    assert "remotes" not in told(found, "observer")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9616", "http://[::1]:9616/", "http://localhost/x"])
def test_an_unencrypted_url_is_for_what_does_not_cross_the_network(url):
    assert told(parse(f"[gateway]\n[host:a]\nurl = {url}\ntoken = x\n"), "gateway")["remotes"][0]["url"].startswith(url)


@pytest.mark.parametrize(
    ("keys", "line", "says"),
    [
        ("token = x", 2, "[host:a] has no url; add one, like url = https://web2.example.com/"),
        ("url = https://b/", 2, "[host:a] has no token; add one"),
        ("url = http://10.0.0.2:9615/\ntoken = x", 3, "the token would cross the network unencrypted; write https://"),
        ("url = http://127.evil.com/\ntoken = x", 3, "the token would cross the network unencrypted"),
        ("url = https://b/?x\ntoken = x", 3, "the URL of a page must not contain a query"),
        ("url = https://u:p@b/\ntoken = x", 3, "a password in a URL"),
        ("url = javascript:alert(1)\ntoken = x", 3, "not a URL"),
        (
            "url = https://b/\ntoken = impd s3cr3t",
            4,
            "token: not a token; use the one that `impetusd token add` printed",
        ),
        ("url = https://b/\ntoken = x\nrole = admin", 5, "unknown key 'role' in [host:a]"),
    ],
)
def test_a_mistake_in_another_host(keys, line, says):
    ((at, text),) = problems(f"[gateway]\n[host:a]\n{keys}\n")
    assert at == line
    assert says in text
    assert "s3cr3t" not in text


def test_other_hosts_need_a_gateway_and_are_not_without_number():
    host = "[host:h{}]\nurl = https://b/\ntoken = x\n"
    ((_, text),) = problems(host.format(1))
    assert "other hosts are shown on the gateway's page; add the section [gateway]" in text
    many = "[gateway]\n" + "".join(host.format(each) for each in range(gateway.REMOTES + 1))
    ((_, text),) = problems(many)
    assert "a gateway shows at most 50 other hosts" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gateway]\n[program:gateway]\ncommand = x\n", "[gateway] creates a unit with that name"),
        ("[gateway]\n[timer:observer]\ncommand = x\nevery = 1h\n", "[gateway] creates a unit with that name"),
        (
            f"[alert:a]\nurl = {WEBHOOK}\n[pool:observer]\napp = a:b\nlisten = 127.0.0.1:1\n",
            "creates a unit with that name",
        ),
        ("[gateway]\n[env:gateway]\nA = b\n", "impetusd creates the unit gateway and sets its environment"),
        ("[gateway:x]\n", "this section takes no name; write [gateway]"),
        ("[alert]\nurl = https://a/b\n", "has no name; write [alert:NAME]"),
        ("[gatewy]\n", "did you mean [gateway]?"),
        ("[gateway]\n[host]\n", "has no name; write [host:NAME]"),
        ("[env:x]\nIMPETUSD_GATEWAY = x\n[program:x]\ncommand = x\n", "IMPETUSD_GATEWAY is set by impetusd itself"),
    ],
)
def test_nothing_overrides_these_units(text, says):
    assert any(says in text for _, text in problems(text))


@pytest.mark.parametrize(
    ("keys", "way"),
    [
        (f"url = {WEBHOOK}", "slack"),
        ("url = https://ntfy.sh/mine", "ntfy"),
        ("url = https://example.com/hook", "json"),
        ("url = https://example.com/hook\ntype = slack", "slack"),
        ("to = a@example.com", "email"),
        ("command = page 'the one'", "command"),
        ("heartbeat = https://hc-ping.com/x", ""),
    ],
)
def test_how_an_alert_goes_follows_from_what_is_given(keys, way):
    config = parse(f"[alert:ops]\n{keys}\n")
    assert told(config, "observer")["alerts"]["ops"]["type"] == config.alerts["ops"].values["type"] == way


def test_no_secret_is_shown():
    text = f"[gateway]\n[alert:a]\nurl = {WEBHOOK}\n[alert:b]\nto = a@b\nsmtp_user = u\nsmtp_password = pa\"ss'wörd\n"
    text += "[host:web2]\nurl = https://web2/\ntoken = impd_s3cr3t\n"
    found = parse(text + "[alert:c]\nheartbeat = https://hc-ping.com/s3cr3t\n")
    assert told(found, "gateway")["remotes"][0]["token"] == "impd_s3cr3t"
    assert told(found, "observer")["alerts"]["b"]["smtp_password"] == "pa\"ss'wörd"
    shown = [describe.unit(found.units[name]) for name in ("gateway", "observer")]
    assert not any(secret in repr(shown) for secret in ("s3cr3t", "ss'w"))
    assert shown[1]["alert:a url"] == "https://hooks.slack.com/***"
    env = {**found.units["observer"].env, **found.units["gateway"].env}
    assert {redact.value(name, env[name]) for name in gateway.SETTINGS.values()} == {redact.HIDDEN}
    assert not {row["name"] for row in environment.shown(env)} & {*gateway.SETTINGS.values()}


def test_an_alert_that_is_switched_off_is_not_told():
    found = parse(f"[alert:a]\nurl = {WEBHOOK}\nenabled = no\n[alert:b]\nurl = {WEBHOOK}\n")
    assert set(told(found, "observer")["alerts"]) == {"b"}


@pytest.mark.parametrize(("keys", "warned"), [("", True), ("socket = run/g.sock\n", False)])
def test_open_metrics_are_not_for_whoever_a_proxy_lets_in(keys, warned):
    found = parse(f"[gateway]\nbehind_proxy = yes\nhosts = a\nmetrics = open\n{keys}").warnings
    assert [each.line for each in found] == ([4] if warned else [])


@pytest.mark.parametrize(
    ("keys", "url"),
    [
        ("", ""),
        ("hosts = a", ""),
        ("url = https://b/", "https://b/"),
        ("behind_proxy = yes\nhosts = a", "https://a/"),
        ("socket = run/x\nbehind_proxy = yes\nhosts = a", "https://a/"),
        ("listen = 10.0.0.1:1\ntls_cert = c\ntls_key = k\nhosts = a", "https://a:1/"),
        ("listen = 10.0.0.1:1\ntls_cert = c\ntls_key = k", ""),
        ("tls_cert = c\ntls_key = k\nhosts = a", ""),  # the port may be another
    ],
)
def test_a_link_goes_by_the_name_that_the_file_gives(keys, url):
    assert gateway.public_url(parse(f"[gateway]\n{keys}\n").gateway.values) == url
