"""Efforts in the words that an upstream knows. Knows no wire."""

from collections.abc import Sequence
from typing import Final, get_args

from msgspec import structs

from antiphon.core.prompt import Prompt
from antiphon.wire.formats import ReasoningEffort

ORDER: Final[tuple[ReasoningEffort, ...]] = get_args(ReasoningEffort)


def understood(prompt: Prompt, known: Sequence[ReasoningEffort]) -> Prompt:
    """The prompt with the nearest effort that is `known`, the lesser of two; empty: all are passed on as they are, and
    what the upstream refuses is told to the client."""
    if prompt.effort is None or not known or prompt.effort in known:
        return prompt
    wanted = ORDER.index(prompt.effort)
    return structs.replace(
        prompt, effort=min(known, key=lambda one: (abs(ORDER.index(one) - wanted), ORDER.index(one)))
    )
