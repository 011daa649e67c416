"""The official SDK and a chat-completions server: what each parameter asks of that server, and what comes of it."""

from typing import Any, TypeAlias

import openai
import pytest
from openai.types.responses import FunctionToolParam
from pydantic import BaseModel

from tests import chatserver as chat
from tests.chatserver import relay

Object: TypeAlias = dict[str, Any]

WITH_LOGPROBS: Any = ["message.output_text.logprobs"]


class Person(BaseModel):
    name: str
    age: int


ADA = '{"name": "Ada", "age": 36}'


def function(name: str) -> FunctionToolParam:
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, "strict": False}


# -- structured output


async def test_an_answer_that_fits_its_schema_is_parsed() -> None:
    async with relay({"Who?": chat.says('{"name": "Ada",', ' "age": 36}')}) as (upstream, client):
        response = await client.responses.parse(model="upstream", input="Who?", text_format=Person)

    assert (response.status, response.output_parsed) == ("completed", Person(name="Ada", age=36))
    asked = upstream.bodies[0]["response_format"]
    assert asked["type"] == "json_schema"
    assert (asked["json_schema"]["name"], asked["json_schema"]["strict"]) == ("Person", True)
    assert asked["json_schema"]["schema"]["required"] == ["name", "age"]


async def test_a_streamed_answer_that_fits_its_schema_is_parsed() -> None:
    async with (
        relay({"Who?": chat.says(ADA)}) as (_, client),
        client.responses.stream(model="upstream", input="Who?", text_format=Person) as stream,
    ):
        response = await stream.get_final_response()

    assert response.output_parsed == Person(name="Ada", age=36)


@pytest.mark.parametrize(
    ("said", "where"), [('{"name": "Ada", "age": "old"}', r"at \$\.age"), ("I am Ada.", "it is no JSON")]
)
async def test_an_answer_that_does_not_fit_its_strict_schema_is_a_failure_that_says_where(
    said: str, where: str
) -> None:
    async with relay({"Who?": chat.says(said)}) as (_, client):
        with pytest.raises(openai.InternalServerError, match=f"does not fit text.format: .*{where}") as failed:
            await client.responses.parse(model="upstream", input="Who?", text_format=Person)

    assert failed.value.status_code == 502


async def test_a_stream_that_does_not_fit_its_strict_schema_ends_as_failed() -> None:
    schema: Any = {"type": "json_schema", "name": "person", "schema": Person.model_json_schema(), "strict": True}
    async with relay({"Who?": chat.says('{"name":', ' "Ada"}')}) as (_, client):
        stream = await client.responses.create(model="upstream", input="Who?", text={"format": schema}, stream=True)
        *_, last = [event async for event in stream]

    assert last.type == "response.failed"
    assert last.response.error is not None
    assert '"age" is a required property' in last.response.error.message


async def test_any_object_is_asked_for_and_checked() -> None:
    async with relay({"Who?": chat.in_order(chat.says(ADA), chat.says("[1]"))}) as (upstream, client):
        text: Any = {"format": {"type": "json_object"}}
        first = await client.responses.create(model="upstream", input="Who?", text=text)
        with pytest.raises(openai.InternalServerError, match="it is no JSON object"):
            await client.responses.create(model="upstream", input="Who?", text=text)

    assert first.output_text == ADA
    assert upstream.bodies[0]["response_format"] == {"type": "json_object"}


async def test_a_schema_that_an_upstream_does_not_know_is_refused_and_not_dropped() -> None:
    refusal = chat.refuses("This response_format type is unavailable now")
    async with relay({"Who?": refusal}) as (upstream, client):
        with pytest.raises(openai.BadRequestError, match="This response_format type is unavailable now") as refused:
            await client.responses.parse(model="upstream", input="Who?", text_format=Person)

    assert refused.value.param == "text.format"
    assert len(upstream.bodies) == 1


# -- logprobs


