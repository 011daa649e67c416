"""The console's playground in a real browser: a visitor talks with the scripted model, which says what it was told."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, FilePayload, Locator, Page, expect

from antiphon.config import StaticKey
from tests import test_console as console
from tests.clients.programs import needs_curl
from tests.conftest import WAIT_S, changed, serve
from tests.mcpserver import Remote

pytestmark = pytest.mark.asyncio(loop_scope="module")
browser = console.browser

RED_DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4"
    "//8/w38GIAXDIBKE0DHxgljNBAAO9TXL0Y4OHwAAAABJRU5ErkJggg=="
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def remote() -> AsyncIterator[Remote]:
    async with Remote().serving() as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server for all tests, without /v1, which may ask the MCP server."""
    settings = console.settings(tmp_path_factory.mktemp("store") / "test.db")
    async with serve(changed(settings, fetch={"allow": ("127.0.0.1",)})) as address:
        yield address.removesuffix("/v1")


@asynccontextmanager
async def visiting(browser: Browser, url: str, *expected: str) -> AsyncIterator[Page]:
    """The playground, just opened, in a browser that has kept nothing."""
    async with console.tab(browser, url, *expected) as opened:
        await opened.goto("/#/playground")
        await expect(opened.get_by_role("combobox", name="Model")).to_have_value("scripted")
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, url: str) -> AsyncIterator[Page]:
    async with visiting(browser, url) as opened:
        yield opened


async def say(page: Page, text: str) -> Locator:
    """Says it, waits for the end of the turn, and gives the turn."""
    await begin(page, text)
    return await ended(page)


async def begin(page: Page, text: str) -> None:
    await page.get_by_role("textbox", name="Message").fill(text)
    await page.keyboard.press("Enter")


async def ended(page: Page) -> Locator:
    await expect(page.locator("article[aria-busy=true]")).to_have_count(0)
    return turns(page).last


def turns(page: Page) -> Locator:
    return page.get_by_role("article", name="Turn")


async def test_a_turn_streams_while_other_pages_are_looked_at_and_says_what_it_took(page: Page) -> None:
    await begin(page, "think hmm | pace 40 | say one two three four five")
    await expect(turns(page).last).to_contain_text("one two")
    await page.get_by_role("link", name="Explorer").click()
    await expect(page.locator(".index")).to_be_visible()
    await page.get_by_role("link", name="Playground").click()
    turn = await ended(page)
    await expect(turn).to_contain_text("one two three four five")
    await expect(turn).to_contain_text(re.compile(r"\d+ in · 6 out"))
    await expect(turn).to_contain_text(re.compile(r"first [\d.]+ ms.* tokens/s"))
    await expect(turn.get_by_text("hmm", exact=True)).to_be_hidden()
    await turn.get_by_text("Reasoning").click()
    await expect(turn.get_by_text("hmm", exact=True)).to_be_visible()
    await turn.get_by_role("link", name="Open").click()
    await expect(page).to_have_url(re.compile("#/responses/resp_"))
    await expect(page.get_by_role("main")).to_contain_text("one two three four five")


