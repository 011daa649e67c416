"""Replicas: several models that serve one name, as one Model. Knows no request and no names."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from antiphon.core.deltas import Delta
from antiphon.core.ports import Check, Count, Model, ModelCard
from antiphon.core.prompt import Prompt
from antiphon.errors import ModelError
from antiphon.observe import log


def ranked(models: Sequence[Model], key: str) -> list[Model]:
    """The models in the order in which a key prefers them: always the same, so that what one of them has cached of its
    prompts is found again; where one is added, only the keys move that now prefer it (rendezvous hashing)."""

    def weight(place: int) -> bytes:
        return hashlib.blake2b(f"{place} {key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()

    return [models[place] for place in sorted(range(len(models)), key=weight)]


class Replicas:
    """Port Model: asks the first, and the next where one fails before it has said anything."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = tuple(models)
        self.takes = frozenset.intersection(*(model.takes for model in models))

    async def cards(self, *, fresh: bool = False) -> Sequence[ModelCard]:
        return await self._models[0].cards(fresh=fresh)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        *others, last = self._models
        for model in others:
            has_begun = False
            try:
                async with aclosing(model.stream(prompt)) as batches:
                    async for batch in batches:
                        has_begun = True
                        yield batch
            except ModelError as error:
                if has_begun:
                    raise
                log.warning("asking the next model of this name", model=prompt.model, error=error.message)
            else:
                return
        async with aclosing(last.stream(prompt)) as batches:
            async for batch in batches:
                yield batch

    def prefills(self, prompt: Prompt) -> bool:
        return all(model.prefills(prompt) for model in self._models)

    async def count(self, prompt: Prompt) -> Count:
        return await self._models[0].count(prompt)

    def window(self, name: str) -> int | None:
        """The smallest that is known: what fits it fits all."""
        return min((window for model in self._models if (window := model.window(name)) is not None), default=None)

    async def start(self) -> None:
        """Nothing: each is started by itself, and so it is checked and closed."""

    async def check(self) -> Check:
        return await self._models[0].check()

    async def close(self) -> None:
        """Nothing, as with `start`."""
