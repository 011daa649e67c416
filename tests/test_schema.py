"""The wire types against the schemas they serve: the `openai` package and Open Responses. Knows nothing of behaviour.

All three speak JSON Schema: msgspec of our types, pydantic of the package's, and Open Responses is written in it. So
one comparison does for all, field by field, of what a field may hold: words for JSON types, quotes for literals, `[…]`
for an array's elements, `{type}` for an object by its tag; and "absent" and "null", which makes presence and
nullability the same question as types and literals. A finding is one line, `Struct.field: …`, where

    lacks        they have the field, and we never send it or always refuse it
    extra        we have a field that is not theirs
    +x           we may send or take x (or leave the field absent, or null) where they do not
    -y           they may send or take y where we do not

and every finding must stand, with its reason, in schemas/differences.toml. What waits for later by name (`LATER`,
`LATER_TYPES`) is refused by the codec and no finding. Open Responses has no code to read samples with: there, the
comparison is all.
"""

import json
import operator
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache, reduce
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import msgspec
import openai.types as package
import pytest
from msgspec import UNSET, Struct, UnsetType, inspect, structs
from openai.types import (
    conversations,
    file_create_params,
    responses,
    shared,
    shared_params,
    upload_complete_params,
    upload_create_params,
    uploads,
)
from openai.types.responses import (
    computer_action,
    computer_action_param,
    mcp_tool_call_error,
    response,
    response_apply_patch_tool_call,
    response_computer_tool_call,
    response_computer_tool_call_output_item,
    response_configuration_update_item,
    response_configuration_update_item_param_param,
    response_create_params,
    response_function_shell_tool_call,
    response_function_shell_tool_call_output,
    response_function_tool_call,
    response_function_tool_call_param,
    response_function_web_search,
    response_function_web_search_param,
    response_includable,
    response_input_audio,
    response_input_audio_param,
    response_input_image,
    response_input_image_param,
    response_input_item_param,
    response_input_text,
    response_input_text_param,
    response_item,
    response_item_list,
    response_output_item,
    response_output_text,
    response_output_text_param,
    response_reasoning_item,
    response_reasoning_item_param,
    response_text_delta_event,
    response_text_done_event,
    response_usage,
    tool,
    tool_param,
    web_search_preview_tool,
    web_search_preview_tool_param,
    web_search_tool,
    web_search_tool_param,
)
from pydantic import TypeAdapter

from antiphon.core.ports import ModelCard
from antiphon.errors import InvalidRequest, UnsupportedParameter
from antiphon.wire import actions, codec, conversation, events, files, formats, items, request, resources, tools, web
from antiphon.wire import response as wire
from antiphon.wire.request import LATER, LATER_TYPES

Object: TypeAlias = dict[str, Any]
Fields: TypeAlias = dict[str, set[str]]
"""What each field of an object may hold."""

FOLDER = Path(__file__).parent / "schemas"
OPEN_RESPONSES: Object = json.loads((FOLDER / "open-responses.openapi.json").read_text("utf-8"))
SCHEMAS: Object = OPEN_RESPONSES["components"]["schemas"]
EVENT: TypeAdapter[Any] = TypeAdapter(responses.ResponseStreamEvent)
ABSENT, NULL, ANY = "absent", "null", "anything"
NOTHING = {ABSENT, NULL}


# -- what a schema allows


def fields(schema: Object, root: Object) -> Fields:
    """Of an object's schema. Of a union: of all its members together."""
    schema = _resolved(schema, root)
    if members := schema.get("anyOf"):
        return together(fields(member, root) for member in members)
    required = schema.get("required", ())
    return {
        name: values(field, root) | (set() if name in required else {ABSENT})
        for name, field in schema["properties"].items()
    }


def together(members: Iterator[Fields]) -> Fields:
    known = list(members)
    return {name: set().union(*(m.get(name, {ABSENT}) for m in known)) for m in known for name in m}


def values(schema: Object, root: Object) -> set[str]:
    schema = _resolved(schema, root)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return {value for member in schema[union] for value in values(member, root)}
    if "allOf" in schema:  # one that says what it is, others that only describe it
        return {value for part in schema["allOf"] for value in values(part, root)} - {ANY}
    if "const" in schema:
        return {_literal(schema["const"])}
    if "enum" in schema:
        return {_literal(value) for value in schema["enum"]}
    if schema.get("type") == "array":
        return {f"[{value}]" for value in values(schema["items"], root)}
    return _objects(schema, root) if schema.get("type") == "object" else {schema.get("type", ANY)}


def _objects(schema: Object, root: Object) -> set[str]:
    tags = values(schema["properties"]["type"], root) if "type" in schema.get("properties", ()) else set()
    return {f"{{{tag[1:-1]}}}" for tag in tags if tag[0] == "'"} or {"{}"}


def _resolved(schema: Object, root: Object) -> Object:
    while "$ref" in schema:
        node = root
        for step in schema["$ref"].split("/")[1:]:
            node = node[step]
        schema = node
    return schema


def _literal(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


def allows(allowed: set[str], value: str) -> bool:
    if value in allowed or ANY in allowed:
        return True
    if value[0] == "[":
        return allows({other[1:-1] for other in allowed if other[0] == "["}, value[1:-1])
    wider = {"integer": "number", "true": "boolean", "false": "boolean"}.get(value, "string" if value[0] == "'" else "")
    return wider in allowed or (value == "boolean" and {"true", "false"} <= allowed)


# -- the three schemas


def ours(kind: type[Struct], *, sent: bool) -> Fields:
    """A field with a default is always sent and need not be given; UNSET alone means that it may be left out."""
    schema = msgspec.json.schema(kind)
    known = fields(schema, schema)
    if sent:
        for field in structs.fields(kind):
            if field.default is not UNSET:
                known[field.encode_name].discard(ABSENT)
    return known


@cache
def of_package(*kinds: Any) -> Fields:
    schema = TypeAdapter(reduce(operator.or_, kinds)).json_schema()
    return fields(schema, schema)


@cache
def of_package_event(kind: Any) -> Fields:
    return fields(_event_schema()["$defs"][kind.__name__], _event_schema())


@cache
def _event_schema() -> Object:
    """Once for all: it takes half a second."""
    return EVENT.json_schema()


@cache
def of_open_responses(*names: str) -> Fields:
    return together(fields(SCHEMAS[name], OPEN_RESPONSES) for name in names)


# -- the comparison


def compare(kind: type[Struct], theirs: Fields, *, sent: bool) -> Iterator[str]:
    mine = ours(kind, sent=sent)
    for name in sorted(mine.keys() | theirs.keys()):
        for finding in differences(mine.get(name, {ABSENT}), theirs.get(name, {ABSENT}), sent=sent):
            if not (finding == "lacks" and waits(kind, name)):
                yield f"{kind.__name__}.{name}: {finding}"


def differences(mine: set[str], theirs: set[str], *, sent: bool) -> list[str]:
    if not sent:  # the codec takes a null that comes in as absent
        mine, theirs = ({ABSENT if value == NULL else value for value in side} for side in (mine, theirs))
    more = sorted(value for value in mine if not allows(theirs, value))
    less = sorted(value for value in theirs if not allows(mine, value) and value.strip("[{}]") not in LATER_TYPES)
    if sent:  # we may keep to less than they allow; what is worth a word is a literal or an object that never comes
        less = [value for value in less if value[-1] in "'}]" or (mine <= NOTHING and value not in NOTHING)]
    if theirs == {ABSENT} and more:
        return ["extra"]
    if mine <= NOTHING and less and not more:
        return ["lacks"]
    return [sign + " ".join(found) for sign, found in (("+", more), ("-", less)) if found]


def waits(kind: type[Struct], name: str) -> bool:
    """Whether the field is a parameter that the codec refuses for now, or its echo."""
    return kind in {request.CreateResponse, wire.Response} and name in LATER


# -- who is compared with whom

PACKAGE_EVENTS: dict[str, Any] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in get_args(get_args(responses.ResponseStreamEvent)[0])
}
OPEN_EVENTS: dict[str, str] = {
    schema["properties"]["type"]["enum"][0]: name for name, schema in SCHEMAS.items() if name.endswith("StreamingEvent")
}
EVENTS: dict[str, type[Struct]] = {kind.__struct_config__.tag: kind for kind in get_args(events.TaggedEvent)}

