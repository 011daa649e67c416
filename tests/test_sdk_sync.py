"""The official SDK, synchronous, against the scripted model: each test is a script of its own, run in a thread.

Every answer it gets is held to the rules by `sync_sdk` (tests/chatserver.py).
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.responses import FunctionToolParam

from antiphon.config import ScriptedModel, ScriptedToolSettings, Settings, Storage, Tools
from tests.chatserver import sync_sdk
from tests.conftest import WAIT_S, serve

MODEL = "scripted"
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    "strict": False,
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server for all: no test looks at what another one stored."""
    settings = Settings(
        models=(ScriptedModel(name=MODEL),),
        storage=Storage(database=str(tmp_path_factory.mktemp("store") / "test.db")),
        tools=Tools(scripted=ScriptedToolSettings(enabled=True)),
    )
    async with serve(settings) as address:
        yield address


def in_thread(script: Callable[[openai.OpenAI], None]) -> Callable[[str], Awaitable[None]]:
    """A test of what a program does that knows nothing of asyncio."""

    def run(url: str) -> None:
        with sync_sdk(url) as client:
            script(client)

    async def test(url: str) -> None:
        await asyncio.wait_for(asyncio.to_thread(run, url), WAIT_S)

    return test


@in_thread
def test_a_question_is_answered(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="say hello there")

    assert (response.status, response.output_text) == ("completed", "hello there")
    assert client.responses.retrieve(response.id) == response


@in_thread
def test_a_stream_tells_the_answer_step_by_step(client: openai.OpenAI) -> None:
    with client.responses.create(model=MODEL, input="think hm | say hello there", stream=True) as stream:
        events = list(stream)

    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert "".join(event.delta for event in events if event.type == "response.reasoning_text.delta") == "hm"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "hello there"


@in_thread
def test_the_strict_stream_ends_with_the_final_response(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model=MODEL, input="think hm | say hello there", reasoning={"summary": "concise"}
    ) as stream:
        summary = "".join(event.delta for event in stream if event.type == "response.reasoning_summary_text.delta")
        final = stream.get_final_response()

    assert (summary, final.output_text) == ("hm", "hello there")
    assert client.responses.retrieve(final.id).output_text == "hello there"


@in_thread
def test_the_strict_stream_has_no_final_response_where_the_answer_is_cut(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="long 50", max_output_tokens=2) as stream:
        *_, last = stream
        with pytest.raises(RuntimeError, match=r"response\.completed"):
            stream.get_final_response()

    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"


@in_thread
def test_a_tool_loop_runs_until_the_model_answers(client: openai.OpenAI) -> None:
    script = 'call get_weather {"location": "Paris"} | call get_weather {"location": "London"}'
    response = client.responses.create(model=MODEL, input=script, tools=[WEATHER])
    while calls := [item for item in response.output if item.type == "function_call"]:
        places = [json.loads(call.arguments)["location"] for call in calls]
        response = client.responses.create(
            model=MODEL,
            input=[
                {"type": "function_call_output", "call_id": call.call_id, "output": f"fog in {place}"}
                for call, place in zip(calls, places, strict=True)
            ],
            previous_response_id=response.id,
            tools=[WEATHER],
        )

    assert response.output_text == "got: fog in Paris, fog in London"


@in_thread
def test_a_stateless_tool_loop_hands_all_items_back(client: openai.OpenAI) -> None:
    conversation: list[Any] = [{"role": "user", "content": "think hm | call get_weather {}"}]
    with client.responses.stream(model=MODEL, input=conversation, tools=[WEATHER], store=False) as stream:
        asked = stream.get_final_response()
    conversation += asked.output
    call = asked.output[-1]
    assert call.type == "function_call"
    conversation.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})

    response = client.responses.create(model=MODEL, input=conversation, tools=[WEATHER], store=False)

    assert response.output_text == "got: sunny"


@in_thread
def test_a_hosted_tool_answers_within_the_response(client: openai.OpenAI) -> None:
    hosted: Any = {"type": "antiphon:scripted", "name": "lookup", "output": "found it"}
    response = client.responses.create(model=MODEL, input='call lookup {"text": "a"}', extra_body={"tools": [hosted]})

    assert [item.type for item in response.output] == ["antiphon:scripted_call", "message"]
    assert response.output_text == "got: found it"


@in_thread
def test_a_conversation_forks_and_survives_its_root(client: openai.OpenAI) -> None:
    root = client.responses.create(model=MODEL, input="say root")
    left = client.responses.create(model=MODEL, input="say left", previous_response_id=root.id)
    right = client.responses.create(model=MODEL, input="say right", previous_response_id=root.id)
    client.responses.delete(root.id)

    for response, word in ((left, "left"), (right, "right")):
        said = [item.to_dict() for item in client.responses.input_items.list(response.id, order="asc")]
        assert [item["content"][0]["text"] for item in said] == ["say root", "root", f"say {word}"]  # type: ignore[index]
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.retrieve(root.id)
    assert gone.value.request_id
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="hello", previous_response_id=root.id)
    assert refused.value.code == "previous_response_not_found"


@in_thread
def test_input_items_are_paged_by_themselves(client: openai.OpenAI) -> None:
    words: list[Any] = [{"role": "user", "content": f"word{number}"} for number in range(7)]
    response = client.responses.create(model=MODEL, input=words)

    pages = list(client.responses.input_items.list(response.id, limit=3).iter_pages())
    after = client.responses.input_items.list(response.id, after=pages[0].data[-1].id or "", limit=100)

    assert [len(page.data) for page in pages] == [3, 3, 1]
    assert [item.id for item in after] == [item.id for page in pages[1:] for item in page.data]


@in_thread
def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "antiphon"


@in_thread
def test_a_stream_that_is_closed_early_is_cancelled_and_kept(client: openai.OpenAI) -> None:
    with client.responses.create(model=MODEL, input="stall", stream=True) as stream:
        created = next(stream)
        assert created.type == "response.created"
        while next(stream).type != "response.output_text.delta":
            pass

    deadline = time.monotonic() + WAIT_S / 2
    while (response := client.responses.retrieve(created.response.id)).status == "in_progress":
        assert time.monotonic() < deadline

    assert (response.status, response.output_text) == ("cancelled", "stalling")


@in_thread
def test_the_bytes_of_a_stream_are_server_sent_events(client: openai.OpenAI) -> None:
    with client.responses.with_streaming_response.create(model=MODEL, input="say hi", stream=True) as raw:
        lines = list(raw.iter_lines())

    assert raw.headers["x-request-id"]
    assert lines[0] == "event: response.created"
    assert lines[-2:] == ["data: [DONE]", ""]
    assert {line.partition(":")[0] for line in lines} == {"event", "data", ""}
