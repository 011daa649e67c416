"""The console's page of stored responses, in a real browser on a running server: found by their labels, opened, played
again, cancelled, deleted; thousands of them in one list."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import apsw
import httpx
import pytest
import pytest_asyncio
from msgspec.structs import replace
from playwright.async_api import Browser, Locator, Page, expect

from antiphon.stores.sqlite import SqliteStore
from antiphon.wire.events import ResponseCompleted
from antiphon.wire.items import InputText, Message, OutputText
from antiphon.wire.response import Response, Usage
from tests.conftest import WAIT_S, changed, serve
from tests.test_console import MODULES, needs_modules, settings, tab, violations
from tests.test_console import browser as browser  # a fixture
from tests.test_store_runs import NOW, SOON, B, begun, claimed, deltas, ended

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORED = 5_000
TOGETHER = 200
APPS = ("desk", "search", "batch", "desk & search")
T0 = int(time.time()) - 10 * STORED


def message(number: int, role: Literal["user", "assistant"], part: InputText | OutputText) -> Message:
    return Message(id=f"msg_{role}_{number}", status="completed", role=role, content=(part,))


async def put(store: SqliteStore, number: int) -> None:
    response = Response(
        id=f"resp_{number:05}",
        created_at=T0 + 10 * number,
        completed_at=T0 + 10 * number + 3,
        status="completed" if number % 10 else "failed",
        model="old" if number % 2 else "scripted",
        metadata={"app": APPS[number % len(APPS)], "number": str(number)},
        output=(message(number, "assistant", OutputText(text=f"answer {number}")),),
        usage=Usage(input_tokens=3, output_tokens=2, total_tokens=5),
    )
    await store.save("default", response, (message(number, "user", InputText(text=f"question {number}")),), ())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server for all tests, without /v1, with thousands of responses of the last hours."""
    chosen = settings(tmp_path_factory.mktemp("store") / "test.db")
    store = SqliteStore(chosen.storage, chosen.limits)
    for begin in range(0, STORED, TOGETHER):
        await asyncio.gather(*(put(store, number) for number in range(begin, begin + TOGETHER)))
    await store.close()
    async with serve(chosen) as address:
        yield address.removesuffix("/v1")


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, url: str) -> AsyncIterator[Page]:
    async with tab(browser, url) as opened:
        yield opened


async def create(url: str, **body: object) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as client:
        answer = await client.post("/v1/responses", json={"model": "scripted", **body})
        assert answer.status_code == 200, answer.text
        if not body.get("stream"):
            return dict(answer.json())
        last = next(line for line in reversed(answer.text.splitlines()) if line.startswith("data: {"))
        return dict(json.loads(last.removeprefix("data: "))["response"])


def rows(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Responses").get_by_role("option")


def contents(path: Path) -> str:
    return path.read_text("utf-8")


async def times(page: Page) -> list[str]:
    """Of the events that are shown, in order."""
    return await detail(page).get_by_role("listbox", name="Events").locator(".at").all_inner_texts()


def detail(page: Page) -> Locator:
    return page.get_by_role("region", name="The response", exact=True)


async def test_they_are_filtered_by_labels_and_the_address_keeps_it(page: Page) -> None:
    await page.goto("/#/responses")
    await expect(rows(page).first).to_contain_text("question")
    await page.get_by_label("Metadata key").fill("app")
    await page.get_by_label("Metadata value").fill("desk & search")
    await page.keyboard.press("Enter")
    await expect(rows(page).first).to_contain_text("question 4999")
    await expect(rows(page).nth(1)).to_contain_text("answer 4995")
    await page.get_by_label("Metadata key").fill("number")
    await page.get_by_label("Metadata value").fill("4003")
    await page.get_by_role("button", name="Add the metadata filter").click()
    await expect(rows(page)).to_have_count(1)
    await page.reload()
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page)).to_contain_text("answer 4003")
    await page.go_back()
    await expect(rows(page).nth(1)).to_contain_text("answer 4995")
    await page.get_by_role("button", name="Remove the filter app = desk & search").click()
    await expect(rows(page).nth(1)).not_to_contain_text("answer 4995")


