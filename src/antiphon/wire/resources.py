"""The small resources around a response: lists, deletion receipts, health. Data only."""

from typing import Literal

from msgspec import UNSET, Struct

from antiphon.wire.items import Compaction, Item, Message
from antiphon.wire.response import Response, Usage


class DeletedResponse(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ItemList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Item, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, items: tuple[Item, ...], *, has_more: bool) -> "ItemList":
        ids = [item.id for item in items if item.id is not UNSET]
        return cls(data=items, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more)


class ResponseList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Response, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, responses: tuple[Response, ...], *, has_more: bool) -> "ResponseList":
        first, last = (responses[0].id, responses[-1].id) if responses else (None, None)
        return cls(data=responses, first_id=first, last_id=last, has_more=has_more)


class InputTokens(Struct, frozen=True, kw_only=True, rename={"found": "antiphon:count"}):
    """How many tokens a request's input is, and how that was found: told by whoever has the tokenizer, or estimated."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
    found: Literal["exact", "estimated"]


class CompactedResponse(Struct, frozen=True, kw_only=True):
    """A conversation made shorter, to be handed in whole where it stood. It is no response that could be continued."""

    id: str
    object: Literal["response.compaction"] = "response.compaction"
    created_at: int
    output: tuple[Message | Compaction, ...]
    """All that users said, then a compaction."""
    usage: Usage


class ErrorDetail(Struct, frozen=True, kw_only=True):
    """OpenAI's error: all four keys are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True, kw_only=True):
    error: ErrorDetail


class Health(Struct, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"
    version: str
