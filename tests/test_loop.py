"""The loop of turns and tools, the same whether its answer is streamed, waited for or made in the background."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from antiphon.config import Settings
from antiphon.core.deltas import Finish, Text, ToolCall
from antiphon.core.hosted import Errand, Outcome, Step
from antiphon.stores.memory import MemoryStore
from antiphon.tools.scripted import ScriptedTool
from antiphon.wire.items import (
    HostedCall,
    Item,
    McpApprovalRequest,
    McpListTools,
)
from antiphon.wire.tools import ScriptedTool as Declaration
from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import Played, ask, create, final, serving, streaming

TOOL = {"type": "antiphon:scripted"}
FUNCTION = {"type": "function", "name": "f"}


class Made(NamedTuple):
    """What came of a request. `items` are types and statuses; None where the answer does not tell them."""

    status: str
    items: list[tuple[str, str]] | None
    text: str
    """Of the last message, or of the error."""


def made(response: dict[str, Any]) -> Made:
    output = response["output"]
    said = [part["text"] for item in output if item["type"] == "message" for part in item["content"]]
    error = (response["error"] or {}).get("message")
    return Made(response["status"], [(i["type"], i.get("status", "")) for i in output], error or "".join(said[-1:]))


async def waited(url: str, **fields: Any) -> Made:
    answer = await create(url, **fields)
    if answer.status != 200:
        return Made("failed", None, str(answer.error["message"]))
    return made(answer.value)


async def streamed(url: str, **fields: Any) -> Made:
    async with streaming(url, **fields) as one:
        head = await one.head()
        if head.status != 200:
            return Made("failed", None, str((await one.answer()).error["message"]))
        return made(final(await one.frames()))


async def in_background(url: str, **fields: Any) -> Made:
    response = (await create(url, background=True, **fields)).value
    async with asyncio.timeout(WAIT_S):
        while response["status"] in {"queued", "in_progress"}:
            response = (await ask(url, "GET", f"/v1/responses/{response['id']}")).value
    return made(response)


async def streamed_in_background(url: str, **fields: Any) -> Made:
    return await streamed(url, background=True, **fields)


MODES: list[Callable[..., Awaitable[Made]]] = [waited, streamed, in_background, streamed_in_background]
SCRIPTED = "antiphon:scripted_call"


class Case(NamedTuple):
    script: str
    expected: Made
    fields: Mapping[str, Any] = MappingProxyType({})
    limits: Mapping[str, Any] = MappingProxyType({})


def call(text: str) -> str:
    return f'call scripted {{"text": "{text}"}}'


CASES = {
    "several turns": Case(
        f"{call('a')} => {call('b')} => say done",
        Made("completed", [(SCRIPTED, "completed")] * 2 + [("message", "completed")], "done"),
    ),
    "calls of both sides in one turn": Case(
        f"{call('a')} | call f {{}} | {call('b')} => say never",
        Made("completed", [("function_call", "completed")] + [(SCRIPTED, "completed")] * 2, ""),
    ),
    "one call at a time": Case(
        f"{call('a')} | {call('b')}",
        Made("completed", [(SCRIPTED, "completed"), ("message", "completed")], "got: A"),
        fields={"parallel_tool_calls": False},
    ),
    "one of several fails": Case(
        f"{call('fail')} | {call('a')} | {call('wait 20')}",
        Made(
            "completed",
            [(SCRIPTED, "failed"), (SCRIPTED, "completed"), (SCRIPTED, "completed"), ("message", "completed")],
            "got: The tool failed., A, WAIT 20",
        ),
    ),
    "one of several takes too long": Case(
        f"{call('wait')} | {call('a')}",
        Made(
            "completed",
            [(SCRIPTED, "failed"), (SCRIPTED, "completed"), ("message", "completed")],
            "got: The tool took longer than 0.3 s., A",
        ),
        limits={"tool_timeout_s": 0.3},
    ),
    "more calls than may be made": Case(
        f"{call('a')} | {call('b')} => say done",
        Made("completed", [(SCRIPTED, "completed"), ("message", "completed")], "done"),
        fields={"max_tool_calls": 1},
    ),
    "more turns than may be taken": Case(
        " => ".join([call("a")] * 4),
        Made("failed", [(SCRIPTED, "completed")] * 3, "The model took more than 3 turns (limits.turns_max)."),
        limits={"turns_max": 3},
    ),
    "a model that takes too long": Case(
        "stall",
        Made("failed", [("message", "incomplete")], "The response took longer than 0.5 s (limits.response_timeout_s)."),
        limits={"response_timeout_s": 0.5},
    ),
    "tools that take too long together": Case(
        f"{call('wait')} | {call('a')}",
        Made(
            "failed",
            [(SCRIPTED, "incomplete"), (SCRIPTED, "completed")],
            "The response took longer than 0.5 s (limits.response_timeout_s).",
        ),
        limits={"response_timeout_s": 0.5},
    ),
    "no limit on the whole": Case(
        call("wait 20"),
        Made("completed", [(SCRIPTED, "completed"), ("message", "completed")], "got: WAIT 20"),
        limits={"response_timeout_s": 0},
    ),
    "a long output": Case(
        call("abcdef"),
        Made(
            "completed",
            [(SCRIPTED, "completed"), ("message", "completed")],
            "got: ABCD [The rest of this output is left out: it has 6 characters, of which 4 are told.]",
        ),
        limits={"tool_output_chars_max": 4},
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_the_loop_is_the_same_for_all_readers(scripted: Settings, name: str) -> None:
    case = CASES[name]
    async with serve(changed(scripted, limits=dict(case.limits))) as url:
        fields = {"input": case.script, "tools": [TOOL, FUNCTION], **case.fields}
        seen = [await mode(url.removesuffix("/v1"), **fields) for mode in MODES]

    for one in seen:
        expected = case.expected if one.items is not None else case.expected._replace(items=None)
        assert one._replace(text=" ".join(one.text.split())) == expected


async def test_several_tools_that_run_are_cancelled_together(scripted: Settings) -> None:
    script = f"{call('wait')} | {call('a')} | {call('again wait')}"
    async with serve(scripted) as base:
        url = base.removesuffix("/v1")
        async with streaming(url, background=True, input=script, tools=[TOOL]) as one:
            await one.head()
            before = await one.frames_until("response.antiphon:scripted_call.completed")
            response_id = before[0].data["response"]["id"]
            cancelled = (await ask(url, "POST", f"/v1/responses/{response_id}/cancel")).value
            response = final([*before, *await one.frames()])

    assert response == cancelled
    assert made(response).items == [(SCRIPTED, "incomplete"), (SCRIPTED, "completed"), (SCRIPTED, "incomplete")]


# -- what counts as a call


class Asks(ScriptedTool):
    """The scripted tool, which lists something first, and asks the client about calls of the text "ask"."""

    records = ScriptedTool.records | {"mcp_list_tools", "mcp_approval_request"}

    def first(self, declaration: Declaration, brought: Sequence[Item], approved: Sequence[Any]) -> Sequence[HostedCall]:
        return () if brought else [McpListTools(server_label="here")]

    def begin(self, name: str, arguments: str, declaration: Declaration, brought: Sequence[Item] = ()) -> Any:
        if "ask" in arguments:
            return McpApprovalRequest(arguments=arguments, name=name, server_label="here")
        return super().begin(name, arguments, declaration)

    async def run(self, item: HostedCall, errand: Errand) -> AsyncGenerator[Step, None]:
        if isinstance(item, McpListTools):
            yield Outcome(item)
            return
        async for step in super().run(item, errand):
            yield step


async def test_neither_what_comes_first_nor_what_is_asked_counts_as_a_call(scripted: Settings) -> None:
    model, store = Played(), MemoryStore(scripted.storage, scripted.limits)
    model.say(
        *(ToolCall(str(key), f'{{"text":"{text}"}}', name="scripted") for key, text in enumerate(("ask", "a", "b"))),
        Finish("tool_calls"),
    )
    model.say(Text("never"), Finish("stop"))
    async with serving(scripted, store, model, more=[Asks()]) as url:
        answer = await create(url, model="played", tools=[TOOL], max_tool_calls=1)

    assert [item["type"] for item in answer.value["output"]] == ["mcp_list_tools", "mcp_approval_request", SCRIPTED]
    assert [item.get("arguments") for item in answer.value["output"][1:]] == ['{"text":"ask"}', '{"text":"a"}']
