"""The web page in a real browser, against a gateway with staged data: what it shows, what it sends, and what it costs."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import PROGRAM, Browser, Loop, Tab
from page_server import MB, World, because, other_host, other_hosts, other_row, served, unit
from waiting import until

from impetusd.gateway import pages

AXE = Path(__file__).parents[2] / ".node" / "node_modules" / "axe-core" / "axe.min.js"
# View → where it is, and what is there once it is drawn.
VIEWS = {
    "overview": ("#/", ".slots [role=row]:nth-child(9)"),
    "unit": ("#/unit/web", ".u-over"),
    "unit-down": ("#/unit/search", ".card"),
    "logs": ("#/logs", ".line"),
    "timers": ("#/timers", ".timers tbody tr"),
    "plan": ("#/plan", ".change"),
    "reload": ("#/reload/web", ".phases"),
    "audit": ("#/audit", ".audit tbody tr"),
    "hosts": ("#/", ".hosts details"),
    "login": ("#/login", "form.login"),
    "lost": ("#/nowhere", "main.empty"),
}
CHANGES = [
    {"kind": "pool", "name": "web", "effect": "reload", "keys": [{"key": "instances", "from": "4", "to": "6"}]},
    {"kind": "program", "name": "thumbs", "effect": "added", "keys": []},
]

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no chromium in PATH")
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there: scripts/setup-node")


@pytest.fixture(scope="module")
def loop():
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def browser(loop):
    return loop.enter(Browser)


@pytest.fixture(scope="module")
def port():
    """One after the other, all gateways have it: what the browser keeps of the page's files need not be loaded and compiled
    again, which is 0.2 s of CPU each time.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class Page:
    """A tab on a gateway of its own."""

    def __init__(self, loop: Loop, world: World, tab: Tab, address: str) -> None:
        self.loop, self.world, self.tab, self.address = loop, world, tab, address

    @contextlib.contextmanager
    def loading_everything(self) -> Iterator[None]:
        """What the browser has kept of the page's files does not count."""
        self.loop.run(self.tab.send("Network.setCacheDisabled", cacheDisabled=True))
        try:
            yield
        finally:
            self.loop.run(self.tab.send("Network.setCacheDisabled", cacheDisabled=False))

    def open(self, path: str = "#/", there: str = ".slots [role=row]:nth-child(2)") -> None:
        self.loop.run(self.tab.goto(self.address + path))
        self.there(there)

    def there(self, selector: str) -> None:
        self.until(f"document.querySelector({json.dumps(selector)})")

    def until(self, script: str) -> Any:
        return self.loop.run(self.tab.until(script))

    def run(self, script: str) -> Any:
        return self.loop.run(self.tab.run(script))

    def module(self, name: str, script: str) -> Any:
        """The value of an expression about one of the page's own modules, `m`."""
        return self.run(f"import('{self.address}page/{pages.digest()}/{name}').then(async (m) => {script})")

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def says(self, text: str, selector: str = "body") -> None:
        self.until(f"document.querySelector({json.dumps(selector)})?.innerText.includes({json.dumps(text)})")

    def click(self, selector: str) -> None:
        self.loop.run(self.tab.click(selector))

    def button(self, text: str, within: str = "body") -> None:
        self.until(
            f"""(() => {{ document.querySelector("[data-test]")?.removeAttribute("data-test");
            const found = [...document.querySelectorAll({json.dumps(within)} + " :is(button, a.button)")].find((each) => each.innerText.trim() === {json.dumps(text)} && !each.disabled);
            found?.setAttribute("data-test", ""); return Boolean(found); }})()"""
        )
        self.click("[data-test]")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.loop.run(self.tab.press(key))

    def type(self, text: str) -> None:
        self.loop.run(self.tab.type(text))

    def follow(self) -> None:
        """Until it reads the stream: it is "live" by the state of all, which comes before that."""
        self.loop.run(until(lambda: self.world.listeners, "the page to read the stream"))

    def first_stream(self) -> str:
        """What was asked for when the stream was opened first."""

        def asked() -> list[str]:
            return [path for path, _ in self.asked("GET") if path.startswith("stream")]

        return str(self.loop.run(until(asked, "the stream"))[0])

    def asked(self, method: str) -> list[tuple[str, Any]]:
        return [(path, body) for each, path, body in self.world.asked if each == method]


