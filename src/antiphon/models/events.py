"""The events of an upstream's Responses stream as deltas. Pure: knows nothing of where they come from.

What servers stream is not what they say in the end. All 8 recorded streams of vLLM contradict their own final objects
(tests/recordings/upstream-responses), each in one of these ways or several:

    what differs                                             the truth
    -------------------------------------------------------------------------------------------------------------
    ids of items, in all; call_ids                           the stream's: a client may have them already. Ours,
                                                             where it has none
    status, sequence_number, content_index, null for an id   neither: the builder makes these
    a message that has no done events                        both: it is closed all the same
    a message of blank text only, in the stream              the final object, which has none
    the JSON of a call that tool_choice demanded, streamed   the final object: it is a call. The text was the grammar's
    as the text of a message                                 way to it

So the stream is the truth about everything that it told, since that cannot be taken back, and the final object adds
what it alone holds: the rest of a text, or whole items. Where the two are known to differ, nothing is told before the
final object decides: blank text at the beginning of a message waits for text that is not, or for a snapshot; and where
a call is demanded, the text of messages waits for a call or for the end. (It would wait in any case, until a call
begins: see models/guard.py.)

Beyond the recordings, from what other servers do: ids and output indices repeat, are missing or change between
`added` and the deltas, `added` comes twice or not at all, `[DONE]` comes or not, the final output is empty. Items of
tools that the upstream ran itself are no deltas: the log names them once, and they are left out. A thought that the
upstream sealed is told when its item is done; where something else was told by then, it is too late.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast, get_args

import msgspec
from msgspec import Raw, structs

from antiphon.core.deltas import Annotate, Delta, Finish, FinishReason, Sealed, Text, ToolCall
from antiphon.errors import ApiError, ModelError, UnsupportedParameter
from antiphon.models import forms
from antiphon.models.faults import SHOWN_CHARS_MAX, Fault, excerpt, read_fault, refusal
from antiphon.models.forms import (
    AnswerForm,
    ErrorForm,
    EventForm,
    ItemForm,
    PartForm,
    ReasonForm,
    Tagged,
    TokenForm,
    UsageForm,
    formed,
    is_there,
)
from antiphon.models.heard import (
    PART_KINDS,
    REFUSAL,
    SUMMARY,
    TEXT,
    THOUGHT,
    Called,
    Heard,
    ItemType,
    Kind,
    Written,
    matched,
)
from antiphon.models.logprobs import NO_LOGPROBS
from antiphon.models.sse import DONE

_log = logging.getLogger("antiphon.responses")

_REASONS: dict[str, FinishReason] = {"content_filter": "content_filter"}
"""Why an answer is incomplete. All others are a limit of one kind or another, and not every server names it."""
_ENDED = frozenset({"completed", "incomplete", "failed", "cancelled"})
_UNFINISHED = frozenset({"queued", "in_progress"})


class EventReader:
    """The payloads of one streamed answer as deltas; one per answer, `end` when no more payloads come.

    `is_call_demanded`: the prompt's tool choice leaves no room for an answer in text. `wants_logprobs`: a text that
    comes without them is an error, for they would be lost without a word. `left_out` gathers the types of items that
    were left out and named in the log, over answers.

    A failure that the upstream reports is raised after the deltas that came before it were given: by `check`, or by
    the next call.
    """

    def __init__(
        self, *, is_call_demanded: bool = False, wants_logprobs: bool = False, left_out: set[str] | None = None
    ) -> None:
        self._answer = _Answer(is_call_demanded, wants_logprobs, set() if left_out is None else left_out)
        self._failure: ApiError | None = None

    @property
    def is_finished(self) -> bool:
        return self._answer.is_finished

    def feed(self, payloads: list[bytes]) -> list[Delta]:
        self.check()
        answer = self._answer
        try:
            for payload in payloads:
                if payload != DONE and not answer.is_finished:
                    answer.read(payload)
        except ApiError as error:
            if not answer.deltas:
                raise
            self._failure = error
        deltas, answer.deltas = answer.deltas, []
        return deltas

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Raises when the stream has ended before its terminal event, which alone says that the answer is whole."""
        self.check()
        if not self.is_finished:
            raise ModelError("The model server's answer ended before it was finished.")


