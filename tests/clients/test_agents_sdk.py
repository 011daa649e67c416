"""The OpenAI Agents SDK against the scripted model: runs, streams, function tools, handoffs and what is remembered."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from agents import (
    Agent,
    ApplyPatchOperation,
    ApplyPatchResult,
    ApplyPatchTool,
    CustomTool,
    FunctionTool,
    HandoffOutputItem,
    MaxTurnsExceeded,
    MessageOutputItem,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    ReasoningItem,
    RunConfig,
    Runner,
    RunResultStreaming,
    ShellCallOutcome,
    ShellCommandOutput,
    ShellCommandRequest,
    ShellResult,
    ShellTool,
    SQLiteSession,
    ToolCallItem,
    ToolCallOutputItem,
    apply_diff,
    function_tool,
)
from agents.tool_context import ToolContext
from openai.types.responses import ResponseTextDeltaEvent
from openai.types.shared import Reasoning
from pydantic import BaseModel

from tests.chatserver import sdk
from tests.clients.conftest import MODEL

QUIET = RunConfig(tracing_disabled=True)
"""Traces would go to their maker."""
ASK_WEATHER = 'call get_weather {"location": "Paris"}'

pytestmark = pytest.mark.asyncio(loop_scope="module")


@function_tool
def get_weather(location: str) -> str:
    """The weather of a place."""
    return f"sunny in {location}"


class City(BaseModel):
    name: str
    people: int


class Editor:
    """Keeps files in memory."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def create_file(self, operation: ApplyPatchOperation) -> str:
        self.files[operation.path] = apply_diff("", operation.diff or "", "create")
        return "created"

    def update_file(self, operation: ApplyPatchOperation) -> str:
        self.files[operation.path] = apply_diff(self.files[operation.path], operation.diff or "")
        return "updated"

    def delete_file(self, operation: ApplyPatchOperation) -> ApplyPatchResult:
        return ApplyPatchResult(status="failed", output=f"there is no {operation.path}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(url: str) -> AsyncIterator[OpenAIResponsesModel]:
    async with sdk(url) as client:
        yield OpenAIResponsesModel(MODEL, client)


@pytest.fixture
def agent(model: OpenAIResponsesModel) -> Agent:
    tools: list[FunctionTool] = [get_weather]
    return Agent(name="clerk", instructions="Be kind.", model=model, tools=[*tools])


async def streamed_text(run: RunResultStreaming) -> str:
    return "".join(
        [
            event.data.delta
            async for event in run.stream_events()
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
        ]
    )


async def test_an_agent_without_tools_answers(model: OpenAIResponsesModel) -> None:
    result = await Runner.run(Agent(name="clerk", model=model), "say hello there", run_config=QUIET)

    assert result.final_output == "hello there"
    assert [type(item) for item in result.new_items] == [MessageOutputItem]
    [response] = result.raw_responses
    assert response.response_id is not None
    assert response.response_id.startswith("resp_")
    usage = result.context_wrapper.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens, usage.total_tokens) == (1, 3, 2, 5)


async def test_a_stream_tells_the_final_output(agent: Agent) -> None:
    run = Runner.run_streamed(agent, "say hello there, you", run_config=QUIET)

    assert await streamed_text(run) == "hello there, you"
    assert run.final_output == "hello there, you"
    assert run.context_wrapper.usage.total_tokens == 7


@pytest.mark.parametrize("script", [ASK_WEATHER, f"think hm | say first | {ASK_WEATHER}"])
async def test_a_tool_loop_runs_to_its_end(agent: Agent, script: str) -> None:
    result = await Runner.run(agent, script, run_config=QUIET)

    assert result.final_output == "got: sunny in Paris"
    [output] = [item for item in result.new_items if isinstance(item, ToolCallOutputItem)]
    assert output.output == "sunny in Paris"
    assert result.context_wrapper.usage.requests == 2


async def test_a_streamed_tool_loop_runs_to_its_end_with_its_thought(agent: Agent) -> None:
    agent = agent.clone(model_settings=ModelSettings(reasoning=Reasoning(summary="auto")))
    run = Runner.run_streamed(agent, f"think let me see | {ASK_WEATHER}", run_config=QUIET)

    assert await streamed_text(run) == "got: sunny in Paris"
    kinds = [type(item) for item in run.new_items]
    assert kinds == [ReasoningItem, ToolCallItem, ToolCallOutputItem, MessageOutputItem]
    [thought] = [item.raw_item for item in run.new_items if isinstance(item, ReasoningItem)]
    assert [part.text for part in thought.summary] == ["let me see"]


