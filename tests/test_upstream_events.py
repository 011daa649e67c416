"""The reader of an upstream's Responses stream: recordings, then everything that servers are known to do to it."""

import itertools
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.core.builder import Builder
from antiphon.core.deltas import Annotate, Delta, Finish, Phase, Refusal, Sealed, Summary, Text, Thought, ToolCall
from antiphon.core.fold import fold
from antiphon.errors import (
    ApiError,
    ContextLengthExceeded,
    InvalidRequest,
    ModelError,
    ModelOverloaded,
    UnsupportedParameter,
)
from antiphon.models.events import EventReader
from antiphon.models.sse import DONE, EventSplitter
from antiphon.wire import codec
from antiphon.wire.items import FileCitation, Logprob, TopLogprob, UrlCitation
from antiphon.wire.response import InputTokensDetails, OutputTokensDetails, Response, Usage
from tests import recorded

Object: TypeAlias = dict[str, Any]

# -- recordings

VLLM = recorded.names("upstream-responses")
STREAMS = recorded.streams("upstream-responses")
ANSWERS = [name for name in VLLM if name not in STREAMS and recorded.status(name) == 200]
OPENAI = [
    name
    for name in recorded.streams("openai-responses")
    if "/errors/" not in name and not name.endswith("outputs-multi-stream")  # shortened by hand
]


def demands_call(name: str) -> bool:
    return recorded.request_body(name).get("tool_choice", "auto") not in ("auto", "none")


def payloads(name: str) -> list[bytes]:
    if name in STREAMS or name in OPENAI:
        return EventSplitter(1 << 24).feed(recorded.sse(name))
    return [json.dumps(recorded.response_body(name)).encode()]


def read(reads: Iterable[list[bytes]], **options: Any) -> list[Delta]:
    reader = EventReader(**options)
    deltas = [delta for read in reads for delta in reader.feed(read)]
    reader.end()
    return deltas


def final_of(name: str) -> Object:
    """What the upstream says in the end."""
    if name not in STREAMS and name not in OPENAI:
        return recorded.response_body(name)
    return next(event["response"] for event in recorded.events(name) if event["type"] in ENDS)


ENDS = {"response.completed", "response.incomplete", "response.failed"}


def relayed(deltas: Iterable[Delta]) -> Object:
    """The response that our own events tell of these deltas: lawful, or the fold raises."""
    numbers = iter(range(1000))
    builder = Builder(
        Response(id="resp_1", created_at=1, status="in_progress", model="m"), lambda p: f"{p}_{next(numbers)}"
    )
    builder.start()
    for delta in deltas:
        builder.feed(delta)
    builder.end_turn()
    builder.append(builder.propose("completed", now=2))
    return fold([msgspec.json.decode(codec.encode(event)) for event in builder.take()])


def said(response: Object) -> list[tuple[str, ...]]:
    """What is in a response, without ids and statuses, and without items that this server cannot pass on."""
    told: list[tuple[str, ...]] = []
    for item in response["output"]:
        if item["type"] == "message":
            texts = "".join(part.get("text", part.get("refusal")) for part in item["content"])
            annotations = sum(len(part.get("annotations") or ()) for part in item["content"])
            told.append(("message", texts, str(annotations)))
        elif item["type"] == "reasoning":
            summary = tuple(part["text"] for part in item["summary"])
            content = "".join(part["text"] for part in item.get("content") or ())
            if summary or content:
                told.append(("reasoning", content, *summary))
        elif item["type"] == "function_call":
            told.append(("call", item["name"], item["arguments"]))
    return told


@pytest.mark.parametrize("name", [*STREAMS, *ANSWERS, *OPENAI])
def test_a_recording_comes_out_lawful_and_says_what_its_final_object_says(name: str) -> None:
    deltas = read([payloads(name)], is_call_demanded=demands_call(name))

    assert said(relayed(deltas)) == said(final_of(name))
    finish, usage = deltas[-1], final_of(name)["usage"]
    assert isinstance(finish, Finish)
    assert finish.usage is not None
    assert (finish.usage.input_tokens, finish.usage.output_tokens) == (usage["input_tokens"], usage["output_tokens"])
    assert finish.usage.input_tokens_details.cached_tokens == usage["input_tokens_details"]["cached_tokens"]
    assert finish.usage.output_tokens_details.reasoning_tokens == usage["output_tokens_details"]["reasoning_tokens"]


def test_all_recordings_of_the_upstream_are_read_or_refused() -> None:
    refused = {name for name in VLLM if recorded.status(name) >= 400}
    assert (len(STREAMS), len(ANSWERS), len(refused)) == (8, 7, 5)


