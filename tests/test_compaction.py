"""Conversations made shorter: on demand, on the way and from outside; sealed, sent back, and refused where not ours."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import agents
import openai
import pytest
from agents.memory import OpenAIResponsesCompactionSession
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, structs
from openai.types.responses import ResponseCompactionItem

from antiphon.config import ChatUpstream, ScriptedModel, Settings, StaticKey, Storage
from antiphon.core import compaction, usage
from antiphon.core.compaction import Compacted, Kept, Summary
from antiphon.core.context import empty, grown
from antiphon.core.prompt import Prompt, PromptItem
from antiphon.stores.sqlite import SqliteStore
from antiphon.wire.items import FunctionCall, FunctionCallOutput, InputText, Item, Message
from tests import strategies as some
from tests.chatserver import replies, says, sdk
from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import Played, ask, exchange, serving
from tests.test_context import RUNNERS, user
from tests.test_window import Small
from tests.wirecheck import openresponses

MANAGED: Any = [{"type": "compaction", "compact_threshold": 1_000}]
LONG = "say fine " + "word " * 1_100


@pytest.fixture
async def client(scripted: Settings) -> AsyncIterator[openai.AsyncOpenAI]:
    """One that holds every answer to the rules."""
    async with serve(scripted) as url, sdk(url) as one:
        yield one


async def told(client: openai.AsyncOpenAI, **asked: Any) -> list[tuple[str, str]]:
    """Who says what, as the model is told."""
    response = await client.responses.create(model="scripted", **asked)
    assert response.output[-1].type == "message"
    return [
        (item["role"], " ".join(part["text"] for part in item["content"])) for item in json.loads(response.output_text)
    ]


def summary_of(*texts: str) -> str:
    return f"{compaction.HEAD}\n\nSummary: {' / '.join(texts)}"


def compaction_of(response: Any) -> ResponseCompactionItem:
    (item,) = [item for item in response.output if item.type == "compaction"]
    assert isinstance(item, ResponseCompactionItem)
    assert item.id.startswith("cmp_")
    return item


# -- POST /v1/responses/compact

HISTORY: list[Any] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "where is it"},
    {"role": "assistant", "content": "in the garden"},
    {"role": "user", "content": "since when"},
    {"role": "assistant", "content": "since last May"},
]


users_are_no_output = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
"""So the SDK has it, whose type of this output knows no message of a user's; it warns of one on its way back."""


@users_are_no_output
async def test_a_compacted_conversation_is_all_that_users_said_and_a_compaction(client: openai.AsyncOpenAI) -> None:
    compacted = await client.responses.compact(model="scripted", input=HISTORY)

    assert compacted.object == "response.compaction"
    assert [item.type for item in compacted.output] == ["message", "message", "compaction"]
    assert [item.to_dict()["content"][0]["text"] for item in compacted.output[:2]] == ["where is it", "since when"]  # type: ignore[index]
    assert compacted.usage.output_tokens > 0
    assert "garden" not in compacted.model_dump_json()


@users_are_no_output
async def test_it_is_handed_in_whole_where_the_conversation_stood(client: openai.AsyncOpenAI) -> None:
    compacted = await client.responses.compact(model="scripted", input=HISTORY)

    items = await told(client, input=[*compacted.output, {"role": "user", "content": "tell items"}])

    assert items == [
        ("user", "where is it"),
        ("user", "since when"),
        ("user", summary_of("be brief", "where is it", "in the garden", "since when", "since last May")),
        ("user", "tell items"),
    ]


