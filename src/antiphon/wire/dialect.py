"""Dialects: what differs between OpenAI's wire (`/v1`) and Open Responses 2026-04-24 (`/openresponses/v1`). No I/O.

There is one core and one store, and both hold OpenAI's forms. A dialect is what lies between them and the bytes; what
was made through one can be read, and continued, through the other. So Open Responses is shown whatever `/v1` made:

- What the specification has no type for bears the prefix `antiphon:`, as it demands of what is a provider's own: items
  (`antiphon:custom_tool_call`), the events about them (`antiphon:custom_tool_call_input.delta`), tools, tool choices
  and annotations. Items come back in under that prefix, so that no round trip loses anything; of tools, those that this
  server runs.
- A response has exactly the keys of its schema. A word that it does not have becomes the nearest it has (NEAREST).
- The echoed `text.format.schema` is null: the published schema allows nothing else there.

Where the specification contradicts itself, or leaves a choice, this server takes:

- Error types from its table (`invalid_request`), not from its example (`invalid_request_error`). Statuses that are not
  in that table (401, 405, 413, 415, 503) stay as they are, under the nearest type.
- In a stream that fails, `response.failed` alone: an `error` event is optional, and trips clients of the other wire.
- `status` in every item, as the prose demands, also where the schema has none (reasoning).
- Reasoning with `content` as input, which the schema refuses and the prose demands: what came out may come in.
- Nulls where the schema allows them, and nowhere else. An input item needs its `type`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from antiphon.errors import ApiError, InvalidRequest, ModelError
from antiphon.wire import codec
from antiphon.wire import events as ev
from antiphon.wire.items import Annotation, Item
from antiphon.wire.resources import CompactedResponse, ItemList, ResponseList
from antiphon.wire.response import Response
from antiphon.wire.shapes import ANY, AtLeast, Each, Fields, Forms, Shape, Tagged, Text, Words
from antiphon.wire.tolerance import Object
from antiphon.wire.tools import ServerTool, Tool


class Dialect(Struct, frozen=True, kw_only=True):
    """How one wire is read and written, and the prefix of its paths."""

    name: str
    prefix: str
    stream_type: bytes
    """The Content-Type of a stream."""
    is_strict: bool
    """Whether what is unknown is refused, whatever the settings say."""
    narrow: Callable[[Object], Object] | None
    """Sees a request as it came, refuses what this wire does not have, gives it in OpenAI's forms."""
    narrow_compact: Callable[[Object], Object] | None
    """The same of a request to compact."""
    frame: Callable[[ev.Event], bytes]
    encode: Callable[[Any], bytes]
    """A response, a list or a small resource as JSON."""
    error: Callable[[ApiError], tuple[int, bytes]]
    """The status and the body."""


# -- what Open Responses calls things

SLUG: Final = "antiphon:"
RENAMED: Final = {
    "response.reasoning_text.delta": "response.reasoning.delta",
    "response.reasoning_text.done": "response.reasoning.done",
}
EVENTS: Final = frozenset(
    {
        *(f"response.{stage}" for stage in ("created", "queued", "in_progress", "completed", "failed", "incomplete")),
        *(
            f"response.{name}.{step}"
            for name in ("output_item", "content_part", "reasoning_summary_part")
            for step in ("added", "done")
        ),
        *(
            f"response.{name}.{step}"
            for name in ("output_text", "refusal", "reasoning_summary_text", "function_call_arguments")
            for step in ("delta", "done")
        ),
        "response.output_text.annotation.added",
    }
)
"""The types of events that both wires share."""
ITEMS: Final = frozenset({"message", "function_call", "function_call_output", "reasoning", "compaction"})
TOOLS: Final = frozenset({"function"})
CHOICES: Final = frozenset({"function", "allowed_tools"})
ANNOTATIONS: Final = frozenset({"url_citation"})
RESPONSE_KEYS: Final = (
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id"),
    *("instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p"),
    *("presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage"),
    *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier"),
    "prompt_cache_key",
)
NEAREST: Final = {"minimal": "low", "max": "xhigh", "original": "high"}
"""OpenAI's words for an effort and for the detail of a picture."""
ERROR_TYPES: Final = {404: "not_found", 429: "too_many_requests"}
"""By status. The others are invalid_request below 500 and server_error above, or model_error, which is always 500."""