Pair: TypeAlias = tuple[type[Struct], Any]

PACKAGE_SENT: list[Pair] = [
    (wire.Response, responses.Response),
    (wire.ResponseError, responses.ResponseError),
    (wire.IncompleteDetails, response.IncompleteDetails),
    (wire.InputTransformation, response.InputTransformation),
    (wire.Usage, responses.ResponseUsage),
    (wire.InputTokensDetails, response_usage.InputTokensDetails),
    (wire.OutputTokensDetails, response_usage.OutputTokensDetails),
    (wire.TextConfig, responses.ResponseTextConfig),
    (formats.TextFormat, shared.ResponseFormatText),
    (wire.ReasoningConfig, shared.Reasoning),
    (items.Message, responses.ResponseOutputMessage),
    (items.Message, responses.ResponseInputMessageItem),
    (items.Reasoning, responses.ResponseReasoningItem),
    (items.FunctionCall, responses.ResponseFunctionToolCall),
    (items.FunctionCall, responses.ResponseFunctionToolCallItem),
    (items.FunctionCallOutput, responses.ResponseFunctionToolCallOutputItem),
    (items.InputText, responses.ResponseInputText),
    (items.OutputText, responses.ResponseOutputText),
    (items.Refusal, responses.ResponseOutputRefusal),
    (items.SummaryText, response_reasoning_item.Summary),
    (items.ReasoningText, response_reasoning_item.Content),
    (items.UrlCitation, response_output_text.AnnotationURLCitation),
    (items.FileCitation, response_output_text.AnnotationFileCitation),
    (items.ContainerFileCitation, response_output_text.AnnotationContainerFileCitation),
    (items.FilePath, response_output_text.AnnotationFilePath),
    (items.Logprob, response_output_text.Logprob),
    (items.Logprob, response_text_delta_event.Logprob),
    (items.Logprob, response_text_done_event.Logprob),
    (items.TopLogprob, response_output_text.LogprobTopLogprob),
    (items.TopLogprob, response_text_delta_event.LogprobTopLogprob),
    (items.TopLogprob, response_text_done_event.LogprobTopLogprob),
    (formats.JsonObjectFormat, shared.ResponseFormatJSONObject),
    (formats.JsonSchemaFormat, responses.ResponseFormatTextJSONSchemaConfig),
    (wire.PromptUse, responses.ResponsePrompt),
    (wire.PromptCacheOptions, response.PromptCacheOptions),
    (items.InputImage, responses.ResponseInputImage),
    (items.InputFile, responses.ResponseInputFile),
    (items.InputAudio, responses.ResponseInputAudio),
    (items.AudioData, response_input_audio.InputAudio),
    (items.CacheBreakpoint, response_input_text.PromptCacheBreakpoint),
    (items.CacheBreakpoint, response_input_image.PromptCacheBreakpoint),
    (items.Direct, response_function_tool_call.CallerDirect),
    (items.Program, response_function_tool_call.CallerProgram),
    (items.CustomToolCall, responses.ResponseCustomToolCall),
    (items.CustomToolCall, responses.ResponseCustomToolCallItem),
    (items.CustomToolCallOutput, responses.ResponseCustomToolCallOutputItem),
    (items.ToolSearchCall, responses.ResponseToolSearchCall),
    (items.ToolSearchOutput, responses.ResponseToolSearchOutputItem),
    (items.AdditionalTools, response_item.AdditionalTools),
    (items.ConfigurationUpdate, responses.ResponseConfigurationUpdateItem),
    (items.ReasoningUpdate, response_configuration_update_item.Reasoning),
    (items.TextUpdate, response_configuration_update_item.Text),
    (items.ShellCall, responses.ResponseFunctionShellToolCall),
    (items.ShellCallOutput, responses.ResponseFunctionShellToolCallOutput),
    (items.LocalShellCall, response_item.LocalShellCall),
    (items.LocalShellCallOutput, response_item.LocalShellCallOutput),
    (items.ApplyPatchCall, responses.ResponseApplyPatchToolCall),
    (items.ApplyPatchCallOutput, responses.ResponseApplyPatchToolCallOutput),
    (items.ComputerCall, responses.ResponseComputerToolCall),
    (items.ComputerCallOutput, responses.ResponseComputerToolCallOutputItem),
    (actions.ShellAction, response_function_shell_tool_call.Action),
    (actions.ShellOutput, response_function_shell_tool_call_output.Output),
    (actions.Exited, response_function_shell_tool_call_output.OutputOutcomeExit),
    (actions.TimedOut, response_function_shell_tool_call_output.OutputOutcomeTimeout),
    (actions.LocalShellAction, response_item.LocalShellCallAction),
    (actions.CreateFile, response_apply_patch_tool_call.OperationCreateFile),
    (actions.UpdateFile, response_apply_patch_tool_call.OperationUpdateFile),
    (actions.DeleteFile, response_apply_patch_tool_call.OperationDeleteFile),
    (actions.Point, computer_action.DragPath),
    *((kind, getattr(computer_action, kind.__name__)) for kind in get_args(actions.ComputerAction)),
    (actions.SafetyCheck, response_computer_tool_call.PendingSafetyCheck),
    (actions.SafetyCheck, response_computer_tool_call_output_item.AcknowledgedSafetyCheck),
    (actions.ComputerScreenshot, responses.ResponseComputerToolCallOutputScreenshot),
    (tools.FunctionTool, responses.FunctionTool),
    (tools.CustomTool, responses.CustomTool),
    (tools.TextInput, shared.custom_tool_input_format.Text),
    (tools.Grammar, shared.custom_tool_input_format.Grammar),
    (tools.NamespaceTool, responses.NamespaceTool),
    (tools.ToolSearchTool, responses.ToolSearchTool),
    (tools.ShellTool, responses.FunctionShellTool),
    (tools.LocalEnvironment, responses.LocalEnvironment),
    (tools.LocalSkill, responses.LocalSkill),
    (tools.LocalShellTool, tool.LocalShell),
    (tools.ApplyPatchTool, responses.ApplyPatchTool),
    (tools.ComputerTool, responses.ComputerTool),
    (tools.ComputerUsePreviewTool, responses.ComputerUsePreviewTool),
    (tools.WebSearchTool, responses.WebSearchTool),
    (tools.WebSearchTool20250826, responses.WebSearchTool),
    (tools.WebFilters, web_search_tool.Filters),
    (tools.UserLocation, web_search_tool.UserLocation),
    (tools.UserLocation, web_search_preview_tool.UserLocation),
    (tools.WebSearchPreviewTool, responses.WebSearchPreviewTool),
    (tools.WebSearchPreviewTool20250311, responses.WebSearchPreviewTool),
    (web.WebSearchCall, responses.ResponseFunctionWebSearch),
    (web.SearchWeb, response_function_web_search.ActionSearch),
    (web.OpenPage, response_function_web_search.ActionOpenPage),
    (web.FindInPage, response_function_web_search.ActionFind),
    (web.WebSource, response_function_web_search.ActionSearchSource),
    (wire.ToolUsage, response.ToolUsage),
    (wire.WebSearchUsage, response.ToolUsageWebSearch),
    (wire.ImageGenUsage, response.ToolUsageImageGen),
    (wire.ImageGenTokens, response.ToolUsageImageGenInputTokensDetails),
    (tools.NamedFunction, responses.ToolChoiceFunction),
    (tools.NamedCustom, responses.ToolChoiceCustom),
    (tools.AllowedTools, responses.ToolChoiceAllowed),
    (tools.ChosenShell, responses.ToolChoiceShell),
    (tools.ChosenMcp, responses.ToolChoiceMcp),
    (tools.McpTool, tool.Mcp),
    (tools.McpFilter, tool.McpAllowedToolsMcpToolFilter),
    (tools.McpApprovals, tool.McpRequireApprovalMcpToolApprovalFilter),
    (items.McpListTools, response_output_item.McpListTools),
    (items.ListedTool, response_output_item.McpListToolsTool),
    (items.McpCall, response_output_item.McpCall),
    (items.McpApprovalRequest, response_output_item.McpApprovalRequest),
    (items.McpApprovalResponse, response_output_item.McpApprovalResponse),
    (items.McpProtocolError, mcp_tool_call_error.McpProtocolError),
    (items.McpExecutionError, mcp_tool_call_error.McpToolExecutionError),
    (items.McpHttpError, mcp_tool_call_error.HTTPError),
    (tools.ChosenApplyPatch, responses.ToolChoiceApplyPatch),
    (tools.ChosenComputer, responses.ToolChoiceTypes),
    (tools.ChosenComputerUse, responses.ToolChoiceTypes),
    (tools.ChosenComputerPreview, responses.ToolChoiceTypes),
    (tools.ChosenWebSearchPreview, responses.ToolChoiceTypes),
    (tools.ChosenWebSearchPreview20250311, responses.ToolChoiceTypes),
    (resources.ItemList, response_item_list.ResponseItemList),
    (wire.ConversationUse, response.Conversation),
    (conversation.Conversation, conversations.Conversation),
    (conversation.DeletedConversation, conversations.ConversationDeletedResource),
    (resources.InputTokens, responses.InputTokenCountResponse),
    (resources.CompactedResponse, responses.CompactedResponse),
    (items.Compaction, responses.ResponseCompactionItem),
    (resources.ErrorDetail, shared.ErrorObject),
    (files.FileObject, package.FileObject),
    (files.DeletedFile, package.FileDeleted),
    (files.Upload, package.Upload),
    (files.UploadPart, uploads.UploadPart),
    (ModelCard, package.Model),
]
PACKAGE_SENT_EVENTS: list[Pair] = [
    *((kind, PACKAGE_EVENTS[tag]) for tag, kind in EVENTS.items() if tag in PACKAGE_EVENTS),
    (events.HostedStatus, responses.ResponseWebSearchCallSearchingEvent),
]
PACKAGE_TAKEN: list[Pair] = [
    (request.CreateResponse, response_create_params.ResponseCreateParams),
    (request.ReasoningOptions, shared_params.Reasoning),
    (request.TextOptions, responses.ResponseTextConfigParam),
    (formats.TextFormat, shared_params.ResponseFormatText),
    (files.FileExpiry, file_create_params.ExpiresAfter),
    (files.CreateUpload, upload_create_params.UploadCreateParams),
    (files.CompleteUpload, upload_complete_params.UploadCompleteParams),
    (request.StreamOptions, response_create_params.StreamOptions),
    (
        items.Message,
        (responses.EasyInputMessageParam, response_input_item_param.Message, responses.ResponseOutputMessageParam),
    ),
    (items.Reasoning, responses.ResponseReasoningItemParam),
    (items.FunctionCall, responses.ResponseFunctionToolCallParam),
    (items.FunctionCallOutput, response_input_item_param.FunctionCallOutput),
    (items.ItemReference, response_input_item_param.ItemReference),
    (items.Compaction, responses.ResponseCompactionItemParam),
    (items.CompactionTrigger, response_input_item_param.CompactionTrigger),
    (request.ContextManagement, response_create_params.ContextManagement),
    (items.InputText, (responses.ResponseInputTextParam, responses.ResponseInputTextContentParam)),
    (items.OutputText, responses.ResponseOutputTextParam),
    (items.Refusal, responses.ResponseOutputRefusalParam),
    (items.SummaryText, response_reasoning_item_param.Summary),
    (items.ReasoningText, response_reasoning_item_param.Content),
    (items.UrlCitation, response_output_text_param.AnnotationURLCitation),
    (items.FileCitation, response_output_text_param.AnnotationFileCitation),
    (items.ContainerFileCitation, response_output_text_param.AnnotationContainerFileCitation),
    (items.FilePath, response_output_text_param.AnnotationFilePath),
    (items.Logprob, response_output_text_param.Logprob),
    (items.TopLogprob, response_output_text_param.LogprobTopLogprob),
    (formats.JsonObjectFormat, shared_params.ResponseFormatJSONObject),
    (formats.JsonSchemaFormat, responses.ResponseFormatTextJSONSchemaConfigParam),
    (wire.PromptUse, responses.ResponsePromptParam),
    (wire.ConversationUse, responses.ResponseConversationParam),
    (conversation.CreateConversation, conversations.ConversationCreateParams),
    (conversation.UpdateConversation, conversations.ConversationUpdateParams),
    (conversation.AddItems, conversations.ItemCreateParams),
    (request.PromptCacheWish, response_create_params.PromptCacheOptions),
    (items.InputFile, (responses.ResponseInputFileParam, responses.ResponseInputFileContentParam)),
    (items.InputAudio, responses.ResponseInputAudioParam),
    (items.AudioData, response_input_audio_param.InputAudio),
    (items.InputImage, (responses.ResponseInputImageParam, responses.ResponseInputImageContentParam)),
    (items.CacheBreakpoint, response_input_text_param.PromptCacheBreakpoint),
    (items.CacheBreakpoint, response_input_image_param.PromptCacheBreakpoint),
    (items.Direct, response_function_tool_call_param.CallerDirect),
    (items.Program, response_function_tool_call_param.CallerProgram),
    (items.CustomToolCall, responses.ResponseCustomToolCallParam),
    (items.CustomToolCallOutput, responses.ResponseCustomToolCallOutputParam),
    (items.ToolSearchCall, response_input_item_param.ToolSearchCall),
    (items.ToolSearchOutput, responses.ResponseToolSearchOutputItemParamParam),
    (items.AdditionalTools, response_input_item_param.AdditionalTools),
    (items.ConfigurationUpdate, responses.ResponseConfigurationUpdateItemParamParam),
    (items.ReasoningUpdate, response_configuration_update_item_param_param.Reasoning),
    (items.TextUpdate, response_configuration_update_item_param_param.Text),
    (items.ShellCall, response_input_item_param.ShellCall),
    (items.ShellCallOutput, response_input_item_param.ShellCallOutput),
    (items.LocalShellCall, response_input_item_param.LocalShellCall),
    (items.LocalShellCallOutput, response_input_item_param.LocalShellCallOutput),
    (items.ApplyPatchCall, response_input_item_param.ApplyPatchCall),
    (items.ApplyPatchCallOutput, response_input_item_param.ApplyPatchCallOutput),
    (items.ComputerCall, responses.ResponseComputerToolCallParam),
    (items.ComputerCallOutput, response_input_item_param.ComputerCallOutput),
    (actions.ShellAction, response_input_item_param.ShellCallAction),
    (actions.LocalShellAction, response_input_item_param.LocalShellCallAction),
    (actions.CreateFile, response_input_item_param.ApplyPatchCallOperationCreateFile),
    (actions.UpdateFile, response_input_item_param.ApplyPatchCallOperationUpdateFile),
    (actions.DeleteFile, response_input_item_param.ApplyPatchCallOperationDeleteFile),
    (actions.Point, computer_action_param.DragPath),
    *((kind, getattr(computer_action_param, kind.__name__)) for kind in get_args(actions.ComputerAction)),
    (actions.SafetyCheck, response_input_item_param.ComputerCallOutputAcknowledgedSafetyCheck),
    (actions.ComputerScreenshot, responses.ResponseComputerToolCallOutputScreenshotParam),
    (tools.FunctionTool, responses.FunctionToolParam),
    (tools.CustomTool, responses.CustomToolParam),
    (tools.TextInput, shared_params.custom_tool_input_format.Text),
    (tools.Grammar, shared_params.custom_tool_input_format.Grammar),
    (tools.NamespaceTool, responses.NamespaceToolParam),
    (tools.ToolSearchTool, responses.ToolSearchToolParam),
    (tools.ShellTool, responses.FunctionShellToolParam),
    (tools.LocalEnvironment, responses.LocalEnvironmentParam),
    (tools.LocalSkill, responses.LocalSkillParam),
    (tools.LocalShellTool, tool_param.LocalShell),
    (tools.ApplyPatchTool, responses.ApplyPatchToolParam),
    (tools.ComputerTool, responses.ComputerToolParam),
    (tools.ComputerUsePreviewTool, responses.ComputerUsePreviewToolParam),
    (tools.WebSearchTool, responses.WebSearchToolParam),
    (tools.WebSearchTool20250826, responses.WebSearchToolParam),
    (tools.WebFilters, web_search_tool_param.Filters),
    (tools.UserLocation, web_search_tool_param.UserLocation),
    (tools.UserLocation, web_search_preview_tool_param.UserLocation),
    (tools.WebSearchPreviewTool, responses.WebSearchPreviewToolParam),
    (tools.WebSearchPreviewTool20250311, responses.WebSearchPreviewToolParam),
    (web.WebSearchCall, responses.ResponseFunctionWebSearchParam),
    (web.SearchWeb, response_function_web_search_param.ActionSearch),
    (web.OpenPage, response_function_web_search_param.ActionOpenPage),
    (web.FindInPage, response_function_web_search_param.ActionFind),
    (web.WebSource, response_function_web_search_param.ActionSearchSource),
    (tools.NamedFunction, responses.ToolChoiceFunctionParam),
    (tools.NamedCustom, responses.ToolChoiceCustomParam),
    (tools.AllowedTools, responses.ToolChoiceAllowedParam),
    (tools.ChosenShell, responses.ToolChoiceShellParam),
    (tools.ChosenMcp, responses.ToolChoiceMcpParam),
    (tools.McpTool, tool_param.Mcp),
    (tools.McpFilter, tool_param.McpAllowedToolsMcpToolFilter),
    (tools.McpApprovals, tool_param.McpRequireApprovalMcpToolApprovalFilter),
    (items.McpListTools, response_input_item_param.McpListTools),
    (items.ListedTool, response_input_item_param.McpListToolsTool),
    (items.McpCall, response_input_item_param.McpCall),
    (items.McpApprovalRequest, response_input_item_param.McpApprovalRequest),
    (items.McpApprovalResponse, response_input_item_param.McpApprovalResponse),
    (tools.ChosenApplyPatch, responses.ToolChoiceApplyPatchParam),
    (tools.ChosenComputer, responses.ToolChoiceTypesParam),
    (tools.ChosenComputerUse, responses.ToolChoiceTypesParam),
    (tools.ChosenComputerPreview, responses.ToolChoiceTypesParam),
    (tools.ChosenWebSearchPreview, responses.ToolChoiceTypesParam),
    (tools.ChosenWebSearchPreview20250311, responses.ToolChoiceTypesParam),
]
OPEN_SENT: list[Pair] = [
    (wire.Response, "ResponseResource"),
    (wire.ResponseError, "Error"),
    (wire.IncompleteDetails, "IncompleteDetails"),
    (wire.Usage, "Usage"),
    (wire.InputTokensDetails, "InputTokensDetails"),
    (wire.OutputTokensDetails, "OutputTokensDetails"),
    (wire.TextConfig, "TextField"),
    (formats.TextFormat, "TextResponseFormat"),
    (wire.ReasoningConfig, "Reasoning"),
    (items.Message, "Message"),
    (items.Reasoning, "ReasoningBody"),
    (items.Compaction, "CompactionBody"),
    (resources.CompactedResponse, "CompactResource"),
    (items.FunctionCall, "FunctionCall"),
    (items.FunctionCallOutput, "FunctionCallOutput"),
    (items.InputText, "InputTextContent"),
    (items.OutputText, "OutputTextContent"),
    (items.Refusal, "RefusalContent"),
    (items.SummaryText, "SummaryTextContent"),
    (items.ReasoningText, "ReasoningTextContent"),
    (items.UrlCitation, "UrlCitationBody"),
    (items.Logprob, "LogProb"),
    (items.TopLogprob, "TopLogProb"),
    (formats.JsonObjectFormat, "JsonObjectResponseFormat"),
    (formats.JsonSchemaFormat, "JsonSchemaResponseFormat"),
    (items.InputImage, "InputImageContent"),
    (items.InputFile, "InputFileContent"),
    (tools.FunctionTool, "FunctionTool"),
    (tools.NamedFunction, "FunctionToolChoice"),
    (tools.AllowedTools, "AllowedToolChoice"),
    (resources.ErrorDetail, "ErrorPayload"),
    *((kind, OPEN_EVENTS[tag]) for tag, kind in EVENTS.items() if tag in OPEN_EVENTS),
]
OPEN_TAKEN: list[Pair] = [
    (request.CreateResponse, "CreateResponseBody"),
    (request.ReasoningOptions, "ReasoningParam"),
    (request.TextOptions, "TextParam"),
    (request.StreamOptions, "StreamOptionsParam"),
    (formats.TextFormat, "TextResponseFormat"),
    (items.Message, tuple(f"{role}MessageItemParam" for role in ("User", "System", "Developer", "Assistant"))),
    (items.Reasoning, "ReasoningItemParam"),
    (items.FunctionCall, "FunctionCallItemParam"),
    (items.FunctionCallOutput, "FunctionCallOutputItemParam"),
    (items.ItemReference, "ItemReferenceParam"),
    (items.Compaction, "CompactionSummaryItemParam"),
    (items.InputText, "InputTextContentParam"),
    (items.OutputText, "OutputTextContentParam"),
    (items.Refusal, "RefusalContentParam"),
    (items.SummaryText, "ReasoningSummaryContentParam"),
    (items.UrlCitation, "UrlCitationParam"),
    (formats.JsonSchemaFormat, "JsonSchemaResponseFormatParam"),
    (items.InputImage, "InputImageContentParamAutoParam"),
    (items.InputFile, "InputFileContentParam"),
    (tools.FunctionTool, "FunctionToolParam"),
    (tools.NamedFunction, "SpecificFunctionParam"),
    (tools.AllowedTools, "AllowedToolsParam"),
]


