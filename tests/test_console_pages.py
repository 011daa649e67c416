"""The console's pages beside the explorer, in a real browser: what they show of what is known to be stored, and what is
made, changed and deleted by them.
"""

import asyncio
import re
import struct
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import pytest
import pytest_asyncio
from playwright.async_api import Browser, FilePayload, Locator, Page, Route, expect

from antiphon import stores
from antiphon.config import ChatUpstream, Settings
from antiphon.core.rollups import Rollup, Tally, class_of
from antiphon.wire.conversation import Conversation
from tests.conftest import changed, serve
from tests.test_console import MODULES, browser, needs_modules, settings, tab, violations

__all__ = ["browser"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

MINUTES = 4
"""In which as much happened, one after the other, a quarter of an hour ago."""
FIRST_S, WHOLE_S = 0.3, 3.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """With an upstream that is not there."""
    known = settings(tmp_path_factory.mktemp("pages") / "test.db")
    return msgspec.structs.replace(known, models=(*known.models, ChatUpstream(url="http://127.0.0.1:9/v1")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(served: Settings, began: int) -> AsyncIterator[str]:
    async with serve(served) as address:
        await count(served, began)
        yield address.removesuffix("/v1")


@pytest.fixture(scope="module")
def began() -> int:
    """The first minute in which something was counted."""
    return int(time.time()) // 60 * 60 - 900


async def count(served: Settings, minute: int) -> None:
    """Writes down what happened in some minutes."""
    store = stores.build(served.storage, served.limits)
    await store.rollups.write([one for at in range(MINUTES) for one in happened(minute + 60 * at)])
    await store.close()


def happened(minute: int) -> list[Rollup]:
    large = Tally(
        endings={"completed": 3, "failed": 1},
        errors={"server_error": 1},
        input_tokens=900,
        cached_tokens=450,
        output_tokens=100,
    )
    large.durations[class_of(WHOLE_S)] = large.first_tokens[class_of(FIRST_S)] = 3
    small = Tally(endings={"completed": 2}, input_tokens=50, output_tokens=10)
    return [
        Rollup(minute=minute, process="p", project="default", model="large", tally=large),
        Rollup(minute=minute, process="p", project="default", model="small", tally=small),
        Rollup(minute=minute, process="p", project="", model="", tally=Tally(running_max=5, waiting_max=2)),
    ]


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, url: str) -> AsyncIterator[Page]:
    async with tab(browser, url) as one:
        yield one


async def opened(page: Page, place: str) -> None:
    await page.goto(f"/#/{place}")


def legend(page: Page, chart: str) -> Locator:
    return page.get_by_role("figure", name=chart).get_by_role("listitem")


def figure(page: Page, title: str) -> Locator:
    return page.locator(".figures div").filter(has=page.get_by_text(title, exact=True))


# -- the overview


async def test_what_was_counted_is_shown_in_figures_and_charts(page: Page) -> None:
    await opened(page, "overview/1h")

    await expect(figure(page, "Requests")).to_contain_text("24")
    await expect(figure(page, "Requests")).to_contain_text("83.3% completed")
    await expect(figure(page, "Tokens")).to_contain_text("4,240")
    await expect(figure(page, "First token")).to_contain_text("350 ms")  # the middle of its class, 200 to 500 ms
    await expect(figure(page, "Errors")).to_contain_text("16.7% of requests")
    await expect(figure(page, "Running")).to_contain_text("2 waited")
    await expect(legend(page, "Requests")).to_have_text(["large 16", "small 8"])
    await expect(legend(page, "Tokens")).to_have_text(["input 3,800", "output 440"])
    await expect(legend(page, "Time to first token")).to_have_text(["p50 350 ms", re.compile(r"p95 4\d\d ms")])
    await expect(legend(page, "Errors")).to_have_text(["server_error 4"])
    await expect(legend(page, "Running and waiting")).to_have_text(["running 5", "waiting 2"])
    await expect(page.get_by_role("img", name="Requests, 1 hour: large 16, small 8")).to_be_visible()


async def test_a_chart_is_drawn_and_its_legend_follows_the_pointer(page: Page, began: int) -> None:
    await opened(page, "overview/1h")
    await expect(legend(page, "Requests")).to_have_text(["large 16", "small 8"])
    plot = page.get_by_role("figure", name="Requests").locator(".u-over")
    box = await plot.bounding_box()
    assert box is not None
    end = (int(time.time()) // 60 + 1) * 60
    share = 1 - (end - began - 120) / 3600  # in the middle of them, even when a minute ends meanwhile
    await plot.hover(position={"x": share * box["width"] + 2, "y": box["height"] / 2})

    await expect(legend(page, "Requests")).to_have_text(["large 4", "small 2"])
    await expect(legend(page, "Running and waiting")).to_have_text(["running 5", "waiting 2"])
    colours = await page.get_by_role("figure", name="Requests").locator("canvas").evaluate(DRAWN)
    assert len(colours) >= 2


DRAWN = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const seen = {};
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255) {
    const colour = data.slice(at, at + 3).join();
    seen[colour] = (seen[colour] ?? 0) + 1;
  }
  return Object.keys(seen).filter(colour => seen[colour] > 200);
}"""
"""The colours that fill something."""


async def test_a_chart_is_a_table_too_and_one_model_can_be_chosen(page: Page) -> None:
    await opened(page, "overview/6h")
    await page.get_by_role("button", name="Requests as a table").click()
    table = page.get_by_role("region", name="Requests, as a table")
    rows = await table.locator("tbody tr").evaluate_all(
        "all => all.map(row => [...row.cells].slice(1).map(one => one.innerText))"
    )
    assert sum(int(large) for large, _ in rows) == 16
    assert sum(int(small) for _, small in rows) == 8

    await page.get_by_role("combobox", name="Model").select_option("small")
    await expect(figure(page, "Requests")).to_contain_text("8100% completed")
    await expect(figure(page, "Errors")).to_contain_text("0% of requests")
    await expect(page.get_by_role("figure", name="Errors")).to_contain_text("None in this time")
    await expect(page.get_by_role("link", name="6h")).to_have_attribute("href", "#/overview/6h/small")
    await expect(page.get_by_role("region", name="By model")).to_contain_text("50%")  # of large, from the cache


async def test_it_looks_again_every_few_seconds_while_it_is_seen(page: Page, served: Settings, began: int) -> None:
    await page.clock.install()
    await opened(page, "overview/24h")
    await expect(figure(page, "Requests")).to_contain_text("24")
    await count(served, began - 7200)
    await page.clock.run_for(6_000)
    await expect(figure(page, "Requests")).to_contain_text("48")


async def test_an_ill_upstream_says_what_to_do(page: Page) -> None:
    await opened(page, "overview")
    health = page.get_by_role("region", name="Health")
    await expect(health).to_contain_text("1 of 3 ill")
    await expect(health.get_by_role("listitem").first).to_contain_text("http://127.0.0.1:9/v1")
    await expect(health.get_by_role("listitem").first).to_contain_text("What to do Start that server")


# -- conversations


async def test_a_conversation_is_made_read_changed_and_deleted(page: Page, url: str) -> None:
    await opened(page, "conversations")
    await page.get_by_role("link", name="New").click()
    await page.get_by_label("Value 1").fill("invoices")
    await page.get_by_label("First message").fill("Where is mine?")
    await page.get_by_role("button", name="Create").click()
    conversation = page.get_by_role("region", name="What is chosen")
    await expect(conversation.get_by_role("listitem")).to_contain_text("Where is mine?")
    await expect(page.get_by_role("option", name="topic=invoices")).to_have_attribute("aria-selected", "true")

    await conversation.get_by_label("Role").select_option("assistant")
    await conversation.get_by_label("Message").fill("Here it is.")
    await conversation.get_by_role("button", name="Add", exact=True).click()
    await expect(conversation.get_by_role("listitem")).to_have_count(2)
    await conversation.get_by_label("Value 1").fill("letters")
    await conversation.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("option", name="topic=letters")).to_be_visible()
    await conversation.get_by_role("button", name="Delete this item").first.click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    await expect(conversation.get_by_role("listitem")).to_have_count(1)
    await expect(conversation.get_by_role("listitem")).to_have_text(re.compile("assistant.*Here it is."))
    await conversation.get_by_role("button", name="JSON").click()
    await expect(conversation.get_by_role("region", name="The item as JSON")).to_contain_text('"role": "assistant"')

    path = f"/v1/conversations/{page.url.rpartition('/')[2]}"
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get(path)).json()["metadata"] == {"topic": "letters"}
        items = (await client.get(f"{path}/items")).json()["data"]
        assert [item["content"][0]["text"] for item in items] == ["Here it is."]
        await conversation.get_by_role("button", name="Delete", exact=True).click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
        await expect(page.get_by_role("option", name="topic=letters")).to_be_hidden()
        assert (await client.get(path)).status_code == 404


async def test_conversations_are_listed_newest_first_found_by_metadata_and_read_on(
    page: Page, served: Settings
) -> None:
    store = stores.build(served.storage, served.limits)
    now = int(time.time())
    for number in range(105):
        made = Conversation(id=f"conv_{number}", created_at=now, metadata={"number": f"n{number}"})
        await store.conversations.add("default", made, [])
    await store.close()
    await opened(page, "conversations")
    options = page.get_by_role("listbox", name="Conversations").get_by_role("option")
    await expect(options.first).to_contain_text("number=n104")
    await page.get_by_role("button", name="Older ones").click()
    await expect(page.get_by_role("button", name="Older ones")).to_be_hidden()
    await page.get_by_role("searchbox").fill("n3")
    await expect(options).to_have_count(11)
    await page.get_by_role("searchbox").fill("=n31")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("region", name="What is chosen").get_by_label("Value 1")).to_have_value("n31")


# -- files


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x40\x60\xc0" * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


async def test_a_picture_is_stored_previewed_downloaded_and_deleted(page: Page) -> None:
    await opened(page, "files")
    picture = png(60, 40)
    chosen: FilePayload = {"name": "sky.png", "mimeType": "image/png", "buffer": picture}
    await page.get_by_label("Files to store").set_input_files(chosen)
    form = page.get_by_role("form", name="Store files")
    await form.get_by_label("Purpose").select_option("vision")
    await form.get_by_label("Kept").select_option("for a day")
    await form.get_by_role("button", name="Store it").click()

    detail = page.get_by_role("region", name="What is chosen")
    image = detail.get_by_role("img", name="What sky.png shows")
    await expect(image).to_have_js_property("naturalWidth", 60)
    await expect(detail).to_contain_text("in 24 hours")
    async with page.expect_download() as download:
        await detail.get_by_role("link", name="Download").click()
    saved = await download.value
    assert saved.suggested_filename == "sky.png"
    assert await asyncio.to_thread((await saved.path()).read_bytes) == picture
    await page.get_by_role("combobox", name="Purpose").select_option("batch")
    await expect(page.get_by_text("No files of this purpose")).to_be_visible()
    await page.get_by_role("combobox", name="Purpose").select_option("vision")
    await expect(page.get_by_role("option", name="sky.png")).to_be_visible()
    await detail.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    await expect(page.get_by_role("option", name="sky.png")).to_be_hidden()


async def test_what_is_dropped_is_stored_and_its_text_shown(page: Page) -> None:
    await opened(page, "files")
    dropped = await page.evaluate_handle("""() => {
        const held = new DataTransfer();
        held.items.add(new File(["name,price\\nA,1\\n"], "prices.csv"));
        held.items.add(new File([], "empty.txt"));
        return held;
    }""")
    await page.locator(".page").dispatch_event("drop", {"dataTransfer": dropped})
    form = page.get_by_role("form", name="Store files")
    await form.get_by_role("button", name="Store these 2").click()
    await page.get_by_role("option", name="empty.txt").click()
    await expect(page.get_by_role("region", name="Preview")).to_contain_text("It is empty")
    await page.get_by_role("option", name="prices.csv").click()
    await expect(page.get_by_role("region", name="Preview")).to_contain_text("name,price")


# -- keys


async def test_a_key_is_made_used_and_revoked(browser: Browser, tmp_path: Path) -> None:
    async with (
        serve(settings(tmp_path / "test.db")) as address,
        tab(browser, url := address.removesuffix("/v1"), "401 (Unauthorized)") as page,
    ):
        await opened(page, "keys")
        await expect(page.get_by_text("every request needs one")).to_be_visible()
        first = await made(page, "laptop")
        await expect(page.get_by_text("This console keeps this one")).to_be_visible()
        await expect(page.get_by_text("every request needs one")).to_be_hidden()
        assert [await asked(url), await asked(url, first)] == [401, 200]
        second = await made(page, "crawler")
        await page.reload()
        await expect(page.get_by_role("listitem").filter(has_text="laptop")).to_contain_text("this console's")
        assert second not in await page.content()

        await page.get_by_role("button", name="Revoke laptop").click()
        await expect(page.get_by_role("dialog")).to_contain_text("that this console itself uses")
        await page.get_by_role("dialog").get_by_role("button", name="Revoke it").click()
        entry = page.get_by_role("dialog", name="API key")
        await entry.get_by_label("Key", exact=True).fill(second)
        await page.keyboard.press("Enter")
        left = page.get_by_role("region", name="All keys").get_by_role("listitem")
        await expect(left).to_have_count(1)
        await expect(left).to_contain_text("crawler")
        assert [await asked(url, first), await asked(url, second)] == [401, 200]


async def test_a_key_is_called_revoked_only_where_it_is_gone(browser: Browser, tmp_path: Path) -> None:
    chosen = settings(tmp_path / "test.db")
    async with (
        serve(chosen) as address,
        serve(changed(chosen, auth={"manage_over_http": False})) as off,
        tab(browser, url := address.removesuffix("/v1"), "404 (Not Found)") as page,
    ):
        await opened(page, "keys")
        first = await made(page, "laptop")
        await made(page, "crawler")
        async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {first}"}) as client:
            ids = {one["name"]: one["id"] for one in (await client.get("/antiphon/keys")).json()["data"]}
            await client.delete(f"/antiphon/keys/{ids['crawler']}")
        await revoke(page, "crawler")
        await expect(page.get_by_text("The key is revoked.")).to_be_visible()
        await expect(page.get_by_role("region", name="All keys").get_by_role("listitem")).to_have_count(1)
        await page.reload()

        async def switched_off(route: Route) -> None:
            there = route.request.url.replace(url, off.removesuffix("/v1"))
            await route.fulfill(response=await route.fetch(url=there))

        await expect(page.get_by_role("region", name="All keys")).to_contain_text("laptop")
        await page.route("**/antiphon/keys**", switched_off)
        await revoke(page, "laptop")
        await expect(page.get_by_role("region", name="Switched off")).to_be_visible()
        await expect(page.get_by_text("The key is revoked.")).to_have_count(0)
        assert await page.evaluate("localStorage.getItem('antiphon.key')") == first
        assert await asked(url, first) == 200


async def revoke(page: Page, name: str) -> None:
    await page.get_by_role("button", name=f"Revoke {name}").click()
    await page.get_by_role("dialog").get_by_role("button", name="Revoke it").click()


async def made(page: Page, name: str) -> str:
    await page.get_by_label("Name").fill(name)
    await page.get_by_role("button", name="Create a key").click()
    shown = page.get_by_role("region", name="The new key")
    await expect(shown).to_contain_text(f"{name} is made")
    return await shown.locator("code").inner_text()


async def asked(url: str, key: str = "") -> int:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=url, headers=headers) as client:
        return (await client.get("/v1/models")).status_code


async def test_where_keys_are_switched_off_the_page_says_so(browser: Browser, tmp_path: Path) -> None:
    off = changed(settings(tmp_path / "test.db"), auth={"manage_over_http": False})
    async with serve(off) as address, tab(browser, address.removesuffix("/v1"), "404 (Not Found)") as page:
        await opened(page, "keys")
        await expect(page.get_by_role("region", name="Switched off")).to_contain_text("manage_over_http")
        await opened(page, "overview")
        first = page.get_by_role("region", name="The first request")
        await expect(first.locator("pre")).to_contain_text("/v1/responses")
        await expect(first.locator("pre")).to_contain_text('"model":"scripted"')
        await expect(page.get_by_role("region", name="Health")).to_contain_text("all well")


# -- what must hold for everybody


@needs_modules
@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
async def test_nothing_keeps_people_out(page: Page, url: str, scheme: Literal["light", "dark"], width: int) -> None:
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 844})
    async with httpx.AsyncClient(base_url=url) as client:
        items: list[Any] = [{"role": "user", "content": "hello"}]
        conversation = (await client.post("/v1/conversations", json={"items": items})).json()["id"]
        sent = {"file": ("a.txt", b"hello")}
        file = (await client.post("/v1/files", data={"purpose": "user_data"}, files=sent)).json()["id"]
    await page.goto("/#/keys")
    await page.evaluate((MODULES / "axe-core" / "axe.min.js").read_text("utf-8"))
    for place, there in (
        ("overview/1h", "large 16"),
        (f"conversations/{conversation}", "hello"),
        (f"files/{file}", "hello"),
        ("keys", "No keys yet"),
    ):
        await opened(page, place)
        await expect(page.get_by_role("main")).to_contain_text(there)
        assert await violations(page) == [], place
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
