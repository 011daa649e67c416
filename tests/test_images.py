"""Images in requests: those that a request holds itself are shown to the model, others are refused by their place."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import serve
from tests.rawclient import ask, create, scripted_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = "data:image/png;base64,cmVk"
ELSEWHERE = [
    "https://example.com/a.png",
    "http://127.0.0.1/a.png",
    "file:///a.png",
    "data:text/html;base64,cmVk",
    "data:",
    "",
    " data:image/png;base64,cmVk",
]
TEXT = {"type": "input_text", "text": "say seen"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with serve(scripted_in(tmp_path_factory.mktemp("images"))) as address:
        yield address


def image(url: str) -> dict[str, Any]:
    return {"type": "input_image", "image_url": url}


def after(call: dict[str, Any], output: Any) -> list[Any]:
    """A call and its output."""
    kind = call["type"]
    return [call | {"call_id": "c"}, {"type": f"{kind}_output", "call_id": "c", "output": output}]


FUNCTION = {"type": "function_call", "name": "f", "arguments": "{}"}
CUSTOM = {"type": "custom_tool_call", "name": "f", "input": ""}
COMPUTER = {"type": "computer_call", "action": {"type": "screenshot"}, "pending_safety_checks": []}

PLACES: dict[str, Any] = {
    "input[0].content[1].image_url": lambda url: [{"role": "user", "content": [TEXT, image(url)]}],
    "input[1].content[0].image_url": lambda url: [
        {"role": "user", "content": "say seen"}, {"role": "developer", "content": [image(url)]}
    ],
    "input[1].output[0].image_url": lambda url: after(FUNCTION, [image(url)]),
    "input[1].output[1].image_url": lambda url: after(CUSTOM, [TEXT, image(url)]),
    "input[1].output.image_url": lambda url: after(COMPUTER, {"type": "computer_screenshot", "image_url": url}),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("there", ELSEWHERE)
async def test_an_image_that_is_elsewhere_is_refused_by_its_place(url: str, place: str, there: str) -> None:
    answer = await create(url, input=PLACES[place](there))

    assert answer.refusal == (400, "unsupported_parameter", place)
    assert "is not supported by this server yet: only data URLs" in answer.error["message"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("here", [HERE, "DATA:image/jpeg;base64,cmVk", "data:Image/svg+xml,<svg/>"])
async def test_an_image_within_the_request_is_served(url: str, place: str, here: str) -> None:
    assert (await create(url, input=PLACES[place](here))).value["status"] == "completed"


async def test_an_image_of_an_earlier_response_is_not_looked_at_again(url: str) -> None:
    first = (await create(url, input=PLACES["input[0].content[1].image_url"](HERE))).value
    listed = (await ask(url, "GET", f"/v1/responses/{first['id']}/input_items")).value["data"]

    assert listed[0]["content"][1]["image_url"] == HERE
    answer = await create(url, input=[{"type": "item_reference", "id": listed[0]["id"]}])
    assert answer.value["status"] == "completed"
