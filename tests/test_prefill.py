"""An answer that was interrupted in its middle goes on in its middle: the same item, and the same text."""

import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from antiphon.config import ChatUpstream, Limits, ResponsesUpstream, Settings, Storage
from antiphon.config import ScriptedModel as Scripted
from antiphon.core.builder import Builder
from antiphon.core.deltas import Delta, Finish, Refusal, Summary, Text, Thought, ToolCall
from antiphon.core.fold import Fold
from antiphon.core.past import Past
from antiphon.core.prompt import Offer, Prompt
from antiphon.engine.replicas import Replicas
from antiphon.errors import ContextLengthExceeded, ModelError
from antiphon.models import tiny
from antiphon.models.chat import ChatModel
from antiphon.models.counting import Answered, tokenize_chat
from antiphon.models.local import LocalModel, request
from antiphon.models.responses import ResponsesModel
from antiphon.models.resumed import resumed
from antiphon.models.scripted import ScriptedModel
from antiphon.stores.sqlite import SqliteStore
from antiphon.wire import codec
from antiphon.wire.events import Event, OutputTextDelta
from antiphon.wire.formats import JsonObjectFormat
from antiphon.wire.items import InputText, Message, OutputText, Reasoning, ReasoningText
from antiphon.wire.tools import Grammar
from tests import chatserver
from tests.embedded import WEATHER, prompt, put_together
from tests.rawclient import Played, final, streaming
from tests.rawserver import RawServer
from tests.test_api_state import process
from tests.test_background import STOP, TOOL, Node, node
from tests.test_takeover import PASTS, SKELETON, compact, left, spoken, taken_over

# -- the same draft


def made(past: Past, ids: Any, deltas: Sequence[Delta]) -> list[Event]:
    """What a builder tells of these deltas, to the end of the response."""
    builder = Builder(SKELETON, lambda prefix: f"{prefix}_{next(ids)}", past=past)
    if past.begun:
        builder.reopen()
    builder.start()
    for delta in deltas:
        builder.feed(delta)
    builder.end_turn()
    builder.append(builder.propose("completed", now=2))
    return builder.take()


BEFORE, AFTER = [Thought("hm"), Thought("m")], [ToolCall("0", "{}", name="f", call_id="call_1")]


@given(st.lists(st.text(min_size=1), min_size=1), st.data())
def test_a_text_that_is_cut_anywhere_is_told_as_if_it_were_not(words: list[str], data: st.DataObject) -> None:
    texts = [Text(word) for word in words]
    cut = data.draw(st.integers(1, len(texts)))
    whole = made(Past(), itertools.count(), [*BEFORE, *texts, *AFTER])
    told = [place for place, event in enumerate(whole, 1) if isinstance(event, OutputTextDelta)][cut - 1]
    past = Past(whole[:told])
    if not past.begun:
        assert not "".join(words[:cut]).strip()
        return
    ids = itertools.count(2)

    assert past.begun == "".join(words[:cut])
    assert [*whole[:told], *made(past, ids, [*texts[cut:], *AFTER])] == whole
    folded = Fold()
    for event in whole:
        folded.feed(json.loads(codec.encode(event)))


BEGUN = {"saying": "half an answer", "spoken": "all", "a tool ran and it spoke": "hm"}


@pytest.mark.parametrize("name", PASTS)
def test_only_a_plain_text_is_begun(name: str) -> None:
    assert Past(spoken(*PASTS[name])).begun == BEGUN.get(name, "")


NOT_BEGUN: dict[str, tuple[Any, ...]] = {
    "behind another message": ([Text("a"), Thought("hm"), Text("b")],),
    "behind another part": ([Refusal("a"), Text("b")],),
    "cut short": ([Text("a")], Builder.abandon),
    "beside a call": ([ToolCall("0", "{", name="f", call_id="call_1"), Text("a")],),
    "behind a compaction": (compact, [Text("a")]),
}


@pytest.mark.parametrize("name", NOT_BEGUN)
def test_others_are_not(name: str) -> None:
    past = Past(spoken(*NOT_BEGUN[name]))

    assert (past.begun, past.fault()) == ("", "in the middle of its answer")


# -- taken over


async def gone_on(settings: Settings, response_id: str, *said: Sequence[Delta]) -> tuple[Any, list[Prompt]]:
    """The response as a process ended it whose model prefills, and what that model was asked."""
    async with node(settings) as heir:
        heir.model.can_prefill = True
        for batch in said:
            heir.model.say(*batch)
        response = await heir.ended(response_id)
        assert final(await heir.frames(response_id)) == response  # lawful, from the first event to the last
    return response, heir.model.prompts


