"""What is left out of a conversation that is too long for its model, and what is refused."""

import json
from collections import Counter
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from openai.types.responses import EasyInputMessageParam

from antiphon.config import ChatUpstream, LocalModel, ScriptedModel, ScriptedToolSettings, Settings, Storage, Tools
from antiphon.core import usage, window
from antiphon.core.context import empty, grown
from antiphon.core.prompt import PromptItem
from antiphon.models import tiny
from antiphon.wire.items import FunctionCall, FunctionCallOutput, Item, Message, Reasoning
from tests import strategies as some
from tests.chatserver import arguments, chunk, in_order, refuses, replies, says, sdk, sse, text
from tests.chatserver import call as call_of
from tests.conftest import serve
from tests.rawserver import RawServer, Wire, answers, streams
from tests.test_context import RUNNERS, user

# -- the pure part


@st.composite
def told(draw: st.DrawFn) -> tuple[PromptItem, ...]:
    """What models are told of some conversations in a row, with what users and systems said between them."""
    said: list[Item] = []
    for number in range(draw(st.integers(1, 4))):
        said += draw(some.conversations())
        said += draw(st.lists(st.sampled_from(["user", "system", "developer", "assistant"]), max_size=3).map(spoken))
        for _ in range(draw(st.integers(0, 2))):  # some vendors give an id again
            said += [call(f"again_{number}"), output(f"again_{number}")]
    return grown(empty(), said, said, RUNNERS).told


def spoken(roles: list[Any]) -> list[Item]:
    return [structs.replace(user(f"{role} {n}"), role=role) for n, role in enumerate(roles)]


def call(call_id: str) -> FunctionCall:
    return FunctionCall(call_id=call_id, name="f", arguments="{}", status="completed")


def output(call_id: str) -> FunctionCallOutput:
    return FunctionCallOutput(call_id=call_id, output="done")


def identities(items: Any) -> list[int]:
    return [id(item) for item in items]


@given(items=told(), excess=st.integers(1, 3_000))
@some.trying(300)
def test_what_is_left_is_the_end_and_what_must_stay(items: tuple[PromptItem, ...], excess: int) -> None:
    left = window.shortened(items, excess)
    if left is None:
        assert window.shortened(items, 10**9) is None
        return

    places = [identities(items).index(one) for one in identities(left)]
    assert places == sorted(places)
    gone = set(range(len(items))) - set(places)
    assert gone
    stay = {
        place for place, item in enumerate(items) if isinstance(item, Message) and item.role in ("system", "developer")
    }
    said = [place for place, item in enumerate(items) if isinstance(item, Message) and item.role == "user"]
    assert not gone & (stay | {*said[-1:]})
    assert not {place for place in range(max(gone)) if place not in gone} - stay - {*said[-1:]}, "all before a cut goes"
    assert len(items) - 1 not in gone


@given(items=told(), excess=st.integers(1, 3_000))
@some.trying(300)
def test_no_call_is_parted_from_its_output(items: tuple[PromptItem, ...], excess: int) -> None:
    before, after = balance(items), balance(window.shortened(items, excess) or ())
    assert after <= before
    assert all(count == 0 for count in (after - before).values())


def balance(items: Any) -> Counter[str]:
    """How many calls of an id have no output; raises for an output that has no call before it."""
    waiting: Counter[str] = Counter()
    for item in items:
        if isinstance(item, FunctionCall):
            waiting[item.call_id] += 1
        elif isinstance(item, FunctionCallOutput):
            assert waiting[item.call_id] > 0
            waiting[item.call_id] -= 1
    return waiting


@given(items=told(), excess=st.integers(1, 3_000))
@some.trying(300)
def test_no_more_goes_than_must(items: tuple[PromptItem, ...], excess: int) -> None:
    """With one byte less to lose, less goes or the same, and what goes beyond is of one cut."""
    left = window.shortened(items, excess)
    if left is None:
        return
    freed = size(items) - size(left)
    most = size(items) - size(window.shortened(items, 10**9) or ())
    assert freed >= excess or freed == most
    again = window.shortened(items, freed)
    assert again is not None
    assert identities(again) == identities(left)
    if freed > excess:
        other = window.shortened(items, freed - 1)
        assert other is not None
        assert size(other) >= size(left)


def size(items: Any) -> int:
    return sum(map(usage.size, items))