# -- where they differ on purpose

Differences: TypeAlias = dict[str, dict[str, str]]
"""Surface -> reason -> findings, one a line."""

DIFFERENCES: Differences = tomllib.loads((FOLDER / "differences.toml").read_text("utf-8"))


class Surface(NamedTuple):
    """One direction of one schema: who stands for whom."""

    name: str
    pairs: list[Pair]
    read: Callable[..., Fields]
    sent: bool

    def theirs(self) -> Iterator[tuple[type[Struct], Fields]]:
        for kind, theirs in self.pairs:
            yield kind, self.read(*theirs) if isinstance(theirs, tuple) else self.read(theirs)

    def findings(self) -> set[str]:
        return {finding for kind, theirs in self.theirs() for finding in compare(kind, theirs, sent=self.sent)}

    def known(self) -> list[str]:
        return [finding for findings in DIFFERENCES[self.name].values() for finding in findings.splitlines()]


SURFACES = [
    Surface("sent to openai", PACKAGE_SENT, of_package, sent=True),
    Surface("events sent to openai", PACKAGE_SENT_EVENTS, of_package_event, sent=True),
    Surface("taken from openai", PACKAGE_TAKEN, of_package, sent=False),
    Surface("sent to Open Responses", OPEN_SENT, of_open_responses, sent=True),
    Surface("taken from Open Responses", OPEN_TAKEN, of_open_responses, sent=False),
]
each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)


