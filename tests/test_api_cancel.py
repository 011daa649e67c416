"""A client that leaves, a server that stops, a save that fails: the model stops, and what is kept says so."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from antiphon.config import Settings
from antiphon.core.deltas import Finish, Text, Thought, ToolCall
from antiphon.errors import StorageError
from antiphon.stores.sqlite import SqliteStore
from antiphon.wire.items import Item
from antiphon.wire.response import Response
from tests.conftest import WAIT_S, changed
from tests.rawclient import Exchange, Played, ask, create, exchange, final, parsed, request, serving, streaming

STOP = Finish("stop")
TEXT = "response.output_text.delta"


class Watched(SqliteStore):
    """The real store, which tells of each save, and can be told to keep it waiting or to fail."""

    def watch(self) -> None:
        self.saved: asyncio.Queue[Response] = asyncio.Queue()
        self.asked: list[str] = []
        """The status of each response that was to be saved."""
        self.is_saving = asyncio.Event()
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.is_full = False

    async def save(self, project: str, response: Response, given: Sequence[Item], history: Sequence[Item]) -> None:
        self.asked.append(response.status)
        self.is_saving.set()
        await self.is_open.wait()
        if self.is_full:
            raise StorageError
        await super().save(project, response, given, history)
        self.saved.put_nowait(response)

    async def next_saved(self) -> Response:
        return await asyncio.wait_for(self.saved.get(), WAIT_S)


class Stage:
    """A server, and both its ends."""

    def __init__(self, url: str, model: Played, store: Watched) -> None:
        self.url = url
        self.model = model
        self.store = store

    async def stored(self, response_id: str) -> Any:
        return (await ask(self.url, "GET", f"/v1/responses/{response_id}")).value


@asynccontextmanager
async def staged(settings: Settings, **limits: float) -> AsyncIterator[Stage]:
    settings = changed(settings, limits={"first_byte_wait_s": WAIT_S, "shutdown_grace_s": 0.1, **limits})
    store, model = Watched(settings.storage, settings.limits), Played()
    store.watch()
    try:
        async with serving(settings, store, model) as url:
            yield Stage(url, model, store)
    finally:
        await store.close()


@pytest.fixture
async def stage(scripted: Settings) -> AsyncIterator[Stage]:
    async with staged(scripted) as one:
        yield one


async def happens(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), WAIT_S)


# -- the client leaves


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        ([Text("a"), Text("b")], ["message"]),
        ([Thought("a")], ["reasoning"]),
        ([ToolCall("0", '{"a', name="f")], ["function_call"]),
        ([Thought("a"), Text("b")], ["reasoning", "message"]),
    ],
)
async def test_a_client_that_leaves_its_stream_cancels_the_run(
    stage: Stage, caplog: pytest.LogCaptureFixture, said: Any, kinds: list[str]
) -> None:
    async with streaming(stage.url, model="played") as one:
        stage.model.say(*said)
        await one.head()
        await one.piece()
    await happens(stage.model.is_over)
    response = await stage.stored((await stage.store.next_saved()).id)

    assert (response["status"], response["usage"], response["completed_at"]) == ("cancelled", None, None)
    assert (response["error"], response["incomplete_details"]) == (None, None)
    assert [item["type"] for item in response["output"]] == kinds
    assert response["output"][-1]["status"] == "incomplete"
    assert caplog.records == []  # nothing went wrong


async def test_a_client_that_leaves_while_it_waits_cancels_the_run(stage: Stage) -> None:
    async with exchange(stage.url, "POST", "/v1/responses", request(model="played")):
        stage.model.say(Text("a"))
        await happens(stage.model.is_asked)
    await happens(stage.model.is_over)
    response = await stage.stored((await stage.store.next_saved()).id)

    assert (response["status"], response["usage"]) == ("cancelled", None)


async def test_a_client_that_leaves_within_its_request_is_nobody(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with await Exchange.open(stage.url) as one:
        one.send("POST", "/v1/responses", b'{"model":"pl', {"content-length": "100"})
        await one.writer.drain()
        await left(stage.url)
    await left(stage.url)

    assert caplog.records == []
    assert not stage.model.is_wanted.is_set()
    assert stage.store.saved.empty()


async def test_a_client_that_leaves_before_the_head_cancels_the_run(stage: Stage) -> None:
    async with streaming(stage.url, model="played"):
        await happens(stage.model.is_asked)
    await happens(stage.model.is_over)
    response = await stage.stored((await stage.store.next_saved()).id)

    assert (response["status"], response["output"], response["usage"]) == ("cancelled", [], None)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_before_its_run_begins_does_not_set_the_model_to_work(
    stage: Stage, stream: bool
) -> None:
    stage.model.is_listed.clear()
    async with exchange(stage.url, "POST", "/v1/responses", request(model="played", stream=stream)):
        await happens(stage.model.is_wanted)
    await left(stage.url)
    stage.model.is_listed.set()

    assert (await stage.store.next_saved()).status == "cancelled"
    assert not stage.model.is_asked.is_set() or stage.model.is_over.is_set()


async def left(url: str) -> None:
    """Until the server has had the time to notice what came before: one more request, and its answer."""
    assert (await ask(url, "GET", "/health")).status == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_while_a_hosted_tool_runs_cancels_both(stage: Stage, stream: bool) -> None:
    fields = request(model="played", stream=stream, tools=[{"type": "antiphon:scripted"}])
    async with exchange(stage.url, "POST", "/v1/responses", fields) as one:
        stage.model.say(Text("a"), ToolCall("0", '{"text":"wait"}', name="scripted"), Finish("tool_calls"))
        if stream:
            await one.head()
            await one.frames_until("response.antiphon:scripted_call.searching")
        else:
            await happens(stage.model.is_over)
    response = await stage.stored((await stage.store.next_saved()).id)

    assert (response["status"], response["usage"]) == ("cancelled", None)
    message, call = response["output"]
    assert (message["status"], call["status"], call["output"]) == ("completed", "incomplete", None)


async def test_what_is_not_to_be_stored_is_cancelled_and_gone(stage: Stage) -> None:
    async with streaming(stage.url, model="played", store=False) as one:
        stage.model.say(Text("a"))
        await one.head()
        created = parsed(await one.piece())[0].data["response"]
    await happens(stage.model.is_over)

    assert (await ask(stage.url, "GET", f"/v1/responses/{created['id']}")).status == 404
    assert stage.store.saved.empty()


async def test_a_client_that_leaves_while_its_answer_is_saved_cancels_nothing(stage: Stage) -> None:
    stage.store.is_open.clear()
    async with streaming(stage.url, model="played") as one:
        stage.model.say(Text("a"), STOP)
        await one.head()
        await one.piece()
        await happens(stage.store.is_saving)
    await left(stage.url)
    stage.store.is_open.set()

    response = await stage.stored((await stage.store.next_saved()).id)
    assert response["status"] == "completed"
    assert stage.store.asked == ["completed"]


async def test_only_the_creating_connection_can_cancel(stage: Stage) -> None:
    async with streaming(stage.url, model="played") as one:
        stage.model.say(Text("a"))
        await one.head()
        first = parsed(await one.piece())
        path = f"/v1/responses/{first[0].data['response']['id']}"
        async with exchange(stage.url, "GET", path):
            pass
        assert (await ask(stage.url, "DELETE", path)).refusal == (400, None, None)
        stage.model.say(STOP)
        response = final([*first, *await one.frames()])

    assert response["status"] == "completed"


async def test_a_cancelled_response_can_be_continued(stage: Stage) -> None:
    async with streaming(stage.url, model="played") as one:
        stage.model.say(Text("half a"), ToolCall("0", '{"a', name="f"))
        await one.head()
        await one.piece()
    parent = await stage.store.next_saved()
    stage.model.say(Text("b"), STOP)
    child = await create(stage.url, model="played", input="go on", previous_response_id=parent.id)

    assert parent.status == "cancelled"
    assert child.value["status"] == "completed"


# -- the server stops


async def test_a_server_that_stops_saves_what_runs_as_cancelled_and_says_so(scripted: Settings) -> None:
    async with AsyncExitStack() as server:
        stage = await server.enter_async_context(staged(scripted))
        async with streaming(stage.url, model="played") as one:
            stage.model.say(Text("a"))
            await one.head()
            first = parsed(await one.piece())
            await server.aclose()
            saved = await stage.store.next_saved()
            frames = await one.frames()

    assert (saved.status, saved.usage, getattr(saved.output[0], "status", "")) == ("cancelled", None, "incomplete")
    assert frames[-2].event == "response.incomplete"
    assert final([*first, *frames])["status"] == "cancelled"


async def test_a_server_that_stops_answers_who_waits(scripted: Settings) -> None:
    async with AsyncExitStack() as server:
        stage = await server.enter_async_context(staged(scripted))
        async with exchange(stage.url, "POST", "/v1/responses", request(model="played")) as one:
            await happens(stage.model.is_asked)
            await server.aclose()
            saved = await stage.store.next_saved()
            answer = await one.answer()

    assert saved.status == "cancelled"
    assert answer.value["status"] == "cancelled" if answer.status == 200 else answer.error


async def test_a_server_that_stops_lets_a_short_answer_end(scripted: Settings) -> None:
    async with AsyncExitStack() as server:
        stage = await server.enter_async_context(staged(scripted, shutdown_grace_s=WAIT_S))
        async with streaming(stage.url, model="played") as one:
            stage.model.say(Text("a"))
            await one.head()
            first = parsed(await one.piece())
            stopping = asyncio.create_task(server.aclose())
            await taking_nothing_new(stage.url)
            stage.model.say(Text("b"), STOP)
            response = final([*first, *await one.frames()])
            await stopping

    assert response["status"] == "completed"
    assert (await stage.store.next_saved()).status == "completed"


async def taking_nothing_new(url: str) -> None:
    """Until the server says that it is about to stop."""
    async with asyncio.timeout(WAIT_S):
        while (await ask(url, "GET", "/ready")).status == 200:
            pass
    refused = await create(url)
    assert (refused.refusal, refused.headers["retry-after"]) == ((503, None, None), "1")


# -- the save fails


async def test_a_failed_save_ends_the_stream_as_failed(stage: Stage) -> None:
    stage.store.is_full = True
    async with streaming(stage.url, model="played") as one:
        stage.model.say(Text("a"), STOP)
        await one.head()
        frames = await one.frames()
    response = final(frames)

    assert frames[-2].event == "response.failed"
    assert "response.completed" not in {frame.event for frame in frames}
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert (await ask(stage.url, "GET", f"/v1/responses/{response['id']}")).refusal == (404, None, None)


async def test_a_failed_save_is_a_500_for_who_waits(stage: Stage) -> None:
    stage.store.is_full = True
    stage.model.say(Text("a"), STOP)
    answer = await create(stage.url, model="played")

    assert answer.refusal == (500, "server_error", None)
    assert answer.error["message"] == StorageError().message


async def test_after_a_failed_save_the_next_one_works(stage: Stage) -> None:
    stage.store.is_full = True
    stage.model.say(Text("a"), STOP)
    await create(stage.url, model="played")
    stage.store.is_full = False
    stage.model.say(Text("a"), STOP)
    response = (await create(stage.url, model="played")).value

    assert await stage.stored(response["id"]) == response


async def test_nothing_is_called_completed_before_it_is_saved(stage: Stage) -> None:
    stage.store.is_open.clear()
    async with streaming(stage.url, model="played") as one:
        stage.model.say(Text("a"), STOP)
        await one.head()
        before = await one.frames_until("response.output_item.done")
        await happens(stage.store.is_saving)
        running = await stage.stored(before[0].data["response"]["id"])
        stage.store.is_open.set()
        after = await one.frames()

    assert "response.completed" not in {frame.event for frame in before}
    assert running["status"] == "in_progress"
    assert [frame.event for frame in after] == ["response.completed", None]