async def test_they_are_filtered_by_status_model_and_time(page: Page) -> None:
    await page.goto(f"/#/responses?created_before={T0 + 10 * 100}")
    await expect(rows(page).first).to_contain_text("answer 99")
    await page.get_by_label("Model").select_option("scripted")
    await expect(rows(page).first).to_contain_text("answer 98")
    await page.get_by_label("Status").select_option("failed")
    await expect(rows(page).first).to_contain_text("answer 90")
    await expect(rows(page)).to_have_count(10)
    await page.get_by_label("Time").select_option("Last hour")
    await expect(rows(page).first).to_contain_text("answer 4990")
    await page.get_by_role("button", name="Clear").click()
    await expect(page.get_by_label("Status")).to_have_value("")


async def test_five_thousand_are_one_list_of_few_rows(page: Page) -> None:
    await page.goto(f"/#/responses?created_before={T0 + 10 * STORED}")
    await expect(rows(page).first).to_contain_text("answer 4999")
    await page.keyboard.press("j")
    await page.keyboard.press("End")
    await expect(rows(page).last).to_contain_text("question 0")
    await expect(rows(page).last).to_have_attribute("aria-posinset", str(STORED))
    assert await rows(page).count() < 60
    await page.keyboard.press("Enter")
    await expect(rows(page).and_(page.locator("[aria-selected=true]"))).to_be_in_viewport()
    await page.keyboard.press("Escape")
    await page.keyboard.press("Home")
    await expect(rows(page).first).to_contain_text("answer 4999")


async def test_keys_walk_through_the_list_open_and_go_back(page: Page) -> None:
    await page.goto(f"/#/responses?created_before={T0 + 10 * STORED}")
    await expect(rows(page).first).to_contain_text("answer 4999")
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(detail(page)).to_contain_text("question 4998")
    await page.keyboard.press("j")
    await expect(detail(page)).to_contain_text("question 4997")
    await page.keyboard.press("Escape")
    await expect(detail(page)).to_be_hidden()
    await expect(rows(page).and_(page.locator("[aria-selected=true]"))).to_contain_text("question 4997")


async def test_one_is_read_with_its_calls_and_within_its_tree(page: Page, url: str) -> None:
    tools = [{"type": "function", "name": "weather"}]
    first = await create(url, input='think hmm | call weather {"city": "Ghent"}', tools=tools, metadata={"trip": "1"})
    answer = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": '{"celsius": 11}'}
    second = await create(url, input=[answer], previous_response_id=first["id"], instructions="Be brief.")
    forks = [await create(url, input=f"say fork {n}", previous_response_id=second["id"]) for n in (1, 2)]
    await page.goto(f"/#/responses/{second['id']}")
    await expect(detail(page).get_by_role("region", name="Input")).to_contain_text('"city": "Ghent"')
    await expect(detail(page).get_by_role("region", name="Input")).to_contain_text('"celsius": 11')
    await expect(detail(page).get_by_role("region", name="Output")).to_contain_text("got: ")
    await detail(page).get_by_text("Earlier in the chain").click()
    await expect(detail(page)).to_contain_text("Reasoning")
    links = detail(page).get_by_role("list", name="Tree").get_by_role("link")
    await expect(links).to_have_count(4)
    await expect(links.nth(1)).to_have_attribute("aria-current", "true")
    await expect(links.nth(1)).to_contain_text("2 forks")
    await expect(links.nth(3)).to_contain_text("say fork 2")
    await links.nth(3).click()
    await expect(detail(page).get_by_role("heading", level=2)).to_have_text(forks[1]["id"])
    async with page.expect_download() as started:
        await detail(page).get_by_role("button", name="JSON", exact=True).click()
    saved = json.loads(contents(await (await started.value).path()))
    assert (saved["response"], len(saved["input_items"])) == (forks[1], 6)