@each_surface
def test_the_wire_types_differ_from_a_schema_only_where_it_is_meant(surface: Surface) -> None:
    assert sorted(surface.findings().difference(surface.known())) == []


@each_surface
def test_no_difference_that_is_meant_has_gone_away(surface: Surface) -> None:
    assert sorted(set(surface.known()) - surface.findings()) == []


@each_surface
def test_a_difference_has_one_reason(surface: Surface) -> None:
    assert sorted(surface.known()) == sorted(set(surface.known()))


def test_every_reason_is_of_a_surface() -> None:
    assert DIFFERENCES.keys() == {surface.name for surface in SURFACES}


# -- nothing is left uncompared


def structs_of(*modules: ModuleType) -> set[type[Struct]]:
    """Those that are no mere base of others."""
    return {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Struct) and kind.__module__ == module.__name__
        if not any(below.__module__ == kind.__module__ for below in kind.__subclasses__())
    }


OURS_ALONE = {
    items.ScriptedCall: "this server's own hosted tool",
    tools.ScriptedTool: "this server's own hosted tool",
    items.PluginCall: "this server's own: tools of other packages",
    tools.PluginTool: "this server's own: tools of other packages",
    tools.ChosenWebSearch: "the package has the preview's alone, though it declares both",
    web.WebResult: "what a search found has no published shape",
    tools.Unserved: "made by the codec of a hosted tool, and never sent",
    resources.DeletedResponse: "the package reads nothing of this answer, and Open Responses cannot delete",
    resources.ErrorBody: "an envelope: ErrorDetail is what is in it",
    resources.ResponseList: "neither can list responses",
    conversation.ConversationList: "neither can list conversations",
    files.StoreFile: "fields of a form, whose file is no JSON",
    files.CreatePart: "fields of a form, whose file is no JSON",
    files.FileList: "the package reads nothing of it but the files and whether there are more",
    resources.Health: "neither knows of it",
    request.Later: "a line of a table, never sent",
    request.ResponseExpiry: "an extension: neither lets a response expire",
    request.CountInputTokens: "a part of CreateResponse, and no more than its description",
    request.CompactConversation: "a part of CreateResponse, and no more than its description",
}
NOT_IN_OPEN_RESPONSES = {
    items.FileCitation: "its only citations are of URLs",
    items.ContainerFileCitation: "its only citations are of URLs",
    items.FilePath: "its only citations are of URLs",
    resources.ItemList: "nothing can be listed in it",
    **dict.fromkeys(structs_of(files) - OURS_ALONE.keys(), "it has no files"),
    resources.InputTokens: "nothing can be counted in it",
    **dict.fromkeys(
        (items.CompactionTrigger, request.ContextManagement, events.CompactionCompacting),
        "it compacts at POST /responses/compact alone",
    ),
    wire.InputTransformation: "it does not tell of withheld reasoning",
    **dict.fromkeys(structs_of(actions), "its only tools are functions"),
    **dict.fromkeys(
        (set(get_args(tools.Tool)) | set(get_args(tools.ToolChoice)) - {Literal["none", "auto", "required"]})
        - {tools.FunctionTool, tools.NamedFunction, tools.AllowedTools, *OURS_ALONE},
        "its only tools are functions",
    ),
    **dict.fromkeys(
        (set(get_args(items.ClientCall)) | set(get_args(items.ClientOutput)) | {items.AdditionalTools})
        - {items.FunctionCall, items.FunctionCallOutput},
        "its only tools are functions",
    ),
    **dict.fromkeys((tools.TextInput, tools.Grammar, tools.LocalEnvironment, tools.LocalSkill), "parts of such tools"),
    **dict.fromkeys((items.Direct, items.Program), "programs do not call there"),
    **dict.fromkeys(
        (items.CacheBreakpoint, wire.PromptCacheOptions, request.PromptCacheWish), "it knows no hints to caches"
    ),
    **dict.fromkeys(
        (
            *(items.McpListTools, items.ListedTool, items.McpCall, items.McpApprovalRequest, items.McpApprovalResponse),
            *(items.McpProtocolError, items.McpExecutionError, items.McpHttpError),
            *(tools.McpFilter, tools.McpApprovals, events.McpArgumentsDelta, events.McpArgumentsDone),
            *(tools.WebFilters, tools.UserLocation, *(structs_of(web) - OURS_ALONE.keys())),
            *(wire.ToolUsage, wire.WebSearchUsage, wire.ImageGenUsage, wire.ImageGenTokens),
        ),
        "its only tools are functions",
    ),
    wire.PromptUse: "it knows no templates",
    **dict.fromkeys((*structs_of(conversation), wire.ConversationUse), "it knows no conversations"),
    **dict.fromkeys((items.InputAudio, items.AudioData), "it has no part for recordings"),
    **dict.fromkeys(
        (items.ConfigurationUpdate, items.ReasoningUpdate, items.TextUpdate), "it has no updates of a configuration"
    ),
    events.CustomInputDelta: "its only tools are functions",
    events.CustomInputDone: "its only tools are functions",
    events.HostedStatus: "its only tools are functions",
    events.ReasoningTextDelta: "OpenAI's name for response.reasoning.delta; the strict dialect renames it",
    events.ReasoningTextDone: "OpenAI's name for response.reasoning.done; the strict dialect renames it",
}
NOT_SENT = {
    "error": "what fails once a stream has begun ends in response.failed, which both schemas read alike",
    **dict.fromkeys(
        (
            *("response.shell_call_command.added", "response.shell_call_command.delta"),
            *("response.shell_call_command.done", "response.shell_call_output_content.delta"),
            "response.shell_call_output_content.done",
        ),
        "a client's shell call is shown once it is whole; a hosted shell, which has such events, is a later matter",
    ),
    "response.audio.delta": "waits for audio",
    "response.audio.done": "waits for audio",
    "response.audio.transcript.delta": "waits for audio",
    "response.audio.transcript.done": "waits for audio",
    "response.reasoning.delta": "sent as response.reasoning_text.delta",
    "response.reasoning.done": "sent as response.reasoning_text.done",
}


