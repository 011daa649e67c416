"""Items, the things in a conversation, and the parts they are made of. Knows nothing of how they come about.

Every item that is stored or sent out has an `id`; an item that comes in may lack one (UNSET) until it is planned.
UNSET means absent on the wire and is never sent as null (Open Responses rejects nulls where a key may be absent).
Source: openai 3.54.0 types/responses, `ResponseInputItem`, `ResponseOutputItem`, `ResponseItem`.
"""

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from antiphon.wire.actions import (
    ComputerAction,
    ComputerScreenshot,
    LocalShellAction,
    PatchOperation,
    SafetyCheck,
    ShellAction,
    ShellOutput,
)
from antiphon.wire.formats import JsonSchemaFormat, ReasoningEffort, TextFormat
from antiphon.wire.tools import JsonObject
from antiphon.wire.web import WebSearchCall

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
MessagePhase: TypeAlias = Literal["commentary", "final_answer"]
Role: TypeAlias = Literal["user", "assistant", "system", "developer"]
ImageDetail: TypeAlias = Literal["auto", "low", "high", "original"]
FileDetail: TypeAlias = Literal["auto", "low", "high"]


class Part(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A piece of an item's content."""


class CacheBreakpoint(Struct, frozen=True, kw_only=True):
    """A hint to caches, which this server passes by: it changes no answer."""

    mode: Literal["explicit"] = "explicit"
    ttl: Literal["30m", "12h"] | UnsetType = UNSET


class InputText(Part, frozen=True, kw_only=True, tag="input_text"):
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | UnsetType = UNSET


class InputImage(Part, frozen=True, kw_only=True, tag="input_image"):
    """A picture: at an address, in a data URL, or a file; exactly one of these."""

    image_url: str | UnsetType = UNSET
    detail: ImageDetail = "auto"
    file_id: str | UnsetType = UNSET
    prompt_cache_breakpoint: CacheBreakpoint | UnsetType = UNSET


class InputFile(Part, frozen=True, kw_only=True, tag="input_file"):
    """A document, by exactly one of three. `file_data` is a data URL, or bare base64."""

    file_data: str | UnsetType = UNSET
    file_url: str | UnsetType = UNSET
    file_id: str | UnsetType = UNSET
    filename: str | UnsetType = UNSET
    detail: FileDetail | UnsetType = UNSET
    prompt_cache_breakpoint: CacheBreakpoint | UnsetType = UNSET


class AudioData(Struct, frozen=True, kw_only=True):
    """`data` is base64."""

    data: str
    format: Literal["mp3", "wav"]


class InputAudio(Part, frozen=True, kw_only=True, tag="input_audio"):
    input_audio: AudioData


class UrlCitation(Part, frozen=True, kw_only=True, tag="url_citation"):
    end_index: int
    start_index: int
    title: str
    url: str


class FileCitation(Part, frozen=True, kw_only=True, tag="file_citation"):
    file_id: str
    filename: str
    index: int


class ContainerFileCitation(Part, frozen=True, kw_only=True, tag="container_file_citation"):
    container_id: str
    end_index: int
    file_id: str
    filename: str
    start_index: int


class FilePath(Part, frozen=True, kw_only=True, tag="file_path"):
    file_id: str
    index: int


Annotation: TypeAlias = UrlCitation | FileCitation | ContainerFileCitation | FilePath


class TopLogprob(Struct, frozen=True, kw_only=True):
    token: str
    bytes: tuple[int, ...] = ()
    logprob: float


class Logprob(Struct, frozen=True, kw_only=True):
    token: str
    bytes: tuple[int, ...] = ()
    logprob: float
    top_logprobs: tuple[TopLogprob, ...] = ()


class OutputText(Part, frozen=True, kw_only=True, tag="output_text"):
    annotations: tuple[Annotation, ...] = ()
    logprobs: tuple[Logprob, ...] = ()
    text: str


class Refusal(Part, frozen=True, kw_only=True, tag="refusal"):
    refusal: str


class ReasoningText(Part, frozen=True, kw_only=True, tag="reasoning_text"):
    text: str


class SummaryText(Part, frozen=True, kw_only=True, tag="summary_text"):
    text: str


Brought: TypeAlias = InputImage | InputFile | InputAudio
"""What may have to be brought from elsewhere."""
OutputPart: TypeAlias = InputText | Brought
MessagePart: TypeAlias = OutputPart | OutputText | Refusal
ToolOutput: TypeAlias = str | tuple[OutputPart, ...]
"""What a client's tool gave."""


class Direct(Struct, frozen=True, kw_only=True, tag_field="type", tag="direct"):
    """The model made the call."""


class Program(Struct, frozen=True, kw_only=True, tag_field="type", tag="program"):
    """A program made the call."""

    caller_id: str


Caller: TypeAlias = Direct | Program | UnsetType


class ItemBase(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A thing in the conversation."""

    id: str | UnsetType = UNSET


class Message(ItemBase, frozen=True, kw_only=True, tag="message"):
    """What somebody said. A string content comes in as one text part (the codec stamps it)."""

    status: ItemStatus | UnsetType = UNSET
    content: tuple[MessagePart, ...]
    role: Role
    phase: MessagePhase | UnsetType = UNSET


class Reasoning(ItemBase, frozen=True, kw_only=True, tag="reasoning"):
    """What a model thought: `content` is raw thought, `summary` what clients are shown instead. `encrypted_content` is
    both again, sealed by this server, for a client to keep and hand back (core/thoughts.py)."""

    status: ItemStatus | UnsetType = UNSET
    summary: tuple[SummaryText, ...]
    content: tuple[ReasoningText, ...] | UnsetType = UNSET
    encrypted_content: str | UnsetType = UNSET


class CallBase(ItemBase, frozen=True, kw_only=True, tag_field="type"):
    """A call that the client runs, under the `call_id` that its output will name."""

    status: ItemStatus | UnsetType = UNSET


class FunctionCall(CallBase, frozen=True, kw_only=True, tag="function_call", rename={"async_": "async"}):
    """`arguments` is a JSON document in a string, as the model wrote it."""

    arguments: str
    call_id: str
    name: str
    namespace: str | UnsetType = UNSET
    caller: Caller = UNSET
    async_: bool | UnsetType = UNSET
    created_by: str | UnsetType = UNSET


class CustomToolCall(CallBase, frozen=True, kw_only=True, tag="custom_tool_call", rename={"async_": "async"}):
    """`input` is any text."""

    call_id: str
    input: str
    name: str
    namespace: str | UnsetType = UNSET
    caller: Caller = UNSET
    async_: bool | UnsetType = UNSET
    created_by: str | UnsetType = UNSET


class ToolSearchCall(CallBase, frozen=True, kw_only=True, tag="tool_search_call"):
    """`arguments` is a JSON value, not one in a string: null too, which a request may as well leave out."""

    call_id: str | None = None
    arguments: Any = None
    execution: Literal["server", "client"] = "client"
    created_by: str | UnsetType = UNSET


class ShellCall(CallBase, frozen=True, kw_only=True, tag="shell_call"):
    call_id: str
    action: ShellAction
    environment: JsonObject | None = None
    caller: Caller = UNSET
    created_by: str | UnsetType = UNSET


class LocalShellCall(CallBase, frozen=True, kw_only=True, tag="local_shell_call"):
    call_id: str
    action: LocalShellAction


class ApplyPatchCall(CallBase, frozen=True, kw_only=True, tag="apply_patch_call"):
    call_id: str
    operation: PatchOperation
    caller: Caller = UNSET
    created_by: str | UnsetType = UNSET


class ComputerCall(CallBase, frozen=True, kw_only=True, tag="computer_call"):
    """`actions` of the tool `computer`, one `action` of `computer_use_preview`."""

    call_id: str
    action: ComputerAction | UnsetType = UNSET
    actions: tuple[ComputerAction, ...] | UnsetType = UNSET
    pending_safety_checks: tuple[SafetyCheck, ...] = ()


class FunctionCallOutput(ItemBase, frozen=True, kw_only=True, tag="function_call_output"):
    """What the client's function gave. Without `call_id` (optional since August 2026) it answers the last waiting call,
    of its `name` if it has one; planning fills it in."""

    status: ItemStatus | UnsetType = UNSET
    call_id: str = ""
    output: ToolOutput
    name: str | UnsetType = UNSET
    namespace: str | UnsetType = UNSET
    caller: Caller = UNSET
    created_by: str | UnsetType = UNSET


class CustomToolCallOutput(ItemBase, frozen=True, kw_only=True, tag="custom_tool_call_output"):
    status: ItemStatus | UnsetType = UNSET
    call_id: str
    output: ToolOutput
    caller: Caller = UNSET
    created_by: str | UnsetType = UNSET


class ToolSearchOutput(ItemBase, frozen=True, kw_only=True, tag="tool_search_output"):
    """The tools that were found, as they were declared; they are offered from here on."""

    status: ItemStatus | UnsetType = UNSET
    call_id: str | None = None
    execution: Literal["server", "client"] = "client"
    tools: tuple[JsonObject, ...]
    created_by: str | UnsetType = UNSET


class ShellCallOutput(ItemBase, frozen=True, kw_only=True, tag="shell_call_output"):
    status: ItemStatus | UnsetType = UNSET
    call_id: str
    output: tuple[ShellOutput, ...]
    max_output_length: int | None = None
    caller: Caller = UNSET
    created_by: str | UnsetType = UNSET


class LocalShellCallOutput(ItemBase, frozen=True, kw_only=True, tag="local_shell_call_output"):
    """Names its call by `id` in the reference; by `call_id` here and in what clients send (the codec moves it)."""

    status: ItemStatus | UnsetType = UNSET
    call_id: str
    output: str


class ApplyPatchCallOutput(ItemBase, frozen=True, kw_only=True, tag="apply_patch_call_output"):
    status: Literal["completed", "failed"]
    call_id: str
    output: str | UnsetType = UNSET
    caller: Caller = UNSET
    created_by: str | UnsetType = UNSET


class ComputerCallOutput(ItemBase, frozen=True, kw_only=True, tag="computer_call_output"):
    status: Literal["in_progress", "completed", "incomplete", "failed"] | UnsetType = UNSET
    call_id: str
    output: ComputerScreenshot
    acknowledged_safety_checks: tuple[SafetyCheck, ...] | UnsetType = UNSET
    created_by: str | UnsetType = UNSET


class AdditionalTools(ItemBase, frozen=True, kw_only=True, tag="additional_tools"):
    """Tools, as they were declared, that are offered from here on."""

    role: Literal["developer"] = "developer"
    tools: tuple[JsonObject, ...]
    status: ItemStatus | UnsetType = UNSET


class ReasoningUpdate(Struct, frozen=True, kw_only=True):
    effort: ReasoningEffort | UnsetType = UNSET


class TextUpdate(Struct, frozen=True, kw_only=True):
    format: TextFormat | JsonSchemaFormat


class ConfigurationUpdate(ItemBase, frozen=True, kw_only=True, tag="configuration_update"):
    """From here on, until the next one, the model thinks as hard, and answers in such a form."""

    reasoning: ReasoningUpdate | UnsetType = UNSET
    text: TextUpdate | UnsetType = UNSET
    status: ItemStatus | UnsetType = UNSET


class Compaction(ItemBase, frozen=True, kw_only=True, tag="compaction"):
    """Stands for all that came before it. What it says is sealed by this server, for its models alone
    (core/compaction.py)."""

    status: ItemStatus | Literal["compacting"] | UnsetType = UNSET
    encrypted_content: str
    created_by: str | UnsetType = UNSET


class CompactionTrigger(ItemBase, frozen=True, kw_only=True, tag="compaction_trigger"):
    """At the end of an input: compact now. It is no part of the conversation."""


class ItemReference(ItemBase, frozen=True, kw_only=True, tag="item_reference"):
    """Stands for an item stored earlier in the same project."""

    id: str


class ScriptedCall(ItemBase, frozen=True, kw_only=True, tag="antiphon:scripted_call"):
    """A call of the scripted hosted tool, which this server ships for tests and client developers.

    The prefix is the Open Responses rule for item types that are a provider's own.
    """

    status: Literal["in_progress", "searching", "completed", "incomplete", "failed"] | UnsetType = UNSET
    name: str
    arguments: str
    output: str | None = None


class PluginCall(ItemBase, frozen=True, kw_only=True, tag="antiphon:tool_call"):
    """A call of a tool that another package brought, which this server ran. `error` says why it failed."""

    status: Literal["in_progress", "completed", "incomplete", "failed"] | UnsetType = UNSET
    name: str
    arguments: str
    output: str | None = None
    error: str | None = None


class ListedTool(Struct, frozen=True, kw_only=True):
    """A tool of an MCP server. `input_schema` is a JSON Schema."""

    name: str
    description: str | None = None
    input_schema: JsonObject
    annotations: JsonObject | None = None


class McpListTools(ItemBase, frozen=True, kw_only=True, tag="mcp_list_tools"):
    """What an MCP server offers. While it stands in the conversation, the server is not asked again."""

    server_label: str
    tools: tuple[ListedTool, ...] = ()
    error: str | None = None


class McpErrorBase(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Why a call of an MCP tool failed."""


class McpProtocolError(McpErrorBase, frozen=True, kw_only=True, tag="mcp_protocol_error"):
    code: int
    message: str


class McpExecutionError(McpErrorBase, frozen=True, kw_only=True, tag="mcp_tool_execution_error"):
    """The tool itself says that it failed: `content` is what it gave."""

    content: Any


class McpHttpError(McpErrorBase, frozen=True, kw_only=True, tag="http_error"):
    code: int
    message: str


class McpCall(ItemBase, frozen=True, kw_only=True, tag="mcp_call"):
    """A call of an MCP tool, which this server made."""

    status: Literal["in_progress", "calling", "completed", "incomplete", "failed"] | UnsetType = UNSET
    approval_request_id: str | None = None
    arguments: str
    error: McpProtocolError | McpExecutionError | McpHttpError | None = None
    name: str
    output: str | None = None
    server_label: str


class McpApprovalRequest(ItemBase, frozen=True, kw_only=True, tag="mcp_approval_request"):
    """A call that is made once the client has approved it, by a McpApprovalResponse in a later request."""

    arguments: str
    name: str
    server_label: str


class McpApprovalResponse(ItemBase, frozen=True, kw_only=True, tag="mcp_approval_response"):
    approval_request_id: str
    approve: bool
    reason: str | None = None


HostedCall: TypeAlias = ScriptedCall | PluginCall | McpListTools | McpCall | WebSearchCall
"""Items that record what this server itself ran. A type may say of its fields, `done_only`, which are told when the
call ends; of its statuses, `untold`, which have no event; and `asked_for`, what each value of `include` shows."""
Opening: TypeAlias = McpListTools
"""Those that no model asked for: they come first, and count as no tool call."""
Asking: TypeAlias = McpApprovalRequest
Approval: TypeAlias = McpApprovalResponse
"""A call that a client must approve before it is made, and its answer."""

ClientCall: TypeAlias = (
    FunctionCall | CustomToolCall | ToolSearchCall | ShellCall | LocalShellCall | ApplyPatchCall | ComputerCall
)
"""Calls that the client runs."""
ClientOutput: TypeAlias = (
    FunctionCallOutput
    | CustomToolCallOutput
    | ToolSearchOutput
    | ShellCallOutput
    | LocalShellCallOutput
    | ApplyPatchCallOutput
    | ComputerCallOutput
)
OutputItem: TypeAlias = Message | Reasoning | ClientCall | ToolSearchOutput | Compaction | HostedCall | Asking
Item: TypeAlias = OutputItem | ClientOutput | AdditionalTools | ConfigurationUpdate | Approval
"""What is stored and listed."""
InputItem: TypeAlias = Item | CompactionTrigger | ItemReference

ID_PREFIXES: dict[type[Item], str] = {
    Message: "msg",
    Reasoning: "rs",
    FunctionCall: "fc",
    FunctionCallOutput: "fco",
    CustomToolCall: "ctc",
    CustomToolCallOutput: "ctco",
    ToolSearchCall: "tsc",
    ToolSearchOutput: "tso",
    ShellCall: "sh",
    ShellCallOutput: "sho",
    LocalShellCall: "lsh",
    LocalShellCallOutput: "lsho",
    ApplyPatchCall: "apc",
    ApplyPatchCallOutput: "apco",
    ComputerCall: "cu",
    ComputerCallOutput: "cuo",
    AdditionalTools: "at",
    ConfigurationUpdate: "cfu",
    Compaction: "cmp",
    ScriptedCall: "sc",
    PluginCall: "tc",
    WebSearchCall: "ws",
    McpListTools: "mcpl",
    McpCall: "mcp",
    McpApprovalRequest: "mcpr",
    McpApprovalResponse: "mcpa",
}
