"""How to run well-known daemons in the foreground, so that they can be supervised."""

from __future__ import annotations

import re
from posixpath import basename
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Program, a word that must be among its arguments ("" for none), and what to write instead.
KNOWN = (
    (r"nginx|openresty", "", "{name} -g 'daemon off;'"),
    (r"php-fpm[\d.]*", "", "{name} --nodaemonize"),
    (r"celery", r"multi|--detach|-D", "celery -A APP worker, one program for each worker"),
    (r"apache2|httpd", "", "{name} -DFOREGROUND"),
    (r"apache2?ctl", "", "{name} -DFOREGROUND"),
    (r"gunicorn", r"-D|--daemon", "gunicorn without --daemon, and without daemon = True in its configuration"),
    (r"uwsgi", "", "uwsgi without --daemonize, and with --die-on-term"),
    (r"redis-server|valkey-server", "", "{name} --daemonize no"),
    (r"memcached", r"-\w*d\w*", "memcached without -d"),
    (r"pg_ctl(?:cluster)?", "", "postgres -D DATA"),
    (r"mysqld|mariadbd", r"--daemonize", "{name} without --daemonize"),
    (r"mongod", r"--fork", "mongod without --fork"),
    (r"haproxy", "", "haproxy -W -db -f CONFIGURATION"),
    (r"sshd", "", "sshd -D -e"),
    (r"varnishd", "", "varnishd -F"),
    (r"squid", "", "squid --foreground"),
    (r"dnsmasq", "", "dnsmasq --keep-in-foreground"),
    (r"named", "", "named -f"),
    (r"unbound", "", "unbound -d"),
    (r"postfix", "", "postfix start-fg"),
    (r"cron", "", "cron -f"),
    (r"crond", "", "crond -n"),
    (r"keepalived", "", "keepalived --dont-fork"),
    (r"rabbitmq-server", r"-detached", "rabbitmq-server without -detached"),
    (r"openvpn", r"--daemon", "openvpn without --daemon"),
    (r"stunnel4?", "", "{name} with foreground = yes in its configuration"),
    (r"rsync", r"--daemon", "rsync --daemon --no-detach"),
    (r"supervisord", "", "supervisord --nodaemon"),
    (r"pm2", "", "pm2-runtime, or better the program itself, which impetusd manages instead of PM2"),
    (r"docker|podman", r"-d|--detach", "{name} run without -d"),
)


def advice(command: Sequence[str]) -> str:
    """Advice for this command, as a sentence; "" for an unknown program, or one that stays in the foreground."""
    words = [part for word in command for part in word.split()]
    for place, word in enumerate(words):
        name = basename(word.strip("'\";"))
        for program, argument, instead in KNOWN:
            given = not argument or any(re.fullmatch(argument, each.strip("'\";")) for each in words[place + 1 :])
            if given and re.fullmatch(program, name):
                return f"{name} puts itself into the background. Make it stay in the foreground: {instead.format(name=name)}"
    return ""