@pytest.fixture
def make(loop, browser, port):
    """A page on a world; `how` as of Tab.be."""
    opened = []

    def made(world: World | None = None, **how: Any) -> Page:
        world = world or World()
        stack = loop.run(_entered(browser, world, port, how))
        opened.append(stack)
        return Page(loop, world, stack.tab, stack.address)

    yield made
    for stack in opened:
        loop.run(stack.stack.aclose())


class _Opened:
    stack: Any
    tab: Tab
    address: str


async def _entered(browser: Browser, world: World, port: int, how: dict[str, Any]) -> _Opened:
    opened = _Opened()
    opened.stack = contextlib.AsyncExitStack()
    opened.address = await opened.stack.enter_async_context(served(world, port))
    opened.tab = await opened.stack.enter_async_context(browser.tab(**how))
    return opened


@pytest.fixture
def page(make):
    return make()


# Each view.


@needs_axe
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_breaks_no_policy_and_can_be_used_by_everybody(make, name):
    """In light and dark, wide and narrow: nothing serious for axe, nothing in the console, nothing wider than the window."""
    page = make()
    page.world.changes = CHANGES
    page.world.hosts = other_hosts() if name == "hosts" else []
    page.world.logged_in = name != "login"
    path, there = VIEWS[name]
    page.open(path, there)
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    troubles = [each for each in page.tab.troubles if not (name == "login" and "401" in each)]
    assert troubles == []
    page.run(AXE.read_text(encoding="utf-8"))
    for how in ({"width": 1280}, {"width": 1280, "mode": "dark"}, {"width": 390, "height": 844}):
        page.loop.run(page.tab.be(**how))
        found = page.run(
            "axe.run(document, {resultTypes: ['violations']}).then((said) => said.violations.filter((each) => ['serious', 'critical'].includes(each.impact)).map((each) => [each.id, each.nodes.map((node) => node.html + ' ' + node.failureSummary)]))"
        )
        assert found == [], how
        assert page.run(f"document.documentElement.scrollWidth <= {how['width']}"), how  # innerWidth grows with it


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_no_wider_than_a_telephone(make, name):
    page = make(width=390, height=844)
    page.world.changes = CHANGES
    page.world.hosts = other_hosts() if name == "hosts" else []
    page.world.logged_in = name != "login"
    for incident in page.world.incidents:
        incident["command"] = f"impetusd -c /srv/{'long/' * 9}impetusd.ini restart {incident['units'][0]}"
        incident["rule"]["file"] = f"/srv/{'long/' * 9}impetusd.ini"
    page.open(*VIEWS[name])
    wide = "[...document.querySelectorAll('*')].filter((each) => each.getBoundingClientRect().right > 390).map((each) => each.outerHTML.slice(0, 90))"
    assert page.run("document.documentElement.scrollWidth") <= 390, page.run(wide)  # innerWidth grows with it


def test_the_first_view_loads_what_it_is_said_to_load(page):
    with page.loading_everything():
        page.open()
    loaded = {url.partition(f"page/{pages.digest()}/")[2] for url in page.tab.bytes if "/page/" in url}
    assert loaded - {"icon.svg"} == {*pages.first_modules(), "style.css", "en.json"}
    texts = "performance.getEntriesByType('resource').filter((each) => each.name.endsWith('.json'))"
    assert page.run(f"{texts}.map((each) => each.initiatorType)") == ["link"], "with the page, and only then"


def test_the_state_of_all_comes_with_the_page_and_the_stream_goes_on_from_it(page):
    page.open()
    assert page.first_stream() == f"stream?last={page.world.life}%3A{page.world.n}"
    snapshots = "performance.getEntriesByType('resource').filter((each) => each.name.endsWith('snapshot'))"
    assert page.run(f"{snapshots}.map((each) => each.initiatorType)") == ["link"], "with the page, and only then"


def test_without_it_the_stream_begins_with_the_state_of_all(page):
    page.loop.run(page.tab.send("Network.setBlockedURLs", urls=["*api/v1/snapshot"]))
    page.open()
    assert page.first_stream() == "stream"


def test_what_is_there_is_drawn_while_it_does_not_come(page):
    page.world.snapshot_may_come.clear()
    page.open(there=".top .who")
    page.world.snapshot_may_come.set()
    page.there(".slots [role=row]:nth-child(2)")


