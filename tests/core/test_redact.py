"""What looks secret is not in what is shown."""

from __future__ import annotations

import ast
import json
import pathlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

import impetusd
from impetusd.core import redact

NAMES = [
    "DB_PASSWORD",
    "PGPASS",
    "SECRET_KEY",
    "API_TOKEN",
    "aws-secret-access-key",
    "SENTRY_DSN",
    "credentials",
    "DB_PWD",
]
# A secret as people make them: no blank, no quote; long enough that no template holds it by chance.
SECRETS = st.text(
    "".join(set(string.ascii_letters + string.digits + "!$%^*_+-.~/?@:#=")), min_size=10, max_size=40
).map(lambda made: f"z{made}Z9")
TEMPLATES = [
    "postgresql://shop:{}@db:5432/shop", "cannot connect to redis://:{}@cache/0: refused", "amqp://u:{}@[::1]/x?y=1",
    "{name}={}", "run with {name}={} and go", "{name} = {}", 'export {name}="{}"', "host=db user=u {name}='{}' port=1",
    "{{'{name}': '{}'}}", '{{"{name}": "{}", "a": 1}}', "app --{name} {} --verbose", "app --{name}={}", "app --{name} '{}'",
    "Authorization: {}", "curl -H 'Authorization: Bearer {}'", "X-Api-Key: {}",
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
@given(secret=SECRETS, name=st.sampled_from(NAMES))
def test_a_secret_is_not_shown(template, secret, name):
    shown = redact.text(template.format(secret, name=name))
    assert secret not in shown
    assert redact.HIDDEN in shown
    assert redact.text(shown) == shown


def test_the_key_env_pass_has_names_alone():
    line = "env_pass = *, !AWS_*"
    assert redact.text(line) == line
    assert not redact.is_secret("env_pass")
    for name in ("ENV_PASS", "MY_ENV_PASS", "env_password", "db.env_pass"):
        assert redact.is_secret(name)
        assert redact.text(f"{name}=h1dden") == f"{name}=***"


@given(
    secret=st.text("".join(set(string.ascii_letters + string.digits + "-._~")), min_size=10).map(
        lambda made: f"z{made}Z"
    )
)
def test_nor_is_a_parameter_of_a_url(secret):
    shown = redact.text(f"GET https://h/path?page=2&access_token={secret}&size=3 is 500")
    assert shown == "GET https://h/path?page=2&access_token=***&size=3 is 500"


@pytest.mark.parametrize(
    "text",
    [
        "", "exit 1", "http://127.0.0.1:8080/health", "http://h:80/a@b", "mail to a@b.example", "max_restarts = 16",
        "autorestart = always; 3 of max_restarts = 16 within 60s", "web:0: exec /srv/app failed: No such file",
        "API_TOKEN: ${X} is not set; set X, or give a default: ${X:-…}", "the token of it", "env API_TOKEN: (none) → (set)",
        "postgresql:///impetus?host=/run/postgres&user=impetus", "author=Jane", "nofile=65536, core=0:infinity",
    ],
)  # fmt: skip
def test_what_is_none_stays(text):
    assert redact.text(text) == text


@given(st.text())
def test_any_text_may_come_and_what_is_hidden_stays_hidden(text):
    shown = redact.text(text)
    assert redact.text(shown) == shown


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "key" * 60_000, "://" * 60_000, "='" * 100_000, "--key " * 30_000, "x-" * 90_000]
)
def test_a_long_line_takes_no_time(text):
    redact.text(text)  # a quadratic rule would take minutes


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE", "impd_" + "aB-_" * 10, "ghp_" + "a1" * 18, "glpat-" + "x" * 20, "xoxb-1234567890-abc", "sk_live_" + "4" * 24,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "-----BEGIN RSA PRIVATE KEY-----MIIE",
    ],
)  # fmt: skip
def test_well_known_tokens_need_no_name(secret):
    assert secret not in redact.text(f"failed with {secret} in hand")


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["app", "--password", "two words", "-v"], ["app", "--password", "***", "-v"]),
        (["app", "--api-key", "-x1", "--verbose"], ["app", "--api-key", "***", "--verbose"]),
        (["app", "--token=a b c"], ["app", "--token=***"]),
        (["curl", "-H", "Authorization: Basic dTpw"], ["curl", "-H", "Authorization: ***"]),
        (
            ["env", "PGPASSWORD=a b", "psql", "postgres://u:p@h/d"],
            ["env", "PGPASSWORD=***", "psql", "postgres://u:***@h/d"],
        ),
        (["sh", "-c", "TOKEN=abc exec app"], ["sh", "-c", "TOKEN=***"]),
        (["app", "--keyfile", "--verbose"], ["app", "--keyfile", "--verbose"]),
        (["redis-server", "--port", "6380"], ["redis-server", "--port", "6380"]),
    ],
)
def test_of_a_command(argv, shown):
    assert redact.argv(argv) == shown


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "PWD", "LANG", "PORT", "AUTHOR", "SSH_AUTH_SOCK", "WORKERS", "DATABASE_URL"]
)
def test_names_that_are_none(name):
    assert redact.value(name, "v") == "v"


@pytest.mark.parametrize("name", [*NAMES, "AUTHORIZATION", "Cookie", "X-Auth", "stripe_key", "PRIVATE", "COOKIE_SALT"])
def test_names_that_are_some(name):
    assert redact.value(name, "v") == "***"
    assert redact.value(name, "") == ""


def test_what_is_known_is_found_anywhere():
    env = [
        ("DB_PASSWORD", "hunter22"),
        ("PIN_KEY", "1234"),
        ("DATABASE_URL", "pg://u:correcthorse@h/d"),
        ("PORT", "8080808"),
    ]
    known = redact.secrets(env)
    assert known == ("correcthorse", "hunter22")
    assert redact.text("tried hunter22, then correcthorse on 8080808", known) == "tried ***, then *** on 8080808"


def test_of_a_whole_answer():
    told = {
        "units": [{"reason": "no pg://u:secret1@h", "pid": 1, "tail": ("PASSWORD=secret1",)}],
        "ok": True,
        "password": None,
    }
    shown = redact.everything(told)
    assert "secret1" not in json.dumps(shown)
    assert shown["units"][0]["pid"] == 1


def test_what_a_command_holds_is_known_too():
    argv = ["a", "--password", "hunter2", "--key=abcdefg", "x://u:hijklmn@h", "--port", "8080808"]
    assert sorted(redact.secrets([], argv)) == ["abcdefg", "hijklmn", "hunter2"]


def _texts(source):
    """Every text in a module but its docstrings, x in the place of what an f-string puts in."""
    tree = ast.parse(source)
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    docs = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@pytest.mark.parametrize("part", ["core", "supervisor", "cli", "client", "files", "linux", "shim", "."])
def test_nothing_that_we_say_ourselves_is_hidden(part):
    folder = pathlib.Path(impetusd.__file__).parent / part
    ours = [
        path
        for path in (folder.glob if part == "." else folder.rglob)("*.py")
        if path.name not in {"redact.py", "unitfiles.py"}
    ]
    assert ours
    for path in ours:
        for said in _texts(path.read_text()):
            assert redact.text(said) == said, path
