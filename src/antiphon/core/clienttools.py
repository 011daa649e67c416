"""Tools of the reference that a client runs and that are no functions: shells, patches, computers, tool search. Each is
shown to a model as a function; its calls are lifted into their own items, and items are told as calls of that function.

Pure, and runs nothing. A model that knows only functions can so be used by every client. Offers' names are the tools'
types. Source of the items: openai 3.54.0 types/responses; the diff format is that of OpenAI's apply_patch guide.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Struct, json

from antiphon.core.prompt import Offer
from antiphon.wire import tools as declared
from antiphon.wire.actions import ComputerAction, LocalShellAction, PatchOperation, ShellAction
from antiphon.wire.items import (
    ApplyPatchCall,
    ApplyPatchCallOutput,
    ClientCall,
    ClientOutput,
    ComputerCall,
    ComputerCallOutput,
    InputImage,
    LocalShellCall,
    LocalShellCallOutput,
    ShellCall,
    ShellCallOutput,
    ToolOutput,
    ToolSearchCall,
    ToolSearchOutput,
)
from antiphon.wire.tools import JsonObject

Lift: TypeAlias = Callable[[str, str], ClientCall]
"""(call_id, arguments) -> the item. Raises ValueError, which says what is wrong, when the arguments do not fit."""


class ClientTool(NamedTuple):
    name: str
    description: str
    parameters: JsonObject
    lift: Lift

    def offer(self, more: str = "") -> Offer:
        description = f"{self.description}\n\n{more}" if more else self.description
        return Offer(name=self.name, description=description, parameters=self.parameters)


def _object(required: tuple[str, ...], **properties: JsonObject) -> JsonObject:
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


def _array(items: JsonObject) -> JsonObject:
    return {"type": "array", "items": items}


_STRING: JsonObject = {"type": "string"}
_INTEGER: JsonObject = {"type": "integer"}
_TIMEOUT: JsonObject = {"type": "integer", "description": "Milliseconds after which a command is ended."}


def _read(arguments: str, kind: Any) -> Any:
    try:
        return json.decode(arguments or "{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


# -- shells


def _lift_shell(call_id: str, arguments: str) -> ClientCall:
    action = _read(arguments, ShellAction)
    return ShellCall(status="completed", call_id=call_id, action=action, environment={"type": "local"})


def _lift_local_shell(call_id: str, arguments: str) -> ClientCall:
    action = _read(arguments, _LocalShellArguments)
    return LocalShellCall(
        status="completed",
        call_id=call_id,
        action=LocalShellAction(
            command=action.command,
            env=action.env,
            timeout_ms=action.timeout_ms,
            working_directory=action.working_directory,
        ),
    )


class _LocalShellArguments(Struct):
    command: tuple[str, ...]
    env: dict[str, str] = {}
    timeout_ms: int | None = None
    working_directory: str | None = None


SHELL = ClientTool(
    "shell",
    "Runs commands, each in a shell of its own, on the user's machine and gives what they print and their exit codes.",
    _object(
        ("commands",),
        commands=_array(_STRING),
        timeout_ms=_TIMEOUT,
        max_output_length={"type": "integer", "description": "Characters of output to give back at most."},
    ),
    _lift_shell,
)
LOCAL_SHELL = ClientTool(
    "local_shell",
    "Runs one command on the user's machine and gives what it prints.",
    _object(
        ("command",),
        command=_array(_STRING) | {"description": "The program and its arguments."},
        working_directory=_STRING,
        timeout_ms=_TIMEOUT,
        env={"type": "object", "additionalProperties": _STRING},
    ),
    _lift_local_shell,
)


# -- patches


class _PatchArguments(Struct):
    operation: PatchOperation


def _lift_patch(call_id: str, arguments: str) -> ClientCall:
    operation = _read(arguments, _PatchArguments).operation
    return ApplyPatchCall(status="completed", call_id=call_id, operation=operation)


APPLY_PATCH = ClientTool(
    "apply_patch",
    "Creates, updates or deletes one file of the user by a V4A diff. In the diff of a new file every line begins with "
    "'+'. In that of an update, each section begins with a line '@@' (with the name of the class or function around it "
    "where that helps to find the place); then ' ' begins a line of context, '-' one that goes and '+' one that comes, "
    "with three lines of context before and after a change.",
    _object(
        ("operation",),
        operation=_object(
            ("type", "path"),
            type={"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
            path=_STRING,
            diff={"type": "string", "description": "Not for delete_file."},
        ),
    ),
    _lift_patch,
)


# -- computers


class _ComputerArguments(Struct):
    actions: tuple[ComputerAction, ...]


class _PreviewArguments(Struct):
    action: ComputerAction


def _lift_computer(call_id: str, arguments: str) -> ClientCall:
    return ComputerCall(status="completed", call_id=call_id, actions=_read(arguments, _ComputerArguments).actions)


def _lift_preview(call_id: str, arguments: str) -> ClientCall:
    return ComputerCall(status="completed", call_id=call_id, action=_read(arguments, _PreviewArguments).action)


_KINDS = ["click", "double_click", "drag", "keypress", "move", "screenshot", "scroll", "type", "wait"]
_ACTION = _object(
    ("type",),
    type={"type": "string", "enum": _KINDS},
    x={"type": "integer", "description": "Pixels from the left: click, double_click, move, scroll."},
    y={"type": "integer", "description": "Pixels from the top: click, double_click, move, scroll."},
    button={"type": "string", "enum": ["left", "right", "wheel", "back", "forward"], "description": "For click."},
    keys=_array(_STRING) | {"description": "Keys to press (keypress), or held down during another action."},
    text={"type": "string", "description": "What to type."},
    scroll_x={"type": "integer", "description": "Pixels to scroll to the right."},
    scroll_y={"type": "integer", "description": "Pixels to scroll down."},
    path=_array(_object(("x", "y"), x=_INTEGER, y=_INTEGER)) | {"description": "The way of a drag."},
)
COMPUTER = ClientTool(
    "computer",
    "Does things on the screen of the user's computer, one after another, and gives a picture of it afterwards.",
    _object(("actions",), actions=_array(_ACTION)),
    _lift_computer,
)
COMPUTER_PREVIEW = ClientTool(
    "computer_use_preview",
    "Does one thing on the screen of the user's computer, and gives a picture of it afterwards.",
    _object(("action",), action=_ACTION),
    _lift_preview,
)


# -- tool search


def _lift_search(call_id: str, arguments: str) -> ClientCall:
    return ToolSearchCall(status="completed", call_id=call_id, arguments=_read(arguments, Any), execution="client")


TOOL_SEARCH = ClientTool(
    "tool_search",
    "Finds more tools. Those that it gives can be called from then on.",
    _object(("query",), query=_STRING),
    _lift_search,
)


def search_tool(tool: declared.ToolSearchTool) -> ClientTool:
    """As this request describes it."""
    return TOOL_SEARCH._replace(
        description=TOOL_SEARCH.description if tool.description is UNSET else tool.description,
        parameters=TOOL_SEARCH.parameters if tool.parameters is UNSET else tool.parameters,
    )


# -- what a model is told of them again


def call_name(item: ClientCall) -> str:
    """The function that the model knows this call by; not of functions and custom tools, which have names."""
    return COMPUTER_PREVIEW.name if isinstance(item, ComputerCall) and _has_one_action(item) else _NAMES[type(item)]


def _has_one_action(item: ComputerCall) -> bool:
    """In the older form. The reference lets a call have neither."""
    return item.actions is UNSET and item.action is not UNSET


_NAMES: dict[type, str] = {
    ShellCall: SHELL.name,
    LocalShellCall: LOCAL_SHELL.name,
    ApplyPatchCall: APPLY_PATCH.name,
    ComputerCall: COMPUTER.name,
    ToolSearchCall: TOOL_SEARCH.name,
}


def call_arguments(item: ClientCall) -> str:
    """The inverse of lifting."""
    match item:
        case ShellCall() | LocalShellCall():
            told: Any = {name: v for name, v in msgspec.to_builtins(item.action).items() if v not in (None, {})}
            told.pop("type", None)
        case ApplyPatchCall():
            told = {"operation": item.operation}
        case ComputerCall():
            actions = () if item.actions is UNSET else item.actions
            told = {"action": item.action} if _has_one_action(item) else {"actions": actions}
        case _:
            assert isinstance(item, ToolSearchCall)
            told = item.arguments
    return json.encode(told).decode()


def output_text(item: ClientOutput) -> ToolOutput:
    """What the model hears of an output that is no function's."""
    match item:
        case ShellCallOutput():
            return json.encode(item.output).decode()
        case LocalShellCallOutput():
            return item.output
        case ApplyPatchCallOutput():
            return item.status if item.output is UNSET else f"{item.status}: {item.output}"
        case ComputerCallOutput():
            return (InputImage(image_url=item.output.image_url, file_id=item.output.file_id),)
        case _:
            assert isinstance(item, ToolSearchOutput)
            return found_text(item, [])


FOUND_CHARS_MAX = 300
"""Of what is said of each tool that was found: the model is shown all of it anyway."""


def found_text(item: ToolSearchOutput, names: Iterable[str]) -> str:
    """What the model hears of a search; `names` are those of tools that the server runs."""
    lines = [*_found(item.tools, "", depth=1), *names]
    if not lines:
        return f"Found nothing. Try other words; what there is stands in the description of {TOOL_SEARCH.name}."
    return "\n".join(["Found, and ready to be called:", *(f"- {line}" for line in lines)])


def _found(tools: Sequence[Any], namespace: str, depth: int) -> Iterator[str]:
    """Whether a client's are tools is found out where they are offered."""
    for tool in tools:
        if not isinstance(tool, dict):
            continue
        name, described, inner = f"{namespace}{tool.get('name', '')}", tool.get("description"), tool.get("tools")
        if depth and isinstance(inner, list | tuple):
            yield from _found(inner, f"{name}__", depth - 1)
        elif tool.get("name"):
            yield f"{name}: {described[:FOUND_CHARS_MAX]}" if isinstance(described, str) and described else name