def test_a_stream_that_was_opened_before_it_came_is_not_set_back(page):
    """A tab that is hidden when it is opened, and shown while its files come, opens the stream at once."""
    page.open()
    before = json.dumps(page.world.snapshot())
    page.world.change("unit", "redis", unit("redis", restarts=7))
    page.until("[...document.querySelectorAll('.c-restarts')].some((each) => each.innerText === '7')")
    restarts = "m.rows.unit.get('redis').value.restarts"
    assert page.module("store.mjs", f"(m.begin({before}), {restarts})") == 7


def test_a_part_that_cannot_be_loaded_says_so_and_the_rest_goes_on(page):
    page.open()
    page.loop.run(page.tab.send("Network.setBlockedURLs", urls=["*views/timers.mjs"]))
    page.run("location.hash = '#/timers'")
    page.says("could not be loaded", "main")
    page.loop.run(page.tab.send("Network.setBlockedURLs", urls=[]))
    page.run("location.hash = '#/'")
    page.there(".headline")
    page.run("location.hash = '#/timers'")
    page.there(".timers")


def test_portuguese(page):
    page.open()
    page.run("localStorage.setItem('impetusd.language', 'pt'); setTimeout(() => location.reload())")
    page.says("2 de 16 fora do desejado", "h1")
    assert page.run("document.documentElement.lang") == "pt"


# The overview.


def test_the_first_screen_names_cause_rule_next_and_what_to_do(page):
    page.open(there=".card")
    page.says("2 of 16 not OK since", "h1")
    page.says("Last change: alice, apply", ".headline")
    card = page.text(".card")
    assert "lock file /var/lib/search/index/.lock is held by PID 31377" in card
    assert "max_restarts = 16 within restart_window = 1 min /etc/impetusd/shop.ini:84" in card
    assert "impetusd start search" in card
    assert "starts again in" in page.text(".card:nth-child(2)")
    page.says("1 undelivered alert", ".foot")
    page.says("214 log lines lost", ".foot")
    page.says("Silenced until", ".foot")
    order = page.run("[...document.querySelectorAll('.c-name a')].map((each) => each.textContent)")
    assert order[:2] == ["search", "imap-sync"]
    assert order[-1] == "old-import"
    page.there(".marks a.deploy")
    assert "8 exits" in page.text(".strip")


def test_other_hosts_are_shown_as_text_worst_first_with_a_link_to_their_own_page(make):
    world = World(troubled=False)
    evil = "<img src=x onerror=alert(1)>"
    cards = [{"text": evil, "units": [evil], "all": 1, "since": None, "error": True}]
    world.hosts = [
        *other_hosts(),
        other_host("evil", "well", other_row(evil, "FATAL", evil), incidents=cards, version=evil),
    ]
    page = make(world)
    page.open(there=".hosts details")
    names = page.run("[...document.querySelectorAll('.hosts .host a')].map((each) => [each.innerText, each.href])")
    assert [name for name, _ in names] == [
        *("shop-03", "backup.internal", "shop-04", "nowhere", "evil", "shop-05", "shop-02"),
    ]
    assert all(href == f"https://{name}.example.com/" for name, href in names)
    says = dict(
        zip(
            [name for name, _ in names],
            page.run("[...document.querySelectorAll('.hosts .host')].map((each) => each.innerText)"),
            strict=True,
        )
    )
    for name, words in {
        "shop-03": [
            "2 of 10 not OK",
            "search, sync, mailer +2: no route to host 10.0.0.5:5432",
            "+3",
            "impetusd 2.4.0",
        ],
        "backup.internal": [
            "no response since",
            "its certificate is not trusted",
            "When last seen: All 3 OK",
            "seen 3 h",
        ],
        "shop-04": ["its supervisor has been down since"],
        "nowhere": ["cannot resolve", "never seen"],
        "shop-05": ["not asked yet"],
        "shop-02": ["All 8 OK"],
        "evil": [evil, f"impetusd {evil}"],
    }.items():
        for word in words:
            assert word in says[name], says[name]
    assert page.run("document.querySelectorAll('.hosts img').length") == 0
    page.click(".hosts .host:first-child summary")
    assert "exit 1; gave up" in page.text(".hosts .host:first-child details ul")
    world.hosts[0] = other_host("shop-02", "away", trouble="connection refused")
    page.says("connection refused", ".hosts")
    assert page.tab.troubles == []


def test_other_hosts_that_cannot_be_loaded_are_said_to_be_so_and_the_rest_is_there(make):
    world = World()
    world.hosts = other_hosts()
    page = make(world)
    page.loop.run(page.tab.send("Network.setBlockedURLs", urls=["*parts/hosts.mjs"]))
    page.open()
    page.says("could not be loaded: ", "main")


