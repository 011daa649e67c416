"""Both wires over HTTP: each kind of answer held against its schema and grammar, and one store behind them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from antiphon.config import Settings
from antiphon.core.deltas import Annotate, Delta, Finish, Phase, Refusal, Summary, Text, Thought, ToolCall
from antiphon.errors import ApiError, ContextLengthExceeded, ModelError, ModelOverloaded, Unavailable
from antiphon.stores.memory import MemoryStore
from antiphon.wire import dialect
from antiphon.wire.items import ContainerFileCitation, Logprob, TopLogprob, UrlCitation
from antiphon.wire.shapes import AtLeast, Each, Fields, Forms, Shape, Tagged, Words
from antiphon.wire.shapes import Text as Bounded
from tests import wirecheck
from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import Answer, Exchange, Played, ask, exchange, request, scripted_in, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

Object = dict[str, Any]


class Side(NamedTuple):
    prefix: str
    check: Callable[[Answer], Any]

    async def create(self, url: str, **fields: Any) -> Any:
        """What was answered, which is lawful."""
        return self.check(await ask(url, "POST", f"{self.prefix}/responses", request(**fields)))

    async def get(self, url: str, path: str) -> Any:
        return self.check(await ask(url, "GET", f"{self.prefix}/{path}"))

    async def refusal(self, url: str, body: Any) -> tuple[int, str | None, str | None]:
        answer = await ask(url, "POST", f"{self.prefix}/responses", body)
        self.check(answer)
        return answer.refusal


OPENAI = Side("/v1", wirecheck.openai)
OPEN = Side("/openresponses/v1", wirecheck.openresponses)
SIDES = [OPENAI, OPEN]
each_side = pytest.mark.parametrize("side", SIDES, ids=["openai", "open"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server of the scripted model for all that only ask it; gives its address, without a prefix."""
    async with serve(scripted_in(tmp_path_factory.mktemp("dialects"))) as address:
        yield address.removesuffix("/v1")


class Stage(NamedTuple):
    url: str
    model: Played


@pytest_asyncio.fixture(loop_scope="module")
async def stage(scripted: Settings) -> AsyncIterator[Stage]:
    """A server of the played model."""
    async with AsyncExitStack() as stack:
        yield await staged(scripted, stack)


async def staged(settings: Settings, stack: AsyncExitStack) -> Stage:
    settings = changed(settings, limits={"first_byte_wait_s": WAIT_S, "shutdown_grace_s": 0.1})
    model = Played()
    store = MemoryStore(settings.storage, settings.limits)
    return Stage(await stack.enter_async_context(serving(settings, store, model)), model)


def function(name: str, **fields: Any) -> Object:
    return {"type": "function", "name": name, **fields}


HOSTED = {"type": "antiphon:scripted"}


# -- each kind of answer is lawful in both

KINDS: dict[str, tuple[Object, str, list[str]]] = {
    "text": ({"input": "say one two three"}, "completed", ["message"]),
    "long text": ({"input": "long 200"}, "completed", ["message"]),
    "raw reasoning": ({"input": "think hm so | say hi"}, "completed", ["reasoning", "message"]),
    "reasoning as a summary": (
        {"input": "think hm so | say hi", "reasoning": {"summary": "auto", "effort": "high"}},
        "completed",
        ["reasoning", "message"],
    ),
    "a refusal": ({"input": "refuse not this"}, "completed", ["message"]),
    "calls in parallel": (
        {
            "input": 'call f {"a": 1} | call g {"b": [2]}',
            "tools": [function("f"), function("g", description="G.", parameters={"type": "object"}, strict=False)],
        },
        "completed",
        ["function_call", "function_call"],
    ),
    "a forced call": (
        {"input": "hello", "tools": [function("f")], "tool_choice": {"type": "function", "name": "f"}},
        "completed",
        ["function_call"],
    ),
    "an allowed call": (
        {
            "input": "call f {}",
            "tools": [function("f"), function("g")],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "f"}],
            },
        },
        "completed",
        ["function_call"],
    ),
    "a hosted call": (
        {"input": 'think hm | call scripted {"text": "a"}', "tools": [HOSTED]},
        "completed",
        ["reasoning", "antiphon:scripted_call", "message"],
    ),
    "a hosted call that fails": (
        {"input": 'call scripted {"text": "fail"}', "tools": [HOSTED]},
        "completed",
        ["antiphon:scripted_call", "message"],
    ),
    "what was cut short": ({"input": "say one two | cut"}, "incomplete", ["message"]),
    "what was cut short at once": ({"input": "cut"}, "incomplete", []),
    "a limit on tokens": ({"input": "long 40", "max_output_tokens": 16}, "incomplete", ["message"]),
    "a promised format": (
        {
            "input": '{"a": 1}',
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "n",
                    "schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
                },
                "verbosity": "low",
            },
        },
        "completed",
        ["message"],
    ),
    "all that is echoed": (
        {
            "instructions": "Be brief.",
            "metadata": {"a": "b"},
            "temperature": 0.5,
            "top_p": 1,
            "presence_penalty": 1,
            "frequency_penalty": -1,
            "max_tool_calls": 3,
            "parallel_tool_calls": False,
            "prompt_cache_key": "k",
            "safety_identifier": "s",
            "service_tier": "auto",
            "store": False,
            "top_logprobs": 0,
            "include": ["message.output_text.logprobs"],
        },
        "completed",
        ["message"],
    ),
}


