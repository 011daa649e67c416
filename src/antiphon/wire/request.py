"""The body of POST /v1/responses, and which of the reference's parameters wait for later. Decodes nothing itself.

Source: openai 3.54.0 types/responses/response_create_params.py; limits from OpenAI's OpenAPI of August 2026.
"""

from typing import Annotated, Any, Literal, TypeAlias, get_args

from msgspec import Meta, Struct, defstruct
from msgspec.structs import fields

from antiphon.wire.formats import Format, ReasoningEffort
from antiphon.wire.items import InputItem
from antiphon.wire.response import (
    ConversationUse,
    PromptUse,
    ReasoningContext,
    ReasoningSummary,
    ServiceTier,
    Truncation,
    Verbosity,
)
from antiphon.wire.tools import JsonObject, Tool, ToolChoice

Includable: TypeAlias = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
INCLUDABLE = frozenset(get_args(Includable))
"""What `include` may ask for. Logprobs are made and reasoning is sealed only when asked for; pictures are always there;
the rest belongs to hosted tools (included.py), and comes with them."""
Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]


class ReasoningOptions(Struct, frozen=True, kw_only=True):
    effort: ReasoningEffort | None = None
    summary: ReasoningSummary | None = None
    context: Literal["auto"] | ReasoningContext | None = None
    mode: Literal["standard"] | None = None


class TextOptions(Struct, frozen=True, kw_only=True):
    format: Format | None = None
    verbosity: Verbosity | None = None


class StreamOptions(Struct, frozen=True, kw_only=True):
    include_usage: bool = False
    include_obfuscation: bool = False


class PromptCacheWish(Struct, frozen=True, kw_only=True):
    """Hints to caches, which change no answer; those that would (`prewarm` gives none) are refused."""

    mode: Literal["implicit", "explicit"] = "implicit"
    ttl: Literal["30m", "12h"] = "30m"
    prewarm: Literal[False] | None = None
    comparison_response_id: None = None


class ContextManagement(Struct, frozen=True, kw_only=True):
    """Compact on the way, when the model is told more than so many tokens."""

    type: Literal["compaction"]
    compact_threshold: Annotated[int, Meta(ge=1_000)] | None = None


class ResponseExpiry(Struct, frozen=True, kw_only=True):
    """When a stored response goes by itself: so many seconds after it was created. As files have it; an extension."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Meta(ge=60, le=315_360_000)]


class CreateResponse(Struct, frozen=True, kw_only=True):
    """What a request asks for. None means: not given."""

    model: str | None = None
    input: tuple[InputItem, ...] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: ConversationUse | None = None
    prompt: PromptUse | None = None
    store: bool = True
    background: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    include: tuple[Includable, ...] = ()
    metadata: dict[str, str] = {}
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2_147_483_647)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2_147_483_647)] | None = None
    max_tool_calls: Annotated[int, Meta(ge=1, le=2_147_483_647)] | None = None
    stop: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    reasoning: ReasoningOptions = ReasoningOptions()
    text: TextOptions = TextOptions()
    user: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: PromptCacheWish | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    expires_after: ResponseExpiry | None = None
    safety_identifier: Annotated[str, Meta(max_length=128)] | None = None
    service_tier: ServiceTier | None = None
    truncation: Truncation = "disabled"
    context_management: tuple[ContextManagement, ...] = ()
    client_metadata: JsonObject | None = None
    """What Codex notes of itself with every request; no business of a model's."""


COUNTED = frozenset(
    {
        *("conversation", "input", "instructions", "model", "parallel_tool_calls", "personality", "prompt"),
        *("previous_response_id", "reasoning", "text", "tool_choice", "tools", "truncation"),
    }
)
"""The fields of POST /v1/responses/input_tokens (input_token_count_params.py; a prompt template counts like what it
becomes): they mean what they mean when a response is made."""


def _with_fields(name: str, names: frozenset[str]) -> type[Struct]:
    """A part of CreateResponse. For /openapi.json: requests are decoded as the whole."""
    kept = [(one.name, one.type, one.default) for one in fields(CreateResponse) if one.name in names]
    return defstruct(name, kept, frozen=True, kw_only=True)


CountInputTokens = _with_fields("CountInputTokens", COUNTED)
COMPACTED = frozenset(
    {
        *("image", "input", "instructions", "model", "previous_response_id", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "service_tier"),
    }
)
"""The fields of POST /v1/responses/compact (response_compact_params.py)."""
CompactConversation = _with_fields("CompactConversation", COMPACTED)


class Later(Struct, frozen=True):
    """A parameter of the reference that this server refuses for now, except at its default."""

    defaults: tuple[Any, ...] = ()


LATER: dict[str, Later] = {
    "access_programs": Later(({},)),
    "background_options": Later(({}, {"completion_window": "soonest"})),
    "generate": Later((True,)),
    "image": Later(({}, {"context_compression": "auto"}, {"context_compression": "disabled"})),
    "modalities": Later((["text"],)),
    "moderation": Later(),
    "multi_agent": Later(({}, {"enabled": False})),
    "stream_id": Later(),
}
LATER_TYPES = frozenset(
    {  # item and part types of the reference that are refused by name for now, and choices of tools not run here
        *("file_search_call", "code_interpreter_call"),
        *("image_generation_call", "program", "program_output"),
        *("file_search", "image_generation", "code_interpreter", "programmatic_tool_calling"),
    }
)