def test_where_there_are_no_other_hosts_nothing_of_them_is_loaded(page):
    with page.loading_everything():
        page.open()
    assert not page.run("document.querySelector('.hosts')")
    assert "hosts" not in [path for path, _ in page.asked("GET")]
    assert not any("hosts.mjs" in url for url in page.tab.bytes)


def test_what_is_over_closes_by_itself_and_names_what_it_was(make):
    world = World(troubled=False)
    page = make(world)
    page.open()
    over = {"at": world.now + 3600, "what": "well"}
    card = {
        "id": "memory:api",
        "event": "memory",
        "root": "api",
        "units": ["api"],
        "since": world.now - 60,
        "rule": None,
        "cause": {"key": "max_memory_restart", "facts": {}, "text": "uses 71 MB"},
        "next": None,
        "stderr": [],
        "hint": "",
        "look": [{"command": "df -h", "purpose": "disk usage"}],
        "command": "impetusd why api",
        "action": None,
        "severity": "warning",
    }
    world.incidents = [card]
    world.change("unit", "api", unit("api", restarts=2))
    page.says("stays as it is until you act", ".card")
    assert page.run("document.querySelector('.headline').className") == "headline warn"
    world.incidents = [{**card, "next": over}]
    world.change("unit", "api", unit("api", restarts=3))
    page.says("unless it happens again", ".card")
    assert "runs again" in page.text(".card h2")
    assert "disk usage" in page.text(".card")
    world.incidents = [{**card, "next": {**over, "at": world.now - 1}}]
    world.change("unit", "api", unit("api", restarts=4))
    page.until("[...document.querySelectorAll('.c-restarts')].some((each) => each.innerText === '4')")
    world.incidents = []  # nobody says so
    page.until("!document.querySelector('.card')")


def test_a_crash_shows_at_once(make):
    page = make(World(troubled=False))
    page.open()
    assert "14 OK" in page.text("h1")
    down = unit("redis", state="FATAL", **because("gave_up", "killed by SIGSEGV; gave up"), tail=["panic"])
    page.world.change("unit", "redis", down)
    page.says("1 of 14 not OK", "h1")
    page.says("killed by SIGSEGV", ".card")
    assert page.text(".c-name a") == "redis"
    page.world.change("unit", "redis", unit("redis"))
    page.says("All 14 OK", "h1")


def test_the_list_begins_with_what_is_not_well_whatever_state_it_is_in(make):
    world = World(troubled=False)
    page = make(world)
    page.open()
    order = "[...document.querySelectorAll('.c-name a')].map((each) => each.textContent)"
    check = next(each for each in world.rows["check"].values() if each["target"] == "redis")
    world.change("check", "redis redis", {**check, "state": "unhealthy"})
    page.until(f"{order}[0] === 'redis'")
    world.change("unit", "caddy", unit("caddy", state="STARTING"))  # for the first time
    page.until(f"{order}[0] === 'caddy' && {order}[1] === 'redis'")
    world.change("unit", "mailer", unit("mailer", state="STARTING", restarts=3))
    page.until(f"{order}.slice(0, 3).join() === 'mailer,caddy,redis'")
    # As wrong as while it starts: they stay in place.
    world.change("unit", "api", unit("api", state="BACKOFF", restarts=4))
    page.until(f"{order}.slice(0, 4).join() === 'api,mailer,caddy,redis'")
    web = next(each for each in world.rows["check"].values() if each["target"] == "web")
    world.change("check", "web web", {**web, "state": "unhealthy"})  # its workers are; what only waits is not
    page.until(f"{order}.slice(3, 8).join() === 'redis,web:0,web:1,web:2,web:3'")
    world.change("check", "redis redis", check)
    page.until(f"{order}.slice(0, 4).join() === 'api,mailer,caddy,web:0'")


def test_the_stream_ends_while_nobody_looks_and_goes_on_where_it_ended(page):
    page.open()
    hide = "Object.defineProperty(document, 'hidden', {{value: {0}, configurable: true}}); document.dispatchEvent(new Event('visibilitychange'))"
    page.world.change("unit", "redis", unit("redis", restarts=7))
    page.until("[...document.querySelectorAll('.c-restarts')].some((each) => each.innerText === '7')")
    page.run(hide.format("true"))
    page.world.change("unit", "redis", unit("redis", restarts=8))

    def has_gone() -> bool:
        page.world.say("alive", {"n": 0})  # the write by which the server sees it
        return not page.world.listeners

    page.loop.run(until(has_gone, "the end of the stream"))
    n = page.world.n
    page.run(hide.format("false"))
    page.until("[...document.querySelectorAll('.c-restarts')].some((each) => each.innerText === '8')")
    assert page.asked("GET")[-1][0] == f"stream?last={page.world.life}%3A{n - 1}"


