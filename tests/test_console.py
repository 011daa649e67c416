"""The console in a real browser, on a running server with the scripted model: what a visitor does, and what they must
never see, such as an error in the browser's console or a request to elsewhere. And its files, as the server gives them.
"""

import asyncio
import gzip
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Response,
    Route,
    WebError,
    async_playwright,
    expect,
)

from antiphon.config import ScriptedModel, ScriptedToolSettings, Settings, StaticKey, Storage, Tools
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


@pytest.mark.parametrize("path", ["/", "/openapi.json"])
async def test_what_stays_as_it_is_comes_as_the_client_takes_it_and_only_once(url: str, path: str) -> None:
    async def ask(**headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.get(path, headers={"accept-encoding": "identity", **named})

    async with httpx.AsyncClient(base_url=url) as client:
        plain = await ask()
        packed = [await ask(accept_encoding=accepted) for accepted in ("gzip", "br, GZIP;q=0.5")]
        unpacked = [await ask(accept_encoding=accepted) for accepted in ("gzip;q=0", "br", "xgzip")]
        tag = plain.headers["etag"]
        known = [await ask(if_none_match=one) for one in (tag, f'"x", {tag}', tag.removeprefix("W/"))]
        other = await ask(if_none_match='"x"')
    assert {answer.headers.get("content-encoding") for answer in packed} == {"gzip"}
    assert {answer.headers.get("content-encoding") for answer in (plain, other, *unpacked)} == {None}
    assert {answer.content for answer in (plain, other, *packed, *unpacked)} == {plain.content}
    assert {int(answer.headers["content-length"]) < len(plain.content) for answer in packed} == {True}
    assert {(answer.status_code, answer.content) for answer in known} == {(304, b"")}
    for answer in (plain, *packed, *known):
        assert answer.headers["vary"] == "accept-encoding"
        assert (answer.headers["etag"], answer.headers["cache-control"]) == (tag, "no-cache")


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


@asynccontextmanager
async def tab(browser: Browser, url: str, *expected: str) -> AsyncIterator[Page]:
    """A tab in which nothing is open, of a browser that has kept nothing. What it says of the expected is no error."""
    context = await browser.new_context(base_url=url, viewport={"width": 1440, "height": 900})
    seen = watch(context, urlsplit(url).netloc, expected)
    context.set_default_timeout(WAIT_S * 1000)
    yield await context.new_page()
    await context.close()
    assert seen == []


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, url: str) -> AsyncIterator[Page]:
    """The console, just opened."""
    async with tab(browser, url) as opened:
        await opened.goto("/")
        yield opened


async def test_the_page_opens_and_says_that_the_server_is_up(page: Page) -> None:
    await expect(page.get_by_role("status").filter(has_text="Up")).to_be_visible()
    await expect(page.get_by_role("link", name="Explorer")).to_have_attribute("aria-current", "page")


async def test_the_palette_finds_an_event_and_changes_the_theme_which_stays(page: Page) -> None:
    await page.locator(".index").wait_for()
    await run_command(page, "text.delta")
    await expect(page.get_by_role("heading", level=1)).to_have_text("response.output_text.delta")
    await page.keyboard.press("/")
    await expect(page.get_by_role("dialog", name="Search")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog", name="Search")).to_be_hidden()
    await run_command(page, "theme")
    await expect(page.locator("html")).to_have_attribute("data-theme", "light")
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-theme", "light")


async def run_command(page: Page, query: str) -> None:
    await page.keyboard.press("Control+k")
    await page.get_by_role("combobox", name="Search").fill(query)
    await page.keyboard.press("Enter")


# -- the explorer


async def test_a_name_is_found_its_reference_read_and_its_request_tried(page: Page) -> None:
    await page.get_by_role("searchbox").fill("top_log")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("top_logprobs")
    await expect(page.get_by_role("article")).to_contain_text("0 to 20")
    await expect(body(page)).to_have_value(re.compile(r'"top_logprobs": \d+'))
    await page.get_by_role("button", name="Test request").click()
    await expect(answer(page)).to_contain_text("200")
    await expect(answer(page).get_by_role("region", name="Body")).to_contain_text('"status": "completed"')
    await answer(page).get_by_role("tab", name="Headers").click()
    await expect(answer(page)).to_contain_text("x-request-id")


def body(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Body, as JSON")


async def write(page: Page, text: str) -> None:
    """Once the models are there, of which one may be put into the body."""
    await expect(page.get_by_role("combobox", name="Model")).to_be_visible()
    await body(page).fill(text)


def answer(page: Page) -> Locator:
    return page.get_by_role("region", name="Answer", exact=True)


async def test_every_surface_of_the_manifest_is_shown(page: Page) -> None:
    await page.locator(".index").wait_for()
    links = await page.locator(".index li:nth-last-child(2) a").evaluate_all("all => all.map(one => one.hash)")
    assert len(links) > 12
    for link in links:
        await page.evaluate("link => { location.hash = link }", link)
        await expect(page.locator(".index a[aria-current]")).to_have_attribute("href", link)
        await expect(page.get_by_role("heading", level=1)).not_to_be_empty()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ('{"model": "scripted",\n "input": }', "line 2"),
        ('{"model": "scripted", "temperature": 3}', "temperature at most 2"),
        ('{"model": "scripted", "input": [{"role": "user"}]}', "input[0].content is missing"),
        ('{"model": "scripted", "tempratur": 1}', "tempratur is not known"),
        ('{"model": "scripted", "moderation": {}}', "moderation is refused"),
        ('["model"]', "expected an object"),
    ],
)
async def test_a_mistake_in_the_body_is_named_while_it_is_typed(page: Page, typed: str, said: str) -> None:
    await write(page, typed)
    await expect(page.locator(".faults")).to_contain_text(said)