async def test_calls_over_several_turns_are_all_answered(agent: Agent) -> None:
    script = f'{ASK_WEATHER} | call get_weather {{"location": "Rome"}} => {ASK_WEATHER} => say done'

    result = await Runner.run(agent, script, run_config=QUIET)

    assert result.final_output == "done"
    outputs = [item.output for item in result.new_items if isinstance(item, ToolCallOutputItem)]
    assert outputs == ["sunny in Paris", "sunny in Rome", "sunny in Paris"]
    assert len(result.raw_responses) == 3


async def test_turns_are_limited_by_the_client(agent: Agent) -> None:
    with pytest.raises(MaxTurnsExceeded):
        await Runner.run(agent, f"{ASK_WEATHER} => {ASK_WEATHER} => say done", max_turns=2, run_config=QUIET)


async def test_a_handoff_reaches_the_other_agent(agent: Agent, model: OpenAIResponsesModel) -> None:
    poet = Agent(name="poet", handoff_description="Writes poems", model=model)
    clerk = agent.clone(handoffs=[poet])

    result = await Runner.run(clerk, "call transfer_to_poet {} => say roses are red", run_config=QUIET)

    assert result.last_agent.name == "poet"
    assert result.final_output == "roses are red"
    [handoff] = [item for item in result.new_items if isinstance(item, HandoffOutputItem)]
    assert (handoff.source_agent.name, handoff.target_agent.name) == ("clerk", "poet")


async def test_an_agent_may_be_another_ones_tool(agent: Agent, model: OpenAIResponsesModel) -> None:
    poet = Agent(name="poet", model=model).as_tool("write", "Writes a poem")
    script = 'call write {"input": "say roses are red"}'

    result = await Runner.run(agent.clone(tools=[poet]), script, run_config=QUIET)

    assert result.final_output == "got: roses are red"


async def test_a_conversation_goes_on_from_the_previous_response(agent: Agent) -> None:
    first = await Runner.run(agent, ASK_WEATHER, run_config=QUIET)
    second = await Runner.run(agent, "say bye", previous_response_id=first.last_response_id, run_config=QUIET)

    assert second.final_output == "bye"
    assert second.context_wrapper.usage.input_tokens == 12


async def test_a_tool_loop_sends_only_what_is_new_where_the_server_remembers(agent: Agent) -> None:
    run = Runner.run_streamed(agent, f"{ASK_WEATHER} => say done", auto_previous_response_id=True, run_config=QUIET)

    assert await streamed_text(run) == "done"


async def test_a_conversation_goes_on_from_its_items(agent: Agent) -> None:
    first = await Runner.run(agent, f"think hm | say so | {ASK_WEATHER}", run_config=QUIET)
    again = [*first.to_input_list(), {"role": "user", "content": "say bye"}]

    second = await Runner.run(agent, again, run_config=QUIET)  # type: ignore[arg-type] # a plain dictionary is meant

    assert second.final_output == "bye"


async def test_a_session_of_the_client_is_sent_back_as_items(agent: Agent) -> None:
    session = SQLiteSession("one")
    try:
        await Runner.run(agent, f"think hm | {ASK_WEATHER}", session=session, run_config=QUIET)
        run = Runner.run_streamed(agent, "say bye", session=session, run_config=QUIET)

        assert await streamed_text(run) == "bye"
        assert len(await session.get_items()) == 7
    finally:
        session.close()


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_session_may_be_a_conversation_of_the_server(agent: Agent, url: str, is_streamed: bool) -> None:
    async with sdk(url) as client:
        session = OpenAIConversationsSession(openai_client=client)
        await Runner.run(agent, f"think hm | {ASK_WEATHER}", session=session, run_config=QUIET)
        if is_streamed:
            text = await streamed_text(Runner.run_streamed(agent, "say bye", session=session, run_config=QUIET))
        else:
            text = (await Runner.run(agent, "say bye", session=session, run_config=QUIET)).final_output
        items = await session.get_items()
        kinds = [item["type"] for item in items]

        assert text == "bye"
        assert kinds == ["message", "reasoning", "function_call", "function_call_output", "message"] + ["message"] * 2
        assert await session.pop_item() == items[-1]
        assert await session.get_items(limit=2) == items[-3:-1]
        conversation = session.session_id
        await session.clear_session()
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(conversation)


