"""The laws of a stream, tried on recordings of the original, on mutants of them, and on streams they do not show."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.core.fold import DONE_ONLY, TEXTS, Fold, Law, Unlawful, fold
from tests import recorded

Object: TypeAlias = dict[str, Any]
Events: TypeAlias = list[Object]


class Exempt(NamedTuple):
    """A recording that breaks a law, and why that says nothing against the law."""

    law: Law
    at: int
    reason: str


EXCEPTIONS = {
    "openai-responses/builtin-tool-code_interpreter-outputs-multi-stream": Exempt(
        Law.NO_NEWS,
        23,
        "Shortened by hand after it was recorded: the message has its text but none of its deltas; `role` is missing"
        " from the message and presence_penalty from response.completed; the code is escaped twice; the last frame has"
        " no blank line. No other recording shows any of these.",
    ),
}

STREAMS = recorded.streams("openai-responses")
LAWFUL_STREAMS = [name for name in STREAMS if name not in EXCEPTIONS]


# --- the recordings ---


@pytest.mark.parametrize("name", LAWFUL_STREAMS)
def test_a_recorded_stream_folds_to_its_final_response(name: str) -> None:
    events = list(recorded.events(name))
    assert fold(events) == events[-1]["response"]


@pytest.mark.parametrize("name", LAWFUL_STREAMS)
def test_every_prefix_of_a_recorded_stream_tells_what_was_said_so_far(name: str) -> None:
    folded, said = Fold(), ""
    for event in recorded.events(name):
        assert not folded.finished
        folded.feed(event)
        said += event.get("delta", "")
        assert texts(folded.response) == said
    assert folded.finished


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_still_needed(name: str) -> None:
    with pytest.raises(Unlawful) as caught:
        fold(recorded.events(name))
    assert (caught.value.law, caught.value.sequence_number) == (EXCEPTIONS[name].law, EXCEPTIONS[name].at)


def test_the_shortened_recording_is_lawful_once_its_lost_delta_and_field_are_restored() -> None:
    events = list(recorded.events("openai-responses/builtin-tool-code_interpreter-outputs-multi-stream"))
    lost = {**events[23], "type": "response.output_text.delta", "delta": events[23]["text"]}
    del lost["text"]
    events.insert(23, lost)
    events[-1]["response"]["presence_penalty"] = events[0]["response"]["presence_penalty"]
    assert fold(numbered(events)) == events[-1]["response"]


def test_a_request_refused_before_its_stream_began_is_no_stream() -> None:
    refused = "openai-responses/max-tool-calls-code-interpreter-stream-v2-zero"
    assert recorded.request_body(refused)["stream"] is True
    assert refused not in STREAMS
    assert (recorded.status(refused), recorded.response_body(refused)["error"]["param"]) == (400, "max_tool_calls")


def feed(folded: Fold, events: Events) -> Fold:
    for event in events:
        folded.feed(event)
    return folded


def texts(response: Object) -> str:
    """All text in the output that deltas tell, in order."""
    said = ""
    for item in response.get("output", []):
        for text in TEXTS.values():
            if text.item == item["type"]:
                holders = [item] if text.parts is None else item.get(text.parts, [])
                said += "".join(holder[text.field] for holder in holders if holder["type"] in (text.item, text.part))
    return said


# --- mutants of the recordings ---

Mutant: TypeAlias = tuple[str, Events]
"""What was done, to be looked up in EXPECTED, and the stream it was done to."""


def numbered(events: Events) -> Events:
    """So that a mutant is not caught by its numbers alone."""
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def spots(events: Events) -> list[int]:
    """Every event, but of a run of like events only the first and the last: those between differ in nothing."""
    kinds = ["", *(event["type"] for event in events), ""]
    return [n for n in range(len(events)) if not kinds[n] == kinds[n + 1] == kinds[n + 2]]


def drop(events: Events) -> Iterator[Mutant]:
    for n in spots(events):
        yield events[n]["type"], numbered(events[:n] + events[n + 1 :])


def drop_and_leave_a_gap(events: Events) -> Iterator[Mutant]:
    for n in spots(events)[:-1]:
        yield events[n]["type"], events[:n] + events[n + 1 :]


def cut_short(events: Events) -> Iterator[Mutant]:
    for n in spots(events):
        yield events[n]["type"], events[:n]


def repeat(events: Events) -> Iterator[Mutant]:
    for n in spots(events):
        yield events[n]["type"], numbered(events[: n + 1] + events[n:])


def swap(events: Events) -> Iterator[Mutant]:
    for n in spots(events)[:-1]:
        first, second = events[n : n + 2]
        yield f"{first['type']} > {second['type']}", numbered([*events[:n], second, first, *events[n + 2 :]])


def alter(events: Events) -> Iterator[Mutant]:
    for n, way, what in everywhere(events):
        event, holder = holder_of(events[n], way)
        holder[way[-1]] = other(holder[way[-1]])
        yield what, [*events[:n], event, *events[n + 1 :]]


def remove(events: Events) -> Iterator[Mutant]:
    for n, way, what in everywhere(events):
        event, holder = holder_of(events[n], way)
        del holder[way[-1]]
        yield what, [*events[:n], event, *events[n + 1 :]]


def misreport(events: Events) -> Iterator[Mutant]:
    """The final output tells something else than the stream."""
    output = events[-1]["response"]["output"]
    for n, item in enumerate(output):
        yield "an item less", ending(events, output[:n] + output[n + 1 :])
        yield "an item more", ending(events, [*output[:n], item, *output[n:]])
        yield "no object", ending(events, [*output[:n], "…", *output[n + 1 :]])
        if n:
            yield "another order", ending(events, [*output[: n - 1], item, output[n - 1], *output[n + 1 :]])


def prolong(events: Events) -> Iterator[Mutant]:
    for n in spots(events):
        yield events[n]["type"], numbered([*events, events[n]])


def ending(events: Events, output: list[Any]) -> Events:
    return [*events[:-1], {**events[-1], "response": {**events[-1]["response"], "output": output}}]


Way: TypeAlias = tuple[str | int, ...]


def everywhere(events: Events) -> Iterator[tuple[int, Way, str]]:
    for n in spots(events):
        for way in leaves(events[n]):
            yield n, way, f"{events[n]['type']} {'.'.join(map(str, way))}"


def leaves(value: object, way: Way = ()) -> Iterator[Way]:
    """The way to every scalar, and to everything empty."""
    inside = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, child in inside:
        yield from leaves(child, (*way, key))
    if not inside:
        yield way


def holder_of(event: Object, way: Way) -> tuple[Object, Any]:
    """A copy of the event, and in it what holds the leaf."""
    event = deepcopy(event)
    holder: Any = event
    for key in way[:-1]:
        holder = holder[key]
    return event, holder


def other(value: Any) -> object:
    if type(value) in (int, float):
        return value + 1
    others = {str: f"{value}~", bool: not value, list: ["~"], dict: {"~": 1}}
    return others.get(type(value), "~")


class Row(NamedTuple):
    """What becomes of the mutants that a pattern matches: the laws that catch them, or why some are lawful."""

    pattern: str
    laws: frozenset[Law]
    lawful: str = ""


def row(pattern: str, *laws: Law, lawful: str = "") -> Row:
    return Row(pattern, frozenset(laws), lawful)


FORM, SEQUENCE, LIFECYCLE, PLACE, NO_NEWS, REPLAY = Law

PROGRESS = "a status event tells nothing that `done` does not tell in the end"
WORD = "any word is a status: each item type has its own"
TOLD_ONCE = "only the terminal event tells it: there is nothing to compare it with"
RESEALED = "sealed anew in every snapshot"
NO_LIST = "an absent list is an empty one; whether it may be absent is for the types of the wire"

# The first row that matches counts. Both tests below hold every row to be exact: each law in it catches something,
# and it says why it is lawful if and only if something matching is.
EXPECTED: dict[Callable[[Events], Iterator[Mutant]], list[Row]] = {
    drop: [
        row("error", lawful="what an error says, response.failed says again"),
        row("response.in_progress", LIFECYCLE, lawful="a response may fail as soon as it is created"),
        row("response.created", LIFECYCLE),
        row("response.output_item.added", PLACE),
        row("response.output_item.done", LIFECYCLE),
        row("response.*_part.*", PLACE),
        row("response.output_text.annotation.added", NO_NEWS, PLACE),
        row("response.*.delta", NO_NEWS),
        row("response.*.done", PLACE),
        row("response.*_call.*", lawful=PROGRESS),
        row("*", LIFECYCLE),
    ],
    drop_and_leave_a_gap: [row("*", SEQUENCE)],
    cut_short: [row("*", LIFECYCLE)],
    repeat: [
        row("response.output_item.*", PLACE),
        row("response.output_text.annotation.added", PLACE),
        row("response.*.added", PLACE),
        row("response.*.delta", NO_NEWS),
        row("response.*.done", PLACE),
        row("response.*_call.searching", lawful=PROGRESS),
        row("response.*_call.interpreting", lawful=PROGRESS),
        row("*", LIFECYCLE),
    ],
    swap: [
        row("response.output_item.done > response.output_item.added", lawful="items may interleave"),
        row("response.*_part.done > response.*_part.added", lawful="parts may interleave"),
        row("*annotation.added > *.delta", lawful="an annotation may come while its text is open"),
        row("*.delta > *annotation.added", lawful="an annotation may come while its text is open"),
        row("response.*_call.in_progress > *.delta", lawful=PROGRESS),
        row("*.done > response.*_call.interpreting", lawful=PROGRESS),
        row("*.delta > *", NO_NEWS),
        row("response.output_item.added > *", PLACE),
        row("* > response.output_item.done", PLACE),
        row("* > response.*_part.done", PLACE),
        row("response.*_part.added > *", PLACE),
        row("*", LIFECYCLE),
    ],
    alter: [
        row("* sequence_number", SEQUENCE),
        row("* obfuscation", lawful="padding"),
        row("error error.*", lawful="what an error says, response.failed says again"),
        row("response.created type", LIFECYCLE),
        row("response.in_progress type", LIFECYCLE),
        row("response.failed type", LIFECYCLE),
        row("response.*_call.* type", lawful=WORD),
        row("response.output_item.* type", PLACE),  # it reads as a status event of an item of type output_item
        row("* type", FORM),
        row("* output_index", PLACE),
        row("* content_index", PLACE),
        row("* summary_index", PLACE),
        row("* annotation_index", PLACE),
        row("* item_id", PLACE),
        row("*.added item.id", PLACE),
        row("*.added item.type", PLACE, FORM, NO_NEWS),
        row("*.added item.status", LIFECYCLE),
        row("*.added item.arguments", PLACE),
        row("*.added item.code", PLACE),
        row("*.added item.content", PLACE),
        row("*.added item.summary", PLACE, NO_NEWS),
        row("*.added item.outputs", lawful="done-only"),
        row("* item.encrypted_content", lawful=RESEALED),
        row("*.added item.*", NO_NEWS),
        row("*.added part.type", PLACE),
        row("*.added part.text", PLACE),
        row("*.added part.annotations", PLACE, NO_NEWS),
        row("*.done item.id", PLACE),
        row("*.done item.status", REPLAY),
        row("*.done item.action.*", REPLAY),
        row("*.done item.outputs", REPLAY),
        row("* response.id", LIFECYCLE),
        row("* response.status", LIFECYCLE),
        row("* response.output.*.encrypted_content", lawful=RESEALED),
        row("* response.output*", REPLAY),
        row("response.completed response.completed_at", lawful=TOLD_ONCE),
        row("* response.completed_at", LIFECYCLE),
        row("response.failed response.error.*", lawful=TOLD_ONCE),
        row("* response.error", LIFECYCLE),
        row("response.incomplete response.incomplete_details.*", lawful=TOLD_ONCE),
        row("* response.incomplete_details", LIFECYCLE),
        row("response.created response.*", NO_NEWS),
        row("response.in_progress response.*", NO_NEWS),
        row("* response.usage*", lawful=TOLD_ONCE),
        row("* response.service_tier", lawful=TOLD_ONCE),
        row("*", NO_NEWS),
    ],
    remove: [
        row("* sequence_number", SEQUENCE),
        row("* obfuscation", lawful="padding"),
        row("error error.*", lawful="what an error says, response.failed says again"),
        row("* type", FORM),
        row("* output_index", FORM),
        row("* content_index", FORM),
        row("* summary_index", FORM),
        row("* annotation_index", FORM),
        row("* item_id", PLACE),
        row("*.delta delta", FORM),
        row("*.delta logprobs", lawful=NO_LIST),
        row("*.done logprobs", lawful=NO_LIST),
        row("*.done text", FORM),
        row("*.done arguments", FORM),
        row("*.done code", FORM),
        row("*.added item.id", FORM),
        row("*.added item.type", FORM),
        row("*.added item.arguments", PLACE),
        row("*.added item.code", PLACE),
        row("*.added item.content", lawful=NO_LIST),
        row("*.added item.summary", NO_NEWS, lawful=NO_LIST),
        row("*.added item.outputs", lawful="done-only"),
        row("*.added item.status", lawful="done-only"),
        row("*.added item.encrypted_content", lawful="done-only"),
        row("*.added item.*", NO_NEWS),
        row("*.added part.type", PLACE),
        row("*.added part.text", PLACE),
        row("*.added part.annotations", NO_NEWS, lawful=NO_LIST),
        row("*.done item.id", PLACE),
        row("*.done item.action.*", REPLAY),
        row("* response.id", FORM),
        row("* response.status", FORM),
        row("response.created response.output", FORM),
        row("* response.output.*", REPLAY),
        row("response.completed response.completed_at", LIFECYCLE),
        row("response.failed response.error.*", lawful=TOLD_ONCE),
        row("response.incomplete response.incomplete_details.*", lawful=TOLD_ONCE),
        row("* response.usage.*", lawful=TOLD_ONCE),
        row("*", NO_NEWS),
    ],
    misreport: [row("no object", FORM), row("*", REPLAY)],
    prolong: [row("*", LIFECYCLE)],
}


@pytest.mark.parametrize("mutate", EXPECTED, ids=lambda mutate: mutate.__name__)
def test_a_mutant_is_caught_by_the_law_it_breaks(mutate: Callable[[Events], Iterator[Mutant]]) -> None:
    surprises = [
        f"{name}: {what}: {law}"
        for name, what, law, expected in tried(mutate)
        if (law not in expected.laws if law else not expected.lawful)
    ]
    assert surprises == []


@pytest.mark.parametrize("mutate", EXPECTED, ids=lambda mutate: mutate.__name__)
def test_what_is_expected_of_mutants_is_exact(mutate: Callable[[Events], Iterator[Mutant]]) -> None:
    seen: dict[Row, set[Law | None]] = {expected: set() for expected in EXPECTED[mutate]}
    for _, _, law, expected in tried(mutate):
        seen[expected].add(law)
    assert seen == {row: row.laws | ({None} if row.lawful else set()) for row in seen}


@cache
def tried(mutate: Callable[[Events], Iterator[Mutant]]) -> list[tuple[str, str, Law | None, Row]]:
    """Of every mutant: the recording, what was done to it, the law that caught it if any, and what was expected."""
    return [
        (name, what, broken_law(mutant), next(row for row in EXPECTED[mutate] if fnmatchcase(what, row.pattern)))
        for name in LAWFUL_STREAMS
        for what, mutant in mutate(list(recorded.events(name)))
    ]


def broken_law(events: Events) -> Law | None:
    try:
        fold(events)
    except Unlawful as unlawful:
        return unlawful.law
    return None


# --- laws that hold for any stream ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KINDS = ["error", *(event["type"] for name in LAWFUL_STREAMS for event in recorded.events(name))]
FIELDS = ["response", "item", "part", "item_id", "output_index", "summary_index", "delta", "text", "annotation"]
recordings = st.sampled_from([name for name in LAWFUL_STREAMS if len(list(recorded.events(name))) < 100])
repeatable = settings(max_examples=150, deadline=None, derandomize=True)


@repeatable
@given(recordings, st.data())
def test_an_event_in_another_place_breaks_a_law_or_changes_nothing(name: str, data: st.DataObject) -> None:
    events = list(recorded.events(name))
    final = events[-1]["response"]
    places = st.integers(0, len(events) - 1)
    events.insert(data.draw(places), events.pop(data.draw(places)))
    assert broken_law(numbered(events)) or fold(numbered(events)) == final


@repeatable
@given(recordings, st.data())
def test_whatever_is_fed_breaks_a_law_or_folds_and_an_unlawful_event_leaves_no_trace(
    name: str, data: st.DataObject
) -> None:
    events = list(recorded.events(name))
    n = data.draw(st.integers(0, len(events) - 1))
    way = data.draw(st.sampled_from(list(leaves(events[n]))))
    way = way[: data.draw(st.integers(1, len(way)))]
    events[n], holder = holder_of(events[n], way)
    holder[way[-1]] = data.draw(JSON)
    folded = Fold()
    with suppress(Unlawful):
        feed(folded, events)
    assert folded.response == feed(Fold(), events[: folded.next_number]).response


@repeatable
@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_an_event_with_whatever_fields_breaks_a_law_or_folds(kind: str, fields: Object) -> None:
    folded = feed(Fold(), numbered([*BEGINNING, added(0, type="reasoning", summary=[])]))
    before = folded.response
    try:
        folded.feed({"type": kind, "sequence_number": 3, **fields})
    except Unlawful:
        assert folded.response == before


@repeatable
@given(st.data())
def test_items_may_interleave_and_texts_may_be_cut_anywhere(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(TEXTS)), max_size=4))
    told = [data.draw(st.lists(st.text(max_size=3), max_size=3)) for _ in kinds]
    waiting = [item_telling(index, kind, pieces) for index, (kind, pieces) in enumerate(zip(kinds, told, strict=True))]
    items = [events[-1]["item"] for events in waiting]
    steps: Events = []
    while any(waiting):
        begun = [events for events in waiting if events and events[0]["type"] != "response.output_item.added"]
        new = [events for events in waiting if events and events not in begun][:1]
        steps.append(data.draw(st.sampled_from(begun + new)).pop(0))
    response = fold(ended(steps))
    assert response["output"] == items
    assert texts(response) == "".join("".join(pieces) for pieces in told)


def item_telling(index: int, kind: str, pieces: list[str]) -> Events:
    """All events of an item that has one text: what a plain server would send."""
    text, whole = TEXTS[kind], "".join(pieces)
    if text.parts is None:
        deltas = [at(index, f"{kind}.delta", delta=piece) for piece in pieces]
        last = [at(index, f"{kind}.done", **{text.field: whole}), done(index, type=text.item, **{text.field: whole})]
        return [added(index, type=text.item, **{text.field: ""}), *deltas, *last]
    family = {"content": "content_part", "summary": "reasoning_summary_part"}[text.parts]
    here = {f"{text.parts}_index": 0}
    part = {"type": text.part, text.field: whole}
    return [
        added(index, type=text.item, **{text.parts: []}),
        at(index, f"{family}.added", part={**part, text.field: ""}, **here),
        *(at(index, f"{kind}.delta", delta=piece, **here) for piece in pieces),
        at(index, f"{kind}.done", **{text.field: whole}, **here),
        at(index, f"{family}.done", part=part, **here),
        done(index, type=text.item, **{text.parts: [part]}),
    ]


# --- streams that the recordings do not show ---

TOLD = {"id": "resp_1", "status": "in_progress", "completed_at": None, "error": None, "incomplete_details": None}
BEGINNING: Events = [
    {"type": f"response.{kind}", "response": {**TOLD, "output": []}} for kind in ("created", "in_progress")
]


def added(index: int, **item: Any) -> Object:
    return {"type": "response.output_item.added", "output_index": index, "item": {"id": f"item_{index}", **item}}


def done(index: int, **item: Any) -> Object:
    return {"type": "response.output_item.done", "output_index": index, "item": {"id": f"item_{index}", **item}}


def at(index: int, kind: str, **fields: Any) -> Object:
    return {"type": f"response.{kind}", "output_index": index, "item_id": f"item_{index}", **fields}


def ended(steps: Events, kind: str = "response.completed", **response: Any) -> Events:
    """A whole stream: the beginning, the steps, and an end that reports the items that are done."""
    finished = [step for step in steps if step["type"] == "response.output_item.done"]
    output = [step["item"] for step in sorted(finished, key=lambda step: step["output_index"])]
    response = response or {"status": "completed", "completed_at": 2}
    return numbered([*BEGINNING, *steps, {"type": kind, "response": {**TOLD, **response, "output": output}}])


REFUSAL: Events = [
    added(0, type="message", status="in_progress", role="assistant", content=[]),
    at(0, "content_part.added", content_index=0, part={"type": "refusal", "refusal": ""}),
    at(0, "refusal.delta", content_index=0, delta="I will"),
    at(0, "refusal.delta", content_index=0, delta=" not."),
    at(0, "refusal.done", content_index=0, refusal="I will not."),
    at(0, "content_part.done", content_index=0, part={"type": "refusal", "refusal": "I will not."}),
    done(
        0, type="message", status="completed", role="assistant", content=[{"type": "refusal", "refusal": "I will not."}]
    ),
]

REASONING: Events = [
    added(0, type="reasoning", summary=[]),
    at(0, "content_part.added", content_index=0, part={"type": "reasoning_text", "text": ""}),
    at(0, "reasoning_text.delta", content_index=0, delta="Hm"),
    at(0, "reasoning_text.delta", content_index=0, delta="…"),
    at(0, "reasoning_text.done", content_index=0, text="Hm…"),
    at(0, "content_part.done", content_index=0, part={"type": "reasoning_text", "text": "Hm…"}),
    at(0, "reasoning_summary_part.added", summary_index=0, part={"type": "summary_text", "text": ""}),
    at(0, "reasoning_summary_text.delta", summary_index=0, delta="Thought."),
    at(0, "reasoning_summary_text.done", summary_index=0, text="Thought."),
    at(0, "reasoning_summary_part.done", summary_index=0, part={"type": "summary_text", "text": "Thought."}),
    done(
        0,
        type="reasoning",
        summary=[{"type": "summary_text", "text": "Thought."}],
        content=[{"type": "reasoning_text", "text": "Hm…"}],
        encrypted_content="sealed",
    ),
]

FUNCTION = {"type": "function_call", "call_id": "call_1", "name": "f"}
TWO_CALLS: Events = [
    added(0, **FUNCTION, status="in_progress", arguments=""),
    added(1, **FUNCTION, status="in_progress", arguments=""),
    at(1, "function_call_arguments.delta", delta='{"b":'),
    at(0, "function_call_arguments.delta", delta="{"),
    at(1, "function_call_arguments.delta", delta="1}"),
    at(1, "function_call_arguments.done", arguments='{"b":1}', name="f"),
    done(1, **FUNCTION, status="completed", arguments='{"b":1}'),
    at(0, "function_call_arguments.delta", delta="}"),
    at(0, "function_call_arguments.done", arguments="{}"),
    done(0, **FUNCTION, status="completed", arguments="{}"),
]

CUSTOM: Events = [
    added(0, type="custom_tool_call", status="in_progress", call_id="call_1", name="sql", input=""),
    at(0, "custom_tool_call_input.delta", delta="select "),
    at(0, "custom_tool_call_input.delta", delta="1"),
    at(0, "custom_tool_call_input.done", input="select 1"),
    done(0, type="custom_tool_call", status="completed", call_id="call_1", name="sql", input="select 1"),
]

MCP = {"type": "mcp_call", "server_label": "docs", "name": "search"}
MCP_TOOLS = {"type": "mcp_list_tools", "server_label": "docs"}
REMOTE: Events = [
    added(0, **MCP_TOOLS, tools=[]),
    at(0, "mcp_list_tools.in_progress"),
    at(0, "mcp_list_tools.completed"),
    done(0, **MCP_TOOLS, tools=[{"name": "search"}]),
    added(1, **MCP, status="in_progress", arguments="", output=None, error=None),
    at(1, "mcp_call.in_progress"),
    at(1, "mcp_call_arguments.delta", delta="{}"),
    at(1, "mcp_call_arguments.done", arguments="{}"),
    at(1, "mcp_call.failed"),
    done(1, **MCP, status="failed", arguments="{}", output=None, error={"type": "http_error", "code": 502}),
]

SEARCH: Events = [
    added(0, type="file_search_call", status="in_progress", queries=[], results=None),
    *(at(0, f"file_search_call.{status}") for status in ("in_progress", "searching", "completed")),
    done(0, type="file_search_call", status="completed", queries=["a"], results=[{"text": "b"}]),
]

SCRIPTED: Events = [
    added(0, type="antiphon:scripted_call", status="in_progress", name="dice", rolls=[]),
    *(at(0, f"antiphon:scripted_call.{status}") for status in ("in_progress", "rolling", "rolling", "completed")),
    done(0, type="antiphon:scripted_call", status="completed", name="dice", rolls=[3, 4], sum=7),
]

LOGPROBS = [{"token": "Hi", "logprob": -0.1}, {"token": "!", "logprob": -0.2}]
LIKELY_PART = {"type": "output_text", "annotations": [], "logprobs": LOGPROBS, "text": "Hi!"}
LIKELY: Events = [
    added(0, type="message", status="in_progress", role="assistant", content=[]),
    at(0, "content_part.added", content_index=0, part={**LIKELY_PART, "logprobs": [], "text": ""}),
    at(0, "output_text.delta", content_index=0, delta="Hi", logprobs=LOGPROBS[:1]),
    at(0, "output_text.delta", content_index=0, delta="!", logprobs=LOGPROBS[1:]),
    at(0, "output_text.done", content_index=0, text="Hi!", logprobs=LOGPROBS),
    at(0, "content_part.done", content_index=0, part=LIKELY_PART),
    done(0, type="message", status="completed", role="assistant", content=[LIKELY_PART]),
]

WHOLE: Events = [
    added(0, type="function_call", status="in_progress", arguments="{}"),
    done(0, type="function_call", status="completed", arguments="{}"),
]


@pytest.mark.parametrize("steps", [[], REFUSAL, REASONING, TWO_CALLS, CUSTOM, REMOTE, SEARCH, SCRIPTED, LIKELY, WHOLE])
def test_a_lawful_stream_folds_to_the_items_it_told(steps: Events) -> None:
    events = ended(steps)
    assert fold(events) == events[-1]["response"]


def test_a_prefix_shows_each_open_item_as_far_as_it_was_told() -> None:
    folded = Fold()
    assert folded.response == {}
    feed(folded, ended(TWO_CALLS)[:7])
    assert [item["arguments"] for item in folded.response["output"]] == ["{", '{"b":1}']
    assert [item["status"] for item in folded.response["output"]] == ["in_progress", "in_progress"]
    assert (folded.response["status"], folded.finished, folded.next_number) == ("in_progress", False, 7)


def test_an_open_item_shows_the_status_it_was_told_last_but_progress_is_no_status() -> None:
    image = {"type": "image_generation_call", "result": None}
    steps = [
        added(0, **image, status="in_progress"),
        at(0, "image_generation_call.in_progress"),
        at(0, "image_generation_call.generating"),
        at(0, "image_generation_call.partial_image", partial_image_index=0, partial_image_b64="aGk="),
        at(0, "image_generation_call.completed"),
        done(0, **{**image, "result": "aGk="}, status="completed"),
    ]
    folded = feed(Fold(), numbered(BEGINNING))
    shown = [feed(folded, [event]).response["output"][0]["status"] for event in ended(steps)[2:]]
    assert shown == ["in_progress", "in_progress", "generating", "generating", *["completed"] * 3]


def test_what_the_caller_does_to_a_response_does_not_reach_the_fold() -> None:
    folded = feed(Fold(), ended(REFUSAL))
    folded.response["output"][0]["content"].clear()
    assert folded.response == ended(REFUSAL)[-1]["response"]


def test_a_background_response_waits_in_the_queue_first() -> None:
    waiting: Object = {**TOLD, "status": "queued", "output": []}
    queued = [{"type": f"response.{kind}", "response": waiting} for kind in ("created", "queued")]
    assert fold(numbered([*queued, *ended(REFUSAL)[1:]])) == ended(REFUSAL)[-1]["response"]


def test_a_response_cancelled_in_the_queue_ends_as_incomplete() -> None:
    waiting: Object = {**TOLD, "status": "queued", "output": []}
    cancelled = {**waiting, "status": "cancelled"}
    kinds = {"created": waiting, "queued": waiting, "incomplete": cancelled}
    events = [{"type": f"response.{kind}", "response": response} for kind, response in kinds.items()]
    assert fold(numbered(events)) == cancelled


def test_a_response_cancelled_in_the_middle_keeps_what_was_said() -> None:
    part = {"type": "refusal", "refusal": "I will"}
    steps = [
        *REFUSAL[:3],
        {**REFUSAL[4], "refusal": "I will"},
        {**REFUSAL[5], "part": part},
        done(0, type="message", status="incomplete", role="assistant", content=[part]),
    ]
    response = fold(ended(steps, "response.incomplete", status="cancelled"))
    assert (response["status"], response["output"][0]["content"]) == ("cancelled", [part])


@pytest.mark.parametrize("error", [{"message": "No."}, {"error": {"message": "No."}}], ids=["flat", "nested"])
def test_an_error_is_followed_by_a_failed_response(error: Object) -> None:
    failed = ended(REFUSAL, "response.failed", status="failed", error={"code": "server_error", "message": "No."})
    assert fold(failed)["status"] == "failed"
    events = numbered([*failed[:-1], {"type": "error", **error}, failed[-1]])
    assert fold(events) == failed[-1]["response"]
    assert broken_law(numbered([*events[:-1], ended(REFUSAL)[-1]])) is LIFECYCLE


UNLAWFUL: dict[str, tuple[Events, Law]] = {
    "an unknown event": ([*REFUSAL[:1], at(0, "output_text.finished")], FORM),
    "a keep-alive that takes a number": ([{"type": "keepalive"}], FORM),
    "a status event of another type": ([*SCRIPTED[:1], at(0, "web_search_call.searching")], FORM),
    "no status": ([*SCRIPTED[:1], at(0, "antiphon:scripted_call.")], FORM),
    "a part of a type that has none": ([*SCRIPTED[:1], at(0, "antiphon:scripted_call.added", part={})], FORM),
    "a text of a type that has none": ([*SCRIPTED[:1], at(0, "antiphon:scripted_call.done", text="3")], FORM),
    "a delta of a type that has none": ([*SCRIPTED[:1], at(0, "antiphon:scripted_call.delta", delta="3")], FORM),
    "a status after completed": ([*SCRIPTED[:-1], at(0, "antiphon:scripted_call.rolling")], LIFECYCLE),
    "a status after failed": ([*REMOTE[:-1], at(1, "mcp_call.calling")], LIFECYCLE),
    "a status after incomplete": (
        [*SEARCH[:2], at(0, "file_search_call.incomplete"), at(0, "file_search_call.searching")],
        LIFECYCLE,
    ),
    "an unlisted type unsays": ([*SCRIPTED[:-1], done(0, type="antiphon:scripted_call", name="coin")], NO_NEWS),
    "an item done and in progress": (
        [*WHOLE[:1], done(0, type="function_call", status="in_progress", arguments="{}")],
        LIFECYCLE,
    ),
    "a second item under one id": (
        [added(0, type="reasoning"), {**added(0, type="reasoning"), "output_index": 1}],
        PLACE,
    ),
    "deltas to a text added whole": ([*WHOLE[:1], at(0, "function_call_arguments.delta", delta="{}")], PLACE),
    "a delta to an item that is done": ([*CUSTOM, at(0, "custom_tool_call_input.delta", delta=";")], PLACE),
    "a text of another part": ([*REFUSAL[:2], at(0, "output_text.delta", content_index=0, delta="")], PLACE),
    "a part of another item": ([*CUSTOM[:1], {**REFUSAL[1]}], PLACE),
    "a part in another list": (
        [*REASONING[:1], at(0, "reasoning_summary_part.added", summary_index=0, part={"type": "reasoning_text"})],
        PLACE,
    ),
    "another name at done": ([*TWO_CALLS[:5], {**TWO_CALLS[5], "name": "g"}], NO_NEWS),
    "a refusal that changes": ([*REFUSAL[:4], {**REFUSAL[4], "refusal": "I will."}], NO_NEWS),
    "logprobs that change": ([*LIKELY[:4], {**LIKELY[4], "logprobs": LOGPROBS[:1]}], NO_NEWS),
    "a reasoning text that changes": ([*REASONING[:4], {**REASONING[4], "text": "Hm"}], NO_NEWS),
    "true is no number": ([{**REFUSAL[0], "output_index": False}], FORM),
}


@pytest.mark.parametrize("what", UNLAWFUL)
def test_an_unlawful_event_is_refused_by_its_law_and_its_number(what: str) -> None:
    steps, law = UNLAWFUL[what]
    with pytest.raises(Unlawful) as caught:
        fold(numbered([*BEGINNING, *steps]))
    assert (caught.value.law, caught.value.sequence_number) == (law, len(steps) + 1)
    assert str(caught.value) == f"{law}, at event {len(steps) + 1}: {caught.value.message}"


@pytest.mark.parametrize("number", [False, 0.0, "0", None, 1], ids=repr)
def test_only_the_number_zero_comes_first(number: object) -> None:
    with pytest.raises(Unlawful) as caught:
        Fold().feed({**BEGINNING[0], "sequence_number": number})
    assert (caught.value.law, caught.value.sequence_number) == (SEQUENCE, 0)


def test_a_stream_id_at_done_is_no_news() -> None:
    events = ended(CUSTOM)
    assert fold([{**event, "stream_id": "lane"} for event in events]) == events[-1]["response"]


# Where the recordings are silent: `ResponseOutputItem` of the published types, less what is known at the call's start.
TOLD_BY_DONE = {
    "reasoning": ["status"],
    "custom_tool_call": ["status"],
    "file_search_call": ["queries", "results", "status"],
    "mcp_call": ["error", "output", "status"],
    "mcp_list_tools": ["error", "status", "tools"],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in TOLD_BY_DONE.items() for name in names])
def test_done_alone_tells_what_is_known_at_the_end(kind: str, name: str) -> None:
    steps = [added(0, type=kind), done(0, type=kind, **{name: "completed"})]
    assert fold(ended(steps))["output"] == [steps[1]["item"]]
    assert broken_law(ended([steps[0], done(0, type=kind, **{f"{name}~": "completed"})])) is NO_NEWS


def test_items_that_the_table_lists_are_those_that_tell_text_or_are_recorded() -> None:
    recorded_types = {event["item"]["type"] for name in STREAMS for event in recorded.events(name) if "item" in event}
    assert DONE_ONLY.keys() >= recorded_types | {text.item for text in TEXTS.values()}
