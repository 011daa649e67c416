"""Window: prompts made to fit their model, or refused before it is asked. Knows no run."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import structs

from antiphon.core import usage, window
from antiphon.core.ports import Model
from antiphon.core.prompt import Memo, Prompt
from antiphon.errors import ContextLengthExceeded

NEAR = 0.5
"""Of the room there is, estimated: below it nobody counts. Estimates err, mostly to the high side."""
FAR = 4.0
"""Beyond it something must go, however far the estimate is off: not all of a long history need be counted each time."""
ROOM_SHARE, ROOM_TOKENS_MAX = 0.25, 4_096
"""Of the window, for the answer, where the request says nothing."""
DROPPED_SHARE = 0.25
"""Of the prompt, when the model says that it is too long, but not by how much."""
TRIES_MAX = 10


T = TypeVar("T")


class Window:
    """That of one model. Where it does not `truncate`, what does not fit is refused."""

    def __init__(self, model: Model, *, truncates: bool) -> None:
        self._model = model
        self._truncates = truncates

    async def fitted(self, prompt: Prompt) -> Prompt:
        """The prompt, without what must be left out. It is counted only where that may matter, and nothing is refused
        on a mere estimate. Raises ContextLengthExceeded."""
        size = self._model.window(prompt.model)
        if size is None:
            return prompt
        room = size - _for_answer(prompt, size) if self._truncates else size
        if usage.given(prompt) <= room * NEAR:
            return prompt
        excess = usage.given(prompt) - round(room * FAR)
        if self._truncates and excess > 0:
            prompt = _without(prompt, excess) or prompt
        count = await self._model.count(prompt)
        for _ in range(TRIES_MAX if self._truncates else 0):
            if count.tokens <= room:
                return prompt
            share = usage.given(prompt) / count.tokens
            shorter = _without(prompt, round((count.tokens - room) * share))
            if shorter is None:
                break
            prompt, count = shorter, await self._model.count(shorter)
        if count.is_exact and count.tokens >= size:
            raise ContextLengthExceeded(
                f"{ContextLengthExceeded.__doc__} (It is {count.tokens} tokens; the model holds {size}.)"
            )
        return prompt

    async def told(
        self, prompt: Prompt, tell: Callable[[Prompt], Awaitable[T]], may_repeat: Callable[[], bool] = lambda: True
    ) -> tuple[T, Prompt]:
        """What came of telling the model as much of the prompt as fits, and the prompt that was told. Where the model
        says that it is too long, it is told less, as long as it `may_repeat`."""
        prompt = await self.fitted(prompt)
        while True:  # it ends: each is shorter
            try:
                return await tell(prompt), prompt
            except ContextLengthExceeded:
                shorter = _without(prompt, round(usage.given(prompt) * DROPPED_SHARE)) if self._truncates else None
                if shorter is None or not may_repeat():
                    raise
                prompt = shorter


def _for_answer(prompt: Prompt, size: int) -> int:
    if prompt.max_output_tokens is None:
        return min(round(size * ROOM_SHARE), ROOM_TOKENS_MAX)
    return min(prompt.max_output_tokens, size // 2)


def _without(prompt: Prompt, tokens: int) -> Prompt | None:
    """Without its oldest items, by an estimate of their tokens; None: nothing may go. No memo is kept of it, since the
    next one will begin with other items."""
    items = window.shortened(prompt.items, max(1, round(tokens * usage.BYTES_PER_TOKEN)))
    return None if items is None else structs.replace(prompt, items=items, memo=Memo(), size=None)
