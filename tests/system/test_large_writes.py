"""A program that writes more at once than its log pipe holds is never held up, in whatever form its lines are written."""

from __future__ import annotations

import http.client
import json
import socket

from instance import Instance, in_all_log_modes, pool, wait_for

LINES = 20_000
LINE = "an ordinary line of a program, number {}\n"
REQUESTS = 10
AT_A_REQUEST = 3000  # lines that app_prints_at_request prints
GETS = 400  # whose paths are 7,000 bytes long: the service's log thread writes up to 500 lines at once


def test_every_line_of_large_writes_arrives(impetusd: Instance) -> None:
    text = "".join(LINE.format(number) for number in range(LINES))
    impetusd.write(text, "text")
    ports = impetusd.port(), impetusd.port()
    cat = f"command = cat {impetusd.root}/text\nautorestart = never"
    impetusd.start(f"""
{in_all_log_modes(cat)}
[pool:web]
{pool(ports[0], app="app_prints_at_request:make", watchdog="15s", instances=1)}
[pool:service]
{pool(ports[1], app="impetus_service.app:create_app", instances=1, watchdog="15s", cwd=impetusd.root)}
[env:service]
DATABASE_URL = postgresql:///nothing?host={impetusd.root}
""")
    client = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=30)
    for _ in range(REQUESTS):
        client.request("GET", "/")
        assert client.getresponse().read() == b"printed"
    client.close()
    with socket.create_connection(("127.0.0.1", ports[1]), timeout=30) as sock:
        head = f"GET /nowhere/{'x' * 7000} HTTP/1.1\r\nHost: x\r\n"
        close = "Connection: close\r\n"
        sock.sendall("".join(f"{head}{close if n == GETS - 1 else ''}\r\n" for n in range(GETS)).encode())
        received = b""
        while data := sock.recv(1 << 16):
            received += data
    assert received.count(b"HTTP/1.1 404") == GETS
    counts = {
        "plain-out.log": LINES,
        "time-out.log": LINES,
        "json-out.log": LINES,
        "many-out.log": 3 * LINES,
        "web-0-out.log": REQUESTS * AT_A_REQUEST,
        "service-0-out.log": GETS,
    }
    for name, count in counts.items():
        wait_for(lambda name=name, count=count: impetusd.log(name).count("\n") >= count, f"all lines in {name}")
    assert impetusd.log("plain-out.log") == text
    assert [line.split(" ", 1)[1] + "\n" for line in impetusd.log("time-out.log").splitlines()] == text.splitlines(True)
    assert [json.loads(line)["line"] + "\n" for line in impetusd.log("json-out.log").splitlines()] == text.splitlines(
        True
    )
    assert sorted(impetusd.log("many-out.log").splitlines()) == sorted(text.splitlines() * 3)
    assert impetusd.status()["web:0"].restarts == impetusd.status()["service:0"].restarts == 0


def test_on_standard_output_too(impetusd: Instance) -> None:
    text = "".join(LINE.format(number) for number in range(LINES))
    impetusd.write(text, "text")
    impetusd.write(
        "".join(f"[program:{name}]\ncommand = cat {impetusd.root}/text\nautorestart = never\n" for name in "ab")
    )
    with (impetusd.root / "stdout").open("wb") as out:
        process = impetusd.popen("run", "--logs", "stdout", stdout=out)
    shown = impetusd.root / "stdout"
    wait_for(lambda: shown.read_text().count("\n") == 2 * LINES, "all lines")
    process.terminate()
    impetusd.finish(process)
    lines = shown.read_text().splitlines(keepends=True)
    for name in "ab":
        assert "".join(line.partition(" | ")[2] for line in lines if line.startswith(f"{name} | ")) == text


def test_out_file_may_be_standard_output_where_bytes_stay_what_they_are(impetusd: Instance) -> None:
    impetusd.write("""
[program:a]
command = echo hello
autorestart = never
out_file = /dev/stdout
[program:b]
command = sh -c 'echo oops >&2'
autorestart = never
error_file = stdout
instances = 2
""")
    shown = impetusd.root / "shown"
    with shown.open("wb") as out:
        process = impetusd.popen("run", stdout=out)
    wait_for(lambda: shown.read_text().count("\n") == 3, "all lines")
    process.terminate()
    impetusd.finish(process)
    assert sorted(shown.read_text().splitlines()) == ["hello", "oops", "oops"]
