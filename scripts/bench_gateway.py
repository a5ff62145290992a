"""The gateway: what it, the page, the observer and the supervisor cost while the memory of 500 units changes each second."""

from __future__ import annotations

import http.client
import socket
import tempfile
import time

from bench_base import Instance, compile_c, cpu, free_port, show
from bench_page import PROGRAM, Browser, Loop, log_in, page, renderers

UNITS, PAGES, SECONDS, SCRAPE = 500, 2, 20, 5  # pages besides the one in the browser
RESTLESS = """
#include <stdlib.h>
#include <sys/mman.h>
#include <string.h>
#include <unistd.h>
int main(void) {
    srand(getpid());
    for (;;) {
        size_t size = 4096 * (1 + rand() % 256);
        char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(memory, 1, size);
        sleep(1);
        munmap(memory, size);
    }
}
"""
INI = "[program:p{number}]\ncommand = {program}\n"


class Page:
    """A page that is open: it reads the stream as fast as it comes."""

    def __init__(self, port: int, token: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        head = f"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        self.sock.sendall(head.encode())
        self.bytes = 0
        self.sock.setblocking(False)

    def read(self) -> None:
        try:
            while data := self.sock.recv(1 << 16):
                self.bytes += len(data)
        except BlockingIOError:
            pass


def gateway(rounds: int) -> None:
    """All figures of the gateway and its page."""
    page(rounds)
    loop = Loop()
    try:
        _busy(loop)
    finally:
        loop.close()


def _busy(loop: Loop) -> None:
    """With pages open, one of them in a browser, and scraped by Prometheus."""
    with tempfile.TemporaryDirectory() as folder:
        program, port = compile_c(folder, "restless", RESTLESS), free_port()
        ini = f"[gateway]\nlisten = 127.0.0.1:{port}\nuser = root\nmetrics = open\n"
        ini += "".join(INI.format(number=number, program=program) for number in range(UNITS))
        with Instance(ini, {}) as instance:
            token = instance.run("token", "add", "bench").split()[-1]
            pids = instance.settle()
            parts = {name: [pids[name]] for name in ("gateway:0", "observer")}
            parts["supervisor"] = [instance.status()["supervisor"]["pid"]]
            if PROGRAM is not None:
                browser = loop.enter(Browser)
                log_in(loop, loop.enter(browser.tab), instance)
                parts["page"] = renderers(loop, browser)
            pages = [Page(port, token) for _ in range(PAGES)]
            lasted, slowest, _ = _measure(3, port, pages, parts)  # until everything was sent once
            size = sum(each.bytes for each in pages)
            lasted, slowest, cost = _measure(SECONDS, port, pages, parts)
            size = (sum(each.bytes for each in pages) - size) / PAGES / lasted
            for each in pages:
                each.sock.close()
    shares = ", ".join(f"{name} {share * 100:.2f} %" for name, share in cost.items())
    show(
        f"{UNITS} units whose memory changes each second, {PAGES + 1} pages, /metrics each {SCRAPE} s, for {SECONDS} s",
        f"{shares} of a core; {size / 1024:.0f} kB/s a page",
        f"the slowest /metrics took {slowest * 1000:.0f} ms",
        "page < 8 %, gateway < 12 %, supervisor < 5 %",
        cost.get("page", 0.0) < 0.08 and cost["gateway:0"] < 0.12 and cost["supervisor"] < 0.05,
    )


def _measure(
    seconds: float, port: int, pages: list[Page], parts: dict[str, list[int]]
) -> tuple[float, float, dict[str, float]]:
    """How long it took, the slowest scrape, and what each part cost, in shares of a core."""
    began, before, slowest, due = time.monotonic(), {name: cpu(*pids) for name, pids in parts.items()}, 0.0, 0.0
    while (now := time.monotonic() - began) < seconds:
        for each in pages:
            each.read()
        if now >= due:
            due += SCRAPE
            slowest = max(slowest, _scrape(port))
        time.sleep(0.05)
    lasted = time.monotonic() - began
    return lasted, slowest, {name: (cpu(*pids) - before[name]) / lasted for name, pids in parts.items()}


def _scrape(port: int) -> float:
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    if answer.status != 200 or b"impetusd_up" not in answer.read():
        raise SystemExit(f"/metrics answered {answer.status}")
    connection.close()
    return time.monotonic() - began


if __name__ == "__main__":
    gateway(10)
