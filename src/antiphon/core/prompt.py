"""Prompt: what a model is told in one turn, with history, references and hosted tools already resolved.

An adapter sees only these four kinds of item, in conversation order; calls that the server itself ran stand here as a
FunctionCall followed by its FunctionCallOutput.
"""

from typing import Any, Literal, TypeAlias

from msgspec import Struct

from antiphon.wire.items import FunctionCall, FunctionCallOutput, Message, Reasoning
from antiphon.wire.response import ReasoningEffort

PromptItem: TypeAlias = Message | Reasoning | FunctionCall | FunctionCallOutput


class Offer(Struct, frozen=True, kw_only=True):
    """A tool as the model is shown it. `parameters` is a JSON Schema object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Named(Struct, frozen=True):
    """The model must call this tool."""

    name: str


class Prompt(Struct, frozen=True, kw_only=True):
    """None means: not asked for, leave it to the model's own default."""

    model: str
    instructions: str | None = None
    items: tuple[PromptItem, ...]
    tools: tuple[Offer, ...] = ()
    tool_choice: Literal["none", "auto", "required"] | Named = "auto"
    parallel_tool_calls: bool = True
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    effort: ReasoningEffort | None = None
    user: str | None = None
    is_live: bool = True
    """Whether somebody watches the answer come. Where nobody does, an adapter may gather what it reads."""
