"""Constraints and what is read of answers that keep them: pure, without an engine.

What a model might write is played by a walk: bytes drawn from those that the grammar leaves, as an engine would.
"""

import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import msgspec
import pytest
from llguidance import LLMatcher, LLTokenizer
from msgspec import structs

from antiphon import schemas
from antiphon.core.deltas import Delta, Finish, Text, Thought
from antiphon.core.prompt import Named, Offer, Prompt
from antiphon.core.toolbox import INPUT_PARAMETERS
from antiphon.core.unwrap import unwrapped
from antiphon.errors import InvalidRequest, ModelError
from antiphon.models.answer import Constrained
from antiphon.models.constraint import Constraint, arguments_schema, constraint, document_schema
from antiphon.models.llama_worker import Opening
from antiphon.models.local import request
from antiphon.wire.formats import JsonObjectFormat, JsonSchemaFormat
from antiphon.wire.items import Logprob
from antiphon.wire.response import Usage
from antiphon.wire.tools import Grammar
from tests.embedded import TREE, WEATHER, Said, prompt, put_together


def worded(name: str, definition: str, syntax: Any = "lark") -> Offer:
    return Offer(name=name, parameters=INPUT_PARAMETERS, grammar=Grammar(syntax=syntax, definition=definition))


FULL = structs.replace(TREE, name='a"b')
"""A name that no request may have, but quoting must stand."""
PATCH = worded(
    "patch",
    'start: begin line+ end // rules named like ours: call, text, before\nbegin: "*** Begin" LF\n'
    'line: "+" /[a-z "\\\\<]*/ LF\nend: "*** End" LF?\n%import common.LF',
)
SUM = worded("sum", 'start: text\ntext: text "+" call | call\ncall: /[0-9]{1,3}/ | "(" text ")"\n%ignore / +/')
PATH = worded("path", r'[a-z/]{2,5}"\d', "regex")
ANYTHING = worded("anything", r"start: /(.|\n)*/")
DOCUMENT = JsonSchemaFormat(
    name="d",
    schema={
        "type": "object",
        "properties": {"kind": {"enum": ["<tool_call>", "</tool_call>", 1]}, "names": {"type": "array", "maxItems": 2}},
        "required": ["kind", "names"],
        "additionalProperties": False,
    },
    strict=True,
)
TOOLSETS = ((WEATHER,), (WEATHER, PATCH), (SUM,), (PATH, TREE, SUM), (ANYTHING, WEATHER))
OPENINGS: dict[Opening, str] = {
    "answer": "",
    "thought": "so <tool_call></think>",
    "either": "<think>so <tool_call></think>\n\n",
}


def read(wanted: Constraint, pieces: Sequence[str], reason: Any = "stop", stop: tuple[str, ...] = ()) -> Said:
    reading = Constrained(wanted, stop)
    batches: list[list[Delta]] = []
    for piece in pieces:
        batches.append(reading.read([Text(piece)], []))
        if reading.is_over:
            return put_together(batches)
    return put_together([*batches, reading.read([Finish(reason)], [])])


def every_cut(text: str) -> Iterator[list[str]]:
    yield from ([text[:at], text[at:]] for at in range(len(text) + 1))
    yield from ([text[at : at + size] for at in range(0, len(text), size)] for size in (1, 2, 3, 7))


def same(said: Said) -> tuple[Any, ...]:
    return said.text, said.calls, said.finish


# -- what the grammar leaves, and what is read of it


@cache
def tokenizer() -> LLTokenizer:
    return LLTokenizer("byte")


LIKELY = frozenset(b'abcdefghijklmnopqrstuvwxyz0123456789"{}[],: +\n')


