"""Settings: defaults, limits, and refusals that name everything wrong at once."""

from __future__ import annotations

from dataclasses import fields

import pytest

from impetus_service.settings import Settings, SettingsError

URL = "postgresql:///impetus?host=/run/db&user=impetus"


def test_defaults():
    assert Settings.from_environment({"DATABASE_URL": URL}) == Settings(
        URL, "impetus", 2, 20, db_timeout_ms=5000, cache_max_entries=1000, session_hours=12, log_level="INFO"
    )


def test_an_empty_value_counts_as_not_set():
    environment = {"DATABASE_URL": URL, "DB_POOL_MIN": "", "DB_POOL_MAX": " ", "CACHE_MAX_ENTRIES": "", "LOG_LEVEL": ""}
    assert Settings.from_environment(environment) == Settings(URL)


def test_values_are_taken():
    environment = {
        "DATABASE_URL": URL,
        "DB_POOL_MIN": "0",
        "DB_POOL_MAX": "7",
        "CACHE_MAX_ENTRIES": "9",
        "LOG_LEVEL": "debug",
    }
    assert Settings.from_environment(environment) == Settings(
        URL, db_pool_min=0, db_pool_max=7, cache_max_entries=9, log_level="DEBUG"
    )


def test_a_small_maximum_lowers_the_default_minimum():
    assert Settings.from_environment({"DATABASE_URL": URL, "DB_POOL_MAX": "1"}).db_pool_min == 1


NUMBERS = [field.name.upper() for field in fields(Settings) if field.type == "int"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["-1", "many", "1.5", "1e3", "٣", "99999999999999999999"])
def test_a_wrong_number_is_refused_with_name_value_and_what_is_allowed(name, value):
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment({"DATABASE_URL": URL, name: value})
    assert f"{name}={value!r}: must be a whole number from " in str(refusal.value)


def test_every_problem_is_told_at_once():
    environment = {"DB_POOL_MAX": "0", "CACHE_MAX_ENTRIES": "x", "LOG_LEVEL": "loud"}
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment(environment)
    for name in ("DATABASE_URL is not set", "DB_POOL_MAX='0'", "CACHE_MAX_ENTRIES='x'", "LOG_LEVEL='LOUD'"):
        assert name in str(refusal.value)


@pytest.mark.parametrize("name", ["Impetus", "a b", "pg_x", "a" * 64, 'x";'])
def test_a_schema_that_is_no_plain_name_is_refused(name):
    assert Settings.from_environment({"DATABASE_URL": URL, "DB_SCHEMA": "shop_1"}).db_schema == "shop_1"
    with pytest.raises(SettingsError, match=r"DB_SCHEMA=.*: use a-z, 0-9 and _"):
        Settings.from_environment({"DATABASE_URL": URL, "DB_SCHEMA": name})


def test_a_minimum_above_the_maximum_is_refused():
    with pytest.raises(SettingsError, match="DB_POOL_MIN=5: must not exceed DB_POOL_MAX, which is 4"):
        Settings.from_environment({"DATABASE_URL": URL, "DB_POOL_MIN": "5", "DB_POOL_MAX": "4"})


@pytest.mark.parametrize(
    "url",
    [
        "mysql://joe:hunter2@host/db",
        "hunter2",
        "postgresql://joe:hunter2@host:port/db",
        "postgresql://joe:hunter2@[::1/db",
        "mysql:///db?password=hunter2",
    ],
)
def test_a_wrong_url_is_refused_without_showing_a_password(url):
    with pytest.raises(SettingsError, match="DATABASE_URL") as refusal:
        Settings.from_environment({"DATABASE_URL": url})
    assert "postgresql://" in str(refusal.value)
    if "password" in url or ":" in url:
        assert "hunter2" not in str(refusal.value)


def test_every_number_is_read_under_its_name():
    for name in NUMBERS:
        assert getattr(Settings.from_environment({"DATABASE_URL": URL, name: "7"}), name.lower()) == 7


def test_a_key_alone_means_openai_and_no_key_is_shown():
    settings = Settings.from_environment({"DATABASE_URL": URL, "OPENAI_API_KEY": "sk-secret"})
    assert settings.openai_base_url == "https://api.openai.com/v1"
    assert "sk-secret" not in repr(settings)
    assert Settings.from_environment({"DATABASE_URL": URL}).openai_base_url == ""


@pytest.mark.parametrize("url", ["ftp://host/v1", "host/v1", "http://joe:hunter2@host/v1", "http://[::1", "http://h:0"])
def test_a_wrong_provider_is_refused_without_showing_it(url):
    with pytest.raises(SettingsError, match="OPENAI_BASE_URL: must be https://") as refusal:
        Settings.from_environment({"DATABASE_URL": URL, "OPENAI_BASE_URL": url})
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("url", ["postgresql://joe:hunter%32@host/db", "postgresql:///db?user=joe&password=hunter2"])
def test_the_password_is_a_secret(url):
    assert Settings(url).secrets() == ("hunter2",)


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "null",
        "https://a.example/",
        "https://a.example/x",
        "ftp://a",
        "a.example",
        "https://*.example",
        "https://u:p@a",
    ],
)
def test_what_is_no_origin_is_refused(text):
    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        Settings.from_environment({"DATABASE_URL": URL, "CORS_ORIGINS": f"https://b.example, {text}"})


def test_origins_are_written_as_browsers_do():
    given = "https://App.Example:443,http://a.example:80\n http://a.example:8080  https://[::1]:5173,"
    settings = Settings.from_environment({"DATABASE_URL": URL, "CORS_ORIGINS": given})
    assert settings.cors_origins == (
        "https://app.example", "http://a.example", "http://a.example:8080", "https://[::1]:5173"
    )  # fmt: skip
    assert Settings.from_environment({"DATABASE_URL": URL}).cors_origins == ()


@pytest.mark.parametrize(
    ("name", "text"), [("PUBLIC_URL", "a.example"), ("PUBLIC_URL", "https://u:p@a"), ("COOKIE_SAMESITE", "no")]
)
def test_what_the_cookie_needs_is_looked_at(name, text):
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({"DATABASE_URL": URL, name: text})
