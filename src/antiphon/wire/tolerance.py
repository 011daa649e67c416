"""Tolerance: a raw request in its one canonical form, before its types are checked. Knows JSON, and no wire type.

Three things are written out here and nowhere else: the short forms that the reference allows (a string for a message,
an item without its type, nulls for what is not given), what clients of other servers send in the chat style, and hosted
tools that this server does not run. What came by another name is refused where it contradicts the name of the
reference.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from antiphon.errors import ApiError, InvalidRequest, UnsupportedParameter
from antiphon.wire.faults import array_too_long, string_too_short, too_deep
from antiphon.wire.request import LATER
from antiphon.wire.tools import DECLARED_MAX, HOSTED

STOP_MAX = 4
ADDED_MAX = 20
"""Items that one request may add to a conversation."""
DEPTH_MAX = 100
"""Levels of what is kept as it came, such as a tool's schema: far more than any model is shown, far fewer than
Python's limit on recursion."""
UNSERVED = "antiphon:unserved"
"""The type of `wire.tools.Unserved`, which stands for a hosted tool that this server does not run."""
DEEP = ("tools", "text", "tool_choice", "logit_bias")
"""Parameters that hold something kept as it came."""
DEEP_ITEMS = frozenset(
    {
        *("tool_search_call", "tool_search_output", "additional_tools", "shell_call", "configuration_update"),
        *("mcp_list_tools", "mcp_call"),
    }
)
PLAIN_ITEMS = frozenset(
    {
        *("shell_call", "shell_call_output", "local_shell_call", "local_shell_call_output", "apply_patch_call"),
        *("apply_patch_call_output", "computer_call", "computer_call_output", "web_search_call"),
    }
)
"""Items in which a null says nothing, however deep it stands."""

Object = dict[str, Any]


def normalised(raw: Object, items_max: int) -> Object:
    """The request with nulls gone, short forms written out, other servers' names replaced, types stamped."""
    raw = _without_nulls(raw)
    items = raw.get("input")
    if isinstance(items, list) and len(items) > items_max:
        raise array_too_long("input", items_max, len(items))
    _refuse_later(raw)
    for name in [name for name in ALIASES if name in raw]:
        ALIASES[name].move(raw, raw.pop(name))
    if any(is_deeper(raw[name], DEPTH_MAX) for name in raw.keys() & DEEP):
        raise too_deep()
    for name in raw.keys() & NORMALISERS.keys():
        raw[name] = NORMALISERS[name](raw[name])
    return raw


def conversation(raw: Object) -> Object:
    """A request of the Conversations API in its canonical form. Null metadata is none."""
    if "metadata" in raw and raw["metadata"] is None:
        raw = raw | {"metadata": {}}
    raw = _without_nulls(raw)
    items = raw.get("items")
    if isinstance(items, list):
        if len(items) <= ADDED_MAX:
            items = _input(items)  # to which a message of the chat style may add its calls
        if len(items) > ADDED_MAX:
            raise array_too_long("items", ADDED_MAX, len(items))
        raw = raw | {"items": items}
    return raw


def _refuse_later(raw: Object) -> None:
    for name in raw.keys() & LATER.keys():
        if not any(_same(raw[name], default) for default in LATER[name].defaults):
            raise UnsupportedParameter(
                f"Unsupported parameter: '{name}' is not supported by this server yet.", param=name
            )
        del raw[name]


def _same(value: object, default: object) -> bool:
    """Equal, and the same kind of thing: 0 == False, but they are not the same wish."""
    return value == default and isinstance(value, bool) is isinstance(default, bool)


def is_deeper(value: Any, most: int) -> bool:
    """What is kept as it came is read here, and must be written, and read again, from deeper in the stack."""
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


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict) and None in value.values():
        return {name: field for name, field in value.items() if field is not None}
    return value


def _without_any_null(value: Any) -> Any:
    """Of what a client names itself (an environment's variables), nothing is taken away."""
    if isinstance(value, dict):
        fields = ((name, field) for name, field in value.items() if field is not None)
        return {name: field if name == "env" else _without_any_null(field) for name, field in fields}
    return [_without_any_null(element) for element in value] if isinstance(value, list) else value


# -- other names for what the reference has


def _renamed(name: str, alias: str) -> Callable[[Object, Any], None]:
    def rename(raw: Object, value: Any) -> None:
        if raw.setdefault(name, value) != value:
            raise _contradiction(alias, name)

    return rename


def _moved(parent: str, name: str, alias: str) -> Callable[[Object, Any], None]:
    """Into a field of an object, which is made when it is not there. A wrong parent is left for the types to refuse."""

    def move(raw: Object, value: Any) -> None:
        holder = raw.get(parent, {})
        if isinstance(holder, dict):
            raw[parent] = holder = _without_nulls(holder)
            if holder.get(name, value) != value:
                raise _contradiction(alias, f"{parent}.{name}")
            raw[parent] = holder | {name: value}

    return move


