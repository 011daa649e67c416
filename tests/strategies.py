"""Strategies: what hypothesis makes requests, items, tools and events of. The wire types say which there are.

`values(kind)` makes any value of a wire type, so that a new item or tool is tried as soon as it is declared. On it
stand conversations that are lawful as a whole, and mutants of their JSON.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from antiphon.core import clienttools
from antiphon.wire import actions, formats, items, tools
from antiphon.wire.request import CreateResponse
from antiphon.wire.tools import JsonObject

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
"""How many times as many examples as in `make test`, where they are always the same."""


def trying(examples: int) -> settings:
    return settings(
        max_examples=examples * FACTOR,
        derandomize=FACTOR == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


# -- values of a type

TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "\0", "\r\n", "\N{PILE OF POO}", "\u2028\x85", "data: x", '"\\', "{}", "a" * 300]),
)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.integers(0, 3)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
NAMES = st.from_regex(r"[a-zA-Z0-9_-]{1,16}", fullmatch=True)
PICTURE = "data:image/png;base64,iVBORw0KGgo="
FIELDS: dict[tuple[type, str], st.SearchStrategy[Any]] = {
    **{
        (kind, name): st.just(PICTURE if name == "image_url" else UNSET)
        for kind in (items.InputImage, actions.ComputerScreenshot)
        for name in ("image_url", "file_id")
    },
    (items.InputFile, "file_data"): st.sampled_from(["aGVsbG8=", "data:text/plain;base64,aGVsbG8="]),
    (items.InputFile, "file_url"): st.just(UNSET),
    (items.InputFile, "file_id"): st.just(UNSET),
    (items.InputFile, "filename"): st.sampled_from(["a.txt", "notes"]),
    (items.AudioData, "data"): st.just("AAAA"),
    (tools.FunctionTool, "name"): NAMES,
    (tools.CustomTool, "name"): NAMES,
    (tools.NamespaceTool, "name"): NAMES,
    (tools.ScriptedTool, "name"): NAMES,
    **{
        (kind, "allowed_callers"): st.sampled_from([UNSET, ("direct",), ("direct", "programmatic")])
        for kind in (tools.FunctionTool, tools.CustomTool, tools.ShellTool, tools.ApplyPatchTool)
    },
}
"""Fields of which the type alone does not say what they take."""


@cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a wire type."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _LEAVES:
        return _LEAVES[kind]
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (Union, UnionType):
        return st.one_of(*(values(one) for one in inner))
    if origin is Annotated:
        return values(inner[0]) if get_origin(inner[0]) is tuple else _bounded(inner[0], inner[1])
    if origin is tuple:
        return st.lists(values(inner[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(values(inner[0]), values(inner[1]), max_size=2)
    assert issubclass(kind, Struct), kind
    return st.builds(kind, **{field.name: _field(kind, field) for field in structs.fields(kind)})


def _field(kind: type[Struct], field: structs.FieldInfo) -> st.SearchStrategy[Any]:
    if (kind, field.name) in FIELDS:
        return FIELDS[kind, field.name]
    given = values(field.type)
    return given if field.required else given | st.just(_default(field))


def _default(field: structs.FieldInfo) -> Any:
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: NUMBERS,
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    type(None): st.none(),
    UnsetType: st.just(UNSET),
    Any: JSON,
    JsonObject: OBJECTS,
}


def _bounded(kind: Any, meta: Meta) -> st.SearchStrategy[Any]:
    if meta.pattern is not None:
        return st.from_regex(meta.pattern.removesuffix("$") + r"\Z")
    if kind is str:
        return st.text(min_size=meta.min_length or 0, max_size=min(meta.max_length or 8, 8))
    make: Any = st.integers if kind is int else st.floats
    bounded: st.SearchStrategy[Any] = make(min_value=meta.ge, max_value=meta.le)
    return bounded


# -- lawful conversations


class Pair(NamedTuple):
    """A kind of call, and the kind of output that answers it."""

    call: type[Struct]
    output: type[Struct]


PAIRS = (
    Pair(items.FunctionCall, items.FunctionCallOutput),
    Pair(items.CustomToolCall, items.CustomToolCallOutput),
    Pair(items.ToolSearchCall, items.ToolSearchOutput),
    Pair(items.ShellCall, items.ShellCallOutput),
    Pair(items.LocalShellCall, items.LocalShellCallOutput),
    Pair(items.ApplyPatchCall, items.ApplyPatchCallOutput),
    Pair(items.ComputerCall, items.ComputerCallOutput),
)
OUTPUTS = {pair.call: pair.output for pair in PAIRS}
Items: TypeAlias = list[Any]


@st.composite
def conversations(draw: st.DrawFn) -> Items:
    """Items of every kind: each output after its call, and a call without an output only where the call is asynchronous
    or was cut short. No references, and no call of a hosted tool: both need a server that knows them."""
    said: Items = []
    waiting: Items = []
    for number in range(draw(st.integers(0, 4))):
        step = draw(st.sampled_from(["message", "reasoning", "call", "call", "answer", "tools", "update"]))
        if step == "message":
            said.append(_named(draw(values(items.Message)), draw))
        elif step == "reasoning":
            thought = structs.replace(draw(values(items.Reasoning)), encrypted_content=UNSET)  # nobody can make one up
            answer = structs.replace(draw(values(items.Message)), role="assistant")
            said += [_named(thought, draw), _named(answer, draw)]
        elif step == "update":  # of the effort alone: what the scripted model says fits no schema
            said.append(items.ConfigurationUpdate(reasoning=draw(values(items.ReasoningUpdate))))
        elif step == "tools":
            said.append(items.AdditionalTools(tools=draw(found_tools(f"more{number}"))))
        elif step == "call" or not waiting:
            waiting += _begun(draw(calls(f"call_{number}")), said)
        else:
            said.append(draw(answers(waiting.pop(draw(st.integers(0, len(waiting) - 1))))))
    said += [draw(answers(call)) for call in waiting if getattr(call, "async_", UNSET) is not True]
    return said


def _named(item: Any, draw: st.DrawFn) -> Any:
    """Under an id of its own, if it has one: two items of one id are given new ones."""
    return structs.replace(item, id=draw(st.just(UNSET) | st.uuids().map(str)))


def _begun(call: Any, said: Items) -> Items:
    said.append(call)
    return [] if call.status == "incomplete" or call.call_id is None else [call]


@st.composite
def calls(draw: st.DrawFn, call_id: str) -> Any:
    call = draw(st.one_of(*(values(pair.call) for pair in PAIRS)))
    name = {"name": "f"} if hasattr(call, "name") else {}
    space = {"namespace": UNSET if call.namespace is UNSET else "space"} if hasattr(call, "namespace") else {}
    return structs.replace(call, id=UNSET, call_id=None if call.call_id is None else call_id, **name, **space)


@st.composite
def answers(draw: st.DrawFn, call: Any) -> Any:
    output = draw(values(OUTPUTS[type(call)]))
    if isinstance(output, items.ToolSearchOutput):
        output = structs.replace(output, tools=draw(found_tools(f"found_by_{call.call_id}")))
    return structs.replace(output, id=UNSET, call_id=call.call_id)


def found_tools(prefix: str) -> st.SearchStrategy[Any]:
    """Tools as an item holds them. Their names are their own in the conversation."""
    return st.lists(named_tools(), max_size=2).map(
        lambda found: tuple(
            msgspec.to_builtins(structs.replace(tool, name=f"{prefix}_{number}")) for number, tool in enumerate(found)
        )
    )


# -- lawful requests

GRAMMARS = {
    tools.Grammar(syntax="regex", definition="[0-9]+"): "42",
    tools.Grammar(syntax="lark", definition='start: "a" "b"*'): "abb",
}
FITTING: dict[str, Any] = {
    "shell": items.ShellCall,
    "local_shell": items.LocalShellCall,
    "apply_patch": items.ApplyPatchCall,
    "computer": items.ComputerCall,
    "computer_use_preview": items.ComputerCall,
    "tool_search": items.ToolSearchCall,
}
"""A client's tool, by the name a model knows it by, and the kind of its calls."""
SINGLE = (
    *(tools.ToolSearchTool, tools.ShellTool, tools.LocalShellTool, tools.ApplyPatchTool, tools.ComputerTool),
    *(tools.ComputerUsePreviewTool, tools.ScriptedTool),
)
"""Tools that a request can offer once."""