def walk(grammar: str, drawn: random.Random, start: str) -> tuple[str, bool]:
    """A text that begins so, and whether it may end where it does."""
    matcher = LLMatcher(tokenizer(), grammar, log_level=0)
    assert matcher.consume_tokens(tokenizer().tokenize_bytes(start.encode())), matcher.get_error()
    text = bytearray(start.encode())
    while len(text) < 400 and not (matcher.is_accepting() and drawn.random() < 0.3):
        bias = matcher.compute_logit_bias()
        free = [byte for byte in range(256) if bias[byte]]
        if not free:
            break
        byte = drawn.choice([byte for byte in free if byte in LIKELY] or free)
        assert matcher.consume_token(byte)
        text.append(byte)
    return text.decode(errors="ignore"), matcher.is_accepting()


@pytest.mark.parametrize("form", [None, JsonObjectFormat(), DOCUMENT], ids=["free", "object", "schema"])
@pytest.mark.parametrize("tools", TOOLSETS, ids=lambda tools: "-".join(tool.name for tool in tools))
@pytest.mark.parametrize("must_call", [False, True])
def test_whatever_the_grammar_leaves_is_read_as_calls_and_a_text_that_fit(
    must_call: bool, tools: tuple[Offer, ...], form: Any
) -> None:
    drawn = random.Random(7)  # noqa: S311 -- the same on every run
    for opening, thought in OPENINGS.items():
        for knows_tags in (True, False):
            wanted = Constraint(
                tools=tools, must_call=must_call, format=form, knows_tags=knows_tags, opening=opening, calls_max=3
            )
            for start in ("",) if must_call else ("", "<tool_call>", "" if form else "Let me see. <tool_call>"):
                text, is_whole = walk(wanted.grammar, drawn, thought + start)
                check_fits(wanted, text.removeprefix(thought), is_whole)


def check_fits(wanted: Constraint, text: str, is_whole: bool) -> None:
    reason = "stop" if is_whole else "length"
    said = read(wanted, [text], reason)
    assert same(read(wanted, list(text), reason)) == same(said)
    if not is_whole:
        return
    offers = {tool.name: tool for tool in wanted.tools}
    assert len(said.calls) <= wanted.calls_max
    for name, arguments in said.calls:
        assert fault(offers[name], arguments) == ""
    if wanted.must_call:
        assert said.calls
        assert said.text == ""
    elif wanted.format is not None:
        assert bool(said.calls) != bool(said.text)
        assert not said.text or isinstance(json.loads(said.text), dict)


def fault(tool: Offer, arguments: Any) -> str:
    document = json.dumps(arguments)
    if tool.grammar is not None:
        return schemas.grammar(tool.grammar, "")(unwrapped(document))
    return schemas.json_schema(arguments_schema(tool), "")(document)


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("knows_tags", [True, False])
@pytest.mark.parametrize("calls_max", [1, 32])
def test_every_form_of_the_grammar_compiles(opening: Opening, knows_tags: bool, calls_max: int) -> None:
    for must_call, form in ((True, None), (False, None), (False, DOCUMENT)):
        for tools in ((WEATHER, FULL), (PATCH,), (WEATHER, PATCH, PATH)):
            wanted = Constraint(
                tools=tools,
                must_call=must_call,
                calls_max=calls_max,
                format=form,
                knows_tags=knows_tags,
                opening=opening,
            )
            wanted.check(prompt("x", tools=tools))


# -- what is read, by example

CALL = '\n<tool_call>\n{"name": "a\\"b", "arguments": {"x": "}\\\\\\"{", "y": [{}, "]"]}}\n</tool_call>'
CALLS = CALL + '\n<tool_call>\n{"name": "c", "arguments": {}}\n</tool_call>'
READ = [('a"b', {"x": '}\\"{', "y": [{}, "]"]}), ("c", {})]
PATCHED = '*** Begin\n+"é\\\n</tool_call>\n+🙂\n*** End'
MUST = Constraint(tools=(FULL, PATCH), must_call=True)
MAY = structs.replace(MUST, must_call=False)
EITHER = structs.replace(MAY, format=DOCUMENT)
NO_TAGS = structs.replace(MUST, knows_tags=False)

