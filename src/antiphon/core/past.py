"""Past: what the events of an attempt that broke off add up to, for the builder that goes on. Pure; makes no events.

Unlike core/fold.py it reads events that this server's own builder made, up to where one batch ended: an item is open or
done, and never half closed.
"""

from collections.abc import Callable, Iterable
from typing import Final

from msgspec import structs

from antiphon.core.deltas import Refusal, Text, Thought
from antiphon.core.drafts import HOSTED_TEXTS, PARTS, THOUGHT_AS_SUMMARY, Draft, OpenPart, in_status
from antiphon.core.lowering import is_async
from antiphon.wire import events as ev
from antiphon.wire.items import (
    Asking,
    ClientCall,
    Compaction,
    CustomToolCall,
    HostedCall,
    Message,
    OutputItem,
    OutputText,
    ReasoningText,
    SummaryText,
    ToolSearchCall,
    ToolSearchOutput,
)
from antiphon.wire.items import Refusal as RefusalPart

KINDS = {OutputText: PARTS[Text], RefusalPart: PARTS[Refusal], ReasoningText: PARTS[Thought]}
KINDS_OF_PARTS = {**KINDS, SummaryText: THOUGHT_AS_SUMMARY}
TEXT_DELTAS = (ev.OutputTextDelta, ev.RefusalDelta, ev.ReasoningTextDelta, ev.SummaryTextDelta)


class Past:
    """Feed it events in their order."""

    def __init__(self, events: Iterable[ev.Event] = ()) -> None:
        self.next_number = 0
        self.is_damaged = False
        """What comes next cannot be understood: nobody can go on from here, and only the end can be told."""
        self.is_begun = False
        """Whether `response.in_progress` has been told."""
        self.items: list[OutputItem | None] = []
        self.drafts: dict[tuple[type, str], Draft] = {}
        self.running: dict[int, HostedCall | Compaction] = {}
        for event in events:
            self.feed(event)

    def feed(self, event: ev.Event) -> None:
        """Raises LookupError for one that does not follow."""
        if self.next_number not in (0, event.sequence_number):
            raise LookupError(self.next_number)
        if isinstance(event, ev.Lifecycle):
            self.is_begun = self.is_begun or isinstance(event, ev.ResponseInProgress)
        elif isinstance(event, ev.OutputItemAdded):
            self._add(event)
        elif isinstance(event, ev.OutputItemDone):
            self.items[event.output_index] = event.item
            self.running.pop(event.output_index, None)
            self.drafts.pop(_key(event.output_index), None)
        elif isinstance(event, ev.HostedStatus | ev.CompactionCompacting):
            status = "compacting" if isinstance(event, ev.CompactionCompacting) else event.type.rpartition(".")[2]
            self.running[event.output_index] = in_status(self.running[event.output_index], status)
        elif event.output_index in self.running:
            self._hear(event)
        else:
            _write(self.drafts[_key(event.output_index)], event)
        self.next_number = event.sequence_number + 1

    def _hear(self, event: ev.Event) -> None:
        """The text of a hosted call, which comes whole."""
        item = self.running[event.output_index]  # type: ignore[union-attr] # only events of items come here
        text = HOSTED_TEXTS.get(type(item))
        if text is not None and isinstance(event, text.delta):  # type: ignore[arg-type] # the table's are types
            self.running[event.output_index] = structs.replace(item, **{text.field: event.delta})  # type: ignore[union-attr]

    def _add(self, event: ev.OutputItemAdded) -> None:
        if event.output_index != len(self.items):
            raise LookupError(event.output_index)
        self.items.append(None)
        if isinstance(event.item, Asking):
            return  # done at once
        if isinstance(event.item, HostedCall | Compaction):
            self.running[event.output_index] = event.item
            return
        draft = self.drafts[_key(event.output_index)] = Draft(event.output_index, event.item)
        if isinstance(event.item, CustomToolCall):
            draft.reader = None  # what it held back is lost, and its item will be incomplete

    # -- what follows from it

    @property
    def output(self) -> tuple[OutputItem, ...]:
        """Unfinished items included."""
        unfinished = {draft.index: draft.snapshot() for draft in self.drafts.values()} | self.running
        return tuple(item if item is not None else unfinished[index] for index, item in enumerate(self.items))

    @property
    def settled(self) -> int:
        """How many items are of turns that ended: with calls, since a turn without any is the last one; or that came
        before the first. What was running is made again, and then they end, too."""
        last = max((index for index, item in enumerate(self.items, 1) if _is_settling(item)), default=0)
        return max(last, *(index + 1 for index, item in self.running.items() if isinstance(item, HostedCall)), 0)

    @property
    def is_whole(self) -> bool:
        """The client has something to do: all that is missing is the end, once what was running is done."""
        return any(_is_settling(item) and _is_due(item) for item in self.items)

    @property
    def is_compacted(self) -> bool:
        return any(isinstance(item, Compaction) for item in self.items)

    @property
    def begun(self) -> str:
        """The text that was said last, where it is all that its turn has said, and plain: a model that prefills can say
        what comes behind it, in the same item if that is still open. Empty where there is none."""
        turn = self.output[self.settled :]
        messages = [item for item in turn if isinstance(item, Message)]
        if len(messages) != 1 or messages[0] is not turn[-1] or messages[0].status == "incomplete":
            return ""
        is_alone = all(draft.index == len(self.items) - 1 for draft in self.drafts.values())
        first, *others = messages[0].content or (None,)
        if others or not isinstance(first, OutputText) or first.annotations or first.logprobs:
            return ""
        return first.text if is_alone and not self.is_compacted and first.text.strip() else ""

    def fault(self, may_repeat: Callable[[HostedCall], bool] = lambda _: False) -> str:
        """Why nobody can go on from here; empty when somebody can, who must prefill where a text is begun. What was
        told cannot be taken back, and what a tool may have done is not done again, unless that does no harm."""
        if self.is_damaged:
            return "and what is stored of this response cannot be understood"
        if any(isinstance(item, HostedCall) and not may_repeat(item) for item in self.running.values()):
            return "while a tool was running, and it is not known what that has done"
        is_midway = any(isinstance(item, Message) for item in self.output[self.settled :])
        return MIDWAY if is_midway and not (self.is_whole or self.begun) else ""


