"""Bytes to wire types and back. The one path for tolerance: decode raw, normalise, convert. Decides nothing else.

A decode failure becomes an InvalidRequest that names the first fault by its path (`input[0].content`), in the words and
codes of the API's own errors.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import islice
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct

from antiphon.errors import (
    ApiError,
    InvalidRequest,
    InvalidType,
    InvalidValue,
    MissingParameter,
    UnknownParameter,
    UnsupportedParameter,
)
from antiphon.wire.events import Event, HostedStatus, TaggedEvent
from antiphon.wire.items import ItemStatus, Role
from antiphon.wire.request import LATER, LATER_TYPES, CreateResponse
from antiphon.wire.response import ReasoningEffort, ReasoningSummary, ServiceTier

STOP_MAX = 4
METADATA_PAIRS_MAX, METADATA_KEY_CHARS_MAX, METADATA_VALUE_CHARS_MAX = 16, 64, 512
DEPTH_MAX = 100
"""Levels of a tool's schema: far more than any model is shown, far fewer than Python's limit on recursion."""
UNKNOWN_MAX = 200
"""Unknown fields are looked at one by one, which a flood of them must not make slow."""
NAME_CHARS_MAX = 64
"""No known name is half as long: a longer one is no slip."""
NEAR_MISS = 0.8
"""How alike an unknown name must be to a known one to be taken for a slip (`temprature`: 0.95; `models`: 0.91)."""
ERROR_BYTES_MAX = 4_096

T = TypeVar("T")

# -- requests


def decode_request(
    body: bytes, *, strict: bool = False, items_max: int = 1_000_000
) -> tuple[CreateResponse, tuple[str, ...]]:
    """The request, and the paths of the unknown fields it was tolerated with (refused when `strict`)."""
    raw = _decode_object(body)
    items = raw.get("input")
    if isinstance(items, list) and len(items) > items_max:
        raise _array_too_long("input", items_max, len(items))
    raw = _normalise(raw)
    request = convert(raw, CreateResponse)
    _check_metadata(request.metadata)
    unknown = tuple(islice(_unknown(raw, request, ""), UNKNOWN_MAX + 1))
    if len(unknown) > UNKNOWN_MAX:
        raise InvalidRequest(f"The request has more than {UNKNOWN_MAX} unknown parameters.", param=unknown[0])
    if unknown and strict:
        raise UnknownParameter(f"Unknown parameter: '{unknown[0]}'.", param=unknown[0])
    return request, unknown


def convert(raw: object, kind: type[T]) -> T:
    """`raw`, decoded JSON, as a wire type."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise _fault(str(error)) from None


def _decode_object(body: bytes) -> dict[str, Any]:
    try:
        raw = msgspec.json.decode(body)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"We could not parse the JSON body of your request: {error}.") from None
    if not isinstance(raw, dict):
        raise InvalidType("The JSON body of your request must be an object.")
    return raw


def _normalise(raw: dict[str, Any]) -> dict[str, Any]:
    """The request in its one canonical form: nulls gone, short forms written out, types stamped."""
    raw = _without_nulls(raw)
    for name in raw.keys() & LATER.keys():
        later = LATER[name]
        if not any(_same(raw[name], default) for default in later.defaults):
            raise UnsupportedParameter(
                f"Unsupported parameter: '{name}' is not supported by this server yet. {later.instead}".strip(),
                param=name,
            )
        del raw[name]
    if "input" in raw:
        raw["input"] = _input(raw["input"])
    if isinstance(raw.get("tools"), list):
        raw["tools"] = [_without_nulls(tool) for tool in raw["tools"]]
        if _is_deeper(raw["tools"], DEPTH_MAX):
            raise _too_deep()
    for name in ("reasoning", "text", "stream_options", "tool_choice"):
        if name in raw:
            raw[name] = _without_nulls(raw[name])
    if "stop" in raw:
        raw["stop"] = _stop(raw["stop"])
    return raw


