"""The chunks of a streamed chat completion as deltas, where logprobs were asked for. Pure, as chunks.py is."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from antiphon.core.deltas import Delta, Text
from antiphon.errors import ModelError, UnsupportedParameter
from antiphon.models.chunks import Choice, Chunk, ChunkReader
from antiphon.wire.items import Logprob, TopLogprob

WAITING_TOKENS_MAX = 256
"""Tokens that have not shown yet: of half a character, or of what may become a stop sequence."""
NO_LOGPROBS = (
    "The model server gives no logprobs with this model: leave 'message.output_text.logprobs' out of 'include'."
)


class _TopScore(Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Score(_TopScore, gc=False):
    top_logprobs: list[_TopScore] | None = None


class _Scores(Struct, gc=False):
    content: list[_Score] | None = None


def chunk_reader(top_logprobs: int | None) -> ChunkReader:
    """For a prompt's `top_logprobs`."""
    return ChunkReader() if top_logprobs is None else LogprobReader(top_logprobs)


class LogprobReader(ChunkReader):
    """Gives the logprobs of tokens to the texts that they make up. Those of thoughts and calls have no place.

    A reader of its own, so that streams without them, which are nearly all, do not pay for it. Raises where the first
    text comes without any, which is how a server shows that it has none.
    """

    def __init__(self, top: int) -> None:
        super().__init__()
        self._top = top
        self._waiting: deque[Logprob] = deque(maxlen=WAITING_TOKENS_MAX)
        self._has_given = False

    def _hear(self, chunk: Chunk, choice: Choice, deltas: list[Delta]) -> None:
        spoken: list[Delta] = []
        try:
            super()._hear(chunk, choice, spoken)
        finally:  # what was said before a vendor broke the answer off counts too
            self._waiting.extend(self._scores_of(choice.logprobs))
            self._give(spoken)
            deltas += spoken

    def _give(self, spoken: list[Delta]) -> None:
        """To the last text of a chunk go the logprobs of all tokens since the text before."""
        if not spoken:
            return
        places = [place for place, delta in enumerate(spoken) if isinstance(delta, Text)]
        if places:
            if not (self._waiting or self._has_given):
                raise UnsupportedParameter(NO_LOGPROBS, param="include")
            self._has_given = True
            text = spoken[places[-1]]
            assert isinstance(text, Text)
            spoken[places[-1]] = Text(text.text, logprobs=tuple(self._waiting))
        self._waiting.clear()

    def _scores_of(self, said: Any) -> Iterator[Logprob]:
        try:
            scores = msgspec.convert(said, _Scores | None, strict=False)
        except msgspec.ValidationError as error:
            raise ModelError(f"The model server sent logprobs in a form that is not known: {error}") from None
        for score in (scores and scores.content) or ():
            tops = (score.top_logprobs or ())[: self._top]  # some servers send one where none was asked for
            yield Logprob(
                token=score.token,
                bytes=_bytes(score),
                logprob=score.logprob,
                top_logprobs=tuple(TopLogprob(token=top.token, bytes=_bytes(top), logprob=top.logprob) for top in tops),
            )


def _bytes(score: _TopScore) -> tuple[int, ...]:
    return tuple(score.token.encode() if score.bytes is None else score.bytes)