@users_are_no_output
async def test_a_stored_conversation_is_compacted_by_its_last_response(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="scripted", input="say one")
    second = await client.responses.create(model="scripted", input="say two", previous_response_id=first.id)

    compacted = await client.responses.compact(model="scripted", previous_response_id=second.id)
    again = await client.responses.compact(model="scripted", input=compacted.output)  # type: ignore[arg-type]

    assert [item.type for item in compacted.output] == ["message", "message", "compaction"]
    assert [item.type for item in again.output] == ["message", "message", "compaction"]
    assert again.output[-1].id != compacted.output[-1].id
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(compacted.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": openai.omit}, "model"),
        ({"input": openai.omit}, "input"),
        ({"model": "nobody"}, "model"),
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"prompt_cache_options": {"ttl": "1h"}}, "prompt_cache_options.ttl"),
    ],
)
async def test_what_cannot_be_compacted_is_refused_by_name(client: openai.AsyncOpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.compact(**{"model": "scripted", "input": "say hello", **fields})
    assert refused.value.param == param


async def test_open_responses_compacts_in_its_own_wire_and_takes_its_answer_back(url: str) -> None:
    root = url.removesuffix("/v1") + "/openresponses/v1/responses"
    asked = {"model": "scripted", "input": [{"type": "message", "role": "user", "content": "say hello"}]}
    answer = await ask(root, "POST", "/openresponses/v1/responses/compact", asked)
    compacted = openresponses(answer)
    more = {"type": "message", "role": "user", "content": "tell items.1.role"}
    response = await ask(root, "POST", "/openresponses/v1/responses", asked | {"input": [*compacted["output"], more]})
    refused = await ask(root, "POST", "/openresponses/v1/responses/compact", asked | {"service_tier": "auto"})

    assert openresponses(response)["output"][0]["content"][0]["text"] == '"user"'
    assert refused.error["param"] == "service_tier"


async def test_a_model_that_says_nothing_gives_no_compaction() -> None:
    async with Small(100) as upstream:
        upstream.said = replies({"reasoning_content": "hm"})
        settings = Settings(models=(ChatUpstream(url=upstream.url),), storage=Storage(database=":memory:"))
        async with serve(settings) as url, sdk(url) as client:
            with pytest.raises(openai.InternalServerError, match="no summary"):
                await client.responses.compact(model="m", input="hello")


async def test_what_does_not_fit_its_own_window_is_summarised_as_far_as_it_does() -> None:
    async with Small(6) as upstream:
        upstream.said = says("in short")
        settings = Settings(models=(ChatUpstream(url=upstream.url),), storage=Storage(database=":memory:"))
        history: list[Any] = [{"role": ("user", "assistant")[n % 2], "content": f"word {n}"} for n in range(12)]
        async with serve(settings) as url, sdk(url) as client:
            compacted = await client.responses.compact(model="m", input=history)

    assert len(compacted.output) == 7
    assert upstream.messages[-1] <= 6


async def test_a_client_that_leaves_stops_the_model(scripted: Settings) -> None:
    store, model = SqliteStore(scripted.storage, scripted.limits), Played()
    try:
        async with serving(scripted, store, model) as url:
            asked = {"model": "played", "input": "hello"}
            async with exchange(url, "POST", "/v1/responses/compact", asked):
                await asyncio.wait_for(model.is_asked.wait(), WAIT_S)
            await asyncio.wait_for(model.is_over.wait(), WAIT_S)
    finally:
        await store.close()


@users_are_no_output
async def test_the_embedded_model_compacts_and_goes_on() -> None:
    async with serve(Settings(storage=Storage(database=":memory:"))) as url, sdk(url) as client:
        compacted = await client.responses.compact(model="antiphon-tiny", input=HISTORY)
        question: Any = {"role": "user", "content": "Say hello."}
        response = await client.responses.create(model="antiphon-tiny", input=[*compacted.output, question])  # type: ignore[list-item]
        first = await client.responses.create(model="antiphon-tiny", input=[*HISTORY, {"type": "compaction_trigger"}])
        second = await client.responses.create(model="antiphon-tiny", input="Say hello.", previous_response_id=first.id)

    assert compacted.output[-1].type == "compaction"
    assert response.output_text
    assert second.output_text


# -- a trigger


async def test_a_trigger_compacts_at_once_and_answers_nothing(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="scripted", input=[*HISTORY, {"type": "compaction_trigger"}]) as stream:
        events = [event async for event in stream]
        response = await stream.get_final_response()

    assert [event.type for event in events] == [
        *("response.created", "response.in_progress", "response.output_item.added", "response.compaction.compacting"),
        *("response.output_item.done", "response.completed"),
    ]
    assert [item.type for item in response.output] == ["compaction"]
    assert response.usage is not None
    assert response.usage.output_tokens > 0


async def test_what_was_compacted_goes_on_from_the_summary(client: openai.AsyncOpenAI) -> None:
    """By id, from memory and from the store, and by value, with all that came before it or without."""
    trigger: Any = {"type": "compaction_trigger"}
    first = await client.responses.create(model="scripted", input=[*HISTORY, trigger])
    item = compaction_of(first)
    question: Any = {"role": "user", "content": "tell items"}
    expected = [
        ("system", "be brief"),
        ("user", summary_of("be brief", "where is it", "in the garden", "since when", "since last May")),
        ("user", "tell items"),
    ]

    assert await told(client, input=[question], previous_response_id=first.id) == expected
    assert await told(client, input=[question], previous_response_id=first.id) == expected
    assert await told(client, input=[*HISTORY, item, question]) == expected
    assert await told(client, input=[{"type": "item_reference", "id": item.id}, question]) == expected[1:]
    listed = await client.responses.input_items.list(first.id)
    assert "compaction_trigger" not in [one.type for one in listed.data]


async def test_a_picture_that_was_compacted_away_keeps_nobody_from_going_on() -> None:
    """Not even a model that cannot see."""
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    seen: list[Any] = [{"role": "user", "content": [image]}, {"role": "assistant", "content": "a cat"}]
    async with Small(100) as upstream:
        models = (ScriptedModel(), ChatUpstream(url=upstream.url, images=False))
        async with serve(Settings(models=models, storage=Storage(database=":memory:"))) as url, sdk(url) as client:
            first = await client.responses.create(model="scripted", input=[*seen, {"type": "compaction_trigger"}])
            second = await client.responses.create(model="m", input="what was it?", previous_response_id=first.id)
            with pytest.raises(openai.BadRequestError, match="image"):
                await client.responses.create(model="m", input=[*seen, {"role": "user", "content": "what?"}])

    assert second.output_text == "fine"


async def test_what_waits_for_an_answer_is_kept_word_by_word(client: openai.AsyncOpenAI) -> None:
    asked: Any = [{"role": "user", "content": "tell items"}, {"type": "compaction_trigger"}]
    item = compaction_of(await client.responses.create(model="scripted", input=asked))

    assert await told(client, input=[item]) == [("user", summary_of("tell items")), ("user", "tell items")]


async def test_a_trigger_stands_at_the_end_alone(client: openai.AsyncOpenAI) -> None:
    trigger: Any = {"type": "compaction_trigger", "id": "t"}
    for items, param in (
        ([trigger, {"role": "user", "content": "say hello"}], "input[0].type"),
        ([{"role": "user", "content": "say hello"}, trigger, trigger], "input[1].type"),
        ([trigger], "input"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="scripted", input=items)
        assert refused.value.param == param


async def test_a_conversation_goes_on_from_its_compaction(client: openai.AsyncOpenAI) -> None:
    """Whether a response in it brought one, or a client put one there; a trigger is no item of it."""
    conversation = await client.conversations.create(items=HISTORY)
    asked: Any = {"model": "scripted", "conversation": conversation.id}
    trigger: Any = {"type": "compaction_trigger"}
    item = compaction_of(await client.responses.create(**asked, input=[trigger]))
    items = [one.type async for one in await client.conversations.items.list(conversation.id, order="asc")]
    other = await client.conversations.create(items=[item.to_dict()])  # type: ignore[list-item]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.conversations.create(items=[trigger])

    question: Any = {"role": "user", "content": "tell items"}
    texts = [text for _, text in await told(client, conversation=conversation.id, input=[question])]
    count = await client.responses.input_tokens.count(**asked, input=[question])
    assert items == [*["message"] * 5, "compaction"]
    assert [text.split("\n")[0] for text in texts] == ["be brief", compaction.HEAD, "tell items"]
    assert texts[1:] == [text for _, text in await told(client, conversation=other.id, input=[question])]
    assert count.input_tokens > 20
    assert refused.value.param == "items[0].type"


# -- on the way


async def test_a_chain_that_grows_beyond_the_threshold_is_compacted_first(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="scripted", input=LONG, context_management=MANAGED)
    second = await client.responses.create(
        model="scripted", input="tell items", previous_response_id=first.id, context_management=MANAGED
    )
    third = await client.responses.create(
        model="scripted", input="tell items", previous_response_id=second.id, context_management=MANAGED
    )

    assert [item.type for item in first.output] == ["message"], (
        "a question alone is not summarised before it is answered"
    )
    assert [item.type for item in second.output] == ["compaction", "message"]
    assert [item["content"][0]["text"] for item in json.loads(second.output_text)] == [
        summary_of("say fine word", "fine word word", "tell items"),
        "tell items",
    ]
    assert [item.type for item in third.output] == ["message"]
    assert len(json.loads(third.output_text)) == 4
    assert second.usage is not None
    assert second.usage.input_tokens > 1_100, "what the summary took is counted too"


async def test_a_stream_tells_of_its_compaction_first(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="scripted", input=LONG)
    async with client.responses.stream(
        model="scripted", input="say hello", previous_response_id=first.id, context_management=MANAGED
    ) as stream:
        kinds = [event.type async for event in stream]

    assert kinds[2:5] == [
        "response.output_item.added",
        "response.compaction.compacting",
        "response.output_item.done",
    ]
    assert kinds[-1] == "response.completed"


async def test_a_run_is_compacted_between_its_turns(client: openai.AsyncOpenAI) -> None:
    """Without the rounds of its tools, and with the question, whose script begins anew."""
    script = "call scripted {} | long 1200 => tell items"
    tools: Any = [{"type": "antiphon:scripted"}]
    response = await client.responses.create(
        model="scripted", input=script, tools=tools, context_management=MANAGED, max_output_tokens=2_500
    )

    kinds = [item.type for item in response.output]
    place = kinds.index("compaction")
    assert "antiphon:scripted_call" in kinds[:place]
    assert len(kinds) > place + 1


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ([{"type": "compaction", "compact_threshold": 999}], "context_management[0].compact_threshold"),
        ([{"type": "forgetting"}], "context_management[0].type"),
        ([{"type": "compaction"}], "context_management[0].compact_threshold"),
    ],
)
async def test_a_wish_that_cannot_be_met_is_refused(client: openai.AsyncOpenAI, wish: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="scripted", input="say hello", context_management=wish)
    assert refused.value.param == param


