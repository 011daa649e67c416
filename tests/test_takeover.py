"""A process that dies, stands still or stops: what it was making is made by another, once, or says why it cannot be."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, closing
from typing import Any

import apsw
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from antiphon.config import ScriptedModel as Scripted
from antiphon.config import Settings
from antiphon.core.builder import Builder
from antiphon.core.deltas import Annotate, Delta, Refusal, Summary, Text, Thought, ToolCall
from antiphon.core.fold import Fold
from antiphon.core.hosted import Errand, Outcome, Step, Tool
from antiphon.core.past import Past
from antiphon.core.prompt import Named, Offer, Prompt
from antiphon.core.runs import Lease
from antiphon.core.toolbox import Streamed
from antiphon.engine import background, journal
from antiphon.engine.retention import HOUR_S
from antiphon.models.scripted import ScriptedModel
from antiphon.stores.sqlite import SqliteStore
from antiphon.tools.scripted import ScriptedTool
from antiphon.wire import codec
from antiphon.wire.events import Event, ResponseCreated, ResponseQueued
from antiphon.wire.items import (
    CustomToolCall,
    FunctionCallOutput,
    HostedCall,
    Item,
    McpListTools,
    Message,
    Reasoning,
    ScriptedCall,
    ToolSearchCall,
    ToolSearchOutput,
    UrlCitation,
)
from antiphon.wire.response import Response
from antiphon.wire.tools import ScriptedTool as Declaration
from antiphon.wire.web import SearchWeb, WebResult, WebSearchCall
from tests.conftest import WAIT_S, changed
from tests.rawclient import Played, ask, create, final, serving, streaming
from tests.test_api_requests import PICTURE
from tests.test_background import STOP, TOOL, Node, asked, happens, node

DECLARED = Declaration()
SKELETON = Response(id="resp_x", created_at=1, status="in_progress", model="played", background=True)


# -- a past, made by the builder itself, and what becomes of it


def spoken(*steps: Sequence[Delta] | Callable[[Builder], Any], response: Response = SKELETON) -> list[Event]:
    """The events of an attempt that broke off after these steps; the opening of the queue is not among them."""
    numbers = iter(range(1000))
    past = Past()
    past.next_number = 2
    callees = {"c": Streamed(CustomToolCall(call_id="", name="c", input="", status="in_progress"))}
    builder = Builder(response, lambda prefix: f"{prefix}_{next(numbers)}", callees=callees, past=past)
    builder.start()
    for step in steps:
        if callable(step):
            step(builder)
        else:
            for delta in step:
                builder.feed(delta)
    return builder.take()


def end_turn(builder: Builder) -> None:
    builder.end_turn()


def begin_tool(builder: Builder) -> None:
    builder.progress(builder.begin(ScriptedTool().begin("scripted", '{"text": "a"}', DECLARED)), "searching")


def begin_repeatable(builder: Builder) -> None:
    builder.progress(builder.begin(ScriptedTool().begin("scripted", '{"text": "again a"}', DECLARED)), "searching")


def begin_listing(builder: Builder) -> None:
    builder.begin(McpListTools(server_label="here"))


def list_tools(builder: Builder) -> None:
    builder.outcome(builder.begin(McpListTools(server_label="here")), McpListTools(server_label="here"))


def search(builder: Builder) -> None:
    call = ToolSearchCall(status="completed", arguments={"query": "g"}, execution="server")
    builder.searched(call, ToolSearchOutput(status="completed", execution="server", tools=(DEFERRED,)))


def run_tool(builder: Builder) -> None:
    index = builder.begin(ScriptedTool().begin("scripted", '{"text": "a"}', DECLARED))
    builder.outcome(index, ScriptedCall(name="scripted", arguments='{"text": "a"}', status="completed", output="A"))


WEB_SEARCHED = WebSearchCall(
    status="completed",
    action=SearchWeb(query="q", queries=("q",)),
    results=(WebResult(url="https://a.example/", title="A", text="found this", mark="aaaa2"),),
)
SEARCHING = replace(WEB_SEARCHED, status="in_progress", results=UNSET)


def begin_search(builder: Builder) -> None:
    builder.progress(builder.begin(SEARCHING), "searching")


def run_search(builder: Builder) -> None:
    builder.outcome(builder.begin(SEARCHING), WEB_SEARCHED)


def compact(builder: Builder) -> None:
    builder.compacted(builder.begin_compaction(), "sealed")


DEFERRED = {"type": "function", "name": "g", "defer_loading": True}
CITATION = UrlCitation(start_index=0, end_index=1, url="http://127.0.0.1/", title="t")
PASTS: dict[str, tuple[Any, ...]] = {
    "begun": (),
    "thinking": ([Thought("hm"), Thought("m")],),
    "summarising": ([Summary("a", part=0), Summary("b", part=1)],),
    "calling": ([Thought("hm"), ToolCall("0", '{"a', name="f", call_id="call_1")],),
    "calling a custom tool": ([ToolCall("0", '{"input": "a', name="c", call_id="call_1")],),
    "called": ([Thought("hm"), ToolCall("0", "{}", name="f", call_id="call_1")], end_turn),
    "saying": ([Thought("hm"), Text("half an "), Text("answer")],),
    "saying nothing yet": ([Text("\n")],),
    "speaking": ([Thought("hm"), Text("half an "), Annotate(CITATION), Text("answer")],),
    "refusing": ([Refusal("I will")],),
    "spoken": ([Text("all")], end_turn),
    "compacting": (Builder.begin_compaction,),
    "compacted": (compact, [Thought("hm")]),
    "a tool runs": ([Text("look")], end_turn, begin_tool),
    "a tool ran": ([Thought("hm"), Text("look")], end_turn, run_tool),
    "a tool ran and it thought": ([Text("look")], end_turn, run_tool, [Thought("hm")]),
    "a search runs": (end_turn, begin_search),
    "a search ran": ([Thought("hm")], end_turn, run_search),
    "a tool ran and it spoke": (end_turn, run_tool, [Text("hm")]),
    "a repeatable tool runs": ([Text("look")], end_turn, begin_repeatable),
    "a repeatable tool runs beside one that ran": (end_turn, begin_repeatable, run_tool),
    "a repeatable tool runs beside one that may not": (end_turn, begin_tool, begin_repeatable),
    "a repeatable tool runs beside a call": (
        [ToolCall("0", "{}", name="f", call_id="call_1")],
        end_turn,
        begin_repeatable,
    ),
    "it searched": ([Thought("hm"), Text("look")], end_turn, search),
    "it searched and thought": (end_turn, search, [Thought("hm")]),
    "listing": (begin_listing,),
    "listed": (list_tools,),
    "listed and thought": (list_tools, [Thought("hm")]),
}


@pytest.mark.parametrize("name", PASTS)
def test_a_past_holds_what_its_events_add_up_to(name: str) -> None:
    events = spoken(*PASTS[name])
    waiting = replace(SKELETON, status="queued")
    folded = Fold()
    for event in (ResponseCreated(0, waiting), ResponseQueued(1, waiting), *events):
        folded.feed(json.loads(codec.encode(event)))
    past = Past(events)

    assert json.loads(codec.encode(past.output)) == folded.response["output"]
    assert past.next_number == folded.next_number
    assert past.is_begun


# -- what becomes of it


async def left(settings: Settings, *steps: Any, more: Sequence[Tool] = (), **fields: Any) -> str:
    """The id of a response that a process was making which died after these steps."""
    now_ms = round(time.time() * 1000)
    far = Lease(owner="dead", until_ms=now_ms + 600_000)
    store = SqliteStore(settings.storage, settings.limits)
    async with node(settings, *more, background_runs_max=1) as dying:
        in_the_way = await asked(dying)
        await happens(dying.model.is_asked)
        response_id = await queued(dying, **fields)
        taken = await store.runs.seize("default", response_id, far)
        assert taken is not None
        assert await store.runs.append(taken.ticket, spoken(*steps, response=taken.response), now_ms, far.until_ms)
        await dying.cancel(in_the_way["id"])
    await store.runs.release([taken.ticket])
    await store.close()
    return response_id


async def queued(at: Node, *, stream: bool = True, **fields: Any) -> str:
    if not stream:
        return str((await asked(at, **fields))["id"])
    async with streaming(at.url, background=True, **{"model": "played", **fields}) as one:
        await one.head()
        return str((await one.frames_until("response.queued"))[0].data["response"]["id"])


async def taken_over(settings: Settings, response_id: str, *said: Sequence[Delta]) -> tuple[Any, int, list[Any]]:
    """The response as another process ended it, how often that asked the model, and the types of all its items."""
    async with node(settings) as heir:
        for batch in said:
            heir.model.say(*batch)
        response = await heir.ended(response_id)
        again = await ask(heir.url, "GET", f"/v1/responses/{response_id}?stream=true")
        if again.status == 200:
            assert final(await heir.frames(response_id)) == response  # lawful, from the first event to the last
    return response, len(heir.model.prompts), [(item["type"], item["status"]) for item in response["output"]]


ANSWER = (Text("whole"), STOP)
THOUGHT, MESSAGE = ("reasoning", "incomplete"), ("message", "completed")
SEARCHED = [("tool_search_call", "completed"), ("tool_search_output", "completed")]
REDONE: dict[str, list[tuple[str, str]]] = {
    "begun": [],
    "thinking": [THOUGHT],
    "summarising": [THOUGHT],
    "calling": [("reasoning", "completed"), ("function_call", "incomplete")],
    "calling a custom tool": [("custom_tool_call", "incomplete")],
    "compacting": [("compaction", "incomplete")],
    "compacted": [("compaction", "completed"), THOUGHT],
    "a tool ran": [("reasoning", "completed"), MESSAGE, ("antiphon:scripted_call", "completed")],
    "a tool ran and it thought": [MESSAGE, ("antiphon:scripted_call", "completed"), THOUGHT],
    "a repeatable tool runs": [MESSAGE, ("antiphon:scripted_call", "completed")],
    "a repeatable tool runs beside one that ran": [("antiphon:scripted_call", "completed")] * 2,
    "a search runs": [("web_search_call", "incomplete")],
    "it searched": [("reasoning", "completed"), MESSAGE, *SEARCHED],
    "it searched and thought": [*SEARCHED, THOUGHT],
}


@pytest.mark.parametrize("name", REDONE)
async def test_its_turn_is_taken_again(scripted: Settings, name: str) -> None:
    response_id = await left(scripted, *PASTS[name], tools=[TOOL])
    response, turns, items = await taken_over(scripted, response_id, ANSWER)

    assert (response["status"], turns) == ("completed", 1)
    assert items == [*REDONE[name], MESSAGE]
    assert response["output"][-1]["content"][0]["text"] == "whole"
    assert response["usage"]["output_tokens"] > 0


async def test_a_tool_that_ran_is_not_run_again_and_the_model_knows_what_it_gave(scripted: Settings) -> None:
    response_id = await left(scripted, *PASTS["a tool ran"], tools=[TOOL])
    async with node(scripted) as heir:
        heir.model.say(*ANSWER)
        await heir.ended(response_id)
        told = heir.model.prompts[0].items

    assert [item.output for item in told if isinstance(item, FunctionCallOutput)] == ["A"]
    assert not any(isinstance(item, Reasoning) and item.status == "incomplete" for item in told)


async def test_what_a_search_found_is_told_and_cited_by_whoever_takes_over(scripted: Settings) -> None:
    response_id = await left(scripted, *PASTS["a search ran"])
    async with node(scripted) as heir:
        heir.model.say(Text("so【aaaa2】"), STOP)
        ended = await heir.ended(response_id)
        [told] = [item for item in heir.model.prompts[0].items if isinstance(item, FunctionCallOutput)]

    assert "found this" in str(told.output)
    assert [item["type"] for item in ended["output"]] == ["reasoning", "web_search_call", "message"]
    assert ended["output"][-1]["content"][0]["annotations"][0]["url"] == "https://a.example/"


async def test_a_call_that_the_client_is_to_make_needs_no_model_any_more(scripted: Settings) -> None:
    response_id = await left(scripted, *PASTS["called"])
    response, turns, items = await taken_over(scripted, response_id)

    assert (response["status"], turns) == ("completed", 0)
    assert items == [("reasoning", "completed"), ("function_call", "completed")]


async def test_a_call_that_does_no_harm_is_made_again_where_it_stands(scripted: Settings) -> None:
    response_id = await left(scripted, *PASTS["a repeatable tool runs beside one that ran"], tools=[TOOL])
    async with node(scripted) as heir:
        heir.model.say(*ANSWER)
        response = await heir.ended(response_id)
        events = [frame.data for frame in await heir.frames(response_id) if frame.event]
        told = [item.output for item in heir.model.prompts[0].items if isinstance(item, FunctionCallOutput)]

    assert [item.get("output") for item in response["output"]] == ["AGAIN A", "A", None]
    assert told == ["AGAIN A", "A"]
    first = [event["type"].rpartition(".")[2] for event in events if event.get("output_index") == 0]
    assert first == ["added", "in_progress", "searching", "searching", "completed", "done"]


async def test_beside_a_clients_call_it_is_made_again_and_that_is_all(scripted: Settings) -> None:
    response_id = await left(scripted, *PASTS["a repeatable tool runs beside a call"], tools=[TOOL])
    response, turns, items = await taken_over(scripted, response_id)

    assert (response["status"], turns) == ("completed", 0)
    assert items == [("function_call", "completed"), ("antiphon:scripted_call", "completed")]


async def test_one_whose_tool_is_not_declared_any_more_fails(scripted: Settings) -> None:
    response_id = await left(scripted, *PASTS["a repeatable tool runs"], tools=[{**TOOL, "name": "other"}])
    response, turns, _ = await taken_over(scripted, response_id, ANSWER)

    assert (response["status"], turns) == ("failed", 0)
    assert response["output"][-1]["status"] == "incomplete"


async def test_what_was_found_is_there_after_a_takeover(scripted: Settings) -> None:
    response_id = await left(scripted, *PASTS["it searched"], tools=[DEFERRED, {"type": "tool_search"}])
    async with node(scripted) as heir:
        heir.model.say(*ANSWER)
        await heir.ended(response_id)
        prompt = heir.model.prompts[0]

    assert [offer.name for offer in prompt.tools] == ["tool_search", "g"]
    assert [type(item).__name__ for item in prompt.items][-2:] == ["FunctionCall", "FunctionCallOutput"]


# -- what comes before the first turn


class Lists(ScriptedTool):
    """The scripted tool, which lists something first."""

    records = ScriptedTool.records | {"mcp_list_tools"}

    def offers(self, declaration: Declaration, brought: Sequence[Item]) -> Sequence[Offer]:
        return super().offers(declaration, brought) if brought else ()

    def first(self, declaration: Declaration, brought: Sequence[Item], approved: Sequence[Any]) -> Sequence[HostedCall]:
        return () if brought else [McpListTools(server_label="here")]

    async def run(self, item: HostedCall, errand: Errand) -> AsyncGenerator[Step, None]:
        assert isinstance(item, McpListTools)
        yield Outcome(item)

    def is_of(self, item: HostedCall, declaration: Declaration) -> bool:
        return isinstance(item, McpListTools)

    def is_repeatable(self, item: HostedCall) -> bool:
        return isinstance(item, McpListTools)


@pytest.mark.parametrize("name", ["begun", "listing", "listed", "listed and thought"])
async def test_what_comes_first_is_done_once_and_then_its_tools_are_there(scripted: Settings, name: str) -> None:
    choice = {"type": "function", "name": "scripted"}
    response_id = await left(scripted, *PASTS[name], more=[Lists()], tools=[TOOL], tool_choice=choice)
    async with node(scripted, Lists()) as heir:
        heir.model.say(*ANSWER)
        response = await heir.ended(response_id)
        assert final(await heir.frames(response_id)) == response
        prompt = heir.model.prompts[0]

    thought = ["reasoning"] if "thought" in name else []
    assert [item["type"] for item in response["output"]] == ["mcp_list_tools", *thought, "message"]
    assert [offer.name for offer in prompt.tools] == ["scripted"]
    assert prompt.tool_choice == Named("scripted")


@pytest.mark.parametrize(
    "name",
    [
        *("saying", "speaking", "refusing", "spoken", "a tool runs", "a tool ran and it spoke"),
        "a repeatable tool runs beside one that may not",
    ],
)
async def test_what_cannot_be_taken_back_or_done_again_fails(scripted: Settings, name: str) -> None:
    response_id = await left(scripted, *PASTS[name], tools=[TOOL])
    response, turns, _ = await taken_over(scripted, response_id, ANSWER)

    assert (response["status"], response["error"]["code"], turns) == ("failed", "server_error", 0)
    assert "The server stopped" in response["error"]["message"]


async def test_without_a_stream_a_tool_that_was_running_fails_and_one_that_ran_is_not_run_again(
    scripted: Settings,
) -> None:
    running = await left(scripted, *PASTS["a tool runs"], tools=[TOOL], stream=False)
    failed, _, _ = await taken_over(scripted, running)
    ran = await left(scripted, *PASTS["a tool ran"], tools=[TOOL], stream=False)
    response, turns, items = await taken_over(scripted, ran, ANSWER)

    assert failed["status"] == "failed"
    assert (response["status"], turns) == ("completed", 1)
    assert items == [*REDONE["a tool ran"], MESSAGE]


def texts(prompt: Prompt) -> list[str]:
    """What the model was told of messages."""
    return [getattr(item.content[0], "text", "") for item in prompt.items if isinstance(item, Message)]


async def test_one_in_a_conversation_is_taken_over_with_it(scripted: Settings) -> None:
    async with node(scripted) as one:
        sent = {"items": [{"role": "user", "content": "first"}]}
        conversation = (await ask(one.url, "POST", "/v1/conversations", sent)).value["id"]
    response_id = await left(scripted, *PASTS["thinking"], conversation=conversation, input="second")
    async with node(scripted) as heir:
        heir.model.say(*ANSWER)
        await heir.ended(response_id)
        told = texts(heir.model.prompts[0])
        path = f"/v1/conversations/{conversation}/items?order=asc"
        kept = [item["type"] for item in (await ask(heir.url, "GET", path)).value["data"]]
        free = await create(heir.url, conversation=conversation)

    assert told == ["first", "second"]
    assert kept == ["message", "message", "reasoning", "message"]
    assert free.status == 200


async def test_one_that_was_continued_from_another_is_taken_over_even_if_that_is_deleted(scripted: Settings) -> None:
    async with node(scripted) as one:
        parent = (await create(one.url, input="say one")).value["id"]
    response_id = await left(scripted, previous_response_id=parent, input="two", instructions="Be brief.")
    async with node(scripted) as heir:
        assert (await ask(heir.url, "DELETE", f"/v1/responses/{parent}")).status == 200
        heir.model.say(*ANSWER)
        response = await heir.ended(response_id)
        prompt = heir.model.prompts[0]

    assert response["status"] == "completed"
    assert prompt.instructions == "Be brief."
    assert texts(prompt) == ["say one", "one", "two"]


async def test_one_whose_model_is_gone_fails(scripted: Settings) -> None:
    response_id = await left(scripted)
    store = SqliteStore(scripted.storage, scripted.limits)
    async with serving(scripted, store, ScriptedModel(Scripted(), scripted.limits)) as url:
        response = await Node(url, Played()).ended(response_id)
    await store.close()

    assert (response["status"], response["error"]["code"]) == ("failed", "model_not_found")


async def test_one_that_cannot_be_understood_fails_and_is_in_nobodys_way(scripted: Settings) -> None:
    strange, plain = await left(scripted), await left(scripted)
    with closing(apsw.Connection(scripted.storage.database)) as connection:
        connection.execute(
            "UPDATE runs SET request = '[]' WHERE response = (SELECT n FROM responses WHERE id = ?)", (strange,)
        )
    response, _, _ = await taken_over(scripted, strange, ANSWER)
    other, _, _ = await taken_over(scripted, plain, ANSWER)

    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert other["status"] == "completed"


DAMAGE = {
    "its request": "UPDATE runs SET request = '[]' WHERE response = {n}",
    "its body": "UPDATE responses SET body = '{{' WHERE n = {n}",
    "its input": "UPDATE items SET data = '[' WHERE place / 1048576 = {n}",
    "what it goes on from": "UPDATE items SET data = '[' WHERE place / 1048576 < {n}",
    "an event": "UPDATE response_events SET data = 'x' WHERE response = {n} AND seq = 4",
    "a missing event": "DELETE FROM response_events WHERE response = {n} AND seq = 4",
    "an event of another item": """
        UPDATE response_events SET data = replace(data, '"output_index":0', '"output_index":7') WHERE response = {n}""",
    "all events": "UPDATE response_events SET data = 'x' WHERE response = {n}",
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", DAMAGE)
async def test_a_damaged_one_fails_and_is_in_nobodys_way(scripted: Settings, name: str, stream: bool) -> None:
    async with node(scripted) as before:
        first = (await create(before.url, input="say one")).value["id"]
    fields = {"stream": stream, "previous_response_id": first, "metadata": {"colour": "red"}}
    strange, plain = await left(scripted, *PASTS["thinking"], **fields), await left(scripted)
    with closing(apsw.Connection(scripted.storage.database)) as connection:
        ((n,),) = connection.execute("SELECT n FROM responses WHERE id = ?", (strange,)).fetchall()
        connection.execute(DAMAGE[name].format(n=n))
    async with node(scripted) as heir:
        heir.model.say(*ANSWER)
        response, other = await heir.ended(strange), await heir.ended(plain)
        listed = (await ask(heir.url, "GET", "/v1/responses?metadata[colour]=red")).value["data"]
        if stream:
            assert final(await heir.frames(strange)) == response
        deleted = await ask(heir.url, "DELETE", f"/v1/responses/{strange}")
        left_over = (await ask(heir.url, "GET", "/v1/responses?metadata[colour]=red")).value["data"]

    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["metadata"] == {"colour": "red"}
    assert (listed, deleted.status, left_over) == ([response], 200, [])
    assert other["status"] == "completed"


async def test_a_damaged_one_in_a_conversation_frees_it(scripted: Settings) -> None:
    async with node(scripted) as before:
        conversation = (await ask(before.url, "POST", "/v1/conversations", {})).value["id"]
    strange = await left(scripted, conversation=conversation)
    with closing(apsw.Connection(scripted.storage.database)) as connection:
        connection.execute("UPDATE responses SET body = '[]' WHERE id = ?", (strange,))
    async with node(scripted) as heir:
        response = await heir.ended(strange)
        again = await create(heir.url, conversation=conversation, input="say hello")

    assert (response["status"], response["conversation"]) == ("failed", {"id": conversation})
    assert again.status == 200


async def test_a_damaged_one_can_be_cancelled(scripted: Settings) -> None:
    async with node(scripted) as one:
        strange = (await asked(one))["id"]
        await happens(one.model.is_asked)
        with closing(apsw.Connection(scripted.storage.database)) as connection:
            connection.execute("UPDATE responses SET body = '[]' WHERE id = ?", (strange,))
            connection.execute("UPDATE response_events SET data = 'x'")
        assert (await one.cancel(strange)).value["status"] == "cancelled"


async def test_one_that_ends_every_process_fails_in_the_end(scripted: Settings) -> None:
    response_id = await left(scripted)
    limited = changed(scripted, limits={"background_attempts_max": 1})
    response, turns, _ = await taken_over(limited, response_id, ANSWER)

    assert (response["status"], turns) == ("failed", 0)
    assert "limits.background_attempts_max" in response["error"]["message"]


async def test_a_process_that_stood_still_writes_nothing_and_stops(scripted: Settings) -> None:
    """Its lease ends while it cannot renew it: here, because somebody else takes the run away."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(node(scripted))
        async with streaming(one.url, background=True, model="played") as stream:
            await stream.head()
            one.model.say(Thought("hm"))
            response_id = (await stream.frames_until("response.reasoning_text.delta"))[0].data["response"]["id"]
        store = SqliteStore(scripted.storage, scripted.limits)
        taken = await store.runs.seize("default", response_id, Lease(owner="x", until_ms=2**50))
        assert taken is not None
        one.model.say(Text("too late"), STOP)
        await happens(one.model.is_over)
        heir = await stack.enter_async_context(node(scripted))
        await store.runs.release([taken.ticket])
        await store.close()
        for at in (one, heir):
            at.model.say(*ANSWER)
        response = await heir.ended(response_id)
        assert final(await heir.frames(response_id)) == response

    assert response["output"][-1]["content"][0]["text"] == "whole"
    assert len(response["output"]) == 2


