"""Catalog: which model answers to which name. Knows no request."""

import asyncio
from collections.abc import Sequence

from antiphon.core.ports import Model, ModelCard
from antiphon.errors import ModelError, ModelNotFound
from antiphon.observe import log


class Catalog:
    """Routes names to models in the order they are configured: where two serve one name, the first does."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)
        self._owners: dict[str, Model] = {}

    async def find(self, name: str) -> Model:
        """The model behind a name. Raises ModelNotFound; or ModelError, when whoever might know cannot be asked."""
        owner = self._owners.get(name)
        if owner is None:
            failures = await self._refresh()
            owner = self._owners.get(name)
            if owner is None and failures:
                raise failures[0]
        if owner is None:
            raise ModelNotFound(f"The requested model '{name[:128]}' does not exist.")
        return owner

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
                if card.id not in cards:
                    cards[card.id] = card
                    self._owners[card.id] = model
        return failures, cards


async def _cards(model: Model, fresh: bool) -> Sequence[ModelCard] | ModelError:
    try:
        return await model.cards(fresh=fresh)
    except ModelError as error:
        log.warning("models cannot be listed", error=error.message)
        return error
