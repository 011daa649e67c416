"""HTTP to a model server, on real sockets; its event streams and its faults, on bytes."""

import asyncio
import gc
import gzip
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import (
    ApiError,
    ContextLengthExceeded,
    InvalidRequest,
    ModelError,
    ModelOverloaded,
    SettingsError,
)
from antiphon.models.faults import read_fault, refusal
from antiphon.models.sse import EventSplitter
from antiphon.models.upstream import Upstream
from antiphon.net.h1 import Broken, Fault, NotHttp, Silent, Unreachable
from tests import recorded
from tests.conftest import WAIT_S
from tests.ports import free_port
from tests.rawserver import HEAD, RawServer, Wire, answers, breaks_off, chunked, hangs_up, stalls, streams

KEY = "sk-a-secret-of-ours"
ONE = b'data: {"n":1}\n\n'
DONE = b"data: [DONE]\n\n"
T = TypeVar("T")


class Waits:
    """Stands in for sleeping, and remembers what was asked for."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.asked_s.append(seconds)


@asynccontextmanager
async def upstream(url: str, **settings: Any) -> AsyncIterator[Upstream]:
    common: dict[str, Any] = {
        "connect_timeout_s": WAIT_S,
        "silence_timeout_s": WAIT_S,
        "attempts_max": 3,
        "line_bytes_max": 100_000,
        "sleep": Waits().sleep,
    }
    opened = Upstream(url, **common | settings)
    try:
        yield opened
    finally:
        await opened.close()


async def soon(what: Awaitable[T]) -> T:
    async with asyncio.timeout(WAIT_S):
        return await what


def events(opened: Upstream, body: bytes = b"{}") -> aclosing[AsyncGenerator[list[bytes], None]]:
    return aclosing(opened.post_events("/chat/completions", body))


async def post(opened: Upstream, body: bytes = b"{}") -> list[bytes]:
    """All payloads of an answer."""
    async with asyncio.timeout(WAIT_S), events(opened, body) as reads:
        return [payload async for payloads in reads for payload in payloads]


# -- event streams


def split(*reads: bytes, bytes_max: int = 100_000) -> list[bytes]:
    splitter = EventSplitter(bytes_max)
    return [payload for read in reads for payload in splitter.feed(read)] + splitter.end()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_every_line_end_of_the_standard_ends_a_line(end: bytes) -> None:
    stream = end.join([b"data: one", b"", b": a comment", b"", b"event: x", b"data:two", b"data: three", b"", b""])
    assert split(stream) == [b"one", b"two\nthree"]
    assert split(*(stream[at : at + 1] for at in range(len(stream)))) == [b"one", b"two\nthree"]


@pytest.mark.parametrize(
    ("stream", "payloads"),
    [
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"id: 1\nretry: 3\ndata\n\ndata: \n\ndata: a\n\n", [b"a"]),
        (b'error: {"code":500}\n\n', [b'{"error":{"code":500}}']),
        (b"data: [DONE]", [b"[DONE]"]),
        (b'data: {"a":1}\n', [b'{"a":1}']),
        (b'data: {"a":1', []),
    ],
    ids=["many lines", "blank lines", "BOM", "no data", "llama.cpp's error field", "end", "whole end", "cut end"],
)
def test_events_of_every_form_are_read(stream: bytes, payloads: list[bytes]) -> None:
    assert split(stream) == payloads


@given(
    st.lists(
        st.sampled_from([b"data: {}", b"data: xy", b"data:", b": ping", b"event: a", b"\n", b"\r\n", b"\r", b"\n\n"]),
        max_size=40,
    ),
    st.lists(st.integers(1, 12), max_size=60),
)
def test_any_split_of_the_bytes_gives_the_same_payloads(lines: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(lines)
    reads, at = [], 0
    for size in [*sizes, len(stream) + 1]:
        reads.append(stream[at : at + size])
        at += size
    assert split(*filter(None, reads)) == split(stream)


@pytest.mark.parametrize("name", recorded.streams("upstream-chat"))
def test_a_recorded_stream_read_byte_by_byte_gives_its_lines(name: str) -> None:
    stream = recorded.sse(name)
    expected = [line[6:] for line in stream.split(b"\n") if line.startswith(b"data: ")]
    assert split(stream) == expected
    assert split(*(stream[at : at + 1] for at in range(len(stream)))) == expected


def test_a_line_without_end_is_refused_at_the_limit() -> None:
    splitter = EventSplitter(1000)
    with pytest.raises(ModelError, match="more than 1000 bytes"):
        [splitter.feed(b"data: " + b"x" * 300) for _ in range(4)]


# -- faults

OVERFLOWS = {
    "OpenAI": {
        "error": {
            "message": "This model's maximum context length is 16385 tokens. However, your messages resulted in 23273.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
    "vLLM": {
        "object": "error",
        "message": "This model's maximum context length is 6048 tokens. However, you requested 6616 tokens.",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    },
    "vLLM, later": {
        "error": {
            "message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
            "type": "BadRequestError",
            "code": 400,
        }
    },
    "vLLM, earlier": {"object": "error", "message": "max_tokens must be at least 1, got -186.", "code": 400},
    "llama.cpp": {
        "error": {
            "code": 400,
            "message": "request (5042 tokens) exceeds the available context size (4096 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 5042,
            "n_ctx": 4096,
        }
    },
    "SGLang": {
        "object": "error",
        "message": "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "code": 400,
    },
    "TGI": {"error": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000", "code": 422},
    "LM Studio": {"error": "The number of tokens to keep is greater than the context length."},
    "Anthropic": {"error": {"type": "invalid_request_error", "message": "prompt is too long: 213462 tokens > 200000"}},
    "Gemini": [{"error": {"code": 400, "message": "The input token count (11) exceeds the maximum number (10)."}}],
    "Groq": {"error": {"message": "Please reduce the length of the messages or completion."}},
}


@pytest.mark.parametrize("vendor", OVERFLOWS)
def test_an_overflowing_context_is_told_as_such(vendor: str) -> None:
    error = refusal(read_fault(400, msgspec.json.encode(OVERFLOWS[vendor])))
    assert isinstance(error, ContextLengthExceeded)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "input")


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (400, {"error": {"message": "No user query found."}}, InvalidRequest, "No user query found."),
        (422, {"detail": [{"loc": ["body", "stop"], "msg": "too many"}]}, InvalidRequest, "body.stop: too many"),
        (400, {"detail": "bad"}, InvalidRequest, "bad"),
        (400, {"message": "bad", "type": "t", "code": "wrong_api_format"}, InvalidRequest, "bad"),
        (413, b"<html>", InvalidRequest, "takes no request of this size (HTTP 413): a web page"),
        (413, {"error": {"message": "TPM", "code": "rate_limit_exceeded"}}, ModelOverloaded, "(HTTP 413): TPM"),
        (429, {"error": {"message": "slow down"}}, ModelOverloaded, "(HTTP 429): slow down"),
        (529, {"error": {"type": "overloaded_error"}}, ModelOverloaded, "overloaded"),
        (401, {"error": {"message": "Incorrect key"}}, ModelError, "refused the key"),
        (403, {}, ModelError, "refused the key"),
        (500, {"message": 5, "detail": None}, ModelError, '{"message":5'),
        (400, [], InvalidRequest, "[]"),
        (404, {"error": {"message": "model 'x' not found"}}, ModelError, "does not know the model"),
        (404, {"detail": "Not Found"}, ModelError, "does its url end with its /v1"),
        (500, {"error": "boom"}, ModelError, "failed (HTTP 500): boom"),
        (500, b"", ModelError, "failed (HTTP 500): no message"),
        (501, {"error": {"message": "only auto"}}, ModelError, "(HTTP 501): only auto"),
        (503, b"<!doctype html><title>Bad gateway", ModelError, "(HTTP 503): a web page"),
        (200, {"error": {"message": "late", "code": 429}}, ModelOverloaded, "(HTTP 429): late"),
        (200, {"error": {"message": "late", "code": 7}}, ModelError, "(HTTP 500): late"),
    ],
)
def test_every_form_of_error_keeps_its_message(status: int, body: object, kind: type[ApiError], text: str) -> None:
    error = refusal(read_fault(status, body if isinstance(body, bytes) else msgspec.json.encode(body)))
    assert type(error) is kind
    assert text in error.message


@pytest.mark.parametrize(
    ("param", "ours"),
    [
        ("messages[3].content", "input"),
        ("max_tokens", "max_output_tokens"),
        ("reasoning_effort", "reasoning.effort"),
        ("tools.0.function", "tools"),
        ("response_format.type", "text.format"),
        ("logprobs", "include"),
        ("top_logprobs", "top_logprobs"),
        ("logit_bias", "logit_bias"),
        ("service_tier", "service_tier"),
        ("input[1].content", "input"),
        ("text.format.schema", "text.format.schema"),
        ("reasoning.effort", "reasoning.effort"),
        ("validation_error", None),
        (None, None),
    ],
)
def test_a_refused_parameter_is_named_as_our_client_knows_it(param: str | None, ours: str | None) -> None:
    body = {"error": {"message": "bad", "param": param, "code": "invalid_value"}}
    error = refusal(read_fault(400, msgspec.json.encode(body)))
    assert (error.param, error.code) == (ours, "invalid_value")


@pytest.mark.parametrize(
    ("message", "ours"),
    [
        ("This response_format type is unavailable now", "text.format"),
        ("property 'min_p' is unsupported", "min_p"),
        ("Unrecognized request argument supplied: top_k", "top_k"),
        ("[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted'}]", "seed"),
        ("body.stop: too many", "stop"),
        ("`logprobs` is not supported with this model", "include"),
        ("Multiple 'image_url' parts are not supported", "input"),
        ("'messages[0].content' is too long", "input"),
        ("The user of this model must stop using tools", None),
    ],
)
def test_a_parameter_that_is_refused_in_words_is_named_as_our_client_knows_it(message: str, ours: str | None) -> None:
    body = {"error": {"message": message, "param": None}}
    error = refusal(read_fault(400, msgspec.json.encode(body)))
    assert (error.message, error.param) == (message, ours)


def test_what_a_server_cannot_do_is_refused_by_the_name_of_what_asked_for_it() -> None:
    name = "upstream-responses/gptoss20b-responses-function-required-501"
    error = refusal(read_fault(recorded.status(name), msgspec.json.encode(recorded.response_body(name))))
    assert (type(error), error.param) == (InvalidRequest, "tool_choice")
    assert error.message == "Only 'auto' tool_choice is supported in response API with Harmony"


def test_a_recorded_refusal_of_a_model_is_read() -> None:
    name = "upstream-chat/model-not-found-stream"
    error = refusal(read_fault(recorded.status(name), msgspec.json.encode(recorded.response_body(name))))
    assert type(error) is ModelError
    assert "does not know the model (HTTP 404): The model `MiniMaxAI/MiniMax-M2.1` does not exist." in error.message


# -- answers


async def test_a_stream_is_given_as_it_is_read() -> None:
    async with RawServer(streams(ONE + ONE, DONE)) as server, upstream(server.url, key=KEY) as opened:
        assert await post(opened, b'{"a":1}') == [b'{"n":1}', b'{"n":1}', b"[DONE]"]
    [asked] = server.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/v1/chat/completions", b'{"a":1}')
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/json"


async def test_payloads_come_one_list_per_read() -> None:
    more = asyncio.Event()

    async def in_two_reads(wire: Wire) -> None:
        await wire.send(HEAD + chunked(ONE + ONE))
        await more.wait()
        await wire.send(chunked(DONE) + b"0\r\n\r\n")

    async with RawServer(in_two_reads) as server, upstream(server.url) as opened, events(opened) as reads:
        assert await soon(anext(reads)) == [b'{"n":1}', b'{"n":1}']
        more.set()
        assert await soon(anext(reads)) == [b"[DONE]"]


@pytest.mark.parametrize("parts", [1, 3], ids=["with the end", "before the end"])
async def test_a_connection_is_used_again_after_done(parts: int) -> None:
    pieces = [ONE + DONE] if parts == 1 else [ONE, DONE, b": bye\n\n"]
    async with RawServer(streams(*pieces)) as server, upstream(server.url) as opened:
        await post(opened)
        await post(opened)
    assert (len(server.asked), server.connections) == (2, 1)


async def test_a_connection_closed_as_it_is_used_again_costs_no_try_and_no_wait() -> None:
    waits = Waits()
    async with (
        RawServer(streams(DONE), hangs_up, streams(ONE, DONE)) as server,
        upstream(server.url, attempts_max=1, sleep=waits.sleep) as opened,
    ):
        await post(opened)
        assert await post(opened) == [b'{"n":1}', b"[DONE]"]
    assert (len(server.asked), server.connections, waits.asked_s) == (3, 2, [])


async def test_a_connection_is_not_used_again_where_that_is_not_wanted() -> None:
    async with RawServer(streams(ONE, DONE)) as server, upstream(server.url, reuse_connections=False) as opened:
        await post(opened)
        await post(opened)
    assert server.connections == 2


async def test_more_streams_than_a_client_commonly_allows_are_open_at_once() -> None:
    gone = asyncio.Event()
    async with RawServer(stalls(ONE, gone=gone)) as server, upstream(server.url) as opened, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(events(opened)) for _ in range(120)]
        assert await soon(asyncio.gather(*map(anext, streams))) == [[b'{"n":1}']] * 120
        assert server.connections == 120


async def test_nothing_is_left_of_an_answer() -> None:
    async with RawServer(streams(ONE, DONE)) as server, upstream(server.url) as opened:
        await post(opened)
        gc.collect()
        assert [one for one in gc.get_objects() if type(one).__name__ == "_Answer"] == []


async def test_cookies_are_not_kept() -> None:
    script = answers(b"{}", headers=["Set-Cookie: who=me"])
    async with RawServer(script) as server, upstream(server.url.replace("127.0.0.1", "localhost")) as opened:
        await opened.get("/models")
        await opened.get("/models")
    assert ["cookie" in asked.headers for asked in server.asked] == [False, False]


async def test_what_comes_after_done_is_not_waited_for() -> None:
    gone = asyncio.Event()
    async with RawServer(stalls(ONE, DONE, gone=gone)) as server, upstream(server.url) as opened:
        assert await post(opened) == [b'{"n":1}', b"[DONE]"]
        await soon(gone.wait())


async def test_a_lost_connection_after_done_is_no_failure() -> None:
    was_read = asyncio.Event()

    async def done_then_lost(wire: Wire) -> None:
        await wire.send(HEAD + chunked(ONE + DONE))
        await was_read.wait()

    async with RawServer(done_then_lost) as server, upstream(server.url) as opened, events(opened) as reads:
        assert await soon(anext(reads)) == [b'{"n":1}', b"[DONE]"]
        was_read.set()
        assert await soon(anext(reads, None)) is None


async def test_plain_json_is_one_payload_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    body = msgspec.json.encode(recorded.response_body("upstream-chat/text-single"))
    async with RawServer(answers(b"\n " + body)) as server, upstream(server.url) as opened:
        with caplog.at_level(logging.WARNING):
            assert await post(opened) == [body]
    assert "does not stream" in caplog.text


async def test_blank_lines_before_the_answer_are_skipped() -> None:
    async with RawServer(streams(b"\r\n", b"  \n", b"\n" + ONE, DONE)) as server, upstream(server.url) as opened:
        assert await post(opened) == [b'{"n":1}', b"[DONE]"]


async def test_a_server_that_was_never_asked_is_closed() -> None:
    async with upstream("http://127.0.0.1/v1") as opened:
        assert opened.url == "http://127.0.0.1/v1"


async def test_a_compressed_answer_is_read() -> None:
    script = answers(gzip.compress(ONE + DONE), kind="text/event-stream", headers=["Content-Encoding: gzip"])
    async with RawServer(script) as server, upstream(server.url) as opened:
        assert await post(opened) == [b'{"n":1}', b"[DONE]"]


async def test_a_large_body_goes_out_whole() -> None:
    body = b"x" * 3_000_000
    async with RawServer(streams(DONE)) as server, upstream(server.url) as opened:
        await post(opened, body)
    assert server.asked[0].body == body


async def test_get_gives_the_body() -> None:
    async with RawServer(answers(b"[]")) as server, upstream(server.url + "/?version=2") as opened:
        assert await opened.get("/models") == b"[]"
    assert server.asked[0].path == "/v1/models?version=2"


async def test_a_body_over_the_limit_is_refused() -> None:
    async with RawServer(answers(b"[" + b" " * 200)) as server, upstream(server.url, line_bytes_max=100) as opened:
        with pytest.raises(ModelError, match="more than 100 bytes"):
            await opened.get("/models")
        with pytest.raises(ModelError, match="more than 100 bytes"):
            await post(opened)


# -- what goes wrong


async def test_a_server_that_is_down_is_said_to_be_after_all_tries() -> None:
    waits = Waits()
    async with upstream(f"http://127.0.0.1:{free_port()}/v1", attempts_max=3, sleep=waits.sleep) as opened:
        with pytest.raises(ModelError, match=r"cannot be reached at http://127\.0\.0\.1:\d+/v1: .*refused"):
            await post(opened)
    first, second = waits.asked_s
    assert 0.1 < first < 0.3 < second < 0.6


async def test_a_silent_server_is_said_to_be() -> None:
    gone = asyncio.Event()
    script = stalls(ONE, gone=gone)
    async with RawServer(script) as server, upstream(server.url, silence_timeout_s=0.05) as opened:
        with pytest.raises(ModelError, match=r"said nothing for 0\.05 s"):
            await post(opened)
        await soon(gone.wait())
    assert len(server.asked) == 1


async def test_a_server_that_never_answers_is_said_to_be_silent() -> None:
    async def wait(wire: Wire) -> None:
        await wire.wait_gone()

    async with RawServer(wait) as server, upstream(server.url, silence_timeout_s=0.05) as opened:
        with pytest.raises(ModelError, match=r"said nothing for 0\.05 s"):
            await soon(opened.get("/models"))
        with pytest.raises(ModelError, match=r"said nothing for 0\.05 s"):
            await post(opened)
    assert len(server.asked) == 2


async def test_a_body_that_stalls_is_said_to_be_silent() -> None:
    gone = asyncio.Event()
    script = stalls(b'{"data":', gone=gone)
    async with RawServer(script) as server, upstream(server.url, silence_timeout_s=0.05) as opened:
        for ask in (opened.get("/models"), post(opened)):
            with pytest.raises(ModelError, match=r"said nothing for 0\.05 s"):
                await soon(ask)


async def test_a_slow_reader_is_not_taken_for_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    has_rested = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.send(HEAD + chunked(ONE))
        await has_rested.wait()
        await wire.send(chunked(DONE))

    async with RawServer(script) as server, upstream(server.url) as opened, events(opened) as reads:
        await soon(anext(reads))
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: time.monotonic() + 2 * WAIT_S)
        for _ in range(3):
            await asyncio.sleep(0)  # all is done whose time has come
        has_rested.set()
        assert await soon(anext(reads)) == [b"[DONE]"]


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (answers(b"<html>hello", kind="text/html"), "a web page"),
        (answers(b"Hello!"), "something that is no model's answer: Hello!"),
        (answers(b'{"a":'), "something that is no model's answer"),
    ],
    ids=["HTML", "text", "half an object"],
)
async def test_nonsense_is_said_to_be_and_not_asked_for_again(script: Any, text: str) -> None:
    async with RawServer(script) as server, upstream(server.url) as opened:
        with pytest.raises(ModelError, match=text):
            await post(opened)
    assert len(server.asked) == 1


async def test_a_server_that_speaks_no_http_is_said_to_do_so() -> None:
    async def greet(wire: Wire) -> None:
        await wire.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    async with RawServer(greet) as server, upstream(server.url) as opened:
        with pytest.raises(ModelError, match="does not speak HTTP"):
            await post(opened)


async def test_a_stream_that_is_cut_off_is_said_to_be_and_not_begun_again() -> None:
    async with RawServer(breaks_off(ONE)) as server, upstream(server.url) as opened:
        with pytest.raises(ModelError, match="closed the connection before its answer was finished"):
            await post(opened)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "script", [hangs_up, breaks_off(), breaks_off(b": working\n\n")], ids=["no answer", "no event", "a comment"]
)
async def test_a_connection_lost_before_the_first_payload_is_tried_again(script: Any) -> None:
    async with RawServer(script, script, streams(ONE, DONE)) as server, upstream(server.url) as opened:
        assert await post(opened) == [b'{"n":1}', b"[DONE]"]
    assert len(server.asked) == 3


async def test_an_empty_answer_has_no_payloads() -> None:
    async with RawServer(answers(b"", kind="text/event-stream")) as server, upstream(server.url) as opened:
        assert await post(opened) == []


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_passing_failure_is_tried_again(status: int) -> None:
    async with RawServer(answers(b"{}", status=status), streams(ONE, DONE)) as server, upstream(server.url) as opened:
        assert await post(opened) == [b'{"n":1}', b"[DONE]"]
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 500])
async def test_another_failure_is_not_tried_again(status: int) -> None:
    async with RawServer(answers(b"{}", status=status)) as server, upstream(server.url) as opened:
        with pytest.raises(ApiError):
            await post(opened)
    assert len(server.asked) == 1


async def test_the_last_try_tells_the_failure() -> None:
    busy = answers(b'{"error":{"message":"Loading model"}}', status=503)
    async with RawServer(busy) as server, upstream(server.url, attempts_max=2) as opened:
        with pytest.raises(ModelError, match="Loading model"):
            await post(opened)
    assert len(server.asked) == 2


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("asked", "least_s", "most_s"),
    [("3", 3, 3), ("soon", 0.1, 0.3), (6.0, 0.1, 6), (-60.0, 0.1, 0.3), ("", 0.1, 0.3)],
)
async def test_a_server_that_names_a_wait_is_given_it(asked: str | float, least_s: float, most_s: float) -> None:
    """As text, or as the date so many seconds from now."""
    asked = in_seconds(asked) if isinstance(asked, float) else asked
    waits = Waits()
    full = answers(b"{}", status=429, headers=[f"Retry-After: {asked}"])
    async with RawServer(full, streams(ONE, DONE)) as server, upstream(server.url, sleep=waits.sleep) as opened:
        await post(opened)
    [waited_s] = waits.asked_s
    assert least_s <= waited_s <= most_s


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"{}", ["Retry-After: 3600"]), (b'{"error":{"code":"insufficient_quota"}}', [])],
    ids=["longer than we wait", "for no time that helps"],
)
async def test_a_server_that_will_stay_overloaded_is_not_asked_again(body: bytes, headers: list[str]) -> None:
    full = answers(body, status=429, headers=headers)
    async with RawServer(full) as server, upstream(server.url) as opened:
        with pytest.raises(ModelOverloaded):
            await post(opened)
    assert len(server.asked) == 1


async def test_a_redirect_is_not_followed() -> None:
    async with RawServer(streams(DONE)) as other:
        moved = answers(b"", status=307, headers=[f"Location: {other.url}"])
        async with RawServer(moved) as server, upstream(server.url, key=KEY) as opened:
            with pytest.raises(ModelError, match=r"redirects elsewhere \(HTTP 307\)"):
                await post(opened)
    assert other.asked == []


async def test_an_error_whose_body_breaks_off_still_has_its_status() -> None:
    async def cut(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\n{")

    async with RawServer(cut) as server, upstream(server.url) as opened:
        with pytest.raises(ModelError, match=r"failed \(HTTP 500\): no message"):
            await post(opened)


async def test_an_error_page_without_end_is_not_read_to_it() -> None:
    async with RawServer(answers(b"x" * 1_000_000, status=500)) as server, upstream(server.url) as opened:
        with pytest.raises(ModelError, match="HTTP 500"):
            await post(opened)


# -- leaving


async def test_closing_the_stream_closes_the_connection() -> None:
    gone = asyncio.Event()
    async with RawServer(stalls(ONE, gone=gone)) as server, upstream(server.url) as opened:
        async with events(opened) as reads:
            await soon(anext(reads))
        await soon(gone.wait())


@pytest.mark.parametrize("pieces", [(), (ONE,)], ids=["before the first payload", "within the stream"])
async def test_cancelling_the_reader_closes_the_connection(pieces: tuple[bytes, ...]) -> None:
    gone, asked = asyncio.Event(), asyncio.Event()
    stalled = stalls(*pieces, gone=gone)

    async def script(wire: Wire) -> None:
        asked.set()
        await stalled(wire)

    async with RawServer(script) as server, upstream(server.url) as opened:
        task = asyncio.create_task(post(opened))
        await soon(asked.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await soon(gone.wait())


# -- addresses and keys


@pytest.mark.parametrize("url", ["127.0.0.1:80/v1", "ftp://x/v1", "http://", "http://[::1/v1", "http://x:99999/v1", ""])
def test_an_address_that_is_none_is_a_fault_of_the_settings(url: str) -> None:
    with pytest.raises(SettingsError, match="no address of a model server"):
        Upstream(url, connect_timeout_s=1, silence_timeout_s=1, attempts_max=1, line_bytes_max=1)


@pytest.mark.parametrize(("url", "key"), [("http://x/v1", "a\nb"), ("http://me:secret@x/v1", KEY)])
def test_a_key_that_cannot_be_sent_is_a_fault_of_the_settings(url: str, key: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Upstream(url, key=key, connect_timeout_s=1, silence_timeout_s=1, attempts_max=1, line_bytes_max=1)
    assert key not in refused.value.message
    assert "secret" not in refused.value.message


async def test_credentials_in_the_address_are_sent_and_not_shown() -> None:
    async with RawServer(streams(DONE)) as server, upstream(server.url.replace("//", "//me:secret@")) as opened:
        await post(opened)
        assert opened.url == server.url
    assert server.asked[0].headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("status", [200, 400, 401, 503])
async def test_the_key_is_in_no_message(status: int) -> None:
    body = f"Incorrect API key: {KEY}".encode()
    async with RawServer(answers(body, status=status)) as server, upstream(server.url, key=KEY) as opened:
        with pytest.raises(ApiError) as refused:
            await post(opened)
    assert KEY not in refused.value.message
    assert "***" in refused.value.message


async def test_a_placeholder_for_a_key_does_not_garble_messages() -> None:
    async with RawServer(answers(b"exact", status=500)) as server, upstream(server.url, key="x") as opened:
        with pytest.raises(ModelError, match="exact"):
            await post(opened)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Unreachable("no connection within 3 s", may_pass=False), "cannot be reached at http://x/v1: no connection"),
        (Broken(), "closed the connection"),
        (NotHttp(), "does not speak HTTP"),
        (Silent(), "said nothing for 1 s"),
    ],
)
def test_a_fault_of_the_connection_is_told_in_words(error: Fault, text: str) -> None:
    opened = Upstream("http://x/v1", connect_timeout_s=3, silence_timeout_s=1, attempts_max=1, line_bytes_max=1)
    assert text in str(opened.broken(error))


async def test_a_name_that_does_not_resolve_is_said_to_be_unreachable() -> None:
    waits = Waits()
    async with upstream("http://no-such-host.invalid/v1", sleep=waits.sleep) as opened:
        with pytest.raises(ModelError, match=r"cannot be reached at http://no-such-host\.invalid/v1"):
            await post(opened)
    assert waits.asked_s == []


async def test_tls_to_a_server_without_it_is_said_to_be_unreachable() -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    plain = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = plain.sockets[0].getsockname()[1]
    async with plain, upstream(f"https://127.0.0.1:{port}/v1") as opened:
        with pytest.raises(ModelError, match="cannot be reached"):
            await post(opened)
