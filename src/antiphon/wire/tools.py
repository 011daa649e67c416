"""Tools as clients declare them, and the choice among them. Knows nothing of running them.

Source: openai 3.54.0 types/responses/tool.py, tool_choice_*.py.
"""

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from antiphon.wire.items import Later

NAME_PATTERN = r"[a-zA-Z0-9_-]{1,128}"


class ToolBase(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A tool that a request offers to the model."""


class FunctionTool(ToolBase, frozen=True, kw_only=True, tag="function", rename={"async_": "async"}):
    """A function that the client runs. `parameters` is a JSON Schema, kept as it came."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: Literal[False] | Later = UNSET
    output_schema: Later = UNSET
    allowed_callers: Later = UNSET
    async_: Literal[False] | Later = UNSET


class ScriptedTool(ToolBase, frozen=True, kw_only=True, tag="antiphon:scripted"):
    """The scripted hosted tool: what its calls give is written in the server's settings or here, by name."""

    name: str = "scripted"
    output: str | UnsetType = UNSET


Tool: TypeAlias = FunctionTool | ScriptedTool


class NamedFunction(Struct, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """`tool_choice`: this function must be called."""

    name: str


ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedFunction
