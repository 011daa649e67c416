"""The official SDK in front of an antiphon that asks another antiphon, over the Responses API.

The inner one is strict: whatever it is sent and does not know, it refuses. Every answer of the outer one is held to
the rules by `sdk` (tests/chatserver.py).
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

import openai
import pytest
import pytest_asyncio
from openai.types.responses import FunctionToolParam, ResponseFunctionToolCall

from antiphon import app
from antiphon.config import Limits, ResponsesUpstream, ScriptedModel, Server, Settings, Storage
from tests import recorded
from tests.chatserver import ended, sdk
from tests.conftest import WAIT_S, serve
from tests.rawserver import RawServer, Wire, answers, stalls, streams

Object: TypeAlias = dict[str, Any]

MEMORY = Storage(database=":memory:")
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
TIME: FunctionToolParam = WEATHER | {"name": "get_time"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


def in_front_of(url: str) -> Settings:
    return Settings(models=(ResponsesUpstream(url=url, attempts_max=1),), storage=MEMORY)


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with serve(in_front_of(url)) as outer, sdk(outer) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inner() -> AsyncIterator[str]:
    settings = Settings(models=(ScriptedModel(name="m"),), storage=MEMORY, server=Server(strict=True))
    async with serve(settings) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(inner: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(asking(inner))


async def test_an_answer_is_the_same_whole_streamed_and_stored(client: openai.AsyncOpenAI) -> None:
    script = "think I wonder. | say Hello, how are you?"
    whole = await client.responses.create(model="m", input=script)
    async with client.responses.stream(model="m", input=script) as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        strict = await stream.get_final_response()
    stored = await client.responses.retrieve(strict.id)

    assert {one.output_text for one in (whole, strict, stored)} == {"Hello, how are you?"}
    assert "".join(deltas) == "Hello, how are you?"
    assert len(deltas) > 1
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (9, 6)
    assert whole.usage.output_tokens_details.reasoning_tokens == 2


async def test_an_upstream_may_speak_open_responses(inner: str) -> None:
    """Its events of raw reasoning have other names, its errors another shape."""
    async with asking(inner.replace("/v1", "/openresponses/v1")) as client:
        told = await client.responses.create(model="m", input="think I wonder. | say Hello", stream=True)
        *_, last = [event async for event in told]
        assert last.type == "response.completed"
        assert [item.to_dict()["content"][0]["text"] for item in last.response.output] == ["I wonder.", "Hello"]  # type: ignore[index] # a list
        broken = await client.responses.create(model="m", input="say one | fail after", stream=True)
        *_, last = [event async for event in broken]
        assert last.type == "response.failed"
        assert "The scripted model failed: after" in str(last.response.error)


async def test_ids_are_ours_and_not_the_upstreams(inner: str, client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="m", input="say Hi")
    async with sdk(inner) as direct:
        with pytest.raises(openai.NotFoundError):
            await direct.responses.retrieve(response.id)


async def test_a_conversation_is_told_whole(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(
        model="m", input="think hm | say one", instructions="Be brief.", reasoning={"summary": "auto"}
    )
    second = await client.responses.create(model="m", input="say two", previous_response_id=first.id)
    assert (first.output[0].type, second.output_text) == ("reasoning", "two")
    assert second.usage is not None
    assert second.usage.input_tokens > 4


async def test_a_tool_loop_ends_in_an_answer(client: openai.AsyncOpenAI) -> None:
    asked = 'think Which? | call get_weather {"city": "Paris"} | call get_weather {"city": "Rome"}'
    first = await client.responses.create(model="m", input=asked, tools=[WEATHER])
    calls = [item for item in first.output if isinstance(item, ResponseFunctionToolCall)]
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]

    outputs: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"sunny {number}"}
        for number, call in enumerate(calls)
    ]
    by_id = await client.responses.create(model="m", input=outputs, previous_response_id=first.id, tools=[WEATHER])
    handed_back: Any = [{"role": "user", "content": asked}, *(item.to_dict() for item in first.output), *outputs]
    whole = await client.responses.create(model="m", input=handed_back, tools=[WEATHER])
    assert by_id.output_text == whole.output_text == "got: sunny 0, sunny 1"


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("required", ["get_weather"]),
        ({"type": "function", "name": "get_time"}, ["get_time"]),
        ("none", []),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_time"}]}, []),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_choice_is_kept(client: openai.AsyncOpenAI, choice: Any, called: list[str], stream: bool) -> None:
    asked: Any = {"model": "m", "input": "Hello!", "tools": [WEATHER, TIME], "tool_choice": choice}
    if stream:
        async with client.responses.stream(**asked) as events:
            response: Any = await events.get_final_response()
    else:
        response = await client.responses.create(**asked)
    assert [item.name for item in response.output if item.type == "function_call"] == called


async def test_a_tool_that_is_not_allowed_is_not_called(client: openai.AsyncOpenAI) -> None:
    choice: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_time"}]}
    asked: Any = {"input": 'call get_time {"city": "Rome"}', "tools": [WEATHER, TIME], "tool_choice": choice}
    allowed = await client.responses.create(model="m", **asked)
    assert [item.type for item in allowed.output] == ["function_call"]

    asked["input"] = 'call get_weather {"city": "Rome"}'
    told = await client.responses.create(model="m", **asked)
    assert [item.type for item in told.output] == ["message"]
    assert told.output_text == "got: The call was not made: only these tools may be called now: get_time."


async def test_a_second_call_does_not_come_where_it_is_not_wanted(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(
        model="m", input="call get_time {} | call get_time {}", tools=[TIME], parallel_tool_calls=False
    )
    assert [item.type for item in response.output] == ["function_call"]


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT: Any = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "verbosity": "low"}


async def test_a_schema_reaches_the_upstream(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="m", input='say {"a": 1}', text=FORMAT)
    assert json.loads(response.output_text) == {"a": 1}
    with pytest.raises(openai.InternalServerError, match=r"does not fit text\.format"):
        await client.responses.create(model="m", input="say no", text=FORMAT)


async def test_all_parameters_are_taken_by_a_strict_upstream(client: openai.AsyncOpenAI) -> None:
    more = {"top_k": 3, "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": 0.5, "seed": 7, "stop": ["three"],
            "logit_bias": {"5": 1.0}}  # fmt: skip
    response = await client.responses.create(
        model="m",
        input="say one two three",
        instructions="Be brief.",
        temperature=0.5,
        top_p=0.5,
        max_output_tokens=20,
        reasoning={"effort": "low", "summary": "auto"},
        service_tier="flex",
        user="u",
        extra_body=more,
    )
    assert response.output_text == "one two "


async def test_logprobs_are_asked_of_the_upstream_and_passed_on(client: openai.AsyncOpenAI) -> None:
    response: Any = await client.responses.create(model="m", input="say Hi", include=["message.output_text.logprobs"])
    assert [logprob.token for logprob in response.output[0].content[0].logprobs] == ["Hi"]


async def test_logprobs_that_an_upstream_has_not_are_refused() -> None:
    async with Recorded("gptoss20b-responses-text-stream") as server, asking(server.url) as outer:
        with pytest.raises(openai.BadRequestError, match="no logprobs") as refused:
            await outer.responses.create(model="m", input="Hi", include=["message.output_text.logprobs"])
    assert refused.value.param == "include"


async def test_a_picture_is_passed_on() -> None:
    picture = "data:image/png;base64,iVBORw0KGgo="
    content = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": picture}]
    async with Recorded("gptoss20b-responses-text-stream") as server, asking(server.url) as outer:
        asked: Any = [{"role": "user", "content": content}]
        assert (await outer.responses.create(model="m", input=asked)).output_text == "Hello!"
    sent = json.loads(server.asked[-1].body)["input"][0]["content"]
    assert sent[1] == {"type": "input_image", "image_url": picture, "detail": "auto"}


async def test_the_token_limit_cuts_an_answer(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="m", input="say one two three four", max_output_tokens=2)
    assert (response.status, response.output_text) == ("incomplete", "one two")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_a_refusal_stays_one(client: openai.AsyncOpenAI) -> None:
    response: Any = await client.responses.create(model="m", input="refuse I may not")
    assert [part.to_dict() for part in response.output[0].content] == [{"type": "refusal", "refusal": "I may not"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_word_is_a_status(client: openai.AsyncOpenAI, stream: bool) -> None:
    with pytest.raises(openai.InternalServerError, match="The scripted model failed: before") as failed:
        await client.responses.create(model="m", input="fail before", stream=stream)
    assert failed.value.status_code == 502


async def test_a_failure_after_the_first_word_is_the_last_event(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="m", input="say one | fail after", stream=True)
    *_, last = [event async for event in stream]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "The scripted model failed: after" in last.response.error.message
    assert last.response.output_text == "one"


async def test_a_refusal_of_the_upstream_names_the_parameter(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="other", input="Hi")
    assert refused.value.code == "model_not_found"


async def test_models_are_listed_and_the_doctor_is_content(inner: str, client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["m"]
    checks = {check.name: check for check in await app.doctor(in_front_of(inner))}
    assert checks[f"responses upstream {inner}"].ok
    assert checks[f"responses upstream {inner}"].detail == "It answers. Models: m."


async def test_the_doctor_says_what_to_do_about_an_upstream_that_is_down() -> None:
    async with RawServer(answers(b"{}")) as gone:
        pass
    found = next(check for check in await app.doctor(in_front_of(gone.url)) if "upstream" in check.name)
    assert (found.ok, "cannot be reached" in found.detail) == (False, True)
    assert "Start that server" in found.remedy


# -- upstreams that are not lawful


class Recorded(RawServer):
    """Serves the model m, which answers whatever it is asked with a recording of vLLM."""

    def __init__(self, name: str) -> None:
        super().__init__(self._answer)
        self._script = streams(recorded.sse(f"upstream-responses/{name}"))

    async def _answer(self, wire: Wire) -> None:
        listed = answers(b'{"object":"list","data":[{"id":"m"}]}')
        await (listed if wire.asked.path == "/v1/models" else self._script)(wire)


@pytest.mark.parametrize("name", [name.rpartition("/")[2] for name in recorded.streams("upstream-responses")])
async def test_a_recorded_stream_of_vllm_comes_out_lawful_over_http(name: str) -> None:
    body = recorded.request_body(f"upstream-responses/{name}")
    asked: Any = {key: body[key] for key in ("tools", "tool_choice") if key in body}
    async with Recorded(name) as server, asking(server.url) as client:
        async with client.responses.stream(model="m", input="Hi", **asked) as stream:
            streamed = await stream.get_final_response()
        whole = await client.responses.create(model="m", input="Hi", **asked)
    told = [(item.type, getattr(item, "arguments", None)) for item in streamed.output]
    assert told == [(item.type, getattr(item, "arguments", None)) for item in whole.output]
    assert (streamed.status, streamed.output_text) == ("completed", whole.output_text)


HALF = b'data: {"type":"response.output_text.delta","item_id":"m","output_index":0,"delta":"half"}\n\n'


async def test_a_stream_that_is_closed_early_stops_the_upstream() -> None:
    gone = asyncio.Event()
    listed = answers(b'{"object":"list","data":[{"id":"m"}]}')
    async with RawServer(listed, stalls(HALF, gone=gone)) as server, asking(server.url) as client:
        async with client.responses.stream(model="m", input="Hello!") as stream:
            created = await anext(stream)
            assert created.type == "response.created"
            assert not gone.is_set()
        await asyncio.wait_for(gone.wait(), WAIT_S)
        response = await ended(client, created.response.id)
    assert (response.status, response.output_text) == ("cancelled", "half")


async def test_a_client_that_leaves_stops_the_antiphon_behind() -> None:
    patient = Limits(shutdown_grace_s=2 * WAIT_S)
    behind = Settings(models=(ScriptedModel(name="m"),), storage=MEMORY, limits=patient)
    async with AsyncExitStack() as inner:
        url = await inner.enter_async_context(serve(behind))
        async with asking(url) as client:
            stream = await client.responses.create(model="m", input="stall", stream=True)
            async for event in stream:
                if event.type == "response.output_text.delta":
                    break
            await stream.close()
            await inner.aclose()  # it waits for its runs longer than this test may take