# -- what Open Responses allows in a request: its schema's CreateResponseBody, which tests/test_dialects.py compares

FILE_CHARS_MAX: Final = 33_554_432
TEXT_CHARS_MAX, PICTURE_CHARS_MAX, CALL_ID_CHARS_MAX, NAME_CHARS_MAX, KEY_CHARS_MAX = 10_485_760, 20_971_520, 64, 64, 64
TOOL_CHOICES_MAX = 128
LONG: Final = Text(TEXT_CHARS_MAX)
STATUS: Final[dict[str, Shape]] = {"id?": ANY, "status?": ANY}


def _kind(fields: Mapping[str, Shape]) -> Fields:
    return Fields({"type": ANY} | dict(fields))


def _parts(*kinds: str) -> Tagged:
    return Tagged("type", {kind: PARTS[kind] for kind in kinds})


def _message(*kinds: str, **more: Shape) -> Fields:
    content = Forms(text=LONG, array=Each(_parts(*kinds)))
    return _kind({"role": ANY, "content": content} | STATUS | more)


def _tags(union: object) -> Iterable[str]:
    return (kind.__struct_config__.tag for kind in get_args(union))


def _shown(union: object, known: frozenset[str]) -> dict[str, str]:
    """Types that Open Responses does not know, as it is shown them -> as they are stored."""
    return _slugs(tag for tag in _tags(union) if tag not in known)


def _slugs(tags: Iterable[str]) -> dict[str, str]:
    return {tag if tag.startswith(SLUG) else SLUG + tag: tag for tag in tags}