def test_a_stream_that_broke_is_said_to_be_stale_and_comes_back(page):
    page.open()
    page.says("live", ".top .live")
    page.follow()
    page.world.say("lost", {"at": 0, "why": "the supervisor does not answer"})
    page.says("stale", ".top .live")
    page.world.say("resumed", {})
    page.says("live", ".top .live")
    page.world.logged_in = False
    page.world.say("close", None)
    page.there("form.login")


def test_the_keyboard_goes_everywhere(page):
    page.open()
    page.press("/")
    page.type("web")
    page.until("location.hash === '#/?q=web'")
    page.until("document.querySelectorAll('.slots [role=row]').length === 7")
    page.press("Escape", "j", "j", "k", "j")
    assert page.run("document.activeElement.innerText") == "web:1"
    page.press("Enter")
    page.until("location.hash === '#/unit/web'")
    page.says("Configuration", "main")
    page.until("document.activeElement.id === 'main'")  # a moment after it is drawn
    page.press("?")
    page.says("previous", "dialog")
    page.press("Escape")
    page.until("!document.querySelector('dialog')")
    page.press("g", "l")
    page.there("main.logs")
    page.press("g", "o")
    page.there(".headline")


def test_a_filter_in_the_address_is_in_force(page):
    page.open("#/?q=fatal")
    assert page.run("[...document.querySelectorAll('.c-name a')].map((each) => each.textContent)") == ["search"]


# Commands.


def test_a_command_is_asked_about_shown_and_followed(page):
    page.open("#/unit/redis", ".headline .buttons")
    page.button("Stop", ".headline")
    page.says("$ impetusd stop redis".removeprefix("$ "), "dialog")
    page.button("Stop", "dialog")
    page.says("Done", ".deeds")
    page.says("impetusd stop redis", ".deeds")
    assert page.asked("POST") == [("units/redis/stop", {})]


def test_before_the_state_of_a_unit_is_known_it_has_no_buttons(page):
    """Start, Restart, Enable would move away from below the mouse, and others come there."""
    page.open("#/unit/redis", ".headline .buttons")
    page.module("store.mjs", "m.leave()")  # as before the first word of the stream
    page.until(
        "document.querySelector('.headline h1').innerText === 'redis' && !document.querySelector('.headline button')"
    )


def test_a_viewer_sees_what_it_takes(make):
    world = World()
    world.role = "viewer"
    page = make(world)
    page.open("#/unit/redis", ".headline .buttons")
    assert page.run(
        "[...document.querySelectorAll('.headline button')].filter((each) => /Stop|Restart|Disable/.test(each.innerText)).every((each) => each.disabled && each.title)"
    )
    assert "Needs the role admin" in page.text("main")


def test_what_is_refused_says_why(page):
    page.open("#/unit/redis", ".headline .buttons")
    page.button("Restart", ".headline")
    page.there("dialog")
    page.world.role = "viewer"  # it was taken away meanwhile; before, the page might have asked for it only now
    page.button("Restart", "dialog")
    page.says("restart takes the role operator; you are a viewer.", ".deeds .failed")


def test_alerts_are_silenced_with_a_reason(page):
    page.open(there=".card")
    page.button("Silence", ".card")
    page.there("dialog input[name=why]")
    page.run("document.querySelector('dialog input[name=why]').focus()")
    page.type("known, <b>disk</b> swap")
    page.button("Silence", "dialog")
    page.says("known, <b>disk</b> swap", ".foot")
    assert page.asked("POST") == [("silences", {"name": "search", "for": 3600, "why": "known, <b>disk</b> swap"})]


def test_apply_does_what_plan_shows(make):
    world = World()
    world.changes = CHANGES
    page = make(world)
    page.open("#/plan", ".change")
    page.says("instances", ".change")
    page.button("Apply…")
    page.button("Apply", "dialog")
    page.says("Done", ".deeds")
    path, body = page.asked("POST")[0]
    assert path == "apply"
    assert body["token"]


