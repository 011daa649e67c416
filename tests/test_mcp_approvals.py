"""Calls of MCP tools that a client must approve: asked about, answered, made or not, wherever the items lie."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
from agents import Agent, HostedMCPTool, MCPToolApprovalRequest, OpenAIResponsesModel, RunConfig, Runner

from antiphon.config import Settings
from tests import wirecheck
from tests.conftest import WAIT_S, changed, serve
from tests.mcpserver import Remote
from tests.rawclient import ask, create

ERASE = 'call docs__erase {"name": "x"}'


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    async with Remote().serving() as served:
        yield served


@pytest.fixture
def scripted(scripted: Settings) -> Settings:
    return changed(scripted, fetch={"allow": ("127.0.0.1",)})


def sdk(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=WAIT_S)


def kinds(response: Any) -> list[str]:
    return [item.type for item in response.output]


async def asked(client: openai.AsyncOpenAI, given: Any, *tools: Any, **fields: Any) -> Any:
    return await client.responses.create(model="scripted", input=given, tools=tools, **fields)


def answer(response: Any, *, approve: bool, **fields: Any) -> dict[str, Any]:
    [request_id] = [item.id for item in response.output if item.type == "mcp_approval_request"]
    return {"type": "mcp_approval_response", "approval_request_id": request_id, "approve": approve} | fields


@pytest.fixture
def tool(remote: Remote) -> dict[str, Any]:
    return remote.tool(require_approval="always")


async def test_a_call_is_asked_about_and_the_response_completes(
    client: openai.AsyncOpenAI, remote: Remote, tool: Any
) -> None:
    response = await asked(client, ERASE, tool)

    assert response.status == "completed"
    assert kinds(response) == ["mcp_list_tools", "mcp_approval_request"]
    request = response.output[1]
    assert (request.name, request.server_label, request.arguments) == ("erase", "docs", '{"name": "x"}')
    assert not remote.calls


@pytest.mark.parametrize("mode", ["wait", "stream", "background"])
async def test_an_approved_call_is_made_before_the_model_goes_on(
    client: openai.AsyncOpenAI, url: str, remote: Remote, tool: Any, mode: str
) -> None:
    first = await asked(client, ERASE, tool)
    fields = {"input": [answer(first, approve=True)], "previous_response_id": first.id, "tools": [tool]}
    if mode == "stream":
        response = wirecheck.openai(await create(url, stream=True, **fields))
    else:
        response = (await create(url, background=mode == "background", **fields)).value
    while response["status"] in ("queued", "in_progress"):
        response = (await ask(url, "GET", f"/v1/responses/{response['id']}")).value

    call, message = response["output"]
    assert (call["type"], call["status"], call["output"]) == ("mcp_call", "completed", "erased x")
    assert call["approval_request_id"] == first.output[1].id
    assert message["content"][0]["text"] == "got: erased x"
    assert remote.calls == ["erase x"]


async def test_a_denied_call_is_not_made_and_the_model_hears_why(
    client: openai.AsyncOpenAI, remote: Remote, tool: Any
) -> None:
    first = await asked(client, ERASE, tool)
    said = answer(first, approve=False, reason="I need that file.")
    response = await asked(client, [said], tool, previous_response_id=first.id)

    assert kinds(response) == ["message"]
    assert "did not approve" in response.output_text
    assert "I need that file." in response.output_text
    assert not remote.calls


async def test_an_approval_works_in_a_conversation_and_in_what_the_client_kept(
    client: openai.AsyncOpenAI, remote: Remote, tool: Any
) -> None:
    conversation = (await client.conversations.create()).id
    first = await asked(client, ERASE, tool, conversation=conversation)
    response = await asked(client, [answer(first, approve=True)], tool, conversation=conversation)
    assert kinds(response) == ["mcp_call", "message"]

    first = await asked(client, ERASE, tool, store=False)
    kept = [{"role": "user", "content": ERASE}, *(item.to_dict() for item in first.output)]
    response = await asked(client, [*kept, answer(first, approve=True)], tool, store=False)
    assert kinds(response) == ["mcp_call", "message"]
    assert remote.calls == ["erase x"] * 2


async def test_an_approval_survives_a_restart(scripted: Settings, remote: Remote, tool: Any) -> None:
    async with serve(scripted) as url, sdk(url) as client:
        first = await asked(client, ERASE, tool)
    async with serve(scripted) as url, sdk(url) as client:
        response = await asked(client, [answer(first, approve=True)], tool, previous_response_id=first.id)
        assert response.output_text == "got: erased x"
        again = await asked(client, "say bye", tool, previous_response_id=response.id)
        assert kinds(again) == ["message"]

    assert remote.calls == ["erase x"]


async def test_several_calls_are_asked_about_and_answered_together(
    client: openai.AsyncOpenAI, remote: Remote, tool: Any
) -> None:
    first = await asked(client, f'{ERASE} | call docs__erase {{"name": "y"}}', tool)
    requests = [item.id for item in first.output if item.type == "mcp_approval_request"]
    answers = [
        {"type": "mcp_approval_response", "approval_request_id": one, "approve": approve}
        for one, approve in zip(requests, (True, False), strict=True)
    ]
    response = await asked(client, answers, tool, previous_response_id=first.id)

    assert kinds(response) == ["mcp_call", "message"]
    assert remote.calls == ["erase x"]


Wrong = Callable[[Any, Any], list[Any]]


@pytest.mark.parametrize(
    ("given", "declares", "param"),
    [
        (lambda first, _: [answer(first, approve=True)] * 2, True, "input"),
        (lambda _, __: [{"type": "mcp_approval_response", "approval_request_id": "x", "approve": True}], True, "input"),
        (lambda first, _: [answer(first, approve=True)], False, "tools"),
    ],
)
async def test_an_answer_that_cannot_be_carried_out_is_refused(
    client: openai.AsyncOpenAI, remote: Remote, tool: Any, given: Wrong, declares: bool, param: str
) -> None:
    first = await asked(client, ERASE, tool)
    with pytest.raises(openai.BadRequestError) as refused:
        await asked(client, given(first, None), *[tool] * declares, previous_response_id=first.id)

    assert refused.value.param == param
    assert not remote.calls


async def test_an_answered_request_cannot_be_answered_again(
    client: openai.AsyncOpenAI, remote: Remote, tool: Any
) -> None:
    first = await asked(client, ERASE, tool)
    said = answer(first, approve=True)
    second = await asked(client, [said], tool, previous_response_id=first.id)
    with pytest.raises(openai.BadRequestError):
        await asked(client, [said], tool, previous_response_id=second.id)

    assert remote.calls == ["erase x"]


@pytest.mark.parametrize(
    ("rule", "asks"),
    [
        ("never", False),
        ({"never": {"tool_names": ["erase"]}}, False),
        ({"never": {"tool_names": ["add"]}}, True),
        ({"never": {"read_only": True}}, True),
        ({"never": {"read_only": False}}, False),
        ({"never": {}}, True),
        ({"always": {"tool_names": ["erase"]}, "never": {"read_only": False}}, True),
        ({"always": None, "never": {"tool_names": ["erase"], "read_only": None}}, False),
    ],
)
async def test_rules_say_which_calls_are_asked_about(
    client: openai.AsyncOpenAI, remote: Remote, rule: Any, asks: bool
) -> None:
    response = await asked(client, ERASE, remote.tool(require_approval=rule))

    assert ("mcp_approval_request" in kinds(response)) is asks


async def test_without_a_rule_every_call_is_asked_about(client: openai.AsyncOpenAI, remote: Remote) -> None:
    tool = remote.tool()
    del tool["require_approval"]

    assert "mcp_approval_request" in kinds(await asked(client, 'call docs__add {"a": 1, "b": 2}', tool))


async def test_a_tool_that_is_no_longer_allowed_is_not_called(
    client: openai.AsyncOpenAI, remote: Remote, tool: Any
) -> None:
    first = await asked(client, ERASE, tool)
    with pytest.raises(openai.BadRequestError) as refused:
        await asked(
            client, [answer(first, approve=True)], tool | {"allowed_tools": ["add"]}, previous_response_id=first.id
        )

    assert refused.value.param == "tools"


async def test_approvals_go_through_open_responses(url: str, remote: Remote, tool: Any) -> None:
    path, tool = "/openresponses/v1/responses", tool | {"type": "antiphon:mcp"}
    given = [{"type": "message", "role": "user", "content": ERASE}]
    first = wirecheck.openresponses(
        await ask(url, "POST", path, {"model": "scripted", "input": given, "tools": [tool]})
    )
    said = {
        "type": "antiphon:mcp_approval_response",
        "approval_request_id": first["output"][1]["id"],
        "approve": True,
    }
    fields = {"model": "scripted", "input": [*given, *first["output"], said], "tools": [tool], "store": False}
    response = wirecheck.openresponses(await ask(url, "POST", path, fields))

    assert [item["type"] for item in response["output"]] == ["antiphon:mcp_call", "message"]


@pytest.mark.parametrize("approve", [True, False])
async def test_the_agents_sdk_approves_and_denies(
    client: openai.AsyncOpenAI, remote: Remote, tool: Any, approve: bool
) -> None:
    seen: list[str] = []

    def decide(asked: MCPToolApprovalRequest) -> Any:
        seen.append(asked.data.name)
        return {"approve": approve} | ({} if approve else {"reason": "no"})

    hosted = HostedMCPTool(tool_config=tool, on_approval_request=decide)
    agent = Agent(name="clerk", model=OpenAIResponsesModel("scripted", client), tools=[hosted])
    result = await Runner.run(agent, ERASE, run_config=RunConfig(tracing_disabled=True))

    assert seen == ["erase"]
    assert remote.calls == ["erase x"] * approve
    assert ("erased x" if approve else "did not approve") in result.final_output