async def test_a_process_that_stood_still_goes_on_with_what_nobody_took(
    scripted: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(scripted) as one:
        first = await asked(one)
        one.model.say(Text("who"))
        await one.until(first["id"], lambda response: response["output"])
        monkeypatch.setattr(background, "time", Later())
        monkeypatch.setattr(background, "time_ms", lambda: journal.time_ms() + HOUR_S * 1000)
        second = await asked(one, model="scripted")
        await one.ended(second["id"])  # so it has looked for what is left
        one.model.say(Text("le"), STOP)
        response = await one.ended(first["id"])

    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["text"] == "whole"
    assert len(one.model.prompts) == 1


class Later:
    """In place of the module `time`: all leases have ended."""

    def monotonic(self) -> float:
        return time.monotonic() + HOUR_S


# -- a process that is told to stop


async def test_a_process_that_stops_hands_over_what_can_be_made_again(scripted: Settings) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(node(scripted, shutdown_grace_s=WAIT_S))
        first = await asked(one)
        await happens(one.model.is_asked)
        one.model.say(Text("lost"))
        async with asyncio.timeout(WAIT_S / 2):
            await stack.aclose()
    response, turns, items = await taken_over(scripted, first["id"], ANSWER)

    assert one.model.is_over.is_set()
    assert (response["status"], turns, items) == ("completed", 1, [MESSAGE])


async def test_a_process_that_stops_lets_an_answer_end_that_is_being_read(scripted: Settings) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(node(scripted, shutdown_grace_s=WAIT_S))
        async with streaming(one.url, background=True, model="played") as stream:
            await stream.head()
            one.model.say(Text("a"))
            before = await stream.frames_until("response.output_text.delta")
            stopping = asyncio.create_task(stack.aclose())
            while (await ask(one.url, "GET", "/ready")).status == 200:
                pass
            refused = await create(one.url, background=True)
            one.model.say(Text("b"), STOP)
            response = final([*before, *await stream.frames()])
            await stopping

    assert refused.status == 503
    assert (response["status"], response["output"][0]["content"][0]["text"]) == ("completed", "ab")


async def test_a_reader_of_what_is_handed_over_is_not_told_that_it_ended(scripted: Settings) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(node(scripted))
        async with streaming(one.url, background=True, model="played") as stream:
            await stream.head()
            one.model.say(Thought("a"))
            before = await stream.frames_until("response.reasoning_text.delta")
            await stack.aclose()
            before += await stream.frames()
    response_id, number = before[0].data["response"]["id"], before[-1].data["sequence_number"]
    async with node(scripted) as heir:
        heir.model.say(*ANSWER)
        await heir.ended(response_id)
        after = await heir.frames(response_id, f"&starting_after={number}")

    assert before[-1].event == "response.reasoning_text.delta"
    assert final([*before, *after])["status"] == "completed"


class Broken(Played):
    takes: Any = None  # as a bug may have it


async def test_a_bug_in_making_one_is_logged_and_the_rest_goes_on(
    scripted: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    await left(scripted, input=[{"role": "user", "content": [PICTURE]}])
    store = SqliteStore(scripted.storage, scripted.limits)
    async with serving(scripted, store, Broken(), ScriptedModel(Scripted(), scripted.limits)) as url:
        heir = Node(url, Played())
        plain = await asked(heir, model="scripted")
        assert (await heir.ended(plain["id"]))["status"] == "completed"
    await store.close()

    assert "a background task broke" in "".join(capsys.readouterr())  # where logs go is the process's, not this test's
