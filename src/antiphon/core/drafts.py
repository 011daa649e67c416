"""Drafts: items that are being written, and the tables of how each kind is. Knows no order of events and no numbers.

Part of the builder, whose theory of operation stands in core/builder.py.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

from msgspec import UNSET, UnsetType, structs

from antiphon.core.deltas import Refusal, Summary, Text, Thought
from antiphon.core.unwrap import InputReader
from antiphon.wire import events as ev
from antiphon.wire import items as it
from antiphon.wire.items import (
    Compaction,
    CustomToolCall,
    FunctionCall,
    HostedCall,
    McpCall,
    Message,
    OutputItem,
    Reasoning,
)

HostedT = TypeVar("HostedT", bound=HostedCall | Compaction)


class PartKind(NamedTuple):
    """How one kind of delta becomes a part of an item, and by which events."""

    item: type[Message] | type[Reasoning]
    field: Literal["content", "summary"]
    part: Callable[[str], it.Part]
    part_added: Callable[..., ev.Event]
    text_delta: Callable[..., ev.Event]
    text_done: Callable[..., ev.Event]
    part_done: Callable[..., ev.Event]


THOUGHT_AS_IS = PartKind(
    Reasoning,
    "content",
    lambda text: it.ReasoningText(text=text),
    ev.ContentPartAdded,
    ev.ReasoningTextDelta,
    ev.ReasoningTextDone,
    ev.ContentPartDone,
)
THOUGHT_AS_SUMMARY = PartKind(
    Reasoning,
    "summary",
    lambda text: it.SummaryText(text=text),
    ev.SummaryPartAdded,
    ev.SummaryTextDelta,
    ev.SummaryTextDone,
    ev.SummaryPartDone,
)
PARTS: dict[type, PartKind] = {
    Text: PartKind(
        Message,
        "content",
        lambda text: it.OutputText(text=text),
        ev.ContentPartAdded,
        ev.OutputTextDelta,
        ev.OutputTextDone,
        ev.ContentPartDone,
    ),
    Refusal: PartKind(
        Message,
        "content",
        lambda text: it.Refusal(refusal=text),
        ev.ContentPartAdded,
        ev.RefusalDelta,
        ev.RefusalDone,
        ev.ContentPartDone,
    ),
    Thought: THOUGHT_AS_IS,
    Summary: THOUGHT_AS_SUMMARY,
}


class CallKind(NamedTuple):
    """How a call that the client runs streams its one text."""

    field: str
    delta: Callable[..., ev.Event]
    done: Callable[..., ev.Event]


CALLS: dict[type, CallKind] = {
    FunctionCall: CallKind("arguments", ev.ArgumentsDelta, ev.ArgumentsDone),
    CustomToolCall: CallKind("input", ev.CustomInputDelta, ev.CustomInputDone),
}

HOSTED_TEXTS: dict[type, CallKind] = {McpCall: CallKind("arguments", ev.McpArgumentsDelta, ev.McpArgumentsDone)}
"""The text of a hosted call that is told by events of its own."""


UNFINISHED = "It was not finished."
"""How an item without a status tells that."""


def in_status(item: HostedT, status: str) -> HostedT:
    """The item in that status, where items of its kind have one."""
    if hasattr(item, "status"):
        return structs.replace(item, status=status)
    return structs.replace(item, error=UNFINISHED) if status == "incomplete" else item


def as_begun(item: HostedT) -> HostedT:
    """Without what is told only when the call ends."""
    later = getattr(item, "done_only", ())
    return structs.replace(item, **dict.fromkeys(later, UNSET)) if later else item


EMPTY: dict[type, OutputItem] = {
    Message: Message(status="in_progress", content=(), role="assistant"),
    Reasoning: Reasoning(status="in_progress", summary=()),
}


class OpenPart:
    """The part that is being written."""

    __slots__ = ("annotations", "chunks", "index", "kind", "label", "logprobs")

    def __init__(self, kind: PartKind, index: int, label: int) -> None:
        self.kind = kind
        self.index = index
        self.label = label
        self.chunks: list[str] = []
        self.annotations: list[it.Annotation] = []
        self.logprobs: list[it.Logprob] = []

    def part(self) -> it.Part:
        part = self.kind.part("".join(self.chunks))
        if self.annotations or self.logprobs:
            return structs.replace(part, annotations=tuple(self.annotations), logprobs=tuple(self.logprobs))
        return part


class Draft:
    """An item that is not done. `item` is as it was added; what has been written since stands beside it."""

    __slots__ = ("chunks", "id", "index", "item", "open", "parts", "reader", "sealed")

    def __init__(self, index: int, item: OutputItem) -> None:
        assert item.id is not UNSET
        self.id: str = item.id
        self.index = index
        self.item = item
        self.reader = InputReader() if type(item) is CustomToolCall else None
        self.parts: dict[str, list[it.Part]] = {}
        self.open: OpenPart | None = None
        self.chunks: list[str] = []
        self.sealed: str | UnsetType = UNSET
        """The thought, as its vendor sealed it."""

    def snapshot(self) -> OutputItem:
        """The item as it stands: what was written up to now, not yet done."""
        parts = {field: tuple(written) for field, written in self.parts.items()}
        if self.open is not None:
            field = self.open.kind.field
            parts[field] = (*parts.get(field, ()), self.open.part())
        kind = CALLS.get(type(self.item))
        text = {kind.field: "".join(self.chunks)} if kind else {}
        return structs.replace(self.item, **parts, **text)