def test_a_reload_shows_both_versions_and_can_be_cancelled(page):
    page.open("#/reload/web", ".phases")
    page.button("Reload", "main")
    page.says("Done", ".deeds")
    assert page.asked("POST") == [("units/web/reload", {"canaries": 1})]
    page.world.change(
        "reload",
        "web",
        {"name": "web", "phase": "watch", "generation": 3, "ok": True, "reason": "", "lines": [], "took_s": 0.0},
    )
    page.world.change("unit", "web:0 next", unit("web:0 (next)", "next", unit="web", generation=4, memory=512))
    page.says("New version 1", "main")
    page.says("512 MB", "main table")
    page.world.answered = {
        "web:0": {"requests": 9000, "errors": 40, "latency_s": 0.004},
        "web:0 (next)": {"requests": 20, "errors": 5, "latency_s": 0.0123},
    }
    page.says("20 responses since you opened this page; errors: 5 (25 %)", "main section")
    page.says("12.3 ms", "main section")
    page.says("0 responses since you opened this page; errors: 0", "main section + section")
    page.world.answered["web:0"] = {"requests": 9100, "errors": 41, "latency_s": 0.004}
    page.says("100 responses since you opened this page; errors: 1 (1.0 %)", "main section + section")
    page.button("Cancel reload", "main")
    page.until("document.querySelectorAll('.deeds article.done').length === 2")
    assert page.asked("POST")[-1] == ("units/web/cancel", {})
    page.world.change(
        "reload",
        "web",
        {
            "name": "web",
            "phase": "failed",
            "generation": 3,
            "ok": False,
            "reason": "more errors",
            "lines": ["\x1b[31mboom"],
            "took_s": 2.0,
        },
    )
    page.says("the old version keeps serving: more errors", "[role=alert]")
    assert page.text("[role=alert] pre").strip() == "boom"


def test_login_by_password_and_by_link(make):
    world = World()
    world.logged_in = False
    page = make(world)
    page.open("#/timers", "form.login")
    page.run("document.querySelector('[name=user]').focus()")
    page.type("alice")
    page.press("Tab")
    page.type("wrong")
    page.press("Enter")
    page.says("User or password is wrong.", ".login")
    page.run("document.querySelector('[name=password]').select()")
    page.type("correct")
    page.press("Enter")
    page.there(".timers")
    world.logged_in = False
    page.open("#/login?code=one-time-code")
    assert page.run("location.hash") == "#/"
    assert page.asked("POST")[-1] == ("login", {"code": "one-time-code"})


def test_a_login_link_is_used_whoever_is_logged_in(page):
    """In a new tab, and in one that is open."""
    page.world.ask_code = "first"
    page.open("#/login?code=first", ".overview")
    assert page.asked("POST") == [("login", {"code": "first"})]
    page.there(".top .live.good")
    page.world.ask_code = "second"
    page.run("location.hash = '#/login?code=second'")
    page.until("location.hash === '#/'")
    page.there(".top .live.good")
    assert page.asked("POST") == [("login", {"code": "first"}), ("login", {"code": "second"})]


def test_a_login_link_is_used_where_the_form_is_shown_already(page):
    page.world.logged_in = False
    page.open("#/", "form.login")
    page.run("location.hash = '#/login?code=one-time-code'")
    page.there(".overview .slots")
    assert page.asked("POST") == [("login", {"code": "one-time-code"})]


def test_nothing_of_a_login_that_has_ended_is_left_for_the_next(page):
    page.open("#/timers", ".timers")
    page.there(".top .live.good")
    page.follow()
    page.world.logged_in = False
    page.world.say("close", None)
    page.there("form.login")
    assert page.module("store.mjs", "[m.rows.unit.size, m.records.value.length, (m.incidents.value ?? []).length]") == [
        0,
        0,
        0,
    ]
    assert page.module("cache.mjs", "m.size()") == 0


# The unit's view.


def test_charts_show_the_ceiling_and_a_drag_selects_a_window(page):
    page.open("#/unit/web", ".u-over")
    page.until("document.querySelectorAll('.u-over').length === 6")
    while not page.run("document.querySelector('.window')?.innerText"):  # a chart may be drawn anew under the mouse
        page.there(".u-over")
        box = page.run(
            "(() => { const found = document.querySelector('.u-over'); found.scrollIntoView({block: 'center'}); const box = found.getBoundingClientRect(); return [box.x, box.y, box.width]; })()"
        )
        page.loop.run(page.tab.drag((box[0] + box[2] * 0.2, box[1] + 40), (box[0] + box[2] * 0.6, box[1] + 44)))
        page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    where = page.run("[...document.querySelectorAll('.window a')].map((each) => each.hash)")
    assert where[0].startswith("#/logs?unit=web&from=")
    assert where[1].startswith("#/audit?unit=web&from=")
    page.button("Zoom", ".window")
    page.until("/from=\\d+&to=\\d+/.test(location.hash)")


