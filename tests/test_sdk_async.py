"""The official SDK, asynchronous, against the scripted model: answers, streams, tools and state.

Every answer it gets is held to the rules by `sdk` (tests/chatserver.py).
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import openai
import pytest
import pytest_asyncio
from openai.types.responses import FunctionToolParam

from antiphon.config import ScriptedModel, ScriptedToolSettings, Settings, Storage, Tools
from antiphon.core.fold import Unlawful
from tests.chatserver import ended, sdk
from tests.conftest import serve
from tests.rawserver import RawServer, answers

Object: TypeAlias = dict[str, Any]

MODEL = "scripted"
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    "strict": False,
}
LOOKUP: Any = {"type": "antiphon:scripted", "name": "lookup"}
"""A tool that the server runs itself, which the package has no type for."""
UNTYPED = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
"""The strict stream copies each response, and warns of a tool that the package has no type for."""
OPTIONAL = (
    *("background", "conversation", "instructions", "max_output_tokens", "max_tool_calls", "parallel_tool_calls"),
    *("previous_response_id", "prompt", "prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "stop"),
    *("store", "stream", "stream_options", "temperature", "tool_choice", "top_logprobs", "top_p", "truncation", "user"),
)


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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(url) as client:
        yield client


async def test_the_client_of_these_tests_refuses_a_stream_that_breaks_a_law() -> None:
    frame = b'event: response.in_progress\ndata: {"type":"response.in_progress","sequence_number":0}\n\n'
    lawless = answers(frame, kind="text/event-stream", headers=["x-request-id: req_1"])

    async with RawServer(lawless) as server, sdk(server.url) as client:
        stream = await client.responses.create(model=MODEL, input="hello", stream=True)
        with pytest.raises(Unlawful, match="may not follow nothing"):
            await anext(stream)


# -- answers


async def test_a_question_is_answered(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="say hello there", temperature=0.5, top_p=0.9)

    assert response.output_text == "hello there"
    assert (response.status, response.model, response.error) == ("completed", MODEL, None)
    assert (response.temperature, response.top_p) == (0.5, 0.9)
    assert response.id.startswith("resp_")
    assert response.completed_at is not None
    assert response.completed_at >= response.created_at
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (3, 2, 5)


async def test_a_stream_tells_the_answer_step_by_step(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input="say hello there", stream=True)
    events = [event async for event in stream]

    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "hello there"


async def test_the_strict_stream_ends_with_the_final_response(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="think hm | say hello there") as stream:
        snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()

    assert snapshots == ["hello", "hello there"]
    assert final.output_text == "hello there"
    stored = await client.responses.retrieve(final.id)
    assert (stored.status, stored.output_text, stored.usage) == (final.status, final.output_text, final.usage)


async def test_text_that_looks_like_frames_arrives_unharmed(client: openai.AsyncOpenAI) -> None:
    text = "a\r\n\nevent: x\ndata: [DONE]\n\n\u2028\u2029\x85\x0b\x00 é 😀"
    async with client.responses.stream(model=MODEL, input=f"say {text}") as stream:
        final = await stream.get_final_response()

    assert final.output_text == text
    assert (await client.responses.retrieve(final.id)).output_text == text


async def test_many_streams_at_once_keep_to_themselves(client: openai.AsyncOpenAI) -> None:
    async def ask(number: int) -> str:
        script = f"think {number} | say " + f"{number} " * 20
        async with client.responses.stream(model=MODEL, input=script) as stream:
            return (await stream.get_final_response()).output_text

    said = await asyncio.gather(*map(ask, range(20)))

    assert [text.split() for text in said] == [[str(number)] * 20 for number in range(20)]


async def test_a_conversation_may_be_handed_in_as_items(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(
        model=MODEL,
        input=[
            {"role": "system", "content": "Be brief."},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
            {"role": "user", "content": "say one"},
            {"role": "assistant", "content": "one"},
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "say "}, {"type": "input_text", "text": "two"}],
            },
        ],
    )

    assert response.output_text == "two"
    assert response.usage is not None
    assert response.usage.input_tokens == 9


async def test_a_refusal_is_a_part_of_the_message(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="refuse not that") as stream:
        refused = [event.refusal async for event in stream if event.type == "response.refusal.done"]
        final = await stream.get_final_response()

    assert refused == ["not that"]
    assert final.output_text == ""
    [message] = final.output
    assert message.type == "message"
    assert message.content[0].to_dict() == {"type": "refusal", "refusal": "not that"}


async def test_nulls_and_empty_collections_count_as_absent(client: openai.AsyncOpenAI) -> None:
    nulls: Object = dict.fromkeys(OPTIONAL)
    empty: Object = {"tools": [], "include": [], "text": {}, "metadata": {}}
    tidy = await client.responses.create(model=MODEL, input="hello")

    response = await client.responses.create(model=MODEL, input="hello", extra_body=nulls | empty)

    told_anew = {"id", "created_at", "completed_at", "output"}
    assert response.to_dict(exclude_unset=False).keys() == tidy.to_dict(exclude_unset=False).keys()
    assert [name for name, value in response if name not in told_anew and value != getattr(tidy, name)] == []
    assert (await client.responses.retrieve(response.id)).output_text == "hello"


async def test_what_is_only_taken_note_of_is_echoed(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(
        model=MODEL,
        input="hello",
        user="u1",
        prompt_cache_key="k1",
        safety_identifier="s1",
        service_tier="flex",
        metadata={"ticket": "42", "": "empty key"},
        reasoning={"effort": "low"},
    )

    again = await client.responses.retrieve(response.id)
    assert again == response
    assert (again.user, again.prompt_cache_key, again.safety_identifier) == ("u1", "k1", "s1")
    assert again.service_tier == "default"  # the one that there is, whatever was asked for
    assert again.metadata == {"ticket": "42", "": "empty key"}
    assert again.reasoning is not None
    assert again.reasoning.effort == "low"


async def test_metadata_up_to_its_limits_is_kept(client: openai.AsyncOpenAI) -> None:
    metadata = {f"{number:02}" + "k" * 62: "v" * 512 for number in range(16)}

    response = await client.responses.create(model=MODEL, input="hello", metadata=metadata)

    assert (await client.responses.retrieve(response.id)).metadata == metadata


async def test_unknown_fields_are_named_in_a_header(client: openai.AsyncOpenAI) -> None:
    items: Any = [{"role": "user", "content": "hello", "mood": "good"}]
    raw = await client.responses.with_raw_response.create(model=MODEL, input=items, extra_body={"zeal": 11})

    assert sorted(raw.headers["antiphon-ignored-parameters"].split(", ")) == ["input[0].mood", "zeal"]
    assert raw.headers["x-request-id"] == raw.request_id
    assert raw.parse().output_text == "hello"


async def test_the_models_are_listed(client: openai.AsyncOpenAI) -> None:
    listed = [model async for model in client.models.list()]

    assert [(model.id, model.object, model.owned_by) for model in listed] == [(MODEL, "model", "antiphon")]
    assert await client.models.retrieve(MODEL) == listed[0]


# -- reasoning


async def test_a_thought_is_reasoning_text(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="think let me see | say hi") as stream:
        thought = [event.delta async for event in stream if event.type == "response.reasoning_text.delta"]
        final = await stream.get_final_response()

    assert "".join(thought) == "let me see"
    reasoning, message = final.output
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert [part.text for part in reasoning.content] == ["let me see"]
    assert reasoning.summary == []
    assert message.type == "message"
    assert final.usage is not None
    assert final.usage.output_tokens_details.reasoning_tokens == 3


async def test_a_thought_is_a_summary_where_one_is_asked_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(
        model=MODEL, input="think let me see | say hi", reasoning={"summary": "auto"}, stream=True
    )
    events = [event async for event in stream]

    thought = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(thought) == "let me see"
    assert not any(event.type.startswith("response.reasoning_text") for event in events)
    [final] = [event.response for event in events if event.type == "response.completed"]
    reasoning = final.output[0]
    assert reasoning.type == "reasoning"
    assert [part.text for part in reasoning.summary] == ["let me see"]
    assert reasoning.content is None


# -- limits


async def test_an_answer_that_reaches_its_token_limit_is_incomplete(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="long 50", max_output_tokens=2)

    assert (response.status, response.output_text) == ("incomplete", "word0 word1")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.completed_at is None
    [message] = response.output
    assert message.type == "message"
    assert message.status == "incomplete"


async def test_a_stream_that_reaches_its_token_limit_says_so_at_its_end(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="think hm | long 50", max_output_tokens=3) as stream:
        events = [event async for event in stream]

    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == "word0 word1"
    statuses = [event.item.status for event in events if event.type == "response.output_item.done"]  # type: ignore[union-attr]
    assert statuses == ["completed", "incomplete"]


async def test_the_least_token_limit_is_one(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="long 50", max_output_tokens=1)

    assert (response.status, response.output_text) == ("incomplete", "word0")


async def test_a_conversation_goes_on_after_an_incomplete_answer(client: openai.AsyncOpenAI) -> None:
    cut = await client.responses.create(model=MODEL, input="say half, | cut")
    goes_on = await client.responses.create(model=MODEL, input="say and half", previous_response_id=cut.id)

    assert (cut.status, cut.output_text) == ("incomplete", "half,")
    assert goes_on.output_text == "and half"


async def test_a_call_that_was_cut_needs_no_output(client: openai.AsyncOpenAI) -> None:
    script = 'call get_weather {"location": "Paris"}'
    cut = await client.responses.create(model=MODEL, input=script, tools=[WEATHER], max_output_tokens=1)
    goes_on = await client.responses.create(model=MODEL, input="say never mind", previous_response_id=cut.id)

    assert [item.to_dict()["status"] for item in cut.output] == ["incomplete"]
    assert goes_on.output_text == "never mind"


# -- tools


async def test_a_tool_loop_goes_on_from_the_previous_response(client: openai.AsyncOpenAI) -> None:
    asked = await client.responses.create(model=MODEL, input='call get_weather {"location": "Paris"}', tools=[WEATHER])
    [call] = asked.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"location": "Paris"}

    answered = await client.responses.create(
        model=MODEL,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
        previous_response_id=asked.id,
        tools=[WEATHER],
    )

    assert answered.output_text == "got: sunny"
    assert answered.previous_response_id == asked.id


async def test_a_tool_loop_goes_on_from_items_handed_back_as_they_came(client: openai.AsyncOpenAI) -> None:
    conversation: list[Any] = [{"role": "user", "content": 'think hm | call get_weather {"location": "Paris"}'}]
    asked = await client.responses.create(model=MODEL, input=conversation, tools=[WEATHER], store=False)
    conversation += asked.output
    reasoning, call = asked.output
    assert reasoning.type == "reasoning"
    assert call.type == "function_call"
    conversation.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})

    answered = await client.responses.create(model=MODEL, input=conversation, tools=[WEATHER], store=False)
    conversation += answered.output
    conversation.append({"role": "user", "content": "say bye"})

    assert answered.output_text == "got: sunny"
    assert (await client.responses.create(model=MODEL, input=conversation)).output_text == "bye"


@pytest.mark.parametrize("script", ["think hm | say hi", "refuse no", "call get_weather {}", "say half, | cut"])
async def test_items_handed_back_as_plain_json_are_kept_as_they_came(client: openai.AsyncOpenAI, script: str) -> None:
    raw = await client.responses.with_raw_response.create(model=MODEL, input=script, tools=[WEATHER])
    output: list[Object] = json.loads(raw.content)["output"]
    answers = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "done"}
        for item in output
        if item["type"] == "function_call"
    ]
    items: list[Any] = [{"role": "user", "content": script}, *output, *answers, {"role": "user", "content": "say bye"}]

    goes_on = await client.responses.create(model=MODEL, input=items)

    assert goes_on.output_text == "bye"
    kept = [item.to_dict() async for item in client.responses.input_items.list(goes_on.id, order="asc")]
    assert kept[1 : 1 + len(output)] == output


async def test_the_arguments_of_a_call_are_streamed(client: openai.AsyncOpenAI) -> None:
    script = 'call get_weather {"location": "Paris"}'
    async with client.responses.stream(model=MODEL, input=script, tools=[WEATHER]) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()

    [added] = [event.item for event in events if event.type == "response.output_item.added"]
    assert added.type == "function_call"
    assert (added.name, added.arguments) == ("get_weather", "")
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert pieces == ['{"location":', ' "Paris"}']
    [call] = final.output
    assert call.type == "function_call"
    assert call.arguments == '{"location": "Paris"}'


async def test_calls_of_one_turn_are_answered_together_in_any_order(client: openai.AsyncOpenAI) -> None:
    script = 'call get_weather {"location": "Paris"} | call get_weather {"location": "London"}'
    asked = await client.responses.create(model=MODEL, input=script, tools=[WEATHER])
    paris, london = asked.output
    assert paris.type == london.type == "function_call"
    assert paris.call_id != london.call_id
    parts: Any = [{"type": "input_text", "text": "rain"}, {"type": "input_text", "text": "y"}]

    answered = await client.responses.create(
        model=MODEL,
        input=[
            {"type": "function_call_output", "call_id": london.call_id, "output": parts},
            {"type": "function_call_output", "call_id": paris.call_id, "output": "sunny"},
        ],
        previous_response_id=asked.id,
    )

    assert answered.output_text == "got: rainy, sunny"


async def test_a_tool_choice_that_forces_a_call_gets_one(client: openai.AsyncOpenAI) -> None:
    other: FunctionToolParam = WEATHER | {"name": "other"}
    required = await client.responses.create(model=MODEL, input="hello", tools=[WEATHER, other], tool_choice="required")
    named = await client.responses.create(
        model=MODEL, input="hello", tools=[WEATHER, other], tool_choice={"type": "function", "name": "other"}
    )

    assert [item.name for item in required.output if item.type == "function_call"] == ["get_weather"]
    assert [item.name for item in named.output if item.type == "function_call"] == ["other"]
    assert required.tool_choice == "required"
    assert named.to_dict()["tool_choice"] == {"type": "function", "name": "other"}


# -- tools that the server runs


@UNTYPED
async def test_a_hosted_call_takes_a_second_turn_of_the_model(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input='call lookup {"text": "abc"}', tools=[LOOKUP]) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()

    statuses = [event.type.rpartition(".")[2] for event in events if "scripted_call" in event.type]
    assert statuses == ["in_progress", "searching", "completed"]
    found, message = (item.to_dict() for item in final.output)
    assert (found["type"], found["status"], found["output"]) == ("antiphon:scripted_call", "completed", "ABC")
    assert message["type"] == "message"
    assert final.output_text == "got: ABC"
    assert final.usage is not None
    assert final.usage.output_tokens == 3 + 2


async def test_hosted_calls_of_one_turn_run_together(client: openai.AsyncOpenAI) -> None:
    script = 'think two | call lookup {"text": "a"} | call lookup {"text": "b"}'
    stream = await client.responses.create(model=MODEL, input=script, tools=[LOOKUP], stream=True)
    events = [event async for event in stream]

    steps = [event.type.rpartition(".")[2] for event in events if "scripted_call" in event.type]
    assert steps[:4] == ["in_progress", "in_progress", "searching", "searching"]
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "got: A, B"
    assert [item.type for item in last.response.output] == [
        "reasoning",
        "antiphon:scripted_call",
        "antiphon:scripted_call",
        "message",
    ]


async def test_a_turn_with_hosted_and_own_calls_leaves_the_own_ones_to_the_client(client: openai.AsyncOpenAI) -> None:
    tools = [LOOKUP, WEATHER]
    script = 'call lookup {"text": "a"} | call get_weather {}'
    asked = await client.responses.create(model=MODEL, input=script, tools=tools)
    found: dict[str, Any] = {item.type: item for item in asked.output}
    call = found["function_call"]
    assert found["antiphon:scripted_call"].to_dict()["output"] == "A"
    assert asked.status == "completed"

    answered = await client.responses.create(
        model=MODEL,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
        previous_response_id=asked.id,
        tools=tools,
    )

    assert answered.output_text == "got: A, sunny"


async def test_a_hosted_call_that_fails_is_told_to_the_model_and_the_response_is_completed(
    client: openai.AsyncOpenAI,
) -> None:
    script = 'call lookup {"text": "fail"} | call lookup {"text": "b"}'
    response = await client.responses.create(model=MODEL, input=script, tools=[LOOKUP])

    calls = [item.to_dict() for item in response.output if item.type != "message"]
    assert [call["status"] for call in calls] == ["failed", "completed"]
    assert response.output_text == "got: The tool failed., B"
    assert (response.status, response.error) == ("completed", None)


async def test_a_forced_hosted_call_is_forced_once(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="hello", tools=[LOOKUP], tool_choice="required")

    assert [item.type for item in response.output] == ["antiphon:scripted_call", "message"]


async def test_hosted_turns_share_the_token_limit(client: openai.AsyncOpenAI) -> None:
    script = 'call lookup {"text":"a"}'
    response = await client.responses.create(model=MODEL, input=script, tools=[LOOKUP], max_output_tokens=3)

    assert (response.status, response.output_text) == ("incomplete", "got:")
    assert response.usage is not None
    assert response.usage.output_tokens == 3


async def test_a_hosted_call_is_remembered_and_may_be_handed_back(client: openai.AsyncOpenAI) -> None:
    asked = await client.responses.create(model=MODEL, input='call lookup {"text": "a"}', tools=[LOOKUP])
    continued = await client.responses.create(
        model=MODEL, input="say and now", previous_response_id=asked.id, tools=[LOOKUP]
    )
    items: list[Any] = [*asked.output, {"role": "user", "content": "say by value"}]

    by_value = await client.responses.create(model=MODEL, input=items)

    assert (continued.output_text, by_value.output_text) == ("and now", "by value")


# -- state


async def test_a_conversation_goes_on_from_the_previous_response(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="say one")
    async with client.responses.stream(model=MODEL, input="say two", previous_response_id=first.id) as stream:
        second = await stream.get_final_response()
    third = await client.responses.create(model=MODEL, input="say three", previous_response_id=second.id)

    texts = await texts_before(client, third.id)
    assert texts == ["say one", "one", "say two", "two", "say three"]
    assert third.usage is not None
    assert third.usage.input_tokens == 8  # words, in five items


async def test_two_children_of_one_parent_do_not_know_each_other(client: openai.AsyncOpenAI) -> None:
    parent = await client.responses.create(model=MODEL, input="say root")
    left, right = await asyncio.gather(
        client.responses.create(model=MODEL, input="say left", previous_response_id=parent.id),
        client.responses.create(model=MODEL, input="say right", previous_response_id=parent.id),
    )
    grandchild = await client.responses.create(model=MODEL, input="say on", previous_response_id=left.id)

    assert await texts_before(client, right.id) == ["say root", "root", "say right"]
    assert await texts_before(client, grandchild.id) == ["say root", "root", "say left", "left", "say on"]


async def test_what_is_not_stored_cannot_be_had_again(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="say secret", store=False)

    assert response.output_text == "secret"
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.input_items.list(response.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="hello", previous_response_id=response.id)
    assert refused.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError, match="Items are not persisted"):
        await client.responses.create(
            model=MODEL, input=[{"type": "item_reference", "id": response.output[0].id or ""}]
        )


async def test_instructions_are_not_inherited(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="say one", instructions="Be brief.")
    second = await client.responses.create(model=MODEL, input="say two", previous_response_id=first.id)

    assert first.instructions == "Be brief."
    assert second.instructions is None
    assert await texts_before(client, second.id) == ["say one", "one", "say two"]


async def test_a_deleted_response_is_gone_and_its_children_live_on(client: openai.AsyncOpenAI) -> None:
    parent = await client.responses.create(model=MODEL, input="say root")
    child = await client.responses.create(model=MODEL, input="say child", previous_response_id=parent.id)

    await client.responses.delete(parent.id)

    for gone in (client.responses.retrieve(parent.id), client.responses.delete(parent.id)):
        with pytest.raises(openai.NotFoundError):
            await gone
    with pytest.raises(openai.BadRequestError, match="not found"):
        await client.responses.create(model=MODEL, input="hello", previous_response_id=parent.id)
    assert (await client.responses.retrieve(child.id)).output_text == "child"
    grandchild = await client.responses.create(model=MODEL, input="say on", previous_response_id=child.id)
    assert await texts_before(client, grandchild.id) == ["say root", "root", "say child", "child", "say on"]


async def test_an_item_may_be_handed_in_by_reference(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="say one")
    reference = first.output[0].id or ""

    response = await client.responses.create(
        model=MODEL,
        input=[{"type": "item_reference", "id": reference}, {"role": "user", "content": "say two"}],
    )
    short: Any = [{"id": reference}, {"role": "user", "content": "say three"}]

    assert await texts_before(client, response.id) == ["one", "say two"]
    assert (await client.responses.create(model=MODEL, input=short)).output_text == "three"


async def test_an_item_of_the_history_may_be_handed_in_again(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="say one")
    items: list[Any] = [*first.output, {"role": "user", "content": "say two"}]

    second = await client.responses.create(model=MODEL, input=items, previous_response_id=first.id)

    listed = [item.id async for item in client.responses.input_items.list(second.id)]
    assert len(set(listed)) == len(listed) == 4


# -- listing what a response was made from


async def test_input_items_are_listed_newest_first_and_page_by_page(client: openai.AsyncOpenAI) -> None:
    words = [f"word{number}" for number in range(25)]
    response = await client.responses.create(model=MODEL, input=[{"role": "user", "content": word} for word in words])

    page = await client.responses.input_items.list(response.id)
    everything = [item async for item in client.responses.input_items.list(response.id, limit=10)]

    assert len(page.data) == 20
    assert page.has_next_page()
    assert page.data[0].to_dict()["content"] == [{"type": "input_text", "text": "word24"}]
    assert [item.id for item in everything[:20]] == [item.id for item in page.data]
    assert texts_of(everything) == words[::-1]


async def test_input_items_can_be_listed_oldest_first_from_after_one_of_them(client: openai.AsyncOpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": word, "id": f"msg_{word}"} for word in ("a", "b", "c", "d")]
    response = await client.responses.create(model=MODEL, input=items)

    page = await client.responses.input_items.list(response.id, order="asc", after="msg_a", limit=2)
    rest = await page.get_next_page()

    assert [item.id for item in page.data] == ["msg_b", "msg_c"]
    assert (page.to_dict()["first_id"], page.to_dict()["last_id"]) == ("msg_b", "msg_c")
    assert ([item.id for item in rest.data], rest.has_more) == (["msg_d"], False)
    desc = await client.responses.input_items.list(response.id, order="desc", after="msg_b")
    assert [item.id for item in desc.data] == ["msg_a"]


async def test_include_is_taken_on_listing_and_retrieving(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="think hm | say hi")

    again = await client.responses.retrieve(response.id, include=["message.output_text.logprobs"])
    page = await client.responses.input_items.list(
        response.id, include=["message.input_image.image_url", "reasoning.encrypted_content"]
    )

    assert again == response
    assert len(page.data) == 1


# -- while it runs


async def test_a_response_can_be_read_by_another_client_while_it_is_streamed(
    client: openai.AsyncOpenAI, url: str
) -> None:
    stream = await client.responses.create(model=MODEL, input="stall", stream=True, metadata={"k": "v"})
    created = await anext(stream)
    assert created.type == "response.created"
    response_id = created.response.id
    async for event in stream:
        if event.type == "response.output_text.delta":
            break

    async with sdk(url) as other:
        running = await other.responses.retrieve(response_id)
        assert (running.status, running.output_text, running.metadata) == ("in_progress", "stalling", {"k": "v"})
        assert running.output[0].to_dict()["status"] == "in_progress"
        assert await texts_before(other, response_id) == ["stall"]
        for refused in (
            other.responses.create(model=MODEL, input="hello", previous_response_id=response_id),
            other.responses.delete(response_id),
        ):
            with pytest.raises(openai.BadRequestError):
                await refused
    await stream.close()


async def test_a_stream_that_is_closed_early_is_cancelled_and_kept(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="think hm | stall") as stream:
        async for event in stream:
            if event.type == "response.created":
                response_id = event.response.id
            if event.type == "response.output_text.delta":
                break

    response = await ended(client, response_id)

    assert (response.status, response.output_text, response.usage) == ("cancelled", "stalling", None)
    assert (response.error, response.incomplete_details, response.completed_at) == (None, None, None)
    assert [item.to_dict()["status"] for item in response.output] == ["completed", "incomplete"]


@UNTYPED
async def test_a_hosted_call_stops_when_the_stream_is_closed_early(client: openai.AsyncOpenAI) -> None:
    script = 'call lookup {"text": "wait"} | call lookup {"text": "b"}'
    async with client.responses.stream(model=MODEL, input=script, tools=[LOOKUP]) as stream:
        async for event in stream:
            if event.type == "response.created":
                response_id = event.response.id
            if event.type == "response.output_item.done":
                break

    response = await ended(client, response_id)

    assert response.status == "cancelled"
    assert [item.to_dict()["status"] for item in response.output] == ["incomplete", "completed"]


async def test_a_conversation_goes_on_from_a_cancelled_response(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="stall") as stream:
        created = await anext(stream)
        assert created.type == "response.created"
    await ended(client, created.response.id)

    response = await client.responses.create(model=MODEL, input="say again", previous_response_id=created.response.id)

    assert response.output_text == "again"


# -- the bytes


async def test_the_usage_frame_stands_between_the_terminal_event_and_the_end(client: openai.AsyncOpenAI) -> None:
    async with client.responses.with_streaming_response.create(
        model=MODEL, input="say hi", stream=True, extra_body={"stream_options": {"include_usage": True}}
    ) as raw:
        assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert raw.headers["cache-control"] == "no-cache"
        body = b"".join([piece async for piece in raw.iter_bytes()])

    *_, terminal, usage, end, nothing = body.split(b"\n\n")
    event, data = terminal.split(b"\n")
    final = json.loads(data.removeprefix(b"data: "))["response"]
    assert event == b"event: response.completed"
    frame = json.loads(usage.removeprefix(b"data: "))
    assert {name: frame[name] for name in ("object", "id", "model", "choices", "usage")} == {
        "object": "response.chunk",
        "id": final["id"],
        "model": MODEL,
        "choices": [],
        "usage": final["usage"],
    }
    assert "sequence_number" not in frame
    assert (end, nothing) == (b"data: [DONE]", b"")


async def test_the_usage_frame_does_not_disturb_the_strict_stream(client: openai.AsyncOpenAI) -> None:
    options: Any = {"stream_options": {"include_usage": True}}
    async with client.responses.stream(model=MODEL, input="say hi", extra_body=options) as stream:
        assert (await stream.get_final_response()).output_text == "hi"


async def texts_before(client: openai.AsyncOpenAI, response_id: str) -> list[str]:
    """What was said before a response, oldest first."""
    return texts_of([item async for item in client.responses.input_items.list(response_id, order="asc")])


def texts_of(items: list[Any]) -> list[str]:
    return [part["text"] for item in items for part in item.to_dict()["content"]]
