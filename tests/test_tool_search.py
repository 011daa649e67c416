"""Tools that wait to be found by a search of this server's: what the model is shown, what it finds, and what stays."""

from collections.abc import Sequence
from typing import Any

import pytest

from antiphon.core import toolbox
from antiphon.core.deltas import Text
from antiphon.core.toolbox import Declared
from antiphon.core.toolsearch import Search
from antiphon.wire import codec
from antiphon.wire.items import FunctionCall, FunctionCallOutput
from antiphon.wire.tools import ToolSearchTool
from tests import wirecheck
from tests.rawclient import create, events_of, final, streaming
from tests.test_client_tools import CALLED, STOP, SUM, Stage, function, kinds, stage

__all__ = ["stage"]
SEARCH = {"type": "tool_search"}
FIND = function("find_customer", description="Finds customers by name.", defer_loading=True)
NOTE = {"type": "custom", "name": "note", "description": "Takes a note.", "defer_loading": True}
CRM = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [FIND, NOTE]}
WEATHER = function("get_weather", description="The weather of a city.", defer_loading=True)
LOOKUP = {"type": "antiphon:scripted", "name": "lookup", "defer_loading": True}
TOOLS = [function("plain"), CRM, WEATHER, SEARCH]
OK = (Text("ok"), STOP)


def searching(stage: Stage, query: str, **more: Any) -> tuple[Any, ...]:
    return (stage.call("tool_search", {"query": query, **more}), CALLED)


# -- in one response


async def test_the_model_is_shown_a_search_and_then_what_it_found(stage: Stage) -> None:
    answer = await stage.ask(searching(stage, "weather"), OK, tools=TOOLS)

    assert [[offer.name for offer in prompt.tools] for prompt in stage.model.prompts] == [
        ["plain", "tool_search"],
        ["plain", "tool_search", "get_weather"],
    ]
    described = stage.model.prompts[0].tools[1].description
    assert described is not None
    assert "3 tools can be found, among them:\n- crm (2): Customers." in described
    assert kinds(answer) == ["tool_search_call", "tool_search_output", "message"]
    call, output, _ = answer.value["output"]
    assert call.items() >= {"execution": "server", "call_id": None, "status": "completed"}.items()
    assert call["arguments"] == {"query": "weather"}
    assert output.items() >= {"execution": "server", "call_id": None, "status": "completed"}.items()
    assert output["tools"] == [WEATHER]
    *_, asked, told = stage.told
    assert isinstance(asked, FunctionCall)
    assert (asked.name, asked.arguments) == ("tool_search", '{"query":"weather"}')
    assert isinstance(told, FunctionCallOutput)
    assert told.call_id == asked.call_id
    assert "get_weather: The weather of a city." in str(told.output)


async def test_what_is_found_in_a_namespace_keeps_it(stage: Stage) -> None:
    found = (stage.call("crm__note", {"input": "x"}), CALLED)
    answer = await stage.ask(searching(stage, "customers and notes"), found, tools=TOOLS)

    assert answer.value["output"][1]["tools"] == [{**CRM, "tools": [NOTE, FIND]}]
    assert stage.shown == ["plain", "tool_search", "crm__note", "crm__find_customer"]
    assert "crm__note: Takes a note." in stage.told[-1].output
    call = answer.value["output"][2]
    assert (call["type"], call["namespace"], call["input"]) == ("custom_tool_call", "crm", "x")


async def test_a_tool_of_the_servers_own_is_found_and_run(stage: Stage) -> None:
    answer = await stage.ask(
        searching(stage, "lookup"), (stage.call("lookup", {"text": "a"}), CALLED), OK, tools=[LOOKUP, SEARCH]
    )

    assert kinds(answer) == ["tool_search_call", "tool_search_output", "antiphon:scripted_call", "message"]
    assert answer.value["output"][1]["tools"] == [LOOKUP]
    assert stage.shown == ["tool_search", "lookup"]
    assert "- lookup" in stage.told[2].output
    second = await stage.ask(OK, tools=[LOOKUP, SEARCH], input="b", previous_response_id=answer.value["id"])
    assert second.status == 200
    assert stage.shown == ["tool_search", "lookup"]
    await stage.ask(OK, input="c", previous_response_id=second.value["id"])
    assert stage.shown == []  # what this server runs must be declared


async def test_a_tool_of_the_servers_own_that_is_not_found_yet_is_no_call_for_the_client(stage: Stage) -> None:
    early = (stage.call("lookup", {"text": "a"}), CALLED)
    answer = await stage.ask(early, searching(stage, "lookup"), early, OK, tools=[LOOKUP, SEARCH])

    assert kinds(answer) == ["tool_search_call", "tool_search_output", "antiphon:scripted_call", "message"]
    assert "find it first, by 'tool_search'" in str(stage.model.prompts[1].items[-1])


