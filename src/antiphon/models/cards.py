"""The models that an upstream lists, kept for a while; and what is the same of every upstream: its connection, its
check. Knows nothing of what is asked of those models."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct

from antiphon.config import HttpUpstream, Limits
from antiphon.core.ports import Check, ModelCard, Sense
from antiphon.errors import ApiError, ModelError, SettingsError
from antiphon.models.upstream import Upstream

CARDS_KEPT_S = 30.0
CARDS_REFRESH_S = 2.0
"""How soon a list may be asked for afresh: requests for names that nobody serves must not become a flood upstream."""
FAILURE_KEPT_S = 3.0


def connected(settings: HttpUpstream, limits: Limits) -> Upstream:
    """The upstream of these settings. Nothing is opened yet: it may come up later than this server."""
    return Upstream(
        settings.url,
        key=_key(settings),
        connect_timeout_s=settings.connect_timeout_s,
        silence_timeout_s=settings.silence_timeout_s,
        attempts_max=settings.attempts_max,
        line_bytes_max=limits.upstream_line_bytes_max,
    )


def senses(settings: HttpUpstream) -> frozenset[Sense]:
    """What its models take beside text."""
    said: dict[Sense, bool] = {"image": settings.images, "audio": settings.audio, "file": settings.files}
    return frozenset(sense for sense, is_taken in said.items() if is_taken)


class Listing:
    """The models of one upstream: those that the settings name, or all that it lists."""

    def __init__(self, upstream: Upstream, settings: HttpUpstream, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstream = upstream
        self._names = settings.models
        self._context_tokens = settings.context_tokens
        self._windows: dict[str, int] = {}
        self._kept = _Kept(self._fetch, clock)

    async def get(self, *, fresh: bool = False) -> tuple[ModelCard, ...]:
        """`fresh` asks for a list no older than two seconds: for a name that is not in the one at hand."""
        return await self._kept.get(CARDS_REFRESH_S if fresh else CARDS_KEPT_S)

    def window(self, name: str) -> int | None:
        """How many tokens that model can hold, as the settings have it, or as the list had it that was fetched last."""
        return self._context_tokens or self._windows.get(name)

    async def check(self, kind: str) -> Check:
        name = f"{kind} upstream {self._upstream.url}"
        try:
            cards = await self._fetch()
        except ApiError as error:
            remedy = "Start that server, or correct its url (with its /v1) and its key in the settings."
            return Check(name=name, ok=False, detail=error.message, remedy=remedy)
        if not cards:
            remedy = "Load a model there, or name some under `models`."
            return Check(name=name, ok=False, detail="It lists no model.", remedy=remedy)
        return Check(name=name, ok=True, detail=f"It answers. Models: {', '.join(card.id for card in cards)}.")

    async def _fetch(self) -> tuple[ModelCard, ...]:
        try:
            found = _listed(await self._upstream.get("/models"), self._upstream.url)
            self._windows = {model.id: window for model in found if (window := model.window)}
            listed = {model.id: model.card for model in found}
        except ApiError as error:
            if not self._names:
                raise ModelError(error.message) from None  # whatever it is, it is no fault of a request
            listed = {}  # not every server has a list; what the settings name is served all the same
        names = self._names or listed
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


def _key(settings: HttpUpstream) -> str:
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
    max_model_len: Any = None
    """vLLM, SGLang."""
    context_length: Any = None
    """OpenRouter and others."""
    meta: Any = None
    """llama.cpp: `n_ctx` is what is loaded; what the model was trained for (`n_ctx_train`) says nothing of that."""

    @property
    def card(self) -> ModelCard:
        return ModelCard(id=self.id, created=self.created or 0, owned_by=self.owned_by or "upstream")

    @property
    def window(self) -> int | None:
        loaded = self.meta.get("n_ctx") if isinstance(self.meta, dict) else None
        told = (self.max_model_len, self.context_length, loaded)
        return next((tokens for tokens in told if type(tokens) is int and tokens > 0), None)


class _ModelList(Struct):
    data: list[_ListedModel] | None


def _listed(body: bytes, url: str) -> list[_ListedModel]:
    try:
        return msgspec.json.decode(body, type=_ModelList).data or []
    except msgspec.DecodeError:
        raise ModelError(f"The server at {url} answered /models with something that is no list of models.") from None
