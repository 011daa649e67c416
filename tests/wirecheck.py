"""Whether an answer keeps its dialect's wire: its schema, the grammar of events, and the bytes. Knows no behaviour.

Two entry points, for anything that the server sends: `openai` holds it against the types of the `openai` package, read
strictly, `openresponses` against the pinned schema of Open Responses. Both give the answer's JSON back: of a stream,
the final response, which is what its events add up to. Whatever is wrong raises (AssertionError, Unlawful or the
schema's own error). Schemas see neither order nor framing, and Open Responses' prose says more than its schema; that is
here.

What bears the prefix `antiphon:` is this server's own. Schemas have no word for it, so its few promises are checked by
hand and it is taken out before the schema looks.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import jsonschema_rs
from openai.types import Model, responses, shared
from openai.types.responses import InputTokenCountResponse, response_error, response_item_list
from pydantic import BaseModel

from antiphon.core.fold import fold
from tests.rawclient import COMMENT, DONE, Answer, Frame, parsed

Object: TypeAlias = dict[str, Any]

SLUG = "antiphon:"
OPEN_RESPONSES: Object = json.loads((Path(__file__).parent / "schemas/open-responses.openapi.json").read_text("utf-8"))
SCHEMAS: Object = OPEN_RESPONSES["components"]["schemas"]


def openai(answer: Answer) -> Any:
    """Holds an answer of `/v1` against OpenAI's wire."""
    return _answer(answer, OPENAI)


def openresponses(answer: Answer) -> Any:
    """Holds an answer of `/openresponses/v1` against the wire of Open Responses."""
    return _answer(answer, OPEN)


class Wire(NamedTuple):
    """What is particular to one dialect: schemas by what they are of, and where its prose says more."""

    event: Callable[[Object], None]
    response: Callable[[Object], None]
    item: Callable[[Object], None]
    error: Callable[[int, Object], None]
    plain: Callable[[Object], Object]
    """An event in OpenAI's names, which the fold knows."""
    stream_type: str
    extra_frames: int
    """Frames that are no events and may stand before the end."""


# -- answers


def _answer(answer: Answer, wire: Wire) -> Any:
    kind = answer.headers["content-type"]
    if answer.status != 200:
        wire.error(answer.status, answer.error)
        return answer.error
    if kind.startswith("text/event-stream"):
        assert kind == wire.stream_type
        return _stream(answer.body, wire)
    assert kind == "application/json"
    value = json.loads(answer.body)
    CHECKS[value["object"]](value, wire)
    return value


def _stream(body: bytes, wire: Wire) -> Object:
    events = list(read(body, wire.extra_frames))
    for number, event in enumerate(events):
        assert event["sequence_number"] == number
        wire.event(event)
    response = fold(wire.plain(event) for event in events)
    last = events[-1]["response"]
    assert response == wire.plain(events[-1])["response"]
    _whole(last)
    wire.response(last)
    return last  # type: ignore[no-any-return]


def read(body: bytes, extra_frames: int = 0) -> Iterator[Object]:
    """The events of a stream, after a look at its bytes: LF, one blank line, `event` = `type`, no `id`, [DONE] last."""
    assert b"\r" not in body
    frames = [frame for frame in parsed(body) if frame != COMMENT]
    assert frames[-1] == DONE
    assert frames.count(DONE) == 1
    extras = [frame for frame in frames[:-1] if frame.event is None]
    assert len(extras) <= extra_frames
    assert extras == frames[len(frames) - 1 - len(extras) : -1], "they stand at the end"
    for frame in frames[: len(frames) - 1 - len(extras)]:
        yield _event(frame)


def _event(frame: Frame) -> Object:
    event: Object = frame.data
    assert frame.event == event["type"]
    return event


def _response(value: Object, wire: Wire) -> None:
    _whole(value)
    wire.response(value)