def _is_deeper(value: Any, most: int) -> bool:
    """Schemas are kept as they came: what is read here must be written, and read again, from deeper in the stack."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _too_deep() -> ApiError:
    return InvalidRequest("The JSON body of your request is nested too deeply.")


def _same(value: object, default: object) -> bool:
    """Equal, and the same kind of thing: 0 == False, but they are not the same wish."""
    return value == default and isinstance(value, bool) is isinstance(default, bool)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict) and None in value.values():
        return {name: field for name, field in value.items() if field is not None}
    return value


def _input(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if isinstance(value, list):
        return [_item(item) for item in value]
    return value


def _item(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    item = _without_nulls(item)
    if "type" not in item:
        if "role" in item:
            item = item | {"type": "message"}
        elif item.keys() == {"id"}:
            item = item | {"type": "item_reference"}
    kind = item.get("type")
    if kind == "message":
        text = "output_text" if item.get("role") == "assistant" else "input_text"
        return _with_parts(item, "content", text)
    if kind == "function_call_output":
        return _with_parts(item, "output", None)
    if kind == "reasoning":
        return {"summary": []} | item
    return item


def _with_parts(item: dict[str, Any], name: str, text: str | None) -> dict[str, Any]:
    value = item.get(name)
    if isinstance(value, str) and text is not None:
        return item | {name: [{"type": text, "text": value}]}
    if isinstance(value, list):
        return item | {name: [_without_nulls(part) for part in value]}
    return item


def _stop(value: Any) -> Any:
    if value == "":
        raise _string_too_short("stop", 1)
    stops = [value] if isinstance(value, str) else value
    if isinstance(stops, list) and len(stops) > STOP_MAX:
        raise _array_too_long("stop", STOP_MAX, len(stops))
    return stops


def _array_too_long(path: str, most: int, got: int) -> ApiError:
    return InvalidValue(
        f"Invalid '{path}': array too long. Expected an array with maximum length {most}, "
        f"but got an array with length {got} instead.",
        param=path,
        code="array_above_max_length",
    )


def _string_too_short(path: str, least: int) -> ApiError:
    return InvalidValue(
        f"Invalid '{path}': string too short. Expected a string with length >= {least}.",
        param=path,
        code="string_below_min_length",
    )


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > METADATA_PAIRS_MAX:
        raise InvalidValue(
            f"Invalid 'metadata': too many properties. Expected an object with at most {METADATA_PAIRS_MAX} "
            f"properties, but got {len(metadata)} instead.",
            param="metadata",
            code="object_above_max_properties",
        )
    for key, value in metadata.items():
        for what, text, most in (("key", key, METADATA_KEY_CHARS_MAX), ("value", value, METADATA_VALUE_CHARS_MAX)):
            if len(text) > most:
                raise InvalidValue(
                    f"Invalid 'metadata': {what} too long at '{key[:METADATA_KEY_CHARS_MAX]}'. Expected at most "
                    f"{most} characters, but got {len(text)} instead.",
                    param="metadata",
                    code="string_above_max_length",
                )


def _unknown(raw: Any, known: Any, path: str) -> Iterator[str]:
    """Paths of fields that no type declares. A near miss of a declared one is an error: it was surely meant."""
    if isinstance(known, Struct):
        config = known.__struct_config__
        names = dict(zip(known.__struct_encode_fields__, known.__struct_fields__, strict=True))
        for name, value in raw.items():
            if name in names:
                if type(value) is dict or type(value) is list:
                    yield from _unknown(value, getattr(known, names[name]), f"{path}{name}.")
            elif name != config.tag_field:
                _refuse_near_miss(name, names, path)
                yield path + name
    elif isinstance(known, tuple):
        for index, (element, value) in enumerate(zip(raw, known, strict=True)):
            yield from _unknown(element, value, f"{path[:-1]}[{index}].")


def _refuse_near_miss(name: str, names: dict[str, str], path: str) -> None:
    known = [*names, *LATER] if not path else list(names)
    near = get_close_matches(name, known, n=1, cutoff=NEAR_MISS) if len(name) <= NAME_CHARS_MAX else []
    if near:
        raise UnknownParameter(
            f"Unknown parameter: '{path}{name[:64]}'. Did you mean '{path}{near[0]}'?", param=path + name
        )


# -- faults

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
    "object": "an object",
    "null": "null",
}
_EXPECTED = {"input": "a string or an array of input items", "stop": "a string or an array of strings"}
_SUPPORTED = {
    "role": get_args(Role),
    "status": get_args(ItemStatus),
    "effort": get_args(ReasoningEffort),
    "summary": get_args(ReasoningSummary),
    "service_tier": get_args(ServiceTier),
    "tool_choice": ("none", "auto", "required"),
    "phase": ("commentary", "final_answer"),
}


def _fault(text: str) -> ApiError:
    """msgspec's message as an error of the API."""
    match = _AT.match(text)
    assert match is not None
    what, path = match["what"], match["path"] or ""
    if path.endswith("[...]"):
        path = path.removesuffix("[...]")
        return InvalidType(f"Invalid type for '{path}': every value must be a string.", param=path)
    for reads in (_missing, _type, _choice, _bound, _length):
        error = reads(what, path)
        if error is not None:
            return error
    return InvalidRequest(f"Invalid '{path}': {what}.", param=path)


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
    words = [_WORDS.get(word, word) for word in match[1].split(" | ") if word != "null"]
    expected = _EXPECTED.get(path, " or ".join(words))
    got = _WORDS.get(match[2], match[2])
    return InvalidType(f"Invalid type for '{path}': expected {expected}, but got {got} instead.", param=path)


