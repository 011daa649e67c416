"""Structured output: what is promised of an answer's text is checked here, whatever model wrote it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from antiphon.config import Settings
from antiphon.core.deltas import Finish, Phase, Text, Thought, ToolCall
from antiphon.stores.memory import MemoryStore
from tests.rawclient import Played, create, events_of, final, serving, streaming

STOP = Finish("stop")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def json_schema(schema: Any = PERSON, **fields: Any) -> dict[str, Any]:
    return {"format": {"type": "json_schema", "name": "person", "schema": schema, **fields}}


@pytest.fixture
def model() -> Played:
    return Played()


@pytest.fixture
async def url(scripted: Settings, model: Played) -> AsyncIterator[str]:
    async with serving(scripted, MemoryStore(scripted.storage, scripted.limits), model) as address:
        yield address


async def test_a_document_that_fits_completes_and_the_format_is_echoed(url: str, model: Played) -> None:
    model.say(Thought("hm"), Text('{"name": "Ada",'), Text(' "age": 36}'), STOP)
    answer = await create(url, model="played", text=json_schema(strict=True, description="Who?"))

    assert answer.value["status"] == "completed"
    assert answer.value["text"]["format"] == {
        "type": "json_schema", "name": "person", "schema": PERSON, "strict": True, "description": "Who?"
    }  # fmt: skip
    assert model.prompts[0].format is not None


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ('{"name": "Ada", "age": "old"}', "$.age"),
        ('{"name": "Ada"}', "age"),
        ('{"name": "Ada", "age": 1', "no JSON"),
        ("Ada", "no JSON"),
    ],
)
async def test_a_document_that_does_not_fit_a_strict_schema_fails_and_says_where(
    url: str, model: Played, said: str, fault: str
) -> None:
    model.say(Text(said), STOP)
    answer = await create(url, model="played", text=json_schema(strict=True))

    assert answer.status == 502
    assert "text.format" in answer.error["message"]
    assert fault in answer.error["message"]


async def test_a_remark_on_the_way_is_no_part_of_the_document(url: str, model: Played) -> None:
    said = (Phase("commentary"), Text("Let me see."), Phase("final_answer"), Text('{"name": "Ada", "age": 36}'), STOP)
    model.say(*said)
    answer = await create(url, model="played", text=json_schema(strict=True))

    assert answer.value["status"] == "completed"


async def test_a_stream_that_did_not_fit_ends_as_failed(url: str, model: Played) -> None:
    model.say(Text("no"), Text(" JSON"), STOP)
    async with streaming(url, model="played", text=json_schema(strict=True)) as stream:
        frames = await (await stream.head()).frames()

    assert events_of(frames)[-1]["type"] == "response.failed"
    assert final(frames)["error"]["code"] == "server_error"


async def test_a_schema_that_is_not_strict_is_a_hint(url: str, model: Played) -> None:
    model.say(Text('{"name": 1}'), STOP)
    answer = await create(url, model="played", text=json_schema())

    assert (answer.value["status"], answer.value["text"]["format"]["strict"]) == ("completed", False)


@pytest.mark.parametrize(("said", "status"), [('{"a": 1}', 200), ("[1]", 502), ("hello", 502)])
async def test_a_json_object_is_held_to_be_one(url: str, model: Played, said: str, status: int) -> None:
    model.say(Text(said), STOP)
    answer = await create(url, model="played", text={"format": {"type": "json_object"}})

    assert answer.status == status


async def test_a_call_beside_a_format_is_no_document(url: str, model: Played) -> None:
    model.say(ToolCall("0", "{}", name="f", call_id="c"), Finish("tool_calls"))
    tool = {"type": "function", "name": "f"}
    answer = await create(url, model="played", tools=[tool], text=json_schema(strict=True))

    assert [item["type"] for item in answer.value["output"]] == ["function_call"]


async def test_an_answer_that_was_cut_short_is_incomplete_and_not_judged(url: str, model: Played) -> None:
    model.say(Text('{"name": "A'), Finish("length"))
    answer = await create(url, model="played", text=json_schema(strict=True))

    assert answer.value["status"] == "incomplete"


@pytest.mark.parametrize(
    "schema",
    [{"type": "objekt"}, {"properties": {"a": {"minLength": -1}}}, {"pattern": "("}, {"$ref": "#/$defs/nowhere"}],
)
async def test_a_schema_that_is_none_is_refused_by_its_place(url: str, schema: Any) -> None:
    answer = await create(url, model="played", text=json_schema(schema))

    assert answer.refusal == (400, "invalid_json_schema", "text.format.schema")


@pytest.mark.parametrize("schema", [{"$ref": "{}/a"}, {"$schema": "{}/b", "type": "string"}])
@pytest.mark.parametrize("place", ["text", "tools"])
async def test_what_a_schema_refers_to_elsewhere_is_not_fetched(
    url: str, schema: dict[str, str], place: str, unused_tcp_port: int
) -> None:
    asked = asyncio.Event()
    server = await asyncio.start_server(lambda *_: asked.set(), "127.0.0.1", unused_tcp_port)
    elsewhere = {name: value.format(f"http://127.0.0.1:{unused_tcp_port}") for name, value in schema.items()}
    tool = {"type": "function", "name": "f", "strict": True, "parameters": elsewhere}
    async with server:
        answer = await create(
            url, model="played", **({"text": json_schema(elsewhere)} if place == "text" else {"tools": [tool]})
        )

    assert answer.status == 400
    assert not asked.is_set()


async def test_files_are_not_read_for_a_schema(url: str) -> None:
    answer = await create(url, model="played", text=json_schema({"$ref": Path("/etc/hostname").as_uri()}))

    assert answer.refusal == (400, "invalid_json_schema", "text.format.schema")
    assert "not fetched" in answer.error["message"]


async def test_the_parameters_of_a_strict_function_must_be_a_schema(url: str) -> None:
    tool = {"type": "function", "name": "f", "strict": True, "parameters": {"type": "objekt"}}
    answer = await create(url, model="played", tools=[tool])

    assert answer.refusal == (400, "invalid_function_parameters", "tools[0].parameters")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"format": {"type": "json_schema", "schema": {}}}, "text.format.name"),
        ({"format": {"type": "json_schema", "name": "a b", "schema": {}}}, "text.format.name"),
        ({"format": {"type": "json_schema", "name": "a"}}, "text.format.schema"),
        ({"format": {"type": "yaml"}}, "text.format.type"),
        ({"verbosity": "loud"}, "text.verbosity"),
    ],
)
async def test_a_wrong_format_is_named_by_its_path(url: str, fields: Any, param: str) -> None:
    answer = await create(url, model="played", text=fields)

    assert (answer.status, answer.error["param"]) == (400, param)


async def test_the_chat_style_of_a_format_is_the_same_wish(url: str, model: Played) -> None:
    model.say(Text('{"name": "Ada", "age": 1}'), STOP)
    wish = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    answer = await create(url, model="played", response_format=wish)

    assert answer.value["text"]["format"]["schema"] == PERSON


# -- configuration_update

USER = {"role": "user", "content": "Who?"}


def update(**fields: Any) -> dict[str, Any]:
    return {"type": "configuration_update", **fields}


async def test_an_update_of_the_configuration_holds_until_the_next_and_over_later_responses(
    url: str, model: Played
) -> None:
    for said in ('{"name": "Ada", "age": 36}', '{"name": "Bob", "age": 7}', "Free text."):
        model.say(Text(said), STOP)
    asked = [update(reasoning={"effort": "low"}), USER, update(text=json_schema(strict=True), reasoning=None)]
    first = await create(url, model="played", input=asked, reasoning={"effort": "high"})
    assert first.value["reasoning"]["effort"] == "low"
    assert first.value["text"]["format"]["type"] == "json_schema"

    second = await create(url, model="played", previous_response_id=first.value["id"], input="And?")
    assert (second.value["reasoning"]["effort"], second.value["text"]["format"]["type"]) == ("low", "json_schema")
    assert model.prompts[1].effort == "low"
    assert [type(item).__name__ for item in model.prompts[1].items] == ["Message", "Message", "Message"]

    own = {"text": {"format": {"type": "text"}}, "reasoning": {"effort": "high"}}  # what a request says comes later
    third = await create(url, model="played", previous_response_id=second.value["id"], input="And?", **own)
    assert (third.value["reasoning"]["effort"], third.value["text"]["format"]["type"]) == ("high", "text")


async def test_a_wrong_update_is_refused_by_its_place(url: str) -> None:
    schema = await create(url, model="played", input=[USER, update(text=json_schema({"type": "objekt"}))])
    effort = await create(url, model="played", input=[USER, update(reasoning={"effort": "hard"})])

    assert schema.refusal == (400, "invalid_json_schema", "input[1].text.format.schema")
    assert effort.refusal == (400, "invalid_value", "input[1].reasoning.effort")