def test_every_wire_type_is_compared_or_ours_alone() -> None:
    modules = (items, actions, web, tools, formats, wire, events, files, request, resources, conversation)
    wired = structs_of(*modules)
    by_package = {kind for kind, _ in PACKAGE_SENT + PACKAGE_SENT_EVENTS + PACKAGE_TAKEN} - {ModelCard}
    by_open_responses = {kind for kind, _ in OPEN_SENT + OPEN_TAKEN}
    assert by_package | OURS_ALONE.keys() == wired
    assert by_open_responses | OURS_ALONE.keys() | NOT_IN_OPEN_RESPONSES.keys() == wired
    assert not by_open_responses & NOT_IN_OPEN_RESPONSES.keys()
    assert not (by_package | by_open_responses) & OURS_ALONE.keys()


def test_every_event_of_either_schema_is_sent_or_waits() -> None:
    unsent = {tag for tag in PACKAGE_EVENTS.keys() | OPEN_EVENTS.keys() if tag not in EVENTS}
    kinds = LATER_TYPES | {kind.__struct_config__.tag for kind in get_args(items.HostedCall)}
    hosted = {tag for tag in unsent if any(tag.startswith(f"response.{kind}") for kind in kinds)}
    assert unsent - hosted == NOT_SENT.keys()