class _Answer:
    """What came of an answer up to now: its items, and the deltas that nobody has taken yet."""

    def __init__(self, is_call_demanded: bool, wants_logprobs: bool, left_out: set[str]) -> None:
        self.deltas: list[Delta] = []
        self.is_finished = False
        self._holds_text = is_call_demanded
        self._wants_logprobs = wants_logprobs
        self._left_out = left_out
        self._items: list[Heard] = []
        self._meant_last: tuple[tuple[ItemType, object, object], Heard] | None = None
        self._writing: Heard | None = None
        """The message whose text was told last: only that can be annotated."""
        self._told_last: Heard | None = None

    def read(self, payload: bytes) -> None:
        try:
            event = forms.decode_event(payload)
        except (msgspec.DecodeError, RecursionError):
            raise _no_event(payload) from None
        if event.object == "response":  # it does not stream
            self.conclude(Raw(payload), "completed")
        elif event.type == "error" or is_there(event.error):
            raise _told_failure(payload)
        elif not isinstance(event.type, str):
            raise _told_failure(payload) if is_there(event.detail) or event.object == "error" else _no_event(payload)
        elif (step := _STEPS.get(event.type)) is not None:
            step(self, event)

    def _give(self, heard: Heard, deltas: list[Delta]) -> None:
        for delta in deltas:
            is_loose = isinstance(delta, Annotate) or (isinstance(delta, Text) and not delta.text)
            if (is_loose and self._writing is not heard) or (isinstance(delta, Sealed) and self._is_over(heard)):
                _log.info("A model server told more about a text after it had gone on: that is left out.")
                continue
            if isinstance(delta, Text):
                if self._wants_logprobs and not delta.logprobs:
                    raise UnsupportedParameter(NO_LOGPROBS, param="include")
                self._wants_logprobs = False  # whoever gives some, gives them
                self._writing = heard
            elif not isinstance(delta, Annotate) and not (isinstance(delta, ToolCall) and delta.name is None):
                self._writing = None
            self._told_last = heard
            self.deltas.append(delta)

    def _is_over(self, thought: Heard) -> bool:
        """Whether something was told since that ended the thought, or that it must not come after."""
        if thought.has_told:
            return self._told_last is not thought
        later = self._items[self._items.index(thought) + 1 :]
        return any(one.has_told for one in later) or (self._told_last is not None and self._told_last.is_open)

    # -- which item an event is about

    def _begin(self, kind: ItemType, item_id: str | None, index: int | None) -> Heard:
        key = str(len(self._items))
        heard: Heard
        if kind == "function_call":
            heard = Called(key, item_id, index)
            self._stop_holding()
        else:
            heard = Written(kind, key, item_id, index, holds_text=self._holds_text)
        self._items.append(heard)
        self._meant_last = None
        return heard

    def _stop_holding(self) -> None:
        """The call that was demanded has begun, so text is text; only blank text goes on waiting."""
        if self._holds_text:
            self._holds_text = False
            for one in self._items:
                if isinstance(one, Written):
                    one.holds_text = False
                    if not one.is_blank:
                        self._give(one, one.release())

    def _open(self, kind: ItemType, item_id: str | None, index: int | None) -> Heard | None:
        """The newest open item that an event can mean. What it names counts, as far as it names it rightly: ids and
        indices repeat, and change between `added` and the deltas."""
        best: tuple[int, Heard] | None = None
        for one in reversed(self._items):
            if one.type == kind and one.is_open and (rank := _likeness(one, item_id, index)) > (best[0] if best else 0):
                best = rank, one
        return best[1] if best else None

    def _closed(self, kind: ItemType, item_id: str | None, index: int | None) -> Heard | None:
        """The item that is over and that an event names exactly."""
        alike = (one for one in reversed(self._items) if one.type == kind and (one.id, one.index) == (item_id, index))
        return next(alike, None)

    def _meant(self, kind: ItemType, event: EventForm) -> Heard:
        """The item that a piece of text belongs to."""
        names = (kind, event.item_id, event.output_index)
        if self._meant_last is not None and self._meant_last[0] == names and self._meant_last[1].is_open:
            return self._meant_last[1]  # as nearly always: one event a token
        item_id, index = _id(event.item_id), _number(event.output_index)
        found = self._open(kind, item_id, index) or self._closed(kind, item_id, index)
        found = found or self._begin(kind, item_id, index)
        self._meant_last = names, found
        return found

    # -- items

    def _type(self, raw: Raw) -> ItemType | None:
        """None of an item that this server cannot pass on."""
        kind = (formed(raw, Tagged) or Tagged()).type
        if kind in get_args(ItemType):
            return cast("ItemType", kind)
        if kind not in self._left_out:
            self._left_out.add(kind)
            _log.warning("The model server's answer holds an item of type %r, which is left out.", kind)
        return None

    def item_added(self, event: EventForm) -> None:
        kind = self._type(event.item)
        if kind is None:
            return
        item = formed(event.item, ItemForm) or ItemForm(type=kind)
        item_id, index = item.id or _id(event.item_id), _number(event.output_index)
        heard = self._open(kind, item_id, index)
        if heard is None or not _is_repeated(heard, item_id, index, item.call_id):
            heard = self._begin(kind, item_id, index)
        item.encrypted_content = None  # at this time it need not be whole
        heard.added = item
        if isinstance(heard, Called):
            self._give(heard, heard.named(item.name, item.call_id))
        elif isinstance(heard, Written):
            heard.phase = heard.phase or forms.as_phase(item.phase)

    def item_done(self, event: EventForm) -> None:
        kind = self._type(event.item)
        item = None if kind is None else formed(event.item, ItemForm)
        if kind is None or item is None:
            return
        item_id, index = item.id or item.item_id or _id(event.item_id), _number(event.output_index)
        heard = self._open(kind, item_id, index)
        if heard is None:
            if self._closed(kind, item_id, index) is not None:
                return  # told twice
            heard = self._begin(kind, item_id, index)
        if not (isinstance(heard, Written) and heard.holds_text):
            self._give(heard, heard.settle(item))
        elif not heard.held:
            heard.added = item
        heard.is_open = False

    # -- texts and parts

    def text_delta(self, event: EventForm, kind: Kind) -> None:
        if isinstance(event.delta, str):
            heard = self._meant(kind.item, event)
            assert isinstance(heard, Written)
            tokens = forms.as_logprobs(formed(event.logprobs, list[TokenForm])) if len(event.logprobs) > 2 else ()
            self._give(heard, heard.add(kind, _part_number(event), event.delta, tokens))

    def text_done(self, event: EventForm, kind: Kind) -> None:
        name = "refusal" if kind is REFUSAL else "text"
        text = getattr(event, name)
        if isinstance(text, str):
            part = PartForm(type=name, text=text, refusal=text, logprobs=formed(event.logprobs, list[TokenForm]))
            self._part(event, kind, part)

    def part_done(self, event: EventForm) -> None:
        part = formed(event.part, PartForm)
        kind = PART_KINDS.get(part.type) if part else None
        if part is not None and kind is not None:
            self._part(event, kind, part)

    def _part(self, event: EventForm, kind: Kind, part: PartForm) -> None:
        item_id, index = _id(event.item_id), _number(event.output_index)
        heard = self._open(kind.item, item_id, index)
        if heard is None:
            if self._closed(kind.item, item_id, index) is not None:
                return
            heard = self._begin(kind.item, item_id, index)
        assert isinstance(heard, Written)
        self._give(heard, heard.settle_part(kind, _part_number(event), part))

    def annotated(self, event: EventForm) -> None:
        heard = self._meant("message", event)
        assert isinstance(heard, Written)
        self._give(heard, heard.annotate(_part_number(event), event.annotation))

    # -- calls

    def arguments_delta(self, event: EventForm) -> None:
        if isinstance(event.delta, str):
            call = self._meant("function_call", event)
            assert isinstance(call, Called)
            self._give(call, call.add(event.delta))

    def arguments_done(self, event: EventForm) -> None:
        call = self._meant("function_call", event)
        assert isinstance(call, Called)
        if call.is_open:
            self._give(call, call.settle_arguments(event.arguments, event.name))

    # -- the end

    def ended(self, event: EventForm, status: str) -> None:
        self.conclude(event.response, status)

    def conclude(self, response: Raw, named: str) -> None:
        """Settles everything by the final object. Its status counts more than the event's name: vLLM calls what was
        cut at its limit completed."""
        answer = formed(response, AnswerForm) or AnswerForm()
        status = answer.status if answer.status in _UNFINISHED | _ENDED else named
        if status == "failed":
            raise _failure(formed(answer.error, ErrorForm) or ErrorForm(message=formed(answer.error, str)))
        if status == "cancelled":
            raise ModelError("The model server cancelled its answer.")
        if status not in _ENDED:
            raise ModelError(f"The model server's answer came unfinished: its status is {status!r}.")
        self._settle(formed(answer.output, list[Raw]) or [])
        calls = [one for one in self._items if isinstance(one, Called)]
        reason: FinishReason = "tool_calls" if calls else "stop"
        if status == "incomplete":
            details = formed(answer.incomplete_details, ReasonForm) or ReasonForm()
            reason = _REASONS.get(details.reason or "", "length")
        else:
            for call in calls:
                self._give(call, call.complete())
        self.is_finished = True
        usage = forms.as_usage(formed(answer.usage, UsageForm))
        self.deltas.append(Finish(reason, usage, forms.as_tier(answer.service_tier)))

    def _settle(self, output: list[Raw]) -> None:
        self._holds_text = False
        items = [item for raw in output if self._type(raw) and (item := formed(raw, ItemForm)) is not None]
        if not items:
            self._settle_alone()
        found = matched(self._items, items)
        for place, item in enumerate(items):
            heard = found.get(place) or self._begin(cast("ItemType", item.type), item.id, None)
            self._give(heard, heard.settle(item))

    def _settle_alone(self) -> None:
        """The final object does not repeat what was streamed, as with some proxies: then that is all there is."""
        for one in self._items:
            if isinstance(one, Written):
                self._give(one, one.release())
            if one.added is not None and not one.has_begun:
                self._give(one, one.settle(one.added))