@each_side
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "status", "kinds"), KINDS.values(), ids=KINDS)
async def test_an_answer_keeps_its_wire(
    url: str, side: Side, stream: bool, fields: Object, status: str, kinds: list[str]
) -> None:
    response = await side.create(url, stream=stream, **fields)

    assert response["status"] == status
    assert [item["type"] for item in response["output"]] == kinds
    if response["store"]:
        assert await side.get(url, f"responses/{response['id']}") == response
        assert (await side.get(url, f"responses/{response['id']}/input_items"))["data"]


LOGPROB = Logprob(
    token="a", bytes=(97,), logprob=-0.5, top_logprobs=(TopLogprob(token="a", bytes=(97,), logprob=-0.5),)
)
SAID: dict[str, list[Delta]] = {
    "logprobs": [Text("a", logprobs=(LOGPROB,)), Text("b")],
    "phases": [Phase("commentary"), Text("a"), Phase("final_answer"), Text("b")],
    "an annotation": [Text("a"), Annotate(UrlCitation(start_index=0, end_index=1, title="t", url="https://e.org"))],
    "an annotation of OpenAI's": [
        Text("a"),
        Annotate(ContainerFileCitation(container_id="c", file_id="f", filename="n", start_index=0, end_index=1)),
    ],
    "thoughts, summaries and a refusal": [Thought("a"), Summary("b"), Summary("c", part=1), Text("d"), Refusal("e")],
    "calls that interleave": [
        ToolCall("0", name="f"),
        ToolCall("1", name="g"),
        ToolCall("0", "{}"),
        ToolCall("1", "{}"),
    ],
    "a thought about the names of events": [Thought("response.reasoning_text.delta"), Text("b")],
    "separators of lines": [Text("a\u2028b\u2029c\x85d\r\n\n")],
}


@each_side
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
async def test_what_a_model_may_say_keeps_its_wire(stage: Stage, side: Side, stream: bool, said: list[Delta]) -> None:
    for delta in said:
        stage.model.say(delta)
    stage.model.say(Finish("stop"))
    response = await side.create(stage.url, model="played", stream=stream)

    assert response["status"] == "completed"
    assert await side.get(stage.url, f"responses/{response['id']}") == response


# -- failures

FAILURES: list[tuple[ApiError, tuple[int, str], tuple[int, str]]] = [
    (ModelError("It broke."), (502, "server_error"), (500, "model_error")),
    (ModelOverloaded(), (429, "requests"), (429, "too_many_requests")),
    (ContextLengthExceeded(), (400, "invalid_request_error"), (400, "invalid_request")),
    (Unavailable(), (503, "server_error"), (503, "server_error")),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("failure", "openai", "opened"), FAILURES)
async def test_a_failure_before_the_first_token_has_each_wires_status_and_type(
    stage: Stage, stream: bool, failure: ApiError, openai: tuple[int, str], opened: tuple[int, str]
) -> None:
    seen = []
    for side in SIDES:
        stage.model.fail(failure)
        answer = await ask(stage.url, "POST", f"{side.prefix}/responses", request(model="played", stream=stream))
        seen.append((answer.status, side.check(answer)["type"]))

    assert seen == [openai, opened]