async def test_what_is_found_under_a_grammar_is_written_under_it(stage: Stage) -> None:
    answer = await stage.ask(
        searching(stage, "sum"),
        (stage.call("sum", {"input": "no"}), CALLED),
        (stage.call("sum", {"input": "1+2"}), CALLED),
        tools=[{**SUM, "defer_loading": True}, SEARCH],
    )

    assert answer.value["output"][-1]["input"] == "1+2"
    assert "does not fit the grammar" in stage.told[-1].output


async def test_a_grammar_that_is_none_is_refused_before_it_is_found(stage: Stage) -> None:
    tool = {**NOTE, "format": {"type": "grammar", "syntax": "regex", "definition": "("}}
    answer = await create(stage.url, model="played", tools=[{**CRM, "tools": [tool]}, SEARCH])

    assert answer.refusal == (400, "invalid_grammar", "tools[0].tools[0].format.definition")


async def test_nothing_found_is_said(stage: Stage) -> None:
    answer = await stage.ask(searching(stage, "zebra"), OK, tools=TOOLS)

    assert answer.value["output"][1]["tools"] == []
    assert stage.shown == ["plain", "tool_search"]
    assert "Found nothing" in stage.told[-1].output


@pytest.mark.parametrize("arguments", ["{}", '{"query": ""}', '{"query": "x", "limit": 21}', "no"])
async def test_arguments_that_make_no_search_are_mended(stage: Stage, arguments: str) -> None:
    answer = await stage.ask(
        (stage.call("tool_search", arguments), CALLED), searching(stage, "weather", limit=1), OK, tools=TOOLS
    )

    assert kinds(answer) == ["tool_search_call", "tool_search_output", "message"]
    assert "its arguments are wrong" in stage.model.prompts[1].items[-1].output  # type: ignore[union-attr]


async def test_a_search_beside_other_calls_and_another_search(stage: Stage) -> None:
    turn = (
        stage.call("lookup", {"text": "a"}, key="0"),
        stage.call("tool_search", {"query": "weather"}, key="1"),
        stage.call("tool_search", {"query": "note"}, key="2"),
        CALLED,
    )
    lookup = {"type": "antiphon:scripted", "name": "lookup"}
    answer = await stage.ask(turn, OK, tools=[*TOOLS, lookup])

    assert kinds(answer) == [
        "antiphon:scripted_call",
        *["tool_search_call", "tool_search_output"] * 2,
        "message",
    ]
    outputs = [item for item in stage.told if isinstance(item, FunctionCallOutput)]
    assert [str(item.output).count("get_weather") for item in outputs] == [0, 1, 0]
    assert stage.shown[-2:] == ["get_weather", "crm__note"]


async def test_searches_count_as_tool_calls(stage: Stage) -> None:
    answer = await stage.ask(searching(stage, "weather"), searching(stage, "notes"), OK, tools=TOOLS, max_tool_calls=1)

    assert kinds(answer) == ["tool_search_call", "tool_search_output", "message"]
    assert "max_tool_calls" in stage.told[-1].output


@pytest.mark.parametrize("dialect", ["/v1", "/openresponses/v1"])
async def test_a_stream_tells_both_items_whole(stage: Stage, dialect: str) -> None:
    for turn in (searching(stage, "weather"), OK):
        stage.model.say(*turn)
    url = stage.url.removesuffix("/v1")
    async with streaming(url + dialect.removesuffix("/v1"), model="played", tools=TOOLS) as one:
        await one.head()
        frames = await one.frames()

    assert final(frames)["output"][1]["tools"] == [WEATHER]
    told = [event["type"] for event in events_of(frames) if event.get("output_index") in {0, 1}]
    assert told == ["response.output_item.added", "response.output_item.done"] * 2


# -- in later ones


@pytest.mark.parametrize("tools", [TOOLS, TOOLS[:-1], []], ids=["declared again", "without the search", "undeclared"])
async def test_what_was_found_stays(stage: Stage, tools: list[Any]) -> None:
    first = await stage.ask(searching(stage, "weather"), OK, tools=TOOLS)
    for fields in (
        {"previous_response_id": first.value["id"], "input": "and now?"},
        {"input": [{"role": "user", "content": "hi"}, *first.value["output"], {"role": "user", "content": "now?"}]},
    ):
        answer = await stage.ask((stage.call("get_weather"), CALLED), tools=tools, **fields)

        assert answer.value["output"][0]["name"] == "get_weather"
        assert stage.shown.count("get_weather") == 1
        assert [type(item).__name__ for item in stage.told] == [
            *["Message", "FunctionCall", "FunctionCallOutput", "Message", "Message"],
        ]
        assert "get_weather: The weather" in stage.told[2].output


# -- choices


async def test_a_tool_that_must_be_called_need_not_be_found(stage: Stage) -> None:
    choice = {"type": "function", "name": "get_weather"}
    await stage.ask((stage.call("get_weather"), CALLED), tools=TOOLS, tool_choice=choice)

    assert stage.shown == ["plain", "get_weather", "tool_search"]