async def test_logprobs_are_in_the_text_and_in_its_deltas() -> None:
    async with relay({"Hello!": chat.says_with_logprobs("Hel", "lo", top=2)}) as (upstream, client):
        stream = await client.responses.create(
            model="upstream", input="Hello!", include=WITH_LOGPROBS, top_logprobs=2, stream=True
        )
        events = [event async for event in stream]

    body = upstream.bodies[0]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [(delta.delta, [one.token for one in delta.logprobs]) for delta in deltas] == [
        ("Hel", ["Hel"]), ("lo", ["lo"])
    ]  # fmt: skip
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.top_logprobs == 2
    [message] = last.response.output
    assert message.type == "message"
    [text] = message.content
    assert text.type == "output_text"
    assert text.logprobs is not None
    assert text.logprobs[0].to_dict() == {
        "token": "Hel",
        "bytes": [72, 101, 108],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "Hel0", "bytes": [*b"Hel0"], "logprob": -1.0},
            {"token": "Hel1", "bytes": [*b"Hel1"], "logprob": -2.0},
        ],
    }
    assert [one.token for one in text.logprobs] == ["Hel", "lo"]


async def test_logprobs_without_alternatives_are_just_those_of_the_text() -> None:
    async with relay({"Hello!": chat.says_with_logprobs("Hello", top=1)}) as (_, client):
        response = await client.responses.create(model="upstream", input="Hello!", include=WITH_LOGPROBS)

    [message] = response.output
    assert message.type == "message"
    [text] = message.content
    assert text.type == "output_text"
    assert [(one.token, one.top_logprobs) for one in text.logprobs or ()] == [("Hello", [])]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstream_that_gives_no_logprobs_is_a_refusal_that_names_the_parameter(stream: bool) -> None:
    async with relay({"Hello!": chat.says("Hello")}) as (upstream, client):
        with pytest.raises(openai.BadRequestError, match="gives no logprobs") as refused:
            await client.responses.create(model="upstream", input="Hello!", include=WITH_LOGPROBS, stream=stream)

    assert refused.value.param == "include"
    assert len(upstream.bodies) == 1


# -- sampling, service tier, verbosity


async def test_sampling_reaches_the_upstream() -> None:
    sampling: Object = {"top_k": 40, "min_p": 0.1, "seed": 7, "logit_bias": {"42": -100.0}}
    penalties: Object = {"presence_penalty": 0.5, "frequency_penalty": -0.5}
    async with relay({"Hello!": chat.says("Hi")}) as (upstream, client):
        await client.responses.create(model="upstream", input="Hello!", extra_body=sampling | penalties)

    body = upstream.bodies[0]
    assert {name: body[name] for name in sampling | penalties} == sampling | penalties


@pytest.mark.parametrize("name", ["top_k", "min_p", "seed", "logit_bias", "presence_penalty"])
async def test_a_parameter_that_an_upstream_refuses_is_named(name: str) -> None:
    refusal = chat.refuses(f"Unknown parameter: '{name}'.", param=name)
    values: Object = {"logit_bias": {"1": 1.0}}
    async with relay({"Hello!": refusal}) as (_, client):
        with pytest.raises(openai.BadRequestError, match="Unknown parameter") as refused:
            await client.responses.create(model="upstream", input="Hello!", extra_body={name: values.get(name, 1)})

    assert refused.value.param == name


@pytest.mark.parametrize(("told", "seen"), [("flex", "flex"), ("default", "default"), ("on_demand", "default")])
async def test_the_service_tier_is_the_one_that_the_upstream_says_it_used(told: str, seen: str) -> None:
    async with relay({"Hello!": chat.says_by_tier("Hi", told)}) as (upstream, client):
        response = await client.responses.create(model="upstream", input="Hello!", service_tier="flex")

    assert upstream.bodies[0]["service_tier"] == "flex"
    assert response.service_tier == seen


