"""What POST /v1/responses and its neighbours refuse: each documented error, and what else may be sent by mistake."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from structlog.testing import capture_logs

from antiphon.config import ScriptedToolSettings, Settings
from antiphon.wire.request import LATER, LATER_TYPES
from antiphon.wire.tools import HOSTED
from tests.conftest import changed, serve
from tests.rawclient import Answer, Exchange, ask, create, request, scripted_in, streaming

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY_BYTES_MAX = 3_000_000
TOOLS_MAX = 8
MEGABYTE = "x" * 1_000_000
WIDE_MEGABYTE = "\0\N{PILE OF POO}" * 100_000
"""More than a megabyte as JSON: these two characters take eighteen bytes, and an answer is cut by bytes."""
FUNCTION = {"type": "function", "name": "f"}
CUSTOM = {"type": "custom", "name": "c"}
USER = {"role": "user", "content": "say hello"}
TEXT_PART = {"type": "input_text", "text": "say hello"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "x"}
THOUGHT = {"type": "reasoning", "summary": []}
SCHEMA = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
SCREEN = {"type": "computer_screenshot", "image_url": "data:image/png;base64,iVBORw0KGgo="}
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server for all: no request may harm the next."""
    limits = {"body_bytes_max": BODY_BYTES_MAX, "tools_max": TOOLS_MAX, "history_items_max": 50}
    async with serve(changed(scripted_in(tmp_path_factory.mktemp("requests")), limits=limits)) as address:
        yield address


async def post(url: str, body: bytes | str) -> Answer:
    return await ask(url, "POST", "/v1/responses", body)


def item(**fields: Any) -> dict[str, Any]:
    """A request with an item that has these fields besides."""
    return {"input": [USER | fields]}


def part(**fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [TEXT_PART | fields]}]}


def tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [FUNCTION | fields]}


# -- the body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"{",
        b'{"model"}',
        b"model=scripted&input=hello",
        b'{"model":"scripted","input":"a"} x',
        b'{"model":"scripted","input":"a",}',
        b'{"model":"scripted","input":"\xff"}',
        b'{"model":"scripted","input":"a\0b"}',
        b'{"model":"scripted","input":"a","temperature":NaN}',
        b'{"model":"scripted","input":"a","temperature":1e999}',
        b'{"model":"scripted","input":"a","temperature":01}',
        b'{"model":"scripted","input":"a","seed":' + b"9" * 5000 + b"}",
        '{"model":"scripted","input":"a"}'.encode("utf-16"),
        b"x" * 1_000_000,
        b'"' + b"x" * 1_000_000,
    ],
)
async def test_a_body_that_is_no_json_is_named_so(url: str, body: bytes) -> None:
    answer = await post(url, body)

    assert answer.refusal == (400, None, None)
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["message"].startswith("We could not parse the JSON body of your request")


@pytest.mark.parametrize("body", ["[]", '"x"', "null", "5", "true", "[" + '{"model":"scripted"}' + "]"])
async def test_a_body_that_is_no_object_is_refused(url: str, body: str) -> None:
    assert (await post(url, body)).refusal == (400, "invalid_type", None)


@pytest.mark.parametrize("text", [r"\ud800", r"\udc00\ud800", r"\ud800x"])
@pytest.mark.parametrize("body", ['{"model":"scripted","input":"%s"}', '{"model":"scripted","input":"a","%s":1}'])
async def test_half_a_surrogate_pair_is_refused(url: str, body: str, text: str) -> None:
    assert (await post(url, body % text)).refusal == (400, None, None)


async def test_of_two_keys_of_one_name_the_last_counts(url: str) -> None:
    body = '{"model":"nobody","model":"scripted","input":"say a","input":"say b"}'

    assert (await post(url, body)).value["output"][0]["content"][0]["text"] == "b"


async def test_a_nul_is_a_character_like_any_other(url: str) -> None:
    response = (await create(url, input="\0a\0", metadata={"\0": "\0"}, user="\0", instructions="\0")).value
    stored = (await ask(url, "GET", f"/v1/responses/{response['id']}")).value

    assert stored == response
    assert (stored["metadata"], stored["user"], stored["instructions"]) == ({"\0": "\0"}, "\0", "\0")
    assert stored["output"][0]["content"][0]["text"] == "\0a\0"


@pytest.mark.parametrize("digits", [19, 20, 30, 400])
async def test_a_huge_number_is_above_its_bound_or_kept_as_it_is(url: str, digits: int) -> None:
    number = int("9" * digits)

    assert (await create(url, max_output_tokens=number)).refusal[2] == "max_output_tokens"
    assert (await create(url, temperature=number)).refusal[2] == "temperature"
    served = await create(url, tools=[FUNCTION | {"parameters": {"maximum": number}}], unheard_of=number)
    stored = await ask(url, "GET", f"/v1/responses/{served.value['id']}")
    assert stored.value["tools"][0]["parameters"]["maximum"] == number


# -- its size and depth


async def test_a_body_that_says_it_is_too_large_is_refused_unread(url: str) -> None:
    async with await Exchange.open(url) as one:
        one.send("POST", "/v1/responses", b"", {"content-length": str(BODY_BYTES_MAX + 1)})
        answer = await one.answer()

    assert answer.refusal == (413, None, None)
    assert "limits.body_bytes_max" in answer.error["message"]


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_grows_too_large_is_refused(url: str, declared: bool) -> None:
    body = json.dumps(request(user="x" * BODY_BYTES_MAX)).encode()
    async with await Exchange.open(url) as one:
        if declared:
            one.send("POST", "/v1/responses", body)
        else:
            one.send("POST", "/v1/responses", headers={"transfer-encoding": "chunked"})
            one.writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        answer = await one.answer()

    assert answer.refusal == (413, None, None)


async def test_a_body_as_large_as_allowed_is_served_in_chunks_too(url: str) -> None:
    body = json.dumps(request()).encode().ljust(BODY_BYTES_MAX)
    async with await Exchange.open(url) as one:
        one.send("POST", "/v1/responses", headers={"transfer-encoding": "chunked"})
        for start in range(0, len(body), 500_000):
            chunk = body[start : start + 500_000]
            one.writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        one.writer.write(b"0\r\n\r\n")

        assert (await one.answer()).value["status"] == "completed"


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
async def test_a_body_nested_too_deeply_is_refused(url: str, opening: str) -> None:
    answer = await post(url, '{"model":"scripted","input":' + opening * 100_000)

    assert answer.refusal == (400, None, None)
    assert "nested too deeply" in answer.error["message"]