def test_every_parameter_of_either_schema_is_taken_or_waits() -> None:
    theirs = of_package(response_create_params.ResponseCreateParams) | of_open_responses("CreateResponseBody")
    taken = set(request.CreateResponse.__struct_encode_fields__)
    assert sorted(theirs.keys() - taken - LATER.keys()) == []
    assert sorted(taken & LATER.keys()) == []


def test_every_type_that_waits_is_a_type_of_the_reference() -> None:
    kinds: list[Any] = [response_create_params.ResponseCreateParams, responses.Response, responses.ResponseInputAudio]
    schema = TypeAdapter(reduce(operator.or_, kinds)).json_schema()
    assert sorted(LATER_TYPES - set(tags(schema))) == []


def tags(schema: Any) -> Iterator[str]:
    """Every literal that is the `type` of an object, at any depth."""
    if isinstance(schema, dict):
        tag = schema.get("properties", {}).get("type", {})
        yield from filter(None, [*tag.get("enum", ()), tag.get("const")])
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from tags(value)


def test_what_can_be_included_is_what_the_reference_includes() -> None:
    assert set(get_args(response_includable.ResponseIncludable)) == request.INCLUDABLE


# -- samples: what is encoded is read by the package, as the class that was meant

VARIANTS = 14
"""More than any list of choices is long, so that each is made."""
SETTLED: dict[tuple[str, str], Any] = {  # where any string would do for us, and not for them
    ("ResponseError", "code"): "server_error",
    ("Response", "service_tier"): "default",
    ("Message", "role"): "assistant",
    ("HostedStatus", "type"): "response.web_search_call.searching",
    ("InputImage", "image_url"): "data:,",
    ("ComputerScreenshot", "image_url"): "data:,",
    ("ShellCall", "environment"): {"type": "local"},
    ("Exited", "exit_code"): 0,
    ("FileObject", "purpose"): "user_data",
    ("ApplyPatchCall", "status"): "completed",
    ("UserLocation", "country"): "DE",
    ("WebFilters", "allowed_domains"): ["a.example"],
    ("WebFilters", "blocked_domains"): ["b.example"],
    ("WebSearchCall", "action"): {"type": "open_page", "url": "https://a.example/"},
    ("ToolSearchOutput", "tools"): [{"type": "apply_patch"}],
    ("AdditionalTools", "tools"): [{"type": "apply_patch"}],
}
TOLD = {("WebSearchCall", "action")}
"""What is there in whatever is done."""
NOT_SAMPLED = {
    *(inspect.NoneType, items.ScriptedCall, tools.ScriptedTool, items.PluginCall, tools.PluginTool, tools.Unserved),
    tools.ChosenWebSearch,
    *(items.InputText, items.InputImage, items.InputFile, items.InputAudio),
}
"""No choice in a union: these tools are unknown to the package, and its messages are output, which is no input."""


