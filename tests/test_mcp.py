"""MCP servers through the official SDK: what is listed, called and told, in every way to read a response."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from msgspec import structs

from antiphon.config import Settings
from antiphon.core.fold import fold
from tests import wirecheck
from tests.conftest import WAIT_S, changed, serve
from tests.mcpserver import Remote
from tests.rawclient import ask, create, events_of, parsed

ADD = 'call docs__add {"a": 1, "b": 2}'


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    async with Remote().serving() as served:
        yield served


@pytest.fixture
def scripted(scripted: Settings) -> Settings:
    return changed(scripted, fetch={"allow": ("127.0.0.1",)})


def kinds(response: Any) -> list[str]:
    return [item.type for item in response.output]


async def asked(client: openai.AsyncOpenAI, text: Any, *tools: Any, **fields: Any) -> Any:
    return await client.responses.create(model="scripted", input=text, tools=tools, **fields)


# -- one response


async def test_a_model_calls_a_servers_tool_and_hears_what_it_gave(client: openai.AsyncOpenAI, remote: Remote) -> None:
    response = await asked(client, ADD, remote.tool())

    listing, call, _ = response.output
    assert kinds(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert listing.tools[0].name == "add"
    assert listing.tools[0].input_schema["required"] == ["a", "b"]
    assert listing.tools[0].annotations["readOnlyHint"] is True
    assert (call.name, call.server_label, call.status, call.output, call.error) == (
        "add",
        "docs",
        "completed",
        "3",
        None,
    )
    assert json.loads(call.arguments) == {"a": 1, "b": 2}
    assert response.output_text == "got: 3"
    assert remote.calls == ["add 1 2"]


async def test_a_stream_tells_a_listing_and_a_call_as_the_api_does(url: str, remote: Remote) -> None:
    answer = await create(url, stream=True, input=ADD, tools=[remote.tool()])

    wirecheck.openai(answer)
    about = [
        event["type"] for event in events_of(parsed(answer.body)) if "mcp" in event["type"] or "item" in event["type"]
    ]
    assert about[:10] == [
        "response.output_item.added",
        "response.mcp_list_tools.in_progress",
        "response.mcp_list_tools.completed",
        "response.output_item.done",
        "response.output_item.added",
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.completed",
        "response.output_item.done",
    ]


async def test_a_background_response_calls_tools_too(client: openai.AsyncOpenAI, remote: Remote) -> None:
    secret = {"authorization": "tell-nobody", "headers": {"x-team": "blue"}}
    response = await asked(client, ADD, remote.tool(**secret), background=True)
    async with asyncio.timeout(WAIT_S):
        while response.status in ("queued", "in_progress"):
            response = await client.responses.retrieve(response.id)

    assert kinds(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert remote.headers[-1]["authorization"] == "Bearer tell-nobody"
    assert remote.headers[-1]["x-team"] == "blue"


async def test_several_servers_and_calls_are_used_side_by_side(client: openai.AsyncOpenAI, remote: Remote) -> None:
    async with Remote().serving() as other:
        script = f'{ADD} | call more__add {{"a": 3, "b": 4}} | call docs__erase {{"name": "x"}}'
        response = await asked(client, script, remote.tool(), other.tool(server_label="more"))

    assert kinds(response) == ["mcp_list_tools"] * 2 + ["mcp_call"] * 3 + ["message"]
    assert response.output_text == "got: 3, 7, erased x"


async def test_a_servers_tools_stand_beside_the_clients_own(client: openai.AsyncOpenAI, remote: Remote) -> None:
    function: Any = {"type": "function", "name": "f", "parameters": {}, "strict": False}
    response = await asked(client, f"{ADD} | call f {{}}", remote.tool(), function)

    assert kinds(response) == ["mcp_list_tools", "function_call", "mcp_call"]
    output: Any = {"type": "function_call_output", "call_id": response.output[1].call_id, "output": "yes"}
    response = await asked(client, [output], remote.tool(), function, previous_response_id=response.id)
    assert response.output_text == "got: 3, yes"


async def test_open_responses_shows_them_under_its_prefix(url: str, remote: Remote) -> None:
    base = url.removesuffix("/v1") + "/openresponses/v1"
    tool = remote.tool(type="antiphon:mcp")
    fields = {"model": "scripted", "input": ADD, "tools": [tool]}
    answer = await ask(url, "POST", "/openresponses/v1/responses", fields)

    response = wirecheck.openresponses(answer)
    shown = [item["type"] for item in response["output"]]
    assert shown == ["antiphon:mcp_list_tools", "antiphon:mcp_call", "message"], base
    assert response["tools"][0]["type"] == "antiphon:mcp"


# -- lists


async def test_a_list_in_the_conversation_is_not_made_again(client: openai.AsyncOpenAI, remote: Remote) -> None:
    first = await asked(client, ADD, remote.tool())
    second = await asked(client, ADD, remote.tool(), previous_response_id=first.id)

    assert kinds(second) == ["mcp_call", "message"]
    kept = [*(item.to_dict() for item in first.output), {"role": "user", "content": ADD}]
    third = await asked(client, kept, remote.tool(), store=False)
    assert kinds(third) == ["mcp_call", "message"]
    conversation = (await client.conversations.create()).id
    turns = [kinds(await asked(client, ADD, remote.tool(), conversation=conversation)) for _ in range(2)]
    assert turns == [["mcp_list_tools", "mcp_call", "message"], ["mcp_call", "message"]]


async def test_another_conversation_gets_the_list_without_asking_the_server(
    client: openai.AsyncOpenAI, remote: Remote
) -> None:
    for _ in range(3):
        assert kinds(await asked(client, "say hi", remote.tool())) == ["mcp_list_tools", "message"]

    assert remote.listings() == 1
    await asked(client, "say hi", remote.tool(authorization="another"))
    assert remote.listings() == 2


@pytest.mark.parametrize(
    ("allowed", "named"),
    [
        (["add"], ["docs__add"]),
        ({"tool_names": ["add", "erase"], "read_only": True}, ["docs__add"]),
        ({"tool_names": ["add", "erase"], "read_only": False}, ["docs__erase"]),
        ({"read_only": True, "tool_names": None}, ["docs__add"]),
        ([], []),
    ],
)
async def test_only_allowed_tools_are_shown(
    client: openai.AsyncOpenAI, remote: Remote, allowed: Any, named: list[str]
) -> None:
    response = await asked(client, "tell tools", remote.tool(allowed_tools=allowed))

    assert [tool["name"] for tool in json.loads(response.output_text)] == named


async def test_a_model_is_shown_names_that_it_can_call(client: openai.AsyncOpenAI, remote: Remote) -> None:
    response = await asked(client, "tell tools", remote.tool(server_description="All about files."))

    shown = json.loads(response.output_text)
    [odd] = [tool["name"] for tool in shown if "odd" in tool["name"]]
    assert len(odd) == 64
    assert "All about files." in shown[0]["description"]
    assert "All about files." not in (shown[1]["description"] or "")
    response = await asked(client, f"call {odd} {{}}", remote.tool())
    assert response.output_text == "got: odd"
    assert response.output[1].name.startswith("odd.name/with a")


# -- choices and limits


async def test_a_choice_of_a_server_or_of_its_tool_is_kept(client: openai.AsyncOpenAI, remote: Remote) -> None:
    for choice, told in (
        ({"type": "mcp", "server_label": "docs", "name": "erase"}, {"name": "docs__erase"}),
        ({"type": "mcp", "server_label": "docs"}, "required"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "docs"}]}, "auto"),
    ):
        response = await asked(
            client, "tell tool_choice", remote.tool(allowed_tools=["add", "erase"]), tool_choice=choice
        )
        assert json.loads(response.output_text) == told
        response = await asked(
            client, "tell tool_choice", remote.tool(), tool_choice=choice, previous_response_id=response.id
        )
        assert json.loads(response.output_text) == told
    for choice in ({"type": "mcp", "server_label": "other"}, {"type": "mcp", "server_label": "docs", "name": "none"}):
        with pytest.raises(openai.BadRequestError) as refused:
            await asked(client, "say hi", remote.tool(), tool_choice=choice)
        assert refused.value.param == "tool_choice"


async def test_calls_beyond_max_tool_calls_are_not_made_and_lists_are_no_calls(
    client: openai.AsyncOpenAI, remote: Remote
) -> None:
    response = await asked(client, f"{ADD} | {ADD} => say done", remote.tool(), max_tool_calls=1)

    assert kinds(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert remote.calls == ["add 1 2"]


# -- failures


async def test_failures_come_in_three_kinds_and_the_model_hears_of_them(
    client: openai.AsyncOpenAI, remote: Remote
) -> None:
    response = await asked(client, "call docs__fail {} | call docs__refuse {}", remote.tool())

    _, failed, refused, _ = response.output
    assert failed.status == refused.status == "failed"
    assert failed.error.type == "mcp_tool_execution_error"
    assert "the disk is full" in failed.error.content[0]["text"]
    assert (refused.error.type, refused.error.code, refused.error.message) == (
        "mcp_protocol_error",
        -32050,
        "not today",
    )
    assert "the disk is full" in response.output_text
    assert "not today" in response.output_text
    remote.refuses = 503
    response = await asked(client, ADD, remote.tool(), previous_response_id=response.id)
    assert (response.output[0].error.type, response.output[0].error.code) == ("http_error", 503)
    assert remote.methods.count("tools/call") == 3


@pytest.mark.parametrize(
    ("rest", "error"),
    [
        (
            '"error": {"code": -32000, "message": "no such ticket"}',
            {"type": "mcp_protocol_error", "code": -32000, "message": "no such ticket"},
        ),
        (
            '"result": "none"',
            {"type": "http_error", "code": 502, "message": "The server's answer is not what MCP has for it."},
        ),
    ],
)
async def test_a_servers_own_word_is_told_and_the_sdks_is_not(
    client: openai.AsyncOpenAI, remote: Remote, rest: str, error: dict[str, Any]
) -> None:
    remote.answers["tools/call"] = rest
    response = await asked(client, ADD, remote.tool())

    assert response.output[1].error.to_dict() == error


async def test_what_is_wrong_with_a_list_is_told_by_its_place(url: str, remote: Remote) -> None:
    remote.answers["tools/list"] = (
        '"result": {"resultType": "complete", "ttlMs": 0, "cacheScope": "private",'
        ' "tools": [{"name": "a", "inputSchema": {"type": "object"}}, {"name": "b", "inputSchema": 7}]}'
    )
    answer = await create(url, input=ADD, tools=[remote.tool()])

    assert (answer.status, answer.error["type"]) == (424, "external_connector_error")
    assert "is not what MCP has for it: tools.1.inputSchema." in answer.error["message"]


async def test_a_list_that_takes_too_long_fails_the_response_as_the_servers_fault(
    scripted: Settings, remote: Remote
) -> None:
    remote.answers["tools/list"] = ""
    async with serve(changed(scripted, limits={"tool_timeout_s": 0.5})) as url:
        answer = await create(url, input=ADD, tools=[remote.tool()])

    assert (answer.status, answer.error["type"]) == (424, "external_connector_error")


async def test_failures_stream_as_failed_calls(url: str, remote: Remote) -> None:
    answer = await create(url, stream=True, input="call docs__fail {}", tools=[remote.tool()])

    wirecheck.openai(answer)
    assert "response.mcp_call.failed" in [event["type"] for event in events_of(parsed(answer.body))]


async def test_a_list_that_cannot_be_had_fails_the_response(
    client: openai.AsyncOpenAI, url: str, remote: Remote
) -> None:
    remote.refuses = 500
    with pytest.raises(openai.APIStatusError) as failed:
        await asked(client, ADD, remote.tool())

    error = failed.value
    assert (error.status_code, error.type, error.code, error.param) == (
        424,
        "external_connector_error",
        "http_error",
        "tools",
    )
    assert "Error retrieving tool list from MCP server: 'docs'." in error.message
    assert "500" in error.message
    answer = await create(url, stream=True, input=ADD, tools=[remote.tool()])
    wirecheck.openai(answer)
    events = events_of(parsed(answer.body))
    assert [event["type"] for event in events[-3:]] == [
        "response.mcp_list_tools.failed",
        "response.output_item.done",
        "response.failed",
    ]
    assert "Error retrieving tool list" in events[-2]["item"]["error"]


async def test_a_response_that_failed_at_a_list_can_be_continued(
    client: openai.AsyncOpenAI, url: str, remote: Remote
) -> None:
    remote.refuses = 500
    answer = await create(url, stream=True, input=ADD, tools=[remote.tool()])
    failed = fold(events_of(parsed(answer.body)))
    remote.refuses = None

    response = await asked(client, ADD, remote.tool(), previous_response_id=failed["id"])
    assert kinds(response) == ["mcp_list_tools", "mcp_call", "message"]


async def test_what_is_no_text_is_named_and_of_what_is_long_the_model_is_told_a_part(
    scripted: Settings, remote: Remote
) -> None:
    async with serve(changed(scripted, limits={"tool_output_chars_max": 100})) as url:
        script = 'call docs__picture {} | call docs__long {"chars": 500}'
        answer = await create(url, input=script, tools=[remote.tool()])

    _, picture, long, told = answer.value["output"]
    assert picture["output"] == "[image: image/png, 9 bytes, which cannot be shown here]"
    assert long["output"] == "x" * 500
    assert told["content"][0]["text"].split("x", 1)[1].startswith("x" * 99 + "\n[The rest of this output is left out")


async def test_wrong_arguments_are_told_to_the_model(client: openai.AsyncOpenAI, remote: Remote) -> None:
    response = await asked(client, "call docs__add [1] => say done", remote.tool())

    assert kinds(response) == ["mcp_list_tools", "message"]
    assert not remote.calls


# -- cancellation


@pytest.mark.parametrize("era", ["modern", "legacy", "sse"])
async def test_a_cancelled_response_cancels_the_call_at_its_server(client: openai.AsyncOpenAI, era: str) -> None:
    async with Remote(era).serving() as remote:
        response = await asked(client, "call docs__wait {}", remote.tool(), background=True)
        async with asyncio.timeout(WAIT_S):
            await remote.begun.wait()
            await client.responses.cancel(response.id)
            await remote.cancelled.wait()

        response = await client.responses.retrieve(response.id)
        assert response.status == "cancelled"
        assert response.output[1].to_dict()["status"] == "incomplete"
        again = await asked(client, ADD, remote.tool())
        assert again.output_text == "got: 3"


# -- declarations


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"server_url": "ftp://x/mcp"}, "tools[0].server_url"),
        ({"server_url": "http://u:p@x/mcp"}, "tools[0].server_url"),
        ({"server_url": None}, "tools[0].server_url"),
        ({"server_label": "1 no"}, "tools[0].server_label"),
        ({"server_label": None}, "tools[0].server_label"),
        ({"connector_id": "connector_gmail"}, "tools[0].connector_id"),
        ({"tunnel_id": "t"}, "tools[0].tunnel_id"),
        ({"headers": {"Host": "x"}}, "tools[0].headers"),
        ({"headers": {"x": "a\r\nb: c"}}, "tools[0].headers"),
        ({"headers": {"x y": "a"}}, "tools[0].headers"),
        ({"headers": {"x": 1}}, "tools[0].headers"),
        ({"authorization": "a\nb"}, "tools[0].authorization"),
        ({"authorization": "a", "headers": {"Authorization": "b"}}, "tools[0].authorization"),
        ({"require_approval": "sometimes"}, "tools[0].require_approval"),
        ({"allowed_tools": 1}, "tools[0].allowed_tools"),
        ({"allowed_callers": ["programmatic"]}, "tools[0].allowed_callers"),
    ],
)
async def test_a_wrong_declaration_is_refused_by_name(
    client: openai.AsyncOpenAI, remote: Remote, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await asked(client, "say hi", remote.tool(**fields))

    assert refused.value.param == param
    assert not remote.methods


async def test_two_servers_of_one_label_are_refused(client: openai.AsyncOpenAI, remote: Remote) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await asked(client, "say hi", remote.tool(), remote.tool())

    assert refused.value.param == "tools[1].server_label"


# -- any model


async def test_the_embedded_model_calls_a_servers_tool_under_a_grammar(scripted: Settings, remote: Remote) -> None:
    async with serve(structs.replace(scripted, models=())) as url, asyncio.timeout(WAIT_S):
        answer = await create(
            url,
            model="antiphon-tiny",
            input="Add 1 and 2.",
            tools=[remote.tool(allowed_tools=["add"])],
            tool_choice="required",
            max_output_tokens=200,
        )

    listing, call = answer.value["output"][:2]
    assert (listing["type"], call["type"], call["status"]) == ("mcp_list_tools", "mcp_call", "completed")
    given = json.loads(call["arguments"])
    assert call["output"] == str(given["a"] + given["b"])