EXAMPLES: dict[str, tuple[Constraint, str, str, list[tuple[str, Any]]]] = {
    "calls": (MUST, CALLS, "", READ),
    "calls without tags": (NO_TAGS, CALLS.replace("<tool_call>", "").replace("</tool_call>", ""), "", READ),
    "text": (MAY, "a < b <tool_cal> c <tool", "a < b <tool_cal> c <tool", []),
    "text and calls": (MAY, "I <b>will</b>: <tool_" + CALLS, "I <b>will</b>: <tool_\n", READ),
    "no text": (MAY, "", "", []),
    "document": (EITHER, '\n\n{"a": "<tool_call>"}', '{"a": "<tool_call>"}', []),
    "calls, no document": (EITHER, "\n" + CALLS, "", READ),
    "input": (MUST, '<tool_call>\n{"name": "patch"}\n' + PATCHED, "", [("patch", {"input": PATCHED})]),
    "input, closed": (
        MAY,
        'so<tool_call>\n{"name": "patch"}\n' + PATCHED + "\n</tool_call>",
        "so",
        [("patch", {"input": PATCHED})],
    ),
    "input without tags": (
        NO_TAGS,
        '{"name": "patch"}\nx\n</tool_call>',
        "",
        [("patch", {"input": "x\n</tool_call>"})],
    ),
    "call, input": (
        MUST,
        '<tool_call>\n{"name": "c", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "patch"}\n{"name": "c"}\n',
        "",
        [("c", {}), ("patch", {"input": '{"name": "c"}\n'})],
    ),
    "empty input": (MUST, '<tool_call>\n{"name": "patch"}\n', "", [("patch", {"input": ""})]),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_same_is_read_however_the_text_is_cut(example: str) -> None:
    wanted, text, spoken, calls = EXAMPLES[example]
    for pieces in every_cut(text):
        said = read(wanted, pieces)
        assert (said.text, said.calls, said.finish.reason) == (spoken, calls, "tool_calls" if calls else "stop")


@pytest.mark.parametrize("text", ["", "I would rather talk.", '{"name": "f", "arguments": {"a": 1', "x" * 5000])
def test_text_that_holds_no_whole_call_fails_the_turn(text: str) -> None:
    with pytest.raises(ModelError, match="did not make the call"):
        read(MUST, [text])


@pytest.mark.parametrize("text", ["so <tool_call>", '<tool_call>\n{"name": "f", "arguments": {"a": ]'])
def test_a_call_that_breaks_off_or_is_no_document_fails_the_turn_also_where_none_had_to_come(text: str) -> None:
    with pytest.raises(ModelError, match="did not make the call"):
        read(MAY, [text])


def test_what_the_limit_cuts_is_said_as_far_as_it_came() -> None:
    said = read(MUST, list('<tool_call>\n{"name": "patch"}\n*** Begin\n</tool'), "length")
    assert said.calls == [("patch", '{"input": "*** Begin\\n</tool')]
    assert read(MAY, ["so <tool"], "length").text == "so <tool"
    assert read(MUST, ["<tool_call>"], "length").finish.reason == "length"


def test_thoughts_pass() -> None:
    said = put_together([Constrained(EITHER).read([Thought("so"), Text("{}"), Finish("stop")], [])])
    assert (said.thought, said.text) == ("so", "{}")


# -- stop strings


@pytest.mark.parametrize(
    ("stop", "spoken"),
    [(("END",), "one two "), (("wo", "two"), "one "), (("E", "END"), "one two "), (("<tool", "never"), "one two END")],
)
def test_a_stop_string_ends_free_text_however_it_is_cut(stop: tuple[str, ...], spoken: str) -> None:
    timed = b'{"timings":{"cache_n":3,"prompt_n":4,"predicted_n":5}}'
    for pieces in every_cut("one two END" + CALLS):
        reading = Constrained(MAY, stop)
        deltas = []
        for piece in pieces:
            if not reading.is_over:
                deltas += reading.read([Text(piece)], [timed])
        said = put_together([deltas])
        assert (said.text.rstrip("\n"), said.calls, said.finish.reason) == (spoken, [], "stop")
        assert isinstance(said.finish.usage, Usage)
        assert said.finish.usage.total_tokens == 12


@pytest.mark.parametrize("example", ["calls", "document", "input, closed", "text and calls"])
def test_a_stop_string_is_text_like_any_other_in_calls_and_documents(example: str) -> None:
    wanted, text, _, _ = EXAMPLES[example]
    for pieces in every_cut(text):
        assert same(read(wanted, pieces, stop=("\\", "}"))) == same(read(wanted, [text]))


def test_the_engine_is_not_told_of_stop_strings_and_formats_that_are_not_its_own() -> None:
    asked = prompt(
        "x", tools=(WEATHER,), tool_choice="required", stop=("{",), format=DOCUMENT, parallel_tool_calls=False
    )
    body = request(asked, None, None, constraint(asked, True, "answer"))
    assert body.keys() >= {"grammar", "timings_per_token"}
    assert body.keys().isdisjoint({"stop", "response_format", "parallel_tool_calls"})
    assert body["tool_choice"] == "none"
    assert body["tools"]


# -- logprobs


def scored(*tokens: str) -> list[Delta]:
    return [
        Text(token, logprobs=(Logprob(token=token, bytes=tuple(token.encode()), logprob=-1.0),)) for token in tokens
    ]


@pytest.mark.parametrize("wanted", [MAY, EITHER])
def test_logprobs_stay_with_the_text_of_their_tokens(wanted: Constraint) -> None:
    tokens = ("{", '"é', "<tool", "_", "cull", "🙂", '"', "}<")
    said = put_together([Constrained(wanted).read([*scored(*tokens), Finish("stop")], [])])
    assert said.text == "".join(tokens)
    assert [score.token for score in said.logprobs] == list(tokens)


def test_logprobs_of_calls_are_not_given_to_the_text_before_them() -> None:
    deltas = [*scored("so", " <", "tool_call>", '\n{"name": "c", "arguments": {', "}}"), Finish("stop")]
    said = put_together([Constrained(MAY).read(deltas, [])])
    assert (said.text, said.calls) == ("so ", [("c", {})])
    assert [score.token for score in said.logprobs] == ["so"]


# -- what a prompt needs


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"tools": (WEATHER,)},
        {"tools": (WEATHER,), "parallel_tool_calls": False},
        {"tools": (WEATHER, PATCH), "tool_choice": "none"},
        {"tools": (WEATHER, PATCH), "allowed": frozenset({"get_weather"}), "tool_choice": "none"},
    ],
)
def test_plain_requests_are_not_constrained(asked: dict[str, Any]) -> None:
    assert constraint(prompt("x", **asked), True, "answer") is None
    assert "grammar" not in request(prompt("x", **asked), None, None)