async def test_escape_stops_a_turn_which_the_conversation_then_goes_on_from(page: Page) -> None:
    await begin(page, "say before | stall")
    await expect(turns(page).last).to_contain_text("stalling")
    await expect(page.get_by_role("button", name="Stop")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(turns(page).last).to_contain_text("cancelled")
    await expect(await say(page, "tell items.0.content.0.text")).to_contain_text('"say before | stall"')


async def test_a_turn_that_a_reload_cuts_off_is_not_lost(page: Page) -> None:
    await begin(page, "say before | stall")
    await expect(turns(page).last).to_contain_text("stalling")
    await page.reload()
    await expect(turns(page)).to_contain_text(["say before | stall"])
    await expect(turns(page).last).to_contain_text("cancelled")


async def test_the_setup_is_what_the_model_is_told_and_stays(page: Page) -> None:
    await page.get_by_label("Instructions").fill("Be brief.")
    await page.get_by_label("temperature").fill("0.5")
    await page.get_by_label("effort").select_option("high")
    await expect(await say(page, "tell instructions")).to_contain_text('"Be brief."')
    await expect(await say(page, "tell sampling.temperature")).to_contain_text("0.5")
    await page.reload()
    await expect(page.get_by_label("effort")).to_have_value("high")
    await expect(turns(page).last).to_contain_text("0.5")


async def test_a_function_is_called_and_a_form_asks_for_its_result(page: Page) -> None:
    await page.get_by_role("button", name="Function").click()
    await page.get_by_label("Name", exact=True).fill("look_up")
    turn = await say(page, 'call look_up {"city": "Ghent"} | call look_up {"city": "Bruges"}')
    await expect(turn.get_by_role("region", name="Input of look_up").last).to_have_text('{"city": "Bruges"}')
    results = page.get_by_role("textbox", name="Result of look_up")
    await expect(results.first).to_be_focused()
    await results.last.fill("12 degrees")
    await results.first.fill("11 degrees")
    await page.keyboard.press("Enter")
    await expect(turns(page)).to_have_count(2)
    await expect(await ended(page)).to_contain_text("got: 11 degrees, 12 degrees")
    await expect(results).to_have_count(0)


CALLS: dict[str, tuple[str, str, str, str]] = {
    "shell": ('{"commands": ["ls"]}', '"stdout": ""', '"stdout": "notes.txt"', "notes.txt"),
    "local_shell": ('{"command": ["ls"]}', '"output": ""', '"output": "notes.txt"', "got: notes.txt"),
    "apply_patch": (
        '{"operation": {"type": "delete_file", "path": "a"}}',
        '"status": "completed"',
        '"status": "failed"',
        "got: failed",
    ),
    "computer": (
        '{"actions": [{"type": "screenshot"}]}',
        '"image_url": "data:image/png;base64,',
        f'"image_url": "data:image/png;base64,{RED_DOT}',
        "[image]",
    ),
    "tool_search": (
        '{"query": "weather"}',
        '"tools": []',
        '"tools": [{"type": "function", "name": "weather", "parameters": {}, "defer_loading": true}]',
        "weather",
    ),
}
"""By the tool: the arguments of its call, what of the prepared answer is written anew and how, what is said then."""


@pytest.mark.parametrize("tool", CALLS)
async def test_a_call_of_another_kind_is_answered_by_an_item_that_is_prepared(page: Page, tool: str) -> None:
    arguments, prepared, written, got = CALLS[tool]
    declared = {"type": tool, **({"execution": "client"} if tool == "tool_search" else {})}
    await page.get_by_role("button", name="JSON", exact=True).click()
    await page.get_by_label("More tools, as JSON").fill(json.dumps(declared))
    await say(page, f"call {tool} {arguments}")
    field = page.get_by_role("textbox", name=f"Output of {tool}_call")
    await expect(field).to_be_focused()
    text = await field.input_value()
    assert prepared in text
    await field.fill("{")
    await expect(page.get_by_role("button", name="Send the result")).to_be_disabled()
    await field.fill(text.replace(prepared, written))
    await page.keyboard.press("Control+Enter")
    await expect(turns(page)).to_have_count(2)
    await expect(await ended(page)).to_contain_text(got)
    await expect(field).to_have_count(0)
    await page.reload()
    await expect(turns(page).last).to_contain_text(got)


async def test_a_screenshot_for_a_computer_comes_from_a_file(page: Page) -> None:
    await page.get_by_role("button", name="JSON", exact=True).click()
    await page.get_by_label("More tools, as JSON").fill('{"type": "computer"}')
    await say(page, 'call computer {"actions": [{"type": "screenshot"}]}')
    dot = FilePayload(name="screen.png", mimeType="image/png", buffer=base64.b64decode(RED_DOT))
    await page.get_by_label("Screenshot from a file").set_input_files(dot)
    await expect(page.get_by_role("textbox", name="Output of computer_call")).to_have_value(re.compile(RED_DOT[:20]))
    await page.get_by_role("button", name="Send the result").click()
    await expect(turns(page)).to_have_count(2)
    await expect(await ended(page)).to_contain_text("[image]")
    await expect(turns(page).last.get_by_alt_text("Screenshot")).to_be_visible()


async def test_structured_output_is_shown_as_json(page: Page) -> None:
    await page.get_by_role("switch", name="json_schema").click()
    schema = page.get_by_role("textbox", name="Schema of the answer")
    await schema.fill("{")
    await expect(page.get_by_text("schema line 1")).to_be_visible()
    await expect(page.get_by_role("button", name="Send")).to_be_disabled()
    fields = {"sum": {"type": "integer"}}
    await schema.fill(
        json.dumps({"type": "object", "properties": fields, "required": ["sum"], "additionalProperties": False})
    )
    turn = await say(page, 'say {"sum":4}')
    await expect(turn.get_by_role("region", name="Structured output")).to_have_text('{\n  "sum": 4\n}')


async def test_a_fork_goes_on_from_its_turn_and_the_branch_before_stays(page: Page) -> None:
    await say(page, "say first")
    await say(page, "say second")
    await turns(page).first.get_by_role("button", name="Fork").click()
    await expect(turns(page)).to_have_count(1)
    await expect(page.get_by_role("region", name="Branches")).to_contain_text("say second")
    turn = await say(page, "tell items.2.content.0.text")
    await expect(turn).to_contain_text('"tell items.2.content.0.text"')
    await page.reload()
    await expect(turn).to_contain_text("2/2")
    await page.get_by_role("button", name="The branch before").click()
    await expect(turn).to_contain_text("say second")
    await turn.get_by_role("button", name="Again").click()
    await expect(page.get_by_role("textbox", name="Message")).to_have_value("say second")
    await page.get_by_role("button", name="New").click()
    await page.get_by_role("region", name="Conversations").get_by_role("button", name="say first", exact=True).click()
    await expect(turns(page)).to_have_count(2)


async def test_a_dropped_picture_is_sent_and_shown_again_after_a_reload(page: Page) -> None:
    await page.evaluate(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
            const dropped = new DataTransfer();
            dropped.items.add(new File([bytes], "dot.png", { type: "image/png" }));
            const on = document.querySelector("[aria-label=Conversation]");
            on.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true }));
        }""",
        RED_DOT,
    )
    await expect(page.get_by_role("list", name="Attached")).to_contain_text("dot.png")
    notes = FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"in the file")
    await page.get_by_label("Files").set_input_files(notes)
    await expect(page.get_by_role("list", name="Attached")).to_contain_text("notes.txt")
    await say(page, "look")
    await expect(await say(page, "tell items.0.content.0.image_url")).to_contain_text(
        f"data:image/png;base64,{RED_DOT}"
    )
    await expect(await say(page, "tell items.0.content.1.text")).to_contain_text("in the file")
    await page.reload()
    await expect(turns(page).first.get_by_role("img", name="Attached")).to_have_js_property("naturalWidth", 5)
    await expect(turns(page).first).to_contain_text("notes.txt")


async def test_what_the_server_refuses_is_said_where_it_was_written(browser: Browser, url: str) -> None:
    async with visiting(browser, url, "400 (Bad Request)") as page:
        await page.get_by_label("temperature").fill("3")
        await begin(page, "say too hot")
        await expect(page.get_by_role("alert")).to_contain_text("temperature")
        await expect(page.get_by_label("temperature")).to_have_attribute("aria-invalid", "true")
        await expect(page.get_by_role("textbox", name="Message")).to_have_value("say too hot")
        await page.get_by_label("temperature").fill("")
        await page.get_by_role("button", name="Send").click()
        await expect(await ended(page)).to_contain_text("too hot")
        await expect(await say(page, "say so | fail")).to_contain_text("The scripted model failed")
        await expect(turns(page).last).to_contain_text("failed")


@pytest.mark.parametrize(
    ("button", "said", "got"), [("Approve", "Approved", "got: 3"), ("Deny", "Denied", "not approve")]
)
async def test_a_call_of_an_mcp_server_is_approved_or_denied(
    page: Page, remote: Remote, button: str, said: str, got: str
) -> None:
    await page.get_by_role("button", name="MCP server").click()
    await page.get_by_label("Label").fill("docs")
    await page.get_by_label("URL").fill(remote.url)
    turn = await say(page, 'call docs__add {"a": 1, "b": 2}')
    await expect(turn).to_contain_text(re.compile(r"docs offers \d+ tools"))
    await page.get_by_role("button", name=button).click()
    await expect(turns(page)).to_have_count(2)
    await expect(await ended(page)).to_contain_text(got)
    await page.reload()
    await expect(turns(page).last).to_contain_text(said)
    await turns(page).last.get_by_role("link", name="Open").click()
    await expect(page.get_by_role("region", name="Input", exact=True)).to_contain_text(said.lower())
    if button == "Approve":
        await expect(page.get_by_role("region", name="Output", exact=True)).to_contain_text(re.compile(r"Output\s*3"))


async def test_a_stored_response_is_gone_on_from_with_all_that_led_to_it(page: Page, url: str) -> None:
    chain = await chained(url, "say first", "say second", "say third")
    await page.goto(f"/#/responses/{chain[1]}")
    await page.get_by_role("link", name="Open in playground").click()
    await expect(turns(page)).to_have_count(2)
    await expect(turns(page).first).to_contain_text("say first")
    await expect(turns(page).last).to_contain_text("say second")
    await expect(page).to_have_url(re.compile("#/playground$"))
    await expect(await say(page, "tell items.2.content.0.text")).to_contain_text('"say second"')
    await page.reload()
    await expect(turns(page)).to_have_count(3)


async def chained(url: str, *texts: str, after: str | None = None) -> list[str]:
    """The ids of responses, each of which goes on from the one before it."""
    chain: list[str] = []
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as client:
        for text in texts:
            body = {"model": "scripted", "input": text, "previous_response_id": chain[-1] if chain else after}
            stored = {"background": True, "stream": True}  # what fails at once is then stored too
            answer = await client.post("/v1/responses", json={**body, **stored})
            chain.append(re.findall(r'"id":"(resp_\w+)"', answer.text)[-1])
    return chain


async def kept(page: Page) -> Any:
    """What the browser keeps of its conversations."""
    return json.loads(await page.evaluate("localStorage.getItem('antiphon.chat')"))


async def test_what_goes_on_from_a_turn_that_was_not_read_again_brings_its_own_input_alone(
    page: Page, url: str
) -> None:
    await say(page, "say first")
    await say(page, "say second")
    head = (await kept(page))["head"]
    await page.get_by_role("button", name="New").click()
    await page.reload()
    await expect(page.get_by_role("region", name="Conversations")).to_be_visible()
    (made,) = await chained(url, "say third", after=head)
    await page.goto(f"/#/playground/{made}")
    await expect(turns(page)).to_have_count(3)
    await expect(turns(page).last).not_to_contain_text("say second")
    await turns(page).last.get_by_role("button", name="Again").click()
    await expect(page.get_by_role("textbox", name="Message")).to_have_value("say third")


async def test_what_goes_on_from_a_turn_without_output_brings_its_own_input_alone(page: Page, url: str) -> None:
    chain = await chained(url, "say first", "fail", "say third")
    await page.goto(f"/#/playground/{chain[-1]}")
    await expect(turns(page)).to_have_count(3)
    await expect(turns(page).nth(1)).to_contain_text("failed")
    await turns(page).last.get_by_role("button", name="Again").click()
    await expect(page.get_by_role("textbox", name="Message")).to_have_value("say third")


async def test_a_response_that_was_left_before_it_was_read_does_not_take_the_view(page: Page, url: str) -> None:
    first, left = await chained(url, "say first", "say left")
    (wanted,) = await chained(url, "say wanted", after=first)
    await page.route(f"**/v1/responses/{left}", lambda _: asyncio.sleep(0))
    async with page.expect_request(f"**/v1/responses/{left}"):
        await page.goto(f"/#/playground/{left}")
    async with page.expect_event("requestfailed", lambda request: request.url.endswith(left)):
        await page.goto(f"/#/playground/{wanted}")
    await expect(turns(page)).to_have_count(2)
    await expect(page).to_have_url(re.compile("#/playground$"))
    known = await kept(page)
    assert known["head"] == wanted
    assert [turn["id"] for turn in known["turns"]] == [first, wanted]


@asynccontextmanager
async def keyed(browser: Browser, database: Path) -> AsyncIterator[tuple[Page, list[str]]]:
    """The playground of a server that wants a key, with the first of two projects' keys."""
    keys = [StaticKey(key=console.KEY + project, project=project) for project in ("shop", "bank")]
    async with serve(changed(console.settings(database), auth={"keys": tuple(keys)})) as address:
        context = await browser.new_context(base_url=(url := address.removesuffix("/v1")))
        seen = console.watch(context, urlsplit(url).netloc, ("401 (Unauthorized)",))
        page = await context.new_page()
        await page.goto("/#/playground")
        await enter(page, keys[0].key)
        yield page, [one.key for one in keys]
        await context.close()
        assert seen == []


