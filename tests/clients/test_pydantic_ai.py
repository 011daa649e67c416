"""Pydantic AI against the scripted model, by its Responses model: answers, streams, tools, typed output and memory."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    ModelHTTPError,
    ModelResponse,
    NativeOutput,
    ThinkingPart,
    ToolCallPart,
    ToolOutput,
    ToolReturnPart,
    UsageLimitExceeded,
    UsageLimits,
)
from pydantic_ai.exceptions import ModelServerError
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

from tests.chatserver import sdk
from tests.clients.conftest import KNOWN_MODEL, MODEL

ASK_WEATHER = 'call get_weather {"location": "Paris"}'

pytestmark = pytest.mark.asyncio(loop_scope="module")


class City(BaseModel):
    name: str
    people: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(url: str) -> AsyncIterator[OpenAIResponsesModel]:
    async with sdk(url) as client:
        yield OpenAIResponsesModel(MODEL, provider=OpenAIProvider(openai_client=client))


@pytest.fixture
def agent(model: OpenAIResponsesModel) -> Agent:
    agent = Agent(model, instructions="Be kind.")

    @agent.tool_plain
    def get_weather(location: str) -> str:
        """The weather of a place."""
        return f"sunny in {location}"

    return agent


async def test_a_question_is_answered(model: OpenAIResponsesModel) -> None:
    result = await Agent(model).run("say hello there")

    assert result.output == "hello there"
    assert (result.usage.requests, result.usage.input_tokens, result.usage.output_tokens) == (1, 3, 2)
    assert result.response.finish_reason == "stop"
    assert result.response.provider_response_id is not None
    assert result.response.provider_response_id.startswith("resp_")
    assert result.response.model_name == MODEL


async def test_a_stream_tells_the_text_of_its_end(agent: Agent) -> None:
    async with agent.run_stream("say hello there, you") as run:
        pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]

    assert pieces == ["hello", " there,", " you"]
    assert await run.get_output() == "hello there, you"
    assert run.usage.total_tokens == 7


async def test_a_thought_is_a_part_of_its_own(agent: Agent) -> None:
    settings = OpenAIResponsesModelSettings(openai_reasoning_summary="auto")
    async with agent.run_stream("think let me see | say hi", model_settings=settings) as run:
        assert await run.get_output() == "hi"

    response = run.all_messages()[-1]
    assert isinstance(response, ModelResponse)
    assert [part.content for part in response.parts if isinstance(part, ThinkingPart)] == ["let me see"]


@pytest.mark.parametrize("script", [ASK_WEATHER, f"think hm | say first | {ASK_WEATHER}"])
async def test_a_tool_loop_runs_to_its_end(agent: Agent, script: str) -> None:
    result = await agent.run(script)

    assert result.output == "got: sunny in Paris"
    parts = [part for message in result.all_messages() for part in message.parts]
    assert [part.args_as_dict() for part in parts if isinstance(part, ToolCallPart)] == [{"location": "Paris"}]
    assert [part.content for part in parts if isinstance(part, ToolReturnPart)] == ["sunny in Paris"]
    assert result.usage.tool_calls == 1


async def test_calls_over_several_turns_are_all_answered_in_a_stream(agent: Agent) -> None:
    script = f'{ASK_WEATHER} | call get_weather {{"location": "Rome"}} => {ASK_WEATHER} => say done'
    async with agent.run_stream(script) as run:
        assert await run.get_output() == "done"

    parts = [part for message in run.all_messages() for part in message.parts]
    returned = [part.content for part in parts if isinstance(part, ToolReturnPart)]
    assert returned == ["sunny in Paris", "sunny in Rome", "sunny in Paris"]


async def test_arguments_that_do_not_fit_are_asked_for_again(agent: Agent) -> None:
    result = await agent.run(f"call get_weather {{}} => {ASK_WEATHER} => say done")

    assert result.output == "done"
    parts = [part for message in result.all_messages() for part in message.parts]
    assert [part.outcome for part in parts if isinstance(part, ToolReturnPart)] == ["retried", "success"]


async def test_an_output_type_is_filled_by_a_call(model: OpenAIResponsesModel) -> None:
    agent = Agent(model, output_type=ToolOutput(City, name="answer"))

    result = await agent.run('call answer {"name": "Paris", "people": 2000000}')

    assert result.output == City(name="Paris", people=2_000_000)


async def test_an_output_type_is_asked_for_by_its_schema(model: OpenAIResponsesModel) -> None:
    agent = Agent(model, output_type=NativeOutput(City))
    script = 'say {"name": "Paris", "people": 2}'

    async with agent.run_stream(script) as run:
        assert await run.get_output() == City(name="Paris", people=2)
    assert (await agent.run(script)).output == City(name="Paris", people=2)


async def test_an_answer_that_does_not_fit_its_schema_is_asked_for_again(model: OpenAIResponsesModel) -> None:
    agent = Agent(model, output_type=ToolOutput(City, name="answer"))

    result = await agent.run('call answer {"name": "Paris"} => call answer {"name": "Paris", "people": 2}')

    assert result.output == City(name="Paris", people=2)


async def test_reasoning_is_handed_back_where_nothing_is_stored(agent: Agent, url: str) -> None:
    settings = OpenAIResponsesModelSettings(openai_store=False)
    async with sdk(url) as client:
        reasoner = OpenAIResponsesModel(KNOWN_MODEL, provider=OpenAIProvider(openai_client=client))
        result = await agent.run(f"think hm | {ASK_WEATHER}", model=reasoner, model_settings=settings)

    assert result.output == "got: sunny in Paris"


async def test_a_conversation_goes_on_from_its_messages(agent: Agent) -> None:
    first = await agent.run(f"think hm | say so | {ASK_WEATHER}")
    second = await agent.run("say bye", message_history=first.all_messages())

    assert second.output == "bye"


async def test_a_conversation_goes_on_from_the_previous_response(agent: Agent) -> None:
    first = await agent.run("say one")
    settings = OpenAIResponsesModelSettings(openai_previous_response_id="auto")
    second = await agent.run(f"{ASK_WEATHER} => say two", message_history=first.all_messages(), model_settings=settings)

    assert second.output == "two"


async def test_an_answer_that_is_cut_says_so(model: OpenAIResponsesModel) -> None:
    result = await Agent(model).run("long 50", model_settings={"max_tokens": 2})

    assert (result.output, result.response.finish_reason) == ("word0 word1", "length")


async def test_the_usage_of_a_run_can_be_limited(agent: Agent) -> None:
    with pytest.raises(UsageLimitExceeded):
        await agent.run("long 50", usage_limits=UsageLimits(output_tokens_limit=10))


async def test_an_unknown_model_is_an_error_with_its_body(agent: Agent, url: str) -> None:
    async with sdk(url) as client:
        lost = OpenAIResponsesModel("gpt-99", provider=OpenAIProvider(openai_client=client))
        with pytest.raises(ModelHTTPError) as caught:
            await agent.run("hello", model=lost)

    assert caught.value.status_code == 400
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "model_not_found"


async def test_a_model_that_fails_under_way_is_an_error(agent: Agent) -> None:
    with pytest.raises(ModelServerError, match="on purpose"):
        async with agent.run_stream("say half, | fail on purpose") as run:
            await run.get_output()
