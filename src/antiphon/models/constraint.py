"""Constraint: what one answer may be, as a grammar that leaves a model no other text. Pure; knows no process, no HTTP.

    answer   thought? (text | document | calls, perhaps after some text)
    calls    (call newline)* (call | worded)
    call     the tool's name, and JSON arguments by its schema, between the tags that chat templates use
    worded   the tool's name, and then its input, by its own grammar and as it is, up to the end of the answer

llama.cpp promises none of this: its `required` lets a model talk, its `response_format` now and then fails after the
fact, and it takes no grammar beside tools (pitfalls 3 and 4 of docs/llama-cpp.md). So the tools are shown as ever, the
answer is plain text to llama.cpp, and answer.py takes the calls out of it again.

An input may be any text, also one that looks like its own end. Only the end of the answer can be no part of it: that is
why a worded call is the last of its turn.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

from msgspec import Struct, structs

from antiphon.core.prompt import Named, Offer, Prompt
from antiphon.errors import ApiError, InvalidRequest
from antiphon.models.chatbody import Object
from antiphon.models.llama_worker import Opening
from antiphon.schemas import grammar_fault, lark, references_fault
from antiphon.wire.formats import JsonObjectFormat, JsonSchemaFormat

CALLS_MAX = 32
"""Calls in one answer: a model that would call for ever must end."""
OPEN_TAG, CLOSE_TAG = "<tool_call>", "</tool_call>"
COMPACT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
"""How models write JSON; free white space is a trap in which weak ones stay."""
LENIENT = {"lenient": True, "coerce_one_of": True}
"""A schema that is not strict is a hint: what cannot be enforced of it is left out."""
BAD_PARAMETERS = "invalid_function_parameters"
HEADER = "%llguidance {}\n"
PARTS_MAX = 300
"""Parts of a faulty schema that are tried by themselves, a millisecond each, to tell where the fault is."""

Format: TypeAlias = JsonObjectFormat | JsonSchemaFormat


class Constraint(Struct, frozen=True, kw_only=True):
    """`tools` may be called, and nothing else; `format` is what the text must be, None where it is free.

    `knows_tags` says whether the template writes calls between the tags; `opening`, what the model writes first.
    """

    tools: tuple[Offer, ...] = ()
    must_call: bool = False
    calls_max: int = CALLS_MAX
    format: Format | None = None
    knows_tags: bool = True
    opening: Opening = "answer"

    @property
    def has_tags(self) -> bool:
        """Where there may be text, a call must begin like no text."""
        return self.knows_tags or not self.must_call

    @property
    def grammar(self) -> str:
        rules = [f"start: {_THOUGHTS[self.opening]}({' | '.join(self._forms())})"]
        if self.tools:
            rules += self._calls()
        if not self.must_call and self.format is not None:
            rules.append(f"document: {_json(document_schema(self.format))}")
        elif not self.must_call:
            rules += [f"text: {_ANYTHING}", f'before[suffix="{OPEN_TAG}"]: {_ANYTHING}']
        if self.opening == "either":
            rules += ["think: open thought gap", 'open[lazy]: "<think>"']  # lazy, or the text would swallow it
        if self.opening != "answer":
            rules += [f'thought[suffix="</think>"]: {_ANYTHING}', r"gap: /\n{0,2}/"]
        return HEADER + "\n".join(rules)

    def _forms(self) -> Iterator[str]:
        """What may follow the thought. No document begins as a tag does, so its first character tells them apart."""
        calls = f"{_quoted(OPEN_TAG)} calls" if self.has_tags else "calls"
        if self.must_call:
            yield calls
        elif self.format is not None:
            yield "document"
            if self.tools:
                yield calls
        else:
            yield "text"
            if self.tools:
                yield "before calls"

    def _calls(self) -> Iterator[str]:
        """Each tool has a document or a grammar of its own, so that its `$defs`, "#" and rules mean what they say."""
        plain = [f"call_{number}" for number, tool in enumerate(self.tools) if tool.grammar is None]
        worded = [f"call_{number}" for number, tool in enumerate(self.tools) if tool.grammar is not None]
        more = ""
        if plain and self.calls_max > 1:
            between = "\n" + (OPEN_TAG if self.has_tags else "")
            more = f"(({' | '.join(plain)}) {_quoted(between)}){{0,{self.calls_max - 1}}} "
        yield f"calls: {more}({' | '.join(plain + worded)})"
        before, after = ("\n", f"\n{CLOSE_TAG}") if self.has_tags else ("", "")
        for number, tool in enumerate(self.tools):
            head = f'{before}{{"name": {_quoted(tool.name)}'
            if tool.grammar is None:
                yield f"call_{number}: {_quoted(head + ARGUMENTS)} arguments_{number} {_quoted('}' + after)}"
                yield f"arguments_{number}: {_json(arguments_schema(tool))}"
            else:
                yield f"call_{number}: {_quoted(head + INPUT)} input_{number}"
                yield f"input_{number}: %lark {{\n{lark(tool.grammar)}\n}}"

    def told(self, prompt: Prompt) -> Prompt:
        """The prompt, which says what the answer must be: a grammar bars ways but shows none, and templates know
        neither formats nor inputs."""
        worded = {tool.name for tool in self.tools if tool.grammar is not None}
        tools = tuple(self._explained(tool) if tool.name in worded else tool for tool in prompt.tools)
        notes = [] if self.must_call or self.format is None else [_told_format(self.format, bool(self.tools))]
        if self.tools and self.has_tags and not self.knows_tags:
            notes.append(HOW_TO_CALL)
        instructions = "\n\n".join(filter(None, (prompt.instructions, *notes))) or None
        return structs.replace(prompt, tools=tools, instructions=instructions)

    def _explained(self, tool: Offer) -> Offer:
        opening = OPEN_TAG + "\n" if self.has_tags else ""
        form = f"{opening}{{{_NAME}{_quoted(tool.name)}{INPUT}"
        how = f"Its input is not written as JSON. A call of it is this, followed by the input as it is:\n{form}"
        return structs.replace(tool, description="\n\n".join(filter(None, (tool.description, how))))

    def check(self, prompt: Prompt) -> None:
        """Raises InvalidRequest, which says what of the prompt is at fault, when there is no such grammar: llama.cpp
        drops one that does not compile without a word (pitfall 5)."""
        for tool in self.tools:
            if fault := references_fault(tool.parameters or {}):
                raise _bad_tool(prompt.tools, tool, fault)
        if isinstance(self.format, JsonSchemaFormat) and (fault := references_fault(self.format.schema)):
            raise _bad_format(self.format, fault)
        if fault := grammar_fault(self.grammar):
            bad_format = None if self.must_call else _faulty_format(self.format)
            bad = bad_format or _faulty_tool(prompt.tools, self.tools)
            raise bad or InvalidRequest(fault, param="tools" if self.tools else "text.format")


_NAME = '"name": '
ARGUMENTS = ', "arguments": '
INPUT = "}\n"
HOW_TO_CALL = (
    f"To call a tool, write nothing but this: {OPEN_TAG}\n"
    f'{{"name": "the_name_of_the_tool", "arguments": {{"the_parameter": "its value"}}}}\n{CLOSE_TAG}'
)
_ANYTHING = r"/(.|\n)*/"
_THOUGHTS: dict[Opening, str] = {"answer": "", "thought": "thought gap ", "either": "think? "}
"""The constraint begins at the first token, so a model that thinks must be given its thought (pitfall 5)."""


def constraint(prompt: Prompt, knows_tags: bool, opening: Opening) -> Constraint | None:
    """What must be enforced of a prompt; None: nothing, llama.cpp's own way will do.

    That some tools must not be called is enforced only where the template has the tags. Elsewhere a model has its own
    form of calls, which is worth more: the few calls that are wrong then are refused by the run, and made anew.
    """
    must_call = prompt.tool_choice == "required" or isinstance(prompt.tool_choice, Named)
    tools = tuple(tool for tool in prompt.tools if _may_be_called(tool, prompt))
    if must_call and not tools:
        raise InvalidRequest("The tool_choice names no tool of this request.", param="tool_choice")
    is_narrowed = prompt.allowed is not None and prompt.tool_choice == "auto" and knows_tags
    if not (must_call or prompt.format or is_narrowed or any(tool.grammar for tool in tools)):
        return None
    is_single = isinstance(prompt.tool_choice, Named) or not prompt.parallel_tool_calls
    return Constraint(
        tools=tools,
        must_call=must_call,
        calls_max=1 if is_single else CALLS_MAX,
        format=prompt.format,
        knows_tags=knows_tags,
        opening=opening,
    )


def _may_be_called(tool: Offer, prompt: Prompt) -> bool:
    if isinstance(prompt.tool_choice, Named):
        return tool.name == prompt.tool_choice.name
    return prompt.tool_choice != "none" and (prompt.allowed is None or tool.name in prompt.allowed)


def arguments_schema(tool: Offer) -> Object:
    schema = (tool.parameters or {"properties": {}}) | {"type": "object"}
    return _guided(schema, is_strict=bool(tool.strict))


def document_schema(wanted: Format) -> Object:
    if isinstance(wanted, JsonSchemaFormat):
        return _guided(wanted.schema, is_strict=bool(wanted.strict))
    return _guided({"type": "object"}, is_strict=True)


def _guided(schema: Object, *, is_strict: bool) -> Object:
    """The schema of a document that closes: an object has nothing that the schema leaves open and does not name."""
    if "properties" in schema and not schema.keys() & {"$ref", "allOf", "anyOf", "oneOf", "patternProperties"}:
        schema = {"additionalProperties": False} | schema
    return schema | {"x-guidance": COMPACT | ({} if is_strict else LENIENT)}


def _told_format(wanted: Format, may_call: bool) -> str:
    answer = "Unless you call a tool, answer" if may_call else "Answer"
    if not isinstance(wanted, JsonSchemaFormat):
        return f"{answer} with one JSON object, and nothing else."
    about = f" ({wanted.description})" if wanted.description else ""
    return f"{answer} with one JSON document{about}, and nothing else. Its JSON Schema:\n{json.dumps(wanted.schema)}"


# -- what is at fault


def check_takes_object(tools: Sequence[Offer], tool: Offer) -> None:
    kinds = (tool.parameters or {}).get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise _bad_tool(tools, tool, f"its type must be object, not {kinds}")


def blamed(error: ApiError, tools: Sequence[Offer]) -> InvalidRequest | None:
    """The engine's trouble with a schema, as the fault of the tool it means, which llama.cpp does not say."""
    _, found, fault = error.message.partition("JSON schema error at ")
    if not found and "empty grammar stack" not in error.message:  # the latter is where an unsatisfiable one ends
        return None
    unnamed = InvalidRequest(f"Invalid schema at {fault}", param="tools", code=BAD_PARAMETERS) if found else None
    return _faulty_tool(tools, tools) or unnamed


