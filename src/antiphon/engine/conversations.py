"""Conversations as their API asks for them. Knows no HTTP, and nothing of the responses that are made in them."""

from antiphon.core import plan as planning
from antiphon.core.ports import Order, Page
from antiphon.engine.world import World
from antiphon.wire import codec
from antiphon.wire.conversation import AddItems, Conversation, ConversationList, CreateConversation, UpdateConversation
from antiphon.wire.items import ID_PREFIXES, AdditionalTools, InputItem, Item, ToolSearchOutput


class Conversations:
    """Every method takes the project, and raises ConversationNotFound for what is unknown there or deleted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store.conversations

    async def create(self, project: str, request: CreateConversation) -> Conversation:
        conversation = Conversation(
            id=self._world.new_id("conv"), created_at=self._world.clock(), metadata=request.metadata
        )
        await self._store.add(project, conversation, await self._entered(project, request.items))
        return conversation

    async def page(self, project: str, *, limit: int, order: Order, after: str | None) -> ConversationList:
        return await self._store.page(project, limit=limit, order=order, after=after)

    async def find(self, project: str, conversation_id: str) -> Conversation:
        return await self._store.find(project, conversation_id)

    async def update(self, project: str, conversation_id: str, request: UpdateConversation) -> Conversation:
        return await self._store.update(project, conversation_id, request.metadata)

    async def delete(self, project: str, conversation_id: str) -> None:
        """Its items go with it. Responses that were made in it stay, with the items that are their own."""
        await self._store.delete(project, conversation_id)

    async def add_items(self, project: str, conversation_id: str, request: AddItems) -> tuple[Item, ...]:
        items = await self._entered(project, request.items)
        spare = [self._world.new_id(ID_PREFIXES[type(item)]) for item in items]
        return await self._store.add_items(project, conversation_id, items, spare, now=self._world.clock())

    async def items(self, project: str, conversation_id: str, *, limit: int, order: Order, after: str | None) -> Page:
        return await self._store.items(project, conversation_id, limit=limit, order=order, after=after)

    async def item(self, project: str, conversation_id: str, item_id: str) -> Item:
        return await self._store.item(project, conversation_id, item_id)

    async def delete_item(self, project: str, conversation_id: str, item_id: str) -> Conversation:
        return await self._store.delete_item(project, conversation_id, item_id, now=self._world.clock())

    async def _entered(self, project: str, items: tuple[InputItem, ...]) -> tuple[Item, ...]:
        """The items of a request, as they stand in a conversation. Raises InvalidRequest, naming the part, for one that
        no response could be made after."""
        items = self._world.restored(project, items, "items")
        ids = planning.references(items)
        referenced = await self._world.store.items(project, ids) if ids else {}
        entered = planning.entered(items, (), referenced, self._world.new_id, "items")
        for index, item in enumerate(entered):
            if isinstance(item, AdditionalTools | ToolSearchOutput):
                codec.decode_tools(item.tools, f"items[{index}].tools")
        return entered
