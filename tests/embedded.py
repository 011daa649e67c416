"""What tests of the embedded engine share: two tools, a way to ask, and a whole turn put together."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from antiphon.core.deltas import Delta, Finish, Text, Thought, ToolCall
from antiphon.core.prompt import Offer, Prompt, Sampling
from antiphon.models.local import LocalModel
from antiphon.wire.items import InputText, Logprob, Message
from tests.conftest import WAIT_S

WEATHER = Offer(
    name="get_weather",
    description="Get the weather",
    parameters={
        "type": "object",
        "properties": {"location": {"type": "string", "maxLength": 20}},
        "required": ["location"],
        "additionalProperties": False,
    },
    strict=True,
)
TREE = Offer(
    name="grow-tree.v2",
    parameters={
        "type": "object",
        "properties": {
            "kind": {"enum": ['a "b"', "c{d}", "é[\\]", None, 3]},
            "left": {"$ref": "#/$defs/node"},
            "size": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["kind", "left", "size"],
        "additionalProperties": False,
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "leaf": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                    "names": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
                },
                "required": ["leaf", "names"],
                "additionalProperties": False,
            }
        },
    },
    strict=True,
)


def prompt(text: str, **asked: Any) -> Prompt:
    """What is asked may be a field of Sampling, too."""
    items = (Message(role="user", content=(InputText(text=text),)),)
    sampling = {name: asked.pop(name) for name in Sampling.__struct_fields__ if name in asked}
    return Prompt(model="antiphon-tiny", items=items, sampling=Sampling(**sampling), **asked)


class Said(Struct):
    """A whole turn, put together."""

    text: str
    thought: str
    calls: list[tuple[str, Any]]
    finish: Finish
    pieces: int
    """How many deltas it came in; how many of them a network read holds is chance."""
    logprobs: list[Logprob]


def put_together(batches: Sequence[Sequence[Delta]]) -> Said:
    deltas = [delta for batch in batches for delta in batch]
    finish = deltas.pop()
    assert isinstance(finish, Finish)
    calls: dict[str, tuple[str, str]] = {}
    for delta in deltas:
        if isinstance(delta, ToolCall):
            name, arguments = calls.setdefault(delta.key, (delta.name or "", ""))
            calls[delta.key] = (name, arguments + delta.arguments)
    return Said(
        text="".join(delta.text for delta in deltas if isinstance(delta, Text)),
        thought="".join(delta.text for delta in deltas if isinstance(delta, Thought)),
        calls=[(name, json.loads(text) if finish.reason != "length" else text) for name, text in calls.values()],
        finish=finish,
        pieces=len(deltas),
        logprobs=[score for delta in deltas if isinstance(delta, Text) for score in delta.logprobs],
    )


async def say(model: LocalModel, text: str, **asked: Any) -> Said:
    async with asyncio.timeout(WAIT_S):
        return put_together([batch async for batch in model.stream(prompt(text, **asked))])
