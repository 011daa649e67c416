"""MemoryConversations: conversations of the verified fake, in one dictionary. Knows no file, and keeps nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from antiphon.config import Limits
from antiphon.core.ports import JOINING, Lock, Order, Page
from antiphon.errors import ConversationLocked, ConversationNotFound, InvalidRequest, NotFound, StorageError
from antiphon.wire.conversation import Conversation, ConversationList
from antiphon.wire.items import Item
from antiphon.wire.response import Response


@dataclass
class _Kept:
    conversation: Conversation
    items: dict[str, Item]
    version: int = 1
    locked_by: str = ""
    locked_until: int = 0

    def require_free(self, now: int) -> None:
        if self.locked_until > now:
            raise ConversationLocked

    def change(self, items: dict[str, Item]) -> None:
        """It is free then: a lock that still stands here is its owner's, or has ended."""
        self.items = items
        self.version += 1
        self.locked_by, self.locked_until = "", 0


class MemoryConversations:
    """Implements the port Conversations."""

    def __init__(self, limits: Limits) -> None:
        self._items_max = limits.history_items_max
        self._kept: dict[tuple[str, str], _Kept] = {}

    async def add(self, project: str, conversation: Conversation, items: Sequence[Item]) -> None:
        self._kept[project, conversation.id] = _Kept(conversation, _by_id(items))

    async def page(self, project: str, *, limit: int, order: Order, after: str | None) -> ConversationList:
        listed = [kept.conversation for (owner, _), kept in self._kept.items() if owner == project]
        listed.sort(key=lambda one: one.created_at)  # what is equal stays as it was added
        if order == "desc":
            listed.reverse()
        begin = next((at for at, one in enumerate(listed, 1) if one.id == after), 0)
        if after is not None and not begin:
            raise ConversationNotFound(after, param="after")
        return ConversationList.of(tuple(listed[begin : begin + limit]), has_more=len(listed) > begin + limit)

    async def find(self, project: str, conversation_id: str) -> Conversation:
        return self._found(project, conversation_id).conversation

    async def update(self, project: str, conversation_id: str, metadata: dict[str, str]) -> Conversation:
        kept = self._found(project, conversation_id)
        kept.conversation = replace(kept.conversation, metadata=metadata)
        return kept.conversation

    async def delete(self, project: str, conversation_id: str) -> None:
        self._found(project, conversation_id)
        del self._kept[project, conversation_id]

    async def items(self, project: str, conversation_id: str, *, limit: int, order: Order, after: str | None) -> Page:
        listed = list(self._found(project, conversation_id).items.values())
        if order == "desc":
            listed.reverse()
        begin = max((at for at, item in enumerate(listed, 1) if item.id == after), default=0)
        if after is not None and not begin:
            raise NotFound(f"Item with id '{after[:128]}' not found.", param="after")
        return Page(items=tuple(listed[begin : begin + limit]), has_more=len(listed) > begin + limit)

    async def item(self, project: str, conversation_id: str, item_id: str) -> Item:
        item = self._found(project, conversation_id).items.get(item_id)
        if item is None:
            raise NotFound(f"Item with id '{item_id[:128]}' not found.")
        return item

    async def add_items(
        self, project: str, conversation_id: str, items: Sequence[Item], spare_ids: Sequence[str], *, now: int
    ) -> tuple[Item, ...]:
        kept = self._found(project, conversation_id)
        kept.require_free(now)
        if len(kept.items) + len(items) > self._items_max:
            raise InvalidRequest(f"The conversation would hold more than {self._items_max} items.", param="items")
        pairs = zip(items, spare_ids, strict=True)
        added = tuple(replace(item, id=spare) if item.id in kept.items else item for item, spare in pairs)
        kept.change(kept.items | _by_id(added))
        return added

    async def delete_item(self, project: str, conversation_id: str, item_id: str, *, now: int) -> Conversation:
        kept = self._found(project, conversation_id)
        kept.require_free(now)
        gone = await self.item(project, conversation_id, item_id)
        kept.change({one: item for one, item in kept.items.items() if item is not gone})
        return kept.conversation

    async def version(self, project: str, conversation_id: str) -> int:
        return self._found(project, conversation_id).version

    async def context(self, project: str, conversation_id: str) -> tuple[int, tuple[Item, ...]]:
        kept = self._found(project, conversation_id)
        return kept.version, (*kept.items.values(),)

    async def lock(self, lock: Lock, *, version: int, now: int, until: int) -> None:
        kept = self._found(lock.project, lock.conversation_id)
        kept.require_free(now)
        if kept.version != version:
            raise ConversationLocked
        kept.locked_by, kept.locked_until = lock.response_id, until

    async def renew(self, locks: Sequence[Lock], *, until: int) -> None:
        for lock in locks:
            kept = self._kept.get((lock.project, lock.conversation_id))
            if kept and kept.locked_by == lock.response_id:
                kept.locked_until = until

    async def release(self, lock: Lock) -> None:
        kept = self._kept.get((lock.project, lock.conversation_id))
        if kept and kept.locked_by == lock.response_id:
            kept.locked_by, kept.locked_until = "", 0

    # -- what the store of responses asks

    def join(self, project: str, response: Response, items: Sequence[Item]) -> None:
        assert response.conversation
        kept = self._kept.get((project, response.conversation.id))
        if kept is None:
            return
        if response.status in JOINING:
            if kept.locked_by != response.id:
                raise StorageError
            kept.change(kept.items | _by_id(items))
        elif kept.locked_by == response.id:
            kept.locked_by, kept.locked_until = "", 0

    def every_item(self, project: str) -> Iterator[Item]:
        for (owner, _), kept in self._kept.items():
            if owner == project:
                yield from kept.items.values()

    def _found(self, project: str, conversation_id: str) -> _Kept:
        kept = self._kept.get((project, conversation_id))
        if kept is None:
            raise ConversationNotFound(conversation_id)
        return kept


def _by_id(items: Sequence[Item]) -> dict[str, Item]:
    return {str(item.id): item for item in items}
