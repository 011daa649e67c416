"""What is remembered over raw HTTP: chains, deletions, restarts, kill -9; and the description of what is served."""

import asyncio
import json
import os
import random
import re
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
import pytest_asyncio

from antiphon.config import Settings
from antiphon.core.deltas import Finish, Text
from antiphon.stores.sqlite import SqliteStore
from tests.conftest import WAIT_S, serve
from tests.rawclient import (
    Answer,
    Exchange,
    Played,
    ask,
    create,
    exchange,
    final,
    parsed,
    request,
    scripted_in,
    serving,
    streaming,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parent.parent
FUNCTION = {"type": "function", "name": "f"}
STOP = Finish("stop")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with serve(scripted_in(tmp_path_factory.mktemp("state"))) as address:
        yield address


async def get(url: str, response: Any, below: str = "") -> Answer:
    return await ask(url, "GET", f"/v1/responses/{response['id']}{below}")


async def delete(url: str, response: Any) -> Answer:
    return await ask(url, "DELETE", f"/v1/responses/{response['id']}")


async def made(url: str, text: str, parent: Any = None, **fields: Any) -> Any:
    """A response that says this, after another one perhaps."""
    previous = parent["id"] if parent else None
    return (await create(url, input=f"say {text}", previous_response_id=previous, **fields)).value


def text_of(item: dict[str, Any]) -> str:
    text: str = item["content"][0]["text"]
    return text


async def given(url: str, response: Any, query: str = "order=asc&limit=100") -> list[str]:
    """The texts of what a response was built from."""
    return [text_of(item) for item in (await get(url, response, f"/input_items?{query}")).value["data"]]


# -- chains


async def test_a_response_remembers_all_that_came_before(url: str) -> None:
    first = await made(url, "one")
    second = await made(url, "two", first)
    third = await made(url, "three", second)

    assert third["previous_response_id"] == second["id"]
    assert await given(url, third) == ["say one", "one", "say two", "two", "say three"]


async def test_one_parent_may_have_two_children(url: str) -> None:
    parent = await made(url, "parent")
    left, right = await made(url, "left", parent), await made(url, "right", parent)

    assert await given(url, left) == ["say parent", "parent", "say left"]
    assert await given(url, right) == ["say parent", "parent", "say right"]


async def test_items_are_listed_newest_first_and_in_pages(url: str) -> None:
    parent = await made(url, "one")
    child = await made(url, "two", parent)
    page = (await get(url, child, "/input_items?limit=2")).value
    rest = (await get(url, child, f"/input_items?limit=2&after={page['last_id']}")).value

    assert [text_of(item) for item in page["data"]] == ["say two", "one"]
    assert (page["object"], page["has_more"]) == ("list", True)
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][1]["id"])
    assert [text_of(item) for item in rest["data"]] == ["say one"]
    assert rest["has_more"] is False


async def test_what_is_not_stored_cannot_be_found_or_continued(url: str) -> None:
    response = await made(url, "gone", store=False)
    continued = await create(url, previous_response_id=response["id"])
    item = {"type": "item_reference", "id": response["output"][0]["id"]}

    assert response["store"] is False
    assert (await get(url, response)).status == 404
    assert (await delete(url, response)).status == 404
    assert continued.refusal[1] == "previous_response_not_found"
    assert (await create(url, input=[item])).refusal == (404, None, "input")


async def test_what_was_returned_can_be_sent_back_as_it_came(url: str) -> None:
    script = 'think hm | say one | call f {"a":1} | call scripted {"text":"b"}'
    tools = [FUNCTION, {"type": "antiphon:scripted"}]
    response = (await create(url, input=script, tools=tools)).value
    call = next(item for item in response["output"] if item["type"] == "function_call")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "two"}
    question = {"role": "user", "content": script}
    answer = await create(url, input=[question, *response["output"], output], tools=tools)

    assert "antiphon-ignored-parameters" not in answer.headers
    assert {item["type"] for item in response["output"]} >= {"reasoning", "message", "antiphon:scripted_call"}
    assert "two" in text_of(answer.value["output"][0])


async def test_an_item_can_be_sent_back_by_reference(url: str) -> None:
    response = await made(url, "one")
    reference = {"type": "item_reference", "id": response["output"][0]["id"]}
    child = (await create(url, input=[reference, {"role": "user", "content": "say two"}])).value

    assert await given(url, child) == ["one", "say two"]


# -- deletion


async def test_a_deleted_response_is_gone_and_cannot_be_continued(url: str) -> None:
    response = await made(url, "one")
    receipt = (await delete(url, response)).value

    assert receipt == {"id": response["id"], "object": "response", "deleted": True}
    assert (await get(url, response)).refusal == (404, None, None)
    assert (await get(url, response, "/input_items")).refusal == (404, None, None)
    assert (await delete(url, response)).refusal == (404, None, None)
    assert (await create(url, previous_response_id=response["id"])).refusal[1] == "previous_response_not_found"