async def test_of_what_goes_on_from_one_the_newest_are_in_its_tree_and_all_in_the_list(page: Page, url: str) -> None:
    root = await create(url, input="say root")
    await asyncio.gather(*(create(url, input=f"say {n}", previous_response_id=root["id"]) for n in range(22)))
    await page.goto(f"/#/responses/{root['id']}")
    tree = detail(page).get_by_role("list", name="Tree")
    await expect(tree.get_by_role("listitem")).to_have_count(21)
    await expect(tree.get_by_role("listitem").first).to_contain_text("20+ forks")
    await tree.get_by_role("link", name="All that goes on from it").click()
    count = page.get_by_role("region", name="Stored responses").get_by_role("status")
    await expect(count).to_have_text("22")
    await expect(tree.get_by_role("listitem")).to_have_count(21)
    await page.get_by_role("button", name=f"Remove the filter: goes on from {root['id']}").click()
    await expect(count).to_have_text("100 so far")


async def test_a_tree_stands_around_what_was_deleted_and_grows_when_it_is_asked_to(browser: Browser, url: str) -> None:
    first = await create(url, input="say first")
    other = await create(url, input="say other", previous_response_id=first["id"])
    line = [await create(url, input="say 0", previous_response_id=first["id"])]
    for number in range(1, 70):
        line.append(await create(url, input=f"say {number}", previous_response_id=line[-1]["id"]))
    async with httpx.AsyncClient() as client:
        assert (await client.delete(f"{url}/v1/responses/{first['id']}")).is_success
    page = await browser.new_page(base_url=url)
    await page.goto(f"/#/responses/{other['id']}")
    tree = detail(page).get_by_role("list", name="Tree")
    await expect(tree.get_by_role("listitem").first).to_have_text("deleted")
    await detail(page).get_by_role("button", name="Show more").click()
    await expect(tree.get_by_role("listitem")).to_have_count(72)
    await expect(detail(page).get_by_role("button", name="Show more")).to_be_hidden()
    await page.close()


async def test_one_is_deleted_once_that_is_confirmed_and_what_is_new_comes_by_itself(page: Page, url: str) -> None:
    made = await create(url, input="say goodbye", metadata={"fate": "deleted"})
    await page.goto(f"/#/responses/{made['id']}?metadata[fate]=deleted")
    await detail(page).get_by_role("tab", name="Events").click()
    await expect(detail(page)).to_contain_text("not created with background=true")
    await detail(page).get_by_role("tab", name="Items").click()
    await detail(page).get_by_role("button", name="Delete", exact=True).click()
    await page.keyboard.press("Escape")
    await expect(detail(page)).to_contain_text("goodbye")
    await detail(page).get_by_role("button", name="Delete", exact=True).click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    await expect(detail(page)).to_be_hidden()
    await expect(page.get_by_text("No stored response is like that.")).to_be_visible()
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get(f"/v1/responses/{made['id']}")).status_code == 404
    await create(url, input="say hello again", metadata={"fate": "deleted"})
    await expect(rows(page)).to_contain_text("hello again")


async def test_what_somebody_else_has_deleted_meanwhile_is_as_good_as_deleted(browser: Browser, url: str) -> None:
    made = await create(url, input="say goodbye")
    async with tab(browser, url, "404 (Not Found)") as page:
        await page.goto(f"/#/responses/{made['id']}")
        await expect(detail(page)).to_contain_text("goodbye")
        async with httpx.AsyncClient(base_url=url) as client:
            await client.delete(f"/v1/responses/{made['id']}")
        await detail(page).get_by_role("button", name="Delete", exact=True).click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
        await expect(page.get_by_text("The response is deleted.")).to_be_visible()
        await expect(detail(page)).to_be_hidden()


