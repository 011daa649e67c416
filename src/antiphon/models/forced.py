"""Calls that must come: the grammar that leaves a model no other text, and the calls taken out of it again.

llama.cpp's own `required` promises nothing (pitfall 3 of docs/llama-cpp.md). Pure; knows no process and no HTTP.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import structs

from antiphon.core.deltas import Delta, Finish, Text, ToolCall
from antiphon.core.prompt import Named, Offer, Prompt
from antiphon.errors import ApiError, InvalidRequest, ModelError
from antiphon.models.chatbody import Object
from antiphon.models.llama_worker import Opening
from antiphon.schemas import grammar_fault

CALLS_MAX = 32
"""Calls in one required answer: a model that would call for ever must end."""
HEAD_CHARS_MAX = 4096
"""Text in which the head of a call must begin and end; names are far shorter. More is no call."""


class Answer:
    """Makes of what is read what the turn says, read by read. This one passes everything on."""

    is_over = False
    """The rest of the answer is not wanted."""

    def read(self, deltas: list[Delta], payloads: list[bytes]) -> list[Delta]:
        del payloads
        return deltas


def forced(prompt: Prompt, tags_calls: bool, opening: Opening) -> Object:
    """What to change in a body so that the answer is calls, and nothing else (pitfall 3).

    llama.cpp's own `required` lets a model talk before it calls, or never call. So the tools are shown as ever, the
    answer is plain text to llama.cpp, and a grammar leaves the model no other text than calls.
    """
    chosen = [tool for tool in prompt.tools if prompt.tool_choice in ("required", Named(tool.name))]
    if not chosen:
        raise InvalidRequest("The tool_choice names no tool of this request.", param="tool_choice")
    calls_max = CALLS_MAX if prompt.parallel_tool_calls and prompt.tool_choice == "required" else 1
    grammar = call_grammar(chosen, tags_calls, opening, calls_max)
    # A grammar that does not compile is dropped by llama.cpp without a word, so that it must be tried here (pitfall 5).
    if fault := grammar_fault(grammar):
        raise _faulty_schema(prompt.tools, chosen) or InvalidRequest(fault, param="tools", code=BAD_SCHEMA)
    unset = {"parallel_tool_calls": None, "stop": None}  # a stop string inside a call's arguments would break them
    return {"tool_choice": "none", "grammar": grammar, **unset}


THOUGHTS: dict[Opening, str] = {"answer": "", "thought": "thought gap ", "either": "think? "}
COMPACT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
"""How models write JSON; free white space is a trap in which weak ones stay."""
LENIENT = {"lenient": True, "coerce_one_of": True}
"""A schema that is not strict is a hint: what cannot be enforced of it is left out."""
BAD_SCHEMA = "invalid_function_parameters"


def call_grammar(tools: Sequence[Offer], tags_calls: bool, opening: Opening, calls_max: int) -> str:
    """Each tool has its own JSON document, so that its `$defs` and "#" mean what they say.

    The constraint begins at the first token, so a model that thinks must be given its thought (pitfall 5).
    """
    before, after = ("<tool_call>\n", "\n</tool_call>") if tags_calls else ("", "")
    more = f' ("\\n" call){{0,{calls_max - 1}}}' if calls_max > 1 else ""
    rules = [f"start: {THOUGHTS[opening]}call{more}", "call: " + " | ".join(f"call_{i}" for i in range(len(tools)))]
    for number, tool in enumerate(tools):
        head = f'{before}{{"name": {_quoted(tool.name)}, "arguments": '
        rules.append(f"call_{number}: {_quoted(head)} arguments_{number} {_quoted('}' + after)}")
        rules.append(f"arguments_{number}: %json {json.dumps(arguments_schema(tool))}")
    if opening == "either":
        rules.append('think: "<think>" thought gap')
    if opening != "answer":
        rules += ['thought[suffix="</think>"]: /(.|\\n)*/', "gap: /\\n{0,2}/"]
    return "\n".join(("%llguidance {}", *rules))


def arguments_schema(tool: Offer) -> Object:
    """The tool's parameters as an object that closes: nothing it does not name, where the schema leaves that open."""
    schema = (tool.parameters or {"properties": {}}) | {"type": "object"}
    if "properties" in schema and not schema.keys() & {"$ref", "allOf", "anyOf", "oneOf", "patternProperties"}:
        schema.setdefault("additionalProperties", False)
    return schema | {"x-guidance": COMPACT | ({} if tool.strict else LENIENT)}