def texts(response: Any) -> list[str]:
    return [part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]]


async def test_its_message_goes_on_in_the_same_item(scripted: Settings) -> None:
    steps = PASTS["saying"]
    response_id = await left(scripted, *steps)
    message_id = spoken(*steps)[-1].item_id  # type: ignore[union-attr]
    response, (asked,) = await gone_on(scripted, response_id, (Text(", and"),), (Text(" more"), STOP))

    assert response["status"] == "completed"
    assert texts(response) == ["half an answer, and more"]
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][1]["id"] == message_id
    assert asked.prefix == "half an answer"
    assert isinstance(asked.items[-1], Reasoning)
    assert response["usage"]["output_tokens"] > 8


async def test_one_whose_limit_is_met_behind_the_last_word_is_incomplete(scripted: Settings) -> None:
    response, _ = await gone_on(scripted, await left(scripted, *PASTS["saying"]), (Finish("length"),))

    assert (response["status"], texts(response)) == ("incomplete", ["half an answer"])
    assert response["output"][-1]["status"] == "incomplete"


async def test_one_that_is_too_long_for_its_model_is_told_less_of_what_came_before(scripted: Settings) -> None:
    turns = [{"role": role, "content": role * 99} for role in ("user", "assistant", "user")]
    response_id = await left(scripted, *PASTS["saying"], input=turns, truncation="auto")
    async with node(scripted) as heir:
        heir.model.can_prefill = True
        heir.model.fail(ContextLengthExceeded())
        heir.model.say(Text(", and more"), STOP)
        response = await heir.ended(response_id)
        first, second = heir.model.prompts

    assert texts(response) == ["half an answer, and more"]
    assert len(first.items) > len(second.items)
    assert first.prefix == second.prefix == "half an answer"


async def test_a_message_that_was_told_to_its_end_stays_as_it_is(scripted: Settings) -> None:
    """Whether it was the last thing in its turn, the model knows."""
    call = ToolCall("0", "{}", name="f", call_id="call_1")
    ended, _ = await gone_on(scripted, await left(scripted, *PASTS["spoken"]), (STOP,))
    called, _ = await gone_on(scripted, await left(scripted, *PASTS["spoken"]), (call, Finish("tool_calls")))

    assert (ended["status"], texts(ended)) == ("completed", ["all"])
    assert (called["status"], texts(called)) == ("completed", ["all"])
    assert [item["type"] for item in called["output"]] == ["message", "function_call"]


async def test_after_it_the_model_may_call_tools_and_is_told_the_whole_message(scripted: Settings) -> None:
    response_id = await left(scripted, *PASTS["a tool ran and it spoke"], tools=[TOOL])
    call = ToolCall("0", '{"text": "b"}', name="scripted", call_id="call_2")
    response, (first, second) = await gone_on(
        scripted, response_id, (Text(" and"), call, Finish("tool_calls")), (Text("done"), STOP)
    )

    assert texts(response) == ["hm and", "done"]
    assert (first.prefix, second.prefix) == ("hm", "")
    told = [item.content for item in second.items if isinstance(item, Message) and item.role == "assistant"]
    assert told == [(OutputText(text="hm and"),)]


async def test_what_was_redone_before_it_is_not_told(scripted: Settings) -> None:
    response_id = await left(scripted, [Thought("lost")], Builder.abandon, [Thought("kept"), Text("half")])
    response, (asked,) = await gone_on(scripted, response_id, (STOP,))
    thoughts = [item.content[0].text for item in asked.items if isinstance(item, Reasoning) and item.content]

    assert (texts(response), thoughts) == (["half"], ["kept"])


