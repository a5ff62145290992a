"""The page's files: how large the first view is, that its texts are whole in each language, and how they are served."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from typing import Any

import aiohttp
import pytest
from page_server import World, served
from yarl import URL

from impetusd.gateway import pages

MOST = 40_000  # bytes of the first view, compressed
OURS = [path for path in sorted(pages.FOLDER.rglob("*.mjs")) if path.parent.name != "vendor"]


def texts(language: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((pages.FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return found


def first_view(language: str) -> list[pages.File]:
    names = [*pages.first_modules(), "style.css", f"{language}.json", "icon.svg"]
    return [pages.index(language), *(pages.files()[name] for name in names)]


@pytest.mark.parametrize("language", ["en", "pt"])
def test_the_first_view_is_small(language):
    assert sum(len(file.packed) for file in first_view(language)) <= MOST


def test_charts_are_no_part_of_the_first_view():
    assert not {"vendor/uplot.mjs", "views.css", "views/logs.mjs"} & set(pages.first_modules())


def test_each_text_is_there_in_each_language_with_the_same_places():
    english, portuguese = texts("en"), texts("pt")
    assert english.keys() == portuguese.keys()
    for key, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", portuguese[key])), key
        assert text, key


def test_each_text_that_a_view_asks_for_is_there():
    keys = {key.removesuffix(".one").removesuffix(".other") for key in texts("en")}
    for path in OURS:
        for asked in re.findall(r"\bt\(\s*[\"`]([^\"`]*)[\"`]", path.read_text(encoding="utf-8")):
            stem = asked.partition("${")[0]
            fits = any(key.startswith(stem) for key in keys) if "${" in asked else asked in keys
            assert fits, f"{path.name}: {asked}"


def test_what_is_vendored_says_under_which_licence():
    for path in (pages.FOLDER / "vendor").iterdir():
        head = path.read_text(encoding="utf-8")[:1500]
        assert "Copyright" in head, path.name
        assert "MIT License" in head or "Apache License" in head, path.name


def test_comments_and_indents_are_left_out_and_nothing_else():
    for path in OURS:
        text = path.read_text(encoding="utf-8")
        sent = pages.files()[path.relative_to(pages.FOLDER).as_posix()].plain.decode()
        for line, own in zip(text.split("\n"), sent.split("\n"), strict=True):
            rest = line.strip().removeprefix(own)
            assert not rest or (rest.lstrip().startswith("// ") and own[-1:] in {"", *";,{("}), f"{path.name}: {line}"


def test_no_file_has_what_the_policy_forbids():
    assert not re.search(r"<style|style=|\son\w+=|<script(?! type=\"module\" src=)", pages.index("en").plain.decode())
    for path in OURS:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function", path.read_text("utf-8"))


async def ask(*asked: tuple[str, dict[str, str]]) -> list[tuple[int, dict[str, str], bytes]]:
    found: list[tuple[int, dict[str, str], bytes]] = []
    async with served(World()) as address, aiohttp.ClientSession(auto_decompress=False) as session:
        for path, headers in asked:
            async with session.get(URL(address + path, encoded=True), headers=headers, allow_redirects=False) as answer:
                found.append((answer.status, answer.headers.copy(), await answer.read()))
    return found


def get(*asked: Any) -> list[tuple[int, dict[str, str], bytes]]:
    return asyncio.run(ask(*[(each, {}) if isinstance(each, str) else each for each in asked]))


def test_a_file_is_kept_for_ever_and_the_page_is_asked_for_again():
    packed = {"Accept-Encoding": "gzip"}
    path = f"page/{pages.digest()}/app.mjs"
    plain, file, page = get((path, {"Accept-Encoding": "identity"}), (path, packed), ("", packed))
    assert file[1]["Cache-Control"] == "public, max-age=31536000, immutable"
    assert file[1]["Content-Type"] == "text/javascript; charset=utf-8"
    assert gzip.decompress(file[2]) == plain[2] == pages.files()["app.mjs"].plain
    assert page[1]["Cache-Control"] == "no-cache"
    assert f'src="page/{pages.digest()}/app.mjs"' in gzip.decompress(page[2]).decode()
    again = get(("", {"If-None-Match": page[1]["ETag"]}))
    assert (again[0][0], again[0][2]) == (304, b"")


def test_the_page_is_asked_for_with_its_texts_in_the_language_that_the_browser_wants():
    wanted = {"pt-BR,pt;q=0.9,en;q=0.8": "pt", "de, en-GB;q=0.7, pt;q=0.3": "en", "PT": "pt", "": "en", "*, ;,=": "en"}
    tags = set()
    for header, language in wanted.items():
        ((_, headers, body),) = get(("", {"Accept-Language": header, "Accept-Encoding": "identity"}))
        assert body == pages.index(language).plain
        assert f'<html lang="{language}">' in body.decode()
        assert f'href="page/{pages.digest()}/{language}.json" as="fetch"' in body.decode()
        assert headers["Vary"] == "Accept-Encoding, Accept-Language"
        tags.add((language, headers["ETag"]))
    assert len(tags) == len({tag for _, tag in tags}) == 2


@pytest.mark.parametrize(
    "path",
    [
        "page/HASH/../pages.py",
        "page/HASH/%2e%2e/pages.py",
        "page/HASH/..%2fpages.py",
        "page/HASH//etc/passwd",
        "page/HASH/vendor",
        "page/HASH/index.html",
        "page/HASH/__init__.py",
        "page/0123456789abcdef/app.mjs",
        "page/app.mjs",
        "pages.py",
        "page/HASH/app.mjs%00.css",
    ],
)
def test_nothing_else_can_be_fetched(path):
    assert get(path.replace("HASH", pages.digest()))[0][0] == 404
