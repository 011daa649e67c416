"""Whatever is sent: lawful requests are served, all others refused by name, and nothing is left behind.

Short and always the same in `make test`; `make fuzz` tries as long as it is told to, with new examples every time.
"""

import asyncio
import gc
import json
import os
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from antiphon import app
from antiphon.api.routes import Api
from antiphon.core import lowering
from antiphon.errors import ApiError
from antiphon.wire import codec, tolerance
from antiphon.wire.items import Item
from antiphon.wire.response import Response
from tests import strategies as some
from tests import wirecheck
from tests.conftest import listening
from tests.rawclient import Answer, ask, create, scripted_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

ERROR_STATUSES = frozenset({400, 404, 413})
MODEL_FAILED = 502


class Served(NamedTuple):
    url: str
    api: Api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """One server for all: no request may harm the next."""
    settings = scripted_in(tmp_path_factory.mktemp("fuzz"))
    async with app.running(settings) as api, listening(api, settings) as url:
        yield Served(url, api)


async def post(served: Served, body: Any) -> Answer:
    return await ask(served.url, "POST", "/v1/responses", body)


def response_of(answer: Answer) -> dict[str, Any]:
    """What an answer adds up to, streamed or whole, after a look at all that the wire promises."""
    assert answer.status == 200, answer
    response: dict[str, Any] = wirecheck.openai(answer)
    decoded = codec.convert(response, Response)
    assert json.loads(codec.encode(decoded)) == response
    return response


# -- whole requests


@given(body=some.requests(), data=st.data())
@some.trying(80)
async def test_a_lawful_request_is_served_and_its_output_taken_back(
    served: Served, body: Any, data: st.DataObject
) -> None:
    """By value, and by reference to the response where that is stored."""
    response = response_of(await post(served, body))
    if response["status"] != "completed":
        assert response["status"] == ("queued" if body.get("background") else "incomplete")
        return
    outputs = answers(response, data)
    said = {"role": "user", "content": "say more"}
    again = {"model": "scripted", "tools": body["tools"]}
    before = [item for item in body["input"] if item.get("type") != "compaction_trigger"]
    by_value = again | {"input": [*before, *response["output"], *outputs, said]}
    assert response_of(await post(served, by_value))["status"] == "completed"
    if response["store"]:
        by_reference = again | {"input": [*outputs, said], "previous_response_id": response["id"]}
        assert response_of(await post(served, by_reference))["status"] == "completed"


def answers(response: dict[str, Any], data: st.DataObject) -> list[Any]:
    """What a client answers to the calls in it."""
    output = codec.convert(response["output"], tuple[Item, ...])
    return [msgspec.to_builtins(data.draw(some.answers(call))) for call in output if lowering.is_call(call)]


@given(body=some.requests(), data=st.data())
@some.trying(40)
async def test_a_lawful_request_is_served_in_a_conversation_which_then_holds_it(
    served: Served, body: Any, data: st.DataObject
) -> None:
    conversation = (await ask(served.url, "POST", "/v1/conversations", {"items": []})).value["id"]
    response = response_of(await post(served, body | {"conversation": conversation}))
    path = f"/v1/conversations/{conversation}/items?order=asc&limit=100"
    listed = (await ask(served.url, "GET", path)).value["data"]
    assert listed[-len(response["output"]) :] == response["output"] or not response["output"]
    if response["status"] == "completed":
        said = {"role": "user", "content": "say more"}
        again = {"model": "scripted", "tools": body["tools"], "conversation": conversation}
        assert (
            response_of(await post(served, again | {"input": [*answers(response, data), said]}))["status"]
            == "completed"
        )


@given(body=some.mutants())
@some.trying(150)
async def test_a_mutant_is_served_or_refused_by_name(served: Served, body: Any) -> None:
    answer = await post(served, body)
    if answer.status == 200:
        response_of(answer)
    else:
        check_refusal(answer, body)


@given(body=some.mutants() | some.requests())
@some.trying(60)
async def test_the_strict_dialect_serves_it_lawfully_or_refuses_it_too(served: Served, body: Any) -> None:
    answer = await ask(served.url, "POST", "/openresponses/v1/responses", body)
    wirecheck.openresponses(answer)

    assert answer.status in ERROR_STATUSES | {200, MODEL_FAILED}, answer


@given(body=some.broken())
@some.trying(60)
async def test_broken_bytes_are_served_or_refused(served: Served, body: bytes) -> None:
    answer = await post(served, body)
    if answer.status == 200:
        response_of(answer)
    else:
        assert answer.refusal[0] in ERROR_STATUSES