def _choice(what: str, path: str) -> ApiError | None:
    match = re.match(r"^Invalid (?:enum )?value (.*)$", what, re.DOTALL)
    if match is None:
        return None
    value, name = match[1][:100], path.rpartition(".")[2]
    if name == "type" and value.strip("'") in LATER_TYPES:
        return UnsupportedParameter(
            f"Invalid value: {value} is not supported at '{path}' by this server yet.", param=path
        )
    if name in _SUPPORTED:
        *most, last = (f"'{choice}'" for choice in _SUPPORTED[name])
        supported = f"{', '.join(most)}, and {last}"
        return InvalidValue(f"Invalid value: {value}. Supported values are: {supported}.", param=path)
    if name == "type":
        return InvalidValue(f"Invalid value: {value} is not known at '{path}'.", param=path)
    return _unsupported(path)


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


# -- answers

_encoder = msgspec.json.Encoder()
encode = _encoder.encode
_decode_tagged = msgspec.json.Decoder(TaggedEvent).decode
_decode_hosted = msgspec.json.Decoder(HostedStatus).decode
DONE = b"data: [DONE]\n\n"
KEEPALIVE = b": keep-alive\n\n"


class _Peek(Struct):
    type: str


_peek = msgspec.json.Decoder(_Peek).decode
_TAGS: dict[str, type] = {kind.__struct_config__.tag: kind for kind in get_args(TaggedEvent)}
_HEADS: dict[type, bytes] = {kind: b"event: %s\ndata: " % tag.encode() for tag, kind in _TAGS.items()}


def frame(event: Event) -> bytes:
    """One SSE frame: LF line ends, no `id:` (openai-python would remember it and trip over the next comment)."""
    head = _HEADS.get(type(event))
    if head is None:
        assert isinstance(event, HostedStatus)
        head = b"event: %s\ndata: " % event.type.encode()
    data = encode(event)
    if b"\xe2\x80" in data or b"\xc2\x85" in data:
        data = _escaped(data)
    return head + data + b"\n\n"


def _escaped(data: bytes) -> bytes:
    """JSON without the raw line separators of Unicode, at which some clients' line readers break a frame."""
    for raw, escape in ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085")):
        data = data.replace(raw, escape)
    return data


def decode_event(data: bytes) -> Event:
    """The inverse of encode, for one event's JSON."""
    event: Event = _decode_tagged(data) if _peek(data).type in _TAGS else _decode_hosted(data)
    return event


def error_body(error: ApiError) -> bytes:
    """OpenAI's envelope, all four keys, at most ERROR_BYTES_MAX."""
    message = error.message
    while True:
        body = {"message": message, "type": error.type, "param": error.param, "code": error.code}
        encoded = encode({"error": body})
        if len(encoded) <= ERROR_BYTES_MAX:
            return encoded
        message = message[: len(message) // 2] + "…"
