"""Faults: what msgspec says of a wrong request, in the words and codes of the API's own errors. Decodes nothing."""

import re
from typing import get_args

from antiphon.errors import (
    ApiError,
    InvalidRequest,
    InvalidType,
    InvalidValue,
    MissingParameter,
    UnsupportedParameter,
)
from antiphon.wire.files import PURPOSES
from antiphon.wire.formats import ReasoningEffort
from antiphon.wire.items import ImageDetail, ItemStatus, MessagePhase, Role
from antiphon.wire.request import LATER_TYPES, Includable
from antiphon.wire.response import ReasoningContext, ReasoningSummary, ServiceTier, Verbosity
from antiphon.wire.tools import Caller

_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?\Z", re.DOTALL)
_BOUND = re.compile(r"^Expected `(int|float)` (<=|>=) (\S+)$")
_LENGTH = re.compile(r"^Expected `str` of length (<=|>=) (\d+)$")
_TYPE = re.compile(r"^Expected `(.+)`, got `(.+)`$")
_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "list": "an array",
    "object": "an object",
    "dict": "an object",
    "null": "null",
}
_EXPECTED = {
    "input": "a string or an array of input items",
    "conversation": "a string or an object",
    "stop": "a string or an array of strings",
}
_SUPPORTED = {  # by the whole path, else by its last name
    "role": get_args(Role),
    "status": get_args(ItemStatus),
    "effort": get_args(ReasoningEffort),
    "summary": get_args(ReasoningSummary),
    "context": ("auto", *get_args(ReasoningContext)),
    "service_tier": get_args(ServiceTier),
    "tool_choice": ("none", "auto", "required"),
    "tool_choice.mode": ("auto", "required"),
    "phase": get_args(MessagePhase),
    "include": get_args(Includable),
    "verbosity": get_args(Verbosity),
    "syntax": ("lark", "regex"),
    "allowed_callers": get_args(Caller),
    "execution": ("server", "client"),
    "detail": get_args(ImageDetail),
    "format": ("mp3", "wav"),
    "prompt_cache_options.mode": ("implicit", "explicit"),
    "prompt_cache_retention": ("in_memory", "24h"),
    "purpose": PURPOSES,
    "anchor": ("created_at",),
    "ttl": ("30m", "12h"),
}
_WAIT = frozenset({"reasoning.mode", "prompt_cache_options.prewarm"})
"""Of these the reference knows more values than this server takes for now."""


def fault(text: str, within: str = "") -> ApiError:
    """msgspec's message as an error of the API; `within` is the path of what was converted, when it is a part."""
    match = _AT.match(text)
    assert match is not None
    what, path = match["what"], within + (match["path"] or "")
    if path.endswith("[...]"):  # a value of an object whose names are the client's own
        path = path.removesuffix("[...]")
        if match := _TYPE.match(what):
            return InvalidType(f"Invalid type for '{path}': every value must be {_expected(match)}.", param=path)
    errors = (reads(what, path) for reads in (_missing, _type, _choice, _bound, _length, _pattern))
    error = next(filter(None, errors), None) or InvalidRequest(f"Invalid '{path}': {what}.", param=path)
    if error.param is not None:  # a name within such a value is not known
        error.param = error.param.partition("[...]")[0]
    return error


def _missing(what: str, path: str) -> ApiError | None:
    match = re.match(r"^Object missing required field `(.+)`$", what)
    if match is None:
        return None
    name = f"{path}.{match[1]}" if path else match[1]
    return MissingParameter(f"Missing required parameter: '{name}'.", param=name)


def _type(what: str, path: str) -> ApiError | None:
    match = _TYPE.match(what)
    if match is None:
        return None
    if match[1] == "null":
        return _unsupported(path)
    expected, got = _EXPECTED.get(path, _expected(match)), _WORDS.get(match[2], match[2])
    return InvalidType(f"Invalid type for '{path}': expected {expected}, but got {got} instead.", param=path)


def _expected(match: re.Match[str]) -> str:
    return " or ".join(_WORDS.get(word, word) for word in match[1].split(" | ") if word != "null")


def _choice(what: str, path: str) -> ApiError | None:
    match = re.match(r"^Invalid (?:enum )?value (.*)$", what, re.DOTALL)
    if match is None:
        return None
    value, name = match[1][:100], re.sub(r"\[\d+\]$", "", path.rpartition(".")[2])
    if path in _WAIT:
        return _unsupported(path)
    if name == "type" and value.strip("'") in LATER_TYPES:
        return UnsupportedParameter(
            f"Invalid value: {value} is not supported at '{path}' by this server yet.", param=path
        )
    if choices := _SUPPORTED.get(path) or _SUPPORTED.get(name):
        *most, last = (f"'{choice}'" for choice in choices)
        supported = f"{', '.join(most)}, and {last}" if most else last
        return InvalidValue(f"Invalid value: {value}. Supported values are: {supported}.", param=path)
    return InvalidValue(f"Invalid value: {value} is not known at '{path}'.", param=path)


def _unsupported(path: str) -> ApiError:
    return UnsupportedParameter(
        f"Unsupported parameter: '{path}' is not supported by this server yet, except at its default.", param=path
    )


def _bound(what: str, path: str) -> ApiError | None:
    match = _BOUND.match(what)
    if match is None:
        return None
    kind = "integer" if match[1] == "int" else "decimal"
    side, word = ("below_min", "below minimum") if match[2] == ">=" else ("above_max", "above maximum")
    return InvalidValue(
        f"Invalid '{path}': {kind} {word} value. Expected a value {match[2]} {match[3]}.",
        param=path,
        code=f"{kind}_{side}_value",
    )


def _length(what: str, path: str) -> ApiError | None:
    match = _LENGTH.match(what)
    if match is None:
        return None
    side, word = ("above_max", "too long") if match[1] == "<=" else ("below_min", "too short")
    return InvalidValue(
        f"Invalid '{path}': string {word}. Expected a string with length {match[1]} {match[2]}.",
        param=path,
        code=f"string_{side}_length",
    )


def _pattern(what: str, path: str) -> ApiError | None:
    match = re.match(r"^Expected `str` matching regex '(.*)'$", what)
    if match is None:
        return None
    return InvalidValue(f"Invalid '{path}': expected a string that matches '{match[1]}'.", param=path)


def array_too_long(path: str, most: int, got: int) -> ApiError:
    return InvalidValue(
        f"Invalid '{path}': array too long. Expected an array with maximum length {most}, "
        f"but got an array with length {got} instead.",
        param=path,
        code="array_above_max_length",
    )


def string_too_short(path: str, least: int) -> ApiError:
    return InvalidValue(
        f"Invalid '{path}': string too short. Expected a string with length >= {least}.",
        param=path,
        code="string_below_min_length",
    )


def too_deep() -> ApiError:
    return InvalidRequest("The JSON body of your request is nested too deeply.")