def _whole(response: Object) -> None:
    """What no schema says of a response."""
    assert type(response["created_at"]) is int
    assert response["completed_at"] is None or type(response["completed_at"]) is int
    assert (response["error"] is not None) == (response["status"] == "failed")
    assert (response["incomplete_details"] is not None) == (response["status"] == "incomplete")
    if response["status"] == "completed":
        assert response["usage"] is not None
        assert all(item.get("status") not in {"in_progress", "queued"} for item in response["output"])
    for item in response["output"]:
        _item(item)


WITHOUT_STATUS = frozenset({"mcp_list_tools", "mcp_approval_request", "mcp_approval_response"})


def _item(item: Object) -> None:
    """Every item has these, whatever its schema requires; but OpenAI has kinds without a status."""
    names = ("id", "type") if item["type"] in WITHOUT_STATUS else ("id", "type", "status")
    assert all(isinstance(item[name], str) and item[name] for name in names), item


def _list(value: Object, wire: Wire) -> None:
    assert value.keys() >= {"object", "data"}
    for element in value["data"]:
        if "object" in element:
            CHECKS[element["object"]](element, wire)
        else:
            _item(element)
            wire.item(element)
    if "first_id" in value and value["data"]:
        assert (value["first_id"], value["last_id"]) == (value["data"][0]["id"], value["data"][-1]["id"])


def _model(value: Object, wire: Wire) -> None:
    del wire
    _strictly(Model, value)


def _deleted(value: Object) -> None:
    assert value.keys() == {"id", "object", "deleted"}
    assert value["deleted"] is True


def _response_or_receipt(value: Object, wire: Wire) -> None:
    if "deleted" in value:
        _deleted(value)
    else:
        _response(value, wire)


def _count(value: Object, wire: Wire) -> None:
    del wire
    _strictly(InputTokenCountResponse, {name: field for name, field in value.items() if not name.startswith(SLUG)})
    assert value["antiphon:count"] in {"exact", "estimated"}


def _compacted(value: Object, wire: Wire) -> None:
    assert value.keys() == {"id", "object", "created_at", "output", "usage"}
    assert [item["type"] for item in value["output"]].index("compaction") == len(value["output"]) - 1
    for item in value["output"]:
        _item(item)
        wire.item(item)
    _strictly(responses.ResponseUsage, value["usage"])


CHECKS: dict[str, Callable[[Object, Wire], None]] = {
    "response": _response_or_receipt,
    "list": _list,
    "model": _model,
    "response.input_tokens": _count,
    "response.compaction": _compacted,
}


# -- what is this server's own


def is_own(value: Any) -> bool:
    return isinstance(value, dict) and str(value.get("type", "")).startswith(SLUG)


def _known(value: Any) -> Any:
    """The value without what is this server's own: such elements of lists are left out."""
    if isinstance(value, dict):
        return {name: _known(field) for name, field in value.items()}
    return [_known(element) for element in value if not is_own(element)] if isinstance(value, list) else value


def _own_event(event: Object) -> None:
    assert type(event["sequence_number"]) is int
    assert type(event["output_index"]) is int
    assert isinstance(event["item_id"], str)


# -- OpenAI

PACKAGE_EVENTS: dict[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in get_args(get_args(responses.ResponseStreamEvent)[0])
}
NOT_YET: dict[str, Object] = {"web_search_call": {"action": {"type": "search"}}}
"""What the package demands of an item, and the recordings show only when it is done."""
ERROR_CODES = get_args(response_error.ResponseError.model_fields["code"].annotation)


def _strictly(kind: type[BaseModel], value: Object) -> None:
    kind.model_validate_json(json.dumps(value), strict=True)


def _openai_event(event: Object) -> None:
    if f".{SLUG}" in event["type"]:
        _own_event(event)
    elif is_own(event.get("item")):
        _item(event["item"])
    else:
        known = _known(event)
        if "response" in known:
            known["response"] = _with_known_code(known["response"])
        if event["type"] == "response.output_item.added":
            known["item"] = NOT_YET.get(known["item"]["type"], {}) | known["item"]
        _strictly(PACKAGE_EVENTS[event["type"]], known)