async def enter(page: Page, key: str) -> None:
    await page.get_by_role("dialog", name="API key").get_by_label("Key", exact=True).fill(key)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("combobox", name="Model")).to_have_value("scripted")


async def test_the_next_key_begins_anew_after_one_was_forgotten_within_a_turn(browser: Browser, tmp_path: Path) -> None:
    async with keyed(browser, tmp_path / "test.db") as (page, keys):
        await say(page, "say of the shop")
        await begin(page, "say more | stall")
        await expect(turns(page).last).to_contain_text("stalling")
        await page.get_by_role("textbox", name="Message").fill("not sent")
        await page.get_by_role("button", name="Forget the API key").click()
        await enter(page, keys[1])
        await expect(turns(page)).to_have_count(0)
        await expect(page.get_by_role("textbox", name="Message")).to_have_value("")
        await expect(page.get_by_role("region", name="Conversations")).to_have_count(0)
        await expect(await say(page, "tell items")).not_to_contain_text("shop")
        await expect(turns(page)).to_have_count(1)
        await page.reload()
        await expect(turns(page).last).to_contain_text("tell items")
        assert len((await kept(page))["turns"]) == 1


async def test_a_key_that_is_forgotten_elsewhere_leaves_no_conversation_in_the_browser(
    browser: Browser, tmp_path: Path
) -> None:
    async with keyed(browser, tmp_path / "test.db") as (page, keys):
        await say(page, "say of the shop")
        await page.get_by_role("textbox", name="Message").fill("not sent")
        await page.goto("/#/keys")
        await page.reload()
        await page.get_by_role("button", name="Forget the API key").click()
        await page.get_by_role("dialog", name="API key").get_by_role("button", name="Not now").click()
        assert await page.evaluate("Object.keys(localStorage).filter(one => /chat|draft|key/.test(one))") == []
        await page.get_by_role("link", name="Playground").click()
        await enter(page, keys[1])
        await expect(page.get_by_role("heading", name="Begin a conversation")).to_be_visible()
        await expect(page.get_by_role("region", name="Conversations")).to_have_count(0)