async def test_what_is_not_too_deep_to_come_in_is_not_too_deep_to_go_out(url: str) -> None:
    """At the edge, where reading succeeds, writing and reading again must too. Where it lies hangs on the platform."""
    lengths = [*range(900, 1000), 1500, 2000, 3000]
    schemas = ['{"a":' * length + "1" + "}" * length for length in lengths]
    for schema in schemas:
        tools = f'"tools":[{{"type":"function","name":"f","parameters":{schema}}}]'
        answer = await post(url, f'{{"model":"scripted","input":"say a",{tools}}}')
        if answer.status != 200:
            assert answer.refusal == (400, None, None)
            continue
        response_id = json.loads(answer.body[: answer.body.index(b",")] + b"}")["id"]
        assert (await ask(url, "GET", f"/v1/responses/{response_id}")).status == 200
        streamed = await post(url, f'{{"model":"scripted","input":"say a","stream":true,{tools}}}')
        assert streamed.status == 400 or streamed.body.endswith(b"data: [DONE]\n\n")


# -- types, bounds and choices


WRONG_TYPES: list[tuple[dict[str, Any], str]] = [
    ({"model": 5}, "model"),
    ({"model": ["scripted"]}, "model"),
    ({"input": 5}, "input"),
    ({"input": {}}, "input"),
    ({"input": True}, "input"),
    ({"input": [None]}, "input[0]"),
    ({"input": ["hello"]}, "input[0]"),
    ({"input": [USER, []]}, "input[1]"),
    ({"input": [{"type": 5}]}, "input[0].type"),
    ({"input": [{"type": []}]}, "input[0].type"),
    (item(content=5), "input[0].content"),
    (item(content={}), "input[0].content"),
    (item(content=["a"]), "input[0].content[0]"),
    (item(content=[TEXT_PART, None]), "input[0].content[1]"),
    (item(role=["user"]), "input[0].role"),
    (item(id=5), "input[0].id"),
    (part(text=5), "input[0].content[0].text"),
    (part(text={}), "input[0].content[0].text"),
    ({"input": [CALL | {"arguments": {}}, OUTPUT]}, "input[0].arguments"),
    ({"input": [CALL, OUTPUT | {"output": {}}]}, "input[1].output"),
    ({"input": [CALL, OUTPUT | {"output": [5]}]}, "input[1].output[0]"),
    ({"input": [THOUGHT | {"summary": "x"}, USER]}, "input[0].summary"),
    ({"input": [THOUGHT | {"summary": ["x"]}, USER]}, "input[0].summary[0]"),
    ({"instructions": ["x"]}, "instructions"),
    ({"previous_response_id": 5}, "previous_response_id"),
    ({"store": "yes"}, "store"),
    ({"store": 1}, "store"),
    ({"stream": 1}, "stream"),
    ({"stream": "true"}, "stream"),
    ({"stream": True, "stream_options": "all"}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"metadata": "x"}, "metadata"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {"a": None}}, "metadata"),
    ({"metadata": {"a": {"b": "c"}}}, "metadata"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": []}, "top_p"),
    ({"max_output_tokens": 1.5}, "max_output_tokens"),
    ({"max_output_tokens": "16"}, "max_output_tokens"),
    ({"stop": 5}, "stop"),
    ({"stop": {}}, "stop"),
    ({"stop": ["a", 5]}, "stop[1]"),
    ({"tools": {}}, "tools"),
    ({"tools": "f"}, "tools"),
    ({"tools": [None]}, "tools[0]"),
    ({"tools": [FUNCTION, "f"]}, "tools[1]"),
    (tool(name=5), "tools[0].name"),
    (tool(parameters=[]), "tools[0].parameters"),
    (tool(parameters="{}"), "tools[0].parameters"),
    (tool(strict="yes"), "tools[0].strict"),
    (tool(description={}), "tools[0].description"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": 5}}, "tool_choice.name"),
    ({"parallel_tool_calls": 0}, "parallel_tool_calls"),
    ({"reasoning": "low"}, "reasoning"),
    ({"reasoning": {"effort": 5}}, "reasoning.effort"),
    ({"text": "plain"}, "text"),
    ({"text": {"format": "text"}}, "text.format"),
    ({"text": {"verbosity": 5}}, "text.verbosity"),
    ({"text": {"format": SCHEMA | {"schema": []}}}, "text.format.schema"),
    ({"user": 5}, "user"),
    ({"prompt_cache_key": 5}, "prompt_cache_key"),
    ({"safety_identifier": []}, "safety_identifier"),
    ({"service_tier": 5}, "service_tier"),
    ({"frequency_penalty": False}, "frequency_penalty"),
    ({"presence_penalty": "0"}, "presence_penalty"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": "0"}, "min_p"),
    ({"seed": 1.5}, "seed"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logit_bias": {"1": "x"}}, "logit_bias"),
    ({"top_logprobs": "5"}, "top_logprobs"),
    ({"max_tool_calls": True}, "max_tool_calls"),
    ({"include": "reasoning.encrypted_content"}, "include"),
    ({"prompt": "pmpt_1"}, "prompt"),
    ({"prompt": {"id": "pmpt_1", "variables": {"a": 5}}}, "prompt.variables"),
    ({"prompt_cache_options": "explicit"}, "prompt_cache_options"),
    ({"prompt_cache_retention": 24}, "prompt_cache_retention"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_completion_tokens": "5"}, "max_completion_tokens"),
    ({"reasoning_effort": 5}, "reasoning_effort"),
    ({"response_format": "json_object"}, "response_format"),
    ({"input": [{"type": ["function_call_output"], "call_id": "c", "output": "x"}]}, "input[0].type"),
    ({"input": [CALL, OUTPUT | {"type": {}}]}, "input[1].type"),
    ({"input": [{"type": "local_shell_call_output", "id": [], "output": "x"}]}, "input[0].id"),
    ({"input": [{"type": "additional_tools", "tools": [{"type": []}]}, USER]}, "input[0].tools[0].type"),
    ({"input": [USER | {"content": [PICTURE | {"image_url": 5}]}]}, "input[0].content[0].image_url"),
    ({"tools": [CUSTOM | {"format": "text"}]}, "tools[0].format"),
    (tool(**{"async": 1}), "tools[0].async"),
    (tool(allowed_callers="direct"), "tools[0].allowed_callers"),
    (tool(output_schema=[]), "tools[0].output_schema"),
    (tool() | {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": ["f"]}}, "tool_choice.tools[0]"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG_TYPES, ids=str)
async def test_a_wrong_type_is_named_by_its_path(url: str, fields: dict[str, Any], param: str) -> None:
    answer = await create(url, **fields)

    assert answer.refusal == (400, "invalid_type", param)
    assert answer.error["message"].startswith(f"Invalid type for '{param}': ")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"temperature": -0.1}, "decimal_below_min_value", "temperature"),
        ({"temperature": 2.1}, "decimal_above_max_value", "temperature"),
        ({"top_p": -1}, "decimal_below_min_value", "top_p"),
        ({"top_p": 1.01}, "decimal_above_max_value", "top_p"),
        ({"max_output_tokens": 0}, "integer_below_min_value", "max_output_tokens"),
        ({"max_output_tokens": -1}, "integer_below_min_value", "max_output_tokens"),
        ({"max_output_tokens": 2**31}, "integer_above_max_value", "max_output_tokens"),
        ({"safety_identifier": "x" * 129}, "string_above_max_length", "safety_identifier"),
        ({"stop": list("abcde")}, "array_above_max_length", "stop"),
        ({"frequency_penalty": 2.1}, "decimal_above_max_value", "frequency_penalty"),
        ({"presence_penalty": -2.1}, "decimal_below_min_value", "presence_penalty"),
        ({"min_p": 1.1}, "decimal_above_max_value", "min_p"),
        ({"top_k": -2}, "integer_below_min_value", "top_k"),
        ({"top_k": 2**31}, "integer_above_max_value", "top_k"),
        ({"seed": 2**63}, "integer_above_max_value", "seed"),
        ({"seed": -(2**63) - 1}, "integer_below_min_value", "seed"),
        ({"logit_bias": {"1": 101}}, "decimal_above_max_value", "logit_bias"),
        ({"top_logprobs": 21}, "integer_above_max_value", "top_logprobs"),
        ({"max_tool_calls": 0}, "integer_below_min_value", "max_tool_calls"),
        ({"max_tokens": 0}, "integer_below_min_value", "max_tokens"),
        ({"stop": ["a", ""]}, "string_below_min_length", "stop[1]"),
        ({"stop": ""}, "string_below_min_length", "stop"),
        ({"metadata": {str(n): "" for n in range(17)}}, "object_above_max_properties", "metadata"),
        ({"metadata": {"k" * 65: ""}}, "string_above_max_length", "metadata"),
        ({"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata"),
        ({"tools": [tool(name=f"f{n}")["tools"][0] for n in range(9)]}, "array_above_max_length", "tools"),
        ({"input": []}, "empty_array", "input"),
        (item(id="x" * 129), "string_above_max_length", "input[0].id"),
        ({"text": {"format": SCHEMA | {"name": "a b"}}}, "invalid_value", "text.format.name"),
        ({"response_format": SCHEMA | {"name": "x" * 65}}, "invalid_value", "response_format.name"),
    ],
    ids=str,
)
async def test_what_is_out_of_bounds_is_named_with_its_bound(url: str, fields: Any, code: str, param: str) -> None:
    assert (await create(url, **fields)).refusal == (400, code, param)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "top_p": 0, "max_output_tokens": 1},
        {"temperature": 2, "top_p": 1, "max_output_tokens": 2**31 - 1},
        {"safety_identifier": "x" * 128},
        {"stop": "a"},
        {"stop": list("abcd")},
        {"metadata": {f"{n:064}": "\N{PILE OF POO}" * 512 for n in range(16)}},
        {"tools": [tool(name=f"f{n}")["tools"][0] for n in range(8)]},
        item(id="x" * 128),
    ],
    ids=str,
)
async def test_what_is_just_within_bounds_is_served(url: str, fields: dict[str, Any]) -> None:
    response = (await create(url, **fields)).value

    echoed = fields.keys() & response.keys() - {"tools"}
    assert {name: response[name] for name in echoed} == {name: fields[name] for name in echoed}


async def test_more_items_than_allowed_are_refused(url: str) -> None:
    assert (await create(url, input=[USER] * 50)).status == 200
    assert (await create(url, input=[USER] * 51)).refusal == (400, "array_above_max_length", "input")


@pytest.mark.parametrize(
    ("fields", "param", "supported"),
    [
        (item(role="custom"), "input[0].role", "'user', 'assistant', 'system', and 'developer'"),
        (item(role=MEGABYTE), "input[0].role", "'user', 'assistant', 'system', and 'developer'"),
        (item(role="a` - at `$.b"), "input[0].role", "'user', 'assistant', 'system', and 'developer'"),
        (item(status="done"), "input[0].status", "'in_progress', 'completed', and 'incomplete'"),
        (item(phase="first"), "input[0].phase", "'commentary', and 'final_answer'"),
        ({"tool_choice": "any"}, "tool_choice", "'none', 'auto', and 'required'"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "'xhigh', and 'max'"),
        ({"reasoning": {"effort": "shell"}}, "reasoning.effort", "'xhigh', and 'max'"),
        ({"reasoning": {"summary": "none"}}, "reasoning.summary", "'auto', 'concise', and 'detailed'"),
        ({"service_tier": "slow"}, "service_tier", "'auto', 'default', 'flex', "),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "'xhigh', and 'max'"),
        ({"reasoning": {"context": "none"}}, "reasoning.context", "'auto', 'current_turn', and 'all_turns'"),
        ({"text": {"verbosity": "huge"}}, "text.verbosity", "'low', 'medium', and 'high'"),
        ({"include": ["everything"]}, "include[0]", "'message.output_text.logprobs'"),
        ({"prompt_cache_options": {"mode": "off"}}, "prompt_cache_options.mode", "'implicit', and 'explicit'"),
        ({"prompt_cache_retention": "1h"}, "prompt_cache_retention", "'in_memory', and '24h'"),
        (tool(allowed_callers=["anyone"]), "tools[0].allowed_callers[0]", "'direct', and 'programmatic'"),
        (item(content=[PICTURE | {"detail": "fine"}]), "input[0].content[0].detail", "'high', and 'original'"),
        (
            tool() | {"tool_choice": {"type": "allowed_tools", "mode": "none", "tools": [FUNCTION]}},
            "tool_choice.mode",
            "'auto', and 'required'",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_value_of_no_choice_is_answered_with_the_choices(
    url: str, fields: dict[str, Any], param: str, supported: str
) -> None:
    answer = await create(url, **fields)

    assert answer.refusal == (400, "invalid_value", param)
    assert supported in answer.error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"input": "a"}, "model"),
        ({"model": None, "input": "a"}, "model"),
        ({"model": "", "input": "a"}, "model"),
        ({"model": "scripted"}, "input"),
        ({"model": "scripted", "input": None}, "input"),
        (request(input=[{}]), "input[0].type"),
        (request(input=[{"content": "a"}]), "input[0].type"),
        (request(input=[{"type": "message", "content": "a"}]), "input[0].role"),
        (request(input=[{"role": "user"}]), "input[0].content"),
        (request(input=[USER, {"role": "user", "content": None}]), "input[1].content"),
        (request(input=[{"role": "user", "content": [{}]}]), "input[0].content[0].type"),
        (request(**part(text=None)), "input[0].content[0].text"),
        (request(input=[{"type": "custom_tool_call_output", "output": "x"}]), "input[0].call_id"),
        (request(input=[CALL, {"type": "function_call_output", "call_id": "c"}]), "input[1].output"),
        (request(input=[CALL | {"name": None}, OUTPUT]), "input[0].name"),
        (request(input=[{"type": "item_reference"}]), "input[0].id"),
        (request(tools=[{}]), "tools[0].type"),
        (request(**tool(name=None)), "tools[0].name"),
        (request(tools=[{"type": "function", "function": {}}]), "tools[0].name"),
        (request(tools=[CUSTOM | {"format": {"type": "grammar", "syntax": "lark"}}]), "tools[0].format.definition"),
        (request(text={"format": {"type": "json_schema", "name": "a"}}), "text.format.schema"),
        (request(response_format={"type": "json_schema", "json_schema": {"schema": {}}}), "response_format.name"),
        (request(prompt={}), "prompt.id"),
        (request(tool_choice={"type": "function"}), "tool_choice.name"),
        (request(tool_choice={"type": "function", "function": {}}), "tool_choice.name"),
    ],
    ids=str,
)
async def test_what_is_missing_is_named(url: str, body: dict[str, Any], param: str) -> None:
    answer = await ask(url, "POST", "/v1/responses", body)

    assert answer.refusal == (400, "missing_required_parameter", param)
    assert answer.error["message"] == f"Missing required parameter: '{param}'."


