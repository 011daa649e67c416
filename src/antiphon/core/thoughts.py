"""Thoughts: reasoning items as clients keep them and hand them back, and as models are told of them. Pure: what seals
and opens is handed in.

A client that keeps a conversation itself gets each thought sealed, in `encrypted_content`. When it comes back, the
sealed thought counts, whatever else the item says: many clients strip the rest. How the model's vendor sealed it lies
within, so that this, too, is bound to the project.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from antiphon.core.ids import ID_CHARS_MAX
from antiphon.core.prompt import VendorThought
from antiphon.errors import InvalidEncryptedContent, InvalidRequest
from antiphon.wire.items import (
    AdditionalTools,
    ConfigurationUpdate,
    InputItem,
    Item,
    ItemStatus,
    Message,
    Reasoning,
    ReasoningText,
    SummaryText,
)

T = TypeVar("T", bound=Item)
Seal: TypeAlias = Callable[[bytes], str]
Open: TypeAlias = Callable[[str], bytes]
"""Raises InvalidEncryptedContent."""


class Kept(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sealed of a thought."""

    id: str
    model: str = ""
    """Who thought it, where that matters: it alone is told the vendor's seal."""
    status: ItemStatus | UnsetType = UNSET
    summary: tuple[SummaryText, ...] = ()
    content: tuple[ReasoningText, ...] | UnsetType = UNSET
    vendor: str | UnsetType = UNSET
    """How the vendor of the model sealed it."""


_decode = msgspec.json.Decoder(Kept).decode


class Thoughts:
    """Of one project, for which `seal` and `open_` work."""

    def __init__(self, seal: Seal, open_: Open) -> None:
        self._seal = seal
        self._open = open_

    def included(self, items: Iterable[T]) -> tuple[T, ...]:
        """The items, each finished thought sealed: for a client that asks when they are stored already."""
        return tuple(
            cast("T", self.sealed(item))
            if isinstance(item, Reasoning) and item.encrypted_content is UNSET and item.status != "in_progress"
            else item
            for item in items
        )

    def sealed(self, thought: Reasoning, model: str = "", vendor: str | UnsetType = UNSET) -> Reasoning:
        assert thought.id is not UNSET
        kept = Kept(
            id=thought.id,
            model=model,
            status=thought.status,
            summary=thought.summary,
            content=thought.content,
            vendor=vendor,
        )
        return structs.replace(thought, encrypted_content=self._seal(msgspec.json.encode(kept)))

    def restored(self, items: Sequence[InputItem], param: str) -> tuple[InputItem, ...]:
        """A request's items, with sealed thoughts as they were when they were sealed. `param` is what they are called.

        Raises InvalidEncryptedContent where one is not ours or stands under another's id, InvalidRequest where one
        comes twice.
        """
        found = list(items)
        ids: set[str] = set()
        for index, item in enumerate(items):
            if type(item) is not Reasoning or item.encrypted_content is UNSET:
                continue
            kept = self._opened(item.encrypted_content)
            if kept is None or item.id not in (UNSET, kept.id):
                raise InvalidEncryptedContent(param=f"{param}[{index}].encrypted_content")
            if kept.id in ids:
                raise InvalidRequest(
                    f"Duplicate item found with id {kept.id}. Remove duplicate items from your input and try again.",
                    param=param,
                )
            ids.add(kept.id)
            found[index] = structs.replace(
                item, id=kept.id, status=kept.status, summary=kept.summary, content=kept.content
            )
        return tuple(found)

    def shown(self, items: Iterable[Item]) -> list[Item]:
        """The items as a model may be told of them: thoughts with what their vendor sealed, without our seal."""
        return [
            self._shown(item, item.encrypted_content)
            if type(item) is Reasoning and item.encrypted_content is not UNSET
            else item
            for item in items
        ]

    def _shown(self, item: Reasoning, sealed: str) -> Reasoning:
        kept = self._opened(sealed)
        if kept is None or kept.vendor is UNSET:  # one that was stored is still what it says, when its key is gone
            return structs.replace(item, encrypted_content=UNSET)
        return VendorThought(
            id=item.id,
            status=item.status,
            summary=item.summary,
            content=item.content,
            encrypted_content=kept.vendor,
            model=kept.model,
        )

    def _opened(self, sealed: str) -> Kept | None:
        try:
            return _decode(self._open(sealed))
        except (InvalidEncryptedContent, msgspec.DecodeError):
            return None


def check_led_on(items: Sequence[InputItem]) -> None:
    """Raises InvalidRequest for a thought of an earlier response that led to nothing: its model says nothing after it,
    but others do, or nobody. That is no fault of one that was cut short, or that no response brought: it has no id.
    """
    following: InputItem | None = None
    for item in reversed(items):
        if type(item) is Reasoning:
            is_alone = following is None or (isinstance(following, Message) and following.role != "assistant")
            if is_alone and item.id is not UNSET and item.status != "incomplete":
                raise InvalidRequest(
                    f"Item '{item.id[:ID_CHARS_MAX]}' of type 'reasoning' was provided without its required following "
                    "item.",
                    param="input",
                )
        elif not isinstance(item, AdditionalTools | ConfigurationUpdate):
            following = item