def samples(kind: type[Struct]) -> Iterator[Struct]:
    """The least, then everything it can hold: of each choice, another one at each turn."""
    for turn in range(VARIANTS + 1):
        yield msgspec.convert(sample(inspect.type_info(kind), turn), kind)


def sample(kind: Any, turn: int) -> Any:
    """A value of a type. At turn 0 the least."""
    match kind:
        case inspect.StructType():
            return _object(kind, turn)
        case inspect.UnionType():
            return sample(_member(kind, turn), turn)
        case inspect.LiteralType():
            return kind.values[turn % len(kind.values)]
        case inspect.VarTupleType():
            return [sample(kind.item_type, other) for other in range(max(1, turn - 1), turn + 1)]
        case inspect.DictType():
            return {"key": sample(kind.value_type, turn)} if turn else {}
        case _:
            return SCALARS[type(kind)]


SCALARS: dict[type, Any] = {
    inspect.StrType: "text",
    inspect.IntType: 1,
    inspect.FloatType: 0.5,
    inspect.BoolType: True,
    inspect.NoneType: None,
    inspect.AnyType: "anything",
}


def _member(union: inspect.UnionType, turn: int) -> Any:
    """The next choice. Null is none: where it is the default, the least sample has it."""
    kinds = [(one, getattr(one, "cls", type(one))) for one in union.types]
    members = [one for one, kind in kinds if kind not in NOT_SAMPLED] or [
        one
        for one, kind in kinds
        if kind is not items.InputAudio  # which no union of the package has
    ]
    return members[turn % len(members)]


def _object(kind: inspect.StructType, turn: int) -> Object:
    """Everything that is sent has an id and a status, also where what comes in may lack them. A null exit code is a
    client's own: the package knows none."""
    name = kind.cls.__name__
    made = {kind.tag_field: kind.tag} if kind.tag_field else {}
    for field in kind.fields:
        told = field.encode_name in {"id", "status", "exit_code"} or (name, field.encode_name) in TOLD
        if turn or field.required or told:
            settled = SETTLED.get((name, field.encode_name))
            made[field.encode_name] = sample(field.type, turn) if settled is None else settled
    return made


def assert_read_whole(adapter: TypeAdapter[Any], theirs: Any, value: Struct) -> None:
    sent = json.loads(codec.encode(value))
    read = adapter.validate_python(sent)
    assert type(read) is theirs
    assert adapter.dump_python(read, mode="json", exclude_unset=True, by_alias=True) == sent


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [pair for pair in PACKAGE_SENT if pair[1] is not responses.ResponseInputMessageItem],
    ids=lambda one: one.__name__,
)
def test_the_package_reads_all_that_is_sent(kind: type[Struct], theirs: Any) -> None:
    adapter = TypeAdapter(theirs)
    for value in samples(kind):
        assert_read_whole(adapter, theirs, value)


@pytest.mark.parametrize(("kind", "theirs"), PACKAGE_SENT_EVENTS, ids=lambda one: one.__name__)
def test_the_package_knows_every_event_by_its_type(kind: type[Struct], theirs: Any) -> None:
    for value in samples(kind):
        assert_read_whole(EVENT, theirs, value)


def test_the_package_reads_a_page_of_either_side_of_a_conversation() -> None:
    asked = items.Message(id="msg_1", status="completed", content=(items.InputText(text="?"),), role="user")
    answered = items.Message(id="msg_2", status="completed", content=(items.OutputText(text="!"),), role="assistant")
    page = resources.ItemList.of((asked, answered), has_more=False)
    read = TypeAdapter(response_item_list.ResponseItemList).validate_json(codec.encode(page))
    assert [type(one) for one in read.data] == [responses.ResponseInputMessageItem, responses.ResponseOutputMessage]


# -- what the tables say of the codec

PLACES: dict[type[Struct], Callable[[Object], Object]] = {
    **dict.fromkeys(get_args(items.InputItem), lambda item: {"input": [item]}),
    request.CreateResponse: lambda body: body,
    request.ReasoningOptions: lambda options: {"reasoning": options},
    request.TextOptions: lambda options: {"text": options},
    request.StreamOptions: lambda options: {"stream_options": options},
    **dict.fromkeys(get_args(tools.Tool), lambda tool: {"tools": [tool]}),
    **dict.fromkeys(get_args(tools.ToolChoice), lambda choice: {"tool_choice": choice}),
    **dict.fromkeys(get_args(formats.Format), lambda form: {"text": {"format": form}}),
    **dict.fromkeys(get_args(items.MessagePart), lambda part: {"input": [{"role": "user", "content": [part]}]}),
    wire.PromptUse: lambda prompt: {"prompt": prompt},
    wire.ConversationUse: lambda use: {"conversation": use},
    request.ContextManagement: lambda wish: {"context_management": [wish]},
    request.PromptCacheWish: lambda options: {"prompt_cache_options": options},
    items.ReasoningUpdate: lambda wish: PLACES[items.ConfigurationUpdate](
        least(items.ConfigurationUpdate) | {"reasoning": wish}
    ),
    tools.LocalEnvironment: lambda environment: {"tools": [{"type": "shell", "environment": environment}]},
    items.CacheBreakpoint: lambda mark: PLACES[items.InputText](
        {"type": "input_text", "text": "text", "prompt_cache_breakpoint": mark}
    ),
    items.ListedTool: lambda tool: PLACES[items.McpListTools](least(items.McpListTools) | {"tools": [tool]}),
    tools.McpFilter: lambda allowed: PLACES[tools.McpTool](least(tools.McpTool) | {"allowed_tools": allowed}),
    tools.McpApprovals: lambda rule: PLACES[tools.McpTool](least(tools.McpTool) | {"require_approval": rule}),
    actions.ShellAction: lambda action: PLACES[items.ShellCall](least(items.ShellCall) | {"action": action}),
    actions.LocalShellAction: lambda action: PLACES[items.LocalShellCall](
        least(items.LocalShellCall) | {"action": action}
    ),
    actions.SafetyCheck: lambda check: PLACES[items.ComputerCall](
        least(items.ComputerCall) | {"pending_safety_checks": [check]}
    ),
    **dict.fromkeys(
        get_args(actions.ComputerAction),
        lambda action: PLACES[items.ComputerCall](least(items.ComputerCall) | {"actions": [action]}),
    ),
    tools.WebFilters: lambda filters: {"tools": [{"type": "web_search", "filters": filters}]},
    tools.UserLocation: lambda place: {"tools": [{"type": "web_search", "user_location": place}]},
    **dict.fromkeys(
        get_args(web.WebAction),
        lambda action: PLACES[web.WebSearchCall](least(web.WebSearchCall) | {"action": action}),
    ),
    actions.ComputerScreenshot: lambda picture: PLACES[items.ComputerCallOutput](
        least(items.ComputerCallOutput) | {"output": picture}
    ),
}
"""Where in a request a value of a type goes."""
WAITS = "waits for later: the codec refuses any value but the default"
each_taken = pytest.mark.parametrize("surface", [one for one in SURFACES if not one.sent], ids=lambda one: one.name)


