"""Fold: what a stream of events adds up to. It knows decoded JSON, and nothing of how events are made.

Theory of operation. A stream tells a response twice: bit by bit, in `added`, `delta`, status and `done` events, and
whole, in the snapshots that `*.done` and lifecycle events carry. The fold builds `output` from the bits alone and only
*compares* the snapshots with what it has built: a snapshot that was adopted would paper over a lost delta. Exceptions
are data: DONE_ONLY fields of an item, which no delta tells, TOLD_LATER fields of the response, and RESEALED ones.

    response      created -> [queued] -> in_progress -> items … -> completed | incomplete | failed
      item        output_item.added -> parts, texts, statuses … -> output_item.done
        part      content_part.added -> text … -> content_part.done
          text    delta … -> done

Each level opens inside an open one and is done when all inside it is done; items may interleave. The kinds are rows of
tables, written from recordings of the original (tests/recordings/openai-responses) and, where those are silent, from
the published types. No other module may use them: whoever emits events must be able to disagree.

A broken law raises Unlawful and leaves `response` as the events before told it, so every prefix of a lawful stream
folds. Events are neither changed nor copied deeply: their owner must not change them either.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

Object: TypeAlias = dict[str, Any]
"""A decoded JSON object, untyped on purpose: a stream may hold kinds of items that this server does not make."""

Event: TypeAlias = Mapping[str, Any]


class Law(StrEnum):
    """What a stream can break. SEQUENCE, LIFECYCLE and PLACE are the law of shape in docs/design.md, told apart."""

    FORM = "form"  # an event has a known type, and the fields that type needs
    SEQUENCE = "sequence"  # numbers run 0, 1, 2 … without gaps
    LIFECYCLE = "lifecycle"  # created is first, one terminal event is last, one response id, statuses that fit
    PLACE = "place"  # each index added once, in order, and done once, under one id; all else happens to what is open
    NO_NEWS = "no news at done"  # a snapshot repeats what was told
    REPLAY = "replay"  # the final output is the folded output


class Unlawful(Exception):
    """The stream of events breaks a law."""

    def __init__(self, law: Law, message: str, sequence_number: int) -> None:
        super().__init__(f"{law}, at event {sequence_number}: {message}")
        self.law = law
        self.message = message
        self.sequence_number = sequence_number


class Stage(NamedTuple):
    """A step in a response's life: what it may follow, and the statuses it may announce."""

    follows: frozenset[str]
    statuses: frozenset[str]
    ends: bool = False


class Text(NamedTuple):
    """Where the text of `response.<name>.delta` grows: in an item's field, or in a part in one of the item's lists."""

    item: str
    field: str
    parts: str | None = None
    part: str | None = None


_RUNNING: Final = frozenset({"response.in_progress"})
_ALIVE: Final = frozenset({"response.created", "response.queued"}) | _RUNNING

LIFECYCLE: Final[dict[str, Stage]] = {
    "response.created": Stage(frozenset({""}), frozenset({"queued", "in_progress"})),
    "response.queued": Stage(frozenset({"response.created"}), frozenset({"queued"})),
    "response.in_progress": Stage(_ALIVE - _RUNNING, frozenset({"in_progress"})),
    "response.completed": Stage(_RUNNING, frozenset({"completed"}), ends=True),
    # No event is named response.cancelled: a cancelled response ends as incomplete, and its status says so.
    "response.incomplete": Stage(_ALIVE, frozenset({"incomplete", "cancelled"}), ends=True),
    # errors/context_length_exceeded-stream.yaml: `error`, then response.failed.
    "response.failed": Stage(_ALIVE | {"error"}, frozenset({"failed"}), ends=True),
}

TEXTS: Final[dict[str, Text]] = {
    "output_text": Text("message", "text", "content", "output_text"),
    "refusal": Text("message", "refusal", "content", "refusal"),
    "reasoning_text": Text("reasoning", "text", "content", "reasoning_text"),
    "reasoning_summary_text": Text("reasoning", "text", "summary", "summary_text"),
    "function_call_arguments": Text("function_call", "arguments"),
    "custom_tool_call_input": Text("custom_tool_call", "input"),
    "mcp_call_arguments": Text("mcp_call", "arguments"),
    "code_interpreter_call_code": Text("code_interpreter_call", "code"),
}

PARTS: Final = {"content_part": "content", "reasoning_summary_part": "summary"}

