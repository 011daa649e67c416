"""Logprobs of a chat-completions stream: which texts they belong to, and what becomes of those that are not there."""

from typing import Any, TypeAlias

import msgspec
import pytest

from antiphon.core.deltas import Delta, Finish, Refusal, Text, Thought, ToolCall
from antiphon.errors import InvalidRequest, ModelError
from antiphon.models.chunks import ChunkReader
from antiphon.models.logprobs import WAITING_TOKENS_MAX, LogprobReader, chunk_reader
from antiphon.models.sse import DONE
from antiphon.wire.items import Logprob, TopLogprob

Object: TypeAlias = dict[str, Any]


def score(token: str, logprob: float = -0.5, **more: Any) -> Object:
    return {"token": token, "logprob": logprob, **more}


def chunk(delta: Object, *scores: Object, finish: str | None = None, said: str = "delta") -> bytes:
    logprobs = {"content": list(scores), "refusal": None} if scores else None
    return msgspec.json.encode({"choices": [{said: delta, "logprobs": logprobs, "finish_reason": finish}]})


def read(*payloads: bytes, top: int = 0) -> list[Delta]:
    reader = LogprobReader(top)
    return reader.feed([*payloads]) + reader.end()


def given(deltas: list[Delta]) -> list[tuple[str, list[str]]]:
    """Each text with the tokens whose logprobs it has."""
    return [(delta.text, [one.token for one in delta.logprobs]) for delta in deltas if isinstance(delta, Text)]


STOP = chunk({}, finish="stop")


def test_each_text_has_the_logprobs_of_its_tokens() -> None:
    one = score("Hel", -0.25, bytes=[72, 101, 108], top_logprobs=[score("Hel", -0.25, bytes=[72, 101, 108])])
    deltas = read(chunk({"content": "Hel"}, one), chunk({"content": "lo!"}, score("lo"), score("!")), STOP, top=1)
    hel = (72, 101, 108)
    assert deltas[0] == Text(
        "Hel",
        logprobs=(
            Logprob(
                token="Hel", bytes=hel, logprob=-0.25, top_logprobs=(TopLogprob(token="Hel", bytes=hel, logprob=-0.25),)
            ),
        ),
    )
    assert given(deltas) == [("Hel", ["Hel"]), ("lo!", ["lo", "!"])]
    assert deltas[-1] == Finish("stop")


@pytest.mark.parametrize("more", [{}, {"bytes": None}], ids=["absent", "null"])
def test_bytes_that_a_server_leaves_out_are_those_of_the_token(more: Object) -> None:
    [text, _] = read(chunk({"content": "é"}, score("é", top_logprobs=[score("é", **more)], **more)), STOP, top=1)
    assert isinstance(text, Text)
    [one] = text.logprobs
    assert (one.bytes, one.top_logprobs[0].bytes) == ((0xC3, 0xA9), (0xC3, 0xA9))


@pytest.mark.parametrize("top", [0, 1, 2, 3])
def test_there_are_no_more_alternatives_than_were_asked_for(top: int) -> None:
    both = score("a", top_logprobs=[score("a"), score("b")])
    [text, _] = read(chunk({"content": "a"}, both), STOP, top=top)
    assert isinstance(text, Text)
    assert [one.token for one in text.logprobs[0].top_logprobs] == ["a", "b"][:top]


def test_tokens_that_show_later_are_given_to_the_text_that_shows_them() -> None:
    half, rest = score("\\xc3", bytes=[0xC3]), score("\\xa9", bytes=[0xA9])
    deltas = read(
        chunk({"content": ""}, half), chunk({"content": "é"}, rest), chunk({"content": "!"}, score("!")), STOP
    )
    assert given(deltas) == [("é", ["\\xc3", "\\xa9"]), ("!", ["!"])]


def test_the_token_that_ends_an_answer_has_no_text() -> None:
    deltas = read(chunk({"content": "a"}, score("a")), chunk({"content": ""}, score("<|end|>"), finish="stop"), DONE)
    assert given(deltas) == [("a", ["a"])]


@pytest.mark.parametrize(
    ("delta", "kind"),
    [
        ({"reasoning_content": "hm"}, Thought),
        ({"refusal": "no"}, Refusal),
        ({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]}, ToolCall),
    ],
)
def test_what_is_no_text_has_none_and_leaves_none_behind(delta: Object, kind: type[Delta]) -> None:
    deltas = read(chunk({}, score("<x>")), chunk(delta, score("y")), chunk({"content": "a"}, score("a")), STOP)
    assert isinstance(deltas[0], kind)
    assert given(deltas) == [("a", ["a"])]


def test_of_content_in_parts_the_last_text_has_them() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert given(read(chunk({"content": parts}, score("a"), score("b")), STOP)) == [("a", []), ("b", ["a", "b"])]


def test_an_answer_that_was_not_streamed_has_them_too() -> None:
    assert given(read(chunk({"content": "ab"}, score("a"), score("b"), said="message"))) == [("ab", ["a", "b"])]


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}])
def test_a_first_text_without_logprobs_shows_that_the_server_has_none(logprobs: object) -> None:
    payload = msgspec.json.encode({"choices": [{"delta": {"content": "a"}, "logprobs": logprobs}]})
    with pytest.raises(InvalidRequest, match=r"leave 'message\.output_text\.logprobs' out") as refused:
        LogprobReader(0).feed([payload])
    assert (refused.value.status, refused.value.param) == (400, "include")


def test_a_later_text_without_logprobs_is_just_that() -> None:
    assert given(read(chunk({"content": "a"}, score("a")), chunk({"content": "b"}), STOP)) == [("a", ["a"]), ("b", [])]


def test_an_answer_without_text_needs_none() -> None:
    call = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]}
    assert read(chunk(call), STOP) == [ToolCall("0", "{}", name="f", call_id="a"), Finish("tool_calls")]


def test_a_vendor_that_broke_off_is_a_failure_after_what_it_said() -> None:
    reader = LogprobReader(0)
    assert given(reader.feed([chunk({"content": "a"}, score("a"), finish="error")])) == [("a", ["a"])]
    with pytest.raises(ModelError, match="finish_reason 'error'"):
        reader.check()


@pytest.mark.parametrize("logprobs", [5, [1], {"content": 5}, {"content": [{"token": "a"}]}])
def test_another_form_of_logprobs_is_a_failure_only_where_they_were_asked_for(logprobs: object) -> None:
    payload = msgspec.json.encode({"choices": [{"delta": {"content": "a"}, "logprobs": logprobs}]})
    assert ChunkReader().feed([payload]) == [Text("a")]
    with pytest.raises(ModelError, match="logprobs in a form that is not known"):
        LogprobReader(0).feed([payload])


def test_tokens_that_never_show_are_not_gathered_without_end() -> None:
    silent = [chunk({"content": ""}, score(str(number))) for number in range(2 * WAITING_TOKENS_MAX)]
    [(text, tokens)] = given(read(*silent, chunk({"content": "a"}, score("a")), STOP))
    assert (text, len(tokens), tokens[-1]) == ("a", WAITING_TOKENS_MAX, "a")


def test_only_a_prompt_that_asks_for_logprobs_pays_for_them() -> None:
    assert type(chunk_reader(None)) is ChunkReader
    assert type(chunk_reader(0)) is LogprobReader