# -- what is not there


async def test_an_unknown_model_is_named(url: str) -> None:
    answer = await create(url, model="gpt-9")

    assert answer.refusal == (400, "model_not_found", "model")
    assert answer.error["message"] == "The requested model 'gpt-9' does not exist."
    assert (await ask(url, "GET", "/v1/models/gpt-9")).refusal == (404, "model_not_found", "model")
    assert (await ask(url, "GET", "/v1/models/org/gpt-9")).refusal == (404, "model_not_found", "model")


async def test_an_unknown_response_is_named(url: str) -> None:
    message = "Response with id 'resp_nowhere' not found."
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        answer = await ask(url, method, f"/v1/responses/resp_nowhere{path}")
        assert answer.refusal == (404, None, None)
        assert answer.error["message"] == message


async def test_an_unknown_previous_response_is_named(url: str) -> None:
    answer = await create(url, previous_response_id="resp_abc")

    assert answer.refusal == (400, "previous_response_not_found", "previous_response_id")
    assert answer.error["message"] == "Previous response with id 'resp_abc' not found."


@pytest.mark.parametrize("reference", [{"id": "rs_1"}, {"type": "item_reference", "id": "rs_1"}])
async def test_an_unknown_item_is_named(url: str, reference: dict[str, str]) -> None:
    answer = await create(url, input=[reference, USER])

    assert answer.refusal == (404, None, "input")
    assert answer.error["message"].startswith("Item with id 'rs_1' not found. Items are not persisted when `store`")


