"""The official SDK against each kind of model: what holds for all three, then what only a real or a distant one shows.

Every answer it gets is held to the rules by `sdk` (tests/chatserver.py).
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, TypeAlias

import openai
import pytest
import pytest_asyncio
from openai.types.responses import FunctionToolParam

from antiphon.config import (
    ChatUpstream,
    Limits,
    ModelSettings,
    ScriptedModel,
    Settings,
    Storage,
)
from tests import chatserver as chat
from tests.chatserver import ChatServer, ended, relay, sdk
from tests.conftest import WAIT_S, serve
from tests.rawserver import HEAD, RawServer, Script, Wire, answers, breaks_off, chunked, streams

Object: TypeAlias = dict[str, Any]

WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    "strict": False,
}
MEMORY = Storage(database=":memory:")

pytestmark = pytest.mark.asyncio(loop_scope="module")

# -- the same of each model

GREETING = "Hello! How can I help you today?"
SORRY = "Sorry, I do not know."

SCRIPTS = {
    "Hello!": f"say {GREETING}",
    "What is the weather in Paris?": 'call get_weather {"location": "Paris"}',
    "What's the weather in Paris and London?": (
        'call get_weather {"location": "Paris"} | call get_weather {"location": "London"}'
    ),
    "What's the weather like in San Francisco?": (
        'think I need get_weather. | call get_weather {"location": "San Francisco"}'
    ),
    "My name is Alice.": "say Hello, Alice!",
    "What is my name?": "say Your name is Alice.",
    "What is the capital of France?": f"think I do not know this. | say {SORRY}",
    "Count to 10": "say 1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
}
"""The prompts that all are asked, in the language of the scripted model. The built-in one was trained on them."""


def calls(*places: str) -> list[Object]:
    """The deltas of parallel calls, the arguments in two pieces each."""
    return [
        delta
        for index, place in enumerate(places)
        for delta in (
            chat.call(index, f"call_{place.replace(' ', '_')}", "get_weather"),
            chat.arguments(index, '{"location": '),
            chat.arguments(index, f'"{place}"}}'),
        )
    ]


REPLIES = {
    "Hello!": chat.says("Hello!", " How can I", " help you today?"),
    "What is the weather in Paris?": chat.replies(*calls("Paris"), finish="tool_calls", usage=chat.used(9, 5)),
    "What's the weather in Paris and London?": chat.replies(*calls("Paris", "London"), finish="tool_calls"),
    "What's the weather like in San Francisco?": chat.replies(
        chat.thought("I need "), chat.thought("get_weather."), *calls("San Francisco"), finish="tool_calls"
    ),
    "Sunny, 22 degrees": chat.says("The tool says:", " Sunny, 22 degrees"),
    "My name is Alice.": chat.says("Hello, Alice!"),
    "What is my name?": chat.says("Your name is Alice."),
    "What is the capital of France?": chat.replies(
        chat.thought("I do not know this."), chat.text(SORRY), usage=chat.used(7, 12, thought=5)
    ),
    "Count to 10": chat.says("1", ",", " 2", ",", finish="length"),
}
"""What the model behind the chat server says to them."""


class Backend(NamedTuple):
    client: openai.AsyncOpenAI
    model: str

    def asking(self, prompt: str) -> Any:
        """`model` and `input` for a prompt."""
        return {"model": self.model, "input": SCRIPTS[prompt] if self.model == "scripted" else prompt}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["scripted", "antiphon-tiny", "upstream"])
async def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    model: str = request.param
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ChatServer(REPLIES))
        models: dict[str, tuple[ModelSettings, ...]] = {
            "scripted": (ScriptedModel(),),
            "antiphon-tiny": (),  # it serves where none is configured
            "upstream": (ChatUpstream(url=upstream.url),),
        }
        storage = Storage(database=str(tmp_path_factory.mktemp("store") / "test.db"))
        url = await stack.enter_async_context(serve(Settings(models=models[model], storage=storage)))
        yield Backend(await stack.enter_async_context(sdk(url)), model)


async def test_an_answer_is_the_same_whole_streamed_and_stored(backend: Backend) -> None:
    client = backend.client
    whole = await client.responses.create(**backend.asking("Hello!"))
    events = [event async for event in await client.responses.create(**backend.asking("Hello!"), stream=True)]
    async with client.responses.stream(**backend.asking("Hello!")) as stream:
        strict = await stream.get_final_response()

    last = events[-1]
    assert last.type == "response.completed"
    stored = await client.responses.retrieve(strict.id)
    assert {one.output_text for one in (whole, last.response, strict, stored)} == {GREETING}
    assert {one.model for one in (whole, last.response, strict, stored)} == {backend.model}
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == GREETING


async def test_usage_adds_up(backend: Backend) -> None:
    response = await backend.client.responses.create(**backend.asking("Hello!"))

    usage = response.usage
    assert usage is not None
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == 0


async def test_the_model_is_listed(backend: Backend) -> None:
    assert [model.id async for model in backend.client.models.list()] == [backend.model]
    assert (await backend.client.models.retrieve(backend.model)).object == "model"


async def test_a_name_is_remembered_in_the_conversation(backend: Backend) -> None:
    told = await backend.client.responses.create(**backend.asking("My name is Alice."))
    async with backend.client.responses.stream(
        **backend.asking("What is my name?"), previous_response_id=told.id
    ) as stream:
        answer = await stream.get_final_response()

    assert answer.output_text == "Your name is Alice."
    assert answer.previous_response_id == told.id
    items = [item async for item in backend.client.responses.input_items.list(answer.id)]
    assert [item.type for item in items] == ["message"] * 3


async def test_a_tool_loop_ends_in_an_answer(backend: Backend) -> None:
    create = backend.client.responses.create
    asked = await create(**backend.asking("What is the weather in Paris?"), tools=[WEATHER])
    [call] = asked.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"location": "Paris"})

    answered = await create(
        model=backend.model,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 22 degrees"}],
        previous_response_id=asked.id,
        tools=[WEATHER],
    )

    assert answered.output_text.endswith("Sunny, 22 degrees")


async def test_a_thought_and_its_call_are_handed_back_as_they_came(backend: Backend) -> None:
    asking = backend.asking("What's the weather like in San Francisco?")
    async with backend.client.responses.stream(**asking, tools=[WEATHER], reasoning={"effort": "low"}) as stream:
        asked = await stream.get_final_response()
    reasoning, call = asked.output
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert "I need get_weather." in reasoning.content[0].text
    assert call.type == "function_call"

    items: list[Any] = [{"role": "user", "content": asking["input"]}, *asked.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 22 degrees"})
    answered = await backend.client.responses.create(model=backend.model, input=items, tools=[WEATHER], store=False)

    assert answered.output_text.endswith("Sunny, 22 degrees")


async def test_two_calls_come_in_one_turn(backend: Backend) -> None:
    asking = backend.asking("What's the weather in Paris and London?")
    async with backend.client.responses.stream(**asking, tools=[WEATHER]) as stream:
        events = [event async for event in stream]
        asked = await stream.get_final_response()

    told = [json.loads(event.arguments) for event in events if event.type == "response.function_call_arguments.done"]
    assert told == [{"location": "Paris"}, {"location": "London"}]
    assert [item.type for item in asked.output] == ["function_call", "function_call"]
    assert len({item.call_id for item in asked.output if item.type == "function_call"}) == 2


async def test_a_thought_is_shown_as_a_summary_where_one_is_asked_for(backend: Backend) -> None:
    asking = backend.asking("What is the capital of France?")
    async with backend.client.responses.stream(**asking, reasoning={"effort": "low", "summary": "auto"}) as stream:
        events = [event async for event in stream]
        response = await stream.get_final_response()

    [summary] = [event.text for event in events if event.type == "response.reasoning_summary_text.done"]
    assert summary.strip() == "I do not know this."
    assert not any(event.type.startswith("response.reasoning_text") for event in events)
    assert response.output_text.startswith("Sorry, I")
    assert response.usage is not None
    assert 0 < response.usage.output_tokens_details.reasoning_tokens < response.usage.output_tokens


async def test_the_token_limit_cuts_an_answer(backend: Backend) -> None:
    stream = await backend.client.responses.create(**backend.asking("Count to 10"), max_output_tokens=4, stream=True)
    *_, last = [event async for event in stream]

    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output_text.startswith("1, 2")
    assert "10" not in last.response.output_text
    assert await backend.client.responses.retrieve(last.response.id) == last.response


async def test_what_was_deleted_is_gone(backend: Backend) -> None:
    response = await backend.client.responses.create(**backend.asking("Hello!"))
    await backend.client.responses.delete(response.id)

    with pytest.raises(openai.NotFoundError):
        await backend.client.responses.retrieve(response.id)


# -- the built-in model: what only real inference shows


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny() -> AsyncIterator[openai.AsyncOpenAI]:
    async with serve(Settings(storage=MEMORY)) as url, sdk(url) as client:
        yield client


TINY = "antiphon-tiny"


async def test_instructions_are_obeyed_and_not_inherited(tiny: openai.AsyncOpenAI) -> None:
    loud = await tiny.responses.create(model=TINY, input="Say hello", instructions="Always answer in capital letters.")
    calm = await tiny.responses.create(model=TINY, input="Say hello", previous_response_id=loud.id)

    assert (loud.output_text, calm.output_text) == (GREETING.upper(), GREETING)


async def test_an_answer_ends_before_a_stop_sequence(tiny: openai.AsyncOpenAI) -> None:
    one = await tiny.responses.create(model=TINY, input="Count to 10", extra_body={"stop": ", 5"})
    several = await tiny.responses.create(model=TINY, input="Count to 10", extra_body={"stop": ["x", ", 3"]})

    assert (one.output_text, several.output_text) == ("1, 2, 3, 4", "1, 2")
    assert one.status == several.status == "completed"


async def test_a_tool_choice_is_kept(tiny: openai.AsyncOpenAI) -> None:
    other: FunctionToolParam = WEATHER | {"name": "get_forecast"}

    async def called(prompt: str, choice: Any) -> list[str]:
        response = await tiny.responses.create(model=TINY, input=prompt, tools=[WEATHER, other], tool_choice=choice)
        return [item.name for item in response.output if item.type == "function_call"]

    assert await called("What is the weather in Paris?", "none") == []
    assert await called("Hello!", "auto") == []
    assert len(await called("What's the weather in Oslo?", "required")) >= 1
    named = {"type": "function", "name": "get_forecast"}
    assert await called("What's the weather in Oslo?", named) == ["get_forecast"]


async def test_no_second_call_comes_where_parallel_ones_are_refused(tiny: openai.AsyncOpenAI) -> None:
    prompt = "What's the weather in Paris and London?"
    response = await tiny.responses.create(model=TINY, input=prompt, tools=[WEATHER], parallel_tool_calls=False)

    assert [item.type for item in response.output] == ["function_call"]
    assert response.parallel_tool_calls is False


async def test_a_real_model_stops_when_the_stream_is_closed_early(tiny: openai.AsyncOpenAI) -> None:
    endless: FunctionToolParam = WEATHER | {
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "minLength": 7000}},
            "required": ["text"],
        }
    }
    async with tiny.responses.stream(
        model=TINY, input="Hello!", tools=[endless], tool_choice="required", max_output_tokens=7000
    ) as stream:
        created = await anext(stream)
        assert created.type == "response.created"
        async for event in stream:
            if event.type == "response.function_call_arguments.delta":
                break

    response = await ended(tiny, created.response.id)

    assert response.status == "cancelled"
    [call] = response.output
    assert call.type == "function_call"
    assert call.status == "incomplete"
    assert (await tiny.responses.create(model=TINY, input="Hello!")).output_text == GREETING


# -- a chat server over HTTP: what it is asked, and what becomes of its faults


async def test_an_upstream_is_told_the_whole_conversation_in_its_own_terms() -> None:
    async with relay(REPLIES) as (upstream, client):
        told = await client.responses.create(model="upstream", input="My name is Alice.", instructions="Be brief.")
        items: Any = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "What is my name?"}]
        await client.responses.create(
            model="upstream",
            input=items,
            previous_response_id=told.id,
            temperature=0.5,
            top_p=0.9,
            max_output_tokens=50,
            user="u1",
            reasoning={"effort": "high"},
            extra_body={"stop": ["\n", "END"]},
        )

    first, second = upstream.bodies
    assert first["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "My name is Alice."},
    ]
    assert second["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "My name is Alice."},
        {"role": "assistant", "content": "Hello, Alice!"},
        {"role": "user", "content": "What is my name?"},
    ]
    asked = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 50, "user": "u1", "reasoning_effort": "high"}
    assert {name: second[name] for name in (*asked, "stop")} == asked | {"stop": ["\n", "END"]}


async def test_an_upstream_is_told_thoughts_calls_and_outputs_of_the_turn_before() -> None:
    prompt = "What's the weather like in San Francisco?"
    async with relay(REPLIES) as (upstream, client):
        asked = await client.responses.create(model="upstream", input=prompt, tools=[WEATHER])
        output: Any = {
            "type": "function_call_output",
            "call_id": "call_San_Francisco",
            "output": [{"type": "input_text", "text": "Sunny, 22 degrees"}],
        }
        await client.responses.create(model="upstream", input=[output], previous_response_id=asked.id)

    _, assistant, tool = upstream.bodies[-1]["messages"]
    assert assistant["reasoning_content"] == "I need get_weather."
    [call] = assistant["tool_calls"]
    assert (call["id"], call["function"]["arguments"]) == ("call_San_Francisco", '{"location": "San Francisco"}')
    assert tool == {"role": "tool", "tool_call_id": "call_San_Francisco", "content": "Sunny, 22 degrees"}


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "get_weather"}, {"type": "function", "function": {"name": "get_weather"}}),
    ],
)
async def test_a_tool_choice_reaches_the_upstream(choice: Any, sent: object) -> None:
    prompt = "Hello!" if choice == "none" else "What is the weather in Paris?"
    async with relay(REPLIES) as (upstream, client):
        response = await client.responses.create(
            model="upstream", input=prompt, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False
        )

    [body] = upstream.bodies
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (sent, False)
    assert response.status == "completed"


async def test_an_upstream_that_ignores_a_tool_choice_is_asked_once_more() -> None:
    second_thought = chat.in_order(chat.says("No."), REPLIES["What is the weather in Paris?"])
    async with relay({"Weather!": second_thought}) as (upstream, client):
        response = await client.responses.create(
            model="upstream", input="Weather!", tools=[WEATHER], tool_choice="required"
        )

    assert len(upstream.bodies) == 2
    assert [item.type for item in response.output] == ["function_call"]


async def test_a_forced_hosted_call_and_its_output_are_told_and_not_forced_again() -> None:
    lookup: Any = {"type": "antiphon:scripted", "name": "lookup"}
    call = chat.replies(chat.call(0, "call_1", "lookup"), chat.arguments(0, '{"text": "a"}'), usage=chat.used(10, 5))
    async with relay({"Look!": call, "A": chat.says("It", " is A.")}) as (upstream, client):
        response = await client.responses.create(
            model="upstream", input="Look!", tools=[lookup], tool_choice="required"
        )

    first, second = upstream.bodies
    assert response.output_text == "It is A."
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (10 + 7, 5 + 2)
    assert (first["tool_choice"], second.get("tool_choice", "auto")) == ("required", "auto")
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool"]
    assert second["messages"][1]["tool_calls"][0]["function"] == {"name": "lookup", "arguments": '{"text": "a"}'}


@pytest.mark.parametrize(
    "asked",
    [
        {"input": "Hello!", "tool_choice": "required"},
        {"input": "What is the weather in Paris?", "tool_choice": "none"},
        {"input": "What's the weather in Paris and London?", "parallel_tool_calls": False},
    ],
)
async def test_an_upstream_that_goes_on_ignoring_what_it_is_asked_is_an_error(asked: Any) -> None:
    async with relay(REPLIES) as (upstream, client):
        with pytest.raises(openai.InternalServerError, match=r"ignored (tool_choice|parallel_tool_calls)"):
            await client.responses.create(model="upstream", tools=[WEATHER], **asked, stream=True)

    assert len(upstream.bodies) == 2


async def test_usage_is_the_upstreams_own_with_its_details() -> None:
    reply = chat.replies(chat.thought("hm"), chat.text("hi"), usage=chat.used(100, 20, cached=64, thought=15))
    async with relay({"Hello!": reply}) as (_, client):
        response = await client.responses.create(model="upstream", input="Hello!")

    assert response.usage is not None
    assert response.usage.to_dict() == {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 15},
        "total_tokens": 120,
    }


async def test_usage_that_an_upstream_does_not_report_is_estimated() -> None:
    async with relay({"Hello!": chat.replies(chat.text("Good morning to you."))}) as (_, client):
        response = await client.responses.create(model="upstream", input="Hello!")

    assert response.usage is not None
    assert response.usage.input_tokens > 0
    assert response.usage.output_tokens > 0


async def test_each_model_is_asked_for_at_the_upstream_that_serves_it() -> None:
    async with (
        ChatServer({"Hello!": chat.says("red")}, model="red") as red,
        ChatServer({"Hello!": chat.says("blue")}, model="blue") as blue,
    ):
        models = (ChatUpstream(url=red.url), ChatUpstream(url=blue.url), ScriptedModel())
        async with serve(Settings(models=models, storage=MEMORY)) as url, sdk(url) as client:
            assert [model.id async for model in client.models.list()] == ["red", "blue", "scripted"]
            said = [
                (await client.responses.create(model=model, input="Hello!")).output_text
                for model in ("blue", "red", "scripted")
            ]

    assert said == ["blue", "red", "Hello!"]


class Fault(NamedTuple):
    """What an upstream does, and what the client is told of it."""

    reply: Script
    message: str
    kind: type[openai.APIStatusError] = openai.InternalServerError


HALF = chat.sse(chat.chunk(chat.text("half")))

FAULTS_BEFORE = {
    "a refusal": Fault(chat.refuses("temperature is too hot"), "temperature is too hot", openai.BadRequestError),
    "an overflow": Fault(
        chat.refuses("too long", code="context_length_exceeded"), "context window", openai.BadRequestError
    ),
    "a rate limit": Fault(chat.refuses("slow down", status=429), "slow down", openai.RateLimitError),
    "a wrong key": Fault(chat.refuses("who are you", status=401), "refused the key"),
    "a breakdown": Fault(chat.refuses("on fire", status=500), "on fire"),
    "nonsense": Fault(streams(b"data: nonsense\n\n"), "no chunk"),
    "nothing": Fault(streams(), "ended before"),
    "a lost connection": Fault(breaks_off(), "closed the connection"),
}
FAULTS_AFTER = {
    "half, then a lost connection": Fault(breaks_off(HALF), "closed the connection"),
    "half, then the end": Fault(streams(HALF), "ended before"),
    "half, then nonsense": Fault(streams(HALF, b"data: nonsense\n\n"), "no chunk"),
    "half, then an error": Fault(streams(HALF, chat.sse({"error": {"message": "on fire", "code": 500}})), "on fire"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def faulty() -> AsyncIterator[openai.AsyncOpenAI]:
    """Gives the fault that is asked for."""
    faults = FAULTS_BEFORE | FAULTS_AFTER
    async with relay({what: fault.reply for what, fault in faults.items()}) as (_, client):
        yield client


@pytest.mark.parametrize("what", FAULTS_BEFORE)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_of_an_upstream_before_its_first_word_is_a_status(
    faulty: openai.AsyncOpenAI, what: str, stream: bool
) -> None:
    fault = FAULTS_BEFORE[what]

    with pytest.raises(fault.kind, match=fault.message) as failed:
        await faulty.responses.create(model="upstream", input=what, stream=stream)

    assert failed.value.request_id is not None


@pytest.mark.parametrize("what", FAULTS_AFTER)
async def test_a_fault_of_an_upstream_after_its_first_word_is_the_last_event(
    faulty: openai.AsyncOpenAI, what: str
) -> None:
    stream = await faulty.responses.create(model="upstream", input=what, stream=True)
    *_, last = [event async for event in stream]

    assert last.type == "response.failed"
    assert last.response.error is not None
    assert FAULTS_AFTER[what].message in last.response.error.message
    assert last.response.output_text == "half"
    assert (await faulty.responses.retrieve(last.response.id)).status == "failed"


@pytest.mark.parametrize("what", FAULTS_AFTER)
async def test_a_fault_of_an_upstream_is_a_status_where_nothing_was_streamed(
    faulty: openai.AsyncOpenAI, what: str
) -> None:
    with pytest.raises(openai.InternalServerError, match=FAULTS_AFTER[what].message):
        await faulty.responses.create(model="upstream", input=what)


async def test_an_upstream_that_is_down_is_an_error_that_names_it() -> None:
    async with ChatServer({}) as gone:
        pass
    settings = Settings(models=(ChatUpstream(url=gone.url, attempts_max=1),), storage=MEMORY)

    async with serve(settings) as url, sdk(url) as client:
        for asking in (client.responses.create(model="upstream", input="Hello!"), client.models.list()):
            with pytest.raises(openai.InternalServerError, match=gone.url.removeprefix("http://")) as failed:
                await asking
            assert failed.value.status_code == 502


class Silence:
    """A reply that falls silent until it may go on, or the other side has left."""

    def __init__(self) -> None:
        self.begun, self.over, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def until_over(self, wire: Wire) -> None:
        await wire.send(HEAD)
        await self.over.wait()
        await wire.send(chunked(HALF + chat.sse(chat.chunk({}, "stop")) + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async def until_lost(self, wire: Wire) -> None:
        await wire.send(HEAD)
        await self.over.wait()

    async def until_left(self, wire: Wire) -> None:
        await wire.send(HEAD)
        self.begun.set()
        await wire.wait_gone()
        self.left.set()

    async def until_left_midway(self, wire: Wire) -> None:
        await wire.send(HEAD + chunked(HALF))
        await wire.wait_gone()
        self.left.set()


async def test_a_stream_that_is_closed_early_stops_the_upstream() -> None:
    silence = Silence()
    async with relay({"Hello!": silence.until_left_midway}) as (_, client):
        async with client.responses.stream(model="upstream", input="Hello!") as stream:
            created = await anext(stream)
            assert created.type == "response.created"
            assert not silence.left.is_set()

        await asyncio.wait_for(silence.left.wait(), WAIT_S)
        response = await ended(client, created.response.id)

    assert (response.status, response.output_text) == ("cancelled", "half")
    assert [item.to_dict()["status"] for item in response.output] == ["incomplete"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_waits_no_longer_stops_the_upstream(stream: bool) -> None:
    silence = Silence()
    async with relay({"Hello!": silence.until_left}) as (_, client):
        waiting = asyncio.create_task(client.responses.create(model="upstream", input="Hello!", stream=stream))
        await asyncio.wait_for(silence.begun.wait(), WAIT_S)
        waiting.cancel()

        await asyncio.wait_for(silence.left.wait(), WAIT_S)

    assert waiting.cancelled()


async def test_a_stream_is_opened_and_kept_alive_while_the_upstream_is_silent() -> None:
    silence = Silence()
    limits = Limits(first_byte_wait_s=0.01, keepalive_s=0.01)
    async with relay({"Hello!": silence.until_over}, limits) as (_, client):
        body = b""
        async with client.responses.with_streaming_response.create(
            model="upstream", input="Hello!", stream=True
        ) as raw:
            async for piece in raw.iter_bytes():
                body += piece
                if b": keep-alive\n\n: keep-alive\n\n" in body:
                    silence.over.set()

    assert await answer_of(body) == "half"


async def test_a_failure_after_a_stream_was_opened_is_kept_though_nothing_was_said() -> None:
    silence = Silence()
    async with relay({"Hello!": silence.until_lost}, Limits(first_byte_wait_s=0.01)) as (_, client):
        stream = await client.responses.create(model="upstream", input="Hello!", stream=True)
        created = await anext(stream)
        silence.over.set()
        *_, last = [event async for event in stream]

        assert created.type == "response.created"
        assert last.type == "response.failed"
        assert await client.responses.retrieve(created.response.id) == last.response


async def answer_of(body: bytes) -> str:
    """What the strict stream makes of these bytes."""
    replay = answers(body, kind="text/event-stream", headers=["x-request-id: req_1"])
    async with (
        RawServer(replay) as server,
        sdk(server.url) as client,
        client.responses.stream(model="m", input="") as stream,
    ):
        return (await stream.get_final_response()).output_text