async def test_runs_go_on_in_a_conversation(agent: Agent, url: str) -> None:
    async with sdk(url) as client:
        conversation = (await client.conversations.create()).id
        await Runner.run(agent, f"{ASK_WEATHER} => say done", conversation_id=conversation, run_config=QUIET)
        run = Runner.run_streamed(agent, "say bye", conversation_id=conversation, run_config=QUIET)

        assert await streamed_text(run) == "bye"
        kinds = [item.type async for item in client.conversations.items.list(conversation, order="asc")]
        assert kinds == ["message", "function_call", "function_call_output", "message", "message", "message"]


async def test_nothing_is_stored_where_the_client_asks_for_it(agent: Agent, url: str) -> None:
    agent = agent.clone(model_settings=ModelSettings(store=False))
    result = await Runner.run(agent, ASK_WEATHER, run_config=QUIET)

    assert result.final_output == "got: sunny in Paris"
    async with sdk(url) as client:
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(str(result.last_response_id))


async def test_a_required_call_is_made(agent: Agent) -> None:
    agent = agent.clone(model_settings=ModelSettings(tool_choice="get_weather"), tool_use_behavior="stop_on_first_tool")

    result = await Runner.run(agent.clone(tools=[ping]), "hello", run_config=QUIET)

    assert result.final_output == "pong"


@function_tool(name_override="get_weather")
def ping() -> str:
    """Needs no argument, which the scripted model gives where a call is forced."""
    return "pong"


async def test_an_output_type_is_asked_for_by_its_schema(agent: Agent) -> None:
    script = 'call get_weather {"location": "Paris"} => say {"name": "Paris", "people": 2}'
    agent = agent.clone(output_type=City)

    result = await Runner.run(agent, script, run_config=QUIET)
    run = Runner.run_streamed(agent, script, run_config=QUIET)

    assert result.final_output == City(name="Paris", people=2)
    assert await streamed_text(run) == '{"name": "Paris", "people": 2}'
    assert run.final_output == City(name="Paris", people=2)


async def test_a_custom_tool_gets_its_input_as_it_is(agent: Agent) -> None:
    asked: list[str] = []

    async def answer(context: ToolContext[Any], text: str) -> str:
        asked.append(text)
        return "one row"

    grammar = {"type": "grammar", "syntax": "regex", "definition": r"select \d+"}
    sql = CustomTool(name="sql", description="Asks", on_invoke_tool=answer, format=grammar)

    run = Runner.run_streamed(agent.clone(tools=[sql]), 'call sql {"input": "select 1"}', run_config=QUIET)

    assert await streamed_text(run) == "got: one row"
    assert asked == ["select 1"]


async def test_a_shell_runs_on_the_client(agent: Agent) -> None:
    def execute(request: ShellCommandRequest) -> ShellResult:
        assert request.data.action.timeout_ms == 1000
        said = " and ".join(request.data.action.commands)
        return ShellResult([ShellCommandOutput(stdout=said, outcome=ShellCallOutcome("exit", exit_code=0))])

    script = 'call shell {"commands": ["ls", "pwd"], "timeout_ms": 1000}'
    result = await Runner.run(agent.clone(tools=[ShellTool(execute)]), script, run_config=QUIET)

    assert "ls and pwd" in result.final_output
    first, _ = result.raw_responses
    assert [item.type for item in first.output] == ["shell_call"]


async def test_a_patch_is_applied_by_the_client(agent: Agent) -> None:
    editor = Editor()
    script = "".join(
        [
            'call apply_patch {"operation": {"type": "create_file", "path": "a.txt", "diff": "+one\\n+two"}} => ',
            'call apply_patch {"operation": {"type": "update_file", "path": "a.txt", "diff": "@@\\n one\\n-two"}} => ',
            'call apply_patch {"operation": {"type": "delete_file", "path": "b.txt"}}',
        ]
    )

    run = Runner.run_streamed(agent.clone(tools=[ApplyPatchTool(editor)]), script, run_config=QUIET)

    assert await streamed_text(run) == "got: completed: created, completed: updated, failed: there is no b.txt"
    assert editor.files == {"a.txt": "one"}


async def test_an_unknown_model_is_an_error_of_the_sdk_beneath(agent: Agent, url: str) -> None:
    async with sdk(url) as client:
        lost = agent.clone(model=OpenAIResponsesModel("gpt-99", client))
        with pytest.raises(openai.BadRequestError, match="gpt-99"):
            await Runner.run(lost, "hello", run_config=QUIET)
        with pytest.raises(openai.BadRequestError, match="gpt-99"):
            await streamed_text(Runner.run_streamed(lost, "hello", run_config=QUIET))