# -- what waits for later


WISHES: dict[str, Any] = {
    "access_programs": {"cyber": "standard"},
    "background_options": {"completion_window": "8h"},
    "generate": False,
    "image": {"context_compression": "enabled"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni-moderation-latest"},
    "multi_agent": {"enabled": True},
    "stream_id": "lane",
}
"""What a client that wants more than the default sends for each parameter."""


async def test_a_wish_is_known_for_every_parameter_that_waits() -> None:
    assert WISHES.keys() == LATER.keys()


@pytest.mark.parametrize("name", sorted(LATER))
async def test_a_parameter_that_waits_is_refused_by_name(url: str, name: str) -> None:
    answer = await create(url, **{name: WISHES[name]})

    assert answer.refusal == (400, "unsupported_parameter", name)
    assert f"'{name}'" in answer.error["message"]
    assert (await create(url, **{name: ["what", "is", "this"]})).refusal == (400, "unsupported_parameter", name)


@pytest.mark.parametrize("name", sorted(LATER))
async def test_a_parameter_that_waits_is_served_at_its_default(url: str, name: str) -> None:
    for default in (None, *LATER[name].defaults):
        answer = await create(url, **{name: default})
        assert answer.value["status"] == "completed"
        assert "antiphon-ignored-parameters" not in answer.headers


@pytest.mark.parametrize(
    ("name", "default"),
    [
        *(("background", False), ("truncation", "disabled"), ("frequency_penalty", 0.0), ("presence_penalty", 0)),
        *(("top_logprobs", 0), ("include", []), ("modalities", ["text"]), ("response_format", {"type": "text"})),
    ],
)
async def test_the_defaults_of_the_reference_are_among_them(url: str, name: str, default: object) -> None:
    assert (await create(url, **{name: default})).status == 200


@pytest.mark.parametrize(("name", "value"), [("generate", 1)])
async def test_what_only_python_takes_for_the_default_is_refused(url: str, name: str, value: object) -> None:
    assert (await create(url, **{name: value})).refusal == (400, "unsupported_parameter", name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm"),
        (
            {"prompt_cache_options": {"comparison_response_id": "resp_1"}},
            "prompt_cache_options.comparison_response_id",
        ),
        (tool(allowed_callers=["programmatic"]), "tools[0].allowed_callers"),
    ],
    ids=str,
)
async def test_a_field_that_waits_is_refused_by_its_path(url: str, fields: dict[str, Any], param: str) -> None:
    assert (await create(url, **fields)).refusal == (400, "unsupported_parameter", param)


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": {"context": "auto", "mode": "standard", "generate_summary": None}},
        {"reasoning": {"effort": None, "summary": None}},
        {"text": {"verbosity": "medium", "format": {"type": "text"}}},
        {"prompt_cache_options": {"prewarm": False, "comparison_response_id": None}, "prompt": None, "seed": None},
        {"text": {"verbosity": None, "format": None}},
        {"text": {}, "tools": [], "include": [], "metadata": {}, "reasoning": {}, "stop": None},
        dict.fromkeys(["instructions", "previous_response_id", "metadata", "temperature", "top_p", "text", "store"]),
        dict.fromkeys(["max_output_tokens", "tools", "tool_choice", "parallel_tool_calls", "reasoning", "user"]),
        dict.fromkeys(["stream", "stream_options", "prompt_cache_key", "safety_identifier", "service_tier", "include"]),
        tool(strict=None, description=None, parameters=None, defer_loading=False, **{"async": False}),
        item(id=None, status=None, phase=None),
        part(prompt_cache_breakpoint=None),
        {"input": [THOUGHT | {"encrypted_content": None, "content": None}, USER]},
        {"input": [CALL | {"namespace": None, "caller": None, "async": None}, OUTPUT | {"name": None}]},
        {"stream": True, "stream_options": {"include_obfuscation": False, "include_usage": None}},
    ],
    ids=str,
)
async def test_nulls_empties_and_defaults_count_as_absent(url: str, fields: dict[str, Any]) -> None:
    answer = await create(url, **fields)

    assert answer.status == 200
    assert "antiphon-ignored-parameters" not in answer.headers


