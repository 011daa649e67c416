"""LangChain against the scripted model, by the Responses API: answers, streams, bound tools and what is remembered."""

import asyncio
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, custom_tool
from pydantic import BaseModel, SecretStr

from tests.clients.conftest import KNOWN_MODEL, MODEL
from tests.conftest import WAIT_S

ASK_WEATHER = 'call get_weather {"location": "Paris"}'

pytestmark = pytest.mark.asyncio(loop_scope="module")


@tool
def get_weather(location: str) -> str:
    """The weather of a place."""
    return f"sunny in {location}"


@pytest.fixture(autouse=True)
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces would go to their maker, where a developer's environment asks for them."""
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    monkeypatch.setenv("LANGCHAIN_TRACING_V2", "false")


def chat(url: str, model: str = MODEL, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=model,
        base_url=url,
        api_key=SecretStr("none"),
        use_responses_api=True,
        max_retries=0,
        timeout=WAIT_S,
        **settings,
    )


async def streamed(model: Any, messages: str | Sequence[BaseMessage], **options: Any) -> AIMessageChunk:
    """The chunks of a stream, added up as LangChain adds them."""
    chunks: list[AIMessageChunk] = [chunk async for chunk in model.astream(messages, **options)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


async def loop(model: Any, messages: list[BaseMessage]) -> AIMessage:
    """Asks, runs what is called, and asks again until nothing is called."""
    for _ in range(5):
        answer: AIMessage = await model.ainvoke(messages)
        messages.append(answer)
        if not answer.tool_calls:
            return answer
        messages += [await get_weather.ainvoke(call) for call in answer.tool_calls]
    raise AssertionError("the loop does not end")


async def test_a_question_is_answered(url: str) -> None:
    answer = await chat(url).ainvoke("say hello there")

    assert answer.text == "hello there"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == 3
    assert (answer.usage_metadata["output_tokens"], answer.usage_metadata["total_tokens"]) == (2, 5)
    assert answer.response_metadata["id"].startswith("resp_")
    assert (answer.response_metadata["status"], answer.response_metadata["model_name"]) == ("completed", MODEL)


@pytest.mark.parametrize("version", ["v0", "responses/v1", "v1"])
async def test_the_chunks_of_a_stream_add_up_to_the_answer(url: str, version: str) -> None:
    model = chat(url, output_version=version)

    answer = await streamed(model, "say hello there, you")

    assert answer.text == "hello there, you"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 7
    assert answer.response_metadata["status"] == "completed"
    assert answer.chunk_position == "last"


async def test_a_thought_is_a_block_of_reasoning(url: str) -> None:
    model = chat(url, reasoning={"summary": "auto"}, output_version="v1")
    script = "think let me see | say hi"

    for answer in (await model.ainvoke(script), await streamed(model, script)):
        reasoning, text = answer.content_blocks
        assert (reasoning["type"], text["type"]) == ("reasoning", "text")
        assert reasoning.get("reasoning") == "let me see"
        assert text.get("text") == "hi"
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_token_details"]["reasoning"] == 3


@pytest.mark.parametrize("version", ["v0", "responses/v1", "v1"])
async def test_a_tool_loop_runs_to_its_end(url: str, version: str) -> None:
    model = chat(url, output_version=version).bind_tools([get_weather])
    messages: list[BaseMessage] = [SystemMessage("Be kind."), HumanMessage(f"think hm | say so | {ASK_WEATHER}")]

    answer = await loop(model, messages)

    assert answer.text == "got: sunny in Paris"
    asked = messages[2]
    assert isinstance(asked, AIMessage)
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("get_weather", {"location": "Paris"})]
    messages.append(HumanMessage("say bye"))
    assert (await loop(model, messages)).text == "bye"


async def test_calls_over_several_turns_are_all_answered(url: str) -> None:
    model = chat(url, use_previous_response_id=True).bind_tools([get_weather])
    script = f'{ASK_WEATHER} | call get_weather {{"location": "Rome"}} => {ASK_WEATHER} => say done'
    messages: list[BaseMessage] = [HumanMessage(script)]

    answer = await loop(model, messages)

    assert answer.text == "done"
    outputs = [message.content for message in messages if isinstance(message, ToolMessage)]
    assert outputs == ["sunny in Paris", "sunny in Rome", "sunny in Paris"]


