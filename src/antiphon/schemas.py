"""Schemas and grammars: whether they are sound, and whether a text fits them. Knows no request and no model.

jsonschema-rs and llguidance are loaded when they are first needed. The latter also constrains the embedded model, so
that what is enforced there and checked elsewhere is the same language.
"""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec

from antiphon.core.ports import TextCheck
from antiphon.errors import InvalidRequest
from antiphon.wire.tools import Grammar, JsonObject

FAULT_CHARS_MAX = 300
"""Of what is wrong with a text, in a message."""


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

    def check(text: str) -> str:
        try:
            document = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            return f"it is no JSON: {error}"
        fault = next(validator.iter_errors(document), None)
        return "" if fault is None else f"at {_path(fault)}: {fault.message[:FAULT_CHARS_MAX]}"

    return check


def check_parameters(schema: JsonObject, param: str) -> None:
    """Raises InvalidRequest when a strict function's parameters are no JSON Schema."""
    _validator(schema, param, "invalid_function_parameters")


def _validator(schema: JsonObject, param: str, code: str) -> Any:
    engine: Any = import_module("jsonschema_rs")
    try:
        return engine.validator_for(schema, retriever=_refuse_to_fetch)
    except (engine.ValidationError, engine.ReferencingError, ValueError) as error:
        where = "".join(f".{step}" for step in getattr(error, "instance_path", ()))
        said = getattr(error, "message", None) or str(error)
        message = f"Invalid schema at '{param}{where}': {said[:FAULT_CHARS_MAX]}."
        raise InvalidRequest(message, param=param, code=code) from None


def _refuse_to_fetch(uri: str) -> Any:
    """By default the engine reads what a schema refers to, from any address and any file."""
    raise ValueError(f"{uri} is elsewhere, and is not fetched")


def _path(fault: Any) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault.instance_path)


def grammar(wanted: Grammar, param: str) -> TextCheck:
    """A check of texts against a grammar. Raises InvalidRequest when that is none."""
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

    def check(text: str) -> str:
        matcher = engine.LLMatcher(tokenizer, source)
        tokens = tokenizer.tokenize_bytes(text.encode())
        taken = matcher.try_consume_tokens(tokens)
        if taken < len(tokens):
            return f"at byte {taken}: {text.encode()[taken : taken + 40].decode(errors='replace')!r}"
        return "" if matcher.is_accepting() else "it ends too early"

    return check
