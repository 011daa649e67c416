"""The builder turns what models and tools say into events. It is the only state machine, and the only maker of ids,
indices and sequence numbers; it knows no I/O and no clock.

Theory of operation
-------------------
A response is a row of *items*, each at an index that is given when it is added and never changes. An item is open (a
`Draft`) until it is done; then it is frozen in `_items`, and nothing touches it again.

A draft with parts (a message, a reasoning item) has at most one *open part*; a delta of another kind closes that part
and opens the next. A draft without parts (a function call) gathers one text. What differs between kinds stands in two
tables, PARTS and CALLS (core/drafts.py); the code below asks for no kind by name but thoughts, which are sealed at
their end.

Deltas carry the vendor's key. (kind of item, key) names a draft until the turn ends:

    delta              draft                          closes
    ------------------------------------------------------------------------------------
    Text, Refusal      message                        any open reasoning
    Thought, Summary   reasoning                      any open message
    Sealed             reasoning                      any open message
    Phase              none: for the next message     any open message or reasoning
    ToolCall           call item of that key          any open message or reasoning
    ToolCall, gathered none until the turn ends: then its item is added whole, or it is hosted and run, or refused

What a call by a name becomes is the toolbox's to say (core/toolbox.py). A call is gathered when it can be judged only
as a whole: that of a hosted tool, of a shell, of a custom tool whose input must fit a grammar, or of a tool that this
request does not allow. So at most one message or reasoning item is open at a time, while calls stay open side by side:
vendors interleave the fragments of parallel calls. `end_turn` closes them in index order and hands back what is to be
called.

The terminal event is only *proposed* (`propose`): whoever drives the builder saves the response it carries, and then
appends it. If saving fails, another one is proposed instead. Exactly one terminal event is ever appended.

Its inverse is core/fold.py, which shares nothing with this file; tests hold the two against each other.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Literal, TypeAlias, TypeVar, cast

from msgspec import UNSET, UnsetType, structs

from antiphon.core.calls import Calls, GatheredCall, HostedRequest, Refused
from antiphon.core.deltas import Annotate, Delta, Finish, Phase, Refusal, Sealed, Summary, Text, Thought, ToolCall
from antiphon.core.drafts import (
    CALLS,
    EMPTY,
    HOSTED_TEXTS,
    PARTS,
    THOUGHT_AS_SUMMARY,
    Draft,
    OpenPart,
    PartKind,
    as_begun,
    in_status,
)
from antiphon.core.ids import NewId
from antiphon.core.past import NOTHING_YET, Past
from antiphon.core.ports import TextCheck
from antiphon.core.toolbox import Callee, Streamed
from antiphon.wire import events as ev
from antiphon.wire import items as it
from antiphon.wire.items import (
    ID_PREFIXES,
    Asking,
    ClientCall,
    Compaction,
    FunctionCall,
    HostedCall,
    Message,
    OutputItem,
    Reasoning,
    ToolSearchCall,
    ToolSearchOutput,
)
from antiphon.wire.response import IncompleteDetails, Response, ResponseError, ServiceTier, Usage, tool_usage

WholeT = TypeVar("WholeT", bound=ClientCall | ToolSearchOutput)

TERMINAL: dict[str, Callable[..., ev.Terminal]] = {
    "completed": ev.ResponseCompleted,
    "incomplete": ev.ResponseIncomplete,
    "cancelled": ev.ResponseIncomplete,
    "failed": ev.ResponseFailed,
}


ENDS = frozenset(ev.TERMINAL)
SealThought: TypeAlias = Callable[[Reasoning, str | UnsetType], Reasoning]
"""A finished thought, and how its vendor sealed it -> the item as it is told."""


class Builder:
    """Feed it deltas, take events. Start with `start`, end with `propose` and `append`."""

    def __init__(
        self,
        response: Response,
        new_id: NewId,
        *,
        callees: Mapping[str, Callee] = {},
        allowed: frozenset[str] | None = None,
        checks: Mapping[str, TextCheck] = {},
        thought_as_summary: bool = False,
        seal: SealThought = lambda thought, _: thought,
        past: Past = NOTHING_YET,
    ) -> None:
        """`response` is the skeleton: in progress, without output. By the tools' names: `callees` are what calls
        become, `allowed` may be called (None: all), `checks` judge the input of custom tools. `seal` is pure. `past` is
        what another builder told of this response."""
        assert response.status == "in_progress"
        assert not response.output
        self._response = response
        self._new_id = new_id
        self._callees = callees
        self._allowed = allowed
        self._checks = checks
        self._parts = PARTS | {Thought: THOUGHT_AS_SUMMARY} if thought_as_summary else PARTS
        self._seal = seal
        self._is_begun = past.is_begun
        self._items = list(past.items)
        self._drafts = dict(past.drafts)
        self._gathered: dict[str, GatheredCall] = {}
        self._phase: it.MessagePhase | UnsetType = UNSET
        self._running = dict(past.running)
        self._last: Draft | None = None
        self._sequence = past.next_number
        self._pending: list[ev.Event] = []
        self.finished = False

    # -- what came of it

    @property
    def response(self) -> Response:
        """The response as the events so far add up to it, unfinished items included."""
        return self._response if self.finished else structs.replace(self._response, output=self.output)

    @property
    def output(self) -> tuple[OutputItem, ...]:
        if not (self._drafts or self._running):
            return tuple(cast("list[OutputItem]", self._items))  # all are done
        open_items = {draft.index: draft.snapshot() for draft in self._drafts.values()}
        open_items |= {index: as_begun(item) for index, item in self._running.items()}
        return tuple(item if item is not None else open_items[i] for i, item in enumerate(self._items))

    @property
    def id(self) -> str:
        return self._response.id

    @property
    def added(self) -> int:
        """How many items there are."""
        return len(self._items)

    def take(self) -> list[ev.Event]:
        """The events appended since the last take."""
        taken, self._pending = self._pending, []
        return taken

    # -- the beginning

    def start(self) -> None:
        if self._sequence == 0:
            self.append(ev.ResponseCreated(self._sequence, self._response))
        if not self._is_begun:
            self.append(ev.ResponseInProgress(self._sequence, self._response))

    def reopen(self) -> None:
        """What the past left open, one message at most, is written on by the turn that begins now. Who prefills has one
        stream, so it comes under that key."""
        for key in list(self._drafts):
            self._last = self._drafts[Message, Text("").key] = self._drafts.pop(key)

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
        elif isinstance(delta, Sealed):
            self._last = draft = self._drafts.get((Reasoning, delta.key)) or self._begin_written(Reasoning, delta.key)
            draft.sealed = delta.text
        elif isinstance(delta, Phase):
            self._close_written()
            self._phase = delta.phase
        else:
            assert isinstance(delta, Finish)

    def judge(self) -> None:
        """Judges the gathered calls before `end_turn` asks. Nothing that is seen changes: a thread may do it."""
        for call in list(self._gathered.values()):
            call.judged(self._allowed, self._checks)

    def end_turn(self, *, cut_short: bool = False) -> Calls:
        """Closes what is open; with `cut_short` (a limit was hit) the item written last ends incomplete. So does a
        thought with which the model ends: it led to nothing, and who hands it back has nothing to put after it."""
        last = self._last
        client: list[ClientCall] = []
        for draft in sorted(self._drafts.values(), key=lambda draft: draft.index):
            is_unfinished = (cut_short and draft is last) or type(draft.item) is Reasoning
            item = self._close(draft, "incomplete" if is_unfinished else "completed")
            if isinstance(item, ClientCall) and item.status == "completed":
                client.append(item)
        hosted: list[HostedRequest] = []
        refused: list[Refused] = []
        for call in () if cut_short else self._gathered.values():
            judged = call.judged(self._allowed, self._checks)
            if isinstance(judged, Refused):
                refused.append(judged)
            elif isinstance(judged, HostedRequest):
                hosted.append(judged)
            else:
                client.append(self._add_whole(judged))
        self._gathered.clear()
        self._phase = UNSET
        self._last = None
        return Calls(tuple(client), tuple(hosted), tuple(refused))

    # -- what hosted tools do

    def begin(self, item: HostedCall) -> int:
        """Adds the item of a hosted call that starts now; its index names the call from here on."""
        text = HOSTED_TEXTS.get(type(item))
        shown = as_begun(item) if text is None else structs.replace(item, **{text.field: ""})
        draft = self._add(shown)
        self._running[draft.index] = structs.replace(shown if text else item, id=draft.id)
        self._status(draft.index, "in_progress")
        if text is not None:
            told = getattr(item, text.field)
            self.append(text.delta(self._sequence, draft.id, draft.index, told))
            self.append(text.done(self._sequence, draft.id, draft.index, told))
            self._running[draft.index] = structs.replace(item, id=draft.id)
        return draft.index

    def running(self, index: int) -> HostedCall:
        """A hosted call that has begun, whole."""
        return cast("HostedCall", self._running[index])

    def progress(self, index: int, status: str) -> None:
        self._running[index] = in_status(self._running[index], status)
        self._status(index, status)

    def outcome(self, index: int, item: HostedCall | Compaction) -> HostedCall | Compaction:
        """The call ended: `item` is as its tool left it, with its final status. Returns it under its own id."""
        done = structs.replace(item, id=self._running[index].id)
        status = getattr(done, "status", "failed" if getattr(done, "error", None) else "completed")
        if status != "incomplete" and status not in getattr(done, "untold", ()):  # of which the API has no event
            self._status(index, status)
        del self._running[index]
        self._done(index, done)
        return done

    def ask(self, item: Asking) -> None:
        """Adds a call that the client must approve."""
        draft = self._add(item)
        self._done(draft.index, draft.item)

    def searched(self, call: ToolSearchCall, output: ToolSearchOutput) -> None:
        """Adds a search for tools, and what it found."""
        self._add_whole(call)
        self._add_whole(output)

    def equip(self, callees: Mapping[str, Callee], allowed: frozenset[str] | None) -> None:
        """From here on, these tools are there."""
        self._callees, self._allowed = callees, allowed

    # -- compaction

    def begin_compaction(self) -> int:
        """Adds the item of a compaction that starts now; its index names it from here on."""
        draft = self._add(Compaction(status="in_progress", encrypted_content=""))
        self._running[draft.index] = structs.replace(cast("Compaction", draft.item), status="compacting")
        self.append(ev.CompactionCompacting(self._sequence, draft.id, draft.index))
        return draft.index

    def compacted(self, index: int, encrypted_content: str) -> Compaction:
        done = structs.replace(self._running.pop(index), status="completed", encrypted_content=encrypted_content)
        self._done(index, done)
        return cast("Compaction", done)

    # -- the end

    def abandon(self, keeps: Collection[int] = ()) -> None:
        """Closes everything open as incomplete: the run failed or was cancelled. But hosted calls at the indices that
        it `keeps` run on."""
        for draft in sorted(self._drafts.values(), key=lambda draft: draft.index):
            self._close(draft, "incomplete")
        for index, item in sorted((index, item) for index, item in self._running.items() if index not in keeps):
            del self._running[index]
            self._done(index, in_status(item, "incomplete"))
        self._gathered.clear()

    def propose(
        self,
        status: Literal["completed", "incomplete", "cancelled", "failed"],
        *,
        now: int | None = None,
        usage: Usage | None = None,
        reason: Literal["max_output_tokens", "content_filter"] | None = None,
        error: ResponseError | None = None,
        service_tier: ServiceTier | None = None,
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
            service_tier=service_tier or self._response.service_tier,
        )
        response = structs.replace(response, tool_usage=tool_usage(response)) if response.tools else response
        return TERMINAL[status](self._sequence, response)

    def append(self, event: ev.Event) -> None:
        """Appends an event that is numbered next. The only place where the sequence moves."""
        assert not self.finished
        assert event.sequence_number == self._sequence
        self._sequence += 1
        self._pending.append(event)
        if type(event) in ENDS:
            self._response = cast("ev.Terminal", event).response
            self.finished = True

    # -- drafts

    def _add(self, item: OutputItem) -> Draft:
        index = len(self._items)
        draft = Draft(index, structs.replace(item, id=self._new_id(ID_PREFIXES[type(item)])))
        self._items.append(None)
        self.append(ev.OutputItemAdded(self._sequence, index, draft.item))
        return draft

    def _begin_written(self, kind: type[Message] | type[Reasoning], key: str) -> Draft:
        self._close_written()
        item = EMPTY[kind]
        if kind is Message and self._phase is not UNSET:
            item, self._phase = structs.replace(item, phase=self._phase), UNSET
        draft = self._drafts[kind, key] = self._add(item)
        return draft

    def _close_written(self) -> None:
        """A message or a reasoning item ends when something else begins; calls stay open until the turn does."""
        for draft in [draft for draft in self._drafts.values() if type(draft.item) not in CALLS]:
            self._close(draft, "completed")

    def _close(self, draft: Draft, status: Literal["completed", "incomplete"]) -> OutputItem:
        self._close_part(draft)
        kind = CALLS.get(type(draft.item))
        if kind is not None:
            if draft.reader is not None and (rest := draft.reader.end()):
                self._write_call(draft, rest)
            self.append(kind.done(self._sequence, draft.id, draft.index, "".join(draft.chunks)))
        done = structs.replace(draft.snapshot(), status=status)
        if type(done) is Reasoning:
            done = self._seal(done, draft.sealed)
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
            draft = self._begin_written(kind.item, delta.key)
        self._last = draft
        part = draft.open
        label = delta.part if type(delta) is Summary else 0
        if part is None or part.kind is not kind or part.label != label:
            part = self._open_part(draft, kind, label)
        text = delta.text
        part.chunks.append(text)
        if type(delta) is Text and delta.logprobs:
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
        assert draft is not None, "an annotation belongs to text that is being written"
        assert draft.open is not None
        assert draft.open.kind is PARTS[Text]
        part = draft.open
        place = (draft.id, draft.index, part.index, len(part.annotations))
        annotation = delta.annotation
        if delta.spans:
            end = sum(map(len, part.chunks))
            annotation = structs.replace(annotation, start_index=end - delta.spans, end_index=end)
        self.append(ev.AnnotationAdded(self._sequence, *place, annotation))
        part.annotations.append(annotation)

    # -- calls

    def _call(self, delta: ToolCall) -> None:
        draft = self._drafts.get((ToolCall, delta.key))
        if draft is None:
            gathered = self._gathered.get(delta.key) or self._begin_call(delta)
            if gathered is not None:
                gathered.chunks.append(delta.arguments)
                self._last = None
                return
            draft = self._drafts[ToolCall, delta.key]
        self._last = draft
        text = delta.arguments if draft.reader is None else draft.reader.feed(delta.arguments)
        if text:
            self._write_call(draft, text)

    def _begin_call(self, delta: ToolCall) -> GatheredCall | None:
        """Gathers the call, or adds its item."""
        assert delta.name is not None, "the first piece of a call carries its name"
        self._close_written()
        callee = self._callees.get(delta.name)
        call_id = delta.call_id or self._new_id("call")
        is_allowed = self._allowed is None or delta.name in self._allowed
        if is_allowed and callee is None:  # a tool that was not offered: the client may know it all the same
            callee = Streamed(FunctionCall(status="in_progress", arguments="", call_id="", name=delta.name))
        if is_allowed and isinstance(callee, Streamed):
            item = structs.replace(callee.empty, call_id=call_id)
            self._drafts[ToolCall, delta.key] = self._add(item)
            return None
        self._gathered[delta.key] = call = GatheredCall(delta.name, call_id, callee if is_allowed else None)
        return call

    def _write_call(self, draft: Draft, text: str) -> None:
        draft.chunks.append(text)
        self.append(CALLS[type(draft.item)].delta(self._sequence, draft.id, draft.index, text))

    def _add_whole(self, item: WholeT) -> WholeT:
        """All events of an item at once."""
        kind = CALLS.get(type(item))
        empty = {kind.field: ""} if kind else {}
        draft = self._drafts[ToolCall, ""] = self._add(structs.replace(item, status="in_progress", **empty))
        if kind is not None:
            self._write_call(draft, getattr(item, kind.field))
        return cast("WholeT", self._close(draft, "completed"))

    def _status(self, index: int, status: str) -> None:
        item = self._running[index]
        assert item.id is not UNSET
        kind = f"response.{type(item).__struct_config__.tag}.{status}"
        self.append(ev.HostedStatus(kind, self._sequence, item.id, index))