@pytest.mark.parametrize("name", STREAMS)
def test_the_upstream_contradicts_itself_in_every_stream(name: str) -> None:
    """Why nothing of it is passed on as it came. Should this fail, the reader's docstring is to be rewritten."""
    added = {event["item"]["id"] for event in recorded.events(name) if event["type"] == "response.output_item.added"}
    assert not added & {item["id"] for item in final_of(name)["output"]}


@pytest.mark.parametrize("name", [name for name in STREAMS if not demands_call(name)])
def test_a_recording_is_passed_on_as_it_is_read(name: str) -> None:
    """A delta for each delta; only blank text at the beginning of a message waits."""
    pieces = [event["delta"] for event in recorded.events(name) if event["type"].endswith(".delta")]
    told = [getattr(delta, "text", None) or getattr(delta, "arguments", None) for delta in read([payloads(name)])]
    assert [piece for piece in pieces if piece.strip()] == [piece for piece in told if piece and piece.strip()]


@given(name=st.sampled_from(STREAMS), cuts=st.lists(st.integers(0, 400), max_size=6))
@settings(max_examples=25, deadline=None)
def test_any_reads_of_a_recording_give_the_same_deltas(name: str, cuts: list[int]) -> None:
    whole = payloads(name)
    edges = [0, *sorted(cuts), len(whole)]
    reads = [whole[start:end] for start, end in itertools.pairwise(edges)]
    options = {"is_call_demanded": demands_call(name)}
    assert read(reads, **options) == read([whole], **options)


def test_a_recorded_failure_of_openai_is_read() -> None:
    stream = EventSplitter(1 << 24).feed(recorded.sse("openai-responses/errors/context_length_exceeded-stream"))
    with pytest.raises(ContextLengthExceeded, match="exceeds the context window"):
        read([stream])


def test_a_call_streamed_as_the_text_of_a_message_is_a_call() -> None:
    deltas = read([payloads("upstream-responses/qwen35a3b-responses-function-stream-required")], is_call_demanded=True)
    *thoughts, call, finish = deltas
    assert {type(delta) for delta in thoughts} == {Thought}
    assert call == ToolCall("2", '{"city": "Boston"}', "get_weather", "chatcmpl-tool-98c519c9015561a0")
    assert isinstance(finish, Finish)
    assert finish.reason == "tool_calls"


# -- streams made up