def _contradiction(alias: str, name: str) -> InvalidRequest:
    return InvalidRequest(f"'{alias}' is another name for '{name}', and the two say different things.", param=alias)


def _response_format(raw: Object, value: Any) -> None:
    flat = _flat(value, "json_schema")
    _moved("text", "format", "response_format")(raw, flat)


class Alias(NamedTuple):
    """Another name for what stands at `path` in the reference."""

    path: str
    move: Callable[[Object, Any], None]


ALIASES: dict[str, Alias] = {
    "max_tokens": Alias("max_output_tokens", _renamed("max_output_tokens", "max_tokens")),
    "max_completion_tokens": Alias("max_output_tokens", _renamed("max_output_tokens", "max_completion_tokens")),
    "reasoning_effort": Alias("reasoning.effort", _moved("reasoning", "effort", "reasoning_effort")),
    "response_format": Alias("text.format", _response_format),
}


def aliases(raw: Object) -> dict[str, str]:
    """The other names in a request as it came, and what the reference has instead."""
    nested = _nested(raw.get("response_format"), "json_schema")
    used = {f"response_format.json_schema.{name}": f"text.format.{name}" for name in nested}
    used |= {name: alias.path for name, alias in ALIASES.items() if raw.get(name) is not None}
    reasoning = raw.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("generate_summary") is not None:
        used["reasoning.generate_summary"] = "reasoning.summary"
    return used


def as_sent(error: ApiError, used: Mapping[str, str]) -> ApiError:
    """A refusal of what came by another name says that name."""
    for alias, path in used.items():
        if error.param is not None and f"{error.param}.".startswith(f"{path}."):
            message = error.message.replace(f"'{path}", f"'{alias}")
            return type(error)(message, param=alias + error.param.removeprefix(path), code=error.code)
    return error


def _flat(value: Any, *names: str) -> Any:
    """The chat style nests what an object of a type is about under the type's name; the reference does not."""
    if not (nested := _nested(value, *names)):
        return value
    return _without_nulls(nested) | {name: field for name, field in value.items() if name != value["type"]}


def _nested(value: Any, *names: str) -> Object:
    kind = value.get("type") if isinstance(value, dict) else None
    nested = value.get(kind) if kind in names else None
    return nested if isinstance(nested, dict) else {}


# -- parameters