DONE_ONLY: Final[dict[str, frozenset[str]]] = {
    "message": frozenset({"status"}),
    "reasoning": frozenset({"status", "encrypted_content"}),
    "function_call": frozenset({"status"}),
    "custom_tool_call": frozenset({"status"}),
    "web_search_call": frozenset({"status", "action", "results", "note"}),
    "file_search_call": frozenset({"status", "queries", "results"}),
    "code_interpreter_call": frozenset({"status", "outputs"}),
    "mcp_call": frozenset({"status", "output", "error"}),
    "mcp_list_tools": frozenset({"status", "tools", "error"}),
}
"""The fields of an item that output_item.done alone tells. A type not listed here (a new hosted tool needs no change in
this file) has no text told by deltas: its `done` may set the status and fill what was absent or empty when added."""

TOLD_LATER: Final = frozenset(
    {"status", "completed_at", "error", "incomplete_details", "usage", "service_tier"}  # so in the recordings
    | {"moderation", "tool_usage", "input_transformations", "prompt_cache_diagnostics"}  # published: known at the end
)
"""The fields of a response that its terminal event may change. `output` is built; all others stay."""

ENDINGS: Final = {"completed": "completed_at", "incomplete": "incomplete_details", "failed": "error"}
"""The field that is null until the response ends so, and not null then. A cancelled response has none."""

RESEALED: Final = frozenset({"encrypted_content"})
"""tool-function-stream.yaml: in added, done and the final output it is three different strings, each sealed anew."""

_CARRIERS: Final = frozenset({"added", "delta", "done"})
_SETTLED: Final = frozenset({"completed", "failed", "incomplete"})
_PLACE: Final = frozenset({"item_id", "output_index", "content_index", "summary_index"})
_ENVELOPE: Final = frozenset({"type", "sequence_number", "stream_id"}) | _PLACE


class Fold:
    """The response that the events fed so far add up to."""

    def __init__(self) -> None:
        self.next_number = 0
        self._last = ""  # the latest lifecycle event, or `error`
        self._response: Object = {}
        self._drafts: list[_Draft] = []

    @property
    def finished(self) -> bool:
        """Whether the terminal event has been fed."""
        return self._last in LIFECYCLE and LIFECYCLE[self._last].ends

    @property
    def response(self) -> Object:
        """The response as told so far, the caller's to keep; empty before response.created."""
        return deepcopy({**self._response, "output": self._output()}) if self._response else {}

    def feed(self, event: Event) -> None:
        """Take the next event, or raise Unlawful."""
        try:
            self._take(event)
        except _Broken as broken:
            raise Unlawful(broken.law, broken.message, self.next_number) from None
        self.next_number += 1

    def _take(self, event: Event) -> None:
        number = event.get("sequence_number")
        is_next = type(number) is int and number == self.next_number  # True == 1
        _hold(is_next, Law.SEQUENCE, f"the event is numbered {number!r}")
        kind = _need(event, "type", str)
        stage = LIFECYCLE.get(kind)
        follows = stage.follows if stage else _ALIVE if kind == "error" else _RUNNING
        _hold(self._last in follows, Law.LIFECYCLE, f"{kind} may not follow {self._last or 'nothing'}")
        if stage:
            self._tell(event, stage)
        elif kind == "response.output_item.added":
            self._add(event)
        elif kind != "error":  # what an error says, response.failed says again
            _STEPS.get(kind, _Draft.progress)(self._open_draft(event), event)
        if stage or kind == "error":
            self._last = kind

    def _tell(self, event: Event, stage: Stage) -> None:
        told = _need(event, "response", dict)
        folded = self._response or told
        _hold(_need(told, "id", str) == folded["id"], Law.LIFECYCLE, "the response's id changes")
        _hold(_need(told, "status", str) in stage.statuses, Law.LIFECYCLE, f"the response is {told['status']!r}")
        for status, name in ENDINGS.items():
            fits = (told.get(name) is not None) == (told["status"] == status)
            _hold(fits, Law.LIFECYCLE, f"the response is {told['status']!r} and its {name} is {told.get(name)!r}")
        is_done = all(draft.is_done for draft in self._drafts)
        _hold(is_done, Law.LIFECYCLE, "the response ends before all its items are done")
        _compare(told, folded, Law.NO_NEWS, "the response", {"output", *(TOLD_LATER if stage.ends else {"status"})})
        self._compare_output(_need(told, "output", list))
        self._response = dict(folded)
        _adopt(self._response, told, TOLD_LATER)
        for draft, item in zip(self._drafts, told["output"], strict=True):
            _adopt(draft.item, item, RESEALED)

    def _compare_output(self, told: list[Any]) -> None:
        output = self._output()
        _hold(len(told) == len(output), Law.REPLAY, f"output has {len(told)} items, told were {len(output)}")
        for index, (item, folded) in enumerate(zip(told, output, strict=True)):
            _hold(isinstance(item, dict), Law.FORM, f"output[{index}] is no object")
            _compare(item, folded, Law.REPLAY, f"output[{index}]", RESEALED & folded.keys())

    def _add(self, event: Event) -> None:
        item, index = _need(event, "item", dict), _need(event, "output_index", int)
        _hold(index == len(self._drafts), Law.PLACE, f"item {index} is added, not {len(self._drafts)}")
        is_new = _need(item, "id", str) not in {draft.item["id"] for draft in self._drafts}
        _hold(is_new, Law.PLACE, f"a second item has the id {item['id']}")
        # Wherever the recordings show a status here at all, it is this one.
        begins = item.get("status", "in_progress") == "in_progress"
        _hold(begins, Law.LIFECYCLE, f"item {index} is added as {item.get('status')!r}")
        _need(item, "type", str)
        self._drafts.append(_Draft(dict(item)))

    def _open_draft(self, event: Event) -> "_Draft":
        index, is_last = _need(event, "output_index", int), event["type"] == "response.output_item.done"
        is_open = 0 <= index < len(self._drafts) and not self._drafts[index].is_done
        _hold(is_open, Law.PLACE, f"{event['type']}: item {index} is not open")
        item_id = _need(event, "item", dict).get("id") if is_last else event.get("item_id")
        is_same = item_id == self._drafts[index].item["id"]
        _hold(is_same, Law.PLACE, f"{event['type']}: item {index} is not {item_id!r}")
        return self._drafts[index]

    def _output(self) -> list[Object]:
        return [draft.settled() for draft in self._drafts]


