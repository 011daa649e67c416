"""Events, the numbered changes to a response, in OpenAI's wire. Knows nothing of their order.

All events about one piece of an item share the positional order (sequence_number, item_id, output_index, index, value),
so that the builder can make them from tables. Field order on the wire follows the recordings.
Source: openai 3.54.0 types/responses/response_stream_event.py; tests/recordings/openai-responses.
"""

from typing import TypeAlias

from msgspec import Struct

from antiphon.wire.items import Annotation, Logprob, MessagePart, OutputItem, ReasoningText, SummaryText
from antiphon.wire.response import Response


class EventBase(Struct, frozen=True, gc=False, tag_field="type"):
    """One numbered change to a response. There is one a token, and they hold no cycles to collect."""

    sequence_number: int


class Lifecycle(EventBase, frozen=True):
    """The response entered another state; carries it as it is then."""

    response: Response


class ResponseCreated(Lifecycle, frozen=True, tag="response.created"):
    pass


class ResponseQueued(Lifecycle, frozen=True, tag="response.queued"):
    """Of a background response alone."""


class ResponseInProgress(Lifecycle, frozen=True, tag="response.in_progress"):
    pass


class ResponseCompleted(Lifecycle, frozen=True, tag="response.completed"):
    pass


class ResponseIncomplete(Lifecycle, frozen=True, tag="response.incomplete"):
    """Also ends a cancelled response, whose `status` is then "cancelled": the API has no event for that."""


class ResponseFailed(Lifecycle, frozen=True, tag="response.failed"):
    pass


class ItemEvent(EventBase, frozen=True):
    output_index: int
    item: OutputItem


class OutputItemAdded(ItemEvent, frozen=True, tag="response.output_item.added"):
    pass


class OutputItemDone(ItemEvent, frozen=True, tag="response.output_item.done"):
    pass


class InItem(EventBase, frozen=True):
    item_id: str
    output_index: int


class InContent(InItem, frozen=True):
    content_index: int


class InSummary(InItem, frozen=True):
    summary_index: int


class ContentPartAdded(InContent, frozen=True, tag="response.content_part.added"):
    part: MessagePart | ReasoningText


class ContentPartDone(InContent, frozen=True, tag="response.content_part.done"):
    part: MessagePart | ReasoningText


class OutputTextDelta(InContent, frozen=True, tag="response.output_text.delta"):
    delta: str
    logprobs: tuple[Logprob, ...] = ()


class OutputTextDone(InContent, frozen=True, tag="response.output_text.done"):
    text: str
    logprobs: tuple[Logprob, ...] = ()


class AnnotationAdded(InContent, frozen=True, tag="response.output_text.annotation.added"):
    annotation_index: int
    annotation: Annotation


class RefusalDelta(InContent, frozen=True, tag="response.refusal.delta"):
    delta: str


class RefusalDone(InContent, frozen=True, tag="response.refusal.done"):
    refusal: str


class ReasoningTextDelta(InContent, frozen=True, tag="response.reasoning_text.delta"):
    delta: str


class ReasoningTextDone(InContent, frozen=True, tag="response.reasoning_text.done"):
    text: str


class SummaryPartAdded(InSummary, frozen=True, tag="response.reasoning_summary_part.added"):
    part: SummaryText


class SummaryPartDone(InSummary, frozen=True, tag="response.reasoning_summary_part.done"):
    part: SummaryText


class SummaryTextDelta(InSummary, frozen=True, tag="response.reasoning_summary_text.delta"):
    delta: str


class SummaryTextDone(InSummary, frozen=True, tag="response.reasoning_summary_text.done"):
    text: str


class ArgumentsDelta(InItem, frozen=True, tag="response.function_call_arguments.delta"):
    delta: str


class ArgumentsDone(InItem, frozen=True, tag="response.function_call_arguments.done"):
    arguments: str


class CustomInputDelta(InItem, frozen=True, tag="response.custom_tool_call_input.delta"):
    delta: str


class CustomInputDone(InItem, frozen=True, tag="response.custom_tool_call_input.done"):
    input: str


class McpArgumentsDelta(InItem, frozen=True, tag="response.mcp_call_arguments.delta"):
    delta: str


class McpArgumentsDone(InItem, frozen=True, tag="response.mcp_call_arguments.done"):
    arguments: str


class CompactionCompacting(InItem, frozen=True, tag="response.compaction.compacting"):
    """The model is summarising."""


class HostedStatus(Struct, frozen=True, gc=False):
    """A hosted call entered a status; `type` is `response.<item type>.<status>`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int


TaggedEvent: TypeAlias = (
    ResponseCreated
    | ResponseQueued
    | ResponseInProgress
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | OutputItemAdded
    | OutputItemDone
    | ContentPartAdded
    | ContentPartDone
    | OutputTextDelta
    | OutputTextDone
    | AnnotationAdded
    | RefusalDelta
    | RefusalDone
    | ReasoningTextDelta
    | ReasoningTextDone
    | SummaryPartAdded
    | SummaryPartDone
    | SummaryTextDelta
    | SummaryTextDone
    | ArgumentsDelta
    | ArgumentsDone
    | CustomInputDelta
    | CustomInputDone
    | McpArgumentsDelta
    | McpArgumentsDone
    | CompactionCompacting
)
Event: TypeAlias = TaggedEvent | HostedStatus
Terminal: TypeAlias = ResponseCompleted | ResponseIncomplete | ResponseFailed
TERMINAL = (ResponseCompleted, ResponseIncomplete, ResponseFailed)
