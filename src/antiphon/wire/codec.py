"""Bytes to wire types and back: decode raw, normalise (tolerance.py), convert. Decides nothing else.

A decode failure becomes an InvalidRequest that names the first fault by its path (`input[0].content`), in the words and
codes of the API's own errors (faults.py).
"""

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import islice
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct

from antiphon.errors import ApiError, InvalidRequest, InvalidType, InvalidValue, UnknownParameter
from antiphon.wire import tolerance
from antiphon.wire.conversation import AddItems
from antiphon.wire.events import (
    ArgumentsDelta,
    CustomInputDelta,
    Event,
    HostedStatus,
    OutputTextDelta,
    ReasoningTextDelta,
    RefusalDelta,
    SummaryTextDelta,
    TaggedEvent,
)
from antiphon.wire.faults import fault, too_deep
from antiphon.wire.request import LATER, CreateResponse
from antiphon.wire.tools import JsonObject, Tool

METADATA_PAIRS_MAX, METADATA_KEY_CHARS_MAX, METADATA_VALUE_CHARS_MAX = 16, 64, 512
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
    body: bytes,
    *,
    strict: bool = False,
    items_max: int = 1_000_000,
    narrow: Callable[[JsonObject], JsonObject] | None = None,
    only: frozenset[str] | None = None,
) -> tuple[CreateResponse, tuple[str, ...]]:
    """The request, and the paths of the unknown fields it was tolerated with (refused when `strict`). `narrow` sees the
    request as it came, refuses what its dialect does not have, and gives what `tolerance` shall see. Fields beyond
    `only` count as unknown."""
    sent = _decode_object(body)
    beyond = () if only is None else tuple(sorted(sent.keys() - only))
    sent = {name: field for name, field in sent.items() if name not in beyond} if beyond else sent
    aliases = tolerance.aliases(sent)
    raw = tolerance.normalised(narrow(sent) if narrow else sent, items_max)
    try:
        request = convert(raw, CreateResponse)
    except ApiError as error:
        raise tolerance.as_sent(error, aliases) from None
    _check_metadata(request.metadata)
    return request, _tolerated(raw, request, beyond, strict=strict)


def decode(body: bytes, kind: type[T], *, strict: bool = False) -> tuple[T, tuple[str, ...]]:
    """The body of a smaller request, and the paths of its unknown fields, by the same rules."""
    return taken(_decode_object(body), kind, strict=strict)


def taken(raw: dict[str, Any], kind: type[T], *, strict: bool = False) -> tuple[T, tuple[str, ...]]:
    """As `decode`, of what is decoded already."""
    value = convert(raw, kind)
    return value, _tolerated(raw, value, strict=strict)


def decode_conversation(body: bytes, kind: type[T], *, strict: bool = False) -> tuple[T, tuple[str, ...]]:
    """A request of the Conversations API, and the paths of the unknown fields it was tolerated with."""
    raw = tolerance.conversation(_decode_object(body))
    request = convert(raw, kind)
    if isinstance(request, AddItems) and not request.items:
        raise InvalidValue("Invalid 'items': it must hold at least one item.", param="items", code="empty_array")
    _check_metadata(getattr(request, "metadata", {}))
    return request, _tolerated(raw, request, strict=strict)


def _tolerated(raw: JsonObject, request: object, beyond: tuple[str, ...] = (), *, strict: bool) -> tuple[str, ...]:
    unknown = (*beyond, *islice(_unknown(raw, request, ""), UNKNOWN_MAX + 1))
    if len(unknown) > UNKNOWN_MAX:
        raise InvalidRequest(f"The request has more than {UNKNOWN_MAX} unknown parameters.", param=unknown[0])
    if unknown and strict:
        raise UnknownParameter(f"Unknown parameter: '{unknown[0]}'.", param=unknown[0])
    return unknown


