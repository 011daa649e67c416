"""Models, /health, and /openapi.json: what is really served, described from the routes and the wire types."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
from msgspec import Struct
from starlette.datastructures import Headers

from antiphon import __version__
from antiphon.api.http import JSON_HEADERS, Call, Parameter, Served, send_value
from antiphon.core.ports import ModelCard
from antiphon.engine.engine import Engine
from antiphon.errors import Unavailable
from antiphon.packed import Packed
from antiphon.wire.actions import (
    ComputerAction,
    ComputerScreenshot,
    Exited,
    LocalShellAction,
    SafetyCheck,
    ShellAction,
    ShellOutput,
)
from antiphon.wire.codec import METADATA_KEY_CHARS_MAX, METADATA_PAIRS_MAX, METADATA_VALUE_CHARS_MAX
from antiphon.wire.conversation import AddItems, CreateConversation, UpdateConversation
from antiphon.wire.dialect import DIALECTS
from antiphon.wire.events import HostedStatus, TaggedEvent
from antiphon.wire.formats import Format
from antiphon.wire.items import InputFile, InputImage, InputItem, Message, MessagePart, ReasoningUpdate
from antiphon.wire.request import (
    CompactConversation,
    ContextManagement,
    CountInputTokens,
    CreateResponse,
    PromptCacheWish,
    ReasoningOptions,
    StreamOptions,
    TextOptions,
)
from antiphon.wire.resources import ErrorBody, Health
from antiphon.wire.response import PromptUse
from antiphon.wire.tolerance import ADDED_MAX, STOP_MAX
from antiphon.wire.tools import NAME_PATTERN, CustomTool, FunctionTool, NamespaceTool, ScriptedTool, Tool


class ModelList(Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: list[ModelCard]


class _Meta(Struct, frozen=True):
    engine: Engine

    async def models(self, call: Call) -> None:
        await send_value(call, ModelList(data=await self.engine.models()))

    async def model(self, call: Call) -> None:
        await send_value(call, await self.engine.model(call.path("model")))

    async def ready(self, call: Call) -> None:
        """503 from when the server is told to stop: what shares out requests then passes it over."""
        if not self.engine.is_ready:
            raise Unavailable
        await _health(call)


async def _health(call: Call) -> None:
    await send_value(call, Health(version=__version__))


def probes(engine: Engine) -> list[Served]:
    """What a process answers, whatever its role."""
    return [
        Served(
            method="GET",
            path="/health",
            endpoint=_health,
            summary="Whether the server is up",
            gives=Health,
            needs_key=False,
        ),
        Served(
            method="GET",
            path="/ready",
            endpoint=_Meta(engine).ready,
            summary="Whether the server takes new work: 503 while it stops",
            gives=Health,
            needs_key=False,
        ),
    ]


def routes(engine: Engine) -> list[Served]:
    it = _Meta(engine)
    served = []
    for dialect in DIALECTS:
        models = f"{dialect.prefix}/models"
        served += [
            Served(method="GET", path=models, endpoint=it.models, summary="List models", gives=ModelList),
            Served(
                method="GET",
                path=models + "/{model:path}",
                endpoint=it.model,
                summary="Retrieve a model",
                gives=ModelCard,
            ),
        ]
    return served


def description(served: Sequence[Served]) -> Served:
    """The route of /openapi.json, which describes `served`; made when it is first asked for."""
    made: list[Packed] = []

    async def endpoint(call: Call) -> None:
        if not made:
            made.append(await asyncio.to_thread(lambda: Packed.of(msgspec.json.encode(openapi(served)))))
        status, lines, body = made[0].answer(Headers(scope=call.scope))
        headers = [*JSON_HEADERS, (b"cache-control", b"no-cache"), *lines]
        await call.send(call.scope["antiphon"].head(status, headers))
        await call.send({"type": "http.response.body", "body": body})

    return Served(method="GET", path="/openapi.json", endpoint=endpoint, summary="This document", needs_key=False)


# -- the document

BINARY = {"type": "string", "format": "binary"}


def openapi(served: Sequence[Served]) -> dict[str, Any]:
    """OpenAPI 3.1 of the operations, with every wire type under components."""
    kinds = [kind for one in served for kind in (one.takes, one.gives) if kind not in (None, bytes)]
    kinds += [TaggedEvent, HostedStatus, ErrorBody]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    named = {str(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    _describe_input(components)
    named[str(bytes)] = BINARY
    named |= {one.path: _form(one, components) for one in served if one.takes_file}
    paths: dict[str, dict[str, Any]] = {}
    for one in served:
        paths.setdefault(one.path.replace(":path", ""), {})[one.method.lower()] = _operation(one, named)
    return {
        "openapi": "3.1.0",
        "info": {"title": "antiphon", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(one: Served, named: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {_kind(one): {"schema": named[str(one.gives)]} if one.gives else {}}
    if one.streams:
        content["text/event-stream"] = {"schema": _frame([named[str(TaggedEvent)], named[str(HostedStatus)]])}
    error = {"content": {"application/json": {"schema": named[str(ErrorBody)]}}}
    operation: dict[str, Any] = {
        "summary": one.summary,
        "operationId": one.endpoint.__name__.strip("_") + one.path.replace("/", "_").replace("{", "").replace("}", ""),
        "responses": {
            "200": {"description": "OK", "content": content},
            **{status: {"description": words, **error} for status, words in _refusals(one).items()},
            "default": {"description": "An error", **error},
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)", one.path)
    ] + [_query_parameter(parameter) for parameter in one.query]
    if parameters:
        operation["parameters"] = parameters
    if one.takes is not None:
        form, json = ("multipart/form-data", one.path), ("application/json", str(one.takes))
        kind, taken = form if one.takes_file else json
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": named[taken]}}}
    if one.needs_key:
        operation["security"] = [{"key": []}, {}]
    return operation


def _kind(one: Served) -> str:
    return "application/octet-stream" if one.gives is bytes else "application/json"


def _form(one: Served, components: dict[str, Any]) -> dict[str, Any]:
    """A form's fields beside its file are those of a wire type, which is described nowhere else."""
    fields = components.pop(one.takes.__name__)
    properties = {one.takes_file: BINARY, **fields["properties"]}
    return {"type": "object", "properties": properties, "required": [one.takes_file, *fields.get("required", ())]}


