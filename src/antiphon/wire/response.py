"""The Response object: what a client gets in the end, and what lifecycle events carry.

Always holds the superset of the keys that OpenAI's and the Open Responses schema require.
Source: openai 3.54.0 types/responses/response.py; Open Responses 2026-04-24 `ResponseResource`.
"""

from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from antiphon.wire.formats import Format, ReasoningEffort, TextFormat
from antiphon.wire.items import InputText, OutputItem
from antiphon.wire.tools import Tool, ToolChoice, WebSearchBase
from antiphon.wire.web import WebSearchCall

ResponseStatus: TypeAlias = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ReasoningSummary: TypeAlias = Literal["auto", "concise", "detailed"]
ReasoningContext: TypeAlias = Literal["current_turn", "all_turns"]
ServiceTier: TypeAlias = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]


class InputTokensDetails(Struct, frozen=True, kw_only=True):
    cache_write_tokens: int = 0
    cached_tokens: int = 0


class OutputTokensDetails(Struct, frozen=True, kw_only=True):
    reasoning_tokens: int = 0


class Usage(Struct, frozen=True, kw_only=True):
    """Counts are tokens; over several turns of one response they add up."""

    input_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class ResponseError(Struct, frozen=True, kw_only=True):
    code: str
    message: str
    param: str | UnsetType = UNSET


class IncompleteDetails(Struct, frozen=True, kw_only=True):
    reason: Literal["max_output_tokens", "content_filter"]


Truncation: TypeAlias = Literal["auto", "disabled"]
Verbosity: TypeAlias = Literal["low", "medium", "high"]


class TextConfig(Struct, frozen=True, kw_only=True):
    format: Format = TextFormat()
    verbosity: Verbosity = "medium"


class ReasoningConfig(Struct, frozen=True, kw_only=True):
    effort: ReasoningEffort | None = None
    summary: ReasoningSummary | None = None
    context: ReasoningContext | UnsetType = UNSET
    """As it takes effect, when it was asked for."""


class PromptUse(Struct, frozen=True, kw_only=True):
    """Which template of the server's settings a response was made from."""

    id: str
    version: str | None = None
    variables: dict[str, str | InputText] | None = None


class ConversationUse(Struct, frozen=True, kw_only=True):
    """Which conversation a response is made in."""

    id: str


class PromptCacheOptions(Struct, frozen=True, kw_only=True):
    mode: Literal["implicit", "explicit"] = "implicit"
    ttl: Literal["30m", "12h"] = "30m"


class InputTransformation(Struct, frozen=True, kw_only=True):
    """A reasoning item of the request, by its id, that the model is not told of."""

    type: Literal["reasoning"] = "reasoning"
    id: str
    action: Literal["removed"] = "removed"
    reason: Literal["model_mismatch", "turn_boundary"]


class ImageGenTokens(Struct, frozen=True, kw_only=True):
    image_tokens: int = 0
    text_tokens: int = 0


class ImageGenUsage(Struct, frozen=True, kw_only=True):
    input_tokens: int = 0
    input_tokens_details: ImageGenTokens = ImageGenTokens()
    output_tokens: int = 0
    total_tokens: int = 0


class WebSearchUsage(Struct, frozen=True, kw_only=True):
    """Searches that were put to a search engine; pages that were opened do not count."""

    num_requests: int = 0


class ToolUsage(Struct, frozen=True, kw_only=True):
    """What hosted tools used, of a response that had any that counts."""

    image_gen: ImageGenUsage = ImageGenUsage()
    web_search: WebSearchUsage = WebSearchUsage()


class Response(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: ResponseStatus
    background: bool = False
    completed_at: int | None = None
    conversation: ConversationUse | UnsetType = UNSET
    error: ResponseError | None = None
    expires_at: int | UnsetType = UNSET
    """In Unix seconds: when it goes by itself, if that was asked for."""
    frequency_penalty: float = 0.0
    incomplete_details: IncompleteDetails | None = None
    input_transformations: tuple[InputTransformation, ...] | UnsetType = UNSET
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    model: str
    output: tuple[OutputItem, ...] = ()
    parallel_tool_calls: bool = True
    presence_penalty: float = 0.0
    previous_response_id: str | None = None
    prompt: PromptUse | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: PromptCacheOptions | UnsetType = UNSET
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    reasoning: ReasoningConfig = ReasoningConfig()
    safety_identifier: str | None = None
    service_tier: ServiceTier = "default"
    store: bool = True
    temperature: float = 1.0
    text: TextConfig = TextConfig()
    tool_choice: ToolChoice = "auto"
    tool_usage: ToolUsage | UnsetType = UNSET
    tools: tuple[Tool, ...] = ()
    top_logprobs: int = 0
    top_p: float = 1.0
    truncation: Truncation = "disabled"
    usage: Usage | None = None
    user: str | None = None
    metadata: dict[str, str] = {}


def tool_usage(response: Response) -> ToolUsage | UnsetType:
    """Of a response as it ends."""
    if not any(isinstance(tool, WebSearchBase) for tool in response.tools):
        return UNSET
    searches = sum(item.searches for item in response.output if isinstance(item, WebSearchCall))
    return ToolUsage(web_search=WebSearchUsage(num_requests=searches))