def convert(raw: object, kind: type[T]) -> T:
    """`raw`, decoded JSON, as a wire type."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise fault(str(error)) from None


def decode_tools(declared: tuple[JsonObject, ...], path: str) -> tuple[Tool, ...]:
    """Tools that an item holds as they came, by the rules for those of a request. `path` says where they stand."""
    try:
        return msgspec.convert([tolerance.tool(tool) for tool in declared], tuple[Tool, ...])
    except msgspec.ValidationError as error:
        raise fault(str(error), path) from None


def _decode_object(body: bytes) -> dict[str, Any]:
    try:
        raw = msgspec.json.decode(body)
    except RecursionError:
        raise too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"We could not parse the JSON body of your request: {error}.") from None
    if not isinstance(raw, dict):
        raise InvalidType("The JSON body of your request must be an object.")
    return raw


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
        names, tag = _field_names(type(known))
        for name, value in raw.items():
            if name in names:
                if type(value) is dict or type(value) is list:
                    yield from _unknown(value, getattr(known, names[name]), f"{path}{name}.")
            elif name != tag:
                also = (*LATER, *tolerance.ALIASES) if isinstance(known, CreateResponse) else ()
                _refuse_near_miss(name, (*names, *also), path)
                yield path + name
    elif type(known) is tuple:
        for index, element in enumerate(raw):
            if type(element) is dict or type(element) is list:
                yield from _unknown(element, known[index], f"{path[:-1]}[{index}].")


@cache
def _field_names(kind: type[Struct]) -> tuple[dict[str, str], str | None]:
    """A type's fields, by their names on the wire; and the name of the field that tells it from others."""
    return dict(
        zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
    ), kind.__struct_config__.tag_field


def _refuse_near_miss(name: str, known: Sequence[str], path: str) -> None:
    near = get_close_matches(name, known, n=1, cutoff=NEAR_MISS) if len(name) <= NAME_CHARS_MAX else []
    if near:
        raise UnknownParameter(
            f"Unknown parameter: '{path}{name[:64]}'. Did you mean '{path}{near[0]}'?", param=path + name
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


def sse(kind: str, data: bytes) -> bytes:
    """One SSE frame of an event that another dialect wrote."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _escaped(data))


_DELTAS = frozenset(
    (OutputTextDelta, RefusalDelta, ReasoningTextDelta, SummaryTextDelta, ArgumentsDelta, CustomInputDelta)
)
NOISE_BLOCK_BYTES = 64
_NOISE = b',"obfuscation":"'


def obfuscated(event: Event, frame: bytes, noise: Callable[[int], bytes]) -> bytes:
    """A frame whose size does not tell how long its delta is: noise fills it up to whole blocks. `noise` gives so many
    bytes of random ASCII that need no escape in JSON."""
    if type(event) not in _DELTAS:
        return frame
    assert frame.endswith(b"}\n\n")
    room = -(len(frame) + len(_NOISE) + 1) % NOISE_BLOCK_BYTES
    return b'%s%s%s"}\n\n' % (frame[:-3], _NOISE, noise(room))


def _escaped(data: bytes) -> bytes:
    """JSON without the raw line separators of Unicode, at which some clients' line readers break a frame."""
    for raw, escape in ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085")):
        data = data.replace(raw, escape)
    return data


def decode_event(data: bytes) -> Event:
    """The inverse of encode, for one event's JSON."""
    event: Event = _decode_tagged(data) if _peek(data).type in _TAGS else _decode_hosted(data)
    return event


def error_body(error: ApiError, *, kind: str | None = None) -> bytes:
    """The envelope, all four keys, at most ERROR_BYTES_MAX. `kind`: another dialect's word for the error's type."""
    message = error.message
    while True:
        body = {"message": message, "type": kind or error.type, "param": error.param, "code": error.code}
        encoded = encode({"error": body})
        if len(encoded) <= ERROR_BYTES_MAX:
            return encoded
        message = message[: len(message) // 2] + "…"