@pytest.mark.parametrize(
    "fields",
    [
        *({"reasoning": {"context": context}} for context in ("all_turns", "current_turn")),
        {"text": {"verbosity": "low"}},
        {"text": {"format": SCHEMA | {"description": "d", "strict": False}}},
        {"top_logprobs": 5},
        {"frequency_penalty": 0.5, "presence_penalty": -0.5, "max_tool_calls": 1},
        {"prompt_cache_options": {"mode": "explicit", "ttl": "12h"}, "prompt_cache_retention": "24h"},
        tool(output_schema={"type": "object"}, allowed_callers=["direct"], defer_loading=True, strict=True)
        | {"tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": False},
        {"tools": [CUSTOM | {"description": "d", "format": {"type": "text"}, "async": True}]},
        {"tools": [{"type": "namespace", "name": "n", "description": "d", "tools": [FUNCTION | {"strict": True}]}]},
        tool() | {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [FUNCTION]}},
    ],
    ids=str,
)
async def test_what_is_served_beyond_the_defaults_is_echoed(url: str, fields: dict[str, Any]) -> None:
    answer = await create(url, input="say {}", **fields)

    assert "antiphon-ignored-parameters" not in answer.headers
    assert holds(answer.value, fields)


def holds(value: Any, part: Any) -> bool:
    """Whether everything in `part` is in `value`, which may have more fields."""
    if isinstance(part, dict):
        return isinstance(value, dict) and all(name in value and holds(value[name], part[name]) for name in part)
    if isinstance(part, list):
        return isinstance(value, list) and len(value) == len(part) and all(map(holds, value, part))
    return bool(value == part)


@pytest.mark.parametrize(
    "items",
    [
        [USER | {"content": [TEXT_PART | {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}]}],
        [USER | {"content": [TEXT_PART, PICTURE | {"detail": "low"}]}],
        [CALL | {"namespace": "n", "caller": {"type": "direct"}}, OUTPUT | {"caller": {"type": "direct"}}],
        [CALL | {"async": True}, USER],
        [CALL, OUTPUT | {"output": [TEXT_PART, PICTURE]}],
        [{"type": "computer_call", "call_id": "c"}, {"type": "computer_call_output", "call_id": "c", "output": SCREEN}],
        [{"type": "custom_tool_call", "call_id": "c", "name": "c", "input": "x"},
         {"type": "custom_tool_call_output", "call_id": "c", "output": "y"}],
        [{"type": "additional_tools", "role": "developer", "tools": [CUSTOM]}, USER],
    ],
    ids=str,
)  # fmt: skip
async def test_what_items_hold_beyond_the_least_is_kept(url: str, items: list[Any]) -> None:
    answer = await create(url, input=items)
    listed = await ask(url, "GET", f"/v1/responses/{answer.value['id']}/input_items?order=asc")

    assert "antiphon-ignored-parameters" not in answer.headers
    sent = [one for one in items if one is not USER]
    assert holds([one for one in listed.value["data"] if one["type"] != "message" or len(sent) == 1][: len(sent)], sent)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"max_tokens": 1, "max_output_tokens": 2}, "max_tokens"),
        ({"max_completion_tokens": 1, "max_output_tokens": 2}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}, "text": {"format": {"type": "text"}}}, "response_format"),
        ({"reasoning": {"summary": "auto", "generate_summary": "detailed"}}, "reasoning.generate_summary"),
    ],
    ids=str,
)
async def test_two_names_of_one_thing_that_contradict_each_other_are_refused(
    url: str, fields: dict[str, Any], name: str
) -> None:
    answer = await create(url, **fields)

    assert answer.refusal == (400, None, name)
    assert "say different things" in answer.error["message"]


CHOICES = HOSTED
ITEMS = LATER_TYPES - HOSTED


@pytest.mark.parametrize("kind", sorted(ITEMS))
async def test_an_item_of_a_type_that_waits_is_refused(url: str, kind: str) -> None:
    answer = await create(url, input=[USER, {"type": kind, "id": "x"}])

    assert answer.refusal == (400, "unsupported_parameter", "input[1].type")
    assert f"'{kind}'" in answer.error["message"]


@pytest.mark.parametrize("kind", sorted(HOSTED))
async def test_a_hosted_tool_that_is_merely_offered_is_left_out_and_named(url: str, kind: str) -> None:
    answer = await create(url, tools=[FUNCTION, {"type": kind, "anything": {"at": "all"}}])

    assert [one["type"] for one in answer.value["tools"]] == ["function"]
    assert answer.headers["antiphon-omitted-tools"] == kind


async def test_a_strict_server_refuses_a_hosted_tool_that_is_merely_offered(scripted: Settings) -> None:
    async with serve(changed(scripted, server={"strict": True})) as url:
        answer = await create(url, tools=[FUNCTION, {"type": "web_search"}])

    assert answer.refusal == (400, "unsupported_parameter", "tools")
    assert "'web_search'" in answer.error["message"]


@pytest.mark.parametrize("kind", sorted(CHOICES))
async def test_a_choice_of_a_hosted_tool_is_refused(url: str, kind: str) -> None:
    answer = await create(url, tools=[FUNCTION, {"type": kind}], tool_choice={"type": kind, "name": "f"})

    assert answer.refusal == (400, "unsupported_parameter", "tool_choice.type")


