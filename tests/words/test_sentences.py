"""Each reason's wording, pinned once: an example of every key in reasons.txt. `pytest --golden` writes that anew."""

from __future__ import annotations

import errno
from pathlib import Path

from impetusd.core.reasons import KEYS, NONE, REASONS, STAGES, Reason, because, not_started, rule_of

GOLDEN = Path(__file__).with_name("reasons.txt")
END = because("exit", code=1)
NO_FILE = because("os_error", errno=errno.ENOENT, detail="")
# By the name of a fact, what it is in the examples.
FACTS = {
    **dict.fromkeys(REASONS, END),
    "within_s": 30.0, "every_s": 300.0, "limit_s": 3600.0, "window_s": 60.0, "timeout_s": 10.0, "hold_s": 30.0,
    "wait_s": 3.2, "ago_s": 12.0, "left_s": 4.0, "again_s": 30.0,
    "code": 1, "codes": ["3", "4"], "signal": "SIGKILL", "oom": "", "core": True, "errno": errno.ENOENT, "detail": "",
    "count": 2, "most": 16, "restarts": 16, "more": 2, "kept": 7, "files": 1, "lines": 9, "limit": 200 << 20,
    "used": 212 << 20, "used_old": 100 << 20, "errors": 9, "requests": 10, "errors_old": 0, "requests_old": 1000,
    "basis": "", "name": "db", "state": "FATAL", "unit": "web", "slot": "web:0", "target": "web:0", "rule": "restart_delay",
    "path": "/srv/x", "where": "/var/log/x.log", "schedule": "0 4 * * *", "autorestart": "always", "stage": "exec",
    "what": "/srv/run", "text": "what somebody said", "error": "KeyError('x')", "holder": "nginx (pid 4711)",
    "question": "GET /health", "answer": "503 Service Unavailable", "at": "/health", "pattern": "listening",
    "how": "exit 70", "fix": "run: chmod go-w /srv/x", "problem": "x.ini:3: unknown key 'x' in [program:api]", "source": "web:0",
}  # fmt: skip


def examples() -> list[tuple[str, Reason]]:
    made = [(key, Reason(key, {name: FACTS[name] for name in kind.facts})) for key, kind in KEYS.items()]
    made += [(f"start_failed {stage}", not_started(stage, NO_FILE, "WHAT")) for stage in STAGES]
    return made


def test_every_reason_reads_as_it_did(request) -> None:
    lines = [f"{key}: {reason}" for key, reason in examples()]
    if request.config.getoption("--golden"):
        GOLDEN.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert lines == GOLDEN.read_text(encoding="utf-8").splitlines()


def test_a_reason_within_a_reason_is_a_part_of_its_sentence() -> None:
    failed = not_started("exec", because("no_file", name="/x"), "/x")
    slowly = because("tried_slowly", end=because("gave_up", end=failed, restarts=3, window_s=60.0), every_s=300.0)
    assert str(slowly) == (
        "executing /x failed: no such file; gave up after 3 restarts in 60 s; retrying every 300 s (retry_after)"
    )


def test_what_is_not_needed_is_not_said() -> None:
    assert str(NONE) == ""
    assert str(because("waits_for", name="db", state="", cause=NONE)) == "waits for db"
    assert (
        str(because("killed", signal="SIGKILL", oom="out of memory", core=False)) == "killed by SIGKILL (out of memory)"
    )
    assert str(because("watch", path="a.py", more=0)) == "changed: a.py"
    assert str(because("cut_off", count=1, limit_s=10.0)) == "1 request was cut off after drain_timeout = 10s"
    assert rule_of(because("cut_off", count=1, limit_s=10.0)) == "drain_timeout"
