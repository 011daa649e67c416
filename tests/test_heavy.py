"""Requests made to be slow, deep or huge: each is served or refused in a moment, and nothing is fetched for it."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from starlette.types import Message

from antiphon import app
from antiphon.api.routes import Api
from antiphon.config import Settings
from antiphon.core.prompt import Offer, Prompt
from antiphon.errors import InvalidRequest
from antiphon.models.constraint import constraint
from antiphon.wire.formats import JsonSchemaFormat
from tests.conftest import WAIT_S, serve
from tests.rawclient import Answer, ask, create, scripted_in
from tests.strategies import nested

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = "n" * 1_000_000
USER = {"role": "user", "content": "say hello"}
FUNCTION = {"type": "function", "name": "f"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server for all: no request may harm the next."""
    async with serve(scripted_in(tmp_path_factory.mktemp("heavy"))) as address:
        yield address


async def with_schema(url: str, schema: Any, said: str = "5") -> Answer:
    wanted = {"type": "json_schema", "name": "f", "strict": True, "schema": schema}
    return await create(url, input=f"say {said}", text={"format": wanted})


async def with_grammar(url: str, definition: str, said: str, syntax: str = "lark") -> Answer:
    wanted = {"type": "grammar", "syntax": syntax, "definition": definition}
    call = "call f " + json.dumps({"input": said})
    return await create(url, input=call, tools=[{"type": "custom", "name": "f", "format": wanted}])


# -- schemas


@pytest.mark.parametrize("keyword", ["$ref", "$schema", "$dynamicRef", "$recursiveRef"])
@pytest.mark.parametrize("depth", [0, 1])
async def test_nothing_that_a_schema_names_is_fetched(url: str, keyword: str, depth: int) -> None:
    """A request could else reach this machine's files and network."""
    called = asyncio.Event()
    async with await asyncio.start_server(lambda *_: called.set(), "127.0.0.1") as listener:
        port = listener.sockets[0].getsockname()[1]
        for address in (f"http://127.0.0.1:{port}/x", f"http://127.0.0.1:{port}/x#/a", "file:///etc/passwd"):
            reference = {keyword: address}
            answer = await with_schema(url, {"properties": {"a": reference}} if depth else reference)
            assert answer.status == 200 or answer.refusal == (400, "invalid_json_schema", "text.format.schema")

    assert not called.is_set()


def doubling(length: int, keyword: str) -> dict[str, Any]:
    """Each of `length` schemas refers twice to the next."""
    twice = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": twice | {f"d{length}": {"type": "integer"}}}


@pytest.mark.parametrize("keyword", ["anyOf", "allOf", "oneOf"])
async def test_schemas_that_multiply_are_refused(url: str, keyword: str) -> None:
    assert (await with_schema(url, doubling(40, keyword))).refusal == (400, "invalid_json_schema", "text.format.schema")


@pytest.mark.parametrize(
    "schema", [doubling(3, "anyOf"), {"$ref": "#"}, {"$defs": {"a/b": {}}, "$ref": "#/$defs/a~1b"}]
)
async def test_schemas_that_refer_within_themselves_are_served(url: str, schema: Any) -> None:
    assert (await with_schema(url, schema)).status == 200


@pytest.mark.parametrize("keyword", ["anyOf", "allOf", "oneOf"])
async def test_a_deep_document_that_fits_no_way_of_many_is_refused_in_a_moment(url: str, keyword: str) -> None:
    tree = {"properties": {"a": {keyword: [{"$ref": "#"}, {"$ref": "#"}]}}, "required": ["z"]}

    answer = await with_schema(url, tree, '{"a":' * 40 + "{}" + "}" * 40)
    assert answer.refusal == (502, "server_error", None)
    assert answer.error["message"].endswith("it does not fit the schema")


async def test_what_does_not_fit_is_said_where_that_is_quick(url: str) -> None:
    answer = await with_schema(url, doubling(3, "anyOf") | {"properties": {"a": {"type": "integer"}}}, '{"a": "x"}')

    assert "fit text.format: at $" in answer.error["message"]