def event(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": f"response.{kind}", **fields}).encode()


def text(piece: str, **fields: Any) -> bytes:
    return event("output_text.delta", delta=piece, **{"item_id": "m", "output_index": 0, "content_index": 0} | fields)


def arguments(piece: str, **fields: Any) -> bytes:
    return event("function_call_arguments.delta", delta=piece, **{"item_id": "f", "output_index": 0} | fields)


def added(item: Object, index: int | None = 0) -> bytes:
    return event("output_item.added", item=item, output_index=index)


def done(item: Object, index: int | None = 0) -> bytes:
    return event("output_item.done", item=item, output_index=index)


def message(*texts: str, item_id: str | None = "m", **fields: Any) -> Object:
    content = [{"type": "output_text", "text": one} for one in texts]
    return {"type": "message", "id": item_id, "role": "assistant", "content": content, **fields}


def call(whole: str = "", item_id: str | None = "f", name: str | None = "get", call_id: str | None = "c") -> Object:
    return {"type": "function_call", "id": item_id, "name": name, "call_id": call_id, "arguments": whole}


def thought(content: str | None = None, *summary: str, item_id: str = "r") -> Object:
    parts = None if content is None else [{"type": "reasoning_text", "text": content}]
    summaries = [{"type": "summary_text", "text": one} for one in summary]
    return {"type": "reasoning", "id": item_id, "content": parts, "summary": summaries}


def completed(*output: Object, **fields: Any) -> bytes:
    return event("completed", response={"status": "completed", "output": list(output), **fields})


STOP, CALLS = Finish("stop"), Finish("tool_calls")
ADDED = added(message())


@pytest.mark.parametrize(
    ("stream", "deltas"),
    [
        ([ADDED, text("Hi"), done(message("Hi")), completed(message("Hi"))], [Text("Hi"), STOP]),
        ([ADDED, text("Hi"), completed()], [Text("Hi"), STOP]),
        ([ADDED, text("Hi"), event("completed")], [Text("Hi"), STOP]),
        ([text("Hi"), completed(message("Hi"))], [Text("Hi"), STOP]),
        ([ADDED, ADDED, text("Hi"), completed(message("Hi"))], [Text("Hi"), STOP]),
        ([ADDED, text("Hi"), done(message("Hi")), done(message("Hi")), completed()], [Text("Hi"), STOP]),
        ([ADDED, text("H", item_id="x"), text("i", item_id="y"), completed(message("Hi"))],
         [Text("H"), Text("i"), STOP]),
        ([text("Hi", item_id=None, output_index=None), completed(message("Hi"))], [Text("Hi"), STOP]),
        ([ADDED, text("Hi"), text(""), completed(message("Hi"))], [Text("Hi"), STOP]),
        ([ADDED, text("Hi"), completed(message("Hi", item_id="other"))], [Text("Hi"), STOP]),
        ([ADDED, text("Hi", content_index=4), event("output_text.done", item_id="m", output_index=0, content_index=0,
                                                    text="Hi"), completed()], [Text("Hi"), STOP]),
        ([ADDED, text("Hi"), completed(message("Ho"))], [Text("Hi"), STOP]),
    ],
    ids=["in order", "no done events", "no final object", "no added", "added twice", "done twice",
         "ids that change", "no ids", "an empty delta", "another id in the end", "parts numbered otherwise",
         "another text in the end"],
)  # fmt: skip
def test_a_text_is_told_once_whatever_stands_around_it(stream: list[bytes], deltas: list[Delta]) -> None:
    assert read([stream]) == deltas


@pytest.mark.parametrize(
    "last",
    [
        event("output_text.done", item_id="m", output_index=0, content_index=0, text="Hello"),
        event("content_part.done", item_id="m", output_index=0, content_index=0,
              part={"type": "output_text", "text": "Hello"}),
        done(message("Hello")),
        completed(message("Hello")),
    ],
    ids=["text done", "part done", "item done", "final object"],
)  # fmt: skip
@pytest.mark.parametrize("begun", [[], [text("He")]], ids=["no delta", "some deltas"])
def test_a_text_that_only_a_snapshot_holds_whole_is_told_to_its_end(begun: list[bytes], last: bytes) -> None:
    deltas = read([[ADDED, *begun, last, completed(message("Hello"))]])
    assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "Hello"
    assert len(deltas) == len(begun) + 2


def test_snapshots_of_a_part_may_number_it_otherwise_than_its_deltas() -> None:
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    last = event("content_part.done", part={"type": "output_text", "text": "Hi!"}, **place)
    stream = [ADDED, text("Hi", content_index=1), event("output_text.done", text="Hi!", **place), last]
    assert read([[*stream, completed(message("Hi!"))]]) == [Text("Hi"), Text("!"), STOP]


def test_parts_of_a_message_that_come_later_are_told_too() -> None:
    stream = [ADDED, text("a"), done(message("a", "a")), completed(message("a", "a"))]
    assert read([stream]) == [Text("a"), Text("a"), STOP]


def test_a_snapshot_of_an_item_that_is_over_adds_nothing() -> None:
    late = event("output_text.done", item_id="m", output_index=0, content_index=0, text="Hi there")
    assert read([[ADDED, text("Hi"), done(message("Hi")), late, completed()]]) == [Text("Hi"), STOP]


def test_text_after_its_item_was_done_is_not_lost() -> None:
    assert read([[ADDED, text("a"), done(message("a")), text("b"), completed()]]) == [Text("a"), Text("b"), STOP]


def test_items_under_one_id_and_index_are_told_apart() -> None:
    stream = [ADDED, text("one"), done(message("one")), ADDED, text("two"), done(message("two"))]
    deltas = read([[*stream, completed(message("one"), message("two"))]])
    assert deltas == [Text("one", "0"), Text("two", "1"), STOP]


def test_an_item_added_anew_before_the_last_was_done_is_another_one() -> None:
    stream = [ADDED, text("one"), ADDED, text("two"), completed(message("one"), message("two"))]
    assert read([stream]) == [Text("one", "0"), Text("two", "1"), STOP]


def test_items_that_only_the_final_object_holds_are_told() -> None:
    stream = [ADDED, text("Hi"), completed(thought("why"), message("Hi"), call("{}"))]
    assert read([stream]) == [Text("Hi"), Thought("why", "1"), ToolCall("2", "{}", "get", "c"), CALLS]


def test_an_answer_of_plain_json_is_told() -> None:
    answer = {"object": "response", "status": "completed", "output": [thought("why"), message("Hi", " there")]}
    assert read([[json.dumps(answer).encode()]]) == [Thought("why"), Text("Hi", "1"), Text(" there", "1"), STOP]


def test_what_was_added_whole_is_told_where_nothing_else_tells_it() -> None:
    assert read([[added(message("Hi")), added(call('{"a":1}'), 1), completed()]]) == [
        ToolCall("1", "", "get", "c"),
        Text("Hi"),
        ToolCall("1", '{"a":1}'),
        CALLS,
    ]


def test_content_that_is_a_string_is_a_text() -> None:
    assert read([[completed({"type": "message", "content": "Hi"})]]) == [Text("Hi"), STOP]


# -- what waits


def test_blank_text_waits_for_text_that_is_not() -> None:
    reader = EventReader()
    assert reader.feed([ADDED, text("\n"), text("\n")]) == []
    assert reader.feed([text("Hi")]) == [Text("\n"), Text("\n"), Text("Hi")]
    assert reader.feed([text("\n")]) == [Text("\n")]


@pytest.mark.parametrize(
    ("stream", "deltas"),
    [
        ([done(message("")), completed(call("{}"))], [ToolCall("1", "{}", "get", "c"), CALLS]),
        ([completed(call("{}"))], [ToolCall("1", "{}", "get", "c"), CALLS]),
        ([done(message("\n")), completed()], [Text("\n"), STOP]),
        ([completed(message("\n"))], [Text("\n"), STOP]),
        ([completed()], [Text("\n"), STOP]),
    ],
    ids=["done empty", "not in the end", "done so", "so in the end", "nothing in the end"],
)
def test_blank_text_is_what_snapshots_say_it_is(stream: list[bytes], deltas: list[Delta]) -> None:
    assert read([[ADDED, text("\n"), *stream]]) == deltas


SETTLED = [ADDED, text("[{"), text("}]"), event("output_text.done", item_id="m", output_index=0, text="[{}]"),
           done(message("[{}]"))]  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "deltas"),
    [
        ([*SETTLED, completed(call("{}"))], [ToolCall("1", "{}", "get", "c"), CALLS]),
        ([*SETTLED, completed(message("[{}]"))], [Text("[{"), Text("}]"), STOP]),
        ([*SETTLED, completed()], [Text("[{"), Text("}]"), STOP]),
        ([*SETTLED, completed(message("[{}]!"))], [Text("[{"), Text("}]"), Text("!"), STOP]),
        ([*SETTLED, added(call(), 1), completed()],
         [Text("[{"), Text("}]"), ToolCall("1", "", "get", "c"), ToolCall("1", "{}"), CALLS]),
        ([ADDED, text("\n"), added(call("{}"), 1), completed(call("{}"))], [ToolCall("1", "", "get", "c"),
                                                                         ToolCall("1", "{}"), CALLS]),
        ([ADDED, done(message("so")), completed()], [Text("so"), STOP]),
        ([event("output_text.done", item_id="m", output_index=0, text="so"), completed()], [Text("so"), STOP]),
    ],
    ids=["a call in the end", "a message in the end", "nothing in the end", "more in the end", "a call that begins",
         "blank text and a call", "a text only in a done item", "a text only when it is done"],
)  # fmt: skip
def test_where_a_call_is_demanded_text_waits_for_what_it_is(stream: list[bytes], deltas: list[Delta]) -> None:
    assert read([stream], is_call_demanded=True) == deltas