@each_side
@pytest.mark.parametrize("said", [Text("a"), Thought("a"), Refusal("a"), ToolCall("0", '{"a', name="f")])
async def test_a_stream_that_fails_is_lawful_to_its_end(stage: Stage, side: Side, said: Delta) -> None:
    stage.model.say(said)
    stage.model.fail(ContextLengthExceeded())
    response = await side.create(stage.url, model="played", stream=True)

    assert (response["status"], response["error"]["code"]) == ("failed", "context_length_exceeded")
    assert await side.get(stage.url, f"responses/{response['id']}") == response


@each_side
async def test_a_stream_that_is_cancelled_is_lawful_to_its_end(scripted: Settings, side: Side) -> None:
    async with AsyncExitStack() as server:
        stage = await staged(scripted, server)
        stage.model.say(Thought("a"))
        body = request(model="played", stream=True)
        async with exchange(stage.url, "POST", f"{side.prefix}/responses", body) as one:
            await one.head()
            data = await one.piece()
            await server.aclose()
            while piece := await one.piece():
                data += piece

    response = side.check(Answer(one.status, one.headers, data))
    assert (response["status"], response["usage"]) == ("cancelled", None)


@each_side
async def test_a_running_and_then_left_response_can_be_read_in_both(stage: Stage, side: Side) -> None:
    body = request(model="played", stream=True)
    async with exchange(stage.url, "POST", f"{side.prefix}/responses", body) as one:
        stage.model.say(Text("a"))
        await one.head()
        events = [json.loads(line[6:]) for line in (await one.piece()).splitlines() if line.startswith(b"data: ")]
        path = f"responses/{events[0]['response']['id']}"
        running = [await reader.get(stage.url, path) for reader in SIDES]
        given = [await reader.get(stage.url, f"{path}/input_items") for reader in SIDES]
    await asyncio.wait_for(stage.model.is_over.wait(), WAIT_S)
    async with asyncio.timeout(WAIT_S):
        while (await OPENAI.get(stage.url, path))["status"] == "in_progress":
            pass

    assert [response["status"] for response in running] == ["in_progress"] * 2
    assert given[0]["data"] == given[1]["data"]
    assert [(await reader.get(stage.url, path))["status"] for reader in SIDES] == ["cancelled"] * 2


# -- errors

BAD: dict[str, tuple[str, str, Any, tuple[int, str]]] = {
    "no JSON": ("POST", "responses", b"{", (400, "invalid_request")),
    "no object": ("POST", "responses", [], (400, "invalid_request")),
    "no model": ("POST", "responses", {"input": "hello"}, (400, "invalid_request")),
    "an unknown model": ("POST", "responses", request(model="nobody"), (400, "invalid_request")),
    "an unknown response to continue": (
        "POST",
        "responses",
        request(previous_response_id="resp_1"),
        (400, "invalid_request"),
    ),
    "an unknown response": ("GET", "responses/resp_1", None, (404, "not_found")),
    "an unknown response to delete": ("DELETE", "responses/resp_1", None, (404, "not_found")),
    "an unknown path": ("GET", "nothing", None, (404, "not_found")),
    "a wrong method": ("PUT", "responses", {}, (405, "invalid_request")),
}


@each_side
@pytest.mark.parametrize(("method", "path", "body", "expected"), BAD.values(), ids=BAD)
async def test_an_error_keeps_its_wire(
    url: str, side: Side, method: str, path: str, body: Any, expected: tuple[int, str]
) -> None:
    answer = await ask(url, method, f"{side.prefix}/{path}", body)
    error = side.check(answer)

    kind = expected[1] if side is OPEN else "invalid_request_error"
    assert (answer.status, error["type"]) == (expected[0], kind)


async def test_a_body_of_another_type_or_size_is_refused_in_the_words_of_each_wire(scripted: Settings) -> None:
    async with serve(changed(scripted, limits={"body_bytes_max": 100})) as address:
        url = address.removesuffix("/v1")
        for side, kind in ((OPENAI, "invalid_request_error"), (OPEN, "invalid_request")):
            path = f"{side.prefix}/responses"
            large = await ask(url, "POST", path, request(input="x" * 100))
            form = await ask(url, "POST", path, b"a=b", {"content-type": "application/x-www-form-urlencoded"})

            assert [(one.status, side.check(one)["type"]) for one in (large, form)] == [(413, kind), (415, kind)]