async def test_a_schema_too_large_to_be_compiled_in_a_moment_is_refused(url: str) -> None:
    names = [f"p{n}" for n in range(20_000)]

    assert (await with_schema(url, {"enum": [*names, 5]})).status == 200
    answer = await with_schema(url, {"properties": {name: {"enum": [1]} for name in names}})
    assert answer.refusal == (400, "invalid_json_schema", "text.format.schema")


async def test_a_long_chain_of_references_is_refused(url: str) -> None:
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(20_000)}

    answer = await with_schema(url, {"$ref": "#/$defs/d0", "$defs": chain | {"d20000": {}}})
    assert answer.refusal == (400, "invalid_json_schema", "text.format.schema")


async def test_a_chain_of_references_that_could_end_the_process_becomes_no_grammar() -> None:
    """That of the embedded model."""
    chain = {f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(2_000)}
    schema = {"$ref": "#/$defs/d0", "$defs": chain | {"d2000": {}}}
    for fields in (
        {"tools": (Offer(name="f", parameters=schema),), "tool_choice": "required"},
        {"format": JsonSchemaFormat(name="a", schema=schema)},
    ):
        prompt: Prompt = msgspec.structs.replace(Prompt(model="m", items=()), **fields)
        enforced = constraint(prompt, False, "answer")
        assert enforced is not None
        with pytest.raises(InvalidRequest, match="different references"):
            enforced.check(prompt)


# -- grammars


async def test_a_grammar_whose_rules_could_end_the_process_is_refused(url: str) -> None:
    rules = "\n".join(f"r{n}: r{n + 1}" for n in range(4_000))
    answer = await with_grammar(url, f'start: r0\n{rules}\nr4000: "x"', "x")

    assert answer.refusal == (400, "string_above_max_length", "tools[0].format.definition")


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ('start: s\ns: s s | "a" | ', "a" * 1_000),
        ('start: s\ns: s s s | s s | "a"', "a" * 1_000),
        ("start: a0\n" + "\n".join(f"a{n}: a{n + 1} a{n + 1} | " for n in range(30)) + '\na30: "x"', "x" * 200),
    ],
)
async def test_a_text_that_a_grammar_reads_in_too_many_ways_is_not_read_for_ever(
    url: str, definition: str, said: str
) -> None:
    """The call counts as one that does not fit: the model is told, and answers otherwise."""
    answer = await with_grammar(url, definition, said)

    assert "its input does not fit the grammar" in answer.value["output"][-1]["content"][0]["text"]


@pytest.mark.parametrize(("pattern", "said"), [("(a+)+b", "a" * 5_000 + "b"), ("(a|b)*a(a|b){11}", "ab" * 1_000)])
async def test_a_pattern_that_is_slow_elsewhere_is_not_slow_here(url: str, pattern: str, said: str) -> None:
    assert (await with_grammar(url, pattern, said, "regex")).value["output"][0]["input"] == said


# -- numbers and lengths


async def test_the_longest_history_is_served(url: str) -> None:
    calls = [{"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}"} for n in range(5_000)]
    unnamed = [{"type": "function_call_output", "output": "x", "name": "f"}] * 5_000

    assert (await create(url, input=[*calls, *unnamed, *[USER] * 10_000])).status == 200
    assert (await create(url, input=[USER] * 20_001)).refusal == (400, "array_above_max_length", "input")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}] * 10_001}, "tools"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [FUNCTION] * 10_000}]}, "tools"),
        ({"tools": [FUNCTION | {"name": f"f{n}"} for n in range(513)]}, "tools"),
        ({"input": [{"type": "additional_tools", "tools": [FUNCTION] * 6_000}] * 2}, "input[1].tools"),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION] * 513}},
            "tool_choice.tools",
        ),
    ],
    ids=["hosted", "in a namespace", "offered", "in items", "allowed"],
)
async def test_more_tools_than_can_be_looked_at_are_refused(url: str, fields: Any, param: str) -> None:
    assert (await create(url, **fields)).refusal == (400, "array_above_max_length", param)


async def test_what_follows_on_too_many_tools_says_where_they_are(url: str) -> None:
    more = [{"type": "additional_tools", "tools": [FUNCTION] * 6_000}, USER]
    first = (await create(url, input=more)).value

    answer = await create(url, input=more, previous_response_id=first["id"])
    assert answer.refusal == (400, "array_above_max_length", "input[0].tools")