# -- reasoning, refusals, phases, annotations, logprobs


@pytest.mark.parametrize("kind", ["reasoning_text", "reasoning"])
def test_raw_reasoning_is_read_under_both_names(kind: str) -> None:
    place = {"item_id": "r", "output_index": 0, "content_index": 0}
    stream = [
        added(thought()),
        event(f"{kind}.delta", delta="because", **place),
        event(f"{kind}.done", text="because.", **place),
        event("reasoning_part.done", part={"type": "reasoning_text", "text": "because."}, **place),
        completed(thought("because.")),
    ]
    assert read([stream]) == [Thought("because"), Thought("."), STOP]


def test_summaries_keep_their_parts() -> None:
    place = {"item_id": "r", "output_index": 0}
    stream = [
        added(thought()),
        event("reasoning_summary_text.delta", delta="one", summary_index=0, **place),
        event("reasoning_summary_part.done", summary_index=0, part={"type": "summary_text", "text": "one."}, **place),
        event("reasoning_summary_text.done", text="two", summary_index=1, **place),
        completed(thought(None, "one.", "two", "three")),
    ]
    assert read([stream]) == [
        Summary("one", "0", 0),
        Summary(".", "0", 0),
        Summary("two", "0", 1),
        Summary("three", "0", 2),
        STOP,
    ]


def test_reasoning_that_is_called_otherwise_in_the_end_is_told_once() -> None:
    stream = [added(thought()), event("reasoning_text.delta", delta="why", item_id="r", output_index=0)]
    assert read([[*stream, completed(thought(None, "why"))]]) == [Thought("why"), STOP]


SECRET = {"encrypted_content": "secret"}


