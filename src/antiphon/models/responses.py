"""Any server of POST /v1/responses as a Model: vLLM, OpenAI, another antiphon. Knows nothing of HTTP, items' ids or
our events.

    Prompt --responsesbody--> body --Upstream--> payloads --EventReader--> deltas --ToolChoiceGuard--> deltas

Nothing of the upstream's events and items is passed on as it came: what came in unlawful goes out lawful, for our own
builder makes every event. The upstream is told the whole conversation each time and asked to store nothing.

What servers disagree about is learnt from their refusals, per model, instead of being settings (`Spelling`). Thoughts
that an upstream sealed are asked for, and told back to the same model.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec

from antiphon.config import Limits, ResponsesUpstream
from antiphon.core.deltas import Delta
from antiphon.core.ports import Check, Count, ModelCard
from antiphon.core.prompt import Named, Prompt
from antiphon.errors import ApiError
from antiphon.models.asking import Asking
from antiphon.models.cards import Listing, connected, senses
from antiphon.models.counting import RESPONSES, Counter
from antiphon.models.efforts import understood
from antiphon.models.events import EventReader
from antiphon.models.responsesbody import Spelling, count_request, responses_request
from antiphon.models.upstream import DRAIN_S


class ResponsesModel:
    """The models of one upstream."""

    def __init__(
        self, settings: ResponsesUpstream, limits: Limits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.takes = senses(settings)
        self._upstream = connected(settings, limits)
        self._efforts = settings.efforts
        self._listing = Listing(self._upstream, settings, clock)
        self._counter = Counter(self._upstream, RESPONSES)
        self._asking = Asking(Spelling(), self._turn)
        self._left_out: set[str] = set()

    async def cards(self, *, fresh: bool = False) -> Sequence[ModelCard]:
        return await self._listing.get(fresh=fresh)

    def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        return self._asking.stream(understood(prompt, self._efforts))

    def prefills(self, prompt: Prompt) -> bool:
        """Never: an answer of this API begins with its beginning."""
        return False

    async def count(self, prompt: Prompt) -> Count:
        spelling = self._asking.spelling(prompt.model)
        return await self._counter.count(prompt, lambda: count_request(understood(prompt, self._efforts), spelling))

    def window(self, name: str) -> int | None:
        return self._listing.window(name)

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


async def _drain(reads: AsyncGenerator[list[bytes], None]) -> None:
    """Waits a moment for the end of the body, after the terminal event: without it the connection cannot be used
    again. OpenAI sends no [DONE], so the connection's own end of the body must tell."""
    try:
        async with asyncio.timeout(DRAIN_S):
            async for _ in reads:
                pass
    except (ApiError, TimeoutError):
        return  # the answer is complete; only its connection is lost