def _frame(events: list[Any]) -> dict[str, Any]:
    """One server-sent event: a numbered one, the usage that was asked for, or the end."""
    usage = {"type": "object", "properties": {"object": {"const": "response.chunk"}}, "required": ["object", "usage"]}
    told = {"contentMediaType": "application/json", "contentSchema": {"anyOf": [*events, usage]}}
    data = {"type": "string", "anyOf": [{"const": "[DONE]"}, told]}
    return {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}


def _refusals(one: Served) -> dict[str, str]:
    """The statuses of errors that are the client's, and what each means here."""
    words = {"403": "This address or origin may not be used"}
    if one.needs_key:
        words["401"] = "The key is missing or wrong"
    if one.takes is not None or one.query:
        words["400"] = "The request is invalid; `param` names what is wrong"
    if "{" in one.path or one.takes is not None:
        words["404"] = "There is no such thing in this project"
    if one.takes is not None:
        words |= {
            "413": "The body is too large",
            "415": "The body is no form" if one.takes_file else "The body is no JSON",
            "429": "Too many requests at once",
        }
    if one.takes_file:
        words["408"] = "The body did not arrive in time"
    if one.takes is not None and (one.streams or one.takes is dict):  # a response is made, in either dialect
        words |= {"502": "The model failed to answer", "503": "The server is starting up or shutting down"}
    return dict(sorted(words.items()))


def _query_parameter(one: str | Parameter) -> dict[str, Any]:
    if isinstance(one, str):
        return {"name": one, "in": "query", "schema": {"type": "string"}}
    return {"in": "query", "explode": True, **msgspec.to_builtins(one)}


