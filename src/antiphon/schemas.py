"""Schemas and grammars: whether they are sound, and whether a text fits them. Knows no request and no model.

jsonschema-rs and llguidance are loaded when they are first needed. The latter also constrains the embedded model, so
that what is enforced there and checked elsewhere is the same language.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any
from urllib.parse import unquote

import msgspec

from antiphon.core.ports import TextCheck
from antiphon.errors import InvalidRequest, InvalidValue
from antiphon.wire.tools import Grammar, JsonObject

FAULT_CHARS_MAX = 300
"""Of what is wrong with a text, in a message."""
GRAMMAR_CHARS_MAX = 16_000
"""Rules that refer to each other in a chain are followed on the stack: some thousands of them end the process."""
CHECK_S = 2.0
"""A grammar that can be read in very many ways takes for ever; a common one takes a second for a million characters."""
CHECK_BYTES = 4
"""Read between two looks at the clock: one alone may take 30 ms."""
FOLLOWED_MAX = 200
"""References from one to the next: each is a step down our own stack."""
REFERENCES_MAX = 250
"""Different ones in a schema that becomes a grammar: followed on the stack, some hundreds of them end the process."""
PARTS_MAX = 50_000
"""Values in a schema, some ten times what the original takes: to compile 100,000 holds up all others for a second."""
COMBINED_MAX = 10_000
"""Schemas that combine to judge one value: a few that refer twice to the next would otherwise be millions."""


def json_object(text: str) -> str:
    """Why a text is no JSON object."""
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"it is no JSON: {error}"
    return "" if isinstance(document, dict) else "it is no JSON object"


def json_schema(schema: JsonObject, param: str) -> TextCheck:
    """A check of texts against a JSON Schema (draft 2020-12 unless it says otherwise). Raises InvalidRequest, which
    says where, when that is none."""
    validator = _validator(schema, param, "invalid_json_schema")
    can_say_why = not _grows_too_far(schema)

    def check(text: str) -> str:
        try:
            document = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            return f"it is no JSON: {error}"
        if validator.is_valid(document):
            return ""
        fault = next(validator.iter_errors(document), None) if can_say_why else None
        return (
            "it does not fit the schema" if fault is None else f"at {_path(fault)}: {fault.message[:FAULT_CHARS_MAX]}"
        )

    return check


def check_parameters(schema: JsonObject, param: str) -> None:
    """Raises InvalidRequest when a strict function's parameters are no JSON Schema."""
    _validator(schema, param, "invalid_function_parameters")


def _validator(schema: JsonObject, param: str, code: str) -> Any:
    engine: Any = import_module("jsonschema_rs")
    try:
        _refuse_heavy(schema)
        return engine.validator_for(schema, retriever=_refuse_to_fetch)
    except (engine.ValidationError, engine.ReferencingError, ValueError) as error:
        where = "".join(f".{step}" for step in getattr(error, "instance_path", ()))
        said = getattr(error, "message", None) or str(error)
        message = f"Invalid schema at '{param}{where}': {said[:FAULT_CHARS_MAX]}."
        raise InvalidRequest(message, param=param, code=code) from None


def _refuse_to_fetch(uri: str) -> Any:
    """By default the engine reads what a schema refers to, from any address and any file."""
    raise ValueError(f"{uri} is elsewhere, and is not fetched")


def _refuse_heavy(schema: JsonObject) -> None:
    if sum(1 for _ in _parts(schema)) > PARTS_MAX:
        raise ValueError(f"it holds more than {PARTS_MAX} values")
    if _combines_too_much(schema):
        raise ValueError(f"more than {COMBINED_MAX} schemas combine to judge one value")


COMBINING = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
REFERRING = ("$ref", "$dynamicRef", "$recursiveRef")


def _combines_too_much(schema: JsonObject) -> bool:
    """What a part says of itself again, in a circle, is not judged twice."""
    weigh = _weighing(schema, _combined, in_circle=1)
    return any(weigh(part) > COMBINED_MAX for part in _parts(schema))


def _grows_too_far(schema: JsonObject) -> bool:
    """Whether saying why a document does not fit may take for ever: each way in which it could fit is followed to its
    end. In a circle, that is as far as the document goes. To say only whether it fits is quick."""
    return _weighing(schema, lambda part: part.values(), in_circle=COMBINED_MAX + 1)(schema) > COMBINED_MAX


