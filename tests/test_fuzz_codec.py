"""Whatever the types allow: it is written and read again as it was, and what makes a prompt of it keeps its promises.

Short and always the same in `make test`; `make fuzz` tries more.
"""

import json
import re
from itertools import pairwise
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.core import context, toolbox
from antiphon.core.hosted import registry
from antiphon.core.toolbox import Declared
from antiphon.core.toolsearch import Unfound
from antiphon.core.unwrap import InputReader, unwrapped
from antiphon.errors import ApiError
from antiphon.tools.scripted import ScriptedTool
from antiphon.wire import codec, tolerance
from antiphon.wire.events import HostedStatus, TaggedEvent
from antiphon.wire.items import FunctionCall, FunctionCallOutput, InputItem
from antiphon.wire.request import CreateResponse
from antiphon.wire.response import Response
from antiphon.wire.tools import NAME_PATTERN, Tool
from tests import strategies as some

RUNNERS = registry([ScriptedTool()])


# -- codec


KINDS = [*get_args(InputItem), *get_args(Tool), *get_args(TaggedEvent), HostedStatus, Response]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_reads_the_same(kind: Any) -> None:
    @given(value=some.values(kind))
    @some.trying(10)
    def check(value: Any) -> None:
        assert msgspec.json.decode(codec.encode(value), type=kind) == value

    check()


@given(body=some.requests() | some.mutants())
@some.trying(60)
def test_normalising_once_is_enough(body: Any) -> None:
    """But that no tool which comes in may call itself unserved, so that it is not one when it comes in again."""
    try:
        once = tolerance.normalised(json.loads(json.dumps(body)), 1_000)
    except ApiError:
        return
    told = json.dumps(once).replace(f'"type": "{tolerance.UNSERVED}"', '"type": "unserved"')

    assert tolerance.normalised(once, 1_000) == json.loads(told)


@given(body=some.mutants().map(codec.encode) | some.broken())
@some.trying(80)
def test_decoding_gives_a_request_or_an_error_of_the_api(body: bytes) -> None:
    try:
        found: Any = codec.decode_request(body)[0]
    except ApiError as error:
        found = error

    if isinstance(found, ApiError):
        assert found.status == 400
        assert len(codec.error_body(found)) <= codec.ERROR_BYTES_MAX
    else:
        assert isinstance(found, CreateResponse)


SNIPPETS = ('{"input":"', "\\", '\\"', "\\u", "\\ud83d", "\\udca9", "0041", '"', "}", "a", " ", "{", "\n")
WRAPPED = st.one_of(
    some.TEXTS.map(lambda text: json.dumps({"input": text})),
    some.TEXTS.map(lambda text: json.dumps({"input": text}, ensure_ascii=False, indent=2)),
    st.lists(st.sampled_from(SNIPPETS)).map("".join),
    some.TEXTS,
)


@given(document=WRAPPED, cuts=st.lists(st.integers(0, 200), max_size=6))
@some.trying(300)
def test_however_a_document_is_cut_its_text_is_the_same(document: str, cuts: list[int]) -> None:
    edges = sorted({0, len(document), *(cut for cut in cuts if cut < len(document))})
    reader = InputReader()
    pieces = [reader.feed(document[start:end]) for start, end in pairwise(edges)]
    text = "".join(pieces) + reader.end()

    assert text == unwrapped(document)
    text.encode()  # and it can be sent: no half of a pair is in it


@given(text=some.TEXTS)
@some.trying(100)
def test_a_wrapped_text_comes_out_whole(text: str) -> None:
    assert unwrapped(json.dumps({"input": text})) == text


# -- prompts


@given(said=some.conversations())
@some.trying(80)
def test_a_prompt_pairs_every_call_with_at_most_one_output(said: list[Any]) -> None:
    """Each output has its call before it, and no call has two."""
    waiting: list[str] = []
    for item in context.grown(context.empty(), said, said, RUNNERS).told:
        if isinstance(item, FunctionCall):
            waiting.append(item.call_id)
        elif isinstance(item, FunctionCallOutput):
            waiting.remove(item.call_id)

    assert waiting == []


@given(offered=some.offers())
@some.trying(80)
def test_offers_have_names_of_their_own_that_every_model_takes(offered: list[Any]) -> None:
    declared = codec.convert([tolerance.tool(tool) for tool in offered], tuple[Tool, ...])
    box = toolbox.make([Declared(tool, f"tools[{n}]") for n, tool in enumerate(declared)], RUNNERS, 512)

    assert all(re.fullmatch(NAME_PATTERN, name) and offer.name == name for name, offer in box.offers.items())
    found = {name for name, callee in box.callees.items() if not isinstance(callee, Unfound)}
    assert box.offers.keys() == found <= box.callees.keys() <= box.params.keys()
    assert box.offers.keys() == {name for name, _ in some.can_be_called(offered)}
