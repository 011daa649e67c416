"""The builder turns what models and tools say into events. It is the only state machine, and the only maker of ids,
indices and sequence numbers; it knows no I/O and no clock.

Theory of operation
-------------------
A response is a row of *items*, each at an index that is given when it is added and never changes. An item is open (a
`Draft`) until it is done; then it is frozen in `_items`, and nothing touches it again.

A draft with parts (a message, a reasoning item) has at most one *open part*; a delta of another kind closes that part
and opens the next. A draft without parts (a function call) gathers one text. What differs between kinds stands in two
tables, PARTS and CALLS; the code below never asks for a kind by name.

Deltas carry the vendor's key. (kind of item, key) names a draft until the turn ends:

    delta              draft                          closes
    ------------------------------------------------------------------------------------
    Text, Refusal      message                        any open reasoning
    Thought, Summary   reasoning                      any open message
    ToolCall           function_call of that key      any open message or reasoning
    ToolCall, hosted   none: gathered until the turn ends, then run, then added as the tool's own item

So at most one message or reasoning item is open at a time, while calls stay open side by side: vendors interleave the
fragments of parallel calls. `end_turn` closes them in index order and hands back what is to be called.

The terminal event is only *proposed* (`propose`): whoever drives the builder saves the response it carries, and then
appends it. If saving fails, another one is proposed instead. Exactly one terminal event is ever appended.

Its inverse is core/fold.py, which shares nothing with this file; tests hold the two against each other.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from msgspec import UNSET, Struct, structs

from antiphon.core.deltas import Annotate, Delta, Finish, Refusal, Summary, Text, Thought, ToolCall
from antiphon.core.ids import NewId
from antiphon.wire import events as ev
from antiphon.wire import items as it
from antiphon.wire.items import ID_PREFIXES, FunctionCall, HostedCall, Message, OutputItem, Reasoning
from antiphon.wire.response import IncompleteDetails, Response, ResponseError, Usage


class PartKind(NamedTuple):
    """How one kind of delta becomes a part of an item, and by which events."""

    item: type[Message] | type[Reasoning]
    field: Literal["content", "summary"]
    part: Callable[[str], it.Part]
    part_added: Callable[..., ev.Event]
    text_delta: Callable[..., ev.Event]
    text_done: Callable[..., ev.Event]
    part_done: Callable[..., ev.Event]


def _output_text(text: str) -> it.Part:
    return it.OutputText(text=text)


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
        _output_text,
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


CALLS: dict[type, CallKind] = {FunctionCall: CallKind("arguments", ev.ArgumentsDelta, ev.ArgumentsDone)}

TERMINAL: dict[str, Callable[..., ev.Terminal]] = {
    "completed": ev.ResponseCompleted,
    "incomplete": ev.ResponseIncomplete,
    "cancelled": ev.ResponseIncomplete,
    "failed": ev.ResponseFailed,
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

    __slots__ = ("chunks", "index", "item", "open", "parts")

    def __init__(self, index: int, item: OutputItem) -> None:
        self.index = index
        self.item = item
        self.parts: dict[str, list[it.Part]] = {}
        self.open: OpenPart | None = None
        self.chunks: list[str] = []

    @property
    def id(self) -> str:
        assert self.item.id is not UNSET
        return self.item.id

    def snapshot(self) -> OutputItem:
        """The item as it stands: what was written up to now, not yet done."""
        parts = {field: tuple(written) for field, written in self.parts.items()}
        if self.open is not None:
            field = self.open.kind.field
            parts[field] = (*parts.get(field, ()), self.open.part())
        kind = CALLS.get(type(self.item))
        text = {kind.field: "".join(self.chunks)} if kind else {}
        return structs.replace(self.item, **parts, **text)


class HostedRequest(Struct, frozen=True):
    """A call of a hosted tool that the model made in the turn just ended."""

    name: str
    arguments: str


class Calls(Struct, frozen=True):
    """What a turn asked for: `client` is done and waits for the client; `hosted` is for this server to run."""

    client: tuple[FunctionCall, ...]
    hosted: tuple[HostedRequest, ...]


class Builder:
    """Feed it deltas, take events. Start with `start`, end with `propose` and `append`."""

    def __init__(
        self,
        response: Response,
        new_id: NewId,
        *,
        hosted: frozenset[str] = frozenset(),
        thought_as_summary: bool = False,
    ) -> None:
        """`response` is the skeleton: in progress, without output. `hosted` are names of tools the server runs."""
        assert response.status == "in_progress"
        assert not response.output
        self._response = response
        self._new_id = new_id
        self._hosted_names = hosted
        self._parts = PARTS | {Thought: THOUGHT_AS_SUMMARY} if thought_as_summary else PARTS
        self._items: list[OutputItem | None] = []
        self._drafts: dict[tuple[type, str], Draft] = {}
        self._hosted_calls: dict[str, tuple[str, list[str]]] = {}
        self._running: dict[int, HostedCall] = {}
        self._last: Draft | None = None
        self._sequence = 0
        self._pending: list[ev.Event] = []
        self.finished = False

    # -- what came of it

    @property
    def response(self) -> Response:
        """The response as the events so far add up to it, unfinished items included."""
        open_items = {draft.index: draft.snapshot() for draft in self._drafts.values()} | self._running
        output = tuple(item if item is not None else open_items[i] for i, item in enumerate(self._items))
        return structs.replace(self._response, output=output)

    def take(self) -> list[ev.Event]:
        """The events appended since the last take."""
        taken, self._pending = self._pending, []
        return taken

    # -- the beginning

    def start(self) -> None:
        self.append(ev.ResponseCreated(self._sequence, self._response))
        self.append(ev.ResponseInProgress(self._sequence, self._response))

    # -- what the model says

    def feed(self, delta: Delta) -> None:
        """Takes one delta of the running turn. A Finish changes nothing here: `end_turn` does."""
        kind = self._parts.get(type(delta))
        if kind is not None:
            self._write(kind, delta)  # type: ignore[arg-type] # the table's keys are these types
        elif isinstance(delta, ToolCall):
            self._call(delta)
        elif isinstance(delta, Annotate):
            self._annotate(delta)
        else:
            assert isinstance(delta, Finish)

    def end_turn(self, *, cut_short: bool = False) -> Calls:
        """Closes what is open; with `cut_short` (a limit was hit) the item written last ends incomplete."""
        last = self._last
        client = []
        for draft in sorted(self._drafts.values(), key=lambda draft: draft.index):
            item = self._close(draft, "incomplete" if cut_short and draft is last else "completed")
            if isinstance(item, FunctionCall) and item.status == "completed":
                client.append(item)
        hosted = tuple(HostedRequest(name, "".join(chunks)) for name, chunks in self._hosted_calls.values())
        self._hosted_calls.clear()
        self._last = None
        return Calls(tuple(client), () if cut_short else hosted)

    # -- what hosted tools do

    def begin(self, item: HostedCall) -> int:
        """Adds the item of a hosted call that starts now; its index names the call from here on."""
        draft = self._add(item)
        self._running[draft.index] = draft.item  # type: ignore[assignment] # _add keeps the type
        self._status(draft.index, "in_progress")
        return draft.index

    def progress(self, index: int, status: str) -> None:
        self._running[index] = structs.replace(self._running[index], status=status)
        self._status(index, status)

    def outcome(self, index: int, item: HostedCall) -> HostedCall:
        """The call ended: `item` is as its tool left it, with its final status. Returns it under its own id."""
        done = structs.replace(item, id=self._running[index].id)
        assert done.status is not UNSET
        if done.status != "incomplete":  # the API has no such status event
            self._status(index, done.status)
        del self._running[index]
        self._done(index, done)
        return done

    # -- the end

    def abandon(self) -> None:
        """Closes everything open as incomplete: the run failed or was cancelled."""
        for draft in sorted(self._drafts.values(), key=lambda draft: draft.index):
            self._close(draft, "incomplete")
        for index, item in sorted(self._running.items()):
            self.outcome(index, structs.replace(item, status="incomplete"))
        self._hosted_calls.clear()

    def propose(
        self,
        status: Literal["completed", "incomplete", "cancelled", "failed"],
        *,
        now: int | None = None,
        usage: Usage | None = None,
        reason: Literal["max_output_tokens", "content_filter"] | None = None,
        error: ResponseError | None = None,
    ) -> ev.Terminal:
        """The terminal event, not yet appended. `now` is in Unix seconds, for a completed response."""
        assert not self._drafts
        assert not self._running
        response = structs.replace(
            self.response,
            status=status,
            completed_at=now if status == "completed" else None,
            usage=usage,
            incomplete_details=IncompleteDetails(reason=reason) if reason else None,
            error=error,
        )
        return TERMINAL[status](self._sequence, response)

    def append(self, event: ev.Event) -> None:
        """Appends an event that is numbered next. The only place where the sequence moves."""
        assert not self.finished
        assert event.sequence_number == self._sequence
        self._sequence += 1
        self._pending.append(event)
        if isinstance(event, ev.TERMINAL):
            self._response = event.response
            self.finished = True

    # -- drafts

    def _add(self, item: OutputItem) -> Draft:
        index = len(self._items)
        draft = Draft(index, structs.replace(item, id=self._new_id(ID_PREFIXES[type(item)])))
        self._items.append(None)
        self.append(ev.OutputItemAdded(self._sequence, index, draft.item))
        return draft

    def _draft(self, kind: type, key: str, empty: Callable[[], OutputItem]) -> Draft:
        draft = self._drafts.get((kind, key))
        if draft is None:
            self._close_written()
            draft = self._drafts[kind, key] = self._add(empty())
        self._last = draft
        return draft

    def _close_written(self) -> None:
        """A message or a reasoning item ends when something else begins; calls stay open until the turn does."""
        for draft in [draft for draft in self._drafts.values() if type(draft.item) not in CALLS]:
            self._close(draft, "completed")

    def _close(self, draft: Draft, status: Literal["completed", "incomplete"]) -> OutputItem:
        self._close_part(draft)
        kind = CALLS.get(type(draft.item))
        if kind is not None:
            self.append(kind.done(self._sequence, draft.id, draft.index, "".join(draft.chunks)))
        done = structs.replace(draft.snapshot(), status=status)
        del self._drafts[next(key for key, other in self._drafts.items() if other is draft)]
        self._done(draft.index, done)
        return done

    def _done(self, index: int, item: OutputItem) -> None:
        assert self._items[index] is None
        self._items[index] = item
        self.append(ev.OutputItemDone(self._sequence, index, item))

    # -- parts

    def _write(self, kind: PartKind, delta: Text | Refusal | Thought | Summary) -> None:
        draft = self._drafts.get((kind.item, delta.key))
        if draft is None:
            draft = self._draft(kind.item, delta.key, EMPTY[kind.item])
        self._last = draft
        part = draft.open
        label = delta.part if isinstance(delta, Summary) else 0
        if part is None or part.kind is not kind or part.label != label:
            part = self._open_part(draft, kind, label)
        text = delta.text
        part.chunks.append(text)
        if isinstance(delta, Text) and delta.logprobs:
            part.logprobs.extend(delta.logprobs)
            event = kind.text_delta(self._sequence, draft.id, draft.index, part.index, text, delta.logprobs)
        else:
            event = kind.text_delta(self._sequence, draft.id, draft.index, part.index, text)
        self._sequence += 1
        self._pending.append(event)

    def _open_part(self, draft: Draft, kind: PartKind, label: int) -> OpenPart:
        self._close_part(draft)
        part = draft.open = OpenPart(kind, len(draft.parts.get(kind.field, ())), label)
        self.append(kind.part_added(self._sequence, draft.id, draft.index, part.index, kind.part("")))
        return part

    def _close_part(self, draft: Draft) -> None:
        part = draft.open
        if part is None:
            return
        finished = part.part()
        place = (draft.id, draft.index, part.index)
        logprobs = (tuple(part.logprobs),) if part.logprobs else ()
        self.append(part.kind.text_done(self._sequence, *place, "".join(part.chunks), *logprobs))
        self.append(part.kind.part_done(self._sequence, *place, finished))
        draft.parts.setdefault(part.kind.field, []).append(finished)
        draft.open = None

    def _annotate(self, delta: Annotate) -> None:
        draft = self._drafts.get((Message, delta.key))
        if draft is None or draft.open is None or draft.open.kind is not PARTS[Text]:
            raise AssertionError("an annotation belongs to text that is being written")
        part = draft.open
        place = (draft.id, draft.index, part.index, len(part.annotations))
        self.append(ev.AnnotationAdded(self._sequence, *place, delta.annotation))
        part.annotations.append(delta.annotation)

    # -- calls

    def _call(self, delta: ToolCall) -> None:
        gathered = self._hosted_calls.get(delta.key)
        if gathered is None and delta.name in self._hosted_names:
            self._close_written()
            gathered = self._hosted_calls[delta.key] = (delta.name or "", [])
        if gathered is not None:
            gathered[1].append(delta.arguments)
            self._last = None
            return
        draft = self._draft(FunctionCall, delta.key, lambda: self._empty_call(delta))
        if delta.arguments:
            draft.chunks.append(delta.arguments)
            self.append(ev.ArgumentsDelta(self._sequence, draft.id, draft.index, delta.arguments))

    def _empty_call(self, delta: ToolCall) -> FunctionCall:
        assert delta.name is not None, "the first piece of a call carries its name"
        return FunctionCall(
            status="in_progress", arguments="", call_id=delta.call_id or self._new_id("call"), name=delta.name
        )

    def _status(self, index: int, status: str) -> None:
        item = self._running[index]
        assert item.id is not UNSET
        kind = f"response.{type(item).__struct_config__.tag}.{status}"
        self.append(ev.HostedStatus(kind, self._sequence, item.id, index))


EMPTY: dict[type, Callable[[], OutputItem]] = {
    Message: lambda: Message(status="in_progress", content=(), role="assistant"),
    Reasoning: lambda: Reasoning(status="in_progress", summary=()),
}