def _input(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if isinstance(value, list):
        return [item for element in value for item in _items(element)]
    return value


def _tools(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    inner = (element.get("tools") for element in value if isinstance(element, dict))
    count = len(value) + sum(len(tools) for tools in inner if isinstance(tools, list))
    if count > DECLARED_MAX:
        raise array_too_long("tools", DECLARED_MAX, count)
    return [tool(element) for element in value]


def tool(value: Any) -> Any:
    """One tool of a request, or of an item that brings tools."""
    value = _without_nulls(_flat(_without_nulls(value), "function", "custom"))
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    environment = value.get("environment")
    in_container = kind == "shell" and isinstance(environment, dict) and environment.get("type") != "local"
    if (isinstance(kind, str) and kind in HOSTED) or in_container:
        return {"type": UNSERVED, "kind": kind}
    if kind == UNSERVED:  # a client may not say so itself
        return value | {"type": kind.removeprefix("antiphon:")}
    if isinstance(value.get("tools"), list):
        return value | {"tools": _tools(value["tools"])}
    for name in value.keys() & {"filters", "user_location"}:
        value = value | {name: _without_nulls(value[name])}
    if kind == "custom" and "format" in value:
        return value | {"format": _flat(_without_nulls(value["format"]), "grammar")}
    return value


def _tool_choice(value: Any) -> Any:
    value = _without_nulls(_flat(value, "function", "custom", "allowed_tools"))
    if isinstance(value, dict) and isinstance(value.get("tools"), list):
        return value | {"tools": [_without_nulls(_flat(element, "function", "custom")) for element in value["tools"]]}
    return value


def _text(value: Any) -> Any:
    value = _without_nulls(value)
    if isinstance(value, dict) and "format" in value:
        return value | {"format": _without_nulls(_flat(value["format"], "json_schema"))}
    return value


def _reasoning(value: Any) -> Any:
    value = _without_nulls(value)
    if isinstance(value, dict) and "generate_summary" in value:  # the deprecated name
        summary = value["generate_summary"]
        if value.get("summary", summary) != summary:
            raise _contradiction("reasoning.generate_summary", "reasoning.summary")
        value = {name: field for name, field in value.items() if name != "generate_summary"} | {"summary": summary}
    return value


def _stop(value: Any) -> Any:
    if value == "":
        raise string_too_short("stop", 1)
    stops = [value] if isinstance(value, str) else value
    if isinstance(stops, list) and len(stops) > STOP_MAX:
        raise array_too_long("stop", STOP_MAX, len(stops))
    return stops


def _prompt(value: Any) -> Any:
    value = _without_nulls(value)
    if isinstance(value, dict) and isinstance(value.get("variables"), dict):
        variables = {name: _without_nulls(variable) for name, variable in value["variables"].items()}
        return value | {"variables": variables}
    return value


def _retention(value: Any) -> Any:
    return "in_memory" if value == "in-memory" else value  # as older SDKs spelled it


def _conversation(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else _without_nulls(value)


NORMALISERS: dict[str, Callable[[Any], Any]] = {
    "conversation": _conversation,
    "input": _input,
    "prompt": _prompt,
    "prompt_cache_options": _without_nulls,
    "prompt_cache_retention": _retention,
    "reasoning": _reasoning,
    "stop": _stop,
    "stream_options": _without_nulls,
    "text": _text,
    "tool_choice": _tool_choice,
    "tools": _tools,
}


# -- items


def _items(item: Any) -> Iterator[Any]:
    """One item; several for a message of the chat style that also calls tools."""
    if not isinstance(item, dict):
        yield item
        return
    item = _without_nulls(item)
    role = item.get("role")
    if role == "tool":
        yield _chat_output(item)
        return
    calls = item.pop("tool_calls", ()) if role == "assistant" and isinstance(item.get("tool_calls"), list) else ()
    if not calls or "content" in item:
        yield _item(item)
    for call in calls:
        yield _chat_call(call)


def _chat_output(item: Object) -> Object:
    rest = {name: field for name, field in item.items() if name not in {"role", "tool_call_id", "content"}}
    call = {"call_id": item["tool_call_id"]} if "tool_call_id" in item else {}
    return _with_parts(rest | call | {"type": "function_call_output", "output": item.get("content", "")}, "output", "")


def _chat_call(call: Any) -> Any:
    call = _flat(_without_nulls(call), "function")
    if not isinstance(call, dict):
        return call
    call_id = {"call_id": call["id"]} if "id" in call else {}
    return (
        {name: field for name, field in call.items() if name not in {"id", "index"}}
        | call_id
        | {"type": "function_call"}
    )


def _item(item: Object) -> Object:
    if "type" not in item:
        if "role" in item:
            item = item | {"type": "message"}
        elif item.keys() == {"id"}:
            item = item | {"type": "item_reference"}
    kind = item.get("type")
    if kind == "message":
        return _with_parts(item, "content", "output_text" if item.get("role") == "assistant" else "input_text")
    if kind in ("function_call_output", "custom_tool_call_output"):  # no set: the type may be a list
        return _with_parts(item, "output", "")
    if kind == "reasoning":
        if item.get("encrypted_content") == "":
            item = {name: field for name, field in item.items() if name != "encrypted_content"}
        return {"summary": []} | item
    return _open_item(item, kind) if isinstance(kind, str) else item


def _open_item(item: Object, kind: str) -> Object:
    if kind in DEEP_ITEMS | PLAIN_ITEMS and is_deeper(item, DEPTH_MAX):
        raise too_deep()
    if kind in PLAIN_ITEMS:
        item = _without_any_null(item)
    if kind == "configuration_update":
        return item | {name: NORMALISERS[name](item[name]) for name in item.keys() & {"reasoning", "text"}}
    if kind == "local_shell_call_output" and "call_id" not in item and isinstance(item.get("id"), str):
        return {name: field for name, field in item.items() if name != "id"} | {"call_id": item["id"]}
    return item


def _with_parts(item: Object, name: str, text: str) -> Object:
    """A string is written out as one part of type `text`, unless that is empty; the chat style's parts are renamed."""
    value = item.get(name)
    if isinstance(value, str) and text:
        return item | {name: [{"type": text, "text": value}]}
    if isinstance(value, list):
        return item | {name: [_part(part, text or "input_text") for part in value]}
    return item


def _part(part: Any, text: str) -> Any:
    part = _without_nulls(part)
    if not isinstance(part, dict):
        return part
    if part.get("type") == "text":
        return part | {"type": text}
    if part.get("type") == "image_url" and isinstance(part.get("image_url"), dict):
        nested = _without_nulls(part["image_url"])
        image = {{"url": "image_url"}.get(name, name): field for name, field in nested.items()}
        rest = {name: field for name, field in part.items() if name != "image_url"}
        return rest | image | {"type": "input_image"}
    if part.get("type") == "file":
        part = _without_nulls(_flat(part, "file")) | {"type": "input_file"}
    if "prompt_cache_breakpoint" in part:
        return part | {"prompt_cache_breakpoint": _without_nulls(part["prompt_cache_breakpoint"])}
    return part
