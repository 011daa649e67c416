"""The console in a real browser, on a running server with the scripted model: what a visitor does, and what they must
never see, such as an error in the browser's console or a request to elsewhere. And its files, as the server gives them.
"""

import asyncio
import gzip
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    WebError,
    async_playwright,
    expect,
)

from antiphon.config import ScriptedModel, ScriptedToolSettings, Settings, Storage, Tools
from antiphon.console import pages
from tests.clients.programs import IN_CI, NODE
from tests.conftest import WAIT_S, changed, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "console"
MODULES = SOURCES / "node_modules"
STATIC = Path(pages.__file__).parent / "static"
KEY = "sk-console-0123456789abcdef"
BYTES_MAX = 150_000
"""All that was built, gzipped: the first page is a part of it."""
needs_modules = pytest.mark.skipif(
    not (IN_CI or (MODULES / ".done").exists()), reason="`make clients` sets up what this needs"
)
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

expect.set_options(timeout=WAIT_S * 1000)


def settings(database: Path) -> Settings:
    return Settings(
        models=(ScriptedModel(),),
        storage=Storage(database=str(database)),
        tools=Tools(scripted=ScriptedToolSettings(enabled=True)),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server for all tests, without /v1."""
    async with serve(settings(tmp_path_factory.mktemp("store") / "test.db")) as address:
        yield address.removesuffix("/v1")


# -- the files


async def test_the_page_is_served_with_a_policy_that_lets_it_reach_this_server_alone(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.get("/")
        head = await client.head("/")
        again = await client.get("/", headers={"if-none-match": answer.headers["etag"]})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<style|<script(?! type=\"module\" crossorigin src=)| style=| on\w+=", answer.text)
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", answer.headers["content-type"])
    assert (again.status_code, again.content) == (304, b"")


async def test_what_the_page_loads_first_is_small_and_stays_in_the_browser(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, headers={"accept-encoding": "gzip"}) as client:
        page = (await client.get("/")).text
        named = re.findall(r'(?:src|href)="(/console/[^"]+)"', page)
        answers = [await client.get(name) for name in named]
    assert {answer.headers["cache-control"] for answer in answers} == {"public, max-age=31536000, immutable"}
    assert {answer.headers["content-encoding"] for answer in answers} == {"gzip"}
    assert sum(len(gzip.compress(file)) for file in contents(STATIC).values()) <= BYTES_MAX


@pytest.mark.parametrize("path", ["/console/nothing.js", "/console/..%2fpages.py", "/console/", "/console"])
async def test_what_was_not_built_is_not_there(url: str, path: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get(path)).status_code == 404


async def test_it_is_off_with_one_setting(tmp_path: Path) -> None:
    off = changed(settings(tmp_path / "test.db"), console={"enabled": False})
    async with serve(off) as address, httpx.AsyncClient(base_url=address.removesuffix("/v1")) as client:
        answers = [(await client.get(path)).status_code for path in ("/", "/console/manifest.json", "/health")]
    assert answers == [404, 404, 200]


@needs_modules
async def test_what_is_committed_is_what_the_sources_build(tmp_path: Path) -> None:
    vite = MODULES / "vite" / "bin" / "vite.js"
    build = await asyncio.create_subprocess_exec(
        *(str(NODE), str(vite), "build", str(SOURCES), "--outDir", str(tmp_path), "--logLevel", "error"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(build.communicate(), 2 * WAIT_S)
    assert build.returncode == 0, said.decode()
    assert contents(STATIC) == contents(tmp_path), "run make console"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- in a browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        message = "Chromium is not installed: make chromium"
        assert not IN_CI, message
        pytest.skip(message)
    async with async_playwright() as driver:
        launched = await driver.chromium.launch(executable_path=program, args=QUIET)
        yield launched
        await launched.close()


def watch(context: BrowserContext, host: str, expected: tuple[str, ...] = ()) -> list[str]:
    """What must not happen in the browser, as it happens: errors, and requests to elsewhere."""
    seen: list[str] = []

    def requested(request: Request) -> None:
        if urlsplit(request.url).netloc not in ("", host):
            seen.append(request.url)

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(text in message.text for text in expected):
            seen.append(message.text)

    def broke(error: WebError) -> None:
        seen.append(str(error.error))

    context.on("request", requested)
    context.on("console", said)
    context.on("weberror", broke)
    return seen


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, url: str) -> AsyncIterator[Page]:
    """The console, just opened."""
    context = await browser.new_context(base_url=url, viewport={"width": 1440, "height": 900})
    seen = watch(context, urlsplit(url).netloc)
    opened = await context.new_page()
    await opened.goto("/")
    yield opened
    await context.close()
    assert seen == []


async def test_the_page_opens_and_says_that_the_server_is_up(page: Page) -> None:
    await expect(page.get_by_role("status").filter(has_text="Up")).to_be_visible()
    await expect(page.get_by_role("link", name="Explorer")).to_have_attribute("aria-current", "page")


async def test_the_palette_opens_by_key_and_changes_the_theme(page: Page) -> None:
    await page.keyboard.press("Control+k")
    await page.get_by_role("combobox", name="Search").fill("theme")
    await page.keyboard.press("Enter")
    await expect(page.locator("html")).to_have_attribute("data-theme", "light")
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-theme", "light")