def names(wanted: Constraint | None) -> list[str]:
    assert wanted is not None
    return [tool.name for tool in wanted.tools]


def test_only_tools_that_may_be_called_are_in_the_grammar() -> None:
    tools = (WEATHER, TREE, PATCH)
    allowed: dict[str, Any] = {"tools": tools, "allowed": frozenset({"get_weather", "patch"})}
    assert names(constraint(prompt("x", **allowed), True, "answer")) == ["get_weather", "patch"]
    assert names(constraint(prompt("x", **allowed, tool_choice="required"), False, "answer")) == [
        "get_weather",
        "patch",
    ]
    assert names(constraint(prompt("x", tools=tools, tool_choice=Named("patch")), True, "answer")) == ["patch"]
    assert names(constraint(prompt("x", tools=tools, tool_choice="none", format=DOCUMENT), True, "answer")) == []


def test_where_a_template_has_its_own_form_of_calls_a_narrowed_choice_leaves_it_alone() -> None:
    asked = prompt("x", tools=(WEATHER, TREE), allowed=frozenset({"get_weather"}))
    assert names(constraint(asked, True, "answer")) == ["get_weather"]
    assert constraint(asked, False, "answer") is None


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({"tool_choice": "required"}, 32),
        ({"tool_choice": "required", "parallel_tool_calls": False}, 1),
        ({"tool_choice": Named("get_weather")}, 1),
        ({"format": DOCUMENT}, 32),
        ({"format": DOCUMENT, "parallel_tool_calls": False}, 1),
    ],
)
def test_as_many_calls_are_left_as_may_come(asked: dict[str, Any], most: int) -> None:
    wanted = constraint(prompt("x", tools=(WEATHER,), **asked), True, "answer")
    assert wanted is not None
    call = '\n{"name": "get_weather", "arguments": {"location": "x"}}\n</tool_call>'
    matcher = LLMatcher(tokenizer(), wanted.grammar)
    for count in range(most):
        text = "<tool_call>" + call if not count else "\n<tool_call>" + call
        assert matcher.consume_tokens(tokenizer().tokenize_bytes(text.encode()))
    assert matcher.is_accepting()
    assert not matcher.compute_ff_bytes()
    assert matcher.is_stopped() or not any(matcher.compute_logit_bias()[:256])