def test_exits_are_shown_with_what_was_written_last_and_secrets_are_not(page):
    page.open("#/unit/search", "#exits")
    page.says("IndexLocked: cannot open index", "main")
    page.open("#/unit/web", "#env")
    page.says("web", ".headline h1")  # the page before has an environment, too
    assert "SECRET_KEY" not in page.text("main")
    page.button("Show, with secrets hidden")
    page.says("SECRET_KEY", "main")
    page.says("shop.ini:32", "main")


# Logs.


def test_log_lines_are_inert_coloured_and_filtered(make):
    world = World()
    evil = "\x1b]0;title\x07\x1b[31mred\x1b[0m <img src=x onerror=alert(1)> \x9b2J\u202efdp.exe"
    world.lines.append({"unit": "web:0", "stream": "out", "at": world.now, "text": evil, "id": "evil"})
    page = make(world)
    page.open("#/logs?q=red", ".line")
    assert page.text(".line > span") == "red <img src=x onerror=alert(1)> \ufffdfdp.exe"
    assert page.text(".line .a1 mark") == "red"
    page.press("/")
    page.run("document.activeElement.select()")
    page.type("/^job .*done/")
    page.until(
        "document.querySelectorAll('.line').length > 5 && [...document.querySelectorAll('.line > span')].every((each) => each.innerText.startsWith('job'))"
    )
    assert page.run("location.hash") == "#/logs?q=%2F%5Ejob+.*done%2F"


def test_following_pauses_when_one_scrolls_and_goes_on_on_request(page):
    page.open("#/logs", ".line")
    at_end = "(() => { const box = document.querySelector('.lines'); return box.scrollTop + box.clientHeight >= box.scrollHeight - 40; })()"
    page.until(at_end)
    readers = page.world.readers

    def write(text: str) -> None:
        for reader in readers:
            reader.put_nowait(
                ("line", "", {"unit": "api", "stream": "out", "at": page.world.now, "text": text, "id": text})
            )

    page.loop.run(until(lambda: readers, "the page to read"))
    write("first of the new")
    page.says("first of the new", ".lines")
    # As with a wheel, more than once: the list may only now be on its way to the line that has come.
    page.until("(document.querySelector('.lines').scrollTop = 0) || document.querySelector('button.follow')")
    write("second of the new")
    page.says("1 new", "button.follow")
    assert page.run("document.querySelector('.lines').scrollTop") == 0
    page.click("button.follow")
    page.says("second of the new", ".lines")
    page.until(at_end)


def test_a_line_has_a_link_and_a_context(page):
    page.open("#/logs?unit=search", ".line")
    page.click(".line a")
    page.button("Context", ".chosen-line")
    page.until("document.querySelectorAll('.chosen-line pre > span').length > 2")
    page.button("Copy link", ".chosen-line")
    page.open("#/logs?unit=search&line=l5", ".line")
    page.open("#/logs?line=gone", "[role=alert]")
    page.says("rotated away", "[role=alert]")


def test_history_is_searched_on_the_server(page):
    page.open("#/logs?past=1&q=lock+file&unit=search", ".line")
    assert page.run("[...document.querySelectorAll('.line mark')].every((each) => each.innerText === 'lock file')")
    page.there("input[name=from]")


def test_a_hundred_thousand_lines_are_a_few_nodes(page):
    page.open("#/logs", ".line")
    script = """{
        const lines = new m.Lines();
        const made = Array.from({length: 130000}, (_, n) => ({unit: "web:0", stream: "out", at: n, id: n, text: n % 100 ? "\\u001b[32m200\\u001b[0m GET /" + n : "an error"}));
        for (let n = 0; n < made.length; n += 1000) lines.add(made.slice(n, n + 1000));
        lines.filter(m.matcher("ERROR"));
        return [lines.all.length <= 110000, lines.shown.length === lines.all.filter((line) => line.plain === "an error").length, lines.ids.size === lines.all.length];
    }"""
    assert page.module("views/logs.mjs", script) == [True, True, True]
    page.run("0")
    assert page.run("document.querySelectorAll('.line').length") < 100