_TEXTS = {
    "output_text": TEXT,
    "refusal": REFUSAL,
    "reasoning_text": THOUGHT,
    "reasoning": THOUGHT,  # Open Responses
    "reasoning_summary_text": SUMMARY,
}
_STEPS: dict[str, Callable[[_Answer, EventForm], None]] = {
    "response.output_item.added": _Answer.item_added,
    "response.output_item.done": _Answer.item_done,
    **{f"response.{name}.delta": partial(_Answer.text_delta, kind=kind) for name, kind in _TEXTS.items()},
    **{f"response.{name}.done": partial(_Answer.text_done, kind=kind) for name, kind in _TEXTS.items()},
    "response.content_part.done": _Answer.part_done,
    "response.reasoning_part.done": _Answer.part_done,  # vLLM
    "response.reasoning_summary_part.done": _Answer.part_done,
    "response.output_text.annotation.added": _Answer.annotated,
    "response.function_call_arguments.delta": _Answer.arguments_delta,
    "response.function_call_arguments.done": _Answer.arguments_done,
    **{f"response.{status}": partial(_Answer.ended, status=status) for status in _ENDED},
}
"""All other events tell nothing that a delta could."""


def _likeness(heard: Heard, item_id: str | None, index: int | None) -> int:
    same_id, same_index = item_id is not None and heard.id == item_id, index is not None and heard.index == index
    if same_id or same_index:
        return 1 + same_index + 2 * same_id
    is_unnamed = (item_id is None or heard.id is None) and (index is None or heard.index is None)
    return int(is_unnamed)