async def test_the_children_of_a_deleted_response_still_work(url: str) -> None:
    parent = await made(url, "one")
    child = await made(url, "two", parent)
    await delete(url, parent)
    grandchild = await made(url, "three", child)

    assert (await get(url, parent)).status == (await get(url, parent, "/input_items")).status == 404
    assert (await delete(url, parent)).status == 404
    assert (await create(url, previous_response_id=parent["id"])).refusal[1] == "previous_response_not_found"
    assert (await get(url, child)).value == child
    assert await given(url, grandchild) == ["say one", "one", "say two", "two", "say three"]


async def test_items_are_erased_with_their_last_descendant(scripted: Settings) -> None:
    async with serve(scripted) as url:
        parent = await made(url, "secret", metadata={"a": "b"})
        left, right = await made(url, "two", parent), await made(url, "three", parent)
        kept = await made(url, "four")
        item = [{"type": "item_reference", "id": parent["output"][0]["id"]}]
        await delete(url, parent)
        await delete(url, left)
        assert (await create(url, input=item, store=False)).status == 200
        await delete(url, right)
        assert (await create(url, input=item, store=False)).refusal == (404, None, "input")
        assert (await get(url, kept)).status == 200

    with closing(apsw.Connection(scripted.storage.database)) as database:
        tables = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        rows = [database.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in tables]  # noqa: S608
        assert "four" in str(rows)
        assert "secret" not in str(rows)


async def test_a_running_response_cannot_be_deleted(url: str) -> None:
    async with streaming(url, input="stall") as one:
        frames = await (await one.head()).frames_until("response.created")
        response = frames[0].data["response"]
        refused = await delete(url, response)

        assert refused.refusal == (400, None, None)
        assert refused.error["message"] == "Cannot delete an in-flight response."
        assert (await get(url, response)).value["status"] == "in_progress"
        assert (await create(url, previous_response_id=response["id"])).refusal[2] == "previous_response_id"


async def test_a_parent_that_is_deleted_meanwhile_leaves_its_items_to_the_child(scripted: Settings) -> None:
    model, store = Played(), SqliteStore(scripted.storage, scripted.limits)
    async with serving(scripted, store, model) as url:
        model.say(Text("one"), STOP)
        parent = await made(url, "", model="played")
        body = request(model="played", input="two?", previous_response_id=parent["id"])
        model.is_asked.clear()
        async with exchange(url, "POST", "/v1/responses", body) as one:
            await asyncio.wait_for(model.is_asked.wait(), WAIT_S)
            await delete(url, parent)
            model.say(Text("two"), STOP)
            child = (await one.answer()).value

        assert await given(url, child) == ["say ", "one", "two?"]
        assert (await get(url, parent)).status == 404
    await store.close()


# -- restarts


async def test_a_restart_keeps_everything(scripted: Settings) -> None:
    async with serve(scripted) as url:
        response = await made(url, "one", metadata={"a": "b"}, tools=[FUNCTION], instructions="x")
        async with streaming(url, input="say two | fail") as one:
            failed = final(await (await one.head()).frames())
    async with serve(scripted) as url:
        assert (await get(url, response)).value == response
        assert await given(url, await made(url, "three", response)) == ["say one", "one", "say three"]
        assert (await get(url, failed)).value == failed

    assert failed["status"] == "failed"


class Countdown:
    """Kills the server at the moment when so many things have been seen to happen."""

    def __init__(self, server: asyncio.subprocess.Process, steps: int) -> None:
        self._server = server
        self._steps = steps

    def step(self) -> None:
        self._steps -= 1
        if self._steps == 0:
            self._server.send_signal(signal.SIGKILL)


