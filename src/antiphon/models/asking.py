"""Asking: a turn of an upstream, asked again where that helps. Knows no wire and no HTTP.

Two things help: once more, when a model ignored tool_choice, and in other words, when the upstream refuses what is
common. The words that were answered are kept, per model.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Generic, Protocol, Self, TypeAlias, TypeVar

from antiphon.core.deltas import Delta
from antiphon.core.prompt import Prompt
from antiphon.errors import InvalidRequest
from antiphon.models.guard import ToolChoiceGuard, ToolChoiceIgnored

_log = logging.getLogger("antiphon.upstream")


class Spells(Protocol):
    """What servers of an API disagree about, as it stands for one model."""

    @property
    def is_lasting(self) -> bool:
        """Whether it is about the model; else only about one prompt."""
        ...

    def after(self, error: InvalidRequest, prompt: Prompt) -> Self | None:
        """What to try after this refusal; None when it is about something else. Learns one thing at a time, and never
        the same twice, so that asking ends."""
        ...


S = TypeVar("S", bound=Spells)
Turn: TypeAlias = Callable[[Prompt, S], AsyncGenerator[list[Delta], None]]


class Asking(Generic[S]):
    """Asks with what was learnt of a model, and learns."""

    def __init__(self, common: S, turn: Turn[S]) -> None:
        self._common = common
        self._turn = turn
        self._spellings: dict[str, S] = {}
        """Only of models that refused the common one, so no more than the upstream has."""

    def spelling(self, model: str) -> S:
        """What was learnt of a model."""
        return self._spellings.get(model, self._common)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        spelling = self.spelling(prompt.model)
        ignored_before = False
        while True:
            guard = ToolChoiceGuard(prompt)
            has_begun = False
            try:
                async with aclosing(self._turn(prompt, spelling)) as batches:
                    async for batch in batches:
                        if admitted := guard.admit(batch):
                            if not has_begun:
                                has_begun = True
                                self._learn(prompt.model, spelling)
                            yield admitted
            except ToolChoiceIgnored as error:
                if has_begun or ignored_before:
                    raise
                ignored_before = True
                _log.warning("%s Asking it once more.", error.message)
            except InvalidRequest as error:
                other = spelling.after(error, prompt)
                if has_begun or other is None:
                    raise
                spelling = other
            else:
                return

    def _learn(self, model: str, spelling: S) -> None:
        """A spelling is known to be right once it was answered."""
        if spelling.is_lasting and spelling != self._spellings.get(model, self._common):
            self._spellings[model] = spelling
            _log.info("Model %s refuses what is common: from now on it gets %r.", model, spelling)