def _is_repeated(heard: Heard, item_id: str | None, index: int | None, call_id: str | None) -> bool:
    """Whether what is added now is an item that was added already."""
    if (heard.id, heard.index) != (item_id, index):
        return False
    return not heard.has_begun or (isinstance(heard, Called) and call_id is not None and heard.call_id == call_id)


def _id(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    return value if type(value) is int else None


def _part_number(event: EventForm) -> int:
    number = _number(event.summary_index)
    return (_number(event.content_index) or 0) if number is None else number


# -- failures


def _told_failure(payload: bytes) -> ApiError:
    """The vendor's own error, in any of its forms: within `error`, or flat in an event of that type."""
    event = forms.decode_event(payload)
    flat = formed(Raw(payload), ErrorForm)
    if event.type == "error" and not is_there(event.error) and flat is not None:
        return _failure(structs.replace(flat, type=None))
    nested = formed(event.error, ErrorForm)
    return _failure(nested) if nested is not None and nested.message else refusal(read_fault(200, payload))


def _failure(error: ErrorForm) -> ApiError:
    code, kind = str(error.code or ""), error.type or ""
    is_asked_wrong = code.startswith("invalid_") or kind.startswith("invalid_request")
    status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else 400 if is_asked_wrong else 500
    message = (error.message or "It does not say why.")[:SHOWN_CHARS_MAX]
    named = "" if code.isdecimal() else code
    return refusal(Fault(status=status, message=message, code=named, type=kind, param=error.param or ""))


def _no_event(payload: bytes) -> ApiError:
    return ModelError(f"The model server sent something that is no event of a response: {excerpt(payload)}")
