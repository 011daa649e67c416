"""Any server of POST /v1/chat/completions as a Model. Knows nothing of HTTP, items' ids or events.

    Prompt --chatbody--> body --Upstream--> payloads --ChunkReader--> deltas --ToolChoiceGuard--> deltas

Two things are learnt from an upstream's refusals, per model, instead of being settings: the name of the limit on
tokens, and whether it takes thoughts back (`_Spelling`).
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import msgspec
from msgspec import Struct, structs

from antiphon.config import ChatUpstream, Limits
from antiphon.core.deltas import Delta
from antiphon.core.ports import Check, ModelCard
from antiphon.core.prompt import Prompt
from antiphon.errors import ApiError, InvalidRequest, ModelError, SettingsError
from antiphon.models.chatbody import LimitField, ReasoningField, chat_request
from antiphon.models.guard import ToolChoiceGuard, ToolChoiceIgnored
from antiphon.models.logprobs import chunk_reader
from antiphon.models.upstream import Upstream

CARDS_KEPT_S = 30.0
CARDS_REFRESH_S = 2.0
"""How soon a list may be asked for afresh: requests for names that nobody serves must not become a flood upstream."""
FAILURE_KEPT_S = 3.0

_log = logging.getLogger("antiphon.chat")


class ChatModel:
    """The models of one upstream."""

    def __init__(self, settings: ChatUpstream, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._upstream = Upstream(
            settings.url,
            key=_key(settings),
            connect_timeout_s=settings.connect_timeout_s,
            silence_timeout_s=settings.silence_timeout_s,
            attempts_max=settings.attempts_max,
            line_bytes_max=limits.upstream_line_bytes_max,
        )
        self._cards = _Kept(self._list, clock)
        self._spellings: dict[str, _Spelling] = {}
        """Only of models that refused the common one, so no more than the upstream has."""

    async def cards(self, *, fresh: bool = False) -> Sequence[ModelCard]:
        """`fresh` asks for a list no older than two seconds: for a name that is not in the one at hand."""
        return await self._cards.get(CARDS_REFRESH_S if fresh else CARDS_KEPT_S)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        ignored_before = False
        while True:  # four times at most: the first, after an ignored choice, and for each thing a spelling can learn
            spelling = self._spellings.get(prompt.model) or _Spelling(reasoning_field=self._settings.reasoning_field)
            guard = ToolChoiceGuard(prompt)
            has_begun = False
            try:
                async with aclosing(self._turn(prompt, spelling)) as batches:
                    async for batch in batches:
                        if admitted := guard.admit(batch):
                            has_begun = True
                            yield admitted
            except ToolChoiceIgnored as error:
                if has_begun or ignored_before:
                    raise
                ignored_before = True
                _log.warning("%s Asking it once more.", error.message)
            except InvalidRequest as error:
                other = spelling.after(error)
                if has_begun or other is None:
                    raise
                self._spellings[prompt.model] = other
                _log.info("Model %s refuses what is common: from now on it gets %r.", prompt.model, other)
            else:
                return

    async def start(self) -> None:
        """Nothing: an upstream may come up later than this server."""

    async def check(self) -> Check:
        name = f"chat upstream {self._upstream.url}"
        try:
            cards = await self._list()
        except ApiError as error:
            remedy = "Start that server, or correct its url (with its /v1) and its key in the settings."
            return Check(name=name, ok=False, detail=error.message, remedy=remedy)
        if not cards:
            remedy = "Load a model there, or name some under `models`."
            return Check(name=name, ok=False, detail="It lists no model.", remedy=remedy)
        return Check(name=name, ok=True, detail=f"It answers. Models: {', '.join(card.id for card in cards)}.")

    async def close(self) -> None:
        await self._upstream.close()

    async def _turn(self, prompt: Prompt, spelling: "_Spelling") -> AsyncGenerator[list[Delta], None]:
        body = chat_request(prompt, reasoning_field=spelling.reasoning_field, limit_field=spelling.limit_field)
        sent = msgspec.json.encode(body)
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

    async def _list(self) -> tuple[ModelCard, ...]:
        try:
            listed = _cards(await self._upstream.get("/models"), self._upstream.url)
        except ApiError as error:
            if not self._settings.models:
                raise ModelError(error.message) from None  # whatever it is, it is no fault of a request
            listed = {}  # not every server has a list; what the settings name is served all the same
        names = self._settings.models or listed
        return tuple(listed.get(name) or ModelCard(id=name, created=0, owned_by="upstream") for name in names)


class _Kept:
    """The last list of models, or the last failure to get one, for a while. Callers at one time share one request."""

    def __init__(self, fetch: Callable[[], Awaitable[tuple[ModelCard, ...]]], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._got: tuple[ModelCard, ...] | ApiError | None = None
        self._at = 0.0

    async def get(self, age_max_s: float) -> tuple[ModelCard, ...]:
        async with self._lock:
            failed = isinstance(self._got, ApiError)
            if self._got is None or self._clock() - self._at > (FAILURE_KEPT_S if failed else age_max_s):
                try:
                    self._got = await self._fetch()
                except ApiError as error:
                    self._got = error
                self._at = self._clock()
        if isinstance(self._got, ApiError):
            raise self._got.with_traceback(None)
        return self._got


def _key(settings: ChatUpstream) -> str:
    if settings.key or not settings.key_env:
        return settings.key
    key = os.environ.get(settings.key_env, "")
    if not key:
        raise SettingsError(
            f"The environment variable {settings.key_env}, named as the key of an upstream, is not set."
        )
    return key


class _ListedModel(Struct):
    id: str
    created: int | None = None
    owned_by: str | None = None


class _ModelList(Struct):
    data: list[_ListedModel] | None


def _cards(body: bytes, url: str) -> dict[str, ModelCard]:
    try:
        listed = msgspec.json.decode(body, type=_ModelList).data or []
    except msgspec.DecodeError:
        raise ModelError(f"The server at {url} answered /models with something that is no list of models.") from None
    return {
        model.id: ModelCard(id=model.id, created=model.created or 0, owned_by=model.owned_by or "upstream")
        for model in listed
    }


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

    def after(self, error: InvalidRequest) -> "_Spelling | None":
        """What to try after this refusal; None when it is about something else."""
        said = error.message.lower()
        if self.limit_field == "max_tokens" and _WANTS_OTHER_LIMIT.search(said):
            return structs.replace(self, limit_field="max_completion_tokens")
        if self.reasoning_field and self.reasoning_field in said and _UNKNOWN_PROPERTY.search(said):
            return structs.replace(self, reasoning_field=None)
        return None


_WANTS_OTHER_LIMIT = re.compile(r"use ['\"`]?max_completion_tokens")
_UNKNOWN_PROPERTY = re.compile(r"unsupported|unexpected|unrecognized|unknown|extra|not (supported|permitted|allowed)")
