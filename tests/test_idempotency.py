"""Requests that come again under their Idempotency-Key: carried out once, and answered alike."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from antiphon.config import Settings
from antiphon.core.deltas import Text
from antiphon.core.ports import Store
from antiphon.core.requests import Mark
from antiphon.errors import ModelError
from tests.conftest import WAIT_S
from tests.rawclient import Answer, ask, create, exchange, final, request, streaming
from tests.test_background import STOP, Node, happens, node
from tests.test_store import KINDS, bounded, opened

__all__ = ["bounded"]

KEY = {"idempotency-key": "one"}


@pytest.fixture
async def one(scripted: Settings) -> AsyncIterator[Node]:
    async with node(scripted) as made:
        yield made


async def made(at: Node, **fields: Any) -> int:
    """How many responses are stored."""
    return len((await ask(at.url, "GET", "/v1/responses")).value["data"])


async def again(at: Node, **fields: Any) -> tuple[Answer, Answer]:
    return await create(at.url, KEY, **fields), await create(at.url, KEY, **fields)


async def test_the_same_request_gives_the_same_response(one: Node) -> None:
    first, second = await again(one, input="say hello")

    assert second.value == first.value
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert await made(one) == 1


async def test_it_holds_at_another_process_and_in_the_background(one: Node, scripted: Settings) -> None:
    first = await create(one.url, KEY, background=True)
    ended = await one.ended(first.value["id"])
    async with node(scripted) as other:
        second = await create(other.url, KEY, background=True)

    assert second.value == ended
    assert await made(one) == 1


async def test_a_background_stream_is_told_again_from_the_beginning(one: Node) -> None:
    told = []
    for _ in range(2):
        async with streaming(one.url, KEY, background=True) as stream:
            await stream.head()
            told.append(await stream.frames())

    assert told[0] == told[1]
    assert final(told[0])["status"] == "completed"


async def test_a_stream_of_the_foreground_cannot_be_told_again(one: Node) -> None:
    async with streaming(one.url, KEY) as stream:
        await stream.head()
        await stream.frames()

    assert (await create(one.url, KEY, stream=True)).refusal == (400, "response_not_streamable", "stream")
    assert await made(one) == 1


@pytest.mark.parametrize("fields", [{"input": "say bye"}, {"background": True}, {"metadata": {"a": "b"}}])
async def test_another_request_needs_another_key(one: Node, fields: dict[str, Any]) -> None:
    await create(one.url, KEY)

    assert (await create(one.url, KEY, **fields)).refusal == (400, "idempotency_key_reused", None)
    assert (await create(one.url, {"idempotency-key": "two"}, **fields)).status == 200


async def test_what_is_under_way_is_to_be_asked_for_again(one: Node) -> None:
    async with exchange(one.url, "POST", "/v1/responses", request(model="played"), KEY) as first:
        await happens(one.model.is_asked)
        early = await create(one.url, KEY, model="played")
        one.model.say(Text("a"), STOP)
        response = (await first.answer()).value
    late = await create(one.url, KEY, model="played")

    assert early.refusal == (409, "request_under_way", None)
    assert late.value == response


async def test_a_request_that_failed_or_was_left_is_carried_out_again(one: Node) -> None:
    one.model.fail(ModelError())
    failed = await create(one.url, KEY, model="played")
    one.model.is_asked.clear()
    async with exchange(one.url, "POST", "/v1/responses", request(model="played"), KEY):
        await happens(one.model.is_asked)
    one.model.say(Text("b"), STOP)
    async with asyncio.timeout(WAIT_S):
        while (answer := await create(one.url, KEY, model="played")).status == 409:
            pass
    refused = await create(one.url, {"idempotency-key": "two"}, model="nobody")
    mended = await create(one.url, {"idempotency-key": "two"})

    assert failed.status == 502
    assert answer.value["output"][0]["content"][0]["text"] == "b"
    assert (refused.status, mended.status) == (400, 200)


async def test_what_is_not_stored_is_made_each_time(one: Node) -> None:
    first, second = await again(one, store=False)

    assert first.value["id"] != second.value["id"]


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_has_a_length(one: Node, key: str) -> None:
    assert (await create(one.url, {"idempotency-key": key})).refusal == (400, None, None)


async def test_the_sdk_sends_one(client: openai.AsyncOpenAI) -> None:
    extra = {"Idempotency-Key": "one"}
    made = [await client.responses.create(model="scripted", input="hi", extra_headers=extra) for _ in range(2)]

    assert made[0].id == made[1].id


# -- what a store must do


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = opened(request, tmp_path)
    yield store
    await store.close()


def mark(name: str, at: int = 100) -> Mark:
    return Mark(digest=name.encode(), response_id=f"resp_{name}", created_at=at)


async def test_the_first_mark_stands_until_it_expires(store: Store) -> None:
    assert await store.requests.mark("p", "k", mark("a"), expired_at=50) == mark("a")
    assert await store.requests.mark("p", "k", mark("b"), expired_at=99) == mark("a")
    assert await store.requests.mark("q", "k", mark("b"), expired_at=50) == mark("b")
    assert await store.requests.mark("p", "k", mark("c"), expired_at=100) == mark("c")


async def test_only_what_stands_there_is_unmarked(store: Store) -> None:
    await store.requests.mark("p", "k", mark("a"), expired_at=0)
    await store.requests.unmark("p", "k", "resp_b")
    await store.requests.unmark("q", "k", "resp_a")
    assert await store.requests.mark("p", "k", mark("b"), expired_at=0) == mark("a")
    await store.requests.unmark("p", "k", "resp_a")

    assert await store.requests.mark("p", "k", mark("b"), expired_at=0) == mark("b")
