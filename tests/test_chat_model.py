"""The chat-completions adapter: what it asks, what it makes of answers, how it deals with the faults of servers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.config import ChatUpstream, Limits
from antiphon.core.deltas import Delta, Finish, Refusal, Text, Thought, ToolCall
from antiphon.core.prompt import Named, Offer, Prompt, PromptItem, Sampling
from antiphon.errors import (
    ApiError,
    ContextLengthExceeded,
    InvalidRequest,
    ModelError,
    ModelOverloaded,
    SettingsError,
)
from antiphon.models.chat import ChatModel
from antiphon.models.chatbody import ReasoningField, chat_request
from antiphon.models.chunks import ChunkReader
from antiphon.models.guard import ToolChoiceGuard, ToolChoiceIgnored
from antiphon.models.sse import DONE, EventSplitter
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
    SummaryText,
)
from antiphon.wire.items import Refusal as RefusalPart
from antiphon.wire.response import InputTokensDetails, OutputTokensDetails, Usage
from tests import recorded
from tests.conftest import WAIT_S
from tests.rawserver import RawServer, Script, Wire, answers, breaks_off, chunked, stalls, streams

Object: TypeAlias = dict[str, Any]

# -- what is asked


def user(*texts: str) -> Message:
    return Message(role="user", content=tuple(InputText(text=text) for text in texts))


def system(text: str) -> Message:
    return Message(role="system", content=(InputText(text=text),))


def developer(text: str) -> Message:
    return Message(role="developer", content=(InputText(text=text),))


def assistant(text: str) -> Message:
    return Message(role="assistant", content=(OutputText(text=text),))


def thought(text: str) -> Reasoning:
    return Reasoning(summary=(), content=(ReasoningText(text=text),))


def call(call_id: str, arguments: str = "{}") -> FunctionCall:
    return FunctionCall(call_id=call_id, name="f", arguments=arguments)


def output(call_id: str, text: str = "done") -> FunctionCallOutput:
    return FunctionCallOutput(call_id=call_id, output=text)


def asked(*items: PromptItem, **fields: Any) -> Object:
    return requested(Prompt(model="m", items=items, **fields))


def requested(prompt: Prompt, reasoning_field: ReasoningField = "reasoning_content") -> Object:
    """As it is sent."""
    found: Object = msgspec.json.decode(msgspec.json.encode(chat_request(prompt, reasoning_field=reasoning_field)))
    return found


def messages(*items: PromptItem, **fields: Any) -> list[Object]:
    found: list[Object] = asked(*items, **fields)["messages"]
    return found


def said(message: Object) -> str:
    """A message in short: its role, its text, its calls."""
    calls = ",".join(call["id"] for call in message.get("tool_calls", []))
    thoughts = message.get("reasoning_content", "")
    of = message.get("tool_call_id", "")
    return " ".join(filter(None, [message["role"], of, thoughts and f"({thoughts})", message["content"], calls]))


def test_only_what_was_asked_for_is_sent() -> None:
    assert asked(user("hi")) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_everything_that_was_asked_for_is_sent() -> None:
    body = asked(
        user("hi"),
        sampling=Sampling(**SAMPLING),
        max_output_tokens=7,
        stop=("a", "b"),
        format=JsonObjectFormat(),
        top_logprobs=3,
        effort="low",
        service_tier="flex",
        user="u1",
    )
    assert {name: body[name] for name in body.keys() - asked(user("hi")).keys()} == SAMPLING | {
        "max_tokens": 7,
        "stop": ["a", "b"],
        "response_format": {"type": "json_object"},
        "logprobs": True,
        "top_logprobs": 3,
        "reasoning_effort": "low",
        "service_tier": "flex",
        "user": "u1",
    }


SAMPLING: Object = {
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 40,
    "min_p": 0.0,
    "presence_penalty": 0.1,
    "frequency_penalty": -0.1,
    "seed": 0,
    "logit_bias": {"42": -100.0},
}


@pytest.mark.parametrize("name", SAMPLING)
def test_of_sampling_only_what_was_asked_for_is_sent(name: str) -> None:
    body = asked(user("hi"), sampling=Sampling(**{name: SAMPLING[name]}))
    assert body == asked(user("hi")) | {name: SAMPLING[name]}


SCHEMA: Object = {"type": "object", "properties": {"x": {"type": "integer"}}}


@pytest.mark.parametrize(
    "more", [{}, {"strict": True}, {"strict": False}, {"description": "a point"}], ids=["", "strict", "lax", "told"]
)
def test_a_schema_of_the_answer_is_sent_with_what_is_known_of_it(more: Object) -> None:
    wanted = JsonSchemaFormat(name="point", schema=SCHEMA, **more)
    assert asked(user("hi"), format=wanted)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "point", "schema": SCHEMA} | more,
    }


def test_logprobs_of_the_tokens_alone_are_asked_for_with_one_alternative() -> None:
    body = asked(user("hi"), top_logprobs=0)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 1)


@pytest.mark.parametrize("tier", ["auto", "default"])
def test_the_usual_service_tier_is_not_named(tier: Any) -> None:
    assert asked(user("hi"), service_tier=tier) == asked(user("hi"))


@pytest.mark.parametrize(
    ("verbosity", "system"),
    [
        ("low", ["system Be kind.\n\nKeep your answers short."]),
        ("high", ["system Be kind.\n\nAnswer at length and in detail."]),
        ("medium", ["system Be kind."]),
        (None, ["system Be kind."]),
    ],
)
def test_verbosity_is_a_sentence_of_the_system_message(verbosity: Any, system: list[str]) -> None:
    found = messages(user("hi"), instructions="Be kind.", verbosity=verbosity)
    assert list(map(said, found)) == [*system, "user hi"]


def test_verbosity_is_told_where_there_are_no_instructions() -> None:
    assert messages(user("hi"), verbosity="low")[0] == {"role": "system", "content": "Keep your answers short."}


def test_tools_are_sent_as_chat_tools() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    tools = (Offer(name="f", description="adds", parameters=schema, strict=True), Offer(name="g"))
    assert asked(user("hi"), tools=tools)["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "adds", "parameters": schema, "strict": True}},
        {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}},
    ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", {}),
        ("none", {"tool_choice": "none"}),
        ("required", {"tool_choice": "required"}),
        (Named("f"), {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ],
)
def test_a_tool_choice_is_sent_with_tools_only(choice: Any, sent: Object) -> None:
    body = asked(user("hi"), tools=(Offer(name="f"),), tool_choice=choice)
    assert {name: body[name] for name in body if name == "tool_choice"} == sent
    assert "tool_choice" not in asked(user("hi"), tool_choice=choice)


@pytest.mark.parametrize(("choice", "sent"), [("auto", None), ("required", "required")])
def test_where_only_some_tools_are_allowed_all_are_shown(choice: Any, sent: str | None) -> None:
    body = asked(user("hi"), tools=TOOLS, tool_choice=choice, allowed=frozenset({"f"}))
    assert [tool["function"]["name"] for tool in body["tools"]] == ["f", "g"]
    assert body.get("tool_choice") == sent


def test_parallel_calls_are_forbidden_only_where_there_are_tools() -> None:
    assert asked(user("hi"), tools=(Offer(name="f"),), parallel_tool_calls=False)["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in asked(user("hi"), parallel_tool_calls=False)


def test_instructions_and_all_system_messages_become_one_at_the_front() -> None:
    found = messages(system("a"), user("hi"), developer("b"), assistant("yes"), system("c"), instructions="first")
    assert list(map(said, found)) == ["system first\n\na\n\nb\n\nc", "user hi", "assistant yes"]


def test_parts_become_one_string() -> None:
    parts = (OutputText(text="a"), RefusalPart(refusal="no"))
    found = messages(user("one", "two"), Message(role="assistant", content=parts))
    assert list(map(said, found)) == ["user one\ntwo", "assistant a\nno"]


def test_calls_of_a_turn_form_one_message_with_what_was_said_before_them() -> None:
    found = messages(
        user("hi"),
        thought("hm"),
        assistant("let me see"),
        *(call("a", ' {"x": 1}'), call("b", "")),
        *(output("b"), output("a")),
    )
    assert list(map(said, found)) == ["user hi", "assistant (hm) let me see a,b", "tool a done", "tool b done"]
    assert found[1]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": ' {"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ]


def test_an_assistant_that_only_calls_has_no_text() -> None:
    assert messages(call("a"))[0]["content"] is None


def test_outputs_follow_their_calls_whatever_stands_between() -> None:
    found = messages(
        call("a"), developer("psst"), call("b"), user("well?"), output("b", "B"), user("hm"), output("a", "A")
    )
    assert list(map(said, found)) == ["system psst", "assistant a,b", "tool a A", "tool b B", "user well?", "user hm"]


def test_turns_after_one_another_stay_apart() -> None:
    found = messages(
        *(thought("1"), call("a"), output("a")),
        *(thought("2"), call("b"), output("b")),
        *(thought("3"), assistant("ok"), user("?")),
    )
    assert list(map(said, found)) == [
        "assistant (1) a", "tool a done", "assistant (2) b", "tool b done", "assistant (3) ok", "user ?"
    ]  # fmt: skip


def test_what_follows_an_answer_or_a_call_begins_another_message() -> None:
    found = messages(assistant("a"), assistant("b"), thought("c"), assistant("d"), call("e"), assistant("f"))
    assert list(map(said, found)) == ["assistant a", "assistant b", "assistant (c) d e", "assistant f"]


def test_the_same_call_id_in_two_turns_is_told_apart() -> None:
    found = messages(call("0"), output("0", "A"), user("again"), call("0"), output("0", "B"))
    assert list(map(said, found)) == ["assistant 0", "tool 0 A", "user again", "assistant 0", "tool 0 B"]


def test_an_output_without_its_call_is_not_lost() -> None:
    assert list(map(said, messages(user("hi"), output("z")))) == ["user hi", "tool z done"]


def test_an_output_in_parts_is_flattened() -> None:
    parts = FunctionCallOutput(call_id="a", output=(InputText(text="x"), InputText(text="y")))
    assert messages(call("a"), parts)[1]["content"] == "x\ny"


# images

RED, BLUE = "data:image/png;base64,cmVk", "data:image/png;base64,Ymx1ZQ=="


def shown(url: str, **more: str) -> Object:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def told(text: str) -> Object:
    return {"type": "text", "text": text}


def test_images_of_a_user_are_parts_in_their_order() -> None:
    parts = (InputText(text="this?"), InputImage(image_url=RED), InputText(text="or this?"), InputImage(image_url=BLUE))
    [message] = messages(Message(role="user", content=parts))
    assert message == {"role": "user", "content": [told("this?"), shown(RED), told("or this?"), shown(BLUE)]}


@pytest.mark.parametrize(
    ("detail", "sent"), [("auto", {}), ("low", {"detail": "low"}), ("high", {"detail": "high"}),
                         ("original", {"detail": "high"})],
)  # fmt: skip
def test_the_detail_of_an_image_is_sent_in_the_words_of_chat_servers(detail: Any, sent: Object) -> None:
    [message] = messages(Message(role="user", content=(InputImage(image_url=RED, detail=detail),)))
    assert message["content"] == [shown(RED, **sent)]


def test_images_of_a_turns_outputs_follow_all_of_them() -> None:
    found = messages(
        *(call("a"), call("b"), call("c")),
        FunctionCallOutput(call_id="a", output=(InputText(text="seen"), InputImage(image_url=RED))),
        FunctionCallOutput(call_id="b", output=(InputImage(image_url=BLUE),)),
        *(output("c"), user("so?")),
    )
    assert [message["role"] for message in found] == ["assistant", "tool", "tool", "tool", "user", "user", "user"]
    assert [message["content"] for message in found[1:]] == [
        "seen",
        "See the image below.",
        "done",
        [told("Images from the call a of f:"), shown(RED)],
        [told("Images from the call b of f:"), shown(BLUE)],
        "so?",
    ]


def test_an_image_of_an_output_without_its_call_is_not_lost() -> None:
    found = messages(user("hi"), FunctionCallOutput(call_id="z", output=(InputImage(image_url=RED),)))
    assert [message["role"] for message in found] == ["user", "tool", "user"]
    assert found[2]["content"] == [told("Images from the call z:"), shown(RED)]


def test_an_image_of_a_developer_is_shown_by_the_user() -> None:
    parts = (InputText(text="Look like this."), InputImage(image_url=RED))
    assert messages(user("hi"), Message(role="developer", content=parts), assistant("yes")) == [
        {"role": "system", "content": "Look like this."},
        {"role": "user", "content": "hi"},
        {"role": "user", "content": [told("Images of the instructions:"), shown(RED)]},
        {"role": "assistant", "content": "yes"},
    ]


def test_an_image_of_an_assistant_is_shown_by_the_user() -> None:
    parts = (OutputText(text="Like this."), InputImage(image_url=RED))
    assert messages(Message(role="assistant", content=parts), user("thanks")) == [
        {"role": "assistant", "content": "Like this."},
        {"role": "user", "content": [told("Images of this answer:"), shown(RED)]},
        {"role": "user", "content": "thanks"},
    ]


# thoughts


def test_thoughts_that_belong_to_no_message_are_left_out() -> None:
    assert list(map(said, messages(thought("lost"), user("hi"), thought("lost"), assistant("")))) == ["user hi"]


def test_a_summary_stands_in_for_thoughts_that_are_not_there() -> None:
    reasoning = Reasoning(summary=(SummaryText(text="a"), SummaryText(text="b")))
    assert list(map(said, messages(reasoning, thought("c"), assistant("ok")))) == ["assistant (a\nb\nc) ok"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", None])
def test_thoughts_go_into_the_field_of_the_settings(field: Any) -> None:
    prompt = Prompt(model="m", items=(thought("hm"), assistant("ok")))
    [message] = requested(prompt, field)["messages"]
    assert message == {"role": "assistant", "content": "ok"} | ({field: "hm"} if field else {})


# -- what is answered


def payload(delta: Object | None = None, **choice: Any) -> bytes:
    return msgspec.json.encode({"choices": [{"index": 0, "delta": delta or {}, **choice}]})


def fragment(
    index: int | None = 0, call_id: str | None = None, name: str | None = None, arguments: Any = None
) -> Object:
    return {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*fragments: Object) -> bytes:
    return payload({"tool_calls": list(fragments)})


STOP = payload(finish_reason="stop")
USAGE = msgspec.json.encode({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})


def read(*payloads: bytes) -> list[Delta]:
    reader = ChunkReader()
    return reader.feed(list(payloads)) + reader.end()


def calls_of(deltas: list[Delta]) -> list[tuple[str | None, str | None, str]]:
    """The calls put together: call id, name, arguments."""
    whole: dict[str, tuple[str | None, str | None, str]] = {}
    for delta in deltas:
        if isinstance(delta, ToolCall) and delta.key not in whole:
            assert delta.name, "the first piece of a call names it"
            whole[delta.key] = (delta.call_id, delta.name, delta.arguments)
        elif isinstance(delta, ToolCall):
            call_id, name, arguments = whole[delta.key]
            whole[delta.key] = (call_id, name, arguments + delta.arguments)
    return list(whole.values())


def recorded_deltas(name: str, cuts: Sequence[int] = ()) -> list[Delta]:
    """The deltas of a recording, read in pieces that end at the cuts."""
    stream, splitter, reader = recorded.sse(name), EventSplitter(1_000_000), ChunkReader()
    ends = [*sorted({cut % len(stream) for cut in cuts}), len(stream)]
    deltas: list[Delta] = []
    for start, end in zip([0, *ends], ends, strict=False):
        deltas += reader.feed(splitter.feed(stream[start:end]))
    return deltas + reader.end()


STREAMS = recorded.streams("upstream-chat")


@pytest.mark.parametrize("name", STREAMS)
def test_a_recording_is_read_without_loss(name: str) -> None:
    deltas = recorded_deltas(name)
    texts = {"content": "", "reasoning_content": "", "arguments": ""}
    for event in recorded.events(name):
        for choice in event["choices"]:
            delta = choice["delta"]
            texts["content"] += delta.get("content") or ""
            texts["reasoning_content"] += delta.get("reasoning_content") or ""
            texts["arguments"] += "".join(one["function"]["arguments"] for one in delta.get("tool_calls") or [])
    assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == texts["content"]
    assert "".join(delta.text for delta in deltas if isinstance(delta, Thought)) == texts["reasoning_content"]
    assert "".join(delta.arguments for delta in deltas if isinstance(delta, ToolCall)) == texts["arguments"]
    assert [isinstance(delta, Finish) for delta in deltas].count(True) == 1


@settings(max_examples=20)
@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 1_000_000), max_size=50))
def test_any_reads_of_a_recording_give_the_same_deltas(name: str, cuts: list[int]) -> None:
    assert recorded_deltas(name, cuts) == recorded_deltas(name)


def test_a_recorded_call_of_openai_is_read() -> None:
    deltas = recorded_deltas("upstream-chat/mcp-hosted-step1-stream")
    assert calls_of(deltas) == [
        ("call_d4CgCQekJ22QhJPrbIduqXTO", "mcp__github_docs__search_docs", '{"query":"migration notes"}')
    ]
    assert deltas[-1] == Finish(
        "tool_calls",
        Usage(
            input_tokens=155,
            output_tokens=158,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=128),
            total_tokens=313,
        ),
        "default",
    )


def test_a_recorded_call_of_vllm_is_read() -> None:
    deltas = recorded_deltas("upstream-chat/vllm-code_interpreter-step1-stream")
    assert calls_of(deltas) == [("call_369c3680bcf04639839f7036", "code_interpreter", '{"code": "2+2"}')]
    assert "".join(delta.text for delta in deltas if isinstance(delta, Thought)).startswith("The user")
    assert deltas[-1] == Finish("tool_calls", Usage(input_tokens=344, output_tokens=70, total_tokens=414))


def test_a_recorded_answer_cut_at_its_limit_is_read() -> None:
    assert recorded_deltas("upstream-chat/text-max_tokens-length-stream") == [
        Text("Partial output"), Finish("length", None, "default")
    ]  # fmt: skip


def test_a_recorded_answer_that_was_not_streamed_is_read() -> None:
    body = msgspec.json.encode(recorded.response_body("upstream-chat/text-single"))
    text, finish = read(body)
    assert (text, isinstance(finish, Finish) and finish.reason) == (Text("Paris."), "stop")


def test_every_chunk_gives_a_delta_of_its_own() -> None:
    chunks = [payload({"content": text}) for text in ("a", "b", "", "c")]
    assert ChunkReader().feed(chunks) == [Text("a"), Text("b"), Text("c")]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_are_read_under_both_names(field: str) -> None:
    assert ChunkReader().feed([payload({field: "hm", "content": None})]) == [Thought("hm")]


def test_thoughts_sent_under_both_names_are_read_once() -> None:
    assert ChunkReader().feed([payload({"reasoning": "hm", "reasoning_content": "hm"})]) == [Thought("hm")]


def test_refusals_are_read() -> None:
    assert read(payload({"refusal": "I will "}), payload({"refusal": "not"}), STOP) == [
        Refusal("I will "), Refusal("not"), Finish("stop")
    ]  # fmt: skip


def test_content_in_parts_is_read() -> None:
    thinking = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "thinking", "thinking": "so"},
    ]
    parts = [*thinking, {"type": "text", "text": "yes"}, {"type": "image"}]
    assert ChunkReader().feed([payload({"content": parts})]) == [Thought("hm"), Thought("so"), Text("yes")]


@pytest.mark.parametrize(
    ("vendor", "finish"),
    [
        ("stop", "stop"), ("length", "length"), ("tool_calls", "tool_calls"), ("function_call", "tool_calls"),
        ("content_filter", "content_filter"), ("SAFETY", "content_filter"), ("max_tokens", "length"), ("eos", "stop"),
    ],
)  # fmt: skip
def test_every_reason_to_finish_has_its_word(vendor: str, finish: str) -> None:
    assert read(payload({"content": "a"}, finish_reason=vendor), DONE)[-1] == Finish(finish)  # type: ignore[arg-type]


def test_a_call_is_the_reason_to_finish_even_when_the_vendor_says_stop() -> None:
    assert read(calling(fragment(0, "a", "f", "{}")), STOP)[-1] == Finish("tool_calls")


def test_a_choice_may_hold_only_its_reason() -> None:
    assert read(b'{"choices":[{"index":0,"finish_reason":"length"}]}') == [Finish("length")]


def test_an_empty_reason_is_none() -> None:
    assert read(payload({"content": "a"}, finish_reason=""), DONE)[-1] == Finish("stop")


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_a_vendor_that_broke_off_is_a_failure_after_what_it_said(reason: str) -> None:
    reader = ChunkReader()
    assert reader.feed([payload({"content": "a"}, finish_reason=reason)]) == [Text("a")]
    assert not reader.is_finished
    with pytest.raises(ModelError, match=f"finish_reason '{reason}'"):
        reader.check()


def test_usage_with_its_details_is_read() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    chunk = msgspec.json.encode({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": usage})
    assert read(chunk, DONE)[-1] == Finish(
        "stop",
        Usage(
            input_tokens=9,
            input_tokens_details=InputTokensDetails(cached_tokens=5, cache_write_tokens=2),
            output_tokens=4,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=3),
            total_tokens=13,
        ),
    )


def test_of_usage_in_every_chunk_the_last_counts() -> None:
    def chunk(tokens: int) -> bytes:
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
        return msgspec.json.encode({"choices": [{"delta": {"content": "a"}}], "usage": usage})

    finish = read(chunk(1), chunk(2), STOP, DONE)[-1]
    assert isinstance(finish, Finish)
    assert finish.usage == Usage(input_tokens=1, output_tokens=2, total_tokens=3)


@pytest.mark.parametrize("usage", [{"prompt_tokens": 1}, {"prompt_tokens": None, "completion_tokens": None}, None])
def test_usage_without_its_counts_is_none(usage: Object | None) -> None:
    chunk = msgspec.json.encode({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": usage})
    assert read(chunk)[-1] == Finish("stop", None)


def test_usage_within_the_choice_is_read() -> None:
    finish = read(payload({"content": "a"}, finish_reason="stop", usage={"prompt_tokens": 1, "completion_tokens": 1}))[
        -1
    ]
    assert isinstance(finish, Finish)
    assert finish.usage is not None


@pytest.mark.parametrize(("vendors", "ours"), [("flex", "flex"), ("on_demand", None), (None, None), ({}, None)])
def test_the_service_tier_is_read_where_it_is_a_word_of_this_api(vendors: object, ours: Any) -> None:
    chunk = {"service_tier": vendors, "choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
    assert read(msgspec.json.encode(chunk), USAGE, DONE)[-1] == Finish(
        "stop", Usage(input_tokens=3, output_tokens=2, total_tokens=5), ours
    )


def test_the_finish_waits_for_the_usage() -> None:
    reader = ChunkReader()
    assert reader.feed([STOP]) == []
    assert reader.is_finished
    assert reader.feed([USAGE]) == []
    [finish] = reader.feed([DONE, payload({"content": "late"}), DONE])
    assert isinstance(finish, Finish)
    assert finish.usage is not None
    assert reader.end() == []


def test_an_answer_without_a_reason_is_finished_by_done() -> None:
    assert read(payload({"content": "a"}), DONE) == [Text("a"), Finish("stop")]
    reader = ChunkReader()
    reader.feed([payload({"content": "a"})])
    assert reader.feed([DONE]) == [Finish("stop")]


def test_an_answer_that_just_stops_is_a_failure() -> None:
    reader = ChunkReader()
    reader.feed([payload({"content": "a"})])
    with pytest.raises(ModelError, match="ended before it was finished"):
        reader.end()


def test_an_answer_of_nothing_is_a_failure() -> None:
    with pytest.raises(ModelError, match="ended before it had begun"):
        read(payload({"role": "assistant", "content": ""}), DONE)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"hello",
        b"[1]",
        b'{"choices": 5}',
        b'{"choices":[{"delta":{"content":5}}]}',
        b'{"type":"message_start"}',
        b"[" * 9999,
    ],
    ids=["no JSON", "no object", "wrong type", "wrong type inside", "another API", "deep"],
)
def test_nonsense_is_a_failure_that_shows_it(nonsense: bytes) -> None:
    with pytest.raises(ModelError, match=r"no chunk of a chat completion: .") as refused:
        ChunkReader().feed([nonsense])
    assert len(refused.value.message) < 500


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"error": {"message": "boom", "code": 500}}, ModelError),
        ({"error": {"message": "boom", "code": "server_error"}, "choices": [{"delta": {"content": ""}}]}, ModelError),
        ({"object": "error", "message": "boom", "type": "BadRequestError", "code": 400}, InvalidRequest),
        ({"detail": "boom"}, ModelError),
        ({"error": "boom"}, ModelError),
        ({"error": {"message": "boom: slow down", "code": 429}}, ModelOverloaded),
        ({"error": {"message": "boom", "type": "exceed_context_size_error", "code": 400}}, ContextLengthExceeded),
    ],
)
def test_an_error_in_the_stream_is_raised_after_what_came_before(error: Object, kind: type[ApiError]) -> None:
    reader = ChunkReader()
    assert reader.feed([payload({"content": "a"}), msgspec.json.encode(error), payload({"content": "b"})]) == [
        Text("a")
    ]
    for again in (reader.check, reader.end, lambda: reader.feed([])):
        with pytest.raises(kind, match="boom") as raised:
            again()
        assert type(raised.value) is kind


# -- calls as vendors send them

A, B = ("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')
CALLS = {
    "OpenAI": [
        [fragment(0, "a", "f", ""), fragment(1, "b", "g", "")],
        [fragment(0, arguments='{"x"'), fragment(1, arguments='{"y"')],
        [fragment(0, arguments=":1}"), fragment(1, arguments=":2}")],
    ],
    "empty ids and names later on (vLLM)": [
        [fragment(0, "a", "f", "")], [fragment(0, "", "", '{"x":1}')], [fragment(1, "b", "g", '{"y":2}')]
    ],
    "ids and names on every fragment": [
        [fragment(0, "a", "f", '{"x"')], [fragment(0, "a", "f", ":1}")], [fragment(1, "b", "g", '{"y":2}')]
    ],
    "another id on every later fragment (Poolside)": [
        [fragment(0, "a", "f", "")], [fragment(0, "z", None, '{"x":1}')], [fragment(1, "b", "g", '{"y":2}')]
    ],
    "a made-up id on every fragment": [
        [fragment(0, "a", "f", '{"x"')], [fragment(0, "z", "f", ":1}")], [fragment(1, "b", "g", '{"y":2}')]
    ],
    "whole calls, all numbered 0 (Ollama)": [[fragment(0, "a", "f", '{"x":1}')], [fragment(0, "b", "g", '{"y":2}')]],
    "pieces of calls, all numbered 0 (lmdeploy)": [
        [fragment(0, "a", "f", "")], [fragment(0, arguments='{"x":1}')],
        [fragment(0, "b", "g", "")], [fragment(0, arguments='{"y":2}')],
    ],
    "no numbers (Gemini)": [[fragment(None, "a", "f", '{"x":1}'), fragment(None, "b", "g", '{"y":2}')]],
    "no numbers, in pieces": [
        [fragment(None, "a", "f", '{"x"')], [fragment(None, None, None, ":1}")],
        [fragment(None, "b", "g", '{"y"')], [fragment(None, "b", None, ":2}")],
    ],
    "no numbers, in pieces that take turns": [
        [fragment(None, "a", "f", '{"x"')], [fragment(None, "b", "g", '{"y"')],
        [fragment(None, "a", None, ":1}")], [fragment(None, "b", None, ":2}")],
    ],
    "a whole call and its name again": [
        [fragment(0, "a", "f", '{"x":1}')], [fragment(0, "a", "f", "")], [fragment(1, "b", "g", '{"y":2}')]
    ],
    "the name with another id": [
        [fragment(0, "a", None, "")], [fragment(0, "z", "f", '{"x":1}')], [fragment(1, "b", "g", '{"y":2}')]
    ],
    "arguments as objects": [[fragment(0, "a", "f", {"x": 1}), fragment(1, "b", "g", {"y": 2})]],
    "the name after the arguments": [
        [fragment(0, "a", None, '{"x"')], [fragment(0, None, "f", ":1}")], [fragment(1, "b", "g", '{"y":2}')]
    ],
}  # fmt: skip


@pytest.mark.parametrize("vendor", CALLS)
def test_calls_are_told_apart(vendor: str) -> None:
    assert calls_of(read(*(calling(*fragments) for fragments in CALLS[vendor]), STOP)) == [A, B]


def test_calls_without_ids_are_told_apart_by_whole_arguments() -> None:
    deltas = read(calling(fragment(0, None, "f", '{"x":1}')), calling(fragment(0, "", "f", '{"x":2}')), STOP)
    assert calls_of(deltas) == [(None, "f", '{"x":1}'), (None, "f", '{"x":2}')]


def test_a_name_repeated_at_the_end_begins_no_call() -> None:
    deltas = read(calling(fragment(0, None, "f", '{"x":1}')), calling(fragment(0, None, "f", "")), STOP)
    assert calls_of(deltas) == [(None, "f", '{"x":1}')]


def test_a_call_without_arguments_gets_an_empty_document() -> None:
    deltas = read(
        calling(fragment(0, "a", "f", ""), fragment(0, "b", "g", "")), calling(fragment(1, "c", "h", {})), STOP
    )
    assert calls_of(deltas) == [("a", "f", "{}"), ("b", "g", "{}"), ("c", "h", "{}")]


def test_a_call_cut_at_the_limit_is_left_as_it_is() -> None:
    assert calls_of(read(calling(fragment(0, "a", "f", "")), payload(finish_reason="length"))) == [("a", "f", "")]


def test_the_older_form_of_a_call_is_read() -> None:
    deltas = read(
        payload({"function_call": {"name": "f", "arguments": '{"x"'}}),
        payload({"function_call": {"arguments": ":1}"}}),
        payload(finish_reason="function_call"),
    )
    assert calls_of(deltas) == [(None, "f", '{"x":1}')]
    assert deltas[-1] == Finish("tool_calls")


def test_a_call_that_is_never_named_is_a_failure() -> None:
    with pytest.raises(ModelError, match="without naming it"):
        read(calling(fragment(0, "a", None, "{}")), STOP)


# -- whether the tool choice was kept to

F, G = ToolCall("0", "{}", name="f", call_id="a"), ToolCall("1", "{}", name="g", call_id="b")
TOOLS = (Offer(name="f"), Offer(name="g"))


def guard(**fields: Any) -> ToolChoiceGuard:
    return ToolChoiceGuard(Prompt(model="m", items=(), **{"tools": TOOLS} | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": (), "parallel_tool_calls": False},
        {"tools": (), "tool_choice": "none"},
        {"allowed": frozenset({"f"})},
    ],
)
def test_nothing_is_held_back_where_nothing_was_demanded(fields: Object) -> None:
    guarding = guard(**fields)
    assert guarding.admit([Text("a")]) == [Text("a")]
    assert guarding.admit([F, G]) == [F, G]


@pytest.mark.parametrize("choice", ["required", Named("f")])
def test_deltas_wait_until_a_demanded_call_begins(choice: Any) -> None:
    guarding = guard(tool_choice=choice)
    assert guarding.admit([Thought("hm")]) == []
    assert guarding.admit([Text("so")]) == []
    assert guarding.admit([F]) == [Thought("hm"), Text("so"), F]
    assert guarding.admit([ToolCall("0", "1")]) == [ToolCall("0", "1")]
    assert guarding.admit([Finish("tool_calls")]) == [Finish("tool_calls")]


@pytest.mark.parametrize(
    ("fields", "batch", "text"),
    [
        ({"tool_choice": "required"}, [Text("no"), Finish("stop")], "called no tool, though 'required'"),
        ({"tool_choice": Named("f")}, [Finish("stop")], "called no tool, though the function 'f'"),
        ({"tool_choice": Named("f")}, [G], "called 'g', though the function 'f'"),
        ({"tool_choice": "required", "tools": (Offer(name="f"),)}, [G], "called 'g', though 'required'"),
        ({"tool_choice": "required", "allowed": frozenset("f")}, [G], "called 'g', though one of 'f'"),
        ({"tool_choice": "required", "allowed": frozenset("fg")}, [Finish("stop")], "no tool, though one of 'f', 'g'"),
        ({"tool_choice": "none"}, [Text("a"), F], "called 'f', though 'none'"),
        ({"parallel_tool_calls": False}, [F, G], "several calls"),
    ],
)
def test_an_ignored_choice_is_told(fields: Object, batch: list[Delta], text: str) -> None:
    with pytest.raises(ToolChoiceIgnored, match=text):
        guard(**fields).admit(batch)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_cut_short_before_its_call_ignored_nothing(reason: Any) -> None:
    guarding = guard(tool_choice="required")
    assert guarding.admit([Thought("hm")]) == []
    assert guarding.admit([Finish(reason)]) == [Thought("hm"), Finish(reason)]


def test_a_lone_call_waits_until_it_is_known_to_be_one() -> None:
    guarding = guard(parallel_tool_calls=False)
    assert guarding.admit([Text("so")]) == [Text("so")]
    assert guarding.admit([F]) == []
    assert guarding.admit([ToolCall("0", "1")]) == []
    assert guarding.admit([Finish("tool_calls")]) == [F, ToolCall("0", "1"), Finish("tool_calls")]


# -- against servers


def sse(*payloads: bytes) -> bytes:
    return b"".join(b"data: %b\n\n" % one for one in payloads)


HELLO = streams(sse(payload({"content": "Hel"}), payload({"content": "lo"})), sse(STOP, USAGE, DONE))
HELLO_DELTAS = [Text("Hel"), Text("lo"), Finish("stop", Usage(input_tokens=3, output_tokens=2, total_tokens=5))]
CALL_F = streams(sse(payload({"content": "so"}), calling(fragment(0, "a", "f", "{}")), STOP, DONE))
CALL_G = streams(sse(calling(fragment(0, "a", "g", "{}")), STOP, DONE))
CALL_BOTH = streams(sse(calling(fragment(0, "a", "f", "{}")), calling(fragment(1, "b", "g", "{}")), STOP, DONE))


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@asynccontextmanager
async def chat(
    *scripts: Script, clock: Clock | None = None, **fields: Any
) -> AsyncIterator[tuple[RawServer, ChatModel]]:
    async with RawServer(*scripts) as server:
        model = ChatModel(
            ChatUpstream(url=server.url, **{"attempts_max": 1} | fields), Limits(), clock=clock or Clock()
        )
        try:
            yield server, model
        finally:
            await model.close()


def prompt(*items: PromptItem, **fields: Any) -> Prompt:
    return Prompt(model="m", items=items or (user("hi"),), **fields)


def turn(model: ChatModel, **fields: Any) -> aclosing[AsyncGenerator[Sequence[Delta], None]]:
    return aclosing(model.stream(prompt(**fields)))


async def deltas_of(model: ChatModel, *items: PromptItem, **fields: Any) -> list[Delta]:
    async with asyncio.timeout(WAIT_S), aclosing(model.stream(prompt(*items, **fields))) as batches:
        return [delta async for batch in batches for delta in batch]


def body_of(server: RawServer, number: int = -1) -> Object:
    body: Object = msgspec.json.decode(server.asked[number].body)
    return body


async def test_a_turn_is_asked_for_and_read() -> None:
    async with chat(HELLO, key="k") as (server, model):
        assert await deltas_of(model, sampling=Sampling(seed=5)) == HELLO_DELTAS
    assert (server.asked[0].path, server.asked[0].headers["authorization"]) == ("/v1/chat/completions", "Bearer k")
    assert body_of(server) == requested(prompt(sampling=Sampling(seed=5)))


async def test_the_key_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "from outside")
    async with chat(HELLO, key_env="A_KEY") as (server, model):
        await deltas_of(model)
    assert server.asked[0].headers["authorization"] == "Bearer from outside"


def test_a_key_that_is_not_in_the_environment_is_a_fault_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(SettingsError, match="A_KEY"):
        ChatModel(ChatUpstream(url="http://x/v1", key_env="A_KEY"), Limits())


async def test_an_answer_that_is_not_streamed_is_read() -> None:
    whole = {"choices": [{"message": {"role": "assistant", "content": "Paris."}}]}
    async with chat(answers(msgspec.json.encode(whole))) as (_, model):
        assert await deltas_of(model) == [Text("Paris."), Finish("stop")]


async def test_an_answer_that_breaks_off_is_a_failure_after_what_came() -> None:
    async with chat(breaks_off(sse(payload({"content": "Hel"})))) as (_, model):
        with pytest.raises(ModelError, match="closed the connection before its answer was finished"):
            await deltas_of(model)


async def test_an_answer_that_just_ends_is_a_failure() -> None:
    async with chat(streams(sse(payload({"content": "Hel"})))) as (_, model):
        with pytest.raises(ModelError, match="ended before it was finished"):
            await deltas_of(model)


async def test_an_answer_whose_reason_came_is_whole_though_its_connection_is_lost() -> None:
    was_read = asyncio.Event()

    async def lost(wire: Wire) -> None:
        await breaks_off(sse(payload({"content": "a"}), STOP))(wire)
        await was_read.wait()

    async with chat(lost) as (_, model), turn(model) as batches:
        async with asyncio.timeout(WAIT_S):
            assert await anext(batches) == [Text("a")]
            was_read.set()
            assert await anext(batches) == [Finish("stop")]


async def test_an_error_within_the_stream_is_raised_without_waiting_for_more() -> None:
    gone = asyncio.Event()
    error = b'{"error":{"message":"out of memory, says sk-our-secret","code":500}}'
    script = stalls(sse(payload({"content": "a"}), error), gone=gone)
    async with chat(script, key="sk-our-secret") as (_, model), turn(model) as batches:
        async with asyncio.timeout(WAIT_S):
            assert await anext(batches) == [Text("a")]
            with pytest.raises(ModelError, match=r"out of memory, says \*\*\*"):
                await anext(batches)
            await gone.wait()


async def test_leaving_a_turn_stops_the_upstream() -> None:
    gone = asyncio.Event()
    async with chat(stalls(sse(payload({"content": "a"})), gone=gone)) as (_, model):
        async with turn(model) as batches:
            async with asyncio.timeout(WAIT_S):
                await anext(batches)
        await asyncio.wait_for(gone.wait(), WAIT_S)


# -- tool choices that upstreams ignore


@pytest.mark.parametrize(
    ("wrong", "right", "fields"),
    [
        (HELLO, CALL_F, {"tool_choice": "required"}),
        (HELLO, CALL_F, {"tool_choice": Named("f")}),
        (CALL_G, CALL_F, {"tool_choice": Named("f")}),
        (CALL_G, CALL_F, {"tool_choice": "required", "allowed": frozenset("f")}),
        (CALL_BOTH, CALL_F, {"parallel_tool_calls": False}),
        (CALL_G, HELLO, {"tool_choice": "none"}),
    ],
    ids=["required", "named", "named another", "not allowed", "parallel", "none"],
)
async def test_a_choice_ignored_once_is_asked_for_again(wrong: Script, right: Script, fields: Object) -> None:
    async with chat(right) as (_, model):
        expected = await deltas_of(model, tools=TOOLS, **fields)
    async with chat(wrong, right) as (server, model):
        assert await deltas_of(model, tools=TOOLS, **fields) == expected
    assert body_of(server, 0) == body_of(server, 1)
    async with chat(wrong, wrong, right) as (server, model):
        with pytest.raises(ToolChoiceIgnored):
            await deltas_of(model, tools=TOOLS, **fields)
    assert len(server.asked) == 2


async def test_a_choice_ignored_after_the_first_delta_fails_the_turn() -> None:
    was_read = asyncio.Event()

    async def script(wire: Wire) -> None:
        await breaks_off(sse(payload({"content": "so"})))(wire)
        await was_read.wait()
        await wire.send(chunked(sse(calling(fragment(0, "a", "f", "{}")))))
        await wire.wait_gone()

    async with chat(script) as (server, model), turn(model, tools=TOOLS, tool_choice="none") as batches:
        async with asyncio.timeout(WAIT_S):
            assert await anext(batches) == [Text("so")]
            was_read.set()
            with pytest.raises(ToolChoiceIgnored, match="it called 'f', though 'none' was asked for"):
                await anext(batches)
        assert len(server.asked) == 1


async def test_an_ignored_choice_stops_the_upstream_at_once() -> None:
    gone = asyncio.Event()
    wrong = stalls(sse(calling(fragment(0, "a", "g", "{}"))), gone=gone)
    async with chat(wrong, CALL_F) as (_, model):
        await deltas_of(model, tools=TOOLS, tool_choice=Named("f"))
        await asyncio.wait_for(gone.wait(), WAIT_S)


# -- what upstreams disagree about

REFUSES_LIMIT = answers(
    b"""{"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use
 'max_completion_tokens' instead.", "type": "invalid_request_error", "param": "max_tokens",
 "code": "unsupported_parameter"}}""".replace(b"\n", b""),
    status=400,
)
REFUSES_THOUGHTS = answers(
    b'{"detail":[{"type":"extra_forbidden","loc":["body","messages",1,"assistant","reasoning_content"],'
    b'"msg":"Extra inputs are not permitted"}]}',
    status=422,
)


async def test_a_model_that_wants_the_other_limit_gets_it_from_then_on() -> None:
    async with chat(REFUSES_LIMIT, HELLO, HELLO, HELLO) as (server, model):
        assert await deltas_of(model, max_output_tokens=5) == HELLO_DELTAS
        assert await deltas_of(model, max_output_tokens=6) == HELLO_DELTAS
    first, second, third = (body_of(server, number) for number in range(3))
    assert (first["max_tokens"], second["max_completion_tokens"], third["max_completion_tokens"]) == (5, 5, 6)
    assert "max_tokens" not in second


async def test_a_model_that_refuses_thoughts_gets_none_from_then_on() -> None:
    async with chat(REFUSES_LIMIT, REFUSES_THOUGHTS, HELLO) as (server, model):
        items = (user("hi"), thought("hm"), assistant("yes"))
        assert await deltas_of(model, *items, max_output_tokens=5) == HELLO_DELTAS
        assert await deltas_of(model, *items) == HELLO_DELTAS
    assert ["reasoning_content" in body_of(server, number)["messages"][1] for number in range(4)] == [
        True, True, False, False
    ]  # fmt: skip
    assert body_of(server, 2)["max_completion_tokens"] == 5


@pytest.mark.parametrize(
    "message",
    [
        "Missing `reasoning_content` field in the assistant message at message index 6.",
        "'max_tokens' or 'max_completion_tokens' is too large: 2000.",
        "Unsupported parameter: 'temperature'.",
    ],
    ids=["DeepSeek", "vLLM", "OpenAI"],
)
async def test_another_refusal_is_the_clients(message: str) -> None:
    refuses = answers(msgspec.json.encode({"error": {"message": message}}), status=400)
    async with chat(refuses) as (server, model):
        with pytest.raises(InvalidRequest, match=message[:20]):
            await deltas_of(model, max_output_tokens=5)
    assert len(server.asked) == 1


async def test_a_refusal_within_the_stream_is_not_asked_for_again() -> None:
    refusal = b'{"error":{"message":"Use \'max_completion_tokens\' instead.","code":400}}'
    async with chat(streams(sse(payload({"content": "a"}), refusal))) as (server, model):
        with pytest.raises(InvalidRequest):
            await deltas_of(model, max_output_tokens=5)
    assert len(server.asked) == 1


# -- models


LIST = answers(b'{"object":"list","data":[{"id":"a","created":7,"owned_by":"us"},{"id":"b"}]}')
DOWN = answers(b"{}", status=500)


async def test_the_models_of_the_upstream_are_listed() -> None:
    async with chat(LIST) as (server, model):
        cards = await model.cards()
    assert [(card.id, card.created, card.owned_by) for card in cards] == [("a", 7, "us"), ("b", 0, "upstream")]
    assert (server.asked[0].method, server.asked[0].path) == ("GET", "/v1/models")


@pytest.mark.parametrize("listing", [LIST, DOWN], ids=["listed", "not to be had"])
async def test_only_the_models_of_the_settings_are_served_when_they_name_some(listing: Script) -> None:
    async with chat(listing, models=("b", "z")) as (_, model):
        assert [card.id for card in await model.cards()] == ["b", "z"]


async def test_the_list_is_kept_for_a_while() -> None:
    clock = Clock()
    async with chat(LIST, clock=clock) as (server, model):
        await asyncio.gather(model.cards(), model.cards())
        clock.now_s += 29
        await model.cards()
        assert len(server.asked) == 1
        clock.now_s += 2
        await model.cards()
        assert len(server.asked) == 2


async def test_a_fresh_list_is_asked_for_every_couple_of_seconds_at_most() -> None:
    clock = Clock()
    async with chat(LIST, clock=clock) as (server, model):
        await model.cards()
        clock.now_s += 1
        await model.cards(fresh=True)
        assert len(server.asked) == 1
        clock.now_s += 2
        await model.cards(fresh=True)
        assert len(server.asked) == 2


async def test_a_failure_to_list_is_remembered_for_a_moment_only() -> None:
    clock = Clock()
    async with chat(DOWN, LIST, clock=clock) as (server, model):
        for _ in range(2):
            with pytest.raises(ModelError, match="HTTP 500"):
                await model.cards()
        assert len(server.asked) == 1
        clock.now_s += 4
        assert len(await model.cards()) == 2


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"data":[{"name":"x"}]}', b"no"])
async def test_a_list_that_is_none_is_a_failure(body: bytes) -> None:
    async with chat(answers(body)) as (_, model):
        with pytest.raises(ModelError, match="no list of models"):
            await model.cards()


async def test_a_refusal_to_list_is_the_upstreams_failure() -> None:
    async with chat(answers(b'{"error":"no"}', status=400)) as (_, model):
        with pytest.raises(ModelError, match="no"):
            await model.cards()


@pytest.mark.parametrize(
    ("script", "ok", "text"),
    [
        (LIST, True, "It answers. Models: a, b."),
        (answers(b'{"data":null}'), False, "It lists no model."),
        (DOWN, False, "HTTP 500"),
    ],
)
async def test_the_check_says_what_it_found(script: Script, ok: bool, text: str) -> None:
    async with chat(script) as (server, model):
        check = await model.check()
    assert (check.name, check.ok, bool(check.remedy)) == (f"chat upstream {server.url}", ok, not ok)
    assert text in check.detail
