"""What stands here for each setting of gunicorn. Its configuration is a Python program, so no reader makes an INI of it."""

from __future__ import annotations

from impetusd.interop.importing.model import Rule, kept, lost, translated, unneeded

_HOOK = lost("impetusd has no hooks; do this in the application's startup and shutdown")
_PARSER = lost("the HTTP parser's own rules apply")
_LIMIT = lost("the HTTP parser has its own limits; a proxy in front can set stricter ones")
_TLS = lost("use a proxy in front for TLS")
_HTTP2 = lost("use a proxy in front for HTTP/2")
_PROXY = lost("a proxy in front must speak HTTP")
_LOGGING = lost("the application configures logging; whatever it writes to its output is logged")
_SYSLOG = lost("out_file = stdout, and run impetusd under systemd, which logs to the journal", "out_file")
_STATSD = lost("[gateway] has /metrics, in Prometheus's format")
_DIRTY = lost("write a [program:NAME] for long work, or use a queue")

# Every setting of gunicorn 27.0.1 (gunicorn.config.KNOWN_SETTINGS).
KEYS: dict[str, Rule] = {
    "config": translated("", "the keys of [pool:NAME]; impetusd -c FILE"),
    "wsgi_app": translated("app"),
    "bind": translated("listen"),
    "backlog": kept("backlog"),
    "workers": translated("instances", "max means one per CPU"),
    "worker_class": translated("protocol", "auto detects the kind of application; gevent, eventlet and tornado are not supported"),
    "threads": kept("threads", "only for WSGI"),
    "worker_connections": lost("a worker accepts any number of connections"),
    "max_requests": kept("max_requests"),
    "max_requests_jitter": translated("max_requests", "impetusd adds 10 % jitter itself"),
    "timeout": translated("watchdog", "applies when the event loop (WSGI: every thread) is stuck; stack traces are logged"),
    "graceful_timeout": translated("drain_timeout", "together with kill_timeout, after which it is killed"),
    "keepalive": lost("idle connections are kept for an hour, so the proxy closes them first"),
    "limit_request_line": _LIMIT,
    "limit_request_fields": _LIMIT,
    "limit_request_field_size": _LIMIT,
    "reload": translated("watch", "needs impetusd[watch]"),
    "reload_engine": unneeded("the kernel reports changes"),
    "reload_extra_files": translated("watch", "files and folders"),
    "spew": lost("impetusd why NAME shows the stack traces of a stuck worker"),
    "check_config": translated("", "impetusd check --host"),
    "print_config": translated("", "impetusd describe NAME"),
    "preload_app": translated("preload", "yes by default; a reload imports the new code anyway"),
    "sendfile": unneeded("the server decides"),
    "reuse_port": unneeded("workers share one socket, and connections are spread evenly"),
    "chdir": translated("cwd"),
    "daemon": unneeded("impetusd start runs in the background, impetusd run in the foreground"),
    "raw_env": translated("[env:NAME]"),
    "pidfile": unneeded("impetusd status --json has the pids"),
    "worker_tmp_dir": unneeded("a worker reports that it is alive without a file"),
    "user": kept("user"),
    "group": kept("group"),
    "umask": kept("umask", "022 by default"),
    "initgroups": unneeded("a user's supplementary groups are always set"),
    "tmp_upload_dir": lost("set TMPDIR in [env:NAME]"),
    "secure_scheme_headers": lost("impetusd reads X-Forwarded-Proto"),
    "forwarded_allow_ips": translated("[env:NAME]", "FORWARDED_ALLOW_IPS"),
    "accesslog": translated("access_log", "yes: written to out_file"),
    "disable_redirect_access_to_syslog": unneeded("impetusd does not use syslog"),
    "access_log_format": lost("always the common log format"),
    "errorlog": translated("error_file"),
    "loglevel": _LOGGING,
    "capture_output": unneeded("all output is logged"),
    "logger_class": _LOGGING,
    "logconfig": _LOGGING,
    "logconfig_dict": _LOGGING,
    "logconfig_json": _LOGGING,
    "syslog_addr": _SYSLOG,
    "syslog": _SYSLOG,
    "syslog_prefix": _SYSLOG,
    "syslog_facility": _SYSLOG,
    "enable_stdio_inheritance": unneeded("all output is logged"),
    "statsd_host": _STATSD,
    "dogstatsd_tags": _STATSD,
    "statsd_prefix": _STATSD,
    "enable_backlog_metric": _STATSD,
    "proc_name": unneeded("impetusd status shows the names"),
    "default_proc_name": unneeded("gunicorn sets it itself"),
    "pythonpath": translated("[env:NAME]", "PYTHONPATH"),
    "paste": lost("write a module with a function that creates the application from it"),
    "raw_paste_global_conf": lost("write a module with a function that creates the application from it"),
    **dict.fromkeys(
        ("on_starting", "on_reload", "when_ready", "pre_fork", "post_fork", "post_worker_init", "worker_int", "worker_abort", "pre_exec",
         "pre_request", "post_request", "child_exit", "worker_exit", "nworkers_changed", "on_exit"),
        _HOOK,
    ),
    **dict.fromkeys(
        ("ssl_context", "keyfile", "certfile", "ssl_version", "cert_reqs", "ca_certs", "suppress_ragged_eofs",
         "do_handshake_on_connect", "ciphers"),
        _TLS,
    ),
    **dict.fromkeys(("proxy_protocol", "proxy_allow_ips", "protocol", "uwsgi_allow_ips"), _PROXY),
    **dict.fromkeys(
        ("http_protocols", "http2_cleartext", "http2_max_concurrent_streams", "http2_initial_window_size", "http2_max_frame_size",
         "http2_max_header_list_size"),
        _HTTP2,
    ),
    **dict.fromkeys(
        ("permit_obsolete_folding", "strip_header_spaces", "permit_unconventional_http_method",
         "permit_unconventional_http_version", "casefold_http_method", "forwarder_headers", "header_map", "http_parser"),
        _PARSER,
    ),
    "asgi_loop": unneeded("uvloop if impetusd's own Python runs the pool, otherwise asyncio's"),
    "asgi_lifespan": unneeded("used if the application has one"),
    "asgi_disconnect_grace_period": lost("a disconnected client is reported at once"),
    "websocket_max_message_size": lost("uvicorn's own limit applies"),
    "root_path": kept("root_path"),
    **dict.fromkeys(
        ("dirty_apps", "dirty_workers", "dirty_timeout", "dirty_threads", "dirty_graceful_timeout", "on_dirty_starting",
         "dirty_post_fork", "dirty_worker_init", "dirty_worker_exit"),
        _DIRTY,
    ),
    "control_socket": unneeded("impetusd's control socket is in run_dir"),
    "control_socket_mode": unneeded("roles say who may do what: viewers, operators, admins"),
    "control_socket_disable": unneeded("impetusd's control socket is always available"),
}  # fmt: skip
