"""The gateway's page in a real browser: how soon the first view is there, and how soon a crash is on it."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench_base import Instance, compile_c, cpu, free_port, percentile, show

from impetusd.gateway import pages

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "gateway"))
from chromium import PROGRAM, Browser, Loop, Tab
from page_server import MB, World, served

UNITS, SLOWER = 14, 4
MANY, SECONDS = 500, 20
FIRST = ".slots [role=row]:nth-child(2)"  # the first unit
IDLE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
# When the first unit has been drawn, in ms since the address was asked for.
DRAWN = f"""window.benchDrawn = new Promise((done) => {{
    const look = () => requestAnimationFrame(() => (document.querySelector("{FIRST}") ? requestAnimationFrame(() => done(performance.now())) : look()));
    look();
}});"""
# When the page says that something is wrong, by the clock of this host.
SEEN = """window.benchSeen = new Promise((done) => {
    const look = () => (document.querySelector("h1").innerText.includes("not OK") ? requestAnimationFrame(() => done(Date.now())) : requestAnimationFrame(look));
    look();
}); 0"""


def log_in(loop: Loop, tab: Tab, instance: Instance) -> None:
    """Until the overview is there."""
    loop.run(tab.goto(instance.run("login-link").strip()))
    loop.run(tab.until(f"document.querySelector('{FIRST}')"))


def renderers(loop: Loop, browser: Browser) -> list[int]:
    """The processes that draw the tab."""
    processes = loop.run(browser.send("SystemInfo.getProcessInfo"))["processInfo"]
    return [each["id"] for each in processes if each["type"] == "renderer"]


def page(rounds: int) -> None:
    """On an ordinary instance, which does nothing else."""
    if PROGRAM is None:
        print("the page: there is no chromium in PATH, so it is not measured\n", flush=True)
        return
    loop = Loop()
    try:
        with tempfile.TemporaryDirectory() as folder:
            program = compile_c(folder, "idle", IDLE)
            ini = f"[gateway]\nlisten = 127.0.0.1:{free_port()}\nuser = root\n"
            ini += "".join(f"[program:p{number}]\ncommand = {program}\n" for number in range(UNITS - 1))
            ini += f"[program:victim]\ncommand = {program}\nautorestart = never\n"
            with Instance(ini, {}) as instance:
                tab = loop.enter(loop.enter(Browser).tab)
                _first_view(loop, tab, instance, rounds)
                loop.run(tab.be())
                _crash(loop, tab, instance, rounds)
            _updates(loop)
    finally:
        loop.close()


def _first_view(loop: Loop, tab: Tab, instance: Instance, rounds: int) -> None:
    log_in(loop, tab, instance)
    address = loop.run(tab.run("location.origin + '/'"))
    loop.run(tab.send("Page.addScriptToEvaluateOnNewDocument", source=DRAWN))
    loop.run(tab.be(slower=SLOWER))
    took = []
    for _ in range(rounds):
        loop.run(tab.goto("about:blank"))
        loop.run(tab.send("Network.clearBrowserCache"))
        tab.bytes.clear()
        loop.run(tab.goto(address))
        loop.run(tab.until("window.benchDrawn"))
        took.append(loop.run(tab.run("benchDrawn")))
    sent = {url: size for url, size in tab.bytes.items() if "/api/" not in url}
    size = sum(map(_packed, sent))
    p50 = statistics.median(took)
    show(
        f"first view, {SLOWER} × CPU throttle, nothing in the cache, logged in, {UNITS} units ({rounds} ×)",
        f"{size / 1000:.1f} kB of {len(sent)} files, compressed; the first unit is drawn after p50 {p50:.0f} ms, max {max(took):.0f}",
        f"with all headers, and answers of the API: {sum(tab.bytes.values()) / 1000:.1f} kB",
        "≤ 40 kB, ≤ 600 ms",
        size <= 40_000 and p50 <= 600,
    )


def _packed(url: str) -> int:
    """Bytes of one of the page's files as it is sent."""
    name = url.partition("/page/")[2].partition("/")[2]
    return len((pages.files()[name] if name else pages.index("en")).packed)


def _crash(loop: Loop, tab: Tab, instance: Instance, rounds: int) -> None:
    log_in(loop, tab, instance)
    took = []
    for _ in range(rounds):
        loop.run(tab.until("document.querySelector('h1').innerText.startsWith('All ')"))
        pid = instance.settle(0.05)["victim"]
        loop.run(tab.run(SEEN))
        at = time.time()
        os.kill(pid, signal.SIGKILL)
        took.append(loop.run(tab.run("benchSeen")) - at * 1000)
        instance.run("start", "victim")
    show(
        f"a crash → it is on the page ({rounds} ×)",
        f"p50 {statistics.median(took):.0f} ms   p99 {percentile(took, 0.99):.0f}   max {max(took):.0f}",
        "a frame takes 17 ms",
        "≤ 300 ms",
        max(took) <= 300,
    )


def _updates(loop: Loop) -> None:
    """What a real supervisor never sends: it takes 0.4 % of a core at most to look at its processes."""
    world = World(many=MANY)
    address = loop.enter(lambda: served(world))
    browser = loop.enter(Browser)
    tab = loop.enter(browser.tab)
    loop.run(tab.goto(address))
    loop.run(tab.until(f"document.querySelectorAll('.slots [role=row]').length > {MANY}"))
    drawing = renderers(loop, browser)

    async def change() -> None:
        for second in range(SECONDS):
            usage = {
                name: [MB * (50 + (place + second) % 40), (place * second) % 100]
                for place, name in enumerate(world.rows["unit"])
            }
            world.change("usage", "", usage)
            await asyncio.sleep(1)

    began, before = time.monotonic(), cpu(*drawing)
    loop.run(change())
    share = (cpu(*drawing) - before) / (time.monotonic() - began)
    show(
        f"a page on which {MANY} units have other numbers each second, for {SECONDS} s",
        f"{share * 100:.2f} % of a core",
        "the gateway is a stand-in here: no supervisor sends as much",
        "< 8 %",
        share < 0.08,
    )


if __name__ == "__main__":
    page(10)