WHOLE: tuple[type[Struct], ...] = (CreateResponse, CountInputTokens, CompactConversation)
"""The bodies of requests."""
NULLED: tuple[type[Struct], ...] = (
    *WHOLE,
    ContextManagement,
    *(CreateConversation, ReasoningOptions, TextOptions, StreamOptions, PromptUse, PromptCacheWish),
    *(*get_args(InputItem), *get_args(MessagePart), *get_args(Tool), *get_args(Format)),
    *(ReasoningUpdate, ShellAction, LocalShellAction, SafetyCheck, ShellOutput, Exited, *get_args(ComputerAction)),
    ComputerScreenshot,
)
"""Where null stands for what is not given."""

SOURCES: dict[type[Struct], tuple[str, ...]] = {
    InputImage: ("image_url", "file_id"),
    ComputerScreenshot: ("image_url", "file_id"),
    InputFile: ("file_data", "file_url", "file_id"),
}
"""Where something must be brought from, by exactly one of these."""


def _describe_input(components: dict[str, Any]) -> None:
    """What the codec takes beside what the types say: short forms, and null for whatever is not given; and what it asks
    for that no type says."""
    request = components[CreateResponse.__name__]
    properties = request["properties"]
    content = components[Message.__name__]["properties"]
    content["content"] = {"anyOf": [{"type": "string"}, content["content"]]}
    properties["stop"] = {"anyOf": [{"type": "string", "minLength": 1}, properties["stop"] | {"maxItems": STOP_MAX}]}
    properties["conversation"] = {"anyOf": [{"type": "string"}, *properties["conversation"]["anyOf"]]}
    for labelled in (CreateResponse, CreateConversation, UpdateConversation):
        components[labelled.__name__]["properties"]["metadata"] |= {
            "additionalProperties": {"type": "string", "maxLength": METADATA_VALUE_CHARS_MAX},
            "propertyNames": {"maxLength": METADATA_KEY_CHARS_MAX},
            "maxProperties": METADATA_PAIRS_MAX,
        }
    components[CreateConversation.__name__]["properties"]["items"] |= {"maxItems": ADDED_MAX}
    components[AddItems.__name__]["properties"]["items"] |= {"minItems": 1, "maxItems": ADDED_MAX}
    replaced = components[UpdateConversation.__name__]["properties"]
    replaced["metadata"] = {"anyOf": [replaced["metadata"], {"type": "null"}]}
    for kind in NULLED:
        described = components[kind.__name__]
        for name in described["properties"].keys() - {*described.get("required", ()), "type"}:
            described["properties"][name] = {"anyOf": [described["properties"][name], {"type": "null"}]}
    for kind, sources in SOURCES.items():
        components[kind.__name__] |= _one_is_given(*sources)
    for named in (FunctionTool, CustomTool, NamespaceTool, ScriptedTool):
        components[named.__name__]["properties"]["name"]["pattern"] = f"^{NAME_PATTERN}$"
    for kind in WHOLE:
        whole = components[kind.__name__]
        whole["properties"]["input"]["anyOf"].insert(0, {"type": "string"})
        names = whole["properties"].keys()
        whole["allOf"] = [
            _one_is_given(*(name for name in sources if name in names)) for sources in (("model", "prompt"), BEGINNINGS)
        ]
        whole["dependentSchemas"] = {name: rule for name, rule in DEPENDENT.items() if name in names}


BEGINNINGS = ("input", "previous_response_id", "conversation", "prompt")


def _one_is_given(*names: str) -> dict[str, Any]:
    return {"anyOf": [{"required": [name], "not": _is(name, None)} for name in names]}


def _is(name: str, value: object) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"const": value}}}


DEPENDENT: dict[str, dict[str, Any]] = {
    "stream_options": {"anyOf": [_is("stream_options", None), _is("stream", True)]},
    "conversation": {"anyOf": [_is("conversation", None), {"properties": {"previous_response_id": {"type": "null"}}}]},
    "background": {"anyOf": [{"not": _is("background", True)}, {"not": _is("store", False)}]},
}
