"""Prompts of the settings: filled in with a request's variables, and what is wrong with them."""

from collections.abc import AsyncIterator
from typing import TypeAlias

import msgspec
import openai
import pytest
from openai.types.responses import ResponseInputFileParam, ResponseInputImageParam, ResponseInputTextParam

from antiphon.config import PromptTemplate, Settings, TemplateMessage
from antiphon.origins import load
from tests.conftest import WAIT_S, serve

Variables: TypeAlias = dict[str, str | ResponseInputTextParam | ResponseInputImageParam | ResponseInputFileParam]
GREETING = "greeting"
TEMPLATES = (
    PromptTemplate(id=GREETING, instructions="Old."),
    PromptTemplate(
        id=GREETING,
        version="2",
        model="scripted",
        instructions="You speak to {{name}} of {{ topic }}.",
        messages=(TemplateMessage(content="say hello {{name}}"),),
    ),
)


@pytest.fixture
async def client(scripted: Settings) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serve(msgspec.structs.replace(scripted, prompts=TEMPLATES)) as url,
        openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=WAIT_S) as sdk,
    ):
        yield sdk


async def test_a_prompt_brings_model_instructions_and_messages(client: openai.AsyncOpenAI) -> None:
    variables: Variables = {"name": "Ada", "topic": {"type": "input_text", "text": "engines"}}
    response = await client.responses.create(prompt={"id": GREETING, "variables": variables})

    assert response.output_text == "hello Ada"
    assert response.instructions == "You speak to Ada of engines."
    assert response.prompt is not None
    assert (response.prompt.id, response.prompt.version) == (GREETING, "2")
    listed = await client.responses.input_items.list(response.id)
    assert [item.type for item in listed.data] == ["message"]


async def test_what_the_request_says_counts_more(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(
        prompt={"id": GREETING, "version": "1"}, model="scripted", instructions="New.", input="say bye"
    )

    assert (response.instructions, response.output_text) == ("New.", "bye")
    assert response.prompt is not None
    assert response.prompt.version == "1"


@pytest.mark.parametrize("version", [None, "3"])
async def test_a_prompt_that_is_not_there_is_not_found(client: openai.AsyncOpenAI, version: str | None) -> None:
    name = "nobody" if version is None else GREETING
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.create(prompt={"id": name, "version": version}, model="scripted")

    assert (caught.value.code, caught.value.param) == ("prompt_not_found", "prompt")


@pytest.mark.parametrize(
    ("variables", "param"),
    [({"name": "Ada"}, "topic"), ({"name": "Ada", "topic": "x", "nmae": "y"}, "nmae")],
)
async def test_a_variable_too_few_or_too_many_is_named(
    client: openai.AsyncOpenAI, variables: Variables, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(prompt={"id": GREETING, "variables": variables})

    assert caught.value.param == f"prompt.variables.{param}"


def test_prompts_come_from_the_settings_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("settings") / "antiphon.toml"
    file.write_text(
        '[[prompts]]\nid = "p"\ninstructions = "Hi {{name}}"\n[[prompts.messages]]\ncontent = "x"\n', encoding="utf-8"
    )

    (template,) = load(str(file), {}).prompts
    assert (template.id, template.version, template.messages[0].role) == ("p", "1", "user")