MIDWAY: Final = "in the middle of its answer"
NOTHING_YET = Past()


def _key(index: int) -> tuple[type, str]:
    return (Past, str(index))


def _is_settling(item: OutputItem | None) -> bool:
    done = HostedCall | Asking | ToolSearchOutput
    return isinstance(item, done) or (isinstance(item, ClientCall) and item.status == "completed")


def _is_due(item: OutputItem | None) -> bool:
    if isinstance(item, ToolSearchCall) and item.call_id is None:  # this server's own
        return False
    return isinstance(item, Asking) or (isinstance(item, ClientCall) and not is_async(item))


def _write(draft: Draft, event: ev.Event) -> None:
    if isinstance(event, ev.ContentPartAdded | ev.SummaryPartAdded):
        kind = KINDS_OF_PARTS[type(event.part)]
        draft.open = OpenPart(kind, len(draft.parts.get(kind.field, ())), 0)
    elif isinstance(event, ev.ContentPartDone | ev.SummaryPartDone):
        field = KINDS_OF_PARTS[type(event.part)].field
        draft.parts.setdefault(field, []).append(event.part)
        draft.open = None
    elif isinstance(event, TEXT_DELTAS):
        assert draft.open is not None
        draft.open.chunks.append(event.delta)
        if isinstance(event, ev.OutputTextDelta):
            draft.open.logprobs.extend(event.logprobs)
    elif isinstance(event, ev.AnnotationAdded):
        assert draft.open is not None
        draft.open.annotations.append(event.annotation)
    elif isinstance(event, ev.ArgumentsDelta | ev.CustomInputDelta):
        draft.chunks.append(event.delta)
    # else: the end of a text, which tells nothing new