def _faulty_format(wanted: Format | None) -> InvalidRequest | None:
    if not isinstance(wanted, JsonSchemaFormat) or not (fault := _schema_fault(document_schema(wanted))):
        return None
    return _bad_format(wanted, fault)


def _bad_format(wanted: JsonSchemaFormat, fault: str) -> InvalidRequest:
    message = f"Invalid schema for response_format '{wanted.name}': {fault}"
    return InvalidRequest(message, param="text.format.schema", code="invalid_json_schema")


def _faulty_tool(tools: Sequence[Offer], suspects: Iterable[Offer]) -> InvalidRequest | None:
    for tool in suspects:
        if tool.grammar is not None:
            if fault := grammar_fault(HEADER + lark(tool.grammar)):
                param = f"tools[{tools.index(tool)}].format.definition"
                return InvalidRequest(f"Invalid grammar: {fault}", param=param, code="invalid_grammar")
        elif fault := _schema_fault(arguments_schema(tool)):
            return _bad_tool(tools, tool, fault)
    return None


def _bad_tool(tools: Sequence[Offer], tool: Offer, fault: str) -> InvalidRequest:
    param = f"tools[{tools.index(tool)}].parameters"
    return InvalidRequest(f"Invalid schema for function '{tool.name}': {fault}", param=param, code=BAD_PARAMETERS)


def _schema_fault(schema: Object) -> str:
    """What is wrong, and in which part; empty when nothing is."""
    if not (fault := _compile_fault(schema)):
        return ""
    shared = {name: schema[name] for name in ("$defs", "definitions", "x-guidance") if name in schema}
    parts = islice(_parts(schema, ""), PARTS_MAX)
    place = next((path for path, part in parts if _compile_fault(shared | part) == fault), "")
    return f"{fault} (at {place})" if place else fault


def _compile_fault(schema: Object) -> str:
    return grammar_fault(f"{HEADER}start: {_json(schema)}")


def _parts(node: Any, path: str) -> Iterator[tuple[str, Object]]:
    """The objects within, each with its place, the innermost first."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        place = f"{path}[{key}]" if isinstance(node, list) else f"{path}.{key}".lstrip(".")
        yield from _parts(value, place)
        if isinstance(value, dict):
            yield place, value


def _json(schema: Object) -> str:
    return f"%json {json.dumps(schema)}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