def check_refusal(answer: Answer, body: Any) -> None:
    status, code, param = answer.refusal
    assert status in ERROR_STATUSES | {MODEL_FAILED}, answer
    if status == MODEL_FAILED:  # the model could not be brought to say what was asked for
        assert re.match("The model's (answer does not fit|call of)", answer.error["message"]), answer
    elif param is not None and not any(odd[:250] in param for odd in some.ODD_NAMES if odd):
        missing = code == "missing_required_parameter"
        assert stands(param, body, missing=missing) or stands(param, _normalised(body), missing=missing), answer


def _normalised(body: Any) -> Any:
    try:
        return tolerance.normalised(json.loads(json.dumps(body)), 1_000)
    except ApiError:
        return body


def stands(path: str, body: Any, *, missing: bool) -> bool:
    """Whether `input[0].content` is there; where something is missing, at least all before its end."""
    *before, last = re.findall(r"[^.\[\]]+", path)
    try:
        for step in before:
            body = body[int(step)] if isinstance(body, list) else body[step]
        return missing or (last in body if isinstance(body, dict) else int(last) < len(body))
    except (KeyError, IndexError, TypeError, ValueError):
        return False


# -- found by trying


def allowing(tool: Any) -> dict[str, Any]:
    return {"tools": [{"type": "shell"}], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [tool]}}


DEEP = some.nested(900, listed=False)


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"input": [{"type": ["message"], "role": "user", "content": "a"}]}, ("invalid_type", "input[0].type")),
        ({"input": [{"type": "local_shell_call", "call_id": "c", "action": DEEP}]}, (None, None)),
        ({"tools": [{"type": "shell"}, {"type": "shell"}]}, ("invalid_value", "tools[1]")),
        (allowing({"type": []}), (None, "tool_choice")),
        (allowing({"type": "x", "name": []}), (None, "tool_choice")),
    ],
    ids=["type of an item", "depth", "second shell", "type of an allowed tool", "name of an allowed tool"],
)
async def test_what_once_broke_is_refused_by_name(served: Served, fields: Any, refusal: Any) -> None:
    assert (await create(served.url, **fields)).refusal == (400, *refusal)


async def test_what_is_wrong_in_a_format_of_the_chat_style_is_named_where_it_stands(served: Served) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": ["a"], "schema": {}}}

    answer = await create(served.url, response_format=wanted)
    assert answer.refusal == (400, "invalid_type", "response_format.json_schema.name")


async def test_a_picture_of_the_chat_style_without_an_address_lacks_one(served: Served) -> None:
    picture = {"type": "image_url", "image_url": {"url": None}}

    answer = await create(served.url, input=[{"role": "user", "content": [picture]}])
    assert answer.refusal[1] == "missing_required_parameter"


async def test_a_computer_call_that_does_nothing_is_told(served: Served) -> None:
    picture = {"type": "computer_screenshot", "image_url": some.PICTURE}
    output = {"type": "computer_call_output", "call_id": "c", "output": picture}

    assert (await create(served.url, input=[{"type": "computer_call", "call_id": "c"}, output])).status == 200


async def test_a_search_for_null_comes_out_and_goes_in_again(served: Served) -> None:
    search = {"tools": [{"type": "tool_search", "execution": "client"}]}
    response = (await create(served.url, input="call tool_search null", **search)).value
    found = {"type": "tool_search_output", "call_id": response["output"][0]["call_id"], "tools": []}

    assert response["output"][0]["arguments"] is None
    assert (await create(served.url, input=[*response["output"], found], **search)).status == 200


# -- growth

OBJECTS_MORE_MAX = 500
"""Caches may still fill, and the test itself notes what it sees; one leaked object a request is more."""


async def test_requests_leave_nothing_behind(served: Served) -> None:
    """No run, task, file or object stays: the same requests once more make nothing grow."""
    bodies: list[Any] = []
    given(body=some.mutants())(some.trying(40)(lambda body: bodies.append(body | {"store": False})))()
    counts = []
    for _ in range(3):
        for body in bodies:
            await post(served, body)
        counts.append(await counted())
    _, before, after = counts

    assert after[:2] == before[:2]
    assert after[2] - before[2] < OBJECTS_MORE_MAX
    assert not served.api._engine._runs


async def counted() -> tuple[int, int, int]:
    """Open files, tasks and objects, once the connections that were left are closed."""
    for _ in range(20):
        await asyncio.sleep(0)
    gc.collect()
    files = os.listdir("/proc/self/fd")  # noqa: PTH208 # names alone
    return len(files), len(asyncio.all_tasks()), len(gc.get_objects())