OWN_ITEMS: Final = _shown(Item, ITEMS)
WITHOUT_STATUS: Final = frozenset(
    kind.__struct_config__.tag for kind in get_args(Item) if "status" not in kind.__struct_fields__
)
"""Items that have no status in OpenAI's wire."""
OWN_ANNOTATIONS: Final = _shown(Annotation, ANNOTATIONS)
OWN_TOOLS: Final = _slugs(kind.__struct_config__.tag for kind in get_args(Tool) if issubclass(kind, ServerTool))
"""Those that this server runs itself. The client's other tools are OpenAI's."""
CITATION: Final = _kind({"start_index": AtLeast(0), "end_index": AtLeast(0), "url": ANY, "title": ANY})
ANNOTATION: Final = Tagged("type", {"url_citation": CITATION} | dict.fromkeys(OWN_ANNOTATIONS, ANY))
BREAKPOINT: Final[dict[str, Shape]] = {"prompt_cache_breakpoint": ANY}
PARTS: Final[dict[str, Fields]] = {
    "input_text": _kind({"text": LONG} | BREAKPOINT),
    "input_image": _kind(
        {"image_url?": Text(PICTURE_CHARS_MAX), "detail?": Words(("low", "high", "auto"))} | BREAKPOINT
    ),
    "input_file": _kind({"filename?": ANY, "file_data?": Text(FILE_CHARS_MAX), "file_url?": ANY}),
    "input_video": _kind({"video_url": ANY}),
    "output_text": _kind({"text": LONG, "annotations": Each(ANNOTATION), "logprobs": ANY}),
    "refusal": _kind({"refusal": LONG}),
    "summary_text": _kind({"text": LONG}),
    "reasoning_text": _kind({"text": LONG}),
}
MESSAGE: Final = Tagged(
    "role",
    {
        "user": _message("input_text", "input_image", "input_file"),
        "system": _message("input_text"),
        "developer": _message("input_text"),
        "assistant": _message("output_text", "refusal", phase=Words(("commentary", "final_answer"))),
    },
)
CALL_ID: Final = Text(CALL_ID_CHARS_MAX, least=1)
NAME: Final = Text(NAME_CHARS_MAX, least=1, pattern="[a-zA-Z0-9_-]+")
OURS: Final[dict[str, Shape]] = {"namespace": ANY, "caller": ANY, "created_by": ANY}
"""Fields of OpenAI's that come out, optional as extensions must be, and so may come in again; like BREAKPOINT, the
logprobs of a text and the content of reasoning."""
OUTPUT: Final = Forms(text=LONG, array=Each(_parts("input_text", "input_image", "input_file", "input_video")))
REFERENCE: Final = Fields({"type?": ANY, "id": ANY})
ITEM_KINDS: Final[dict[str, Shape]] = {
    "message": MESSAGE,
    "function_call": _kind({"call_id": CALL_ID, "name": NAME, "arguments": ANY, "async": ANY} | STATUS | OURS),
    "function_call_output": _kind({"call_id": CALL_ID, "output": OUTPUT, "name": ANY} | STATUS | OURS),
    "reasoning": _kind(
        {"summary": Each(_parts("summary_text")), "content?": Each(_parts("reasoning_text")), "encrypted_content?": ANY}
        | STATUS
    ),
    "compaction": _kind({"encrypted_content": LONG, "created_by": ANY} | STATUS),
    "item_reference": REFERENCE,
}
FUNCTION: Final = _kind({"name": NAME, "description?": ANY, "parameters?": ANY, "strict": ANY})
CHOICE: Final = Tagged("type", {"function": _kind({"name": ANY})})
CHOICE_WORDS: Final = Words(("none", "auto", "required"))
ALLOWED: Final = _kind({"tools": Each(CHOICE, most=TOOL_CHOICES_MAX), "mode": CHOICE_WORDS})
FORMAT: Final = _kind({"name": ANY, "schema": ANY, "description": ANY, "strict?": ANY})
REQUEST: Final = Fields(
    {
        "model?": ANY,
        "input?": Forms(
            text=LONG, array=Each(Tagged("type", ITEM_KINDS | dict.fromkeys(OWN_ITEMS, ANY), untagged=REFERENCE))
        ),
        "previous_response_id?": ANY,
        "include": Each(Words(("reasoning.encrypted_content", "message.output_text.logprobs"))),
        "tools?": Each(Tagged("type", {"function": FUNCTION} | dict.fromkeys(OWN_TOOLS, ANY))),
        "tool_choice?": Forms(
            text=CHOICE_WORDS,
            fields=Tagged("type", {**CHOICE.kinds, "allowed_tools": ALLOWED}),
        ),
        "metadata?": ANY,
        "text?": Fields(
            {
                "format?": Tagged("type", {"text": _kind({}), "json_schema": FORMAT}, untagged=FORMAT),
                "verbosity": Words(("low", "medium", "high")),
            }
        ),
        "temperature?": ANY,
        "top_p?": ANY,
        "presence_penalty?": ANY,
        "frequency_penalty?": ANY,
        "parallel_tool_calls?": ANY,
        "stream": ANY,
        "stream_options?": Fields({"include_obfuscation": ANY}),
        "background": ANY,
        "max_output_tokens?": AtLeast(16),
        "max_tool_calls?": AtLeast(1),
        "reasoning?": Fields(
            {
                "effort?": Words(("none", "low", "medium", "high", "xhigh")),
                "summary?": Words(("concise", "detailed", "auto")),
            }
        ),
        "safety_identifier?": Text(KEY_CHARS_MAX),
        "prompt_cache_key?": Text(KEY_CHARS_MAX),
        "truncation": Words(("auto", "disabled")),
        "instructions?": ANY,
        "store": ANY,
        "service_tier": Words(("auto", "default", "flex", "priority")),
        "top_logprobs?": ANY,
    }
)