def test_a_question_goes_with_its_answer_its_thoughts_and_its_tools() -> None:
    thought = Reasoning(summary=(), content=())
    first, second = user("first"), user("second")
    answer = structs.replace(user("answer"), role="assistant")
    items = (first, thought, call("c"), output("c"), answer, second)

    assert window.shortened(items, 1) == (second,)


def test_rounds_of_tools_after_the_last_question_go_one_by_one() -> None:
    question = user("what?")
    items = (question, call("a"), call("b"), output("b"), output("a"), call("c"), output("c"))

    assert window.shortened(items, 1) == (question, call("c"), output("c"))


def test_the_last_round_of_tools_stays() -> None:
    assert window.shortened((user("what?"), call("a"), output("a")), 10_000) is None


# -- through the API


def small(settings: Settings, context_tokens: int) -> Settings:
    return structs.replace(settings, models=(ScriptedModel(context_tokens=context_tokens),))


def turn(question: str, answer: str) -> list[EasyInputMessageParam]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


async def test_without_truncation_what_does_not_fit_is_refused(scripted: Settings) -> None:
    async with serve(small(scripted, 20)) as url, sdk(url) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="scripted", input="say " + "word " * 20)

    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")
    assert "exceeds the context window of this model. Please adjust your input and try again." in refused.value.message


async def test_with_truncation_the_oldest_goes(scripted: Settings) -> None:
    history = turn("one " * 5, "two " * 5) + turn("three " * 4, "four " * 4)
    system: EasyInputMessageParam = {"role": "system", "content": "be brief"}
    question: EasyInputMessageParam = {"role": "user", "content": "tell items"}
    async with serve(small(scripted, 20)) as url, sdk(url) as client:
        response = await client.responses.create(
            model="scripted", input=[system, *history, question], truncation="auto"
        )
        listed = await client.responses.input_items.list(response.id)

    told = json.loads(response.output_text)
    assert [item["content"][0]["text"].split()[0] for item in told] == ["be", "three", "four", "tell"]
    assert response.truncation == "auto"
    assert len(listed.data) == 6, "all of it is kept"


async def test_a_count_with_truncation_is_of_what_will_be_told(scripted: Settings) -> None:
    history = turn("one " * 5, "two " * 5) + turn("three " * 4, "four " * 4)
    async with serve(small(scripted, 20)) as url, sdk(url) as client:
        asked: Any = {"model": "scripted", "input": [*history, {"role": "user", "content": "say hello"}]}
        whole = await client.responses.input_tokens.count(**asked)
        fitting = await client.responses.input_tokens.count(**asked, truncation="auto")

    assert (whole.input_tokens, fitting.input_tokens) == (20, 10)


async def test_what_a_user_said_last_is_too_long_even_with_truncation(scripted: Settings) -> None:
    async with serve(small(scripted, 20)) as url, sdk(url) as client:
        with pytest.raises(openai.BadRequestError, match="context window"):
            await client.responses.create(
                model="scripted", input=[*turn("a", "b"), {"role": "user", "content": "x " * 30}], truncation="auto"
            )


async def test_the_embedded_model_goes_on_answering_in_a_conversation_that_outgrows_its_window() -> None:
    model = LocalModel(path=str(tiny.path()), name="tiny", context_tokens=512, threads=1, temperature=0.0, slots=1)
    settings = Settings(models=(model,), storage=Storage(database=":memory:"))
    async with serve(settings) as url, sdk(url) as client:
        previous, told = None, []
        for number in range(12):
            response = await client.responses.create(
                model="tiny",
                input=f"Please say the word hello and then the number {number}, and nothing else at all.",
                previous_response_id=previous,
                truncation="auto",
                max_output_tokens=24,
            )
            assert response.usage is not None
            told.append(response.usage.input_tokens)
            previous = response.id
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="tiny", input="Say hello. " * 60, previous_response_id=previous)

    assert max(told) <= 512 - 24
    assert sorted(told) != told, "something was left out"
    assert refused.value.code == "context_length_exceeded"