async def test_without_a_threshold_three_quarters_of_the_window_count(scripted: Settings) -> None:
    settings = structs.replace(scripted, models=(ScriptedModel(context_tokens=2_000),))
    async with serve(settings) as url, sdk(url) as client:
        wish: Any = [{"type": "compaction"}]
        first = await client.responses.create(model="scripted", input="say ok " + "word " * 800)
        response = await client.responses.create(
            model="scripted", input="say hello", previous_response_id=first.id, context_management=wish
        )

    assert [item.type for item in response.output] == ["compaction", "message"]


async def test_a_compaction_that_was_cut_short_stands_for_nothing() -> None:
    """The response failed; whoever goes on from it all the same is told everything."""
    async with Small(100) as upstream:
        settings = Settings(models=(ChatUpstream(url=upstream.url),), storage=Storage(database=":memory:"))
        async with serve(settings) as url, sdk(url) as client:
            first = await client.responses.create(model="m", input="word " * 2_000)
            upstream.said = replies({"reasoning_content": "hm"})
            asked: Any = {"model": "m", "previous_response_id": first.id, "context_management": MANAGED}
            events = [event async for event in await client.responses.create(**asked, input="and?", stream=True)]
            failed = events[-1].response
            upstream.said = says("fine")
            await client.responses.create(model="m", input="so?", previous_response_id=failed.id)

    assert failed.status == "failed"
    assert [item.status for item in failed.output] == ["incomplete"]
    assert upstream.messages[-1] == 4