# -- Open Responses is strict


def assistant(annotation: Object) -> Object:
    content = [{"type": "output_text", "text": "a", "annotations": [annotation]}]
    return {"type": "message", "role": "assistant", "content": content}


REFUSED: list[tuple[Object, str, str]] = [
    # parameters of OpenAI's, of other servers, of nobody
    ({"user": "u"}, "unknown_parameter", "user"),
    ({"stop": ["x"]}, "unknown_parameter", "stop"),
    ({"max_tokens": 16}, "unknown_parameter", "max_tokens"),
    ({"prompt": {"id": "p"}}, "unknown_parameter", "prompt"),
    ({"conversation": "c"}, "unknown_parameter", "conversation"),
    ({"response_format": {"type": "text"}}, "unknown_parameter", "response_format"),
    ({"temprature": 1}, "unknown_parameter", "temprature"),
    ({"stream": True, "stream_options": {"include_usage": True}}, "unknown_parameter", "stream_options.include_usage"),
    ({"reasoning": {"context": "auto"}}, "unknown_parameter", "reasoning.context"),
    # nulls
    *(
        ({name: None}, "invalid_type", name)
        for name in ("stream", "store", "truncation", "service_tier", "include", "background")
    ),
    ({"tools": [function("f", strict=None)]}, "invalid_type", "tools[0].strict"),
    # words and bounds
    ({"include": ["file_search_call.results"]}, "invalid_value", "include[0]"),
    ({"service_tier": "scale"}, "invalid_value", "service_tier"),
    ({"reasoning": {"effort": "minimal"}}, "invalid_value", "reasoning.effort"),
    ({"text": {"format": {"type": "json_object"}}}, "invalid_value", "text.format.type"),
    ({"max_output_tokens": 15}, "integer_below_min_value", "max_output_tokens"),
    ({"max_tool_calls": 0}, "integer_below_min_value", "max_tool_calls"),
    ({"safety_identifier": "s" * 65}, "string_above_max_length", "safety_identifier"),
    ({"top_logprobs": 21}, "integer_above_max_value", "top_logprobs"),
    # tools
    *(
        (
            {"tools": [function("f"), {"type": kind, "name": "x", "description": "d", "tools": []}]},
            "invalid_value",
            "tools[1].type",
        )
        for kind in ("custom", "namespace", "shell", "apply_patch", "web_search", "mcp", "antiphon:unserved")
    ),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "unknown_parameter", "tools[0].function"),
    ({"tools": [function("f", defer_loading=True)]}, "unknown_parameter", "tools[0].defer_loading"),
    ({"tools": [function("f" * 65)]}, "string_above_max_length", "tools[0].name"),
    ({"tools": [{"name": "f"}]}, "missing_required_parameter", "tools[0].type"),
    ({"tool_choice": "any"}, "invalid_value", "tool_choice"),
    ({"tool_choice": {"type": "custom", "name": "x"}}, "invalid_value", "tool_choice.type"),
    (
        {"tools": [function("f")], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "shell"}]}},
        "invalid_value",
        "tool_choice.tools[0].type",
    ),
    # items
    ({"input": [{"role": "user", "content": "hi"}]}, "missing_required_parameter", "input[0].type"),
    ({"input": [{"type": "message", "content": "hi"}]}, "missing_required_parameter", "input[0].role"),
    ({"input": [{"type": "message", "role": "tool", "content": "hi"}]}, "invalid_value", "input[0].role"),
    (
        {"input": [{"type": "message", "role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        "invalid_value",
        "input[0].content[0].type",
    ),
    (
        {"input": [{"type": "message", "role": "system", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "invalid_value",
        "input[0].content[0].type",
    ),
    (
        {"input": [{"type": "message", "role": "user", "content": "hi", "phase": "commentary"}]},
        "unknown_parameter",
        "input[0].phase",
    ),
    (
        {"input": [{"type": "message", "role": "assistant", "content": "hi", "phase": None}]},
        "invalid_type",
        "input[0].phase",
    ),
    (
        {"input": [{"type": "custom_tool_call", "call_id": "c", "name": "x", "input": "i"}]},
        "invalid_value",
        "input[0].type",
    ),
    (
        {"input": [{"type": "function_call", "call_id": "", "name": "f", "arguments": "{}"}]},
        "string_below_min_length",
        "input[0].call_id",
    ),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f g", "arguments": "{}"}]},
        "invalid_value",
        "input[0].name",
    ),
    (
        {"input": [assistant({"type": "file_path", "file_id": "f", "index": 0})]},
        "invalid_value",
        "input[0].content[0].annotations[0].type",
    ),
    ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "invalid_value", "input[0].type"),
]


@pytest.mark.parametrize(("fields", "code", "param"), REFUSED, ids=[json.dumps(one[0])[:60] for one in REFUSED])
async def test_what_open_responses_does_not_have_is_refused_by_name(
    url: str, fields: Object, code: str, param: str
) -> None:
    assert await OPEN.refusal(url, request(**fields)) == (400, code, param)


async def test_a_refusal_says_where_openais_wire_is_served(url: str) -> None:
    error = await OPEN.create(url, tools=[{"type": "custom", "name": "x"}])

    assert "'custom'" in error["message"]
    assert "/v1" in error["message"]


NULLABLE: list[str] = [name.removesuffix("?") for name in dialect.REQUEST.fields if name.endswith("?")]


async def test_a_null_that_open_responses_allows_means_absent(url: str) -> None:
    nulls = dict.fromkeys(set(NULLABLE) - {"model", "input", "stream_options"})
    response = await OPEN.create(url, **nulls)
    plain = await OPEN.create(url)

    differ = {name for name in plain if plain[name] != response[name]}
    assert differ <= {"id", "output", "created_at", "completed_at"}


TAKEN: list[Object] = [
    {"input": [{"type": "message", "role": role, "content": "hello"} for role in ("system", "developer", "user")]},
    {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "say a"}], "id": None}]},
    {
        "input": [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": None},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "o"}]},
        ]
    },
    {
        "input": [
            {"type": "reasoning", "summary": [], "content": None},
            {"type": "message", "role": "user", "content": "a"},
        ]
    },
    {"tools": [function("f")], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]}},
    {"text": {"format": {"name": "n", "schema": {}}}, "input": "say 1"},
    {"text": {"format": None}},
    {"stream": True, "stream_options": {"include_obfuscation": False}},
    {"truncation": "disabled", "background": False},
]


