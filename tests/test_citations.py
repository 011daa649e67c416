"""Citations: what readers see in the place of a model's marks, and where the annotations say that it stands."""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.core.builder import Builder
from antiphon.core.citations import HELD_CHARS_MAX, Citing, mark
from antiphon.core.deltas import Annotate, Delta, Finish, Refusal, Text, Thought, ToolCall
from antiphon.core.hosted import Source
from antiphon.wire.items import Logprob, Message, OutputText, UrlCitation
from antiphon.wire.response import Response
from tests.recorded import events, names, response_body

A, B = mark(b"aaaa"), mark(b"bbbb")
UNKNOWN = mark(b"cccc")
LINK_A, LINK_B = "([a.example](https://a.example/))", "([b.example](https://b.example/))"


def source(name: str, text: str) -> Source:
    return Source(name, text, UrlCitation(start_index=0, end_index=0, title=text[2], url=f"https://{text[2]}.example/"))


SOURCES = (source(A, LINK_A), source(B, LINK_B))


def told(deltas: Sequence[Delta], *, writes: bool = True, sources: Sequence[Source] = SOURCES) -> OutputText:
    """The text part that readers end up with."""
    numbers = itertools.count()
    skeleton = Response(id="resp_1", created_at=1, status="in_progress", model="m")
    builder = Builder(skeleton, lambda prefix: f"{prefix}_{next(numbers)}")
    builder.start()
    for delta in Citing(sources, writes=writes).read([*deltas, Finish("stop")]):
        builder.feed(delta)
    builder.end_turn()
    messages = [item for item in builder.response.output if isinstance(item, Message)]
    assert len(messages) <= 1
    part = messages[0].content[0] if messages else OutputText(text="")
    assert isinstance(part, OutputText)
    return part


def cited(part: OutputText) -> list[tuple[str, str]]:
    """What each annotation spans, and whom it names."""
    found = [one for one in part.annotations if isinstance(one, UrlCitation)]
    return [(part.text[one.start_index : one.end_index], one.title) for one in found]


@pytest.mark.parametrize(
    ("said", "text", "titles"),
    [
        (f"So it is【{A}】.", f"So it is {LINK_A}.", "a"),
        (f"So it is 【{A}】", f"So it is {LINK_A}", "a"),
        (f"【{A}】 says so", f"{LINK_A} says so", "a"),
        (f"Zinsen – “3,5 %” 🏦【{A}】", f"Zinsen – “3,5 %” 🏦 {LINK_A}", "a"),
        (f"one【{A}】【{B}】 two【{A}】", f"one {LINK_A} {LINK_B} two {LINK_A}", "aba"),
        (f"both【{A}, {B}】", f"both {LINK_A} {LINK_B}", "ab"),
        (f"lines【{A}†L1-L20】", f"lines {LINK_A}", "a"),
        (f"who【{UNKNOWN}】 knows", "who knows", ""),
        (f"who【{UNKNOWN}】【{B}】 knows", f"who {LINK_B} knows", "b"),
        ("see 【重要】 and 【hello】", "see 【重要】 and 【hello】", ""),
        (f"open 【 and【{A}】", f"open 【 and {LINK_A}", "a"),
        (f"【\n{A}】", f"【\n{A}】", ""),
        (f"【{A}†{'x' * 60}】", f"【{A}†{'x' * 60}】", ""),
        (f"【{'x' * 40}【{A}】", f"【{'x' * 40} {LINK_A}", "a"),
        (f"cut off 【{A[:3]}", "cut off ", ""),
        ("cut off 【重", "cut off 【重", ""),
        ("】 alone", "】 alone", ""),
        ("【" + "x" * 100, "【" + "x" * 100, ""),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_marks_become_links_that_annotations_span(said: str, text: str, titles: str, size: int) -> None:
    pieces = [said[start : start + size] for start in range(0, len(said), size)]

    part = told([Text(piece) for piece in pieces])

    assert part.text == text
    assert cited(part) == [({"a": LINK_A, "b": LINK_B}[title], title) for title in titles]


PIECES = st.sampled_from(
    ["word", " ", "é🏦", "【", "】", f"【{A}】", f"【{A} {B}】", f"【{UNKNOWN}】", A, "\n", "†", ", "]
)


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 60), max_size=8))
def test_how_a_text_is_cut_into_deltas_changes_nothing(pieces: list[str], cuts: list[int]) -> None:
    said = "".join(pieces)
    places = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})
    parts = [Text(said[start:end]) for start, end in itertools.pairwise(places)]

    whole, cut = told([Text(said)]), told(parts)

    assert (cut.text, cut.annotations) == (whole.text, whole.annotations)
    assert all(text in (LINK_A, LINK_B) for text, _ in cited(cut))