async def test_one_that_is_being_made_is_followed_and_cancelled(page: Page, url: str) -> None:
    body = {
        "model": "scripted",
        "input": "stall",
        "background": True,
        "stream": True,
        "metadata": {"fate": "cancelled"},
    }
    async with httpx.AsyncClient(base_url=url) as client, client.stream("POST", "/v1/responses", json=body) as answer:
        await anext(answer.aiter_lines())
    await page.goto("/#/responses?metadata[fate]=cancelled")
    await rows(page).first.click()
    await expect(detail(page).get_by_role("region", name="Output")).to_contain_text("stalling")
    await detail(page).get_by_role("tab", name="Events").click()
    await expect(detail(page)).to_contain_text("Reading along")
    await detail(page).get_by_role("button", name="Cancel", exact=True).click()
    await expect(detail(page).get_by_role("region", name="The response so far")).to_contain_text("cancelled")
    await expect(detail(page)).to_contain_text("Times are those at which they were written.")
    await expect(detail(page).get_by_role("button", name="Cancel", exact=True)).to_be_hidden()
    await expect(rows(page).first).to_contain_text("cancelled")
    async with httpx.AsyncClient(base_url=url) as client:
        listed = (await client.get("/v1/responses?metadata[fate]=cancelled")).json()["data"]
    assert [one["status"] for one in listed] == ["cancelled"]


async def test_one_is_followed_on_after_a_proxy_refused_to_ask(browser: Browser, url: str) -> None:
    made = await create(url, input="stall", background=True)
    async with tab(browser, url, "429 (Too Many Requests)") as page:
        await page.goto(f"/#/responses/{made['id']}")
        await expect(detail(page).get_by_role("region", name="Output")).to_contain_text("stalling")
        async with page.expect_response(lambda answer: answer.status == 429):
            await page.route(f"**/v1/responses/{made['id']}?*", lambda route: route.fulfill(status=429))
        await page.unroute_all()
        async with httpx.AsyncClient(base_url=url) as client:
            await client.post(f"/v1/responses/{made['id']}/cancel")
        await expect(detail(page)).to_contain_text("cancelled")


async def test_a_stream_is_played_again(page: Page, url: str) -> None:
    made = await create(url, input="think hmm | pace 20 | say one two three", background=True, stream=True)
    await page.goto(f"/#/responses/{made['id']}")
    await detail(page).get_by_role("tab", name="Events").click()
    growing = detail(page).get_by_role("region", name="The response so far")
    await expect(growing).to_contain_text("one two three")
    await expect(detail(page).get_by_label("Time", exact=True)).to_be_enabled()
    await detail(page).get_by_label("Time", exact=True).press("Home")
    await expect(growing).not_to_contain_text("one")
    await detail(page).get_by_label("Speed").select_option("16×")
    await detail(page).get_by_role("button", name="Replay").click()
    await expect(growing).to_contain_text("one two three")
    await expect(growing).to_contain_text("completed")
    await expect(detail(page).get_by_role("button", name="Replay")).to_be_visible()


async def test_events_stand_at_the_times_at_which_they_were_written(page: Page, url: str) -> None:
    made = await create(url, input="say one | pace 40 | say two three", background=True, stream=True)
    async with httpx.AsyncClient(base_url=url) as client:
        written = (await client.get(f"/antiphon/responses/{made['id']}/times")).json()["data"]
    await page.goto(f"/#/responses/{made['id']}")
    await detail(page).get_by_role("tab", name="Events").click()
    await expect(detail(page)).to_contain_text("Times are those at which they were written.")
    shown = await times(page)
    numbers = [number for number, _ in written]
    begins = [max(begin for begin in numbers if begin <= number) for number in range(len(shown))]
    assert len({ms for _, ms in written}) > 2
    assert shown == [f"{dict(written)[begin] - written[0][1]} ms" for begin in begins]


