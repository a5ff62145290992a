"""Thirteen holes that other tools' web interfaces had, each a test here."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import tempfile
from pathlib import Path

import aiohttp
import pytest
from gateway_world import PASSWORD, run
from waiting import until

from impetusd.core.stream import Change
from impetusd.gateway import accessfile, guard, passwords, routes, stream, tokens

SOURCES = sorted(Path(guard.__file__).parent.glob("*.py"))


async def raw(gateway, *lines, body=b""):
    """What is answered to a request that is written so: status, headers and body as one text."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body)
    answer = await reader.read()
    writer.close()
    return answer.decode("latin-1")


class TestHosts:
    """1: a page under another name must not reach us, on any listener, by any route."""

    @pytest.mark.parametrize(
        ("host", "local", "allowed"),
        [
            ("127.0.0.1", "127.0.0.1", True),
            ("localhost", "127.0.0.1", True),
            ("LOCALHOST.", "127.0.0.1", True),
            ("127.evil.com", "127.0.0.1", False),
            ("127.0.0.1.evil.com", "127.0.0.1", False),
            ("localhost.evil.com", "127.0.0.1", False),
            ("localhost", "192.0.2.7", False),
            ("192.0.2.7", "192.0.2.7", True),
            ("192.0.2.8", "192.0.2.7", False),
            ("192.0.2.7", "::ffff:192.0.2.7", True),
            ("::1", "::1", True),
            ("fe80::1", "::1", False),
            ("ops.example.org", "192.0.2.7", True),
            ("Ops.Example.Org", "127.0.0.1", True),
            ("198.51.100.1", "192.0.2.7", True),
            ("localhost", None, True),
            ("evil.com", None, False),
            ("127.1", "127.0.0.1", False),
            ("2130706433", "127.0.0.1", False),
            ("0x7f.1", "127.0.0.1", False),
        ],
    )
    def test_is_an_address_of_ours_or_a_name_in_the_list(self, host, local, allowed):
        where = (local, 9615) if local else None
        assert guard.is_allowed(host, {"ops.example.org", "198.51.100.1"}, where) is allowed

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("a:1", ("a", "1")),
            ("a", ("a", "")),
            ("[::1]:80", ("::1", "80")),
            ("[::1]", ("::1", "")),
            *(
                (bad, ("", ""))
                for bad in ("", ":80", "a b", "a@b", "[::1", "[1.2.3.4]", "::1", "a:", "a/b", "a\x00", "[::1]x")
            ),
        ],
    )
    def test_is_split_as_an_address(self, text, parts):
        assert guard.split_host(text) == parts

    def test_on_every_listener_by_every_route(self):
        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")
            for path in ("/api/v1/me", "/api/v1/stream", "/api/v1/snapshot", "/nothing"):
                async with gateway.get(path, {**viewer, "Host": "127.evil.com"}) as answer:
                    assert answer.status == 421
            login = ["POST /api/v1/login HTTP/1.1", "Content-Type: application/json", "Content-Length: 2"]
            assert " 421 " in await raw(gateway, *login, "Host: evil.com", body=b"{}")
            for wrong in ([], ["Host: 127.0.0.1", "Host: evil.com"], ["Host: 127.0.0.1@evil.com"]):
                assert " 400 " in await raw(gateway, "GET /api/v1/me HTTP/1.1", *wrong)

        run(scenario)

    def test_in_the_target_of_the_request_as_to_a_proxy(self):
        async def scenario(gateway):
            token = f"Authorization: {(await gateway.bearer('viewer'))['Authorization']}"
            host = gateway.url.removeprefix("http://")
            for target, status in (
                (f"http://{host}/api/v1/me", " 200 "),
                ("http://evil.com/api/v1/me", " 400 "),
                (f"http://{host}@evil.com/api/v1/me", " 400 "),
                ("http://localhost/api/v1/me", " 400 "),  # not what Host says
                ("ftp://evil.com/api/v1/me", " 400 "),
            ):
                answer = await raw(gateway, f"GET {target} HTTP/1.1", f"Host: {host}", token)
                assert status in answer.partition("\r\n")[0], (target, answer)

        run(scenario)

    def test_at_a_unix_socket_too(self):
        async def scenario(gateway):
            connector = aiohttp.UnixConnector(gateway.path)
            async with aiohttp.ClientSession("http://localhost", connector=connector) as http:
                async with http.get("/api/v1/me") as answer:
                    assert answer.status == 401  # a proxy before it needs a login, too
                async with http.get("/api/v1/me", headers=await gateway.bearer("viewer")) as answer:
                    assert answer.status == 200
                async with http.get("/api/v1/me", headers={"Host": "evil.com"}) as answer:
                    assert answer.status == 421

        with tempfile.TemporaryDirectory(prefix="impg", dir="/tmp") as folder:
            run(scenario, listen=f"{folder}/gateway.sock")


