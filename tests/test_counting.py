"""How many tokens a request is: exact where somebody can tell, estimated else, and the answer says which."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from antiphon.config import ChatUpstream, ResponsesUpstream, Settings, Storage
from antiphon.core import usage
from antiphon.core.prompt import Prompt
from antiphon.wire.items import InputImage, InputText, Message
from tests.chatserver import sdk
from tests.conftest import serve
from tests.rawserver import RawServer, Script, Wire, answers

TOOL: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {}}}, "strict": None}


class Paths(RawServer):
    """Answers by path; elsewhere with 404."""

    def __init__(self, by_path: Mapping[str, Script], card: Mapping[str, object]) -> None:
        super().__init__(self._answer)
        self._by_path = dict(by_path) | {"/v1/models": says({"data": [{"id": "m", **card}]})}

    async def _answer(self, wire: Wire) -> None:
        await self._by_path.get(wire.asked.path, answers(b'{"detail":"Not Found"}', status=404))(wire)

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked if asked.method == "POST"]


def says(value: object) -> Script:
    return answers(json.dumps(value).encode())


@asynccontextmanager
async def before(upstream: Paths, kind: type[ChatUpstream | ResponsesUpstream] = ChatUpstream) -> AsyncIterator[Any]:
    async with upstream:
        settings = Settings(models=(kind(url=upstream.url),), storage=Storage(database=":memory:"))
        async with serve(settings) as url, sdk(url) as client:
            yield client


async def counted(client: openai.AsyncOpenAI, **fields: Any) -> tuple[int, str]:
    answer = await client.responses.input_tokens.count(**{"model": "m", "input": "say hello", **fields})
    assert answer.object == "response.input_tokens"
    assert answer.model_extra is not None
    return answer.input_tokens, answer.model_extra["antiphon:count"]


async def test_the_scripted_model_counts_words(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="scripted", input="say one two three")

    count = await counted(client, model="scripted", input="and a fourth", previous_response_id=first.id)

    assert count == (4 + 3 + 3, "exact")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"instructions": "Be brief.", "tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "required"},
        {"text": {"format": {"type": "json_object"}}},
        {"reasoning": {"effort": "high"}},
    ],
)
async def test_the_embedded_models_count_is_what_an_answer_then_uses(fields: dict[str, Any]) -> None:
    async with serve(Settings(storage=Storage(database=":memory:"))) as url, sdk(url) as client:
        count = await counted(client, model="antiphon-tiny", **fields)
        used = await client.responses.create(model="antiphon-tiny", input="say hello", max_output_tokens=16, **fields)

    assert used.usage is not None
    assert count == (used.usage.input_tokens, "exact")


async def test_vllm_is_asked_at_its_root_for_messages_and_tools() -> None:
    upstream = Paths({"/tokenize": says({"count": 42, "max_model_len": 100, "tokens": [1] * 42})}, {})
    async with before(upstream) as client:
        counts = [await counted(client, tools=[TOOL]), await counted(client)]

    assert counts == [(42, "exact")] * 2
    assert upstream.paths() == ["/v1/chat/completions/input_tokens", "/tokenize", "/tokenize"]
    asked = json.loads(upstream.asked[-2].body)
    assert asked.keys() == {"model", "messages", "tools"}


async def test_llama_cpp_is_asked_for_the_count_of_a_chat() -> None:
    upstream = Paths({"/v1/chat/completions/input_tokens": says({"input_tokens": 12})}, {})
    async with before(upstream) as client:
        assert await counted(client) == (12, "exact")


async def test_an_older_llama_cpp_applies_its_template_and_tokenizes() -> None:
    """At /tokenize it answers messages too, with nothing."""
    tokens = {"/tokenize": says({"tokens": [1, 2, 3]}), "/apply-template": says({"prompt": "<s>say hello"})}
    upstream = Paths(tokens, {})
    async with before(upstream) as client:
        assert await counted(client) == (3, "exact")

    assert json.loads(upstream.asked[-1].body) == {
        "content": "<s>say hello",
        "add_special": True,
        "parse_special": True,
    }


async def test_an_upstream_that_counts_nothing_is_asked_once_and_then_never_again() -> None:
    upstream = Paths({}, {})
    async with before(upstream) as client:
        counts = [await counted(client) for _ in range(3)]

    assert {how for _, how in counts} == {"estimated"}
    assert len({tokens for tokens, _ in counts}) == 1
    assert upstream.paths() == ["/v1/chat/completions/input_tokens", "/tokenize", "/apply-template"]


async def test_what_may_pass_is_tried_again_with_the_next_request() -> None:
    upstream = Paths({"/v1/chat/completions/input_tokens": answers(b"{}", status=503)}, {})
    async with before(upstream) as client:
        counts = [await counted(client) for _ in range(2)]

    assert {how for _, how in counts} == {"estimated"}
    assert upstream.paths() == ["/v1/chat/completions/input_tokens"] * 2


@pytest.mark.parametrize(("how", "found"), [({}, "exact"), ({"antiphon:count": "estimated"}, "estimated")])
async def test_a_server_of_the_responses_api_is_asked_and_its_doubts_are_passed_on(
    how: dict[str, str], found: str
) -> None:
    upstream = Paths({"/v1/responses/input_tokens": says({"input_tokens": 9, **how})}, {})
    async with before(upstream, ResponsesUpstream) as client:
        assert await counted(client, instructions="Be brief.", tools=[TOOL]) == (9, found)

    asked = json.loads(upstream.asked[-1].body)
    assert asked.keys() == {"model", "input", "instructions", "text", "tools"} or "text" not in asked


async def test_a_picture_makes_a_count_an_estimate() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    upstream = Paths({"/tokenize": says({"count": 42})}, {})
    async with before(upstream) as client:
        assert await counted(client, input=[{"role": "user", "content": [image]}]) == (42, "estimated")


def test_a_picture_is_estimated_by_what_it_shows_and_not_by_its_bytes() -> None:
    picture = InputImage(image_url="data:image/png;base64," + "A" * 1_000_000)
    prompt = Prompt(model="m", items=(Message(role="user", content=(InputText(text="what?"), picture)),))

    assert usage.TOKENS_PER_PICTURE < usage.given(prompt) < 2 * usage.TOKENS_PER_PICTURE


async def test_what_a_count_has_no_use_for_is_named_and_a_personality_refused(client: openai.AsyncOpenAI) -> None:
    raw = await client.responses.input_tokens.with_raw_response.count(
        model="scripted", input="say hello", extra_body={"temperature": 1, "stream": True}
    )
    assert raw.headers["antiphon-ignored-parameters"] == "stream, temperature"

    with pytest.raises(openai.BadRequestError, match="personality"):
        await client.responses.input_tokens.count(model="scripted", input="say hello", personality="friendly")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": openai.omit}, "input"),
        ({"model": openai.omit}, "model"),
        ({"model": "nobody"}, "model"),
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    ],
)
async def test_it_refuses_what_create_refuses(client: openai.AsyncOpenAI, fields: Any, param: str) -> None:
    asked: dict[str, Any] = {"model": "scripted", "input": "say hello", **fields}
    with pytest.raises(openai.BadRequestError) as made:
        await client.responses.create(**asked)
    with pytest.raises(openai.BadRequestError) as counts:
        await client.responses.input_tokens.count(**asked)

    assert counts.value.param == made.value.param == param
    assert counts.value.body == made.value.body