UNRESUMABLE: dict[str, dict[str, Any]] = {
    "a form": {"text": {"format": {"type": "json_object"}}, "input": "json"},
    "logprobs": {"include": ["message.output_text.logprobs"]},
    "a required call": {"tools": [TOOL], "tool_choice": "required"},
    "a message of the model before it": {
        "input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    },
}


@pytest.mark.parametrize("name", UNRESUMABLE)
async def test_an_answer_that_cannot_go_on_in_its_middle_fails(scripted: Settings, name: str) -> None:
    response_id = await left(scripted, *PASTS["saying"], **UNRESUMABLE[name])
    response, asked = await gone_on(scripted, response_id, (Text("lost"), STOP))

    assert (response["status"], response["error"]["code"], asked) == ("failed", "server_error", [])
    assert "in the middle of its answer" in response["error"]["message"]


SCRIPT = "think hm | say a b c d e f"


@pytest.mark.parametrize(
    ("limit", "said", "text", "status"),
    [
        (None, "a b", "a b c d e f", "completed"),
        (None, "a b c", "a b c d e f", "completed"),
        (None, "a b c d e f", "a b c d e f", "completed"),
        (5, "a b", "a b c d e", "incomplete"),
        (5, "a b c d e", "a b c d e", "incomplete"),
    ],
)
async def test_what_was_said_counts(scripted: Settings, limit: int | None, said: str, text: str, status: str) -> None:
    pieces = [Text(said[:1]), *([Text(said[1:])] if said[1:] else [])]
    response_id = await left(scripted, pieces, model="scripted", input=SCRIPT, max_output_tokens=limit)
    response, _, items = await taken_over(scripted, response_id)

    assert (texts(response), response["status"]) == ([text], status)
    assert items == [("message", status)]
    assert response["usage"]["output_tokens"] == len(text.split())


async def test_a_script_that_does_not_say_what_was_said_fails(scripted: Settings) -> None:
    response_id = await left(scripted, [Text("b")], model="scripted", input="say a")
    response, _, _ = await taken_over(scripted, response_id)

    assert (response["status"], texts(response)) == ("failed", ["b"])


# -- what adapters do


async def played(*batches: Sequence[Delta]) -> AsyncGenerator[Sequence[Delta], None]:
    for batch in batches:
        yield batch


@pytest.mark.parametrize(
    ("said", "left_of_it"),
    [
        (["\n\n", "a"], "a"),
        (["\n", "\na"], "a"),
        (["a", "\n\nb"], "a\n\nb"),
        (["\n\n\na"], "\na"),
        ([" a"], " a"),
        ([], ""),
    ],
)
async def test_white_space_at_the_edge_is_not_said_again(said: list[str], left_of_it: str) -> None:
    batches = [[Text(text)] for text in said]
    deltas = [delta async for batch in resumed(played(*batches, [STOP]), "\n\n") for delta in batch]

    assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == left_of_it
    assert all(delta.text for delta in deltas if isinstance(delta, Text))
    assert deltas[-1] == STOP


@pytest.mark.parametrize("thought", [Thought("hm"), Summary("hm")])
async def test_a_model_that_begins_anew_fails(thought: Delta) -> None:
    with pytest.raises(ModelError, match="did not go on"):
        async for _ in resumed(played([thought], [Text("a"), STOP])):
            pass
    assert [batch async for batch in resumed(played([Text("a"), thought, STOP]))] == [[Text("a"), thought, STOP]]


def user(text: str) -> Message:
    return Message(role="user", content=(InputText(text=text),))


THOUGHT = Reasoning(summary=(), content=(ReasoningText(text="hm"),))
PREFILLED = {"continue_final_message": True, "add_generation_prompt": False}


@pytest.mark.parametrize(("prefill", "fields"), [("trailing", {}), ("continue_final_message", PREFILLED)])
async def test_an_upstream_is_told_of_it_in_its_way(prefill: Any, fields: dict[str, Any]) -> None:
    asked = Prompt(model="m", items=(user("hi"), THOUGHT), prefix="half \n")
    async with RawServer(chatserver.says(" \nan", " answer"), chatserver.says("whole")) as server:
        model = ChatModel(ChatUpstream(url=server.url, prefill=prefill), Limits())
        said = put_together([batch async for batch in model.stream(asked)])
        [_ async for _ in model.stream(replace(asked, prefix=""))]
        await model.close()
    body, other = (json.loads(request.body) for request in server.asked)

    assert said.text == "an answer"
    assert body["messages"][-1] == {"role": "assistant", "content": "half", "reasoning_content": "hm"}
    assert {name: body[name] for name in PREFILLED if name in body} == fields
    assert other["messages"][-1]["role"] == "user"
    assert not PREFILLED.keys() & other.keys()


async def test_vllm_counts_what_was_begun_as_such() -> None:
    sent: list[Any] = []

    async def ask(path: str, body: object) -> Answered:
        sent.append((path, body))
        return Answered(count=3)

    await tokenize_chat(ask, {"model": "m", "messages": [], "stream": True, **PREFILLED})

    assert sent == [("/tokenize", {"model": "m", "messages": [], **PREFILLED})]


def test_who_prefills_says_so() -> None:
    asked = Prompt(model="m", items=(user("hi"),))
    url = "http://127.0.0.1:9/v1"
    plain, told = (
        ChatModel(ChatUpstream(url=url), Limits()),
        ChatModel(ChatUpstream(url=url, prefill="trailing"), Limits()),
    )

    assert [model.prefills(asked) for model in (plain, told)] == [False, True]
    assert not Replicas([told, plain]).prefills(asked)
    assert Replicas([told, ScriptedModel(Scripted(), Limits())]).prefills(asked)
    assert not ResponsesModel(ResponsesUpstream(url=url), Limits()).prefills(asked)


# -- the embedded engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[LocalModel]:
    opened = LocalModel(tiny.settings(), Limits())
    await opened.start()
    yield opened
    await opened.close()


STORY = prompt("Tell me a very long story.")


@pytest.mark.parametrize("effort", ["none", "high"])
async def test_the_embedded_model_writes_on_what_it_began_as_if_it_had_not_been_interrupted(
    model: LocalModel, effort: Any
) -> None:
    asked = replace(STORY, effort=effort)
    deltas = [delta async for batch in model.stream(asked) for delta in batch]
    words = [delta.text for delta in deltas if isinstance(delta, Text)]
    thought = "".join(delta.text for delta in deltas if isinstance(delta, Thought))
    told = Reasoning(summary=(), content=(ReasoningText(text=thought),))
    asked = replace(asked, items=(*asked.items, told)) if thought else asked

    assert len(words) > 100
    for cut in range(1, len(words), 13):
        prefix = "".join(words[:cut])
        rest = put_together([batch async for batch in model.stream(replace(asked, prefix=prefix))])
        assert prefix + rest.text == "".join(words)
        assert rest.thought == ""


async def test_the_embedded_engine_counts_what_was_begun(model: LocalModel) -> None:
    begun = replace(STORY, prefix="Once upon a time")
    counts = [await model.count(STORY), await model.count(begun)]
    said = put_together([batch async for batch in model.stream(begun)])

    assert counts[1].is_exact
    assert counts[1].tokens > counts[0].tokens
    assert said.finish.usage is not None
    assert said.finish.usage.input_tokens == counts[1].tokens


def test_the_embedded_engine_is_told_even_if_it_would_do_so_by_default() -> None:
    assert request(STORY, None, None).items().isdisjoint(PREFILLED.items())
    assert request(replace(STORY, prefix="Once"), None, None).items() >= PREFILLED.items()


def test_it_does_not_write_on_what_a_grammar_holds(model: LocalModel) -> None:
    worded = Offer(name="w", grammar=Grammar(syntax="regex", definition="a+"))

    assert model.prefills(replace(STORY, tools=(WEATHER,)))
    assert not model.prefills(replace(STORY, tools=(worded,)))
    assert not model.prefills(replace(STORY, tools=(WEATHER, worded), allowed=frozenset({"get_weather"})))
    assert not model.prefills(replace(STORY, format=JsonObjectFormat()))


COUNTING = {"model": "antiphon-tiny", "input": "Count from 1 to 1000.", "max_output_tokens": 1500}
LEASES = {"ANTIPHON_LIMITS__BACKGROUND_LEASE_S": "1"}


async def test_a_server_that_is_killed_in_the_middle_of_an_answer_loses_no_word_of_it(tmp_path: Path) -> None:
    """The model never ends this one by itself, so that the kill comes in time."""
    database = tmp_path / "a.db"
    asked = {**COUNTING, "background": True}
    async with process(database, "", **LEASES) as (killed, url), streaming(url, **asked) as stream:
        await stream.head()
        before = await stream.frames_until("response.output_text.delta")
        killed.kill()
    response_id = before[0].data["response"]["id"]
    store = SqliteStore(Storage(database=str(database)), Limits())
    begun = Past(await store.runs.events("default", response_id, 1, 10_000)).begun
    await store.close()
    async with process(database, "", **LEASES) as (_, url):
        heir = Node(url, Played())
        response = await heir.ended(response_id)
        frames = await heir.frames(response_id)

    assert final(frames) == response
    assert frames[: len(before)] == before
    (text,) = texts(response)
    assert begun
    assert text.startswith(begun)
    assert response["usage"]["output_tokens"] == COUNTING["max_output_tokens"]
