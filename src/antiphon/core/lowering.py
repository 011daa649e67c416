"""Lowering: items of every kind as the four kinds that a model is told of.

Pure. A call of any kind becomes a FunctionCall by the name under which its tool was offered (toolbox.py), its output a
FunctionCallOutput; what a model is told of an asynchronous call stands here too.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeGuard, get_args

from msgspec import UNSET, json, structs

from antiphon.core import clienttools, toolsearch
from antiphon.core.calls import Refused
from antiphon.core.hosted import Tool, runner_of
from antiphon.core.prompt import PromptItem
from antiphon.core.toolbox import flat_name
from antiphon.errors import InvalidRequest
from antiphon.wire.items import (
    Asking,
    ClientCall,
    ClientOutput,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    HostedCall,
    InputText,
    Item,
    Message,
    OutputText,
    ToolOutput,
    ToolSearchCall,
    ToolSearchOutput,
)

PENDING = "The call runs on. Its result will come later; go on without it."


_MAY_BE_ASYNC: tuple[type[Item], ...] = (FunctionCall, CustomToolCall)
_CALLS, _OUTPUTS = frozenset(get_args(ClientCall)), frozenset(get_args(ClientOutput))
"""A look into a set is many times quicker than isinstance of a union, and histories are long."""


def is_call(item: Item) -> TypeGuard[ClientCall]:
    return type(item) in _CALLS


def is_output(item: Item) -> TypeGuard[ClientOutput]:
    return type(item) in _OUTPUTS


def is_async(call: Item) -> bool:
    return type(call) in _MAY_BE_ASYNC and call.async_ is True  # type: ignore[union-attr] # so says the set


# -- what a model is told


def call(item: ClientCall) -> Iterator[PromptItem]:
    """A call that was cut short is not told; a server's search for tools, with what it found."""
    if item.status != "incomplete" and item.call_id is not None:
        yield _call(item)
        if is_async(item):
            yield FunctionCallOutput(call_id=item.call_id, output=PENDING, status="completed")


def late(call: ClientCall, item: ClientOutput) -> Message:
    """The output of an asynchronous call, which stands anywhere, as a message that something came."""
    told = _call(call)
    text = f"The result of the earlier call {told.call_id} of {told.name}:"
    result = output(item).output
    parts = (InputText(text=result),) if isinstance(result, str) else result
    return Message(role="user", content=(InputText(text=text), *parts))


def search(item: ToolSearchCall, found: ToolSearchOutput, names: Iterable[str]) -> Iterator[PromptItem]:
    """A search of this server's. `names` are those of its own tools among what was found."""
    call_id = f"call_{item.id}"
    arguments = clienttools.call_arguments(item)
    yield FunctionCall(id=item.id, call_id=call_id, name=toolsearch.NAME, arguments=arguments, status="completed")
    output = clienttools.found_text(found, names)
    yield FunctionCallOutput(id=found.id, call_id=call_id, output=output, status="completed")


def _call_id(call: ClientCall) -> str:
    assert call.call_id is not None
    return call.call_id


def _call(item: ClientCall) -> FunctionCall:
    match item:
        case FunctionCall():
            return item if item.namespace is UNSET else structs.replace(item, name=flat_name(item.namespace, item.name))
        case CustomToolCall():
            name = flat_name(item.namespace, item.name)
            arguments = json.encode({"input": item.input}).decode()
        case _:
            name, arguments = clienttools.call_name(item), clienttools.call_arguments(item)
    return FunctionCall(id=item.id, call_id=_call_id(item), name=name, arguments=arguments, status="completed")


def output(item: ClientOutput) -> FunctionCallOutput:
    if isinstance(item, FunctionCallOutput):
        return item
    told: ToolOutput = item.output if isinstance(item, CustomToolCallOutput) else clienttools.output_text(item)
    assert isinstance(item.call_id, str)
    return FunctionCallOutput(id=item.id, call_id=item.call_id, output=told, status="completed")


def runner(item: HostedCall | Asking, runners: Mapping[str, Tool]) -> Tool:
    """Whose item that is. Raises InvalidRequest when nobody here knows its tool."""
    found = runner_of(item, runners)
    if found is None:
        kind = str(item.__struct_config__.tag).removesuffix("_call")
        raise InvalidRequest(
            f"The conversation holds a call of the tool '{kind}', which is not enabled on this server.", param="input"
        )
    return found


# -- calls that were not made


def told(refused: Iterable[Refused], new_call_id: Iterator[str]) -> Iterator[PromptItem]:
    for call in refused:
        call_id = next(new_call_id)
        yield FunctionCall(call_id=call_id, name=call.name, arguments=call.arguments, status="completed")
        yield FunctionCallOutput(call_id=call_id, output=f"The call was not made: {call.reason}", status="completed")


def text_of(items: Iterable[Item]) -> str:
    """What the answer says, without remarks on the way."""
    messages = (item for item in items if isinstance(item, Message) and item.phase != "commentary")
    return "".join(part.text for message in messages for part in message.content if isinstance(part, OutputText))
