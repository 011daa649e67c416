"""Any server of POST /v1/responses as a Model: vLLM, OpenAI, another antiphon. Knows nothing of HTTP, items' ids or
our events.

    Prompt --responsesbody--> body --Upstream--> payloads --EventReader--> deltas --ToolChoiceGuard--> deltas

Nothing of the upstream's events and items is passed on as it came: what came in unlawful goes out lawful, for our own
builder makes every event. The upstream is told the whole conversation each time and asked to store nothing.

What servers disagree about is learnt from their refusals, per model, instead of being settings (`Spelling`). Reasoning
that an upstream sealed (`encrypted_content`) is not passed on yet: that waits for a later issue.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec

from antiphon.config import Limits, ResponsesUpstream
from antiphon.core.deltas import Delta
from antiphon.core.ports import Check, ModelCard
from antiphon.core.prompt import Named, Prompt
from antiphon.errors import ApiError, InvalidRequest
from antiphon.models.cards import Listing, connected
from antiphon.models.events import EventReader
from antiphon.models.guard import ToolChoiceGuard, ToolChoiceIgnored
from antiphon.models.responsesbody import Spelling, responses_request
from antiphon.models.upstream import DRAIN_S

_log = logging.getLogger("antiphon.responses")


class ResponsesModel:
    """The models of one upstream."""

    def __init__(
        self, settings: ResponsesUpstream, limits: Limits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._upstream = connected(settings, limits)
        self._listing = Listing(self._upstream, settings.models, clock)
        self._spellings: dict[str, Spelling] = {}
        """Only of models that refused the common one, so no more than the upstream has."""
        self._left_out: set[str] = set()

    async def cards(self, *, fresh: bool = False) -> Sequence[ModelCard]:
        return await self._listing.get(fresh=fresh)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        spelling = self._spellings.get(prompt.model, Spelling())
        ignored_before = False
        while True:  # six times at most: the first, after an ignored choice, and for each thing a spelling can learn
            guard = ToolChoiceGuard(prompt)
            has_begun = False
            try:
                async with aclosing(self._turn(prompt, spelling)) as batches:
                    async for batch in batches:
                        if admitted := guard.admit(batch):
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

    async def start(self) -> None:
        """Nothing: an upstream may come up later than this server."""

    async def check(self) -> Check:
        return await self._listing.check("responses")

    async def close(self) -> None:
        await self._upstream.close()

    async def _turn(self, prompt: Prompt, spelling: Spelling) -> AsyncGenerator[list[Delta], None]:
        body = msgspec.json.encode(responses_request(prompt, spelling))
        is_call_demanded = prompt.tool_choice == "required" or isinstance(prompt.tool_choice, Named)
        reader = EventReader(
            is_call_demanded=is_call_demanded, wants_logprobs=prompt.top_logprobs is not None, left_out=self._left_out
        )
        try:
            async with aclosing(self._upstream.post_events("/responses", body, is_live=prompt.is_live)) as reads:
                async for payloads in reads:
                    if deltas := reader.feed(payloads):
                        yield deltas
                    reader.check()
                    if reader.is_finished:
                        await _drain(reads)
                        return
        except ApiError as error:
            raise self._upstream.masked(error) from None
        reader.end()

    def _learn(self, model: str, spelling: Spelling) -> None:
        """A spelling is known to be right once it was answered."""
        if spelling != self._spellings.get(model, Spelling()):
            self._spellings[model] = spelling
            _log.info("Model %s refuses what is common: from now on it gets %r.", model, spelling)


async def _drain(reads: AsyncGenerator[list[bytes], None]) -> None:
    """Waits a moment for the end of the body, after the terminal event: without it the connection cannot be used
    again. OpenAI sends no [DONE], so the connection's own end of the body must tell."""
    try:
        async with asyncio.timeout(DRAIN_S):
            async for _ in reads:
                pass
    except (ApiError, TimeoutError):
        return  # the answer is complete; only its connection is lost