@pytest.mark.parametrize(
    "fields",
    [
        {"model": LONG},
        {"tools": [FUNCTION | {"name": LONG}]},
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": LONG}},
        {"tools": [FUNCTION], "tool_choice": {"type": LONG}},
        {"input": [{"type": "function_call", "call_id": LONG, "name": "f", "arguments": ""}]},
        {"input": [{"type": "function_call_output", "call_id": LONG, "output": ""}]},
        {"input": [{"type": "item_reference", "id": LONG}]},
        {"input": [{"type": LONG}]},
        {"previous_response_id": LONG},
        {"prompt": {"id": LONG}},
        {"reasoning": {"effort": LONG}},
        {"include": [LONG]},
        {"text": {"format": {"type": "json_schema", "name": LONG, "schema": {}}}},
    ],
    ids=lambda fields: ",".join(fields),
)
async def test_an_endless_name_is_refused_in_few_words(url: str, fields: Any) -> None:
    assert (await create(url, **fields)).refusal[0] in {400, 404}


# -- depth

DEEP = nested(200, listed=False)
SEARCH = {"type": "tool_search_call", "call_id": "c", "arguments": {}}
SHELL = {"type": "shell_call", "call_id": "c", "action": {"commands": []}}
FOUND = {"type": "tool_search_output", "call_id": "c", "tools": []}
RAN = {"type": "shell_call_output", "call_id": "c", "output": []}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [FUNCTION | {"parameters": DEEP}]},
        {"tools": [FUNCTION | {"output_schema": DEEP}]},
        {"tools": [{"type": "tool_search", "execution": "client", "parameters": DEEP}]},
        {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION | DEEP]}},
        {"text": {"format": {"type": "json_schema", "name": "f", "schema": DEEP}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": DEEP}}},
        {"logit_bias": DEEP},
        {"prompt": {"id": "p", "variables": DEEP}},
        {"input": [SEARCH | {"arguments": DEEP}, FOUND]},
        {"input": [SEARCH, FOUND | {"tools": [DEEP]}]},
        {"input": [{"type": "additional_tools", "tools": [DEEP]}, USER]},
        {"input": [SHELL | {"environment": DEEP}, RAN]},
        {"input": [SHELL | {"action": DEEP}, RAN]},
    ],
    ids=lambda fields: ",".join(fields),
)
async def test_what_is_kept_as_it_came_is_not_kept_when_it_is_deep(url: str, fields: Any) -> None:
    assert (await create(url, **fields)).refusal[0] == 400


# -- and the others


@pytest.mark.parametrize("depth", [50, 200])
async def test_a_long_body_is_decoded_beside_the_requests_of_others(url: str, depth: int) -> None:
    """Above the size that goes to a thread, errors come out of it as ever."""
    body = json.dumps({"model": "scripted", "input": "x" * 300_000, "unheard": nested(depth, listed=True), "top_p": 2})
    async with asyncio.timeout(WAIT_S):
        long, short = await asyncio.gather(ask(url, "POST", "/v1/responses", body), create(url))

    assert long.refusal == (400, "decimal_above_max_value", "top_p")
    assert short.status == 200


async def test_a_request_leaves_nothing_for_the_garbage_collector(scripted: Settings) -> None:
    """What refers to itself stays until it is looked for, which costs every request."""
    async with app.running(scripted) as asgi:
        await _asked(asgi)
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                await _asked(asgi)
            found = gc.collect()
        finally:
            gc.enable()

    assert found < 10


async def _asked(asgi: Api) -> None:
    """One plain request, without sockets and a client, which leave things of their own."""
    has_left = asyncio.Event()
    body = {"type": "http.request", "body": b'{"model": "scripted", "input": "think hm | say hi"}', "more_body": False}
    coming, sent = [body], list[Message]()

    async def receive() -> Message:
        if coming:
            return coming.pop()
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/responses", "headers": headers, "query_string": b""}
    await asgi(scope, receive, send)
    assert sent[0]["status"] == 200
