"""Obfuscation of deltas: frames whose sizes do not tell how much was said."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.rawclient import Exchange, events_of, exchange, final, parsed, request

pytestmark = pytest.mark.parametrize("path", ["/v1/responses", "/openresponses/v1/responses"])


FUNCTION = {"type": "function", "name": "f"}


@asynccontextmanager
async def asked(url: str, path: str, **fields: Any) -> AsyncIterator[Exchange]:
    body = request(stream=True, **fields)
    if path.startswith("/openresponses"):  # where every item has a type
        body["input"] = [{"type": "message", "role": "user", "content": body["input"]}]
    async with exchange(url.removesuffix("/v1"), "POST", path, body) as stream:
        yield stream


async def sizes(stream: Exchange) -> dict[str, list[int]]:
    """Of frames, by what their data begins with: those of deltas, and others."""
    found: dict[str, list[int]] = {"delta": [], "other": []}
    while piece := await stream.piece():
        for frame in piece.decode().removesuffix("\n\n").split("\n\n"):
            kind = "delta" if ".delta" in frame.partition("\n")[0] else "other"
            found[kind].append(len(frame.encode()) + 2)
    return found


async def test_every_delta_is_filled_up_to_a_block_when_asked(url: str, path: str) -> None:
    script = "think hm so | say a longer word here | call f {}"
    options = {"include_obfuscation": True}
    async with asked(url, path, input=script, stream_options=options, tools=[FUNCTION]) as stream:
        found = await sizes(await stream.head())

    assert len(found["delta"]) == 7
    assert {size % 64 for size in found["delta"]} == {0}
    assert any(size % 64 for size in found["other"])


async def test_noise_is_random_and_the_stream_adds_up_all_the_same(url: str, path: str) -> None:
    async with asked(url, path, input="say a a a a", stream_options={"include_obfuscation": True}) as stream:
        await stream.head()
        data = b""
        while piece := await stream.piece():
            data += piece
    frames = parsed(data)

    noise = [event["obfuscation"] for event in events_of(frames) if event["type"].endswith(".delta")]
    assert len(set(noise)) == len(noise) == 4
    assert final(frames)["output"][0]["content"][0]["text"] == "a a a a"


@pytest.mark.parametrize("options", [None, {"include_obfuscation": False}])
async def test_no_noise_unless_asked(url: str, path: str, options: object) -> None:
    async with asked(url, path, **({"stream_options": options} if options else {})) as stream:
        frames = await (await stream.head()).frames()

    assert not any("obfuscation" in json.dumps(event) for event in events_of(frames))