def _weighing(
    schema: JsonObject, within: Callable[[JsonObject], Iterable[Any]], in_circle: int
) -> Callable[[Any], int]:
    """How many schemas a part is, with all that it refers to, at most COMBINED_MAX + 1."""
    named = {name: part for part in _parts(schema) for name in _names(part)}
    weights: dict[int, int] = {}

    def weight(part: Any, depth: int = 0) -> int:
        if isinstance(part, list):
            return sum(weight(inner, depth + 1) for inner in part)
        if not isinstance(part, dict):
            return 0
        if depth > FOLLOWED_MAX:
            return COMBINED_MAX + 1
        if id(part) not in weights:
            weights[id(part)] = in_circle
            inner = (*within(part), *(_found(name, schema, named) for name in _references(part)))
            weights[id(part)] = min(1 + sum(weight(one, depth + 1) for one in inner), COMBINED_MAX + 1)
        return weights[id(part)]

    return weight


def _parts(value: Any) -> Iterator[Any]:
    level = [value]
    while level:
        yield from level
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]


def _names(part: Any) -> Iterator[str]:
    """By which references may call this part, beside its place."""
    for keyword, mark in (("$anchor", "#"), ("$dynamicAnchor", "#"), ("$id", "")):
        if isinstance(part, dict) and isinstance(name := part.get(keyword), str):
            yield mark + name


def _combined(part: JsonObject) -> Iterator[Any]:
    for name in COMBINING:
        value = part.get(name)
        yield from value if isinstance(value, list) else (value,)


def _references(part: JsonObject) -> Iterator[str]:
    return (name for keyword in REFERRING if isinstance(name := part.get(keyword), str))


def references_fault(schema: JsonObject) -> str:
    """Why a schema must not be made a grammar; empty when it may."""
    found = {name for part in _parts(schema) if isinstance(part, dict) for name in _references(part)}
    return f"it has more than {REFERENCES_MAX} different references" if len(found) > REFERENCES_MAX else ""


def _found(reference: str, root: JsonObject, named: Mapping[str, Any]) -> Any:
    base, mark, fragment = reference.partition("#")
    if f"#{fragment}" in named or not mark:
        return named.get(f"#{fragment}" if mark else base)
    place = named.get(base, root)
    for step in unquote(fragment).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and name.isdecimal():
            place = dict(enumerate(place)).get(int(name[:9]))
        else:
            place = place.get(name) if isinstance(place, dict) else None
    return place


def _path(fault: Any) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault.instance_path)


def grammar(wanted: Grammar, param: str) -> TextCheck:
    """A check of texts against a grammar. Raises InvalidRequest when that is none."""
    if len(wanted.definition) > GRAMMAR_CHARS_MAX:
        raise InvalidValue(
            f"Invalid '{param}': string too long. Expected a string with length <= {GRAMMAR_CHARS_MAX}.",
            param=param,
            code="string_above_max_length",
        )
    source = lark(wanted)
    if fault := grammar_fault(source):
        raise InvalidRequest(
            f"Invalid grammar at '{param}': {fault[:FAULT_CHARS_MAX]}", param=param, code="invalid_grammar"
        )
    return _fitting(source)


def lark(wanted: Grammar) -> str:
    """The grammar as llguidance reads it: a regular expression is the one rule of a Lark grammar."""
    if wanted.syntax == "lark":
        return wanted.definition
    return f"start: /{_slashes_escaped(wanted.definition)}/"


def _slashes_escaped(pattern: str) -> str:
    escaped, is_escaped = [], False
    for character in pattern:
        escaped.append("\\/" if character == "/" and not is_escaped else "\\n" if character == "\n" else character)
        is_escaped = character == "\\" and not is_escaped
    return "".join(escaped)


def grammar_fault(source: str) -> str:
    """Why a Lark grammar does not compile; empty when it does."""
    engine: Any = import_module("llguidance")
    # With a tokenizer: one that names a special token, which no text holds, must fail here and not later.
    said = str(engine.LLMatcher.validate_grammar(source, engine.LLTokenizer("byte")))
    told = said.partition("failed to compile JSON schema: ")[2]
    return " ".join(_QUOTED_SOURCE.split(told)[0].split()) or said


_QUOTED_SOURCE = re.compile(r"\n +\d+ \| ")
"""The grammar, which llguidance quotes with line numbers: of a schema it is one line that nobody wrote."""


def _fitting(source: str) -> Callable[[str], str]:
    engine: Any = import_module("llguidance")
    tokenizer = engine.LLTokenizer("byte")
    unread = engine.LLMatcher(tokenizer, source, log_level=0)

    def check(text: str) -> str:
        matcher = unread.deep_copy()
        tokens = tokenizer.tokenize_bytes(text.encode())
        ends = time.monotonic() + CHECK_S
        for start in range(0, len(tokens), CHECK_BYTES):
            piece = tokens[start : start + CHECK_BYTES]
            taken = start + matcher.try_consume_tokens(piece)
            if taken < start + len(piece):
                return f"at byte {taken}: {text.encode()[taken : taken + 40].decode(errors='replace')!r}"
            if time.monotonic() > ends:
                return f"it takes too long to tell, after {taken} bytes"
        return "" if matcher.is_accepting() else "it ends too early"

    return check