def test_a_tool_without_parameters_takes_none_and_an_open_object_stays_open() -> None:
    assert arguments_schema(Offer(name="f"))["additionalProperties"] is False
    assert "additionalProperties" not in arguments_schema(Offer(name="f", parameters={"type": "object"}))


def test_a_schema_that_is_not_strict_is_a_hint() -> None:
    hint = structs.replace(DOCUMENT, strict=None, schema={"not": {"type": "string"}})
    Constraint(format=hint).check(prompt("x"))
    assert document_schema(hint)["x-guidance"]["lenient"]
    with pytest.raises(InvalidRequest, match="Unimplemented keys"):
        Constraint(format=structs.replace(hint, strict=True)).check(prompt("x"))


@pytest.mark.parametrize(
    ("wanted", "param", "code"),
    [
        (
            Constraint(format=structs.replace(DOCUMENT, schema={"type": "array", "uniqueItems": True})),
            "text.format.schema",
            "invalid_json_schema",
        ),
        (Constraint(tools=(WEATHER, worded("w", "start: <nothing>"))), "tools[1].format.definition", "invalid_grammar"),
        (
            Constraint(tools=(WEATHER, Offer(name="f", parameters={"properties": {"a": {"$ref": "#/no"}}}))),
            "tools[1].parameters",
            "invalid_function_parameters",
        ),
    ],
)
def test_what_cannot_be_enforced_is_named(wanted: Constraint, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wanted.check(prompt("x", tools=wanted.tools))
    assert (caught.value.param, caught.value.code) == (param, code)


def test_where_a_schema_is_at_fault_is_told() -> None:
    bad = {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "string", "pattern": "(?=a)"}]}
    schema = {"type": "object", "properties": {"x": bad}, "$defs": {"a": {"type": "null"}}}
    with pytest.raises(InvalidRequest, match=r"look-around.* \(at properties\.x\.anyOf\[1\]\)$"):
        Constraint(format=structs.replace(DOCUMENT, schema=schema)).check(prompt("x"))


# -- what a model is told


def told(asked: Prompt, knows_tags: bool = True) -> str:
    return msgspec.json.encode(request(asked, None, None, constraint(asked, knows_tags, "answer"))).decode()


def test_a_model_is_told_the_form_of_what_its_template_does_not_know() -> None:
    assert '\\"enum\\": [\\"<tool_call>' in json.dumps(json.loads(told(prompt("x", format=DOCUMENT)))["messages"])
    assert "one JSON object" in told(prompt("x", format=JsonObjectFormat()))
    assert '{\\"name\\": \\"patch\\"}' in told(prompt("x", tools=(PATCH,)))
    assert "To call a tool" in told(prompt("x", tools=(WEATHER,), format=DOCUMENT), knows_tags=False)


def test_a_model_is_not_told_what_it_knows_or_does_not_need() -> None:
    assert "To call a tool" not in told(prompt("x", tools=(WEATHER,), format=DOCUMENT))
    assert "JSON" not in told(prompt("x", tools=(WEATHER,), format=DOCUMENT, tool_choice="required"))
