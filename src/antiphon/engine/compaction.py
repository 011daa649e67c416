"""Compaction: a model asked to summarise a conversation of its own. Knows no run and no store."""

from contextlib import aclosing
from functools import partial

from antiphon.core import compaction
from antiphon.core import usage as counting
from antiphon.core.deltas import Finish, Text
from antiphon.core.ports import Model
from antiphon.core.prompt import Prompt
from antiphon.engine.window import Window
from antiphon.errors import InvalidRequest, ModelError
from antiphon.wire.request import ContextManagement
from antiphon.wire.response import Usage

WINDOW_SHARE = 0.75
"""Of the window: where a request that wants compaction gives no threshold."""


def threshold(wishes: tuple[ContextManagement, ...], model: Model, name: str) -> int | None:
    """From how many tokens on the conversation is to be compacted; None: never. Raises InvalidRequest."""
    if not wishes:
        return None
    window = model.window(name)
    given = [wish.compact_threshold for wish in wishes if wish.compact_threshold is not None]
    if not given and window is None:
        raise InvalidRequest(
            "The window of this model is not known: say from how many tokens on to compact.",
            param="context_management[0].compact_threshold",
        )
    return min(given) if given else round((window or 0) * WINDOW_SHARE)


async def is_due(model: Model, prompt: Prompt, at_tokens: int) -> bool:
    """Whether the prompt is that long. It is counted only where an estimate says that it may be."""
    if counting.given(prompt) < at_tokens / 2 or not compaction.is_worth_it(prompt, at_tokens):
        return False
    return (await model.count(prompt)).tokens >= at_tokens


async def summary(model: Model, prompt: Prompt) -> tuple[str, Usage]:
    """What the model says of the conversation, or of what of it fits its window, and what that took. Raises ModelError
    where it says nothing."""
    wish = compaction.wish(prompt, model.window(prompt.model))
    (text, used), _ = await Window(model, truncates=True).told(wish, partial(_heard, model))
    if not text.strip():
        raise ModelError("The model gave no summary of the conversation.")
    return text.strip(), used


async def _heard(model: Model, prompt: Prompt) -> tuple[str, Usage]:
    """The text of one answer."""
    said, pieces = counting.Said(), list[str]()
    finish: Finish | None = None
    async with aclosing(model.stream(prompt)) as batches:
        async for batch in batches:
            for delta in batch:
                if isinstance(delta, Text):
                    pieces.append(delta.text)
                    said.text += len(delta.text)
                elif isinstance(delta, Finish):
                    finish = delta
    if finish is None:
        raise ModelError("The model's answer ended before it was finished.")
    used, _ = counting.settle(finish.usage, prompt, said)
    return "".join(pieces), used