@pytest.mark.parametrize(
    ("stream", "deltas"),
    [
        (
            [added(thought() | {"encrypted_content": "half"}), done(thought(None, "why") | SECRET), ADDED, text("Hi"),
             completed(thought(None, "why") | SECRET, message("Hi"))],
            [Summary("why"), Sealed("secret"), Text("Hi", "1"), STOP],
        ),
        ([added(thought()), done(thought() | SECRET), completed()], [Sealed("secret"), STOP]),
        ([completed(thought() | SECRET, message("Hi"))], [Sealed("secret"), Text("Hi", "1"), STOP]),
        ([added(thought() | SECRET), completed()], [STOP]),
        ([added(thought()), done(thought() | {"encrypted_content": ""}), completed()], [STOP]),
    ],
    ids=["shown", "mute", "whole", "only begun", "empty"],
)  # fmt: skip
def test_what_the_upstream_sealed_follows_its_thought(stream: list[bytes], deltas: list[Delta]) -> None:
    assert read([stream]) == deltas


@pytest.mark.parametrize(
    "stream",
    [
        [added(thought()), event("reasoning_text.delta", delta="why", item_id="r", output_index=0), ADDED, text("Hi"),
         completed(thought("why") | SECRET, message("Hi"))],
        [added(thought()), ADDED, text("Hi"), done(thought() | SECRET), completed(message("Hi"))],
        [ADDED, text("Hi"), added(thought()), done(thought() | SECRET), completed(message("Hi"))],
    ],
    ids=["after its answer", "after the answer to what was not shown", "amid another answer"],
)  # fmt: skip
def test_what_the_upstream_sealed_is_left_out_where_it_comes_too_late(stream: list[bytes]) -> None:
    assert not [delta for delta in read([stream]) if isinstance(delta, Sealed)]


def test_refusals_are_read() -> None:
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    whole = message() | {"content": [{"type": "refusal", "refusal": "No, thanks"}]}
    stream = [ADDED, event("refusal.delta", delta="No", **place), event("refusal.done", refusal="No,", **place)]
    assert read([[*stream, completed(whole)]]) == [Refusal("No"), Refusal(","), Refusal(" thanks"), STOP]


def test_a_phase_comes_before_the_text_of_its_message_and_only_with_one() -> None:
    stream = [
        added(message(phase="commentary")),
        done(message(phase="commentary")),
        added(message(item_id="n", phase="final_answer"), 1),
        text("Hi", item_id="n", output_index=1),
        added(message(item_id="o", phase="whatever"), 2),
        text("Ho", item_id="o", output_index=2),
        completed(),
    ]
    assert read([stream]) == [Phase("final_answer", "1"), Text("Hi", "1"), Text("Ho", "2"), STOP]


def test_annotations_are_told_once_and_lie_where_the_text_is() -> None:
    url = {"type": "url_citation", "url": "http://x", "title": "x", "start_index": 0, "end_index": 1}
    file = {"type": "file_citation", "file_id": "f", "filename": "f", "index": 1}
    parts = [
        {"type": "output_text", "text": "Hi", "annotations": [url, {"type": "odd"}]},
        {"type": "output_text", "text": "you", "annotations": [url, file]},
    ]
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    stream = [
        ADDED,
        text("Hi"),
        event("output_text.annotation.added", annotation=url, annotation_index=0, **place),
        event("content_part.done", part=parts[0], **place),
        text("you", content_index=1),
        done(message() | {"content": parts}),
        completed(message() | {"content": parts}),
    ]
    assert read([stream]) == [
        Text("Hi"),
        Annotate(UrlCitation(url="http://x", title="x", start_index=0, end_index=1)),
        Text("you"),
        Annotate(UrlCitation(url="http://x", title="x", start_index=2, end_index=3)),
        Annotate(FileCitation(file_id="f", filename="f", index=3)),
        STOP,
    ]


def test_an_annotation_of_a_text_that_is_over_is_left_out() -> None:
    url = {"type": "url_citation", "url": "http://x", "title": "x", "start_index": 0, "end_index": 1}
    part = {"type": "output_text", "text": "Hi", "annotations": [url]}
    deltas = read([[ADDED, text("Hi"), added(call(), 1), completed(message() | {"content": [part]}, call("{}"))]])
    assert deltas == [Text("Hi"), ToolCall("1", "", "get", "c"), ToolCall("1", "{}"), CALLS]
    assert said(relayed(deltas)) == [("message", "Hi", "0"), ("call", "get", "{}")]


TOKEN = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [{"token": "Ho", "logprob": -1}]}
LOGPROB = Logprob(token="Hi", logprob=-0.5, bytes=(72, 105), top_logprobs=(TopLogprob(token="Ho", logprob=-1.0),))


@pytest.mark.parametrize(
    "stream",
    [
        [text("Hi", logprobs=[TOKEN]), completed()],
        [event("output_text.done", item_id="m", output_index=0, text="Hi", logprobs=[TOKEN]), completed()],
        [completed(message() | {"content": [{"type": "output_text", "text": "Hi", "logprobs": [TOKEN]}]})],
    ],
    ids=["delta", "done", "final object"],
)
def test_logprobs_are_told_with_their_text(stream: list[bytes]) -> None:
    assert read([[ADDED, *stream]], wants_logprobs=True) == [Text("Hi", "0", (LOGPROB,)), STOP]


