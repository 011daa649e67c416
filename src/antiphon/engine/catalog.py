"""Catalog: which model answers to which name. Knows no request."""

import asyncio
from collections.abc import Sequence

from antiphon.core.ports import Model, ModelCard
from antiphon.engine.replicas import Replicas, ranked
from antiphon.errors import ModelError, ModelNotFound
from antiphon.observe import log


class Catalog:
    """Routes names to models. Where several serve one name, they share its requests."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)
        self._owners: dict[str, list[Model]] = {}
        """In the order they are configured."""
        self._turn = 0

    async def find(self, name: str, key: str | None = None) -> Model:
        """The model behind a name; of several, the same for the same key, else each in its turn. Raises ModelNotFound;
        or ModelError, when whoever might know cannot be asked."""
        owners = self._owners.get(name)
        if owners is None:
            failures = await self._refresh()
            owners = self._owners.get(name)
            if owners is None and failures:
                raise failures[0]
        if owners is None:
            raise ModelNotFound(f"The requested model '{name[:128]}' does not exist.")
        if len(owners) == 1:
            return owners[0]
        if key is not None:
            return Replicas(ranked(owners, key))
        self._turn = turn = (self._turn + 1) % len(owners)
        return Replicas([*owners[turn:], *owners[:turn]])

    async def cards(self) -> list[ModelCard]:
        """Every model that can be asked for now; those of an upstream that is down are left out, and logged."""
        failures, cards = await self._ask()
        if failures and not cards:
            raise failures[0]
        return list(cards.values())

    async def _refresh(self) -> list[ModelError]:
        failures, _ = await self._ask(fresh=True)
        return failures

    async def _ask(self, *, fresh: bool = False) -> tuple[list[ModelError], dict[str, ModelCard]]:
        answers = await asyncio.gather(*(_cards(model, fresh) for model in self.models))
        failures = [answer for answer in answers if isinstance(answer, ModelError)]
        cards: dict[str, ModelCard] = {}
        for model, answer in zip(self.models, answers, strict=True):
            for card in () if isinstance(answer, ModelError) else answer:
                cards.setdefault(card.id, card)
                owners = self._owners.setdefault(card.id, [])
                if model not in owners:
                    owners.append(model)
                    owners.sort(key=self.models.index)
        return failures, cards


async def _cards(model: Model, fresh: bool) -> Sequence[ModelCard] | ModelError:
    try:
        return await model.cards(fresh=fresh)
    except ModelError as error:
        log.warning("models cannot be listed", error=error.message)
        return error