def test_2_no_cors_and_no_form_of_a_foreign_page():
    async def scenario(gateway):
        admin = await gateway.bearer("admin")
        gateway.backend.dry = True
        async with gateway.http.options("/api/v1/me", headers={"Origin": gateway.url}) as answer:
            assert answer.status == 405
        async with gateway.get("/api/v1/me", {**admin, "Origin": gateway.url}) as answer:
            assert answer.status == 200
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", ""):
            for path in ("/api/v1/units/api/stop", "/api/v1/login", "/api/v1/apply"):
                async with gateway.http.post(path, data=b"{}", headers={**admin, "Content-Type": kind}) as answer:
                    assert answer.status == 415
        assert gateway.backend.asked == []

    run(scenario)


def test_3_another_origin_is_refused_on_streams_too():
    async def scenario(gateway):
        viewer = await gateway.bearer("viewer")
        port = gateway.url.rpartition(":")[2]
        origins = (
            "null",
            "http://evil.com",
            f"http://127.0.0.1.evil.com:{port}",
            "http://127.0.0.1",
            f"http://localhost:{port}",
        )
        for origin in origins:
            for path in ("/api/v1/stream", "/api/v1/snapshot"):
                async with gateway.get(path, {**viewer, "Origin": origin}) as answer:
                    assert answer.status == 403
            async with gateway.post("/api/v1/login", {"code": "x"}, {"Origin": origin}) as answer:
                assert answer.status == 403
        for site in ("cross-site", "same-site"):
            async with gateway.get(
                "/api/v1/stream", {**viewer, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
            ) as answer:
                assert answer.status == 403
        async with gateway.get(
            "/api/v1/stream", {**viewer, "Origin": gateway.url, "Sec-Fetch-Site": "same-origin"}
        ) as answer:
            assert answer.status == 200

    run(scenario)


def test_4_the_role_is_looked_at_for_each_event_and_each_id():
    async def scenario(gateway):
        viewer, admin = await gateway.bearer("viewer"), await gateway.bearer("admin")
        hub, mirror = gateway.app[stream.HUB], gateway.backend.mirror

        def happen(kind, key):
            mirror.n += 1
            hub.take(Change(mirror.n, 1.0, kind, key, {"of": key}))

        async def keys(headers, last=""):
            """What one sees, from `last` on."""
            seen = []
            async with gateway.get("/api/v1/stream", {**headers, "Last-Event-ID": last}) as answer:
                async for name, data, id_ in gateway.events(answer):
                    if name == "snapshot" and not last:
                        happen("unit", "a")
                        happen("keys-of-admins", "b")
                        happen("unit", "c")
                        continue
                    seen += [json.loads(data)["key"]] if name == "change" else []
                    if seen and seen[-1] == "c":
                        return seen, id_
            raise AssertionError(seen)

        first = f"{mirror.life}:{mirror.n + 1}"
        assert (await keys(viewer))[0] == ["a", "c"]
        assert (await keys(viewer, first))[0] == ["c"]
        assert (await keys(admin, first))[0] == ["b", "c"]
        mirror.rows["keys-of-admins"] = {"b": {"secret": 1}}
        for headers in (viewer, admin):
            async with gateway.get("/api/v1/snapshot", headers) as answer:
                assert "keys-of-admins" not in (await answer.json())["rows"]

    run(scenario)


class TestEnds:
    """5: what somebody has opened ends at once when password, token or role change."""

    @pytest.mark.parametrize("how", ["password", "role", "removed", "logout"])
    def test_of_a_session(self, how):
        async def scenario(gateway):
            await gateway.user("alice", "operator")
            cookie, other = await gateway.cookie("alice"), None
            await gateway.user("bob", "viewer")
            other = await gateway.cookie("bob")
            async with gateway.get("/api/v1/stream", cookie) as answer, gateway.get("/api/v1/stream", other) as others:
                await anext(gateway.events(answer))

                def change(state):
                    if how == "removed":
                        state.remove_user("alice")
                    else:
                        role = "viewer" if how == "role" else "operator"
                        state.set_user("alice", role, passwords.hashed("another password"))

                if how == "logout":
                    async with gateway.post("/api/v1/logout", {}, cookie) as left:
                        assert left.status == 204
                else:  # by another process, as the command line is
                    await asyncio.to_thread(accessfile.change, gateway.folder, change)
                assert await _ended(answer)
                assert not others.content.at_eof()
            async with gateway.get("/api/v1/me", cookie) as answer:
                assert answer.status == 401
            async with gateway.get("/api/v1/me", other) as answer:
                assert answer.status == 200

        run(scenario)

    @pytest.mark.parametrize("how", ["removed", "role", "expired"])
    def test_of_a_token(self, how):
        async def scenario(gateway):
            token = await gateway.bearer("operator", "ci")

            def change(state):
                if how == "removed":
                    state.remove_token("ci")
                elif how == "role":
                    state.tokens["ci"].role = "viewer"
                else:
                    state.tokens["ci"].expires = 1.0

            async with gateway.get("/api/v1/stream", token) as answer:
                await anext(gateway.events(answer))
                await asyncio.to_thread(accessfile.change, gateway.folder, change)
                assert await _ended(answer)
            async with gateway.get("/api/v1/me", token) as answer:
                assert answer.status == (200 if how == "role" else 401)

        run(scenario)

    def test_when_the_file_is_gone_or_makes_no_sense(self):
        async def scenario(gateway):
            token = await gateway.bearer("operator", "ci")
            async with gateway.get("/api/v1/stream", token) as answer:
                await anext(gateway.events(answer))
                Path(gateway.folder, accessfile.NAME).write_text("{", encoding="utf-8")
                assert await _ended(answer)
            async with gateway.get("/api/v1/me", token) as answer:
                assert answer.status == 401

        run(scenario)


async def _ended(answer):
    try:
        while await answer.content.readany():
            pass
    except aiohttp.ClientError:
        pass
    return True


def test_7_no_credential_in_any_answer():
    async def scenario(gateway):
        await gateway.user("root", "admin")
        cookie, bearer = await gateway.cookie("root"), await gateway.bearer("admin")
        await gateway.life.ask("start")
        secrets = ["hunter2hunter2", "topsecret-9c2", PASSWORD, bearer["Authorization"].split()[1]]
        secrets += [part.split("=", 1)[1] for part in cookie["Cookie"].split("; ")]
        looked = 0
        for (method, path), route in gateway.app[routes.ROUTES].items():
            if method == "GET" and route.answer != routes.EVENTS:
                async with gateway.get(path.replace("{name}", "api"), cookie) as answer:
                    text = await answer.text()
                    looked += answer.status == 200
                    assert not [secret for secret in secrets if secret in text], path
        async with gateway.get("/api/v1/stream", cookie) as answer:
            _, data, _ = await anext(gateway.events(answer))
            assert not [secret for secret in secrets if secret in data]
        assert looked > 5
        kept = Path(gateway.folder, accessfile.NAME)
        assert not [secret for secret in secrets if secret in kept.read_text(encoding="utf-8")]
        assert kept.stat().st_mode & 0o777 == 0o600

    run(scenario)


def test_8_no_value_from_the_web_reaches_a_command_line():
    async def scenario(gateway):
        admin = await gateway.bearer("admin")
        evil = "--eval=$(id)"
        for path, body in (
            (f"units/{evil}/start", {}),
            (f"units/{evil}/trigger", {}),
            ("units/api/signal", {"signal": "HUP"}),
            ("units/api/start", {}),
            ("units/clean/trigger", {"wait": False}),
            ("units/api/restart", {"command": evil}),
            ("units/api/start", {"env": {"LD_PRELOAD": evil}}),
            ("units/api/exec", {"command": [evil]}),
        ):
            async with gateway.post(f"/api/v1/{path}", body, admin) as answer:
                await answer.read()
        started = [child.spec for child in gateway.life.shim.started]
        assert started
        assert not [spec for spec in started if evil in json.dumps(spec)]

    run(scenario)


def test_9_no_path_leads_to_a_file():
    async def scenario(gateway):
        admin = await gateway.bearer("admin")
        token = f"Authorization: {admin['Authorization']}"
        paths = ("/../../etc/passwd", "/..%2f..%2fetc/passwd", "/page/..%2f..%2f..%2fetc%2fpasswd", "//etc/passwd")
        for path in (*paths, "/%2e%2e/%2e%2e/etc/passwd", "/page/\\..\\..\\etc\\passwd", "/etc/passwd%00.css"):
            answer = await raw(gateway, f"GET {path} HTTP/1.1", "Host: 127.0.0.1", token)
            assert answer.startswith("HTTP/1.1 4"), answer
            assert "root:" not in answer
        answer = await raw(gateway, "GET /api/v1/units/..%2f..%2fetc%2fpasswd HTTP/1.1", "Host: 127.0.0.1", token)
        assert answer.startswith("HTTP/1.1 404")

    run(scenario)


def test_10_only_methods_of_the_table():
    async def scenario(gateway):
        admin = await gateway.bearer("admin")
        gateway.backend.dry = True
        table = gateway.app[routes.ROUTES]
        for path in {path for _, path in table}:
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
                if (method, path) not in table:
                    at = re.sub("{.*?}", "a", path)
                    async with gateway.http.request(method, at, headers=admin) as answer:
                        assert answer.status == 405, (method, path)
                        assert set(answer.headers["Allow"].split(",")) == {one for one, each in table if each == path}
        assert gateway.backend.asked == []

    run(scenario)


def test_11_nothing_is_executed_by_the_gateway():
    """No helper with other rights, nothing that is looked for in PATH: there is no way to start a process in its code."""
    forbidden = {"subprocess", "multiprocessing", "shutil", "pty", "importlib", "ctypes"}
    calls = {
        "system",
        "popen",
        "fork",
        "forkpty",
        "posix_spawn",
        "eval",
        "exec",
        "create_subprocess_exec",
        "create_subprocess_shell",
    }
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {
                alias.name.partition(".")[0] for alias in getattr(node, "names", ()) if isinstance(node, ast.Import)
            }
            names |= {(node.module or "").partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()
            assert not names & forbidden, path
            called = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            assert called not in calls, path
            assert not called.startswith(("exec", "spawn")), path


def test_12_what_programs_write_is_inert():
    """Escapes and line ends in a value stay within its JSON string: no event can be forged."""

    async def scenario(gateway):
        viewer = await gateway.bearer("viewer")
        evil = "\x1b]0;owned\x07\r\n\r\nevent: change\ndata: {}\n\n\u2028<script>alert(1)</script>"
        async with gateway.get("/api/v1/stream", viewer) as answer:
            events = gateway.events(answer)
            await anext(events)
            gateway.app[stream.HUB].take(Change(gateway.backend.mirror.n, 1.0, "unit", evil, {"tail": [evil]}))
            name, data, _ = await anext(events)
            assert name == "change"
            assert json.loads(data)["value"] == {"tail": [evil]}
            assert data.isascii()
            assert data.isprintable()
            assert answer.headers["X-Content-Type-Options"] == "nosniff"

    run(scenario)


def test_13_there_is_no_default_password_and_a_link_works_once():
    async def scenario(gateway):
        for user in ("admin", "root", "impetusd", "user"):
            for password in ("admin", "root", "impetusd", "password", " "):
                async with gateway.post("/api/v1/login", {"user": user, "password": password}) as answer:
                    assert answer.status in {401, 429}
        code = tokens.new()
        await gateway.access.change(lambda state: state.add_link(tokens.digest(code), "alice", "admin", 2e9))
        async with gateway.post("/api/v1/login", {"code": code}) as answer:
            assert answer.status == 204  # although the address has failed too often
            cookies = answer.cookies
        for cookie in cookies.values():
            assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
        async with gateway.post("/api/v1/login", {"code": code}) as answer:
            assert answer.status == 401
        headers = {"Cookie": "; ".join(f"{each.key}={each.value}" for each in cookies.values())}
        async with gateway.get("/api/v1/me", headers) as answer:
            shown = await answer.json()
            assert (shown["user"], shown["role"]) == ("alice", "admin")
        late = tokens.new()
        await gateway.access.change(lambda state: state.add_link(tokens.digest(late), "alice", "admin", 0.0))
        async with gateway.post("/api/v1/login", {"code": late}) as answer:
            assert answer.status == 401

    run(scenario)


def test_every_answer_carries_the_headers():
    async def scenario(gateway):
        viewer = await gateway.bearer("viewer")
        for path in ("/api/v1/me", "/api/v1/stream", "/nothing", "/api/v1/units/nobody"):
            for headers in (viewer, {}):
                async with gateway.get(path, headers) as answer:
                    for name, value in guard.HEADERS.items():
                        assert answer.headers[name] == value
        assert "unsafe" not in guard.CSP

    run(scenario)


def test_a_cookie_is_for_tls_alone_where_browsers_speak_it():
    async def scenario(gateway):
        await gateway.user("alice", "viewer")
        async with gateway.post("/api/v1/login", {"user": "alice", "password": PASSWORD}) as answer:
            assert all(each["secure"] and each.key.startswith("__Host-") for each in answer.cookies.values())
        cookie = await gateway.cookie("alice")
        async with gateway.get("/api/v1/me", cookie) as answer:
            assert answer.status == 200

    run(scenario, behind_proxy=True)


def test_nobody_is_more_than_the_ceiling():
    async def scenario(gateway):
        admin = await gateway.bearer("admin")
        async with gateway.get("/api/v1/me", admin) as answer:
            assert (await answer.json())["role"] == "operator"
        async with gateway.post("/api/v1/apply", {}, admin) as answer:
            assert answer.status == 403

    run(scenario, ceiling="operator")


class TestGuessing:
    def test_slows_the_guesser_and_never_locks_the_owner_out(self):
        async def scenario(gateway):
            await gateway.user("alice", "admin")
            cookie = await gateway.cookie("alice")
            for _ in range(5):
                async with gateway.post("/api/v1/login", {"user": "alice", "password": "guess"}) as answer:
                    assert answer.status == 401
            async with gateway.post("/api/v1/login", {"user": "alice", "password": PASSWORD}) as answer:
                assert answer.status == 429
                assert int(answer.headers["Retry-After"]) > 0
            async with gateway.post("/api/v1/login", {"user": "alice", "password": PASSWORD}, cookie) as answer:
                assert answer.status == 204  # a browser in which alice has logged in before
            async with gateway.post("/api/v1/login", {"user": "root", "password": PASSWORD}, cookie) as answer:
                assert answer.status == 429  # it is known for alice alone

        run(scenario)

    def test_many_at_once_do_not_pile_up(self):
        async def scenario(gateway):
            await gateway.user("alice", "admin")

            async def attempt():
                async with gateway.post("/api/v1/login", {"user": "alice", "password": "guess"}) as answer:
                    return answer.status

            found = await asyncio.gather(*(attempt() for _ in range(40)))
            assert set(found) == {401, 429}
            assert found.count(401) <= 5

        run(scenario)

    def test_sessions_are_bounded(self):
        state = accessfile.State()
        for n in range(500):
            state.add_session(f"d{n}", f"user{n % 30}", "viewer", 1.0)
            state.add_link(f"l{n}", "alice", "viewer", 1.0)
            state.add_browser(f"b{n}", "alice", "viewer", 1.0)
        assert len(state.sessions) <= accessfile.SESSIONS
        assert (len(state.links), len(state.browsers)) == (accessfile.LINKS, accessfile.BROWSERS)
        assert (
            max(sum(each.user == f"user{n}" for each in state.sessions.values()) for n in range(30))
            <= accessfile.OF_ONE_USER
        )

    def test_streams_are_bounded(self, monkeypatch):
        from impetusd.gateway import access

        monkeypatch.setattr(access, "OF_ONE", 2)
        monkeypatch.setattr(stream, "ALIVE", 0.05)  # a client that has gone is noticed by then

        async def scenario(gateway):
            viewer = await gateway.bearer("viewer")
            open_ = gateway.get("/api/v1/stream", viewer), gateway.get("/api/v1/stream", viewer)
            async with open_[0], open_[1], gateway.get("/api/v1/stream", viewer) as answer:
                assert answer.status == 429
            await until(lambda: not gateway.access._streams, "they have gone")

        run(scenario)