@pytest.mark.parametrize(
    ("written_at", "said", "shown_ms"),
    [
        ("NULL WHERE attempt = 2", "wrote 3 of them without times", [0, 0, 1000, 1000, 2000, 3000, 4000, 5000]),
        ("NULL", "wrote them without times: they are spread evenly over the 14 s", [0, 2000, 4000, 6000, 8000]),
        ("written_at - 1500 WHERE attempt = 2", "at which they were", [0, 0, 1000, 1000, 1000, 1000, 1000, 5000]),
    ],
    ids=["some written by the version before", "all written by the version before", "a clock that is slow"],
)
async def test_events_are_in_order_whoever_wrote_them_and_by_whatever_clock(
    browser: Browser, tmp_path: Path, written_at: str, said: str, shown_ms: list[int]
) -> None:
    chosen = changed(settings(tmp_path / "test.db"), retention={"background_events_hours": 0})
    await put_in_three_attempts(SqliteStore(chosen.storage, chosen.limits))
    with closing(apsw.Connection(chosen.storage.database)) as connection:
        connection.execute(f"UPDATE response_events SET written_at = {written_at}")  # noqa: S608 - constants only
    async with serve(chosen) as address:
        page = await browser.new_page(base_url=address.removesuffix("/v1"), viewport={"width": 1440, "height": 900})
        await page.goto("/#/responses/resp_x")
        await detail(page).get_by_role("tab", name="Events").click()
        await expect(detail(page)).to_contain_text(said)
        assert (await times(page))[: len(shown_ms)] == [f"{ms} ms" for ms in shown_ms]
        await page.close()


async def put_in_three_attempts(store: SqliteStore) -> None:
    """The first two write together, a second each; the last one ends it after five."""
    ticket = await begun(store, project="default")
    assert await store.runs.append(ticket, deltas(2, 3), NOW + 1000, SOON)
    for attempt, numbers in ((2, (4, 5, 6)), (3, ())):
        (taken,) = await claimed(store, B, now_ms=SOON * attempt)
        ticket = taken.ticket
        assert not numbers or await store.runs.append(ticket, deltas(*numbers), NOW + 2000, SOON)
    response = replace(ended(), completed_at=ended().created_at + 14)
    assert await store.runs.finish(ticket, response, [ResponseCompleted(7, response)], NOW + 5000)
    await store.close()


async def test_a_stream_whose_events_are_gone_says_why(browser: Browser, tmp_path: Path) -> None:
    chosen = settings(tmp_path / "test.db")
    async with serve(chosen) as address:
        made = await create(address.removesuffix("/v1"), input="say hello", background=True, stream=True)
    store = SqliteStore(chosen.storage, chosen.limits)
    await store.retention.prune_events(made["created_at"] + 60, made["created_at"], 100)
    await store.close()
    async with serve(chosen) as address:
        page = await browser.new_page(base_url=address.removesuffix("/v1"), viewport={"width": 390, "height": 844})
        await page.goto(f"/#/responses/{made['id']}")
        await detail(page).get_by_role("tab", name="Events").click()
        await expect(detail(page)).to_contain_text("its events are kept for a while only")
        await page.get_by_role("button", name="Responses").click()
        await expect(rows(page)).to_contain_text("hello")
        await page.close()


@needs_modules
@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
async def test_nothing_keeps_people_out(page: Page, url: str, scheme: Literal["light", "dark"], width: int) -> None:
    made = await create(
        url,
        input='think hmm | call shout {"text": "x"} => say done',
        tools=[{"type": "antiphon:scripted", "name": "shout"}],
        metadata={"app": "desk"},
        background=True,
        stream=True,
    )
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 844})
    await page.goto("/#/responses?metadata[app]=desk")
    await page.evaluate(contents(MODULES / "axe-core" / "axe.min.js"))
    await expect(rows(page).first).to_contain_text("done")
    if width < 1000:
        assert await violations(page) == []
    await rows(page).first.click()
    await expect(detail(page).get_by_role("heading", level=2)).to_have_text(made["id"])
    await expect(detail(page).get_by_role("region", name="Output")).to_contain_text("done")
    assert await violations(page) == []
    if width > 1000:
        await detail(page).get_by_role("tab", name="Events").click()
        await expect(detail(page)).to_contain_text("at which they were written")
        assert await violations(page) == []
