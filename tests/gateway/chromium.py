"""A real Chromium without a window, by its own protocol: what a test of a page needs of it, and no package for it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
WITHIN = 60.0  # seconds for whatever is waited for
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--mute-audio",
    "--disable-back-forward-cache",
    "--disable-site-isolation-trials",
    "--renderer-process-limit=1",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--lang=en-US",
    "--remote-debugging-port=0",
    "--disable-features=Translate,MediaRouter,OptimizationHints,SpareRendererForSitePerProcess,IsolateOrigins,site-per-process",
]
# A key's name → its code and what it types.
KEYS = {
    "Enter": ("Enter", "\r"),
    "Escape": ("Escape", ""),
    "Tab": ("Tab", ""),
    "/": ("Slash", "/"),
    "?": ("Slash", "?"),
}


class Browser:
    """One process, with a profile of its own."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="page-")
        self._ids = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tab_session = ""  # the one tab's, once there is one
        self._tab: Tab | None = None  # while it is lent

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            PROGRAM,
            *FLAGS,
            f"--user-data-dir={self.folder}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        url = await asyncio.wait_for(self._address(), WITHIN)
        self._noise = asyncio.create_task(self._process.stderr.read())
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(url, max_msg_size=0)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
            await asyncio.wait_for(self.send("Browser.close"), WITHIN)
        try:
            await asyncio.wait_for(self._process.wait(), WITHIN)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, self._noise, return_exceptions=True)
        await self._session.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _address(self) -> str:
        while line := await self._process.stderr.readline():
            if b"DevTools listening on " in line:
                return line.decode().split()[-1]
        raise ConnectionError("chromium has ended at once")

    async def _read(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            waiting = self._waiting.pop(said.get("id", 0), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(said)
            elif "method" in said and "sessionId" in said and self._tab is not None:
                self._tab.heard(said["method"], said["params"])
        for waiting in self._waiting.values():  # those of Browser.close may be, too
            if not waiting.done():
                waiting.set_exception(ConnectionError("chromium has ended"))

    async def send(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """One command of the protocol; its result."""
        self._ids += 1
        waiting = self._waiting[self._ids] = asyncio.get_running_loop().create_future()
        more = {"sessionId": session} if session else {}
        await self._socket.send_json({"id": self._ids, "method": method, "params": params, **more})
        said = await asyncio.wait_for(waiting, WITHIN + 10)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    @contextlib.asynccontextmanager
    async def tab(self, **how: Any) -> AsyncIterator[Tab]:
        """The tab, as if it were a new one, which costs 0.2 s of CPU; one at a time. `how` as of Tab.be."""
        assert self._tab is None
        if not self._tab_session:
            target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
            attached = await self.send("Target.attachToTarget", targetId=target, flatten=True)
            self._tab_session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
                await self.send(f"{domain}.enable", self._tab_session)
        tab = self._tab = Tab(self, self._tab_session)
        try:
            await tab.be(**how)
            yield tab
        finally:
            self._tab = None
            await tab.leave()


class Tab:
    """`troubles`: what the console has reported as an error or a warning, or a policy has refused. `bytes`: by address, as sent."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.troubles: list[str] = []
        self.bytes: dict[str, int] = {}
        self._urls: dict[str, str] = {}

    def send(self, method: str, **params: Any) -> Any:
        return self._browser.send(method, self._session, **params)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.troubles.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.troubles.append(" ".join(str(each.get("value", each)) for each in params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                self.troubles.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Audits.issueAdded" if params["issue"]["code"] == "ContentSecurityPolicyIssue":
                self.troubles.append(json.dumps(params["issue"]["details"]))
            case "Network.responseReceived":
                self._urls[params["requestId"]] = params["response"]["url"]
            case "Network.loadingFinished" if params["requestId"] in self._urls:
                self.bytes[self._urls[params["requestId"]]] = params["encodedDataLength"]

    async def be(
        self, width: int = 1280, height: int = 900, mode: str = "light", *, motion: bool = False, slower: float = 1
    ) -> None:
        """How large the window is, what the user prefers, and how many times slower the processor."""
        self._is = {"mode": mode, "motion": motion, "slower": slower}
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 500 else 1,
            mobile=width < 500,
        )
        motions = {"name": "prefers-reduced-motion", "value": "no-preference" if motion else "reduce"}
        await self.send(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode}, motions]
        )
        await self.send("Emulation.setCPUThrottlingRate", rate=slower)

    async def leave(self) -> None:
        """Nothing is left of the pages, nor of what they have stored: the next ones may be on the same port."""
        origin = await self.until("location.origin")
        await self.goto("about:blank")
        await self.until("location.href === 'about:blank'")
        await self.send("Storage.clearDataForOrigin", origin=origin, storageTypes="local_storage")
        await self.send("Network.clearBrowserCookies")
        await self.send("Network.setBlockedURLs", urls=[])

    async def goto(self, url: str) -> None:
        await self.send("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression; of a promise, what it comes to."""
        result = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", str(result)))
        return result["result"].get("value")

    async def until(self, script: str, within: float = WITHIN) -> Any:
        """The value of an expression as soon as it is true; looked at in each frame, in the page."""
        watch = f"""new Promise((done, fail) => {{
            const end = performance.now() + {within * 1000};
            const look = () => {{
                let value;
                try {{ value = ({script}); }} catch (error) {{ value = null; }}
                if (value) done(value);
                else if (performance.now() > end) fail(new Error("not so: " + {json.dumps(script)} + "\\n" + document.body.innerText.slice(0, 300)));
                else setTimeout(look, 10);
            }};
            look();
        }})"""
        while True:
            try:
                return await self.run(watch)
            except RuntimeError as error:
                if "context" not in str(error) and "navigated" not in str(error):  # the page before has gone meanwhile
                    raise

    async def press(self, key: str) -> None:
        code, text = KEYS.get(key, (f"Key{key.upper()}", key))
        event = {"key": key, "code": code, "windowsVirtualKeyCode": {"Enter": 13, "Escape": 27, "Tab": 9}.get(key, 0)}
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    async def type(self, text: str) -> None:
        await self.send("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """As a mouse would: nothing may lie above it. Again if the page has moved away from below the mouse meanwhile."""
        hit = False
        while not hit:
            where = await self.until(
                f"""(() => {{ const found = document.querySelector({json.dumps(selector)});
                if (!found) return null; found.scrollIntoView({{block: "center"}}); const box = found.getBoundingClientRect(); if (!box.width) return null;
                const x = box.x + box.width / 2, y = box.y + box.height / 2;
                if (!found.contains(document.elementFromPoint(x, y))) return null;
                window.testHit = false; found.addEventListener("click", () => (window.testHit = true), {{capture: true, once: true}});
                return [x, y]; }})()"""
            )
            for kind in ("mousePressed", "mouseReleased"):
                await self.send(
                    "Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1
                )
            hit = await self.run("window.testHit !== false")  # it is not there any more on another page

    async def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        steps = [("mouseMoved", start, "none"), ("mousePressed", start, "left")]
        steps += [
            ("mouseMoved", (start[0] + (end[0] - start[0]) * n / 4, start[1] + (end[1] - start[1]) * n / 4), "left")
            for n in range(1, 5)
        ]
        for kind, (x, y), button in [*steps, ("mouseReleased", end, "left")]:
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1, buttons=1)

    async def heap(self) -> int:
        """Bytes in use once all garbage is gone."""
        for _ in range(3):
            await self.send("HeapProfiler.collectGarbage")
        return int((await self.send("Runtime.getHeapUsage"))["usedSize"])

    async def picture(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        if whole:
            size = await self.run("[innerWidth, document.documentElement.scrollHeight]")
            await self.be(*size, **self._is)
            await self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shot = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


class Loop:
    """An event loop for tests that are no coroutines; what runs in it goes on only while `run` does."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.stack = contextlib.AsyncExitStack()

    def run(self, what: Any, within: float = 120.0) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(what, within))

    def enter(self, make: Callable[[], Any]) -> Any:
        """What an async context manager, made in the loop, gives; left when the loop is closed."""

        async def entered() -> Any:
            return await self.stack.enter_async_context(make())

        return self.run(entered())

    def close(self) -> None:
        self.run(self.stack.aclose())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