def test_logprobs_told_with_deltas_are_not_told_again() -> None:
    whole = {"type": "output_text", "text": "HiHi", "logprobs": [TOKEN, TOKEN]}
    stream = [ADDED, text("Hi", logprobs=[TOKEN]), completed(message() | {"content": [whole]})]
    assert read([stream]) == [Text("Hi", "0", (LOGPROB,)), Text("Hi", "0", (LOGPROB,)), STOP]


def test_a_text_without_the_logprobs_that_were_asked_for_is_an_error() -> None:
    with pytest.raises(UnsupportedParameter, match="gives no logprobs") as raised:
        read([[ADDED, text("Hi", logprobs=[])]], wants_logprobs=True)
    assert raised.value.param == "include"


# -- calls


def test_parallel_calls_are_told_apart() -> None:
    stream = [
        added(call(item_id="f", call_id="c")),
        added(call(item_id="g", call_id="d"), 1),
        arguments("{", item_id="f"),
        arguments("{", item_id="g", output_index=1),
        arguments("}", item_id="f"),
        arguments("}", item_id="g", output_index=1),
        completed(call("{}", "f"), call("{}", "g", call_id="d")),
    ]
    deltas = read([stream])
    assert [delta.name for delta in deltas if isinstance(delta, ToolCall) and delta.call_id] == ["get", "get"]
    assert said(relayed(deltas)) == [("call", "get", "{}")] * 2


def test_calls_are_recognised_in_another_order_under_other_ids() -> None:
    stream = [done(call('{"a":1}', "f", "one")), done(call('{"a":1}', "g", "two"), 1)]
    last = completed(call('{"a":1}', "x", "two"), call('{"a":1}', "y", "one"))
    assert [delta.name for delta in read([[*stream, last]]) if isinstance(delta, ToolCall)] == ["one", "two"]


def test_an_item_without_a_name_takes_events_that_have_one() -> None:
    stream = [
        added(message(item_id=None), None),
        text("Hi", output_index=None),
        done(message("Hi", item_id=None), None),
    ]
    assert read([[*stream, completed(message("Hi"))]]) == [Text("Hi"), STOP]


def test_an_index_that_is_not_the_items_names_another_one() -> None:
    stream = [added(message(item_id=None), 0), text("a", item_id=None), text("b", item_id=None, output_index=1)]
    assert read([[*stream, completed()]]) == [Text("a", "0"), Text("b", "1"), STOP]


@pytest.mark.parametrize(
    ("stream", "deltas"),
    [
        ([added(call()), completed(call('{"a":1}'))], [ToolCall("0", "", "get", "c"), ToolCall("0", '{"a":1}')]),
        ([added(call()), event("function_call_arguments.done", item_id="f", arguments='{"a":1}'), completed()],
         [ToolCall("0", "", "get", "c"), ToolCall("0", '{"a":1}')]),
        ([added(call()), event("function_call_arguments.done", item_id="f", arguments={"a": 1}), completed()],
         [ToolCall("0", "", "get", "c"), ToolCall("0", '{"a":1}')]),
        ([added(call('{"a":1}')), arguments('{"a":1}'), completed()],
         [ToolCall("0", "", "get", "c"), ToolCall("0", '{"a":1}')]),
        ([arguments('{"a"'), arguments(":1}"), done(call('{"a":1}')), completed()],
         [ToolCall("0", '{"a":1}', "get", "c")]),
        ([arguments('{"a":1}'), event("function_call_arguments.done", item_id="f", name="get", arguments='{"a":1}'),
          completed()], [ToolCall("0", '{"a":1}', "get")]),
        ([done(call('{"a":1}')), completed(call('{"a": 1}', item_id="other", call_id="other"))],
         [ToolCall("0", '{"a":1}', "get", "c")]),
        ([added(call(call_id=None)), arguments('{"a":1}'), completed()],
         [ToolCall("0", "", "get"), ToolCall("0", '{"a":1}')]),
        ([added(call()), completed()], [ToolCall("0", "", "get", "c"), ToolCall("0", "{}")]),
        ([added(call()), added(call()), arguments('{"a":1}'), completed()],
         [ToolCall("0", "", "get", "c"), ToolCall("0", '{"a":1}')]),
        ([added(call()), arguments('{"a"'), added(call()), arguments(":1}"), completed()],
         [ToolCall("0", "", "get", "c"), ToolCall("0", '{"a"'), ToolCall("0", ":1}")]),
    ],
    ids=["only in the end", "only when done", "as an object", "whole when added, and again", "no added",
         "named when done", "another document in the end", "no call_id", "no arguments", "added twice",
         "added again midway"],
)  # fmt: skip
def test_a_call_is_told_once_and_whole(stream: list[bytes], deltas: list[Delta]) -> None:
    assert read([stream]) == [*deltas, CALLS]


