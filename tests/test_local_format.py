"""What the embedded engine enforces: documents, inputs, allowed tools; and how it draws tokens and tells of them.

The real worker with the built-in model, which knows nothing of schemas: what is asserted is the form that it is left,
also at a temperature at which it would keep to none. tests/test_constraint.py has the same without an engine.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import openai
import pytest
import pytest_asyncio
from msgspec import structs
from pydantic import BaseModel, Field

from antiphon import config, schemas
from antiphon.config import Limits
from antiphon.core.prompt import Named, Offer, Prompt
from antiphon.core.toolbox import INPUT_PARAMETERS
from antiphon.core.unwrap import unwrapped
from antiphon.errors import InvalidRequest
from antiphon.models import llama_worker, tiny
from antiphon.models.local import LocalModel
from antiphon.wire.formats import JsonObjectFormat, JsonSchemaFormat
from antiphon.wire.items import FunctionCall, FunctionCallOutput, InputImage, InputText, Message
from antiphon.wire.tools import Grammar
from tests.conftest import WAIT_S, serve
from tests.embedded import TREE, WEATHER, Said, say

pytestmark = pytest.mark.asyncio(loop_scope="module")

Object = dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[LocalModel]:
    opened = LocalModel(tiny.settings(), Limits())
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wild(model: LocalModel) -> AsyncIterator[LocalModel]:
    """The same weights at a temperature at which they say anything."""
    settings = structs.replace(tiny.settings(), name="wild", temperature=2.0)
    opened = LocalModel(settings, Limits())
    yield opened
    await opened.close()


def closed(**properties: Object) -> Object:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


WORD = {"type": "string", "maxLength": 8}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
SCHEMAS: dict[str, Object] = {
    "nested objects": closed(a=closed(b=closed(c=WORD), d={"type": "boolean"})),
    "enum and const": closed(a={"enum": ["x y", 'q"', "é", None, 3.5]}, b={"const": {"k": [1]}}),
    "bounded array": closed(a={"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 3}),
    "definitions that recur": closed(root={"$ref": "#/$defs/node"})
    | {"$defs": {"node": closed(v=DIGIT, kids={"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1})}},
    "itself": closed(v=DIGIT, kids={"type": "array", "items": {"$ref": "#"}, "maxItems": 1}),
    "union": closed(a={"anyOf": [closed(kind={"const": "n"}, n=DIGIT), closed(kind={"const": "s"}, s=WORD)]}),
    "pattern": closed(a={"type": "string", "pattern": r"^[A-Z]{2}-\d{3}$"}, b={"type": "string", "format": "date"}),
    "numbers": closed(
        a={"type": "number", "minimum": 0, "maximum": 1}, b={"type": "integer", "minimum": -3, "maximum": 7}
    ),
    "nothing": closed(),
    "nullable": closed(a={"type": ["string", "null"], "maxLength": 3}),
}


def formatted(schema: Object, strict: bool | None = True) -> JsonSchemaFormat:
    return JsonSchemaFormat(name="answer", schema=schema, strict=strict)


def fault(schema: Object, text: str) -> str:
    return schemas.json_schema(schema, "")(text)


# -- documents


@pytest.mark.parametrize("effort", [None, "high"])
@pytest.mark.parametrize("name", SCHEMAS)
async def test_every_answer_fits_the_schema_and_is_one_line(wild: LocalModel, name: str, effort: Any) -> None:
    schema = SCHEMAS[name]
    asked: Object = {"format": formatted(schema), "effort": effort, "max_output_tokens": 500}
    rounds = [say(wild, f"Hello {number}", **asked) for number in range(4)]
    finished = [said for said in await asyncio.gather(*rounds) if said.finish.reason == "stop"]
    assert finished
    for said in finished:
        assert fault(schema, said.text) == ""
        assert "\n" not in said.text  # free white space is a trap in which weak models stay


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "numbers"])  # it writes 0.000 for ever
async def test_the_built_in_model_answers_within_the_schema_and_streams(model: LocalModel, name: str) -> None:
    said = await say(model, "Hello!", format=formatted(SCHEMAS[name]))
    assert said.finish.reason == "stop"
    assert fault(SCHEMAS[name], said.text) == ""
    assert said.pieces > 1 or said.text == "{}"


async def test_a_document_may_be_thought_about_first(model: LocalModel) -> None:
    """Whether it is, the model decides."""
    names = [name for name in SCHEMAS if name != "numbers"]
    rounds = [say(model, "Hello!", format=formatted(SCHEMAS[name]), effort="high") for name in names]
    answers = await asyncio.gather(*rounds)
    assert any(said.thought for said in answers)
    assert [fault(SCHEMAS[name], said.text) for name, said in zip(names, answers, strict=True)] == [""] * len(names)


async def test_a_schema_that_is_not_strict_is_kept_as_far_as_it_can_be(wild: LocalModel) -> None:
    schema = {"type": "object", "properties": {"a": DIGIT}, "required": ["a"], "not": {"required": ["b"]}}
    for said in await asyncio.gather(*(say(wild, "Hello", format=formatted(schema, None)) for _ in range(4))):
        assert fault(schema, said.text) == ""


async def test_an_answer_in_json_mode_is_an_object(model: LocalModel, wild: LocalModel) -> None:
    for one in (model, wild):
        said = await say(one, "Hello!", format=JsonObjectFormat(), max_output_tokens=300)
        if said.finish.reason == "stop":
            assert isinstance(json.loads(said.text), dict)
        assert said.text.startswith("{")


async def test_a_document_cut_by_the_limit_says_so(model: LocalModel) -> None:
    said = await say(model, "Hello!", format=formatted(SCHEMAS["nested objects"]), max_output_tokens=4)
    assert said.finish.reason == "length"
    assert said.text.startswith("{")


async def test_a_stop_string_does_not_break_a_document(model: LocalModel) -> None:
    asked = formatted(SCHEMAS["union"])
    assert await text(model, format=asked, stop=("{", "a", ",")) == await text(model, format=asked)


async def text(model: LocalModel, question: str = "Hello!", **asked: Any) -> str:
    return (await say(model, question, **asked)).text


async def test_what_of_a_schema_cannot_be_enforced_is_refused_and_placed(model: LocalModel) -> None:
    schema = closed(a={"type": "array", "uniqueItems": True})
    with pytest.raises(InvalidRequest, match=r'Unimplemented keys: \["uniqueItems"\] \(at properties.a\)') as caught:
        await say(model, "Hello!", format=formatted(schema))
    assert (caught.value.param, caught.value.code) == ("text.format.schema", "invalid_json_schema")


# -- documents beside tools


async def test_with_tools_the_model_answers_or_calls_and_both_fit(model: LocalModel) -> None:
    asked: Object = {"tools": (WEATHER, TREE), "format": formatted(SCHEMAS["union"])}
    answered = await say(model, "Hello!", **asked)
    called = await say(model, "What's the weather in Paris and London?", **asked)
    assert (answered.calls, answered.finish.reason) == ([], "stop")
    assert fault(SCHEMAS["union"], answered.text) == ""
    assert (called.text, called.finish.reason) == ("", "tool_calls")
    assert [arguments["location"] for _, arguments in called.calls] == ["Paris", "London"]


async def test_one_call_beside_a_document_is_one_though_the_model_would_make_two(model: LocalModel) -> None:
    asked: Object = {"tools": (WEATHER,), "format": formatted(SCHEMAS["union"]), "parallel_tool_calls": False}
    said = await say(model, "What's the weather in Paris and London?", **asked)
    assert said.calls == [("get_weather", {"location": "Paris"})]


@pytest.mark.parametrize("choice", ["required", Named("get_weather")])
async def test_a_call_that_must_come_comes_in_spite_of_a_format(model: LocalModel, choice: Any) -> None:
    said = await say(model, "Hello!", tools=(WEATHER,), format=formatted(SCHEMAS["union"]), tool_choice=choice)
    assert [name for name, _ in said.calls] == ["get_weather"]
    assert said.text == ""


async def test_with_tools_that_must_not_be_called_there_is_a_document(model: LocalModel) -> None:
    asked: Object = {"tools": (WEATHER,), "format": formatted(SCHEMAS["union"]), "tool_choice": "none"}
    said = await say(model, "What is the weather in Paris?", **asked)
    assert said.calls == []
    assert fault(SCHEMAS["union"], said.text) == ""


async def test_wild_answers_beside_tools_are_one_thing_or_the_other(wild: LocalModel) -> None:
    asked: Object = {"tools": (WEATHER, TREE), "format": formatted(SCHEMAS["union"]), "max_output_tokens": 400}
    questions = ["Hello!", "What is the weather in Paris?"] * 4
    for said in await asyncio.gather(*(say(wild, question, **asked) for question in questions)):
        if said.finish.reason == "stop":
            assert fault(SCHEMAS["union"], said.text) == ""
        assert not (said.text and said.calls)


# -- inputs by a grammar


def worded(name: str, definition: str, syntax: Literal["lark", "regex"] = "lark") -> Offer:
    grammar = Grammar(syntax=syntax, definition=definition)
    return Offer(name=name, description="Takes an input.", parameters=INPUT_PARAMETERS, grammar=grammar)


SUM = worded("sum", 'start: text\ntext: text "+" call | call\ncall: /[0-9]{1,3}/ | "(" text ")"\n%ignore / +/')
PATH = worded("path", r'[a-z/]{2,5}"\n\d', "regex")
PLAIN = Offer(name="note", description="Takes any text.", parameters=INPUT_PARAMETERS)
WORDED = {tool.name: tool for tool in (SUM, PATH)}


def check_inputs(said: Said) -> None:
    for name, arguments in said.calls:
        if name in WORDED and said.finish.reason == "tool_calls":
            grammar = WORDED[name].grammar
            assert grammar is not None
            assert schemas.grammar(grammar, "")(unwrapped(json.dumps(arguments))) == ""


@pytest.mark.parametrize("effort", [None, "high"])
@pytest.mark.parametrize("name", WORDED)
async def test_the_input_of_a_named_tool_fits_its_grammar(wild: LocalModel, name: str, effort: Any) -> None:
    asked: Object = {"tools": (WEATHER, *WORDED.values()), "tool_choice": Named(name), "effort": effort}
    rounds = [say(wild, f"Hello {number}", max_output_tokens=400, **asked) for number in range(6)]
    said = [one for one in await asyncio.gather(*rounds) if one.finish.reason != "length"]
    assert said
    for one in said:
        assert [called for called, _ in one.calls] == [name]
        check_inputs(one)


async def test_required_calls_of_every_kind_fit(wild: LocalModel) -> None:
    asked: Object = {"tools": (WEATHER, SUM, PATH, PLAIN), "tool_choice": "required", "max_output_tokens": 300}
    rounds = await asyncio.gather(*(say(wild, f"Compute {number} + 2", **asked) for number in range(12)))
    assert {name for said in rounds for name, _ in said.calls} & WORDED.keys()
    for said in rounds:
        assert said.calls
        check_inputs(said)


async def test_of_allowed_tools_one_is_called_and_its_input_fits(wild: LocalModel) -> None:
    asked: Object = {"tools": (WEATHER, SUM, PATH, PLAIN), "allowed": frozenset({"path"}), "tool_choice": "required"}
    for said in await asyncio.gather(*(say(wild, "What is the weather in Paris?", **asked) for _ in range(4))):
        assert [name for name, _ in said.calls] == ["path"]
        check_inputs(said)


async def test_beside_a_tool_with_a_grammar_a_model_may_talk_as_ever_and_streams(model: LocalModel) -> None:
    said = await say(model, "Hello!", tools=(WEATHER, SUM))
    assert (said.text, said.calls, said.finish.reason) == ("Hello! How can I help you today?", [], "stop")
    assert said.pieces > 5


async def test_beside_a_tool_with_a_grammar_others_are_called_as_ever(model: LocalModel) -> None:
    said = await say(model, "What's the weather in Paris and London?", tools=(WEATHER, SUM))
    assert [arguments["location"] for _, arguments in said.calls] == ["Paris", "London"]
    one = await say(model, "What's the weather in Paris and London?", tools=(WEATHER, SUM), parallel_tool_calls=False)
    assert one.calls == [("get_weather", {"location": "Paris"})]


async def test_a_model_that_chooses_to_call_a_tool_with_a_grammar_fits_it(wild: LocalModel) -> None:
    rounds = [say(wild, f"Compute {number} + 2", tools=(SUM, PATH), max_output_tokens=200) for number in range(16)]
    answers = await asyncio.gather(*rounds)
    assert any(said.calls for said in answers)
    for said in answers:
        check_inputs(said)


async def test_a_stop_string_ends_free_text_beside_a_tool_with_a_grammar(model: LocalModel) -> None:
    said = await say(model, "Count to 10", tools=(SUM,), stop=("5", "9"))
    assert (said.text, said.finish.reason) == ("1, 2, 3, 4, ", "stop")
    assert said.finish.usage is not None
    assert said.finish.usage.output_tokens > 5


# -- allowed tools


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_a_tool_that_is_not_allowed_is_not_called(wild: LocalModel, choice: str) -> None:
    asked: Object = {"tools": (WEATHER, TREE), "allowed": frozenset({TREE.name}), "tool_choice": choice}
    rounds = [say(wild, "What is the weather in Paris?", max_output_tokens=300, **asked) for _ in range(6)]
    for said in await asyncio.gather(*rounds):
        assert {name for name, _ in said.calls} <= {TREE.name}


async def test_an_allowed_tool_is_called_as_ever(model: LocalModel) -> None:
    asked: Object = {"tools": (TREE, WEATHER), "allowed": frozenset({"get_weather"})}
    said = await say(model, "What is the weather in Paris?", **asked)
    assert said.calls == [("get_weather", {"location": "Paris"})]


# -- how tokens are drawn and told

WILD: Object = {"temperature": 2.0, "top_p": 1.0, "min_p": 0.0, "top_k": 0, "max_output_tokens": 20}


async def texts(model: LocalModel, **asked: Any) -> set[str]:
    return {await text(model, "Tell me something.", **(WILD | asked)) for _ in range(4)}


async def test_a_seed_makes_an_answer_again(model: LocalModel) -> None:
    assert len(await texts(model)) > 1
    assert len(await texts(model, seed=11)) == 1
    assert await texts(model, seed=11) != await texts(model, seed=12)


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 0.0}], ids=lambda narrow: next(iter(narrow))
)
async def test_a_narrow_choice_of_tokens_leaves_one_answer(model: LocalModel, narrow: Object) -> None:
    assert len(await texts(model, **narrow)) == 1


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
async def test_a_penalty_changes_what_would_be_said_again(model: LocalModel, penalty: str) -> None:
    said = [await text(model, "Say no no no no.", max_output_tokens=60, **{penalty: value}) for value in (0.0, 2.0)]
    assert said[0].count("no") > said[1].count("no")


async def test_a_bias_brings_a_token_or_bars_it(model: LocalModel) -> None:
    first = (await say(model, "Hello!", top_logprobs=0)).logprobs[0]
    assert first.token == "Hello"
    tokens = await tokenized(model, "Hello")
    barred = await text(model, "Hello!", logit_bias={tokens[0]: -100})
    brought = await text(model, "Hello!", logit_bias={tokens[0]: 100}, max_output_tokens=3)
    assert not barred.startswith("Hello")
    assert brought == "HelloHelloHello"


async def tokenized(model: LocalModel, word: str) -> list[str]:
    worker, _ = await model._engine()
    address, key = worker.ready.address, worker.key
    answer = await asyncio.to_thread(asked_engine, address, key, word)
    return [str(token) for token in answer]


def asked_engine(address: str, key: str, word: str) -> list[int]:
    answer: Any = llama_worker.asked(address, key, "/tokenize", {"content": word})
    tokens: list[int] = answer["tokens"]
    return tokens


@pytest.mark.parametrize(
    "asked",
    [{}, {"tools": (WEATHER,)}, {"tools": (WEATHER, SUM)}, {"format": formatted(SCHEMAS["union"])}],
    ids=["plain", "tools", "grammar", "format"],
)
async def test_each_token_of_the_text_has_its_logprob(model: LocalModel, asked: Object) -> None:
    said = await say(model, "Hello!", top_logprobs=2, **asked)
    assert b"".join(bytes(score.bytes) for score in said.logprobs).decode() == said.text
    assert all(score.logprob <= 0 for score in said.logprobs)
    assert {len(score.top_logprobs) for score in said.logprobs} == {2}
    assert not any(score.top_logprobs for score in (await say(model, "Hello!", top_logprobs=0, **asked)).logprobs)


async def test_logprobs_beside_calls_are_none_of_the_texts(model: LocalModel) -> None:
    said = await say(model, "What is the weather in Paris?", tools=(WEATHER,), top_logprobs=1)
    assert said.calls
    assert said.logprobs == []


# -- pictures

PICTURE = InputImage(image_url="data:image/png;base64,AAAA")


@pytest.mark.parametrize(
    "items",
    [
        (Message(role="user", content=(InputText(text="What is this?"), PICTURE)),),
        (
            FunctionCall(call_id="1", name="look", arguments="{}"),
            FunctionCallOutput(call_id="1", output=(PICTURE,)),
        ),
    ],
    ids=["message", "output"],
)
async def test_a_picture_is_refused_by_a_model_that_cannot_see(model: LocalModel, items: Any) -> None:
    with pytest.raises(InvalidRequest, match="cannot see images") as caught:
        [_ async for _ in model.stream(Prompt(model="antiphon-tiny", items=items))]
    assert caught.value.param == "input"


# -- over HTTP, with the official SDK


class Step(BaseModel):
    title: str = Field(max_length=12)
    minutes: int = Field(ge=0, le=99)


class Recipe(BaseModel):
    dish: Literal["soup", "salad"]
    steps: list[Step] = Field(min_length=1, max_length=2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sdk() -> AsyncIterator[openai.AsyncOpenAI]:
    settings = config.Settings(models=(tiny.settings(),), storage=config.Storage(database=":memory:"))
    async with (
        serve(settings) as url,
        openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=WAIT_S) as client,
    ):
        yield client


async def test_the_sdk_gets_a_model_of_pydantic(sdk: openai.AsyncOpenAI) -> None:
    parsed = await sdk.responses.parse(model="antiphon-tiny", input="Hello!", text_format=Recipe)
    assert isinstance(parsed.output_parsed, Recipe)
    assert parsed.status == "completed"


async def test_the_sdk_gets_a_model_of_pydantic_streamed(sdk: openai.AsyncOpenAI) -> None:
    asked: Object = {
        "model": "antiphon-tiny",
        "input": "Hello!",
        "text_format": Recipe,
        "reasoning": {"effort": "high"},
    }
    async with sdk.responses.stream(**asked) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds.count("response.output_text.delta") > 5
    assert isinstance(final.output_parsed, Recipe)


async def test_the_sdk_gets_an_input_that_fits(sdk: openai.AsyncOpenAI) -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "(" /[0-9]{1,3}/ ")"'}
    tool: Any = {"type": "custom", "name": "sum", "format": grammar}
    choice: Any = {"type": "custom", "name": "sum"}
    made = await sdk.responses.create(model="antiphon-tiny", input="Hello!", tools=[tool], tool_choice=choice)
    (call,) = [item for item in made.output if item.type == "custom_tool_call"]
    assert call.input[0] + call.input[-1] == "()"
    assert call.input[1:-1].isdigit()
