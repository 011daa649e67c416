"""Inputs: items in the form in which a model may be told of them: brought from elsewhere, opened where sealed."""

from collections.abc import Sequence

from antiphon.wire.items import Item


class Inputs:
    """Stored items stay as the client sent them; what they became is for the model alone."""

    async def shown(self, project: str, items: Sequence[Item], param: str) -> Sequence[Item]:
        """The same items, in the same places. `param` names where they stand in the request: "input", or what brought
        them. Raises InvalidRequest, naming the part, for what cannot be brought or opened."""
        return items
