"""Any server of POST /v1/chat/completions as a Model. Knows nothing of HTTP, items' ids or events.

    Prompt --chatbody--> body --Upstream--> payloads --ChunkReader--> deltas --ToolChoiceGuard--> deltas

Two things are learnt from an upstream's refusals, per model, instead of being settings: the name of the limit on
tokens, and whether it takes thoughts back (`_Spelling`).
"""

import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import ClassVar

import msgspec
from msgspec import Struct, structs

from antiphon.config import ChatUpstream, Limits
from antiphon.core.deltas import Delta
from antiphon.core.ports import Check, Count, ModelCard
from antiphon.core.prompt import Prompt
from antiphon.errors import ApiError, InvalidRequest
from antiphon.models.asking import Asking
from antiphon.models.cards import Listing, connected, senses
from antiphon.models.chatbody import PREFILLED, LimitField, Object, ReasoningField, chat_request
from antiphon.models.counting import CHAT, Counter
from antiphon.models.efforts import understood
from antiphon.models.logprobs import chunk_reader
from antiphon.models.resumed import resumed


class ChatModel:
    """The models of one upstream."""

    def __init__(self, settings: ChatUpstream, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.takes = senses(settings)
        self._upstream = connected(settings, limits)
        self._efforts = settings.efforts
        self._listing = Listing(self._upstream, settings, clock)
        self._counter = Counter(self._upstream, CHAT)
        self._prefill = settings.prefill
        self._asking = Asking(_Spelling(reasoning_field=settings.reasoning_field), self._turn)

    async def cards(self, *, fresh: bool = False) -> Sequence[ModelCard]:
        return await self._listing.get(fresh=fresh)

    def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        prompt = understood(prompt, self._efforts)
        if not prompt.prefix:
            return self._asking.stream(prompt)
        told = prompt.prefix.rstrip()  # some servers and templates cut it off, others do not
        told_prompt = structs.replace(prompt, prefix=told)
        return resumed(self._asking.stream(told_prompt), space=prompt.prefix[len(told) :])

    def prefills(self, prompt: Prompt) -> bool:
        return self._prefill != "none"

    async def count(self, prompt: Prompt) -> Count:
        spelling = self._asking.spelling(prompt.model)
        return await self._counter.count(prompt, lambda: self._body(understood(prompt, self._efforts), spelling))

    def window(self, name: str) -> int | None:
        return self._listing.window(name)

    async def start(self) -> None:
        """Nothing: an upstream may come up later than this server."""

    async def check(self) -> Check:
        return await self._listing.check("chat")

    async def close(self) -> None:
        await self._upstream.close()

    async def _turn(self, prompt: Prompt, spelling: "_Spelling") -> AsyncGenerator[list[Delta], None]:
        sent = msgspec.json.encode(self._body(prompt, spelling))
        reader = chunk_reader(prompt.top_logprobs)
        try:
            async with aclosing(self._upstream.post_events("/chat/completions", sent, is_live=prompt.is_live)) as reads:
                async for payloads in reads:
                    if deltas := reader.feed(payloads):
                        yield deltas
                    reader.check()
        except ApiError as error:
            if not reader.is_finished:  # else only the end of the connection failed
                raise self._upstream.masked(error) from None
        if deltas := reader.end():
            yield deltas

    def _body(self, prompt: Prompt, spelling: "_Spelling") -> Object:
        body = chat_request(prompt, reasoning_field=spelling.reasoning_field, limit_field=spelling.limit_field)
        return body | PREFILLED if prompt.prefix and self._prefill == "continue_final_message" else body


# -- what the upstream is asked


class _Spelling(Struct, frozen=True, kw_only=True):
    """What servers of this API disagree about.

    `max_tokens` is what all of them take, and what those that do not refuse: OpenAI's newer models answer 400 "Use
    'max_completion_tokens' instead". The other way round the limit would be lost without a word: Ollama
    (ollama#7125, still in 2026) and llama.cpp before #19831 ignore `max_completion_tokens`.

    Thoughts in messages are needed by some (DeepSeek, in tool loops) and refused as an unknown property by others
    (Mistral, Cerebras).
    """

    reasoning_field: ReasoningField
    limit_field: LimitField = "max_tokens"
    is_lasting: ClassVar[bool] = True

    def after(self, error: InvalidRequest, prompt: Prompt) -> "_Spelling | None":
        said = error.message.lower()
        if self.limit_field == "max_tokens" and _WANTS_OTHER_LIMIT.search(said):
            return structs.replace(self, limit_field="max_completion_tokens")
        if self.reasoning_field and self.reasoning_field in said and _UNKNOWN_PROPERTY.search(said):
            return structs.replace(self, reasoning_field=None)
        return None


_WANTS_OTHER_LIMIT = re.compile(r"use ['\"`]?max_completion_tokens")
_UNKNOWN_PROPERTY = re.compile(r"unsupported|unexpected|unrecognized|unknown|extra|not (supported|permitted|allowed)")
