"""Prompt: what a model is told in one turn, with history, references and tools of every kind already resolved.

An adapter sees only these four kinds of item, in conversation order. Calls of every kind, also those that the server
itself ran, stand here as a FunctionCall followed (not always at once) by its FunctionCallOutput, and tools of every
kind as functions: an adapter knows no namespace, no custom tool and no shell.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from antiphon.wire.formats import JsonObjectFormat, JsonSchemaFormat, ReasoningEffort
from antiphon.wire.items import FunctionCall, FunctionCallOutput, Message, Reasoning
from antiphon.wire.response import ReasoningSummary, ServiceTier, Verbosity
from antiphon.wire.tools import Grammar

PromptItem: TypeAlias = Message | Reasoning | FunctionCall | FunctionCallOutput


class VendorThought(Reasoning, frozen=True, kw_only=True, tag="reasoning"):
    """A thought whose `encrypted_content` its vendor sealed, and can open: for `model` alone. Any other is told what
    else there is of it."""

    encrypted_content: str
    model: str


class Offer(Struct, frozen=True, kw_only=True):
    """A tool as the model is shown it. `parameters` is a JSON Schema object.

    Where there is a `grammar`, the parameters are `{"input": string}`, and that string must fit it: an adapter that
    can, makes it fit; whoever plans checks it all the same.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    grammar: Grammar | None = None


class Named(Struct, frozen=True):
    """The model must call this tool."""

    name: str


class Sampling(Struct, frozen=True, kw_only=True):
    """How the next token is drawn. None: not asked for."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None


class Memo:
    """What an adapter made of the first items of a prompt, so that the next turn of a conversation need not make it
    again. One is shared by all prompts of a conversation, whose items are the same objects: the last one that was made
    something of, at its place, vouches for those before it."""

    __slots__ = ("_count", "_key", "_last", "_made", "size")

    def __init__(self) -> None:
        self.size = 0
        """In bytes."""
        self._key: object = None
        self._count = 0
        self._last: PromptItem | None = None
        self._made: Any = None

    def recall(self, key: object, items: Sequence[PromptItem]) -> tuple[int, Any]:
        """How many of the items are made, and what of them; (0, None) where nothing is known under `key`."""
        count = self._count
        if count and count <= len(items) and items[count - 1] is self._last and self._key == key:
            return count, self._made
        return 0, None

    def keep(self, key: object, items: Sequence[PromptItem], count: int, made: object, size: int) -> None:
        self._key, self._count, self._last, self._made, self.size = key, count, items[count - 1], made, size


class Prompt(Struct, frozen=True, kw_only=True):
    """None means: not asked for, leave it to the model's own default."""

    model: str
    instructions: str | None = None
    items: tuple[PromptItem, ...]
    tools: tuple[Offer, ...] = ()
    """All that the model is shown."""
    tool_choice: Literal["none", "auto", "required"] | Named = "auto"
    allowed: frozenset[str] | None = None
    """Of the tools, only these may be called (`allowed_tools`); None: all. With "required", one of these must be."""
    parallel_tool_calls: bool = True
    sampling: Sampling = Sampling()
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    format: JsonObjectFormat | JsonSchemaFormat | None = None
    """What the text of the answer must be; calls and thoughts are free beside it."""
    verbosity: Verbosity | None = None
    top_logprobs: int | None = None
    """None: no logprobs are wanted; 0: each token's own."""
    effort: ReasoningEffort | None = None
    summary: ReasoningSummary | None = None
    service_tier: ServiceTier | None = None
    user: str | None = None
    cache_key: str | None = None
    """Prompts of one key begin alike."""
    memo: Memo = msgspec.field(default_factory=Memo)
    size: int | None = None
    """About how many bytes the items are (core/usage.py); None: not added up yet."""
    is_live: bool = True
    """Whether somebody watches the answer come. Where nobody does, an adapter may gather what it reads."""
    prefix: str = ""
    """The text of the answer as far as it was said before it was interrupted: the model goes on behind it."""

    @property
    def may_be_resumed(self) -> bool:
        """Whether an answer to it can go on in its middle. A form holds for a whole text, logprobs for every token, and
        behind another message of the model nobody could tell where the begun one starts."""
        last = self.items[-1] if self.items else None
        is_behind_another = isinstance(last, Message) and last.role == "assistant"
        is_free = self.format is None and self.tool_choice in ("auto", "none")
        return is_free and self.top_logprobs is None and not is_behind_another
