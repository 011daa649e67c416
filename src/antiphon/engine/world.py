"""World: what every run of a server shares, and what only it can seal and open. Runs nothing."""

from collections.abc import Mapping, Sequence
from functools import partial

from msgspec import UNSET

from antiphon.config import Limits
from antiphon.core import secrets
from antiphon.core.compaction import Compactions
from antiphon.core.hosted import Tool
from antiphon.core.ids import Clock, NewId
from antiphon.core.ports import Store
from antiphon.core.thoughts import Thoughts
from antiphon.engine.meter import Meter
from antiphon.sealing import Seal
from antiphon.wire.items import Compaction, InputItem, Item, Reasoning
from antiphon.wire.response import Response
from antiphon.wire.tools import Tool as Declaration

NOT_BEFORE_S = 60
"""What took longer to be made than it was to be kept must be there before it goes."""
SEALABLE = frozenset({Reasoning, Compaction})


class World:
    """What every run of a server shares."""

    def __init__(
        self, store: Store, tools: Mapping[str, Tool], limits: Limits, new_id: NewId, clock: Clock, seal: Seal
    ) -> None:
        self.store = store
        self.tools = tools
        self.limits = limits
        self.new_id = new_id
        self.clock = clock
        self._seal = seal
        self.meter = Meter(store.rollups, new_id, store.runs.waiting)

    async def will_expire(self, project: str, response: Response) -> None:
        """Called before it is stored: where it never is, nothing is left to go. Raises StorageError."""
        if response.expires_at is not UNSET and response.store:
            at = max(response.expires_at, self.clock() + NOT_BEFORE_S)
            await self.store.retention.expire_at(project, response.id, at)

    def thoughts(self, project: str) -> Thoughts:
        return Thoughts(partial(self._seal.seal, project, "reasoning"), partial(self._seal.open, project, "reasoning"))

    def compactions(self, project: str) -> Compactions:
        return Compactions(
            partial(self._seal.seal, project, "compaction"), partial(self._seal.open, project, "compaction")
        )

    def sealed_tools(self, project: str, tools: Sequence[Declaration]) -> tuple[Declaration, ...]:
        """The declarations as they may be stored."""
        return secrets.changed(tools, lambda text: self._seal.seal(project, "tools", text.encode()))

    def opened_tools(self, project: str, tools: Sequence[Declaration]) -> tuple[Declaration, ...]:
        """Raises InvalidEncryptedContent."""
        return secrets.changed(tools, lambda text: self._seal.open(project, "tools", text).decode())

    def restored(self, project: str, items: Sequence[InputItem], param: str) -> tuple[InputItem, ...]:
        """A request's items, with what is sealed in them as it was when it was sealed."""
        if not any(type(item) in SEALABLE for item in items):
            return tuple(items)
        return self.compactions(project).restored(self.thoughts(project).restored(items, param), param)

    def opened(self, project: str, items: Sequence[Item], param: str) -> Sequence[Item]:
        """The items as a model may be told of them. Raises InvalidEncryptedContent for what is not ours."""
        if not any(type(item) in SEALABLE for item in items):
            return items
        return self.compactions(project).shown(self.thoughts(project).shown(items), param)