def named_tools() -> st.SearchStrategy[Any]:
    formats = st.sampled_from([UNSET, tools.TextInput(), *GRAMMARS])
    return values(tools.FunctionTool) | st.builds(structs.replace, values(tools.CustomTool), format=formats)


@st.composite
def offers(draw: st.DrawFn) -> Items:
    """Tools of every kind, each under a name of its own."""
    said = draw(st.lists(named_tools() | namespaces(), max_size=3))
    named = [structs.replace(tool, name=f"t{number}-{tool.name}") for number, tool in enumerate(said)]
    single = draw(st.lists(st.sampled_from(SINGLE), unique=True, max_size=3))
    hosted = [{"type": kind} for kind in draw(st.lists(st.sampled_from(sorted(tools.HOSTED)), max_size=1))]
    told = [msgspec.to_builtins(_lawful(tool)) for tool in [*named, *(draw(values(kind)) for kind in single)]]
    return draw(st.permutations([*told, *hosted]))


@st.composite
def namespaces(draw: st.DrawFn) -> Any:
    within = draw(st.lists(named_tools(), min_size=1, max_size=2))
    named = tuple(structs.replace(tool, name=f"i{number}-{tool.name}") for number, tool in enumerate(within))
    return structs.replace(draw(values(tools.NamespaceTool)), tools=named)


