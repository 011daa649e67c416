"""Conversations: what is asked of them, and what is given. Data only.

Source: openai 3.54.0 types/conversations; limits from OpenAI's OpenAPI of August 2026.
"""

from typing import Literal

from msgspec import Struct

from antiphon.wire.items import InputItem


class Conversation(Struct, frozen=True, kw_only=True):
    """`created_at` is in Unix seconds."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str] = {}


class ConversationList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Conversation, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, conversations: tuple[Conversation, ...], *, has_more: bool) -> "ConversationList":
        first, last = (conversations[0].id, conversations[-1].id) if conversations else (None, None)
        return cls(data=conversations, first_id=first, last_id=last, has_more=has_more)


class DeletedConversation(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True


class CreateConversation(Struct, frozen=True, kw_only=True):
    items: tuple[InputItem, ...] = ()
    metadata: dict[str, str] = {}


class UpdateConversation(Struct, frozen=True, kw_only=True):
    metadata: dict[str, str]


class AddItems(Struct, frozen=True, kw_only=True):
    items: tuple[InputItem, ...]