async def test_tools_that_are_allowed_by_name_need_not_be_found(stage: Stage) -> None:
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]}
    await stage.ask((stage.call("get_weather"), CALLED), tools=TOOLS, tool_choice=allowed)

    assert stage.shown == ["plain", "get_weather", "tool_search"]
    assert stage.model.prompts[-1].allowed == frozenset({"get_weather"})


async def test_a_namespace_that_is_allowed_may_be_called_once_it_is_found(stage: Stage) -> None:
    named = [{"type": "namespace", "name": "crm"}, SEARCH]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": named}
    await stage.ask(searching(stage, "customer", limit=1), OK, tools=TOOLS, tool_choice=allowed)

    assert [prompt.allowed for prompt in stage.model.prompts] == [
        frozenset({"tool_search"}),
        frozenset({"tool_search", "crm__find_customer"}),
    ]


async def test_a_tool_of_the_servers_own_is_allowed_by_its_type(stage: Stage) -> None:
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": LOOKUP["type"]}, SEARCH]}
    await stage.ask(searching(stage, "lookup"), OK, tools=[LOOKUP, SEARCH], tool_choice=allowed)

    assert stage.model.prompts[-1].allowed == frozenset({"tool_search", "lookup"})


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([SEARCH, {**SEARCH, "execution": "client"}], "tools[1]"),
        ([WEATHER, {**SEARCH, "parameters": {"type": "object"}}], "tools[1].parameters"),
        ([WEATHER, SEARCH, function("tool_search")], "tools[1]"),
        ([WEATHER, WEATHER, SEARCH], "tools[1].name"),
        ([WEATHER, function("get_weather"), SEARCH], "tools[1].name"),
    ],
    ids=["two searches", "parameters", "a name that is taken", "two that wait", "one that waits and one that does not"],
)
async def test_a_search_that_cannot_be_is_refused(stage: Stage, tools: list[Any], param: str) -> None:
    answer = await create(stage.url, model="played", tools=tools)

    assert (answer.status, answer.error["param"]) == (400, param)


async def test_a_search_may_be_described_by_the_request(stage: Stage) -> None:
    await stage.ask(OK, tools=[WEATHER, {**SEARCH, "description": "Look here."}])

    assert str(stage.model.prompts[0].tools[0].description).startswith("Look here.\n\n1 tools can be found")


async def test_where_nothing_waits_there_is_no_search(stage: Stage) -> None:
    answer = await stage.ask(OK, tools=[function("f"), SEARCH])

    assert stage.shown == ["f"]
    assert "antiphon-omitted-tools" not in answer.headers


# -- what fits


def found(query: str, tools: Sequence[Any], limit: int = 5) -> list[str]:
    declared = [Declared(tool, f"tools[{i}]") for i, tool in enumerate(codec.decode_tools(tuple(tools), "tools"))]
    search = toolbox.make([*declared, Declared(ToolSearchTool(), "tools")], {}, 512).search
    assert isinstance(search, Search)
    call = search.lift(codec.encode({"query": query, "limit": limit}).decode())
    return [inner["name"] for tool in search.output(call).tools for inner in tool.get("tools", [tool])]


def named(name: str, description: str = "", **properties: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {key: {"description": text} for key, text in properties.items()}}
    return {**function(name, description=description, defer_loading=True), "parameters": schema}


MANY = [
    named("createInvoice", "Bills a customer.", amount="In euros."),
    named("list_invoices", "What was billed, newest first."),
    named("send_mail", "Sends a message to people.", recipients="Addresses, such as those of an invoice."),
    named("get_weather", "The forecast.", city="Where."),
    named("delete_file", "Removes it for ever."),
    {
        "type": "namespace",
        "name": "calendar",
        "description": "Meetings.",
        "tools": [named("add", "Adds."), named("get")],
    },
]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("create an invoice", ["createInvoice", "list_invoices", "send_mail"]),
        ("INVOICES", ["list_invoices", "createInvoice", "send_mail"]),
        ("delete_file", ["delete_file"]),
        ("please use `calendar__get`.", ["get", "add", "get_weather"]),
        ("city", ["get_weather"]),
        ("cities", ["get_weather"]),
        ("meeting", ["get", "add"]),
        ("euro", ["createInvoice"]),
        ("the of a", []),
        ("voice", []),
    ],
)
def test_the_best_fit_comes_first(query: str, names: list[str]) -> None:
    assert found(query, MANY) == names


def test_no_more_are_found_than_asked_for() -> None:
    assert len(found("invoice", MANY, limit=2)) == 2
    assert len(found("tool", [named(f"tool_{number}") for number in range(30)], limit=20)) == 20


async def test_ten_thousand_tools_are_searched(stage: Stage) -> None:
    tools = [named(f"tool_{number}", f"Does number {number} of many things.") for number in range(9_998)]
    answer = await stage.ask(
        searching(stage, "number 777"), searching(stage, "weather"), OK, tools=[*tools, WEATHER, SEARCH]
    )

    assert answer.value["output"][1]["tools"][0]["name"] == "tool_777"
    assert answer.value["output"][3]["tools"] == [WEATHER]
    wirecheck.openai(answer)
