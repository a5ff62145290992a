"""Programs that put themselves into the background: what to write instead."""

from __future__ import annotations

import pytest

from impetusd.core.explain import foreground


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        (["nginx"], "nginx -g 'daemon off;'"),
        (["/usr/sbin/php-fpm8.2", "-R"], "php-fpm8.2 --nodaemonize"),
        (["celery", "multi", "start", "w1", "-A", "shop"], "celery -A APP worker"),
        (["/srv/venv/bin/python", "-m", "celery", "multi", "start"], "celery -A APP worker"),
        (["sh", "-c", "cd /srv && exec nginx -c x.conf"], "nginx -g 'daemon off;'"),
        (["gunicorn", "-D", "shop:app"], "gunicorn without --daemon"),
        (["memcached", "-dm", "64"], "memcached without -d"),
        (["pg_ctl", "start"], "postgres -D DATA"),
        (["apachectl", "start"], "apachectl -DFOREGROUND"),
        (["pm2", "start", "app.js"], "pm2-runtime"),
    ],
)
def test_what_is_known(command, instead):
    found = foreground.advice(command)
    assert f"Make it stay in the foreground: {instead}" in found


@pytest.mark.parametrize(
    "command", [[], ["python", "app.py"], ["celery", "-A", "shop", "worker"], ["gunicorn", "shop:app"], ["./nginx.py"]]
)
def test_of_others_nothing_is_said(command):
    assert foreground.advice(command) == ""
