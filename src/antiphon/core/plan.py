"""Plan: all that is decided before the first token, or a refusal. Pure: what it needs of the world is handed in."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType, structs

from antiphon.core.ids import ID_CHARS_MAX, NewId
from antiphon.core.ports import Tool
from antiphon.core.prompt import Named, Offer, Prompt, PromptItem
from antiphon.errors import InvalidRequest, InvalidValue, MissingParameter, NotFound, UnsupportedParameter
from antiphon.wire.items import (
    ID_PREFIXES,
    FunctionCall,
    FunctionCallOutput,
    HostedCall,
    InputItem,
    Item,
    ItemReference,
    Message,
    Reasoning,
)
from antiphon.wire.request import CreateResponse
from antiphon.wire.response import ReasoningConfig, Response
from antiphon.wire.tools import NAME_PATTERN, FunctionTool, NamedFunction
from antiphon.wire.tools import Tool as Declaration

_NAME = re.compile(NAME_PATTERN)


class Hosted(Struct, frozen=True):
    """A hosted tool that this request offers."""

    tool: Tool
    declaration: Any


class Plan(Struct, frozen=True, kw_only=True):
    """`given` are the request's own items, under their ids; `history` is what came before them."""

    response: Response
    given: tuple[Item, ...]
    history: tuple[Item, ...]
    prompt: Prompt
    hosted: dict[str, Hosted]
    thought_as_summary: bool


class Bounds(Struct, frozen=True, kw_only=True):
    history_items_max: int
    tools_max: int


def make(
    request: CreateResponse,
    *,
    history: tuple[Item, ...],
    referenced: Mapping[str, Item],
    tools: Mapping[str, Tool],
    bounds: Bounds,
    new_id: NewId,
    now: int,
) -> Plan:
    """`referenced` holds the stored items that item_references name; `tools` are this server's, by declaration type.

    Raises InvalidRequest (or NotFound, for an item reference) naming the parameter.
    """
    model = require_model(request)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("The 'stream_options' parameter is only allowed when 'stream' is true.",
                             param="stream_options")  # fmt: skip
    if request.input is None and request.previous_response_id is None:
        raise MissingParameter("Missing required parameter: 'input'.", param="input")
    offers, hosted = _offer(request.tools, tools, bounds)
    given = _given(request.input or (), history, referenced, new_id)
    items = (*history, *given)
    if not items:
        raise InvalidRequest("The 'input' must hold at least one item.", param="input", code="empty_array")
    if len(items) > bounds.history_items_max:
        raise InvalidRequest(f"The input and its history hold more than {bounds.history_items_max} items.",
                             param="input")  # fmt: skip
    check_pairs(items)
    return Plan(
        response=_skeleton(request, model, new_id("resp"), now),
        given=given,
        history=history,
        prompt=Prompt(
            model=model,
            instructions=request.instructions,
            items=tuple(_lowered(items, tools)),
            tools=offers,
            tool_choice=_choice(request, offers),
            parallel_tool_calls=request.parallel_tool_calls,
            temperature=request.temperature,
            top_p=request.top_p,
            max_output_tokens=request.max_output_tokens,
            stop=request.stop,
            effort=request.reasoning.effort,
            user=request.user,
            is_live=request.stream,
        ),
        hosted=hosted,
        thought_as_summary=request.reasoning.summary is not None,
    )


def require_model(request: CreateResponse) -> str:
    if not request.model:
        raise MissingParameter("Missing required parameter: 'model'.", param="model")
    return request.model


def references(request: CreateResponse) -> list[str]:
    """The ids that must be looked up before planning."""
    return [item.id for item in request.input or () if isinstance(item, ItemReference)]


# -- the response as it will first be seen


def _skeleton(request: CreateResponse, model: str, response_id: str, now: int) -> Response:
    return Response(
        id=response_id,
        created_at=now,
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        model=model,
        parallel_tool_calls=request.parallel_tool_calls,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=ReasoningConfig(effort=request.reasoning.effort, summary=request.reasoning.summary),
        safety_identifier=request.safety_identifier,
        service_tier=request.service_tier or "default",
        store=request.store,
        temperature=1.0 if request.temperature is None else request.temperature,
        tool_choice=request.tool_choice,
        tools=tuple(_echoed(tool) for tool in request.tools),
        top_p=1.0 if request.top_p is None else request.top_p,
        user=request.user,
        metadata=request.metadata,
    )


def _echoed(tool: Declaration) -> Declaration:
    """The tool with its defaults filled in: strict is false here unless asked for."""
    if isinstance(tool, FunctionTool) and tool.strict is None:
        return structs.replace(tool, strict=False)
    return tool


# -- tools


def _offer(
    declared: Sequence[Declaration], tools: Mapping[str, Tool], bounds: Bounds
) -> tuple[tuple[Offer, ...], dict[str, Hosted]]:
    if len(declared) > bounds.tools_max:
        raise InvalidValue(f"Invalid 'tools': array too long. Expected at most {bounds.tools_max} tools.",
                           param="tools", code="array_above_max_length")  # fmt: skip
    offers: dict[str, Offer] = {}
    hosted: dict[str, Hosted] = {}
    for index, tool in enumerate(declared):
        if isinstance(tool, FunctionTool):
            offer = Offer(name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict)
        else:
            runner = tools.get(_tag(tool))
            if runner is None:
                raise UnsupportedParameter(f"The tool '{_tag(tool)}' is not enabled on this server.",
                                           param=f"tools[{index}].type")  # fmt: skip
            offer = runner.offer(tool)
            hosted[offer.name] = Hosted(runner, tool)
        _check_name(offer.name, offers, index)
        offers[offer.name] = offer
    return tuple(offers.values()), hosted


