"""Contexts: what grows turn by turn is what would have been made at once, and a next turn reads no history."""

from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon import config, stores
from antiphon.config import Limits, Settings, Storage
from antiphon.core.context import Context, empty, grown
from antiphon.core.hosted import registry
from antiphon.core.prompt import Prompt
from antiphon.engine.contexts import Contexts
from antiphon.errors import InvalidRequest
from antiphon.models import chatbody, responsesbody
from antiphon.models.scripted import ScriptedModel
from antiphon.stores.sqlite import SqliteStore
from antiphon.tools.scripted import ScriptedTool
from antiphon.wire.items import FunctionCall, FunctionCallOutput, InputText, Item, Message
from tests import strategies as some
from tests.rawclient import serving

RUNNERS = registry([ScriptedTool()])


def user(text: str) -> Message:
    return Message(role="user", content=(InputText(text=text),))


BODIES: list[Callable[[Prompt], object]] = [
    lambda prompt: chatbody.chat_request(prompt, reasoning_field="reasoning_content"),
    lambda prompt: responsesbody.responses_request(prompt, responsesbody.Spelling()),
    lambda prompt: responsesbody.responses_request(prompt, responsesbody.Spelling(instructions=False, thoughts=False)),
]
"""How an upstream is asked."""


def sent(context: Context, body: Callable[[Prompt], object] = BODIES[0]) -> Any:
    prompt = Prompt(model="m", instructions="Be brief.", items=context.told, memo=context.memo)
    return msgspec.json.decode(msgspec.json.encode(body(prompt)))


@pytest.mark.parametrize("body", BODIES)
@given(said=some.conversations(), cuts=st.lists(st.integers(0, 40), max_size=6))
@some.trying(150)
def test_what_grows_turn_by_turn_is_what_would_be_made_at_once(
    body: Callable[[Prompt], object], said: list[Item], cuts: list[int]
) -> None:
    """Also what an upstream is sent, of which each turn makes only its own part."""
    whole = grown(empty(), said, said, RUNNERS)
    context = empty()
    for begin, end in pairwise(sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})):
        context = grown(context, said[begin:end], said[begin:end], RUNNERS)
        sent(context, body)

    same = {"items", "told", "turn", "waiting", "brought", "effort", "format", "size"}
    assert [getattr(context, name) for name in same] == [getattr(whole, name) for name in same]
    assert sent(context, body) == sent(whole, body)


def test_an_output_that_comes_after_something_a_user_said_is_sent_right_after_its_call() -> None:
    """Then what came before the user's words is not whole, and not remembered as if it were."""
    call = FunctionCall(call_id="c1", name="f", arguments="{}", status="completed")
    output = FunctionCallOutput(call_id="c1", output="done")
    context = empty()
    turns: list[list[Item]] = [[user("one"), call, user("two"), output], [user("three")], [user("four")]]
    for items in turns:
        context = grown(context, items, items, {})
        messages = sent(context)["messages"]

    roles = [message["role"] for message in messages]
    assert roles == ["system", "user", "assistant", "tool", "user", "user", "user"]


@given(said=some.conversations(), cut=st.integers(1, 40))
@some.trying(60)
def test_forks_share_what_was_made_of_their_beginning_and_nothing_else(said: list[Item], cut: int) -> None:
    beginning = grown(empty(), said[:cut], said[:cut], RUNNERS)
    sent(beginning)
    for text in ("left", "right", "left"):
        fork = [
            Message(role="user", content=(InputText(text=text),)),
            Message(role="user", content=(InputText(text="?"),)),
        ]
        both = grown(beginning, fork, fork, RUNNERS)

        alone = grown(empty(), [*said[:cut], *fork], [*said[:cut], *fork], RUNNERS)
        assert sent(both) == sent(alone)


def context_of(*texts: str) -> Context:
    items = [user(text) for text in texts]
    return grown(empty(), items, items, {})


