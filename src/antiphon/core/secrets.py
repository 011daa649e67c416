"""Secrets in declarations of tools: where they may stand, and what of them is changed to be stored. Seals nothing."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, get_args

from msgspec import UNSET, structs

from antiphon.errors import InvalidRequest
from antiphon.wire.items import AdditionalTools, InputItem, ToolSearchOutput
from antiphon.wire.tools import ServerTool, Tool

_SECRETS: Final[dict[str, tuple[str, ...]]] = {
    str(kind.__struct_config__.tag): kind.SECRETS for kind in get_args(Tool) if issubclass(kind, ServerTool)
}


def check(items: Sequence[InputItem], param: str) -> None:
    """Items are stored as they came, and so may bring no secret. Raises InvalidRequest."""
    for index, item in enumerate(items):
        if type(item) is not AdditionalTools and type(item) is not ToolSearchOutput:
            continue
        for number, tool in enumerate(item.tools):
            for name in _SECRETS.get(str(tool.get("type")), ()):
                if tool.get(name) is not None:
                    place = f"{param}[{index}].tools[{number}].{name}"
                    raise InvalidRequest(
                        f"'{place}' is a secret, which an item may not hold: items are stored. Declare the tool in "
                        "'tools', with every request.",
                        param=place,
                    )


def changed(tools: Iterable[Tool], change: Callable[[str], str]) -> tuple[Tool, ...]:
    """The tools, with `change` made to every text that is secret or private."""
    return tuple(_changed(tool, change) if isinstance(tool, ServerTool) else tool for tool in tools)  # type: ignore[misc]


def _changed(tool: ServerTool, change: Callable[[str], str]) -> ServerTool:
    fields = {name: getattr(tool, name) for name in (*tool.SECRETS, *tool.PRIVATE)}
    return structs.replace(tool, **{name: _told(value, change) for name, value in fields.items() if value is not UNSET})


def _told(value: Any, change: Callable[[str], str]) -> Any:
    return {name: change(text) for name, text in value.items()} if isinstance(value, dict) else change(value)