@pytest.mark.parametrize("kind", sorted(HOSTED))
async def test_allowing_a_hosted_tool_alone_is_refused(url: str, kind: str) -> None:
    only = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": kind}]}
    answer = await create(url, tools=[FUNCTION, {"type": kind}], tool_choice=only)

    assert answer.refusal == (400, None, "tool_choice")
    assert "(this server cannot run it)" in answer.error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"type": "telegram"}]}, "input[0].type"),
        ({"input": [{"type": "input_text", "text": "a"}]}, "input[0].type"),
        ({"input": [{"type": "function"}]}, "input[0].type"),
        (item(content=[{"type": "reasoning_text", "text": "a"}]), "input[0].content[0].type"),
        (item(content=[{"type": "message"}]), "input[0].content[0].type"),
        (item(type=MEGABYTE), "input[0].type"),
        ({"tools": [{"type": "telegram"}]}, "tools[0].type"),
        ({"tools": [{"type": "antiphon:unserved", "kind": "telegram"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "telegram"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "telegram"}}}, "text.format.type"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_type_that_nobody_knows_is_refused(url: str, fields: dict[str, Any], param: str) -> None:
    assert (await create(url, **fields)).refusal == (400, "invalid_value", param)


async def test_a_hosted_tool_that_is_not_enabled_is_refused(scripted: Settings) -> None:
    bare = changed(scripted, tools={"scripted": ScriptedToolSettings(enabled=False)})
    async with serve(bare) as url:
        answer = await create(url, tools=[{"type": "antiphon:scripted"}])

    assert answer.refusal == (400, "unsupported_parameter", "tools[0].type")


# -- unknown names


NEAR_MISSES: list[tuple[dict[str, Any], str, str]] = [
    ({"temprature": 1}, "temprature", "temperature"),
    ({"max_output_token": 1}, "max_output_token", "max_output_tokens"),
    ({"previous_response": "x"}, "previous_response", "previous_response_id"),
    ({"instruction": "x"}, "instruction", "instructions"),
    ({"meta_data": {}}, "meta_data", "metadata"),
    ({"backgroud": True}, "backgroud", "background"),
    ({"reasoning": {"efort": "low"}}, "reasoning.efort", "reasoning.effort"),
    ({"text": {"verbosty": "low"}}, "text.verbosty", "text.verbosity"),
    ({"stream": True, "stream_options": {"include_usages": True}}, "stream_options.include_usages", "include_usage"),
    (tool(paramters={}), "tools[0].paramters", "tools[0].parameters"),
    ({"tool_choice": {"type": "function", "name": "f", "nam": "g"}} | tool(), "tool_choice.nam", "tool_choice.name"),
    (item(statuss="completed"), "input[0].statuss", "input[0].status"),
    (part(texts="a"), "input[0].content[0].texts", "input[0].content[0].text"),
    ({"input": [CALL | {"argument": "{}"}, OUTPUT]}, "input[0].argument", "input[0].arguments"),
]


@pytest.mark.parametrize(("fields", "param", "meant"), NEAR_MISSES, ids=str)
async def test_a_near_miss_of_a_known_name_is_refused(url: str, fields: Any, param: str, meant: str) -> None:
    answer = await create(url, **fields)

    assert answer.refusal == (400, "unknown_parameter", param)
    assert f"Unknown parameter: '{param}'. Did you mean '" in answer.error["message"]
    assert answer.error["message"].endswith(f"{meant}'?")


async def test_unknown_fields_are_tolerated_and_named_by_their_paths(url: str) -> None:
    fields = {
        "input": [USER | {"colour": 1}, {"role": "user", "content": [TEXT_PART, TEXT_PART | {"shade": {}}]}],
        "tools": [FUNCTION | {"weight": [], "parameters": {"anything": 1}}],
        "reasoning": {"budget": 1},
        "provider": {"a": 1},
        "text": {"format": {"type": "text", "font": "serif"}},
        "metadata": {"free": "x"},
    }
    answer = await create(url, **fields)

    assert answer.value["status"] == "completed"
    assert set(answer.headers["antiphon-ignored-parameters"].split(", ")) == {
        *("input[0].colour", "input[1].content[1].shade", "tools[0].weight", "reasoning.budget", "provider"),
        "text.format.font",
    }


async def test_unknown_fields_of_the_chat_style_are_named_too(url: str) -> None:
    image = {"type": "image_url", "image_url": {"url": PICTURE["image_url"], "hue": 1}, "shade": 1}
    answer = await create(
        url, input=[{"role": "user", "content": [{"type": "text", "text": "say a", "tone": 1}, image]}]
    )

    assert set(answer.headers["antiphon-ignored-parameters"].split(", ")) == {
        *("input[0].content[0].tone", "input[0].content[1].hue", "input[0].content[1].shade")
    }


@pytest.mark.parametrize("name", ["provider", "session_id", "plugins", "cache_control", "trace"])
async def test_what_known_clients_send_besides_is_no_near_miss(url: str, name: str) -> None:
    answer = await create(url, **{name: {}})

    assert (answer.status, answer.headers["antiphon-ignored-parameters"]) == (200, name)


async def test_unknown_fields_are_named_in_a_stream_too_and_in_the_log(url: str) -> None:
    with capture_logs() as logs:
        async with streaming(url, colour="red") as one:
            await (await one.head()).frames()

    assert one.headers["antiphon-ignored-parameters"] == "colour"
    assert [line["parameters"] for line in logs if line["event"] == "unknown parameters"] == [("colour",)]


@pytest.mark.parametrize("name", ["a\r\nset-cookie: b", "a\nb", "\0", "\x7f", "é\u2028", WIDE_MEGABYTE, ""])
async def test_an_unknown_name_cannot_write_headers(url: str, name: str) -> None:
    answer = await create(url, **{name: 1})

    assert answer.status == 200
    assert "set-cookie" not in answer.headers
    named = answer.headers["antiphon-ignored-parameters"]
    assert named.isprintable()
    assert len(named) <= 1000


async def test_a_flood_of_unknown_names_does_not_stop_the_server(scripted: Settings) -> None:
    async with serve(scripted) as url:
        answer = await create(url, **{f"unheard{number}": 1 for number in range(500_000)})

    assert answer.status in {200, 400}
    assert len(answer.headers.get("antiphon-ignored-parameters", "")) <= 1000


async def test_a_strict_server_refuses_the_first_unknown_field(scripted: Settings) -> None:
    async with serve(changed(scripted, server={"strict": True})) as url:
        top = await create(url, colour=1)
        nested = await create(url, **part(shade=1))
        long = await create(url, **{WIDE_MEGABYTE[:100_000]: 1})
        known = await create(url, **part(prompt_cache_breakpoint=None), background=False, metadata={"colour": "red"})

    assert top.refusal == (400, "unknown_parameter", "colour")
    assert top.error["message"] == "Unknown parameter: 'colour'."
    assert nested.refusal == (400, "unknown_parameter", "input[0].content[0].shade")
    assert long.refusal[:2] == (400, "unknown_parameter")
    assert known.status == 200


# -- long texts in wrong places


@pytest.mark.parametrize("text", [MEGABYTE, WIDE_MEGABYTE], ids=["narrow", "wide"])
@pytest.mark.parametrize(
    "place",
    [
        lambda text: {"model": text},
        lambda text: {"input": [{"type": text}]},
        lambda text: {"input": [{"id": text}]},
        lambda text: {"input": [{"role": text, "content": "a"}]},
        lambda text: item(id=text),
        lambda text: item(status=text),
        lambda text: item(content=[{"type": text}]),
        lambda text: {"input": [CALL | {"call_id": text}]},
        lambda text: {"input": [OUTPUT | {"call_id": text}]},
        lambda text: {"previous_response_id": text},
        lambda text: {"metadata": {text: "a"}},
        lambda text: {"metadata": {"a": text}},
        lambda text: {"metadata": {text: 5}},
        lambda text: {"temperature": text},
        lambda text: {"stream": text},
        lambda text: {"stop": ["a", "b", "c", "d", text]},
        lambda text: {"tools": [{"type": text}]},
        lambda text: {"tools": [{"type": "function", "name": text}]},
        lambda text: {"tools": [FUNCTION], "tool_choice": text},
        lambda text: {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": text}},
        lambda text: {"reasoning": {"effort": text}},
        lambda text: {"safety_identifier": text},
        lambda text: {"service_tier": text},
        lambda text: {"truncation": text},
        lambda text: {"background": {text[:1000]: text}},
    ],
)
async def test_a_megabyte_in_a_wrong_place_is_not_sent_back(url: str, place: Any, text: str) -> None:
    assert (await create(url, **place(text))).refusal[0] in {400, 404}


@pytest.mark.parametrize("text", ["x" * 20_000, "%00" * 5_000, "%F0%9F%92%A9" * 2_000, "%ff%fe", "%2e%2e%2f", "%0d%0a"])
@pytest.mark.parametrize("path", ["/v1/responses/{}", "/v1/responses/{}/input_items", "/v1/models/{}", "/{}"])
async def test_a_long_or_odd_path_is_not_found(url: str, path: str, text: str) -> None:
    assert (await ask(url, "GET", path.format(text))).refusal[0] == 404


# -- calls and their outputs


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([CALL], "No tool output found for function call c."),
        ([CALL, USER], "No tool output found for function call c."),
        ([CALL, CALL, OUTPUT], "No tool output found for function call c."),
        ([OUTPUT], "No tool call found for function call output with call_id c."),
        ([OUTPUT, CALL], "No tool call found for function call output with call_id c."),
        ([CALL, OUTPUT, OUTPUT], "No tool call found for function call output with call_id c."),
        ([CALL, OUTPUT | {"call_id": "d"}], "No tool call found for function call output with call_id d."),
        (
            [{"role": "tool", "tool_call_id": "d", "content": "x"}],
            "No tool call found for function call output with call_id d.",
        ),
        ([{"role": "tool", "content": "x"}], "A function call output has no 'call_id', and no call waits for one."),
        ([CALL | {"async": True}, CALL], "No tool output found for function call c."),
    ],
)
async def test_a_call_and_its_output_come_in_pairs(url: str, items: list[Any], message: str) -> None:
    answer = await create(url, input=[USER, *items])

    assert answer.refusal == (400, None, "input")
    assert answer.error["message"] == message