def test_the_least_recently_used_contexts_go_first() -> None:
    one = context_of("x" * 1_000)
    contexts = Contexts(one.size * 3)
    for name in "abc":
        contexts.put(("p", name), one)
    contexts.get(("p", "a"))

    contexts.put(("p", "d"), one)

    assert [name for name in "abcd" if contexts.get(("p", name))] == ["a", "c", "d"]


def test_a_context_takes_the_place_of_the_one_it_grew_from() -> None:
    contexts = Contexts(10_000_000)
    contexts.put(("p", "a"), context_of("one"))

    contexts.put(("p", "b"), context_of("one", "two"), instead_of=("p", "a"))

    assert contexts.get(("p", "a")) is None
    assert contexts.get(("p", "b")) is not None
    assert contexts.get(("q", "b")) is None


def test_a_context_larger_than_all_room_is_not_kept() -> None:
    contexts = Contexts(1_000)

    contexts.put(("p", "a"), context_of("x" * 1_000))

    assert contexts.get(("p", "a")) is None


class _Counting(SqliteStore):
    """Counts how often a history is read."""

    reads = 0

    async def context(self, project: str, response_id: str) -> tuple[Item, ...] | None:
        self.reads += 1
        return await super().context(project, response_id)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[_Counting]:
    counting = _Counting(Storage(database=str(tmp_path / "test.db")), Limits())
    yield counting
    await counting.close()


async def chain(client: openai.AsyncOpenAI, turns: Sequence[str], before: str | None = None) -> str:
    for text in turns:
        response = await client.responses.create(model="scripted", input=text, previous_response_id=before)
        before = response.id
    assert before is not None
    return before


async def heard(client: openai.AsyncOpenAI, path: str, before: str) -> str:
    """What the scripted model was told, at a path."""
    response = await client.responses.create(model="scripted", input=f"tell {path}", previous_response_id=before)
    return response.output_text


async def test_a_next_turn_reads_no_history(scripted: Settings, store: _Counting) -> None:
    async with serving(scripted, store, _scripted()) as url, _sdk(url) as client:
        last = await chain(client, ["one", "two", "three"])
        heard = await client.responses.create(
            model="scripted", input="tell items.4.content.0.text", previous_response_id=last
        )

        assert store.reads == 0
        assert heard.output_text == '"three"'
        again = await client.responses.create(
            model="scripted", input="tell items.4.content.0.text", previous_response_id=last
        )
        assert store.reads == 1  # a fork: the context has gone on with the other child
        assert again.output_text == '"three"'


async def test_a_new_process_reads_the_history_once(scripted: Settings, store: _Counting) -> None:
    async with serving(scripted, store, _scripted()) as url, _sdk(url) as client:
        last = await chain(client, ["one", "two"])
    async with serving(scripted, store, _scripted()) as url, _sdk(url) as client:
        last = await chain(client, ["three", "four"], last)
        heard = await client.responses.create(
            model="scripted", input="tell items.0.content.0.text", previous_response_id=last
        )

    assert store.reads == 1
    assert heard.output_text == '"one"'


async def test_what_another_process_erased_is_not_continued(scripted: Settings, store: _Counting) -> None:
    async with serving(scripted, store, _scripted()) as url, _sdk(url) as client:
        last = await chain(client, ["one", "two"])
        other = stores.build(scripted.storage, scripted.limits)
        assert await other.delete("default", last)
        await other.close()

        with pytest.raises(openai.BadRequestError) as refused:
            await chain(client, ["three"], last)

    assert refused.value.code == "previous_response_not_found"


def test_an_output_without_a_call_before_it_is_refused_wherever_the_cut_is() -> None:
    call = FunctionCall(call_id="c1", name="f", arguments="{}", status="completed")
    before = grown(empty(), [call], [call], {})
    answer = [FunctionCallOutput(call_id="c1", output="done")]
    after = grown(before, answer, answer, {})

    assert (before.waiting, after.waiting) == ((call,), ())
    with pytest.raises(InvalidRequest, match="No tool call found"):
        grown(after, answer, answer, {})


def _sdk(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def _scripted() -> ScriptedModel:
    return ScriptedModel(config.ScriptedModel(), Limits())
