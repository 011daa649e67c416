"""The Responses adapter: what it asks, what it learns from refusals, how it deals with the faults of servers."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import msgspec
import pytest
from msgspec import structs

from antiphon.config import Limits, ResponsesUpstream
from antiphon.core.deltas import Delta, Finish, Text, ToolCall
from antiphon.core.prompt import Named, Offer, Prompt, PromptItem, Sampling, VendorThought
from antiphon.errors import InvalidRequest, ModelError, ModelOverloaded
from antiphon.models.guard import ToolChoiceIgnored
from antiphon.models.responses import ResponsesModel
from antiphon.models.responsesbody import Spelling, responses_request
from antiphon.wire.formats import JsonObjectFormat, JsonSchemaFormat
from antiphon.wire.items import (
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    SummaryText,
)
from tests import recorded
from tests.conftest import WAIT_S
from tests.rawserver import HEAD, RawServer, Script, Wire, answers, breaks_off, chunked, stalls, streams

Object: TypeAlias = dict[str, Any]

# -- what is asked

USER = Message(role="user", content=(InputText(text="hi"),))
THOUGHT = Reasoning(id="rs_1", summary=(), content=(ReasoningText(text="why"),))


def prompt(*items: PromptItem, **fields: Any) -> Prompt:
    return Prompt(model="m", items=items or (USER,), **fields)


def asked(*items: PromptItem, spelling: Spelling = Spelling(), **fields: Any) -> Object:  # noqa: B008 # frozen
    return as_sent(prompt(*items, **fields), spelling)


def as_sent(asked: Prompt, spelling: Spelling) -> Object:
    found: Object = msgspec.json.decode(msgspec.json.encode(responses_request(asked, spelling)))
    return found


PLAIN = {
    "model": "m",
    "input": [{"type": "message", "role": "user", "content": "hi"}],
    "stream": True,
    "store": False,
    "include": ["reasoning.encrypted_content"],
}


def test_only_what_was_asked_for_is_sent() -> None:
    assert asked() == PLAIN
    assert asked(service_tier="auto") == asked(service_tier="default") == PLAIN


def test_everything_that_was_asked_for_is_sent() -> None:
    sampling = {
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.0,
        "seed": 0,
        "logit_bias": {"1": 2.0},
    }
    body = asked(
        instructions="Be brief.",
        sampling=Sampling(**sampling),  # type: ignore[arg-type] # one of each
        max_output_tokens=7,
        stop=("a", "b"),
        format=JsonObjectFormat(),
        verbosity="low",
        top_logprobs=0,
        effort="low",
        summary="auto",
        service_tier="flex",
        user="u1",
    )
    assert body == {
        **PLAIN,
        **sampling,
        "instructions": "Be brief.",
        "max_output_tokens": 7,
        "stop": ["a", "b"],
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
        "top_logprobs": 0,
        "reasoning": {"effort": "low", "summary": "auto"},
        "service_tier": "flex",
        "user": "u1",
    }


def test_every_field_of_a_prompt_is_sent_or_known_not_to_be() -> None:
    """A new one must not be lost without a word."""
    sent = {"model", "instructions", "items", "tools", "tool_choice", "allowed", "parallel_tool_calls", "sampling",
            "max_output_tokens", "stop", "format", "verbosity", "top_logprobs", "effort", "summary", "service_tier",
            "user", "cache_key"}  # fmt: skip
    assert set(Prompt.__struct_fields__) == sent | {"is_live", "memo", "prefix", "size"}


def test_a_schema_is_sent_with_what_is_known_of_it() -> None:
    schema = {"type": "object"}
    assert asked(format=JsonSchemaFormat(name="n", schema=schema))["text"] == {
        "format": {"type": "json_schema", "name": "n", "schema": schema}
    }
    form = JsonSchemaFormat(name="n", schema=schema, description="d", strict=True)
    assert asked(format=form)["text"]["format"] == {
        "type": "json_schema", "name": "n", "schema": schema, "description": "d", "strict": True
    }  # fmt: skip


SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
F, G = Offer(name="f", description="adds", parameters=SCHEMA, strict=True), Offer(name="g")


def test_tools_are_sent_as_functions_that_always_say_whether_they_are_strict() -> None:
    assert asked(tools=(F, G))["tools"] == [
        {"type": "function", "name": "f", "description": "adds", "parameters": SCHEMA, "strict": True},
        {"type": "function", "name": "g", "parameters": {"type": "object", "properties": {}}, "strict": False},
    ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({}, "auto"),
        ({"tool_choice": "none"}, "none"),
        ({"tool_choice": "required"}, "required"),
        ({"tool_choice": Named("g")}, {"type": "function", "name": "g"}),
        ({"allowed": frozenset({"g"})},
         {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}),
        ({"tool_choice": "required", "allowed": frozenset({"g"})},
         {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}),
    ],
)  # fmt: skip
def test_a_tool_choice_is_sent_with_tools(choice: Object, sent: object) -> None:
    body = asked(tools=(F, G), parallel_tool_calls=False, **choice)
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (sent, False)
    assert [tool["name"] for tool in body["tools"]] == ["f", "g"]


def test_items_are_sent_in_the_forms_that_most_servers_take() -> None:
    picture = InputImage(image_url="data:image/png;base64,AA==", detail="low")
    parts = (OutputText(text="a"), Refusal(refusal="no"))
    sent = asked(
        Message(role="developer", content=(InputText(text="one"), InputText(text="two"))),
        Message(role="user", content=(InputText(text="see"), picture)),
        Message(role="assistant", content=(OutputText(text="ok"),), phase="commentary"),
        Message(id="msg_7", role="assistant", content=parts),
        FunctionCall(id="fc_1", call_id="c", name="f", arguments="", status="completed"),
        FunctionCallOutput(id="fco_1", call_id="c", output="done"),
        FunctionCallOutput(call_id="c", output=(picture,)),
    )["input"]
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
    texts = [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]
    said = [{"type": "output_text", "text": "a", "annotations": []}, {"type": "refusal", "refusal": "no"}]
    assert sent == [
        {"type": "message", "role": "developer", "content": texts},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "see"}, image]},
        {"type": "message", "role": "assistant", "content": "ok", "phase": "commentary"},
        {"type": "message", "role": "assistant", "content": said, "id": "msg_7", "status": "completed"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
        {"type": "function_call_output", "call_id": "c", "output": [image]},
    ]


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (THOUGHT, "why"),
        (Reasoning(id="rs_1", summary=(SummaryText(text="a"), SummaryText(text="b"))), "a\nb"),
        (Reasoning(id="rs_1", summary=(SummaryText(text="a"),), content=(ReasoningText(text="why"),)), "why"),
        (Reasoning(id="rs_1", summary=()), None),
    ],
    ids=["thought", "summary", "both", "nothing"],
)
def test_thoughts_are_sent_as_one_part_of_content(item: Reasoning, text: str | None) -> None:
    content = [{"type": "reasoning_text", "text": text}]
    sent = [{"type": "reasoning", "id": "rs_1", "summary": [], "content": content}] if text else []
    assert asked(item, USER)["input"] == [*sent, *PLAIN["input"]]  # type: ignore[misc] # it is a list


def test_a_thought_that_its_vendor_sealed_is_sent_so_to_its_model_alone() -> None:
    thought = VendorThought(
        id="rs_1", summary=(SummaryText(text="a"), SummaryText(text="b")), encrypted_content="secret", model="m"
    )
    summary = [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]
    text = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "a\nb"}]}

    sealed = {"type": "reasoning", "summary": summary, "encrypted_content": "secret"}
    assert asked(thought)["input"] == asked(thought, spelling=Spelling(thoughts=False))["input"] == [sealed]
    assert asked(structs.replace(thought, model="other"))["input"] == [text]
    assert asked(thought, spelling=Spelling(opens=False))["input"] == [text]
    assert "include" not in asked(thought, spelling=Spelling(sealed=False))
    assert asked(thought, spelling=Spelling(sealed=False))["input"] == [text]
    assert asked(thought, spelling=Spelling(sealed=False, thoughts=False))["input"] == []


# -- against servers


def sse(*events: Object) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)


def event(kind: str, **fields: Any) -> Object:
    return {"type": f"response.{kind}", **fields}


def delta(piece: str) -> Object:
    return event("output_text.delta", item_id="m", output_index=0, content_index=0, delta=piece)


def calling(name: str, index: int = 0) -> list[Object]:
    call = {"type": "function_call", "id": f"f{index}", "name": name, "call_id": f"c{index}", "arguments": "{}"}
    return [event("output_item.done", item=call, output_index=index)]


DONE = b"data: [DONE]\n\n"
END = event("completed", response={"status": "completed", "output": []})
HELLO = streams(sse(delta("Hel")), sse(delta("lo"), END))
HELLO_DELTAS = [Text("Hel"), Text("lo"), Finish("stop")]
CALL_F = streams(sse(*calling("f"), END))
CALL_G = streams(sse(*calling("g"), END))
CALL_BOTH = streams(sse(*calling("f"), *calling("g", 1), END))


@asynccontextmanager
async def upstream(*scripts: Script, **fields: Any) -> AsyncIterator[tuple[RawServer, ResponsesModel]]:
    async with RawServer(*scripts) as server:
        model = ResponsesModel(ResponsesUpstream(url=server.url, **{"attempts_max": 1} | fields), Limits())
        try:
            yield server, model
        finally:
            await model.close()


async def deltas_of(model: ResponsesModel, *items: PromptItem, **fields: Any) -> list[Delta]:
    async with asyncio.timeout(WAIT_S), aclosing(model.stream(prompt(*items, **fields))) as batches:
        return [delta async for batch in batches for delta in batch]


def body_of(server: RawServer, number: int = -1) -> Object:
    body: Object = msgspec.json.decode(server.asked[number].body)
    return body


async def test_a_turn_is_asked_for_and_read() -> None:
    async with upstream(HELLO, key="k") as (server, model):
        assert await deltas_of(model, effort="low") == HELLO_DELTAS
    assert (server.asked[0].path, server.asked[0].headers["authorization"]) == ("/v1/responses", "Bearer k")
    assert body_of(server) == asked(effort="low")


@pytest.mark.parametrize("end", [b"", DONE], ids=["no done", "done"])
async def test_a_connection_is_used_again(end: bytes) -> None:
    async with upstream(streams(sse(delta("Hello"), END) + end)) as (server, model):
        for _ in range(3):
            assert await deltas_of(model) == [Text("Hello"), Finish("stop")]
    assert (len(server.asked), server.connections) == (3, 1)


async def test_a_body_that_goes_on_after_its_terminal_event_is_not_waited_for() -> None:
    gone = asyncio.Event()
    async with upstream(stalls(sse(delta("Hello"), END), gone=gone)) as (_, model):
        assert await deltas_of(model) == [Text("Hello"), Finish("stop")]
        await asyncio.wait_for(gone.wait(), WAIT_S)


async def test_a_connection_lost_after_the_terminal_event_is_no_failure() -> None:
    async with upstream(breaks_off(sse(delta("Hello"), END))) as (_, model):
        assert await deltas_of(model) == [Text("Hello"), Finish("stop")]


async def test_an_answer_that_is_not_streamed_is_read() -> None:
    name = "upstream-responses/qwen35a3b-responses-text-nonstream"
    async with upstream(answers(json.dumps(recorded.response_body(name)).encode())) as (_, model):
        deltas = await deltas_of(model)
    assert [delta.text for delta in deltas if isinstance(delta, Text)] == ["\n\nhello"]


@pytest.mark.parametrize("name", [n for n in recorded.names("upstream-responses") if recorded.status(n) >= 400])
async def test_a_recorded_refusal_is_the_clients(name: str) -> None:
    script = answers(json.dumps(recorded.response_body(name)).encode(), status=recorded.status(name))
    async with upstream(script) as (server, model):
        with pytest.raises(InvalidRequest) as raised:
            await deltas_of(model)
    assert raised.value.message == recorded.response_body(name)["error"]["message"]
    assert raised.value.param == ("tool_choice" if recorded.status(name) == 501 else None)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (breaks_off(sse(delta("Hello"))), "closed the connection before its answer was finished"),
        (streams(sse(delta("Hello"))), "ended before it was finished"),
        (streams(sse(delta("Hello")) + DONE), "ended before it was finished"),
        (streams(sse(delta("Hello"), {"type": "error", "code": "server_error", "message": "on fire"})), "on fire"),
    ],
    ids=["a lost connection", "the end", "done", "an error"],
)
async def test_a_failure_comes_after_what_was_said(script: Script, text: str) -> None:
    async with upstream(script) as (_, model), aclosing(model.stream(prompt())) as batches:
        assert await anext(batches) == [Text("Hello")]
        with pytest.raises(ModelError, match=text):
            await anext(batches)


async def test_the_key_is_in_no_message() -> None:
    failed = event("failed", response={"error": {"code": "x", "message": "no sk-12345678 here"}})
    async with upstream(streams(sse(failed)), key="sk-12345678") as (_, model):
        with pytest.raises(ModelError, match=r"no \*\*\* here"):
            await deltas_of(model)


@pytest.mark.parametrize(
    ("effort", "known", "told"),
    [
        ("xhigh", (), "xhigh"),
        ("low", ("low", "high"), "low"),
        ("max", ("low", "medium", "high"), "high"),
        ("none", ("low", "medium", "high"), "low"),
        ("medium", ("low", "high"), "low"),
    ],
)
async def test_an_effort_is_told_as_the_nearest_that_the_upstream_knows(
    effort: str, known: tuple[str, ...], told: str
) -> None:
    async with upstream(HELLO, efforts=known) as (server, model):
        await deltas_of(model, effort=effort)
    assert body_of(server)["reasoning"] == {"effort": told}


async def test_an_overloaded_upstream_is_asked_again() -> None:
    async with upstream(answers(b"{}", status=503), HELLO, attempts_max=2) as (server, model):
        assert await deltas_of(model) == HELLO_DELTAS
    assert len(server.asked) == 2


async def test_an_overload_told_in_the_stream_is_told() -> None:
    failed = event("failed", response={"error": {"code": "rate_limit_exceeded", "message": "slow down"}})
    async with upstream(streams(sse(failed))) as (_, model):
        with pytest.raises(ModelOverloaded):
            await deltas_of(model)


async def test_leaving_a_turn_stops_the_upstream() -> None:
    gone = asyncio.Event()
    async with upstream(stalls(sse(delta("Hello")), gone=gone)) as (_, model):
        async with aclosing(model.stream(prompt())) as batches:
            assert await anext(batches) == [Text("Hello")]
        await asyncio.wait_for(gone.wait(), WAIT_S)


async def test_an_answer_that_nobody_watches_is_gathered() -> None:
    async with upstream(HELLO) as (_, model), aclosing(model.stream(prompt(is_live=False))) as batches:
        assert await anext(batches) == HELLO_DELTAS


# -- choices


async def test_a_call_that_only_the_final_object_tells_meets_the_choice() -> None:
    name = "upstream-responses/qwen35a3b-responses-function-stream-required"
    weather = Offer(name="get_weather")
    async with upstream(streams(recorded.sse(name))) as (server, model):
        deltas = await deltas_of(model, tools=(weather,), tool_choice="required")
    assert [type(delta) for delta in deltas[-2:]] == [ToolCall, Finish]
    assert not [delta for delta in deltas if isinstance(delta, Text)]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [
        (HELLO, {"tool_choice": "required"}),
        (CALL_G, {"tool_choice": Named("f")}),
        (CALL_BOTH, {"parallel_tool_calls": False}),
    ],
)
async def test_a_choice_ignored_once_is_asked_for_again(wrong: Script, fields: Object) -> None:
    async with upstream(wrong, CALL_F) as (server, model):
        assert await deltas_of(model, tools=(F, G), **fields) == [ToolCall("0", "{}", "f", "c0"), Finish("tool_calls")]
    assert len(server.asked) == 2


async def test_a_choice_ignored_twice_is_an_error() -> None:
    async with upstream(HELLO) as (server, model):
        with pytest.raises(ToolChoiceIgnored):
            await deltas_of(model, tools=(F, G), tool_choice="required")
    assert len(server.asked) == 2


# -- what is learnt from refusals


def refuses(message: str, param: str | None = None, status: int = 400) -> Script:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return answers(json.dumps({"error": error}).encode(), status=status)


DEVELOPER = Message(role="developer", content=(InputText(text="Be kind."),))

REFUSALS: dict[str, tuple[Script, Object, Spelling]] = {
    "OpenAI, of thoughts it does not know": (
        refuses("Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.", "input"),
        {}, Spelling(thoughts=False),
    ),
    "OpenAI, of what thoughts hold": (
        refuses("Invalid 'input[0].content': array too long. Expected an array with maximum length 0.",
                "input[0].content"),
        {}, Spelling(thoughts=False),
    ),
    "another, of thoughts": (
        refuses("Reasoning items need encrypted_content."), {}, Spelling(thoughts=False),
    ),
    "OpenAI, of a model that does not think": (
        refuses("Encrypted content is not supported with this model.", "include"), {}, Spelling(sealed=False),
    ),
    "another, of what may be included": (
        refuses("Unsupported parameter: 'include'.", "include"), {}, Spelling(sealed=False),
    ),
    "instructions": (
        refuses("Unknown parameter: 'instructions'.", "instructions"),
        {"instructions": "Be brief."}, Spelling(instructions=False),
    ),
    "a role": (refuses("Unexpected message role."), {}, Spelling(developer=False)),
    "allowed tools": (
        refuses("Input should be 'none', 'auto' or 'required'", "tool_choice"),
        {"tools": (F, G), "allowed": frozenset({"g"})}, Spelling(allowed=False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
async def test_what_a_model_refuses_is_said_otherwise_from_then_on(what: str) -> None:
    refusal, fields, learnt = REFUSALS[what]
    items = (THOUGHT, USER, DEVELOPER)
    async with upstream(refusal, HELLO) as (server, model):
        for _ in range(2):
            assert await deltas_of(model, *items, **fields) == HELLO_DELTAS
        await deltas_of(model, *items, **fields | {"tools": ()})
    bodies = [body_of(server, number) for number in range(4)]
    common = asked(*items, **fields)
    assert bodies[0] == common
    assert bodies[1] == bodies[2] == asked(*items, spelling=learnt, **fields) != common


def test_each_spelling_says_the_same_otherwise() -> None:
    items = (THOUGHT, USER, DEVELOPER)
    fields: Object = {"instructions": "Be brief.", "tools": (F, G), "allowed": frozenset({"g"})}
    body = asked(
        *items, spelling=Spelling(thoughts=False, instructions=False, developer=False, allowed=False), **fields
    )
    assert body["input"] == [
        {"type": "message", "role": "system", "content": "Be brief."},
        {"type": "message", "role": "user", "content": "hi"},
        {"type": "message", "role": "system", "content": "Be kind."},
    ]
    assert "instructions" not in body
    assert ([tool["name"] for tool in body["tools"]], body["tool_choice"]) == (["g"], "auto")


async def test_several_things_are_learnt_one_after_the_other() -> None:
    scripts = [REFUSALS["instructions"][0], REFUSALS["a role"][0], HELLO]
    async with upstream(*scripts) as (server, model):
        assert await deltas_of(model, USER, DEVELOPER, instructions="Be brief.") == HELLO_DELTAS
    assert len(server.asked) == 3


async def test_a_guess_that_did_not_help_is_not_kept() -> None:
    refusal = refuses("Reasoning items are the least of it.")
    async with upstream(refusal, refusal, HELLO) as (server, model):
        with pytest.raises(InvalidRequest, match="the least of it"):
            await deltas_of(model, THOUGHT, USER)
        assert await deltas_of(model, THOUGHT, USER) == HELLO_DELTAS
    assert body_of(server, 1) == asked(USER)
    assert body_of(server, 2) == asked(THOUGHT, USER)


@pytest.mark.parametrize(
    ("message", "param", "ours"),
    [
        ("Unknown parameter: 'seed'.", "seed", "seed"),
        ("Unsupported parameter: 'reasoning.effort' is not supported with this model.", "reasoning.effort",
         "reasoning.effort"),
        ("Invalid 'input[1].content': too long", "input[1].content", "input"),
        ("Invalid schema", "text.format.schema", "text.format.schema"),
        ("Unsupported parameter: 'top_logprobs'", "top_logprobs", "top_logprobs"),
    ],
)  # fmt: skip
async def test_another_refusal_is_the_clients_and_names_the_parameter(message: str, param: str, ours: str) -> None:
    fields: Object = {"instructions": "Be brief.", "allowed": frozenset({"f"}), "tools": (F,)}
    async with upstream(refuses(message, param)) as (server, model):
        with pytest.raises(InvalidRequest) as raised:
            await deltas_of(model, THOUGHT, USER, DEVELOPER, **fields)
    assert (raised.value.message, raised.value.param) == (message, ours)
    assert len(server.asked) == 1


async def test_a_refusal_after_the_first_delta_is_not_asked_again() -> None:
    async def begins(wire: Wire) -> None:
        await wire.send(HEAD + chunked(sse(delta("Hello"))))
        await wire.send(chunked(sse({"error": {"code": 400, "message": "Unexpected message role."}})) + b"0\r\n\r\n")

    async with upstream(begins) as (server, model):
        with pytest.raises(InvalidRequest, match="role"):
            await deltas_of(model, USER, DEVELOPER)
    assert len(server.asked) == 1


# -- models

LIST = answers(b'{"object":"list","data":[{"id":"a","created":7,"owned_by":"us"},{"id":"b"}]}')


async def test_the_models_of_the_upstream_are_listed() -> None:
    async with upstream(LIST) as (server, model):
        await model.start()
        cards: Sequence[Any] = await model.cards()
        again = await model.cards(fresh=True)
    assert [(card.id, card.created, card.owned_by) for card in cards] == [("a", 7, "us"), ("b", 0, "upstream")]
    assert again == cards
    assert [asked.path for asked in server.asked] == ["/v1/models"]


async def test_the_check_names_the_kind_of_upstream() -> None:
    async with upstream(LIST, models=("b",)) as (server, model):
        check = await model.check()
    assert (check.name, check.ok) == (f"responses upstream {server.url}", True)
    assert check.detail == "It answers. Models: b."