async def test_a_stream_arrives_on_the_timeline_with_its_fold_beside_it(page: Page) -> None:
    await ask(page, "think hmm | say one two | call f {}", stream=True, tools=[{"type": "function", "name": "f"}])
    await expect(growing(page)).to_contain_text("completed")
    await expect(growing(page)).to_contain_text("one two")
    await expect(growing(page)).to_contain_text("function_call completed")
    numbers = await page.locator(".event .number").all_inner_texts()
    assert numbers == [str(number) for number in range(len(numbers))]
    await events(page).filter(has_text="output_text.done").click()
    await expect(page.get_by_role("region", name="The chosen event")).to_contain_text('"text": "one two"')
    await answer(page).get_by_role("tab", name="Response").click()
    await expect(answer(page).get_by_role("region", name="Body")).to_contain_text('"output_tokens"')


async def test_an_answer_stands_below_the_request_that_it_is_of(page: Page) -> None:
    await ask(page, "say first", metadata={"n": "1"})
    await expect(answer(page)).to_contain_text('"first"')
    await page.get_by_role("link", name="GET /models", exact=True).click()
    await expect(answer(page)).to_be_hidden()
    await page.get_by_role("button", name="Test request").click()
    await expect(answer(page)).to_contain_text('"scripted"')
    await page.go_back()
    await expect(answer(page)).to_contain_text('"first"')
    await expect(body(page)).to_have_value(re.compile('"say first"'))
    await answer(page).get_by_role("button", name="Close the answer").click()
    await page.go_forward()
    await expect(answer(page)).to_contain_text('"scripted"')
    await page.go_back()
    await expect(answer(page)).to_be_hidden()


async def ask(page: Page, text: str, **more: object) -> None:
    await write(page, json.dumps({"model": "scripted", "input": text, **more}, indent=2))
    await page.get_by_role("button", name="Test request").click()