@asynccontextmanager
async def process(
    database: Path, model: str = "--scripted", **settings: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A server in a process of its own, and its address."""
    words = [sys.executable, "-m", "antiphon", "serve", *model.split(), "--port", "0", "--log-format", "json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")} | settings
    server = await asyncio.create_subprocess_exec(
        *words, "--database", str(database), cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
    )
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    reading = asyncio.create_task(read_log(server, address))
    try:
        yield server, await asyncio.wait_for(address, WAIT_S)
    finally:
        if server.returncode is None:
            server.kill()
        await asyncio.wait_for(server.wait(), WAIT_S)
        await reading


async def read_log(server: asyncio.subprocess.Process, address: asyncio.Future[str]) -> None:
    """To its end: a full pipe would stop the server."""
    assert server.stderr is not None
    lines: list[bytes] = []
    async for line in server.stderr:
        if b'"serving"' in line:
            address.set_result(json.loads(line)["address"])
        elif not address.done():
            lines.append(line)
    if not address.done():
        address.set_exception(AssertionError(b"".join(lines).decode()))


async def load(url: str, countdown: Countdown, completed: dict[str, Any], *, stream: bool) -> None:
    """Makes one response after the other, each from the last, until the server is gone."""
    previous = None
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            fields = {"input": "think hm | long 12", "stream": stream, "metadata": {"a": "b"}}
            body = request(previous_response_id=previous, **fields)
            async with exchange(url, "POST", "/v1/responses", body) as one:
                response = await streamed(one, countdown) if stream else (await one.answer()).value
            countdown.step()
            completed[response["id"]] = response
            previous = response["id"]


async def streamed(one: Exchange, countdown: Countdown) -> Any:
    """The final response, as soon as its event has come."""
    await one.head()
    while (last := parsed(await one.piece())[-1]).event != "response.completed":
        countdown.step()
    return last.data["response"]


async def test_after_kill_9_all_that_was_completed_is_there(tmp_path: Path) -> None:
    database = tmp_path / "test.db"
    dice = random.Random(9)  # noqa: S311 - the same moments each time
    completed: dict[str, Any] = {}
    for steps in (dice.randint(20, 100), dice.randint(200, 400), dice.randint(400, 800)):
        async with process(database) as (server, url):
            countdown = Countdown(server, steps)
            clients = [load(url, countdown, completed, stream=number % 2 == 0) for number in range(6)]
            await asyncio.wait_for(asyncio.gather(*clients), 3 * WAIT_S)
            assert await asyncio.wait_for(server.wait(), WAIT_S) == -signal.SIGKILL
        with closing(apsw.Connection(str(database))) as opened:
            assert opened.execute("PRAGMA integrity_check").get == "ok"
            assert opened.execute("PRAGMA foreign_key_check").fetchall() == []
    async with process(database) as (_, url):
        for response in completed.values():
            assert (await get(url, response)).value == response
        newest = await made(url, "on", parent=response)

    assert len(completed) > 6
    assert newest["status"] == "completed"


# -- the description


IN_EACH_DIALECT = {
    "/responses": {"get", "post"},
    "/responses/{response_id}": {"get", "delete"},
    "/responses/{response_id}/cancel": {"post"},
    "/responses/{response_id}/input_items": {"get"},
    "/responses/compact": {"post"},
    "/models": {"get"},
    "/models/{model}": {"get"},
}
SERVED = {
    "/health": {"get"},
    "/v1/responses/input_tokens": {"post"},
    "/ready": {"get"},
    "/antiphon/overview": {"get"},
    "/antiphon/health": {"get"},
    "/antiphon/responses/{response_id}/times": {"get"},
    "/antiphon/keys": {"get", "post"},
    "/antiphon/keys/{key_id}": {"delete"},
    "/v1/files": {"post", "get"},
    "/v1/files/{file_id}": {"get", "delete"},
    "/v1/files/{file_id}/content": {"get"},
    "/v1/uploads": {"post"},
    "/v1/uploads/{upload_id}/parts": {"post"},
    "/v1/uploads/{upload_id}/complete": {"post"},
    "/v1/uploads/{upload_id}/cancel": {"post"},
    "/v1/conversations": {"get", "post"},
    "/v1/conversations/{conversation_id}": {"get", "post", "delete"},
    "/v1/conversations/{conversation_id}/items": {"get", "post"},
    "/v1/conversations/{conversation_id}/items/{item_id}": {"get", "delete"},
} | {prefix + path: methods for prefix in ("/v1", "/openresponses/v1") for path, methods in IN_EACH_DIALECT.items()}


async def description(url: str) -> Any:
    return (await ask(url, "GET", "/openapi.json")).value


async def test_the_description_lists_what_is_served_and_nothing_else(url: str) -> None:
    paths = (await description(url))["paths"]
    paths.pop("/openapi.json", None)  # it may describe itself

    assert {path: set(operations) for path, operations in paths.items()} == SERVED
    for path, operations in SERVED.items():
        for method in operations:
            answer = await ask(url, method.upper(), path.format_map(defaultdict(lambda: "x")), {})
            assert answer.status != 405
            assert b"nothing at this path" not in answer.body


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        yield from references(list(value.values()))
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


async def test_every_reference_in_the_description_leads_somewhere(url: str) -> None:
    document = await description(url)
    schemas = document["components"]["schemas"]
    used = {reference.rpartition("/")[2] for reference in references(document)}

    assert all(reference.startswith("#/components/schemas/") for reference in references(document))
    assert used == schemas.keys()


async def test_every_operation_is_described_under_a_name_of_its_own(url: str) -> None:
    document = await description(url)
    operations = [one for path in document["paths"].values() for one in path.values()]
    parameters = {
        path: {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        for path, operations_of in document["paths"].items()
        for operation in operations_of.values()
    }

    assert document["openapi"].startswith("3.")
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all({"200", "default"} <= one["responses"].keys() for one in operations)
    assert parameters == {path: set(re.findall(r"{(\w+)}", path)) for path in document["paths"]}


async def test_the_description_knows_the_short_forms_of_the_input(url: str) -> None:
    schemas = (await description(url))["components"]["schemas"]

    def accepts_text(schema: dict[str, Any]) -> bool:
        return schema.get("type") == "string" or any(map(accepts_text, schema.get("anyOf", [])))

    assert accepts_text(schemas["CreateResponse"]["properties"]["input"])
    assert accepts_text(schemas["CreateResponse"]["properties"]["stop"])
    assert accepts_text(schemas["FunctionCallOutput"]["properties"]["output"])
