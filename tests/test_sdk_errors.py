"""The official SDK when things go wrong: which exception it raises, with what in it, and what a broken stream tells."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import openai
import pytest
import pytest_asyncio
from openai.types.responses import FunctionToolParam

from antiphon.config import ScriptedModel, Settings, StaticKey, Storage
from tests.chatserver import ended, sdk
from tests.conftest import changed, serve

Object: TypeAlias = dict[str, Any]

MODEL = "scripted"
FUNCTION: FunctionToolParam = {"type": "function", "name": "f", "parameters": None, "strict": False}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[openai.AsyncOpenAI]:
    """One server for all tests that need no settings of their own."""
    database = tmp_path_factory.mktemp("store") / "test.db"
    settings = Settings(models=(ScriptedModel(name=MODEL),), storage=Storage(database=str(database)))
    async with serve(settings) as url, sdk(url) as client:
        yield client


# -- what is wrong with a request

CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "done"}

BAD_REQUESTS: dict[str, tuple[Object, str | None, str | None]] = {
    "a near miss of a name": ({"temprature": 0.5}, "temprature", "unknown_parameter"),
    "a near miss within": ({"reasoning": {"efort": "low"}}, "reasoning.efort", "unknown_parameter"),
    "no model": ({"model": None}, "model", "missing_required_parameter"),
    "an unknown model": ({"model": "gpt-99"}, "model", "model_not_found"),
    "no input": ({"input": None}, "input", "missing_required_parameter"),
    "an empty input": ({"input": []}, "input", "empty_array"),
    "an input of another type": ({"input": 7}, "input", "invalid_type"),
    "content of another type": ({"input": [{"role": "user", "content": 7}]}, "input[0].content", "invalid_type"),
    "an unknown role": ({"input": [{"role": "boss", "content": "go"}]}, "input[0].role", "invalid_value"),
    "a temperature above 2": ({"temperature": 3}, "temperature", "decimal_above_max_value"),
    "a token limit of none": ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
    "five stops": ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
    "17 pairs of metadata": (
        {"metadata": {f"key{number}": "" for number in range(17)}},
        "metadata",
        "object_above_max_properties",
    ),
    "a key of 65 characters": ({"metadata": {"k" * 65: "v"}}, "metadata", "string_above_max_length"),
    "a value of 513 characters": ({"metadata": {"k": "v" * 513}}, "metadata", "string_above_max_length"),
    "metadata that is no text": ({"metadata": {"k": 1}}, "metadata", "invalid_type"),
    "an unknown effort": ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
    "an unknown parent": (
        {"previous_response_id": "resp_0"},
        "previous_response_id",
        "previous_response_not_found",
    ),
    "what waits for later": ({"moderation": {"model": "m"}}, "moderation", "unsupported_parameter"),
    "a background that is not stored": ({"background": True, "store": False}, "background", None),
    "options without a stream": ({"stream_options": {"include_usage": True}}, "stream_options", None),
    "a choice of no tool": ({"tool_choice": "required"}, "tool_choice", None),
    "a choice of another tool": (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}},
        "tool_choice",
        None,
    ),
    "two tools of one name": ({"tools": [FUNCTION, FUNCTION]}, "tools[1].name", "invalid_value"),
    "a call without its output": ({"input": [CALL]}, "input", None),
    "an output without its call": ({"input": [OUTPUT]}, "input", None),
    "an output before its call": ({"input": [OUTPUT, CALL]}, "input", None),
    "a name of 100,000 characters": ({"model": "m" * 100_000}, "model", "model_not_found"),
    "a hosted tool that is not enabled": (
        {"tools": [{"type": "antiphon:scripted"}]},
        "tools[0].type",
        "unsupported_parameter",
    ),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
async def test_a_bad_request_names_what_is_wrong(client: openai.AsyncOpenAI, what: str) -> None:
    fields, param, code = BAD_REQUESTS[what]

    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(extra_body={"model": MODEL, "input": "hello"} | fields)

    error = refused.value
    assert (error.status_code, error.param, error.code) == (400, param, code)
    assert error.type == "invalid_request_error"
    assert error.request_id is not None


async def test_a_bad_request_is_refused_before_its_stream_begins(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        async with client.responses.stream(model=MODEL, input="hello", extra_body={"temprature": 0.5}):
            pass

    assert "Did you mean 'temperature'?" in refused.value.message


async def test_a_strict_server_refuses_what_it_does_not_know(scripted: Settings) -> None:
    async with serve(changed(scripted, server={"strict": True})) as url, sdk(url) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model=MODEL, input="hello", extra_body={"zeal": 11})

    assert (refused.value.code, refused.value.param) == ("unknown_parameter", "zeal")


async def test_a_body_that_is_no_json_is_refused(client: openai.AsyncOpenAI) -> None:
    headers = {"Content-Type": "application/json"}
    with pytest.raises(openai.BadRequestError, match="could not parse the JSON body"):
        await client.post("/responses", content=b"{", options={"headers": headers}, cast_to=object)


async def test_a_body_of_another_kind_is_refused(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await client.responses.create(model=MODEL, input="hello", extra_headers={"Content-Type": "text/plain"})

    assert (refused.value.status_code, refused.value.type) == (415, "invalid_request_error")


async def test_a_body_that_is_too_large_is_refused(scripted: Settings) -> None:
    async with serve(changed(scripted, limits={"body_bytes_max": 1000})) as url, sdk(url) as client:
        assert (await client.responses.create(model=MODEL, input="x" * 900)).status == "completed"
        with pytest.raises(openai.APIStatusError) as refused:
            await client.responses.create(model=MODEL, input="x" * 1000)

    assert refused.value.status_code == 413


# -- what is not there


@pytest.mark.parametrize(
    "path",
    ["/responses/resp_0", "/responses/resp_0/input_items", "/responses/resp_0/nothing", "/models/gpt-99", "/nothing"],
)
async def test_what_is_not_there_is_not_found(client: openai.AsyncOpenAI, path: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.get(path, cast_to=object)

    assert missing.value.type == "invalid_request_error"
    assert missing.value.code == ("model_not_found" if "models" in path else None)


async def test_a_method_that_a_path_does_not_take_is_refused(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await client.put("/responses/resp_0", cast_to=object)

    assert refused.value.status_code == 405


async def test_an_unknown_item_is_not_found(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="hello")

    for asking in (
        client.responses.input_items.list(response.id, after="msg_0"),
        client.responses.create(model=MODEL, input=[{"type": "item_reference", "id": "msg_0"}]),
    ):
        with pytest.raises(openai.NotFoundError, match="'msg_0' not found"):
            await asking


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"order": "up"}, "order"),
        ({"include": ["everything"]}, "include"),
    ],
)
async def test_a_bad_listing_names_what_is_wrong(client: openai.AsyncOpenAI, query: Object, param: str) -> None:
    response = await client.responses.create(model=MODEL, input="hello")

    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.input_items.list(response.id, extra_query=query)

    assert refused.value.param == param


async def test_a_response_of_the_foreground_cannot_be_streamed_again(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="hello")

    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.retrieve(response.id, stream=True)

    assert (refused.value.param, refused.value.code) == ("stream", "response_not_streamable")


# -- who may ask


def guarded(settings: Settings) -> Settings:
    keys = (StaticKey(project="red", key="key-of-red"), StaticKey(project="blue", key="key-of-blue"))
    return changed(settings, auth={"keys": keys})


async def test_without_a_valid_key_nobody_gets_in(scripted: Settings) -> None:
    async with serve(guarded(scripted)) as url, sdk(url, key="key-of-green") as client:
        with pytest.raises(openai.AuthenticationError) as wrong:
            await client.responses.create(model=MODEL, input="hello")
        with pytest.raises(openai.AuthenticationError) as absent:
            await client.models.list(extra_headers={"Authorization": openai.Omit()})

    assert (wrong.value.code, wrong.value.type) == ("invalid_api_key", "invalid_request_error")
    assert absent.value.code is None
    assert "didn't provide an API key" in absent.value.message
    assert wrong.value.request_id is not None


async def test_what_belongs_to_another_project_is_not_found(scripted: Settings) -> None:
    async with (
        serve(guarded(scripted)) as url,
        sdk(url, key="key-of-red") as red,
        sdk(url, key="key-of-blue") as blue,
    ):
        response = await red.responses.create(model=MODEL, input="say secret")
        item = response.output[0].id or ""
        for asking in (
            blue.responses.retrieve(response.id),
            blue.responses.delete(response.id),
            blue.responses.input_items.list(response.id),
            blue.responses.create(model=MODEL, input=[{"type": "item_reference", "id": item}]),
        ):
            with pytest.raises(openai.NotFoundError):
                await asking
        with pytest.raises(openai.BadRequestError) as refused:
            await blue.responses.create(model=MODEL, input="hello", previous_response_id=response.id)

        assert refused.value.code == "previous_response_not_found"
        assert (await red.responses.retrieve(response.id)).output_text == "secret"


@pytest.mark.parametrize("header", [{"Origin": "https://page.example"}, {"Host": "page.example"}])
async def test_a_page_from_elsewhere_may_not_ask(client: openai.AsyncOpenAI, header: dict[str, str]) -> None:
    with pytest.raises(openai.PermissionDeniedError, match=r"page\.example"):
        await client.responses.create(model=MODEL, input="hello", extra_headers=header)


async def test_more_responses_at_once_than_allowed_are_refused(scripted: Settings) -> None:
    async with serve(changed(scripted, limits={"runs_max": 1})) as url, sdk(url) as client:
        async with client.responses.stream(model=MODEL, input="stall") as stream:
            created = await anext(stream)
            with pytest.raises(openai.RateLimitError) as refused:
                await client.responses.create(model=MODEL, input="hello")
        assert created.type == "response.created"
        await ended(client, created.response.id)

        assert (await client.responses.create(model=MODEL, input="say room")).output_text == "room"
    assert refused.value.code == "rate_limit_exceeded"


# -- what fails on the way


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_word_is_a_status(client: openai.AsyncOpenAI, stream: bool) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        await client.responses.create(model=MODEL, input="fail early", stream=stream)

    assert (failed.value.status_code, failed.value.type, failed.value.code) == (502, "server_error", "server_error")
    assert "The scripted model failed: early." in failed.value.message
    assert failed.value.request_id is not None


async def test_a_failure_after_the_first_word_is_a_status_where_nothing_was_sent(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="The scripted model failed: midway"):
        await client.responses.create(model=MODEL, input="say half | fail midway")


async def test_a_failure_in_a_stream_is_its_last_event(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input="think hm | say half | fail midway", stream=True)
    events = [event async for event in stream]

    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert (last.response.error.code, last.response.output_text) == ("server_error", "half")
    assert last.response.error.message == "The scripted model failed: midway."
    assert [item.to_dict()["status"] for item in last.response.output] == ["completed", "incomplete"]
    assert await client.responses.retrieve(last.response.id) == last.response


async def test_the_strict_stream_has_no_final_response_after_a_failure(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="say half | fail midway") as stream:
        types = [event.type async for event in stream]
        with pytest.raises(RuntimeError, match=r"response\.completed"):
            await stream.get_final_response()

    assert types[-1] == "response.failed"


async def test_every_answer_has_its_own_request_id(client: openai.AsyncOpenAI) -> None:
    first, second = await asyncio.gather(
        client.responses.create(model=MODEL, input="hello"), client.responses.create(model=MODEL, input="hello")
    )

    assert first._request_id
    assert second._request_id
    assert first._request_id != second._request_id