def events(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Events").get_by_role("option")


def growing(page: Page) -> Locator:
    return page.get_by_role("region", name="The response so far")


async def test_a_background_stream_is_left_and_read_again_from_a_number(page: Page, url: str) -> None:
    await ask(page, "stall", stream=True, background=True)
    await expect(events(page).filter(has_text="output_text.delta")).to_be_visible()
    await page.get_by_role("button", name="Stop").click()
    await expect(answer(page)).to_contain_text("stopped")
    await page.get_by_label("Number of the last event that was seen").fill("3")
    async with page.expect_request("**/v1/responses/*?stream=true&starting_after=3"):
        await page.get_by_role("button", name="Reconnect from").click()
    await expect(growing(page)).to_contain_text("stalling")
    async with httpx.AsyncClient(base_url=url) as client:
        await client.post(f"/v1/responses/{await growing(page).locator('code').inner_text()}/cancel")
    await expect(growing(page)).to_contain_text("cancelled")
    numbers = await page.locator(".event .number").all_inner_texts()
    assert numbers == [str(number) for number in range(len(numbers))]
    assert len(numbers) > 6


async def test_ten_thousand_events_are_a_list_of_few_rows(page: Page) -> None:
    await ask(page, "long 10000", stream=True)
    await expect(growing(page)).to_contain_text("completed")
    rows = page.get_by_role("listbox", name="Events")
    await rows.press("Home")
    await expect(events(page).first).to_have_attribute("aria-posinset", "1")
    await rows.press("End")
    await expect(events(page).last).to_contain_text("completed")
    assert int(await events(page).last.get_attribute("aria-posinset") or 0) > 10_000
    assert await events(page).count() < 100


# -- keys, and what must hold for everybody


async def test_a_key_is_asked_for_once_kept_and_forgotten(browser: Browser, tmp_path: Path) -> None:
    guarded = changed(settings(tmp_path / "test.db"), auth={"keys": (StaticKey(key=KEY),)})
    async with serve(guarded) as address:
        url = address.removesuffix("/v1")
        context = await browser.new_context(base_url=url)
        seen = watch(context, urlsplit(url).netloc, expected=("401 (Unauthorized)",))
        page = await context.new_page()
        await page.goto("/")
        entry = page.get_by_role("dialog", name="API key")
        await entry.get_by_label("Key", exact=True).fill("sk-wrong")
        await page.keyboard.press("Enter")
        await expect(entry).to_contain_text("does not take this key")
        await entry.get_by_label("Key", exact=True).fill(KEY)
        await page.keyboard.press("Enter")
        await ask(page, "say hello")
        await expect(answer(page).get_by_role("region", name="Body")).to_contain_text("completed")
        await page.reload()
        await expect(page.get_by_role("combobox", name="Model")).to_have_value("scripted")
        await page.get_by_role("button", name="Forget the API key").click()
        assert await page.evaluate("localStorage.getItem('antiphon.key')") is None
        await context.close()
    assert seen == []


async def test_what_is_refused_late_is_asked_for_again_with_the_key_that_was_entered_meanwhile(
    browser: Browser, tmp_path: Path
) -> None:
    guarded = changed(settings(tmp_path / "test.db"), auth={"keys": (StaticKey(key=KEY),)})
    entered = asyncio.Event()

    async def late(route: Route) -> None:
        await entered.wait()
        await route.continue_()

    def is_late(response: Response) -> bool:
        return response.url.endswith("/v1/models") and response.status == 401

    async with serve(guarded) as address:
        context = await browser.new_context(base_url=address.removesuffix("/v1"))
        page = await context.new_page()
        await page.route("**/v1/models", late)
        await page.goto("/#/responses")
        entry = page.get_by_role("dialog", name="API key")
        await entry.get_by_label("Key", exact=True).fill(KEY)
        await page.keyboard.press("Enter")
        await expect(entry).to_have_count(0)
        async with page.expect_response(is_late) as refused:
            entered.set()
        await (await refused.value).finished()
        await page.get_by_role("button", name="Forget the API key").click()  # no dialog is in the way
        await context.close()


async def test_with_a_key_the_explorer_forgets_what_was_made_with_it(browser: Browser, tmp_path: Path) -> None:
    guarded = changed(settings(tmp_path / "test.db"), auth={"keys": (StaticKey(key=KEY),)})
    async with serve(guarded) as address:
        context = await browser.new_context(base_url=address.removesuffix("/v1"))
        page = await context.new_page()
        await page.goto("/")
        entry = page.get_by_role("dialog", name="API key").get_by_label("Key", exact=True)
        await entry.fill(KEY)
        await page.keyboard.press("Enter")
        await ask(page, "say hello")
        await expect(answer(page).get_by_role("region", name="Body")).to_contain_text("completed")
        await run_command(page, "GET /responses/{response_id}")
        made = page.get_by_role("textbox", name="response_id")
        await expect(made).to_have_value(re.compile("resp_"))
        await page.get_by_role("button", name="Forget the API key").click()
        await expect(made).to_have_value("")
        await context.close()


async def test_who_gives_no_key_is_not_asked_again_and_with_another_key_sees_what_is_of_that(
    browser: Browser, tmp_path: Path
) -> None:
    keys = tuple(StaticKey(key=KEY + project, project=project) for project in ("shop", "bank"))
    async with serve(changed(settings(tmp_path / "test.db"), auth={"keys": keys})) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            for key in keys:
                asked = {"model": "scripted", "input": f"say all of the {key.project}"}
                await client.post("/responses", json=asked, headers={"authorization": f"Bearer {key.key}"})
        context = await browser.new_context(base_url=address.removesuffix("/v1"))
        page = await context.new_page()
        await page.clock.install()
        await page.goto("/#/responses")
        entry = page.get_by_role("dialog", name="API key")
        await entry.get_by_role("button", name="Not now").click()
        await expect(page.get_by_role("alert")).to_contain_text("API key")
        await page.clock.run_for(60_000)
        await expect(entry).to_be_hidden()
        await page.get_by_role("button", name="Enter an API key").click()
        for key in keys:
            await entry.get_by_label("Key", exact=True).fill(key.key)
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("option", name=f"all of the {key.project}")).to_have_count(1)
            await expect(page.get_by_role("listbox", name="Responses").get_by_role("option")).to_have_count(1)
            await page.get_by_role("button", name="Forget the API key").click()
            await expect(page.get_by_role("listbox", name="Responses")).to_be_hidden()
        await context.close()


@needs_modules
@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
async def test_nothing_keeps_people_out(page: Page, scheme: Literal["light", "dark"], width: int) -> None:
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 844})
    await page.evaluate((MODULES / "axe-core" / "axe.min.js").read_text("utf-8"))
    await ask(page, "think hmm | say hello | call f {}", stream=True, tools=[{"type": "function", "name": "f"}], x=1)
    await expect(growing(page)).to_contain_text("completed")
    await events(page).first.click()
    await page.get_by_role("tab", name="curl").click()
    assert await violations(page) == []
    await page.keyboard.press("Control+k")
    await expect(page.get_by_role("listbox", name="Found")).to_be_visible()
    assert await violations(page) == []


async def violations(page: Page) -> list[str]:
    """What axe finds of the serious kinds."""
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    grave = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {node['html']}" for one in grave for node in one["nodes"]]
