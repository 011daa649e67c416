"""Resumed: a turn that goes on in the middle of a text. Knows no server and no wire."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from os.path import commonprefix

from msgspec import structs

from antiphon.core.deltas import Delta, Summary, Text, Thought
from antiphon.errors import ModelError


async def resumed(
    batches: AsyncGenerator[Sequence[Delta], None], space: str = ""
) -> AsyncGenerator[Sequence[Delta], None]:
    """What a model says behind a prefix. `space` stands at the prefix's end and was not told: where the model says it,
    it is not said again.

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
                    same = len(commonprefix((space, delta.text)))
                    space, said = space[same:], delta.text[same:]
                    if not said:
                        continue
                    delta = structs.replace(delta, text=said)  # noqa: PLW2901 # what is left of it
                is_behind = True
                kept.append(delta)
            if kept:
                yield kept