def _faulty_schema(tools: Sequence[Offer], suspects: Iterable[Offer]) -> InvalidRequest | None:
    for tool in suspects:
        if fault := grammar_fault(f"%llguidance {{}}\nstart: %json {json.dumps(arguments_schema(tool))}"):
            return _bad_schema(tools, tool, fault)
    return None


def check_takes_object(tools: Sequence[Offer], tool: Offer) -> None:
    kinds = (tool.parameters or {}).get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise _bad_schema(tools, tool, f"its type must be object, not {kinds}")


def _bad_schema(tools: Sequence[Offer], tool: Offer, fault: str) -> InvalidRequest:
    param = f"tools[{tools.index(tool)}].parameters"
    return InvalidRequest(f"Invalid schema for function '{tool.name}': {fault}", param=param, code=BAD_SCHEMA)


def blamed(error: ApiError, tools: Sequence[Offer]) -> InvalidRequest | None:
    """The engine's trouble with a schema, as the fault of the tool it means, which llama.cpp does not say."""
    _, found, fault = error.message.partition("JSON schema error at ")
    if not found and "empty grammar stack" not in error.message:  # the latter is where an unsatisfiable one ends
        return None
    unnamed = InvalidRequest(f"Invalid schema at {fault}", param="tools", code=BAD_SCHEMA) if found else None
    return _faulty_schema(tools, tools) or unnamed


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class ForcedCalls(Answer):
    """Takes calls out of the text that the grammar made, piece by piece; thoughts and the Finish pass."""

    _HEAD = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')

    def __init__(self) -> None:
        self._held = ""
        self._count = 0
        self._arguments: _Nesting | None = None

    def read(self, deltas: list[Delta], payloads: list[bytes]) -> list[Delta]:
        del payloads
        found: list[Delta] = []
        for delta in deltas:
            match delta:
                case Text(text):
                    self._hear(text, found)
                case Finish("stop"):
                    found.append(structs.replace(delta, reason=self._reason_to_stop()))
                case _:
                    found.append(delta)
        return found

    def _hear(self, text: str, found: list[Delta]) -> None:
        while text:
            if self._arguments is None:
                text = self._seek_head(text, found)
            else:
                length = self._arguments.length_in(text)
                found.append(ToolCall(str(self._count), arguments=text[:length]))
                if self._arguments.is_closed:
                    if text[length - 1] != "}":
                        raise _uncalled()
                    self._arguments = None
                text = text[length:]

    def _seek_head(self, text: str, found: list[Delta]) -> str:
        """What follows the head of a call, if it ends in this text."""
        self._held += text
        if len(self._held) > HEAD_CHARS_MAX:
            raise _uncalled()
        if not (head := self._HEAD.search(self._held)):
            return ""
        text, self._held = self._held[head.end() :], ""
        self._count += 1
        self._arguments = _Nesting()
        found.append(ToolCall(str(self._count), name=json.loads(head[1])))
        return text

    def _reason_to_stop(self) -> Literal["tool_calls"]:
        if not self._count or self._arguments is not None:
            raise _uncalled()
        return "tool_calls"


def _uncalled() -> ModelError:
    return ModelError("The model did not make the call that tool_choice asks for.")


class _Nesting:
    """How deep a JSON document, which is an object, is open as it comes."""

    _depth = 0
    _is_in_string = _is_escaped = is_closed = False

    def length_in(self, text: str) -> int:
        """How much of the text belongs to the document."""
        for at, character in enumerate(text, 1):
            if self._is_in_string:
                self._is_in_string = self._is_escaped or character != '"'
                self._is_escaped = character == "\\" and not self._is_escaped
            else:
                self._is_in_string = character == '"'
                self._depth += (character in "{[") - (character in "}]")
                if not self._depth:
                    self.is_closed = True
                    return at
        return len(text)