def _check_name(name: str, taken: Mapping[str, Offer], index: int) -> None:
    param = f"tools[{index}].name"
    if not _NAME.fullmatch(name):
        raise InvalidValue(
            f"Invalid '{param}': expected a string of 1 to 128 characters that matches '^[a-zA-Z0-9_-]+$'.", param=param
        )
    if name in taken:
        raise InvalidValue(f"Invalid '{param}': there is already a tool named '{name}'.", param=param)


def _choice(request: CreateResponse, offers: Sequence[Offer]) -> Any:
    choice = request.tool_choice
    if isinstance(choice, NamedFunction):
        if all(offer.name != choice.name for offer in offers):
            raise InvalidRequest("Tool choice 'function' not found in 'tools' parameter.", param="tool_choice")
        return Named(choice.name)
    if choice == "required" and not offers:
        raise InvalidRequest("Tool choice 'required' must be specified with 'tools' parameter.", param="tool_choice")
    return choice


# -- items


def _given(
    items: Sequence[InputItem], history: Sequence[Item], referenced: Mapping[str, Item], new_id: NewId
) -> tuple[Item, ...]:
    """The request's items with references resolved. Each gets an id that is its own within the conversation, so that
    a listing can be paged by ids: the client's own where it is free."""
    taken = {item.id for item in history}
    given: list[Item] = []
    for index, item in enumerate(items):
        found = _resolved(item, referenced) if isinstance(item, ItemReference) else item
        wanted = _own_id(found.id, index)
        own = new_id(ID_PREFIXES[type(found)]) if wanted is UNSET or wanted in taken else wanted
        taken.add(own)
        given.append(structs.replace(found, id=own, status=_given_status(found)))
    return tuple(given)


def _own_id(given: str | UnsetType, index: int) -> str | UnsetType:
    if given is not UNSET and len(given) > ID_CHARS_MAX:
        raise InvalidValue(
            f"Invalid 'input[{index}].id': string too long. Expected a string with maximum length {ID_CHARS_MAX}, "
            f"but got a string with length {len(given)} instead.",
            param=f"input[{index}].id",
            code="string_above_max_length",
        )
    return given or UNSET


def _given_status(item: Item) -> str:
    """What a client hands in is finished, except what it says was cut short."""
    return "completed" if item.status is UNSET or item.status == "in_progress" else item.status


def _resolved(reference: ItemReference, referenced: Mapping[str, Item]) -> Item:
    item = referenced.get(reference.id)
    if item is None:
        raise NotFound(
            f"Item with id '{reference.id[:ID_CHARS_MAX]}' not found. Items are not persisted when `store` is set to "
            "false. Try again with `store` set to true, or remove this item from your input.",
            param="input",
        )
    return item


def check_pairs(items: Iterable[Item]) -> None:
    """Every output answers a call before it, every finished call has its output. Matched in order, not by id alone:
    some vendors give the same call id again in a later turn."""
    waiting: dict[str, int] = {}
    for item in items:
        if isinstance(item, FunctionCall) and item.status != "incomplete":
            waiting[item.call_id] = waiting.get(item.call_id, 0) + 1
        elif isinstance(item, FunctionCallOutput):
            if item.call_id not in waiting:
                raise InvalidRequest(
                    f"No tool call found for function call output with call_id {item.call_id[:ID_CHARS_MAX]}.",
                    param="input",
                )
            waiting[item.call_id] -= 1
            if not waiting[item.call_id]:
                del waiting[item.call_id]
    for call_id in waiting:
        raise InvalidRequest(f"No tool output found for function call {call_id[:ID_CHARS_MAX]}.", param="input")


def _lowered(items: Iterable[Item], tools: Mapping[str, Tool]) -> Iterator[PromptItem]:
    """The items a model is told of: what was cut short before it said anything is left out."""
    for item in items:
        if isinstance(item, FunctionCall):
            if item.status != "incomplete":
                yield item
        elif isinstance(item, Message):
            if item.content:
                yield item
        elif isinstance(item, Reasoning | FunctionCallOutput):
            yield item
        elif item.status != "incomplete":
            yield from _replayed(item, tools)


def _replayed(item: HostedCall, tools: Mapping[str, Tool]) -> tuple[FunctionCall, FunctionCallOutput]:
    kind = _tag(item).removesuffix("_call")
    tool = tools.get(kind)
    if tool is None:
        raise InvalidRequest(
            f"The conversation holds a call of the tool '{kind}', which is not enabled on this server.", param="input"
        )
    return tool.replay(item)


def extended(prompt: Prompt, items: Iterable[Item], tools: Mapping[str, Tool], spent_tokens: int) -> Prompt:
    """The prompt of the next turn: with what the last one added. A forced choice was met; asked again, it would never
    end. The token limit is for the whole response."""
    limit = prompt.max_output_tokens
    return structs.replace(
        prompt,
        items=(*prompt.items, *_lowered(items, tools)),
        tool_choice="none" if prompt.tool_choice == "none" else "auto",
        max_output_tokens=None if limit is None else limit - spent_tokens,
    )


def _tag(struct: Struct) -> str:
    tag = struct.__struct_config__.tag
    assert isinstance(tag, str)
    return tag