@needs_curl
async def test_a_turn_as_code_runs(page: Page) -> None:
    await say(page, "say first")
    turn = await say(page, "tell items.0.content.0.text")
    await turn.get_by_role("button", name="Code").click()
    await page.get_by_role("tab", name="curl").click()
    code = await page.get_by_role("tabpanel", name="curl").inner_text()
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec("sh", "-c", code, stdout=pipe, stderr=pipe)
    said, complained = await asyncio.wait_for(program.communicate(), WAIT_S)
    assert program.returncode == 0, complained.decode()
    assert r'"text":"\"say first\""' in said.decode()


@console.needs_modules
@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
async def test_nothing_keeps_people_out(page: Page, scheme: Literal["light", "dark"], width: int) -> None:
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 844})
    await page.evaluate((console.MODULES / "axe-core" / "axe.min.js").read_text("utf-8"))
    if width < 1000:
        await page.get_by_role("button", name="Setup").click()
    await page.get_by_role("button", name="Function").click()
    await page.get_by_role("button", name="MCP server").click()
    await page.get_by_role("button", name="Remove the MCP server").click()
    await page.get_by_role("button", name="JSON", exact=True).click()
    await page.get_by_label("More tools, as JSON").fill('{"type": "computer"}')
    await page.get_by_role("switch", name="json_schema").click()
    assert await console.violations(page) == []
    await page.get_by_role("switch", name="json_schema").click()
    if width < 1000:
        await page.get_by_role("button", name="Setup").click()
    first = await say(page, "think hmm | say **bold** `code`")
    await first.get_by_text("Reasoning").click()
    await say(page, "say so | fail")
    await say(page, 'call get_weather {} | call computer {"actions": []}')
    await expect(page.get_by_role("textbox", name="Result of get_weather")).to_be_focused()
    assert await console.violations(page) == []
    await turns(page).last.get_by_role("button", name="Code").click()
    assert await console.violations(page) == []