async def test_a_call_of_an_earlier_response_wants_its_output_too(url: str) -> None:
    called = (await create(url, input="call f {}", tools=[FUNCTION])).value
    call_id = called["output"][0]["call_id"]
    unanswered = await create(url, previous_response_id=called["id"])
    output = {"type": "function_call_output", "call_id": call_id, "output": [TEXT_PART]}
    answered = await create(url, previous_response_id=called["id"], input=[USER, output])

    assert unanswered.refusal == (400, None, "input")
    assert unanswered.error["message"] == f"No tool output found for function call {call_id}."
    assert answered.value["output"][0]["content"][0]["text"] == "got: say hello"


# -- tools


@pytest.mark.parametrize("name", ["", "a b", "a.b", "é", "a\n", "\n", "a\0", "-" * 129, "a/b", "\N{PILE OF POO}"])
async def test_a_tool_name_outside_the_rules_is_refused(url: str, name: str) -> None:
    assert (await create(url, **tool(name=name))).refusal == (400, "invalid_value", "tools[0].name")


@pytest.mark.parametrize("name", ["a", "A-b_9", "-", "0", "_" * 128])
async def test_a_tool_name_within_the_rules_is_served(url: str, name: str) -> None:
    assert (await create(url, **tool(name=name))).value["tools"][0]["name"] == name


async def test_two_tools_of_one_name_are_refused(url: str) -> None:
    hosted = {"type": "antiphon:scripted", "name": "f"}

    assert (await create(url, tools=[FUNCTION, FUNCTION])).refusal == (400, "invalid_value", "tools[1].name")
    assert (await create(url, tools=[FUNCTION, hosted])).refusal == (400, "invalid_value", "tools[1].name")


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": None}])
async def test_a_choice_among_no_tools_is_refused(url: str, fields: dict[str, Any]) -> None:
    named = {"type": "function", "name": "f"}

    assert (await create(url, tool_choice="required", **fields)).refusal == (400, None, "tool_choice")
    assert (await create(url, tool_choice=named, **fields)).refusal == (400, None, "tool_choice")
    assert (await create(url, tool_choice="none", **fields)).status == 200


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "g"},
        {"type": "custom", "name": "g"},
        *({"type": kind} for kind in ("shell", "apply_patch", "computer", "computer_use")),
        {"type": "allowed_tools", "mode": "auto", "tools": []},
        *(
            {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION, other]}
            for other in (
                *(FUNCTION | {"name": "g"}, FUNCTION | {"namespace": "n"}, {"type": "namespace", "name": "n"}, {}),
                *({"type": "shell"}, {"type": ["function"], "name": "f"}, FUNCTION | {"name": ["f"]}),
            )
        ),
    ],
    ids=str,
)
async def test_a_choice_of_a_tool_that_is_not_offered_is_refused(url: str, choice: dict[str, Any]) -> None:
    assert (await create(url, tools=[FUNCTION], tool_choice=choice)).refusal == (400, None, "tool_choice")


async def test_a_choice_by_a_null_namespace_is_one_without(url: str) -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION | {"namespace": None}]}

    assert (await create(url, tools=[FUNCTION], tool_choice=choice)).status == 200