def test_a_call_that_is_never_named_is_a_failure() -> None:
    with pytest.raises(ModelError, match="without naming it"):
        read([[arguments("{}"), completed()]])


# -- what this server has no word for


def test_items_of_the_upstreams_own_tools_are_left_out_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    search = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search"}}
    stream = [added(search), event("web_search_call.searching", item_id="ws"), done(search),
              added(message(), 1), text("Hi", output_index=1), completed(search, message("Hi"))]  # fmt: skip
    left_out: set[str] = set()
    assert read([stream], left_out=left_out) == [Text("Hi"), STOP]
    assert read([stream], left_out=left_out) == [Text("Hi"), STOP]
    assert [record.getMessage() for record in caplog.records if "web_search_call" in record.getMessage()] == [
        "The model server's answer holds an item of type 'web_search_call', which is left out."
    ]


@pytest.mark.parametrize(
    "odd",
    [
        b'{"type":"keepalive","sequence_number":3}',
        event("steer.accepted"),
        event("shell_call_output_content.delta", delta={"stdout": "x"}),
        event("output_text.delta", delta=None, item_id="m"),
        event("content_part.added", part=7, item_id="m"),
        event("content_part.done", part=7, item_id="m"),
        event("content_part.done", part={"type": "audio"}, item_id="m"),
        event("output_item.added", item=None),
        event("output_item.done", item={"type": "message", "content": 5}),
        DONE,
    ],
)
def test_events_that_tell_nothing_change_nothing(odd: bytes) -> None:
    assert read([[odd, ADDED, odd, text("Hi"), odd, completed(message("Hi")), odd]]) == [Text("Hi"), STOP]


# -- the end


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (event("completed", response={"status": "completed"}), "stop"),
        (event("completed", response={"status": "odd"}), "stop"),
        (event("incomplete", response={"incomplete_details": {"reason": "max_output_tokens"}}), "length"),
        (event("incomplete", response={"incomplete_details": {"reason": "content_filter"}}), "content_filter"),
        (event("incomplete", response={"status": "incomplete", "incomplete_details": None}), "length"),
        (event("completed", response={"status": "incomplete"}), "length"),
    ],
)
def test_every_end_has_its_reason(last: bytes, reason: str) -> None:
    assert read([[ADDED, text("Hi"), last]]) == [Text("Hi"), Finish(reason)]  # type: ignore[arg-type]


def test_a_call_cut_at_the_limit_is_left_as_it_is() -> None:
    stream = [added(call()), event("incomplete", response={"status": "incomplete"})]
    assert read([stream]) == [ToolCall("0", "", "get", "c"), Finish("length")]


@pytest.mark.parametrize(
    ("told", "tier"), [("flex", "flex"), ("default", "default"), ("auto", None), (None, None), ("odd", None), (7, None)]
)
def test_the_tier_that_was_used_is_told(told: object, tier: str | None) -> None:
    assert read([[completed(service_tier=told)]]) == [Finish("stop", None, tier)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (None, None),
        ({"input_tokens": 3}, None),
        ({"input_tokens": "many"}, None),
        ({"input_tokens": 3, "output_tokens": 4}, Usage(input_tokens=3, output_tokens=4, total_tokens=7)),
        ({"input_tokens": 3, "output_tokens": 4, "total_tokens": 8, "input_tokens_details": {"cached_tokens": 2},
          "output_tokens_details": {"reasoning_tokens": 1}},
         Usage(input_tokens=3, output_tokens=4, total_tokens=8,
               input_tokens_details=InputTokensDetails(cached_tokens=2),
               output_tokens_details=OutputTokensDetails(reasoning_tokens=1))),
        ({"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "input_tokens_details": None,
          "output_tokens_details": {"reasoning_tokens": None}},
         Usage(input_tokens=3, output_tokens=4, total_tokens=7)),
    ],
)  # fmt: skip
def test_usage_is_told_as_far_as_it_is_known(told: object, usage: Usage | None) -> None:
    assert read([[completed(usage=told)]]) == [Finish("stop", usage)]


@pytest.mark.parametrize("last", [[], [DONE]], ids=["nothing", "done"])
def test_an_answer_without_its_terminal_event_is_a_failure(last: list[bytes]) -> None:
    reader = EventReader()
    assert reader.feed([ADDED, text("Hi"), *last]) == [Text("Hi")]
    assert not reader.is_finished
    with pytest.raises(ModelError, match="ended before it was finished"):
        reader.end()


