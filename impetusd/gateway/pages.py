"""The files of the web page: GET / and GET /page/HASH/FILE. They hold no data, so that they need no login.

HASH is of all files: a file of that address never changes, and browsers keep it. Only the first page is asked for again.
What can be served is read once, by a closed list: no part of a request becomes a path.
"""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import hdrs, web

from impetusd.gateway.routes import OPEN, Route

FOLDER = Path(__file__).parent / "page"
TYPES = {
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".svg": "image/svg+xml",
}
FIRST = "views/overview.mjs"  # what it and app.mjs import is fetched at once, and not one after the other
COMMENT = re.compile(rb"(^|[;,{(]) *// .*$", re.MULTILINE)
INDENT = re.compile(rb"^ +", re.MULTILINE)
FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is sent."""

    type: str
    plain: bytes
    packed: bytes  # gzip


def _packed(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


@cache
def files() -> Mapping[str, File]:
    """All of them, by their path below the folder."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in TYPES:
            data = path.read_bytes()
            if path.suffix == ".mjs" and path.parent.name != "vendor":
                data = INDENT.sub(
                    b"", COMMENT.sub(rb"\1", data)
                )  # 3 of 40 kB of the first view; the numbers of lines stay
            found[path.relative_to(FOLDER).as_posix()] = File(TYPES[path.suffix], data, _packed(data))
    return found


@cache
def digest() -> str:
    """The HASH."""
    whole = hashlib.sha256((FOLDER / "index.html").read_bytes())
    for name, file in files().items():
        whole.update(f"{name} {len(file.plain)} ".encode() + file.plain)
    return whole.hexdigest()[:16]


def first_modules() -> list[str]:
    """What the first view is made of: app.mjs, its first view, and what these import, each after whoever imports it."""
    found = ["app.mjs", FIRST]
    for name in found:  # grows meanwhile
        text = files()[name].plain.decode()
        for other in re.findall(r'(?:from ?|^import )"(\.[^"]+)"', text, re.MULTILINE):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), other))
            if path not in found:
                found.append(path)
    return found


@cache
def languages() -> tuple[str, ...]:
    """Those that there are texts in; the first is for whoever wants none of them."""
    return tuple(name.removesuffix(".json") for name in files() if name.endswith(".json"))


def language(wanted: str) -> str:
    """The first known one of an Accept-Language, as browsers write it: the most wanted first. text.mjs chooses alike."""
    asked = (each.strip()[:2].lower() for each in wanted.split(","))
    return next((each for each in asked if each in languages()), languages()[0])


@cache
def index(language: str) -> File:
    """The page itself. `language`: the texts that are fetched with it, and not after its modules."""
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    preloads = "\n".join(f'<link rel="modulepreload" href="page/HASH/{name}">' for name in first_modules()[1:])
    data = text.replace("PRELOADS", preloads).replace("HASH", digest()).replace("LANGUAGE", language).encode()
    return File("text/html; charset=utf-8", data, _packed(data))


def _answer(request: web.Request, file: File, headers: Mapping[str, str]) -> web.Response:
    packs = "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "")
    more: dict[str, str] = {hdrs.CONTENT_TYPE: file.type, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if packs:
        more[hdrs.CONTENT_ENCODING] = "gzip"
    return web.Response(body=file.packed if packs else file.plain, headers={**more, **headers})


async def _index(request: web.Request) -> web.Response:
    chosen = language(request.headers.get(hdrs.ACCEPT_LANGUAGE, ""))
    tag = f'"{digest()}-{chosen}"'
    vary = f"{hdrs.ACCEPT_ENCODING}, {hdrs.ACCEPT_LANGUAGE}"
    headers: dict[str, str] = {hdrs.ETAG: tag, hdrs.CACHE_CONTROL: "no-cache", hdrs.VARY: vary}
    if request.headers.get(hdrs.IF_NONE_MATCH) == tag:
        return web.Response(status=304, headers=headers)
    return _answer(request, index(chosen), headers)


async def _file(request: web.Request) -> web.Response:
    file = files().get(request.match_info["name"])
    if file is None or request.match_info["hash"] != digest():
        raise web.HTTPNotFound
    return _answer(request, file, {hdrs.CACHE_CONTROL: FOREVER})


ROUTES = (
    Route("GET", "/", OPEN, _index, "The web page.", answer="text/html"),
    Route("GET", r"/page/{hash:[0-9a-f]+}/{name:[a-z0-9_./-]+}", OPEN, _file, "Its files.", answer="text/plain"),
)