COMPACT: Final = Fields(
    {
        "model": ANY,
        **{name: REQUEST.fields[name] for name in ("input?", "previous_response_id?", "prompt_cache_key?")},
        "instructions?": ANY,
    }
)


# -- Open Responses, read


def _narrow(raw: Object, shape: Shape = REQUEST) -> Object:
    try:
        shape.check(raw, "")
    except InvalidRequest as error:
        message = f"{error.message} This is the wire of Open Responses; OpenAI's is served under {OPENAI.prefix}."
        raise type(error)(message, param=error.param, code=error.code) from None
    return raw | {name: read(raw[name]) for name, read in READ.items() if name in raw}


def _read_input(value: Any) -> Any:
    """Items and annotations under the types that they are stored under."""
    return [_read_item(_stored(item, OWN_ITEMS)) for item in value] if isinstance(value, list) else value


def _stored(value: Any, own: Mapping[str, str]) -> Any:
    kind = value.get("type") if isinstance(value, dict) else None
    return value | {"type": own[kind]} if isinstance(kind, str) and kind in own else value


def _read_item(item: Any) -> Any:
    if isinstance(item, dict) and item.get("type") in WITHOUT_STATUS:
        return {name: value for name, value in item.items() if name != "status"}
    if not (isinstance(item, dict) and isinstance(item.get("content"), list)):
        return item
    return item | {"content": [_read_part(part) for part in item["content"]]}


def _read_part(part: Any) -> Any:
    if not (isinstance(part, dict) and isinstance(part.get("annotations"), list)):
        return part
    return part | {"annotations": [_stored(annotation, OWN_ANNOTATIONS) for annotation in part["annotations"]]}


def _read_tools(value: Any) -> Any:
    return [_stored(tool, OWN_TOOLS) for tool in value] if isinstance(value, list) else value