# What it costs.


def test_answers_are_kept_for_fifty_addresses_at_most(page):
    page.open()
    script = """{
        for (let n = 0; n < 200; n += 1) m.known("units/u" + n);
        const [used, unused] = [m.known("units/u160"), m.known("units/u161")];
        for (let n = 200; n < 248; n += 1) m.known("units/u" + n);
        m.known("units/u160");
        for (let n = 248; n < 260; n += 1) m.known("units/u" + n);
        return [m.size(), m.known("units/u160") === used, m.known("units/u161") !== unused, m.MOST];
    }"""
    assert page.module("cache.mjs", script) == [50, True, True, 50]


def test_only_rows_in_view_are_redrawn_and_the_others_when_they_come_into_view(make):
    page = make(World(many=300))
    page.open(there=".slots [role=row]:nth-child(301)")
    page.until("!document.querySelector('.slots [role=row]:nth-child(301) .c-cpu')")  # far below
    assert page.run("document.querySelector('.slots [role=row]:nth-child(301)').textContent") == "RUNNINGsvc-299"
    rows = page.world.rows["unit"]
    page.run("""window.redrawn = new Set(); new MutationObserver((all) => all.forEach((each) => redrawn.add((each.target.closest ?
        each.target : each.target.parentElement).closest('[role=row]')?.querySelector('a')?.textContent))).observe(
        document.querySelector('.slots'), {subtree: true, childList: true, attributes: true, characterData: true})""")
    for name, row in list(rows.items()):
        page.world.change("unit", name, {**row, "restarts": 7})
    page.until("document.querySelectorAll('.slots [role=row]')[1].querySelector('.c-restarts').textContent === '7'")
    page.world.change("unit", "svc-299", {**rows["svc-299"], "restarts": 9})
    page.world.change("unit", "svc-000", {**rows["svc-000"], "restarts": 8})
    page.until("document.querySelectorAll('.slots [role=row]')[1].querySelector('.c-restarts').textContent === '8'")
    assert 0 < page.run("redrawn.size") < 80
    page.run("document.querySelector('.slots [role=row]:nth-child(301)').scrollIntoView()")
    page.until("document.querySelector('.slots [role=row]:nth-child(301) .c-restarts')?.textContent === '9'")
    page.world.change("unit", "svc-299", unit("svc-299", state="FATAL", **because("gave_up", "exit 1; gave up")))
    page.until("document.querySelectorAll('.slots [role=row]')[1].querySelector('a').textContent === 'svc-299'")
    page.until("document.querySelectorAll('.slots [role=row]')[1].textContent.includes('exit 1; gave up')")


def test_memory_is_flat_over_two_hours_of_updates(make):
    """7,200 of them, as many as come in two hours; each has every unit in it."""
    page = make(World(many=30))
    page.open(there=".slots [role=row]:nth-child(30)")
    names = list(page.world.rows["unit"])
    script = f"""{{
        const names = {json.dumps(names)};
        const frame = () => new Promise(requestAnimationFrame);
        for (let n = 0; n < COUNT; n += 1) {{
            const at = 1.8e9 + n;
            m.replay({{n, at, kind: "usage", key: "", value: Object.fromEntries(names.map((name, place) => [name, [{MB} * (50 + (n + place) % 40), (n * place) % 100]]))}});
            if (n % 3 === 0) m.replay({{n, at, kind: "unit", key: names[n % names.length], value: {{...{json.dumps(page.world.rows["unit"][names[0]])}, name: names[n % names.length], unit: names[n % names.length], restarts: n, reason: "x".repeat(200)}}}});
            if (n % 10 === 0) m.replay({{n, at, kind: "ledger", key: "", value: {{n, at: 1e9, kind: "exit", unit: names[0], slot: names[0], code: 1}}}});
            if (n % 40 === 39) await frame();
        }}
        await frame();
        await frame();
        return true;
    }}"""
    page.module("store.mjs", script.replace("COUNT", "1200"))
    before = page.loop.run(page.tab.heap())
    count = "document.querySelectorAll(':not(.strip *)').length"  # the strip's hours go by the clock
    nodes = page.run(count)
    page.module("store.mjs", script.replace("COUNT", "7200"))
    after = page.loop.run(page.tab.heap())
    assert page.run(count) == nodes
    assert after - before < 1 * MB, f"{before} → {after}"