# -- sealed


async def test_what_is_not_ours_is_refused(scripted: Settings) -> None:
    """Tampered with, cut, under another's id, of another kind, twice, or of another project."""
    keys = (StaticKey(project="a", key="key-of-a-0123456789"), StaticKey(project="b", key="key-of-b-0123456789"))
    async with (
        serve(changed(scripted, auth={"keys": keys})) as url,
        sdk(url, key=keys[0].key) as client,
        sdk(url, key=keys[1].key) as other,
    ):
        asked: Any = [*HISTORY, {"type": "compaction_trigger"}]
        made = await client.responses.create(model="scripted", input=asked, include=["reasoning.encrypted_content"])
        thought = await client.responses.create(
            model="scripted", input="think hm | say x", include=["reasoning.encrypted_content"], store=False
        )
        item = compaction_of(made).to_dict()
        sealed = str(item["encrypted_content"])
        middle = len(sealed) // 2
        swapped = "A" if sealed[middle] != "A" else "B"
        wrong = [
            item | {"encrypted_content": sealed[:middle] + swapped + sealed[middle + 1 :]},
            item | {"encrypted_content": sealed[:-4]},
            item | {"encrypted_content": ""},
            item | {"id": "cmp_other"},
            item | {"encrypted_content": thought.output[0].encrypted_content},  # type: ignore[union-attr]
        ]
        question = {"role": "user", "content": "say hello"}
        for one in wrong:
            await refused(client, [one, question])
        await refused(other, [item, question])
        with pytest.raises(openai.BadRequestError, match="Duplicate item"):
            await client.responses.create(model="scripted", input=[item, item, question])  # type: ignore[list-item]
        fine = await client.responses.create(model="scripted", input=[item, question])  # type: ignore[list-item]

    assert fine.output_text == "hello"


