"""/v1/conversations and what hangs under it. In OpenAI's dialect alone: Open Responses has no conversations."""

from collections.abc import Sequence
from functools import partial
from typing import Final, TypeVar

from msgspec import Struct

from antiphon.api.http import Call, Served, decoded, header_value, read_json, send_value
from antiphon.api.paging import INCLUDE, PAGING, SEALED, asked, included, paging
from antiphon.config import Limits
from antiphon.engine.engine import Engine
from antiphon.errors import UnknownParameter
from antiphon.observe import log
from antiphon.wire import codec
from antiphon.wire.conversation import (
    AddItems,
    Conversation,
    ConversationList,
    CreateConversation,
    DeletedConversation,
    UpdateConversation,
)
from antiphon.wire.dialect import OPENAI
from antiphon.wire.items import Item
from antiphon.wire.resources import ItemList

T = TypeVar("T")

LISTING: Final = paging("conversations", "a conversation")
"""An extension, so nothing in its query is tolerated."""


class _Conversations(Struct, frozen=True):
    engine: Engine
    limits: Limits
    strict: bool

    async def create(self, call: Call) -> None:
        request, headers = await self._request(call, CreateConversation)
        await send_value(call, await self.engine.conversations.create(call.project, request), headers=headers)

    async def page(self, call: Call) -> None:
        query = call.query()
        known = [one.name for one in LISTING]
        for name, _ in query.pairs:
            if name not in known:
                raise UnknownParameter(f"Unknown parameter: '{name[:64]}'. Known are: {', '.join(known)}.", param=name)
        query.refuse_empty(known)
        await send_value(call, await self.engine.conversations.page(call.project, **asked(query)))

    async def retrieve(self, call: Call) -> None:
        await send_value(call, await self.engine.conversations.find(call.project, _id(call)))

    async def update(self, call: Call) -> None:
        request, headers = await self._request(call, UpdateConversation)
        await send_value(
            call, await self.engine.conversations.update(call.project, _id(call), request), headers=headers
        )

    async def delete(self, call: Call) -> None:
        await self.engine.conversations.delete(call.project, _id(call))
        await send_value(call, DeletedConversation(id=_id(call)))

    async def add_items(self, call: Call) -> None:
        wanted = included(call.query())
        request, headers = await self._request(call, AddItems)
        added = self._sealed(call, wanted, await self.engine.conversations.add_items(call.project, _id(call), request))
        await send_value(call, ItemList.of(added, has_more=False), wanted=wanted, headers=headers)

    async def items(self, call: Call) -> None:
        wanted = included(call.query())
        page = await self.engine.conversations.items(call.project, _id(call), **asked(call.query()))
        found = ItemList.of(self._sealed(call, wanted, page.items), has_more=page.has_more)
        await send_value(call, found, wanted=wanted)

    async def item(self, call: Call) -> None:
        wanted = included(call.query())
        item = await self.engine.conversations.item(call.project, _id(call), call.path("item_id"))
        await send_value(call, self._sealed(call, wanted, (item,))[0], wanted=wanted)

    async def delete_item(self, call: Call) -> None:
        conversation = await self.engine.conversations.delete_item(call.project, _id(call), call.path("item_id"))
        await send_value(call, conversation)

    def _sealed(self, call: Call, wanted: Sequence[str], items: Sequence[Item]) -> tuple[Item, ...]:
        return self.engine.sealed(call.project, items) if SEALED in wanted else (*items,)

    async def _request(self, call: Call, kind: type[T]) -> tuple[T, dict[bytes, bytes]]:
        """What is asked for; and the header that names what was passed over."""
        body = await read_json(call.scope, call.receive, self.limits.body_bytes_max)
        decoding = partial(codec.decode_conversation, body, kind, strict=self.strict)
        request, unknown = await decoded(body, decoding)
        if not unknown:
            return request, {}
        log.warning("unknown parameters", path=call.scope["path"], parameters=unknown[:20])
        return request, {b"antiphon-ignored-parameters": header_value(unknown)}


def _id(call: Call) -> str:
    return call.path("conversation_id")


def routes(engine: Engine, limits: Limits, *, strict: bool) -> list[Served]:
    it = _Conversations(engine, limits, strict)
    every = f"{OPENAI.prefix}/conversations"
    one = every + "/{conversation_id}"
    items, item = one + "/items", one + "/items/{item_id}"
    return [
        Served(
            method="GET",
            path=every,
            endpoint=it.page,
            summary="List conversations (an extension of the API)",
            gives=ConversationList,
            query=LISTING,
        ),
        Served(
            method="POST",
            path=every,
            endpoint=it.create,
            summary="Create a conversation",
            takes=CreateConversation,
            gives=Conversation,
        ),
        Served(method="GET", path=one, endpoint=it.retrieve, summary="Retrieve a conversation", gives=Conversation),
        Served(
            method="POST",
            path=one,
            endpoint=it.update,
            summary="Replace a conversation's metadata",
            takes=UpdateConversation,
            gives=Conversation,
        ),
        Served(
            method="DELETE",
            path=one,
            endpoint=it.delete,
            summary="Delete a conversation with its items",
            gives=DeletedConversation,
        ),
        Served(
            method="POST",
            path=items,
            endpoint=it.add_items,
            summary="Add items to a conversation",
            takes=AddItems,
            gives=ItemList,
            query=(INCLUDE,),
        ),
        Served(
            method="GET",
            path=items,
            endpoint=it.items,
            summary="List the items of a conversation",
            gives=ItemList,
            query=PAGING,
        ),
        Served(method="GET", path=item, endpoint=it.item, summary="Retrieve an item", gives=Item, query=(INCLUDE,)),
        Served(
            method="DELETE",
            path=item,
            endpoint=it.delete_item,
            summary="Delete an item of a conversation",
            gives=Conversation,
        ),
    ]