# -- queries


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("limit=0", "integer_below_min_value", "limit"),
        ("limit=-1", "integer_below_min_value", "limit"),
        ("limit=101", "integer_above_max_value", "limit"),
        ("limit=many", "invalid_type", "limit"),
        ("limit=1.5", "invalid_type", "limit"),
        ("limit=--1", "invalid_type", "limit"),
        ("limit=" + "9" * 5000, None, "limit"),
        ("order=up", "invalid_value", "order"),
        ("order=" + "x" * 5000, "invalid_value", "order"),
        ("order=%ff%00", "invalid_value", "order"),
        ("after=msg_nowhere", None, "after"),
        ("after=%00", None, "after"),
        ("after=" + "x" * 5000, None, "after"),
        ("before=msg_1", "unsupported_parameter", "before"),
        ("include=everything", "invalid_value", "include"),
        ("include[]=everything", "invalid_value", "include"),
        ("include%5B%5D=reasoning.encrypted_content&include%5B%5D=x", "invalid_value", "include"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_wrong_query_is_named(url: str, query: str, code: str | None, param: str) -> None:
    response = (await create(url)).value
    status, given_code, given_param = (
        await ask(url, "GET", f"/v1/responses/{response['id']}/input_items?{query}")
    ).refusal

    assert status == (404 if param == "after" else 400)
    assert given_param == param
    assert code in {None, given_code}


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("stream=true", "response_not_streamable", "stream"),
        ("stream=1", "invalid_value", "stream"),
        ("starting_after=3", None, "starting_after"),
        ("starting_after=x&stream=true", "invalid_type", "starting_after"),
        ("starting_after=-2&stream=true", "integer_below_min_value", "starting_after"),
        ("include_obfuscation=true", None, "include_obfuscation"),
    ],
)
async def test_what_cannot_be_streamed_again_is_refused(url: str, query: str, code: str | None, param: str) -> None:
    response = (await create(url)).value
    answer = await ask(url, "GET", f"/v1/responses/{response['id']}?{query}")

    assert answer.refusal == (400, code, param)


@pytest.mark.parametrize("query", ["stream=false", "include[]=reasoning.encrypted_content", "limit=", "unheard=of"])
async def test_defaults_and_unknown_queries_are_served(url: str, query: str) -> None:
    response = (await create(url)).value

    assert (await ask(url, "GET", f"/v1/responses/{response['id']}?{query}")).value == response


# -- whatever else


@pytest.mark.parametrize(
    "script", ["long", "long live the king", "call", "call me maybe", "say", "think", "refuse", "|"]
)
async def test_no_script_breaks_the_scripted_model(url: str, script: str) -> None:
    assert (await create(url, input=script, tools=[FUNCTION])).status == 200


VALID: list[dict[str, Any]] = [
    request(
        input=[
            USER | {"id": "msg_1", "status": "completed"},
            THOUGHT | {"content": [{"type": "reasoning_text", "text": "hm"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
            CALL,
            OUTPUT | {"output": [TEXT_PART]},
        ],
        tools=[FUNCTION | {"parameters": {"type": "object"}, "strict": True, "description": "d"}],
        tool_choice={"type": "function", "name": "f"},
    ),
    request(
        instructions="x",
        metadata={"a": "b"},
        temperature=1,
        top_p=0.5,
        stop=["a"],
        user="u",
        max_output_tokens=5,
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "medium"},
        parallel_tool_calls=False,
        store=False,
        truncation="disabled",
        service_tier="auto",
        stream=True,
        stream_options={"include_usage": True},
        previous_response_id=None,
    ),
    request(
        input=[
            {"role": "user", "content": [TEXT_PART, PICTURE]},
            CALL | {"async": True, "namespace": "n"},
            {"type": "custom_tool_call", "call_id": "d", "name": "c", "input": "x"},
            {"type": "custom_tool_call_output", "call_id": "d", "output": [TEXT_PART]},
            {"type": "shell_call", "call_id": "e", "action": {"commands": ["ls"]}, "environment": {"type": "local"}},
            {
                "type": "shell_call_output",
                "call_id": "e",
                "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
            },
            {"type": "tool_search_call", "call_id": "g", "arguments": {"query": "x"}},
            {"type": "tool_search_output", "call_id": "g", "tools": [FUNCTION | {"name": "found"}]},
            {"type": "additional_tools", "role": "developer", "tools": [CUSTOM | {"name": "more"}]},
            USER,
        ],
        tools=[
            FUNCTION | {"allowed_callers": ["direct"], "output_schema": {}, "async": True},
            CUSTOM | {"format": {"type": "grammar", "syntax": "regex", "definition": "a+"}},
            {"type": "namespace", "name": "n", "description": "d", "tools": [FUNCTION, CUSTOM]},
            {"type": "tool_search", "execution": "client"},
            {"type": "shell", "environment": {"type": "local", "skills": []}},
            {"type": "web_search", "filters": {}},
        ],
        tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION, {"type": "shell"}]},
        text={"format": SCHEMA | {"strict": False}, "verbosity": "low"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        logit_bias={"1": 2},
        prompt_cache_options={"mode": "explicit"},
    ),
]
ODD_NAMES = ["a.b", "[0]", "", "\0\r\n", "x" * 300]
NAMES = ["type", "id", "content", "rolle", "call_id", "colour", *ODD_NAMES]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(["user", "message", "function", "item_reference", "reasoning", "` - at `$.x", "x" * 5000, "low"]),
)
JUNK = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
)


@st.composite
def mutants(draw: st.DrawFn, valid: list[dict[str, Any]]) -> Any:
    """A valid body, in which something was dropped, replaced, wrapped, doubled or added, once or a few times."""
    body = json.loads(json.dumps(draw(st.sampled_from(valid))))
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        holder, key = draw(st.sampled_from(list(places(body)) or [(body, "input")]))
        value = holder[key] if isinstance(holder, list) else holder.get(key)
        change = draw(st.sampled_from(["drop", "replace", "list", "object", "double", "add"]))
        if change == "drop":
            holder.pop(key, *(() if isinstance(holder, list) else (None,)))
        elif change == "replace":
            holder[key] = draw(JUNK)
        elif change == "list":
            holder[key] = [value]
        elif change == "object":
            holder[key] = {draw(st.sampled_from(NAMES)): value}
        elif change == "double":
            holder[key] = [value, value]
        elif isinstance(value, dict):
            value[draw(st.sampled_from(NAMES))] = draw(JUNK)
    return body


def places(value: Any) -> Any:
    """Every holder and key within."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from places(inner)


def exists(path: str, body: Any, *, may_end_early: bool) -> bool:
    """Whether `input[0].content` is there; where something is missing, at least all before its end."""
    *before, last = re.findall(r"[^.\[\]]+", path)
    for step in before:
        body = body[int(step)] if isinstance(body, list) else body[step]
    return may_end_early or (last in body if isinstance(body, dict) else int(last) < len(body))


@given(body=mutants(VALID))
@trying(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_sent_is_served_or_refused_by_name(url: str, body: Any) -> None:
    answer = await ask(url, "POST", "/v1/responses", body)
    if answer.status == 200:
        return

    status, code, param = answer.refusal
    assert 400 <= status < 500
    if param is not None and not any(odd[:250] in param for odd in ODD_NAMES if odd):
        assert exists(param, body, may_end_early=code == "missing_required_parameter")
