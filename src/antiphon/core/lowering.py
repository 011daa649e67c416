"""Lowering: items of every kind as the four kinds that a model is told of, and the pairing of calls with outputs.

Pure. A call of any kind becomes a FunctionCall by the name under which its tool was offered (toolbox.py), its output a
FunctionCallOutput; what a model is told of an asynchronous call stands here too.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeGuard, get_args

from msgspec import UNSET, UnsetType, json, structs

from antiphon.core import clienttools
from antiphon.core.calls import Refused
from antiphon.core.ids import ID_CHARS_MAX
from antiphon.core.ports import Tool
from antiphon.core.prompt import PromptItem
from antiphon.core.toolbox import flat_name
from antiphon.errors import InvalidRequest
from antiphon.wire.items import (
    AdditionalTools,
    ClientCall,
    ClientOutput,
    ConfigurationUpdate,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    HostedCall,
    InputText,
    Item,
    LocalShellCall,
    Message,
    OutputText,
    Reasoning,
    ToolOutput,
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


# -- pairs


def paired(items: Iterable[Item]) -> list[Item]:
    """The same items, each output under the call_id of the call it answers. Raises InvalidRequest where an output has
    no call before it, or a finished call that is not asynchronous has no output. Matched in order, not by id alone:
    some vendors give the same call id again in a later turn."""
    waiting = _Waiting()
    found: list[Item] = []
    for item in items:
        if isinstance(item, ClientCall):
            waiting.add(item)
        elif isinstance(item, ClientOutput) and item.call_id is not None:
            item = structs.replace(item, call_id=waiting.answered(item))
        found.append(item)
    for call in waiting.calls.values():
        if not is_async(call):
            raise InvalidRequest(
                f"No tool output found for function call {str(call.call_id)[:ID_CHARS_MAX]}.", param="input"
            )
    return found


class _Waiting:
    """Calls that have no output yet, in order."""

    def __init__(self) -> None:
        self.calls: dict[int, ClientCall] = {}
        self._by_id: dict[str, deque[int]] = {}
        self._functions: dict[str | UnsetType, list[int]] = {}
        """Numbers of function calls by their names, and of all of them under UNSET; some are answered already."""
        self._number = 0

    def add(self, call: ClientCall) -> None:
        if call.status == "incomplete" or call.call_id is None:
            return
        self._number += 1
        self.calls[self._number] = call
        self._by_id.setdefault(call.call_id, deque()).append(self._number)
        if isinstance(call, FunctionCall):
            for name in (call.name, UNSET):
                self._functions.setdefault(name, []).append(self._number)
        if isinstance(call, LocalShellCall) and isinstance(call.id, str):  # whose outputs may name the item
            self._by_id.setdefault(call.id, deque()).append(self._number)

    def answered(self, output: ClientOutput) -> str | None:
        """The call_id of the call that an output answers, which waits no longer."""
        number = self._unnamed(output) if output.call_id == "" else self._named(str(output.call_id))
        return self.calls.pop(number).call_id

    def _named(self, call_id: str) -> int:
        numbers = self._by_id.get(call_id, deque())
        while numbers:
            number = numbers.popleft()
            if number in self.calls:
                return number
        raise InvalidRequest(
            f"No tool call found for function call output with call_id {call_id[:ID_CHARS_MAX]}.", param="input"
        )

    def _unnamed(self, output: ClientOutput) -> int:
        name = output.name if isinstance(output, FunctionCallOutput) else UNSET
        numbers = self._functions.get(name, [])
        while numbers:
            number = numbers.pop()
            if number in self.calls:
                return number
        raise InvalidRequest("A function call output has no 'call_id', and no call waits for one.", param="input")


# -- what a model is told


def lowered(items: Sequence[Item], runners: Mapping[str, Tool]) -> Iterator[PromptItem]:
    """The items a model is told of: what was cut short before it said anything is left out."""
    late = _late_outputs(items) if any(map(is_async, items)) else {}
    for place, item in enumerate(items):
        if type(item) is Message:
            if item.content:
                yield item
        elif type(item) is Reasoning:
            yield item
        elif is_call(item):
            if item.status != "incomplete" and item.call_id is not None:  # without one, a server searched for tools
                yield _call(item)
                if is_async(item):
                    yield FunctionCallOutput(call_id=item.call_id, output=PENDING, status="completed")
        elif is_output(item):
            if item.call_id is not None:
                yield late[place] if place in late else _output(item)
        elif not isinstance(item, AdditionalTools | ConfigurationUpdate):
            assert isinstance(item, HostedCall)
            if item.status != "incomplete":
                yield from _replayed(item, runners)


def _late_outputs(items: Sequence[Item]) -> dict[int, Message]:
    """By place: outputs of asynchronous calls, which stand anywhere, told as messages that something came."""
    calls: dict[str, ClientCall] = {}
    late: dict[int, Message] = {}
    for place, item in enumerate(items):
        if is_call(item) and is_async(item):
            calls[_call_id(item)] = item
        elif is_output(item) and (call := calls.pop(str(item.call_id), None)):
            told = _call(call)
            text = f"The result of the earlier call {told.call_id} of {told.name}:"
            output = _output(item).output
            parts = (InputText(text=output),) if isinstance(output, str) else output
            late[place] = Message(role="user", content=(InputText(text=text), *parts))
    return late


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


def _output(item: ClientOutput) -> FunctionCallOutput:
    if isinstance(item, FunctionCallOutput):
        return item
    output: ToolOutput = item.output if isinstance(item, CustomToolCallOutput) else clienttools.output_text(item)
    assert isinstance(item.call_id, str)
    return FunctionCallOutput(id=item.id, call_id=item.call_id, output=output, status="completed")


def _replayed(item: HostedCall, runners: Mapping[str, Tool]) -> tuple[FunctionCall, FunctionCallOutput]:
    kind = str(item.__struct_config__.tag).removesuffix("_call")
    runner = runners.get(kind)
    if runner is None:
        raise InvalidRequest(
            f"The conversation holds a call of the tool '{kind}', which is not enabled on this server.", param="input"
        )
    return runner.replay(item)


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