class Small(RawServer):
    """A chat server that holds some messages at most, and says so only when it is asked for more."""

    def __init__(self, messages_max: int, card: Any = None) -> None:
        super().__init__(self._answer)
        self._messages_max = messages_max
        self._card = card or {}
        self.messages: list[int] = []
        self.roles: list[list[str]] = []
        self.said = says("fine")

    async def _answer(self, wire: Wire) -> None:
        if wire.asked.path == "/v1/models":
            await answers(json.dumps({"data": [{"id": "m", **self._card}]}).encode())(wire)
        elif wire.asked.path != "/v1/chat/completions":
            await answers(b"{}", status=404)(wire)
        else:
            self.roles.append([message["role"] for message in json.loads(wire.asked.body)["messages"]])
            self.messages.append(len(self.roles[-1]))
            is_too_long = self.messages[-1] > self._messages_max
            refusal = refuses("This model's maximum context length is 10 tokens.", code="context_length_exceeded")
            await (refusal if is_too_long else self.said)(wire)


HISTORY = [message for number in range(10) for message in turn(f"question {number}", f"answer {number}")]
ASKED: Any = {"model": "m", "input": [*HISTORY, {"role": "user", "content": "and?"}]}


async def test_an_upstream_whose_window_is_unknown_is_asked_again_with_less() -> None:
    async with Small(9) as upstream:
        settings = Settings(models=(ChatUpstream(url=upstream.url),), storage=Storage(database=":memory:"))
        async with serve(settings) as url, sdk(url) as client:
            response = await client.responses.create(**ASKED, truncation="auto")
            with pytest.raises(openai.BadRequestError) as refused:
                await client.responses.create(**ASKED)

    assert response.output_text == "fine"
    assert upstream.messages[0] == 21
    assert upstream.messages[-1] == 21, "without truncation it is asked once"
    assert upstream.messages[:-1] == sorted(upstream.messages[:-1], reverse=True)
    assert len(upstream.messages) <= 8
    assert refused.value.code == "context_length_exceeded"


async def test_a_window_that_is_known_but_no_exact_count_leaves_out_by_an_estimate() -> None:
    async with Small(100, {"max_model_len": 120}) as upstream:
        settings = Settings(models=(ChatUpstream(url=upstream.url),), storage=Storage(database=":memory:"))
        async with serve(settings) as url, sdk(url) as client:
            await client.responses.create(**ASKED, truncation="auto")
            await client.responses.create(**ASKED)

    fitted, whole = upstream.messages
    assert fitted < 21
    assert whole == 21, "nothing is refused on a mere estimate"


async def test_a_prompt_far_from_the_window_is_not_counted() -> None:
    async with Small(100, {"max_model_len": 100_000}) as upstream:
        settings = Settings(models=(ChatUpstream(url=upstream.url),), storage=Storage(database=":memory:"))
        async with serve(settings) as url, sdk(url) as client:
            await client.responses.create(**ASKED, truncation="auto")

    assert {asked.path for asked in upstream.asked} == {"/v1/models", "/v1/chat/completions"}


async def test_later_turns_of_a_run_fit_too() -> None:
    """Rounds of a hosted tool: the oldest are left out, and what was asked stays."""
    rounds = [replies(call_of(0, f"c{n}", "scripted"), arguments(0, "{}"), finish="tool_calls") for n in range(5)]
    async with Small(6) as upstream:
        upstream.said = in_order(*rounds, says("done"))
        settings = Settings(
            models=(ChatUpstream(url=upstream.url),),
            storage=Storage(database=":memory:"),
            tools=Tools(scripted=ScriptedToolSettings(enabled=True)),
        )
        async with serve(settings) as url, sdk(url) as client:
            asked: Any = {"model": "m", "input": "what?", "tools": [{"type": "antiphon:scripted"}]}
            response = await client.responses.create(**asked, truncation="auto")

    assert response.output_text == "done"
    assert len(response.output) == 6
    assert max(upstream.messages) == 7
    assert upstream.messages[-1] <= 6
    assert all(roles[0] == "user" and roles.count("tool") == len(roles) // 2 for roles in upstream.roles)


async def test_a_model_that_has_begun_to_answer_is_not_asked_again() -> None:
    """What was said cannot be taken back."""
    overflow = {"error": {"message": "maximum context length", "code": "context_length_exceeded"}}
    async with Small(100) as upstream:
        upstream.said = streams(sse(chunk(text("begun"))), sse(overflow))
        settings = Settings(models=(ChatUpstream(url=upstream.url),), storage=Storage(database=":memory:"))
        async with serve(settings) as url, sdk(url) as client:
            with pytest.raises(openai.BadRequestError, match="context window"):
                await client.responses.create(**ASKED, truncation="auto")

    assert upstream.messages == [21]