def _read_choice(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        mode = value.get("mode", "auto")
        return mode if mode == "none" else value | {"mode": mode}
    return value


def _read_text(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("format"), dict):
        return value | {"format": {"type": "json_schema"} | value["format"]}
    return value


READ: Final[dict[str, Callable[[Any], Any]]] = {
    "input": _read_input,
    "tools": _read_tools,
    "tool_choice": _read_choice,
    "text": _read_text,
}


# -- Open Responses, written


def _slugged(value: Object, known: frozenset[str]) -> Object:
    kind = value["type"]
    return value if kind in known or kind.startswith(SLUG) else value | {"type": SLUG + kind}


def event_type(kind: str) -> str:
    if kind in EVENTS:
        return kind
    return RENAMED.get(kind) or SLUG + kind.removeprefix("response.").removeprefix(SLUG)


def _frame_open(event: ev.Event) -> bytes:
    kind = type(event)
    if kind in SAME:  # with thoughts nearly all of a stream: no detour by plain objects
        return codec.frame(event)
    if kind in THOUGHTS:
        return codec.frame(event).replace(b"response.reasoning_text.", b"response.reasoning.", 2)  # in `event`, `type`
    value = msgspec.to_builtins(event)
    value["type"] = event_type(value["type"])
    if kind is ev.OutputItemAdded and value["item"]["type"] in WITHOUT_STATUS:
        value["item"]["status"] = "in_progress"
    for name in value.keys() & WRITTEN.keys():
        value[name] = WRITTEN[name](value[name])
    return codec.sse(value["type"], codec.encode(value))


def _write_item(item: Object) -> Object:
    if item["type"] in WITHOUT_STATUS:
        item = {"status": "failed" if item.get("error") else "completed"} | item
    item = _slugged(item, ITEMS)
    for name in ("content", "output"):
        if item["type"] in ITEMS and isinstance(item.get(name), list | tuple):
            item = item | {name: [_write_part(part) for part in item[name]]}
    return item


def _write_part(part: Object) -> Object:
    if part.get("annotations"):
        return part | {"annotations": [_write_annotation(annotation) for annotation in part["annotations"]]}
    if part["type"] == "input_image":
        return {"image_url": None} | part | {"detail": NEAREST.get(part["detail"], part["detail"])}
    return part


def _write_response(response: Object) -> Object:
    value = {name: response[name] for name in RESPONSE_KEYS}
    reasoning = value["reasoning"]
    effort = reasoning["effort"]
    return value | {
        "output": [_write_item(item) for item in value["output"]],
        "tools": [_slugged(tool, TOOLS) for tool in value["tools"]],
        "tool_choice": _write_choice(value["tool_choice"]),
        "text": value["text"] | {"format": _write_format(value["text"]["format"])},
        "reasoning": {"effort": NEAREST.get(effort, effort), "summary": reasoning["summary"]},
    }


def _write_choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    if choice["type"] == "allowed_tools":
        return choice | {"tools": [_slugged(tool, TOOLS) for tool in choice["tools"]]}
    return _slugged(choice, CHOICES)


def _write_format(format_: Object) -> Object:
    if format_["type"] == "json_schema":
        return format_ | {"schema": None, "strict": bool(format_["strict"])}
    return format_


_write_annotation = partial(_slugged, known=ANNOTATIONS)
WRITTEN: Final[dict[str, Callable[[Any], Any]]] = {
    "response": _write_response,
    "item": _write_item,
    "part": _write_part,
    "annotation": _write_annotation,
}
SAME: Final = frozenset(
    kind
    for kind in get_args(ev.TaggedEvent)
    if kind.__struct_config__.tag in EVENTS and not set(kind.__struct_fields__) & WRITTEN.keys()
)
"""Events that are the same in both wires."""
THOUGHTS: Final = frozenset({ev.ReasoningTextDelta, ev.ReasoningTextDone})


def _encode_open(value: Any) -> bytes:
    plain = msgspec.to_builtins(value)
    if isinstance(value, Response):
        plain = _write_response(plain)
    elif isinstance(value, CompactedResponse):
        plain["output"] = [_write_item(item) for item in plain["output"]]
    elif isinstance(value, ItemList | ResponseList):
        write = _write_item if isinstance(value, ItemList) else _write_response
        plain["data"] = [write(one) for one in plain["data"]]
    return codec.encode(plain)


def _error_open(error: ApiError) -> tuple[int, bytes]:
    status = 500 if isinstance(error, ModelError) and error.status >= 500 else error.status
    kind = "model_error" if isinstance(error, ModelError) else "invalid_request" if status < 500 else "server_error"
    return status, codec.error_body(error, kind=ERROR_TYPES.get(status, kind))


# -- OpenAI


def _error_openai(error: ApiError) -> tuple[int, bytes]:
    return error.status, codec.error_body(error)


OPENAI: Final = Dialect(
    name="OpenAI",
    prefix="/v1",
    stream_type=b"text/event-stream; charset=utf-8",
    is_strict=False,
    narrow=None,
    narrow_compact=None,
    frame=codec.frame,
    encode=codec.encode,
    error=_error_openai,
)
OPEN_RESPONSES: Final = Dialect(
    name="Open Responses 2026-04-24",
    prefix="/openresponses/v1",
    stream_type=b"text/event-stream",
    is_strict=True,
    narrow=_narrow,
    narrow_compact=partial(_narrow, shape=COMPACT),
    frame=_frame_open,
    encode=_encode_open,
    error=_error_open,
)
DIALECTS: Final = (OPENAI, OPEN_RESPONSES)
_OPEN_ROOT: Final = "/openresponses/"


def of(path: str) -> Dialect:
    """The dialect of a request's path. What lies under neither prefix is answered in OpenAI's."""
    return OPEN_RESPONSES if path.startswith(_OPEN_ROOT) else OPENAI
