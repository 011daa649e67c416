"""Background responses: asked for at once, polled, streamed again from anywhere, cancelled, and continued."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import openai
import pytest

from antiphon import stores
from antiphon.config import ScriptedModel as Scripted
from antiphon.config import Settings
from antiphon.core.deltas import Finish, Text, Thought
from antiphon.core.fold import fold
from antiphon.core.hosted import Tool
from antiphon.errors import ModelError
from antiphon.models.scripted import ScriptedModel
from antiphon.stores.memory import MemoryStore
from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import (
    COMMENT,
    DONE,
    Answer,
    Frame,
    Played,
    ask,
    create,
    events_of,
    exchange,
    final,
    serving,
    streaming,
)

STOP = Finish("stop")
TOOL = {"type": "antiphon:scripted"}
UNFINISHED = ("queued", "in_progress")


class Node:
    """One server process, as far as this one can be two."""

    def __init__(self, url: str, model: Played) -> None:
        self.url = url
        self.model = model

    async def get(self, response_id: str, query: str = "") -> Any:
        return (await ask(self.url, "GET", f"/v1/responses/{response_id}{query}")).value

    async def ended(self, response_id: str) -> Any:
        """The response, once it is over."""
        return await self.until(response_id, lambda response: response["status"] not in UNFINISHED)

    async def until(self, response_id: str, is_so: Callable[[Any], Any]) -> Any:
        """The response, polled until it is so."""
        async with asyncio.timeout(WAIT_S):
            while not is_so(response := await self.get(response_id)):
                pass
        return response

    async def frames(self, response_id: str, query: str = "") -> list[Frame]:
        async with exchange(self.url, "GET", f"/v1/responses/{response_id}?stream=true{query}") as one:
            assert (await one.head()).status == 200
            return await one.frames()

    async def cancel(self, response_id: str) -> Answer:
        return await ask(self.url, "POST", f"/v1/responses/{response_id}/cancel")


@asynccontextmanager
async def node(settings: Settings, *tools: Tool, **limits: Any) -> AsyncIterator[Node]:
    settings = changed(settings, limits={"shutdown_grace_s": 0.2, **limits})
    store, model = stores.build(settings.storage, settings.limits), Played()
    try:
        async with serving(settings, store, model, ScriptedModel(Scripted(), settings.limits), more=tools) as url:
            yield Node(url, model)
    finally:
        await store.close()


@pytest.fixture
async def one(scripted: Settings) -> AsyncIterator[Node]:
    async with node(scripted) as made:
        yield made


@pytest.fixture
async def other(one: Node, scripted: Settings) -> AsyncIterator[Node]:
    """A second process on the same file."""
    async with node(scripted) as made:
        yield made


async def asked(at: Node, **fields: Any) -> Any:
    return (await create(at.url, background=True, **{"model": "played", **fields})).value


async def happens(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), WAIT_S)


# -- asked for, and polled


async def test_it_is_queued_at_once_and_made_whether_or_not_anybody_waits(one: Node) -> None:
    queued = await asked(one, metadata={"colour": "red"}, instructions="Be brief.")
    await happens(one.model.is_asked)
    one.model.say(Text("a "))
    running = await one.get(queued["id"])
    one.model.say(Text("b"), STOP)
    response = await one.ended(queued["id"])

    assert (queued["status"], queued["background"], queued["output"], queued["usage"]) == ("queued", True, [], None)
    assert (running["status"], running["completed_at"]) == ("in_progress", None)
    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["text"] == "a b"
    told = {"status", "output", "usage", "completed_at"}
    assert {key: value for key, value in response.items() if key not in told} == {
        key: value for key, value in queued.items() if key not in told
    }


async def test_what_it_has_said_so_far_is_seen(one: Node) -> None:
    queued = await asked(one)
    one.model.say(Text("half "))
    running = await one.until(queued["id"], lambda response: response["output"])
    one.model.say(Text("an answer"), STOP)

    assert running["output"][0]["status"] == "in_progress"
    assert running["output"][0]["content"][0]["text"] == "half "
    assert (await one.ended(queued["id"]))["output"][0]["content"][0]["text"] == "half an answer"


async def test_it_is_listed_with_its_input_from_the_beginning(one: Node, other: Node) -> None:
    queued = await asked(one, input="say hello")
    listed = (await ask(other.url, "GET", "/v1/responses?status=queued")).value["data"]
    listed += (await ask(other.url, "GET", "/v1/responses?status=in_progress")).value["data"]
    items = (await ask(other.url, "GET", f"/v1/responses/{queued['id']}/input_items")).value["data"]

    assert [response["id"] for response in listed] == [queued["id"]]
    assert [item["content"][0]["text"] for item in items] == ["say hello"]


async def test_a_model_that_fails_is_a_failed_response(one: Node) -> None:
    queued = await asked(one)
    one.model.fail(ModelError("It is out of order."))
    response = await one.ended(queued["id"])

    assert (response["status"], response["output"]) == ("failed", [])
    assert response["error"] == {"code": "server_error", "message": "It is out of order."}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": False}, "background"),
        ({"model": "nobody"}, "model"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
    ],
)
async def test_what_cannot_be_made_is_refused_at_once(one: Node, fields: dict[str, Any], param: str) -> None:
    answer = await create(one.url, background=True, **{"model": "played", **fields})

    assert (answer.status, answer.error["param"]) == (400, param)
    assert (await ask(one.url, "GET", "/v1/responses")).value["data"] == []


async def test_it_is_continued_once_it_is_over_and_not_before(one: Node, other: Node) -> None:
    queued = await asked(one, input="one")
    early = [await create(at.url, model="scripted", previous_response_id=queued["id"]) for at in (one, other)]
    for at in (one, other):
        at.model.say(Text("two"), STOP)
    await one.ended(queued["id"])
    send = {"model": "scripted", "input": "tell items.1.content.0.text", "previous_response_id": queued["id"]}
    later = [(await create(at.url, **send)).value["output"][0]["content"][0]["text"] for at in (one, other)]

    assert [answer.refusal for answer in early] == [(400, None, "previous_response_id")] * 2
    assert "still in progress" in early[1].error["message"]
    assert later == ['"two"', '"two"']


async def test_a_background_response_goes_on_from_another(one: Node) -> None:
    first = (await create(one.url, input="say one")).value
    second = await asked(one, model="scripted", input="tell items.1.content.0.text", previous_response_id=first["id"])

    assert (await one.ended(second["id"]))["output"][0]["content"][0]["text"] == '"one"'


async def test_its_conversation_is_locked_until_it_ends(one: Node, other: Node) -> None:
    conversation = (await ask(one.url, "POST", "/v1/conversations", {})).value["id"]
    queued = await asked(one, conversation=conversation, input="one")
    locked = await create(other.url, conversation=conversation)
    for at in (one, other):
        at.model.say(Text("two"), STOP)
    await one.ended(queued["id"])
    items = (await ask(other.url, "GET", f"/v1/conversations/{conversation}/items?order=asc")).value["data"]

    assert locked.refusal == (400, "conversation_locked", None)
    assert [item["content"][0]["text"] for item in items] == ["one", "two"]
    assert (await create(other.url, conversation=conversation)).status == 200


async def test_a_running_one_is_not_deleted(one: Node, other: Node) -> None:
    queued = await asked(one)
    path = f"/v1/responses/{queued['id']}"
    assert [(await ask(at.url, "DELETE", path)).refusal for at in (one, other)] == [(400, None, None)] * 2
    for at in (one, other):
        at.model.say(STOP)
    await one.ended(queued["id"])

    assert (await ask(other.url, "DELETE", path)).status == 200
    assert (await ask(one.url, "GET", f"{path}?stream=true")).status == 404


# -- streamed, and streamed again


async def test_a_stream_begins_with_the_queue_and_keeps_the_laws(one: Node) -> None:
    one.model.say(Thought("hm"), Text("a"))
    one.model.say(Text("b"), STOP)
    async with streaming(one.url, background=True, model="played") as stream:
        assert (await stream.head()).headers["content-type"].startswith("text/event-stream")
        frames = await stream.frames()
    statuses = [frame.data["response"]["status"] for frame in frames[:3]]

    assert final(frames)["status"] == "completed"
    assert [frame.event for frame in frames[:3]] == [
        f"response.{kind}" for kind in ("created", "queued", "in_progress")
    ]
    assert statuses == ["queued", "queued", "in_progress"]
    assert await one.get(final(frames)["id"]) == final(frames)


async def test_the_same_frames_come_again_from_any_number_at_any_process(one: Node, other: Node) -> None:
    async with streaming(
        one.url, background=True, model="scripted", input="think a | say b\u2028c | call f {}"
    ) as stream:
        await stream.head()
        frames = await stream.frames()
    response_id = final(frames)["id"]

    for at in (one, other):
        assert await at.frames(response_id) == frames
        for number in (-1, 0, 5, len(frames) - 3):
            assert await at.frames(response_id, f"&starting_after={number}") == frames[number + 1 :]
        assert await at.frames(response_id, f"&starting_after={len(frames) + 5}") == [DONE]


async def test_a_reader_who_left_goes_on_elsewhere_while_it_is_made(one: Node, other: Node) -> None:
    async with streaming(one.url, background=True, model="played") as stream:
        for at in (one, other):
            at.model.say(Text("a "))
        await stream.head()
        before = await stream.frames_until("response.output_text.delta")
    response_id = before[0].data["response"]["id"]
    number = before[-1].data["sequence_number"]
    maker = one if one.model.is_asked.is_set() else other
    follower = other if maker is one else one
    async with exchange(
        follower.url, "GET", f"/v1/responses/{response_id}?stream=true&starting_after={number}"
    ) as stream:
        await stream.head()
        maker.model.say(Text("b "))
        live = await stream.frames_until("response.output_text.delta")
        maker.model.say(Text("c"), STOP)
        after = await stream.frames()

    assert final([*before, *live, *after])["output"][0]["content"][0]["text"] == "a b c"


async def test_silence_is_commented(scripted: Settings) -> None:
    async with node(scripted, keepalive_s=0.05) as one, streaming(one.url, background=True, model="played") as stream:
        await stream.head()
        await stream.frames_until("response.in_progress")
        assert (await stream.frames_until(None))[-1] == COMMENT
        one.model.say(Text("a"), STOP)
        assert (await stream.frames())[-1] == DONE


async def test_deltas_are_padded_when_asked_for(one: Node) -> None:
    options = {"include_obfuscation": True}
    async with streaming(one.url, background=True, model="scripted", stream_options=options) as stream:
        await stream.head()
        frames = await stream.frames()
    response_id = events_of(frames)[0]["response"]["id"]
    again = await one.frames(response_id, "&include_obfuscation=true")
    plain = await one.frames(response_id)

    for padded in (frames, again):
        assert all("obfuscation" in event for event in events_of(padded) if event["type"].endswith(".delta"))
    assert not any("obfuscation" in event for event in events_of(plain))


async def test_usage_is_told_at_the_end_when_asked_for(one: Node) -> None:
    async with streaming(one.url, background=True, model="scripted", stream_options={"include_usage": True}) as stream:
        await stream.head()
        frames = await stream.frames()

    assert frames[-2].data["object"] == "response.chunk"
    assert frames[-2].data["usage"]["output_tokens"] == 1


@pytest.mark.parametrize(("fields", "missing"), [({}, "background=true"), ({"background": True}, "stream=true")])
async def test_what_has_no_stored_stream_says_so(one: Node, fields: dict[str, Any], missing: str) -> None:
    response_id = (await create(one.url, **fields)).value["id"]
    answer = await ask(one.url, "GET", f"/v1/responses/{response_id}?stream=true")

    assert answer.refusal == (400, "response_not_streamable", "stream")
    assert missing in answer.error["message"]


async def test_a_stream_is_not_sealed_afterwards(one: Node) -> None:
    response_id = (await asked(one, model="scripted", stream=False))["id"]
    query = "stream=true&include[]=reasoning.encrypted_content"

    assert (await ask(one.url, "GET", f"/v1/responses/{response_id}?{query}")).refusal == (400, None, "include")


async def test_both_dialects_replay_a_stream(one: Node) -> None:
    async with streaming(one.url, background=True, model="scripted", input="think a | say b") as stream:
        await stream.head()
        response_id = events_of(await stream.frames())[0]["response"]["id"]
    async with exchange(one.url, "GET", f"/openresponses/v1/responses/{response_id}?stream=true") as stream:
        await stream.head()
        kinds = [frame.event for frame in await stream.frames()]

    assert "response.reasoning.delta" in kinds
    assert "response.reasoning_text.delta" not in kinds


# -- cancelled


async def test_a_cancelled_one_stops_the_model_and_keeps_what_was_said(one: Node) -> None:
    queued = await asked(one)
    one.model.say(Text("half"))
    await one.until(queued["id"], lambda response: response["output"])
    response = (await one.cancel(queued["id"])).value
    await happens(one.model.is_over)

    assert (response["status"], response["usage"], response["error"]) == ("cancelled", None, None)
    assert (response["output"][0]["status"], response["output"][0]["content"][0]["text"]) == ("incomplete", "half")
    assert await one.get(queued["id"]) == response == (await one.cancel(queued["id"])).value


async def test_another_process_cancels_it_and_the_model_stops(one: Node, other: Node) -> None:
    async with streaming(one.url, background=True, model="played") as stream:
        for at in (one, other):
            at.model.say(Text("half"))
        await stream.head()
        before = await stream.frames_until("response.output_text.delta")
        response_id = before[0].data["response"]["id"]
        maker, canceller = (one, other) if one.model.is_asked.is_set() else (other, one)
        response = (await canceller.cancel(response_id)).value
        frames = [*before, *await stream.frames()]
        await happens(maker.model.is_over)

    assert (response["status"], response["output"][0]["content"][0]["text"]) == ("cancelled", "half")
    assert final(frames) == response == await maker.get(response_id)
    assert frames[-2].event == "response.incomplete"


async def test_one_that_is_just_being_taken_here_is_cancelled(scripted: Settings) -> None:
    """Its process has claimed it, but has not heard so yet."""
    store, model = stores.build(scripted.storage, scripted.limits), Played()
    runs = store.runs
    is_claimed, is_wanted = asyncio.Event(), asyncio.Event()

    class Slow:
        """Answers what it did a little later."""

        def __getattr__(self, name: str) -> Any:
            return getattr(runs, name)

        async def claim(self, *given: Any, **more: Any) -> Any:
            if claimed := await runs.claim(*given, **more):
                is_claimed.set()
                await is_wanted.wait()
            return claimed

        async def standing(self, *given: Any) -> Any:
            is_wanted.set()
            return await runs.standing(*given)

        async def seize(self, *given: Any) -> Any:
            for _ in range(100):
                await asyncio.sleep(0)
            return await runs.seize(*given)

    store.runs = Slow()  # type: ignore[misc]
    async with serving(scripted, store, model) as url:
        one = Node(url, model)
        queued = await asked(one)
        await happens(is_claimed)
        response = (await one.cancel(queued["id"])).value
        seen = await one.get(queued["id"])
    await store.close()

    assert response["status"] == "cancelled"
    assert seen == response


async def test_one_that_waits_is_cancelled_without_being_made(scripted: Settings) -> None:
    async with node(scripted, background_runs_max=1) as one:
        first, second = await asked(one), await asked(one, stream=False)
        response = (await one.cancel(second["id"])).value
        one.model.say(STOP)
        await one.ended(first["id"])

    assert (response["status"], response["output"]) == ("cancelled", [])
    assert len(one.model.prompts) == 1


async def test_cancelling_frees_the_conversation(one: Node) -> None:
    conversation = (await ask(one.url, "POST", "/v1/conversations", {})).value["id"]
    queued = await asked(one, conversation=conversation)
    await one.cancel(queued["id"])

    assert (await create(one.url, conversation=conversation)).status == 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [({}, "Cannot cancel a synchronous response."), ({"background": True}, "Cannot cancel a completed response.")],
)
async def test_what_cannot_be_cancelled_says_why(one: Node, fields: dict[str, Any], message: str) -> None:
    response = (await create(one.url, **fields)).value
    await one.ended(response["id"])
    answer = await one.cancel(response["id"])

    assert answer.refusal == (400, None, None)
    assert answer.error["message"] == message
    assert (await one.cancel("resp_x")).status == 404


async def test_a_hosted_tool_is_stopped_too(one: Node) -> None:
    async with streaming(
        one.url, background=True, model="scripted", input='call scripted {"text": "wait"}', tools=[TOOL]
    ) as stream:
        await stream.head()
        before = await stream.frames_until("response.antiphon:scripted_call.searching")
        response = (await one.cancel(before[0].data["response"]["id"])).value
        frames = await stream.frames()

    assert response["output"][0]["status"] == "incomplete"
    assert final([*before, *frames]) == response


# -- limits


async def test_no_more_are_made_at_once_than_allowed(scripted: Settings) -> None:
    async with node(scripted, background_runs_per_project_max=1) as one:
        first, second = await asked(one), await asked(one)
        await happens(one.model.is_asked)
        assert (await one.get(second["id"]))["status"] == "queued"
        one.model.say(Text("a"), STOP)
        await one.ended(first["id"])
        one.model.say(Text("b"), STOP)
        assert (await one.ended(second["id"]))["output"][0]["content"][0]["text"] == "b"


@pytest.mark.parametrize("limit", ["background_queue_max", "background_queue_per_project_max"])
async def test_a_full_queue_says_when_to_try_again(scripted: Settings, limit: str) -> None:
    async with node(scripted, background_runs_max=1, **{limit: 1}) as one:
        await asked(one)
        await happens(one.model.is_asked)
        conversation = (await ask(one.url, "POST", "/v1/conversations", {})).value["id"]
        await asked(one)
        answer = await create(one.url, background=True, model="played", conversation=conversation)

        assert answer.refusal == (429, "rate_limit_exceeded", None)
        assert 0 < float(answer.headers["retry-after"]) <= 120
        assert (await create(one.url, conversation=conversation)).status == 200


# -- with the SDK, and in memory


async def test_the_sdk_streams_leaves_resumes_and_cancels(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="scripted", input="long 40", background=True, stream=True)
    seen = []
    async for event in stream:
        seen.append(event)
        if event.sequence_number == 20:
            break
    await stream.close()
    response_id = seen[0].response.id  # type: ignore[union-attr] # response.created
    resumed = await client.responses.retrieve(response_id, stream=True, starting_after=20)
    seen += [event async for event in resumed]
    async with client.responses.stream(response_id=response_id) as again:
        whole = await again.get_final_response()
    async with client.responses.stream(response_id=response_id, starting_after=20) as part:
        rest = [event.type async for event in part]

    assert fold(event.to_dict() for event in seen)["status"] == "completed"
    assert whole.output_text == " ".join(f"word{number}" for number in range(40))
    assert rest[-1] == "response.completed"
    waiting = await client.responses.create(model="scripted", input="stall", background=True)
    assert waiting.status == "queued"
    assert (await client.responses.cancel(waiting.id)).status == "cancelled"


async def test_the_store_in_memory_does_it_too(scripted: Settings) -> None:
    store, model = MemoryStore(scripted.storage, scripted.limits), Played()
    async with serving(scripted, store, model) as url:
        model.say(Text("a"), STOP)
        async with streaming(url, background=True, model="played") as stream:
            await stream.head()
            frames = await stream.frames()
        assert await Node(url, model).frames(final(frames)["id"]) == frames
    await store.close()


async def test_servers_that_share_a_postgresql_do_it_too(scripted: Settings, database: str) -> None:
    files = scripted.storage.database + ".files"
    shared = changed(
        scripted,
        storage={"database": database, "files": files},
        server={"secret": base64.b64encode(bytes(32)).decode()},
    )
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(serve(shared)) for _ in range(2)]
        urls = [url.removesuffix("/v1") for url in (one, other)]
        async with streaming(urls[0], background=True, input="pace 5 | think a b c | say d e f") as stream:
            await stream.head()
            before = await stream.frames_until("response.in_progress")
        response = events_of(before)[0]["response"]
        reader = Node(urls[1], Played())
        after = await reader.frames(response["id"], f"&starting_after={before[-1].data['sequence_number']}")
        waiting = (await create(urls[0], background=True, input="stall")).value
        cancelled = (await reader.cancel(waiting["id"])).value

    assert final([*before, *after])["status"] == "completed"
    assert cancelled["status"] == "cancelled"