@pytest.mark.parametrize("fields", TAKEN, ids=[json.dumps(one)[:60] for one in TAKEN])
async def test_what_open_responses_has_is_taken(url: str, fields: Object) -> None:
    assert (await OPEN.create(url, **fields))["status"] == "completed"


async def test_allowing_no_tool_at_all_means_none(url: str) -> None:
    choice = {"type": "allowed_tools", "mode": "none", "tools": [{"type": "function", "name": "f"}]}
    response = await OPEN.create(url, input="call f {} | say no", tools=[function("f")], tool_choice=choice)

    assert (response["tool_choice"], [item["type"] for item in response["output"]]) == ("none", ["message"])


# -- one core, one store


PLAIN = [name for name in KINDS if not re.search("reasoning|hosted|format", name)]


@pytest.mark.parametrize("name", PLAIN)
async def test_v1_alone_serves_a_client_of_open_responses_that_uses_neither_reasoning_nor_hosted_tools(
    url: str, name: str
) -> None:
    answer = await ask(url, "POST", "/v1/responses", request(stream=True, **KINDS[name][0]))

    assert OPENAI.check(answer).keys() > wirecheck.RESPONSE_KEYS
    for event in wirecheck.read(answer.body):
        wirecheck.OPEN.event(event)


@pytest.mark.parametrize(("first", "second"), [(OPENAI, OPEN), (OPEN, OPENAI)], ids=["continued in open", "in openai"])
async def test_what_was_made_in_one_wire_is_continued_in_the_other(url: str, first: Side, second: Side) -> None:
    one = await first.create(url, input="think hm | call f {}", tools=[function("f")])
    output = {"type": "function_call_output", "call_id": one["output"][1]["call_id"], "output": "found"}
    two = await second.create(url, input=[output], previous_response_id=one["id"], stream=True)

    assert two["previous_response_id"] == one["id"]
    assert two["output"][0]["content"][0]["text"] == "got: found"
    listed = [(await side.get(url, f"responses/{two['id']}/input_items"))["data"] for side in SIDES]
    assert listed[0] == listed[1]
    assert [item["type"] for item in listed[0]] == ["function_call_output", "function_call", "reasoning", "message"]