async def refused(client: openai.AsyncOpenAI, items: list[Any]) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        await client.responses.create(model="scripted", input=items)
    assert (error.value.code, error.value.param) == ("invalid_encrypted_content", "input[0].encrypted_content")


async def test_a_compaction_is_small_and_shows_nothing(client: openai.AsyncOpenAI) -> None:
    item = compaction_of(
        await client.responses.create(model="scripted", input=[*HISTORY, {"type": "compaction_trigger"}])
    )

    assert len(item.encrypted_content) < 400
    assert "garden" not in item.encrypted_content


# -- the Agents SDK


async def test_the_agents_sdks_compaction_session_goes_on_from_its_compactions(
    scripted: Settings, tmp_path: Path
) -> None:
    settings = structs.replace(scripted, models=(ScriptedModel(name="gpt-scripted"),))
    async with serve(settings) as url, sdk(url) as client:
        session = OpenAIResponsesCompactionSession(
            "s",
            agents.SQLiteSession("s", tmp_path / "session.db"),
            client=client,
            model="gpt-scripted",
            should_trigger_compaction=lambda found: len(found["compaction_candidate_items"]) >= 2,
        )
        agent = agents.Agent(name="a", model=agents.OpenAIResponsesModel("gpt-scripted", client))
        for text in ("say one", "say two", "say three"):
            await agents.Runner.run(agent, text, session=session)
        kinds = [item.get("type", "message") for item in await session.get_items()]
        last = await agents.Runner.run(agent, "tell items", session=session)

    assert "compaction" in kinds
    texts = [part["text"] for item in json.loads(last.final_output) for part in item["content"]]
    assert any(text.startswith(compaction.HEAD) for text in texts)


# -- the pure part


def opened(summary: str, *, keeps_users: bool = False, asked: str = "") -> Compacted:
    parts = (InputText(text=asked),) if asked else ()
    kept = Kept(id="cmp_1", summary=summary, keeps_users=keeps_users, asked=parts)
    return Compacted(id="cmp_1", status="completed", encrypted_content="x", kept=kept)


def named(items: Sequence[Item]) -> list[Item]:
    return [structs.replace(item, id=f"i_{number}") for number, item in enumerate(items)]


@given(before=some.conversations(), after=some.conversations(), keeps_users=st.booleans())
@some.trying(150)
def test_a_context_that_was_compacted_goes_on_like_one_that_begins_so(
    before: list[Item], after: list[Item], *, keeps_users: bool
) -> None:
    before, item = named(before), opened("so far", keeps_users=keeps_users, asked="" if keeps_users else "and?")
    if any(getattr(one, "async_", UNSET) is True for one in before):
        return  # their outputs may still come
    context = grown(grown(empty(), before, before, RUNNERS), [item, *after], [item, *after], RUNNERS)
    roles = {"system", "developer", *(["user"] if keeps_users else [])}
    stay = [
        one for one in grown(empty(), before, before, RUNNERS).told if isinstance(one, Message) and one.role in roles
    ]
    alone = grown(empty(), [item, *after], [item, *after], RUNNERS)

    assert context.told[: len(stay)] == tuple(stay)
    assert context.told[len(stay) :] == alone.told
    assert context.turn == alone.turn + len(stay)
    assert context.told_size == sum(map(usage.size, context.told))
    assert len(context.items) == len(before) + 1 + len(after)


def test_a_call_that_was_compacted_away_waits_for_no_output() -> None:
    call = FunctionCall(id="fc_1", call_id="c", name="f", arguments="{}", status="completed")
    output = FunctionCallOutput(id="fco_1", call_id="c", output="x")
    context = grown(empty(), [user("?"), call], [user("?"), call], {})

    assert grown(context, [opened("s")], [opened("s")], {}).waiting == ()
    with pytest.raises(Exception, match="No tool call found"):
        grown(context, [opened("s"), output], [opened("s"), output], {})


def test_only_the_newest_summary_is_told() -> None:
    items = named([user("a"), opened("one", keeps_users=True), user("b"), opened("two", keeps_users=True)])

    told = grown(empty(), items, items, {}).told

    assert [isinstance(item, Summary) for item in told] == [False, False, True]


def test_where_little_would_go_compacting_is_no_use() -> None:
    long = user("x" * 10_000)
    system = structs.replace(long, role="system")
    items: tuple[PromptItem, ...]
    for items, expected in (
        ((long,), False),
        ((system, user("?")), False),
        ((long, user("?")), True),
        ((Summary(role="user", content=long.content), user("?")), False),
    ):
        assert compaction.is_worth_it(Prompt(model="m", items=items), 1_000) is expected
