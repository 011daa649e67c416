"""The body of POST /v1/responses, and which of the reference's parameters wait for later. Decodes nothing itself.

Source: openai 3.54.0 types/responses/response_create_params.py; limits from OpenAI's OpenAPI of August 2026.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from antiphon.wire.items import InputItem
from antiphon.wire.response import ReasoningEffort, ReasoningSummary, ServiceTier, TextFormat
from antiphon.wire.tools import Tool, ToolChoice


class ReasoningOptions(Struct, frozen=True, kw_only=True):
    effort: ReasoningEffort | None = None
    summary: ReasoningSummary | None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None
    generate_summary: None = None


class TextOptions(Struct, frozen=True, kw_only=True):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class StreamOptions(Struct, frozen=True, kw_only=True):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class CreateResponse(Struct, frozen=True, kw_only=True):
    """What a request asks for. None means: not given."""

    model: str | None = None
    input: tuple[InputItem, ...] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    stream_options: StreamOptions | None = None
    metadata: dict[str, str] = {}
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2_147_483_647)] | None = None
    stop: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    reasoning: ReasoningOptions = ReasoningOptions()
    text: TextOptions = TextOptions()
    user: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: Annotated[str, Meta(max_length=128)] | None = None
    service_tier: ServiceTier | None = None


class Later(Struct, frozen=True):
    """A parameter of the reference that this server refuses for now, except at its default."""

    defaults: tuple[Any, ...] = ()
    instead: str = ""


LATER: dict[str, Later] = {
    "access_programs": Later(({},)),
    "background": Later((False,)),
    "background_options": Later(({}, {"completion_window": "soonest"})),
    "context_management": Later(([],)),
    "conversation": Later(),
    "frequency_penalty": Later((0,)),
    "generate": Later((True,)),
    "image": Later(({}, {"context_compression": "auto"}, {"context_compression": "disabled"})),
    "include": Later(([],)),
    "logit_bias": Later(({},)),
    "max_completion_tokens": Later((), "Use 'max_output_tokens'."),
    "max_tokens": Later((), "Use 'max_output_tokens'."),
    "max_tool_calls": Later(),
    "min_p": Later((0,)),
    "modalities": Later((["text"],)),
    "moderation": Later(),
    "multi_agent": Later(({}, {"enabled": False})),
    "presence_penalty": Later((0,)),
    "prompt": Later(),
    "prompt_cache_options": Later(({}, {"mode": "implicit"}, {"prewarm": False})),
    "prompt_cache_retention": Later(("in_memory", "in-memory")),
    "reasoning_effort": Later((), "Use 'reasoning.effort'."),
    "response_format": Later(({"type": "text"},), "Use 'text.format'."),
    "seed": Later(),
    "stream_id": Later(),
    "top_k": Later((0, -1)),
    "top_logprobs": Later((0,)),
    "truncation": Later(("disabled",)),
}
LATER_TYPES = frozenset(
    {  # item, part, tool and format types of the reference that are refused by name for now
        *(
            "input_image",
            "input_file",
            "input_audio",
            "custom_tool_call",
            "custom_tool_call_output",
            "file_search_call",
        ),
        *("web_search_call", "code_interpreter_call", "image_generation_call", "computer_call", "computer_call_output"),
        *("shell_call", "shell_call_output", "local_shell_call", "local_shell_call_output", "apply_patch_call"),
        *("apply_patch_call_output", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "mcp_call"),
        *("tool_search_call", "tool_search_output", "additional_tools", "configuration_update", "compaction"),
        *("compaction_trigger", "program", "program_output", "custom", "namespace", "tool_search", "web_search"),
        *("web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11", "file_search"),
        *("code_interpreter", "image_generation", "mcp", "computer", "computer_use_preview", "shell", "local_shell"),
        *("apply_patch", "computer_use", "programmatic_tool_calling", "allowed_tools", "json_schema", "json_object"),
    }
)
INCLUDABLE = frozenset(
    {
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
        "reasoning.encrypted_content",
        "message.output_text.logprobs",
    }
)
"""Values of `include` on GET: nothing that is stored so far has any of these, so each is granted by itself."""