async def test_a_tool_loop_of_open_responses_takes_its_own_output_back(url: str) -> None:
    """Items are bidirectional: without a store, the client hands back all that came out."""
    given: list[Any] = [
        {"type": "message", "role": "user", "content": 'think hm | call scripted {"text": "a"} | call f {}'}
    ]
    tools = [HOSTED, function("f")]
    one = await OPEN.create(url, input=given, tools=tools, store=False, stream=True)
    call = one["output"][-1] if one["output"][-1]["type"] == "function_call" else one["output"][1]
    answer = {"type": "function_call_output", "call_id": call["call_id"], "output": "found"}
    two = await OPEN.create(url, input=[*given, *one["output"], answer], tools=tools, store=False, stream=True)

    assert {item["type"] for item in one["output"]} == {"reasoning", "function_call", "antiphon:scripted_call"}
    assert "found" in two["output"][0]["content"][0]["text"]


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
async def test_all_that_came_out_of_open_responses_may_come_in(stage: Stage, said: list[Delta]) -> None:
    stage.model.say(*said, Finish("stop"))
    one = await OPEN.create(stage.url, model="played")
    outputs = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "o"}
        for item in one["output"]
        if item["type"] == "function_call"
    ]
    stage.model.say(Text("b"), Finish("stop"))
    two = await OPEN.create(stage.url, model="played", input=[*one["output"], *outputs])
    listed = (await OPEN.get(stage.url, f"responses/{two['id']}/input_items?order=asc"))["data"]

    assert listed[: len(one["output"])] == one["output"]


@pytest.mark.parametrize("kind", [{}, {"type": None}, {"type": "item_reference"}])
async def test_an_item_is_referred_to_by_its_id(url: str, kind: Object) -> None:
    one = await OPENAI.create(url, input="say a")
    two = await OPEN.create(url, input=[{"id": one["output"][0]["id"], **kind}])

    assert (await OPEN.get(url, f"responses/{two['id']}/input_items"))["data"] == one["output"]


OF_OPENAI: list[Object] = [
    {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": "data:image/gif;base64,R0lGODlhAQABAAAAACw=", "detail": "original"}
        ],
    },
    {"type": "custom_tool_call", "call_id": "c1", "name": "x", "input": "i"},
    {"type": "custom_tool_call_output", "call_id": "c1", "output": "o"},
    {"type": "shell_call", "call_id": "c2", "action": {"commands": ["ls"]}},
    {
        "type": "shell_call_output",
        "call_id": "c2",
        "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
    },
    {"type": "function_call", "call_id": "c3", "namespace": "n", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c3", "output": "o"},
    {"type": "message", "role": "user", "content": "say done"},
]


async def test_items_that_open_responses_does_not_know_are_prefixed_and_come_back_as_they_were(url: str) -> None:
    tools = [{"type": "custom", "name": "x"}, {"type": "shell", "environment": {"type": "local"}}]
    one = await OPENAI.create(url, input=OF_OPENAI, tools=tools)
    path = f"responses/{one['id']}/input_items?order=asc"
    stored, shown = [(await side.get(url, path))["data"] for side in SIDES]
    two = await OPEN.create(url, input=shown)
    back = (await OPENAI.get(url, f"responses/{two['id']}/input_items?order=asc"))["data"]

    assert [item["type"] for item in shown] == [
        "message",
        *("antiphon:" + OF_OPENAI[place]["type"] for place in (1, 2, 3, 4)),
        *("function_call", "function_call_output", "message"),
    ]
    assert back[1:] == stored[1:]
    assert back[0]["content"][0]["detail"] == "high"  # the nearest word


