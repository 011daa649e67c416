"""Several models of one name share its requests: by the cache key, else in turn, and around one that is down."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from antiphon.config import ChatUpstream, Settings, Storage
from antiphon.core.prompt import Prompt
from antiphon.engine.replicas import ranked
from antiphon.errors import InvalidRequest
from antiphon.models.responsesbody import Spelling, responses_request
from tests.chatserver import ChatServer, chunk, refuses, says, sdk, sse, text
from tests.conftest import serve
from tests.rawserver import breaks_off


@asynccontextmanager
async def before(upstreams: Sequence[ChatServer]) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncExitStack() as stack:
        for upstream in upstreams:
            await stack.enter_async_context(upstream)
        models = tuple(ChatUpstream(url=one.url, models=("m",), attempts_max=1) for one in upstreams)
        url = await stack.enter_async_context(serve(Settings(models=models, storage=Storage(database=":memory:"))))
        yield await stack.enter_async_context(sdk(url))


def three() -> list[ChatServer]:
    return [ChatServer({"hello": says(str(number))}, model="m") for number in range(3)]


async def ask(client: AsyncOpenAI, **fields: Any) -> str:
    response = await client.responses.create(**{"model": "m", "input": "hello", **fields})
    return str(response.output_text)


async def test_requests_of_one_cache_key_go_to_one_upstream() -> None:
    async with before(three()) as client:
        answers = {key: {await ask(client, prompt_cache_key=key) for _ in range(3)} for key in map(str, range(12))}

    assert all(len(of_one) == 1 for of_one in answers.values())
    assert set().union(*answers.values()) == {"0", "1", "2"}


async def test_without_a_key_they_take_turns() -> None:
    async with before(three()) as client:
        answers = [await ask(client) for _ in range(6)]

    assert sorted(answers) == ["0", "0", "1", "1", "2", "2"]


async def test_one_that_cannot_be_reached_is_passed_over() -> None:
    upstreams = three()
    async with before(upstreams) as client:
        first = int(await ask(client, prompt_cache_key="k"))
        await upstreams[first].__aexit__(None, None, None)
        second = await ask(client, prompt_cache_key="k")
        again = await ask(client, prompt_cache_key="k")
        await upstreams[first].__aenter__()

    assert second == again != str(first)


async def test_what_was_begun_is_not_begun_again_elsewhere() -> None:
    both = [ChatServer({"hello": breaks_off(sse(chunk(text("half"))))}, model="m") for _ in range(2)]
    async with before(both) as client:
        with pytest.raises(openai.InternalServerError):
            await ask(client)

    assert sum(len(one.bodies) for one in both) == 1


async def test_a_request_that_is_refused_is_refused_by_the_first() -> None:
    refusal = refuses("temperature is too high", param="temperature")
    both = [ChatServer({"hello": refusal}, model="m") for _ in range(2)]
    async with before(both) as client:
        with pytest.raises(openai.BadRequestError):
            await ask(client)

    assert sum(len(one.bodies) for one in both) == 1


async def test_each_name_is_listed_once() -> None:
    async with before(three()) as client:
        assert [model.id async for model in client.models.list()] == ["m"]


def test_another_replica_moves_only_the_keys_that_prefer_it() -> None:
    models: list[Any] = [object() for _ in range(5)]
    for number in range(100):
        few, more = ranked(models[:4], str(number)), ranked(models, str(number))
        assert [model for model in more if model is not models[4]] == few


def test_a_responses_upstream_is_told_the_key_until_it_knows_none() -> None:
    prompt = Prompt(model="m", items=(), cache_key="k")
    spelling = Spelling()
    other = spelling.after(InvalidRequest("Unknown parameter: 'prompt_cache_key'."), prompt)

    assert responses_request(prompt, spelling)["prompt_cache_key"] == "k"
    assert other is not None
    assert "prompt_cache_key" not in responses_request(prompt, other)