@each_taken
def test_a_null_that_a_schema_allows_is_taken_as_absent(surface: Surface) -> None:
    allowed = [(kind, name) for kind, theirs in surface.theirs() for name in theirs if NULL in theirs[name]]
    meaning = {(conversation.UpdateConversation, "metadata")}  # which takes away what there is
    assert {(kind, name) for kind, name in allowed if not null_is_absent(kind, name)} <= meaning
    assert (request.CreateResponse, "reasoning") in allowed


@each_taken
def test_what_waits_for_later_is_refused(surface: Surface) -> None:
    kinds = {kind.__name__: kind for kind, _ in surface.pairs}
    for line in DIFFERENCES[surface.name].get(WAITS, "").splitlines():
        place, finding = line.split(": ")
        kind, name = place.split(".")
        refused: list[Any] = re.findall("'(.+?)'", finding) or ["text" if finding == "lacks" else True]
        for value in refused:
            assert taken(kinds[kind], least(kinds[kind]) | {name: value}) is UnsupportedParameter, line


def null_is_absent(kind: type[Struct], name: str) -> bool:
    absent = least(kind)
    absent.pop(name, None)
    return taken(kind, absent | {name: None}) == taken(kind, absent)


def least(kind: type[Struct]) -> Object:
    value: Object = sample(inspect.type_info(kind), 0)
    return value


def taken(kind: type[Struct], value: Object) -> object:
    """What the codec makes of it, or the class of its refusal."""
    try:
        if kind in structs_of(conversation):
            return codec.decode_conversation(codec.encode(value), kind)
        return codec.decode_request(codec.encode(PLACES[kind](value)))
    except InvalidRequest as refused:
        return type(refused)


# -- the comparison can fail


class Part(Struct, tag_field="type", tag="one"):
    text: str


class Inner(Struct):
    count: int


class Sample(Struct, kw_only=True):
    given: str
    filled: int = 0
    left_out: bool | UnsetType = UNSET
    nullable: str | None = None
    chosen: Literal["a", "b"]
    parts: tuple[Part, ...] = ()
    inner: Inner | UnsetType = UNSET


def array_of(tag: str) -> Object:
    return {"type": "array", "items": {"type": "object", "properties": {"type": {"const": tag}}}}


STRING, NUMBER, INTEGER, BOOLEAN = ({"type": name} for name in ("string", "number", "integer", "boolean"))
NULLABLE_STRING = {"anyOf": [STRING, {"type": "null"}]}
AGREED: Object = {
    "given": STRING,
    "filled": INTEGER,
    "left_out": BOOLEAN,
    "nullable": NULLABLE_STRING,
    "chosen": {"enum": ["a", "b"]},
    "parts": array_of("one"),
    "inner": {"type": "object", "properties": {"count": INTEGER}},
}
REQUIRED = {True: ("given", "filled", "nullable", "chosen", "parts"), False: ("given", "chosen")}
"""Of what is sent, and of what is taken."""


def findings(*, sent: bool, required: tuple[str, ...] | None = None, **changed: Any) -> list[str]:
    required = REQUIRED[sent] if required is None else required
    properties = {name: field for name, field in (AGREED | changed).items() if field is not None}
    return list(compare(Sample, fields({"properties": properties, "required": required}, {}), sent=sent))


@pytest.mark.parametrize("sent", [True, False])
def test_types_that_agree_have_no_findings(sent: bool) -> None:
    assert findings(sent=sent) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"more": STRING}, ["Sample.more: lacks"]),
        ({"filled": None}, ["Sample.filled: extra"]),
        ({"required": (*REQUIRED[True], "left_out")}, ["Sample.left_out: +absent"]),
        ({"required": (*REQUIRED[True], "more"), "more": STRING}, ["Sample.more: +absent", "Sample.more: -string"]),
        ({"nullable": STRING}, ["Sample.nullable: +null"]),
        ({"chosen": {"enum": ["a", "c"]}}, ["Sample.chosen: +'b'", "Sample.chosen: -'c'"]),
        ({"given": INTEGER}, ["Sample.given: +string"]),
        ({"filled": NUMBER}, []),
        ({"parts": array_of("two")}, ["Sample.parts: +[{one}]", "Sample.parts: -[{two}]"]),
        ({"parts": {"type": "array", "items": STRING}}, ["Sample.parts: +[{one}]", "Sample.parts: -[string]"]),
        ({"parts": array_of("one")["items"]}, ["Sample.parts: +[{one}]", "Sample.parts: -{one}"]),
        ({"inner": STRING}, ["Sample.inner: +{}"]),
    ],
)
def test_sending_what_a_schema_does_not_allow_is_found(changed: Object, expected: list[str]) -> None:
    assert findings(sent=True, **changed) == expected


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"more": STRING}, ["Sample.more: lacks"]),
        ({"left_out": None}, ["Sample.left_out: extra"]),
        ({"required": REQUIRED[False][1:]}, ["Sample.given: -absent"]),
        ({"given": NULLABLE_STRING}, ["Sample.given: -absent"]),
        ({"left_out": {"anyOf": [BOOLEAN, {"type": "null"}]}}, []),
        ({"filled": NUMBER}, ["Sample.filled: -number"]),
        ({"chosen": STRING}, ["Sample.chosen: -string"]),
        ({"chosen": {"enum": ["a", "c"]}}, ["Sample.chosen: +'b'", "Sample.chosen: -'c'"]),
        ({"parts": {"anyOf": [array_of("one"), STRING]}}, ["Sample.parts: -string"]),
        ({"parts": array_of("program")}, ["Sample.parts: +[{one}]"]),  # refused by name
    ],
)
def test_refusing_what_a_schema_allows_is_found(changed: Object, expected: list[str]) -> None:
    assert findings(sent=False, **changed) == expected