def _with_known_code(response: Object) -> Object:
    """Errors bear the code that they would have had as an HTTP error, of which the package's types list a few."""
    error = response["error"]
    if error is None or error["code"] in ERROR_CODES:
        return response
    return response | {"error": error | {"code": "server_error"}}


def _openai_response(response: Object) -> None:
    assert response.keys() >= RESPONSE_KEYS, "what Open Responses requires is always there"
    _strictly(responses.Response, _with_known_code(_known(response)))


def _openai_item(item: Object) -> None:
    if not is_own(item):
        page = {"object": "list", "data": [item], "first_id": "a", "last_id": "a", "has_more": False}
        _strictly(response_item_list.ResponseItemList, page)


def _openai_error(status: int, error: Object) -> None:
    del status
    _strictly(shared.ErrorObject, error)


OPENAI = Wire(
    event=_openai_event,
    response=_openai_response,
    item=_openai_item,
    error=_openai_error,
    plain=lambda event: event,
    stream_type="text/event-stream; charset=utf-8",
    extra_frames=1,
)


# -- Open Responses

OPEN_EVENTS: dict[str, str] = {
    schema["properties"]["type"]["enum"][0]: name for name, schema in SCHEMAS.items() if name.endswith("StreamingEvent")
}
RESPONSE_KEYS = frozenset(SCHEMAS["ResponseResource"]["required"])
BACK = {f"response.reasoning.{step}": f"response.reasoning_text.{step}" for step in ("delta", "done")}
STATUSES = {
    "invalid_request": range(400, 500),
    "not_found": (404,),
    "too_many_requests": (429,),
    "server_error": range(500, 600),
    "model_error": (500,),
}


@cache
def _validator(name: str) -> Any:
    return jsonschema_rs.validator_for(
        {"$ref": f"#/components/schemas/{name}", "components": OPEN_RESPONSES["components"]}
    )


def _fits(name: str, value: Object) -> None:
    _validator(name).validate(value)


def _open_event(event: Object) -> None:
    if is_own(event):
        _own_event(event)
    elif is_own(event.get("item")):
        _item(event["item"])
    elif is_own(event.get("annotation")):
        _fits(OPEN_EVENTS[event["type"]], event | {"annotation": None})
    else:
        _fits(OPEN_EVENTS[event["type"]], _known(event) | _open_choice(event))
        if "item" in event:
            _item(event["item"])


def _open_choice(event: Object) -> Object:
    return {"response": _plain_choice(_known(event["response"]))} if "response" in event else {}


def _plain_choice(response: Object) -> Object:
    return response | {"tool_choice": "required"} if is_own(response["tool_choice"]) else response


def _open_response(response: Object) -> None:
    assert response.keys() == RESPONSE_KEYS
    _fits("ResponseResource", _plain_choice(_known(response)))


def _open_item(item: Object) -> None:
    if not is_own(item):
        _fits("ItemField", _known(item))


def _open_error(status: int, error: Object) -> None:
    _fits("ErrorPayload", error)
    assert status in STATUSES[error["type"]]


def _open_plain(event: Object) -> Object:
    kind = event["type"]
    kind = BACK.get(kind) or (f"response.{kind.removeprefix(SLUG)}" if kind.startswith(SLUG) else kind)
    plain = event | {"type": kind}
    if "item" in plain:
        plain["item"] = _unslugged(plain["item"])
    if "response" in plain:
        output = [_unslugged(item) for item in plain["response"]["output"]]
        plain["response"] = plain["response"] | {"output": output}
    return plain


def _unslugged(item: Object) -> Object:
    return item | {"type": item["type"].removeprefix(SLUG)}


OPEN = Wire(
    event=_open_event,
    response=_open_response,
    item=_open_item,
    error=_open_error,
    plain=_open_plain,
    stream_type="text/event-stream",
    extra_frames=0,
)
