"""Fifty planted secrets, and not one in anything that impetusd prints or writes; and what `impetusd env` tells."""

from __future__ import annotations

import contextlib
import json
import re
import socket

from instance import Instance, program, wait_for

READY = f"command = {program('tell_ready', 'self')}\nwait_ready = yes\n"
NAMES = ("DB_PASSWORD", "API_TOKEN", "SECRET_KEY", "SENTRY_DSN", "AWS_CREDENTIALS")


LOOKS = (
    *("status", "status --json", "describe *", "describe * --json", "describe job --json", "health", "health --json"),
    *("timers", "timers --json", "env quiet", "env quiet --json", "env quiet --diff"),
)
CHANGES = ("plan", "plan --json", "env quiet --diff", "apply", "events", "events --json")
ENV = "".join(f"{name} = %s\n" for name in NAMES) + "".join(
    f"URL_{scheme} = {scheme}://user:%s@127.0.0.1/x\n" for scheme in ("postgresql", "redis", "amqp", "https")
)
FAILS = program("exit_with", "3")
# Each %s is another secret.
WHOLE = f"""
[program:quiet]
{READY}
[env:quiet]
{ENV}
[program:dying]
command = {FAILS} --password %s --api-key=%s pg://u:%s@h/d TOKEN=%s
max_restarts = 1
[program:loud]
command = {program("print_environ")}
autorestart = never
env_file = loud.env
[env:loud]
{ENV}
[health:quiet]
http = http://127.0.0.1:PORT/?token=%s&page=1
headers = Authorization: Bearer %s
  X-Api-Key: %s
interval = 100ms
timeout = 50ms
failures = 1
action = alert
[health:runs]
target = quiet
exec = {FAILS} --secret %s
interval = 100ms
timeout = 100ms
failures = 1
action = alert
[timer:job]
command = {FAILS} --token=%s x://u:%s@h
every = 1d
[env:job]
JOB_KEY = %s
"""
MORE = """
[program:more]
command = sleep 99 --password '%s' http://%s@127.0.0.1/
[env:more]
MORE_SECRET = %s
"""
BROKEN = """
[program:wrong]
command = x --password %s 'open
listen = API_KEY=%s
[health:wrong]
http = http://u:%s@h/
headers = Authorization %s
postgres://u:%s@h/x?y=1
[program:worse]
command = y
umask = token=%s
cwd = a
  PASSWORD=%s
"""


class Secrets:
    """Makes secrets, and looks for them."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def into(self, text: str) -> str:
        """The text with a new secret for each %s."""
        first, *rest = text.split("%s")
        for part in rest:
            self.made.append(f"s3cr3t{len(self.made):02}xQz")
            first += self.made[-1] + part
        return first

    def found_in(self, text: str) -> list[str]:
        return [secret for secret in self.made if secret in text]


def test_fifty_planted_secrets_are_nowhere(impetusd: Instance) -> None:
    secrets = Secrets()

    def run(*lines: str) -> None:
        told.extend(f"{line}: {impetusd.run(*line.split(), code=None)}" for line in lines)

    told: list[str] = []
    impetusd.write(secrets.into("".join(f"{name}_FILE=%s\nexport OTHER_{name}='%s'\n" for name in NAMES)), "loud.env")
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        whole = secrets.into(WHOLE.replace("PORT", str(deaf.getsockname()[1])))
        impetusd.write(whole)
        run("check", "start")
        wait_for(lambda: impetusd.status()["loud"].pid is None and impetusd.status()["loud"].tail, "its last output")
        for check in ("health:quiet", "health:runs"):
            impetusd.says(check)
        impetusd.run("trigger", "job", code=3)  # shows what the job writes into its own log
        run(*LOOKS)
        changed = secrets.into(whole.replace("user:", "user:%s").replace("TOKEN=", "TOKEN=%s") + MORE)
        impetusd.write(changed)
        run(*CHANGES)
        impetusd.write(whole + secrets.into(BROKEN))
        run("check", "plan", "apply", "start", "stop")
    for path in impetusd.root.rglob("*"):
        given = path == impetusd.conf or path.name == "loud.env" or path.name.endswith(("-out.log", "-error.log"))
        if path.is_file() and not given:
            told.append(f"{path}: {path.read_text(encoding='utf-8', errors='replace')}")
    assert {"impetusd.log", "ledger.jsonl", "state.json"} <= {
        text.partition(": ")[0].rpartition("/")[2] for text in told
    }
    assert len(secrets.made) >= 50
    for text in told:
        assert secrets.found_in(text) == [], text
    assert secrets.found_in(
        impetusd.log("loud-error.log")
    )  # what a program says itself is in its own log, and only there


def test_env_tells_what_a_start_would_change(anyone: Instance) -> None:
    text = f"[program:one]\n{READY}env_file = one.env\n[env:one]\nCOLOUR = red\nAPI_TOKEN = first-token\n"
    anyone.write("FROM_FILE=a\nGONE=b\n", "one.env")
    anyone.start(text)
    out = anyone.run("env", "one").out
    assert re.search(r"^  COLOUR +red$", out, re.MULTILINE)
    assert re.search(r"^  API_TOKEN +\*\*\*$", out, re.MULTILINE)
    assert "INVOCATION_ID" not in out
    assert "a start would change nothing" in anyone.run("env", "one", "--diff").out
    anyone.write("FROM_FILE=c\n", "one.env")
    out = anyone.run("env", "one", "--diff", code=1).out
    assert "FROM_FILE: a" in out
    assert "GONE: b" in out
    assert out.endswith("restart one\n")
    anyone.run("restart", "one")
    anyone.run("env", "one", "--diff")
    anyone.write(text.replace("first", "second").replace("red", "blue"))
    answer = json.loads(anyone.run("env", "one", "--diff", "--json", code=1).out)["slots"][0]
    assert answer["differs"] == [
        {"name": "API_TOKEN", "from": "***", "to": "***"},
        {"name": "COLOUR", "from": "red", "to": "blue"},
    ]
    assert answer["takes"] == "apply"
    anyone.run("apply")
    anyone.run("env", "one", "--diff")
    anyone.run("stop", "one")
    assert "no process is running in one" in anyone.run("env", "one", code=1).err
    assert "no unit 'two'" in anyone.run("env", "two", code=4).err