async def test_verbosity_is_told_in_the_system_message() -> None:
    async with relay({"Hello!": chat.says("Hi")}) as (upstream, client):
        response = await client.responses.create(
            model="upstream", input="Hello!", instructions="Be kind.", text={"verbosity": "low"}
        )

    assert upstream.bodies[0]["messages"][0] == {"role": "system", "content": "Be kind.\n\nKeep your answers short."}
    assert response.text is not None
    assert response.text.verbosity == "low"


# -- images

RED, BLUE = "data:image/png;base64,iVBORw0KGgo=", "data:image/gif;base64,R0lGODlh"


async def test_an_image_of_the_user_reaches_the_upstream() -> None:
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": RED, "detail": "low"},
    ]
    asked: Any = [{"role": "user", "content": content}]
    async with relay({"What is this?": chat.says("Red.")}) as (upstream, client):
        response = await client.responses.create(model="upstream", input=asked)

    assert response.output_text == "Red."
    assert upstream.bodies[0]["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": RED, "detail": "low"}},
    ]


async def test_images_of_tool_outputs_reach_the_upstream_after_all_outputs() -> None:
    calls = [{"type": "function_call", "call_id": one, "name": "look", "arguments": "{}"} for one in ("a", "b")]
    seen = [{"type": "input_text", "text": "a wall"}, {"type": "input_image", "image_url": BLUE}]
    asked: Any = [
        *({"role": "user", "content": "Look!"}, *calls),
        {"type": "function_call_output", "call_id": "a", "output": seen},
        {"type": "function_call_output", "call_id": "b", "output": "nothing"},
    ]
    async with relay({"Images from the call a of look:": chat.says("Blue.")}) as (upstream, client):
        response = await client.responses.create(model="upstream", input=asked)

    assert response.output_text == "Blue."
    assert [message["role"] for message in upstream.bodies[0]["messages"]] == [
        "user", "assistant", "tool", "tool", "user"
    ]  # fmt: skip
    told = [message["content"] for message in upstream.bodies[0]["messages"][2:]]
    assert told[:2] == ["a wall", "nothing"]
    assert told[2][1:] == [{"type": "image_url", "image_url": {"url": BLUE}}]


# -- allowed tools


def allowed(mode: str) -> Any:
    return {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "f"}]}


def calling(name: str) -> Any:
    return chat.replies(chat.call(0, f"call_{name}", name), chat.arguments(0, "{}"), finish="tool_calls")


async def test_a_demanded_call_of_a_tool_that_is_not_allowed_is_asked_for_again() -> None:
    async with relay({"Do!": chat.in_order(calling("g"), calling("f"))}) as (upstream, client):
        response = await client.responses.create(
            model="upstream", input="Do!", tools=[function("f"), function("g")], tool_choice=allowed("required")
        )

    first, second = upstream.bodies
    assert first == second
    assert first["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in first["tools"]] == ["f", "g"]
    assert [item.name for item in response.output if item.type == "function_call"] == ["f"]


async def test_an_upstream_that_goes_on_calling_what_is_not_allowed_is_an_error() -> None:
    async with relay({"Do!": calling("g")}) as (upstream, client):
        with pytest.raises(openai.InternalServerError, match="called 'g', though one of 'f' was asked for"):
            await client.responses.create(
                model="upstream", input="Do!", tools=[function("f"), function("g")], tool_choice=allowed("required")
            )

    assert len(upstream.bodies) == 2


async def test_a_call_of_a_tool_that_is_not_allowed_is_told_to_the_model() -> None:
    replies = {"Do!": calling("g")}
    async with relay(replies) as (upstream, client):
        upstream.otherwise = chat.says("Then not.")
        response = await client.responses.create(
            model="upstream", input="Do!", tools=[function("f"), function("g")], tool_choice=allowed("auto")
        )

    first, second = upstream.bodies
    assert "tool_choice" not in first
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool"]
    assert "The call was not made" in second["messages"][2]["content"]
    assert response.output_text == "Then not."