async def test_a_streamed_call_is_put_together(url: str) -> None:
    model = chat(url).bind_tools([get_weather], parallel_tool_calls=False)
    answer = await streamed(model, f'{ASK_WEATHER} | call get_weather {{"location": "Rome"}}')

    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"location": "Paris"})
    assert answer.invalid_tool_calls == []
    output = await get_weather.ainvoke(call)
    after = await streamed(model, [output], previous_response_id=answer.response_metadata["id"])
    assert after.text == "got: sunny in Paris"


async def test_a_required_call_is_made(url: str) -> None:
    model = chat(url).bind_tools([get_weather], tool_choice="get_weather", strict=True)

    answer = await model.ainvoke("hello")

    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("get_weather", {})]


class City(BaseModel):
    name: str
    people: int


async def test_an_answer_is_parsed_by_its_schema(url: str) -> None:
    model = chat(url).with_structured_output(City, method="json_schema", strict=True)
    script = 'say {"name": "Paris", "people": 2}'

    pieces = [piece async for piece in model.astream(script)]

    assert await model.ainvoke(script) == City(name="Paris", people=2)
    assert pieces[-1] == City(name="Paris", people=2)


@custom_tool
def sql(query: str) -> str:
    """Asks a database."""
    return f"rows of {query}"


async def test_a_custom_tool_gets_its_input_as_it_is(url: str) -> None:
    model = chat(url, output_version="responses/v1").bind_tools([sql])
    messages: list[BaseMessage] = [HumanMessage('call sql {"input": "select 1"}')]

    asked = await streamed(model, messages)
    [call] = asked.tool_calls
    assert (call["name"], call["args"]) == ("sql", {"__arg1": "select 1"})
    answered = await model.ainvoke([*messages, asked, await sql.ainvoke(call)])

    assert answered.text == "got: rows of select 1"


async def test_reasoning_is_handed_back_where_nothing_is_stored(url: str) -> None:
    model = chat(url, KNOWN_MODEL, store=False, include=["reasoning.encrypted_content"]).bind_tools([get_weather])
    messages: list[BaseMessage] = [HumanMessage(f"think hm | {ASK_WEATHER}")]

    assert (await loop(model, messages)).text == "got: sunny in Paris"


async def test_a_conversation_goes_on_from_the_previous_response(url: str) -> None:
    model = chat(url)
    first = await model.ainvoke("say one")
    second = await model.ainvoke("say two", previous_response_id=first.response_metadata["id"])

    assert second.text == "two"
    assert second.usage_metadata is not None
    assert second.usage_metadata["input_tokens"] == 5


async def test_the_synchronous_client_gets_the_same(url: str) -> None:
    pieces = await asyncio.to_thread(lambda: [chunk.text for chunk in chat(url).stream("say hello there")])

    assert "".join(pieces) == "hello there"


async def test_an_answer_that_is_cut_says_so(url: str) -> None:
    answer = await chat(url, max_completion_tokens=2).ainvoke("long 50")

    assert answer.text == "word0 word1"
    assert answer.response_metadata["status"] == "incomplete"
    assert answer.response_metadata["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_refusal_is_kept_apart_from_the_text(url: str) -> None:
    answer = await chat(url, output_version="v0").ainvoke("refuse not that")

    assert answer.text == ""
    assert answer.additional_kwargs["refusal"] == "not that"


async def test_an_unknown_model_is_an_error_of_the_sdk_beneath(url: str) -> None:
    model = chat(url, "gpt-99")

    with pytest.raises(openai.BadRequestError, match="gpt-99"):
        await model.ainvoke("hello")
    with pytest.raises(openai.BadRequestError, match="gpt-99"):
        await streamed(model, "hello")


async def test_a_model_that_fails_under_way_is_an_error(url: str) -> None:
    with pytest.raises(Exception, match="on purpose"):
        await streamed(chat(url), "say half, | fail on purpose")
