"""Conversations through the official SDK: the resource, responses made in one, and who may change it meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import apsw
import openai
import pytest
import pytest_asyncio
from openai.types.responses import FunctionToolParam

from antiphon.config import Limits, Settings, StaticKey
from antiphon.core.deltas import Finish, Text
from antiphon.core.ports import Lock
from antiphon.engine.locks import LEASE_S, Locks
from antiphon.errors import ConversationLocked, StorageError
from antiphon.stores.memory import MemoryStore
from antiphon.stores.sqlite import SqliteStore
from antiphon.wire.conversation import Conversation
from tests.chatserver import ended, sdk
from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import Played, ask, scripted_in, serving, streaming

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "scripted"
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    "strict": False,
}
LOCKED = "Another process is currently operating on this conversation. Please retry in a few seconds."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return scripted_in(tmp_path_factory.mktemp("conversations"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(settings: Settings) -> AsyncIterator[str]:
    """One server for all: no test looks at what another one stored."""
    async with serve(settings) as address:
        yield address


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(url) as one:
        yield one


def user(text: Any) -> Any:
    return {"role": "user", "content": text}


async def begun(client: openai.AsyncOpenAI, *texts: str) -> str:
    return (await client.conversations.create(items=[user(text) for text in texts])).id


async def said(client: openai.AsyncOpenAI, conversation: str, **paging: Any) -> list[str]:
    """The texts of its items, in order."""
    items = client.conversations.items.list(conversation, order="asc", **paging)
    return [text_of(item) async for item in items]


def text_of(item: Any) -> str:
    text: str = item.content[0].text
    return text


async def say(client: openai.AsyncOpenAI, conversation: str, text: str, **fields: Any) -> Any:
    return await client.responses.create(model=MODEL, input=text, conversation=conversation, **fields)


# -- the resource


async def test_conversations_are_listed_newest_first_page_by_page_and_nothing_is_tolerated(tmp_path: Path) -> None:
    async with serve(scripted_in(tmp_path)) as url, sdk(url) as client:
        made = [await client.conversations.create(metadata={"number": str(number)}) for number in range(3)]
        root = url.removesuffix("/v1")
        first = (await ask(root, "GET", "/v1/conversations?limit=2")).value
        rest = (await ask(root, "GET", f"/v1/conversations?limit=2&after={first['last_id']}")).value
        refused = [
            (await ask(root, "GET", f"/v1/conversations?{query}"))
            for query in ("x=1", "after=", "limit=0", "order=up", "after=conv_none")
        ]

    assert first["data"] == [one.to_dict() for one in made[:0:-1]]
    assert (first["object"], first["first_id"], first["has_more"]) == ("list", made[2].id, True)
    assert (rest["data"], rest["has_more"]) == ([made[0].to_dict()], False)
    assert [answer.status for answer in refused] == [400, 400, 400, 400, 404]
    named = [json.loads(answer.body)["error"]["param"] for answer in refused]
    assert named == ["x", "after", "limit", "order", "after"]


async def test_a_conversation_is_made_read_relabelled_and_deleted(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create(metadata={"topic": "tests"})
    assert (made.object, made.metadata) == ("conversation", {"topic": "tests"})
    assert made.id.startswith("conv_")
    assert await client.conversations.retrieve(made.id) == made

    relabelled = await client.conversations.update(made.id, metadata={"place": "here"})
    assert relabelled.metadata == (await client.conversations.retrieve(made.id)).metadata == {"place": "here"}
    assert (await client.conversations.update(made.id, metadata=None)).metadata == {}

    gone = await client.conversations.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
    with pytest.raises(openai.NotFoundError, match=f"Conversation with id '{made.id}' not found."):
        await client.conversations.retrieve(made.id)


async def test_items_are_added_read_and_deleted_one_by_one(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client, "one")
    added = await client.conversations.items.create(conversation, items=[user("two"), user("three")])
    assert [item.status for item in added.data] == ["completed", "completed"]  # type: ignore[union-attr]
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[1].id, False)

    two = await client.conversations.items.retrieve(added.first_id, conversation_id=conversation)
    assert two == added.data[0]
    left = await client.conversations.items.delete(added.first_id, conversation_id=conversation)
    assert (left.id, left.object) == (conversation, "conversation")
    assert await said(client, conversation) == ["one", "three"]
    with pytest.raises(openai.NotFoundError, match="Item with id"):
        await client.conversations.items.retrieve(added.first_id, conversation_id=conversation)
    with pytest.raises(openai.NotFoundError, match="Item with id"):
        await client.conversations.items.delete(added.first_id, conversation_id=conversation)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_conversation_is_paged_both_ways(client: openai.AsyncOpenAI, order: Any) -> None:
    texts = [str(number) for number in range(7)]
    conversation = await begun(client, *texts)
    page = await client.conversations.items.list(conversation, order=order, limit=3)
    pages = [page]
    while page.has_more:
        page = await page.get_next_page()
        pages.append(page)

    seen = [text_of(item) for page in pages for item in page.data]
    assert seen == (texts if order == "asc" else texts[::-1])
    assert [len(page.data) for page in pages] == [3, 3, 1]


async def test_a_conversation_is_listed_newest_first_twenty_at_a_time(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client, *(str(number) for number in range(20)))
    await client.conversations.items.create(conversation, items=[user("20")])
    page = await client.conversations.items.list(conversation, include=["message.output_text.logprobs"])

    assert (len(page.data), page.has_more) == (20, True)
    assert text_of(page.data[0]) == "20"


async def test_items_may_come_in_every_form_that_input_takes(client: openai.AsyncOpenAI) -> None:
    stored = await client.responses.create(model=MODEL, input="say stored")
    made = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    call: Any = {"role": "assistant", "content": "hm", "tool_calls": [made]}
    output: Any = {"role": "tool", "tool_call_id": "c", "content": "sunny"}
    reference: Any = {"type": "item_reference", "id": stored.output[0].id}
    conversation = (await client.conversations.create(items=[user("a"), call, output, reference])).id
    items = [item async for item in client.conversations.items.list(conversation, order="asc")]

    kinds = ["message", "message", "function_call", "function_call_output", "message"]
    assert [item.type for item in items] == kinds
    assert items[4].id == stored.output[0].id
    assert {item.status for item in items} == {"completed"}  # type: ignore[union-attr]


async def test_an_item_of_a_conversation_can_be_referred_to(client: openai.AsyncOpenAI) -> None:
    item: Any = {"role": "user", "content": "one", "id": "msg_of_a_conversation"}
    await client.conversations.create(items=[item])
    reference: Any = {"type": "item_reference", "id": "msg_of_a_conversation"}
    told = await client.responses.create(model=MODEL, input=[reference, user("tell items.0.content.0.text")])

    assert told.output_text == '"one"'


async def test_each_item_has_an_id_of_its_own_in_the_conversation(client: openai.AsyncOpenAI) -> None:
    item: Any = {"role": "user", "content": "x", "id": "msg_mine"}
    conversation = (await client.conversations.create(items=[item, item])).id
    added = await client.conversations.items.create(conversation, items=[item])
    ids = [one.id async for one in client.conversations.items.list(conversation, order="asc")]

    assert ids[0] == "msg_mine"
    assert len({*ids}) == 3
    assert added.data[0].id == ids[2]


ONE = [user("x")]
NO_PICTURE = [user([{"type": "input_image"}])]
DECLARES = [{"type": "additional_tools", "role": "developer", "tools": [{"type": "function"}]}]


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("", {"items": ONE * 21}, "array_above_max_length", "items"),
        ("", {"items": [{"role": "assistant", "tool_calls": [{}] * 21}]}, "array_above_max_length", "items"),
        ("", {"items": "x"}, "invalid_type", "items"),
        ("", {"items": [*ONE, {"role": "user", "content": 5}]}, "invalid_type", "items[1].content"),
        ("", {"items": [{"role": "user"}]}, "missing_required_parameter", "items[0].content"),
        ("", {"items": [{"role": "user", "content": "x", "id": "x" * 129}]}, "string_above_max_length", "items[0].id"),
        ("", {"items": [{"type": "file_search_call"}]}, "unsupported_parameter", "items[0].type"),
        ("", {"items": NO_PICTURE}, "missing_required_parameter", "items[0].content[0].image_url"),
        ("", {"items": DECLARES}, "missing_required_parameter", "items[0].tools[0].name"),
        ("", {"metadata": {"a" * 65: "b"}}, "string_above_max_length", "metadata"),
        ("", {"metadata": {str(number): "b" for number in range(17)}}, "object_above_max_properties", "metadata"),
        ("", {"metadata": {"a": 5}}, "invalid_type", "metadata"),
        ("", {"itemz": []}, "unknown_parameter", "itemz"),
        ("", [], "invalid_type", None),
        ("/{id}", {}, "missing_required_parameter", "metadata"),
        ("/{id}", {"metadata": "x"}, "invalid_type", "metadata"),
        ("/{id}/items", {}, "missing_required_parameter", "items"),
        ("/{id}/items", {"items": []}, "empty_array", "items"),
        ("/{id}/items", {"items": ONE * 21}, "array_above_max_length", "items"),
        ("/{id}/items?include=all", {"items": ONE}, None, "include"),
    ],
)
async def test_what_is_wrong_is_refused_by_name(
    url: str, client: openai.AsyncOpenAI, path: str, body: Any, code: str | None, param: str | None
) -> None:
    conversation = await begun(client, "one")
    answer = await ask(url, "POST", "/v1/conversations" + path.replace("{id}", conversation), body)

    assert answer.refusal == (400, code or "invalid_value", param)
    assert await said(client, conversation) == ["one"]


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=101", "limit"), ("order=up", "order"), ("include=all", "include")],
)
async def test_a_wrong_page_is_refused_by_name(url: str, client: openai.AsyncOpenAI, query: str, param: str) -> None:
    answer = await ask(url, "GET", f"/v1/conversations/{await begun(client)}/items?{query}")

    assert answer.status == 400
    assert answer.error["param"] == param


async def test_an_unknown_item_and_an_unknown_reference_are_not_found(url: str, client: openai.AsyncOpenAI) -> None:
    path = f"/v1/conversations/{await begun(client)}/items"
    reference = {"type": "item_reference", "id": "msg_nowhere"}

    assert (await ask(url, "GET", f"{path}?after=msg_nowhere")).refusal == (404, None, "after")
    assert (await ask(url, "POST", path, {"items": [reference]})).refusal == (404, None, "items")


async def test_what_is_unknown_is_named_or_refused_where_that_is_wanted(url: str, settings: Settings) -> None:
    answer = await ask(url, "POST", "/v1/conversations", {"colour": 1, "items": [{**ONE[0], "shade": 2}]})
    assert answer.headers["antiphon-ignored-parameters"] == "colour, items[0].shade"

    async with serve(changed(settings, server={"strict": True})) as strict:
        answer = await ask(strict, "POST", "/v1/conversations", {"colour": 1})
    assert answer.refusal == (400, "unknown_parameter", "colour")


# -- responses made in it


async def test_a_chat_goes_on_over_three_turns_streamed_or_not(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client, "a name")
    first = await say(client, conversation, "say one")
    async with client.responses.stream(model=MODEL, input="say two", conversation=conversation) as stream:
        second = await stream.get_final_response()
    third = await say(client, conversation, "tell items.0.content.0.text", instructions="be brief")

    assert all(one.conversation and one.conversation.id == conversation for one in (first, second, third))
    assert (second.output_text, third.output_text) == ("two", '"a name"')
    turns = ["say one", "one", "say two", "two", "tell items.0.content.0.text", '"a name"']
    assert await said(client, conversation) == ["a name", *turns]


async def test_a_conversation_may_be_given_as_an_object_and_without_input(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client, "say hello")
    response = await client.responses.create(model=MODEL, conversation={"id": conversation})

    assert response.output_text == "hello"
    assert await said(client, conversation) == ["say hello", "hello"]


async def test_a_tool_call_is_answered_in_the_next_turn_by_its_output_alone(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client)
    asked = await say(client, conversation, 'call get_weather {"location": "Paris"}', tools=[WEATHER])
    call = asked.output[0]
    with pytest.raises(openai.BadRequestError, match="No tool output found"):
        await say(client, conversation, "say x", tools=[WEATHER])
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    answered = await client.responses.create(model=MODEL, input=[output], conversation=conversation, tools=[WEATHER])

    assert answered.output_text == "got: sunny"
    kinds = [item.type async for item in client.conversations.items.list(conversation, order="asc")]
    assert kinds == ["message", "function_call", "function_call_output", "message"]


async def test_a_response_lists_its_own_input_alone(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client, "before")
    response = await say(client, conversation, "say one")
    items = [item async for item in client.responses.input_items.list(response.id)]

    assert [text_of(item) for item in items] == ["say one"]


async def test_what_was_cut_short_stands_in_the_conversation(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client)
    response = await say(client, conversation, "say one two", max_output_tokens=1)

    assert response.status == "incomplete"
    assert await said(client, conversation) == ["say one two", "one"]


async def test_what_failed_leaves_nothing_and_can_be_tried_again(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client, "before")
    with pytest.raises(openai.InternalServerError):
        await say(client, conversation, "fail before")
    events = [event async for event in await say(client, conversation, "say one | fail", stream=True)]
    assert events[-1].type == "response.failed"
    assert await said(client, conversation) == ["before"]

    await say(client, conversation, "say one")
    assert await said(client, conversation) == ["before", "say one", "one"]


async def test_what_failed_is_not_told_in_the_next_turn(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client, "before")
    assert len([event async for event in await say(client, conversation, "say one | fail", stream=True)]) > 1
    await client.conversations.items.create(conversation, items=[user("behind")])

    assert (await say(client, conversation, "tell items.1.content.0.text")).output_text == '"behind"'


async def test_the_conversation_remembers_what_is_not_stored(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client)
    response = await say(client, conversation, "say one", store=False)

    assert await said(client, conversation) == ["say one", "one"]
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)


async def test_responses_outlive_their_conversation(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client)
    response = await say(client, conversation, "say one")
    await client.conversations.delete(conversation)

    kept = await client.responses.retrieve(response.id)
    assert (kept.output_text, kept.conversation) == ("one", response.conversation)
    with pytest.raises(openai.NotFoundError) as refused:
        await say(client, conversation, "say two")
    assert refused.value.param == "conversation"


async def test_only_one_of_two_histories_may_be_named(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client)
    with pytest.raises(openai.BadRequestError, match="Mutually exclusive parameters") as refused:
        await say(client, conversation, "say one", previous_response_id="resp_1")

    assert refused.value.code == "mutually_exclusive_parameters"


async def test_a_broken_conversation_is_refused_by_its_name(client: openai.AsyncOpenAI) -> None:
    output: Any = {"type": "function_call_output", "call_id": "none", "output": "x"}
    conversation = (await client.conversations.create(items=[output])).id
    with pytest.raises(openai.BadRequestError, match="No tool call found") as refused:
        await say(client, conversation, "say one")

    assert refused.value.param == "conversation"
    [item] = (await client.conversations.items.list(conversation)).data
    await client.conversations.items.delete(str(item.id), conversation_id=conversation)
    assert (await say(client, conversation, "say one")).output_text == "one"


async def test_open_responses_knows_no_conversations(url: str, client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client)
    response = await say(client, conversation, "say one")
    body = {"model": MODEL, "input": "say one", "conversation": conversation}
    refused = await ask(url, "POST", "/openresponses/v1/responses", body)
    shown = await ask(url, "GET", f"/openresponses/v1/responses/{response.id}")

    assert refused.refusal == (400, "unknown_parameter", "conversation")
    assert "conversation" not in shown.value
    assert (await ask(url, "POST", "/openresponses/v1/conversations", {})).status == 404


# -- who may change it


async def refused_while_running(client: openai.AsyncOpenAI, conversation: str) -> None:
    """Everything that would change what the running response stands on."""
    [item] = (await client.conversations.items.list(conversation)).data
    for attempt in (
        say(client, conversation, "say two"),
        client.conversations.items.create(conversation, items=[user("two")]),
        client.conversations.items.delete(str(item.id), conversation_id=conversation),
    ):
        with pytest.raises(openai.BadRequestError, match=LOCKED) as refused:
            await attempt
        assert refused.value.code == "conversation_locked"


async def test_a_second_response_waits_for_the_first_to_be_cancelled(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client, "before")
    async with client.responses.stream(model=MODEL, input="stall", conversation=conversation) as stream:
        created = await anext(stream)
        assert created.type == "response.created"
        await refused_while_running(client, conversation)
        assert (await client.conversations.update(conversation, metadata={"a": "b"})).metadata == {"a": "b"}
    assert (await ended(client, created.response.id)).status == "cancelled"

    assert (await say(client, conversation, "say two")).output_text == "two"
    assert await said(client, conversation) == ["before", "say two", "two"]


async def test_two_at_once_never_mix(client: openai.AsyncOpenAI) -> None:
    conversation = await begun(client)
    both = await asyncio.gather(*(say(client, conversation, "say one") for _ in "12"), return_exceptions=True)
    made = [one for one in both if not isinstance(one, BaseException)]

    assert all(isinstance(one, openai.BadRequestError) for one in both if one not in made)
    assert len(made) >= 1
    assert await said(client, conversation) == ["say one", "one"] * len(made)


async def test_a_conversation_that_is_deleted_meanwhile_takes_no_response_with_it(
    client: openai.AsyncOpenAI, settings: Settings
) -> None:
    played = Played()
    store = SqliteStore(settings.storage, settings.limits)
    async with serving(settings, store, played) as url, sdk(f"{url}/v1") as other:
        conversation = await begun(client)
        async with streaming(url, model="played", conversation=conversation) as stream:
            played.say(Text("one"))
            await stream.head()
            await stream.frames_until("response.output_text.delta")
            await client.conversations.delete(conversation)
            played.say(Finish("stop"))
            frames = await stream.frames()
        completed = frames[-2].data["response"]

        assert (completed["status"], completed["conversation"]) == ("completed", {"id": conversation})
        assert (await other.responses.retrieve(completed["id"])).output_text == "one"
        with pytest.raises(openai.NotFoundError):
            await said(client, conversation)
    await store.close()


async def test_a_response_whose_place_was_taken_fails(client: openai.AsyncOpenAI, settings: Settings) -> None:
    """Its lock ended, as it does where a process stands still for too long, and another went on."""
    played = Played()
    store = SqliteStore(settings.storage, settings.limits)
    async with serving(settings, store, played) as url:
        conversation = await begun(client)
        async with streaming(url, model="played", conversation=conversation) as stream:
            played.say(Text("one"))
            await stream.head()
            created = (await stream.frames_until("response.output_text.delta"))[0].data["response"]["id"]
            lock = Lock(project="default", conversation_id=conversation, response_id=created)
            await store.conversations.renew([lock], until=0)
            await say(client, conversation, "say two")
            played.say(Finish("stop"))
            frames = await stream.frames()

    assert frames[-2].data["type"] == "response.failed"
    assert "its conversation was changed meanwhile" in frames[-2].data["response"]["error"]["message"]
    assert await said(client, conversation) == ["say two", "two"]
    await store.close()


async def test_a_crash_keeps_a_conversation_no_longer_than_its_lease(
    client: openai.AsyncOpenAI, settings: Settings
) -> None:
    """Another process, on the same file, took the lock and was never seen again."""
    conversation = await begun(client)
    other = SqliteStore(settings.storage, settings.limits)
    lock = Lock(project="default", conversation_id=conversation, response_id="resp_crashed")
    version = await other.conversations.version("default", conversation)
    await other.conversations.lock(lock, version=version, now=0, until=2**40)
    with pytest.raises(openai.BadRequestError, match=LOCKED):
        await say(client, conversation, "say one")

    await other.conversations.renew([lock], until=1)  # and so it is long past
    assert (await say(client, conversation, "say one")).output_text == "one"
    await other.close()


async def test_what_another_process_adds_is_told_in_the_next_turn(
    client: openai.AsyncOpenAI, settings: Settings
) -> None:
    conversation = await begun(client)
    await say(client, conversation, "say one")
    async with serve(settings) as elsewhere, sdk(elsewhere) as other:
        await say(other, conversation, "say two")
        await other.conversations.items.create(conversation, items=[user("three")])

    assert (await say(client, conversation, "tell items.4.content.0.text")).output_text == '"three"'


async def test_the_next_turn_reads_no_item(client: openai.AsyncOpenAI, settings: Settings) -> None:
    conversation = await begun(client, "before")
    await say(client, conversation, "say one")
    other = apsw.Connection(settings.storage.database)
    other.execute("UPDATE conversation_items SET data = 'broken' WHERE place / 4294967296 = ("
                  "SELECT n FROM conversations WHERE id = ?)", (conversation,))  # fmt: skip
    other.close()

    assert (await say(client, conversation, "tell items.0.content.0.text")).output_text == '"before"'
    with pytest.raises(openai.InternalServerError, match="cannot be understood"):
        await said(client, conversation)


async def test_another_projects_conversation_is_unknown(tmp_path: Path) -> None:
    keys = (StaticKey(key="sk-mine", project="mine"), StaticKey(key="sk-other", project="other"))
    async with (
        serve(changed(scripted_in(tmp_path), auth={"keys": keys})) as url,
        sdk(url, key="sk-mine") as mine,
        sdk(url, key="sk-other") as other,
    ):
        conversation = await begun(mine, "one")
        [item] = (await mine.conversations.items.list(conversation)).data
        for attempt in (
            say(other, conversation, "say x"),
            other.conversations.retrieve(conversation),
            other.conversations.update(conversation, metadata={}),
            other.conversations.items.create(conversation, items=[user("x")]),
            other.conversations.items.retrieve(str(item.id), conversation_id=conversation),
            other.conversations.items.delete(str(item.id), conversation_id=conversation),
            other.conversations.delete(conversation),
        ):
            with pytest.raises(openai.NotFoundError, match=f"Conversation with id '{conversation}' not found"):
                await attempt

        assert await said(mine, conversation) == ["one"]


async def test_a_conversation_survives_a_restart(tmp_path: Path) -> None:
    settings = scripted_in(tmp_path)
    async with serve(settings) as url, sdk(url) as client:
        conversation = (await client.conversations.create(items=[user("one")], metadata={"a": "b"})).id
        await say(client, conversation, "say two")
    async with serve(settings) as url, sdk(url) as client:
        assert (await client.conversations.retrieve(conversation)).metadata == {"a": "b"}
        assert (await say(client, conversation, "tell items.0.content.0.text")).output_text == '"one"'
        assert (await said(client, conversation))[:3] == ["one", "say two", "two"]


async def test_a_server_that_stops_leaves_no_lock(tmp_path: Path) -> None:
    settings = changed(scripted_in(tmp_path), limits={"shutdown_grace_s": 0.01})
    async with AsyncExitStack() as left:
        async with serve(settings) as url, sdk(url) as client:
            conversation = await begun(client)
            stream = await left.enter_async_context(streaming(url, input="stall", conversation=conversation))
            await stream.head()
            await stream.frames_until("response.output_text.delta")
        assert (await stream.frames())[-2].data["response"]["status"] == "cancelled"
    async with serve(settings) as url, sdk(url) as client:
        assert (await say(client, conversation, "say one")).output_text == "one"


# -- locks are renewed


class Beat:
    """Conversations of a store that says when a lock was renewed, and fails to once if told so."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store.conversations
        self.fails = False
        self.renewed = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def renew(self, locks: Any, *, until: int) -> None:
        if self.fails:
            self.fails = False
            raise StorageError
        await self._store.renew(locks, until=until)
        self.renewed.set()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_lock_is_renewed_while_its_run_lives_and_no_longer(settings: Settings, fails: bool) -> None:
    now = [1_000]
    store = Beat(MemoryStore(settings.storage, Limits()))
    lock = Lock(project="p", conversation_id="conv_a", response_id="resp_a")
    await store.add("p", Conversation(id="conv_a", created_at=1), [])
    locks = Locks(store, lambda: now[0], renew_every_s=0.001)
    await locks.take(lock, 1)
    store.fails = fails
    now[0] += LEASE_S - 1
    store.renewed.clear()
    await asyncio.wait_for(store.renewed.wait(), WAIT_S)

    now[0] += LEASE_S - 1  # without it, it would have ended long ago
    with pytest.raises(ConversationLocked):
        await store.lock(lock, version=1, now=now[0], until=now[0])
    renewing = locks._renewing
    assert renewing is not None
    locks.forget("resp_a")
    await asyncio.wait([renewing], timeout=WAIT_S)
    assert renewing.cancelled()


@pytest.mark.parametrize("turns", range(5))
async def test_a_request_that_is_cancelled_while_it_takes_the_lock_leaves_none(tmp_path: Path, turns: int) -> None:
    settings = scripted_in(tmp_path)
    store = SqliteStore(settings.storage, settings.limits)
    await store.conversations.add("p", Conversation(id="conv_a", created_at=1), [])
    locks = Locks(store.conversations, lambda: 1_000)
    lock = Lock(project="p", conversation_id="conv_a", response_id="resp_a")
    taking = asyncio.create_task(locks.take(lock, 1))
    for _ in range(turns):
        await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait([taking], timeout=WAIT_S)

    if taking.cancelled():
        await store.conversations.lock(lock, version=1, now=1_000, until=1_001)
    locks.forget("resp_a")
    await store.close()