@given(st.text(alphabet=f"【】{A}{B}x \n", max_size=200))
def test_never_more_is_held_back_than_a_mark(said: str) -> None:
    citing = Citing((), writes=True)
    waiting = 0
    for char in said:
        shown = "".join(delta.text for delta in citing.read([Text(char)]) if isinstance(delta, Text))
        waiting = 0 if shown else waiting + 1
        assert waiting <= HELD_CHARS_MAX + 1


def test_in_an_answer_that_must_fit_a_schema_marks_are_dropped() -> None:
    part = told([Text(f'{{"rate": "3.5【{A}】"}}')], writes=False)

    assert part.text == '{"rate": "3.5"}'
    assert part.annotations == ()


def test_the_first_of_two_sources_of_one_mark_is_cited() -> None:
    assert told([Text(f"x【{A}】")], sources=[source(A, LINK_A), source(A, LINK_B)]).text == f"x {LINK_A}"


@pytest.mark.parametrize(
    "between", [Thought("hm"), Refusal("no"), ToolCall("0", "{}", name="f")], ids=lambda one: type(one).__name__
)
def test_what_may_have_become_a_mark_is_said_before_anything_else(between: Delta) -> None:
    said = [*Citing(SOURCES, writes=True).read([Text("a【重"), between, Text("b")])]

    assert said == [Text("a"), Text("【重"), between, Text("b")]


def probable(text: str) -> Text:
    return Text(text, logprobs=(Logprob(token=text, logprob=-1.0),))


def test_logprobs_of_what_is_replaced_are_dropped_and_all_others_kept() -> None:
    pieces = ["so", " 【", A, "】", " and", " 【", "重要", "】"]

    part = told([probable(piece) for piece in pieces])

    assert part.text == f"so {LINK_A} and 【重要】"
    assert [one.token for one in part.logprobs] == ["so", " and", " 【", "重要", "】"]


def test_text_without_marks_passes_as_it_is() -> None:
    deltas: list[Delta] = [probable("a"), Text(" b"), Annotate(SOURCES[0].citation), Finish("stop")]

    assert all(new is old for new, old in zip(Citing(SOURCES, writes=True).read(deltas), deltas, strict=True))


def test_a_mark_is_a_function_of_what_it_marks() -> None:
    made = [mark(hashlib.sha256(str(number).encode()).digest()) for number in range(1_000)]

    assert len(set(made)) > 998
    assert all(len(one) == 5 and one[-1].isdecimal() for one in made)


# -- the recordings have them like this


def recorded_texts() -> list[Any]:
    """Every text part with citations in the recordings of web search."""
    found = [name for name in names("openai-responses") if "web" in name]
    whole = [response_body(name) for name in found if not list_of_events(name)]
    streamed = [list_of_events(name)[-1]["response"] for name in found if list_of_events(name)]
    items = [item for response in (*whole, *streamed) for item in response["output"] if item["type"] == "message"]
    return [part for item in items for part in item["content"] if part["annotations"]]


def list_of_events(name: str) -> list[Any]:
    try:
        return list(events(name))
    except KeyError:
        return []


def test_the_recordings_span_the_link_with_its_parentheses_in_characters() -> None:
    parts = recorded_texts()
    spans = [
        (part["text"][one["start_index"] : one["end_index"]], one["url"])
        for part in parts
        for one in part["annotations"]
    ]

    assert len(spans) >= 10
    assert any(not part["text"].isascii() for part in parts)
    for text, url in spans:
        assert text.startswith("([")
        assert text.endswith(f"]({url}))")