# -- failures

FAILED = {"code": "server_error", "message": "it broke"}


@pytest.mark.parametrize(
    ("last", "kind", "text_of"),
    [
        (b'{"type":"error","code":"server_error","message":"it broke","param":null}', ModelError, "it broke"),
        (b'{"type":"error","error":{"type":"server_error","message":"it broke"}}', ModelError, "it broke"),
        (b'{"error":{"message":"it broke","code":500}}', ModelError, "it broke"),
        (b'{"error":"it broke"}', ModelError, "it broke"),
        (b'{"detail":"it broke"}', ModelError, "it broke"),
        (b'{"object":"error","message":"it broke"}', ModelError, "it broke"),
        (event("failed", response={"status": "failed", "error": FAILED}), ModelError, "it broke"),
        (event("failed", response={"error": "it broke"}), ModelError, "it broke"),
        (event("failed"), ModelError, "does not say why"),
        (event("failed", response={"error": {"code": "rate_limit_exceeded", "message": "slow"}}),
         ModelOverloaded, "slow"),
        (event("failed", response={"error": {"code": "context_length_exceeded", "message": "long"}}),
         ContextLengthExceeded, "long"),
        (event("failed", response={"error": {"code": "invalid_prompt", "message": "bad"}}), InvalidRequest, "bad"),
        (b'{"type":"error","code":"429","message":"slow"}', ModelOverloaded, "slow"),
        (b'{"type":"error","error":{"type":"invalid_request_error","message":"bad","param":"top_k"}}',
         InvalidRequest, "bad"),
        (event("cancelled", response={"status": "cancelled"}), ModelError, "cancelled"),
        (event("incomplete", response={"status": "cancelled"}), ModelError, "cancelled"),
        (b'{"object":"response","status":"queued","output":[]}', ModelError, "'queued'"),
        (b'{"object":"response","status":"failed","error":{"message":"it broke"}}', ModelError, "it broke"),
        (b'{"status":"ok"}', ModelError, "no event of a response"),
        (b"[1]", ModelError, "no event of a response"),
        (b"<html>", ModelError, "a web page"),
    ],
)  # fmt: skip
def test_a_failure_is_raised_after_what_came_before_it(last: bytes, kind: type[ApiError], text_of: str) -> None:
    reader = EventReader()
    assert reader.feed([ADDED, text("Hi"), last]) == [Text("Hi")]
    with pytest.raises(kind, match=text_of) as raised:
        reader.check()
    assert type(raised.value) is kind

    with pytest.raises(kind, match=text_of):
        EventReader().feed([last])


# -- anything at all

KINDS = st.sampled_from(
    ["output_item.added", "output_item.done", "output_text.delta", "output_text.done", "refusal.delta",
     "reasoning_text.delta", "reasoning_summary_text.delta", "function_call_arguments.delta",
     "function_call_arguments.done", "content_part.done", "output_text.annotation.added"]
)  # fmt: skip
WORDS = st.sampled_from(["", " ", "a", "ab", "abc"])
IDS = st.sampled_from([None, "x", "y"])
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["output_text", "refusal", "reasoning_text", "summary_text"])},
    optional={
        "text": WORDS,
        "refusal": WORDS,
        "annotations": st.just([{"type": "file_path", "file_id": "f", "index": 0}]),
    },
)
ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "reasoning", "function_call", "web_search_call"]), "name": st.just("get")},
    optional={"id": IDS, "content": st.lists(PARTS, max_size=2), "summary": st.lists(PARTS, max_size=2),
              "arguments": WORDS, "call_id": IDS, "phase": st.sampled_from([None, "commentary"])},
)  # fmt: skip
EVENTS = st.fixed_dictionaries(
    {"type": KINDS.map("response.{}".format)},
    optional={"item_id": IDS, "output_index": st.sampled_from([None, 0, 1]), "content_index": st.integers(0, 1),
              "summary_index": st.integers(0, 1), "delta": WORDS, "text": WORDS, "refusal": WORDS,
              "arguments": WORDS, "name": st.just("get"), "item": ITEMS, "part": PARTS,
              "annotation": st.just({"type": "file_path", "file_id": "f", "index": 0})},
)  # fmt: skip


@given(stream=st.lists(EVENTS, max_size=12), output=st.lists(ITEMS, max_size=3), demanded=st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_comes_in_goes_out_lawful(stream: list[Object], output: list[Object], demanded: bool) -> None:
    sent = [json.dumps(one).encode() for one in stream]
    with suppress(ModelError):
        deltas = read([sent, [completed(*output)]], is_call_demanded=demanded)
        relayed(deltas)
        assert isinstance(deltas[-1], Finish)  # else: a call without a name, which is refused
