"""Resumed: a turn that goes on in the middle of a text. Knows no server and no wire."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from msgspec import structs

from antiphon.core.deltas import Delta, Summary, Text, Thought
from antiphon.errors import ModelError


async def resumed(
    batches: AsyncGenerator[Sequence[Delta], None], space: str = ""
) -> AsyncGenerator[Sequence[Delta], None]:
    """What a model says behind a prefix. `space` stands at the prefix's end and was not told: what the model says of it
    is left out, since it was said.

    Raises ModelError when the model thinks first: whatever it says then is another answer.
    """
    is_behind = False
    async with aclosing(batches):
        async for batch in batches:
            if is_behind:
                yield batch
                continue
            kept: list[Delta] = []
            for delta in batch:
                if not is_behind and isinstance(delta, Thought | Summary):
                    raise ModelError("The model did not go on with the answer that was interrupted.")
                if not is_behind and isinstance(delta, Text):
                    space, text = _unlike(space, delta.text)
                    if not text:
                        continue
                    delta = structs.replace(delta, text=text)
                is_behind = True
                kept.append(delta)
            if kept:
                yield kept


def _unlike(one: str, other: str) -> tuple[str, str]:
    """Both, without what they begin with alike."""
    while one and other.startswith(one[0]):
        one, other = one[1:], other[1:]
    return one, other