def fold(events: Iterable[Event]) -> Object:
    """The response that a whole stream adds up to."""
    folded = Fold()
    for event in events:
        folded.feed(event)
    if not folded.finished:
        raise Unlawful(Law.LIFECYCLE, "the stream ends without a terminal event", folded.next_number)
    return folded.response


_Spot: TypeAlias = tuple[str | None, int]  # in an item: a list of parts and an index, or (None, 0): the item itself


@dataclass(slots=True)
class _Growing:
    """An open text. Its pieces are joined when somebody looks, so that a delta costs the same however long the text."""

    holder: Object
    name: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)

    def settle(self) -> None:
        self.pieces = ["".join(self.pieces)]
        self.holder[self.name] = self.pieces[0]
        if self.logprobs:
            self.holder["logprobs"] = self.logprobs


@dataclass(slots=True)
class _Draft:
    """An item as told so far, and what in it is still open. Every step checks all it needs before it writes."""

    item: Object
    is_done: bool = False
    status: str = ""  # the latest status event
    parts: set[_Spot] = field(default_factory=set)
    texts: dict[_Spot, _Growing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for text in TEXTS.values():
            if (text.item, text.parts) == (self.item["type"], None):
                self.open_text((None, 0), self.item, text.field)

    def open_text(self, spot: _Spot, holder: Object, name: str) -> None:
        """A text is open if it is added empty: one that is added whole, or null, takes no deltas."""
        if holder.get(name) == "":
            self.texts[spot] = _Growing(holder, name)

    def settled(self) -> Object:
        for text in self.texts.values():
            text.settle()
        return self.item

    def add_part(self, event: Event, parts: str) -> None:
        part, index = _need(event, "part", dict), _need(event, f"{parts}_index", int)
        place = (self.item["type"], parts, part.get("type"))
        name = next((text.field for text in TEXTS.values() if (text.item, text.parts, text.part) == place), None)
        _hold(name is not None, Law.PLACE, f"{place[0]}.{parts} takes no part of type {place[2]!r}")
        # A reasoning item is added without `content`, which begins with its first part.
        known = _need(self.item, parts, list) if parts in self.item else []
        _hold(index == len(known), Law.PLACE, f"{parts}[{index}] is added, not {len(known)}")
        self.item[parts] = [*known, dict(part)]
        self.parts.add((parts, index))
        self.open_text((parts, index), self.item[parts][index], str(name))

    def close_part(self, event: Event, parts: str) -> None:
        part, index = _need(event, "part", dict), _need(event, f"{parts}_index", int)
        spot = (parts, index)
        _hold(spot in self.parts, Law.PLACE, f"{parts}[{index}] is not open")
        _hold(spot not in self.texts, Law.PLACE, f"{parts}[{index}] is done before its text")
        _compare(part, self.item[parts][index], Law.NO_NEWS, f"{parts}[{index}]")
        self.parts.remove(spot)

    def grow(self, event: Event, text: Text) -> None:
        delta, logprobs = _need(event, "delta", str), _need(event, "logprobs", list) if "logprobs" in event else []
        growing = self.texts[self._spot(event, text)]
        growing.pieces.append(delta)
        growing.logprobs.extend(logprobs)

    def close_text(self, event: Event, text: Text) -> None:
        spot = self._spot(event, text)
        growing = self.texts[spot]
        growing.settle()
        _need(event, text.field, str)
        told = {key: event[key] for key in event.keys() - _ENVELOPE}
        # output_text.done always has `logprobs`, the part need not: there [] is no news.
        _compare(told, {key: growing.holder.get(key, []) for key in told}, Law.NO_NEWS, event["type"])
        del self.texts[spot]

    def annotate(self, event: Event) -> None:
        annotation, index = _need(event, "annotation", dict), _need(event, "annotation_index", int)
        part = self.texts[self._spot(event, TEXTS["output_text"])].holder
        known = _need(part, "annotations", list) if "annotations" in part else []
        _hold(index == len(known), Law.PLACE, f"annotation {index} is added, not {len(known)}")
        part["annotations"] = [*known, annotation]

    def progress(self, event: Event) -> None:
        """A status event, `response.<item type>.<status>`: what an open item shows, until output_item.done settles it.

        Any word is a status, since a new tool brings its own, save those of events that carry text: it would be lost.
        An event that carries more, such as image_generation_call.partial_image, is progress and no status.
        """
        kind, _, status = event["type"].rpartition(".")
        is_status = kind == f"response.{self.item['type']}" and status and status not in _CARRIERS
        _hold(is_status, Law.FORM, f"{event['type']} is no event of an item of type {self.item['type']}")
        fits = self.status not in _SETTLED and (status != "in_progress" or not self.status)
        _hold(fits, Law.LIFECYCLE, f"{event['type']} may not follow {self.status}")
        self.status = status
        if "status" in self.item and not event.keys() - _ENVELOPE:
            self.item["status"] = status

    def close(self, event: Event) -> None:
        item, index = _need(event, "item", dict), event["output_index"]
        _hold(not self.texts and not self.parts, Law.PLACE, f"item {index} is done before all in it is")
        _hold(item.get("status") != "in_progress", Law.LIFECYCLE, f"item {index} is done and in progress")
        unlisted = {"status", *(key for key in item if self.item.get(key) in (None, "", [], {}))}
        done_only = DONE_ONLY.get(self.item["type"], frozenset(unlisted))
        _compare(item, self.item, Law.NO_NEWS, f"item {index}", done_only)
        _adopt(self.item, item, done_only)
        self.is_done = True

    def _spot(self, event: Event, text: Text) -> _Spot:
        spot = (text.parts, _need(event, f"{text.parts}_index", int) if text.parts else 0)
        is_open = spot in self.texts and self.texts[spot].holder["type"] == (text.part or text.item)
        _hold(is_open, Law.PLACE, f"{event['type']}: no such text is open")
        return spot


_STEPS: Final[dict[str, Callable[[_Draft, Event], None]]] = {
    "response.output_item.done": _Draft.close,
    "response.output_text.annotation.added": _Draft.annotate,
    **{f"response.{name}.added": partial(_Draft.add_part, parts=parts) for name, parts in PARTS.items()},
    **{f"response.{name}.done": partial(_Draft.close_part, parts=parts) for name, parts in PARTS.items()},
    **{f"response.{name}.delta": partial(_Draft.grow, text=text) for name, text in TEXTS.items()},
    **{f"response.{name}.done": partial(_Draft.close_text, text=text) for name, text in TEXTS.items()},
}


class _Broken(Exception):  # a breach not yet placed in the stream: `feed` knows the number
    def __init__(self, law: Law, message: str) -> None:
        self.law = law
        self.message = message


_T = TypeVar("_T")


def _hold(holds: object, law: Law, message: str) -> None:
    if not holds:
        raise _Broken(law, message)


def _need(holder: Event, key: str, kind: type[_T]) -> _T:
    value = holder.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _Broken(Law.FORM, f"{holder.get('type')} has no {key} of type {kind.__name__}")
    return value


def _compare(told: Event, folded: Event, law: Law, what: str, may_differ: Set[str] = frozenset()) -> None:
    """Nothing that was told is missing, and only fields that may differ are new or other than before."""
    news = {key for key in told.keys() - may_differ if key not in folded or told[key] != folded[key]}
    lost = folded.keys() - told.keys()
    _hold(not news and not lost, law, f"{what} differs from what was told before in {sorted(news | lost)}")


def _adopt(folded: Object, told: Event, names: Set[str]) -> None:
    folded.update((name, value) for name, value in told.items() if name in names)