async def test_a_response_of_openais_is_shown_in_the_words_of_open_responses(url: str) -> None:
    made = await OPENAI.create(
        url,
        input="call x i",
        tools=[{"type": "custom", "name": "x"}, function("f")],
        tool_choice={"type": "custom", "name": "x"},
        reasoning={"effort": "minimal", "context": "all_turns"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        user="u",
        prompt_cache_retention="24h",
    )
    shown = await OPEN.get(url, f"responses/{made['id']}")

    assert shown.keys() == wirecheck.RESPONSE_KEYS
    assert [tool["type"] for tool in shown["tools"]] == ["antiphon:custom", "function"]
    assert shown["tool_choice"] == {"type": "antiphon:custom", "name": "x"}
    assert shown["reasoning"] == {"effort": "low", "summary": None}
    assert shown["text"]["format"]["schema"] is None
    assert [item["type"] for item in shown["output"]] == ["antiphon:custom_tool_call"]


async def test_events_about_what_open_responses_does_not_know_are_prefixed(url: str) -> None:
    """A tool that an item brought can be called whoever asks."""
    brought = {"type": "additional_tools", "tools": [{"type": "custom", "name": "x"}]}
    hello = {"type": "message", "role": "user", "content": "hello"}
    one = await OPENAI.create(url, input=[brought, hello])
    body = request(input="call x in put", previous_response_id=one["id"], stream=True)
    answer = await ask(url, "POST", f"{OPEN.prefix}/responses", body)
    response = OPEN.check(answer)
    kinds = {event["type"] for event in wirecheck.read(answer.body)}

    assert response["output"][0]["type"] == "antiphon:custom_tool_call"
    assert {"antiphon:custom_tool_call_input.delta", "antiphon:custom_tool_call_input.done"} <= kinds
    assert {kind for kind in kinds if not kind.startswith("antiphon:")} <= wirecheck.OPEN_EVENTS.keys()


async def test_stored_responses_are_listed_in_both(stage: Stage) -> None:
    for side in SIDES:
        stage.model.say(Thought("a"), Text("b"), Finish("stop"))
        await side.create(stage.url, model="played")
    pages = [await side.get(stage.url, "responses?order=asc") for side in SIDES]

    first, second = [[one["id"] for one in page["data"]] for page in pages]
    assert first == second
    assert len(first) == 2


@each_side
async def test_deleting_and_the_models_are_there_in_both(url: str, side: Side) -> None:
    made = await OPENAI.create(url)
    receipt = side.check(await ask(url, "DELETE", f"{side.prefix}/responses/{made['id']}"))
    gone = await ask(url, "GET", f"{side.prefix}/responses/{made['id']}")
    models = await side.get(url, "models")

    assert (receipt["deleted"], gone.status) == (True, 404)
    assert await side.get(url, f"models/{models['data'][0]['id']}") == models["data"][0]


async def test_each_frame_of_open_responses_is_within_one_write(stage: Stage) -> None:
    body = request(model="played", stream=True)
    async with exchange(stage.url, "POST", f"{OPEN.prefix}/responses", body) as one:
        stage.model.say(Thought("a"), Text("b"))
        await one.head()
        stage.model.say(Text("c"), Finish("stop"))
        writes = await pieces(one)

    assert all(write.startswith((b"event: ", b"data: [DONE]")) and write.endswith(b"\n\n") for write in writes)
    assert len(writes) >= 3


async def pieces(one: Exchange) -> list[bytes]:
    writes = []
    while piece := await one.piece():
        writes.append(piece)
    return writes


# -- the table of what is allowed is the schema's

SCHEMAS = wirecheck.SCHEMAS
PARAMS: list[tuple[Shape, str]] = [
    (dialect.REQUEST, "CreateResponseBody"),
    (dialect.COMPACT, "CompactResponseMethodPublicBody"),
    *((dialect.MESSAGE.kinds[role], f"{role.title()}MessageItemParam") for role in dialect.MESSAGE.kinds),
    (dialect.ITEM_KINDS["function_call"], "FunctionCallItemParam"),
    (dialect.ITEM_KINDS["function_call_output"], "FunctionCallOutputItemParam"),
    (dialect.ITEM_KINDS["reasoning"], "ReasoningItemParam"),
    (dialect.ITEM_KINDS["compaction"], "CompactionSummaryItemParam"),
    (dialect.ITEM_KINDS["item_reference"], "ItemReferenceParam"),
    (dialect.PARTS["input_text"], "InputTextContentParam"),
    (dialect.PARTS["input_image"], "InputImageContentParamAutoParam"),
    (dialect.PARTS["input_file"], "InputFileContentParam"),
    (dialect.PARTS["input_video"], "InputVideoContent"),
    (dialect.PARTS["output_text"], "OutputTextContentParam"),
    (dialect.CITATION, "UrlCitationParam"),
    (dialect.PARTS["refusal"], "RefusalContentParam"),
    (dialect.PARTS["summary_text"], "ReasoningSummaryContentParam"),
    (dialect.FUNCTION, "FunctionToolParam"),
    (dialect.ALLOWED, "AllowedToolsParam"),
    (dialect.CHOICE.kinds["function"], "SpecificFunctionParam"),
    (dialect.FORMAT, "JsonSchemaResponseFormatParam"),
]
EXTRA = {
    "FunctionCallItemParam": {"async", *dialect.OURS},
    "FunctionCallOutputItemParam": {"name", *dialect.OURS},
    "ReasoningItemParam": {"status?"},
    "CompactionSummaryItemParam": {"status?", "created_by"},
    "InputTextContentParam": set(dialect.BREAKPOINT),
    "InputImageContentParamAutoParam": set(dialect.BREAKPOINT),
    "OutputTextContentParam": {"logprobs"},
}
"""What comes out beyond the schema, and so may come in again."""


@pytest.mark.parametrize(("shape", "name"), PARAMS, ids=[name for _, name in PARAMS])
async def test_the_table_allows_what_the_schema_does(shape: Shape, name: str) -> None:
    assert isinstance(shape, Fields)
    properties = SCHEMAS[name]["properties"]
    expected = {key + "?" * is_nullable(schema) for key, schema in properties.items()}

    assert shape.fields.keys() - EXTRA.get(name, set()) == expected
    for key, schema in properties.items():
        field = shape.fields.get(key) or shape.fields[f"{key}?"]
        if (words := enum_of(schema)) and key not in {"type", "role", "status"}:
            assert isinstance(field, Words)
            assert set(field.words) == words
        if (bounds := bounds_of(schema)) and isinstance(field, Bounded | AtLeast):
            assert {getattr(field, "most", None), field.least} >= bounds


def members(schema: Object) -> list[Object]:
    """The alternatives of a schema, references followed."""
    while "$ref" in schema:
        schema = SCHEMAS[schema["$ref"].rpartition("/")[2]]
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return [one for member in schema[union] for one in members(member)]
    return [schema]


def is_nullable(schema: Object) -> bool:
    return any(member.get("type") == "null" for member in members(schema))


def enum_of(schema: Object) -> set[str]:
    alternatives = [member for member in members(schema) if member.get("type") not in (None, "null")]
    return set(alternatives[0].get("enum", ())) if len(alternatives) == 1 else set()


def bounds_of(schema: Object) -> set[int]:
    return {member[bound] for member in members(schema) for bound in ("maxLength", "minimum") if bound in member}


async def test_the_table_has_the_schemas_kinds_of_items_and_of_content() -> None:
    items = {next(iter(enum)) for member in members(SCHEMAS["ItemParam"]) if (enum := kind_of(member))}
    content = dialect.MESSAGE.kinds
    assert items == dialect.ITEM_KINDS.keys()
    assert {next(iter(kind_of(m))) for m in members(SCHEMAS["ItemField"])} == dialect.ITEMS
    for role, shape in content.items():
        schema = SCHEMAS[f"{role.title()}MessageItemParam"]["properties"]["content"]
        assert isinstance(shape, Fields)
        assert parts_of(shape.fields["content"]) == {
            kind
            for member in members(schema)
            if member["type"] == "array"
            for part in members(member["items"])
            for kind in kind_of(part)
        }


def kind_of(schema: Object) -> set[str]:
    return enum_of(schema["properties"]["type"])


def parts_of(shape: Shape) -> set[str]:
    assert isinstance(shape, Forms)
    assert isinstance(shape.array, Each)
    assert isinstance(shape.array.of, Tagged)
    return set(shape.array.of.kinds)


async def test_the_names_of_events_and_keys_are_the_schemas() -> None:
    assert dialect.EVENTS | set(dialect.RENAMED.values()) == wirecheck.OPEN_EVENTS.keys() - {"error"}
    assert set(dialect.RESPONSE_KEYS) == wirecheck.RESPONSE_KEYS