def _lawful(tool: Any) -> Any:
    """The server's search takes words, and nothing that a request could say."""
    is_ours = isinstance(tool, tools.ToolSearchTool) and tool.execution == "server"
    return structs.replace(tool, parameters=UNSET) if is_ours else tool


def can_be_called(offered: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The names by which a model knows the tools that it is shown at once, and their declarations."""
    searches = {tool.get("execution", "server") for tool in offered if tool["type"] == "tool_search"}
    found = 0
    for tool in offered:
        within = [(f"{tool['name']}__{one['name']}", one) for one in tool["tools"]] if "tools" in tool else []
        for name, one in within or [(tool.get("name", tool["type"]), tool)]:
            finders = searches & {"server"} if one["type"] == "antiphon:scripted" else searches
            waits = one.get("defer_loading") is True and bool(finders)
            found += waits
            if one["type"] not in tools.HOSTED and not waits and one["type"] != "tool_search":
                yield name, one
    if "client" in searches or (searches and found):
        yield "tool_search", next(tool for tool in offered if tool["type"] == "tool_search")


@st.composite
def scripts(draw: st.DrawFn, offered: Sequence[Mapping[str, Any]]) -> str:
    """What the scripted model is told to do. Calls come last: after a message it would begin anew."""
    words = st.sampled_from(["say hello", "think hm", "refuse no", "say \0 \u2028", "long 3", "say"])
    steps = draw(st.lists(words, min_size=1, max_size=2))
    found = [*can_be_called(offered)]
    for name, tool in draw(st.lists(st.sampled_from(found), max_size=3)) if found else ():
        steps.append(f"call {name} {draw(arguments(tool))}")
    return " | ".join(steps)


@st.composite
def arguments(draw: st.DrawFn, tool: Mapping[str, Any]) -> str:
    """What this tool takes, as a model writes it; it holds no " | ", which parts the steps of a script."""
    if tool["type"] == "custom":
        grammars = {json.dumps(msgspec.to_builtins(one)): text for one, text in GRAMMARS.items()}
        given = json.dumps({"input": grammars.get(json.dumps(tool.get("format")), draw(TEXTS))})
    elif tool["type"] == "tool_search" and tool.get("execution") != "client":
        given = json.dumps({"query": "t0"})
    elif tool["type"] in FITTING:
        call = draw(values(FITTING[tool["type"]]))
        if isinstance(call, items.ComputerCall):
            action = draw(values(actions.ComputerAction))
            old = tool["type"] == "computer_use_preview"
            call = structs.replace(call, action=action if old else UNSET, actions=UNSET if old else (action,))
        given = clienttools.call_arguments(call)
    else:
        given = json.dumps({"text": draw(TEXTS)} if tool["type"] == "antiphon:scripted" else draw(OBJECTS))
    return given.replace("|", "\\u007c").replace("fail", "fa\\u0069l")


PARAMETERS = sorted(
    {field.name for field in structs.fields(CreateResponse)}
    - {"model", "input", "tools", "tool_choice", "stream", "stream_options", "previous_response_id", "prompt"}
    - {"include", "text", "max_output_tokens", "metadata", "context_management", "conversation"}
)


STREAMING: tuple[dict[str, Any], ...] = (
    {},
    {"stream": False},
    {"stream": True},
    {"stream": True, "stream_options": {"include_usage": True}},
)
COMPACTING: tuple[dict[str, Any], ...] = (
    *({}, {}),
    {"context_management": [{"type": "compaction", "compact_threshold": 1_000}]},
)
"""The scripted model's window is not known: a threshold must be given."""
SCHEMAS: tuple[JsonObject, ...] = ({}, {"type": "object"}, {"$ref": "#/$defs/a", "$defs": {"a": {}}})


def text_formats() -> st.SearchStrategy[Any]:
    schema = st.builds(structs.replace, values(formats.JsonSchemaFormat), schema=st.sampled_from(SCHEMAS))
    return st.sampled_from([formats.TextFormat(), formats.JsonObjectFormat()]) | schema


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A body that must be served: of every item and tool, with parameters of every kind."""
    offered = draw(offers())
    wanted = draw(text_formats())
    free = isinstance(wanted, formats.TextFormat)
    script = draw(scripts(offered)) if free else 'say {"a": [1]}'
    told = [*draw(conversations()), items.Message(role="user", content=(items.InputText(text=script),))]
    told += draw(st.sampled_from([(), (), (), (items.CompactionTrigger(),)]))
    names = draw(st.lists(st.sampled_from(PARAMETERS), unique=True, max_size=4))
    given = {field.name: draw(values(field.type)) for field in structs.fields(CreateResponse) if field.name in names}
    if not free:
        given.pop("stop", None)
    body = given | {
        "model": "scripted",
        "input": told,
        "tools": offered,
        "tool_choice": draw(choices(offered)),
        "text": {"format": wanted, "verbosity": draw(st.sampled_from(["low", "high"]))},
        "metadata": draw(st.dictionaries(st.text(max_size=8), TEXTS, max_size=2)),
        "include": draw(st.lists(st.sampled_from(["message.output_text.logprobs", "reasoning.encrypted_content"]))),
    }
    body |= draw(st.sampled_from(STREAMING)) | draw(st.sampled_from(COMPACTING))
    if not body.get("store", True):
        body.pop("expires_after", None)
    return msgspec.json.decode(msgspec.json.encode(body))  # type: ignore[no-any-return]


@st.composite
def choices(draw: st.DrawFn, offered: Sequence[Mapping[str, Any]]) -> Any:
    """A tool_choice that these tools allow."""
    named = [
        {"type": tool["type"]} | ({"name": tool["name"]} if tool["type"] in {"function", "custom"} else {})
        for name, tool in can_be_called(offered)
        if "__" not in name
    ]
    if not named:
        return draw(st.sampled_from(["auto", "none"]))
    allowed = st.builds(
        lambda mode, some: {"type": "allowed_tools", "mode": mode, "tools": some},
        st.sampled_from(["auto", "required"]),
        st.lists(st.sampled_from(named), min_size=1),
    )
    single = [one for one in named if one["type"] not in {"antiphon:scripted", "tool_search", "local_shell"}]
    return draw(st.sampled_from(["auto", "none", "required", *single]) | allowed)


# -- mutants


ODD_NAMES = ("", "a.b", "[0]", "\0\r\n", "x" * 300, "`")
NEW_NAMES = ("type", "id", "content", "rolle", "call_id", "colour", "tool_calls", "function", *ODD_NAMES)


def nested(depth: int, *, listed: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if listed else {"a": value}
    return value


JUNK = st.one_of(
    JSON,
    st.sampled_from(["user", "message", "function", "item_reference", "computer_call", "` - at `$.x", "x" * 5000]),
    st.sampled_from([10**19, -(10**30), 10**400, 1e308, 2**31, -1, 0]),
    st.builds(nested, st.integers(1, 150), listed=st.booleans()),
)


def chats() -> st.SearchStrategy[dict[str, Any]]:
    """Bodies as clients of other servers send them."""
    call = {"id": "c", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}
    picture = {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}}
    chat = {
        "model": "scripted",
        "input": [
            {"role": "system", "content": "s"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "x"}]},
            {"role": "user", "content": [{"type": "text", "text": "say {}"}, picture]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        "max_tokens": 9,
        "reasoning_effort": "low",
        "stream_options": None,
    }
    return st.builds(deepcopy, st.just(chat))


@st.composite
def mutants(draw: st.DrawFn) -> dict[str, Any]:
    """A lawful request in which something was dropped, replaced, wrapped, doubled or added, once or a few times."""
    body = draw(requests() | chats())
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        holder, key = draw(st.sampled_from(list(places(body))))
        value = holder[key]
        change = draw(st.sampled_from(["drop", "null", "replace", "list", "object", "double", "add", "again"]))
        if change == "drop":
            del holder[key]
        elif change in {"null", "replace"}:
            holder[key] = None if change == "null" else draw(JUNK)
        elif change in {"list", "double"}:
            holder[key] = [value] if change == "list" else [value, value]
        elif change == "object":
            holder[key] = {draw(st.sampled_from(NEW_NAMES)): value}
        elif change == "add" and isinstance(value, dict):
            value[draw(st.sampled_from(NEW_NAMES))] = draw(JUNK)
        elif change == "again" and isinstance(holder, list):
            holder.insert(key, value)
    return body


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key within."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from places(inner)


SPLINTERS = (
    *(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b"\x1f", b'"\\ud800"', b'"\\udc00\\ud800"', b"NaN", b"1e999"),
    *(b'"a":1,"a":2,', b'"model":"scripted",', b"{", b"}", b"[", b"]", b'"', b",", b"9" * 400, b"[" * 2000, b"\\"),
)


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A request's bytes, cut off, or with something in them that is no JSON, or that JSON should not hold."""
    body = json.dumps(draw(requests()), ensure_ascii=False).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        at, splinter = draw(st.integers(0, len(body))), draw(st.sampled_from(SPLINTERS))
        change = draw(st.sampled_from(["cut", "insert", "insert", "replace"]))
        body = body[:at] if change == "cut" else body[:at] + splinter + body[at + (change == "replace") :]
    return body
