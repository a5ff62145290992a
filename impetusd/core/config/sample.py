"""The INI file that conf/ holds and `impetusd init --all-keys` writes, made from the key table.

    python -m impetusd.core.config.sample > conf/impetusd.ini

What runs stands first in each section. The keys follow, each once in the file, commented out, with its default (or
an example, where there is none) and what it does: removing the `;` sets it.
"""

from __future__ import annotations

import sys
import textwrap

from impetusd.core.config import schema

WIDTH = 100
NAME = 26  # columns of a key's name with its ";": the longest is exp_backoff_restart_delay
VALUE = 11  # columns of its value; a longer one moves its explanation down a line

HEAD = """\
; What impetusd keeps running on this host. `impetusd check` reports mistakes in this file.
;
; A line that starts with ; is a comment. A key after a ; shows its default, or an example if it
; has none; remove the ; to set it. Durations need a unit: 500ms, 10s, 5m, 1h, 1d. Relative paths
; start from base_dir.
;
; ${NAME}, ${NAME:-default} and ${NAME:+other} expand environment variables and folders:
; ${BASE_DIR}, ${RUN_DIR}, ${STATE_DIR}, ${LOG_DIR}, ${CONF_DIR}. For a literal dollar, write $$.
; Quotes around a whole value are dropped; in double quotes \\" is a quote and \\\\ a backslash.
; In a pool or program and its env, ${INSTANCE} is the instance's number, starting at 0.

[impetusd]
"""

POOL = """
; A pool: workers that serve an application (aiohttp, ASGI or WSGI) on shared sockets.

[pool:web]
app        = impetus_service.app:create_app
instances  = 2
listen     = 127.0.0.1:8080
depends_on = db
"""

PROGRAM = """
; A program: any command. This one is a private PostgreSQL, unless DATABASE_URL is set.

[program:db]
enabled     = ${DATABASE_URL:+no}
command     = impetusd-postgres --data ${STATE_DIR}/postgres --socket-dir ${RUN_DIR}/postgres
wait_ready  = yes
kill_signal = SIGINT

; Work that takes longer than a request may: exports, reports, batches of embeddings.

[program:jobs]
command      = impetusd-service jobs
instances    = 1
depends_on   = db
kill_timeout = 20s
"""

HEALTH = """
; A health check, and the action to take when it fails. This one asks each worker of the pool web
; whether it is ready for requests. A reload continues once the new workers answer with success; if
; their migrations fail, it is rolled back after start_period and the old version keeps serving.

[health:web-ready]
target       = web
http         = /health/ready
start_period = 10s
interval     = 30s
action       = alert

; This check asks whether the service is healthy. While the database is down it answers 503, and a
; restart would not bring the database back, so the check only alerts. A worker that hangs is
; replaced anyway, by the watchdog.

[health:web]
http     = /health
interval = 30s
action   = alert

"""

TIMER = """
; A timer: a command that runs on a schedule. This one deletes expired data and vacuums.

[timer:maintenance]
command = impetusd-service maintenance
cron    = 0 3 * * *
timeout = 2h

"""

GROUP = """
; A group: one name for several units, accepted by every command. Uncomment two lines to use it.

;[group:shop]
"""

INCLUDE = """
; Other files to include, as if their text were here. Uncomment two lines to use it.

;[include]
"""

GATEWAY = """
; The web page, the API and the metrics; reachable only from this machine unless listen is set. The
; first start prints a login link. Without this section, nothing listens.

[gateway]
"""

ALERT = """
; An alert: where to send notifications. Uncomment the header and one of url, to and command.

;[alert:ops]
"""

HOST = """
; Another host, whose problems the page also shows. Uncomment three lines to use it.

;[host:web2]
"""

ENVIRONMENT = """
; Environment variables of a unit, besides PATH, HOME and the like. After `impetusd start --env
; production` (or apply), [env:web@production] overrides them, until another --env is given.

[env:web]
DATABASE_URL = ${DATABASE_URL:-postgresql:///impetus?host=${RUN_DIR}/postgres&user=impetus}
DB_POOL_MIN  = 2
DB_POOL_MAX  = 20
JOB_FILES_DIR = ${STATE_DIR}/job-files
AUDIT_SPOOL_DIR = ${STATE_DIR}/audit-spool

[env:jobs]
DATABASE_URL = ${DATABASE_URL:-postgresql:///impetus?host=${RUN_DIR}/postgres&user=impetus}
JOB_FILES_DIR = ${STATE_DIR}/job-files

[env:maintenance]
DATABASE_URL = ${DATABASE_URL:-postgresql:///impetus?host=${RUN_DIR}/postgres&user=impetus}
JOB_FILES_DIR = ${STATE_DIR}/job-files
AUDIT_LOG_RETENTION_DAYS = 90
"""


def sample(base_dir: str = "") -> str:
    """The whole file. `base_dir`, where given, is set in it; otherwise that key is commented out like the others."""
    pool = schema.keys_of(schema.POOL).values()
    of_pools = [key.name for key in pool if key.name not in schema.keys_of(schema.PROGRAM)]
    parts = [HEAD]
    if base_dir:
        parts.append(f"base_dir = {base_dir}\n\n")
    parts += map(_line, schema.keys_of(schema.IMPETUSD).values())
    parts.append(POOL)
    for group in dict.fromkeys(key.group for key in pool):
        parts.append(f"\n; {group}\n")
        parts += [_line(key) for key in pool if key.group == group]
    parts += (PROGRAM, "\n", _note(f"A program also accepts the keys of a pool, except {_words(of_pools)}."))
    parts += _further(schema.PROGRAM)
    for kind, head, who in ((schema.HEALTH, HEALTH, "A check with exec"), (schema.TIMER, TIMER, "A timer")):
        shared = [key.name for key in pool if kind in key.sections and key.name != "enabled"]
        parts += (head, _note(f"{who} also accepts, besides enabled, these keys of a pool: {_words(shared)}."))
        parts += _further(kind)
    for section, head in (
        (schema.GROUP, GROUP),
        (schema.INCLUDE, INCLUDE),
        (schema.GATEWAY, GATEWAY),
        (schema.ALERT, ALERT),
        (schema.HOST, HOST),
    ):
        parts += (head, *_further(section))
    parts.append(ENVIRONMENT)
    return "".join(parts)


def _further(section: str) -> list[str]:
    """The keys of a section that no section before it takes."""
    return [_line(key) for key in schema.keys_of(section).values() if key.sections[0] == section]


def _words(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _note(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="; ", subsequent_indent="; ") + "\n"


def _line(key: schema.Key) -> str:
    """A key behind its ";", and its documentation in a column of its own."""
    column = NAME + 3 + VALUE + 1
    first, *more = textwrap.wrap(key.doc, WIDTH - column - 2)
    setting = f"{';' + key.name:<{NAME}} = {key.default or key.example}"
    if len(setting) < column:
        lines = [f"{setting:<{column}}; {first}"]
    else:
        lines, more = [setting], [first, *more]
    lines += [f"{';':<{column}}; {text}" for text in more]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(sample(".."))
